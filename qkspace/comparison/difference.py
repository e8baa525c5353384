"""One sequence in two checkpoints: what the browser draws of how its attention changed.

In: a comparison, the label of a tuned checkpoint, and a sequence. Out: the data that `app/static/difference.js` draws (a
head, or the small pictures of a layer's heads, at a time), or a page that holds all of it and needs no network. Knows no
Bokeh and writes no file.

    page = difference_page(comparison, "step-0060", sequence=3, layer=5, head=3)
    Path("difference.html").write_text(page, encoding="utf-8")
"""

from __future__ import annotations

import base64
import json
import math
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from qkspace.schema import FloatArray, QKSpaceError

if TYPE_CHECKING:
    from qkspace.comparison.reader import Comparison

Mode = Literal["lines", "heat", "pair", "all"]
Theme = Literal["auto", "light", "dark"]
Payload = dict[str, Any]

MODES: tuple[Mode, ...] = ("lines", "heat", "pair", "all")
THEMES: tuple[Theme, ...] = ("auto", "light", "dark")
LEVELS = 65_535  # weights are sent as round(LEVELS * weight): each is off by 1 / (2 LEVELS), a change by twice that
PAGE_LEVELS = 4_095  # of a page with many weights, half as large: a change is off by 0.0003 at most
MANY_WEIGHTS = 500_000
MOST_WEIGHTS = 20_000_000  # of one head, or of a page, in each checkpoint: more than a browser should be asked to hold
THUMB = 32  # pixels of a small picture
THUMB_LEVELS = 127  # of them: round(THUMB_LEVELS * sqrt(|change|)) with the sign of the change, and 128 added

_SCRIPT = Path(__file__).parents[1] / "app" / "static" / "difference.js"


# ------------------------------------------------------------------------------------------------ arrays


def encode(weights: FloatArray, levels: int = LEVELS) -> NDArray[np.uint16]:
    """Return weights between 0 and 1 as round(levels * weight): off by 1 / (2 levels) at most."""
    return np.asarray(np.rint(np.clip(weights, 0, 1) * levels), dtype=np.uint16)


def encode_change(change: FloatArray) -> NDArray[np.uint8]:
    """Return changes between -1 and 1 as 128 + sign * round(THUMB_LEVELS * sqrt(|change|)), for small pictures."""
    strength = np.rint(np.sqrt(np.clip(np.abs(change), 0, 1)) * THUMB_LEVELS)
    return np.asarray(128 + np.sign(change) * strength, dtype=np.uint8)


def pooled_change(change: FloatArray, side: int = THUMB) -> FloatArray:
    """Return a picture of at most `side` by `side`, each pixel the largest change that falls into it, with its sign."""
    shape = [min(side, n) for n in change.shape]
    starts = [[math.ceil(i * n / m) for i in range(m)] for n, m in zip(change.shape, shape, strict=True)]
    most, least = change, change
    for axis in (0, 1):
        most = np.maximum.reduceat(most, starts[axis], axis=axis)
        least = np.minimum.reduceat(least, starts[axis], axis=axis)
    return np.where(most >= -least, most, least)


def _record(array: NDArray[Any]) -> Payload:
    """Return an array as the browser takes it."""
    flat = np.ascontiguousarray(array).ravel()
    return {"dtype": str(array.dtype), "shape": list(array.shape), "data": flat}


def _packed(value: Any) -> Any:
    """Return data with every array as base64 of its deflated bytes, so that it can be JSON."""
    if isinstance(value, dict):
        return {name: _packed(inner) for name, inner in value.items()}
    if not isinstance(value, np.ndarray):
        return value
    deflate = zlib.compressobj(9, zlib.DEFLATED, -15)
    return base64.b64encode(deflate.compress(value.tobytes()) + deflate.flush()).decode("ascii")


# ------------------------------------------------------------------------------------------------ what is sent


def difference_data(
    comparison: Comparison,
    label: str,
    sequence: int,
    *,
    heads: Iterable[tuple[int, int]] = (),
    thumbs: Iterable[int] = (),
    levels: int = LEVELS,
) -> Payload:
    """Return the change of attention over one sequence as the browser takes it, its arrays flat and typed.

    A host sends some heads now and others when asked, each with the same id, so that the browser adds them up.

    Args:
        comparison: the comparison.
        label: of the tuned checkpoint.
        sequence: a value of `base.tokens["sequence"]`.
        heads: (layer, head) of the base whose attention is sent, before and after.
        thumbs: layers of the base whose heads come as small pictures.
        levels: of the weights; see `encode`.

    Raises:
        QKSpaceError: that sequence is not in both checkpoints, there is no such head, or these are too many weights.
    """
    rows = unit_rows(comparison, label, sequence)
    chosen = list(dict.fromkeys(heads))
    n, outside = rows.stop - rows.start, comparison.unit(label) == "word"
    _check_size(n * (n + outside) * max(1, len(chosen)), n)
    units = comparison.units(label).iloc[rows]
    special = units["is_special"].astype(bool).tolist() if "is_special" in units else [False] * n
    return {
        "id": f"{label}/{sequence}",
        "sequence": int(sequence),
        "base": comparison.base_label,
        "tuned": label,
        "unit": comparison.unit(label),
        "tokens": units["text"].astype(str).tolist(),
        "isSpecial": special,
        "outside": outside,
        "heads": [spec.n_heads for spec in comparison.base.layers],
        "levels": levels,
        "weights": {
            f"{layer}/{head}": _head(comparison, label, sequence, layer, head, levels) for layer, head in chosen
        },
        "thumbs": {str(layer): _thumbs(comparison, label, sequence, layer) for layer in dict.fromkeys(thumbs)},
    }


def unit_rows(comparison: Comparison, label: str, sequence: int) -> slice:
    """Return the rows of `comparison.units(label)` of a sequence.

    Raises:
        QKSpaceError: it is not in both checkpoints.
    """
    numbers, starts = comparison.sequence_numbers(label), comparison.unit_starts(label)
    found = np.flatnonzero(numbers == sequence)
    if not len(found):
        span = f"{len(numbers):,} between {numbers.min()} and {numbers.max()}" if len(numbers) else "none"
        raise QKSpaceError(
            f"Sequence {sequence} is not in both {comparison.base_label} and {label}, which share {span}: choose one of "
            f"comparison.sequence_numbers({label!r})."
        )
    return slice(int(starts[found[0]]), int(starts[found[0] + 1]))


def _check_size(n_weights: int, n_units: int) -> None:
    if n_weights > MOST_WEIGHTS:
        raise QKSpaceError(
            f"These are {n_weights:,} attention weights over {n_units:,} tokens, and a browser takes up to {MOST_WEIGHTS:,}. "
            "Show fewer layers or a shorter sequence."
        )


def _head(comparison: Comparison, label: str, sequence: int, layer: int, head: int, levels: int) -> Payload:
    """Return the attention of a head in both checkpoints, (query, key), and the divergence of each query, nats."""
    base, tuned = comparison.attention(label, sequence, layer, head)
    js = comparison.token_drift(label, layer, head)[unit_rows(comparison, label, sequence)]
    return {
        "base": _record(encode(base, levels)),
        "tuned": _record(encode(tuned, levels)),
        "js": _record(np.asarray(js, dtype=np.float32)),
    }


def _thumbs(comparison: Comparison, label: str, sequence: int, layer: int) -> Payload:
    """Return the small pictures of a layer's heads: (head, y, x)."""
    n_heads = comparison.base.layers[layer].n_heads

    def small(head: int) -> NDArray[np.uint8]:
        base, tuned = comparison.attention(label, sequence, layer, head)
        return encode_change(pooled_change(tuned - base))

    return _record(np.stack([small(head) for head in range(n_heads)]))


def strongest_head(comparison: Comparison, label: str) -> tuple[int, int]:
    """Return the head (layer, head) that drifted most, over the whole corpus."""
    table = comparison.drift[comparison.drift["checkpoint"] == label]
    row = table.sort_values("js", ascending=False, kind="stable").iloc[0]
    return int(row["layer"]), int(row["head"])


# ------------------------------------------------------------------------------------------------ the page

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'">
<title>Change of attention - qkspace</title>
<style>
html, body, #view {{ height: 100%; margin: 0; }}
html {{ background: #fff; }}
@media (prefers-color-scheme: dark) {{ html {{ background: #1b2028; }} }}
#view {{ box-sizing: border-box; padding: 12px; }}
</style>
</head>
<body>
<div id="view"></div>
<script type="application/json" id="held">{held}</script>
<script>{script}</script>
<script>{{
  const held = JSON.parse(document.getElementById("held").textContent)
  globalThis.view = qkspaceDifferenceView(document.getElementById("view"), held.data, held.options)
}}</script>
</body>
</html>
"""


def difference_page(
    comparison: Comparison,
    label: str,
    sequence: int,
    *,
    layer: int | None = None,
    head: int | None = None,
    layers: Sequence[int] | None = None,
    mode: Mode = "lines",
    theme: Theme = "auto",
) -> str:
    """Return a page that shows how attention over one sequence changed: one file that asks the network for nothing.

    Args:
        comparison: the comparison.
        label: of the tuned checkpoint.
        sequence: a value of `base.tokens["sequence"]`.
        layer: the layer to show first; that of the head that drifted most where left out.
        head: the head to show first; of another layer than that head's, 0 where left out.
        layers: those that the page holds; all where left out, which of a long sequence are too many.
        mode: "lines", "heat" (query by key), "pair" (base and tuned side by side) or "all" (all heads).
        theme: "light", "dark", or "auto", as the browser prefers.

    Raises:
        QKSpaceError: that sequence is not in both checkpoints, or there is no such layer, head, mode or theme.
    """
    _check_choice("mode", mode, MODES)
    _check_choice("theme", theme, THEMES)
    held = sorted(set(range(comparison.base.n_layers) if layers is None else layers))
    shown = _first_head(comparison, label, layer, head, held)
    heads = [(number, i) for number in held for i in range(comparison.base.head(number, 0).spec.n_heads)]
    rows = unit_rows(comparison, label, sequence)
    n_weights = len(heads) * (rows.stop - rows.start) ** 2
    levels = PAGE_LEVELS if n_weights > MANY_WEIGHTS else LEVELS
    data = difference_data(comparison, label, sequence, heads=heads, thumbs=held, levels=levels)
    options = {"mode": mode, "theme": theme, "layer": shown[0], "head": shown[1]}
    text = json.dumps({"data": _packed(data), "options": options}, allow_nan=False)
    held_text = text.replace("<", "\\u003c")  # so that no token ends the script
    return _PAGE.format(held=held_text, script=_SCRIPT.read_text(encoding="utf-8"))


def _first_head(
    comparison: Comparison, label: str, layer: int | None, head: int | None, held: Sequence[int]
) -> tuple[int, int]:
    """Return the head to show first, which the page must hold."""
    if not held:
        raise QKSpaceError("No layer was asked for: name some, or leave layers out to hold all.")
    most = strongest_head(comparison, label)
    chosen = layer if layer is not None else most[0] if most[0] in held else held[0]
    if chosen not in held:
        raise QKSpaceError(f"There is no layer {chosen} to show: the page holds layers {', '.join(map(str, held))}.")
    of_layer = most[1] if chosen == most[0] else 0
    found = comparison.base.head(chosen, of_layer if head is None else head)
    return found.layer, found.head


def _check_choice(name: str, value: str, choices: Sequence[str]) -> None:
    if value not in choices:
        raise QKSpaceError(f"Unknown {name} {value!r}: choose one of {', '.join(map(repr, choices))}.")
