"""Pictures reach the model as its own preprocessing makes them, and every patch is known by its place and colour."""

import csv
import importlib
import io
import json
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_sample_image

from qkspace import store
from qkspace.image_corpus import ImageSequence, decode, read_images
from qkspace.image_input import Grid, ImageInput, load_image_input, patch_grid
from qkspace.images import (
    ImageChunk,
    ImageFeed,
    Pictures,
    PictureWriter,
    hsv,
    image_chunks,
    patch_colours,
    write_pictures,
)
from qkspace.schema import QKSpaceError
from qkspace.tables import TOKEN_COLUMNS
from qkspace.tokenise import TokeniseCounts

ROOT = Path(__file__).resolve().parents[1]
MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
VIT = Grid(14, 14, 16, 16, ("[CLS]",))
NO_TOLERANCE = {"rtol": 0, "atol": 1e-5}


@pytest.fixture(scope="session")
def deit() -> Path:
    folder = ROOT.parent / "shared" / "models" / "deit-tiny"
    if not folder.is_dir():
        pytest.skip(f"{folder} is not there: this test needs it")
    return folder


@pytest.fixture(scope="session")
def deit_input(deit: Path) -> ImageInput:
    return load_image_input(str(deit))


@pytest.fixture(scope="session")
def china() -> Image.Image:
    return Image.fromarray(load_sample_image("china.jpg"))


@pytest.fixture(scope="session")
def flower() -> Image.Image:
    return Image.fromarray(load_sample_image("flower.jpg"))


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, format=kind, **options)
    return file.getvalue()


def sequence(image: Image.Image | bytes, kind: str = "PNG", **options: Any) -> ImageSequence:
    data = image if isinstance(image, bytes) else encoded(image, kind, **options)
    return ImageSequence(data, {}, "folder/picture.png", "picture.png")


def plain(colour: tuple[int, int, int] = (255, 0, 0), size: tuple[int, int] = (30, 20)) -> Image.Image:
    return Image.new("RGB", size, colour)


def only_chunk(
    images: list[ImageSequence], image_input: ImageInput, grid: Grid = VIT, counts: TokeniseCounts | None = None
) -> ImageChunk:
    (chunk,) = image_chunks(images, image_input, grid, counts=counts or TokeniseCounts())
    return chunk


def preprocessing(folder: Path, **entries: Any) -> str:
    (folder / "preprocessor_config.json").write_text(json.dumps(entries))
    (folder / "config.json").write_text(json.dumps({"model_type": "vit"}))
    return str(folder)


# ---------------------------------------------------------------------------------------------- reading


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Images in sub-folders, beside files that are none."""
    for place, colour in (("b/2.png", "red"), ("b/10.png", "blue"), ("a/deep/x.JPG", "green"), ("top.png", "white")):
        path = tmp_path / "corpus" / place
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), colour).save(path, format="JPEG" if place.endswith("JPG") else "PNG")
    root = tmp_path / "corpus"
    (root / "b" / "notes.txt").write_text("no image")
    (root / "b" / ".hidden.png").write_bytes(b"a file of the system")
    (root / ".cache").mkdir()
    (root / ".cache" / "thumb.png").write_bytes(encoded(plain()))
    (root / "b" / "loop").symlink_to(root)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "y.png").write_bytes(encoded(plain()))
    (root / "c").symlink_to(tmp_path / "elsewhere")
    return root


def test_a_folder_gives_its_images_in_order_with_the_sub_folder_as_label(folder: Path) -> None:
    found = list(read_images(folder))
    assert [image.metadata.get("file") for image in found] == [
        "top.png",
        "a/deep/x.JPG",
        "b/10.png",
        "b/2.png",
        "c/y.png",
    ]
    assert [image.metadata.get("label") for image in found] == [None, "a/deep", "b", "b", "c"]
    assert [image.name for image in found] == ["top.png", "x.JPG", "10.png", "2.png", "y.png"]
    assert [image.source for image in found] == [str(folder / image.metadata["file"]) for image in found]  # type: ignore[operator]
    assert found[3].image_bytes == (folder / "b" / "2.png").read_bytes()
    (one,) = read_images(folder / "b" / "2.png")
    assert (one.name, one.image_bytes) == ("2.png", found[3].image_bytes)


@pytest.mark.parametrize("kind", ["jsonl", "csv", "tsv", "parquet"])
def test_rows_with_paths_are_read_relative_to_their_file(folder: Path, kind: str) -> None:
    rows = [{"file_name": "b/2.png", "bird": "wren", "year": 1999}, {"file_name": "top.png", "bird": "owl", "year": 7}]
    table = folder / f"metadata.{kind}"
    if kind == "jsonl":
        table.write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif kind == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), table)
    else:
        with table.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]), delimiter="," if kind == "csv" else "\t")
            writer.writeheader()
            writer.writerows(rows)
    found = list(read_images(table))
    assert [image.image_bytes for image in found] == [(folder / row["file_name"]).read_bytes() for row in rows]  # type: ignore[operator]
    assert [image.name for image in found] == ["2.png", "top.png"]
    assert [dict(image.metadata) for image in found] == [
        {"bird": "wren", "year": 1999, "file": "b/2.png"},
        {"bird": "owl", "year": 7, "file": "top.png"},
    ]


@pytest.mark.parametrize("saved", ["disk", "parquet"])
def test_a_data_set_gives_the_encoded_images_and_the_names_of_its_labels(tmp_path: Path, saved: str) -> None:
    import datasets

    pictures = [encoded(plain((index * 40, 0, 0))) for index in range(3)]
    features = datasets.Features({"photo": datasets.Image(), "kind": datasets.ClassLabel(names=["wren", "owl"])})
    rows = {"photo": [{"bytes": each, "path": f"{i}.png"} for i, each in enumerate(pictures)], "kind": [1, 0, 1]}
    data = datasets.Dataset.from_dict(rows, features=features)
    source = tmp_path / ("saved" if saved == "disk" else "rows.parquet")
    if saved == "disk":
        data.save_to_disk(source)
    else:
        data.to_parquet(source)
    found = list(read_images(source))
    assert [image.image_bytes for image in found] == pictures
    assert [image.metadata["kind"] for image in found] == ["owl", "wren", "owl"]
    assert [image.name for image in found] == ["0.png", "1.png", "2.png"]
    assert "row 2" in found[1].source


def test_images_that_are_bare_bytes_are_named_by_their_row(tmp_path: Path) -> None:
    table = tmp_path / "rows.parquet"
    pictures = [encoded(plain((index, 0, 0))) for index in range(40)]
    pq.write_table(pa.table({"x": pictures, "n": list(range(40)), "nested": [[1]] * 40}), table)
    found = list(read_images(table))
    assert [image.image_bytes for image in found] == pictures
    assert found[30].name == "rows.parquet row 31" and dict(found[30].metadata) == {"n": 30}


@pytest.mark.parametrize(
    ("make", "options", "message"),
    [
        (lambda f: f / "absent", {}, "no such file"),
        (lambda f: "-", {}, "standard input"),
        (lambda f: f, {"format": "png"}, "one of images, jsonl"),
        (lambda f: f, {"image_column": "x"}, "no columns"),
        (lambda f: f, {"split": "train"}, "--split"),
        (lambda f: f / "b" / "notes.txt", {}, "the model reads images"),
    ],
)
def test_a_corpus_of_no_images_is_refused(folder: Path, make: Any, options: Any, message: str) -> None:
    with pytest.raises(QKSpaceError, match=message):
        list(read_images(make(folder), **options))


def test_a_folder_without_an_image_says_what_was_expected(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no image")
    with pytest.raises(QKSpaceError, match=r"no image in this folder.*\.png"):
        read_images(tmp_path)


@pytest.mark.parametrize(
    ("row", "options", "message"),
    [
        ({"file_name": "absent.png"}, {}, r"line 1: the image .*absent\.png cannot be opened"),
        ({"file_name": "https://here/x.png"}, {}, "line 1: .*lies on the network"),
        ({"a": 1, "b": "word"}, {}, "line 1: which column holds the images.*: a, b"),
        ({"p": "1.png", "q": "2.png"}, {}, "line 1: which column holds the images"),
        ({"image": None, "file_name": "x.png"}, {"image_column": "image"}, "line 1: column 'image' holds NoneType"),
        ({"image": "x.png"}, {"image_column": "photo"}, "line 1: no column 'photo'"),
    ],
)
def test_a_row_without_its_image_is_named(tmp_path: Path, row: Any, options: Any, message: str) -> None:
    table = tmp_path / "rows.jsonl"
    table.write_text(json.dumps(row) + "\n")
    with pytest.raises(QKSpaceError, match=message):
        list(read_images(table, **options))


# ---------------------------------------------------------------------------------------------- decoding


@pytest.mark.parametrize(
    ("mode", "value", "expected"),
    [
        ("L", 100, (100, 100, 100)),
        ("1", 1, (255, 255, 255)),
        ("RGB", (10, 20, 30), (10, 20, 30)),
        ("RGBA", (10, 20, 30, 255), (10, 20, 30)),
        ("RGBA", (10, 20, 30, 0), (255, 255, 255)),
        ("RGBA", (0, 0, 0, 51), (204, 204, 204)),
        ("LA", (0, 0), (255, 255, 255)),
        ("CMYK", (0, 255, 255, 0), (255, 0, 0)),
        ("I;16", 100 * 257, (100, 100, 100)),
        ("I", 40_000, (156, 156, 156)),
        ("I;16", 65_535, (255, 255, 255)),
    ],
)
def test_every_mode_becomes_the_colour_that_is_seen(mode: str, value: Any, expected: tuple[int, int, int]) -> None:
    kind = "TIFF" if mode in ("CMYK", "I") else "PNG"
    picture = decode(sequence(Image.new(mode, (4, 3), value), kind))
    assert (picture.mode, picture.size) == ("RGB", (4, 3))
    assert picture.getpixel((1, 1)) == expected


def test_a_palette_keeps_its_colours_and_its_transparent_entry_is_white() -> None:
    picture = Image.new("P", (2, 1))
    picture.putpalette([200, 10, 20, 30, 220, 40])
    picture.putpixel((1, 0), 1)
    both = decode(sequence(picture))
    assert [both.getpixel((x, 0)) for x in (0, 1)] == [(200, 10, 20), (30, 220, 40)]
    assert decode(sequence(picture, transparency=1)).getpixel((1, 0)) == (255, 255, 255)


def test_a_photograph_lying_on_its_side_is_turned_by_its_exif() -> None:
    picture = Image.new("RGB", (40, 20), "black")
    picture.paste("white", (0, 0, 20, 20))  # the left half
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise by a quarter: left becomes top
    turned = decode(sequence(picture, "JPEG", exif=exif, quality=100))
    assert turned.size == (20, 40)
    assert np.asarray(turned)[:15].mean() > 250 and np.asarray(turned)[25:].mean() < 5


def bomb(width: int, height: int) -> bytes:
    """Return a PNG file of a few bytes that states its size."""

    def part(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = part(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + part(b"IDAT", zlib.compress(b"\0" * 100)) + part(b"IEND", b"")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "0 bytes that are no image"),
        (b"hello, I am a text", "18 bytes that are no image"),
        (
            b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
            "no image",
        ),  # which Pillow would hand to another program
        (encoded(Image.effect_noise((90, 90), 50))[:-2000], "damaged"),
        (bomb(12_000, 12_000), "12,000 x 12,000 pixels, more than"),
        (bomb(60_000, 60_000), "pixels"),
        (encoded(Image.new("F", (2, 2), 0.5), "TIFF"), "not known"),
    ],
)
@pytest.mark.filterwarnings("error")
def test_what_cannot_be_read_is_refused_with_its_place(data: bytes, message: str, deit_input: ImageInput) -> None:
    with pytest.raises(QKSpaceError, match=rf"^folder/picture\.png: .*{message}"):
        list(image_chunks([sequence(plain()), sequence(data)], deit_input, VIT, counts=TokeniseCounts()))


def test_a_strip_that_resizing_would_blow_up_is_refused(tmp_path: Path) -> None:
    crop = preprocessing(
        tmp_path,
        image_processor_type="CLIPImageProcessor",
        size={"shortest_edge": 224},
        crop_size={"height": 224, "width": 224},
    )
    with pytest.raises(QKSpaceError, match="too narrow"):
        load_image_input(crop).picture(sequence(plain(size=(3, 9000))))


# ---------------------------------------------------------------------------------------------- the model's input


def test_deit_sees_the_picture_resized_by_bicubic_interpolation_and_normalised(
    deit_input: ImageInput, china: Image.Image
) -> None:
    assert deit_input.size == (224, 224)
    picture = deit_input.picture(sequence(china))
    expected = np.asarray(china.resize((224, 224), Image.Resampling.BICUBIC))
    np.testing.assert_array_equal(picture, expected)
    values = deit_input.pixel_values([picture, picture[::-1]])
    assert values.dtype == np.float32
    normalised = ((expected / 255 - MEAN) / STD).transpose(2, 0, 1)
    np.testing.assert_allclose(values[0], normalised, **NO_TOLERANCE)
    np.testing.assert_allclose(values[1], normalised[:, ::-1], **NO_TOLERANCE)


def test_clip_sees_the_middle_of_the_picture(tmp_path: Path, china: Image.Image) -> None:
    entries = {"size": {"shortest_edge": 64}, "crop_size": {"height": 64, "width": 64}, "resample": 3}
    name = preprocessing(tmp_path, image_processor_type="CLIPImageProcessor", image_mean=MEAN, image_std=STD, **entries)
    clip = load_image_input(name)
    picture = clip.picture(sequence(china))  # 640 x 427 becomes 95 x 64, of which the middle 64
    resized = np.asarray(china.resize((95, 64), Image.Resampling.BICUBIC))
    np.testing.assert_array_equal(picture, resized[:, 15:79])
    expected = ((picture / 255 - MEAN) / STD).transpose(2, 0, 1)
    np.testing.assert_allclose(clip.pixel_values([picture])[0], expected, **NO_TOLERANCE)


def test_both_steps_give_what_transformers_gives_in_one(
    deit: Path, deit_input: ImageInput, flower: Image.Image
) -> None:
    from transformers import AutoImageProcessor

    own = AutoImageProcessor.from_pretrained(deit, backend="pil")(flower, return_tensors="np")["pixel_values"]
    np.testing.assert_allclose(deit_input.pixel_values([deit_input.picture(sequence(flower))]), own, **NO_TOLERANCE)


def test_dinov3_is_resized_by_bilinear_interpolation_to_one_255th(tmp_path: Path, china: Image.Image) -> None:
    entries = {"size": {"height": 64, "width": 48}, "resample": 2, "image_mean": MEAN, "image_std": STD}
    dino = load_image_input(preprocessing(tmp_path, image_processor_type="DINOv3ViTImageProcessorFast", **entries))
    assert dino.size == (64, 48)
    image = torch.from_numpy(np.array(china)).permute(2, 0, 1)[None] / 255  # as torchvision does, before it is resized
    resized = torch.nn.functional.interpolate(image, size=(64, 48), mode="bilinear", antialias=True)[0].numpy()
    picture = dino.picture(sequence(china))
    np.testing.assert_allclose(picture.transpose(2, 0, 1) / 255, resized, rtol=0, atol=1 / 255)
    expected = ((picture / 255 - MEAN) / STD).transpose(2, 0, 1)
    np.testing.assert_allclose(dino.pixel_values([picture])[0], expected, **NO_TOLERANCE)


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"image_processor_type": "Siglip2ImageProcessor"}, "patches have no common place"),
        ({"image_processor_type": "Qwen2VLImageProcessor"}, "patches have no common place"),
        ({"image_processor_type": "LlavaNextImageProcessor"}, "patches have no common place"),
        (
            {"image_processor_type": "ViTImageProcessor", "do_resize": False},
            r"different sizes \(\(60, 40\) and \(48, 110\)",
        ),
        (
            {"image_processor_type": "CLIPImageProcessor", "size": {"shortest_edge": 64}, "do_center_crop": False},
            "different",
        ),
        ({"image_processor_type": "EfficientNetImageProcessor"}, "resize, crop, rescale, normalise"),
        ({"image_processor_type": "NoSuchImageProcessor"}, "no preprocessing of images"),
    ],
)
def test_preprocessing_without_one_size_is_refused_with_the_reason(tmp_path: Path, entries: Any, message: str) -> None:
    with pytest.raises(QKSpaceError, match=message):
        load_image_input(preprocessing(tmp_path, **entries))


def test_missing_preprocessing_names_the_file_and_the_remedy(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "vit"}))
    with pytest.raises(QKSpaceError, match=r"preprocessor_config\.json .*: copy it from where the model was published"):
        load_image_input(str(tmp_path))


# ---------------------------------------------------------------------------------------------- the grid


def tiny(family: str, **options: Any) -> Any:
    from transformers import AutoConfig, AutoModel

    small = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    config = AutoConfig.for_model(family, **small, **options)
    return AutoModel.from_config(config, attn_implementation="eager").eval()


@pytest.mark.parametrize(
    ("family", "options", "prefix"),
    [
        ("vit", {"image_size": 32, "patch_size": 8}, ["[CLS]"]),
        ("deit", {"image_size": 32, "patch_size": 8}, ["[CLS]", "[DIST]"]),
        ("dinov2", {"image_size": 56, "patch_size": 8}, ["[CLS]"]),  # whose positions are stretched to the picture
        (
            "dinov2_with_registers",
            {"image_size": 32, "patch_size": 8, "num_register_tokens": 3},
            ["[CLS]", *["[REG]"] * 3],
        ),
        ("clip_vision_model", {"image_size": 32, "patch_size": 8}, ["[CLS]"]),
        ("siglip_vision_model", {"image_size": 32, "patch_size": 8}, []),
    ],
)
def test_the_grid_of_a_family_has_its_prefix_and_a_token_a_patch(family: str, options: Any, prefix: list[str]) -> None:
    model = tiny(family, **options)
    with torch.inference_mode():
        attention = model(pixel_values=torch.randn(1, 3, 32, 32), output_attentions=True).attentions[0]
    grid = patch_grid(model.config, attention.shape[-1], (32, 32))
    assert grid == Grid(4, 4, 8, 8, tuple(prefix))
    assert grid.n_tokens == attention.shape[-1]
    assert grid.entry() == {"rows": 4, "columns": 4, "n_prefix": len(prefix), "patch": [8, 8]}
    assert grid.names()[: len(prefix)] == prefix and grid.names()[-1] == "r3c3"


def test_a_grid_of_a_picture_that_is_no_square() -> None:
    from transformers import ViTConfig

    grid = patch_grid(ViTConfig(image_size=(48, 32), patch_size=(16, 8)), 13, (48, 32))
    assert (grid.rows, grid.columns, grid.patch_height, grid.patch_width) == (3, 4, 16, 8)


@pytest.mark.parametrize(
    ("family", "options", "n_tokens", "message"),
    [
        ("vit", {}, 199, "this model adds other tokens"),
        ("vit_mae", {}, 50, "leaves most patches out"),
        ("swin", {}, 49, "within windows"),
        ("vit", {}, 100, "merges patches"),
        ("resnet", {}, 50, "states no patch_size"),
    ],
)
def test_tokens_that_are_no_patches_are_refused(family: str, options: Any, n_tokens: int, message: str) -> None:
    from transformers import AutoConfig

    with pytest.raises(QKSpaceError, match=message):
        patch_grid(AutoConfig.for_model(family, **options), n_tokens, (224, 224))


# ---------------------------------------------------------------------------------------------- the tables


def test_the_white_patch_is_where_it_was_drawn(deit_input: ImageInput) -> None:
    picture = Image.new("RGB", (224, 224), "black")
    picture.paste("white", (5 * 16, 3 * 16, 6 * 16, 4 * 16))
    tokens = only_chunk([sequence(picture)], deit_input).tokens.to_pandas()
    white = tokens[tokens["brightness"] > 0]
    assert list(white["token"]) == ["r3c5"] and list(white["text"]) == ["r3c5"]
    assert white[["row", "column", "token_id", "position", "brightness", "saturation"]].to_numpy().tolist() == [
        [3, 5, 3 * 14 + 5, 3 * 14 + 5 + 1, 1, 0]
    ]


def test_colours_are_those_of_the_patches_and_specials_have_none(deit_input: ImageInput) -> None:
    colours = np.zeros((14, 14, 3), dtype=np.uint8)
    drawn = {
        (0, 0): (255, 0, 0),
        (0, 13): (0, 128, 0),
        (7, 2): (30, 30, 90),
        (13, 13): (200, 200, 195),
        (1, 1): (9, 9, 9),
    }
    for place, colour in drawn.items():
        colours[place] = colour
    picture = Image.fromarray(np.kron(colours, np.ones((16, 16, 1), dtype=np.uint8)))
    tokens = only_chunk([sequence(picture)], deit_input).tokens.to_pandas().set_index("token")
    for (row, column), colour in drawn.items():
        assert tuple(tokens.loc[f"r{row}c{column}", ["red", "green", "blue"]]) == colour
    assert tokens.loc["r0c0", "hue"] == 0 and tokens.loc["r0c13", "hue"] == 120 and tokens.loc["r7c2", "hue"] == 240
    assert tokens.loc["r7c2", "saturation"] == pytest.approx(2 / 3) and tokens.loc[
        "r7c2", "brightness"
    ] == pytest.approx(90 / 255)
    assert np.isnan(
        tokens.loc[["r13c13", "r1c1", "r5c5"], "hue"].to_numpy(dtype=float)
    ).all()  # grey, greyish and black
    cls = tokens.loc["[CLS]"]
    of_patches = ["row", "column", "red", "green", "blue", "hue", "saturation", "brightness", "word_text"]
    assert cls[of_patches].isna().all()
    assert (cls["kind"], cls["token_id"], cls["word"], cls["is_special"]) == ("special", -1, -1, True)
    assert tokens["is_special"].sum() == 1 and set(tokens["kind"][1:]) == {"patch"}


def test_the_colour_of_a_patch_is_its_mean_in_the_photograph(deit_input: ImageInput, flower: Image.Image) -> None:
    chunk = only_chunk([sequence(flower)], deit_input)
    seen = np.asarray(Image.open(io.BytesIO(chunk.pictures[0])), dtype=float)
    for token in chunk.tokens.to_pandas().iloc[1:].sample(20, random_state=0).itertuples():
        row, column = int(token.row), int(token.column)
        patch = seen[row * 16 : row * 16 + 16, column * 16 : column * 16 + 16]
        np.testing.assert_allclose([token.red, token.green, token.blue], patch.mean(axis=(0, 1)), atol=1e-3)


def test_hue_saturation_and_brightness_are_those_of_the_standard_library() -> None:
    import colorsys

    colours = np.random.default_rng(0).uniform(0, 255, size=(200, 3)).astype(np.float32)
    expected = np.asarray([colorsys.rgb_to_hsv(*(colour / 255).tolist()) for colour in colours])
    np.testing.assert_allclose(np.stack(hsv(colours), axis=1), expected * [360, 1, 1], atol=1e-2)


def test_pixels_beyond_the_grid_belong_to_no_patch() -> None:
    picture = np.zeros((1, 9, 7, 3), dtype=np.uint8)
    picture[:, 8:], picture[:, :, 6:], picture[:, 4:8, 3:6] = 255, 255, 60
    np.testing.assert_array_equal(patch_colours(picture, Grid(2, 2, 4, 3))[:, 0], [0, 0, 0, 60])


def test_chunks_are_those_of_text_and_do_not_depend_on_where_they_end(
    deit_input: ImageInput, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = [
        ImageSequence(encoded(plain((index, 200, 10))), {"label": f"l{index % 2}"}, f"source {index}", f"{index}.png")
        for index in range(5)
    ]
    counts = TokeniseCounts()
    whole = only_chunk(images, deit_input, counts=counts)
    assert (counts.n_sequences, counts.n_tokens) == (5, 5 * 197)
    assert set(TOKEN_COLUMNS) <= set(whole.tokens.column_names)
    monkeypatch.setattr("qkspace.images._CHUNK_IMAGES", 2)
    parts = list(image_chunks(images, deit_input, VIT, counts=TokeniseCounts()))
    assert [len(part.lengths) for part in parts] == [2, 2, 1]
    for name in ("tokens", "sequences"):
        together = [row for part in parts for row in getattr(part, name).to_pylist()]
        assert together == getattr(whole, name).to_pylist()
    assert tuple(picture for part in parts for picture in part.pictures) == whole.pictures
    np.testing.assert_array_equal(np.concatenate([part.token_ids for part in parts]), whole.token_ids)
    rows = whole.sequences.to_pylist()
    assert rows[3] == {
        "sequence": 3,
        "text": "3.png",
        "n_tokens": 197,
        "window": 0,
        "source": "source 3",
        "label": "l1",
    }
    assert whole.tokens["label"].to_pylist()[3 * 197] == "l1"


def test_metadata_named_like_a_column_of_patches_is_stored_beside_it(deit_input: ImageInput) -> None:
    image = ImageSequence(encoded(plain()), {"row": "front", "text": "a caption"}, "place", "x.png")
    counts = TokeniseCounts()
    chunk = only_chunk([image], deit_input, counts=counts)
    assert counts.renamed == {"row": "corpus_row", "text": "corpus_text"}
    last = chunk.tokens.to_pylist()[-1]
    assert (last["row"], last["corpus_row"], last["text"], last["corpus_text"]) == (13, "front", "r13c13", "a caption")
    both = ImageSequence(image.image_bytes, {"row": "front", "corpus_row": "back"}, "place", "x.png")
    with pytest.raises(QKSpaceError, match="place: two columns of metadata"):
        only_chunk([both], deit_input)


def test_an_image_without_a_label_has_none_in_a_table_with_labels(deit_input: ImageInput, folder: Path) -> None:
    chunk = only_chunk(list(read_images(folder)), deit_input)
    assert chunk.sequences["label"].to_pylist() == [None, "a/deep", "b", "b", "c"]
    assert chunk.sequences["text"].to_pylist() == ["top.png", "x.JPG", "10.png", "2.png", "y.png"]


# ---------------------------------------------------------------------------------------------- pictures on disk


@pytest.fixture
def kept(tmp_path: Path, deit_input: ImageInput, china: Image.Image, flower: Image.Image) -> tuple[Path, ImageChunk]:
    images = [sequence(picture) for picture in (china, flower, plain((0, 0, 250)), china.rotate(90))]
    chunk = only_chunk(images, deit_input)
    with PictureWriter(tmp_path) as pictures:
        pictures.add(chunk.pictures[:3])
        pictures.add(chunk.pictures[3:])
    return tmp_path, chunk


def test_pictures_come_back_exactly_and_a_batch_keeps_its_order(
    kept: tuple[Path, ImageChunk], deit_input: ImageInput, flower: Image.Image
) -> None:
    pictures = Pictures(kept[0])
    assert len(pictures) == 4
    np.testing.assert_array_equal(pictures.picture(1), deit_input.picture(sequence(flower)))
    feed = ImageFeed(pictures, deit_input, torch.float32)
    batch = feed.batch(np.asarray([3, 1, 1]), torch.device("cpu"))
    assert list(batch) == ["pixel_values"] and batch["pixel_values"].dtype == torch.float32
    for place, number in enumerate([3, 1, 1]):
        alone = feed.batch(np.asarray([number]), torch.device("cpu"))["pixel_values"][0]
        np.testing.assert_array_equal(batch["pixel_values"][place], alone)
    half = ImageFeed(pictures, deit_input, torch.bfloat16).batch(np.asarray([0]), torch.device("cpu"))
    assert half["pixel_values"].dtype == torch.bfloat16


def test_the_model_says_the_same_of_fed_pictures_as_of_transformers_own(
    kept: tuple[Path, ImageChunk], deit: Path, deit_input: ImageInput, china: Image.Image, flower: Image.Image
) -> None:
    from transformers import AutoImageProcessor, AutoModelForImageClassification

    model = AutoModelForImageClassification.from_pretrained(deit).eval()
    own = AutoImageProcessor.from_pretrained(deit, backend="pil")([china, flower], return_tensors="pt")
    with torch.inference_mode():
        expected = model(**own).logits
        found = model(
            **ImageFeed(Pictures(kept[0]), deit_input, torch.float32).batch(np.arange(2), model.device)
        ).logits
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)


def test_stored_pictures_are_in_the_index_with_their_numbers(kept: tuple[Path, ImageChunk], tmp_path: Path) -> None:
    folder, chunk = kept
    write_pictures(folder, tmp_path / "index", np.asarray([True, False, True, True]))
    rows = pq.read_table(tmp_path / "index" / "images.parquet").to_pylist()
    assert [row["sequence"] for row in rows] == [0, 2, 3]
    assert [row["image"] for row in rows] == [chunk.pictures[number] for number in (0, 2, 3)]
    assert {(row["width"], row["height"]) for row in rows} == {(224, 224)}


def test_a_read_that_fails_leaves_no_offsets_that_could_be_gone_on_with(tmp_path: Path) -> None:
    with pytest.raises(QKSpaceError), PictureWriter(tmp_path) as pictures:
        pictures.add([b"first"])
        raise QKSpaceError("the second image is damaged")
    assert not (tmp_path / "pictures.npy").exists()


def test_parts_of_the_tables_can_be_joined(deit_input: ImageInput, tmp_path: Path) -> None:
    parts = []
    for number, label in enumerate((None, "cat")):
        image = ImageSequence(encoded(plain()), {"label": label} if label else {}, "place", "x.png")
        parts.append(tmp_path / f"{number}.parquet")
        pq.write_table(only_chunk([image], deit_input).tokens, parts[-1])
    store.concatenate_tables(parts, tmp_path / "tokens.parquet")
    joined = pq.read_table(tmp_path / "tokens.parquet")
    assert joined.num_rows == 2 * 197
    assert joined["label"].to_pylist()[196:198] == [None, "cat"]
    assert joined["hue"].type == pa.float32() and joined["row"].type == pa.int32()


# ---------------------------------------------------------------------------------------------- drawn images


@pytest.fixture
def maker(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(ROOT / "scripts")
    return importlib.import_module("make_images")


def test_made_images_are_read_with_their_labels_and_are_the_same_next_time(maker: Any, tmp_path: Path) -> None:
    maker.write(tmp_path / "once", each=2)
    maker.write(tmp_path / "twice", each=2)
    once, twice = (list(read_images(tmp_path / name)) for name in ("once", "twice"))
    assert {image.metadata["label"] for image in once} == set(maker.labels())
    assert [image.image_bytes for image in once] == [image.image_bytes for image in twice]
    assert len({image.image_bytes for image in once}) == len(once) == 2 * len(maker.labels())


@pytest.mark.parametrize(("name", "varies", "stays"), [("hue_gradient", 0, 2), ("brightness_gradient", 2, 0)])
def test_a_drawn_gradient_changes_one_thing_alone(maker: Any, name: str, varies: int, stays: int) -> None:
    image = getattr(maker, name)(np.random.default_rng(1))
    channels = np.stack(hsv(image.reshape(-1, 3) * 255)) / [[360], [1], [1]]
    assert np.ptp(channels[varies]) > 0.5
    colourful = channels[2] > 0.1  # hue of what is nearly black is rounding
    assert np.ptp(channels[stays][colourful]) < 0.02 and np.ptp(channels[1][colourful]) < 0.02


# ---------------------------------------------------------------------------------------------- findings


@pytest.fixture
def findings(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(ROOT / "scripts")
    return importlib.import_module("vision_findings")


SMALL = Grid(5, 5, 4, 4, ("[CLS]",))


def softened(attention: Any) -> Any:
    return attention / attention.sum(axis=-1, keepdims=True)


def test_equal_attention_has_the_share_of_each_place_and_attention_to_itself_all_of_it(findings: Any) -> None:
    equal = np.full((3, 26, 26), 1 / 26)
    shares = findings.place_shares(equal, SMALL)
    assert shares["[CLS]"].value == pytest.approx(1 / 26)
    for name, mask in findings.place_masks(SMALL).items():
        assert shares[name].value == pytest.approx(mask.mean())
    assert findings.place_masks(SMALL)["row"][12].nonzero()[0].tolist() == [10, 14]  # of the middle, r2c0 and r2c4
    assert findings.place_masks(SMALL)["column"][12].nonzero()[0].tolist() == [2, 22]
    assert findings.place_shares(np.tile(np.eye(26), (3, 1, 1)), SMALL)["self"].value == 1


def test_a_choice_by_place_gains_nothing_and_one_by_colour_gains_all(findings: Any) -> None:
    rng = np.random.default_rng(0)
    values = np.floor(rng.uniform(0, 6, size=(40, 25))) * 60  # six hues
    by_place = np.tile(softened(rng.uniform(size=(26, 26)) ** 8), (40, 1, 1))
    gain = findings.colour_choice("hue", by_place, values, 1)["gain"]
    assert gain.value == pytest.approx(0, abs=0.01)
    same = np.ones((40, 26, 26))
    same[:, 1:, 1:] = np.where(values[:, :, None] == values[:, None, :], 1, 1e-9)
    both = softened(same * by_place)  # of the patches of the same hue, those that the place prefers
    gain = findings.colour_choice("hue", both, values, 1)
    assert gain["gain"].value > 0.9 and gain["difference"].value < gain["expected"].value / 10


def test_hues_are_a_circle_and_grey_patches_say_nothing(findings: Any) -> None:
    unlike = findings.unlikeness("hue", np.asarray([[10.0, 350.0, np.nan]]))
    assert unlike[0, 0, 1] == 20 and np.isnan(unlike[0, 2]).all()
    grey = np.full((4, 25), np.nan)
    grey[:, :5] = [0, 60, 120, 180, 240]
    found = findings.colour_choice("hue", np.full((4, 26, 26), 1 / 26), grey, 1)
    assert found["difference"].value == pytest.approx(108)  # mean of the differences of five hues from the other four
    assert found["gain"].value == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("name", ["hue", "brightness", "row", "angle"])
@pytest.mark.parametrize("ordered", [True, False])
def test_a_space_is_ordered_by_what_its_vectors_hold(findings: Any, name: str, ordered: bool) -> None:
    import pandas as pd

    rng, label = np.random.default_rng(0), "sinusoid" if name == "angle" else "hue"
    n_images, n = 30, 25
    table = {"hue": rng.uniform(0, 360, n_images * n), "brightness": rng.uniform(size=n_images * n)}
    table["row"] = np.tile(np.arange(n) // 5, n_images).astype(float)
    angle = rng.uniform(-np.pi / 2, np.pi / 2, n_images)
    value = {"angle": 2 * np.repeat(angle, n), "hue": np.radians(table["hue"])}.get(name, table.get(name))
    held = np.stack([np.cos(value), np.sin(value), value], axis=1) if ordered else rng.normal(size=(n_images * n, 3))
    vectors = np.zeros((n_images, 1, 26, 3), dtype=np.float16)
    vectors[:, 0, 1:] = held.reshape(n_images, n, 3)
    captured = findings.Captured(
        query=[vectors],
        key=[vectors],
        scale=[1.0],
        patches=pd.DataFrame(table),
        labels=np.full(n_images, label),
        frequency=np.zeros(n_images),
        angle=angle,
        grid=SMALL,
        error=0.0,
    )
    order = findings.space_orders(captured, 0, 0, label, [name])[name]
    assert order.value > 0.9 if ordered else abs(order.value) < 0.1
    assert order.low <= order.value <= order.high


@pytest.mark.parametrize("waves", [3, 9])
@pytest.mark.parametrize("angle", [-0.8, 0.0, 1.2])
def test_the_wave_of_a_picture_is_the_one_that_was_drawn(findings: Any, waves: int, angle: float) -> None:
    row, column = np.mgrid[:224, :224] / 224
    phase = 2 * np.pi * waves * (np.cos(angle) * column + np.sin(angle) * row)
    picture = np.repeat(np.round(127 + 100 * np.sin(phase))[:, :, None], 3, axis=2).astype(np.uint8)
    frequency, found = findings.wave_of(picture)
    assert np.exp(frequency) == pytest.approx(waves, rel=0.1)
    assert np.cos(2 * (found - angle)) > 0.98
