"""What a speech encoder reads: samples as numbers, the frames that it cuts them into, and what a frame sounds like.

In: the name of a checkpoint, whose own preprocessing is used, its configuration, and samples. Out: a `SoundInput` with its
`Frames`, and loudness, frequency and outline of samples. Knows no tables and no attention.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qkspace.model import _place, need_processor, quiet
from qkspace.schema import QKSpaceError
from qkspace.sound_corpus import Samples
from qkspace.weights import reason_of

QUIETEST = -100.0  # dB, what digital silence counts as
OUTLINE_BINS = 500
KNOWN = "Whisper, wav2vec2, HuBERT, WavLM, UniSpeech and data2vec-audio"


# ---------------------------------------------------------------------------------------------- what the model reads


@dataclass(frozen=True, slots=True)
class Frames:
    """How a model cuts samples into frames.

    rate: samples a second; step: samples from one frame to the next; middle: the sample in the middle of the first frame;
    width: samples that loudness and frequency of a frame are measured over; n_fixed: frames of every window, where a
    model pads each to one length.
    """

    rate: int
    step: int
    middle: int
    width: int
    n_fixed: int | None = None

    def count(self, n_samples: int) -> int:
        """Return how many frames have sound in them."""
        if self.n_fixed is not None:
            return min(self.n_fixed, -(-n_samples // self.step))
        return max(0, 1 + (n_samples - self.width) // self.step)

    def samples(self, n: int) -> int:
        """Return how many samples so many frames are made of."""
        return n * self.step if self.n_fixed is not None else self.width + (n - 1) * self.step

    def times(self, n: int) -> NDArray[np.float64]:
        """Return the middle of each frame of a window, in seconds from its beginning: (frame)."""
        return np.asarray((self.middle + self.step * np.arange(n)) / self.rate)

    def entry(self) -> dict[str, Any]:
        """Return what the manifest says of it."""
        return {
            "frame_seconds": self.step / self.rate,
            "first_frame_seconds": self.middle / self.rate,
            "sampling_rate": self.rate,
            "n_fixed": self.n_fixed,
        }


@dataclass(frozen=True, slots=True)
class SoundInput:
    """The checkpoint's own preprocessing: from samples to numbers. name: of the input that it makes."""

    extractor: Any  # a feature extractor of transformers
    frames: Frames
    name: str

    def values(self, sounds: Sequence[Samples]) -> NDArray[np.float32]:
        """Return sounds of one length, (sound, sample) or (sound, band, frame of the spectrogram), as the model reads them."""
        padding: Any = False if self.frames.n_fixed is None else "max_length"
        made = self.extractor(list(sounds), sampling_rate=self.frames.rate, padding=padding, return_tensors="np")
        return np.asarray(made[self.name], dtype=np.float32)


def load_sound_input(
    name: str, config: Any, *, revision: str | None = None, trust_remote_code: bool = False
) -> SoundInput:
    """Load the preprocessing that comes with a checkpoint.

    Args:
        name: folder of a checkpoint, or a name on the Hugging Face hub.
        config: configuration of its model.
        revision: branch, tag or commit of a name on the hub.
        trust_remote_code: run preprocessing code that comes with the checkpoint.

    Raises:
        QKSpaceError: none comes with it, or it is of a model whose frames are not known here.
    """
    from transformers import AutoFeatureExtractor

    need_processor(name, "audio")
    place = _place(name, revision, trust_remote_code)
    try:
        with quiet():
            extractor = AutoFeatureExtractor.from_pretrained(place.where, **place.options)
    except Exception as error:  # transformers lets everything through, down to what code of a checkpoint raises
        raise QKSpaceError(
            f"--model {name}: no preprocessing of sound ({reason_of(error)}). A checkpoint of a speech model has a "
            "preprocessor_config.json with feature_extractor_type and sampling_rate: copy it from where the model was "
            "published."
        ) from error
    frames = frames_of(config, extractor)
    return SoundInput(extractor, frames, "input_values" if frames.n_fixed is None else "input_features")


def frames_of(config: Any, extractor: Any) -> Frames:
    """Return how a model cuts samples into frames.

    Whisper: the middles of the frames of its spectrogram lie a hop apart, the first at 0, and its encoder keeps every
    second one. wav2vec2: a frame is what its convolutions have in view, and a sound has as many as fit.

    Raises:
        QKSpaceError: a model whose frames are not known here.
    """
    kind = getattr(config, "model_type", type(config).__name__)
    rate: int = getattr(extractor, "sampling_rate", 0)
    kernels: Sequence[int] = getattr(config, "conv_kernel", None) or ()
    strides: Sequence[int] = getattr(config, "conv_stride", None) or ()
    if kind == "whisper" and hasattr(extractor, "nb_max_frames"):
        n = int(config.max_source_positions)
        if extractor.nb_max_frames != 2 * n:
            raise QKSpaceError(
                f"Its preprocessing makes {extractor.nb_max_frames} frames of a spectrogram of {extractor.chunk_length} s, and "
                f"the encoder reads {2 * n} (twice max_source_positions): preprocessor_config.json and config.json are of two "
                "models."
            )
        return Frames(rate, 2 * extractor.hop_length, 0, extractor.n_fft, n)
    is_known = rate and kernels and strides and "input_values" in extractor.model_input_names
    if not is_known or getattr(config, "squeeze_factor", 1) != 1 or getattr(config, "is_encoder_decoder", False):
        raise QKSpaceError(
            f"This {kind} cuts sound in a way that qkspace does not know, so that its tokens cannot be laid over time. "
            f"Expected a speech encoder such as {KNOWN}."
        )
    width, step = 1, 1
    for kernel, stride in zip(kernels, strides, strict=True):
        width, step = width + (kernel - 1) * step, step * stride
    return Frames(rate, step, width // 2, width)


# ---------------------------------------------------------------------------------------------- what a frame sounds like


def loudness(pieces: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the root mean square of each frame (frame, sample) in dB, 0 for a square wave of full scale."""
    power = np.mean(pieces.astype(np.float64) ** 2, axis=1)
    return np.asarray(np.maximum(10 * np.log10(np.maximum(power, 1e-20)), QUIETEST), dtype=np.float32)


def frequency(pieces: NDArray[np.float32], rate: int) -> NDArray[np.float32]:
    """Return the mean frequency of each frame (frame, sample) in Hz, weighted by power: the spectral centroid."""
    n = 4 * pieces.shape[1]  # zeros behind make the grid of frequencies finer
    power = np.abs(np.fft.rfft(pieces * np.hanning(pieces.shape[1]).astype(np.float32), n, axis=1)) ** 2
    total = np.maximum(power.sum(axis=1), 1e-30)
    return np.asarray(power @ np.fft.rfftfreq(n, 1 / rate) / total, dtype=np.float32)


def pieces_of(samples: Samples, frames: Frames, n: int) -> NDArray[np.float32]:
    """Return the samples under each of the first n frames, zeros where there are none: (frame, sample)."""
    first = frames.middle - frames.width // 2
    long = np.zeros(frames.step * (n - 1) + frames.width, dtype=np.float32)
    inside = samples[max(0, first) : max(0, first + len(long))]
    start = max(0, -first)
    long[start : start + len(inside)] = inside[: len(long) - start]
    return np.lib.stride_tricks.sliding_window_view(long, frames.width)[:: frames.step][:n]


def outline(samples: Samples, bins: int = OUTLINE_BINS) -> tuple[Samples, Samples]:
    """Return the lowest and the highest sample in each of so many equal parts of a sound."""
    first = np.arange(bins) * len(samples) // bins
    return np.minimum.reduceat(samples, first), np.maximum.reduceat(samples, first)
