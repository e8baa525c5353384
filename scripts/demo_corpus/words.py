"""Single words as nodes: adverbs, determiners, pronouns.

In: a form, or for a pronoun the phrase that it stands for. Out: a `Node` with its tags. Knows no topic and no clause.
"""

from __future__ import annotations

from demo_corpus.trees import Node

PRONOUNS = {  # person, number and gender -> nominative, accusative, possessive
    "1Singx": ("I", "me", "my"),
    "1Plurx": ("we", "us", "our"),
    "2Singx": ("you", "you", "your"),
    "3Singm": ("he", "him", "his"),
    "3Singf": ("she", "her", "her"),
    "3Singn": ("it", "it", "its"),
    "3Plurx": ("they", "them", "their"),
}


def adverb(form: str, xpos: str = "RB") -> Node:
    """Return an adverb."""
    return Node(form, "ADV", xpos)


def adjective(form: str) -> Node:
    """Return an adjective in the positive degree."""
    return Node(form, "ADJ", "JJ", feats="Degree=Pos")


def preposition(form: str) -> Node:
    """Return a preposition."""
    return Node(form, "ADP", "IN")


def marker(form: str) -> Node:
    """Return a word that opens a clause; `to` is the infinitive's."""
    return Node("to", "PART", "TO") if form == "to" else Node(form, "SCONJ", "IN")


def determiner(form: str) -> Node:
    """Return a determiner; `a` becomes `an` when the words are in order."""
    feats = {
        "the": "Definite=Def|PronType=Art",
        "a": "Definite=Ind|PronType=Art",
        "this": "Number=Sing|PronType=Dem",
        "that": "Number=Sing|PronType=Dem",
        "these": "Number=Plur|PronType=Dem",
        "those": "Number=Plur|PronType=Dem",
    }
    lemma = {"these": "this", "those": "that"}.get(form, form)
    return Node(form, "DET", "DT", lemma, feats.get(form, "_"))


def conjunction(form: str) -> Node:
    """Return a coordinating conjunction."""
    return Node(form, "CCONJ", "CC")


def plain_noun(form: str) -> Node:
    """Return a singular noun by itself, of no topic."""
    return Node(form, "NOUN", "NN", feats="Number=Sing")


def proper_noun(form: str, gender: str = "n") -> Node:
    """Return a name."""
    return Node(form, "PROPN", "NNP", feats="Number=Sing", gender=gender)


def comma() -> Node:
    """Return a comma."""
    return Node(",", "PUNCT", ",", glued="left")


def pronoun(antecedent: Node, case: int) -> Node:
    """Return the pronoun for a phrase: case 0 is nominative, 1 accusative, 2 possessive."""
    plural = antecedent.number == "Plur"
    gender = "x" if plural or antecedent.person < 3 else antecedent.gender
    forms = PRONOUNS[f"{antecedent.person}{antecedent.number}{gender}"]
    extra = {"m": "Gender=Masc|", "f": "Gender=Fem|", "n": "Gender=Neut|", "x": ""}[gender]
    ends = f"{extra}Number={antecedent.number}|Person={antecedent.person}"
    poss = "|Poss=Yes|PronType=Prs" if case == 2 else "|PronType=Prs"
    feats = ("" if case == 2 else f"Case={('Nom', 'Acc')[case]}|") + ends + poss
    node = Node(forms[case], "PRON", "PRP$" if case == 2 else "PRP", forms[2 if case == 2 else 0], feats)
    node.number, node.gender, node.person = antecedent.number, antecedent.gender, antecedent.person
    node.antecedent = antecedent if antecedent.upos in ("NOUN", "PROPN") else antecedent.antecedent
    return node


def personal(key: str) -> Node:
    """Return a pronoun without an antecedent in the sentence, such as `1Plurx` for we."""
    return pronoun(Node("", "X", "X", number=key[1:5], gender=key[5], person=int(key[0])), 0)


def wh_word(form: str) -> Node:
    """Return an interrogative or relative word."""
    tags = {
        "who": ("PRON", "WP"), "whom": ("PRON", "WP"), "what": ("PRON", "WP"), "which": ("PRON", "WDT"),
        "whose": ("PRON", "WP$"), "that": ("PRON", "WDT"),
    }  # fmt: skip
    upos, xpos = tags.get(form, ("ADV", "WRB"))
    return Node(form, upos, xpos, "who" if form == "whom" else form)
