"""Tests of the page of a comparison: its address, what its document says, and a visitor's clicks in a real Chromium."""

from __future__ import annotations

import html
import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import numpy as np
import pytest
from bokeh.document import Document
from bokeh.events import Tap
from bokeh.models import Div
from browsing import SIZES, WAIT, Visit, bokeh_serve, free_port, running, save
from conftest import MakeCheckpoint

from qkspace import store
from qkspace.app import compare_words, drift
from qkspace.app.compare_document import make_compare_document
from qkspace.app.compare_state import CompareScene, CompareState, from_address, to_address
from qkspace.app.server import fill, find_indexes
from qkspace.app.views.drift import LINKS
from qkspace.app.words import verdict_of
from qkspace.comparison.reader import Comparison
from qkspace.schema import QKSpaceError

ATTACK = "</script><img src=x onerror=alert(1)>"


def _tuned(checkpoint: Path, folder: Path, amount: float, layer: int = 1) -> Path:
    """Save a checkpoint whose queries of one head (the second of a layer) were moved by `amount` of their size."""
    import torch
    from transformers import AutoModel, AutoTokenizer

    model = AutoModel.from_pretrained(checkpoint)
    weight = model.encoder.layer[layer].attention.self.query.weight
    d_head = model.config.hidden_size // model.config.num_attention_heads
    noise = torch.randn(weight.shape, generator=torch.Generator().manual_seed(0)) * weight.std()
    with torch.no_grad():
        weight[d_head : 2 * d_head] += amount * noise[d_head : 2 * d_head]
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(checkpoint).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def run(
    make_checkpoint: MakeCheckpoint, small_corpus: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory
) -> Comparison:
    """A tiny BERT with three checkpoints along training, in which L1H1 alone changes, more and more."""
    from qkspace.comparison.build import compare

    folder = tmp_path_factory.mktemp("run")
    base = make_checkpoint("bert")
    tuned = [_tuned(base, folder / f"step-{step:04d}", step / 30) for step in (10, 20, 30)]
    options: dict[str, Any] = {"methods": ["pca"], "dims": [2], "normalise": "none", "n_jobs": 1}
    return compare(base, tuned, list(small_corpus), out=folder / "along <b>training", **options)


@pytest.fixture(scope="module")
def matched(
    make_checkpoint: MakeCheckpoint, small_corpus: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory
) -> Comparison:
    """A tiny BERT with one of another shape: three layers instead of two."""
    from qkspace.comparison.build import compare

    folder = tmp_path_factory.mktemp("matched")
    other = make_checkpoint("bert", num_hidden_layers=3, seed=1)
    options: dict[str, Any] = {"methods": ["pca"], "dims": [2], "normalise": "none", "n_jobs": 1}
    return compare(make_checkpoint("bert"), other, list(small_corpus), out=folder / "other", **options)


class Visitor:
    """One visitor's document of a comparison."""

    def __init__(self, comparison: Comparison, **options: Any) -> None:
        self.doc = Document()
        make_compare_document(self.doc, comparison, **options)

    def widget(self, name: str) -> Any:
        """Return the model of that name."""
        found = self.doc.get_model_by_name(name)
        assert found is not None, name
        return found

    def text(self, name: str) -> str:
        """Return what a card shows."""
        return html.unescape(re.sub(r"<[^>]*>", " ", self.widget(name).text))

    def go(self, what: str) -> None:
        """Do what a button of a card does."""
        page = self.widget("page")
        page.tags = ["go", what, page.tags[2] + 1]

    def address(self) -> dict[str, str]:
        """Return what the browser's address says."""
        said = next(m.tags[0] for m in self.doc.select({"type": Div}) if m.tags and "layer=" in str(m.tags[0]))
        return {name: values[0] for name, values in parse_qs(said).items()}

    def rows(self, renderer: str) -> set[tuple[int, int]]:
        """Return the heads that a renderer of the heat map draws."""
        data = self.widget("drift").select_one({"name": renderer}).data_source.data
        return {(int(layer), int(head)) for layer, head in zip(data["layer"], data["head"], strict=True)}


@pytest.fixture
def visitor(run: Comparison) -> Visitor:
    return Visitor(run)


# -------------------------------------------------------------------------------------------------- address


def _read(words: dict[str, str], first: CompareState, comparison: Comparison) -> CompareState:
    return from_address({name: [text.encode()] for name, text in words.items()}, first, comparison)


@pytest.mark.parametrize(
    "chosen",
    [
        {},
        {"page": "sentence", "sequence": 3, "selected": ("key", 5), "mode": "heat"},
        {"checkpoint": "step-0010", "layer": 0, "head": 3, "measure": "query_cka", "search": 'a "b c" é&=+'},
        {"page": "maps", "overlay": True, "n_arrows": 7, "theme": "dark", "language": "ja", "column": "upos"},
    ],
)
def test_a_state_goes_round_by_the_address(run: Comparison, chosen: dict[str, Any]) -> None:
    first = CompareState(checkpoint="step-0030", method="pca", layer=1, head=1)
    state = replace(first, **chosen)
    assert _read(to_address(state, first), first, run) == state


def test_an_address_says_what_was_chosen_and_little_else(run: Comparison) -> None:
    first = CompareState(checkpoint="step-0030", method="pca", layer=1, head=1)
    always = {"checkpoint", "layer", "head", "theme"}
    assert set(to_address(first, first)) == always
    assert set(to_address(replace(first, measure="key_cka"), first)) == {*always, "measure"}


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("page", "head"),
        ("checkpoint", "step-0099"),
        ("checkpoint", ATTACK),
        ("layer", "2"),
        ("head", "4"),
        ("layer", "-1"),
        ("method", "tsne"),
        ("measure", "checkpoint"),
        ("measure", "js_low"),
        ("column", "nothing"),
        ("colour", "nothing"),
        ("selected", "query-99999999"),
        ("sequence", "99999999"),
        ("n_arrows", "999999"),
        ("overlay", "yes"),
        ("mode", "line"),
        ("theme", "blue"),
        ("search", "x" * 5000),
    ],
)
def test_an_address_that_asks_for_what_is_not_there_becomes_a_page_that_says_so(
    run: Comparison, name: str, text: str
) -> None:
    first = CompareState(checkpoint="step-0030", method="pca", layer=1, head=1)
    with pytest.raises(QKSpaceError):
        _read({name: text}, first, run)
    doc = Document()
    fill(doc, [run.root], {name: [text.encode()]})
    (root,) = doc.roots
    assert isinstance(root, Div)
    assert "<img" not in root.text and "<b>training" not in root.text and "?index=along" in root.text


def test_every_part_of_a_state_can_be_read_from_an_address() -> None:
    from qkspace.app.compare_state import READERS

    assert set(READERS) == {field.name for field in fields(CompareState)}


# -------------------------------------------------------------------------------------------------- what the page says


def test_the_page_opens_on_the_head_that_changed_in_the_last_checkpoint(visitor: Visitor) -> None:
    address = visitor.address()
    assert (address["checkpoint"], address["layer"], address["head"]) == ("step-0030", "1", "1")
    assert "L1H1 changed most of 8 heads" in visitor.text("drift_head")
    assert "of 8 heads changed" in visitor.text("summary")


def test_heads_that_did_not_change_are_hatched_and_said_not_to_have(visitor: Visitor, run: Comparison) -> None:
    table = run.head_drift("step-0030")
    quiet = {(int(r["layer"]), int(r["head"])) for r in table.to_dict("records") if r["js"] <= r["noise_floor"]}
    assert {(0, head) for head in range(4)} <= quiet, "nothing below the change can have changed"
    assert visitor.rows("quiet") == quiet and (1, 1) in visitor.rows("loud")
    assert visitor.rows("loud").isdisjoint(quiet)
    visitor.go("layer=0&head=2")
    assert "No change that storage would not make" in visitor.text("drift_head")
    assert "points" not in visitor.text("drift_head").split("All habits")[0]
    assert f"hatched: {len(quiet)}" in visitor.text("heat_title")


def test_the_table_is_sorted_by_the_chosen_measure(visitor: Visitor, run: Comparison) -> None:
    table = run.head_drift("step-0030")
    for measure in drift.measures(run.drift):
        visitor.widget("compare_measure").value = measure
        listed = re.findall(r">(L\d+H\d+)</button>", visitor.widget("heads_table").text)
        much = {f"L{r['layer']}H{r['head']}": r[measure] for r in table.to_dict("records")}
        values = [1 - much[name] if measure in drift.ALIKE else abs(much[name]) for name in listed]
        assert len(listed) == len(table)
        assert (np.diff(values) <= 1e-12).all(), measure


def test_a_chosen_head_is_in_the_table_however_many_there_are(run: Comparison, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compare_words, "TABLE_HEADS", 2)
    text = Visitor(run, layer=0, head=3).widget("heads_table").text
    assert len(re.findall(r"<tr class", text)) == 3 and re.search(r'class="here[^>]*layer=0&amp;head=3', text)


def test_the_words_have_the_numbers_of_the_table(visitor: Visitor, run: Comparison) -> None:
    table = run.head_drift("step-0030")
    row = table[(table["layer"] == 1) & (table["head"] == 1)].iloc[0]
    said = visitor.text("drift_head")
    assert f"JS {row['js']:.3f} nats [{row['js_low']:.3f}, {row['js_high']:.3f}]" in said
    way = "narrower" if row["entropy_change"] < 0 else "wider"
    if "entropy" in drift.remarkable(row.to_dict(), drift.spreads(table), compare_words.N_CHANGES):
        assert f"{way} (entropy {abs(row['entropy_change']):.2f}" in said.replace("spread ", "")


def test_only_changes_beyond_chance_are_told_and_what_is_one_thing_once() -> None:
    row: dict[str, float] = {}
    values = {
        "entropy": (0.1, -0.1, 0.3),
        "attention_to_sink": (0.2, 0.1, 0.3),
        "attention_to_special": (0.2, 0.1, 0.3),
    }
    for name, (change, low, high) in values.items():
        row |= {f"{name}_base": 0.5, f"{name}_tuned": 0.5 + change, f"{name}_change": change}
        row |= {f"{name}_change_low": low, f"{name}_change_high": high}
    usual = dict.fromkeys(values, 1.0)
    assert drift.remarkable(row, usual, 5) == ["attention_to_special"]
    shift = {"attention_to_first": 0.195, "attention_to_self": 0.195}
    for name, change in shift.items():
        row |= {f"{name}_base": 0.3, f"{name}_tuned": 0.3 + change, f"{name}_change": change}
        row |= {f"{name}_change_low": 0.1, f"{name}_change_high": 0.3}
    said = drift.remarkable(row, {**usual, **dict.fromkeys(shift, 1.0)}, 5)
    assert said == ["attention_to_special", "attention_to_self"], "within a point, on nearly the same tokens"
    row |= {"attention_to_first_tuned": 0.47, "attention_to_first_change": 0.17}
    again = drift.remarkable(row, {**usual, **dict.fromkeys(shift, 1.0)}, 5)
    assert "attention_to_first" not in again, "or within a fifth of the larger change"
    row |= {"attention_to_first_tuned": 0.45, "attention_to_first_change": 0.15}
    assert "attention_to_first" in drift.remarkable(row, {**usual, **dict.fromkeys(shift, 1.0)}, 5)


def test_the_card_says_what_the_map_of_the_base_is_worth_after_tuning(run: Comparison, visitor: Visitor) -> None:
    base = run.base.head(1, 1).projection("pca", 2).scores
    tuned = run.view("step-0030", "pca", 2, 1, 1).scores
    assert base is not None and tuned is not None
    said = visitor.text("drift_head")
    shares = [compare_words.share(scores.recall1) for scores in (base, tuned)]
    assert f"for {shares[0]} of its queries before tuning, for {shares[1]} after" in said
    is_poor = "poor" in (verdict_of(base), verdict_of(tuned))
    assert ("do not read nearness as attention" in said) == is_poor


def test_scales_have_units_and_one_colon(visitor: Visitor, run: Comparison) -> None:
    units = {"js": "nats", "entropy_change": "nats", "attention_to_previous_change": "points"}
    for measure, unit in units.items():
        visitor.widget("compare_measure").value = measure
        low, high = drift.span(run, measure)
        said = visitor.text("heat_title")
        signed = drift.is_signed(measure)
        for end in (low, high):
            assert f"{compare_words.number(measure, end, signed=signed)} {unit}" in said
        assert said.split("\n")[0].split("hatched")[0].count(":") == 1


def test_the_sequence_that_is_open_is_marked_in_the_list(run: Comparison) -> None:
    visitor = Visitor(run, page="sentence")
    most = run.sequences("step-0030", 1, 1, top=2)["sequence"].tolist()
    marked = r'<tr class="here"[^>]*>.*?sequence=(\d+)'
    for chosen in most:
        visitor.go(f"page=sentence&sequence={chosen}")
        assert re.findall(marked, visitor.widget("compare_sequences").text) == [str(chosen)]
    opened = Visitor(run, page="sentence").widget("compare_sequences").text
    assert re.findall(marked, opened) == [str(most[0])]


def test_a_click_on_the_maps_is_told_in_the_left_column(run: Comparison) -> None:
    visitor = Visitor(run, page="maps", selected=("query", 5))
    assert visitor.widget("compare_clicked").visible
    assert "Clicked query" in visitor.text("compare_clicked")
    visitor.go("page=drift")
    assert not visitor.widget("compare_clicked").visible


def test_upos_is_only_offered_where_the_corpus_has_it(run: Comparison, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "upos:" in Visitor(run).widget("search").placeholder
    without = Comparison(run.root)
    tokens = without.base.tokens.drop(columns="upos")
    monkeypatch.setitem(without.base.__dict__, "tokens", tokens)
    assert "upos:" not in Visitor(without).widget("search").placeholder


def test_links_are_those_of_the_comparison(visitor: Visitor, run: Comparison) -> None:
    links, units = run.links("step-0030", 1, 1, top=LINKS), run.units("step-0030")
    assert len(links), "the head that was changed has links that changed"
    said = visitor.text("drift_links")
    for status in compare_words.STATUSES:
        found = links[links["status"] == status]
        assert (f"{status} ({len(found):,})" in said) == (len(found) > 0)
        if len(found):
            first = found.iloc[0]
            texts = [str(units["text"].iloc[int(first[end])]) for end in ("query", "key")]
            assert f"{texts[0]} → {texts[1]}" in said
            assert f"{100 * first['base']:.0f} % → {100 * first['tuned']:.0f} %" in said
    assert re.search(r'data-go="page=sentence&amp;sequence=\d+', visitor.widget("drift_links").text)


def test_classes_are_of_the_chosen_column(visitor: Visitor, run: Comparison) -> None:
    assert visitor.widget("compare_column").value == "upos"
    for column in ("upos", "kind"):
        visitor.widget("compare_column").value = column
        most = run.by(column, "step-0030", 1, 1).iloc[0]
        said = visitor.text("drift_classes")
        assert f"{most['js']:.3f}" in said and f"{most['n']:,} \u00d7" in said


def test_a_search_says_how_much_its_hits_changed(visitor: Visitor, run: Comparison) -> None:
    visitor.widget("search").value = "the"
    rows = run.base.search("the").rows
    js = run.token_drift("step-0030", 1, 1)[rows].mean()
    of_hits = visitor.widget("of_hits")
    assert of_hits.visible and f"JS of the {len(rows)} tokens found, in L1H1: {js:.3f} nats" in visitor.text("of_hits")
    visitor.go("layer=0&head=2")
    assert "in L0H2" in visitor.text("of_hits")
    visitor.widget("search").value = ""
    assert not of_hits.visible
    visitor.widget("search").value = "/(/"
    assert visitor.widget("trouble").visible


# -------------------------------------------------------------------------------------------------- several checkpoints


def test_the_slider_and_the_buttons_choose_the_checkpoint(visitor: Visitor, run: Comparison) -> None:
    from bokeh.events import ButtonClick

    shown = {}
    for name in ("compare_earlier", "compare_earlier", "compare_later"):
        button = visitor.widget(name)
        button._trigger_event(ButtonClick(button))
        label = visitor.address()["checkpoint"]
        shown[label] = visitor.text("drift_head")
        row = run.head_drift(label).query("layer == 1 and head == 1").iloc[0]
        assert f"JS {row['js']:.3f} nats" in shown[label]
    assert list(shown) == ["step-0020", "step-0010"]
    assert visitor.address()["checkpoint"] == "step-0020"
    assert visitor.widget("compare_checkpoint").value == 1


def test_curves_are_the_drift_of_every_head_from_the_base_on(visitor: Visitor, run: Comparison) -> None:
    plot = visitor.widget("curves")
    own = plot.select_one({"name": "own_points"}).data_source.data
    js = [run.head_drift(label).query("layer == 1 and head == 1")["js"].iloc[0] for label in run.labels]
    np.testing.assert_allclose(own["x"], [0, 10, 20, 30])
    np.testing.assert_allclose(own["y"], [0, *js])
    assert js == sorted(js) and js[0] > 0, "it changed more and more"
    others = plot.select_one({"name": "heads_curves"}).data_source.data
    assert sorted(others["name"]) == sorted(f"L{i}H{j}" for i in range(2) for j in range(4) if (i, j) != (1, 1))
    plot._trigger_event(Tap(plot, x=12.0, y=0.0))
    assert visitor.address()["checkpoint"] == "step-0010"


def test_of_very_many_heads_the_curves_of_those_that_changed_most_are_drawn(
    run: Comparison, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(drift, "MAX_CURVES", 2)
    found = drift.curves(run, "js", 0, 3)
    assert list(zip(found.layer, found.head, strict=True)) == [(1, 1), (0, 3)]


def test_one_checkpoint_has_neither_slider_nor_curves(matched: Comparison) -> None:
    visitor = Visitor(matched)
    assert visitor.doc.get_model_by_name("curves") is None
    assert not visitor.widget("checkpoint_steps").visible
    assert matched.labels[0] in visitor.text("checkpoint_text")


# -------------------------------------------------------------------------------------------------- matched heads


def test_matched_heads_are_named_with_their_cost(matched: Comparison) -> None:
    (label,) = matched.labels
    table = matched.head_drift(label)
    row = table.iloc[int(drift.order(table, "js")[0])]
    visitor = Visitor(matched)
    other = f"L{row['matched_layer']}H{row['matched_head']}"
    assert f"Paired by behaviour with {other}" in visitor.text("drift_head")
    assert other in visitor.text("heads_table") and f"{row['match_cost']:.3f}" in visitor.text("heads_table")
    assert "paired" in visitor.text("checkpoint_text")
    assert "differs most of" in visitor.text("drift_head") and "changed most of" not in visitor.text("drift_head")
    for card in ("table_title", "drift_links", "drift_sequences", "drift_classes"):
        assert "change" not in visitor.text(card), card


def test_a_head_without_counterpart_is_said_to_have_none(matched: Comparison) -> None:
    (label,) = matched.labels
    table = matched.head_drift(label)
    numbers = [name for name in table if table[name].dtype.kind == "f"]
    table.loc[table.index[1], numbers] = np.nan
    table.loc[table.index[1], ["matched_layer", "matched_head"]] = -1
    scene = CompareScene(matched, CompareState(checkpoint=label, layer=0, head=1))
    assert "no counterpart" in compare_words.head_card(scene, table)
    assert "no counterpart" in compare_words.tooltips(table, "en")[1]
    assert drift.order(table, "js")[-1] == 1, "what is not known comes last"
    assert "nan" not in compare_words.heads_table(table, scene.state, matched=True)


# -------------------------------------------------------------------------------------------------- hostile text


def test_texts_of_the_corpus_and_names_of_checkpoints_are_escaped(run: Comparison) -> None:
    units = run.units("step-0030").copy()
    units["text"] = ATTACK
    state = CompareState(checkpoint="step-0030", layer=1, head=1)
    sequences = run.sequences("step-0030", 1, 1)
    sequences["text"] = ATTACK
    classes = run.by("upos", "step-0030", 1, 1)
    classes["value"] = ATTACK
    entries = [replace(entry, label=f"{ATTACK}{i}") for i, entry in enumerate(run.entries)]
    hostile = Comparison(run.root)
    hostile.entries = tuple(entries)
    hostile._indexes = {entry.label: run.base for entry in entries}
    for said in (
        compare_words.links_card(run.links("step-0030", 1, 1), units, state),
        compare_words.sequences_list(sequences),
        compare_words.classes(classes, "en"),
        compare_words.header(hostile, {entries[0].label: f'"{ATTACK}'}, "en"),
        compare_words.checkpoint(hostile, replace(state, checkpoint=entries[1].label)),
    ):
        assert "<img" not in said and "</script" not in said
        assert "&lt;img" in said, "the text is there, as text"


# -------------------------------------------------------------------------------------------------- the server


def test_comparisons_are_found_listed_and_opened(
    run: Comparison, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "tuning").symlink_to(run.root)
    monkeypatch.chdir(tmp_path)
    assert [root.name for root in find_indexes()] == ["tuning"]
    doc = Document()
    fill(doc, [], {})
    said = doc.roots[0].text
    assert 'href="?index=tuning"' in said and f"comparison: {run.base_label} with step-0010, step-0020" in said
    doc = Document()
    fill(doc, [], {"index": [b"tuning"], "checkpoint": [b"step-0010"]})
    assert doc.get_model_by_name("drift") is not None
    link = re.search(rf'href="\?index=([^"]*)"><b>{run.base_label}', "".join(d.text for d in doc.select({"type": Div})))
    assert link is not None, "the base's own index can be opened"
    own = Document()
    fill(own, [], {"index": [link[1].replace("%20", " ").encode()]})
    assert own.get_model_by_name("map") is not None
    assert "tuning" in own.get_model_by_name("index").options, "the way back"


def test_a_damaged_comparison_becomes_a_line_of_the_list_and_a_page(
    run: Comparison, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "out" / "broken"
    shutil.copytree(run.root, root)
    (root / "drift.parquet").unlink()
    monkeypatch.chdir(tmp_path)
    asked: list[dict[str, list[bytes]]] = [{}, {"index": [b"broken"]}]
    for arguments in asked:
        doc = Document()
        fill(doc, [], arguments)
        assert "drift.parquet" in doc.roots[0].text


def test_an_unknown_version_is_told(tmp_path: Path) -> None:
    (tmp_path / store.MANIFEST).write_text(json.dumps({"format": "qkspace-comparison", "format_version": 99}))
    doc = Document()
    fill(doc, [tmp_path], {})
    assert "format version 99" in doc.roots[0].text


# -------------------------------------------------------------------------------------------------- a browser


@pytest.fixture(scope="module")
def server(run: Comparison, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder, port = tmp_path_factory.mktemp("served"), free_port()
    (folder / "tuning").symlink_to(run.root, target_is_directory=True)
    url = f"http://localhost:{port}/app"
    with running(bokeh_serve(port, "--index", str(folder / "tuning")), url, folder / "log"):
        yield url


CELL_JS = """([layer, head]) => {
  const plot = Array.from(Bokeh.index.roots).map((root) => qk.find(root, qk.model("drift"))).find((view) => view)
  const box = plot.canvas_view.el.getBoundingClientRect()
  return [box.x + plot.frame.x_scale.compute(head), box.y + plot.frame.y_scale.compute(layer)]
}"""


@pytest.mark.browser
def test_a_click_on_a_cell_and_on_a_row_chooses_the_head_and_the_way_back_returns(server: str, visit: Visit) -> None:
    seen = visit(f"{server}?theme=light")
    seen.page.get_by_text("L1H1 changed most of 8 heads").wait_for(timeout=WAIT)
    seen.page.mouse.click(*seen.ask(CELL_JS, [0, 2]))
    seen.until_address(layer=0, head=2)
    seen.page.get_by_text("No change that storage would not make: L0H2").wait_for(timeout=WAIT)
    seen.page.locator("tr", has_text="L1H3").locator("td").nth(3).click()
    seen.until_address(layer=1, head=3)
    seen.page.get_by_text("Layer 1, head 3", exact=True).wait_for(timeout=WAIT)
    seen.page.go_back()
    seen.until_address(layer=0, head=2)
    seen.page.get_by_text("Layer 0, head 2", exact=True).wait_for(timeout=WAIT)
    seen.page.go_forward()
    seen.until_address(layer=1, head=3)


@pytest.mark.browser
def test_keys_move_between_checkpoints_heads_and_themes(server: str, visit: Visit) -> None:
    seen = visit(f"{server}?theme=light")
    seen.page.keyboard.press(",")
    seen.until_address(checkpoint="step-0020")
    seen.page.keyboard.press(".")
    seen.until_address(checkpoint="step-0030")
    seen.page.keyboard.press("ArrowLeft")
    seen.until_address(layer=1, head=0)
    seen.page.keyboard.press("ArrowUp")
    seen.until_address(layer=0, head=0)
    seen.page.keyboard.press("t")
    seen.until_address(theme="dark")
    seen.page.keyboard.press("?")
    seen.page.get_by_role("dialog").wait_for(timeout=WAIT)
    seen.page.keyboard.press("Escape")
    seen.page.keyboard.press("/")
    seen.page.keyboard.type("the")
    seen.page.keyboard.press("Enter")
    seen.until_address(search="the")
    seen.page.keyboard.press("n")
    seen.page.get_by_text("hit 1 of", exact=False).wait_for(timeout=WAIT)
    assert seen.address()["selected"].startswith("query-")


@pytest.mark.browser
@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_nothing_is_cut_at_either_size(
    server: str, visit: Visit, tmp_path: Path, size: tuple[int, int], theme: str
) -> None:
    for language in ("en", "ja"):
        seen = visit(f"{server}?theme={theme}&language={language}", size)
        seen.until("() => qk.model('drift_links').text.includes('<table')")
        assert not seen.ask("() => qk.cut()")
        for each in seen.ask("() => qk.columns()"):
            assert each["bottom"] <= size[1] and each["right"] <= size[0] and each["wide"] <= 1, each
            assert each["end"] <= size[1] + 1, each
        save(seen, tmp_path, f"drift-{size[0]}-{theme}-{language}")
