"""Session: one connection to a protected port, and what may be noted about it."""

from enum import IntEnum
from math import inf

from dpsd.core.events import Key, Measure, State
from dpsd.core.scores import Peer
from dpsd.core.turn import Progress

# By names of the module, and numbers as events have them: an attribute of an enum class takes eight
# times as long to look up, and a member of one twice as long to compare with a number.
SYN_RECV, ESTABLISHED = State.SYN_RECV.value, State.ESTABLISHED.value
FIN_WAIT, CLOSE_WAIT = State.FIN_WAIT.value, State.CLOSE_WAIT.value
LAST_ACK, TIME_WAIT, CLOSE = State.LAST_ACK.value, State.TIME_WAIT.value, State.CLOSE.value
CLOSING = frozenset((FIN_WAIT, CLOSE_WAIT, LAST_ACK))


class Side(IntEnum):
    """Who sent the first FIN."""

    NONE = 0
    PEER = 1
    SERVER = 2


NOBODY, PEER, SERVER = Side


class Session:
    """One connection with a proven handshake.

    since: when it entered its state; progress: what looks told of it, None before the first;
    charged: slot-seconds that its overstays cost its peer, and until when; credited: mails that its
    peer has credit for; doomed: whether it is being ended; keeps: whether it keeps a slot, or waits
    for one; round: the last dump that had it; due: when it is looked at again, while it is being
    closed; waits: where it stands while the server has said nothing (see ungreeted.py).
    """

    __slots__ = (
        *("charged", "charged_at", "closer", "credited", "doomed", "due", "keeps", "key", "peer"),
        *("port", "progress", "round", "since", "state", "waits"),
    )

    def __init__(self, key: Key, peer: Peer, port: int, state: int, now: float) -> None:
        self.key = key
        self.peer = peer
        self.port = port
        self.state = state
        self.since = self.charged_at = now
        self.closer = NOBODY
        self.progress: Progress | None = None
        self.charged = 0.0
        self.doomed, self.keeps = False, True
        self.round = self.credited = 0
        self.due = inf
        self.waits: dict[Key, Session] | None = None

    def blames_peer(self) -> bool:
        """Whether it is the peer that has to act next.

        The server's FIN waits for the peer's in FIN_WAIT and CLOSE_WAIT; the peer's for the
        server's. In LAST_ACK the side that sent FIN first owes the last acknowledgement.
        """
        if self.state == ESTABLISHED:
            return True
        return self.closer is (PEER if self.state == LAST_ACK else SERVER)


class Note(IntEnum):
    """What a note tells; behind it in the tuple come the session and a number or a Measure.

    OPENED: a handshake was proven. FOUND: a dump has it, opened who knows when. CLOSED: the session
    is over, in the state it now has. RESET: it was reset while ESTABLISHED. OVERSTAY, LEAK: it
    stayed the given seconds, since the last such note, beyond its proper time, and its peer (the
    server) is to blame. GONE: the kernel measured the whole of a session that ended before. LOOKED:
    a look told news of an open one.
    """

    OPENED = 0
    CLOSED = 1
    RESET = 2
    OVERSTAY = 3
    LEAK = 4
    GONE = 5
    FOUND = 6
    LOOKED = 7


OPENED, CLOSED, RESET, OVERSTAY, LEAK, GONE, FOUND, LOOKED = Note


Noted = tuple[Note, Session, float | Measure | None]
