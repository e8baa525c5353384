"""Matrix picture: attention over one sequence as in the tutorials, as a heat map, a line a token, or bars in space.

In: a matrix. Out: a matplotlib figure. Knows no index.

    matrix_picture(matrix_of(index, 12), "received")
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter
from mpl_toolkits.mplot3d import Axes3D

from qkspace.app.colours import KEY_COLOUR, QUERY_COLOUR
from qkspace.app.state import Theme
from qkspace.drawing import LEADING, MARGIN, Font, Sheet, check_width, height_of, visible
from qkspace.matrix import Matrix, received
from qkspace.schema import FloatArray, QKSpaceError
from qkspace.sentence_picture import RAMP, is_upright, matrix_heatmap, refuse_long

Style = Literal["heatmap", "received", "bars", "scatter"]
SIZE = 7.0  # of a token's text, in points
LONGEST = 1.2  # inches that a token's text may take
SMALLEST = 4.0  # points, below which text could not be read
PLOT = 2.4  # inches: height of the line plot
SOLID = 0.72  # height of a picture in space, of its width
MOST_SOLID = 48  # tokens of a picture in space: further bars would hide each other
LEAST_BAR = 0.005  # attention below which there is no bar
FACES = (
    0.7,
    1.0,
    0.86,
    0.86,
    0.7,
    0.7,
)  # how bright those of a bar are, as on the page: below, above, and two of each side


def matrix_picture(
    matrix: Matrix, style: Style = "heatmap", *, theme: Theme = "light", width: float = 7.0, **camera: float
) -> Figure:
    """Draw one matrix of attention.

    Args:
        matrix: of `qkspace.matrix.matrix_of`.
        style: "heatmap"; "received", a line of what each token receives, summed over queries, beside what equal attention
            would give; "bars" or "scatter", the matrix in space, whose height is attention.
        theme: "light" or "dark".
        width: of the picture in inches, at most.
        **camera: of a picture in space, from where it is seen in degrees: yaw (default -60) and pitch (default 35).

    Raises:
        QKSpaceError: no such style, or more tokens than can be read.
    """
    if style not in _STYLES:
        raise QKSpaceError(f"Unknown style {style!r}; choose among {', '.join(_STYLES)}.")
    if unknown := camera.keys() - ({"yaw", "pitch"} if style in ("bars", "scatter") else set()):
        raise QKSpaceError(f"A {style} takes no {', '.join(sorted(unknown))}.")
    check_width(width)
    return _STYLES[style](matrix, theme, width, **camera)


def _heatmap(matrix: Matrix, theme: Theme, width: float) -> Figure:
    return matrix_heatmap(matrix, theme=theme, width=width)


def _received(matrix: Matrix, theme: Theme, width: float) -> Figure:
    table = received(matrix)
    n = len(table)
    refuse_long(n, matrix.sequence)
    which = "the" if matrix.is_part else "all"
    caption = (
        f"{_where(matrix)}. What each token receives of the attention of {which} {len(matrix.asking)} queries"
        f"{' shown' if matrix.is_part else ''}, summed; dashed: what it would receive if every query attended equally to all "
        "it may."
    )
    font = Font.of([caption, *map(visible, matrix.answering)])
    left = 0.5
    step = (width - left - 2 * MARGIN) / max(n, 2)
    size = float(np.clip(step * 72 * 0.85, SMALLEST, SIZE))
    words = [font.shorten(visible(word), size, LONGEST) for word in matrix.answering]
    below = max(font.width(word, size) for word in words) + 0.1
    lines = font.wrap(caption, 7, width - 2 * MARGIN)
    sheet = Sheet.of(width, MARGIN + PLOT + below + height_of(lines) + 2 * MARGIN, font, theme)
    axes = sheet.axes(MARGIN + left, MARGIN, width - left - 2 * MARGIN, PLOT)
    axes.set_axis_on()
    axes.set_frame_on(True)
    place = np.arange(n)
    hue = KEY_COLOUR[theme]
    axes.plot(place, table["uniform"], color=sheet.colour("muted"), linewidth=0.9, linestyle=(0, (4, 3)))
    axes.plot(place, table["total"], color=hue, linewidth=1.3, marker="o", markersize=3.2)
    special = np.flatnonzero(matrix.is_special)
    axes.plot(
        special,
        table["total"].to_numpy()[special],
        "o",
        color=sheet.colour("plot"),
        markeredgecolor=hue,
        markersize=4.5,
    )
    axes.set(xlim=(-0.6, n - 0.4), ylim=(0, max(1e-6, 1.06 * float(table[["total", "uniform"]].to_numpy().max()))))
    axes.set_xticks(place)
    axes.set_xticklabels([])
    _dress(sheet, axes, font)
    for i, word in enumerate(words):
        x = MARGIN + left + (i + 0.6) / (n + 0.2) * (width - left - 2 * MARGIN)
        upright = is_upright(word)
        look: dict[str, Any] = {"rotation": 0 if upright else 90, "ha": "center", "va": "top", "colour": hue}
        sheet.text(x, MARGIN + PLOT + 0.06, word, size=size, **look)
    sheet.paragraph(MARGIN, MARGIN + PLOT + below + MARGIN, lines)
    return sheet.figure


def _dress(sheet: Sheet, axes: Axes, font: Font) -> None:
    """Give axes the colours of the theme, and numbers in its font."""
    axes.set_facecolor(sheet.colour("plot"))
    axes.grid(axis="y", color=sheet.colour("grid"), linewidth=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(colors=sheet.colour("muted"), labelsize=7, length=2.5, width=0.6)
    for name, spine in axes.spines.items():
        spine.set_visible(name in ("left", "bottom"))
        spine.set(color=sheet.colour("line"), linewidth=0.8)
    for label in axes.get_yticklabels():
        label.set_fontproperties(font.properties(7))
    axes.set_ylabel("attention received", color=sheet.colour("muted"), fontproperties=font.properties(7))


def _bars(matrix: Matrix, theme: Theme, width: float, *, yaw: float = -60.0, pitch: float = 35.0) -> Figure:
    sheet, axes, colours = _space(
        matrix,
        theme,
        width,
        yaw,
        pitch,
        f"A bar stands for one weight of at least {100 * LEAST_BAR:g} %: its height and colour are",
    )
    query, key = np.nonzero(matrix.attention >= LEAST_BAR)
    height = matrix.attention[query, key].astype(np.float64)
    faces = np.repeat(np.asarray(colours(_shares(height))), len(FACES), axis=0)  # (bar x face, red green blue alpha)
    faces[:, :3] *= np.tile(FACES, len(key))[:, None]
    look: dict[str, Any] = {"color": faces, "shade": False, "zsort": "max"} | {
        "edgecolor": sheet.colour("line"),
        "linewidth": 0.3,
    }
    if len(key):  # matplotlib cannot draw none
        axes.bar3d(key - 0.35, query - 0.35, np.zeros(len(key)), 0.7, 0.7, height, **look)
    return sheet.figure


def _scatter(matrix: Matrix, theme: Theme, width: float, *, yaw: float = -60.0, pitch: float = 35.0) -> Figure:
    words = f"A dot stands for one weight of at least {100 * LEAST_BAR:g} %, on a stalk: its height and colour are"
    sheet, axes, colours = _space(matrix, theme, width, yaw, pitch, words)
    query, key = np.nonzero(matrix.attention >= LEAST_BAR)
    height = matrix.attention[query, key].astype(np.float64)
    for x, y, z in zip(key, query, height, strict=True):
        axes.plot([x, x], [y, y], [0, z], color=sheet.colour("line"), linewidth=0.6)
    axes.scatter(key, query, height, c=colours(_shares(height)), s=14, depthshade=False)
    return sheet.figure


def _shares(height: FloatArray) -> FloatArray:
    """Return heights as shares of the largest."""
    return np.asarray(height / max(float(height.max(initial=0)), LEAST_BAR))


def _space(
    matrix: Matrix, theme: Theme, width: float, yaw: float, pitch: float, words: str
) -> tuple[Sheet, Axes3D, LinearSegmentedColormap]:
    """Return a sheet with axes in space, keys across and queries along, both named by their tokens."""
    n = max(len(matrix.asking), len(matrix.answering))
    if n > MOST_SOLID:
        raise QKSpaceError(
            f"{n} tokens of {matrix.sequence} would hide each other in space, where {MOST_SOLID} can be shown. Choose some: "
            f"tokens=(0, {MOST_SOLID}), on the command line --tokens 1-{MOST_SOLID}."
        )
    caption = f"{_where(matrix)}. {words} the attention of a query (blue) to a key (orange)."
    font = Font.of([caption, *map(visible, matrix.asking), *map(visible, matrix.answering)])
    lines = font.wrap(caption, 7, width - 2 * MARGIN)
    sheet = Sheet.of(width, SOLID * width + len(lines) * 7 * LEADING / 72 + 3 * MARGIN, font, theme)
    h = float(sheet.figure.get_size_inches()[1])
    axes = sheet.figure.add_axes((0.02, 1 - SOLID * width / h, 0.96, SOLID * width / h), projection="3d")
    assert isinstance(axes, Axes3D)
    axes.set_facecolor(sheet.colour("plot"))
    axes.view_init(elev=pitch, azim=yaw)
    axes.set_box_aspect((len(matrix.answering), len(matrix.asking), 0.5 * n), zoom=1.18)
    size = float(np.clip(90 / n, SMALLEST, SIZE))
    sides = (("x", matrix.answering, KEY_COLOUR[theme]), ("y", matrix.asking, QUERY_COLOUR[theme]))
    for side, texts, hue in sides:
        names = [font.shorten(visible(text), size, 0.8) for text in texts]
        getattr(axes, f"set_{side}ticks")(np.arange(len(names)), names)
        for tick in getattr(axes, f"{side}axis").get_major_ticks():
            for label in (tick.label1, tick.label2):
                label.set(fontproperties=font.properties(size), color=hue, parse_math=False)
    axes.invert_yaxis()  # the first query at the back, as in the app
    axes.set_zlim(0, max(0.05, float(matrix.attention.max())))
    axes.zaxis.set_major_formatter(PercentFormatter(1.0, symbol=" %"))
    for axis in (axes.xaxis, axes.yaxis, axes.zaxis):
        axis.set_pane_color((0, 0, 0, 0))
        axis.line.set_color(sheet.colour("line"))
        axis._axinfo["grid"].update(color=sheet.colour("line"), linewidth=0.4)
    axes.tick_params(axis="z", colors=sheet.colour("muted"), labelsize=6.5)
    for side in ("x", "y"):
        axes.tick_params(axis=side, pad=-3, color=sheet.colour("line"))
    sheet.paragraph(MARGIN, SOLID * width + MARGIN, lines)
    return sheet, axes, LinearSegmentedColormap.from_list("attention", [sheet.colour("line"), *RAMP[theme]])


def _where(matrix: Matrix) -> str:
    return f"{visible(matrix.model)}, {matrix.of}, on {matrix.where}"


_STYLES: dict[str, Callable[..., Figure]] = {
    "heatmap": _heatmap,
    "received": _received,
    "bars": _bars,
    "scatter": _scatter,
}
