"""A comparison as Python sees it: what changed between a base checkpoint and tuned ones, read from disk when asked for.

In: a folder that `qkspace compare` made. Out: tables and arrays. Needs neither torch nor a projection engine.

    comparison = qkspace.open_comparison("out/base-vs-tuned")
    comparison.drift                                        # one row per tuned checkpoint and head
    comparison.links("step-0060", layer=5, head=3)          # the query-key pairs that changed most

    manifest.json                  what was compared, and every other file with bytes and sha256; written last
    indexes/LABEL/                 the indexes that were built for it; the manifest says where each is
    drift.parquet                  one row per tuned checkpoint and head
    drift/LABEL/L00.npy            (head, unit)           Jensen-Shannon divergence of each query's attention, nats
    drift/LABEL/layers.npy         (layer, unit)          its mean over the heads of each layer
    changed_key/LABEL/L00.npy      (head, unit, 2)        the key whose attention grew most and that shrank most, -1 = none
    changed_attention/LABEL/L00.npy (head, unit, 2, 2)    their attention: (grew or shrank, base or tuned)
    maps/unfold2/LABEL/L00H00.npy  (query or key, token, dims) tokens of the tuned checkpoint on the base's map
    maps/unfold2/LABEL/L00H00.npz  how they were brought into the base's gauge, and scores of the tuned attention there

Layers and heads are the base's throughout. A unit is what both checkpoints have: a token, or a word where their tokenizers
differ; units are numbered over all sequences in the order of the corpus.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from qkspace import store
from qkspace.comparison.units import Units, common_units
from qkspace.index import Head, Index, prefixed
from qkspace.pooling import pool
from qkspace.schema import FloatArray, IntArray, QKSpaceError

if TYPE_CHECKING:
    import pandas as pd

    from qkspace.comparison.alignment import Alignment
    from qkspace.fidelity import Scores

FORMAT = "qkspace-comparison"
FORMAT_VERSION = 1
BASE = "base"
LEAST_LINK = 0.1  # attention from which a pair is a link
FOLDERS = ("drift", "changed_key", "changed_attention", "maps")
NEEDED = ("checkpoints", "maps", "files")


@dataclass(frozen=True, slots=True)
class Entry:
    """What the manifest says of a checkpoint.

    index: folder of its index, relative to the comparison or absolute; digest: see `index_digest`; step: of
    training, where the label tells. matched: heads were paired by behaviour, the shape being another.
    """

    label: str
    index: str
    digest: str
    step: int | None = None
    unit: Literal["token", "word"] = "token"
    matched: bool = False
    note: str = ""


class Comparison:
    """A finished comparison on disk.

    Raises:
        QKSpaceError: no finished comparison is there, or one of its indexes is gone or has been made anew since.
    """

    def __init__(self, root: str | Path) -> None:
        """Open the comparison in a folder; its arrays stay on disk."""
        self.root = Path(root)
        self.manifest = read_manifest(self.root)
        missing = [name for name in self.manifest["files"] if not (self.root / name).is_file()]
        if missing:
            raise QKSpaceError(
                f"{self.root}: {len(missing)} of its files are missing, {missing[0]} first. Restore them, or compare "
                "again with --overwrite."
            )
        self.entries = tuple(Entry(**entry) for entry in self.manifest["checkpoints"])
        self._indexes = {entry.label: self._open(entry) for entry in self.entries}

    def _open(self, entry: Entry) -> Index:
        """Open the index of a checkpoint, which must be the one that was compared."""
        folder = self.root / entry.index
        try:
            index = Index(folder)
        except QKSpaceError as error:
            raise QKSpaceError(f"{self.root}: the index of {entry.label} cannot be opened. {error}") from error
        if index_digest(index, self.maps if entry.label == self.base_label else ()) != entry.digest:
            raise QKSpaceError(
                f"{self.root}: the index of {entry.label} in {folder} is not the one that was compared: it was made anew "
                "since. Compare again with --overwrite."
            )
        return index

    def __repr__(self) -> str:
        """Say what was compared."""
        return f"<qkspace comparison {str(self.root)!r}: {self.base_label} with {', '.join(self.labels)}>"

    @property
    def base_label(self) -> str:
        """What the base checkpoint is called here."""
        return self.entries[0].label

    @property
    def labels(self) -> tuple[str, ...]:
        """What the tuned checkpoints are called here, in the order given."""
        return tuple(entry.label for entry in self.entries[1:])

    @property
    def base(self) -> Index:
        """The index of the base checkpoint."""
        return self._indexes[self.base_label]

    def tuned(self, label: str) -> Index:
        """Return the index of a tuned checkpoint."""
        return self._indexes[self.entry(label).label]

    def entry(self, label: str) -> Entry:
        """Return what the manifest says of a tuned checkpoint.

        Raises:
            QKSpaceError: there is none of that name.
        """
        for entry in self.entries[1:]:
            if entry.label == label:
                return entry
        raise QKSpaceError(f"No checkpoint {label!r} in this comparison; there are {', '.join(self.labels)}.")

    @property
    def steps(self) -> dict[str, int | None]:
        """The step of training of each tuned checkpoint, where its name tells."""
        return {entry.label: entry.step for entry in self.entries[1:]}

    def is_matched(self, label: str) -> bool:
        """Tell whether heads were paired by behaviour, the two models being of different shape."""
        return self.entry(label).matched

    def unit(self, label: str) -> Literal["token", "word"]:
        """Return what is compared: tokens, or words where the tokenizers differ."""
        return self.entry(label).unit

    def common(self, label: str) -> Units:
        """Return what base and tuned have in common, sequence by sequence."""
        return _common(self.base.root, self.tuned(label).root, self.entries[0].digest, self.entry(label).digest)

    def units(self, label: str) -> pd.DataFrame:
        """Return one row per unit: `base.tokens` in token units, else the table of words."""
        return self.base.tokens if self.unit(label) == "token" else self.common(label).table

    def unit_starts(self, label: str) -> IntArray:
        """Return where the units of each common sequence start, and where the last one ends: (sequence + 1)."""
        return self.base.row_starts if self.unit(label) == "token" else self.common(label).starts

    def sequence_numbers(self, label: str) -> IntArray:
        """Return the values of `base.tokens["sequence"]` of the common sequences, in order."""
        if self.unit(label) == "token":
            return np.asarray(self.base.sequences["sequence"].to_numpy())
        starts = self.unit_starts(label)
        return np.asarray(self.units(label)["sequence"].to_numpy()[starts[:-1]])

    @property
    def maps(self) -> tuple[tuple[str, int], ...]:
        """The maps of the base on which tuned tokens were placed: (method, dims)."""
        return tuple((str(method), int(dims)) for method, dims in self.manifest["maps"])

    @cached_property
    def drift(self) -> pd.DataFrame:
        """One row per tuned checkpoint and head of the base: what changed; see docs/comparing.md for each column."""
        import pandas as pd

        try:
            return pd.read_parquet(self.root / "drift.parquet")
        except (OSError, ValueError) as error:
            raise QKSpaceError(
                f"{self.root / 'drift.parquet'}: damaged ({error}). Compare again with --overwrite."
            ) from error

    def head_drift(self, label: str) -> pd.DataFrame:
        """Return the rows of `drift` of one tuned checkpoint, in the order of the base's heads."""
        self.entry(label)
        return self.drift[self.drift["checkpoint"] == label].reset_index(drop=True)

    def layer_drift(self, label: str) -> pd.DataFrame:
        """Return one row per layer: the means over its heads of all that is a number in `drift`."""
        table = self.head_drift(label).drop(columns=["checkpoint", "head", "product_from"])
        return table.groupby("layer", as_index=False).mean()

    # ---------------------------------------------------------------- tokens and pairs

    def _array(self, kind: str, label: str, name: str) -> NDArray[Any]:
        return store.read_array(self.root / kind / self.entry(label).label / f"{name}.npy")

    def token_drift(self, label: str, layer: int | None = None, head: int | None = None) -> FloatArray:
        """Return the divergence of each unit as a query, nats: (unit); a mean over heads where no head is named."""
        if layer is None:
            counts = np.array([spec.n_heads for spec in self.base.layers], dtype=np.float32)
            return store.float_array(counts @ store.float_array(self._array("drift", label, "layers")) / counts.sum())
        if head is None:
            return store.float_array(self._array("drift", label, "layers")[layer])
        self.base.head(layer, head)
        return store.float_array(self._array("drift", label, f"L{layer:02d}")[head])

    def by(self, column: str, label: str, layer: int | None = None, head: int | None = None) -> pd.DataFrame:
        """Return which classes of tokens changed most: value, js (mean over its queries), n; the most changed first.

        column: of `base.tokens`, such as upos or kind; of a word it is that of its first token.

        Raises:
            QKSpaceError: there is no such column.
        """
        import pandas as pd

        tokens = self.base.tokens
        if column not in tokens:
            raise QKSpaceError(f"No column {column!r}; the corpus has {', '.join(map(str, tokens.columns))}.")
        values = tokens[column]
        if self.unit(label) == "word":
            values = values.iloc[self.units(label)["base_row"].to_numpy()]
        table = pd.DataFrame({"value": values.to_numpy(), "js": self.token_drift(label, layer, head)})
        groups = table.groupby("value", observed=True)["js"].agg(js="mean", n="size").reset_index()
        return groups.sort_values("js", ascending=False, kind="stable", ignore_index=True)

    def sequences(self, label: str, layer: int | None = None, head: int | None = None, top: int = 10) -> pd.DataFrame:
        """Return the sequences that changed most on average: sequence, text, js, n (units); the most changed first."""
        import pandas as pd

        starts, numbers = self.unit_starts(label), self.sequence_numbers(label)
        lengths = np.diff(starts)
        mean = np.add.reduceat(self.token_drift(label, layer, head).astype(np.float64), starts[:-1]) / lengths
        chosen = np.argsort(-mean, kind="stable")[:top]
        place = np.searchsorted(self.base.sequences["sequence"].to_numpy(), numbers[chosen])
        text = self.base.sequences["text"].to_numpy()[place]
        return pd.DataFrame({"sequence": numbers[chosen], "text": text, "js": mean[chosen], "n": lengths[chosen]})

    def links(self, label: str, layer: int, head: int, *, top: int = 100, least: float = LEAST_LINK) -> pd.DataFrame:
        """Return the query-key pairs whose attention changed most, the largest change first.

        Of each query the key that gained most and the one that lost most are known, so that a pair that changed third most
        for its query is not found.

        Args:
            label: of the tuned checkpoint.
            layer: of the base, from 0.
            head: of the base, from 0.
            top: how many at most.
            least: attention from which a pair is a link; pairs below it in both checkpoints are left out.

        Returns:
            Columns query, key (rows of `units(label)`), base, tuned (attention), change and status: "appeared", "vanished"
            (it crossed `least`), "grew" or "shrank".
        """
        import pandas as pd

        self.base.head(layer, head)
        key = np.asarray(self._array("changed_key", label, f"L{layer:02d}")[head])  # (unit, grew or shrank)
        weight = store.float_array(self._array("changed_attention", label, f"L{layer:02d}")[head])
        base, tuned = weight[..., 0], weight[..., 1]
        query, side = np.nonzero((key >= 0) & (np.maximum(base, tuned) >= least) & (base != tuned))
        change = tuned[query, side] - base[query, side]
        order = np.argsort(-np.abs(change), kind="stable")[:top]
        query, side = query[order], side[order]
        columns = {"query": query, "key": key[query, side], "base": base[query, side], "tuned": tuned[query, side]}
        table = pd.DataFrame({**columns, "change": change[order]})
        crossed = [table["base"] < least, table["tuned"] < least, table["change"] > 0]
        table["status"] = np.select(crossed, ["appeared", "vanished", "grew"], "shrank")
        return table

    def pair(self, label: str, layer: int, head: int) -> tuple[Head, Head]:
        """Return a head of the base and the head of the tuned checkpoint that it is compared with."""
        base = self.base.head(layer, head)
        if not self.is_matched(label):
            return base, self.tuned(label).head(layer, head)
        table = self.head_drift(label)
        row = table[(table["layer"] == layer) & (table["head"] == head)].iloc[0]
        return base, self.tuned(label).head(int(row["matched_layer"]), int(row["matched_head"]))

    def attention(self, label: str, sequence: int, layer: int, head: int) -> tuple[FloatArray, FloatArray]:
        """Return the attention over one sequence in both checkpoints: (query unit, key unit) each.

        In word units a last column holds what goes to none of the common words. sequence: a value of
        `base.tokens["sequence"]`.

        Raises:
            QKSpaceError: that sequence is not in both.
        """
        base, tuned = self.pair(label, layer, head)
        if self.unit(label) == "token":
            return base.attention(sequence), tuned.attention(sequence)
        common = self.common(label)
        found = np.flatnonzero(self.sequence_numbers(label) == sequence)
        if not len(found):
            raise QKSpaceError(f"Sequence {sequence} is not in both checkpoints' indexes; see comparison.units.")
        part = common.sequence(int(found[0]))
        weights = []
        for one, rows, unit in ((base, part.base_rows, part.base_unit), (tuned, part.tuned_rows, part.tuned_unit)):
            number = int(one.index.tokens["sequence"].iloc[rows.start])
            weights.append(pool(one.attention(number)[None], unit, unit, part.n_units)[0])
        return weights[0], weights[1]

    def view(self, label: str, method: str, dims: int, layer: int, head: int) -> TunedView:
        """Return where the tokens of a tuned checkpoint lie on the base's map of a head.

        Raises:
            QKSpaceError: they were not placed on such a map.
        """
        if self.is_matched(label) or self.unit(label) == "word":
            raise QKSpaceError(
                f"{label} is of another shape or has another tokenizer than {self.base_label}: its vectors have no place on "
                "the base's maps. See its own: comparison.tuned(label).head(...).projection()."
            )
        if (method, dims) not in self.maps:
            has = ", ".join(f"{m} in {d}-D" for m, d in self.maps)
            raise QKSpaceError(f"No tokens were placed on a {method} map in {dims}-D; there are {has or 'none'}.")
        self.base.head(layer, head)
        return TunedView(self, self.entry(label).label, method, dims, layer, head)


@dataclass(frozen=True)
class TunedView:
    """One head of a tuned checkpoint on the base's map of that head."""

    comparison: Comparison = field(repr=False)
    label: str
    method: str
    dims: int
    layer: int
    head: int

    def _path(self, suffix: str) -> Path:
        return placed_path(self.comparison.root, self.method, self.dims, self.label, self.layer, self.head, suffix)

    @cached_property
    def _positions(self) -> NDArray[Any]:
        return store.read_array(self._path("npy"))

    @cached_property
    def _arrays(self) -> dict[str, NDArray[Any]]:
        return store.read_arrays(self._path("npz"))

    @property
    def query(self) -> FloatArray:
        """Positions of the queries: (token, dims); nan where the base's head has no map."""
        return np.asarray(self._positions[0])

    @property
    def key(self) -> FloatArray:
        """Positions of the keys: (token, dims)."""
        return np.asarray(self._positions[1])

    @cached_property
    def scores(self) -> Scores | None:
        """How far the map can be trusted for the tuned checkpoint, on held-out sequences; None where it is not scored."""
        from qkspace.fidelity import Scores

        stored = prefixed("scores.", self._arrays)
        return Scores(**{name: value.item() for name, value in stored.items()}) if stored else None

    @cached_property
    def alignment(self) -> Alignment:
        """How tuned vectors were brought into the base's gauge before they were placed."""
        from qkspace.comparison.alignment import Alignment

        return Alignment.from_arrays(prefixed("alignment.", self._arrays))


def placed_path(root: Path, method: str, dims: int, label: str, layer: int, head: int, suffix: str) -> Path:
    """Return where the tokens of a tuned checkpoint on a map of the base are stored."""
    return root / "maps" / f"{method}{dims}" / label / f"L{layer:02d}H{head:02d}.{suffix}"


@lru_cache(maxsize=8)
def _common(base: Path, tuned: Path, _base_digest: str, _tuned_digest: str) -> Units:
    return common_units(Index(base), Index(tuned))


def index_digest(index: Index, maps: Iterable[tuple[str, int]]) -> str:
    """Return what tells an index from another, made of the check sums of its tables, vectors and some of its maps.

    Maps that are added to an index later do not change it.
    """
    parts: tuple[str, ...] = ("tokens.parquet", "sequences.parquet", "query/", "key/", "value_norm/")
    parts += tuple(f"maps/{method}{dims}/" for method, dims in maps)
    records = {name: record["sha256"] for name, record in index.manifest["files"].items() if name.startswith(parts)}
    return hashlib.sha256(json.dumps(records, sort_keys=True).encode()).hexdigest()


def is_comparison(root: Path) -> bool:
    """Tell whether the manifest of a folder is that of a comparison, of whatever version."""
    try:
        return bool(store.read_json(root / store.MANIFEST).get("format") == FORMAT)
    except (OSError, QKSpaceError):
        return False


def read_manifest(root: Path) -> dict[str, Any]:
    """Read the manifest of a finished comparison.

    Raises:
        QKSpaceError: no comparison there, an unfinished one, or one of another format.
    """
    path = root / store.MANIFEST
    if not path.is_file():
        if (root / store.WORK).is_dir():
            raise QKSpaceError(
                f"{root}: this comparison is not finished. Run the command that began it again: it resumes."
            )
        raise QKSpaceError(
            f"{root}: no comparison is there. Make one: qkspace compare --base A --tuned B --corpus FILE --out {root}"
        )
    manifest = store.read_json(path)
    if manifest.get("format") != FORMAT:
        what = "an index, to be opened by qkspace.open" if manifest.get("format") == store.FORMAT else "something else"
        raise QKSpaceError(f"{path}: format is {manifest.get('format')!r}, expected {FORMAT!r}: it is {what}.")
    if manifest.get("format_version") != FORMAT_VERSION:
        raise QKSpaceError(
            f"{path}: format version {manifest.get('format_version')}, this qkspace reads {FORMAT_VERSION}. "
            "Compare again, or install the version that made it."
        )
    missing = [name for name in NEEDED if name not in manifest]
    if missing:
        raise QKSpaceError(f"{path}: damaged, it lacks {', '.join(missing)}. Compare again with --overwrite.")
    return manifest
