"""Sentence picture: who attends to whom in one sequence, as lines between two columns of tokens or as a heat map.

In: an index, a sequence, a layer. Out: a matplotlib figure, a panel a head. The attention is the model's, recomputed from
the stored vectors: it owes nothing to a map.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import ceil
from typing import Any, Literal
from unicodedata import east_asian_width

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection, PolyCollection
from matplotlib.colors import LinearSegmentedColormap, to_rgba
from matplotlib.figure import Figure

from qkspace.app.colours import KEY_COLOUR, LINK_COLOUR, QUERY_COLOUR
from qkspace.app.select import LEAST_SHOWN
from qkspace.app.state import Theme
from qkspace.drawing import MARGIN, Font, Sheet, check_width, height_of, visible
from qkspace.index import Index
from qkspace.legend import ROW, draw_scale
from qkspace.matrix import Matrix
from qkspace.schema import BoolArray, FloatArray, IntArray, QKSpaceError

MAX_TOKENS = 100  # of a sequence that one picture shows: more could not be read
SIZE = 7.5  # of a token's text, in points
TOKEN = 1.5  # inches that a token's text may take
SMALLEST, LARGEST = 0.105, 0.3  # inches: the side of a heat map's cell
LEAST_CELL = 0.005  # attention below which a cell is empty
NUMBERS = 0.17  # from this side on there is room for a number
HEADING = 0.22  # inches above a panel


@dataclass(frozen=True, slots=True)
class _Sentence:
    """What is drawn: a text a token, and for each head its attention (query token, key token)."""

    words: list[str]  # that ask
    titles: list[str]  # of the heads
    attention: list[FloatArray]
    allowed: BoolArray
    answering: list[str]


def sentence_picture(
    index: Index,
    sequence: int,
    layer: int,
    heads: Sequence[int] | None = None,
    *,
    style: Literal["lines", "heatmap"] = "lines",
    tokens: tuple[int, int] | None = None,
    theme: Theme = "light",
    width: float = 7.0,
) -> Figure:
    """Draw the attention over one sequence, a panel a head.

    Args:
        index: the index.
        sequence: a value of the column `sequence` of `index.sequences`.
        layer: which layer, from 0.
        heads: which of its heads, from 0; None for all.
        style: "lines" from each token as a query (left) to the tokens as keys (right), the stronger the more attention; or
            "heatmap", a row a query and a column a key, with hundredths of attention where there is room.
        tokens: draw only those from the first to before the last of these two, from 0.
        theme: "light" or "dark".
        width: of the picture in inches, at most.

    Raises:
        QKSpaceError: no such sequence, layer, head or style, or more tokens than can be read.
    """
    if style not in _STYLES:
        raise QKSpaceError(f"Unknown style {style!r}; choose among {', '.join(_STYLES)}.")
    chosen = list(range(index.head(layer, 0).spec.n_heads)) if heads is None else list(heads)
    if not chosen:
        raise QKSpaceError("No head was asked for: name some, or leave heads out to see all.")
    check_width(width)
    rows = index.rows(sequence)
    first, last = _window(rows.stop - rows.start, sequence, tokens)
    words = [visible(str(text)) for text in index.tokens["text"].iloc[rows][first:last]]
    attention = [index.head(layer, head).attention(sequence)[first:last, first:last] for head in chosen]
    allowed = index.allowed(layer, sequence)[first:last, first:last]
    part = (
        "" if last - first == rows.stop - rows.start else f", tokens {first + 1} to {last} of {rows.stop - rows.start}"
    )
    which = f"head {chosen[0]}" if len(chosen) == 1 else f"{len(chosen)} heads"
    caption = f"{visible(index.model_name)}, layer {layer}, {which}, on sequence {sequence}{part}. "
    titles = [f"layer {layer}, head {chosen[0]}"] if len(chosen) == 1 else [f"head {head}" for head in chosen]
    return _STYLES[style](_Sentence(words, titles, attention, allowed, words), caption, theme, width)


def _window(n: int, sequence: int, tokens: tuple[int, int] | None) -> tuple[int, int]:
    first, last = tokens or (0, n)
    if not 0 <= first < last <= n:
        raise QKSpaceError(
            f"Sequence {sequence} has {n} tokens: tokens must be within (0, {n}); got ({first}, {last})."
        )
    refuse_long(last - first, f"sequence {sequence}")
    return first, last


def refuse_long(n: int, sequence: str) -> None:
    """Refuse more tokens than can be read."""
    if n > MAX_TOKENS:
        raise QKSpaceError(
            f"{n} tokens of {sequence} are more than a picture can show so that they can be read, which is {MAX_TOKENS}. "
            f"Choose some: tokens=(0, {MAX_TOKENS}), on the command line --tokens 1-{MAX_TOKENS}."
        )


@dataclass(frozen=True, slots=True)
class _Panels:
    """Where panels stand: their number across, and the size of each in inches with the room around it."""

    across: int
    width: float
    height: float
    n: int

    def sheet(self, font: Font, caption: str, theme: str, extra: float = 0.0) -> tuple[Sheet, float]:
        """Return a sheet that has room for the panels, with the caption written below; `extra`: inches between them."""
        width = max(self.across * self.width + 2 * MARGIN, 3.4)
        lines = font.wrap(caption, 7, width - 2 * MARGIN)
        end = MARGIN + ceil(self.n / self.across) * self.height
        sheet = Sheet.of(width, end + extra + MARGIN + height_of(lines), font, theme)
        sheet.paragraph(MARGIN, end + extra, lines)
        return sheet, end

    def corner(self, i: int) -> tuple[float, float]:
        """Return the upper left corner of a panel."""
        return MARGIN + i % self.across * self.width, MARGIN + i // self.across * self.height


def _lines(sentence: _Sentence, caption: str, theme: Theme, width: float) -> Figure:
    caption += (
        f"Each line goes from a token's query (left) to a key (right); the wider and darker, the more attention. Attention "
        f"below {LEAST_SHOWN:g} is not drawn."
    )
    if theme == "dark":
        caption = caption.replace("darker", "brighter")
    font = Font.of([caption, *sentence.words])
    words = [font.shorten(word, SIZE, TOKEN) for word in sentence.words]
    column = max(font.width(word, SIZE) for word in [*words, "query"]) + 0.06
    n, n_heads = len(words), len(sentence.titles)
    room = width - 2 * MARGIN
    across = max(1, min(n_heads, int(room / (2 * column + 0.75))))
    panel = min(room / across, 2 * column + 1.8)
    panels = _Panels(across, panel, HEADING + 0.13 + n * ROW + MARGIN, n_heads)
    sheet, _ = panels.sheet(font, caption, theme)
    gap = 0.15 if across > 1 else 0.0
    for i, title in enumerate(sentence.titles):
        x, y = panels.corner(i)
        left, right = x + column, x + panel - gap - column
        sheet.text((left + right) / 2, y, title, ha="center", weight="bold")
        hues = ((left - 0.05, "right", QUERY_COLOUR[theme], "query"), (right + 0.05, "left", KEY_COLOUR[theme], "key"))
        for at, side, colour, name in hues:
            sheet.text(at, y + HEADING, name, size=6.5, ha=side, colour="muted")
            for j, word in enumerate(words):
                sheet.text(
                    at,
                    y + HEADING + 0.13 + (j + 0.5) * ROW,
                    word,
                    size=SIZE,
                    ha=side,
                    va="center_baseline",
                    colour=colour,
                )
        axes = sheet.axes(left, y + HEADING + 0.13, right - left, n * ROW, inches=True)
        attention = sentence.attention[i]
        pairs = np.argwhere(attention >= LEAST_SHOWN)
        pairs = pairs[np.argsort(attention[tuple(pairs.T)], kind="stable")]  # strong ones above
        weight = np.clip(attention[tuple(pairs.T)], 0, 1)
        segments = [((0, (query + 0.5) * ROW), (right - left, (key + 0.5) * ROW)) for query, key in pairs]
        look: dict[str, Any] = {
            "linewidths": 0.4 + 1.6 * weight,
            "colors": [to_rgba(LINK_COLOUR[theme], float(w)) for w in weight],
        }
        axes.add_collection(LineCollection(segments, gid=title, **look), autolim=False)
    return sheet.figure


def matrix_heatmap(matrix: Matrix, *, theme: Theme = "light", width: float = 7.0) -> Figure:
    """Draw one matrix of attention as a heat map (`qkspace.matrix.matrix_of`).

    Raises:
        QKSpaceError: there are more tokens than can be read, or the width is out of bounds.
    """
    check_width(width)
    refuse_long(max(len(matrix.asking), len(matrix.answering)), matrix.sequence)
    asking, answering = ([visible(word) for word in words] for words in (matrix.asking, matrix.answering))
    caption = f"{visible(matrix.model)}, {matrix.of}, on {matrix.where}. "
    sentence = _Sentence(asking, [matrix.of], [matrix.attention], matrix.allowed, answering)
    return _heatmap(sentence, caption, theme, width)


def _heatmap(sentence: _Sentence, caption: str, theme: Theme, width: float) -> Figure:
    m, n, n_heads = len(sentence.words), len(sentence.answering), len(sentence.titles)
    font = Font.of([caption, *sentence.words, *sentence.answering])
    asking, answering = (
        [font.shorten(word, SIZE, TOKEN) for word in words] for words in (sentence.words, sentence.answering)
    )
    widest = max(font.width(word, SIZE) for word in asking)
    room = width - 2 * MARGIN
    across = max((k for k in range(1, n_heads + 1) if room / k - widest - 0.25 >= n * SMALLEST), default=1)
    cell = float(np.clip((room / across - widest - 0.25) / n, 0.07, LARGEST))
    size = min(SIZE, cell * 72 * 0.78)
    column, above = (max(font.width(word, size) for word in words) + 0.07 for words in (asking, answering))
    caption += "A row is a token's query, a column a key: how much of the row's attention goes to the column"
    caption += ", in hundredths where it is at least 1." if cell >= NUMBERS else "."
    caption += "" if sentence.allowed.all() else " Grey: the model cannot look there."
    font = Font.of([caption, *asking, *answering])
    panels = _Panels(across, column + n * cell + 0.18, HEADING + above + m * cell + MARGIN, n_heads)
    sheet, end = panels.sheet(font, caption, theme, extra=0.26)
    colours = LinearSegmentedColormap.from_list("attention", [sheet.colour("plot"), *RAMP[theme]])
    short = all(font.width(word, size) <= 0.9 * cell for word in answering)  # to stand upright above their columns
    for i, title in enumerate(sentence.titles):
        x, y = panels.corner(i)
        sheet.text(x + column, y, title, weight="bold")
        top = y + HEADING + above
        axes = sheet.axes(x + column, top, n * cell, m * cell, inches=True)
        _draw_cells(sheet, axes, sentence.attention[i], sentence.allowed, cell, colours, title)
        for j, word in enumerate(asking):
            own: dict[str, Any] = {"ha": "right", "va": "center_baseline", "colour": QUERY_COLOUR[theme]}
            sheet.text(x + column - 0.05, top + (j + 0.5) * cell, word, size=size, **own)
        for j, word in enumerate(answering):
            upright = short or is_upright(word)
            look: dict[str, Any] = {"rotation": 0 if upright else 90, "ha": "center", "va": "bottom"}
            sheet.text(x + column + (j + 0.5) * cell, top - 0.05, word, size=size, colour=KEY_COLOUR[theme], **look)
        if cell >= NUMBERS:
            _write_numbers(sheet, (x + column, top), cell, sentence.attention[i])
    sheet.text(MARGIN, end, "attention 0", size=7, colour="muted")
    left = MARGIN + font.width("attention 0 ", 7) + 0.04
    draw_scale(sheet, left, end + 0.01, 1.2, colours)
    sheet.text(left + 1.26, end, "1", size=7, colour="muted")
    return sheet.figure


def is_upright(word: str) -> bool:
    """Tell whether a word stands upright in a column of letters: one wide character, as of Chinese or Japanese."""
    return len(word) == 1 and east_asian_width(word) in "WF"


def _draw_cells(
    sheet: Sheet,
    axes: Axes,
    attention: FloatArray,
    allowed: BoolArray,
    cell: float,
    colours: LinearSegmentedColormap,
    name: str,
) -> None:
    """Draw the cells that hold something, what is not allowed in grey, and the grid; a long sequence is a small file still."""
    forbidden = [_square(place, cell) for place in np.argwhere(~allowed)]
    axes.add_collection(PolyCollection(forbidden, facecolors=sheet.colour("grid"), linewidths=0, rasterized=True))
    some = np.argwhere(attention >= LEAST_CELL)
    squares = [_square(place, cell) for place in some]
    look: dict[str, Any] = {
        "facecolors": colours(np.clip(attention[tuple(some.T)], 0, 1)),
        "linewidths": 0,
        "gid": name,
    }
    axes.add_collection(PolyCollection(squares, **look))
    down, across = (np.arange(count + 1) * cell for count in attention.shape)
    grid = [((0, at), (across[-1], at)) for at in down] + [((at, 0), (at, down[-1])) for at in across]
    axes.add_collection(LineCollection(grid, colors=sheet.colour("line"), linewidths=0.3, clip_on=False))


def _square(place: IntArray, cell: float) -> list[tuple[float, float]]:
    y, x = (float(at) for at in place * cell)
    return [(x, y), (x + cell, y), (x + cell, y + cell), (x, y + cell)]


def _write_numbers(sheet: Sheet, corner: tuple[float, float], cell: float, attention: FloatArray) -> None:
    """Write hundredths into the cells, in the colour that can be read there."""
    dark = sheet.theme == "dark"
    for query, key in np.argwhere(attention >= LEAST_CELL):
        value = float(attention[query, key])
        colour = ("plot" if not dark else "#12151B") if value > 0.45 else "ink"
        place = (corner[0] + (key + 0.5) * cell, corner[1] + (query + 0.5) * cell)
        size = min(6.5, cell * 72 * 0.4)
        sheet.text(*place, f"{100 * value:.0f}", size=size, ha="center", va="center_baseline", colour=colour)


RAMP = {
    "light": ["#A99BD6", "#5B4B8A", "#2B1F57"],
    "dark": ["#6B5BA6", "#B7A6EE", "#F1ECFF"],
}  # nearness to LINK_COLOUR
_STYLES: dict[str, Callable[[_Sentence, str, Theme, float], Figure]] = {"lines": _lines, "heatmap": _heatmap}
