"""The table inet dpsd_ending (etc/ending.nft), and the SYN that makes a server answer."""

import errno
import os
import socket
from collections.abc import Iterable
from contextlib import suppress
from struct import Struct, pack

from dpsd.errors import KernelError, NotPermitted
from dpsd.kernel.ctnetlink import endpoints
from dpsd.kernel.ending.entries import Place
from dpsd.kernel.nftset.elements import ElementSocket
from dpsd.kernel.nftset.library import Library
from dpsd.paths import shipped

TABLE = "dpsd_ending"
LASTS = 10.0  # seconds that a session is in a set, should it not be taken out before
ROOM = 16_384  # sessions of each IP version: the size of the sets

_IP_TRANSPARENT, _IPV6_TRANSPARENT = 19, 75
_TCP_REPAIR, _REPAIR_ON, _REPAIR_OFF = 19, 1, -1  # off without a window probe
_TCP_REPAIR_QUEUE, _RECEIVE, _SEND, _TCP_QUEUE_SEQ = 20, 1, 2, 21
_NUMBERS = Struct(">II")
_NOBODY = "192.0.2.1"  # TEST-NET-1 (RFC 5737)


class Rule:
    """The rule that refuses what a server says in sessions that are being ended.

    It is loaded when it is needed first. Not for two threads at a time.
    """

    def __init__(self) -> None:
        # Now, so that the watch of table inet dpsd learns in time that it is our own.
        self._elements = ElementSocket(TABLE)
        self._loaded = False
        self._answers: dict[bytes, list[bytes]] = {}  # of answered4 and answered6, by answer()

    def add(self, places: Iterable[Place]) -> None:
        """From now on refuse what the servers say in these sessions, for LASTS seconds at most.

        Loads the table if it isn't there. Raises KernelError or NotPermitted.
        """
        sets: dict[str, dict[bytes, float | None]] = {}
        for place in places:
            for name in ("ending", "asking"):
                sets.setdefault(f"{name}{_version(place)}", {})[element(place)] = LASTS
        if not sets:
            return
        if not self._loaded:
            load()
            self._loaded = True
        try:
            self._elements.replace({}, sets)
        except KernelError:  # somebody may have taken it away
            load()
            self._elements.replace({}, sets)

    def remove(self, places: Iterable[Place]) -> None:
        """Let these sessions' packets pass again. Raises KernelError or NotPermitted."""
        sets: dict[str, list[bytes]] = {}
        for place in places:
            for name in ("ending", "asking", "gone"):
                sets.setdefault(f"{name}{_version(place)}", []).append(element(place))
            if (keys := self._answers.pop(answer(place), None)) is not None:
                sets.setdefault(f"answered{_version(place)}", []).extend(keys)
        if sets and self._loaded:
            self._elements.replace(sets, {})

    def read(self) -> tuple[dict[bytes, int], set[bytes]]:
        """How many packets of the server each session in the sets met, and of which sessions the
        server has told that it doesn't have them. Raises KernelError or NotPermitted.
        """
        packets: dict[bytes, int] = {}
        gone: set[bytes] = set()
        if self._loaded:
            # In this order: who is counted has also told by the time that the second is read.
            for name in ("ending4", "ending6"):
                packets.update((e.key, e.packets) for e in self._elements.dump(name) or ())
            for name in ("gone4", "gone6"):
                gone.update(each.key for each in self._elements.dump(name) or ())
        return packets, gone

    @staticmethod
    def knock(place: Place) -> int:
        """Send the server a SYN that looks like the peer's; an errno, 0: it was sent.

        Only after add(): then whatever the server answers is refused, and no session comes of it.
        """
        try:
            with _transparent(len(place.peer)) as sock:
                # In repair mode bind() is never refused because a socket of this host listens on
                # that port: else a peer would be safe behind a port that is open here.
                sock.setsockopt(socket.IPPROTO_TCP, _TCP_REPAIR, _REPAIR_ON)
                sock.bind((_text(place.peer), place.peer_port))
                sock.setsockopt(socket.IPPROTO_TCP, _TCP_REPAIR, _REPAIR_OFF)
                failure = sock.connect_ex((_text(place.server), place.server_port))
        except OSError as error:
            return error.errno or errno.EIO
        return 0 if failure == errno.EINPROGRESS else failure

    def numbers(self) -> dict[bytes, tuple[int, int]]:
        """The sequence number with which each server would go on, and the one it expects, by
        answer(), as its answers told. Raises KernelError or NotPermitted.
        """
        self._answers.clear()
        if self._loaded:
            for name in ("answered4", "answered6"):
                for each in self._elements.dump(name) or ():
                    self._answers.setdefault(each.key[:-8], []).append(each.key)
        return {
            which: max(_NUMBERS.unpack(key[-8:]) for key in keys)
            for which, keys in self._answers.items()
        }

    @staticmethod
    def reset_peer(place: Place, sequence: int, expected: int) -> None:
        """Send the peer a reset as the server would: with the number that it expects next.

        Where that is impossible the peer learns it when it speaks: the server has no such session.
        """
        ends = endpoints(place.key)
        with suppress(OSError), _transparent(len(ends.peer)) as sock:
            sock.setsockopt(socket.IPPROTO_TCP, _TCP_REPAIR, _REPAIR_ON)
            for queue, number in ((_RECEIVE, expected), (_SEND, sequence)):
                sock.setsockopt(socket.IPPROTO_TCP, _TCP_REPAIR_QUEUE, queue)
                sock.setsockopt(socket.IPPROTO_TCP, _TCP_QUEUE_SEQ, pack("=I", number))
            sock.bind((_text(ends.server), ends.server_port))
            sock.connect((_text(ends.peer), ends.peer_port))  # in repair mode nothing is sent
            sock.setsockopt(socket.IPPROTO_TCP, _TCP_REPAIR, _REPAIR_OFF)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, pack("=ii", 1, 0))

    def close(self) -> None:
        """Take the table out of the kernel, also one that a crash left there."""
        self._elements.close()
        self._loaded = False
        with suppress(KernelError):  # then its rules stay, which meet no packet of anybody
            _run(f"add table inet {TABLE}; delete table inet {TABLE}")


def element(place: Place) -> bytes:
    """What stands in a set for a session: server, port, peer, port; each padded to four bytes."""
    server, peer = place.server_port.to_bytes(2, "big"), place.peer_port.to_bytes(2, "big")
    return place.server + server + b"\0\0" + place.peer + peer + b"\0\0"


def answer(place: Place) -> bytes:
    """What the numbers of a session stand under: port of the server, peer, its port."""
    server, peer = place.server_port.to_bytes(2, "big"), place.peer_port.to_bytes(2, "big")
    return server + b"\0\0" + place.peer + peer + b"\0\0"


def load(dry_run: bool = False) -> None:
    """Put the table into the kernel, empty. Raises KernelError or NotPermitted."""
    code, error = _run(shipped("etc/ending.nft").read_text(encoding="ascii"), dry_run)
    if not code:
        return
    reasons = {line.partition("Error: ")[2] for line in error.splitlines() if "Error: " in line}
    text = "; ".join(sorted(reasons)) or error.strip()[:200] or "no reason given"
    if os.strerror(errno.EPERM) in text:
        raise NotPermitted(f"nftables: {text}; run as root, or with CAP_NET_ADMIN")
    raise KernelError(f"table inet {TABLE} can't be loaded: {text}")


def _run(commands: str, dry_run: bool = False) -> tuple[int, str]:
    """nft's code and errors, from a process of its own that is gone then. Raises Crashed."""
    nft = Library()
    try:
        code, _, error = nft.cmd(commands, dry_run=dry_run)
    finally:
        nft.close()
    return code, error


def probe() -> None:
    """Whether sessions elsewhere can be ended, as far as can be tried without ending one.

    Raises NotPermitted or KernelError, which say what is missing.
    """
    load(dry_run=True)
    try:
        with _transparent(4) as sock:
            sock.bind((_NOBODY, 0))
    except PermissionError:
        raise NotPermitted("a transparent socket needs CAP_NET_ADMIN: run as root") from None
    except OSError as error:
        raise KernelError(f"no transparent socket is to be had: {error.strerror}") from None


def may_use_low_ports() -> bool:
    """Whether sessions of peers with ports below 1024 can be ended, too."""
    try:
        with _transparent(4) as sock:
            sock.bind((_NOBODY, 1))
    except OSError:
        return False
    return True


def _transparent(size: int) -> socket.socket:
    """A TCP socket that may have anybody's address, packed in so many bytes. Raises OSError."""
    family = socket.AF_INET if size == 4 else socket.AF_INET6
    sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        if size == 4:
            sock.setsockopt(socket.IPPROTO_IP, _IP_TRANSPARENT, 1)
        else:
            sock.setsockopt(socket.IPPROTO_IPV6, _IPV6_TRANSPARENT, 1)
    except OSError:
        sock.close()
        raise
    return sock


def _text(address: bytes) -> str:
    family = socket.AF_INET if len(address) == 4 else socket.AF_INET6
    return socket.inet_ntop(family, address)


def _version(place: Place) -> int:
    return 4 if len(place.server) == 4 else 6
