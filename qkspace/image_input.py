"""What a vision model reads: pictures of one size, as numbers, and the grid of patches that it cuts them into.

In: the name of a checkpoint, whose own preprocessing is used, and images as they were read. Out: an `ImageInput`, which
gives pictures as the model sees them and its `pixel_values`, and a `Grid`. Knows no tables and no attention.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from qkspace.image_corpus import MAX_PIXELS, ImageSequence, decode
from qkspace.model import _place, quiet
from qkspace.schema import QKSpaceError
from qkspace.weights import reason_of

if TYPE_CHECKING:
    from PIL.Image import Image

Pixels = NDArray[np.uint8]  # (row, column, red green blue)
_TOLERANCE = 1e-5  # between preprocessing in two steps, as here, and in one
_STEPS = ("do_resize", "size", "resample", "do_rescale", "rescale_factor", "do_normalize", "image_mean", "image_std")
_RESCALED_FIRST: dict[str, dict[str, Any]] = {
    # Pictures are resized as fractions, by torchvision alone. Pillow works in 8 bits, which differs by about one 255th.
    "DINOv3ViTImageProcessor": {
        "resample": 2,  # bilinear
        "image_mean": [0.485, 0.456, 0.406],
        "image_std": [0.229, 0.224, 0.225],
    }
}


# ---------------------------------------------------------------------------------------------- what the model reads


@dataclass(frozen=True, slots=True)
class ImageInput:
    """The checkpoint's own preprocessing, in two steps: to the picture that the model sees, and to numbers.

    processor: an image processor of transformers; height, width: of every picture, in pixels.
    """

    processor: Any
    height: int
    width: int

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of every picture."""
        return self.height, self.width

    def picture(self, image: ImageSequence) -> Pixels:
        """Return an image as the model sees it, resized and cropped but not normalised: (row, column, colour).

        Raises:
            QKSpaceError: it is no image that can be read, or so narrow that resizing it would fill the memory.
        """
        decoded = decode(image)
        short, long = sorted(decoded.size)
        if long / short * self.height * self.width > MAX_PIXELS:
            raise QKSpaceError(
                f"{image.source}: {decoded.width:,} x {decoded.height:,} pixels are too narrow a picture: resized so that the "
                f"short side fits {self.height} x {self.width}, it would fill the memory. Cut it or remove it."
            )
        return _seen(self.processor, decoded)[0]

    def pixel_values(self, pictures: Sequence[Pixels]) -> NDArray[np.float32]:
        """Return pictures as the numbers that the model computes with: (picture, colour, row, column)."""
        return _numbers(self.processor, pictures)

    def example(self, n: int = 1, seed: int = 0) -> NDArray[np.float32]:
        """Return the numbers of pictures of noise, to try the model with: (picture, colour, row, column)."""
        rng = np.random.default_rng(seed)
        return self.pixel_values(list(rng.integers(0, 256, size=(n, *self.size, 3), dtype=np.uint8)))


def load_image_input(name: str, *, revision: str | None = None, trust_remote_code: bool = False) -> ImageInput:
    """Load the preprocessing that comes with a checkpoint; Pillow does it, whatever else is installed.

    DINOv3's own resizes by torchvision before it rounds to 8 bits; here Pillow resizes, which differs by about one 255th.

    Args:
        name: folder of a checkpoint, or a name on the Hugging Face hub.
        revision: branch, tag or commit of a name on the hub.
        trust_remote_code: run preprocessing code that comes with the checkpoint.

    Raises:
        QKSpaceError: none comes with it, or one that does not bring every picture to one size.
    """
    place = _place(name, revision, trust_remote_code)
    try:
        with quiet():
            processor = _processor(place.where, place.options)
    except ImportError as error:
        raise QKSpaceError(
            f"--model {name}: its preprocessing of images needs a package that is not here ({reason_of(error)}). Install it, "
            "or state an image_processor_type that Pillow can do, such as ViTImageProcessor, in its preprocessor_config.json."
        ) from error
    except Exception as error:  # transformers lets everything through, down to what code of a checkpoint raises
        raise QKSpaceError(
            f"--model {name}: no preprocessing of images ({reason_of(error)}). A checkpoint of a vision model has a "
            "preprocessor_config.json with image_processor_type, size, image_mean and image_std: copy it from where the model "
            "was published, or write it with the save_pretrained of the image processor that the model was trained with."
        ) from error
    return ImageInput(processor, *_checked_size(name, processor))


def _processor(name: str, options: dict[str, Any]) -> Any:
    """Return the image processor that a checkpoint states."""
    from transformers import AutoImageProcessor, ViTImageProcessorPil
    from transformers.image_processing_base import ImageProcessingMixin

    stated, _ = ImageProcessingMixin.get_image_processor_dict(name, **options)
    kind = str(stated.get("image_processor_type")).removesuffix("Fast")
    if kind in _RESCALED_FIRST:
        return ViTImageProcessorPil(
            **{**_RESCALED_FIRST[kind], **{key: stated[key] for key in _STEPS if key in stated}}
        )
    return AutoImageProcessor.from_pretrained(name, backend="pil", **options)


def _checked_size(name: str, processor: Any) -> tuple[int, int]:
    """Return the height and width of every picture, having tried the two steps against the processor's own one."""
    from PIL import Image

    rng = np.random.default_rng(0)
    kind, found = type(processor).__name__, []
    for height, width in ((60, 40), (48, 110)):
        image = Image.fromarray(rng.integers(0, 256, size=(height, width, 3), dtype=np.uint8))
        try:
            own = processor(image, return_tensors="np", input_data_format="channels_last")
            seen = _seen(processor, image)
            error = np.abs(_numbers(processor, seen) - own["pixel_values"]).max() if _is_one_picture(own) else np.nan
        except Exception as problem:  # code of a hundred processors
            raise QKSpaceError(f"--model {name}: its {kind} fails on a picture ({reason_of(problem)}).") from problem
        if not _is_one_picture(own):
            given = ", ".join(f"{key} {np.shape(value)}" for key, value in own.items())
            raise QKSpaceError(
                f"--model {name}: its {kind} makes {given} of one picture, which is not one grid of pixels (1, 3, height, "
                "width): pictures are cut into tiles or keep their own shape, so that patches have no common place. Expected a "
                "model with one size of picture."
            )
        if not error <= _TOLERANCE:  # written so that nan is refused too
            raise QKSpaceError(
                f"--model {name}: what its {kind} shows the model is not a picture of 8 bits that is then scaled and "
                f"normalised (the two differ by up to {error:.2g}), so that it cannot be shown here. "
                "Expected the order resize, crop, rescale, normalise."
            )
        found.append(seen[0].shape[:2])
    if found[0] != found[1]:
        raise QKSpaceError(
            f"--model {name}: its {kind} makes pictures of different sizes ({found[0]} and {found[1]} pixels of two images), "
            "so that patches have no common place. Expected a fixed size: state size with height and width, or crop_size, in "
            "its preprocessor_config.json."
        )
    return found[0][0], found[0][1]


def _is_one_picture(output: Any) -> bool:
    values = np.asarray(output.get("pixel_values"))
    return values.ndim == 4 and values.shape[:2] == (1, 3)


def _seen(processor: Any, image: Image) -> list[Pixels]:
    """Resize and crop a picture: the first half of the processor."""
    first = processor(
        image, do_rescale=False, do_normalize=False, return_tensors="np", input_data_format="channels_last"
    )
    return [_pixels(values) for values in np.asarray(first["pixel_values"])]


def _pixels(values: NDArray[Any]) -> Pixels:
    """Return (colour, row, column) as (row, column, colour); what is not of 8 bits shows itself in the check above."""
    return np.ascontiguousarray(np.moveaxis(np.clip(values, 0, 255).astype(np.uint8), 0, -1))


def _numbers(processor: Any, pictures: Sequence[Pixels]) -> NDArray[np.float32]:
    """Rescale and normalise pictures: the second half of the processor."""
    off = {name: False for name in ("do_resize", "do_center_crop") if getattr(processor, name, None)}
    second = processor(list(pictures), **off, return_tensors="np", input_data_format="channels_last")
    return np.asarray(second["pixel_values"], dtype=np.float32)


# ---------------------------------------------------------------------------------------------- the grid of patches


@dataclass(frozen=True, slots=True)
class Grid:
    """How a model cuts a picture into patches: tokens are `prefix`, then the patches row by row.

    rows, columns: of patches; patch_height, patch_width: in pixels; prefix: names of the tokens before the patches.
    """

    rows: int
    columns: int
    patch_height: int
    patch_width: int
    prefix: tuple[str, ...] = ()

    @property
    def n_prefix(self) -> int:
        """Tokens before the patches."""
        return len(self.prefix)

    @property
    def n_tokens(self) -> int:
        """Tokens of a picture."""
        return self.n_prefix + self.rows * self.columns

    def names(self) -> list[str]:
        """Return what the tokens of a picture are called."""
        patches = [f"r{row}c{column}" for row in range(self.rows) for column in range(self.columns)]
        return [*self.prefix, *patches]

    def entry(self) -> dict[str, Any]:
        """Return what the manifest says of it."""
        patch = [self.patch_height, self.patch_width]
        return {"rows": self.rows, "columns": self.columns, "n_prefix": self.n_prefix, "patch": patch}


def patch_grid(config: Any, n_tokens: int, size: tuple[int, int]) -> Grid:
    """Return the grid of a model's patches.

    Args:
        config: configuration of the model, or of one with a vision tower.
        n_tokens: that the model's attention sees of one picture, known from a forward pass.
        size: height and width of the picture (`ImageInput.size`).

    Raises:
        QKSpaceError: the tokens are not known prefix tokens followed by one token a patch.
    """
    vision = getattr(config, "vision_config", None) or config
    kind = getattr(vision, "model_type", type(vision).__name__)
    patch = getattr(vision, "patch_size", None)
    height, width = patch if isinstance(patch, list | tuple) and len(patch) == 2 else (patch, patch)
    if not isinstance(height, int) or not isinstance(width, int) or min(height, width) < 1:
        raise QKSpaceError(
            f"The configuration of this {kind} states no patch_size (found {patch!r}), so that its tokens cannot be laid over "
            "the picture. Expected a model that cuts a picture into patches of one size, such as ViT, DINOv2, CLIP or SigLIP."
        )
    rows, columns = size[0] // height, size[1] // width
    prefix = _prefix(kind, vision, n_tokens - rows * columns)
    if prefix is None:
        raise QKSpaceError(
            f"This {kind} attends over {n_tokens} tokens where a picture of {size[0]} x {size[1]} pixels has "
            f"{rows} x {columns} patches of {height} x {width}. Expected one token a patch after [CLS], [DIST] or registers: "
            f"{_why_not(vision, n_tokens, rows * columns)}."
        )
    return Grid(rows, columns, height, width, prefix)


def window_grid(rows: int, columns: int, size: tuple[int, int]) -> Grid:
    """Return the grid of a stage of a model that attends within windows, whose tokens are patches and nothing else.

    Args:
        rows: of patches at that stage, known from a forward pass.
        columns: of patches.
        size: height and width of the picture.

    Raises:
        QKSpaceError: patches of one size do not fill the picture.
    """
    if size[0] % rows or size[1] % columns:
        raise QKSpaceError(
            f"This stage has {rows} x {columns} patches, which do not divide a picture of {size[0]} x {size[1]} pixels: those "
            "at its edges reach beyond it. Choose another stage with --attention, or a size in preprocessor_config.json that "
            "the patches divide."
        )
    return Grid(rows, columns, size[0] // rows, size[1] // columns)


def _prefix(kind: str, vision: Any, n_prefix: int) -> tuple[str, ...] | None:
    """Return the names of the tokens before the patches; None where so many are not known."""
    registers = getattr(vision, "num_register_tokens", None) or 0
    known = {(): 0, ("[CLS]",): 1, ("[CLS]", *["[REG]"] * registers): 1 + registers}
    if kind == "deit":
        known[("[CLS]", "[DIST]")] = 2
    return next((names for names, n in known.items() if n == n_prefix), None)


def _why_not(vision: Any, n_tokens: int, n_patches: int) -> str:
    """Return the likely reason why tokens are not patches."""
    if getattr(vision, "mask_ratio", None):
        return "this model leaves most patches out, as it was trained to fill them in"
    if getattr(vision, "window_size", None) or getattr(vision, "depths", None):
        return "this model attends within windows or on several scales"
    if n_tokens < n_patches:
        return "this model merges patches or attends to a part of them"
    return "this model adds other tokens"
