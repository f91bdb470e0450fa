"""What a command prints: a document of JSON, or text for people. This is the one place that decides which.

On stdout stands the answer and nothing else; whatever is said meanwhile, errors and progress go to stderr.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from ckpt_async.progress import readable_bytes

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.progress import Progress, ProgressColumn

    from ckpt_async.words.records import CheckpointRecord

__all__ = [
    "Column",
    "Output",
    "ReaderGone",
    "iso_time",
    "plural",
    "printable",
    "record_json",
    "reference_of",
    "saved_words",
    "size_words",
]

#: Where the output is no terminal nothing is folded: each row is one line.
_PLAIN_WIDTH = 1_000_000

#: A folded column is not narrower than this.
_FOLDED_WIDTH = 12


def printable(text: object) -> str:
    """Return text as a terminal may have it: what is stored by others may hold control characters."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in str(text))


def plural(count: int, word: str) -> str:
    """Return a number of things as people write it."""
    return f"{count:,} {word}" if count == 1 else f"{count:,} {word}s"


def iso_time(unix_s: float) -> str:
    """Return a moment as JSON has it: ISO, UTC, with the zone."""
    return datetime.fromtimestamp(unix_s, timezone.utc).isoformat(timespec="milliseconds")


def saved_words(saved_at_unix_ns: int) -> str:
    """Return when something was saved, as people read it: local time."""
    return datetime.fromtimestamp(saved_at_unix_ns / 1e9).strftime("%Y-%m-%d %H:%M:%S") if saved_at_unix_ns else "?"


def reference_of(record: CheckpointRecord) -> str:
    """Return the shortest text that names exactly this checkpoint."""
    return f"{record.pathspec}:{record.attempt}:{record.name}:{record.version_id}"


def record_json(record: CheckpointRecord) -> dict[str, Any]:
    """Return a checkpoint as every command's JSON has it."""
    return {
        "reference": reference_of(record),
        "key": record.key,
        "pathspec": record.pathspec,
        "attempt": record.attempt,
        "name": record.name,
        "version": record.version_id,
        "size_bytes": record.size_bytes,
        "saved_at": iso_time(record.saved_at_unix_ns / 1e9),
        "storage_format": record.storage_format,
        "url": record.url,
        "metadata": record.metadata,
        "may_resume": record.latest,
        "group": record.group,
        "num_nodes": record.num_nodes,
        "has_manifest": bool(record.manifest),
    }


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Attributes
    ----------
    title : str
        Its heading.
    right : bool
        Whether it holds numbers.
    whole : bool
        Whether it keeps its width where the terminal is narrow; the others are folded, none is cut off.
    """

    title: str
    right: bool = False
    whole: bool = True


class ReaderGone(Exception):
    """Whoever reads stdout has closed it. No OSError: typer would end the process over that."""


class Output:
    """Prints for one command.

    Parameters
    ----------
    as_json : bool
        Whether the answer is a document of JSON.
    """

    def __init__(self, *, as_json: bool) -> None:
        self.as_json = as_json

    def answer(self, document: object, show: Callable[[Output], None]) -> None:
        """Print the answer.

        Parameters
        ----------
        document : object
            As JSON has it.
        show : callable
            Prints it for people, with the methods below.
        """
        if self.as_json:
            self._write(json.dumps(_strict(document), indent=2 if sys.stdout.isatty() else None))
        else:
            show(self)

    def event(self, document: object, line: str) -> None:
        """Print one of several answers as soon as it is there: a line of JSON, or a line."""
        self._write(json.dumps(_strict(document)) if self.as_json else line)

    def _write(self, line: str) -> None:
        try:
            sys.stdout.write(line + "\n")
            sys.stdout.flush()
        except BrokenPipeError as error:
            raise ReaderGone from error

    def line(self, text: str = "") -> None:
        """Print a line for people. In a terminal it is folded between words."""
        if sys.stdout.isatty():
            self._print(text)
        else:
            self._write(text)

    def table(self, columns: Sequence[Column], rows: Sequence[Sequence[object]]) -> None:
        """Print a table for people: as wide as the terminal has room for, and where it has room for none, a sentence for each row.

        Elsewhere each row is one line.
        """
        from rich import box
        from rich.table import Table

        terminal = sys.stdout.isatty()
        texts = [[printable(cell) for cell in row] for row in rows]
        if terminal and _least_width(columns, texts) > shutil.get_terminal_size().columns:
            for row in texts:
                self.line("; ".join(f"{column.title} {text}".strip() for column, text in zip(columns, row, strict=True) if text))
            return
        table = Table(
            box=box.SIMPLE_HEAD if terminal else None,
            header_style="bold",
            pad_edge=False,
            padding=(0, 1) if terminal else (0, 2, 0, 0),
        )
        for column in columns:
            table.add_column(column.title, justify="right" if column.right else "left", overflow="fold", no_wrap=column.whole)
        for row in texts:
            table.add_row(*row)
        self._print(table)

    def say(self, text: str) -> None:
        """Print a line that is no part of the answer."""
        sys.stderr.write(f"{printable(text)}\n")
        sys.stderr.flush()

    def confirm(self, question: str, *, yes: bool) -> bool:
        """Ask whether to go on; without a terminal nobody can answer, and the answer is no."""
        if yes:
            return True
        if not (sys.stdin.isatty() and sys.stderr.isatty()):
            self.say(f"{question} Not done: there is no terminal to ask in. Pass --yes to do it.")
            return False
        sys.stderr.write(f"{question} [y/N] ")
        sys.stderr.flush()
        answer = sys.stdin.readline()
        if not answer:
            sys.stderr.write("\n")
        if answer.strip().lower() in ("y", "yes"):
            return True
        self.say("Not done.")
        return False

    @contextlib.contextmanager
    def progress(self, what: str, total_bytes: int | None = None) -> Iterator[Callable[[int, int], None]]:
        """Show a progress bar until the block ends; yields what is told of bytes and files, those since the call before.

        Where stderr is no terminal, nothing is shown. What is told may come from any thread.
        """
        if not sys.stderr.isatty():
            yield lambda size_bytes, files: None
            return
        from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeRemainingColumn, TransferSpeedColumn

        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            DownloadColumn(),
            TransferSpeedColumn(),
            TextColumn("{task.fields[count]}", markup=False),
            TimeRemainingColumn(),
        )
        with _bars(*columns) as bars:
            task = bars.add_task(printable(what), total=total_bytes, count="")
            count = 0

            def told(size_bytes: int, files: int) -> None:
                nonlocal count
                count += files
                bars.update(task, advance=size_bytes, count=plural(count, "file") if count else "")

            yield told

    @contextlib.contextmanager
    def counted(self, what: str) -> Iterator[Callable[[int, int], None]]:
        """Show a progress bar of things that are counted; yields what is told of those done since the call before, and of all."""
        if not sys.stderr.isatty():
            yield lambda done, total: None
            return
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn

        columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with _bars(*columns) as bars:
            task = bars.add_task(what, total=None)
            yield lambda done, total: bars.update(task, advance=done, total=total)

    def _print(self, shown: RenderableType) -> None:
        from rich.console import Console

        terminal = sys.stdout.isatty()
        # Names are shown as they are: in brackets they would be taken for styles.
        console = Console(
            markup=False,
            highlight=False,
            emoji=False,
            width=None if terminal else _PLAIN_WIDTH,
            no_color=not terminal or "NO_COLOR" in os.environ,
        )
        # Captured, and written here: rich ends the process by itself where nobody reads any more.
        with console.capture() as captured:
            console.print(shown)
        for line in captured.get().splitlines():
            self._write(line.rstrip())


def _bars(*columns: ProgressColumn) -> Progress:
    from rich.console import Console
    from rich.progress import Progress

    # Lines of the answer go above the bar where both are seen in one terminal; else rich keeps its hands off stdout.
    return Progress(
        *columns,
        console=Console(stderr=True, markup=False, highlight=False, emoji=False),
        transient=True,
        redirect_stdout=sys.stdout.isatty(),
    )


def _strict(value: Any) -> Any:
    """Return a value as strict JSON can hold it: a metric may be no number, which then is null."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {name: _strict(item) for name, item in value.items()}
    return [_strict(item) for item in value] if isinstance(value, (list, tuple)) else value


def _least_width(columns: Sequence[Column], rows: Sequence[Sequence[str]]) -> int:
    """Return the columns of a terminal below which something of a table would be cut off, or be hard to read."""
    widths = []
    for index, column in enumerate(columns):
        longest = max(len(column.title), *(len(row[index]) for row in rows)) if rows else len(column.title)
        widths.append(longest if column.whole else min(longest, _FOLDED_WIDTH))
    return sum(widths) + 3 * len(widths)


def size_words(size_bytes: int) -> str:
    """Return a size for a column."""
    return readable_bytes(size_bytes)
