"""Batches that do not fit into memory are halved, and nothing else about them changes."""

from __future__ import annotations

import gc
import subprocess
import sys
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qkspace.memory import Room, is_out_of_memory, run_halving
from qkspace.schema import IntArray, QKSpaceError

TOLD = "CUDA out of memory. Tried to allocate 20.00 GiB."


@pytest.fixture(scope="module", autouse=True)
def little_to_look_through() -> Iterator[None]:
    """Each halving collects garbage, which takes long among all that libraries hold: set those objects aside."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


class Small(torch.nn.Module):
    """A model that takes `room` padded tokens at a time, and remembers what it was asked for."""

    def __init__(self, room: int) -> None:
        super().__init__()
        self.room, self.asked = room, []

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """Return the sum of each sequence, where there is room."""
        self.asked.append(tuple(ids.shape))
        if ids.numel() > self.room:
            raise torch.OutOfMemoryError(TOLD)
        return ids.sum(dim=1)


def runner(model: Small, lengths: IntArray) -> Callable[[IntArray], list[int]]:
    """Run sequences padded with 0 to the longest; sequence s is its number, as often as it is long."""

    def run(sequences: IntArray) -> list[int]:
        ids = torch.zeros(len(sequences), int(lengths[sequences].max()), dtype=torch.int64)
        for i, s in enumerate(sequences):
            ids[i, : lengths[s]] = int(s)
        return [int(value) for value in model(ids)]

    return run


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(1, 9), min_size=1, max_size=30), st.integers(9, 60), st.randoms())
def test_halves_give_what_the_whole_gives_in_its_order(found: list[int], room: int, random: object) -> None:
    lengths, order = np.array(found), list(range(len(found)))
    random.shuffle(order)  # type: ignore[attr-defined]
    sequences, model, said = np.array(order), Small(room), []
    parts = run_halving(sequences, runner(model, lengths), said.append, lengths=lengths)
    assert [value for part in parts for value in part] == [s * lengths[s] for s in order]
    assert len(said) == sum(n * longest > room for n, longest in model.asked)  # told of each halving, once


def test_what_fits_is_run_once_and_silently() -> None:
    lengths, model, said = np.full(8, 5), Small(40), []
    run_halving(np.arange(8), runner(model, lengths), said.append, lengths=lengths)
    assert model.asked == [(8, 5)]
    assert said == []


def test_what_did_not_fit_is_not_tried_again() -> None:
    lengths, model, said, room = np.full(32, 5), Small(20), [], Room()
    for start in range(0, 32, 8):
        run_halving(np.arange(start, start + 8), runner(model, lengths), said.append, lengths=lengths, room=room)
    assert model.asked == [(8, 5)] + [(4, 5)] * 8
    assert len(said) == 1
    assert "8 sequences of up to 5 tokens" in said[0]


def test_a_sequence_that_does_not_fit_alone_is_named_by_its_length_with_what_to_do() -> None:
    lengths = np.array([10, 400, 10])
    with pytest.raises(
        QKSpaceError, match=r"one sequence of 400 tokens.*--max-length 200.*--dtype.*--device cpu"
    ) as caught:
        run_halving(np.arange(3), runner(Small(100), lengths), lambda message: None, lengths=lengths)
    assert TOLD.rstrip(".") in str(caught.value)


@pytest.mark.parametrize(
    "error", [RuntimeError("shapes cannot be multiplied"), QKSpaceError("a mask"), ValueError("out of memory")]
)
def test_any_other_error_goes_through_at_once(error: Exception) -> None:
    n_calls = 0

    def run(sequences: IntArray) -> None:
        nonlocal n_calls
        n_calls += 1
        raise error

    with pytest.raises(type(error)) as caught:
        run_halving(np.arange(4), run, lambda message: None, lengths=np.full(4, 5))
    assert caught.value is error
    assert n_calls == 1


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError(TOLD),
        RuntimeError("CUDA error: out of memory"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    ],
)
def test_every_way_to_say_out_of_memory_is_known(error: Exception) -> None:
    assert is_out_of_memory(error)


LIMITED = """
import resource, sys
import numpy as np, torch
from qkspace.memory import run_halving

used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (600 << 20),) * 2)

def run(sequences):
    filled = torch.ones(len(sequences), 200 << 20, dtype=torch.uint8)  # 200 MiB a sequence
    return filled[:, -1].tolist()

print(run_halving(np.arange(8), run, lambda message: print("said", file=sys.stderr), lengths=np.full(8, 7)))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="limits memory as Linux does")
def test_real_memory_that_runs_out_on_a_cpu_is_noticed_and_given_back() -> None:
    done = subprocess.run([sys.executable, "-c", LIMITED], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str([[1, 1]] * 4)
    assert done.stderr.count("said") == 2  # 8 do not fit, nor 4; the other 4 are not tried


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_real_memory_that_runs_out_on_a_gpu_is_noticed_and_given_back() -> None:
    total = torch.cuda.get_device_properties(0).total_memory
    each = total // 4  # bytes a sequence: three fit at most, four do not

    def run(sequences: IntArray) -> list[int]:
        filled = torch.ones(len(sequences), each, dtype=torch.uint8, device="cuda")
        return [int(value) for value in filled[:, -1]]

    said: list[str] = []
    assert run_halving(np.arange(8), run, said.append, lengths=np.full(8, 7)) == [[1, 1]] * 4
    assert len(said) == 2
    with pytest.raises(QKSpaceError, match="one sequence of 7 tokens"):
        run_halving(np.arange(2), lambda s: torch.ones(2 * total, device="cuda"), said.append, lengths=np.full(2, 7))
