"""State: what one visitor chose, and how it stands in the address of their page.

In: the arguments of an address, a stranger's word. Out: a `State`, checked against the index, and back again. Knows no
widgets: what is not in the address of a page is not part of its state.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, Literal, get_args

from qkspace.app import address
from qkspace.app.address import MAX_TEXT, Arguments
from qkspace.app.colours import QUERY_KEY
from qkspace.app.language import LANGUAGES, spoken, tongue
from qkspace.schema import QKSpaceError

if TYPE_CHECKING:
    from qkspace.app.select import Shown

Kind = Literal["query", "key"]
Theme = Literal["light", "dark"]
Language = Literal[  # and of what it speaks (`qkspace.app.language`)
    "en", "en+image", "en+audio", "en+cross", "en+decoder",
    "ja", "ja+image", "ja+audio", "ja+cross", "ja+decoder",
]  # fmt: skip
Page = Literal["map", "atlas", "heads", "sentence", "plots", "head"]
Plot = Literal["heatmap", "received", "bars", "scatter"]  # of one sequence as a matrix
Figure = Literal[  # of what heads do
    "where", "entropy", "profile", "among", "relations", "coreference", "behaviours", "matters",
]  # fmt: skip
MAX_CORNERS = 60  # of a selected region
MAX_LINKS = 1_000  # that are drawn of all sequences


@dataclass(frozen=True, slots=True)
class State:
    """What one visitor chose.

    page: which view is open. method, dims: the map; yaw, pitch: from where a map in space is seen, in degrees.
    colour: what points are coloured by; hidden: kinds of it that are faded; by_norm: whether points are as large as their
    vectors are long; labels: whether some tokens are named. Of images, patches: whether the map draws patches as pictures;
    flow: whether the strongest arrow of every patch is drawn on an image. n_links strongest pairs of at least `threshold`
    attention are linked; special, itself, first: whether links may touch special tokens, join a token to itself, or touch the
    first token of a sequence; whole: whether a click links its whole sequence. selected: kind ("query" or "key") and row of
    the clicked point. region: corners (x, y) of what was lassoed on the map. sequence: which one the sentence view shows,
    where no token is clicked. search: what is searched for (`qkspace.search`). order, least: by which score or statistic the
    atlas is sorted (lowest first after a "-"), and from which value on a head is shown. figure: which one of those of all heads
    is open; by: what its dots are coloured by; aspect: what of it is shown (`heads_data.aspects`), such as a column or a
    relation; weighted: whether attention counts by the length of the values. plot: how one sequence is drawn as a matrix;
    averaged: over the heads of its layer. text, pair: the live sentence, and what it is paired with.
    """

    page: Page = "map"
    layer: int = 0
    head: int = 0
    method: str = "pca"
    dims: int = 2
    yaw: float = 30.0
    pitch: float = 20.0
    colour: str = QUERY_KEY
    by_norm: bool = False
    labels: bool = True
    patches: bool = True
    flow: bool = False
    n_links: int = 100
    threshold: float = 0.1
    special: bool = False
    itself: bool = False
    first: bool = False
    whole: bool = False
    hidden: tuple[str, ...] = ()
    selected: tuple[Kind, int] | None = None
    region: tuple[tuple[float, float], ...] = ()
    sequence: int | None = None
    search: str = ""
    order: str = ""
    least: float | None = None
    figure: Figure = "where"
    by: str = "label"
    aspect: str = ""
    weighted: bool = False
    plot: Plot = "heatmap"
    averaged: bool = True
    text: str = ""
    pair: str = ""
    theme: Theme = "light"
    language: Language = "en"


def to_address(state: State, first: State) -> dict[str, str]:
    """Return what an address must say of a state, which leaves out what a page begins with (`first`) anyway.

    Layer, head and method always stand there: which ones a page begins with depends on the scores. So does the theme, which
    the browser may wish otherwise. A text that is too long for an address is left out.
    """
    always = ("layer", "head", "method", "theme")
    said = {f.name: getattr(state, f.name) for f in fields(State) if f.name not in ("selected", "region", "hidden")}
    words = {
        name: address.written(value) for name, value in said.items() if name in always or value != getattr(first, name)
    }
    if "language" in words:
        words["language"] = tongue(state.language)
    words = {name: text for name, text in words.items() if len(text) <= MAX_TEXT}
    if state.selected is not None:
        words["selected"] = f"{state.selected[0]}-{state.selected[1]}"
    if state.region:
        words["region"] = "_".join(f"{x:.5g}~{y:.5g}" for x, y in state.region)
    if state.hidden:
        words["hidden"] = "\x1f".join(state.hidden)
    return words


def from_address(arguments: Arguments, first: State, shown: Shown) -> State:
    """Return the state that an address asks for; what it does not say is as in `first`.

    Raises:
        QKSpaceError: it asks for what is not there.
    """
    state = replace(first, **address.read_all(arguments, READERS, shown))
    state = replace(state, language=spoken(state.language, shown.subject))
    shown.index.head(state.layer, state.head)  # refuses what is not there
    if (state.method, state.dims) not in shown.index.maps:
        maps = ", ".join(f"{method} in {dims}-D" for method, dims in shown.index.maps)
        raise QKSpaceError(f"The address asks for {state.method} in {state.dims}-D; the index has {maps}.")
    if state.method not in shown.methods:
        raise QKSpaceError(
            f"The address asks for {state.method}, of which the index has no map in the plane; it has of "
            f"{', '.join(shown.methods)}."
        )
    if state.order:
        _check_order(state, shown)
    if (state.figure, state.by, state.aspect) != (first.figure, first.by, first.aspect):
        _check_dots(state, shown)
    return state if state.order else replace(state, least=None)  # of no score


def _check_order(state: State, shown: Shown) -> None:
    from qkspace.app.atlas import atlas_table, order_labels  # which is made of states

    orders = order_labels(atlas_table(shown, state))
    if state.order.removeprefix("-") not in orders:
        raise address.refuse("order", state.order, f"one of {', '.join(orders)}, perhaps after a -")


def _check_dots(state: State, shown: Shown) -> None:
    from qkspace.app.heads_data import aspects, colour_choices  # which are made of states

    for name, known in (("by", colour_choices(shown)), ("aspect", aspects(shown, state.figure))):
        if (text := getattr(state, name)) not in known:
            expected = f"one of {', '.join(filter(None, known))}" if any(known) else "nothing for this figure"
            raise address.refuse(name, text, expected)


# ---------------------------------------------------------------- how each part is read


def _least(name: str, text: str, shown: Shown) -> float | None:
    return None if text == "" else address.real(name, text, shown)


def _links(name: str, text: str, shown: Shown) -> int:
    if (n := address.number(name, text, shown)) > MAX_LINKS:
        raise address.refuse(name, text, f"at most {MAX_LINKS:,}")
    return n


def _share(name: str, text: str, shown: Shown) -> float:
    if not 0 <= (share := address.real(name, text, shown)) <= 1:
        raise address.refuse(name, text, "a number between 0 and 1")
    return share


def _colour(name: str, text: str, shown: Shown) -> str:
    if text not in shown.colour_choices:
        raise address.refuse(name, text, f"one of {', '.join(shown.colour_choices)}")
    return text


def _sequence(name: str, text: str, shown: Shown) -> int | None:
    if text == "":
        return None
    sequence = address.number(name, text, shown)
    shown.index.rows(sequence)  # refuses what is not there
    return sequence


def _selected(name: str, text: str, shown: Shown) -> tuple[str, int] | None:
    return address.selected(name, text, shown.index.n_tokens)


def _region(name: str, text: str, shown: Shown) -> tuple[tuple[float, float], ...]:
    corners = []
    for corner in text.split("_")[:MAX_CORNERS] if text else []:
        x, _, y = corner.partition("~")
        corners.append((address.real(name, x, shown), address.real(name, y, shown)))
    return tuple(corners)


def _hidden(_name: str, text: str, _shown: Shown) -> tuple[str, ...]:
    return tuple(part for part in text[:MAX_TEXT].split("\x1f") if part)


READERS: dict[str, Callable[[str, str, Shown], Any]] = {
    "page": address.one_of(*get_args(Page)),
    "layer": address.number,
    "head": address.number,
    "method": address.short,
    "dims": address.number,
    "yaw": address.real,
    "pitch": address.real,
    "colour": _colour,
    "by_norm": address.yes,
    "labels": address.yes,
    "patches": address.yes,
    "flow": address.yes,
    "n_links": _links,
    "threshold": _share,
    "special": address.yes,
    "itself": address.yes,
    "first": address.yes,
    "whole": address.yes,
    "hidden": _hidden,
    "selected": _selected,
    "region": _region,
    "sequence": _sequence,
    "search": address.query,
    "order": address.short,
    "least": _least,
    "figure": address.one_of(*get_args(Figure)),
    "by": address.short,
    "aspect": address.short,
    "weighted": address.yes,
    "plot": address.one_of(*get_args(Plot)),
    "averaged": address.yes,
    "text": address.short,
    "pair": address.short,
    "theme": address.one_of(*get_args(Theme)),
    "language": address.one_of(*LANGUAGES),
}
