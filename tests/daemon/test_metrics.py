"""The metrics: what they are made of, who gets them, and that nothing depends on them."""

import http.client
import json
import re
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from dpsd import __version__
from dpsd.config.kinds import Address
from dpsd.daemon.endpoint import Endpoint
from dpsd.daemon.metrics import Snapshot
from dpsd.kernel.ending.outcome import Why
from tests.daemon.conftest import Make
from tests.daemon.live import CONTROL, MailHost, ended, eventually
from tests.lab.net import Namespace

ROOT = Path(__file__).parents[2]
DASHBOARD = ROOT / "docs" / "grafana" / "dpsd.json"
PORT = 9975
STATUS: dict[str, Any] = {
    "pressure": 0.75,
    "price": 64.0,
    "blind": False,
    "accounting": True,
    "events": {"received": 5000, "lost": 1, "skipped": 2},
    "sessions": {"open": 80, "half_open": 4, "by_state": {"SYN_RECV": 4, "ESTABLISHED": 80}},
    "peers": 90,
    "lists": {"white": 2, "black": 1, "block": 30},
    "verdicts": {"black": 1, "block": 31},
    "ended": 60,
    "deferred": {"times": 12, "packets": 34},
    "not_ended_why": {"no_answer": 3},
    "dropped": {"packets": 700, "bytes": 42000},
    "server_leaks": {"CLOSE_WAIT": 33},
    "repairs": 1,
}
HELD: dict[str, Any] = {
    "policy": {"block_at": 20},
    "evidence": {"churn_rate": 1, "churn_burst": 5, "churn_cost": 10},
}
Samples = dict[str, float]


def samples(text: str) -> Samples:
    """The values of an answer by name and labels, as they stand in it."""
    found = {}
    for family in text_string_to_metric_families(text):  # type: ignore[no-untyped-call]
        for name, labels, value, *_ in family.samples:
            told = ",".join(f"{key}={each}" for key, each in labels.items())
            found[f"{name}{{{told}}}" if told else name] = value
    return found


def collected(snapshot: Snapshot) -> Samples:
    registry = CollectorRegistry()
    registry.register(snapshot)
    return samples(generate_latest(registry).decode())


def full() -> Samples:
    snapshot = Snapshot()
    snapshot.tell(1_800_000_000.5, "enforce", STATUS)
    return collected(snapshot)


# What they are made of


def test_a_snapshot_as_metrics() -> None:
    assert full() == {
        f"dpsd_build_info{{version={__version__}}}": 1,
        "dpsd_snapshot_timestamp_seconds": 1_800_000_000.5,
        "dpsd_enforcing": 1,
        "dpsd_blind": 0,
        "dpsd_accounting": 1,
        "dpsd_pressure_ratio": 0.75,
        "dpsd_slot_price_bytes_per_second": 64,
        "dpsd_sessions{state=SYN_RECV}": 4,
        "dpsd_sessions{state=ESTABLISHED}": 80,
        "dpsd_sessions{state=FIN_WAIT}": 0,
        "dpsd_sessions{state=CLOSE_WAIT}": 0,
        "dpsd_sessions{state=LAST_ACK}": 0,
        "dpsd_peers": 90,
        "dpsd_list_entries{list=white}": 2,
        "dpsd_list_entries{list=black}": 1,
        "dpsd_list_entries{list=block}": 30,
        "dpsd_events_received_total": 5000,
        "dpsd_events_lost_total": 1,
        "dpsd_events_skipped_total": 2,
        "dpsd_sessions_ended_total": 60,
        "dpsd_deferrals_total": 12,
        "dpsd_deferred_packets_total": 34,
        **{f"dpsd_sessions_not_ended_total{{why={why}}}": 0 for why in Why},
        "dpsd_sessions_not_ended_total{why=no_answer}": 3,
        "dpsd_table_repairs_total": 1,
        "dpsd_dropped_packets_total": 700,
        "dpsd_dropped_bytes_total": 42000,
        "dpsd_verdicts_total{list=black}": 1,
        "dpsd_verdicts_total{list=block}": 31,
        "dpsd_server_leak_seconds_total{state=FIN_WAIT}": 0,
        "dpsd_server_leak_seconds_total{state=CLOSE_WAIT}": 33,
        "dpsd_server_leak_seconds_total{state=LAST_ACK}": 0,
    }


def test_before_the_first_snapshot_nothing_is_made_up() -> None:
    assert collected(Snapshot()) == {f"dpsd_build_info{{version={__version__}}}": 1}


def test_observing_is_seen() -> None:
    snapshot = Snapshot()
    snapshot.tell(1.0, "observe", STATUS | {"blind": True})
    found = collected(snapshot)
    assert (found["dpsd_enforcing"], found["dpsd_blind"]) == (0, 1)


def test_the_dashboard_and_the_documentation_name_metrics_that_exist() -> None:
    board = json.loads(DASHBOARD.read_text(encoding="utf-8"))
    exprs = [target["expr"] for panel in board["panels"] for target in panel.get("targets", ())]
    page = (ROOT / "docs" / "metrics.md").read_text(encoding="utf-8")
    known = {name.partition("{")[0] for name in full()}
    shown = {name for expr in exprs for name in re.findall(r"\bdpsd_\w+", expr)}
    assert len(exprs) >= 8
    assert shown <= known
    assert set(re.findall(r"\bdpsd_\w+", page)) == known


# Who gets them


class Client(http.client.HTTPConnection):
    """Asks over a Unix socket, or in a network namespace."""

    def __init__(self, address: Address, space: Namespace | None = None) -> None:
        super().__init__("localhost", timeout=10)
        self._address, self._space = address, space

    def connect(self) -> None:
        family = socket.AF_UNIX if isinstance(self._address, Path) else socket.AF_INET
        if family == socket.AF_INET and ":" in str(self._address[0]):  # type: ignore[index]
            family = socket.AF_INET6
        if self._space is None:
            self.sock = socket.socket(family)
        else:
            with self._space.entered():
                self.sock = socket.socket(family)
        self.sock.settimeout(10)
        self.sock.connect(str(self._address) if isinstance(self._address, Path) else self._address)

    def get(self, path: str = "/metrics") -> str:
        self.request("GET", path)
        answer = self.getresponse()
        text = answer.read().decode()
        assert answer.status == 200, text
        return text


def scraped(address: Address, space: Namespace | None = None) -> Samples:
    client = Client(address, space)
    try:
        return samples(client.get())
    finally:
        client.close()


def hello(_: object, start: Callable[..., object]) -> list[bytes]:
    start("200 OK", [("Content-Type", "text/plain")])
    return [b"hello"]


@pytest.fixture
def endpoint(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "socket"
    made = Endpoint(path, hello)
    yield path
    made.close()
    assert not path.exists()


def test_a_unix_socket_is_for_user_and_group(endpoint: Path) -> None:
    assert endpoint.stat().st_mode & 0o777 == 0o660
    assert Client(endpoint).get() == "hello"


def test_a_silent_client_holds_up_nobody_for_long(endpoint: Path) -> None:
    with socket.socket(socket.AF_UNIX) as silent, socket.socket(socket.AF_UNIX) as gone:
        silent.connect(str(endpoint))
        gone.connect(str(endpoint))
        gone.send(b"GET / HTTP/1.0\r\n\r\n")
        gone.close()
        assert Client(endpoint).get() == "hello"


def test_a_socket_in_use_is_left_alone(endpoint: Path) -> None:
    with pytest.raises(OSError, match="in use"):
        Endpoint(endpoint, hello)
    assert Client(endpoint).get() == "hello"


def test_a_socket_that_a_crash_left_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    with socket.socket(socket.AF_UNIX) as crashed:
        crashed.bind(str(path))
    made = Endpoint(path, hello)
    assert Client(path).get() == "hello"
    made.close()


def test_a_file_in_the_place_of_the_socket_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("precious")
    with pytest.raises(FileExistsError, match="no socket"):
        Endpoint(path, hello)
    assert path.read_text() == "precious"


# With the daemon


@pytest.mark.parametrize("where", ["127.0.0.1", "::1", "unix"])
def test_the_daemon_tells_what_status_tells(make: Make, host: MailHost, where: str) -> None:
    daemon = make()
    path = daemon.directory / "metrics.sock"
    address: Address = path if where == "unix" else (where, PORT)
    listen = {"unix": f"unix:{path}", "::1": f"[::1]:{PORT}"}.get(where, f"{where}:{PORT}")
    daemon.configure(**HELD, metrics={"listen": listen})
    daemon.start()
    daemon.cli("block", "10.99.150.0/24", "--for", "1h", check=True)
    daemon.cli("allow", CONTROL[4], check=True)  # which is tried beside each peer
    peer = "10.99.151.1"
    held = host.session(peer)
    assert eventually(lambda: host.drops(peer))  # each look is a session of no use
    assert ended(held)
    space = host.net.mail

    def settled() -> bool:
        found = scraped(address, space)
        return bool(
            found["dpsd_list_entries{list=block}"] == 2 and found["dpsd_dropped_packets_total"]
        )

    assert eventually(settled, 20)
    before = scraped(address, space)
    status = daemon.json("status")
    after = scraped(address, space)
    for name, told in (
        ("dpsd_events_received_total", status["events"]["received"]),
        ("dpsd_sessions_ended_total", status["ended"]),
        ("dpsd_dropped_packets_total", status["dropped"]["packets"]),
        ("dpsd_dropped_bytes_total", status["dropped"]["bytes"]),
    ):
        assert before[name] <= told, name
        assert told <= after[name], name
    assert after["dpsd_snapshot_timestamp_seconds"] <= time.time()
    assert after["dpsd_verdicts_total{list=block}"] == 1
    assert after["dpsd_sessions_ended_total"] >= 1
    assert after["dpsd_list_entries{list=white}"] == status["lists"]["white"]
    assert after["dpsd_enforcing"] == 1
    assert after["process_resident_memory_bytes"] > 1_000_000
    # Every metric that a snapshot makes is there, and so the daemon tells all of it.
    assert {name.partition("{")[0] for name in full()} <= {n.partition("{")[0] for n in after}
    daemon.stop()
    assert not path.exists()


def test_nobody_else_gets_them(make: Make, host: MailHost) -> None:
    daemon = make()
    daemon.configure(metrics={"listen": f"127.0.0.1:{PORT}"})
    daemon.start()
    assert scraped(("127.0.0.1", PORT), host.net.mail)
    told = host.net.mail.run("ss", "-Htln", f"sport = :{PORT}").stdout.split()
    assert told[3] == f"127.0.0.1:{PORT}"


def test_without_the_key_nothing_listens(make: Make, host: MailHost) -> None:
    daemon = make()
    daemon.start()
    listening = host.net.mail.run("ss", "-Hlptx").stdout.splitlines()
    mine = [line.split()[0] for line in listening if f"pid={daemon.pid}," in line]
    assert mine == ["u_seq"]  # the claim of the table, which says nothing


def test_a_taken_port_stops_nothing(make: Make, host: MailHost) -> None:
    with host.net.mail.entered():
        taken = socket.create_server(("127.0.0.1", PORT))
    with taken:
        daemon = make()
        daemon.configure(metrics={"listen": f"127.0.0.1:{PORT}"})
        daemon.start()
        assert f"metrics.listen: 127.0.0.1:{PORT} can't be used: Address already in use" in (
            daemon.tail()
        )
        daemon.cli("block", "10.99.152.1", "--for", "1h", check=True)
        assert host.drops("10.99.152.1")
        assert daemon.stop() == 0


def test_a_place_without_a_folder_stops_nothing(make: Make) -> None:
    daemon = make()
    daemon.configure(metrics={"listen": f"unix:{daemon.directory}/none/metrics.sock"})
    daemon.start()
    assert "metrics.sock can't be used: No such file or directory" in daemon.tail()


def test_clients_that_say_nothing_delay_neither_events_nor_the_end(
    make: Make, host: MailHost
) -> None:
    daemon = make()
    path = daemon.directory / "metrics.sock"
    daemon.configure(metrics={"listen": f"unix:{path}"})
    daemon.start()
    silent = [socket.socket(socket.AF_UNIX) for _ in range(5)]
    for client in silent:
        client.connect(str(path))
    daemon.cli("block", "10.99.153.1", "--for", "1h", check=True)
    assert host.drops("10.99.153.1")
    assert daemon.stop() == 0
    for client in silent:
        client.close()
