"""A sentence as a tree: words with their dependants in order.

In: words one by one. Out: `Node`, and its words in order. Knows no English.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Self


@dataclass(eq=False)
class Node:
    """One word with its ordered dependants; number, person and gender are those of the phrase it heads."""

    form: str
    upos: str
    xpos: str
    lemma: str = ""
    feats: str = "_"
    number: str = "Sing"
    gender: str = "n"
    person: int = 3
    relation: str = "root"
    before: list[Node] = field(default_factory=list)
    after: list[Node] = field(default_factory=list)
    glued: str = ""  # "left" or "right": the side without a space
    antecedent: Node | None = None

    def left(self, child: Node | None, relation: str) -> Self:
        """Attach a dependant before this word, after those already there."""
        if child is not None:
            child.relation = relation
            self.before.append(child)
        return self

    def front(self, child: Node | None, relation: str) -> Self:
        """Attach a dependant before every other word of this phrase."""
        if child is not None:
            child.relation = relation
            self.before.insert(0, child)
        return self

    def right(self, child: Node | None, relation: str) -> Self:
        """Attach a dependant after this word, after those already there."""
        if child is not None:
            child.relation = relation
            self.after.append(child)
        return self

    def words(self) -> Iterator[Node]:
        """Yield the words of this phrase in order."""
        for child in self.before:
            yield from child.words()
        yield self
        for child in self.after:
            yield from child.words()


def capital(root: Node) -> None:
    """Capitalise the first word of a phrase."""
    first = next(word for word in root.words() if word.upos != "PUNCT")
    first.lemma = first.lemma or first.form
    first.form = first.form[0].upper() + first.form[1:]
