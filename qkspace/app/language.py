"""Language: every sentence of the page, in the visitor's language.

In: the name of a sentence and what is to be filled in. Out: the sentence. The sentences are in `strings/`, one file a
language, under the same names. A name ending in `_tip` is what a control says of itself when one points at it, one ending
in `_html` holds markup, and those beginning with `view_` are the attention viewer's own.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import lru_cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from qkspace.app.state import Language

LANGUAGES: dict[Language, str] = {"en": "English", "ja": "日本語"}


@lru_cache(maxsize=len(LANGUAGES))
def strings(language: Language) -> Mapping[str, str]:
    """Return all sentences of a language by name."""
    text = files("qkspace.app").joinpath("strings", f"{language}.json").read_text(encoding="utf-8")
    found: dict[str, str] = json.loads(text)
    return found


def say(language: Language, name: str, /, **values: Any) -> str:
    """Return a sentence with its {places} filled in.

    Raises:
        KeyError: there is no such sentence, or a place is not filled in.
    """
    sentence = strings(language)[name]
    return sentence.format(**values) if values else sentence
