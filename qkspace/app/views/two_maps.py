"""Two maps: a head before and after tuning, side by side or on one map with arrows.

In: a `CompareScene`. Out: the figures and their data sources, which this module alone writes. Both maps hold the same units
in the same order, so that the browser can mark the unit under the mouse on both by itself.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from html import escape
from typing import Any

import numpy as np
import pandas as pd
from bokeh.events import Tap
from bokeh.layouts import column, row
from bokeh.models import (
    ColumnDataSource,
    Div,
    InlineStyleSheet,
    RadioButtonGroup,
    Range1d,
    Select,
    Slider,
)
from bokeh.plotting import figure

from qkspace.app import compare_select as chosen
from qkspace.app import figures_two_maps, two_maps_words
from qkspace.app.colours import QUERY_KEY, Colouring
from qkspace.app.compare_select import RECEIVED, SIDES, Clicked, Pair, SideName
from qkspace.app.compare_state import CompareScene, CompareState
from qkspace.app.figures import CLICK_PIXELS, renderer
from qkspace.app.language import say
from qkspace.app.loop import beside, held
from qkspace.app.select import FAINT, KINDS, Links
from qkspace.app.state import MAX_LINKS
from qkspace.app.style import CARD_CSS, PANEL, THEMES, WIDGET_CSS
from qkspace.comparison.reader import Comparison
from qkspace.schema import BoolArray, QKSpaceError

Data = dict[str, Any]
USUAL_WIDTH = 600  # pixels of a frame, until the browser tells
LEGEND_CSS = """
:host { font-size: 12px; }
.legend { display: flex; flex-wrap: wrap; align-items: center; gap: 2px 12px; }
.legend .ends { display: inline-flex; align-items: center; gap: 7px; white-space: nowrap; }
.legend .scale { width: 130px; margin: 0; }
.legend h2 { margin: 0; }
"""


class TwoMapsView:
    """The maps of one head in two checkpoints."""

    def __init__(self, comparison: Comparison, state: CompareState, change: Callable[..., None]) -> None:
        """Make the controls; the figures come with the first scene."""
        self.comparison, self.change = comparison, change
        self.scene: CompareScene | None = None
        self.pair: Pair | None = None
        self.strong: BoolArray | None = None
        self.drawn: tuple[Any, ...] = ()  # which maps were written last
        self.told: tuple[Any, ...] = ()  # of which units the browser knows the texts
        self.common: bool | None = None  # what the figures were made for
        self.received: tuple[str, int, int] | None = None  # checkpoint, layer, head whose keys have been measured
        self.sources: dict[str, ColumnDataSource] = {}
        self.plots: dict[SideName, figure] = {}
        self.links: dict[SideName, Links] = {}
        self.width: dict[SideName, int] = {}  # of each frame in pixels, once the browser has told it
        self.controls = _Controls(comparison, state, change)
        self.maps = row(sizing_mode="stretch_both", styles={"gap": "8px"}, margin=0, name="two_maps")
        sheet = InlineStyleSheet(css=CARD_CSS)
        self.says = Div(name="two_maps_says", sizing_mode="stretch_width", margin=0, stylesheets=[sheet])
        parts = (self.controls.root, self.maps, self.says)
        styles = {**PANEL, "padding": "8px 10px", "gap": "6px"}
        self.root = column(*parts, sizing_mode="stretch_both", styles=styles, margin=0)

    # ---------------------------------------------------------------- what the visitor does

    def _tap(self, name: SideName, event: Tap) -> None:
        """Choose the point that was clicked, or nothing."""
        if self.scene is None or self.pair is None or event.x is None or event.y is None:
            return
        names: tuple[SideName, ...] = ("tuned", "base") if self._is_overlay() else (name,)
        radius = CLICK_PIXELS * self._pixel(name)
        found = chosen.nearest(self.pair, names, float(event.x), float(event.y), radius, self.strong)
        if found is None:
            self.change(selected=None)
        else:
            self.change(selected=(found[0], int(self.pair.units.row["base"][found[1]])))

    def _resized(self, name: SideName, _attr: str, _old: Any, new: int) -> None:
        self.width[name] = int(new or 0)

    def _pixel(self, name: SideName, *, moved: bool = False) -> float:
        """Return the size of a pixel in units of a map, or about that where the browser has not fitted it yet (`moved`)."""
        plot, width = self.plots[name], self.width.get(name, 0)
        if width and not moved:
            return abs(float(plot.x_range.end) - float(plot.x_range.start)) / width
        frame = self.sources[f"{name}_frame"].data
        return float(max(np.ptp(frame["x"]), np.ptp(frame["y"]))) / USUAL_WIDTH

    def _is_overlay(self) -> bool:
        return self.scene is not None and self.pair is not None and self.scene.state.overlay and self.pair.common

    # ---------------------------------------------------------------- what is shown

    def show(self, scene: CompareScene) -> None:
        """Write what the state asks for; places are only sent when another head or checkpoint moved them."""
        self.scene, state = scene, scene.state
        try:
            moved = self._look(state)
        except QKSpaceError as error:
            self.pair, self.drawn, self.maps.visible = None, (), False
            self.controls.show(scene, None, None)
            self.says.text = f'<p class="poor">{escape(str(error))}</p>'
            return
        assert self.pair is not None  # `_look` has seen to it
        pair, self.maps.visible = self.pair, True
        if self.common != pair.common:
            self._build(pair, state)
        self.strong, found = chosen.emphasis(scene, pair), chosen.clicked(scene, pair)
        is_waiting = state.colour == RECEIVED and self.received != (state.checkpoint, state.layer, state.head)
        colours = chosen.unmeasured(state, pair) if is_waiting else chosen.colouring(self.comparison, state, pair)
        arrows = chosen.arrows(pair, state.n_arrows if self._is_overlay() else 0, self.strong)
        self._tell(scene, pair, moved=moved)
        self._show_points(state, pair, colours, arrows, moved=moved)
        self._show_links(arrows, faint=found is not None)
        pixel = {side: self._pixel(side, moved=moved) for side in SIDES}
        self._show_clicked(found, colours, state.theme, pixel)
        if found is None and self._is_overlay():
            texts = chosen.arrow_texts(self.comparison, state.checkpoint, pair, arrows)
            self.sources["tuned_labels"].data = figures_two_maps.arrow_labels(
                arrows, texts, state.theme, pixel["tuned"]
            )
        self._arrange(state, pair)
        self.controls.show(scene, pair, colours)
        self.says.text = two_maps_words.said(self.comparison, state, pair)
        self.measure()

    def measure(self) -> None:
        """Measure what each key gained where points are coloured by it, beside the server's loop where there is one."""
        document, scene = self.root.document, self.scene
        if document is None or scene is None or self.pair is None or scene.state.colour != RECEIVED:
            return
        state = scene.state
        asked = state.checkpoint, state.layer, state.head
        if asked == self.received:
            return

        def work() -> str:
            now = self.scene
            if now is not None and asked == (now.state.checkpoint, now.state.layer, now.state.head):
                chosen.received_change(self.comparison, *asked)  # kept, so that it is not measured again
            return ""

        def tell(_text: str) -> None:
            now = self.scene
            if now is not None and asked == (now.state.checkpoint, now.state.layer, now.state.head):
                self.received = asked
                held(document, partial(self.show, now))

        beside(document, work, tell)

    def _look(self, state: CompareState) -> bool:
        """Read both maps where they are others than before, and tell whether they are."""
        now = (state.checkpoint, state.layer, state.head, *chosen.method_of(self.comparison, state))
        if now == self.drawn and self.pair is not None:
            return False
        self.pair = chosen.pair_of(self.comparison, state)
        self.drawn = now
        return True

    def _build(self, pair: Pair, state: CompareState) -> None:
        """Make the figures: on one map they look at the same part of it always."""
        self.common, self.told = pair.common, ()
        names = ("tokens", "sentences", "vocabulary", "facts", "arrows", "place")
        self.sources = {name: ColumnDataSource() for name in names}
        self.sources |= {f"{side}_{name}": ColumnDataSource() for side in SIDES for name in figures_two_maps.NAMES}
        self.sources["heads"] = ColumnDataSource({n: [] for n in figures_two_maps.HEADS}, syncable=False)
        for side in SIDES:
            self.sources[f"{side}_near"] = ColumnDataSource(
                dict(figures_two_maps.NOWHERE), syncable=False
            )  # the browser's own
        self.sources["near_line"] = ColumnDataSource(dict(figures_two_maps.NO_LINE), syncable=False)
        shared = _ranges(pair, "base")
        for side in SIDES:
            ranges = shared if pair.common else _ranges(pair, side)
            self.plots[side] = figures_two_maps.map_figure(self.sources, side, ranges)
            self.plots[side].on_event(Tap, partial(self._tap, side))
            self.plots[side].on_change("inner_width", partial(self._resized, side))
        self.paint(state.theme)

    def _tell(self, scene: CompareScene, pair: Pair, *, moved: bool) -> None:
        """Send what tooltips say: the texts once for each checkpoint, what a head does with them with each head."""
        state = scene.state
        if self.told != (state.checkpoint,):
            self.told = (state.checkpoint,)
            tokens, sentences = two_maps_words.texts(self.comparison, state.checkpoint, pair)
            self.sources["tokens"].data, self.sources["sentences"].data = tokens, sentences
        if not moved:
            return
        self.links = {side: chosen.strongest_links(pair, side) for side in SIDES}
        facts: Data = {"drift": chosen.drift_of(self.comparison, state, pair).astype(np.float32)}
        texts = []
        for side in SIDES:
            for kind, partners in chosen.partners(pair, side).items():
                texts.append(partners.text)
                facts[f"{side}_{kind}_weight"] = partners.weight
        codes, known = pd.factorize(np.concatenate(texts))
        names = [f"{side}_{kind}" for side in SIDES for kind in KINDS]
        facts |= zip(names, np.split(codes.astype(np.int32), len(names)), strict=True)
        self.sources["vocabulary"].data = {"text": known.tolist()}
        self.sources["facts"].data = facts

    def _show_points(
        self, state: CompareState, pair: Pair, colours: Colouring, arrows: chosen.Arrows, *, moved: bool
    ) -> None:
        """Write places where they are others, colours and sizes always."""
        n, overlay = len(pair.units.unit), self._is_overlay()
        strong = dict.fromkeys(KINDS, self.strong)
        if overlay and self.strong is None and len(arrows.number):
            strong = {kind: np.isin(np.arange(n), arrows.number[arrows.is_key == (kind == "key")]) for kind in KINDS}
        for kind in KINDS:
            own = colours.query if kind == "query" else colours.key
            faint = 0x48 if overlay and self.strong is None else FAINT  # without a search all are of interest
            alpha = figures_two_maps.alphas(n, strong[kind], faint)
            size = figures_two_maps.sizes(n, kind, strong[kind])
            ghost = (
                own
                if not overlay
                else np.full(n, figures_two_maps.packed(THEMES[state.theme]["muted"]), dtype=np.uint32)
            )
            look = {
                "colour": own | alpha,
                "size": size,
                "ghost": ghost | (alpha * figures_two_maps.GHOST).astype(np.uint32),
            }
            for side in SIDES:
                source, place = self.sources[f"{side}_{kind}"], pair.side(side).place[kind]
                if moved:
                    source.data = {"x": place[:, 0], "y": place[:, 1], **look}
                else:
                    figures_two_maps.put(source, look)
        if moved:
            self._show_frames(pair)

    def _show_frames(self, pair: Pair) -> None:
        """Write two corners that each map must hold; both alike where they are one map."""
        for side in SIDES:
            corners = chosen.corners(pair, side)
            self.sources[f"{side}_frame"].data = {"x": corners[:, 0], "y": corners[:, 1]}

    def _show_links(self, arrows: chosen.Arrows, *, faint: bool) -> None:
        """Write the strongest pairs of each checkpoint, `faint` where a token is clicked, and the arrows."""
        strength = 0.0 if self._is_overlay() else 0.12 if faint else 0.8
        for side, links in self.links.items():
            self.sources[f"{side}_links"].data = figures_two_maps.segments(links, strength)
        self.sources["arrows"].data = {
            **figures_two_maps.ends(arrows.start, arrows.end),
            **figures_two_maps.arrow_looks(len(arrows.number)),
            "marker": np.where(
                arrows.is_key, figures_two_maps.MARKERS["key"], figures_two_maps.MARKERS["query"]
            ).tolist(),
        }

    def _show_clicked(
        self, found: Clicked | None, colours: Colouring, theme: str, pixel: dict[SideName, float]
    ) -> None:
        """Draw the clicked sequence on both maps, and the links of the clicked point in each checkpoint."""
        for side in SIDES:
            if found is None:
                for name in ("own_query", "own_key", "own", "picked", "labels"):
                    if len(next(iter(self.sources[f"{side}_{name}"].data.values()), " ")):
                        self.sources[f"{side}_{name}"].data = figures_two_maps.empty(name)
                continue
            for kind in KINDS:
                own = colours.query if kind == "query" else colours.key
                fill = np.where(found.number >= 0, own[found.number], figures_two_maps.packed(THEMES[theme]["muted"]))
                place = found.place[side][kind]
                columns = {"x": place[:, 0], "y": place[:, 1], "number": found.number.astype(np.int32)}
                self.sources[f"{side}_own_{kind}"].data = {
                    **columns,
                    "colour": fill.astype(np.uint32) | np.uint32(0xFF),
                }
            self.sources[f"{side}_own"].data = figures_two_maps.segments(
                chosen.selected_links(found, side), 1.0, own=True
            )
            place = found.place[side][found.kind][[found.at]]
            self.sources[f"{side}_picked"].data = {"x": place[:, 0], "y": place[:, 1]}
            self.sources[f"{side}_labels"].data = figures_two_maps.labels(found, side, theme, pixel[side])

    def _arrange(self, state: CompareState, pair: Pair) -> None:
        """Lay out one map or two, and say last what is there, on which the browser waits."""
        overlay = self._is_overlay()
        plots = [self.plots["tuned"]] if overlay else [self.plots[side] for side in SIDES]
        if self.maps.children != plots:
            self.maps.children = plots
        for name in ("ghost_query", "ghost_key", "arrows", "starts", "heads"):
            renderer(self.plots["tuned"], name).visible = overlay
        titles = two_maps_words.titles(self.comparison, state, pair, overlay=overlay)
        for side in SIDES:
            self.plots[side].title.text = titles[side]
            figures_two_maps.speak(self.plots[side], state.language)
        name = "|".join(map(str, self.drawn))
        self.sources["place"].data = {
            "name": [name],
            "overlay": [overlay],
            "words": [two_maps_words.hover_words(self.comparison, state, pair)],
        }

    def paint(self, theme: str) -> None:
        """Take on the colours of a theme."""
        for side, plot in self.plots.items():
            figures_two_maps.paint(plot, side, theme)


def _ranges(pair: Pair, side: SideName) -> tuple[Range1d, Range1d]:
    """Return what a map shows until the browser knows its frame and fits it (static/compare_fit.js)."""
    low, high = chosen.corners(pair, side).tolist()
    return Range1d(low[0], high[0]), Range1d(low[1], high[1])


class _Controls:
    """How the maps are laid out, their colours and arrows, and what the colours mean."""

    def __init__(self, comparison: Comparison, state: CompareState, change: Callable[..., None]) -> None:
        t = partial(say, state.language)
        common: dict[str, Any] = {"stylesheets": [InlineStyleSheet(css=WIDGET_CSS)], "margin": 0}
        self.change, self.is_told = change, False  # is_told: while the page, and not the visitor, moves the widgets
        labels = [t("compare_maps_side"), t("compare_maps_overlay")]
        self.how = RadioButtonGroup(labels=labels, active=int(state.overlay), name="compare_overlay", **common)
        self.how.on_change("active", lambda _attr, _old, new: self._chosen(overlay=bool(new)))
        options = chosen.colour_choices(comparison, state.language)
        self.colour = Select(
            title=t("compare_maps_colour"),
            options=options,
            value=self._known(state.colour, options),
            width=230,
            name="compare_colour",
            **common,
        )
        self.colour.on_change("value", lambda _attr, _old, new: self._chosen(colour=new))
        self.arrows = Slider(
            title=t("compare_maps_arrows"),
            start=0,
            end=MAX_LINKS,
            step=10,
            value=min(state.n_arrows, MAX_LINKS),
            width=190,
            name="compare_arrows",
            **common,
        )
        self.arrows.on_change("value_throttled", lambda _attr, _old, new: self._chosen(n_arrows=int(new)))
        sheets = [InlineStyleSheet(css=CARD_CSS + LEGEND_CSS)]
        self.legend = Div(name="compare_legend", sizing_mode="stretch_width", margin=0, stylesheets=sheets)
        line = {"gap": "14px", "align-items": "center"}
        self.root = row(
            *(self.how, self.colour, self.arrows, self.legend), sizing_mode="stretch_width", styles=line, margin=0
        )

    def _chosen(self, **parts: Any) -> None:
        if not self.is_told:
            self.change(**parts)

    @staticmethod
    def _known(colour: str, options: list[tuple[str, str]]) -> str:
        return colour if colour in [value for value, _ in options] else QUERY_KEY

    def show(self, scene: CompareScene, pair: Pair | None, colours: Colouring | None) -> None:
        """Take on what is chosen, whoever chose it."""
        state = scene.state
        can_overlay = pair is not None and pair.common
        overlay = state.overlay and can_overlay
        self.is_told = True
        self.how.active, self.how.disabled = int(overlay), not can_overlay
        self.colour.value = self._known(state.colour, self.colour.options)
        self.arrows.value, self.arrows.visible = min(state.n_arrows, MAX_LINKS), overlay
        self.is_told = False
        self.legend.text = "" if colours is None else two_maps_words.legend(state, colours)
