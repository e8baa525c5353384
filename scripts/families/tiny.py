"""Tiny: a model of any model type of transformers with random weights, small enough for a test, and inputs to run it on.

In: a model type. Out: a `TinyModel`, or a `NotMade` with the reason. Knows no capture.
"""

from __future__ import annotations

import re
import warnings
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves
from transformers import CONFIG_MAPPING, AutoModel, PreTrainedConfig
from transformers.models.auto.modeling_auto import MODEL_MAPPING_NAMES

from . import exceptions, special_inputs
from .inputs import Inputs, arguments, candidates, find
from .shrink import divide_rotary, shrink

LARGEST = 30_000_000  # parameters
GAIN = 2.0  # of every linear map: logits of a scaled product then spread by about GAIN^2


class NotMade(Exception):
    """A model could not be made or run; says why."""


@dataclass(frozen=True, slots=True)
class TinyModel:
    """A small model with random weights that has run once on `inputs`."""

    model_type: str
    model: Any
    inputs: dict[str, Tensor]
    modality: str
    n_parameters: int


def model_types() -> list[str]:
    """Return every model type that AutoModel knows."""
    return sorted(MODEL_MAPPING_NAMES)


def left_out() -> dict[str, str]:
    """Return the model types that have a configuration, but no class that AutoModel knows, each with the reason."""
    return {name: _why_left_out(name) for name in sorted(CONFIG_MAPPING) if name not in MODEL_MAPPING_NAMES}


def _why_left_out(name: str) -> str:
    parts = ("_text", "_vision", "_audio", "_encoder", "_decoder", "_model", "qformer", "perceiver", "head", "vqgan")
    if any(part in name for part in parts):
        return "a part of another model type, which has it inside; no AutoModel class of its own"
    return "no AutoModel class: only with a task's head, or put together from two models"


def make(model_type: str, seed: int = 0) -> TinyModel:
    """Make a small model with random weights and find inputs that it runs on.

    Raises:
        NotMade: no small configuration of it could be built, or no inputs were found; says what the last attempt died of.
    """
    reasons: list[str] = []
    attempts: list[tuple[int | None, bool, list[int] | None]] = [
        (32, True, None),
        (None, True, None),
        (None, False, None),
        (64, True, None),
    ]
    while attempts:
        image_size, widths, sections = attempts.pop(0)
        try:
            model = build(model_type, seed, image_size, widths, sections)
            inputs = _find_inputs(model, model_type, seed)
        except NotMade as error:
            reasons.append(str(error))
            wrong = _SECTIONS.search(str(error))
            if wrong and sections is None:
                attempts.insert(0, (image_size, widths, _sections(int(wrong[1]), wrong[2].count(",") + 1)))
            continue
        return TinyModel(model_type, model, inputs, modality(inputs), sum(p.numel() for p in model.parameters()))
    raise NotMade(reasons[0])


_SECTIONS = re.compile(r"split_sizes to sum exactly to (\d+).*split_sizes=\[([\d, ]+)\]")


def _sections(total: int, n: int) -> list[int]:
    return [total - (n - 1) * (total // n), *[total // n] * (n - 1)]


def build(
    model_type: str, seed: int = 0, image_size: int | None = 32, widths: bool = True, sections: list[int] | None = None
) -> Any:
    """Make the model alone, in evaluation mode, with weights drawn wide enough that attention is far from uniform."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        config = shrink(CONFIG_MAPPING[model_type](), image_size, widths)
        if sections:
            divide_rotary(config, sections)
        if model_type in exceptions.CONFIG:
            exceptions.CONFIG[model_type](config)
        n = _n_parameters(config)
        if n > LARGEST:
            raise NotMade(f"still {n / 1e6:.0f} million parameters when small")
        torch.manual_seed(seed)
        try:
            model = AutoModel.from_config(config, dtype=torch.float32, attn_implementation="eager")
        except Exception as error:
            raise NotMade(f"building: {short(error)}") from error
    draw_weights(model, seed)
    return model.eval()


def short(error: BaseException) -> str:
    """Return the first line of an error with its kind, at most 240 characters."""
    lines = [line for line in str(error).strip().splitlines() if line.strip()] or [""]
    text = re.sub(r"'?/[^ ']*/site-packages/([^ ']*)'?", r"\1", " ".join(lines[:2]))  # no path of this machine
    return f"{type(error).__name__}: {text}"[:240]


def _n_parameters(config: PreTrainedConfig) -> int:
    """Return the number of parameters without making them."""
    try:
        with torch.device("meta"):
            model = AutoModel.from_config(config, attn_implementation="eager")
    except Exception:  # some models cannot be built without numbers; then the worker's memory bound holds
        return 0
    return sum(p.numel() for p in model.parameters())


@torch.no_grad()
def draw_weights(model: nn.Module, seed: int) -> None:
    """Draw weights anew: linear maps with GAIN, tables of numbers about as large as what they are added to."""
    generator = torch.Generator().manual_seed(seed + 1)
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            spread = _spread(module, name, parameter)
            if spread is not None:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * spread)


def _spread(module: nn.Module, name: str, parameter: Tensor) -> float | None:
    """Return the standard deviation to draw a parameter with, or None where it stays as the model set it."""
    if not parameter.is_floating_point() or not parameter.numel():
        return None
    if isinstance(module, nn.Embedding):
        return 0.7
    if parameter.ndim == 1:
        return 0.1 if name.endswith("bias") else 1.0 if "sink" in name else None
    if name in ("weight", "in_proj_weight") and parameter.ndim in (2, 3, 4, 5):
        return GAIN / float(parameter[0].numel()) ** 0.5
    if parameter.ndim == 3 and parameter.shape[0] > 1:
        return GAIN / float(parameter.shape[1]) ** 0.5
    return 0.3 if parameter.numel() > 1 and float(parameter.std()) < 0.05 else None


def _find_inputs(model: Any, model_type: str, seed: int) -> Inputs:
    """Return the first candidate that the model runs on."""
    generator = torch.Generator().manual_seed(seed + 2)
    if model_type in special_inputs.INPUTS:
        try:
            return _run(model, special_inputs.INPUTS[model_type](model, generator))
        except Exception as error:
            raise NotMade(f"running: {short(error)}") from error
    first = None
    for candidate in candidates(model, generator):
        try:
            return _run(model, candidate)
        except Exception as error:
            first = first or f"{', '.join(candidate)}: {short(error)}"
    raise NotMade(
        f"running: {first or 'no inputs for ' + ', '.join(n for n, must in arguments(model).items() if must)}"
    )


def run(model: Any, inputs: Inputs) -> Any:
    """Run a model once, without a cache and without gradients."""
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        no_cache = "use_cache" in arguments(model)
        return model(**inputs, use_cache=False) if no_cache else model(**inputs)


_COUNTS = re.compile(r"tokens\D*(\d+)\D+features\D*(\d+)", re.IGNORECASE)


def _run(model: Any, inputs: Inputs) -> Inputs:
    """Run a model, putting in as many placeholders for pictures and sounds as it says that it has features."""
    for _ in range(4):
        try:
            output = run(model, inputs)
        except Exception as error:
            again = _with_placeholders(model, inputs, str(error))
            if again is None:
                raise
            inputs = again
        else:
            if _has_nan(output):
                raise NotMade("running: its output holds nan")
            return inputs
    raise NotMade("running: placeholders and features never agree")


def _has_nan(output: Any) -> bool:
    return any(bool(t.isnan().any()) for t in tree_leaves(output) if isinstance(t, Tensor) and t.is_floating_point())


def _with_placeholders(model: Any, inputs: Inputs, message: str) -> Inputs | None:
    counts = _COUNTS.search(message)
    if counts is None or "input_ids" not in inputs:
        return None
    kind = next((k for k in ("video", "audio", "image") if k in message.lower()), "image")
    token = find(model.config, f"{kind}_token_id") or find(model.config, f"{kind}_token_index")
    n = int(counts[2])
    if token is None or n > 300:
        return None
    words, seen = inputs["input_ids"], inputs["attention_mask"]
    each = [n // 2, n - n // 2] if "grid" not in " ".join(inputs) else [n // 3, n - n // 3]
    rows = []
    for row, kept, count in zip(words, seen, each, strict=True):
        plain = row[kept.bool() & (row != token)]
        rows.append(torch.cat([plain[:2], torch.full((count,), token), plain[2:]]))
    longest = max(map(len, rows))
    padded = torch.stack([nn.functional.pad(row, (0, longest - len(row))) for row in rows])
    lengths = torch.tensor([len(row) for row in rows])
    found = {**inputs, "input_ids": padded, "attention_mask": (torch.arange(longest) < lengths[:, None]).long()}
    for name in ("mm_token_type_ids", "token_type_ids"):
        if name in arguments(model):
            found[name] = (padded == token).long() * (2 if kind == "video" else 1)
    return found


def modality(inputs: Inputs) -> str:
    """Name what a model takes, by the names of its inputs."""
    kinds = {
        kind for name in inputs for part, kind in _KINDS.items() if part in name and not name.startswith("decoder")
    }
    if len(kinds) > 1:
        return "multimodal"
    return kinds.pop() if kinds else "other"


_KINDS = {
    "videos": "video", "pixel_values": "image", "grid": "image", "input_ids": "text", "input_values": "audio",
    "input_features": "audio", "audio": "audio", "past_values": "time series",
}  # fmt: skip
