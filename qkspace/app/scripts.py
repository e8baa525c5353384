"""Scripts: the JavaScript of the page, read from `static/`.

In: a name. Out: code for a `CustomJS`.
"""

from __future__ import annotations

from functools import lru_cache
from importlib.resources import files


@lru_cache(maxsize=32)
def script(name: str) -> str:
    """Return the code in static/NAME.js."""
    return files("qkspace.app").joinpath("static", f"{name}.js").read_text(encoding="utf-8")
