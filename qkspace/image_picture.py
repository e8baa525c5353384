"""Image picture: what a patch of an image attends to, as a heat map over the image, a panel a head.

In: an index of images, a sequence, a layer, a token. Out: a matplotlib figure. The attention is the model's, recomputed from
the stored vectors: it owes nothing to a map.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from qkspace.app.colours import KEY_COLOUR, QUERY_COLOUR
from qkspace.app.pictures import Album, album_of, pixels
from qkspace.app.state import Kind, Theme
from qkspace.drawing import MARGIN, Font, Sheet, check_width, visible
from qkspace.index import Index
from qkspace.legend import ROW, draw_scale
from qkspace.schema import FloatArray, QKSpaceError

HEAT = 0.7  # opacity of the heat map
GAP = 0.12  # inches between panels
WIDEST = 3.4  # inches of a panel
COLUMNS = 4  # panels in a row, at most


def image_picture(
    index: Index,
    sequence: int,
    layer: int,
    heads: Sequence[int] | None = None,
    *,
    token: int | None = None,
    side: Kind = "query",
    theme: Theme = "light",
    width: float = 7.0,
) -> Figure:
    """Draw what a token of an image attends to, or what attends to it, a panel a head.

    Args:
        index: an index of images.
        sequence: a value of the column `sequence` of `index.sequences`.
        layer: which layer, from 0.
        heads: which of its heads, from 0; None for all.
        token: of the image, from 0; the patch in the middle where left out.
        side: "query": where the token looks; "key": which tokens look at it.
        theme: "light" or "dark".
        width: of the picture in inches, at most.

    Raises:
        QKSpaceError: the index is not of images, or there is no such sequence, layer, head or token.
    """
    album = album_of(index)
    if album is None:
        raise QKSpaceError(f"{index.root} is not an index of images; see sentence_picture.")
    check_width(width)
    chosen = list(range(index.head(layer, 0).spec.n_heads)) if heads is None else list(heads)
    middle = album.n_prefix + album.rows // 2 * album.columns + album.columns // 2
    token = middle if token is None else token
    if not 0 <= token < album.n_tokens or not chosen:
        raise QKSpaceError(
            f"An image has tokens 0 to {album.n_tokens - 1}, and some head is needed; got {token}, {chosen}."
        )
    place = index.place(sequence)
    names = [str(text) for text in index.tokens["text"].iloc[: album.n_tokens]]
    said = f"{names[token]} {'looks at' if side == 'query' else 'is looked at by'}"
    title = f"{visible(album.caption(place))}: {said}"
    caption = (
        f"{visible(index.model_name)}, layer {layer}. Bright: most attention among the patches, of each head by itself."
    )
    columns = min(len(chosen), COLUMNS)
    panel = min(WIDEST, (width - 2 * MARGIN - (columns - 1) * GAP) / columns)
    tall = panel * pixels(album, place).shape[0] / pixels(album, place).shape[1]
    across = max(2 * MARGIN + columns * (panel + GAP) - GAP, 3.0)
    step = tall + 3 * ROW
    sheet = Sheet.of(
        across, 2 * MARGIN + 4 * ROW + ceil(len(chosen) / columns) * step, Font.of([title, caption]), theme
    )
    sheet.text(MARGIN, MARGIN, sheet.font.shorten(title, 8.5, across - 2 * MARGIN), size=8.5, weight="bold")
    for i, head in enumerate(chosen):
        attention = index.head(layer, head).attention(sequence)
        weights = attention[token] if side == "query" else attention[:, token]
        x, y = MARGIN + i % columns * (panel + GAP), MARGIN + 1.6 * ROW + i // columns * step
        _panel(sheet.axes(x, y, panel, tall), album, place, weights, token, side, theme)
        top, rest = int(weights.argmax()), [f"{names[j]} {100 * weights[j]:.1f} %" for j in range(album.n_prefix)]
        told = [
            f"L{layer}H{head}: most {names[top]} {100 * weights[top]:.1f} %",
            *(rest if top >= album.n_prefix else []),
        ]
        sheet.text(x, y + tall + 0.04, sheet.font.shorten(", ".join(told), 7.5, panel))
    end = MARGIN + 1.6 * ROW + ceil(len(chosen) / columns) * step
    draw_scale(sheet, MARGIN, end, 1.2, colormaps["inferno"])
    sheet.text(
        MARGIN + 1.3, end - 0.01, sheet.font.shorten(caption, 7, across - 2 * MARGIN - 1.3), size=7, colour="muted"
    )
    return sheet.figure


def _panel(axes: Axes, album: Album, place: int, weights: FloatArray, token: int, side: Kind, theme: Theme) -> None:
    """Draw an image, the heat map of one head over it, the chosen patch and an arrow to or from the strongest other one."""
    picture = pixels(album, place)
    height, width = picture.shape[:2]
    axes.imshow(picture, extent=(0, width, height, 0))
    of_patches = weights[album.n_prefix :].reshape(album.rows, album.columns)
    extent = (0, album.columns * album.patch_width, album.rows * album.patch_height, 0)
    axes.imshow(of_patches, extent=extent, cmap="inferno", alpha=HEAT, vmin=0, interpolation="nearest")
    axes.set(xlim=(0, width), ylim=(height, 0))
    top = album.n_prefix + int(np.argmax(of_patches))
    ends = {}
    for at, kind in ((top, "key" if side == "query" else "query"), (token, side)):
        cell = album.cell(at)
        if cell is None:
            continue
        colour = (QUERY_COLOUR if kind == "query" else KEY_COLOUR)[theme]
        corner = (cell[1] * album.patch_width, cell[0] * album.patch_height)
        for line, edge in ((3.0, "white"), (1.6, colour)):
            box = Rectangle(corner, album.patch_width, album.patch_height, fill=False, linewidth=line, edgecolor=edge)
            axes.add_patch(box)
        ends[kind] = (corner[0] + album.patch_width / 2, corner[1] + album.patch_height / 2)
    if len(ends) == 2 and top != token:
        for line, colour in ((2.6, "black"), (1.2, "white")):
            look = {"arrowstyle": "-|>", "linewidth": line, "color": colour, "shrinkA": 0, "shrinkB": 0}
            axes.annotate("", ends["key"], ends["query"], arrowprops=look)
