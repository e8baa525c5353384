"""Write the demo corpus: a seed in, `data/demo.conllu` out, the same bytes every time.

In: the words of `demo_lexicon`. Out: English sentences with gold heads, relations and antecedents, as CoNLL-U.
Every sentence is built as a dependency tree and only then put in order, so heads cannot be wrong.
Knows nothing about models, tokenisers or attention.
"""

import argparse
import random
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Self, TypeVar

from demo_lexicon import (
    CITIES,
    COMPARABLE,
    FREQUENCIES,
    HUMS,
    NAMES,
    NUMERALS,
    OWNABLE,
    QUICK_MANNERS,
    QUICK_VERBS,
    SLOW_MANNERS,
    SLOW_VERBS,
    SOLITARY,
    SURNAMES,
    WEEKDAYS,
    Domain,
    Event,
    find_noun,
    inflect,
    load_lexicon,
)

Item = TypeVar("Item")

SEED = 20
DEFAULT_PATH = Path(__file__).resolve().parent.parent / "data" / "demo.conllu"
PRONOUNS = {  # person, number and gender -> nominative, accusative, possessive
    "1Singx": ("I", "me", "my"),
    "1Plurx": ("we", "us", "our"),
    "2Singx": ("you", "you", "your"),
    "3Singm": ("he", "him", "his"),
    "3Singf": ("she", "her", "her"),
    "3Singn": ("it", "it", "its"),
    "3Plurx": ("they", "them", "their"),
}
CONSUMING = {"eat", "drink", "swallow", "shred", "sell"}  # verbs after which there is nothing left to show
# Verbs that sound cut off without a place.
INCOMPLETE = {"look", "listen", "stare", "bow", "work", "climb", "walk", "stand", "sit", "run", "swim", "hurry"}
GAINING = {"buy", "find", "catch", "win", "spot", "plant", "build"}  # verbs whose object is not yet the subject's own
# Vowel letters with a consonant sound, and the reverse: the exceptions the lexicon could meet.
A_BEFORE, AN_BEFORE = ("uni", "use", "eu", "one"), ("hour", "honest")


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
    before: list["Node"] = field(default_factory=list)
    after: list["Node"] = field(default_factory=list)
    glued: str = ""  # "left" or "right": the side without a space
    antecedent: "Node | None" = None

    def left(self, child: "Node | None", relation: str) -> Self:
        """Attach a dependant before this word, after those already there."""
        if child is not None:
            child.relation = relation
            self.before.append(child)
        return self

    def front(self, child: "Node | None", relation: str) -> Self:
        """Attach a dependant before every other word of this phrase."""
        if child is not None:
            child.relation = relation
            self.before.insert(0, child)
        return self

    def right(self, child: "Node | None", relation: str) -> Self:
        """Attach a dependant after this word, after those already there."""
        if child is not None:
            child.relation = relation
            self.after.append(child)
        return self

    def words(self) -> Iterator["Node"]:
        """Yield the words of this phrase in order."""
        for child in self.before:
            yield from child.words()
        yield self
        for child in self.after:
            yield from child.words()


# --- words --------------------------------------------------------------------------------------------------


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
    source = antecedent if antecedent.upos in ("NOUN", "PROPN") else antecedent.antecedent
    node.antecedent = source
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


def base_of(key: str) -> str:
    """Return the noun of an object key such as `cup>tea`, `plate*` or `piano+`."""
    return key.partition(">")[0].rstrip("*+")


# --- a scene: one domain, and what has already been used ----------------------------------------------------


@dataclass
class Scene:
    """A held source of words: one domain, the random numbers, and counts that keep the corpus varied."""

    rng: random.Random
    domain: Domain
    used: Counter[str]
    present: set[str] = field(default_factory=set)  # people of the current sentence

    def chance(self, probability: float) -> bool:
        """Return True with a probability."""
        return self.rng.random() < probability

    def pick(self, items: Sequence[Item]) -> Item:
        """Return the least used of three random items."""
        drawn = [self.rng.choice(items) for _ in range(3)]
        chosen = min(drawn, key=lambda item: self.used[f"{self.domain.name} {item}"])
        self.used[f"{self.domain.name} {chosen}"] += 1
        return chosen

    def noun(self, key: str, det: str = "the", plural: bool | None = None, plain: bool = False) -> Node:
        """Return a noun phrase for a key of the lexicon; `det` is adjusted where the noun does not allow it."""
        base, _, content = key.partition(">")
        entry = find_noun(self.domain.name, base.rstrip("*+"))
        if entry.kind in ("mass", "unique") or "+" in base:
            plural = False
        elif entry.kind == "plural" or "*" in base:
            plural = True
        plural = bool(plural)
        form, tag = (entry.plural, "NNS") if plural else (entry.words[-1], "NN")
        head = Node(form, "NOUN", tag, entry.words[-1], "Number=" + ("Plur" if plural else "Sing"))
        if entry.kind == "plural":
            head.lemma = entry.plural
        head.number = "Plur" if plural else "Sing"
        head.gender = self.rng.choice("fm") if entry.gender == "x" else entry.gender
        self._determine(head, "the" if entry.kind == "unique" else det, entry.kind == "mass")
        choices = [word for word in entry.adjectives if word not in entry.words]
        if choices and not plain and self.chance(0.42):
            head.left(adjective(self.pick(choices)), "amod")
        for word in entry.words[:-1]:
            head.left(Node(word, "NOUN", "NN", feats="Number=Sing"), "compound")
        if content:
            head.right(self.noun(content, "", plain=True).front(preposition("of"), "case"), "nmod")
        elif entry.modifiers and not plain and self.chance(0.35):
            head.right(self.place(self.rng.choice(entry.modifiers)), "nmod")
        return head

    def _determine(self, head: Node, det: str, mass: bool) -> None:
        """Attach a determiner or numeral that the number of the noun allows."""
        plural = head.number == "Plur"
        if det == "number":
            det = self.rng.choice(NUMERALS) if plural else "the"
        if mass or plural:
            det = {"a": "some"}.get(det, det)
        if plural:
            det = {"this": "these", "that": "those"}.get(det, det)
        if det in NUMERALS:
            head.left(Node(det, "NUM", "CD", feats="NumType=Card"), "nummod")
        elif det == "several":
            head.left(Node(det, "ADJ", "JJ", feats="Degree=Pos"), "amod")
        elif det:
            head.left(determiner(det), "det")

    def place(self, text: str) -> Node:
        """Return a prepositional phrase from `in:kitchen`."""
        form, _, key = text.partition(":")
        bare = form in ("of", "with") and ("*" in key or find_noun(self.domain.name, key).kind == "mass")
        return self.noun(key, "" if bare else "the", plain=self.chance(0.75)).front(preposition(form), "case")

    def thing(self, keys: Sequence[str], owner: Node | None = None, det: str = "") -> Node:
        """Return an object: with an article, a number, a demonstrative, or its owner."""
        key, roll = self.pick(keys), self.rng.random()
        if det or roll < 0.42:
            return self.noun(key, det or "the", self.chance(0.25))
        if roll < 0.58:
            return self.noun(key, "a", self.chance(0.15))
        if roll < 0.70:
            return self.noun(key, "number", True)
        if roll < 0.78:
            return self.noun(key, self.rng.choice(("this", "that")), self.chance(0.4))
        if base_of(key) not in OWNABLE:
            return self.noun(key, plural=self.chance(0.25))
        if owner is not None:
            return self.noun(key, "", self.chance(0.2)).front(pronoun(owner, 2), "nmod:poss")
        return self.noun(key, "").front(self.genitive(), "nmod:poss")

    def own_thing(self, keys: Sequence[str], owner: Node) -> Node:
        """Return an object with an article, a number, or the owner's pronoun: no third person comes in."""
        key = self.pick(keys)
        if base_of(key) in OWNABLE and self.chance(0.3):
            return self.noun(key, "", self.chance(0.15)).front(pronoun(owner, 2), "nmod:poss")
        return self.noun(key, self.rng.choice(("the", "a", "a", "number")), self.chance(0.25))

    def genitive(self) -> Node:
        """Return a possessor with its 's."""
        owner = self.person(simple=True)
        form = "'" if owner.number == "Plur" and owner.form.endswith("s") else "'s"
        tail = Node(form, "PART", "POS", "'s", glued="left")
        return owner.right(tail, "case")

    def name(self) -> Node:
        """Return a proper name, sometimes with a title."""
        free = [name for name in NAMES if name not in self.present]
        first = self.pick(free)
        self.present.add(first)
        head = Node(first, "PROPN", "NNP", feats="Number=Sing", gender=NAMES[first])
        if self.chance(0.25):
            surname = Node(self.pick(SURNAMES), "PROPN", "NNP", feats="Number=Sing")
            if self.chance(0.6):
                head.form = head.lemma = "Mr" if head.gender == "m" else "Mrs"
            head.right(surname, "flat")
        return head

    def role(self, det: str = "the", plural: bool = False, plain: bool = False) -> Node:
        """Return a person of this domain who is not in the sentence yet."""
        barred = self.present | SOLITARY if plural else self.present
        key = self.pick([key for key in self.domain.people if key not in barred])
        self.present.add(key)
        return self.noun(key, det, plural, plain or plural)

    def person(self, simple: bool = False) -> Node:
        """Return a phrase for one or more people."""
        roll = self.rng.random()
        if roll < 0.22:
            return self.name()
        if simple or roll < 0.62:
            return self.role(plain=simple)
        if roll < 0.72:
            return self.role(self.rng.choice(("the", "the", "two", "three")), plural=True)
        if roll < 0.82:
            return self.joined(self.name() if self.chance(0.5) else self.role(plain=True), self.name())
        if roll < 0.90:
            city = Node(self.pick(CITIES), "PROPN", "NNP", feats="Number=Sing")
            return self.role(self.rng.choice(("the", "a")), plain=True).right(
                city.left(preposition("from"), "case"), "nmod"
            )
        if roll < 0.95:
            return self.role("", plain=True).front(pronoun(personal("1Plurx"), 2), "nmod:poss")
        return personal(self.pick(("1Singx", "1Plurx", "3Plurx", "3Singm", "3Singf")))

    def single(self) -> Node:
        """Return one person named by a noun or a name."""
        return self.name() if self.chance(0.4) else self.role()

    @staticmethod
    def joined(first: Node, second: Node, word: str = "and") -> Node:
        """Return two coordinated phrases as a plural one."""
        first.right(second.front(Node(word, "CCONJ", "CC"), "cc"), "conj")
        first.number = "Plur" if word == "and" else second.number
        return first

    def mishap(self) -> Event:
        """Return an event that nobody wants."""
        return self.pick([event for event in self.domain.events if not event.deliberate and event.verb not in GAINING])

    def event(self, deliberate: bool | None = True, tools: bool = False) -> Event:
        """Return an event of this domain, of the wanted kind."""
        events = self.domain.events
        return self.pick(
            [event for event in events if deliberate in (None, event.deliberate) and (not tools or event.tools)]
        )

    def add_object(self, head: Node, event: Event, owner: Node | None = None, det: str = "") -> Node:
        """Attach an object to a clause; a particle stays next to its verb."""
        if event.verb in GAINING:
            det = det or self.rng.choice(("a", "the"))
        return head.right(self.thing(event.objects, owner, det), "obj")

    def add_plain_object(self, head: Node, event: Event) -> Node:
        """Attach the object of a habit: a bare plural or mass noun where the noun allows it."""
        key = self.pick(event.objects)
        return head.right(self.noun(key, "the" if "+" in key or ">" in key else "", True, plain=True), "obj")

    def add_details(
        self, head: Node, event: Event, owner: Node | None = None, limit: int = 2, manner: bool = True
    ) -> Node:
        """Attach a tool, a place or a manner to a clause."""
        options = (["tool"] if event.tools else []) + (["place"] if event.places else [])
        manners = SLOW_MANNERS if event.verb in SLOW_VERBS else QUICK_MANNERS if event.verb in QUICK_VERBS else []
        options += ["manner"] if manner and manners and self.chance(0.4) else []
        self.rng.shuffle(options)
        wanted = set(options[: self.rng.randint(0, limit)])
        if "manner" in wanted:
            word = adverb(self.pick(manners))
            head = head.left(word, "advmod") if self.chance(0.5) else head.right(word, "advmod")
        if "tool" in wanted:
            key = self.pick(event.tools)
            tool = self.noun(key, self.rng.choice(("a", "the")))
            if owner is not None and base_of(key) in OWNABLE and self.chance(0.3):
                tool = self.noun(key, "").front(pronoun(owner, 2), "nmod:poss")
            head.right(tool.front(preposition("with"), "case"), "obl")
        if "place" in wanted:
            head.right(self.place(self.pick(event.places)), "obl")
        return head

    def deed(
        self,
        subject: Node | None,
        tense: str,
        event: Event | None = None,
        limit: int = 1,
        *,
        negative: bool = False,
        inverted: bool = False,
    ) -> Node:
        """Return a clause in which somebody does something of this domain."""
        event = event or self.event()
        head = clause(event.verb, tense, subject, negative=negative, inverted=inverted)
        self.add_object(head, event, subject, "the" if negative else "")
        return self.add_details(head, event, subject, limit, manner=not negative)

    def act(self, subject: Node | None, tense: str) -> Node:
        """Return a clause in which somebody does something without an object."""
        verb, *rest = self.pick(self.domain.acts)
        head = clause(verb, tense, subject)
        needed = verb in INCOMPLETE
        if rest and (needed or self.chance(0.7)):
            head.right(self.place(rest[-1].lstrip("@")), "obl")
        return head

    def happening(self, tense: str) -> Node:
        """Return a clause about a thing that does something by itself."""
        key, verb, *rest = self.pick(self.domain.happenings)
        head = clause(verb, tense, self.noun(key, plain=self.chance(0.6)))
        if rest and self.chance(0.6):
            head.right(self.place(rest[-1].lstrip("@")), "obl")
        return head

    def state(self, pairs: Sequence[tuple[str, ...]], tense: str, *, inverted: bool = False) -> Node:
        """Return a copular clause from a pair such as (`guest*`, `hungry`)."""
        key, quality = self.pick(pairs)
        subject = self.noun(key, plain=True)
        return clause("be", tense, subject, predicate=adjective(quality), inverted=inverted)

    def time(self) -> Node:
        """Return a phrase that dates something past."""
        roll = self.rng.randrange(6)
        if roll == 0:
            day = Node(self.pick(WEEKDAYS), "PROPN", "NNP", feats="Number=Sing")
            return day.left(preposition("on"), "case")
        if roll == 1:
            noun = Node(self.pick(("night", "week", "month", "winter", "summer")), "NOUN", "NN", feats="Number=Sing")
            return noun.left(adjective("last"), "amod")
        if roll == 2:
            return Node("yesterday", "NOUN", "NN", feats="Number=Sing")
        form, word, det = self.pick(
            (("in", "morning", "the"), ("in", "evening", "the"), ("after", "lunch", ""), ("before", "breakfast", ""),
             ("at", "noon", ""), ("at", "midnight", ""), ("after", "midnight", ""), ("during", "afternoon", "the"))
        )  # fmt: skip
        noun = Node(word, "NOUN", "NN", feats="Number=Sing").left(preposition(form), "case")
        return noun.left(determiner(det), "det") if det else noun


# --- constructions: each returns the root of one sentence, without its final mark ---------------------------

TENSES = (
    "past",
    "past",
    "past",
    "past_progressive",
    "perfect",
    "past_perfect",
    "modal:could",
    "modal:must",
    "modal:will",
)


def opening(scene: Scene, head: Node) -> Node:
    """Put a date before a clause, or after it."""
    time = scene.time()
    relation = "obl" if any(child.relation == "case" for child in time.before) else "obl:tmod"
    if scene.chance(0.6):
        return head.front(time.right(comma(), "punct"), relation)
    return head.right(time, relation)


def statement(scene: Scene) -> Node:
    """Somebody does something: tenses, negation, dates, habits."""
    subject, roll = scene.person(), scene.rng.random()
    if roll < 0.35:
        return opening(scene, scene.deed(subject, "past", scene.event(None), limit=2))
    if roll < 0.55:
        event = scene.event()
        head = clause(event.verb, "present", subject, often=scene.pick(FREQUENCIES))
        return scene.add_details(scene.add_plain_object(head, event), event, limit=1, manner=False)
    if roll < 0.70:
        return scene.deed(subject, scene.pick(TENSES), negative=True)
    return scene.deed(subject, scene.pick(TENSES), limit=2)


def things(scene: Scene) -> Node:
    """A thing does something by itself."""
    roll = scene.rng.random()
    if roll < 0.5:
        return clause_pair(scene)
    if roll < 0.8:
        head = scene.happening("past")
        return head.front(
            adverb(scene.pick(("suddenly", "finally", "soon", "meanwhile"))).right(comma(), "punct"), "advmod"
        )
    return scene.happening(scene.pick(("past", "past_progressive", "perfect", "modal:will", "modal:might")))


def clause_pair(scene: Scene) -> Node:
    """Coordinate two clauses that fit: a state and what follows from it, or two things at once."""
    word = scene.pick(("so", "but", "and"))
    if word == "and":
        first = scene.happening("past")
        second = scene.deed(scene.person(), "past") if scene.chance(0.5) else scene.act(scene.single(), "past")
    else:
        first = scene.state(scene.domain.reasons if word == "so" else scene.domain.obstacles, "past")
        second = scene.deed(scene.person(), "past")
    return first.right(second.front(Node(word, "CCONJ", "CC"), "cc").front(comma(), "punct"), "conj")


def double_object(scene: Scene) -> Node:
    """Somebody gives somebody something."""
    verbs, objects = scene.pick(scene.domain.gifts)
    giver, verb = scene.person(), scene.pick(verbs)
    negative = scene.chance(0.15)
    head = clause(verb, scene.pick(TENSES), giver, negative=negative)
    gift = scene.noun(scene.pick(objects)) if negative else scene.own_thing(objects, giver)
    receiver = scene.role() if scene.chance(0.6) else scene.name()
    if verb != "ask" and scene.chance(0.35):
        return head.right(gift, "obj").right(receiver.front(preposition("to"), "case"), "obl")
    head.right(receiver, "iobj").right(gift, "obj")
    return opening(scene, head) if scene.chance(0.3) and head.before[-1].relation == "nsubj" else head


def passive(scene: Scene) -> Node:
    """Something is done, with or without an agent."""
    event = scene.event(None)
    tense = scene.pick(
        ("past", "past", "perfect", "past_progressive", "modal:must", "modal:can", "modal:will", "modal:should")
    )
    if not event.deliberate:
        tense = scene.pick(("past", "perfect", "past_perfect"))
    subject = scene.thing(event.objects, det=scene.pick(("the", "the", "number", "this")))
    head = clause(event.verb, tense, subject, passive=True, negative=scene.chance(0.15))
    if scene.chance(0.55):
        agent = scene.single() if scene.chance(0.7) else scene.role("a")
        head.right(agent.front(preposition("by"), "case"), "obl:agent")
        if event.places and scene.chance(0.4):
            head.right(scene.place(scene.pick(event.places)), "obl")
        return head
    scene.add_details(head, event, limit=1)
    return opening(scene, head) if tense == "past" else head


def relative(scene: Scene, noun: Node, head: Node, word: str, *, commas: bool = False) -> Node:
    """Attach a relative clause to a noun; the relative word carries the noun as its antecedent."""
    if word:
        target = next(item for item in head.words() if item.form == word and item.xpos.startswith("W"))
        target.antecedent = noun
    if commas:
        head.front(comma(), "punct").right(comma(), "punct")
    return noun.right(head, "acl:relcl")


def relative_subject(scene: Scene) -> Node:
    """The person who did something does something else."""
    named = scene.chance(0.25)
    noun = scene.name() if named else scene.role(plural=scene.chance(0.2))
    who = Node("who", "PRON", "WP", number=noun.number, gender=noun.gender, antecedent=noun)
    event = scene.event(scene.chance(0.75))
    inner = scene.deed(who, scene.pick(("past", "past_perfect", "past_progressive")[: 2 + event.deliberate]), event)
    relative(scene, noun, inner, "who", commas=named)
    if scene.chance(0.4):
        return scene.act(noun, "past")
    if scene.chance(0.4):
        return clause(
            "be",
            "past",
            noun,
            predicate=adjective(scene.pick(("tired", "proud", "happy", "late", "hungry", "nervous"))),
        )
    verbs, objects = scene.pick(scene.domain.gifts)
    head = clause(scene.pick(verbs), "past", noun)
    return head.right(scene.single(), "iobj").right(scene.own_thing(objects, noun), "obj")


def relative_object(scene: Scene) -> Node:
    """The thing that somebody did something to."""
    event = scene.event(None)
    noun = scene.thing(event.objects, det="the")
    maker = scene.person() if scene.chance(0.5) else scene.single()
    inner = clause(event.verb, scene.pick(("past", "past_perfect")), maker)
    word = scene.pick(("that", "that", "which", ""))
    if word:
        inner.front(wh_word(word), "obj")
    relative(scene, noun, inner, word)
    entry = find_noun(scene.domain.name, noun.lemma) if noun.lemma in load_lexicon()[1][scene.domain.name] else None
    there = [child.form for child in noun.before]
    qualities = [word for word in entry.adjectives if word not in there] if entry else []
    if qualities and scene.chance(0.5):
        return clause("be", "past", noun, predicate=adjective(scene.pick(qualities)), negative=scene.chance(0.2))
    if noun.lemma in OWNABLE and scene.chance(0.5):
        return clause("be", "past", noun, predicate=scene.noun(scene.domain.place).front(preposition("in"), "case"))
    head = clause(scene.pick(("remember", "mention", "describe", "like")), "past", scene.single())
    return head.right(noun, "obj")


def relative_other(scene: Scene) -> Node:
    """Relative clauses with whose, where and to whom."""
    roll = scene.rng.random()
    if roll < 0.3:
        place = scene.noun(scene.domain.place, plain=True)
        inner = scene.deed(scene.single(), "past", limit=0).front(wh_word("where"), "advmod")
        relative(scene, place, inner, "where")
        return clause(
            "be", "past", place, predicate=adjective(scene.pick(("cold", "dark", "crowded", "quiet", "large")))
        )
    noun = scene.role(plain=True)
    if roll < 0.65:
        verbs, objects = scene.pick([gift for gift in scene.domain.gifts if "ask" not in gift[0]])
        inner = clause(scene.pick(verbs), "past", scene.single()).right(scene.thing(objects, det="a"), "obj")
        inner.front(wh_word("whom").left(preposition("to"), "case"), "obl")
        relative(scene, noun, inner, "whom")
    else:
        item = scene.noun(scene.pick(portable(scene)), "", plain=True).front(wh_word("whose"), "nmod:poss")
        inner = clause("disappear", "past_perfect", item)
        relative(scene, noun, inner, "whose")
    return scene.act(noun, scene.pick(("past", "past_progressive")))


def yes_no(scene: Scene) -> Node:
    """A question that wants a yes or a no."""
    roll = scene.rng.random()
    if roll < 0.2:
        return scene.state(
            scene.domain.reasons + scene.domain.obstacles, scene.pick(("past", "present")), inverted=True
        )
    if roll < 0.4:
        event = scene.event(None)
        head = clause(event.verb, "past", scene.thing(event.objects, det="the"), passive=True, inverted=True)
        return head.right(scene.single().front(preposition("by"), "case"), "obl:agent")
    if roll < 0.65:
        tense = scene.pick(("modal:can", "modal:could", "modal:will", "modal:would"))
        return scene.deed(personal("2Singx"), tense, inverted=True)
    tense = scene.pick(("past", "past", "perfect", "past_progressive", "modal:should"))
    return scene.deed(scene.person(), tense, inverted=True, negative=scene.chance(0.1))


def wh_question(scene: Scene) -> Node:
    """A question with who, what, which, whose, how many, where, when or why."""
    word = scene.pick(("who", "what", "which", "whose", "many", "where", "when", "why", "how", "whom"))
    if word == "who":
        event = scene.event(scene.chance(0.7))
        tense = scene.pick(
            ("past", "perfect", "past_progressive", "modal:will") if event.deliberate else ("past", "perfect")
        )
        return scene.deed(wh_word("who"), tense, event)
    if word == "whom":
        verbs, objects = scene.pick([gift for gift in scene.domain.gifts if "ask" not in gift[0]])
        head = clause(scene.pick(verbs), "past", scene.single(), inverted=True)
        head.front(wh_word("whom").left(preposition("to"), "case"), "obl")
        return head.right(scene.thing(objects, det="the"), "obj")
    event = scene.event(None if word in ("where", "when", "many") else True, tools=word == "what")
    if word in ("where", "when", "why", "how"):
        tense = scene.pick(("past", "past", "modal:will")) if word != "how" else "past"
        head = clause(event.verb, tense, scene.person(), inverted=True).front(wh_word(word), "advmod")
        return scene.add_object(head, event, None, "the")
    if word == "what":
        tool = scene.noun(scene.pick(event.tools)).front(preposition("with"), "case")
        head = clause(event.verb, "past", scene.single(), inverted=True).front(wh_word("what"), "obj")
        return head.right(tool, "obl")
    key = scene.pick(event.objects)
    fronted = scene.noun(key, "", plural=word == "many", plain=True)
    mass = find_noun(scene.domain.name, base_of(key)).kind == "mass"
    if word == "many" and (mass or fronted.number == "Plur"):
        amount = Node("much" if mass else "many", "ADJ", "JJ", feats="Degree=Pos")
        fronted.front(amount.left(wh_word("how"), "advmod"), "amod")
    elif word == "whose" and base_of(key) in OWNABLE:
        fronted.front(wh_word("whose"), "nmod:poss")
    else:
        fronted.front(Node("which", "DET", "WDT", feats="PronType=Int"), "det")
    return clause(event.verb, scene.pick(("past", "past", "perfect")), scene.single(), inverted=True).front(
        fronted, "obj"
    )


def command(scene: Scene) -> Node:
    """Somebody is told to do something, or not to."""
    roll = scene.rng.random()
    if roll < 0.2:
        event = scene.mishap()
        head = clause(event.verb, "imperative", None, negative=True)
        return scene.add_details(scene.add_object(head, event, None, "the"), event, limit=1)
    event = scene.event()
    head = clause(event.verb, "imperative", None, negative=roll < 0.3)
    scene.add_details(
        scene.add_object(head, event, None, scene.pick(("the", "the", "number", "this"))),
        event,
        limit=1,
        manner=roll > 0.45,
    )
    if roll < 0.45:
        head.front(Node("please", "INTJ", "UH"), "discourse")
    elif roll < 0.6:
        subordinate(head, scene.happening("present"), scene.pick(("before", "when")), first=False)
    elif roll < 0.75:
        second = scene.deed(None, "imperative").front(adverb("then"), "advmod").front(Node("and", "CCONJ", "CC"), "cc")
        head.right(second, "conj")
    elif roll < 0.85:
        head.front(scene.name().right(comma(), "punct"), "vocative")
    return head


def list_of_nouns(scene: Scene) -> Node:
    """Coordinate two or three objects."""
    events = [event for event in scene.domain.events if len(event.objects) > 2 and event.deliberate]
    event = scene.pick(events)
    keys = scene.rng.sample(event.objects, scene.rng.randint(2, 3))
    det = scene.pick(("the", "a", "number"))
    first, *rest = [scene.noun(key, det, det == "number", plain=True) for key in keys]
    for item in rest[:-1]:
        first.right(item.front(comma(), "punct"), "conj")
    tense = scene.pick(TENSES)
    scene.joined(first, rest[-1], scene.pick(("and", "or")) if tense.startswith("modal") else "and")
    head = clause(event.verb, tense, scene.person()).right(first, "obj")
    return scene.add_details(head, event, limit=1)


def list_of_verbs(scene: Scene) -> Node:
    """Coordinate two verbs of one subject, or two clauses."""
    if scene.chance(0.35):
        return clause_pair(scene)
    subject = scene.person()
    first = scene.deed(subject, "past", limit=1)
    if scene.chance(0.5):
        word = scene.pick(("and", "but"))
        second = scene.deed(None, "past", scene.mishap() if word == "but" else scene.event())
        return first.right(second.front(Node(word, "CCONJ", "CC"), "cc"), "conj")
    return first.right(
        scene.act(None, "past").front(adverb("then"), "advmod").front(Node("and", "CCONJ", "CC"), "cc"), "conj"
    )


def portable(scene: Scene) -> list[str]:
    """Return the things of a domain that somebody can take away."""
    handed = [
        objects for verbs, objects in scene.domain.gifts if {"hand", "give", "lend", "throw", "pass"} & set(verbs)
    ]
    return [key for objects in handed for key in objects if ">" not in key]


def object_pronoun(scene: Scene) -> Node:
    """Two clauses share an object, once as a noun and once as a pronoun."""
    subject = scene.single()
    if scene.chance(0.5):
        noun = scene.thing(portable(scene), det="the")
        head = clause(scene.pick(("want", "need", "look_for")), "past", subject)
        for particle in list(head.after):
            head.after.remove(particle)
            noun.front(preposition(particle.form), "case")
        head.right(noun, "obl" if noun.before[0].relation == "case" else "obj")
        second = clause(scene.pick(("take", "hide", "lose", "borrow")), "past_perfect", scene.single())
        second.right(pronoun(noun, 1), "obj").front(Node("but", "CCONJ", "CC"), "cc").front(comma(), "punct")
        return head.right(second, "conj")
    event = scene.pick([event for event in scene.domain.events if event.deliberate and event.verb not in CONSUMING])
    noun = scene.thing(event.objects, subject)
    head = scene.add_details(clause(event.verb, "past", subject).right(noun, "obj"), event, limit=1)
    second = clause(scene.pick(("show", "describe")), "past", None).right(pronoun(noun, 1), "obj")
    second.right(scene.single().front(preposition("to"), "case"), "obl")
    second.front(adverb(scene.pick(("proudly", "then", "later"))), "advmod").front(Node("and", "CCONJ", "CC"), "cc")
    return head.right(second, "conj")


def subordinate(main: Node, inner: Node, mark: str, *, first: bool) -> Node:
    """Attach an adverbial clause before or after its main clause."""
    node = Node(mark, "ADV", "WRB") if mark == "when" else marker(mark)
    inner.front(node, "advmod" if mark == "when" else "mark")
    if first:
        return main.front(inner.right(comma(), "punct"), "advcl")
    return main.right(inner, "advcl")


def time_clause(scene: Scene) -> Node:
    """When, while, until, before and after."""
    mark = scene.pick(("when", "while", "until", "before", "after", "as"))
    if mark == "until":
        return subordinate(scene.act(scene.single(), "past"), scene.happening("past"), mark, first=False)
    tense = "past_progressive" if mark == "while" else "past"
    subject = scene.person()
    if mark == "while":
        inner = scene.deed(scene.single(), tense, limit=0)
    elif mark in ("before", "after") and scene.chance(0.7):
        main = scene.deed(subject, "past", limit=1)
        inner = scene.deed(pronoun(subject, 0), "past", limit=0)
        return subordinate(main, inner, mark, first=scene.chance(0.6))
    else:
        inner = scene.happening(tense)
    return subordinate(scene.deed(subject, "past", limit=1), inner, mark, first=scene.chance(0.6))


def reason_clause(scene: Scene) -> Node:
    """Because: a state of things, a mood, or a request."""
    roll, subject = scene.rng.random(), scene.single()
    if roll < 0.3:
        tense = scene.pick(("past", "past", "modal:must"))
        inner = scene.state(scene.domain.reasons, "past" if tense == "past" else "present")
        return subordinate(scene.deed(subject, tense, limit=1), inner, "because", first=scene.chance(0.35))
    if roll < 0.55:
        main = scene.deed(subject, "past", scene.mishap(), limit=1)
        mood = adjective(scene.pick(("tired", "sleepy", "nervous", "busy", "careless", "impatient")))
        inner = clause("be", "past", pronoun(subject, 0), predicate=mood)
        return subordinate(main, inner, "because", first=scene.chance(0.2))
    main = scene.deed(subject, "past", limit=1)
    if roll < 0.8:
        help_noun = Node("help", "NOUN", "NN", feats="Number=Sing").left(preposition("for"), "case")
        inner = clause("ask", "past_perfect", scene.single()).right(pronoun(subject, 1), "obj").right(help_noun, "obl")
        return subordinate(main, inner, "because", first=False)
    help_verb = clause("help", "infinitive", None).front(marker("to"), "mark").right(scene.single(), "obj")
    verb, tense = ("want", "past") if roll < 0.9 else ("promise", "past_perfect")
    inner = clause(verb, tense, pronoun(subject, 0))
    return subordinate(main, inner.right(help_verb, "xcomp"), "because", first=scene.chance(0.3))


def concession(scene: Scene) -> Node:
    """Although: a state of things, or a mood."""
    subject = scene.single()
    main = scene.deed(subject, "past", limit=1)
    if scene.chance(0.55):
        inner = scene.state(scene.domain.obstacles, "past")
    else:
        mood = adjective(scene.pick(("tired", "ill", "sleepy", "busy", "nervous", "hungry")))
        inner = clause("be", "past", pronoun(subject, 0), predicate=mood)
    return subordinate(main, inner, "although", first=scene.chance(0.6))


def condition(scene: Scene) -> Node:
    """If: what will happen when something else does."""
    main = scene.deed(scene.single(), scene.pick(("modal:will", "modal:can", "modal:must", "modal:might")), limit=1)
    return subordinate(main, scene.happening("present"), "if", first=scene.chance(0.65))


def humming(scene: Scene) -> Node:
    """An opening without a finite verb."""
    inner = clause(scene.pick(HUMS), "gerund", None).right(
        adverb(scene.pick(("quietly", "softly", "loudly", "happily"))), "advmod"
    )
    return scene.deed(scene.single(), "past", limit=2).front(inner.right(comma(), "punct"), "advcl")


def copula(scene: Scene) -> Node:
    """What somebody or something is."""
    roll = scene.rng.random()
    if roll < 0.25:
        name = scene.name()
        city = Node(scene.pick(CITIES), "PROPN", "NNP", feats="Number=Sing").left(preposition("from"), "case")
        keys = [key for key in scene.domain.people if find_noun(scene.domain.name, key).gender in ("x", name.gender)]
        role = scene.noun(scene.pick(keys), "a").right(city if scene.chance(0.6) else None, "nmod")
        return clause("be", "present", name, predicate=role, negative=scene.chance(0.15))
    if roll < 0.5:
        return _comparison(scene)
    if roll < 0.75:
        event, place = found_somewhere(scene)
        tense = scene.pick(("past", "present", "past", "modal:must"))
        return clause("be", tense, scene.noun(scene.pick(event.objects), plural=scene.chance(0.25)), predicate=place)
    if scene.chance(0.5):
        word = scene.pick(("tired", "proud", "nervous", "happy", "ill", "busy", "late", "hungry", "curious", "angry"))
        mood = adjective(word).left(adverb(scene.pick(("very", "rather", "quite"))), "advmod")
        return clause("be", scene.pick(("past", "present")), scene.person(), predicate=mood)
    mood, other = (adjective(word) for word in scene.pick(CONTRASTS))
    mood.right(other.front(Node("but", "CCONJ", "CC"), "cc"), "conj")
    return clause("be", "past", scene.person(), predicate=mood)


STILL = ("in", "on", "under", "near", "behind")  # prepositions of a thing that stays where it is
CONTRASTS = (
    ("tired", "cheerful"), ("nervous", "polite"), ("busy", "patient"), ("hungry", "patient"), ("clever", "stubborn"),
    ("angry", "polite"), ("ill", "cheerful"), ("strict", "kind"), ("shy", "curious"), ("late", "calm"),
)  # fmt: skip


def _comparison(scene: Scene) -> Node:
    """One thing is heavier than another."""
    quality, comparative, *keys = scene.pick(COMPARABLE[scene.domain.name]).split()
    first, second = scene.rng.sample(keys, 2)
    base = scene.noun(second, plain=True).front(preposition("than"), "case")
    more = Node(comparative, "ADJ", "JJR", quality, "Degree=Cmp").right(base, "obl")
    return clause("be", "past", scene.noun(first, scene.pick(("the", "this", "that")), plain=True), predicate=more)


def found_somewhere(scene: Scene) -> tuple[Event, Node]:
    """Return an event and a place where its objects may lie still."""
    pairs = [(event, place) for event in scene.domain.events for place in event.places if place.split(":")[0] in STILL]
    event, place = scene.pick(pairs)
    return event, scene.place(place)


def existential(scene: Scene) -> Node:
    """There is something somewhere."""
    event, place = found_somewhere(scene)
    plural = scene.chance(0.6)
    noun = scene.noun(
        scene.pick(event.objects).rstrip("+"), scene.pick(("number", "several")) if plural else "a", plural
    )
    if noun.number == "Sing":
        noun.before = [child for child in noun.before if child.relation != "det" and child.form != "several"]
        noun.front(determiner("some" if _is_mass(scene, noun) else "a"), "det")
    group = verb_group("be", scene.pick(("past", "present")), noun, False, False)
    head = group[-1].left(Node("there", "PRON", "EX"), "expl").right(noun, "nsubj")
    return head.right(place, "obl")


def _is_mass(scene: Scene, noun: Node) -> bool:
    """Tell whether a noun takes `some` in the singular."""
    return find_noun(scene.domain.name, noun.lemma).kind == "mass"


def quoted(scene: Scene) -> Node:
    """Reported speech in quotation marks; `I` inside it refers to the speaker."""
    speaker, roll = scene.single(), scene.rng.random()
    me = Node("", "X", "X", number="Sing", gender="x", person=1, antecedent=speaker)
    verb, final = "say", ""
    if roll < 0.3:
        inner = scene.deed(pronoun(me, 0), scene.pick(("perfect", "modal:will", "modal:must", "past")), limit=1)
    elif roll < 0.45:
        inner = scene.deed(pronoun(me, 0), scene.pick(("perfect", "past")), scene.mishap(), limit=0)
    elif roll < 0.65:
        inner = scene.state(scene.domain.reasons + scene.domain.obstacles, "present")
    elif roll < 0.8:
        inner, verb = scene.deed(None, "imperative", limit=1), scene.pick(("say", "shout", "whisper"))
        final = "!" if verb == "shout" else ""
    else:
        inner, verb, final = yes_no(scene), "ask", "?"
    head = clause(verb, "past", None)
    open_mark, close_mark = Node('"', "PUNCT", "``", glued="right"), Node('"', "PUNCT", "''", glued="left")
    if scene.chance(0.6):
        end = Node(final or ",", "PUNCT", "." if final else ",", glued="left")
        inner.front(open_mark, "punct").right(end, "punct").right(close_mark, "punct")
        head.left(inner, "ccomp")
        pronominal = speaker.upos == "PROPN" and scene.chance(0.4)
        return head.left(speaker, "nsubj") if pronominal else head.right(speaker, "nsubj")
    end = Node(final or ".", "PUNCT", ".", glued="left")
    capital(inner)
    inner.front(open_mark, "punct").front(comma(), "punct").right(end, "punct").right(close_mark, "punct")
    return head.left(speaker, "nsubj").right(inner, "ccomp")


def reported(scene: Scene) -> Node:
    """Somebody says, thinks or hopes that something is so."""
    subject = scene.single()
    verb = scene.pick(("say", "think", "know", "hope", "believe", "claim"))
    if verb != "hope" and scene.chance(0.3):
        inner = scene.state(scene.domain.reasons + scene.domain.obstacles, "past")
    else:
        about = pronoun(subject, 0) if scene.chance(0.65) else scene.person()
        tense = "modal:would" if verb == "hope" else scene.pick(("past_perfect", "modal:could", "modal:would"))
        inner = scene.deed(about, tense, limit=1)
    inner.front(marker("that") if scene.chance(0.75) else None, "mark")
    return clause(verb, "past", subject).right(inner, "ccomp")


def control(scene: Scene) -> Node:
    """Verbs with an infinitive: try, want, ask somebody to."""
    subject = scene.person()
    inner = scene.deed(None, "infinitive", limit=1).front(marker("to"), "mark")
    if scene.chance(0.4):
        head = clause(scene.pick(("ask", "tell", "help", "remind", "persuade")), "past", subject)
        return head.right(scene.single(), "obj").right(inner, "xcomp")
    verb = scene.pick(("try", "want", "decide", "forget", "promise", "refuse", "begin", "offer", "manage", "hope"))
    return clause(verb, "past", subject, negative=verb in ("want", "try", "manage") and scene.chance(0.3)).right(
        inner, "xcomp"
    )


def purpose(scene: Scene) -> Node:
    """Somebody goes somewhere to do something."""
    place = scene.place(f"to:{scene.domain.place}")
    head = clause(
        scene.pick(("walk", "hurry", "go", "return", "run")),
        scene.pick(("past", "perfect", "modal:will")),
        scene.person(),
    )
    return head.right(place, "obl").right(scene.deed(None, "infinitive", limit=0).front(marker("to"), "mark"), "advcl")


def many_clauses(scene: Scene) -> Node:
    """A long sentence: an opening clause, a relative clause, and two things done one after the other."""
    noun = scene.role(plain=True)
    who = Node("who", "PRON", "WP", number=noun.number, gender=noun.gender, antecedent=noun)
    relative(scene, noun, scene.deed(who, "past_perfect", limit=0), "who")
    main = scene.deed(noun, "past", limit=1)
    second = scene.deed(None, "past", limit=1) if scene.chance(0.6) else scene.act(None, "past")
    main.right(second.front(adverb("then"), "advmod").front(Node("and", "CCONJ", "CC"), "cc"), "conj")
    if scene.chance(0.5):
        return subordinate(main, scene.state(scene.domain.obstacles, "past"), "although", first=True)
    return subordinate(main, scene.happening("past"), "when", first=True)


def capital(root: Node) -> None:
    """Capitalise the first word of a phrase."""
    first = next(word for word in root.words() if word.upos != "PUNCT")
    first.lemma = first.lemma or first.form
    first.form = first.form[0].upper() + first.form[1:]


Build = Callable[[Scene], Node]
# kind, how many, final mark, how it is built
PLAN: tuple[tuple[str, int, str, Build], ...] = (
    ("statement", 110, ".", statement),
    ("event", 30, ".", things),
    ("double-object", 60, ".", double_object),
    ("passive", 70, ".", passive),
    ("relative", 40, ".", relative_subject),
    ("relative", 40, ".", relative_object),
    ("relative", 25, ".", relative_other),
    ("question", 50, "?", yes_no),
    ("question", 60, "?", wh_question),
    ("command", 60, ".", command),
    ("coordination", 35, ".", list_of_nouns),
    ("coordination", 35, ".", list_of_verbs),
    ("pronoun", 40, ".", object_pronoun),
    ("subordinate", 45, ".", time_clause),
    ("subordinate", 40, ".", reason_clause),
    ("subordinate", 25, ".", concession),
    ("subordinate", 25, ".", condition),
    ("participle", 15, ".", humming),
    ("copula", 50, ".", copula),
    ("existential", 20, ".", existential),
    ("speech", 45, ".", quoted),
    ("report", 35, ".", reported),
    ("infinitive", 35, ".", control),
    ("purpose", 20, ".", purpose),
    ("long", 30, ".", many_clauses),
)


# --- from trees to text -------------------------------------------------------------------------------------


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


def generate(seed: int = SEED) -> str:
    """Return the whole corpus as CoNLL-U; the same seed gives the same text."""
    rng, used, seen = random.Random(seed), Counter[str](), set[str]()
    domains = list(load_lexicon()[0].values())
    jobs = [(kind, mark, build) for kind, count, mark, build in PLAN for _ in range(count)]
    rng.shuffle(jobs)
    blocks = []
    for number, (kind, mark, build) in enumerate(jobs, start=1):
        while True:
            scene = Scene(rng, domains[number % len(domains)], used)
            words = finish(build(scene), mark)
            text = plain_text(words)
            if text not in seen and 4 <= len(words) <= 28 and not clumsy(words):
                break
        seen.add(text)
        comments = (f"sent_id = demo-{number:04d}", f"text = {text}", f"kind = {kind}", f"genre = {scene.domain.name}")
        blocks.append(to_conllu(words, comments))
    return "".join(blocks)


def main() -> int:
    """Write the corpus, or compare it with the file."""
    parser = argparse.ArgumentParser(description="Write the demo corpus of qkspace, or check it.")
    parser.add_argument("--out", type=Path, default=DEFAULT_PATH, help="the CoNLL-U file (default: data/demo.conllu)")
    parser.add_argument("--seed", type=int, default=SEED, help=f"the random seed (default: {SEED})")
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if the file differs")
    arguments = parser.parse_args()
    text = generate(arguments.seed)
    if not arguments.check:
        arguments.out.write_bytes(text.encode())
        print(f"{arguments.out}: {text.count('# sent_id')} sentences")
        return 0
    if not arguments.out.exists() or arguments.out.read_bytes() != text.encode():
        print(
            f"{arguments.out} is missing or is not what seed {arguments.seed} gives; run this without --check",
            file=sys.stderr,
        )
        return 1
    print(f"{arguments.out}: as generated")
    return 0


if __name__ == "__main__":
    sys.exit(main())
