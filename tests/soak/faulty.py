"""dpsd whose kernel, store and clock fail as a file says: python -m tests.soak.faulty run ...
Of the commands only the clock does.

The file that DPSD_FAULTS names holds JSON, and may change at any time:

    conntrack, nftables, sock_diag   what becomes of the kernel's answers: an errno's name, "silent"
                                     (none comes) or "endless" (none is the last)
    events                           an errno's name, for each receipt of events
    libnftables                      "SIGSEGV": it ends its process
    store_slow                       seconds that each write takes longer
    clock                            seconds by which the wall clock was set forward
"""

import ctypes
import errno
import json
import os
import socket
import struct
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta, tzinfo
from pathlib import Path
from typing import Any

FILE = Path(os.environ.get("DPSD_FAULTS", "/dev/null"))
HEADER = struct.Struct("=IHHII")
ERROR, DONE, NOOP = 2, 3, 1
PROTOCOLS = {4: "sock_diag", 12: "nftables"}

_seen: tuple[int, dict[str, Any]] = (-1, {})


def fault(name: str) -> Any:
    """What the file says of it now; None: nothing."""
    global _seen  # noqa: PLW0603 - one file to a process
    try:
        changed = FILE.stat().st_mtime_ns
        if changed != _seen[0]:
            _seen = (changed, json.loads(FILE.read_text() or "{}"))
    except (OSError, ValueError):  # it is just being written
        pass
    return _seen[1].get(name)


def _message(kind: int, number: int) -> bytes:
    return HEADER.pack(20, kind, 0, 0, 0) + struct.pack("=i", -number)


class Lying(socket.socket):
    """A socket whose netlink answers are what the file says; everything else is as always."""

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        self._asked = b""

    def _fault(self) -> Any:
        if not self._asked:
            return None
        kind = HEADER.unpack_from(self._asked)[1]
        return fault("conntrack" if self.proto == 12 and kind >> 8 == 1 else PROTOCOLS[self.proto])

    def send(self, data: Any, flags: int = 0) -> int:
        if self.family == socket.AF_NETLINK and self.proto in PROTOCOLS:
            self._asked = bytes(data)
            if self._fault() == "silent":
                return len(data)
        return super().send(data, flags)

    def recv(self, size: int, flags: int = 0) -> bytes:
        how = self._fault()
        if how == "ENOBUFS":
            raise OSError(errno.ENOBUFS, os.strerror(errno.ENOBUFS))
        answer = super().recv(size, flags)
        if how is None or how == "silent":
            return answer
        if how == "endless":
            return self._endless(answer)
        return _message(DONE if how == "EINTR" else ERROR, getattr(errno, how))

    def recv_into(self, buffer: Any, nbytes: int = 0, flags: int = 0) -> int:
        if not self._asked:
            return super().recv_into(buffer, nbytes, flags)
        answer = self.recv(nbytes or len(buffer), flags)
        buffer[: len(answer)] = answer
        return len(answer)

    def _endless(self, answer: bytes) -> bytes:
        """Where it would end it is asked for again."""
        at, parts = 0, b""
        while at + HEADER.size <= len(answer):
            length, kind = HEADER.unpack_from(answer, at)[:2]
            if kind == DONE:
                super().send(self._asked)
            else:
                parts += answer[at : at + (length + 3 & ~3)]
            at += length + 3 & ~3
        return parts or HEADER.pack(16, NOOP, 0, 0, 0)


class _Libc:
    """libc, in which recvmmsg() may fail."""

    def __init__(self, real: Any) -> None:
        self._real = real

    def recvmmsg(self, *args: Any) -> int:
        if how := fault("events"):
            ctypes.set_errno(getattr(errno, how))
            return -1
        return int(self._real.recvmmsg(*args))


class _Now(datetime):
    """datetime, whose now() goes by the clock that was set."""

    @classmethod
    def now(cls, tz: tzinfo | None = None) -> Any:
        return datetime.now(tz) + timedelta(seconds=float(fault("clock") or 0))


def set_clock() -> None:
    """From now on this process's wall clock is what the file says."""
    wall = time.time
    time.time = lambda: wall() + float(fault("clock") or 0)


def install() -> None:
    """From now on this process is a dpsd that may fail."""
    socket.socket = Lying  # type: ignore[misc]
    from apscheduler.executors import base as executors  # noqa: PLC0415 - what was patched before
    from apscheduler.schedulers import base as schedulers  # noqa: PLC0415

    from dpsd.daemon import listener, schedule  # noqa: PLC0415
    from dpsd.kernel import conntrack  # noqa: PLC0415
    from dpsd.kernel.nftset import elements, library  # noqa: PLC0415
    from dpsd.kernel.sockdiag import wire  # noqa: PLC0415
    from dpsd.store.store import Store  # noqa: PLC0415

    for module in (executors, schedulers, schedule):
        vars(module)["datetime"] = _Now
    for module in (listener, elements, wire):  # so that it is given up while somebody looks
        vars(module)["WHOLE"] = 4.0
    vars(listener)["PATIENCE"], vars(wire)["PATIENCE"] = 3.0, 3.0
    vars(elements)["_PATIENCE"] = 3
    vars(conntrack)["_libc"] = _Libc(conntrack._libc)
    vars(library)["_CHILD"] = Path(__file__).with_name("dying.py")
    begin = Store._transaction

    @contextmanager
    def slowly(store: Store, how: str) -> Iterator[Any]:
        with begin(store, how) as db:
            if how.endswith("IMMEDIATE"):
                time.sleep(float(fault("store_slow") or 0))  # a disk that takes its time
            yield db

    Store._transaction = slowly  # type: ignore[method-assign, assignment]


def main() -> None:
    set_clock()
    if "run" in sys.argv:
        install()
    from dpsd.cli import main as dpsd  # noqa: PLC0415

    dpsd()


if __name__ == "__main__":
    main()
