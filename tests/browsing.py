"""What the tests in a real Chromium share: servers, visitors' pages, and what a test asks of a page."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from qkspace.index import Index

REPOSITORY = Path(__file__).parents[1]
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
SIZES = [(1280, 800), (1920, 1080)]
WAIT = 60_000  # milliseconds that anything may take on a slow machine before it has failed

# What the tests ask of the page; models have the names that the app gives them.
TOOLS_JS = """
window.WebSocket = class extends WebSocket {  // a change comes in many messages, one after another
  constructor(...given) {
    super(...given)
    this.addEventListener("message", () => { qk.hear(); setTimeout(qk.hear) })  // before it is read, and after
  }
}
window.qk = {
  heard: -Infinity,
  hear: () => { qk.heard = performance.now() },
  models: (name) => [...Bokeh.documents[0].all_models].filter((model) => model.name == name),
  model: (name) => qk.models(name)[0] ?? null,
  column: (renderer, name) =>  // two figures may have renderers of one name
    Array.from(qk.models(renderer).map((model) => model.data_source.data[name]).find((column) => column != null) ?? []),
  view: () => Array.from(Bokeh.index.roots).map((root) => qk.find(root, qk.model("map"))).find((view) => view),
  find: (view, model) => {
    if (view.model == model) return view
    for (const child of view.child_views ?? []) { const found = qk.find(child, model); if (found) return found }
    return null
  },
  pixel: (x, y) => {  // of a place on the map, in the window
    const view = qk.view(), box = view.canvas_view.el.getBoundingClientRect()
    return [box.x + view.frame.x_scale.compute(x), box.y + view.frame.y_scale.compute(y)]
  },
  pixels: (renderer) => {  // of all points of a renderer
    const x = qk.column(renderer, "x"), y = qk.column(renderer, "y")
    return x.map((_, i) => qk.pixel(x[i], y[i]))
  },
  scale: () => {  // pixels a unit, across and up
    const [x0, y0] = qk.pixel(0, 0), [x1, y1] = qk.pixel(1, 1)
    return [x1 - x0, y0 - y1]
  },
  cut: () => {  // elements whose text is cut off without a way to see the rest
    const cut = []
    const walk = (root) => {
      for (const el of root.querySelectorAll("*")) {
        if (el.shadowRoot) walk(el.shadowRoot)
        const style = getComputedStyle(el), rect = el.getBoundingClientRect()
        if (!(el.textContent ?? "").trim() || !rect.width || el.closest("svg, select, style, script, .noUi-base")) continue
        const hidden = (overflow) => overflow == "hidden" || overflow == "clip"
        const wide = el.scrollWidth > el.clientWidth + 1 && hidden(style.overflowX) && style.textOverflow != "ellipsis"
        const tall = el.scrollHeight > el.clientHeight + 3 && hidden(style.overflowY)
        const outside = rect.right > innerWidth + 1 || rect.left < -1
        if (wide || tall || outside) cut.push(`${el.tagName}.${el.className}: ${el.textContent.trim().slice(0, 60)}`)
      }
    }
    walk(document.body)
    return cut
  },
  columns: () => {  // the scrolling columns at the sides: do they lie in the window, and can their ends be reached?
    const found = []
    const walk = (root) => {
      for (const el of root.querySelectorAll("*")) {
        if (el.shadowRoot) walk(el.shadowRoot)
        if (getComputedStyle(el).overflowY == "auto" && el.shadowRoot && el.clientHeight > 200) {
          el.scrollTop = el.scrollHeight
          const rect = el.getBoundingClientRect()
          const ends = Array.from(el.shadowRoot.children).map((child) => child.getBoundingClientRect().bottom)
          found.push({bottom: rect.bottom, right: rect.right, left: rect.left, end: Math.max(...ends),
                      wide: el.scrollWidth - el.clientWidth})
          el.scrollTop = 0
        }
      }
    }
    walk(document.body)
    return found
  },
}
"""
QUIET = 60  # milliseconds without a message, after which no more are on their way
READY_JS = (
    "() => window.Bokeh && Bokeh.documents.length > 0 && Bokeh.documents[0].is_idle"
    f" && performance.now() - qk.heard > {QUIET}"
)


# -------------------------------------------------------------------------------------------------- servers


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def running(command: list[str], url: str, log: Path, cwd: Path = REPOSITORY) -> Iterator[str]:
    """Run a server until the block ends; yield its address once it answers."""
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "PYTHONUNBUFFERED": "1"}
    with log.open("w") as output:
        server = subprocess.Popen(command, cwd=cwd, stdout=output, stderr=subprocess.STDOUT, env=environment)
        try:
            for _ in range(300):
                assert server.poll() is None, f"the server ended: {log.read_text()}"
                with contextlib.suppress(urllib.error.URLError, ConnectionError):
                    urllib.request.urlopen(url, timeout=10).close()
                    break
                time.sleep(0.1)
            else:
                pytest.fail(f"no answer from {url}: {log.read_text()}")
            yield url
        finally:
            server.terminate()
            server.wait(timeout=20)
    said = log.read_text()
    assert "Traceback" not in said and "ERROR" not in said, f"the server reports an error:\n{said[-3000:]}"


def bokeh_serve(port: int, *arguments: str) -> list[str]:
    app = str(REPOSITORY / "qkspace" / "app")
    command = [sys.executable, "-m", "bokeh", "serve", app, "--port", str(port)]
    return [*command, "--args", *arguments] if arguments else command


# -------------------------------------------------------------------------------------------------- browser


@pytest.fixture(scope="module")  # of a module: only one Playwright may run at a time
def chromium() -> Iterator[Any]:
    """A real Chromium."""
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install qkspace[test]")
    if CHROMIUM is None:
        pytest.skip("Chromium is not installed: the app cannot be looked at")
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")  # what it has read and compiled of one server, the next page need not again
def context(chromium: Any) -> Iterator[Any]:
    """The browser of visitors, who come one after another."""
    yield chromium.new_context()


def new_page(context: Any, size: tuple[int, int] = SIZES[0], scheme: str = "light") -> Any:
    """Open an empty page in a window of that size, for a visitor who likes it light or dark."""
    page = context.new_page()
    page.set_viewport_size({"width": size[0], "height": size[1]})
    page.emulate_media(color_scheme=scheme)
    return page


class Seen:
    """One visitor's page, and what a test asks of it."""

    def __init__(self, page: Any, faults: list[str]) -> None:
        self.page, self.faults = page, faults

    def ask(self, script: str, argument: Any = None) -> Any:
        """Return what a script says in the page."""
        return self.page.evaluate(script, argument)

    def until(self, script: str, argument: Any = None) -> None:
        """Wait until a script says yes, and the page has come to rest."""
        self.page.wait_for_function(script, arg=argument, timeout=WAIT)
        self.page.wait_for_function(READY_JS, timeout=WAIT)
        self.ask("() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")

    def column(self, renderer: str, name: str) -> NDArray[Any]:
        """Return a column of what a renderer of the map draws, once all of a change has come."""
        self.page.wait_for_function(READY_JS, timeout=WAIT)
        return np.asarray(self.ask("([r, c]) => qk.column(r, c)", [renderer, name]))

    def choose(self, name: str, value: Any) -> None:
        """Give a widget a value, as a user who moves it and lets go."""
        self.ask(
            "([n, v]) => { const m = qk.model(n); m.value = v; if ('value_throttled' in m) m.value_throttled = v }",
            [name, value],
        )

    def address(self) -> dict[str, str]:
        """Return what the browser's address says, by name."""
        return dict(self.ask("() => [...new URLSearchParams(location.search)]"))

    def until_address(self, **said: object) -> None:
        """Wait until the browser's address says so; None: says nothing of it."""
        wanted = [[name, None if value is None else str(value)] for name, value in said.items()]
        self.until(
            "(w) => { const q = new URLSearchParams(location.search); return w.every(([n, v]) => q.get(n) === v) }",
            wanted,
        )

    def head(self) -> str:
        """Return the name of the head in the card at the right."""
        return str(self.page.locator(".card .title").first.inner_text()).strip()

    def until_head(self, layer: int, head: int) -> None:
        """Wait until a head is shown."""
        self.page.get_by_text(f"Layer {layer}, head {head}", exact=False).first.wait_for(timeout=WAIT)
        self.until("([l, h]) => qk.column('here', 'layer')[0] == l && qk.column('here', 'head')[0] == h", [layer, head])

    def pixel(self, renderer: str, row: int) -> tuple[float, float]:
        """Return where in the window the point of a row lies."""
        x, y = self.ask(
            "([r, i]) => { const at = qk.column(r, 'row').indexOf(i); "
            "return qk.pixel(qk.column(r, 'x')[at], qk.column(r, 'y')[at]) }",
            [renderer, row],
        )
        return float(x), float(y)

    def frame(self) -> tuple[float, float, float, float]:
        """Return left, top, right and bottom of the map in the window."""
        left, top, right, bottom = self.ask(
            "() => { const f = qk.view().frame.bbox, b = qk.view().canvas_view.el.getBoundingClientRect(); "
            "return [b.x + f.left, b.y + f.top, b.x + f.right, b.y + f.bottom] }"
        )
        return float(left), float(top), float(right), float(bottom)

    def empty_place(self) -> tuple[float, float]:
        """Return the place of the map, in the window, that is furthest from every point."""
        left, top, right, bottom = self.frame()
        points = np.concatenate([self.ask("(r) => qk.pixels(r)", kind) for kind in ("query", "key")])
        across, down = np.meshgrid(np.linspace(left + 20, right - 20, 30), np.linspace(top + 20, bottom - 20, 30))
        grid = np.stack([across.ravel(), down.ravel()], axis=1)
        distance = np.linalg.norm(grid[:, None] - points[None], axis=2).min(axis=1)
        assert distance.max() > 25, "the map is full"
        x, y = grid[distance.argmax()]
        return float(x), float(y)

    def click_token(self, renderer: str, row: int) -> None:
        """Click the point of a row and wait for its links."""
        self.page.mouse.click(*self.pixel(renderer, row))
        self.until("() => qk.column('picked', 'x').length == 1 && qk.column('own', 'alpha').length > 0")

    def picture(self) -> NDArray[np.int64]:
        """Return the window as it is seen: (y, x, red green blue)."""
        from PIL import Image

        image = Image.open(BytesIO(self.page.screenshot())).convert("RGB")
        return np.asarray(image, dtype=np.int64)

    def deep_text(self) -> str:
        """Return the text of the whole page, shadow trees and all."""
        return str(
            self.ask(
                """() => { const out = []; const walk = (root) => { for (const node of root.childNodes) {
                 if (node.nodeType == 3) out.push(node.data)
                 else if (node.nodeType == 1 && !/^(STYLE|SCRIPT)$/.test(node.tagName)) {
                   if (node.shadowRoot) walk(node.shadowRoot); walk(node) } } }
               walk(document.body); return out.join(" ") }"""
            )
        )


Visit = Callable[..., Seen]


@pytest.fixture
def visit(context: Any) -> Iterator[Visit]:
    """Open a page for a visitor, who has never been there; at the end no page may have complained in any way."""
    visits: list[Seen] = []

    def open_page(url: str, size: tuple[int, int] = SIZES[0], scheme: str = "light", *, wait: bool = True) -> Seen:
        page = new_page(context, size, scheme)
        page.add_init_script(TOOLS_JS)
        seen = Seen(page, [])
        visits.append(seen)

        def dismiss(dialog: Any) -> None:
            seen.faults.append(f"dialog: {dialog.message}")
            dialog.dismiss()

        def console(message: Any) -> None:
            if message.type == "error" or (message.type == "warning" and "GL Driver Message" not in message.text):
                seen.faults.append(f"{message.type}: {message.text}")

        page.on("dialog", dismiss)
        page.on("console", console)
        page.on("pageerror", lambda error: seen.faults.append(f"page error: {error}"))
        page.goto(url, timeout=WAIT)
        if wait:
            page.wait_for_function(READY_JS, timeout=WAIT)
            seen.until("() => qk.model('map') == null || (qk.view() && qk.column('query', 'x').length > 0)")
        return seen

    yield open_page
    faults = [fault for seen in visits for fault in seen.faults]
    for page in context.pages:
        page.evaluate("() => { try { localStorage.clear() } catch { /* no page stands there */ } }")
        page.close()
    assert not faults, faults


def save(seen: Seen, tmp_path: Path, name: str) -> None:
    """Keep a picture of the page, also in $QKSPACE_SCREENSHOTS where that is set."""
    picture = seen.page.screenshot()
    for folder in filter(None, (str(tmp_path), os.environ.get("QKSPACE_SCREENSHOTS"))):
        Path(folder).mkdir(parents=True, exist_ok=True)
        (Path(folder) / f"{name}.png").write_bytes(picture)


def rgb(colour: str) -> NDArray[np.int64]:
    return np.asarray([int(colour[i : i + 2], 16) for i in (1, 3, 5)], dtype=np.int64)


def background(seen: Seen) -> NDArray[np.int64]:
    """Return the colour of the page beside everything on it."""
    return seen.picture()[-3, 3]


def isolated(index: Index, layer: int, head: int, kind: str = "query") -> int:
    """Return the row of the word whose point of that kind is furthest from any other point."""
    view = index.head(layer, head).projection()
    place = view.query if kind == "query" else view.key
    every = np.concatenate([view.query, view.key])
    distance = np.linalg.norm(place[:, None] - every[None], axis=2)
    own = np.arange(index.n_tokens) + (0 if kind == "query" else index.n_tokens)
    distance[np.arange(index.n_tokens), own] = np.inf
    least = np.where(index.tokens["is_special"], -1, distance.min(axis=1))
    return int(least.argmax())
