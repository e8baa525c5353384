"""Look for what AttentionViz reports of vision transformers in a model, head by head, with numbers (docs/vision.md).

    python scripts/vision_findings.py ../shared/models/deit-tiny --json out/vision.json

Made images (`make_images.py`) of two seeds: the best heads for each behaviour are chosen on the first, and their numbers
are those of the second, with 95 % intervals by a bootstrap over images. Prints tables, writes the numbers of all heads.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import make_images
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from qkspace.bootstrap import Float64Array, draw, interval
from qkspace.capture import AttentionCall, forward, listening
from qkspace.image_corpus import read_images
from qkspace.image_input import Grid, load_image_input, patch_grid
from qkspace.images import ImageFeed, Pictures, PictureWriter, image_chunks
from qkspace.tokenise import TokeniseCounts

if TYPE_CHECKING:
    from transformers import PreTrainedModel

SEEDS = {"chosen": 0, "reported": 1}
EACH = 24  # images of each label and seed
BATCH = 16
NEIGHBOURS = 10  # nearest vectors of other images, by which a head's space is asked what it is ordered by
SHOWN = 3  # heads of each behaviour
CIRCULAR = ("hue", "angle")
PLACES = ("self", "neighbours", "row", "column")
PHOTOGRAPHS = "photographs"  # the labels of make_images.PHOTOGRAPHS together
ORDERS = {  # images -> what the vectors over them may be ordered by
    "hue": ("hue", "row", "column"),
    "brightness": ("brightness", "row", "column"),
    "sinusoid": ("frequency", "angle", "row", "column"),
}


class Number(NamedTuple):
    """A mean over images with the ends of its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Captured:
    """The heads of a model over some images, all of one length.

    query, key: layer -> (image, head, token, d_head) in float16; scale: layer -> factor of the logit; patches: one row a
    patch, image by image (columns of `qkspace.images`); labels, frequency, angle: (image); error: the largest difference of
    the attention of the stored vectors from the model's own.
    """

    query: list[NDArray[np.float16]]
    key: list[NDArray[np.float16]]
    scale: list[float]
    patches: pd.DataFrame
    labels: NDArray[np.str_]
    frequency: Float64Array
    angle: Float64Array
    grid: Grid
    error: float

    def attention(self, layer: int, head: int, images: NDArray[np.bool_] | None = None) -> Float64Array:
        """Return the attention of a head over some images: (image, query token, key token)."""
        chosen = slice(None) if images is None else images
        query, key = (vectors[layer][chosen, head].astype(np.float32) for vectors in (self.query, self.key))
        return softmax(self.scale[layer] * query @ key.transpose(0, 2, 1)).astype(np.float64)

    def of(self, label: str) -> NDArray[np.bool_]:
        """Return which images have a label: (image)."""
        return np.isin(self.labels, make_images.PHOTOGRAPHS if label == PHOTOGRAPHS else [label])

    def column(self, name: str) -> Float64Array:
        """Return a column of the patches: (image, patch)."""
        return self.patches[name].to_numpy(dtype=float).reshape(len(self.labels), -1)


def main() -> None:
    """Measure every head on the images of both seeds, print the best ones, write all."""
    parser = argparse.ArgumentParser(description="Look for AttentionViz's findings of vision transformers.")
    parser.add_argument("model", type=Path, help="folder of a vision model of transformers")
    parser.add_argument("--each", type=int, default=EACH, help=f"images of each label and seed (default: {EACH})")
    parser.add_argument("--json", type=Path, help="where the numbers of all heads are written")
    arguments = parser.parse_args()
    results: dict[str, dict[str, dict[str, Number]]] = {}
    with tempfile.TemporaryDirectory() as work:
        for name, seed in SEEDS.items():
            folder = Path(work) / name
            make_images.write(folder / "images", arguments.each, seed)
            captured = capture(arguments.model, folder)
            print(
                f"{name} on seed {seed}: {len(captured.labels)} images; error of recomputed attention {captured.error:.1g}"
            )
            results[name] = {head: measure(captured, *place) for head, place in heads_of(captured)}
    weights = weight_correlations(arguments.model)
    print_tables(results["chosen"], results["reported"], weights)
    if arguments.json:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        record = {"each": arguments.each, "seeds": SEEDS, "heads": results, "query_key_weights": weights}
        arguments.json.write_text(json.dumps(record, indent=1) + "\n")
        print(f"\n{arguments.json}: the numbers of all heads")


# ---------------------------------------------------------------------------------------------- capture


def capture(model_folder: Path, folder: Path) -> Captured:
    """Run the images of folder/images through a model and keep queries and keys."""
    import torch

    model = load_model(model_folder)
    image_input = load_image_input(str(model_folder))
    layers: list[dict[str, list[Any]]] = []
    errors = [0.0]

    def keep(call: AttentionCall) -> None:
        if call.index == len(layers):
            layers.append({"query": [], "key": [], "scale": [call.scale]})
        layer = layers[call.index]
        layer["query"].append(call.query.numpy().astype(np.float16))
        layer["key"].append(call.key.numpy().astype(np.float16))
        if len(layer["query"]) == 2:  # of the first images; the batch before was noise, to count the tokens
            query, key = (layer[name][1].astype(np.float32) for name in ("query", "key"))
            own = call.attention.numpy()
            errors.append(float(np.abs(softmax(call.scale * query @ key.swapaxes(2, 3)) - own).max()))

    with listening(model, keep), PictureWriter(folder) as writer:
        forward(model, {"pixel_values": torch.from_numpy(image_input.example())})
        grid = patch_grid(model.config, layers[0]["query"][0].shape[2], image_input.size)
        tables = []
        for chunk in image_chunks(read_images(folder / "images"), image_input, grid, counts=TokeniseCounts()):
            writer.add(chunk.pictures)
            tables.append(chunk.tokens.to_pandas())
    pictures = Pictures(folder)
    feed = ImageFeed(pictures, image_input, torch.float32)
    with listening(model, keep):
        for first in range(0, len(pictures), BATCH):
            forward(model, feed.batch(np.arange(first, min(first + BATCH, len(pictures))), torch.device("cpu")))
    tokens = pd.concat(tables, ignore_index=True)
    waves = np.asarray([wave_of(pictures.picture(number)) for number in range(len(pictures))])
    return Captured(
        *([np.concatenate(layer[name][1:]) for layer in layers] for name in ("query", "key")),
        scale=[layer["scale"][0] for layer in layers],
        patches=tokens[~tokens["is_special"]],
        labels=tokens.loc[tokens["position"] == 0, "label"].to_numpy(dtype=str),
        frequency=waves[:, 0],
        angle=waves[:, 1],
        grid=grid,
        error=max(errors),
    )


def load_model(folder: Path) -> PreTrainedModel:
    """Load a model in float32, without the remarks on a classifier that is left out."""
    from transformers import AutoModel
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    return AutoModel.from_pretrained(folder).eval()


def softmax(logit: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the softmax over the last axis."""
    exponential = np.exp(logit - logit.max(axis=-1, keepdims=True))
    return np.asarray(exponential / exponential.sum(axis=-1, keepdims=True))


def wave_of(picture: NDArray[np.uint8]) -> tuple[float, float]:
    """Return the frequency (log of waves a picture) and the angle (radians, of a line: half a circle) of its strongest wave."""
    grey = picture.mean(axis=2)
    window = np.hanning(len(grey))[:, None] * np.hanning(grey.shape[1])
    power = np.abs(np.fft.fft2((grey - grey.mean()) * window, s=(512, 512)))[:, :256]
    power[0, 0] = 0
    row, column = np.unravel_index(power.argmax(), power.shape)
    row = row - 512 if row > 256 else row
    return float(np.log(np.hypot(row, column) * len(grey) / 512 + 1e-9)), float(np.arctan2(row, column))


def heads_of(captured: Captured) -> Iterator[tuple[str, tuple[int, int]]]:
    """Yield the name of each head with its place."""
    for layer, query in enumerate(captured.query):
        for head in range(query.shape[1]):
            yield f"L{layer}H{head}", (layer, head)


# ---------------------------------------------------------------------------------------------- measures


def measure(captured: Captured, layer: int, head: int) -> dict[str, Number]:
    """Return every number of a head."""
    found = place_shares(captured.attention(layer, head), captured.grid)
    for name in ("hue", "brightness"):
        for label in (name, PHOTOGRAPHS):
            images = captured.of(label)
            attention = captured.attention(layer, head, images)
            gains = colour_choice(name, attention, captured.column(name)[images], captured.grid.n_prefix)
            found |= {f"{name} {kind} in {label}": number for kind, number in gains.items()}
    for label, names in ORDERS.items():
        found |= {
            f"{name} order in {label}": n for name, n in space_orders(captured, layer, head, label, names).items()
        }
    return found


def place_shares(attention: Float64Array, grid: Grid) -> dict[str, Number]:
    """Return where patches attend to: [CLS] as a share of all attention, places as shares of what goes to patches.

    attention: (image, query token, key token). neighbours are the 8 around, row and column begin 2 patches away.
    """
    n = grid.n_prefix
    to_patches = attention[:, n:, n:]
    total = to_patches.sum(axis=2)
    found = {"[CLS]": over_images(1 - total.mean(axis=1))}
    for name, mask in place_masks(grid).items():
        share = (to_patches * mask).sum(axis=2) / total
        found[name] = over_images(share.mean(axis=1))
        found[f"{name} on equal attention"] = Number(*[float(mask.mean())] * 3)
    return found


def place_masks(grid: Grid) -> dict[str, NDArray[np.bool_]]:
    """Return which keys are where, seen from each query: (query patch, key patch)."""
    place = np.arange(grid.rows * grid.columns)
    rows = np.abs(place[:, None] // grid.columns - place // grid.columns)
    columns = np.abs(place[:, None] % grid.columns - place % grid.columns)
    return {
        "self": (rows == 0) & (columns == 0),
        "neighbours": np.maximum(rows, columns) == 1,
        "row": (rows == 0) & (columns >= 2),
        "column": (columns == 0) & (rows >= 2),
    }


def colour_choice(name: str, attention: Float64Array, values: Float64Array, n_prefix: int) -> dict[str, Number]:
    """Return how unlike in colour a query and the patches it attends to are, beside what their places alone would give.

    The expectation is the mean attention of the same head between the same two places in the other images, so that a
    head that attends to what is near, or to the edge, gains nothing by it. The query's own patch is left out. The gain is the
    share by which the difference is smaller than expected: 0 is a choice by place alone, 1 a choice of the same colour.
    """
    weight = attention[:, n_prefix:, n_prefix:].copy()
    weight[:, np.eye(weight.shape[1], dtype=bool)] = 0
    weight /= weight.sum(axis=2, keepdims=True)
    expected = (weight.sum(axis=0) - weight) / (len(weight) - 1)
    difference = unlikeness(name, values)
    known = ~np.isnan(difference)
    difference = np.nan_to_num(difference)
    with np.errstate(invalid="ignore"):  # a grey patch, or one with no key of known hue, says nothing
        actual, placed = ((w * difference).sum(axis=2) / (w * known).sum(axis=2) for w in (weight, expected))
    sums = np.stack([np.nansum(actual, axis=1), np.nansum(placed, axis=1), (~np.isnan(actual)).sum(axis=1)], axis=1)
    return {
        "difference": over_sums(sums, lambda s: s[..., 0] / s[..., 2]),
        "expected": over_sums(sums, lambda s: s[..., 1] / s[..., 2]),
        "gain": over_sums(sums, lambda s: 1 - s[..., 0] / s[..., 1]),
    }


def unlikeness(name: str, values: Float64Array) -> Float64Array:
    """Return how unlike patches of one image are: (image, patch, patch); hue in degrees, at most 180."""
    difference = np.abs(values[:, :, None] - values[:, None, :])
    return np.minimum(difference, 360 - difference) if name == "hue" else difference


def space_orders(captured: Captured, layer: int, head: int, label: str, names: Sequence[str]) -> dict[str, Number]:
    """Return how well values of a patch are told by the nearest patches of other images in the head's space.

    Neighbours are sought among keys for a key and among queries for a query, by the angle between vectors around their
    mean. For hue and angle: mean cosine of the difference from the neighbours, less what patches drawn at random would give.
    Otherwise: correlation of the value with the neighbours' mean. 0 is no order, 1 a perfect one.
    """
    images = captured.of(label)
    number = np.repeat(np.arange(images.sum()), captured.grid.rows * captured.grid.columns)
    near = []
    for vectors in (captured.query[layer], captured.key[layer]):
        content = vectors[images, head, captured.grid.n_prefix :].reshape(len(number), -1).astype(np.float32)
        near.append(nearest_elsewhere(content, number))
    found = {}
    for name in names:
        values = values_of(captured, images, name)
        sums = np.sum([order_sums(name, values, each, number) for each in near], axis=0)
        found[name] = over_sums(sums, alignment if name in CIRCULAR else correlation)
    return found


def values_of(captured: Captured, images: NDArray[np.bool_], name: str) -> Float64Array:
    """Return a value of every patch of some images, circular ones in radians: (image x patch)."""
    if name in ("frequency", "angle"):
        of_image = captured.frequency if name == "frequency" else 2 * captured.angle  # a line turned by 180 is the same
        return np.repeat(of_image[images], captured.grid.rows * captured.grid.columns)
    values = captured.column(name)[images].ravel()
    return np.radians(values) if name == "hue" else values


def nearest_elsewhere(vectors: NDArray[np.float32], image: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the nearest vectors that are of other images: (vector, neighbour)."""
    unit = vectors - vectors.mean(axis=0)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    near = np.empty((len(unit), NEIGHBOURS), dtype=np.int64)
    for each in np.unique(image):
        own = image == each
        likeness = unit[own] @ unit.T
        likeness[:, own] = -np.inf
        near[own] = np.argpartition(-likeness, NEIGHBOURS, axis=1)[:, :NEIGHBOURS]
    return near


def order_sums(name: str, values: Float64Array, near: NDArray[np.int64], image: NDArray[np.int64]) -> Float64Array:
    """Return what the order is made from, summed over the patches of each image: (image, part)."""
    known = ~np.isnan(values)
    if name in CIRCULAR:
        likeness = np.nan_to_num(np.nanmean(np.cos(values[:, None] - values[near]), axis=1))
        columns = [known, likeness, np.cos(values), np.sin(values), known, known, known]
    else:
        told = values[near].mean(axis=1)
        columns = [known, values, told, values**2, told**2, values * told, known]
    per_patch = np.stack([np.where(known, column, 0) for column in columns], axis=1)
    return np.stack([per_patch[image == each].sum(axis=0) for each in np.unique(image)])


def alignment(s: Float64Array) -> Float64Array:
    """Return the mean cosine of differences, less that of random pairs, from sums: n, cosine, and the values' own two."""
    return np.asarray(s[..., 1] / s[..., 0] - (s[..., 2] ** 2 + s[..., 3] ** 2) / s[..., 0] ** 2)


def correlation(s: Float64Array) -> Float64Array:
    """Return the correlation from sums: n, x, y, x squared, y squared, x y."""
    n, x, y, xx, yy, xy = (s[..., i] for i in range(6))
    spread = (n * xx - x**2) * (n * yy - y**2)
    known = spread > 0  # a resample may hold one image alone
    return np.asarray(np.where(known, n * xy - x * y, np.nan) / np.sqrt(np.where(known, spread, 1)))


def over_images(values: Float64Array) -> Number:
    """Return the mean of a value of each image with its interval."""
    return over_sums(np.stack([values, np.ones(len(values))], axis=1), lambda s: s[..., 0] / s[..., 1])


def over_sums(sums: Float64Array, statistic: Callable[[Float64Array], Float64Array]) -> Number:
    """Return a statistic of the sums of all images with its interval."""
    value = float(statistic(sums.sum(axis=0)))
    return Number(value, *interval(sums, statistic, draw(len(sums), seed=0)))


def weight_correlations(model_folder: Path) -> dict[str, float]:
    """Return the correlation of the query weights of each head with its key weights, where they are plain matrices."""
    model = load_model(model_folder)
    matrices = {name: value.detach().numpy() for name, value in model.named_parameters() if value.ndim == 2}
    pairs = [
        (matrices[name], matrices[name.replace(query, key)])
        for name in matrices
        for query, key in (("query", "key"), ("q_proj", "k_proj"))
        if query in name and name.replace(query, key) in matrices
    ]
    n_heads = model.config.num_attention_heads
    return {
        f"L{layer}H{head}": float(np.corrcoef(query.ravel(), key.ravel())[0, 1])
        for layer, pair in enumerate(pairs)
        for head, (query, key) in enumerate(zip(*(np.split(matrix, n_heads) for matrix in pair), strict=True))
    }


# ---------------------------------------------------------------------------------------------- tables


Heads = Mapping[str, Mapping[str, Number]]


def print_tables(chosen: Heads, reported: Heads, weights: Mapping[str, float]) -> None:
    """Print, for each behaviour, the heads that show it most on the images that they were chosen on."""
    print_places(chosen, reported, weights)
    print_colours(chosen, reported)
    print_orders(chosen, reported)


def print_places(chosen: Heads, reported: Heads, weights: Mapping[str, float]) -> None:
    """Print the heads that attend most to each place, and most to [CLS]."""
    title("Where patches attend to", "place", "head", "share", "on equal attention", "to [CLS]", "W_Q with W_K")
    for name in PLACES:
        for head in best(chosen, name):
            found, own = reported[head], weights.get(head, float("nan"))
            equal, special = found[f"{name} on equal attention"].value, found["[CLS]"].value
            row(name, head, shown(found[name]), f"{equal:.3f}", f"{special:.2f}", f"{own:+.2f}")
    title("[CLS]", "head", "share of all attention of patches")
    for head in best(chosen, "[CLS]"):
        row(head, shown(reported[head]["[CLS]"]))


def print_colours(chosen: Heads, reported: Heads) -> None:
    """Print the heads that choose most by hue and by brightness."""
    title("Whom patches choose by colour", "colour", "head", "difference", "expected", "gain", "gain in photographs")
    for name in ("hue", "brightness"):
        for head in best(chosen, f"{name} gain in {name}"):
            found, digits = reported[head], 1 if name == "hue" else 3
            means = (f"{found[f'{name} {kind} in {name}'].value:.{digits}f}" for kind in ("difference", "expected"))
            row(name, head, *means, *(shown(found[f"{name} gain in {label}"]) for label in (name, PHOTOGRAPHS)))


def print_orders(chosen: Heads, reported: Heads) -> None:
    """Print the heads whose space is ordered most by each value."""
    title("What the space of a head is ordered by", "value", "head", "order", "of rows", "of columns", "median head")
    for label, names in ORDERS.items():
        for name in names if label == "sinusoid" else names[:1]:
            key = f"{name} order in {label}"
            median = np.median([found[key].value for found in reported.values()])
            for head in best(chosen, key):
                places = (f"{reported[head][f'{kind} order in {label}'].value:.2f}" for kind in ("row", "column"))
                row(name, head, shown(reported[head][key]), *places, f"{median:.2f}")
    title("Rows without columns, and the other way round", "by", "head", "order of rows", "order of columns")
    for name, other in (("row", "column"), ("column", "row")):
        by = {
            h: f[f"{name} order in sinusoid"].value - f[f"{other} order in sinusoid"].value for h, f in chosen.items()
        }
        for head in sorted(by, key=lambda head: -by[head])[:SHOWN]:
            row(name, head, *(shown(reported[head][f"{kind} order in sinusoid"]) for kind in ("row", "column")))


def best(heads: Heads, name: str) -> list[str]:
    """Return the heads with the largest numbers."""
    return sorted(heads, key=lambda head: -heads[head][name].value)[:SHOWN]


def title(text: str, *columns: str) -> None:
    """Print the head of a table."""
    print(f"\n{text}\n")
    row(*columns)
    row(*["---"] * len(columns))


def row(*cells: str) -> None:
    """Print a row of a table."""
    print("| " + " | ".join(cells) + " |")


def shown(number: Number) -> str:
    """Return a number with its interval."""
    return f"{number.value:.3f} ({number.low:.3f} to {number.high:.3f})"


if __name__ == "__main__":
    main()
