"""Notebook: the views of an index below a cell.

In: an index and what is to be seen of it. Out: the whole page, from a small server that the notebook's process runs; or one
view that needs no server, shows itself as the last line of a cell, and saves itself as a file. Of what may be chosen it
knows no more than the page and `qkspace export` do.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import lru_cache
from html import escape
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, get_args

from qkspace.app.state import State, from_address, to_address
from qkspace.app.state import Theme as PageTheme
from qkspace.attention_view import (
    AttentionView,
    Mode,
    Theme,
    index_attention_view,
    live_attention_view,
)
from qkspace.drawing import PICTURES, check_path
from qkspace.export import TABLES, USED, export, write_table
from qkspace.index import Index
from qkspace.live import LiveSequence, LiveWorker
from qkspace.schema import QKSpaceError

if TYPE_CHECKING:
    import pandas as pd
    from bokeh.document import Document
    from matplotlib.figure import Figure

    from qkspace.matrix import Matrix
    from qkspace.matrix_picture import Style

PIXELS_PER_INCH = 96  # as browsers count
SHARPNESS = 2  # pixels of a picture for each that a cell shows, for fine screens


# ---------------------------------------------------------------------------------------------------- the whole page


def show(
    index: Index,
    *,
    layer: int | None = None,
    head: int | None = None,
    height: int = 720,
    url: str | None = None,
    **options: Any,  # parts of qkspace.app.state.State
) -> None:
    """Show the page of the app below a notebook's cell.

        index.show(layer=3, head=5)
        index.show(page="atlas", method="pca", order="recall1_content")
        index.show(3, 5, colour="upos", search="bank upos:NOUN", theme="dark")
        index.show(page="sentence", text="The river rose.", pair="The bank held.")

    Args:
        index: the index.
        layer: which layer, from 0; without layer and head it is the head whose map says most about ordinary words.
        head: which of its heads, from 0.
        height: of the view in pixels.
        url: where the browser sees this notebook ("http://host:8888"), where that is not this machine; the environment
            variable JUPYTER_BOKEH_EXTERNAL_URL says the same.
        **options: what else the page begins with, by the names of its address: page ("map", "atlas", "sentence" or
            "head"), method, dims, colour, search, sequence, text and pair (a live sentence), theme, language and all else
            that `qkspace.app.state.State` lists.

    Raises:
        QKSpaceError: no such layer, head, option or value of one, or this is no notebook.
    """
    from bokeh.io import output_notebook
    from bokeh.io import show as show_document
    from bokeh.resources import INLINE

    from qkspace.app.document import make_document

    chosen = _checked(index, {"layer": layer, "head": head, **options})
    try:
        output_notebook(INLINE, hide_banner=True)
    except ModuleNotFoundError:  # IPython is what a notebook has
        message = f"index.show works in a notebook. Here, open the page with `qkspace serve {index.root}`."
        raise QKSpaceError(message) from None

    def page(doc: Document) -> None:
        make_document(doc, index, address=False, **chosen)
        doc.roots[0].sizing_mode, doc.roots[0].height = "stretch_width", height

    address = url or os.environ.get("JUPYTER_BOKEH_EXTERNAL_URL")
    show_document(page, **({"notebook_url": address} if address else {}))


def _checked(index: Index, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return parts of a `State`, refusing what a visitor's address would be refused."""
    from qkspace.app.document import _first
    from qkspace.app.select import shown_of

    _refuse_unknown("index.show", options, [each.name for each in fields(State)])
    chosen = {name: _as_tuple(value) for name, value in options.items() if value is not None}
    shown = shown_of(index)
    first = _first(shown, chosen)
    try:
        said = {name: [text.encode()] for name, text in to_address(first, State()).items()}
        from_address(said, first, shown)
    except QKSpaceError as error:
        raise QKSpaceError(str(error).replace("The address asks", "index.show was asked", 1)) from None
    return chosen


def _as_tuple(value: Any) -> Any:
    return tuple(_as_tuple(each) for each in value) if isinstance(value, list | tuple) else value


def _refuse_unknown(who: str, options: Iterable[str], known: Sequence[str]) -> None:
    for name in options:
        if name not in known:
            raise QKSpaceError(f"{who} takes no {name!r}; it takes {', '.join(known)}.")


# ---------------------------------------------------------------------------------------------------- one view


@dataclass(frozen=True)
class MapPage:
    """The map of a head, to be moved, enlarged and read below a cell, without a server.

    options: as of `head.map`; html: the page, about 2 MB, which asks the network for nothing; height: in pixels, of the
    notebook's view.
    """

    index: Index = field(repr=False)
    layer: int
    head: int
    options: dict[str, Any]
    html: str = field(repr=False)
    height: int

    def _repr_html_(self) -> str:
        """Return the page in a frame of its own, from which a corpus could reach nothing of the notebook."""
        return (
            f'<iframe srcdoc="{escape(self.html)}" sandbox="allow-scripts allow-downloads" title="Map" '
            f'style="width: 100%; height: {self.height}px; border: 0; display: block"></iframe>'
        )

    def save(self, path: str | Path) -> Path:
        """Write the map as its suffix says (.html, .png, .svg, .pdf; .csv or .parquet of its points), and return the path."""
        return export(self.index, "map", path, layer=self.layer, heads=[self.head], **self.options)


def map_page(
    index: Index,
    layer: int,
    head: int,
    *,
    height: int = 560,
    theme: PageTheme = "light",
    **options: Any,  # of map_picture
) -> MapPage:
    """Show the map of a head below a cell; `head.map(...)` is the same.

        head.map(method="unfold", colour="upos", links=200)
        head.map(selected=("query", 120)).save("figure.svg")

    Args:
        index: the index.
        layer: which layer, from 0.
        head: which of its heads, from 0.
        height: of the view in pixels.
        theme: "light" or "dark".
        **options: method, dims, colour, links, threshold, selected, special, itself, first, whole, yaw, pitch, hidden, search,
            region, by_norm, and the width of a saved picture, as in `qkspace.picture.map_picture`.

    Raises:
        QKSpaceError: there is no such head, map, colour, row or option, or the head is not mapped.
    """
    from qkspace.map_html import map_html

    of_map = [name for name in USED["map"] if name not in ("layer", "head")]
    _refuse_unknown("head.map", options, [*of_map, "height"])
    _check_theme(theme)
    chosen = {"theme": theme, **{name: value for name, value in options.items() if value is not None}}
    html = map_html(index, layer, head, **{name: value for name, value in chosen.items() if name != "width"})
    return MapPage(index, layer, head, chosen, html, height)


@dataclass(frozen=True)
class Picture:
    """A picture below a cell; options: what it was asked for with."""

    options: dict[str, Any]
    figure: Figure = field(repr=False)

    def _repr_png_(self) -> tuple[bytes, dict[str, int]]:
        """Return the picture, and how wide and high a cell shows it."""
        from qkspace.drawing import save

        with TemporaryDirectory() as folder:
            path = save(self.figure, Path(folder) / "picture.png", dpi=SHARPNESS * PIXELS_PER_INCH)
            width, height = (round(PIXELS_PER_INCH * inches) for inches in self.figure.get_size_inches())
            return path.read_bytes(), {"width": width, "height": height}

    def save(self, path: str | Path) -> Path:
        """Write the picture as its suffix says (.png, .svg or .pdf), and return the path."""
        from qkspace.drawing import save

        return save(self.figure, path)


@dataclass(frozen=True)
class MatrixPicture(Picture):
    """A picture of a matrix below a cell, and its numbers."""

    matrix: Matrix = field(repr=False)

    def table(self) -> pd.DataFrame:
        """Return what is drawn: each pair of a query and a key (`Matrix.table`), or what each token receives (`received`)."""
        from qkspace.matrix import received

        return received(self.matrix) if self.options["style"] == "received" else self.matrix.table()

    def save(self, path: str | Path) -> Path:
        """Write the picture (.png, .svg or .pdf) or its table (.csv or .parquet), as the suffix says, and return the path."""
        path = check_path(path, (*PICTURES, *TABLES))
        return write_table(self.table(), path) if path.suffix.lower() in TABLES else super().save(path)


def atlas(index: Index, *, theme: PageTheme = "light", **options: Any) -> Picture:  # of atlas_picture
    """Show the maps of all heads below a cell, each with its scores; `index.atlas(...)` is the same.

    Args:
        index: the index.
        theme: "light" or "dark".
        **options: method, dims, colour, order, least, search and width, as in `qkspace.picture.atlas_picture`.

    Raises:
        QKSpaceError: there are no such maps, colour or option.
    """
    from qkspace.picture import atlas_picture

    _refuse_unknown("index.atlas", options, USED["atlas"])
    _check_theme(theme)
    chosen = {"theme": theme, **{name: value for name, value in options.items() if value is not None}}
    return Picture(chosen, atlas_picture(index, **chosen))


def matrix(
    index: Index,
    sequence: int | LiveSequence,
    style: Style = "heatmap",
    *,
    layer: int | None = None,
    head: int | None = None,
    tokens: tuple[int, int] | None = None,
    theme: PageTheme = "light",
    **options: Any,  # of matrix_picture: width, yaw, pitch
) -> MatrixPicture:
    """Show the attention over one sequence as one matrix below a cell; `index.matrix(...)` is the same.

        index.matrix(12)                                            # the last layer, averaged over its heads
        index.matrix(12, "received", layer=3, head=5)               # what each token receives
        index.matrix(index.live("The bank by the river"), "bars")   # in space; "scatter" too
        index.matrix(12).save("matrix.csv")                         # its numbers, which `table()` returns

    Args:
        index: the index.
        sequence: a value of `index.sequences["sequence"]`, or what `index.live` returned.
        style: "heatmap", "received", "bars" or "scatter" (`qkspace.matrix_picture.matrix_picture`).
        layer: from 0; the last where left out.
        head: from 0; the mean of all heads where left out.
        tokens: only those from the first to before the last of these two, from 0.
        theme: "light" or "dark".
        **options: width, and of a picture in space yaw and pitch.

    Raises:
        QKSpaceError: no such sequence, layer, head or style, or more tokens than can be read.
    """
    from qkspace.matrix import matrix_of
    from qkspace.matrix_picture import matrix_picture

    _refuse_unknown("index.matrix", options, ["width", "yaw", "pitch"])
    _check_theme(theme)
    found = matrix_of(index, sequence, layer=layer, head=head, tokens=tokens)
    chosen = {"style": style, "theme": theme, **options}
    return MatrixPicture(chosen, matrix_picture(found, **chosen), found)


def _check_theme(theme: str) -> None:
    if theme not in get_args(PageTheme):
        raise QKSpaceError(f"Unknown theme {theme!r}; choose among {', '.join(get_args(PageTheme))}.")


def sentence(
    index: Index,
    sequence: int | LiveSequence,
    *,
    layers: Sequence[int] | None = None,
    layer: int | None = None,
    heads: Sequence[int] | None = None,
    mode: Mode = "lines",
    theme: Theme = "auto",
    height: int | None = None,
) -> AttentionView:
    """Show the attention over one sequence below a cell; `index.sentence(...)` is the same.

        index.sentence(12, layer=3, heads=[5])
        index.sentence(index.live("The bank by the river"), mode="heat")

    Args:
        index: the index.
        sequence: a value of `index.sequences["sequence"]`, or what `index.live` returned.
        layers: those that the view holds, of a sequence of the index; all where left out. Fewer make it smaller.
        layer: the layer to show first.
        heads: the heads to show first.
        mode: "lines", "heat", "model" (all heads) or "neurons".
        theme: "light", "dark", or "auto", as the browser prefers.
        height: of the view in pixels; by the number of tokens where left out.

    Raises:
        QKSpaceError: that sequence is not stored, or there is no such layer, head, mode or theme.
    """
    if isinstance(sequence, LiveSequence):
        return live_attention_view(sequence, layer=layer, heads=heads, mode=mode, theme=theme, height=height)
    options: dict[str, Any] = {"layers": layers, "layer": layer, "heads": heads}
    return index_attention_view(index, sequence, mode=mode, theme=theme, height=height, **options)


# ---------------------------------------------------------------------------------------------------- a live sentence


def live(
    index: Index,
    text: str,
    pair: str | None = None,
    *,
    model: str | Path | None = None,
    trust_remote_code: bool = False,
) -> LiveSequence:
    """Run a text, or a pair of texts, through the model of an index; `index.live(...)` is the same.

        live = index.live("The bank by the river was closed.")
        live.tokens, live.attention(layer=3, head=5)
        index.sentence(live, layer=3, heads=[5])
        query, key = live.vectors(3, 5)
        head.projection().transform(query, key)             # where its tokens lie on the map

    The model is loaded with the first text and stays, shared with the page that `show` serves.

    Args:
        index: the index.
        text: see `qkspace.live.LiveModel.run`.
        pair: a second text, or None.
        model: where the checkpoint is now, if not where it was at the build.
        trust_remote_code: run code that comes with the checkpoint.

    Raises:
        QKSpaceError: no text, or the checkpoint is not there or is another one.
    """
    return _worker(index, None if model is None else str(model), trust_remote_code).submit(text, pair).result()


@lru_cache(maxsize=4)
def _worker(index: Index, model: str | None, trust_remote_code: bool) -> LiveWorker:
    from qkspace.app.document import worker_of

    if model is None and not trust_remote_code:
        return worker_of(index)
    return LiveWorker(index, model, trust_remote_code=trust_remote_code)
