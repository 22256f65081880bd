"""What reaches the terminal while work goes on: bars that move on a terminal, plain lines in a file or a pipe.

Progress goes to stderr, results to stdout, so that ``edgecbam predict … --json > file`` holds the result alone.
"""

import contextlib
import os
import sys
import textwrap
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, TextIO

from edgecbam.events import Event, OnEvent

if TYPE_CHECKING:
    from rich.progress import TaskID

WIDTH = 80
SECONDS_BETWEEN_LINES = 10.0
BAR_WIDTH = 12
ETA_WIDTH = 7  # 1:23:45


@contextlib.contextmanager
def shown_events(stream: TextIO | None = None) -> Iterator[OnEvent]:
    """Give a listener that shows events on the stream (stderr), each line with the time since the beginning."""
    target = sys.stderr if stream is None else stream
    listener: Bars | PlainLines = Bars(target) if can_move_cursor(target) else PlainLines(target)
    try:
        yield listener
    finally:
        listener.close()


def can_move_cursor(stream: TextIO) -> bool:
    """Whether the stream is a terminal that can redraw a line."""
    return stream.isatty() and os.environ.get("TERM") != "dumb"


@dataclass(frozen=True)
class Pace:
    """Where a count stood when it began, to tell how fast it goes on.

    Attributes:
        step: the count at the beginning.
        seconds: the clock at the beginning.
    """

    step: int
    seconds: float

    def rate(self, step: int, seconds: float) -> float:
        """Steps a second since the beginning; 0 where nothing can be said yet."""
        elapsed = seconds - self.seconds
        return max(0.0, (step - self.step) / elapsed) if elapsed > 0 else 0.0


class PlainLines:
    """Events as lines: every message and every epoch, other steps at most once in SECONDS_BETWEEN_LINES."""

    def __init__(self, stream: TextIO, clock: Callable[[], float] = time.monotonic) -> None:
        self._stream = stream
        self._clock = clock
        self._began = self._last_line = clock()
        self._counted = ("", "")
        self._last_step = 0
        self._pace = Pace(0, 0.0)

    def __call__(self, event: Event) -> None:
        now = self._clock()
        if is_step(event):
            if (event.stage, event.unit) != self._counted or event.step < self._last_step:
                self._pace = Pace(event.step, now)
            self._counted, self._last_step = (event.stage, event.unit), event.step
        is_epoch = event.unit == "epoch" and event.step > 0
        if event.message:
            self._write(f"{event.stage}: {with_figures(event.message, event.figures)}", now)
        elif is_epoch or now - self._last_line >= SECONDS_BETWEEN_LINES:
            self._write(f"{event.stage}: {progress_text(event, self._pace, now)}", now)

    def close(self) -> None:
        """Nothing is held open."""

    def _write(self, line: str, now: float) -> None:
        self._last_line = now
        with contextlib.suppress(BrokenPipeError):  # whoever read along has gone; the work goes on
            self._stream.write(fold(f"{clock_text(now - self._began)} {printable(line)}") + "\n")
            self._stream.flush()


class Bars:
    """Events as one bar for each thing counted in the current stage; messages scroll by above them."""

    def __init__(self, stream: TextIO, clock: Callable[[], float] = time.monotonic) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
        from rich.table import Column

        self._clock = clock
        self._console = Console(file=stream, highlight=False, markup=False, emoji=False)
        narrow = Column(no_wrap=True)
        self._progress = Progress(
            TextColumn("{task.description}", markup=False, table_column=narrow),
            BarColumn(bar_width=BAR_WIDTH),
            TextColumn("{task.fields[count]}", markup=False, table_column=narrow),
            TimeRemainingColumn(compact=True),
            TextColumn("{task.fields[figures]}", markup=False, table_column=narrow),
            console=self._console,
        )
        self._tasks: dict[str, TaskID] = {}
        self._paces: dict[str, tuple[Pace, int]] = {}
        self._count_width = 0
        self._stage = ""
        self._began = clock()
        self._progress.start()

    def __call__(self, event: Event) -> None:
        now = self._clock()
        if event.stage != self._stage:
            self._remove_bars()
            self._stage = event.stage
        if event.message:
            self._print(f"{event.stage}: {with_figures(event.message, event.figures)}", now)
        if is_step(event):
            self._advance(event, now)

    def close(self) -> None:
        """Give the terminal back; the bars vanish, the messages stay."""
        self._remove_bars()
        self._progress.stop()

    def _advance(self, event: Event, now: float) -> None:
        pace, last_step = self._paces.get(event.unit, (Pace(event.step, now), 0))
        starts_again = event.unit in self._tasks and event.step < last_step
        if starts_again:
            pace = Pace(event.step, now)
        self._paces[event.unit] = (pace, event.step)
        total = event.total or None
        if event.unit not in self._tasks:
            self._tasks[event.unit] = self._progress.add_task(event.stage, total=total, count="", figures="")
        elif starts_again:
            self._progress.reset(self._tasks[event.unit], total=total)
        rate = pace.rate(event.step, now)
        count = f"{count_text(event)}{f' {rate_text(rate, event.unit)}' if rate else ''}"
        self._count_width = max(self._count_width, len(count))
        room = self._console.width - len(event.stage) - BAR_WIDTH - self._count_width - ETA_WIDTH - 4
        self._progress.update(
            self._tasks[event.unit],
            completed=event.step,
            total=total,
            count=count,
            figures=shortened(figures_text(event.figures), max(0, room)),
        )

    def _remove_bars(self) -> None:
        for task in self._tasks.values():
            self._progress.remove_task(task)
        self._tasks.clear()
        self._paces.clear()
        self._count_width = 0

    def _print(self, line: str, now: float) -> None:
        text = f"{clock_text(now - self._began)} {printable(line)}"
        self._console.print(fold(text, self._console.width), soft_wrap=True)


def is_step(event: Event) -> bool:
    """Whether an event counts something; a message may do so too."""
    return bool(event.step or event.total or not event.message)


def progress_text(event: Event, pace: Pace, now: float) -> str:
    """A step as text: ``320/1760 step, 41.2 step/s, 35 s left, loss 0.41``."""
    rate = pace.rate(event.step, now)
    parts = [f"{count_text(event)} {event.unit}"]
    if rate:
        parts.append(rate_text(rate, event.unit))
    if rate and event.total > event.step:
        parts.append(f"{duration((event.total - event.step) / rate)} left")
    if event.figures:
        parts.append(figures_text(event.figures))
    return ", ".join(parts)


def count_text(event: Event) -> str:
    """``320/1760``, or ``320`` where the total is unknown."""
    return f"{event.step}/{event.total}" if event.total else f"{event.step}"


def rate_text(rate: float, unit: str) -> str:
    """``41.2 step/s``, or ``8.3 s/epoch`` for what takes more than a second."""
    if rate < 1:
        return f"{1 / rate:.3g} s/{unit}"
    return f"{rate:.0f} {unit}/s" if rate >= 100 else f"{rate:.3g} {unit}/s"


def with_figures(message: str, figures: Mapping[str, float]) -> str:
    """The message, and its figures behind it."""
    return f"{message}, {figures_text(figures)}" if figures else message


def figures_text(figures: Mapping[str, float]) -> str:
    """``loss 0.41, ema_accuracy 88.12 %``: accuracies and agreements are fractions, shown in percent."""
    return ", ".join(f"{name} {_figure(name, value)}" for name, value in figures.items())


def _figure(name: str, value: float) -> str:
    is_fraction = any(word in name for word in ("accuracy", "agreement", "top1"))
    return f"{100 * value:.2f} %" if is_fraction else f"{value:.4g}"


def duration(seconds: float) -> str:
    """``0.4 s``, ``35 s``, ``2 min 05 s``, ``1 h 07 min``."""
    if seconds < 10:
        return f"{max(0.0, seconds):.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def clock_text(seconds: float) -> str:
    """Time since the beginning: ``02:05``, or ``1:07:00`` after an hour."""
    whole = int(max(0.0, seconds))
    minutes = f"{whole // 60 % 60:02d}:{whole % 60:02d}"
    return f"{whole // 3600}:{minutes}" if whole >= 3600 else minutes


def fold(line: str, width: int = WIDTH, indent: int = 2) -> str:
    """Break a long line between words; a path or another long word stays whole, so that it can be copied.

    ``indent``: blanks before every line but the first.
    """
    if len(line) <= width:
        return line
    return textwrap.fill(line, width, subsequent_indent=" " * indent, break_long_words=False, break_on_hyphens=False)


def shortened(text: str, width: int) -> str:
    """The text, cut at the end with an ellipsis where it is too long."""
    return text if len(text) <= width else text[: max(0, width - 1)] + "…"


def printable(text: str) -> str:
    """The text on one line and without control characters: a file name must not steer the terminal."""
    return "".join(c if c.isprintable() else "?" for c in " ".join(text.split()))


def hide_native_noise() -> None:
    """Send what C++ libraries write to file descriptor 2 to nowhere; Python's own sys.stderr goes on as before.

    TensorFlow prints log lines before its log level applies, right through a moving bar. Crashes still show: Python's
    fault handler gets the real stderr. ``--debug`` leaves everything visible.
    """
    import faulthandler

    if sys.stderr is not sys.__stderr__ or sys.stderr is None or sys.stderr.fileno() != 2:
        return  # somebody captures stderr: leave their arrangement alone
    sys.stderr.flush()
    sys.stderr = open(os.dup(2), "w", encoding=sys.stderr.encoding, errors="replace", buffering=1)  # noqa: SIM115
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    os.close(nowhere)
    faulthandler.enable(file=sys.stderr)
