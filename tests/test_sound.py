"""Sounds reach the model as its own preprocessing makes them, and every frame is known by its time and what it sounds like."""

import importlib
import io
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from numpy.typing import NDArray
from scipy.io import wavfile

from qkspace import store
from qkspace.index import Index
from qkspace.pipeline import build
from qkspace.schema import QKSpaceError
from qkspace.sound import SILENCE, SoundChunk, SoundFeed, Sounds, SoundWriter, sound_chunks
from qkspace.sound_corpus import SoundSequence, decode, read_sounds, resampled
from qkspace.sound_input import Frames, frequency, load_sound_input, loudness, outline
from qkspace.tables import TOKEN_COLUMNS
from qkspace.tokenise import TokeniseCounts

ROOT = Path(__file__).resolve().parents[1]
RATE = 16_000
WAV2VEC2 = Frames(RATE, 320, 200, 400)  # of all that have its seven convolutions
WHISPER = Frames(RATE, 320, 0, 400, n_fixed=100)  # of windows of 2 s, where the released ones have 30 s
Samples = NDArray[Any]


def tone(hertz: float = 1000, seconds: float = 1, rate: int = RATE, height: float = 0.5) -> Samples:
    return np.asarray(height * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate), dtype=np.float32)


def wav(samples: Samples, rate: int = RATE) -> bytes:
    file = io.BytesIO()
    wavfile.write(file, rate, samples)
    return file.getvalue()


def sequence(samples: Samples | bytes, rate: int = RATE, **metadata: Any) -> SoundSequence:
    data = samples if isinstance(samples, bytes) else wav(samples, rate)
    return SoundSequence(data, metadata, "folder/sound.wav", "sound.wav")


def tables(
    sounds: list[SoundSequence], frames: Frames = WAV2VEC2, counts: TokeniseCounts | None = None, **options: Any
) -> SoundChunk:
    given = {"max_length": frames.n_fixed or 1024, "counts": counts or TokeniseCounts(), **options}
    (chunk,) = sound_chunks(sounds, frames, **given)
    return chunk


# ---------------------------------------------------------------------------------------------- reading


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Sounds in sub-folders, beside files that are none."""
    root = tmp_path / "corpus"
    for place, hertz in (("b/2.wav", 200), ("b/10.wav", 300), ("a/deep/x.WAV", 400), ("top.wav", 500)):
        (root / place).parent.mkdir(parents=True, exist_ok=True)
        (root / place).write_bytes(wav(tone(hertz, 0.1)))
    (root / "b" / "notes.txt").write_text("no sound")
    (root / "b" / ".hidden.wav").write_bytes(b"a file of the system")
    (root / "b" / "loop").symlink_to(root)
    return root


def test_a_folder_gives_its_sounds_in_order_with_the_sub_folder_as_label(folder: Path) -> None:
    found = list(read_sounds(folder))
    assert [sound.metadata.get("file") for sound in found] == ["top.wav", "a/deep/x.WAV", "b/10.wav", "b/2.wav"]
    assert [sound.metadata.get("label") for sound in found] == [None, "a/deep", "b", "b"]
    assert [sound.name for sound in found] == ["top.wav", "x.WAV", "10.wav", "2.wav"]
    assert found[3].sound_bytes == (folder / "b" / "2.wav").read_bytes()
    (one,) = read_sounds(folder / "b" / "2.wav")
    assert (one.name, one.sound_bytes) == ("2.wav", found[3].sound_bytes)


@pytest.mark.parametrize("kind", ["jsonl", "csv", "parquet"])
def test_rows_with_paths_are_read_relative_to_their_file(folder: Path, kind: str) -> None:
    rows = [{"file_name": "b/2.wav", "bird": "wren", "year": 1999}, {"file_name": "top.wav", "bird": "owl", "year": 7}]
    table = folder / f"metadata.{kind}"
    if kind == "jsonl":
        table.write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif kind == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), table)
    else:
        table.write_text("file_name,bird,year\nb/2.wav,wren,1999\ntop.wav,owl,7\n")
    found = list(read_sounds(table))
    assert [sound.sound_bytes for sound in found] == [(folder / str(row["file_name"])).read_bytes() for row in rows]
    assert [dict(sound.metadata) for sound in found] == [
        {"bird": "wren", "year": 1999, "file": "b/2.wav"},
        {"bird": "owl", "year": 7, "file": "top.wav"},
    ]


@pytest.mark.parametrize("saved", ["disk", "parquet"])
def test_a_data_set_gives_the_encoded_sounds_and_the_names_of_its_labels(tmp_path: Path, saved: str) -> None:
    import datasets

    sounds = [wav(tone(200 * (index + 1), 0.1)) for index in range(3)]
    kind = {"bytes": datasets.Value("binary"), "path": datasets.Value("string")}
    features = datasets.Features({"speech": kind, "kind": datasets.ClassLabel(names=["wren", "owl"])})
    rows = {"speech": [{"bytes": each, "path": f"{i}.wav"} for i, each in enumerate(sounds)], "kind": [1, 0, 1]}
    data = datasets.Dataset.from_dict(rows, features=features).cast_column("speech", datasets.Audio(decode=False))
    source = tmp_path / ("saved" if saved == "disk" else "rows.parquet")
    if saved == "disk":
        data.cast_column("speech", datasets.Audio()).save_to_disk(source)
    else:
        data.to_parquet(source)
    found = list(read_sounds(source))
    assert [sound.sound_bytes for sound in found] == sounds
    assert [sound.metadata["kind"] for sound in found] == ["owl", "wren", "owl"]
    assert [sound.name for sound in found] == ["0.wav", "1.wav", "2.wav"]


@pytest.mark.parametrize(
    ("make", "options", "message"),
    [
        (lambda f: f / "absent", {}, "no such file"),
        (lambda f: "-", {}, "standard input"),
        (lambda f: f, {"format": "wav"}, "one of sounds, jsonl"),
        (lambda f: f, {"audio_column": "x"}, "no columns"),
        (lambda f: f, {"split": "train"}, "--split"),
        (lambda f: f / "b" / "notes.txt", {}, "the model reads sound"),
    ],
)
def test_a_corpus_of_no_sounds_is_refused(folder: Path, make: Any, options: Any, message: str) -> None:
    with pytest.raises(QKSpaceError, match=message):
        list(read_sounds(make(folder), **options))


@pytest.mark.parametrize(
    ("row", "options", "message"),
    [
        ({"file_name": "absent.wav"}, {}, r"line 1: the sound .*absent\.wav cannot be opened"),
        ({"file_name": "https://here/x.wav"}, {}, "line 1: .*lies on the network"),
        ({"a": 1, "b": "word"}, {}, "line 1: which column holds the sounds.*: a, b"),
        ({"audio": None, "file_name": "x.wav"}, {"audio_column": "audio"}, "line 1: column 'audio' holds NoneType"),
        ({"audio": "x.wav"}, {"audio_column": "speech"}, "line 1: no column 'speech'"),
    ],
)
def test_a_row_without_its_sound_is_named(tmp_path: Path, row: Any, options: Any, message: str) -> None:
    table = tmp_path / "rows.jsonl"
    table.write_text(json.dumps(row) + "\n")
    with pytest.raises(QKSpaceError, match=message):
        list(read_sounds(table, **options))


# ---------------------------------------------------------------------------------------------- decoding


def in_24_bits(samples: Samples) -> bytes:
    """Write WAV of 24 bits, which scipy only reads."""
    import wave

    values = np.round(samples * (2**23 - 1)).astype("<i4").view(np.uint8).reshape(-1, 4)[:, :3]
    file = io.BytesIO()
    with wave.open(file, "wb") as out:
        out.setnchannels(1)
        out.setsampwidth(3)
        out.setframerate(RATE)
        out.writeframes(values.tobytes())
    return file.getvalue()


@pytest.mark.parametrize(
    ("encode", "step"),
    [
        (lambda x: wav(np.round(x * 127 + 128).astype(np.uint8)), 2**-6),
        (lambda x: wav(np.round(x * 32767).astype(np.int16)), 2**-14),
        (in_24_bits, 2**-20),
        (lambda x: wav(np.round(x * (2.0**31 - 1)).astype(np.int32)), 2**-20),
        (lambda x: wav(x.astype(np.float32)), 0),
        (lambda x: wav(x.astype(np.float64)), 2**-20),
    ],
)
def test_samples_of_any_width_are_the_same_sound(encode: Any, step: float) -> None:
    expected = tone(440, 0.2, height=0.9)
    found, rate = decode(sequence(encode(expected)))
    assert rate == RATE and found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=0, atol=step)


def test_channels_are_averaged() -> None:
    left, right = tone(300, 0.1), tone(700, 0.1)
    found, _ = decode(sequence(np.stack([left, right], axis=1)))
    np.testing.assert_allclose(found, (left + right) / 2, atol=1e-7)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "folder/sound.wav: .*(soundfile|no sound)"),
        (b"no sound at all, but some bytes", "folder/sound.wav: .*(soundfile|no sound)"),
        (wav(tone())[:1000], "folder/sound.wav: the sound is damaged .*cut short"),
        (wav(tone())[:1002], "folder/sound.wav: the sound is damaged .*cut short"),
        (wav(tone())[:30], "folder/sound.wav: the sound is damaged"),
        (wav(np.asarray([0, np.nan, 0], dtype=np.float32)), "folder/sound.wav: .*not a number"),
        (wav(np.zeros(10, dtype=np.int16), 1), "folder/sound.wav: .*1 samples a second"),
    ],
)
def test_a_broken_file_is_named_with_the_reason(data: bytes, message: str) -> None:
    with pytest.raises(QKSpaceError, match=message):
        decode(sequence(data))


def test_other_kinds_of_sound_need_a_package_which_the_error_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "soundfile", None)
    with pytest.raises(QKSpaceError, match=r"package soundfile.*qkspace\[sound\]"):
        decode(sequence(b"fLaC and so on"))


@pytest.mark.parametrize("kind", ["FLAC", "OGG", "MP3", "AIFF"])
def test_other_kinds_of_sound_are_read_where_the_package_is(kind: str) -> None:
    soundfile = pytest.importorskip("soundfile", reason="the package soundfile is not installed")
    file = io.BytesIO()
    soundfile.write(file, np.stack([tone(), tone()], axis=1), RATE, format=kind)
    found, rate = decode(sequence(file.getvalue()))
    assert rate == RATE
    spectrum = np.abs(np.fft.rfft(found[2000:10000]))
    assert np.argmax(spectrum) * RATE / 8000 == pytest.approx(1000)


@pytest.mark.parametrize("rate", [8000, 11_025, 16_000, 22_050, 44_100, 48_000])
def test_a_tone_keeps_its_frequency_height_and_length_at_another_rate(rate: int) -> None:
    found = resampled(tone(1000, 1, rate), rate, RATE)
    assert abs(len(found) - RATE) <= 1
    inner = found[2000:10000]
    assert np.argmax(np.abs(np.fft.rfft(inner))) * RATE / len(inner) == pytest.approx(1000)
    assert np.sqrt(2 * np.mean(inner**2)) == pytest.approx(0.5, rel=0.01)


def test_what_the_new_rate_cannot_hold_does_not_come_back_as_another_frequency() -> None:
    found = resampled(tone(15_000, 1, 48_000), 48_000, RATE)
    assert np.abs(found[1000:-1000]).max() < 0.01


# ---------------------------------------------------------------------------------------------- frames


def test_loudness_and_frequency_are_those_of_a_known_tone() -> None:
    for hertz in (400, 1000, 3000):
        pieces = np.stack([tone(hertz, 0.025, height=height) for height in (1, 0.1)])
        np.testing.assert_allclose(loudness(pieces), [-3.01, -23.01], atol=0.1)
        np.testing.assert_allclose(frequency(pieces, RATE), hertz, rtol=0.05)
    assert loudness(np.zeros((1, 400), dtype=np.float32))[0] == -100


@pytest.mark.parametrize("frames", [WAV2VEC2, WHISPER])
def test_a_click_is_loudest_in_the_frame_of_its_time(frames: Frames) -> None:
    for sample in (4000, 9111, 15_000):
        samples = np.zeros(RATE, dtype=np.float32)
        samples[sample : sample + 20] = 0.9
        tokens = tables([sequence(samples)], frames).tokens.to_pandas()
        loudest = tokens[tokens["loudness"] > tokens["loudness"].max() - 1e-3]  # two, where it is in both
        assert abs(loudest["time"].mean() - (sample + 10) / RATE) <= 0.5 * frames.step / RATE
        assert loudest["token"].tolist() == [f"{time:.2f}s" for time in loudest["time"]]


def test_a_click_is_in_the_part_of_the_spectrogram_that_whisper_makes_its_frame_of() -> None:
    """Every second frame of the spectrogram is the middle of a frame of the encoder."""
    from transformers import WhisperFeatureExtractor

    extractor = WhisperFeatureExtractor(chunk_length=2)
    for frame in (10, 33, 70):
        samples = np.zeros(2 * RATE, dtype=np.float32)
        samples[round(WHISPER.times(100)[frame] * RATE)] = 0.9
        spectrogram = extractor(samples, sampling_rate=RATE, return_tensors="np")["input_features"][0]
        assert spectrogram.mean(axis=0).argmax() == 2 * frame


def test_frames_that_a_sound_does_not_fill_are_stored_as_silence() -> None:
    chunk = tables([sequence(tone(1000, 0.5)), sequence(tone(500, 2))], WHISPER)
    first, second = (part for _, part in chunk.tokens.to_pandas().groupby("sequence"))
    assert chunk.lengths.tolist() == [100, 100] and not second["is_special"].any()
    assert first["is_special"].tolist() == [False] * 25 + [True] * 75
    hidden = first[first["is_special"]]
    assert set(hidden["text"]) == {SILENCE} and set(hidden["kind"]) == {"padding"} and set(hidden["token_id"]) == {-1}
    assert hidden[["loudness", "frequency", "word_text"]].isna().all(axis=None)
    assert hidden["time"].iloc[-1] == pytest.approx(1.98)
    np.testing.assert_array_equal(chunk.is_special, [*first["is_special"], *second["is_special"]])
    np.testing.assert_allclose(second["frequency"].iloc[2:-2], 500, rtol=0.05)


def test_a_frame_too_quiet_to_hear_has_no_frequency() -> None:
    samples = np.concatenate([np.zeros(8000, np.float32), tone(1000, 0.5)])
    tokens = tables([sequence(samples)]).tokens.to_pandas()
    quiet = tokens["time"] < 0.48
    assert (tokens["loudness"][quiet] == -100).all() and tokens["frequency"][quiet].isna().all()
    assert tokens["frequency"][tokens["time"] > 0.52].notna().all()


@pytest.mark.parametrize("frames", [WAV2VEC2, WHISPER])
def test_windows_of_a_long_sound_have_the_frames_of_the_whole(frames: Frames) -> None:
    rng = np.random.default_rng(0)
    long = sequence(rng.normal(0, 0.1, 5 * RATE + 123).astype(np.float32), label="noise")
    split = tables([long], frames, max_length=100).tokens.to_pandas()
    split = split[~split["is_special"]].reset_index(drop=True)
    whole = tables([long], Frames(RATE, 320, frames.middle, 400, frames.n_fixed and 1000), max_length=1000)
    expected = whole.tokens.to_pandas()
    expected = expected[~expected["is_special"]].reset_index(drop=True)
    assert len(split) == len(expected) and split["sequence"].nunique() == 3
    for name in ("token_id", "token", "time", "duration", "label"):
        assert split[name].tolist() == expected[name].tolist(), name
    inside = split["position"].between(2, 97)  # at the seams a frame of Whisper hears what its window has
    np.testing.assert_allclose(split["loudness"][inside], expected["loudness"][inside], atol=1e-3)


def test_counts_say_what_became_of_the_sounds() -> None:
    sounds = [sequence(tone(500, seconds)) for seconds in (0.02, 1.0, 5.0)]
    counts = TokeniseCounts()
    split = tables(sounds, WAV2VEC2, counts, max_length=100)
    assert (counts.n_sequences, counts.n_empty, counts.n_split, counts.n_cut) == (3, 1, 1, 0)
    assert counts.n_tokens == split.tokens.num_rows == 49 + 249
    assert split.sequences["window"].to_pylist() == [0, 0, 1, 2]
    assert split.sequences["text"].to_pylist()[1:] == ["sound.wav", "sound.wav from 2 s", "sound.wav from 4 s"]
    counts = TokeniseCounts()
    cut = tables(sounds, WAV2VEC2, counts, max_length=100, long="cut")
    assert (counts.n_cut, counts.n_tokens, counts.n_tokens_dropped) == (1, 149, 149)
    assert cut.sequences["n_tokens"].to_pylist() == [49, 100]
    assert set(TOKEN_COLUMNS) <= set(cut.tokens.column_names)


def test_metadata_named_like_a_column_of_frames_is_stored_beside_it() -> None:
    counts = TokeniseCounts()
    chunk = tables([sequence(tone(), time="noon", duration=7, text="hello")], counts=counts)
    assert counts.renamed == {"time": "corpus_time", "duration": "corpus_duration", "text": "corpus_text"}
    row = chunk.sequences.to_pylist()[0]
    assert (row["text"], row["duration"], row["corpus_duration"], row["corpus_text"]) == ("sound.wav", 1.0, 7, "hello")
    with pytest.raises(QKSpaceError, match=r"sound\.wav: two columns of metadata"):
        tables([sequence(tone(), time="noon", corpus_time="night")])


def test_the_outline_of_a_sound_holds_its_peaks() -> None:
    samples = tone(50, 1)
    samples[7777] = 0.99
    low, high = outline(samples)
    assert len(low) == len(high) == 500 and (low <= high).all()
    assert high[7777 * 500 // RATE] == np.float32(0.99) and low.min() == samples.min()
    short = outline(np.asarray([0.1, -0.2], dtype=np.float32))
    assert [len(side) for side in short] == [500, 500] and set(short[0]) == set(short[1]) == set(
        np.float32([0.1, -0.2])
    )


# ---------------------------------------------------------------------------------------------- models


CONVOLUTIONAL = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "conv_dim": (16,) * 7,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
    "initializer_range": 0.25,
}
OF_WHISPER = {
    "vocab_size": 64,
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 1,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 48,
    "max_source_positions": 100,
    "max_target_positions": 20,
    "init_std": 0.25,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "decoder_start_token_id": 1,
}
FAMILIES = ("whisper", "wav2vec2", "hubert", "wavlm")


@pytest.fixture(scope="session")
def speech_models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Tiny random speech encoders, with the feature extractors of the released ones; Whisper's window is 2 s."""
    from transformers import AutoConfig, AutoModel, Wav2Vec2FeatureExtractor, WhisperFeatureExtractor

    made = {}
    for family in FAMILIES:
        made[family] = tmp_path_factory.mktemp(family)
        torch.manual_seed(0)
        options = OF_WHISPER if family == "whisper" else CONVOLUTIONAL
        AutoModel.from_config(AutoConfig.for_model(family, **options)).save_pretrained(made[family])
        extractor = WhisperFeatureExtractor(chunk_length=2) if family == "whisper" else Wav2Vec2FeatureExtractor()
        extractor.save_pretrained(made[family])
    return made


@pytest.fixture(scope="session")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sounds of unlike length and rate, two labels; one is longer than Whisper's window."""
    root = tmp_path_factory.mktemp("recordings")
    rng = np.random.default_rng(0)
    for number, (label, seconds, rate) in enumerate(
        [
            ("tone", 0.5, 16_000),
            ("tone", 0.91, 22_050),
            ("tone", 0.5, 16_000),
            ("noise", 1.3, 16_000),
            ("noise", 2.6, 8000),
        ]
    ):
        (root / label).mkdir(exist_ok=True)
        samples = (
            tone(300 + 200 * number, seconds, rate) if label == "tone" else rng.normal(0, 0.1, int(seconds * rate))
        )
        wavfile.write(root / label / f"{number}.wav", rate, samples.astype(np.float32))
    return root


@pytest.fixture(scope="session")
def sound_index(
    speech_models: dict[str, Path], recordings: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Index]:
    """An index of each family."""
    options: dict[str, Any] = {"methods": ("pca",), "dims": (2,), "storage": "float32", "device": "cpu"}
    return {
        family: build(
            str(folder),
            recordings,
            out=tmp_path_factory.mktemp("index") / family,
            attention="encoder" if family == "whisper" else None,
            **options,
        )
        for family, folder in speech_models.items()
    }


def own_attention(folder: Path, samples: Samples) -> list[Samples]:
    """Return the attention that a model reports of one sound, by transformers alone: layer -> (head, frame, frame)."""
    from transformers import AutoFeatureExtractor, AutoModel

    model = AutoModel.from_pretrained(folder, attn_implementation="eager").eval()
    inputs = AutoFeatureExtractor.from_pretrained(folder)(samples, sampling_rate=RATE, return_tensors="pt")
    inputs.pop("attention_mask", None)
    run = model.get_encoder() if model.config.is_encoder_decoder else model
    with torch.inference_mode():
        return [layer[0].numpy() for layer in run(**inputs, output_attentions=True).attentions]


@pytest.mark.parametrize("family", ["whisper", "wav2vec2", "hubert"])
def test_attention_of_the_index_is_the_models_own(
    sound_index: dict[str, Index], speech_models: dict[str, Path], recordings: Path, family: str
) -> None:
    index = sound_index[family]
    for sequence_number, row in index.sequences[index.sequences["window"] == 0].iterrows():
        rate, samples = wavfile.read(recordings / row["file"])
        heard = resampled(samples.astype(np.float32), rate, RATE)
        n = row["n_tokens"]
        if family != "whisper":
            heard = heard[: 400 + 320 * (n - 1)]  # what is behind the last whole frame is heard by no frame
        own = own_attention(speech_models[family], heard[: 2 * RATE] if family == "whisper" else heard)
        for layer, expected in enumerate(own):
            found = np.stack([index.head(layer, head).attention(int(sequence_number)) for head in range(4)])
            assert found.shape == expected.shape == (4, n, n)
            np.testing.assert_allclose(found, expected, rtol=0, atol=2e-5)


def test_attention_of_a_model_that_gates_positions_is_its_own(
    sound_index: dict[str, Index], speech_models: dict[str, Path], recordings: Path
) -> None:
    """WavLM reports the mean of its heads alone."""
    index = sound_index["wavlm"]
    for sequence_number, row in index.sequences.iterrows():
        rate, samples = wavfile.read(recordings / row["file"])
        n = row["n_tokens"]
        heard = resampled(samples.astype(np.float32), rate, RATE)[: 400 + 320 * (n - 1)]
        own = own_attention(speech_models["wavlm"], heard)
        for layer, expected in enumerate(own):
            found = np.stack([index.head(layer, head).attention(int(sequence_number)) for head in range(4)])
            assert np.abs(found - found.mean(axis=0)).max() > 0.01  # the heads are not one
            np.testing.assert_allclose(found.mean(axis=0), expected.reshape(-1, n, n).mean(axis=0), rtol=0, atol=1e-3)


@pytest.mark.parametrize("family", FAMILIES)
def test_an_index_of_sounds_says_what_it_holds(sound_index: dict[str, Index], recordings: Path, family: str) -> None:
    index = sound_index[family]
    assert index.manifest["modality"] == "audio" and store.verify(index.root) == []
    audio = index.manifest["audio"]
    assert (audio["frame_seconds"], audio["sampling_rate"]) == (0.02, RATE)
    sequences, tokens = index.sequences, index.tokens
    first = sequences[sequences["window"] == 0]
    assert first["file"].tolist() == [
        f"{label}/{n}.wav" for label, n in zip(first["label"], [3, 4, 0, 1, 2], strict=True)
    ]
    np.testing.assert_allclose(first["duration"], [1.3, 2.6, 0.5, 0.91, 0.5], atol=1e-3)
    assert len(sequences) == (6 if family == "whisper" else 5)  # 2.6 s are two windows of 2 s
    tones = tokens[tokens["file"] == "tone/1.wav"]
    np.testing.assert_allclose(tones["frequency"].dropna().iloc[2:-2], 500, rtol=0.05)
    heard = tones.loc[~tones["is_special"], "time"]
    assert heard.iloc[0] <= 0.0125 and 0.89 < heard.iloc[-1] < 0.91
    outlines = pq.read_table(index.root / "sounds.parquet").to_pandas()
    assert outlines["sequence"].tolist() == sequences["sequence"].tolist()
    assert {len(low) for low in outlines["low"]} == {500}
    spans = outlines.assign(file=sequences["file"]).groupby("file")[["begin", "seconds"]].agg(list)
    if family == "whisper":
        np.testing.assert_allclose(spans.loc["noise/4.wav"].tolist(), [[0, 2], [2, 0.6]], atol=1e-3)


def test_rows_with_sounds_are_read_by_the_encoder_of_a_model_that_also_reads_text(
    speech_models: dict[str, Path], tmp_path: Path
) -> None:
    table = tmp_path / "rows.parquet"
    cells = [{"bytes": wav(tone(hertz, 0.4)), "path": f"{hertz}.wav"} for hertz in (300, 900)]
    pq.write_table(pa.table({"sound": cells, "text": ["low", "high"]}), table)
    options: dict[str, Any] = {"methods": ("pca",), "dims": (2,), "device": "cpu", "audio_column": "sound"}
    index = build(str(speech_models["whisper"]), table, out=tmp_path / "index", **options)
    assert index.manifest["check"]["part"] == "encoder" and index.manifest["modality"] == "audio"
    assert index.sequences["corpus_text"].tolist() == ["low", "high"]
    assert index.sequences["text"].tolist() == ["300.wav", "900.wav"]
    frequency_of = index.tokens.groupby("file")["frequency"].median()
    np.testing.assert_allclose(frequency_of[["300.wav", "900.wav"]], [300, 900], rtol=0.05)


def test_a_batch_is_of_one_length_and_keeps_its_order(
    speech_models: dict[str, Path], recordings: Path, tmp_path: Path
) -> None:
    from transformers import AutoConfig

    folder = speech_models["wav2vec2"]
    given = load_sound_input(str(folder), AutoConfig.from_pretrained(folder))
    assert given.frames == WAV2VEC2
    chunk = tables(list(read_sounds(recordings)), given.frames)
    with SoundWriter(tmp_path) as writer:
        writer.add(chunk)
    sounds = Sounds(tmp_path)
    for number, samples in enumerate(chunk.samples):
        np.testing.assert_array_equal(sounds.samples(number), samples)
    feed = SoundFeed(sounds, given, torch.float32)
    batch = feed.batch(np.asarray([4, 2]), torch.device("cpu"))["input_values"]
    for place, number in enumerate([4, 2]):
        alone = feed.batch(np.asarray([number]), torch.device("cpu"))["input_values"][0]
        np.testing.assert_array_equal(batch[place], alone)
    with pytest.raises(QKSpaceError, match="one length"):
        feed.batch(np.asarray([0, 2]), torch.device("cpu"))


@pytest.mark.parametrize(
    ("family", "options", "message"),
    [
        ("whisper", {"attention": "cross"}, "--attention encoder"),
        ("whisper", {"attention": "encoder", "max_length": 50}, "leave --max-length out"),
    ],
)
def test_what_a_speech_model_cannot_do_is_refused(
    speech_models: dict[str, Path], recordings: Path, tmp_path: Path, family: str, options: Any, message: str
) -> None:
    with pytest.raises(QKSpaceError, match=message):
        build(str(speech_models[family]), recordings, out=tmp_path / "index", device="cpu", **options)


def test_a_model_whose_frames_are_not_known_is_refused(tmp_path: Path) -> None:
    from transformers import ASTConfig, ASTFeatureExtractor, SEWConfig, Wav2Vec2FeatureExtractor

    for config, extractor in ((ASTConfig(), ASTFeatureExtractor()), (SEWConfig(), Wav2Vec2FeatureExtractor())):
        extractor.save_pretrained(tmp_path)
        with pytest.raises(QKSpaceError, match=r"does not know.*Whisper, wav2vec2"):
            load_sound_input(str(tmp_path), config)


def test_a_checkpoint_without_preprocessing_is_refused(tmp_path: Path) -> None:
    from transformers import Wav2Vec2Config

    with pytest.raises(QKSpaceError, match=r"preprocessor_config\.json"):
        load_sound_input(str(tmp_path), Wav2Vec2Config())


# ---------------------------------------------------------------------------------------------- generated sounds


def test_made_sounds_are_read_with_their_labels_and_are_the_same_next_time(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.syspath_prepend(ROOT / "scripts")
    maker = importlib.import_module("make_sounds")
    maker.write(tmp_path / "once", each=2)
    maker.write(tmp_path / "twice", each=2)
    once, twice = (list(read_sounds(tmp_path / name)) for name in ("once", "twice"))
    assert {sound.metadata["label"] for sound in once} == set(maker.labels())
    assert [sound.sound_bytes for sound in once] == [sound.sound_bytes for sound in twice]
    assert len({sound.sound_bytes for sound in once}) == len(once) == 2 * len(maker.labels())
    for sound in once:
        samples, rate = decode(sound)
        assert rate == RATE and 0.3 < np.abs(samples).max() <= 0.7
