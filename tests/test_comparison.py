"""Tests of comparing checkpoints: only changes of attention count as change, and all of them are found."""

from __future__ import annotations

import itertools
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import REPOSITORY, SHARED, Eager, MakeCheckpoint
from numpy.typing import NDArray
from scipy.spatial.distance import jensenshannon

import qkspace
from qkspace import store
from qkspace.cli import main
from qkspace.comparison import build as building
from qkspace.comparison.reader import Comparison
from qkspace.comparison.sources import Source, name_all, read_source, step_of
from qkspace.schema import QKSpaceError

MAPS: dict[str, Any] = {"methods": ["pca"], "dims": [2], "storage": "float32", "n_jobs": 1, "progress": False}
MAPS["normalise"] = "none"
Change = Callable[[Any], None]  # of a model in memory
N_HEADS, D_HEAD = 4, 8  # of the tiny BERT


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory, sentences: list[str]) -> Path:
    path = tmp_path_factory.mktemp("corpus") / "plain.txt"
    path.write_text("\n".join(sentences[:40]) + "\n", encoding="utf-8")
    return path


def changed(folder: Path, out: Path, change: Change) -> Path:
    """Save a checkpoint anew after a change of its model."""
    import torch
    from transformers import AutoModel, AutoTokenizer

    model = AutoModel.from_pretrained(folder, dtype=torch.float32)
    with torch.no_grad():
        change(model)
    model.save_pretrained(out)
    AutoTokenizer.from_pretrained(folder).save_pretrained(out)
    return out


def attention_of(model: Any, layer: int) -> Any:
    return model.encoder.layer[layer].attention.self


def rows_of(head: int) -> slice:
    return slice(head * D_HEAD, (head + 1) * D_HEAD)


def in_another_gauge(model: Any) -> None:
    """Re-express every head: query A^-T, key A + a, which no attention sees."""
    import torch

    rng = np.random.default_rng(0)
    for layer in range(2):
        part = attention_of(model, layer)
        for head in range(N_HEADS):
            a = np.eye(D_HEAD) + 0.4 * rng.normal(size=(D_HEAD, D_HEAD))
            for name, matrix in (("query", np.linalg.inv(a).T), ("key", a)):
                projection, rows = getattr(part, name), rows_of(head)
                turn = torch.from_numpy(matrix.T).float()
                projection.weight[rows] = turn @ projection.weight[rows]
                projection.bias[rows] = turn @ projection.bias[rows]
            part.key.bias[rows_of(head)] += torch.from_numpy(rng.normal(size=D_HEAD)).float()


def with_planted_head(model: Any) -> None:
    """Change what one head of the last layer looks for."""
    attention_of(model, 1).query.weight[rows_of(2)] *= -1.5


@pytest.fixture(scope="module")
def base(make_checkpoint: MakeCheckpoint) -> Path:
    return make_checkpoint("bert")


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory, base: Path, corpus: Path) -> Comparison:
    """A base beside a copy of itself, itself in another gauge, and itself with one head changed. Only to be read."""
    folder = tmp_path_factory.mktemp("three")
    same = Path(shutil.copytree(base, folder / "same"))
    gauge = changed(base, folder / "gauge", in_another_gauge)
    planted = changed(base, folder / "planted", with_planted_head)
    names, options = ("base", "same", "gauge", "planted"), {**MAPS, "normalise": "auto"}
    return qkspace.compare(base, [same, gauge, planted], corpus, out=folder / "out", names=names, **options)


# ---------------------------------------------------------------------------------------------- what counts as change


def test_identical_checkpoints_have_exactly_no_drift(three: Comparison) -> None:
    table = three.head_drift("same")
    assert len(table) == 2 * N_HEADS
    for name in table.columns:
        if name.endswith("_change") or name in ("js", "js_content", "value_js", "js_low", "js_high"):
            assert (table[name] == 0).all(), name
    assert (table[["query_cka", "key_cka"]] == 1).all(axis=None)
    assert not three.token_drift("same").any()
    assert not len(three.links("same", 1, 2))
    for layer, head in ((0, 0), (1, 2)):
        view, own = three.view("same", "pca", 2, layer, head), three.base.head(layer, head).projection("pca")
        assert np.array_equal(view.query, own.query) and np.array_equal(view.key, own.key)
        assert view.scores == own.scores is not None


def test_another_gauge_is_no_change(three: Comparison) -> None:
    table = three.head_drift("gauge")
    assert not np.allclose(three.base.head(0, 0).query, three.tuned("gauge").head(0, 0).query, atol=0.1)
    assert (table["js"] < 1e-6).all() and (table["js"] < table["noise_floor"] + 1e-9).all()
    assert (table["product_change"] < 1e-4).all()
    assert (table[["query_cka", "key_cka"]] > 0.9999).all(axis=None)
    for layer in range(2):
        for head in range(N_HEADS):
            view, own = three.view("gauge", "pca", 2, layer, head), three.base.head(layer, head).projection("pca")
            spread = own.query.std() + own.key.std()
            assert np.abs(view.query - own.query).max() < 1e-3 * spread
            assert np.abs(view.key - own.key).max() < 1e-3 * spread


def test_a_planted_change_shows_in_its_head_alone(three: Comparison) -> None:
    table = three.head_drift("planted").set_index(["layer", "head"])
    assert table["js"].idxmax() == (1, 2) and table.loc[(1, 2), "js"] > 0.01
    others = table.drop(index=(1, 2))
    assert (others["js"] == 0).all() and (others["product_change"] == 0).all()
    assert table.loc[(1, 2), "product_change"] == pytest.approx(2.5, abs=1e-3)  # -1.5 L against L, from the weights
    assert table.loc[(1, 2), "product_from"] == "weights" and table.loc[(1, 2), "logit_change"] > 0.5
    moved = three.view("planted", "pca", 2, 1, 2)
    assert np.abs(moved.query - three.base.head(1, 2).projection("pca").query).max() > 0.1
    same = three.view("planted", "pca", 2, 1, 1)
    assert np.array_equal(same.query, three.base.head(1, 1).projection("pca").query)


def test_positions_say_what_attention_says(three: Comparison) -> None:
    """In the base's gauge the tuned vectors have the tuned attention: nothing was lost on the way."""
    view, tuned = three.view("planted", "pca", 2, 1, 2), three.tuned("planted").head(1, 2)
    query, key = view.alignment.apply(tuned.query, tuned.key)
    rows = three.base.rows(5)
    from qkspace.position import attend

    assert np.allclose(attend(query[rows], key[rows], tuned.spec), tuned.attention(5), atol=1e-4)


# ---------------------------------------------------------------------------------------------- tables against the literal


def literal_js(comparison: Comparison, label: str, layer: int, head: int) -> NDArray[np.float64]:
    """Return the divergence of every token, by scipy, one row after another."""
    out = []
    for sequence in comparison.base.sequences["sequence"]:
        before, after = (i.head(layer, head).attention(sequence) for i in (comparison.base, comparison.tuned(label)))
        out += [jensenshannon(p, q) ** 2 for p, q in zip(before.astype(float), after.astype(float), strict=True)]
    return np.array(out)


def test_divergence_of_tokens_sequences_classes_and_heads(three: Comparison) -> None:
    literal = literal_js(three, "planted", 1, 2)
    assert np.allclose(three.token_drift("planted", 1, 2), literal, atol=3e-4)
    row = three.head_drift("planted").set_index(["layer", "head"]).loc[(1, 2)]
    assert row["js"] == pytest.approx(literal.mean(), abs=1e-5)
    assert row["js_low"] < row["js"] < row["js_high"]
    assert np.allclose(three.token_drift("planted", 1), three.token_drift("planted", 1, 2) / N_HEADS, atol=2e-4)
    assert np.allclose(three.token_drift("planted"), three.token_drift("planted", 1) / 2, atol=1e-6)
    starts = three.base.row_starts
    means = [literal[start:stop].mean() for start, stop in itertools.pairwise(starts)]
    best = three.sequences("planted", 1, 2, top=1).iloc[0]
    assert best["sequence"] == three.base.sequences["sequence"].iloc[int(np.argmax(means))]
    assert best["js"] == pytest.approx(max(means), abs=1e-3)
    classes = three.by("kind", "planted", 1, 2)
    kinds = three.base.tokens["kind"].to_numpy()
    for value, js, n in zip(classes["value"], classes["js"], classes["n"], strict=True):
        assert js == pytest.approx(literal[kinds == value].mean(), abs=1e-3) and n == (kinds == value).sum()
    assert classes["js"].is_monotonic_decreasing
    with pytest.raises(QKSpaceError, match="No column 'colour'"):
        three.by("colour", "planted")


def test_links_that_changed_have_both_weights(three: Comparison) -> None:
    links = three.links("planted", 1, 2, top=500)
    tokens = three.base.tokens
    assert len(links) > 20 and {"appeared", "vanished"} <= set(links["status"])
    assert links["change"].abs().is_monotonic_decreasing
    for link in links.itertuples():
        sequence = int(tokens["sequence"].iloc[link.query])
        start = three.base.rows(sequence).start
        before, after = three.attention("planted", sequence, 1, 2)
        i, j = link.query - start, link.key - start
        assert before[i, j] == pytest.approx(link.base, abs=2e-3) and after[i, j] == pytest.approx(link.tuned, abs=2e-3)
        change = after[i] - before[i]
        assert link.change == pytest.approx(change.max() if link.change > 0 else change.min(), abs=3e-3)
        crossed = {"appeared": link.base < 0.1 <= link.tuned, "vanished": link.tuned < 0.1 <= link.base}
        assert crossed.get(link.status, min(link.base, link.tuned) >= 0.1)


# ---------------------------------------------------------------------------------------------- real models, really tuned


def finetuned(model: Path, data: Path, out: Path, *options: str) -> list[Path]:
    """Fine-tune a checkpoint by the project's own script, and return what it saved, in order."""
    import finetune

    assert finetune.main(["--model", str(model), "--data", str(data), "--out", str(out), *options]) == 0
    return sorted(out.glob("step-*"))


def test_drift_is_that_of_the_models_own_attention(
    minilm: Path, stories: Path, sentences: list[str], eager: Eager, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of MiniLM taught labels and of stories260K taught other text: against eager attention that no part of qkspace made."""
    monkeypatch.syspath_prepend(REPOSITORY / "scripts")
    text = tmp_path / "plain.txt"
    text.write_text("\n".join(sentences[:16]) + "\n", encoding="utf-8")
    english = SHARED / "data" / "plain-english"
    if not english.is_dir():
        pytest.skip(f"{english} is not there: this test needs it")
    story = max(english.glob("*.txt"), key=lambda path: path.stat().st_size)
    options = ("--batch-size", "8", "--learning-rate", "5e-4", "--save-at")
    runs = {
        "encoder": (minilm, REPOSITORY / "data" / "intents-train.jsonl", ("--steps", "6", *options, "2,6")),
        "decoder": (stories, story, ("--task", "lm", "--steps", "12", *options, "4,12")),
    }
    for name, (base, data, how) in runs.items():
        saved = finetuned(base, data, tmp_path / name, *how)
        with monkeypatch.context() as patch:
            if name == "encoder":  # where tokens lie takes the most time, and the decoder's are placed
                patch.setattr(building, "place_layer", lambda job: None)
            found = qkspace.compare(base, saved, text, out=tmp_path / f"{name}-compared", **MAPS)
        assert [found.steps[label] for label in found.labels] == [int(path.name[-4:]) for path in saved]
        first, last = (found.head_drift(label)["js"] for label in found.labels)
        assert 0 < first.mean() < last.mean()
        assert (last > found.head_drift(found.labels[1])["noise_floor"]).all()
        ids = found.base.tokens["token_id"].to_numpy()
        for sequence in (0, 7):
            rows = found.base.rows(sequence)
            before, after = (eager(folder, ids[rows].tolist()) for folder in (base, saved[-1]))
            for layer, (p, q) in enumerate(zip(before, after, strict=True)):
                p, q = np.maximum(p, 0).astype(float), np.maximum(q, 0).astype(float)
                literal = jensenshannon(p, q, axis=-1) ** 2  # (head, query)
                stored = [found.token_drift(found.labels[1], layer, head)[rows] for head in range(len(p))]
                np.testing.assert_allclose(stored, np.nan_to_num(literal), atol=2e-4)


# ---------------------------------------------------------------------------------------------- false alarms


def test_storage_and_batches_make_less_than_the_noise_floor(
    minilm: Path, small_corpus: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two indexes of one checkpoint, built unlike each other, show drift below the noise floor in every head."""
    monkeypatch.setattr(building, "place_layer", lambda job: None)  # where tokens lie takes the most time
    roots = []
    for storage, batch_tokens in (("float32", 1024), ("float16", 200)):
        roots.append(tmp_path / storage)
        options = {**MAPS, "storage": storage, "batch_tokens": batch_tokens}
        qkspace.build(str(minilm), list(small_corpus), out=roots[-1], **options)
    for base, tuned in (roots, roots[::-1]):
        found = qkspace.compare(base, tuned, out=tmp_path / f"from-{base.name}", n_jobs=1, progress=False).drift
        assert len(found) == 72 and (found["js"] > 0).any()
        assert (found["js"] < found["noise_floor"]).all()
        assert (found["noise_floor"] < 1e-4).all()
        assert (found["product_from"] == "data").all()


# ---------------------------------------------------------------------------------------------- adapters


def save_adapter(base: Path, out: Path, layers: list[int], *, auto: str = "AutoModel") -> Path:
    """Save a LoRA adapter of queries and keys with random weights."""
    import torch
    import transformers

    peft = pytest.importorskip("peft", reason="the optional package peft is not installed")
    model = getattr(transformers, auto).from_pretrained(base, dtype=torch.float32)
    kind = {"task_type": "SEQ_CLS"} if auto != "AutoModel" else {}
    config = peft.LoraConfig(r=4, target_modules=["query", "key"], layers_to_transform=layers, **kind)
    adapted = peft.get_peft_model(model, config)
    torch.manual_seed(0)
    for name, weight in adapted.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(weight, std=0.3)
    adapted.save_pretrained(out)
    return out


@pytest.mark.parametrize("auto", ["AutoModel", "AutoModelForSequenceClassification"])
def test_an_adapter_is_found_in_its_layers(
    make_checkpoint: MakeCheckpoint, corpus: Path, tmp_path: Path, auto: str
) -> None:
    base = make_checkpoint("bert", num_hidden_layers=4)
    adapter = save_adapter(base, tmp_path / "adapter", [2], auto=auto)
    found = qkspace.compare(base, adapter, corpus, out=tmp_path / "out", **MAPS)
    layers = found.layer_drift("adapter")
    assert layers["js"].idxmax() == 2 and layers["js"][2] > 0.001
    assert (layers["product_change"] > 0).tolist() == [False, False, True, False]  # the weights know where it sits
    assert (layers["logit_change"] > 0).tolist() == [False, False, True, True]  # the data, what it does
    assert layers["js"][0] == layers["js"][1] == 0


def test_an_adapter_of_another_model_is_refused(make_checkpoint: MakeCheckpoint, corpus: Path, tmp_path: Path) -> None:
    small, large = make_checkpoint("bert"), make_checkpoint("bert", num_hidden_layers=4)
    wide = make_checkpoint("bert", hidden_size=48)
    for number, (base, of) in enumerate(((small, large), (small, wide), (make_checkpoint("llama"), small))):
        adapter = save_adapter(of, tmp_path / f"adapter{number}", [0, 1] if of is wide else [1] if of is small else [3])
        with pytest.raises(QKSpaceError, match="does not fit") as caught:
            qkspace.compare(base, adapter, corpus, out=tmp_path / f"out{number}", **MAPS)
        assert str(adapter) in str(caught.value)
        assert not (tmp_path / f"out{number}").exists()  # before anything was indexed
    (tmp_path / "adapter0" / "adapter_model.safetensors").unlink()
    with pytest.raises(QKSpaceError, match=r"adapter_model\.safetensors"):
        qkspace.compare(small, tmp_path / "adapter0", corpus, out=tmp_path / "none", **MAPS)


@pytest.mark.parametrize("more", [{"bias": "all"}, {"bias": "lora_only"}, {"modules_to_save": ["word_embeddings"]}])
def test_what_an_adapter_trained_whole_is_laid_on_too(base: Path, tmp_path: Path, more: dict[str, Any]) -> None:
    import torch
    from transformers import AutoModel

    peft = pytest.importorskip("peft", reason="the optional package peft is not installed")
    from qkspace.adapter import lay_on

    adapted = peft.get_peft_model(AutoModel.from_pretrained(base), peft.LoraConfig(target_modules=["query"], **more))
    torch.manual_seed(0)
    for _name, weight in adapted.named_parameters():
        if weight.requires_grad:
            torch.nn.init.normal_(weight, std=0.3)
    adapted.save_pretrained(tmp_path / "adapter")
    ids = torch.arange(5, 15)[None]
    with torch.no_grad():
        expected = adapted.eval()(input_ids=ids).last_hidden_state
        found = (
            lay_on(AutoModel.from_pretrained(base), str(tmp_path / "adapter")).eval()(input_ids=ids).last_hidden_state
        )
    assert torch.allclose(found, expected, atol=1e-5)


# ---------------------------------------------------------------------------------------------- other shapes


def test_a_smaller_model_is_compared_by_what_its_heads_do(
    make_checkpoint: MakeCheckpoint, base: Path, corpus: Path, tmp_path: Path
) -> None:
    """A model without the base's last layer: the heads that are left are found, at no cost."""
    smaller = make_checkpoint("bert", num_hidden_layers=1)
    short = changed(base, tmp_path / "short", lambda model: None)
    config = json.loads((short / "config.json").read_text())
    (short / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 1}))
    assert smaller.exists()
    found = qkspace.compare(base, short, corpus, out=tmp_path / "out", **MAPS)
    assert found.is_matched("short") and found.unit("short") == "token"
    table = found.head_drift("short")
    first = table[table["layer"] == 0]
    assert (first["matched_layer"] == 0).all() and first["matched_head"].tolist() == list(range(N_HEADS))
    assert (first["match_cost"] < 1e-6).all() and (first["js"] < 1e-6).all()
    assert table[table["layer"] == 1]["is_shared"].all()
    with pytest.raises(QKSpaceError, match="another shape"):
        found.view("short", "pca", 2, 0, 0)


def test_another_tokenizer_is_compared_on_words(
    make_checkpoint: MakeCheckpoint, base: Path, corpus: Path, tmp_path: Path
) -> None:
    found = qkspace.compare(base, make_checkpoint("llama"), corpus, out=tmp_path / "out", names=("a", "b"), **MAPS)
    assert found.unit("b") == "word" and found.is_matched("b")
    units, starts = found.units("b"), found.unit_starts("b")
    assert starts[-1] == len(units) == len(found.token_drift("b"))
    before, after = found.attention("b", int(found.sequence_numbers("b")[3]), 1, 1)
    n = starts[4] - starts[3]
    assert before.shape == after.shape == (n, n + 1)
    assert np.allclose(before.sum(axis=1), 1, atol=1e-4) and np.allclose(after.sum(axis=1), 1, atol=1e-4)
    literal = [jensenshannon(p, q) ** 2 for p, q in zip(before.astype(float), after.astype(float), strict=True)]
    assert np.allclose(found.token_drift("b", 1, 1)[starts[3] : starts[4]], literal, atol=1e-3)
    links = found.links("b", 1, 1)
    assert (
        len(links)
        and (units["sequence"].to_numpy()[links["query"]] == units["sequence"].to_numpy()[links["key"]]).all()
    )


# ---------------------------------------------------------------------------------------------- killed, damaged, refused


def test_a_killed_run_goes_on_and_ends_the_same(
    base: Path, corpus: Path, tmp_path: Path, three: Comparison, monkeypatch: pytest.MonkeyPatch
) -> None:
    planted = changed(base, tmp_path / "planted", with_planted_head)
    done: list[int] = []

    def stop(job: Any) -> None:
        if job.layer == 1:
            raise KeyboardInterrupt
        done.append(job.layer)
        scan(job)

    scan = building.scan_layer
    monkeypatch.setattr(building, "scan_layer", stop)
    arguments: dict[str, Any] = {"out": tmp_path / "out", "names": ("base", "planted"), **MAPS}
    with pytest.raises(KeyboardInterrupt):
        qkspace.compare(base, planted, corpus, **arguments)
    with pytest.raises(QKSpaceError, match="not finished"):
        qkspace.open_comparison(tmp_path / "out")
    monkeypatch.setattr(building, "scan_layer", scan)
    found = qkspace.compare(base, planted, corpus, **arguments)
    assert done == [0] and not (tmp_path / "out" / store.WORK).exists()
    for layer in range(2):
        name = f"drift/planted/L{layer:02d}.npy"
        assert (found.root / name).read_bytes() == (three.root / name).read_bytes()
    stamp = (found.root / store.MANIFEST).stat().st_mtime_ns
    assert qkspace.compare(base, planted, corpus, **arguments).labels == ("planted",)
    assert (found.root / store.MANIFEST).stat().st_mtime_ns == stamp  # nothing to do


def test_nothing_of_an_earlier_run_is_taken_for_this_one(
    base: Path, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that was killed while it placed tokens, and another model under the same name after it."""
    first, second = tmp_path / "a" / "tuned", tmp_path / "b" / "tuned"
    changed(base, first, with_planted_head)
    changed(base, second, lambda model: attention_of(model, 0).query.weight.mul_(0.5))
    place = building.place_layer

    def stop(job: Any) -> None:
        if job.layer == 1:
            raise KeyboardInterrupt
        place(job)

    monkeypatch.setattr(building, "place_layer", stop)
    arguments: dict[str, Any] = {"out": tmp_path / "out", "names": ("base", "tuned"), **MAPS}
    with pytest.raises(KeyboardInterrupt):
        qkspace.compare(base, first, corpus, **arguments)
    with pytest.raises(QKSpaceError, match="unfinished comparison"):
        qkspace.build(str(base), corpus, out=tmp_path / "out", overwrite=True, **MAPS)
    monkeypatch.setattr(building, "place_layer", place)
    found = qkspace.compare(base, second, corpus, overwrite=True, **arguments)
    fresh = qkspace.compare(base, second, corpus, **{**arguments, "out": tmp_path / "fresh"})
    for layer in range(2):
        assert np.array_equal(
            found.view("tuned", "pca", 2, layer, 2).query, fresh.view("tuned", "pca", 2, layer, 2).query
        )


def test_an_error_on_the_way_loses_nothing_of_indexes_elsewhere(
    base: Path, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    roots = [tmp_path / "a", tmp_path / "b"]
    for root, model in zip(roots, (base, changed(base, tmp_path / "tuned", with_planted_head)), strict=True):
        qkspace.build(str(model), corpus, out=root, **MAPS)
    scan = building.scan_layer

    def full(job: Any) -> None:
        raise QKSpaceError("the disk is full")

    monkeypatch.setattr(building, "scan_layer", full)
    with pytest.raises(QKSpaceError, match="disk is full"):
        qkspace.compare(*roots, out=tmp_path / "out", n_jobs=1, progress=False)
    monkeypatch.setattr(building, "scan_layer", scan)
    assert len(qkspace.compare(*roots, out=tmp_path / "out", n_jobs=1, progress=False).drift) == 2 * N_HEADS
    for unheeded in ({"max_tokens": 5}, {"corpus": corpus}):
        with pytest.raises(QKSpaceError, match="cannot be chosen"):
            qkspace.compare(*roots, out=tmp_path / "more", progress=False, **unheeded)
    vectors = roots[1] / "query" / "L00.npy"
    content = bytearray(vectors.read_bytes())
    content[-3] ^= 1
    vectors.write_bytes(bytes(content))
    with pytest.raises(QKSpaceError, match="damaged"):
        qkspace.compare(*roots, out=tmp_path / "more", progress=False)
    assert not (tmp_path / "more").exists()


def test_the_corpus_of_an_index_must_be_what_it_was(base: Path, corpus: Path, tmp_path: Path) -> None:
    text = Path(shutil.copy(corpus, tmp_path / "plain.txt"))
    qkspace.build(str(base), text, out=tmp_path / "a", **MAPS)
    planted = changed(base, tmp_path / "planted", with_planted_head)
    text.write_text(text.read_text(encoding="utf-8").replace(" ", "  ", 1), encoding="utf-8")
    with pytest.raises(QKSpaceError, match=r"is not at .*plain\.txt as it was"):
        qkspace.compare(tmp_path / "a", planted, out=tmp_path / "out", progress=False, n_jobs=1)
    found = qkspace.compare(tmp_path / "a", planted, corpus, out=tmp_path / "out", progress=False, n_jobs=1)
    assert found.head_drift("planted")["js"].max() > 0.01
    assert found.tuned("planted").manifest["made_from"]["storage"] == "float32"  # as the base's index has it


def test_damage_is_told_and_mended(three: Comparison, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = Path(shutil.copytree(three.root, tmp_path / "copy"))
    assert main(["verify", str(root)]) == 0
    path = root / "drift" / "planted" / "L01.npy"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(bytes(content))
    assert main(["verify", str(root)]) == 1
    assert "drift/planted/L01.npy: its content changed" in "".join(capsys.readouterr().err.split("\n"))
    path.unlink()
    with pytest.raises(QKSpaceError, match=r"missing, drift/planted/L01\.npy first"):
        qkspace.open_comparison(root)
    (root / "indexes" / "base" / store.MANIFEST).unlink()
    shutil.copy(three.root / "drift" / "planted" / "L01.npy", path)
    with pytest.raises(QKSpaceError, match="the index of base cannot be opened"):
        qkspace.open_comparison(root)


def test_an_index_made_anew_since_is_noticed(base: Path, corpus: Path, tmp_path: Path, sentences: list[str]) -> None:
    roots = [tmp_path / "a", tmp_path / "b"]
    planted = changed(base, tmp_path / "planted", with_planted_head)
    for root, model in zip(roots, (base, planted), strict=True):
        qkspace.build(str(model), corpus, out=root, **MAPS)
    found = qkspace.compare(roots[0], roots[1], out=tmp_path / "out", n_jobs=1, progress=False)
    assert found.head_drift("b")["js"].max() > 0.01
    from qkspace.extend import project

    project(roots[0], ("pca",), dims=(3,), n_jobs=1)
    assert qkspace.open_comparison(tmp_path / "out").labels == ("b",)  # more maps of the base change nothing
    qkspace.build(str(planted), corpus, out=roots[1], overwrite=True, **{**MAPS, "max_tokens": 200})
    with pytest.raises(QKSpaceError, match="not the one that was compared"):
        qkspace.open_comparison(tmp_path / "out")


def test_what_cannot_be_compared_is_refused_with_the_reason(
    base: Path, corpus: Path, tmp_path: Path, sentences: list[str]
) -> None:
    other = tmp_path / "other.txt"
    other.write_text("\n".join(sentences[60:80]) + "\n", encoding="utf-8")
    roots = [tmp_path / "a", tmp_path / "b"]
    for root, text in zip(roots, (corpus, other), strict=True):
        qkspace.build(str(base), text, out=root, **MAPS)
    copy = Path(shutil.copytree(base, tmp_path / "checkpoints" / "copy"))
    out = tmp_path / "out"
    cases: list[tuple[tuple[Any, ...], str]] = [
        ((roots[0], roots[1]), "no sequence in common"),
        ((roots[0], roots[0]), "compared with itself"),
        ((base, []), "nothing to compare with"),
        ((base, base, corpus), "compared with itself"),
        ((base, copy), "Name the corpus"),
        ((base, copy.parent, corpus), "holds some: name one of them"),
        ((base, tmp_path / "nowhere" / "at" / "all", corpus), "no such folder"),
    ]
    for arguments, message in cases:
        with pytest.raises(QKSpaceError, match=message):
            qkspace.compare(*arguments, out=out, progress=False)
        assert not out.exists()
    with pytest.raises(QKSpaceError, match="max_tokens cannot be chosen"):
        qkspace.compare(roots[0], base, out=out, max_tokens=100, progress=False)
    with pytest.raises(QKSpaceError, match="2 checkpoints are compared"):
        qkspace.compare(base, copy, corpus, out=out, names=("a", "b", "c"), progress=False)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("mine")
    with pytest.raises(QKSpaceError, match="left alone"):
        qkspace.compare(roots[0], roots[1], out=tmp_path / "mine", progress=False)


def test_another_comparison_in_the_same_place_needs_to_be_asked_for(
    three: Comparison, base: Path, corpus: Path, tmp_path: Path
) -> None:
    root = Path(shutil.copytree(three.root, tmp_path / "copy"))
    planted = changed(base, tmp_path / "planted", with_planted_head)
    with pytest.raises(QKSpaceError, match="comparison of something else"):
        qkspace.compare(base, planted, corpus, out=root, names=("base", "planted"), **MAPS)
    assert qkspace.open_comparison(root).labels == three.labels
    found = qkspace.compare(base, planted, corpus, out=root, names=("base", "planted"), overwrite=True, **MAPS)
    assert found.labels == ("planted",) and sorted(p.name for p in (root / "indexes").iterdir()) == ["base", "planted"]


# ---------------------------------------------------------------------------------------------- names and the command


def test_names_of_checkpoints(tmp_path: Path, three: Comparison) -> None:
    assert step_of("step-0060") == 60 and step_of("checkpoint-500") == 500 and step_of("bert-base") is None
    names = [
        Source("bert-base-uncased"),
        Source("org/tuned", revision="step100"),
        Source("/x/a/final"),
        Source("/x/b/final"),
    ]
    assert name_all(names, ()) == ["bert-base-uncased", "tuned-step100", "a", "b"]
    assert name_all([Source("/x/a/run"), Source("/x/b/run")], ()) == ["a-run", "b-run"]
    assert name_all([Source("m"), Source("m"), Source("m-2")], ()) == ["m", "m-2", "m-2-2"]
    with pytest.raises(QKSpaceError, match="called x"):
        name_all([Source("m"), Source("n")], ("x", "x"))
    assert read_source("org/name@main") == Source("org/name", revision="main")
    assert read_source(str(three.base.root)).index == three.base.root
    with pytest.raises(QKSpaceError, match="is a comparison itself"):
        read_source(str(three.root))


def test_json_has_no_numbers_that_json_has_not(three: Comparison, monkeypatch: pytest.MonkeyPatch) -> None:
    from qkspace.report import drift_json

    table = three.drift.copy()
    table.loc[0, "product_change"], table.loc[1, "product_change"] = np.inf, np.nan
    monkeypatch.setitem(three.__dict__, "drift", table)
    records = drift_json(three)["drift"]
    assert records[0]["product_change"] is records[1]["product_change"] is None
    json.dumps(records, allow_nan=False)


def test_the_command_prints_drift_and_json(three: Comparison, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(three.root)]) == 0
    out = capsys.readouterr().out
    assert "planted against base" in out and "L1H2" in out
    assert main(["report", str(three.root), "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert len(printed["drift"]) == 3 * 2 * N_HEADS
    row = next(r for r in printed["drift"] if (r["checkpoint"], r["layer"], r["head"]) == ("planted", 1, 2))
    assert row["js"] == pytest.approx(three.drift["js"].max())
