"""Drawing: a sheet of paper measured in inches, text in fonts that have its characters, and files of it.

In: sizes, words, colours. Out: a matplotlib figure, and PNG, SVG or PDF. Knows no index, no head and no attention.
pyplot is never used, and only `save` touches the settings of the process, one picture at a time: a server draws in threads.
"""

from __future__ import annotations

import threading
import unicodedata
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, fontManager, get_font
from matplotlib.text import Text
from matplotlib.textpath import text_to_path
from numpy.typing import NDArray

from qkspace import __version__
from qkspace.app.style import THEMES
from qkspace.schema import FloatArray, QKSpaceError
from qkspace.store import replacing

DPI = 300  # of a PNG, and of the point clouds inside an SVG or PDF
PICTURES = (".png", ".svg", ".pdf")
WIDEST = 60  # inches
MARGIN = 0.12  # inches between the edge of the sheet and what is on it
LEADING = 1.35  # height of a line of text, in its size
PREFERRED = (
    *("Liberation Sans", "Arial", "Helvetica", "DejaVu Sans"),
    *("Noto Sans CJK JP", "Noto Sans CJK SC", "Noto Sans JP", "Source Han Sans", "IPAexGothic", "IPAGothic"),
    *("Hiragino Sans", "Yu Gothic", "MS Gothic", "WenQuanYi Zen Hei", "Noto Sans CJK KR", "Noto Sans CJK TC"),
)
EAST_ASIAN = {"CJK", "HIRAGANA", "KATAKANA", "HANGUL", "BOPOMOFO", "IDEOGRAPHIC", "FULLWIDTH", "HALFWIDTH"}
SETTINGS: Any = {
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "qkspace",  # names inside a file are the same each time
    "pdf.fonttype": 42,
    "path.simplify": False,
    "text.usetex": False,
}
_ONE_AT_A_TIME = threading.Lock()


@dataclass(frozen=True, slots=True)
class Font:
    """Which families a picture's characters need, in the order in which they are tried."""

    families: tuple[str, ...]
    missing: frozenset[int] = frozenset()  # characters that no installed family has

    @classmethod
    def of(cls, words: Iterable[str]) -> Font:
        """Choose the fewest installed families, the preferred ones first, that have every character that any has."""
        chosen, missing = [next((name for name in _installed() if name in PREFERRED), "DejaVu Sans")], set()
        for character in sorted(set(map(ord, set().union(*words)))):
            if not any(character in _characters(name) for name in chosen):
                having = next((name for name in _installed() if character in _characters(name)), None)
                chosen += [having] if having else []
                missing |= set() if having else {character}
        return cls((*chosen, "sans-serif"), frozenset(missing))

    def properties(self, size: float, weight: str = "normal") -> FontProperties:
        """Return the font as matplotlib wants it; size in points."""
        return FontProperties(family=list(self.families), size=size, weight=weight)

    def width(self, words: str, size: float) -> float:
        """Return how wide one line of text is, in inches."""
        if not words:
            return 0.0
        words = words.translate(dict.fromkeys(self.missing, "W"))  # the box that stands for it; `save` warns
        width, _, _ = text_to_path.get_text_width_height_descent(words, self.properties(size), False)
        return float(width) / 72

    def wrap(self, words: str, size: float, width: float) -> list[str]:
        """Break text into lines of at most `width` inches, between words where it can be."""
        lines = [""]
        for word in words.split(" "):
            longer = f"{lines[-1]} {word}".strip()
            if self.width(longer, size) <= width:
                lines[-1] = longer
                continue
            lines += [word] if lines[-1] else []
            lines[-1] = lines[-1] or word
            while len(lines[-1]) > 1 and self.width(lines[-1], size) > width:
                n = next(
                    n for n in range(len(lines[-1]) - 1, 0, -1) if n == 1 or self.width(lines[-1][:n], size) <= width
                )
                lines[-1:] = [lines[-1][:n], lines[-1][n:]]
        return lines

    def shorten(self, words: str, size: float, width: float) -> str:
        """Cut text that is wider than `width` inches, and say so by an ellipsis."""
        if self.width(words, size) <= width:
            return words
        n = next(n for n in range(len(words) - 1, -1, -1) if n == 0 or self.width(f"{words[:n]}…", size) <= width)
        return f"{words[:n]}…"


@lru_cache(maxsize=1)
def _installed() -> tuple[str, ...]:
    """Return the installed families, the preferred ones first; fonts of placeholders or coloured pictures are none."""
    names = {entry.name for entry in fontManager.ttflist if entry.style == "normal"}
    names -= {name for name in names if name.startswith(("Last Resort", ".")) or "Color Emoji" in name}
    first = [name for name in PREFERRED if name in names]
    return (*first, *sorted(names - set(first), key=lambda name: (not name.startswith("Noto Sans"), name)))


@cache
def _characters(family: str) -> frozenset[int]:
    """Return the characters that a family has glyphs for."""
    try:
        return frozenset(get_font(findfont(FontProperties(family=[family]), fallback_to_default=False)).get_charmap())
    except (OSError, RuntimeError, ValueError):  # a font that is listed but cannot be read is one that has nothing
        return frozenset()


def missing_characters(figure: Figure) -> list[str]:
    """Say which characters of a figure no font that its text names has, a line for each script, and what to install."""
    scripts: dict[str, set[str]] = {}
    for text in figure.findobj(Text):
        assert isinstance(text, Text)
        families = [name for name in (*text.get_fontfamily(), "DejaVu Sans") if name in _installed()]
        for character in {c for c in text.get_text() if not c.isspace()}:
            if not any(ord(character) in _characters(name) for name in families):
                script = unicodedata.name(character, f"U+{ord(character):04X}").split()[0].split("-")[0]
                scripts.setdefault(script, set()).add(character)
    lines = []
    for script, characters in sorted(scripts.items()):
        package = "fonts-noto-cjk" if script in EAST_ASIAN else "fonts-noto-core"
        examples = ", ".join(f"U+{ord(c):04X}" for c in sorted(characters)[:5])
        lines.append(
            f"No installed font has {len(characters)} characters of the block {script} ({examples}): a box stands for each. "
            f"Install a font that has them (Debian: apt install {package}) and draw again."
        )
    return lines


def visible(words: str) -> str:
    """Return text of a corpus as one line in which nothing is hidden: line breaks, tabs and control characters are signs."""
    shown = "".join(_sign(character) for character in words)
    return shown if shown.strip() else shown.replace(" ", "␣") or "∅"


def _sign(character: str) -> str:
    signs = {"\n": "↵", "\r": "↵", "\u2028": "↵", "\u2029": "↵", "\t": "→"}
    if character in signs:
        return signs[character]
    code, category = ord(character), unicodedata.category(character)
    if category == "Cs" or code & 0xFFFE == 0xFFFE:  # half a character, or none: XML has no place for it
        return "\ufffd"
    if category == "Cc":
        return f"<{code:02X}>"
    if category == "Cf" and character not in "\u200c\u200d":  # the joiners are part of how some scripts are written
        return f"<{code:04X}>"
    return " " if category == "Zs" else character


@dataclass(frozen=True, slots=True)
class Sheet:
    """A figure on which places are inches from its left and upper edge."""

    figure: Figure
    font: Font
    theme: str

    @classmethod
    def of(cls, width: float, height: float, font: Font, theme: str) -> Sheet:
        """Return an empty sheet of that size in the colours of a theme ("light" or "dark")."""
        return cls(Figure(figsize=(width, height), dpi=DPI, facecolor=THEMES[theme]["plot"]), font, theme)

    def colour(self, name: str) -> str:
        """Return a colour of the theme by its name there (ink, muted, line ...), or a colour as it is."""
        return THEMES[self.theme].get(name, name)

    def axes(self, left: float, top: float, width: float, height: float, *, inches: bool = False) -> Axes:
        """Return bare axes at a place; `inches`: measured from their own left and upper edge, as the sheet is."""
        w, h = self.figure.get_size_inches()
        axes = self.figure.add_axes((left / w, 1 - (top + height) / h, width / w, height / h), frameon=False)
        axes.set_axis_off()
        if inches:
            axes.set(xlim=(0, width), ylim=(height, 0))
        return axes

    def text(
        self, x: float, y: float, words: str, *, size: float = 7.5, colour: str = "ink", **options: Any
    ) -> Text:  # options: of matplotlib's text
        """Write one line whose upper left corner is at a place; nothing in it is taken for mathematics."""
        w, h = self.figure.get_size_inches()
        weight = options.pop("weight", "normal")
        look = {"va": "top", "color": self.colour(colour), "fontproperties": self.font.properties(size, weight)}
        return self.figure.text(x / w, 1 - y / h, words, parse_math=False, **{**look, **options})

    def paragraph(self, x: float, y: float, lines: Iterable[str], *, size: float = 7, colour: str = "muted") -> float:
        """Write lines below each other and return where the next would stand."""
        for line in lines:
            self.text(x, y, line, size=size, colour=colour)
            y += size * LEADING / 72
        return y


def unpack(colours: NDArray[np.uint32]) -> FloatArray:
    """Return packed colours 0xRRGGBBAA as shares of red, green, blue and opacity: (colour, 4)."""
    return np.stack([(colours >> shift & 0xFF) / 255 for shift in (24, 16, 8, 0)], axis=1)


def check_width(width: float) -> None:
    """Refuse a picture that could not be read or held in memory."""
    if not 2.5 <= width <= WIDEST:
        raise QKSpaceError(f"A picture is 2.5 to {WIDEST} inches wide; got {width:g}.")


def height_of(lines: list[str], size: float = 7) -> float:
    """Return how high a paragraph is, in inches."""
    return len(lines) * size * LEADING / 72


def check_path(path: str | Path, choices: Iterable[str]) -> Path:
    """Return where a file is to be written.

    Raises:
        QKSpaceError: its suffix is none of the choices, or its folder is not there.
    """
    path, choices = Path(path), tuple(choices)
    if path.suffix.lower() not in choices:
        raise QKSpaceError(f"{path}: the name says what is written; it must end in {' or '.join(choices)}.")
    if not path.parent.is_dir():
        raise QKSpaceError(f"{path}: there is no folder {path.parent}. Make it first: mkdir -p {path.parent}")
    return path


def save(figure: Figure, path: str | Path, *, dpi: int = DPI) -> Path:
    """Write a picture as PNG, SVG or PDF, whole or not at all; the same picture gives the same bytes.

    In SVG and PDF text and lines stay text and lines. A `UserWarning` names the characters that no installed font has.

    Args:
        figure: a picture.
        path: the file, which ends in .png, .svg or .pdf.
        dpi: pixels an inch of a PNG, and of point clouds inside the others.

    Raises:
        QKSpaceError: another suffix, or no such folder.
    """
    path = check_path(path, PICTURES)
    suffix = path.suffix.lower()
    for line in missing_characters(figure):
        warnings.warn(line, stacklevel=2)
    maker = f"qkspace {__version__}"
    metadata: dict[str, dict[str, Any]] = {
        ".png": {"Software": maker},
        ".svg": {"Creator": maker, "Date": None},
        ".pdf": {"Creator": maker, "CreationDate": None},
    }
    with _ONE_AT_A_TIME, matplotlib.rc_context(SETTINGS), warnings.catch_warnings(), replacing(path) as file:
        warnings.filterwarnings("ignore", "Glyph .* missing")
        figure.savefig(file, format=suffix[1:], dpi=dpi, metadata=metadata[suffix])
    return path
