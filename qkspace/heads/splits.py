"""Splits: some sequences to choose a head by, others to report it on.

In: an index. Out: the places of two sets of its sequences that share no text. Knows no measure.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qkspace.index import Index
from qkspace.schema import BoolArray, IntArray, QKSpaceError


def split(
    index: Index,
    choose: str | None = None,
    report: str | None = None,
    seed: int = 0,
    *,
    among: IntArray | None = None,
) -> tuple[IntArray, IntArray, str]:
    """Return the places of the sequences to choose by and of those to report on, ascending, and how they were parted.

    An index of several files is parted by file: chosen by the first, reported on the last, in the order of the build. Any
    other is dealt half and half, text by text. The windows of a text, and all texts that are the same to the letter, are on
    one side: of two files, what stands in both is only reported on.

    Args:
        index: an index.
        choose: the file to choose by, as in the column `corpus`; None is the first.
        report: the file to report on; None is the last.
        seed: of the dealing.
        among: places of sequences that have what is to be measured; only they, and only files that have any, count.

    Raises:
        QKSpaceError: there is no such file, both are one, or there are fewer than two texts.
    """
    places = np.arange(len(index.sequences)) if among is None else np.unique(among)
    sequences = index.sequences.iloc[places]
    texts = sequences["text"].to_numpy()
    corpus = _corpus(index)[places]
    corpora = list(dict.fromkeys(corpus[corpus != ""].tolist()))  # in the order of the build
    if choose is None and report is None and len(corpora) < 2:
        first, last = _dealt(texts, seed)
        how = f"Texts were dealt half and half (seed {seed})"
    else:
        names = _names(index, corpora, choose, report)
        first, last = (corpus == name for name in names)
        first &= ~np.isin(texts.astype(str), texts[last].astype(str))
        how = f"Chosen on {names[0]} and reported on {names[1]}"
    if not first.any() or not last.any():
        raise QKSpaceError(
            f"{index.root}: {first.sum():,} sequences to choose by and {last.sum():,} to report on; a head can be chosen on "
            "one text and reported on another where there are two at least that have what is measured. Build the index of "
            "more text."
        )
    return places[first], places[last], f"{how}: {first.sum():,} and {last.sum():,} sequences."


def told(index: Index, places: Sequence[IntArray], seed: int) -> list[Any]:
    """Say as `split` how it parted an index, given its places: the name of a sentence of the page and what stands in it."""
    counts = {"n_choose": len(places[0]), "n_report": len(places[1])}
    corpus = _corpus(index)
    choose, report = (set(corpus[each].tolist()) for each in places)
    if len(choose) == len(report) == 1 and choose != report:
        return ["how_files", {"choose": choose.pop(), "report": report.pop()} | counts]
    return ["how_dealt", {"seed": seed} | counts]


def _corpus(index: Index) -> NDArray[np.str_]:
    """Return the file that each stored sequence is of, "" for all where the build read one: (sequence).

    Only a build of several files writes the column `corpus` itself (`qkspace.reading`); any other is the user's own.
    """
    sequences = index.sequences
    if len(index.manifest["made_from"].get("corpus", ())) < 2 or "corpus" not in sequences:
        return np.full(len(sequences), "")
    corpus = sequences["corpus"]
    return np.where(corpus.isna(), "", corpus.astype(str)).astype(str)


def _dealt(texts: NDArray[Any], seed: int) -> tuple[BoolArray, BoolArray]:
    """Deal texts half and half; return which sequences are on each side: (sequence), twice."""
    unique, text = np.unique(texts.astype(str), return_inverse=True)
    chosen = np.zeros(len(unique), dtype=bool)
    chosen[np.random.default_rng(seed).permutation(len(unique))[: len(unique) // 2]] = True
    return chosen[text], ~chosen[text]


def _names(index: Index, corpora: list[str], choose: str | None, report: str | None) -> tuple[str, str]:
    """Return the two files, each of which must be there."""
    for name in (choose, report):
        if name is not None and name not in corpora:
            raise QKSpaceError(
                f"{index.root} has nothing to measure in a file {name!r}; there is {', '.join(corpora) or 'one file only'}. "
                "Name one of these, or build the index of several files."
            )
    first = choose or next((name for name in corpora if name != report), None)
    last = report or next((name for name in reversed(corpora) if name != choose), None)
    if first is None or last is None or first == last:
        raise QKSpaceError(
            f"{index.root}: a head cannot be chosen and reported on one file ({choose or report}). Name two, or none."
        )
    return first, last
