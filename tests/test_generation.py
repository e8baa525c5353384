"""Tests of `qkspace.generation`: what is captured of a continuation is what the model computed while it wrote it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import MakeCheckpoint
from killing import KILLED, Driver, assert_same_files
from numpy.typing import NDArray
from test_pairs import encoder_decoder  # noqa: F401 (a fixture)

from qkspace import store
from qkspace.capture import AttentionCall, listening
from qkspace.console import Console
from qkspace.generation import characters_of, with_head
from qkspace.index import Index
from qkspace.model import load
from qkspace.pipeline import build
from qkspace.schema import QKSpaceError

PROMPTS = (
    "Once upon a time, there was a little girl",
    "The big dog",
    "Tom and Lily went to the park to play with",
    "One day, a bird",
)
N = 24
TOLERANCE = 1e-4
OPTIONS: dict[str, Any] = {"methods": ("pca",), "dims": (2,), "storage": "float32", "top_k": 4, "n_jobs": 1}


@pytest.fixture(scope="module")
def prompts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four beginnings of stories, of unlike length, so that they are padded together."""
    path = tmp_path_factory.mktemp("prompts") / "prompts.jsonl"
    rows = [{"text": text, "origin": f"o{i}"} for i, text in enumerate(PROMPTS)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory, stories: Path, prompts: Path) -> Index:
    """An index of stories260K over four prompts and what it wrote after each."""
    return build(str(stories), prompts, out=tmp_path_factory.mktemp("told") / "index", generate=N, **OPTIONS)


def own_continuation(folder: Path, text: str, n: int, **options: Any) -> tuple[list[int], str]:
    """Return the ids of a prompt with what transformers' own model writes after it, unpadded, and the text of both."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    ids = torch.tensor([tokenizer(text).input_ids])
    out = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=n, do_sample=False, **options)[0]
    return out.tolist(), tokenizer.decode(out, skip_special_tokens=True)


def step_by_step(model: Any, base: Any, ids: Any) -> tuple[dict[str, list[NDArray[np.float32]]], dict[str, Any]]:
    """Let a model write N tokens; return by module the queries of each step, and the keys in the cache at the last."""
    import torch

    queries: dict[str, list[NDArray[np.float32]]] = {}
    keys: dict[str, NDArray[np.float32]] = {}

    def see(call: AttentionCall) -> None:
        queries.setdefault(call.module, []).append(call.query[0].numpy().copy())
        keys[call.module] = call.key[0].numpy().copy()

    with listening(base, see), torch.inference_mode():
        model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=N, do_sample=False)
    return queries, keys


# ---------------------------------------------------------------------------------------------- what is captured


def test_one_pass_captures_what_was_computed_step_by_step(told: Index, stories: Path) -> None:
    """The model writes again, with its cache, and its queries and keys are taken at every step: real weights."""
    import torch

    checkpoint = load(str(stories), dtype="float32", device="cpu")
    model = with_head(checkpoint)
    for number, text in enumerate(PROMPTS):
        ids = torch.tensor([checkpoint.tokenizer(text).input_ids])
        queries, keys = step_by_step(model, checkpoint.model, ids)
        rows = told.rows(number)
        for layer, spec in enumerate(told.layers):
            steps = queries[spec.module]
            assert [step.shape[1] for step in steps] == [ids.shape[1], *(1,) * (N - 1)]  # one token at a time
            query, key = np.concatenate(steps, axis=1), keys[spec.module]
            for head in range(spec.n_heads):
                one = told.head(layer, head)
                n = query.shape[1]  # the last token was written and never read
                assert np.abs(one.query[rows][:n] - query[head]).max() < TOLERANCE
                assert np.abs(one.key[rows][:n] - key[one.kv_head]).max() < TOLERANCE
                assert rows.stop - rows.start == n + 1


def test_the_text_is_the_models_own_continuation(told: Index, stories: Path) -> None:
    """It wrote padded beside others; transformers wrote the same alone."""
    for number, prompt in enumerate(PROMPTS):
        ids, text = own_continuation(stories, prompt, N)
        assert told.tokens["token_id"].to_numpy()[told.rows(number)].tolist() == ids
        assert told.sequences["text"][number] == text
        assert text.startswith(prompt)


def test_prompt_and_continuation_are_told_apart(told: Index, stories: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(stories)
    expected = [len(tokenizer(text).input_ids) for text in PROMPTS]
    assert told.sequences["n_prompt"].tolist() == expected
    origin = told.tokens["origin"].to_numpy()
    for number, n in enumerate(expected):
        assert origin[told.rows(number)].tolist() == ["prompt"] * n + ["continuation"] * N
    assert told.manifest["corpus"]["renamed"] == {"origin": "corpus_origin"}
    assert told.manifest["corpus"]["n_written"] == N * len(PROMPTS)
    assert told.manifest["generation"]["max_new_tokens"] == N


def test_tokens_of_a_continuation_stand_in_the_text_where_the_table_says(told: Index) -> None:
    texts = told.sequences["text"].tolist()
    content = told.tokens[~told.tokens["is_special"] & (told.tokens["kind"] != "other")]
    for row in content.itertuples():
        assert texts[row.sequence][row.start : row.end] == row.text == row.token.lstrip("▁")
        assert row.text in row.word_text
    ends = told.tokens[told.tokens["end"] >= 0].groupby("sequence")["end"].max()
    assert ends.tolist() == [len(text.rstrip()) for text in texts]


def test_a_model_that_sorts_goes_on_sorting(tmp_path: Path, nano_sort: Path) -> None:
    """Its configuration names the letter A as the end of a text, which it is not; and its context takes 11 letters."""
    letters = ["CCBAAB", "ABCABC", "BACBAC", "AAABBC"]
    (tmp_path / "letters.txt").write_text("\n".join(letters) + "\n", encoding="utf-8")
    said: list[str] = []
    index = build(
        str(nano_sort), tmp_path / "letters.txt", out=tmp_path / "index", generate=5, console=_Heard(said), **OPTIONS
    )
    for number, prompt in enumerate(letters):
        written = "".join(index.tokens["token"].to_numpy()[index.rows(number)])
        assert written == prompt + "".join(sorted(prompt))[:5]
    assert any("'A'" in line for line in said)
    with pytest.raises(QKSpaceError, match=r"--generate 11 leaves no room.*at most 11 tokens"):
        build(str(nano_sort), tmp_path / "letters.txt", out=tmp_path / "other", generate=11, **OPTIONS)


class _Heard(Console):
    """A console that keeps what it is told."""

    def __init__(self, said: list[str]) -> None:
        super().__init__(0)
        self.said = said

    def say(self, message: str) -> None:
        self.said.append(message)


def test_it_stops_at_the_end_of_a_text_and_leaves_that_token_out(
    tmp_path: Path, stories: Path, prompts: Path, told: Index
) -> None:
    """A token that the model writes is made the one that ends texts: one sequence ends there, and others go on."""
    folder = tmp_path / "ending"
    shutil.copytree(stories, folder)
    shown = told.tokens[told.tokens["origin"] == "continuation"]
    full_stop = int(shown.loc[shown["token"] == ".", "token_id"].iloc[0])
    for name in ("generation_config.json", "config.json"):
        config = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps({**config, "eos_token_id": full_stop}))
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    added = {"id": full_stop, "content": ".", "special": True, "normalized": False}
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip"), False)
    tokenizer["added_tokens"].append({**added, **flags})
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    index = build(str(folder), prompts, out=tmp_path / "index", generate=N, **OPTIONS)
    n_written = (index.tokens["origin"] == "continuation").groupby(index.tokens["sequence"]).sum()
    for number in range(len(PROMPTS)):
        own = told.tokens["token_id"].to_numpy()[told.rows(number)].tolist()
        first = told.sequences["n_prompt"][number]
        stop = own.index(full_stop, first) if full_stop in own[first:] else len(own)
        assert index.tokens["token_id"].to_numpy()[index.rows(number)].tolist() == own[:stop]
    assert n_written.min() < N


def test_long_prompts_are_cut_to_leave_room(tmp_path: Path, stories: Path, prompts: Path) -> None:
    index = build(str(stories), prompts, out=tmp_path / "index", generate=6, max_length=14, **OPTIONS)
    assert index.sequences["n_tokens"].max() == 14
    assert index.sequences["n_prompt"].tolist() == [8, 5, 8, 8]
    assert index.manifest["corpus"]["n_cut"] == 2
    texts = index.sequences["text"].tolist()
    for row in index.tokens[index.tokens["end"] > 0].itertuples():
        assert texts[row.sequence][row.start : row.end] == row.text or row.kind == "other"


# ---------------------------------------------------------------------------------------------- characters


@pytest.mark.parametrize("text", ["Zoë naïvely 漢字 🙂 end", " two  spaces", "a\nb", "x"])
def test_characters_of_bytes_are_those_of_the_tokenizer(make_checkpoint: MakeCheckpoint, text: str) -> None:
    """A byte-level tokenizer cuts characters into bytes: each of them stands where the tokenizer itself says it does."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(make_checkpoint("gpt2"))
    prompt = "It said: "
    encoded = tokenizer(prompt + text, return_offsets_mapping=True)
    spans = np.array(encoded["offset_mapping"])
    first = int(np.flatnonzero(spans[:, 0] >= len(prompt) - 1)[1])
    ids = np.array(encoded["input_ids"])
    shown, start, end = characters_of(tokenizer, ids[:first], ids[first:])
    base = spans[first, 0]
    assert shown == (prompt + text)[base:]
    assert np.array_equal(np.stack([start, end], axis=1) + base, spans[first:])


# ---------------------------------------------------------------------------------------------- the model


def test_the_head_is_laid_on_the_weights_that_are_loaded(stories: Path) -> None:
    checkpoint = load(str(stories), device="cpu")
    model = with_head(checkpoint)
    assert model.base_model is checkpoint.model
    if model.config.tie_word_embeddings:
        own = checkpoint.model.get_input_embeddings().weight
        assert model.get_output_embeddings().weight.data_ptr() == own.data_ptr()


def test_a_checkpoint_without_a_head_is_refused(tmp_path: Path, make_checkpoint: MakeCheckpoint, prompts: Path) -> None:
    """The tiny families are saved without one."""
    with pytest.raises(QKSpaceError, match=r"no head that predicts tokens.*lm_head.*random numbers"):
        build(
            str(make_checkpoint("llama", tie_word_embeddings=False)),
            prompts,
            out=tmp_path / "index",
            generate=3,
            **OPTIONS,
        )
    assert not (tmp_path / "index" / "manifest.json").exists()


def test_an_encoder_is_refused(tmp_path: Path, minilm: Path, prompts: Path) -> None:
    with pytest.raises(QKSpaceError, match=r"--generate"):
        build(str(minilm), prompts, out=tmp_path / "index", generate=3, **OPTIONS)


# ---------------------------------------------------------------------------------------------- again


def command(model: Path, corpus: Path, out: Path) -> list[str]:
    """Return the command that builds what `build` does with OPTIONS."""
    given = ["build", "--model", str(model), "--corpus", str(corpus), "--out", str(out), "--generate", str(N)]
    return [*given, "--methods", "pca", "--dims", "2", "--storage", "float32", "--top-k", "4", "--n-jobs", "1"]


def test_a_build_that_was_killed_keeps_what_was_written(
    tmp_path: Path, stories: Path, prompts: Path, told: Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is killed after the model wrote and before the corpus is read; what follows asks the model for nothing."""
    out, driver = tmp_path / "index", Driver(tmp_path)
    written = out / store.WORK / "written"
    for n in range(1, 12):
        assert driver.run(command(stories, prompts, out), flush=n) == KILLED, driver.log.read_text()
        if any(written.glob("*.npz")):
            break
    assert any(written.glob("*.npz")) and not (out / store.WORK / "read.json").exists()

    def fail(*_: Any) -> None:
        raise AssertionError("the model was asked to write again")

    monkeypatch.setattr("qkspace.generation.Writer._write", fail)
    index = build(str(stories), str(prompts), out=out, generate=N, **OPTIONS)
    assert_same_files(index.root, told.root)


def test_what_was_written_for_another_corpus_is_not_taken(
    tmp_path: Path, stories: Path, prompts: Path, told: Index
) -> None:
    """Of two builds into one folder, the first left off while it read, each has its own continuations."""
    out, other, driver = tmp_path / "index", tmp_path / "other.txt", Driver(tmp_path)
    other.write_text("A cat\n", encoding="utf-8")
    assert driver.run(command(stories, other, out), flush=5) == KILLED, driver.log.read_text()
    assert any((out / store.WORK / "written").glob("*.npz"))
    index = build(str(stories), prompts, out=out, generate=N, overwrite=True, **OPTIONS)
    assert index.sequences["text"].tolist() == told.sequences["text"].tolist()


# ---------------------------------------------------------------------------------------------- pairs


Checkpoints = Callable[[str], Path]


@pytest.mark.parametrize("family", ["t5", "bart"])
@pytest.mark.parametrize("part", ["decoder", "cross"])
def test_the_decoder_of_a_pair_reads_what_the_model_writes(
    tmp_path: Path,
    encoder_decoder: Checkpoints,  # noqa: F811
    sentences: list[str],
    family: str,
    part: str,
) -> None:
    import torch
    from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

    folder = encoder_decoder(family)
    (tmp_path / "plain.txt").write_text("\n".join(sentences[:8]) + "\n", encoding="utf-8")
    index = build(str(folder), tmp_path / "plain.txt", out=tmp_path / "index", attention=part, generate=9, **OPTIONS)
    model, tokenizer = AutoModelForSeq2SeqLM.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    texts = index.sequences["text" if part == "cross" else "source_text"].tolist()
    for number, text in enumerate(texts):
        source = text.split("\n")[0]
        assert source == sentences[number]
        ids = torch.tensor([tokenizer(source).input_ids])
        own = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=9, do_sample=False)[0].tolist()
        end = own.index(3, 1) if 3 in own[1:] else len(own)
        expected = (ids[0].tolist() if part == "cross" else []) + own[:end]
        assert index.tokens["token_id"].to_numpy()[index.rows(number)].tolist() == expected
    assert "up to 9 tokens" in index.manifest["pair"]["target"]
