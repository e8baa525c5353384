"""What somebody or something is, and what there is somewhere.

In: a `Scene`. Out: the root of one sentence, without its final mark. Knows no text: `writer` puts words in order.
"""

from __future__ import annotations

from demo_corpus.clauses import clause, verb_group
from demo_corpus.lexicon import Event, find_noun
from demo_corpus.scene import Scene
from demo_corpus.trees import Node
from demo_corpus.word_lists import CITIES, COMPARABLE, CONTRASTS, STILL
from demo_corpus.words import adjective, adverb, conjunction, determiner, preposition, proper_noun


def copula(scene: Scene) -> Node:
    """What somebody or something is."""
    roll = scene.rng.random()
    if roll < 0.25:
        name = scene.name()
        city = proper_noun(scene.pick(CITIES)).left(preposition("from"), "case")
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
    mood.right(other.front(conjunction("but"), "cc"), "conj")
    return clause("be", "past", scene.person(), predicate=mood)


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
        noun.front(determiner("some" if scene.is_mass(noun.lemma) else "a"), "det")
    group = verb_group("be", scene.pick(("past", "present")), noun, False, False)
    head = group[-1].left(Node("there", "PRON", "EX"), "expl").right(noun, "nsubj")
    return head.right(place, "obl")
