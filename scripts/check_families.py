"""Survey every model type of the installed transformers: is what qkspace captures the model's own attention?

    python scripts/check_families.py                                 all; writes qkspace/families.json, docs/models.md
    python scripts/check_families.py --families bert,t5 --out x.json some, into another file

Each family is built small, with random weights, and run once on a batch of two (`families/`), in worker processes. A record
that is not asked for again stays as it is in the file that is written.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch
import transformers
from families import tiny
from families.worker import survey_all

from qkspace import families

ROOT = Path(__file__).resolve().parents[1]


def main() -> None:
    """Run the survey that was asked for and write it down."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--families", help="model types, by commas (default: all that AutoModel knows)")
    parser.add_argument("--out", type=Path, default=families.FILE)
    parser.add_argument("--docs", type=Path, default=None, help="default docs/models.md where --out is not given")
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    names = options.families.split(",") if options.families else tiny.model_types()
    unknown = sorted(set(names) - set(tiny.model_types()))
    if unknown:
        raise SystemExit(f"AutoModel of transformers {transformers.__version__} does not know {', '.join(unknown)}.")
    records = survey_all(names, _show, options.workers)
    if options.families and options.out.exists():
        before = {record["model_type"]: record for record in json.loads(options.out.read_text())["families"]}
        records = list({**before, **{record["model_type"]: record for record in records}}.values())
    write(records, options.out)
    docs = options.docs or (ROOT / "docs" / "models.md" if options.out == families.FILE else None)
    if docs:
        docs.write_text(families.as_markdown(families.read(options.out)))


def write(records: list[dict[str, Any]], path: Path) -> None:
    """Write records sorted by name, a line each."""
    lines = [json.dumps(record, sort_keys=True) for record in sorted(records, key=lambda r: str(r["model_type"]))]
    head = {"transformers": transformers.__version__, "torch": torch.__version__.split("+")[0]}
    left_out = json.dumps(tiny.left_out(), sort_keys=True)
    body = ",\n".join(lines)
    path.write_text(f'{{"versions": {json.dumps(head)},\n"left_out": {left_out},\n"families": [\n{body}\n]}}\n')


def _show(record: dict[str, Any]) -> None:
    parts = ", ".join(f"{part['name']} ({part['route']}, {part['layers']})" for part in record["parts"])
    print(f"{record['model_type']:32s} {record['status']:16s} {parts or record.get('reason', '')[:200]}", flush=True)


if __name__ == "__main__":
    main()
