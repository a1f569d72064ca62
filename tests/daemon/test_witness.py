"""Sessions that conntrack doesn't know, or that the server doesn't: its sockets tell."""

import socket
from contextlib import ExitStack

import pytest

from tests.daemon.conftest import Make
from tests.daemon.live import HOST, MailHost, answered, eventually, said
from tests.lab.dpsd import Dpsd

SLOTS = 20
HELD = 3 * SLOTS
PEERS = [*(f"10.99.31.{n}" for n in range(1, 7)), *(f"2001:db8:a031:{n}::1" for n in range(1, 7))]


def fill(host: MailHost) -> list[socket.socket]:
    return [host.session(PEERS[number % len(PEERS)]) for number in range(HELD)]


def status(daemon: Dpsd, *names: str) -> list[int]:
    told = daemon.json("status")
    return [told["sessions"][name] for name in names]


def asleep(host: MailHost) -> None:
    """Conntrack knows nothing, and doesn't begin to before there is a ruleset that needs it."""
    assert "ct " not in host.net.mail.run("nft", "list", "ruleset").stdout
    assert host.net.mail.run("conntrack", "-L").stdout == ""


def test_sessions_from_before_conntrack_began(host: MailHost, make: Make) -> None:
    """Row A4."""
    asleep(host)
    fill(host)
    daemon = make(protect={"slots": 10 * HELD})
    daemon.start()
    assert eventually(lambda: status(daemon, "open", "unseen", "sockets") == [HELD] * 3)
    words = f"conntrack knows 0 of {HELD} sessions to the mail ports"
    assert words in daemon.log.read_text(encoding="utf-8")
    assert words in daemon.cli("status", check=True).stdout
    assert daemon.json("status")["pressure"] == 0.1
    held = [host.session(PEERS[0]) for _ in range(3)]
    assert eventually(lambda: status(daemon, "open", "unseen") == [HELD + 3, HELD])
    assert all(map(answered, held))
    daemon.cli("block", PEERS[0], "--for", "1h", check=True)
    assert eventually(lambda: not any(host.server.has(client) for client in held))


def test_a_packet_makes_them_conntracks_again(host: MailHost, make: Make) -> None:
    asleep(host)
    held = fill(host)
    daemon = make(protect={"slots": 10 * HELD})
    daemon.start()
    assert eventually(lambda: status(daemon, "open", "unseen") == [HELD, HELD])
    assert all(map(answered, held[:10]))
    assert eventually(lambda: status(daemon, "open", "unseen") == [HELD, HELD - 10])
    for client in held[:15]:
        client.close()
    assert eventually(lambda: status(daemon, "open", "unseen") == [HELD - 15, HELD - 15])


@pytest.mark.parametrize("how", ["before", "flushed", "notrack"])
def test_room_is_made_of_them(host: MailHost, make: Make, how: str) -> None:
    """Rows A4, A5 and A6."""
    daemon = make(protect={"slots": SLOTS})
    with ExitStack() as stack:
        if how == "notrack":
            rule = "tcp dport 25 notrack; tcp sport 25 notrack"
            chains = "".join(
                f"chain {hook} {{ type filter hook {hook} priority raw; {rule}; }}\n"
                for hook in ("prerouting", "output")
            )
            host.net.mail.run("nft", "-f", "-", stdin=f"table inet admin {{ {chains} }}")
            stack.callback(host.net.mail.run, "nft", "delete table inet admin")
        if how == "flushed":
            daemon.start("--observe")
        fill(host)
        if how == "flushed":
            assert eventually(lambda: status(daemon, "open") == [HELD])
            daemon.stop()
            daemon.start()
            host.net.mail.run("conntrack", "-F")
        else:
            daemon.start()
        assert eventually(lambda: len(host.server.open) < SLOTS, 30)
        assert eventually(lambda: status(daemon, "open") == [len(host.server.open)])
        assert "ended" in daemon.log.read_text(encoding="utf-8")


def test_a_redirected_port_is_no_session_twice(host: MailHost, make: Make) -> None:
    """From 587 to 25, both protected: conntrack knows it by 587, the socket by 25."""
    daemon = make()
    daemon.start()
    nat = "type nat hook prerouting priority -100; tcp dport 587 redirect to :25;"
    host.net.mail.run("nft", "-f", "-", stdin=f"table inet admin {{ chain p {{ {nat} }}\n}}\n")
    with ExitStack() as stack:
        stack.callback(host.net.mail.run, "nft", "delete table inet admin")
        held = [host.session(PEERS[0], 587) for _ in range(5)]
        assert eventually(lambda: status(daemon, "sockets", "open", "unseen") == [5, 5, 0])
        assert all(map(answered, held))
        host.hang_up()  # while their last packets are translated
        assert eventually(lambda: not host.server.open)


@pytest.mark.parametrize("version", [4, 6])
def test_sessions_that_the_server_never_had_keep_no_slot(
    host: MailHost, make: Make, version: int
) -> None:
    """Row A16: its full accept queue drops what the peers and conntrack hold to be open."""
    daemon = make(protect={"ports": [2525], "slots": SLOTS})
    daemon.start()
    address, family = HOST[version], (socket.AF_INET if version == 4 else socket.AF_INET6)
    peers = [peer for peer in PEERS if (":" in peer) == (version == 6)]
    with ExitStack() as stack:
        with host.net.mail.entered():
            server = socket.create_server((address, 2525), family=family, backlog=4096)
            stack.enter_context(server)
        for peer in peers:
            host.hold(host.start(peer, 2525))
        assert eventually(lambda: status(daemon, "sockets", "open") == [6, 6])
        full = "type filter hook input priority 0; tcp dport 2525 tcp flags & syn == 0 drop;"
        host.net.mail.run("nft", "-f", "-", stdin=f"table inet full {{ chain c {{ {full} }}\n}}\n")
        stack.callback(host.net.mail.run, "nft", "delete table inet full")
        for number in range(4 * SLOTS):
            host.hold(host.start(peers[number % 6], 2525))
        assert eventually(lambda: status(daemon, "sockets", "open") == [6, 4 * SLOTS + 6])
        assert eventually(lambda: daemon.json("status")["pressure"] == 6 / SLOTS, 30)
        assert eventually(lambda: status(daemon, "never_had") == [4 * SLOTS])
        assert "of them the server never had" in daemon.cli("status").stdout
        assert (daemon.json("status")["ended"], daemon.json("status")["not_ended"]) == (0, 0)
        host.hang_up()


def test_at_rest_nothing_is_told(host: MailHost, make: Make) -> None:
    daemon = make(protect={"slots": 100})
    daemon.start()
    held = [host.session(peer) for peer in PEERS]
    names = ("open", "sockets", "unseen")
    assert eventually(lambda: status(daemon, *names) == [12, 12, 0]), status(daemon, *names)
    assert status(daemon, "never_had") == [0]
    assert "conntrack knows" not in daemon.log.read_text(encoding="utf-8")
    assert "conntrack knows" not in daemon.cli("status").stdout
    assert all(map(answered, held))
    assert not said(held[0], 0.1)
