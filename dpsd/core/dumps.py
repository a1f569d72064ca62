"""Dumps: what the kernel's table had as a whole, and so which sessions are gone without a word.

A dump shows the sessions to one port in one IP version (its scope). Half-open connections are only
counted, and for the whole host: their source may be forged, so they are nobody's until the
handshake is proven.
"""

from math import inf

from dpsd.core.session import Session

Scope = tuple[int, int]  # of a dump: port and IP version, 0 for all
EVERYTHING: Scope = (0, 0)


class Dumps:
    """How the last dumps went.

    scope, round: of the dump that runs or was the last; begun: dumps that began, swept: those that
    were complete; whoever reads these two clears them. judged: up to when idle sessions of the
    scope were judged; infinity: not yet.
    """

    def __init__(self) -> None:
        self.scope: Scope = EVERYTHING
        self.round = 0
        self.begun: list[Scope] = []
        self.swept: list[Scope] = []
        self.judged = inf
        self._began = 0.0
        self._losses = 0  # those before the dump that runs
        self._half_open: dict[Scope, int] = {}  # as the last dump of each scope had them
        self._judged: dict[Scope, float] = {}
        self._complete: dict[Scope, tuple[int, float]] = {}  # their round, and when it began

    @property
    def half_open(self) -> int:
        """How many connections were half open when a dump last told."""
        return sum(self._half_open.values())

    def begin(self, scope: Scope, losses: int, now: float) -> None:
        """A dump begins; losses: how often events were lost so far."""
        self.scope, self._began, self._losses = scope, now, losses
        self.judged = self._judged.get(scope, inf)
        self.round += 1
        self.begun.append(scope)
        if scope == EVERYTHING:
            self._half_open.clear()
        else:
            self._half_open.pop(EVERYTHING, None)
        self._half_open[scope] = 0

    def had_half_open(self) -> None:
        """It has one more half-open connection."""
        self._half_open[self.scope] = self._half_open.get(self.scope, 0) + 1

    def end(self, losses: int, now: float) -> None:
        """It was complete."""
        self._judged[self.scope] = self.judged = now
        if losses == self._losses:
            self.swept.append(self.scope)
        self._complete[self.scope] = self.round, self._began

    def skip(self) -> None:
        """Who is idle isn't judged for the time until the next dump."""
        self._judged.clear()
        self.judged = inf

    def lack(self, session: Session, version: int) -> bool:
        """Whether a complete dump should have had this session, and didn't."""
        port = session.port
        for scope in ((port, version), (port, 0), (0, version), EVERYTHING):
            round_, began = self._complete.get(scope, (0, 0.0))
            if session.round < round_ and session.since < began:
                return True
        return False
