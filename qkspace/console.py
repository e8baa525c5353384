"""What the user sees in a terminal: progress bars, remarks, tables. The only module that prints.

In: names, counts and rows. Out: text on the terminal. Knows nothing of attention.
Progress and remarks go to standard error, results to standard output, so that a result can be piped.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import TextIO, TypeVar

from rich.console import Console as Terminal
from rich.markup import escape
from rich.measure import Measurement
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Column, Table

T = TypeVar("T")
WIDEST = 400  # characters of a table
UNKNOWN = 140  # characters of a line where there is no terminal
DESCRIPTION, SHORTEST = 34, 8  # characters of what is being done, where there is room for them and where there is none
LEAST_BAR, BAR = 4, 28  # and of a bar
TIMES = 30  # that the times of a bar take, with the gaps of a line


class Console:
    """Words for a person, as many as asked for: level 0 results only, 1 also progress, 2 also details."""

    def __init__(self, level: int = 1) -> None:
        """Make a console of that level."""
        self.level = level
        self._progress = Terminal(stderr=True, highlight=False, width=_width(sys.stderr))
        self._result = Terminal(highlight=False, width=_width(sys.stdout))

    def track(self, items: Iterable[T], total: int | None, label: str, *, done: int = 0, unit: str = "") -> Iterator[T]:
        """Yield the items behind a progress bar with the time left; `done` of `total` (None: unknown) are finished."""
        if self.level < 1 or total == 0:
            yield from items
            return
        numbers = len("1000000/?") if total is None else len(f"{total}/{total}")
        room = self._progress.width - TIMES - len(unit) - numbers
        description = min(max(room - LEAST_BAR, SHORTEST), max(DESCRIPTION, len(label)))
        bar = min(max(room - description, LEAST_BAR), BAR)
        left = () if total is None else (TextColumn("gone,"), TimeRemainingColumn(), TextColumn("left"))
        with Progress(
            TextColumn("{task.description}", table_column=Column(width=description, no_wrap=True, overflow="ellipsis")),
            BarColumn(bar_width=bar),
            MofNCompleteColumn(),
            TextColumn(unit),
            TimeElapsedColumn(),
            *left,
            console=self._progress,
        ) as progress:
            task = progress.add_task(escape(label), total=total, completed=done)
            for item in items:
                yield item
                progress.advance(task)

    def say(self, text: str) -> None:
        """Remark on what goes on."""
        if self.level >= 1:
            self._progress.print(escape(text), soft_wrap=True)

    def detail(self, text: str) -> None:
        """Remark for those who asked for details."""
        if self.level >= 2:
            self._progress.print(escape(text), soft_wrap=True, style="dim")

    def error(self, text: str) -> None:
        """Say what went wrong, whatever the level."""
        self._progress.print(f"[bold red]error:[/] {escape(text)}", soft_wrap=True)

    def result(self, text: str) -> None:
        """Print a result."""
        self._result.print(escape(text), soft_wrap=True)

    def table(self, title: str, columns: Sequence[str], rows: Iterable[Sequence[str]], caption: str = "") -> None:
        """Print a table; the first column is a name, the others are numbers."""
        table = Table(title=escape(title), caption=escape(caption), title_justify="left", caption_justify="left")
        for i, column in enumerate(columns):
            table.add_column(escape(column), justify="left" if i == 0 else "right", no_wrap=True)
        for row in rows:
            table.add_row(*(escape(cell) for cell in row))
        needed = Measurement.get(self._result, self._result.options.update(max_width=WIDEST), table).maximum
        Terminal(highlight=False, width=max(self._result.width, needed)).print(table)  # wide, rather than cut


def _width(stream: TextIO) -> int | None:
    """Return how wide lines are that go to a stream; None: as its terminal, or the environment, says."""
    return None if stream.isatty() or "COLUMNS" in os.environ else UNKNOWN


SILENT = Console(0)
