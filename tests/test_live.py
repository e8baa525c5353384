"""Tests of `qkspace.live`: a typed text is what the same text of a corpus is, and what the model itself makes of it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from pathlib import Path
from threading import Event, current_thread
from typing import Any

import numpy as np
import pandas as pd
import pytest
from conftest import Eager, MakeCheckpoint
from numpy.typing import NDArray

from qkspace import live
from qkspace.index import Index
from qkspace.live import LiveModel, LiveSequence, LiveWorker, place
from qkspace.model import load
from qkspace.schema import LayerSpec, QKSpaceError
from qkspace.tables import TOKEN_COLUMNS

NEW = "Seven grey herons walked slowly over the frozen lake, and nobody saw them."
A, B = "The nurse gave her patient a book.", "It was far too long for an evening."
WORDS = ("word", "word_text", "kind")


@pytest.fixture(scope="module")
def encoder(small_index: Index) -> LiveModel:
    return LiveModel.of(small_index, device="cpu")


@pytest.fixture(scope="module")
def decoder(decoder_index: Index) -> LiveModel:
    return LiveModel.of(decoder_index, device="cpu")


@pytest.fixture(scope="module")
def unfold_index(
    tmp_path_factory: pytest.TempPathFactory, make_checkpoint: MakeCheckpoint, sentences: list[str]
) -> Index:
    """An index of a tiny Llama of one layer with a map by unfold, stored in float16. Only to be read."""
    from qkspace.pipeline import build

    folder = tmp_path_factory.mktemp("unfold")
    corpus = folder / "corpus.txt"
    corpus.write_text("\n".join(sentences[:16]) + "\n", encoding="utf-8")
    model = str(make_checkpoint("llama", num_hidden_layers=1))
    return build(model, corpus, out=folder / "index", methods=["unfold"], dims=[2], n_jobs=1)


@pytest.fixture
def worker(decoder_index: Index) -> Iterator[LiveWorker]:
    worker = LiveWorker(decoder_index, device="cpu")
    yield worker
    worker.close()


def own_attention(folder: str | Path, text: str, pair: str | None = None) -> list[NDArray[np.float32]]:
    """Return the attention that transformers itself reports: of each layer (head, query token, key token)."""
    import torch
    from transformers import AutoModel, AutoTokenizer

    model = AutoModel.from_pretrained(folder, attn_implementation="eager", dtype=torch.float32).eval()
    with torch.no_grad():
        batch = AutoTokenizer.from_pretrained(folder)(text, pair, return_tensors="pt")
        found = model(**batch, output_attentions=True).attentions
    return [attention[0].numpy() for attention in found]


def assert_same(one: LiveSequence, other: LiveSequence) -> None:
    """Assert that two runs gave the very same numbers."""
    pd.testing.assert_frame_equal(one.tokens, other.tokens)
    for name in ("query", "key", "value_norm"):
        for a, b in zip(getattr(one, name), getattr(other, name), strict=True):
            np.testing.assert_array_equal(a, b)


def assert_as_in_index(index: Index, model: LiveModel, sequence: int, error: float) -> None:
    """Assert that a text of the corpus gives what the index holds: vectors, attention and places on every map."""
    rows = index.rows(sequence)
    found = model.run(index.sequences.set_index("sequence")["text"][sequence])
    for layer, spec in enumerate(index.layers):
        assert found.layers[layer] == spec
        for number in range(spec.n_heads):
            head = index.head(layer, number)
            for mine, stored in zip(found.vectors(layer, number), (head.query, head.key), strict=True):
                assert mine.dtype == np.float32
                np.testing.assert_allclose(mine, stored[rows], rtol=error, atol=error / 10)
            np.testing.assert_allclose(found.value_norm[layer][head.kv_head], head.value_norm[rows], rtol=error)
            difference = np.abs(found.attention(layer, number) - head.attention(sequence)).max()
            assert difference <= max(1e-5, 5 * index.manifest["check"]["stored_error"])
    layer, number = len(index.layers) - 1, 1
    for method, dims in index.maps:
        view, placed = (
            index.head(layer, number).projection(method, dims),
            place(index, found, layer, number, method, dims),
        )
        for mine, stored in ((placed.query, view.query), (placed.key, view.key)):
            extent = np.ptp(stored, axis=0).max()
            np.testing.assert_allclose(mine, stored[rows], atol=5 * error * extent)


# ---------------------------------------------------------------------------------------------- the same as the index


@pytest.mark.parametrize("sequence", [0, 7, 45])
def test_a_sentence_of_the_corpus_is_what_the_index_holds_of_it(
    small_index: Index, encoder: LiveModel, sequence: int
) -> None:
    assert_as_in_index(small_index, encoder, sequence, error=1e-3)  # float16 keeps 11 bits


@pytest.mark.parametrize("sequence", [0, 11])
def test_so_it_is_with_grouped_keys_and_a_causal_mask(decoder_index: Index, decoder: LiveModel, sequence: int) -> None:
    assert decoder_index.layers[0].n_kv_heads < decoder_index.layers[0].n_heads
    assert_as_in_index(decoder_index, decoder, sequence, error=1e-5)


def test_so_it_is_on_a_map_by_unfold(unfold_index: Index) -> None:
    assert_as_in_index(unfold_index, LiveModel.of(unfold_index, device="cpu"), 3, error=1e-3)


def test_its_tokens_are_those_of_the_index(
    small_index: Index, encoder: LiveModel, decoder_index: Index, decoder: LiveModel
) -> None:
    for index, model in ((small_index, encoder), (decoder_index, decoder)):
        for sequence in (0, len(index.sequences) - 1):  # small_index: words as annotated, and words found by rule
            stored = index.tokens.iloc[index.rows(sequence)].reset_index(drop=True)
            found = model.run(index.sequences["text"][sequence]).tokens
            annotated = index is small_index and sequence == 0
            columns = [name for name in TOKEN_COLUMNS if name != "sequence" and not (annotated and name in WORDS)]
            pd.testing.assert_frame_equal(found[columns], stored[columns])
            assert (found["segment"] == 0).all()
            assert (found["sequence"] == -1).all()


# ---------------------------------------------------------------------------------------------- the same as the model


def test_attention_over_a_new_text_is_the_model_s_own(
    encoder: LiveModel, decoder: LiveModel, minilm: Path, make_checkpoint: MakeCheckpoint
) -> None:
    for model, folder in ((encoder, minilm), (decoder, make_checkpoint("llama"))):
        found = model.run(NEW)
        for layer, attention in enumerate(own_attention(folder, NEW)):
            for head, own in enumerate(attention):
                np.testing.assert_allclose(found.attention(layer, head), own, atol=1e-5)


def test_a_pair_is_read_as_the_tokenizer_encodes_pairs(encoder: LiveModel, minilm: Path) -> None:
    found = encoder.run(A, B)
    tokens = found.tokens
    assert found.pair == B
    assert not found.joined
    assert found.sentence_b_start is not None
    assert tokens["token"][found.sentence_b_start - 1] == "[SEP]"
    assert tokens["text"][found.sentence_b_start] == "It"
    assert tokens["segment"].tolist() == [0] * found.sentence_b_start + [1] * (len(tokens) - found.sentence_b_start)
    for layer, attention in enumerate(own_attention(minilm, A, B)):  # which knows the token types
        for head, own in enumerate(attention):
            np.testing.assert_allclose(found.attention(layer, head), own, atol=1e-5)


def test_a_decoder_reads_the_pair_on_a_line_of_its_own(decoder: LiveModel) -> None:
    found, plain = decoder.run(A, B), decoder.run(f"{A}\n{B}")
    assert found.joined
    assert not plain.joined
    assert plain.sentence_b_start is None
    assert_same(
        found, LiveSequence(**{name: getattr(plain, name) for name in plain.__slots__} | {"tokens": found.tokens})
    )
    start = found.sentence_b_start
    assert start is not None
    assert found.tokens["start"][start] == len(A) + 1
    assert (found.tokens["start"][:start] <= len(A)).all()


def test_characters_and_words_are_those_of_the_whole_text(encoder: LiveModel, decoder: LiveModel) -> None:
    for model in (encoder, decoder):
        found = model.run(A, B)
        content = found.tokens[(found.tokens["end"] > found.tokens["start"]) & (found.tokens["token"] != "Ċ")]
        assert [found.full_text[a:b] for a, b in zip(content["start"], content["end"], strict=True)] == content[
            "text"
        ].tolist()
        words = content.drop_duplicates("word")
        assert words["word"].tolist() == list(range(len(words)))  # counted through
        assert words["word_text"].tolist() == (A + " " + B).replace(".", " .").split()


def test_a_window_that_no_sequence_of_the_corpus_was_long_enough_to_show(
    make_checkpoint: MakeCheckpoint, eager: Eager
) -> None:
    folder = make_checkpoint("mistral")
    layer = LayerSpec("layer", n_heads=4, n_kv_heads=2, d_head=8, scale=8**-0.5, causal=True, window=None)
    found = LiveModel(load(str(folder), device="cpu"), (layer, layer)).run(NEW)
    assert [spec.window for spec in found.layers] == [6, 6]
    own = eager(folder, found.tokens["token_id"].tolist())
    np.testing.assert_allclose(found.attention(1, 3), own[1][3], atol=1e-5)


# ---------------------------------------------------------------------------------------------- what a text may be


def test_a_text_beyond_the_context_is_cut_and_it_is_said(encoder: LiveModel, decoder: LiveModel) -> None:
    short, long = decoder.run(NEW), decoder.run(" ".join([NEW] * 20))
    n = len(short.tokens)
    assert short.n_dropped == 0
    assert len(long.tokens) == decoder.max_tokens == 256  # the context of that model
    assert long.n_dropped > 0
    np.testing.assert_allclose(
        long.query[1][:, : n - 1], short.query[1][:, : n - 1], atol=1e-5
    )  # the beginning is kept
    pair = encoder.run(" ".join([A] * 100), B)
    assert pair.sentence_b_start is not None  # the longer of two gives way
    assert len(pair.tokens) == encoder.max_tokens
    assert pair.tokens["text"].tolist()[-2:] == [".", "[SEP]"]


def test_what_is_cut_is_counted(encoder: LiveModel) -> None:
    n = len(encoder.run(A).tokens) - 2
    assert encoder.run(" ".join([A] * 100)).n_dropped == 100 * n + 2 - encoder.max_tokens


def test_a_single_token_is_a_text(make_checkpoint: MakeCheckpoint, nano_sort: Path) -> None:
    layer = LayerSpec("h", n_heads=3, n_kv_heads=3, d_head=16, scale=0.25, causal=True)
    found = LiveModel(load(str(nano_sort), device="cpu"), (layer,) * 3).run("A")
    assert found.layers == (layer,) * 3
    assert found.attention(2, 2).tolist() == [[1.0]]


@pytest.mark.parametrize("text", ["", "  \n\t", "[CLS]"])
def test_a_text_without_a_token_is_refused(encoder: LiveModel, text: str) -> None:
    with pytest.raises(QKSpaceError, match="Type a word or a sentence"):
        encoder.run(text)


def test_a_blank_pair_is_none(encoder: LiveModel) -> None:
    found = encoder.run(A, " \n")
    assert found.pair is None
    assert_same(found, encoder.run(A))


def test_a_text_far_too_long_is_refused(encoder: LiveModel) -> None:
    with pytest.raises(QKSpaceError, match=r"100,002 characters; expected at most 100,000"):
        encoder.run("a" * 50_001, "b" * 50_001)


def test_what_the_vocabulary_lacks_is_explained(nano_sort: Path) -> None:
    layer = LayerSpec("h", n_heads=3, n_kv_heads=3, d_head=16, scale=0.25, causal=True)
    model = LiveModel(load(str(nano_sort), device="cpu"), (layer,) * 3)
    with pytest.raises(QKSpaceError, match=r"cannot tokenise this text .*'hello'"):
        model.run("hello")
    assert len(model.run("ABCA").tokens) == 4  # and nothing is broken by it


def test_half_a_character_is_explained(encoder: LiveModel) -> None:
    with pytest.raises(QKSpaceError, match="cannot tokenise this text"):
        encoder.run("half of a pair: \ud83d")


# ---------------------------------------------------------------------------------------------- finding the model


def with_manifest(index: Index, source: str, **made_from: Any) -> Index:
    """Return the index as if it had been made from elsewhere."""
    moved = Index(index.root)
    moved.manifest["made_from"] |= {"model": {"source": source, "content": None}, **made_from}
    return moved


def test_a_folder_that_is_gone_is_named(decoder_index: Index, tmp_path: Path) -> None:
    gone = with_manifest(decoder_index, str(tmp_path / "gone"))
    with pytest.raises(QKSpaceError) as caught:
        LiveModel.of(gone)
    said = str(caught.value)
    assert decoder_index.model_name in said
    assert f"looked for in {tmp_path / 'gone'}: there is no such folder" in said
    assert "--model FOLDER" in said
    with pytest.raises(QKSpaceError, match=r"elsewhere \(at the build it was in .*gone\): there is no such folder"):
        LiveModel.of(gone, tmp_path / "elsewhere")


def test_a_folder_that_was_moved_is_taken(
    decoder_index: Index, decoder: LiveModel, tmp_path: Path, make_checkpoint: MakeCheckpoint
) -> None:
    moved = LiveModel.of(with_manifest(decoder_index, str(tmp_path / "gone")), make_checkpoint("llama"), device="cpu")
    assert_same(moved.run(NEW), decoder.run(NEW))


def test_a_folder_without_a_model_is_named(decoder_index: Index, tmp_path: Path) -> None:
    with pytest.raises(QKSpaceError, match=f"looked for in {tmp_path}.*could not be loaded.*Repair it"):
        LiveModel.of(with_manifest(decoder_index, str(tmp_path)))


def test_a_name_on_the_hub_needs_the_network(decoder_index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    index = with_manifest(decoder_index, "nobody/never-published", revision="v2")
    with pytest.raises(QKSpaceError) as caught:
        LiveModel.of(index)
    said = str(caught.value)
    assert "looked for in nobody/never-published on the Hugging Face hub, revision v2" in said
    assert "With a network it is downloaded once; without one, start with --model FOLDER" in said


def test_another_checkpoint_is_refused(decoder_index: Index, make_checkpoint: MakeCheckpoint, minilm: Path) -> None:
    with pytest.raises(QKSpaceError, match=r"not the checkpoint .* \(weights_digest was \w{12}, is \w{12}\)"):
        LiveModel.of(decoder_index, make_checkpoint("llama", seed=1))
    with pytest.raises(QKSpaceError, match="class was LlamaModel, is BertModel"):
        LiveModel.of(decoder_index, minilm)


def test_another_version_of_transformers_is_mentioned(decoder_index: Index, make_checkpoint: MakeCheckpoint) -> None:
    old = Index(decoder_index.root)
    old.manifest["versions"]["transformers"] = "5.0.1"
    with pytest.raises(QKSpaceError, match=r"made with transformers 5\.0\.1, and here is"):
        LiveModel.of(old, make_checkpoint("llama", seed=1))


def test_code_of_a_checkpoint_runs_only_when_asked_for(decoder_index: Index, make_checkpoint: MakeCheckpoint) -> None:
    index = with_manifest(decoder_index, str(make_checkpoint("llama")), trust_remote_code=True)
    with pytest.raises(QKSpaceError, match="set trust_remote_code"):
        LiveModel.of(index)
    assert LiveModel.of(index, trust_remote_code=True, device="cpu").max_tokens == 256


# ---------------------------------------------------------------------------------------------- threads


def test_threads_do_not_disturb_each_other(decoder: LiveModel, sentences: list[str]) -> None:
    texts = sentences[:12] * 2
    alone = [decoder.run(text) for text in texts]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(decoder.run, texts))
    for one, other in zip(alone, together, strict=True):
        assert_same(one, other)


def test_vectors_are_only_to_be_read(decoder: LiveModel) -> None:
    with pytest.raises(ValueError, match="read-only"):
        decoder.run(A).query[0][0] = 0


def test_the_worker_gives_what_the_model_gives_and_shares_it(worker: LiveWorker, decoder: LiveModel) -> None:
    assert not worker.is_loaded
    first, pair, second = worker.submit(A), worker.submit(A, B), worker.submit(A, "  ")
    assert_same(first.result(60), decoder.run(A))
    assert_same(pair.result(60), decoder.run(A, B))
    assert second.result(60) is first.result()
    assert worker.is_loaded


def test_errors_are_the_future_s(worker: LiveWorker, decoder_index: Index, tmp_path: Path) -> None:
    with pytest.raises(QKSpaceError, match="Type a word"):
        worker.submit(" ").result(60)
    assert not worker.is_loaded  # nothing is loaded to find that out
    folder = tmp_path / "gone"
    broken = LiveWorker(with_manifest(decoder_index, str(folder)))
    with pytest.raises(QKSpaceError, match="no such folder"):
        broken.submit(A).result(60)
    folder.symlink_to(decoder_index.manifest["made_from"]["model"]["source"])
    assert broken.submit(A).result(60).text == A  # it was put back
    broken.close()


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Event, Event]]:
    """Let the text "Wait." set the first event when it begins to run, and run on when the second is set."""
    begun, go_on = Event(), Event()
    run = LiveModel.run

    def waiting(self: LiveModel, text: str, pair: str | None = None) -> LiveSequence:
        if text == "Wait.":
            begun.set()
            assert go_on.wait(60)
        return run(self, text, pair)

    monkeypatch.setattr(LiveModel, "run", waiting)
    yield begun, go_on
    go_on.set()


def test_only_the_newest_request_of_a_visitor_is_answered(worker: LiveWorker, gate: tuple[Event, Event]) -> None:
    begun, go_on = gate
    worker.submit("Wait.")
    assert begun.wait(60)
    answered: list[str] = []

    def note(future: Future[LiveSequence]) -> None:
        answered.append(future.result().text)

    older = worker.submit("One.", callback=note, visitor="anna")
    other = worker.submit("Two.", callback=note, visitor="berta")
    newer = worker.submit("Three.", callback=note, visitor="anna")
    nobody = worker.submit("Four.", callback=note)
    go_on.set()
    assert nobody.result(60).text == "Four."
    with pytest.raises(CancelledError):
        older.result(60)
    assert (other.result(60).text, newer.result(60).text) == ("Two.", "Three.")
    worker.submit("Five.").result(60)  # by then all callbacks were called
    assert sorted(answered) == ["Four.", "Three.", "Two."]


def test_a_request_that_was_running_is_not_told_after_a_newer_one(
    worker: LiveWorker, gate: tuple[Event, Event]
) -> None:
    begun, go_on = gate
    answered: list[str] = []

    def note(future: Future[LiveSequence]) -> None:
        answered.append(future.result().text)

    running = worker.submit("Wait.", callback=note, visitor="anna")
    assert begun.wait(60)
    newer = worker.submit("Two.", callback=note, visitor="anna")
    go_on.set()
    assert (running.result(60).text, newer.result(60).text) == ("Wait.", "Two.")  # what has begun is finished
    worker.submit("Three.").result(60)  # by then all callbacks were called
    assert answered == ["Two."]


def test_all_is_run_in_one_thread_but_the_caller_s(worker: LiveWorker, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: set[str] = set()
    run = LiveModel.run

    def noting(self: LiveModel, text: str, pair: str | None = None) -> LiveSequence:
        seen.add(current_thread().name)
        return run(self, text, pair)

    monkeypatch.setattr(LiveModel, "run", noting)
    for future in [worker.submit(f"{A} {number}") for number in range(4)]:
        future.result(60)
    assert len(seen) == 1
    assert current_thread().name not in seen


def test_what_is_kept_is_bounded(worker: LiveWorker, monkeypatch: pytest.MonkeyPatch) -> None:
    first = worker.submit(A).result(60)
    monkeypatch.setattr(live, "CACHE_BYTES", int(2.5 * first.n_bytes))
    second = worker.submit(A.replace("her", "his")).result(60)
    assert worker.submit(A).result(60) is first  # used last, so the other one goes
    worker.submit(A.replace("book", "ball")).result(60)
    assert worker.submit(A).result(60) is first
    assert worker.submit(second.text).result(60) is not second


def test_closing_cancels_what_is_queued(worker: LiveWorker, gate: tuple[Event, Event]) -> None:
    begun, go_on = gate
    worker.submit("Wait.")
    assert begun.wait(60)
    queued = worker.submit(A)
    worker.close()
    go_on.set()
    with pytest.raises(CancelledError):
        queued.result(60)


def test_importing_it_imports_no_engine() -> None:
    code = "import sys, qkspace.live; print({'torch', 'transformers', 'bokeh', 'sklearn', 'umap'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"
