"""Compare state: what a page of a comparison shows, and how it stands in the address of the page.

In: what a visitor chose, or the arguments of an address, a stranger's word. Out: a frozen record, checked against the
comparison, and back again. Knows no widgets and reads no arrays.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, Literal, get_args

from qkspace.app import address
from qkspace.app.address import MAX_TEXT, Arguments
from qkspace.app.drift import measures
from qkspace.app.language import LANGUAGES, spoken, tongue
from qkspace.app.select import shown_of
from qkspace.app.state import MAX_LINKS, Language, Theme
from qkspace.schema import IntArray

if TYPE_CHECKING:
    from qkspace.comparison.reader import Comparison

ComparePage = Literal["drift", "maps", "atlas", "sentence"]
COMPARE_PAGES: tuple[ComparePage, ...] = get_args(ComparePage)
SentenceMode = Literal["lines", "heat", "pair", "all"]  # how a sentence is drawn (static/difference.js)
DRIFT = "drift"  # what points are coloured by, besides what the explorer knows


@dataclass(frozen=True, slots=True)
class CompareState:
    """What is shown.

    checkpoint: label of the tuned checkpoint beside the base. measure: column of `Comparison.drift` that heads are coloured
    and sorted by. column: of `base.tokens`, whose classes the card of a head compares; "" for the usual one. overlay: both
    on one map with arrows, and not side by side. selected: ("query" | "key", row of `base.tokens`) that was clicked, or
    None. sequence: a value of `base.tokens["sequence"]`, or None for the one with most drift.
    """

    page: ComparePage = "drift"
    checkpoint: str = ""
    layer: int = 0
    head: int = 0
    method: str = "unfold"
    measure: str = "js"
    column: str = ""
    overlay: bool = False
    n_arrows: int = 30
    colour: str = DRIFT
    search: str = ""
    selected: tuple[str, int] | None = None
    sequence: int | None = None
    mode: SentenceMode = "lines"
    theme: Theme = "light"
    language: Language = "en"


@dataclass(frozen=True, slots=True)
class CompareScene:
    """What all parts of the page show at one moment; `hits`: rows of `base.tokens` that a search found, None without one."""

    comparison: Comparison
    state: CompareState
    hits: IntArray | None = None
    trouble: str = ""


def modality_of(comparison: Comparison) -> str:
    """Return what the tokens of a comparison are of: "text", "image" or "audio"."""
    return shown_of(comparison.base).modality


def methods_of(comparison: Comparison) -> list[str]:
    """Return the methods that have maps of both checkpoints in the plane, unfold first."""
    return sorted((method for method, dims in comparison.maps if dims == 2), key=lambda method: method != "unfold")


def columns_of(comparison: Comparison) -> list[str]:
    """Return the columns of the token table whose classes can be compared: kind, position and those of the corpus."""
    return [name for name in shown_of(comparison.base).colour_choices if name in comparison.base.tokens]


def to_address(state: CompareState, first: CompareState) -> dict[str, str]:
    """Return what an address must say of a state, which leaves out what a page begins with (`first`) anyway.

    Checkpoint, layer, head and theme always stand there: which ones a page begins with depends on the drift and the browser.
    """
    always = ("checkpoint", "layer", "head", "theme")
    said = {f.name: getattr(state, f.name) for f in fields(CompareState) if f.name != "selected"}
    words = {
        name: address.written(value) for name, value in said.items() if name in always or value != getattr(first, name)
    }
    if "language" in words:
        words["language"] = tongue(state.language)
    if state.selected is not None:
        words["selected"] = f"{state.selected[0]}-{state.selected[1]}"
    return {name: text for name, text in words.items() if len(text) <= MAX_TEXT}


def from_address(arguments: Arguments, first: CompareState, comparison: Comparison) -> CompareState:
    """Return the state that an address asks for; what it does not say is as in `first`.

    Raises:
        QKSpaceError: it asks for what is not there.
    """
    state = replace(first, **address.read_all(arguments, READERS, comparison))
    state = replace(state, language=spoken(state.language, modality_of(comparison)))
    comparison.base.head(state.layer, state.head)  # refuses what is not there
    return state


# ---------------------------------------------------------------- how each part is read


def _among(choices: Callable[[Comparison], list[str]]) -> Callable[[str, str, Comparison], str]:
    """Return what reads one of the words that a comparison knows."""

    def read(name: str, text: str, comparison: Comparison) -> str:
        known = choices(comparison)
        if text not in known:
            raise address.refuse(name, text, f"one of {', '.join(known)}" if known else "nothing: it has none")
        return text

    return read


def _colours(comparison: Comparison) -> list[str]:
    from qkspace.app.compare_select import colour_choices  # which is made of states

    return [name for name, _ in colour_choices(comparison)]


def _sequence(name: str, text: str, comparison: Comparison) -> int | None:
    if text == "":
        return None
    sequence = address.number(name, text)
    comparison.base.rows(sequence)  # refuses what is not there
    return sequence


def _selected(name: str, text: str, comparison: Comparison) -> tuple[str, int] | None:
    return address.selected(name, text, comparison.base.n_tokens)


def _arrows(name: str, text: str, _comparison: Comparison) -> int:
    if (n := address.number(name, text)) > MAX_LINKS:
        raise address.refuse(name, text, f"at most {MAX_LINKS:,}")
    return n


READERS: dict[str, Callable[[str, str, Comparison], Any]] = {
    "page": address.one_of(*COMPARE_PAGES),
    "checkpoint": _among(lambda comparison: list(comparison.labels)),
    "layer": address.number,
    "head": address.number,
    "method": _among(methods_of),
    "measure": _among(lambda comparison: measures(comparison.drift)),
    "column": _among(columns_of),
    "overlay": address.yes,
    "n_arrows": _arrows,
    "colour": _among(_colours),
    "search": address.query,
    "selected": _selected,
    "sequence": _sequence,
    "mode": address.one_of(*get_args(SentenceMode)),
    "theme": address.one_of(*get_args(Theme)),
    "language": address.one_of(*LANGUAGES),
}
