"""Inputs: guess what the forward pass of a model wants, from the names of its arguments and its configuration.

In: a model. Out: candidates of inputs, the richest first: a batch of two, of unlike length and padded on the right where the
modality has lengths. Knows no families.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig

LENGTHS, TARGET_LENGTHS = (14, 10), (9, 6)
Inputs = dict[str, Any]


def find(config: PreTrainedConfig, name: str, default: Any = None) -> Any:
    """Return a field of a configuration or of the parts that it is composed of."""
    value = getattr(config, name, None)
    if value is not None:
        return value
    for part in vars(config).values():
        if isinstance(part, PreTrainedConfig):
            value = find(part, name)
            if value is not None:
                return value
    return default


def arguments(model: nn.Module) -> dict[str, bool]:
    """Return the names of the arguments of `forward`, and whether each must be given."""
    signature = inspect.signature(model.forward).parameters
    return {name: p.default is p.empty for name, p in signature.items() if p.kind == p.POSITIONAL_OR_KEYWORD}


def candidates(model: Any, generator: torch.Generator) -> Iterator[Inputs]:
    """Yield what may be an input of a model, the richest first."""
    names = arguments(model)
    config = model.config
    words = text(names, generator)
    n_words = min(find(config, "vocab_size", 120), 120)
    if words and n_words < 95:
        words["input_ids"] = words["input_ids"] % (n_words - 4)
    pictures, sounds = list(images(names, config, generator)), list(audio(names, config, generator))
    series = time_series(names, config, generator)
    if series:
        yield series
    main = getattr(model, "main_input_name", "input_ids")
    if words and main == "input_ids":
        for picture in pictures:
            for sound in sounds or [{}]:
                yield {**words, **picture, **sound}
        yield from ({**words, **sound} for sound in sounds)
        yield words
    for picture in pictures:
        yield from ({**decoder(names, generator), **picture, **sound} for sound in [{}, *sounds])
        yield {**words, **picture}
    for sound in sounds:
        yield {**decoder(names, generator), **sound}
        yield {**words, **sound}
    if words:
        yield words


def mask(lengths: tuple[int, ...]) -> Tensor:
    """Return 1 where a sequence has a token and 0 where it is padded, (sequence, token)."""
    return (torch.arange(max(lengths))[None, :] < torch.tensor(lengths)[:, None]).long()


def ids(lengths: tuple[int, ...], generator: torch.Generator, name: str = "") -> Tensor:
    """Return numbers of ordinary tokens, padded by 0, (sequence, token)."""
    numbers = torch.randint(10, 90, (len(lengths), max(lengths)), generator=generator)
    return numbers * mask(lengths)


def text(names: dict[str, bool], generator: torch.Generator) -> Inputs:
    """Return words, where `forward` takes any."""
    if "input_ids" not in names:
        return {}
    found: Inputs = {"input_ids": ids(LENGTHS, generator)}
    if "attention_mask" in names:
        found["attention_mask"] = mask(LENGTHS)
    if "bbox" in names:
        corner = torch.randint(0, 100, (2, max(LENGTHS), 2), generator=generator)
        found["bbox"] = torch.cat([corner, corner + torch.randint(1, 50, corner.shape, generator=generator)], dim=-1)
    if "qformer_input_ids" in names:
        found.update(qformer_input_ids=ids((8, 6), generator), qformer_attention_mask=mask((8, 6)))
    return {**found, **decoder(names, generator)}


def decoder(names: dict[str, bool], generator: torch.Generator) -> Inputs:
    """Return the words that a decoder is given, where there is one."""
    found: Inputs = {}
    if "decoder_input_ids" in names:
        found["decoder_input_ids"] = ids(TARGET_LENGTHS, generator)
        if "decoder_attention_mask" in names:
            found["decoder_attention_mask"] = mask(TARGET_LENGTHS)
    return found


def _normal(*shape: int, generator: torch.Generator) -> Tensor:
    return torch.randn(shape, generator=generator)


def _edge(config: PreTrainedConfig) -> int:
    size = find(config, "image_size") or find(config, "img_size") or 64
    return int(size[0] if isinstance(size, (list, tuple)) else size if isinstance(size, int) else 64)


def images(names: dict[str, bool], config: PreTrainedConfig, generator: torch.Generator) -> Iterator[Inputs]:
    """Yield pictures in the shapes that models take them."""
    channels = find(config, "num_channels") or find(config, "in_channels") or 3
    channels = channels if isinstance(channels, int) else 3
    grids = [n for n in ("image_grid_thw", "grid_thw") if n in names]
    pixels = next((n for n in ("pixel_values", "image_pixel_values", "image", "hidden_states") if n in names), None)
    if grids and pixels:
        yield from _packed(pixels, grids[0], config, channels, generator, names)
    edge = _edge(config)
    if pixels in ("pixel_values", "image", "image_pixel_values"):
        if "target_sizes" in names:
            yield {
                pixels: _normal(2, channels, edge, edge, generator=generator),
                "target_sizes": torch.tensor([[4, 4]] * 2),
            }
        for shape in ((2, channels, edge, edge), (2, 1, channels, edge, edge), (2, 2, channels, edge, edge)):
            found: Inputs = {pixels: _normal(*shape, generator=generator)}
            if "image_sizes" in names:
                found["image_sizes"] = torch.tensor([[edge, edge]] * 2)
            yield found
            if "image_sizes" in names:
                yield {pixels: found[pixels]}
            if "spatial_shapes" in names or "pixel_position_ids" in names or "image_position_ids" in names:
                yield from _patches(pixels, names, config, channels, generator)
        for wide in (64, 128, 224):
            if wide != edge:
                yield {pixels: _normal(2, channels, wide, wide, generator=generator)}
    yield from _videos(pixels, names, config, channels, generator)


def _videos(
    pixels: str | None, names: dict[str, bool], config: PreTrainedConfig, channels: int, generator: torch.Generator
) -> Iterator[Inputs]:
    edge, n_frames = _edge(config), find(config, "num_frames")
    if names.get("pixel_values_videos", pixels is None and "pixel_values_videos" in names):
        n = n_frames or find(config, "frames_per_clip") or 4
        n = n if isinstance(n, int) else 4
        yield {"pixel_values_videos": _normal(2, n, channels, edge, edge, generator=generator)}
    if pixels == "pixel_values" and isinstance(n_frames, int):
        yield {pixels: _normal(2, n_frames, channels, edge, edge, generator=generator)}


def _packed(
    pixels: str, grid: str, config: PreTrainedConfig, channels: int, generator: torch.Generator, names: dict[str, bool]
) -> Iterator[Inputs]:
    """Yield two pictures of unlike size as rows of patches, as Qwen2-VL takes them."""
    patch = find(config, "patch_size") or 8
    patch = patch if isinstance(patch, int) else 8
    times = find(config, "temporal_patch_size")
    sizes = torch.tensor([[1, 4, 4], [1, 4, 8]])
    n = int(sizes.prod(dim=1).sum())
    for width in dict.fromkeys((channels * (times or 1) * patch**2, channels * 2 * patch**2, channels * patch**2)):
        base: Inputs = {pixels: _normal(n, width, generator=generator), grid: sizes}
        if "merge_sizes" in names or "image_merge_sizes" in names:
            base["merge_sizes" if "merge_sizes" in names else "image_merge_sizes"] = torch.tensor([2, 2])
        yield base
    yield {pixels: _normal(n, channels, patch, patch, generator=generator), grid: sizes}
    hidden = find(config, "hidden_size") or 64
    yield {pixels: _normal(n, hidden, generator=generator), grid: sizes}


def _patches(
    pixels: str, names: dict[str, bool], config: PreTrainedConfig, channels: int, generator: torch.Generator
) -> Iterator[Inputs]:
    """Yield two pictures of unlike size as padded rows of patches, as SigLIP 2 takes them."""
    patch = find(config, "patch_size") or 8
    sizes = torch.tensor([[4, 4], [2, 4]])
    seen = mask((16, 8))
    found: Inputs = {pixels: _normal(2, 16, channels * patch**2, generator=generator)}
    if "spatial_shapes" in names:
        found["spatial_shapes"] = sizes
    for name in ("pixel_position_ids", "image_position_ids"):
        if name in names:
            places = torch.stack(torch.meshgrid(torch.arange(4), torch.arange(4), indexing="xy"), dim=-1).reshape(
                1, 16, 2
            )
            found[name] = torch.where(seen[:, :, None].bool(), places, torch.tensor(-1))
    if "pixel_attention_mask" in names:
        found["pixel_attention_mask"] = seen
    yield found


def audio(names: dict[str, bool], config: PreTrainedConfig, generator: torch.Generator) -> Iterator[Inputs]:
    """Yield sounds: waves, or features frame by frame in either order."""
    if "input_values" in names or "audio_values" in names:
        name = "input_values" if "input_values" in names else "audio_values"
        kept = next((n for n in ("attention_mask", "padding_mask") if n in names and "input_ids" not in names), None)
        for n in (4800, 16000):  # 4800: a multiple of the frames of most
            for shape in ((2, n), (2, 1, n)):
                found: Inputs = {name: _normal(*shape, generator=generator)}
                if kept and len(shape) == 2:
                    yield {**found, kept: mask((n, int(n * 0.7)))}
                yield found
        bins = find(config, "num_mel_bins") or 80
        length = find(config, "max_length") or 128
        yield {name: _normal(2, length, bins, generator=generator)}
    if "input_features" in names or "audio_input_features" in names or "audio_mel" in names:
        yield from _frames(names, config, generator)


def _frames(names: dict[str, bool], config: PreTrainedConfig, generator: torch.Generator) -> Iterator[Inputs]:
    name = next(n for n in ("input_features", "audio_input_features", "audio_mel") if n in names)
    sizes = (
        "num_mel_bins",
        "feature_projection_input_dim",
        "input_feat_per_channel",
        "input_feat_size",
        "input_dim",
        "input_size",
    )
    bins = next((v for v in (find(config, size) for size in sizes) if isinstance(v, int)), 80)
    length = 2 * (find(config, "max_source_positions") or 32)
    masks = [
        n for n in ("input_features_mask", "audio_mel_mask", "feature_attention_mask", "attention_mask") if n in names
    ]
    masks = [n for n in masks if n != "attention_mask" or "input_ids" not in names]
    for width in dict.fromkeys((bins, 128, 80, 160)):
        for shape in ((2, width, length), (2, length, width), (2, 1, length, width), (2, width, 3000)):
            for kept in [*masks[:1], None]:
                found: Inputs = {name: _normal(*shape, generator=generator)}
                if kept:
                    n = length if shape[-1] != 3000 else 3000
                    found[kept] = (
                        mask((n, int(n * 0.7))).bool() if kept == "audio_mel_mask" else mask((n, int(n * 0.7)))
                    )
                yield found


def time_series(names: dict[str, bool], config: PreTrainedConfig, generator: torch.Generator) -> Inputs:
    """Return series of numbers, where `forward` takes any."""
    if "past_values" not in names:
        return {}
    length = getattr(config, "context_length", None) or 64
    if "past_time_features" in names:
        before = length + max(config.lags_sequence)
        after = config.prediction_length
        n_features = max(getattr(config, "num_time_features", 0), 1)
        return {
            "past_values": _normal(2, before, generator=generator),
            "past_time_features": _normal(2, before, n_features, generator=generator),
            "past_observed_mask": torch.ones(2, before),
            "future_values": _normal(2, after, generator=generator),
            "future_time_features": _normal(2, after, n_features, generator=generator),
        }
    if "past_values_padding" in names:
        found: Inputs = {"past_values": _normal(2, 64, generator=generator), "past_values_padding": torch.zeros(2, 64)}
        return {**found, "freq": torch.zeros(2, 1, dtype=torch.long)} if "freq" in names else found
    channels = getattr(config, "num_input_channels", 1)
    return {"past_values": _normal(2, length, channels, generator=generator)}
