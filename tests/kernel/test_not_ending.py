"""Sessions that are hard to end, or can't be: each is tried again, and told for what it is."""

import errno
import os
import socket
from collections.abc import Sequence
from contextlib import ExitStack
from select import POLLIN, poll
from typing import Any

import pytest

from dpsd.errors import KernelError, NotPermitted
from dpsd.kernel.ending import rule
from dpsd.kernel.ending.ender import Ender
from dpsd.kernel.ending.entries import Entries
from dpsd.kernel.ending.outcome import ENDED, Fate, Outcome, Why
from dpsd.kernel.nftset import Watch
from dpsd.kernel.sockdiag import wire
from tests.kernel.behind import (
    PEER,
    SERVER,
    Behind,
    alive,
    because,
    end,
    fates,
    firewall,
    forgotten,
    in_servers,
    masqueraded,
    on_host,
    over,
    packed,
)
from tests.kernel.netns import connect, inside, run

SILENT = (
    "add chain inet silent output { type filter hook output priority 0; }",
    "add rule inet silent output tcp flags & (rst | fin) != 0 drop",
)


def test_a_session_that_only_conntrack_still_has(behind: Behind, ender: Ender) -> None:
    """The server has let go of it, and no packet told."""
    session, other = behind.session(PEER[4], SERVER[4]), behind.session(PEER[4], SERVER[4])
    in_servers(behind, "add table inet silent", *SILENT)
    session[1].setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    session[1].close()  # by a reset, which is dropped
    in_servers(behind, "delete table inet silent")
    assert fates(end(ender, [session])) == [Fate.GONE]
    assert forgotten(session)
    assert alive(other)


def test_nobody_listens_there_any_more(behind: Behind, ender: Ender) -> None:
    session = behind.session(PEER[4], SERVER[4])
    behind.listener.close()
    assert fates(end(ender, [session])) == [Fate.ENDED]
    assert over(session[1], 0)


def test_a_host_that_is_down(behind: Behind, ender: Ender) -> None:
    sessions = [behind.session(PEER[version], SERVER[version]) for version in (4, 6)]
    with inside(behind.servers):
        run("ip link set gateway down")
    outcomes = end(ender, sessions)
    assert fates(outcomes) == [Fate.NOT_ENDED] * 2
    assert because(outcomes) == {Why.NO_ANSWER}
    assert not any(map(forgotten, sessions))


def test_a_server_without_a_route(behind: Behind, ender: Ender) -> None:
    session, near = behind.session(PEER[4], SERVER[4]), on_host(behind, 4)()
    run("ip route add unreachable 198.51.100.2/32")
    outcomes = end(ender, [session, near])
    assert fates(outcomes) == [Fate.NOT_ENDED, Fate.ENDED]
    assert outcomes[0].why is Why.NO_ROUTE
    assert not forgotten(session)


def test_a_firewall_that_drops_the_reset(behind: Behind, ender: Ender) -> None:
    session = behind.session(PEER[4], SERVER[4])
    firewall(behind, "tcp flags & rst == rst drop")
    outcomes = end(ender, [session])
    assert because(outcomes) == {Why.STAYS}
    assert not forgotten(session)
    assert alive(session)


def test_a_firewall_that_drops_the_question(behind: Behind, ender: Ender) -> None:
    session = behind.session(PEER[4], SERVER[4])
    firewall(behind, "tcp flags & syn == syn drop")
    assert because(end(ender, [session])) == {Why.NO_ANSWER}
    assert alive(session)


def test_a_stateful_firewall(behind: Behind, ender: Ender) -> None:
    firewall(
        behind, "ct state invalid drop", "ct state established accept",
        "tcp dport 25 ct state new accept", "drop",
    )  # fmt: skip
    sessions = [behind.session(PEER[4], SERVER[4]) for _ in range(20)]
    assert fates(end(ender, sessions)) == [Fate.ENDED] * 20
    assert all(over(accepted, 0) for _, accepted, _ in sessions)


def test_packets_get_lost(behind: Behind, ender: Ender) -> None:
    sessions = [behind.session(PEER[4], SERVER[4]) for _ in range(50)]
    firewall(behind, "tcp dport 25 numgen inc mod 7 == 1 drop")
    outcomes = end(ender, sessions)
    assert fates(outcomes) == [Fate.ENDED] * 50
    assert all(over(accepted, 0) for _, accepted, _ in sessions)


def test_a_server_whose_queue_is_full(behind: Behind, ender: Ender) -> None:
    """It answers no SYN for a new session; but it did while it had the old one."""
    with inside(behind.servers):
        small = socket.create_server((SERVER[4], 587), backlog=0)
    with small, ExitStack() as waiting:
        session = behind.session(PEER[4], SERVER[4], 587, small)
        with inside(behind.host.peers):
            for _ in range(4):
                waiting.enter_context(connect(PEER[4], SERVER[4], 587))
        assert fates(end(ender, [session])) == [Fate.ENDED]
        assert over(session[1], 0)
        assert forgotten(session)


def test_in_another_zone(behind: Behind, ender: Ender) -> None:
    run("nft add chain inet on z { type filter hook prerouting priority -300 ; }")
    run("nft add rule inet on z iifname { mail, servers } ct zone set 7")
    sessions = [behind.session(PEER[4], SERVER[4]) for _ in range(3)]
    place = Entries().look([sessions[0][2]])[sessions[0][2]]
    assert place.zone == 7
    assert fates(end(ender, sessions)) == [Fate.ENDED] * 3
    assert all(over(accepted, 0) for _, accepted, _ in sessions)
    assert all(map(forgotten, sessions))


@pytest.mark.parametrize("port", [25, 587])
def test_a_port_that_this_host_listens_on(behind: Behind, ender: Ender, port: int) -> None:
    """A peer isn't safe behind a source port below 1024, nor behind one that is open here."""
    session = behind.session("192.0.2.2", SERVER[4], from_port=port)
    assert end(ender, [session]) == [ENDED]
    assert over(session[1], 0)


def test_a_masqueraded_port_that_a_socket_here_has(behind: Behind, ender: Ender) -> None:
    session = masqueraded(behind, 4)()
    place = Entries().look([session[2]])[session[2]]
    assert (place.peer, place.server) == (packed("198.51.100.1"), packed(SERVER[4]))
    with socket.create_server(("198.51.100.1", place.peer_port)) as here:
        assert end(ender, [session]) == [ENDED]
        with socket.create_connection(here.getsockname(), 5):  # it listens on
            here.accept()[0].close()


def test_somebody_takes_the_table_away(behind: Behind, ender: Ender) -> None:
    for _ in range(2):
        session = behind.session(PEER[4], SERVER[4])
        assert fates(end(ender, [session])) == [Fate.ENDED]
        run("nft flush ruleset")
        run("nft add table inet on")
        run("nft add chain inet on f { type filter hook forward priority 0 ; }")
        run("nft add rule inet on f ct state invalid counter")


def test_one_that_the_kernel_refuses_costs_no_other(
    behind: Behind, ender: Ender, monkeypatch: pytest.MonkeyPatch
) -> None:
    sessions = [on_host(behind, 4)() for _ in range(3)]
    ask = wire.answers

    def odd(diag: socket.socket, requests: Sequence[bytes], read: Any) -> list[Any]:
        answers = list(ask(diag, requests, read))
        if answers == [0, 0, 0]:  # to the orders
            answers[1] = errno.EINVAL
        return answers

    monkeypatch.setattr(wire, "answers", odd)
    outcomes = end(ender, sessions)
    assert fates(outcomes) == [Fate.ENDED, Fate.NOT_ENDED, Fate.ENDED]
    assert outcomes[1] == Outcome(Fate.NOT_ENDED, Why.REFUSED, "Invalid argument")
    assert [forgotten(session) for session in sessions] == [True, False, True]


@pytest.mark.parametrize("number", [0, 1], ids=["ask", "order"])
def test_the_kernel_answers_no_more(
    behind: Behind, ender: Ender, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """In the second batch of 64: what was ended in the first one is told as ended."""
    sessions = [on_host(behind, 4)() for _ in range(70)]
    ask, asked = wire.answers, list[int]()

    def failing(diag: socket.socket, requests: Sequence[bytes], read: Any) -> list[Any]:
        asked.append(len(requests))
        if len(asked) > 2 + number:
            raise OSError(errno.ENOBUFS, os.strerror(errno.ENOBUFS))
        return list(ask(diag, requests, read))

    monkeypatch.setattr(wire, "answers", failing)
    assert fates(end(ender, sessions)) == [Fate.ENDED] * 64 + [Fate.NOT_ENDED] * 6


def test_routes_that_cannot_be_asked(
    behind: Behind, ender: Ender, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(_: bytes) -> bool:
        raise KernelError("the routes can't be asked")

    sessions = [behind.session(PEER[4], SERVER[4]), on_host(behind, 4)()]
    monkeypatch.setattr("dpsd.kernel.ending.ender.is_local", failing)
    outcomes = end(ender, sessions)
    assert outcomes == [Outcome(Fate.NOT_ENDED, Why.REFUSED, "the routes can't be asked"), ENDED]


def test_nobody_may_not(behind: Behind) -> None:
    sessions = [behind.session(PEER[4], SERVER[4]), on_host(behind, 4)()]
    os.seteuid(65534)
    nobodys = Ender()
    try:
        outcomes = end(nobodys, sessions)
        with pytest.raises(NotPermitted):
            rule.probe()
    finally:
        os.seteuid(0)
        nobodys.close()
    assert because(outcomes) == {Why.NOT_PERMITTED}
    assert all(map(alive, sessions))


def test_the_probe_changes_nothing(behind: Behind) -> None:
    session = behind.session(PEER[4], SERVER[4])
    before = run("nft list ruleset")
    rule.probe()
    assert rule.may_use_low_ports()
    assert run("nft list ruleset") == before
    assert alive(session)


def test_the_watch_of_the_table_hears_nothing_of_it(behind: Behind, ender: Ender) -> None:
    """Else its buffer would overflow, which counts as if somebody had changed the table."""
    watch = Watch()
    try:
        end(ender, [behind.session(PEER[4], SERVER[4])])  # which loads the table
        assert not watch.foreign()
        end(ender, [behind.session(PEER[4], SERVER[4])])
        heard = poll()
        heard.register(watch.fileno(), POLLIN)
        assert not heard.poll(0)
        run("nft add table inet dpsd")
        assert heard.poll(5000)
    finally:
        watch.close()
