"""A scene: one topic, the random numbers, and phrases and clauses that make sense together.

In: a `Domain` and a `random.Random`. Out: nodes of noun phrases, and of clauses in which somebody does something of the
topic. Knows no kind of sentence: those are in `constructions`.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from demo_corpus.clauses import clause
from demo_corpus.lexicon import Domain, Event, find_noun
from demo_corpus.trees import Node
from demo_corpus.word_lists import (
    CITIES,
    GAINING,
    INCOMPLETE,
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
)
from demo_corpus.words import (
    adjective,
    adverb,
    conjunction,
    determiner,
    personal,
    plain_noun,
    preposition,
    pronoun,
    proper_noun,
)

Item = TypeVar("Item")


def base_of(key: str) -> str:
    """Return the noun of an object key such as `cup>tea`, `plate*` or `piano+`."""
    return key.partition(">")[0].rstrip("*+")


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

    def is_mass(self, key: str) -> bool:
        """Tell whether a noun takes `some` in the singular."""
        return find_noun(self.domain.name, base_of(key)).kind == "mass"

    def noun(self, key: str, det: str = "the", plural: bool = False, plain: bool = False) -> Node:
        """Return a noun phrase for a key of the lexicon; `det` is adjusted where the noun does not allow it."""
        base, _, content = key.partition(">")
        entry = find_noun(self.domain.name, base_of(key))
        if entry.kind in ("mass", "unique") or "+" in base:
            plural = False
        elif entry.kind == "plural" or "*" in base:
            plural = True
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
            head.left(plain_noun(word), "compound")
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
        bare = form in ("of", "with") and ("*" in key or self.is_mass(key))
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
        head = proper_noun(first, NAMES[first])
        if self.chance(0.25):
            surname = proper_noun(self.pick(SURNAMES))
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
            city = proper_noun(self.pick(CITIES))
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
        first.right(second.front(conjunction(word), "cc"), "conj")
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
        if rest and (verb in INCOMPLETE or self.chance(0.7)):
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
            return proper_noun(self.pick(WEEKDAYS)).left(preposition("on"), "case")
        if roll == 1:
            noun = plain_noun(self.pick(("night", "week", "month", "winter", "summer")))
            return noun.left(adjective("last"), "amod")
        if roll == 2:
            return plain_noun("yesterday")
        form, word, det = self.pick(
            (("in", "morning", "the"), ("in", "evening", "the"), ("after", "lunch", ""), ("before", "breakfast", ""),
             ("at", "noon", ""), ("at", "midnight", ""), ("after", "midnight", ""), ("during", "afternoon", "the"))
        )  # fmt: skip
        noun = plain_noun(word).left(preposition(form), "case")
        return noun.left(determiner(det), "det") if det else noun
