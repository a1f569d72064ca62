"""The lab's positions: who sees whom there, what is tried, and the page that is made of it."""

import socket
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path

import pytest

from tests.lab.box import Box
from tests.lab.net import ATTACK4, ATTACK6, MAIL4, MAIL6, Net, source4, source6
from tests.lab.positions import page, picture
from tests.lab.positions.__main__ import PAGE, RESULTS
from tests.lab.positions.haproxy import configuration
from tests.lab.positions.matrix import CASES, JUDGED, Cell, cells, trial
from tests.lab.positions.measured import Measured, compact, line, load, measured
from tests.lab.positions.networks import CONTAINER4, INSIDE, Gateway, Mirror
from tests.lab.positions.position import HOST, POSITIONS, Position
from tests.lab.result import Cut, Mail, Result, Sample
from tests.lab.root import HAPROXY, archive, docker_proxy

PEERS = {4: source4(ATTACK4, 1), 6: source6(ATTACK6, 1)}
TO = {4: str(MAIL4), 6: str(MAIL6)}
SEEN_BY_ALL = {"host", "container", "gateway", "firewall", "bridge", "watch", "uplink"}
"""Where the server sees the peers themselves."""


def cell(position: str, case: str, number: int = 1) -> Cell:
    return Cell(position, case, number)


def test_every_position_on_the_path_goes_through_every_attack() -> None:
    for name, position in POSITIONS.items():
        found = {each.case for each in cells([f"{name}/*/1"])} - {"bare", "peace"}
        whole = position.on_path and not position.like
        assert found == ({*JUDGED} if whole else {"hold"})
    assert {each.position for each in cells(["*/bare/1"])} >= {"host", "container", "gateway"}
    assert {*JUDGED} == {"hold", "drip", "noop", "silent", "churn", "halfclose", "four"}


def test_only_what_is_judged_has_dpsd_and_it_is_told_what_it_must_be() -> None:
    assert trial(cell("gateway", "peace")).dpsd == {}
    assert trial(cell("gateway", "bare")).dpsd is None
    assert trial(cell("gateway", "hold")).dpsd == {}
    told = {name for name, each in POSITIONS.items() if each.dpsd}
    assert told == {"gateway", "firewall", "router", "bridge", "watch", "uplink"}


def test_all_attackers_are_of_both_families() -> None:
    for name in JUDGED:
        attacks = trial(cell("host", name)).attacks
        addresses = [address for attack in attacks for address in attack.addresses()]
        assert len({*addresses}) == 40
        assert sum(":" in each for each in addresses) == 20


def test_haproxy_names_the_peer_where_it_is_asked_to() -> None:
    plain = configuration(CONTAINER4, proxied=False)
    assert configuration(CONTAINER4, proxied=True).replace(" send-proxy", "") == plain
    assert f"bind [{MAIL6}]:25" in plain


@pytest.fixture
def placed(request: pytest.FixtureRequest) -> Iterator[tuple[Net, Position, socket.socket]]:
    """A position's network, with what is in front, and the server's listening socket."""
    position: Position = POSITIONS[request.param]
    if "haproxy" in position.name and not archive(HAPROXY).exists():
        pytest.skip("HAProxy isn't installed: python -m tests.lab.root haproxy")
    if position.name == "relay" and not docker_proxy().exists():
        pytest.skip("docker-proxy isn't there: python -m tests.lab.root docker-proxy")
    with ExitStack() as stack:
        net = stack.enter_context(position.network("p-"))
        with net.server.entered():
            listener = socket.create_server(("::", 25), family=socket.AF_INET6, dualstack_ipv6=True)
        stack.enter_context(listener)
        listener.settimeout(10)
        # Only a namespace whose rules ask for it keeps track of sessions.
        rule = "chain c { type filter hook prerouting priority 0; ct state new counter; }"
        net.box.run("nft", "-f", "-", stdin=f"table inet asked {{\n{rule}\n}}\n")
        if position.front is not None:
            stack.enter_context(position.front(net))
        yield net, position, listener


def session(
    net: Net, listener: socket.socket, version: int
) -> tuple[socket.socket, socket.socket, str]:
    """Both ends of one, and the peer's address as the server sees it."""
    family = socket.AF_INET if version == 4 else socket.AF_INET6
    with net.world.entered():
        client = socket.socket(family)
    client.settimeout(10)
    client.bind((PEERS[version], 0))
    client.connect((TO[version], 25))
    accepted, peer = listener.accept()
    accepted.settimeout(10)
    return client, accepted, str(peer[0]).removeprefix("::ffff:")


@pytest.mark.parametrize("placed", POSITIONS, indirect=True)
@pytest.mark.parametrize("version", [4, 6])
def test_sessions_reach_the_server_and_dpsds_host_keeps_track_of_them(
    placed: tuple[Net, Position, socket.socket], version: int
) -> None:
    net, position, listener = placed
    client, accepted, peer = session(net, listener, version)
    with client, accepted:
        assert (peer == PEERS[version]) == (position.name in SEEN_BY_ALL)
        assert peer in {PEERS[version], *INSIDE}
        client.sendall(b"here\r\n")
        heard = accepted.recv(512)
        while not heard.endswith(b"here\r\n"):
            heard += accepted.recv(512)
        assert heard.startswith(b"PROXY TCP") == (
            position.name in {"haproxy-proxy", "behind-haproxy"}
        )
        accepted.sendall(b"there\r\n")
        assert client.recv(512) == b"there\r\n"
        known = net.box.run("conntrack", "-L", "-f", f"ipv{version}", "-p", "tcp").stdout
        ports = f"sport={client.getsockname()[1]} dport=25"
        lines = [each for each in known.splitlines() if ports in each and PEERS[version] in each]
        # Behind a router or a proxy dpsd sees that one only.
        assert bool(lines) == (position.name not in {"masqueraded", "behind-haproxy"})
        assert all("ESTABLISHED" in each and "[ASSURED]" in each for each in lines)


@pytest.mark.parametrize("placed", ["relay", "haproxy"], indirect=True)
def test_what_is_in_front_hands_on_that_a_peers_session_was_ended(
    placed: tuple[Net, Position, socket.socket],
) -> None:
    net, _, listener = placed
    client, accepted, _ = session(net, listener, 4)
    with client, accepted:
        client.sendall(b"here\r\n")
        assert accepted.recv(512) == b"here\r\n"
        net.public.run("ss", "-K", "src", f"{MAIL4}", "sport", "=", ":25")
        with suppress(ConnectionResetError):  # as HAProxy does it
            assert accepted.recv(512) == b""


@pytest.mark.parametrize("network", [Gateway, Mirror])
def test_what_a_network_takes_it_gives_back(network: type[Net]) -> None:
    for _ in range(2):
        with network("p-") as net:
            assert all(space.path.exists() for space in net.spaces)
        assert not any(space.path.exists() for space in net.spaces)


def made(key: str, delivered: int, **changes: object) -> Measured:
    """A finished run of ten honest mails."""
    position, case, number = key.split("/")
    status = {"pressure": 0.2, "ended": 9, "not_ended": 0, "not_ended_why": {}}
    fresh = Measured(
        position, case, int(number), 4.0, 10, delivered, 1.0, 4, [1.0, 3.0], {}, {}, 100, -1,
        [1, 9, 5, 7, 8], {"dpsd": 0.5}, 4.0, {**status, "open": 5, "server": 6}, 0.01, "a machine",
    )  # fmt: skip
    return replace(fresh, **changes)  # type: ignore[arg-type]


def test_what_is_kept_of_a_run() -> None:
    result = Result(
        "",
        2.0,
        [
            Mail(0.5, "single", "192.0.2.2", True, 0.1, ""),
            Mail(1.5, "single", "192.0.2.3", False, 8, ""),
        ],
        [
            Sample(at, attackers, honest)
            for at, attackers, honest in (
                (-0.5, Counter(), Counter(ESTAB=1)),
                (0.2, Counter({"ESTAB": 5, "SYN-RECV": 2}), Counter(ESTAB=1)),
                (1.2, Counter(ESTAB=3), Counter()),
            )
        ],
        frozenset({"10.99.128.1", "10.99.128.3"}),
        {"10.99.128.1": 1.25, "192.0.2.3": 1.5},
        over=9.0,
        cuts=[Cut(0.5, "single", "192.0.2.2", "mail")],
        box=Box(2.0, {"dpsd": 0.1}, {"pressure": 0.5, "sessions": {"open": 3}}, 4),
        visits=50,
    )
    found = measured(cell("host", "hold"), result, "")
    assert (found.due, found.delivered, found.listings) == (2, 1, [1.2])
    assert (found.start, found.established, found.held) == (-1, [1, 6, 3], 3)
    assert found.told == {"pressure": 0.5, "open": 3, "server": 4}
    assert found.per_session("dpsd") == 2.0
    assert found.per_session("front") is None
    assert found.load("dpsd") == 0.05
    assert found.by_kind == {"hold": [1, 2]}
    assert list(found.wronged) == ["192.0.2.3"]


def test_a_line_of_results_is_read_back_and_a_later_one_replaces_it(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    again, other = made("host/hold/1", 9), made("host/peace/1", 10)
    path.write_text(line(made("host/hold/1", 5)) + line(other) + line(again))
    compact(load(path), [other.cell, again.cell], path)
    assert path.read_text() == line(other) + line(again)


def keyed(*runs: Measured) -> dict[str, Measured]:
    return {run.cell.key: run for run in runs}


def test_the_worst_attack_stands_for_a_position() -> None:
    runs = keyed(
        made("host/hold/1", 10),
        made("host/churn/1", 9, recovery=2.5, listings=[1.0, 1.0, 1.0, 1.0]),
        made("host/four/1", 1, busy=9.0),
        made("host/bare/1", 1, told={}, recovery=None),
        made("watch/hold/1", 5, recovery=None, listings=[]),
    )
    row = "host or DMZ | the server's own host | 90 % | 2.5 s | 50 % | 0 | 18 | 0 | 5.00 ms | 12 %"
    assert page.table(runs).splitlines()[2:] == [f"| {row} |"]
    row = "observation: gets a copy of each frame | 50 % | - | 0 % | 0 | 8 | 9 | 0"
    assert page.off_path(runs).splitlines()[2:] == [f"| {row} |"]
    assert page.mail(runs).splitlines()[2].startswith("| the server's own host | - | 10 % | 100 %")


def test_of_four_attacks_each_kind_is_told() -> None:
    four = {kind: [1, 2] for kind in CASES["four"].kinds} | {"halfclose": [0, 2]}
    runs = keyed(made("host/four/1", 9, by_kind=four), made("relay/four/1", 9))
    row = "| the server's own host | 1 of 2 | 1 of 2 | 1 of 2 | 0 of 2 |"
    assert page.kinds(runs).splitlines()[2:] == [row]


def test_who_was_wronged_is_named() -> None:
    runs = keyed(made("host/hold/1", 9, wronged={"192.0.2.1": "single: blocked.\nWhy: resets"}))
    assert page.wronged(runs) == "- `host/hold/1`: 192.0.2.1, single: blocked. Why: resets"
    assert page.wronged(keyed(made("host/hold/1", 9))) == "None."


def test_the_committed_page_is_made_of_the_committed_results() -> None:
    text = PAGE.read_text("utf-8")
    assert page.render(text, load(RESULTS)) == text


def test_a_picture_is_drawn_from_what_there_is(tmp_path: Path) -> None:
    path = tmp_path / "made.svg"
    picture.draw({}, path)
    assert not path.exists()
    picture.draw(keyed(made("host/hold/1", 10), made("watch/hold/1", 5)), path)
    assert "100 slots" in path.read_text("utf-8")


def test_the_usual_position_is_the_servers_own_host() -> None:
    assert POSITIONS["host"] is HOST
    with HOST.network("p-") as net:
        assert net.box is net.server is net.public is net.mail
