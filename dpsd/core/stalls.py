"""Stalls: mails that were begun and aren't finished.

Whoever said as much as a mail and hears nothing since may be waiting for the server, which looks
through it. Under stress that is borne with for long, unless a peer has more such sessions at a
time than it ever delivered mails: then they are of no use since its last word.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable

from dpsd.core.events import State
from dpsd.core.progress import Progress
from dpsd.core.server import Server
from dpsd.core.sessions import Session

SEVERAL = 2  # such sessions are borne with at a time, whoever the peer is
OTHERS = 2.0  # times as many as all others have there must be, else the server may be slow
PATIENCE = 2.0  # times as long as other sessions of no use


def abandon(
    sessions: Iterable[Session], after: float, trust: Callable[[bytes], float], server: Server
) -> None:
    """Take note of the mails that their peers seem to have abandoned.

    after: seconds of no use after which a session may be ended; trust: of a peer, in deliveries.
    """
    stalled: dict[bytes, list[Progress]] = defaultdict(list)
    queued = Counter[bytes]()
    for session in sessions:
        progress = session.progress
        if session.state != State.ESTABLISHED or session.reaped:
            continue
        if progress is None or not progress.greeted:
            queued[session.peer] += 1
            continue
        silent = progress.unanswered(server)
        if silent > after * PATIENCE or (silent and progress.useless() > after):
            stalled[session.peer].append(progress)
    theirs: list[Progress] = []
    for peer, several in stalled.items():
        if len(several) + queued[peer] > SEVERAL + trust(peer):
            theirs += several
    if len(theirs) > OTHERS * (sum(map(len, stalled.values())) - len(theirs)):
        for progress in theirs:
            progress.abandon()
