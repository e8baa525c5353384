"""Tests of `qkspace.ablate` and `qkspace.heads.ablation`: what is measured is what the model does without a head."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pandas as pd
import pytest
import torch
import transformers
from conftest import MakeCheckpoint
from test_inline import INLINE, INTERFACE, batch_of, make, tensors
from torch import Tensor, nn

from qkspace import store
from qkspace.ablate import Ablation, loss_without
from qkspace.capture import AttentionCall, forward, listening
from qkspace.cli import main
from qkspace.console import Console
from qkspace.heads import kept
from qkspace.heads.ablation import analyse
from qkspace.heads.analyse import analyse as analyse_one
from qkspace.heads.report import hints, printed_tables
from qkspace.index import Index
from qkspace.loss import NOT_ASKED
from qkspace.pipeline import build
from qkspace.schema import QKSpaceError

T = TypeVar("T")
SMALL: dict[str, Any] = {"methods": ["pca"], "dims": [2], "normalise": "none", "n_jobs": 1}
BANDS = ("longformer", "led", "big_bird")


@dataclass(frozen=True)
class Family:
    """A family with its head: the class, sizes that conftest does not know, and what follows the heads of a layer."""

    auto: str
    output: str
    options: dict[str, Any]


MASKED, CAUSAL = "AutoModelForMaskedLM", "AutoModelForCausalLM"
_DEBERTA = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
_DEBERTA |= {"relative_attention": True, "pos_att_type": ["c2p", "p2c"], "max_relative_positions": 16}
FAMILIES = {
    "bert": Family(MASKED, "bert.encoder.layer.{}.attention.output.dense", {}),
    "gpt2": Family(CAUSAL, "transformer.h.{}.attn.c_proj", {}),
    "llama": Family(CAUSAL, "model.layers.{}.self_attn.o_proj", {}),
    "deberta-v2": Family(MASKED, "deberta.encoder.layer.{}.attention.output.dense", _DEBERTA),
    "bloom": Family(CAUSAL, "transformer.h.{}.self_attention.dense", {"hidden_size": 32, "n_layer": 2, "n_head": 4}),
}
N_HEADS, D_HEAD = 4, 8


def headed(
    make_checkpoint: MakeCheckpoint, name: str, folder: Path, change: Callable[[Any], None] | None = None
) -> Any:
    """Save a tiny random model with its head, wide weights and the tokenizer of its family; return it."""
    base = make_checkpoint(name, **FAMILIES[name].options)
    shutil.copytree(base, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    torch.manual_seed(1)
    model: Any = getattr(transformers, FAMILIES[name].auto).from_config(transformers.AutoConfig.from_pretrained(base))
    if name == "bert":  # a part of the model without a head that every load would draw anew
        model.bert.pooler = transformers.models.bert.modeling_bert.BertPooler(model.config)
    if change is not None:
        with torch.no_grad():
            change(model)
    model.save_pretrained(folder)
    return model.eval()


def copied(index: Index, folder: Path) -> Index:
    """Copy an index without what an analysis of it has left."""
    return Index(shutil.copytree(index.root, folder / "index", ignore=shutil.ignore_patterns(store.WORK)))


def texts(folder: Path, sentences: list[str], n: int = 8) -> Path:
    path = folder / "plain.txt"
    path.write_text("\n".join(sentences[:n]) + "\n", encoding="utf-8")
    return path


@pytest.fixture(scope="module", params=list(FAMILIES))
def case(
    request: Any, tmp_path_factory: pytest.TempPathFactory, make_checkpoint: MakeCheckpoint, sentences: list[str]
) -> tuple[Family, Any, Index]:
    """A family, its model with a head, and an index of it."""
    folder = tmp_path_factory.mktemp("ablation")
    model = headed(make_checkpoint, request.param, folder / "model")
    index = build(str(folder / "model"), texts(folder, sentences), out=folder / "index", **SMALL)
    return FAMILIES[request.param], model, index


@pytest.fixture(scope="module")
def llama_index(
    tmp_path_factory: pytest.TempPathFactory, make_checkpoint: MakeCheckpoint, sentences: list[str]
) -> Index:
    """An index of a Llama in whose attention only L0H1 and L1H2 have a say, and of the two L1H2 has most."""

    def plant(model: Any) -> None:
        for layer, head in enumerate((1, 2)):
            weight = model.model.layers[layer].self_attn.o_proj.weight
            others = [i for i in range(N_HEADS * D_HEAD) if i // D_HEAD != head]
            weight[:, others] = 0
            weight.mul_(1e-3 if layer == 0 else 10)

    folder = tmp_path_factory.mktemp("planted")
    headed(make_checkpoint, "llama", folder / "model", plant)
    return build(str(folder / "model"), texts(folder, sentences), out=folder / "index", **SMALL)


# ---------------------------------------------------------------------------------------------- done literally


def inputs_of(ablation: Ablation) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Yield each sequence as the model reads it, the labels that transformers takes, and which tokens are ordinary."""
    sample, feed = ablation.task.sample, ablation.task.feed
    targets = ablation.task.judge.targets  # type: ignore[attr-defined]
    for s in range(len(sample.places)):
        ids = feed.batch(np.array([s]), torch.device("cpu"))["input_ids"]
        rows = slice(int(sample.tokens.starts[s]), int(sample.tokens.starts[s + 1]))
        labels = torch.from_numpy(targets[rows])[None]
        if ablation.task.measure == "causal":  # transformers shifts by itself
            labels = ids.clone()
        yield ids, labels, torch.from_numpy(sample.is_ordinary[rows])


def literal(model: Any, ablation: Ablation, hook: Callable[[Any, Any], Any] | None = None, output: str = "") -> Any:
    """Return the loss of each sequence alone, as transformers gives it, summed: (sequence)."""
    handle = model.get_submodule(output).register_forward_pre_hook(hook) if hook else None
    sums = []
    with torch.no_grad():
        for ids, labels, _ in inputs_of(ablation):
            n = int((labels[:, 1:] if ablation.task.measure == "causal" else labels).ne(NOT_ASKED).sum())
            sums.append(float(model(input_ids=ids, labels=labels).loss) * n if n else 0.0)
    if handle:
        handle.remove()
    return np.array(sums)


def setting(head: int, value: Tensor | float) -> Callable[[Any, Any], Any]:
    """Return a hook that sets what a head puts out in what an output projection is given."""

    def hook(module: Any, args: Any) -> Any:
        changed = args[0].clone()
        changed[..., head * D_HEAD : (head + 1) * D_HEAD] = value
        return (changed, *args[1:])

    return hook


def test_the_intact_loss_is_the_one_that_transformers_gives(case: Any) -> None:
    _, model, index = case
    ablation = Ablation.of(index)
    losses, n = ablation.intact.T
    np.testing.assert_allclose(losses, literal(model, ablation), atol=2e-4)
    assert ablation.task.reason == "" and n.sum() >= 8
    if ablation.task.measure == "masked":
        sample = ablation.task.sample
        is_asked = ablation.task.judge.targets != NOT_ASKED  # type: ignore[attr-defined]
        assert not (is_asked & sample.tokens.is_special).any()
        assert 0.05 < is_asked[sample.is_ordinary].mean() < 0.3
    else:
        assert n.sum() == (ablation.task.sample.tokens.lengths - 1).sum()


@pytest.mark.parametrize("layer, head", [(0, 0), (1, 3)])
def test_without_a_head_is_what_a_model_does_whose_output_projection_is_given_zeros(
    case: Any, layer: int, head: int
) -> None:
    family, model, index = case
    ablation = Ablation.of(index)
    expected = literal(model, ablation, setting(head, 0.0), family.output.format(layer))
    found = ablation.without([(layer, head)])[:, 0]
    np.testing.assert_allclose(found, expected, atol=2e-4)
    assert np.abs(found - ablation.intact[:, 0]).max() > 1e-2


def test_a_mean_is_over_ordinary_tokens_and_stands_in_the_place_of_a_head(case: Any) -> None:
    family, model, index = case
    ablation = Ablation.of(index, method="mean")
    layer, head = 1, 2
    seen: list[Tensor] = []
    module = model.get_submodule(family.output.format(layer))
    handle = module.register_forward_pre_hook(lambda _, args: seen.append(args[0][0]))
    with torch.no_grad():
        ordinary = [ok for ids, _, ok in inputs_of(ablation) if model(input_ids=ids) is not None]
    handle.remove()
    rows = torch.cat([each[ok] for each, ok in zip(seen, ordinary, strict=True)])
    mean = rows[:, head * D_HEAD : (head + 1) * D_HEAD].double().mean(dim=0)
    np.testing.assert_allclose(ablation.means[layer][head], mean.numpy(), atol=1e-5)
    expected = literal(model, ablation, setting(head, mean.float()), family.output.format(layer))
    np.testing.assert_allclose(ablation.without([(layer, head)])[:, 0], expected, atol=2e-4)


def test_several_heads_go_at_once_and_all_of_a_layer_are_its_whole_attention(case: Any) -> None:
    family, model, index = case
    ablation = Ablation.of(index)

    def nothing(module: Any, args: Any) -> Any:
        return (torch.zeros_like(args[0]), *args[1:])

    every = [(1, head) for head in range(N_HEADS)]
    expected = literal(model, ablation, nothing, family.output.format(1))
    np.testing.assert_allclose(ablation.without(every)[:, 0], expected, atol=2e-4)
    change = loss_without(ablation, every)
    assert change.loss_change == pytest.approx(
        (expected - ablation.intact[:, 0]).sum() / change.n_predictions, abs=1e-4
    )
    assert change.low <= change.loss_change <= change.high


def test_the_size_of_a_batch_changes_nothing(case: Any) -> None:
    _, _, index = case
    one, other = (Ablation.of(index, method="mean", batch_tokens=n).change([(0, 1)]) for n in (16, 4096))
    assert one.loss_change == pytest.approx(other.loss_change, abs=1e-5)
    assert one.base_loss == pytest.approx(other.base_loss, abs=1e-5)
    assert one.n_predictions == other.n_predictions


def test_only_what_is_asked_for_is_predicted(case: Any) -> None:
    _, model, index = case
    ablation = Ablation.of(index, predict="kind:punctuation")
    is_asked = ablation.task.judge.targets != NOT_ASKED  # type: ignore[attr-defined]
    sample, starts = ablation.task.sample, index.row_starts
    rows = np.concatenate([np.arange(starts[p], starts[p + 1]) for p in sample.places])
    is_mark = (index.tokens["kind"] == "punctuation").to_numpy()[rows]
    if ablation.task.measure == "masked":
        assert is_asked.any() and is_mark[is_asked].all()
        return
    assert (is_asked[:-1] == is_mark[1:]).all()
    expected = []
    for s, (ids, _, _) in enumerate(inputs_of(ablation)):
        own = torch.from_numpy(is_mark[int(sample.tokens.starts[s]) : int(sample.tokens.starts[s + 1])])
        labels = torch.where(own, ids[0], NOT_ASKED)[None]
        n = int(labels[:, 1:].ne(NOT_ASKED).sum())
        with torch.no_grad():
            expected.append(float(model(input_ids=ids, labels=labels).loss) * n if n else 0.0)
    np.testing.assert_allclose(ablation.intact[:, 0], expected, atol=2e-4)


# ---------------------------------------------------------------------------------------------- every architecture


def routes() -> list[tuple[str, str]]:
    inline = [(name, "inline") for name in [*INLINE, *INTERFACE]]
    return inline + [(name, "interface") for name in INTERFACE if make(name)._can_set_attn_implementation()]


@pytest.mark.parametrize("name, route", routes())
def test_what_is_replaced_is_attention_times_value_of_each_head(name: str, route: Any) -> None:
    model, batch = make(name), batch_of(name)
    calls: list[AttentionCall] = []
    outputs: dict[int, Tensor] = {}

    def see(call: AttentionCall) -> None:
        calls.append(call)
        _ = call.attention

    def edit(number: int, output: Tensor) -> Tensor:
        outputs[number] = output.clone()
        return output.clone()  # written back, bit by bit the same

    with torch.inference_mode():
        want = list(tensors(forward(model, batch)))
    with listening(model, see, route=route, edit=edit):
        got = list(tensors(forward(model, batch)))
    assert len(got) == len(want) and all(torch.equal(a, b) for a, b in zip(got, want, strict=True))
    if name.split(":")[0] in BANDS:
        return
    assert sorted(outputs) == [call.index for call in calls]
    for call in calls:
        assert call.value is not None
        groups = call.query.shape[1] // call.value.shape[1]
        mixed = call.attention.float() @ call.value.float().repeat_interleave(groups, dim=1)
        torch.testing.assert_close(outputs[call.index].transpose(1, 2).float(), mixed, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name, route", [("llama", "interface"), ("bloom", "inline"), ("deberta", "inline")])
def test_what_is_put_in_the_place_of_an_output_goes_on(name: str, route: Any) -> None:
    """Replaced by nothing at every head of every layer, the model computes what it does without its attention."""
    model, batch = make(name), batch_of(name)
    outputs = [
        m for n, m in model.named_modules() if n.endswith(("o_proj", "self_attention.dense", "attention.output.dense"))
    ]
    handles = [m.register_forward_pre_hook(lambda _, args: (torch.zeros_like(args[0]), *args[1:])) for m in outputs]
    with torch.inference_mode():
        expected = forward(model, batch).last_hidden_state
    for handle in handles:
        handle.remove()
    assert len(handles) == 2
    with listening(model, lambda call: None, route=route, edit=lambda _, output: torch.zeros_like(output)):
        found = forward(model, batch).last_hidden_state
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


class Twice(nn.Module):
    """Attention whose weights meet its values and their squares: a head's output is not all that it does."""

    num_heads = 2

    def forward(self, x: Tensor) -> Tensor:
        """Attend in two heads."""
        query, value = x.unflatten(-1, (2, -1)).transpose(1, 2), x.unflatten(-1, (2, -1)).transpose(1, 2).contiguous()
        attention = torch.softmax(query @ (2 * query).transpose(-1, -2), dim=-1)
        return attention @ value + attention @ value**2


def test_weights_that_meet_more_than_their_values_are_refused() -> None:
    from qkspace.inline import watching

    x = torch.randn(2, 5, 8)
    with torch.no_grad(), watching(module := Twice(), lambda *_, **__: None, lambda _, output: output):
        module(x)  # nothing is replaced, so nothing is wrong
    with (
        pytest.raises(QKSpaceError, match="cannot be replaced"),
        torch.no_grad(),
        watching(module, lambda *_, **__: None, lambda _, output: output * 0),
    ):
        module(x)


# ---------------------------------------------------------------------------------------------- planted heads


@pytest.mark.parametrize("method", ["zero", "mean"])
def test_a_head_that_nothing_reads_changes_nothing_and_the_one_that_all_read_most(
    llama_index: Index, method: Any
) -> None:
    (table,) = analyse(llama_index, method=method).tables.values()
    table = table.rename(columns={"loss_change_mean": "loss_change"}).set_index(["layer", "head"])
    useful = [(0, 1), (1, 2)]
    idle = table.drop(useful)
    assert (idle[["loss_change", "low", "high"]] == 0).all(axis=None)
    changes = table["loss_change"].abs()
    assert changes[1, 2] > 5 * changes[0, 1] > 0
    everything = loss_without(llama_index, [(1, head) for head in range(N_HEADS)], method=method)
    assert changes[1, 2] == pytest.approx(abs(everything.loss_change), abs=1e-6)


def test_the_table_says_what_it_is_of(llama_index: Index) -> None:
    found = analyse(llama_index, seed=3, max_tokens=60)
    table = found.tables["ablation"]
    assert list(table.columns) == [
        "layer", "head", "loss_change", "low", "high", "method", "measure", "base_loss", "n_predictions",
    ]  # fmt: skip
    assert list(zip(table["layer"], table["head"], strict=True)) == [(a, b) for a in range(2) for b in range(4)]
    assert (
        found.parameters["n_tokens"] <= 60 and set(table["measure"]) == {"causal"} and set(table["method"]) == {"zero"}
    )
    n = int(table["n_predictions"].iloc[0])
    assert n == found.parameters["n_tokens"] - found.parameters["n_sequences"]
    assert f"{n:,} predictions" in table.attrs["note"] and "causal" in table.attrs["note"]
    words = analyse(llama_index, seed=3, max_tokens=60, heads=[(0, 0)], predict="kind:word").tables["ablation"]
    assert "predictions of kind:word" in words.attrs["note"] and words["n_predictions"].iloc[0] < n
    some = analyse(llama_index, seed=3, max_tokens=60, heads=[(1, 2), (0, 0)]).tables["ablation"]
    pd.testing.assert_frame_equal(some, table.iloc[[0, 6]].reset_index(drop=True))


# ---------------------------------------------------------------------------------------------- killed, and gone on with


class Killed(Console):
    """A console under which a run is broken off after some heads, and which notes how many were done before."""

    def __init__(self, after: int) -> None:
        super().__init__(0)
        self.after, self.done = after, 0

    def track(self, items: Iterable[T], total: int | None, label: str, *, done: int = 0, unit: str = "") -> Iterator[T]:
        """Break off."""
        self.done = done
        for i, item in enumerate(items):
            if i == self.after:
                raise KeyboardInterrupt
            yield item


@pytest.mark.parametrize("torn", [b"", b'{"layer": 1, "head": 3, "losses": [0.1, 2'])
def test_a_killed_run_goes_on_and_gives_the_same_table(llama_index: Index, tmp_path: Path, torn: bytes) -> None:
    index = copied(llama_index, tmp_path)
    with pytest.raises(KeyboardInterrupt):
        analyse(index, method="mean", console=Killed(3))
    (file,) = (index.root / store.WORK / "mean-ablation").iterdir()
    file.write_bytes(file.read_bytes() + torn)
    again = Killed(99)
    found = analyse(index, method="mean", console=again)
    assert again.done == 3
    pd.testing.assert_frame_equal(
        found.tables["mean-ablation"], analyse(llama_index, method="mean").tables["mean-ablation"]
    )
    other = Killed(99)
    analyse(index, method="zero", console=other)
    assert other.done == 0  # another question


def test_what_was_kept_on_the_way_goes_when_the_table_is_kept(llama_index: Index, tmp_path: Path) -> None:
    index = copied(llama_index, tmp_path)
    found = analyse(index)
    index = kept.keep(index, "ablation", found.tables, head_columns=found.head_columns, parameters=found.parameters)
    assert not (index.root / store.WORK).exists() and store.verify(index.root) == []
    np.testing.assert_array_equal(index.head_table()["loss_change"], found.tables["ablation"]["loss_change"])
    pd.testing.assert_frame_equal(kept.read(index, "ablation"), found.tables["ablation"])


# ---------------------------------------------------------------------------------------------- without a head that predicts


def test_a_checkpoint_without_a_head_is_measured_by_its_output(small_index: Index, minilm: Path) -> None:
    heads = [(0, 4), (5, 5)]
    ablation = Ablation.of(small_index, max_tokens=200)
    assert ablation.task.measure == "output" and "random numbers" in ablation.task.reason
    model = transformers.AutoModel.from_pretrained(minilm).eval()
    sample = ablation.task.sample
    states = []
    for head in (None, *heads):
        zeros = lambda _, args, head=head: (zeroed(args[0], head[1]), *args[1:])  # noqa: E731
        hook = model.encoder.layer[head[0]].attention.output.dense.register_forward_pre_hook(zeros) if head else None
        with torch.no_grad():
            states.append([_pooled(model, sample, s) for s in range(len(sample.places))])
        if hook:
            hook.remove()
    for head, moved in zip(heads, states[1:], strict=True):
        expected = [1 - torch.cosine_similarity(a, b, dim=0).item() for a, b in zip(states[0], moved, strict=True)]
        np.testing.assert_allclose(ablation.without([head])[:, 0], expected, atol=1e-6)
        assert np.mean(expected) > 1e-3
    with pytest.raises(QKSpaceError, match="random numbers"):
        Ablation.of(small_index, measure="masked")
    with pytest.raises(QKSpaceError, match="not 'causal'"):
        Ablation.of(small_index, measure="causal")


def zeroed(x: Tensor, head: int, d_head: int = 32) -> Tensor:
    x = x.clone()
    x[..., head * d_head : (head + 1) * d_head] = 0
    return x


def _pooled(model: Any, sample: Any, s: int) -> Tensor:
    rows = slice(int(sample.tokens.starts[s]), int(sample.tokens.starts[s + 1]))
    state = model(input_ids=torch.from_numpy(sample.tokens.token_ids[rows])[None]).last_hidden_state[0]
    return state[torch.from_numpy(~sample.tokens.is_special[rows])].mean(dim=0)


def test_the_note_says_that_the_output_is_measured_and_why(small_index: Index, tmp_path: Path) -> None:
    index = copied(small_index, tmp_path)
    found = analyse(index, max_tokens=100, heads=[(0, 0)])
    assert (
        "1 - cosine" in found.tables["ablation"].attrs["note"]
        and "random numbers" in found.tables["ablation"].attrs["note"]
    )
    assert found.tables["ablation"]["base_loss"].tolist() == [0.0]


def test_the_output_can_be_asked_for_where_there_is_a_head(llama_index: Index) -> None:
    ablation = Ablation.of(llama_index, measure="output")
    assert ablation.task.measure == "output" and ablation.task.reason == ""
    assert (ablation.intact == [0, 1]).all()
    assert ablation.change([(0, 0)]).loss_change == 0 < ablation.change([(1, 2)]).loss_change


# ---------------------------------------------------------------------------------------------- pairs and pictures


@pytest.mark.parametrize("part", ["cross", "decoder"])
def test_a_decoder_is_asked_for_its_text(
    part: str, tmp_path: Path, make_checkpoint: MakeCheckpoint, sentences: list[str]
) -> None:
    options = {"d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "encoder_ffn_dim": 48, "decoder_ffn_dim": 48}
    options |= {"encoder_attention_heads": 4, "decoder_attention_heads": 4, "max_position_embeddings": 128}
    base = make_checkpoint("bart", **options, decoder_start_token_id=3, init_std=0.25)
    shutil.copytree(base, tmp_path / "model", ignore=shutil.ignore_patterns("*.safetensors"))
    torch.manual_seed(1)
    model: Any = transformers.AutoModelForSeq2SeqLM.from_config(transformers.AutoConfig.from_pretrained(base))
    model.save_pretrained(tmp_path / "model")
    model.eval()
    index = build(str(tmp_path / "model"), texts(tmp_path, sentences), out=tmp_path / "index", attention=part, **SMALL)
    ablation = Ablation.of(index)
    assert ablation.task.measure == "causal" and ablation.task.reason == ""
    module = {"cross": "encoder_attn", "decoder": "self_attn"}[part]
    handle = None
    for found in (ablation.intact, ablation.without([(1, 3)])):
        expected = []
        for s in range(len(ablation.task.sample.places)):
            batch = ablation.task.feed.batch(np.array([s]), torch.device("cpu"))
            with torch.no_grad():
                logits = model(**batch).logits[0]
            right = batch["decoder_input_ids"][0, 1:]
            expected.append(float(nn.functional.cross_entropy(logits[:-1], right, reduction="sum")))
        np.testing.assert_allclose(found[:, 0], expected, atol=1e-3)
        if handle is None:
            output = model.get_submodule(f"model.decoder.layers.1.{module}.out_proj")
            handle = output.register_forward_pre_hook(setting(3, 0.0))


def test_a_model_that_classifies_pictures_is_measured_by_its_classes(tmp_path: Path) -> None:
    from conftest import _shared
    from PIL import Image

    (tmp_path / "pictures").mkdir()
    rng = np.random.default_rng(0)
    for i in range(2):
        noise = Image.fromarray(rng.integers(0, 256, size=(8 + i, 8, 3), dtype=np.uint8))
        noise.resize((224, 224)).save(tmp_path / "pictures" / f"{i}.png")
    model: Any = transformers.AutoModelForImageClassification.from_pretrained(_shared("models", "deit-tiny")).eval()
    model.vit.pooler = transformers.models.vit.modeling_vit.ViTPooler(model.config)  # else every load would draw one
    model.save_pretrained(folder := tmp_path / "model")
    shutil.copy(_shared("models", "deit-tiny") / "preprocessor_config.json", folder)
    index = build(str(folder), tmp_path / "pictures", out=tmp_path / "index", **SMALL)
    ablation = Ablation.of(index, method="zero", batch_tokens=400)
    assert "Kullback" in ablation.task.unit
    before, after = [], []
    output = next(m for n, m in model.named_modules() if n.endswith(f"{index.layers[2].module}.o_proj"))
    for found, hook in ((before, None), (after, lambda _, args: (zeroed(args[0], 1, 64), *args[1:]))):
        handle = output.register_forward_pre_hook(hook) if hook else None
        for s in range(len(ablation.task.sample.places)):
            with torch.no_grad():
                found.append(model(**ablation.task.feed.batch(np.array([s]), torch.device("cpu"))).logits[0].double())
        if handle:
            handle.remove()
    expected = [
        float((p.softmax(0) * (p.log_softmax(0) - q.log_softmax(0))).sum()) for p, q in zip(before, after, strict=True)
    ]
    np.testing.assert_allclose(ablation.without([(2, 1)])[:, 0], expected, atol=1e-5)
    assert min(expected) > 1e-5


# ---------------------------------------------------------------------------------------------- said plainly


@pytest.mark.parametrize(
    "options, message",
    [
        ({"method": "half"}, "zero, mean"),
        ({"measure": "accuracy"}, "masked, causal, output"),
        ({"measure": "masked"}, "not 'masked'"),
        ({"max_tokens": 2}, "max_tokens 2"),
        ({"predict": "colour:red"}, "COLUMN:VALUE"),
        ({"predict": "kind:word", "measure": "output"}, "Leave it out"),
        ({"heads": [(0, 9)]}, "no head 9"),
    ],
)
def test_what_cannot_be_asked_is_refused_with_the_choices(
    llama_index: Index, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(QKSpaceError, match=message):
        analyse(llama_index, **options)


def test_no_head_at_all_is_refused(llama_index: Index) -> None:
    with pytest.raises(QKSpaceError, match="No head was named"):
        loss_without(llama_index, [])


# ---------------------------------------------------------------------------------------------- zeros and means, side by side

BY = {"ablation": ("zero", "loss_change"), "mean-ablation": ("mean", "loss_change_mean")}


def test_an_index_holds_what_changes_by_zeros_and_by_means(llama_index: Index, tmp_path: Path) -> None:
    index = copied(llama_index, tmp_path).analyse("mean-ablation").analyse("ablation")
    assert store.verify(index.root) == []
    for name, (method, column) in BY.items():
        alone = analyse(copied(llama_index, tmp_path / name), method=method).tables[name]
        found = index.analysis(name)
        pd.testing.assert_frame_equal(found, alone)
        np.testing.assert_array_equal(index.head_table()[column], alone[column])
    heads = index.head_table()
    assert (heads["loss_change"] != heads["loss_change_mean"]).any(), "they are two questions"
    titles = [each.title for each in printed_tables(index)]
    assert len(set(titles)) == len(titles) == 4 and not any("ablat" in line for line in hints(index))


def test_the_command_keeps_each_method_under_its_own_name(llama_index: Index, tmp_path: Path) -> None:
    index = copied(llama_index, tmp_path)
    asked = ["--max-tokens", "60", "--seed", "3"]
    assert main(["ablate", str(index.root), "--method", "mean", *asked]) == 0
    assert kept.names(Index(index.root)) == ["mean-ablation"]
    (hint,) = [line for line in hints(Index(index.root)) if "qkspace ablate" in line.rpartition(". ")[2]]
    assert hint.endswith(f"qkspace ablate {index.root}"), "what is missing is said with the command that makes it"
    assert main(["heads", str(index.root), "--only", "ablation", *asked[2:]]) == 0
    found = Index(index.root)
    assert kept.names(found) == ["mean-ablation", "ablation"]
    assert {name: set(found.analysis(name)["method"]) for name in BY} == {
        "ablation": {"zero"},
        "mean-ablation": {"mean"},
    }
    expected = analyse(llama_index, method="mean", max_tokens=60, seed=3).tables["mean-ablation"]
    np.testing.assert_array_equal(found.analysis("mean-ablation")["loss_change_mean"], expected["loss_change_mean"])


@pytest.mark.parametrize("name", BY)
def test_a_killed_run_of_one_method_outlives_the_other_being_kept(
    llama_index: Index, tmp_path: Path, name: str
) -> None:
    index = copied(llama_index, tmp_path)
    with pytest.raises(KeyboardInterrupt):
        index.analyse(name, console=Killed(3))
    (other,) = BY.keys() - {name}
    whole = Killed(99)
    index = index.analyse(other, console=whole)
    assert whole.done == 0, "another question"
    again = Killed(99)
    found = index.analyse(name, console=again)
    assert again.done == 3 and not (index.root / store.WORK).exists()
    uncut = copied(llama_index, tmp_path / "uncut").analyse(name)
    pd.testing.assert_frame_equal(found.analysis(name), uncut.analysis(name))


@pytest.mark.parametrize("names", [("ablation",), ("mean-ablation",), ("ablation", "mean-ablation"), ()])
def test_a_method_is_named_by_the_analysis(llama_index: Index, names: tuple[str, ...]) -> None:
    for method in ("mean", "zero"):
        with pytest.raises(QKSpaceError, match=r"ablation \(zero\), mean-ablation \(mean\)"):
            llama_index.analyse(*names, method=method)
        for name in names:
            with pytest.raises(QKSpaceError, match=r"ablation \(zero\), mean-ablation \(mean\)"):
                analyse_one(llama_index, name, method=method)


def test_a_table_that_is_not_there_is_told_with_its_command(llama_index: Index) -> None:
    for name, command in (("ablation", ""), ("mean-ablation", " --method mean")):
        with pytest.raises(QKSpaceError) as error:
            llama_index.analysis(name)
        assert str(error.value).endswith(f"Make it: qkspace ablate {llama_index.root}{command}")
