"""Feed: what goes into a forward pass, for some sequences of the corpus at a time.

In: the corpus as the reading stage left it. Out: batches of the inputs of a model, padded on the right. Knows no attention.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

from qkspace.classes import TokenClasses
from qkspace.schema import BoolArray, IntArray

if TYPE_CHECKING:
    import torch
    from torch import Tensor


@dataclass(frozen=True, slots=True)
class Tokens:
    """A corpus as tokens: token_ids and is_special are flat, sequence s is starts[s]:starts[s + 1].

    is_stored (sequence) marks the sequences whose vectors are kept; statistics run over all. n_source (sequence): how many
    of its first tokens are of the source, where attention crosses from a target to a source. classes: those of metadata.
    """

    token_ids: IntArray
    is_special: BoolArray
    starts: IntArray
    is_stored: BoolArray
    n_source: IntArray | None = None
    classes: TokenClasses | None = None

    @property
    def lengths(self) -> IntArray:
        """Tokens of each sequence."""
        return np.diff(self.starts)


class Feed(Protocol):
    """Where the inputs of a model come from."""

    def batch(self, sequences: IntArray, device: torch.device) -> dict[str, Tensor]:
        """Return the inputs of some sequences as `forward` takes them."""


@dataclass(frozen=True, slots=True)
class TextFeed:
    """Token ids and what is padding; pad_id: any token id, what stands there is masked and never stored."""

    tokens: Tokens
    pad_id: int

    def batch(self, sequences: IntArray, device: torch.device) -> dict[str, Tensor]:
        """Return input_ids and attention_mask, (sequence, token)."""
        ids, mask = padded(self.tokens, sequences, self.pad_id, device)
        return {"input_ids": ids, "attention_mask": mask}


def padded(tokens: Tokens, sequences: IntArray, pad_id: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return the token ids of some sequences, padded on the right, and 1 where there is a token: (sequence, token) both."""
    import torch

    lengths = tokens.starts[sequences + 1] - tokens.starts[sequences]
    ids = np.full((len(sequences), int(lengths.max())), pad_id, dtype=np.int64)
    for i, s in enumerate(sequences):
        ids[i, : lengths[i]] = tokens.token_ids[tokens.starts[s] : tokens.starts[s + 1]]
    mask = (np.arange(ids.shape[1])[None, :] < lengths[:, None]).astype(np.int64)
    return torch.from_numpy(ids).to(device), torch.from_numpy(mask).to(device)
