"""Shrink: make any configuration of transformers small, field by field and by the names of the fields.

In: a configuration, as its class makes it by default. Out: the same object, changed in place, so that a model of it has about
a million parameters. Knows no models and no inputs.
"""

from __future__ import annotations

from typing import Any

from transformers import PreTrainedConfig

VOCABULARY = 120
WIDTH, HEADS, KV_HEADS, HEAD_WIDTH, INNER = 64, 4, 2, 16, 96

_WIDTHS = (
    "hidden_size d_model dim n_embd embed_dim embedding_size emb_dim projection_dim out_hidden_size word_embed_proj_dim "
    "encoder_hidden_size decoder_hidden_size output_dim image_text_hidden_size embedding_dim projection_size proj_dim "
    "hidden_size_global cross_hidden_size backbone_hidden_size pooler_hidden_size attention_hidden_size encoder_dim "
    "hidden_dim project_dim vision_output_dim text_hidden_size vision_hidden_size projector_hidden_size output_hidden_size "
    "encoder_hidden_dim projector_hidden_dim conf_hidden_size adapter_hidden_size decoder_dim t2u_d_model "
    "vision_embed_dim mm_hidden_size d_embed audio_hidden_size prediction_head_size lm_hidden_size text_dim "
    "fpn_hidden_size unit_embed_dim"
)
_INNERS = (
    "intermediate_size ffn_dim encoder_ffn_dim decoder_ffn_dim d_ff n_inner mlp_dim moe_intermediate_size dff dim_ff d_inner "
    "shared_expert_intermediate_size ffn_hidden_size shared_intermediate_size dense_intermediate_size "
    "decoder_intermediate_size "
    "speech_encoder_intermediate_size t2u_encoder_ffn_dim t2u_decoder_ffn_dim shared_experts_intermediate_size "
    "encoder_intermediate_size intermediate_dim mlp_hidden_size intermediate_size_mlp block_ff_dim "
    "expert_ffn_hidden_size moe_shared_expert_intermediate_size projection_intermediate_size alignment_intermediate_size"
)
_LAYERS = (
    "num_hidden_layers n_layer n_layers num_layers encoder_layers decoder_layers depth num_decoder_layers num_encoder_layers "
    "encoder_num_hidden_layers decoder_num_hidden_layers speech_encoder_layers t2u_encoder_layers t2u_decoder_layers "
    "num_blocks conf_num_hidden_layers encoder_num_layers decoder_num_layers num_mel_attn_blocks vision_layers "
    "num_spatial_layers num_temporal_layers num_auxiliary_layers attention_layers resampler_depth"
)
_HEADS = (
    "num_attention_heads n_head n_heads num_heads encoder_attention_heads decoder_attention_heads attention_heads "
    "encoder_num_attention_heads decoder_num_attention_heads cross_num_attention_heads speech_encoder_attention_heads "
    "t2u_encoder_attention_heads t2u_decoder_attention_heads conf_num_attention_heads swa_num_attention_heads "
    "decoder_num_heads encoder_num_heads resampler_n_heads num_attn_heads"
)
_KV_HEADS = (
    "num_key_value_heads kv_n_heads num_kv_heads cross_num_key_value_heads swa_num_key_value_heads encoder_num_key_value_heads "
    "decoder_num_key_value_heads resampler_num_key_value_heads attn_num_key_value_heads"
)
_HEAD_WIDTHS = (
    "head_dim d_head d_kv swa_head_dim cross_head_dim v_head_dim qk_nope_head_dim dim_head "
    "kv_channels attention_head_dim"
)
_EXPERTS = "num_experts n_routed_experts num_local_experts moe_num_experts num_zero_experts"

_FIXED: dict[str, int] = {
    **dict.fromkeys(_WIDTHS.split(), WIDTH),
    **dict.fromkeys(_INNERS.split(), INNER),
    **dict.fromkeys(_HEADS.split(), HEADS),
    **dict.fromkeys(_KV_HEADS.split(), KV_HEADS),
    **dict.fromkeys(_HEAD_WIDTHS.split(), HEAD_WIDTH),
    **dict.fromkeys(_EXPERTS.split(), 4),
    "global_head_dim": HEAD_WIDTH,
    "num_global_key_value_heads": KV_HEADS,
    "qk_rope_head_dim": HEAD_WIDTH,
    "qk_head_dim": 2 * HEAD_WIDTH,
    "kv_lora_rank": 16,
    "q_lora_rank": 24,
    "index_head_dim": HEAD_WIDTH,
    "index_n_heads": 2,
    "n_group": 1,
    "topk_group": 1,
    "num_expert_group": 1,
    "query_pre_attn_scalar": HEAD_WIDTH,
    "hidden_size_per_layer_input": 16,
    "num_kv_shared_layers": 0,
    "first_k_dense_replace": 1,
    "num_dense_layers": 1,
    "linear_key_head_dim": HEAD_WIDTH,
    "linear_value_head_dim": HEAD_WIDTH,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_head_dim": HEAD_WIDTH,
    "linear_num_heads": HEADS,
    "rotary_dim": 8,
    "codebook_size": 64,
    "upsample_groups": 1,
    "subsampling_conv_channels": 16,
    "num_queries": 12,
    "num_query_tokens": 8,
    "two_stage_num_proposals": 12,
}
_AT_MOST: dict[str, int] = {
    "num_experts_per_tok": 2,
    "num_experts_per_token": 2,
    "moe_k": 2,
    "moe_topk": 2,
    "moe_top_k": 2,
    "top_k_experts": 2,
    "max_position_embeddings": 160,
    "n_positions": 160,
    "n_ctx": 160,
    "max_seq_len": 160,
    "max_source_positions": 32,
    "max_target_positions": 64,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
    "sliding_window": 8,
    "sliding_window_size": 8,
    "attention_window": 8,
    "index_topk": 8,
    "local_attention": 8,
    "resampler_n_latents": 8,
    "n_shared_experts": 1,
    "zero_expert_num": 4,
    "num_latents": 16,
    "max_2d_position_embeddings": 256,
}
IMAGE_SIZE, PATCH = 32, 8


def shrink(config: PreTrainedConfig, image_size: int | None = IMAGE_SIZE, widths: bool = True) -> PreTrainedConfig:
    """Make a configuration and all that it is composed of small, in place.

    Args:
        config: as its class makes it by default.
        image_size: edge of pictures where they come as patches; None leaves pictures as they are.
        widths: False leaves widths and heads as they are and only drops layers and words.
    """
    fields = vars(config)
    widths = widths and "embed_dim_per_stage" not in fields  # widths that are given stage by stage stay
    _drop_layers(fields)
    for name, value in list(fields.items()):
        if isinstance(value, PreTrainedConfig):
            shrink(value, image_size, widths)
        elif isinstance(value, bool) or value is None:
            continue
        elif isinstance(value, int):
            fields[name] = _small(name, value, image_size, widths)
    if image_size and isinstance(fields.get("image_size"), (list, tuple)):
        fields["image_size"] = type(fields["image_size"])([image_size] * len(fields["image_size"]))
    if widths:
        _fit_heads(fields)
    _keep_token_ids_inside(fields)
    _fit_rotary(fields)
    return config


def _small(name: str, value: int, image_size: int | None, widths: bool) -> int:
    if "vocab_size" in name and name != "type_vocab_size":
        return min(value, VOCABULARY)
    if name in _AT_MOST:
        return min(value, _AT_MOST[name]) if value > 0 else value
    if image_size and name in ("image_size", "img_size", "pretrain_image_size") and value > 0:
        return image_size
    if image_size and name == "patch_size" and value > 4:
        return PATCH
    if widths and name in _FIXED and value > 0:
        return _FIXED[name]
    return value


def _fit_heads(fields: dict[str, Any]) -> None:
    """Fill in the widths that a configuration leaves open, and let latent attention have a key for every query head."""
    if "num_attention_heads" in fields:
        for name, value in (("head_dim", HEAD_WIDTH), ("num_key_value_heads", KV_HEADS), ("num_experts_per_tok", 2)):
            if name in fields and fields[name] is None:
                fields[name] = value
    if fields.get("kv_lora_rank") and "num_key_value_heads" in fields:
        fields["num_key_value_heads"] = HEADS


def _drop_layers(fields: dict[str, Any]) -> None:
    """Keep two layers, or more where layers are of more kinds: the first of every kind."""
    for name in _LAYERS.split():
        n = fields.get(name)
        if not isinstance(n, int) or isinstance(n, bool) or n <= 2:
            continue
        lists = [
            k for k, v in fields.items() if isinstance(v, (list, tuple)) and len(v) == n and not k.startswith("stage")
        ]
        kinds = [tuple(str(fields[k][i]) for k in lists if _names_kinds(fields[k])) for i in range(n)]
        kept = sorted({kinds.index(kind) for kind in kinds})[:6]
        kept = kept if len(kept) > 1 else [0, 1]
        for k in lists:
            fields[k] = type(fields[k])(_small_of_layer(k, fields[k][i]) for i in kept)
        fields[name] = len(kept)
        _move_stages(fields, name, n, len(kept))
        _move_layer_numbers({k: v for k, v in fields.items() if k not in lists}, fields, n, len(kept))


def _small_of_layer(name: str, value: Any) -> Any:
    if type(value) is not int or value <= 1:
        return value
    if "heads" in name:
        return KV_HEADS if "key_value" in name else HEADS
    return INNER if "intermediate" in name else value


def _move_stages(fields: dict[str, Any], name: str, before: int, after: int) -> None:
    """Let a backbone hand out as many stages as before, from its last layers."""
    if len(fields.get("stage_names") or ()) != before + 1:
        return
    n_out = len(fields.get("_out_indices") or fields.get("_out_features") or (1,))
    fields[name] = after = max(after, n_out)
    fields["stage_names"] = ["stem", *(f"stage{i + 1}" for i in range(after))]
    fields["_out_indices"] = list(range(after + 1))[-n_out:]
    fields["_out_features"] = fields["stage_names"][-n_out:]


def _names_kinds(values: Any) -> bool:
    return all(isinstance(v, (str, bool)) for v in values) or len(set(map(str, values))) <= 3


_NUMBERS_OF_LAYERS = ("_indexes", "_indices", "_idxs", "_layer_ids", "_layers", "_layer", "hook_ids", "_blocks", "_ids")


def _move_layer_numbers(candidates: dict[str, Any], fields: dict[str, Any], before: int, after: int) -> None:
    """Let fields that name layers by number name layers that are still there."""
    for name, value in candidates.items():
        if isinstance(value, (list, tuple)) and value and all(type(v) is int and v < before + 1 for v in value):
            if name.endswith(_NUMBERS_OF_LAYERS) and "token" not in name and not name.startswith("_out"):
                fields[name] = type(value)(dict.fromkeys(v if v < after else after - 1 for v in value))
        elif type(value) is int and name == "vision_feature_layer" and value >= after:
            fields[name] = after - 1


_TOKENS = ("image", "video", "audio")


def _keep_token_ids_inside(fields: dict[str, Any]) -> None:
    """Give tokens with a number beyond the vocabulary one inside, the same in all parts of a model."""
    ending = ("_token_id", "_token_index", "_id", "_token_ids")
    for name, value in list(fields.items()):
        if type(value) is int and name.endswith(ending) and (value >= VOCABULARY - 25 or name[:5] in _TOKENS):
            fields[name] = token_id(name)
        elif (
            name.endswith(ending)
            and isinstance(value, (list, tuple))
            and any(type(v) is int and v >= 95 for v in value)
        ):
            fields[name] = type(value)(2 + i for i in range(len(value)))


def token_id(name: str) -> int:
    """Return the number of a special token inside the small vocabulary, by the name of its field."""
    known = {"pad": 0, "bos": 1, "eos": 2, "sep": 3, "cls": 4, "decoder_start": 5, "unk": 6, "mask": 7}
    first = name.removesuffix("_token_index").removesuffix("_token_id").removesuffix("_id")
    if first in known:
        return known[first]
    if first in _TOKENS:
        return 100 + _TOKENS.index(first)
    return 103 + sum(map(ord, first)) % 17


def _fit_rotary(fields: dict[str, Any]) -> None:
    """Let sections of rotary positions add up to half a head."""
    rope = fields.get("rope_parameters")
    if not isinstance(rope, dict):
        return
    for parameters in [rope, *(v for v in rope.values() if isinstance(v, dict))]:
        sections = parameters.get("mrope_section")
        if sections:
            head = fields.get("head_dim") or WIDTH // HEADS
            half = int(head * parameters.get("partial_rotary_factor", fields.get("partial_rotary_factor", 1.0))) // 2
            each = max(half // len(sections), 1)
            parameters["mrope_section"] = [half - each * (len(sections) - 1), *[each] * (len(sections) - 1)]


def divide_rotary(config: PreTrainedConfig, sections: list[int]) -> None:
    """Let rotary positions of time, height and width take so many numbers each, in all parts of a configuration."""
    rope = vars(config).get("rope_parameters")
    if isinstance(rope, dict):
        rope["mrope_section"] = sections
    for part in vars(config).values():
        if isinstance(part, PreTrainedConfig):
            divide_rotary(part, sections)
