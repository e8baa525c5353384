"""The attention of one sequence as a page that needs no network: lines, heat map, all heads, neurons.

In: attention weights (a model's, or those that an index recomputes) and the tokens. Out: the data that
`app/static/attention_view.js` draws, a page that holds both, or the same below a notebook's cell. Needs no model, no
Bokeh and no torch; tensors are read as arrays.

    outputs = model(**inputs, output_attentions=True)
    qkspace.attention_view(outputs, tokenizer.convert_ids_to_tokens(inputs["input_ids"][0]))
"""

from __future__ import annotations

import base64
import json
import math
import re
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from qkspace.schema import FloatArray, LayerSpec, QKSpaceError

if TYPE_CHECKING:
    import pandas as pd

    from qkspace.index import Index
    from qkspace.live import LiveSequence

Mode = Literal["lines", "heat", "model", "neurons"]
Theme = Literal["auto", "light", "dark"]
Payload = dict[str, Any]

MODES = ("lines", "heat", "model", "neurons")
THEMES = ("auto", "light", "dark")
LEVELS = (
    255  # weights are stored as round(LEVELS * sqrt(weight)): off by 0.004 at most, by far less where they are small
)
FEWER_LEVELS = 150  # of a page with many weights: off by 0.007 at most, and a fifth smaller
MANY_WEIGHTS = 1_000_000
MOST_WEIGHTS = 100_000_000  # more than a browser should be asked to hold
THUMB = 32  # pixels of a small picture of a head whose attention is not sent

_SCRIPT = Path(__file__).parent / "app" / "static" / "attention_view.js"
_SPECIAL = re.compile(r"\[(CLS|SEP|PAD|MASK|BOS|EOS)\]|</?s>|<(pad|bos|eos|mask|cls|sep)>|<\|.*\|>|<\uff5c.*\uff5c>")
_BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")
_SPACE = "▁"  # of SentencePiece
_DESCRIPTION = "a list or tuple with one array (head, query, key) a layer"


# ------------------------------------------------------------------------------------------------ tokens


def _byte_of_letter() -> dict[str, int]:
    """Return the byte that each letter of byte-level BPE stands for (Radford et al. 2019: what prints is itself)."""
    printed = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printed]
    return {chr(byte): byte for byte in printed} | {chr(256 + i): byte for i, byte in enumerate(others)}


_BYTES = _byte_of_letter()


def readable_tokens(tokens: Sequence[str]) -> list[str]:
    """Return tokens of a vocabulary as a reader knows them.

    Word marks go (the "▁" and "Ġ" before a word, "</w>" after it, "##" inside it), and the letters of byte-level BPE
    become the characters that their bytes spell. Bytes that are only a part of a character stay, as <F0 9F>.
    """
    byte_level = _are_byte_level(tokens)
    return [_readable(token, byte_level) for token in tokens]


def token_words(tokens: Sequence[str], special: Sequence[bool]) -> list[int | None] | None:
    """Return the number of the word of each token as its marks tell it, None of a special token; None without marks."""
    if any(token.startswith("##") for token in tokens):
        begins = [not token.startswith("##") for token in tokens]
    elif any(token.endswith("</w>") for token in tokens):
        begins = [True, *(token.endswith("</w>") for token in tokens[:-1])]
    elif any(token.startswith((_SPACE, "Ġ")) for token in tokens):
        begins = [token.startswith((_SPACE, "Ġ", "Ċ")) for token in tokens]
    else:
        return None
    words: list[int | None] = []
    number = -1
    for i, begin in enumerate(begins):
        number += begin or i == 0 or special[i] or special[i - 1]
        words.append(None if special[i] else number)
    return words


def _are_byte_level(tokens: Sequence[str]) -> bool:
    """Tell byte-level BPE by its letter for a space, or by letters that spell something only as bytes."""
    return any(token.startswith(("Ġ", "Ċ")) for token in tokens) or any(
        not token.isascii() and _spelt(token) not in (None, token) for token in tokens
    )


def _spelt(token: str) -> str | None:
    """Return what the bytes of a token of byte-level BPE spell; None where they are no text."""
    if not all(letter in _BYTES for letter in token):
        return None
    try:
        return bytes(_BYTES[letter] for letter in token).decode("utf-8")
    except UnicodeDecodeError:
        return None


def _readable(token: str, byte_level: bool) -> str:
    if byte_level and token and all(letter in _BYTES for letter in token):
        spelt = _spelt(token)
        text = f"<{' '.join(f'{_BYTES[letter]:02X}' for letter in token)}>" if spelt is None else spelt
        return _without_space(text)
    if byte := _BYTE.fullmatch(token):  # a byte of SentencePiece, where it is a character of its own
        code = int(byte[1], 16)
        return chr(code) if code < 128 else f"<{byte[1].upper()}>"
    text = token.removesuffix("</w>").replace(_SPACE, " ")
    return _without_space(text[2:] if text.startswith("##") and len(text) > 2 else text)


def _without_space(text: str) -> str:
    return text[1:] if text.startswith(" ") and text.strip() else text


# ------------------------------------------------------------------------------------------------ arrays


def quantise(weights: FloatArray, levels: int = LEVELS) -> NDArray[np.uint8]:
    """Return weights between 0 and 1 as round(levels * sqrt(weight)), so that small ones survive.

    Their error is at most sqrt(weight) / levels + 1 / (4 levels^2).
    """
    return np.asarray(np.rint(np.sqrt(np.clip(weights, 0, 1)) * levels), dtype=np.uint8)


def _record(array: NDArray[Any]) -> dict[str, Any]:
    """Return an array as the view takes it; float16 as its bits, as neither Bokeh nor a browser knows that type."""
    flat = np.ascontiguousarray(array).ravel()
    return {
        "dtype": str(array.dtype),
        "shape": list(array.shape),
        "data": flat.view(np.uint16) if array.dtype == np.float16 else flat,
    }


def _vectors(array: NDArray[Any]) -> dict[str, Any]:
    """Return vectors in float16, or in float32 where that is too small for them."""
    with np.errstate(over="ignore"):
        half = array.astype(np.float16)
    return _record(half if np.isfinite(half).all() else array.astype(np.float32))


def _packed(value: Any) -> Any:
    """Return data with every array as base64 of its deflated bytes, so that it can be JSON."""
    if isinstance(value, dict):
        return {name: _packed(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_packed(inner) for inner in value]
    if not isinstance(value, np.ndarray):
        return value
    return base64.b64encode(min(_deflated(value.tobytes()), key=len)).decode("ascii")


def _deflated(data: bytes) -> Iterator[bytes]:
    """Yield bytes after deflate, with repeats looked for and (shorter where there are next to none) without."""
    for strategy in (zlib.Z_DEFAULT_STRATEGY, zlib.Z_HUFFMAN_ONLY):
        deflate = zlib.compressobj(9, zlib.DEFLATED, -15, 9, strategy)
        yield deflate.compress(data) + deflate.flush()


def _as_array(given: Any) -> NDArray[Any]:
    """Return a tensor of any device and type, or what numpy reads, as an array."""
    return np.asarray(given.detach().float().cpu().numpy() if hasattr(given, "detach") else given)


# ------------------------------------------------------------------------------------------------ the page


@dataclass(frozen=True)
class AttentionView:
    """A picture of attention to look at: shows itself below a notebook's cell, or is saved as one file.

    data: what is drawn, with its arrays as base64; options: how it starts; height: in pixels, of the notebook's view.
    """

    data: Payload = field(repr=False)
    options: dict[str, Any]
    height: int

    @property
    def html(self) -> str:
        """The page: one file that asks the network for nothing."""
        held = json.dumps({"data": self.data, "options": {**self.options, "height": "fill"}}, allow_nan=False)
        return _PAGE.format(
            policy="default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'",
            script=_SCRIPT.read_text(encoding="utf-8"),
            held=held.replace("<", "\\u003c"),  # so that no token ends the script
        )

    def _repr_html_(self) -> str:
        """Return the page in a frame of its own, so that views do not meet."""
        return (
            f'<iframe srcdoc="{escape(self.html)}" title="Attention" '
            f'style="width: 100%; height: {self.height}px; border: 0; display: block"></iframe>'
        )

    def save(self, path: str | Path) -> Path:
        """Write the page into a file, whole or not at all, and return its path.

        Raises:
            QKSpaceError: the file is not to be .html, or its folder is not there.
        """
        from qkspace.drawing import check_path
        from qkspace.store import replacing

        path = check_path(path, (".html",))
        with replacing(path) as file:
            file.write(self.html.encode("utf-8"))
        return path


_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<title>Attention - qkspace</title>
<style>html, body, #view {{ height: 100%; margin: 0; }}</style>
</head>
<body>
<div id="view"></div>
<script type="application/json" id="held">{held}</script>
<script>{script}</script>
<script>{{
  const held = JSON.parse(document.getElementById("held").textContent)
  globalThis.view = qkspaceAttentionView(document.getElementById("view"), held.data, held.options)
}}</script>
</body>
</html>
"""


def script() -> str:
    """Return the JavaScript that defines `qkspaceAttentionView`, for a page that holds a view among other things."""
    return _SCRIPT.read_text(encoding="utf-8")


# ------------------------------------------------------------------------------------------------ from arrays


def attention_view(
    attentions: Any,
    tokens: Sequence[str],
    *,
    key_tokens: Sequence[str] | None = None,
    sentence_b_start: int | None = None,
    include_layers: Sequence[int] | None = None,
    layer: int | None = None,
    heads: Sequence[int] | None = None,
    value_norms: Sequence[Any] | None = None,
    queries: Sequence[Any] | None = None,
    keys: Sequence[Any] | None = None,
    scales: Sequence[float] | None = None,
    words: Sequence[int | None] | None = None,
    special: Sequence[bool] | None = None,
    mode: Mode = "lines",
    theme: Theme = "auto",
    prettify: bool = True,
    height: int | None = None,
) -> AttentionView:
    """Show the attention of one sequence: lines between tokens, a heat map, all heads at a glance, and neurons.

    Args:
        attentions: what a model of transformers returned, or its `.attentions`: one tensor or array a layer, each
            (head, query token, key token) or with a batch of one in front. Layers may differ in their heads.
        tokens: (query token), as the tokenizer's `convert_ids_to_tokens` returns them.
        key_tokens: (key token), where keys are of another sequence (cross-attention).
        sentence_b_start: the token that the second of two sentences starts with.
        include_layers: the layers to show, by their numbers in `attentions`; all where left out.
        layer: the layer to show first.
        heads: the heads to show first.
        value_norms: (head or key head, key token) a layer: the lengths of the values, to weigh attention by.
        queries: (head, query token, d_head) a layer, for the neurons.
        keys: (head or key head, key token, d_head) a layer, for the neurons.
        scales: what q . k is multiplied by before the softmax, a layer; 1 / sqrt(d_head) where left out.
        words: (query token), the number of its word or None; read from the marks of the tokens where left out.
        special: (query token), whether it is one of [CLS], [SEP], <s> and the like; told by name where left out.
        mode: "lines", "heat", "model" (all heads) or "neurons".
        theme: "light", "dark", or "auto", as the browser prefers.
        prettify: show tokens as a reader knows them; see `readable_tokens`.
        height: of the view in a notebook, in pixels; by the number of tokens where left out.

    Raises:
        QKSpaceError: the arrays are not the attention of these tokens, or there is no such layer, head or mode.
    """
    _check_choice("mode", mode, MODES)
    _check_choice("theme", theme, THEMES)
    rows, columns = list(tokens), list(tokens if key_tokens is None else key_tokens)
    layers = _chosen_layers(_attention_arrays(attentions, len(rows), len(columns)), include_layers)
    n_heads = {number: len(array) for number, array in layers.items()}
    _check_start(layer, heads, n_heads)
    levels = _levels(sum(array.size for array in layers.values()))
    if scales is not None:
        _check_layers("scales", len(scales), layers)
    vectors = [
        _per_layer(name, given, layers, size)
        for name, given, size in (
            ("value_norms", value_norms, len(columns)),
            ("queries", queries, len(rows)),
            ("keys", keys, len(columns)),
        )
    ]
    data = {
        **_token_data(rows, None if key_tokens is None else columns, words, special, sentence_b_start, prettify),
        "layers": list(layers),
        "heads": list(n_heads.values()),
        "levels": levels,
        "attention": [_record(quantise(array, levels)) for array in layers.values()],
        "valueNorms": vectors[0],
        "query": vectors[1],
        "key": vectors[2],
        "scales": None if scales is None else [float(scales[number]) for number in layers],
        "causal": [key_tokens is None and _is_causal(array) for array in layers.values()],
    }
    options = {"mode": mode, "theme": theme, "layer": layer, "heads": None if heads is None else list(heads)}
    return _view(data, options, height)


def _view(data: Payload, options: dict[str, Any], height: int | None) -> AttentionView:
    n = max(len(data["queryTokens"]), len(data.get("keyTokens") or []))
    kept = {name: value for name, value in options.items() if value is not None}
    return AttentionView(_packed(data), kept, height or min(760, max(400, 210 + 22 * n)))


def _check_choice(name: str, value: str, choices: Sequence[str]) -> None:
    if value not in choices:
        raise QKSpaceError(f"Unknown {name} {value!r}: choose one of {', '.join(map(repr, choices))}.")


def _levels(n_weights: int) -> int:
    if n_weights > MOST_WEIGHTS:
        raise QKSpaceError(
            f"These are {n_weights:,} attention weights, and a browser takes up to {MOST_WEIGHTS:,}. Show fewer layers or a "
            "shorter sequence."
        )
    return FEWER_LEVELS if n_weights > MANY_WEIGHTS else LEVELS


def _attention_arrays(given: Any, n_queries: int, n_keys: int) -> list[FloatArray]:
    """Return the attention of each layer, (head, query, key), checked."""
    given = _attentions_of(given)
    arrays = list(given)
    if not arrays:
        raise QKSpaceError(
            "The model returned no attention: (). Under the attention kernel that transformers chooses by default it does "
            'not exist. Load the model with attn_implementation="eager" and call it with output_attentions=True.'
        )
    return [_attention_array(array, number, n_queries, n_keys) for number, array in enumerate(arrays)]


def _attentions_of(given: Any) -> Any:
    """Return the list of layers in what was given."""
    if given is None:
        return ()
    if hasattr(given, "attentions"):
        return given.attentions or ()
    names = [name for name in ("encoder_attentions", "decoder_attentions", "cross_attentions") if hasattr(given, name)]
    if names:
        raise QKSpaceError(
            f"These outputs hold several kinds of attention: {', '.join(names)}. Pass one, such as outputs.{names[-1]}, with "
            "the tokens that its queries and, as key_tokens, its keys are of."
        )
    if isinstance(given, (str, dict)) or not isinstance(given, Iterable):
        raise QKSpaceError(
            f"attentions is of type {type(given).__name__}: expected {_DESCRIPTION}, or a model's outputs."
        )
    return given


def _attention_array(given: Any, number: int, n_queries: int, n_keys: int) -> FloatArray:
    if given is None:
        raise QKSpaceError(
            f"Layer {number} has no attention (None). Leave such layers out: attention_view([a for a in attentions if a is "
            'not None], ...), or load the model with attn_implementation="eager" if all are None.'
        )
    array = _as_array(given)
    if array.ndim == 4 and len(array) != 1:
        raise QKSpaceError(
            f"Layer {number} holds a batch of {len(array)} sequences, and a view shows one. Pass sequence i alone: "
            "[a[i:i+1] for a in attentions], with its own tokens."
        )
    array = array[0] if array.ndim == 4 else array
    if array.ndim != 3:
        raise QKSpaceError(f"Layer {number} has shape {array.shape}: expected {_DESCRIPTION}.")
    if array.shape[1:] != (n_queries, n_keys):
        raise QKSpaceError(
            f"Layer {number} has attention from {array.shape[1]} to {array.shape[2]} tokens, but {n_queries} tokens and "
            f"{n_keys} key tokens were given. If the model padded the sequence, cut it: [a[..., :{n_queries}, :{n_keys}] for "
            "a in attentions]."
        )
    array = array.astype(np.float32, copy=False)
    if array.size and not (np.isfinite(array).all() and array.min() >= -1e-4 and array.max() <= 1.001):
        raise QKSpaceError(
            f"Layer {number} has weights that are not between 0 and 1 ({array.min():.3g} to {array.max():.3g}): expected "
            "attention after the softmax."
        )
    return array


def _chosen_layers(arrays: list[FloatArray], include: Sequence[int] | None) -> dict[int, FloatArray]:
    """Return the layers to show, by number."""
    if include is None:
        return dict(enumerate(arrays))
    unknown = [number for number in include if not 0 <= number < len(arrays)]
    if unknown or not include:
        raise QKSpaceError(f"include_layers is {list(include)}: expected numbers between 0 and {len(arrays) - 1}.")
    return {number: arrays[number] for number in sorted(set(include))}


def _check_start(layer: int | None, heads: Sequence[int] | None, n_heads: dict[int, int]) -> None:
    if not n_heads:
        raise QKSpaceError("No layer was asked for: name some, or leave layers out to see all.")
    if layer is not None and layer not in n_heads:
        raise QKSpaceError(f"There is no layer {layer} to show: the view has layers {', '.join(map(str, n_heads))}.")
    n = n_heads[next(iter(n_heads)) if layer is None else layer]
    if heads is not None and any(not 0 <= head < n for head in heads):
        raise QKSpaceError(f"heads is {list(heads)}: expected numbers between 0 and {n - 1}, the heads of the layer.")


def _check_layers(name: str, n_given: int, layers: Iterable[int]) -> None:
    if n_given <= (last := max(layers)):
        raise QKSpaceError(f"{name} is of {n_given} layers and attentions of {last + 1} or more: give every layer.")


def _per_layer(
    name: str, given: Sequence[Any] | None, layers: dict[int, FloatArray], n_tokens: int
) -> list[dict[str, Any] | None] | None:
    """Return what comes beside attention, a record a shown layer: (head or key head, token, ...)."""
    if given is None:
        return None
    _check_layers(name, len(given), layers)
    axes = 2 if name == "value_norms" else 3
    records: list[dict[str, Any] | None] = []
    for number, attention in layers.items():
        if given[number] is None:
            records.append(None)
            continue
        array = _as_array(given[number])
        array = array[0] if array.ndim == axes + 1 and len(array) == 1 else array
        if array.ndim != axes or len(attention) % max(1, len(array)) or array.shape[1] != n_tokens:
            raise QKSpaceError(
                f"{name} of layer {number} has shape {array.shape}: expected {len(attention)} heads (or as many key heads as "
                f"divide them) and {n_tokens} tokens{'' if axes == 2 else ', then d_head'}."
            )
        records.append(_vectors(array))
    return records


def _is_causal(attention: FloatArray) -> bool:
    """Tell whether no token attends to a later one (of a single token: no)."""
    n = attention.shape[-1]
    return n > 1 and not attention[:, *np.triu_indices(n, 1)].any()


def _token_data(
    tokens: list[str],
    key_tokens: list[str] | None,
    words: Sequence[int | None] | None,
    special: Sequence[bool] | None,
    sentence_b_start: int | None,
    prettify: bool,
) -> Payload:
    """Return what the view is told of tokens."""
    for name, given in (("words", words), ("special", special)):
        if given is not None and len(given) != len(tokens):
            raise QKSpaceError(f"{name} has {len(given)} values for {len(tokens)} tokens: give one a token.")
    if sentence_b_start is not None and not 0 < sentence_b_start < len(tokens):
        raise QKSpaceError(f"sentence_b_start is {sentence_b_start}: expected a token between 1 and {len(tokens) - 1}.")
    marks = [bool(is_special) for is_special in special] if special is not None else _are_special(tokens)
    of_words = token_words(tokens, marks) if words is None else [None if w is None or w < 0 else int(w) for w in words]
    shown = readable_tokens if prettify else list
    data: Payload = {
        "queryTokens": shown(tokens),
        "isSpecial": marks,
        "words": of_words,
        "sentenceB": sentence_b_start,
    }
    if key_tokens is not None:
        key_marks = _are_special(key_tokens)
        data |= {"keyTokens": shown(key_tokens), "keyIsSpecial": key_marks}
        data["keyWords"] = token_words(key_tokens, key_marks)
    return data


def _are_special(tokens: Sequence[str]) -> list[bool]:
    return [_SPECIAL.fullmatch(token) is not None for token in tokens]


# ------------------------------------------------------------------------------------------------ from an index


def attention_data(
    index: Index,
    sequence: int,
    *,
    layers: Sequence[int] | None = None,
    vectors: bool = True,
    thumbs: bool = False,
    levels: int = LEVELS,
) -> Payload:
    """Return the attention over one sequence of an index as the view takes it, its arrays flat and typed.

    A host that speaks Bokeh sends this as it is; `layers` lets it send one layer now and others when asked (each with the
    same id, so that the view adds them up).

    Args:
        index: the index.
        sequence: a value of `index.tokens["sequence"]`.
        layers: those whose attention is sent; all where left out. Every layer is named either way.
        vectors: whether queries, keys and lengths of values come along.
        thumbs: whether small pictures of the other layers' heads come along.
        levels: of the weights; see `quantise`.

    Raises:
        QKSpaceError: that sequence is not stored, there is no such layer, or these are too many weights for a browser.
    """
    chosen = set(range(index.n_layers) if layers is None else layers)
    for number in sorted(chosen):
        index.head(number, 0)
    asks, answers = sides(index, sequence)
    n_weights = (asks.stop - asks.start) * (answers.stop - answers.start)
    _levels(n_weights * sum(index.layers[number].n_heads for number in chosen))
    data: Payload = {
        "id": f"{index.root}/{sequence}",
        "sentenceB": None,
        "nSource": None,
        "levels": levels,
        **_described(index.tokens.iloc[asks], index.layers),
    }
    if asks != answers:
        data |= _crossing(index.tokens.iloc[answers], asks)
    numbers = range(index.n_layers)
    data["attention"] = [
        _attention_record(index, number, sequence, levels) if number in chosen else None for number in numbers
    ]
    if thumbs:
        data["thumbs"] = [None if number in chosen else _thumbs(index, number, sequence, levels) for number in numbers]
    if vectors:
        for name, stored, rows in (
            ("valueNorms", "value_norm", answers),
            ("query", "query", asks),
            ("key", "key", answers),
        ):
            data[name] = [_stored(index, stored, number, rows) if number in chosen else None for number in numbers]
    return data


def sides(index: Index, sequence: int) -> tuple[slice, slice]:
    """Return the rows of a sequence that ask and those that answer: all, or where attention crosses target and source."""
    rows = index.rows(sequence)
    if not any(layer.crosses for layer in index.layers):
        return rows, rows
    end = rows.start + (index.n_source(index.place(sequence)) or 0)
    return slice(end, rows.stop), slice(rows.start, end)


def _crossing(source: pd.DataFrame, asks: slice) -> Payload:
    """Return what the view is told of the tokens of the source, which alone answer; none of those that ask is a sink."""
    described = _described(source, ())
    return {
        "nSource": len(source),
        "isSink": [False] * (asks.stop - asks.start),
        "keyTokens": described["queryTokens"],
        "keyIsSpecial": described["isSpecial"],
        "keyWords": described["words"],
    }


def index_attention_view(
    index: Index,
    sequence: int,
    *,
    layers: Sequence[int] | None = None,
    layer: int | None = None,
    heads: Sequence[int] | None = None,
    mode: Mode = "lines",
    theme: Theme = "auto",
    height: int | None = None,
) -> AttentionView:
    """Show the attention over one sequence of an index; arguments as of `attention_view`.

    Raises:
        QKSpaceError: that sequence is not stored, or there is no such layer, head or mode.
    """
    _check_choice("mode", mode, MODES)
    _check_choice("theme", theme, THEMES)
    numbers = sorted(set(range(index.n_layers) if layers is None else layers))
    n_heads = {number: len(range(index.head(number, 0).spec.n_heads)) for number in numbers}
    _check_start(layer, heads, n_heads)
    asks, answers = sides(index, sequence)
    levels = _levels((asks.stop - asks.start) * (answers.stop - answers.start) * sum(n_heads.values()))
    data = attention_data(index, sequence, layers=numbers, levels=levels)
    per_layer = ("layers", "heads", "causal", "windows", "scales", "attention", "valueNorms", "query", "key")
    data |= {name: [data[name][number] for number in numbers] for name in per_layer}
    data["id"] = str(sequence)  # a page that travels does not name a folder of this machine
    options = {"mode": mode, "theme": theme, "layer": layer, "heads": None if heads is None else list(heads)}
    return _view(data, options, height)


def _described(tokens: pd.DataFrame, layers: Sequence[LayerSpec]) -> Payload:
    """Return what the view is told of tokens, a row each, and of how all layers of a model attend."""
    return {
        "queryTokens": tokens["text"].astype(str).tolist(),
        "isSpecial": tokens["is_special"].astype(bool).tolist(),
        "words": [None if word < 0 else word for word in tokens["word"].tolist()],
        "layers": list(range(len(layers))),
        "heads": [layer.n_heads for layer in layers],
        "causal": [layer.causal for layer in layers],
        "windows": [layer.window for layer in layers],
        "scales": [float(layer.scale) for layer in layers],
    }


def _attention_record(index: Index, layer: int, sequence: int, levels: int) -> dict[str, Any]:
    """Return the weights of a layer, a head at a time: (head, query, key)."""
    n_heads = index.layers[layer].n_heads
    return _record(np.stack([quantise(_weights(index, layer, head, sequence), levels) for head in range(n_heads)]))


def _weights(index: Index, layer: int, head: int, sequence: int) -> FloatArray:
    """Return the attention over a sequence from those tokens that ask to those that answer: (query token, key token)."""
    asks, answers = sides(index, sequence)
    attention, start = index.head(layer, head).attention(sequence), index.rows(sequence).start
    return attention[asks.start - start : asks.stop - start, answers.start - start : answers.stop - start]


def _thumbs(index: Index, layer: int, sequence: int, levels: int) -> dict[str, Any]:
    """Return the small pictures of a layer's heads, each pixel the largest weight that falls into it: (head, y, x)."""
    n_heads = index.layers[layer].n_heads
    return _record(np.stack([quantise(_pooled(_weights(index, layer, h, sequence)), levels) for h in range(n_heads)]))


def _pooled(attention: FloatArray) -> FloatArray:
    for axis, n in enumerate(attention.shape):
        side = min(THUMB, n)
        attention = np.maximum.reduceat(attention, [math.ceil(i * n / side) for i in range(side)], axis=axis)
    return attention


def _stored(index: Index, name: str, layer: int, rows: slice) -> dict[str, Any]:
    """Return what an index stores of a layer for some rows of tokens: (head or key head, token, ...)."""
    from qkspace import store

    return _vectors(np.asarray(store.read_array(index.root / name / f"L{layer:02d}.npy")[:, rows]))


# ------------------------------------------------------------------------------------------------ from a live sentence


def live_data(live: LiveSequence, *, layers: Sequence[int], thumbs: bool = False, levels: int = LEVELS) -> Payload:
    """Return the attention over a live sentence as the view takes it; see `attention_data`."""
    chosen, numbers = set(layers), range(len(live.layers))

    def weights(number: int) -> FloatArray:
        return np.stack([live.attention(number, head) for head in range(live.layers[number].n_heads)])

    def small(number: int) -> FloatArray:
        return np.stack([_pooled(attention) for attention in weights(number)])

    data: Payload = {
        "id": f"live/{live.full_text}",
        "sentenceB": live.sentence_b_start,
        "levels": levels,
        **_described(live.tokens, live.layers),
        "attention": [_record(quantise(weights(i), levels)) if i in chosen else None for i in numbers],
    }
    if thumbs:
        data["thumbs"] = [None if i in chosen else _record(quantise(small(i), levels)) for i in numbers]
    for name, arrays in (("valueNorms", live.value_norm), ("query", live.query), ("key", live.key)):
        data[name] = [_vectors(arrays[i]) if i in chosen else None for i in numbers]
    return data


def live_attention_view(
    live: LiveSequence,
    *,
    layer: int | None = None,
    heads: Sequence[int] | None = None,
    mode: Mode = "lines",
    theme: Theme = "auto",
    height: int | None = None,
) -> AttentionView:
    """Show the attention over a live sentence; arguments as of `attention_view`.

    Raises:
        QKSpaceError: no such layer, head or mode.
    """
    _check_choice("mode", mode, MODES)
    _check_choice("theme", theme, THEMES)
    _check_start(layer, heads, {number: spec.n_heads for number, spec in enumerate(live.layers)})
    levels = _levels(len(live.tokens) ** 2 * sum(spec.n_heads for spec in live.layers))
    data = live_data(live, layers=range(len(live.layers)), levels=levels)
    data["id"] = "live"
    return _view(data, {"mode": mode, "theme": theme, "layer": layer, "heads": heads and list(heads)}, height)
