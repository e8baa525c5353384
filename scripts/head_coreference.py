"""Tell which heads of attention point from a mention to its antecedent, as tables of Markdown.

    python scripts/head_coreference.py                                          MiniLM over GAP and over the demo corpus
    python scripts/head_coreference.py --model NAME_OR_FOLDER --out out/NAME
    python scripts/head_coreference.py --write docs/heads_coreference.md --part coreference

Builds the indexes in --out where they are not there yet. Heads are chosen on the development part of GAP and reported on its
test part; on the demo corpus, on halves. --write replaces what stands in a document between `<!-- PART: begin -->` and
`<!-- PART: end -->`.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from head_tables import add_options, packaged_model, put, table

from qkspace.console import Console
from qkspace.heads.antecedents import Candidates
from qkspace.heads.coreference import analyse
from qkspace.heads.found import Found
from qkspace.pipeline import build
from qkspace.schema import QKSpaceError

if TYPE_CHECKING:
    import pandas as pd

ROOT = Path(__file__).resolve().parents[1]
GAP = ROOT.parent / "shared" / "data" / "gap-coreference"
DEMO = ROOT / "data" / "demo.conllu"
MAX_LENGTH = 256  # tokens: nearly all passages of GAP
PARTS: tuple[tuple[str, str, Candidates], ...] = (
    ("gap", "GAP, among the three mentions of a passage", "mentions"),
    ("gap", "GAP, among all earlier words", "words"),
    ("demo", "The demo corpus, among earlier nouns, names and pronouns", "nominals"),
    ("demo", "The demo corpus, among all earlier words", "words"),
)
RULES = ("nearest", "head match", "rules", "chance")
NAME_RULES = ("nearest before", "first mentioned", "chance")


def main() -> None:
    """Build the indexes where they are missing, analyse them, and print or write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gap", type=Path, default=GAP, help="folder of the files of GAP")
    parser.add_argument("--out", type=Path, default=ROOT / "out" / "coreference", help="folder of the indexes")
    add_options(parser, "coreference")
    options = parser.parse_args()
    console = Console()
    corpora = {"gap": [options.gap / f"gap-{part}.tsv" for part in ("development", "test")], "demo": [DEMO]}
    settings: dict[str, Any] = {"methods": ["pca"], "dims": [2], "max_length": MAX_LENGTH, "console": console}
    try:
        model = options.model or packaged_model()
        indexes = {name: build(model, files, out=options.out / name, **settings) for name, files in corpora.items()}
        found = [analyse(indexes[name], candidates=among, console=console) for name, _, among in PARTS]
    except QKSpaceError as error:
        raise SystemExit(f"error: {error}") from error
    put(markdown(found), options.write, options.part, console)


def markdown(found: Sequence[Found]) -> str:
    """Return the tables of all parts, and that of the two names of GAP first."""
    names = found[0].tables
    lines = section(
        "GAP, the pronoun and its two names",
        names["coreference-gap-best"],
        names["coreference-gap-baselines"],
        "gender",
        NAME_RULES,
    )
    for (_, title, _), each in zip(PARTS, found, strict=True):
        best, rules = each.tables["coreference-best"], each.tables["coreference-baselines"]
        lines += section(title, best, rules, "kind", RULES)
    return "\n".join(lines).rstrip()


def section(title: str, best: pd.DataFrame, rules: pd.DataFrame, group: str, shown: Sequence[str]) -> list[str]:
    """Return the lines of one table: a row a group, the best head and the rules."""
    columns = (group, "n", "best head", "direction", "accuracy", *shown)
    rows = []
    accuracy = rules.set_index(["baseline", group])["accuracy"]
    for row in best.to_dict(orient="records"):
        cells = [str(row[group]), f"{row['n']:,}", f"L{row['layer']}H{row['head']}", str(row["direction"])]
        cells += [f"{row['accuracy']:.3f} ({row['low']:.3f} to {row['high']:.3f})"]
        rows.append([*cells, *(f"{accuracy[rule, row[group]]:.3f}" for rule in shown)])
    return [f"**{title}**", "", *table(columns, rows), "", best.attrs["note"], ""]


if __name__ == "__main__":
    main()
