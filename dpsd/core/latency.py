"""Reply latency: how long the server has been taking to answer lately, whomever.

So that nobody is judged for its slowness, and that it isn't blamed for who never finishes what he
says. Commands and mails have a latency each: a mail may go through a content filter.

Whether a reply is only late, or was never to come, is told by those who came later: a server that
has taken others in since then, and answered as much of theirs, hasn't that much to do.
"""

from dataclasses import dataclass, field
from math import inf

from dpsd.core.numbers import (
    OTHERS,
    REPLY_FACTOR,
    REPLY_SLACK,
    SLOWER,
    STOOD_STILL,
)

SIZES = range(32)  # of what was said, in bits: evidence.delivered_bytes is below 2**31


@dataclass(slots=True)
class Latency:
    """seconds: what the slower replies lately took; at: when the last one came; lasts: seconds in
    which it falls to half unless it is confirmed (stress.lasts)."""

    seconds: float = 0.0
    at: float = 0.0
    lasts: float = 30.0

    def took(self, seconds: float, now: float) -> None:
        """Take note of a reply that took so many seconds."""
        if seconds > self.seconds:
            self.seconds += (seconds - self.seconds) * SLOWER
        else:
            self.seconds = max(seconds, self.seconds * 2.0 ** ((self.at - now) / self.lasts))
        self.at = now

    @property
    def limit(self) -> float:
        """Seconds after which a reply is late."""
        return REPLY_FACTOR * self.seconds + REPLY_SLACK


@dataclass(slots=True)
class Server:
    """The server's replies to commands and to mails.

    filter: what mails took, with those that were taken for answered too soon: sessions may be ended
    in error, but nobody is charged before that.
    mail_bytes: so many from the peer may be a mail (evidence.delivered_bytes); useful_rate: bytes a
    second that are progress. measured: whether conntrack counts bytes; None while unknown.
    """

    talk: Latency = field(default_factory=Latency)
    mail: Latency = field(default_factory=Latency)
    filter: Latency = field(default_factory=Latency)
    mail_bytes: int = 1000
    useful_rate: float = 32.0
    measured: bool | None = None
    _newest: list[list[tuple[float, float]]] = field(
        default_factory=lambda: [[(-inf, -inf)] * OTHERS for _ in SIZES]
    )

    def latency(self, asked: int) -> Latency:
        """That of replies to so many bytes."""
        return self.mail if asked >= self.mail_bytes else self.talk

    def took(self, asked: int, seconds: float, now: float) -> None:
        """Take note of a reply to so many bytes."""
        self.latency(asked).took(seconds, now)
        if asked >= self.mail_bytes:
            self.filter.took(seconds, now)

    def is_silent(self, now: float) -> bool:
        """Whether it has answered nobody for longer than it takes."""
        last = max(self.talk.at, self.mail.at)
        return now - last > max(self.talk.limit, self.mail.limit) + STOOD_STILL

    def answered(self, words: int, opened: float, asked: float) -> None:
        """A session that was opened then, and asked then, has its reply to so many bytes since its
        last mail."""
        for newest in self._newest[: self._size(words) + 1]:
            if opened >= newest[0][0]:
                same = [n for n, (known, _) in enumerate(newest) if known == opened]
                newest[same[0] if same else 0] = (opened, asked)
                newest.sort()

    def passed_over(self, words: int, opened: float, asked: float, others: int = OTHERS) -> bool:
        """Whether so many (at most OTHERS) that came later, and asked later, have their reply to as
        much as this."""
        newest = self._newest[self._size(words)][-others:]
        came = opened if words > self.useful_rate else -inf
        return all(each > came and then > asked for each, then in newest)

    def _size(self, words: int) -> int:
        """In bits; all that may be a mail is one size."""
        return words.bit_length() if words < self.mail_bytes else len(self._newest) - 1
