"""Session: one connection to a protected port, and what may be noted about it."""

from enum import IntEnum

from dpsd.core.events import Key, Measure, State
from dpsd.core.scores import Peer
from dpsd.core.turn import Progress

# By names of the module: an attribute of an enum class takes eight times as long to look up.
SYN_RECV, ESTABLISHED = State.SYN_RECV, State.ESTABLISHED
LAST_ACK, CLOSE = State.LAST_ACK, State.CLOSE
CLOSING = frozenset((State.FIN_WAIT, State.CLOSE_WAIT, LAST_ACK))


class Side(IntEnum):
    """Who sent the first FIN."""

    NONE = 0
    PEER = 1
    SERVER = 2


_NOBODY, _PEER = Side.NONE, Side.PEER


class Session:
    """One connection with a proven handshake.

    since: when it entered its state; progress: what looks told of it, None before the first;
    charged: slot-seconds that its overstays cost its peer, and until when; credited: mails that its
    peer has credit for; doomed: whether it is
    being ended; lost: whether the server seems to know nothing of it; round: the last dump that had
    it.
    """

    __slots__ = (
        *("charged", "charged_at", "closer", "credited", "doomed", "key", "lost", "peer", "port"),
        *("progress", "round", "since", "state"),
    )

    def __init__(self, key: Key, peer: Peer, port: int, state: int, now: float) -> None:
        self.key = key
        self.peer = peer
        self.port = port
        self.state = state
        self.since = self.charged_at = now
        self.closer = _NOBODY
        self.progress: Progress | None = None
        self.charged = 0.0
        self.doomed = self.lost = False
        self.round = self.credited = 0

    def blames_peer(self) -> bool:
        """Whether it is the peer that has to act next.

        The server's FIN waits for the peer's in FIN_WAIT and CLOSE_WAIT; the peer's for the
        server's. In LAST_ACK the side that sent FIN first owes the last acknowledgement.
        """
        if self.state == ESTABLISHED:
            return True
        return self.closer == (Side.PEER if self.state == LAST_ACK else Side.SERVER)

    def leaks(self) -> bool:
        """Whether it is being closed but keeps its slot: the peer has closed, the server hasn't."""
        return self.closer == _PEER and self.state != LAST_ACK


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


OPENED, CLOSED, GONE, LOOKED = Note.OPENED, Note.CLOSED, Note.GONE, Note.LOOKED


Noted = tuple[Note, Session, float | Measure | None]
