"""Build a comparison: indexes of every checkpoint, what changed between them, and tuned tokens on the base's maps.

In: a base and tuned checkpoints (or indexes), and a corpus. Out: a finished comparison on disk. Chains what the other modules
of this package know.

Work is cut into units: an index each, then the layers of each tuned checkpoint, then the maps of a layer. A unit is finished
when its files stand; a killed run that is run again does only what is left.
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from qkspace import store
from qkspace.comparison import reader
from qkspace.comparison.drift import head_table
from qkspace.comparison.matching import Matching, match_heads, same_shape
from qkspace.comparison.placing import PlaceJob, place_layer
from qkspace.comparison.reader import Comparison, Entry, index_digest, is_comparison
from qkspace.comparison.scan import LayerJob, scan_layer
from qkspace.comparison.sources import Source, name_all, read_source, step_of
from qkspace.comparison.units import Units, common_units
from qkspace.console import SILENT, Console
from qkspace.index import Index
from qkspace.parallel import results_of
from qkspace.pipeline import build
from qkspace.plan import Parameters, content_of
from qkspace.schema import FloatArray, QKSpaceError

PLAN = "compare.json"
MARK = store.COMPARISON_MARK
TUNED_MAPS: dict[str, Any] = {
    "methods": ("pca",),
    "dims": (2,),
    "joint": False,
}  # its tokens are placed on the base's maps
FREE = (
    "device",
    "dtype",
    "batch_tokens",
    "n_jobs",
    "trust_remote_code",
    "allow_pickle",
    "device_map",
)  # options that an index of the base leaves open


def compare(
    base: str | Path,
    tuned: str | Path | Sequence[str | Path],
    corpus: str | Path | Sequence[str | Path] | None = None,
    *,
    out: str | Path,
    names: Sequence[str] = (),
    overwrite: bool = False,
    console: Console = SILENT,
    **options: Any,  # the fields of Parameters
) -> Comparison:
    """Compare tuned checkpoints with their base over a corpus; a comparison of the same that stands already is returned.

    Args:
        base: folder or name of a checkpoint (NAME@REVISION for a branch, tag or commit of the hub), or folder of an index.
        tuned: one or several: the same, or the folder of a LoRA adapter of the base, which needs the package peft.
        corpus: what `qkspace.build` takes; not needed where the base is an index whose corpus is still where it was.
        out: folder of the comparison.
        names: what to call the checkpoints, the base first (default: the last part of their names).
        overwrite: replace a comparison of something else that stands there; its indexes are kept where they are of the same.
        console: where progress is shown; nowhere by default.
        **options: fields of `qkspace.plan.Parameters`; methods and dims are the base's maps.

    Raises:
        QKSpaceError: what cannot be compared, with the reason, or anything that `qkspace.build` refuses.
    """
    several = [tuned] if isinstance(tuned, str | Path) else list(tuned)
    if not several:
        raise QKSpaceError("There is nothing to compare with: name at least one tuned checkpoint.")
    sources = [read_source(str(name)) for name in (base, *several)]
    twice = next((source for source in sources[1:] if source == sources[0]), None)
    if twice is not None:
        raise QKSpaceError(f"{twice.name} is compared with itself: name another index or checkpoint.")
    labels = name_all(sources, names)
    root = Path(out).resolve()  # workers may have been begun in another folder
    _refuse_foreign(root)
    with store.disk_errors(root):
        root.mkdir(parents=True, exist_ok=True)
        with store.locked(root):
            store.write_json(root / store.WORK / MARK, {})
            run = _Run(root, sources, labels, corpus, options, overwrite, console)
            try:
                run.all()
            except QKSpaceError:
                _give_up(root)
                raise
            store.end_work(root)
    return Comparison(root)


def _refuse_foreign(root: Path) -> None:
    """Raise unless the folder is missing, empty, a comparison or an unfinished one."""
    if not root.exists() or is_comparison(root) or (root / store.WORK / MARK).exists():
        return
    if not root.is_dir() or any(root.iterdir()):
        raise QKSpaceError(
            f"{root}: holds files, but no comparison of qkspace; it is left alone. Choose another --out."
        )


def _give_up(root: Path) -> None:
    """Leave nothing behind of a comparison that was refused before anything was finished; a finished one stays as it was."""
    made = root / "indexes"
    if (root / store.MANIFEST).exists():
        store.end_work(root)
    elif not (root / store.WORK / PLAN).exists() and not (made.is_dir() and any(made.iterdir())):
        store.end_work(root)
        if made.is_dir():
            made.rmdir()
        if not any(root.iterdir()):
            root.rmdir()


@dataclass(frozen=True, slots=True)
class _Pair:
    """A tuned checkpoint beside the base: its index, what both have in common, and how heads were paired."""

    label: str
    source: Source
    index: Index
    units: Units
    matching: Matching | None

    @property
    def is_placed(self) -> bool:
        """Whether its tokens have places on the base's maps."""
        return self.matching is None and self.units.kind == "token"

    def entry(self, root: Path) -> Entry:
        """Return what the manifest says of it."""
        over = f"Heads were paired over {self.matching.n_queries:,} queries." if self.matching is not None else ""
        return Entry(
            self.label,
            _relative(self.index.root, root),
            index_digest(self.index, ()),
            step_of(self.label),
            self.units.kind,
            self.matching is not None,
            " ".join(filter(None, (self.units.note, over))),
        )


def _corpus_of(sources: Sequence[Mapping[str, Any]], index: str) -> list[str]:
    """Return where the corpus of an index is, which must be what it was when the index was built."""
    for source in sources:
        name = str(source["source"])
        if name == "-" or content_of(Path(name)) != source["content"]:
            what = "was read from standard input" if name == "-" else f"is not at {name} as it was"
            raise QKSpaceError(f"{index}: the corpus of this index {what}. Say where it is with --corpus.")
    return [str(source["source"]) for source in sources]


def _relative(folder: Path, root: Path) -> str:
    folder, root = folder.resolve(), root.resolve()
    return folder.relative_to(root).as_posix() if folder.is_relative_to(root) else str(folder)


class _Run:
    """One comparison in the making."""

    def __init__(
        self,
        root: Path,
        sources: list[Source],
        labels: list[str],
        corpus: str | Path | Sequence[str | Path] | None,
        options: dict[str, Any],
        overwrite: bool,
        console: Console,
    ) -> None:
        self.root, self.sources, self.labels, self.console = root, sources, labels, console
        self.overwrite = overwrite
        given = [corpus] if isinstance(corpus, str | Path) else list(corpus or ())
        self.corpus = [str(source) for source in given]
        self.options = options
        self.n_jobs: int | None = options.get("n_jobs")

    def all(self) -> None:
        """Do everything that is not done yet."""
        self._check_names()
        self._check_place()
        base = self._index(0, None)
        pairs = [self._pair(base, number) for number in range(1, len(self.sources))]
        maps = [m for m in base.maps if any(pair.is_placed for pair in pairs)]
        entries = [
            Entry(self.labels[0], _relative(base.root, self.root), index_digest(base, maps)),
            *(pair.entry(self.root) for pair in pairs),
        ]
        asked = {"checkpoints": [asdict(entry) for entry in entries], "maps": [list(m) for m in maps]}
        if self._is_finished(asked):
            self.console.say(f"{self.root} compares these already: nothing to do.")
            return
        self._begin(asked)
        self._scan(base, pairs)
        self._place(base, [pair for pair in pairs if pair.is_placed], maps)
        self._write(base, pairs, asked)

    # ---------------------------------------------------------------- indexes

    def _check_names(self) -> None:
        """Refuse at once what would be refused after the base is indexed: what is not there, and adapters that do not fit."""
        from qkspace.adapter import need_peft
        from qkspace.model import check_name

        trust = bool(self.options.get("trust_remote_code", False))
        self._check_options()
        for source in self.sources:
            if source.is_adapter:
                need_peft()
                self._need_weights_of_base(source)
            elif source.index is None:
                option = "--base" if source is self.sources[0] else "--tuned"
                check_name(source.name, revision=source.revision, trust_remote_code=trust, option=option)
        for source in self.sources:
            if source.is_adapter:
                self._load(source)

    def _load(self, source: Source) -> Any:
        """Return the model of a checkpoint, or of the base with an adapter laid on it."""
        from qkspace.model import load

        of_base = self.sources[0] if source.is_adapter else source
        passed = ("dtype", "trust_remote_code", "allow_pickle")
        options = {name: self.options[name] for name in passed if name in self.options}
        adapter = source.name if source.is_adapter else None
        return load(of_base.name, revision=of_base.revision, adapter=adapter, device="cpu", **options).model

    def _need_weights_of_base(self, adapter: Source) -> None:
        if self.sources[0].index is not None:
            raise QKSpaceError(
                f"{adapter.name} is an adapter, which is laid on the base's weights, but --base is an index. Give the base's "
                "checkpoint."
            )

    def _check_options(self) -> None:
        """Refuse options that nothing would heed: an index has its own."""
        indexes = [source.name for source in self.sources if source.index is not None]
        if len(indexes) == len(self.sources):
            bound = sorted(self.options.keys() - {"n_jobs"}) + (["corpus"] if self.corpus else [])
        else:
            bound = sorted(self.options.keys() - set(FREE)) if self.sources[0].index is not None else []
        if bound:
            raise QKSpaceError(
                f"{indexes[0]} is an index, with options of its own: {', '.join(bound)} cannot be chosen. Leave them out, or "
                "give the checkpoint."
            )

    def _check_place(self) -> None:
        """Refuse another comparison's place at once, before an index is built there."""
        if self.overwrite or not (self.root / store.MANIFEST).exists():
            return
        labels = [entry["label"] for entry in reader.read_manifest(self.root)["checkpoints"]]
        if labels != self.labels:
            raise QKSpaceError(
                f"{self.root} is a comparison of something else ({', '.join(labels)}). Use --overwrite, or another --out."
            )

    def _index(self, number: int, base: Index | None) -> Index:
        """Return the index of a checkpoint, built where there is none: the base's with its maps, a tuned one's with few."""
        source = self.sources[number]
        if source.index is not None:
            faults = store.verify(source.index)
            if faults and not all(fault.endswith(store.UNNAMED) for fault in faults):
                raise QKSpaceError(f"{source.index}: damaged ({faults[0]}). Build it again with --overwrite.")
            return Index(source.index)
        options, corpus = self._options(base)
        model = source.name
        if source.is_adapter:
            model, options = self.sources[0].name, {**options, "adapter": source.name}
            source = self.sources[0]
        if source.revision is not None:
            options["revision"] = source.revision
        if number:
            options |= TUNED_MAPS
        self.console.say(f"Index {number + 1} of {len(self.sources)}: {self.labels[number]}")
        out = self.root / "indexes" / self.labels[number]
        options["name"] = self.labels[number]
        return build(model, corpus, out=out, overwrite=self.overwrite, console=self.console, **options)

    def _options(self, base: Index | None) -> tuple[dict[str, Any], list[str]]:
        """Return how a checkpoint is indexed, and of which corpus: as the base is, where that is an index already."""
        first = self.sources[0]
        if first.index is None or base is None:
            if not self.corpus:
                raise QKSpaceError("Name the corpus to compare on: --corpus FILE.")
            return dict(self.options), self.corpus
        made: Mapping[str, Any] = base.manifest["made_from"]
        names = {field.name for field in fields(Parameters)} - {"name", "revision", "adapter", *FREE}
        options = {k: tuple(v) if isinstance(v, list) else v for k, v in made.items() if k in names}
        return {**options, **self.options}, self.corpus or _corpus_of(made["corpus"], first.name)

    def _pair(self, base: Index, number: int) -> _Pair:
        """Build the index of a tuned checkpoint, and see what can be compared."""
        index = self._index(number, base)
        if index.root.resolve() == base.root.resolve():
            raise QKSpaceError(f"{index.root} is compared with itself: name another index or checkpoint.")
        units = common_units(base, index)
        if units.note:
            self.console.say(f"{self.labels[number]}: {units.note}")
        matching = None
        if not same_shape(base, index) or units.kind == "word":
            self.console.say(f"{self.labels[number]}: heads are paired by behaviour")
            matching = match_heads(base, index, units)
        return _Pair(self.labels[number], self.sources[number], index, units, matching)

    # ---------------------------------------------------------------- what is done already

    def _is_finished(self, asked: dict[str, Any]) -> bool:
        """Tell whether this very comparison is there; one of something else is refused, or removed."""
        if not (self.root / store.MANIFEST).exists():
            return False
        there = reader.read_manifest(self.root)
        if all(there[name] == asked[name] for name in asked):
            if not self.overwrite or not verify(self.root):
                return True
        elif not self.overwrite:
            raise QKSpaceError(
                f"{self.root} is a comparison of other indexes, or of these before one was made anew or the base had all its "
                "maps. Use --overwrite, or another --out."
            )
        (self.root / store.MANIFEST).unlink()
        return False

    def _begin(self, asked: dict[str, Any]) -> None:
        """Note what is being compared; what an earlier run of something else left is removed."""
        store.sweep(self.root)
        plan = self.root / store.WORK / PLAN
        if plan.exists() and store.read_json(plan) == asked:
            return
        work = (self.root / name for name in (*reader.FOLDERS, f"{store.WORK}/drift", f"{store.WORK}/maps"))
        store.remove_folders(path for path in work if path.is_dir())
        store.write_json(plan, asked)

    # ---------------------------------------------------------------- stages

    def _scan(self, base: Index, pairs: list[_Pair]) -> None:
        """Compare attention, the layers in parallel."""
        jobs = []
        for pair in pairs:
            for layer, spec in enumerate(base.layers):
                heads = np.array([(layer, head) for head in range(spec.n_heads)])
                if pair.matching is not None:
                    heads = pair.matching.tuned[pair.matching.base[:, 0] == layer]
                jobs.append(LayerJob(self.root, pair.label, base.root, pair.index.root, layer, heads))
        left = [job for job in jobs if not job.marker.exists()]
        self._parallel(scan_layer, left, len(jobs), "Comparing attention")

    def _place(self, base: Index, pairs: list[_Pair], maps: Sequence[tuple[str, int]]) -> None:
        """Place tuned tokens on the base's maps, the layers in parallel."""
        jobs = [
            PlaceJob(self.root, pair.label, base.root, pair.index.root, layer, tuple(maps))
            for pair in pairs
            for layer in range(base.n_layers)
        ]
        left = [job for job in jobs if not job.marker.exists()]
        self._parallel(place_layer, left, len(jobs), "Placing tokens on the base's maps")

    def _parallel(self, function: Any, jobs: Sequence[Any], total: int, label: str) -> None:
        results = results_of(function, [(job,) for job in jobs], self.n_jobs)
        for _ in self.console.track(results, total, label, done=total - len(jobs), unit="layers"):
            pass

    def _write(self, base: Index, pairs: list[_Pair], asked: dict[str, Any]) -> None:
        """Write the table of heads, the means of layers, and the manifest, which makes the comparison whole."""
        import pandas as pd

        tables = []
        for pair in pairs:
            layers = [self._layer_means(pair.label, layer) for layer in range(base.n_layers)]
            store.write_array(self.root / "drift" / pair.label / "layers.npy", np.stack(layers))
            tables.append(pd.concat([self._heads(base, pair, layer) for layer in range(base.n_layers)]))
        table = pd.concat(tables, ignore_index=True)
        weights = self._weight_changes(base, pairs)
        for (label, layer), change in weights.items():
            rows = (table["checkpoint"] == label) & (table["layer"] == layer)
            table.loc[rows, "product_change"], table.loc[rows, "product_from"] = change, "weights"
        store.write_table(self.root / "drift.parquet", {name: table[name].to_numpy() for name in table})
        folders = [self.root / name for name in reader.FOLDERS]
        files = store.file_records(self.root, [folder for folder in folders if folder.is_dir()])
        files["drift.parquet"] = store.file_record(self.root / "drift.parquet")
        manifest = {
            "format": reader.FORMAT,
            "format_version": reader.FORMAT_VERSION,
            "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "versions": {name: version(name) for name in ("qkspace", "numpy")},
            **asked,
            "files": dict(sorted(files.items())),
        }
        store.write_json(self.root / store.MANIFEST, manifest)
        made = self.root / "indexes"
        if made.is_dir():
            store.remove_folders(path for path in made.iterdir() if path.name not in self.labels)

    def _layer_means(self, label: str, layer: int) -> FloatArray:
        """Return the mean divergence over the heads of a layer: (unit), float16."""
        stored = store.read_array(self.root / "drift" / label / f"L{layer:02d}.npy")
        total = np.zeros(stored.shape[1], dtype=np.float32)
        for head in stored:
            total += head
        return np.asarray(total / len(stored), dtype=np.float16)

    def _heads(self, base: Index, pair: _Pair, layer: int) -> Any:
        """Return the rows of the table of heads of one layer."""
        import pandas as pd

        found = store.read_arrays(self.root / store.WORK / "drift" / pair.label / f"L{layer:02d}.npz")
        n_heads = base.layers[layer].n_heads
        columns: dict[str, Any] = {"checkpoint": [pair.label] * n_heads, "layer": layer, "head": np.arange(n_heads)}
        columns |= head_table(found.pop("sums"), seed=0)
        nothing = np.full(n_heads, np.nan)
        for name in ("noise_floor", "product_change", "query_cka", "key_cka"):
            columns[name] = found.get(name, nothing)
        columns["logit_change"] = columns["product_change"]  # which the weights may know better
        columns["product_from"] = "data" if "product_change" in found else ""
        columns |= {"matched_layer": -1, "matched_head": -1, "match_cost": nothing, "is_shared": False}
        if pair.matching is not None:
            of_layer = pair.matching.base[:, 0] == layer
            columns["matched_layer"], columns["matched_head"] = pair.matching.tuned[of_layer].T
            columns["match_cost"] = pair.matching.cost[of_layer]
            columns["is_shared"] = pair.matching.is_shared[of_layer]
        return pd.DataFrame(columns)

    def _weight_changes(self, base: Index, pairs: list[_Pair]) -> dict[tuple[str, int], FloatArray]:
        """Return the change of the query-key product from the weights, (label, layer) -> (head), where they tell it."""
        from qkspace.comparison.product import weight_product_change

        is_text = base.manifest.get("modality", "text") == "text"
        if self.sources[0].index is not None or not any(p.is_placed and p.source.index is None for p in pairs):
            return {}
        if not is_text:  # whose weights are not read; the change of logits tells it from the data
            return {}
        own = self._load(self.sources[0])
        changes: dict[tuple[str, int], FloatArray] = {}
        for pair in (p for p in pairs if p.is_placed and p.source.index is None):
            self.console.detail(f"Comparing the weights of {pair.label}")
            for layer, change in weight_product_change(own, self._load(pair.source), base.layers).items():
                if change is not None:
                    changes[pair.label, layer] = change
        return changes


def verify(root: Path) -> list[str]:
    """Compare every file with the manifest, those of the indexes with theirs, and return what is wrong, a line a fault."""
    manifest = reader.read_manifest(root)
    folders = [folder for folder in (root / name for name in reader.FOLDERS) if folder.is_dir()]
    found = store.file_records(root, folders)
    if (root / "drift.parquet").is_file():
        found["drift.parquet"] = store.file_record(root / "drift.parquet")
    faults = store.differences(manifest["files"], found)
    for number, entry in enumerate(manifest["checkpoints"]):
        folder = root / entry["index"]
        inner = store.verify(folder)
        if not inner and index_digest(Index(folder), manifest["maps"] if number == 0 else ()) != entry["digest"]:
            inner = ["not the index that was compared: it was made anew since"]
        faults += [f"{entry['index']}/{fault}" for fault in inner]
    return faults
