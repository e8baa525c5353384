"""Select: what the page shows, as a pure function of the index and what the visitor chose.

In: an index and a `State`. Out: plain arrays for points and links. Knows no widgets and draws nothing; two visitors have
two states and share only what is read from disk.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from qkspace import store
from qkspace.app.colours import (
    OTHER,
    QUERY_KEY,
    SHARES,
    Colouring,
    Legend,
    colour_hues,
    colour_of_share,
    colour_tokens,
    colourable,
    hidden_kinds,
    pack,
)
from qkspace.app.language import say, spoken
from qkspace.app.pictures import album_of, mean_colours
from qkspace.app.state import Kind, Language, State
from qkspace.index import Head, Index, View
from qkspace.report import verdict
from qkspace.schema import FloatArray, IntArray, QKSpaceError

if TYPE_CHECKING:
    from qkspace.live import LiveSequence
    from qkspace.search import Hits

KINDS: tuple[Kind, Kind] = ("query", "key")
N_LABELS = 6  # partners of the clicked point that are labelled on the map
MAX_TOKENS = (
    30_000  # drawn one by one; the map of a larger index is an image, its pictures show whole sequences at random
)
BLOCK_ROWS = 131_072  # of a stored array that are read at once
LEAST_SHOWN = 0.02  # attention below which a clicked token is not joined to a partner
FAINT = 0x1C  # alpha of what is not picked out: it fades, and does not vanish
LARGER = 1.6  # size of what is picked out, 1 being that of the rest
N_TOP = 3  # partners of a point that its tooltip lists
LINKED_BY = ("layer", "head", "n_links", "threshold", "special", "itself", "first")  # parts of a state
FREQUENCY, NORM, MOD5, SEQUENCE = "how often the token occurs", "length of the vector", "position mod 5", "sequence"
SHARE = "decided by position"
OF_A_HEAD = (NORM, SHARE)  # colours that each head has of its own
PATCH = "colour of the patch"
OWN_COLUMNS = {  # of the token table, which the page has names for, by what it speaks of
    "image": ("row", "column", "hue", "saturation", "brightness", "position", "kind"),
    "audio": ("time", "loudness", "frequency", "duration", "position", "kind"),
    "cross": ("side",),
}
COLOUR_NAMES = {  # the names of what the page calls them
    QUERY_KEY: "colour_query_key",
    "kind": "colour_kind",
    "position": "colour_position",
    MOD5: "colour_mod5",
    SEQUENCE: "colour_sequence",
    NORM: "colour_norm",
    SHARE: "stat_position_share",
    FREQUENCY: "colour_frequency",
    PATCH: "colour_patch",
}


@dataclass(frozen=True, slots=True)
class Points:
    """The points of one kind: row, place (point, dims) and partners (point, N_TOP) with their weights.

    Rows are of the whole index.
    """

    row: IntArray
    place: FloatArray
    partner: IntArray
    weight: FloatArray


@dataclass(frozen=True, slots=True)
class Links:
    """Lines from a query to a key: ends (link, dims) and attention (link)."""

    start: FloatArray
    end: FloatArray
    attention: FloatArray


@dataclass(frozen=True, slots=True)
class Chosen:
    """The clicked point's sequence: rows, and place of each kind (token, dims); picked (0 or 1 point, dims); labels."""

    rows: IntArray
    place: dict[Kind, FloatArray]
    picked: FloatArray
    label_place: FloatArray
    label_text: list[str]
    label_kind: list[Kind]


class Shown:
    """The part of an index that is drawn point by point: all of it, or whole sequences chosen at random of a large one."""

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
        self.modality = str(index.manifest.get("modality", "text"))  # what the tokens are of
        self.part = str(index.manifest["check"].get("part", "self"))  # of the model's attention
        self.subject = self.part if self.modality == "text" else self.modality  # what the page speaks of
        self.reads_texts = self.modality == "text" and self.part not in ("decoder", "cross")  # of a visitor
        self.is_large = index.n_tokens > MAX_TOKENS  # its map shows all tokens, as an image where they are many
        self.rows = np.flatnonzero(self.is_shown)
        self.sequence_number = np.repeat(np.arange(len(lengths)), lengths)  # of each row, as in index.sequences

    @cached_property
    def head_table(self) -> pd.DataFrame:
        """Statistics and scores of every head."""
        return self.index.head_table()

    @cached_property
    def colour_choices(self) -> list[str]:
        """What points can be coloured by."""
        share = [SHARE] if "position_share" in self.head_table else []
        if self.modality in ("image", "audio"):
            columns = colourable(self.index.tokens, OWN_COLUMNS[self.modality])
            known = [
                name for name in columns if name not in ("red", "green", "blue")
            ]  # which are the patch's own colour
            patch = [PATCH] if self.modality == "image" else []
            return [QUERY_KEY, *patch, *known, SEQUENCE, NORM, *share]
        return [QUERY_KEY, *colourable(self.index.tokens), MOD5, SEQUENCE, NORM, FREQUENCY, *share]

    def position_share(self, layer: int, head: int) -> float:
        """Return the share of a head's attention that position decides; nan where it was not measured."""
        table = self.head_table
        if "position_share" not in table:
            return float("nan")
        return float(table.loc[(table["layer"] == layer) & (table["head"] == head), "position_share"].iloc[0])

    def colour_labels(self, language: Language = "en") -> list[tuple[str, str]]:
        """Return the choices of colour with what the page calls them."""
        return [(choice, colour_name(choice, language, self.subject)) for choice in self.colour_choices]

    @cached_property
    def frequency(self) -> pd.Series[Any]:
        """How often each row's token occurs in the index."""
        ids = self.index.tokens["token_id"]
        return pd.Series(np.log10(ids.map(ids.value_counts()).to_numpy()))

    @property
    def methods(self) -> list[str]:
        """The methods that have a map in the plane, unfold before the others: the page opens with the first."""
        return sorted((method for method, dims in self.index.maps if dims == 2), key=lambda method: method != "unfold")

    @cached_property
    def text_length(self) -> IntArray:
        """How many characters each row's token has."""
        texts = self.index.tokens["text"].astype("string").str.len()
        return np.minimum(texts.fillna(0).to_numpy(dtype=np.int32), 24)

    @cached_property
    def text_code(self) -> IntArray:
        """A number for each row's token, the same for equal texts."""
        return np.asarray(pd.factorize(self.index.tokens["text"])[0], dtype=np.int64)

    def dims(self, method: str) -> list[int]:
        """The dimensions in which there is a map of a method; it can always be drawn in the plane, or not at all."""
        return sorted(dims for name, dims in self.index.maps if name == method)

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
        return self.head(state).projection(state.method, state.dims)

    def solid(self, state: State, kind: Kind, rows: IntArray | slice) -> FloatArray:
        """Return where rows of a kind lie on the chosen map: (row, dims)."""
        view = self.view(state)
        return np.asarray((view.query if kind == "query" else view.key)[rows])

    def place(self, state: State, kind: Kind, rows: IntArray | slice) -> FloatArray:
        """Return where rows of a kind lie on the screen: (row, 2); a map in space is looked at from the chosen side."""
        return seen(self.solid(state, kind, rows), state)

    def sequence_rows(self, row: int) -> slice:
        """Return the rows of the sequence that a row is in."""
        i = int(self.sequence_number[row])
        return slice(int(self.index.row_starts[i]), int(self.index.row_starts[i + 1]))


def camera(state: State) -> FloatArray:
    """Return the directions in space that run across and up the screen: (2, 3).

    yaw turns the map about its third axis, pitch tilts that axis towards the visitor; both in degrees.
    """
    yaw, pitch = np.deg2rad(state.yaw), np.deg2rad(state.pitch)
    across = (np.cos(yaw), np.sin(yaw), 0.0)
    up = (-np.sin(yaw) * np.sin(pitch), np.cos(yaw) * np.sin(pitch), np.cos(pitch))
    return np.array([across, up])


def seen(solid: FloatArray, state: State) -> FloatArray:
    """Return where points of a map (point, dims) are on the screen: (point, 2)."""
    return solid if solid.shape[-1] == 2 else np.asarray(solid @ camera(state).T, dtype=np.float32)


@dataclass(frozen=True, slots=True)
class Scene:
    """What all parts of a page show at one moment, worked out once: the state, its colours, hits, and the live sentence.

    hits: what a search found, None without one. live: the sentence that the visitor typed, once the model has read it.
    trouble: what is wrong with the search; live_says: how it stands with the live sentence.
    """

    shown: Shown
    state: State
    colours: Colouring
    hits: Hits | None = None
    live: LiveSequence | None = None
    trouble: str = ""
    live_says: str = ""

    @property
    def hit_rows(self) -> IntArray | None:
        """The rows that a search found; None without a search."""
        return None if self.hits is None else self.hits.rows


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
    head, rows = shown.head(state), shown.rows
    top_key, top_attention = head.top_key[rows], head.top_attention[rows]
    here = np.where(
        top_key >= 0, np.searchsorted(rows, top_key), -1
    )  # a partner is in the same sequence, so is drawn too
    queries, weights = strongest_queries(here, top_attention)
    attended_by = (np.where(queries >= 0, rows[queries], -1), weights)
    partners = {"query": (top_key[:, :N_TOP], top_attention[:, :N_TOP]), "key": attended_by}
    return {kind: Points(rows, shown.solid(state, kind, rows), *partners[kind]) for kind in KINDS}


def strongest_queries(top_key: IntArray, top_attention: FloatArray) -> tuple[IntArray, FloatArray]:
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
    layer, head = (state.layer, state.head) if state.colour in OF_A_HEAD else (0, 0)
    asked = State(colour=state.colour, theme=state.theme, language=state.language, layer=layer, head=head)
    return _colouring(shown, asked)


@lru_cache(maxsize=8)
def _colouring(shown: Shown, state: State) -> Colouring:
    """Return what `colouring` does, of a state that says no more than what colours depend on; nobody changes it."""
    state = replace(state, language=spoken(state.language, shown.subject))
    if state.colour == QUERY_KEY:
        colours = colour_tokens(QUERY_KEY, None, state.theme, state.language)
        n = shown.index.n_tokens
        return Colouring(np.repeat(colours.query, n), np.repeat(colours.key, n), colours.legend)
    if state.colour == FREQUENCY:
        colours = colour_tokens(FREQUENCY, shown.frequency, state.theme)
        low, high = (f"{10 ** float(end):,.0f}" for end in np.nanpercentile(shown.frequency, [1, 99]))
        return replace(colours, legend=Legend(say(state.language, "legend_frequency"), (), low, high))
    if state.colour == NORM:
        norms = vector_norms(shown, state.layer, state.head)
        both = pd.Series(np.concatenate([norms["query"], norms["key"]]))
        colours = colour_tokens(say(state.language, "legend_norm"), both, state.theme)
        n = shown.index.n_tokens
        return Colouring(colours.query[:n], colours.key[n:], colours.legend)
    title = _title(shown, state)
    if state.colour == SHARE:
        colour = colour_of_share(shown.position_share(state.layer, state.head), state.theme)
        all_alike = np.full(shown.index.n_tokens, colour, dtype=np.uint32)
        note = say(state.language, "legend_position_share")
        return Colouring(all_alike, all_alike, Legend(title, (), "0 %", "100 %", scale=SHARES, note=note))
    if shown.modality == "image" and state.colour == "hue":
        return colour_hues(title, shown.index.tokens["hue"].to_numpy(dtype=np.float64, na_value=np.nan), state.theme)
    if shown.modality == "image" and state.colour == PATCH:
        return _own_colours(shown, state, title)
    colours = colour_tokens(state.colour, colour_values(shown, state), state.theme, state.language)
    return replace(colours, legend=replace(colours.legend, title=title))


def _title(shown: Shown, state: State) -> str:
    """Return what the legend calls what points are coloured by."""
    is_ours = state.colour in COLOUR_NAMES or state.colour in OWN_COLUMNS.get(shown.subject, ())
    return colour_name(state.colour, state.language, shown.subject) if is_ours else state.colour


def _own_colours(shown: Shown, state: State, title: str) -> Colouring:
    """Colour patches of images as they are on average; the legend shows the mean of all."""
    album, special = album_of(shown.index), shown.index.tokens["is_special"].to_numpy(dtype=bool)
    assert album is not None  # of an index of images alone
    colours = mean_colours(album)
    colours[special] = pack([OTHER[state.theme]])[0]
    mean = shown.index.tokens[["red", "green", "blue"]].mean().round().astype(int)
    named = (
        (say(state.language, "legend_patch"), "#{:02X}{:02X}{:02X}".format(*mean), int((~special).sum())),
        (say(state.language, "kind_special"), OTHER[state.theme], int(special.sum())),
    )
    kinds = ("patch", "special")
    some = 2 if special.any() else 1
    return Colouring(colours, colours, Legend(title, named[:some], kinds=kinds[:some]))


@lru_cache(maxsize=4)
def vector_norms(shown: Shown, layer: int, head: int) -> dict[Kind, FloatArray]:
    """Return the lengths of a head's queries and keys, of every row of the index, read in blocks."""
    which: dict[Kind, int] = {"query": head, "key": shown.index.head(layer, head).kv_head}
    norms: dict[Kind, FloatArray] = {}
    for kind, i in which.items():
        stored = store.read_array(shown.index.root / kind / f"L{layer:02d}.npy")[i]
        blocks = (store.float_array(stored[start : start + BLOCK_ROWS]) for start in range(0, len(stored), BLOCK_ROWS))
        norms[kind] = np.concatenate([np.linalg.norm(block, axis=1) for block in blocks])
    return norms


def colour_name(choice: str, language: Language, subject: str = "text") -> str:
    """Return what the page calls a choice of colour."""
    language = spoken(language, subject)
    if choice in OWN_COLUMNS.get(subject, ()):
        return say(language, f"colour_{choice}")
    if choice in COLOUR_NAMES:
        return say(language, COLOUR_NAMES[choice])
    return say(language, "colour_of_corpus", column=choice)


def colour_values(shown: Shown, state: State) -> pd.Series[Any]:
    """Return the values that tokens are coloured by, of every row of the index.

    Raises:
        QKSpaceError: there is no such column.
    """
    if state.colour == MOD5:
        return (shown.index.tokens["position"] % 5).astype("string")
    if state.colour == SEQUENCE:
        return pd.Series(shown.sequence_number % 10).astype("string")
    if state.colour == PATCH and shown.modality == "image":
        return shown.index.tokens["kind"]
    if state.colour not in shown.colour_choices:
        raise QKSpaceError(f"No column {state.colour!r} to colour by; there are {', '.join(shown.colour_choices)}.")
    return shown.index.tokens[state.colour]


def packed_colours(
    shown: Shown,
    state: State,
    colours: Colouring,
    hits: IntArray | None = None,
    rows: dict[Kind, IntArray] | None = None,
) -> dict[Kind, NDArray[np.uint32]]:
    """Return points' colours with alpha: all alike, or what is picked out strong and the rest faint.

    Picked out is what lies in the clicked token's sequence, in the selected region, among the hits of a search and in no
    kind that the legend hides: all of these that there are. rows: of each kind; by default all that are drawn.
    """
    packed = {}
    for kind in KINDS:
        mine = shown.rows if rows is None else rows[kind]
        own = colours.query if kind == "query" else colours.key
        strong = emphasis(shown, state, kind, hits, mine)
        if strong is None:
            many = 0x78 if rows is None else 0x98  # in the place of an image, which is stronger
            alpha = np.full(len(mine), many if len(mine) > 4_000 else 0xA8, dtype=np.uint32)
        else:
            alpha = np.where(strong, 0xFF, FAINT).astype(np.uint32)
        packed[kind] = own[mine] | alpha
    return packed


def emphasis(
    shown: Shown, state: State, kind: Kind, hits: IntArray | None = None, rows: IntArray | slice | None = None
) -> NDArray[np.bool_] | None:
    """Return which points of a kind, by default all that are drawn, are picked out: (row); None where nothing is."""
    rows, masks = shown.rows if rows is None else rows, []
    if state.selected is not None:
        masks.append(shown.sequence_number[rows] == shown.sequence_number[state.selected[1]])
    if hits is not None:
        found = np.zeros(shown.index.n_tokens, dtype=bool)
        found[hits] = True
        masks.append(found[rows])
    if state.hidden:
        masks.append(~hidden_points(shown, state, kind)[rows])
    if state.region:
        masks.append(_in_region(shown, state, kind, rows))
    return None if not masks else np.logical_and.reduce(masks)


def hidden_points(shown: Shown, state: State, kind: Kind) -> NDArray[np.bool_]:
    """Return which points of a kind the legend hides: (token)."""
    if state.colour == QUERY_KEY:
        return np.full(shown.index.n_tokens, kind in state.hidden)
    if state.colour in (*OF_A_HEAD, FREQUENCY):
        return np.zeros(shown.index.n_tokens, dtype=bool)
    return _hidden_tokens(shown, State(colour=state.colour, hidden=state.hidden))


@lru_cache(maxsize=4)
def _hidden_tokens(shown: Shown, state: State) -> NDArray[np.bool_]:
    return hidden_kinds(colour_values(shown, state), state.hidden)


def inside(place: FloatArray, region: Sequence[tuple[float, float]]) -> NDArray[np.bool_]:
    """Tell which places (point, 2) lie within a polygon, by the parity of its edges to the right of each."""
    corners = np.asarray(region, dtype=np.float64)
    found = np.zeros(len(place), dtype=bool)
    x, y = place[:, 0], place[:, 1]
    for (x0, y0), (x1, y1) in zip(corners, np.roll(corners, -1, axis=0), strict=True):
        if y0 != y1:
            crosses = (y0 > y) != (y1 > y)
            found ^= crosses & (x < (x1 - x0) * (y - y0) / (y1 - y0) + x0)
    return found


def _in_region(shown: Shown, state: State, kind: Kind, rows: IntArray | slice) -> NDArray[np.bool_]:
    """Tell which of some rows of a kind lie in the selected region; a block at a time, and few points edge by edge."""
    rows = np.arange(shown.index.n_tokens)[rows] if isinstance(rows, slice) else rows
    corners = np.asarray(state.region, dtype=np.float64)
    low, high = corners.min(axis=0), corners.max(axis=0)
    found = np.zeros(len(rows), dtype=bool)
    for start in range(0, len(rows), BLOCK_ROWS):
        place = shown.place(state, kind, rows[start : start + BLOCK_ROWS])
        near = np.flatnonzero(((place >= low) & (place <= high)).all(axis=1))
        found[start + near] = inside(place[near], state.region)
    return found


def region_rows(shown: Shown, state: State) -> dict[Kind, IntArray]:
    """Return the rows of each kind, of those that the map shows, that lie in the selected region."""
    if not state.region:
        return {kind: np.zeros(0, dtype=np.int64) for kind in KINDS}
    rows = np.arange(shown.index.n_tokens) if shown.is_large else shown.rows
    return {kind: rows[_in_region(shown, state, kind, rows)] for kind in KINDS}


def stressed(shown: Shown, state: State, hits: IntArray | None = None) -> dict[Kind, FloatArray]:
    """Return how large the drawn points are, as `sizes` does, but what a search, a region or the legend picks out larger.

    Only where that is the smaller part of a kind: else everything would grow.
    """
    size = sizes(shown, state)
    if hits is None and not state.region and not state.hidden:
        return size
    for kind in KINDS:
        strong = emphasis(shown, state, kind, hits)
        if strong is not None and strong.mean() < 0.5:
            size[kind] = np.where(strong, LARGER * size[kind], size[kind]).astype(np.float32)
    return size


def sizes(shown: Shown, state: State, rows: dict[Kind, IntArray] | None = None) -> dict[Kind, FloatArray]:
    """Return how large points are, 1 being usual: all alike, or by the length of their vector.

    rows: of each kind; by default all that are drawn.
    """
    rows = dict.fromkeys(KINDS, shown.rows) if rows is None else rows
    if not state.by_norm:
        return {kind: np.ones(len(rows[kind]), dtype=np.float32) for kind in KINDS}
    norms = vector_norms(shown, state.layer, state.head)
    found: dict[Kind, FloatArray] = {}
    for kind in KINDS:  # each by itself: queries may all be longer than keys, as the colour by length tells
        low, high = np.percentile(norms[kind][shown.rows], [1, 99])
        mine = norms[kind][rows[kind]]
        share = np.clip((mine - low) / (high - low), 0, 1) if high > low else np.full(len(mine), 0.5)
        found[kind] = (0.5 + 1.6 * share).astype(np.float32)
    return found


def corpus_links(shown: Shown, state: State) -> Links:
    """Return the strongest pairs of the head over everything that the map shows."""
    said = {name: getattr(state, name) for name in LINKED_BY}
    weight, rows = _strongest_pairs(shown, State(**said))
    return _links(shown, state, rows[:, 0], rows[:, 1], weight)


@lru_cache(maxsize=16)
def _strongest_pairs(shown: Shown, state: State) -> tuple[FloatArray, IntArray]:
    """Return attention (pair) and rows (pair, query and key) of the strongest pairs, strongest first, else as the corpus.

    The stored top keys are read a block at a time, and only what is stronger than all found before is looked at.
    """
    excluded = _unlinked(shown, state)
    stored = [
        store.read_array(shown.index.root / name / f"L{state.layer:02d}.npy")[state.head]
        for name in ("top_attention", "top_key")
    ]
    weight: FloatArray = np.zeros(0, dtype=np.float32)
    rows: IntArray = np.zeros((0, 2), dtype=np.int64)
    least = state.threshold
    for start in range(0, len(excluded), BLOCK_ROWS):
        attention = store.float_array(stored[0][start : start + BLOCK_ROWS])
        flat = np.flatnonzero((attention >= least) & (attention > 0))
        query, key = start + flat // attention.shape[1], stored[1][start : start + BLOCK_ROWS].ravel()[flat]
        keep = (key >= 0) & ~excluded[query] & ~excluded[key]
        if not state.itself:
            keep &= key != query
        weight = np.concatenate([weight, attention.ravel()[flat[keep]]])
        rows = np.concatenate([rows, np.stack([query[keep], key[keep]], axis=1)])
        order = np.argsort(-weight, kind="stable")[: state.n_links]
        weight, rows = weight[order], rows[order]
        if 0 < len(weight) == state.n_links:
            least = max(least, float(weight[-1]))
    return weight, rows


def _unlinked(shown: Shown, state: State) -> NDArray[np.bool_]:
    """Return the rows that no link may touch: (token)."""
    excluded = np.zeros(shown.index.n_tokens, dtype=bool) if shown.is_large else ~shown.is_shown
    if not state.special:
        excluded |= shown.index.tokens["is_special"].to_numpy()
    if not state.first:
        excluded |= shown.index.tokens["position"].to_numpy() == 0
    return excluded


def selected_links(shown: Shown, state: State) -> Links:
    """Return the clicked query's links to the keys it attends to, or the clicked key's to the queries that attend to it.

    With `whole`, those of all queries of its sequence, of at least `threshold` attention.
    """
    if state.selected is None:
        none = np.zeros((0, state.dims), dtype=np.float32)
        return Links(none, none, none[:, 0])
    kind, row = state.selected
    rows = shown.sequence_rows(row)
    if state.whole:
        weight = shown.head(state).attention(int(shown.index.tokens["sequence"].iloc[row]))
        query, key = np.nonzero(weight >= max(state.threshold, LEAST_SHOWN))
        return _links(shown, state, query + rows.start, key + rows.start, weight[query, key])
    weight = selected_attention(shown, state)
    others = np.arange(rows.start, rows.stop)
    keep = weight >= LEAST_SHOWN
    clicked = np.full(len(others), row)
    query, key = (clicked, others) if kind == "query" else (others, clicked)
    return _links(shown, state, query[keep], key[keep], weight[keep])


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
        none = np.zeros((0, state.dims), dtype=np.float32)
        return Chosen(np.zeros(0, dtype=int), {"query": none, "key": none}, none, none, [], [])
    kind, row = state.selected
    other: Kind = "key" if kind == "query" else "query"
    span = shown.sequence_rows(row)
    rows = np.arange(span.start, span.stop)
    place = {kind: shown.solid(state, kind, rows) for kind in KINDS}
    attention = selected_attention(shown, state)
    partners = [i for i in np.argsort(-attention, kind="stable")[:N_LABELS] if attention[i] >= LEAST_SHOWN]
    at = row - span.start
    text = shown.index.tokens["text"].iloc[rows].astype(str).tolist()
    place_of = np.concatenate([place[kind][[at]], place[other][partners]])
    texts, kinds = [text[i] for i in [at, *partners]], [kind, *[other] * len(partners)]
    free = without_overlap(seen(place_of, state), [len(word) for word in texts], pixel)
    return Chosen(
        rows=rows,
        place=place,
        picked=place[kind][[at]],
        label_place=place_of[free],
        label_text=[texts[i] for i in free],
        label_kind=[kinds[i] for i in free],
    )


def first_partners(shown: Shown, state: State) -> list[tuple[Kind, int]]:
    """Return the clicked point and the partners it is linked to most: kind and row of each; none where nothing is clicked."""
    if state.selected is None:
        return []
    kind, row = state.selected
    other: Kind = "key" if kind == "query" else "query"
    attention, start = selected_attention(shown, state), shown.sequence_rows(row).start
    partners = [i for i in np.argsort(-attention, kind="stable")[:N_LABELS] if attention[i] >= LEAST_SHOWN]
    return [(kind, row), *((other, start + int(i)) for i in partners)]


def sequence_of(shown: Shown, state: State) -> int:
    """Return the sequence of the clicked token, or the one that was asked for, or the first."""
    tokens = shown.index.tokens["sequence"]
    if state.selected is not None:
        return int(tokens.iloc[state.selected[1]])
    return int(tokens.iloc[0]) if state.sequence is None else state.sequence


@dataclass(frozen=True, slots=True)
class Live:
    """The live sentence on the map: place of each kind (token, dims), links, and the text of each token.

    linked: the keys that a link ends at, of those that are named beside the queries.
    """

    place: dict[Kind, FloatArray]
    links: Links
    text: list[str]
    linked: IntArray


def live_points(scene: Scene, pixel: float = 0.0) -> Live:
    """Return where the live sentence lies on the chosen map, and the strongest key of each of its queries.

    Links leave out what those of the corpus do. pixel: size of a pixel in units of the map; a key that lies at a query of
    the same text is not named once more.
    """
    state = scene.state
    none = np.zeros((0, state.dims), dtype=np.float32)
    if scene.live is None or scene.shown.view(state).reason:  # which the card of the head says
        return Live({"query": none, "key": none}, Links(none, none, none[:, 0]), [], np.zeros(0, dtype=np.int64))
    from qkspace.live import place

    placed = place(scene.shown.index, scene.live, state.layer, state.head, state.method, state.dims)
    text = scene.live.tokens["text"].astype(str).tolist()
    rows, columns, attention = _live_pairs(scene.live, state)
    links = Links(placed.query[rows], placed.key[columns], attention)
    places = {kind: seen(getattr(placed, kind), state) for kind in KINDS}
    named = [j for j in np.unique(columns) if not _is_named(text, j, places["query"], places["key"][j], pixel)]
    return Live({"query": placed.query, "key": placed.key}, links, text, np.asarray(named, dtype=np.int64))


def _live_pairs(live: LiveSequence, state: State) -> tuple[IntArray, IntArray, FloatArray]:
    """Return queries of the live sentence, the strongest key of each that links may touch, and the attention to it."""
    attention, excluded = live.attention(state.layer, state.head).copy(), np.zeros(len(live.tokens), dtype=bool)
    if not state.special:
        excluded |= live.tokens["is_special"].to_numpy(dtype=bool)
    if not state.first:
        excluded |= live.tokens["position"].to_numpy() == 0
    attention[excluded], attention[:, excluded] = 0, 0
    if not state.itself:
        np.fill_diagonal(attention, 0)
    columns = attention.argmax(axis=1)
    weight = attention[np.arange(len(attention)), columns]
    rows = np.flatnonzero(weight > 0)
    return rows, columns[rows], weight[rows]


def _is_named(text: list[str], key: int, queries: FloatArray, place: FloatArray, pixel: float) -> bool:
    """Tell whether the name of a key would lie over that of a query of the same text, at 7 x 17 pixels a character."""
    near = np.abs(queries - place) < np.array([7 * len(text[key]) + 8, 17]) * pixel
    return any(text[i] == text[key] for i in np.flatnonzero(near.all(axis=1)))


def without_overlap(place: FloatArray, n_characters: list[int], pixel: float) -> list[int]:
    """Choose labels, the first ones first, whose boxes (about 7 x 17 pixels a character) do not lie over each other."""
    free: list[int] = []
    for i, (x, y) in enumerate(place):
        boxes = ((place[j], (7 * n_characters[j] + 8) * pixel) for j in free)
        width = (7 * n_characters[i] + 8) * pixel
        if not any(x < left[0] + w and left[0] < x + width and abs(y - left[1]) < 17 * pixel for left, w in boxes):
            free.append(i)
    return free


def _links(shown: Shown, state: State, query: IntArray, key: IntArray, attention: FloatArray) -> Links:
    return Links(shown.solid(state, "query", query), shown.solid(state, "key", key), np.asarray(attention))


def nearest(shown: Shown, state: State, x: float, y: float, radius: float) -> tuple[Kind, int] | None:
    """Return the drawn point nearest to a place on the map, no further than `radius`; None if there is none.

    While a sequence is picked out, its points come before the faint ones around them.
    """
    best: list[tuple[bool, float, Kind, int]] = []
    picked = None if state.selected is None else shown.sequence_number[state.selected[1]]
    for kind in KINDS:
        place = shown.place(state, kind, shown.rows)
        distance = np.hypot(place[:, 0] - x, place[:, 1] - y)
        near = np.flatnonzero(distance <= radius)
        best += [
            (bool(shown.sequence_number[shown.rows[i]] != picked), float(distance[i]), kind, int(shown.rows[i]))
            for i in near
        ]
    return min(best)[2:] if best else None
