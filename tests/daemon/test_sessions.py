"""Live sessions: a listed peer's end at once, at both ends; everybody else's go on."""

import pytest

from tests.daemon.live import MailHost, answered, ended, eventually
from tests.lab.dpsd import Dpsd

AT_ONCE = 1.0  # seconds


@pytest.mark.parametrize(
    ("listing", "mine", "bystander"),
    [
        ("10.99.101.1", "10.99.101.1", "10.99.101.2"),
        ("2001:db8:a101:1::1", "2001:db8:a101:1:7::2", "2001:db8:a101:2::1"),
        ("10.99.102.0/24", "10.99.102.9", "10.99.103.9"),
        ("2001:db8:a102::/48", "2001:db8:a102:9::1", "2001:db8:a103:9::1"),
    ],
    ids=["ipv4", "ipv6", "ipv4-prefix", "ipv6-prefix"],
)
def test_sessions_of_a_blocked_peer_end_at_once(
    shared: Dpsd, host: MailHost, listing: str, mine: str, bystander: str
) -> None:
    held = [host.session(mine, port) for port in (25, 587, 25)]
    other, ssh = host.session(bystander), host.session(mine, 22)
    assert all(map(answered, held))
    assert eventually(lambda: shared.json("status")["sessions"]["open"] >= 4)
    shared.cli("block", listing, "--for", "1h", check=True)
    assert all(ended(client, AT_ONCE) for client in held)
    assert eventually(lambda: not any(map(host.server.has, held)), AT_ONCE)
    assert answered(other)
    assert answered(ssh)


def test_white_peers_inside_a_blocked_prefix_keep_their_sessions(
    shared: Dpsd, host: MailHost
) -> None:
    shared.cli("allow", "10.99.104.7", check=True)
    white, blocked = host.session("10.99.104.7"), host.session("10.99.104.8")
    shared.cli("block", "10.99.104.0/24", "--permanent", check=True)
    assert ended(blocked, AT_ONCE)
    assert answered(white)
    shared.cli("disallow", "10.99.104.7", check=True)  # now the prefix decides
    assert ended(white, AT_ONCE)
    assert eventually(lambda: not host.server.has(white), AT_ONCE)


def test_blocking_a_white_peer_warns_and_ends_nothing(shared: Dpsd, host: MailHost) -> None:
    shared.cli("allow", "10.99.105.1", check=True)
    held = host.session("10.99.105.1")
    done = shared.cli("block", "10.99.105.1", "--for", "1h", check=True)
    assert "white" in done.stderr
    assert answered(held)


def test_part_of_an_ipv6_peer(shared: Dpsd, host: MailHost) -> None:
    one, other = host.session("2001:db8:a106:1::1"), host.session("2001:db8:a106:1::2")
    shared.cli("block", "2001:db8:a106:1::1/128", "--for", "1h", check=True)
    assert ended(one, AT_ONCE)
    assert answered(other)


def test_listening_sockets_survive(shared: Dpsd, host: MailHost) -> None:
    """A session that is over already must not take the server's listening socket with it."""
    for number in range(20):
        client = host.session(f"10.99.107.{number + 1}")
        client.close()
    shared.cli("block", "10.99.107.0/24", "--for", "1h", check=True)
    assert all(host.reached("10.99.108.1", port) for port in (25, 465, 587))
