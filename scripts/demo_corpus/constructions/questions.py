"""Questions and commands.

In: a `Scene`. Out: the root of one sentence, without its final mark. Knows no text: `writer` puts words in order.
"""

from __future__ import annotations

from demo_corpus.clauses import clause
from demo_corpus.constructions.adverbials import subordinate
from demo_corpus.scene import Scene, base_of
from demo_corpus.trees import Node
from demo_corpus.word_lists import OWNABLE
from demo_corpus.words import adverb, comma, conjunction, personal, preposition, wh_word


def yes_no(scene: Scene) -> Node:
    """A question that wants a yes or a no."""
    roll = scene.rng.random()
    if roll < 0.2:
        return scene.state(scene.domain.states, scene.pick(("past", "present")), inverted=True)
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
        verbs, objects = scene.pick(scene.domain.transfers)
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
    mass = scene.is_mass(key)
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
        second = scene.deed(None, "imperative").front(adverb("then"), "advmod").front(conjunction("and"), "cc")
        head.right(second, "conj")
    elif roll < 0.85:
        head.front(scene.name().right(comma(), "punct"), "vocative")
    return head
