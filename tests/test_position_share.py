"""Tests of what is said of position: its share of a head's attention, vectors before rotation, and where both are shown."""

from __future__ import annotations

import json
import re
from dataclasses import asdict
from html import unescape
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import MakeCheckpoint
from numpy.typing import NDArray

from qkspace import position, store
from qkspace.app import atlas, figures_atlas, select, words
from qkspace.app.colours import colour_of_share
from qkspace.app.select import SHARE, Shown
from qkspace.app.state import Language, State
from qkspace.captions import content_words
from qkspace.cli import main
from qkspace.index import Index
from qkspace.pipeline import build
from qkspace.report import as_json, position_lines, summary
from qkspace.schema import FloatArray, LayerSpec, QKSpaceError

T5 = {"d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4, "decoder_start_token_id": 0}


def distance(attention: FloatArray, content: FloatArray) -> float:
    """Mean over queries of the total variation distance of two attentions; what a row lacks to 1 is a key of its own."""
    missing = np.abs(attention.sum(axis=1) - content.sum(axis=1))
    return float(np.mean((np.abs(attention - content).sum(axis=1) + missing) / 2))


def measured(index: Index, layer: int, head: int) -> float:
    """The share of a head as the vectors of the index say it."""
    one, total = index.head(layer, head), 0.0
    for sequence in index.sequences["sequence"]:
        attention = one.attention(sequence)
        total += len(attention) * distance(attention, one.content_attention(sequence))
    return total / index.n_tokens


def text_of(path: Path, sentences: list[str], n: int) -> Path:
    path.write_text("\n".join(sentences[:n]) + "\n", encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def rotary(tmp_path_factory: pytest.TempPathFactory, stories: Path, sentences: list[str]) -> Index:
    """stories260K with its vectors before rotation, in float16."""
    folder = tmp_path_factory.mktemp("rotary")
    corpus = text_of(folder / "plain.txt", sentences, 12)
    return build(str(stories), corpus, out=folder / "index", methods=["pca"], dims=[2], before_rope=True, n_jobs=1)


@pytest.fixture(scope="module")
def biased(
    tmp_path_factory: pytest.TempPathFactory, make_checkpoint: MakeCheckpoint, sentences: list[str]
) -> tuple[Index, NDArray[np.float32]]:
    """A T5 encoder whose first layer has queries of 0, and the table (bucket, head) that position adds to all of its layers."""
    from safetensors.numpy import load_file, save_file

    folder = tmp_path_factory.mktemp("biased")
    model = folder / "model"
    model.mkdir()
    for file in make_checkpoint("t5", **T5).iterdir():
        (model / file.name).write_bytes(file.read_bytes())
    tensors = load_file(model / "model.safetensors")
    table = np.random.default_rng(0).normal(0, 2, size=(32, 4)).astype(np.float32)
    tensors["encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"] = table
    tensors["encoder.block.0.layer.0.SelfAttention.q.weight"][:] = 0
    save_file(tensors, model / "model.safetensors", metadata={"format": "pt"})
    corpus = text_of(folder / "plain.txt", sentences, 12)
    options: dict[str, Any] = {
        "methods": ["pca"],
        "dims": [2],
        "storage": "float32",
        "attention": "encoder",
        "n_jobs": 1,
    }
    return build(str(model), corpus, out=folder / "index", **options), table


def bucket(offset: int) -> int:
    """T5's bucket of key minus query, to both sides (Raffel et al. 2020): 8 exact ones a side, then logarithmic up to 128."""
    side, far = (16 if offset > 0 else 0), abs(offset)
    return side + (far if far < 8 else min(8 + int(np.log(far / 8) / np.log(16) * 8), 15))


# ---------------------------------------------------------------------------------------------- the number


def test_where_content_is_nothing_the_share_is_the_distance_of_the_bias_from_even_attention(
    biased: tuple[Index, NDArray[np.float32]],
) -> None:
    """Queries of 0: content alone attends to all keys alike, and position makes softmax(table[bucket(j - i)])."""
    index, table = biased
    share = index.head_table().set_index(["layer", "head"])["position_share"]
    for head in range(4):
        total = 0.0
        for n in index.sequences["n_tokens"]:
            weight = np.exp([[table[bucket(j - i), head] for j in range(n)] for i in range(n)]).astype(np.float64)
            total += float(np.abs(weight / weight.sum(axis=1, keepdims=True) - 1 / n).sum() / 2)
        assert share[0, head] == pytest.approx(total / index.n_tokens, abs=2e-4)
        assert share[0, head] > 0.3
        even = index.head(0, head).content_attention(0)
        np.testing.assert_allclose(even, np.full(even.shape, 1 / len(even)), atol=1e-6)


def test_the_share_of_every_head_with_a_bias_is_what_its_stored_vectors_say(
    biased: tuple[Index, NDArray[np.float32]],
) -> None:
    index, _ = biased
    for row in index.head_table().itertuples():
        assert row.position_share == pytest.approx(measured(index, row.layer, row.head), abs=1e-4)


def test_the_share_of_rotary_positions_is_the_distance_to_attention_of_unrotated_vectors(rotary: Index) -> None:
    for row in rotary.head_table().itertuples():
        assert row.position_share == pytest.approx(measured(rotary, row.layer, row.head), abs=2e-3)  # float16
    share = rotary.head_table()["position_share"]
    assert share.min() > 0.02 and share.max() > 0.6  # the heads of a trained model differ


def test_a_head_that_attends_to_the_previous_token_is_decided_by_position(rotary: Index) -> None:
    table = rotary.head_table()
    assert table["position_share"].corr(table["attention_to_previous"], method="spearman") > 0.6


@pytest.mark.parametrize("form", ["sink", "soft cap"])
def test_content_attention_knows_no_sink_and_no_cap(form: str, tmp_path: Path, small_index: Index) -> None:
    """Written by hand into a copy of an index's manifest, where a sink takes more than all keys."""
    root = tmp_path / "index"
    root.mkdir()
    for path in small_index.root.rglob("*"):
        target = root / path.relative_to(small_index.root)
        target.mkdir(exist_ok=True) if path.is_dir() else target.symlink_to(path)
    manifest = json.loads((root / "manifest.json").read_text())
    changed = {"has_sink": True} if form == "sink" else {"softcap": 0.5}
    manifest["layers"] = [asdict(LayerSpec(**{**layer, **changed})) for layer in manifest["layers"]]
    (root / "manifest.json").unlink()
    store.write_json(root / "manifest.json", manifest)
    n_heads = small_index.layers[0].n_heads
    position.write(root, 0, sink=np.full(n_heads, 40.0, dtype=np.float32))
    planted, plain = Index(root).head(0, 2), small_index.head(0, 2)
    sequence = int(small_index.sequences["sequence"].iloc[0])
    np.testing.assert_allclose(planted.content_attention(sequence), plain.attention(sequence), atol=1e-6)
    assert distance(planted.attention(sequence), planted.content_attention(sequence)) > 0.01


# ---------------------------------------------------------------------------------------------- vectors before rotation


def rotated(vectors: FloatArray, places: NDArray[np.int64], theta: float = 10_000.0) -> NDArray[np.float64]:
    """Rotary positions (Su et al. 2021) as Llama lays them out: number i is turned with number i + d / 2."""
    half = vectors.shape[1] // 2
    angle = places[:, None] * theta ** (-np.arange(half) / half)
    real, imaginary = vectors[:, :half], vectors[:, half:]
    turned = (real + 1j * imaginary) * np.exp(1j * angle)
    return np.concatenate([turned.real, turned.imag], axis=1)


def test_vectors_before_rotation_turned_by_position_are_those_of_attention(rotary: Index) -> None:
    places = rotary.tokens["position"].to_numpy(dtype=np.int64)
    for layer in range(rotary.n_layers):
        for number in range(8):
            head = rotary.head(layer, number)
            for plain, turned in ((head.query_unrotated, head.query), (head.key_unrotated, head.key)):
                error = np.abs(rotated(plain, places) - turned).max()
                assert error <= 2 * 2.0**-10 * np.abs(turned).max()  # of float16, rounded before and after
                assert np.abs(plain - turned).max() > 100 * error  # and they are not the same vectors


def test_without_before_rope_there_is_the_remedy(decoder_index: Index) -> None:
    head = decoder_index.head(0, 0)
    for ask in (lambda: head.query_unrotated, lambda: head.key_unrotated, lambda: head.content_attention(0)):
        with pytest.raises(QKSpaceError, match="--before-rope"):
            ask()
    assert "position_share" not in decoder_index.head_table()


# ---------------------------------------------------------------------------------------------- where it is shown


@pytest.mark.parametrize("language", ["en", "ja"])
def test_the_card_says_the_share_and_pointing_at_it_how_it_is_measured(rotary: Index, language: Language) -> None:
    shown = Shown(rotary)
    for row in rotary.head_table().itertuples():
        html = words.head_card(shown, State(layer=row.layer, head=row.head, method="pca", language=language))
        said = words.plain(language, "position_share", share=f"{100 * row.position_share:.0f}")
        assert said in html and words.plain(language, "stat_position_share_tip") in html
        assert words.plain(language, "map_of_content") not in html  # rotation is in the vectors, and so on the map


def test_the_sentence_is_plain_english(rotary: Index) -> None:
    share = rotary.head_table().set_index(["layer", "head"]).loc[(1, 3), "position_share"]
    html = unescape(words.head_card(Shown(rotary), State(layer=1, head=3, method="pca")))
    assert f"{100 * share:.0f} % of this head's attention is decided by position, not by content." in html


@pytest.mark.parametrize("language", ["en", "ja"])
def test_a_map_of_content_is_called_so_where_position_is_added(
    biased: tuple[Index, NDArray[np.float32]], language: Language
) -> None:
    index, _ = biased
    html = words.head_card(Shown(index), State(layer=1, head=0, method="pca", language=language))
    assert words.plain(language, "map_of_content") in html
    assert "content part" in content_words(index.head(1, 0).projection("pca"))


def test_a_model_whose_position_cannot_be_told_says_nothing_of_it(small_index: Index) -> None:
    html = words.head_card(Shown(small_index), State(method="pca"))
    assert words.plain("en", "stat_position_share_tip") not in html and words.plain("en", "map_of_content") not in html
    assert content_words(small_index.head(0, 0).projection("pca")) == ""
    assert SHARE not in Shown(small_index).colour_choices
    assert position_lines(small_index) == []


def test_heads_are_sorted_and_coloured_by_the_share_in_the_atlas(rotary: Index) -> None:
    shown = Shown(rotary)
    state = State(page="atlas", method="pca", order="position_share", colour=SHARE)
    table = atlas.atlas_table(shown, state)
    assert "position_share" in atlas.order_labels(table, "ja")
    order = atlas.chosen_heads(table, state)
    assert order is not None
    share = table["position_share"].to_numpy()
    assert (np.diff(share[order]) <= 0).all()
    mosaic = atlas.mosaic(shown, state, cell_px=40, heads_order=order)
    brightness = []
    for i in range(len(order)):
        cells = mosaic.cells
        box = slice(int(cells["y0"][i]), int(cells["y1"][i])), slice(int(cells["x0"][i]), int(cells["x1"][i]))
        pixels = mosaic.image[box].view(np.uint8).reshape(-1, 4)
        brightness.append(float(pixels[pixels[:, 3] > 0][:, :3].mean()))  # cividis: the larger the brighter
    assert np.corrcoef(brightness, share[order])[0, 1] > 0.9
    said = figures_atlas.cells_data(mosaic, table)["rest"]
    assert f"decided by position: {share[order[0]]:.0%}" in said[0]


def test_a_single_map_has_the_colour_of_its_head_and_says_what_it_is(rotary: Index) -> None:
    shown = Shown(rotary)
    state = State(layer=2, head=0, method="pca", colour=SHARE)
    colours = select.colouring(shown, state)
    share = shown.position_share(2, 0)
    assert set(colours.query.tolist()) == set(colours.key.tolist()) == {int(colour_of_share(share, "light"))}
    html = words.legend(colours.legend, markers=True)
    assert words.plain("en", "legend_position_share") in html
    assert select.colouring(shown, State(layer=4, head=0, method="pca", colour=SHARE)).query[0] != colours.query[0]


def test_a_share_has_the_colour_of_its_place_on_the_whole_scale() -> None:
    assert len({int(colour_of_share(share, "light")) for share in (0.0, 0.5, 1.0, float("nan"))}) == 4
    assert colour_of_share(1.2, "dark") == colour_of_share(1.0, "dark")


def test_the_report_names_the_heads_that_position_decides_most(
    rotary: Index, capsys: pytest.CaptureFixture[str]
) -> None:
    table = rotary.head_table().sort_values("position_share", ascending=False)
    (line,) = position_lines(rotary)
    assert line in summary(rotary)
    assert f"{table['position_share'].mean():.0%} of attention is decided by position" in line
    named = [f"L{layer}H{head}" for layer, head in zip(table["layer"].head(5), table["head"].head(5), strict=True)]
    assert re.findall(r"L\d+H\d+", line) == named
    assert main(["report", str(rotary.root), "--json"]) == 0
    heads = json.loads(capsys.readouterr().out)["heads"]
    assert [head["position_share"] for head in heads] == pytest.approx(rotary.head_table()["position_share"].tolist())
    assert [head["layer"] for head in as_json(rotary)["heads"]] == [head["layer"] for head in heads]
