"""Parse the texts of the topics into nouns and events.

In: `topics.TOPICS`, whose notation is described there. Out: `Domain`, `Noun` and `Event`. Knows no sentence.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from demo_corpus.inflection import regular_plural
from demo_corpus.topics import TOPICS
from demo_corpus.word_lists import PERSON_ADJECTIVES


@dataclass(frozen=True)
class Noun:
    """A noun of the lexicon: kind is count, mass, plural, unique or person; gender is m, f, x (either) or n (thing)."""

    words: tuple[str, ...]
    plural: str
    kind: str
    gender: str
    adjectives: tuple[str, ...]
    modifiers: tuple[str, ...]


@dataclass(frozen=True)
class Event:
    """A verb with the objects, tools and places that make sense with it."""

    verb: str
    deliberate: bool
    objects: tuple[str, ...]
    tools: tuple[str, ...]
    places: tuple[str, ...]


@dataclass(frozen=True)
class Domain:
    """The words of one topic."""

    name: str
    place: str
    people: tuple[str, ...]
    events: tuple[Event, ...]
    gifts: tuple[tuple[tuple[str, ...], tuple[str, ...]], ...]
    acts: tuple[tuple[str, ...], ...]
    happenings: tuple[tuple[str, ...], ...]
    reasons: tuple[tuple[str, ...], ...]
    obstacles: tuple[tuple[str, ...], ...]

    @property
    def states(self) -> tuple[tuple[str, ...], ...]:
        """Return the states that explain an action and those that speak against one."""
        return self.reasons + self.obstacles

    @property
    def transfers(self) -> list[tuple[tuple[str, ...], tuple[str, ...]]]:
        """Return the gifts whose receiver may follow `to`."""
        return [gift for gift in self.gifts if "ask" not in gift[0]]

    @property
    def portable(self) -> list[str]:
        """Return the things that somebody can take away."""
        handed = [objects for verbs, objects in self.gifts if {"hand", "give", "lend", "throw", "pass"} & set(verbs)]
        return [key for objects in handed for key in objects if ">" not in key]


def _entries(text: str, key: str) -> list[str]:
    """Return the `;`-separated entries of every line of one key."""
    lines = [line.partition(": ")[2] for line in text.strip().splitlines() if line.startswith(f"{key}: ")]
    return [entry.strip() for line in lines for entry in line.split(";") if entry.strip()]


def _parse_noun(entry: str) -> tuple[str, Noun]:
    """Parse one entry of a `nouns` line."""
    first, *rest = entry.split()
    kinds = {"%": "mass", "&": "plural", "^": "unique"}
    kind = next((name for mark, name in kinds.items() if mark in first), "count")
    key, _, irregular = first.rstrip("%&^").partition("/")
    words = tuple(key.split("_"))
    plural = irregular or (words[-1] if kind == "plural" else regular_plural(words[-1]))
    if kind == "plural":
        words = (*words[:-1], words[-1].removesuffix("s"))
    adjectives = tuple(word for word in rest if not word.startswith("@"))
    return key, Noun(words, plural, kind, "n", adjectives, tuple(word[1:] for word in rest if word.startswith("@")))


def _parse_person(entry: str) -> tuple[str, Noun]:
    """Parse one entry of a `people` line."""
    first, _, gender = entry.partition(":")
    key, _, irregular = first.partition("/")
    words = tuple(key.split("_"))
    adjectives = tuple(PERSON_ADJECTIVES)
    return key, Noun(words, irregular or regular_plural(words[-1]), "person", gender or "x", adjectives, ())


def _parse_event(entry: str) -> Event:
    """Parse one entry of an `events` line."""
    verb, objects, tools, places = (field.strip() for field in (entry + " | | |").split("|")[:4])
    return Event(verb.rstrip("!"), "!" not in verb, tuple(objects.split()), tuple(tools.split()), tuple(places.split()))


def _parse_gift(entry: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Parse one entry of a `gifts` line."""
    verbs, _, objects = entry.partition("|")
    return tuple(verbs.split()), tuple(objects.split())


@cache
def load_lexicon() -> tuple[dict[str, Domain], dict[str, dict[str, Noun]]]:
    """Return the domains by name, and the nouns of each domain by key."""
    domains, nouns = {}, {}
    for name, text in TOPICS.items():
        nouns[name] = dict([_parse_noun(entry) for entry in _entries(text, "nouns")])
        people = dict(_parse_person(entry) for entry in _entries(text, "people"))
        nouns[name] |= people
        domains[name] = Domain(
            name=name,
            place=_entries(text, "place")[0],
            people=tuple(people),
            events=tuple(_parse_event(entry) for entry in _entries(text, "events")),
            gifts=tuple(_parse_gift(entry) for entry in _entries(text, "gifts")),
            acts=tuple(tuple(entry.split()) for entry in _entries(text, "acts")),
            happenings=tuple(tuple(entry.split()) for entry in _entries(text, "happen")),
            reasons=tuple(tuple(entry.split()) for entry in _entries(text, "because")),
            obstacles=tuple(tuple(entry.split()) for entry in _entries(text, "although")),
        )
    return domains, nouns


def find_noun(domain: str, key: str) -> Noun:
    """Return a noun by key, from its own domain first, then from any other; raises KeyError for a word not listed."""
    _, nouns = load_lexicon()
    for name in (domain, *nouns):
        if key in nouns[name]:
            return nouns[name][key]
    raise KeyError(f"noun {key!r} of domain {domain!r} is in no `nouns` line")
