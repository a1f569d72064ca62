"""What postconf's output means: pools of slots, and networks to trust."""

from ipaddress import ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dpsd.mta.postfix import Main, Service, networks, proxied, services, slots

PORTS = (25, 465, 587)
NAMES = {"smtp": 25, "submissions": 465, "smtps": 465, "submission": 587}
MAIN = Main("100", "smtpd", "")


def services_of(*lines: str) -> list[Service]:
    """Services from lines of name/type, maxproc, command."""
    split = (line.replace("/", " ", 1).split(maxsplit=3) for line in lines)
    return [Service(name, kind, limit, command) for name, kind, limit, command in split]


def pools(*lines: str, main: Main = MAIN) -> list[tuple[list[int], int]]:
    found = slots(services_of(*lines), main, PORTS, NAMES.get)
    return [(sorted(each.pool.ports), each.pool.slots) for each in found]


def test_services_are_read_from_postconf() -> None:
    text = """\
smtp/inet/service = smtp
smtp/inet/type = inet
smtp/inet/private = n
smtp/inet/process_limit = 1
smtp/inet/command = postscreen
smtpd/pass/process_limit = -
smtpd/pass/command = smtpd
127.0.0.1:10025/inet/process_limit = 7
127.0.0.1:10025/inet/command = smtpd -o a/inet/command = b
private/odd/unix/process_limit = 3
pickup/unix/process_limit = 1
nonsense
"""
    assert services(text) == [
        Service("smtp", "inet", "1", "postscreen"),
        Service("smtpd", "pass", "-", "smtpd"),
        Service("127.0.0.1:10025", "inet", "7", "smtpd -o a/inet/command = b"),
    ]


def test_each_service_has_its_pool() -> None:
    found = pools("smtp/inet - smtpd", "submission/inet 20 smtpd", "465/inet 30 smtpd")
    assert found == [([25], 100), ([465], 30), ([587], 20)]


def test_what_the_pools_are_from_is_told() -> None:
    listed = services_of(
        "smtp/inet - smtpd", "submissions/inet 30 smtpd", "submission/inet 0 smtpd"
    )
    assert [each.words(PORTS) for each in slots(listed, MAIN, PORTS, NAMES.get)] == [
        "100 for 25: Postfix, smtp/inet, default_process_limit",
        "30 for 465: Postfix, submissions/inet, process limit in master.cf",
        "100 for 587: assumed, because Postfix sets no limit on submission/inet",
    ]


@pytest.mark.parametrize(
    ("command", "main"),
    [
        ("postscreen", MAIN),
        ("postscreen -o smtpd_service_name=smtpd", Main("100", "other", "")),
        ("postscreen -v -o smtpd_service_name = smtpd -o a=b", Main("100", "other", "")),
    ],
)
def test_behind_postscreen_smtpd_counts(command: str, main: Main) -> None:
    lines = [f"smtp/inet 1 {command}", "smtpd/pass 60 smtpd", "submission/inet 20 smtpd"]
    assert pools(*lines, main=main) == [([25], 60), ([465], 100), ([587], 20)]


def test_ports_that_share_an_smtpd_share_its_slots() -> None:
    lines = ["smtp/inet 1 postscreen", "587/inet 1 postscreen", "smtpd/pass 60 smtpd"]
    assert pools(*lines) == [([25, 587], 60), ([465], 100)]


def test_a_postscreen_that_leads_nowhere_is_told() -> None:
    (found, *_) = slots(services_of("smtp/inet 1 postscreen"), MAIN, PORTS, NAMES.get)
    assert found.words(PORTS) == (
        "100 for 25: assumed, because smtp/inet is a postscreen without a smtpd/pass"
    )


def test_of_several_addresses_the_one_with_the_fewest_slots_counts() -> None:
    lines = ["192.0.2.1:smtp/inet 50 smtpd", "[2001:db8::1]:25/inet 40 smtpd"]
    assert pools(*lines)[0] == ([25], 40)
    assert pools(*reversed(lines))[0] == ([25], 40)


def test_what_only_this_host_reaches_does_not_count() -> None:
    lines = [
        "127.0.0.1:smtp/inet 2 smtpd",
        "localhost:smtp/inet 2 smtpd",
        "[::1]:25/inet 2 smtpd",
        "smtp/inet 50 smtpd",
    ]
    assert pools(*lines)[0] == ([25], 50)


def test_ports_without_a_service_share_an_assumed_pool() -> None:
    assert pools("smtp/inet 50 smtpd", "10025/inet 5 smtpd") == [([25], 50), ([465, 587], 100)]
    assert pools() == [([25, 465, 587], 100)]


@pytest.mark.parametrize("limit", ["", "0", "$nowhere", "-1", "many"])
def test_a_default_that_is_no_number_of_slots(limit: str) -> None:
    main = Main(limit, "smtpd", "")
    (found, *_) = slots(services_of("smtp/inet - smtpd"), main, PORTS, NAMES.get)
    assert found.pool.slots == 100
    assert found.source.startswith("assumed, because Postfix")


# --- mynetworks ---------------------------------------------------------------------------------


def test_plain_networks_are_taken() -> None:
    found = networks(
        "127.0.0.0/8 [::ffff:127.0.0.0]/104 [::1]/128, 192.0.2.7\t[2001:db8::]/64 [2001:db8:1::5]"
    )
    assert list(map(str, found.trusted)) == [
        *("127.0.0.0/8", "::1/128", "192.0.2.7/32", "2001:db8::/64", "2001:db8:1::5/128"),
    ]
    assert found.left_out == ()


@pytest.mark.parametrize(
    "entry",
    [
        *("/etc/postfix/network_table", "hash:/etc/postfix/nets", "cidr:/etc/postfix/nets"),
        *("inline:{192.0.2.1=x}", "static:all", "0.0.0.0/0", "10.0.0.0/7", "[::]/0", "[2001::]/15"),
        *(
            "[::ffff:0.0.0.0]/96",
            "10.0.0.1/8",
            "mail.example.test",
            "[fe80::%eth0]/64",
            "1.2.3.4/x",
        ),
        *("1.2.3.4/", "[]", "/", "!", "!192.0.2.1", "[::ffff:1.2.3.4]/999"),
    ],
)
def test_nothing_else_is_taken_and_that_is_told(entry: str) -> None:
    found = networks(f"198.51.100.0/24 {entry} 203.0.113.0/24")
    assert list(map(str, found.trusted)) == ["198.51.100.0/24", "203.0.113.0/24"]
    (told,) = found.left_out
    assert told.startswith(f"{entry} (")
    assert told.endswith(")")


def test_a_network_with_an_exclusion_is_left_out() -> None:
    found = networks("!192.0.2.7 192.0.2.0/24 !nonsense 198.51.100.0/24 !10.0.0.0/8 10.1.0.0/16")
    assert found.trusted == (ip_network("198.51.100.0/24"),)
    assert "192.0.2.0/24 (192.0.2.7/32 is excluded from it)" in found.left_out
    assert "10.1.0.0/16 (10.0.0.0/8 is excluded from it)" in found.left_out
    assert len(found.left_out) == 5


@given(st.text())
def test_no_text_brings_down_the_readers(text: str) -> None:
    services(text)
    networks(text)


@pytest.mark.parametrize(
    ("main", "ports"),
    [
        ("", {587}),
        ("smtpd_upstream_proxy_protocol = haproxy\n", {465, 587}),
        ("a = b\npostscreen_upstream_proxy_protocol = haproxy\n", {25, 587}),
        ("smtpd_upstream_proxy_protocol =\n", {587}),
    ],
)
def test_behind_a_proxy_are_the_ports_that_say_so(main: str, ports: set[int]) -> None:
    """Row A8."""
    listed = services_of(
        "smtp/inet - postscreen",
        "smtpd/pass - smtpd",
        "465/inet - smtpd -o syslog_name=x",
        "submission/inet - smtpd -o smtpd_upstream_proxy_protocol=haproxy",
        "127.0.0.1:10025/inet - smtpd -o smtpd_upstream_proxy_protocol=haproxy",
        "2525/inet - smtpd -o smtpd_upstream_proxy_protocol=haproxy",
    )
    assert proxied(listed, main, PORTS, NAMES.get) == ports


def test_a_service_may_be_excepted_from_it() -> None:
    listed = services_of("smtp/inet - smtpd -o smtpd_upstream_proxy_protocol=")
    main = "smtpd_upstream_proxy_protocol = haproxy\n"
    assert proxied(listed, main, PORTS, NAMES.get) == set()
