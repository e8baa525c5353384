"""Sound words: what the page draws of a sound beside its words, as small pieces of HTML.

In: the frames of a sound and attention. Out: HTML. Knows no heads and no widgets.
"""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

import numpy as np

from qkspace.schema import FloatArray

if TYPE_CHECKING:
    import pandas as pd

WIDTH, HEIGHT = 290, 64  # of the picture
QUIET = -70.0  # dB: the lowest bar
MOST_BARS = 145  # of a longer sound, a bar is several frames


def sound_strip(tokens: pd.DataFrame, attention: FloatArray, at: int, kind: str) -> str:
    """Draw the frames of a sound as bars, as high as they are loud, as strong as attention is; `at`: the clicked one.

    Of frames that share a bar the loudest and the most attended count. Padding is a low bar.
    """
    loudness = tokens["loudness"].to_numpy(dtype=np.float64, na_value=np.nan) if "loudness" in tokens else np.zeros(1)
    loudness = np.nan_to_num(np.broadcast_to(loudness, attention.shape), nan=QUIET)
    n = min(len(attention), MOST_BARS)
    starts = np.arange(n) * len(attention) // n
    level = np.clip(1 - np.maximum.reduceat(loudness, starts) / QUIET, 0, 1)
    share = np.clip(np.maximum.reduceat(attention, starts), 0, 1)
    here = int(np.searchsorted(starts, at, side="right")) - 1
    names = tokens["time"].map("{:.2f}s".format) if "time" in tokens else tokens["text"].astype(str)
    hue = "var(--key)" if kind == "query" else "var(--query)"
    wide = WIDTH / n
    bars = []
    for i in range(n):
        high = 4 + (HEIGHT - 10) * float(level[i])
        colour = f"color-mix(in srgb, {hue} {100 * float(share[i]) ** 0.5:.0f}%, var(--line))"
        box = f'x="{i * wide:.2f}" y="{HEIGHT - 4 - high:.1f}" width="{max(0.85 * wide, 0.5):.2f}" height="{high:.1f}"'
        says = f"{escape(str(names.iloc[starts[i]]))}: {100 * float(share[i]):.1f} %"
        bars.append(f'<rect {box} style="fill:{colour}"><title>{says}</title></rect>')
    mark = (
        f'<rect x="{here * wide:.2f}" y="{HEIGHT - 3}" width="{max(wide, 2):.2f}" height="3" style="fill:var(--ink)"/>'
    )
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" style="width:100%;display:block" role="img" '
        f'aria-label="{escape(str(names.iloc[at]))}">{"".join(bars)}{mark}</svg>'
    )
