"""Head: one head in numbers and examples.

In: a `Scene`. Out: cards of HTML, worked out when the view is open and the head has changed. What costs more than a moment
is measured on a sample (`qkspace.behaviour`), which the card names.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from html import escape

import pandas as pd
from bokeh.layouts import column, row
from bokeh.models import Div, InlineStyleSheet

from qkspace import behaviour
from qkspace.app import image_words, words
from qkspace.app.language import say
from qkspace.app.lists import go
from qkspace.app.loop import beside
from qkspace.app.pictures import Album, album_of
from qkspace.app.select import Scene, Shown
from qkspace.app.state import State
from qkspace.app.style import CARD_CSS
from qkspace.index import Index
from qkspace.schema import QKSpaceError

MEASURED = ("attended", "typical", "extreme", "near")  # cards that take more than a moment
TOP = 15  # tokens that are listed
EXAMPLES = 4  # sequences of a kind that are listed
PLACES = 6  # of images that are listed
NEAREST = 10
MIN_TOKENS = 5  # of a sequence that is an example: in a shorter one nothing can be seen
LARGEST = 0.6931  # Jensen-Shannon divergence, ln 2
SHOWN_TEXT = 220  # characters of an example


class HeadView:
    """What a head looks at most, where it behaves as usual and where not, and which heads are like it."""

    def __init__(self, shown: Shown, state: State, change: Callable[..., None]) -> None:
        """Make empty cards."""
        self.language = state.language
        self.last: tuple[int, int, str, int] | None = None
        sheet = InlineStyleSheet(css=CARD_CSS)
        self.cards = {
            name: Div(stylesheets=[sheet], sizing_mode="stretch_width", margin=0, name=f"head_{name}")
            for name in ("scores", *MEASURED)
        }
        gap = {"gap": "10px"}
        cards = self.cards
        left = column(cards["scores"], cards["near"], sizing_mode="stretch_width", styles=gap, margin=0)
        right = column(
            *(cards["attended"], cards["typical"], cards["extreme"]), sizing_mode="stretch_width", styles=gap, margin=0
        )
        scroll = {"overflow-y": "auto", "scrollbar-width": "thin", "align-items": "flex-start", **gap}
        self.root = row(left, right, sizing_mode="stretch_both", styles=scroll, margin=0, name="head_view")

    def show(self, scene: Scene) -> None:
        """Fill the cards: what is known at once, the rest when it has been measured."""
        state = scene.state
        now = (state.layer, state.head, state.method, state.dims)
        if now == self.last:
            return
        self.last, self.index = now, scene.shown.index
        self.cards["scores"].text = words.head_card(scene.shown, state, opened=True)
        for name in MEASURED:
            self.cards[name].text = self._card(name, f'<p class="muted">{self._say("measuring")}</p>')
        if self.root.document is not None:
            self.measure()

    def measure(self) -> None:
        """Measure what the chosen head does, beside the server's loop where there is one: other visitors need not wait."""
        document, now = self.root.document, self.last
        if now is None:
            return
        layer, head = now[:2]

        def fill(name: str, text: str) -> None:
            if now == self.last:  # else another head has been opened meanwhile
                self.cards[name].text = self._card(name, text)

        for name in MEASURED:
            beside(document, partial(self._measured, name, self.index, layer, head), partial(fill, name))

    def _measured(self, name: str, index: Index, layer: int, head: int) -> str:
        """Return what a card holds; where nothing can be said, why."""
        try:
            if name == "near":
                found = behaviour.nearest_heads(index, layer, head, top=NEAREST, language=self.language)
                return self._near(found, behaviour.measured_distances(index).n_queries)  # of which they are
            if name == "attended":
                album = album_of(index)
                top = TOP if album is None else album.n_tokens
                return self._attended(behaviour.most_attended(index, layer, head, top=top), album)
            find = behaviour.typical_sequences if name == "typical" else behaviour.extreme_sequences
            options = {"top": EXAMPLES, "min_tokens": MIN_TOKENS}
            return self._examples(find(index, layer, head, **options, language=self.language))
        except QKSpaceError as error:
            return f'<p class="muted">{escape(str(error))}</p>'

    def _card(self, name: str, text: str) -> str:
        """Return a card with its title."""
        tip, title = self._say(f"head_{name}_tip"), self._say(f"head_{name}")
        return f'<div class="card"><h2 class="why" title="{tip}">{title}</h2>{text}</div>'

    def _say(self, name: str) -> str:
        return escape(say(self.language, name))

    def _note(self, table: pd.DataFrame) -> str:
        note = table.attrs.get("note")
        return f'<p class="small muted">{escape(str(note))}</p>' if note else ""

    def _attended(self, table: pd.DataFrame, album: Album | None) -> str:
        if table.empty:
            return f'<p class="muted">{self._say("nothing_here")}</p>'
        picture = ""
        if album is not None:
            note = self._say("head_attended_places")
            picture = f'{image_words.places_picture(album, table)}<p class="small muted">{note}</p>'
            table = table.head(PLACES)
        return picture + self._attended_rows(table)

    def _attended_rows(self, table: pd.DataFrame) -> str:
        most = float(table["total"].iloc[0]) or 1.0
        rows = "".join(
            f'<tr><td class="text">{escape(str(each["text"]))}</td>{_bar(each["total"] / most, "key")}'
            f'<td class="number">{100 * each["share"]:.1f} %</td><td class="number muted">{each["count"]:,} &times;</td></tr>'
            for each in table.to_dict("records")
        )
        return f"<table>{rows}</table>{self._note(table)}"

    def _examples(self, table: pd.DataFrame) -> str:
        rows = []
        for each in table.to_dict("records"):
            said = f'<div class="small muted">{escape(each["words"])}</div>' if each["words"] else ""
            goes = go(page="sentence", selected="", sequence=each["sequence"], text="", pair="")
            name = f'<button class="link" {goes}>{escape(_short(each["text"]))}</button>{said}'
            if (album := album_of(self.index)) is not None:
                name = image_words.beside_thumbnail(album, album.index.place(int(each["sequence"])), name)
            rows.append(f"<li>{name}</li>")
        return f'<ul class="plain">{"".join(rows)}</ul>{self._note(table)}'

    def _near(self, table: pd.DataFrame, n_queries: int) -> str:
        """Return the heads that are alike; n_queries: which they were measured on, said first where they are few."""
        if table.empty:
            return f'<p class="muted">{self._say("nothing_here")}</p>{self._note(table)}'
        few = ""
        if n_queries < behaviour.MIN_QUERIES:
            few = f'<p class="small">{escape(say(self.language, "head_near_few", n=n_queries))}</p>'
        rows = []
        for each in table.to_dict("records"):
            name = f"L{each['layer']}H{each['head']}"
            button = f'<button class="link" {go(layer=each["layer"], head=each["head"])}>{name}</button>'
            bar = _bar(min(max(1 - each["distance"] / LARGEST, 0.0), 1.0), "accent")  # the longer, the more alike
            rows.append(f'<tr><td>{button}</td>{bar}<td class="number">{each["distance"]:.3f}</td></tr>')
        return f"{few}<table>{''.join(rows)}</table>{self._note(table)}"

    def paint(self, theme: str) -> None:
        """Nothing: the cards take their colours from the page."""


def _bar(share: float, colour: str) -> str:
    return f'<td style="width:45%"><div class="bar" style="background:var(--{colour});width:{100 * share:.1f}%"></div></td>'


def _short(text: str) -> str:
    return text if len(text) <= SHOWN_TEXT else text[: SHOWN_TEXT - 1] + "…"
