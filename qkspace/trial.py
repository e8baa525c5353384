"""Trial: can a checkpoint be captured? Asked without a corpus, on two sentences, pictures of noise or sounds of noise.

In: a loaded checkpoint. Out: of each of its parts the findings of the self-check, or the reason why there are none, and
sentences that say so. Inputs are read, prepared and fed as a build does it; nothing is kept. Prints nothing.
"""

from __future__ import annotations

import os
import wave
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np

from qkspace.console import SILENT
from qkspace.feed import Tokens
from qkspace.parts import choices, runner_of
from qkspace.plan import Parameters
from qkspace.schema import IntArray, LayerSpec, QKSpaceError
from qkspace.weights import input_device, reason_of

if TYPE_CHECKING:
    from qkspace.model import Checkpoint
    from qkspace.observe import Batch
    from qkspace.reading import Reader
from qkspace.selfcheck import Check

SENTENCES = (
    "The old clock stopped.",
    "When the lighthouse keeper's daughter came home, she found 3 letters, a map of the islands and a small brass key.",
)
EXAMPLE = "example"  # folder of what is read
TOWERS = {"text": "text", "vision": "image", "audio": "audio"}
PICTURE = (96, 128)  # height and width, before the model's own preprocessing
RATE = 16_000  # samples of a second of noise


@dataclass(frozen=True, slots=True)
class Trial:
    """What came of one part of a model: the findings of its self-check, or why there are none."""

    part: str
    check: Check | None
    reason: str = ""


def load_to_try(name: str, **options: Any) -> Checkpoint:
    """Load a checkpoint by `qkspace.model.load`; without a tokenizer what reads no text of it can be tried nevertheless."""
    from qkspace.model import load

    return load(name, modality="image", **options)


def try_parts(checkpoint: Checkpoint, parameters: Parameters | None = None) -> tuple[Trial, ...]:
    """Run the self-check on the part that the parameters name, else on every part of a model.

    Args:
        checkpoint: a loaded checkpoint.
        parameters: what of a build concerns the model: attention, revision, trust_remote_code, storage.
    """
    asked = parameters or Parameters()
    names = [asked.attention] if asked.attention is not None else choices(checkpoint.model)
    found: list[Trial] = []
    for name in names:
        with TemporaryDirectory(prefix="qkspace-") as folder:
            found += _try(checkpoint, name, replace(asked, attention=name), Path(folder))
    return tuple(found)


def in_words(trial: Trial) -> str:
    """Say in one line what came of a part."""
    check = trial.check
    if check is None:
        return f"{trial.part}: cannot be captured. {trial.reason}"
    against = (
        "the attentions that it reports" if check.against == "output_attentions" else "the softmax of its forward pass"
    )
    return (
        f"{trial.part}: can be captured ({check.route} route), {_size(check.layers)}, {_mask(check.layers)}, position part: "
        f"{_position(check.layers)}. Against {against}, attention as captured differs by at most {check.captured_error:.1g}, "
        f"recomputed from query and key by {check.recomputed_error:.1g} (allowed {check.tolerance:g})."
    )


# ---------------------------------------------------------------------------------------------- one part


def _try(checkpoint: Checkpoint, part: str, parameters: Parameters, folder: Path) -> list[Trial]:
    """Try one part; a model of one tower may turn out to have several, as a tower of stages has."""
    from qkspace.selfcheck import check, survey

    model = checkpoint.model
    try:
        runner_of(model, part)  # which refuses a tower that is not there
        several, longest = _batches(checkpoint, part, parameters, folder)
        names = [found.part for found in survey(model, several)] if part == "self" else [part]
        return [Trial(name, check(model, several, longest, parameters.storage, name)) for name in names]
    except QKSpaceError as error:
        return [Trial(part, None, str(error).replace(f"{folder / EXAMPLE}{os.sep}", ""))]
    except Exception as error:  # a forward pass lets everything through, down to what code of a checkpoint raises
        return [Trial(part, None, f"{type(model).__name__} does not run on a trial's input ({reason_of(error)}).")]


def _batches(checkpoint: Checkpoint, part: str, parameters: Parameters, folder: Path) -> tuple[Batch, Batch]:
    """Return the inputs of the whole example, and those of its longest sequence alone."""
    from qkspace.model import TOKENIZER_FILES
    from qkspace.reading import reader_of

    modality = _modality(checkpoint, part)
    if modality == "text" and checkpoint.tokenizer is None:
        raise QKSpaceError(
            f"It reads text, and {checkpoint.name} holds no tokenizer. Expected there: {TOKENIZER_FILES}."
        )
    source = _example(folder, modality)
    reader = reader_of(checkpoint, part, (str(source),), parameters, SILENT)
    work = folder / "corpus"
    work.mkdir()
    tokens = _read(reader, part, work)
    feed = reader.feed(work, tokens)
    longest, everything = np.argmax(tokens.lengths, keepdims=True), np.arange(len(tokens.lengths))
    device = input_device(checkpoint.model)
    return feed.batch(everything, device), feed.batch(longest, device)


def _read(reader: Reader, part: str, work: Path) -> Tokens:
    """Turn the example into tokens, as `Pipeline.read` does a corpus."""
    from qkspace.tokenise import TokeniseCounts

    chunks = list(reader.chunks(work, TokeniseCounts()))
    lengths: IntArray = np.concatenate([chunk.lengths for chunk in chunks]).astype(np.int64)
    return Tokens(
        token_ids=np.concatenate([chunk.token_ids for chunk in chunks]),
        is_special=np.concatenate([chunk.is_special for chunk in chunks]),
        starts=np.concatenate([[0], np.cumsum(lengths)]),
        is_stored=np.ones(len(lengths), dtype=bool),
        n_source=np.load(work / "n_source.npy") if part == "cross" and (work / "n_source.npy").exists() else None,
    )


# ---------------------------------------------------------------------------------------------- what is tried


def _modality(checkpoint: Checkpoint, part: str) -> str:
    """Return what a part of a model reads: "text", "image" or "audio"; of several what its main input is."""
    from qkspace.model import modality_of

    if part in TOWERS:
        return TOWERS[part]
    reads = modality_of(checkpoint.model.config).split("+")
    is_text = getattr(checkpoint.model, "main_input_name", "input_ids") == "input_ids"
    order = ("text", "image", "audio") if is_text else ("image", "audio", "text")
    return next((kind for kind in order if kind in reads), reads[0])


def _example(folder: Path, modality: str) -> Path:
    """Write two sequences for a model to read, and return where; of what cannot be read there is nothing to write."""
    source = folder / EXAMPLE
    source.mkdir()
    rng = np.random.default_rng(0)
    if modality == "image":
        from PIL import Image

        for number in range(2):
            Image.fromarray(rng.integers(0, 256, size=(*PICTURE, 3), dtype=np.uint8)).save(source / f"{number}.png")
        return source
    if modality == "audio":
        for number in range(2):
            with wave.open(str(source / f"{number}.wav"), "wb") as file:
                file.setparams((1, 2, RATE, RATE, "NONE", ""))
                file.writeframes(rng.normal(0, 3_000, RATE).astype("<i2").tobytes())
        return source
    path = source / "sentences.txt"
    path.write_text("\n".join(SENTENCES) + "\n", encoding="utf-8")
    return path


# ---------------------------------------------------------------------------------------------- words


def _size(layers: Sequence[LayerSpec]) -> str:
    n_heads, d_head = (sorted({getattr(layer, name) for layer in layers}) for name in ("n_heads", "d_head"))
    shared = sorted({layer.n_kv_heads for layer in layers})
    keys = "" if shared == n_heads else f" ({_range(shared)} of keys)"
    return f"{len(layers)} layers x {_range(n_heads)} heads{keys} x {_range(d_head)}"


def _range(values: Sequence[int]) -> str:
    return str(values[0]) if len(values) == 1 else f"{values[0]} to {values[-1]}"


def _mask(layers: Sequence[LayerSpec]) -> str:
    """Say who may attend to whom; a window wider than what was tried was not seen."""
    kinds = {
        "of target tokens to source tokens": any(layer.crosses for layer in layers),
        "causal": any(layer.causal for layer in layers),
        "windowed": any(layer.window is not None for layer in layers),
    }
    return " and ".join(kind for kind, has in kinds.items() if has) or "to both sides"


def _position(layers: Sequence[LayerSpec]) -> str:
    kinds: list[str] = sorted({layer.position for layer in layers if layer.position is not None})
    kinds += ["soft cap"] if any(layer.softcap is not None for layer in layers) else []
    kinds += ["sink"] if any(layer.has_sink for layer in layers) else []
    return ", ".join(kinds) or "none"
