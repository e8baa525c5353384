"""Rasters: every point is counted, no kind is drowned, and a cell of the atlas is its head's own map."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from qkspace.app import atlas, figures_atlas
from qkspace.app.atlas import Mosaic, mosaic
from qkspace.app.colours import KEY_COLOUR, QUERY_COLOUR, pack
from qkspace.app.raster import KEY, QUERY, Extent, rasterise
from qkspace.app.select import NORM, Shown, colouring
from qkspace.app.state import State
from qkspace.index import Index
from qkspace.schema import QKSpaceError

UNIT = Extent(0, 1, 0, 1)
BLUE, ORANGE = (int(pack([colour["light"]])[0]) for colour in (QUERY_COLOUR, KEY_COLOUR))
PCA = State(method="pca")


def channels(image: NDArray[np.uint32]) -> NDArray[np.int64]:
    """Return red, green, blue and alpha as the browser reads them: (row, column, 4)."""
    return np.ascontiguousarray(image).view(np.uint8).reshape(*image.shape, 4).astype(np.int64)


def rgb(colour: int) -> list[int]:
    return [colour >> 24 & 255, colour >> 16 & 255, colour >> 8 & 255]


def draw(x: list[float], y: list[float], kind: list[int], size: int = 10, **options: object) -> NDArray[np.uint32]:
    colour = np.where(np.asarray(kind) == QUERY, BLUE, ORANGE).astype(np.uint32)
    place = np.asarray([x, y], dtype=np.float32)
    return rasterise(*place, colour, UNIT, size, size, kind=np.asarray(kind), spread=1, **options)  # type: ignore[arg-type]


def test_known_points_light_exactly_their_pixels() -> None:
    image = draw([0.05, 0.95, 0.55, 0.55, np.nan, 1.5, 0.5], [0.05, 0.05, 0.75, 0.75, 0.5, 0.5, -0.1], [0] * 7)
    assert sorted(zip(*np.nonzero(image), strict=True)) == [(0, 0), (0, 9), (7, 5)]  # row 0 is the bottom
    assert (channels(image)[image > 0][:, :3] == rgb(BLUE)).all()


def test_the_ends_of_an_extent_are_inside() -> None:
    assert sorted(zip(*np.nonzero(draw([0, 1], [0, 1], [0, 0])), strict=True)) == [(0, 0), (9, 9)]


def test_more_points_are_more_opaque_and_one_is_already_plain_to_see() -> None:
    alpha = channels(draw([0.05] + [0.15] * 3 + [0.25] * 40, [0.05] * 44, [0] * 44))[0, :3, 3]
    assert 127 < alpha[0] < alpha[1] < alpha[2] == 255


@pytest.mark.parametrize(("few", "many"), [(QUERY, KEY), (KEY, QUERY)])
def test_a_kind_is_seen_where_the_other_lies_over_it(few: int, many: int) -> None:
    n = 100_000
    x, y = np.random.default_rng(0).random((2, n)).tolist()
    alone = channels(draw(x, y, [many] * n))
    both = channels(draw([0.55, *x], [0.55, *y], [few] + [many] * n))
    changed = np.argwhere(np.abs(both - alone).sum(axis=2) > 0)
    assert changed.tolist() == [[5, 5]]  # a thousand of the other kind lie in that pixel
    own = rgb(BLUE if few == QUERY else ORANGE)
    towards = np.abs(alone[5, 5, :3] - own).sum() - np.abs(both[5, 5, :3] - own).sum()
    assert towards > 0.2 * np.abs(alone[5, 5, :3] - own).sum()


def test_few_points_are_drawn_larger_but_stay_in_the_image() -> None:
    place = np.asarray([[0.0, 0.5], [0.0, 0.5]], dtype=np.float32)
    colour = np.full(2, BLUE, dtype=np.uint32)
    image = rasterise(*place, colour, UNIT, 100, 100)
    lit = {(int(row), int(column)) for row, column in np.argwhere(image)}
    assert lit == {(0, 0), (0, 1), (1, 0), (50, 50), (49, 50), (51, 50), (50, 49), (50, 51)}


def test_hits_are_opaque_and_in_front_and_the_rest_is_faint() -> None:
    kind = [QUERY] * 50 + [KEY]
    strong = np.asarray([False] * 50 + [True])
    image = channels(draw([0.05] * 49 + [0.95, 0.05], [0.05] * 49 + [0.95, 0.05], kind, strong=strong))
    assert image[0, 0].tolist() == [*rgb(ORANGE), 255]
    assert 0 < image[9, 9, 3] < 60


def test_colours_of_a_pixel_are_mixed_by_how_many_points_have_each() -> None:
    red, blue = 0xFF000000, 0x0000FF00
    colour = np.asarray([red] * 3 + [blue], dtype=np.uint32)
    place = np.full((2, 4), 0.5, dtype=np.float32)
    mixed = channels(rasterise(*place, colour, UNIT, 1, 1, spread=1))[0, 0]
    assert np.abs(mixed[:3] - [255 * 0.75**0.5, 0, 255 * 0.25**0.5]).max() <= 1


def test_an_extent_the_wrong_way_round_is_refused() -> None:
    with pytest.raises(QKSpaceError, match="from a number to a larger one"):
        rasterise(*np.zeros((2, 1), dtype=np.float32), np.zeros(1, dtype=np.uint32), Extent(1, 0, 0, 1), 4, 4)


# The atlas


def cell_of(found: Mosaic, layer: int, head: int) -> NDArray[np.uint32]:
    cells = found.cells
    at = int(np.flatnonzero((cells["layer"] == layer) & (cells["head"] == head))[0])
    x0, x1, y0, y1 = (int(cells[name][at]) for name in ("x0", "x1", "y0", "y1"))
    return found.image[y0:y1, x0:x1]


@pytest.mark.parametrize("colour", [PCA.colour, "position", NORM])
def test_a_cell_is_its_heads_own_raster(small_index: Index, colour: str) -> None:
    shown, state = Shown(small_index), replace(PCA, colour=colour, layer=3, head=5)
    found = mosaic(shown, state, cell_px=40)
    view, colours = small_index.head(3, 5).projection("pca", 2), colouring(shown, state)
    place = np.concatenate([view.query, view.key])
    extent = atlas.cell_extent(place)
    assert extent is not None
    packed = np.concatenate([colours.query, colours.key])
    kind = np.repeat([QUERY, KEY], small_index.n_tokens)
    own = channels(rasterise(place[:, 0], place[:, 1], packed, extent, 40, 40, kind=kind))
    cell = channels(cell_of(found, 3, 5))
    assert (cell[..., 3] == own[..., 3]).all() and (cell[..., 3] > 0).any()
    np.testing.assert_allclose(cell, own, atol=1)  # a colour by length is interpolated from float32 norms


def test_the_matrix_has_layer_down_and_head_across(small_index: Index) -> None:
    found = mosaic(Shown(small_index), PCA, cell_px=20, gap=3)
    cells = found.cells
    assert found.image.shape == (6 * 23 - 3, 12 * 23 - 3)
    np.testing.assert_array_equal(cells["x0"], cells["head"] * 23)
    np.testing.assert_array_equal(found.height - cells["y1"], cells["layer"] * 23)  # layer 0 is on top
    outside = np.ones(found.image.shape, dtype=bool)
    for x0, x1, y0, y1 in zip(*(cells[name] for name in ("x0", "x1", "y0", "y1")), strict=True):
        outside[y0:y1, x0:x1] = False
    assert not found.image[outside].any()


def test_cells_in_a_given_order_hold_the_same_pictures(small_index: Index) -> None:
    shown = Shown(small_index)
    matrix = mosaic(shown, PCA, cell_px=24)
    order = np.asarray([70, 3, 41, 12, 5])
    found = mosaic(shown, PCA, cell_px=24, heads_order=order, columns=2, title_px=10)
    assert found.cells["index"].tolist() == order.tolist()
    assert list(zip(found.cells["row"], found.cells["column"], strict=True)) == [(0, 0), (0, 1), (1, 0), (1, 1), (2, 0)]
    for layer, head in zip(found.cells["layer"], found.cells["head"], strict=True):
        np.testing.assert_array_equal(cell_of(found, layer, head), cell_of(matrix, layer, head))
    assert mosaic(shown, PCA, cell_px=24, heads_order=order[:0]).cells["index"].size == 0


class Ragged(Shown):
    """Layer 2 has three heads fewer than the others."""

    @property
    def head_table(self) -> pd.DataFrame:  # type: ignore[override]
        """Leave three heads out."""
        table = self.index.head_table()
        return table[~((table["layer"] == 2) & (table["head"] >= 9))].reset_index(drop=True)


def test_a_layer_with_fewer_heads_leaves_gaps(small_index: Index) -> None:
    whole, ragged = (mosaic(shown, PCA, cell_px=20) for shown in (Shown(small_index), Ragged(small_index)))
    assert ragged.image.shape == whole.image.shape
    for layer, head in ((2, 8), (3, 0), (5, 11)):
        np.testing.assert_array_equal(cell_of(ragged, layer, head), cell_of(whole, layer, head))
    x0 = int(whole.cells["x0"][2 * 12 + 9])
    y0 = int(whole.cells["y0"][2 * 12 + 9])
    assert whole.image[y0 : y0 + 20, x0:].any() and not ragged.image[y0 : y0 + 20, x0:].any()


def test_a_head_that_is_not_mapped_has_an_empty_cell_and_says_so(unmapped_index: Index) -> None:
    shown = Shown(unmapped_index)
    found = mosaic(shown, PCA, cell_px=30, hits=np.asarray([0]))
    assert not cell_of(found, 1, 2).any() and cell_of(found, 1, 1).any()
    assert found.cells["name"][~found.cells["mapped"]].tolist() == ["L1H2"]
    words = figures_atlas.cells_data(found, atlas.atlas_table(shown, PCA))
    assert words["says"][6] == "no map" and not words["recall"][6]
    assert all("%" in said for i, said in enumerate(words["recall"]) if i != 6)


def test_search_hits_stand_out_in_every_cell(small_index: Index) -> None:
    shown = Shown(small_index)
    plain = mosaic(shown, PCA, cell_px=40)
    found = mosaic(shown, PCA, cell_px=40, hits=np.asarray([7]))
    nothing = mosaic(shown, PCA, cell_px=40, hits=np.zeros(0, dtype=np.int64))
    for layer, head in zip(plain.cells["layer"], plain.cells["head"], strict=True):
        alpha, faded = (channels(cell_of(m, layer, head))[..., 3] for m in (found, nothing))
        assert 0 < faded.max() < 60
        inside = found.cells["outside"][12 * layer + head] == 0
        assert (alpha == 255).any() or not inside
        assert set(np.unique(alpha[alpha < 255])) <= set(range(60))


def test_hits_outside_the_sample_are_drawn_too(small_index: Index) -> None:
    shown = Shown(small_index)
    sampled = atlas._sample_rows(shown, 60)
    other = np.setdiff1d(np.arange(small_index.n_tokens), sampled)
    found = mosaic(shown, replace(PCA, colour=NORM), cell_px=40, n_tokens=60, hits=other)
    none = mosaic(shown, replace(PCA, colour=NORM), cell_px=40, n_tokens=60, hits=other[:0])
    strong, without = ((channels(m.image)[..., 3] == 255).sum() for m in (found, none))
    assert strong > 0 and without == 0


def test_a_cell_shows_whole_sequences_and_no_more_tokens_than_asked(small_index: Index) -> None:
    shown = Shown(small_index)
    rows = atlas._sample_rows(shown, 100)
    assert 0 < len(rows) <= 100
    numbers, counts = np.unique(shown.sequence_number[rows], return_counts=True)
    np.testing.assert_array_equal(counts, small_index.sequences["n_tokens"].to_numpy()[numbers])


def test_an_outlier_does_not_shrink_a_map_and_near_points_are_kept() -> None:
    place = np.random.default_rng(0).normal(size=(1000, 2))
    extent = atlas.cell_extent(place)
    assert extent is not None
    assert place.min() >= min(extent) and place.max() <= max(extent)
    far = atlas.cell_extent(np.concatenate([place, [[1e6, 0]]]))
    assert far is not None and far.x1 - far.x0 < 1.2 * (extent.x1 - extent.x0)
    assert far.x1 - far.x0 == pytest.approx(far.y1 - far.y0)  # equal aspect
    point = atlas.cell_extent(np.ones((5, 2)))
    assert point is not None and point.x0 < 1 < point.x1
    assert atlas.cell_extent(np.full((5, 2), np.nan)) is None


def test_cells_in_view_are_drawn_finer_at_the_same_place(small_index: Index) -> None:
    shown = Shown(small_index)
    whole = mosaic(shown, PCA, cell_px=20)
    at = 12 * 2 + 4
    x0, y0 = int(whole.cells["x0"][at]), int(whole.cells["y0"][at])
    found = mosaic(shown, PCA, cell_px=20, view=Extent(x0 + 5, x0 + 9, y0 + 5, y0 + 9), finer=3)
    assert found.place == (x0, x0 + 20, y0, y0 + 20) and found.image.shape == (60, 60)
    np.testing.assert_array_equal(found.image, cell_of(mosaic(shown, PCA, cell_px=60), 2, 4))
    np.testing.assert_array_equal(found.cells["x0"], whole.cells["x0"])  # where to click stays


def test_maps_not_to_be_believed_are_faint(small_index: Index) -> None:
    shown = Shown(small_index)
    words = atlas.atlas_table(shown, PCA)["verdict"]
    plain, faded = (mosaic(shown, PCA, cell_px=30, fade_unbelieved=fade) for fade in (False, True))
    assert words.isin(["good", "fair"]).any() and (~words.isin(["good", "fair"])).any()
    for i, word in enumerate(words):
        before, after = (channels(cell_of(m, *divmod(i, 12)))[..., 3].max() for m in (plain, faded))
        assert after == before if word in ("good", "fair") else after < 0.5 * before


def test_a_method_without_a_map_is_refused_with_those_there_are(small_index: Index) -> None:
    shown, state = Shown(small_index), replace(PCA, method="umap")
    for ask in (lambda: mosaic(shown, state, cell_px=20), lambda: atlas.atlas_table(shown, state)):
        with pytest.raises(QKSpaceError, match="'umap'; there is one by pca"):
            ask()


# Sorting and filtering


def test_heads_are_sorted_and_filtered_with_unscored_ones_last(unmapped_index: Index) -> None:
    table = atlas.atlas_table(Shown(unmapped_index), PCA)
    recall = table["recall1"].to_numpy()
    order = atlas.order_heads(table, "recall1")
    assert sorted(order.tolist()) == list(range(8)) and order[-1] == 6  # L1H2 has no map
    assert (np.diff(recall[order[:-1]]) <= 0).all()
    up = atlas.order_heads(table, "recall1", descending=False)
    assert (np.diff(recall[up[:-1]]) >= 0).all() and up[-1] == 6
    middle = float(np.nanmedian(recall))
    kept = atlas.order_heads(table, "recall1", minimum=middle)
    assert set(kept.tolist()) == set(np.flatnonzero(recall >= middle).tolist())
    low = atlas.order_heads(table, "recall1", maximum=middle)
    assert set(low.tolist()) == set(np.flatnonzero(recall <= middle).tolist())
    assert atlas.order_heads(table, "").tolist() == list(range(8))


def test_a_state_says_which_heads_are_shown_and_in_what_order(unmapped_index: Index) -> None:
    table = atlas.atlas_table(Shown(unmapped_index), PCA)
    assert atlas.chosen_heads(table, PCA) is None
    for order, best in (("-attention_kl", np.nanmin), ("recall1", np.nanmax), ("entropy", np.nanmax)):
        values = table[order.removeprefix("-")].to_numpy()
        kept = atlas.chosen_heads(table, replace(PCA, order=order, least=float(np.nanmedian(values))))
        assert kept is not None and 0 < len(kept) < 8
        assert best(values) == values[kept[0]] and not np.isnan(values[kept]).any()


def test_every_column_to_sort_by_has_words_and_others_are_refused(small_index: Index) -> None:
    table = atlas.atlas_table(Shown(small_index), PCA)
    labels = atlas.order_labels(table)
    assert {"entropy", "attention_to_special", "recall1", "recall1_content", "attention_kl"} <= set(labels)
    assert len(set(labels.values())) == len(labels)
    pd.testing.assert_series_equal(table["recall1"], small_index.head_table()["pca2_recall1"], check_names=False)
    with pytest.raises(QKSpaceError, match="can by"):
        atlas.order_heads(table, "name")


@settings(deadline=None, max_examples=60)
@given(n=st.integers(1, 1200), width=st.integers(200, 2000), height=st.integers(200, 1200), by_score=st.booleans())
def test_the_layout_fits_the_frame_pixel_by_pixel(n: int, width: int, height: int, by_score: bool) -> None:
    table = pd.DataFrame({"layer": np.arange(n) // 32, "head": np.arange(n) % 32})
    laid = figures_atlas.fit(table, width, height, np.arange(n) if by_score else None)
    rows = -(-n // laid["columns"]) if by_score else int(table["layer"].max()) + 1
    columns = laid["columns"] if by_score else int(table["head"].max()) + 1
    step = laid["cell_px"] + laid["gap"]
    across, down = columns * step - laid["gap"], rows * (step + laid["title_px"]) - laid["gap"]
    edge = 2 * figures_atlas.MARGIN
    assert (across + edge <= width and down + edge <= height) or laid["cell_px"] == 1
    image = np.zeros((1, 1), dtype=np.uint32)
    found = Mosaic(image, {}, laid["cell_px"], across, down, Extent(0, across, 0, down))
    (x0, x1), (y0, y1) = figures_atlas.frame_ranges(found, width, height)
    assert x0 < 0 and x1 > across and y1 > down and y0 < 0
    assert (x1 - x0) / width == pytest.approx((y1 - y0) / height)
    if laid["cell_px"] > 1:
        assert x1 - x0 == width  # one unit is one pixel
