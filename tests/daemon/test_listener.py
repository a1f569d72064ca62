"""A dump that fails or is never answered is told once, and asked for again."""

import asyncio
import contextlib
import errno
import socket
import struct
import threading
import time
from collections.abc import Iterator, Sequence

import pytest

from dpsd.core.events import END, Event
from dpsd.daemon import listener
from dpsd.daemon.listener import Listener
from dpsd.kernel import conntrack
from tests.daemon.live import eventually
from tests.kernel.netns import fresh, inside


@pytest.fixture
def namespace() -> Iterator[None]:
    with fresh() as here, inside(here):
        yield


def answer(kind: int, number: int) -> bytes:
    return struct.pack("=IHHIIi", 20, kind, 0, 0, 0, number)


ENDLESS, UNSENT = answer(1, 0), b"the request can't be sent"


def tell_on(kernels: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while kernels.send(ENDLESS):
            time.sleep(0.001)  # so that the other end gets its turn


@pytest.mark.usefixtures("namespace")
@pytest.mark.parametrize(
    "answered",
    [answer(2, -errno.EBUSY), answer(3, -errno.EINTR), b"", ENDLESS, UNSENT],
    ids=["refused", "ended", "silent", "endless", "unsent"],
)
def test_a_dump_that_fails_is_tried_again(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, answered: bytes
) -> None:
    monkeypatch.setattr(listener, "PATIENCE", 0.1)
    monkeypatch.setattr(listener, "WHOLE", 0.3)
    monkeypatch.setattr(listener, "DUMP_EVERY", 0.05)
    real, failing = conntrack._netfilter_socket, [3]

    def pretended() -> socket.socket:
        """A kernel's end that answers so, three times."""
        if not failing[0]:
            return real()
        failing[0] -= 1
        ours, kernels = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        held.append(kernels)
        if answered == UNSENT:
            kernels.close()
        elif answered == ENDLESS:
            threading.Thread(target=tell_on, args=(kernels,), daemon=True).start()
        elif answered:
            kernels.send(answered)
        return ours

    held: list[socket.socket] = []
    ended: list[int] = []

    def take(events: Sequence[Event]) -> None:
        ended.extend(1 for event in events if event[0] == END)

    async def work() -> None:
        events = conntrack.Events((25,), 1 << 20)
        monkeypatch.setattr(listener, "Events", lambda *_: events)
        monkeypatch.setattr(conntrack, "_netfilter_socket", pretended)
        monkeypatch.setattr(conntrack, "_bind", lambda *_: None)
        listening = Listener((25,), 1 << 20, take)
        listening.start()

        async def tick() -> None:
            while True:
                listening.dump_if_due()
                await asyncio.sleep(0.02)

        ticking = asyncio.create_task(tick())
        assert await asyncio.to_thread(eventually, lambda: len(ended) >= 2)
        ticking.cancel()
        listening.close()

    asyncio.run(work())
    for each in held:
        each.close()
    told = [each.message for each in caplog.records if "can't be read" in each.message]
    assert len(told) == 1
