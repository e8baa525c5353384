"""Loading: qkspace opens whatever AutoModel opens, or says exactly why not."""

from __future__ import annotations

import json
import os
import pickle
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import REPOSITORY, MakeCheckpoint

from qkspace.model import (
    Checkpoint,
    context_length,
    identity,
    input_device,
    load,
    modality_of,
    need_processor,
    without_attention,
)
from qkspace.plan import Parameters, request_of
from qkspace.schema import QKSpaceError
from qkspace.weights import stored_tensors

VISION = {
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "image_size": 8,
    "patch_size": 4,
}


def hidden(checkpoint: Checkpoint, text: str) -> torch.Tensor:
    """Return what a model of text makes of a text."""
    ids = torch.tensor([checkpoint.tokenizer(text)["input_ids"]])
    with torch.inference_mode():
        found: torch.Tensor = checkpoint.model(input_ids=ids.to(input_device(checkpoint.model))).last_hidden_state
    return found.cpu()


def copied(folder: Path, target: Path) -> Path:
    shutil.copytree(folder, target)
    return target


def pickled(folder: Path, target: Path) -> Path:
    """Copy a checkpoint with its weights stored by pickle instead of safetensors."""
    from safetensors.torch import load_file

    copied(folder, target)
    torch.save(load_file(target / "model.safetensors"), target / "pytorch_model.bin")
    (target / "model.safetensors").unlink()
    return target


def random_model(family: str, target: Path, **options: Any) -> Path:
    """Save a random model without a tokenizer."""
    from transformers import AutoConfig, AutoModel

    torch.manual_seed(0)
    AutoModel.from_config(AutoConfig.for_model(family, **options)).save_pretrained(target)
    return target


# ---------------------------------------------------------------------------------------------- how weights are stored


def test_weights_stored_by_pickle_are_refused_and_both_ways_out_work(
    tmp_path: Path, make_checkpoint: MakeCheckpoint
) -> None:
    folder = make_checkpoint("bert")
    stored = pickled(folder, tmp_path / "stored")
    with pytest.raises(QKSpaceError, match=r"pytorch_model\.bin.*pickle.*run code.*--allow-pickle") as caught:
        load(str(stored), device="cpu")
    want = identity(load(str(folder), device="cpu"))["weights_digest"]
    assert identity(load(str(stored), device="cpu", allow_pickle=True))["weights_digest"] == want
    command = re.search(r'python (-c ".*?")', str(caught.value))
    assert command is not None
    done = subprocess.run(
        f"{sys.executable} {command[1]}", shell=True, cwd=tmp_path, capture_output=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    converted = load(str(tmp_path / "stored-safetensors"), device="cpu")
    assert identity(converted)["weights_digest"] == want
    assert converted.tokenizer is not None


class Payload:
    """What a pickle of a stranger may be: reading it creates a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("allow", [False, True])
def test_code_in_a_pickle_never_runs(allow: bool, tmp_path: Path, make_checkpoint: MakeCheckpoint) -> None:
    folder, mark = pickled(make_checkpoint("bert"), tmp_path / "stored"), tmp_path / "code-ran"
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Payload(mark), protocol=2))
    with pytest.raises(QKSpaceError, match=f"--model {folder}"):
        load(str(folder), device="cpu", allow_pickle=allow)
    assert not mark.exists()
    pickle.loads((folder / "pytorch_model.bin").read_bytes())
    assert mark.exists()  # so that the test would have seen it


@pytest.fixture
def sharded(tmp_path: Path, make_checkpoint: MakeCheckpoint) -> Path:
    """A checkpoint in several files."""
    from transformers import AutoModel

    whole = make_checkpoint("bert")
    folder = copied(whole, tmp_path / "sharded")
    (folder / "model.safetensors").unlink()
    AutoModel.from_pretrained(whole).save_pretrained(folder, max_shard_size="30KB")
    assert len(list(folder.glob("model-*.safetensors"))) > 2
    return folder


def test_a_checkpoint_in_shards_is_the_same_as_in_one_file(sharded: Path, make_checkpoint: MakeCheckpoint) -> None:
    one, many = (identity(load(str(folder), device="cpu")) for folder in (make_checkpoint("bert"), sharded))
    assert {**one, "name": ""} == {**many, "name": ""}


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (lambda shard: shard.unlink(), "lists {shard}, which is not there"),
        (lambda shard: os.truncate(shard, shard.stat().st_size - 5), "{shard} is damaged or cut short"),
        (lambda shard: (shard.parent / "model.safetensors.index.json").write_text("{"), r"index\.json is damaged"),
        (lambda shard: (shard.parent / "model.safetensors.index.json").write_text("[]"), r"index\.json is damaged"),
    ],
    ids=["missing", "cut", "index cut", "index of something else"],
)
def test_a_shard_that_is_not_whole_is_named(damage: Callable[[Path], Any], expected: str, sharded: Path) -> None:
    shard = sorted(sharded.glob("model-*.safetensors"))[1]
    damage(shard)
    with pytest.raises(QKSpaceError, match=expected.format(shard=re.escape(shard.name))):
        load(str(sharded), device="cpu")


def test_weights_of_another_kind_are_named(tmp_path: Path, make_checkpoint: MakeCheckpoint) -> None:
    folder = copied(make_checkpoint("bert"), tmp_path / "model")
    (folder / "model.safetensors").rename(folder / "tf_model.h5")
    with pytest.raises(QKSpaceError, match=r"no model\.safetensors, only tf_model\.h5.*save_pretrained"):
        load(str(folder), device="cpu")


def test_an_adapter_given_as_a_model_is_told_from_one(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(QKSpaceError, match=r"is an adapter, not a whole model.*--adapter"):
        load(str(tmp_path), device="cpu")


@pytest.mark.parametrize(
    "config",
    ["[]", "{}", '{"model_type": "no-such-model"}', '{"model_type": "bert", "hidden_size": "wide"}', "\x00"],
)
def test_whatever_is_wrong_with_a_configuration_is_one_error_with_a_reason(
    config: str, tmp_path: Path, make_checkpoint: MakeCheckpoint
) -> None:
    folder = copied(make_checkpoint("bert"), tmp_path / "model")
    (folder / "config.json").write_text(config)
    with pytest.raises(QKSpaceError, match=rf"--model {folder}: could not be loaded \(.{{10,}}\)"):
        load(str(folder), device="cpu")


def test_code_of_a_checkpoint_asks_to_be_let_run(tmp_path: Path, make_checkpoint: MakeCheckpoint) -> None:
    folder = copied(make_checkpoint("bert"), tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    own = {"AutoConfig": "own.OwnConfig", "AutoModel": "own.OwnModel"}
    (folder / "config.json").write_text(json.dumps({**config, "model_type": "own", "auto_map": own}))
    (folder / "own.py").write_text(f"import os\nos.mkdir({str(tmp_path / 'code-ran')!r})\n")
    with pytest.raises(QKSpaceError, match=r"code of its own.*--trust-remote-code"):
        load(str(folder), device="cpu")
    assert not (tmp_path / "code-ran").exists()


# ---------------------------------------------------------------------------------------------- where weights lie


@pytest.mark.parametrize("room", ["20KB", "1KB"])
def test_a_model_whose_weights_wait_on_disk_is_the_same_model(
    room: str, make_checkpoint: MakeCheckpoint, sentences: list[str]
) -> None:
    pytest.importorskip("accelerate")
    folder = str(make_checkpoint("llama"))
    whole, spread = (
        load(folder, device="cpu"),
        load(folder, device_map="auto", dtype="float32", max_memory={"cpu": room}),
    )
    assert any(p.is_meta for p in spread.model.parameters())
    assert input_device(spread.model) == torch.device("cpu")
    assert identity(spread) == identity(whole)
    assert torch.equal(hidden(spread, sentences[0]), hidden(whole, sentences[0]))
    assert any(p.is_meta for p in spread.model.parameters())  # and they wait there again


def test_a_device_map_needs_accelerate_and_says_how_to_get_it(
    make_checkpoint: MakeCheckpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "accelerate", None)
    with pytest.raises(QKSpaceError, match=re.escape("pip install 'qkspace[large]'")):
        load(str(make_checkpoint("bert")), device_map="auto")


@pytest.mark.parametrize("other", [{"device": "cpu"}, {"adapter": "somewhere"}])
def test_a_device_map_refuses_what_contradicts_it(other: dict[str, Any], make_checkpoint: MakeCheckpoint) -> None:
    with pytest.raises(QKSpaceError, match="leave out"):
        load(str(make_checkpoint("bert")), device_map="auto", **other)


def test_where_a_model_lies_and_whether_pickle_is_read_are_no_part_of_what_an_index_is_made_of() -> None:
    plain = request_of("model", [], Parameters())
    assert request_of("model", [], Parameters(device_map="auto", allow_pickle=True)) == plain
    assert request_of("model", [], Parameters(dtype="float16")) != plain
    with pytest.raises(QKSpaceError, match="device_map 'gpu'; choose one of auto, balanced"):
        Parameters(device_map="gpu")  # type: ignore[arg-type]


# ---------------------------------------------------------------------------------------------- quantised weights


def quantised(folder: Path, target: Path, how: Any) -> Path:
    """Save a checkpoint with its weights quantised."""
    from transformers import AutoModel, AutoTokenizer

    AutoModel.from_pretrained(folder, quantization_config=how, device_map="cpu").save_pretrained(target)
    AutoTokenizer.from_pretrained(folder).save_pretrained(target)
    return target


def scheme(name: str) -> Any:
    if name == "torchao":
        pytest.importorskip("torchao")
        from torchao.quantization import Int8WeightOnlyConfig
        from transformers import TorchAoConfig

        return TorchAoConfig(Int8WeightOnlyConfig())
    pytest.importorskip("bitsandbytes")
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(load_in_8bit=True) if name == "int8" else BitsAndBytesConfig(load_in_4bit=True)


@pytest.mark.parametrize("name", ["torchao", "int8", "nf4"])
@pytest.mark.parametrize("dtype", ["auto", "float32"])
def test_a_quantised_model_stays_quantised_and_near_the_whole_one(
    name: str, dtype: Any, tmp_path: Path, minilm: Path, sentences: list[str]
) -> None:
    folder = quantised(minilm, tmp_path / name, scheme(name))
    checkpoint, whole = load(str(folder), device="cpu", dtype=dtype), load(str(minilm), device="cpu")
    assert identity(checkpoint) == identity(load(str(folder), device="cpu", dtype=dtype))
    stored = sum(t.numel() * t.element_size() for name, t in stored_tensors(checkpoint.model) if "encoder" in name)
    assert stored < 0.5 * sum(p.numel() * 4 for p in whole.model.encoder.parameters())
    assert identity(checkpoint)["n_parameters"] == identity(whole)["n_parameters"]
    seen, want = hidden(checkpoint, sentences[0]).float(), hidden(whole, sentences[0])
    assert torch.nn.functional.cosine_similarity(seen, want, dim=-1).min() > (0.8 if name == "nf4" else 0.99)


@pytest.mark.parametrize(
    ("how", "package"),
    [
        ({"quant_method": "bitsandbytes", "load_in_8bit": True}, "bitsandbytes"),
        ({"load_in_4bit": True}, "bitsandbytes"),
        ({"quant_method": "torchao"}, "torchao"),
        ({"quant_method": "compressed-tensors"}, "compressed-tensors"),
        ({"quant_method": "gptq", "bits": 4}, "gptqmodel"),
    ],
)
def test_quantised_weights_name_the_package_that_reads_them(
    how: dict[str, Any],
    package: str,
    tmp_path: Path,
    make_checkpoint: MakeCheckpoint,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, package.replace("-", "_"), None)
    folder = copied(make_checkpoint("bert"), tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "quantization_config": how}))
    with pytest.raises(QKSpaceError, match=f"quantised.*pip install {package}"):
        load(str(folder), device="cpu")
    with pytest.raises(QKSpaceError, match="an adapter cannot be laid on"):
        load(str(folder), device="cpu", adapter="somewhere")


# ---------------------------------------------------------------------------------------------- what a model reads


@pytest.mark.parametrize("kept", [(), ("tokenizer_config.json",)])
def test_a_model_of_text_without_a_tokenizer_says_which_files_are_missing(
    kept: tuple[str, ...], tmp_path: Path, make_checkpoint: MakeCheckpoint
) -> None:
    for family in ("bert", "gpt2", "llama"):
        folder = tmp_path / f"{family}{len(kept)}"
        folder.mkdir()
        for name in ("config.json", "model.safetensors", *kept):
            shutil.copy(make_checkpoint(family) / name, folder)
        with pytest.raises(
            QKSpaceError, match=r"no tokenizer.*Expected in the same folder: tokenizer\.json.*vocab\.txt"
        ):
            load(str(folder), device="cpu")


def test_a_model_of_images_needs_no_tokenizer(tmp_path: Path) -> None:
    checkpoint = load(str(random_model("vit", tmp_path / "vit", **VISION)), device="cpu")
    assert checkpoint.tokenizer is None
    assert context_length(checkpoint) is None
    again = identity(load(checkpoint.name, device="cpu"))
    assert identity(checkpoint) == again
    assert again["vocabulary_digest"] is None
    with pytest.raises(QKSpaceError, match=r"no preprocessor_config\.json.*how images are"):
        need_processor(checkpoint.name, "image")
    (tmp_path / "vit" / "preprocessor_config.json").write_text("{}")
    need_processor(checkpoint.name, "image")


def test_a_model_of_text_and_images_needs_the_tokenizer_only_where_text_is_read(tmp_path: Path) -> None:
    text = {**VISION, "vocab_size": 50}
    folder = str(random_model("clip", tmp_path / "clip", text_config=text, vision_config=VISION, projection_dim=8))
    assert load(folder, device="cpu", modality="image").tokenizer is None
    for modality in ("text", None):
        with pytest.raises(QKSpaceError, match="CLIPModel was loaded, but no tokenizer"):
            load(folder, device="cpu", modality=modality)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("family", "reads"),
    [
        ("bert", "text"),
        ("t5", "text"),
        ("mamba", "text"),
        ("vit", "image"),
        ("swin", "image"),
        ("wav2vec2", "audio"),
        ("audio-spectrogram-transformer", "audio"),
        ("encodec", "audio"),  # whose class says "text", and whose input is sound
        ("videomae", "video"),
        ("clip", "text+image"),
        ("whisper", "text+audio"),
        ("vision-encoder-decoder", "text+image"),
    ],
)
def test_what_a_model_reads_is_known_from_its_configuration(family: str, reads: str) -> None:
    from transformers import AutoConfig
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    if family == "vision-encoder-decoder":
        parts = (AutoConfig.for_model("vit"), AutoConfig.for_model("gpt2"))
        config = CONFIG_MAPPING[family].from_encoder_decoder_configs(*parts)
        config.architectures = ["VisionEncoderDecoderModel"]
    else:
        config = AutoConfig.for_model(family)
    assert modality_of(config) == reads


def test_a_pair_of_models_that_automodel_does_not_know_is_loaded_by_the_class_it_names(
    tmp_path: Path, make_checkpoint: MakeCheckpoint
) -> None:
    from transformers import EncoderDecoderModel

    folder = copied(make_checkpoint("bert"), tmp_path / "pair")
    part = str(make_checkpoint("bert"))
    torch.manual_seed(0)
    pair = EncoderDecoderModel.from_encoder_decoder_pretrained(part, part)
    pair.save_pretrained(folder)
    loaded = load(str(folder), device="cpu")
    assert type(loaded.model) is EncoderDecoderModel
    for name, tensor in pair.state_dict().items():
        assert torch.equal(tensor, loaded.model.state_dict()[name]), name


@pytest.mark.parametrize(
    ("family", "options", "layers"),
    [
        (
            "mamba",
            {"hidden_size": 16, "num_hidden_layers": 2, "state_size": 4, "vocab_size": 50},
            "MambaBlock (MambaMixer)",
        ),
        ("rwkv", {"hidden_size": 16, "num_hidden_layers": 2, "vocab_size": 50}, "RwkvBlock (RwkvSelfAttention"),
        ("fnet", {"hidden_size": 16, "num_hidden_layers": 2, "vocab_size": 50}, "FNetLayer (FNetFourierTransform"),
        ("convnext", {"hidden_sizes": [4, 8], "depths": [1, 1], "num_stages": 2}, "ConvNextStage"),
        ("resnet", {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1]}, "ResNetStage"),
    ],
)
def test_a_model_without_attention_is_refused_by_its_name_and_that_of_its_layers(
    family: str, options: dict[str, Any], layers: str
) -> None:
    from transformers import AutoConfig, AutoModel

    model = AutoModel.from_config(AutoConfig.for_model(family, **options))
    said = without_attention(model)
    assert said.startswith(f"{type(model).__name__} has no attention: its layers are {layers}")
    assert said.endswith("so there are no queries and keys to show.")


# ---------------------------------------------------------------------------------------------- names on the hub

OFFLINE = """
import sys
from qkspace.model import check_name, identity, load
from qkspace.schema import QKSpaceError
for name in sys.argv[1:]:
    try:
        check_name(name)
        print(identity(load(name, device="cpu"))["commit"])
    except QKSpaceError as error:
        print(error)
"""


def test_out_of_reach_of_the_hub_the_cache_is_read_at_once_and_what_is_not_in_it_is_said(
    tmp_path: Path, make_checkpoint: MakeCheckpoint
) -> None:
    commit, repository = "0123456789abcdef0123456789abcdef01234567", tmp_path / "models--someone--model"
    copied(make_checkpoint("bert"), repository / "snapshots" / commit)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    places = {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HUB_CACHE": str(tmp_path), "PYTHONPATH": str(REPOSITORY)}
    environment = {k: v for k, v in os.environ.items() if k != "HF_HUB_OFFLINE"} | places
    command = [sys.executable, "-c", OFFLINE, "someone/model", "someone/else"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True, env=environment)
    first, second = done.stdout.splitlines()
    assert first == commit
    assert re.search("someone/else.*hub cannot be reached.*cache does not hold", second)
    assert "Retry" not in done.stdout + done.stderr


def test_a_missing_pooler_is_no_other_checkpoint(make_checkpoint: MakeCheckpoint, tmp_path: Path) -> None:
    """A checkpoint without tensors that nothing reads is the same each time it is loaded."""
    from safetensors.torch import load_file, save_file

    folder = tmp_path / "bare"
    shutil.copytree(make_checkpoint("bert"), folder)
    tensors = load_file(folder / "model.safetensors")
    kept = {name: tensor for name, tensor in tensors.items() if "pooler" not in name}
    assert len(kept) < len(tensors)
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})
    first, second = (identity(load(str(folder), device="cpu")) for _ in range(2))
    assert first == second


def test_the_numbers_of_a_checkpoint_decide_its_identity(make_checkpoint: MakeCheckpoint) -> None:
    checkpoint = load(str(make_checkpoint("bert")), device="cpu")
    before = identity(checkpoint)
    with torch.no_grad():
        for parameter in checkpoint.model.parameters():
            parameter += 1e-3 * np.float32(1)
    after = identity(checkpoint)
    assert {name for name in before if before[name] != after[name]} == {"weights_digest"}
