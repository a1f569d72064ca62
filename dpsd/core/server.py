"""The server: how it has been answering lately, so that nobody is judged for its slowness."""

from dataclasses import dataclass, field

OWED = 10.0  # seconds that a server may take to answer before the peer's clock goes on
OWED_AT_LEAST = 0.5  # the same, when it answers others at once
HUNG = 120.0  # seconds for which a server that answers nobody is to blame, and not its peers
DROUGHT = 3.0  # seconds without an answer to anybody that count as such even when it is over
SLOWER = 0.3  # weight of an answer that took longer than the pace
FASTER = 30.0  # seconds in which the pace falls to half of it, where answers take less long
SLOWEST = 2.0  # how many times as long as the pace an answer may take
SLOW = 0.5  # seconds; from this pace on a server is slow
VOTES = 10  # other greetings that it takes at most to know that there is a new one
ANSWERED = 2  # times as long as the greeting is what has an answer in it as well


@dataclass(slots=True)
class Pace:
    """Seconds that the slower ones of a server's answers take; at: when the last one came."""

    seconds: float = 0.0
    at: float = 0.0

    def take(self, after: float, now: float) -> None:
        """Take note of an answer that took so many seconds."""
        if after > self.seconds:
            self.seconds += (after - self.seconds) * SLOWER
        else:
            self.seconds = max(after, self.seconds * 2.0 ** ((self.at - now) / FASTER))
        self.at = now


@dataclass(slots=True)
class Greeting:
    """How many bytes a server greets with, 0 while that isn't known.

    Some that seem to be greetings have an answer in them: a short HELO without timestamps doesn't
    show. So the majority decides (Boyer and Moore's vote).
    """

    length: int = 0
    votes: int = 0

    def take(self, length: int) -> None:
        """Take note of what seems to be a greeting."""
        if length == self.length:
            self.votes = min(VOTES, self.votes + 1)
        elif self.votes > 1:
            self.votes -= 1
        else:
            self.length, self.votes = length, 1


@dataclass(slots=True)
class Server:
    """How the server has been answering lately, no matter whom.

    talk: its pace with commands; mails: with sessions that say much, where a slow upload and a
    filter that looks through a mail take their time: that tells nothing of commands. answered_at:
    when it last answered something; spoke_at: when it last said anything, be it a greeting;
    drought: from when until when it last answered no commands.
    """

    talk: Pace = field(default_factory=Pace)
    mails: Pace = field(default_factory=Pace)
    greeting: Greeting = field(default_factory=Greeting)
    answered_at: float = 0.0
    spoke_at: float = 0.0
    drought: tuple[float, float] = (0.0, 0.0)

    def answered(self, after: float, is_mail: bool, now: float) -> None:
        """Take note of an answer that took so many seconds."""
        if not is_mail and now - self.talk.at >= DROUGHT:
            self.drought = self.talk.at, now
        (self.mails if is_mail else self.talk).take(after, now)
        self.answered_at = self.spoke_at = now

    def greeted(self, said: int, to_words: bool, alone: bool, now: float) -> None:
        """Take note of the first that a session heard, so many bytes.

        to_words: the peer has spoken as well, so that an answer may be among them. alone: they are
        the greeting and nothing else.
        """
        if alone:
            self.greeting.take(said)
        if to_words and said >= ANSWERED * self.greeting.length:
            self.answered(0.0, False, now)
        self.spoke_at = now

    def answered_nobody(self, since: float, waiting: float, is_mail: bool) -> bool:
        """Whether it has answered nobody since then, for so many seconds that somebody waits; or
        took long until it did.

        An answer to a mail tells nothing of commands.
        """
        if waiting > HUNG:
            return False
        if is_mail:
            return self.answered_at <= since
        began, over = self.drought
        return self.talk.at <= since or (began <= since and over - since >= DROUGHT)

    def patience(self, since: float, surely: bool = True) -> float:
        """For how many seconds it may owe an answer since then before that can't be its fault.

        surely: the answer is still to come; else it may have come already.
        """
        if self.spoke_at <= since:  # it is silent altogether
            return OWED
        least = OWED_AT_LEAST if surely else 0.0
        return min(OWED, max(least, SLOWEST * self.talk.seconds))
