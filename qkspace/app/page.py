"""Page: what the pages of an index and of a comparison have in common: a state, and parts that show it.

In: what a visitor chose. Out: every part showing it, in one message to the browser. Knows neither an index nor a comparison.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from bokeh.models import GlobalInlineStyleSheet

from qkspace.app.loop import held
from qkspace.app.style import root_css, variables_css
from qkspace.index import Index
from qkspace.schema import QKSpaceError
from qkspace.search import Hits, search


class StatefulPage:
    """One visitor's page; a page of a kind adds its `root`, `header`, `sheet`, `show`, `painted` and `_do`."""

    root: Any
    header: Any
    sheet: Any
    state: Any
    whole: bool
    is_pushed: bool

    def show(self) -> None:
        """Let every part show what the state asks for."""
        raise NotImplementedError

    def painted(self) -> Iterable[Any]:
        """Return the parts that take the colours of a theme."""
        raise NotImplementedError

    def _do(self, what: str, value: Any) -> None:
        raise NotImplementedError

    def _told(self, _attr: str, _old: Any, new: list[Any]) -> None:
        """Do what the browser says, and say why where it cannot be done."""
        try:
            self._do(*new[:2])
        except QKSpaceError as error:
            self.header.complain(str(error))

    def _set(self, new: Any, *, push: bool) -> None:
        if new == self.state:
            return
        old, self.state, self.is_pushed = self.state, new, push
        held(self.root.document, lambda: self._show_change(old))

    def _show_change(self, old: Any) -> None:
        if self.state.theme != old.theme:
            self._paint()
        self.show()

    def _paint(self) -> None:
        """Give everything the colours of the theme."""
        theme = self.state.theme
        self.sheet.css = root_css(theme)
        variables = GlobalInlineStyleSheet(css=variables_css(theme, whole=self.whole))  # one keeps its first text
        self.root.stylesheets = [variables, self.sheet]
        for part in self.painted():
            part.paint(theme)


def found_by(index: Index, text: str) -> tuple[Hits | None, str]:
    """Return what a search finds in an index, or what is wrong with it."""
    try:
        return (search(index, text), "") if text.strip() else (None, "")
    except QKSpaceError as error:
        return None, str(error)
