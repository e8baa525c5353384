"""Draw docs/images/method.png: one head of the demo index on three maps, with what one sentence attends to.

    python scripts/make_method_figure.py [--index out/demo] [--layer 0] [--head 2] [--sequence 7]

Needs the index of `make demo`, and Chromium. Each line joins a query to the key it attends to most.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from pathlib import Path

import numpy as np
from benchmark import CHROMIUM_FLAGS
from benchmark_fidelity import head_sample
from bokeh.embed import file_html
from bokeh.layouts import row
from bokeh.plotting import figure
from bokeh.resources import INLINE

import qkspace
from qkspace.app.colours import KEY_COLOUR, LINK_COLOUR, QUERY_COLOUR
from qkspace.extend import sample_rows
from qkspace.fidelity import score
from qkspace.index import Head
from qkspace.normalise import normalise
from qkspace.project import fit

ROOT = Path(__file__).resolve().parents[1]
PANELS = (
    ("attentionviz-pca", "attentionviz", "AttentionViz: keys moved onto queries, PCA"),
    ("pca", "auto", "qkspace's gauge, PCA"),
    ("unfold", "auto", "qkspace's gauge, unfold"),
)


def main() -> None:
    """Draw and save the figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--index", default="out/demo")
    for name, value in (("layer", 0), ("head", 2), ("sequence", 7)):
        parser.add_argument(f"--{name}", type=int, default=value)
    options = parser.parse_args()
    head = qkspace.open(options.index).head(options.layer, options.head)
    layout = row(*(panel(head, options.sequence, *choice) for choice in PANELS))
    picture = ROOT / "docs" / "images" / "method.png"
    with tempfile.TemporaryDirectory() as folder:
        page = Path(folder) / "figure.html"
        page.write_text(file_html(layout, INLINE, title="method"))
        photograph(page, picture)
    print(picture)


def panel(head: Head, sequence: int, method: str, gauge_name: str, title: str) -> figure:
    """Fit one map of a head, and draw it with the strongest pair of every token of a sequence."""
    fitted_on, scored_on = (
        head_sample(head.index, head.layer, head.head, sample_rows(head.index, fold)) for fold in ("fit", "score")
    )
    gauge = normalise(fitted_on, dims=2, method=gauge_name)  # type: ignore[arg-type]
    map_ = fit(method, gauge.apply_to(fitted_on), dims=2, seed=0)
    held_out = gauge.apply_to(scored_on)
    scores = score(held_out, map_.transform(held_out.query, held_out.key))
    places = map_.transform(*gauge.apply(head.query, head.key))
    plot = figure(
        width=420,
        height=430,
        match_aspect=True,
        toolbar_location=None,
        title=f"{title}\nnearest key is right for {100 * scores.recall1:.0f} %, {scores.attention_kl:.2f} nats lost",
    )
    plot.title.text_font_size = "12px"
    plot.axis.visible = False
    plot.grid.grid_line_color = "#EEF0F3"
    for rows, marker, colour in ((places.key, "diamond", KEY_COLOUR), (places.query, "circle", QUERY_COLOUR)):
        plot.scatter(rows[:, 0], rows[:, 1], marker=marker, size=3, color=colour["light"], alpha=0.25, line_color=None)
    here = head.index.rows(sequence)
    best = np.argmax(head.attention(sequence), axis=1)
    query, key = places.query[here], places.key[here]
    plot.segment(
        *(query[:, 0], query[:, 1], key[best, 0], key[best, 1]), line_color=LINK_COLOUR["light"], line_width=1.5
    )
    plot.scatter(key[:, 0], key[:, 1], marker="diamond", size=11, color=KEY_COLOUR["light"])
    plot.scatter(query[:, 0], query[:, 1], size=8, color=QUERY_COLOUR["light"])
    return plot


def photograph(page: Path, picture: Path) -> None:
    """Save a page as a picture, with headless Chromium."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=CHROMIUM_FLAGS)
        view = browser.new_page(viewport={"width": 1290, "height": 450})
        view.goto(page.as_uri())
        view.wait_for_function("window.Bokeh?.documents?.[0]?.is_idle")
        view.screenshot(path=str(picture))
        browser.close()


if __name__ == "__main__":
    main()
