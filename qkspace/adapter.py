"""Adapters: lay a LoRA adapter on the weights of its base model, through the optional package peft.

In: a loaded model and the folder of an adapter. Out: the model with the adapter's change in its weights. An adapter that does
not fit is refused: peft would leave out what it cannot place, and the model would silently be the base.
"""

from __future__ import annotations

import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qkspace.schema import QKSpaceError

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

WEIGHTS = "adapter_model.safetensors"
PREFIX = "base_model.model."  # before every name in an adapter's file


def need_peft() -> None:
    """Refuse an adapter where peft is not installed.

    Raises:
        QKSpaceError: it is not.
    """
    if find_spec("peft") is None:
        raise QKSpaceError("An adapter needs the package peft: pip install 'qkspace[adapters]'.")


def lay_on(model: PreTrainedModel, folder: str) -> PreTrainedModel:
    """Return a model with an adapter merged into its weights; the model given is changed.

    An adapter that was trained below a head (AutoModelForSequenceClassification and its like) fits the model without one.

    Raises:
        QKSpaceError: peft is not installed, the folder holds no adapter in safetensors, or it is of another model.
    """
    need_peft()
    import peft
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = Path(folder)
    if not (path / WEIGHTS).is_file():
        raise QKSpaceError(
            f"{path}: expected an adapter with {WEIGHTS}; there is none. One stored by pickle (adapter_model.bin) is not read: "
            "save it again with safe_serialization=True."
        )
    try:
        config = peft.PeftConfig.from_pretrained(str(path))
        weights = load_file(path / WEIGHTS)
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise QKSpaceError(f"{path}: the adapter cannot be read ({error}).") from error
    trained_on, config.base_model_name_or_path = config.base_model_name_or_path, model.name_or_path
    config.task_type = config.modules_to_save = None
    config.bias, config.inference_mode = "none", True
    found, whole = _sorted(weights, model)
    if not found:
        raise QKSpaceError(f"{path}: the adapter holds no LoRA weights, only {', '.join(sorted(weights)[:3])} ...")
    try:
        model.load_state_dict(whole, strict=False)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*is_gradient_checkpointing", FutureWarning)  # what peft still asks for
            adapted = peft.get_peft_model(model, config)
        result: Any = peft.set_peft_model_state_dict(adapted, found)
    except (ValueError, RuntimeError, KeyError, TypeError) as error:
        first = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise QKSpaceError(
            f"{path}: this adapter does not fit {type(model).__name__} ({first}). Is --base the checkpoint that it was trained "
            f"on ({trained_on})?"
        ) from error
    missing = [name for name in result.missing_keys if "lora_" in name]
    unplaced = list(result.unexpected_keys)
    if missing or unplaced:
        raise QKSpaceError(
            f"{path}: this adapter does not fit {type(model).__name__}: {len(unplaced)} of its {len(found)} tensors have no "
            f"place there, {len(missing)} are missing ({(unplaced or missing)[0]}). Is --base the checkpoint that it was "
            f"trained on ({trained_on})?"
        )
    merged: Any = adapted
    return merged.merge_and_unload()  # type: ignore[no-any-return]  # peft says nothing


def _sorted(weights: dict[str, Tensor], model: PreTrainedModel) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return the LoRA weights, and what was trained whole beside them (biases, embeddings), by their names in a bare model.

    What else there is belongs to a head, which comes after all attention.
    """
    own = model.state_dict()
    lora, whole = {}, {}
    for name, tensor in weights.items():
        plain = name.removeprefix(PREFIX).replace(".base_layer.", ".")  # which stands in the layers that LoRA wraps
        if model.base_model_prefix:
            plain = plain.removeprefix(f"{model.base_model_prefix}.")
        if "lora_" in name:
            lora[PREFIX + plain] = tensor
        elif plain in own:
            whole[plain] = tensor
    return lora, whole
