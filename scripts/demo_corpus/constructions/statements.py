"""One clause: somebody does something, somebody gets something, something is done.

In: a `Scene`. Out: the root of one sentence, without its final mark. Knows no text: `writer` puts words in order.
"""

from __future__ import annotations

from demo_corpus.clauses import clause
from demo_corpus.constructions.coordination import clause_pair
from demo_corpus.scene import Scene
from demo_corpus.trees import Node
from demo_corpus.word_lists import FREQUENCIES, TENSES
from demo_corpus.words import adverb, comma, preposition


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
