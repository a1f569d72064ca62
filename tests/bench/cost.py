"""What events cost: the whole daemon and `conntrack -E` in turn on the same load, and what is lost.

The listener has a processor of its own, so has the load. `conntrack -E` gets all events (seven of
a session) and writes them to /dev/null; it can lose many, since 1.4.7 has no working --buffer-size.
So its cost a session is what it spent on each event that it got, times the events of a session.
"""

import re
import signal
import subprocess
import time
from dataclasses import dataclass

from tests.bench import measure
from tests.bench.gateway import Gateway
from tests.bench.traffic import Generator

_DRAIN = 0.7  # seconds in which a listener catches up
_BEAT = 1.3  # seconds within which the daemon's status is up to date


@dataclass(frozen=True)
class Cost:
    """One listener in one round. Costs in microseconds of processor time."""

    rate: float
    session: float
    event: float
    lost: int
    share_lost: float


def idle(gateway: Gateway) -> float:
    """The share of a processor that the daemon takes with nothing to do."""
    with gateway.dpsd("idle") as daemon:
        time.sleep(1.0)
        began, before = time.monotonic(), measure.cpu(daemon.pid)
        time.sleep(4.0)
        return (measure.cpu(daemon.pid) - before) / (time.monotonic() - began)


def rest(gateway: Gateway, seconds: float) -> tuple[float, float]:
    """The share of a processor, and the MiB, of a daemon of this host that nobody connects to."""
    protect = {"ports": [25, 465, 587], "addresses": []}
    with gateway.dpsd("rest", protect=protect) as daemon:
        time.sleep(5.0)
        began, before = time.monotonic(), measure.cpu(daemon.pid)
        time.sleep(seconds)
        share = (measure.cpu(daemon.pid) - before) / (time.monotonic() - began)
        return share, measure.rss(daemon.pid)


def of_dpsd(gateway: Gateway, load: Generator, seconds: float, rate: float, at_rest: float) -> Cost:
    """The daemon, without what it takes at rest."""
    with gateway.dpsd("cost", protect={"slots": 1000}) as daemon:
        measure.keep_apart(daemon.pid)
        time.sleep(_BEAT)
        began, before = time.monotonic(), measure.cpu(daemon.pid)
        sessions, reached = load.run(seconds, rate)
        time.sleep(_DRAIN)
        spent = measure.cpu(daemon.pid) - before - at_rest * (time.monotonic() - began)
        time.sleep(_BEAT)
        dropped = gateway.dropped()
        events = daemon.json("status")["events"]
    lost = max(int(events["lost"]), dropped)
    return Cost(
        rate=reached,
        session=1e6 * spent / sessions,
        event=1e6 * spent / events["received"],
        lost=lost,
        share_lost=dropped / (dropped + events["received"]),
    )


def of_conntrack(gateway: Gateway, load: Generator, seconds: float, rate: float) -> Cost:
    """`conntrack -E`. A dpsd must have loaded its table before, else there are no events."""
    listener = subprocess.Popen(
        gateway.space.command("conntrack", "-E"),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    time.sleep(_DRAIN)
    measure.keep_apart(listener.pid)
    before = measure.cpu(listener.pid)
    sessions, reached = load.run(seconds, rate)
    time.sleep(_DRAIN)
    spent = measure.cpu(listener.pid) - before
    dropped = gateway.dropped()
    listener.send_signal(signal.SIGINT)
    _, said = listener.communicate(timeout=10)
    found = re.search(r"(\d+) flow events", said)
    shown = int(found[1]) if found else 0
    event = 1e6 * spent / shown
    return Cost(
        rate=reached,
        session=event * (shown + dropped) / sessions,
        event=event,
        lost=dropped,
        share_lost=dropped / (dropped + shown),
    )
