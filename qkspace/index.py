"""An index as Python sees it: tokens, heads, maps, attention and links, read from disk when asked for.

In: a folder that `qkspace build` made. Out: tables and arrays. Needs neither torch nor a projection engine.

    index = qkspace.open("out/demo")
    head = index.head(layer=3, head=5)
    head.links(top=100)
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from qkspace import position, store
from qkspace.position import LayerPosition, Layout, PositionPart, attend, softmax
from qkspace.schema import BoolArray, FloatArray, IntArray, LayerSpec, Positions, QKSpaceError

if TYPE_CHECKING:
    import pandas as pd

    from qkspace.attention_view import AttentionView
    from qkspace.fidelity import Scores
    from qkspace.live import LiveSequence
    from qkspace.normalise import Gauge
    from qkspace.notebook import MapPage, MatrixPicture, Picture
    from qkspace.project import Projection
    from qkspace.search import Hits


class Index:
    """A finished index on disk.

    Raises:
        QKSpaceError: no finished index of a format that this version reads is there.
    """

    def __init__(self, root: str | Path) -> None:
        """Open the index in a folder; its arrays stay on disk."""
        self.root = Path(root)
        self.manifest = store.read_manifest(self.root)
        missing = [name for name in self.manifest["files"] if not (self.root / name).is_file()]
        if missing:
            raise QKSpaceError(
                f"{self.root}: {len(missing)} of its files are missing, {missing[0]} first. "
                "Restore them, or build the index again with --overwrite."
            )
        self.layers = tuple(LayerSpec(**layer) for layer in self.manifest["layers"])

    def __repr__(self) -> str:
        """Say what the index is of."""
        return (
            f"<qkspace index {str(self.root)!r}: {self.model_name}, {self.n_layers} layers x {self.n_heads} heads, "
            f"{self.n_tokens:,} tokens>"
        )

    @property
    def n_layers(self) -> int:
        """Attention layers of the model."""
        return len(self.layers)

    @property
    def n_heads(self) -> int:
        """Heads of a layer; of the layer with most, where they differ."""
        return max(layer.n_heads for layer in self.layers)

    @property
    def d_head(self) -> int:
        """Length of a query or key vector; of the longest, where layers differ."""
        return max(layer.d_head for layer in self.layers)

    @property
    def n_tokens(self) -> int:
        """Stored tokens."""
        return int(self.manifest["corpus"]["n_tokens_stored"])

    @property
    def model_name(self) -> str:
        """What the model was called at the build, else the last part of its name or folder."""
        given: str | None = self.manifest["made_from"]["name"]
        path = Path(self.manifest["model"]["name"])
        plain = path.name not in ("model", "checkpoint") and not path.name.startswith("checkpoint-")
        return given or (path.name if plain else f"{path.parent.name}/{path.name}")

    @property
    def maps(self) -> tuple[tuple[str, int], ...]:
        """The maps of each head: (method, dims)."""
        return tuple((m["method"], m["dims"]) for m in self.manifest["maps"])

    @cached_property
    def tokens(self) -> pd.DataFrame:
        """One row per stored token: sequence, position, token, token_id, text, is_special, word, kind and metadata."""
        return self.table("tokens")

    @cached_property
    def sequences(self) -> pd.DataFrame:
        """One row per stored sequence: sequence, text, n_tokens, its metadata, and whether maps were fitted on it."""
        return self.table("sequences")

    @cached_property
    def row_starts(self) -> IntArray:
        """Where each stored sequence starts among the rows of `tokens`, and where the last one ends: (sequence + 1)."""
        return np.concatenate([[0], np.cumsum(self.sequences["n_tokens"].to_numpy())])

    @cached_property
    def layout(self) -> Layout:
        """How the stored sequences lie: their lengths, and how many tokens of each are of the source, where there is one."""
        n_source = self.sequences["n_source"].to_numpy(dtype=np.int64) if "n_source" in self.sequences else None
        return Layout(self.sequences["n_tokens"].to_numpy(dtype=np.int64), n_source)

    def position(self, layer: int) -> LayerPosition | None:
        """Return what the attention of a layer is besides the product of query and key; None where that is nothing."""
        if layer not in self._positions:
            spec = self.layers[layer]
            lengths = self.layout.lengths if spec.position == "sequence" else None
            self._positions[layer] = position.read(self.root, layer, spec, lengths)
        return self._positions[layer]

    @cached_property
    def _positions(self) -> dict[int, LayerPosition | None]:
        return {}

    @property
    def has_unrotated(self) -> bool:
        """Whether queries and keys before rotary positions are stored too."""
        return bool(self.manifest["made_from"].get("before_rope", False))

    def n_source(self, place: int) -> int | None:
        """Return how many tokens of a stored sequence, by its place among them, are of the source; None without a source."""
        return None if self.layout.n_source is None else int(self.layout.n_source[place])

    def place(self, sequence: int) -> int:
        """Return the place among the stored sequences of one, a value of the column `sequence`, from 0.

        Raises:
            QKSpaceError: that sequence is not stored.
        """
        numbers = self.sequences["sequence"].to_numpy()
        i = int(np.searchsorted(numbers, sequence))
        if i == len(numbers) or numbers[i] != sequence:
            raise QKSpaceError(
                f"Sequence {sequence} is not in this index, which stores {len(numbers):,} between {numbers[0]} and "
                f"{numbers[-1]}: see index.sequences."
            )
        return i

    def rows(self, sequence: int) -> slice:
        """Return the rows of `tokens` that a sequence (a value of its column `sequence`) takes.

        Raises:
            QKSpaceError: that sequence is not stored.
        """
        i = self.place(sequence)
        return slice(int(self.row_starts[i]), int(self.row_starts[i + 1]))

    def allowed(self, layer: int, sequence: int) -> BoolArray:
        """Return who may attend to whom in a layer, in one sequence: (query token, key token)."""
        spec, i = self.layers[layer], self.place(sequence)
        n = int(self.row_starts[i + 1] - self.row_starts[i])
        allowed = spec.allowed(n, self.n_source(i))
        if spec.position not in ("grid", "sequence") or (part := self.position(layer)) is None:
            return allowed
        return allowed & (np.asarray(part.head(0).of(n, i)) > -np.inf)

    def head(self, layer: int, head: int) -> Head:
        """Return one head, both numbers from 0.

        Raises:
            QKSpaceError: the model has no such layer or head.
        """
        if not 0 <= layer < self.n_layers:
            raise QKSpaceError(f"There is no layer {layer}: {self.model_name} has layers 0 to {self.n_layers - 1}.")
        n_heads = self.layers[layer].n_heads
        if not 0 <= head < n_heads:
            raise QKSpaceError(f"There is no head {head} in layer {layer}: it has heads 0 to {n_heads - 1}.")
        return Head(self, layer, head)

    def head_table(self) -> pd.DataFrame:
        """Return one row per head: layer, head, its statistics and the scores of each map (pca2_recall1, ...).

        Analyses of the heads that the index holds add what they found of each (`qkspace.heads`).
        """
        table = self.table("heads")
        for method, dims in self.maps:
            scores = (
                self.table(f"maps/{method}{dims}/scores").set_index(["layer", "head"]).add_prefix(f"{method}{dims}_")
            )
            table = table.join(scores, on=["layer", "head"])
        for name, entry in self.manifest.get("analyses", {}).items():
            if columns := entry["head_columns"]:
                found = self.table(f"analyses/{name}").set_index(["layer", "head"])[columns]
                table = table.join(found, on=["layer", "head"])
        return table

    def map_path(self, method: str, dims: int, layer: int, head: int, suffix: str) -> Path:
        """Return the file of a map: positions in .npy, gauge, projection and scores in .npz."""
        return store.map_path(self.root, method, dims, layer, head, suffix)

    def search(self, query: str, **options: Any) -> Hits:  # mode, case, column
        """Find tokens by text, word or metadata, such as "walk* upos:VERB"; see `qkspace.search.search`."""
        from qkspace.search import search

        return search(self, query, **options)

    def nearest_heads(self, layer: int, head: int, **options: Any) -> pd.DataFrame:  # top, max_tokens, seed
        """Return the heads that attend most like one; see `qkspace.behaviour.nearest_heads`."""
        from qkspace.behaviour import nearest_heads

        return nearest_heads(self, layer, head, **options)

    def live(self, text: str, pair: str | None = None, **options: Any) -> LiveSequence:  # model, trust_remote_code
        """Run a text, or a pair, through the model of this index; see `qkspace.notebook.live`."""
        from qkspace.notebook import live

        return live(self, text, pair, **options)

    def show(self, layer: int | None = None, head: int | None = None, **options: Any) -> None:  # parts of State
        """Show the page of the app below a notebook's cell; see `qkspace.notebook.show`."""
        from qkspace.notebook import show

        show(self, layer=layer, head=head, **options)

    def atlas(self, **options: Any) -> Picture:  # method, dims, colour, theme, width
        """Show the maps of all heads below a cell; see `qkspace.notebook.atlas`."""
        from qkspace.notebook import atlas

        return atlas(self, **options)

    def sentence(self, sequence: int | LiveSequence, **options: Any) -> AttentionView:  # layer, heads, mode, ...
        """Show the attention over one sequence, or a live one, below a cell; see `qkspace.notebook.sentence`."""
        from qkspace.notebook import sentence

        return sentence(self, sequence, **options)

    def matrix(self, sequence: int | LiveSequence, *args: Any, **options: Any) -> MatrixPicture:  # style, layer, ...
        """Show the attention over one sequence as one matrix, below a cell; see `qkspace.notebook.matrix`."""
        from qkspace.notebook import matrix

        return matrix(self, sequence, *args, **options)

    def analyse(self, *only: str, **options: Any) -> Index:  # overwrite, console, and of the analyses
        """Find out what each head does, keep it in the index, and return it so; see `qkspace.heads.analyse.run`."""
        from qkspace.heads.analyse import run

        return run(self, only, **options)

    def analysis(self, table: str) -> pd.DataFrame:
        """Return a table of an analysis of the heads that the index holds, such as "relations-best"."""
        from qkspace.heads.kept import read

        return read(self, table)

    def labels(self, **thresholds: float) -> pd.DataFrame:
        """Return what each head is called by what it does, by stated thresholds; see `qkspace.heads.labels`."""
        from qkspace.heads.labels import Thresholds, labels

        known = [each.name for each in fields(Thresholds)]
        if unknown := thresholds.keys() - set(known):
            raise QKSpaceError(f"There is no threshold {', '.join(sorted(unknown))}; there are {', '.join(known)}.")
        return labels(self.head_table(), Thresholds(**thresholds))

    def table(self, name: str) -> pd.DataFrame:
        """Return a table of the index by the name of its file, such as "heads" or "analyses/relations".

        Raises:
            QKSpaceError: there is none, or it is damaged.
        """
        import pandas as pd

        try:
            return pd.read_parquet(self.root / f"{name}.parquet")
        except (OSError, ValueError) as error:
            raise QKSpaceError(f"{self.root / name}.parquet: damaged ({error}). Run `qkspace verify`.") from error


@dataclass(frozen=True)
class Head:
    """One head of an index; arrays are read when first asked for."""

    index: Index = field(repr=False)
    layer: int
    head: int

    @property
    def name(self) -> str:
        """The head as it is printed, such as L3H5."""
        return f"L{self.layer}H{self.head}"

    @property
    def spec(self) -> LayerSpec:
        """How the head's layer attends."""
        return self.index.layers[self.layer]

    @property
    def kv_head(self) -> int:
        """Which of the layer's key heads this head reads (grouped-query attention)."""
        return self.head // (self.spec.n_heads // self.spec.n_kv_heads)

    def _stored(self, name: str) -> NDArray[Any]:
        """Open an array of this layer: (head or kv_head, token, ...)."""
        return store.read_array(self.index.root / name / f"L{self.layer:02d}.npy")

    @cached_property
    def query(self) -> FloatArray:
        """Queries as captured: (token, d_head)."""
        return store.float_array(self._stored("query")[self.head])

    @cached_property
    def key(self) -> FloatArray:
        """Keys as captured: (token, d_head)."""
        return store.float_array(self._stored("key")[self.kv_head])

    @cached_property
    def query_unrotated(self) -> FloatArray:
        """Queries before rotary positions, which know the content alone: (token, d_head).

        Raises:
            QKSpaceError: the index was built without them. So for `key_unrotated`.
        """
        return store.float_array(self._stored_unrotated("query")[self.head])

    @cached_property
    def key_unrotated(self) -> FloatArray:
        """Keys before rotary positions: (token, d_head)."""
        return store.float_array(self._stored_unrotated("key")[self.kv_head])

    def _stored_unrotated(self, name: str) -> NDArray[Any]:
        if not self.index.has_unrotated:
            raise QKSpaceError(
                f"{self.index.root}: it was built without vectors before rotary positions. If {self.index.model_name} has "
                "rotary positions, build the index again with --before-rope."
            )
        return self._stored(f"{name}_unrotated")

    @cached_property
    def value_norm(self) -> FloatArray:
        """Euclidean norms of the values: (token)."""
        return store.float_array(self._stored("value_norm")[self.kv_head])

    @cached_property
    def top_key(self) -> IntArray:
        """Rows of `index.tokens` that each query attends to most, strongest first: (token, k); -1 where there is none."""
        return np.asarray(self._stored("top_key")[self.head])

    @cached_property
    def top_attention(self) -> FloatArray:
        """The model's own attention to `top_key`: (token, k)."""
        return store.float_array(self._stored("top_attention")[self.head])

    @property
    def position(self) -> PositionPart | None:
        """What this head's attention is besides the product of query and key; None where that is nothing."""
        part = self.index.position(self.layer)
        return None if part is None else part.head(self.head)

    def attention(self, sequence: int) -> FloatArray:
        """Return the attention over one sequence, a value of `index.tokens["sequence"]`: (query token, key token).

        Rows sum to 1; to less where the head has a sink, which belongs to no token; and to 0 where a token asks nothing.
        Recomputed from the stored vectors, as the check at the build proved possible. What their rounding costs was
        measured there: `index.manifest["check"]["stored_error"]`, about 0.005 for float16 and nothing for float32.

        Raises:
            QKSpaceError: that sequence is not stored.
        """
        rows = self.index.rows(sequence)
        query = store.float_array(self._stored("query")[self.head, rows])
        key = store.float_array(self._stored("key")[self.kv_head, rows])
        place = self.index.place(sequence)
        return attend(query, key, self.spec, self.position, n_source=self.index.n_source(place), number=place)

    def content_attention(self, sequence: int) -> FloatArray:
        """Return what the attention over one sequence would be without position: (query token, key token).

        The softmax of `scale * query . key` alone over the keys that may be attended to: of the vectors before rotary
        positions where they are stored, else of the stored ones, without position part, soft cap and sink. Half the sum of
        |attention - content_attention| along a row (a sink counting as a key) is what position decides there; its mean is
        the column `position_share` of `index.head_table()`.

        Raises:
            QKSpaceError: that sequence is not stored, or position cannot be told from content in this layer.
        """
        if self.spec.is_product and not self.index.has_unrotated:
            raise QKSpaceError(
                f"{self.name}: its attention is the softmax of query . key and nothing else, so content and position cannot be "
                f"told apart. If {self.index.model_name} has rotary positions, build the index again with --before-rope."
            )
        rows = self.index.rows(sequence)
        stored = self._stored_unrotated if self.index.has_unrotated else self._stored
        query = store.float_array(stored("query")[self.head, rows])
        key = store.float_array(stored("key")[self.kv_head, rows])
        allowed = self.index.allowed(self.layer, sequence)
        return softmax(np.where(allowed, self.spec.scale * (query @ key.T), np.float32(-np.inf)))

    def projection(self, method: str | None = None, dims: int = 2) -> View:
        """Return a map of this head: by default unfold's, or the first of so many dimensions where there is none.

        Raises:
            QKSpaceError: the index has no such map.
        """
        names = [name for name, n in self.index.maps if n == dims]
        method = method or ("unfold" if "unfold" in names or not names else names[0])
        if method not in names:
            has = ", ".join(f"{m} in {d}-D" for m, d in self.index.maps)
            raise QKSpaceError(
                f"This index has no {method} map in {dims}-D; it has {has}. Add it: qkspace project {self.index.root} "
                f"--methods {method} --dims {dims}"
            )
        return View(self, method, dims)

    def links(
        self,
        top: int = 100,
        *,
        threshold: float = 0.0,
        special: bool = True,
        itself: bool = True,
        first: bool = True,
    ) -> pd.DataFrame:
        """Return the strongest query-key pairs of the whole stored corpus, strongest first.

        Args:
            top: how many at most.
            threshold: the least attention of a pair.
            special: whether pairs from or to special tokens count.
            itself: whether a token's attention to itself counts.
            first: whether pairs from or to the first token of a sequence count (the usual sink of a decoder).

        Returns:
            Columns query, key (rows of `index.tokens`) and attention (the model's own).

        Raises:
            QKSpaceError: top is negative.
        """
        import pandas as pd

        if top < 0:
            raise QKSpaceError(f"top is how many pairs are returned at most, 0 or more; got {top}.")

        tokens = self.index.tokens
        excluded = np.zeros(len(tokens), dtype=bool)
        if not special:
            excluded |= tokens["is_special"].to_numpy()
        if not first:
            excluded |= tokens["position"].to_numpy() == 0
        weight, row = strongest(
            self.top_attention, self.top_key, top=top, threshold=threshold, excluded=excluded, itself=itself
        )
        return pd.DataFrame({"query": row[:, 0], "key": row[:, 1], "attention": weight})

    def show(self, **options: Any) -> None:  # parts of State
        """Show the page of the app below a notebook's cell, on this head; see `qkspace.notebook.show`."""
        self.index.show(self.layer, self.head, **options)

    def map(self, **options: Any) -> MapPage:  # method, dims, colour, links, threshold, ...
        """Show the map of this head below a cell; see `qkspace.notebook.map_page`."""
        from qkspace.notebook import map_page

        return map_page(self.index, self.layer, self.head, **options)

    def sentence(self, sequence: int | LiveSequence, **options: Any) -> AttentionView:  # mode, theme, height
        """Show this head's attention over one sequence, or a live one, below a cell; see `qkspace.notebook.sentence`."""
        return self.index.sentence(sequence, layers=[self.layer], layer=self.layer, heads=[self.head], **options)


def strongest(
    attention: FloatArray, key: IntArray, *, top: int, threshold: float, excluded: BoolArray, itself: bool
) -> tuple[FloatArray, IntArray]:
    """Return the weights (pair) and the rows (pair, query and key) of the strongest pairs, strongest first.

    attention and key: (token, k), key is -1 where there is none; excluded: (token), rows that no pair may touch.
    Equal weights come in the order of the corpus.
    """
    allowed = (key >= 0) & (attention >= threshold) & (attention > 0) & ~excluded[:, None] & ~excluded[key]
    if not itself:
        allowed &= key != np.arange(len(key))[:, None]
    flat = np.flatnonzero(allowed)
    weight = attention.ravel()[flat]
    if len(flat) > top > 0:
        flat = flat[weight >= -np.partition(-weight, top - 1)[top - 1]]
        weight = attention.ravel()[flat]
    order = np.argsort(-weight, kind="stable")[:top]
    flat = flat[order]
    return weight[order], np.stack([flat // attention.shape[1], key.ravel()[flat]], axis=1)


@dataclass(frozen=True)
class View:
    """One map of one head."""

    head: Head
    method: str
    dims: int

    @cached_property
    def _positions(self) -> NDArray[Any]:
        return store.read_array(self._path("npy"))  # (query or key, token, dims)

    @cached_property
    def _arrays(self) -> dict[str, NDArray[Any]]:
        return store.read_arrays(self._path("npz"))

    @cached_property
    def _mapped(self) -> dict[str, NDArray[Any]]:
        """The arrays of the gauge and the projection: the head's own, or those that all heads of a joint map share."""
        from qkspace.project import is_joint

        if self.reason:
            raise QKSpaceError(f"{self.head.name} has no {self.method} map in {self.dims}-D: {self.reason}.")
        if is_joint(self.method):
            return store.read_arrays(store.common_path(self.head.index.root, self.method, self.dims))
        return self._arrays

    def _path(self, suffix: str) -> Path:
        return self.head.index.map_path(self.method, self.dims, self.head.layer, self.head.head, suffix)

    @property
    def query(self) -> FloatArray:
        """Positions of the queries: (token, dims)."""
        return np.asarray(self._positions[0])

    @property
    def key(self) -> FloatArray:
        """Positions of the keys: (token, dims)."""
        return np.asarray(self._positions[1])

    @property
    def reason(self) -> str | None:
        """Why this head could not be mapped, all its positions being nan; None where it is mapped."""
        return str(self._arrays["reason"]) if "reason" in self._arrays else None

    @cached_property
    def scores(self) -> Scores | None:
        """The scores on held-out sequences; None where a single sequence left nothing to hold out, or nothing is mapped."""
        from qkspace.fidelity import Scores

        stored = prefixed("scores.", self._arrays)
        return Scores(**{name: value.item() for name, value in stored.items()}) if stored else None

    @cached_property
    def gauge(self) -> Gauge:
        """The normalisation: what was done to queries and keys, attention unchanged, before they were projected.

        Raises:
            QKSpaceError: the head is not mapped; see `reason`. So for `fitted` and `transform`.
        """
        from qkspace.normalise import Gauge

        return Gauge.from_arrays(prefixed("gauge.", self._mapped))

    @cached_property
    def fitted(self) -> Projection:
        """The projection of normalised vectors."""
        from qkspace.project import Projection

        return Projection.from_arrays(prefixed("projection.", self._mapped))

    def transform(self, query: FloatArray | None = None, key: FloatArray | None = None) -> Positions:
        """Place new vectors, as captured, on this map: (token, d_head) to (token, dims); either may be left out."""
        d = self.head.spec.d_head
        empty = np.zeros((0, d), dtype=np.float32)
        return self.fitted.transform(
            *self.gauge.apply(empty if query is None else query, empty if key is None else key)
        )


def prefixed(prefix: str, arrays: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """Return the arrays whose names begin so, by the rest of their names."""
    return {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}
