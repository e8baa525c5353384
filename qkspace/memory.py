"""Memory: run batches on a machine that may be too small for them, in halves where it is.

In: numbers of sequences and a function that runs them together. Out: its results, in order. Knows no model and no files.
"""

from __future__ import annotations

import gc
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from qkspace.schema import IntArray, QKSpaceError

T = TypeVar("T")
SIGNS = ("out of memory", "can't allocate memory", "not enough memory", "alloc_failed")  # of torch, CUDA and cuBLAS


@dataclass(slots=True)
class Room:
    """What is known of the memory: the fewest padded tokens that did not fit in one batch."""

    too_many: float = math.inf


def run_halving(
    sequences: IntArray,
    run: Callable[[IntArray], T],
    say: Callable[[str], None],
    *,
    lengths: IntArray,
    room: Room | None = None,
) -> list[T]:
    """Run a batch; where memory runs out, run its first and its second half instead, and so on.

    What `run` raises otherwise goes through. A half may have been begun with the whole before, so that `run` must begin anew
    at each call.

    Args:
        sequences: numbers of the sequences of the batch, at least one.
        run: runs some of them together, padded to the longest.
        say: is told of each halving that memory made necessary.
        lengths: tokens of every sequence of the corpus, by its number.
        room: what is remembered from batch to batch, so that what did not fit is not tried again; None remembers nothing.

    Returns:
        The results of the parts, in the order of `sequences`.

    Raises:
        QKSpaceError: one sequence alone does not fit.
    """
    room = Room() if room is None else room
    longest = int(lengths[sequences].max())
    if len(sequences) == 1 or len(sequences) * longest < room.too_many:
        reason = ""
        try:
            return [run(sequences)]
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            reason = first_line(error)  # the error itself holds what filled the memory, and ends with this block
        _release()
        if len(sequences) == 1:
            raise QKSpaceError(
                f"Out of memory on one sequence of {longest:,} tokens ({reason}). Give it less to hold: --max-length "
                f"{max(1, longest // 2)}, a smaller --batch-tokens, --dtype bfloat16, or --device cpu where it ran on a GPU."
            )
        room.too_many = min(room.too_many, len(sequences) * longest)
        say(
            f"Out of memory on a batch of {len(sequences)} sequences of up to {longest:,} tokens; going on with half of it at "
            "a time. A smaller --batch-tokens avoids this."
        )
    half = (len(sequences) + 1) // 2
    first, second = (
        run_halving(part, run, say, lengths=lengths, room=room) for part in (sequences[:half], sequences[half:])
    )
    return first + second


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether memory ran out, of a GPU or of the machine."""
    said = str(error).lower()
    return isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and any(sign in said for sign in SIGNS))


def first_line(error: BaseException) -> str:
    """Return the first line of what an error says, or its kind where it says nothing."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


def _release() -> None:
    """Give back what tensors that are gone leave with the allocator of a GPU."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
