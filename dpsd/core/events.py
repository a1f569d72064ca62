"""The events that go into the core, as they come from a kernel, a capture or a test.

An event is a plain tuple (kind, key, status, state, a, b), since a busy host makes 100,000 of them
a second and a class would cost more than what is done with it:

| kind    | key    | state      | a                               | b                     |
|---------|--------|------------|---------------------------------|-----------------------|
| UPDATE  | a key  | new        | TCP flags of the peer           | of the server         |
| ENTRY   | a key  | at present | (flags of peer, of server)      | Measure               |
| DESTROY | a key  | last       | None                            | Measure               |
| BEGIN   | None   | 0          | port that is asked for (0: all) | IP version (0: both)  |
| END     | None   | 0          | errno (0: complete)             | 0                     |
| LOST    | None   | 0          | 0                               | 0                     |

UPDATE and DESTROY come by themselves. BEGIN, many ENTRY and END are a dump of the connection
table, asked for one port and family. LOST: the kernel dropped events that we were too slow to take.

`key` is hashable and the same for all events of a session (the kernel's own bytes of the original
direction's addresses and ports); the core learns what is in it through an Endpoints function.
`state`, `status` and the flags are the kernel's numbers.
"""

from collections.abc import Callable, Hashable
from enum import IntEnum
from typing import Any, NamedTuple

UPDATE, ENTRY, DESTROY, BEGIN, END, LOST = range(6)

Event = tuple[int, Any, int, int, Any, Any]
Key = Hashable


class State(IntEnum):
    """enum tcp_conntrack in uapi/linux/netfilter/nf_conntrack_tcp.h.

    FIN_WAIT: one side sent FIN; CLOSE_WAIT: the other acknowledged it; LAST_ACK: both sent FIN;
    TIME_WAIT: both FINs are acknowledged; CLOSE: reset.
    """

    NONE = 0
    SYN_SENT = 1
    SYN_RECV = 2
    ESTABLISHED = 3
    FIN_WAIT = 4
    CLOSE_WAIT = 5
    LAST_ACK = 6
    TIME_WAIT = 7
    CLOSE = 8
    SYN_SENT2 = 9


ASSURED = 4  # IPS_ASSURED: the kernel saw the handshake's valid third packet
CLOSE_INIT = 4  # IP_CT_TCP_FLAG_CLOSE_INIT in a direction's flags: this side sent FIN first


class Measure(NamedTuple):
    """What the kernel measured of a session; None where it doesn't (nf_conntrack_acct off).

    remaining: seconds until the kernel forgets the session if no packet comes; packets, octets:
    from the peer, octets with IP and TCP headers; reply_packets, reply_octets: from the server.
    """

    remaining: int | None = None
    packets: int | None = None
    octets: int | None = None
    reply_packets: int | None = None
    reply_octets: int | None = None


class Word(NamedTuple):
    """What the server's own socket tells of an ESTABLISHED session.

    ago: seconds for which the other side could have answered the last data that went either way:
    since it came, or for the server's own data since it was sent, less a way there and back; before
    anybody said anything, since the handshake. by_server: the last data was the server's.
    said: bytes of payload that came from the peer (tcpi_bytes_received: in order, read or not).
    answered: bytes of payload that the server sent, each once (tcpi_bytes_sent less
    tcpi_bytes_retrans). rtt: seconds there and back, smoothed (tcpi_rtt). unread: bytes that came
    and that the server's process hasn't read (idiag_rqueue). unacked: bytes that the server wrote
    and the peer hasn't acknowledged, sent or not (idiag_wqueue). accepted: a process holds the
    socket (idiag_inode); if not, it waits in the accept queue.
    Sources: include/uapi/linux/{tcp,inet_diag}.h, tcp_get_info() in net/ipv4/tcp.c,
    tcp_diag_get_info() in net/ipv4/tcp_diag.c.
    """

    ago: float
    by_server: bool
    said: int
    answered: int
    rtt: float
    unread: int
    unacked: int
    accepted: bool


class Endpoints(NamedTuple):
    """Who talks to whom: packed addresses (4 or 16 bytes) and ports."""

    peer: bytes
    server: bytes
    peer_port: int
    server_port: int


EndpointsOf = Callable[[Any], Endpoints]
