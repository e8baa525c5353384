"""Tests of `qkspace.app.style`: everything that is read can be read (WCAG 2.2, level AA), in both themes."""

from __future__ import annotations

import pytest

from qkspace.app.colours import CATEGORIES, DARK_CATEGORIES, KEY_COLOUR, LINK_COLOUR, QUERY_COLOUR
from qkspace.app.style import THEMES

TEXT, PICTURE = 4.5, 3.0  # least contrast of text, and of what is not text but must be seen


def luminance(colour: str) -> float:
    """Return the relative luminance as WCAG defines it."""
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def test_contrast_is_that_of_the_standard() -> None:
    assert contrast("#000000", "#FFFFFF") == pytest.approx(21)
    assert contrast("#777777", "#FFFFFF") == pytest.approx(4.48, abs=0.01)


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("ground", ["page", "card", "field", "plot"])
@pytest.mark.parametrize("ink", ["ink", "muted", "accent", "good", "fair", "poor"])
def test_text_can_be_read_on_every_ground(theme: str, ground: str, ink: str) -> None:
    assert contrast(THEMES[theme][ink], THEMES[theme][ground]) >= TEXT


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_text_on_the_accent_can_be_read(theme: str) -> None:
    assert contrast(THEMES[theme]["accent-ink"], THEMES[theme]["accent"]) >= TEXT


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("colours", [QUERY_COLOUR, KEY_COLOUR, LINK_COLOUR])
def test_points_and_links_can_be_seen(theme: str, colours: dict[str, str]) -> None:
    assert contrast(colours[theme], THEMES[theme]["plot"]) >= PICTURE


@pytest.mark.parametrize(("theme", "palette"), [("light", CATEGORIES), ("dark", DARK_CATEGORIES)])
def test_kinds_have_colours_of_their_own(theme: str, palette: tuple[str, ...]) -> None:
    assert len(set(palette)) == len(palette)
    assert all(
        contrast(colour, THEMES[theme]["plot"]) >= 1.3 for colour in palette
    )  # the legend names each in words too
