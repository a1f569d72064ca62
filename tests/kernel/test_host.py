"""What the routing tables and resolv.conf say of a host, in a namespace made for each test."""

import time
from ipaddress import ip_address
from pathlib import Path

import pytest

from dpsd.core.peers import Network, parse_network
from dpsd.errors import KernelError
from dpsd.kernel import host
from dpsd.kernel.host import Host, look
from tests.kernel.netns import run


def net(text: str) -> Network:
    return parse_network(text)


def packed(text: str) -> bytes:
    return ip_address(text).packed


@pytest.fixture
def wire(namespace: int) -> None:
    """An interface with an address of each family, and a network behind it."""
    assert namespace
    run("ip link add name near type veth peer name far")
    run("ip address add 192.0.2.1/24 dev near")
    run("ip address add 2001:db8:1::1/64 dev near nodad")
    run("ip link set near up")
    run("ip link set far up")


@pytest.fixture
def resolv_conf(tmp_path: Path) -> Path:
    return tmp_path / "resolv.conf"


def neighbours(resolv_conf: Path) -> set[str]:
    here = look(resolv_conf)
    return {str(each) for each in (*here.gateways, *here.name_servers)}


@pytest.mark.usefixtures("wire")
def test_own_addresses(resolv_conf: Path) -> None:
    here = look(resolv_conf)
    for own in ("192.0.2.1", "127.0.0.1", "127.9.9.9", "2001:db8:1::1", "::1"):
        assert here.is_own(packed(own)), own
    for other in ("192.0.2.0", "192.0.2.2", "192.0.2.255", "128.0.0.1", "2001:db8:1::2", "::"):
        assert not here.is_own(packed(other)), other
    run("ip address add 192.0.2.9/24 dev near")
    assert not here.is_own(packed("192.0.2.9"))
    assert look(resolv_conf).is_own(packed("192.0.2.9"))


@pytest.mark.usefixtures("wire")
def test_whole_prefixes_may_be_local(resolv_conf: Path) -> None:
    run("ip route add local 10.99.0.0/16 dev lo")
    run("ip route add local 2001:db8:99::/48 dev lo")
    here = look(resolv_conf)
    for own in ("10.99.0.0", "10.99.255.255", "2001:db8:99:5::5"):
        assert here.is_own(packed(own)), own
    for other in ("10.98.0.1", "10.100.0.0", "2001:db8:98::"):
        assert not here.is_own(packed(other)), other
    assert here.is_near(net("10.0.0.0/8"))
    assert here.is_near(net("10.99.7.0/24"))


ROUTES = [
    (["default via 192.0.2.7"], {"192.0.2.7/32"}),
    (["default via 192.0.2.7", "default via 192.0.2.8 metric 9"], {"192.0.2.7/32", "192.0.2.8/32"}),
    (["default nexthop via 192.0.2.7 nexthop via 192.0.2.8"], {"192.0.2.7/32", "192.0.2.8/32"}),
    (["default via 192.0.2.7 table 77"], {"192.0.2.7/32"}),  # policy routing
    (["default via 192.0.2.7", "198.51.100.0/24 via 192.0.2.9"], {"192.0.2.7/32"}),
    (["default via inet6 fe80::7 dev near"], {"fe80::7/128"}),
    (["-6", "default via 2001:db8:1::7"], {"2001:db8:1::7/128"}),
    (["-6", "default via fe80::7 dev near"], {"fe80::7/128"}),
    (
        ["-6", "default nexthop via 2001:db8:1::7 nexthop via fe80::8 dev near"],
        {"2001:db8:1::7/128", "fe80::8/128"},
    ),
    (["default dev near"], set()),
    (["unreachable default"], set()),
    (["-6", "unreachable default"], set()),
    ([], set()),
]


@pytest.mark.usefixtures("wire")
@pytest.mark.parametrize(("routes", "gateways"), ROUTES)
def test_default_gateways(routes: list[str], gateways: set[str], resolv_conf: Path) -> None:
    version = "-4"
    for route in routes:
        if route == "-6":
            version = route
        else:
            run(f"ip {version} route add {route}")
    assert neighbours(resolv_conf) == gateways


@pytest.mark.usefixtures("wire")
def test_a_gateway_by_a_nexthop_object(resolv_conf: Path) -> None:
    run("ip nexthop add id 5 via 192.0.2.7 dev near")
    run("ip route add default nhid 5")
    assert neighbours(resolv_conf) == {"192.0.2.7/32"}


@pytest.mark.usefixtures("namespace")
@pytest.mark.parametrize(
    ("text", "servers"),
    [
        ("nameserver 203.0.113.53\n", {"203.0.113.53/32"}),
        (
            "nameserver 203.0.113.53\nnameserver 2001:db8::53",
            {"203.0.113.53/32", "2001:db8::53/128"},
        ),
        ("  nameserver   203.0.113.53  \n", {"203.0.113.53/32"}),
        ("nameserver\t203.0.113.53\n", {"203.0.113.53/32"}),
        ("nameserver fe80::53%near\n", {"fe80::53/128"}),
        ("nameserver ::ffff:203.0.113.53\n", {"203.0.113.53/32"}),
        ("nameserver 203.0.113.53 # the first\n", {"203.0.113.53/32"}),
        ("# nameserver 203.0.113.53\nsearch example.org\noptions edns0\n", set()),
        ("nameserver\nnameserver nonsense\nnameservers 203.0.113.53\n", set()),
        ("", set()),
        ("\xff\xfe", set()),
    ],
)
def test_name_servers(text: str, servers: set[str], resolv_conf: Path) -> None:
    resolv_conf.write_text(text, encoding="latin-1")
    assert neighbours(resolv_conf) == servers


@pytest.mark.usefixtures("namespace")
def test_no_resolv_conf_is_no_error(resolv_conf: Path) -> None:
    assert neighbours(resolv_conf) == set()
    resolv_conf.mkdir()
    assert neighbours(resolv_conf) == set()


def test_a_kernel_that_wont_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(host, "socket", refuse)
    with pytest.raises(KernelError, match="routing tables"):
        look()


HOST = Host(
    frozenset(map(packed, ("192.0.2.1", "2001:db8:1::1"))),
    (net("127.0.0.0/8"), net("2001:db8:99::/48")),
    (net("198.51.100.1"), net("fe80::1")),
)


@pytest.mark.parametrize(
    "network",
    [
        "192.0.2.1",
        "192.0.2.0/24",
        "0.0.0.0/0",
        "127.1.2.3",
        "126.0.0.0/7",
        "198.51.100.1",
        "2001:db8:1::/64",  # the peer that the host's own address is in
        "2001:db8:1::1",
        "2001:db8:99:7::/64",
        "2001:db8::/32",
        "fe80::/64",
    ],
)
def test_near(network: str) -> None:
    assert HOST.is_near(net(network))


@pytest.mark.parametrize(
    "network",
    [
        "192.0.2.2",
        "192.0.3.0/24",
        "128.0.0.0/8",
        "198.51.100.0/32",
        "2001:db8:2::/64",
        "fe80:0:0:1::/64",
    ],
)
def test_far(network: str) -> None:
    assert not HOST.is_near(net(network))


def test_a_host_that_knows_nothing_has_nothing() -> None:
    assert not Host().is_own(packed("127.0.0.1"))
    assert not Host().is_near(net("0.0.0.0/0"))


@pytest.mark.usefixtures("wire")
def test_of_very_many_routes_few_are_looked_at(resolv_conf: Path, tmp_path: Path) -> None:
    changes = host.Changes()
    run("ip route add default via 192.0.2.7")
    assert changes.any()
    routes = tmp_path / "routes"
    routes.write_text(
        "".join(
            f"route add 20.{a}.{b}.{c}/30 via 192.0.2.9\n"
            for a in range(13)
            for b in range(256)
            for c in range(0, 240, 4)
        )
    )
    run(f"ip -batch {routes}")
    assert not changes.any()
    began = time.thread_time()
    assert neighbours(resolv_conf) == {"192.0.2.7/32"}
    print(f"{time.thread_time() - began:.2f} s")
    run("ip address add 192.0.2.33/24 dev near")
    assert changes.any()
    assert look(resolv_conf).is_own(packed("192.0.2.33"))
    changes.close()


@pytest.mark.usefixtures("wire")
def test_its_own_private_networks(resolv_conf: Path) -> None:
    """Row A12: of containers and virtual machines; not a site's LAN, nor what is only routed."""
    run("ip link add inner type bridge")
    run("ip address add 172.18.0.1/16 dev inner")
    run("ip address add fd00:5::1/64 dev inner nodad")
    run("ip address add 192.168.7.1/24 dev near")
    run("ip route add default via 192.0.2.254")
    run("ip route add 10.5.0.0/16 via 192.0.2.253")
    here = look(resolv_conf)
    for inside in ("172.18.0.5", "fd00:5::/64", "192.0.2.254", "172.18.7.0/24"):
        assert here.is_relay(net(inside)), inside
    strangers = "192.0.2.7", "192.168.7.9", "10.5.0.1", "172.19.0.1", "2001:db8:1::/64"
    for stranger in (*strangers, "172.16.0.0/12"):
        assert not here.is_relay(net(stranger)), stranger
    run("ip address add 10.0.0.1/8 dev inner")  # nobody's own network is as wide
    assert not look(resolv_conf).is_relay(net("10.77.0.1"))


@pytest.mark.usefixtures("wire")
def test_addresses_in_a_vrf_are_its_own(resolv_conf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Row A14: they aren't in the table of local routes; this kernel may have no VRFs."""
    monkeypatch.setattr(host, "_routes", lambda *_: iter(()))
    here = look(resolv_conf)
    assert here.is_own(packed("192.0.2.1"))
    assert here.is_own(packed("2001:db8:1::1"))
