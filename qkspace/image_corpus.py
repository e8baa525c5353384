"""Read a corpus of images, picture by picture.

In: a folder of images, an image, or rows with a column of images (JSONL, CSV, TSV, Parquet, data sets). Out: a stream of
`ImageSequence`, the files' own bytes with their metadata, and `decode`, which turns such bytes into a picture of 8-bit
red, green and blue. Knows no model; memory does not grow with the corpus.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from qkspace.media import Medium, read_media
from qkspace.schema import QKSpaceError, Scalar

if TYPE_CHECKING:
    from PIL.Image import Image

IMAGE_COLUMNS = ("image", "img", "picture", "photo", "image_bytes", "bytes", "png", "jpg", "jpeg", "webp")
SUFFIXES = (
    *(".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".gif", ".bmp", ".dib", ".tif", ".tiff"),
    *(".ppm", ".pgm", ".pbm", ".pnm", ".avif", ".jp2", ".ico", ".tga"),
)
_KINDS = (  # what Pillow may try: no format of its that calls another program, as PostScript does
    *("PNG", "JPEG", "MPO", "WEBP", "GIF", "BMP", "DIB", "TIFF", "PPM", "AVIF", "JPEG2000", "ICO", "TGA"),
)
MAX_PIXELS = 89_478_485  # of a picture, which then takes 256 MiB: Pillow's own limit
IMAGES = Medium("image", "an", "--image-column", IMAGE_COLUMNS, SUFFIXES, "Image")
IMAGE_FORMATS = IMAGES.formats


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
    return (ImageSequence(*file) for file in read_media(IMAGES, source, format, image_column, split, config))


def is_image_name(name: str) -> bool:
    """Say whether a file is an image, judging by its suffix."""
    return IMAGES.is_name(name)


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
