"""The log through a queue: whoever reads standard error may take his time, the loop doesn't wait.

What doesn't fit into the queue is counted, and the number told as soon as there is room.
"""

import logging
import os
import queue
from threading import Thread

ROOM = 10_000  # lines that may wait
PATIENCE = 1.0  # seconds that the end waits for those


class Logs(logging.Handler):
    """Writes records to a descriptor, in a thread of its own."""

    def __init__(self, descriptor: int) -> None:
        super().__init__()
        self._lines: queue.Queue[str | None] = queue.Queue(ROOM)
        self._descriptor = descriptor
        self._left_out = 0
        self._thread = Thread(target=self._write, name="log", daemon=True)
        self._thread.start()

    def emit(self, record: logging.LogRecord) -> None:
        """Let a record be written; never waits."""
        try:
            self._lines.put_nowait(self.format(record))
        except queue.Full:
            self._left_out += 1

    def close(self) -> None:
        """Write what waits, if that takes no longer than PATIENCE."""
        try:
            self._lines.put(None, timeout=PATIENCE)
        except queue.Full:
            return
        self._thread.join(PATIENCE)
        super().close()

    def _write(self) -> None:
        while (line := self._lines.get()) is not None:
            if self._left_out:
                left_out, self._left_out = self._left_out, 0
                self._put(f"WARNING {left_out} lines were left out of the log: it takes too long")
            self._put(line)

    def _put(self, line: str) -> None:
        text = f"{line}\n".encode(errors="backslashreplace")
        try:
            while text:
                text = text[os.write(self._descriptor, text) :]
        except OSError:  # nobody is there any more to tell it to
            return


def begin() -> Logs:
    """Let all of this process's logging go to standard error this way."""
    handler = Logs(2)
    handler.setFormatter(logging.Formatter("%(levelname)s %(message)s"))
    root = logging.getLogger()
    root.addHandler(handler)
    root.setLevel(logging.WARNING)
    return handler
