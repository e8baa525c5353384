"""Server: hand visitors their documents, and start a server of our own.

In: folders of indexes. Out: pages. An index is opened once for the process and only read; everything a visitor changes
is in their document.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Mapping, Sequence
from functools import lru_cache
from html import escape
from pathlib import Path
from urllib.parse import quote

from bokeh.document import Document
from bokeh.models import Div, GlobalInlineStyleSheet, InlineStyleSheet

from qkspace import store
from qkspace.app.compare_document import make_compare_document
from qkspace.app.document import make_document
from qkspace.app.lists import ways_on
from qkspace.app.state import Language
from qkspace.app.style import FONT
from qkspace.comparison.reader import Comparison, is_comparison
from qkspace.console import Console
from qkspace.index import Index
from qkspace.schema import QKSpaceError

PLAIN_CSS = f"""
:host {{ color: CanvasText; font: 14px/1.5 {FONT}; overflow-wrap: anywhere; }}
p {{ max-width: 60em; }}
table {{ border-collapse: collapse; }}
th, td {{ text-align: left; padding: 6px 14px 6px 0; border-bottom: 1px solid color-mix(in srgb, CanvasText 20%, transparent);
 vertical-align: top; max-width: 26em; }}
th {{ white-space: nowrap; }}
td.wrong {{ color: color-mix(in srgb, CanvasText 70%, red); }}
"""
OUT = Path("out")  # where indexes are looked for when none is named


@lru_cache(maxsize=8)
def _open(root: Path, _stamp: float) -> Index | Comparison:
    return Comparison(root) if is_comparison(root) else Index(root)


def open_shared(root: Path) -> Index | Comparison:
    """Return the index or comparison in a folder, opened once for all visitors and again when it was made anew."""
    manifest = root / store.MANIFEST
    return _open(root, manifest.stat().st_mtime if manifest.exists() else 0.0)


def find_indexes(folder: Path = OUT) -> list[Path]:
    """Return the finished indexes and comparisons in a folder, the newest first."""
    found = [path.parent for path in folder.glob(f"*/{store.MANIFEST}")]
    found = [root for root in found if store.is_ours(root) or is_comparison(root)]
    return sorted(found, key=lambda root: (root / store.MANIFEST).stat().st_mtime, reverse=True)


def inner_indexes(roots: Sequence[Path]) -> dict[str, Path]:
    """Return the indexes that were built for comparisons, which are served beside them: NAME/LABEL -> folder."""
    found = [path.parent for root in roots for path in sorted(root.glob(f"indexes/*/{store.MANIFEST}"))]
    return {f"{root.parents[1].name}/{root.name}": root for root in found if is_comparison(root.parents[1])}


def fill(
    doc: Document,
    roots: Sequence[Path],
    arguments: Mapping[str, Sequence[bytes]],
    *,
    model: str | None = None,
    trust_remote_code: bool = False,
) -> None:
    """Fill a visitor's document by what their address asks for (?index=NAME&layer=3&head=5&theme=dark).

    Where no index was named when the server was started, an address that names none gets a list of those in `OUT`. An
    address is a stranger's word: what it names is looked up among what is served, and an error becomes a page.
    """
    try:
        name = _text(arguments, "index")
        if not roots and name is None:
            list_indexes(doc, OUT)
            return
        served = list(roots) or find_indexes()
        inner = inner_indexes(served)
        root = inner[name] if name in inner else _chosen(served, name)
        opened, names = open_shared(root), [each.name for each in served]
        if isinstance(opened, Comparison):
            own = {each.resolve(): each.name for each in served} | {each.resolve(): key for key, each in inner.items()}
            make_compare_document(doc, opened, arguments=arguments, indexes=names, served=_own(opened, own))
            return
        if root not in served:
            names = [root.name, *names]  # the way back to the comparison
        make_document(doc, opened, arguments=arguments, indexes=names, model=model, trust_remote_code=trust_remote_code)
    except QKSpaceError as error:
        doc.title = "qkspace"
        _plain_page(doc, f"<h2>qkspace</h2><p>{escape(str(error))}</p>{_ways_on(roots, arguments)}")


def _own(comparison: Comparison, names: Mapping[Path, str]) -> dict[str, str]:
    """Return under which name each checkpoint's own index is served, where it is; names: of the folders served."""
    indexes = {comparison.base_label: comparison.base}
    indexes |= {label: comparison.tuned(label) for label in comparison.labels}
    folders = {label: index.root.resolve() for label, index in indexes.items()}
    return {label: names[folder] for label, folder in folders.items() if folder in names}


def _ways_on(roots: Sequence[Path], arguments: Mapping[str, Sequence[bytes]]) -> str:
    """Return links away from an address that cannot be shown: to the same index from its start, and to all indexes."""
    language: Language = "ja" if _text(arguments, "language") == "ja" else "en"
    spoken = "" if language == "en" else f"&language={language}"
    served = list(roots) or find_indexes()
    names = [*(root.name for root in served), *inner_indexes(served)]
    name = _text(arguments, "index")
    if roots and name not in names:
        name = names[0]
    start = f"?index={quote(str(name))}{spoken}" if name in names else ""
    return ways_on(start, "" if roots else "?", language)


def _plain_page(doc: Document, text: str) -> None:
    sheets = [
        GlobalInlineStyleSheet(css=":root { color-scheme: light dark; }"),
        InlineStyleSheet(css=PLAIN_CSS),
    ]
    styles = {"padding": "40px", "box-sizing": "border-box"}
    doc.add_root(Div(text=text, styles=styles, stylesheets=sheets, sizing_mode="stretch_width"))


def list_indexes(doc: Document, folder: Path) -> None:
    """Fill a document with the list of all indexes in a folder, also those that cannot be opened, and why.

    Raises:
        QKSpaceError: there is none.
    """
    entries = [_entry(root) for root in find_indexes(folder)]
    if not entries:
        _chosen([], None)
    rows = "".join(entries)
    titles = "".join(
        f"<th>{title}</th>" for title in ("index", "model", "corpus", "tokens", "heads", "maps", "on disk", "made")
    )
    doc.title = "qkspace"
    _plain_page(
        doc, f"<h2>qkspace</h2><p>Indexes in <code>{escape(str(folder.resolve()))}</code>:</p>"
        f"<table><tr>{titles}</tr>{rows}</table>"
    )  # fmt: skip


def _entry(root: Path) -> str:
    """Return a row of the list: what an index is of, or what is wrong with it."""
    name = escape(root.name)
    try:
        opened = open_shared(root)
    except QKSpaceError as error:
        return f'<tr><td>{name}</td><td colspan="7" class="wrong">{escape(str(error))}</td></tr>'
    of = "" if isinstance(opened, Index) else _compared(opened)
    index = opened if isinstance(opened, Index) else opened.base
    corpus = " + ".join(source["source"].rsplit("/", 1)[-1] for source in index.manifest["made_from"]["corpus"])
    size = sum(record["bytes"] for record in opened.manifest["files"].values())
    maps = ", ".join(f"{method} {dims}-D" for method, dims in opened.maps)
    heads = f"{index.n_layers} \u00d7 {index.n_heads}"
    made = str(opened.manifest.get("created", ""))[:10]
    texts = (of or index.model_name, corpus, f"{index.n_tokens:,}", heads, maps, f"{size / 1e6:,.0f} MB", made)
    cells = "".join(f"<td>{escape(text)}</td>" for text in texts)
    return f'<tr><td><a href="?index={quote(root.name)}">{name}</a></td>{cells}</tr>'


def _compared(comparison: Comparison) -> str:
    """Say what a comparison compares."""
    labels = comparison.labels
    tuned = ", ".join(labels) if len(labels) < 4 else f"{labels[0]} to {labels[-1]} ({len(labels)})"
    return f"comparison: {comparison.base_label} with {tuned}"


def _chosen(roots: list[Path], name: str | None) -> Path:
    if not roots:
        raise QKSpaceError(
            f"No index in {OUT.resolve()}. Make one with `qkspace build`, or name one: "
            "bokeh serve qkspace/app --args --index out/NAME"
        )
    names = [root.name for root in roots]
    twice = sorted({each for each in names if names.count(each) > 1})
    if twice:
        raise QKSpaceError(
            f"Several of the served indexes are called {', '.join(twice)}: rename a folder, so that each can be asked for."
        )
    if name is None:
        return roots[0]
    for root in roots:
        if root.name == name:
            return root
    raise QKSpaceError(f"No index {name!r} is served here; there are {', '.join(root.name for root in roots)}.")


def _text(arguments: Mapping[str, Sequence[bytes]], name: str) -> str | None:
    values = arguments.get(name)
    return values[0].decode("utf-8", "replace") if values else None


def serve(
    roots: Sequence[Path],
    *,
    port: int,
    address: str,
    show: bool,
    console: Console,
    model: str | None = None,
    trust_remote_code: bool = False,
) -> None:
    """Serve indexes until interrupted; without any, a list of those in `OUT`. model, trust_remote_code: see `make_document`.

    Raises:
        QKSpaceError: an index cannot be read, there is none, or the port is taken.
    """
    from bokeh.application import Application
    from bokeh.application.handlers.function import FunctionHandler
    from bokeh.server.server import Server

    for root in roots:
        open_shared(root)
    _chosen(list(roots) or find_indexes(), None)

    def visit(doc: Document) -> None:
        arguments = doc.session_context.request.arguments if doc.session_context else {}
        fill(doc, roots, arguments, model=model, trust_remote_code=trust_remote_code)

    try:
        port = port or _free_port(address)
        server = Server(
            {"/": Application(FunctionHandler(visit))},
            port=port,
            address=address,
            allow_websocket_origin=_origins(address, port),
        )
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            raise QKSpaceError(f"Cannot listen on {address}:{port}: {error.strerror or error}.") from error
        raise QKSpaceError(
            f"Port {port} is taken by another program. Choose another with --port, or --port 0 for any free one."
        ) from None
    url = f"http://{address}:{server.port}/"
    console.result(f"qkspace is at {url}   (Ctrl-C stops it)")
    server.start()
    if show:
        server.io_loop.add_callback(server.show, "/")
    try:
        server.io_loop.start()
    except KeyboardInterrupt:
        console.say("Stopped.")


def _free_port(address: str) -> int:
    """Return a port that is free now; the allowed origins must name it before the server binds it."""
    with socket.socket() as probe:
        probe.bind((address, 0))
        return int(probe.getsockname()[1])


def _origins(address: str, port: int) -> list[str]:
    """Return the names under which a browser may reach the server."""
    if address in ("0.0.0.0", "::"):  # open to the network because the user asked for it: by whatever name it is called
        return [f"*:{port}"]
    return sorted({f"{name}:{port}" for name in ("localhost", "127.0.0.1", address)})
