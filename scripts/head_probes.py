"""Train probes of dependency trees on attention, and print how often each finds the head of a word, as tables of Markdown.

    python scripts/head_probes.py                                           MiniLM: 4,000 sentences of UD English EWT, its test
    python scripts/head_probes.py --corpus TRAIN.conllu TEST.conllu --out out/NAME --model NAME_OR_FOLDER
    python scripts/head_probes.py --write docs/heads_probes.md --part probes-ewt

Builds the index in --out where it is not there yet, of so many sentences of the first file, drawn at random, and all of the
second. --write replaces what stands in a document between `<!-- PART: begin -->` and `<!-- PART: end -->`.
"""

from __future__ import annotations

import argparse
import random
from pathlib import Path
from typing import TYPE_CHECKING, Any

import head_tables
from head_tables import add_options, packaged_model, put

from qkspace.console import Console
from qkspace.heads import kept
from qkspace.heads.probes import analyse
from qkspace.pipeline import build
from qkspace.schema import QKSpaceError

if TYPE_CHECKING:
    import pandas as pd

ROOT = Path(__file__).resolve().parents[1]
EWT = [ROOT.parent / "shared" / "data" / "ud-english-ewt" / f"en_ewt-ud-{part}.conllu" for part in ("train", "test")]
ALL_TOKENS = 10_000_000
SHOWN_HEADS, SHOWN_RELATIONS = 10, 20


def main() -> None:
    """Build the index where it is missing, train the probes, keep their tables in it, and print or write them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--corpus", nargs=2, type=Path, default=EWT, help="two files of CoNLL-U: to train, to report on"
    )
    parser.add_argument("--sentences", type=int, default=4_000, help="drawn of the first file (default 4000)")
    parser.add_argument("--out", type=Path, default=ROOT / "out" / "probes-MiniLM", help="folder of index and sample")
    parser.add_argument("--seed", type=int, default=0, help="of the sample, the probes and the bootstrap (default 0)")
    add_options(parser, "probes-ewt")
    options = parser.parse_args()
    console = Console()
    sample = options.out / "train.conllu"
    write_sample(options.corpus[0], sample, options.sentences, options.seed)
    try:
        model, sources = options.model or packaged_model(), [sample, options.corpus[1]]
        maps: dict[str, Any] = {"methods": ["pca"], "dims": [2], "max_tokens": ALL_TOKENS}
        index = build(model, sources, out=options.out / "index", **maps, console=console)
        files = {"choose": sample.name, "report": options.corpus[1].name}
        found = analyse(index, **files, max_sentences=options.sentences, seed=options.seed, console=console)
        kept.keep(index, "probes", found.tables, head_columns=found.head_columns, parameters=found.parameters)
    except QKSpaceError as error:
        raise SystemExit(f"error: {error}") from error
    text = "\n\n".join([scores(found.tables), relations(found.tables), heads(found.tables)])
    put(text, options.write, options.part, console)


def write_sample(corpus: Path, out: Path, n: int, seed: int) -> None:
    """Write so many sentences of a file of CoNLL-U, drawn at random, in their order."""
    sentences = [each for each in corpus.read_text(encoding="utf-8").split("\n\n") if each.strip()]
    chosen = sorted(random.Random(seed).sample(range(len(sentences)), min(n, len(sentences))))
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text("\n\n".join(sentences[i] for i in chosen) + "\n\n", encoding="utf-8")


def scores(tables: Any) -> str:
    """Return the score of each probe, and what it was measured over."""
    table = tables["probes-scores"]
    lines = [
        [
            row["probe"],
            f"{row['uas']:.1%} ({row['low']:.1%} to {row['high']:.1%})",
            f"{row['uas_with_punctuation']:.1%}",
            row["chosen"],
            f"{row['seconds']:.0f}",
        ]
        for row in table.to_dict(orient="records")
    ]
    columns = ["probe", "UAS", "with punctuation", "chosen", "seconds"]
    counts = f"{table['n_words'][0]:,} words, {table['n_words_with_punctuation'][0]:,} with punctuation."
    return f"{markdown(columns, lines)}\n\n{table.attrs['note']} {counts}"


def relations(tables: Any) -> str:
    """Return the accuracy of the probes on the most frequent relations."""
    table: pd.DataFrame = tables["probes-relations"]
    wide = table.pivot(index="relation", columns="probe", values="accuracy")[list(tables["probes-scores"]["probe"])]
    n = table.groupby("relation")["n"].first().sort_values(ascending=False).head(SHOWN_RELATIONS)
    lines = [[name, f"{n[name]:,}", *(f"{share:.0%}" for share in wide.loc[name])] for name in n.index]
    return markdown(["relation", "words", *wide.columns], lines)


def heads(tables: Any) -> str:
    """Return the heads with most weight in the probe of attention alone."""
    table = tables["probes-weights"].query("probe == 'attention'").nlargest(SHOWN_HEADS, "importance")
    share = table["importance"] / tables["probes-weights"].query("probe == 'attention'")["importance"].sum()
    rows = zip(table["layer"], table["head"], table["direction"], table["weight"], share, strict=True)
    lines = [[f"L{layer}H{head}", to, f"{weight:+.2f}", f"{part:.1%}"] for layer, head, to, weight, part in rows]
    return markdown(["head", "direction", "weight", "share of all weights"], lines)


def markdown(columns: list[str], lines: list[list[str]]) -> str:
    """Return a table of Markdown."""
    return "\n".join(head_tables.table(columns, lines, are_numbers=True))


if __name__ == "__main__":
    main()
