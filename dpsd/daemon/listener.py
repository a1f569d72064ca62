"""The listener: conntrack's events and dumps of its table, decoded, to whoever takes them."""

import asyncio
import logging
import time
from collections.abc import Callable, Sequence

from dpsd.core.events import END, LOST, Event
from dpsd.errors import KernelError
from dpsd.kernel.conntrack import BATCH, Dump, Events, LostEvents
from dpsd.kernel.ctnetlink import Decoder

log = logging.getLogger("dpsd")

Take = Callable[[Sequence[Event]], None]
Keep = Callable[[bytes], None]

LINGER = 0.003  # seconds that events are let gather after a batch that wasn't full
AGAIN = 1.0  # seconds until a receive that failed is tried again
PATIENCE, WHOLE = 10.0, 60.0  # seconds for each part of a dump, and for all answers to one request
DUMP_EVERY, DUMP_EVERY_HURRY = 5.0, 0.1  # seconds between two dumps, at least
# While no session is open: the events tell of all that begin. It shows how many are half open.
DUMP_EVERY_IDLE = 60.0
DUMP_SHARE, DUMP_SHARE_HURRY = 0.02, 0.2  # of a processor, at most


class Listener:
    """Feeds `take` with events as they come, and `keep`, if any, with the datagrams themselves.

    When events are lost, that is an event too, and a dump follows at once.
    """

    def __init__(
        self, ports: Sequence[int], room: int, take: Take, keep: Keep | None = None
    ) -> None:
        self.decoder = Decoder()
        self.received = 0  # events, not counting dumps
        self._ports = ports
        self._take = take
        self._keep = keep
        self._events = Events(ports, room)
        self._dump = Dump()
        self._spent = 0.0  # processor seconds on the dump that runs
        self._dumped_at = 0.0
        self._heard_at = 0.0  # when the dump that runs went on
        self._asked_at = 0.0  # and when its last request was sent
        self._failing = False  # and that was told
        self._last_cost = 0.0
        self._incomplete = False  # events were lost since the dump began
        self._loop: asyncio.AbstractEventLoop | None = None

    def start(self) -> None:
        """Listen from now on, in the running loop, and ask for a first dump."""
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._events.fileno(), self._wake)
        self._loop.add_reader(self._dump.fileno(), self._receive_dump)
        self.dump()

    def watch(self, ports: Sequence[int]) -> None:
        """Listen to these ports instead."""
        self._ports = ports
        self._events.watch(ports)

    def dump(self, ports: Sequence[int] = ()) -> None:
        """Ask for the table of connections to these ports (none: to all), unless that is being
        answered already."""
        if not self._dump.running:
            self._incomplete = False
            self._ask(lambda: self._dump.start(ports or self._ports))

    def dump_if_due(self, hurry: Sequence[int] = (), idle: bool = False) -> None:
        """Ask for it when the last time is long enough ago, for what it cost.

        hurry: only for these ports, and more often: there slots run short. idle: nothing is there
        to be measured. What a dump costs is mostly the kernel's walk through its table, once for
        each port and IP version.
        """
        rest = self._last_cost / (DUMP_SHARE_HURRY if hurry else DUMP_SHARE)
        if self._dump.running and time.monotonic() - self._heard_at > PATIENCE:
            self._failed(f"the connection table can't be read: no answer for {PATIENCE:.0f} s")
        elif self._dump.running and time.monotonic() - self._asked_at > WHOLE:
            told = f"the answer goes on for over {WHOLE:.0f} s"
            self._failed(f"the connection table can't be read: {told}")
        every = DUMP_EVERY_IDLE if idle else DUMP_EVERY
        due = self._dumped_at + max(DUMP_EVERY_HURRY if hurry else every, rest)
        if time.monotonic() >= due and not self._dump.running:
            self.dump(hurry)

    def close(self) -> None:
        """Listen no more."""
        if self._loop is not None:
            self._loop.remove_reader(self._events.fileno())
            self._loop.remove_reader(self._dump.fileno())
            self._loop = None
        self._events.close()
        self._dump.close()

    def _wake(self) -> None:
        """Events came after a quiet time: from now on look for them by the clock.

        That costs far less than to be woken for each, and to watch the socket anew every time.
        """
        if self._loop is not None:
            self._loop.remove_reader(self._events.fileno())
            self._receive()

    def _receive(self) -> None:
        if self._loop is None:
            return
        try:
            spans = self._events.receive()
        except LostEvents:
            self._loop.call_soon(self._receive)
            self._lost()
            return
        except KernelError as problem:
            self._loop.call_later(AGAIN, self._receive)
            log.error("%s", problem)
            return
        if not spans:
            self._loop.add_reader(self._events.fileno(), self._wake)
            return
        if len(spans) == BATCH:
            self._loop.call_soon(self._receive)
        else:
            self._loop.call_later(LINGER, self._receive)
        self.received += len(spans)
        self._decode(self._events.buffer, spans)

    def _lost(self) -> None:
        log.warning("conntrack events were lost: judging nobody until the table has been read")
        self._take([(LOST, None, 0, 0, 0, 0)])
        self._incomplete = True
        if not self._dump.running:
            self.dump()

    def _receive_dump(self) -> None:
        began = time.thread_time()
        try:
            spans = self._dump.receive()
        except KernelError as problem:
            self._failed(str(problem))
            return
        self._heard_at = time.monotonic()
        events = self._decode(self._dump.buffer, spans)
        self._spent += time.thread_time() - began
        if any(event[0] == END for event in events):
            self._ask(self._dump.advance)

    def _failed(self, told: str) -> None:
        """Tell it, once until a dump was complete again, and begin with another socket: what comes
        late of the old answer isn't to be taken for the new one."""
        if not self._failing:
            log.error("%s; it is tried again, and till then nobody is judged by it", told)
        self._failing = True
        if self._loop is not None:
            self._loop.remove_reader(self._dump.fileno())
        self._dump.close()
        self._dump = Dump()
        if self._loop is not None:
            self._loop.add_reader(self._dump.fileno(), self._receive_dump)
        self._dumped_at, self._spent = time.monotonic(), 0.0

    def _ask(self, on: Callable[[], bytes | None]) -> None:
        """Let the dump go on with a request, or it is over."""
        try:
            request = on()
        except KernelError as problem:
            self._failed(str(problem))
            return
        self._heard_at = self._asked_at = time.monotonic()
        if request is not None:
            self._decode(request, [(0, len(request))])
        elif not self._dump.running:
            if self._failing:
                log.info("the connection table can be read again")
            self._failing = False
            self._dumped_at = time.monotonic()
            self._last_cost, self._spent = self._spent, 0.0
            if self._incomplete:
                self.dump()

    def _decode(self, buffer: bytes | bytearray, spans: list[tuple[int, int]]) -> list[Event]:
        if self._keep is not None:
            for start, end in spans:
                self._keep(bytes(buffer[start:end]))
        events = self.decoder.decode(buffer, spans)
        if events:
            self._take(events)
        return events
