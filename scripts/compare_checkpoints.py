"""Show what changed between checkpoints, over a corpus: `qkspace compare` as a script.

python scripts/compare_checkpoints.py --base A --tuned B [--tuned C ...] --corpus FILE --out out/NAME
"""

from qkspace.cli import compare_main

if __name__ == "__main__":
    raise SystemExit(compare_main())
