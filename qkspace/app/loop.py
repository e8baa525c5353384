"""Loop: how a page changes in one message, and how long work is done beside the server's loop.

In: a document and what is to be done. Out: nothing; it is done. Knows no index and no view.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial

from bokeh.document import Document

POOL = ThreadPoolExecutor(1, thread_name_prefix="qkspace-page")  # of all visitors
LONG = ThreadPoolExecutor(
    1, thread_name_prefix="qkspace-page-long"
)  # likewise, for work of a minute: nothing waits for it


def held(document: Document | None, show: Callable[[], None]) -> None:
    """Show a change in one message, so that the browser draws once."""
    if document is None:
        show()
        return
    document.hold("combine")
    try:
        show()
    finally:
        document.unhold()


def beside(
    document: Document, work: Callable[[], str], tell: Callable[[str], None], *, takes_long: bool = False
) -> None:
    """Do work that takes more than a moment and tell its result; beside the server's loop where there is one.

    So other visitors need not wait; nor does other such work wait for what `takes_long`, a minute and not a second. Without a
    server it is done at once.
    """
    session = document.session_context
    if session is None:
        tell(work())
        return

    def done(future: Future[str]) -> None:
        if not session.destroyed:  # else the visitor has gone
            document.add_next_tick_callback(partial(tell, future.result()))

    (LONG if takes_long else POOL).submit(work).add_done_callback(done)
