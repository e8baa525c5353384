"""Layout: what the map of a head shows on paper.

In: an index and what is to be seen of it. Out: places, pairs and a caption, the same for a picture and for a page. What is
drawn is chosen as in the app (`app.select`). Draws nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations, product
from typing import Any

import numpy as np

from qkspace.app import select
from qkspace.app.colours import QUERY_KEY
from qkspace.app.select import KINDS, Shown, shown_of
from qkspace.app.state import Kind, State, Theme
from qkspace.captions import content_words, corpus_words, scores_words
from qkspace.drawing import visible
from qkspace.index import Index, View, strongest
from qkspace.schema import FloatArray, IntArray, QKSpaceError


@dataclass(frozen=True, slots=True)
class MapLayout:
    """What a map shows: places on paper of all queries and keys, (token, x and y) each, and how near the viewer, 0 to 1."""

    shown: Shown
    state: State
    view: View
    place: dict[Kind, FloatArray]
    nearness: dict[Kind, FloatArray]
    box: FloatArray  # (edge, end, x and y): the edges of the space around a map of three dimensions, else none
    hits: IntArray | None = None  # rows that a search found; None without one


def map_layout(
    index: Index,
    layer: int,
    head: int,
    *,
    method: str | None = None,
    dims: int = 2,
    colour: str = QUERY_KEY,
    links: int = 100,
    threshold: float = 0.1,
    special: bool = False,
    itself: bool = False,
    first: bool = False,
    selected: tuple[Kind, int] | None = None,
    theme: Theme = "light",
    yaw: float = 30.0,
    pitch: float = 20.0,
    hidden: Sequence[str] = (),
    search: str = "",
    region: Sequence[tuple[float, float]] = (),
    by_norm: bool = False,
    whole: bool = False,
) -> MapLayout:
    """Return what is to be drawn; the arguments and errors are those of `picture.map_picture`."""
    view = index.head(layer, head).projection(method, dims)
    if view.reason:
        raise QKSpaceError(f"{view.head.name} has no {view.method} map in {dims}-D to draw: {view.reason}.")
    if links < 0:
        raise QKSpaceError(f"links is how many pairs are joined, 0 or more; got {links}.")
    if selected is not None and (selected[0] not in KINDS or not 0 <= selected[1] < index.n_tokens):
        raise QKSpaceError(f"selected is ('query' or 'key', a row from 0 to {index.n_tokens - 1:,}); got {selected}.")
    state = State(
        layer=layer,
        head=head,
        method=view.method,
        colour=colour,
        n_links=links,
        threshold=threshold,
        special=special,
        itself=itself,
        first=first,
        selected=selected,
        theme=theme,
        dims=dims,
        yaw=yaw,
        pitch=pitch,
        hidden=tuple(hidden),
        search=search,
        region=tuple((float(x), float(y)) for x, y in region),
        by_norm=by_norm,
        whole=whole,
    )
    shown = shown_of(index)
    _check_picked(shown, state)
    return replace(_placed(shown, state, view), hits=index.search(search).rows if search else None)


def _check_picked(shown: Shown, state: State) -> None:
    """Refuse a kind that the legend does not have, and a region that encloses nothing."""
    if state.region and (len(state.region) < 3 or not np.isfinite(state.region).all()):
        raise QKSpaceError(f"region is three or more corners (x, y) of an area of the map; got {state.region}.")
    kinds = select.colouring(shown, state).legend.kinds if state.hidden else ()
    unknown = [kind for kind in state.hidden if kind not in kinds]
    if unknown:
        has = f"it has {', '.join(kinds)}" if kinds else "it is a scale, which has none"
        raise QKSpaceError(f"The legend of {state.colour!r} has no kind {unknown[0]!r} to hide; {has}.")


def _placed(shown: Shown, state: State, view: View) -> MapLayout:
    """Place everything on paper; a map in space is seen from afar, so that lengths along the paper stay what they are."""
    if view.dims == 2:
        place: dict[Kind, FloatArray] = {"query": view.query, "key": view.key}
        near = np.ones(len(shown.rows))
        return MapLayout(shown, state, view, place, {"query": near, "key": near}, np.zeros((0, 2, 2)))
    across, up = select.camera(state)
    to_paper = np.stack([across, up, np.cross(across, up)], axis=1)  # columns: right, up, towards the viewer
    turned = {"query": view.query @ to_paper, "key": view.key @ to_paper}
    depth = np.concatenate([turned[kind][shown.rows, 2] for kind in KINDS])
    depth = depth[np.isfinite(depth)]  # a token that asks nothing has no place
    deepest, spread = depth.min(), max(float(np.ptp(depth)), 1e-9)
    nearness: dict[Kind, FloatArray] = {
        kind: np.nan_to_num((turned[kind][shown.rows, 2] - deepest) / spread) for kind in KINDS
    }
    both = np.concatenate([view.query[shown.rows], view.key[shown.rows]])
    corners = np.array(list(product(*zip(np.nanmin(both, axis=0), np.nanmax(both, axis=0), strict=True))))
    edges = [(a, b) for a, b in combinations(range(8), 2) if (a ^ b).bit_count() == 1]
    on_paper: dict[Kind, FloatArray] = {kind: turned[kind][:, :2] for kind in KINDS}
    return MapLayout(shown, state, view, on_paper, nearness, (corners @ to_paper)[:, :2][edges])


def pairs_of(layout: MapLayout) -> tuple[IntArray, FloatArray]:
    """Return rows (pair, query and key) and attention of the pairs that lines join, strongest first."""
    shown, state, tokens = layout.shown, layout.state, layout.shown.index.tokens
    if not state.n_links:
        return np.zeros((0, 2), dtype=int), np.zeros(0)
    excluded = ~shown.is_shown
    if not state.special:
        excluded = excluded | tokens["is_special"].to_numpy()
    if not state.first:
        excluded = excluded | (tokens["position"].to_numpy() == 0)
    head = layout.view.head
    limits: dict[str, Any] = {"top": state.n_links, "threshold": state.threshold, "itself": state.itself}
    weight, rows = strongest(head.top_attention, head.top_key, excluded=excluded, **limits)
    return rows, weight


def own_lines(layout: MapLayout) -> tuple[FloatArray, FloatArray]:
    """Return places on paper (line, query and key, x and y) and attention of the chosen token's own lines."""
    links = select.selected_links(layout.shown, layout.state)
    ends = [select.seen(place, layout.state) for place in (links.start, links.end)]
    return np.stack(ends, axis=1), links.attention


def map_caption(layout: MapLayout, n_links: int) -> str:
    """Say what the picture shows and how far it can be believed, so that it can stand alone."""
    state, index = layout.state, layout.shown.index
    seen = (
        " Seen from one side, along parallel lines: the fainter a point, the farther." if layout.view.dims == 3 else ""
    )
    chosen = ""
    if state.selected is not None:
        kind, row = state.selected
        token = index.tokens.iloc[row]
        chosen = (
            f" Chosen: the {kind} of “{visible(str(token['text']))}”, token {token['position'] + 1} of sequence "
            f"{token['sequence']}, whose queries and keys are drawn large{_whole_words(state)}."
        )
    drawn = (
        ""
        if layout.shown.is_shown.all()
        else f"; drawn are {len(layout.shown.rows):,} of them, whole sequences at random"
    )
    hidden = {"special": "special tokens", "itself": "tokens with themselves", "first": "first tokens"}
    without = [words for name, words in hidden.items() if not getattr(state, name)]
    lines = f" Lines join the {n_links:,} pairs of a query and a key with most attention, at least {state.threshold:g}"
    lines += f" ({' and '.join([', '.join(without[:-1]), without[-1]][-len(without) :])} left out)." if without else "."
    return (
        f"{layout.view.head.name} of {visible(index.model_name)}, {state.method} in {layout.view.dims}-D, on "
        f"{corpus_words(index)}{drawn}. {scores_words(layout.view)}{content_words(layout.view)} Only nearness counts: a query "
        "lies near the keys of its sequence that it attends to, and the axes mean nothing by themselves."
        f"{seen}{lines if n_links else ''}"
        f"{chosen}{_picked_words(layout)}"
    )


def _whole_words(state: State) -> str:
    least = max(state.threshold, select.LEAST_SHOWN)
    return f", and all its pairs of at least {least:g} attention joined" if state.whole else ""


def _picked_words(layout: MapLayout) -> str:
    """Say what is strong where the rest is faint, and what the size of a point means."""
    state, strong = layout.state, []
    if state.selected is not None:
        strong.append("of the chosen token's sequence")
    if layout.hits is not None:
        n = len(layout.hits)
        strong.append(f"hits of the search “{visible(state.search)}” ({n:,} token{'s' * (n != 1)})")
    if state.region:
        strong.append("in the selected region")
    if state.hidden:
        legend = select.colouring(layout.shown, state).legend
        names = {kind: name for kind, (name, _, _) in zip(legend.kinds, legend.entries, strict=True)}
        strong.append(f"not {' or '.join(f'“{visible(names[kind])}”' for kind in state.hidden)}")
    words = f" Strong are the points that are {' and '.join(strong)}; the others are faint." if strong else ""
    size = " The longer a vector among its kind, the larger its point." if state.by_norm else ""
    return words + size
