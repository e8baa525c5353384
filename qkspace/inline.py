"""Inline attention: find queries and keys in models that compute attention in their own lines.

In: a model and whatever is run through it. Out: per softmax of a query-key product its query, key, value and attention,
handed to a function as they arise. Knows no files and no corpora, and of a model only its modules' names.

Every operation of the forward pass is seen by torch's dispatcher. A batched product leaves a mark on its result: which
two tensors met there, and which axis came from which. Marks follow the scores through scaling, masks and changes of
shape; where a softmax runs over all rows of one of the two tensors, those are the keys and the other the queries. Only
operations known here carry a mark on: scores that took another way (a gather, a shift) are a position part of others.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.weak import WeakTensorKeyDictionary

from qkspace.schema import QKSpaceError

NEVER = -9.9e3  # models write -1e4, -1e9 or their type's lowest number for "not allowed", then add it to the scores
HEAD_COUNTS = ("num_attention_heads", "num_heads", "n_heads", "n_head", "num_attn_heads", "nhead", "heads")
KV_HEAD_COUNTS = ("num_key_value_heads", "num_kv_heads", "n_kv_heads")


@contextmanager
def watching(
    model: nn.Module, show: Callable[..., None], edit: Callable[[int, Tensor], Tensor] | None = None
) -> Iterator[None]:
    """Show every softmax attention inside `model` while the context lasts, in the thread that entered it.

    `show(module, *, query, key, value, attention, added, scale, softcap, sink)` is called once an attention, in order:
    query (batch, head, query token, d_head), key and value (batch, kv_head, key token, ...), attention (batch, head,
    query token, key token). The weights are softmax(cap(scale * query . key) + added), where `added` holds mask (-inf)
    and position part, None if there is neither; a query that may attend to nothing keeps its mask's own numbers.
    `value` is None where the weights met nothing. Results are unchanged. Torch's fused encoder layers are not seen.

    `edit(number, output)` is called with the product of weights and values, (batch, query token, head, d_value), of each
    attention in turn, counted as they are shown, and returns what the model goes on with. It is not called where the weights
    met nothing, nor for a sliding window as Longformer's.

    Raises:
        QKSpaceError: an output that was edited is not all that the weights are used for.
    """
    watch, grad = _Watch(show, model.parameters(), edit), torch.is_grad_enabled()
    hooks = []
    try:
        for name, module in model.named_modules():
            hooks.append(module.register_forward_pre_hook(watch.entering(name), with_kwargs=True))
            hooks.append(module.register_forward_hook(watch.leaving, always_call=True))
        # the outer two see to it that a forward pass broken off by Ctrl-C leaves torch in the mode it was in
        with torch.inference_mode(torch.is_inference_mode_enabled()), torch.set_grad_enabled(grad), watch:
            try:
                yield
            finally:
                watch.forget()
    finally:
        for hook in hooks:
            hook.remove()


# ---------------------------------------------------------------------------------------------------------------- axes


@dataclass(frozen=True, slots=True)
class _Factor:
    """A piece of an axis of the product: `stride` counts in steps along the source."""

    source: str  # "pair": the axis that both tensors share; "left", "right": the rows of one of them
    size: int
    stride: int = 1


Axes = tuple[tuple[_Factor, ...], ...]  # of every axis of a tensor: the factors that it runs over, outer one first


def _product_axes(n_pairs: int, n_left: int, n_right: int) -> Axes:
    sizes = {"pair": n_pairs, "left": n_left, "right": n_right}
    return tuple((_Factor(source, size),) if size > 1 else () for source, size in sizes.items())


def _reshaped(axes: Axes, shape: Sequence[int]) -> Axes | None:
    """Cut the same elements in the same order into another shape; None where an axis would mix half factors."""
    left = [factor for axis in axes for factor in axis]
    result = []
    for size in shape:
        axis = []
        while size > 1:
            if not left:
                return None
            factor = left.pop(0)
            if size % factor.size == 0:
                axis.append(factor)
                size //= factor.size
            elif factor.size % size == 0:
                inner = factor.size // size
                axis.append(_Factor(factor.source, size, factor.stride * inner))
                left.insert(0, _Factor(factor.source, inner, factor.stride))
                size = 1
            else:
                return None
        result.append(tuple(axis))
    return None if left else tuple(result)


def _is_whole(axis: Sequence[_Factor], source: str, size: int) -> bool:
    """Whether an axis runs over all of a source, in order."""
    step = 1
    for factor in reversed(axis):
        if factor.source != source or factor.stride != step:
            return False
        step *= factor.size
    return step == size


def _size(axis: Sequence[_Factor]) -> int:
    return math.prod(factor.size for factor in axis)


def _arranged(tensor: Tensor, *axes: Sequence[_Factor]) -> Tensor:
    """Split the first axis of (pair, token, d) into the given axes: (..., token, d)."""
    factors = [factor for axis in axes for factor in axis]
    order = sorted(range(len(factors)), key=lambda i: -factors[i].stride)
    split = tensor.reshape(*(factors[i].size for i in order), *tensor.shape[1:])
    n = len(order)
    return split.permute(*(order.index(i) for i in range(n)), n, n + 1).reshape(
        *(_size(axis) for axis in axes), *tensor.shape[1:]
    )


# --------------------------------------------------------------------------------------------------------------- marks


@dataclass(frozen=True, slots=True, eq=False)
class _Running:
    """One run of a module."""

    name: str
    module: nn.Module


@dataclass(frozen=True, slots=True, eq=False)
class _Product:
    """Two tensors that met: left (pair, row, d) with right (pair, row, d); `around` are the modules in which they did."""

    left: Tensor
    right: Tensor
    around: tuple[_Running, ...]


@dataclass(slots=True, eq=False)
class _Attention:
    """An attention that waits for its values, which its weights meet before the module `within` ends."""

    within: _Running
    call: dict[str, Any]
    batch: tuple[_Factor, ...] = ()
    head: tuple[_Factor, ...] = ()
    keys: str = "right"
    n_groups: int = 1
    ready: bool = False
    edited: int | None = None  # the number under which its output was edited


@dataclass(slots=True, eq=False)
class _Band:
    """A sliding window of `width` tokens to either side, and its queries and keys in overlapping chunks."""

    within: _Running
    width: int
    query: Tensor | None = None
    key: Tensor | None = None


@dataclass(frozen=True, slots=True, eq=False)
class _Mark:
    """What a tensor comes from, and how: `scale` times the product (None: unknown), inside a tanh times `cap`."""

    of: _Product | _Attention
    axes: Axes
    scale: float | None = 1.0
    cap: float | None = None

    def scaled(self, factor: float) -> _Mark:
        if self.cap is not None:
            return replace(self, cap=self.cap * factor)
        return self if self.scale is None else replace(self, scale=self.scale * factor)


Marks = tuple[_Mark, ...]

# Operations that keep the elements in order, if they keep their number
ORDERED = {"view", "_unsafe_view", "reshape", "_reshape_alias", "_reshape_copy", "view_copy", "expand", "unsqueeze"}
ORDERED |= {"squeeze", "slice", "select", "alias", "detach", "clone", "_to_copy", "lift_fresh"}
# Operations element by element that change scores by what is `added`
ELEMENTWISE = {"add", "sub", "rsub", "masked_fill", "where", "clamp", "clamp_min", "clamp_max", "maximum", "minimum"}
ELEMENTWISE |= {"nan_to_num", "index_put", "_index_put_impl"}
PRODUCTS = {"bmm", "baddbmm", "mm"}
FUSED = {"_scaled_dot_product_flash_attention_for_cpu", "_scaled_dot_product_fused_attention_overrideable"}
FUSED |= {f"_scaled_dot_product_{how}_attention" for how in ("flash", "efficient", "cudnn")}
SOFTMAXES = {"_softmax", "_safe_softmax"}


class _Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Follow marks through the operations of one thread and show each attention once its values are known."""

    def __init__(
        self,
        show: Callable[..., None],
        parameters: Iterable[Tensor],
        edit: Callable[[int, Tensor], Tensor] | None = None,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.edit, self.n_shown = edit, 0
        self.parameters = {parameter.untyped_storage().data_ptr() for parameter in parameters}
        self.show = show
        self.marks: Any = WeakTensorKeyDictionary()
        self.stack: list[_Running] = []
        self.waiting: list[_Attention] = []
        self.band: _Band | None = None
        self.n_sequences = 0
        self.thread = threading.get_ident()
        self.is_showing = False
        self.modes = ExitStack()

    # -- modules

    def entering(self, name: str) -> Callable[..., None]:
        """Return the hook that runs before the module of this name."""

        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            if threading.get_ident() != self.thread:
                return
            if not self.stack:
                inputs = (value for value in (*args, *kwargs.values()) if isinstance(value, Tensor) and value.ndim)
                self.n_sequences = next((len(value) for value in inputs), 1)
                self.leave_inference_mode()
            self.stack.append(_Running(name, module))

        return hook

    def leaving(self, module: nn.Module, args: Any, output: Any) -> None:
        """Show what still waits in a module that ends."""
        if threading.get_ident() != self.thread or not self.stack:
            return
        ended = self.stack.pop()
        left = [attention for attention in self.waiting if attention.within is ended and not attention.ready]
        for attention in left:
            attention.ready = True
            if attention.keys == "left":  # rows of the left tensor are keys only if something was summed over them
                self.waiting.remove(attention)
        self.show_ready()
        if not self.stack:
            self.forget()

    def leave_inference_mode(self) -> None:
        """Compute without gradients, but not in inference mode, where torch shows linear maps and products uncut."""
        if torch.is_inference_mode_enabled():
            self.modes.enter_context(torch.inference_mode(False))
            self.modes.enter_context(torch.no_grad())

    def forget(self) -> None:
        """Drop every tensor; nothing is watched until the next forward pass."""
        self.modes.close()
        self.marks.clear()
        self.band = None
        self.waiting.clear()

    def show_ready(self) -> None:
        """Show what is complete, in the order of the forward pass."""
        while self.waiting and self.waiting[0].ready:
            attention = self.waiting.pop(0)
            call, attention.call = attention.call, {}  # marks may outlive this; the tensors need not
            if attention.edited not in (None, self.n_shown):
                raise _not_editable(attention, "attentions are not computed in the order in which they end")
            self.n_shown += 1
            self.is_showing = True
            try:
                self.show(**call)
            finally:
                self.is_showing = False

    # -- operations

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if not self.stack or self.is_showing:
            return func(*args, **kwargs)
        name, given = func.overloadpacket.__name__, _Arguments(func, args, kwargs)
        out = func(*args, **kwargs)
        result = out[0] if isinstance(out, (tuple, list)) and len(out) else out
        if isinstance(result, Tensor):
            self.follow(name, given, result)
        return out

    def follow(self, name: str, given: _Arguments, result: Tensor) -> None:
        """Mark the result of an operation as what its arguments make of it."""
        if name in PRODUCTS:
            self.multiply(given, result)
        elif name in SOFTMAXES:
            self.normalise(given, result)
        elif name in FUSED:
            self.fused(given, result)
        elif marked := [value for value in given.tensors if value in self.marks]:
            if marks := _carried(name.removesuffix("_"), given, marked, self.marks, result):
                self.marks[result] = marks
            else:
                self.marks.pop(result, None)  # changed in place in a way that is not known

    def multiply(self, given: _Arguments, result: Tensor) -> None:
        """Mark a product; where one side is attention, the other holds its values."""
        left, right = given.tensors[-2:]
        if (band := self.band_around()) is not None:
            self.meet_band(band, left, right)
            return
        if any(side.untyped_storage().data_ptr() in self.parameters for side in (left, right)):
            return  # a linear map, experts, a learned code book
        for weights, value, swapped in ((left, right, False), (right, left.transpose(-1, -2), True)):
            for mark in self.marks.get(weights, ()):
                if isinstance(mark.of, _Attention):
                    axes = _swapped(mark.axes) if swapped else mark.axes
                    output = result.transpose(-1, -2) if swapped else result
                    self.meet_value(mark.of, value.reshape(-1, *value.shape[-2:]), axes, output)
                    return
        axes = _product_axes(len(left) if left.ndim == 3 else 1, left.shape[-2], right.shape[-1])
        sides = [side.reshape(-1, *side.shape[-2:]) for side in (left, right.transpose(-1, -2))]
        mark = _Mark(_Product(sides[0], sides[1], tuple(self.stack)), axes[-left.ndim :])
        self.marks[result] = (mark.scaled(float(given.get("alpha", 1))),)

    def meet_value(self, attention: _Attention, value: Tensor, axes: Axes, output: Tensor) -> None:
        """Complete an attention with its values (pair, key token, d), which its weights just met."""
        if attention.ready:
            if attention.edited is not None:
                raise _not_editable(attention, "its weights meet more than its values")
            return
        lead, keys = axes[0] if len(axes) > 2 else (), axes[-1]
        batch, head = (_within(lead, axis) for axis in (attention.batch, attention.head))
        if not _is_whole(keys, attention.keys, value.shape[1]) or _size((*batch, *head)) != len(value):
            return  # summed over something else than keys
        attention.call["value"] = _ungrouped(_arranged(value, batch, head), attention.n_groups)
        pairs = _arranged(torch.arange(len(value), device=value.device).reshape(-1, 1, 1), batch, head)[..., 0, 0]
        self.edit_output(attention, output.view(-1, *output.shape[-2:]), pairs)
        attention.ready = True
        self.show_ready()

    def edit_output(self, attention: _Attention, output: Tensor, pairs: Tensor) -> None:
        """Let the output (pair, query token, d_value) of an attention be edited in place; pairs: which one, (batch, head)."""
        if self.edit is None:
            return
        number = self.n_shown + self.waiting.index(attention)
        seen = output[pairs].transpose(1, 2)  # (batch, query token, head, d_value)
        if (instead := self.edit(number, seen)) is not seen:
            output[pairs.flatten()] = instead.transpose(1, 2).flatten(0, 1)
            attention.edited = number

    def band_around(self) -> _Band | None:
        """Return what is known of the sliding window in the innermost module, if it has one as Longformer's have."""
        width = getattr(self.stack[-1].module, "one_sided_attn_window_size", None)
        if width is None:
            return None
        if self.band is None or self.band.within is not self.stack[-1]:
            self.band = _Band(self.stack[-1], int(width))
        return self.band

    def meet_band(self, band: _Band, left: Tensor, right: Tensor) -> None:
        """Keep the first product of a sliding window, of queries and keys; the one with three windows has the values."""
        if band.query is None and left.shape[1] == right.shape[2] == 2 * band.width:
            band.query, band.key = left, right.transpose(1, 2)
            return
        waiting = next((a for a in self.waiting if a.within is band.within and not a.ready), None)
        if waiting is not None and right.shape[1] == 3 * band.width:
            n, n_heads = waiting.call["query"].shape[:2]
            middle = right.reshape(n, n_heads, -1, *right.shape[1:])[..., band.width : 2 * band.width, :]
            waiting.call["value"] = middle.flatten(2, 3)
            waiting.ready = True
            self.show_ready()

    def normalise(self, given: _Arguments, weights: Tensor) -> None:
        """Read an attention off a softmax whose scores are a product of queries and keys."""
        scores, band = given.tensors[0], self.band_around()
        if band is not None and band.query is not None and scores.ndim == 4 and scores.shape[-1] == 2 * band.width + 1:
            self.waiting.append(_read_band(band, scores, weights, self.stack[-1]))
            return
        for mark in self.marks.get(scores, ()):
            if not isinstance(mark.of, _Product):
                continue
            layout = _layout(mark, scores, int(given.get("dim", -1)), self.n_heads(), self.n_sequences)
            if layout is None:
                continue
            within = [a for a, b in zip(self.stack, mark.of.around, strict=False) if a is b][-1]
            attention = _read(mark, layout, scores, weights, self.n_groups(layout.shape[1]), within)
            self.waiting.append(attention)
            self.marks[weights] = (_Mark(attention, mark.axes),)
            return

    def fused(self, given: _Arguments, output: Tensor) -> None:
        """Show an attention that is one operation, F.scaled_dot_product_attention or what it chose."""
        call = _fused_call(given)
        within = self.stack[-1]
        attention = _Attention(within, {"module": within.name, **call}, ready=True)
        self.waiting.append(attention)
        if self.edit is not None:
            number, seen = self.n_shown + len(self.waiting) - 1, output.transpose(1, 2)
            if (instead := self.edit(number, seen)) is not seen:
                output.copy_(instead.transpose(1, 2))
                attention.edited = number
        self.show_ready()

    # -- what the modules around say

    def n_heads(self) -> int | None:
        return self.stated(HEAD_COUNTS)

    def n_groups(self, n_heads: int) -> int:
        """Return how many heads share one key, as the modules around state it."""
        n_kv_heads = self.stated(KV_HEAD_COUNTS) or n_heads
        groups = self.stated(("num_key_value_groups",)) or n_heads // n_kv_heads
        return groups if groups and n_heads % groups == 0 else 1

    def stated(self, names: Sequence[str]) -> int | None:
        """Return the first of these attributes on the innermost module that has one, or on its config."""
        for running in reversed(self.stack):
            for holder in (running.module, getattr(running.module, "config", None)):
                for name in names:
                    if isinstance(value := getattr(holder, name, None), int) and value > 0:
                        return value
        return None


def _not_editable(attention: _Attention, reason: str) -> QKSpaceError:
    return QKSpaceError(
        f"{attention.within.name} ({type(attention.within.module).__name__}): {reason}, so that what one of its heads puts out "
        "cannot be replaced."
    )


class _Arguments:
    """The arguments of an operation by the names of its schema."""

    def __init__(self, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        names = [argument.name for argument in func._schema.arguments]
        self.named = dict(zip(names, args, strict=False)) | dict(kwargs)
        self.tensors = [value for value in self.named.values() if isinstance(value, Tensor)]

    def get(self, name: str, default: Any = None) -> Any:
        return self.named.get(name, default)


def _swapped(axes: Axes) -> Axes:
    return (*axes[:-2], axes[-1], axes[-2])


def _within(axis: Sequence[_Factor], wanted: Sequence[_Factor]) -> tuple[_Factor, ...]:
    """Return wanted factors with their strides along an axis that runs over them, leaving out those it does not."""
    found, step = {}, 1
    for factor in reversed(axis):
        for f in wanted:
            if f.source == factor.source and factor.stride <= f.stride < factor.stride * factor.size:
                found[f] = replace(f, stride=step * (f.stride // factor.stride))
        step *= factor.size
    return tuple(found[f] for f in wanted if f in found)


# ------------------------------------------------------------------------------------------------ how marks are carried


def _carried(name: str, given: _Arguments, marked: list[Tensor], known: Any, result: Tensor) -> Marks:
    """Return the marks of a result whose arguments include marked tensors."""
    source = marked[0]
    if not result.dtype.is_floating_point:
        return ()
    if name in ("permute", "transpose", "t"):
        order = _order(name, given, source.ndim)
        return tuple(replace(mark, axes=tuple(mark.axes[i] for i in order)) for mark in known[source])
    if name in ORDERED:
        return _viewed(known[source], source, result)
    same = [tensor for tensor in marked if tensor.shape == result.shape]
    if not same:
        return ()
    if name == "tanh":
        return tuple(replace(mark, cap=1.0) for mark in known[source] if mark.cap is None)
    if name in ("mul", "div"):
        return _multiplied(name, given, same[0], known[same[0]]) if len(marked) == 1 else ()
    if name in ELEMENTWISE:
        return tuple(mark for tensor in same for mark in _added(name, given, tensor, known[tensor]))
    return ()


def _order(name: str, given: _Arguments, n: int) -> list[int]:
    if name == "permute":
        return [int(i) % n for i in given.get("dims")]
    order = list(range(n))
    i, j = (0, n - 1) if name == "t" else (int(given.get("dim0")) % n, int(given.get("dim1")) % n)
    order[i], order[j] = order[j], order[i]
    return order


def _viewed(marks: Marks, source: Tensor, result: Tensor) -> Marks:
    if result.numel() != source.numel():
        return ()
    seen = ((mark, _reshaped(mark.axes, result.shape)) for mark in marks)
    return tuple(replace(mark, axes=axes) for mark, axes in seen if axes is not None)


def _added(name: str, given: _Arguments, tensor: Tensor, marks: Marks) -> Marks:
    """Carry marks through a sum; the second term of one may have a factor."""
    factor = float(given.get("alpha", 1)) if given.get("other") is tensor else 1.0
    if name == "sub" and given.get("other") is tensor:
        factor = -factor
    if name == "rsub":
        factor = -1.0
    return marks if factor == 1 else tuple(mark.scaled(factor) for mark in marks)


def _multiplied(name: str, given: _Arguments, tensor: Tensor, marks: Marks) -> Marks:
    """Carry marks through a product with a number, with numbers of a head or a query, or with a mask."""
    first, second = given.get("self"), given.get("other")
    other = second if first is tensor else first
    if name == "div" and (other is first or given.get("rounding_mode")):
        return ()
    if not isinstance(other, Tensor) or other.numel() == 1:
        number = float(other) if name == "mul" else 1 / float(other) if float(other) else math.inf
        return tuple(mark.scaled(number) for mark in marks)
    if not other.is_floating_point() or bool(((other == 0) | (other == 1)).all()):
        return marks
    return tuple(_folded(mark, tensor, 1 / other if name == "div" else other) for mark in marks)


def _folded(mark: _Mark, tensor: Tensor, factor: Tensor) -> _Mark:
    """Multiply the left tensor of a product by a factor that is one for all rows of the right."""
    product = mark.of
    if not isinstance(product, _Product):
        return mark
    factor = factor[(None,) * (tensor.ndim - factor.ndim)]
    sizes: list[int] = []
    kept: list[_Factor] = []
    for axis, n in zip(mark.axes, factor.shape, strict=True):
        has_right = any(f.source == "right" for f in axis)
        if has_right and (n > 1 or any(f.source != "right" for f in axis)):
            return replace(mark, scale=None)
        sizes.append(1 if has_right else _size(axis))
        kept.extend(() if has_right else axis)
    pairs = sorted((f for f in kept if f.source == "pair"), key=lambda f: -f.stride)
    rows = sorted((f for f in kept if f.source == "left"), key=lambda f: -f.stride)
    spread = factor.expand(sizes).reshape([f.size for f in kept])
    spread = spread.permute([kept.index(f) for f in (*pairs, *rows)]).reshape(*product.left.shape[:2], 1)
    return replace(mark, of=replace(product, left=product.left * spread.to(product.left.dtype)))


# -------------------------------------------------------------------------------------------- from a softmax to a call


@dataclass(frozen=True, slots=True)
class _Layout:
    """Where batch, head, query and key stand in scores: `order` of their axes, and the `shape` they then have."""

    order: tuple[int, ...]
    shape: tuple[int, int, int, int]
    batch: tuple[_Factor, ...]
    head: tuple[_Factor, ...]
    keys: str

    def of(self, scores: Tensor) -> Tensor:
        """Bring scores or weights to (batch, head, query token, key token)."""
        return scores.permute(self.order).reshape(self.shape)


def _layout(mark: _Mark, scores: Tensor, dim: int, n_heads: int | None, n_sequences: int) -> _Layout | None:
    """Return how scores are laid out, or None if the softmax does not run over keys for single queries."""
    product, dim = mark.of, dim % scores.ndim
    assert isinstance(product, _Product)
    n_rows = {"left": product.left.shape[1], "right": product.right.shape[1]}
    keys = next((s for s in ("right", "left") if _is_whole(mark.axes[dim], s, n_rows[s])), None)
    if keys is None:
        return None
    queries = "left" if keys == "right" else "right"
    rest = [i for i in range(scores.ndim) if i != dim]
    asking = [i for i in rest if any(f.source == queries for f in mark.axes[i])] or rest[-1:]
    if len(asking) != 1 or not _is_whole(mark.axes[asking[0]], queries, n_rows[queries]):
        return None
    lead = _lead([i for i in rest if i != asking[0]], scores.shape, n_heads)
    factors = tuple(mark.axes[i] for i in lead)
    if any(f.source != "pair" for axis in factors for f in axis):
        return None
    total = math.prod(scores.shape[i] for i in lead)
    split = scores.shape[lead[-1]] if len(lead) > 1 else _heads_among(total, n_heads, n_sequences)
    halves = _reshaped(factors, (total // split, split))
    if halves is None:
        return None
    shape = (total // split, split, scores.shape[asking[0]], scores.shape[dim])
    return _Layout((*lead, asking[0], dim), shape, halves[0], halves[1], keys)


def _lead(axes: list[int], shape: Sequence[int], n_heads: int | None) -> list[int]:
    """Order the axes before query and key so that the heads come last."""
    if len(axes) < 3:
        return axes
    head = next((i for i in axes[1:] if shape[i] == n_heads), axes[1])
    return [i for i in axes if i != head] + [head]


def _heads_among(total: int, n_heads: int | None, n_sequences: int) -> int:
    """Return how many heads an axis of (batch times head) holds."""
    if n_heads and total % n_heads == 0:
        return n_heads
    return total // n_sequences if n_sequences and total % n_sequences == 0 else 1


def _read(mark: _Mark, layout: _Layout, scores: Tensor, weights: Tensor, n_groups: int, within: _Running) -> _Attention:
    """Return an attention as it is shown, but for its values."""
    product = mark.of
    assert isinstance(product, _Product)
    sides = (product.left, product.right) if layout.keys == "right" else (product.right, product.left)
    query, key = (_arranged(side, layout.batch, layout.head) for side in sides)
    if n_groups > 1 and not torch.equal(key, _regrouped(key, n_groups)):
        n_groups = 1
    call = _call(mark, query, key, layout.of(scores), layout.of(weights))
    call |= {"module": within.name, "key": _ungrouped(key, n_groups)}
    return _Attention(within, call, layout.batch, layout.head, layout.keys, n_groups)


def _call(mark: _Mark, query: Tensor, key: Tensor, scores: Tensor, weights: Tensor) -> dict[str, Any]:
    """Return what is shown of an attention whose tensors are (batch, head, ...); its values are not known yet."""
    logit = scores.float()
    dot = query.float() @ key.float().transpose(-1, -2)
    scale = _fitted_scale(logit, dot) if mark.scale is None else mark.scale
    scale, cap = (scale * mark.cap, mark.cap) if mark.cap is not None else (scale, None)
    dot *= scale
    if cap is not None:
        dot = cap * torch.tanh(dot / cap)
    added = _difference(logit, dot, max(torch.finfo(tensor.dtype).eps for tensor in (query, key, scores)))
    return {
        "query": query,
        "key": key,
        "value": None,
        "attention": weights,
        "added": added,
        "scale": scale,
        "softcap": cap,
        "sink": None,
    }


def _read_band(band: _Band, scores: Tensor, weights: Tensor, within: _Running) -> _Attention:
    """Return the attention of a sliding window, whose scores are (batch, token, head, place in the window)."""
    assert band.query is not None and band.key is not None
    n, n_tokens, n_heads, _ = scores.shape
    sides = []
    for side in (band.query, band.key):  # chunks of two windows that overlap by one
        chunks = side.reshape(n, n_heads, -1, *side.shape[1:])
        blocks = torch.cat((chunks[..., : band.width, :], chunks[:, :, -1:, band.width :]), dim=2)
        sides.append(blocks.reshape(n, n_heads, n_tokens, -1))
    full = [unrolled(part.transpose(1, 2), fill) for part, fill in ((scores, -torch.inf), (weights, 0.0))]
    mark = _Mark(_Product(sides[0], sides[1], ()), ())
    band.query = band.key = None
    return _Attention(within, {"module": within.name, **_call(mark, sides[0], sides[1], full[0], full[1])})


def unrolled(band: Tensor, fill: float = 0.0) -> Tensor:
    """Write weights of a sliding window, (batch, head, query token, place in it), as (batch, head, token, token)."""
    n, width = band.shape[2], band.shape[3] // 2
    places = torch.arange(n, device=band.device)[:, None] + torch.arange(2 * width + 1, device=band.device)
    full = band.new_full((*band.shape[:3], n + 2 * width), fill)
    return full.scatter(-1, places.expand_as(band), band)[..., width : width + n]


def _ungrouped(key: Tensor, n_groups: int) -> Tensor:
    """Keep one of every `n_groups` heads, which share their keys and values."""
    return key[:, ::n_groups]


def _regrouped(key: Tensor, n_groups: int) -> Tensor:
    return key[:, ::n_groups].repeat_interleave(n_groups, dim=1)


def _forbidden(logit: Tensor, added: Tensor) -> tuple[Tensor, Tensor]:
    """Say where a model wrote "not allowed", and for which queries nowhere else: those keep their numbers."""
    never = (logit <= NEVER) | (added <= NEVER)
    idle = never.all(dim=-1, keepdim=True)
    return never & ~idle, idle


def _fitted_scale(logit: Tensor, dot: Tensor) -> float:
    """Return the factor that explains the logits best within queries, by least squares over what is allowed."""
    never, idle = _forbidden(logit, logit)
    allowed = ~(never | idle)
    n = allowed.sum(dim=-1, keepdim=True).clamp(min=1)
    centred = [
        (x := t.where(allowed, 0.0)).sub(x.sum(dim=-1, keepdim=True) / n).where(allowed, 0.0) for t in (logit, dot)
    ]
    return float((centred[0] * centred[1]).sum() / (centred[1] ** 2).sum().clamp(min=1e-30))


def _difference(logit: Tensor, dot: Tensor, eps: float) -> Tensor | None:
    """Return what a model added to its products (batch, head, query token, key token), or None where nothing.

    What rounding explains counts as nothing, and so does what is the same for all keys of a query.
    """
    added = logit - dot
    never, idle = _forbidden(logit, added)
    noise = 4 * eps * dot.abs() + 16 * torch.finfo(torch.float32).eps * (dot.abs().max() if dot.numel() else 0.0)
    lowest = (added - noise).masked_fill_(never, -torch.inf).amax(dim=-1, keepdim=True)
    highest = (added + noise).masked_fill_(never, torch.inf).amin(dim=-1, keepdim=True)
    if bool((idle | (lowest <= highest)).all()):
        added = added.where(idle, 0.0)
    added = added.masked_fill_(never, -torch.inf)
    return added if bool(added.any()) else None


def _fused_call(given: _Arguments) -> dict[str, Any]:
    """Compute the weights of a fused attention, which makes none."""
    query, key, value = (given.get(name) for name in ("query", "key", "value"))
    scale = given.get("scale")
    scale = query.shape[-1] ** -0.5 if scale is None else float(scale)
    mask = given.get("attn_mask") if given.get("attn_mask") is not None else given.get("attn_bias")
    added = None
    if mask is not None:
        added = torch.zeros_like(mask, dtype=torch.float32).masked_fill(~mask, -torch.inf) if _is_bool(mask) else mask
        added = added.float().masked_fill(added <= NEVER, -torch.inf)
    if given.get("is_causal"):
        n, m = query.shape[-2], key.shape[-2]
        added = torch.full((n, m), -torch.inf, device=query.device).triu(1)
    if added is not None and not bool(added.any()):
        added = None
    groups = query.shape[1] // key.shape[1]
    logit = scale * (query.float() @ key.float().repeat_interleave(groups, dim=1).transpose(-1, -2))
    attention = torch.softmax(logit if added is None else logit + added, dim=-1).nan_to_num(0.0)
    call = {"query": query, "key": key, "value": value, "attention": attention.to(query.dtype), "added": added}
    return {**call, "scale": scale, "softcap": None, "sink": None}


def _is_bool(mask: Tensor) -> bool:
    return mask.dtype == torch.bool
