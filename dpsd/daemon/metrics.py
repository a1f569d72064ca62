"""The daemon's metrics for Prometheus: the snapshot that `dpsd status` shows, under other names.

The loop hands each snapshot over and never waits; a scrape reads the last one in a thread.
"""

import logging
import time
from collections.abc import Iterator, Mapping
from typing import Any

from prometheus_client import CollectorRegistry, ProcessCollector, make_wsgi_app
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from dpsd import __version__
from dpsd.config import Config
from dpsd.daemon.endpoint import Endpoint
from dpsd.kernel.ending.outcome import Why

log = logging.getLogger("dpsd")

# Of which there are metrics also when there is nothing of them.
_STATES = ("SYN_RECV", "ESTABLISHED", "FIN_WAIT", "CLOSE_WAIT", "LAST_ACK")
_LEAKING = ("FIN_WAIT", "CLOSE_WAIT", "LAST_ACK")


class Snapshot(Collector):
    """How things stood when the daemon told it last. Nothing comes of it before the first time."""

    def __init__(self) -> None:
        self._told: tuple[float, str, Mapping[str, Any]] | None = None

    def tell(self, at: float, mode: str, status: Mapping[str, Any]) -> None:
        """Show this from now on: the wall clock's time, "enforce" or "observe", and the status."""
        self._told = at, mode, status  # one reference, so a scrape sees the old one or the new one

    def collect(self) -> Iterator[Metric]:
        """The metrics of the last snapshot."""
        build = GaugeMetricFamily("dpsd_build_info", "Always 1.", labels=["version"])
        build.add_metric([__version__], 1)
        yield build
        if self._told is not None:
            yield from _gauges(*self._told)
            yield from _counters(self._told[2])


def _gauges(at: float, mode: str, status: Mapping[str, Any]) -> Iterator[Metric]:
    sessions = {**dict.fromkeys(_STATES, 0), **status["sessions"]["by_state"]}
    yield GaugeMetricFamily(
        "dpsd_snapshot_timestamp_seconds",
        "When the daemon's loop told what the other metrics say; it does so each second.",
        at,
    )
    yield GaugeMetricFamily(
        "dpsd_enforcing", "1 when listed peers are dropped, 0 in observe mode.", mode == "enforce"
    )
    yield GaugeMetricFamily(
        "dpsd_blind", "1 while events are missing, so that nobody is judged.", status["blind"]
    )
    yield GaugeMetricFamily(
        "dpsd_accounting",
        "1 while conntrack counts bytes, without which talk isn't told from mail.",
        status["accounting"],
    )
    yield GaugeMetricFamily(
        "dpsd_pressure_ratio",
        "Sessions that keep one of the mail server's slots busy, as a share of the slots.",
        status["pressure"],
    )
    yield GaugeMetricFamily(
        "dpsd_slot_price_bytes_per_second",
        "What a session has to say in each second of its own turn to keep its slot; 0 at rest.",
        status["price"],
    )
    yield _by("dpsd_sessions", "Sessions by state of conntrack's.", "state", sessions)
    yield GaugeMetricFamily("dpsd_peers", "Peers with something to remember.", status["peers"])
    yield _by("dpsd_list_entries", "Entries in force.", "list", status["lists"])


def _counters(status: Mapping[str, Any]) -> Iterator[Metric]:
    events, dropped = status["events"], status["dropped"]
    leaks = {**dict.fromkeys(_LEAKING, 0), **status["server_leaks"]}
    for name, about, value in (
        ("events_received", "Events that conntrack told.", events["received"]),
        ("events_lost", "How often conntrack had to drop events.", events["lost"]),
        ("events_skipped", "Messages of conntrack's that made no sense.", events["skipped"]),
        ("sessions_ended", "Sessions that the server lost: to make room, or their peer was listed.",
         status["ended"]),
        ("deferrals", "How often a peer had to wait with new sessions for some seconds.",
         status["deferred"]["times"]),
        ("deferred_packets", "Packets of deferred peers dropped since the table was loaded.",
         status["deferred"]["packets"]),
        ("table_repairs", "How often the nftables table was loaded again.", status["repairs"]),
        ("dropped_packets", "Packets of listed peers dropped since the table was loaded.",
         dropped["packets"]),
        ("dropped_bytes", "The bytes of these packets.", dropped["bytes"]),
    ):  # fmt: skip
        yield CounterMetricFamily(f"dpsd_{name}", about, value)
    verdicts = CounterMetricFamily(
        "dpsd_verdicts", "Entries made by the score, not by people.", labels=["list"]
    )
    yield _filled(verdicts, status["verdicts"])
    kept = CounterMetricFamily(
        "dpsd_sessions_not_ended",
        "Attempts to end a session that failed, so that it keeps its slot.",
        labels=["why"],
    )
    yield _filled(kept, {**dict.fromkeys(Why, 0), **status["not_ended_why"]})
    leaking = CounterMetricFamily(
        "dpsd_server_leak_seconds",
        "Slot-seconds that sessions cost which the mail server itself didn't close.",
        labels=["state"],
    )
    yield _filled(leaking, leaks)


def _by(name: str, about: str, label: str, values: Mapping[str, float]) -> Metric:
    return _filled(GaugeMetricFamily(name, about, labels=[label]), values)


def _filled(family: GaugeMetricFamily | CounterMetricFamily, values: Mapping[str, float]) -> Metric:
    for name, value in values.items():
        family.add_metric([name], value)
    return family


class Metrics:
    """Serves the snapshot, if the configuration says where. Without it, protection goes on."""

    def __init__(self, config: Config) -> None:
        self._config = config.metrics
        self._snapshot = Snapshot()
        self._endpoint: Endpoint | None = None

    def open(self) -> None:
        """Serve it from now on; if that is impossible, it is logged."""
        address, listen = self._config.address, self._config.listen
        if address is None:
            return
        registry = CollectorRegistry()
        registry.register(self._snapshot)
        ProcessCollector(registry=registry)
        try:
            self._endpoint = Endpoint(address, make_wsgi_app(registry))
        except (OSError, RuntimeError) as error:  # RuntimeError: no thread is to be had
            why = getattr(error, "strerror", None) or error
            log.error(
                "metrics.listen: %s can't be used: %s;"
                " dpsd goes on without metrics until it is restarted", listen, why
            )  # fmt: skip
        else:
            log.info("metrics at %s", listen)

    def tell(self, mode: str, status: Mapping[str, Any]) -> None:
        """Show this from now on."""
        self._snapshot.tell(time.time(), mode, status)

    def close(self) -> None:
        """Serve it no more. Takes seconds if somebody is being answered: not for the loop."""
        if self._endpoint is not None:
            self._endpoint.close()
            self._endpoint = None
