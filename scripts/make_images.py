"""Write images to look at attention with: a folder and a seed in, PNG files in folders whose names are labels out.

    python scripts/make_images.py OUT --each 12

hue and brightness: one of the two changes along a direction, the rest of the colour is the same all over the image;
gradient: hue along one direction, brightness along another; sinusoid: waves between two colours; checkerboard: squares of
two colours; china and flower: crops of scikit-learn's two photographs. The same seed gives the same pixels.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.float32]  # (row, column, red green blue), 0 to 1
SIDE = 224  # of an image, in pixels
SMALLEST_CROP = 112  # enlarged to SIDE
EACH = 12  # images of each label
PHOTOGRAPHS = ("china", "flower")


def main() -> None:
    """Write the images."""
    parser = argparse.ArgumentParser(description="Write drawn images and crops of photographs, in folders by label.")
    parser.add_argument("out", type=Path, help="the folder; images of the same names in it are written over")
    parser.add_argument("--each", type=int, default=EACH, help=f"images of each label (default: {EACH})")
    parser.add_argument("--seed", type=int, default=0, help="the random seed (default: 0)")
    arguments = parser.parse_args()
    write(arguments.out, arguments.each, arguments.seed)
    print(f"{arguments.out}: {arguments.each} images of each of {', '.join(labels())}")


def labels() -> dict[str, Callable[[np.random.Generator], Image]]:
    """Return how an image of each label is made."""
    from sklearn.datasets import load_sample_image

    def crops_of(name: str) -> Callable[[np.random.Generator], Image]:
        photograph = load_sample_image(f"{name}.jpg").astype(np.float32) / 255
        return lambda rng: crop(photograph, rng)

    drawn = {
        "hue": hue_gradient,
        "brightness": brightness_gradient,
        "gradient": gradient,
        "sinusoid": sinusoid,
        "checkerboard": checkerboard,
    }
    return drawn | {name: crops_of(name) for name in PHOTOGRAPHS}


def write(out: Path, each: int = EACH, seed: int = 0) -> None:
    """Write so many images of each label, in a folder of its name."""
    from PIL import Image as Picture

    for number, (label, make) in enumerate(labels().items()):
        (out / label).mkdir(parents=True, exist_ok=True)
        for image in range(each):
            pixels = make(np.random.default_rng((seed, number, image)))  # more images leave the first ones as they are
            Picture.fromarray(np.round(pixels * 255).astype(np.uint8)).save(out / label / f"{label}-{image:03d}.png")


def crop(photograph: Image, rng: np.random.Generator) -> Image:
    """Cut a square of random size and place, and bring it to SIDE by bicubic interpolation, as the model expects."""
    import torch

    height, width = photograph.shape[:2]
    side = int(rng.integers(SMALLEST_CROP, min(height, width) + 1))
    top, left = rng.integers(0, (height - side + 1, width - side + 1))
    cut = torch.tensor(photograph[top : top + side, left : left + side]).permute(2, 0, 1)[None]
    resized = torch.nn.functional.interpolate(cut, size=(SIDE, SIDE), mode="bicubic", antialias=True)
    return np.asarray(resized[0].permute(1, 2, 0).clamp(0, 1))


def hue_gradient(rng: np.random.Generator) -> Image:
    """Draw hue that changes along a random direction, over most of the circle, in one saturation and brightness."""
    return coloured((rng.random() + 0.45 * slope(rng)) % 1, rng.uniform(0.6, 1), rng.uniform(0.6, 1))


def brightness_gradient(rng: np.random.Generator) -> Image:
    """Draw brightness that changes along a random direction, in one hue and saturation."""
    return coloured(rng.random(), rng.uniform(0, 1), 0.525 + 0.475 * slope(rng))


def gradient(rng: np.random.Generator) -> Image:
    """Draw hue that changes along one direction and brightness that changes along another."""
    return coloured((rng.random() + slope(rng)) % 1, 1.0, 0.5 + 0.5 * slope(rng))


def sinusoid(rng: np.random.Generator) -> Image:
    """Draw up to 20 waves between two colours."""
    return mixed(0.5 + 0.5 * np.sin(np.pi * (rng.uniform(2, 20) * slope(rng) + 2 * rng.random())), rng)


def checkerboard(rng: np.random.Generator) -> Image:
    """Draw squares of 8 to 64 pixels in two colours, shifted at random."""
    square = int(rng.integers(8, 65))
    row, column = (np.arange(SIDE) + rng.integers(0, 2 * square, size=(2, 1))) // square
    return mixed((row[:, None] + column) % 2, rng)


def slope(rng: np.random.Generator) -> NDArray[np.float64]:
    """Return a plane that rises in a random direction, from -1 to 1 at most: (row, column)."""
    angle, along = rng.uniform(0, 2 * np.pi), np.linspace(-1, 1, SIDE) / np.sqrt(2)
    return np.asarray(np.cos(angle) * along + np.sin(angle) * along[:, None])


def coloured(hue: float | NDArray[np.float64], saturation: float, brightness: float | NDArray[np.float64]) -> Image:
    """Return an image of these colours, each from 0 to 1 and of one value or one for every pixel."""
    from matplotlib.colors import hsv_to_rgb

    channels = np.broadcast_arrays(hue, saturation, brightness, np.empty((SIDE, SIDE)))[:3]
    return np.asarray(hsv_to_rgb(np.stack(channels, axis=2)), dtype=np.float32)


def mixed(share: NDArray[np.generic], rng: np.random.Generator) -> Image:
    """Mix two random colours."""
    first, second = rng.random((2, 3))
    return np.asarray(first + share[..., None] * (second - first), dtype=np.float32)


if __name__ == "__main__":
    main()
