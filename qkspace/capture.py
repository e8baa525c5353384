"""Capture: watch the queries and keys of a model meet, in one forward pass, for every architecture alike.

In: a model of transformers and batches of its inputs. Out: per attention the query, key, value and attention tensors,
handed to a function as they arise. Knows no files and no corpora.

Two routes. The interface: transformers lets a model be switched to a registered attention function
(`AttentionInterface.register`). Ours calls the modelling file's own eager function, so that soft caps, sinks and
grouped keys are the model's own mathematics, and shows what went in and came out to a listener. The eager mask is
registered under the same name; without it a decoder would silently lose its causal mask. Inline: a model that computes
attention itself is watched while it multiplies queries with keys (`qkspace.inline`).
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from qkspace.schema import QKSpaceError

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import PreTrainedModel

    from qkspace.windows import Windows

IMPLEMENTATION = "qkspace_capture"  # must not contain "sdpa", "flex" or "flash": transformers looks for those words
CHUNK_BYTES = 128 << 20  # attention that is held at a time; more than that is computed some query tokens at a time,
PIECE_BYTES = (
    16 << 20
)  # so many bytes of it: small enough that the allocator of the C library keeps the memory for the next

Route = Literal["interface", "inline"]
Forward = Literal["exact", "sdpa"]
Rows = Iterator[tuple[slice, "Tensor"]]


@dataclass(frozen=True, slots=True)
class AttentionCall:
    """One attention of one forward pass, as the model computed it.

    query (batch, head, query token, d_head) and key, value (batch, kv_head, key token, d_head) are the vectors that meet
    in the dot product, after rotary positions and normalisation; `before_rotation` is query and key without rotary
    positions, where that was asked for and the model has them. The logit is `scale * query . key`, through
    `softcap * tanh(logit / softcap)` where there is a soft cap; then mask and bias are added, where there are any: a mask
    of booleans says what is allowed. `sink` (head) is one more logit, of no key. `index` counts the calls of one forward
    pass from 0. `windows` says how a picture was cut, where a sequence is one window of it (`qkspace.windows`); `fixed` that
    what is added is the same for every sequence, whatever is in it.
    """

    index: int
    module: str
    query: Tensor
    key: Tensor
    value: Tensor | None
    chunks: _Chunks
    mask: Tensor | None
    scale: float
    bias: Tensor | None = None
    softcap: float | None = None
    sink: Tensor | None = None
    before_rotation: tuple[Tensor, Tensor] | None = None
    windows: Windows | None = None
    fixed: bool = False

    @property
    def attention(self) -> Tensor:
        """The model's own attention, whole: (batch, head, query token, key token)."""
        import torch

        parts = [attention for _, attention in self.rows()]
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=2)

    def rows(self) -> Rows:
        """Yield the model's own attention some query tokens at a time: which, and (batch, head, query token, key token).

        All at once where it takes less than `CHUNK_BYTES`.
        """
        return self.chunks.rows()


def cropped(call: AttentionCall, n: int) -> AttentionCall:
    """Return the attention among the first n tokens, of a model that pads its input to whole windows or blocks."""

    def crop(tensor: Tensor | None) -> Tensor | None:
        if tensor is None:
            return None
        rows = tensor[..., :n, :] if tensor.shape[-2] > 1 else tensor
        return rows[..., :n] if tensor.shape[-1] > 1 else rows

    def compute(rows: slice) -> tuple[None, Tensor]:
        return None, torch.cat([part for _, part in call.rows()], dim=2)[:, :, rows, :n]

    import torch

    return replace(
        call,
        query=call.query[:, :, :n],
        key=call.key[:, :, :n],
        value=None if call.value is None else call.value[:, :, :n],
        mask=crop(call.mask),
        bias=crop(call.bias),
        chunks=_Chunks(compute, n, n),
    )


class _Chunks:
    """Attention computed some query tokens at a time; what comes out of it is kept for the model to go on with."""

    def __init__(self, compute: Callable[[slice], tuple[Tensor | None, Tensor]], n_queries: int, step: int) -> None:
        self._compute, self._n_queries, self._step = compute, n_queries, step
        self._outputs: dict[int, Tensor | None] = {}
        self._whole: Tensor | None = None  # kept where it is not cut up

    def rows(self) -> Rows:
        for first in range(0, self._n_queries, self._step):
            rows = slice(first, min(first + self._step, self._n_queries))
            if self._whole is not None:
                yield rows, self._whole
                continue
            self._outputs[first], attention = self._compute(rows)
            if self._step >= self._n_queries:
                self._whole = attention
            yield rows, attention

    def finish(self) -> tuple[Tensor, Tensor | None]:
        """Return the output, (batch, query token, head, d_head), and the attention where it was not cut up."""
        import torch

        for first in range(0, self._n_queries, self._step):
            if first not in self._outputs:
                rows = slice(first, min(first + self._step, self._n_queries))
                self._outputs[first], attention = self._compute(rows)
                if self._step >= self._n_queries:
                    self._whole = attention
        parts = [output for _, output in sorted(self._outputs.items()) if output is not None]
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1), self._whole


def step_of(batch: int, n_heads: int, n_queries: int, n_keys: int) -> int:
    """Return how many query tokens are attended for at a time, so that `CHUNK_BYTES` hold them."""
    row_bytes = max(1, 4 * batch * n_heads * n_keys)
    return n_queries if n_queries * row_bytes <= CHUNK_BYTES else max(1, min(PIECE_BYTES, CHUNK_BYTES) // row_bytes)


Listener = Callable[[AttentionCall], None]
Edit = Callable[
    [int, "Tensor"], "Tensor"
]  # number of an attention, its output (batch, query token, head, d_value) -> another


class _Ear:
    """Who listens to a model, by which route, and how many calls this forward pass has had."""

    def __init__(
        self,
        model: PreTrainedModel,
        listener: Listener,
        route: Route,
        how: Forward,
        *,
        unrotated: bool,
        edit: Edit | None = None,
        last: int | None = None,
    ) -> None:
        self.listener, self.route, self.how, self.edit, self.last = listener, route, how, edit, last
        self.names = {id(module): name for name, module in model.named_modules()}
        self.n_calls = 0
        self.unrotated = unrotated
        self.windows_of: Callable[[str], Windows | None] = lambda module: None

    def tell(self, module: str, **call: Any) -> None:
        """Show one attention to the listener; after the last that is wanted the forward pass ends."""
        windows, number = self.windows_of(module), self.n_calls
        self.listener(AttentionCall(index=number, module=module, windows=windows, **call))
        self.n_calls += 1
        if number == self.last:
            raise _AllSeenError

    def tell_inline(
        self,
        module: str,
        *,
        query: Tensor,
        key: Tensor,
        value: Tensor | None,
        attention: Tensor,
        added: Tensor | None,
        **how: Any,
    ) -> None:
        """Show one attention that was watched and not computed by us."""
        chunks = _Chunks(lambda rows: (None, attention), attention.shape[2], attention.shape[2])
        self.tell(module, query=query, key=key, value=value, chunks=chunks, mask=added, **how)


class _AllSeenError(Exception):
    """Ends a forward pass of which all that is wanted was seen; `forward` catches it."""


_listeners: dict[int, _Ear] = {}  # id(module) -> who listens to the model that it is a part of


@contextmanager
def listening(
    model: PreTrainedModel,
    listener: Listener,
    *,
    route: Route = "interface",
    how: Forward = "exact",
    unrotated: bool = False,
    edit: Edit | None = None,
    last: int | None = None,
) -> Iterator[None]:
    """Show every attention of `model` to `listener` while the context lasts; calls of a `forward` count from 0.

    The model is in evaluation mode meanwhile and left as it was found, also after an exception; `forward` runs it. Models
    are independent of each other; one model can only be listened to once at a time.

    Args:
        model: the whole model, also where a part of it is run.
        listener: called with every attention in the order of the forward pass.
        route: "interface" for models that use transformers' attention interface, "inline" for all others.
        how: "exact" computes attention by the modelling file's own function, "sdpa" what the model goes on with by torch's
            fused kernel, which is faster and within rounding the same; attention itself is then that of the captured vectors.
        unrotated: also take queries and keys before rotary positions.
        edit: given the number and the output of every attention (attention times value, of each head, before the output
            projection), returns what the model goes on with. Of a sliding window as Longformer's it is not asked.
        last: number of the last attention that is wanted; `forward` ends with it and returns None. None: all of the pass.
            Hooks that follow the modules around it do not run: accelerate's offload leaves their own weights on the device.

    Raises:
        QKSpaceError: the model does not use the attention interface, or somebody listens already.
    """
    if route == "interface" and not model._can_set_attn_implementation():
        raise QKSpaceError(
            f"{type(model).__name__} computes attention on its own and not through the attention interface."
        )
    ear = _Ear(model, listener, route, how, unrotated=unrotated, edit=edit, last=last)
    if any(key in _listeners for key in ear.names):
        raise QKSpaceError("This model is being captured already; wait until that is done.")
    state = _ModelState(model)
    _listeners.update(dict.fromkeys(ear.names, ear))
    with ExitStack() as stack:
        stack.callback(state.restore)
        for key in ear.names:
            stack.callback(_listeners.pop, key, None)
        if unrotated:
            from qkspace.rotation import noting

            stack.enter_context(noting(model))
        from qkspace import windows

        ear.windows_of = stack.enter_context(windows.noting(model))
        if route == "interface":
            _register()
            model.set_attn_implementation(IMPLEMENTATION)
        else:
            use_eager(model)
        yield


def use_eager(model: PreTrainedModel) -> None:
    """Have a model compute attention by plain products, also one that chose for itself when it was made."""
    if model._can_set_attn_implementation():
        model.set_attn_implementation("eager")
    for module in model.modules():
        config = getattr(module, "config", None)
        if config is not None and getattr(config, "_attn_implementation_internal", None) not in (None, "eager"):
            config._attn_implementation_internal = "eager"


class _ModelState:
    """Training flags and attention implementations of a model, to be put back as they were."""

    def __init__(self, model: PreTrainedModel) -> None:
        self._training = [(module, module.training) for module in model.modules()]
        configs = {id(c): c for m in model.modules() if (c := getattr(m, "config", None)) is not None}
        for config in list(configs.values()):
            subs = [getattr(config, name, None) for name in getattr(config, "sub_configs", {})]
            configs.update({id(c): c for c in subs if c is not None})
        name = "_attn_implementation_internal"
        self._implementations = [(c, getattr(c, name)) for c in configs.values() if hasattr(c, name)]
        model.eval()

    def restore(self) -> None:
        """Put everything back."""
        for module, training in self._training:
            module.training = training
        for config, implementation in self._implementations:
            config._attn_implementation_internal = implementation


def _register() -> None:
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import eager_mask

    AttentionInterface.register(IMPLEMENTATION, _attend)
    AttentionMaskInterface.register(IMPLEMENTATION, eager_mask)


def _attend(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **options: Any
) -> tuple[Tensor, Tensor | None]:
    """Compute attention by the modelling file's own eager function and show it to who listens to this module."""
    ear = _listeners.get(id(module))
    n_queries, n_keys = query.shape[2], key.shape[2]
    step = n_queries if ear is None else step_of(len(query), query.shape[1], n_queries, n_keys)

    def compute(rows: slice) -> tuple[Tensor, Tensor]:
        if rows == slice(0, n_queries):
            return eager(module, query, key, value, attention_mask, **options)
        part = {name: _rows_of(given, rows, n_queries, n_keys) for name, given in options.items()}
        mask = _rows_of(attention_mask, rows, n_queries, n_keys)
        return eager(module, query[:, :, rows], key, value, mask, **part)

    eager = _eager_function(module)
    chunks = _Chunks(compute, n_queries, step)
    if ear is None:
        return chunks.finish()
    scaling = options.get("scaling")
    call: dict[str, Any] = {
        "query": query,
        "key": key,
        "value": value,
        "mask": attention_mask,
        "scale": float(scaling if scaling is not None else getattr(module, "scaling", None) or query.shape[-1] ** -0.5),
        "bias": options.get("position_bias"),
        "softcap": options.get("softcap"),
        "sink": options.get("s_aux"),
    }
    if ear.unrotated:
        from qkspace.rotation import before_rotation

        call["before_rotation"] = before_rotation(query, key)
    number = ear.n_calls
    attention: Tensor | None = None
    if ear.how == "sdpa" and call["softcap"] is None and call["sink"] is None:
        output = _attend_fused(ear, module, call, step, options)
    else:
        ear.tell(ear.names[id(module)], chunks=chunks, **call)
        output, attention = chunks.finish()
    return (output if ear.edit is None else ear.edit(number, output)), attention


def _attend_fused(ear: _Ear, module: nn.Module, call: dict[str, Any], step: int, options: dict[str, Any]) -> Tensor:
    """Compute what the model goes on with by torch's fused kernel; show attention as the captured vectors make it."""
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    def compute(rows: slice) -> tuple[None, Tensor]:
        return None, weights(**{name: call[name] for name in ("query", "key", "scale", "mask", "bias")}, rows=rows)

    ear.tell(ear.names[id(module)], chunks=_Chunks(compute, call["query"].shape[2], step), **call)
    given = {**options, "is_causal": False}  # the mask says all
    output, _ = sdpa_attention_forward(module, call["query"], call["key"], call["value"], call["mask"], **given)
    return output


def weights(
    query: Tensor,
    key: Tensor,
    scale: float,
    *,
    mask: Tensor | None = None,
    bias: Tensor | None = None,
    softcap: float | None = None,
    sink: Tensor | None = None,
    rows: slice = slice(None),
) -> Tensor:
    """Return softmax(scale * query . key + ...) in float32, of some query tokens: (batch, head, query token, key token).

    Arguments as in `AttentionCall`. A query that may attend to nothing attends to nothing.
    """
    import torch

    n_queries, n_keys = query.shape[2], key.shape[2]
    asking = query[:, :, rows]
    grouped = asking.float().reshape(len(key), key.shape[1], -1, key.shape[3])  # heads that share keys lie together
    logit = (scale * grouped @ key.float().transpose(2, 3)).reshape(*asking.shape[:3], n_keys)
    if softcap is not None:
        logit = logit.div_(softcap).tanh_().mul_(softcap)
    added = _added(mask, bias, rows, n_queries, n_keys)
    nothing = None
    if added is not None:
        nothing = (added == -torch.inf).all(dim=-1, keepdim=True)
        logit = logit.add_(added.masked_fill(nothing, 0))
    if sink is not None:
        extra = sink.float().reshape(1, -1, 1, 1).expand(*logit.shape[:3], 1)
        return torch.softmax(torch.cat([logit, extra], dim=-1), dim=-1)[..., :-1]
    attention = torch.softmax(logit, dim=-1)
    return attention if nothing is None or not bool(nothing.any()) else attention.masked_fill(nothing, 0)


def _added(mask: Tensor | None, bias: Tensor | None, rows: slice, n_queries: int, n_keys: int) -> Tensor | None:
    """Return mask and bias of some query tokens together, in float32, -inf where a mask of booleans forbids."""
    import torch

    found = None
    for tensor in (bias, mask):
        part = _rows_of(tensor, rows, n_queries, n_keys)
        if part is not None:
            values = (
                torch.zeros(part.shape, device=part.device).masked_fill_(~part, -torch.inf)
                if part.dtype == torch.bool
                else part.float()
            )
            found = values if found is None else found + values
    return found


def _rows_of(given: Any, rows: slice, n_queries: int, n_keys: int) -> Any:
    """Return the part of a mask or bias (..., query token, key token) that is of some query tokens; anything else as it is."""
    shape = getattr(given, "shape", ())
    return given[..., rows, :] if len(shape) >= 2 and tuple(shape[-2:]) == (n_queries, n_keys) else given


def _eager_function(module: nn.Module) -> Callable[..., tuple[Tensor, Tensor]]:
    for kind in type(module).__mro__:  # a subclass may be of another file
        eager = getattr(sys.modules.get(kind.__module__), "eager_attention_forward", None)
        if eager is not None:
            return eager  # type: ignore[no-any-return]
    raise QKSpaceError(
        f"{type(module).__name__} uses the attention interface, but its file has no eager function to compute with."
    )


def forward(model: PreTrainedModel, batch: Mapping[str, Tensor], runner: str = "") -> Any:
    """Run one forward pass for its attention alone; no cache is kept where the model has one, and no gradients.

    runner: name of the part of the model that is run, "" for the whole.
    """
    import torch

    ear = _listeners.get(id(model))
    run = model.get_submodule(runner) if runner else model
    options: dict[str, Any] = {"use_cache": False} if takes_cache(run) else {}
    with suppress(_AllSeenError), ExitStack() as stack:
        stack.enter_context(torch.inference_mode())
        if ear is not None:
            ear.n_calls = 0
            if ear.route == "inline":
                from qkspace.inline import watching

                stack.enter_context(watching(model, ear.tell_inline, ear.edit))
        return run(**batch, **options)
    return None


def takes_cache(module: nn.Module) -> bool:
    """Tell whether a model keeps the keys of earlier tokens unless told not to."""
    config = getattr(module, "config", None)
    return any(getattr(c, "use_cache", False) for c in (config, _text_config(config)) if c is not None) and accepts(
        module, "use_cache"
    )


def _text_config(config: Any) -> Any:
    return config.get_text_config() if hasattr(config, "get_text_config") else None


def accepts(module: nn.Module, name: str) -> bool:
    """Tell whether the forward of a module takes an argument of this name."""
    import inspect

    parameters = inspect.signature(module.forward).parameters
    return name in parameters or any(p.kind is p.VAR_KEYWORD for p in parameters.values())
