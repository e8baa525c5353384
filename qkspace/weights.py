"""Weights: whether those of a checkpoint can be read here, and where they lie once they are.

In: the folder or the configuration of a checkpoint, or a loaded model. Out: an error that names the file, the package or the
device that is wanting; devices; every tensor by its name. Loads nothing and knows no tokenizer.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qkspace.schema import QKSpaceError

if TYPE_CHECKING:
    import torch
    from torch import Tensor
    from transformers import PreTrainedModel

    from qkspace.model import Device

WEIGHTS, SHARDS = "model.safetensors", "model.safetensors.index.json"
PICKLED = ("pytorch_model.bin", "pytorch_model.bin.index.json")
QUANTISERS = {  # quant_method in config.json -> (package, its name in Python)
    "bitsandbytes": ("bitsandbytes", "bitsandbytes"),
    "torchao": ("torchao", "torchao"),
    "quanto": ("optimum-quanto", "optimum.quanto"),
    "compressed-tensors": ("compressed-tensors", "compressed_tensors"),
    "gptq": ("gptqmodel", "gptqmodel"),
    "awq": ("gptqmodel", "gptqmodel"),
    "hqq": ("hqq", "hqq"),
    "aqlm": ("aqlm", "aqlm"),
    "vptq": ("vptq", "vptq"),
    "auto-round": ("auto-round", "auto_round"),
    "quark": ("amd-quark", "quark"),
}


# ---------------------------------------------------------------------------------------------- files


def check_files(folder: Path, name: str, allow_pickle: bool) -> None:
    """Refuse a folder whose weights are not there whole, or stored by pickle against the user's will. name: what it is called.

    Raises:
        QKSpaceError: so it is; the file is named.
    """
    from safetensors import SafetensorError, safe_open

    where = f"--model {name}: could not be loaded"
    for file in _weight_files(folder, where):
        path = folder / file
        if not path.is_file():
            raise QKSpaceError(f"{where}: {SHARDS} lists {file}, which is not there. Is the download complete?")
        try:
            with safe_open(path, framework="pt"):
                pass
        except (SafetensorError, OSError) as error:
            raise QKSpaceError(
                f"{where}: {file} is damaged or cut short ({reason_of(error)}). Download or save it again."
            ) from error
    if not (folder / WEIGHTS).is_file() and not (folder / SHARDS).is_file():
        pickled = next((name for name in PICKLED if (folder / name).is_file()), None)
        if pickled is not None and not allow_pickle:
            raise refused_pickle(name, pickled)
        if pickled is None and (other := _other_weights(folder)):
            raise QKSpaceError(
                f"{where}: it has no {WEIGHTS}, only {', '.join(other)}. Save the model again by transformers' "
                "save_pretrained."
            )


def _weight_files(folder: Path, where: str) -> list[str]:
    """Return the safetensors files that transformers would read of a folder."""
    if (folder / WEIGHTS).is_file() or not (folder / SHARDS).is_file():
        return [WEIGHTS] if (folder / WEIGHTS).is_file() else []
    try:
        return sorted(set(json.loads((folder / SHARDS).read_text(encoding="utf-8"))["weight_map"].values()))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise QKSpaceError(f"{where}: {SHARDS} is damaged ({reason_of(error)}). Download it again.") from error


def _other_weights(folder: Path) -> list[str]:
    """Return names of files in a folder that are weights of some other kind."""
    kinds = (".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".h5", ".msgpack", ".gguf", ".onnx")
    return sorted(p.name for p in folder.iterdir() if p.suffix in kinds)[:3]


def refused_pickle(name: str, file: str) -> QKSpaceError:
    """Return the error that refuses weights stored by pickle, with both ways out."""
    target = f"{name.rstrip('/').rsplit('/', 1)[-1]}-safetensors"
    convert = (
        f'python -c "from transformers import AutoModel as M, AutoTokenizer as T; '
        f"M.from_pretrained('{name}').save_pretrained('{target}'); T.from_pretrained('{name}').save_pretrained('{target}')\""
    )
    return QKSpaceError(
        f"--model {name}: its weights are in {file}, which is stored by pickle, and not in safetensors; reading a pickle can "
        f"run code that somebody put into it. Convert it once, and give the folder that this writes: {convert} - or, if you "
        "trust where it comes from, read it with --allow-pickle (numbers only: torch.load with weights_only)."
    )


# ---------------------------------------------------------------------------------------------- quantised and spread models


def quantisation(config: Any) -> str | None:
    """Return how the weights of a checkpoint are quantised; None where they are not."""
    how = getattr(config, "quantization_config", None)
    if how is None:
        return None
    method = how.get("quant_method") if isinstance(how, dict) else getattr(how, "quant_method", None)
    said = str(getattr(method, "value", method))
    return "bitsandbytes" if method is None or said.startswith("bitsandbytes") else said


def need_quantiser(name: str, method: str, adapter: str | None) -> None:
    """Refuse quantised weights that nothing here can read, or that something is to be added to."""
    if adapter is not None:
        raise QKSpaceError(
            f"--model {name}: its weights are quantised ({method}), and an adapter cannot be laid on them without rounding it "
            "away. Give the base in full precision."
        )
    wanted = [QUANTISERS.get(method, ("accelerate", "accelerate")), ("accelerate", "accelerate")]
    missing = dict.fromkeys(package for package, module in wanted if not _is_installed(module))
    if missing:
        raise QKSpaceError(
            f"--model {name}: its weights are quantised ({method}); reading them needs packages that are not installed here: "
            f"pip install {' '.join(missing)}"
        )


def _is_installed(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # of a package above it
        return False


def refuse_map(device_map: str | None, device: Device, adapter: str | None) -> None:
    """Refuse to spread a model where that cannot be, or is at odds with what else was asked for.

    Raises:
        QKSpaceError: so it is.
    """
    if device_map is None:
        return
    if device != "auto":
        raise QKSpaceError(f"--device-map {device_map} chooses the devices itself: leave out --device {device}.")
    if adapter is not None:
        raise QKSpaceError("An adapter is laid on weights that are all in one place: leave out --device-map.")
    if not _is_installed("accelerate"):
        raise QKSpaceError("--device-map needs the package accelerate: pip install 'qkspace[large]'.")


def input_device(model: PreTrainedModel) -> torch.device:
    """Return where the input of a model belongs, also where its weights are spread, or wait on disk."""
    import torch

    hooks = [getattr(model, "_hf_hook", None), *(getattr(m, "_hf_hook", None) for m in model.modules())]
    for hook in hooks:
        place = getattr(hook, "execution_device", None)
        if place is not None:
            return torch.device(place)
    real = (p.device for p in model.parameters() if not p.is_meta)
    return next(real, torch.device("cpu"))


def device_of(device: Device) -> torch.device:
    """Return the device that was asked for.

    Raises:
        QKSpaceError: there is no GPU.
    """
    import torch

    if device == "cuda" and not torch.cuda.is_available():
        raise QKSpaceError("--device cuda: torch sees no GPU on this machine. Use --device cpu, or auto.")
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(device)


def stored_tensors(model: PreTrainedModel) -> Iterator[tuple[str, Tensor]]:
    """Yield every tensor of a model's state with its name: one that waits elsewhere is fetched, a quantised one in parts."""
    import torch

    for name, tensor in model.state_dict().items():
        if not isinstance(tensor, torch.Tensor):
            continue
        if tensor.is_meta:
            from accelerate.utils import align_module_device  # type: ignore[import-untyped]

            owner, _, leaf = name.rpartition(".")
            module = model.get_submodule(owner)
            with align_module_device(module, "cpu"):
                yield name, getattr(module, leaf)
        else:
            yield from _plain(name, tensor)


def _plain(name: str, tensor: Tensor) -> Iterator[tuple[str, Tensor]]:
    """Yield a tensor, or the plain tensors that one of a class of its own is made of (torchao, quanto)."""
    if not hasattr(tensor, "__tensor_flatten__"):
        yield name, tensor
        return
    for inner in tensor.__tensor_flatten__()[0]:
        yield from _plain(f"{name}.{inner}", getattr(tensor, inner))


def reason_of(error: BaseException) -> str:
    """Return the first line of what a library says of a failure, with its kind where that alone says little."""
    line = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    known = isinstance(error, OSError | ValueError | ImportError | RuntimeError)
    return (line if known and line else f"{type(error).__name__}: {line}").rstrip(":. ")
