"""Tests of `qkspace.heads.behaviours`: planted heads, and models that report their attention to plain loops over tokens."""

from __future__ import annotations

import io
import math
import shutil
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Eager, MakeCheckpoint, _byte_pairs
from numpy.typing import NDArray
from scipy import stats
from test_any_model import CASES
from test_distances import Logits, at_offset, equal, planted, to_first
from test_pairs import FAMILIES

from qkspace import capture
from qkspace.heads import kept, repeated
from qkspace.heads import places as places_module
from qkspace.heads.behaviours import analyse
from qkspace.heads.found import Found
from qkspace.heads.labels import Thresholds, labels
from qkspace.heads.places import OF_IMAGES, of_index
from qkspace.heads.positional import Pairs, binned, foretold, offset_cells, uniform
from qkspace.heads.repeated import KINDS, Side, draw, key_sets, measure, scores
from qkspace.index import Index
from qkspace.live import checkpoint_of
from qkspace.pipeline import build
from qkspace.schema import QKSpaceError

Array = NDArray[Any]
OPTIONS: dict[str, Any] = {
    "methods": ["pca"],
    "dims": [2],
    "normalise": "none",
    "storage": "float32",
    "top_k": 4,
    "n_jobs": 1,
}
TOLERANCE = 1e-4


def literal(
    attention: Array, asking: Sequence[int], answering: Sequence[int], queries: Sequence[int], allowed: Array
) -> dict[str, tuple[float, float, int]]:
    """Score one head on one sequence by plain loops: of each kind the mean, that of equal attention, and over how many.

    Self-attention where both sequences are the same object.
    """
    crosses = asking is not answering
    found: dict[str, tuple[list[float], list[float]]] = {kind: ([], []) for kind in KINDS}
    for i in queries:
        wanted: dict[str, list[int]] = {kind: [] for kind in KINDS}
        n_allowed = 0
        for j in range(len(answering)):
            if not allowed[i][j]:
                continue
            n_allowed += 1
            if j == 0:
                wanted["first_token"].append(j)
            if not crosses and j == i - 1:
                wanted["previous_token"].append(j)
            if answering[j] == asking[i] and (crosses or j != i):
                wanted["duplicate_token"].append(j)
            if j > 0 and answering[j - 1] == asking[i] and (crosses or (j != i and j - 1 != i)):
                wanted["induction"].append(j)
        for kind, keys in wanted.items():
            if keys:
                found[kind][0].append(sum(float(attention[i][j]) for j in keys))
                found[kind][1].append(len(keys) / n_allowed)
    return {
        kind: (sum(a) / len(a), sum(b) / len(b), len(a)) if a else (math.nan, math.nan, 0)
        for kind, (a, b) in found.items()
    }


def masked(n: int, *, causal: bool, window: int | None = None) -> Array:
    offset = np.arange(n)[:, None] - np.arange(n)[None, :]
    allowed = offset >= 0 if causal else np.ones((n, n), dtype=bool)
    return allowed if window is None else allowed & (np.abs(offset) < window)


def twice(length: int, prefix: int = 1) -> Side:
    """One sequence: tokens 100, 101, ... in front, then 0 to length - 1, twice."""
    ids = np.array([[*range(100, 100 + prefix), *range(length), *range(length)]])
    return Side(ids, prefix + length, prefix + 2 * length)


def scored(side: Side, attention: Array, allowed: Array) -> tuple[dict[str, float], dict[str, float]]:
    """Return the scores of one head (query, key) and the uniform baselines, by kind."""
    ids, at = side.ids[0], side.queries
    values, equal = scores(attention[None, at], key_sets(ids, ids, at), allowed[at])
    return dict(zip(KINDS, values[0], strict=True)), dict(zip(KINDS, equal, strict=True))


# ---------------------------------------------------------------------------------------------- planted heads


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize(("kind", "back"), [("previous_token", 1), ("duplicate_token", 9), ("induction", 8)])
def test_a_perfect_head_scores_1_and_nothing_else(kind: str, back: int, causal: bool) -> None:
    side = twice(9)
    n = side.ids.shape[1]
    attention = np.eye(n, k=-back) + np.eye(n) * (np.arange(n) < back)
    found, _ = scored(side, attention, masked(n, causal=causal))
    assert found == pytest.approx({name: float(name == kind) for name in KINDS})


def test_the_first_key_of_the_second_half_is_the_induction_key_of_the_last_token_twice_over() -> None:
    """The token after the last of R is the first of R again: both heads that look there find what came after."""
    side = twice(5)
    n = side.ids.shape[1]
    attention = np.eye(n)
    attention[n - 1] = np.eye(n)[1 + 5]
    found, _ = scored(side, attention, masked(n, causal=True))
    assert found["induction"] == pytest.approx(1 / 5)


@pytest.mark.parametrize(("causal", "window"), [(True, None), (False, None), (True, 12), (True, 4)])
def test_a_head_that_attends_to_all_alike_scores_the_uniform_baseline(causal: bool, window: int | None) -> None:
    side = twice(9)
    allowed = masked(side.ids.shape[1], causal=causal, window=window)
    found, equal = scored(side, allowed / allowed.sum(axis=1, keepdims=True), allowed)
    assert found == pytest.approx(equal, nan_ok=True)
    assert math.isnan(found["induction"]) == (window == 4)  # 8 back, out of reach
    if window is None and not causal:
        assert equal == pytest.approx(dict.fromkeys(KINDS, 1 / 19))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("causal", [True, False])
def test_letters_that_come_again_within_a_half_count_wherever_they_stand(seed: int, causal: bool) -> None:
    rng = np.random.default_rng(seed)
    half = draw(np.arange(3), 1, 7, seed=seed)[0]
    ids = np.concatenate([half, half])
    allowed = masked(14, causal=causal)
    attention = rng.random((14, 14)) * allowed
    found, equal = scored(Side(ids[None], 7, 14), attention, allowed)
    own = ids.tolist()
    expected = literal(attention, own, own, range(7, 14), allowed)
    assert found == pytest.approx({kind: value for kind, (value, _, _) in expected.items()})
    assert equal == pytest.approx({kind: value for kind, (_, value, _) in expected.items()})


def test_random_tokens_come_once_in_a_half_and_the_seed_tells_which() -> None:
    ids = draw(np.arange(10, 60), 20, 50, seed=3)
    assert ids.shape == (20, 50)
    assert all(sorted(row) == list(range(10, 60)) for row in ids.tolist())
    assert np.array_equal(ids, draw(np.arange(10, 60), 20, 50, seed=3))
    assert not np.array_equal(ids, draw(np.arange(10, 60), 20, 50, seed=4))
    assert set(draw(np.arange(3), 5, 9).ravel()) == {0, 1, 2}


# ---------------------------------------------------------------------------------------------- models against loops


@pytest.fixture(scope="module")
def letters_index(tmp_path_factory: pytest.TempPathFactory, nano_sort: Path) -> Index:
    folder = tmp_path_factory.mktemp("letters")
    (folder / "letters.txt").write_text("CCBAAB\nABCABC\nBACBAC\nAAABBC\n", encoding="utf-8")
    return build(str(nano_sort), folder / "letters.txt", out=folder / "index", **OPTIONS)


@pytest.fixture(scope="module")
def of_sentences(tmp_path_factory: pytest.TempPathFactory, sentences: list[str]) -> Callable[[str | Path], Index]:
    @cache
    def make(model: str | Path) -> Index:
        folder = tmp_path_factory.mktemp("sentences")
        (folder / "plain.txt").write_text("\n".join(sentences[:12]) + "\n", encoding="utf-8")
        return build(str(model), folder / "plain.txt", out=folder / "index", **OPTIONS)

    return make


def sides_of(index: Index, n_sequences: int, length: int, seed: int) -> tuple[Side, Side | None]:
    """Return the tokens that `analyse` draws."""
    checkpoint = checkpoint_of(index, device="cpu")
    around = repeated.frame(checkpoint, index.sequences["text"].iloc[0].splitlines()[0])
    halves = draw(repeated.ordinary_ids(checkpoint), n_sequences, length, seed=seed)
    return repeated.sides(checkpoint, halves, around, part=index.manifest["check"].get("part", "self"))


def assert_literal(
    index: Index,
    table: Any,
    attention_of: Callable[[int], list[Array]],
    asking: Side,
    answering: Side,
    *,
    causal: Sequence[bool],
    windows: Sequence[int | None],
) -> None:
    """Compare a table with loops over what a model reports of each sequence: (head, query, key) a layer."""
    n_sequences = len(asking.ids)
    reported = [attention_of(s) for s in range(n_sequences)]
    queries = asking.queries.tolist()
    for row in table.itertuples():
        found: dict[str, list[tuple[float, float, int]]] = {kind: [] for kind in KINDS}
        for s in range(n_sequences):
            attention = reported[s][row.layer][row.head]
            allowed = np.ones(attention.shape, dtype=bool)
            if asking is answering:
                allowed = masked(len(attention), causal=causal[row.layer], window=windows[row.layer])
            own = asking.ids[s].tolist()
            other = own if asking is answering else answering.ids[s].tolist()
            for kind, pair in literal(attention, own, other, queries, allowed).items():
                found[kind].append(pair)
        for kind, values in found.items():
            mean, equal, error = pooled([one for one in values if one[2]])
            assert getattr(row, kind) == pytest.approx(mean, abs=TOLERANCE, nan_ok=True), (row.layer, row.head, kind)
            assert getattr(row, f"{kind}_uniform") == pytest.approx(equal, abs=1e-9, nan_ok=True)
            assert getattr(row, f"{kind}_error") == pytest.approx(error, abs=TOLERANCE, nan_ok=True)


def pooled(values: list[tuple[float, float, int]]) -> tuple[float, float, float]:
    """Return mean, equal attention and 95 % error over all queries of sequences, of which means and numbers are given."""
    if not values:
        return math.nan, math.nan, math.nan
    value, equal, n = np.array(values).T
    mean, k = float((value * n).sum() / n.sum()), len(n)
    apart = n / n.mean() * (value - mean)  # as deviations of sequences that count for their queries
    error = stats.t.ppf(0.975, k - 1) * math.sqrt((apart**2).sum() / (k - 1) / k) if k > 1 else math.nan
    return mean, float((equal * n).sum() / n.sum()), error


@pytest.mark.parametrize(("name", "length"), [("letters_index", 5), ("stories", 12), ("minilm", 12)])
def test_real_models_score_what_loops_over_their_attention_give(
    name: str, length: int, request: pytest.FixtureRequest, of_sentences: Callable[[str | Path], Index], eager: Eager
) -> None:
    given = request.getfixturevalue(name)
    index: Index = given if isinstance(given, Index) else of_sentences(given)
    model = index.manifest["made_from"]["model"]["source"]
    table = analyse(index, n_sequences=3, length=50 if name == "letters_index" else 12, seed=5).tables["behaviours"]
    side, target = sides_of(index, 3, length, 5)
    assert target is None and side.end - side.second == length
    causal = [layer.causal for layer in index.layers]
    assert_literal(
        index,
        table,
        lambda s: eager(model, side.ids[s].tolist()),
        side,
        side,
        causal=causal,
        windows=[None] * len(causal),
    )


def test_what_is_read_is_what_the_tokenizer_would_make_of_a_text(
    of_sentences: Callable[[str | Path], Index], minilm: Path, stories: Path
) -> None:
    side, _ = sides_of(of_sentences(minilm), 4, 50, 0)
    assert (side.ids[:, 0] == 101).all() and (side.ids[:, -1] == 102).all() and side.ids.shape == (4, 102)
    assert (side.ids[:, 1:51] == side.ids[:, 51:101]).all() and (side.second, side.end) == (51, 101)
    names = checkpoint_of(of_sentences(minilm)).tokenizer.convert_ids_to_tokens(side.ids[:, 1:51].ravel().tolist())
    assert not [name for name in names if name.startswith("[") and len(name) > 1]
    side, _ = sides_of(of_sentences(stories), 4, 50, 0)
    assert (side.ids[:, 0] == 1).all() and side.ids.shape == (4, 101)
    names = checkpoint_of(of_sentences(stories)).tokenizer.convert_ids_to_tokens(side.ids[:, 1:51].ravel().tolist())
    assert not [name for name in names if name.startswith("<") and len(name) > 1]


@pytest.mark.parametrize("length", [4, 9])
def test_a_sliding_window_hides_what_it_does_not_reach(
    length: int, of_sentences: Callable[[str | Path], Index], make_checkpoint: MakeCheckpoint, eager: Eager
) -> None:
    model = make_checkpoint("mistral")  # a window of 6 tokens
    index = of_sentences(model)
    assert [layer.window for layer in index.layers] == [6, 6]
    table = analyse(index, n_sequences=3, length=length).tables["behaviours"]
    side, _ = sides_of(index, 3, length, 0)
    assert_literal(
        index, table, lambda s: eager(model, side.ids[s].tolist()), side, side, causal=[True] * 2, windows=[6] * 2
    )
    assert table["duplicate_token"].isna().all() == (length == 9) == table["induction"].isna().all()
    assert table["previous_token"].notna().all()


def test_a_sequence_without_such_a_key_is_left_out_and_takes_no_score_away(
    of_sentences: Callable[[str | Path], Index],
    make_checkpoint: MakeCheckpoint,
    eager: Eager,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A window of six does not reach back to the first half of nine; two sequences of four have a token twice within it."""
    model = make_checkpoint("mistral")
    index = of_sentences(model)
    checkpoint = checkpoint_of(index, device="cpu")
    halves = np.tile(repeated.ordinary_ids(checkpoint)[:9], (4, 1))
    halves[1, 4] = halves[1, 2]  # one query has a duplicate in reach,
    halves[2, [4, 5]] = halves[2, 2]  # here two
    monkeypatch.setattr(repeated, "draw", lambda *_, **__: halves)
    table = analyse(index, n_sequences=4, length=9).tables["behaviours"]
    around = repeated.frame(checkpoint, index.sequences["text"].iloc[0].splitlines()[0])
    side, _ = repeated.sides(checkpoint, halves, around, part="self")
    assert_literal(
        index, table, lambda s: eager(model, side.ids[s].tolist()), side, side, causal=[True] * 2, windows=[6] * 2
    )
    assert table[["duplicate_token", "duplicate_token_error"]].notna().all(axis=None)


def test_the_first_line_that_is_not_blank_is_read(decoder_index: Index, tmp_path: Path) -> None:
    shutil.copytree(decoder_index.root, tmp_path / "index")
    index = Index(tmp_path / "index")
    sequences = index.sequences.copy()
    sequences.loc[sequences.index[:2], "text"] = ["", " \n\t"]
    sequences.to_parquet(tmp_path / "index" / "sequences.parquet", index=False)
    options: dict[str, Any] = {"n_sequences": 2, "length": 6, "repeated": True}
    table = analyse(Index(tmp_path / "index"), **options).tables["behaviours"]
    assert table.equals(analyse(decoder_index, **options).tables["behaviours"])


def unrolled(band: Array, reach: int) -> Array:
    """Return what Longformer reports of its windows, (head, query, place in the window), as (head, query, key)."""
    n = band.shape[1]
    whole = np.zeros((len(band), n, n))
    for i in range(n):
        for j in range(max(0, i - reach), min(n, i + reach + 1)):
            whole[:, i, j] = band[:, i, j - i + reach]
    return whole


def test_windows_of_longformer_score_what_loops_give(
    of_sentences: Callable[[str | Path], Index], make_checkpoint: MakeCheckpoint, eager: Eager
) -> None:
    """It reports the weights inside its windows of 4 tokens to each side, which halves of 4 reach and halves of 10 do not."""
    model = make_checkpoint("longformer", **CASES["longformer"][0])
    index = of_sentences(model)
    for length in (4, 10):
        table = analyse(index, n_sequences=3, length=length).tables["behaviours"]
        side, _ = sides_of(index, 3, length, 0)
        n_layers = index.n_layers
        assert_literal(
            *(index, table, lambda s: [unrolled(band, 4) for band in eager(model, side.ids[s].tolist())], side, side),  # noqa: B023
            causal=[False] * n_layers,
            windows=[5] * n_layers,
        )
        assert table["previous_token"].notna().all()
        assert table["duplicate_token"].isna().all() == (length == 10)


@pytest.mark.parametrize("family", ["gpt_oss", "bloom", "deberta-v2", "gemma2"])
def test_the_odd_ones_score_what_loops_give(
    family: str, of_sentences: Callable[[str | Path], Index], make_checkpoint: MakeCheckpoint, eager: Eager
) -> None:
    model = make_checkpoint(family, **CASES[family][0])
    index = of_sentences(model)
    table = analyse(index, n_sequences=2, length=10).tables["behaviours"]
    assert table["positional"].between(0, 1).all()
    side, _ = sides_of(index, 2, 10, 0)
    causal, windows = [layer.causal for layer in index.layers], [layer.window for layer in index.layers]
    assert_literal(
        index, table, lambda s: eager(model, side.ids[s].tolist()), side, side, causal=causal, windows=windows
    )


def measured(index: Index, side: Side, **options: Any) -> list[repeated.Scores]:
    run = repeated.Run(calls=tuple(range(index.n_layers)), most_heads=index.n_heads)
    return measure(checkpoint_of(index, device="cpu"), run, side, **options)


def test_neither_batches_nor_chunks_change_a_score(
    of_sentences: Callable[[str | Path], Index], stories: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = of_sentences(stories)
    side, _ = sides_of(index, 7, 20, 0)
    together, alone = (measured(index, side, batch_tokens=n) for n in (1000, 1))
    monkeypatch.setattr(capture, "CHUNK_BYTES", 4 * 8 * 41 * 6)  # six query tokens at a time
    cut = measured(index, side, batch_tokens=1)
    for layers in (alone, cut):
        for one, other in zip(together, layers, strict=True):
            np.testing.assert_allclose(one.value, other.value, atol=1e-6)
            np.testing.assert_array_equal(one.uniform, other.uniform)


def test_the_seed_reproduces_the_whole_table(decoder_index: Index) -> None:
    options: dict[str, Any] = {"n_sequences": 3, "length": 8}
    one, again, other = (analyse(decoder_index, seed=s, **options).tables["behaviours"] for s in (1, 1, 2))
    assert one.equals(again)
    assert not np.allclose(one["induction"], other["induction"])


# ---------------------------------------------------------------------------------------------- encoder-decoders


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory, sentences: list[str]) -> Callable[[str, str], Index]:
    """Build an index of a part of a tiny encoder-decoder whose tokenizer ends a text by </s>, BART's begins it by <s>."""
    import torch
    from tokenizers import processors
    from transformers import AutoConfig, AutoModelForSeq2SeqLM

    @cache
    def checkpoint(family: str) -> Path:
        folder = tmp_path_factory.mktemp(family)
        tokenizer = _byte_pairs(sentences)
        template = "$A </s>" if family == "t5" else "<s> $A </s>"
        processor = processors.TemplateProcessing(single=template, special_tokens=[("<s>", 2), ("</s>", 3)])
        tokenizer.backend_tokenizer.post_processor = processor
        torch.manual_seed(0)
        config = AutoConfig.for_model(family, vocab_size=len(tokenizer), **FAMILIES[family])
        AutoModelForSeq2SeqLM.from_config(config).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        return folder

    @cache
    def make(family: str, part: str) -> Index:
        folder = tmp_path_factory.mktemp("pairs")
        (folder / "plain.txt").write_text("\n".join(sentences[:12]) + "\n", encoding="utf-8")
        return build(str(checkpoint(family)), folder / "plain.txt", out=folder / "index", attention=part, **OPTIONS)

    return make


@pytest.mark.parametrize("part", ["encoder", "decoder", "cross"])
@pytest.mark.parametrize("family", ["t5", "bart"])
def test_each_part_of_an_encoder_decoder_scores_what_loops_give(
    family: str, part: str, pairs: Callable[[str, str], Index]
) -> None:
    import torch
    from transformers import AutoModelForSeq2SeqLM

    index = pairs(family, part)
    table = analyse(index, n_sequences=3, length=7).tables["behaviours"]
    source, target = sides_of(index, 3, 7, 0)
    assert (target is None) == (part == "encoder")
    model = AutoModelForSeq2SeqLM.from_pretrained(
        index.manifest["made_from"]["model"]["source"], attn_implementation="eager"
    ).eval()
    ids = torch.from_numpy(source.ids)
    shifted = model.prepare_decoder_input_ids_from_labels(ids)
    if target is not None:
        assert np.array_equal(target.ids, shifted.numpy())
    with torch.no_grad():
        out = model(input_ids=ids, decoder_input_ids=shifted, output_attentions=True)
    layers = [layer.numpy() for layer in getattr(out, f"{part}_attentions")]
    asking = source if target is None else target
    answering = source if part == "cross" else asking
    assert_literal(
        *(index, table, lambda s: [layer[s] for layer in layers], asking, answering),
        causal=[part == "decoder"] * len(layers),
        windows=[None] * len(layers),
    )
    assert table["previous_token"].isna().all() == (part == "cross")
    assert table[["duplicate_token", "induction", "first_token", "positional"]].notna().all(axis=None)


# ---------------------------------------------------------------------------------------------- positional


def rows_of_sequences(
    lengths: Sequence[int], logits: Callable[[int, int], Array], *, causal: bool
) -> tuple[Array, Pairs, Array, Array]:
    """Return the attention (1, pair) of a head whose logits are given, its pairs, and offset and position of each key."""
    attention, counts, sequence, offset, key = [], [], [], [], []
    for s, n in enumerate(lengths):
        allowed = masked(n, causal=causal)
        allowed[0] &= not causal  # it has no choice
        weights = np.exp(logits(s, n)) * allowed
        at, keys = np.nonzero(allowed)
        attention.append((weights / np.maximum(weights.sum(axis=1, keepdims=True), 1e-300))[at, keys])
        counts.append(allowed.sum(axis=1)[allowed.any(axis=1)])
        sequence.append(np.full(len(counts[-1]), s))
        offset.append(keys - at)
        key.append(keys)
    starts = np.concatenate([[0], np.cumsum(np.concatenate(counts))])
    pairs = Pairs(starts, np.concatenate(sequence))
    return np.concatenate(attention)[None], pairs, np.concatenate(offset), np.concatenate(key)


LENGTHS = [*range(5, 40), 17, 23, 31]


def places(lengths: Sequence[int], logits: Callable[[int, int], Array], *, causal: bool) -> tuple[float, float, float]:
    """Return the mean shares that offset, position of the key, and nothing foretell."""
    attention, pairs, offset, key = rows_of_sequences(lengths, logits, causal=causal)
    found = [foretold(attention, pairs, cell).mean() for cell in (offset_cells(offset), binned(key))]
    return float(found[0]), float(found[1]), float(uniform(attention, pairs).mean())


@pytest.mark.parametrize("causal", [True, False])
def test_a_head_of_offsets_alone_is_foretold_and_one_of_content_is_not(causal: bool) -> None:
    rng = np.random.default_rng(0)
    table = rng.normal(0, 2, 101)

    def by_offset(_: int, n: int) -> Array:
        return table[np.arange(n)[None, :] - np.arange(n)[:, None] + 50]

    def by_position(_: int, n: int) -> Array:
        return np.broadcast_to(table[:n], (n, n))

    def by_content(s: int, n: int) -> Array:
        return np.broadcast_to(8 * np.random.default_rng(s).normal(size=n), (n, n))

    offset, position, nothing = places(LENGTHS, by_offset, causal=causal)
    assert offset > 0.99 and position < 0.8 and nothing < 0.7
    offset, position, nothing = places(LENGTHS, by_position, causal=causal)
    assert position > 0.99 and offset < 0.8 and nothing < 0.7
    assert max(places(LENGTHS, by_content, causal=causal)) < 0.4


def test_a_head_of_equal_attention_is_foretold_by_anything() -> None:
    assert places(LENGTHS, lambda s, n: np.zeros((n, n)), causal=True) == pytest.approx((1, 1, 1), abs=1e-6)


def test_a_head_of_content_among_many_keys_is_foretold_near_0() -> None:
    """One-hot at a random key of 200: what position foretells is about 1 in 200."""
    keys = np.random.default_rng(1).integers(0, 200, size=(40, 200))
    found = places([200] * 40, lambda s, n: 50 * np.eye(n)[keys[s]], causal=False)
    assert max(found) < 0.03


def test_distances_have_cells_of_their_own_until_64_and_wider_ones_beyond() -> None:
    cells = binned(np.arange(5000))
    assert cells[:64].tolist() == list(range(64))
    assert (np.diff(cells) >= 0).all() and set(np.diff(cells)) == {0, 1} and cells[-1] < 120


def test_a_previous_token_head_of_a_real_model_is_positional(small_index: Index) -> None:
    table = analyse(small_index, repeated=False).tables["behaviours"].set_index(["layer", "head"])
    previous = table["previous_token_text"].idxmax()
    assert table["previous_token_text"][previous] > 0.9
    assert table["positional_offset"][previous] > 0.98 > 0.5 > table["positional_absolute"][previous]
    assert table["positional"].between(0, 1).all() and table["positional"].min() < 0.6
    better = table[["positional_offset", "positional_absolute"]].max(axis=1)
    assert table["positional"].to_numpy() == pytest.approx(better.to_numpy())


def test_one_query_foretells_nothing(tmp_path: Path) -> None:
    """A decoder over one sequence of two tokens: its second is the only query with a choice, and none is left to fit on."""
    table, n_queries = of_index(planted(tmp_path, [2], [[equal, to_first]], causal=True))
    assert n_queries == 1
    assert table[["positional", "positional_offset", "positional_absolute", "positional_error"]].isna().all(axis=None)
    assert table["positional_uniform"].tolist() == pytest.approx([1, 0.5])
    table, n_queries = of_index(planted(tmp_path / "two", [2, 2], [[equal, to_first]], causal=True))
    assert n_queries == 2
    assert table["positional"].tolist() == pytest.approx([1, 1])


def test_every_query_of_the_corpus_counts_alike_for_what_place_foretells(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Most sequences are short and most queries are of long ones; a head attends to all there, and to the next one here."""
    odd: Logits = lambda n: equal(n) if n > 20 else at_offset(1)(n)  # noqa: E731
    lengths = np.random.default_rng(0).permutation([4] * 50 + [60] * 10).tolist()
    index = planted(tmp_path, lengths, [[odd]])
    whole = of_index(index)[0].iloc[0]
    short = (3 * 0.25 + 1) / 4  # equal attention foretells a quarter of one-hot rows; the last has no next token
    assert whole["positional_uniform"] == pytest.approx(0.75 + 0.25 * short, abs=1e-4)
    monkeypatch.setattr(places_module, "MAX_QUERIES", 64)
    samples = [of_index(index, seed=seed) for seed in range(30)]
    assert {n_queries for _, n_queries in samples} == {64}
    mean = np.mean([table["positional_uniform"][0] for table, _ in samples])
    assert mean == pytest.approx(whole["positional_uniform"], abs=0.02)
    off = [abs(table["positional_offset"][0] - whole["positional_offset"]) for table, _ in samples]
    assert np.mean(off) < 0.1


# ---------------------------------------------------------------------------------------------- images


@pytest.fixture(scope="module")
def found_in_pictures(pictures_index: Index) -> Found:
    return analyse(pictures_index)


def test_patches_attend_to_themselves_rows_columns_and_cls_as_loops_say(
    pictures_index: Index, found_in_pictures: Found
) -> None:
    """All 784 patches of the four images are drawn; the model runs on the pictures as its own preprocessing makes them."""
    import torch
    from PIL import Image
    from transformers import ViTModel

    from qkspace.image_input import load_image_input

    folder = pictures_index.manifest["made_from"]["model"]["source"]
    model = ViTModel.from_pretrained(folder, attn_implementation="eager", add_pooling_layer=False).eval()
    stored = pictures_index.table("images")
    pictures = [np.array(Image.open(io.BytesIO(content))) for content in stored["image"]]
    with torch.no_grad():
        pixels = torch.from_numpy(load_image_input(folder).pixel_values(pictures))
        layers = [a.numpy() for a in model(pixel_values=pixels, output_attentions=True).attentions]
    table = found_in_pictures.tables["behaviours"].set_index(["layer", "head"])
    assert "784 queries" in table.attrs["note"]
    patch = np.arange(196)
    for layer, head in [(0, 0), (1, 2), (2, 0), (5, 1), (11, 2)]:
        sums = dict.fromkeys(OF_IMAGES, 0.0)
        for s in range(4):
            for i in range(196):
                row = layers[layer][s, head, i + 1]
                itself, same_row, same_column = patch == i, patch // 14 == i // 14, patch % 14 == i % 14
                sums["to_cls"] += float(row[0])
                sums["to_self"] += float(row[1:][itself].sum())
                sums["to_row"] += float(row[1:][same_row & ~itself].sum())
                sums["to_column"] += float(row[1:][same_column & ~itself].sum())
        for name, total in sums.items():
            assert table.loc[(layer, head), name] == pytest.approx(total / 784, abs=TOLERANCE), (layer, head, name)
    equal = {"to_self": 1 / 197, "to_row": 13 / 197, "to_column": 13 / 197, "to_cls": 1 / 197}
    for name, share in equal.items():
        assert table[f"{name}_uniform"].to_numpy() == pytest.approx(np.full(36, share))
        assert (table[f"{name}_error"] > 0).all()


def test_an_index_of_images_says_why_nothing_is_repeated(pictures_index: Index, found_in_pictures: Found) -> None:
    found = found_in_pictures
    table = found.tables["behaviours"]
    assert table[list(KINDS)].isna().all(axis=None)
    assert found.head_columns == tuple(
        f"{name}{end}" for name in ("positional", *OF_IMAGES) for end in ("", "_uniform")
    )
    assert "index is of image" in table.attrs["note"]
    with pytest.raises(QKSpaceError, match="index is of image"):
        analyse(pictures_index, repeated=True)


# ---------------------------------------------------------------------------------------------- without a model


def test_without_the_model_the_rest_is_still_there(decoder_index: Index, tmp_path: Path) -> None:
    shutil.copytree(decoder_index.root, tmp_path / "index")
    index = Index(tmp_path / "index")
    index.manifest["made_from"]["model"]["source"] = str(tmp_path / "gone")
    found = analyse(index, n_sequences=2, length=6)
    table, whole = found.tables["behaviours"], analyse(decoder_index, n_sequences=2, length=6).tables["behaviours"]
    assert table[list(KINDS)].isna().all(axis=None) and found.head_columns == ("positional", "positional_uniform")
    assert "there is no such folder on this machine" in table.attrs["note"]
    for name in ("positional", "sink", "previous_token_text"):
        assert table[name].equals(whole[name]) and table[name].notna().all()
    assert list(table.columns) == list(whole.columns)
    with pytest.raises(QKSpaceError, match="no such folder on this machine"):
        analyse(index, repeated=True)
    where = decoder_index.manifest["made_from"]["model"]["source"]
    assert analyse(index, model=where, n_sequences=2, length=6).tables["behaviours"].equals(whole)


def test_what_fits_no_model_is_refused(decoder_index: Index) -> None:
    for options in ({"n_sequences": 0}, {"length": 1}):
        with pytest.raises(QKSpaceError, match="length of 2 or more"):
            analyse(decoder_index, **options)
    assert repeated.fitting(50, 11, 0) == 5 and repeated.fitting(50, 512, 2) == 50 == repeated.fitting(50, None, 2)
    with pytest.raises(QKSpaceError, match="takes 5 tokens, 2 of them special"):
        repeated.fitting(50, 5, 2)


def labelled(index: Index, root: Path, found: Found | None = None, **options: Any) -> Any:
    """Keep the behaviours of a copy of an index, and return its table of heads by layer and head, with their labels."""
    shutil.copytree(index.root, root)
    found = found or analyse(Index(root), **options)
    whole = kept.keep(Index(root), "behaviours", found.tables, head_columns=found.head_columns).head_table()
    return whole.merge(labels(whole), on=["layer", "head"]).set_index(["layer", "head"])


def test_a_label_says_what_a_head_does_much_more_than_by_chance(
    letters_index: Index, of_sentences: Callable[[str | Path], Index], minilm: Path, tmp_path: Path
) -> None:
    """With three letters, attention to the same letter is much already: no head of the model that sorts them is a duplicate."""
    table = labelled(letters_index, tmp_path / "letters", n_sequences=8)
    assert table["duplicate_token_uniform"].min() > 0.3
    assert not table["all_labels"].str.contains("duplicate|induction").any()
    chance = labels(table.drop(columns="label").reset_index(), Thresholds(gain=0, induction=0.3, duplicate=0.3))
    assert chance["label"].isin(["duplicate", "induction"]).any()
    table = labelled(of_sentences(minilm), tmp_path / "minilm", n_sequences=4)
    assert table.loc[(0, 2), "label"] == "previous"
    assert table.loc[(0, 2), "value"] == max(table.loc[(0, 2), ["previous_token", "attention_to_previous"]])
    assert table.loc[(2, 9), "duplicate_token"] > 0.4
    assert "duplicate" in table.loc[(2, 9), "all_labels"]


def test_heads_of_images_are_called_after_rows_and_columns(
    pictures_index: Index, found_in_pictures: Found, tmp_path: Path
) -> None:
    table = labelled(pictures_index, tmp_path / "index", found_in_pictures)
    assert table.loc[(1, 2), "label"] == "row"
    assert table.loc[(2, 0), "label"] == "column"
    assert table.loc[(5, 1), "label"] == "first"
    assert table.loc[(5, 1), "value"] == max(table.loc[(5, 1), ["to_cls", "attention_to_first"]]) > 0.6
    for name, column in (("row", "to_row"), ("column", "to_column")):
        of_name = table[table["label"] == name]
        assert (of_name[column] > 0.5).all()
        assert (of_name[column] - of_name[f"{column}_uniform"] > 0.2).all()


def test_statistics_of_the_text_are_those_of_the_index(decoder_index: Index) -> None:
    table, heads = analyse(decoder_index, repeated=False).tables["behaviours"], decoder_index.head_table()
    assert table[["layer", "head"]].equals(heads[["layer", "head"]])
    assert table["sink"].equals(heads["attention_to_first"].rename("sink"))
    assert table["previous_token_text"].tolist() == heads["attention_to_previous"].tolist()
