"""Special inputs: the families whose inputs cannot be guessed from the names of their arguments.

`INPUTS[model_type]` takes a model and a generator of random numbers and returns the inputs whole.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from .inputs import LENGTHS, TARGET_LENGTHS, Inputs, ids, mask


def _random(generator: torch.Generator, *shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=generator)


def _words(generator: torch.Generator) -> Inputs:
    return {"input_ids": ids(LENGTHS, generator), "attention_mask": mask(LENGTHS)}


def _lxmert(model: Any, g: torch.Generator) -> Inputs:
    features = _random(g, 2, 5, model.config.visual_feat_dim)
    return {**_words(g), "visual_feats": features, "visual_pos": torch.rand((2, 5, 4), generator=g)}


def _decisions(model: Any, g: torch.Generator) -> Inputs:
    c, n = model.config, 6
    return {
        "states": _random(g, 2, n, c.state_dim),
        "actions": _random(g, 2, n, c.act_dim),
        "rewards": _random(g, 2, n, 1),
        "returns_to_go": _random(g, 2, n, 1),
        "timesteps": torch.arange(n).repeat(2, 1),
        "attention_mask": mask((n, 4)),
    }


def _seggpt(model: Any, g: torch.Generator) -> Inputs:
    height, width = model.config.image_size
    shape = (2, 3, height // 2, width)
    return {name: _random(g, *shape) for name in ("pixel_values", "prompt_pixel_values", "prompt_masks")}


def _speecht5(model: Any, g: torch.Generator) -> Inputs:
    width = model.config.hidden_size
    return {
        "input_values": _random(g, 2, 14, width),
        "attention_mask": mask(LENGTHS),
        "decoder_input_values": _random(g, 2, 9, width),
        "decoder_attention_mask": mask(TARGET_LENGTHS),
    }


def _idefics(model: Any, g: torch.Generator) -> Inputs:
    edge = model.config.vision_config.image_size
    return {**_words(g), "pixel_values": _random(g, 2, 1, 3, edge, edge), "image_attention_mask": torch.ones(2, 14, 1)}


def _kosmos(model: Any, g: torch.Generator) -> Inputs:
    edge, n = model.config.vision_config.image_size, model.config.latent_query_num
    lengths = (n + 14, n + 10)
    place = torch.zeros(2, n + 14, dtype=torch.long)
    place[:, 2 : 2 + n] = 1
    return {
        "pixel_values": _random(g, 2, 3, edge, edge),
        "input_ids": ids(lengths, g),
        "attention_mask": mask(lengths),
        "image_embeds_position_mask": place,
    }


def _mllama(model: Any, g: torch.Generator) -> Inputs:
    edge = model.config.vision_config.image_size
    n_tiles = model.config.vision_config.max_num_tiles
    return {
        **_words(g),
        "pixel_values": _random(g, 2, 1, n_tiles, 3, edge, edge),
        "aspect_ratio_ids": torch.ones(2, 1, dtype=torch.long),
        "aspect_ratio_mask": torch.ones(2, 1, n_tiles, dtype=torch.long),
        "cross_attention_mask": torch.ones(2, 14, 1, n_tiles, dtype=torch.long),
    }


def _clap(model: Any, g: torch.Generator) -> Inputs:
    c = model.config.audio_config
    return {
        **_words(g),
        "input_features": _random(g, 2, 1, 1001, c.num_mel_bins),
        "is_longer": torch.zeros(2, 1).bool(),
    }


def _xclip(model: Any, g: torch.Generator) -> Inputs:
    c = model.config.vision_config
    return {**_words(g), "pixel_values": _random(g, 2, c.num_frames, 3, c.image_size, c.image_size)}


def _qformer(model: Any, g: torch.Generator) -> Inputs:
    c = model.config
    return {
        "query_embeds": _random(g, 2, 8, c.hidden_size),
        "encoder_hidden_states": _random(g, 2, 11, c.encoder_hidden_size),
    }


def _frames(model: Any, g: torch.Generator) -> Inputs:
    """Frames whose width is four times the number of bins, as Granite Speech stacks them."""
    c = getattr(model.config, "encoder_config", model.config)
    return {"input_features": _random(g, 2, 64, 4 * c.num_mel_bins), "attention_mask": mask((64, 44))}


def _stacked_frames(model: Any, g: torch.Generator) -> Inputs:
    c = model.config
    n_bins = c.num_mel_bins * c.num_stacked_frames
    return {"input_features": _random(g, 2, 24, n_bins), "input_features_mask": mask((24, 17))}


def _codes(model: Any, g: torch.Generator) -> Inputs:
    n = model.config.decoder_config.num_channels
    return {
        **_words(g),
        "decoder_input_ids": torch.randint(0, 60, (2, 9, n), generator=g),
        "decoder_attention_mask": mask((9, 6)),
    }


def _latents(model: Any, g: torch.Generator) -> Inputs:
    return {"latents": _random(g, 2, model.config.hidden_size, 12)}


def _clvp(model: Any, g: torch.Generator) -> Inputs:
    return {**_words(g), "input_features": _random(g, 2, model.config.decoder_config.feature_size, 32)}


def _words_and_pictures(edge: int, n_images: int = 0) -> Callable[[Any, torch.Generator], Inputs]:
    def make(model: Any, g: torch.Generator) -> Inputs:
        shape = (2, n_images, 3, edge, edge) if n_images else (2, 3, edge, edge)
        return {**_words(g), "pixel_values": _random(g, *shape)}

    return make


def _perceiver(model: Any, g: torch.Generator) -> Inputs:
    return {"inputs": _random(g, 2, 14, model.config.d_model), "attention_mask": mask(LENGTHS)}


def _pairs(model: Any, g: torch.Generator) -> Inputs:
    return {"pixel_values": _random(g, 2, 2, 3, 64, 64)}


def _instructblip(model: Any, g: torch.Generator) -> Inputs:
    edge, n = model.config.vision_config.image_size, model.config.num_query_tokens
    words = ids((n + 14, n + 10), g)
    if model.config.image_token_id is None:
        model.config.image_token_id = 100
    words[:, 2 : 2 + n] = model.config.image_token_id
    found = {
        "pixel_values": _random(g, 2, 3, edge, edge),
        "input_ids": words,
        "attention_mask": mask((n + 14, n + 10)),
        "decoder_input_ids": ids(TARGET_LENGTHS, g),
        "decoder_attention_mask": mask(TARGET_LENGTHS),
    }
    if model.config.text_config.model_type in ("opt", "llama"):
        found = {name: value for name, value in found.items() if "decoder" not in name}
    if model.config.model_type == "instructblip":
        found.update(qformer_input_ids=ids((8, 6), g), qformer_attention_mask=mask((8, 6)))
    return found


def _masked_pictures(model: Any, g: torch.Generator) -> Inputs:
    """Pictures with the noise that decides which patches are masked; without it every pass draws its own."""
    c = model.config
    noise = torch.rand((2, (c.image_size // c.patch_size) ** 2), generator=g)
    return {"pixel_values": _random(g, 2, 3, c.image_size, c.image_size), "noise": noise}


def _moshi(model: Any, g: torch.Generator) -> Inputs:
    n = model.config.num_codebooks + 1
    return {"input_ids": torch.randint(3, 60, (2, 14, n), generator=g), "attention_mask": mask(LENGTHS)}


INPUTS: dict[str, Callable[[Any, torch.Generator], Inputs]] = {
    "lxmert": _lxmert,
    "decision_transformer": _decisions,
    "seggpt": _seggpt,
    "speecht5": _speecht5,
    "idefics": _idefics,
    "kosmos-2": _kosmos,
    "mllama": _mllama,
    "clap": _clap,
    "xclip": _xclip,
    "blip_2_qformer": _qformer,
    "perceiver": _perceiver,
    "lightglue": _pairs,
    "efficientloftr": _pairs,
    "instructblip": _instructblip,
    "blip-2": _instructblip,
    "granite_speech5_ctc": _frames,
    "granite_speech5_encoder": _frames,
    "fun_asr_nano_encoder": _stacked_frames,
    "dia": _codes,
    "mimi_decoder": _latents,
    "kyutai_speech_to_text": _moshi,
    "vit_mae": _masked_pictures,
    "clvp": _clvp,
    "sam3": _words_and_pictures(32),
    "sam3_lite_text": _words_and_pictures(32),
}
