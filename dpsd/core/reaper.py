"""The reaper: which sessions to end when the slots run out.

The greediest peer's least useful session first, then the next, until there is room. Sessions that
make progress, and those that the server hasn't greeted yet, are never among them.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable
from heapq import heapify, heappop, heappush

from dpsd.core.events import State
from dpsd.core.sessions import Session

MOST = 2_000  # sessions at a time: to end them takes the kernel some 0.1 s


def reap(
    sessions: Iterable[Session],
    room: int,
    useless_for: float,
    is_spared: Callable[[Session], bool] = lambda _: False,
) -> list[Session]:
    """Up to `room` open sessions that have been of no use for longer than so many seconds.

    A peer's greed is the number of its sessions, whatever their use; of equals it is the one whose
    useless sessions come first. No more than MOST at a time.
    """
    room = min(room, MOST)
    if room <= 0:
        return []
    held: dict[bytes, int] = defaultdict(int)
    useless: dict[bytes, list[Session]] = defaultdict(list)
    for session in sessions:
        if session.state == State.ESTABLISHED:
            held[session.peer] += 1
            if not session.reaped and session.useless() > useless_for:
                useless[session.peer].append(session)
    for candidates in useless.values():
        candidates.sort(key=Session.useless)
    greed = [(-held[peer], order, peer) for order, peer in enumerate(useless)]
    heapify(greed)
    found: list[Session] = []
    while greed and len(found) < room:
        count, order, peer = heappop(greed)
        session = useless[peer].pop()
        if not is_spared(session):
            found.append(session)
        if useless[peer]:
            heappush(greed, (count + 1, order, peer))
    return found
