"""Relays: peers through which other people's sessions come, and this host's own containers.

| who                                                   | known by                                |
|-------------------------------------------------------|-----------------------------------------|
| a router that masquerades, a container                | near(): gateways, bridges' private nets |
| the host's own public address, behind a 1:1 NAT       | a session to it comes back from it      |
| a proxy that hands on who its clients are             | ports: by the mail server's settings    |
| a load balancer, or any other that brings most mail   | CARRIES of the host's mails come by it  |

To list one of them would cost the host all of its mail, or its own programs theirs. So none is
listed by its score, or deferred; but each of their sessions is looked at by itself, not as one of
many of one peer, and those of no use are ended like anybody's while slots run short.
"""

from collections.abc import Callable, Collection
from math import exp2, log

from dpsd.core.scores import Peer

CARRIES = 0.9  # share of the host's mails that one peer brings, of MAILS at least
MAILS = 20.0
FADE = 3600.0  # seconds in which mails count for half
PAUSES = 3.0  # times as long as usual without a mail of its: then it is no longer so
RETURNS_WITHIN = 5.0  # seconds
RETURNS = 2  # sessions that came back to the host which had opened them
OUTGOING, HAIRPINS = 1_000, 16  # sessions, and addresses, that are remembered for that
CANDIDATES = 8  # peers whose mails are counted; who brings more than a ninth is among them


class Relays:
    """Tells who is one. near: whether a peer, by its key, is a gateway or behind one of this
    host's bridges; ports: on which only proxies connect; changes: how often anything of it did;
    outgoing: sessions that the host opened, by address and own port, and when.
    """

    def __init__(self) -> None:
        self.near: Callable[[bytes], bool] = lambda _: False
        self.ports: Collection[int] = ()
        self.changes = 0
        self.outgoing: dict[tuple[bytes, int], float] = {}  # oldest first
        self._hairpins: dict[bytes, int] = {}
        self._mails: dict[bytes, float] = {}
        self._all = 0.0
        self._at = 0.0
        self._carrier: bytes | None = None
        self._until = 0.0  # when it isn't one any more, unless it brings another mail

    def set(self, near: Callable[[bytes], bool], ports: Collection[int]) -> None:
        """Go on with others."""
        self.near, self.ports = near, ports
        self.changes += 1

    def look_at(self, peer: Peer, port: int, now: float) -> None:
        """Note of a peer that opens a session to this port whether it is one."""
        peer.relay, peer.relay_since = self.holds(peer, port, now), self.changes

    def tick(self, now: float) -> None:
        """Let time pass: who brings no more mail carries none."""
        if self._carrier is not None and now >= self._until:
            self._carrier = None
            self.changes += 1

    def went_out(self, to: bytes, own_port: int, now: float) -> None:
        """This host opened a session to a packed address, by this port of its own."""
        self.outgoing.pop((to, own_port), None)
        self.outgoing[to, own_port] = now
        if len(self.outgoing) > OUTGOING:
            del self.outgoing[next(iter(self.outgoing))]

    def came_in(self, address: bytes, port: int, key: bytes, now: float) -> None:
        """A peer opened a session: is it one that went out, and was translated on its way?"""
        if (went := self.outgoing.pop((address, port), None)) is not None:
            if now - went > RETURNS_WITHIN:
                return
            if key in self._hairpins or len(self._hairpins) < HAIRPINS:
                self._hairpins[key] = self._hairpins.get(key, 0) + 1
                self.changes += 1

    def holds(self, peer: Peer, port: int, now: float) -> bool:
        """Whether this peer is one, on this port."""
        carries = peer.key == self._carrier and now < self._until
        comes_back = self._hairpins.get(peer.key, 0) >= RETURNS
        return carries or comes_back or port in self.ports or self.near(peer.key)

    def earned(self, peer: Peer, mails: float, now: float) -> None:
        """A peer brought mails: are these nearly all that the host gets?"""
        fade = exp2((self._at - now) / FADE)
        if fade < 0.99:
            self._mails = {key: number * fade for key, number in self._mails.items()}
            self._all *= fade
            self._at = now
        self._all += mails
        counted = self._mails
        if peer.key in counted or len(counted) < CANDIDATES:
            counted[peer.key] = counted.get(peer.key, 0.0) + mails
        else:  # all of them pay for one that isn't counted
            counted = {key: number - mails for key, number in counted.items() if number > mails}
            self._mails = counted
        first = max(counted, key=counted.__getitem__, default=None)
        carries = first is not None and counted[first] >= max(MAILS, CARRIES * self._all)
        carrier = first if carries else None
        self.changes += carrier != self._carrier
        self._carrier = carrier
        if peer.key == first:
            self._until = now + PAUSES * FADE / counted[first] / log(2.0)
