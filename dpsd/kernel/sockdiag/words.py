"""What this host's sockets tell of its sessions: who said how much and who spoke last."""

from collections.abc import Iterable
from functools import lru_cache
from struct import Struct

from dpsd.core.events import Word
from dpsd.kernel.ctnetlink import ATTRIBUTE
from dpsd.kernel.sockdiag import wire
from dpsd.kernel.sockdiag.wire import Session

SLOWEST = 2.0  # seconds to a peer and back; it can make them more by late acknowledgements
_INFO = 2  # INET_DIAG_INFO
_WITH_INFO = 1 << (_INFO - 1)
_STATE_AT, _ATTRIBUTES_AT = 1, 72
# inet_diag_msg: idiag_rqueue, idiag_wqueue, inode.
_QUEUES = "=56xII4xI"
# struct nlattr: length, type; tcp_info: tcpi_last_data_sent, _last_data_recv, _last_ack_recv:
# milliseconds ago; tcpi_rtt: microseconds; tcpi_bytes_received, _bytes_sent, _bytes_retrans.
_TCP_INFO = "HH44xI4xII8xI56xQ64xQQ"
_LENGTH, _TYPE = 3, 4  # where these are among all of them
_LEAST = Struct("=" + _TCP_INFO).size
_USUALLY_AT = _ATTRIBUTES_AT + 36  # behind the attributes that come unasked


def ask(sessions: Iterable[Session]) -> dict[Session, Word]:
    """What the sockets of these sessions tell, of those that are ESTABLISHED on this host.

    Costs some microseconds for each that is asked for, however many sockets the host has. IPv4
    sessions of dual-stack sockets are found by their IPv4 addresses; those between IPv6 link-local
    addresses aren't found, and none is on a kernel without tcp_diag. Raises KernelError if the
    kernel doesn't answer.
    """
    asked = list(sessions)
    requests = [wire.request(wire.SOCK_DIAG_BY_FAMILY, each, _WITH_INFO) for each in asked]
    with wire.opened() as diag:
        found = wire.answers(diag, requests, _Reader().word)
    return {
        session: answer
        for session, answer in zip(asked, found, strict=True)
        if isinstance(answer, Word)
    }


class _Reader:
    """Reads words from answers, and remembers where in them the kernel puts tcp_info: that is the
    same in all answers that one process gets."""

    def __init__(self) -> None:
        self._layout = _layout(_USUALLY_AT)

    def word(self, data: bytes, start: int, end: int) -> Word | None:
        """The word in an inet_diag_msg; None if its socket isn't ESTABLISHED, or isn't told of."""
        if data[start + _STATE_AT] != wire.ESTABLISHED:
            return None
        told = self._told(data, start, end)
        if told is None:
            return None
        unread, unacked, inode, _, _, sent_at, heard_at, acked_at, rtt, said, sent, again = told
        answered = sent - again
        # Both sides' last data has its time in jiffies only: on a fast network they are often the
        # same. But who heard an answer acknowledges it: if the peer's last packet was such an
        # acknowledgement then, and not its data, the last data was the server's.
        later = sent_at < heard_at or (sent_at == heard_at and acked_at < heard_at)
        by_server = answered > 0 and (later or not said)
        delay = min(rtt / 1e6, SLOWEST)
        ago = max(0.0, sent_at / 1e3 - delay) if by_server else heard_at / 1e3
        return Word(ago, by_server, said, answered, rtt / 1e6, unread, unacked, inode != 0)

    def _told(self, data: bytes, start: int, end: int) -> tuple[int, ...] | None:
        if start + self._layout.size <= end:
            told: tuple[int, ...] = self._layout.unpack_from(data, start)
            if told[_TYPE] == _INFO and told[_LENGTH] >= _LEAST:
                return told
        at = _info_at(data, start, end)
        if at is None:
            return None
        self._layout = _layout(at)
        return self._layout.unpack_from(data, start)


@lru_cache(maxsize=8)
def _layout(at: int) -> Struct:
    """A socket's queues, inode and tcp_info, which is at this offset."""
    return Struct(f"{_QUEUES}{at - _ATTRIBUTES_AT}x{_TCP_INFO}")


def _info_at(data: bytes, start: int, end: int) -> int | None:
    """The offset of tcp_info's attribute in an inet_diag_msg."""
    at = start + _ATTRIBUTES_AT
    while at + ATTRIBUTE.size <= end:
        length, kind = ATTRIBUTE.unpack_from(data, at)
        if kind == _INFO and length >= _LEAST and at + length <= end:
            return at - start
        if length < ATTRIBUTE.size:
            return None
        at += length + 3 & ~3
    return None
