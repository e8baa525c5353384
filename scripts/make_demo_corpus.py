"""Write the demo corpus: a seed in, `data/demo.conllu` out, the same bytes every time.

python scripts/make_demo_corpus.py --out data/demo.conllu
python scripts/make_demo_corpus.py --check
"""

import argparse
import sys
from pathlib import Path

from demo_corpus.generate import SEED, generate

DEFAULT_PATH = Path(__file__).resolve().parent.parent / "data" / "demo.conllu"


def main() -> int:
    """Write the corpus, or compare it with the file."""
    parser = argparse.ArgumentParser(description="Write the demo corpus of qkspace, or check it.")
    parser.add_argument("--out", type=Path, default=DEFAULT_PATH, help="the CoNLL-U file (default: data/demo.conllu)")
    parser.add_argument("--seed", type=int, default=SEED, help=f"the random seed (default: {SEED})")
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if the file differs")
    arguments = parser.parse_args()
    text = generate(arguments.seed)
    if not arguments.check:
        arguments.out.write_bytes(text.encode())
        print(f"{arguments.out}: {text.count('# sent_id')} sentences")
        return 0
    if not arguments.out.exists() or arguments.out.read_bytes() != text.encode():
        print(
            f"{arguments.out} is missing or is not what seed {arguments.seed} gives; run this without --check",
            file=sys.stderr,
        )
        return 1
    print(f"{arguments.out}: as generated")
    return 0


if __name__ == "__main__":
    sys.exit(main())
