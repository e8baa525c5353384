"""Tests of the page's figures of all heads, without a browser: what the dots show is what the tables say."""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Callable
from dataclasses import fields
from html import unescape
from pathlib import Path
from threading import Event
from types import SimpleNamespace
from typing import Any, get_args

import numpy as np
import pandas as pd
import pytest
from bokeh.models import Div, HoverTool, PlainText
from numpy.typing import NDArray
from test_app import ATTACK, Visitor

from qkspace import store
from qkspace.app import heads_data
from qkspace.app.atlas import atlas_table, order_labels
from qkspace.app.colours import MISSING
from qkspace.app.figures_heads import share_format
from qkspace.app.heads_bars import relation_bars
from qkspace.app.heads_curves import profiles, tree_of
from qkspace.app.heads_look import LABELS, SHAPES, look_of
from qkspace.app.heads_words import rebuild
from qkspace.app.language import LANGUAGES, SUBJECTS, say, strings
from qkspace.app.loop import beside
from qkspace.app.select import Shown
from qkspace.app.state import Figure, State, from_address
from qkspace.cli import _parser
from qkspace.heads import behaviours, distances, kept, relations
from qkspace.heads.labels import COLUMNS, OTHER, labels
from qkspace.index import Index
from qkspace.plan import Parameters
from qkspace.schema import QKSpaceError

FIGURES: tuple[Figure, ...] = get_args(Figure)
VALUES = ("NOUN", ATTACK, "@name {colour}")  # of a column of the corpus, which may hold anything


def _surface(heads: pd.DataFrame) -> pd.DataFrame:
    """Return a table of where heads look, of one class, and of a column whose values are markup; no two values alike."""
    parts = []
    for i, (column, value) in enumerate([("", "previous"), *(("<b>tag", value) for value in VALUES)]):
        attention = (1 + np.arange(len(heads))) / (200 + 40 * i)
        each: dict[str, Any] = {"column": column, "value": value, "share_of_tokens": 0.2, "attention": attention}
        parts.append(heads.assign(**each, attention_by_value=attention / 2, uniform=0.05 + 0.01 * i))
    return pd.concat(parts, ignore_index=True)


def _profile(heads: pd.DataFrame) -> pd.DataFrame:
    offset = np.arange(-64, 65)
    parts = []
    for number, head in enumerate(heads.itertuples(index=False)):
        attention = np.exp(-np.abs(offset - (number % 7 - 3)))
        each = {"layer": head.layer, "head": head.head, "offset": offset, "uniform": 1 / 129}
        parts.append(pd.DataFrame({**each, "attention": attention / attention.sum()}))
    return pd.concat(parts, ignore_index=True)


@pytest.fixture(scope="module")
def bare(small_index: Index, tmp_path_factory: pytest.TempPathFactory) -> Index:
    """The small index as one made before heads were analysed."""
    root = tmp_path_factory.mktemp("bare") / "index"
    shutil.copytree(small_index.root, root)
    manifest = store.read_manifest(root)
    for name in ("surface.parquet", "profile.parquet"):
        (root / name).unlink(missing_ok=True)
        manifest["files"].pop(name, None)
    store.write_json(root / store.MANIFEST, manifest)
    return Index(root)


@pytest.fixture(scope="module")
def analysed(small_index: Index, tmp_path_factory: pytest.TempPathFactory) -> Index:
    """The small index with real analyses, and made-up tables of where heads look and of what matters."""
    root = tmp_path_factory.mktemp("analysed") / "index"
    shutil.copytree(small_index.root, root)
    index = Index(root)
    found: dict[str, Any] = {
        "behaviours": behaviours.analyse(index, repeated=False),
        "distances": distances.analyse(index, max_queries=200),
        "relations": relations.analyse(index, min_count=5, max_sequences=30),
    }
    for name, each in found.items():
        index = kept.keep(index, name, each.tables, head_columns=each.head_columns)
    heads = index.head_table()[["layer", "head"]]
    change = np.linspace(-0.01, 0.08, len(heads))
    of_loss = heads.assign(loss_change=change, low=change - 0.02, high=change + 0.03, measure="masked")
    of_loss.loc[3, ["loss_change", "low", "high"]] = np.nan  # of which nothing is known
    index = kept.keep(index, "ablation", {"ablation": of_loss}, head_columns=["loss_change"])
    _surface(heads).to_parquet(root / "surface.parquet", index=False)
    _profile(heads).to_parquet(root / "profile.parquet", index=False)
    return Index(root)


def opened(index: Index, figure: Figure, **chosen: Any) -> Visitor:
    return Visitor(index, **{"page": "heads", "figure": figure, "layer": 2, "head": 3, **chosen})


def dots(visitor: Visitor, panel: int = 0) -> dict[str, NDArray[Any]]:
    """Return what the dots of a panel show, x and y named so."""
    drawn = visitor.widget(f"heads_panel_{panel}").select_one({"name": "dots"})
    data = {name: np.asarray(values) for name, values in drawn.data_source.data.items()}
    return data | {"x": data[drawn.glyph.x], "y": data[drawn.glyph.y]}


def click(visitor: Visitor, figure: str, renderer: str, row: int) -> None:
    """Click what a renderer draws of a row."""
    visitor.widget(figure).select_one({"name": renderer}).data_source.selected.indices = [row]


def chosen(visitor: Visitor) -> tuple[str, str]:
    return visitor.widget("layer").value, visitor.widget("head").value


def page_is(visitor: Visitor, page: str) -> bool:
    return bool(visitor.widget(f"{page}_view").visible)


# ---------------------------------------------------------------- dots


@pytest.mark.parametrize("weighted", [False, True])
def test_every_head_is_a_dot_at_its_layer_and_value(analysed: Index, weighted: bool) -> None:
    found = dots(opened(analysed, "where", weighted=weighted))
    table = analysed.table("surface").query("column == ''")
    np.testing.assert_array_equal(found["y"], table["attention_by_value" if weighted else "attention"])
    np.testing.assert_array_equal(np.rint(found["x"]), table["layer"])
    for _, of_layer in pd.DataFrame(found["x"]).groupby(table["layer"].to_numpy()):
        assert (np.diff(of_layer[0]) > 0).all(), "heads of a layer stand side by side, by number"


def test_the_lines_are_the_mean_of_a_layer_and_equal_attention(analysed: Index) -> None:
    plot = opened(analysed, "where").widget("heads_panel_0")
    table = analysed.table("surface").query("column == ''")
    mean = plot.select_one({"name": "mean"}).data_source.data
    np.testing.assert_allclose(mean["y"], table.groupby("layer")["attention"].mean())
    np.testing.assert_allclose(plot.select_one({"name": "uniform"}).data_source.data["y"], 0.05)


def test_a_column_of_the_corpus_has_a_panel_a_value(analysed: Index) -> None:
    visitor = opened(analysed, "where", aspect="<b>tag")
    assert [visitor.widget(f"heads_panel_{i}").title.text.text for i in range(len(VALUES))] == list(VALUES)
    surface = analysed.table("surface")
    for i, value in enumerate(VALUES):
        np.testing.assert_array_equal(dots(visitor, i)["y"], surface.loc[surface["value"] == value, "attention"])


def test_an_index_of_before_shows_what_it_has_and_says_so(bare: Index) -> None:
    visitor = opened(bare, "where")
    table = bare.head_table()
    np.testing.assert_allclose(dots(visitor)["y"], table["attention_to_special"])
    for text in (visitor.text(), opened(bare, "profile").text()):
        assert strings("en")["heads_old"] in unescape(text)
        assert rebuild(bare) in unescape(text)


def test_an_old_index_is_made_again_as_it_was_and_beside_it(bare: Index) -> None:
    command = shlex.split(rebuild(bare))
    asked, made = _parser().parse_args(command[1:]), bare.manifest["made_from"]
    assert command[0] == "qkspace" and str(asked.out) == f"{bare.root}-new"
    assert asked.model == made["model"]["source"]
    assert [str(each) for each in asked.corpus] == [each["source"] for each in made["corpus"]]
    for field in fields(Parameters):
        given, stood = getattr(asked, field.name, field.default), made.get(field.name, field.default)
        alike = ",".join(map(str, stood)) if isinstance(stood, list | tuple) else stood
        if isinstance(given, list | tuple):
            given = ",".join(map(str, given))
        assert given == alike, field.name


def test_what_heads_look_at_stands_against_what_they_matter(analysed: Index) -> None:
    found = dots(opened(analysed, "matters", aspect="entropy"))
    table, loss = analysed.head_table(), kept.read(analysed, "ablation")
    np.testing.assert_array_equal(found["x"], table["entropy"])
    np.testing.assert_array_equal(found["y"], loss["loss_change"])
    np.testing.assert_array_equal(found["low0"], loss["low"])
    assert np.isnan(found["y"]).sum() == 1, "what was not measured is not drawn as nothing"


def test_behaviours_show_the_scores_and_their_baselines(analysed: Index) -> None:
    visitor, table = opened(analysed, "behaviours"), kept.read(analysed, "behaviours")
    titles = {strings("en")[f"behaviour_{name}"]: name for name in table if f"behaviour_{name}" in strings("en")}
    panels = [each for each in visitor.doc.models if str(each.name).startswith("heads_panel_")]
    assert {panel.title.text.text for panel in panels} >= {strings("en")["behaviour_positional"]}
    for panel in panels:
        name = titles[panel.title.text.text]
        np.testing.assert_array_equal(dots(visitor, int(panel.name.split("_")[-1]))["y"], table[name])
        if f"{name}_uniform" in table:
            equal = panel.select_one({"name": "uniform"}).data_source.data["y"]
            np.testing.assert_allclose(np.unique(equal), np.unique(table.groupby("layer")[f"{name}_uniform"].mean()))


# ---------------------------------------------------------------- clicks and the chosen head


@pytest.mark.parametrize("figure", ["where", "entropy", "among", "relations", "behaviours", "matters"])
def test_a_click_on_a_dot_opens_its_head(analysed: Index, figure: Figure) -> None:
    visitor = opened(analysed, figure)
    click(visitor, "heads_panel_0", "dots", 41)
    assert chosen(visitor) == ("3", "5")
    assert page_is(visitor, "head") and not page_is(visitor, "heads")


def test_the_ring_is_around_the_chosen_head_and_follows_it(analysed: Index) -> None:
    visitor = opened(analysed, "where")
    for layer, head in ((2, 3), (2, 7)):
        visitor.widget("head").value = str(head)
        here = visitor.widget("heads_panel_0").select_one({"name": "here"})
        row = 12 * layer + head
        assert list(here.data_source.data[here.glyph.y]) == [dots(visitor)["y"][row]]


def test_a_click_on_a_relation_opens_its_best_head(analysed: Index) -> None:
    visitor, bars = opened(analysed, "relations"), relation_bars(analysed, "en")
    assert bars is not None
    row = next(i for i in range(len(bars.name)) if (bars.layer[i], bars.head[i]) != (2, 3))
    click(visitor, "heads_rows_0", "row", row)
    assert chosen(visitor) == (str(bars.layer[row]), str(bars.head[row]))


def test_redundant_pairs_lead_to_their_heads(analysed: Index) -> None:
    pairs = kept.read(analysed, "distances-redundant")
    text = unescape(opened(analysed, "among").text())
    assert len(pairs), "MiniLM has heads that attend alike"
    for each in pairs.itertuples():
        assert f"page=head&layer={each.layer_a}&head={each.head_a}" in text


# ---------------------------------------------------------------- relations, trees, profiles


def test_relations_come_by_what_is_gained_over_the_best_offset(analysed: Index) -> None:
    bars, table = relation_bars(analysed, "en"), kept.read(analysed, "relations-best").set_index("relation")
    assert bars is not None and len(bars.name) == len(table)
    named = [name for name in bars.name if name in table.index]
    assert len(named) > 5
    assert (np.diff(table.loc[named, "gain"]) <= 0).all()
    for name in named:
        i = bars.name.index(name)
        row = table.loc[name]
        assert (bars.value[i], bars.base[i], bars.low[i]) == (row["accuracy"], row["offset_accuracy"], row["low"])
        assert f"L{row['layer']}H{row['head']}" in bars.says[i]


def test_a_relation_shows_every_head_in_its_better_direction(analysed: Index) -> None:
    relation = str(kept.read(analysed, "relations-best")["relation"].iloc[-1])
    found = dots(opened(analysed, "relations", aspect=relation))
    table = (
        kept.read(analysed, "relations-all").query("relation == @relation").set_index(["layer", "head", "direction"])
    )
    chosen_by, reported = (table[table["split"] == split]["accuracy"] for split in ("choose", "report"))
    for i in (0, 17, 40, 71):
        better = chosen_by.loc[i // 12, i % 12].idxmax()
        assert found["y"][i] == reported.loc[i // 12, i % 12, better], "the direction is not chosen by what is reported"


def test_all_relations_together_are_the_score_that_the_atlas_is_sorted_by(analysed: Index) -> None:
    np.testing.assert_allclose(dots(opened(analysed, "relations"))["y"], kept.read(analysed, "relations")["uas"])


def test_the_tree_has_every_head_once_and_joins_at_the_tables_heights(analysed: Index) -> None:
    visitor, joins = opened(analysed, "among"), kept.read(analysed, "distances-tree")
    leaves = visitor.widget("heads_tree").select_one({"name": "dots"}).data_source.data
    assert sorted(leaves["name"]) == sorted(f"L{a}H{b}" for a in range(6) for b in range(12))
    drawn = visitor.widget("heads_tree").select_one({"name": "tree"}).data_source.data
    np.testing.assert_allclose([xs[1] for xs in drawn["xs"]], joins["height"])
    first = joins.iloc[0]  # of two heads, which then stand side by side
    names = [f"L{i // 12}H{i % 12}" for i in (int(first["left"]), int(first["right"]))]
    assert abs(list(leaves["name"]).index(names[0]) - list(leaves["name"]).index(names[1])) == 1


def test_heads_that_were_not_measured_are_no_leaves(analysed: Index) -> None:
    shown, table = Shown(analysed), kept.read(analysed, "distances").copy()
    table.loc[[0, 5], "cluster"] = np.nan
    joins = kept.read(analysed, "distances-tree")
    n = len(table) - 2  # a chain of the others
    left = [0, *range(n, 2 * n - 2)]
    chain = joins.head(n - 1).assign(left=left, right=range(1, n))
    assert sorted(tree_of(shown, table, chain).leaves) == sorted(set(range(len(table))) - {0, 5})


def test_distances_are_measured_for_the_page_where_the_index_has_none(bare: Index) -> None:
    visitor = opened(bare, "among")
    expected = distances.analyse(bare).tables["distances"]
    np.testing.assert_allclose(dots(visitor)["x"], expected["mds_x"])


def test_a_profile_is_that_of_the_chosen_head_and_its_layer(analysed: Index) -> None:
    visitor, found = opened(analysed, "profile"), profiles(Shown(analysed))
    assert found is not None
    plot = visitor.widget("heads_profile")
    for head in (3, 8):
        visitor.widget("head").value = str(head)
        own = plot.select_one({"name": "own"}).data_source.data
        np.testing.assert_array_equal(own["y"], found.attention[24 + head, 1:-1])
        others = plot.select_one({"name": "others"}).data_source.data["name"]
        assert others == [f"L2H{i}" for i in range(12) if i != head]


def test_the_best_head_of_a_gender_is_shown_with_its_direction_and_count(analysed: Index, tmp_path: Path) -> None:
    shutil.copytree(analysed.root, tmp_path / "index")
    ends = {"low": 0.5, "high": 0.8}
    way = ["mention to antecedent", "antecedent to mention"]
    groups, n = ["feminine", "masculine"], [66, 1112]
    best = pd.DataFrame(
        {"gender": groups, "layer": 3, "head": [7, 1], "direction": way, "accuracy": 0.7, "n": n, **ends}
    )
    rules = pd.DataFrame({"baseline": "nearest before", "gender": groups, "n": n, "accuracy": 0.4, **ends})
    of = analysed.head_table()[["layer", "head"]].assign(accuracy=0.3)
    by_kind = {"columns": {"gender": "kind"}}
    tables = {"coreference-gap-best": best, "coreference-gap-baselines": rules, "coreference": of}
    tables |= {"coreference-best": best.rename(**by_kind), "coreference-baselines": rules.rename(**by_kind)}
    index = kept.keep(Index(tmp_path / "index"), "coreference", tables)
    visitor = opened(index, "coreference")
    assert strings("en")["note_coreference"] in unescape(visitor.widget("heads_note").text)
    plots = [visitor.widget(f"heads_rows_{i}") for i in range(4)]
    assert [plot.title.text.text for plot in plots[2:]] == ["GAP: feminine", "GAP: masculine"]
    assert [plot.xaxis.axis_label.text for plot in plots[2:]] == ["accuracy, n = 66", "accuracy, n = 1,112"]
    assert "L3H7: mention → antecedent" in plots[2].y_range.factors
    assert "L3H1: antecedent → mention" in plots[3].y_range.factors
    assert len({plot.min_border_left for plot in plots}) == 1, "all begin at one place"


def test_an_interval_below_nothing_is_told_in_words(analysed: Index) -> None:
    found = dots(opened(analysed, "matters", aspect="entropy"))
    assert "(from -0.03 to 0.02)" in found["tip0"][0], "a dash before a sign would be read as a range"


# ---------------------------------------------------------------- colours


def test_dots_of_one_behaviour_have_one_colour_and_one_shape(analysed: Index) -> None:
    shown = Shown(analysed)
    look, named = look_of(shown, "label", "light", "en"), labels(shown.head_table)["label"].tolist()
    looks = {
        label: {(c, m) for c, m, k in zip(look.colour, look.marker, named, strict=True) if k == label}
        for label in named
    }
    assert all(len(found) == 1 for found in looks.values())
    assert len({next(iter(found)) for found in looks.values()}) == len(looks)
    assert next(iter(looks[OTHER]))[1] == "circle"
    assert f"{strings('en')['label_other']} <b>{named.count(OTHER)}</b>" in look.legend, "what the tables call it"


def test_a_label_looks_the_same_on_every_index(analysed: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    assert set(LABELS) == set(COLUMNS), "a label without a look would be taken for none"
    assert len(set(LABELS.values())) == len(LABELS) and {shape for _, shape in LABELS.values()} <= set(SHAPES)
    shown, looks = Shown(analysed), []
    for labelled in (["sink"] * 70 + ["next"] * 2, ["next"] * 70 + ["sink"] * 2):
        monkeypatch.setattr(heads_data, "labels_of", lambda _shown, labelled=labelled: labelled)
        look = look_of(shown, "label", "dark", "en")
        looks.append(dict(zip(labelled, zip(look.colour, look.marker, strict=True), strict=True)))
    assert looks[0] == looks[1]


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_a_statistic_runs_along_a_scale_and_what_is_unknown_is_grey(analysed: Index, theme: Any) -> None:
    look = look_of(Shown(analysed), "loss_change", theme, "en")
    assert [i for i, colour in enumerate(look.colour) if colour == MISSING[theme]] == [3]
    assert look.colour[0] != look.colour[-1]


def test_every_choice_of_colour_colours_every_head_in_every_language(analysed: Index) -> None:
    shown = Shown(analysed)
    for by, name in heads_data.colour_choices(shown, "ja").items():
        look = look_of(shown, by, "dark", "ja")
        assert len(look.colour) == len(look.said) == 72
        assert name in unescape(look.legend)


# ---------------------------------------------------------------- choices and addresses


def test_a_view_is_made_when_it_is_first_opened(analysed: Index) -> None:
    visitor = Visitor(analysed)
    assert visitor.doc.get_model_by_name("heads_view") is None
    visitor.widget("pages").active = 2
    assert page_is(visitor, "heads")


def test_another_figure_begins_with_its_own_aspect(analysed: Index) -> None:
    visitor = opened(analysed, "where", aspect="<b>tag", by="entropy")
    visitor.widget("figure").active = FIGURES.index("relations")
    assert (visitor.widget("aspect").value, visitor.widget("by").value) == ("", "entropy")
    assert visitor.doc.get_model_by_name("heads_rows_0") is not None


def test_an_address_opens_the_figure_that_it_names(analysed: Index) -> None:
    asked = {"page": b"heads", "figure": b"matters", "aspect": b"entropy", "by": b"layer"}
    state = from_address({name: [value] for name, value in asked.items()}, State(), Shown(analysed))
    assert (state.figure, state.aspect, state.by) == ("matters", "entropy", "layer")


@pytest.mark.parametrize(
    "asked", [{"figure": b"which"}, {"by": ATTACK.encode()}, {"figure": b"where", "aspect": b"no such column"}]
)
def test_an_address_that_asks_for_what_is_not_there_is_refused(analysed: Index, asked: dict[str, bytes]) -> None:
    with pytest.raises(QKSpaceError, match="The address asks for"):
        from_address({name: [value] for name, value in asked.items()}, State(), Shown(analysed))


def test_the_atlas_can_be_sorted_by_what_was_found(analysed: Index) -> None:
    names = order_labels(atlas_table(Shown(analysed), State()))
    assert {"uas", "cluster", "nearest_distance", "loss_change", "positional"} <= set(names)
    state = State(page="atlas", order="-loss_change")
    assert [value for value, _ in Visitor(analysed, page=state.page, order=state.order).widget("order").options][
        1:
    ] == list(names)


# ---------------------------------------------------------------- what is said


@pytest.mark.parametrize(
    ("figure", "command"),
    [
        ("relations", "relations"),
        ("coreference", "probes"),
        ("behaviours", "behaviours"),
        ("matters", "qkspace ablate"),
    ],
)
def test_what_was_not_measured_is_said_with_its_command(bare: Index, figure: Figure, command: str) -> None:
    text = unescape(opened(bare, figure).text())
    assert (command if " " in command else f"qkspace heads {bare.root} --only {command}") in text


def test_a_corpus_without_trees_is_told_so(decoder_index: Index) -> None:
    text = Visitor(decoder_index, page="heads", figure="relations").text()
    assert strings("en")["heads_no_trees"] in unescape(text)
    assert "--only relations" not in text, "the command would only fail"
    assert strings("en")["note_relations"] not in unescape(text), "there is nothing that this would explain"
    visitor = Visitor(decoder_index, page="heads", figure="relations")
    assert not visitor.widget("heads_legend").visible
    visitor.widget("figure").active = FIGURES.index("entropy")
    assert visitor.widget("heads_legend").visible


def test_the_map_says_how_faithful_it_is(analysed: Index) -> None:
    attrs = kept.read(analysed, "distances").attrs
    for aspect in ("mds", "umap"):
        said = opened(analysed, "among", aspect="" if aspect == "mds" else aspect).widget("heads_note").text
        assert f"correlation of {attrs[f'{aspect}_correlation']:.2f}" in said
        assert (f"Stress {attrs['mds_stress']:.2f}" in said) == (aspect == "mds")
        assert f"silhouette of {attrs['silhouette']:.2f}" in said


@pytest.mark.parametrize("figure", ["among", "relations", "behaviours"])
def test_a_figure_tells_how_it_was_measured(analysed: Index, figure: Figure) -> None:
    table = {"among": "distances", "relations": "relations-best"}.get(figure, figure)
    attrs = kept.read(analysed, table).attrs
    said = " ".join(say("en", name, **values) for name, values in attrs.get("told", ())) or attrs["note"]
    assert said in unescape(opened(analysed, figure).widget("heads_note").text)


@pytest.mark.parametrize("language", LANGUAGES)
def test_what_attention_proves_is_said_where_it_matters(bare: Index, analysed: Index, language: Any) -> None:
    for index in (bare, analysed):
        assert strings(language)["matters_proves"] in unescape(opened(index, "matters", language=language).text())


def test_an_output_that_moves_is_not_called_a_loss(analysed: Index, tmp_path: Path) -> None:
    shutil.copytree(analysed.root, tmp_path / "index")
    moved = kept.read(analysed, "ablation").assign(measure="output")
    index = kept.keep(Index(tmp_path / "index"), "ablation", {"ablation": moved}, head_columns=["loss_change"])
    visitor = opened(index, "matters")
    assert strings("en")["note_matters_output"] in unescape(visitor.widget("heads_note").text)
    assert visitor.widget("heads_panel_0").yaxis.axis_label.text == strings("en")["axis_change_output"]


def test_values_beyond_those_that_are_drawn_are_counted(analysed: Index, tmp_path: Path) -> None:
    shutil.copytree(analysed.root, tmp_path / "index")
    heads = analysed.head_table()[["layer", "head"]]
    rare = [  # the commonest comes last in the table
        heads.assign(column="pos", value=f"v{i}", share_of_tokens=i / 1e4, attention=0.01 + i / 1e4, uniform=i / 1e4)
        for i in range(1, heads_data.MOST_VALUES + 6)
    ]
    classes = analysed.table("surface").query("column == ''")
    pd.concat([classes, *rare], ignore_index=True).to_parquet(tmp_path / "index" / "surface.parquet", index=False)
    visitor = opened(Index(tmp_path / "index"), "where", aspect="pos")
    said = visitor.widget("heads_note").text
    assert say("en", "note_values", shown=heads_data.MOST_VALUES, n=heads_data.MOST_VALUES + 5) in said
    assert visitor.widget("heads_panel_0").title.text.text == f"v{heads_data.MOST_VALUES + 5}"
    assert visitor.doc.get_model_by_name(f"heads_panel_{heads_data.MOST_VALUES}") is None


def test_what_no_head_can_attend_to_has_no_panel(analysed: Index, tmp_path: Path) -> None:
    shutil.copytree(analysed.root, tmp_path / "index")
    classes = analysed.table("surface").query("column == ''")
    ahead = classes.assign(value="next", attention=0.0, attention_by_value=0.0, uniform=0.0)
    pd.concat([ahead, classes]).to_parquet(tmp_path / "index" / "surface.parquet", index=False)
    visitor = opened(Index(tmp_path / "index"), "where")
    assert visitor.widget("heads_panel_0").title.text.text == strings("en")["stat_attention_to_previous"]
    assert visitor.doc.get_model_by_name("heads_panel_1") is None


@pytest.mark.parametrize("weighted", [False, True])
def test_a_table_without_values_is_drawn_as_far_as_it_goes(analysed: Index, tmp_path: Path, weighted: bool) -> None:
    shutil.copytree(analysed.root, tmp_path / "index")
    known = analysed.table("surface").query("column == ''").drop(columns=["attention_by_value", "uniform"])
    known.to_parquet(tmp_path / "index" / "surface.parquet", index=False)
    visitor = opened(Index(tmp_path / "index"), "where", weighted=weighted)
    assert not visitor.widget("weighted").visible, "there is nothing to weigh by"
    np.testing.assert_array_equal(dots(visitor)["y"], known["attention"])
    assert visitor.widget("heads_panel_0").select_one({"name": "uniform"}) is None


@pytest.mark.parametrize("high", [1.0, 0.3, 0.11, 0.06, 0.02, 0.0031, 0.0008, 0.0002])
def test_no_two_ticks_of_a_panel_read_alike(high: float) -> None:
    decimals = len(share_format(high).removesuffix(" %").partition(".")[2])
    step = 10 ** np.floor(np.log10(high / 4))  # a round step, or twice or five times as much: Bokeh's
    step *= next(times for times in (1, 2, 5, 10) if high / (step * times) <= 5)
    ticks = np.arange(0, high, step)
    assert len({f"{100 * tick:.{decimals}f}" for tick in ticks}) == len(ticks) > 1


def test_work_of_a_minute_lets_other_visitors_go_on() -> None:
    class Page:
        session_context = SimpleNamespace(destroyed=False)

        def add_next_tick_callback(self, callback: Callable[[], None]) -> None:
            callback()

    page: Any = Page()
    is_over, told = Event(), [Event(), Event()]
    beside(page, lambda: str(is_over.wait(60)), lambda _: told[0].set(), takes_long=True)
    try:
        beside(page, str, lambda _: told[1].set())
        assert told[1].wait(30) and not told[0].is_set()
    finally:
        is_over.set()
    assert told[0].wait(30)


def test_what_is_for_what_is_said_though_the_tab_is_opened_later(analysed: Index) -> None:
    visitor = Visitor(analysed)
    visitor.widget("pages").active = 2
    for name in ("figure", "by", "aspect", "weighted"):
        assert visitor.widget(name).html_attributes["title"] == strings("en")[f"{name}_tip"]


def test_what_the_corpus_says_stays_text(analysed: Index) -> None:
    visitor = opened(analysed, "where", aspect="<b>tag")
    for text in (div.text for div in visitor.doc.select({"type": Div})):
        assert "<img" not in text and "<b>tag" not in text
    for hover in visitor.doc.select({"type": HoverTool}):
        assert isinstance(hover.tooltips, str)
        assert not any(value in hover.tooltips for value in (*VALUES[1:], "<b>tag")), (
            "a place in a template would be filled in"
        )
    assert isinstance(visitor.widget("heads_panel_1").title.text, PlainText), "no formula either"


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("figure", FIGURES)
def test_every_figure_is_explained_in_every_language(analysed: Index, figure: Figure, language: Any) -> None:
    visitor = opened(analysed, figure, language=language, theme="dark")
    assert strings(language)[f"note_{figure}"] in unescape(visitor.widget("heads_note").text)
    visitor.widget("theme")._trigger_event(_clicked(visitor.widget("theme")))
    assert visitor.widget("heads_body").children


def _clicked(button: Any) -> Any:
    from bokeh.events import ButtonClick

    return ButtonClick(button)


def test_every_label_has_a_name_in_every_language() -> None:
    for language in LANGUAGES:
        assert {f"label_{name}" for name in COLUMNS} <= set(strings(language))
    assert all(strings(f"en+{subject}")["label_previous"] for subject in SUBJECTS)
