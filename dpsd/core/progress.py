"""Progress: how long an open session has been of no use, as far as dumps of the table tell.

What the peer says buys time, as much as it takes to say it at the useful rate. So small talk
(NOOP, a byte now and then) is hardly better than silence, and a slow client with a big mail is
fine. While it is the server's turn the clock stands still.
"""

from dataclasses import dataclass

from dpsd.core.events import Measure

# Bytes of headers in a TCP packet, by IP version: of one with timestamps, and of the longest that
# a server's system sends without a word from the server itself (SYN and ACK with all options).
HEADERS = {4: 52, 6: 72}
WORDLESS = {4: 60, 6: 80}
AHEAD = 15.0  # seconds that can be bought in advance: a slow sender's pauses
OWED = 10.0  # seconds that a server may take to answer before the peer's clock goes on
ROUNDING = 1.5  # the kernel tells remaining times in whole seconds


def words(measure: Measure, version: int) -> int:
    """Bytes that the peer said, headers not counted; a little less if it has no timestamps."""
    return max(0, (measure.octets or 0) - HEADERS[version] * (measure.packets or 0))


@dataclass(slots=True)
class Progress:
    """What dumps told of one session.

    until: up to when it was of use; at: the last dump that told; said, answered: bytes without
    headers from the peer and the server; owed: for how long the server has owed an answer;
    forgotten_at: when the kernel will forget the session if it stays silent.
    """

    until: float
    at: float
    greeted: bool = False
    said: int = 0
    answered: int = 0
    owed: float = 0.0
    forgotten_at: float = 0.0

    def useless(self) -> float:
        """For how many seconds it had been of no use when it was last looked at."""
        return self.at - self.until

    def measured(self, measure: Measure, version: int, rate: float, now: float) -> None:
        """Take the kernel's counters; rate: bytes a second from the peer that are of use."""
        said = words(measure, version)
        answers, octets = measure.answers or 0, measure.answered or 0
        answered = max(0, octets - HEADERS[version] * answers)
        self.greeted = self.greeted or octets > WORDLESS[version] * answers
        if answered > self.answered:
            self.owed = 0.0
        elif said > self.said or self.owed:  # it waits for an answer to what it said
            self.owed += now - self.at
        if not self.greeted:
            self.until = now
        else:
            if 0.0 < self.owed <= OWED:
                self.until += now - self.at
            if said > self.said:
                self.until = min(now + AHEAD, self.until + (said - self.said) / rate)
        self.said, self.answered = max(said, self.said), max(answered, self.answered)
        self.at = now

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
