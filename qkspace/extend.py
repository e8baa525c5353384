"""Extend: add maps to a finished index, without the model.

In: an index and which maps are wanted. Out: the same index with them; its manifest is replaced when all are there, so that
until then the index is what it was. A killed run goes on where it was left.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from qkspace import store
from qkspace.console import SILENT, Console
from qkspace.index import Index
from qkspace.maps import SampleRows, Wanted, make_maps, ranges, refuse_unlike
from qkspace.plan import Parameters
from qkspace.project import joint_method
from qkspace.schema import QKSpaceError

PLAN = "project.json"  # in the work folder, while maps are being added


def project(
    root: str | Path,
    methods: tuple[str, ...],
    *,
    dims: tuple[int, ...] = (2, 3),
    normalise: str = "auto",
    joint: bool = False,
    n_jobs: int | None = None,
    console: Console = SILENT,
) -> Index:
    """Make maps of every head of a finished index that it does not have yet, and return the index.

    They are fitted and scored on the same sequences as the maps that are there, with the seed of the index.

    Args:
        root: folder of the index.
        methods: projections (`qkspace.project.METHODS`).
        dims: numbers of dimensions, 2 or 3.
        normalise: how vectors are normalised first (`qkspace.normalise`).
        joint: make the joint forms of the methods, one map for all heads of the model, and nothing else.
        n_jobs: processes; None for one a core.
        console: where progress is shown.

    Raises:
        QKSpaceError: no index there, an unknown method or normalisation, a map is there already, normalised otherwise, or
            layers that attend too differently for a joint map.
    """
    index = Index(root)
    seed = int(index.manifest["made_from"]["seed"])
    methods = tuple(joint_method(method) for method in methods) if joint else methods
    asked = Parameters(methods=methods, dims=dims, normalise=normalise, seed=seed, n_jobs=n_jobs)
    there = {(m["method"], m["dims"]): m.get("normalise", "auto") for m in index.manifest["maps"]}
    for method, n_dims in asked.maps:
        if there.get((method, n_dims), normalise) != normalise:
            raise QKSpaceError(
                f"{index.root} has {method} in {n_dims}-D already, normalised by {there[method, n_dims]!r}. An index holds one "
                "map of a kind: build another index, or choose another method."
            )
    wanted = Wanted(tuple(m for m in asked.maps if m not in there), normalise, seed)
    if not wanted.maps:
        console.say(f"{index.root} has these maps already: nothing to do.")
        _end_finished(index)
        return index
    refuse_unlike(index.layers, wanted, int(np.diff(index.row_starts).max()))
    with store.disk_errors(index.root), store.locked(index.root):
        if store.read_manifest(index.root) != index.manifest:
            raise QKSpaceError(f"{index.root}: another command has just changed it. Run this one again.")
        _begin(index, wanted)
        fit, score = (sample_rows(index, fold) for fold in ("fit", "score"))
        make_maps(index.root, index.layers, wanted, fit, score, n_jobs=n_jobs, console=console)
        entries = wanted.entries()
        folders = [index.root / "maps" / entry["name"] for entry in entries]
        manifest = dict(index.manifest)
        manifest["maps"] = [*manifest["maps"], *entries]
        manifest["files"] = dict(sorted({**manifest["files"], **store.file_records(index.root, folders)}.items()))
        store.write_json(index.root / store.MANIFEST, manifest)
        store.end_work(index.root)
    return Index(index.root)


def _begin(index: Index, wanted: Wanted) -> None:
    """Note what is being made; what an earlier run of something else left is removed, and all that is half-written."""
    store.sweep(index.root)
    plan = index.root / store.WORK / PLAN
    asked = {"maps": [list(m) for m in wanted.maps], "normalise": wanted.normalise, "seed": wanted.seed}
    if plan.exists() and store.read_json(plan) == asked:
        return
    names = {f"{method}{dims}" for method, dims in index.maps}
    store.remove_folders(path for path in (index.root / "maps").iterdir() if path.name not in names)
    store.write_json(plan, asked)


def _end_finished(index: Index) -> None:
    """Remove the work of a run that was killed at its very end, when its maps were in the manifest."""
    plan = index.root / store.WORK / PLAN
    if plan.exists() and all(tuple(m) in index.maps for m in store.read_json(plan)["maps"]):
        store.end_work(index.root)


def sample_rows(index: Index, fold: str) -> SampleRows:
    """Return the rows of the sequences of a fold ("fit" or "score")."""
    chosen = np.flatnonzero(index.sequences["fold"].to_numpy() == fold)
    first_row, lengths = index.row_starts[chosen], np.diff(index.row_starts)[chosen]
    is_special = index.tokens["is_special"].to_numpy()[ranges(first_row, lengths)]
    return SampleRows.of(first_row, lengths, is_special)
