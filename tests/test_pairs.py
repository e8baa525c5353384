"""Tests of `qkspace.pairs`: indexes of encoder-decoders hold the model's own attention, of each of its three parts."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import _byte_pairs
from killing import KILLED, Driver, assert_same_files
from numpy.typing import NDArray

from qkspace.index import Index
from qkspace.pipeline import build
from qkspace.schema import QKSpaceError

PARTS = ("encoder", "decoder", "cross")
TOLERANCE = 1e-4
_T5 = {
    "d_model": 32,
    "d_kv": 8,
    "d_ff": 48,
    "num_layers": 2,
    "num_heads": 4,
    "relative_attention_num_buckets": 8,
    "relative_attention_max_distance": 16,
    "initializer_factor": 1.5,
    "decoder_start_token_id": 0,
    "pad_token_id": 0,
    "eos_token_id": 3,
}
_BART = {
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 48,
    "max_position_embeddings": 128,
    "init_std": 0.25,
    "bos_token_id": 2,
    "eos_token_id": 3,
    "pad_token_id": 0,
    "decoder_start_token_id": 3,
}
FAMILIES: dict[str, dict[str, Any]] = {"t5": _T5, "bart": _BART}
Build = Callable[..., Index]


@pytest.fixture(scope="session")
def encoder_decoder(tmp_path_factory: pytest.TempPathFactory, sentences: list[str]) -> Callable[[str], Path]:
    """Save a tiny random encoder-decoder with its head; T5 ends a text by </s>, BART has <s> before it too."""
    import torch
    from tokenizers import processors
    from transformers import AutoConfig, AutoModelForSeq2SeqLM

    @cache
    def make(family: str) -> Path:
        folder = tmp_path_factory.mktemp(family)
        tokenizer = _byte_pairs(sentences)
        template = "$A </s>" if family == "t5" else "<s> $A </s>"
        special = [("<s>", 2), ("</s>", 3)]
        processor = processors.TemplateProcessing(single=template, special_tokens=special)
        tokenizer.backend_tokenizer.post_processor = processor
        torch.manual_seed(0)
        config = AutoConfig.for_model(family, vocab_size=len(tokenizer), **FAMILIES[family])
        AutoModelForSeq2SeqLM.from_config(config).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        return folder

    return make


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory, sentences: list[str]) -> Path:
    """Twenty pairs of sentences of unlike length, with a topic, and two pairs that have nothing on one side."""
    path = tmp_path_factory.mktemp("pairs") / "pairs.jsonl"
    rows = [{"text": sentences[i], "target": sentences[39 - i], "topic": f"t{i % 3}", "side": i} for i in range(20)]
    rows.insert(3, {"text": sentences[3], "target": None, "topic": "t0", "side": 0})
    rows.insert(7, {"text": "", "target": sentences[5], "topic": "t0", "side": 0})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory, encoder_decoder: Callable[[str], Path], corpus: Path) -> Build:
    """Build an index of a part of a family over the pairs, in float32; the same arguments give the same index."""

    @cache
    def make(family: str, part: str, **options: Any) -> Index:
        options = {"methods": ("pca",), "dims": (2,), "storage": "float32", "top_k": 4, "n_jobs": 1, **options}
        if part != "encoder" and "generate" not in options:
            options.setdefault("target_column", "target")
        out = tmp_path_factory.mktemp("index") / "index"
        return build(str(encoder_decoder(family)), corpus, out=out, attention=part, **options)

    return make


@pytest.fixture(scope="session")
def reference(encoder_decoder: Callable[[str], Path]) -> Callable[..., dict[str, Any]]:
    """Return what a model itself reports over one pair that runs alone: nothing of qkspace has touched it."""
    import torch
    from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

    @cache
    def loaded(family: str) -> tuple[Any, Any]:
        model = AutoModelForSeq2SeqLM.from_pretrained(encoder_decoder(family), attn_implementation="eager")
        return model.eval(), AutoTokenizer.from_pretrained(encoder_decoder(family))

    @cache
    def run(family: str, source: str, target: str) -> dict[str, Any]:
        model, tokenizer = loaded(family)
        ids, labels = (torch.tensor([tokenizer(text).input_ids]) for text in (source, target))
        shifted = model.prepare_decoder_input_ids_from_labels(labels)
        with torch.no_grad():
            out = model(input_ids=ids, decoder_input_ids=shifted, output_attentions=True)
        arrays = {part: getattr(out, f"{part}_attentions") for part in PARTS}
        attention = {part: [layer[0].numpy() for layer in layers] for part, layers in arrays.items()}
        return {**attention, "source_ids": ids[0].tolist(), "target_ids": shifted[0].tolist()}

    return run


def rows_of(corpus: Path) -> list[dict[str, Any]]:
    """Return the pairs that have something on both sides."""
    rows = [json.loads(line) for line in corpus.read_text(encoding="utf-8").splitlines()]
    return [row for row in rows if row["text"] and row["target"]]


def whole(attention: NDArray[np.float32]) -> NDArray[np.float32]:
    """Lay attention from target to source out over all tokens of a pair: source first, then target."""
    n_heads, n_target, n_source = attention.shape
    full = np.zeros((n_heads, n_source + n_target, n_source + n_target), dtype=np.float32)
    full[:, n_source:, :n_source] = attention
    return full


def largest_error(index: Index, expected: Callable[[int], list[NDArray[np.float32]]]) -> float:
    errors = [0.0]
    for sequence in index.sequences["sequence"]:
        for layer, attention in enumerate(expected(int(sequence))):
            own = np.stack([index.head(layer, head).attention(int(sequence)) for head in range(len(attention))])
            assert own.shape == attention.shape
            errors.append(float(np.abs(own - attention).max()))
    return max(errors)


# ---------------------------------------------------------------------------------------------- the model's own


@pytest.mark.parametrize("part", ["decoder", "cross"])
@pytest.mark.parametrize("family", FAMILIES)
def test_attention_is_the_models_own(
    made: Build, reference: Callable[..., dict[str, Any]], corpus: Path, family: str, part: str
) -> None:
    """The index was built in padded batches; each pair of the reference ran alone, so padding leaks nowhere."""
    index, rows = made(family, part), rows_of(corpus)

    def expected(sequence: int) -> list[NDArray[np.float32]]:
        layers = reference(family, rows[sequence]["text"], rows[sequence]["target"])[part]
        return [whole(layer) for layer in layers] if part == "cross" else list(layers)

    assert len(index.sequences) == len(rows)
    assert largest_error(index, expected) < TOLERANCE
    assert index.layers[0].crosses == (part == "cross")
    assert index.layers[0].causal == (part == "decoder")


@pytest.mark.parametrize("family", FAMILIES)
def test_attention_of_the_encoder_is_the_models_own(
    made: Build, reference: Callable[..., dict[str, Any]], family: str
) -> None:
    index = made(family, "encoder")
    texts = index.sequences["text"].tolist()
    assert largest_error(index, lambda s: list(reference(family, texts[s], texts[0])["encoder"])) < TOLERANCE
    assert index.manifest["check"]["runner"] == "encoder"
    assert not index.layers[0].causal


@pytest.mark.parametrize("family", FAMILIES)
def test_the_decoder_reads_what_it_was_trained_on(
    made: Build, reference: Callable[..., dict[str, Any]], corpus: Path, family: str
) -> None:
    both, alone = made(family, "cross"), made(family, "decoder")
    for number, row in enumerate(rows_of(corpus)):
        expected = reference(family, row["text"], row["target"])
        ids = both.tokens["token_id"].to_numpy()[both.rows(number)].tolist()
        assert ids == expected["source_ids"] + expected["target_ids"]
        assert both.n_source(number) == len(expected["source_ids"])
        assert alone.tokens["token_id"].to_numpy()[alone.rows(number)].tolist() == expected["target_ids"]
    assert alone.sequences["source_text"].tolist() == [row["text"] for row in rows_of(corpus)]


def test_where_source_and_target_are_as_long_as_each_other(
    tmp_path: Path,
    encoder_decoder: Callable[[str], Path],
    reference: Callable[..., dict[str, Any]],
    corpus: Path,
    sentences: list[str],
) -> None:
    """Without a target the decoder reads the source again: shapes no longer tell one side from the other."""
    index = build(
        str(encoder_decoder("t5")), corpus, out=tmp_path / "index", attention="cross", methods=["pca"], dims=[2], n_jobs=1,
        storage="float32", text_column="text",
    )  # fmt: skip
    texts = [text.split("\n")[0] for text in index.sequences["text"]]
    assert (2 * index.sequences["n_source"] == index.sequences["n_tokens"]).all()
    assert largest_error(index, lambda s: [whole(a) for a in reference("t5", texts[s], texts[s])["cross"]]) < TOLERANCE
    assert index.manifest["pair"] == {"part": "cross", "target": "the same text as the encoder"}


# ---------------------------------------------------------------------------------------------- T5's buckets


def test_what_t5_adds_by_position_is_stored_and_used(made: Build) -> None:
    for part, position in (("encoder", "offset"), ("decoder", "offset"), ("cross", None)):
        index = made("t5", part)
        assert [layer.position for layer in index.layers] == [position] * 2
        table = index.head_table()
        assert ("position_share" in table) == (position is not None)
    index = made("t5", "decoder")
    head = index.head(1, 2)
    bias = head.position.of(8)
    assert np.ptp(bias[-1]) > 0.1  # it matters
    logit = head.query[:8] @ head.key[:8].T * head.spec.scale
    bare = np.where(head.spec.allowed(8), np.exp(logit), 0)
    bare /= bare.sum(axis=1, keepdims=True)
    assert np.abs(bare - head.attention(0)[:8, :8] / head.attention(0)[:8, :8].sum(axis=1, keepdims=True)).max() > 0.01


# ---------------------------------------------------------------------------------------------- cross


def test_only_targets_ask_and_only_sources_answer(made: Build) -> None:
    index = made("bart", "cross")
    side = index.tokens["side"].to_numpy()
    is_source = side == "source"
    sequence = index.tokens["sequence"].to_numpy()
    for layer in range(index.n_layers):
        head = index.head(layer, 1)
        assert not head.query[is_source].any() and not head.key[~is_source].any()
        assert head.query[~is_source].any(axis=1).all() and head.key[is_source].any(axis=1).all()
        assert (head.top_key[is_source] == -1).all() and not head.top_attention[is_source].any()
        asked = head.top_key[~is_source]
        assert (asked >= 0).all()
        assert is_source[asked].all()
        assert (sequence[asked] == sequence[~is_source][:, None]).all()
        place = head.projection("pca", 2)
        assert np.isnan(place.query[is_source]).all() and np.isnan(place.key[~is_source]).all()
        assert np.isfinite(place.query[~is_source]).all() and np.isfinite(place.key[is_source]).all()
        attention = head.attention(2)
        n_source = index.n_source(2)
        assert not attention[:n_source].any() and not attention[:, n_source:].any()
        assert np.allclose(attention[n_source:].sum(axis=1), 1, atol=1e-5)


def test_the_most_attended_source_tokens_are_the_strongest_of_the_attention(made: Build) -> None:
    index = made("t5", "cross")
    head, rows = index.head(1, 3), index.rows(4)
    attention, n_source = head.attention(4), index.n_source(4)
    for row in range(n_source, rows.stop - rows.start):
        expected = np.sort(attention[row])[::-1][:4]
        assert np.allclose(head.top_attention[rows.start + row], expected, atol=1e-3)
        assert np.allclose(attention[row, head.top_key[rows.start + row] - rows.start], expected, atol=1e-3)


def test_links_lead_from_a_target_to_a_source(made: Build) -> None:
    index = made("bart", "cross")
    links = index.head(0, 0).links(top=50)
    side = index.tokens["side"].to_numpy()
    assert len(links) == 50
    assert (side[links["query"]] == "target").all() and (side[links["key"]] == "source").all()
    assert links["attention"].is_monotonic_decreasing


def test_statistics_of_heads_are_means_over_targets(made: Build) -> None:
    index = made("bart", "cross")
    table = index.head_table().set_index(["layer", "head"])
    special = index.tokens["is_special"].to_numpy()
    sums, n_asking, entropy = 0.0, 0, 0.0
    for number in index.sequences["sequence"]:
        attention = index.head(1, 1).attention(int(number))[index.n_source(int(number)) :]
        sums += attention[:, special[index.rows(int(number))]].sum()
        entropy -= (attention * np.log(np.maximum(attention, 1e-30))).sum()
        n_asking += len(attention)
    assert table.loc[(1, 1), "attention_to_special"] == pytest.approx(sums / n_asking, abs=1e-4)
    assert table.loc[(1, 1), "entropy"] == pytest.approx(entropy / n_asking, abs=1e-3)
    of_one_sequence = ["attention_to_previous", "attention_to_next", "attention_to_self", "attention_distance"]
    assert table[of_one_sequence].isna().all(axis=None)
    assert table.drop(columns=of_one_sequence).select_dtypes("number").notna().all(axis=None)


# ---------------------------------------------------------------------------------------------- the tables


@pytest.mark.parametrize("part", ["decoder", "cross"])
def test_tokens_stand_in_the_text_where_the_table_says(made: Build, part: str) -> None:
    index = made("bart", part)
    texts = index.sequences["text"].tolist()
    content = index.tokens[~index.tokens["is_special"] & (index.tokens["kind"] != "other")]
    for row in content.itertuples():
        assert texts[row.sequence][row.start : row.end] == row.text
        assert row.text in row.word_text or row.word_text in row.text
    position = index.tokens.groupby("sequence")["position"]
    assert (position.diff().dropna() == 1).all() and (position.first() == 0).all()


def test_a_pair_is_one_text_of_two_lines_and_its_words_are_numbered_on(made: Build, corpus: Path) -> None:
    index = made("bart", "cross")
    assert index.sequences["text"].tolist() == [f"{row['text']}\n{row['target']}" for row in rows_of(corpus)]
    words = index.tokens[index.tokens["word"] >= 0].groupby(["sequence", "side"], observed=True)["word"]
    bounds = words.agg(["min", "max"]).unstack("side")
    assert (bounds["min", "target"] == bounds["max", "source"] + 1).all()


def test_the_target_is_no_metadata_and_metadata_named_as_ours_is_renamed(made: Build) -> None:
    index = made("bart", "cross")
    assert set(index.tokens["side"].unique()) == {"source", "target"}
    assert index.manifest["corpus"]["renamed"] == {"side": "corpus_side"}
    for table in (index.tokens, index.sequences):
        assert {"topic", "corpus_side"} <= set(table) and "target" not in table
    assert index.manifest["corpus"]["n_empty"] == 2
    assert index.manifest["corpus"]["target"] == "the column 'target'"


def test_both_sides_are_cut_and_cuts_are_counted(
    made: Build, reference: Callable[..., dict[str, Any]], corpus: Path
) -> None:
    index = made("t5", "cross", max_length=8)
    n_source = index.sequences["n_source"].to_numpy()
    n_target = index.sequences["n_tokens"].to_numpy() - n_source
    assert n_source.max() == 8 and n_target.max() == 8
    found = [reference("t5", row["text"], row["target"]) for row in rows_of(corpus)]
    is_long = [len(f["source_ids"]) > 8 or len(f["target_ids"]) > 8 for f in found]
    assert index.manifest["corpus"]["n_cut"] == sum(is_long)
    lost = sum(len(f["source_ids"]) + len(f["target_ids"]) for f in found) - int((n_source + n_target).sum())
    assert index.manifest["corpus"]["n_tokens_dropped"] == lost


def test_words_of_a_tree_keep_their_metadata_on_both_sides(
    tmp_path: Path, encoder_decoder: Callable[[str], Path], small_corpus: tuple[Path, Path]
) -> None:
    index = build(
        str(encoder_decoder("bart")), small_corpus[0], out=tmp_path / "index", attention="cross", methods=["pca"], dims=[2],
        n_jobs=1,
    )  # fmt: skip
    words = (
        index.tokens[index.tokens["word"] >= 0]
        .groupby(["sequence", "side", "word_text"], observed=True)["upos"]
        .first()
    )
    source, target = words.xs("source", level="side"), words.xs("target", level="side")
    assert source.notna().mean() > 0.9
    assert source.equals(target)


def test_a_sample_of_pairs_keeps_its_sources(
    made: Build, reference: Callable[..., dict[str, Any]], corpus: Path
) -> None:
    index, rows = made("bart", "cross", max_tokens=400), rows_of(corpus)
    assert 1 < len(index.sequences) < len(rows)

    def expected(sequence: int) -> list[NDArray[np.float32]]:
        return [whole(a) for a in reference("bart", rows[sequence]["text"], rows[sequence]["target"])["cross"]]

    assert largest_error(index, expected) < TOLERANCE


# ---------------------------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, ["3 kinds of attention", "encoder", "decoder", "cross"]),
        ({"attention": "cross", "target_column": "topics"}, ["line 1", "'topics'", "'target'", "'topic'"]),
        ({"attention": "encoder", "target_column": "target"}, ["--target-column", "'encoder'"]),
        ({"attention": "encoder", "generate": 5}, ["--generate", "'encoder'"]),
        ({"attention": "cross", "target_column": "target", "generate": 5}, ["--target-column", "--generate"]),
        ({"attention": "cross", "target_column": "target", "max_length": 2}, ["no room"]),
    ],
)
def test_what_makes_no_sense_is_refused_with_the_reason(
    tmp_path: Path, encoder_decoder: Callable[[str], Path], corpus: Path, options: dict[str, Any], words: list[str]
) -> None:
    with pytest.raises(QKSpaceError) as caught:
        build(str(encoder_decoder("bart")), corpus, out=tmp_path / "index", text_column="text", **options)
    for word in words:
        assert word in str(caught.value)


# ---------------------------------------------------------------------------------------------- killed


@pytest.mark.parametrize("part", ["decoder", "cross"])
def test_a_build_that_was_killed_ends_in_the_same_index(
    made: Build, tmp_path: Path, encoder_decoder: Callable[[str], Path], corpus: Path, part: str
) -> None:
    """It is killed while it reads, captures and maps, each time going on from there."""
    index = made("t5", part)
    out, driver = tmp_path / "index", Driver(tmp_path)
    command = ["build", "--model", str(encoder_decoder("t5")), "--corpus", str(corpus), "--out", str(out)]
    command += ["--attention", part, "--target-column", "target", "--methods", "pca", "--dims", "2"]
    command += ["--storage", "float32", "--top-k", "4", "--n-jobs", "1"]
    statuses = [driver.run(command, flush=n) for n in (3, 6, 9, 15, 15)]
    assert set(statuses) <= {0, KILLED}, driver.log.read_text()
    assert statuses.count(KILLED) >= 3
    assert driver.run(command) == 0, driver.log.read_text()
    assert_same_files(out, index.root)
