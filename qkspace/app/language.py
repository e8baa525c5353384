"""Language: every sentence of the page, in the visitor's language.

In: the name of a sentence and what is to be filled in. Out: the sentence. The sentences are in `strings/`, one file a
language, under the same names. Where tokens are no words but patches of an image ("en+image") or frames of a sound, or where
those of one text ask those of another ("en+cross"), `Language` says so, and the sentence called NAME_image stands for NAME, if
there is one. A name ending in `_tip` is what a control says of itself
when one points at it, one ending in `_html` holds markup, and those beginning with `view_` or `image_` are the viewers' own.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import lru_cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from qkspace.app.state import Language

LANGUAGES: dict[Language, str] = {"en": "English", "ja": "日本語"}
SUBJECTS = ("image", "audio", "cross", "decoder")  # of which a page speaks otherwise than of texts


def tongue(language: Language) -> str:
    """Return the language itself, whatever it speaks of."""
    return language.partition("+")[0]


def spoken(language: Language, subject: str) -> Language:
    """Return a language as it speaks of what an index is of ("text", "image", "cross", ...)."""
    return cast("Language", f"{tongue(language)}+{subject}" if subject in SUBJECTS else tongue(language))


@lru_cache(maxsize=len(LANGUAGES) * (1 + len(SUBJECTS)))
def strings(language: Language) -> Mapping[str, str]:
    """Return all sentences of a language by name."""
    name, _, subject = language.partition("+")
    text = files("qkspace.app").joinpath("strings", f"{name}.json").read_text(encoding="utf-8")
    found: dict[str, str] = json.loads(text)
    end = f"_{subject}"
    return found | {each.removesuffix(end): found[each] for each in found if subject and each.endswith(end)}


def say(language: Language, name: str, /, **values: Any) -> str:
    """Return a sentence with its {places} filled in.

    Raises:
        KeyError: there is no such sentence, or a place is not filled in.
    """
    sentence = strings(language)[name]
    return sentence.format(**values) if values else sentence
