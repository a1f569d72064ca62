"""Where sockets and conntrack's entries don't tell of the same sessions.

Both are this host's: a socket without an entry is a session that conntrack began too late for, or
was made to forget, or is told not to track (notrack). An entry without a socket is a session that
the server never had, since its full queue dropped the handshake's last packet, or one that ends
elsewhere, by NAT.
"""

from collections.abc import Collection, Sequence

from dpsd.core.events import Endpoints
from dpsd.kernel.ctnetlink import endpoints, key_of
from dpsd.kernel.ending.entries import Entries, originals


def without_entry(sockets: Sequence[bytes], ports: Collection[int]) -> list[bytes]:
    """Those of the sockets' sessions, by their keys, of which conntrack has no entry that tells of
    a protected port.

    An entry may have another port of the host (REDIRECT), and then the session is known by that.
    Raises KernelError, NotPermitted.
    """
    replies = {key: _reply(key) for key in sockets}
    found = originals([*replies.values()])
    return [key for key, reply in replies.items() if not _tells(found.get(reply, b""), ports)]


def never_had(keys: Sequence[bytes], entries: Entries) -> list[bytes]:
    """Those of these sessions, which have no socket here, that end here all the same: their entries
    aren't translated to another address or port. Raises KernelError, NotPermitted."""
    places = entries.look(keys).values()
    return [place.key for place in places if _plain(place.key) == place[1:5]]


def _reply(key: bytes) -> bytes:
    peer, server, peer_port, server_port = endpoints(key)
    return key_of(Endpoints(server, peer, server_port, peer_port))


def _tells(original: bytes, ports: Collection[int]) -> bool:
    try:
        return endpoints(original).server_port in ports
    except ValueError:
        return False  # no entry, or laid out as no kernel does


def _plain(key: bytes) -> tuple[bytes, int, bytes, int]:
    ends = endpoints(key)
    return ends.server, ends.server_port, ends.peer, ends.peer_port
