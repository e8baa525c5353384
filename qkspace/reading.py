"""Reading: from the sources of a corpus to tokens on disk and to the inputs of the model, by what the model reads.

In: a checkpoint, the names of sources and parameters. Out: a reader, which gives chunks of tokens to store, later the feed
of the forward passes, and last what the index holds of it beside tokens. Text, images, sound and pairs of texts each have
one; the pipeline knows them by this interface alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from qkspace.feed import Feed, TextFeed, Tokens
from qkspace.parts import choices, is_pair, runner_of
from qkspace.schema import BoolArray, QKSpaceError, TextSequence

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from qkspace.console import Console
    from qkspace.image_input import Grid
    from qkspace.model import Checkpoint, Modality
    from qkspace.observe import Batch
    from qkspace.plan import Parameters
    from qkspace.tokenise import TokeniseCounts, TokenisedChunk

MAX_LENGTH = 1024  # tokens of a sequence, unless asked for otherwise; the model's context where that is shorter
CORPUS_CLASH = "corpus_corpus"  # a column "corpus" of the corpus, where ours names the source


class Reader(Protocol):
    """How one kind of corpus is read; folder: where the build keeps what it read."""

    @property
    def modality(self) -> str:
        """What it reads: "text", "image" or "audio"."""

    def chunks(self, folder: Path, counts: TokeniseCounts) -> Iterator[TokenisedChunk]:
        """Read the corpus once, and keep in the folder what the feed will need beside tokens."""

    def facts(self) -> dict[str, Any]:
        """Return what to record of the reading, such as the longest sequence allowed."""

    def feed(self, folder: Path, tokens: Tokens) -> Feed:
        """Return where the inputs of the model come from, once the corpus was read."""

    def finish(self, folder: Path, root: Path, is_stored: BoolArray) -> dict[str, Any]:
        """Write what the index holds beside tokens; return what its manifest says of it."""


def modality_of(checkpoint: Checkpoint, sources: Sequence[str], parameters: Parameters) -> str:
    """Tell what a corpus is to a model: "text", "image" or "audio".

    Raises:
        QKSpaceError: the model reads none of these.
    """
    from qkspace.model import modality_of

    reads = modality_of(checkpoint.model.config).split("+")
    known = [kind for kind in reads if kind in ("text", "image", "audio")]
    if not known:
        raise QKSpaceError(
            f"{type(checkpoint.model).__name__} reads {' and '.join(reads)}, and qkspace reads text, images and sound."
        )
    held = asked_modality(sources, parameters)
    if held is not None and held not in known and all(Path(name).exists() for name in sources):
        shown = {"image": "images", "audio": "sounds"}[held]
        raise QKSpaceError(
            f"{', '.join(sources)}: these are {shown}, and {type(checkpoint.model).__name__} reads {' and '.join(known)}. Give "
            f"a corpus of {known[0]}, or a model of {shown}."
        )
    towers = {"text": "text", "vision": "image", "audio": "audio"}
    if parameters.attention in towers and towers[parameters.attention] in known:
        return towers[parameters.attention]
    if "text" in known and len(known) > 1:
        other = next(kind for kind in known if kind != "text")
        asked = parameters.image_column or parameters.audio_column
        return other if all(_holds(name, other) for name in sources) or asked else "text"
    return known[0]


def asked_modality(sources: Sequence[str], parameters: Parameters) -> Modality | None:
    """Return what a model must be able to read where the corpus says it: "image" or "audio"; None where it may be text."""
    if parameters.image_column or all(_holds(name, "image") for name in sources):
        return "image"
    return "audio" if parameters.audio_column or all(_holds(name, "audio") for name in sources) else None


def _holds(name: str, modality: str) -> bool:
    """Tell whether a source is files of images or of sound."""
    from qkspace.image_corpus import is_image_name
    from qkspace.media import holds_rows
    from qkspace.sound_corpus import is_sound_name

    path = Path(name)
    if path.is_dir() and holds_rows(path):  # a picture among data is no corpus of pictures
        return False
    names = (str(p) for p in path.rglob("*") if p.is_file()) if path.is_dir() else [name]
    return any(map(is_image_name if modality == "image" else is_sound_name, names))


def part_of(checkpoint: Checkpoint, modality: str, asked: str | None) -> str | None:
    """Return the part to capture: what was asked for, else the tower that reads this modality, else the only one."""
    towers = {"text": "text", "image": "vision", "audio": "audio"}
    if asked is None and modality == "audio" and is_pair(checkpoint.model):  # sound is what an encoder hears
        return "encoder"
    names = choices(checkpoint.model)
    return towers[modality] if asked is None and towers[modality] in names and not is_pair(checkpoint.model) else asked


def reader_of(
    checkpoint: Checkpoint, part: str, sources: Sequence[str], parameters: Parameters, console: Console
) -> Reader:
    """Return the reader of a corpus for a part of a model.

    Raises:
        QKSpaceError: an option was given that means nothing to that part.
    """
    modality = modality_of(checkpoint, sources, parameters)
    given = (checkpoint, part, tuple(sources), parameters, console)
    has_target = part in ("decoder", "cross") and is_pair(checkpoint.model)
    _refuse_unused(checkpoint, part, modality, parameters, has_target=has_target)
    if modality == "image":
        return ImageReader(*given)
    if modality == "audio":
        from qkspace.sound import SoundReader

        return SoundReader(*given)
    if has_target:
        from qkspace.pairs import PairReader

        return PairReader(*given)
    if parameters.generate is not None:
        from qkspace.generation import GenerationReader

        return GenerationReader(*given)
    return TextReader(*given)


def _refuse_unused(
    checkpoint: Checkpoint, part: str, modality: str, parameters: Parameters, *, has_target: bool
) -> None:
    """Refuse options about what is written where nothing is."""
    name = type(checkpoint.model).__name__
    if parameters.target_column is not None and not has_target:
        raise QKSpaceError(
            f"--target-column gives the decoder of an encoder-decoder its text, and the part {part!r} of {name} reads none. "
            "Leave it out, or choose --attention decoder or cross of a model that has them."
        )
    if parameters.generate is not None and not has_target and (modality != "text" or part != "self"):
        raise QKSpaceError(f"--generate: the part {part!r} of {name} writes no text. Leave it out.")


@dataclass(frozen=True, slots=True)
class TextReader:
    """Texts, as the tokenizer of the checkpoint cuts them."""

    checkpoint: Checkpoint
    part: str
    sources: tuple[str, ...]
    parameters: Parameters
    console: Console
    modality: str = "text"

    @property
    def max_length(self) -> int:
        """Tokens of a sequence."""
        return max_length(self.checkpoint, self.parameters)

    def chunks(self, folder: Path, counts: TokeniseCounts) -> Iterator[TokenisedChunk]:
        """Tokenise the corpus."""
        from qkspace.tokenise import tokenise

        sequences = text_sequences(self.sources, self.parameters, self.console)
        p = self.parameters
        return tokenise(sequences, self.checkpoint.tokenizer, max_length=self.max_length, long=p.long, counts=counts)

    def facts(self) -> dict[str, Any]:
        """Return the longest sequence allowed."""
        return {"max_length": self.max_length}

    def feed(self, folder: Path, tokens: Tokens) -> Feed:
        """Feed token ids."""
        return TextFeed(tokens, pad_id(self.checkpoint))

    def finish(self, folder: Path, root: Path, is_stored: BoolArray) -> dict[str, Any]:
        """Nothing is to be written beside tokens."""
        return {}


def max_length(checkpoint: Checkpoint, parameters: Parameters) -> int:
    """Return how many tokens a sequence may have: what was asked for, else the model's context, at most `MAX_LENGTH`.

    Raises:
        QKSpaceError: more was asked for than the model has positions for.
    """
    from qkspace.model import context_length, has_position_table

    context, asked = context_length(checkpoint), parameters.max_length
    if asked is not None and context is not None and asked > context and has_position_table(checkpoint.model):
        raise QKSpaceError(
            f"--max-length {asked}: {type(checkpoint.model).__name__} has a context of {context} tokens, no positions beyond. "
            f"Give at most {context}; longer texts are split into windows (--long split) or cut (--long cut)."
        )
    return asked or min(context or MAX_LENGTH, MAX_LENGTH)


class ImageReader:
    """Images, as the preprocessing of the checkpoint resizes and cuts them and its first layer cuts them into patches."""

    modality = "image"

    def __init__(
        self, checkpoint: Checkpoint, part: str, sources: tuple[str, ...], parameters: Parameters, console: Console
    ) -> None:
        """Load the preprocessing, and try the model on a picture of noise to see its patches."""
        import torch

        from qkspace.image_input import load_image_input
        from qkspace.weights import input_device

        self.sources, self.parameters, self.console = sources, parameters, console
        self.model = checkpoint.model
        p = parameters
        self.images = load_image_input(checkpoint.name, revision=p.revision, trust_remote_code=p.trust_remote_code)
        pixels = torch.from_numpy(self.images.example()).to(input_device(self.model), self.model.dtype)
        self.grid = _grid_of(self.model, part, {"pixel_values": pixels}, self.images.size)

    def chunks(self, folder: Path, counts: TokeniseCounts) -> Iterator[TokenisedChunk]:
        """Cut images into patches, and keep the pictures as the model sees them."""
        from qkspace.images import PictureWriter, image_chunks

        with PictureWriter(folder) as pictures:
            for chunk in image_chunks(self._images(), self.images, self.grid, counts=counts):
                pictures.add(chunk.pictures)
                yield chunk

    def _images(self) -> Iterator[Any]:
        from dataclasses import replace

        from qkspace.image_corpus import read_images

        p = self.parameters
        for name in self.sources:
            found = read_images(name, format=p.format, image_column=p.image_column, split=p.split, config=p.config)
            for image in self.console.track(found, None, f"Reading {Path(name).name}", unit="images"):
                several = len(self.sources) > 1
                yield replace(image, metadata=with_corpus(image.metadata, name, self.sources)) if several else image

    def facts(self) -> dict[str, Any]:
        """Return the size of every picture."""
        return {"picture": list(self.images.size)}

    def feed(self, folder: Path, tokens: Tokens) -> Feed:
        """Feed the pictures that were kept."""
        from qkspace.images import ImageFeed, Pictures

        return ImageFeed(Pictures(folder), self.images, self.model.dtype)

    def finish(self, folder: Path, root: Path, is_stored: BoolArray) -> dict[str, Any]:
        """Write the pictures of the stored images."""
        from qkspace.images import write_pictures

        write_pictures(folder, root, is_stored)
        return {"image": self.grid.entry()}


def _grid_of(model: PreTrainedModel, part: str, batch: Batch, size: tuple[int, int]) -> Grid:
    """Return the grid of patches that a part of a vision model attends over, by a forward pass of one picture."""
    from qkspace.capture import forward
    from qkspace.image_input import patch_grid, window_grid
    from qkspace.observe import observations
    from qkspace.windows import has_windows

    runner = runner_of(model, part)
    if not has_windows(model):
        return patch_grid(model.config, int(forward(model, batch, runner).last_hidden_state.shape[1]), size)
    seen = next(observations(model, batch, runner))
    found = {each.name: seen.calls[each.calls[0]] for each in seen.parts}
    if part not in found:
        raise QKSpaceError(
            f"{type(model).__name__} has no part {part!r}. Its parts: {', '.join(found)}. See --attention."
        )
    call = found[part]
    if call.windows is None:
        return patch_grid(model.config, call.query.shape[2], size)
    call.windows.refuse_padding(call.module)
    return window_grid(call.windows.rows, call.windows.columns, size)


def text_sequences(sources: Sequence[str], parameters: Parameters, console: Console) -> Iterator[TextSequence]:
    """Read the sources one after another; with several of them a column says which."""
    from qkspace.corpus import read

    p = parameters
    for name in sources:
        options: dict[str, Any] = {"format": p.format, "text_column": p.text_column, "unit": p.unit}
        options |= {"split": p.split, "config": p.config, "encoding": p.encoding}
        with closing(read(name, **options)) as found:  # type: ignore[type-var]
            for sequence in console.track(found, None, f"Reading {Path(name).name}", unit="sequences"):
                if len(sources) > 1:
                    metadata = with_corpus(sequence.metadata, name, sources)
                    yield TextSequence(
                        sequence.text, metadata, sequence.word_spans, sequence.word_metadata, sequence.source
                    )
                else:
                    yield sequence


def with_corpus(metadata: Any, name: str, sources: Sequence[str]) -> dict[str, Any]:
    """Return the metadata of a sequence with the source that it is of, as `corpus`."""
    distinct = len({Path(source).name for source in sources}) == len(sources)
    kept = {CORPUS_CLASH if k == "corpus" else k: v for k, v in metadata.items()}
    return {**kept, "corpus": Path(name).name if distinct else name}


def pad_id(checkpoint: Checkpoint) -> int:
    """Return any valid token id; what stands there is masked."""
    pad = checkpoint.tokenizer.pad_token_id
    return 0 if pad is None else int(pad)
