"""Tests of `qkspace.trial` and `qkspace models`: real checkpoints pass, what cannot be captured is refused with the reason."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import SHARED, MakeCheckpoint
from transformers import AutoConfig, AutoModel

from qkspace import capture
from qkspace.cli import main
from qkspace.model import load
from qkspace.plan import Parameters
from qkspace.trial import Trial, in_words, load_to_try, try_parts

T5 = {"d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4, "decoder_start_token_id": 0}
MAMBA = {"hidden_size": 16, "num_hidden_layers": 1, "state_size": 4}


@pytest.fixture(scope="module")
def deit() -> Path:
    folder = SHARED / "models" / "deit-tiny"
    if not folder.is_dir():
        pytest.skip(f"{folder} is not there")
    return folder


def tried(folder: Path, part: str | None = None) -> dict[str, Trial]:
    trials = try_parts(load(str(folder), device="cpu"), Parameters(attention=part))
    return {trial.part: trial for trial in trials}


@pytest.mark.parametrize(
    ("model", "layers", "heads", "causal"), [("minilm", 6, 12, False), ("stories", 5, 8, True), ("deit", 12, 3, False)]
)
def test_a_real_checkpoint_is_captured_as_it_is(
    model: str, layers: int, heads: int, causal: bool, request: pytest.FixtureRequest
) -> None:
    found = tried(request.getfixturevalue(model))
    assert list(found) == ["self"]
    check = found["self"].check
    assert check is not None and check.against == "output_attentions" and check.route == "interface"
    assert max(check.captured_error, check.recomputed_error) <= check.tolerance == 1e-4
    assert [layer.n_heads for layer in check.layers] == [heads] * layers
    assert {layer.causal for layer in check.layers} == {causal}
    assert all(layer.is_product for layer in check.layers)


def test_two_pictures_are_tried_as_the_model_cuts_them(deit: Path) -> None:
    check = tried(deit)["self"].check
    assert check is not None and (check.n_sequences, check.n_tokens) == (2, 2 * (1 + 14 * 14))


def test_the_sentences_are_of_unlike_length_so_that_padding_is_seen(minilm: Path) -> None:
    check = tried(minilm)["self"].check
    assert check is not None and check.n_sequences == 2
    lengths = [len(ids) for ids in _ids(minilm)]
    assert lengths[0] != lengths[1] and sum(lengths) == check.n_tokens


def _ids(folder: Path) -> Any:
    from qkspace.trial import SENTENCES

    return load(str(folder), device="cpu").tokenizer(list(SENTENCES))["input_ids"]


def test_each_part_of_an_encoder_decoder_is_tried(make_checkpoint: MakeCheckpoint) -> None:
    folder = make_checkpoint("t5", **T5)
    found = tried(folder)
    assert list(found) == ["encoder", "decoder", "cross"]
    checks = {part: trial.check for part, trial in found.items() if trial.check is not None}
    assert set(checks) == set(found), [trial.reason for trial in found.values()]
    assert {part: {layer.position for layer in check.layers} for part, check in checks.items()} == {
        "encoder": {"offset"},
        "decoder": {"offset"},
        "cross": {None},
    }
    assert [layer.crosses for layer in checks["cross"].layers] == [True, True]
    alone = tried(folder, "cross")
    assert list(alone) == ["cross"] and alone["cross"].check == checks["cross"]


def test_a_model_without_attention_is_refused_by_name(make_checkpoint: MakeCheckpoint) -> None:
    trial = tried(make_checkpoint("mamba", **MAMBA))["self"]
    assert trial.check is None
    assert "MambaModel has no attention" in trial.reason and trial.reason in in_words(trial)


def test_a_part_that_a_model_does_not_have_is_refused(stories: Path) -> None:
    trial = tried(stories, "vision")["vision"]
    assert trial.check is None and "has no tower for vision" in trial.reason


def test_what_reads_no_text_is_tried_without_a_tokenizer(tmp_path: Path, deit: Path) -> None:
    """A tiny CLIP of two towers in a folder without a tokenizer: pictures are tried, and texts are refused by the reason."""
    size = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    text = {**size, "vocab_size": 60, "bos_token_id": 1, "eos_token_id": 2}
    vision = {**size, "image_size": 224, "patch_size": 32}
    config = AutoConfig.for_model("clip", text_config=text, vision_config=vision, projection_dim=16)
    AutoModel.from_config(config).save_pretrained(tmp_path)
    shutil.copy(deit / "preprocessor_config.json", tmp_path)
    found = {trial.part: trial for trial in try_parts(load_to_try(str(tmp_path), device="cpu"))}
    assert set(found) == {"text", "vision"}
    assert found["text"].check is None and "holds no tokenizer" in found["text"].reason
    check = found["vision"].check
    assert check is not None and check.n_tokens == 2 * (1 + 7 * 7) and check.runner == "vision_model"


def test_attention_that_is_not_the_softmax_of_what_is_captured_is_refused(
    minilm: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Keys that are those of another head, as a wrong capture would take them."""
    own = capture._Ear.tell
    monkeypatch.setattr(
        capture._Ear, "tell", lambda ear, module, **call: own(ear, module, **{**call, "key": call["key"].flip(1)})
    )
    trial = tried(minilm)["self"]
    assert trial.check is None and "refused" in trial.reason


def test_a_forward_pass_that_fails_is_a_reason_and_no_crash(minilm: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = load(str(minilm), device="cpu")

    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("expected pixel_values, got input_ids")

    monkeypatch.setattr(checkpoint.model, "forward", fail)
    (trial,) = try_parts(checkpoint)
    assert trial.check is None and "expected pixel_values" in trial.reason


def test_the_model_is_left_as_it_was_found(stories: Path) -> None:
    checkpoint = load(str(stories), device="cpu")
    ids = torch.tensor([[1, 5, 9, 200]])
    with torch.no_grad():
        before = checkpoint.model(input_ids=ids).last_hidden_state
        try_parts(checkpoint)
        after = checkpoint.model(input_ids=ids).last_hidden_state
    assert torch.equal(before, after)


# ---------------------------------------------------------------------------------------------- the command


def test_the_command_says_what_was_found_of_each_part(
    make_checkpoint: MakeCheckpoint, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["models", "--check", str(make_checkpoint("t5", **T5))]) == 0
    first, *parts = capsys.readouterr().out.splitlines()
    assert first.startswith("T5Model")
    assert [line.partition(":")[0] for line in parts] == ["encoder", "decoder", "cross"]
    assert all("2 layers x 4 heads x 8" in line for line in parts)
    assert ["position part: offset" in line for line in parts] == [True, True, False]
    assert "causal" in parts[1] and "of target tokens to source tokens" in parts[2]


def test_the_command_exits_with_1_where_nothing_can_be_captured(
    make_checkpoint: MakeCheckpoint, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["models", "--check", str(make_checkpoint("mamba", **MAMBA))]) == 1
    assert "MambaModel has no attention" in capsys.readouterr().out
    assert main(["models", "--check", "./no-such-folder"]) == 1
    assert main(["models", "bert", "--check", "./no-such-folder"]) == 1
    assert "not both" in " ".join(capsys.readouterr().err.split())


def test_the_table_of_families_is_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "deberta-v2"]) == 0
    out = capsys.readouterr().out
    assert "deberta-v2" in out and "llama" not in out
    assert main(["models", "no_such_model"]) == 1
    assert "no_such_model" in capsys.readouterr().err


def test_a_text_that_a_vocabulary_lacks_is_named_without_the_folder_it_lay_in(nano_sort: Path) -> None:
    trial = tried(nano_sort)["self"]
    assert trial.check is None and trial.reason.startswith("sentences.txt line 1")
