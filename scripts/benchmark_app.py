"""Measure the page: first picture and change of head in a browser, the atlas and the search on the server, many visitors.

Called by scripts/benchmark.py. The browser draws without a GPU; what the server does is timed in a process of its own, from
an index that was not opened before.
"""

from __future__ import annotations

import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

CHROMIUM_FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
VISITORS, SWITCHES = 20, 5
BERTVIZ_MB = 107  # of HTML for 128 tokens and 12 x 12 heads, as measured with bertviz 1.4.1


def app(model: str, corpus: list[Path], out: Path, rounds: int) -> None:
    """Print all figures of the page."""
    import qkspace

    index = qkspace.build(model, corpus, out=out / "benchmark-app", max_tokens=10_000, progress=False, dims=[2])
    print(f"\napp: {index.n_layers} x {index.n_heads} heads, {2 * index.n_tokens:,} points each")
    with serving(index.root) as url:
        in_browser(url, rounds)
        many_visitors(url)
    on_server(index.root, "MiniLM")
    with tempfile.TemporaryDirectory(dir=out) as folder:
        big = Path(folder) / "index"
        checkpoint = random_bert(model, Path(folder) / "bert")
        qkspace.build(str(checkpoint), corpus, out=big, max_tokens=5_000, progress=False, dims=[2], methods=["pca"])
        on_server(big, "BERT with random weights")
    size_of_html()


@contextmanager
def serving(root: Path) -> Iterator[str]:
    """Serve an index in a process of its own and give its address."""
    command = [sys.executable, "-m", "qkspace.cli", "serve", str(root), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as server:
        assert server.stdout is not None
        try:
            yield next(word for word in server.stdout.readline().split() if word.startswith("http"))
        finally:
            server.terminate()


def say(name: str, seconds: list[float]) -> None:
    """Print the median of some times."""
    print(f"  {name}: median {statistics.median(seconds):.2f} s (min {min(seconds):.2f}, max {max(seconds):.2f})")


# ---------------------------------------------------------------- in a browser


def in_browser(url: str, rounds: int) -> None:
    """Time the first picture of the map and of the atlas, and changes of head, in headless Chromium."""
    from playwright.sync_api import sync_playwright

    chromium = shutil.which("chromium")
    if chromium is None:
        raise SystemExit("Chromium is not installed: apt-get install chromium")
    times: dict[str, list[float]] = {"map, first picture": [], "atlas, first picture": [], "map, change of head": []}
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=CHROMIUM_FLAGS)
        for _ in range(rounds):
            for view in ("atlas", "map"):
                page = browser.new_page(viewport={"width": 1280, "height": 800})
                start = time.perf_counter()
                page.goto(f"{url}?page={view}")
                page.wait_for_function("window.Bokeh?.documents?.[0]?.is_idle", polling=20)
                page.evaluate("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
                times[f"{view}, first picture"].append(time.perf_counter() - start)
                if view == "map":
                    times["map, change of head"] += [change_head(page, str(head)) for head in (1, 2, 3)]
                page.close()
        browser.close()
    for name, seconds in times.items():
        say(f"{name}, in the browser, software rendering", seconds)


def change_head(page: object, head: str) -> float:
    """Choose a head on the page and return the seconds until it is drawn."""
    return float(
        page.evaluate(  # type: ignore[attr-defined]
            """async (head) => {
              const doc = Bokeh.documents[0]
              const points = doc.get_model_by_name("query").data_source
              const start = performance.now()
              const arrived = new Promise((done) => points.properties.data.change.connect(done))
              doc.get_model_by_name("head").value = head
              await arrived
              await new Promise((done) => setTimeout(done))  // the page's own listeners come after this one
              while (doc.get_model_by_name("map").hold_render) await new Promise((done) => requestAnimationFrame(done))
              await new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))
              return (performance.now() - start) / 1000
            }""",
            head,
        )
    )


# ---------------------------------------------------------------- many visitors


def many_visitors(url: str) -> None:
    """Let visitors come at once, each changing the head some times, and time until each has been sent the new points.

    A visitor's messages are answered in order: the answer to a question that follows the change comes after the points.
    """
    from bokeh.client import pull_session

    times: list[float] = []
    begin = threading.Barrier(VISITORS)

    def visit(number: int) -> None:
        session = pull_session(url=url)
        head = session.document.get_model_by_name("head")
        begin.wait()
        for i in range(SWITCHES):
            start = time.perf_counter()
            head.value = str((number + 2 * i + 1 + int(head.value)) % 12)
            session.force_roundtrip()
            times.append(time.perf_counter() - start)
        session.close()

    threads = [threading.Thread(target=visit, args=(number,)) for number in range(VISITORS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    say(f"change of head with {VISITORS} visitors who all change at once, {len(times)} changes", times)


# ---------------------------------------------------------------- on the server


def on_server(root: Path, name: str) -> None:
    """Print what the server does for a visitor, measured in a process that opens the index for the first time."""
    result = subprocess.run(
        [sys.executable, __file__, "_server", str(root)], check=True, capture_output=True, text=True
    )
    found = json.loads(result.stdout.splitlines()[-1])
    print(f"  on the server, {name}, {found.pop('heads')} heads x {found.pop('points'):,} points:")
    for what, seconds in found.items():
        print(f"    {what}: {seconds:.2f} s")


def server(root: Path) -> None:
    """Print as JSON how long the server takes; called in a process of its own."""
    from bokeh.document import Document

    import qkspace
    from qkspace.app.document import make_document

    def timed(run: Callable[[], object]) -> float:
        start = time.perf_counter()
        run()
        return time.perf_counter() - start

    index = qkspace.open(root)
    found: dict[str, float] = {"heads": sum(layer.n_heads for layer in index.layers), "points": 2 * index.n_tokens}
    # The browser says how large the frame is, and the atlas is drawn again: both drawings count.
    doc = Document()

    def first_paint() -> None:
        make_document(doc, index, arguments={"page": [b"atlas"]})
        atlas = doc.get_model_by_name("atlas")
        for name, pixels in (("inner_width", 900), ("inner_height", 560)):
            atlas.set_from_json(name, pixels)
        doc.to_json()

    found["atlas, first paint (nothing opened before)"] = timed(first_paint)
    texts = index.tokens["text"].value_counts().index
    search = doc.get_model_by_name("search")

    def find(text: str) -> Callable[[], None]:
        return lambda: setattr(search, "value", text)

    found["search on the atlas, first"] = timed(find(str(texts[5])))
    found["search on the atlas, median of 5 others"] = statistics.median(timed(find(str(text))) for text in texts[6:11])
    doc = Document()
    found["map, first page"] = timed(lambda: make_document(doc, index))
    head = doc.get_model_by_name("head")
    found["change of head, median of 8"] = statistics.median(
        timed(lambda i=i: setattr(head, "value", str((int(head.value) + 1) % 12)))  # type: ignore[misc]
        for i in range(8)
    )
    print(json.dumps(found))


def random_bert(model: str, folder: Path) -> Path:
    """Save a BERT of 12 layers and 12 heads with random weights and the tokenizer of a model."""
    from transformers import AutoTokenizer, BertConfig, BertModel

    tokenizer = AutoTokenizer.from_pretrained(model)
    config = BertConfig(vocab_size=len(tokenizer), hidden_size=384, intermediate_size=768)
    BertModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def size_of_html() -> None:
    """Print the size of the stand-alone page of a sequence, with random attention, which compresses worst."""
    import qkspace

    random = np.random.default_rng(0)
    logit = random.normal(size=(12, 12, 128, 128))
    weight = np.exp(logit)
    attention = list((weight / weight.sum(axis=-1, keepdims=True)).astype(np.float32))
    size = len(qkspace.attention_view(attention, [f"token{i}" for i in range(128)]).html.encode())
    print(
        f"  HTML of 128 tokens, 12 x 12 heads: {size / 1e6:.2f} MB, {BERTVIZ_MB / (size / 1e6):.0f} times less than BertViz"
    )


if __name__ == "__main__":
    server(Path(sys.argv[2]))
