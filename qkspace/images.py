"""Turn images into tables that say what each patch is, and into batches for a vision model.

In: `ImageSequence` (`qkspace.image_corpus`), the model's `ImageInput` and `Grid` (`qkspace.image_input`). Out: chunks of
whole images, as `qkspace.tokenise` makes them of texts, and their pictures, which a build keeps in one file of its work
folder, feeds to the model from there and writes into the index. Knows no attention.

A build of images, in order:

    images = load_image_input(model)                             # ImageInput, from preprocessor_config.json
    grid = patch_grid(config, n_tokens, images.size)             # n_tokens: one forward pass of images.example()
    chunks = image_chunks(sequences, images, grid, counts=counts)  # what tokenise() is to texts
    with PictureWriter(work / "corpus") as pictures:             # beside the ids and the tables of each chunk:
        pictures.add(chunk.pictures)
    feed = ImageFeed(Pictures(work / "corpus"), images, dtype)   # .batch(sequences, device) -> {"pixel_values": ...}
    write_pictures(work / "corpus", root, is_stored)             # images.parquet
    manifest["image"] = grid.entry()
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from qkspace.image_corpus import ImageSequence
from qkspace.image_input import Grid, ImageInput, Pixels
from qkspace.schema import BoolArray, FloatArray, IntArray, QKSpaceError, TextSequence
from qkspace.store import replacing, write_array
from qkspace.tables import metadata_columns, typed_column
from qkspace.tokenise import TokeniseCounts, TokenisedChunk

if TYPE_CHECKING:
    import pyarrow as pa
    import torch
    from torch import Tensor

PATCH_COLUMNS = ("row", "column", "red", "green", "blue", "hue", "saturation", "brightness")
KINDS = ("special", "patch")
GREY = 0.05  # saturation of a colour below which its hue says nothing
PICTURES, PICTURE_STARTS = (
    "pictures",
    "pictures.npy",
)  # in the work folder: PNG files laid end to end, and where they start
_CHUNK_PIXELS = 2**23  # of the pictures of a chunk, which bounds the memory
_CHUNK_IMAGES = 64


# ---------------------------------------------------------------------------------------------- the tables


@dataclass(frozen=True, slots=True)
class ImageChunk(TokenisedChunk):
    """Some whole images laid end to end, and their pictures as the model sees them: PNG files, one an image."""

    pictures: tuple[bytes, ...]


def image_chunks(
    sequences: Iterable[ImageSequence], image_input: ImageInput, grid: Grid, *, counts: TokeniseCounts
) -> Iterator[ImageChunk]:
    """Yield the patches of images in chunks of at most 64 images, in the form that `tokenise` gives tokens.

    Of a patch: `row` and `column` in the grid, from 0 at the top left; `red`, `green`, `blue` its mean colour in the picture
    as the model sees it, 0 to 255; `hue` (degrees, null where the saturation is below 0.05), `saturation` and `brightness`
    (0 to 1) of that mean colour in HSV. All are null for the tokens before the patches. `token_id` is the number of the
    patch, or -1. A column of metadata with one of these names is stored as `corpus_<name>`.

    Args:
        sequences: the corpus; it is read as chunks are asked for.
        image_input: the model's preprocessing.
        grid: how the model cuts a picture.
        counts: what became of the images is added here.

    Raises:
        QKSpaceError: an image cannot be read; the message names it.
    """
    per_chunk = max(1, min(_CHUNK_IMAGES, _CHUNK_PIXELS // (image_input.height * image_input.width)))
    first, images = 0, iter(sequences)
    while batch := list(islice(images, per_chunk)):
        pictures = np.stack([image_input.picture(image) for image in batch])
        counts.n_sequences += len(batch)
        counts.n_tokens += len(batch) * grid.n_tokens
        yield _chunk(batch, pictures, grid, first, counts.renamed)
        first += len(batch)


def _chunk(
    batch: Sequence[ImageSequence], pictures: Pixels, grid: Grid, first: int, renamed: dict[str, str]
) -> ImageChunk:
    """Return the tables of some pictures (picture, row, column, colour), which are numbered from `first`."""
    import pyarrow as pa

    n, length = len(batch), grid.n_tokens
    number = np.arange(first, first + n, dtype=np.int32)
    picture = np.repeat(np.arange(n), length)
    place = np.tile(np.arange(length, dtype=np.int32), n)  # of a token in its picture
    special = place < grid.n_prefix
    names, kind = pa.array(grid.names()), pa.array((~special).astype(np.int8))
    token = pa.DictionaryArray.from_arrays(pa.array(place), names)
    zeros = np.zeros(n * length, dtype=np.int32)
    ids = np.where(special, -1, place - grid.n_prefix).astype(np.int32)
    _, of_sequences = metadata_columns(_as_texts(batch, renamed), [0] * n, set(), renamed)
    tokens = {
        "sequence": number[picture],
        "position": place,
        "token": token,
        "token_id": ids,
        "text": token,
        "is_special": special,
        "word": np.full(n * length, -1, dtype=np.int32),
        "word_text": pa.nulls(n * length, pa.string()),
        "start": zeros,
        "end": zeros,
        "kind": pa.DictionaryArray.from_arrays(kind, pa.array(KINDS)),
        **_patch_columns(pictures, grid, special, ids),
        **{name: column.take(picture) for name, column in of_sequences.items()},
    }
    of_images = {
        "sequence": number,
        "text": typed_column([image.name for image in batch]),
        "n_tokens": np.full(n, length, dtype=np.int32),
        "window": np.zeros(n, dtype=np.int32),
        "source": typed_column([image.source for image in batch]),
        **of_sequences,
    }
    encoded = tuple(encode(each) for each in pictures)
    lengths = np.full(n, length, dtype=np.int32)
    return ImageChunk(pa.table(tokens), pa.table(of_images), ids, special, lengths, encoded)


def _as_texts(batch: Sequence[ImageSequence], renamed: dict[str, str]) -> list[TextSequence]:
    """Return images as the sequences whose metadata `tables` knows, none of it named as a column of patches."""
    texts = []
    for image in batch:
        clash = {name: f"corpus_{name}" for name in image.metadata if name in PATCH_COLUMNS}
        if twice := [new for new in clash.values() if new in image.metadata]:
            raise QKSpaceError(f"{image.source}: two columns of metadata would be stored as {twice[0]!r}: rename one.")
        renamed.update(clash)
        metadata = {clash.get(name, name): value for name, value in image.metadata.items()}
        texts.append(TextSequence(image.name, metadata, source=image.source))
    return texts


def _patch_columns(pictures: Pixels, grid: Grid, special: BoolArray, ids: IntArray) -> dict[str, pa.Array]:
    """Return what is known of each patch: its place and its colour; null for the tokens before the patches."""
    import pyarrow as pa

    colours = patch_colours(pictures, grid)
    hue, saturation, brightness = hsv(colours)
    per_token = np.flatnonzero(~special)

    def column(values: NDArray[Any], kind: pa.DataType, hidden: BoolArray | None = None) -> pa.Array:
        full, mask = np.zeros(len(special), dtype=values.dtype), special.copy()
        full[per_token] = values
        if hidden is not None:
            mask[per_token] |= hidden
        return pa.array(full, kind, mask=mask)

    patch = ids[per_token]
    return {
        "row": column(patch // grid.columns, pa.int32()),
        "column": column(patch % grid.columns, pa.int32()),
        **{name: column(colours[:, i], pa.float32()) for i, name in enumerate(("red", "green", "blue"))},
        "hue": column(hue, pa.float32(), saturation < GREY),
        "saturation": column(saturation, pa.float32()),
        "brightness": column(brightness, pa.float32()),
    }


def patch_colours(pictures: Pixels, grid: Grid) -> NDArray[np.float32]:
    """Return the mean colour of every patch, 0 to 255: (picture x patch, red green blue).

    pictures: (picture, row, column, colour); what the grid leaves over at the right and below belongs to no patch.
    """
    height, width = grid.patch_height, grid.patch_width
    inside = pictures[:, : grid.rows * height, : grid.columns * width]
    cut = inside.reshape(len(pictures), grid.rows, height, grid.columns, width, 3)
    return np.asarray(cut.mean(axis=(2, 4), dtype=np.float32).reshape(-1, 3))


def hsv(colours: FloatArray) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
    """Return hue (degrees), saturation and brightness (0 to 1) of colours (colour, red green blue) from 0 to 255."""
    from matplotlib.colors import rgb_to_hsv

    hue, saturation, value = rgb_to_hsv(np.clip(colours / 255, 0, 1)).astype(np.float32).T
    return hue * 360, saturation, value


def encode(picture: Pixels) -> bytes:
    """Return a picture as a PNG file, which loses nothing."""
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(picture).save(
        file, format="PNG", compress_level=1
    )  # 6, the usual, is 8 % smaller and twice as slow
    return file.getvalue()


# ---------------------------------------------------------------------------------------------- the file of pictures


class PictureWriter:
    """Lays PNG files end to end in a folder, and where each starts beside them, which closing writes."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._sizes = folder, [0]
        self._file = (folder / PICTURES).open("wb")

    def __enter__(self) -> PictureWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        if kind is None:
            write_array(self._folder / PICTURE_STARTS, np.cumsum(self._sizes, dtype=np.int64))

    def add(self, pictures: Iterable[bytes]) -> None:
        """Write the next pictures."""
        for encoded in pictures:
            self._sizes.append(self._file.write(encoded))


class Pictures:
    """Reads the pictures that a `PictureWriter` wrote, each by its number; threads may share one."""

    def __init__(self, folder: Path) -> None:
        self._data = np.memmap(folder / PICTURES, dtype=np.uint8, mode="r")
        self._starts: IntArray = np.load(folder / PICTURE_STARTS, allow_pickle=False)

    def __len__(self) -> int:
        return len(self._starts) - 1

    def encoded(self, number: int) -> bytes:
        """Return the PNG file of a picture."""
        return self._data[self._starts[number] : self._starts[number + 1]].tobytes()

    def picture(self, number: int) -> Pixels:
        """Return a picture: (row, column, colour)."""
        from PIL import Image

        with Image.open(io.BytesIO(self.encoded(number)), formats=["PNG"]) as image:
            return np.array(image)


@dataclass(frozen=True, slots=True)
class ImageFeed:
    """What goes into a forward pass of a vision model (`qkspace.feed`); dtype: of the model's weights."""

    pictures: Pictures
    image_input: ImageInput
    dtype: torch.dtype

    def batch(self, sequences: IntArray, device: torch.device) -> dict[str, Tensor]:
        """Return pixel_values (sequence, colour, row, column) of some images, in the order that is asked for."""
        import torch

        values = self.image_input.pixel_values([self.pictures.picture(int(number)) for number in sequences])
        return {"pixel_values": torch.from_numpy(values).to(device, self.dtype)}


def write_pictures(folder: Path, root: Path, is_stored: BoolArray) -> None:
    """Write images.parquet into an index: one row a stored image, with the picture as the model saw it.

    Columns: `sequence` (its number, as in sequences.parquet), `image` (a PNG file), `width`, `height`.

    Args:
        folder: where a `PictureWriter` wrote.
        root: folder of the index.
        is_stored: (sequence)
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    pictures = Pictures(folder)
    numbers = np.flatnonzero(is_stored).astype(np.int32)
    kinds = {"sequence": pa.int32(), "image": pa.binary(), "width": pa.int32(), "height": pa.int32()}
    schema = pa.schema(list(kinds.items()))
    with replacing(root / "images.parquet") as file, pq.ParquetWriter(file, schema, compression="none") as writer:
        for first in range(0, len(numbers), _CHUNK_IMAGES):  # one row group each, so that a few can be read
            some = numbers[first : first + _CHUNK_IMAGES]
            encoded = [pictures.encoded(int(number)) for number in some]
            sizes = [_png_size(image) for image in encoded]
            columns = [some, encoded, [width for width, _ in sizes], [height for _, height in sizes]]
            writer.write_table(pa.table(columns, schema=schema))


def _png_size(encoded: bytes) -> tuple[int, int]:
    """Return width and height as the header of a PNG file states them."""
    return int.from_bytes(encoded[16:20], "big"), int.from_bytes(encoded[20:24], "big")
