"""Labelled records of a run: one JSON object a line, written as things happen."""

import json
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self


class Records:
    """Appends records to a file; each is readable by others within `every` records."""

    def __init__(self, path: Path, every: int = 1) -> None:
        self._file = path.open("a", encoding="utf-8")
        self._every = every
        self._waiting = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        _type: type[BaseException] | None,
        _error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        self._file.close()

    def write(self, **fields: Any) -> None:
        self._file.write(json.dumps(fields) + "\n")
        self._waiting += 1
        if self._waiting >= self._every:
            self._file.flush()
            self._waiting = 0


def read(path: Path) -> Iterator[dict[str, Any]]:
    """The records of a file, also while it is being written; none when it isn't there yet."""
    if not path.exists():
        return
    with path.open(encoding="utf-8") as file:
        for line in file:
            if line.endswith("\n"):
                yield json.loads(line)
