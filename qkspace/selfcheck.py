"""The self-check: is what is captured the model's own attention? Asked of every model before anything is built on it.

In: a model and short batches of its inputs. Out: how each layer attends, and the largest differences found; or an error
that says what cannot be captured and why. Knows no files and no corpora.

Two things are compared, weight by weight: attention as captured with the attention that the model reports of itself
(`output_attentions` under its eager implementation), and the softmax of what the index will hold (queries, keys, scale,
soft cap, position part) with the same. A model that reports none, or another thing under that name, is compared with the
softmax of its own forward pass, whose outputs must be those of a pass that nobody watched.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal, TypeVar

import numpy as np

from qkspace import masks
from qkspace.capture import AttentionCall, Route, forward, listening, weights
from qkspace.masks import FORM_TOLERANCE
from qkspace.observe import TOLERANCE, Batch, Seen, observations, unpadded
from qkspace.parts import choices, runner_of
from qkspace.position import LayerPosition, form_of, is_nothing, of_one_sequence
from qkspace.schema import BoolArray, FloatArray, LayerSpec, QKSpaceError
from qkspace.windows import whole, whole_attention

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

WHILE_RUNNING = re.compile(r"(\w+-)?(cross|stage\d+)")  # parts that show once a model runs (`parts.parts_of`)
T = TypeVar("T")
Form = tuple[LayerSpec, LayerPosition | None]  # how a layer attends, and what is added to its products


@dataclass(frozen=True, slots=True)
class Check:
    """What the self-check found of one part: its layers and the largest differences of attention weights.

    `captured_error`: attention as captured against the model's own; `recomputed_error`: the softmax of what is captured
    (query, key, scale, soft cap, position part) over what is allowed, against the same; `stored_error`: the same from
    vectors rounded to the type that they are stored in. `against` says what "the model's own" was: what the model
    reports, or the softmax seen in its forward pass. `positions`: of each layer, what is added to the product; None
    where it is nothing.
    """

    layers: tuple[LayerSpec, ...]
    captured_error: float
    recomputed_error: float
    stored_error: float
    tolerance: float
    n_sequences: int
    n_tokens: int
    part: str = "self"
    runner: str = ""
    route: Route = "interface"
    calls: tuple[int, ...] = ()
    against: Literal["output_attentions", "softmax"] = "output_attentions"
    positions: tuple[LayerPosition | None, ...] = field(default=(), repr=False)


def check(
    model: PreTrainedModel, batch: Batch, longest: Batch, storage: str = "float32", part: str | None = None
) -> Check:
    """Compare what is captured on a short padded batch with the model's own attention, and read the form of each layer.

    Args:
        model: any model of transformers.
        batch: inputs of `forward`, (sequence, token), padded on the right.
        longest: the same for one sequence as long as any that will follow: only there do sliding windows show, and only
            there is the position part of every distance seen.
        storage: "float16" or "float32", the type whose rounding `stored_error` measures.
        part: which part; None takes the only one.

    Raises:
        QKSpaceError: the model cannot be captured, has no such part, or attention is not the softmax of what is captured.
    """
    part = choose(model, part)
    runner = runner_of(model, part)

    def judge(seen: Seen) -> Check:
        found = {p.name: p for p in seen.parts}
        chosen = found.get(part, found.get("self") if runner else None)
        if chosen is None:
            raise QKSpaceError(
                f"{type(model).__name__} has no part {part!r}. Its parts: {', '.join(found)}. See --attention."
            )
        seen, calls = _whole(seen, chosen.calls)
        _refuse_uneven(model, calls, part)
        _refuse_leaking(model, batch, runner, seen.route, calls, part)
        lengths = [lengths_of(batch, call, part) for call in calls]

        def form(number: int, long: AttentionCall) -> Form:  # at once, as what is added over a long text is large
            return _describe(_without_idle_sink(calls[number]), long, lengths[number], crosses="cross" in part)

        forms = _again(model, longest, runner, seen.route, calls, form)
        result = _compare(model, calls, forms, seen, lengths, storage)
        return replace(result, part=part, runner=runner, calls=chosen.calls)

    return _first_good(observations(model, batch, runner), judge)


def survey(model: PreTrainedModel, batch: Batch) -> tuple[Check, ...]:
    """Check every part of a model on one batch, without a longer sequence.

    Raises:
        QKSpaceError: the model cannot be captured, with the reason.
    """

    def judge(seen: Seen) -> tuple[Check, ...]:
        results = []
        for part in seen.parts:
            calls = [seen.calls[i] for i in part.calls]
            lengths = [lengths_of(batch, call, part.name) for call in calls]
            several = zip(map(_without_idle_sink, calls), calls, lengths, strict=True)
            forms = [_describe(*each, crosses="cross" in part.name) for each in several]
            found = _compare(model, calls, forms, seen, lengths, "float32")
            results.append(replace(found, part=part.name, calls=part.calls))
        return tuple(results)

    return _first_good(observations(model, batch, ""), judge)


def _first_good(seen: Iterator[Seen], judge: Callable[[Seen], T]) -> T:
    """Return the judgement of the first route that is not refused; else raise what the first one was refused for."""
    refused: QKSpaceError | None = None
    for each in seen:
        try:
            return judge(each)
        except QKSpaceError as error:
            refused = refused or error
    raise refused or QKSpaceError("No route saw any attention.")


def choose(model: PreTrainedModel, part: str | None) -> str:
    """Return the part that is meant.

    Raises:
        QKSpaceError: the model has several, and none was named; or the name is of no part that it could have.
    """
    names = choices(model)
    if part is None and len(names) == 1:
        return names[0]
    if part is None:
        raise QKSpaceError(
            f"{type(model).__name__} has {len(names)} kinds of attention, and an index shows one: choose with --attention "
            f"{' or '.join(names)}."
        )
    if part not in names and not WHILE_RUNNING.fullmatch(part):
        raise QKSpaceError(
            f"{type(model).__name__} has no part {part!r}. Its parts: {', '.join(names)}. See --attention."
        )
    return part


def _whole(seen: Seen, chosen: Sequence[int]) -> tuple[Seen, list[AttentionCall]]:
    """Return some attentions over whole pictures, where they are within windows, and what the model reports of them too."""
    calls, own = [whole(seen.calls[i]) for i in chosen], list(seen.own)
    for i in chosen:
        reported = own[i]
        own[i] = None if reported is None else whole_attention(reported, seen.calls[i].windows)
    return replace(seen, own=own), calls


# ---------------------------------------------------------------------------------------------- refusing


def _refuse_uneven(model: PreTrainedModel, calls: Sequence[AttentionCall], part: str) -> None:
    if part not in ("cross", "decoder") and any(call.query.shape[2] != call.key.shape[2] for call in calls):
        raise QKSpaceError(
            f"{type(model).__name__}: queries and keys of its part {part!r} are of unlike numbers of tokens, and they are no "
            "source and target, so that one map cannot show them."
        )
    sizes = {(len(call.query), call.query.shape[2], call.key.shape[2]) for call in calls}
    if len(sizes) > 1:
        raise QKSpaceError(
            f"{type(model).__name__}: the layers of its part {part!r} see unlike numbers of tokens ({sorted(sizes)}), so they "
            "have no tokens in common that one map could show."
        )


def _refuse_leaking(
    model: PreTrainedModel, batch: Batch, runner: str, route: Route, calls: Sequence[AttentionCall], part: str
) -> None:
    """Run the shortest sequence of a batch without its padding, which must change none of its attention."""
    lengths = lengths_of(batch, calls[0], part)
    shortest = min(range(len(lengths)), key=lambda s: lengths[s])
    n_queries, n_keys = lengths[shortest]
    if lengths[shortest] == (calls[0].query.shape[2], calls[0].key.shape[2]):
        return
    alone = {name: _alone(name, values, batch, shortest) for name, values in batch.items()}
    again = _again(model, alone, runner, route, calls, lambda place, call: call)
    for call, other in zip(calls, again, strict=True):
        padded, plain = call.attention[shortest, :, :n_queries, :n_keys], other.attention[0]
        types = {str(padded.dtype), str(model.dtype)}  # the sums have other lengths, whose rounding adds up
        tolerance = 10 * max(TOLERANCE.get(kind, 1e-4) for kind in types)
        if padded.shape != plain.shape or not bool(((padded - plain).abs() <= tolerance).all()):
            raise QKSpaceError(
                f"{type(model).__name__}: the attention of {call.module} over a short sequence changes with the padding behind "
                "it, so that it would depend on which sequences are run together. It is refused."
            )


def _alone(name: str, values: Tensor, batch: Batch, sequence: int) -> Tensor:
    """Return the input of one sequence of a batch, without what its attention mask says is padding."""
    mask = batch.get("decoder_attention_mask" if name.startswith("decoder_") else "attention_mask")
    row = values[sequence : sequence + 1]
    if mask is None or values.shape[:2] != mask.shape:
        return row
    return row[:, : int(mask[sequence].sum())]


# ---------------------------------------------------------------------------------------------- comparing


def _again(
    model: PreTrainedModel,
    batch: Batch,
    runner: str,
    route: Route,
    calls: Sequence[AttentionCall],
    take: Callable[[int, AttentionCall], T],
) -> list[T]:
    """Return what `take` makes of the same attentions over another batch; it gets the place of each and each in turn."""
    place = {call.index: i for i, call in enumerate(calls)}
    taken: list[T] = []

    def see(call: AttentionCall) -> None:
        if call.index in place:
            taken.append(take(place[call.index], whole(unpadded(call, batch, route))))

    with listening(model, see, route=route):
        forward(model, batch, runner)
    return taken


def _compare(
    model: PreTrainedModel,
    calls: Sequence[AttentionCall],
    forms: Sequence[Form],
    seen: Seen,
    lengths: Sequence[list[tuple[int, int]]],
    storage: str,
) -> Check:
    """Compare attention rebuilt from what will be stored with the model's own; lengths: see `lengths_of`, of each call."""
    captured, recomputed, stored = np.zeros((3, len(calls)))
    for i, (call, (layer, position)) in enumerate(zip(calls, forms, strict=True)):
        call = _without_idle_sink(call)
        own = seen.own[call.index]
        attention = call.attention.float().cpu()
        reference = attention if own is None else own.float().cpu()
        for s, (n_queries, n_keys) in enumerate(lengths[i]):
            want = reference[s, :, :n_queries, :n_keys]
            errors = [attention[s, :, :n_queries, :n_keys] - want]
            errors += [
                _rebuilt(call, layer, position, s, n_queries, n_keys, kind) - want for kind in ("float32", storage)
            ]
            asks = _asks(call, s, n_queries, n_keys)
            for kept, error in zip((captured, recomputed, stored), errors, strict=True):
                kept[i] = np.maximum(
                    kept[i], error.abs().masked_fill(~asks, 0).max().item()
                )  # keeps nan, as max() would not
    compared = (t for call in calls for t in (call.query, seen.own[call.index]) if t is not None)
    tolerance = max(TOLERANCE.get(str(tensor.dtype), 1e-4) for tensor in compared)  # some report what they rounded
    if not (captured.max() <= tolerance and recomputed.max() <= tolerance):  # written so that nan is refused too
        worst = calls[int(np.argmax(recomputed))]
        raise QKSpaceError(
            f"{type(model).__name__}: attention recomputed from query . key differs from the model's own by up to "
            f"{recomputed.max():.2g} (captured weights: {captured.max():.2g}; allowed: {tolerance:g}), most in "
            f"{worst.module}. A map of its queries and keys would mislead, so it is refused."
        )
    is_reported = all(seen.own[call.index] is not None for call in calls)
    return Check(
        layers=tuple(layer for layer, _ in forms),
        captured_error=float(captured.max()),
        recomputed_error=float(recomputed.max()),
        stored_error=float(np.nan_to_num(stored.max(), nan=1.0)),  # nan where float16 overflows, refused later
        tolerance=tolerance,
        n_sequences=len(lengths[0]),
        n_tokens=int(sum(n for n, _ in lengths[0])),
        route=seen.route,
        against="output_attentions" if is_reported else "softmax",
        positions=tuple(position for _, position in forms),
    )


def _without_idle_sink(call: AttentionCall) -> AttentionCall:
    """Drop a sink that takes nothing from attention: some models scale what comes out of it instead."""
    if call.sink is None or bool((call.attention.float().sum(dim=-1) < 1 - 1e-5).any()):
        return call
    return replace(call, sink=None)


def _asks(call: AttentionCall, sequence: int, n_queries: int, n_keys: int) -> Tensor:
    """Return which query tokens may attend to anything: (head or 1, query token, 1); the others' attention is no one's."""
    import torch

    added = masks.added(call, sequence, n_queries, n_keys)
    if added is None:
        return torch.ones(1, n_queries, 1, dtype=torch.bool)
    return torch.from_numpy(np.isfinite(added).any(axis=-1, keepdims=True))


def lengths_of(batch: Batch, call: AttentionCall, part: str) -> list[tuple[int, int]]:
    """Return how many query tokens and key tokens of each sequence of a batch are no padding.

    part: which the attention is of; where a source and its target are as long as each other, shapes do not tell them apart.
    """
    n_batch, n_queries, n_keys = len(call.query), call.query.shape[2], call.key.shape[2]

    def read(n: int, names: Sequence[str]) -> list[int]:
        for name in names:
            mask = batch.get(name)
            if mask is not None and tuple(mask.shape) == (n_batch, n):
                return [int(row.sum()) for row in mask]
        return [n] * n_batch

    source = ("attention_mask",)
    target = source if part == "encoder" else ("decoder_attention_mask", "attention_mask")
    return list(zip(read(n_queries, target), read(n_keys, source if "cross" in part else target), strict=True))


def _describe(call: AttentionCall, long: AttentionCall, lengths: Sequence[tuple[int, int]], *, crosses: bool) -> Form:
    """Return how a layer attends: its mask read off a long sequence, and what else is added to its logits."""
    n_queries, n_keys = long.query.shape[2], long.key.shape[2]
    n_heads, n_kv_heads, d_head = call.query.shape[1], call.key.shape[1], call.query.shape[3]
    softcap = None if call.softcap is None else float(call.softcap)
    spec = LayerSpec(call.module, n_heads, n_kv_heads, d_head, call.scale, causal=False, softcap=softcap)
    spec = replace(spec, has_sink=call.sink is not None, crosses=crosses or n_queries != n_keys)
    fixed = call.fixed and long.fixed
    several = [(call, s, *sizes) for s, sizes in enumerate(lengths[:1] if fixed else lengths)]
    if long is not call:
        several.insert(0, (long, 0, n_queries, n_keys))
    parts = [masks.added(*each) for each in several]
    sink = None if call.sink is None else np.asarray(call.sink.detach().float().cpu().numpy()).reshape(-1)
    tolerance = FORM_TOLERANCE.get(str(call.query.dtype), FORM_TOLERANCE["torch.float32"])
    return _form(
        spec,
        [np.zeros((1, *e[2:]), np.float32) if p is None else p for e, p in zip(several, parts, strict=True)],
        sink,
        tolerance,
        fixed=fixed,
    )


def _form(
    spec: LayerSpec, added: Sequence[FloatArray], sink: FloatArray | None, tolerance: float, *, fixed: bool
) -> Form:
    """Complete a layer's description by what is added to its logits, (head or 1, query token, key token) a sequence.

    fixed: that is known to be the same for every sequence.
    """
    allowed: list[BoolArray] = [np.asarray(np.isfinite(part).any(axis=0)) for part in added]
    only_sink = None if sink is None else LayerPosition(sink=sink)
    if spec.crosses:
        is_bare = all(mask.all() for mask in allowed) and is_nothing(added, allowed)
        return (
            (spec, only_sink) if is_bare else (replace(spec, position="sequence"), LayerPosition("sequence", sink=sink))
        )
    order = np.argsort([-len(mask) for mask in allowed], kind="stable")
    try:
        causal, window = masks.read_mask(allowed[order[0]], spec.module)
        spec = replace(spec, causal=causal, window=window)
        is_regular = all(np.array_equal(spec.allowed(len(mask)), mask) for mask in allowed)
    except QKSpaceError:
        is_regular = False
    same = all(
        np.array_equal(np.isfinite(part), np.broadcast_to(mask, part.shape))
        for part, mask in zip(added, allowed, strict=True)
    )
    if not is_regular and fixed and all(np.allclose(part, added[0], rtol=0, atol=tolerance) for part in added[1:]):
        part = of_one_sequence(added[0], np.isfinite(added[0]), sink)
        return replace(spec, causal=False, window=None, position="grid"), part
    if not is_regular or not same:
        return replace(spec, causal=False, window=None, position="sequence"), LayerPosition("sequence", sink=sink)
    if all(not part[np.isfinite(part)].any() for part in added):  # a mask and nothing else
        return spec, only_sink
    kind, table = form_of(added, allowed, tolerance=tolerance)
    if kind is None:
        return spec, only_sink
    if kind == "sequence":
        spec = replace(spec, causal=False, window=None)
    return replace(spec, position=kind), LayerPosition(kind, table, sink=sink)


def _rebuilt(
    call: AttentionCall,
    layer: LayerSpec,
    position: LayerPosition | None,
    sequence: int,
    n_queries: int,
    n_keys: int,
    storage: str,
) -> Tensor:
    """Return the attention of one sequence from what an index holds of it, in float32: (head, query token, key token).

    The vectors are first rounded to `storage`.
    """
    import torch

    dtype = {"float16": torch.float16, "float32": torch.float32}[storage]
    query = call.query[sequence : sequence + 1, :, :n_queries].to(dtype).float().cpu()
    key = call.key[sequence : sequence + 1, :, :n_keys].to(dtype).float().cpu()
    added = rebuilt_addition(call, layer, position, sequence, n_queries, n_keys)
    mask = None if added is None else torch.from_numpy(np.ascontiguousarray(added, dtype=np.float32))
    sink = None if call.sink is None else call.sink.float().cpu()
    return weights(query, key, layer.scale, mask=mask, softcap=layer.softcap, sink=sink)[0]


def rebuilt_addition(
    call: AttentionCall, layer: LayerSpec, position: LayerPosition | None, sequence: int, n_queries: int, n_keys: int
) -> FloatArray | None:
    """Return what is added to the logits of one sequence as an index has it: (head or 1, query token, key token)."""
    if layer.position == "sequence":
        return masks.added(call, sequence, n_queries, n_keys)
    if layer.crosses:
        return None
    allowed = layer.allowed(n_queries)
    bias = None if position is None else position.of(n_queries)
    if bias is None:
        return None if allowed.all() else np.where(allowed, np.float32(0), np.float32(-np.inf))[None]
    return np.where(allowed, bias, np.float32(-np.inf))
