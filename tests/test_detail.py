"""The map of a large index: a viewport misses nothing, and image, points, links and tooltips are those of all tokens."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from qkspace import store
from qkspace.app import detail, select
from qkspace.app.detail import Detail, detail_of, sight
from qkspace.app.raster import QUERY, Extent, rasterise
from qkspace.app.select import KINDS, Scene, Shown
from qkspace.app.state import State
from qkspace.index import Index
from qkspace.search import search

UNIT = Extent(0, 1, 0, 1)
BLUE, ORANGE = 0x1F6FB500, 0xD9622B00
WHOLE = Extent(-1e4, 1e4, -1e4, 1e4)
FLAT, SOLID = State(layer=2, head=3), State(layer=2, head=3, dims=3, yaw=77.0, pitch=-31.0)


def tile(index: Index, root: Path, times: int, layer: int = 2, heads: tuple[int, ...] = (3, 7)) -> Index:
    """Write an index that holds the sequences of another many times over, of some heads of a layer, on maps that waver."""
    root.mkdir()
    n, n_sequences, heads_at = index.n_tokens, len(index.sequences), list(heads)
    again = np.arange(times)
    for name, table, size in (("tokens", index.tokens, n), ("sequences", index.sequences, n_sequences)):
        tiled = pd.concat([table] * times, ignore_index=True)
        tiled["sequence"] += np.repeat(again * n_sequences, size).astype(np.int32)
        store.write_table(root / f"{name}.parquet", {column: tiled[column] for column in tiled})
    for name in ("query", "key", "value_norm", "top_key", "top_attention"):
        array = store.read_array(index.root / name / f"L{layer:02d}.npy")[heads_at]
        tiled_array = np.concatenate([array] * times, axis=1)
        if name == "top_key":
            offset = np.repeat(again * n, n)[:, None].astype(array.dtype)
            tiled_array = np.where(tiled_array >= 0, tiled_array + offset, -1)
        store.write_array(root / name / "L00.npy", tiled_array)
    rng = np.random.default_rng(0)
    for method, dims in index.maps:
        for i, head in enumerate(heads):
            source, target = index.map_path(method, dims, layer, head, "npy"), root / "maps" / f"{method}{dims}"
            place = np.concatenate([store.read_array(source)] * times, axis=1)
            place[:, n:] += rng.normal(scale=0.02 * np.nanstd(place), size=place[:, n:].shape).astype(place.dtype)
            store.write_array(target / f"L00H{i:02d}.npy", place)
            shutil.copy(source.with_suffix(".npz"), target / f"L00H{i:02d}.npz")
        _few_heads(index.root / "maps" / f"{method}{dims}" / "scores.parquet", target / "scores.parquet", layer, heads)
    _few_heads(index.root / "heads.parquet", root / "heads.parquet", layer, heads)
    manifest: dict[str, Any] = json.loads((index.root / "manifest.json").read_text())
    manifest["layers"] = [manifest["layers"][layer] | {"n_heads": len(heads), "n_kv_heads": len(heads)}]
    manifest["corpus"] |= {"n_tokens_stored": n * times, "n_sequences_stored": n_sequences * times}
    store.write_json(root / "manifest.json", manifest | {"files": {}})
    return Index(root)


def _few_heads(source: Path, target: Path, layer: int, heads: tuple[int, ...]) -> None:
    table = pd.read_parquet(source)
    table = table[(table["layer"] == layer) & table["head"].isin(heads)].assign(layer=0, head=np.arange(len(heads)))
    store.write_table(target, {column: table[column].to_numpy() for column in table})


def channels(image: NDArray[np.uint32]) -> NDArray[np.int64]:
    """Return red, green, blue and alpha: (row, column, 4)."""
    return np.ascontiguousarray(image).view(np.uint8).reshape(*image.shape, 4).astype(np.int64)


# The points of a map, sorted


def scattered(n: int, seed: int = 0) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.uint8], Detail]:
    """Points in clumps with outliers, ties and some that are nowhere."""
    rng = np.random.default_rng(seed)
    x, y = (rng.normal(size=(2, n)) * rng.choice([0.01, 1, 30], size=n)).astype(np.float32)
    x[rng.random(n) < 0.1] = 0.25
    y[rng.random(n) < 0.02] = np.nan
    kind = rng.integers(0, 2, n).astype(np.uint8)
    return x, y, kind, detail_of(x, y, kind)


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 3000), st.tuples(*[st.floats(-3, 3, width=32)] * 2), st.floats(0.0009765625, 40, width=32))
def test_a_viewport_shows_what_a_search_through_all_points_finds(n: int, at: tuple[float, float], size: float) -> None:
    x, y, _, detail = scattered(n)
    view = Extent(at[0], at[0] + size, at[1], at[1] + size)
    found = np.flatnonzero((x >= view.x0) & (x <= view.x1) & (y >= view.y0) & (y <= view.y1))
    np.testing.assert_array_equal(detail.visible(view), found)
    for most in (len(found) - 1, len(found)):
        drawn = detail.drawn(view, most)
        assert drawn is None if len(found) > most else drawn is not None and drawn.tolist() == found.tolist()


@settings(deadline=None, max_examples=60)
@given(st.tuples(*[st.floats(-3, 3, width=32)] * 2), st.sampled_from([1e-4, 0.01, 0.1, 1.0, 20.0]))
def test_the_nearest_point_is_the_nearest_of_all(at: tuple[float, float], radius: float) -> None:
    x, y, _, detail = scattered(2000)
    distance = np.hypot(x.astype(np.float64) - at[0], y.astype(np.float64) - at[1])
    best = int(np.nanargmin(distance))
    assert detail.nearest_point(*at, radius) == (best if distance[best] <= radius else None)


def test_the_raster_of_a_view_is_that_of_all_points() -> None:
    x, y, kind, detail = scattered(30_000)
    colour = np.random.default_rng(1).choice(np.asarray([BLUE, ORANGE, 0x11223300], dtype=np.uint32), len(x))
    strong = np.arange(len(x)) % 97 == 0
    for view in (Extent(-100, 100, -100, 100), Extent(-0.5, 0.7, -0.2, 0.3)):
        inside = (x >= view.x0) & (x <= view.x1) & (y >= view.y0) & (y <= view.y1)
        own = rasterise(
            x[inside], y[inside], colour[inside], view, 80, 60, kind=kind[inside], strong=strong[inside], spread=1
        )
        found = detail.raster(view, 80, 60, colour, strong)
        np.testing.assert_allclose(channels(found), channels(own), atol=1)  # sums in another order


def test_a_head_without_places_has_nothing_to_see() -> None:
    nowhere = np.full(5, np.nan, dtype=np.float32)
    detail = detail_of(nowhere, nowhere, np.zeros(5, dtype=np.uint8))
    assert detail.visible(UNIT).size == 0 and detail.nearest_point(0, 0, 9) is None
    assert not detail.raster(UNIT, 8, 8, np.zeros(5, dtype=np.uint32)).any()


# A large index


@pytest.fixture
def large(small_index: Index, monkeypatch: pytest.MonkeyPatch) -> Iterator[Shown]:
    """The small index, as if nothing larger could be drawn point by point."""
    monkeypatch.setattr(select, "MAX_TOKENS", 200)
    monkeypatch.setattr(select, "BLOCK_ROWS", 77)
    monkeypatch.setattr(detail, "DETAIL_POINTS", 150)
    shown = Shown(small_index, 200)
    assert shown.is_large and len(shown.rows) < small_index.n_tokens
    return shown


def scene_of(shown: Shown, state: State) -> Scene:
    hits = search(shown.index, state.search) if state.search else None
    return Scene(shown, state, select.colouring(shown, state), hits)


def everything(shown: Shown, state: State) -> NDArray[np.float32]:
    """Return where all points are on the screen: (query or key, token, 2)."""
    return np.stack([shown.place(state, kind, slice(None)) for kind in KINDS])


@pytest.mark.parametrize("state", [FLAT, SOLID])
def test_few_points_in_view_are_exactly_those_that_lie_there(large: Shown, state: State) -> None:
    place = everything(large, state)
    middle, size = np.median(place.reshape(-1, 2), axis=0), np.ptp(place.reshape(-1, 2), axis=0)
    view = Extent(*(float(v) for at, of in zip(middle, size, strict=True) for v in (at - of / 30, at + of / 30)))
    seen = sight(scene_of(large, state), view, 300, 200)
    inside = ((place >= (view.x0, view.y0)) & (place <= (view.x1, view.y1))).all(axis=2)
    assert seen.image is None and 0 < inside.sum() <= 150
    for kind, mask in zip(KINDS, inside, strict=True):
        assert seen.rows[kind].tolist() == np.flatnonzero(mask).tolist()
        assert len(seen.colour[kind]) == len(seen.size[kind]) == mask.sum()


def test_many_points_in_view_are_an_image_of_all_tokens(large: Shown) -> None:
    place = everything(large, FLAT).reshape(-1, 2)
    view = detail.frame(large, FLAT)
    seen = sight(scene_of(large, FLAT), view, 90, 70)
    kind = np.repeat([0, 1], large.index.n_tokens)
    colour = np.where(kind == QUERY, BLUE, ORANGE).astype(np.uint32)
    assert seen.image is not None and not any(len(rows) for rows in seen.rows.values())
    own = rasterise(place[:, 0], place[:, 1], colour, view, 90, 70, kind=kind, spread=1)
    assert {tuple(at) for at in np.argwhere(own)} <= {tuple(at) for at in np.argwhere(seen.image)}
    lit = channels(seen.image)[seen.image > 0]
    assert (lit[:, 3] > 127).all()


def test_while_a_map_in_space_is_turned_a_sample_stands_for_its_image(large: Shown, monkeypatch: Any) -> None:
    monkeypatch.setattr(detail, "DRAGGED_POINTS", 100)
    seen = sight(scene_of(large, SOLID), WHOLE, 90, 70)
    assert seen.image is not None
    assert 50 <= sum(len(rows) for rows in seen.rows.values()) <= 100


def test_hits_are_strong_in_the_image_and_all_else_is_faint(large: Shown) -> None:
    state = replace(FLAT, search="the")
    scene = scene_of(large, state)
    assert scene.hit_rows is not None and len(scene.hit_rows) > 5
    view = detail.frame(large, state)
    seen = sight(scene, view, 200, 200)
    assert seen.image is not None
    alpha = channels(seen.image)[..., 3]
    place = everything(large, state)
    at = np.floor((place - (view.x0, view.y0)) / (view.x1 - view.x0, view.y1 - view.y0) * 200).clip(0, 199).astype(int)
    assert (alpha[at[:, scene.hit_rows, 1], at[:, scene.hit_rows, 0]] == 255).all()
    assert np.count_nonzero((alpha > 0) & (alpha < 60)) > 1000
    assert not ((alpha >= 60) & (alpha < 255)).any()


def test_what_the_legend_hides_is_faint_in_the_image(large: Shown) -> None:
    view = detail.frame(large, FLAT)
    seen = sight(scene_of(large, replace(FLAT, hidden=("query", "key"))), view, 200, 200)
    assert seen.image is not None and channels(seen.image)[..., 3].max() < 60


@pytest.mark.parametrize("state", [FLAT, SOLID])
def test_the_nearest_point_of_a_large_map_is_the_nearest_of_all_tokens(large: Shown, state: State) -> None:
    place = everything(large, state).astype(np.float64)
    rng = np.random.default_rng(1)
    for x, y in place.reshape(-1, 2)[rng.choice(place[..., 0].size, 60)] + rng.normal(scale=0.05, size=(60, 2)):
        distance = np.hypot(place[..., 0] - x, place[..., 1] - y)
        best = float(distance.min())
        found = detail.nearest(large, state, x, y, 1.01 * best)
        assert found is not None and distance[KINDS.index(found[0]), found[1]] == pytest.approx(best)
        assert detail.nearest(large, state, x, y, 0.99 * best) is None


def test_points_of_the_clicked_tokens_sequence_come_before_nearer_ones(large: Shown) -> None:
    state, place = replace(FLAT, selected=("query", 40)), everything(large, FLAT)
    span = large.sequence_rows(40)
    for row in np.flatnonzero(~large.is_shown)[:20]:
        found = detail.nearest(large, state, *map(float, place[1, row]), 3.0)
        own = np.hypot(*np.moveaxis(place[:, span] - place[1, row], -1, 0))
        if own.min() <= 3.0:
            assert found is not None and span.start <= found[1] < span.stop
            assert own[KINDS.index(found[0]), found[1] - span.start] == pytest.approx(own.min())
        else:
            assert found == ("key", row)


def test_a_tooltip_says_what_it_says_of_a_small_index(small_index: Index, large: Shown) -> None:
    whole = Shown(small_index)
    for kind, points in select.points(whole, FLAT).items():
        for row in range(0, small_index.n_tokens, 7):
            own = [(int(p), float(w)) for p, w in zip(points.partner[row], points.weight[row], strict=True) if p >= 0]
            assert detail.partners(large, FLAT, kind, row) == own
    row = int(np.flatnonzero((small_index.tokens["start"] > 5).to_numpy())[9])
    words = detail.told(large, FLAT, "query", row)
    sentence = small_index.sequences["text"].iloc[int(large.sequence_number[row])]
    assert (words["before"] + words["token"] + words["after"]).strip("\u2026") in sentence
    assert words["token"] == small_index.tokens["text"].iloc[row] and "L2H3" in words["where"]


def test_links_of_a_large_index_are_the_strongest_of_all_tokens(
    small_index: Index, large: Shown, tmp_path: Path
) -> None:
    state = replace(FLAT, n_links=120, threshold=0.0)
    own = small_index.head(2, 3).links(top=120, special=False, itself=False, first=False)
    found = select.corpus_links(large, state)
    np.testing.assert_array_equal(found.attention, own["attention"])
    view = small_index.head(2, 3).projection("pca", 2)
    np.testing.assert_array_equal(found.start, view.query[own["query"].to_numpy()])
    np.testing.assert_array_equal(found.end, view.key[own["key"].to_numpy()])
    tiled = tile(small_index, tmp_path / "tiled", 3)  # every weight at least three times: the earliest come first
    twice = tiled.head(0, 0).links(top=50, special=False, itself=False, first=False)
    found = select.corpus_links(Shown(tiled, 200), replace(state, layer=0, head=0, n_links=50))
    np.testing.assert_array_equal(found.start, tiled.head(0, 0).projection("pca", 2).query[twice["query"].to_numpy()])
    assert not len(select.corpus_links(large, replace(state, n_links=0)).attention)


def test_a_region_of_a_large_index_holds_all_tokens_that_lie_in_it(large: Shown) -> None:
    place = everything(large, FLAT)
    x, y = np.median(place.reshape(-1, 2), axis=0).tolist()
    state = replace(FLAT, region=((x - 1.5, y - 1), (x + 2, y - 1.2), (x + 0.3, y + 2)))
    rows = select.region_rows(large, state)
    for kind, at in zip(KINDS, place, strict=True):
        assert rows[kind].tolist() == np.flatnonzero(select.inside(at, state.region)).tolist()
    assert np.setdiff1d(rows["query"], large.rows).size > 0


@settings(deadline=None)
@given(
    st.tuples(*[st.floats(-9, 9)] * 2), st.tuples(*[st.floats(0.01, 9)] * 2), st.integers(50, 900), st.integers(50, 900)
)
def test_the_whole_view_holds_the_frame_with_equal_units(
    at: tuple[float, float], size: tuple[float, float], width: int, height: int
) -> None:
    view = detail.whole_view(Extent(at[0], at[0] + size[0], at[1], at[1] + size[1]), width, height)
    assert view.x0 < at[0] < at[0] + size[0] < view.x1 and view.y0 < at[1] < at[1] + size[1] < view.y1
    across, up = (view.x1 - view.x0) / width, (view.y1 - view.y0) / height
    assert across == pytest.approx(up)
    fills = max(size[0] / (view.x1 - view.x0), size[1] / (view.y1 - view.y0))
    assert fills == pytest.approx(1 / 1.06)


def test_colours_and_lengths_do_not_depend_on_the_block(small_index: Index, large: Shown) -> None:
    head = small_index.head(2, 3)
    norms = select.vector_norms(large, 2, 3)
    np.testing.assert_array_equal(norms["query"], np.linalg.norm(head.query, axis=1))
    np.testing.assert_array_equal(norms["key"], np.linalg.norm(head.key, axis=1))


def test_a_large_head_that_is_not_mapped_has_nothing_to_see(unmapped_index: Index) -> None:
    shown, state = Shown(unmapped_index), State(layer=1, head=2)
    seen = sight(scene_of(shown, state), detail.frame(shown, state), 50, 50)
    assert seen.image is None and not any(len(rows) for rows in seen.rows.values())
    assert detail.nearest(shown, state, 0.5, 0.5, 9.0) is None
