"""Image words: what the page says of images and patches, as small pieces of HTML.

In: records of an index of images and of `select`. Out: HTML in the visitor's language, in which every name of a file and
every label is escaped. Draws no points.
"""

from __future__ import annotations

import io
from functools import lru_cache
from html import escape
from typing import TYPE_CHECKING

import numpy as np

from qkspace.app.colours import KEY_COLOUR, QUERY_COLOUR
from qkspace.app.language import say
from qkspace.app.pictures import Album, patch_uri, pixels, place_words, small, uri
from qkspace.app.select import KINDS, Shown, selected_attention
from qkspace.app.state import Kind, State
from qkspace.schema import FloatArray, IntArray

if TYPE_CHECKING:
    import pandas as pd

SIDE = 290  # pixels of the picture in a card
PARTNERS = 6  # that are listed
HEAT = 0.7  # opacity of the heat map over a picture
THUMBNAIL = 64  # pixels of a picture in a list
MOST_WEIGHTS = 4_000_000  # that are read for them
MEASURED = 16  # images that the place statistics of a head are measured on


def patch_card(shown: Shown, album: Album, state: State) -> str:
    """Show the clicked patch in its image under the heat map of its attention, and its strongest partners."""
    language = state.language
    if state.selected is None:
        return (
            f'<div class="card"><h2>{_said(state, "token_title")}</h2><p>{_said(state, "token_click")}</p>'
            f'<p class="small muted">{say(language, "token_keys_html")}</p></div>'
        )
    kind, row = state.selected
    place, at = album.place_of(row)
    attention = selected_attention(shown, state)
    text = shown.index.tokens["text"].iloc[place * album.n_tokens : (place + 1) * album.n_tokens].astype(str).tolist()
    where = {"name": album.caption(place), "at": place_words(album, at, language)}
    order = np.argsort(-attention, kind="stable")[:PARTNERS]
    patch = _patch(album, row, 30)
    picture = "" if state.page == "sentence" else _picture(album, place, at, attention, state)
    shading = "" if state.page == "sentence" else _said(state, f"token_shading_{kind}")
    return (
        f'<div class="card"><div class="between"><h2>{_said(state, f"token_{kind}", token=text[at])}</h2>{patch}</div>'
        f'{picture}<p class="small muted" style="margin-top:6px">'
        f"{shading} {_said(state, 'token_place', **where)}</p>"
        f"<table>{_partners(album, place, text, attention, order, kind, state)}</table>"
        f"{_way_on(state)}</div>"
    )


def _said(state: State, name: str, /, **values: object) -> str:
    return escape(say(state.language, name, **values))


def _way_on(state: State) -> str:
    if state.page == "sentence":
        return ""
    return f'<p style="margin:8px 0 0"><button class="link" data-go="page=sentence">{_said(state, "image_open")}</button></p>'


def _patch(album: Album, row: int, side: int) -> str:
    """Return a patch enlarged; nothing for a token before the patches."""
    address = patch_uri(album, row)
    look = f"width:{side}px;height:{side}px;object-fit:cover;border-radius:4px;display:block;image-rendering:pixelated"
    return f'<img alt="" src="{address}" style="{look}">' if address else ""


def _picture(album: Album, place: int, at: int, attention: FloatArray, state: State) -> str:
    """Return the picture of an image under a heat map, with the clicked patch framed and an arrow to the strongest one."""
    height, width = pixels(album, place).shape[:2]
    of_patches = attention[album.n_prefix :]
    across, down = album.columns * album.patch_width, album.rows * album.patch_height
    heat = heat_map(album, of_patches)
    top = album.n_prefix + int(of_patches.argmax())
    hues = {"query": QUERY_COLOUR[state.theme], "key": KEY_COLOUR[state.theme]}
    kind: Kind = state.selected[0] if state.selected else "query"
    other: Kind = "key" if kind == "query" else "query"
    marks = _frame(album, top, hues[other]) + _frame(album, at, hues[kind])
    ends = (at, top) if kind == "query" else (top, at)
    marks += _arrow(album, *ends) if top != at and at >= album.n_prefix else ""
    return (
        f'<svg viewBox="0 0 {width} {height}" style="width:100%;max-width:{SIDE}px;display:block;border-radius:4px" '
        f'role="img" aria-label="{escape(album.caption(place))}"><image href="{small(album, place)}" width="{width}" '
        f'height="{height}" preserveAspectRatio="none"/><image href="{heat}" width="{across}" height="{down}" '
        f'preserveAspectRatio="none" opacity="{HEAT}" style="image-rendering:pixelated"/>{marks}</svg>'
    )


def _box(album: Album, position: int) -> tuple[float, float]:
    row, column = album.cell(position) or (0, 0)
    return column * album.patch_width, row * album.patch_height


def _frame(album: Album, position: int, colour: str) -> str:
    if position < album.n_prefix:
        return ""
    x, y = _box(album, position)
    box = f'x="{x:g}" y="{y:g}" width="{album.patch_width}" height="{album.patch_height}" fill="none"'
    wide = max(album.columns * album.patch_width / SIDE, 0.2)
    return (
        f'<rect {box} stroke="#fff" stroke-width="{4 * wide:.2f}"/>'
        f'<rect {box} stroke="{colour}" stroke-width="{2 * wide:.2f}"/>'
    )


def _arrow(album: Album, start: int, end: int) -> str:
    """Return an arrow from the middle of a patch to that of another."""
    half = np.array([album.patch_width / 2, album.patch_height / 2])
    tail, tip = np.array(_box(album, start)) + half, np.array(_box(album, end)) + half
    wide = max(album.columns * album.patch_width / SIDE, 0.2)
    along = (tip - tail) / np.linalg.norm(tip - tail) * 7 * wide
    aside = np.array([-along[1], along[0]]) / 2
    points = " ".join(f"{x:.1f},{y:.1f}" for x, y in (tip, tip - along + aside, tip - along - aside))
    line = "M{:.1f} {:.1f}L{:.1f} {:.1f}".format(*tail, *(tip - along))
    return "".join(
        f'<path d="{line}" stroke="{colour}" stroke-width="{size * wide:.2f}"/><polygon points="{points}" fill="{colour}" '
        f'stroke="{colour}" stroke-width="{(size - 1.6) * wide:.2f}"/>'
        for colour, size in (("#000", 4.0), ("#fff", 1.6))
    )


def heat_map(album: Album, weights: FloatArray) -> str:
    """Return the address of a heat map, a pixel a patch; weights (patch) from 0 to the largest."""
    from matplotlib import colormaps
    from PIL import Image

    largest = float(weights.max()) or 1.0
    levels = np.clip(weights / largest, 0, 1).reshape(album.rows, album.columns)
    file = io.BytesIO()
    Image.fromarray(colormaps["inferno"](levels, bytes=True)[..., :3]).save(file, format="PNG")
    return uri(file.getvalue())


def _partners(
    album: Album, place: int, text: list[str], attention: FloatArray, order: IntArray, kind: str, state: State
) -> str:
    colour = (KEY_COLOUR if kind == "query" else QUERY_COLOUR)[state.theme]
    largest = max(float(attention[order[0]]), 1e-9)
    other = "key" if kind == "query" else "query"
    return "".join(
        f'<tr><td style="width:26px">{_patch(album, place * album.n_tokens + int(i), 20)}</td>'
        f'<td><button class="link" data-go="selected={other}-{place * album.n_tokens + int(i)}">{escape(text[i])}</button></td>'
        f'<td style="width:45%"><div class="bar" style="background:{colour};'
        f'width:{100 * float(attention[i]) / largest:.1f}%"></div></td>'
        f'<td class="number">{100 * float(attention[i]):.1f} %</td></tr>'
        for i in order
    )


# ---------------------------------------------------------------- lists


def thumbnails(table: pd.DataFrame, album: Album, state: State, chosen: int, *, with_hits: bool) -> str:
    """Return small pictures of sequences (columns sequence and hits), each a button that opens it at the chosen patch's place.

    chosen: the sequence that is shown; with_hits: whether there is a search.
    """
    lines = []
    for each in table.to_dict("records"):
        place = album.index.place(int(each["sequence"]))
        goes = f"sequence={int(each['sequence'])}&amp;selected="
        if state.selected is not None:
            goes += f"{state.selected[0]}-{place * album.n_tokens + album.place_of(state.selected[1])[1]}"
        name = escape(album.caption(place))
        here = "2px solid var(--accent)" if each["sequence"] == chosen else "1px solid var(--line)"
        look = f"width:100%;aspect-ratio:1;object-fit:cover;border-radius:4px;display:block;box-sizing:border-box;border:{here}"
        is_part = with_hits and each["hits"] < album.n_tokens  # all of it: the search was for the image
        hits = f'<span class="small muted">{each["hits"]:,}</span>' if is_part else ""
        lines.append(
            f'<button class="link" title="{name}" aria-label="{name}" data-go="{goes}">'
            f'<img alt="" src="{small(album, place, THUMBNAIL)}" style="{look}">{hits}</button>'
        )
    return f'<div style="display:grid;grid-template-columns:repeat(4,1fr);gap:6px">{"".join(lines)}</div>'


def beside_thumbnail(album: Album, place: int, text: str) -> str:
    """Return HTML beside the small picture of an image."""
    look = f"width:{THUMBNAIL}px;height:{THUMBNAIL}px;object-fit:cover;border-radius:4px;flex:none"
    picture = f'<img alt="" src="{small(album, place, THUMBNAIL)}" style="{look}">'
    return f'<div style="display:flex;gap:10px;align-items:center">{picture}<div>{text}</div></div>'


def places_picture(album: Album, table: pd.DataFrame) -> str:
    """Draw how much attention each place of the images receives; table: columns text (such as r3c5) and total."""
    names = album.index.tokens["text"].iloc[album.n_prefix : album.n_tokens].astype(str)
    total = dict(zip(table["text"].astype(str), table["total"], strict=True))
    heat = heat_map(album, np.array([float(total.get(name, 0.0)) for name in names]))
    across, down = album.columns * album.patch_width, album.rows * album.patch_height
    look = f"width:180px;aspect-ratio:{across}/{down};image-rendering:pixelated;border-radius:4px;display:block"
    return f'<img alt="" src="{heat}" style="{look};margin-bottom:6px">'


def patches_of(album: Album, rows: dict[Kind, IntArray], state: State, most: int) -> str:
    """Return the patches of some rows of each kind, framed as on the map, each a button that selects it."""
    lines = []
    for kind in KINDS:
        radius = "30%" if kind == "query" else "0"
        for row in rows[kind][: most // 2].tolist():
            address = patch_uri(album, row)
            if not address:
                continue
            look = f"width:22px;height:22px;border:2px solid var(--{kind});border-radius:{radius};display:block"
            title = escape(f"{say(state.language, kind)} · {album.caption(album.place_of(row)[0])}")
            lines.append(
                f'<button class="link" title="{title}" data-go="selected={kind}-{row}"><img alt="" src="{address}" '
                f'style="{look};object-fit:cover;image-rendering:pixelated"></button>'
            )
    return f'<div style="display:flex;flex-wrap:wrap;gap:3px">{"".join(lines)}</div>'


# ---------------------------------------------------------------- where a head looks


@lru_cache(maxsize=64)
def place_statistics(shown: Shown, album: Album, layer: int, head: int) -> dict[str, tuple[float, float]]:
    """Return how much of a patch's attention goes to its own row and column, and how far it goes, each beside its chance.

    Means over the patches of at most MEASURED images; attention to tokens before the patches is taken out of the distance.
    """
    row, column = np.divmod(np.arange(album.rows * album.columns), album.columns)
    same_row, same_column = row[:, None] == row, column[:, None] == column
    far = np.hypot(row[:, None] - row, column[:, None] - column)
    numbers = shown.index.sequences["sequence"].to_numpy()
    most = int(np.clip(MOST_WEIGHTS // album.n_tokens**2, 1, MEASURED))
    some = numbers[:: max(1, -(-len(numbers) // most))]
    found = np.zeros(3)
    for sequence in some.tolist():
        attention = shown.index.head(layer, head).attention(sequence)[album.n_prefix :, album.n_prefix :]
        among = attention / np.maximum(attention.sum(axis=1, keepdims=True), 1e-12)
        sums = [(attention * mask).sum(axis=1).mean() for mask in (same_row, same_column)]
        found += [*sums, (among * far).sum(axis=1).mean()]
    means = found / len(some)
    shares = (1 / album.rows, 1 / album.columns, float(far.mean()))
    names = ("attention_to_row", "attention_to_column", "patch_distance")
    return {name: (float(value), chance) for name, value, chance in zip(names, means, shares, strict=True)}


def place_rows(shown: Shown, album: Album, state: State) -> str:
    """Return the rows of the head's card about where on the image it looks."""
    lines = []
    for name, (value, chance) in place_statistics(shown, album, state.layer, state.head).items():
        is_far = name == "patch_distance"
        text = f"{value:.1f}" if is_far else f"{100 * value:.0f} %"
        usual = f"{chance:.1f}" if is_far else f"{100 * chance:.0f} %"
        beside = say(state.language, "stat_by_chance", chance=usual)
        lines.append(
            f'<tr><td class="name"><span class="why" title="{_said(state, f"stat_{name}_tip")}">{_said(state, f"stat_{name}")}'
            f'</span></td><td class="number">{text} <span class="muted">{escape(beside)}</span></td></tr>'
        )
    return "".join(lines)
