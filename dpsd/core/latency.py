"""Reply latency: how long the server has been taking to answer lately, whomever.

So that nobody is judged for its slowness, and that it isn't blamed for who never finishes what he
says. Commands and mails have a latency each: a mail may go through a content filter.
"""

from dataclasses import dataclass, field

from dpsd.core.numbers import (
    OTHERS,
    REPLY_FACTOR,
    REPLY_SLACK,
    SLOWER,
    STOOD_STILL,
    STRESS_LASTS,
)


@dataclass(slots=True)
class Latency:
    """seconds: what the slower replies lately took; at: when the last one came.

    newest: when the questions were asked that were answered last, the newest of them, oldest first.
    """

    seconds: float = 0.0
    at: float = 0.0
    newest: list[float] = field(default_factory=lambda: [float("-inf")] * OTHERS)

    def took(self, seconds: float, now: float) -> None:
        """Take note of a reply that took so many seconds."""
        if seconds > self.seconds:
            self.seconds += (seconds - self.seconds) * SLOWER
        else:
            self.seconds = max(seconds, self.seconds * 2.0 ** ((self.at - now) / STRESS_LASTS))
        self.at = now
        asked, newest = now - seconds, self.newest
        if asked > newest[0]:
            newest[0] = asked
            newest.sort()

    @property
    def limit(self) -> float:
        """Seconds after which a reply is late."""
        return REPLY_FACTOR * self.seconds + REPLY_SLACK

    def passed_over(self, asked: float) -> bool:
        """Whether as many questions as it takes were asked later than this one, and answered."""
        return self.newest[0] > asked


@dataclass(slots=True)
class Server:
    """The server's replies to commands and to mails.

    mail_bytes: so many from the peer may be a mail (evidence.delivered_bytes); useful_rate: bytes a
    second that are progress. measured: whether conntrack counts bytes; None while unknown.
    """

    talk: Latency = field(default_factory=Latency)
    mail: Latency = field(default_factory=Latency)
    mail_bytes: int = 1000
    useful_rate: float = 32.0
    measured: bool | None = None

    def latency(self, asked: int) -> Latency:
        """That of replies to so many bytes."""
        return self.mail if asked >= self.mail_bytes else self.talk

    def is_silent(self, now: float) -> bool:
        """Whether it has answered nobody for longer than it takes."""
        last = max(self.talk.at, self.mail.at)
        return now - last > max(self.talk.limit, self.mail.limit) + STOOD_STILL
