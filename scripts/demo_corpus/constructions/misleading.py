"""Questions, statements and commands that begin like another kind: what is asked for shows only further on.

In: a `Scene`. Out: the root of one sentence, without its final mark. Knows no text: `writer` puts words in order.
"""

from __future__ import annotations

from demo_corpus.clauses import clause
from demo_corpus.constructions.adverbials import subordinate
from demo_corpus.constructions.questions import wh_question, yes_no
from demo_corpus.scene import Scene
from demo_corpus.trees import Node
from demo_corpus.words import adjective, adverb, comma, marker, personal, plain_noun, preposition, pronoun, wh_word

# ------------------------------------------------------------------------------------------ parts


def embedded_question(scene: Scene) -> Node:
    """Return a question as a part of a sentence: its words do not change places."""
    word = scene.pick(("who", "why", "where", "when", "how", "whether"))
    if word == "who":
        who = wh_word("who")
        who.gender = scene.rng.choice("fm")
        return scene.deed(who, "past", limit=0)
    if word == "whether":
        return scene.state(scene.domain.states, "past").front(marker("whether"), "mark")
    event = scene.event()
    head = clause(event.verb, "past", scene.single()).front(wh_word(word), "advmod")
    return scene.add_object(head, event, None, "the")


def under_condition(scene: Scene, main: Node) -> Node:
    """Put `if` or `when` and what happens by itself before a clause."""
    return subordinate(main, scene.happening("present"), scene.pick(("if", "when")), first=True)


def called(scene: Scene, main: Node) -> Node:
    """Put the name of who is spoken to before a clause."""
    return main.front(scene.name().right(comma(), "punct"), "vocative")


def after_time(scene: Scene, main: Node) -> Node:
    """Put a date before a clause."""
    time = scene.time()
    relation = "obl" if any(child.relation == "case" for child in time.before) else "obl:tmod"
    return main.front(time.right(comma(), "punct"), relation)


def with_please(scene: Scene, main: Node) -> Node:
    """Put `please` at the end of a clause, after a comma in some."""
    word = Node("please", "INTJ", "UH")
    return main.right(word.front(comma(), "punct") if scene.chance(0.5) else word, "discourse")


# ------------------------------------------------------------------------------------------ questions


def polar_question(scene: Scene) -> Node:
    """A question for yes or no that is no request in disguise: `could you` is left to commands."""
    while True:
        root = yes_no(scene)
        words = [word.form for word in root.words()]
        if words[1] != "you":
            return root


def question_to_you(scene: Scene) -> Node:
    """Did you, have you, should you."""
    return scene.deed(personal("2Singx"), scene.pick(("past", "perfect", "modal:should")), inverted=True)


def tag_question(scene: Scene) -> Node:
    """A statement that ends by asking: the cook sliced the loaf, didn't she."""
    subject = scene.single()
    tense, verb, negation = scene.pick(
        (("past", "did", "n't"), ("modal:will", "wo", "n't"), ("modal:can", "ca", "n't"))
    )
    head = scene.deed(subject, tense, limit=1)
    tag = Node(verb, "AUX", "VBD").right(Node(negation, "PART", "RB", "not", glued="left"), "advmod")
    return head.right(tag.front(comma(), "punct").right(pronoun(subject, 0), "nsubj"), "parataxis")


def late_question(scene: Scene) -> Node:
    """A question after a condition, a date or a name."""
    roll = scene.rng.random()
    if roll < 0.4:
        return under_condition(scene, scene.deed(scene.single(), "modal:will", limit=0, inverted=True))
    if roll < 0.7:
        event = scene.event()
        head = clause(event.verb, "past", scene.single(), inverted=True)
        head.front(wh_word(scene.pick(("why", "where", "how"))), "advmod")
        return after_time(scene, scene.add_object(head, event, None, "the"))
    return called(scene, question_to_you(scene) if scene.chance(0.5) else wh_question(scene))


def do_you_know(scene: Scene) -> Node:
    """A question around a question."""
    verb, tense = scene.pick((("know", "present"), ("remember", "present"), ("see", "past"), ("hear", "past")))
    head = clause(verb, tense, personal("2Singx") if scene.chance(0.6) else scene.single(), inverted=True)
    return head.right(embedded_question(scene), "ccomp")


# ------------------------------------------------------------------------------------------ statements


def reported_question(scene: Scene) -> Node:
    """Somebody asks, knows or forgets something: a question inside a statement."""
    verb = scene.pick(("ask", "wonder", "know", "forget", "remember", "explain"))
    return clause(verb, "past", scene.single()).right(embedded_question(scene), "ccomp")


def question_as_subject(scene: Scene) -> Node:
    """Who burned the toast is a mystery."""
    inner = embedded_question(scene)
    inner.relation = "csubj"
    what = scene.pick(("mystery", "secret", "puzzle", "riddle"))
    if scene.chance(0.5):
        predicate = plain_noun(what).left(Node("a", "DET", "DT", "a"), "det")
    else:
        predicate = adjective(scene.pick(("clear", "unclear", "obvious", "unknown", "unimportant")))
    group = clause("be", "present", None, predicate=predicate)
    return group.front(inner, "csubj")


def statement_about_you(scene: Scene) -> Node:
    """You did something."""
    main = scene.deed(personal("2Singx"), scene.pick(("past", "perfect", "past_progressive")), limit=1)
    return after_time(scene, main) if scene.chance(0.3) else main


def late_statement(scene: Scene) -> Node:
    """A statement after a condition or a name."""
    if scene.chance(0.6):
        return under_condition(scene, scene.deed(scene.single(), "modal:will", limit=0))
    return called(
        scene, scene.happening("perfect") if scene.chance(0.5) else scene.state(scene.domain.states, "present")
    )


def told_to(scene: Scene) -> Node:
    """Somebody was told to do something: a command inside a statement."""
    head = clause(scene.pick(("tell", "ask", "remind")), "past", scene.single()).right(scene.single(), "obj")
    return head.right(scene.deed(None, "infinitive", limit=0).front(marker("to"), "mark"), "xcomp")


# ------------------------------------------------------------------------------------------ commands


def command_to_ask(scene: Scene) -> Node:
    """Ask the cook why, find out who: a question inside a command."""
    verb = scene.pick(("ask", "tell", "show", "find_out", "check", "remember", "explain"))
    head = clause(verb, "imperative", None)
    if verb in ("ask", "tell", "show"):
        head.right(scene.single(), "iobj")
    return head.right(embedded_question(scene), "ccomp")


def request(scene: Scene) -> Node:
    """A command dressed as a question: could you slice the loaf, please."""
    tense = scene.pick(("modal:can", "modal:could", "modal:will", "modal:would"))
    event = scene.event()
    head = clause(event.verb, tense, personal("2Singx"), inverted=True)
    head.right(scene.thing(event.objects, det=scene.pick(("the", "this"))), "obj")
    return with_please(scene, head) if scene.chance(0.5) else head


def late_command(scene: Scene) -> Node:
    """A command after a condition, a name or a date to come."""
    roll, main = scene.rng.random(), scene.deed(None, "imperative", limit=0)
    if roll < 0.5:
        return under_condition(scene, main)
    if roll < 0.75:
        return called(scene, main)
    form, word, det = scene.pick((("after", "lunch", ""), ("before", "breakfast", ""), ("in", "morning", "the")))
    time = plain_noun(word).left(preposition(form), "case").left(Node(det, "DET", "DT") if det else None, "det")
    return main.front(time.right(comma(), "punct"), "obl")


def polite_command(scene: Scene) -> Node:
    """A command with its `please` at the end."""
    return with_please(scene, scene.deed(None, "imperative", limit=0))


def never(scene: Scene) -> Node:
    """Never, always: a rule for whoever hears it."""
    return scene.deed(None, "imperative", limit=1).front(adverb(scene.pick(("never", "always"))), "advmod")
