"""Compare select: what the two maps of a comparison show, as pure functions of the comparison and what was chosen.

In: a `Comparison` and a `CompareState`. Out: plain arrays for points, links and arrows. Knows no widgets and draws nothing.

The two maps hold the same units (tokens, or words where the tokenizers differ) in the same order, so that the number of a
point on one map is its number on the other.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Literal, Protocol

import numpy as np
from bokeh.palettes import Cividis256
from numpy.typing import NDArray

from qkspace import store
from qkspace.app import select
from qkspace.app.colours import MISSING, QUERY_KEY, Colouring, Legend, pack
from qkspace.app.compare_state import DRIFT, CompareScene, CompareState
from qkspace.app.language import say
from qkspace.app.select import KINDS, LEAST_SHOWN, Links, Shown
from qkspace.app.state import Kind, Language, State
from qkspace.index import Head
from qkspace.schema import BoolArray, FloatArray, IntArray, QKSpaceError

if TYPE_CHECKING:
    from qkspace.comparison.reader import Comparison
    from qkspace.fidelity import Scores

SideName = Literal["base", "tuned"]
SIDES: tuple[SideName, SideName] = ("base", "tuned")
MAX_UNITS = select.MAX_TOKENS  # drawn on a map, each as a query and as a key
N_LINKS = 60  # strongest pairs of a checkpoint that are joined on its map
LEAST_LINK = 0.1  # attention of such a pair
N_NAMED = 25  # arrows that are named
MOST_CHARACTERS = 24  # of such a name
N_LABELS = 5  # partners of the clicked point that are labelled on each map
LEAST_DRIFT = 0.01  # nats that the scale of drift spans at least, so that rounding is not coloured like a change
RECEIVED = "received"  # what points can be coloured by, beside DRIFT and what the explorer has
LOST, GAINED = {"light": "#2166AC", "dark": "#6FB1E8"}, {"light": "#B2182B", "dark": "#F4907A"}
SAME = {"light": "#8A8F98", "dark": "#7C8696"}  # between them; and what another kind of point is coloured by
DRIFT_STEPS = {
    "light": range(156, -1, -1),
    "dark": range(103, 256),
}  # of cividis, in which all stand out from the ground


class Placed(Protocol):
    """A map of one head: places of all tokens (token, dims), read from disk as they are asked for."""

    @property
    def query(self) -> FloatArray: ...  # noqa: D102
    @property
    def key(self) -> FloatArray: ...  # noqa: D102
    @property
    def scores(self) -> Scores | None: ...  # noqa: D102


@dataclass(frozen=True, slots=True)
class Units:
    """The units that are drawn, (unit) each.

    unit: rows of `comparison.units`; row: of the tokens of each checkpoint; sequence: which of the common ones.
    """

    unit: IntArray
    row: dict[SideName, IntArray]
    sequence: IntArray
    n_all: int


@dataclass(frozen=True, slots=True)
class Side:
    """One of the two maps: a head of a checkpoint, its map, and where the drawn units lie on it, (unit, 2) of each kind.

    reason: why the head has no map, else "".
    """

    name: SideName
    head: Head
    view: Placed
    place: dict[Kind, FloatArray]
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Pair:
    """Both maps. common: tuned tokens lie on the base's map, so that distances between the two mean something."""

    units: Units
    base: Side
    tuned: Side
    method: str
    common: bool

    def side(self, name: SideName) -> Side:
        """Return one of them."""
        return self.base if name == "base" else self.tuned


@dataclass(frozen=True, slots=True)
class Partners:
    """The most attended key of each query, or the query that attends most to each key: text and weight (unit)."""

    text: NDArray[np.object_]
    weight: FloatArray


@dataclass(frozen=True, slots=True)
class Clicked:
    """The clicked point's sequence: its units, and `at`, which of them was clicked; attention between them and it.

    number: of each unit among those drawn, -1 where it is not; place: (unit, 2) of each kind; attention: (unit).
    """

    kind: Kind
    at: int
    unit: IntArray
    number: IntArray
    text: list[str]
    place: dict[SideName, dict[Kind, FloatArray]]
    attention: dict[SideName, FloatArray]


@dataclass(frozen=True, slots=True)
class Attended:
    """The clicked point's sequence: its units, and `at`, which of them was clicked; attention between them and it.

    sequence: its number; attention: (unit).
    """

    kind: Kind
    at: int
    unit: IntArray
    sequence: int
    text: list[str]
    attention: dict[SideName, FloatArray]


@dataclass(frozen=True, slots=True)
class Arrows:
    """Arrows from where points lie for the base to where they lie for the tuned checkpoint: (arrow, 2), longest first.

    number: of the unit among those drawn; is_key: (arrow).
    """

    start: FloatArray
    end: FloatArray
    number: IntArray
    is_key: BoolArray


@dataclass(frozen=True, slots=True)
class Movement:
    """How far points moved, in shares of the width of the base's map: half of each kind less than that, and the furthest."""

    median: dict[Kind, float]
    most: float
    most_text: str
    most_kind: Kind


# ---------------------------------------------------------------- which units, on which maps


@lru_cache(maxsize=8)
def shown_of(comparison: Comparison, max_units: int = MAX_UNITS) -> Shown:
    """Return the tokens of the base that are drawn: all, or whole sequences at random of a large index."""
    return Shown(comparison.base, max_units)


@lru_cache(maxsize=8)
def units_of(comparison: Comparison, label: str, max_units: int = MAX_UNITS) -> Units:
    """Return the units that are drawn beside a tuned checkpoint."""
    shown, starts = shown_of(comparison, max_units), comparison.unit_starts(label)
    if comparison.unit(label) == "token":
        unit = shown.rows
        row: dict[SideName, IntArray] = {"base": unit, "tuned": unit}
    else:
        table = comparison.units(label)
        base_row, tuned_row = (table[f"{name}_row"].to_numpy(dtype=np.int64) for name in SIDES)
        unit = np.flatnonzero(shown.is_shown[base_row])
        row = {"base": base_row[unit], "tuned": tuned_row[unit]}
    return Units(unit, row, np.searchsorted(starts, unit, side="right") - 1, int(starts[-1]))


def unit_of_rows(comparison: Comparison, label: str, rows: IntArray) -> IntArray:
    """Return the units that rows of the base's tokens belong to; -1 for a token that the tuned checkpoint has no word for."""
    if comparison.unit(label) == "token":
        return np.asarray(rows)
    common = comparison.common(label)
    i = np.maximum(np.searchsorted(common.base_rows[:, 0], rows, side="right") - 1, 0)
    return np.where(common.base_unit[rows] >= 0, common.starts[i] + common.base_unit[rows], -1)


def common_methods(comparison: Comparison, label: str) -> list[str]:
    """Return the maps in the plane on which the tuned tokens lie beside the base's."""
    if comparison.is_matched(label) or comparison.unit(label) == "word":
        return []
    return [method for method, dims in comparison.maps if dims == 2]


def own_methods(comparison: Comparison, label: str) -> list[str]:
    """Return the methods of which both checkpoints have maps of their own in the plane."""
    both = [
        {method for method, dims in index.maps if dims == 2} for index in (comparison.base, comparison.tuned(label))
    ]
    return [method for method, dims in comparison.base.maps if dims == 2 and method in both[0] & both[1]]


def method_of(comparison: Comparison, state: CompareState) -> tuple[str, bool]:
    """Return the method whose maps are shown and whether both lie on one map: the chosen one, else the next best.

    Raises:
        QKSpaceError: the two have no map that could be shown.
    """
    common, own = common_methods(comparison, state.checkpoint), own_methods(comparison, state.checkpoint)
    if state.method in common or (common and state.method not in own):
        return state.method if state.method in common else common[0], True
    if not own:
        raise QKSpaceError(say(state.language, "compare_maps_none", label=state.checkpoint))
    return state.method if state.method in own else own[0], False


def pair_of(comparison: Comparison, state: CompareState, max_units: int = MAX_UNITS) -> Pair:
    """Return both maps of the chosen head.

    Raises:
        QKSpaceError: the two have no map that could be shown.
    """
    label = state.checkpoint
    method, common = method_of(comparison, state)
    units = units_of(comparison, label, max_units)
    base, tuned = comparison.pair(label, state.layer, state.head)
    own = base.projection(method, 2)
    reason = {"base": own.reason or ""}
    if common:
        other: Placed = comparison.view(label, method, 2, state.layer, state.head)
        reason["tuned"] = reason["base"]
    else:
        mapped = tuned.projection(method, 2)
        other, reason["tuned"] = mapped, mapped.reason or ""
    placed: dict[SideName, tuple[Head, Placed]] = {"base": (base, own), "tuned": (tuned, other)}
    sides = {
        name: Side(name, head, view, {kind: places(view, kind, units.row[name]) for kind in KINDS}, reason[name])
        for name, (head, view) in placed.items()
    }
    return Pair(units, sides["base"], sides["tuned"], method, common)


def places(view: Placed, kind: Kind, rows: IntArray) -> FloatArray:
    """Return where rows of a kind lie on a map: (row, 2)."""
    return np.asarray((view.query if kind == "query" else view.key)[rows])


def corners(pair: Pair, name: SideName) -> FloatArray:
    """Return the lower left and the upper right corner of what a map must hold: (2, 2); alike where both are one map."""
    names = SIDES if pair.common else (name,)
    place = np.concatenate([pair.side(each).place[kind] for each in names for kind in KINDS])
    place = place[np.isfinite(place).all(axis=1)]
    return np.stack([place.min(axis=0), place.max(axis=0)]) if len(place) else np.array([[0.0, 0.0], [1.0, 1.0]])


# ---------------------------------------------------------------- colours


def colour_choices(comparison: Comparison, language: Language = "en") -> list[tuple[str, str]]:
    """Return what points can be coloured by, with what the page calls it."""
    own = [(name, say(language, f"compare_colour_{name}")) for name in (DRIFT, RECEIVED)]
    return [
        *own,
        *(choice for choice in shown_of(comparison).colour_labels(language) if choice[0] not in select.OF_A_HEAD),
    ]


def colouring(comparison: Comparison, state: CompareState, pair: Pair) -> Colouring:
    """Return the colours of the drawn units as queries and as keys, (unit) each, and their legend."""
    if state.colour == DRIFT:
        return _by_drift(comparison, state, pair)
    if state.colour == RECEIVED:
        return _by_received(comparison, state, pair)
    shown = shown_of(comparison)
    known = state.colour in shown.colour_choices and state.colour not in select.OF_A_HEAD
    asked = State(colour=state.colour if known else QUERY_KEY, theme=state.theme, language=state.language)
    whole, rows = select.colouring(shown, asked), pair.units.row["base"]
    return Colouring(whole.query[rows], whole.key[rows], whole.legend)


def drift_of(comparison: Comparison, state: CompareState, pair: Pair) -> FloatArray:
    """Return how far the attention of each drawn unit changed, as a query: Jensen-Shannon divergence in nats (unit)."""
    return comparison.token_drift(state.checkpoint, state.layer, state.head)[pair.units.unit]


def drift_scale(theme: str) -> list[str]:
    """Return the colours of drift, from none to most: of cividis what can be seen on the ground of the theme."""
    return [Cividis256[i] for i in DRIFT_STEPS[theme]]


def received_scale(theme: str) -> list[str]:
    """Return the colours of attention lost and gained, most lost first."""
    return [LOST[theme], SAME[theme], GAINED[theme]]


def _by_drift(comparison: Comparison, state: CompareState, pair: Pair) -> Colouring:
    """Colour queries by their drift, from 0 to its 99th percentile or `LEAST_DRIFT`; keys are neutral."""
    drift, scale = drift_of(comparison, state, pair), drift_scale(state.theme)
    finite = drift[np.isfinite(drift)]
    top = max(float(np.percentile(finite, 99)) if len(finite) else 0.0, LEAST_DRIFT)
    share = np.nan_to_num(drift / top)
    palette = pack([*scale, MISSING[state.theme]])
    step = np.where(np.isfinite(drift), np.clip(share, 0, 1) * (len(scale) - 1), len(scale)).astype(int)
    neutral = np.repeat(pack([SAME[state.theme]]), len(drift))
    title = say(state.language, "compare_legend_drift")
    return Colouring(palette[step], neutral, Legend(title, (), "0", f"{top:.2g}"))


def _by_received(comparison: Comparison, state: CompareState, pair: Pair) -> Colouring:
    """Colour keys by the attention they gained or lost, grey where none; queries are neutral."""
    change = received_change(comparison, state.checkpoint, state.layer, state.head)
    top = float(np.percentile(np.abs(change), 99)) if len(change) else 0.0
    share = np.clip(change / top, -1, 1) if top > 0 else np.zeros_like(change)
    ends = [np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) for colour in received_scale(state.theme)]
    toward = np.where(share[:, None] < 0, ends[0], ends[2])
    mixed = np.rint(ends[1] + (toward - ends[1]) * np.sqrt(np.abs(share))[:, None]).astype(np.uint32)
    key = mixed[:, 0] << 24 | mixed[:, 1] << 16 | mixed[:, 2] << 8
    neutral = np.repeat(pack([SAME[state.theme]]), len(key))
    title = say(state.language, "compare_legend_received")
    return Colouring(neutral, key.astype(np.uint32), Legend(title, (), f"\u2212{top:.2g}", f"+{top:.2g}"))


def unmeasured(state: CompareState, pair: Pair) -> Colouring:
    """Return no colours, until what they say has been measured."""
    neutral = np.repeat(pack([SAME[state.theme]]), len(pair.units.unit))
    return Colouring(neutral, neutral, Legend(say(state.language, "measuring"), (), "", ""))


@lru_cache(maxsize=32)
def received_change(
    comparison: Comparison, label: str, layer: int, head: int, max_units: int = MAX_UNITS
) -> FloatArray:
    """Return how much more attention each drawn unit receives as a key, summed over the queries of its sequence: (unit)."""
    units, starts = units_of(comparison, label, max_units), comparison.unit_starts(label)
    numbers = comparison.sequence_numbers(label)
    change = np.zeros(len(units.unit), dtype=np.float32)
    for i in np.unique(units.sequence).tolist():
        base, tuned = comparison.attention(label, int(numbers[i]), layer, head)
        gained = (tuned - base).sum(axis=0)  # in word units one column more, of what goes to no common word
        mine = slice(*np.searchsorted(units.sequence, [i, i + 1]).tolist())
        change[mine] = gained[units.unit[mine] - starts[i]]
    return change


# ---------------------------------------------------------------- what is picked out


def hit_units(scene: CompareScene) -> IntArray | None:
    """Return the units that the search found; None without a search."""
    if scene.hits is None:
        return None
    units = unit_of_rows(scene.comparison, scene.state.checkpoint, scene.hits)
    return np.unique(units[units >= 0])


def emphasis(scene: CompareScene, pair: Pair) -> BoolArray | None:
    """Return which drawn units are picked out: the clicked sequence, the hits, or what is both (unit); None: nothing is."""
    masks, hits = [], hit_units(scene)
    place = selected_unit(scene)
    if place is not None:
        starts = scene.comparison.unit_starts(scene.state.checkpoint)
        masks.append(pair.units.sequence == np.searchsorted(starts, place[1], side="right") - 1)
    if hits is not None:
        masks.append(np.isin(pair.units.unit, hits))
    return np.logical_and.reduce(masks) if masks else None


def selected_unit(scene: CompareScene) -> tuple[Kind, int] | None:
    """Return kind and unit of the clicked point; None without one, or where only the base has such a token."""
    if scene.state.selected is None:
        return None
    kind, row = scene.state.selected
    unit = int(unit_of_rows(scene.comparison, scene.state.checkpoint, np.asarray([row]))[0])
    return None if unit < 0 else ("query" if kind == "query" else "key", unit)


def attended(scene: CompareScene) -> Attended | None:
    """Return the clicked point's sequence, and the attention between it and the point in both checkpoints.

    Raises:
        QKSpaceError: the head has no counterpart.
    """
    chosen = selected_unit(scene)
    if chosen is None:
        return None
    comparison, state = scene.comparison, scene.state
    label, (kind, unit) = state.checkpoint, chosen
    starts = comparison.unit_starts(label)
    i = int(np.searchsorted(starts, unit, side="right") - 1)
    span = np.arange(starts[i], starts[i + 1])
    sequence = int(comparison.sequence_numbers(label)[i])
    both = comparison.attention(label, sequence, state.layer, state.head)
    at = unit - int(span[0])
    weight = {
        name: (each[at] if kind == "query" else each[:, at])[: len(span)]
        for name, each in zip(SIDES, both, strict=True)
    }
    text = comparison.units(label)["text"].iloc[span].astype(str).tolist()
    return Attended(kind, at, span, sequence, text, weight)


def clicked(scene: CompareScene, pair: Pair) -> Clicked | None:
    """Return the clicked point's sequence on both maps, and the attention between it and the point in both checkpoints."""
    found = attended(scene)
    if found is None:
        return None
    comparison, label, span = scene.comparison, scene.state.checkpoint, found.unit
    table = comparison.units(label).iloc[span]
    rows = {name: span if comparison.unit(label) == "token" else table[f"{name}_row"].to_numpy() for name in SIDES}
    place = {name: {kind: places(pair.side(name).view, kind, rows[name]) for kind in KINDS} for name in SIDES}
    number = find(pair.units.unit, span)
    return Clicked(found.kind, found.at, span, number, found.text, place, found.attention)


def find(values: IntArray, wanted: IntArray) -> IntArray:
    """Return where some numbers stand among others, all different; -1 where they do not."""
    if not len(values):
        return np.full(np.shape(wanted), -1)
    order = np.argsort(values, kind="stable")
    at = order[np.minimum(np.searchsorted(values, wanted, sorter=order), len(values) - 1)]
    return np.where(values[at] == wanted, at, -1)


# ---------------------------------------------------------------- links and partners


def selected_links(chosen: Clicked, name: SideName) -> Links:
    """Return the links between the clicked point and what it attends to, or what attends to it, in one checkpoint."""
    weight = chosen.attention[name]
    others = np.flatnonzero(weight >= LEAST_SHOWN)
    clicked = np.full(len(others), chosen.at)
    query, key = (clicked, others) if chosen.kind == "query" else (others, clicked)
    place = chosen.place[name]
    return Links(place["query"][query], place["key"][key], weight[others])


def strongest_links(pair: Pair, name: SideName) -> Links:
    """Return the strongest pairs of one checkpoint among what is drawn, but for special and first tokens and for itself."""
    side, rows = pair.side(name), pair.units.row[name]
    key, attention = _stored_top(side.head, rows)
    tokens = side.head.index.tokens
    left_out = tokens["is_special"].to_numpy()[rows] | (tokens["position"].to_numpy()[rows] == 0)
    here = find(rows, key)
    allowed = (here >= 0) & (attention >= LEAST_LINK) & ~left_out[:, None] & ~left_out[here]
    allowed &= here != np.arange(len(rows))[:, None]
    query, rank = np.nonzero(allowed)
    weight = attention[query, rank]
    best = np.argsort(-weight, kind="stable")[:N_LINKS]
    ends = query[best], here[query[best], rank[best]]
    return Links(side.place["query"][ends[0]], side.place["key"][ends[1]], weight[best])


def partners(pair: Pair, name: SideName) -> dict[Kind, Partners]:
    """Return what each drawn query attends to most in a checkpoint, and what attends most to each drawn key."""
    side, rows = pair.side(name), pair.units.row[name]
    key, attention = _stored_top(side.head, rows)
    text = side.head.index.tokens["text"]
    queries, weights = select.strongest_queries(find(rows, key), attention)
    first = queries[:, 0]
    strongest: dict[Kind, tuple[IntArray, FloatArray]] = {
        "query": (key[:, 0], attention[:, 0]),
        "key": (np.where(first >= 0, rows[first], -1), weights[:, 0]),
    }
    found: dict[Kind, Partners] = {}
    for kind, (row, weight) in strongest.items():
        texts = text.iloc[np.maximum(row, 0)].astype(str).to_numpy(dtype=object)
        found[kind] = Partners(np.where(row >= 0, texts, ""), weight.astype(np.float32))
    return found


def _stored_top(head: Head, rows: IntArray) -> tuple[IntArray, FloatArray]:
    """Return the most attended rows of some queries, and the attention to them: (row, k)."""
    root, layer = head.index.root, f"L{head.layer:02d}.npy"
    key, attention = (store.read_array(root / name / layer)[head.head] for name in ("top_key", "top_attention"))
    return np.asarray(key[rows]), store.float_array(attention[rows])


# ---------------------------------------------------------------- what moved


def moved(pair: Pair) -> dict[Kind, FloatArray]:
    """Return how far each drawn point lies from where it lies for the base, in units of the map: (unit)."""
    return {kind: np.linalg.norm(pair.tuned.place[kind] - pair.base.place[kind], axis=1) for kind in KINDS}


def arrows(pair: Pair, n: int, strong: BoolArray | None = None) -> Arrows:
    """Return arrows for the n points that moved most: of what is picked out (`strong`, (unit)), or of all."""
    distance = moved(pair)
    both = np.concatenate([distance[kind] for kind in KINDS])
    wanted = np.isfinite(both) & (both > 0)
    if strong is not None:
        wanted &= np.concatenate([strong, strong])
    candidates = np.flatnonzero(wanted)
    chosen = candidates[np.argsort(-both[candidates], kind="stable")[:n]]
    ends = [np.concatenate([side.place[kind] for kind in KINDS])[chosen] for side in (pair.base, pair.tuned)]
    n_units = len(pair.units.unit)
    return Arrows(ends[0], ends[1], chosen % n_units if n_units else chosen, chosen >= n_units)


def arrow_texts(comparison: Comparison, label: str, pair: Pair, found: Arrows) -> list[str]:
    """Return the texts of the points that moved furthest: (N_NAMED at most)."""
    units = pair.units.unit[found.number[:N_NAMED]]
    return comparison.units(label)["text"].iloc[units].astype(str).str.slice(0, MOST_CHARACTERS).tolist()


def movement(comparison: Comparison, state: CompareState, pair: Pair) -> Movement | None:
    """Return how far points moved; None where they do not lie on one map, or none has a place."""
    distance = moved(pair)
    place = np.concatenate([pair.base.place[kind] for kind in KINDS])
    place = place[np.isfinite(place).all(axis=1)]
    if not pair.common or not len(place):
        return None
    width = float(np.ptp(place, axis=0).max()) or 1.0
    furthest: Kind = max(KINDS, key=lambda kind: float(np.nanmax(distance[kind])))
    unit = pair.units.unit[int(np.nanargmax(distance[furthest]))]
    return Movement(
        median={kind: float(np.nanmedian(distance[kind])) / width for kind in KINDS},
        most=float(np.nanmax(distance[furthest])) / width,
        most_text=str(comparison.units(state.checkpoint)["text"].iloc[unit]),
        most_kind=furthest,
    )


def nearest(
    pair: Pair, names: tuple[SideName, ...], x: float, y: float, radius: float, strong: BoolArray | None
) -> tuple[Kind, int] | None:
    """Return kind and number of the drawn point nearest to a place, no further than `radius`; what is picked out first."""
    best: list[tuple[bool, float, Kind, int]] = []
    for name in names:
        for kind in KINDS:
            place = pair.side(name).place[kind]
            distance = np.hypot(place[:, 0] - x, place[:, 1] - y)
            near = np.flatnonzero(distance <= radius)
            best += [(strong is not None and not strong[i], float(distance[i]), kind, int(i)) for i in near]
    return min(best)[2:] if best else None
