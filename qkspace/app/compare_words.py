"""Compare words: what the page of a comparison says, as small pieces of HTML.

In: a `CompareScene` and tables of the comparison. Out: HTML in the visitor's language, in which every text of the corpus and
every name of a checkpoint is escaped. A button's data-go is what a click on it shows (`qkspace.app.compare_state`).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import numpy as np

from qkspace.app import compare_select as chosen
from qkspace.app import drift
from qkspace.app.compare_state import CompareScene, CompareState
from qkspace.app.language import say, strings
from qkspace.app.lists import go
from qkspace.app.state import Language
from qkspace.app.words import plain, verdict_of

if TYPE_CHECKING:
    import pandas as pd

    from qkspace.comparison.reader import Comparison

Row = Mapping[Any, Any]  # of a table, by column
TABLE_HEADS = 50  # listed of all heads
N_CHANGES = 4  # of the statistics of a head that are told in words
N_LINKS = 5  # of each status that are listed
N_CLASSES = 12
STATUSES = ("appeared", "vanished", "grew", "shrank")
COLUMNS = (  # of the table of heads, where the comparison knows them
    "entropy_change",
    "attention_to_sink_change",
    "attention_to_previous_change",
    "attention_to_next_change",
    "product_change",
    "logit_change",
    "query_cka",
    "key_cka",
)
SHOWN_TEXT = 140  # characters of a sequence
TOKEN_TEXT = 24  # of a token
IN_NATS = ("js", "js_content", "value_js", "match_cost")
RAISED = str.maketrans("-0123456789", "\u207b\u2070\u00b9\u00b2\u00b3\u2074\u2075\u2076\u2077\u2078\u2079")


# ---------------------------------------------------------------- names and numbers


def head_name(layer: int, head: int) -> str:
    """Return the short name of a head, such as L5H3."""
    return f"L{layer}H{head}"


def statistic_name(language: Language, name: str) -> str:
    """Return what a statistic of a head is called."""
    return strings(language).get(f"stat_{name}", name.replace("_", " "))


def measure_name(language: Language, measure: str) -> str:
    """Return what a measure of change is called."""
    if drift.is_signed(measure):
        name = statistic_name(language, measure.removesuffix(drift.SIGNED))
        return say(language, "compare_measure_change", name=name)
    return say(language, f"compare_measure_{measure}")


def number(measure: str, value: float, *, signed: bool = False) -> str:
    """Return a value of a measure or statistic with as many digits as say something; shares are in percent."""
    if not math.isfinite(value):
        return "\u2013"
    name, sign = measure.removesuffix(drift.SIGNED), "+" if signed else ""
    if is_share(name):
        return _rounded(100 * value, 1, sign)
    if measure in ("product_change", "logit_change"):
        return f"{100 * value:.0f} %"
    small = measure in (*IN_NATS, *drift.ALIKE)
    text = _rounded(value, 3 if small else 2, sign)
    if value and measure in IN_NATS and not float(text):
        digits, power = f"{value:.0e}".split("e")
        return f"{digits}\u00b710{str(int(power)).translate(RAISED)}"
    return text


def measured(language: Language, measure: str, value: float) -> str:
    """Return a value of a measure of change with its sign, where it has one, and its unit."""
    text, name = number(measure, value, signed=drift.is_signed(measure)), measure.removesuffix(drift.SIGNED)
    if not math.isfinite(value):
        return text
    if measure in IN_NATS or name.startswith("entropy"):
        return say(language, "compare_in_nats", value=text)
    if is_share(name):
        return say(language, "compare_in_points", value=text)
    return say(language, "compare_in_tokens", value=text) if name == "attention_distance" else text


def share(value: float) -> str:
    """Return a share in percent."""
    return f"{100 * value:.1f} %" if 0 < value < 0.0995 else f"{100 * value:.0f} %"


def _rounded(value: float, digits: int, sign: str) -> str:
    """Return a number with some digits; 0 has no sign."""
    return f"{round(value, digits) + 0.0:{sign if round(value, digits) else ''}.{digits}f}"


def is_share(statistic: str) -> bool:
    """Tell whether a statistic is a share of attention."""
    return "attention_" in statistic and statistic != "attention_distance"


def interval(row: Row, measure: str) -> str:
    """Return the ends of the interval of a measure, where it has one."""
    low, high = (float(row.get(f"{measure}_{end}", math.nan)) for end in ("low", "high"))
    return "" if math.isnan(low) else f"[{number(measure, low)}, {number(measure, high)}]"


def change_words(row: Row, statistic: str, language: Language) -> str:
    """Say how a statistic of a head changed, as the end of a sentence about it."""
    change = float(row[f"{statistic}{drift.SIGNED}"])
    way = "more" if change > 0 else "less"
    name = statistic_name(language, statistic)
    kind = f"compare_{statistic}" if f"compare_{statistic}_{way}" in strings(language) else "compare_other"
    if kind == "compare_other" and is_share(statistic):
        kind = "compare_share"
    return say(language, f"{kind}_{way}", name=name, points=100 * abs(change), amount=abs(change))


def is_known(row: Row) -> bool:
    """Tell whether a head could be compared."""
    return math.isfinite(float(row["js"]))


# ---------------------------------------------------------------- the header


def header(comparison: Comparison, served: Mapping[str, str], language: Language) -> str:
    """Say what is compared on which corpus; served: the name under which a checkpoint's own index is served."""
    base = comparison.base
    names = [_opened(comparison.base_label, served)]
    names += [_opened(label, served) for label in comparison.labels]
    tuned = " ".join(names[1:]) if len(names) < 5 else f"{names[1]} &hellip; {names[-1]} ({len(names) - 1})"
    corpus = " + ".join(escape(source["source"].rsplit("/", 1)[-1]) for source in base.manifest["made_from"]["corpus"])
    what = say(
        language, "compare_header_html", base=names[0], tuned=tuned, corpus=corpus, n_tokens=base.n_tokens,
        n_layers=base.n_layers, n_heads=base.n_heads,
    )  # fmt: skip
    return f'<div class="line"><span class="brand">qk<span>space</span></span><span class="what">{what}</span></div>'


def _opened(label: str, served: Mapping[str, str]) -> str:
    """Return a checkpoint's name, which leads to its own index where that is served."""
    name = f"<b>{escape(label)}</b>"
    return f'<a href="?index={quote(served[label])}">{name}</a>' if label in served else name


def checkpoint(comparison: Comparison, state: CompareState) -> str:
    """Name the tuned checkpoint beside the base, and say how they are compared."""
    language, labels = state.language, comparison.labels
    several = f"{labels.index(state.checkpoint) + 1} / {len(labels)}" if len(labels) > 1 else ""
    return (
        f'<div class="between"><h2 style="margin:0">{plain(language, "compare_checkpoint")}</h2>'
        f'<span class="small muted">{several}</span></div>'
        f'<div style="overflow-wrap:anywhere"><b>{escape(state.checkpoint)}</b></div>{how_compared(comparison, state)}'
    )


def how_compared(comparison: Comparison, state: CompareState) -> str:
    """Say that heads are matched, or words compared, where that is so."""
    language = state.language
    said = []
    if comparison.is_matched(state.checkpoint):
        said.append(plain(language, "compare_matched"))
    if comparison.unit(state.checkpoint) == "word":
        said.append(plain(language, "compare_words"))
    return "".join(f'<p class="small muted" style="margin:4px 0 0">{text}</p>' for text in said)


# ---------------------------------------------------------------- all heads


def measure_text(state: CompareState) -> str:
    """Say what the chosen measure means."""
    language, measure = state.language, state.measure
    name = measure.removesuffix(drift.SIGNED) if drift.is_signed(measure) else measure
    known = strings(language)
    text = known.get(f"compare_measure_{name}_tip") or known.get(f"stat_{name}_tip", "")
    return f'<p class="small muted" style="margin:0">{escape(text)}</p>'


def heat_title(state: CompareState, low: float, high: float, colours: Sequence[str], n_quiet: int) -> str:
    """Say what the heat map shows, with its scale, and what is hatched."""
    language, measure = state.language, state.measure
    ends = [measured(language, measure, end) for end in (low, high)]
    scale = ", ".join(colours[:: max(1, len(colours) // 16)])
    quiet = plain(language, "compare_n_quiet", n=n_quiet) if n_quiet else ""
    return (
        f'<h2 style="margin:0 0 2px">{plain(language, "compare_heat", measure=measure_name(language, measure))}</h2>'
        '<div class="small muted" style="display:flex;align-items:center;flex-wrap:wrap;gap:0 6px">'
        f'<span>{ends[0]}</span><span class="scale" style="flex:1 1 60px;max-width:260px;'
        f'background:linear-gradient(90deg, {scale})"></span><span>{ends[1]}</span>'
        f'<span style="margin-left:auto">{quiet}</span></div>'
    )


def tooltips(table: pd.DataFrame, language: Language) -> list[str]:
    """Return what the heat map says of each head when one points at it: plain text, in lines."""
    spread = drift.spreads(table)
    return [_tooltip(row, spread, language) for row in table.to_dict("records")]


def _tooltip(row: Row, spread: Mapping[str, float], language: Language) -> str:
    if not is_known(row):
        return say(language, "compare_unmatched", name=head_name(int(row["layer"]), int(row["head"])))
    js, floor = number("js", float(row["js"])), _floor(row, language)
    lines = [say(language, "compare_tooltip", js=js, interval=interval(row, "js"), floor=floor)]
    if row["js"] <= row["noise_floor"]:
        return "\n".join([*lines, say(language, "compare_nothing")])
    return "\n".join([*lines, *(change_words(row, name, language) for name in drift.remarkable(row, spread, 3))])


def summary(table: pd.DataFrame, layers: pd.DataFrame, language: Language) -> str:
    """Say of how many heads the attention changed, and in which layer most."""
    known = int(np.isfinite(table["js"]).sum())
    loud = known - int(drift.is_quiet(table).sum())
    if not loud:
        return plain(language, "compare_none_changed", n=known)
    most = int(np.nanargmax(layers["js"].to_numpy()))
    layer, js = int(layers["layer"].to_numpy()[most]), float(layers["js"].to_numpy()[most])
    said = "compare_n_changed" if np.isfinite(table["noise_floor"]).any() else "compare_n_differ"
    return plain(language, said, loud=loud, n=known, layer=layer, js=js)


def table_title(table: pd.DataFrame, state: CompareState, *, matched: bool = False) -> str:
    """Say which heads are listed, and what is pale among them."""
    language = state.language
    n = min(TABLE_HEADS, len(table))
    title = plain(language, "compare_differ_table" if matched else "compare_table", n=n, total=len(table))
    note = plain(language, "compare_table_note")
    return f'<div class="between"><h2>{title}</h2><span class="small muted">{note}</span></div>'


def curves_title(state: CompareState, head: str, mean: str) -> str:
    """Say what the curves show."""
    language = state.language
    title = plain(language, "compare_curves", measure=measure_name(language, state.measure))
    line = "display:inline-block;width:18px;vertical-align:middle;border-top"
    return (
        f'<h2 style="margin:0 0 2px" title="{plain(language, "compare_curves_tip")}">{title}</h2>'
        f'<div class="small muted"><span style="{line}:3px solid var(--poor)"></span> {head} &ensp;'
        f'<span style="{line}:2px dashed var(--ink)"></span> {escape(mean)} &ensp;'
        f'<span style="{line}:1px solid var(--muted)"></span> {plain(language, "compare_other_heads")}</div>'
    )


def heads_table(table: pd.DataFrame, state: CompareState, *, matched: bool) -> str:
    """List the heads that changed most by the chosen measure, the chosen head in any case; a title chooses its measure."""
    language = state.language
    known = drift.measures(table)
    columns = ["js", *(name for name in COLUMNS if name in known)]
    if state.measure not in columns:
        columns.insert(1, state.measure)
    order = drift.order(table, state.measure)
    here = drift.place(table, state.layer, state.head)
    listed = list(order[:TABLE_HEADS])
    if here not in listed:
        listed.append(here)
    quiet = drift.is_quiet(table)
    rank = {int(at): i + 1 for i, at in enumerate(order)}
    titles = "".join(_title(name, state) for name in columns)
    extra = (
        "".join(f"<th>{plain(language, name)}</th>" for name in ("compare_match", "compare_cost")) if matched else ""
    )
    records = table.to_dict("records")
    rows = "".join(
        _row(records[at], rank[int(at)], columns, is_here=at == here, is_quiet=bool(quiet[at]), matched=matched)
        for at in listed
    )
    return (
        f'<table class="heads"><thead><tr><th>#</th><th>{plain(language, "head")}</th>{titles}{extra}</tr></thead>'
        f"<tbody>{rows}</tbody></table>"
    )


def _title(name: str, state: CompareState) -> str:
    language = state.language
    short = f"compare_column_{name}"
    text = say(language, short) if short in strings(language) else measure_name(language, name)
    tip = plain(language, "compare_sort", name=measure_name(language, name))
    look = ' aria-sort="descending"' if name == state.measure else ""
    return f'<th{look}><button class="link" title="{tip}" {go(measure=name)}>{escape(text)}</button></th>'


def _row(row: Row, rank: int, columns: list[str], *, is_here: bool, is_quiet: bool, matched: bool) -> str:
    """Return a row of the table of heads; what changed no more than storing may is pale."""
    layer, head = int(row["layer"]), int(row["head"])
    goes = go(layer=layer, head=head)
    cells = "".join(f'<td class="number">{_cell(row, name)}</td>' for name in columns)
    if matched:
        other = head_name(int(row["matched_layer"]), int(row["matched_head"])) if row["matched_head"] >= 0 else "\u2013"
        cells += (
            f'<td class="number">{other}</td><td class="number">{number("match_cost", float(row["match_cost"]))}</td>'
        )
    look = " ".join(word for word, is_so in (("here", is_here), ("quiet", is_quiet)) if is_so)
    return (
        f'<tr class="{look}" {goes}><td class="number muted">{rank}</td>'
        f'<td><button class="link" {goes}>{head_name(layer, head)}</button></td>{cells}</tr>'
    )


def _cell(row: Row, name: str) -> str:
    text = number(name, float(row[name]), signed=drift.is_signed(name))
    ends = interval(row, name) if name == "js" else ""
    return f'{text} <span class="muted">{ends}</span>' if ends else text


# ---------------------------------------------------------------- one head


def head_card(scene: CompareScene, table: pd.DataFrame) -> str:
    """Say in plain words how the chosen head changed, and list its statistics before and after."""
    state = scene.state
    language = state.language
    at = drift.place(table, state.layer, state.head)
    row = table.iloc[at].to_dict()
    matched = scene.comparison.is_matched(state.checkpoint)
    badge, look = verdict(row, matched=matched)
    title = plain(language, "layer_head", layer=state.layer, head=state.head)
    badge = f'<span class="badge {look}" style="white-space:nowrap">{plain(language, f"compare_badge_{badge}")}</span>'
    parts = [
        f'<div class="between"><span class="title">{title}</span>{badge}</div>',
        f'<p style="margin-top:8px">{_what_changed(row, table, at, language, matched=matched)}</p>',
    ]
    if is_known(row):
        parts += [_changes(row, table, language), _worth(scene), _products(row, language)]
        parts.append(_before_after(row, table, language))
    return f'<div class="card">{"".join(parts)}</div>'


def verdict(row: Row, *, matched: bool) -> tuple[str, str]:
    """Return the word of a head's badge, and its look; heads that are paired (`matched`) differ, none has changed."""
    if not is_known(row):
        return "unknown", "muted"
    if row["js"] <= row["noise_floor"]:
        return "quiet", "muted"
    return "differs" if matched else "changed", "fair"


def _what_changed(row: Row, table: pd.DataFrame, at: int, language: Language, *, matched: bool) -> str:
    name = head_name(int(row["layer"]), int(row["head"]))
    if not is_known(row):
        return plain(language, "compare_unmatched", name=name)
    js = number("js", float(row["js"]))
    if row["js"] <= row["noise_floor"]:
        return plain(language, "compare_quiet", name=name, js=js, floor=number("js", float(row["noise_floor"])))
    rank = int(np.flatnonzero(drift.order(table, "js") == at)[0]) + 1
    n = int(np.isfinite(table["js"]).sum())
    said = f"compare_{'differ_' if matched else ''}rank{'_first' if rank == 1 else ''}"
    ends = interval(row, "js")
    return plain(language, said, name=name, rank=rank, n=n, js=js, interval=ends, floor=_floor(row, language))


def _floor(row: Row, language: Language) -> str:
    """Return the noise floor as the end of a clause; of heads that are paired none is known."""
    floor = float(row["noise_floor"])
    return say(language, "compare_floor", floor=number("js", floor)) if math.isfinite(floor) else ""


def _changes(row: Row, table: pd.DataFrame, language: Language) -> str:
    """Say which statistics changed most; of a head that did not change, none."""
    names = [] if row["js"] <= row["noise_floor"] else drift.remarkable(row, drift.spreads(table), N_CHANGES)
    if not names:
        return "" if row["js"] <= row["noise_floor"] else f"<p>{plain(language, 'compare_no_statistic')}</p>"
    items = "".join(f"<li>{escape(change_words(row, name, language))}</li>" for name in names)
    return f'<ul class="plain">{items}</ul>'


def _worth(scene: CompareScene) -> str:
    """Say what the base's map of the chosen head is worth before and after tuning, where the tuned tokens lie on it."""
    comparison, state = scene.comparison, scene.state
    methods = chosen.common_methods(comparison, state.checkpoint)
    if not methods:
        return ""
    method = state.method if state.method in methods else methods[0]
    base = comparison.base.head(state.layer, state.head).projection(method, 2).scores
    tuned = comparison.view(state.checkpoint, method, 2, state.layer, state.head).scores
    if base is None or tuned is None:
        return ""
    language, shares = state.language, {"before": share(base.recall1), "after": share(tuned.recall1)}
    called = say(language, f"method_{method}")
    said = plain(language, "compare_head_worth", method=called, **shares)
    poor = [side for side, scores in (("base", base), ("tuned", tuned)) if verdict_of(scores) == "poor"]
    if not poor:
        return f'<p class="small muted" style="margin-top:6px">{said}</p>'
    warning = plain(language, f"compare_head_worth_{poor[0] if len(poor) == 1 else 'poor'}")
    return f'<p class="small poor" style="margin-top:6px">{said} {warning}</p>'


def _products(row: Row, language: Language) -> str:
    """Say how far the query-key product and the vectors changed, and which head of the tuned model this one is."""
    said = []
    if math.isfinite(float(row.get("product_change", math.nan))):
        known = row.get("product_from") if row.get("product_from") in ("weights", "data") else "data"
        names = ("product_change", "logit_change")
        shares = {name: number(name, float(row.get(name, math.nan))) for name in names}
        if known == "weights" and not math.isfinite(float(row.get("logit_change", math.nan))):
            known = "alone"
        said.append(plain(language, f"compare_product_{known}", **shares))
    if math.isfinite(float(row.get("query_cka", math.nan))):
        said.append(plain(language, "compare_cka", query=float(row["query_cka"]), key=float(row["key_cka"])))
    if row.get("matched_head", -1) >= 0 and math.isfinite(float(row.get("match_cost", math.nan))):
        other = head_name(int(row["matched_layer"]), int(row["matched_head"]))
        said.append(plain(language, "compare_is_matched", other=other, cost=number("js", float(row["match_cost"]))))
    return f'<p class="small muted" style="margin-top:6px">{" ".join(said)}</p>' if said else ""


def _before_after(row: Row, table: pd.DataFrame, language: Language) -> str:
    """List all statistics before and after."""
    lines = [
        f'<tr><td class="name">{escape(statistic_name(language, name))}</td><td class="number">'
        f"{number(name, float(row[f'{name}_base']))} &rarr; {number(name, float(row[f'{name}_tuned']))}</td>"
        f'<td class="number muted">{interval(row, f"{name}{drift.SIGNED}")}</td></tr>'
        for name in drift.statistics(table)
    ]
    title, note = plain(language, "compare_statistics"), plain(language, "compare_statistics_note")
    return (
        f'<details style="margin-top:4px"><summary>{title}</summary><p class="small muted">{note}</p>'
        f"<table>{''.join(lines)}</table></details>"
    )


# ---------------------------------------------------------------- tokens and pairs of one head


def links_card(links: pd.DataFrame, units: pd.DataFrame, state: CompareState) -> str:
    """List the pairs whose link appeared, vanished, grew or shrank, with their attention before and after."""
    language = state.language
    parts = []
    for status in STATUSES:
        found = links[links["status"] == status]
        if found.empty:
            continue
        named = (units["text"].iloc[found[side]].astype(str) for side in ("query", "key"))
        texts = list(zip(*named, strict=True))
        count = Counter(texts)
        first = [texts.index(pair) for pair in list(count)[:N_LINKS]]  # the largest change of each pair of texts
        rows = "".join(_link(found.iloc[at].to_dict(), texts[at], count[texts[at]], units, state) for at in first)
        title = plain(language, f"compare_{status}", n=len(found))
        parts.append(f'<tr><th colspan="3">{title}</th></tr>{rows}')
    if not parts:
        return f'<p class="muted">{plain(language, "compare_no_links")}</p>'
    return f'<table class="links">{"".join(parts)}</table>'


def _link(link: Row, texts: tuple[str, ...], count: int, units: pd.DataFrame, state: CompareState) -> str:
    """Return the row of a pair of texts; count: how many pairs of tokens have these texts."""
    query = int(link["query"])
    sequence = int(units["sequence"].to_numpy()[query])
    cut = [text if len(text) <= TOKEN_TEXT else f"{text[: TOKEN_TEXT - 1]}\u2026" for text in texts]
    row = query if "base_row" not in units else int(units["base_row"].to_numpy()[query])
    goes = go(page="sentence", sequence=sequence, selected=f"query-{row}")
    look = "grew" if link["change"] > 0 else "shrank"
    several = f' <span class="muted">{count:,} &times;</span>' if count > 1 else ""
    return (
        f'<tr><td><button class="link" {goes}>{escape(cut[0])} &rarr; {escape(cut[1])}</button>{several}</td>'
        f'<td class="number">{100 * link["base"]:.0f} % &rarr; {100 * link["tuned"]:.0f} %</td>'
        f'<td class="number {look}">{100 * link["change"]:+.0f}</td></tr>'
    )


def sequences_list(table: pd.DataFrame, opened: int | None = None) -> str:
    """List the sequences in which a change shows best, the one that is open marked; a click opens the sentence view."""
    lines = []
    for each in table.to_dict("records"):
        text = str(each["text"])
        text = text if len(text) <= SHOWN_TEXT else f"{text[: SHOWN_TEXT - 1]}\u2026"
        goes = go(page="sentence", sequence=int(each["sequence"]), selected="")
        here = ' class="here" aria-current="true"' if each["sequence"] == opened else ""
        lines.append(
            f'<tr{here}><td class="number muted">{number("js", float(each["js"]))}</td>'
            f'<td><button class="link" {goes}>{escape(text) or "&middot;"}</button></td></tr>'
        )
    return f'<table class="sequences">{"".join(lines)}</table>'


def sequences_card(table: pd.DataFrame, state: CompareState, opened: int | None, *, matched: bool) -> str:
    """Return a card of the sequences in which the chosen head changed most; opened: the one that is drawn beside."""
    said = "compare_differ_sequences" if matched else "compare_sequences"
    title = plain(state.language, said, name=head_name(state.layer, state.head))
    return f'<div class="card"><h2>{title}</h2>{sequences_list(table, opened)}</div>'


def classes(table: pd.DataFrame, language: Language) -> str:
    """List the classes of tokens that changed most as queries, with bars."""
    most = float(table["js"].max()) if len(table) else 0.0
    rows = []
    for each in table.head(N_CLASSES).to_dict("records"):
        name = strings(language).get(f"kind_{each['value']}", str(each["value"]))
        width = 100 * each["js"] / most if most > 0 else 0
        rows.append(
            f'<tr><td class="text">{escape(name)}</td><td style="width:38%">'
            f'<div class="bar" style="background:var(--accent);width:{width:.1f}%"></div></td>'
            f'<td class="number">{number("js", float(each["js"]))}</td>'
            f'<td class="number muted">{each["n"]:,} &times;</td></tr>'
        )
    more = len(table) - len(rows)
    rest = f'<p class="small muted">{plain(language, "sequences_more", n=f"{more:,}")}</p>' if more > 0 else ""
    return f"<table>{''.join(rows)}</table>{rest}"


def hits_line(scene: CompareScene) -> str:
    """Say how far the chosen head's attention changed for what a search found, beside all others; plain text."""
    units = chosen.hit_units(scene)
    if units is None or not len(units):
        return ""
    comparison, state = scene.comparison, scene.state
    of_head = comparison.token_drift(state.checkpoint, state.layer, state.head)
    if not np.isfinite(of_head).any():
        return ""
    js, usual = number("js", float(of_head[units].mean())), number("js", float(of_head.mean()))
    called = say(state.language, f"compare_units_{comparison.unit(state.checkpoint)}")
    name = head_name(state.layer, state.head)
    return say(state.language, "compare_hits", n=len(units), units=called, name=name, js=js, usual=usual)
