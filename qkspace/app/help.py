"""Help: what the keys do, what the words of the page mean, how to read the badges, and the steps of the tour.

In: a language. Out: HTML of a dialog, and the tour's sentences. Knows no index, no state and no widgets.
"""

from __future__ import annotations

from typing import get_args

from qkspace.app.language import say
from qkspace.app.state import Language, Page
from qkspace.app.words import plain
from qkspace.report import VERDICTS

Keys = tuple[tuple[tuple[str, ...], str], ...]
KEYS: Keys = (  # pressed, and the sentence that says what it does
    (tuple(str(number + 1) for number in range(len(get_args(Page)))), "help_views"),
    (("&larr;", "&rarr;", "&uarr;", "&darr;"), "help_arrows"),
    (("/",), "help_search"),
    (("n", "p"), "help_next"),
    (("t",), "help_theme"),
    (("Esc",), "help_escape"),
    (("?",), "help_question"),
)
COMPARE_KEYS: Keys = ((("1", "2", "3", "4"), "compare_help_views"), ((",", "."), "compare_help_checkpoint"), *KEYS[1:])
COMPARE_GLOSSARY = (
    "js",
    "noise_floor",
    "interval",
    "sink",
    "value_js",
    "product_change",
    "logit_change",
    "cka",
    "link",
)
GLOSSARY = ("token", "query", "key", "attention", "layer", "head", "map", "sink")
SWATCHES = ("query", "key")  # of the glossary, which have a colour and a shape of their own
BADGES = (
    ("good", "good"),
    ("fair", "fair"),
    ("poor", "poor"),
    ("not_scored", "muted"),
    ("no_map", "muted"),
)  # and looks
N_STEPS = 5  # of the tour


def help_html(language: Language) -> str:
    """Return the dialog with what lies behind it; data-help="close" closes it, data-tour begins the tour."""
    tour = f"<button data-tour>{plain(language, 'tour_again')}</button>"
    return _dialog(language, f"{_keys(language)}{_badges(language)}", _glossary(language), tour)


def compare_help_html(language: Language) -> str:
    """Return the dialog of the page of a comparison."""
    entries = "".join(
        f"<dt>{plain(language, f'compare_word_{name}')}</dt><dd>{plain(language, f'compare_what_is_{name}')}</dd>"
        for name in COMPARE_GLOSSARY
    )
    return _dialog(
        language,
        _keys(language, COMPARE_KEYS),
        f"<h2>{plain(language, 'glossary')}</h2><dl>{entries}</dl>",
    )


def _dialog(language: Language, left: str, right: str, more: str = "") -> str:
    """Return a dialog of two halves; more: buttons beside the one that closes it."""
    close = plain(language, "help_close")
    return (
        '<div class="behind" data-help="behind"><section class="dialog" role="dialog" aria-modal="true" '
        'aria-labelledby="help-title" tabindex="-1">'
        f'<header class="between"><h1 id="help-title">{plain(language, "help")}</h1><span class="buttons">'
        f'{more}<button data-help="close" aria-keyshortcuts="Escape">{close}</button>'
        f'</span></header><p class="important" role="note">{plain(language, "not_importance")}</p>'
        f'<div class="halves"><div>{left}</div><div>{right}</div></div></section></div>'
    )


def tour_steps(language: Language) -> list[str]:
    """Return what the hints of the tour say, in their order."""
    return [say(language, f"tour_{step}") for step in range(1, N_STEPS + 1)]


def _keys(language: Language, known: Keys = KEYS) -> str:
    lines = [(" ".join(f"<kbd>{key}</kbd>" for key in keys), plain(language, name)) for keys, name in known]
    lines.append((plain(language, "help_keys_mouse"), plain(language, "help_mouse")))
    rows = "".join(f'<tr><th scope="row">{keys}</th><td>{what}</td></tr>' for keys, what in lines)
    return f"<h2>{plain(language, 'help_title')}</h2><table>{rows}</table>"


def _badges(language: Language) -> str:
    least = {word: {"all": 100 * tokens, "content": 100 * content} for word, tokens, content in VERDICTS}
    rows = "".join(
        f'<tr><th scope="row"><span class="badge {look}">{plain(language, f"badge_{name}")}</span></th>'
        f"<td>{plain(language, f'help_badge_{name}', **least.get(name, {}))}</td></tr>"
        for name, look in BADGES
    )
    how = plain(language, "help_badges_how")
    return f"<h2>{plain(language, 'help_badges')}</h2><p>{how}</p><table>{rows}</table>"


def _glossary(language: Language) -> str:
    entries = "".join(
        f"<dt>{_swatch(name)}{plain(language, f'glossary_{name}')}</dt><dd>{plain(language, f'what_is_{name}')}</dd>"
        for name in GLOSSARY
    )
    return f"<h2>{plain(language, 'glossary')}</h2><dl>{entries}</dl>"


def _swatch(name: str) -> str:
    return f'<span class="swatch {name}" style="background:var(--{name})"></span>' if name in SWATCHES else ""
