"""Tests of the map of a large index in a real Chromium: an image of all tokens, and points once few are in view."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from browsing import READY_JS, SIZES, WAIT, Seen, Visit, bokeh_serve, free_port, running, save
from numpy.typing import NDArray
from test_detail import tile

from qkspace.app import detail, select
from qkspace.app.select import KINDS, Shown
from qkspace.app.state import Kind, State
from qkspace.index import Index

pytestmark = pytest.mark.browser

FLAT = State(layer=0, head=0)
# What is drawn is what is in view: an image that fills the frame, or points; then nothing is under way.
SETTLED_JS = """() => {
  const m = qk.model("map"), image = qk.model("raster"), d = image.data_source.data
  if (m.hold_render || !m.inner_width) return false
  const near = (a, b) => Math.abs(a - b) < (m.x_range.end - m.x_range.start) / m.inner_width
  if (!image.visible) return qk.model("query").visible
  return d.image.length == 1 && near(d.x[0], m.x_range.start) && near(d.x[0] + d.dw[0], m.x_range.end)
    && near(d.y[0], m.y_range.start) && near(d.y[0] + d.dh[0], m.y_range.end)
}"""
VIEW_JS = "() => { const m = qk.model('map'); return [m.x_range.start, m.x_range.end, m.y_range.start, m.y_range.end] }"
NEAR_JS = "([kind, row]) => qk.column('near', 'index')[0] == row && qk.column('near', 'kind')[0] == kind"


@pytest.fixture(scope="module")
def big(small_index: Index, tmp_path_factory: pytest.TempPathFactory) -> Index:
    """About 60,000 tokens: the sequences of the small index many times over."""
    times = -(-60_000 // small_index.n_tokens)
    index = tile(small_index, tmp_path_factory.mktemp("big") / "index", times)
    assert index.n_tokens > select.MAX_TOKENS
    return index


@pytest.fixture(scope="module")
def address(big: Index, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The large index, served."""
    port, log = free_port(), tmp_path_factory.mktemp("log") / "bokeh.log"
    with running(bokeh_serve(port, "--index", str(big.root)), f"http://localhost:{port}/app", log) as url:
        yield url


def opened(visit: Visit, address: str, arguments: str = "", scheme: str = "light") -> Seen:
    seen = visit(f"{address}?layer=0&head=0{arguments}", SIZES[0], scheme, wait=False)
    seen.page.wait_for_function(READY_JS, timeout=WAIT)
    settle(seen)
    return seen


def settle(seen: Seen) -> None:
    seen.page.wait_for_timeout(300)  # a view is drawn once it has rested
    seen.until(SETTLED_JS)


def zoom(seen: Seen, at: tuple[float, float], steps: int = 12) -> None:
    """Turn the wheel at a place of the window until points are drawn."""
    for _ in range(steps):
        seen.page.mouse.move(*at)
        seen.page.mouse.wheel(0, -300)
        settle(seen)
        if not seen.ask("() => qk.model('raster').visible"):
            return
    pytest.fail("still an image")


def alone(place: NDArray[np.float32]) -> tuple[Kind, int]:
    """Return kind and row of a point, of a few hundred, that is furthest from all others."""
    flat = place.reshape(-1, 2).astype(np.float64)
    best, chosen = 0.0, 0
    for i in np.random.default_rng(5).choice(len(flat), 300, replace=False).tolist():
        distance = np.hypot(*(flat - flat[i]).T)
        distance[i] = np.inf
        if float(distance.min()) > best:
            best, chosen = float(distance.min()), i
    kind, row = divmod(chosen, place.shape[1])
    return KINDS[kind], row


def at(seen: Seen, place: NDArray[np.float32]) -> tuple[float, float]:
    """Return where in the window a place of the map is."""
    x, y = seen.ask("([x, y]) => qk.pixel(x, y)", [float(place[0]), float(place[1])])
    return float(x), float(y)


def places(index: Index, state: State = FLAT) -> NDArray[np.float32]:
    """Return where all points are on the screen: (query or key, token, 2)."""
    shown = Shown(index)
    return np.stack([shown.place(state, kind, slice(None)) for kind in KINDS])


def test_an_image_of_all_tokens_comes_first_and_zooming_in_gives_the_points_that_are_there(
    visit: Visit, address: str, big: Index, tmp_path: Path
) -> None:
    seen, place = opened(visit, address), places(big)
    assert seen.ask("() => qk.model('raster').visible && !qk.column('query', 'x').length")
    assert not seen.ask("() => [...Bokeh.documents[0]._all_models.values()].some((m) => m.data?.text?.length > 500)")
    view = np.asarray(seen.ask(VIEW_JS))
    frame = seen.ask("() => { const m = qk.model('map'); return [m.inner_width, m.inner_height] }")
    whole = detail.whole_view(detail.frame(Shown(big), FLAT), *frame)
    np.testing.assert_allclose(view, whole, rtol=1e-4)  # the server knows it before the browser says it
    picture = seen.picture()
    kind, row = alone(place)
    save(seen, tmp_path, "big-image")
    x, y = (round(v) for v in at(seen, place[KINDS.index(kind), row]))
    around = picture[y - 3 : y + 4, x - 3 : x + 4].reshape(-1, 3)
    assert (np.ptp(around, axis=0) > 60).any(), "nothing is drawn where the point lies"
    middle = np.median(place[0], axis=0)
    zoom(seen, at(seen, middle))
    save(seen, tmp_path, "big-points")
    x0, x1, y0, y1 = seen.ask(VIEW_JS)
    for i, kind in enumerate(KINDS):
        inside = ((place[i] >= (x0, y0)) & (place[i] <= (x1, y1))).all(axis=1)
        assert seen.column(kind, "row").tolist() == np.flatnonzero(inside).tolist()
    seen.ask("() => qk.model('map').reset.emit()")
    seen.until("() => qk.model('raster').visible && !qk.column('query', 'x').length")
    settle(seen)
    np.testing.assert_allclose(seen.ask(VIEW_JS), view, rtol=1e-5)


@pytest.mark.parametrize("near_by", [False, True])
def test_hovering_tells_the_token_and_clicking_chooses_it(
    visit: Visit, address: str, big: Index, near_by: bool, tmp_path: Path
) -> None:
    seen, place = opened(visit, address), places(big)
    kind, row = alone(place)
    spot = place[KINDS.index(kind), row]
    if near_by:
        zoom(seen, at(seen, spot))
    seen.page.mouse.move(*at(seen, spot))
    seen.until(NEAR_JS, [kind, row])
    words = detail.told(Shown(big), FLAT, kind, row)
    text = seen.deep_text()
    assert words["where"] in text and words["partners"] in text
    save(seen, tmp_path, f"big-hover-{'points' if near_by else 'image'}")
    seen.page.mouse.click(*at(seen, spot))
    seen.until("() => qk.column('picked', 'x').length == 1")
    seen.until_address(selected=f"{kind}-{row}")
    np.testing.assert_allclose([seen.column("picked", axis)[0] for axis in "xy"], spot, rtol=1e-6)
    span = Shown(big).sequence_rows(row)
    assert seen.column("own_query", "row").tolist() == list(range(span.start, span.stop))
    left, top, _, _ = seen.frame()
    seen.page.mouse.move(left + 3, top + 3)
    seen.until("() => qk.column('near', 'x').length == 0")


def test_another_head_is_shown_whole_in_its_own_image(visit: Visit, address: str, big: Index) -> None:
    seen = opened(visit, address)
    zoom(seen, at(seen, np.median(places(big)[0], axis=0)))
    seen.choose("head", "1")
    seen.until_head(0, 1)
    settle(seen)
    assert seen.ask("() => qk.model('raster').visible && !qk.column('query', 'x').length")
    held = detail.frame(Shown(big), State(layer=0, head=1))
    x0, x1, y0, y1 = seen.ask(VIEW_JS)
    assert x0 < held.x0 and x1 > held.x1 and y0 < held.y0 and y1 > held.y1
    assert max((held.x1 - held.x0) / (x1 - x0), (held.y1 - held.y0) / (y1 - y0)) > 0.9


def test_a_boxed_region_holds_all_tokens_in_it(visit: Visit, address: str, big: Index) -> None:
    seen, place = opened(visit, address), places(big)
    seen.ask("() => { for (const t of qk.model('map').toolbar.tools) if (t.type == 'BoxSelectTool') t.active = true }")
    left, top, right, bottom = seen.frame()
    x0, y0, x1, y1 = left + 0.4 * (right - left), top + 0.4 * (bottom - top), right - 90, bottom - 90
    seen.page.mouse.move(x0, y0)
    seen.page.mouse.down()
    seen.page.mouse.move(x1, y1, steps=5)
    seen.page.mouse.up()
    seen.until("() => new URLSearchParams(location.search).has('region')")
    corners = [tuple(map(float, c.split("~"))) for c in seen.address()["region"].split("_")]
    state = State(layer=0, head=0, region=tuple((c[0], c[1]) for c in corners))
    rows = select.region_rows(Shown(big), state)
    inside = select.inside(place[0], state.region)
    assert len(rows["query"]) == inside.sum() > 100
    settle(seen)
    assert f"{len(rows['query']):,}" in seen.deep_text()


def test_a_map_in_space_is_turned_as_points_and_then_drawn_again(visit: Visit, address: str, tmp_path: Path) -> None:
    seen = opened(visit, address, "&dims=3")
    before = seen.ask("() => Array.from(qk.column('raster', 'image')[0])")
    left, top, right, bottom = seen.frame()
    x, y = (left + right) / 2, (top + bottom) / 2
    seen.page.mouse.move(x, y)
    seen.page.mouse.down()
    seen.page.mouse.move(x + 60, y + 20, steps=4)
    seen.until("() => !qk.model('raster').visible && qk.model('query').visible")
    assert 0 < len(seen.column("query", "x")) + len(seen.column("key", "x")) <= detail.DRAGGED_POINTS
    save(seen, tmp_path, "big-turning")
    seen.page.mouse.up()
    seen.until("() => qk.model('raster').visible && !qk.model('query').visible")
    settle(seen)
    turned = seen.address()
    assert float(turned["yaw"]) == pytest.approx(30 - 0.4 * 60, abs=3)
    assert float(turned["pitch"]) == pytest.approx(20 + 0.4 * 20, abs=3)
    assert seen.ask("() => Array.from(qk.column('raster', 'image')[0])") != before


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_hits_and_kinds_are_seen_in_the_image(visit: Visit, address: str, scheme: str, tmp_path: Path) -> None:
    seen = opened(visit, address, "&colour=kind", scheme)
    plain = seen.picture()
    save(seen, tmp_path, f"big-kind-{scheme}")
    seen.choose("search", "the")
    seen.until("() => new URLSearchParams(location.search).get('search') == 'the'")
    settle(seen)
    save(seen, tmp_path, f"big-hits-{scheme}")
    left, top, right, bottom = (round(edge) for edge in seen.frame())
    changed = np.abs(seen.picture() - plain)[top:bottom, left:right].sum(axis=2)
    assert (changed > 60).mean() > 0.05
