"""Files: what a visitor takes away of the page.

In: a kind ("png", "svg", "html", "csv", "parquet") and a `Scene`. Out: a file's name, media type and content. Pictures are
drawn anew by `qkspace.picture`, without a browser.
"""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from qkspace.app import select
from qkspace.app.language import say
from qkspace.app.pictures import album_of
from qkspace.app.plotted import IN_SPACE, plotted_matrix
from qkspace.app.select import Scene
from qkspace.app.state import Kind
from qkspace.matrix import Matrix
from qkspace.schema import IntArray, QKSpaceError

MIME = {
    "png": "image/png",
    "svg": "image/svg+xml",
    "html": "text/html",
    "csv": "text/csv",
    "parquet": "application/vnd.apache.parquet",
}

TABLES = ("csv", "parquet")
OF_MAP = (  # of a State, that a picture of a map takes
    "dims",
    "threshold",
    "special",
    "itself",
    "first",
    "whole",
    "selected",
    "yaw",
    "pitch",
    "region",
    "by_norm",
)
PICTURE_TOKENS = 60
TO_AZIMUTH = -90  # degrees from what the page calls yaw to what the picture of a matrix does


def make(kind: str, scene: Scene) -> tuple[str, str, bytes]:
    """Return name, media type and content of a file of what is shown.

    Raises:
        QKSpaceError: this cannot be drawn.
    """
    state, index = scene.state, scene.shown.index
    if kind not in MIME:
        raise QKSpaceError(f"There is no file of kind {kind!r}; there are {', '.join(MIME)}.")
    page = "map" if kind == "html" and state.page in ("atlas", "head") else state.page  # which is what it shows
    if state.page == "heads" and kind not in TABLES:  # figures have a button of their own
        raise QKSpaceError(say(state.language, "heads_save_figure"))
    if state.page == "plots" and kind == "html":
        raise QKSpaceError(say(state.language, "plots_no_html"))
    head = "" if state.page == "plots" and state.averaged else f"H{state.head}"
    name = f"{index.root.name}-{page}-L{state.layer}{head}.{kind}"
    with TemporaryDirectory() as folder:
        path = Path(folder) / name
        if kind in TABLES:
            _write_table(path, scene)
        else:
            _write_picture(path, scene)
        return name, MIME[kind], path.read_bytes()


def _write_table(path: Path, scene: Scene) -> None:
    """Write the tokens of the view that is open, or the statistics and scores of its head, or of the heads of the atlas."""
    from qkspace.atlas_picture import sorted_heads
    from qkspace.export import selection_table, write_table
    from qkspace.matrix import received

    shown, state = scene.shown, scene.state
    if state.page == "head":
        table = shown.head_table
        table = table[(table["layer"] == state.layer) & (table["head"] == state.head)]
    elif state.page == "heads":
        table = shown.head_table
    elif state.page == "plots":
        matrix = _matrix(scene)
        table = received(matrix) if state.plot == "received" else matrix.table()
    elif state.page == "atlas":
        table = shown.head_table.iloc[sorted_heads(shown, state)]
    elif state.page == "sentence" and scene.live is not None:
        raise QKSpaceError(say(state.language, "live_html_only"))
    else:
        of: dict[str, Any] = {name: getattr(state, name) for name in ("layer", "head", "method", "dims")}
        table = selection_table(shown.index, _rows(scene), **of)
    write_table(table, path)


def _matrix(scene: Scene) -> Matrix:
    """Return the matrix that the page of plots shows, once the model has read the sentence that it is of."""
    if scene.live is None and scene.state.text.strip() and scene.shown.reads_texts:
        raise QKSpaceError(scene.live_says or say(scene.state.language, "plots_reading"))
    return plotted_matrix(scene)


def _rows(scene: Scene) -> dict[Kind, IntArray]:
    """Return the rows of each kind: of the sentence, or lassoed, or the clicked token's sequence, or the hits, or all drawn."""
    shown, state = scene.shown, scene.state
    if state.page == "sentence" or (state.selected is not None and not state.region):
        span = shown.index.rows(select.sequence_of(shown, state))
        return dict.fromkeys(select.KINDS, np.arange(span.start, span.stop))
    if state.region:
        return select.region_rows(shown, state)
    return dict.fromkeys(select.KINDS, shown.rows if scene.hit_rows is None else scene.hit_rows)


def _write_picture(path: Path, scene: Scene) -> None:
    """Draw the view that is open; the page about a head has its map, and so has a page of HTML of the atlas."""
    from qkspace import picture
    from qkspace.attention_view import index_attention_view, live_attention_view
    from qkspace.image_picture import image_picture
    from qkspace.map_html import map_html
    from qkspace.matrix_picture import matrix_picture

    state, index = scene.state, scene.shown.index
    is_html = path.suffix == ".html"
    look: dict[str, Any] = {name: getattr(state, name) for name in ("method", "colour", "theme")}
    look["search"] = "" if scene.hits is None else state.search  # one that is not understood finds nothing
    if state.page == "plots":
        camera = (
            {"yaw": state.yaw + TO_AZIMUTH, "pitch": min(max(state.pitch, 5), 85)} if state.plot in IN_SPACE else {}
        )
        picture.save(matrix_picture(_matrix(scene), state.plot, theme=state.theme, **camera), path)
    elif state.page == "atlas" and not is_html:
        picture.save(picture.atlas_picture(index, order=state.order, least=state.least, **look), path)
    elif state.page == "sentence" and scene.live is not None:
        if not is_html:
            raise QKSpaceError(say(state.language, "live_html_only"))
        live_attention_view(scene.live, layer=state.layer, heads=[state.head], theme=state.theme).save(path)
    elif state.page == "sentence":
        sequence = select.sequence_of(scene.shown, state)
        if (album := album_of(index)) is not None and not is_html:
            side, row = state.selected or ("query", None)
            token = None if row is None else album.place_of(row)[1]
            which: dict[str, Any] = {"token": token, "side": side, "theme": state.theme}
            picture.save(image_picture(index, sequence, state.layer, [state.head], **which), path)
        elif is_html:
            index_attention_view(index, sequence, layer=state.layer, heads=[state.head], theme=state.theme).save(path)
        else:
            drawn = picture.sentence_picture(
                index, sequence, state.layer, [state.head], tokens=_window(scene, sequence), theme=state.theme
            )
            picture.save(drawn, path)
    else:
        chosen = look | {name: getattr(state, name) for name in OF_MAP} | {"links": state.n_links}
        kinds = scene.colours.legend.kinds
        chosen["hidden"] = [kind for kind in state.hidden if kind in kinds]  # an address may name others
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
