"""Probe words: a vector for each word of a sentence, of the model's own input embeddings or of those that somebody gives.

In: an index and a table of embeddings, a mapping or a file of word vectors. Out: how the words of a sentence become vectors.
Knows no attention and no tree.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from qkspace.heads.words import Words
from qkspace.index import Index
from qkspace.schema import FloatArray, QKSpaceError

if TYPE_CHECKING:
    from qkspace.model import Checkpoint

# Probes weigh pairs of vectors by each head: of 384 or 4,096 numbers they would have more weights than there are words to
# train them on. Clark et al. (2019) use 100.
DIMENSIONS = 100

Vectors = str | Path | Mapping[str, Any] | NDArray[Any]
WordVectors = Callable[[Words], FloatArray]  # of a sentence: (word, d)


def word_vectors(index: Index, sentences: Sequence[Words], vectors: Vectors) -> tuple[WordVectors, str]:
    """Return how words become vectors, and a sentence about it.

    Args:
        index: an index.
        sentences: those to train on. Vectors longer than DIMENSIONS are reduced to so many by PCA fitted on their words.
        vectors: a table of input embeddings, (token id, d), of which a word gets the mean over its pieces; or vectors by word,
            as a mapping or a file. A word is looked up as it is written and then in lower case; one that is not there gets 0.

    Raises:
        QKSpaceError: the file is no file of word vectors, or knows no word of the sentences.
    """
    if isinstance(vectors, np.ndarray):
        plain, what = _of_pieces(index, vectors), f"Words are input embeddings of {vectors.shape[1]} numbers"
    else:
        plain, what = _of_table(index, sentences, vectors)
    sample = np.concatenate([plain(words) for words in sentences])
    mean = sample.mean(axis=0)
    value, axes = (each[..., ::-1] for each in np.linalg.eigh((sample - mean).T @ (sample - mean)))  # the largest first
    kept = min(DIMENSIONS, sample.shape[1])
    if kept < sample.shape[1]:
        what += f", reduced to {kept} by PCA ({value[:kept].sum() / value.sum():.0%} of their variance)"
    projection = axes[:, :kept] / np.sqrt(
        max(value[:kept].sum() / (len(sample) * kept), 1e-30)
    )  # variance 1 on average
    return (lambda words: (plain(words) - mean) @ projection), f"{what}."


def input_embeddings(checkpoint: Checkpoint) -> NDArray[np.float32]:
    """Return the input embeddings of a checkpoint: (token id, d)."""
    table: Any = checkpoint.model.get_input_embeddings()
    if table is None or getattr(table, "weight", None) is None or table.weight.ndim != 2:
        raise QKSpaceError(f"{checkpoint.name} has no table of input embeddings. Give vectors of words: vectors.")
    return table.weight.detach().float().cpu().numpy()  # type: ignore[no-any-return]


def _of_pieces(index: Index, table: NDArray[Any]) -> WordVectors:
    token_ids = index.tokens["token_id"].to_numpy()
    if table.ndim != 2 or len(table) <= token_ids.max():
        raise QKSpaceError(
            f"vectors: got an array {table.shape}; expected (token id, d) for token ids up to {token_ids.max()}, or a mapping "
            "from words to vectors."
        )

    def vectors(words: Words) -> FloatArray:
        pieces = table[token_ids[words.rows]].astype(np.float64)
        sums = np.zeros((words.n_units, table.shape[1]))
        np.add.at(sums, words.unit, pieces)
        return (sums / np.bincount(words.unit)[:, None])[words.words]

    return vectors


def _of_table(
    index: Index, sentences: Sequence[Words], vectors: str | Path | Mapping[str, Any]
) -> tuple[WordVectors, str]:
    """Return how words become given vectors, and how many of the sentences' words have one."""
    text = index.tokens["word_text"].to_numpy()
    wanted = {str(each) for each in text if isinstance(each, str)}
    wanted |= {word.lower() for word in wanted}
    where = "vectors" if isinstance(vectors, Mapping) else str(vectors)
    known = _known(vectors, wanted)
    lengths = {vector.shape for vector in known.values()}
    if len(lengths) != 1 or len(next(iter(lengths))) != 1:
        got = f"vectors of {len(lengths)} shapes" if lengths else f"none of the {len(wanted):,} words of {index.root}"
        raise QKSpaceError(f"{where}: it holds {got}; expected vectors of one length for its words.")
    nothing = np.zeros(next(iter(lengths)))

    def written(words: Words) -> list[str]:
        return [str(text[row]) for row in words.row[words.words]]

    def plain(words: Words) -> FloatArray:
        return np.array([known.get(word, known.get(word.lower(), nothing)) for word in written(words)])

    n = [word in known or word.lower() in known for words in sentences for word in written(words)]
    what = f"Words are vectors of {len(nothing)} numbers from {Path(where).name}, which has {np.mean(n):.0%} of them"
    return plain, what


def _known(vectors: str | Path | Mapping[str, Any], wanted: Collection[str]) -> dict[str, FloatArray]:
    """Return the vectors of wanted words."""
    pairs = vectors.items() if isinstance(vectors, Mapping) else _read(Path(vectors), wanted)
    return {word: np.asarray(vector, dtype=np.float64) for word, vector in pairs if word in wanted}


def _read(path: Path, wanted: Collection[str]) -> Iterator[tuple[str, Any]]:
    """Yield words and their vectors from a file: .npz of `words` and `vectors`, or text of a word and its numbers a line."""
    if not path.is_file():
        raise QKSpaceError(
            f"{path}: there is no such file. Expected word vectors: .npz, or text as of GloVe or word2vec."
        )
    if path.suffix == ".npz":
        yield from _read_arrays(path)
        return
    length = 0
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            word, *numbers = line.rstrip().split(" ")
            if number == 1 and len(numbers) == 1:  # word2vec says first how many there are
                continue
            length = length or len(numbers)
            if word not in wanted or len(numbers) != length:  # some files have words with spaces in them
                continue
            try:
                yield word, np.array([float(each) for each in numbers])
            except ValueError as error:
                raise QKSpaceError(
                    f"{path} line {number}: {error}; expected a word and its numbers, with spaces between them."
                ) from error


def _read_arrays(path: Path) -> Iterator[tuple[str, Any]]:
    try:
        with np.load(path, allow_pickle=False) as arrays:
            words, vectors = arrays["words"].tolist(), arrays["vectors"]
    except (OSError, ValueError, KeyError, BadZipFile) as error:
        raise QKSpaceError(f"{path}: {error}; expected an .npz file of arrays words and vectors.") from error
    if len(words) != len(vectors):
        raise QKSpaceError(f"{path}: it holds {len(words):,} words and {len(vectors):,} vectors; expected one each.")
    yield from zip(words, vectors, strict=True)
