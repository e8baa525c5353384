"""Tests of what all analyses of heads share: words, kept tables, the command, the report and the files."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from qkspace import store
from qkspace.cli import main
from qkspace.heads import analyse, kept
from qkspace.heads.found import Found
from qkspace.heads.words import layer_attention, pooled, word_attention, words_of
from qkspace.index import Index
from qkspace.schema import QKSpaceError


@pytest.fixture
def index(small_index: Index, tmp_path: Path) -> Index:
    """A copy of the small index, to be written to."""
    shutil.copytree(small_index.root, tmp_path / "index")
    return Index(tmp_path / "index")


def of_heads(index: Index, **columns: Any) -> pd.DataFrame:
    """Return a table of one row a head."""
    return index.head_table()[["layer", "head"]].assign(**columns)


# ---------------------------------------------------------------------------------------------- words


@pytest.mark.parametrize("rows", ["mean", "first"])
@pytest.mark.parametrize("which", ["small_index", "decoder_index"])
def test_words_are_sums_and_means_of_pieces(which: str, rows: Any, request: pytest.FixtureRequest) -> None:
    """Rows sum to 1, and each weight is what a loop over the pieces of two words gives."""
    index: Index = request.getfixturevalue(which)
    places = [p for p in range(len(index.sequences)) if (np.diff(words_of(index, p).unit) == 0).any()]
    assert places  # words of several pieces
    for place in places[:5]:
        words = words_of(index, place)
        tokens, attention = layer_attention(index, 1, place), word_attention(index, 1, words, rows=rows)
        np.testing.assert_allclose(attention.sum(axis=-1), 1, atol=1e-5)
        for one in range(words.n_units):
            for other in range(words.n_units):
                asks, answers = np.flatnonzero(words.unit == one), np.flatnonzero(words.unit == other)
                asks = asks if rows == "mean" else asks[:1]
                expected = tokens[:, asks][:, :, answers].sum(axis=-1).mean(axis=-1)
                np.testing.assert_allclose(attention[:, one, other], expected, atol=1e-6)
        np.testing.assert_array_equal(attention, pooled(tokens, words, rows=rows))
        texts = index.tokens["word_text"].iloc[words.row[words.words]]
        given = index.tokens.iloc[words.rows].query("word >= 0").drop_duplicates("word")["word_text"]
        assert texts.tolist() == given.tolist()


# ---------------------------------------------------------------------------------------------- kept tables


def test_kept_tables_come_back(index: Index) -> None:
    """A table comes back with its note, is in the manifest, and its columns join the table of heads."""
    table = of_heads(index, uas=np.linspace(0, 1, 72))
    table.attrs["note"] = "what it is"
    best = pd.DataFrame({"relation": ["obj", "<script>"], "accuracy": [0.5, np.nan]})
    asked = {"offsets": (1, np.int64(2)), "limit": float("nan")}
    found = kept.keep(
        index, "relations", {"relations": table, "relations-best": best}, head_columns=["uas"], parameters=asked
    )
    assert store.verify(found.root) == []
    pd.testing.assert_frame_equal(kept.read(found, "relations"), table)
    assert kept.read(found, "relations").attrs == {"note": "what it is"}
    pd.testing.assert_frame_equal(found.analysis("relations-best"), best)
    np.testing.assert_array_equal(found.head_table()["uas"], table["uas"])
    entry = json.loads((found.root / store.MANIFEST).read_text())["analyses"]["relations"]
    assert entry["parameters"] == {"offsets": [1, 2], "limit": None}
    assert not (found.root / store.WORK).exists()


def test_kept_again_takes_the_place(index: Index) -> None:
    """A second run leaves nothing of the first; an index opened before must be opened again only to read."""
    first = {name: of_heads(index, uas=0.1) for name in ("relations", "relations-old")}
    kept.keep(index, "relations", first, head_columns=["uas"])
    found = kept.keep(index, "relations", {"relations": of_heads(index, uas=0.9)}, head_columns=["uas"])
    assert kept.tables(found) == ["relations"] and store.verify(found.root) == []
    assert (found.head_table()["uas"] == 0.9).all()
    with pytest.raises(QKSpaceError, match="There is no threshold prev; there are "):
        found.labels(prev=0.4)
    with pytest.raises(QKSpaceError, match=r"holds no table 'relations-old'.*it holds relations.*--only relations"):
        kept.read(found, "relations-old")


def test_killed_while_keeping(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    """An index whose analysis was being replaced when the run was killed is what it was without that analysis."""
    kept.keep(index, "relations", {"relations": of_heads(index, uas=0.1)}, head_columns=["uas"])

    def killed(*_args: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(store, "file_record", killed)
    with pytest.raises(KeyboardInterrupt):
        kept.keep(index, "relations", {"relations": of_heads(index, uas=0.9)}, head_columns=["uas"])
    monkeypatch.undo()
    found = Index(index.root)
    assert kept.tables(found) == [] and "uas" not in found.head_table()
    found = kept.keep(found, "relations", {"relations": of_heads(index, uas=0.9)}, head_columns=["uas"])
    assert store.verify(found.root) == []


def test_tables_of_other_names_are_refused(index: Index) -> None:
    """A table must be called after its analysis."""
    with pytest.raises(QKSpaceError, match="called relations or relations-"):
        kept.keep(index, "relations", {"other": of_heads(index)})


# ---------------------------------------------------------------------------------------------- running analyses


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Analyses that note what they were asked for."""
    calls: list[dict[str, Any]] = []

    def fake(name: str) -> Any:
        def analyse(index: Index, *, console: object, **options: Any) -> Found:
            calls.append({"name": name, **options})
            return Found({name: of_heads(index, **{name: len(calls)})}, (name,), {"n": len(calls)})

        return analyse

    class Module:
        def __init__(self, name: str) -> None:
            self.analyse = fake(name.rpartition(".")[2])

    monkeypatch.setattr(analyse, "import_module", Module)
    return calls


def test_default_analyses(index: Index, measured: list[dict[str, Any]]) -> None:
    """Without names all are run that the corpus allows, each with the options that it takes; done ones are not run again."""
    found = analyse.run(index, seed=3, choose="parsed.conllu")
    assert [call["name"] for call in measured] == ["behaviours", "distances", "relations", "coreference"]
    assert measured[1] == {"name": "distances", "seed": 3}
    assert measured[2] == {"name": "relations", "seed": 3, "choose": "parsed.conllu"}
    analyse.run(found, seed=3, choose="parsed.conllu")
    assert len(measured) == 4
    analyse.run(found, ["distances"], seed=4)
    assert len(measured) == 5
    found = analyse.run(Index(found.root), ["distances"], seed=4, overwrite=True)
    assert len(measured) == 6 and (found.head_table()["distances"] == 6).all()


def test_what_cannot_be_analysed(
    decoder_index: Index, index: Index, measured: list[dict[str, Any]], tmp_path: Path
) -> None:
    """An index without trees is not probed for relations: refused where asked for, left out with a word where not."""
    with pytest.raises(
        QKSpaceError, match="cannot be analysed for relations: its corpus has no column head and no column deprel"
    ):
        analyse.run(decoder_index, ["relations"])
    with pytest.raises(QKSpaceError, match="There is no analysis astrology; there are behaviours, distances"):
        analyse.run(index, ["astrology"])
    with pytest.raises(QKSpaceError, match="distances: no such option as colour; there are max_queries, seed"):
        analyse.run(index, ["distances"], colour="red")
    with pytest.raises(QKSpaceError, match="vectors is an option of probes, which is not asked for: --only probes"):
        analyse.run(index, vectors="glove.txt")
    assert measured == []


def test_other_options_take_the_place_and_say_so(index: Index, measured: list[dict[str, Any]], capsys: Any) -> None:
    """What was made with options of its own stays in a run of all, gives way where it is asked for, and can be taken out."""
    assert main(["heads", str(index.root), "--only", "relations", "--choose", "parsed.conllu"]) == 0
    assert main(["heads", str(index.root)]) == 0
    assert "relations: there already, with options of its own (choose parsed.conllu)" in " ".join(
        capsys.readouterr().err.split()
    )
    assert [call["name"] for call in measured] == ["relations", "behaviours", "distances", "coreference"]
    assert main(["heads", str(index.root), "--only", "relations", "--seed", "2"]) == 0
    assert "takes the place of the one with other options (choose parsed.conllu)" in " ".join(
        capsys.readouterr().err.split()
    )
    assert measured[-1] == {"name": "relations", "seed": 2}
    assert main(["heads", str(index.root), "--remove", "relations,distances"]) == 0
    found = Index(index.root)
    assert kept.names(found) == ["behaviours", "coreference"] and store.verify(found.root) == []
    assert main(["heads", str(index.root), "--remove", "relations"]) == 1
    assert "holds no analysis 'relations'; it holds behaviours, coreference" in " ".join(
        capsys.readouterr().err.split()
    )


def test_a_table_is_never_cut(index: Index, capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a narrow terminal a table is wider than it, and whole."""
    monkeypatch.setenv("COLUMNS", "40")
    assert main(["report", str(index.root), "--heads"]) == 0
    said = capsys.readouterr().out
    assert "…" not in said and "punct." in said
    assert all(f"L{layer}H{head} " in said for layer in range(6) for head in range(12))


def test_one_that_fails_does_not_end_the_others(index: Index, measured: list[dict[str, Any]], monkeypatch: Any) -> None:
    """Where all are run, one that cannot be made is left out with its reason; where it is asked for, it is refused."""
    module = analyse.import_module

    def import_module(name: str) -> Any:
        found = module(name)
        if name.endswith("relations"):
            found.analyse = failing
        return found

    def failing(*_args: object, **_options: object) -> Found:
        raise QKSpaceError("too little text")

    monkeypatch.setattr(analyse, "import_module", import_module)
    found = analyse.run(index)
    assert kept.names(found) == ["behaviours", "distances", "coreference"]
    with pytest.raises(QKSpaceError, match="too little text"):
        analyse.run(found, ["relations"])


def test_a_table_that_cannot_be_written_loses_nothing(index: Index) -> None:
    """Tables are made ready before those of an earlier run go; a column of another analysis is refused."""
    kept.keep(index, "relations", {"relations": of_heads(index, uas=0.1)}, head_columns=["uas"])
    odd = pd.DataFrame({"what": [1, "two", object()]})
    with pytest.raises(Exception, match=r"Could not convert|Conversion|Expected"):
        kept.keep(
            index, "relations", {"relations": of_heads(index, uas=0.9), "relations-odd": odd}, head_columns=["uas"]
        )
    found = Index(index.root)
    assert (found.head_table()["uas"] == 0.1).all() and store.verify(found.root) == []
    with pytest.raises(QKSpaceError, match="Heads have uas from relations already"):
        kept.keep(found, "probes", {"probes": of_heads(index, uas=0.5)}, head_columns=["uas"])


def test_command_and_report(index: Index, measured: list[dict[str, Any]], tmp_path: Path, capsys: Any) -> None:
    """`qkspace heads` keeps what it finds; `qkspace report --heads` prints it, names what is missing, and writes all tables."""
    assert main(["heads", str(index.root), "--only", "relations,distances", "--seed", "1"]) == 0
    assert [call["name"] for call in measured] == ["distances", "relations"]
    capsys.readouterr()
    assert main(["report", str(index.root), "--heads", "--tables", str(tmp_path / "tables"), "--csv"]) == 0
    said = capsys.readouterr().out
    assert "L5H11" in said and "Not measured yet: coreference" in said and "qkspace ablate" in said
    files = {path.name for path in (tmp_path / "tables").iterdir()}
    assert files >= {"heads.csv", "labels.csv", "surface.csv", "profile.csv", "relations.csv", "distances.csv"}
    heads = pd.read_csv(tmp_path / "tables" / "heads.csv")
    assert len(heads) == 72 and (heads["relations"] == 2).all()


def test_ablate_is_a_command(index: Index, measured: list[dict[str, Any]]) -> None:
    """`qkspace ablate` is the analysis of that name, with the options that were given."""
    assert main(["ablate", str(index.root), "--max-tokens", "500"]) == 0
    assert measured == [{"name": "ablation", "method": "zero", "measure": "auto", "max_tokens": 500}]
