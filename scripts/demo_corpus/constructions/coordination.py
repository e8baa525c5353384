"""Coordination: of clauses, nouns and verbs, and of clauses that share an object.

In: a `Scene`. Out: the root of one sentence, without its final mark. Knows no text: `writer` puts words in order.
"""

from __future__ import annotations

from demo_corpus.clauses import clause
from demo_corpus.scene import Scene
from demo_corpus.trees import Node
from demo_corpus.word_lists import CONSUMING, TENSES
from demo_corpus.words import adverb, comma, conjunction, preposition, pronoun


def clause_pair(scene: Scene) -> Node:
    """Coordinate two clauses that fit: a state and what follows from it, or two things at once."""
    word = scene.pick(("so", "but", "and"))
    if word == "and":
        first = scene.happening("past")
        second = scene.deed(scene.person(), "past") if scene.chance(0.5) else scene.act(scene.single(), "past")
    else:
        first = scene.state(scene.domain.reasons if word == "so" else scene.domain.obstacles, "past")
        second = scene.deed(scene.person(), "past")
    return first.right(second.front(conjunction(word), "cc").front(comma(), "punct"), "conj")


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
        return first.right(second.front(conjunction(word), "cc"), "conj")
    return first.right(scene.act(None, "past").front(adverb("then"), "advmod").front(conjunction("and"), "cc"), "conj")


def object_pronoun(scene: Scene) -> Node:
    """Two clauses share an object, once as a noun and once as a pronoun."""
    subject = scene.single()
    if scene.chance(0.5):
        noun = scene.thing(scene.domain.portable, det="the")
        head = clause(scene.pick(("want", "need", "look_for")), "past", subject)
        for particle in list(head.after):
            head.after.remove(particle)
            noun.front(preposition(particle.form), "case")
        head.right(noun, "obl" if noun.before[0].relation == "case" else "obj")
        second = clause(scene.pick(("take", "hide", "lose", "borrow")), "past_perfect", scene.single())
        second.right(pronoun(noun, 1), "obj").front(conjunction("but"), "cc").front(comma(), "punct")
        return head.right(second, "conj")
    event = scene.pick([event for event in scene.domain.events if event.deliberate and event.verb not in CONSUMING])
    noun = scene.thing(event.objects, subject)
    head = scene.add_details(clause(event.verb, "past", subject).right(noun, "obj"), event, limit=1)
    second = clause(scene.pick(("show", "describe")), "past", None).right(pronoun(noun, 1), "obj")
    second.right(scene.single().front(preposition("to"), "case"), "obl")
    second.front(adverb(scene.pick(("proudly", "then", "later"))), "advmod").front(conjunction("and"), "cc")
    return head.right(second, "conj")
