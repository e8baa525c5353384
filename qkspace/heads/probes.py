"""Probes: how much of a dependency tree the attention of all heads together knows.

In: an index of a corpus with trees. Out: parsers trained on its attention alone, beside baselines, and how often each finds
the head of a word that none was trained on; what weight each head has. Knows no page.

    found = analyse(index)
    found.tables["probes-scores"]

After Clark et al. (2019, What Does BERT Look At?, section 5). The model is never changed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from qkspace.console import SILENT, Console
from qkspace.heads import probe_data
from qkspace.heads.found import Found
from qkspace.heads.probe_data import MAX_BYTES, Attention, Drawn, Sentence
from qkspace.heads.probe_tables import Result, result, tables_of
from qkspace.heads.probe_words import Vectors, WordVectors, input_embeddings, word_vectors
from qkspace.heads.splits import split
from qkspace.heads.trees import refuse_without_trees
from qkspace.heads.words import Words
from qkspace.index import Index
from qkspace.schema import IntArray, QKSpaceError

if TYPE_CHECKING:
    from qkspace.model import Checkpoint

MAX_SENTENCES = 4_000  # of each side of the split
EPOCHS = 30  # at most; training ends before where that helps no more
OFFSETS = tuple(k for k in range(-5, 6) if k)
REPORTED_AT_ONCE = 64  # sentences whose attention is held while probes are reported

PROBES = {  # what a probe reads: attention as stored, of a random model or none; and whether words
    "attention and words": ("stored", True),
    "attention": ("stored", False),
    "words and distances": ("", True),
    "random attention and words": ("random", True),
    "random attention": ("random", False),
    "best offset": ("", False),
    "right neighbour": ("", False),
}
FIXED = ("best offset", "right neighbour")


def analyse(
    index: Index,
    *,
    probes: Sequence[str] = tuple(PROBES),
    choose: str | None = None,
    report: str | None = None,
    vectors: Vectors | None = None,
    model: str | None = None,
    epochs: int = EPOCHS,
    max_sentences: int = MAX_SENTENCES,
    seed: int = 0,
    trust_remote_code: bool = False,
    console: Console = SILENT,
) -> Found:
    """Train probes of dependency heads on the attention of an index, and report how often each is right elsewhere.

        analyse(index, choose="en_ewt-ud-train.conllu", report="en_ewt-ud-test.conllu")

    UAS is the share of words whose head, another word or ROOT, is found. A word whose head has no token here is an error of
    every probe; a word without a token of its own is not counted. Sentences of more than 128 tokens are left out.

    Args:
        index: an index with the columns `head` and `deprel`, as CoNLL-U gives them.
        probes: which, of PROBES.
        choose: the file to train on, as in the column `corpus` (`qkspace.heads.splits`).
        report: the file to report on.
        vectors: of words, for the probes that read them: a mapping from words, a file (.npz of `words` and `vectors`, or text
            as of GloVe and word2vec) or an array (token id, d); None takes the model's own input embeddings.
        model: where the checkpoint is now, if not where it was at the build; needed for its embeddings and for random
            attention.
        epochs: at most.
        max_sentences: of each side; fewer where the attention to train on takes more than 2 GiB.
        seed: of the split, the drawing, the first weights, the order and the bootstrap.
        trust_remote_code: run code that comes with the checkpoint.
        console: where progress is shown.

    Returns:
        Tables probes-scores (a row a probe, the best first), probes-relations (a row a probe and relation), probes-weights (a
        row a probe of attention, head and direction) and, where the probe of attention alone was trained, probes (a row a
        head: probe_weight, its share of all weights).

    Raises:
        QKSpaceError: an unknown probe, no trees, or no checkpoint where one is needed.
    """
    refuse_without_trees(index)
    _refuse(index, probes, epochs, max_sentences)
    places = split(index, choose, report, seed, among=probe_data.with_trees(index))
    chosen = probe_data.draw(index, places[0], max_sentences, seed, max_bytes=MAX_BYTES)
    reported = probe_data.draw(index, places[1], max_sentences, seed)
    if len(chosen.words) < 2 or not reported.words:
        raise QKSpaceError(
            f"{index.root}: there are {chosen.note} to train on and {reported.note} to report on; expected 2 or more, and 1."
        )
    notes = [places[2], f"Trained on {chosen.note}; reported on {reported.note}."]
    checkpoint = _checkpoint(index, probes, vectors, model, trust_remote_code)
    of_words, said = _vectors(index, probes, chosen, vectors, checkpoint)
    notes += said
    study = _Study(index, chosen, reported, of_words, seed, epochs, console)
    results: list[Result] = []
    for reads in dict.fromkeys(PROBES[name][0] for name in probes):
        names = [name for name in PROBES if name in probes and PROBES[name][0] == reads]
        attention, why_not = _attention(index, reads, checkpoint, seed)
        if attention is not None:
            results += study.run(names, attention)
        else:
            notes.append(f"Left out: {' and '.join(names)}; {why_not}.")
            console.say(notes[-1])
    if not results:
        raise QKSpaceError(f"{index.root}: none of these probes can be trained on it. {notes[-1]}")
    tables = tables_of(index, results, " ".join(notes), seed)
    parameters = {"probes": list(probes), "choose": choose, "report": report, "epochs": epochs, "seed": seed}
    parameters |= {"max_sentences": max_sentences, "vectors": str(vectors) if isinstance(vectors, str | Path) else None}
    return Found(tables, ("probe_weight",) if "probes" in tables else (), parameters)


def _refuse(index: Index, probes: Sequence[str], epochs: int, max_sentences: int) -> None:
    unknown = [name for name in probes if name not in PROBES]
    if unknown or not probes:
        raise QKSpaceError(f"There is no probe {', '.join(unknown) or 'to train'}; there are {', '.join(PROBES)}.")
    if epochs < 1 or max_sentences < 2:
        raise QKSpaceError(
            f"Probes are trained for 1 epoch or more on 2 sentences or more; got epochs {epochs}, max_sentences "
            f"{max_sentences}."
        )
    if any(layer.crosses for layer in index.layers):
        raise QKSpaceError(f"{index.root} is of attention from one text to another, in which no tree is.")


def _checkpoint(
    index: Index, probes: Sequence[str], vectors: Vectors | None, model: str | None, trust_remote_code: bool
) -> Checkpoint | None:
    """Return the checkpoint of an index, where its embeddings or its configuration are needed."""
    needed = any(reads == "random" or (words and vectors is None) for reads, words in (PROBES[name] for name in probes))
    if not needed:
        return None
    from qkspace.live import checkpoint_of

    return checkpoint_of(index, model, device="cpu", trust_remote_code=trust_remote_code)


def _vectors(
    index: Index, probes: Sequence[str], chosen: Drawn, vectors: Vectors | None, checkpoint: Checkpoint | None
) -> tuple[WordVectors, list[str]]:
    """Return how words become vectors, none where no probe reads them, and what is to be said of it."""
    if not any(PROBES[name][1] for name in probes):
        return (lambda words: np.empty((len(words.words), 0))), []
    if vectors is None and checkpoint is not None:
        vectors = input_embeddings(checkpoint)
    assert vectors is not None
    of_words, said = word_vectors(index, chosen.words, vectors)
    return of_words, [said]


def _attention(index: Index, reads: str, checkpoint: Checkpoint | None, seed: int) -> tuple[Attention | None, str]:
    """Return how the attention is made that probes read, or None and why it cannot be."""
    if reads == "stored":
        return probe_data.stored_attention(index), ""
    if not reads:
        return (lambda words: np.empty((words.n_units, words.n_units, 0), dtype=np.float32)), ""
    assert checkpoint is not None
    try:
        return probe_data.random_attention(index, checkpoint, seed), ""
    except QKSpaceError as error:
        return None, str(error)


# ---------------------------------------------------------------------------------------------- training and reporting


_NOTHING = np.empty((0, 0, 0), dtype=np.float16)
Predict = Callable[[Sequence[Sentence]], Sequence[IntArray]]


@dataclass(frozen=True, slots=True, eq=False)
class _Study:
    """The sentences to train and to report on; their attention is made when it is needed."""

    index: Index
    chosen: Drawn
    reported: Drawn
    vectors: WordVectors
    seed: int
    epochs: int
    console: Console

    def _sentences(self, words: Iterable[Words], attention: Attention) -> list[Sentence]:
        return [probe_data.sentence_of(self.index, each, attention(each), self.vectors(each)) for each in words]

    def run(self, names: Sequence[str], attention: Attention) -> list[Result]:
        """Train the probes that read the same attention, and report them."""
        chosen, reported = self.chosen.words, self.reported.words
        words = self.console.track(chosen, len(chosen), f"Reading for {names[0]}", unit="sentences")
        sentences = self._sentences(words, attention)
        done = {name: self._train(name, sentences) for name in self.console.track(names, len(names), "Training probes")}
        del sentences
        found: dict[str, list[IntArray]] = {name: [] for name in names}
        read: list[Sentence] = []
        for first in range(0, len(reported), REPORTED_AT_ONCE):
            part = self._sentences(reported[first : first + REPORTED_AT_ONCE], attention)
            for name in names:
                found[name] += done[name][0](part)
            read += [replace(each, attention=_NOTHING) for each in part]
        return [result(name, read, found[name], **done[name][1]) for name in names]

    def _train(self, name: str, sentences: Sequence[Sentence]) -> tuple[Predict, dict[str, Any]]:
        """Return how a probe predicts once it is trained, and what is known of it (`Result`)."""
        from qkspace.heads import probe_training as training

        if name in FIXED:
            offset = 1 if name == "right neighbour" else best_offset(sentences)
            known = {"says": f"offset {offset:+d}", "n_train": 0 if name == "right neighbour" else len(sentences)}
            return (lambda part: [at_offset(each.n_words, offset) for each in part]), known | {"seconds": 0.0}
        start = time.perf_counter()
        n_dimensions = sentences[0].vector.shape[1] if PROBES[name][1] else 0
        spread = probe_data.spread_of(sentences) if PROBES[name][0] else None
        probe = training.probe_of(spread, n_dimensions, self.seed)
        done = training.train(probe, sentences, epochs=self.epochs, seed=self.seed)
        known = {"n_train": len(sentences), "seconds": time.perf_counter() - start, "says": done.says}
        if isinstance(probe, training.AttentionProbe):
            known["weights"] = training.importance(probe, sentences)
        return (lambda part: training.predict(probe, part)), known


def at_offset(n_words: int, offset: int) -> IntArray:
    """Return the candidate so many words further on: (word). Before the first word is ROOT; behind the last is nothing, -2."""
    at = 1 + np.arange(n_words) + offset
    return np.where(at > n_words, -2, np.maximum(at, 0))


def best_offset(sentences: Sequence[Sentence]) -> int:
    """Return the offset, of OFFSETS, at which most heads are, punctuation left out."""
    counted = [each.is_counted & ~each.is_punct for each in sentences]
    return max(
        OFFSETS,
        key=lambda offset: sum(
            int(((at_offset(each.n_words, offset) == each.head) & c).sum())
            for each, c in zip(sentences, counted, strict=True)
        ),
    )
