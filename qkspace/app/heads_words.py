"""Heads' words: what the tab of all heads says beside its figures, as HTML.

In: an index with its tables of heads. Out: how a figure was measured, how good a map is, pairs of heads that are alike, and by
which command what is not there is made. Knows no widget and draws nothing.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from dataclasses import fields
from html import escape
from typing import TYPE_CHECKING

import pandas as pd

from qkspace.app.heads_data import ABLATIONS, MOST_VALUES, table_of, values_of
from qkspace.app.language import say, strings
from qkspace.app.lists import go
from qkspace.heads.analyse import ANALYSES, command

if TYPE_CHECKING:
    from qkspace.app.select import Shown
    from qkspace.app.state import Figure, Language
    from qkspace.index import Index

MOST_PAIRS = 60  # of redundant heads that are listed
TOLD_BY: dict[str, tuple[str, ...]] = {  # tables whose notes say how a figure was measured
    "relations": ("relations-best",),
    "coreference": ("coreference-baselines", "probes-scores"),
    "behaviours": ("behaviours",),
    "matters": tuple(ABLATIONS),
}
SHOWS = {"relations": ("relations",), "coreference": ("coreference", "probes")}  # analyses that not every corpus allows


def note(shown: Shown, figure: Figure, aspect: str, language: Language, distances: pd.DataFrame | None = None) -> str:
    """Return what a figure shows, and how it was measured; distances: the table of how far heads are apart, if it is drawn."""
    if figure in SHOWS and all(lacks(shown, name) for name in SHOWS[figure]):
        return ""  # what stands in the figure's place says why
    if figure == "matters":
        parts = _matters(shown, language)
    else:
        parts = [say(language, "note_profile_heat" if figure == "profile" and aspect else f"note_{figure}")]
    if figure != "profile":  # which says so itself
        parts.append(say(language, "note_click"))
    if figure == "where" and (n := values_of(shown, aspect)) > MOST_VALUES:
        parts.append(say(language, "note_values", shown=MOST_VALUES, n=n))
    tables = [distances] if figure == "among" else [table_of(shown.index, each) for each in TOLD_BY.get(figure, ())]
    how = [_how(table, language) for table in tables if table is not None and "note" in table.attrs]
    space = "" if language.startswith("ja") else " "
    told = f'<p class="small muted">{escape(space.join(parts))}</p>'
    if distances is not None and figure == "among" and (good := space.join(quality(distances, aspect, language))):
        told += f'<p class="small muted">{escape(good)}</p>'
    if how:
        is_foreign = any('lang="en"' in each for each in how)
        summary = escape(say(language, "heads_how" if is_foreign else "heads_how_told"))
        told += f"<details><summary>{summary}</summary>{''.join(how)}</details>"
    return told


def _how(table: pd.DataFrame, language: Language) -> str:
    """Say how a table was measured: by sentences of the page with its numbers, or where it names none, by its English note."""
    try:
        told = [say(language, name, **values) for name, values in table.attrs.get("told", [])]
    except KeyError:  # sentences of another version
        told = []
    if not told:
        return f'<p class="small" lang="en">{escape(str(table.attrs["note"]))}</p>'
    space = "" if language.startswith("ja") else " "
    return f'<p class="small">{escape(space.join(told))}</p>'


def _matters(shown: Shown, language: Language) -> list[str]:
    """Say what stands up in the figure of what matters, and how its panels differ."""
    tables = [table for name in ABLATIONS if (table := table_of(shown.index, name)) is not None]
    measures = {str(table["measure"].iloc[0]) for table in tables} or {""}
    kinds = sorted({"note_matters_output" if measure == "output" else "note_matters" for measure in measures})
    both = ["note_matters_both"] if len(tables) > len(measures) else []  # else each has a scale of its own
    made = shown.index.manifest.get("analyses", {})
    asked = [made.get(name, {}).get("parameters", {}) for name in ABLATIONS if name in made]
    samples = {tuple(each.get(of) for of in ("n_sequences", "n_tokens", "seed", "predict")) for each in asked}
    unlike = ["note_matters_unlike"] if len(samples) > 1 else []
    return [say(language, name) for name in (*kinds, *both, *unlike)]


def quality(distances: pd.DataFrame, aspect: str, language: Language) -> list[str]:
    """Say how well a map of heads shows their distances, and how clearly clusters lie apart."""
    known = {name: value for name, value in distances.attrs.items() if value is not None}
    parts = []
    method = aspect or "mds"
    if f"{method}_correlation" in known:
        parts.append(say(language, "map_correlation", value=f"{known[f'{method}_correlation']:.2f}"))
    if method == "mds" and "mds_stress" in known:
        parts.append(say(language, "map_stress", value=f"{known['mds_stress']:.2f}"))
    if {"silhouette", "n_clusters"} <= known.keys():
        clear = f"{known['silhouette']:.2f}"
        parts.append(say(language, "map_clusters", n=int(known["n_clusters"]), value=clear))
    return parts


def pairs(table: pd.DataFrame, language: Language) -> str:
    """List heads that attend so much alike that one of them says little new."""
    lines = []
    for each in table.head(MOST_PAIRS).to_dict("records"):
        names = [
            f'<button class="link" {go(page="head", layer=int(each[f"layer_{i}"]), head=int(each[f"head_{i}"]))}>'
            f"L{int(each[f'layer_{i}'])}H{int(each[f'head_{i}'])}</button>"
            for i in "ab"
        ]
        error = f" ± {each['error']:.3f}" if pd.notna(each.get("error")) else ""
        lines.append(f'<tr><td>{" · ".join(names)}</td><td class="number">{each["distance"]:.3f}{error}</td></tr>')
    more = len(table) - len(lines)
    rest = f'<p class="small muted">{escape(say(language, "pairs_more", n=more))}</p>' if more > 0 else ""
    none = f'<p class="muted">{escape(say(language, "pairs_none"))}</p>'
    listed = f"<table>{''.join(lines)}</table>" if lines else none
    told = f'<p class="small muted">{escape(say(language, "pairs_note"))}</p>'
    return f"<h2>{escape(say(language, 'pairs'))}</h2>{told}{listed}{rest}"


# ---------------------------------------------------------------- what is not there


def measuring(shown: Shown, trouble: str, language: Language) -> str:
    """Say that distances are being measured, or why they cannot be."""
    says = escape(trouble or say(language, "heads_measuring"))
    return f'<p class="muted">{says}</p><p><code>{escape(command(shown.index, "distances"))}</code></p>'


def old(shown: Shown, language: Language) -> str:
    """Say that an index was made before all was counted, and how it is made again."""
    again = escape(rebuild(shown.index))
    return f'<p class="small">{escape(say(language, "heads_old"))}</p><p class="small"><code>{again}</code></p>'


def lacks(shown: Shown, name: str) -> str:
    """Return the name of the sentence why a corpus does not allow an analysis; "" where it does."""
    if not ANALYSES[name].can(shown.index):
        return ""
    if name in ABLATIONS:
        return "heads_no_sounds"
    if shown.modality != "text":
        return "heads_no_words"
    if any(layer.crosses for layer in shown.index.layers):
        return "heads_crosses"
    return "heads_no_chains" if name == "coreference" else "heads_no_trees"


def missing(shown: Shown, name: str, language: Language) -> str:
    """Say why an analysis is not there: the corpus does not allow it, or it is still to be made, and how."""
    what = escape(say(language, f"analysis_{name}"))

    def because(reason: str) -> str:
        return f'<p class="muted">{what}: {escape(say(language, reason))}</p>'

    if reason := lacks(shown, name):
        return because(reason)
    return f"{because('heads_make')}<p><code>{escape(command(shown.index, name))}</code></p>"


def rebuild(index: Index) -> str:
    """Return the command that makes an index like this one anew, beside it: what stands in its folder is left as it is."""
    made = index.manifest["made_from"]
    parts = ["qkspace", "build", "--model", made["model"]["source"], "--corpus"]
    parts += [source["source"] for source in made["corpus"]]
    parts += ["--out", f"{index.root}-new", *_options(made)]
    return shlex.join(parts)


def _options(made: dict[str, object]) -> Iterator[str]:
    """Yield the options of `qkspace build` that an index was made with, where they are not the usual ones."""
    from qkspace.plan import Parameters

    for field in fields(Parameters):
        value = made.get(field.name, field.default)
        value = tuple(value) if isinstance(value, list) else value
        if value == field.default:
            continue
        yield f"--{field.name.replace('_', '-')}"
        if isinstance(value, tuple):
            yield ",".join(map(str, value))
        elif value is not True:
            yield str(value)


def tip(name: str, language: Language) -> str:
    """Return what a control is for; "" where nothing is said of it."""
    return strings(language).get(f"{name}_tip", "")
