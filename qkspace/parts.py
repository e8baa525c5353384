"""Parts: which attentions of a model belong together, and which part of the model has to run for them.

In: a model, and the attentions of one forward pass. Out: named parts, each an ordered choice of the attentions. An index
holds one part. Knows no corpora.

    self                          a model with one tower
    encoder, decoder, cross       an encoder-decoder: cross has queries of the target and keys of the source
    text, vision, audio           a model with several towers
    stage0, stage1, ...           a tower whose tokens become fewer from stage to stage
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from qkspace.schema import QKSpaceError
from qkspace.windows import stages

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel

    from qkspace.capture import AttentionCall

CROSS = re.compile(r"cross|enc_?dec|encoder_attn|encoder_decoder|encdec|multihead_attn|src_attn", re.IGNORECASE)
TOWERS = (
    ("vision", re.compile(r"vision|visual|image|pixel|vit\b|patch", re.IGNORECASE)),
    ("audio", re.compile(r"audio|speech|acoustic|wav|sound", re.IGNORECASE)),
    ("text", re.compile(r"text|language|lm\b|bert|question|caption", re.IGNORECASE)),
)


@dataclass(frozen=True, slots=True)
class Part:
    """Some attentions of a model.

    runner: name of the module that is run, "" for the whole model; calls: which attentions of its forward pass.
    """

    name: str
    runner: str
    calls: tuple[int, ...]


def is_pair(model: PreTrainedModel) -> bool:
    """Tell whether a model reads a source and writes a target."""
    return bool(getattr(model.config, "is_encoder_decoder", False))


def parts_of(model: PreTrainedModel, calls: Sequence[AttentionCall], runner: str = "") -> list[Part]:
    """Sort the attentions of a forward pass into parts, each in the order of the pass.

    A source and a target of unlike length tell self-attention from cross-attention; where they are as long as each other,
    the modules' names do.
    """
    groups: dict[str, list[AttentionCall]] = {}
    for call in calls:
        groups.setdefault(_name(model, call), []).append(call)
    parts = []
    for name, members in groups.items():
        stages = _stages(members)
        for number, stage in enumerate(stages):
            named = name if len(stages) == 1 else f"stage{number}" if name == "self" else f"{name}-stage{number}"
            parts.append(Part(named, runner, tuple(call.index for call in stage)))
    return parts


def _name(model: PreTrainedModel, call: AttentionCall) -> str:
    n_queries, n_keys = call.query.shape[2], call.key.shape[2]
    crosses = n_queries != n_keys or bool(CROSS.search(call.module))
    if is_pair(model):
        encoder = encoder_name(model)
        if encoder and (call.module == encoder or call.module.startswith(f"{encoder}.")):
            return "encoder"
        return "cross" if crosses else "decoder"
    tower = tower_of(model, call.module)
    return f"{tower}-cross" if crosses and tower != "self" else "cross" if crosses else tower


def _stages(calls: list[AttentionCall]) -> list[list[AttentionCall]]:
    """Cut attentions where the number of tokens changes."""
    stages: list[list[AttentionCall]] = []
    for call in calls:
        shape = (len(call.query), call.query.shape[2])
        if not stages or (len(stages[-1][0].query), stages[-1][0].query.shape[2]) != shape:
            stages.append([])
        stages[-1].append(call)
    return stages


def encoder_name(model: PreTrainedModel) -> str:
    """Return the name of the module that is a model's encoder, "" where there is none."""
    find = getattr(model, "get_encoder", None)
    encoder = find() if find is not None else None
    return next((name for name, module in model.named_modules() if module is encoder and name), "")


def tower_of(model: PreTrainedModel, module: str) -> str:
    """Return which tower of a model a module is of: "self" where there is one only."""
    subs = [name for name in getattr(model.config, "sub_configs", {}) if getattr(model.config, name, None) is not None]
    if len(subs) < 2:
        return "self"
    first = module.split(".")[:2]
    for piece in first:
        for name, pattern in TOWERS:
            if pattern.search(piece):
                return name
    return "self"


def runner_of(model: PreTrainedModel, part: str) -> str:
    """Return the name of the module that has to run for a part: an encoder or a tower runs alone.

    Raises:
        QKSpaceError: the model has no such part.
    """
    if part == "encoder" and is_pair(model):
        name = encoder_name(model)
        if name:
            return name
    if part in ("text", "vision", "audio"):
        for name, module in model.named_children():
            if _is_tower(module) and tower_of(model, name) == part:
                return name
        raise QKSpaceError(f"{type(model).__name__} has no tower for {part}. Its parts: {', '.join(choices(model))}.")
    return ""


def choices(model: PreTrainedModel) -> list[str]:
    """Return what `--attention` may be for a model."""
    if is_pair(model):
        return ["encoder", "decoder", "cross"]
    towers = [tower_of(model, name) for name, module in model.named_children() if _is_tower(module)]
    named = list(dict.fromkeys(tower for tower in towers if tower != "self"))
    is_all = hasattr(model.config, "window_size")  # and not a backbone that other attention follows
    return named or (stages(model) if is_all else []) or ["self"]


def _is_tower(module: nn.Module) -> bool:
    return any(hasattr(part, "softmax") or "ttention" in type(part).__name__ for part in module.modules())
