"""Recording: what the kernel tells of the protected ports, into a file."""

import asyncio
import os
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

from dpsd import assembly
from dpsd.capture.anonymity import Pseudonyms
from dpsd.capture.file import About, Writer
from dpsd.config import Config
from dpsd.core.events import DESTROY, LOST, UPDATE
from dpsd.daemon.listener import Listener
from dpsd.errors import DpsdError
from dpsd.kernel import host
from dpsd.kernel.ctnetlink import Decoder, endpoints, messages

_OVERRUN = struct.pack("=IHHII", 16, 4, 0, 0, 0)  # NLMSG_OVERRUN stands for events that were lost
_LOOK = 1.0  # seconds between two looks at whether a dump is due


def record(config: Config, path: Path, seconds: float, anonymize: bool = False) -> bool:
    """Write what the kernel tells of the protected ports for so long to a new file; whether it
    told of any event.

    anonymize: under other addresses, by a key that is thrown away. It needs a ruleset with
    conntrack in it, such as dpsd's own. Raises OSError for the file; KernelError and NotPermitted
    for the kernel, and leaves no file then.
    """
    with open(path, "xb", opener=_for_its_owner) as file:
        try:
            return asyncio.run(_record(config, file, seconds, Pseudonyms() if anonymize else None))
        except DpsdError:
            path.unlink()
            raise


def _for_its_owner(path: str, flags: int) -> int:
    """A capture has everybody's addresses; only whoever made it reads it."""
    return os.open(path, flags | os.O_NOFOLLOW, 0o600)


async def _record(
    config: Config, file: IO[bytes], seconds: float, names: Pseudonyms | None
) -> bool:
    began = time.time_ns() - time.monotonic_ns()  # nobody's setting of the clock moves sessions
    here, heard = host.look(), False
    decoder, protected = Decoder(), assembly.protects(config, here)
    about = About(here, tuple(config.white))
    writer = Writer(file, names.about(about) if names else about, began + time.monotonic_ns())

    def keep(datagram: bytes) -> None:
        kept = _without_others(datagram, decoder, protected)
        told = b"".join(map(names.message, kept) if names else kept)
        if told:
            writer.write(told, began + time.monotonic_ns())

    def take(events: Any) -> None:
        nonlocal heard
        kinds = {event[0] for event in events}
        heard = heard or bool(kinds & {UPDATE, DESTROY})
        if LOST in kinds:
            keep(_OVERRUN)

    listener = Listener(config.protect.ports, config.kernel.event_buffer, take, keep)
    listener.start()
    try:
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            await asyncio.sleep(min(left, _LOOK))
            listener.dump_if_due()
    finally:
        listener.close()
    return heard


def _without_others(
    datagram: bytes, decoder: Decoder, protected: Callable[[bytes, int], bool]
) -> Iterator[bytes]:
    """The messages of a datagram that are about sessions to protected servers, or about none."""
    for start, end in messages(datagram):
        for _, key, *_ in decoder.decode(datagram, [(start, end)]):
            if key is None or protected(*endpoints(key)[1::2]):
                yield datagram[start:end]
