"""Report: what an index holds and how far its maps can be trusted, in tables and in words.

In: an index. Out: rows of text, plain dictionaries and sentences. Prints nothing and knows no picture.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from qkspace.index import Index

if TYPE_CHECKING:
    from qkspace.fidelity import Scores

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
VERDICTS = (("good", 0.7, 0.5), ("fair", 0.4, 0.25))  # from which recall1 and recall1_content a map is called so


def as_json(index: Index) -> dict[str, Any]:
    """Return everything the report says: the manifest without its files, and one record a head with every score."""
    table = index.head_table()
    heads = [
        {name: None if isinstance(value, float) and math.isnan(value) else value for name, value in row.items()}
        for row in table.to_dict(orient="records")
    ]
    return {"index": str(index.root), **{k: v for k, v in index.manifest.items() if k != "files"}, "heads": heads}


def summary(index: Index) -> list[str]:
    """Say in a few lines what the index is of, how it was checked and what became of the corpus."""
    corpus, check, model = index.manifest["corpus"], index.manifest["check"], index.manifest["model"]
    lines = [
        (
            f"Model    {index.model_name} ({model['class']}, {model['n_parameters']:,} parameters): "
            f"{index.n_layers} layers x {index.n_heads} heads, d_head {index.d_head}"
        ),
        (
            f"Corpus   {corpus['n_sequences']:,} sequences read, {corpus['n_tokens']:,} tokens; stored "
            f"{corpus['n_tokens_stored']:,} tokens of {corpus['n_sequences_stored']:,} sequences"
        ),
        (
            f"Check    attention recomputed from query and key differs from the model's own by at most "
            f"{check['recomputed_error']:.1g} (allowed {check['tolerance']:g}), "
            f"from {index.manifest['made_from']['storage']} storage by {check['stored_error']:.1g}"
        ),
    ]
    limit = corpus["max_length"]
    for count, what in (
        (corpus["n_empty"], "without a token were left out"),
        (corpus["n_split"], f"longer than {limit} tokens were split into windows"),
        (corpus["n_cut"], f"longer than {limit} tokens were cut ({corpus['n_tokens_dropped']:,} tokens dropped)"),
    ):
        if count:
            lines.append(f"         {count:,} sequences {what}")
    for name, stored in corpus["renamed"].items():
        lines.append(f"         column {name!r} of the corpus is stored as {stored!r}")
    return lines


def score_rows(index: Index, method: str, dims: int) -> tuple[list[str], list[list[str]]]:
    """Return column titles and one row a head of one map's scores, the mean over heads last."""
    table = index.head_table()
    names = [name for name in SCORE_TITLES if f"{method}{dims}_{name}" in table]
    columns = [f"{method}{dims}_{name}" for name in names]
    rows = [
        [
            f"L{int(row['layer'])}H{int(row['head'])}",
            *(_number(row[c]) for c in columns),
            verdict(row[columns[0]], row[columns[2]]),
        ]
        for row in table.to_dict(orient="records")
        if columns
    ]
    if columns:
        rows.append(["mean", *(_number(float(table[c].mean())) for c in columns), ""])
    return ["head", *(SCORE_TITLES[name] for name in names), "the map is"], rows


def _number(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.3f}"


def verdict(recall1: float, recall1_content: float) -> str:
    """Return one word for how far a map can be trusted: good, fair or poor; the worse of all tokens and of content alone."""
    if math.isnan(recall1):
        return "not scored"
    content = recall1 if math.isnan(recall1_content) else recall1_content
    for word, least, least_content in VERDICTS:
        if recall1 >= least and content >= least_content:
            return word
    return "poor"


def in_words(scores: Scores | None) -> list[str]:
    """Say what the scores of a map mean to somebody who does not know them."""
    if scores is None:
        return ["This corpus has a single sequence, so nothing could be held out and the map is not scored."]
    lines = [
        f"For {_in_ten(scores.recall1)} tokens, the nearest key of the same sequence is the one the token attends to most."
    ]
    if not math.isnan(scores.recall1_content):
        lines.append(
            f"Among ordinary words alone (no special or first tokens) it is {_in_ten(scores.recall1_content)}."
        )
    lines.append(
        f"Reading attention off the map loses {scores.attention_kl:.2f} nats a token "
        f"({'little' if scores.attention_kl < 0.25 else 'some' if scores.attention_kl < 0.75 else 'much'})."
    )
    return lines


def _in_ten(share: float) -> str:
    if math.isnan(share):
        return "an unknown share of"
    tenths = round(10 * share)
    return "nearly all" if share >= 0.95 else "almost no" if tenths == 0 else f"{tenths} of 10"
