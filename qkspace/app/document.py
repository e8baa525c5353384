"""Document: one visitor's page.

In: an index and a first state. Out: a Bokeh document with its views and controls wired. All state of a visitor is in the
`_Page` of their document. What a visitor does becomes a new `State`; every part then shows what it asks for.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, fields, replace
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from bokeh.document import Document
from bokeh.events import DocumentReady
from bokeh.layouts import column, row
from bokeh.models import ColumnDataSource, CustomJS, GlobalInlineStyleSheet, InlineStyleSheet, LayoutDOM

from qkspace.app import files, lists, select
from qkspace.app.address import Arguments, arguments_of
from qkspace.app.cards import Cards, Navigator, Sequences
from qkspace.app.controls import Controls, Header, help_dialog
from qkspace.app.help import help_html, tour_steps
from qkspace.app.language import say, spoken, strings
from qkspace.app.loop import held
from qkspace.app.page import StatefulPage, found_by
from qkspace.app.pictures import album_of
from qkspace.app.scripts import script
from qkspace.app.select import Scene, Shown, shown_of
from qkspace.app.state import Page, State, from_address, to_address
from qkspace.app.style import TOUR_CSS, root_css, variables_css
from qkspace.app.views.atlas import AtlasView
from qkspace.app.views.head import HeadView
from qkspace.app.views.heads import HeadsView
from qkspace.app.views.image import ImageView
from qkspace.app.views.map import MapView
from qkspace.app.views.plots import PlotsView
from qkspace.app.views.sentence import SentenceView
from qkspace.index import Index
from qkspace.schema import QKSpaceError
from qkspace.search import Hits

if TYPE_CHECKING:
    from qkspace.live import LiveSequence, LiveWorker

STEPS = (  # that one can go back
    *("page", "layer", "head", "method", "dims", "colour", "search", "selected", "sequence", "text", "pair", "order"),
    *("figure", "aspect", "plot", "averaged"),
)


VIEWS: dict[Page, Callable[..., Any]] = {
    "atlas": AtlasView,
    "heads": HeadsView,
    "plots": PlotsView,
    "head": HeadView,
}


@dataclass(slots=True)
class Reading:
    """A live sentence: what was asked for (text and pair), what the model made of it, and what is said while it has not."""

    asked: tuple[str, str]
    result: LiveSequence | None = None
    says: str = ""


@lru_cache(maxsize=4)
def worker_of(index: Index, model: str | None = None, trust_remote_code: bool = False) -> LiveWorker:
    """Return what runs the live sentences of all visitors of an index; the model is loaded with the first of them."""
    from qkspace.live import LiveWorker

    return LiveWorker(index, model, trust_remote_code=trust_remote_code)


def make_document(
    doc: Document,
    index: Index,
    *,
    arguments: Arguments | None = None,
    indexes: Sequence[str] = (),
    address: bool = True,
    model: str | None = None,
    trust_remote_code: bool = False,
    **chosen: Any,  # parts of State
) -> None:
    """Fill a document with the page of an index.

    Args:
        doc: an empty document; every visitor has one.
        index: what to show; shared by all visitors, only read.
        arguments: what the visitor's address asks for (`qkspace.app.state`).
        indexes: names of all indexes that are served, to choose among.
        address: keep the browser's address in step with what is shown, so that it can be sent to somebody.
        model: where the model of live sentences is, where that is not where it was when the index was made.
        trust_remote_code: let that model run code of its own.
        **chosen: parts of the first `State`, such as layer=3, head=5, theme="dark"; without layer and head it is the
            head whose map says most about ordinary words.

    Raises:
        QKSpaceError: something is asked for that the index does not have, or it has no map in the plane.
    """
    shown = shown_of(index)
    arguments = arguments or {}
    first = _first(shown, chosen)
    asked = from_address(arguments, first, shown)
    page = _Page(shown, first, asked, list(indexes), whole=address)
    page.worker = partial(worker_of, index, model, trust_remote_code)
    doc.add_root(page.root)
    doc.title = f"{index.model_name} - qkspace"
    page.wire_document(doc, asks_theme="theme" not in arguments and "theme" not in chosen)


def _first(shown: Shown, chosen: dict[str, Any]) -> State:
    """Return what a page of this index begins with."""
    if not shown.methods:
        raise QKSpaceError(f"{shown.index.root} has no map in the plane, which the page draws. Build it with --dims 2.")
    chosen = {name: value for name, value in chosen.items() if value is not None}
    if "layer" not in chosen and "head" not in chosen:
        chosen["layer"], chosen["head"] = shown.most_faithful()
    first = State(**{"method": shown.methods[0], **chosen})
    first = replace(first, language=spoken(first.language, shown.subject))
    shown.index.head(first.layer, first.head)  # refuses what is not there
    return first


class _Page(StatefulPage):
    """The parts and the state of one visitor."""

    def __init__(self, shown: Shown, first: State, state: State, indexes: list[str], *, whole: bool) -> None:
        self.shown, self.index, self.first, self.state, self.whole = shown, shown.index, first, state, whole
        self.turn, self.is_pushed = 0, False
        self.live = Reading(("", ""))
        self.found: tuple[str, Hits | None, str] = ("", None, "")  # what was searched for last, and what came of it
        self.worker: Callable[[], LiveWorker] = partial(worker_of, shown.index)
        self.place = ColumnDataSource({"name": [""], "map": [""], "turn": [0]})
        self.header = Header(shown, state, indexes, self.change, self.export, whole=whole)
        self.controls = Controls(shown, state, self.change)
        self.navigator = Navigator(shown, state, self.change)
        self.sequences = Sequences(shown, state, self.change)
        self.cards = Cards(shown, state, self.change)
        self.views: dict[Page, Any] = {}
        self.help = help_dialog(help_html(state.language))
        self.root = self._layout()
        self.root.on_change("tags", self._told)
        self._paint()
        self.show()

    def _layout(self) -> LayoutDOM:
        gap = {"gap": "10px"}
        side = {"overflow-y": "auto", "overflow-x": "hidden", "scrollbar-width": "thin", **gap}
        left = column(
            *(self.controls.root, self.sequences.root, *self.navigator.parts),
            width=272,
            sizing_mode="stretch_height",
            styles=side,
            margin=0,
        )
        self.right = column(*self.cards.parts, width=330, sizing_mode="stretch_height", styles=side, margin=0)
        self.centre = column(sizing_mode="stretch_both", margin=0)
        variables = GlobalInlineStyleSheet(css=variables_css(self.state.theme, whole=self.whole))
        self.sheet = InlineStyleSheet(css=root_css(self.state.theme))
        return column(
            self.header.top,
            self.header.bar,
            self.header.trouble,
            row(left, self.centre, self.right, sizing_mode="stretch_both", styles={**gap, "min-height": "0"}),
            self.help,
            sizing_mode="stretch_both",
            stylesheets=[variables, self.sheet],
            styles={"padding": "4px 12px 12px", "box-sizing": "border-box", "min-height": "480px"},
            tags=["", "", 0],
            name="page",
        )

    def wire_document(self, doc: Document, *, asks_theme: bool) -> None:
        """Add what runs in the browser (keys, tips, tour, address, files), and let the model read what the address asks for."""
        named = {"layer": self.controls.layer, "head": self.controls.head, "search": self.header.search}
        named |= {"previous": self.header.previous, "next": self.header.next, "theme": self.header.theme}
        named |= {"pages": self.header.pages, "help": self.help, "page": self.root, "notebook": not self.whole}
        named |= {"more": []}
        doc.js_on_event(DocumentReady, CustomJS(code=script("keys"), args=named))
        tips = [[model, tip] for model in self.root.select({"name": str}) if (tip := self._tip(model.name))]
        begin = {"page": self.root, "tips": tips, "asks_theme": asks_theme, "notebook": not self.whole}
        doc.js_on_event(DocumentReady, CustomJS(code=script("begin"), args={**begin, "title": self.header.title}))
        doc.js_on_event(DocumentReady, CustomJS(code=script("tour"), args=self._tour()))
        for page in ("head", "heads"):
            if page in self.views:
                self.views[page].measure()
        if "sentence" in self.views:
            doc.js_on_event(DocumentReady, self.draw_sentence)
        if self.live.asked[0]:
            self._submit()
        file, address = self.header.export, self.header.title  # whose tags carry these to the browser
        file.js_on_change("tags", CustomJS(code=script("download"), args={"file": file}))
        self.help.js_on_change("visible", CustomJS(code=script("help"), args={"help": self.help}))
        self.header.help.js_on_click(CustomJS(code="help.visible = !help.visible", args={"help": self.help}))
        if self.whole:
            address.js_on_change("tags", CustomJS(code=script("address"), args={"address": address}))

    def _tour(self) -> dict[str, Any]:
        """Return what the tour needs: the parts it points at with what is inside them, and its sentences."""
        says = {name: say(self.state.language, f"tour_{name}") for name in ("next", "skip", "done", "step")}
        parts: list[tuple[Any, str]] = [
            (self.centre, ""),
            (self.cards.token, ""),
            (self.controls.pick, ""),
            (self.cards.head, ".badge"),
            (self.header.search, ""),
        ]
        steps = [[*part, text] for part, text in zip(parts, tour_steps(self.state.language), strict=True)]
        named = {"page": self.root, "help": self.help, "pages": self.header.pages, "notebook": not self.whole}
        return {**named, "steps": steps, "says": says, "css": TOUR_CSS}

    def _tip(self, name: str | None) -> str | None:
        return strings(self.state.language).get(f"{name}_tip")

    # ---------------------------------------------------------------- changes

    def _do(self, what: str, value: Any) -> None:
        """Do what the browser says: the escape key, its wish for a dark theme, a button, or an address gone back to."""
        if what == "escape":
            self.change(selected=None, region=())
        elif what == "theme":
            self.change(theme="dark" if value == "dark" else "light")
        elif what == "address":
            asked = from_address(arguments_of(str(value)), self.first, self.shown)
            self._set(replace(asked, theme=self.state.theme), push=False)  # the theme is no step to go back to
        elif what == "view" and "sentence" in self.views:
            self.views["sentence"].told(value)
        elif what == "need" and "sentence" in self.views:
            self.views["sentence"].need(int(value))
        elif what == "go":
            asked = from_address(arguments_of(str(value)), self.state, self.shown)
            both = {f.name: (getattr(asked, f.name), getattr(self.state, f.name)) for f in fields(State)}
            self.change(**{name: new for name, (new, old) in both.items() if new != old})

    def change(self, **what: Any) -> None:
        """Take over a choice and show it; what the new layer or map does not have becomes what is nearest to it."""
        new = replace(self.state, **what)
        new = replace(new, head=min(new.head, self.index.layers[new.layer].n_heads - 1))
        if new.dims not in self.shown.dims(new.method):
            new = replace(new, dims=2)
        if any(
            getattr(new, name) != getattr(self.state, name)
            for name in ("layer", "head", "method", "dims", "yaw", "pitch")
        ):
            new = replace(new, region=what.get("region", ()))  # its corners are of the map as it was
        push = any(getattr(new, name) != getattr(self.state, name) for name in STEPS)
        self._set(new, push=push)

    def show(self) -> None:
        """Let every part show what the state asks for; views that are not open wait until they are."""
        state = self.state
        self.turn += 1
        scene = self._scene()
        for part in (self.header, self.controls, self.sequences, self.navigator, self.cards, self._view(state.page)):
            part.show(scene)
        for page, view in self.views.items():
            view.root.visible = page == state.page
        self.right.visible = state.page in ("map", "sentence")
        self.header.title.tags = [urlencode(to_address(state, self.first), errors="replace"), self.is_pushed]
        name, turn = self.shown.head(state).name, self.turn  # a turn always differs: what stays the same is not sent
        self.place.data = {
            "name": [name],
            "map": [f"{state.method}{state.dims}"],
            "turn": [turn],
        }  # last: the map waits for it

    def _scene(self) -> Scene:
        """Work out what all parts show; a search that cannot be understood is told, and finds nothing."""
        state = self.state
        if state.search != self.found[0]:
            self.found = (state.search, *found_by(self.index, state.search))
        _, hits, trouble = self.found
        self._live()
        live = self.live.result
        said = self.live.says if live is None else lists.live_says(live, self.shown, state)
        return Scene(
            self.shown, state, select.colouring(self.shown, state), hits, live, trouble=trouble, live_says=said
        )

    def _live(self) -> None:
        """Let the model read the sentence that the state asks for, if it has not, in a thread of its own."""
        is_read = self.shown.reads_texts  # images are not typed
        asked = (self.state.text.strip(), self.state.pair.strip()) if is_read else ("", "")
        if asked == self.live.asked:
            return
        self.live = Reading(asked)
        if not asked[0]:
            self.live = Reading(("", ""))
            return
        self.live.says = say(self.state.language, "live_loading")
        if self.root.document is not None:  # else an address asks for it; `wire_document` lets it be read
            self._submit()

    def _submit(self) -> None:
        """Let the model read what is asked for; `_read` shows it."""
        document, asked = self.root.document, self.live.asked
        session = document.session_context

        def arrived(future: Future[LiveSequence]) -> None:
            if session is None or not session.destroyed:  # else the visitor has gone
                document.add_next_tick_callback(lambda: self._read(asked, future))

        self.worker().submit(asked[0], asked[1] or None, arrived, visitor=id(self))

    def _read(self, asked: tuple[str, str], future: Future[LiveSequence]) -> None:
        """Show what the model read, or why it did not."""
        if asked != self.live.asked or future.cancelled():
            return
        error = future.exception()
        if error is not None:
            self.live.says = str(error) or type(error).__name__
        else:
            self.live.result = future.result()
        held(self.root.document, self.show)
        if error is not None and not isinstance(error, QKSpaceError):
            raise error  # a fault of the program, for its log

    def _view(self, page: Page) -> Any:
        """Return a view, built when it is first opened."""
        if page not in self.views:
            if page == "map":
                self.views[page] = MapView(self.shown, self.state, self.change, self.place)
            else:
                album = album_of(self.index)
                of_sequence = SentenceView if album is None else partial(ImageView, album=album)
                self.views[page] = VIEWS.get(page, of_sequence)(self.shown, self.state, self.change)
                if page == "sentence":
                    self.draw_sentence = self.views[page].wire(self.root, self.place)
            self.views[page].paint(self.state.theme)
            self.centre.children = [*self.centre.children, self.views[page].root]
        return self.views[page]

    def export(self, kind: str) -> None:
        """Hand the visitor a file of what is shown."""
        try:
            name, mime, content = files.make(kind, self._scene())
        except QKSpaceError as error:
            self.header.complain(str(error))
            return
        self.turn += 1
        self.header.export.tags = [name, mime, b64encode(content).decode("ascii"), self.turn]

    def painted(self) -> tuple[Any, ...]:
        """Return the parts that take the colours of a theme."""
        return (self.header, self.controls, self.navigator, *self.views.values())
