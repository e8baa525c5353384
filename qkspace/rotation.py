"""Rotation: note queries and keys before rotary positions are turned into them.

In: a model whose modelling files have a function `apply_rotary_pos_emb`. Out: for the vectors of an attention, the same
before it. Knows neither masks nor listeners.

The function is looked up in its file at every call, so it is replaced there while anybody notes, and put back. What a
thread rotated last is kept in that thread alone.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor, nn

NAME = "apply_rotary_pos_emb"
_lock = threading.Lock()
_replaced: dict[str, tuple[Callable[..., Any], int]] = {}  # file -> (its own function, how many note)
_last = threading.local()


@contextmanager
def noting(model: nn.Module) -> Iterator[None]:
    """Note what the files of a model rotate while the context lasts."""
    files = {type(module).__module__ for module in model.modules()}
    found = [sys.modules[name] for name in sorted(files) if hasattr(sys.modules.get(name), NAME)]
    with _lock:
        for file in found:
            own, users = _replaced.get(file.__name__, (getattr(file, NAME), 0))
            _replaced[file.__name__] = own, users + 1
            setattr(file, NAME, _noting(own))
    try:
        yield
    finally:
        with _lock:
            for file in found:
                _release(file)
        _last.__dict__.clear()


def _release(file: ModuleType) -> None:
    own, users = _replaced[file.__name__]
    if users > 1:
        _replaced[file.__name__] = own, users - 1
    else:
        setattr(file, NAME, own)
        del _replaced[file.__name__]


def _noting(own: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(own)
    def rotate(query: Tensor, key: Tensor, *rest: Any, **options: Any) -> Any:
        rotated = own(query, key, *rest, **options)
        _last.rotated = (*rotated[:2], query, key)
        return rotated

    return rotate


def before_rotation(query: Tensor, key: Tensor) -> tuple[Tensor, Tensor] | None:
    """Return the vectors that were rotated into these in this thread; None where these did not come from a rotation."""
    rotated_query, rotated_key, plain_query, plain_key = getattr(_last, "rotated", (None,) * 4)
    if rotated_query is None or rotated_key is None or plain_query is None or plain_key is None:
        return None
    is_it = rotated_query.data_ptr() == query.data_ptr() and rotated_key.data_ptr() == key.data_ptr()
    same = rotated_query.shape == query.shape and rotated_key.shape == key.shape
    return (plain_query, plain_key) if is_it and same else None
