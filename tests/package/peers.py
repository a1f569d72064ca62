"""Who connects to the guest's mail server: from any address, for a greeting or to stay."""

import contextlib
import socket
import threading
import time
from types import TracebackType
from typing import Self

MAIL4, MAIL6 = "192.0.2.10", "2001:db8:1::10"
PORT = 25


def _connect(source: str, patience: float) -> socket.socket:
    server = MAIL6 if ":" in source else MAIL4
    return socket.create_connection((server, PORT), patience, (source, 0))


def greeted(source: str, patience: float = 3.0) -> bool:
    """Whether the mail server greets this peer within so many seconds."""
    with contextlib.suppress(OSError), _connect(source, patience) as session:
        return session.recv(100).startswith(b"220")
    return False


def held(sources: list[str], sessions: int) -> list[socket.socket]:
    """So many sessions from each of these peers that say nothing and stay."""
    found = []
    for source in sources * sessions:
        with contextlib.suppress(OSError):
            found.append(_connect(source, 1.0))
    return found


class Knocker:
    """Tries to get in from one address, again and again; `answers` are when the server greeted."""

    def __init__(self, source: str) -> None:
        self.answers: list[float] = []
        self.attempts = 0
        self._source = source
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._knock, daemon=True)

    def _knock(self) -> None:
        while not self._over.wait(0.02):
            self.attempts += 1
            if greeted(self._source, 0.2):
                self.answers.append(time.monotonic())

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self._over.set()
        self._thread.join()
