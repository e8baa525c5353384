"""Write the labelled sentences: a seed in, `data/intents-train.jsonl` and `data/intents-test.jsonl` out.

python scripts/make_intents.py --out data
python scripts/make_intents.py --check
"""

import argparse
import sys
from pathlib import Path

from demo_corpus.intents import SEED, generate

DEFAULT_FOLDER = Path(__file__).resolve().parent.parent / "data"


def main() -> int:
    """Write the files, or compare them with what the seed gives."""
    parser = argparse.ArgumentParser(description="Write the labelled sentences of qkspace, or check them.")
    parser.add_argument("--out", type=Path, default=DEFAULT_FOLDER, help="the folder (default: data)")
    parser.add_argument("--seed", type=int, default=SEED, help=f"the random seed (default: {SEED})")
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if a file differs")
    arguments = parser.parse_args()
    status = 0
    for part, text in generate(arguments.seed).items():
        path = arguments.out / f"intents-{part}.jsonl"
        if not arguments.check:
            path.write_bytes(text.encode())
            print(f"{path}: {text.count(chr(10))} sentences")
        elif path.exists() and path.read_bytes() == text.encode():
            print(f"{path}: as generated")
        else:
            says = f"is missing or is not what seed {arguments.seed} gives; run this without --check"
            print(f"{path} {says}", file=sys.stderr)
            status = 1
    return status


if __name__ == "__main__":
    sys.exit(main())
