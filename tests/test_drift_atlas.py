"""The atlas of a comparison: every head once, its tokens in the colour of their drift, at the places of either checkpoint."""

from __future__ import annotations

import html
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bokeh.document import Document
from bokeh.events import DoubleTap, Tap
from browsing import SIZES, WAIT, Visit, bokeh_serve, free_port, running, save
from conftest import MakeCheckpoint
from numpy.typing import NDArray

from qkspace.app import compare_select as chosen
from qkspace.app import drift, drift_atlas
from qkspace.app.atlas import Mosaic
from qkspace.app.compare_document import make_compare_document
from qkspace.app.compare_state import CompareScene, CompareState
from qkspace.app.compare_words import share
from qkspace.app.raster import NOWHERE
from qkspace.comparison.reader import Comparison
from qkspace.report import verdict
from qkspace.schema import QKSpaceError

ATTACK = "</script><img src=x onerror=alert(1)>"
Options = dict[str, Any]
OPTIONS: Options = {"methods": ["pca"], "dims": [2], "normalise": "none", "n_jobs": 1}


def _tuned(checkpoint: Path, folder: Path, amount: float) -> Path:
    """Save a checkpoint whose queries of L1H1 were moved by `amount` of their size."""
    import torch
    from transformers import AutoModel, AutoTokenizer

    model = AutoModel.from_pretrained(checkpoint)
    weight = model.encoder.layer[1].attention.self.query.weight
    rows = slice(*(model.config.hidden_size // model.config.num_attention_heads * np.array([1, 2])).tolist())
    noise = torch.randn(weight.shape, generator=torch.Generator().manual_seed(0)) * weight.std()
    with torch.no_grad():
        weight[rows] += amount * noise[rows]
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(checkpoint).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def run(
    make_checkpoint: MakeCheckpoint, small_corpus: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory
) -> Comparison:
    """A tiny BERT with two checkpoints, in which L1H1 alone changes, a little and much."""
    from qkspace.comparison.build import compare

    folder, base = tmp_path_factory.mktemp("atlas"), make_checkpoint("bert")
    tuned = [_tuned(base, folder / f"step-{step:04d}", step / 10) for step in (1, 20)]
    return compare(base, tuned, list(small_corpus), out=folder / "out", **OPTIONS)


@pytest.fixture(scope="module")
def words(
    make_checkpoint: MakeCheckpoint, small_corpus: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory
) -> Comparison:
    """A tiny BERT with a tiny Llama: other tokens, and heads that are paired by behaviour."""
    from qkspace.comparison.build import compare

    out = tmp_path_factory.mktemp("words") / "out"
    return compare(make_checkpoint("bert"), make_checkpoint("llama"), list(small_corpus), out=out, **OPTIONS)


class Visitor:
    """One visitor's document of a comparison, opened on the atlas."""

    def __init__(self, comparison: Comparison, **options: Any) -> None:
        self.doc = Document()
        make_compare_document(self.doc, comparison, page="atlas", **options)
        self.plot = self.widget("drift_atlas")

    def widget(self, name: str) -> Any:
        """Return the model of that name."""
        found = self.doc.get_model_by_name(name)
        assert found is not None, name
        return found

    def data(self, renderer: str) -> dict[str, Any]:
        """Return what a renderer of the atlas draws."""
        return dict(self.plot.select_one({"name": renderer}).data_source.data)

    def image(self) -> NDArray[np.uint32]:
        """Return the picture."""
        return np.array(self.data("mosaic")["image"][0])

    def heads(self) -> list[tuple[int, int]]:
        """Return the heads as they are laid out, in reading order."""
        cells = self.data("cells")
        at = sorted(range(len(cells["x"])), key=lambda i: (-cells["y"][i], cells["x"][i]))
        return [(int(cells["layer"][i]), int(cells["head"][i])) for i in at]

    def tap(self, kind: type[Tap] | type[DoubleTap], layer: int, head: int) -> None:
        """Click on the cell of a head."""
        cells = self.data("cells")
        i = int(np.flatnonzero((cells["layer"] == layer) & (cells["head"] == head))[0])
        self.plot._trigger_event(kind(self.plot, x=float(cells["x"][i]), y=float(cells["y"][i])))

    def here(self) -> list[tuple[float, float]]:
        """Return the middles of the cells that are framed."""
        data = self.data("here")
        return list(zip(data["x"], data["y"], strict=True))

    def legend(self) -> str:
        """Return what is said of the colours."""
        return html.unescape(re.sub(r"<[^>]*>", " ", self.widget("compare_atlas_legend").text))


def _state(comparison: Comparison, **parts: Any) -> CompareState:
    return CompareState(page="atlas", checkpoint=comparison.labels[-1], method="pca", **parts)


def _cell(found: Mosaic, i: int) -> NDArray[np.int64]:
    """Return red, green, blue and alpha of a cell: (row, column, 4)."""
    x0, x1, y0, y1 = (int(found.cells[name][i]) for name in ("x0", "x1", "y0", "y1"))
    image = np.ascontiguousarray(found.image[y0:y1, x0:x1])
    return image.view(np.uint8).reshape(*image.shape, 4).astype(np.int64)


def _light(packed: NDArray[np.uint32]) -> NDArray[np.int64]:
    return np.stack([packed >> 24, packed >> 16, packed >> 8], axis=-1).astype(np.int64) & 255


# -------------------------------------------------------------------------------------------------- colours


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_the_colour_of_a_query_is_its_drift_on_one_scale_for_all_heads(run: Comparison, theme: Any) -> None:
    state = _state(run, theme=theme)
    look, scale = drift_atlas.DriftLook(run, state, "base", None), chosen.drift_scale(theme)
    top = drift_atlas.scale_top(run)
    table = run.head_drift(state.checkpoint)
    for i, (layer, head) in enumerate(zip(table["layer"], table["head"], strict=True)):
        js = run.token_drift(state.checkpoint, int(layer), int(head))[look.sample.rows]
        step = np.rint(np.sqrt(np.clip(js / top, 0, 1)) * (len(scale) - 1)).astype(int)
        expected = np.array([int(scale[k][1:], 16) << 8 for k in step], dtype=np.uint32)
        np.testing.assert_array_equal(look.colours(i), expected)
    assert len(np.unique(look.colours(5))) > 10 and len(np.unique(look.colours(0))) <= 2, "only L1H1 has changed"


def test_the_scale_ends_where_the_most_changed_checkpoint_does_and_is_that_of_all(run: Comparison) -> None:
    table = run.head_drift("step-0020")
    heads = list(zip(table["layer"].tolist(), table["head"].tolist(), strict=True))
    js = np.concatenate([run.token_drift("step-0020", *head) for head in heads])
    assert drift_atlas.scale_top(run) == pytest.approx(np.percentile(js, 99), rel=1e-4)
    looks = [drift_atlas.DriftLook(run, replace(_state(run), checkpoint=label), "base", None) for label in run.labels]
    assert looks[0].top == looks[1].top
    dark = [float(_light(look.colours(5)).sum(axis=1).mean()) for look in looks]
    assert dark[1] < dark[0], "what changed more is darker on a light ground"


def test_a_cell_has_its_queries_opaque_at_their_places_and_its_keys_faint(run: Comparison) -> None:
    state = _state(run)
    found = drift_atlas.mosaic(run, state, cell_px=400)
    look = drift_atlas.DriftLook(run, state, "base", None)
    places, n = look.places, len(look.sample.rows)
    assert places.x.shape == (8, 2, 2, n)
    cell, i = _cell(found, 5), 5
    column, row = (places.x[i, 0].astype(int) * 400) >> 16, (places.y[i, 0].astype(int) * 400) >> 16
    inside, inside_key = places.x[i, 0] != NOWHERE
    assert (cell[row[0][inside], column[0][inside], 3] == 255).all(), "queries"
    is_key = np.zeros((400, 400), dtype=bool)
    is_key[row[1][inside_key], column[1][inside_key]] = True
    alone = is_key & (cell[..., 3] < 255)
    assert alone.any() and (cell[alone][:, 3] > 0).all() and cell[alone][:, 3].max() < 128
    assert (cell[alone][:, :3] == _light(look.palette[-1:])).all(), "keys have no drift"
    lone = [k for k in np.flatnonzero(inside) if _is_lone(row[0], column[0], k)]
    drawn = cell[row[0][lone], column[0][lone], :3]
    assert len(lone) and np.abs(drawn - _light(look.colours(i))[lone]).max() <= 1


def _is_lone(row: NDArray[Any], column: NDArray[Any], k: Any) -> bool:
    """Tell whether no other point is so near that the two could share a pixel."""
    near = (np.abs(row - row[k]) <= 3) & (np.abs(column - column[k]) <= 3)
    return int(near.sum()) == 1


def test_heads_that_did_not_change_are_faint_and_hatched(run: Comparison) -> None:
    visitor = Visitor(run)
    table = run.head_drift("step-0020")
    quiet = drift.is_quiet(table)
    assert 0 < quiet.sum() < len(table)
    found = drift_atlas.mosaic(run, _state(run), cell_px=40)
    for i, is_quiet in enumerate(quiet):
        assert (_cell(found, i)[..., 3].max() < 160) == is_quiet, i
    cells, hatched = visitor.data("cells"), visitor.data("quiet")
    assert set(zip(hatched["x"], hatched["y"], strict=True)) == {
        (cells["x"][i], cells["y"][i]) for i in np.flatnonzero(quiet)
    }
    assert f"hatched: {quiet.sum()} below the noise floor" in visitor.legend()


def test_hits_stand_out_and_the_rest_is_fainter(run: Comparison) -> None:
    visitor = Visitor(run)
    before = visitor.image()
    visitor.widget("search").value = "the"
    hits = run.base.search("the").rows
    after = visitor.image()
    assert (before != after).any()
    found = drift_atlas.mosaic(run, _state(run), cell_px=60, hits=hits)
    plain = drift_atlas.mosaic(run, _state(run), cell_px=60)
    opaque = [int((_cell(each, 5)[..., 3] == 255).sum()) for each in (found, plain)]
    assert 0 < opaque[0] < opaque[1]
    assert f"{len(hits)} of {len(hits)}" in visitor.legend()


def test_no_cell_has_more_tokens_than_allowed_and_sequences_stay_whole(
    run: Comparison, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(drift_atlas, "CELL_TOKENS", 60)
    small = Comparison(run.root)  # of which nothing has been read yet
    sample = drift_atlas.sample_of(small, "step-0020")
    assert 0 < len(sample.rows) <= 60 and sample.js.shape == (8, len(sample.rows))
    np.testing.assert_array_equal(sample.js[5], run.token_drift("step-0020", 1, 1)[sample.rows])
    sequences = run.base.tokens["sequence"].to_numpy()
    np.testing.assert_array_equal(np.flatnonzero(np.isin(sequences, sequences[sample.rows])), sample.rows)
    look = drift_atlas.DriftLook(small, _state(small), "base", None)
    assert look.places.x.shape[-1] == len(sample.rows) and look.cell(5, 20).any()
    monkeypatch.setattr(drift_atlas, "MOST_POINTS", 8 * 700)
    assert drift_atlas.n_tokens(run) == 60
    monkeypatch.setattr(drift_atlas, "CELL_TOKENS", 4_000)
    assert drift_atlas.n_tokens(run) == 700, "of very many heads fewer tokens are read"


# -------------------------------------------------------------------------------------------------- places


def test_places_after_tuning_are_those_on_the_base_s_map_in_the_same_frame(run: Comparison) -> None:
    visitor, state = Visitor(run), _state(run)
    assert visitor.widget("compare_atlas_places").visible
    before = visitor.image()
    visitor.widget("compare_atlas_places").active = 1
    after = visitor.image()
    assert before.shape == after.shape and (before != after).any()
    looks = [drift_atlas.DriftLook(run, state, side, None) for side in chosen.SIDES]
    (x0, x1, y0, y1), rows = looks[0].places.extent[5], looks[0].sample.rows
    views: list[Any] = [run.base.head(1, 1).projection("pca", 2), run.view(state.checkpoint, "pca", 2, 1, 1)]
    for side, view in enumerate(views):
        seen = looks[0].places.x[5, side, 0] != NOWHERE
        x = x0 + looks[0].places.x[5, side, 0] / 65_536 * (x1 - x0)
        y = y0 + looks[0].places.y[5, side, 0] / 65_536 * (y1 - y0)
        assert seen.mean() > 0.9
        np.testing.assert_allclose(x[seen], view.query[rows][seen, 0], atol=(x1 - x0) / 30_000)
        np.testing.assert_allclose(y[seen], view.query[rows][seen, 1], atol=(y1 - y0) / 30_000)
    np.testing.assert_array_equal(looks[0].colours(5), looks[1].colours(5))
    cells = [drift_atlas.mosaic(run, state, side=side, cell_px=40) for side in chosen.SIDES]
    assert (_cell(cells[0], 5) != _cell(cells[1], 5)).any(), "what changed has moved"


def test_maps_that_are_poor_for_the_tuned_attention_are_marked_at_the_tuned_places(run: Comparison) -> None:
    visitor, worth = Visitor(run), drift_atlas.worth_of(run, "step-0020", "pca")
    heads = [(layer, head) for layer in range(2) for head in range(4)]
    for i, (layer, head) in enumerate(heads):
        scores = run.view("step-0020", "pca", 2, layer, head).scores
        assert scores is not None and worth.after[i] == scores.recall1
        assert worth.poor[i] == (verdict(scores.recall1, scores.recall1_content) == "poor")
    assert worth.poor.any(), "random maps of a random model in the plane are poor"
    assert not len(visitor.data("unfit").get("mark", [])) and "poor" not in visitor.legend()
    visitor.widget("compare_atlas_places").active = 1
    said = visitor.data("cells")["said"]
    assert [("After tuning this map is poor" in each) for each in said] == worth.poor.tolist()
    assert visitor.data("unfit")["mark"] == [f"! {share(float(each))}" for each in worth.after[worth.poor]]
    assert f"poor for the tuned attention: {worth.poor.sum()}" in visitor.legend()
    visitor.widget("compare_atlas_places").active = 0
    assert not len(visitor.data("unfit")["mark"]) and "poor" not in visitor.legend()


def test_without_a_map_the_page_says_what_to_do(run: Comparison, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(chosen.shown_of(run)), "methods", property(lambda _self: []))
    with pytest.raises(QKSpaceError, match="qkspace project"):
        drift_atlas.method_of(run, _state(run))
    visitor = Visitor(run)
    assert "qkspace project" in visitor.widget("compare_atlas_says").text and not visitor.plot.visible


# -------------------------------------------------------------------------------------------------- heads


def test_there_is_one_cell_a_head_with_its_number_in_the_corner(run: Comparison) -> None:
    visitor = Visitor(run)
    everyone = [(layer, head) for layer in range(2) for head in range(4)]
    assert visitor.heads() == everyone, "layer down and head across"
    cells, table = visitor.data("cells"), run.head_drift("step-0020")
    for layer, head, corner, told, said in zip(
        *(cells[name] for name in ("layer", "head", "corner", "told", "said")), strict=True
    ):
        row = table[(table["layer"] == layer) & (table["head"] == head)].iloc[0]
        assert told.startswith(f"L{layer}H{head} ")
        if row["js"] > 0.001:
            assert corner == f"{row['js']:.3f}"
            assert f"JS {row['js']:.3f} nats [{row['js_low']:.3f}, {row['js_high']:.3f}]" in said
    assert "no change" in " ".join(cells["said"]).lower()


def test_the_most_changed_head_by_the_chosen_measure_comes_first(run: Comparison) -> None:
    visitor, table = Visitor(run), run.head_drift("step-0020")
    visitor.widget("compare_atlas_order").active = 1
    assert visitor.heads()[0] == (1, 1)
    for measure in ("js", "entropy_change", "query_cka"):
        visitor.widget("compare_measure").value = measure
        rows = [drift.place(table, *head) for head in visitor.heads()]
        assert sorted(rows) == list(range(8))
        much = drift.amount(table, measure)[rows]
        assert (np.diff(much) <= 1e-12).all(), measure
    assert not visitor.plot.axis[0].visible and visitor.plot.select_one({"name": "titles"}).visible
    visitor.widget("compare_atlas_order").active = 0
    assert visitor.heads() == sorted(visitor.heads())


def test_a_click_chooses_the_head_and_a_double_click_opens_its_maps(run: Comparison) -> None:
    visitor = Visitor(run)
    visitor.tap(Tap, 0, 2)
    assert (visitor.widget("layer").value, visitor.widget("head").value) == ("0", "2")
    assert visitor.widget("compare_pages").active == 2, "the atlas stays open"
    cells = visitor.data("cells")
    i = int(np.flatnonzero((cells["layer"] == 0) & (cells["head"] == 2))[0])
    assert visitor.here() == [(cells["x"][i], cells["y"][i])]
    assert "L0H2" in visitor.widget("compare_atlas_open").label
    visitor.plot._trigger_event(Tap(visitor.plot, x=-1e6, y=0.0))
    assert visitor.widget("head").value == "2", "beside the maps there is nothing to choose"
    visitor.tap(DoubleTap, 1, 3)
    assert (visitor.widget("layer").value, visitor.widget("head").value) == ("1", "3")
    assert visitor.widget("compare_pages").active == 1


def test_the_button_opens_the_chosen_head(run: Comparison) -> None:
    from bokeh.events import ButtonClick

    visitor = Visitor(run, layer=1, head=0)
    button = visitor.widget("compare_atlas_open")
    button._trigger_event(ButtonClick(button))
    assert visitor.widget("compare_pages").active == 1 and visitor.widget("head").value == "0"


def test_what_one_has_zoomed_in_on_stays_in_view(run: Comparison) -> None:
    from bokeh.events import RangesUpdate

    visitor = Visitor(run)
    x = visitor.plot.x_range
    whole = (x.start, x.end)
    half = {"x0": 0.0, "x1": (x.end - x.start) / 2, "y0": float(visitor.plot.y_range.start), "y1": 200.0}
    x.start, x.end = half["x0"], half["x1"]
    visitor.plot._trigger_event(RangesUpdate(visitor.plot, **half))
    seen = visitor.data("mosaic")
    assert seen["dw"][0] < whole[1] - whole[0]
    visitor.widget("compare_atlas_places").active = 1
    after = visitor.data("mosaic")
    assert (after["x"], after["dw"]) == (seen["x"], seen["dw"]) and (x.start, x.end) == (half["x0"], half["x1"])
    visitor.widget("compare_atlas_order").active = 1
    assert (x.start, x.end) != (half["x0"], half["x1"]), "laid out anew, all is shown"


# -------------------------------------------------------------------------------------------------- words, other models


def test_words_are_coloured_at_their_first_token_and_nothing_else_is(words: Comparison) -> None:
    (label,) = words.labels
    assert words.unit(label) == "word" and words.is_matched(label)
    visitor = Visitor(words)
    assert not visitor.widget("compare_atlas_places").visible, "the tuned words have no place on the base's maps"
    assert len(visitor.heads()) == 8 and visitor.image().any()
    sample, first = drift_atlas.sample_of(words, label), words.units(label)["base_row"].to_numpy()
    for i, (layer, head) in enumerate(visitor.heads()):
        js = np.full(words.base.n_tokens, np.nan, dtype=np.float32)
        js[first] = words.token_drift(label, layer, head)
        np.testing.assert_array_equal(sample.js[i], js[sample.rows])
    look = drift_atlas.DriftLook(words, _state(words), "base", None)
    other = ~np.isin(sample.rows, first)
    assert other.any() and (look.colours(0)[other] == look.palette[-1]).all()
    assert "first token" in visitor.legend()
    table = words.head_drift(label)
    assert f"L{table['matched_layer'][0]}H{table['matched_head'][0]}" in visitor.data("cells")["said"][0]


def test_a_search_finds_words_by_any_of_their_tokens(words: Comparison) -> None:
    (label,) = words.labels
    common, first = words.common(label), words.units(label)["base_row"].to_numpy()
    later = np.setdiff1d(np.flatnonzero(common.base_unit >= 0), first)
    rows = drift_atlas.hit_rows(CompareScene(words, _state(words), later[:1]))
    assert rows is not None and len(rows) == 1 and rows[0] in first and 0 < later[0] - rows[0] < 12


def test_a_head_without_counterpart_has_no_colours(words: Comparison, monkeypatch: pytest.MonkeyPatch) -> None:
    (label,) = words.labels
    table = words.head_drift(label)
    table.loc[2, [name for name in table if table[name].dtype.kind == "f"]] = np.nan
    table.loc[2, ["matched_layer", "matched_head"]] = -1
    alone = Comparison(words.root)
    monkeypatch.setattr(alone, "head_drift", lambda _label: table)
    assert np.isnan(drift_atlas.sample_of(alone, label).js[2]).all()
    found = drift_atlas.mosaic(alone, _state(alone), cell_px=30)
    alphas = [_cell(found, i)[..., 3].max() for i in (1, 2)]
    assert alphas[0] == 255 and 0 < alphas[1] < 128
    assert "no counterpart" in drift_atlas.cells_words(alone, _state(alone), found)["said"][2]
    assert drift_atlas.cells_words(alone, _state(alone), found)["js"][2] == "\u2013"


def test_names_of_checkpoints_are_never_markup(run: Comparison, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(chosen.shown_of(run)), "methods", property(lambda _self: []))
    hostile = Comparison(run.root)
    hostile.entries = (replace(hostile.entries[0], label=ATTACK), *hostile.entries[1:])
    hostile._indexes = {**hostile._indexes, ATTACK: run.base}
    from qkspace.app.views.drift_atlas import DriftAtlasView

    view = DriftAtlasView(hostile, _state(run), lambda **_parts: None)
    view.show(CompareScene(hostile, _state(run)))
    assert "<img" not in view.says.text and "&lt;img" in view.says.text


# -------------------------------------------------------------------------------------------------- a browser


@pytest.fixture(scope="module")
def server(run: Comparison, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder, port = tmp_path_factory.mktemp("served"), free_port()
    (folder / "tuning").symlink_to(run.root, target_is_directory=True)
    url = f"http://localhost:{port}/app"
    with running(bokeh_serve(port, "--index", str(folder / "tuning")), url, folder / "log"):
        yield url


FITTED_JS = """() => {  // the maps are drawn for the frame that they have: a pixel of the picture is one of the screen
  const plot = qk.model("drift_atlas")
  const view = plot && Array.from(Bokeh.index.roots).map((root) => qk.find(root, plot)).find((found) => found)
  if (!view || !qk.model("mosaic").visible) return false
  const {x_scale: x, y_scale: y} = view.frame
  return Math.abs(x.compute(100) - x.compute(0) - 100) < 1 && Math.abs(y.compute(0) - y.compute(100) - 100) < 1
}"""
CELL_JS = """([layer, head]) => {
  const plot = Array.from(Bokeh.index.roots).map((root) => qk.find(root, qk.model("drift_atlas"))).find((found) => found)
  const layers = qk.column("cells", "layer"), heads = qk.column("cells", "head")
  const i = layers.findIndex((_, i) => layers[i] == layer && heads[i] == head)
  const box = plot.canvas_view.el.getBoundingClientRect(), {x_scale: x, y_scale: y} = plot.frame
  return [box.x + x.compute(qk.column("cells", "x")[i]), box.y + y.compute(qk.column("cells", "y")[i])]
}"""


@pytest.mark.browser
def test_clicks_choose_a_head_and_open_its_maps(server: str, visit: Visit) -> None:
    seen = visit(f"{server}?page=atlas&theme=light")
    seen.until(FITTED_JS)
    seen.page.mouse.move(*seen.ask(CELL_JS, [1, 1]))
    seen.page.get_by_text("Click: choose this head").wait_for(timeout=WAIT)
    seen.page.mouse.click(*seen.ask(CELL_JS, [0, 2]))
    seen.until_address(layer=0, head=2, page="atlas")
    seen.page.get_by_text("Most changed first").click()
    seen.until("() => Math.abs(qk.column('cells', 'name').indexOf('L1H1')) == 0")
    seen.until(FITTED_JS)
    seen.page.mouse.dblclick(*seen.ask(CELL_JS, [1, 3]))
    seen.until_address(layer=1, head=3, page="maps")
    assert not seen.faults


@pytest.mark.browser
@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_nothing_is_cut_at_either_size(
    server: str, visit: Visit, tmp_path: Path, size: tuple[int, int], theme: str
) -> None:
    for language in ("en", "ja"):
        seen = visit(f"{server}?page=atlas&theme={theme}&language={language}&search=the", size)
        seen.until(FITTED_JS)
        assert not seen.ask("() => qk.cut()")
        right, bottom = seen.ask("() => [document.documentElement.scrollWidth, document.documentElement.scrollHeight]")
        assert right <= size[0] and bottom <= size[1]
        save(seen, tmp_path, f"drift-atlas-{size[0]}-{theme}-{language}")
