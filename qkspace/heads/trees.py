"""Trees: who is the head of each word, as a corpus says, of the words of a sequence that have tokens.

In: an index with the columns `head` and `deprel`, as CoNLL-U gives them, and the words of a sequence. Out: the tree of the
sequence. Knows no attention.

    words = words_of(index, 12)
    tree_of(index, words).head                                      # (word), 0 for the root
"""

from __future__ import annotations

from dataclasses import dataclass
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from qkspace.heads.words import Words
from qkspace.index import Index
from qkspace.schema import BoolArray, IntArray, QKSpaceError

COLUMNS = ("head", "deprel")
MOST_WORDS = 1 << 31  # of a text: a greater number is of no word


@dataclass(frozen=True, slots=True, eq=False)
class Tree:
    """The gold tree of one stored sequence, over its words that have tokens, in their order (`Words.words`).

    head: (word), the number of the word's head among these words from 1, 0 for the root, -1 where there is none: the
    corpus says nothing of the word, or its head has no token here (`is_annotated` tells these apart).
    relation: (word), the label with its subtype ("acl:relcl"), "" where there is none.
    is_annotated: (word), whether the corpus says what the word's head is. is_punct: (word), whether its relation is punct.
    """

    head: IntArray
    relation: NDArray[np.object_]
    is_annotated: BoolArray
    is_punct: BoolArray

    @property
    def has_head(self) -> BoolArray:
        """Which words have a head that is a word, be it without a token here; not the root: (word)."""
        return np.asarray(self.is_annotated & (self.head != 0))

    @property
    def is_outside(self) -> BoolArray:
        """Which words have a head that has no token here: it shares one with another word, or is in another window."""
        return np.asarray(self.is_annotated & (self.head < 0))


@dataclass(frozen=True, slots=True, eq=False)
class Trees:
    """What all tokens of an index say of heads.

    head: (token), nan where nothing is said; relation: (token), a number among the names, the last of which is "".
    name: (relation); is_punct: (relation).
    """

    head: NDArray[np.float64]
    relation: IntArray
    name: NDArray[np.object_]
    is_punct: BoolArray


_READ: WeakKeyDictionary[Index, Trees] = WeakKeyDictionary()  # an index on disk does not change


def trees_of(index: Index) -> Trees:
    """Return what all tokens of an index say of heads, read once for each index.

    Raises:
        QKSpaceError: as `tree_of`.
    """
    if index not in _READ:
        import pandas as pd

        refuse_without_trees(index)
        relation, labels = pd.factorize(index.tokens["deprel"])
        name = np.array([*(label if isinstance(label, str) else "" for label in labels), ""], dtype=object)
        is_punct = np.array([main_relation(label) == "punct" for label in name], dtype=bool)
        there = np.where(relation < 0, len(labels), relation).astype(np.int32)
        _READ[index] = Trees(_numbers(index), there, name, is_punct)
    return _READ[index]


def tree_of(index: Index, words: Words) -> Tree:
    """Return the tree of the words of a sequence (`words_of`).

    Raises:
        QKSpaceError: the index has no columns `head` and `deprel`, or `head` does not hold numbers of words.
    """
    trees, unit = trees_of(index), words.words
    row, number = words.row[unit], words.word[unit]
    given, relation = trees.head[row], trees.relation[row]
    is_annotated = ~np.isnan(given)
    head = np.where(is_annotated, given, 0).astype(np.int64)
    place = np.searchsorted(number, head - 1)  # words are in the order of their text
    found = number[np.minimum(place, len(number) - 1)] == head - 1 if len(number) else np.zeros(0, dtype=bool)
    among = np.where(head == 0, 0, np.where(found, place + 1, -1))
    return Tree(np.where(is_annotated, among, -1), trees.name[relation], is_annotated, trees.is_punct[relation])


def main_relation(relation: str) -> str:
    """Return a relation without its subtype: acl of acl:relcl."""
    return relation.partition(":")[0]


def refuse_without_trees(index: Index) -> None:
    """Raise where the words of an index have no heads and relations."""
    missing = [name for name in COLUMNS if name not in index.tokens]
    if missing:
        raise QKSpaceError(
            f"{index.root} has no column {' and no column '.join(missing)}: its corpus has no trees. Build an index of "
            "CoNLL-U, such as a treebank of Universal Dependencies, or of JSONL whose words have head (1 is the first word "
            "of the text, 0 the root) and deprel."
        )


def _numbers(index: Index) -> NDArray[np.float64]:
    """Return the column `head` as numbers, nan where it is empty: (token)."""
    import pandas as pd

    try:
        numbers = np.asarray(pd.to_numeric(index.tokens["head"]), dtype=np.float64)
    except (ValueError, TypeError) as error:
        raise QKSpaceError(f"{index.root}: column head holds no numbers of words ({error}).") from error
    there = numbers[~np.isnan(numbers)]
    wrong = there[(there < 0) | (there > MOST_WORDS) | (there != np.floor(there))]
    if len(wrong):
        raise QKSpaceError(
            f"{index.root}: column head holds {wrong[0]:g}, which is no number of a word; expected 1 for the first word of a "
            "text, 2 for the next, and 0 for the root."
        )
    return numbers
