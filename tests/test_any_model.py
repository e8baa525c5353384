"""Tests of whole builds of the odd ones: position biases, soft caps, sinks, experts, latent attention, uneven heads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Eager, MakeCheckpoint

import qkspace
from qkspace.index import Index
from qkspace.schema import LayerSpec

_WIDE: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 48,
    "head_dim": 8,
}
_DEBERTA: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "relative_attention": True,
    "pos_att_type": ["c2p", "p2c"],
    "position_buckets": 8,
    "max_position_embeddings": 128,
}
_LATENT: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "intermediate_size": 48,
    "moe_intermediate_size": 16,
    "n_routed_experts": 4,
    "n_group": 1,
    "topk_group": 1,
    "num_experts_per_tok": 2,
    "first_k_dense_replace": 1,
    "q_lora_rank": 16,
    "kv_lora_rank": 16,
    "qk_rope_head_dim": 4,
    "qk_nope_head_dim": 8,
    "v_head_dim": 8,
}
# family -> (options, route, position forms of its layers)
CASES: dict[str, tuple[dict[str, Any], str, set[str | None]]] = {
    "bloom": ({"hidden_size": 32, "n_layer": 2, "n_head": 4}, "inline", {"offset"}),
    "mpt": ({"d_model": 32, "n_layers": 2, "n_heads": 4, "max_seq_len": 128}, "inline", {"offset"}),
    "deberta-v2": (_DEBERTA, "inline", {"sequence"}),
    "gptj": ({"n_embd": 32, "n_layer": 2, "n_head": 4, "rotary_dim": 4, "n_positions": 128}, "inline", {None}),
    "gemma2": ({**_WIDE, "attn_logit_softcapping": 1.0, "query_pre_attn_scalar": 8}, "interface", {None}),
    "gpt_oss": ({**_WIDE, "num_local_experts": 2, "num_experts_per_tok": 1, "sliding_window": 5}, "interface", {None}),
    "mixtral": ({**_WIDE, "num_local_experts": 2, "num_experts_per_tok": 1}, "interface", {None}),
    "deepseek_v3": (_LATENT, "interface", {None}),
    "gemma4_text": (
        {
            **_WIDE,
            "global_head_dim": 16,
            "num_global_key_value_heads": 1,
            "layer_types": ["sliding_attention", "full_attention"],
        },
        *("interface", {None}),
    ),
    "longformer": (
        {**_DEBERTA, "attention_window": 8, "relative_attention": False, "pad_token_id": 0},
        *("inline", {None}),
    ),
}


UNFOLDED = ("bloom", "deberta-v2", "gpt_oss")  # one of each form: an offset, each sequence's own, a sink


@pytest.fixture(scope="module", params=CASES)
def built(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    make_checkpoint: MakeCheckpoint,
    sentences: list[str],
) -> tuple[str, Path, Index]:
    """Build an index of a tiny model of each family, its sinks and biases drawn so that they matter."""
    family = str(request.param)
    checkpoint = make_checkpoint(family, **CASES[family][0])
    folder = tmp_path_factory.mktemp(family)
    corpus = folder / "corpus.txt"
    corpus.write_text("\n".join(sentences[:12]))
    methods = ["unfold"] if family in UNFOLDED else ["pca"]
    options: dict[str, Any] = {"storage": "float32", "methods": methods, "dims": [2], "n_jobs": 1, "progress": False}
    return family, checkpoint, qkspace.build(str(checkpoint), corpus, out=folder / "index", **options)


def test_attention_of_the_index_is_the_models_own(built: tuple[str, Path, Index], eager: Eager) -> None:
    family, checkpoint, index = built
    check = index.manifest["check"]
    assert check["route"] == CASES[family][1]
    assert check["recomputed_error"] <= check["tolerance"] == 1e-4
    assert {layer.position for layer in index.layers} == CASES[family][2]
    assert len({layer.d_head for layer in index.layers}) == (2 if family == "gemma4_text" else 1)
    for sequence in index.sequences["sequence"].tolist()[:4]:
        ids = index.tokens[index.tokens["sequence"] == sequence]["token_id"].tolist()
        for layer, own in enumerate(_whole(eager(checkpoint, ids), len(ids))):
            for head in range(len(own)):
                np.testing.assert_allclose(index.head(layer, head).attention(sequence), own[head], atol=3e-4)


def _whole(own: list[Any], n: int) -> list[Any]:
    """Return what Longformer reports (the weights inside its window) as a matrix; of all others what they report."""
    from qkspace.inline import unrolled

    return [a if a.shape[2] == n else unrolled(torch.from_numpy(a)[None])[0, :, :n, :n].numpy() for a in own]


def test_maps_and_links_are_made_of_it(built: tuple[str, Path, Index]) -> None:
    _, _, index = built
    head = index.head(index.n_layers - 1, 0)
    view = head.projection(index.maps[0][0])
    assert np.isfinite(view.query).all()
    assert view.scores is not None
    link = head.links(top=1).iloc[0]
    sequence = int(index.tokens["sequence"].iloc[int(link["query"])])
    rows = index.rows(sequence)
    weight = head.attention(sequence)[int(link["query"]) - rows.start, int(link["key"]) - rows.start]
    assert weight == pytest.approx(link["attention"], abs=2e-3)


def test_one_text_of_ones_own_has_the_models_attention(built: tuple[str, Path, Index], eager: Eager) -> None:
    family, checkpoint, index = built
    live = index.live("The spruce fell on a quiet bear by the river.")
    ids = live.tokens["token_id"].tolist()
    for layer, own in enumerate(_whole(eager(checkpoint, ids), len(ids))):
        assert isinstance(live.layers[layer], LayerSpec)
        np.testing.assert_allclose(live.attention(layer, 1), own[1], atol=3e-4)
    assert family in CASES
    vectors = sum(array.nbytes for arrays in (live.query, live.key, live.value_norm) for array in arrays)
    added = sum(part.bias.nbytes for part in live.positions if part is not None and part.bias is not None)
    assert live.n_bytes == vectors + added  # what is kept for who asks again is bounded by it


def test_a_text_is_cut_where_what_position_adds_to_it_would_be_too_large(
    make_checkpoint: MakeCheckpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    from qkspace import live

    monkeypatch.setattr(live, "MAX_BYTES", 4 * 8 * 50**2)  # of two layers of four heads
    checkpoint = live.load(str(make_checkpoint("bloom", **CASES["bloom"][0])), device="cpu")
    layers = tuple(LayerSpec(f"h.{i}", 4, 4, 8, 1.0, causal=True, position="offset") for i in range(2))
    assert live.LiveModel(checkpoint, layers).max_tokens == 50


def test_a_killed_build_of_position_parts_of_each_sequence_resumes(
    tmp_path: Path, make_checkpoint: MakeCheckpoint, sentences: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The pairs of a unit are written with it, so that going on gives the same bytes."""
    from qkspace import extract, pipeline

    checkpoint = str(make_checkpoint("deberta-v2", **_DEBERTA))
    corpus = tmp_path / "corpus.txt"
    corpus.write_text("\n".join(sentences[:10]))
    options: dict[str, Any] = {"methods": ["pca"], "dims": [2], "normalise": "none", "n_jobs": 1, "progress": False}
    monkeypatch.setattr(extract, "UNIT_TOKENS", 40)
    whole = qkspace.build(checkpoint, corpus, out=tmp_path / "whole", **options)
    done = 0
    own = pipeline.UnitFiles.finish

    def finish(files: Any, unit: Any, result: Any) -> None:
        nonlocal done
        done += 1
        if done == 3:
            raise KeyboardInterrupt
        own(files, unit, result)

    with monkeypatch.context() as patch:
        patch.setattr(pipeline.UnitFiles, "finish", finish)
        with pytest.raises(KeyboardInterrupt):
            qkspace.build(checkpoint, corpus, out=tmp_path / "again", **options)
    again = qkspace.build(checkpoint, corpus, out=tmp_path / "again", **options)
    for name in ("position/L00.npy", "position/L01.npy", "query/L01.npy"):
        assert (again.root / name).read_bytes() == (whole.root / name).read_bytes()


def test_what_is_added_between_source_and_target_is_stored_where_they_meet(
    tmp_path: Path, make_checkpoint: MakeCheckpoint, sentences: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A decoder that prefers the source token of its own place: what it adds is a block of the pairs of a sequence."""
    from transformers import AutoModel
    from transformers.models.bart.modeling_bart import BartAttention

    own = BartAttention.forward

    def biased(
        self: Any, hidden_states: Any, key_value_states: Any = None, attention_mask: Any = None, **rest: Any
    ) -> Any:
        if key_value_states is not None:
            places = (torch.arange(states.shape[1]) for states in (hidden_states, key_value_states))
            asking, answering = places
            bias = -0.5 * (asking[:, None] - answering).abs().float()[None, None]
            attention_mask = bias if attention_mask is None else attention_mask + bias
        return own(self, hidden_states, key_value_states=key_value_states, attention_mask=attention_mask, **rest)

    monkeypatch.setattr(BartAttention, "forward", biased)
    sizes = {
        f"{side}_{name}": n for side in ("encoder", "decoder") for name, n in (("layers", 1), ("attention_heads", 4))
    }
    widths = {"d_model": 32, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32, "init_std": 0.25}
    checkpoint = make_checkpoint("bart", **sizes, **widths, max_position_embeddings=128, decoder_start_token_id=3)
    corpus = tmp_path / "corpus.txt"
    corpus.write_text("\n".join(sentences[:12]))
    options: dict[str, Any] = {"storage": "float32", "methods": ["pca"], "dims": [2], "normalise": "none", "n_jobs": 1}
    index = qkspace.build(str(checkpoint), corpus, out=tmp_path / "index", attention="cross", max_tokens=300, **options)
    assert index.layers[0].crosses and index.layers[0].position == "sequence"
    model = AutoModel.from_pretrained(checkpoint, attn_implementation="eager").eval()
    for place, sequence in enumerate(index.sequences["sequence"].tolist()):
        ids = index.tokens["token_id"].to_numpy()[index.rows(sequence)]
        n = index.n_source(place)
        source, target = torch.tensor(ids[None, :n].tolist()), torch.tensor(ids[None, n:].tolist())
        with torch.no_grad():
            found = model(input_ids=source, decoder_input_ids=target, output_attentions=True).cross_attentions[0][0]
        for head in range(4):
            attention = index.head(0, head).attention(sequence)
            np.testing.assert_allclose(attention[n:, :n], found[head].numpy(), atol=3e-4)
            assert not attention[:n].any() and not attention[:, n:].any()
