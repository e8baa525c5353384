"""Write sounds to look at attention with: a folder and a seed in, WAV files in folders whose names are labels out.

    python scripts/make_sounds.py OUT --each 12

tone: one frequency with its overtones; sweep: a frequency that rises or falls; click: pulses at an even pace; noise: of one
band; syllable: pulses of a voice through the resonances of vowels, with a hiss or a silence between them, as speech has.
The same seed gives the same samples.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Samples = NDArray[np.float64]  # (sample), -1 to 1
RATE = 16_000  # samples a second
SECONDS = (0.8, 2.4)  # of a sound
EACH = 12  # sounds of each label
FORMANTS = {  # the two lowest resonances of a vowel and its third, in Hz
    "a": (730, 1090, 2440),
    "e": (530, 1840, 2480),
    "i": (270, 2290, 3010),
    "o": (570, 840, 2410),
    "u": (300, 870, 2240),
}


def main() -> None:
    """Write the sounds."""
    parser = argparse.ArgumentParser(description="Write generated sounds, in folders by label.")
    parser.add_argument("out", type=Path, help="the folder; sounds of the same names in it are written over")
    parser.add_argument("--each", type=int, default=EACH, help=f"sounds of each label (default: {EACH})")
    parser.add_argument("--seed", type=int, default=0, help="the random seed (default: 0)")
    arguments = parser.parse_args()
    write(arguments.out, arguments.each, arguments.seed)
    print(f"{arguments.out}: {arguments.each} sounds of each of {', '.join(labels())}")


def labels() -> dict[str, Callable[[np.random.Generator], Samples]]:
    """Return how a sound of each label is made."""
    return {"tone": tone, "sweep": sweep, "click": click, "noise": noise, "syllable": syllable}


def write(out: Path, each: int = EACH, seed: int = 0) -> None:
    """Write so many sounds of each label, in a folder of its name."""
    from scipy.io import wavfile

    for number, (label, make) in enumerate(labels().items()):
        (out / label).mkdir(parents=True, exist_ok=True)
        for sound in range(each):
            samples = make(np.random.default_rng((seed, number, sound)))  # more sounds leave the first ones as they are
            loud = 0.7 * samples / max(1e-9, np.abs(samples).max())
            wavfile.write(out / label / f"{label}-{sound:03d}.wav", RATE, np.round(loud * 32767).astype(np.int16))


def clock(rng: np.random.Generator) -> Samples:
    """Return the time of each sample of a sound of random length."""
    return np.asarray(np.arange(int(RATE * rng.uniform(*SECONDS))) / RATE)


def tone(rng: np.random.Generator) -> Samples:
    """Sound one frequency with overtones that grow weaker, in steps of loudness."""
    time, base = clock(rng), np.exp(rng.uniform(np.log(110), np.log(1800)))
    parts = [np.sin(2 * np.pi * base * n * time) / n**2 for n in range(1, 4)]
    steps = rng.uniform(0.05, 1, 5)[np.minimum((5 * time / time[-1]).astype(int), 4)]
    return np.asarray(np.sum(parts, axis=0) * steps)


def sweep(rng: np.random.Generator) -> Samples:
    """Sound a frequency that moves evenly, in octaves, from one to another."""
    time = clock(rng)
    first, last = np.exp(rng.uniform(np.log(100), np.log(6000), 2))
    return np.asarray(np.sin(2 * np.pi * np.cumsum(first * (last / first) ** (time / time[-1])) / RATE))


def click(rng: np.random.Generator) -> Samples:
    """Sound pulses that die away within some milliseconds, 3 to 12 a second."""
    time = clock(rng)
    since = (time + rng.random()) % (1 / rng.uniform(3, 12))
    return np.asarray(np.exp(-since / 0.004) * np.sin(2 * np.pi * rng.uniform(800, 5000) * since))


def noise(rng: np.random.Generator) -> Samples:
    """Sound noise of one band, swelling and fading."""
    from scipy.signal import butter, sosfilt

    time, low = clock(rng), np.exp(rng.uniform(np.log(100), np.log(3000)))
    band = butter(4, [low, min(2.2 * low, 0.45 * RATE)], "bandpass", fs=RATE, output="sos")
    swell = 0.55 + 0.45 * np.sin(2 * np.pi * (rng.uniform(0.5, 2) * time + rng.random()))
    return np.asarray(sosfilt(band, rng.normal(size=len(time))) * swell)


def syllable(rng: np.random.Generator) -> Samples:
    """Sound syllables: a hiss or a silence, then a vowel, whose pitch falls over the whole."""
    pitch, parts = rng.uniform(90, 220), list[Samples]()
    n = int(rng.integers(3, 8))
    for place in range(n):
        parts += [consonant(rng), vowel(pitch * (1 - 0.3 * place / n), FORMANTS[str(rng.choice(list(FORMANTS)))], rng)]
    return np.concatenate(parts)


def vowel(pitch: float, formants: tuple[int, ...], rng: np.random.Generator) -> Samples:
    """Sound pulses of a voice through resonances, with a soft beginning and end."""
    from scipy.signal import lfilter

    n = int(RATE * rng.uniform(0.12, 0.25))
    phase = np.cumsum(np.full(n, pitch / RATE))
    samples = np.diff(np.floor(phase), prepend=0) + 0.002 * rng.normal(size=n)
    for formant, width in zip(formants, (80, 100, 140), strict=True):
        radius = np.exp(-np.pi * width / RATE)
        samples = lfilter([1 - radius], [1, -2 * radius * np.cos(2 * np.pi * formant / RATE), radius**2], samples)
    return np.asarray(samples / np.abs(samples).max() * np.sin(np.pi * (np.arange(n) + 0.5) / n) ** 0.5)


def consonant(rng: np.random.Generator) -> Samples:
    """Sound a short hiss, or nothing."""
    from scipy.signal import butter, sosfilt

    n = int(RATE * rng.uniform(0.04, 0.1))
    if rng.random() < 0.4:
        return np.zeros(n)
    high = butter(4, rng.uniform(2500, 5000), "highpass", fs=RATE, output="sos")
    return np.asarray(0.25 * sosfilt(high, rng.normal(size=n)) * np.hanning(n))


if __name__ == "__main__":
    main()
