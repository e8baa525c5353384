"""Make an index of a checkpoint and a corpus: `qkspace build` as a script.

python scripts/build_index.py --model NAME_OR_FOLDER --corpus FILE --out out/NAME [--max-tokens N]
"""

from qkspace.cli import build_main

if __name__ == "__main__":
    raise SystemExit(build_main())
