"""Sources: what is to be compared, as the user named it.

In: a word from the command line. Out: whether it is an index, a checkpoint, a revision of one, or an adapter, and a short
label for it. Loads nothing.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from qkspace import store
from qkspace.comparison.reader import is_comparison
from qkspace.schema import QKSpaceError

ADAPTER = "adapter_config.json"
PLAIN = ("model", "checkpoint", "final")  # folder names that say nothing


@dataclass(frozen=True, slots=True)
class Source:
    """A checkpoint by folder or name (and revision), an adapter by folder, or an index, then `index` is its folder."""

    name: str
    revision: str | None = None
    index: Path | None = None
    is_adapter: bool = False


def read_source(name: str) -> Source:
    """Tell what a name means.

    Raises:
        QKSpaceError: it is a comparison, or an index that is not finished.
    """
    path = Path(name)
    if is_comparison(path):
        raise QKSpaceError(f"{name} is a comparison itself; give an index or a checkpoint.")
    if store.is_ours(path) or (path / store.WORK).is_dir():
        store.read_manifest(path)  # refuses an unfinished one
        return Source(name, index=path.resolve())
    if (path / ADAPTER).is_file() and not (path / "config.json").is_file():
        return Source(str(path.resolve()), is_adapter=True)
    inner = sorted(child for child in path.iterdir() if _is_checkpoint(child)) if path.is_dir() else []
    if inner and not _is_checkpoint(path):
        raise QKSpaceError(f"{name} is no checkpoint, but holds some: name one of them, such as {inner[-1]}.")
    if not path.exists() and "@" in name:
        plain, _, revision = name.rpartition("@")
        return Source(plain, revision=revision)
    return Source(str(path.resolve()) if path.is_dir() else name)


def _is_checkpoint(folder: Path) -> bool:
    return (folder / "config.json").is_file() or (folder / ADAPTER).is_file()


def name_all(sources: Sequence[Source], names: Sequence[str]) -> list[str]:
    """Return a label for each source, no two the same: those given, or the last part of each name that tells something.

    Raises:
        QKSpaceError: too few or too many names, or two the same.
    """
    if names and len(names) != len(sources):
        raise QKSpaceError(f"{len(sources)} checkpoints are compared, the base first, but {len(names)} names given.")
    labels = [_plain(label) for label in names] or [_label(source) for source in sources]
    twice = sorted({label for label in labels if labels.count(label) > 1})
    if twice and names:
        raise QKSpaceError(f"Several checkpoints are called {', '.join(twice)}; each needs a name of its own.")
    if twice:
        labels = [_label(s, whole=True) if label in twice else label for s, label in zip(sources, labels, strict=True)]
    chosen: list[str] = []
    for label in labels:
        free = (name for name in (label, *(f"{label}-{n}" for n in range(2, len(labels) + 2))) if name not in chosen)
        chosen.append(next(free))
    return chosen


def _label(source: Source, *, whole: bool = False) -> str:
    """Return the last part of a name that tells something; with `whole` the part before it too."""
    parts = [part for part in Path(source.name).parts if part not in PLAIN and part.strip("/.~")] or [source.name]
    label = "-".join(parts[-2:]) if whole else parts[-1]
    return _plain(f"{label}-{source.revision}" if source.revision else label)


def _plain(label: str) -> str:
    """Return a label as a name of a folder."""
    return re.sub(r"[^\w.+-]+", "-", label).strip("-.") or "checkpoint"


def step_of(label: str) -> int | None:
    """Return the step of training that a label ends with (step-0060, checkpoint-500), None where it tells none."""
    found = re.search(r"(?:step|checkpoint|iter|global_step)[-_]?(\d+)$", label, re.IGNORECASE)
    return int(found[1]) if found else None
