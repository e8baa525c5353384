"""Checkpoints: where models come from; beside the reader of data sets the only module that may reach the network.

In: a Hugging Face name or a local folder. Out: a loaded model in evaluation mode and, where it reads text, its tokenizer.
Knows nothing of corpora, indexes or how attention is captured.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Literal
from weakref import finalize

from qkspace.memory import is_out_of_memory
from qkspace.schema import QKSpaceError
from qkspace.weights import (
    PICKLED,
    check_files,
    device_of,
    need_quantiser,
    quantisation,
    reason_of,
    refuse_map,
    refused_pickle,
    stored_tensors,
)
from qkspace.weights import input_device as input_device

if TYPE_CHECKING:
    import torch
    from torch import nn
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

Device = Literal["auto", "cpu", "cuda"]
DType = Literal["auto", "float32", "float16", "bfloat16"]
DeviceMap = Literal["auto", "balanced", "balanced_low_0", "sequential"]
Modality = Literal["text", "image", "audio"]

TOKENIZER_FILES = (
    "tokenizer.json, or what its own kind takes: vocab.txt (WordPiece), vocab.json and merges.txt (byte-level BPE), or "
    "spiece.model / tokenizer.model (SentencePiece)"
)
PROCESSOR_FILES = ("preprocessor_config.json", "processor_config.json")
UNUSED = ("pooler", "masked_spec_embed", "mask_token")  # weights after all attention, or of training alone
REACH_SECONDS = 5.0  # after which the hub counts as out of reach


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A loaded model with its tokenizer (None where it reads no text); `name` is what the user called it."""

    name: str
    model: PreTrainedModel
    tokenizer: Any  # PreTrainedTokenizerBase or None
    processor: Any = None
    commit: str | None = None  # of a name on the hub


def load(
    name: str,
    *,
    device: Device = "auto",
    dtype: DType = "auto",
    revision: str | None = None,
    adapter: str | None = None,
    trust_remote_code: bool = False,
    allow_pickle: bool = False,
    device_map: DeviceMap | None = None,
    max_memory: dict[int | str, int | str] | None = None,
    modality: Modality | None = None,
) -> Checkpoint:
    """Load a checkpoint and its tokenizer.

    Args:
        name: a folder with `config.json`, weights and tokenizer, or a name on the Hugging Face hub.
        device: "auto" takes a GPU where there is one.
        dtype: the type the model computes in; "auto" is float32 on a CPU, and the checkpoint's own on a GPU and where the
            weights are quantised.
        revision: branch, tag or commit of a name on the hub.
        adapter: folder of a LoRA adapter that is laid on the weights (`qkspace.adapter`).
        trust_remote_code: run code that comes with the checkpoint; only when the user asks for it.
        allow_pickle: also read weights stored by pickle, numbers alone (`weights_only`).
        device_map: spread the model over the devices of this machine by accelerate, in this manner; what does not fit
            waits in memory or on disk.
        max_memory: what accelerate may fill of each device, such as {0: "10GiB", "cpu": "30GiB"}.
        modality: what the model is to read, where it reads several things; None requires what its main input needs.

    Raises:
        QKSpaceError: nothing loadable there, an adapter of another model, or a device, type or package that this machine
            does not have.
    """
    import torch

    chosen = device_of(device)
    refuse_map(device_map, device, adapter)
    place = _place(name, revision, trust_remote_code)
    name, config = place.name, _config(place)
    quantised = quantisation(config)
    if quantised is not None:
        need_quantiser(name, quantised, adapter)
        logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it speaks in every layer of every forward pass
    own = chosen.type == "cuda" or quantised is not None
    torch_dtype: Any = getattr(torch, dtype) if dtype != "auto" else "auto" if own else torch.float32
    placing: dict[str, Any] = {} if quantised is None else {"device_map": {"": str(chosen)}}
    if device_map is not None:
        waiting = TemporaryDirectory(prefix="qkspace-", ignore_cleanup_errors=True)
        placing = {"device_map": device_map, "max_memory": max_memory, "offload_folder": waiting.name}
    if Path(place.where).is_dir():
        check_files(Path(place.where), name, allow_pickle)
    model = _weights(place, config, {"dtype": torch_dtype, **placing}, allow_pickle)
    if device_map is not None:  # weights that cannot be read from the checkpoint as they are wait there on disk
        finalize(model, waiting.cleanup)
    tokenizer = _tokenizer(place, model, modality)
    if adapter is not None:
        from qkspace.adapter import lay_on

        with quiet():
            model = lay_on(model, adapter)
    snapshot = None if Path(name).is_dir() else _cached(name, revision)
    model = model if placing else _moved(model, chosen, name)
    return Checkpoint(name, model.eval(), tokenizer, commit=None if snapshot is None else snapshot.name)


def check_name(
    name: str, *, revision: str | None = None, trust_remote_code: bool = False, option: str = "--model"
) -> None:
    """Refuse a checkpoint whose configuration cannot be read; cheap, whatever its size. option: what to call it in the error.

    Raises:
        QKSpaceError: no checkpoint there.
    """
    _config(_place(name, revision, trust_remote_code, option))


# ---------------------------------------------------------------------------------------------- places


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a checkpoint is: a folder or a name as transformers takes it, the options beside it, and what users call it."""

    name: str
    where: str
    options: dict[str, Any]
    option: str = "--model"
    is_cached: bool = False

    def failed(self, error: BaseException) -> QKSpaceError:
        """Return the error that says why nothing could be loaded from here, and what to do."""
        if "trust_remote_code" in str(error):
            remedy = "It has code of its own. If you trust where it comes from, let that run with --trust-remote-code."
        elif self.is_cached:
            remedy = "The hub cannot be reached from here, and this is of the cache: try again with a network."
        else:
            remedy = (
                "Give a folder that holds config.json and weights, or a name on the Hugging Face hub (which needs the network "
                "or a filled cache)."
            )
        return QKSpaceError(f"{self.option} {self.name}: could not be loaded ({reason_of(error)}). {remedy}")


def _place(name: str, revision: str | None, trust_remote_code: bool, option: str = "--model") -> _Place:
    """Find a checkpoint: a folder, a name on the hub, or what the cache holds of it where the hub is out of reach."""
    options: dict[str, Any] = {"trust_remote_code": trust_remote_code}
    if Path(name).is_dir():
        name = str(Path(name).resolve())
        if revision is not None:
            raise QKSpaceError(f"{name} is a local folder: --revision {revision} only applies to names on the hub.")
        return _Place(name, name, options, option)
    if name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise QKSpaceError(f"{option} {name}: no such folder. Give a folder with config.json or a name on the hub.")
    if _reaches_hub():
        return _Place(name, name, {"revision": revision, **options}, option)
    snapshot = _cached(name, revision)
    if snapshot is None:
        raise QKSpaceError(
            f"{option} {name}: could not be loaded: there is no such folder, the Hugging Face hub cannot be reached from here, "
            "and the cache does not hold it. Give a folder that holds config.json and weights, or try again with a "
            "network."
        )
    return _Place(name, str(snapshot), options, option, is_cached=True)


def _cached(name: str, revision: str | None) -> Path | None:
    """Return the folder of the hub's cache that holds a checkpoint, which is called by its commit."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        found = try_to_load_from_cache(name, "config.json", revision=revision)
    except HFValidationError:  # no name that the hub could know
        return None
    return Path(found).parent if isinstance(found, str) else None


def _reaches_hub() -> bool:
    """Tell whether the Hugging Face hub answers, asking once."""
    from huggingface_hub import constants, get_session, is_offline_mode

    if is_offline_mode():
        return False
    try:
        get_session().head(constants.ENDPOINT, timeout=REACH_SECONDS)
    except Exception:  # of whichever HTTP library its version uses; a loader says what follows from it
        return False
    return True


def _config(place: _Place) -> Any:
    """Return the configuration of a checkpoint.

    Raises:
        QKSpaceError: there is none, or it cannot be read.
    """
    from transformers import AutoConfig

    folder = Path(place.where)
    if (folder / "adapter_config.json").is_file() and not (folder / "config.json").is_file():
        raise QKSpaceError(
            f"{place.option} {place.name}: this is an adapter, not a whole model. Give its base as the model, and this folder "
            "as --adapter."
        )
    try:
        with quiet():
            return AutoConfig.from_pretrained(place.where, **place.options)
    except Exception as error:  # transformers lets everything through, down to what code of a checkpoint raises
        raise place.failed(error) from error


@contextmanager
def quiet() -> Iterator[None]:
    """Keep transformers' bars and remarks to itself; what matters of them becomes an error here."""
    from transformers.utils import logging as remarks

    level, bars = remarks.get_verbosity(), remarks.is_progress_bar_enabled()
    placing = logging.getLogger("accelerate")
    placing_level = placing.level
    placing.setLevel(logging.ERROR)
    remarks.set_verbosity_error()
    remarks.disable_progress_bar()
    try:
        yield
    finally:
        placing.setLevel(placing_level)
        remarks.set_verbosity(level)
        if bars:
            remarks.enable_progress_bar()


# ---------------------------------------------------------------------------------------------- weights


def _weights(place: _Place, config: Any, options: dict[str, Any], allow_pickle: bool) -> PreTrainedModel:
    """Return the model with all its weights, in the class that AutoModel chooses.

    Raises:
        QKSpaceError: it cannot be loaded, or would hold random numbers.
    """
    os.environ.setdefault(
        "DISABLE_SAFETENSORS_CONVERSION", "1"
    )  # else a service on the hub is asked to convert pickles
    safe = None if allow_pickle else True
    try:
        with quiet():
            model, info = _class(config).from_pretrained(
                place.where,
                use_safetensors=safe,
                weights_only=True,
                output_loading_info=True,
                **options,
                **place.options,
            )
    except Exception as error:
        if "use_safetensors=True" in str(error):  # of a name on the hub: a folder was looked into before
            raise refused_pickle(place.name, PICKLED[0]) from error
        if is_out_of_memory(error):
            raise _too_large(place.name, error) from error
        raise place.failed(error) from error
    missing = sorted(key for key in info["missing_keys"] if not any(part in key for part in UNUSED))
    if missing:
        raise QKSpaceError(
            f"--model {place.name}: its weights lack {len(missing)} of the model's tensors, {missing[0]} first, which would be "
            "random numbers. Is the download complete, and config.json the one of these weights?"
        )
    _zero(model, info["missing_keys"])
    return model  # type: ignore[no-any-return]


def _zero(model: PreTrainedModel, names: Iterable[str]) -> None:
    """Set tensors to 0 that a checkpoint lacks and nothing here reads: drawn anew they would make each load another model."""
    import torch

    parameters = dict(model.named_parameters())
    with torch.no_grad():
        for name in names:
            if name in parameters and parameters[name].device.type != "meta":
                parameters[name].zero_()


def _class(config: Any) -> Any:
    """Return AutoModel, or the class that a configuration names where AutoModel has none for it (pairs of two models)."""
    import transformers
    from transformers.models.auto.modeling_auto import MODEL_MAPPING

    named = getattr(transformers, (config.architectures or ["AutoModel"])[0], transformers.AutoModel)
    known = type(config) in MODEL_MAPPING or "AutoModel" in (getattr(config, "auto_map", None) or {})
    return transformers.AutoModel if known else named


def _moved(model: PreTrainedModel, device: torch.device, name: str) -> PreTrainedModel:
    try:
        return model.to(device)  # type: ignore[no-any-return, arg-type]
    except RuntimeError as error:
        if is_out_of_memory(error):
            raise _too_large(name, error) from error
        raise


def _too_large(name: str, error: BaseException) -> QKSpaceError:
    return QKSpaceError(
        f"--model {name}: its weights do not fit into memory ({reason_of(error)}). Load them in half the space with --dtype "
        "bfloat16, spread them with --device-map auto (pip install 'qkspace[large]'), or use --device cpu."
    )


# ---------------------------------------------------------------------------------------------- what a model reads


def modality_of(config: Any) -> str:
    """Return what a model of this configuration reads: "text", "image", "audio", "video", or several: "text+image"."""
    from transformers.models.auto.modeling_auto import MODEL_MAPPING

    found = MODEL_MAPPING[type(config)] if type(config) in MODEL_MAPPING else _class(config)
    return _modality(found[0] if isinstance(found, list | tuple) else found)


def _modality(model: Any) -> str:
    stated = getattr(model, "input_modalities", "text")
    stated = {stated} if isinstance(stated, str) else set(stated)
    if stated == {"text"}:  # also what a class says that says nothing
        main = getattr(model, "main_input_name", "input_ids")
        by_input = {"pixel_values": "image", "pixel_values_videos": "video"}
        stated = {by_input.get(main, "audio" if main in ("input_values", "input_features") else "text")}
    return "+".join(sorted(stated, key=["text", "image", "video", "audio", "time"].index))


def _tokenizer(place: _Place, model: PreTrainedModel, modality: Modality | None) -> PreTrainedTokenizerBase | None:
    """Return the tokenizer; None where there is none and the model is not to read text.

    Raises:
        QKSpaceError: a model of text without one.
    """
    from transformers import AutoTokenizer

    reads = _modality(model)
    is_text = (modality or ("text" if "text" in reads.split("+") else reads)) == "text"
    try:
        with quiet():
            tokenizer: Any = AutoTokenizer.from_pretrained(place.where, **place.options)
        if len(tokenizer) > len(tokenizer.all_special_ids):  # else an empty one was made of nothing
            return tokenizer  # type: ignore[no-any-return]
        reason = "its vocabulary is empty"
    except Exception as error:
        reason = reason_of(error)
    if not is_text:
        return None
    raise QKSpaceError(
        f"--model {place.name}: a {type(model).__name__} was loaded, but no tokenizer ({reason}), which a model of text needs. "
        f"Expected in the same folder: {TOKENIZER_FILES}. Copy them from where the model comes from, or from the model that "
        "it was trained from."
    )


def need_processor(name: str, modality: Modality) -> None:
    """Refuse a folder of a model of images or sound that does not say how its input is prepared.

    Raises:
        QKSpaceError: it holds no preprocessor_config.json.
    """
    folder = Path(name)
    if modality == "text" or not folder.is_dir() or any((folder / file).is_file() for file in PROCESSOR_FILES):
        return
    what = "images are cut, scaled and normalised" if modality == "image" else "sound is sampled and normalised"
    raise QKSpaceError(
        f"--model {name}: there is no {PROCESSOR_FILES[0]} (nor {PROCESSOR_FILES[1]}), which says how {what} for this model. "
        "Copy it from where the model comes from, into the same folder."
    )


def without_attention(model: nn.Module) -> str:
    """Return the sentence that refuses a model without attention, naming what its layers are instead."""
    from torch import nn

    def own(modules: Iterator[nn.Module]) -> list[str]:
        """Return the classes that are the model's, each once; torch's own and norms say nothing."""
        names = dict.fromkeys(type(m).__name__ for m in modules if not type(m).__module__.startswith("torch."))
        return [name for name in names if "Norm" not in name]

    lists = [m for m in model.modules() if isinstance(m, nn.ModuleList | nn.Sequential) and own(m.children())]
    if not lists:
        parts = own(model.children())
        layers = ", ".join(parts) or "torch's own"
    else:
        blocks = max(lists, key=lambda m: sum(p.numel() for p in m.parameters()))
        parts = own(child for block in blocks for child in block.children())
        layers = ", ".join(own(blocks.children())) + (f" ({', '.join(parts)})" if parts else "")
    return (
        f"{type(model).__name__} has no attention: its layers are {layers}, so there are no queries and keys to show."
    )


def context_length(checkpoint: Checkpoint) -> int | None:
    """Return how many tokens, special ones included, the model takes at once; None if it states no limit.

    The smallest of the configuration's, the tokenizer's and the position table's own size. A position table with a
    padding row starts after that row (RoBERTa), so that many positions are not to be had.
    """
    import torch

    limits: list[int] = []
    for name in ("max_position_embeddings", "n_positions", "max_sequence_length"):
        value = getattr(checkpoint.model.config.get_text_config(), name, None)
        if isinstance(value, int) and value > 0:
            limits.append(value)
    stated = None if checkpoint.tokenizer is None else checkpoint.tokenizer.model_max_length
    if stated is not None and stated < 10**9:  # transformers writes 1e30 for "not stated"
        limits.append(int(stated))
    for name, module in checkpoint.model.named_modules():
        if isinstance(module, torch.nn.Embedding) and name.endswith("position_embeddings"):
            reserved = 0 if module.padding_idx is None else module.padding_idx + 1
            limits.append(module.num_embeddings - reserved)
    return min(limits, default=None)


def has_position_table(model: nn.Module) -> bool:
    """Tell whether a model looks its positions up in a table, beyond which it has none."""
    import re

    from torch import nn

    named = re.compile(r"position|wpe|pos_emb")
    return any(isinstance(module, nn.Embedding) and named.search(name) for name, module in model.named_modules())


# ---------------------------------------------------------------------------------------------- identity


def identity(checkpoint: Checkpoint) -> dict[str, Any]:
    """Return what tells this checkpoint from another: class, sizes and digests of weights and tokenizer.

    The digest of the weights reads up to 1,024 evenly spaced numbers of every tensor: cheap for any size, and changed by
    any training step. Where the weights lie changes nothing.
    """
    import torch

    digest = hashlib.sha256()
    for name, tensor in stored_tensors(checkpoint.model):
        flat = tensor.detach().reshape(-1)
        sample = flat[:: max(1, flat.numel() // 1024)][:1024].to("cpu", torch.float32)
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(sample.contiguous().numpy().tobytes())
    vocabulary = None if checkpoint.tokenizer is None else sorted(checkpoint.tokenizer.get_vocab().items())
    config = checkpoint.model.config
    return {
        "name": checkpoint.name,
        "commit": checkpoint.commit,
        "class": type(checkpoint.model).__name__,
        "model_type": config.model_type,
        "dtype": str(checkpoint.model.dtype).removeprefix("torch."),
        "n_parameters": checkpoint.model.num_parameters(),
        "weights_digest": digest.hexdigest(),
        "vocabulary_digest": vocabulary and hashlib.sha256(repr(vocabulary).encode()).hexdigest(),
    }
