"""Exceptions: the families whose small configuration follows from no rule.

`CONFIG[model_type]` changes the small configuration in place. Where a default
leaves out the attention that a family is known for (DeBERTa's relative positions, hybrids without an attention layer), it is
switched on here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from transformers import CLIPTextConfig, CLIPVisionConfig, ResNetConfig, SwinConfig

Change = Callable[[Any], None]


def fields(**changes: Any) -> Change:
    """Return a change that sets fields; `part__field` names a field of a part."""

    def change(config: Any) -> None:
        for name, value in changes.items():
            *parts, last = name.split("__")
            target = config
            for part in parts:
                target = getattr(target, part)
            vars(target)[last] = value

    return change


def resnet(*stages: str) -> ResNetConfig:
    """Return a small backbone, for detectors whose default needs a library that is not there."""
    sizes = [16, 32, 48, 64]
    return ResNetConfig(
        embedding_size=16, hidden_sizes=sizes, depths=[1, 1, 1, 1], layer_type="basic", out_features=list(stages)
    )


def swin(*stages: str) -> SwinConfig:
    """Return a small Swin as a backbone."""
    return SwinConfig(
        image_size=64, patch_size=4, embed_dim=16, depths=[1, 1, 1, 1], num_heads=[1, 2, 2, 2], window_size=4,
        out_features=list(stages),
    )  # fmt: skip


_LAST, _THREE, _FOUR = ("stage4",), ("stage2", "stage3", "stage4"), ("stage1", "stage2", "stage3", "stage4")
_SERIES = fields(prediction_length=8, context_length=16, feature_size=10, num_time_features=1)
_DISENTANGLED = fields(relative_attention=True, max_relative_positions=16, pos_att_type=["c2p", "p2c"])
_SAM = fields(
    prompt_encoder_config__image_embedding_size=4,
    vision_config__output_channels=64,
    vision_config__num_pos_feats=32,
    mask_decoder_config__vit_dim=64,
)
_SECTIONS = {"rope_theta": 10000.0, "rope_type": "default"}

CONFIG: dict[str, Change] = {
    "conditional_detr": fields(backbone_config=resnet(*_LAST)),
    "dab-detr": fields(backbone_config=resnet(*_LAST), hidden_size=64),
    "deformable_detr": fields(backbone_config=resnet(*_THREE)),
    "detr": fields(backbone_config=resnet(*_LAST)),
    "table-transformer": fields(backbone_config=resnet(*_LAST)),
    "grounding-dino": fields(backbone_config=swin(*_THREE)),
    "mm-grounding-dino": fields(backbone_config=swin(*_THREE)),
    "mask2former": fields(backbone_config=swin(*_FOUR)),
    "maskformer": fields(backbone_config=swin(*_FOUR)),
    "oneformer": fields(backbone_config=swin(*_FOUR)),
    "d_fine": fields(decoder_in_channels=[64, 64, 64]),
    "deimv2": fields(decoder_in_channels=[64, 64, 64]),
    "informer": _SERIES,
    "autoformer": _SERIES,
    "time_series_transformer": _SERIES,
    "bamba": fields(
        mamba_n_heads=8, mamba_d_head=16, mamba_d_state=16, attn_layer_indices=[1], layers_block_type=["mamba", "attention"]
    ),
    "granitemoehybrid": fields(
        mamba_n_heads=8, mamba_d_head=16, mamba_d_state=16, layer_types=["linear_attention", "full_attention"]
    ),
    "jamba": fields(attn_layer_period=2, attn_layer_offset=1, mamba_dt_rank=8, layers_block_type=["mamba", "attention"]),
    "sam3_lite_text_text_model": fields(num_hidden_layers=4),
    "falcon_h1": fields(mamba_n_heads=8, mamba_d_head=16, mamba_d_state=16, mamba_d_ssm=128),
    "mamba2": fields(num_heads=8, head_dim=16, n_groups=2, state_size=16),
    "zamba2": fields(
        n_mamba_heads=8, mamba_headdim=16, attention_hidden_size=128, attention_head_dim=32, kv_channels=16, num_mem_blocks=1,
        num_key_value_heads=4, num_query_groups=4, mamba_d_state=16,
    ),
    "zamba": fields(
        num_hidden_layers=3, layers_block_type=["linear_attention", "hybrid", "hybrid"], attention_hidden_size=128,
        attention_head_dim=32, num_key_value_heads=4, mamba_dt_rank=8,
    ),
    "deberta": _DISENTANGLED,
    "deberta-v2": _DISENTANGLED,
    "lfm2_moe": fields(layer_types=["conv", "full_attention"]),
    "t5gemma": fields(decoder__cross_attention_hidden_size=64),
    "esm": fields(vocab_size=100, pad_token_id=1, position_embedding_type="rotary"),
    "funnel": fields(architectures=["FunnelModel"]),
    "sam": _SAM,
    "sam_hq": _SAM,
    "xmod": fields(default_language="en_XX"),
    "perceiver": fields(num_latents=16, d_latents=64, num_self_attends_per_block=2, d_model=64),
    "dbrx": fields(attn_config__rope_theta=10000.0, attn_config__clip_qkv=8.0, ffn_config__hidden_size=64),
    "aria": fields(projector_patch_to_query_dict={16: 8}, max_value_projector_patch_to_query_dict=8),
    "recurrent_gemma": fields(num_hidden_layers=3),
    "nemotron": fields(num_key_value_heads=2),
    "diffusion_gemma": fields(text_config__num_experts=4, text_config__top_k_experts=2, text_config__moe_intermediate_size=32),
    "dots1": fields(n_routed_experts=4, n_shared_experts=1),
    "gemma3": fields(mm_tokens_per_image=4),
    "t5gemma2": fields(encoder__mm_tokens_per_image=4),
    "moonshine_streaming": fields(num_key_value_heads=4),
    "vision-text-dual-encoder": lambda c: fields(
        vision_config=CLIPVisionConfig(hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
                                       image_size=32, patch_size=8),
        text_config=CLIPTextConfig(vocab_size=120, hidden_size=64, intermediate_size=96, num_hidden_layers=2,
                                   num_attention_heads=4, max_position_embeddings=77, eos_token_id=2, bos_token_id=1),
    )(c),
    "seamless_m4t_v2": fields(char_vocab_size=120, unit_embed_dim=64, lang_embed_dim=16, spkr_embed_dim=16),
    "ernie4_5_vl_moe": fields(
        text_config__rope_parameters={**_SECTIONS, "mrope_section": [3, 3, 2]}, text_config__moe_intermediate_size=[32, 32]
    ),
    "xclip": fields(vision_config__num_frames=2, vision_config__mit_hidden_size=64, vision_config__mit_num_attention_heads=4),
    "rt_detr": fields(encoder_in_channels=[512, 1024, 2048], decoder_in_channels=[64, 64, 64]),
    "rt_detr_v2": fields(encoder_in_channels=[512, 1024, 2048], decoder_in_channels=[64, 64, 64]),
    "granite_speech5_ctc": fields(encoder_config__num_key_value_heads=4),
    "granite_speech5_encoder": fields(num_key_value_heads=4),
    "tvp": fields(backbone_config=resnet(*_LAST)),
    "chameleon": fields(vocabulary_map={"<image>": 100}),
    "emu3": fields(vocabulary_map={"<image>": 100}),
    "clap": fields(audio_config__hidden_size=192),
    "florence2": fields(
        vision_config__embed_dim=[16, 32, 64, 64], vision_config__num_heads=[2, 2, 4, 4],
        vision_config__num_groups=[2, 2, 4, 4], vision_config__projection_dim=64,
    ),
    "mllama": fields(vision_config__vision_output_dim=128),
    "cohere_compass": fields(
        text_config__rope_parameters={k: dict(_SECTIONS) for k in ("full_attention", "sliding_attention")}
    ),
    "deepseek_ocr2": fields(text_config__mlp_layer_types=["dense", "sparse"]),
    "glm_image": fields(text_config__rope_parameters={**_SECTIONS, "mrope_section": [2, 3, 3]}),
    "granite4_vision": fields(deepstack_layer_map=[[0, 0]], downsample_rate="1/2"),
    "hunyuan_vl": fields(text_config__rope_parameters={**_SECTIONS, "mrope_section": [2, 2, 2, 2]}),
    "hunyuan_vl_text": fields(rope_parameters={**_SECTIONS, "mrope_section": [2, 2, 2, 2]}),
    "esmc": fields(num_key_value_heads=4),
    "fun_asr_nano_encoder": fields(hidden_size=560, num_attention_heads=4),
    "seggpt": fields(
        image_size=(64, 32), patch_size=8, pretrain_image_size=32, merge_index=0, intermediate_hidden_state_indices=(0, 1)
    ),
    "qwen2_5_omni_thinker": fields(image_token_id=100, video_token_id=101, audio_token_id=102),
    "cohere_compass_text": fields(rope_parameters={k: dict(_SECTIONS) for k in ("full_attention", "sliding_attention")}),
}  # fmt: skip


def _own_keys(config: Any) -> None:
    """Let every layer of Mistral Large 4 make its own keys, as the layers that it took them from may be gone."""
    text = getattr(config, "text_config", config)
    vars(text)["kv_source_layers"] = list(range(text.num_hidden_layers))


CONFIG["mistral_large4"] = CONFIG["mistral_large4_text"] = _own_keys
CONFIG["mistral4"] = lambda config: config.rope_parameters.update(partial_rotary_factor=1.0)
