"""The images that maps of a vision model are measured on, and the samples made of them, are what docs/benchmarks.md says."""

import importlib
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from scipy.special import softmax
from transformers import AutoModelForImageClassification, ViTConfig, ViTForImageClassification

from qkspace.schema import QKSpaceError

ROOT = Path(__file__).resolve().parents[1]
DEIT = ROOT.parent / "shared" / "models" / "deit-tiny"


@pytest.fixture(autouse=True)
def scripts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "scripts")


@pytest.fixture
def made() -> ModuleType:
    return importlib.import_module("benchmark_images")


@pytest.fixture(params=["random", "deit-tiny"])
def model(request: pytest.FixtureRequest) -> Any:
    if request.param == "random":
        torch.manual_seed(0)
        config = ViTConfig(image_size=32, patch_size=8, hidden_size=32, num_hidden_layers=2, num_attention_heads=4)
        config.intermediate_size, config.initializer_range = 48, 0.25  # attention far from equal
        return ViTForImageClassification._from_config(config, attn_implementation="eager").eval()
    if not DEIT.is_dir():
        pytest.skip(f"{DEIT} is not there: this test needs it")
    return AutoModelForImageClassification.from_pretrained(DEIT, attn_implementation="eager")


def images_of(model: Any, n: int = 5) -> torch.Tensor:
    side = model.config.image_size
    return torch.randn(n, 3, side, side, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("width", [640, 641])
def test_no_held_out_crop_shows_a_pixel_of_the_fitted_area(made: ModuleType, width: int) -> None:
    photograph = np.zeros((427, width, 3), dtype=np.float32)
    photograph[:, width // 2 :] = 1
    fit, held_out = made.make_images([photograph] * 2)
    n_crops = 2 * made.CROPS
    assert len(fit) == len(held_out) > n_crops  # what is not cut is drawn
    np.testing.assert_allclose(fit[:n_crops], 0, atol=1e-6)
    np.testing.assert_allclose(held_out[:n_crops], 1, atol=1e-6)


def test_every_image_is_another_and_the_same_next_time(made: ModuleType) -> None:
    photographs = np.random.default_rng(0).random((2, 300, 400, 3), dtype=np.float32)
    images, again = (np.concatenate(made.make_images(photographs)) for _ in range(2))
    np.testing.assert_array_equal(images, again)
    assert len(np.unique(images.reshape(len(images), -1), axis=0)) == len(images)
    assert images.min() >= 0 and images.max() <= 1
    assert (np.ptp(images, axis=(1, 2)).max(axis=1) > 0.1).all()  # a pattern can be seen


def test_captured_attention_is_the_models_own_and_cls_is_no_content(made: ModuleType, model: Any) -> None:
    images = images_of(model)
    layers = made.capture(model, images)
    with torch.inference_mode():
        attentions = model(pixel_values=images, output_attentions=True).attentions
    n_images, n_heads, length, _ = attentions[0].shape
    assert len(layers) == len(attentions)
    for own, heads in zip(attentions, layers, strict=True):
        assert len(heads) == n_heads
        for head, sample in enumerate(heads):
            query, key = (vectors.reshape(n_images, length, -1) for vectors in (sample.query, sample.key))
            attention = softmax(sample.layer.scale * query @ key.transpose(0, 2, 1), axis=-1)
            np.testing.assert_allclose(attention, own[:, head], atol=1e-4)
            np.testing.assert_array_equal(sample.starts, length * np.arange(n_images + 1))
            np.testing.assert_array_equal(np.flatnonzero(~sample.is_content), sample.starts[:-1])
            assert made.cls_share(sample) == pytest.approx((own[:, head].argmax(dim=-1) == 0).float().mean().item())


def test_vectors_of_other_images_are_refused(made: ModuleType, model: Any) -> None:
    images = images_of(model)
    layers = made.capture(model, images)
    with pytest.raises(QKSpaceError, match="differs from the model's own"):
        made.compare(model, images[1:], layers)


def test_an_absent_vision_model_is_said_and_skipped(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    script = importlib.import_module("benchmark_fidelity")
    monkeypatch.setattr(script, "VISION", tmp_path / "absent")
    script.images(every=1, few=1)
    assert "skipped" in (said := capsys.readouterr().out) and str(tmp_path / "absent") in said
