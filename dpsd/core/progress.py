"""Progress: how long an open session has been of no use, as far as dumps of the table tell.

What the peer says buys time, as much as it takes to say it at the useful rate. So small talk
(NOOP, a byte now and then) is hardly better than silence, and a slow client with a big mail is
fine. While it is the server's turn the clock stands still.
"""

from dataclasses import dataclass

from dpsd.core.events import Measure
from dpsd.core.server import SLOW, SLOWEST, Server

# Bytes of headers in a TCP packet, by IP version: of one with timestamps, and of the longest that
# a server's system sends without a word from the server itself (SYN and ACK with all options).
HEADERS = {4: 52, 6: 72}
WORDLESS = {4: 60, 6: 80}
NOTHING = 8  # bytes by which a SYN is longer than other packets
HANDSHAKEN = 2  # packets from the peer before it acknowledges the greeting
OWED_A_MAIL = 30.0  # seconds that a server may take to look through a whole mail
TALK = 48  # bytes from which on a peer that was answered may have asked more than HELO already
ROUNDING = 1.5  # the kernel tells remaining times in whole seconds
# A TLS handshake looks like a mail: it shows by the server's certificates, and makes a peer say up
# to so many bytes more (X25519MLKEM768 alone is 1,216: draft-ietf-tls-ecdhe-mlkem).
CERTIFICATES, HANDSHAKE = 1200, 1000


def words(measure: Measure, version: int) -> int:
    """Bytes that the peer said, headers not counted; a little less if it has no timestamps."""
    return max(0, (measure.octets or 0) - HEADERS[version] * (measure.packets or 0))


def answers(measure: Measure, version: int) -> int:
    """Bytes that the server said, headers not counted; a little less without timestamps."""
    return max(0, (measure.answered or 0) - HEADERS[version] * (measure.answers or 0))


def greeted(measure: Measure, version: int) -> bool:
    """Whether the server said anything to the peer."""
    return (measure.answered or 0) > WORDLESS[version] * (measure.answers or 0)


def is_mail(said: int, answered: int, least: int) -> bool:
    """Whether a peer that said and was answered so many bytes may have said a mail.

    least: how many they are when it wasn't in TLS.
    """
    return said >= least + (HANDSHAKE if answered >= CERTIFICATES else 0)


@dataclass(frozen=True, slots=True)
class Useful:
    """What is of use. rate: bytes a second from the peer; ahead: seconds that can be bought in
    advance; mail: bytes from the peer from which on it may be a mail; pause: seconds in advance
    from then on, for a slow sender's pauses.
    """

    rate: float = 32.0
    ahead: float = 15.0
    pause: float = 15.0
    mail: int = 1000


@dataclass(slots=True)
class Progress:
    """What dumps told of one session.

    until: up to when it was of use; at: the last dump that told; greeted: whether the server has
    said anything; reached: whether the peer's system acknowledged that; said, answered: bytes
    without headers from the peer and the server; owed_at: since when the server may owe an answer,
    0 if it doesn't; owed: whether it surely does; unfinished: whether the peer went on speaking
    before it was answered; lent: seconds that the clock stood still for that; is_mail: whether it
    said as much as a mail; abandoned: whether it won't finish that; forgotten_at: when the kernel
    will forget the session if it stays silent.
    """

    until: float
    at: float
    greeted: bool = False
    reached: bool = False
    said: int = 0
    answered: int = 0
    owed_at: float = 0.0
    owed: bool = False
    unfinished: bool = False
    lent: float = 0.0
    is_mail: bool = False
    abandoned: bool = False
    forgotten_at: float = 0.0

    def useless(self) -> float:
        """For how many seconds it had been of no use when it was last looked at."""
        return self.at - self.until

    def waits(self) -> bool:
        """Whether it may be waiting for an answer."""
        return bool(self.owed_at) and not (self.unfinished or self.abandoned)

    def blames_server(self, server: Server) -> bool:
        """Whether that is the server's fault: it answers nobody, or others as slowly."""
        waiting = self.at - self.owed_at
        if not self.waits():
            return False
        pace = server.mails if self.is_mail else server.talk
        if waiting <= SLOWEST * pace.seconds:
            return True
        return self.owed and server.answered_nobody(self.owed_at, waiting, self.is_mail)

    def measured(
        self, measure: Measure, version: int, useful: Useful, server: Server, now: float
    ) -> None:
        """Take the kernel's counters, and tell the server's record what it did."""
        said, answered = words(measure, version), answers(measure, version)
        known, self.greeted = self.greeted, self.greeted or greeted(measure, version)
        spoke, heard = said > max(self.said, NOTHING), answered > self.answered
        self.is_mail = is_mail(said, answered, useful.mail)
        if not self.greeted:
            self.until = now
        else:
            self.reached = self.reached or said > NOTHING or (measure.packets or 0) > HANDSHAKEN
            if heard and known and (spoke or self.owed):
                server.answered(now - self.owed_at if self.owed else 0.0, self.is_mail, now)
            elif heard:
                server.greeted(answered, spoke, said == NOTHING and not known, now)
            self._turn(spoke, heard, said, server, now)
            if spoke and heard and not known and answered <= server.greeting.length:
                self.owed_at, self.owed = now, True  # it was greeted, and no more yet
            if spoke:
                self.until += (said - self.said) / useful.rate
            ahead = useful.pause if self.is_mail else useful.ahead
            self.until = min(self.until, now + ahead)
        self.said, self.answered = max(said, self.said), max(answered, self.answered)
        self.at = now

    def told(self, ago: float, by_server: bool, now: float) -> None:
        """Take what the server's socket knows: who spoke last, and for how many seconds the other
        side could have answered.

        No dump could tell, if both sides spoke since the one before. What none has seen yet is left
        to the next one.
        """
        if not self.greeted or self.at < now - ago:
            return
        if self.said <= NOTHING:
            if by_server:  # perhaps the greeting has only just reached it
                self.until = max(self.until, now - ago)
        elif not by_server:
            self.owed_at, self.owed = now - ago, True
        elif self.owed_at:
            self.until -= min(self.lent, ago)  # it was the peer's turn
            self.owed_at, self.owed, self.lent, self.unfinished = 0.0, False, 0.0, False

    def unanswered(self, server: Server) -> float:
        """For how many seconds its mail has surely had no answer; 0 while that is as usual."""
        silent = self.at - self.owed_at
        if not (self.is_mail and self.owed) or silent <= SLOWEST * server.mails.seconds:
            return 0.0
        return silent

    def abandon(self) -> None:
        """It won't finish its mail: what was lent to it is taken back."""
        self.until = min(self.until, self.owed_at)
        self.abandoned = True

    def _turn(self, spoke: bool, heard: bool, said: int, server: Server, now: float) -> None:
        """Whose turn is it? The clock stands still while it is the server's."""
        if heard:
            self.lent, self.owed, self.unfinished, self.abandoned = 0.0, False, False, False
            # It may have asked once more. HELO alone is answered, unless the server is slow.
            asks = spoke and (said >= TALK or server.talk.seconds >= SLOW)
            self.owed_at = now if asks else 0.0
        elif spoke:
            self.unfinished = self.owed
            self.until -= self.lent  # it went on with what it had begun: nothing was owed yet
            self.lent, self.owed_at, self.owed = 0.0, now, True
        elif self.owed_at:
            patience = OWED_A_MAIL if self.is_mail else server.patience(self.owed_at, self.owed)
            if now - self.owed_at <= patience:
                self.until += now - self.at
                self.lent += now - self.at

    def heard(self, remaining: int, timeout: float, now: float) -> None:
        """Without counters: any packet is progress. The kernel forgets a session a fixed time
        after its last packet, so an instant that moved means a packet. It came `timeout` before
        that instant, unless it can't have: a session older than our timeouts has another one."""
        forgotten_at = now + remaining
        if abs(forgotten_at - self.forgotten_at) > ROUNDING:
            silent = timeout - remaining
            exact = self.forgotten_at and 0.0 <= silent <= now - self.at + ROUNDING
            self.until = max(self.until, now - silent) if exact else now
            self.forgotten_at = forgotten_at
        self.at = now
