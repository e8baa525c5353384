"""Windows: attention within windows of a picture, put back together as attention over the whole picture.

In: an attention of a layer that cuts its picture into windows (Swin, Liu et al. 2021), and how it cuts. Out: the same
attention over all patches of each picture, row by row, where patches of unlike windows may not attend to each other.
Knows no files and no checkpoint.

Such a layer rolls the picture up and to the left by its shift, cuts it into squares and lets the patches of each attend to
each other, as many sequences beside each other. Patches that only the rolling brought together are told apart by a mask.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from qkspace.capture import AttentionCall, _Chunks, step_of
from qkspace.masks import FORM_TOLERANCE
from qkspace.schema import IntArray, QKSpaceError

if TYPE_CHECKING:
    from torch import Tensor, nn

ARGUMENT = "input_dimensions"  # rows and columns of patches, as the forward of such a layer is told them
_sizes: dict[int, tuple[int, int]] = {}  # id(layer) -> rows and columns in its last forward pass


@dataclass(frozen=True, slots=True)
class Windows:
    """How a layer cuts pictures of `rows` x `columns` patches into windows of `size` x `size`, rolled by `shift` before."""

    rows: int
    columns: int
    size: int
    shift: int

    @property
    def is_filled(self) -> bool:
        """Whether the patches fill the windows; else the layer adds empty ones."""
        return self.rows % self.size == 0 and self.columns % self.size == 0

    @property
    def patches(self) -> IntArray:
        """Number of the patch, row by row, at each place of each window: (window, place)."""
        numbers = np.arange(self.rows * self.columns).reshape(self.rows, self.columns)
        rolled = np.roll(numbers, (-self.shift, -self.shift), axis=(0, 1))
        cut = rolled.reshape(self.rows // self.size, self.size, self.columns // self.size, self.size)
        return cut.swapaxes(1, 2).reshape(-1, self.size**2)

    @property
    def sides(self) -> IntArray:
        """Which places of a window hold neighbours: those with one number: (window, place).

        Patches of the first rows and columns came to the last windows from the other side of the picture.
        """
        row, column = np.divmod(self.patches, self.columns)
        return np.asarray(2 * (row < self.shift) + (column < self.shift))

    def refuse_padding(self, module: str) -> None:
        """Raise where the layer fills its windows with empty patches, which answer and are no part of the picture."""
        if not self.is_filled:
            raise QKSpaceError(
                f"{module} attends within windows of {self.size} x {self.size} patches, and the {self.rows} x {self.columns} "
                "patches of a picture do not fill them: it adds empty patches that are attended to, so that a map of the "
                "picture would lack a part of its attention. Choose another stage with --attention, or a size of picture in "
                "preprocessor_config.json whose patches fill the windows."
            )


# ---------------------------------------------------------------------------------------------- which layers, and how


def has_windows(model: nn.Module) -> bool:
    """Tell whether layers of a model cut pictures into windows."""
    return any(map(_cuts, model.modules()))


def stages(model: nn.Module) -> list[str]:
    """Return the names of the stages of a model of windows, of which each has fewer patches than the one before."""
    sizes: list[Any] = [layer.input_resolution for layer in model.modules() if _cuts(layer)]
    n = sum(i == 0 or tuple(size) != tuple(sizes[i - 1]) for i, size in enumerate(sizes))
    return [f"stage{number}" for number in range(n)] if n > 1 else []


def _cuts(module: nn.Module) -> bool:
    names = ("window_size", "shift_size", "input_resolution")
    return all(hasattr(module, name) for name in names) and ARGUMENT in inspect.signature(module.forward).parameters


@contextmanager
def noting(model: nn.Module) -> Iterator[Callable[[str], Windows | None]]:
    """Note how the layers of a model cut pictures while the context lasts; gives what tells it of a module inside them."""
    layers: dict[str, Any] = {name: module for name, module in model.named_modules() if _cuts(module)}
    handles = [layer.register_forward_pre_hook(_note, with_kwargs=True) for layer in layers.values()]

    def windows_of(module: str) -> Windows | None:
        pieces = module.split(".")
        inside = (layers.get(".".join(pieces[:n])) for n in range(len(pieces), 0, -1))
        layer = next((layer for layer in inside if layer is not None), None) if layers else None
        if layer is None or id(layer) not in _sizes:
            return None
        return Windows(*_sizes[id(layer)], int(layer.window_size), int(layer.shift_size))

    try:
        yield windows_of
    finally:
        for handle in handles:
            handle.remove()
        for layer in layers.values():
            _sizes.pop(id(layer), None)


def _note(layer: nn.Module, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
    given = named.get(ARGUMENT, arguments[1] if len(arguments) > 1 else None)
    if given is not None:
        _sizes[id(layer)] = int(given[0]), int(given[1])


# ---------------------------------------------------------------------------------------------- put together


def whole(call: AttentionCall) -> AttentionCall:
    """Return an attention within windows as that over whole pictures; any other as it is.

    Its tokens are the patches row by row. What is added to the logits is -inf between patches that do not see each other,
    also where the model adds a large negative number; attention is put together some query tokens at a time.

    Raises:
        QKSpaceError: the patches do not fill the windows.
    """
    import torch

    windows = call.windows
    if windows is None:
        return call
    windows.refuse_padding(call.module)
    patches = torch.from_numpy(windows.patches).to(call.query.device)
    _refuse_unlike(call, patches)
    n = patches.numel()
    added = _added(call, windows, patches)
    cut: list[Tensor] = []

    def compute(rows: slice) -> tuple[None, Tensor]:
        if not cut:
            cut.append(call.attention)
        return None, _spread(cut[0], patches, rows)

    rotated = call.before_rotation
    step = step_of(len(call.query) // len(patches), call.query.shape[1], n, n)
    return replace(
        call,
        query=_together(call.query, patches),
        key=_together(call.key, patches),
        value=None if call.value is None else _together(call.value, patches),
        before_rotation=None if rotated is None else (_together(rotated[0], patches), _together(rotated[1], patches)),
        mask=added,
        bias=None,
        chunks=_Chunks(compute, n, step),
        windows=None,
        fixed=len(added) == 1,
    )


def whole_attention(attention: Tensor, windows: Windows | None) -> Tensor:
    """Return weights within windows (picture x window, head, place, place) as those over whole pictures, 0 between windows."""
    import torch

    if windows is None:
        return attention
    patches = torch.from_numpy(windows.patches).to(attention.device)
    return _spread(attention, patches, slice(0, patches.numel()))


def _refuse_unlike(call: AttentionCall, patches: Tensor) -> None:
    n_windows, area = patches.shape
    if len(call.query) % n_windows or call.query.shape[2] != area or call.key.shape[2] != area:
        raise QKSpaceError(
            f"{call.module} attends over {call.query.shape[2]} tokens in {len(call.query)} sequences, where {n_windows} "
            f"windows of {area} patches a picture were expected, so that its attention cannot be laid over the picture."
        )


def _cut(tensor: Tensor, n_windows: int) -> Tensor:
    """Return (picture x window, ...) as (picture, window, ...)."""
    return tensor.reshape(-1, n_windows, *tensor.shape[1:])


def _together(vectors: Tensor, patches: Tensor) -> Tensor:
    """Return vectors (picture x window, head, place, d) patch by patch: (picture, head, patch, d)."""
    flat = _cut(vectors, len(patches)).transpose(1, 2).flatten(2, 3)  # (picture, head, window x place, d)
    together: Tensor = flat[:, :, patches.flatten().argsort()]
    return together


def _added(call: AttentionCall, windows: Windows, patches: Tensor) -> Tensor:
    """Return what is added to the logits over whole pictures, float32: (picture or 1, head or 1, patch, patch).

    The largest value of a row is 0.
    """
    import torch

    (n_windows, area), n = patches.shape, patches.numel()
    total = torch.zeros(1, 1, 1, 1, device=call.query.device)
    for tensor in (call.mask, call.bias):
        if tensor is not None:
            each = tensor.reshape((1,) * (4 - tensor.dim()) + tuple(tensor.shape))
            is_mask = each.dtype == torch.bool
            total = total + (total.new_zeros(each.shape).masked_fill(~each, -torch.inf) if is_mask else each.float())
    total = _cut(total.expand(len(total) if len(total) > 1 else n_windows, -1, area, area), n_windows)
    side = torch.from_numpy(windows.sides).to(total.device)
    apart = side[:, :, None] != side[:, None, :]  # (window, place, place)
    total = total.transpose(1, 2).masked_fill(apart, -torch.inf)  # (picture or 1, head or 1, window, place, place)
    total = total - total.amax(dim=-1, keepdim=True)
    tolerance = FORM_TOLERANCE.get(str(call.query.dtype), FORM_TOLERANCE["torch.float32"])
    if torch.allclose(total, total[:1].expand_as(total), rtol=0, atol=tolerance):  # the same for every picture
        total = total[:1]
    added = total.new_full((*total.shape[:2], n, n), -torch.inf)
    added[:, :, patches[:, :, None], patches[:, None, :]] = total
    return added


def _spread(attention: Tensor, patches: Tensor, rows: slice) -> Tensor:
    """Return attention within windows over all patches, of the query patches of some rows: (picture, head, query, patch)."""
    n_windows, area = patches.shape
    at = patches.flatten().argsort()[rows]  # window x place of each query patch
    window, place = at // area, at % area
    weight = _cut(attention, n_windows)[:, window, :, place].permute(1, 2, 0, 3)  # (picture, head, query patch, place)
    out: Tensor = weight.new_zeros((*weight.shape[:3], patches.numel()))
    return out.scatter_(3, patches[window].expand(weight.shape), weight)
