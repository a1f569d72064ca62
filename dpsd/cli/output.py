"""What goes to the terminal, a pipe or a program: tables, JSON, times and messages.

Data goes to standard output, messages to standard error. Without a terminal there is no colour and
no box drawing, and nothing that would move a cursor, whatever a reason in the store contains.
"""

import json
import os
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

from dpsd.errors import Unavailable

# A table with more rows is written as plain columns: rich would take seconds to lay it out.
_MOST_ROWS = 500


def prepare() -> None:
    """Make the standard streams fit for any text; and there at all, where a program closed them."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open("w"))  # noqa: SIM115 - to the end
        getattr(sys, name).reconfigure(errors="backslashreplace")


def finish() -> None:
    """See to it that all data was written. Unavailable: it can't be."""
    with _to_stdout():
        sys.stdout.flush()


@contextmanager
def _to_stdout() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # or Python tries once more at its end
        raise Unavailable(f"standard output: {error.strerror}") from None


def moment(seconds: float) -> str:
    """An instant (seconds since the epoch) in RFC 3339 and UTC: 2026-11-22T21:40:00Z."""
    return _moment(int(seconds))


@lru_cache  # of 100,000 entries many were made in the same second
def _moment(seconds: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))


def moment_or_none(seconds: float | None) -> str | None:
    """The same for an instant that may never come."""
    return None if seconds is None else moment(seconds)


def say(message: str) -> None:
    """Tell the user on standard error."""
    sys.stderr.write("".join(f"{_harmless(line)}\n" for line in message.splitlines()))


def warn(message: str) -> None:
    """Tell the user that something isn't as it may seem."""
    complain(f"warning: {message}")


def complain(message: str) -> None:
    """Tell the user what is wrong, each line under the program's name."""
    say("\n".join(f"dpsd: {line}" for line in message.splitlines()))


def write(text: str) -> None:
    """Write one line of data."""
    with _to_stdout():
        sys.stdout.write(f"{_harmless(text)}\n")


def write_json(value: Any) -> None:
    """Write one value for programs."""
    with _to_stdout():
        sys.stdout.write(json.dumps(value, indent=2) + "\n")


def write_json_lines(values: Iterable[Any]) -> None:
    """Write an array for programs, one item a line; fast for very many."""
    with _to_stdout():
        sys.stdout.write("[" + ",".join(f"\n  {json.dumps(value)}" for value in values) + "\n]\n")


def write_table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Write rows under their heads: a table on a terminal, else aligned columns."""
    rows = [[_harmless(cell) for cell in row] for row in rows]
    if sys.stdout.isatty() and len(rows) <= _MOST_ROWS:
        _write_rich(heads, rows)
    else:
        _write_columns([heads, *rows])


def _write_columns(rows: Sequence[Sequence[str]]) -> None:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    with _to_stdout():
        for row in rows:
            cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
            sys.stdout.write("  ".join(cells).rstrip() + "\n")


def _write_rich(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    from rich.box import SIMPLE_HEAD  # noqa: PLC0415 - not needed in a pipe
    from rich.console import Console  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415

    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for head in heads[:-1]:
        table.add_column(head, no_wrap=True)
    table.add_column(heads[-1], overflow="fold")
    for row in rows:
        table.add_row(*row)
    Console(markup=False, emoji=False, highlight=False).print(table)


def _harmless(text: str) -> str:
    """The text without control characters, so that none of them reaches the terminal."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def counts(by_name: Mapping[str, int]) -> str:
    """Numbers by name on one line, the highest first."""
    ordered = sorted(by_name.items(), key=lambda item: -item[1])
    return ", ".join(f"{name} {number}" for name, number in ordered)
