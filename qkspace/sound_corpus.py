"""Read a corpus of sounds, recording by recording.

In: a folder of sound files, a sound file, or rows with a column of sounds (JSONL, CSV, TSV, Parquet, data sets). Out: a
stream of `SoundSequence`, the files' own bytes with their metadata; `decode`, which turns such bytes into samples of one
channel, and `resampled`. Knows no model; memory does not grow with the corpus.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from math import gcd
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qkspace.media import Medium, read_media
from qkspace.schema import QKSpaceError, Scalar

Samples = NDArray[np.float32]  # (sample) of one channel, -1 to 1

SOUND_COLUMNS = ("audio", "sound", "speech", "recording", "audio_bytes", "bytes", "wav", "flac", "mp3")
SUFFIXES = (".wav", ".wave", ".flac", ".mp3", ".ogg", ".oga", ".opus", ".aif", ".aiff", ".au")
MAX_SAMPLES = 2**28  # of a recording, all channels, which then takes 1 GiB: an hour and a half of one channel at 48 kHz
RATES = (100, 1_000_000)  # samples a second that a recording can have
SOUNDS = Medium("sound", "a", "--audio-column", SOUND_COLUMNS, SUFFIXES, "Audio")
SOUND_FORMATS = SOUNDS.formats


@dataclass(frozen=True, slots=True)
class SoundSequence:
    """One recording of a corpus before it is cut into frames.

    sound_bytes: the file as it is, encoded; name: what it is called on the page, the name of its file where it has one;
    source: the place to name in an error ("sounds/vowels/3.wav", "birds.parquet row 31").
    """

    sound_bytes: bytes
    metadata: Mapping[str, Scalar] = field(default_factory=dict)
    source: str = ""
    name: str = ""


def read_sounds(
    source: str | Path,
    *,
    format: str | None = None,
    audio_column: str | None = None,
    split: str | None = None,
    config: str | None = None,
) -> Iterator[SoundSequence]:
    """Yield the recordings of a corpus in order.

    Of a folder, every file in it and below whose suffix is a sound's, in order of the names; hidden ones are passed over.
    The sub-folder (relative to the folder) is metadata `label`, the path of the file is metadata `file`. Of rows, the
    sound is bytes, a struct of `bytes` and `path` (as data sets store it), or a path relative to the file; the row's other
    scalars are metadata, and labels of a `ClassLabel` are their names.

    Args:
        source: a folder (of sounds, or written by `save_to_disk`), a sound, a file of rows, or the name of a data set.
        format: one of `SOUND_FORMATS`; None goes by what the source is. "sounds" is a folder of sounds or one sound.
        audio_column: the column of the sounds. None takes the first of `SOUND_COLUMNS` and `PATH_COLUMNS` that holds
            sounds or paths of sounds in the first row, else the only column that does.
        split: the split of a data set. None takes the only one, else "train".
        config: the configuration of a data set.

    Raises:
        QKSpaceError: there is no such corpus, or a place in it that cannot be read, which the message names.
    """
    return (SoundSequence(*file) for file in read_media(SOUNDS, source, format, audio_column, split, config))


def is_sound_name(name: str) -> bool:
    """Say whether a file is a sound, judging by its suffix."""
    return SOUNDS.is_name(name)


# ---------------------------------------------------------------------------------------------- samples


def decode(sound: SoundSequence) -> tuple[Samples, int]:
    """Return the samples of a recording, the mean of its channels, and how many there are a second.

    WAV of 8 to 32 bits and of fractions is read by scipy, everything else by the package soundfile.

    Raises:
        QKSpaceError: it is no sound, is cut short, has too many samples or one that is not a number, or is of a kind that
            needs soundfile, which is not installed.
    """
    data = sound.sound_bytes
    is_wav = data[:4] in (b"RIFF", b"RIFX", b"RF64") and data[8:12] == b"WAVE"
    values, rate = (_wav if is_wav else _other)(sound)
    if not RATES[0] <= rate <= RATES[1]:
        raise _damaged(sound, f"its header states {rate:,} samples a second")
    if values.size > MAX_SAMPLES:
        raise QKSpaceError(
            f"{sound.source}: {values.size:,} samples, more than the {MAX_SAMPLES:,} that are read: cut it."
        )
    mono = values if values.ndim == 1 else values.mean(axis=1, dtype=np.float32)
    if not np.isfinite(mono).all():
        raise _damaged(sound, "it holds samples that are infinite or not a number")
    return mono, rate


def resampled(samples: Samples, rate: int, wanted: int) -> Samples:
    """Return samples at another rate, by a polyphase filter that lets nothing through above half of either."""
    from scipy.signal import resample_poly

    if rate == wanted or not len(samples):
        return samples
    common = gcd(rate, wanted)
    return np.asarray(resample_poly(samples, wanted // common, rate // common), dtype=np.float32)


def _wav(sound: SoundSequence) -> tuple[Samples, int]:
    """Read WAV: samples (sample) or (sample, channel)."""
    from scipy.io import wavfile

    try:
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore", wavfile.WavFileWarning
            )  # of chunks of notes, which say nothing of the sound
            warnings.filterwarnings("error", "Reached EOF", wavfile.WavFileWarning)
            rate, values = wavfile.read(io.BytesIO(sound.sound_bytes))
    except Exception as error:  # scipy raises a dozen kinds (ValueError, struct.error, UnboundLocalError, ...)
        if "Unknown wave file format" in str(error) or "Unsupported bit depth" in str(error):
            return _other(sound)  # packed, as A-law is
        if isinstance(error, wavfile.WavFileWarning) or "buffer size" in str(error):
            raise _damaged(sound, "it is cut short: it ends before the end that its header states") from error
        raise _damaged(sound, str(error)) from error
    return _scaled(values), int(rate)


def _scaled(values: NDArray[Any]) -> Samples:
    """Bring samples of any type to -1 to 1; those of 24 bits stand in the upper bits of 32."""
    if values.dtype == np.uint8:
        return (values.astype(np.float32) - np.float32(128)) / np.float32(128)
    if values.dtype.kind == "i":
        return values.astype(np.float32) / np.float32(-float(np.iinfo(values.dtype).min))
    return values.astype(np.float32)


def _other(sound: SoundSequence) -> tuple[Samples, int]:
    """Read a sound that is no plain WAV: samples (sample, channel)."""
    try:
        import soundfile
    except ImportError as error:
        raise QKSpaceError(
            f"{sound.source}: no WAV file of plain samples. Other kinds (FLAC, MP3, Ogg) need the package soundfile: "
            "pip install 'qkspace[sound]', or convert it to WAV."
        ) from error
    try:
        with soundfile.SoundFile(io.BytesIO(sound.sound_bytes)) as file:
            if file.frames * file.channels > MAX_SAMPLES:
                raise QKSpaceError(
                    f"{sound.source}: {file.frames:,} samples of {file.channels} channels, more than the {MAX_SAMPLES:,} "
                    "that are read: cut it."
                )
            return file.read(dtype="float32", always_2d=True), int(file.samplerate)
    except soundfile.SoundFileError as error:
        raise QKSpaceError(
            f"{sound.source}: {len(sound.sound_bytes):,} bytes that are no sound that can be read ({error}). Repair or remove "
            "it."
        ) from error


def _damaged(sound: SoundSequence, reason: str) -> QKSpaceError:
    return QKSpaceError(f"{sound.source}: the sound is damaged ({reason.rstrip('.')}). Repair or remove it.")
