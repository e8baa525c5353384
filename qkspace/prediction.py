"""Prediction: the model of a checkpoint with the head above it that predicts tokens, or classes.

In: a loaded checkpoint and the class of transformers that has the head. Out: that model, whose lower part is the loaded one,
so that it is what is captured. Runs nothing.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from qkspace.model import quiet
from qkspace.parts import is_pair
from qkspace.schema import QKSpaceError
from qkspace.weights import input_device, reason_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from qkspace.model import Checkpoint

CAUSAL = "AutoModelForCausalLM"


def with_head(
    checkpoint: Checkpoint,
    auto: str = CAUSAL,
    *,
    revision: str | None = None,
    trust_remote_code: bool = False,
    allow_pickle: bool = False,
) -> PreTrainedModel:
    """Return the model of a checkpoint with a head, sharing the weights that are loaded.

    Args:
        checkpoint: what was loaded.
        auto: the class of transformers that chooses the head, such as AutoModelForMaskedLM; of a pair of encoder and decoder,
            AutoModelForCausalLM stands for the head of the decoder.
        revision: of a name on the hub; that of the checkpoint where left out.
        trust_remote_code: run code that comes with the checkpoint.
        allow_pickle: also read weights that are stored by pickle.

    Raises:
        QKSpaceError: the checkpoint holds no such head; the message is a part of a sentence.
    """
    import transformers

    base = checkpoint.model
    if auto == CAUSAL and base.can_generate():
        return base
    auto = "AutoModelForSeq2SeqLM" if auto == CAUSAL and is_pair(base) else auto
    where = str(base.name_or_path)
    options: dict[str, Any] = {} if Path(where).is_dir() else {"revision": revision or checkpoint.commit}
    try:
        with quiet():
            loaded: Any = getattr(transformers, auto).from_pretrained(
                where,
                dtype=base.dtype,
                use_safetensors=None if allow_pickle else True,
                weights_only=True,
                output_loading_info=True,
                local_files_only=True,  # the rest of them was read a moment ago
                trust_remote_code=trust_remote_code,
                **options,
            )
    except (ValueError, OSError, KeyError) as error:
        raise QKSpaceError(f"there is no {auto} of it ({reason_of(error)})") from error
    model, info = loaded
    if missing := sorted(info["missing_keys"]):
        raise QKSpaceError(f"its weights lack {missing[0]}, which would be random numbers")
    _share(model, base)
    return model.eval()  # type: ignore[no-any-return]


def _share(model: PreTrainedModel, base: PreTrainedModel) -> None:
    """Put the loaded model in the place of the one below a head."""
    inner = model.base_model
    if inner is model:  # T5 has encoder and decoder beside the head
        parts = dict(base.named_children())
        if any(type(getattr(model, name, None)) is not type(part) for name, part in parts.items()):
            raise _unlike(model, base)
        for name, part in parts.items():
            setattr(model, name, part)
    elif type(inner) is type(base):
        setattr(model, model.base_model_prefix, base)
    else:
        raise _unlike(model, base)
    model.tie_weights()
    device, shared = input_device(base), {id(module) for module in base.modules()}
    for child in model.children():  # the head; what is shared lies where it was put, perhaps on several devices
        if id(child) not in shared:
            child.to(device)
    for name, buffer in model.named_buffers(recurse=False):
        setattr(model, name, buffer.to(device))


def _unlike(model: PreTrainedModel, base: PreTrainedModel) -> QKSpaceError:
    return QKSpaceError(
        f"{type(model).__name__} is no {type(base).__name__} with a head, so it would not be what is captured"
    )
