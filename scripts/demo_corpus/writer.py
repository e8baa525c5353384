"""From trees to text: the order of the words, their spelling in a sentence, and CoNLL-U.

In: the root of a sentence. Out: its words in order, its text, and its lines of CoNLL-U. Knows no topic and no scene.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from demo_corpus.inflection import inflect
from demo_corpus.trees import Node, capital

# Vowel letters with a consonant sound, and the reverse: the exceptions the lexicon could meet.
A_BEFORE, AN_BEFORE = ("uni", "use", "eu", "one"), ("hour", "honest")


def finish(root: Node, mark: str) -> list[Node]:
    """Add the final mark and the capital, choose between a and an, and return the words in order."""
    words = list(root.words())
    if words[-1].xpos != "''":
        root.right(Node(mark, "PUNCT", ".", glued="left"), "punct")
    capital(root)
    words = list(root.words())
    if any(word.form == "," and later.xpos in (".", ",") for word, later in pairwise(words)):
        raise ValueError("two marks in a row: " + plain_text(words))
    for word, later in pairwise(words):
        if word.lemma == "a" and word.upos == "DET":
            sound = later.form.lower()
            vowel = sound.startswith(AN_BEFORE) or (sound[0] in "aeiou" and not sound.startswith(A_BEFORE))
            word.form = word.form[0] + ("n" if vowel else "")
    return words


def clumsy(words: Sequence[Node]) -> bool:
    """Tell whether a sentence repeats a word or its root (a printer that prints), or has two phrases with `with`."""
    content = [word.lemma or word.form for word in words if word.upos in ("NOUN", "PROPN", "ADJ", "VERB")]
    content = [word for word in content if word not in ("Mr", "Mrs")]
    roots = [word.lemma.removesuffix("e") for word in words if word.upos == "VERB" and len(word.lemma) > 3]
    nouns = [word.lemma for word in words if word.upos == "NOUN"]
    participles = {inflect(word.lemma, "VBN") for word in words if word.upos == "VERB"}
    echo = any(noun.startswith(root) for root in roots for noun in nouns) or any(
        w.upos == "ADJ" and w.form in participles for w in words
    )
    return echo or len(set(content)) < len(content) or sum(word.form == "with" for word in words) > 1


def spaced(words: Sequence[Node], position: int) -> bool:
    """Tell whether a space follows the word at a position."""
    last = position + 1 == len(words)
    return not last and words[position].glued != "right" and words[position + 1].glued != "left"


def plain_text(words: Sequence[Node]) -> str:
    """Return the sentence as it is written."""
    return "".join(word.form + " " * spaced(words, position) for position, word in enumerate(words))


def mention(node: Node) -> str:
    """Return the entity name of an antecedent: its lemma, and those coordinated with it."""
    names = [node, *(child for child in node.after if child.relation == "conj")] if node.number == "Plur" else [node]
    full = ([name, *(child for child in name.after if child.relation == "flat")] for name in names)
    return "+".join("_".join(word.lemma or word.form for word in words).lower() for words in full)


def to_conllu(words: Sequence[Node], comments: Sequence[str]) -> str:
    """Return one sentence as CoNLL-U."""
    ids = {id(word): position + 1 for position, word in enumerate(words)}
    heads = {id(child): ids[id(word)] for word in words for child in word.before + word.after}
    entities = {id(word.antecedent): mention(word.antecedent) for word in words if word.antecedent is not None}
    lines = [f"# {comment}" for comment in comments]
    for position, word in enumerate(words):
        misc = []
        if word.antecedent is not None:
            misc += [f"Antecedent={ids[id(word.antecedent)]}", f"Entity={mention(word.antecedent)}"]
        elif id(word) in entities:
            misc.append(f"Entity={entities[id(word)]}")
        if position + 1 < len(words) and not spaced(words, position):
            misc.append("SpaceAfter=No")
        columns = (
            str(position + 1), word.form, word.lemma or word.form, word.upos, word.xpos, word.feats,
            str(heads.get(id(word), 0)), word.relation, "_", "|".join(misc) or "_",
        )  # fmt: skip
        lines.append("\t".join(columns))
    return "\n".join(lines) + "\n\n"
