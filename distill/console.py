"""What a person sees during a run: tables and a live line on a terminal, plain lines elsewhere, one process only."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from textwrap import wrap

from rich.cells import cell_len, set_cell_size
from rich.console import Console as Rich
from rich.console import RenderableType
from rich.markup import escape
from rich.measure import Measurement
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from distill.evaluate import Score, interval
from distill.masked import without_secrets

PLAIN_EVERY_SECONDS = 15.0


class Console:
    """Writes to the terminal on the main process; silent on the others."""

    def __init__(self, *, main: bool = True) -> None:
        # A log file has no width of its own; 120 columns keep a row of the comparison on one line.
        known = sys.stdout.isatty() or "COLUMNS" in os.environ
        self.rich = Rich(quiet=not main, highlight=False, width=None if known else 120)

    def say(self, text: str) -> None:
        """One line of plain text, on a terminal broken between words."""
        text = without_secrets(text)
        for line in _whole_words(text, self.rich.width) if self.rich.is_terminal else [text]:
            self._unbroken(Text(line))

    def show(self, what: RenderableType) -> None:
        """A table, or anything that rich lays out; in a file or a pipe without rich's blanks behind each row."""
        if self.rich.is_terminal:
            self.rich.print(what)
            return
        with self.rich.capture() as captured:
            self.rich.print(what)
        rows = (row.rstrip() for row in captured.get().split("\n"))
        self.rich.out("\n".join(rows), end="", highlight=False)

    def summary(self, title: str, rows: list[tuple[str, str]], more: Table | None = None) -> None:
        """Names and values, one a row, and a table under them. A word that is wider than its room stays whole."""
        self._unbroken(Text(title, "bold"))
        self._named(rows)
        if more:
            self.table(more)

    def table(self, table: Table, *, foldable: str = "", least: int = 16) -> None:
        """A table; in a window that is too narrow its rows one after the other, a figure a line.

        The column of that title may be folded first, as names of models may, to no fewer than `least` columns.
        """
        columns = {str(column.header): [_plain(cell) for cell in column.cells] for column in table.columns}
        spare = max(max(map(cell_len, columns.get(foldable, [])), default=0) - least, 0)
        natural = Measurement.get(self.rich, self.rich.options.update(max_width=10**4), table).maximum
        if natural - spare <= self.rich.width:
            self.show(table)
            return
        if table.title:
            self.say(_plain(table.title))
        for row in zip(*columns.values(), strict=True):
            self._named(list(zip(columns, row, strict=True)))

    def _named(self, rows: list[tuple[str, str]]) -> None:
        named = max((cell_len(name) for name, _ in rows), default=0)
        for name, value in rows:
            first = Text.assemble(" ", (set_cell_size(name, named), "cyan"), "  ")
            for line in _whole_words(without_secrets(value), self.rich.width - first.cell_len - 1):
                self._unbroken(first + Text(line))
                first = Text(" " * first.cell_len)

    def _unbroken(self, line: Text) -> None:
        # One that is longer than the window is wrapped by the terminal, which copies it as one.
        self.rich.print(line, overflow="ignore", no_wrap=True, crop=False)

    def accuracy(self, result: Score) -> str:
        """A score in a phrase."""
        if result.top1 is not None:
            return f"top-1 {_share(result.top1, result.labelled)}"
        if result.agreement is not None:
            return f"agrees with the teacher on {_share(result.agreement, result.images)}, KL {result.kl:.3f}"
        return "no labels"

    @contextmanager
    def progress(self, steps: int, start: int, batch_size: int) -> Iterator[TrainProgress]:
        """Live progress of training."""
        with self._bar() as bar:
            yield TrainProgress(self, bar, steps, start, batch_size)

    @contextmanager
    def counting(self, title: str, total: int, unit: str = "images") -> Iterator[_Counter]:
        """Live progress of work that is counted in images, or in another unit."""
        with self._bar() as bar:
            counter = _Counter(self, bar, title, total, unit)
            yield counter
            counter.finish()

    def _bar(self) -> Progress:
        return _TwoRows(
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=self.rich,
            disable=not self.rich.is_terminal,
            refresh_per_second=2,  # each costs milliseconds in which no operation is started
            expand=True,
        )


class _TwoRows(Progress):
    """The figures under the bar, where they can wrap: beside it a narrow window would cut them."""

    def get_renderables(self) -> Iterator[RenderableType]:
        yield from super().get_renderables()
        yield from (Text(task.fields["detail"], style="dim") for task in self.tasks)


class TrainProgress:
    """Losses, learning rate, images/s and time left: a live line on a terminal, else a line now and then."""

    def __init__(self, console: Console, bar: Progress, steps: int, start: int, batch_size: int) -> None:
        self.console, self.bar, self.steps, self.done, self.batch_size = console, bar, steps, start, batch_size
        self.task: TaskID = bar.add_task("train", total=steps, completed=start, detail="")
        self.start = start
        self.began = self.spoke = time.perf_counter()

    def advance(self, means: dict[str, float], lr: float) -> None:
        """One step is done, with these mean losses."""
        self.done += 1
        now = time.perf_counter()
        rate = (self.done - self.start) / (now - self.began)
        terms = " ".join(f"{name} {value:.3f}" for name, value in means.items() if name != "total")
        detail = f"loss {means['total']:.3f} ({terms}) lr {lr:.1e} {rate * self.batch_size:.0f} images/s"
        self.bar.update(self.task, completed=self.done, detail=detail)
        if not self.console.rich.is_terminal and now - self.spoke >= PLAIN_EVERY_SECONDS:
            self.spoke = now
            self.console.say(f"step {self.done}/{self.steps} {detail}, {clock((self.steps - self.done) / rate)} left")

    def note(self, text: str) -> None:
        """A line that stays."""
        self.console.say(text)


class _Counter:
    """Counts images towards a total."""

    def __init__(self, console: Console, bar: Progress, title: str, total: int, unit: str) -> None:
        self.console, self.bar, self.title, self.total, self.unit, self.done = console, bar, title, total, unit, 0
        self.task: TaskID = bar.add_task(escape(title), total=total, detail="")
        self.began = time.perf_counter()

    def advance(self, images: int) -> None:
        self.done += images
        rate = self.done / (time.perf_counter() - self.began)
        self.bar.update(self.task, completed=self.done, detail=f"{rate:.0f} {self.unit}/s")

    def finish(self) -> None:
        if not self.console.rich.is_terminal:
            seconds = time.perf_counter() - self.began
            self.console.say(f"{self.title}: {self.done:,} {self.unit} in {clock(seconds)}")


def _plain(cell: RenderableType) -> str:
    return Text.from_markup(str(cell)).plain.replace("\n", " ")


def _whole_words(text: str, columns: int) -> list[str]:
    """The lines of a text, broken between words only: a path in two lines could not be copied."""
    lines = text.split("\n")
    return [
        part
        for line in lines
        for part in wrap(line, max(columns, 1), break_long_words=False, break_on_hyphens=False) or [""]
    ]


def _share(share: float, images: int) -> str:
    low, high = interval(share, images)
    return f"{100 * share:.2f} % [{100 * low:.1f}, {100 * high:.1f}]"


def clock(seconds: float) -> str:
    """Seconds as 1:05 or 2:01:05."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
