"""Checkpoints: where models come from; beside the reader of data sets the only module that may reach the network.

In: a Hugging Face name or a local folder. Out: a loaded model in evaluation mode and its tokenizer. Knows nothing of
corpora, indexes or how attention is captured.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from qkspace.schema import QKSpaceError

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

Device = Literal["auto", "cpu", "cuda"]
DType = Literal["auto", "float32", "float16", "bfloat16"]


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A loaded model with its tokenizer; `name` is what the user called it."""

    name: str
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase


def load(
    name: str,
    *,
    device: Device = "auto",
    dtype: DType = "auto",
    revision: str | None = None,
    adapter: str | None = None,
    trust_remote_code: bool = False,
) -> Checkpoint:
    """Load a checkpoint and its tokenizer.

    Args:
        name: a folder with `config.json`, weights and tokenizer, or a name on the Hugging Face hub.
        device: "auto" takes a GPU where there is one.
        dtype: the type the model computes in; "auto" is float32 on a CPU and the checkpoint's own on a GPU.
        revision: branch, tag or commit of a name on the hub.
        adapter: folder of a LoRA adapter that is laid on the weights (`qkspace.adapter`).
        trust_remote_code: run code that comes with the checkpoint; only when the user asks for it.

    Raises:
        QKSpaceError: nothing loadable there, an adapter of another model, or a device or type this machine does not have.
    """
    import torch
    from transformers import AutoModel, AutoTokenizer

    chosen = _device(device)
    torch_dtype: Any = {"auto": "auto" if chosen.type == "cuda" else torch.float32}.get(dtype) or getattr(torch, dtype)
    name, options = _place(name, revision, trust_remote_code)
    try:
        with _quiet():
            model, info = AutoModel.from_pretrained(name, dtype=torch_dtype, output_loading_info=True, **options)
    except _load_errors() as error:
        raise _not_loaded(name, error) from error
    missing = sorted(key for key in info["missing_keys"] if "pooler" not in key)  # the pooler comes after all attention
    if missing:
        raise QKSpaceError(
            f"--model {name}: its weights lack {len(missing)} of the model's tensors, {missing[0]} first, which would be "
            "random numbers. Is the download complete, and config.json the one of these weights?"
        )
    try:
        with _quiet():
            tokenizer = AutoTokenizer.from_pretrained(name, **options)
    except _load_errors() as error:
        raise QKSpaceError(
            f"--model {name}: a {type(model).__name__} was loaded, but no tokenizer ({_first_line(error)}). This version reads "
            "text; a model of images or sound has none. Of a model of text, put its tokenizer files into the same folder."
        ) from error
    if adapter is not None:
        from qkspace.adapter import lay_on

        with _quiet():
            model = lay_on(model, adapter)
    return Checkpoint(name, model.to(chosen).eval(), tokenizer)


def check_name(
    name: str, *, revision: str | None = None, trust_remote_code: bool = False, option: str = "--model"
) -> None:
    """Refuse a checkpoint whose configuration cannot be read; cheap, whatever its size. option: what to call it in the error.

    Raises:
        QKSpaceError: no checkpoint there.
    """
    from transformers import AutoConfig

    name, options = _place(name, revision, trust_remote_code, option)
    try:
        with _quiet():
            AutoConfig.from_pretrained(name, **options)
    except _load_errors() as error:
        raise _not_loaded(name, error, option) from error


def _place(
    name: str, revision: str | None, trust_remote_code: bool, option: str = "--model"
) -> tuple[str, dict[str, Any]]:
    """Return the name or folder of a checkpoint as transformers takes it, and the options beside it."""
    options: dict[str, Any] = {"revision": revision, "trust_remote_code": trust_remote_code}
    if Path(name).is_dir():
        name = str(Path(name).resolve())
        options.pop("revision")
        if revision is not None:
            raise QKSpaceError(f"{name} is a local folder: --revision {revision} only applies to names on the hub.")
    elif name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise QKSpaceError(f"{option} {name}: no such folder. Give a folder with config.json or a name on the hub.")
    return name, options


def _not_loaded(name: str, error: BaseException, option: str = "--model") -> QKSpaceError:
    return QKSpaceError(
        f"{option} {name}: could not be loaded ({_first_line(error)}). Give a folder that holds config.json and "
        "weights, or a name on the Hugging Face hub (which needs the network or a filled cache)."
    )


def _load_errors() -> tuple[type[Exception], ...]:
    """Return what transformers lets through when a checkpoint is missing, cut short or of something else."""
    import pickle

    from safetensors import SafetensorError

    return (OSError, ValueError, KeyError, ImportError, RuntimeError, EOFError, SafetensorError, pickle.UnpicklingError)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep transformers' bars and remarks to itself; what matters of them becomes an error above."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def _device(device: Device) -> torch.device:
    import torch

    if device == "cuda" and not torch.cuda.is_available():
        raise QKSpaceError("--device cuda: torch sees no GPU on this machine. Use --device cpu, or auto.")
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(device)


def _first_line(error: BaseException) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


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
    stated = checkpoint.tokenizer.model_max_length
    if stated is not None and stated < 10**9:  # transformers writes 1e30 for "not stated"
        limits.append(int(stated))
    for name, module in checkpoint.model.named_modules():
        if isinstance(module, torch.nn.Embedding) and name.endswith("position_embeddings"):
            reserved = 0 if module.padding_idx is None else module.padding_idx + 1
            limits.append(module.num_embeddings - reserved)
    return min(limits, default=None)


def identity(checkpoint: Checkpoint) -> dict[str, Any]:
    """Return what tells this checkpoint from another: class, sizes and digests of weights and tokenizer.

    The digest of the weights reads up to 1,024 evenly spaced numbers of every tensor: cheap for any size, and changed by
    any training step.
    """
    import torch

    digest = hashlib.sha256()
    for name, tensor in checkpoint.model.state_dict().items():
        flat = tensor.detach().reshape(-1)
        sample = flat[:: max(1, flat.numel() // 1024)][:1024].to("cpu", torch.float32)
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(sample.contiguous().numpy().tobytes())
    vocabulary = sorted(checkpoint.tokenizer.get_vocab().items())
    config = checkpoint.model.config
    return {
        "name": checkpoint.name,
        "commit": getattr(config, "_commit_hash", None),
        "class": type(checkpoint.model).__name__,
        "model_type": config.model_type,
        "dtype": str(checkpoint.model.dtype).removeprefix("torch."),
        "n_parameters": sum(p.numel() for p in checkpoint.model.parameters()),
        "weights_digest": digest.hexdigest(),
        "vocabulary_digest": hashlib.sha256(repr(vocabulary).encode()).hexdigest(),
    }
