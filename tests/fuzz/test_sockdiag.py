"""What sock_diag says, or nonsense in its place: an answer, or a KernelError."""

import errno
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dpsd.errors import DpsdError, KernelError
from dpsd.kernel.ctnetlink import attribute
from dpsd.kernel.sockdiag import Session, ask, destroy, held, wire
from tests.fuzz.answers import Scripted, any_of, datagram

SESSION = Session(b"\xc0\0\2\x19", 25, b"\xcb\0\x71\7", 40000)
ENDS = struct.pack("=2s2s16s16sI8s", b"\0\x19", b"\x9c\x40", SESSION.local + bytes(12),
                   SESSION.remote + bytes(12), 0, b"cookiecc")  # fmt: skip


def told(state: int) -> bytes:
    """An inet_diag_msg with tcp_info."""
    message = struct.pack("=BBBB", socket.AF_INET, state, 0, 0) + ENDS + bytes(8) + bytes(12)
    return message + attribute(8, b"\0") + attribute(15, bytes(1)) + attribute(2, bytes(232))


REAL = (
    datagram(20, told(wire.ESTABLISHED)),
    datagram(20, told(wire.FIN_WAIT2), 2),
    datagram(2, struct.pack("=i", -errno.ENOENT) + bytes(16)),
    datagram(2, bytes(20)),
    datagram(3, bytes(4), 2),
)


@contextmanager
def answering(monkeypatch: pytest.MonkeyPatch, answers: list[bytes | OSError]) -> Iterator[None]:
    made = socket.socket

    class Fake(Scripted):
        def __init__(self, family: int, *_: Any) -> None:
            assert family == socket.AF_NETLINK
            super().__init__(answers)

        def setsockopt(self, *_: Any) -> None: ...

        def __enter__(self) -> "Fake":
            return self

        def __exit__(self, *_: object) -> None: ...

    monkeypatch.setattr(socket, "socket", Fake)
    try:
        yield
    finally:
        monkeypatch.setattr(socket, "socket", made)


@settings(max_examples=300)
@given(st.lists(any_of(REAL), max_size=4))
def test_any_answer_is_understood_or_refused(answers: list[bytes]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        for work in (
            lambda: ask([SESSION] * 2),
            lambda: destroy([SESSION] * 2),
            lambda: held([25]),
        ):
            with answering(patch, list(answers)), suppress(DpsdError):
                work()


@pytest.mark.parametrize("failure", [errno.ENOBUFS, errno.EBUSY, errno.EINTR])
def test_a_failure_is_told(monkeypatch: pytest.MonkeyPatch, failure: int) -> None:
    for work in (lambda: ask([SESSION]), lambda: held([25])):
        with answering(monkeypatch, [OSError(failure, "x")]), pytest.raises(KernelError):
            work()
        error = datagram(2, struct.pack("=i", -failure) + bytes(16))
        with answering(monkeypatch, [error]), suppress(KernelError):
            assert work() == {}  # a session of which nothing is known


def test_a_dump_without_an_end_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "WHOLE", 0.05)
    endless = Scripted([])
    endless.recv = lambda *_: datagram(20, told(wire.FIN_WAIT2), 2)  # type: ignore[method-assign]
    with pytest.raises(KernelError, match="goes on"):
        list(wire.dump_all(endless, 1, b""))  # type: ignore[arg-type]


def test_no_answer_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """A real socket to which nobody says anything."""
    monkeypatch.setattr(wire, "PATIENCE", 0.05)
    monkeypatch.setattr(wire, "_NETLINK_SOCK_DIAG", 16)  # generic netlink
    with pytest.raises(KernelError, match="no answer"), wire.opened() as diag:
        diag.recv(100)
