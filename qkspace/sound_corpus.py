"""Read a corpus of sounds, recording by recording.

In: a folder of sound files, a sound file, or rows with a column of sounds (JSONL, CSV, TSV, Parquet, data sets). Out: a
stream of `SoundSequence`, the files' own bytes with their metadata; `decode`, which turns such bytes into samples of one
channel, and `resampled`. Knows no model; memory does not grow with the corpus.
"""

from __future__ import annotations

import io
import os
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from math import gcd
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qkspace.corpus import _format as text_format
from qkspace.image_corpus import _number_rows, _parquet_rows
from qkspace.rows import Located, Row, _is_scalar, _label_names, _loaded, _reason, _with_label_names, jsonl_rows
from qkspace.schema import QKSpaceError, Scalar

Samples = NDArray[np.float32]  # (sample) of one channel, -1 to 1

SOUND_FORMATS = ("sounds", "jsonl", "csv", "tsv", "parquet", "datasets")
SOUND_COLUMNS = ("audio", "sound", "speech", "recording", "audio_bytes", "bytes", "wav", "flac", "mp3")
PATH_COLUMNS = ("audio_path", "file_name", "filename", "file_path", "filepath", "path", "file")
SUFFIXES = (".wav", ".wave", ".flac", ".mp3", ".ogg", ".oga", ".opus", ".aif", ".aiff", ".au")
MAX_SAMPLES = 2**28  # of a recording, all channels, which then takes 1 GiB: an hour and a half of one channel at 48 kHz
RATES = (100, 1_000_000)  # samples a second that a recording can have
_CORPUS_FILES = (".parquet", ".jsonl", ".ndjson", ".csv", ".tsv")


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
    name = str(source)
    chosen = _format(name, format)
    if audio_column is not None and chosen == "sounds":
        raise QKSpaceError(f"{name} is read as sounds, which have no columns: leave --audio-column out.")
    if chosen != "datasets" and (split is not None or config is not None):
        raise QKSpaceError(f"{name} is read as {chosen}, where --split and --config mean nothing: leave them out.")
    if chosen == "sounds":
        return _sounds(Path(name))
    if chosen in ("csv", "tsv"):
        return _row_sounds(_number_rows(name, chosen), audio_column, Path(name).parent)
    if chosen == "jsonl":
        return _row_sounds(jsonl_rows(name, "utf-8"), audio_column, Path(name).parent)
    if chosen == "parquet":
        return _row_sounds(_parquet_rows(name), audio_column, Path(name).parent)
    return _row_sounds(_dataset_rows(name, split, config), audio_column, Path(name))


def is_sound_name(name: str) -> bool:
    """Say whether a file is a sound, judging by its suffix."""
    return Path(name).suffix.lower() in SUFFIXES


def _format(name: str, asked: str | None) -> str:
    """Return how a source is read."""
    if asked is not None and asked not in SOUND_FORMATS:
        raise QKSpaceError(f"Unknown format of sounds {asked!r}: expected one of {', '.join(SOUND_FORMATS)}.")
    if name == "-":
        raise QKSpaceError("Sounds cannot be read from standard input: give a folder, a file or a data set.")
    path = Path(name)
    holds_sounds = next(_files(path), None) is not None if path.is_dir() else path.is_file() and is_sound_name(name)
    if asked == "sounds" and not path.exists():
        raise QKSpaceError(f"{name}: no such file or folder (looked from {Path.cwd()}). Check the path.")
    if asked == "sounds" or (asked is None and holds_sounds):
        return "sounds"
    if asked is None and path.is_dir() and not _holds_data(path):
        raise QKSpaceError(
            f"{name}: there is no sound in this folder or below it. Expected files such as {', '.join(SUFFIXES[:5])}, a "
            f"file of rows ({', '.join(_CORPUS_FILES)}), or a data set written by save_to_disk."
        )
    found = text_format(name, asked)
    if found not in SOUND_FORMATS:
        raise QKSpaceError(
            f"{name} is {found}, and the model reads sound. Expected a folder of sound files, a sound file, or a file with a "
            f"column of sounds ({', '.join(_CORPUS_FILES)})."
        )
    return found


def _holds_data(folder: Path) -> bool:
    saved = any((folder / marker).is_file() for marker in ("state.json", "dataset_dict.json"))
    return saved or any(path.suffix.lower() in _CORPUS_FILES for path in folder.rglob("*"))


# ---------------------------------------------------------------------------------------------- a folder of sounds


def _files(folder: Path) -> Iterator[Path]:
    """Yield the sounds in a folder and below, in order of their names; a link into a folder above is not gone into."""
    for here, folders, files in os.walk(folder, followlinks=True):
        above = {Path(here).resolve(), *Path(here).resolve().parents}
        folders[:] = sorted(
            name for name in folders if not name.startswith(".") and (Path(here) / name).resolve() not in above
        )
        yield from (Path(here) / name for name in sorted(files) if is_sound_name(name) and not name.startswith("."))


def _sounds(path: Path) -> Iterator[SoundSequence]:
    """Yield the sounds of a folder, or the one sound of a file."""
    if not path.is_dir():
        yield SoundSequence(_bytes_of(path, str(path)), {"file": path.name}, str(path), path.name)
        return
    empty = True
    for file in _files(path):
        empty = False
        relative = file.relative_to(path)
        label = relative.parent.as_posix()
        metadata = {"file": relative.as_posix()} | ({} if label == "." else {"label": label})
        yield SoundSequence(_bytes_of(file, str(file)), metadata, str(file), file.name)
    if empty:
        raise QKSpaceError(f"{path}: there is no sound in this folder or below it ({', '.join(SUFFIXES)}).")


def _bytes_of(path: Path, where: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise QKSpaceError(f"{where}: the sound {path} cannot be opened: {error.strerror}.") from error


# ---------------------------------------------------------------------------------------------- rows


def _dataset_rows(name: str, split: str | None, config: str | None) -> Iterator[Located]:
    """Yield the rows of a data set, whose sounds stay encoded."""
    import datasets

    try:
        data, where = _loaded(name, split, config)
        for column, feature in (data.features or {}).items():
            if isinstance(feature, datasets.Audio):
                data = data.cast_column(column, datasets.Audio(decode=False))
        labels = _label_names(data.features.to_dict()) if data.features is not None else {}
    except QKSpaceError:
        raise
    except Exception as error:  # whatever a builder, the network or a file of another format raises
        raise QKSpaceError(
            f"{name} is no data set that could be loaded: {_reason(error)}. Check the spelling and the network, or give a "
            f"folder of sounds or a file of rows ({', '.join(_CORPUS_FILES)})."
        ) from error
    rows, number = iter(data.with_format(None)), 0
    while True:
        number += 1
        place = f"{where} row {number}"
        try:
            row = next(rows, None)
        except Exception as error:  # as above: rows are fetched and parsed here
            raise QKSpaceError(f"{place}: cannot be read: {_reason(error)}.") from error
        if row is None:
            return
        yield place, _with_label_names(row, labels, place)


def _row_sounds(rows: Iterator[Located], audio_column: str | None, folder: Path) -> Iterator[SoundSequence]:
    """Yield the sound of each row; paths are relative to `folder`."""
    chosen = None
    for where, row in rows:
        chosen = chosen or audio_column or _audio_column(row, where)
        if chosen not in row:
            raise QKSpaceError(
                f"{where}: no column {chosen!r}; its columns are {', '.join(row)}. Say which holds the sounds with "
                "--audio-column."
            )
        encoded, path = _sound_of(row[chosen], where, chosen, folder)
        metadata = {column: value for column, value in row.items() if column != chosen and _is_scalar(value)}
        if path:
            metadata.setdefault("file", path)
        name = Path(path).name if path else where.rsplit("/", 1)[-1]
        yield SoundSequence(encoded, metadata, where, name)


def _audio_column(row: Row, where: str) -> str:
    """Return the column that holds the sounds, judging by the first row."""
    holding = [column for column, value in row.items() if _may_be_sound(value)]
    by_name = {column.lower(): column for column in reversed(holding)}
    for known in (*SOUND_COLUMNS, *PATH_COLUMNS):
        if known in by_name:
            return by_name[known]
    if len(holding) != 1:
        raise QKSpaceError(
            f"{where}: which column holds the sounds? {len(holding) or 'None'} of them hold sounds or paths of sounds. "
            f"Say which with --audio-column: {', '.join(row)}."
        )
    return holding[0]


def _may_be_sound(value: object) -> bool:
    if isinstance(value, Mapping):
        return isinstance(value.get("bytes"), bytes) or isinstance(value.get("path"), str)
    return isinstance(value, bytes) or (isinstance(value, str) and is_sound_name(value))


def _sound_of(value: object, where: str, column: str, folder: Path) -> tuple[bytes, str | None]:
    """Return the encoded sound in a cell, and its path where one is stated."""
    path = value.get("path") if isinstance(value, Mapping) else value
    encoded = value.get("bytes") if isinstance(value, Mapping) else value
    path = path if isinstance(path, str) and path else None
    if isinstance(encoded, bytes):
        return encoded, path
    if path is None:
        raise QKSpaceError(
            f"{where}: column {column!r} holds {type(value).__name__} {str(value)[:60]!r}; expected a sound as bytes, as "
            "a struct of bytes and path, or as the path of a file. Repair or remove the row."
        )
    if "://" in path:
        raise QKSpaceError(
            f"{where}: the sound {path!r} lies on the network, from which none is fetched. Download it, or store its bytes."
        )
    return _bytes_of(folder / path, where), path


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
