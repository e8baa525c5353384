"""Read a corpus of images, picture by picture.

In: a folder of images, an image, or rows with a column of images (JSONL, CSV, TSV, Parquet, data sets). Out: a stream of
`ImageSequence`, the files' own bytes with their metadata, and `decode`, which turns such bytes into a picture of 8-bit
red, green and blue. Knows no model; memory does not grow with the corpus.
"""

from __future__ import annotations

import io
import json
import os
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from qkspace.corpus import _format as text_format
from qkspace.rows import (
    Located,
    Row,
    _is_scalar,
    _label_names,
    _loaded,
    _reason,
    _with_label_names,
    delimited_rows,
    jsonl_rows,
    number_or_string,
)
from qkspace.schema import QKSpaceError, Scalar

if TYPE_CHECKING:
    from PIL.Image import Image

IMAGE_FORMATS = ("images", "jsonl", "csv", "tsv", "parquet", "datasets")
IMAGE_COLUMNS = ("image", "img", "picture", "photo", "image_bytes", "bytes", "png", "jpg", "jpeg", "webp")
PATH_COLUMNS = ("image_path", "file_name", "filename", "file_path", "filepath", "path", "file")
SUFFIXES = (
    *(".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".gif", ".bmp", ".dib", ".tif", ".tiff"),
    *(".ppm", ".pgm", ".pbm", ".pnm", ".avif", ".jp2", ".ico", ".tga"),
)
_KINDS = (  # what Pillow may try: no format of its that calls another program, as PostScript does
    *("PNG", "JPEG", "MPO", "WEBP", "GIF", "BMP", "DIB", "TIFF", "PPM", "AVIF", "JPEG2000", "ICO", "TGA"),
)
MAX_PIXELS = 89_478_485  # of a picture, which then takes 256 MiB: Pillow's own limit
_ROWS_AT_ONCE = 16  # of a Parquet file, whose rows hold whole pictures
_CORPUS_FILES = (".parquet", ".jsonl", ".ndjson", ".csv", ".tsv")


@dataclass(frozen=True, slots=True)
class ImageSequence:
    """One image of a corpus before it is turned into patches.

    image_bytes: the file as it is, encoded; name: what it is called on the page, the name of its file where it has one;
    source: the place to name in an error ("photos/cats/3.jpg", "birds.parquet row 31").
    """

    image_bytes: bytes
    metadata: Mapping[str, Scalar] = field(default_factory=dict)
    source: str = ""
    name: str = ""


def read_images(
    source: str | Path,
    *,
    format: str | None = None,
    image_column: str | None = None,
    split: str | None = None,
    config: str | None = None,
) -> Iterator[ImageSequence]:
    """Yield the images of a corpus in order.

    Of a folder, every file in it and below whose suffix is an image's, in order of the names; hidden ones are passed over.
    The sub-folder (relative to the folder) is metadata `label`, the path of the file is metadata `file`. Of rows, the
    image is bytes, a struct of `bytes` and `path` (as data sets store it), or a path relative to the file; the row's other
    scalars are metadata, and labels of a `ClassLabel` are their names. A folder with a table beside the images
    ("metadata.csv" with a column `file_name`) is read by giving the table.

    Args:
        source: a folder (of images, or written by `save_to_disk`), an image, a file of rows, or the name of a data set.
        format: one of `IMAGE_FORMATS`; None goes by what the source is. "images" is a folder of images or one image.
        image_column: the column of the images. None takes the first of `IMAGE_COLUMNS` and `PATH_COLUMNS` that holds
            images or paths of images in the first row, else the only column that does.
        split: the split of a data set. None takes the only one, else "train".
        config: the configuration of a data set.

    Raises:
        QKSpaceError: there is no such corpus, or a place in it that cannot be read, which the message names.
    """
    name = str(source)
    chosen = _format(name, format)
    if image_column is not None and chosen == "images":
        raise QKSpaceError(f"{name} is read as images, which have no columns: leave --image-column out.")
    if chosen != "datasets" and (split is not None or config is not None):
        raise QKSpaceError(f"{name} is read as {chosen}, where --split and --config mean nothing: leave them out.")
    if chosen == "images":
        return _images(Path(name))
    if chosen in ("csv", "tsv"):
        return _row_images(_number_rows(name, chosen), image_column, Path(name).parent)
    if chosen == "jsonl":
        return _row_images(jsonl_rows(name, "utf-8"), image_column, Path(name).parent)
    if chosen == "parquet":
        return _row_images(_parquet_rows(name), image_column, Path(name).parent)
    return _row_images(_dataset_rows(name, split, config), image_column, Path(name))


def _format(name: str, asked: str | None) -> str:
    """Return how a source is read."""
    if asked is not None and asked not in IMAGE_FORMATS:
        raise QKSpaceError(f"Unknown format of images {asked!r}: expected one of {', '.join(IMAGE_FORMATS)}.")
    if name == "-":
        raise QKSpaceError("Images cannot be read from standard input: give a folder, a file or a data set.")
    path = Path(name)
    if asked is None and path.is_dir() and next(_files(path), None) is not None:
        return "images"
    if asked is None and path.is_file() and is_image_name(name):
        return "images"
    if asked == "images":
        if not path.exists():
            raise QKSpaceError(f"{name}: no such file or folder (looked from {Path.cwd()}). Check the path.")
        return asked
    if asked is None and path.is_dir() and not _holds_data(path):
        raise QKSpaceError(
            f"{name}: there is no image in this folder or below it. Expected files such as {', '.join(SUFFIXES[:6])}, a "
            f"file of rows ({', '.join(_CORPUS_FILES)}), or a data set written by save_to_disk."
        )
    found = text_format(name, asked)
    if found not in IMAGE_FORMATS:
        raise QKSpaceError(
            f"{name} is {found}, and the model reads images. Expected a folder of images, an image, or a file with a column "
            f"of images ({', '.join(_CORPUS_FILES)})."
        )
    return found


def is_image_name(name: str) -> bool:
    """Say whether a file is an image, judging by its suffix."""
    return Path(name).suffix.lower() in SUFFIXES


def _holds_data(folder: Path) -> bool:
    saved = any((folder / marker).is_file() for marker in ("state.json", "dataset_dict.json"))
    return saved or any(path.suffix.lower() in _CORPUS_FILES for path in folder.rglob("*"))


# ---------------------------------------------------------------------------------------------- a folder of images


def _files(folder: Path) -> Iterator[Path]:
    """Yield the images in a folder and below, in order of their names; a link into a folder above is not gone into."""
    for here, folders, files in os.walk(folder, followlinks=True):
        above = {Path(here).resolve(), *Path(here).resolve().parents}
        folders[:] = sorted(
            name for name in folders if not name.startswith(".") and (Path(here) / name).resolve() not in above
        )
        for name in sorted(files):
            if is_image_name(name) and not name.startswith("."):
                yield Path(here) / name


def _images(path: Path) -> Iterator[ImageSequence]:
    """Yield the images of a folder, or the one image of a file."""
    if not path.is_dir():
        yield ImageSequence(_bytes_of(path, str(path)), {"file": path.name}, str(path), path.name)
        return
    for file in _files(path):
        relative = file.relative_to(path)
        label = relative.parent.as_posix()
        metadata = {"file": relative.as_posix()} | ({} if label == "." else {"label": label})
        yield ImageSequence(_bytes_of(file, str(file)), metadata, str(file), file.name)


def _bytes_of(path: Path, where: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise QKSpaceError(f"{where}: the image {path} cannot be opened: {error.strerror}.") from error


# ---------------------------------------------------------------------------------------------- rows


def _number_rows(name: str, kind: str) -> Iterator[Located]:
    """Yield the rows of a CSV or TSV file, whose values are numbers where they read as such."""
    for where, row in delimited_rows(name, "utf-8", tabs=kind == "tsv"):
        yield where, {column: number_or_string(value) for column, value in row.items()}


def _parquet_rows(name: str) -> Iterator[Located]:
    """Yield the rows of a Parquet file, few in memory at a time."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(name) as file:
            features = json.loads((file.schema_arrow.metadata or {}).get(b"huggingface", b"{}"))
            labels = _label_names(features.get("info", {}).get("features", {}))
            number = 0
            for batch in file.iter_batches(batch_size=_ROWS_AT_ONCE):
                for row in batch.to_pylist():
                    number += 1
                    where = f"{name} row {number}"
                    yield where, _with_label_names(row, labels, where)
    except (pa.ArrowException, OSError) as error:
        raise QKSpaceError(f"{name}: cannot be read as Parquet ({error}).") from error


def _dataset_rows(name: str, split: str | None, config: str | None) -> Iterator[Located]:
    """Yield the rows of a data set, whose images stay encoded."""
    import datasets

    try:
        data, where = _loaded(name, split, config)
        for column, feature in (data.features or {}).items():
            if isinstance(feature, datasets.Image):
                data = data.cast_column(column, datasets.Image(decode=False))
        labels = _label_names(data.features.to_dict()) if data.features is not None else {}
    except QKSpaceError:
        raise
    except Exception as error:  # whatever a builder, the network or a file of another format raises
        raise QKSpaceError(
            f"{name} is no data set that could be loaded: {_reason(error)}. Check the spelling and the network, or give a "
            f"folder of images or a file of rows ({', '.join(_CORPUS_FILES)})."
        ) from error
    rows, number = iter(data.with_format(None)), 0
    while True:
        number += 1
        place = f"{where} row {number}"
        try:
            row = next(rows, None)
        except Exception as error:  # as above: rows are fetched and parsed here
            raise QKSpaceError(f"{place}: cannot be read: {_reason(error)}.") from error
        if row is None:
            return
        yield place, _with_label_names(row, labels, place)


def _row_images(rows: Iterator[Located], image_column: str | None, folder: Path) -> Iterator[ImageSequence]:
    """Yield the image of each row; paths are relative to `folder`."""
    chosen = None
    for where, row in rows:
        chosen = chosen or image_column or _image_column(row, where)
        if chosen not in row:
            raise QKSpaceError(
                f"{where}: no column {chosen!r}; its columns are {', '.join(row)}. Say which holds the images with "
                "--image-column."
            )
        encoded, path = _image_of(row[chosen], where, chosen, folder)
        metadata = {column: value for column, value in row.items() if column != chosen and _is_scalar(value)}
        if path:
            metadata.setdefault("file", path)
        name = Path(path).name if path else where.rsplit("/", 1)[-1]
        yield ImageSequence(encoded, metadata, where, name)


def _image_column(row: Row, where: str) -> str:
    """Return the column that holds the images, judging by the first row."""
    holding = [column for column, value in row.items() if _may_be_image(value)]
    by_name = {column.lower(): column for column in reversed(holding)}
    for known in (*IMAGE_COLUMNS, *PATH_COLUMNS):
        if known in by_name:
            return by_name[known]
    if len(holding) != 1:
        raise QKSpaceError(
            f"{where}: which column holds the images? {len(holding) or 'None'} of them hold images or paths of images. "
            f"Say which with --image-column: {', '.join(row)}."
        )
    return holding[0]


def _may_be_image(value: object) -> bool:
    if isinstance(value, Mapping):
        return isinstance(value.get("bytes"), bytes) or isinstance(value.get("path"), str)
    return isinstance(value, bytes) or (isinstance(value, str) and is_image_name(value))


def _image_of(value: object, where: str, column: str, folder: Path) -> tuple[bytes, str | None]:
    """Return the encoded image in a cell, and its path where one is stated."""
    path = value.get("path") if isinstance(value, Mapping) else value
    encoded = value.get("bytes") if isinstance(value, Mapping) else value
    path = path if isinstance(path, str) and path else None
    if isinstance(encoded, bytes):
        return encoded, path
    if path is None:
        raise QKSpaceError(
            f"{where}: column {column!r} holds {type(value).__name__} {str(value)[:60]!r}; expected an image as bytes, as "
            "a struct of bytes and path, or as the path of a file. Repair or remove the row."
        )
    if "://" in path:
        raise QKSpaceError(
            f"{where}: the image {path!r} lies on the network, from which none is fetched. Download it, or store its bytes."
        )
    return _bytes_of(folder / path, where), path


# ---------------------------------------------------------------------------------------------- pictures


def decode(image: ImageSequence) -> Image:
    """Return the picture as 8-bit red, green and blue, the right way up.

    Of an animation the first frame. What is transparent lies on white; 16 bits become 8 by their share of the range.

    Raises:
        QKSpaceError: it is no image, is cut short, has too many pixels or a range that is not known.
    """
    import PIL
    from PIL import Image, ImageOps

    Image.init()
    kinds = [kind for kind in _KINDS if kind in Image.OPEN]  # an older Pillow may lack one
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a large picture, which is refused below, and of odd EXIF data
            with Image.open(io.BytesIO(image.image_bytes), formats=kinds) as opened:
                if opened.width * opened.height > MAX_PIXELS:
                    raise _too_large(image, f"{opened.width:,} x {opened.height:,} pixels")
                return _rgb(ImageOps.exif_transpose(opened), image.source)
    except QKSpaceError:
        raise
    except Image.DecompressionBombError as error:
        raise _too_large(image, str(error).split(",")[0]) from error
    except PIL.UnidentifiedImageError as error:
        raise QKSpaceError(
            f"{image.source}: {len(image.image_bytes):,} bytes that are no image that can be read "
            f"({', '.join(kinds)} can). Repair or remove it."
        ) from error
    except (
        Exception
    ) as error:  # decoders raise a dozen kinds (OSError, SyntaxError, struct.error, ...), all with one meaning
        raise QKSpaceError(f"{image.source}: the image is damaged ({error}). Repair or remove it.") from error


def _too_large(image: ImageSequence, found: str) -> QKSpaceError:
    return QKSpaceError(
        f"{image.source}: {found}, more than the {MAX_PIXELS:,} pixels that are read: "
        f"its {len(image.image_bytes):,} bytes could fill the memory. Make it smaller or remove it."
    )


def _rgb(picture: Image, where: str) -> Image:
    """Bring a picture of any mode to 8-bit red, green and blue."""
    from PIL import Image

    if picture.mode.startswith(("I", "F")):
        picture = _eight_bits(picture, where)
    if picture.has_transparency_data:
        above = picture.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", above.size, "white"), above).convert("RGB")
    return picture.convert("RGB")


def _eight_bits(picture: Image, where: str) -> Image:
    """Bring a grey picture of 16 bits to 8; integers of 32 bits hold 16, and fractions are refused."""
    from PIL import Image

    values = np.asarray(picture)
    if picture.mode == "F" or values.min() < 0 or values.max() > 65_535:
        raise QKSpaceError(
            f"{where}: its values run from {values.min():g} to {values.max():g}, and which of them are black and white is "
            "not known. Expected 8 or 16 bits a channel: convert it."
        )
    return Image.fromarray(np.round(values / 257).astype(np.uint8))
