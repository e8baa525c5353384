"""Tests of `qkspace.app.state`: what a page shows survives its address, and nonsense in an address is refused in words."""

from __future__ import annotations

from dataclasses import fields
from functools import lru_cache
from typing import Any, get_args
from urllib.parse import parse_qs, urlencode

import numpy as np
import pytest

from qkspace.app.atlas import atlas_table, order_labels
from qkspace.app.heads_data import aspects, colour_choices
from qkspace.app.select import Shown
from qkspace.app.state import (
    MAX_CORNERS,
    MAX_LINKS,
    MAX_TEXT,
    READERS,
    Figure,
    Page,
    Plot,
    State,
    from_address,
    to_address,
)
from qkspace.index import Index
from qkspace.schema import QKSpaceError

TEXTS = ("", "bank", "/(a|b)+$/ -upos:NOUN", "日本語 &?=#%+", "</script>\x1f\x00 ", '"two words"', "😀" * 30)
NONSENSE = (
    *("", " ", "-", "--", "0", "1", "-1", "1.5", "1e5", "1e+20", "-1e99", "1" + 8 * "0", "1" + 9 * "0", "nan", "inf"),
    *("None", "True", "\uff13", "\xb2", "\x00", "\x1f", "_", "~", "1~", "~1", "1~2~3", "1~2_", "query", "query-"),
    *(
        "query--1",
        "query-\uff13",
        "key-1e3",
        "value-0",
        "query-999999999",
        "entropy",
        "--entropy",
        "map",
        "light",
        "en",
    ),
    *("pca", "../..", "</script>", "x" * 5_000),
)


@pytest.fixture(scope="module")
def shown(small_index: Index) -> Shown:
    return Shown(small_index)


def said(query: str) -> dict[str, list[bytes]]:
    """Return the arguments of an address as a browser's way of writing them arrives."""
    return {name: [text.encode() for text in texts] for name, texts in parse_qs(query, keep_blank_values=True).items()}


@lru_cache
def orders_of(shown: Shown, method: str) -> list[str]:
    """Return what the atlas can be sorted by."""
    return list(order_labels(atlas_table(shown, State(method=method))))


def any_state(shown: Shown, seed: int) -> State:
    """Return a state that somebody could have clicked together; numbers have the digits that an address keeps."""
    rng = np.random.default_rng(seed)

    def one(*choices: Any) -> Any:
        return choices[int(rng.integers(len(choices)))]

    def number(low: float, high: float, digits: int = 6) -> float:
        return float(f"{rng.uniform(low, high):.{digits}g}")

    index = shown.index
    layer = int(rng.integers(index.n_layers))
    method, dims = one(*index.maps)
    size = 10.0 ** rng.integers(-8, 9)
    corners = tuple((number(-size, size, 5), number(-size, size, 5)) for _ in range(int(rng.integers(MAX_CORNERS + 1))))
    orders = orders_of(shown, method)
    order = one("", "-" + one(*orders), one(*orders))
    figure = one(*get_args(Figure))
    return State(
        page=one(*get_args(Page)),
        layer=layer,
        head=int(rng.integers(index.layers[layer].n_heads)),
        method=method,
        dims=dims,
        yaw=number(-180, 180),
        pitch=number(-90, 90),
        colour=one(*shown.colour_choices),
        by_norm=one(True, False),
        labels=one(True, False),
        n_links=int(rng.integers(MAX_LINKS + 1)),
        threshold=number(0, 1),
        special=one(True, False),
        itself=one(True, False),
        first=one(True, False),
        whole=one(True, False),
        hidden=one((), ("NOUN",), ("a b", "&=", "日本")),
        selected=one(None, ("query", 0), ("key", index.n_tokens - 1)),
        region=corners,
        sequence=one(None, int(index.sequences["sequence"].iloc[-1])),
        search=one(*TEXTS).strip(),
        order=order,
        least=one(None, number(-size, size)) if order else None,  # from which value on, of what it is sorted by
        figure=figure,
        by=one(*colour_choices(shown)),
        aspect=one(*(aspects(shown, figure) or [""])),
        weighted=one(True, False),
        plot=one(*get_args(Plot)),
        averaged=one(True, False),
        text=one(*TEXTS),
        pair=one(*TEXTS),
        theme=one("light", "dark"),
        language=one("en", "ja"),
    )


@pytest.mark.parametrize("seed", range(40))
def test_a_state_survives_its_address(shown: Shown, seed: int) -> None:
    state, first = any_state(shown, seed), State(method=shown.methods[0])
    assert from_address(said(urlencode(to_address(state, first))), first, shown) == state


def test_every_part_of_a_state_can_stand_in_an_address() -> None:
    assert set(READERS) == {field.name for field in fields(State)}


@pytest.mark.parametrize("name", READERS)
def test_nonsense_is_refused_in_words_or_shown_as_it_was_said(shown: Shown, name: str) -> None:
    first = State(method=shown.methods[0])
    refused = 0
    for text in NONSENSE:
        try:
            state = from_address({name: [text.encode()]}, first, shown)
        except QKSpaceError as error:
            refused += 1
            assert len(str(error)) < 2_000, "a page must be able to say it"
        else:  # taken: then it is of the right kind, and means the same when it is said again
            assert type(getattr(state, name)) in (type(getattr(first, name)), *ALSO.get(name, ()))
            assert from_address(said(urlencode(to_address(state, first))), first, shown) == state
    assert refused or name == "hidden", "5,000 characters are refused, but for kinds that nothing is of"


ALSO: dict[str, tuple[type, ...]] = {
    "selected": (tuple,),
    "sequence": (int,),
    "least": (float,),
}


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("yaw", ""),
        ("pitch", ""),
        ("threshold", ""),
        ("threshold", "1e9"),
        ("n_links", "999999999"),
        ("order", "nothing"),
    ],
)
def test_what_no_view_could_draw_is_refused(shown: Shown, name: str, text: str) -> None:
    with pytest.raises(QKSpaceError, match=f"asks for {name}"):
        from_address({name: [text.encode()]}, State(method=shown.methods[0]), shown)


def test_a_text_that_no_address_holds_is_left_out_of_it(shown: Shown) -> None:
    first = State(method=shown.methods[0])
    address = to_address(State(method=first.method, search="bank", text="word " * MAX_TEXT), first)
    assert from_address(said(urlencode(address)), first, shown) == State(method=first.method, search="bank")
