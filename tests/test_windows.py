"""Attention within windows (Swin) is put back together as attention over the whole picture, patch by patch."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from bokeh.document import Document
from numpy.typing import NDArray
from PIL import Image
from transformers import AutoConfig, AutoModel

from qkspace import unfold
from qkspace.app.document import make_document
from qkspace.capture import forward, listening
from qkspace.cli import main
from qkspace.image_input import load_image_input, window_grid
from qkspace.index import Index
from qkspace.model import load
from qkspace.parts import choices
from qkspace.pipeline import build
from qkspace.schema import QKSpaceError
from qkspace.selfcheck import check, survey
from qkspace.trial import load_to_try, try_parts
from qkspace.windows import whole

SIZE = (32, 48)  # pixels: no square, so that rows and columns cannot be mistaken for each other
GRIDS = {"stage0": (16, 24), "stage1": (8, 12)}
WINDOW, SHIFT = 4, 2  # patches; every second layer is shifted
N_IMAGES = 5
OPTIONS = {"embed_dim": 16, "depths": [2, 2], "num_heads": [2, 4], "window_size": WINDOW, "patch_size": 2}


def make(folder: Path, family: str = "swin", size: tuple[int, int] = SIZE, **options: Any) -> Path:
    """Write a small model with random weights wide enough that attention is far from uniform."""
    torch.manual_seed(0)
    model = AutoModel.from_config(AutoConfig.for_model(family, **{**OPTIONS, "image_size": size, **options}))
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "relative_position_bias" in name or weight.dim() > 1:
                weight.normal_(std=0.5)
    model.save_pretrained(folder)
    preprocessing = {"image_processor_type": "ViTImageProcessor", "size": {"height": size[0], "width": size[1]}}
    (folder / "preprocessor_config.json").write_text(json.dumps(preprocessing))
    return folder


@pytest.fixture(scope="module")
def swin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("swin"))


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, rng = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    for number in range(N_IMAGES):
        Image.fromarray(rng.integers(0, 256, size=(*SIZE, 3), dtype=np.uint8)).save(folder / f"{number}.png")
    return folder


@pytest.fixture(scope="module", params=["stage0", "stage1"])
def index(request: pytest.FixtureRequest, swin: Path, corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Index:
    out = tmp_path_factory.mktemp(request.param) / "index"
    few = request.param == "stage1"  # patches: a sixteenth of the pairs, which are what takes time
    maps = {"methods": ["pca", "unfold"]} if few else {"methods": ["pca"], "normalise": "none"}
    more: dict[str, Any] = {**maps, "dims": [2], "storage": "float32", "n_jobs": 1}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(unfold, "STEPS", 50)
        return build(str(swin), corpus, out=out, attention=request.param, **more)


def stage_of(index: Index) -> str:
    return str(index.manifest["check"]["part"])


def pixels_of(index: Index, swin: Path, sequence: int) -> torch.Tensor:
    """Return one picture as the model reads it, from the picture that the index holds."""
    stored = pq.read_table(index.root / "images.parquet").to_pydict()
    encoded = stored["image"][stored["sequence"].index(sequence)]
    return torch.from_numpy(load_image_input(str(swin)).pixel_values([np.array(Image.open(io.BytesIO(encoded)))]))


def expected_attention(swin: Path, pixels: torch.Tensor, stage: str) -> list[NDArray[np.float32]]:
    """Return each layer's attention (head, patch, patch) from the weights that the model itself computed, by arithmetic."""
    model = AutoModel.from_pretrained(swin, attn_implementation="eager").eval()
    found: list[torch.Tensor] = []
    for layer in model.encoder.layers[int(stage[-1])].blocks:
        layer.attention.register_forward_hook(lambda module, given, output: found.append(output[1]))
    with torch.no_grad():
        model(pixels)
    rows, columns = GRIDS[stage]
    row, column = np.divmod(np.arange(rows * columns), columns)
    whole = []
    for number, weights in enumerate(found):
        shift = SHIFT * (number % 2)
        r, c = (row - shift) % rows, (column - shift) % columns
        window, place = r // WINDOW * (columns // WINDOW) + c // WINDOW, r % WINDOW * WINDOW + c % WINDOW
        wrapped = (row < shift) * 2 + (column < shift)
        meets = (window[:, None] == window[None, :]) & (wrapped[:, None] == wrapped[None, :])
        own = weights.numpy()[window, :, place].transpose(1, 0, 2)[:, :, place]  # (head, patch, patch)
        whole.append(np.where(meets, own, 0))
    return whole


def test_attention_of_the_index_is_that_of_the_models_own_windows(index: Index, swin: Path) -> None:
    rows, columns = GRIDS[stage_of(index)]
    assert index.n_layers == 2 and [layer.position for layer in index.layers] == ["grid", "grid"]
    for sequence in (0, 3):
        expected = expected_attention(swin, pixels_of(index, swin, sequence), stage_of(index))
        for layer, own in enumerate(expected):
            allowed = index.allowed(layer, sequence)
            for head in range(index.layers[layer].n_heads):
                found = index.head(layer, head).attention(sequence)
                assert found.shape == (rows * columns,) * 2
                np.testing.assert_allclose(found, own[head], atol=2e-5)
                np.testing.assert_allclose(found.sum(axis=1), 1, atol=1e-5)
                assert not found[own[head] == 0].any()
                np.testing.assert_array_equal(allowed, own[head] > 0)


def test_a_patch_attends_where_a_change_reaches_it(swin: Path) -> None:
    """Knows nothing of windows: a layer is run with one patch changed, and who notices is who attends to it."""
    model = AutoModel.from_pretrained(swin, attn_implementation="eager").eval()
    rows, columns = GRIDS["stage1"]
    calls: list[Any] = []
    with listening(model, lambda call: calls.append(whole(call))):
        forward(model, {"pixel_values": torch.randn(1, 3, *SIZE)})
    for call, layer in zip(calls[2:], model.encoder.layers[1].blocks, strict=True):
        seen = call.attention[0].sum(dim=0) > 1e-30  # (query patch, key patch); a mask of -100 leaves 1e-44
        hidden = torch.randn(1, rows * columns, 32)
        with torch.no_grad():
            before = layer(hidden, (rows, columns))[0]
            for patch in (0, 5, columns - 1, 3 * columns + 7, rows * columns - 1):
                changed = hidden.clone()
                changed[0, patch] = torch.randn(32)
                notices = (layer(changed, (rows, columns))[0] - before).abs().amax(dim=-1)[0] > 0
                assert torch.equal(notices, seen[:, patch]), (call.module, patch)


def test_statistics_are_those_of_attention_over_whole_pictures(index: Index) -> None:
    table = index.head_table().set_index(["layer", "head"])
    for layer in range(index.n_layers):
        each = [index.head(layer, 1).attention(s) for s in range(N_IMAGES)]
        entropy = np.mean([-(a * np.log(np.maximum(a, 1e-30))).sum(axis=1) for a in each])
        assert table.loc[(layer, 1), "entropy"] == pytest.approx(entropy, abs=1e-4)
        uniform = np.mean(np.log(index.allowed(layer, 0).sum(axis=1)))
        assert table.loc[(layer, 1), "entropy_uniform"] == pytest.approx(uniform, abs=1e-5)
        contents = [index.head(layer, 1).content_attention(s) for s in range(N_IMAGES)]
        share = np.mean([np.abs(a - c).sum(axis=1) / 2 for a, c in zip(each, contents, strict=True)])
        assert table.loc[(layer, 1), "position_share"] == pytest.approx(share, abs=1e-4)
        head = index.head(layer, 1)
        own = head.attention(0)
        np.testing.assert_allclose(head.top_attention[: len(own), 0], own.max(axis=1), rtol=2e-3)


def test_every_token_is_a_patch_of_its_stage(index: Index) -> None:
    rows, columns = GRIDS[stage_of(index)]
    patch = SIZE[0] // rows
    assert index.manifest["image"] == {"rows": rows, "columns": columns, "n_prefix": 0, "patch": [patch, patch]}
    assert len(index.tokens) == N_IMAGES * rows * columns and not index.tokens["is_special"].any()
    assert index.tokens["text"].iloc[columns + 2] == "r1c2"


def test_what_is_stored_of_windows_does_not_grow_with_the_corpus(index: Index) -> None:
    n = len(index.tokens) // N_IMAGES
    for number, layer in enumerate(index.layers):
        with np.load(index.root / "position" / f"L{number:02d}.npz") as arrays:
            assert arrays["bias"].shape == (layer.n_heads, n, n)
    assert not list((index.root / "position").glob("*.npy"))


def test_a_window_has_a_report_and_a_page(index: Index, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(index.root)]) == 0
    printed = capsys.readouterr().out
    assert f"its {stage_of(index)} attention" in printed and "L1H1" in printed
    doc = Document()
    make_document(doc, index, layer=1, head=1)
    view = index.head(1, 1).projection()
    drawn = doc.get_model_by_name("map")
    assert drawn is not None and view.query.shape == view.key.shape == (len(index.tokens), 2)
    doc.validate()


def test_a_stage_has_to_be_chosen_among_those_there_are(swin: Path, corpus: Path, tmp_path: Path) -> None:
    assert choices(load(str(swin), modality="image").model) == ["stage0", "stage1"]
    with pytest.raises(QKSpaceError, match="--attention stage0 or stage1"):
        build(str(swin), corpus, out=tmp_path / "none")
    for part in ("self", "stage2"):
        with pytest.raises(QKSpaceError, match=f"no part '{part}'. Its parts: stage0, stage1"):
            build(str(swin), corpus, out=tmp_path / part, attention=part)


def test_a_trial_tries_every_stage_over_whole_pictures(swin: Path) -> None:
    found = {trial.part: trial.check for trial in try_parts(load_to_try(str(swin), device="cpu"))}
    assert set(found) == set(GRIDS)
    for part, (rows, columns) in GRIDS.items():
        result = found[part]
        assert result is not None and result.n_tokens == 2 * rows * columns


def test_patches_that_do_not_fill_the_windows_are_refused(tmp_path: Path, corpus: Path) -> None:
    """Swin then adds empty patches, which are attended to; window by window all is captured nevertheless."""
    folder = make(tmp_path / "model", size=(40, 40))  # 20 x 20 patches, then 10 x 10
    with pytest.raises(QKSpaceError, match=r"10 x 10 patches of a picture do not fill them"):
        build(str(folder), corpus, out=tmp_path / "index", attention="stage1")
    model = load(str(folder), modality="image").model
    found = {each.part: each for each in survey(model, {"pixel_values": torch.randn(2, 3, 40, 40)})}
    assert set(found) == {"stage0", "stage1"} and all(each.recomputed_error <= 1e-4 for each in found.values())


def test_patches_that_reach_beyond_the_picture_are_refused() -> None:
    assert window_grid(8, 12, (32, 48)).entry() == {"rows": 8, "columns": 12, "n_prefix": 0, "patch": [4, 4]}
    with pytest.raises(QKSpaceError, match="reach beyond it"):
        window_grid(8, 12, (30, 48))


@pytest.mark.parametrize("family", ["swinv2", "donut-swin", "maskformer-swin"])
def test_families_of_the_inline_route_have_whole_pictures_too(family: str, tmp_path: Path) -> None:
    """What they add to the logits is seen through rounding only; it is one grid for all pictures all the same."""
    folder = make(tmp_path, family, (32, 32))
    model = AutoModel.from_pretrained(folder).eval()
    pixels = torch.randn(2, 3, 32, 32)
    result = check(model, {"pixel_values": pixels}, {"pixel_values": pixels[:1]}, part="stage0")
    assert result.route == "inline" and result.n_tokens == 2 * 256 and result.recomputed_error <= 1e-4
    assert [layer.position for layer in result.layers] == ["grid", "grid"]
    for number, position in enumerate(result.positions):
        assert position is not None and position.bias is not None
        n_keys = (position.bias > -np.inf).sum(axis=2)
        assert (n_keys.min(), n_keys.max()) == (16 if number == 0 else 4, 16)  # corners of a shifted picture see fewer


def test_nothing_is_left_on_the_model(swin: Path) -> None:
    model = AutoModel.from_pretrained(swin).eval()
    with listening(model, lambda call: None):
        forward(model, {"pixel_values": torch.randn(1, 3, *SIZE)})
        assert any(module._forward_pre_hooks for module in model.modules())
    assert not any(module._forward_pre_hooks for module in model.modules())
    from qkspace import windows

    assert not windows._sizes
