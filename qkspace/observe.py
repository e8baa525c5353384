"""Observe: watch one forward pass of a model by each route that sees all of its attention.

In: a model and a short batch. Out: its attentions, which part each is of, and of each the attention that the model reports
itself, where it reports any. Decides which route sees everything; judges no mathematics.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from qkspace.capture import AttentionCall, Route, _ModelState, cropped, forward, listening, takes_cache, use_eager
from qkspace.parts import Part, parts_of
from qkspace.schema import QKSpaceError

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

Batch = Mapping[str, "Tensor"]
TOLERANCE = {"torch.float32": 1e-4, "torch.float16": 5e-3, "torch.bfloat16": 3e-2, "torch.float64": 1e-6}
ROUTES: tuple[Route, ...] = ("interface", "inline")
TEXT_INPUTS = {"input_ids", "attention_mask", "token_type_ids", "decoder_input_ids", "decoder_attention_mask"}


@dataclass(frozen=True, slots=True)
class Seen:
    """One observed forward pass: its attentions, what they belong to, and the model's own of each where it reports them."""

    calls: list[AttentionCall]
    parts: list[Part]
    own: list[Tensor | None]
    route: Route


def observations(model: PreTrainedModel, batch: Batch, runner: str) -> Iterator[Seen]:
    """Yield what each route sees of a forward pass, if it sees all attentions that the model reports.

    Raises:
        QKSpaceError: no route does; the message says what is missing.
    """
    reported, n_unlike, output = _reported(model, batch, runner)
    reasons, n_good = [], 0
    for route in ROUTES:
        if route == "interface" and not model._can_set_attn_implementation():
            continue
        try:
            calls, watched = _watch(model, batch, runner, route)
        except QKSpaceError as error:
            reasons.append(f"{route}: {error}")
            continue
        _refuse_nan(model, calls)
        own = _matched(calls, reported)
        n_missing = len(reported) - sum(o is not None for o in own)
        if not calls:
            reasons.append(f"{route}: no attention seen")
        elif n_missing:
            reasons.append(f"{route}: {n_missing} of the {len(reported)} attentions that it reports were not seen")
        elif len(calls) < len(reported) + n_unlike:
            reasons.append(f"{route}: {len(calls)} attentions seen, and it reports {len(reported) + n_unlike}")
        elif not _same_output(output, watched):
            reasons.append(f"{route}: its outputs change when it is watched")
        else:
            n_good += 1
            yield Seen(calls, parts_of(model, calls, runner), own, route)
    if n_good:
        return
    if not reported and not n_unlike and all(reason.endswith("no attention seen") for reason in reasons):
        from qkspace.model import without_attention

        raise QKSpaceError(without_attention(model))
    raise QKSpaceError(
        f"{type(model).__name__}: its attention cannot be captured completely ({'; '.join(reasons)}), so it is refused."
    )


def _watch(model: PreTrainedModel, batch: Batch, runner: str, route: Route) -> tuple[list[AttentionCall], Any]:
    calls: list[AttentionCall] = []
    with _same_chance(), listening(model, calls.append, route=route):
        watched = forward(model, batch, runner)
    return [unpadded(call, batch, route) for call in calls], watched


def _reported(model: PreTrainedModel, batch: Batch, runner: str) -> tuple[list[Tensor], int, Any]:
    """Return the attentions that a model reports, how many more it does in a form that cannot be compared, and its output.

    Attentions are (sequence, head, query token, key token); the output is that of a pass that nobody watched.
    """
    import torch

    run = model.get_submodule(runner) if runner else model
    state = _ModelState(model)
    options = {"use_cache": False} if takes_cache(run) else {}
    try:
        use_eager(model)
        with torch.inference_mode():
            with _same_chance():
                plain = run(**batch, **options)
            try:
                with _same_chance():
                    output = run(**batch, **options, output_attentions=True)
            except (TypeError, ValueError, NotImplementedError, AttributeError):  # it does not know the argument
                output = plain
    finally:
        state.restore()
    found = list({(a.data_ptr(), a.shape): a for a in _attentions(output)}.values())  # some report one twice
    comparable = [a for a in found if _is_attention(a)]
    return comparable, len(found) - len(comparable), plain


def _same_chance() -> Any:
    """Let a model that draws numbers while it runs draw the same ones every time, and leave the generator as it was."""
    import torch

    stack = torch.random.fork_rng(devices=[])

    class Seeded:
        def __enter__(self) -> None:
            stack.__enter__()
            torch.manual_seed(0)

        def __exit__(self, *error: Any) -> None:
            stack.__exit__(*error)

    return Seeded()


def _attentions(output: Any) -> Iterator[Tensor]:
    """Yield the tensors of four axes or more under names of an output that say attention, in their order."""
    items = output.items() if hasattr(output, "items") else ()
    for name, value in items:
        if "attention" in name and isinstance(value, list | tuple):
            yield from (t for t in value if hasattr(t, "dim") and t.dim() >= 4 and t.numel())
        elif hasattr(value, "items"):
            yield from _attentions(value)


def _is_attention(weight: Tensor) -> bool:
    """Tell weights of each head from what some models report instead: scores before the softmax, or a mean of the heads."""
    if weight.dim() != 4:
        return False
    weight = weight.nan_to_num(0)  # a row where nothing is allowed
    is_weight = bool((weight >= 0).all()) and bool((weight.float().sum(dim=-1) <= 1.01).all())
    is_mean = weight.shape[1] > 1 and bool((weight == weight[:, :1]).all())
    return is_weight and not is_mean


def _matched(calls: Sequence[AttentionCall], reported: Sequence[Tensor]) -> list[Tensor | None]:
    """Give each call the attention that the model reports of it: the first of its shape that is left and equals it."""
    left = list(reported)
    own: list[Tensor | None] = []
    for call in calls:
        attention = call.attention.nan_to_num(0)
        shaped = ((i, _comparable(attention, other)) for i, other in enumerate(left))
        equal = ((i, o) for i, o in shaped if o is not None and _is_close(attention, o))
        place, found = next(equal, (None, None))
        own.append(found)
        if place is not None:
            left.pop(place)
    return own


def _comparable(attention: Tensor, other: Tensor) -> Tensor | None:
    """Return reported attention in the shape of what was captured; None where that cannot be."""
    other = other.nan_to_num(0).to(attention.device)  # one that is spread over devices reports all on one
    if attention.shape == other.shape:
        return other
    is_square = attention.shape[2] == attention.shape[3]
    if is_square and attention.shape[:3] == other.shape[:3] and other.shape[3] % 2:
        from qkspace.inline import unrolled

        return unrolled(other)  # a model with a sliding window reports the weights inside it
    return None


def _is_close(attention: Tensor, other: Tensor) -> bool:
    """Tell whether attention is what is reported, within the rounding of the coarser type: some report what they rounded."""
    tolerance = max(TOLERANCE.get(str(tensor.dtype), 1e-4) for tensor in (attention, other))
    apart = (attention - other).abs().masked_fill(other.sum(dim=-1, keepdim=True) == 0, 0)  # some leave padding out
    return bool((apart <= tolerance).all())


def unpadded(call: AttentionCall, batch: Batch, route: Route) -> AttentionCall:
    """Return an attention without what the model itself put behind a batch of texts to fill its last window."""
    mask = batch.get("attention_mask")
    n_tokens, n = call.query.shape[2], 0 if mask is None or mask.dim() != 2 else mask.shape[1]
    is_text = set(batch) <= TEXT_INPUTS
    pads = (
        route == "inline"
        and is_text
        and 0 < n < n_tokens == call.key.shape[2]
        and len(call.query) == len(batch["input_ids"])
    )
    is_target = "decoder_input_ids" in batch and n_tokens == batch["decoder_input_ids"].shape[1]
    return cropped(call, n) if pads and not is_target else call


def _same_output(plain: Any, watched: Any) -> bool:
    """Tell whether the first tensor of two outputs is the same within rounding."""
    first, second = (_first_tensor(output) for output in (plain, watched))
    if first is None or second is None or first.shape != second.shape:
        return first is None and second is None
    scale = max(1.0, float(first.float().abs().max()))
    return bool(((first - second).float().abs() <= 10 * TOLERANCE.get(str(first.dtype), 1e-4) * scale).all())


def _first_tensor(output: Any) -> Tensor | None:
    """Return the first tensor of real numbers in an output."""
    if hasattr(output, "is_floating_point"):
        return output if output.is_floating_point() else None
    values = output.values() if hasattr(output, "values") else output if isinstance(output, list | tuple) else ()
    return next((tensor for tensor in map(_first_tensor, values) if tensor is not None), None)


def _refuse_nan(model: PreTrainedModel, calls: Sequence[AttentionCall]) -> None:
    for call in calls:
        if not (call.query.isfinite().all() and call.key.isfinite().all()):
            raise QKSpaceError(
                f"{type(model).__name__}: queries or keys of {call.module} hold nan or infinity. Are its weights sound? "
                "Where they are of half precision, try --dtype float32."
            )
