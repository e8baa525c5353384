"""Adverbial clauses: when, because, although, if, and those without a finite verb.

In: a `Scene`. Out: the root of one sentence, without its final mark. Knows no text: `writer` puts words in order.
"""

from __future__ import annotations

from demo_corpus.clauses import clause
from demo_corpus.constructions.relatives import relative
from demo_corpus.scene import Scene
from demo_corpus.trees import Node
from demo_corpus.word_lists import HUMS
from demo_corpus.words import adjective, adverb, comma, conjunction, marker, plain_noun, preposition, pronoun


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
        help_noun = plain_noun("help").left(preposition("for"), "case")
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
    main.right(second.front(adverb("then"), "advmod").front(conjunction("and"), "cc"), "conj")
    if scene.chance(0.5):
        return subordinate(main, scene.state(scene.domain.obstacles, "past"), "although", first=True)
    return subordinate(main, scene.happening("past"), "when", first=True)
