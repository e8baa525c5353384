"""Pictures: the images of an index and their patches, as a page shows them.

In: an index of images. Out: pictures as the model saw them, whole or patch by patch: pixels, or addresses that hold their
data. Knows no heads and no widgets.
"""

from __future__ import annotations

import io
from base64 import b64encode
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from qkspace.app.language import say
from qkspace.index import Index
from qkspace.schema import FloatArray, QKSpaceError

if TYPE_CHECKING:
    from qkspace.app.state import Language

Pixels = NDArray[np.uint8]  # (y, x, red green blue)
FORMATS = ["PNG", "JPEG", "WEBP"]
SPRITE_SIDE = 256  # pixels of the longer side of a picture that patches of the map are cut from
MOST_SPRITES = 600  # pictures that are sent for that; patches of others are points
MARK = (255, 255, 255)


def is_of_images(index: Index) -> bool:
    """Tell whether the sequences of an index are images."""
    return bool(index.manifest.get("modality") == "image")


@dataclass(frozen=True, slots=True)
class Album:
    """The pictures of an index; every one is cut into the same grid of patches, after `n_prefix` tokens such as [CLS]."""

    index: Index
    rows: int
    columns: int
    n_prefix: int
    patch_height: int
    patch_width: int

    @property
    def n_tokens(self) -> int:
        """Tokens of an image."""
        return self.n_prefix + self.rows * self.columns

    def place_of(self, row: int) -> tuple[int, int]:
        """Return the place of a row's image among those stored, and of the row in its image."""
        return divmod(row, self.n_tokens)

    def cell(self, position: int) -> tuple[int, int] | None:
        """Return row and column of a token of an image; None for one before the patches."""
        if position < self.n_prefix:
            return None
        row, column = divmod(position - self.n_prefix, self.columns)
        return row, column

    def caption(self, place: int) -> str:
        """Return what an image is called: its file, and its label where that says more."""
        return caption(self.index, place)

    def prefix_names(self) -> list[str]:
        """Return what the tokens before the patches are called."""
        return [str(text) for text in self.index.tokens["text"].iloc[: self.n_prefix]]


def caption(index: Index, place: int) -> str:
    """Return what an image or a sound is called: its file, and its label where that says more."""
    name = str(index.sequences["text"].iloc[place])
    label = str(index.sequences["label"].iloc[place]) if "label" in index.sequences else ""
    return name if not label or label in ("None", "nan", "<NA>") else f"{name} · {label}"


def place_words(album: Album, position: int, language: Language) -> str:
    """Say where a token of an image is."""
    cell = album.cell(position)
    if cell is None:
        return say(language, "patch_none")
    return say(language, "patch_place", row=cell[0], column=cell[1])


@lru_cache(maxsize=8)
def album_of(index: Index) -> Album | None:
    """Return the pictures of an index; None where its sequences are not images.

    Raises:
        QKSpaceError: the pictures do not fit the index.
    """
    if not is_of_images(index):
        return None
    grid = index.manifest["image"]
    height, width = grid["patch"]
    album = Album(index, grid["rows"], grid["columns"], grid["n_prefix"], height, width)
    lengths, stored = index.sequences["n_tokens"].unique().tolist(), len(_starts(index)) and int(_starts(index)[-1])
    if lengths != [album.n_tokens] or stored != len(index.sequences):
        raise QKSpaceError(
            f"{index.root}: its images have {lengths} tokens and {stored} pictures; expected {album.n_tokens} tokens and "
            f"{len(index.sequences)} pictures. Build the index again."
        )
    return album


def _parquet(index: Index) -> Any:
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = index.root / "images.parquet"
    try:
        return pq.ParquetFile(path)
    except (OSError, pa.ArrowException) as error:
        raise QKSpaceError(f"{path}: damaged or missing ({error}). Run `qkspace verify`.") from error


@lru_cache(maxsize=8)
def _starts(index: Index) -> NDArray[np.int64]:
    """Return where the groups of pictures start, and where the last one ends."""
    known = _parquet(index).metadata
    return np.cumsum([0, *(known.row_group(i).num_rows for i in range(known.num_row_groups))])


@lru_cache(maxsize=8)
def _group(index: Index, number: int) -> list[bytes]:
    found: list[bytes] = _parquet(index).read_row_group(number, columns=["image"])["image"].to_pylist()
    return found


def encoded(album: Album, place: int) -> bytes:
    """Return the file of a picture, by its place among those stored."""
    starts = _starts(album.index)
    number = int(np.searchsorted(starts, place, side="right")) - 1
    return _group(album.index, number)[place - int(starts[number])]


@lru_cache(maxsize=128)
def pixels(album: Album, place: int) -> Pixels:
    """Return a picture as the model saw it: (y, x, red green blue); nobody changes it.

    Raises:
        QKSpaceError: the file of the picture cannot be read.
    """
    from PIL import Image

    try:
        with Image.open(io.BytesIO(encoded(album, place)), formats=FORMATS) as image:
            return np.asarray(image.convert("RGB"))
    except (OSError, ValueError, SyntaxError) as error:
        raise QKSpaceError(
            f"{album.index.root}: picture {place} is damaged ({error}). Run `qkspace verify`."
        ) from error


def patch_pixels(album: Album, row: int) -> Pixels | None:
    """Return the patch of a row of the index; None for a token before the patches."""
    place, position = album.place_of(row)
    cell = album.cell(position)
    if cell is None:
        return None
    y, x = cell[0] * album.patch_height, cell[1] * album.patch_width
    return pixels(album, place)[y : y + album.patch_height, x : x + album.patch_width]


# ---------------------------------------------------------------- addresses that hold a picture


def uri(content: bytes) -> str:
    """Return the address that holds a file of a picture."""
    kind = "png" if content[:4] == b"\x89PNG" else "webp" if content[8:12] == b"WEBP" else "jpeg"
    return f"data:image/{kind};base64,{b64encode(content).decode('ascii')}"


def _written(image: Any, kind: str) -> str:
    file = io.BytesIO()
    options: dict[str, Any] = {"quality": 90, "subsampling": 0} if kind == "JPEG" else {}
    image.save(file, format=kind, **options)
    return uri(file.getvalue())


@lru_cache(maxsize=4096)
def small(album: Album, place: int, side: int = SPRITE_SIDE) -> str:
    """Return a picture whose longer side has at most so many pixels."""
    from PIL import Image

    image = Image.fromarray(pixels(album, place))
    image.thumbnail((side, side))
    return _written(image, "JPEG")


@lru_cache(maxsize=4096)
def patch_uri(album: Album, row: int) -> str:
    """Return the patch of a row; nothing for a token before the patches."""
    from PIL import Image

    patch = patch_pixels(album, row)
    return "" if patch is None else _written(Image.fromarray(patch), "PNG")


def marked(album: Album, row: int, side: int = 160) -> str:
    """Return the picture of a row with the place of its patch marked, beside it the patch alone, enlarged."""
    from PIL import Image, ImageDraw

    place, position = album.place_of(row)
    whole = Image.fromarray(pixels(album, place))
    scale = side / max(whole.size)
    whole = whole.resize((round(whole.width * scale), round(whole.height * scale)))
    patch, cell = patch_pixels(album, row), album.cell(position)
    if patch is None or cell is None:
        return _written(whole, "JPEG")
    x, y = cell[1] * album.patch_width * scale, cell[0] * album.patch_height * scale
    box = (x, y, x + album.patch_width * scale, y + album.patch_height * scale)
    draw = ImageDraw.Draw(whole)
    draw.rectangle(tuple(round(v) + d for v, d in zip(box, (-2, -2, 2, 2), strict=True)), outline=(0, 0, 0), width=1)
    draw.rectangle(tuple(round(v) + d for v, d in zip(box, (-1, -1, 1, 1), strict=True)), outline=MARK, width=2)
    edge = min(whole.height, 96)
    sheet = Image.new("RGB", (edge + 8 + whole.width, whole.height), (255, 255, 255))
    sheet.paste(Image.fromarray(patch).resize((edge, edge), Image.Resampling.NEAREST), (0, 0))
    sheet.paste(whole, (edge + 8, 0))
    return _written(sheet, "PNG")


# ---------------------------------------------------------------- colours of patches


def mean_colours(album: Album) -> NDArray[np.uint32]:
    """Return the mean colour of every row's patch, packed 0xRRGGBB00; 0 for tokens before the patches."""
    tokens = album.index.tokens
    levels: FloatArray = np.stack([tokens[name].to_numpy(dtype=np.float64) for name in ("red", "green", "blue")])
    red, green, blue = np.rint(np.nan_to_num(levels)).astype(np.uint32)
    return np.asarray((red << 24) | (green << 16) | (blue << 8), dtype=np.uint32)
