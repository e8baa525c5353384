"""Words: what the page says, as small pieces of HTML.

In: records of the index and of `select`. Out: HTML in which every text of the corpus is escaped. Draws no points.
"""

from __future__ import annotations

import math
from html import escape
from typing import TYPE_CHECKING

import numpy as np
from bokeh.palettes import Cividis256

from qkspace.app.colours import KEY_COLOUR, QUERY_COLOUR, Legend
from qkspace.app.select import LEAST_SHOWN, Shown, State, selected_attention
from qkspace.report import in_words, margin_in_words, verdict

if TYPE_CHECKING:
    import pandas as pd

    from qkspace.fidelity import Scores
    from qkspace.index import Index, View
    from qkspace.normalise import Gauge

SENTENCE_TOKENS = 160  # shown of the clicked token's sequence, around it
MATRICES = {"identity": "", "balanced": "both clouds given the same spread in every direction, "}
TRANSLATIONS = {
    "none": "keys not moved",
    "centroid": "keys moved onto the centre of the queries",
    "sphere": "keys moved so that they lie as near to a sphere as they can",
}
EXPLAIN = {
    "entropy": ("entropy", "how spread out the head's attention is, in nats; beside it, equal attention to all"),
    "attention_to_special": ("to special tokens", "share of attention that goes to [CLS], [SEP], <s> and the like"),
    "attention_to_first": ("to the first token", "share of attention that goes to the first token of the sequence"),
    "attention_to_previous": ("to the previous token", "share of attention to the token just before"),
    "attention_to_next": ("to the next token", "share of attention to the token just after"),
    "attention_to_self": ("to itself", "share of attention of a token to itself"),
    "attention_distance": ("mean distance", "how many tokens away attention goes, on average"),
}

SCORE_NAMES = {
    "recall1": "nearest key is the most attended",
    "recall3": "most attended among 3 nearest",
    "recall1_content": "the first, ordinary words alone",
    "recall3_content": "the second, ordinary words alone",
    "attention_kl": "nats lost (attention KL)",
    "weighted_correlation": "weighted correlation (-1 best)",
    "spearman": "rank correlation (-1 best)",
    "trustworthiness": "trustworthiness of the map",
}
SCALE = ", ".join(Cividis256[i] for i in range(0, 256, 15))
HEADS_TITLE = (
    '<h2 style="margin:0 0 2px">All heads (click to open)</h2><div class="small muted">Tokens whose nearest key is '
    f'right:</div><div class="between small muted" style="gap:6px"><span>none</span><span class="scale" '
    f'style="flex:1;background:linear-gradient(90deg, {SCALE})"></span><span>all</span></div>'
    '<div class="small muted">Small square: poor or not scored, do not believe that map.</div>'
)


def header(index: Index) -> str:
    """Say which model and corpus the page shows."""
    corpus = " + ".join(escape(source["source"].rsplit("/", 1)[-1]) for source in index.manifest["made_from"]["corpus"])
    return (
        f'<div class="line"><span class="brand">qk<span>space</span></span>'
        f'<span class="what"><b>{escape(index.model_name)}</b> '
        f"reading <b>{corpus}</b> &middot; {index.n_layers} layers &times; {index.n_heads} heads &middot; "
        f"{index.n_tokens:,} tokens of {len(index.sequences):,} sequences</span></div>"
    )


def head_card(shown: Shown, state: State) -> str:
    """Say how far the map of a head can be trusted, what the head does, and how its vectors were normalised."""
    view, head = shown.view(state), shown.head(state)
    scores, reason = view.scores, view.reason
    word = "not scored" if scores is None else verdict(scores.recall1, scores.recall1_content)
    table = shown.head_table
    row = table[(table["layer"] == state.layer) & (table["head"] == state.head)].iloc[0]
    trust = "".join(f"<p>{escape(sentence)}</p>" for sentence in in_words(scores, reason))
    if margin := margin_in_words(scores):
        trust += f'<p class="small muted">{escape(margin)}</p>'
    if scores is not None and word == "poor":
        about = "" if verdict(scores.recall1, math.nan) == "poor" else " about ordinary words"
        trust = (
            f'<p class="poor"><b>Do not believe this map{about}:</b> what is near is often not what is attended to. Look at '
            f"the links and the sentence instead.</p>{trust}"
        )
    statistics = "".join(
        f'<tr><td class="name"><span class="why" title="{escape(explanation)}">{name}</span></td>'
        f'<td class="number">{_statistic(row, column)}</td></tr>'
        for column, (name, explanation) in EXPLAIN.items()
    )
    badge = f'<span class="badge {word if word in ("good", "fair", "poor") else "muted"}">{"no" if reason else word} map</span>'
    kv = (
        f'<p class="small muted">It reads key head {head.kv_head} of its layer.</p>'
        if head.spec.n_kv_heads != head.spec.n_heads
        else ""
    )
    return (
        f'<div class="card"><div class="between"><span class="title">Layer {state.layer}, head {state.head}</span>{badge}</div>'
        f'<div style="margin-top:8px">{kv}{trust}</div>'
        f'<h2 style="margin-top:10px">What the head looks at, over the whole corpus</h2><table>{statistics}</table>'
        f"{'' if reason else _placing(view)}</div>"
    )


def _placing(view: View) -> str:
    """Say how the vectors were normalised, and every score of the map."""
    return (
        "<details style='margin-top:8px'><summary>How queries and keys were placed</summary>"
        f'<p class="small muted" style="margin-top:6px">{gauge_words(view.gauge)}</p>'
        f"{gauge_curves(view.gauge)}{_score_table(view.scores)}</details>"
    )


def gauge_words(gauge: Gauge) -> str:
    """Say what was done to the vectors before the projection; attention is the same before and after."""
    scale = "" if abs(math.log(gauge.scale)) < 1e-9 else f"queries divided and keys multiplied by {gauge.scale:.3g}, "
    done = f"{MATRICES.get(gauge.matrix_name, '')}{scale}{TRANSLATIONS[gauge.translation_name]}"
    why = (
        "; it was chosen because it makes distance on the map follow attention most closely"
        if gauge.curve_names
        else ""
    )
    return f"{done[0].upper()}{done[1:]}. None of this changes attention{why}."


def gauge_curves(gauge: Gauge) -> str:
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
        lines += (
            f'<polyline points="{points}" fill="none" stroke="{style}" stroke-width="{2 if name == chosen else 1.5}">'
            f"<title>{escape(name)}: {float(line.min()):.2f} at best</title></polyline>"
        )
    return (
        '<p class="small muted" style="margin:8px 0 2px">Correlation of logit and distance on the PCA map (down is better, '
        f"{least:.2f} at best) against c, from half to twice the c of equal spread; one line for each choice of matrix and "
        f'translation, the chosen one dark: {escape(chosen)}.</p><svg viewBox="0 0 {width:g} {height:g}" '
        f'style="width:100%;max-width:320px" role="img" aria-label="correlation against c">{lines}</svg>'
    )


def _score_table(scores: Scores | None) -> str:
    if scores is None:
        return ""
    cells = "".join(
        f'<tr><td class="name">{title}</td>'
        + "".join(f'<td class="number{look}">{text}</td>' for look, text in _score_cells(scores, name))
        + "</tr>"
        for name, title in SCORE_NAMES.items()
    )
    return (
        f'<p class="small muted">Measured on {scores.n_queries:,} tokens of {scores.n_sequences:,} sequences that the map '
        'was not fitted on.</p><table><tr class="muted"><td></td><td class="number">map</td><td class="number">95 %</td>'
        f'<td class="number"><span class="why" title="distance in the full space, before the projection">no map</span></td>'
        f"</tr>{cells}</table>"
    )


def _score_cells(scores: Scores, name: str) -> list[tuple[str, str]]:
    """Return class and text of a score, its interval and the score of no map; empty where there is none."""
    low, high, no_map = (getattr(scores, of, math.nan) for of in (f"{name}_low", f"{name}_high", f"no_map_{name}"))
    value = getattr(scores, name)
    return [
        ("", "-" if math.isnan(value) else f"{value:.2f}"),
        (" muted", "" if math.isnan(low) else f"{low:.2f} to {high:.2f}"),
        (" muted", "" if math.isnan(no_map) else f"{no_map:.2f}"),
    ]


def _statistic(row: pd.Series, column: str) -> str:
    value = float(row[column])
    if math.isnan(value):
        return "-"
    if column == "entropy":
        return f"{value:.2f} <span class='muted'>of {float(row['entropy_uniform']):.2f}</span>"
    if column == "attention_distance":
        return f"{value:.1f} tokens"
    return f"{100 * value:.0f} %"


def legend(what: Legend, *, markers: bool) -> str:
    """Explain the colours; `markers` adds how queries are told from keys when colour does not."""
    title = f"<h2>Colour: {escape(what.title)}</h2>"
    if what.continuous:
        body = (
            f'<div class="scale" style="background:linear-gradient(90deg, {SCALE})"></div>'
            f'<div class="between small muted"><span>{escape(what.low)} or less</span>'
            f"<span>{escape(what.high)} or more</span></div>"
        )
    else:
        entries = "".join(
            f'<div class="entry"><span class="swatch{" key" if i and what.title == "Query and key" else ""}" '
            f'style="background:{colour}"></span><span class="label" title="{escape(name)}">{escape(name)}</span>'
            f'<span class="count">{"" if count < 0 else f"{count:,}"}</span></div>'
            for i, (name, colour, count) in enumerate(what.entries)
        )
        body = f'<div class="entries{" two" if len(what.entries) > 4 else ""}">{entries}</div>'
    if markers:
        body += (
            '<div class="entry small muted" style="margin-top:4px"><span class="swatch" style="background:var(--muted)"></span>'
            'query<span style="width:14px"></span><span class="swatch key" style="background:var(--muted)"></span>key</div>'
        )
    body += (
        '<p class="small muted" style="margin:6px 0 0">Only nearness counts: the axes mean nothing by themselves. The stronger '
        "a line, the more attention. After a click: a ring around the point, its sequence drawn large, its links from "
        f"{LEAST_SHOWN:.0%} of attention on.</p>"
    )
    return f'<div class="card">{title}{body}</div>'


def token_card(shown: Shown, state: State) -> str:
    """Show the clicked token in its sequence, each token shaded by attention, and the strongest partners."""
    if state.selected is None:
        return (
            '<div class="card"><h2>Token</h2><p>Click a point to see its token in its sentence and what it attends to.</p>'
            '<p class="small muted">Hover for a first look. Drag to move the map, scroll to zoom. '
            "<kbd>&larr;</kbd> <kbd>&rarr;</kbd> change the head, <kbd>&uarr;</kbd> <kbd>&darr;</kbd> the layer, "
            "<kbd>Esc</kbd> clears.</p></div>"
        )
    kind, row = state.selected
    rows = shown.sequence_rows(row)
    tokens = shown.index.tokens.iloc[rows]
    attention = selected_attention(shown, state)
    text, special = tokens["text"].astype(str).to_numpy(), tokens["is_special"].to_numpy()
    at = row - rows.start
    what = "looks for (its query)" if kind == "query" else "offers (its key)"
    says = (
        "Shading: how much of this token's attention goes to each token."
        if kind == "query"
        else "Shading: how much attention each token pays to this one."
    )
    order = np.argsort(-attention, kind="stable")[:6]
    return (
        f'<div class="card"><h2>What &ldquo;{escape(text[at])}&rdquo; {what}</h2>'
        f'<div class="sentence">{_sentence(tokens, text, special, attention, at, kind)}</div>'
        f'<p class="small muted" style="margin-top:6px">{says} Sequence {int(tokens["sequence"].iloc[0])}, '
        f"token {at + 1} of {len(text)}.</p><table>{_partners(text, attention, order, kind, state.theme)}</table></div>"
    )


def _sentence(
    tokens: pd.DataFrame, text: np.ndarray, special: np.ndarray, attention: np.ndarray, at: int, kind: str
) -> str:
    """Return the tokens one after another, spaced as in the text; a long sequence is cut around the clicked token."""
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
            f'{"" if joined or i == first else " "}<span class="{classes}" style="{shade}" '
            f'title="{100 * float(attention[i]):.1f} %">{escape(text[i])}</span>'
        )
    return "".join(pieces) + (" &hellip;" if last < len(text) else "")


def _partners(text: np.ndarray, attention: np.ndarray, order: np.ndarray, kind: str, theme: str) -> str:
    colour = KEY_COLOUR[theme] if kind == "query" else QUERY_COLOUR[theme]
    largest = max(float(attention[order[0]]), 1e-9)
    return "".join(
        f'<tr><td style="max-width:110px;overflow:hidden;text-overflow:ellipsis;white-space:nowrap" '
        f'title="{escape(text[i])}">{escape(text[i])}</td><td class="number muted small" style="padding:0 8px">{i + 1}</td>'
        f'<td style="width:50%"><div class="bar" style="background:{colour};'
        f'width:{100 * float(attention[i]) / largest:.1f}%"></div></td>'
        f'<td class="number">{100 * float(attention[i]):.1f} %</td></tr>'
        for i in order
    )
