"""The reaper: which sessions to end when the slots run out.

The greediest peer's least useful session first, then the next, until there is room. Sessions that
make progress, and those that the server hasn't greeted yet, are never among them. A peer with a
single session gets more time, since it costs little; but where very many peers with few useless
sessions each fill the slots, they are one attacker with many addresses: a swarm.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from heapq import heapify, heappop, heappush

from dpsd.core.events import State
from dpsd.core.sessions import Session

MOST = 2_000  # sessions at a time: to end them takes the kernel some 0.1 s
LONE = 3.0  # times as long may the only session of a peer be useless, unless there is a swarm
HURRIED = 0.5  # times as long may those of a swarm, and of a peer with several under a siege


@dataclass(frozen=True, slots=True)
class Haste:
    """after: seconds of no use after which a session may be ended; swarm: how many peers with few
    sessions each, useless ones among them, are one; few: up to how many those are; swarming,
    besieged: there was one just now, or a siege; patience: how many times longer a peer's sessions
    may last.
    """

    after: float
    swarm: int
    few: int = 2
    swarming: bool = False
    besieged: bool = False
    patience: Callable[[bytes], float] = lambda _: 1.0


def reap(
    sessions: Iterable[Session],
    room: int,
    haste: Haste,
    is_spared: Callable[[Session], bool] = lambda _: False,
) -> tuple[list[Session], bool]:
    """Up to `room` open sessions that have been of no use for too long; no more than MOST. And
    whether there is a swarm.

    A peer's greed is the number of its sessions, whatever their use; of equals it is the one whose
    useless sessions come first.
    """
    room = min(room, MOST)
    if room <= 0:
        return [], False
    held: dict[bytes, int] = defaultdict(int)
    useless: dict[bytes, list[Session]] = defaultdict(list)
    for session in sessions:
        if session.state == State.ESTABLISHED:
            held[session.peer] += 1
            if not session.reaped and session.useless() > haste.after * HURRIED:
                useless[session.peer].append(session)
    is_swarm = sum(held[peer] <= haste.few for peer in useless) >= haste.swarm
    greed: list[tuple[int, int, bytes]] = []
    for order, (peer, candidates) in enumerate(useless.items()):
        after = haste.after * haste.patience(peer)
        if is_swarm or haste.swarming:
            after *= HURRIED
        elif held[peer] == 1:
            after *= LONE
        elif haste.besieged:
            after *= HURRIED
        candidates[:] = sorted((s for s in candidates if s.useless() > after), key=Session.useless)
        if candidates:
            greed.append((-held[peer], order, peer))
    heapify(greed)
    found: list[Session] = []
    while greed and len(found) < room:
        count, order, peer = heappop(greed)
        session = useless[peer].pop()
        if not is_spared(session):
            found.append(session)
        if useless[peer]:
            heappush(greed, (count + 1, order, peer))
    return found, is_swarm
