"""What nf_tables says, or nonsense in its place: elements and counts, or a KernelError."""

import errno
import socket
import struct
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dpsd.errors import DpsdError, KernelError
from dpsd.kernel.nftset import elements, wire
from dpsd.kernel.nftset.elements import ElementSocket
from dpsd.kernel.nftset.watch import Watch, _attach, _filter
from tests.fuzz.answers import ATTRIBUTES, Scripted, any_of, datagram


def _set(*keys: bytes) -> bytes:
    members = b"".join(wire.element(key, 60.0) for key in keys)
    head = struct.pack(">BBH", 1, 0, 0) + wire.attribute(1, b"dpsd\0") + wire.attribute(2, b"b\0")
    return datagram(wire.NEWSETELEM, head + wire.attribute(3, members), 2)


def _rule() -> bytes:
    counter = wire.attribute(1, b"counter\0") + wire.attribute(
        2, wire.attribute(1, bytes(8)) + wire.attribute(2, bytes(8))
    )
    body = struct.pack(">BBH", 1, 0, 0) + wire.attribute(4, wire.attribute(1, counter))
    return datagram(wire.NEWRULE, body, 2)


FOUND = _set(b"\x0a\x63\0\1", b"\x0a\x63\0\2"), _set(bytes(16))
DONE = datagram(3, bytes(4), 2)
NEW: dict[str, dict[bytes, float | None]] = {"block4": {b"\x0a\0\0\1": 60.0}}
WORKS: tuple[Callable[[ElementSocket], object], ...] = (
    lambda asking: asking.dump("block4"),
    lambda asking: asking.counted("refuse"),
    lambda asking: asking.replace({}, NEW),
    lambda asking: asking.put("block4", {b"\x0a\0\0\1": 60.0}),
    lambda asking: asking.remove("block4", b"\x0a\0\0\1"),
)
REAL = (*FOUND, _rule(), DONE, datagram(2, struct.pack("=i", -errno.ENOENT) + bytes(16)))


def asking(answers: list[bytes | OSError]) -> ElementSocket:
    """A socket that gets these answers, and none when it is made anew."""
    made: Any = ElementSocket.__new__(ElementSocket)
    made._table, made._stopped = "dpsd", False
    made._open = lambda: Scripted([])
    made._socket = Scripted(answers)
    return made  # type: ignore[no-any-return]


@settings(max_examples=300)
@given(st.lists(any_of(REAL), max_size=4))
def test_any_answer_is_understood_or_refused(answers: list[bytes]) -> None:
    for work in WORKS:
        with suppress(DpsdError):
            work(asking(list(answers)))


@settings(max_examples=300)
@given(st.lists(any_of(REAL), max_size=4))
def test_any_notification_is_ours_or_not(notices: list[bytes]) -> None:
    watch: Any = Watch.__new__(Watch)
    watch.lost, watch._own = False, frozenset({7})
    watch.learn = lambda: None
    watch._socket = Scripted(list(notices))
    assert watch.foreign() in {True, False}


@pytest.mark.parametrize("failure", [errno.ENOBUFS, errno.EBUSY, errno.EINTR])
def test_a_failure_is_told(failure: int) -> None:
    problem = OSError(failure, "it failed")
    for work in WORKS:
        with pytest.raises(KernelError):
            work(asking([problem]))
        with pytest.raises(KernelError):
            work(asking([datagram(2, struct.pack("=i", -failure) + bytes(16))]))


def test_what_comes_late_is_not_taken_for_the_next_answer() -> None:
    """The rest of a dump that failed waits in the socket's buffer."""
    read = asking([FOUND[0], OSError(errno.ENOBUFS, "lost"), FOUND[0], DONE])
    with pytest.raises(KernelError):
        read.dump("block4")
    fresh: Any = read
    fresh._socket._answers += [FOUND[1], DONE]
    found = read.dump("block6")
    assert found is not None
    assert [each.key for each in found] == [bytes(16)]


def test_a_dump_without_an_end_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(elements, "WHOLE", 0.05)
    endless = asking([])
    stream: Any = endless
    stream._socket.recv = lambda *_: FOUND[0]
    with pytest.raises(KernelError, match="goes on"):
        endless.dump("block4")


OWN = (77, 4_000_000_000)
TABLES = (b"dpsd\0", b"dpsd_ending\0", b"dps\0", b"theirs\0", b"dpsd2\0")


@settings(max_examples=200)
@given(
    st.sampled_from((*OWN, 78, 0)),
    st.lists(
        st.tuples(
            st.sampled_from(TABLES), st.sampled_from((1, 2, 7)), st.lists(ATTRIBUTES, max_size=2)
        ),
        max_size=15,
    ),
)
def test_the_watch_s_filter_passes_what_others_do_to_the_table(
    port: int, told: list[tuple[bytes, int, list[bytes]]]
) -> None:
    """The kernel runs the filter on any socket's datagrams: it takes them for what they are."""
    messages = [
        datagram(
            wire.NEWSETELEM,
            bytes((family, 0, 0, 0)) + wire.attribute(1, table) + b"".join(more),
            port=port,
        )
        for table, family, more in told
    ]
    sending, receiving = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with sending, receiving:
        _attach(receiving, _filter(frozenset(OWN)))
        receiving.setblocking(False)
        sending.send(b"".join(messages) or bytes(20))
        passed = False
        with suppress(BlockingIOError):
            passed = bool(receiving.recv(1 << 16))
    ours = any(table == b"dpsd\0" and family == 1 for table, family, _ in told)
    assert passed == (ours and port not in OWN)
