"""Select: what the page shows, as a pure function of the index and what the visitor chose.

In: an index and a `State`. Out: plain arrays for points and links. Knows no widgets and draws nothing; two visitors have
two states and share only what is read from disk.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from qkspace.app.colours import QUERY_KEY, Colouring, Legend, colour_tokens, colourable
from qkspace.index import Head, Index, View, strongest
from qkspace.report import verdict
from qkspace.schema import FloatArray, IntArray, QKSpaceError

Kind = Literal["query", "key"]
Theme = Literal["light", "dark"]
KINDS: tuple[Kind, Kind] = ("query", "key")
N_LABELS = 6  # partners of the clicked point that are labelled on the map
MAX_TOKENS = 30_000  # drawn at once; a larger index shows whole sequences chosen at random
LEAST_SHOWN = 0.02  # attention below which a clicked token is not joined to a partner
N_TOP = 3  # partners of a point that its tooltip lists
FREQUENCY, NORM = "how often the token occurs", "length of the vector"  # names no column of a corpus has


@dataclass(frozen=True, slots=True)
class State:
    """What one visitor chose.

    selected: kind ("query" or "key") and row of the clicked point; n_links strongest pairs of at least `threshold`
    attention are linked; special, itself, first: whether links may touch special tokens, join a token to itself, or
    touch the first token of a sequence.
    """

    layer: int = 0
    head: int = 0
    method: str = "pca"
    colour: str = QUERY_KEY
    n_links: int = 100
    threshold: float = 0.1
    special: bool = False
    itself: bool = False
    first: bool = False
    selected: tuple[Kind, int] | None = None
    theme: Theme = "light"


@dataclass(frozen=True, slots=True)
class Points:
    """The points of one kind: row, x, y and partners (point, N_TOP) with their weights; rows are of the whole index."""

    row: IntArray
    x: FloatArray
    y: FloatArray
    partner: IntArray
    weight: FloatArray


@dataclass(frozen=True, slots=True)
class Links:
    """Lines from a query to a key: ends (link, x and y) and attention (link)."""

    start: FloatArray
    end: FloatArray
    attention: FloatArray


@dataclass(frozen=True, slots=True)
class Chosen:
    """The clicked point's sequence: rows, and place of each kind (token, 2); picked (0 or 1 point, 2); labels."""

    rows: IntArray
    place: dict[Kind, FloatArray]
    picked: FloatArray
    label_place: FloatArray
    label_text: list[str]
    label_kind: list[Kind]


class Shown:
    """The part of an index that is drawn: all of it, or whole sequences chosen at random of a large one."""

    def __init__(self, index: Index, max_tokens: int = MAX_TOKENS) -> None:
        """Choose the sequences; the same index always shows the same ones."""
        self.index = index
        lengths = index.sequences["n_tokens"].to_numpy()
        self.is_shown = np.ones(index.n_tokens, dtype=bool)
        if index.n_tokens > max_tokens:
            order = np.random.default_rng(0).permutation(len(lengths))
            chosen = np.zeros(len(lengths), dtype=bool)
            chosen[order] = np.cumsum(lengths[order]) <= max_tokens
            chosen[order[0]] = True  # something, also where one sequence is longer than that
            self.is_shown = np.repeat(chosen, lengths)
        self.rows = np.flatnonzero(self.is_shown)
        self.sequence_number = np.repeat(np.arange(len(lengths)), lengths)  # of each row, as in index.sequences

    @cached_property
    def head_table(self) -> pd.DataFrame:
        """Statistics and scores of every head."""
        return self.index.head_table()

    @cached_property
    def colour_choices(self) -> list[str]:
        """What points can be coloured by."""
        return [QUERY_KEY, *colourable(self.index.tokens), NORM, FREQUENCY]

    @property
    def colour_labels(self) -> list[tuple[str, str]]:
        """The choices with what the page calls them."""
        ours = {"kind": "kind of token", "position": "position in the sequence"}
        mine = {QUERY_KEY, NORM, FREQUENCY}
        return [(c, c if c in mine else ours.get(c, f"{c} (of the corpus)")) for c in self.colour_choices]

    @cached_property
    def frequency(self) -> pd.Series[Any]:
        """How often each row's token occurs in the index."""
        ids = self.index.tokens["token_id"]
        return pd.Series(np.log10(ids.map(ids.value_counts()).to_numpy()))

    @property
    def methods(self) -> list[str]:
        """The methods that have a map in the plane, unfold before the others: the page opens with the first."""
        return sorted((method for method, dims in self.index.maps if dims == 2), key=lambda method: method != "unfold")

    def most_faithful(self) -> tuple[int, int]:
        """Return layer and head of the map that says most about the attention between ordinary words."""
        table = self.head_table
        recall = table.get(f"{self.methods[0]}2_recall1_content")
        best = 0 if recall is None or recall.isna().all() else int(np.nanargmax(recall.to_numpy()))
        return int(table["layer"][best]), int(table["head"][best])

    def head(self, state: State) -> Head:
        """Return the chosen head."""
        return self.index.head(state.layer, state.head)

    def view(self, state: State) -> View:
        """Return the chosen map."""
        return self.head(state).projection(state.method, 2)

    def sequence_rows(self, row: int) -> slice:
        """Return the rows of the sequence that a row is in."""
        i = int(self.sequence_number[row])
        return slice(int(self.index.row_starts[i]), int(self.index.row_starts[i + 1]))


@lru_cache(maxsize=8)
def shown_of(index: Index) -> Shown:
    """Return what is drawn of an index; all visitors share it, and nobody changes it."""
    return Shown(index)


def all_heads(shown: Shown, state: State) -> dict[str, NDArray[Any]]:
    """Return layer, head and recall1 of the map of every head (nan where it is not scored), and how large to draw it.

    A map that must not be believed is drawn small.
    """
    table = shown.head_table
    nothing = pd.Series(np.nan, index=table.index)
    recall, content = (table.get(f"{state.method}2_{name}", nothing) for name in ("recall1", "recall1_content"))
    believed = [verdict(*pair) in ("good", "fair") for pair in zip(recall, content, strict=True)]
    return {
        "layer": table["layer"].to_numpy(dtype=np.int32),
        "head": table["head"].to_numpy(dtype=np.int32),
        "recall": recall.to_numpy(dtype=np.float32),
        "size": np.where(believed, 0.92, 0.5).astype(np.float32),
    }


def points(shown: Shown, state: State) -> dict[Kind, Points]:
    """Return where queries and keys lie, and for each its partners: a query's top keys, a key's top queries."""
    view, head = shown.view(state), shown.head(state)
    rows = shown.rows
    top_key, top_attention = head.top_key[rows], head.top_attention[rows]
    here = np.where(
        top_key >= 0, np.searchsorted(rows, top_key), -1
    )  # a partner is in the same sequence, so is drawn too
    queries, weights = _strongest_queries(here, top_attention)
    attended_by = (np.where(queries >= 0, rows[queries], -1), weights)
    partners = {"query": (top_key[:, :N_TOP], top_attention[:, :N_TOP]), "key": attended_by}
    kinds: tuple[tuple[Kind, FloatArray], ...] = (("query", view.query), ("key", view.key))
    return {kind: Points(rows, place[rows, 0], place[rows, 1], *partners[kind]) for kind, place in kinds}


def _strongest_queries(top_key: IntArray, top_attention: FloatArray) -> tuple[IntArray, FloatArray]:
    """Turn each query's top keys round: for each key the N_TOP queries that attend to it most, -1 where there are none."""
    n, k = top_key.shape
    flat = np.flatnonzero(top_key.ravel() >= 0)
    key, weight = top_key.ravel()[flat], top_attention.ravel()[flat]
    order = np.lexsort((-weight, key))
    key, weight, query = key[order], weight[order], (flat // k)[order]
    first = np.searchsorted(key, np.arange(n))
    rank = np.arange(len(key)) - first[key]
    keep = rank < N_TOP
    queries = np.full((n, N_TOP), -1, dtype=np.int32)
    weights = np.zeros((n, N_TOP), dtype=np.float32)
    queries[key[keep], rank[keep]] = query[keep]
    weights[key[keep], rank[keep]] = weight[keep]
    return queries, weights


def colouring(shown: Shown, state: State) -> Colouring:
    """Return the colour of every row of the index, and the legend."""
    if state.colour == QUERY_KEY:
        colours = colour_tokens(QUERY_KEY, None, state.theme)
        n = shown.index.n_tokens
        return Colouring(np.repeat(colours.query, n), np.repeat(colours.key, n), colours.legend)
    if state.colour == FREQUENCY:
        colours = colour_tokens(FREQUENCY, shown.frequency, state.theme)
        low, high = (f"{10 ** float(end):,.0f}" for end in np.nanpercentile(shown.frequency, [1, 99]))
        return replace(colours, legend=Legend(f"{FREQUENCY} (logarithmic)", (), low, high))
    if state.colour == NORM:
        head = shown.head(state)
        both = np.linalg.norm(np.concatenate([head.query, head.key]), axis=1)
        colours = colour_tokens("length of the vector, as captured", pd.Series(both), state.theme)
        return Colouring(colours.query[: len(head.query)], colours.key[len(head.query) :], colours.legend)
    if state.colour not in shown.colour_choices:
        raise QKSpaceError(f"No column {state.colour!r} to colour by; there are {', '.join(shown.colour_choices)}.")
    return colour_tokens(state.colour, shown.index.tokens[state.colour], state.theme)


def packed_colours(shown: Shown, state: State, colours: Colouring) -> dict[Kind, NDArray[np.uint32]]:
    """Return the drawn points' colours with alpha: all alike, or the clicked token's sequence strong and the rest faint."""
    rows = shown.rows
    if state.selected is None:
        alpha = np.full(len(rows), 0x78 if len(rows) > 4_000 else 0xA8, dtype=np.uint32)
    else:
        inside = shown.sequence_number[rows] == shown.sequence_number[state.selected[1]]
        alpha = np.where(inside, 0xFF, 0x1C).astype(np.uint32)
    return {"query": colours.query[rows] | alpha, "key": colours.key[rows] | alpha}


def corpus_links(shown: Shown, state: State) -> Links:
    """Return the strongest pairs of the head over everything that is drawn."""
    head, tokens = shown.head(state), shown.index.tokens
    excluded = ~shown.is_shown
    if not state.special:
        excluded = excluded | tokens["is_special"].to_numpy()
    if not state.first:
        excluded = excluded | (tokens["position"].to_numpy() == 0)
    weight, rows = strongest(
        head.top_attention,
        head.top_key,
        top=state.n_links,
        threshold=state.threshold,
        excluded=excluded,
        itself=state.itself,
    )
    return _links(shown.view(state), rows[:, 0], rows[:, 1], weight)


def selected_links(shown: Shown, state: State) -> Links:
    """Return the clicked query's links to the keys it attends to, or the clicked key's to the queries that attend to it."""
    if state.selected is None:
        none = np.zeros((0, 2), dtype=np.float32)
        return Links(none, none, none[:, 0])
    kind, row = state.selected
    rows = shown.sequence_rows(row)
    weight = selected_attention(shown, state)
    others = np.arange(rows.start, rows.stop)
    keep = weight >= LEAST_SHOWN
    clicked = np.full(len(others), row)
    query, key = (clicked, others) if kind == "query" else (others, clicked)
    return _links(shown.view(state), query[keep], key[keep], weight[keep])


def selected_attention(shown: Shown, state: State) -> FloatArray:
    """Return the attention between the clicked point and each token of its sequence: (token)."""
    assert state.selected is not None  # the callers ask only then
    kind, row = state.selected
    rows = shown.sequence_rows(row)
    attention = shown.head(state).attention(int(shown.index.tokens["sequence"].iloc[row]))
    return attention[row - rows.start] if kind == "query" else attention[:, row - rows.start]


def sequence_points(shown: Shown, state: State, pixel: float) -> Chosen:
    """Return the points of the clicked token's sequence, and labels for it and the partners it is linked to most.

    pixel: size of a pixel in units of the map; a label that would lie over a stronger one's is left out.
    """
    if state.selected is None:
        none = np.zeros((0, 2), dtype=np.float32)
        return Chosen(np.zeros(0, dtype=int), {"query": none, "key": none}, none, none, [], [])
    kind, row = state.selected
    other: Kind = "key" if kind == "query" else "query"
    span = shown.sequence_rows(row)
    rows = np.arange(span.start, span.stop)
    view = shown.view(state)
    place: dict[Kind, FloatArray] = {"query": view.query[rows], "key": view.key[rows]}
    attention = selected_attention(shown, state)
    partners = [i for i in np.argsort(-attention, kind="stable")[:N_LABELS] if attention[i] >= LEAST_SHOWN]
    at = row - span.start
    text = shown.index.tokens["text"].iloc[rows].astype(str).tolist()
    place_of = np.concatenate([place[kind][[at]], place[other][partners]])
    texts, kinds = [text[i] for i in [at, *partners]], [kind, *[other] * len(partners)]
    free = _without_overlap(place_of, [len(word) for word in texts], pixel)
    return Chosen(
        rows=rows,
        place=place,
        picked=place[kind][[at]],
        label_place=place_of[free],
        label_text=[texts[i] for i in free],
        label_kind=[kinds[i] for i in free],
    )


def _without_overlap(place: FloatArray, n_characters: list[int], pixel: float) -> list[int]:
    """Choose labels, the first ones first, whose boxes (about 7 x 17 pixels a character) do not lie over each other."""
    free: list[int] = []
    for i, (x, y) in enumerate(place):
        boxes = ((place[j], (7 * n_characters[j] + 8) * pixel) for j in free)
        width = (7 * n_characters[i] + 8) * pixel
        if not any(x < left[0] + w and left[0] < x + width and abs(y - left[1]) < 17 * pixel for left, w in boxes):
            free.append(i)
    return free


def _links(view: View, query: IntArray, key: IntArray, attention: FloatArray) -> Links:
    return Links(view.query[query], view.key[key], np.asarray(attention))


def nearest(shown: Shown, state: State, x: float, y: float, radius: float) -> tuple[Kind, int] | None:
    """Return the drawn point nearest to a place on the map, no further than `radius`; None if there is none.

    While a sequence is picked out, its points come before the faint ones around them.
    """
    view = shown.view(state)
    best: list[tuple[bool, float, Kind, int]] = []
    picked = None if state.selected is None else shown.sequence_number[state.selected[1]]
    kinds: tuple[tuple[Kind, FloatArray], ...] = (("query", view.query), ("key", view.key))
    for kind, place in kinds:
        distance = np.hypot(place[shown.rows, 0] - x, place[shown.rows, 1] - y)
        near = np.flatnonzero(distance <= radius)
        best += [
            (bool(shown.sequence_number[shown.rows[i]] != picked), float(distance[i]), kind, int(shown.rows[i]))
            for i in near
        ]
    return min(best)[2:] if best else None
