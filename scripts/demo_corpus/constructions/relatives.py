"""Relative clauses, by the part that the relative word plays in them.

In: a `Scene`. Out: the root of one sentence, without its final mark. Knows no text: `writer` puts words in order.
"""

from __future__ import annotations

from demo_corpus.clauses import clause
from demo_corpus.lexicon import find_noun, load_lexicon
from demo_corpus.scene import Scene
from demo_corpus.trees import Node
from demo_corpus.word_lists import OWNABLE
from demo_corpus.words import adjective, comma, preposition, wh_word


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
        verbs, objects = scene.pick(scene.domain.transfers)
        inner = clause(scene.pick(verbs), "past", scene.single()).right(scene.thing(objects, det="a"), "obj")
        inner.front(wh_word("whom").left(preposition("to"), "case"), "obl")
        relative(scene, noun, inner, "whom")
    else:
        item = scene.noun(scene.pick(scene.domain.portable), "", plain=True).front(wh_word("whose"), "nmod:poss")
        inner = clause("disappear", "past_perfect", item)
        relative(scene, noun, inner, "whose")
    return scene.act(noun, scene.pick(("past", "past_progressive")))
