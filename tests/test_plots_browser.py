"""Test of the page of plots in a real Chromium: its words can be read, zooming names more, and a turn is cheap and kept."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from browsing import READY_JS, WAIT, Seen, Visit, bokeh_serve, free_port, running, save

from qkspace.index import Index

FORMULA = "$$x^2$$"
LONG = "a_rather_long_token_of_a_stranger"
# How many characters and bytes the page sends to the server from now on.
COUNT_JS = """
() => {
  window.sent = 0
  const send = WebSocket.prototype.send
  WebSocket.prototype.send = function (data) { window.sent += data.length ?? data.byteLength; return send.call(this, data) }
}
"""
# What is written in the picture in space; there are others of that name.
LABELS = "qk.model('matrix_space').renderers.find((each) => each.name == 'labels').data_source.data"
# The pixels on which the words of the picture in space stand, with their colours; and how the camera stands.
WORDS_JS = f"""
() => {{
  const labels = {LABELS}, half = qk.model("matrix_space").inner_height / 2
  return Array.from(labels.text, (text, i) => [text, labels.colour[i], labels.x[i] * half, labels.y[i] * half])
}}
"""
CAMERA_JS = f"() => {{ const c = {LABELS}; return [Array.from(c.x), Array.from(c.y)] }}"
CENTRE_JS = """
() => {
  const box = Bokeh.index.find_one(qk.model("matrix_space")).canvas_view.el.getBoundingClientRect()
  return [box.x + box.width / 2, box.y + box.height / 2]
}
"""
# The words that an axis of the heat map writes.
AXIS_JS = """
() => {
  const axis = qk.model("matrix_heat").above.find((each) => each.type.endsWith("Axis"))
  const view = Bokeh.index.find_one(axis)
  return view.compute_labels(view.tick_coords.major[0]).items.map((box) => [box.constructor.name, box.text])
}
"""


@pytest.fixture(scope="module")
def address(small_index: Index, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The small index, two tokens of whose longest sequence are what a stranger may have written."""
    root = tmp_path_factory.mktemp("stranger") / "index"
    shutil.copytree(small_index.root, root)
    rows = small_index.rows(longest(small_index))
    table = pq.read_table(root / "tokens.parquet")
    texts = table["text"].to_pylist()
    texts[rows.start + 1 : rows.start + 3] = [FORMULA, LONG]
    place = table.schema.get_field_index("text")
    table = table.set_column(place, "text", pa.array(texts, pa.string()).cast(table.schema.field("text").type))
    pq.write_table(table, root / "tokens.parquet")
    port = free_port()
    log = tmp_path_factory.mktemp("log") / "bokeh.log"
    with running(bokeh_serve(port, "--index", str(root)), f"http://localhost:{port}/app", log) as url:
        yield url


def longest(index: Index) -> int:
    """Return the longest sequence."""
    return int(index.sequences["sequence"].iloc[int(index.sequences["n_tokens"].argmax())])


def words_are_apart(seen: Seen, least: int) -> None:
    """Check that there are words along both edges, and that no two of an edge or of the scale lie on each other."""
    found = seen.ask(WORDS_JS)
    colours = {colour for _, colour, _, _ in found}
    assert len(colours) == 3, "queries, keys and the scale"
    kinds = {text: colour for text, colour, _, _ in found if text in ("query", "key")}
    assert len(set(kinds.values())) == 2, "both edges say what they are, each in its colour"
    assert all(text.endswith(" %") for text, colour, _, _ in found if colour not in kinds.values())
    for colour in colours:
        place = np.array([[x, y] for _, each, x, y in found if each == colour])
        assert len(place) >= least
        apart = np.linalg.norm(place[:, None] - place[None], axis=2)[np.triu_indices(len(place), 1)]
        assert apart.min() > 12, "pixels"


@pytest.mark.browser
def test_words_zoom_and_turn(visit: Visit, address: str, small_index: Index, tmp_path: Path) -> None:
    sequence = longest(small_index)
    seen = visit(f"{address}?page=plots&sequence={sequence}&layer=2&head=3&theme=dark")
    seen.until("() => qk.model('matrix_heat').inner_height > 100")
    whole = seen.ask(AXIS_JS)
    assert [FORMULA, LONG[:19] + "\u2026"] == [text for _, text in whole[1:3]]
    assert {kind for kind, _ in whole} == {whole[0][0]}, "the formula is a text like the others"
    save(seen, tmp_path, "plots-heat")
    seen.ask("([a, b]) => qk.model('matrix_heat').x_range.setv({start: a, end: b})", [-300, 300])
    assert 0 < len(seen.ask(AXIS_JS)) < len(whole) / 2, "from afar there is no room for all"
    seen.ask("([a, b]) => qk.model('matrix_heat').x_range.setv({start: a, end: b})", [2, 8])
    assert seen.ask(AXIS_JS) == whole[2:8]
    seen.ask("() => { qk.model('plot').active = 2 }")
    seen.until_address(plot="bars")
    seen.until(f"() => {LABELS}.x.length > 0")
    words_are_apart(seen, 3)
    assert not seen.ask("() => qk.cut()")
    before = seen.ask(CAMERA_JS)
    seen.ask(COUNT_JS)
    x, y = seen.ask(CENTRE_JS)
    seen.page.mouse.move(x, y)
    seen.page.mouse.down()
    for i in range(1, 31):
        seen.page.mouse.move(x - 4 * i, y + 2 * i)
    assert seen.ask(CAMERA_JS) != before, "it turns while it is dragged"
    assert seen.address().get("yaw") is None
    seen.page.mouse.up()
    seen.until("() => new URLSearchParams(location.search).get('yaw') != null")
    said = seen.address()
    assert float(said["yaw"]) == pytest.approx(30 + 0.4 * 120, abs=2) and float(said["pitch"]) > 30
    assert seen.ask("() => window.sent") < 20_000, "a drag told the server more than where it ended"
    words_are_apart(seen, 3)
    turned = seen.ask(CAMERA_JS)
    save(seen, tmp_path, "plots-turned")
    seen.page.reload()
    seen.page.wait_for_function(READY_JS, timeout=WAIT)
    seen.until(f"() => {LABELS}.x.length > 0")
    assert seen.address()["yaw"] == said["yaw"]
    np.testing.assert_allclose(seen.ask(CAMERA_JS)[0], turned[0], atol=1e-3)
