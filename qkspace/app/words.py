"""Words: what the page says, as small pieces of HTML.

In: records of the index and of `select`. Out: HTML in the visitor's language, in which every text of the corpus is escaped;
so is every sentence, but for those whose name ends in `_html`. Draws no points.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

import numpy as np
from bokeh.palettes import Cividis256

from qkspace.app.colours import KEY_COLOUR, QUERY_COLOUR, Legend
from qkspace.app.image_words import place_rows
from qkspace.app.language import say, strings
from qkspace.app.pictures import album_of, caption
from qkspace.app.select import LEAST_SHOWN, Shown, selected_attention
from qkspace.app.sound_words import sound_strip
from qkspace.app.state import Language, State
from qkspace.report import verdict

if TYPE_CHECKING:
    import pandas as pd

    from qkspace.fidelity import Scores
    from qkspace.index import Head, Index, View
    from qkspace.normalise import Gauge

SENTENCE_TOKENS = 160  # shown of the clicked token's sequence, around it
STATISTICS = (  # of a head, as its card lists them
    "entropy",
    "attention_to_special",
    "attention_to_first",
    "attention_to_previous",
    "attention_to_next",
    "attention_to_self",
    "attention_distance",
)
NOT_OF = {  # what the page speaks of
    "image": ("attention_to_first", "attention_distance"),  # [CLS] is the first; patches lie in two directions
    "cross": ("attention_to_previous", "attention_to_next", "attention_to_self", "attention_distance"),
}
SCORES = (  # of a map, as its card lists them
    "recall1",
    "recall3",
    "recall1_content",
    "recall3_content",
    "attention_kl",
    "weighted_correlation",
    "spearman",
    "trustworthiness",
)
PARTS = ("encoder", "decoder", "cross")  # of a model that has several, as the header names them
FAINT = ";opacity:.35"  # of what the legend hides
SCALE = ", ".join(Cividis256[i] for i in range(0, 256, 15))


def plain(language: Language, name: str, /, **values: Any) -> str:
    """Return a sentence as HTML that shows it as it is, whatever is filled in."""
    return escape(say(language, name, **values))


def explained(language: Language, name: str) -> str:
    """Return what a score or statistic is called, as HTML that says what it means when one points at it."""
    return f'<span class="why" title="{plain(language, f"{name}_tip")}">{plain(language, name)}</span>'


def heads_title(language: Language = "en") -> str:
    """Say what the chart of all heads shows."""
    return (
        f'<h2 style="margin:0 0 2px" title="{plain(language, "heads_title_tip")}">{plain(language, "heads_title")}</h2>'
        f'<div class="small muted">{plain(language, "heads_scale")}</div>'
        f'<div class="between small muted" style="gap:6px"><span>{plain(language, "heads_none")}</span><span class="scale" '
        f'style="flex:1;background:linear-gradient(90deg, {SCALE})"></span><span>{plain(language, "heads_all")}</span></div>'
        f'<div class="small muted">{plain(language, "heads_small")}</div>'
    )


def header(index: Index, language: Language = "en") -> str:
    """Say which model and corpus the page shows."""
    corpus = " + ".join(escape(source["source"].rsplit("/", 1)[-1]) for source in index.manifest["made_from"]["corpus"])
    part = index.manifest["check"].get("part")
    what = say(
        language,
        "header_html",
        model=escape(index.model_name),
        part=plain(language, f"header_{part}") if part in PARTS else "",
        corpus=corpus,
        n_layers=index.n_layers,
        n_heads=index.n_heads,
        n_tokens=index.n_tokens,
        n_sequences=len(index.sequences),
    )
    return f'<div class="line"><span class="brand">qk<span>space</span></span><span class="what">{what}</span></div>'


# ---------------------------------------------------------------- how far a map can be trusted


def head_card(shown: Shown, state: State, *, opened: bool = False) -> str:
    """Say how far the map of a head can be trusted, what the head does, and how its vectors were normalised.

    opened: whether all scores are shown without a click.
    """
    language = state.language
    view, head = shown.view(state), shown.head(state)
    kv = ""
    if head.spec.n_kv_heads != head.spec.n_heads:
        kv = f'<p class="small muted">{plain(language, "kv_head", kv_head=head.kv_head)}</p>'
    table = shown.head_table
    row = table[(table["layer"] == state.layer) & (table["head"] == state.head)].iloc[0]
    statistics = "".join(
        f'<tr><td class="name">{explained(language, f"stat_{column}")}</td>'
        f'<td class="number">{_statistic(language, row, column)}</td></tr>'
        for column in STATISTICS
        if column not in NOT_OF.get(shown.subject, ())
    )
    if (album := album_of(shown.index)) is not None:
        statistics += place_rows(shown, album, state)
    title = plain(language, "layer_head", layer=state.layer, head=state.head)
    return (
        f'<div class="card"><div class="between"><span class="title">{title}</span>'
        f"{_badge(language, view.scores, view.reason)}</div>"
        f'<div style="margin-top:8px">{kv}{_trust(language, view, float(row["attention_to_special"]))}</div>'
        f'<h2 style="margin-top:10px">{plain(language, "what_the_head_does")}</h2><table>{statistics}</table>'
        f'<p class="small muted">{plain(language, "statistics_overlap")}</p>{_by_position(language, head, row)}'
        f"{'' if view.reason else _placing(language, view, opened)}</div>"
    )


def _by_position(language: Language, head: Head, row: pd.Series) -> str:
    """Say how much of a head's attention position decides, where that was measured; pointing at it says how."""
    share = float(row.get("position_share", math.nan))
    if math.isnan(share):
        return ""
    is_position = head.spec.position is not None or head.index.has_unrotated  # else a soft cap or a sink alone
    says = plain(language, "position_share" if is_position else "position_share_beyond", share=f"{100 * share:.0f}")
    return f'<p><span class="why" title="{plain(language, "stat_position_share_tip")}">{says}</span></p>'


def verdict_of(scores: Scores | None) -> str:
    """Return good, fair, poor or not scored: how far a map can be trusted."""
    return "not scored" if scores is None else verdict(scores.recall1, scores.recall1_content)


def _badge(language: Language, scores: Scores | None, reason: str | None) -> str:
    word = verdict_of(scores)
    name = "no_map" if reason else word.replace(" ", "_")
    look = word if word in ("good", "fair", "poor") else "muted"
    return (
        f'<span class="badge {look}" title="{plain(language, "badge_tip")}">{plain(language, f"badge_{name}")}</span>'
    )


def _trust(language: Language, view: View, to_special: float) -> str:
    """Say how far a map can be trusted, with a warning first where it must not be believed."""
    scores = view.scores
    trust = "".join(f"<p>{escape(line)}</p>" for line in in_words(scores, view.reason, language, to_special))
    if margin := margin_in_words(scores, language):
        trust += f'<p class="small muted">{escape(margin)}</p>'
    if view.head.spec.position is not None and not view.reason:
        trust += f"<p>{plain(language, 'map_of_content')}</p>"
    if scores is None or verdict_of(scores) != "poor":
        return trust
    name = "not_to_believe" if verdict(scores.recall1, math.nan) == "poor" else "not_to_believe_words"
    return f'<p class="poor"><b>{plain(language, name)}</b> {plain(language, "not_to_believe_why")}</p>{trust}'


def in_words(
    scores: Scores | None, reason: str | None = None, language: Language = "en", to_special: float = math.nan
) -> list[str]:
    """Say what the scores of a map mean to somebody who does not know them.

    reason: why there is no map. to_special: share of the head's attention that goes to special tokens.
    """
    if reason:
        return [say(language, "trust_no_map", reason=reason)]
    if scores is None:
        return [say(language, "trust_single")]
    if math.isnan(scores.recall1):
        return [say(language, "trust_no_choice")]
    lines = [say(language, "trust_all", share=_share(language, scores.recall1))]
    if not math.isnan(scores.recall1_content):
        lines.append(say(language, "trust_content", share=_share(language, scores.recall1_content)))
    if to_special > 0.4 and scores.recall1 - scores.recall1_content > 0.3:
        lines.append(say(language, "trust_special", share=100 * to_special))
    if not math.isnan(scores.no_map_recall1):
        share, content = (_share(language, s) for s in (scores.no_map_recall1, scores.no_map_recall1_content))
        alone = "" if math.isnan(scores.no_map_recall1_content) else "_content"
        lines.append(say(language, f"trust_no_projection{alone}", share=share, content=content))
    loss = "little" if scores.attention_kl < 0.25 else "some" if scores.attention_kl < 0.75 else "much"
    return [*lines, say(language, f"trust_kl_{loss}", kl=scores.attention_kl)]


def margin_in_words(scores: Scores | None, language: Language = "en") -> str:
    """Say between what the shares would lie had other sequences been drawn (95 % interval); nothing where it is unknown."""
    if scores is None or math.isnan(scores.recall1_low):
        return ""
    ends = _ends("", scores.recall1_low, scores.recall1_high)
    if math.isnan(scores.recall1_content_low):
        return say(language, "margin", **ends)
    content = _ends("content_", scores.recall1_content_low, scores.recall1_content_high)
    return say(language, "margin_content", **ends, **content)


def _ends(prefix: str, low: float, high: float) -> dict[str, str]:
    """Return both ends of an interval of shares, of 100; with a decimal where they differ by that alone."""
    whole, finer = ([f"{100 * end:.{digits}f}" for end in (low, high)] for digits in (0, 1))
    ends = finer if whole[0] == whole[1] and finer[0] != finer[1] else whole
    return {f"{prefix}low": ends[0], f"{prefix}high": ends[1]}


def _share(language: Language, share: float) -> str:
    if math.isnan(share):
        return say(language, "share_unknown")
    tenths = round(10 * share)
    if share >= 0.95 or tenths == 0:
        return say(language, "share_nearly_all" if tenths else "share_almost_none")
    return say(language, "share_in_ten", tenths=tenths)


# ---------------------------------------------------------------- how vectors were placed


def _placing(language: Language, view: View, opened: bool) -> str:
    """Say how the vectors were normalised, and every score of the map."""
    return (
        f"<details style='margin-top:8px'{' open' if opened else ''}><summary>{plain(language, 'placing')}</summary>"
        f'<p class="small muted" style="margin-top:6px">{escape(gauge_words(view.gauge, language))}</p>'
        f"{gauge_curves(view.gauge, language)}{_score_table(language, view.scores)}</details>"
    )


def gauge_words(gauge: Gauge, language: Language = "en") -> str:
    """Say what was done to the vectors before the projection; attention is the same before and after."""
    parts = [] if gauge.matrix_name == "identity" else [say(language, f"gauge_matrix_{gauge.matrix_name}")]
    if abs(math.log(gauge.scale)) >= 1e-9:
        parts.append(say(language, "gauge_scale", scale=gauge.scale))
    done = say(language, "list_comma").join([*parts, say(language, f"gauge_translation_{gauge.translation_name}")])
    chosen = "_chosen" if gauge.curve_names else ""
    return say(language, f"gauge_unchanged{chosen}", done=f"{done[0].upper()}{done[1:]}")


def _candidate(language: Language, name: str) -> str:
    """Return what the page calls a choice of matrix and translation, such as balanced/sphere."""
    return "/".join(strings(language).get(f"gauge_name_{part}", part) for part in name.split("/"))


def gauge_curves(gauge: Gauge, language: Language = "en") -> str:
    """Draw what the normalisation was chosen by: correlation of logit and distance against c, a line a candidate."""
    if not gauge.curve_names:
        return ""
    width, height = 260.0, 90.0
    chosen = f"{gauge.matrix_name}/{gauge.translation_name}"
    values = gauge.curve_correlation
    least, most = float(values.min()), float(values.max())
    steps = np.log(gauge.curve_scale / gauge.curve_scale[:, gauge.curve_scale.shape[1] // 2, None])  # 0: equal spread

    def place(step: float, value: float) -> str:
        x = width * (step - steps[0, 0]) / (steps[0, -1] - steps[0, 0])
        return f"{x:.1f},{4 + (height - 8) * (most - value) / max(most - least, 1e-9):.1f}"

    lines = ""
    for name, line_steps, line in sorted(
        zip(gauge.curve_names, steps, values, strict=True), key=lambda c: c[0] == chosen
    ):
        points = " ".join(place(float(s), float(v)) for s, v in zip(line_steps, line, strict=True))
        style = "var(--accent)" if name == chosen else "var(--line)"
        says = plain(language, "gauge_curve", name=_candidate(language, name), best=float(line.min()))
        lines += (
            f'<polyline points="{points}" fill="none" stroke="{style}" stroke-width="{2 if name == chosen else 1.5}">'
            f"<title>{says}</title></polyline>"
        )
    says = plain(language, "gauge_curves", best=least, chosen=_candidate(language, chosen))
    return (
        f'<p class="small muted" style="margin:8px 0 2px">{says}</p><svg viewBox="0 0 {width:g} {height:g}" '
        f'style="width:100%;max-width:320px" role="img" aria-label="{plain(language, "gauge_curves_label")}">{lines}</svg>'
    )


def _score_table(language: Language, scores: Scores | None) -> str:
    if scores is None:
        return ""
    cells = "".join(
        f'<tr><td class="name">{explained(language, f"score_{name}")}</td>'
        + "".join(f'<td class="number{look}">{text}</td>' for look, text in _score_cells(language, scores, name))
        + "</tr>"
        for name in SCORES
    )
    measured = plain(language, "scores_measured", n_queries=scores.n_queries, n_sequences=scores.n_sequences)
    return (
        f'<p class="small muted">{measured}</p><table><tr class="muted"><td></td>'
        f'<td class="number">{plain(language, "scores_map")}</td>'
        f'<td class="number">{explained(language, "scores_interval")}</td>'
        f'<td class="number">{explained(language, "scores_no_map")}</td></tr>{cells}</table>'
    )


def _score_cells(language: Language, scores: Scores, name: str) -> list[tuple[str, str]]:
    """Return class and text of a score, its interval and the score of no map; empty where there is none."""
    low, high, no_map = (getattr(scores, of, math.nan) for of in (f"{name}_low", f"{name}_high", f"no_map_{name}"))
    value = getattr(scores, name)
    return [
        ("", "-" if math.isnan(value) else f"{value:.2f}"),
        (" muted", "" if math.isnan(low) else plain(language, "interval", low=low, high=high)),
        (" muted", "" if math.isnan(no_map) else f"{no_map:.2f}"),
    ]


def _statistic(language: Language, row: pd.Series, column: str) -> str:
    value = float(row[column])
    if math.isnan(value):
        return "-"
    if column == "entropy":
        most = plain(language, "entropy_of", uniform=float(row["entropy_uniform"]))
        return f"{value:.2f} <span class='muted'>{most}</span>"
    if column == "attention_distance":
        return plain(language, "tokens_unit", value=value)
    return f"{100 * value:.0f} %"


# ---------------------------------------------------------------- colours and the clicked token


def legend(what: Legend, *, markers: bool, hidden: Sequence[str] = (), language: Language = "en") -> str:
    """Explain the colours; `markers` adds how queries are told from keys when colour does not.

    hidden: kinds that are drawn faint. A click on an entry hides its kind, or shows it again: data-go is the address.
    """
    title = f"<h2>{plain(language, 'legend_title', title=what.title)}</h2>"
    if what.continuous:
        low, high = plain(language, "legend_low", value=what.low), plain(language, "legend_high", value=what.high)
        if what.scale:  # beyond whose ends there is nothing
            low, high = escape(what.low), escape(what.high)
        body = (
            f'<div class="scale" style="background:linear-gradient(90deg, {", ".join(what.scale) or SCALE})"></div>'
            f'<div class="between small muted"><span>{low}</span><span>{high}</span></div>'
        )
        body += f'<p class="small">{escape(what.note)}</p>' if what.note else ""
    else:
        tip = plain(language, "hidden_tip")
        entries = "".join(
            f'<div class="entry" role="button" tabindex="0" aria-pressed="{"true" if kind in hidden else "false"}" '
            f'title="{tip}" data-go="{_toggled(kind, hidden)}" style="cursor:pointer{FAINT if kind in hidden else ""}">'
            f'<span class="swatch{" key" if kind == "key" and not markers else ""}" '
            f'style="background:{colour}"></span><span class="label" title="{escape(name)}">{escape(name)}</span>'
            f'<span class="count">{"" if count < 0 else f"{count:,}"}</span></div>'
            for kind, (name, colour, count) in zip(what.kinds, what.entries, strict=True)
        )
        body = f'<div class="entries{" two" if len(what.entries) > 4 else ""}">{entries}</div>'
    if markers:
        grey = 'style="background:var(--muted)"'
        body += (
            f'<div class="entry small muted" style="margin-top:4px"><span class="swatch" {grey}></span>'
            f'{plain(language, "query")}<span style="width:14px"></span>'
            f'<span class="swatch key" {grey}></span>{plain(language, "key")}</div>'
        )
    note = plain(language, "legend_note", least=LEAST_SHOWN)
    return f'<div class="card">{title}{body}<p class="small muted" style="margin:6px 0 0">{note}</p></div>'


def _toggled(kind: str, hidden: Sequence[str]) -> str:
    """Return the address, as HTML, of hiding one kind more, or one fewer."""
    rest = tuple(other for other in hidden if other != kind)
    return escape(urlencode({"hidden": "\x1f".join(rest if kind in hidden else (*hidden, kind))}))


def token_card(shown: Shown, state: State) -> str:
    """Show the clicked token in its sequence, each token shaded by attention, and the strongest partners."""
    language = state.language
    if state.selected is None:
        return (
            f'<div class="card"><h2>{plain(language, "token_title")}</h2><p>{plain(language, "token_click")}</p>'
            f'<p class="small muted">{say(language, "token_keys_html")}</p></div>'
        )
    kind, row = state.selected
    rows = shown.sequence_rows(row)
    tokens = shown.index.tokens.iloc[rows]
    attention = selected_attention(shown, state)
    text, special = tokens["text"].astype(str).to_numpy(), tokens["is_special"].to_numpy()
    at = row - rows.start
    place = {"sequence": int(tokens["sequence"].iloc[0]), "at": at + 1, "n": len(text)}
    place["name"] = caption(shown.index, int(shown.sequence_number[row]))
    order = np.argsort(-attention, kind="stable")[:6]
    if shown.subject == "cross":  # where half of the tokens do not answer
        order = order[attention[order] > 0]
    if shown.modality == "audio":
        sequence = sound_strip(tokens, attention, at, kind)
    else:
        target = shown.index.n_source(int(shown.sequence_number[row])) if shown.subject == "cross" else None
        sequence = f'<div class="sentence">{_sentence(tokens, text, special, attention, at, kind, target or 0)}</div>'
    return (
        f'<div class="card"><h2>{plain(language, f"token_{kind}", token=text[at])}</h2>'
        f'{sequence}<p class="small muted" style="margin-top:6px">{plain(language, f"token_shading_{kind}")} '
        f"{plain(language, 'token_place', **place)}</p>"
        f"<table>{_partners(text, attention, order, kind, state.theme)}</table></div>"
    )


def _sentence(
    tokens: pd.DataFrame, text: np.ndarray, special: np.ndarray, attention: np.ndarray, at: int, kind: str, target: int
) -> str:
    """Return the tokens one after another, spaced as in the text; a long sequence is cut around the clicked token.

    target: the first token of the target of a pair, which begins a line; 0 where there is none.
    """
    first = max(0, min(at - SENTENCE_TOKENS // 2, len(text) - SENTENCE_TOKENS))
    last = min(len(text), first + SENTENCE_TOKENS)
    start, end = tokens["start"].to_numpy(), tokens["end"].to_numpy()
    hue = "var(--key)" if kind == "query" else "var(--query)"
    pieces = ["&hellip; "] if first else []
    for i in range(first, last):
        share = 100 * float(attention[i]) ** 0.5
        classes = "token" + (" clicked" if i == at else "") + (" special" if special[i] else "")
        shade = f"background:color-mix(in srgb, {hue} {0.85 * share:.0f}%, transparent)"
        joined = i > first and start[i] >= 0 and start[i] == end[i - 1]
        pieces.append(
            f'{"<br>" if i == target > 0 else "" if joined or i == first else " "}<span class="{classes}" style="{shade}" '
            f'title="{100 * float(attention[i]):.1f} %">{escape(text[i])}</span>'
        )
    return "".join(pieces) + (" &hellip;" if last < len(text) else "")


def _partners(text: np.ndarray, attention: np.ndarray, order: np.ndarray, kind: str, theme: str) -> str:
    colour = KEY_COLOUR[theme] if kind == "query" else QUERY_COLOUR[theme]
    largest = max((float(attention[i]) for i in order), default=1.0) or 1e-9
    return "".join(
        f'<tr><td style="max-width:110px;overflow:hidden;text-overflow:ellipsis;white-space:nowrap" '
        f'title="{escape(text[i])}">{escape(text[i])}</td><td class="number muted small" style="padding:0 8px">{i + 1}</td>'
        f'<td style="width:50%"><div class="bar" style="background:{colour};'
        f'width:{100 * float(attention[i]) / largest:.1f}%"></div></td>'
        f'<td class="number">{100 * float(attention[i]):.1f} %</td></tr>'
        for i in order
    )
