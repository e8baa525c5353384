"""Attachment: of how many words of a treebank each head of attention finds the head.

In: an index of a corpus with trees, and the places of some of its sequences. Out: counts for each relation, head of attention
and direction. Knows neither which sequences are for what nor which head is best.

    sentences = read_sentences(index, places, offsets=[1, -1])
    counts = count(index, sentences, list(groups_of(sentences).values()))
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qkspace.console import SILENT, Console
from qkspace.heads.blocks import vectors_of
from qkspace.heads.pointing import DIRECTIONS, pointers
from qkspace.heads.trees import Tree, main_relation, tree_of
from qkspace.heads.words import Rows, Words, words_of
from qkspace.index import Index
from qkspace.schema import BoolArray, IntArray

# beside the relations: unlabelled attachment scores
ALL, ALL_WITH_PUNCTUATION = SCORES = ("all", "all with punctuation")
MAX_COST = 1_000_000_000  # attention weights recomputed for one split: about half a minute
CALL_COST = 10_000  # weights that could be recomputed while a layer's vectors of one sequence are read

Groups = dict[str, IntArray]  # by name, the places of the words that are counted

# ---------------------------------------------------------------------------------------------- of one sequence


def correct(pointer: IntArray, tree: Tree) -> BoolArray:
    """Return which words point to their gold heads: (..., word). None of the root and of words without a tree does.

    pointer: (..., word), numbers of words from 0, -1 for none (`qkspace.heads.pointing`).
    """
    return np.asarray((pointer == tree.head - 1) & (tree.head > 0))


def at_offsets(n_words: int, offsets: Sequence[int]) -> IntArray:
    """Return the word at each offset from each word: (offset, word), -1 beyond the sentence."""
    place = np.arange(n_words) + np.asarray(offsets, dtype=np.int64)[:, None]
    return np.where((place >= 0) & (place < n_words), place, -1)


# ---------------------------------------------------------------------------------------------- of one split


@dataclass(frozen=True, slots=True, eq=False)
class Sentences:
    """Sentences, and those of their words that have a head, laid end to end.

    start: (sentence + 1), where the words of each begin; sentence: (word); relation: (word); is_punct: (word);
    offset_correct: (offset, word). n_outside: words whose head has no token. n_given: sentences of which these were drawn.
    """

    words: list[Words]
    tree: list[Tree]
    start: IntArray
    sentence: IntArray
    relation: NDArray[np.object_]
    is_punct: BoolArray
    offset_correct: BoolArray
    n_outside: int
    n_given: int


def read_sentences(
    index: Index, places: IntArray, offsets: Sequence[int], *, max_sequences: int | None = None, seed: int = 0
) -> Sentences:
    """Read the words and trees of sequences, drawn at random where there are too many.

    Args:
        index: an index of a corpus with trees.
        places: of the sequences among the stored ones.
        offsets: in words, of which `Sentences.offset_correct` says which are right.
        max_sequences: to draw; None: as many as are counted in about half a minute.
        seed: of the draw.
    """
    words = [words_of(index, int(place)) for place in _drawn(index, places, max_sequences, seed)]
    tree = [tree_of(index, each) for each in words]
    counted = [each.has_head for each in tree]
    n_words = np.array([each.sum() for each in counted])
    right = [correct(at_offsets(len(each.head), offsets), each)[:, each.has_head] for each in tree]
    return Sentences(
        words=words,
        tree=tree,
        start=np.concatenate([[0], np.cumsum(n_words)]),
        sentence=np.repeat(np.arange(len(words)), n_words),
        relation=np.concatenate([each.relation[each.has_head] for each in tree]),
        is_punct=np.concatenate([each.is_punct[each.has_head] for each in tree]),
        offset_correct=np.concatenate(right, axis=1),
        n_outside=sum(int(each.is_outside.sum()) for each in tree),
        n_given=len(places),
    )


def _drawn(index: Index, places: IntArray, most: int | None, seed: int) -> IntArray:
    """Return the places of as many sequences as may be looked at, ascending."""
    n = index.sequences["n_tokens"].to_numpy(dtype=np.int64)[places]
    n_heads = sum(layer.n_heads for layer in index.layers)
    order = np.random.default_rng(seed).permutation(len(places))
    cost = np.cumsum(index.n_layers * CALL_COST + n_heads * n[order] ** 2)
    affordable = int(np.searchsorted(cost, MAX_COST, side="right")) if most is None else most
    return np.sort(places[order[: max(affordable, 1)]])


def groups_of(sentences: Sentences, *, subtypes: bool = True) -> Groups:
    """Return the words that are counted together: all, and those of each relation, by name.

    subtypes: whether a subtype (acl:relcl) is also counted by itself; the relation (acl) includes it in any case.
    """
    groups: Groups = {
        ALL: np.flatnonzero(~sentences.is_punct),
        ALL_WITH_PUNCTUATION: np.arange(len(sentences.relation)),
    }
    main = np.array([main_relation(label) for label in sentences.relation], dtype=object)
    for labels in (main, sentences.relation) if subtypes else (main,):
        unique, number = np.unique(labels.astype(str), return_inverse=True)
        for i, label in enumerate(unique):
            if label and label not in groups:
                groups[str(label)] = np.flatnonzero(number == i)
    return groups


def _correct_of(index: Index, layer: int, sentences: Sentences, rows: Rows) -> BoolArray:
    """Return what each head of a layer is right about: (direction, head, word)."""
    start, vectors = sentences.start, vectors_of(index, layer)
    found = np.empty((len(DIRECTIONS), index.layers[layer].n_heads, int(start[-1])), dtype=bool)
    for i, (words, tree) in enumerate(zip(sentences.words, sentences.tree, strict=True)):
        right = correct(pointers(index, layer, words, rows=rows, vectors=vectors), tree)
        found[:, :, start[i] : start[i + 1]] = right[:, :, tree.has_head]
    return found


@dataclass(frozen=True, slots=True, eq=False)
class Counts:
    """What was counted on one split.

    group: the words of each group; correct: (group, head of any layer, direction); by_best: of each group, which of its
    words the head and direction found that were asked for, (word).
    """

    sentences: Sentences
    group: list[IntArray]
    correct: IntArray
    by_best: list[BoolArray]

    @property
    def n(self) -> IntArray:
        """Words of each group: (group)."""
        return np.array([len(each) for each in self.group])


def count(
    index: Index,
    sentences: Sentences,
    group: list[IntArray],
    *,
    best: IntArray | None = None,
    rows: Rows = "mean",
    console: Console = SILENT,
    label: str = "Relations",
) -> Counts:
    """Count the words of each group of which each head of attention finds the head; a layer's are held at a time.

    best: (group), the number of a head of any layer, times two, plus that of a direction, whose words are returned one by
    one. label: of the progress bar.
    """
    counted, by_best = [], [np.zeros(0, dtype=bool)] * len(group)
    first = 0
    for layer in console.track(range(index.n_layers), index.n_layers, label, unit="layers"):
        right = _correct_of(index, layer, sentences, rows)
        counted.append(np.stack([right[:, :, each].sum(axis=2).T for each in group]))
        last = first + right.shape[1]
        for number, each in enumerate(group):
            head, direction = (-1, 0) if best is None else divmod(int(best[number]), len(DIRECTIONS))
            if first <= head < last:
                by_best[number] = right[direction, head - first, each]
        first = last
    return Counts(sentences, group, np.concatenate(counted, axis=1), by_best)
