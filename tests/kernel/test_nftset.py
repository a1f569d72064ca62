"""The table on the real kernel, proved by connections that get through or don't."""

import fcntl
import os
import select
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from ipaddress import IPv4Network
from pathlib import Path
from typing import Any

import pytest

from dpsd.core.lists import Change, Drop, Element, ListName, Put
from dpsd.core.peers import Network, PeerSize, parse_network
from dpsd.errors import KernelError, NotPermitted
from dpsd.kernel.nftset import SIZES, Table, TableSpec, Watch, deferral, render, ruleset, wire
from dpsd.kernel.nftset.table import TOLERANCE
from dpsd.paths import shipped
from tests.kernel.netns import MailHost, connect, established, eventually, inside, run

WHITE, BLACK, BLOCK = ListName.WHITE, ListName.BLACK, ListName.BLOCK
SPEC = TableSpec(ports=(25, 465, 587))
PEER4, PEER6 = "10.99.0.1", "2001:db8:99:1::1"


def net(text: str) -> Network:
    """A peer by its address, any other network by its prefix."""
    return PeerSize().parse(text) if "/" not in text else parse_network(text)


def until(seconds: float | None) -> float | None:
    return None if seconds is None else time.time() + seconds


def elements(listed: Mapping[tuple[ListName, str], float | None]) -> dict[Element, float | None]:
    """Elements by their text, with the seconds that they stay."""
    return {(name, net(text)): until(seconds) for (name, text), seconds in listed.items()}


class Kernel:
    """A loaded table, changed in the words of the tests."""

    def __init__(self, spec: TableSpec = SPEC) -> None:
        self.table = Table(spec)
        self.load({})

    def load(self, listed: Mapping[tuple[ListName, str], float | None]) -> None:
        self.table.load(elements(listed), time.time())

    def put(self, name: ListName, peer: str, seconds: float | None = 60) -> None:
        self.apply(Put(name, net(peer), until(seconds)))

    def drop(self, name: ListName, peer: str) -> None:
        self.apply(Drop(name, net(peer)))

    def apply(self, *changes: Change) -> None:
        self.table.apply(changes, time.time())

    def left(self, set_name: str) -> dict[str, float | None]:
        """What a set holds, with the seconds left."""
        now = time.time()
        sets = self.table.read(now)
        assert sets is not None
        return {str(n): None if at is None else at - now for n, at in sets[set_name].items()}

    def differences(self, listed: Mapping[tuple[ListName, str], float | None]) -> list[str]:
        return sorted(self.table.differences(elements(listed), time.time()))


@contextmanager
def loaded(spec: TableSpec = SPEC) -> Iterator[Kernel]:
    kernel = Kernel(spec)
    try:
        yield kernel
    finally:
        kernel.table.close()


@pytest.fixture
def kernel(namespace: int) -> Iterator[Kernel]:
    assert namespace
    with loaded() as kernel:
        yield kernel


@pytest.fixture
def guarded(mail_host: MailHost) -> Iterator[tuple[Kernel, MailHost]]:
    with loaded() as kernel:
        yield kernel, mail_host


Guarded = tuple[Kernel, MailHost]


# The ruleset


def test_shipped_file_is_the_default_ruleset() -> None:
    assert render(SPEC) == shipped("etc/dpsd.nft").read_text()


def test_shipped_file_loads_by_hand_again_and_again(namespace: int) -> None:
    assert namespace
    for _ in range(2):
        run(f"nft -f {shipped('etc/dpsd.nft')}")
    assert run("nft list chain inet dpsd refuse").count("drop") == 1


@pytest.mark.parametrize(
    "spec",
    [
        TableSpec(ports=(25,)),
        TableSpec(ports=(587, 25, 25), observe=True, all_ports=True),
        TableSpec(ports=(25,), size=PeerSize(24, 48), timeouts={"established": 600}),
        TableSpec(ports=(25,), addresses=tuple(map(net, ("10.0.0.0/8", "10.1.0.0/16", "::1/128")))),
    ],
)
@pytest.mark.usefixtures("namespace")
def test_every_variant_loads_more_than_once(spec: TableSpec) -> None:
    with loaded(spec) as kernel:
        kernel.load({(BLOCK, "10.99.0.0/24"): 60, (BLOCK, "2001:db8::/48"): None})
        assert (
            kernel.differences({(BLOCK, "10.99.0.0/24"): 60, (BLOCK, "2001:db8::/48"): None}) == []
        )


def test_a_ruleset_of_another_version_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    other = shipped("etc/dpsd.nft").read_text().replace("define traffic", "define trafic")
    monkeypatch.setattr("dpsd.kernel.nftset.ruleset._shipped_ruleset", lambda: other)
    with pytest.raises(KernelError, match="reinstall"):
        render(SPEC)


# Hosts


@pytest.mark.parametrize("peer", [PEER4, PEER6])
def test_a_blocked_peer_is_refused_until_it_is_unblocked(guarded: Guarded, peer: str) -> None:
    kernel, host = guarded
    assert host.reached(peer)
    kernel.put(BLOCK, peer)
    assert not host.reached(peer)
    assert host.reached(peer, port=80)
    kernel.drop(BLOCK, peer)
    assert host.reached(peer)


@pytest.mark.parametrize("peer", [PEER4, PEER6])
def test_the_kernel_unblocks_by_itself(guarded: Guarded, peer: str) -> None:
    kernel, host = guarded
    kernel.put(BLOCK, peer, 1)
    assert not host.reached(peer)
    assert eventually(lambda: host.reached(peer))
    assert kernel.differences({}) == []


@pytest.mark.parametrize(("first", "then"), [(60, 7200), (7200, 60), (None, 60), (60, None)])
def test_a_block_takes_its_new_time(
    kernel: Kernel, first: float | None, then: float | None
) -> None:
    for peer in (PEER4, "10.0.0.0/16"):
        kernel.put(BLOCK, peer, first)
        kernel.put(BLOCK, peer, then)
    for name in ("block4", "block4_nets"):
        (left,) = kernel.left(name).values()
        assert left == (None if then is None else pytest.approx(then, abs=1))


def test_a_shortened_block_ends_early(guarded: Guarded) -> None:
    kernel, host = guarded
    kernel.put(BLOCK, PEER4, 7200)
    kernel.put(BLOCK, PEER4, 0.5)
    assert not host.reached(PEER4)
    assert eventually(lambda: host.reached(PEER4))


def test_white_goes_before_black_before_block(guarded: Guarded) -> None:
    kernel, host = guarded
    kernel.put(BLACK, PEER4, None)
    kernel.put(BLOCK, PEER4)
    kernel.put(WHITE, PEER4, None)
    assert host.reached(PEER4)
    kernel.drop(WHITE, PEER4)
    assert not host.reached(PEER4)
    counters = kernel.table.counters()
    assert counters[BLACK][net(PEER4)] > 0
    assert counters[BLOCK][net(PEER4)] == 0


def test_a_white_prefix_saves_a_blocked_host(guarded: Guarded) -> None:
    kernel, host = guarded
    kernel.put(BLOCK, PEER4)
    kernel.put(BLOCK, PEER6)
    kernel.put(WHITE, "10.99.0.0/16", None)
    kernel.put(WHITE, "2001:db8:99::/48", None)
    assert host.reached(PEER4)
    assert host.reached(PEER6)


def test_an_ipv6_peer_is_a_whole_64(guarded: Guarded) -> None:
    kernel, host = guarded
    kernel.put(BLOCK, "2001:db8:99:1::1")
    assert not host.reached("2001:db8:99:1::1")
    assert not host.reached("2001:db8:99:1:ffff::2")
    assert host.reached("2001:db8:99:2::1")


def test_the_peer_size_is_configurable(mail_host: MailHost) -> None:
    with loaded(TableSpec(ports=(25,), size=PeerSize(24, 56))) as kernel:
        kernel.apply(
            Put(BLOCK, net("10.99.0.0/24"), None), Put(BLOCK, net("2001:db8:99::/56"), None)
        )
        assert len(kernel.left("block4")) == len(kernel.left("block6")) == 1
        assert not mail_host.reached("10.99.0.77")
        assert mail_host.reached("10.99.1.77")
        assert not mail_host.reached("2001:db8:99:ff::1")
        assert mail_host.reached("2001:db8:99:100::1")


def test_dropping_what_is_not_there_is_no_error(kernel: Kernel) -> None:
    for peer in (PEER4, PEER6, "10.0.0.0/8", "2001:db8::/32"):
        kernel.drop(BLOCK, peer)
    assert kernel.differences({}) == []


def test_of_several_changes_the_last_counts(kernel: Kernel) -> None:
    kernel.apply(Put(BLOCK, net(PEER4), until(60)), Drop(BLOCK, net(PEER4)))
    kernel.apply(Drop(BLOCK, net(PEER6)), Put(BLOCK, net(PEER6), until(60)))
    kernel.apply(Put(BLOCK, net("10.0.0.0/8"), until(-5)))
    kernel.apply()
    assert kernel.differences({(BLOCK, PEER6): 60}) == []


def test_times_of_years_and_of_milliseconds(kernel: Kernel) -> None:
    years = {(BLOCK, PEER4): 20 * 365 * 86400.5, (BLOCK, "10.0.0.0/8"): 20 * 365 * 86400.5}
    kernel.load(years)
    assert kernel.differences(years) == []
    kernel.put(BLOCK, PEER4, 0.0001)
    kernel.put(BLOCK, "10.0.0.0/8", 0.0001)
    assert eventually(lambda: kernel.left("block4") == kernel.left("block4_nets") == {})


# Prefixes


def test_overlapping_prefixes_each_last_as_long_as_they_should(guarded: Guarded) -> None:
    kernel, host = guarded
    kernel.put(BLOCK, "10.99.0.0/16", 3600)
    kernel.put(BLOCK, "10.99.1.0/24", 7200)
    kernel.put(BLOCK, "10.99.2.0/24", 60)
    assert not host.reached("10.99.1.1")
    assert not host.reached("10.99.2.1")
    kernel.drop(BLOCK, "10.99.0.0/16")
    assert not host.reached("10.99.1.1")
    assert not host.reached("10.99.2.1")
    assert host.reached("10.99.3.1")


def test_a_prefix_expires_around_one_that_stays(guarded: Guarded) -> None:
    kernel, host = guarded
    kernel.put(BLOCK, "10.99.0.0/16", 1)
    kernel.put(BLOCK, "10.99.1.0/24", 60)
    assert not host.reached("10.99.3.1")
    assert eventually(lambda: host.reached("10.99.3.1"))
    assert not host.reached("10.99.1.1")
    end = time.monotonic() + 2.5
    while time.monotonic() < end:  # the kernel collects what expired when something changes
        kernel.put(BLOCK, PEER6)
    assert not host.reached("10.99.1.1")
    assert host.reached("10.99.2.1")
    kernel.put(BLOCK, "10.99.0.0/17", 60)
    assert host.reached("10.99.128.1")
    kernel.drop(BLOCK, PEER6)
    assert kernel.differences({(BLOCK, "10.99.1.0/24"): 60, (BLOCK, "10.99.0.0/17"): 60}) == []


def test_a_part_of_an_ipv6_peer(guarded: Guarded) -> None:
    kernel, host = guarded
    kernel.put(BLOCK, "2001:db8:99:1::1/128")
    assert not host.reached("2001:db8:99:1::1")
    assert host.reached("2001:db8:99:1::2")


def test_prefixes_are_read_back_as_they_were_put(kernel: Kernel) -> None:
    listed: dict[tuple[ListName, str], float | None] = {
        (name, prefix): seconds
        for name in ListName
        for prefix, seconds in {
            "10.0.0.0/9": 60.0,
            "10.128.0.0/9": None,  # the next one begins where the last one ends
            "255.0.0.0/8": 70.0,  # to the end of the address space
            "2001:db8::/32": 80.0,
            "ff00::/8": None,
            "2001:db9::1/128": 90.0,
        }.items()
    }
    kernel.load(listed)
    assert kernel.differences(listed) == []
    assert kernel.left("block4_nets").keys() == {"10.0.0.0/9", "10.128.0.0/9", "255.0.0.0/8"}
    assert kernel.left("block6_nets")["ff00::/8"] is None


def test_hosts_and_prefixes_in_one_transaction(guarded: Guarded) -> None:
    kernel, host = guarded
    kernel.put(BLOCK, PEER6, 3600)
    kernel.apply(
        Put(BLOCK, net("10.99.1.0/24"), until(60)),
        Put(BLOCK, net(PEER4), until(60)),
        Drop(BLOCK, net(PEER6)),
    )
    assert not host.reached("10.99.1.5")
    assert not host.reached(PEER4)
    assert host.reached(PEER6)


# Deferral


def defer(kernel: Kernel, *peers: str, seconds: float = 60) -> int:
    return kernel.table.defer({net(peer): seconds for peer in peers})


def deferred(set_name: str) -> int:
    """How many a set has, as nft tells."""
    return run(f"nft list set inet dpsd {set_name}").count("expires")


@contextmanager
def held_up(kernel: Kernel, host: MailHost, peer: str) -> Iterator[socket.socket]:
    """A connection that a deferred peer starts: its SYN was dropped, and nothing answered."""
    before = kernel.table.deferred().packets
    with inside(host.peers):
        client = connect(peer, host.address[6 if ":" in peer else 4], 25)
    with client:
        assert eventually(lambda: kernel.table.deferred().packets > before)
        assert not established(client, 0)
        yield client


@pytest.mark.parametrize("peer", [PEER4, PEER6])
def test_a_deferred_peer_is_held_up_until_its_time_is_over(guarded: Guarded, peer: str) -> None:
    kernel, host = guarded
    assert defer(kernel, peer) == 0
    with held_up(kernel, host, peer) as client:
        assert defer(kernel, peer, seconds=0) == 0  # from now on a second, not sixty
        assert established(client, 20)  # its system has sent its SYN again
    assert host.reached(peer)
    assert host.refused() == 0
    assert kernel.table.dropped() == (0, 0)


@pytest.mark.parametrize("peer", [PEER4, PEER6])
def test_sessions_that_are_open_go_on(guarded: Guarded, peer: str) -> None:
    kernel, host = guarded
    with inside(host.peers):
        client = connect(peer, host.address[6 if ":" in peer else 4], 25)
    with client:
        assert established(client, 5)
        server, _ = host.listeners[25].accept()
        with server:
            defer(kernel, peer)
            for here, there in ((client, server), (server, client)):
                there.settimeout(5)
                here.sendall(b"mail")
                assert there.recv(4) == b"mail"
    assert kernel.table.deferred().packets == 0


def test_an_operator_frees_a_deferred_peer(guarded: Guarded) -> None:
    kernel, host = guarded
    defer(kernel, PEER4, PEER6)
    with held_up(kernel, host, PEER4), held_up(kernel, host, PEER6):
        pass
    kernel.put(WHITE, PEER4, None)
    assert host.reached(PEER4)
    kernel.table.undefer([net(PEER6), net("10.99.0.2"), net("10.0.0.0/8"), net("2001:db8::1/128")])
    assert host.reached(PEER6)
    assert (deferred("defer4"), deferred("defer6")) == (1, 0)


def test_a_listed_peer_is_refused_not_deferred(guarded: Guarded) -> None:
    kernel, host = guarded
    defer(kernel, PEER4)
    kernel.put(BLOCK, PEER4)
    assert not host.reached(PEER4)
    assert kernel.table.deferred() == (0, 0)


def test_a_whole_peer_is_deferred(mail_host: MailHost) -> None:
    with loaded() as kernel:
        defer(kernel, PEER6)
        with held_up(kernel, mail_host, "2001:db8:99:1:ffff::2"):
            assert mail_host.reached("2001:db8:99:2::1")
    with loaded(TableSpec(ports=(25,), size=PeerSize(24, 56))) as kernel:
        kernel.table.defer({net("10.99.0.0/24"): 60})
        with held_up(kernel, mail_host, "10.99.0.77"):
            assert mail_host.reached("10.99.1.77")


@pytest.mark.parametrize("all_ports", [False, True])
def test_only_new_sessions_to_the_protected_ports_are_deferred(
    mail_host: MailHost, all_ports: bool
) -> None:
    with loaded(TableSpec(ports=(25,), all_ports=all_ports)) as kernel:
        defer(kernel, PEER4)
        assert mail_host.reached(PEER4, port=80)
        with socket.socket(type=socket.SOCK_DGRAM) as here:
            here.settimeout(5)
            here.bind((mail_host.address[4], 25))
            with inside(mail_host.peers), socket.socket(type=socket.SOCK_DGRAM) as peer:
                peer.bind((PEER4, 0))
                peer.sendto(b"no session", (mail_host.address[4], 25))
            assert here.recv(100) == b"no session"
        assert kernel.table.deferred().packets == 0
        with held_up(kernel, mail_host, PEER4):
            pass


def test_observing_defers_nobody_and_counts(mail_host: MailHost) -> None:
    with loaded(TableSpec(ports=(25,), observe=True)) as kernel:
        defer(kernel, PEER4)
        assert mail_host.reached(PEER4)
        assert kernel.table.deferred() == (0, 0)
        assert "packets 1 " in run("nft list chain inet dpsd observe_deferred")


def test_behind_a_gateway_only_what_is_protected_is_deferred(mail_host: MailHost) -> None:
    with loaded(TableSpec(ports=(25,), addresses=(net("192.0.2.1/32"),))) as kernel:
        defer(kernel, PEER4)
        assert mail_host.reached(PEER4, server="192.0.2.3")
        with held_up(kernel, mail_host, PEER4):
            pass


def test_deferral_is_no_part_of_the_lists(kernel: Kernel) -> None:
    kernel.load(FOUND)
    before = kernel.table.read(time.time())
    assert before is not None
    defer(kernel, PEER4, PEER6, "10.99.0.3")
    assert kernel.differences(FOUND) == []
    after = kernel.table.read(time.time())
    assert after is not None
    assert {name: set(holds) for name, holds in after.items()} == {
        name: set(holds) for name, holds in before.items()
    }
    assert (deferred("defer4"), deferred("defer6")) == (2, 1)
    kernel.put(BLOCK, "10.98.0.0/24")  # has the rules made anew
    assert (deferred("defer4"), deferred("defer6")) == (2, 1)
    kernel.load(FOUND)
    assert (deferred("defer4"), deferred("defer6")) == (0, 0)


def test_a_full_set_defers_no_more_and_stops_nobody_else(
    namespace: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert namespace
    small = shipped("etc/dpsd.nft").read_text().replace(
        "set defer4 { typeof ip saddr; size 65536;", "set defer4 { typeof ip saddr; size 2;"
    )  # fmt: skip
    monkeypatch.setattr("dpsd.kernel.nftset.ruleset._shipped_ruleset", lambda: small)
    with loaded() as kernel:
        assert defer(kernel, "10.0.0.1", "10.0.0.2") == 0
        assert defer(kernel, "10.0.0.1", seconds=7200) == 0  # in place of itself
        assert defer(kernel, "10.0.0.3", PEER6) == 1
        assert (deferred("defer4"), deferred("defer6")) == (2, 1)
        kernel.table.undefer([net("10.0.0.2")])
        assert defer(kernel, "10.0.0.3") == 1  # a full set isn't tried again at once
        monkeypatch.setattr(deferral, "monotonic", lambda: time.monotonic() + 2)
        assert defer(kernel, "10.0.0.3") == 0
        assert deferred("defer4") == 2
        assert kernel.differences({}) == []


def test_who_can_not_be_deferred(kernel: Kernel) -> None:
    for network in ("10.0.0.0/8", "2001:db8::1/128", "2001:db8::/32"):
        with pytest.raises(ValueError, match=network):
            kernel.table.defer({net(PEER4): 60, net(network): 60})
    assert kernel.table.defer({}) == 0
    assert deferred("defer4") == 0
    run("nft delete table inet dpsd")
    with pytest.raises(KernelError, match="isn't there"):
        defer(kernel, PEER4)
    kernel.table.undefer([net(PEER4)])
    assert kernel.table.deferred() == (0, 0)


# What is protected


def test_observing_refuses_nothing_and_counts(mail_host: MailHost) -> None:
    with loaded(TableSpec(ports=(25,), observe=True)) as kernel:
        kernel.put(BLOCK, PEER4)
        assert mail_host.reached(PEER4)
        assert kernel.table.counters()[BLOCK][net(PEER4)] > 0
        assert "packets 0" not in run("nft list chain inet dpsd observe")


def test_only_the_addresses_given_are_protected(mail_host: MailHost) -> None:
    addresses = (net("192.0.2.1/32"), net("2001:db8:1::/64"))
    with loaded(TableSpec(ports=(25,), addresses=addresses)) as kernel:
        kernel.put(BLOCK, PEER4)
        kernel.put(BLOCK, PEER6)
        assert not mail_host.reached(PEER4)
        assert not mail_host.reached(PEER6)
        assert mail_host.reached(PEER4, server="192.0.2.3")


def test_addresses_of_one_version_protect_nothing_of_the_other(mail_host: MailHost) -> None:
    with loaded(TableSpec(ports=(25,), addresses=(net("192.0.2.1/32"),))) as kernel:
        kernel.put(BLOCK, PEER6)
        assert mail_host.reached(PEER6)


def test_all_ports(mail_host: MailHost) -> None:
    with loaded(TableSpec(ports=(25,), all_ports=True)) as kernel:
        kernel.put(BLOCK, PEER4)
        assert not mail_host.reached(PEER4, port=80)
        assert mail_host.reached("10.99.0.2", port=80)


def test_sessions_get_the_configured_times(mail_host: MailHost) -> None:
    with loaded(TableSpec(ports=(25,), timeouts={"established": 777})), inside(mail_host.peers):
        clients = [connect(PEER4, "192.0.2.1", port) for port in (25, 80)]
        clients.append(connect(PEER6, "2001:db8:1::1", 25))
        answered = [established(client, 5) for client in clients]
    assert answered == [True] * 3
    times = [
        int(line.split()[4])
        for version in ("ipv4", "ipv6")
        for line in run(f"conntrack -L -o extended -f {version} -p tcp --dport 25").splitlines()
    ]
    other = run("conntrack -L -o extended -p tcp --dport 80").split()
    for client in clients:
        client.close()
    assert len(times) == 2
    assert all(770 <= left <= 777 for left in times)
    assert int(other[4]) > 3600


# Other people's tables


def test_other_tables_are_left_alone(guarded: Guarded) -> None:
    kernel, _ = guarded
    run("nft add table inet mine; add set inet mine s { type ipv4_addr; flags interval; }")
    run("nft add element inet mine s { 10.0.0.0/8 }")
    run("nft add table ip dpsd")
    mine = [run("nft list table inet mine"), run("nft list table ip dpsd")]
    kernel.load({(BLOCK, PEER4): 60})
    kernel.put(BLOCK, "10.0.0.0/16")
    kernel.table.delete()
    assert [run("nft list table inet mine"), run("nft list table ip dpsd")] == mine
    assert "inet dpsd" not in run("nft list tables")
    assert kernel.table.read(time.time()) is None
    kernel.table.delete()


def test_a_foreign_table_of_our_name_is_replaced(mail_host: MailHost) -> None:
    run("nft add table inet dpsd; add set inet dpsd block4 { type ipv6_addr; }")
    run("nft add chain inet dpsd mine { type filter hook input priority 0 ; policy drop ; }")
    with loaded() as kernel:
        assert kernel.differences({}) == []
        assert mail_host.reached(PEER4)
        kernel.put(BLOCK, PEER4)
        assert not mail_host.reached(PEER4)


# Size, atomicity, errors


def many(count: int) -> dict[Element, float | None]:
    start = int(net("172.16.0.0").network_address)
    later = until(3600)
    return {(BLOCK, IPv4Network((start + i, 32))): later for i in range(count)}


def reload(kernel: Kernel, blocked: dict[Element, float | None]) -> None:
    for _ in range(2):
        kernel.table.load(blocked | many(100_000), time.time())


def change_prefixes(kernel: Kernel, blocked: dict[Element, float | None]) -> None:
    kernel.table.load(blocked, time.time())
    for third in range(100):
        kernel.put(BLOCK, f"10.98.{third}.0/24")
        kernel.put(BLOCK, "10.99.1.0/24", 60 + third)


def change_hosts(kernel: Kernel, blocked: dict[Element, float | None]) -> None:
    kernel.table.load(blocked, time.time())
    for i in range(2000):
        kernel.put(BLOCK, f"10.98.{i >> 8}.{i & 255}")
        kernel.put(BLOCK, PEER4, 60 + i)


@pytest.mark.parametrize("change", [reload, change_prefixes, change_hosts])
def test_no_packet_of_a_blocked_peer_passes_meanwhile(
    guarded: Guarded, change: Callable[[Kernel, dict[Element, float | None]], None]
) -> None:
    kernel, host = guarded
    blocked = elements({(BLOCK, PEER4): 3600, (BLOCK, "10.99.1.0/24"): 3600})
    kernel.table.load(blocked, time.time())
    stop = threading.Event()
    passed: list[str] = []
    tried: list[str] = []

    def knock() -> None:
        with inside(host.peers):
            while not stop.is_set():
                for peer in (PEER4, "10.99.1.1"):
                    with connect(peer, "192.0.2.1", 25) as client:
                        tried.append(peer)
                        if established(client, 0):
                            passed.append(peer)

    knocking = threading.Thread(target=knock)
    knocking.start()
    try:
        change(kernel, blocked)
    finally:
        stop.set()
        knocking.join()
    assert len(tried) > 100
    assert PEER4 not in passed
    # A set of intervals may miss for a blink while the kernel commits a new one (Linux 6.18).
    assert len(passed) < len(tried) / 10


def test_of_more_than_a_set_has_room_for_what_lasts_longest_is_there(kernel: Kernel) -> None:
    """The kernel would refuse them all, and a start would fail."""
    size = SIZES["white4"]
    wanted = {(WHITE, network): until for (_, network), until in many(size).items()}
    assert len(kernel.table.nearly_full(wanted, time.time())) == 1
    wanted[WHITE, net(PEER4)] = None
    wanted[WHITE, net("10.99.0.2")] = time.time() + 60
    kernel.table.load(wanted, time.time())
    assert eventually(lambda: len(kernel.left("white4")) == size)  # not while it still grows
    left = kernel.left("white4")
    assert f"{PEER4}/32" in left
    assert "10.99.0.2/32" not in left
    assert kernel.table.differences(wanted, time.time()) == []
    assert kernel.table.nearly_full({(WHITE, net(PEER4)): None}, time.time()) == []


def test_a_set_of_prefixes_made_anew_takes_what_lasts_longest(
    kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(ruleset.ROOM, "block4_nets", 2)
    kernel.table.load({(BLOCK, net("10.0.0.0/8")): until(60), (BLOCK, net("11.0.0.0/8")): None}, 0)
    kernel.put(BLOCK, "12.0.0.0/8", None)
    assert kernel.left("block4_nets").keys() == {"11.0.0.0/8", "12.0.0.0/8"}


def test_a_full_set_says_so_and_stays_as_it_is(kernel: Kernel) -> None:
    size = SIZES["white4"]
    full = {(WHITE, network): until for (_, network), until in many(size).items()}
    kernel.table.load(full, time.time())
    some = next(iter(full))[1]
    kernel.apply(Put(WHITE, some, full[WHITE, some]))  # in place of itself
    with pytest.raises(KernelError, match="white4 is full"):
        kernel.put(WHITE, PEER4)
    with pytest.raises(KernelError, match="full"):
        kernel.apply(
            Put(BLOCK, net("10.0.0.0/8"), None), Drop(WHITE, some), Put(BLOCK, net(PEER4), None),
            Put(WHITE, net(PEER4), None), Put(WHITE, net("10.99.0.2"), None),
        )  # fmt: skip
    assert kernel.table.differences(full, time.time()) == []
    kernel.put(BLOCK, "11.0.0.0/8", None)  # what was refused wasn't remembered either
    assert kernel.left("block4_nets").keys() == {"11.0.0.0/8"}


def test_without_the_table_changes_fail(kernel: Kernel) -> None:
    run("nft delete table inet dpsd")
    for peer in (PEER4, "10.0.0.0/8"):
        with pytest.raises(KernelError, match=r"isn't there|No such file"):
            kernel.put(BLOCK, peer)
    assert kernel.table.counters() == {BLACK: {}, BLOCK: {}}
    assert kernel.table.dropped() == (0, 0)
    assert kernel.table.adoptable({}, time.time()) == {}


@pytest.mark.usefixtures("namespace")
@pytest.mark.parametrize("peer", ["load", PEER4, "10.0.0.0/8", "read"])
def test_nobody_may_not_change_it(peer: str) -> None:
    child = os.fork()
    if not child:
        os.setresuid(65534, 65534, 65534)
        table = Table(SPEC)
        try:
            if peer == "load":
                table.load({}, 0)
            elif peer == "read":
                table.read(0)
            else:
                table.apply([Put(BLOCK, net(peer), None)], 0)
        except NotPermitted:
            os._exit(77)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 77


def test_two_threads_change_it_at_a_time(kernel: Kernel) -> None:
    def prefixes() -> None:
        for i in range(50):
            kernel.put(BLOCK, f"10.0.{i}.0/24", 600)

    other = threading.Thread(target=prefixes)
    other.start()
    for i in range(500):
        kernel.put(BLOCK, f"10.1.{i >> 8}.{i & 255}", 600)
        if not i % 50:
            kernel.left("block4")
    other.join()
    wanted = {(BLOCK, f"10.0.{i}.0/24"): 600.0 for i in range(50)}
    wanted |= {(BLOCK, f"10.1.{i >> 8}.{i & 255}"): 600.0 for i in range(500)}
    assert kernel.differences(wanted) == []


# Reading back


FOUND: dict[tuple[ListName, str], float | None] = {
    (WHITE, "10.99.7.7"): None,
    (BLOCK, PEER4): 600,
    (BLOCK, PEER6): 600,
    (BLOCK, "10.0.0.0/8"): 600,
}


@pytest.mark.parametrize(
    ("command", "differences"),
    [
        ("nft flush ruleset", ["table inet dpsd or one of its sets is missing"]),
        ("nft delete table inet dpsd", ["table inet dpsd or one of its sets is missing"]),
        ("nft flush set inet dpsd block4", [f"missing from block4: {PEER4}/32"]),
        (
            f"nft delete element inet dpsd block4 {{ {PEER4} }}",
            [f"missing from block4: {PEER4}/32"],
        ),
        ("nft add element inet dpsd white4 { 1.2.3.4 }", ["foreign in white4: 1.2.3.4/32"]),
        ("nft add element inet dpsd block6 { ::1 }", ["foreign in block6: ::1/128"]),
        (
            "nft add element inet dpsd white4_nets { 1.0.0.0-1.0.0.2 }",
            ["foreign in white4_nets: 1.0.0.0/31", "foreign in white4_nets: 1.0.0.2/32"],
        ),
        (
            f"nft delete element inet dpsd block4 {{ {PEER4} }};"
            f" add element inet dpsd block4 {{ {PEER4} timeout 90s }}",
            [f"wrong time in block4: {PEER4}/32"],
        ),
        ("nft flush chain inet dpsd refuse", ["missing: counter drop"]),
        ("nft insert rule inet dpsd refuse accept", ["foreign: accept"]),
        ("nft add element inet dpsd servers4 { 10.0.0.1 }", None),
        ("nft delete set inet dpsd servers4", None),
    ],
)
def test_differences_are_named(kernel: Kernel, command: str, differences: list[str] | None) -> None:
    kernel.load(FOUND)
    assert kernel.differences(FOUND) == []
    if command.endswith("set inet dpsd servers4"):
        run("nft flush chain inet dpsd other_hosts")
    run(command)
    found = kernel.differences(FOUND)
    assert found == differences if differences else found
    kernel.load(FOUND)
    assert kernel.differences(FOUND) == []


def test_slow_reading_is_no_difference(kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a busy machine, or of a large set, a dump takes seconds, while its elements age."""
    listed = many(1_000)
    kernel.table.load(listed, time.time())
    found = wire.found

    def slowly(*datagram: Any) -> list[wire.Found]:
        time.sleep(0.5)
        return list(found(*datagram))

    monkeypatch.setattr(wire, "found", slowly)
    start = time.monotonic()
    assert kernel.table.differences(listed, time.time()) == []
    assert time.monotonic() - start > TOLERANCE


def test_no_change_waits_for_a_reading(kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    """A verdict is put from the event loop, and a set may take seconds to read."""
    kernel.table.load(many(1_000), time.time())
    found = wire.found

    def while_it_grows(*datagram: Any) -> list[wire.Found]:
        change = threading.Thread(target=kernel.put, args=(BLOCK, PEER4, 600), daemon=True)
        change.start()
        change.join(10)
        assert not change.is_alive()
        return list(found(*datagram)) * 2

    monkeypatch.setattr(wire, "found", while_it_grows)
    assert kernel.left("block4")


def test_what_a_crash_left_behind_is_adoptable(kernel: Kernel) -> None:
    kernel.load(FOUND)
    with_longer = {(BLOCK, PEER4): 300, (BLOCK, "10.0.0.0/8"): 600, (WHITE, "10.1.1.1"): 600}
    later = Table(SPEC)  # of the next daemon
    now = time.time()
    adopted = later.adoptable(elements(with_longer), now)
    assert adopted == {
        (BLOCK, net(PEER4)): pytest.approx(now + 600, abs=2),
        (BLOCK, net(PEER6)): pytest.approx(now + 600, abs=2),
    }
    later.close()


def test_knocks_are_counted(guarded: Guarded) -> None:
    kernel, host = guarded
    kernel.load({(BLOCK, PEER4): 600, (BLACK, PEER6): None, (BLOCK, "10.99.0.2"): 600})
    for peer in (PEER4, PEER6, PEER4):
        assert not host.reached(peer)
    counters = kernel.table.counters()
    assert counters[BLOCK][net(PEER4)] >= 2
    assert counters[BLACK] == {net(PEER6): 1}
    assert counters[BLOCK][net("10.99.0.2")] == 0


def test_what_is_dropped_is_counted_whatever_becomes_of_the_elements(guarded: Guarded) -> None:
    kernel, host = guarded
    assert kernel.table.dropped() == (0, 0)
    kernel.put(BLOCK, PEER4)
    kernel.put(BLACK, "2001:db8:99::/48", None)
    for peer in (PEER4, PEER6):
        assert not host.reached(peer)
    kernel.drop(BLOCK, PEER4)
    kernel.put(BLOCK, "10.99.1.0/24")  # a prefix has the rules made anew that refer to its set
    dropped = kernel.table.dropped()
    assert dropped.packets >= 2
    told = run("nft list chain inet dpsd refuse")
    assert f"counter packets {dropped.packets} bytes {dropped.bytes} drop" in told


def test_observing_drops_nothing(mail_host: MailHost) -> None:
    with loaded(TableSpec(ports=(25,), observe=True)) as kernel:
        kernel.put(BLOCK, PEER4)
        assert mail_host.reached(PEER4)
        assert kernel.table.dropped() == (0, 0)


# Watching


@pytest.fixture
def watch(kernel: Kernel) -> Iterator[Watch]:
    kernel.load(FOUND)
    watch = Watch()
    yield watch
    watch.close()


def noticed(watch: Watch) -> bool:
    """Whether a foreign change is noticed; all that is to come has come when nft has ended."""
    readable = bool(select.select([watch], [], [], 0)[0])
    foreign = watch.foreign()
    assert readable or not foreign
    return foreign


@pytest.mark.parametrize(
    "command",
    [
        "flush ruleset",
        "delete table inet dpsd",
        "flush set inet dpsd block4",
        f"delete element inet dpsd block4 {{ {PEER4} }}",
        "add element inet dpsd white4 { 10.0.0.1 }",
        "delete element inet dpsd block4_nets { 10.0.0.0/8 }",
        "insert rule inet dpsd refuse accept",
        "flush chain inet dpsd refuse",
        "add chain inet dpsd mine",
        "add set inet dpsd mine { type ipv4_addr; }",
        "add counter inet dpsd mine",
        f"add element inet dpsd defer4 {{ {PEER4} timeout 60s }}",
    ],
)
def test_foreign_changes_are_noticed(watch: Watch, command: str) -> None:
    assert not noticed(watch)
    run(f"nft {command}")
    assert noticed(watch)
    assert not noticed(watch)


def test_changes_of_other_tables_are_nobodys_business(watch: Watch) -> None:
    for family in ("inet mine", "ip dpsd"):
        run(f"nft add table {family}; add set {family} s {{ type ipv4_addr; }}")
        run(f"nft add element {family} s {{ 10.0.0.1 }}")
        run(f"nft delete table {family}")
    assert not noticed(watch)


def own_changes(kernel: Kernel) -> None:
    kernel.load(FOUND)
    for i in range(2000):
        kernel.put(BLOCK, f"10.1.{i >> 8}.{i & 255}", 600)
    kernel.put(BLOCK, "11.0.0.0/8")
    kernel.drop(BLOCK, "10.1.0.0")
    defer(kernel, PEER4, PEER6)
    kernel.table.undefer([net(PEER4)])
    kernel.table.load(many(20_000), time.time())


@pytest.mark.parametrize("change", [own_changes, lambda kernel: kernel.table.delete()])
def test_own_changes_are_not_foreign(
    kernel: Kernel, watch: Watch, change: Callable[[Kernel], None]
) -> None:
    change(kernel)
    assert not noticed(watch)


def test_others_changes_never_reach_the_socket(watch: Watch) -> None:
    run("nft add table inet other; add set inet other s { type ipv4_addr; }")
    run("nft add element inet other s { 10.0.0.1, 10.0.0.2, 10.0.0.3 }; flush set inet other s")
    run("nft add table ip dpsd")
    assert not select.select([watch], [], [], 0)[0]
    # Ours counts behind others', in one transaction.
    both = "add element inet other s { 10.9.9.9 }; delete element inet dpsd block4 { 10.99.0.1 }"
    run(f"nft {both}")
    assert noticed(watch)


def test_own_changes_of_a_socket_not_yet_known(watch: Watch) -> None:
    with loaded() as newer:
        newer.put(BLOCK, PEER4)
        assert not noticed(watch)
        run("nft flush set inet dpsd block4")
        assert noticed(watch)


def test_elements_that_expire_are_not_foreign(kernel: Kernel, watch: Watch) -> None:
    kernel.put(BLOCK, "10.99.0.9", 0.1)
    kernel.put(BLOCK, "10.98.0.0/16", 0.1)
    assert eventually(lambda: "10.99.0.9/32" not in kernel.left("block4"))
    time.sleep(1.5)  # until the kernel's collector has been by; nothing tells of it
    assert not noticed(watch)


def test_lost_notifications_are_told(watch: Watch) -> None:
    members = ",".join(str(network.network_address) for _, network in many(120_000))
    commands = (
        "add table inet mine; add set inet mine s { type ipv4_addr; };"
        f" add element inet mine s {{ {members} }}"
    )
    subprocess.run(["nft", "-f", "-"], input=commands, text=True, check=True)
    assert not noticed(watch)
    assert watch.lost


def test_looking_for_own_sockets_drops_no_lock_on_a_file(tmp_path: Path, watch: Watch) -> None:
    path = tmp_path / "store"
    try_to_lock = (
        f"import fcntl; fcntl.lockf(open({str(path)!r}, 'w'), fcntl.LOCK_EX | fcntl.LOCK_NB)"
    )
    with path.open("w") as file:
        fcntl.lockf(file, fcntl.LOCK_EX)  # as SQLite does
        watch.learn()
        done = subprocess.run([sys.executable, "-c", try_to_lock], capture_output=True, check=False)
    assert b"BlockingIOError" in done.stderr
