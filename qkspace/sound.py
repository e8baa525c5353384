"""Turn sounds into tables that say what each frame is, and into batches for a speech encoder.

In: `SoundSequence` (`qkspace.sound_corpus`), the model's `SoundInput` and `Frames` (`qkspace.sound_input`). Out: chunks of
whole windows, as `qkspace.tokenise` makes them of texts, and their samples, which a build keeps in one file of its work
folder and feeds to the model from there; the index gets their outline. Tokens are frames: positions are time. Knows no
attention.

Whisper reads windows of one length, 30 s. What a sound does not fill is silence that its encoder attends to like anything
else, so those frames are stored too, as special tokens of kind "padding". wav2vec2 and its kin read sounds of any length,
and are fed sounds of one length at a time, so that no padding enters what they normalise.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from qkspace.feed import Feed, Tokens
from qkspace.parts import is_pair, runner_of
from qkspace.reading import MAX_LENGTH, with_corpus
from qkspace.schema import BoolArray, IntArray, QKSpaceError, TextSequence
from qkspace.sound_corpus import Samples, SoundSequence, decode, read_sounds, resampled
from qkspace.sound_input import KNOWN, Frames, SoundInput, frequency, load_sound_input, loudness, outline, pieces_of
from qkspace.store import replacing, write_array
from qkspace.tables import metadata_columns, typed_column
from qkspace.tokenise import TokeniseCounts, TokenisedChunk
from qkspace.weights import input_device

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from qkspace.console import Console
    from qkspace.model import Checkpoint
    from qkspace.plan import Parameters

FRAME_COLUMNS = ("time", "loudness", "frequency", "duration")
KINDS = ("padding", "frame")
SILENCE = "(silence)"
AUDIBLE = -80.0  # dB, below which the frequency of a frame says nothing
SOUNDS, SOUND_STARTS, SOUND_BEGINS = "sounds", "sounds.npy", "sound_begins.npy"  # in the work folder
_CHUNK_WINDOWS = 16  # whose samples are in memory at a time


# ---------------------------------------------------------------------------------------------- the tables


@dataclass(frozen=True, slots=True)
class _Window:
    """Some of a sound, as much as the model reads at a time: samples from `begin`; number: which window of its sound."""

    sound: SoundSequence
    samples: Samples
    begin: int
    number: int


@dataclass(frozen=True, slots=True)
class SoundChunk(TokenisedChunk):
    """Some whole windows laid end to end, and their samples; begins: the first sample of each in its sound."""

    samples: tuple[Samples, ...]
    begins: tuple[int, ...]


def sound_chunks(
    sounds: Iterable[SoundSequence],
    frames: Frames,
    *,
    max_length: int,
    long: str = "split",
    counts: TokeniseCounts,
) -> Iterator[SoundChunk]:
    """Yield the frames of sounds in chunks of at most 16 windows, in the form that `tokenise` gives tokens.

    Of a frame: `time`, its middle in seconds from the beginning of the sound; `loudness` in dB below full scale;
    `frequency`, the spectral centroid in Hz, null where the frame is quieter than -80 dB. Frames of padding have neither.
    `token` and `text` are the time ("0.34s"), and `token_id` the number of the frame in the sound; of padding they are
    "(silence)" and -1; `start` and `end` are -1. `duration` is of the whole sound, in seconds. A column of metadata with
    one of these names is stored as `corpus_<name>`. A sound without a whole frame is counted as empty and left out.

    Args:
        sounds: the corpus; it is read as chunks are asked for.
        frames: how the model cuts samples.
        max_length: frames of a window.
        long: "split" a longer sound into windows one after another, or "cut" it after the first.
        counts: what became of the sounds is added here.

    Raises:
        QKSpaceError: a sound cannot be read; the message names it.
    """
    first, waiting = 0, list[_Window]()
    for sound in sounds:
        counts.n_sequences += 1
        for window in _windows(sound, frames, max_length, long, counts):
            waiting.append(window)
            if len(waiting) == _CHUNK_WINDOWS:
                yield _chunk(waiting, frames, first, counts)
                first, waiting = first + len(waiting), []
    if waiting:
        yield _chunk(waiting, frames, first, counts)


def _windows(
    sound: SoundSequence, frames: Frames, max_length: int, long: str, counts: TokeniseCounts
) -> Iterator[_Window]:
    """Yield the windows of a sound; each begins where the last frame of the one before would be followed by a frame."""
    decoded, rate = decode(sound)
    samples = resampled(decoded, rate, frames.rate)
    n_frames = (
        frames.count(len(samples)) if frames.n_fixed is None else -(-len(samples) // frames.step)
    )  # of the whole sound
    if n_frames < 1:
        counts.n_empty += 1
        return
    if n_frames > max_length:
        counts.n_split += long == "split"
        counts.n_cut += long == "cut"
        counts.n_tokens_dropped += n_frames - max_length if long == "cut" else 0
    known = replace(sound, metadata={**_renamed(sound, counts.renamed), "duration": len(decoded) / rate})
    for number, first in enumerate(range(0, n_frames if long == "split" else 1, max_length)):
        n = min(max_length, n_frames - first)
        begin = first * frames.step
        yield _Window(known, samples[begin : begin + frames.samples(n)], begin, number)


def _renamed(sound: SoundSequence, renamed: dict[str, str]) -> dict[str, Any]:
    """Return the metadata of a sound, none of it named as a column of frames."""
    clash = {name: f"corpus_{name}" for name in sound.metadata if name in FRAME_COLUMNS}
    if twice := [new for new in clash.values() if new in sound.metadata]:
        raise QKSpaceError(f"{sound.source}: two columns of metadata would be stored as {twice[0]!r}: rename one.")
    renamed.update(clash)
    return {clash.get(name, name): value for name, value in sound.metadata.items()}


def _chunk(windows: Sequence[_Window], frames: Frames, first: int, counts: TokeniseCounts) -> SoundChunk:
    """Return the tables of some windows, which are numbered from `first`."""
    import pyarrow as pa

    heard = np.asarray([frames.count(len(window.samples)) for window in windows], dtype=np.int32)
    lengths = heard if frames.n_fixed is None else np.full(len(windows), frames.n_fixed, dtype=np.int32)
    counts.n_tokens += int(lengths.sum())
    number = np.arange(first, first + len(windows), dtype=np.int32)
    window = np.repeat(np.arange(len(windows)), lengths)
    place = np.concatenate([np.arange(n, dtype=np.int32) for n in lengths])
    begin = np.asarray([w.begin for w in windows])
    is_padding = place >= heard[window]
    time = frames.times(int(lengths.max()))[place] + begin[window] / frames.rate
    names = pa.array([SILENCE if hidden else f"{t:.2f}s" for t, hidden in zip(time, is_padding, strict=True)])
    token = names.dictionary_encode()
    texts = [TextSequence(w.sound.name, w.sound.metadata, source=w.sound.source) for w in windows]
    _, of_sounds = metadata_columns(texts, [0] * len(texts), set(), counts.renamed)
    nowhere = np.full(len(place), -1, dtype=np.int32)  # no frame stands in the text, which is the name of the sound
    ids = np.where(is_padding, -1, place + (begin // frames.step)[window]).astype(np.int32)
    tokens = {
        "sequence": number[window],
        "position": place,
        "token": token,
        "token_id": ids,
        "text": token,
        "is_special": is_padding,
        "word": nowhere,
        "word_text": pa.nulls(len(place), pa.string()),
        "start": nowhere,
        "end": nowhere,
        "kind": pa.DictionaryArray.from_arrays(pa.array((~is_padding).astype(np.int8)), pa.array(KINDS)),
        "time": pa.array(time, pa.float32()),
        **_measured(windows, frames, heard, is_padding),
        **{name: column.take(pa.array(window)) for name, column in of_sounds.items()},
    }
    of_windows = {
        "sequence": number,
        "text": typed_column([_name(w, frames) for w in windows]),
        "n_tokens": lengths,
        "window": np.asarray([w.number for w in windows], dtype=np.int32),
        "source": typed_column([w.sound.source for w in windows]),
        **of_sounds,
    }
    kept = (tuple(w.samples for w in windows), tuple(w.begin for w in windows))
    return SoundChunk(pa.table(tokens), pa.table(of_windows), ids, is_padding, lengths, *kept)


def _name(window: _Window, frames: Frames) -> str:
    """Return what a window is called: its sound, and from when on."""
    return window.sound.name + (f" from {window.begin / frames.rate:g} s" if window.number else "")


def _measured(windows: Sequence[_Window], frames: Frames, heard: IntArray, is_padding: BoolArray) -> dict[str, Any]:
    """Return loudness and frequency of each frame, null in padding."""
    import pyarrow as pa

    decibel, hertz = np.zeros((2, len(is_padding)), dtype=np.float32)
    pieces = [pieces_of(w.samples, frames, int(n)) for w, n in zip(windows, heard, strict=True)]
    decibel[~is_padding] = np.concatenate([loudness(each) for each in pieces])
    hertz[~is_padding] = np.concatenate([frequency(each, frames.rate) for each in pieces])
    return {
        "loudness": pa.array(decibel, mask=is_padding),
        "frequency": pa.array(hertz, mask=is_padding | (decibel < AUDIBLE)),
    }


# ---------------------------------------------------------------------------------------------- the file of samples


class SoundWriter:
    """Lays the samples of windows end to end in a folder, and where each starts beside them, which closing writes."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._sizes, self._begins = folder, [0], list[int]()
        self._file = (folder / SOUNDS).open("wb")

    def __enter__(self) -> SoundWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        if kind is None:
            write_array(self._folder / SOUND_BEGINS, np.asarray(self._begins, dtype=np.int64))
            write_array(self._folder / SOUND_STARTS, np.cumsum(self._sizes, dtype=np.int64))

    def add(self, chunk: SoundChunk) -> None:
        """Write the samples of the next windows."""
        for samples, begin in zip(chunk.samples, chunk.begins, strict=True):
            self._file.write(samples.astype("<f4").tobytes())
            self._sizes.append(len(samples))
            self._begins.append(begin)


class Sounds:
    """Reads the samples that a `SoundWriter` wrote, each window by its number; threads may share one."""

    def __init__(self, folder: Path) -> None:
        self._data = np.memmap(folder / SOUNDS, dtype="<f4", mode="r")
        self._starts: IntArray = np.load(folder / SOUND_STARTS, allow_pickle=False)
        self.begins: IntArray = np.load(folder / SOUND_BEGINS, allow_pickle=False)

    def __len__(self) -> int:
        return len(self._starts) - 1

    def samples(self, number: int) -> Samples:
        """Return the samples of a window."""
        return np.array(self._data[self._starts[number] : self._starts[number + 1]], dtype=np.float32)


@dataclass(frozen=True, slots=True)
class SoundFeed:
    """What goes into a forward pass of a speech encoder (`qkspace.feed`); dtype: of the model's weights.

    equal_lengths: batches are of sequences of one length.
    """

    sounds: Sounds
    sound_input: SoundInput
    dtype: torch.dtype
    equal_lengths: bool = True

    def batch(self, sequences: IntArray, device: torch.device) -> dict[str, Tensor]:
        """Return the inputs of some sounds of one length, in the order that is asked for.

        Raises:
            QKSpaceError: they are not of one length: padding would change what the model makes of them.
        """
        import torch

        samples = [self.sounds.samples(int(number)) for number in sequences]
        sizes = sorted({len(each) for each in samples})
        if len(sizes) > 1 and self.sound_input.frames.n_fixed is None:
            raise QKSpaceError(
                f"A batch of sounds of {sizes[0]:,} to {sizes[-1]:,} samples: padding would change what the model makes of the "
                "shorter ones. Expected sounds of one length."
            )
        values = self.sound_input.values(samples)
        return {self.sound_input.name: torch.from_numpy(values).to(device, self.dtype)}


def write_sounds(folder: Path, root: Path, is_stored: BoolArray, rate: int) -> None:
    """Write sounds.parquet into an index: one row a stored window, with the outline of its waveform.

    Columns: `sequence` (its number, as in sequences.parquet), `sampling_rate` (as the model hears it), `begin` and
    `seconds` (of the window in its sound, without padding), `low` and `high` (lists of 500: the lowest and the highest
    sample in equal parts of it).

    Args:
        folder: where a `SoundWriter` wrote.
        root: folder of the index.
        is_stored: (sequence)
        rate: samples a second.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    sounds = Sounds(folder)
    numbers = np.flatnonzero(is_stored)
    kinds = {"sequence": pa.int32(), "sampling_rate": pa.int32(), "begin": pa.float64(), "seconds": pa.float64()}
    schema = pa.schema([*kinds.items(), ("low", pa.list_(pa.float32())), ("high", pa.list_(pa.float32()))])
    with replacing(root / "sounds.parquet") as file, pq.ParquetWriter(file, schema) as writer:
        for first in range(0, len(numbers), 64):  # one row group each, so that a few can be read
            some = numbers[first : first + 64]
            samples = [sounds.samples(int(number)) for number in some]
            low, high = zip(*map(outline, samples), strict=True)
            spans = [sounds.begins[some] / rate, [len(each) / rate for each in samples]]
            columns = [some.astype(np.int32), [rate] * len(some), *spans, list(low), list(high)]
            writer.write_table(pa.table(columns, schema=schema))


# ---------------------------------------------------------------------------------------------- the reader


class SoundReader:
    """Sounds, as the preprocessing of the checkpoint prepares them and its encoder cuts them into frames."""

    modality = "audio"

    def __init__(
        self, checkpoint: Checkpoint, part: str, sources: tuple[str, ...], parameters: Parameters, console: Console
    ) -> None:
        """Load the preprocessing, and try the model on noise to see its frames."""
        self.sources, self.parameters, self.console = sources, parameters, console
        self.model = checkpoint.model
        p = parameters
        if is_pair(self.model) and part != "encoder":
            raise QKSpaceError(
                f"{type(self.model).__name__} hears sound with its encoder; its part {part!r} writes text of it, for which "
                "there is no corpus of sounds and texts here. Expected --attention encoder."
            )
        self.sound_input = load_sound_input(
            checkpoint.name, self.model.config, revision=p.revision, trust_remote_code=p.trust_remote_code
        )
        self.frames = self.sound_input.frames
        if self.frames.n_fixed is not None and p.max_length not in (None, self.frames.n_fixed):
            raise QKSpaceError(
                f"{type(self.model).__name__} reads windows of {self.frames.n_fixed:,} frames, whatever is in them: leave "
                "--max-length out."
            )
        self._try(part)

    @property
    def max_length(self) -> int:
        """Frames of a sequence."""
        return self.frames.n_fixed or self.parameters.max_length or MAX_LENGTH

    def _try(self, part: str) -> None:
        """Refuse a model that attends over other tokens than the frames that are expected of a second of noise."""
        import torch

        from qkspace.capture import AttentionCall, forward, listening

        noise = np.random.default_rng(0).normal(0, 0.1, self.frames.rate).astype(np.float32)
        values = torch.from_numpy(self.sound_input.values([noise])).to(input_device(self.model), self.model.dtype)
        n_tokens: list[int] = []

        def see(call: AttentionCall) -> None:
            n_tokens.append(call.query.shape[2])

        route: Any = "interface" if self.model._can_set_attn_implementation() else "inline"
        with listening(self.model, see, route=route):
            forward(self.model, {self.sound_input.name: values}, runner_of(self.model, part))
        expected = self.frames.n_fixed or self.frames.count(len(noise))
        if set(n_tokens) - {expected}:
            raise QKSpaceError(
                f"{type(self.model).__name__} attends over {n_tokens[0]:,} tokens where a second of sound has {expected:,} "
                f"frames, so that its tokens cannot be laid over time. Expected a speech encoder such as {KNOWN}."
            )

    def chunks(self, folder: Path, counts: TokeniseCounts) -> Iterator[TokenisedChunk]:
        """Cut sounds into frames, and keep the samples as the model hears them."""
        long = self.parameters.long
        with SoundWriter(folder) as writer:
            for chunk in sound_chunks(
                self._sounds(), self.frames, max_length=self.max_length, long=long, counts=counts
            ):
                writer.add(chunk)
                yield chunk

    def _sounds(self) -> Iterator[SoundSequence]:
        p = self.parameters
        column = getattr(p, "audio_column", None)
        for name in self.sources:
            found = read_sounds(name, format=p.format, audio_column=column, split=p.split, config=p.config)
            for sound in self.console.track(found, None, f"Reading {Path(name).name}", unit="sounds"):
                several = len(self.sources) > 1
                yield replace(sound, metadata=with_corpus(sound.metadata, name, self.sources)) if several else sound

    def facts(self) -> dict[str, Any]:
        """Return the longest sequence allowed."""
        return {"max_length": self.max_length}

    def feed(self, folder: Path, tokens: Tokens) -> Feed:
        """Feed the samples that were kept."""
        return SoundFeed(Sounds(folder), self.sound_input, self.model.dtype)

    def finish(self, folder: Path, root: Path, is_stored: BoolArray) -> dict[str, Any]:
        """Write the outlines of the stored sounds."""
        write_sounds(folder, root, is_stored, self.frames.rate)
        return {"audio": self.frames.entry()}
