"""Compare document: one visitor's page of a comparison.

In: a comparison and a first state. Out: a Bokeh document with its views and controls wired. All state of a visitor is in the
`_ComparePage` of their document. What a visitor does becomes a new `CompareState`; every part then shows what it asks for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from bokeh.document import Document
from bokeh.events import DocumentReady
from bokeh.layouts import column, row
from bokeh.models import CustomJS, GlobalInlineStyleSheet, InlineStyleSheet, LayoutDOM

from qkspace.app import drift
from qkspace.app.address import Arguments, arguments_of
from qkspace.app.compare_controls import CompareControls, CompareHeader
from qkspace.app.compare_state import (
    ComparePage,
    CompareScene,
    CompareState,
    from_address,
    methods_of,
    modality_of,
    to_address,
)
from qkspace.app.controls import help_dialog
from qkspace.app.help import compare_help_html
from qkspace.app.language import spoken, strings
from qkspace.app.page import StatefulPage, found_by
from qkspace.app.scripts import script
from qkspace.app.style import root_css, variables_css
from qkspace.search import Hits

if TYPE_CHECKING:
    from qkspace.comparison.reader import Comparison

STEPS = (
    "page",
    "checkpoint",
    "layer",
    "head",
    "method",
    "measure",
    "overlay",
    "search",
    "selected",
    "sequence",
    "mode",
)


def make_compare_document(
    doc: Document,
    comparison: Comparison,
    *,
    arguments: Arguments | None = None,
    indexes: Sequence[str] = (),
    served: Mapping[str, str] | None = None,
    address: bool = True,
    **chosen: Any,  # parts of CompareState
) -> None:
    """Fill a document with the page of a comparison.

    Args:
        doc: an empty document; every visitor has one.
        comparison: what to show; shared by all visitors, only read.
        arguments: what the visitor's address asks for (`qkspace.app.compare_state`).
        indexes: names of all indexes and comparisons that are served, to choose among.
        served: checkpoint -> name under which its own index is served.
        address: keep the browser's address in step with what is shown, so that it can be sent to somebody.
        **chosen: parts of the first `CompareState`, such as checkpoint="step-60", layer=3; without layer and head it is
            the head that changed most.

    Raises:
        QKSpaceError: something is asked for that the comparison does not have.
    """
    arguments = arguments or {}
    first = _first(comparison, chosen)
    asked = from_address(arguments, first, comparison)
    page = _ComparePage(comparison, first, asked, list(indexes), served or {}, whole=address)
    doc.add_root(page.root)
    doc.title = f"{comparison.root.name} - qkspace"
    page.wire_document(doc, asks_theme="theme" not in arguments and "theme" not in chosen)


def _first(comparison: Comparison, chosen: dict[str, Any]) -> CompareState:
    """Return what a page of this comparison begins with: the last checkpoint and the head that changed most."""
    chosen = {name: value for name, value in chosen.items() if value is not None}
    label = comparison.entry(chosen.setdefault("checkpoint", comparison.labels[-1])).label
    if "layer" not in chosen and "head" not in chosen:
        table = comparison.head_drift(label)
        most = table.iloc[int(drift.order(table, "js")[0])]
        chosen["layer"], chosen["head"] = int(most["layer"]), int(most["head"])
    methods = methods_of(comparison)
    first = CompareState(**{"method": methods[0] if methods else "", **chosen})
    first = replace(first, language=spoken(first.language, modality_of(comparison)))
    comparison.base.head(first.layer, first.head)  # refuses what is not there
    return first


class _ComparePage(StatefulPage):
    """The parts and the state of one visitor."""

    def __init__(
        self,
        comparison: Comparison,
        first: CompareState,
        state: CompareState,
        indexes: list[str],
        served: Mapping[str, str],
        *,
        whole: bool,
    ) -> None:
        self.comparison, self.first, self.state, self.whole = comparison, first, state, whole
        self.is_pushed = False
        self.found: tuple[str, Hits | None, str] = ("", None, "")  # what was searched for last, and what came of it
        self.header = CompareHeader(comparison, state, indexes, served, self.change, whole=whole)
        self.controls = CompareControls(comparison, state, self.change)
        self.views: dict[ComparePage, Any] = {}
        self.help = help_dialog(compare_help_html(state.language))
        self.root = self._layout()
        self.root.on_change("tags", self._told)
        self._paint()
        self.show()

    def _layout(self) -> LayoutDOM:
        gap = {"gap": "10px"}
        side = {"overflow-y": "auto", "overflow-x": "hidden", "scrollbar-width": "thin", **gap}
        left = column(*self.controls.parts, width=236, sizing_mode="stretch_height", styles=side, margin=0)
        self.centre = column(sizing_mode="stretch_both", margin=0)
        variables = GlobalInlineStyleSheet(css=variables_css(self.state.theme, whole=self.whole))
        self.sheet = InlineStyleSheet(css=root_css(self.state.theme))
        return column(
            self.header.top,
            self.header.bar,
            self.header.of_hits,
            self.header.trouble,
            row(left, self.centre, sizing_mode="stretch_both", styles={**gap, "min-height": "0"}),
            self.help,
            sizing_mode="stretch_both",
            stylesheets=[variables, self.sheet],
            styles={"padding": "4px 12px 12px", "box-sizing": "border-box", "min-height": "480px"},
            tags=["", "", 0],
            name="page",
        )

    def wire_document(self, doc: Document, *, asks_theme: bool) -> None:
        """Add what runs in the browser: keys, tips, address, and what views draw there."""
        header, controls = self.header, self.controls
        named: dict[str, Any] = {"layer": controls.layer, "head": controls.head, "search": header.searching.field}
        named |= {"previous": header.searching.previous, "next": header.searching.next, "theme": header.theme}
        named |= {"pages": header.pages, "help": self.help, "page": self.root, "notebook": not self.whole}
        named |= {"more": [[",", controls.earlier], [".", controls.later]]}
        doc.js_on_event(DocumentReady, CustomJS(code=script("keys"), args=named))
        known = strings(self.state.language)
        tips = [[model, known[f"{model.name}_tip"]] for model in self.root.select({"name": str})
                if f"{model.name}_tip" in known]  # fmt: skip
        begin = {"page": self.root, "tips": tips, "asks_theme": asks_theme, "notebook": not self.whole}
        doc.js_on_event(DocumentReady, CustomJS(code=script("begin"), args={**begin, "title": header.title}))
        for view in self.views.values():  # what a view does once there is a document
            if hasattr(view, "measure"):
                view.measure()
            if hasattr(view, "draw"):
                doc.js_on_event(DocumentReady, view.draw)
        self.help.js_on_change("visible", CustomJS(code=script("help"), args={"help": self.help}))
        header.help.js_on_click(CustomJS(code="help.visible = !help.visible", args={"help": self.help}))
        if self.whole:
            header.title.js_on_change("tags", CustomJS(code=script("address"), args={"address": header.title}))

    # ---------------------------------------------------------------- changes

    def _do(self, what: str, value: Any) -> None:
        """Do what the browser says: the escape key, its wish for a dark theme, a button, or an address gone back to."""
        if what == "escape":
            self.change(selected=None)
        elif what == "theme":
            self.change(theme="dark" if value == "dark" else "light")
        elif what == "address":
            asked = from_address(arguments_of(str(value)), self.first, self.comparison)
            self._set(replace(asked, theme=self.state.theme), push=False)  # the theme is no step to go back to
        elif what == "go":
            asked = from_address(arguments_of(str(value)), self.state, self.comparison)
            self.change(**{f.name: getattr(asked, f.name) for f in fields(CompareState)})

    def change(self, **what: Any) -> None:
        """Take over a choice and show it; where a layer has fewer heads, its last one is chosen."""
        new = replace(self.state, **what)
        new = replace(new, head=min(new.head, self.comparison.base.layers[new.layer].n_heads - 1))
        self._set(new, push=any(getattr(new, name) != getattr(self.state, name) for name in STEPS))

    def show(self) -> None:
        """Let every part show what the state asks for; views that are not open wait until they are."""
        state = self.state
        if state.search != self.found[0]:
            self.found = (state.search, *found_by(self.comparison.base, state.search))
        _, hits, trouble = self.found
        scene = CompareScene(self.comparison, state, None if hits is None else hits.rows, trouble)
        self.header.show(scene, hits)
        view = self._view(state.page)
        view.show(scene)
        self.controls.show(scene, getattr(view, "sequence", None))
        for page, view in self.views.items():
            view.root.visible = page == state.page
        self.header.title.tags = [urlencode(to_address(state, self.first), errors="replace"), self.is_pushed]

    def _view(self, page: ComparePage) -> Any:
        """Return a view, built when it is first opened."""
        if page not in self.views:
            view = self.views[page] = _make_view(page)(self.comparison, self.state, self.change)
            view.paint(self.state.theme)
            self.centre.children = [*self.centre.children, view.root]
        return self.views[page]

    def painted(self) -> tuple[Any, ...]:
        """Return the parts that take the colours of a theme."""
        return (self.header, self.controls, *self.views.values())


def _make_view(page: ComparePage) -> Any:
    """Return the class of a view, loaded when it is first opened."""
    if page == "maps":
        from qkspace.app.views.two_maps import TwoMapsView

        return TwoMapsView
    if page == "atlas":
        from qkspace.app.views.drift_atlas import DriftAtlasView

        return DriftAtlasView
    if page == "sentence":
        from qkspace.app.views.difference import DifferenceView

        return DifferenceView
    from qkspace.app.views.drift import DriftView

    return DriftView
