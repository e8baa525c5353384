"""State: what one visitor chose, and how it stands in the address of their page.

In: the arguments of an address, a stranger's word. Out: a `State`, checked against the index, and back again. Knows no
widgets: what is not in the address of a page is not part of its state.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, Literal, get_args

from qkspace.app.colours import QUERY_KEY
from qkspace.schema import QKSpaceError

if TYPE_CHECKING:
    from qkspace.app.select import Shown

Kind = Literal["query", "key"]
Theme = Literal["light", "dark"]
Language = Literal["en", "ja"]
Page = Literal["map", "atlas", "sentence", "head"]
MAX_TEXT = 4_000  # characters of a search or a live sentence that an address may hold
MAX_CORNERS = 60  # of a selected region
MAX_LINKS = 1_000  # that are drawn of all sequences


@dataclass(frozen=True, slots=True)
class State:
    """What one visitor chose.

    page: which view is open. method, dims: the map; yaw, pitch: from where a map in space is seen, in degrees.
    colour: what points are coloured by; hidden: kinds of it that are faded; by_norm: whether points are as large as their
    vectors are long; labels: whether some tokens are named. n_links strongest pairs of at least `threshold` attention are
    linked; special, itself, first: whether links may touch special tokens, join a token to itself, or touch the first token
    of a sequence; whole: whether a click links its whole sequence. selected: kind ("query" or "key") and row of the clicked
    point. region: corners (x, y) of what was lassoed on the map. sequence: which one the sentence view shows, where no token
    is clicked. search: what is searched for (`qkspace.search`). order, least: by which score or statistic the atlas is
    sorted (lowest first after a "-"), and from which value on a head is shown. text, pair: the live sentence, and what it is
    paired with.
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
    address = {name: _said(value) for name, value in said.items() if name in always or value != getattr(first, name)}
    address = {name: text for name, text in address.items() if len(text) <= MAX_TEXT}
    if state.selected is not None:
        address["selected"] = f"{state.selected[0]}-{state.selected[1]}"
    if state.region:
        address["region"] = "_".join(f"{x:.5g}~{y:.5g}" for x, y in state.region)
    if state.hidden:
        address["hidden"] = "\x1f".join(state.hidden)
    return address


def _said(value: Any) -> str:
    if isinstance(value, bool):
        return "1" if value else "0"
    return "" if value is None else f"{value:.6g}" if isinstance(value, float) else str(value)


def from_address(arguments: Mapping[str, Sequence[bytes]], first: State, shown: Shown) -> State:
    """Return the state that an address asks for; what it does not say is as in `first`.

    Raises:
        QKSpaceError: it asks for what is not there.
    """
    found: dict[str, Any] = {}
    for name, read in READERS.items():
        values = arguments.get(name)
        if values:
            found[name] = read(name, values[-1].decode("utf-8", "replace"), shown)
    chosen = {field.name: getattr(first, field.name) for field in fields(State)} | found
    state = State(**chosen)
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
    return state if state.order else replace(state, least=None)  # of no score


def _check_order(state: State, shown: Shown) -> None:
    from qkspace.app.atlas import atlas_table, order_labels  # which is made of states

    orders = order_labels(atlas_table(shown, state))
    if state.order.removeprefix("-") not in orders:
        raise _refuse("order", state.order, f"one of {', '.join(orders)}, perhaps after a -")


# ---------------------------------------------------------------- how each part is read


def _refuse(name: str, text: str, expected: str) -> QKSpaceError:
    return QKSpaceError(f"The address asks for {name} {text[:80]!r}; expected {expected}.")


def _number(name: str, text: str, _shown: Shown) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) < 10):
        raise _refuse(name, text, "a number")
    return int(text)


def _real(name: str, text: str, _shown: Shown) -> float:
    if not re.fullmatch(r"-?[0-9]{1,9}(\.[0-9]{1,9})?(e[+-]?[0-9]{1,2})?", text):
        raise _refuse(name, text, "a number")
    return float(text)


def _least(name: str, text: str, shown: Shown) -> float | None:
    return None if text == "" else _real(name, text, shown)


def _links(name: str, text: str, shown: Shown) -> int:
    if (n := _number(name, text, shown)) > MAX_LINKS:
        raise _refuse(name, text, f"at most {MAX_LINKS:,}")
    return n


def _share(name: str, text: str, shown: Shown) -> float:
    if not 0 <= (share := _real(name, text, shown)) <= 1:
        raise _refuse(name, text, "a number between 0 and 1")
    return share


def _yes(name: str, text: str, _shown: Shown) -> bool:
    if text not in ("0", "1"):
        raise _refuse(name, text, "0 or 1")
    return text == "1"


def _text(name: str, text: str, _shown: Shown) -> str:
    if len(text) > MAX_TEXT:
        raise _refuse(name, text, f"at most {MAX_TEXT:,} characters")
    return text


def _query(name: str, text: str, shown: Shown) -> str:
    return _text(name, text, shown).strip()


def _one_of(*choices: str) -> Callable[[str, str, Shown], str]:
    def read(name: str, text: str, _shown: Shown) -> str:
        if text not in choices:
            raise _refuse(name, text, " or ".join(choices))
        return text

    return read


def _colour(name: str, text: str, shown: Shown) -> str:
    if text not in shown.colour_choices:
        raise _refuse(name, text, f"one of {', '.join(shown.colour_choices)}")
    return text


def _sequence(name: str, text: str, shown: Shown) -> int | None:
    if text == "":
        return None
    sequence = _number(name, text, shown)
    shown.index.rows(sequence)  # refuses what is not there
    return sequence


def _selected(name: str, text: str, shown: Shown) -> tuple[str, int] | None:
    if text == "":
        return None
    kind, _, row = text.partition("-")
    if kind not in get_args(Kind) or not re.fullmatch("[0-9]{1,9}", row) or int(row) >= shown.index.n_tokens:
        raise _refuse(name, text, f"query-ROW or key-ROW with a row below {shown.index.n_tokens}")
    return kind, int(row)


def _region(name: str, text: str, shown: Shown) -> tuple[tuple[float, float], ...]:
    corners = []
    for corner in text.split("_")[:MAX_CORNERS] if text else []:
        x, _, y = corner.partition("~")
        corners.append((_real(name, x, shown), _real(name, y, shown)))
    return tuple(corners)


def _hidden(_name: str, text: str, _shown: Shown) -> tuple[str, ...]:
    return tuple(part for part in text[:MAX_TEXT].split("\x1f") if part)


READERS: dict[str, Callable[[str, str, Shown], Any]] = {
    "page": _one_of(*get_args(Page)),
    "layer": _number,
    "head": _number,
    "method": _text,
    "dims": _number,
    "yaw": _real,
    "pitch": _real,
    "colour": _colour,
    "by_norm": _yes,
    "labels": _yes,
    "n_links": _links,
    "threshold": _share,
    "special": _yes,
    "itself": _yes,
    "first": _yes,
    "whole": _yes,
    "hidden": _hidden,
    "selected": _selected,
    "region": _region,
    "sequence": _sequence,
    "search": _query,
    "order": _text,
    "least": _least,
    "text": _text,
    "pair": _text,
    "theme": _one_of(*get_args(Theme)),
    "language": _one_of(*get_args(Language)),
}
