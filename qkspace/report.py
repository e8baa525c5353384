"""Report: what an index holds and how far its maps can be trusted, in tables and in words.

In: an index. Out: rows of text, plain dictionaries and a word of judgement. Prints nothing and knows no picture.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from qkspace.index import Index

if TYPE_CHECKING:
    from qkspace.comparison.reader import Comparison

SCORE_TITLES = {
    "recall1": "recall@1",
    "recall3": "recall@3",
    "recall1_content": "@1 content",
    "recall3_content": "@3 content",
    "attention_kl": "KL",
    "weighted_correlation": "w.corr",
    "spearman": "spearman",
    "trustworthiness": "trust",
}
INTERVAL_TITLES = {name: title for name, title in SCORE_TITLES.items() if name != "trustworthiness"}
DRIFT_TITLES = {
    "js": "JS, nats",
    "noise_floor": "noise",
    "entropy_change": "entropy",
    "attention_to_sink_change": "to sink",
    "attention_to_previous_change": "to previous",
    "product_change": "weights",
    "logit_change": "logits",
}
DRIFT_CAPTION = (
    "The heads whose attention changed most. JS: Jensen-Shannon divergence of attention, mean over queries, 0 to 0.693; below "
    "noise it is what storage alone makes; entropy, attention to sink and to previous token: tuned less base; weights, logits: "
    "relative change of the query-key product and of what it makes of this corpus; *: shared with another head of the base. "
    "All of it: --json"
)
DRIFT_ROWS = 20
TOP_POSITION = 5  # heads that are named
VERDICTS = (("good", 0.7, 0.5), ("fair", 0.4, 0.25))  # from which recall1 and recall1_content a map is called so


def as_json(index: Index) -> dict[str, Any]:
    """Return everything the report says: the manifest without its files, and one record a head with every score."""
    table = index.head_table()
    heads = [
        {str(name): None if isinstance(value, float) and math.isnan(value) else value for name, value in row.items()}
        for row in table.to_dict(orient="records")
    ]
    for method, dims in index.maps:
        reasons = unmapped(index, method, dims)
        for head in heads:
            name = f"L{head['layer']}H{head['head']}"
            if name in reasons:  # the only column that most heads do not have
                head[f"{method}{dims}_reason"] = reasons[name]
    return {"index": str(index.root), **{k: v for k, v in index.manifest.items() if k != "files"}, "heads": heads}


def summary(index: Index) -> list[str]:
    """Say in a few lines what the index is of, how it was checked and what became of the corpus."""
    corpus, check, model = index.manifest["corpus"], index.manifest["check"], index.manifest["model"]
    kind = {"image": "images", "audio": "sounds"}.get(index.manifest.get("modality", "text"), "sequences")
    part = check.get("part", "self")
    lines = [
        (
            f"Model    {index.model_name} ({model['class']}, {model['n_parameters']:,} parameters): "
            f"{index.n_layers} layers x {index.n_heads} heads, d_head {index.d_head}"
            + ("" if part == "self" else f"; its {part} attention")
        ),
        (
            f"Corpus   {corpus['n_sequences']:,} {kind} read, {corpus['n_tokens']:,} tokens; stored "
            f"{corpus['n_tokens_stored']:,} tokens of {corpus['n_sequences_stored']:,} {kind}"
        ),
        (
            f"Check    attention recomputed from query and key differs from the model's own by at most "
            f"{check['recomputed_error']:.1g} (allowed {check['tolerance']:g}), "
            f"from {index.manifest['made_from']['storage']} storage by {check['stored_error']:.1g}"
        ),
    ]
    limit = corpus.get("max_length")
    for count, what in (
        (corpus["n_empty"], "without a token were left out"),
        (corpus["n_split"], f"longer than {limit} tokens were split into windows"),
        (corpus["n_cut"], f"longer than {limit} tokens were cut ({corpus['n_tokens_dropped']:,} tokens dropped)"),
    ):
        if count:
            lines.append(f"         {count:,} {kind} {what}")
    for name, stored in corpus["renamed"].items():
        lines.append(f"         column {name!r} of the corpus is stored as {stored!r}")
    return lines + position_lines(index)


def position_lines(index: Index) -> list[str]:
    """Say how much of attention is decided by position, on average and in the heads where it is most; [] if not measured."""
    table = index.head_table()
    if "position_share" not in table:
        return []
    measured = table.dropna(subset="position_share").sort_values("position_share", ascending=False, kind="stable")
    top = ", ".join(
        f"L{layer}H{head} {share:.0%}"
        for layer, head, share in measured[["layer", "head", "position_share"]]
        .head(TOP_POSITION)
        .itertuples(index=False)
    )
    is_position = index.has_unrotated or any(layer.position is not None for layer in index.layers)
    where = "is decided by position and not by content" if is_position else "is due to soft caps and sinks"
    mean, n = measured["position_share"].mean(), len(measured)
    return [f"Position {mean:.0%} of attention {where}, on average over {n} heads; most in {top}"]


def score_rows(index: Index, method: str, dims: int, *, intervals: bool = False) -> tuple[list[str], list[list[str]]]:
    """Return column titles and one row a head of one map: each score, the mean over heads last, or each score's interval.

    "no map @1" is recall@1 by distance in the full space.
    """
    table, prefix = index.head_table(), f"{method}{dims}_"
    reasons = unmapped(index, method, dims)
    titles = INTERVAL_TITLES if intervals else {**SCORE_TITLES, "no_map_recall1": "no map @1"}
    names = [name for name in titles if f"{prefix}{name}" in table]
    rows = []
    for row in table.to_dict(orient="records"):
        scores = {str(name).removeprefix(prefix): value for name, value in row.items()}
        head = f"L{int(row['layer'])}H{int(row['head'])}"
        word = verdict(scores.get("recall1", math.nan), scores.get("recall1_content", math.nan))
        cells = [_interval(scores, name) if intervals else _number(scores[name]) for name in names]
        rows.append([head, *cells, "not mapped" if head in reasons else word])
    if not intervals:
        rows.append(["mean", *(_number(float(table[f"{prefix}{name}"].mean())) for name in names), ""])
    return ["head", *(titles[name] for name in names), "the map is"], rows


def unmapped(index: Index, method: str, dims: int) -> dict[str, str]:
    """Return the heads that could not be mapped, by name, and why."""
    table = index.head_table()
    recall = table.get(f"{method}{dims}_recall1")
    unscored = table if recall is None else table[recall.isna()]
    heads = [index.head(*place) for place in zip(unscored["layer"].tolist(), unscored["head"].tolist(), strict=True)]
    return {head.name: reason for head in heads if (reason := head.projection(method, dims).reason)}


def _number(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.3f}"


def _interval(scores: dict[str, float], name: str) -> str:
    low, high = (scores.get(f"{name}_{end}", math.nan) for end in ("low", "high"))
    return "-" if math.isnan(low) else f"{low:.2f}{'-' if low >= 0 else ' to '}{high:.2f}"


def verdict(recall1: float, recall1_content: float) -> str:
    """Return one word for how far a map can be trusted: good, fair or poor; the worse of all tokens and of content alone."""
    if math.isnan(recall1):
        return "not scored"
    content = recall1 if math.isnan(recall1_content) else recall1_content
    for word, least, least_content in VERDICTS:
        if recall1 >= least and content >= least_content:
            return word
    return "poor"


def drift_rows(comparison: Comparison, label: str, top: int = DRIFT_ROWS) -> tuple[list[str], list[list[str]]]:
    """Return column titles and one row for each of the heads of a tuned checkpoint that changed most."""
    table = comparison.head_drift(label).sort_values("js", ascending=False, kind="stable").head(top)
    table["product_change"] = table["product_change"].where(
        table["product_from"] == "weights"
    )  # else it is that of logits
    titles = dict(DRIFT_TITLES)
    names = [name for name in titles if name in table and not table[name].isna().all()]
    is_matched = comparison.is_matched(label)
    rows = []
    for row in table.to_dict(orient="records"):
        cells = [f"L{row['layer']}H{row['head']}"]
        if is_matched:
            shared = "*" if row["is_shared"] else ""
            cells += [f"L{row['matched_layer']}H{row['matched_head']}{shared}", _number(row["match_cost"])]
        interval = "-" if math.isnan(row["js_low"]) else f"{row['js_low']:.4f}-{row['js_high']:.4f}"
        rows.append([*cells, interval, *(_small(row[name]) for name in names)])
    matched = ["beside", "cost"] if is_matched else []
    return ["head", *matched, "95 % of JS", *(titles[name] for name in names)], rows


def drift_json(comparison: Comparison) -> dict[str, Any]:
    """Return what was compared, and one record a tuned checkpoint and head with all that changed."""
    records = [
        {
            str(name): None if isinstance(value, float) and not math.isfinite(value) else value
            for name, value in row.items()
        }
        for row in comparison.drift.to_dict(orient="records")
    ]
    what = {k: v for k, v in comparison.manifest.items() if k != "files"}
    return {"comparison": str(comparison.root), **what, "drift": records}


def _small(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.0e}" if 0 < abs(value) < 1e-4 else f"{value:.4f}"
