"""Where many customers share a /64 (NAT64, the server's own), each address is judged alone."""

from ipaddress import ip_address, ip_network

from dpsd.core.lists import Entry, ListName
from tests.core.transcript import Stage

HELD = "SYN_RECV ESTABLISHED"
RULES = {"slots": 10, "stress_until": 0.5, "churn_rate": 1e3, "churn_burst": 1e3}


def crowd(stage: Stage, peers: list[str], waves: int = 12) -> Stage:
    """Useless sessions, which come back whenever they are ended."""
    for wave in range(waves):
        for peer in peers:
            for number in range(max(1, 12 // len(peers))):
                stage.play(f"{stage.now} {peer}#{100 * wave + number + 1} {HELD} says=12 hears=40")
        stage.until(stage.now + 30)
    return stage


def test_ten_attackers_behind_a_nat64() -> None:
    """Row A9: each is listed; not all of IPv4, nor a prefix around them."""
    stage = Stage(dict(RULES, block_at=5.0), dumps=0.5)
    peers = [f"64:ff9b::cb00:71{number:02x}" for number in range(1, 11)]
    crowd(stage, peers, 40)
    assert {*stage.listed} == {f"{peer}/128" for peer in peers}
    nobody = ip_network("64:ff9b::c000:20a/128")
    assert stage.engine.lists.decisive(nobody) is None


def test_a_neighbour_in_the_hosts_own_prefix() -> None:
    """Row A10."""
    own = ip_address("2001:db8::25").packed
    stage = Stage(dict(RULES), dumps=0.5, immune=lambda each: ip_address(own) in each)
    stage.engine.live_among([own])
    crowd(stage, ["2001:db8::77"])
    assert stage.listed == ["2001:db8::77/128"]


def test_all_of_such_a_prefix_may_be_listed() -> None:
    """By an operator: then the sessions are looked for."""
    stage = Stage(dumps=0.5)
    for number in range(3):
        stage.play(f"0 64:ff9b::cb00:710{number} {HELD} says=12 hears=40")
    network = ip_network("64:ff9b::/64")
    stage.engine.lists.put(Entry(ListName.BLOCK, network, "", "operator", 0.0))
    assert stage.engine.sessions_of(network) == []
    assert len(stage.until(3).ended) == 3
    one = ip_network("64:ff9b::cb00:7107/128")
    stage.play(f"4 64:ff9b::cb00:7107 {HELD}")
    assert len(stage.engine.sessions_of(one)) == 1
