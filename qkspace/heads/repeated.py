"""Repeated: sequences of random tokens that come twice, and how heads attend over their second half.

In: a checkpoint and how its attention is captured. Out: of each head its scores on repeated random tokens, with what equal
attention would score. Random tokens mean nothing, so a head that finds them again finds them because they came before
(Elhage et al. 2021, A Mathematical Framework for Transformer Circuits; Olsson et al. 2022, In-context Learning and
Induction Heads). Knows no index and no table.

    tokens      <s>  q  w  e  r   q  w  e  r                        R = q w e r, and R again
    query                            ^                              the second w
    previous_token                ^                                 the token before
    duplicate_token     ^                                           the same token elsewhere
    induction              ^                                        what came after the same token elsewhere
    first_token  ^                                                  the first of the sequence, the usual sink
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from qkspace.capture import AttentionCall, Route, cropped, forward, listening
from qkspace.console import SILENT, Console
from qkspace.extract import make_batches
from qkspace.feed import Feed, TextFeed, Tokens
from qkspace.masks import NOT_ALLOWED, of_sequence
from qkspace.memory import run_halving
from qkspace.pairs import PairFeed, start_token
from qkspace.schema import BoolArray, FloatArray, IntArray, QKSpaceError
from qkspace.weights import input_device

if TYPE_CHECKING:
    from qkspace.model import Checkpoint

KINDS = ("previous_token", "duplicate_token", "induction", "first_token")
BATCH_TOKENS = 1024  # of one forward pass
NEVER_TRAINED = re.compile(r"\[unused\d+\]|<unused\d+>|<extra_id_\d+>|<0x[0-9A-F]{2}>|<\|?reserved.*>")  # mostly so
Float64Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Side:
    """Repeated tokens as the model reads them: ids (sequence, token); the second half are those from `second` to `end`."""

    ids: IntArray
    second: int
    end: int

    @property
    def queries(self) -> IntArray:
        """Positions of the second half: (query)."""
        return np.arange(self.second, self.end)


@dataclass(frozen=True, slots=True, eq=False)
class Scores:
    """Scores of all heads of a layer on each sequence.

    value: (sequence, head, kind); uniform: (sequence, kind), what a head would score that attends equally to all keys that
    it may attend to; count: (sequence, kind), queries that may attend to such a key, of which the others are means, nan where
    there is none. Kinds as `KINDS`.
    """

    value: Float64Array
    uniform: Float64Array
    count: IntArray


# ---------------------------------------------------------------------------------------------- arrays


def draw(ordinary: IntArray, n_sequences: int, length: int, *, seed: int = 0) -> IntArray:
    """Draw sequences of random tokens, none twice in a sequence unless there are too few: (sequence, token)."""
    rng = np.random.default_rng(seed)
    again = length > len(ordinary)
    return np.stack([rng.choice(ordinary, length, replace=again) for _ in range(n_sequences)])


def key_sets(query_ids: IntArray, key_ids: IntArray, at: IntArray, *, crosses: bool = False) -> BoolArray:
    """Return which keys are of which kind to the queries at some positions: (kind, query, key).

    Elsewhere means any other position; a decoder may only attend to earlier ones. What follows a token is its induction
    key for every other occurrence of that token, and never for itself.

    Args:
        query_ids: (token), of the sequence that asks.
        key_ids: (token), of the sequence that answers: the same, unless the layer crosses.
        at: (query), positions in the sequence that asks.
        crosses: whether the two are different sequences: no token is then before another or is the other.
    """
    key = np.arange(len(key_ids))
    offset = at[:, None] - key[None, :]
    same = query_ids[at][:, None] == key_ids[None, :]
    after_same = np.zeros_like(same)
    after_same[:, 1:] = same[:, :-1]
    first = np.broadcast_to(key == 0, same.shape)
    if crosses:
        return np.stack([np.zeros_like(same), same, after_same, first])
    return np.stack([offset == 1, same & (offset != 0), after_same & (offset != 0) & (offset != -1), first])


def score_sums(
    attention: FloatArray, sets: BoolArray, allowed: BoolArray
) -> tuple[Float64Array, Float64Array, IntArray]:
    """Sum attention to each kind of key over the queries that may attend to one.

    Args:
        attention: (head, query, key).
        sets: (kind, query, key), see `key_sets`.
        allowed: (query, key), who may attend to whom.

    Returns:
        The sums (head, kind), those of equal attention to all allowed keys (kind), and how many queries count (kind).
    """
    sets = sets & allowed
    counts = sets.any(axis=2)  # (kind, query)
    to_set = np.einsum("hqk,cqk->hqc", attention, sets.astype(attention.dtype), optimize=True)
    equal = sets.sum(axis=2) / np.maximum(allowed.sum(axis=1), 1)
    return (
        np.asarray(np.einsum("hqc,cq->hc", to_set.astype(np.float64), counts.astype(np.float64))),
        np.asarray((equal * counts).sum(axis=1)),
        counts.sum(axis=1),
    )


def scores(attention: FloatArray, sets: BoolArray, allowed: BoolArray) -> tuple[Float64Array, Float64Array]:
    """Return the mean attention to each kind of key, (head, kind), and that of equal attention, (kind).

    Arguments as of `score_sums`; nan where no query may attend to such a key.
    """
    total, equal, count = score_sums(attention, sets, allowed)
    n = np.where(count > 0, count, np.nan)
    return total / n, equal / n


# ---------------------------------------------------------------------------------------------- sequences of a model


def ordinary_ids(checkpoint: Checkpoint) -> IntArray:
    """Return the ids of tokens that a text is made of: none that is special, added, reserved or a bare byte.

    Raises:
        QKSpaceError: there are fewer than two.
    """
    tokenizer, n_rows = checkpoint.tokenizer, _n_embeddings(checkpoint)
    names = {token_id: name for name, token_id in tokenizer.get_vocab().items() if token_id < n_rows}
    left_out = set(tokenizer.all_special_ids) | set(tokenizer.added_tokens_decoder)
    found = [i for i, name in names.items() if i not in left_out and not NEVER_TRAINED.fullmatch(name)]
    if len(found) < 2:
        raise QKSpaceError(
            f"The vocabulary of {checkpoint.name} has {len(found)} ordinary tokens; random sequences need 2 or more."
        )
    return np.sort(np.asarray(found, dtype=np.int64))


def _n_embeddings(checkpoint: Checkpoint) -> int:
    """Return how many token ids a model knows: a vocabulary may have more."""
    try:
        embeddings: Any = checkpoint.model.get_input_embeddings()
        return len(embeddings.weight)
    except (NotImplementedError, AttributeError):  # a model of several towers
        return len(checkpoint.tokenizer)


def frame(checkpoint: Checkpoint, text: str) -> tuple[list[int], list[int]]:
    """Return the special tokens that the tokenizer puts before and behind a text, seen on one that it can read.

    Raises:
        QKSpaceError: it cannot read this one.
    """
    try:
        encoded = checkpoint.tokenizer(text, return_special_tokens_mask=True, truncation=False, verbose=False)
    except Exception as error:  # tokenizers raises bare ones
        raise QKSpaceError(f"The tokenizer of {checkpoint.name} cannot read {text[:60]!r} ({error}).") from error
    ids, inner = list(encoded["input_ids"]), np.flatnonzero(np.asarray(encoded["special_tokens_mask"]) == 0)
    if not len(inner):
        raise QKSpaceError(f"The tokenizer of {checkpoint.name} finds no ordinary token in {text[:60]!r}.")
    return ids[: inner[0]], ids[inner[-1] + 1 :]


def fitting(length: int, context: int | None, n_added: int) -> int:
    """Return how many tokens a half may have so that two of them and what is added fit a context.

    Raises:
        QKSpaceError: fewer than two.
    """
    if length < 2:
        raise QKSpaceError(f"A half of a repeated sequence has 2 tokens or more; got length {length}.")
    found = length if context is None else min(length, (context - n_added) // 2)
    if found < 2:
        raise QKSpaceError(
            f"The model takes {context} tokens, {n_added} of them special: too few for two random tokens that come twice."
        )
    return found


def sides(
    checkpoint: Checkpoint, halves: IntArray, around: tuple[list[int], list[int]], *, part: str
) -> tuple[Side, Side | None]:
    """Return what a model reads: the text, and where a decoder reads beside an encoder the target, which is the same text.

    halves: (sequence, token); around: what `frame` returned. A target begins as in training: with the start token, and
    without the token that ends it.
    """
    before, behind = around
    source = _side(halves, before, behind)
    if part not in ("decoder", "cross"):
        return source, None
    start = start_token(checkpoint)
    if start is None and not behind:
        raise QKSpaceError(f"It cannot be known what the decoder of {checkpoint.name} begins with.")
    return source, _side(halves, [behind[-1] if start is None else start, *before], behind[:-1])


def _side(halves: IntArray, before: Sequence[int], behind: Sequence[int]) -> Side:
    n, length = halves.shape

    def repeated(ids: Sequence[int]) -> IntArray:
        return np.broadcast_to(np.asarray(ids, dtype=np.int64), (n, len(ids)))

    ids = np.concatenate([repeated(before), halves, halves, repeated(behind)], axis=1)
    return Side(ids, len(before) + length, len(before) + 2 * length)


# ---------------------------------------------------------------------------------------------- the model


@dataclass(frozen=True, slots=True)
class Run:
    """How the attention of a part of a model is captured, which is what a check or an index says of it.

    calls: which attentions of a forward pass are its layers; most_heads: of any layer.
    """

    part: str = "self"
    route: Route = "interface"
    runner: str = ""
    calls: tuple[int, ...] = ()
    most_heads: int = 1


def measure(
    checkpoint: Checkpoint,
    run: Run,
    source: Side,
    target: Side | None = None,
    *,
    batch_tokens: int = BATCH_TOKENS,
    console: Console = SILENT,
) -> list[Scores]:
    """Run a model over repeated tokens and return the scores of each of its layers.

    Attention is looked at some query tokens at a time, so that sequences may be long.

    Args:
        checkpoint: a loaded model and its tokenizer.
        run: how it is captured.
        source: what it reads.
        target: what its decoder reads beside that, for the parts "decoder" and "cross".
        batch_tokens: tokens of one forward pass; it changes nothing but memory and time.
        console: where progress is shown.

    Raises:
        QKSpaceError: the model cannot be captured so, or a single sequence does not fit into memory.
    """
    n, width = source.ids.shape
    lengths = np.full(n, max(width, 0 if target is None else target.ids.shape[1]))
    batches = make_batches(lengths, batch_tokens, run.most_heads, equal=True)
    feed = _feed(checkpoint, source, target)
    asking = source if target is None else target
    answering = source if run.part == "cross" else asking
    device = input_device(checkpoint.model)
    taker = _Taker(run, asking, answering)

    def once(sequences: IntArray) -> list[Scores]:
        taker.begin(sequences)
        forward(checkpoint.model, feed.batch(sequences, device), run.runner)
        return taker.taken()

    parts: list[list[Scores]] = []
    with listening(checkpoint.model, taker.see, route=run.route):
        for batch in console.track(batches, len(batches), "Reading random tokens twice", unit="batches"):
            parts += run_halving(batch, once, console.say, lengths=lengths)
    return [
        Scores(*(np.concatenate([getattr(part, name) for part in layer]) for name in ("value", "uniform", "count")))
        for layer in zip(*parts, strict=True)
    ]


def _feed(checkpoint: Checkpoint, source: Side, target: Side | None) -> Feed:
    pad = checkpoint.tokenizer.pad_token_id or 0  # nothing is padded: all are equally long

    def tokens(ids: IntArray) -> Tokens:
        n, width = ids.shape
        return Tokens(ids.ravel(), np.zeros(ids.size, dtype=bool), np.arange(n + 1) * width, np.ones(n, dtype=bool))

    return (
        TextFeed(tokens(source.ids), pad) if target is None else PairFeed(tokens(source.ids), tokens(target.ids), pad)
    )


class _Taker:
    """Takes the scores of each layer from one forward pass at a time."""

    def __init__(self, run: Run, asking: Side, answering: Side) -> None:
        self._layer_of = {call: layer for layer, call in enumerate(run.calls)}
        self._crosses, self._asking, self._answering = run.part == "cross", asking, answering

    def begin(self, sequences: IntArray) -> None:
        """Begin a pass over some sequences; a pass that ran out of memory is forgotten."""
        self._sequences = sequences
        self._found: dict[int, Scores] = {}

    def taken(self) -> list[Scores]:
        """Return the scores of each layer.

        Raises:
            QKSpaceError: a layer was not seen.
        """
        missing = [layer for layer in self._layer_of.values() if layer not in self._found]
        if missing:
            raise QKSpaceError(
                f"{len(missing)} layers of the model did not attend over random tokens, L{missing[0]} first."
            )
        return [self._found[layer] for layer in sorted(self._found)]

    def see(self, call: AttentionCall) -> None:
        """Take the scores of one layer."""
        layer = self._layer_of.get(call.index)
        if layer is None:
            return
        n = self._asking.ids.shape[1]
        if n < call.query.shape[2] == call.key.shape[2]:
            call = cropped(call, n)  # the model itself fills its last window
        n_sequences, n_heads = call.query.shape[:2]
        total, equal = np.zeros((n_sequences, n_heads, len(KINDS))), np.zeros((n_sequences, len(KINDS)))
        count = np.zeros((n_sequences, len(KINDS)), dtype=np.int64)
        for rows, attention in call.rows():
            at = np.arange(max(rows.start, self._asking.second), min(rows.stop, self._asking.end))
            if not len(at):
                continue
            within = slice(int(at[0]) - rows.start, int(at[-1]) + 1 - rows.start)
            weights = attention[:, :, within].float().cpu().numpy()
            for i, sequence in enumerate(self._sequences):
                allowed = _allowed(call, i, at)
                ids = self._asking.ids[sequence], self._answering.ids[sequence]
                sums = score_sums(weights[i], key_sets(*ids, at, crosses=self._crosses), allowed)
                total[i] += sums[0]
                equal[i] += sums[1]
                count[i] += sums[2]
        many = np.where(count > 0, count, np.nan)
        self._found[layer] = Scores(total / many[:, None], equal / many, count)


def _allowed(call: AttentionCall, sequence: int, at: IntArray) -> BoolArray:
    """Return which keys the queries at some positions may attend to, as the first head has it: (query, key)."""
    import torch

    allowed = np.ones((len(at), call.key.shape[2]), dtype=bool)
    for tensor in (call.mask, call.bias):
        if tensor is not None:
            part = of_sequence(tensor, call, sequence)[0, int(at[0]) : int(at[-1]) + 1]
            here = part if part.dtype == torch.bool else part > NOT_ALLOWED
            allowed &= np.asarray(here.cpu().numpy(), dtype=bool)
    return allowed
