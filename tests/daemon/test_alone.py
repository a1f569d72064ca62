"""Peers that share a /64 with others: a neighbour of the server, and who comes through a NAT64."""

import pytest

from tests.daemon.conftest import Make
from tests.daemon.live import MailHost, Nft, ended, eventually

PREFIX = {"neighbour": "2001:db8:25::", "nat64": "64:ff9b::cb00:"}


@pytest.fixture(params=["neighbour", "nat64"])
def prefix(request: pytest.FixtureRequest, host: MailHost) -> str:
    """The beginning of such addresses, which the world owns."""
    made = PREFIX[request.param]
    for number in (1, 2):
        host.net.world.run("ip", "addr", "replace", f"{made}7{number}/128", "dev", "lo", "nodad")
    if request.param == "neighbour":
        host.net.world.sysctl(ipv6__conf__all__proxy_ndp=1)
        for number in (1, 2):
            host.net.mail.run("ip", "route", "replace", f"{made}7{number}", "via", "2001:db8:25::1")
    return made


def test_blocked_by_an_operator(host: MailHost, make: Make, nft: Nft, prefix: str) -> None:
    """Rows A9 and A10: nobody else of the prefix is met."""
    daemon = make()
    daemon.start()
    mine, other = f"{prefix}71", f"{prefix}72"
    session = host.session(mine)
    assert eventually(lambda: daemon.json("status")["sessions"]["open"] == 1)
    said = daemon.cli("block", mine, "--for", "1h", check=True)
    assert f"{mine}/128 is on the block list" in said.stdout + said.stderr
    assert nft.holds("block6_nets", mine) or nft.holds("block6_nets", f"{mine}/128")
    assert ended(session)
    assert host.drops(mine)
    assert host.reached(other)
    daemon.cli("unblock", mine, check=True)
    assert host.reached(mine)


def test_blocked_by_the_score(host: MailHost, make: Make, prefix: str) -> None:
    mine, other = f"{prefix}71", f"{prefix}72"
    daemon = make(policy={"block_at": 5}, protect={"slots": 20})
    daemon.start()
    for _ in range(40):
        host.session(mine)

    def listed() -> list[str]:
        if len(host.server.open) < 10 and host.reached(mine):
            for _ in range(20):
                host.hold(host.start(mine))
        return [each["peer"] for each in daemon.json("list", "block")]

    assert eventually(lambda: listed() == [f"{mine}/128"], 40)
    assert host.drops(mine)
    assert host.reached(other)
