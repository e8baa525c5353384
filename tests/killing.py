"""Builds in processes of their own that may be killed, and what is left of them.

One process imports everything once and forks a child a build: a build starts in a tenth of a second, and can be killed often.
It is shared by all test modules that run in one worker. It never computes itself: threads do not survive a fork.
"""

from __future__ import annotations

import atexit
import json
import signal
import subprocess
import sys
from collections.abc import Mapping
from functools import cache
from pathlib import Path

from qkspace import store

KILLED, OUT_OF_TIME = -signal.SIGKILL, -signal.SIGPROF  # before a flush, and in a stage
# With "flush" a child kills itself, as hard as from outside, when it is about to flush a file for the n-th time; a flush that
# is not that one is left out, for no kill of a process can tell. With "stage" a clock of its CPU time starts when that stage
# of the build begins, at whose end the system kills the child: nothing handles SIGPROF. So a busy machine moves no kill.
PARENT = """
import contextlib, faulthandler, gc, importlib, itertools, json, os, signal, sys, time, traceback
import joblib, pandas, pyarrow.dataset, pyarrow.parquet, scipy.optimize, sklearn.manifold, torch
from transformers import AutoModel, AutoTokenizer, BertModel, LlamaModel, T5ForConditionalGeneration
import qkspace.capture, qkspace.corpus, qkspace.extend, qkspace.extract, qkspace.fidelity, qkspace.generation
import qkspace.normalise, qkspace.observe, qkspace.pairs, qkspace.pipeline, qkspace.project, qkspace.selfcheck
import qkspace.tokenise, qkspace.unfold
from qkspace.cli import main

with contextlib.suppress(ImportError):  # what every load of a checkpoint makes first
    from transformers.conversion_mapping import get_checkpoint_conversion_mapping
    get_checkpoint_conversion_mapping("bert")

STAGES = {"reading": "read", "extraction": "extract", "maps": "_map"}
seconds = {}

def die_before(n):
    flushes = itertools.count(1)
    def flush(file):
        if next(flushes) == n:
            os.kill(os.getpid(), signal.SIGKILL)
    os.fsync = flush

def watch(stage, kill):
    whole = getattr(qkspace.pipeline.Build, STAGES[stage])
    def watched(*given):
        if kill and kill[0] == stage:
            signal.setitimer(signal.ITIMER_PROF, kill[1])
        begun = time.process_time()
        result = whole(*given)
        seconds[stage] = time.process_time() - begun
        return result
    setattr(qkspace.pipeline.Build, STAGES[stage], watched)

def run(order):
    log = os.open(order["log"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(log, 1)
    os.dup2(log, 2)
    faulthandler.dump_traceback_later(200, exit=True, file=2)  # a build that hangs says where
    for name, value in order["constants"].items():
        module, constant = name.rsplit(".", 1)
        setattr(importlib.import_module("qkspace." + module), constant, value)
    die_before(order["flush"])
    for stage in STAGES:
        watch(stage, order["stage"])
    try:
        status = main(order["arguments"])
    except BaseException:
        traceback.print_exc()
        status = 70
    with open(order["seconds"], "w") as file:
        json.dump(seconds, file)
    sys.stderr.flush()
    os._exit(status)

gc.collect()
gc.freeze()  # no child looks through what was imported
print("ready", flush=True)
for line in sys.stdin:
    order = json.loads(line)
    child = os.fork()
    if child == 0:
        run(order)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


@cache
def _parent() -> subprocess.Popen[str]:
    """Begin the process that builds are forked from; it ends with this one."""
    process = subprocess.Popen([sys.executable, "-c", PARENT], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    atexit.register(process.communicate)
    assert process.stdout is not None and process.stdout.readline().strip() == "ready"
    return process


class Driver:
    """Runs commands of qkspace, one at a time, in processes that may be killed."""

    def __init__(self, folder: Path, constants: Mapping[str, int] | None = None) -> None:
        """Take a folder for the log, and constants of qkspace to be replaced, such as {"extract.UNIT_TOKENS": 600}."""
        self.log, self._seconds, self._constants = folder / "log", folder / "seconds", dict(constants or {})

    def run(self, arguments: list[str], flush: int = 0, stage: tuple[str, float] | None = None) -> int:
        """Run a command; return its exit status, or minus the signal that ended it.

        flush: kill it before it flushes a file for the n-th time.
        stage: kill it so many seconds of CPU time after this stage of a build began, unless it ends before.
        """
        order = {"arguments": arguments, "flush": flush, "stage": stage, "constants": self._constants}
        parent = _parent()
        assert parent.stdin is not None and parent.stdout is not None
        parent.stdin.write(json.dumps({**order, "log": str(self.log), "seconds": str(self._seconds)}) + "\n")
        parent.stdin.flush()
        return int(parent.stdout.readline())

    def seconds(self) -> dict[str, float]:
        """Return how much CPU time each stage of the last build took that was not killed."""
        return {stage: float(value) for stage, value in store.read_json(self._seconds).items()}


def listing(root: Path) -> dict[str, bytes]:
    return {p.relative_to(root).as_posix(): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()}


def assert_same_index(found: Path, expected: Path) -> None:
    """Compare two indexes byte by byte, but for the time at which they were made."""
    manifests = [{**store.read_manifest(root), "created": ""} for root in (found, expected)]
    assert manifests[0]["files"] == manifests[1]["files"]
    assert manifests[0] == manifests[1]
    assert store.verify(found) == []
    on_disk = {p.relative_to(found).as_posix() for p in found.rglob("*") if p.is_file()}
    assert on_disk == {store.MANIFEST, *manifests[1]["files"]}  # nothing of the work is left


def assert_same_files(found: Path, expected: Path) -> None:
    """Compare two indexes byte by byte, whatever they were asked for by."""
    assert store.verify(found) == []
    assert store.read_manifest(found)["files"] == store.read_manifest(expected)["files"]
