"""Examples: what is learnt from, as token ids.

In: a file that `qkspace.corpus` reads, and a tokenizer. Out: `Examples`, and batches of them as tensors. Knows no model.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from qkspace import corpus
from qkspace.files import FORMAT_OF_SUFFIX
from qkspace.schema import QKSpaceError

if TYPE_CHECKING:
    import torch

IntArray = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Examples:
    """Token ids of each example; `labels` are places in `names`, and empty where the next token is learnt."""

    ids: tuple[list[int], ...]
    labels: IntArray  # (example)
    names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True, slots=True)
class Batch:
    """Examples side by side, padded on the right: (example, token), and (example) labels."""

    ids: torch.Tensor
    mask: torch.Tensor
    labels: torch.Tensor


def labelled(
    path: str, tokenizer: Any, length: int, text_column: str | None, label_column: str, names: Sequence[str] = ()
) -> Examples:
    """Read texts with labels; `names` are the labels that may occur, if they are settled.

    Raises:
        QKSpaceError: no such column, a row without a label, a label that is not in `names`, or fewer than two.
    """
    texts, found = [], []
    for row in corpus.read(path, text_column=_column(path, text_column)):
        label = row.metadata.get(label_column)
        if label is None or label == "":
            columns = ", ".join(row.metadata) or "none"
            raise QKSpaceError(
                f"{row.source}: no label: column {label_column!r} is missing or empty; besides the text there are: {columns}. "
                "Say which with --label-column."
            )
        if names and str(label) not in names:
            raise QKSpaceError(f"{row.source}: label {str(label)!r} is not among those trained on: {', '.join(names)}.")
        texts.append(row.text)
        found.append(str(label))
    chosen = tuple(names) or tuple(sorted(set(found)))
    if len(chosen) < 2:
        raise QKSpaceError(
            f"{path}: expected two labels or more in column {label_column!r}, got {', '.join(chosen) or 'no rows'}: "
            "there is nothing to tell apart."
        )
    if not texts:
        raise QKSpaceError(f"{path}: holds no rows.")
    ids = tokenizer(texts, truncation=True, max_length=length)["input_ids"]
    return Examples(tuple(ids), np.asarray([chosen.index(label) for label in found], dtype=np.int64), chosen)


def blocks(path: str, tokenizer: Any, length: int, text_column: str | None, at_most: int) -> Examples:
    """Cut running text into at most so many blocks of `length` tokens, each with the token of a beginning if there is one.

    Raises:
        QKSpaceError: the text is shorter than one block.
    """
    start = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
    size = length - len(start)
    ids: list[list[int]] = []
    held: list[int] = []
    for row in corpus.read(path, text_column=_column(path, text_column)):
        held += tokenizer(row.text + "\n", add_special_tokens=False, verbose=False)["input_ids"]
        while len(held) >= size and len(ids) < at_most:
            ids.append(start + held[:size])
            held = held[size:]
        if len(ids) == at_most:
            break
    if not ids:
        raise QKSpaceError(
            f"{path}: has {len(held)} tokens, expected at least {size}: give more text or a smaller --length."
        )
    return Examples(tuple(ids), np.empty(0, dtype=np.int64), ())


def _column(path: str, text_column: str | None) -> str | None:
    """Return the column to ask for: plain text has none."""
    suffix = path[path.rfind(".") :].lower() if "." in path else ""
    return None if FORMAT_OF_SUFFIX.get(suffix) in ("text", "conllu") else text_column


def order(n_examples: int, batch_size: int, seed: int) -> Iterator[IntArray]:
    """Yield the examples of each batch without end: every example once a round, each round shuffled anew."""
    rng, left = np.random.default_rng(seed), np.empty(0, dtype=np.int64)
    while True:
        while len(left) < batch_size:
            left = np.concatenate([left, rng.permutation(n_examples)])
        yield left[:batch_size]
        left = left[batch_size:]


def batch(examples: Examples, rows: IntArray, pad: int) -> Batch:
    """Put examples side by side."""
    import torch

    chosen = [examples.ids[row] for row in rows]
    ids = torch.full((len(chosen), max(map(len, chosen))), pad)
    mask = torch.zeros_like(ids)
    for place, tokens in enumerate(chosen):
        ids[place, : len(tokens)] = torch.tensor(tokens)
        mask[place, : len(tokens)] = 1
    return Batch(ids, mask, torch.from_numpy(examples.labels[rows] if len(examples.labels) else rows))
