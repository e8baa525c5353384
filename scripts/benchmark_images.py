"""Head samples of a vision model for `benchmark_fidelity.py`.

In: a folder with a ViT of transformers. Out: the queries and keys of its heads over images to fit maps on and over others
to score them on: crops of scikit-learn's two photographs, and drawn patterns (`make_images.py`). Knows no maps.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from make_images import Image, checkerboard, crop, gradient, sinusoid

from qkspace.capture import AttentionCall, forward, listening
from qkspace.schema import HeadSample, LayerSpec, QKSpaceError

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

Layers = list[list[HeadSample]]  # (layer)(head)

CROPS = 9  # of each photograph, to fit on and again to score on
DRAWN = 2  # of each pattern, likewise
N_CHECKED = 4  # images whose attention is compared with the model's own
TOLERANCE = 1e-4


def read_samples(folder: Path) -> tuple[Layers, Layers]:
    """Return the heads of a model over the images to fit on, and over those to score on."""
    import torch
    from sklearn.datasets import load_sample_images
    from transformers import AutoModelForImageClassification

    model = AutoModelForImageClassification.from_pretrained(folder, attn_implementation="eager")
    config = json.loads((folder / "preprocessor_config.json").read_text())
    parts = make_images([photograph.astype(np.float32) / 255 for photograph in load_sample_images().images])
    normalised = ((np.stack(part) - config["image_mean"]) / config["image_std"] for part in parts)
    fit, held_out = (capture(model, torch.tensor(part).float().permute(0, 3, 1, 2)) for part in normalised)
    return fit, held_out


def make_images(photographs: Sequence[Image], seed: int = 0) -> tuple[list[Image], list[Image]]:
    """Make images to fit on, cut from the left halves of photographs, and to score on, from the right halves."""
    rng = np.random.default_rng(seed)
    halves = [np.split(photograph, [photograph.shape[1] // 2], axis=1) for photograph in photographs]
    fit, held_out = (
        [crop(part, rng) for part in parts for _ in range(CROPS)]
        + [draw(rng) for draw in (gradient, sinusoid, checkerboard) for _ in range(DRAWN)]
        for parts in zip(*halves, strict=True)
    )
    return fit, held_out


def capture(model: PreTrainedModel, images: Tensor) -> Layers:
    """Capture the queries and keys of all heads; an image is a sequence, whose first token, [CLS], is not content.

    Raises:
        QKSpaceError: the attention of the captured vectors is not the model's own.
    """
    layers: Layers = []

    def keep(call: AttentionCall) -> None:
        n_images, n_heads, length, d_head = call.query.shape
        spec = LayerSpec(call.module, n_heads, call.key.shape[1], d_head, call.scale, causal=False, window=None)
        starts = np.arange(n_images + 1, dtype=np.int64) * length
        is_content = np.tile(np.arange(length) > 0, n_images)
        query, key = (t.transpose(0, 1).reshape(n_heads, -1, d_head).numpy() for t in (call.query, call.key))
        layers.append([HeadSample(q, k, starts, is_content, spec) for q, k in zip(query, key, strict=True)])

    with listening(model, keep):
        forward(model, {"pixel_values": images})
    compare(model, images[:N_CHECKED], layers)
    return layers


def compare(model: PreTrainedModel, images: Tensor, layers: Layers) -> None:
    """Raise QKSpaceError where softmax(scale * query . key) of the first images is not the model's own eager attention."""
    import torch

    with torch.inference_mode():
        attentions = model(pixel_values=images, output_attentions=True).attentions
    error = []
    for own, heads in zip(attentions, layers, strict=True):  # own: (image, head, query token, key token)
        for head, sample in enumerate(heads):
            for image, (first, last) in enumerate(zip(sample.starts, sample.starts[1 : len(images) + 1], strict=False)):
                logit = sample.layer.scale * sample.query[first:last] @ sample.key[first:last].T
                attention = torch.softmax(torch.from_numpy(logit), dim=-1)
                error.append((attention - own[image, head]).abs().max().item())
    if not np.max(error) <= TOLERANCE:  # written so that nan is refused too
        raise QKSpaceError(
            f"{type(model).__name__}: attention recomputed from query . key differs from the model's own by up to "
            f"{np.max(error):.2g} (allowed: {TOLERANCE:g}). Scores of such vectors would say nothing about the model."
        )


def cls_share(sample: HeadSample) -> float:
    """Return the share of queries that attend most to [CLS]: the recall1 of a map that always answers so."""
    queries, keys = (np.split(vectors, sample.starts[1:-1]) for vectors in (sample.query, sample.key))
    return float(np.mean([(query @ key.T).argmax(axis=1) == 0 for query, key in zip(queries, keys, strict=True)]))
