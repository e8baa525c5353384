"""Clauses that are said, thought or wanted: speech, reports and infinitives.

In: a `Scene`. Out: the root of one sentence, without its final mark. Knows no text: `writer` puts words in order.
"""

from __future__ import annotations

from demo_corpus.clauses import clause
from demo_corpus.constructions.questions import yes_no
from demo_corpus.scene import Scene
from demo_corpus.trees import Node, capital
from demo_corpus.words import comma, marker, pronoun


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
        inner = scene.state(scene.domain.states, "present")
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
        inner = scene.state(scene.domain.states, "past")
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
