"""Files: what a visitor takes away of the page.

In: a kind ("png", "svg", "html", "csv", "parquet") and a `Scene`. Out: a file's name, media type and content. Pictures are
drawn anew by `qkspace.picture`, without a browser.
"""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from qkspace.app import select
from qkspace.app.language import say
from qkspace.app.select import Scene
from qkspace.app.state import Kind
from qkspace.schema import IntArray, QKSpaceError

MIME = {
    "png": "image/png",
    "svg": "image/svg+xml",
    "html": "text/html",
    "csv": "text/csv",
    "parquet": "application/vnd.apache.parquet",
}

LINKS = (
    "threshold",
    "special",
    "itself",
    "first",
    "selected",
    "yaw",
    "pitch",
)  # of a State, that a picture of a map takes
PICTURE_TOKENS = 60


def make(kind: str, scene: Scene) -> tuple[str, str, bytes]:
    """Return name, media type and content of a file of what is shown.

    Raises:
        QKSpaceError: this cannot be drawn.
    """
    state, index = scene.state, scene.shown.index
    if kind not in MIME:
        raise QKSpaceError(f"There is no file of kind {kind!r}; there are {', '.join(MIME)}.")
    name = f"{index.root.name}-{state.page}-L{state.layer}H{state.head}.{kind}"
    with TemporaryDirectory() as folder:
        path = Path(folder) / name
        if kind in ("csv", "parquet"):
            _write_selection(path, scene)
        else:
            _write_picture(path, scene)
        return name, MIME[kind], path.read_bytes()


def _write_selection(path: Path, scene: Scene) -> None:
    """Write the lassoed points, or the clicked token's sequence, or the hits, or all that is drawn."""
    from qkspace.export import selection_table, write_table

    shown, state = scene.shown, scene.state
    rows: dict[Kind, IntArray] = {}
    if state.region:
        rows = select.region_rows(shown, state)
    else:
        picked: IntArray = shown.rows
        if state.selected is not None:
            span = shown.sequence_rows(state.selected[1])
            picked = np.arange(span.start, span.stop)
        elif scene.hit_rows is not None:
            picked = scene.hit_rows
        rows = dict.fromkeys(select.KINDS, picked)
    table = selection_table(shown.index, rows, layer=state.layer, head=state.head, method=state.method, dims=state.dims)
    write_table(table, path)


def _write_picture(path: Path, scene: Scene) -> None:
    """Draw the view that is open; the page about a head has its map."""
    from qkspace import picture
    from qkspace.attention_view import index_attention_view, live_attention_view
    from qkspace.map_html import map_html

    state, index = scene.state, scene.shown.index
    is_html = path.suffix == ".html"
    of_map = {name: getattr(state, name) for name in ("method", "dims", "colour", "theme")}
    if state.page == "atlas" and not is_html:
        picture.save(picture.atlas_picture(index, **of_map), path)
    elif state.page == "sentence" and scene.live is not None:
        if not is_html:
            raise QKSpaceError(say(state.language, "live_html_only"))
        live_attention_view(scene.live, layer=state.layer, heads=[state.head], theme=state.theme).save(path)
    elif state.page == "sentence":
        sequence = select.sequence_of(scene.shown, state)
        if is_html:
            index_attention_view(index, sequence, layer=state.layer, heads=[state.head], theme=state.theme).save(path)
        else:
            drawn = picture.sentence_picture(
                index, sequence, state.layer, [state.head], tokens=_window(scene, sequence), theme=state.theme
            )
            picture.save(drawn, path)
    else:
        chosen = of_map | {name: getattr(state, name) for name in LINKS} | {"links": state.n_links}
        if is_html:
            path.write_text(map_html(index, state.layer, state.head, **chosen), encoding="utf-8")
        else:
            picture.save(picture.map_picture(index, state.layer, state.head, **chosen), path)


def _window(scene: Scene, sequence: int) -> tuple[int, int] | None:
    """Return which tokens of a long sequence a picture shows: those around the clicked one."""
    rows = scene.shown.index.rows(sequence)
    n = rows.stop - rows.start
    if n <= PICTURE_TOKENS:
        return None
    at = 0 if scene.state.selected is None else scene.state.selected[1] - rows.start
    first = max(0, min(at - PICTURE_TOKENS // 2, n - PICTURE_TOKENS))
    return first, first + PICTURE_TOKENS
