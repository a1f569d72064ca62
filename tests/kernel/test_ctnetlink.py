"""The decoder against pyroute2's, against a real kernel's messages, and against nonsense."""

import socket
from contextlib import ExitStack, suppress
from ipaddress import ip_address
from itertools import permutations
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyroute2.netlink.nfnetlink.nfctsocket import nfct_msg

from dpsd.core.events import BEGIN, DESTROY, END, ENTRY, LOST, UPDATE, Endpoints, Event, Measure
from dpsd.kernel import ctnetlink
from dpsd.kernel.ctnetlink import (
    CT_DELETE,
    CT_NEW,
    NLM_F_MULTI,
    Decoder,
    attribute,
    endpoints,
    key_of,
    message,
    messages,
    nest,
)
from tests.kernel.netns import run

STORED = {
    name: bytes.fromhex(text)
    for line in Path(__file__).with_name("messages.txt").read_text().splitlines()
    if not line.startswith("#")
    for name, text in [line.split(": ")]
}
EVENTS = {name: each for name, each in STORED.items() if name != "done"}
PEER = {4: Endpoints(ip_address("203.0.113.7").packed, ip_address("192.0.2.25").packed, 40000, 25)}
PEER[6] = Endpoints(
    ip_address("2001:db8:5::7").packed, ip_address("2001:db8::25").packed, 40000, 25
)


def decode(*datagrams: bytes, decoder: Decoder | None = None) -> tuple[list[Event], int]:
    """The events in some datagrams that lie side by side, and how many messages were skipped."""
    decoder = decoder or Decoder()
    before, spans, at = decoder.skipped, [], 0
    for datagram in datagrams:
        spans.append((at, at + len(datagram)))
        at += len(datagram)
    events = decoder.decode(b"".join(datagrams), spans)
    return events, decoder.skipped - before


def warm() -> Decoder:
    """A decoder that knows the shapes of all stored messages."""
    decoder = Decoder()
    assert len(decode(*STORED.values(), decoder=decoder)[0]) == len(STORED)
    return decoder


def assert_sound(events: list[Event]) -> None:
    """Whatever came out, its keys are keys."""
    for kind, key, *_ in events:
        assert kind in {UPDATE, ENTRY, DESTROY, BEGIN, END, LOST}
        assert key is None or key_of(endpoints(key)) == key


# pyroute2 is the oracle


def oracle(datagram: bytes) -> list[Event]:
    """What pyroute2 finds in a datagram, as our events."""
    found = []
    for start, end in messages(datagram):
        told: Any = nfct_msg(datagram[start:end])
        told.decode()
        proto = told.get_nested("CTA_TUPLE_ORIG", "CTA_TUPLE_PROTO")
        if proto.get_attr("CTA_PROTO_NUM") == socket.IPPROTO_TCP:
            found.append(_told(told, proto))
    return found


def _told(told: Any, proto: Any) -> Event:
    ip = told.get_nested("CTA_TUPLE_ORIG", "CTA_TUPLE_IP")
    source, destination = (
        ip_address(ip.get_attr(f"CTA_IP_V4_{end}") or ip.get_attr(f"CTA_IP_V6_{end}")).packed
        for end in ("SRC", "DST")
    )
    ports = proto.get_attr("CTA_PROTO_SRC_PORT"), proto.get_attr("CTA_PROTO_DST_PORT")
    key = key_of(Endpoints(source, destination, *ports))
    status = told.get_attr("CTA_STATUS") & 0xFF
    tcp = told.get_nested("CTA_PROTOINFO", "CTA_PROTOINFO_TCP")
    state = tcp.get_attr("CTA_PROTOINFO_TCP_STATE")
    counted = [
        told.get_nested(f"CTA_COUNTERS_{way}", f"CTA_COUNTERS_{what}")
        for way in ("ORIG", "REPLY")
        for what in ("PACKETS", "BYTES")
    ]
    if told["header"]["type"] == CT_DELETE:
        return (DESTROY, key, status, state, None, Measure(None, *counted))
    flags = [tcp.get_attr(f"CTA_PROTOINFO_TCP_FLAGS_{way}")[0] for way in ("ORIGINAL", "REPLY")]
    if told["header"]["flags"] & NLM_F_MULTI:
        measure = Measure(told.get_attr("CTA_TIMEOUT"), *counted)
        return (ENTRY, key, status, state, tuple(flags), measure)
    return (UPDATE, key, status, state, *flags)


@pytest.mark.parametrize("name", EVENTS)
def test_stored_messages_are_what_pyroute2_says(name: str) -> None:
    assert decode(EVENTS[name]) == (oracle(EVENTS[name]), 0)
    assert decode(EVENTS[name], decoder=warm()) == (oracle(EVENTS[name]), 0)


def test_a_stored_message_in_plain_words() -> None:
    (event,), _ = decode(STORED["destroy v4 acct=1"])
    kind, key, status, state, _, measure = event
    assert (kind, status & 4, state) == (DESTROY, 4, 7)
    assert endpoints(key) == PEER[4]._replace(peer_port=40001)
    assert measure == Measure(None, 4, 216, 2, 112)


@pytest.fixture(params=[(0, 0), (1, 0), (0, 1), (1, 1)], ids=lambda p: f"acct={p[0]},time={p[1]}")
def heard(request: pytest.FixtureRequest, namespace: int) -> list[bytes]:
    """All that the kernel told, in events and dumps, of some sessions, TCP and others."""
    assert namespace
    for name, value in zip(("acct", "timestamp"), request.param, strict=True):
        Path(f"/proc/sys/net/netfilter/nf_conntrack_{name}").write_text(str(value))
    run("nft add table inet tracked")
    run("nft add chain inet tracked input { type filter hook input priority 0; }")
    run("nft add rule inet tracked input ct state new accept")
    with ExitStack() as sockets:

        def netfilter(groups: int) -> socket.socket:
            opened = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 12)
            opened.bind((0, groups))
            return sockets.enter_context(opened)

        events, table = netfilter(7), netfilter(0)
        _stage(sockets, ["127.0.0.1", "::1"])
        found = []
        for family in (2, 10):
            table.send(message(ctnetlink.CT_GET, 0x301, family))
            while (part := table.recv(1 << 16))[4] != ctnetlink.NLMSG_DONE:
                found.append(part)
        run("conntrack -F")
        events.setblocking(False)
        with suppress(BlockingIOError):
            while True:
                found.append(events.recv(1 << 16))
    return found


def _stage(sockets: ExitStack, hosts: list[str]) -> None:
    listener = socket.create_server(("::", 25), family=socket.AF_INET6, dualstack_ipv6=True)
    sockets.enter_context(listener)
    for host in hosts:
        for how in ("closed", "reset", "open", "udp"):
            if how == "udp":
                family = socket.AF_INET6 if ":" in host else socket.AF_INET
                datagrams = sockets.enter_context(socket.socket(family, socket.SOCK_DGRAM))
                datagrams.sendto(b"?", (host, 25))
                continue
            client = sockets.enter_context(socket.create_connection((host, 25)))
            server = sockets.enter_context(listener.accept()[0])
            if how == "reset":
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            if how != "open":
                client.close()
                server.close()


def test_a_real_kernels_messages_are_what_pyroute2_says(heard: list[bytes]) -> None:
    decoder = Decoder()
    kinds = set()
    for datagram in heard:
        expected = oracle(datagram)
        events, skipped = decode(datagram, decoder=decoder)
        assert events == expected
        assert skipped == len([*messages(datagram)]) - len(expected)  # UDP
        kinds |= {(event[0], len(endpoints(event[1]).peer)) for event in events}
    assert kinds == {(kind, size) for kind in (UPDATE, ENTRY, DESTROY) for size in (4, 16)}
    assert decoder.skipped > 0


# Messages that the kernel here doesn't send


def parts(ends: Endpoints, proto: int = 6) -> dict[str, bytes]:
    """The attributes of a message by name, in the kernel's order."""

    def counters(kind: int, packets: int, octets: int) -> bytes:
        told = attribute(1, packets.to_bytes(8, "big")) + attribute(2, octets.to_bytes(8, "big"))
        return nest(kind, told)

    key = key_of(ends).replace(b"\5\0\1\0\6", b"\5\0\1\0" + bytes([proto]))
    tcp = [
        attribute(1, b"\3"),
        attribute(2, b"\x0a"),
        attribute(3, b"\x0a"),
        attribute(4, b"\x23\0"),
        attribute(5, b"\x27\0"),
    ]
    return {
        "orig": nest(1, key),
        "reply": nest(2, key),
        "id": attribute(12, b"abcd"),
        "status": attribute(3, (14).to_bytes(4, "big")),
        "timeout": attribute(7, (432000).to_bytes(4, "big")),
        "sent": counters(9, 7, 700),
        "got": counters(10, 5, 500),
        "info": nest(4, nest(1, b"".join(tcp))),
    }


EXPECTED = {
    UPDATE: (UPDATE, key_of(PEER[4]), 14, 3, 0x23, 0x27),
    ENTRY: (ENTRY, key_of(PEER[4]), 14, 3, (0x23, 0x27), Measure(432000, 7, 700, 5, 500)),
    DESTROY: (DESTROY, key_of(PEER[4]), 14, 3, None, Measure(None, 7, 700, 5, 500)),
}
HEADERS = {UPDATE: (CT_NEW, 0), ENTRY: (CT_NEW, NLM_F_MULTI), DESTROY: (CT_DELETE, 0)}


@pytest.mark.parametrize("kind", EXPECTED)
def test_attributes_in_any_order(kind: int) -> None:
    """All of them have the same length, so the first eight bytes alike, and another shape."""
    decoder = Decoder()
    for n, order in enumerate(permutations(parts(PEER[4]).values())):
        if n % 97 == 0:
            for _ in range(2):
                told = message(*HEADERS[kind], 2, b"".join(order))
                assert decode(told, decoder=decoder) == ([EXPECTED[kind]], 0)


EXTRA = {
    "mark": attribute(8, bytes(4)),
    "labels": attribute(22, b"\xff" * 16),
    "labels mask": attribute(23, bytes(16)),
    "zone": attribute(18, b"\0\7"),
    "secctx": nest(19, attribute(1, b"system_u:object_r:mail_t:s0\0")),
    "unknown": attribute(99, b"x" * 50),
    "unknown nest": nest(98, attribute(1, b"abc") + nest(2, attribute(3, b"d"))),
    "empty": attribute(97, b""),
}


@pytest.mark.parametrize("kind", EXPECTED)
@pytest.mark.parametrize("extra", EXTRA)
def test_more_attributes_than_expected(kind: int, extra: str) -> None:
    decoder = Decoder()
    known = list(parts(PEER[4]).values())
    for place in range(len(known) + 1):
        told = message(*HEADERS[kind], 2, b"".join([*known[:place], EXTRA[extra], *known[place:]]))
        assert decode(told, told, decoder=decoder) == ([EXPECTED[kind]] * 2, 0)


@pytest.mark.parametrize(
    ("kind", "absent", "expected"),
    [
        (UPDATE, "reply", EXPECTED[UPDATE]),
        (UPDATE, "timeout", EXPECTED[UPDATE]),
        (UPDATE, "orig", None),
        (UPDATE, "status", None),
        (UPDATE, "info", None),
        (ENTRY, "info", None),
        (ENTRY, "timeout", (*EXPECTED[ENTRY][:5], Measure(None, 7, 700, 5, 500))),
        (ENTRY, "sent", (*EXPECTED[ENTRY][:5], Measure(432000, None, None, 5, 500))),
        (DESTROY, "info", (DESTROY, key_of(PEER[4]), 14, 0, None, Measure(None, 7, 700, 5, 500))),
        (DESTROY, "status", None),
    ],
)
def test_fewer_attributes_than_expected(kind: int, absent: str, expected: Event | None) -> None:
    told = parts(PEER[4])
    del told[absent]
    result = ([expected], 0) if expected else ([], 1)
    assert decode(message(*HEADERS[kind], 2, b"".join(told.values()))) == result


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("proto", [17, 33, 132, 1])
def test_other_protocols_are_skipped_though_they_look_alike(version: int, proto: int) -> None:
    decoder = warm()
    for kind, (command, flags) in HEADERS.items():
        for absent in ("", "info"):  # without protoinfo a DESTROY of UDP has the shape of TCP's
            told = {each: parts(PEER[version], each) for each in (6, proto)}
            tcp, other = (
                message(command, flags, 2, b"".join(v for n, v in told[p].items() if n != absent))
                for p in (6, proto)
            )
            events, _ = decode(tcp, other, tcp, decoder=decoder)
            assert len(events) == (0 if absent and kind != DESTROY else 2)


def test_addresses_and_ports_in_another_order_make_no_key() -> None:
    """The key is read by offset: it has to be laid out as the kernel does it."""
    ends = PEER[4]
    addresses = [attribute(1, ends.peer), attribute(2, ends.server)]
    numbers = [attribute(1, b"\6"), attribute(2, b"\x9c\x40"), attribute(3, b"\0\x19")]
    decoder = Decoder()
    for ip in permutations(addresses):
        for proto in permutations(numbers):
            halves = [nest(1, b"".join(ip)), nest(2, b"".join(proto))]
            for key in permutations(halves):
                told = {**parts(ends), "orig": nest(1, b"".join(key))}
                events, skipped = decode(
                    message(CT_NEW, 0, 2, b"".join(told.values())), decoder=decoder
                )
                straight = [*ip, *proto, *key] == [*addresses, *numbers, *halves]
                assert (len(events), skipped) == ((1, 0) if straight else (0, 1))


# Control messages


@pytest.mark.parametrize("port", [25, 587, 65535])
@pytest.mark.parametrize("version", [4, 6])
def test_a_dump_request_says_what_is_asked_for(port: int, version: int) -> None:
    assert decode(ctnetlink.dump_request(port, version)) == (
        [(BEGIN, None, 0, 0, port, version)],
        0,
    )


def test_ends_errors_and_losses() -> None:
    def control(kind: int, body: bytes) -> bytes:
        return ctnetlink.HEADER.pack(16 + len(body), kind, 2, 0, 0) + body

    assert decode(STORED["done"]) == ([(END, None, 0, 0, 0, 0)], 0)
    assert decode(control(3, b"\xff\xff\xff\xff")) == ([(END, None, 0, 0, 1, 0)], 0)
    assert decode(control(2, b"\xf0\xff\xff\xff" + bytes(20))) == ([(END, None, 0, 0, 16, 0)], 0)
    assert decode(control(4, b"")) == ([(LOST, None, 0, 0, 0, 0)], 0)
    assert decode(control(4, bytes(4))) == ([(LOST, None, 0, 0, 0, 0)], 0)
    assert decode(control(2, b"")) == ([], 1)
    assert decode(control(1, bytes(4))) == ([], 1)  # NLMSG_NOOP
    bare = ctnetlink.HEADER.pack(16, ctnetlink.CT_GET, 0x301, 0, 0)
    assert decode(bare, STORED["done"]) == ([(END, None, 0, 0, 0, 0)], 1)


# Nonsense


@pytest.mark.parametrize("name", STORED)
def test_truncated_anywhere(name: str) -> None:
    whole, decoder = STORED[name], warm()
    for length in range(len(whole)):
        skipped = 1 if length else 0
        assert decode(whole[:length]) == ([], skipped), length
        assert decode(whole[:length], decoder=decoder) == ([], skipped), length
        # What lies behind the end is another datagram's, or an older one's.
        behind = whole[:length] + whole[length:]
        assert decoder.decode(behind, [(0, length)]) == []


@pytest.mark.parametrize("name", STORED)
def test_every_single_bit_turned(name: str) -> None:
    """Known shapes may accept what a walk refuses, but never for another session."""
    decoder = warm()
    for bit in range(8 * len(STORED[name])):
        damaged = bytearray(STORED[name])
        damaged[bit // 8] ^= 1 << bit % 8
        cold, skipped = decode(bytes(damaged))
        events, skipped_warm = decode(bytes(damaged), decoder=decoder)
        assert_sound(cold)
        assert_sound(events)
        assert [event[:2] for event in events] == [event[:2] for event in cold] or not cold
        assert len(cold) + skipped >= 1
        assert len(events) + skipped_warm >= 1


@settings(max_examples=500, deadline=None)
@given(st.binary(max_size=400))
def test_random_bytes(noise: bytes) -> None:
    events, skipped = decode(noise)
    assert_sound(events)
    assert bool(noise) == bool(len(events) + skipped)


@settings(max_examples=500, deadline=None)
@given(st.data())
def test_stored_messages_damaged_and_mixed(data: st.DataObject) -> None:
    decoder = warm()
    datagrams = []
    for name in data.draw(st.lists(st.sampled_from([*STORED]), max_size=6)):
        told = bytearray(STORED[name])
        for _ in range(data.draw(st.integers(0, 4))):
            told[data.draw(st.integers(0, len(told) - 1))] = data.draw(st.integers(0, 255))
        datagrams.append(bytes(told[: data.draw(st.integers(0, len(told)))]))
    assert_sound(decode(*datagrams)[0])
    assert_sound(decode(*datagrams, decoder=decoder)[0])
    assert_sound(decode(b"".join(datagrams), decoder=decoder)[0])


@given(st.integers(0, 0xFFFF), st.integers(0, 0xFFFF), st.binary(max_size=60))
def test_foreign_messages_are_skipped(kind: int, flags: int, body: bytes) -> None:
    if kind not in {CT_NEW, CT_DELETE, ctnetlink.CT_GET, 2, 3, 4}:
        foreign = ctnetlink.HEADER.pack(16 + len(body), kind, flags, 0, 0) + body
        padded = foreign + bytes(-len(foreign) % 4)
        both = decode(padded + STORED["established v4 acct=0"])
        assert both == (oracle(STORED["established v4 acct=0"]), 1)


def test_nests_without_end() -> None:
    deep = b""
    while len(deep) < 60000:
        deep = nest(1, deep)
    assert decode(message(CT_NEW, 0, 2, deep)) == ([], 1)


def test_several_messages_in_one_datagram() -> None:
    first, second = STORED["entry v4 acct=1"], STORED["entry v6 acct=0"]
    odd = message(0x999, 0, 0, b"odd")  # 23 bytes and one of padding
    for decoder in (Decoder(), warm()):
        events, skipped = decode(
            first + second + odd + b"\0" + first + STORED["done"], decoder=decoder
        )
        assert [event[0] for event in events] == [ENTRY, ENTRY, ENTRY, END]
        assert skipped == 1
        events, skipped = decode(first + second[:-1], first, decoder=decoder)
        assert [event[0] for event in events] == [ENTRY, ENTRY]
        assert skipped == 1


def test_a_slot_keeps_what_was_there_before() -> None:
    """The event socket's buffer isn't cleared: only what was received counts."""
    whole = STORED["established v4 acct=0"]
    buffer = bytearray(1024) + bytearray(1024)
    buffer[1024 : 1024 + len(whole)] = whole
    decoder = warm()
    assert decoder.decode(buffer, [(1024, 1024 + len(whole) - 1)]) == []
    assert decoder.decode(buffer, [(1024, 1024)]) == []
    assert len(decoder.decode(buffer, [(0, 0), (1024, 1024 + len(whole))])) == 1


# Keys


packed = st.one_of(
    st.tuples(*[st.binary(min_size=4, max_size=4)] * 2),
    st.tuples(*[st.binary(min_size=16, max_size=16)] * 2),
)
ports = st.integers(0, 0xFFFF)


@given(packed, ports, ports)
def test_keys_there_and_back(ends: tuple[bytes, bytes], one: int, other: int) -> None:
    told = Endpoints(*ends, one, other)
    assert endpoints(key_of(told)) == told


@given(st.binary(max_size=80).filter(lambda key: len(key) not in {48, 72}))
def test_what_is_no_key_has_no_endpoints(key: bytes) -> None:
    with pytest.raises(ValueError, match="no connection"):
        endpoints(key)


@pytest.mark.parametrize("version", [4, 6])
def test_the_key_is_the_kernels(version: int) -> None:
    (event,), _ = decode(STORED[f"established v{version} acct=0"])
    assert event[1] == key_of(PEER[version])
