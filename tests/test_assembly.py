"""What is put together of configuration, host and mail server."""

from ipaddress import ip_address

from dpsd import assembly
from dpsd.config import parse
from dpsd.core.peers import parse_network
from dpsd.kernel.host import Host
from dpsd.mta import Mta
from dpsd.mta.postfix import Networks

OWN = ("127.0.0.1", "192.0.2.1", "2001:db8::1", "fe80::1", "::1")
HOST = Host(
    frozenset(ip_address(each).packed for each in OWN),
    (parse_network("127.0.0.0/8"), parse_network("0.0.0.0/1"), parse_network("10.9.0.0/16")),
    (parse_network("192.0.2.254"), parse_network("fe80::fe")),
    (parse_network("192.0.2.53"), parse_network("10.9.0.53"), parse_network("::")),
)
CONFIG = parse('lists.white = ["::1", "192.0.2.53"]')


def test_white_is_what_the_host_has_each_address_for_itself() -> None:
    given = assembly.white(CONFIG, HOST, Mta(()))
    found = {str(peer): (each.source, each.reason) for peer, each in given.entries.items()}
    assert found == {
        "::/64": ("config", "lists.white"),
        "192.0.2.53/32": ("config", "lists.white"),
        "127.0.0.0/8": ("host", "own address"),
        "10.9.0.0/16": ("host", "own address"),
        "192.0.2.1/32": ("host", "own address"),
        "2001:db8::1/128": ("host", "own address"),
        "192.0.2.254/32": ("host", "gateway"),
        "fe80::fe/128": ("host", "gateway"),
    }
    assert given.sources == {"config", "host", "postfix"}


def test_white_is_whom_postfix_trusts_if_it_says_so() -> None:
    networks = Networks((parse_network("2001:db8::/64"), parse_network("10.9.1.0/24")))
    given = assembly.white(CONFIG, HOST, Mta((), networks))
    assert given.entries[parse_network("2001:db8::/64")].source == "postfix"
    assert parse_network("2001:db8::1") in given.entries
    assert parse_network("10.9.1.0/24") not in given.entries  # the host's own
    for unread in (None, Mta((), None, "it broke")):
        assert assembly.white(CONFIG, HOST, unread).sources == {"config", "host"}
