"""Tests of the page of an index of images: what is drawn, said and sent of patches is what the index holds."""

from __future__ import annotations

import importlib.util
import io
import re
import shutil
import string
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args
from urllib.parse import parse_qs

import numpy as np
import pytest
from bokeh.document import Document
from bokeh.models import Div
from browsing import Visit, bokeh_serve, free_port, running, save
from conftest import REPOSITORY
from PIL import Image

from qkspace.app import files, image_words, pictures, select
from qkspace.app.colours import MISSING, pack
from qkspace.app.document import make_document
from qkspace.app.language import LANGUAGES, spoken, strings
from qkspace.app.select import PATCH, Scene, Shown, colouring
from qkspace.app.state import Language, State, from_address, to_address
from qkspace.app.views.image import ImageView
from qkspace.image_picture import image_picture
from qkspace.index import Index
from qkspace.schema import QKSpaceError

DEIT = REPOSITORY.parent / "shared" / "models" / "deit-tiny"
ATTACK = "<img src=x onerror=alert(1)>&amp;"  # the name of a file, and of a label
N_IMAGES = 6
N_TOKENS, N_PATCHES, SIDE = 197, 196, 14  # of an image of this model


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Index:
    """Six images, one of them with a name and a label that are markup, read by a small vision transformer."""
    from qkspace.pipeline import build

    if not DEIT.is_dir():
        pytest.skip(f"{DEIT} is not there")
    folder = tmp_path_factory.mktemp("images")
    spec = importlib.util.spec_from_file_location("make_images", REPOSITORY / "scripts" / "make_images.py")
    assert spec is not None and spec.loader is not None
    make_images = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(make_images)
    make_images.write(folder / "all", each=1)
    for label in ("gradient", "sinusoid", "checkerboard"):
        shutil.rmtree(folder / "all" / label)
    hostile = folder / "all" / ATTACK
    hostile.mkdir()
    shutil.copy(next((folder / "all" / "china").glob("*.png")), hostile / f"{ATTACK}.png")
    plain = folder / "all" / "grey"
    plain.mkdir()
    Image.new("RGB", (224, 224), (90, 90, 90)).save(plain / "grey.png")
    return build(
        str(DEIT),
        folder / "all",
        out=folder / "index",
        methods=["pca"],
        dims=[2],
        normalise="none",
        max_tokens=2000,
        n_jobs=1,
    )


@pytest.fixture(scope="module")
def shown(index: Index) -> Shown:
    return Shown(index)


@pytest.fixture(scope="module")
def album(index: Index) -> pictures.Album:
    found = pictures.album_of(index)
    assert found is not None
    return found


@pytest.fixture
def page(index: Index) -> Document:
    doc = Document()
    make_document(doc, index, layer=2, head=1)
    return doc


def scene_of(shown: Shown, **options: Any) -> Scene:
    state = State(**{"language": "en+image", **options})
    return Scene(shown, state, colouring(shown, state))


# -------------------------------------------------------------------------------------------------- pictures


def test_each_patch_is_cut_where_the_index_measured_its_colour(album: pictures.Album, index: Index) -> None:
    rows = np.random.default_rng(0).choice(np.flatnonzero(~index.tokens["is_special"]), 40, replace=False)
    for row in rows.tolist():
        patch = pictures.patch_pixels(album, row)
        assert patch is not None and patch.shape == (16, 16, 3)
        expected = index.tokens.loc[row, ["red", "green", "blue"]].to_numpy(dtype=float)
        np.testing.assert_allclose(patch.mean(axis=(0, 1)), expected, atol=0.01)
        place, position = album.place_of(row)
        assert album.cell(position) == tuple(index.tokens.loc[row, ["row", "column"]].astype(int))
        assert index.sequences["sequence"].iloc[place] == index.tokens["sequence"].iloc[row]


def test_a_token_before_the_patches_has_no_place_in_the_image(album: pictures.Album) -> None:
    assert album.cell(0) is None and pictures.patch_pixels(album, N_TOKENS) is None
    assert pictures.place_words(album, 0, "en") == strings("en")["patch_none"]


def test_the_marked_picture_holds_the_patch_enlarged(album: pictures.Album) -> None:
    row = next(i for i in range(N_TOKENS) if album.cell(i) == (3, 5))
    content = pictures.marked(album, row)
    image = np.asarray(Image.open(io.BytesIO(_decoded(content))).convert("RGB"), dtype=float)
    patch = pictures.patch_pixels(album, row)
    assert patch is not None
    np.testing.assert_allclose(image[:96, :96].mean(axis=(0, 1)), patch.mean(axis=(0, 1)), atol=2)


def _decoded(address: str) -> bytes:
    from base64 import b64decode

    assert re.match(r"data:image/(png|jpeg|webp);base64,", address)
    return b64decode(address.split(",", 1)[1])


def test_pictures_that_are_damaged_are_named(index: Index, tmp_path: Path) -> None:
    root = tmp_path / "index"
    shutil.copytree(index.root, root)
    (root / "images.parquet").write_bytes(b"PAR1 no table PAR1")
    with pytest.raises(QKSpaceError, match=r"images\.parquet: damaged"):
        pictures.album_of(Index(root))


def test_an_index_of_texts_has_no_album(small_index: Index) -> None:
    assert pictures.album_of(small_index) is None
    assert Shown(small_index).modality == "text"


# -------------------------------------------------------------------------------------------------- words


@pytest.mark.parametrize("language", list(LANGUAGES))
def test_what_is_said_of_images_says_the_same_as_of_texts(language: Language) -> None:
    known = strings(language)
    instead = {name: text for name, text in known.items() if name.endswith("_image") and name[:-6] in known}
    assert len(instead) > 60
    for name in instead:
        assert strings(spoken(language, "image"))[name[:-6]] == instead[name]
    free = {"tooltip_where", "token_place"}  # which say where a patch is
    for name, text in instead.items():
        if name[:-6] not in free:
            assert _places(text) <= _places(known[name[:-6]]), name


def _places(sentence: str) -> set[str]:
    return {name for _, name, _, _ in string.Formatter().parse(sentence) if name}


def test_the_page_speaks_of_patches(page: Document) -> None:
    said = " ".join(div.text for div in page.select({"type": Div}))
    said = re.sub(r"<[^>]*>", " ", said)
    assert "patch" in said and "images" in said
    assert not re.search(r"\b(word|words|sentence|sentences|sequence)\b", said)
    assert not page.get_model_by_name("text").visible  # no image can be typed
    assert page.get_model_by_name("pages").labels[3] == "Image"


def test_the_address_says_what_is_chosen_and_no_modality(shown: Shown) -> None:
    first = State(language="en+image")
    state = replace(first, patches=False, flow=True, language="ja+image", selected=("key", 3))
    words = to_address(state, first)
    assert words["language"] == "ja" and words["patches"] == "0" and words["flow"] == "1"
    arguments = {name: [text.encode()] for name, text in words.items()}
    assert from_address(arguments, first, shown) == state
    with pytest.raises(QKSpaceError, match="language"):
        from_address({"language": [b"en+image"]}, first, shown)


# -------------------------------------------------------------------------------------------------- colours


def test_hues_go_round(shown: Shown, index: Index) -> None:
    colours = colouring(shown, State(colour="hue", language="en+image"))
    hue = index.tokens["hue"].to_numpy(dtype=float)
    unpacked = np.stack([(colours.query >> shift) & 255 for shift in (24, 16, 8)], axis=1).astype(float)
    known = np.isfinite(hue)
    assert (colours.query[~known] == pack([MISSING["light"]])[0]).all() and (~known).sum() > N_PATCHES  # the grey image
    from matplotlib.colors import rgb_to_hsv

    seen = 360 * rgb_to_hsv(unpacked[known] / 255)[:, 0]
    apart = np.abs((seen - hue[known] + 180) % 360 - 180)
    assert apart.max() < 2
    assert colours.legend.scale[0] == colours.legend.scale[-1]


def test_the_colour_of_the_patch_is_its_own(shown: Shown, index: Index) -> None:
    colours = colouring(shown, State(colour=PATCH, language="en+image"))
    patches = np.flatnonzero(~index.tokens["is_special"])
    for shift, name in ((24, "red"), (16, "green"), (8, "blue")):
        level = (colours.key[patches] >> shift) & 255
        np.testing.assert_allclose(level, index.tokens[name].to_numpy(dtype=float)[patches], atol=0.51)
    hidden = select.hidden_points(shown, State(colour=PATCH, hidden=("special",)), "query")
    assert (hidden == index.tokens["is_special"].to_numpy()).all()


def test_patches_can_be_coloured_by_their_place_and_their_image(shown: Shown) -> None:
    assert {"row", "column", "hue", "saturation", "brightness", "label", PATCH} <= set(shown.colour_choices)
    assert not {"red", select.FREQUENCY, select.MOD5} & set(shown.colour_choices)


# -------------------------------------------------------------------------------------------------- the image view


class Told:
    """What a view asked to be changed."""

    def __init__(self) -> None:
        self.what: dict[str, Any] = {}

    def change(self, **what: Any) -> None:
        """Take note."""
        self.what |= what


def test_the_image_view_sends_the_picture_and_the_attention_of_the_layer(shown: Shown, album: pictures.Album) -> None:
    import pandas as pd

    state = State(language="en+image", layer=3, head=2, selected=("key", 5 * N_TOKENS + 20))
    view = ImageView(shown, state, Told().change, album)
    view.show(scene_of(shown, layer=3, head=2, selected=("key", 5 * N_TOKENS + 20)))
    _, data, chosen = view.host.tags
    stored = pd.read_parquet(shown.index.root / "images.parquet")
    assert _decoded(data["picture"]) == stored["image"].iloc[5]
    assert chosen["selected"] == {"side": "key", "token": 20}
    sequence = int(shown.index.sequences["sequence"].iloc[5])
    weights = (data["attention"].reshape(3, N_TOKENS, N_TOKENS) / 65_535) ** 2
    for head in range(3):
        expected = shown.index.head(3, head).attention(sequence)
        np.testing.assert_allclose(weights[head], expected, atol=2e-5)
    view.show(scene_of(shown, layer=3, head=1, selected=("query", 5 * N_TOKENS + 21)))
    assert view.host.tags[1] is None  # what the browser has is not sent again


def test_of_a_layer_too_large_for_a_browser_the_chosen_head_alone_is_sent(
    shown: Shown, album: pictures.Album, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("qkspace.app.views.image.MOST_WEIGHTS", 1000)
    view = ImageView(shown, State(language="en+image"), Told().change, album)
    for head in (0, 2, 0):
        view.show(scene_of(shown, layer=1, head=head))
        data = view.host.tags[1]
        assert data["heads"] == [head] and data["attention"].size == N_TOKENS**2


def test_a_choice_in_the_image_is_a_choice_on_the_map(shown: Shown, album: pictures.Album) -> None:
    told = Told()
    view = ImageView(shown, State(language="en+image"), told.change, album)
    view.show(scene_of(shown, selected=("query", 2 * N_TOKENS + 9)))
    view.told({"selected": {"side": "key", "token": 50}})
    assert told.what == {"selected": ("key", 2 * N_TOKENS + 50)}
    view.told({"step": 1})
    assert told.what["selected"] == ("query", 3 * N_TOKENS + 9)  # the same place of the next image
    view.told({"step": -1})
    assert told.what["selected"] == ("query", 1 * N_TOKENS + 9)
    before = dict(told.what)
    view.told({"selected": {"side": "key", "token": N_TOKENS}})  # which no image has
    assert told.what == before


def test_the_card_of_a_patch_says_what_it_attends_to(shown: Shown, album: pictures.Album) -> None:
    row = 4 * N_TOKENS + 30
    state = State(language="en+image", layer=5, head=0, selected=("query", row))
    attention = shown.index.head(5, 0).attention(int(shown.index.sequences["sequence"].iloc[4]))[30]
    card = image_words.patch_card(shown, album, state)
    top = int(attention.argmax())
    name = str(shown.index.tokens["text"].iloc[4 * N_TOKENS + top])
    first = re.search(r'data-go="selected=key-(\d+)">([^<]*)<.*?([\d.]+) %', card, re.DOTALL)
    assert first is not None and first.groups() == (str(4 * N_TOKENS + top), name, f"{100 * attention[top]:.1f}")


def test_names_of_files_and_labels_are_shown_as_text(shown: Shown, album: pictures.Album) -> None:
    place = next(i for i in range(N_IMAGES) if ATTACK in album.caption(i))
    state = State(language="en+image", selected=("query", place * N_TOKENS + 3))
    table = shown.index.sequences.assign(hits=0)
    for html in (
        image_words.patch_card(shown, album, state),
        image_words.thumbnails(table, album, state, 0, with_hits=False),
        image_words.patches_of(album, {"query": np.array([place * N_TOKENS + 3]), "key": np.zeros(0, int)}, state, 20),
    ):
        assert ATTACK not in html and "onerror=alert" not in re.sub(r'"[^"]*"|>[^<]*<', "", html)
        assert "&lt;img src=x" in html


def test_where_a_head_looks_is_measured_patch_by_patch(
    shown: Shown, album: pictures.Album, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(image_words, "MEASURED", 2)
    found = image_words.place_statistics(shown, album, 1, 2)
    in_row, in_column, far = [], [], []
    for sequence in shown.index.sequences["sequence"].tolist()[::3]:  # two of six
        attention = shown.index.head(1, 2).attention(sequence)
        for i in range(N_PATCHES):
            own = attention[1 + i, 1:]
            cells = [divmod(j, SIDE) for j in range(N_PATCHES)]
            row, column = cells[i]
            in_row.append(sum(own[j] for j, (r, _) in enumerate(cells) if r == row))
            in_column.append(sum(own[j] for j, (_, c) in enumerate(cells) if c == column))
            away = [np.hypot(r - row, c - column) for r, c in cells]
            far.append(np.average(away, weights=own))
    measured = [found[name][0] for name in ("attention_to_row", "attention_to_column", "patch_distance")]
    np.testing.assert_allclose(measured, [np.mean(in_row), np.mean(in_column), np.mean(far)], rtol=1e-4)
    assert found["attention_to_row"][1] == pytest.approx(1 / SIDE)


# -------------------------------------------------------------------------------------------------- the page


def test_a_click_on_a_picture_chooses_its_patch(page: Document, index: Index) -> None:
    view = index.head(2, 1).projection()
    row = 4 * N_TOKENS + 77
    x, y = view.query[row].tolist()
    tapped = next(each for each in page.select({"type": type(page.get_model_by_name("map"))}) if each.name == "map")
    source = next(
        callback.args["tapped"]
        for callbacks in tapped.js_event_callbacks.values()
        for callback in callbacks
        if "tapped" in callback.args
    )
    tapped._property_values["inner_width"] = 2_000  # read-only in Python
    tapped.x_range.start, tapped.x_range.end = x - 1, x + 1
    source.data = {"x": [x], "y": [y], "turn": [1]}
    tags = next(each.tags for each in page.select({"type": Div}) if each.tags and "layer=" in str(each.tags[0]))
    assert parse_qs(tags[0])["selected"] == [f"query-{row}"]


def test_every_choice_of_an_image_page_is_in_both_languages() -> None:
    for language in get_args(Language):
        assert strings(language)["patches"] and strings(language)["flow"]


def test_a_saved_picture_shows_the_attention_of_the_chosen_patch(shown: Shown, index: Index) -> None:
    row = 2 * N_TOKENS + 40
    scene = scene_of(shown, page="sentence", layer=3, head=1, selected=("key", row))
    name, mime, content = files.make("png", scene)
    assert mime == "image/png" and Image.open(io.BytesIO(content)).size[0] > 200 and "L3H1" in name
    sequence = int(index.sequences["sequence"].iloc[2])
    figure = image_picture(index, sequence, 3, [1], token=40, side="key")
    heat = figure.axes[0].images[1].get_array()
    received = index.head(3, 1).attention(sequence)[1:, 40]
    np.testing.assert_allclose(np.asarray(heat).ravel(), received, rtol=1e-6)
    with pytest.raises(QKSpaceError, match="tokens 0 to 196"):
        image_picture(index, sequence, 3, token=N_TOKENS)


# -------------------------------------------------------------------------------------------------- in a browser


@pytest.fixture(scope="module")
def address(index: Index, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    port = free_port()
    command = bokeh_serve(port, "--index", str(index.root))
    with running(command, f"http://localhost:{port}/app", tmp_path_factory.mktemp("log") / "bokeh.log") as url:
        yield url


@pytest.mark.browser
def test_the_map_draws_patches_as_they_are(visit: Visit, address: str, index: Index, tmp_path: Path) -> None:
    seen = visit(f"{address}?layer=2&head=1")
    seen.until("() => qk.column('pictures', 'row').filter((r) => r % 197).length > 50")
    seen.page.wait_for_timeout(600)  # the pictures are read one by one
    row, kind, size = (seen.column("pictures", name) for name in ("row", "kind", "size"))
    pixel = np.asarray(seen.ask("() => qk.pixels('pictures')"))
    middle = np.abs(pixel[:, None] - pixel[None]).max(axis=2) / (0.5 * (size[:, None] + size[None]))
    np.fill_diagonal(middle, 9)
    assert middle.min() > 0.9  # none hides another
    assert set(kind.tolist()) == {0, 1} and len(row) <= 1500
    image = seen.picture()
    save(seen, tmp_path, "image-map")
    # patches of one colour are seen in it, in the middle of their pictures
    grid = index.tokens.loc[row, ["red", "green", "blue"]].to_numpy(dtype=float)
    album = pictures.album_of(index)
    assert album is not None
    plain = [
        i for i, r in enumerate(row.tolist())
        if (patch := pictures.patch_pixels(album, r)) is not None and patch.std(axis=(0, 1)).max() < 4
    ]  # fmt: skip
    assert len(plain) > 10
    colours = np.asarray([image[round(y), round(x)] for x, y in pixel[plain]])
    assert np.abs(colours - grid[plain]).max(axis=1).mean() < 12
    seen.page.get_by_role("button", name="Points").click()
    seen.until_address(patches=0)
    seen.until("() => qk.column('pictures', 'row').every((r) => r % 197 == 0)")


@pytest.mark.browser
def test_a_patch_of_the_map_opens_its_image_and_back(visit: Visit, address: str, index: Index, tmp_path: Path) -> None:
    seen = visit(f"{address}?layer=2&head=1")
    seen.until("() => qk.column('pictures', 'row').filter((r) => r % 197).length > 50")
    row, kind, size = (seen.column("pictures", name) for name in ("row", "kind", "size"))
    i = int(np.flatnonzero((kind == 0) & (row % N_TOKENS > 0))[-1])
    x, y = seen.ask("() => qk.pixels('pictures')")[i]
    seen.page.mouse.click(x + 0.4 * size[i], y - 0.4 * size[i])  # its corner, further off than a point may be
    seen.until_address(selected=f"query-{row[i]}")
    seen.page.get_by_role("button", name="Image", exact=True).click()
    said = seen.page.locator(".said")
    place, at = divmod(int(row[i]), N_TOKENS)
    attention = index.head(2, 1).attention(int(index.sequences["sequence"].iloc[place]))
    names = index.tokens["text"].iloc[:N_TOKENS].tolist()
    top = int(attention[at].argmax())
    said.filter(has_text=f"{names[at]} looks most at {names[top]}").wait_for()
    # a click on the picture chooses the patch there, as the side that is shown
    seen.page.get_by_role("button", name="Seen by").click()
    seen.until_address(selected=f"key-{row[i]}")
    picture = seen.page.locator(".stage > svg > image").first.bounding_box()
    assert picture is not None
    seen.page.mouse.click(picture["x"] + picture["width"] * 5.5 / SIDE, picture["y"] + picture["height"] * 3.5 / SIDE)
    wanted = 1 + 3 * SIDE + 5
    seen.until_address(selected=f"key-{place * N_TOKENS + wanted}")
    top = int(attention[:, wanted].argmax())
    said.filter(has_text=f"r3c5 is looked at most by {names[top]}").wait_for()
    seen.page.mouse.move(picture["x"] + picture["width"] * 0.5 / SIDE, picture["y"] + picture["height"] * 0.5 / SIDE)
    tip = seen.page.locator(".tip")
    assert f"r0c0 \u2192 r3c5: {100 * attention[1, wanted]:.2f} %" in tip.inner_text()
    seen.page.get_by_role("button", name="Flow", exact=True).click()
    seen.until_address(flow=1)
    save(seen, tmp_path, "image-flow")
    seen.page.get_by_role("button", name="Next image", exact=True).click()
    seen.until_address(selected=f"key-{(place + 1) % N_IMAGES * N_TOKENS + wanted}")
    seen.page.get_by_role("button", name="Map", exact=True).click()
    seen.until("(r) => qk.column('picked', 'x').length == 1 && qk.column('pictures', 'row').includes(r)",
               (place + 1) % N_IMAGES * N_TOKENS + wanted)  # fmt: skip


@pytest.mark.browser
def test_hostile_names_are_only_read(visit: Visit, address: str, index: Index) -> None:
    place = next(i for i, text in enumerate(index.sequences["text"].astype(str)) if "onerror" in text)
    seen = visit(f"{address}?layer=2&head=1&page=sentence&selected=query-{place * N_TOKENS + 8}")
    seen.page.locator("span.name").wait_for()
    assert ATTACK in seen.page.locator("span.name").inner_text()
    assert seen.page.locator("img[src=x]").count() == 0  # and `visit` refuses a page that opens a dialog
