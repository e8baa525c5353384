"""Heads: what every head does, each a dot.

In: a `Scene`. Out: one of the figures of `State.figure` with the choices that it has, a sentence that explains it, and what its
colours mean. A click on a dot opens its head. What has not been measured is said, with the command that measures it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from html import escape
from typing import Any, Protocol, get_args

import pandas as pd
from bokeh.layouts import column, row
from bokeh.models import (
    CheckboxGroup,
    CustomJS,
    Div,
    Dropdown,
    InlineStyleSheet,
    LayoutDOM,
    RadioButtonGroup,
    Select,
    Spacer,
)
from bokeh.plotting import figure

from qkspace.app import heads_bars, heads_curves, heads_data, heads_panels, heads_words
from qkspace.app.figures_heads import Dots, side_by_side, stacked
from qkspace.app.figures_heads_bars import Rows
from qkspace.app.figures_heads_profile import ProfileCurves, ProfileHeat
from qkspace.app.figures_heads_tree import TreeFigure
from qkspace.app.heads_look import Look, look_of
from qkspace.app.language import say
from qkspace.app.loop import beside, held
from qkspace.app.scripts import script
from qkspace.app.select import Scene, Shown
from qkspace.app.state import Figure, State
from qkspace.app.style import CARD_CSS, HEADS_CSS, PANEL, WIDGET_CSS
from qkspace.schema import QKSpaceError

FIGURES: tuple[Figure, ...] = get_args(Figure)
STICKS = "max(330px, 100cqh)"  # height of what stays in view beside what scrolls: of all that is seen of the body


class Part(Protocol):
    """A piece of a figure. look: colours of the dots; mark: the chosen head; paint: a theme."""

    root: LayoutDOM

    def look(self, look: Look) -> None: ...  # noqa: D102
    def mark(self, layer: int, head: int) -> None: ...  # noqa: D102
    def paint(self, theme: str) -> None: ...  # noqa: D102


class Words:
    """A card of words in the place of a figure, or beside one."""

    def __init__(self, text: str, *, width: int | None = None) -> None:
        """Make the card; text: HTML; width: in pixels, of one that stands beside a figure."""
        size: dict[str, Any] = (
            {"width": width, "sizing_mode": "stretch_height"} if width else {"sizing_mode": "stretch_width"}
        )
        scroll = {"overflow-y": "auto", "scrollbar-width": "thin"} if width else {}
        self.root: LayoutDOM = Div(
            text=text, stylesheets=[InlineStyleSheet(css=CARD_CSS)], styles=scroll, margin=0, **size
        )

    def look(self, look: Look) -> None:
        """Nothing: words have no dots."""

    def mark(self, layer: int, head: int) -> None:
        """Nothing, likewise."""

    def paint(self, theme: str) -> None:
        """Nothing: words take their colours from the page."""


def one_scale(figures: Sequence[figure]) -> None:
    """Give figures the same axis of y, as long as all that they show needs."""
    low, high = (end(getattr(each.y_range, name) for each in figures) for end, name in ((min, "start"), (max, "end")))
    for each in figures:
        each.y_range.update(start=low, end=high, reset_start=low, reset_end=high)


def sticking(root: LayoutDOM) -> LayoutDOM:
    """Return what stays in view while what is beside it scrolls."""
    root.styles = {**root.styles, "position": "sticky", "top": "0", "max-height": STICKS}
    return root


class HeadsView:
    """The figures of what heads do, one at a time."""

    def __init__(self, shown: Shown, state: State, change: Callable[..., None]) -> None:
        """Make the choices; figures are drawn when they are first asked for."""
        self.shown, self.change, self.language = shown, change, state.language
        self.say = partial(say, state.language)
        self.state = state
        self.scene: Scene | None = None
        self.drawn: tuple[Any, ...] | None = None
        self.coloured: tuple[Any, ...] | None = None
        self.parts: list[Part] = []
        self.is_asked = False  # whether what takes long is being measured
        self.is_drawing = False
        self.trouble = ""
        self.distances: dict[str, pd.DataFrame] | None = None
        scroll = {"overflow-y": "auto", "overflow-x": "hidden", "scrollbar-width": "thin", "min-height": "0"}
        scroll["container-type"] = "size"  # of which STICKS is a share
        self.body = column(sizing_mode="stretch_both", styles=scroll, margin=0, name="heads_body")
        self._make_choices(state)
        self.root = column(
            *(self.figure, self.choices, self.note, self.legend, self.body),
            sizing_mode="stretch_both",
            styles={**PANEL, "padding": "8px 10px", "gap": "6px"},
            margin=0,
            name="heads_view",
        )

    def _make_choices(self, state: State) -> None:
        common: dict[str, Any] = {"stylesheets": [InlineStyleSheet(css=WIDGET_CSS)], "margin": 0}
        t, change = self.say, self.change
        self.figure = RadioButtonGroup(
            labels=[t(f"figure_{name}") for name in FIGURES],
            active=FIGURES.index(state.figure),
            name="figure",
            **common,
        )
        self.figure.on_change("active", lambda _attr, _old, new: self._open_figure(FIGURES[new]))
        choices = list(heads_data.colour_choices(self.shown, self.language).items())
        self.by = Select(title=t("by"), value=state.by, options=choices, width=250, name="by", **common)
        self.by.on_change("value", lambda _attr, _old, new: change(by=new))
        self.aspect = Select(title=t("aspect"), value=state.aspect, options=[""], width=290, name="aspect", **common)
        self.aspect.on_change("value", lambda _attr, _old, new: change(aspect=new))
        low = common | {"align": "end"}
        self.weighted = CheckboxGroup(labels=[t("weighted")], width=210, name="weighted", **low)
        self.weighted.on_change("active", lambda _attr, _old, new: change(weighted=bool(new)))
        kinds = ("png", "svg")
        menu = [(t(f"export_{kind}"), kind) for kind in kinds]
        self.save = Dropdown(label=t("figure_save"), menu=menu, width=120, name="figure_save", **low)
        args = {"button": self.save, "body": self.body}
        code = f"const kind = cb_obj.item\n{script('figure_save')}"
        self.save.js_on_event("menu_item_click", CustomJS(args=args, code=code))
        for control in (
            self.figure,
            self.by,
            self.aspect,
            self.weighted,
            self.save,
        ):  # which may be made after the page was loaded
            control.html_attributes = {"title": heads_words.tip(control.name or "", state.language)}
        sheet = InlineStyleSheet(css=CARD_CSS + HEADS_CSS)
        words: dict[str, Any] = {"stylesheets": [sheet], "sizing_mode": "stretch_width", "margin": 0}
        self.legend = Div(name="heads_legend", **words)
        self.note = Div(name="heads_note", **words)
        parts = (self.aspect, self.by, self.weighted, Spacer(sizing_mode="stretch_width", height=1), self.save)
        self.choices = row(*parts, sizing_mode="stretch_width", styles={"gap": "12px"}, margin=0)

    def _open_figure(self, figure: Figure) -> None:
        if figure != self.state.figure:  # else the page said so
            self.change(figure=figure, aspect="")

    def _opens(self, layer: int, head: int) -> None:
        self.change(page="head", layer=layer, head=head)

    # ---------------------------------------------------------------- what is shown

    def show(self, scene: Scene) -> None:
        """Draw the figure where it has changed, colour its dots and mark the chosen head."""
        self.scene, self.state = scene, scene.state
        state = scene.state
        known = heads_data.aspects(self.shown, state.figure, self.language)
        aspect = state.aspect if state.aspect in known else ""
        self._show_choices(state, known, aspect)
        now = (state.figure, aspect, state.weighted)
        if now != self.drawn:
            self.drawn, self.coloured = now, None
            self._draw(state, aspect)
            self.by.visible = self.legend.visible = any(isinstance(part, Dots) for part in self.parts)
        if self.coloured != (state.by, state.theme):
            self.coloured = (state.by, state.theme)
            look = look_of(self.shown, state.by, state.theme, self.language)
            self.legend.text = f'<div class="kinds">{look.legend}</div>'
            for part in self.parts:
                part.look(look)
        for part in self.parts:
            part.mark(state.layer, state.head)

    def _show_choices(self, state: State, known: dict[str, str], aspect: str) -> None:
        self.figure.active, self.by.value = FIGURES.index(state.figure), state.by
        self.aspect.title = self.say(f"aspect_of_{state.figure}") if len(known) > 1 else self.say("aspect")
        self.aspect.options, self.aspect.value = list(known.items()), aspect
        self.aspect.visible = len(known) > 1
        self.weighted.active = [0] if state.weighted else []
        surface = heads_data.table_of(self.shown.index, "surface")
        self.weighted.visible = state.figure == "where" and surface is not None and "attention_by_value" in surface

    def _draw(self, state: State, aspect: str) -> None:
        """Make the figure anew."""
        make: dict[Figure, Callable[[str], LayoutDOM]] = {
            "where": self._where,
            "entropy": self._entropy,
            "profile": self._profile,
            "among": self._among,
            "relations": self._relations,
            "coreference": self._coreference,
            "behaviours": self._behaviours,
            "matters": self._matters,
        }
        self.parts, self.is_drawing = [], True
        drawn = make[state.figure](aspect)  # which may measure what the note tells of
        tables = self._distance_tables() if state.figure == "among" else None
        told = None if tables is None else tables["distances"]
        self.note.text = heads_words.note(self.shown, state.figure, aspect, self.language, told)
        self.save.tags = ["-".join(filter(None, (self.shown.index.root.name, "heads", state.figure, aspect)))]
        self.save.visible = not all(isinstance(part, Words) for part in self.parts)
        self.body.children = [drawn]
        self.is_drawing = False
        self.paint(state.theme)

    def _add(self, part: Part) -> LayoutDOM:
        self.parts.append(part)
        return part.root

    def _dots(self, panels: list[heads_data.Panel], **options: Any) -> LayoutDOM:
        return self._add(Dots(self.shown.head_table[["layer", "head"]], panels, self.language, self._opens, **options))

    def _words(self, text: str, **options: Any) -> LayoutDOM:
        return self._add(Words(text, **options))

    def _missing(self, name: str) -> LayoutDOM:
        return self._words(heads_words.missing(self.shown, name, self.language))

    def _where(self, aspect: str) -> LayoutDOM:
        panels = heads_panels.where_panels(self.shown, aspect, weighted=self.state.weighted, language=self.language)
        drawn = self._dots(panels)
        if heads_data.table_of(self.shown.index, "surface") is not None:
            return drawn
        return stacked(self._words(heads_words.old(self.shown, self.language)), drawn)

    def _entropy(self, _aspect: str) -> LayoutDOM:
        return self._dots(heads_panels.entropy_panels(self.shown, self.language))

    def _profile(self, aspect: str) -> LayoutDOM:
        found = heads_curves.profiles(self.shown)
        if found is None:
            return self._words(heads_words.old(self.shown, self.language))
        make = ProfileHeat if aspect else ProfileCurves
        return self._add(make(self.shown.head_table[["layer", "head"]], found, self.language, self._opens))

    def _behaviours(self, _aspect: str) -> LayoutDOM:
        panels = heads_panels.behaviour_panels(self.shown, self.language)
        return self._dots(panels) if panels else self._missing("behaviours")

    def _matters(self, aspect: str) -> LayoutDOM:
        parts = [self._words(f'<p class="small"><b>{escape(self.say("matters_proves"))}</b></p>')]
        if panels := heads_panels.matters_panels(self.shown, aspect, self.language):
            is_one = len({panel.y_name for panel in panels}) == 1  # else one above the other, each with its own axis
            heads = self.shown.head_table[["layer", "head"]]
            dots = Dots(heads, panels, self.language, self._opens, across=None if is_one else 1)
            if is_one:
                one_scale(dots.figures)
            parts.append(self._add(dots))
        for name in heads_data.ABLATIONS:
            if heads_data.table_of(self.shown.index, name) is None:
                says = heads_words.missing(self.shown, name, self.language)
                parts.append(self._words(f'<div style="margin-top:8px">{says}</div>'))
        return stacked(*parts)

    def _relations(self, aspect: str) -> LayoutDOM:
        bars = heads_bars.relation_bars(self.shown.index, self.language)
        if bars is None or heads_data.table_of(self.shown.index, "relations-all") is None:
            return self._missing("relations")
        best = self._add(Rows([bars], self.language, self._opens, axis="axis_accuracy"))
        every = self._dots([heads_panels.relation_panel(self.shown, aspect, self.language)])
        return side_by_side(best, sticking(every), gap=10)

    def _coreference(self, _aspect: str) -> LayoutDOM:
        panels = heads_panels.coreference_panels(self.shown, self.language)
        groups = heads_bars.coreference_bars(self.shown.index, self.language)
        chains: list[LayoutDOM] = [self._missing("coreference")]
        if panels and groups:
            bars = self._add(Rows(groups, self.language, self._opens, axis="axis_accuracy", across=2))
            chains = [side_by_side(bars, self._dots(panels), gap=10)]
        probes = heads_bars.probe_bars(self.shown.index, self.language)
        lacks = probes is None and heads_words.lacks(self.shown, "probes")
        told = "" if lacks else f'<p class="small muted">{escape(self.say("note_probes"))}</p>'
        trees = [self._words(f"<h2>{escape(self.say('panel_probes'))}</h2>{told}")]
        if probes is None:
            trees.append(self._missing("probes"))
        else:
            trees.append(self._add(Rows([probes], self.language, self._opens, axis="axis_uas", here=False)))
        return stacked(*chains, *trees)

    # ---------------------------------------------------------------- heads among heads

    def _among(self, aspect: str) -> LayoutDOM:
        tables = self._distance_tables()
        if tables is None:
            self.measure()
            tables = self._distance_tables()  # without a server it has been measured at once
        if tables is None:
            return self._words(heads_words.measuring(self.shown, self.trouble, self.language))
        distances, heads = tables["distances"], self.shown.head_table[["layer", "head"]]
        drawn = self._dots([heads_panels.among_panel(self.shown, distances, aspect, self.language)])
        tree = heads_curves.tree_of(self.shown, distances, tables["distances-tree"])
        tips = heads_data.nearest_tips(self.shown, distances, self.language)
        leaves = self._add(TreeFigure(heads, tree, tips, self.language, self._opens))
        pairs = self._words(heads_words.pairs(tables["distances-redundant"], self.language), width=190)
        return side_by_side(sticking(drawn), leaves, sticking(pairs), gap=10)

    def _distance_tables(self) -> dict[str, pd.DataFrame] | None:
        """Return what is known of how far heads are apart: of the index, or measured for this page."""
        names = ("distances", "distances-tree", "distances-redundant")
        kept = {name: table for name in names if (table := heads_data.table_of(self.shown.index, name)) is not None}
        return kept if len(kept) == len(names) else self.distances

    def measure(self) -> None:
        """Measure how far heads are apart where the open figure needs it, beside the server's loop."""
        document = self.root.document
        if self.state.figure != "among" or self.is_asked or self._distance_tables() is not None or document is None:
            return
        self.is_asked = True

        def work() -> str:
            try:
                self.distances = heads_data.measured_distances(self.shown.index)
            except QKSpaceError as error:
                return str(error)
            return ""

        def tell(trouble: str) -> None:
            self.trouble, self.is_asked = trouble, False
            if self.state.figure == "among" and self.scene is not None and not self.is_drawing:
                self.drawn = None
                held(document, partial(self.show, self.scene))

        beside(document, work, tell, takes_long=True)

    def paint(self, theme: str) -> None:
        """Take on the colours of a theme."""
        for part in self.parts:
            part.paint(theme)
