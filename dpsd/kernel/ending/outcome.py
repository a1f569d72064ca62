"""What became of a session that was to be ended."""

import errno
import os
from enum import Enum, StrEnum
from typing import NamedTuple


class Fate(Enum):
    """ENDED: the server lost it by our doing, and so its slot is free; GONE: it was over already;
    NOT_ENDED: the server still has it, or nobody could tell."""

    ENDED = "ended"
    GONE = "gone"
    NOT_ENDED = "not ended"


class Why(StrEnum):
    """Why a session wasn't ended, by the name that `dpsd status --json` and the metrics use."""

    NOT_PERMITTED = "not_permitted"
    UNSUPPORTED = "unsupported"
    NO_RULE = "no_rule"
    NO_ROUTE = "no_route"
    NO_ANSWER = "no_answer"
    STAYS = "stays"
    LOW_PORT = "low_port"
    PORT_IN_USE = "port_in_use"
    REFUSED = "refused"


WORDS = {
    Why.NOT_PERMITTED: "this user may not: run as root, or with CAP_NET_ADMIN",
    Why.UNSUPPORTED: "this kernel can't: it lacks CONFIG_INET_DIAG_DESTROY",
    Why.NO_RULE: "table inet dpsd_ending can't be loaded",
    Why.NO_ROUTE: "there is no route to the server",
    Why.NO_ANSWER: "the server's host doesn't answer: it is down, or a firewall is between",
    Why.STAYS: "the server keeps the session: a firewall between drops the reset",
    Why.LOW_PORT: "the peer's port is below 1024: that needs CAP_NET_BIND_SERVICE",
    Why.PORT_IN_USE: "a socket of this host has the peer's address and port",
    Why.REFUSED: "the kernel refused",
}
"""The same in words for an administrator."""


class Outcome(NamedTuple):
    """The fate of one session; why: only if it wasn't ended; detail: the kernel's words, or why the
    entry of one that is over couldn't be deleted.
    """

    fate: Fate
    why: Why | None = None
    detail: str = ""


ENDED, GONE = Outcome(Fate.ENDED), Outcome(Fate.GONE)

_BY_ERRNO = {
    errno.EPERM: Why.NOT_PERMITTED,
    errno.EACCES: Why.NOT_PERMITTED,
    errno.EOPNOTSUPP: Why.UNSUPPORTED,
    errno.ENETUNREACH: Why.NO_ROUTE,
    errno.EHOSTUNREACH: Why.NO_ROUTE,
    errno.EADDRINUSE: Why.PORT_IN_USE,
    errno.EADDRNOTAVAIL: Why.PORT_IN_USE,
}


def not_ended(failure: int) -> Outcome:
    """What an errno of the kernel's means for a session that was to be ended."""
    return Outcome(Fate.NOT_ENDED, _BY_ERRNO.get(failure, Why.REFUSED), os.strerror(failure))
