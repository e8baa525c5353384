"""Test of the figures of all heads in a real Chromium: each is drawn, nothing is cut, and a click on a dot opens its head."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import pytest
from browsing import WAIT, Seen, Visit, bokeh_serve, free_port, running, save

from qkspace.app.language import strings
from qkspace.app.state import Figure
from qkspace.heads import behaviours, kept, relations
from qkspace.index import Index

FIGURES: tuple[Figure, ...] = get_args(Figure)
# Where in the window a dot of a figure lies.
PLACE_JS = """
([name, row]) => {
  const roots = Array.from(Bokeh.index.roots)
  const view = qk.models(name).flatMap((model) => roots.map((root) => qk.find(root, model))).find((view) => view)
  const dots = view.model.renderers.find((each) => each.name == "dots")
  const data = dots.data_source.data, {x, y} = dots.glyph
  const box = view.canvas_view.el.getBoundingClientRect()
  const place = [view.frame.x_scale.compute(data[x.field][row]), view.frame.y_scale.compute(data[y.field][row])]
  return [box.x + place[0], box.y + place[1]]
}
"""


@pytest.fixture(scope="module")
def address(small_index: Index, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The small index with two analyses; how far its heads are apart is left to the page."""
    root = tmp_path_factory.mktemp("analysed") / "index"
    shutil.copytree(small_index.root, root)
    index = Index(root)
    found = {
        "behaviours": behaviours.analyse(index, repeated=False),
        "relations": relations.analyse(index, min_count=5, max_sequences=20),
    }
    for name, each in found.items():
        index = kept.keep(index, name, each.tables, head_columns=each.head_columns)
    port = free_port()
    log = tmp_path_factory.mktemp("log") / "bokeh.log"
    with running(bokeh_serve(port, "--index", str(root)), f"http://localhost:{port}/app", log) as url:
        yield url


def figure_is_drawn(seen: Seen, name: str) -> None:
    """Wait until a figure has a frame with room in it."""
    seen.until("(name) => (qk.model(name)?.inner_width ?? 0) > 80 && qk.model(name).inner_height > 60", name)


@pytest.mark.browser
def test_every_figure_is_drawn_and_a_dot_opens_its_head(visit: Visit, address: str, tmp_path: Path) -> None:
    seen = visit(f"{address}?page=heads&layer=2&head=3&theme=light")
    shown = {
        "where": "heads_panel_0",
        "entropy": "heads_panel_1",
        "profile": "heads_profile",
        "among": "heads_tree",
        "relations": "heads_rows_0",
        "behaviours": "heads_panel_0",
    }
    for i, figure in enumerate(FIGURES):
        seen.ask("(i) => { qk.model('figure').active = i }", i)
        seen.page.get_by_text(strings("en")[f"note_{figure}"][:60], exact=False).wait_for(timeout=WAIT)
        if figure == "among":  # measured by the server, which may have other things to do
            seen.page.wait_for_function("() => qk.model('heads_tree') != null", timeout=6 * WAIT)
        if figure in shown:
            figure_is_drawn(seen, shown[figure])
        else:
            seen.page.get_by_text("Measure it with this command", exact=False).first.wait_for(timeout=WAIT)
        if figure != FIGURES[0]:
            seen.until_address(figure=figure)
        assert not seen.ask("() => qk.cut()"), figure
        save(seen, tmp_path, f"heads-{figure}")
    seen.ask("() => { qk.model('figure').active = 0 }")
    figure_is_drawn(seen, "heads_panel_3")
    seen.choose("by", "entropy")
    seen.until_address(by="entropy", figure=None)
    x, y = seen.ask(PLACE_JS, ["heads_panel_3", 2])  # L0H2 stands alone: it looks at the token before
    seen.page.mouse.move(x, y)
    seen.page.get_by_text("L0H2", exact=True).first.wait_for(timeout=WAIT)
    seen.page.mouse.click(x, y)
    seen.until_address(page="head", layer=0, head=2)
    seen.page.go_back()
    seen.until_address(page="heads", layer=2, head=3)
    seen.page.keyboard.press("2")
    seen.until_address(page="atlas")
    seen.page.keyboard.press("3")
    seen.until_address(page="heads")
