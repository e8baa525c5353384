"""Tests of `qkspace.comparison.product`: a change of a head's product of weights is found, in that head alone."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import MakeCheckpoint
from transformers import AutoModel

from qkspace.capture import listening
from qkspace.comparison.product import weight_product_change
from qkspace.schema import LayerSpec

PLAIN = ("bert", "roberta", "distilbert", "gpt2")
ROTARY = ("llama", "mistral", "qwen2", "qwen3")
NAMES = {"bert": ("query", "key"), "roberta": ("query", "key"), "distilbert": ("q_lin", "k_lin")}
D_MODEL, N_HEADS, D_HEAD = 32, 4, 8


def load(folder: Path) -> Any:
    model = AutoModel.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.no_grad():  # fresh models have no biases to speak of
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.copy_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(len(name))))
    return model


def layers_of(model: Any) -> list[LayerSpec]:
    found: list[LayerSpec] = []

    def describe(call: Any) -> None:
        n_heads, n_kv_heads, d_head = call.query.shape[1], call.key.shape[1], call.query.shape[3]
        found.append(LayerSpec(call.module, n_heads, n_kv_heads, d_head, call.scale, causal=False))

    with listening(model, describe), torch.no_grad():
        model(input_ids=torch.tensor([[3, 4, 5]]))
    return found


def weights(model: Any, family: str, layer: int) -> dict[str, torch.Tensor]:
    """Views into a layer's weights, (d_model, out), and biases: writing to them changes the model."""
    module = dict(model.named_modules())[layers_of(model)[layer].module]
    if family == "gpt2":
        weight, bias = module.c_attn.weight.data, module.c_attn.bias.data
        query, key = slice(0, D_MODEL), slice(D_MODEL, 2 * D_MODEL)
        return {"wq": weight[:, query], "bq": bias[query], "wk": weight[:, key], "bk": bias[key]}
    query, key = (getattr(module, name) for name in NAMES[family])
    return {"wq": query.weight.data.T, "bq": query.bias.data, "wk": key.weight.data.T, "bk": key.bias.data}


def literal(model: Any, family: str, layer: int, head: int) -> np.ndarray:
    """Write the product of a head out: (d_model + 1, d_model)."""
    part = {
        name: w[..., head * D_HEAD : (head + 1) * D_HEAD].double().numpy()
        for name, w in weights(model, family, layer).items()
    }
    return np.vstack([part["wq"], part["bq"]]) @ part["wk"].T


def columns(head: int) -> slice:
    return slice(head * D_HEAD, (head + 1) * D_HEAD)


@pytest.mark.parametrize("family", PLAIN)
def test_it_is_the_change_of_the_product_written_out(family: str, make_checkpoint: MakeCheckpoint) -> None:
    base, tuned = load(make_checkpoint(family)), load(make_checkpoint(family, seed=1))
    found = weight_product_change(base, tuned, layers_of(base))
    assert sorted(found) == [0, 1]
    for layer, change in found.items():
        assert change is not None
        for head in range(N_HEADS):
            one, other = literal(base, family, layer, head), literal(tuned, family, layer, head)
            assert change[head] == pytest.approx(np.linalg.norm(other - one) / np.linalg.norm(one), rel=1e-9)


@pytest.mark.parametrize("family", PLAIN)
def test_a_checkpoint_and_itself_differ_by_nothing(family: str, make_checkpoint: MakeCheckpoint) -> None:
    base = load(make_checkpoint(family))
    for change in weight_product_change(base, copy.deepcopy(base), layers_of(base)).values():
        np.testing.assert_array_equal(change, np.zeros(N_HEADS))


@pytest.mark.parametrize("which", ["wq", "bq", "wk"])
@pytest.mark.parametrize("family", PLAIN)
def test_a_change_in_one_head_shows_in_that_head_alone(
    family: str, which: str, make_checkpoint: MakeCheckpoint
) -> None:
    base = load(make_checkpoint(family))
    tuned = copy.deepcopy(base)
    weights(tuned, family, 1)[which][..., columns(2)] *= 1.25
    found = weight_product_change(base, tuned, layers_of(base))
    assert found[0] is not None and found[1] is not None
    np.testing.assert_array_equal(found[0], np.zeros(N_HEADS))
    np.testing.assert_array_equal(np.flatnonzero(found[1]), [2])
    if which == "wk":
        assert found[1][2] == pytest.approx(0.25, rel=1e-6)


@pytest.mark.parametrize("family", PLAIN)
def test_another_gauge_is_no_change(family: str, make_checkpoint: MakeCheckpoint) -> None:
    """A head's queries are turned by A^-T and its keys by A, biases too, and the keys are moved on top of that."""
    base = load(make_checkpoint(family)).double()
    tuned = copy.deepcopy(base)
    matrix = torch.randn(D_HEAD, D_HEAD, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    inverse = torch.linalg.inv(matrix).T
    part = weights(tuned, family, 0)
    for name, change in (("wq", inverse), ("bq", inverse), ("wk", matrix)):
        part[name][..., columns(1)] = part[name][..., columns(1)] @ change
    part["bk"][columns(1)] += 3.0
    assert np.abs(weights(base, family, 0)["wq"].numpy() - part["wq"].numpy()).max() > 0.1
    for change in weight_product_change(base, tuned, layers_of(base)).values():
        assert change is not None
        assert change.max() < 1e-6


@pytest.mark.parametrize("family", ROTARY)
def test_rotary_positions_have_no_number(family: str, make_checkpoint: MakeCheckpoint) -> None:
    base = load(make_checkpoint(family))
    assert weight_product_change(base, copy.deepcopy(base), layers_of(base)) == {0: None, 1: None}


class Doubled(torch.nn.Linear):
    """A projection that is not what its weight says."""

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """Double it."""
        return 2 * super().forward(rows)


def no_linear(module: Any) -> None:
    module.query = torch.nn.Sequential(module.query)


def doubled(module: Any) -> None:
    linear = module.key
    module.key = Doubled(D_MODEL, D_MODEL)
    module.key.load_state_dict(linear.state_dict())


def normalised(module: Any) -> None:
    module.q_norm = torch.nn.Identity()


@pytest.mark.parametrize("spoil", [no_linear, doubled, normalised])
@pytest.mark.parametrize("side", [0, 1])
def test_weights_that_do_not_make_the_vectors_have_no_number(
    spoil: Callable[[Any], None], side: int, make_checkpoint: MakeCheckpoint
) -> None:
    """Only the layer that is not understood is left out, whichever checkpoint it is of."""
    models = [load(make_checkpoint("bert")) for _ in range(2)]
    layers = layers_of(models[0])
    spoil(dict(models[side].named_modules())[layers[1].module])
    found = weight_product_change(*models, layers)
    assert found[1] is None
    np.testing.assert_array_equal(found[0], np.zeros(N_HEADS))


def test_a_key_that_heads_share_changes_them_all(make_checkpoint: MakeCheckpoint) -> None:
    """StarCoder's family has one head of keys for all, and positions that are learnt."""
    sizes = {"n_embd": D_MODEL, "n_layer": 2, "n_head": N_HEADS, "n_positions": 64}
    base = load(make_checkpoint("gpt_bigcode", multi_query=True, **sizes))
    tuned = copy.deepcopy(base)
    layers = layers_of(base)
    assert layers[0].n_kv_heads == 1
    fused = dict(tuned.named_modules())[layers[0].module].c_attn
    assert fused.weight.shape == (D_MODEL + 2 * D_HEAD, D_MODEL)
    fused.weight.data[D_MODEL : D_MODEL + D_HEAD] *= 0.5  # the keys
    fused.bias.data[D_MODEL:] += 1.0  # biases of keys and values
    found = weight_product_change(base, tuned, layers)
    np.testing.assert_allclose(found[0], np.full(N_HEADS, 0.5), rtol=1e-6)
    np.testing.assert_array_equal(found[1], np.zeros(N_HEADS))


def test_a_fused_projection_of_another_order_has_no_number(make_checkpoint: MakeCheckpoint) -> None:
    """Without shared keys the same family lays query, key and value of each head side by side, unlike GPT-2."""
    sizes = {"n_embd": D_MODEL, "n_layer": 2, "n_head": N_HEADS, "n_positions": 64}
    base = load(make_checkpoint("gpt_bigcode", multi_query=False, **sizes))
    assert weight_product_change(base, copy.deepcopy(base), layers_of(base)) == {0: None, 1: None}


def test_layers_of_other_shapes_have_no_number(make_checkpoint: MakeCheckpoint) -> None:
    base, wide = load(make_checkpoint("bert")), load(make_checkpoint("bert", hidden_size=48))
    assert weight_product_change(base, wide, layers_of(base)) == {0: None, 1: None}
    shallow = load(make_checkpoint("bert", num_hidden_layers=1))
    found = weight_product_change(base, shallow, layers_of(base))
    assert found[0] is not None
    assert found[1] is None


def test_models_are_left_as_they_were(make_checkpoint: MakeCheckpoint) -> None:
    base = load(make_checkpoint("gpt2"))
    base.train()
    before = base.config._attn_implementation
    weight_product_change(base, base, layers_of(base))
    assert base.training
    assert base.config._attn_implementation == before
    assert not any(module._forward_pre_hooks for module in base.modules())


def test_a_trained_model(minilm: Path) -> None:
    base = AutoModel.from_pretrained(minilm, dtype=torch.float32)
    tuned = copy.deepcopy(base)
    layers = layers_of(base)
    dict(tuned.named_modules())[layers[3].module].query.weight.data[64:96] *= 0.5
    found = weight_product_change(base, tuned, layers)
    changed = np.stack([change for change in found.values() if change is not None])
    assert changed.shape == (6, 12)
    assert [tuple(place) for place in np.argwhere(changed)] == [(3, 2)]
    assert 0 < changed[3, 2] < 0.5  # the bias of the query stayed
