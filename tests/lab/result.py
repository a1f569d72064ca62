"""What a run says: pure arithmetic on labelled records and samples."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from ipaddress import ip_address, ip_network
from math import inf
from statistics import median
from typing import Any

from tests.lab.box import Box
from tests.lab.honest import KINDS

NON_REGULAR = frozenset(
    {"SYN-RECV", "FIN-WAIT-1", "FIN-WAIT-2", "CLOSING", "CLOSE-WAIT", "LAST-ACK", "TIME-WAIT"}
)
"""States of a session that is no longer, or not yet, a session (design 1), as `ss` names them."""

_WINDOW = 3.0
_GOOD = 0.9


@dataclass(frozen=True)
class Sample:
    """The mail server's sessions at one moment, by TCP state."""

    at: float
    """Seconds since the attack began; negative before."""
    attackers: Counter[str]
    honest: Counter[str]

    @property
    def held(self) -> int:
        """Established sessions of attackers."""
        return self.attackers["ESTAB"]

    @property
    def non_regular(self) -> int:
        """Sessions of attackers in a non-regular state."""
        return sum(self.attackers[state] for state in NON_REGULAR)


@dataclass(frozen=True)
class Mail:
    """What became of one honest mail."""

    at: float
    """When it was due: seconds since the attack began; negative before."""
    kind: str
    source: str
    delivered: bool
    seconds: float
    error: str
    late: float = 0.0
    """Seconds by which its sender was late to begin: the machine was too busy."""

    def prompt(self, within: float) -> bool:
        """Whether it was delivered at most `within` seconds later than its sender needs."""
        kind = KINDS[self.kind]
        own = (kind.size / kind.rate if kind.rate else 0.0) + (kind.retry or 0.0)
        return self.delivered and self.seconds <= own + within


@dataclass(frozen=True)
class Cut:
    """An honest sender's session that was reset, or closed without a word, by somebody else."""

    at: float
    """When the sender saw it: seconds since the attack began."""
    kind: str
    source: str
    stage: str
    """As `smtp.Cut` has it: `start`, `mail` or `idle`."""


@dataclass(frozen=True)
class Result:
    """A labelled run. Times are seconds since the attack began."""

    label: str
    seconds: float
    """How long the attack was watched: mails due later don't count."""
    mails: Sequence[Mail]
    samples: Sequence[Sample]
    attackers: frozenset[str]
    """Sources that attacked and may be listed: those that completed a handshake."""
    listed: dict[str, float]
    """Whom the defence shut out, a peer or prefix each, to when: block and black entries of dpsd,
    bans of fail2ban."""
    over: float = inf
    """When the attack was called off: the listings of attackers for how they left don't count."""
    prompt: float = 2.0
    """What a mail may take beyond what its sender needs, in seconds, and still be prompt."""
    transcripts: dict[str, str] = field(default_factory=dict)
    """Command lines and what they printed at the end."""
    cuts: Sequence[Cut] = ()
    judged: frozenset[str] = frozenset()
    """The kinds of sender whose mail says how the attack went, when it isn't all."""
    box: Box | None = None
    """What dpsd's host told and spent, where there is dpsd or something in front."""
    visits: int = 0
    """The attackers' sessions that were opened while the attack was watched."""

    @property
    def counted(self) -> list[Mail]:
        """The honest mails that say how the attack went, those of the peace before included."""
        return [
            mail
            for mail in self.mails
            if mail.at < self.seconds and (not self.judged or mail.kind in self.judged)
        ]

    @property
    def attempted(self) -> int:
        """Honest mails that were due during the attack."""
        return sum(mail.at >= 0 for mail in self.counted)

    @property
    def delivered(self) -> int:
        """Those of them that were delivered."""
        return sum(mail.delivered for mail in self.counted if mail.at >= 0)

    @property
    def share(self) -> float:
        """Delivered of attempted, 0 to 1."""
        return self.delivered / self.attempted if self.attempted else 1.0

    def against(self, peace: "Result") -> float:
        """Delivered as a share of what the same senders (same seed) got delivered in peace."""
        return self.delivered / peace.delivered

    @property
    def lateness(self) -> float:
        """By how much the latest twentieth of honest senders were late at least, in seconds."""
        late = sorted(mail.late for mail in self.mails)
        return late[int(0.95 * (len(late) - 1))] if late else 0.0

    @property
    def cut(self) -> int:
        """Honest sessions that were cut since the attack began."""
        return sum(cut.at >= 0 for cut in self.cuts)

    @property
    def torn(self) -> int:
        """Those of them that were cut in the middle of a mail."""
        return sum(cut.at >= 0 and cut.stage == "mail" for cut in self.cuts)

    def by_kind(self) -> dict[str, tuple[int, int]]:
        """Kind of sender to (delivered, attempted) during the attack."""
        during = [mail for mail in self.mails if 0 <= mail.at < self.seconds]
        tried = Counter(mail.kind for mail in during)
        done = Counter(mail.kind for mail in during if mail.delivered)
        return {kind: (done[kind], tried[kind]) for kind in sorted(tried)}

    @property
    def recovery(self) -> float | None:
        """Seconds until honest mail went through promptly and went on so; None: it never did.

        From then on, in every window of 3 s, at least 90 % of the peaceful share of mails is
        delivered promptly.
        """
        counted = self.counted
        before = [mail.prompt(self.prompt) for mail in counted if mail.at < 0]
        need = _GOOD * (sum(before) / len(before) if before else 1.0)
        recovered: float | None = None
        at = self.seconds - _WINDOW
        while at >= 0:
            due = (mail for mail in counted if at <= mail.at < at + _WINDOW)
            window = [mail.prompt(self.prompt) for mail in due]
            if window and sum(window) < need * len(window):
                break
            recovered = at
            at -= 0.25
        return recovered

    @property
    def blocked(self) -> dict[str, float]:
        """Attackers that were listed while they attacked, to when."""
        return {
            source: min(times)
            for source in self.attackers
            if (times := [at for at in self._listings(source) if at <= self.over])
        }

    @property
    def median_listing(self) -> float | None:
        """Median seconds until an attacker was listed; None when none was."""
        times = self.blocked.values()
        return median(times) if times else None

    @property
    def wronged(self) -> list[str]:
        """Honest peers that were listed. There must be none."""
        return sorted(
            source for source in {mail.source for mail in self.mails} if self._listings(source)
        )

    def _listings(self, source: str) -> list[float]:
        host = ip_address(source)
        return [at for peer, at in self.listed.items() if host in ip_network(peer)]


def listed(entries: Iterable[dict[str, Any]], start: float) -> dict[str, float]:
    """Block and black entries of `dpsd list --json`, to seconds after `start` (Unix time)."""
    return {
        entry["peer"]: datetime.fromisoformat(entry["created_at"]).timestamp() - start
        for entry in entries
        if entry["list"] in {"block", "black"}
    }
