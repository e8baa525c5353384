"""Tests of the trained probes: they find what is planted and nothing where there is nothing, and are who they say they are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from qkspace.heads import kept, probe_data, probe_tables
from qkspace.heads.probe_data import Sentence
from qkspace.heads.probe_training import AttentionProbe, predict, probe_of, side_by_side, train
from qkspace.heads.probe_words import input_embeddings, word_vectors
from qkspace.heads.probes import PROBES, analyse, at_offset, best_offset
from qkspace.heads.words import words_of
from qkspace.index import Index
from qkspace.model import load
from qkspace.schema import QKSpaceError

N_MAPS, PLANTED = 6, 4


def random_sentence(rng: np.random.Generator, n: int, *, d: int = 0) -> Sentence:
    """Return a sentence of random attention in which every word has a random head, another word or ROOT."""
    candidates = [[c for c in range(n + 1) if c != word + 1] for word in range(n)]
    head = np.array([rng.choice(each) for each in candidates])
    attention = rng.dirichlet(np.ones(n + 2), size=(N_MAPS, n + 2)).transpose(1, 2, 0)
    everywhere = np.ones(n, dtype=bool)
    return Sentence(
        head,
        np.array(["dep"] * n, dtype=object),
        everywhere,
        ~everywhere,
        attention.astype(np.float16),
        rng.standard_normal((n, d)).astype(np.float32),
    )


def planted(rng: np.random.Generator, n: int, direction: str, anchor: int, *, d: int = 0) -> Sentence:
    """Return a sentence in which one map leads from each word to its head, or the other way; ROOT is a special token."""
    sentence = random_sentence(rng, n, d=d)
    ends = np.where(sentence.head == 0, anchor, sentence.head + 1), 2 + np.arange(n)
    row, column = ends[::-1] if direction == "dependent to head" else ends
    sentence.attention[:, :, PLANTED] = 0.01
    sentence.attention[row, column, PLANTED] = 0.9
    return sentence


def uas(sentences: list[Sentence], probe: torch.nn.Module) -> float:
    found = predict(probe, sentences)
    return float(np.mean(np.concatenate([p == s.head for p, s in zip(found, sentences, strict=True)])))


def trained(
    sentences: list[Sentence], *, words: bool = False, reads: bool = True, epochs: int = 25, seed: int = 0
) -> Any:
    spread = probe_data.spread_of(sentences) if reads else None
    probe = probe_of(spread, sentences[0].vector.shape[1] if words else 0, seed)
    return train(probe, sentences, epochs=epochs, seed=seed).probe


# ---------------------------------------------------------------------------------------------- planted


@pytest.mark.parametrize("words", [False, True])
@pytest.mark.parametrize(("direction", "anchor"), [("dependent to head", 0), ("head to dependent", 1)])
def test_a_probe_finds_the_tree_that_one_map_holds(direction: str, anchor: int, words: bool) -> None:
    rng = np.random.default_rng(1)
    sentences = [planted(rng, int(n), direction, anchor, d=3) for n in rng.integers(3, 9, size=260)]
    probe = trained(sentences[:200], words=words)
    assert uas(sentences[200:], probe) == 1.0


def test_the_weight_of_the_planted_map_and_direction_is_the_largest() -> None:
    from qkspace.heads.probe_training import importance

    rng = np.random.default_rng(2)
    sentences = [planted(rng, 8, "head to dependent", 0) for _ in range(150)]
    weight, size = importance(trained(sentences), sentences)
    assert np.unravel_index(size.argmax(), size.shape) == (1, PLANTED)
    assert weight[1, PLANTED] > 0


@pytest.mark.parametrize("reads", [True, False])
def test_a_candidate_has_one_number_in_attention_words_and_gold(reads: bool) -> None:
    """Attention says nothing; the head of all words is the word with a marked vector, whose own is ROOT."""
    rng = np.random.default_rng(3)
    sentences = []
    for n in rng.integers(3, 9, size=160):
        sentence = random_sentence(rng, int(n), d=2)
        marked = int(rng.integers(n))
        sentence.attention[:] = 0.1
        sentence.vector[:] = [0, 1]
        sentence.vector[marked] = [1, 0]
        sentence.head[:] = marked + 1
        sentence.head[marked] = 0
        sentences.append(sentence)
    probe = trained(sentences[:100], words=True, reads=reads)
    assert uas(sentences[100:], probe) == 1.0


@pytest.mark.parametrize("words", [False, True])
def test_logits_are_those_of_the_formula(words: bool) -> None:
    rng = np.random.default_rng(4)
    sentences = [random_sentence(rng, n, d=3) for n in (5, 2, 4)]
    spread = rng.uniform(0.1, 0.5, N_MAPS).astype(np.float32)
    probe = AttentionProbe(spread, 3 if words else 0)
    with torch.no_grad():
        for parameter in probe.parameters():
            parameter.copy_(torch.from_numpy(rng.standard_normal(parameter.shape)))
        logit = probe(side_by_side(sentences)).numpy()
    value = {name: p.detach().numpy().astype(np.float64) for name, p in probe.named_parameters()}
    for s, sentence in enumerate(sentences):
        n = sentence.n_words
        attention = sentence.attention.astype(np.float64) / spread
        for word in range(n):
            for candidate in range(n + 1):
                expected = -np.inf if candidate == word + 1 else 0.0
                for direction in range(2):
                    weight = value["bias"][direction].copy()
                    if words:
                        weight += sentence.vector[word] @ value["of_word"][direction] / 3**0.5
                        if candidate:
                            weight += sentence.vector[candidate - 1] @ value["of_head"][direction] / 3**0.5
                    places = [2 + candidate - 1] if candidate else [0, 1]
                    for i, place in enumerate(places):
                        pair = (2 + word, place) if direction == 0 else (place, 2 + word)
                        share = 1 if candidate else value["root"][i, direction]
                        expected += float((weight * attention[pair] * share).sum())
                assert logit[s, word, candidate] == pytest.approx(expected, rel=1e-4, abs=1e-3)
            assert np.isneginf(logit[s, word, n + 1 :]).all()


@pytest.mark.parametrize("reads", [True, False])
def test_what_lies_beside_a_sentence_changes_nothing(reads: bool) -> None:
    rng = np.random.default_rng(5)
    short, long = random_sentence(rng, 4, d=3), random_sentence(rng, 9, d=3)
    probe = trained([random_sentence(rng, 6, d=3) for _ in range(20)], words=True, reads=reads, epochs=2)
    with torch.no_grad():
        alone, beside = probe(side_by_side([short])), probe(side_by_side([long, short]))[1:, :4, :5]
    torch.testing.assert_close(alone, beside)


# ---------------------------------------------------------------------------------------------- nothing to be found


@pytest.mark.parametrize(("words", "reads"), [(False, True), (True, True), (True, False)])
def test_drawn_heads_are_found_by_chance_alone(words: bool, reads: bool) -> None:
    """A word of a sentence of n has n candidates, each its head as often: 1 / n is right whatever a probe has learned."""
    rng = np.random.default_rng(6)
    sentences = [random_sentence(rng, int(n), d=4) for n in rng.integers(4, 12, size=400)]
    chance = np.concatenate([np.full(s.n_words, 1 / s.n_words) for s in sentences[200:]])
    spread = np.sqrt((chance * (1 - chance)).sum()) / len(chance)
    found = uas(sentences[200:], trained(sentences[:200], words=words, reads=reads, epochs=5))
    assert abs(found - chance.mean()) < 4 * spread


def test_a_seed_gives_a_probe() -> None:
    rng = np.random.default_rng(7)
    sentences = [random_sentence(rng, int(n), d=3) for n in rng.integers(3, 9, size=40)]
    first, again, other = (trained(sentences, words=True, reads=False, epochs=2, seed=seed) for seed in (0, 0, 1))
    for one, two in zip(first.parameters(), again.parameters(), strict=True):
        assert torch.equal(one, two)
    assert not torch.equal(next(first.parameters()), next(other.parameters()))


def test_words_without_a_known_head_are_not_learned_and_count_as_wrong() -> None:
    rng = np.random.default_rng(8)
    sentences = [planted(rng, 6, "dependent to head", 0) for _ in range(120)]
    for sentence in sentences:
        sentence.head[0] = -1
        sentence.is_counted[1] = False
        sentence.is_punct[2] = True
    probe = trained(sentences)
    found = predict(probe, sentences)
    result = probe_tables.result("attention", sentences, found, says="", n_train=120, seconds=0.0)
    assert result.counts.sum(axis=0).tolist() == [120 * 3, 120 * 4, 120 * 4, 120 * 5]


# ---------------------------------------------------------------------------------------------- baselines


def test_an_offset_before_the_first_word_is_root_and_behind_the_last_is_nothing() -> None:
    assert at_offset(4, 1).tolist() == [2, 3, 4, -2]
    assert at_offset(4, -2).tolist() == [0, 0, 1, 2]


@pytest.mark.parametrize("offset", [-3, 1, 2])
def test_the_best_offset_is_the_one_at_which_heads_are(offset: int) -> None:
    rng = np.random.default_rng(9)
    sentences = [random_sentence(rng, 7) for _ in range(10)]
    for sentence in sentences:
        sentence.head[:] = np.clip(at_offset(7, offset), 0, None)
    assert best_offset(sentences) == offset


# ---------------------------------------------------------------------------------------------- of an index


def tree_places(index: Index) -> np.ndarray[Any, Any]:
    with_trees = index.tokens.loc[index.tokens["head"].notna(), "sequence"].unique()
    return np.array([index.place(int(sequence)) for sequence in with_trees])


def test_a_sentence_holds_the_attention_of_the_index(small_index: Index) -> None:
    words = words_of(small_index, int(tree_places(small_index)[0]))
    attention = probe_data.stored_attention(small_index)(words)
    sentence = probe_data.sentence_of(small_index, words, attention, np.empty((len(words.words), 0)))
    sequence = int(small_index.sequences["sequence"].iloc[words.place])
    n_heads = small_index.layers[0].n_heads
    of_word = [np.flatnonzero(words.unit == unit) for unit in words.words]
    for layer, head in ((0, 3), (5, 11)):
        token = small_index.head(layer, head).attention(sequence)
        found = sentence.attention[:, :, layer * n_heads + head]
        for j, pieces in enumerate(of_word):
            assert found[2 + j, 0] == pytest.approx(token[pieces, 0].mean(), abs=1e-3)  # to [CLS]
            assert found[1, 2 + j] == pytest.approx(token[-1, pieces].sum(), abs=1e-3)  # from [SEP]
            for i, others in enumerate(of_word):
                assert found[2 + j, 2 + i] == pytest.approx(token[np.ix_(pieces, others)].sum(1).mean(), abs=1e-3)


def test_root_is_told_from_the_special_tokens_at_both_ends(small_index: Index, decoder_index: Index) -> None:
    words = words_of(small_index, 2)
    assert probe_data._anchors(small_index, words).tolist() == [0, words.n_units - 1]
    assert probe_data._anchors(decoder_index, words_of(decoder_index, 2)).tolist() == [0, 0]


def test_random_attention_keeps_the_embeddings_alone(small_index: Index, minilm: Path) -> None:
    checkpoint = load(str(minilm), device="cpu")
    made = probe_data._initialised(checkpoint, [layer.module for layer in small_index.layers], 0).state_dict()
    for name, tensor in checkpoint.model.state_dict().items():
        if name.endswith("_embeddings.weight"):
            assert torch.equal(made[name], tensor)
        elif ".query.weight" in name:
            assert not torch.equal(made[name], tensor)
    words = words_of(small_index, 3)
    one, again, other = (probe_data.random_attention(small_index, checkpoint, seed)(words) for seed in (0, 0, 1))
    np.testing.assert_array_equal(one, again)
    np.testing.assert_allclose(one.sum(axis=1), 1, atol=1e-5)
    stored = probe_data.stored_attention(small_index)(words)
    assert one.shape == stored.shape
    assert np.abs(one - other).max() > 1e-5
    assert np.abs(one - stored).max() > 0.1


def test_attention_to_train_on_fits_its_limit(small_index: Index) -> None:
    places = tree_places(small_index)
    every = probe_data.draw(small_index, places, 1000, 0)
    sizes = {words.place: 2 * 72 * (len(words.words) + 2) ** 2 for words in every.words}
    part = probe_data.draw(small_index, places, 1000, 0, max_bytes=sum(sizes.values()) // 2)
    assert 0 < len(part.words) < len(every.words)
    assert sum(sizes[words.place] for words in part.words) <= sum(sizes.values()) // 2
    assert [words.place for words in every.words] == sorted(sizes)


def test_probes_of_an_index(small_index: Index, tmp_path: Path) -> None:
    import shutil

    options: dict[str, Any] = {"epochs": 12, "seed": 1}
    found = analyse(small_index, **options)
    scores = found.tables["probes-scores"].set_index("probe")
    assert set(scores.index) == set(PROBES)
    assert scores["n_words"].nunique() == 1
    assert (scores["low"] <= scores["uas"]).all()
    assert (scores["uas"] <= scores["high"]).all()
    assert scores.loc["attention", "uas"] > scores.loc["random attention", "uas"]
    relations = found.tables["probes-relations"]
    main = relations[~relations["relation"].str.contains(":")].assign(right=lambda t: t["n"] * t["accuracy"])
    sums = main.groupby("probe")[["n", "right"]].sum()
    share = sums["right"] / sums["n"]
    np.testing.assert_allclose(share, scores["uas_with_punctuation"].astype(float).loc[share.index])
    again = analyse(small_index, **options, probes=["attention"])
    assert again.tables["probes-scores"]["uas"][0] == scores.loc["attention", "uas"]
    copy = tmp_path / "index"
    shutil.copytree(small_index.root, copy)
    index = kept.keep(Index(copy), "probes", found.tables, head_columns=found.head_columns, parameters=found.parameters)
    assert index.head_table()["probe_weight"].sum() == pytest.approx(1)
    assert "UAS" in kept.read(index, "probes-scores").attrs["note"]


# ---------------------------------------------------------------------------------------------- words


def test_the_vector_of_a_word_is_the_mean_of_its_pieces(small_index: Index, minilm: Path) -> None:
    table = input_embeddings(load(str(minilm), device="cpu"))[:, :20]
    sentences = [words_of(small_index, place) for place in range(5)]
    of_words, said = word_vectors(small_index, sentences, table)
    assert "20 numbers" in said
    token_id = small_index.tokens["token_id"].to_numpy()
    plain, made = [], []
    for words in sentences:
        ids = token_id[words.rows]
        plain += [table[ids[words.unit == unit]].mean(axis=0) for unit in words.words]
        made += list(of_words(words))
    one, two = (np.linalg.norm(np.array(v)[:, None] - np.array(v)[None], axis=-1) for v in (plain, made))
    np.testing.assert_allclose(two * (one[0, 1] / two[0, 1]), one, rtol=1e-4, atol=1e-5)  # turned and scaled, no more
    assert np.array(made).var(axis=0).mean() == pytest.approx(1)


def test_vectors_may_be_given_in_four_forms(small_index: Index, tmp_path: Path) -> None:
    texts = sorted({t.lower() for t in small_index.tokens["word_text"].dropna()})
    rng = np.random.default_rng(0)
    given = dict(zip(texts, rng.standard_normal((len(texts), 5)).round(4), strict=True))
    lines = [" ".join([word, *map(str, vector)]) for word, vector in given.items()]
    (tmp_path / "glove.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (tmp_path / "word2vec.vec").write_text(f"{len(given)} 5\n" + "\n".join(lines) + "\n", encoding="utf-8")
    np.savez(tmp_path / "vectors.npz", words=np.array(texts), vectors=np.array(list(given.values())))
    sentences = [words_of(small_index, place) for place in range(4)]
    forms: list[Any] = [given, tmp_path / "glove.txt", tmp_path / "word2vec.vec", str(tmp_path / "vectors.npz")]
    made = [[word_vectors(small_index, sentences, form)[0](words) for words in sentences] for form in forms]
    for other in made[1:]:
        for one, two in zip(made[0], other, strict=True):
            np.testing.assert_allclose(one, two, atol=1e-9)


def test_given_vectors_need_no_checkpoint(small_index: Index) -> None:
    texts = small_index.tokens["word_text"].dropna().unique()
    given = {word: np.array([len(word), word[0].isupper()], dtype=float) for word in texts}
    probes = ["attention and words", "words and distances"]
    found = analyse(small_index, probes=probes, vectors=given, model="/nowhere", epochs=1)
    assert set(found.tables["probes-scores"]["probe"]) == set(probes)
    assert found.head_columns == ()


# ---------------------------------------------------------------------------------------------- errors


def test_what_cannot_be_probed_is_said(small_index: Index, decoder_index: Index, tmp_path: Path) -> None:
    with pytest.raises(QKSpaceError, match="no trees"):
        analyse(decoder_index)
    with pytest.raises(QKSpaceError, match="no probe attention and sound; there are attention and words"):
        analyse(small_index, probes=["attention and sound"])
    with pytest.raises(QKSpaceError, match="no such folder"):
        analyse(small_index, model=str(tmp_path / "gone"))
    with pytest.raises(QKSpaceError, match="epochs 0"):
        analyse(small_index, epochs=0)


def test_what_are_no_vectors_is_said(small_index: Index, tmp_path: Path) -> None:
    sentences = [words_of(small_index, 0)]
    (tmp_path / "other.txt").write_text("qwxz 1 2 3\n", encoding="utf-8")
    (tmp_path / "broken.npz").write_bytes(b"no archive")
    np.savez(tmp_path / "names.npz", texts=np.array(["a"]))
    cases: list[tuple[Any, str]] = [
        (tmp_path / "gone.txt", "no such file"),
        (tmp_path / "other.txt", "none of the"),
        (tmp_path / "broken.npz", "arrays words and vectors"),
        (tmp_path / "names.npz", "arrays words and vectors"),
        ({"the": [1, 2], "of": [1, 2, 3]}, "2 shapes"),
        (np.ones((3, 4)), "token ids up to"),
    ]
    for given, said in cases:
        with pytest.raises(QKSpaceError, match=said):
            word_vectors(small_index, sentences, given)
