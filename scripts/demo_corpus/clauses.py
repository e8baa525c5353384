"""Clauses: a verb with its auxiliaries, subject, negation and particle, in order and in agreement.

In: a lemma, a tense and a subject. Out: the node of the verb, or of the predicate of a copula. Knows no topic.
"""

from __future__ import annotations

from demo_corpus.inflection import inflect
from demo_corpus.trees import Node
from demo_corpus.words import adverb


def verb_feats(form: str, subject: Node | None, passive: bool) -> str:
    """Return the FEATS of a verb form."""
    number, person = (subject.number, subject.person) if subject else ("Sing", 3)
    return {
        "VBD": "Mood=Ind|Tense=Past|VerbForm=Fin",
        "VBZ": "Mood=Ind|Number=Sing|Person=3|Tense=Pres|VerbForm=Fin",
        "VBP": f"Mood=Ind|Number={number}|Person={person}|Tense=Pres|VerbForm=Fin",
        "VB": "VerbForm=Inf",
        "VBG": "Tense=Pres|VerbForm=Part",
        "VBN": "Tense=Past|VerbForm=Part" + ("|Voice=Pass" if passive else ""),
        "MD": "VerbForm=Fin",
    }[form]


def verb_word(lemma: str, form: str, subject: Node | None, passive: bool = False) -> Node:
    """Return one verb of a verb group, in agreement with its subject."""
    singular = subject is None or (subject.number == "Sing" and subject.person != 2)
    third = singular and (subject is None or subject.person == 3)
    if form == "VBZ" and not third:
        form = "VBP"
    text = lemma if form == "MD" else inflect(lemma, form)
    if lemma == "be" and form == "VBD" and not singular:
        text = "were"
    if lemma == "be" and form == "VBP":
        text = "am" if singular else "are"
    return Node(text, "VERB", form, lemma, verb_feats(form, subject, passive))


def verb_group(lemma: str, tense: str, subject: Node | None, support: bool, passive: bool) -> list[Node]:
    """Return the verbs of a clause in order, main verb last; `support` asks for an auxiliary (questions, negation)."""
    kind, _, modal = tense.partition(":")
    parts = [modal] if modal else []
    parts += ["have"] if kind in ("perfect", "past_perfect") else []
    parts += ["be"] if kind in ("progressive", "past_progressive") else []
    progressive = len(parts) if kind.endswith("progressive") else -1
    parts += (["be"] if passive else []) + [lemma]
    fixed = {"infinitive": "VB", "imperative": "VB", "gerund": "VBG"}
    if support and len(parts) == 1 and lemma != "be" and kind not in ("infinitive", "gerund"):
        parts.insert(0, "do")
    form = fixed.get(kind) or ("MD" if modal else "VBD" if kind.startswith("past") else "VBZ")
    group = []
    for position, part in enumerate(parts):
        last = position == len(parts) - 1
        group.append(verb_word(part, form, subject, passive and last))
        form = "VBN" if part == "have" or (passive and position == len(parts) - 2) else "VB"
        form = "VBG" if position + 1 == progressive else form
    if kind == "imperative":
        group[0].feats = "Mood=Imp|VerbForm=Fin"
    for verb in group[:-1]:
        verb.upos, verb.relation = "AUX", "aux"
    if passive:
        group[-2].relation = "aux:pass"
    return group


def clause(
    verb: str,
    tense: str,
    subject: Node | None,
    *,
    negative: bool = False,
    inverted: bool = False,
    passive: bool = False,
    often: str = "",
    predicate: Node | None = None,
) -> Node:
    """Return a clause: its verb, or the predicate of a copula, with subject and auxiliaries attached in order."""
    verb, _, particle = verb.partition("_")
    group = verb_group(verb, tense, subject, negative or inverted, passive)
    head = predicate or group[-1]
    if predicate is not None:
        group[-1].upos, group[-1].relation = "AUX", "cop"
    parts = [item for item in group if item is not head]
    if negative or often:
        word = Node("not", "PART", "RB", feats="Polarity=Neg") if negative else adverb(often)
        word.relation = "advmod"
        parts.insert(min(1, len(parts)), word)
    if subject is not None:
        subject.relation = "nsubj:pass" if passive else "nsubj"
        parts.insert(1 if inverted else 0, subject)
    head.before[:0] = parts
    if particle:
        head.right(Node(particle, "ADP", "RP"), "compound:prt")
    return head
