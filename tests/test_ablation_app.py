"""Tests of what the page says of heads that are taken out: zeros and means side by side, and no hint that is refused."""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Callable, Sequence
from html import unescape
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from conftest import MakeCheckpoint
from test_app import Visitor
from test_heads_app import dots, opened

from qkspace import behaviour, store
from qkspace.app.atlas import atlas_table, order_labels
from qkspace.app.heads_words import missing
from qkspace.app.language import LANGUAGES, strings
from qkspace.app.select import Shown
from qkspace.app.state import State
from qkspace.heads import analyse, kept
from qkspace.heads.analyse import ANALYSES
from qkspace.heads.report import hints
from qkspace.index import Index
from qkspace.pipeline import build
from qkspace.schema import QKSpaceError

COLUMNS = {"ablation": "loss_change", "mean-ablation": "loss_change_mean"}
LARGEST = {"ablation": 0.08, "mean-ablation": 0.02}
SMALL: dict[str, Any] = {"methods": ["pca"], "dims": [2], "normalise": "none", "n_jobs": 1}


def holding(index: Index, folder: Path, measures: dict[str, str], seeds: Sequence[int] = (0, 0)) -> Index:
    """Copy an index, with made-up tables of these analyses, measured so, on samples drawn by these seeds."""
    found = Index(shutil.copytree(index.root, folder / "index"))
    heads = found.head_table()[["layer", "head"]]
    for (name, measure), seed in zip(measures.items(), seeds, strict=False):
        change = np.linspace(-0.01, LARGEST[name], len(heads))
        table = heads.assign(**{COLUMNS[name]: change}, low=change - 0.01, high=change + 0.01, measure=measure)
        table.attrs["note"] = f"how {name} was measured"
        found = kept.keep(found, name, {name: table}, head_columns=[COLUMNS[name]], parameters={"seed": seed})
    return found


def titles(visitor: Visitor) -> list[str]:
    """Return the titles of the panels, the first on the left or on top."""
    panels = [each for each in visitor.doc.models if str(each.name).startswith("heads_panel_")]
    return [each.title.text.text for each in sorted(panels, key=lambda panel: str(panel.name))]


# ---------------------------------------------------------------- zeros and means


@pytest.mark.parametrize("language", LANGUAGES)
def test_zeros_and_means_stand_side_by_side_on_one_scale(small_index: Index, tmp_path: Path, language: Any) -> None:
    index = holding(small_index, tmp_path, {"mean-ablation": "masked", "ablation": "masked"})
    visitor, called = opened(index, "matters", language=language), strings(language)
    assert titles(visitor) == [called["panel_ablation"], called["panel_mean-ablation"]]
    for i, (name, column) in enumerate(COLUMNS.items()):
        np.testing.assert_array_equal(dots(visitor, i)["y"], index.analysis(name)[column])
        assert titles(visitor)[i] in dots(visitor, i)[f"tip{i}"][0]
    ranges = [visitor.widget(f"heads_panel_{i}").y_range for i in range(2)]
    assert (ranges[0].start, ranges[0].end) == (ranges[1].start, ranges[1].end)
    assert ranges[0].start < -0.02 and ranges[0].end > 0.09, "all of both is seen"
    told = unescape(visitor.widget("heads_note").text)
    assert called["note_matters_both"] in told and called["note_matters"] in told
    assert all(f"how {name} was measured" in told for name in COLUMNS)
    assert called["heads_make"] not in unescape(visitor.text())


@pytest.mark.parametrize("seeds", [(1, 1), (0, 1)])
def test_what_was_measured_on_unlike_samples_says_so(
    small_index: Index, tmp_path: Path, seeds: tuple[int, int]
) -> None:
    index = holding(small_index, tmp_path, dict.fromkeys(COLUMNS, "masked"), seeds)
    told = unescape(opened(index, "matters").widget("heads_note").text)
    assert (strings("en")["note_matters_unlike"] in told) == (len(set(seeds)) > 1)


@pytest.mark.parametrize("there", COLUMNS)
def test_one_alone_is_shown_and_the_other_told_with_its_command(small_index: Index, tmp_path: Path, there: str) -> None:
    index = holding(small_index, tmp_path, {there: "causal"})
    visitor = opened(index, "matters")
    assert titles(visitor) == [strings("en")[f"panel_{there}"]]
    np.testing.assert_array_equal(dots(visitor)["y"], index.analysis(there)[COLUMNS[there]])
    assert strings("en")["note_matters_both"] not in unescape(visitor.text())
    (other,) = COLUMNS.keys() - {there}
    commands = {
        "ablation": f"qkspace ablate {index.root}",
        "mean-ablation": f"qkspace ablate {index.root} --method mean",
    }
    said = unescape(visitor.text())
    assert f"<code>{commands[other]}</code>" in said and f"<code>{commands[there]}</code>" not in said


def test_what_is_counted_otherwise_has_a_scale_of_its_own(small_index: Index, tmp_path: Path) -> None:
    index = holding(small_index, tmp_path, {"ablation": "masked", "mean-ablation": "output"})
    visitor, called = opened(index, "matters"), strings("en")
    panels = [visitor.widget(f"heads_panel_{i}") for i in range(2)]
    assert [each.yaxis.axis_label.text for each in panels] == [
        called["axis_change_masked"],
        called["axis_change_output"],
    ]
    assert panels[1].y_range.end < 0.05 < panels[0].y_range.end
    told = unescape(visitor.widget("heads_note").text)
    assert called["note_matters"] in told and called["note_matters_output"] in told
    assert called["note_matters_both"] not in told


def test_both_are_statistics_of_a_head_and_neither_stands_against_itself(small_index: Index, tmp_path: Path) -> None:
    index = holding(small_index, tmp_path, {"ablation": "masked", "mean-ablation": "masked"})
    assert set(COLUMNS.values()) <= set(order_labels(atlas_table(Shown(index), State())))
    visitor = opened(index, "matters")
    colours = dict(visitor.widget("by").options)
    assert len({colours[column] for column in COLUMNS.values()}) == 2
    assert not set(COLUMNS.values()) & {value for value, _ in visitor.widget("aspect").options}


# ---------------------------------------------------------------- no hint that would be refused


@pytest.fixture(scope="module")
def crossing(
    tmp_path_factory: pytest.TempPathFactory, make_checkpoint: MakeCheckpoint, small_corpus: tuple[Path, Path]
) -> Index:
    """An index of cross-attention whose corpus has trees."""
    options = {"d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "encoder_ffn_dim": 48, "decoder_ffn_dim": 48}
    options |= {"encoder_attention_heads": 4, "decoder_attention_heads": 4, "max_position_embeddings": 128}
    model = make_checkpoint("bart", **options, decoder_start_token_id=3, init_std=0.25)
    folder = tmp_path_factory.mktemp("crossing")
    return build(str(model), small_corpus[0], out=folder / "index", attention="cross", **SMALL)


def refused(index: Index, names: Sequence[str]) -> set[str]:
    """Return which analyses of an index are refused before anything is measured."""
    return {name for name in names if ANALYSES[name].can(index)}


def test_no_command_is_given_that_would_be_refused(crossing: Index) -> None:
    assert {"head", "deprel"} <= set(crossing.tokens), "there are trees"
    for name in (of_trees := ("relations", "coreference", "probes")):
        with pytest.raises(QKSpaceError, match="from one text to another"):
            analyse.run(crossing, [name])
        with pytest.raises(QKSpaceError, match="from one text to another") as error:
            crossing.analysis(name)
        assert "--only" not in str(error.value)
    assert not any(f"--only {name}" in line for line in hints(crossing) for name in of_trees)
    for figure in ("relations", "coreference"):
        text = unescape(Visitor(crossing, page="heads", figure=figure).text())
        assert strings("en")["heads_crosses"] in text and "--only" not in text
    assert len(hints(crossing)) == len(ANALYSES) - len(refused(crossing, list(ANALYSES)))


@pytest.mark.parametrize("name", COLUMNS)
def test_an_index_of_sound_is_not_told_to_take_heads_out(small_index: Index, tmp_path: Path, name: str) -> None:
    root = shutil.copytree(small_index.root, tmp_path / "index")
    store.write_json(root / store.MANIFEST, dict(store.read_manifest(root)) | {"modality": "audio"})
    index = Index(root)
    with pytest.raises(QKSpaceError, match="holds no sounds"):
        analyse.run(index, [name])
    assert not any("qkspace ablate" in line for line in hints(index))
    shown: Any = SimpleNamespace(index=index, modality="audio")
    for language in LANGUAGES:
        said = unescape(missing(shown, name, language))
        assert strings(language)["heads_no_sounds"] in said and "<code>" not in said


def test_a_folder_with_a_space_is_quoted_in_a_command(small_index: Index, tmp_path: Path) -> None:
    (folder := tmp_path / "two words").mkdir()
    index = Index(shutil.copytree(small_index.root, folder / "index"))
    lines = [line for line in hints(index) if line.endswith("--method mean")]
    assert shlex.split(lines[0].partition(". ")[2]) == ["qkspace", "ablate", str(index.root), "--method", "mean"]


# ---------------------------------------------------------------- distances over few queries


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_nearest_heads_say_first_when_they_were_measured_on_few_queries(
    make_checkpoint: MakeCheckpoint, sentences: list[str], tmp_path: Path, small_index: Index, language: Any
) -> None:
    said: Callable[..., str] = strings(language)["head_near_few"].format
    (tmp_path / "few.txt").write_text("\n".join(sentences[:2]) + "\n", encoding="utf-8")
    few = build(str(make_checkpoint("bert")), tmp_path / "few.txt", out=tmp_path / "index", **SMALL)
    n = behaviour.measured_distances(few).n_queries
    assert 0 < n < behaviour.MIN_QUERIES <= behaviour.measured_distances(small_index).n_queries
    told = unescape(Visitor(few, page="head", language=language).widget("head_near").text)
    assert said(n=n) in told and told.index(said(n=n)) < told.index("<table>")
    many = unescape(Visitor(small_index, page="head", language=language).widget("head_near").text)
    begins = strings(language)["head_near_few"].partition("{")[0][:12]
    assert "<table>" in many and begins in told and begins not in many
