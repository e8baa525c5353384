"""Live: run a text that was just typed, or a pair of texts, through the model of an index.

In: an index and a text. Out: the tokens of the text, and the query, key and value norm of each in all heads, to be placed
on the maps of that index. Knows no page and no visitor; torch is imported when a model is loaded, which one thread does.

    worker = LiveWorker(index)
    live = worker.submit("The cat sat on the mat.").result()
    place(index, live, layer=3, head=5, method="unfold", dims=2)
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy as np

from qkspace.align import KINDS, kind_of_tokens, surface_of_tokens, word_of_tokens, words_of
from qkspace.capture import AttentionCall, Route, cropped, forward, listening
from qkspace.extract import bytes_per_token
from qkspace.index import Index
from qkspace.masks import added, observed_mask, read_mask
from qkspace.model import Checkpoint, Device, context_length, identity, load
from qkspace.position import LayerPosition, attend, of_one_sequence
from qkspace.schema import FloatArray, IntArray, LayerSpec, Positions, QKSpaceError, TextSequence
from qkspace.tokenise import special_ids
from qkspace.weights import input_device

if TYPE_CHECKING:
    import pandas as pd
    from torch import Tensor

MAX_TOKENS, MAX_BYTES = 1024, 512 << 20  # a text is cut at whichever comes first, or at the context of the model
MAX_CHARACTERS = 100_000  # a longer text is refused before it costs anything
CACHE_BYTES = 512 << 20  # results that are kept for who asks again
SAME = ("class", "model_type", "dtype", "n_parameters", "weights_digest", "vocabulary_digest")  # of `model.identity`


@dataclass(frozen=True, slots=True, eq=False)
class LiveSequence:
    """A text, or a pair, as the model reads it. It is shared by all who asked for it: only to be read.

    tokens: one row a token, the columns of `tables.TOKEN_COLUMNS` as in `index.tokens`, with `sequence` -1, and `segment`:
    1 from `sentence_b_start` on, else 0. `start` and `end` are characters of `full_text`.
    query: of each layer (head, token, d_head); key: (kv_head, token, d_head); value_norm: (kv_head, token); float32.
    sentence_b_start: the position of the first token of the pair; None without one, or where all of it was cut off.
    joined: whether the pair was put behind the text with a line break, and not as the tokenizer encodes a pair.
    n_dropped: tokens that were cut off because the text is longer than the model's context or `MAX_TOKENS`.
    """

    text: str
    pair: str | None
    tokens: pd.DataFrame
    layers: tuple[LayerSpec, ...]
    query: tuple[FloatArray, ...]
    key: tuple[FloatArray, ...]
    value_norm: tuple[FloatArray, ...]
    positions: tuple[LayerPosition | None, ...]
    sentence_b_start: int | None
    joined: bool
    n_dropped: int

    @property
    def full_text(self) -> str:
        """The text, and the pair on a line of its own."""
        return self.text if self.pair is None else f"{self.text}\n{self.pair}"

    @property
    def n_bytes(self) -> int:
        """Memory that the vectors take, and what is added to their products."""
        added = [part.bias for part in self.positions if part is not None and part.bias is not None]
        return sum(array.nbytes for arrays in (self.query, self.key, self.value_norm, added) for array in arrays)

    def vectors(self, layer: int, head: int) -> tuple[FloatArray, FloatArray]:
        """Return the queries of a head and the keys that it reads: (token, d_head) both."""
        spec = self.layers[layer]
        return self.query[layer][head], self.key[layer][head // (spec.n_heads // spec.n_kv_heads)]

    def attention(self, layer: int, head: int) -> FloatArray:
        """Return the model's attention, recomputed from query and key: (query token, key token)."""
        part = self.positions[layer]
        return attend(*self.vectors(layer, head), self.layers[layer], None if part is None else part.head(head))


def place(index: Index, live: LiveSequence, layer: int, head: int, method: str, dims: int) -> Positions:
    """Return where the tokens of a text lie on a map of the index: query and key, each (token, dims).

    Raises:
        QKSpaceError: the index has no such head or map, or could not map this head.
    """
    view = index.head(layer, head).projection(method, dims)
    return view.transform(*live.vectors(layer, head))


# ---------------------------------------------------------------------------------------------- the model


class LiveModel:
    """A loaded model that runs one text at a time, whichever threads ask."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        layers: tuple[LayerSpec, ...],
        *,
        route: Route = "interface",
        runner: str = "",
        calls: Sequence[int] | None = None,
    ) -> None:
        """Take a checkpoint, how its layers attend and how they are captured, which is what a check or an index says."""
        self._model, self._tokenizer, self._layers = checkpoint.model, checkpoint.tokenizer, layers
        self._route: Route = route
        self._runner = runner
        self._layer_of = {call: i for i, call in enumerate(range(len(layers)) if calls is None else calls)}
        self._tokenizer.truncation_side = "right"  # "left" would cut off the beginning
        context = context_length(checkpoint) or MAX_TOKENS
        self.max_tokens = min(context, MAX_TOKENS, MAX_BYTES // bytes_per_token(layers, 0, "float32"))
        n_added = sum(layer.n_heads if layer.position else layer.has_sink for layer in layers)  # (token, token) each
        self.max_tokens = min(self.max_tokens, math.isqrt(MAX_BYTES // (4 * max(n_added, 1))))
        self._special_ids = special_ids(self._tokenizer)
        # An encoder whose tokenizer puts something between two texts was trained on pairs.
        added = [self._tokenizer.num_special_tokens_to_add(pair=pair) for pair in (False, True)]
        self.encodes_pairs = added[1] > added[0] and not any(layer.causal for layer in layers)
        self._lock = Lock()

    @classmethod
    def of(
        cls,
        index: Index,
        model: str | Path | None = None,
        *,
        device: Device = "auto",
        trust_remote_code: bool = False,
    ) -> LiveModel:
        """Load the checkpoint that an index was made of, in the type that it computed in.

        Args:
            index: its manifest says where the checkpoint was, and what it was.
            model: where the checkpoint is now, if not where it was: a folder, or a name on the Hugging Face hub.
            device: "auto" takes a GPU where there is one.
            trust_remote_code: run code that comes with the checkpoint. That an index was made so is not enough: it may be
                a stranger's.

        Raises:
            QKSpaceError: the checkpoint is not there, or it is another one.
        """
        found = index.manifest["check"]
        if found.get("part", "self") in ("decoder", "cross") or index.manifest.get("modality", "text") != "text":
            raise QKSpaceError(
                f"A text of one's own cannot be run here: this index shows {found.get('part')} attention of "
                f"{index.manifest['model']['class']}, which does not read a text alone."
            )
        checkpoint = checkpoint_of(index, model, device=device, trust_remote_code=trust_remote_code)
        return cls(checkpoint, index.layers, **{k: found[k] for k in ("route", "runner", "calls") if k in found})

    def run(self, text: str, pair: str | None = None) -> LiveSequence:
        """Run a text, or two, through the model.

        A pair goes to an encoder as its tokenizer encodes pairs, with separators and token types. A model without such an
        encoding (every decoder) reads the pair behind the text, after a line break; `joined` says so.

        Args:
            text: taken as it is, white space at the ends included, as texts of a corpus are.
            pair: a second text; one of nothing but white space is none.

        Raises:
            QKSpaceError: the text is empty, too long to look at, or has what the vocabulary cannot express.
        """
        pair = check_text(text, pair)
        with self._lock:
            encoded = self._encode(text, pair)
            calls = self._capture(encoded)
        tokens, sentence_b_start = _table(text, pair, encoded)
        return LiveSequence(
            text=text,
            pair=pair,
            tokens=tokens,
            layers=tuple(call.spec for call in calls),
            query=tuple(call.query for call in calls),
            key=tuple(call.key for call in calls),
            value_norm=tuple(call.value_norm for call in calls),
            positions=tuple(call.position for call in calls),
            sentence_b_start=sentence_b_start,
            joined=pair is not None and not self.encodes_pairs,
            n_dropped=encoded.n_dropped,
        )

    def _encode(self, text: str, pair: str | None) -> _Encoded:
        """Tokenise a text or a pair, at most `max_tokens` of it."""
        texts = (text,) if pair is None else (text, pair) if self.encodes_pairs else (f"{text}\n{pair}",)
        options = {"return_offsets_mapping": True, "return_special_tokens_mask": True}
        try:
            found = self._tokenizer(*texts, truncation="longest_first", max_length=self.max_tokens, **options)
            ids = np.asarray(found["input_ids"], dtype=np.int32)
            n_all = len(ids)
            if n_all >= self.max_tokens:  # perhaps cut
                n_all = len(self._tokenizer(*texts, verbose=False)["input_ids"])
        except Exception as error:  # tokenizers raises bare ones
            raise QKSpaceError(
                f"The tokenizer ({type(self._tokenizer).__name__}) cannot tokenise this text ({error}): {text[:60]!r}. "
                "Leave out what its vocabulary does not cover."
            ) from error
        is_special = np.asarray(found["special_tokens_mask"], dtype=bool) | np.isin(ids, self._special_ids)
        if is_special.all():
            raise QKSpaceError(f"The tokenizer finds no token in this text: {text[:60]!r}. Type a word or a sentence.")
        spans = np.asarray(found["offset_mapping"], dtype=np.int32)
        sample = np.asarray([part or 0 for part in found.sequence_ids(0)], dtype=np.int32)
        types = found.get("token_type_ids") if len(texts) == 2 else None
        if types is not None and max(types) >= getattr(self._model.config, "type_vocab_size", 0):
            types = None  # RoBERTa takes token types and knows a single one
        vocabulary = list(self._tokenizer.convert_ids_to_tokens(ids.tolist()))
        return _Encoded(texts, ids, is_special, spans, sample, vocabulary, types, n_all - len(ids))

    def _capture(self, encoded: _Encoded) -> list[_LayerVectors]:
        """Run the model once over a text that is tokenised."""
        import torch

        device = input_device(self._model)
        rows = {"input_ids": encoded.ids, "attention_mask": np.ones_like(encoded.ids)}
        if encoded.token_types is not None:
            rows["token_type_ids"] = np.asarray(encoded.token_types)
        batch = {name: torch.from_numpy(row.astype(np.int64))[None].to(device) for name, row in rows.items()}
        taken: list[_LayerVectors] = []

        def take(call: AttentionCall) -> None:
            number = self._layer_of.get(call.index)
            if number is not None:
                fits = call.query.shape[2] == len(encoded.ids)  # some models fill their last window themselves
                taken.append(_take(call if fits else cropped(call, len(encoded.ids)), self._layers[number]))

        with listening(self._model, take, route=self._route):
            forward(self._model, batch, self._runner)
        return taken


@dataclass(frozen=True, slots=True)
class _Encoded:
    """What the tokenizer made of `texts`; all else is (token), spans (token, 2) in the text that `sample` says."""

    texts: tuple[str, ...]
    ids: IntArray
    is_special: np.ndarray[Any, np.dtype[np.bool_]]
    spans: IntArray
    sample: IntArray
    vocabulary: list[str]
    token_types: list[int] | None
    n_dropped: int


@dataclass(frozen=True, slots=True)
class _LayerVectors:
    """What one layer gives of one text; axes as in `LiveSequence`."""

    spec: LayerSpec
    query: FloatArray
    key: FloatArray
    value_norm: FloatArray
    position: LayerPosition | None


def _take(call: AttentionCall, spec: LayerSpec) -> _LayerVectors:
    """Take the vectors of the only sequence of a forward pass.

    A sliding window that is longer than every sequence of the corpus is not in the index: it shows here.
    """
    n = call.query.shape[2]
    position = None
    if spec.position is not None or spec.has_sink:
        spec, position = _own_position(call, spec, n)
    else:
        allowed = observed_mask(call, 0, n)
        if not np.array_equal(allowed, spec.allowed(n)):
            causal, window = read_mask(allowed, call.module)
            spec = replace(spec, causal=causal, window=window)
    norms = np.full(call.key.shape[1:3], np.nan) if call.value is None else _array(call.value[0].float().norm(dim=-1))
    return _LayerVectors(spec, _array(call.query[0]), _array(call.key[0]), norms, position)


def _own_position(call: AttentionCall, spec: LayerSpec, n: int) -> tuple[LayerSpec, LayerPosition]:
    """Take what is added to the logits of this sequence as its own, whatever form it has over the corpus."""
    sink = (
        None
        if call.sink is None or not spec.has_sink
        else np.asarray(call.sink.detach().float().cpu().numpy()).reshape(-1)
    )
    values = added(call, 0, n, n)
    if values is None:
        return spec, LayerPosition(sink=sink)
    allowed = np.isfinite(values)
    part = of_one_sequence(np.where(allowed, values, 0), allowed, sink)
    return replace(spec, causal=False, window=None, position="grid"), part


def _array(tensor: Tensor) -> FloatArray:
    """Copy a tensor, which may be a part of a larger one, into an array that nobody can change."""
    array = np.array(tensor.float().cpu().numpy(), order="C")
    array.flags.writeable = False
    return array


def _table(text: str, pair: str | None, encoded: _Encoded) -> tuple[pd.DataFrame, int | None]:
    """Return the table of tokens, and where the pair begins."""
    import pandas as pd

    words = words_of([TextSequence(each) for each in encoded.texts])
    start, end = encoded.spans.T
    surface = surface_of_tokens(encoded.texts, start, end, encoded.is_special, encoded.sample, encoded.vocabulary)
    word = word_of_tokens(words, surface, encoded.sample)
    # Characters of full_text: two texts are one character apart in it, as in `words`.
    first = np.where(surface.start < 0, 0, words.first_character[encoded.sample])
    of_pair = np.flatnonzero(surface.start + first > len(text))
    sentence_b_start = int(of_pair[0]) if pair is not None and len(of_pair) else None
    position = np.arange(len(encoded.ids), dtype=np.int32)
    kinds = kind_of_tokens(surface, encoded.is_special, word)
    columns = {
        "sequence": np.full(len(position), -1, dtype=np.int32),
        "position": position,
        "token": encoded.vocabulary,
        "token_id": encoded.ids,
        "text": surface.text,
        "is_special": encoded.is_special,
        "word": word.astype(np.int32),
        "word_text": pd.Series([words.text[i] if i >= 0 else None for i in word.tolist()], dtype="str"),
        "start": (surface.start + first).astype(np.int32),
        "end": (surface.end + first).astype(np.int32),
        "kind": [KINDS[i] for i in kinds.tolist()],
        "segment": (position >= (len(position) if sentence_b_start is None else sentence_b_start)).astype(np.int32),
    }
    return pd.DataFrame(columns), sentence_b_start


def check_text(text: str, pair: str | None = None) -> str | None:
    """Refuse what no model need be loaded for; return the pair, None where it is blank.

    Raises:
        QKSpaceError: the text is empty, or far longer than any context.
    """
    if not text.strip():
        raise QKSpaceError("There is no text to run through the model. Type a word or a sentence.")
    pair = pair if pair is not None and pair.strip() else None
    n_characters = len(text) + len(pair or "")
    if n_characters > MAX_CHARACTERS:
        raise QKSpaceError(
            f"This text has {n_characters:,} characters; expected at most {MAX_CHARACTERS:,}, of which the model reads no more "
            "than fit its context. Take a passage of it, or build an index of it: qkspace build."
        )
    return pair


# ---------------------------------------------------------------------------------------------- finding it


def checkpoint_of(
    index: Index,
    model: str | Path | None = None,
    *,
    device: Device = "auto",
    trust_remote_code: bool = False,
) -> Checkpoint:
    """Load the checkpoint that an index was made of, in the type that it computed in; arguments as of `LiveModel.of`.

    Raises:
        QKSpaceError: the checkpoint is not there, or it is another one.
    """
    checkpoint = _load(index, None if model is None else str(model), device, trust_remote_code)
    _refuse_another(index, checkpoint)
    return checkpoint


def _load(index: Index, model: str | None, device: Device, trust_remote_code: bool) -> Checkpoint:
    """Load the checkpoint of an index from where it was, or from where it is said to be."""
    made, who = index.manifest["made_from"], index.manifest["model"]
    recorded = str(made["model"]["source"])
    place = recorded if model is None else model
    needs = f"This needs the model of this index, {index.model_name}"
    if made.get("trust_remote_code") and not trust_remote_code:
        raise QKSpaceError(
            f"{needs}, which was loaded with code that comes with the checkpoint. Such code runs only when asked for: if you "
            f"trust {place}, set trust_remote_code."
        )
    moved = "start with --model FOLDER, the folder where the same checkpoint is now"
    if Path(place).is_absolute() and not Path(place).is_dir():
        was = f" (at the build it was in {recorded})" if model is not None else ""
        raise QKSpaceError(
            f"{needs}, which was looked for in {place}{was}: there is no such folder on this machine. "
            f"Put it back, or {moved}."
        )
    is_name = model is None and not Path(place).is_dir()  # what was a folder at the build is recorded in full
    revision = (who.get("commit") or made.get("revision")) if is_name else None
    try:
        return load(place, device=device, dtype=who["dtype"], revision=revision, trust_remote_code=trust_remote_code)
    except QKSpaceError as error:
        where = f"{place} on the Hugging Face hub, revision {revision or 'main'}" if is_name else place
        how = f"With a network it is downloaded once; without one, {moved}" if is_name else f"Repair it, or {moved}"
        raise QKSpaceError(f"{needs}, which was looked for in {where}. {error} {how}.") from error


def _refuse_another(index: Index, checkpoint: Checkpoint) -> None:
    """Refuse a checkpoint that is not the one that an index was made of."""
    was, found = index.manifest["model"], identity(checkpoint)
    different = [name for name in SAME if was.get(name) != found[name]]
    if not different:
        return
    changes = "; ".join(f"{name} was {_shown(was.get(name))}, is {_shown(found[name])}" for name in different)
    raise QKSpaceError(
        f"{checkpoint.name} is not the checkpoint that this index was made of ({changes}): its queries and keys would not "
        f"belong on these maps.{_other_version(index)} Start with --model FOLDER, the folder of the checkpoint of this "
        "index, or build an index of this one."
    )


def _other_version(index: Index) -> str:
    """Say where transformers is of another version, which may call the same weights by other names."""
    from transformers import __version__

    was = index.manifest["versions"]["transformers"]
    if was == __version__:
        return ""
    return (
        f" (The index was made with transformers {was}, and here is {__version__}, which may name weights otherwise.)"
    )


def _shown(value: Any) -> str:
    """Write a value of an identity, of a digest the first digits."""
    return str(value)[:12]


# ---------------------------------------------------------------------------------------------- one thread for all


Callback = Callable[["Future[LiveSequence]"], None]


class LiveWorker:
    """Runs the texts of all visitors of an index in one thread; make one for an index and a process.

    The model is loaded in that thread when the first text comes, and again after an error, which may have been mended
    meanwhile. Results are kept, the latest used up to `CACHE_BYTES`.
    """

    def __init__(
        self,
        index: Index,
        model: str | Path | None = None,
        *,
        device: Device = "auto",
        trust_remote_code: bool = False,
    ) -> None:
        """Take what `LiveModel.of` takes; nothing is loaded yet."""
        self._load = partial(LiveModel.of, index, model, device=device, trust_remote_code=trust_remote_code)
        self._model: LiveModel | None = None
        self._kept: OrderedDict[tuple[str, str | None], LiveSequence] = OrderedDict()  # of the thread alone
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="qkspace-live")
        self._newest: dict[Hashable, Future[LiveSequence]] = {}  # visitor -> what they wait for
        self._lock = Lock()

    @property
    def is_loaded(self) -> bool:
        """Whether the next text need not wait for the model to be loaded."""
        return self._model is not None

    def submit(
        self,
        text: str,
        pair: str | None = None,
        callback: Callback | None = None,
        *,
        visitor: Hashable = None,
    ) -> Future[LiveSequence]:
        """Queue a text, or a pair, and return at once.

        Args:
            text: see `LiveModel.run`.
            pair: see `LiveModel.run`.
            callback: called with the finished future, which holds a result or an error, mostly in the worker's thread. Not
                called for what was cancelled, nor when the visitor has asked for something newer meanwhile.
            visitor: who asks. Only their newest request matters: an older one is cancelled if it has not begun.

        Returns:
            A future; what was wrong (`QKSpaceError`, from no text to no model) is its exception.
        """
        future = self._pool.submit(self._answer, text, pair)
        older = None
        if visitor is not None:
            with self._lock:
                older = self._newest.get(visitor)
                self._newest[visitor] = future
        if older is not None:
            older.cancel()
        future.add_done_callback(partial(self._tell, callback, visitor))
        return future

    def close(self) -> None:
        """Cancel what is queued; the model goes when nobody holds this any more."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _answer(self, text: str, pair: str | None) -> LiveSequence:
        """Return a result that is kept, or run the model; in the worker's thread."""
        asked = text, check_text(text, pair)
        if asked not in self._kept:
            if self._model is None:
                self._model = self._load()
            self._kept[asked] = self._model.run(*asked)
            while len(self._kept) > 1 and sum(live.n_bytes for live in self._kept.values()) > CACHE_BYTES:
                self._kept.popitem(last=False)
        self._kept.move_to_end(asked)
        return self._kept[asked]

    def _tell(self, callback: Callback | None, visitor: Hashable, future: Future[LiveSequence]) -> None:
        """Call back, unless the visitor waits for something newer."""
        with self._lock:
            is_newest = visitor is None or self._newest.get(visitor) is future
            if is_newest:
                self._newest.pop(visitor, None)
        if callback is not None and is_newest and not future.cancelled():
            callback(future)
