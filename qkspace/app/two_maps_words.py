"""Words of the two maps: what stands above, beside and below them, as text and small pieces of HTML.

In: a `Comparison`, what was chosen and its `Pair` of maps. Out: sentences in the visitor's language, in which every text of
the corpus and every label is escaped where it meets HTML. Draws nothing.
"""

from __future__ import annotations

from functools import partial
from html import escape
from typing import Any

import numpy as np

from qkspace.app import compare_select as chosen
from qkspace.app import words
from qkspace.app.colours import Colouring
from qkspace.app.compare_select import RECEIVED, SIDES, Attended, Pair, SideName
from qkspace.app.compare_state import DRIFT, CompareScene, CompareState
from qkspace.app.compare_words import number, share
from qkspace.app.language import say, strings
from qkspace.app.lists import go
from qkspace.app.select import KINDS, LEAST_SHOWN
from qkspace.app.words import plain
from qkspace.comparison.reader import BASE, Comparison
from qkspace.schema import QKSpaceError

Data = dict[str, Any]
N_PARTNERS = 6  # of the clicked point that are listed
AROUND = 70  # characters of its sentence on either side


def titles(comparison: Comparison, state: CompareState, pair: Pair, *, overlay: bool) -> dict[SideName, str]:
    """Return what stands above each map, beside its tools."""
    t = partial(say, state.language)
    base, label = _short(comparison.base_label), _short(state.checkpoint)
    if overlay:
        return dict.fromkeys(SIDES, t("compare_maps_overlaid", base=base, label=label))
    if comparison.is_matched(state.checkpoint):
        left = t("compare_maps_base_head", label=base, head=pair.base.head.name)
        return {"base": left, "tuned": t("compare_maps_tuned_head", label=label, head=pair.tuned.head.name)}
    own = base if base == BASE else t("compare_maps_base", label=base)
    return {"base": own, "tuned": t("compare_maps_tuned" if pair.common else "compare_maps_tuned_own", label=label)}


def _short(label: str) -> str:
    return label if len(label) <= chosen.MOST_CHARACTERS else label[: chosen.MOST_CHARACTERS - 1] + "\u2026"


def hover_words(comparison: Comparison, state: CompareState, pair: Pair) -> Data:
    """Return the sentences of a tooltip, in which the browser fills in the unit."""
    unit = comparison.unit(state.checkpoint)
    named = {"where": f"hover_where_{unit}", "drift": "hover_drift", "attends": "hover_attends"}
    named |= {"attended": "hover_attended", "nothing": "hover_nothing"}
    sentences = {name: strings(state.language)[f"compare_{sentence}"] for name, sentence in named.items()}
    sentences |= {kind: say(state.language, kind) for kind in KINDS}
    labels = {"base": comparison.base_label, "tuned": state.checkpoint}
    return {"say": sentences, "labels": labels, "heads": {side: pair.side(side).head.name for side in SIDES}}


def said(comparison: Comparison, state: CompareState, pair: Pair) -> str:
    """Say how far tokens moved, or why that cannot be said, and what the map is worth for the tuned checkpoint: HTML."""
    language = state.language
    lost = [side for side in (pair.base, pair.tuned) if side.reason]
    if lost:
        names = {"base": comparison.base_label, "tuned": state.checkpoint}
        return "".join(
            f'<p class="poor">{plain(language, "compare_maps_unmapped", label=names[side.name], reason=side.reason)}</p>'
            for side in lost[: 1 if pair.common else 2]
        )
    worth, warning = _worth(comparison, state, pair)
    part = ""
    if len(pair.units.unit) < pair.units.n_all and chosen.shown_of(comparison).index.n_tokens > chosen.MAX_UNITS:
        unit = say(language, f"compare_units_{comparison.unit(state.checkpoint)}")
        numbers = {"shown": f"{len(pair.units.unit):,}", "all": f"{pair.units.n_all:,}"}
        part = f' <span class="muted">{plain(language, "compare_part", units=unit, **numbers)}</span>'
    return f'<p style="margin:0">{_how_far(comparison, state, pair)} {worth} {warning}{part}</p>'


def _how_far(comparison: Comparison, state: CompareState, pair: Pair) -> str:
    """Say how far points moved, or why their places cannot be compared."""
    language, label = state.language, state.checkpoint
    found = chosen.movement(comparison, state, pair)
    if found is not None:
        return say(
            language,
            "compare_moved_html",
            base=escape(comparison.base_label),
            label=escape(label),
            query=share(found.median["query"]),
            key=share(found.median["key"]),
            most=share(found.most),
            kind=say(language, found.most_kind),
            token=f'<span class="chip">{escape(found.most_text)}</span>',
        )
    names = {"base": comparison.base_label, "label": label}
    if comparison.is_matched(label):
        heads = {"layer": state.layer, "head": state.head}
        other = {"other_layer": pair.tuned.head.layer, "other_head": pair.tuned.head.head}
        unit = say(language, f"compare_unit_{comparison.unit(label)}")
        return plain(language, "compare_own_matched", **names, **heads, **other, unit=unit)
    return plain(language, "compare_own_words" if comparison.unit(label) == "word" else "compare_own_method", **names)


def _worth(comparison: Comparison, state: CompareState, pair: Pair) -> tuple[str, str]:
    """Say what the maps are worth for both checkpoints, and warn where they are poor."""
    language = state.language
    scores = {side: pair.side(side).view.scores for side in SIDES}
    names = {"base": comparison.base_label, "label": state.checkpoint}
    if scores["base"] is None or scores["tuned"] is None:
        return plain(language, "compare_worth_none"), ""
    shares = {"before": share(scores["base"].recall1), "after": share(scores["tuned"].recall1)}
    escaped = {name: escape(text) for name, text in names.items()}
    worth = say(language, "compare_worth_html" if pair.common else "compare_worth_own_html", **escaped, **shares)
    content = [scores["base"].recall1_content, scores["tuned"].recall1_content]
    if np.isfinite(content).all():
        worth += " " + plain(language, "compare_worth_content", before=share(content[0]), after=share(content[1]))
    verdicts = {side: words.verdict_of(scores[side]) for side in SIDES}
    poor = [side for side in SIDES if verdicts[side] == "poor"]
    if len(poor) == 2:
        name = "compare_worth_poor_both"
    elif poor == ["tuned"] and pair.common:
        name = "compare_worth_poor_tuned"
    elif poor:
        name, names["label"] = "compare_worth_poor_base", names["base" if poor == ["base"] else "label"]
    else:
        name = "compare_worth_good" if set(verdicts.values()) == {"good"} else "compare_worth_fair"
    warning = f'<span class="{"poor" if poor else ""}">{plain(language, name, **names)}</span>'
    return worth, warning


def clicked_card(scene: CompareScene) -> str:
    """Say of the clicked token how its attention changed and what its strongest partners are, before and after: HTML."""
    try:
        found = chosen.attended(scene)
    except QKSpaceError:  # a head without counterpart, of which the view itself says so
        return ""
    if found is None:
        return ""
    comparison, state, language = scene.comparison, scene.state, scene.state.language
    unit, js = int(found.unit[found.at]), ""
    names = {"base": _short(comparison.base_label), "label": _short(state.checkpoint)}
    if found.kind == "query":
        of_head = comparison.token_drift(state.checkpoint, state.layer, state.head)
        said = {"js": number("js", float(of_head[unit])), "usual": number("js", float(of_head.mean()))}
        js = plain(language, "compare_clicked_js", **said)
    elif comparison.unit(state.checkpoint) == "token":
        before, after = (float(found.attention[side].sum()) for side in SIDES)
        js = plain(language, "compare_clicked_received", before=before, after=after, **names)
    assert state.selected is not None  # as something was found
    goes = go(page="sentence", sequence=found.sequence, selected=f"{state.selected[0]}-{state.selected[1]}")
    title = plain(language, f"compare_clicked_{found.kind}")
    partners = plain(language, f"compare_clicked_{'attends' if found.kind == 'query' else 'attended'}", **names)
    return (
        f'<div class="card"><h2>{title}: <span class="chip">{escape(found.text[found.at])}</span></h2>'
        f"<p>{_in_sentence(scene, found)}</p><p>{js}</p>"
        f'<table class="links"><tr><th colspan="3">{partners}</th></tr>{_partners(found)}</table>'
        f'<p style="margin-top:6px"><button class="link" {goes}>{plain(language, "compare_clicked_open")}</button></p></div>'
    )


def _in_sentence(scene: CompareScene, found: Attended) -> str:
    """Return the clicked token in bold with what stands around it in its sentence."""
    comparison, label = scene.comparison, scene.state.checkpoint
    unit, tokens, stored = int(found.unit[found.at]), comparison.base.tokens, comparison.base.sequences
    row = unit if comparison.unit(label) == "token" else int(comparison.units(label)["base_row"].to_numpy()[unit])
    place = int(np.searchsorted(stored["sequence"].to_numpy(), found.sequence))
    whole = str(stored["text"].iloc[place])
    start, end = int(tokens["start"].iloc[row]), int(tokens["end"].iloc[row])
    if comparison.unit(label) == "word":  # the row is that of its first token
        end = start + len(found.text[found.at])
    first, last = max(0, start - AROUND), min(len(whole), end + AROUND)
    before, after = "\u2026" if first else "", "\u2026" if last < len(whole) else ""
    return (
        f'<span class="muted">{before}{escape(whole[first:start])}<b style="color:var(--ink)">{escape(whole[start:end])}</b>'
        f"{escape(whole[end:last])}{after}</span>"
    )


def _partners(found: Attended) -> str:
    """List the partners of the clicked point that are strongest before or after."""
    before, after = (found.attention[side] for side in SIDES)
    most = np.maximum(before, after)
    best = [i for i in np.argsort(-most, kind="stable")[:N_PARTNERS] if most[i] >= LEAST_SHOWN]
    rows = []
    for i in best:
        change = round(100 * float(after[i])) - round(100 * float(before[i]))
        text = found.text[i] if len(found.text[i]) <= chosen.MOST_CHARACTERS else f"{found.text[i][:23]}\u2026"
        look = "grew" if change > 0 else "shrank" if change < 0 else "muted"
        rows.append(
            f'<tr><td style="width:100%">{escape(text)}</td>'
            f'<td class="number">{100 * before[i]:.0f} % &rarr; {100 * after[i]:.0f} %</td>'
            f'<td class="number {look}">{change:+d}</td></tr>'
        )
    return "".join(rows)


def legend(state: CompareState, colours: Colouring) -> str:
    """Explain the colours in one line: HTML."""
    language, what = state.language, colours.legend
    own = state.colour if state.colour in (DRIFT, RECEIVED) else ""
    tip = f' class="why" title="{plain(language, f"compare_legend_{own}_tip")}"' if own else ""
    title = f"<h2><span{tip}>{escape(what.title)}</span></h2>"
    if what.continuous:
        scale = f'<span class="scale" style="background:{_scale(own, state.theme)}"></span>'
        body = f'<span class="ends"><span>{escape(what.low)}</span>{scale}<span>{escape(what.high)}</span></span>'
    else:
        body = "".join(
            f'<span class="entry"><span class="swatch{" key" if kind == "key" else ""}" style="background:{colour}"></span>'
            f"{escape(name)}</span>"
            for kind, (name, colour, _) in zip(what.kinds, what.entries, strict=True)
        )
    if what.kinds != KINDS:
        body += "".join(
            f'<span class="entry muted"><span class="swatch{" key" if kind == "key" else ""}" '
            f'style="background:var(--muted)"></span>{plain(language, kind)}</span>'
            for kind in KINDS
        )
    return f'<div class="legend">{title}{body}</div>'


def _scale(own: str, theme: str) -> str:
    if own == DRIFT:
        stops = chosen.drift_scale(theme)
        return f"linear-gradient(90deg, {', '.join(stops[:: max(len(stops) // 12, 1)])})"
    if own == RECEIVED:
        return f"linear-gradient(90deg, {', '.join(chosen.received_scale(theme))})"
    return f"linear-gradient(90deg, {words.SCALE})"


def texts(comparison: Comparison, label: str, pair: Pair) -> tuple[Data, Data]:
    """Return what tooltips say of units: text, sentence, place of the word in it, and the units of that sentence."""
    units, starts = pair.units, comparison.unit_starts(label)
    table, tokens = comparison.units(label), comparison.base.tokens
    rows = units.row["base"]
    text = table["text"].iloc[units.unit].astype(str)
    start = tokens["start"].to_numpy(dtype=np.int32)[rows]
    end = tokens["end"].to_numpy(dtype=np.int32)[rows]
    if comparison.unit(label) == "word":  # the row is that of its first token
        end = start + text.str.len().to_numpy(dtype=np.int32)
    drawn, sentence = np.unique(units.sequence, return_inverse=True)
    stored = comparison.base.sequences
    place = np.searchsorted(stored["sequence"].to_numpy(), comparison.sequence_numbers(label)[drawn])
    first, length = starts[units.sequence], np.diff(starts)[units.sequence]
    columns: Data = {
        "text": text.tolist(),
        "sentence": sentence.astype(np.int32),
        "start": start,
        "end": end,
        "position": (units.unit - first + 1).astype(np.int32),
        "length": length.astype(np.int32),
    }
    return columns, {"text": stored["text"].iloc[place].astype(str).tolist()}
