"""Turn: whose turn it is in an open session, and what the peer does with its own.

A slot is worth what is said in it. What counts against a session is only its *own* time: in which
it was the peer's turn to speak, without the network's round trip. While it is the server's turn the
clock stands still. Looks at conntrack's counters tell who spoke since the look before; the server's
socket tells, when it is asked, who spoke last.

| turn       | what it means                                                  | own time runs   |
|------------|----------------------------------------------------------------|-----------------|
| GREETING   | the server has said nothing yet, and it has to                 | no              |
| PEER       | the server spoke last                                          | yes             |
| SERVER     | the peer spoke last, and a reply is due                        | no              |
| BOTH       | both spoke since the last look                                 | when it is over |
| DOUBT      | the reply is late: a slow server, or the peer hasn't finished  | no              |
| UNFINISHED | others that came later have theirs: the peer hasn't finished   | yes, all of it  |
"""

from enum import IntEnum

from dpsd.core.events import Word
from dpsd.core.latency import Server
from dpsd.core.numbers import FADE, REPLY_SLACK
from dpsd.core.payload import CERTIFICATES, HANDSHAKE, is_mail

ROUNDING = 1.5  # the kernel tells remaining times in whole seconds
HIDDEN = 2 * ROUNDING  # seconds for which packets may come before that shows


class Turn(IntEnum):
    """Whose turn it is; see above."""

    GREETING = 0
    PEER = 1
    SERVER = 2
    BOTH = 3
    DOUBT = 4
    UNFINISHED = 5


GREETING, PEER, SERVER, BOTH, DOUBT, UNFINISHED = Turn

# What follows when somebody spoke: (the peer, the server) did so since the last look.
_SPOKEN = {(True, False): SERVER, (False, True): PEER, (True, True): BOTH}


class Progress:
    """What looks told of one open session; times are the engine's, bytes are without headers.

    opened, since: when the session and when the turn began; at: the last look. said, answered:
    bytes of both sides; asked: of the peer's since the last reply. own: seconds of the peer's
    own turns, and useful: bytes it said, both fading with own time; spent: seconds of the
    present turn among them. idle: seconds of its own for which it said nothing, or too little
    (evidence.useful_rate). mails: how many it delivered, guessed: whether that was counted last
    though more may be to come, mark: where such a mail ended, begun: where the last one did;
    goes_on: whether it went on before it was answered, so that no reply can be due yet; turns:
    replies that it got, trips: those since the last mail; replies: packets of the server. rtt:
    seconds to the peer and back, 0 while unknown; unreached: whether the peer hasn't got the
    server's last words yet; exact: whether the server's socket told; forgotten_at: when the
    kernel will forget the session if it stays silent (without counters).
    """

    __slots__ = (
        *("answered", "asked", "at", "begun", "exact", "forgotten_at", "goes_on", "guessed"),
        *("idle", "mails", "mark", "opened", "own", "replies", "rtt", "trips"),
        *("said", "since", "spent", "turn", "turns", "unreached", "useful"),
    )

    def __init__(self, since: float, greets: bool) -> None:
        """since: when the handshake was proven; greets: whether the server speaks first."""
        self.turn = GREETING if greets else PEER
        self.since = self.at = self.opened = since
        self.said = self.answered = self.asked = self.begun = self.mark = 0
        self.own = self.useful = self.spent = self.idle = self.rtt = 0.0
        self.mails = self.turns = self.trips = self.replies = 0
        self.exact = self.guessed = self.goes_on = self.unreached = False
        self.forgotten_at = 0.0

    @property
    def value(self) -> float:
        """Bytes for each second of its own time: what it makes of its slot."""
        return self.useful / max(self.own, 1e-3)

    @property
    def way(self) -> float:
        """Seconds to the peer and back that are free: FADE in all for each mail, since who
        acknowledges late seems far away."""
        return max(0.0, min(self.rtt, FADE - self.rtt * self.trips))

    def own_by(self, now: float) -> float:
        """Seconds of its own time by now: with those since the last look, if it is its turn."""
        if self.turn == PEER:
            return self.own + max(0.0, now - max(self.at, self.since + self.way))
        return self.own + (now - self.at if self.turn == UNFINISHED else 0.0)

    def present(self, now: float) -> float:
        """Seconds of the present turn that are its own."""
        return self.spent + self.own_by(now) - self.own

    def idle_by(self, now: float) -> float:
        """Seconds of its own by now for which it was of no use."""
        return self.idle + self.own_by(now) - self.own

    def look(self, said: int, answered: int, server: Server, now: float, replies: int = 0) -> None:
        """Take what conntrack has counted by now: bytes of both sides, and the server's packets,
        since the beginning."""
        passed = now - self.at
        exchanges, self.replies = max(1, replies - self.replies), replies
        spoke, heard = said - self.said, answered - self.answered
        if spoke > 0 or heard > 0:
            if self.turn == BOTH and spoke > 0:  # whose turn it is goes to and fro
                self._own(max(0.0, passed - exchanges * self.way))
                self.turns += exchanges
                self.trips += exchanges
            self._spoken(max(0, spoke), max(0, heard), passed, server, now)
        else:
            self._silent(passed, server, now)
        self.at = now

    def _spoken(self, spoke: int, heard: int, passed: float, server: Server, now: float) -> None:
        was = self.turn
        if was == PEER:
            self._own(min(passed, max(0.0, now - self.since - self.way)) / 2)
        elif was == UNFINISHED:
            self._own(passed / 2)
        elif spoke and not heard and was in (SERVER, DOUBT):
            self._own(now - self.since)  # it hadn't finished: no reply was due yet
            self.goes_on = True
        if heard:
            self._heard(heard, spoke, server, now)
        if spoke:
            self.said += spoke
            self.asked += max(0, spoke - (HANDSHAKE if heard >= CERTIFICATES else 0))
            self.useful += spoke
            self.idle = max(0.0, self.idle - spoke / server.useful_rate)
        self.turn, self.since, self.spent = _SPOKEN[spoke > 0, heard > 0], now, 0.0

    def _heard(self, heard: int, spoke: int, server: Server, now: float) -> None:
        if self.guessed:  # its socket didn't tell that more was to come
            self.begun = self.mark
        delivered = is_mail(self.asked + spoke, heard, server.mail_bytes)
        words = self.said - self.begun
        if not spoke and self.turn in (SERVER, DOUBT, UNFINISHED):
            server.took(self.asked, now - self.since, now)
            server.answered(words, self.opened, self.since)
        elif self.guessed and not spoke and self.at > self.since:  # only now it has its reply
            server.filter.took(self.at - self.since, now)
        elif spoke and self.turn != GREETING:  # it has only now finished what it had begun
            server.talk.took(0.0, now)
            if delivered and server.mail.seconds < REPLY_SLACK:  # a mail within one look
                server.mail.took(0.0, now)
                words += spoke
            else:  # what it said last may have come after the reply
                words = min(words + spoke // 2, server.mail_bytes - 1)
            server.answered(words, self.opened, now)
        if delivered:
            self.mark, self.trips = self.said + spoke, 0
            self.mails += not self.guessed
        self.guessed = delivered and spoke > 0
        if delivered and not spoke:
            self.begun = self.mark
        self.answered += heard
        self.asked = 0
        self.goes_on = False
        self.turns += 1
        self.trips += 1

    def _silent(self, passed: float, server: Server, now: float) -> None:
        if self.turn == PEER:
            free = self.since + self.way
            self._own(now - max(self.at, free) if now > free else 0.0)
        elif self.turn == UNFINISHED:
            self._own(passed)
        elif self.turn in (SERVER, BOTH, DOUBT):
            self.judge(server, now)

    def judge(self, server: Server, now: float) -> None:
        """Whether a reply that is due is late, or was never to come."""
        latency = server.latency(self.asked)
        waited = now - self.since
        if waited <= latency.limit:
            return
        if self.turn == BOTH:  # then the reply came before the last look
            self.turn = PEER
            self._own(max(0.0, waited - self.way))
        elif server.passed_over(self.said - self.begun, self.opened, self.since):
            self.turn = UNFINISHED
            self._own(waited)
        else:
            self.turn = DOUBT

    def told(self, word: Word, server: Server, now: float) -> None:
        """Take what the server's socket knows, which is exact."""
        if word.rtt and not self.rtt:
            self.own = max(0.0, self.own - min(word.rtt * self.turns, FADE))
        self.rtt, self.exact = word.rtt, True
        if not server.measured:  # nobody else told
            self.useful += max(0, word.said - self.said)
            self.said, self.answered = word.said, word.answered
        self.unreached = bool(word.by_server and word.unacked)
        since = now - word.ago
        if word.accepted and word.unacked and not word.answered and self.turn == GREETING:
            self._set(PEER, self.opened)  # it opened no window: the greeting can't leave
            return
        if not word.accepted or (not word.answered and self.turn == GREETING):
            return
        if word.unread:
            self._set(SERVER, now)
        elif word.by_server:
            self.mails += self._was_answered(word, server)
            self._set(PEER, since - min(word.rtt, FADE))  # `ago` is without that way already
            self.begun = self.mark if self.guessed else self.begun
            self.asked, self.guessed = 0, False
        elif self.turn not in (DOUBT, UNFINISHED) or since > self.since:
            self._set(SERVER, since)
            self.mails -= self.guessed  # it wasn't at its end
            self.guessed = False
            self.judge(server, now)

    def _was_answered(self, word: Word, server: Server) -> bool:
        """Whether a mail has its reply, which the counters didn't show: without timestamps they
        hide some bytes of each packet (see payload.py)."""
        waited = self.turn in (SERVER, DOUBT, UNFINISHED) and word.answered > self.answered
        return waited and is_mail(self.asked, 0, server.mail_bytes)

    def _set(self, turn: Turn, since: float) -> None:
        """Correct whose turn it is, and take back the own time that wasn't."""
        if turn != self.turn or since > self.since:
            self.own = max(0.0, self.own - self.spent)
            self.idle = max(0.0, self.idle - self.spent)
            self.spent = 0.0
            if turn == PEER:
                self.turn, self.since = turn, since
                self._own(max(0.0, self.at - since - self.way))
                return
        self.turn, self.since = turn, since

    def _own(self, seconds: float) -> None:
        if seconds > 0:
            fade = 2.0 ** (-seconds / FADE)
            self.useful *= fade
            self.own = self.own * fade + seconds
            self.idle += seconds
            self.spent += seconds

    def kept(self, remaining: int, timeout: float, now: float) -> None:
        """Without counters: any packet is progress. The kernel forgets a session a fixed time
        after its last packet, so an instant that moved means a packet. It came `timeout` before
        that instant, unless it can't have: a session older than our timeouts has another one."""
        forgotten_at = now + remaining
        if abs(forgotten_at - self.forgotten_at) > ROUNDING:
            silent = timeout - remaining
            exact = self.forgotten_at and 0.0 <= silent <= now - self.at + ROUNDING
            self.turn, self.since = PEER, max(self.since, now - silent) if exact else now
            self.own = self.useful = 0.0
            self.forgotten_at = forgotten_at
        self.own = self.idle = self.spent = max(0.0, now - self.since - HIDDEN)
        self.at = now
