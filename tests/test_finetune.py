"""Tests of `scripts/finetune.py`: what it saves loads, is whole, is the same again, and is what was asked to be trained."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import REPOSITORY, MakeCheckpoint

pytestmark = pytest.mark.filterwarnings(
    "ignore:`is_gradient_checkpointing`:FutureWarning"
)  # between peft and transformers
LABELS = ("question", "statement")
Run = Callable[..., Path]


@pytest.fixture(scope="module")
def main() -> Iterator[Callable[[list[str]], int]]:
    """The script, as a function of its arguments."""
    sys.path.insert(0, str(REPOSITORY / "scripts"))
    import finetune

    yield finetune.main
    sys.path.remove(str(REPOSITORY / "scripts"))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty questions and forty statements of the labelled set."""
    rows = (REPOSITORY / "data" / "intents-train.jsonl").read_text(encoding="utf-8").splitlines()
    chosen = [row for label in LABELS for row in [row for row in rows if f'"label": "{label}"' in row][:40]]
    path = tmp_path_factory.mktemp("data") / "some.jsonl"
    path.write_text("\n".join(chosen) + "\n", encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory, sentences: list[str]) -> Path:
    """Running text."""
    path = tmp_path_factory.mktemp("text") / "plain.txt"
    path.write_text("\n".join(sentences) + "\n", encoding="utf-8")
    return path


@pytest.fixture
def run(main: Callable[[list[str]], int], data: Path, tmp_path: Path) -> Run:
    """Fine-tune with small defaults and return the folder; options are given by name."""

    def finetune(model: Path, out: str = "out", *, status: int = 0, **options: Any) -> Path:
        chosen = {"data": data, "steps": 6, "batch-size": 8, "learning-rate": 3e-3, "out": tmp_path / out, **options}
        words = [f"--{name.replace('_', '-')}={value}" for name, value in chosen.items()]
        assert main(["--model", str(model), *words]) == status
        return Path(str(chosen["out"]))

    return finetune


def weights(folder: Path, name: str = "model.safetensors") -> dict[str, Any]:
    """Return the tensors of a checkpoint as arrays."""
    from safetensors.numpy import load_file

    return load_file(folder / name)


def changed(one: dict[str, Any], other: dict[str, Any]) -> set[str]:
    """Return the tensors that differ."""
    assert one.keys() == other.keys()
    return {name for name in one if (one[name] != other[name]).any()}


def measured(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "finetune.json").read_text(encoding="utf-8"))  # type: ignore[no-any-return]


@pytest.mark.parametrize("family", ["bert", "llama"])
def test_saved_checkpoints_load_and_have_learnt(
    run: Run, make_checkpoint: MakeCheckpoint, data: Path, family: str
) -> None:
    """Each saved step loads with the Auto classes, differs from the one before, and the loss has fallen; step 0 is the base."""
    import torch
    from transformers import AutoModel, AutoTokenizer

    base = make_checkpoint(family)
    out = run(base, steps=80, save_at="0,30,80", test=data)
    steps = [out / f"step-{step:04d}" for step in (0, 30, 80)]
    assert not changed(weights(steps[0]), weights(base))
    assert changed(weights(steps[0]), weights(steps[1])) and changed(weights(steps[1]), weights(steps[2]))
    records = [measured(step) for step in steps]
    assert [record["step"] for record in records] == [0, 30, 80]
    assert records[2]["held_out_loss"] < min(
        record["held_out_loss"] for record in records[:2]
    )  # 30 steps may be too few
    assert records[2]["accuracy"] > 0.8  # of the sentences that it was trained on
    tokenizer, model = AutoTokenizer.from_pretrained(steps[2]), AutoModel.from_pretrained(steps[2])
    head = weights(steps[2], "classifier.safetensors")
    right, loss = [], []
    for row in map(json.loads, data.read_text(encoding="utf-8").splitlines()):
        with torch.no_grad():
            hidden = model(**tokenizer(row["text"], return_tensors="pt")).last_hidden_state[0].mean(0)
        logits = head["weight"] @ hidden.numpy() + head["bias"]
        label = records[2]["labels"].index(row["label"])
        right.append(logits.argmax() == label)
        loss.append(np.logaddexp.reduce(logits) - logits[label])
    assert np.mean(right) == records[2]["accuracy"]
    assert np.mean(loss) == pytest.approx(records[2]["held_out_loss"], rel=1e-3)


def test_the_same_seed_gives_the_same_weights(run: Run, make_checkpoint: MakeCheckpoint) -> None:
    """Dropout and order come from the seed; which steps are saved changes nothing; another seed gives others."""
    base = make_checkpoint("bert")
    one, other = run(base, "one"), run(base, "other", save_at="2,6")
    assert not changed(weights(one / "step-0006"), weights(other / "step-0006"))
    assert not changed(
        weights(one / "step-0006", "classifier.safetensors"), weights(other / "step-0006", "classifier.safetensors")
    )
    assert changed(weights(one / "step-0006"), weights(run(base, "third", seed=1) / "step-0006"))


def test_an_unfinished_folder_is_not_taken_for_whole(
    run: Run, make_checkpoint: MakeCheckpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What breaks while a checkpoint is written leaves no folder of its name; the same command then writes it."""
    from transformers import PreTrainedTokenizerFast

    base = make_checkpoint("bert")
    whole = run(base, "whole", save_at="3,6")
    save = PreTrainedTokenizerFast.save_pretrained
    calls: list[object] = []

    def breaks(self: Any, *arguments: Any, **options: Any) -> Any:
        calls.append(self)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return save(self, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(PreTrainedTokenizerFast, "save_pretrained", breaks)
        out = run(base, save_at="3,6", status=130)
    assert sorted(path.name for path in out.iterdir()) == ["finetune.json", "step-0003"]
    (out / ".step-0006.1.tmp").mkdir()  # as a run that was killed leaves it
    kept = (out / "step-0003" / "model.safetensors").stat().st_mtime_ns
    run(base, save_at="3,6")
    assert sorted(path.name for path in out.iterdir()) == ["finetune.json", "step-0003", "step-0006"]
    assert (out / "step-0003" / "model.safetensors").stat().st_mtime_ns == kept
    assert not changed(weights(out / "step-0006"), weights(whole / "step-0006"))


def test_a_finished_run_is_not_made_again(
    run: Run, make_checkpoint: MakeCheckpoint, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same command trains nothing and says so; another setting or a folder of something else is refused by name."""
    import finetune

    base = make_checkpoint("bert")
    out = run(base)
    monkeypatch.setattr(finetune, "train", lambda *_: pytest.fail("trained again"))
    run(base)
    assert "all of it is there already" in capsys.readouterr().out
    run(base, seed=5, status=1)
    assert "seed was 0, now 5" in capsys.readouterr().err
    run(make_checkpoint("bert", seed=1), status=1)
    assert "another model" in capsys.readouterr().err
    run(base, out=out.parent, status=1)
    assert "holds something else" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"label_column": "kind"}, "some.jsonl line 1: no label: column 'kind' is missing"),
        ({"text_column": "words"}, "no column 'words'"),
        ({"save_at": "3,x"}, "--save-at 3,x: expected whole numbers"),
        ({"save_at": "3,60"}, "step 60 is after the last one"),
        ({"freeze": "tower"}, "--freeze tower: no part of this model"),
        ({"lora": "7"}, "--lora 7: no such layer; layers are 0 to 1"),
        ({"task": "lm"}, "--task lm is for decoders"),
        ({"data": "nowhere.jsonl"}, "nowhere.jsonl: no such file"),
    ],
)
def test_mistakes_are_named(
    run: Run,
    make_checkpoint: MakeCheckpoint,
    capsys: pytest.CaptureFixture[str],
    options: dict[str, Any],
    said: str,
) -> None:
    out = run(make_checkpoint("bert"), status=1, **options)
    assert said in capsys.readouterr().err
    assert not out.exists()  # a mistake makes no folder that stands in the way afterwards


def test_labels_are_checked(
    run: Run, make_checkpoint: MakeCheckpoint, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One label alone is nothing to learn; a label that only the test has, or none, is refused with its line."""
    rows = data.read_text(encoding="utf-8").splitlines()
    questions, strange, empty = (tmp_path / f"{name}.jsonl" for name in ("questions", "strange", "empty"))
    questions.write_text("\n".join(rows[:40]) + "\n", encoding="utf-8")
    strange.write_text(rows[0] + "\n" + json.dumps({"text": "Hm", "label": "noise"}) + "\n", encoding="utf-8")
    empty.write_text("\n", encoding="utf-8")
    base = make_checkpoint("bert")
    run(base, status=1, data=questions)
    assert "expected two labels or more in column 'label', got question" in capsys.readouterr().err
    run(base, status=1, test=strange)
    assert "strange.jsonl line 2: label 'noise' is not among those trained on" in capsys.readouterr().err
    run(base, status=1, test=empty)
    assert "holds no rows" in capsys.readouterr().err


def test_frozen_parts_stay(run: Run, make_checkpoint: MakeCheckpoint) -> None:
    """`--freeze` leaves the tensors of its parts alone, and everything that gets a gradient else moves."""
    base = make_checkpoint("bert")
    moved = changed(weights(base), weights(run(base, freeze="embeddings,encoder.layer.0") / "step-0006"))
    assert moved and all(name.startswith("encoder.layer.1.") for name in moved)
    llama = make_checkpoint("llama")
    moved = changed(weights(llama), weights(run(llama, "llama", freeze="embeddings") / "step-0006"))
    assert "embed_tokens.weight" not in moved and "layers.0.self_attn.q_proj.weight" in moved


@pytest.mark.parametrize("family", ["bert", "llama"])
def test_an_adapter_touches_query_and_key_of_its_layers_alone(
    run: Run, make_checkpoint: MakeCheckpoint, family: str
) -> None:
    """With the adapter merged, the weights that differ from the base are the query and key projections of the layer."""
    peft = pytest.importorskip("peft")
    from transformers import AutoModel, AutoTokenizer

    base = make_checkpoint(family)
    adapter = run(base, lora="1") / "step-0006"
    assert not (adapter / "model.safetensors").exists()
    AutoTokenizer.from_pretrained(adapter)
    plain = {name: tensor.numpy() for name, tensor in AutoModel.from_pretrained(base).state_dict().items()}
    merged = peft.PeftModel.from_pretrained(AutoModel.from_pretrained(base), adapter).merge_and_unload()
    moved = changed(plain, {name: tensor.numpy() for name, tensor in merged.state_dict().items()})
    places = {
        "bert": "encoder.layer.1.attention.self.{}.weight",
        "llama": "layers.1.self_attn.{}.weight",
    }
    names = ("query", "key") if family == "bert" else ("q_proj", "k_proj")
    assert moved == {places[family].format(name) for name in names}


def test_one_matrix_for_query_key_and_value_is_refused(
    run: Run, make_checkpoint: MakeCheckpoint, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("peft")
    run(make_checkpoint("gpt2"), lora="0", status=1)
    assert "no query and key projections of their own" in capsys.readouterr().err


def test_a_decoder_learns_the_next_token(run: Run, make_checkpoint: MakeCheckpoint, text: Path) -> None:
    """`--task lm` lowers the loss of the next token, and saves the model with its head."""
    from transformers import AutoModelForCausalLM

    base = make_checkpoint("llama", tie_word_embeddings=True, initializer_range=0.05)
    out = run(base, task="lm", data=text, test=text, steps=20, save_at="0,20", length=32)
    first, last = (measured(out / f"step-{step:04d}") for step in (0, 20))
    assert last["held_out_loss"] < first["held_out_loss"] - 0.5
    _, info = AutoModelForCausalLM.from_pretrained(out / "step-0020", output_loading_info=True)
    assert not info["missing_keys"]


def test_an_adapter_of_a_decoder_loads_on_its_body(run: Run, make_checkpoint: MakeCheckpoint, text: Path) -> None:
    """An adapter trained on the next token fits the model without its head, which is what qkspace loads."""
    peft = pytest.importorskip("peft")
    from transformers import AutoModel

    base = make_checkpoint("llama", tie_word_embeddings=True)
    adapter = run(base, task="lm", data=text, lora="0", length=32) / "step-0006"
    stored = weights(adapter, "adapter_model.safetensors")
    model = peft.PeftModel.from_pretrained(AutoModel.from_pretrained(base), adapter)
    held = {name.replace(".default", ""): tensor for name, tensor in model.state_dict().items() if "lora_" in name}
    assert held.keys() == stored.keys()
    assert all((held[name].numpy() == stored[name]).all() for name in stored)
    assert any((stored[name] != 0).any() for name in stored if "lora_B" in name)  # B is zero before training


def test_a_head_that_was_never_trained_is_refused(
    run: Run, make_checkpoint: MakeCheckpoint, text: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(make_checkpoint("llama"), task="lm", data=text, status=1)
    assert "has no trained head for the next token" in capsys.readouterr().err
