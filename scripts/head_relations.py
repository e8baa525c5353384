"""Tell which heads of attention point along dependency relations, as a table of Markdown.

    python scripts/head_relations.py                                            MiniLM over UD English EWT, dev and test
    python scripts/head_relations.py --corpus DEV.conllu TEST.conllu --out out/NAME --model NAME_OR_FOLDER
    python scripts/head_relations.py --write docs/heads.md --part relations-ewt

Builds the index in --out where it is not there yet. Heads and offsets are chosen on the first file and reported on the
second. --write replaces what stands in a document between `<!-- PART: begin -->` and `<!-- PART: end -->`.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from head_tables import add_options, packaged_model, put, table

from qkspace.console import Console
from qkspace.heads import kept
from qkspace.heads.attachment import SCORES
from qkspace.heads.relations import analyse
from qkspace.pipeline import build
from qkspace.schema import QKSpaceError

if TYPE_CHECKING:
    import pandas as pd

ROOT = Path(__file__).resolve().parents[1]
EWT = [ROOT.parent / "shared" / "data" / "ud-english-ewt" / f"en_ewt-ud-{part}.conllu" for part in ("dev", "test")]
GAIN = 0.10  # by which a head is to beat the best offset


def main() -> None:
    """Build the index where it is missing, analyse it, keep the tables in it, and print or write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--corpus", nargs=2, type=Path, default=EWT, help="two files of CoNLL-U: to choose on, to report on"
    )
    parser.add_argument("--out", type=Path, default=ROOT / "out" / "relations-MiniLM", help="folder of the index")
    parser.add_argument("--min-count", type=int, default=50, help="words of a relation in each file (default 50)")
    add_options(parser, "relations-ewt")
    options = parser.parse_args()
    console = Console()
    try:
        model = options.model or packaged_model()
        index = build(model, options.corpus, out=options.out, methods=["pca"], dims=[2], console=console)
        names = {"choose": options.corpus[0].name, "report": options.corpus[1].name}
        found = analyse(index, **names, min_count=options.min_count, console=console)
        kept.keep(index, "relations", found.tables, head_columns=found.head_columns, parameters=found.parameters)
    except QKSpaceError as error:
        raise SystemExit(f"error: {error}") from error
    put(markdown(found.tables["relations-best"]), options.write, options.part, console)


def markdown(best: pd.DataFrame) -> str:
    """Return the table of best heads, and how many of them beat the best offset clearly."""
    columns = ("relation", "words", "best head", "direction", "accuracy", "best offset", "its accuracy", "gain")
    lines = table(columns, [cells(row) for row in best.to_dict(orient="records")])
    relations = best[~best["relation"].isin(SCORES)]
    main = relations[~relations["relation"].str.contains(":")]
    clear, sure = main[main["gain"] >= GAIN], main[main["gain_low"] >= GAIN]
    subtypes = relations.drop(main.index)
    less = main[main["gain"] < 0]
    counted = (
        f"Of {len(main)} relations, {len(clear)} have a head that beats the best offset by {100 * GAIN:.0f} points or more "
        f"({', '.join(clear['relation'])}), and of {len(sure)} the whole interval lies there ({', '.join(sure['relation'])}); "
        f"of {len(subtypes)} subtypes, which their relations include, {(subtypes['gain'] >= GAIN).sum()} have. "
        f"Relations whose best head does worse than the best offset: {', '.join(less['relation']) or 'none'}."
    )
    return "\n".join([*lines, "", counted, "", best.attrs["note"]])


def cells(row: dict[Any, Any]) -> list[str]:
    """Return the cells of a relation."""
    return [
        str(row["relation"]),
        f"{row['n_report']:,}",
        f"L{row['layer']}H{row['head']}",
        str(row["direction"]),
        f"{row['accuracy']:.3f} ({row['low']:.3f} to {row['high']:.3f})",
        f"{row['offset']:+d}",
        f"{row['offset_accuracy']:.3f}",
        f"{row['gain']:+.3f} ({row['gain_low']:+.3f} to {row['gain_high']:+.3f})",
    ]


if __name__ == "__main__":
    main()
