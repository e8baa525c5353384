"""Export: tables of chosen points, and any view of an index as a file.

In: an index, what is to be seen of it, and where it goes. Out: a table, or a file that is there whole or not at all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from qkspace.app.select import KINDS, shown_of
from qkspace.app.state import Kind
from qkspace.drawing import PICTURES, check_path, save
from qkspace.index import Head, Index
from qkspace.schema import FloatArray, IntArray, QKSpaceError
from qkspace.store import replacing

if TYPE_CHECKING:
    import pandas as pd

    from qkspace.matrix_picture import Style

TABLES = (".csv", ".parquet")
SUFFIXES = {
    "map": (*PICTURES, ".html", *TABLES),
    "sentence": (*PICTURES, ".html"),
    "heatmap": (*PICTURES, ".html"),
    "matrix": PICTURES,
    "received": (*PICTURES, *TABLES),
    "bars": PICTURES,
    "scatter": PICTURES,
    "atlas": PICTURES,
}


MATRICES: dict[str, Style] = {"matrix": "heatmap", "received": "received", "bars": "bars", "scatter": "scatter"}
_OF_SENTENCE = ("layer", "head", "sequence", "tokens", "theme", "width")
_OF_MAP = ("layer", "head", "method", "dims", "colour", "links", "threshold", "selected", "theme", "width")
_OF_LINES = ("special", "itself", "first", "whole")
USED = {  # what a view can be told
    "map": (*_OF_MAP, *_OF_LINES, "yaw", "pitch", "hidden", "search", "region", "by_norm"),
    "sentence": _OF_SENTENCE,
    "heatmap": _OF_SENTENCE,
    **dict.fromkeys(MATRICES, _OF_SENTENCE),
    "atlas": ("method", "dims", "colour", "theme", "width", "order", "least", "search"),
}


def selection_table(
    index: Index,
    rows: IntArray | Sequence[int] | Mapping[Kind, IntArray],
    *,
    layer: int,
    head: int,
    method: str | None = None,
    dims: int = 2,
) -> pd.DataFrame:
    """Return points of a map as a table, one row a point.

    Args:
        index: the index.
        rows: rows of `index.tokens`, of which both the query and the key are meant; or for each kind its own.
        layer: which layer, from 0.
        head: which of its heads, from 0.
        method: which map; None for unfold's, or the first there is.
        dims: of the map.

    Returns:
        Columns kind ("query" or "key"), row, sequence, position, token, text, x, y (and z), partner_row, partner (its text),
        attention (of a query to the key it attends to most; of the query that attends to a key most, as far as it is among
        the `top_k` that the index keeps), then the other columns of `index.tokens`, "token_" before a name that is taken.

    Raises:
        QKSpaceError: there is no such head, map or row.
    """
    import pandas as pd

    of = {
        kind: np.asarray(rows[kind] if isinstance(rows, Mapping) else rows, dtype=np.int64)
        for kind in KINDS
        if not isinstance(rows, Mapping) or kind in rows
    }
    for chosen in of.values():
        if len(chosen) and not (chosen.min() >= 0 and chosen.max() < index.n_tokens):
            raise QKSpaceError(
                f"Rows of this index run from 0 to {index.n_tokens - 1:,}; got {chosen.min()} to {chosen.max()}."
            )
    view = index.head(layer, head).projection(method, dims)
    parts = []
    for kind, chosen in of.items():
        tokens = index.tokens.iloc[chosen].reset_index(drop=True)
        place = (view.query if kind == "query" else view.key)[chosen]
        partner, attention = _partners(view.head, kind, chosen)
        known = partner >= 0
        text = index.tokens["text"].iloc[np.where(known, partner, 0)].reset_index(drop=True).where(known)
        own = ("sequence", "position", "token", "text")
        first: dict[str, Any] = {
            "kind": np.repeat(kind, len(chosen)),
            "row": chosen,
            **{name: tokens[name] for name in own},
        }
        first |= {axis: place[:, i] for i, axis in enumerate("xyz"[:dims])}
        first |= {"partner_row": pd.array(partner, dtype="Int64"), "partner": text, "attention": attention}
        first["partner_row"][~known] = pd.NA
        rest = tokens.drop(columns=list(own))
        rest.columns = [f"token_{name}" if name in first else name for name in rest.columns]
        parts.append(pd.concat([pd.DataFrame(first), rest], axis=1))
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()


def _partners(head: Head, kind: Kind, rows: IntArray) -> tuple[IntArray, FloatArray]:
    """Return the row of each point's strongest partner, -1 where none is known, and the attention between them."""
    if kind == "query":
        key = head.top_key[rows, 0]
        return key.astype(np.int64), np.where(key >= 0, head.top_attention[rows, 0], np.nan)
    n = head.index.n_tokens
    query, weight = np.full(n, -1, dtype=np.int64), np.full(n, np.nan, dtype=np.float32)
    strongest = np.zeros(n, dtype=np.float32)
    for column in range(head.top_key.shape[1]):  # a column at a time: of each query one key
        key, attention = np.asarray(head.top_key[:, column]), np.asarray(head.top_attention[:, column])
        asks = np.flatnonzero((key >= 0) & (attention > strongest[key]))
        asks = asks[np.argsort(attention[asks], kind="stable")]  # the strongest last: it is the one that stays
        query[key[asks]], weight[key[asks]] = asks, attention[asks]
        strongest[key[asks]] = attention[asks]
    return query[rows], weight[rows]


def write_table(frame: pd.DataFrame, path: str | Path) -> Path:
    """Write a table as .csv (UTF-8, a first line of names, nothing for what is missing) or .parquet, whole or not at all.

    Raises:
        QKSpaceError: another suffix, or no such folder.
    """
    path = check_path(path, TABLES)
    with replacing(path) as file:
        if path.suffix.lower() == ".csv":
            file.write(frame.to_csv(index=False, lineterminator="\n").encode("utf-8"))
        else:
            frame.to_parquet(file, index=False)
    return path


def export(
    index: Index,
    view: str,
    path: str | Path,
    *,
    layer: int | None = None,
    heads: Sequence[int] = (),
    sequence: int | None = None,
    tokens: tuple[int, int] | None = None,
    **options: Any,  # of map_picture: method, dims, colour, links, threshold, selected, theme, width
) -> Path:
    """Write a view of an index (`SUFFIXES` lists them) to a file whose suffix says how.

    Without a layer and head, a map is of the head whose map says most about ordinary words; without heads, a sentence is
    shown with all heads of its layer, and without a sequence it is the first. A table is of the points that are drawn.

    Raises:
        QKSpaceError: what is asked for is not there, or this view is not written so.
    """
    if view not in SUFFIXES:
        raise QKSpaceError(f"Unknown view {view!r}; choose among {', '.join(SUFFIXES)}.")
    path = check_path(path, SUFFIXES[view])
    given = {"layer": layer, "head": tuple(heads) or None, "sequence": sequence, "tokens": tokens, **options}
    unused = [name for name, value in given.items() if value is not None and name not in USED[view]]
    if unused:
        raise QKSpaceError(f"{unused[0]} says nothing about the view {view!r}, which takes {', '.join(USED[view])}.")
    if tokens is not None and path.suffix.lower() == ".html":
        raise QKSpaceError(f"{path}: a page shows all tokens of a sequence. Leave tokens out, or end it in .svg.")
    if view == "atlas":
        from qkspace.picture import atlas_picture

        known = {name: options[name] for name in USED["atlas"] if options.get(name) is not None}
        return save(atlas_picture(index, **known), path)
    if view == "map":
        return _export_map(index, path, layer, heads, options)
    first = int(index.sequences["sequence"].iloc[0]) if sequence is None else sequence
    if view in MATRICES:
        return _export_matrix(index, path, view, first, layer, heads, tokens, options)
    if path.suffix.lower() == ".html":
        return _export_attention_view(index, path, first, layer, heads, view, options.get("theme") or "auto")
    from qkspace.picture import sentence_picture

    known = {name: options[name] for name in ("theme", "width") if options.get(name)}
    style: Literal["lines", "heatmap"] = "lines" if view == "sentence" else "heatmap"
    return save(sentence_picture(index, first, layer or 0, heads or None, style=style, tokens=tokens, **known), path)


def _export_map(index: Index, path: Path, layer: int | None, heads: Sequence[int], options: Mapping[str, Any]) -> Path:
    if len(heads) > 1:
        raise QKSpaceError(f"A map is of one head; got {len(heads)}. All heads: --view atlas")
    shown = shown_of(index)
    best = shown.most_faithful() if layer is None and not heads else (0, 0)
    at = (best[0] if layer is None else layer, heads[0] if heads else best[1])
    known = {name: value for name, value in options.items() if value is not None}
    suffix = path.suffix.lower()
    if suffix in TABLES:
        known = {name: known[name] for name in ("method", "dims") if name in known}
        return write_table(selection_table(index, shown.rows, layer=at[0], head=at[1], **known), path)
    if suffix == ".html":
        from qkspace.map_html import map_html

        known.pop("width", None)
        page = map_html(index, *at, **known).encode("utf-8")
        with replacing(path) as file:
            file.write(page)
        return path
    from qkspace.picture import map_picture

    return save(map_picture(index, *at, **known), path)


def _export_matrix(
    index: Index,
    path: Path,
    view: str,
    sequence: int,
    layer: int | None,
    heads: Sequence[int],
    tokens: tuple[int, int] | None,
    options: Mapping[str, Any],
) -> Path:
    """Write one matrix of a sequence, of a head or averaged over all of a layer, as a picture or what tokens receive."""
    from qkspace.matrix import matrix_of, received
    from qkspace.matrix_picture import matrix_picture

    if len(heads) > 1:
        raise QKSpaceError(
            f"One matrix is of one head, or of the mean of all: give one head or none; got {len(heads)}."
        )
    found = matrix_of(index, sequence, layer=layer, head=heads[0] if heads else None, tokens=tokens)
    if path.suffix.lower() in TABLES:
        return write_table(received(found), path)
    known = {name: options[name] for name in ("theme", "width") if options.get(name)}
    return save(matrix_picture(found, MATRICES[view], **known), path)


def _export_attention_view(
    index: Index, path: Path, sequence: int, layer: int | None, heads: Sequence[int], view: str, theme: Any
) -> Path:
    from qkspace.attention_view import index_attention_view

    mode: Literal["lines", "heat"] = "lines" if view == "sentence" else "heat"
    page = index_attention_view(index, sequence, layer=layer, heads=list(heads) or None, mode=mode, theme=theme)
    page.save(path)
    return path
