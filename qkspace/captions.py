"""Captions: what pictures say of an index and of the worth of its maps, so that each can stand alone.

In: records of the index. Out: plain sentences; texts of the corpus as one visible line. Draws nothing.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import PurePath

import numpy as np

from qkspace.app.colours import Colouring
from qkspace.drawing import visible
from qkspace.index import Index, View
from qkspace.report import verdict

CALLED = {  # tokens and sequences of each modality, and those tokens that no head rests on
    "text": ("tokens", "sequences", "ordinary words"),
    "image": ("patches", "images", "patches alone"),
    "audio": ("frames", "sounds", "frames without padding"),
}


def corpus_words(index: Index) -> str:
    """Say which corpus an index is of, and how much of it is stored."""
    names = " + ".join(PurePath(source["source"]).name for source in index.manifest["made_from"]["corpus"])
    token, sequence, _ = _called(index)
    return f"{visible(names)} ({index.n_tokens:,} {token} of {len(index.sequences):,} {sequence})"


def _called(index: Index) -> tuple[str, str, str]:
    """Return what the tokens and sequences of an index are called, and the tokens that no head rests on."""
    return CALLED.get(index.manifest.get("modality", "text"), CALLED["text"])


def scores_words(view: View) -> str:
    """Say what the scores of a map mean, with their numbers."""
    scores = view.scores
    if scores is None or np.isnan(scores.recall1):
        return "The map is not scored: nothing could be held out."
    word = verdict(scores.recall1, scores.recall1_content)
    content = ""
    token, sequence, ordinary = _called(view.head.index)
    if not np.isnan(scores.recall1_content):
        content = f", among {ordinary} for {of_100(scores.recall1_content)}"
    warning = ": what is near is often not what is attended to" if word == "poor" else ""
    one = sequence.removesuffix("s")
    return (
        f"For {of_100(scores.recall1)} of 100 {token} the nearest key of the {one} is the one it attends to most{content} "
        f"({scores.n_queries:,} {token} of {scores.n_sequences:,} held-out {sequence}): a {word} map{warning}."
    )


def content_words(view: View) -> str:
    """Say what distance shows where a layer adds to its attention what depends on position; else nothing."""
    if view.head.spec.position is None or view.reason:
        return ""
    return " Distance shows the content part of attention alone; what position adds to it is not on the map."


def of_100(share: float) -> str:
    """Return how many of 100; nobody is told 100, or 0, where it is not so."""
    if 0 < share < 0.005:
        return "less than 1"
    return "more than 99" if 0.995 <= share < 1 else f"{100 * share:.0f}"


def titled(colours: Colouring) -> Colouring:
    """Return colours whose legend calls our own columns by whole names."""
    named = {"kind": "kind of token", "position": "position in the sequence"}
    title = named.get(colours.legend.title, colours.legend.title)
    return replace(colours, legend=replace(colours.legend, title=title))
