"""Tests of the whole path on real weights: an encoder, two decoders and a vision model through build, report and page."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from bokeh.document import Document
from conftest import SHARED
from transformers import AutoModel

import qkspace
from qkspace import store
from qkspace.app.document import make_document
from qkspace.cli import main
from qkspace.index import Index
from qkspace.schema import FloatArray

LETTERS = ["CCBAAB", "ABCABC", "BBBAAA", "CBACBA", "AABBCC", "CACACA", "BCBCBC", "ACBACB"]


@dataclass(frozen=True)
class Case:
    """A checkpoint and its index of a small corpus."""

    checkpoint: Path
    index: Index


@pytest.fixture(scope="module", params=["minilm", "stories", "nano_sort", "deit"])
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, sentences: list[str]) -> Case:
    """Build an index of each real model, with float32 vectors so that attention can be compared closely."""
    if request.param == "deit":
        return Case(SHARED / "models" / "deit-tiny", request.getfixturevalue("pictures_index"))
    folder = tmp_path_factory.mktemp(request.param)
    checkpoint = request.getfixturevalue(request.param)
    corpus = folder / "corpus.txt"
    corpus.write_text("\n".join(LETTERS if request.param == "nano_sort" else sentences[:24]))
    index = qkspace.build(
        *(str(checkpoint), str(corpus)),
        out=folder / "index",
        methods=["pca"],
        dims=[2],
        storage="float32",
        normalise="sphere" if request.param == "minilm" else "auto",  # whose search takes as long as all else
        n_jobs=1,
        progress=False,
    )
    return Case(checkpoint, index)


def own_attention(case: Case, sequence: int) -> list[FloatArray]:
    """Return the model's own attention over one stored sequence, without qkspace: layer -> (head, token, token)."""
    index = case.index
    model = AutoModel.from_pretrained(case.checkpoint, attn_implementation="eager").eval()
    if index.manifest["modality"] == "image":
        import io

        import pandas as pd
        from PIL import Image
        from transformers import AutoImageProcessor

        row = pd.read_parquet(index.root / "images.parquet").set_index("sequence").loc[sequence]
        processor = AutoImageProcessor.from_pretrained(case.checkpoint, backend="pil")
        picture = Image.open(io.BytesIO(row["image"]))
        inputs = processor(picture, do_resize=False, do_center_crop=False, return_tensors="pt")
    else:
        tokens = index.tokens[index.tokens["sequence"] == sequence]
        inputs = {"input_ids": torch.tensor([tokens["token_id"].tolist()])}
    with torch.no_grad():
        attentions = model(**inputs, output_attentions=True).attentions
    return [a[0].numpy() for a in attentions]


def test_the_index_holds_the_models_own_attention(case: Case) -> None:
    index = case.index
    for sequence in index.sequences["sequence"].tolist()[:3]:
        for layer, own in enumerate(own_attention(case, sequence)):
            for head in range(len(own)):
                np.testing.assert_allclose(index.head(layer, head).attention(sequence), own[head], atol=2e-4)


def test_the_strongest_keys_are_the_models_own(case: Case) -> None:
    index = case.index
    sequence = int(index.sequences["sequence"].iloc[-1])
    rows = index.rows(sequence)
    for layer, own in enumerate(own_attention(case, sequence)):
        head = index.head(layer, 0)
        found = head.top_attention[rows, 0]
        np.testing.assert_allclose(found, own[0].max(axis=1), atol=2e-3)


def test_the_report_says_what_was_checked(case: Case, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", str(case.index.root)]) == 0
    capsys.readouterr()
    assert main(["report", str(case.index.root), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["check"]["recomputed_error"] <= said["check"]["tolerance"] == 1e-4
    assert said["check"]["route"] == "interface"
    assert len(said["heads"]) == case.index.n_layers * case.index.n_heads
    assert all(-1 <= head["pca2_weighted_correlation"] <= 1 for head in said["heads"])
    assert main(["report", str(case.index.root)]) == 0
    assert case.index.model_name in capsys.readouterr().out


@pytest.mark.parametrize("page", ["map", "atlas", "sentence", "head"])
def test_every_view_of_the_page_opens(case: Case, page: str) -> None:
    document = Document()
    make_document(document, case.index, page=page, layer=1, head=0, method="pca")
    assert case.index.model_name in json.dumps(document.to_json(), default=str)
    if page == "map" and case.index.manifest["modality"] == "text":
        drawn = document.get_model_by_name("map").select_one({"name": "query"}).data_source.data  # type: ignore[union-attr]
        place = case.index.head(1, 0).projection("pca").query
        found = np.stack([np.asarray(drawn["x"]), np.asarray(drawn["y"])], axis=1)
        np.testing.assert_allclose(found, place[np.asarray(drawn["row"])], rtol=1e-4, atol=1e-4)


def test_an_index_of_before_is_read(case: Case, tmp_path: Path) -> None:
    """Version 1 had no parts, position parts or modality: what is not said is what it was."""
    import shutil

    old = tmp_path / "old"
    shutil.copytree(case.index.root, old)
    manifest = store.read_json(old / store.MANIFEST)
    manifest["format_version"] = 1
    for layer in manifest["layers"]:
        for name in ("softcap", "position", "has_sink", "crosses"):
            layer.pop(name)
    for name in ("part", "runner", "route", "calls", "against"):
        manifest["check"].pop(name)
    manifest.pop("modality")
    store.write_json(old / store.MANIFEST, manifest)
    index = qkspace.open(old)
    sequence = int(index.sequences["sequence"].iloc[0])
    np.testing.assert_array_equal(index.head(1, 0).attention(sequence), case.index.head(1, 0).attention(sequence))
