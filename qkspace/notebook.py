"""Notebook: the page of the app below a cell.

In: an index. Out: the same document as in the browser, from a small server that the notebook's process runs.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Literal

from qkspace.index import Index
from qkspace.schema import QKSpaceError

if TYPE_CHECKING:
    from bokeh.document import Document


def show(
    index: Index,
    *,
    layer: int = 0,
    head: int = 0,
    theme: Literal["light", "dark"] = "light",
    height: int = 720,
    url: str | None = None,
) -> None:
    """Show a head below a notebook's cell.

    Args:
        index: the index.
        layer: which layer, from 0.
        head: which of its heads, from 0.
        theme: "light" or "dark".
        height: of the view in pixels.
        url: where the browser sees this notebook ("http://host:8888"), where that is not this machine; the environment
            variable JUPYTER_BOKEH_EXTERNAL_URL says the same.

    Raises:
        QKSpaceError: there is no such layer or head, or this is no notebook.
    """
    from bokeh.io import output_notebook
    from bokeh.io import show as show_document
    from bokeh.resources import INLINE

    from qkspace.app.document import make_document

    index.head(layer, head)
    try:
        output_notebook(INLINE, hide_banner=True)
    except ModuleNotFoundError:  # IPython is what a notebook has
        message = f"index.show works in a notebook. Here, open the page with `qkspace serve {index.root}`."
        raise QKSpaceError(message) from None

    def page(doc: Document) -> None:
        make_document(doc, index, layer=layer, head=head, theme=theme, address=False)
        doc.roots[0].sizing_mode, doc.roots[0].height = "stretch_width", height

    address = url or os.environ.get("JUPYTER_BOKEH_EXTERNAL_URL")
    show_document(page, **({"notebook_url": address} if address else {}))
