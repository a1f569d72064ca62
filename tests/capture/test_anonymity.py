"""Other names for addresses keep what a verdict rests on, and nothing else."""

import struct
from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dpsd.capture import replay
from dpsd.capture.anonymity import Pseudonyms
from dpsd.capture.file import About, Capture, Writer
from dpsd.core.peers import parse_network
from dpsd.kernel.ctnetlink import (
    BODY,
    CT_NEW,
    HEADER,
    Decoder,
    attribute,
    dump_request,
    endpoints,
    key_of,
    messages,
    nest,
)
from dpsd.kernel.host import Host
from tests.capture.test_capture import HEAD, NETFILTER, RECORD, records
from tests.captures import scenes
from tests.lab.net import MAIL4, MAIL6

KEYS = st.binary(min_size=32, max_size=32)
SIZES = st.sampled_from([4, 16])


def shared(a: bytes, b: bytes) -> int:
    """How many leading bits two addresses share."""
    differing = int.from_bytes(a, "big") ^ int.from_bytes(b, "big")
    return 8 * len(a) - differing.bit_length()


@given(KEYS, SIZES, st.data())
def test_prefixes_are_kept_exactly(key: bytes, size: int, data: st.DataObject) -> None:
    names = Pseudonyms(key)
    a = data.draw(st.binary(min_size=size, max_size=size))
    bit = data.draw(st.integers(0, 8 * size - 1))
    tail = data.draw(st.integers(0, (1 << bit) - 1))  # another address, from this bit on
    b = (int.from_bytes(a, "big") ^ (1 << bit | tail)).to_bytes(size, "big")
    assert shared(names.address(a), names.address(b)) == shared(a, b) == 8 * size - 1 - bit


@given(KEYS, SIZES, st.data())
def test_any_two_share_as_much_as_before(key: bytes, size: int, data: st.DataObject) -> None:
    names = Pseudonyms(key)
    some = data.draw(st.lists(st.binary(min_size=size, max_size=size), min_size=2, max_size=9))
    for a in some:
        assert len(names.address(a)) == size
        for b in some:
            assert shared(names.address(a), names.address(b)) == shared(a, b)


@given(KEYS, st.binary(min_size=3, max_size=3), st.binary(min_size=15, max_size=15))
def test_a_whole_range_becomes_a_whole_range(key: bytes, four: bytes, six: bytes) -> None:
    names = Pseudonyms(key)
    for start in (four, six):
        renamed = {names.address(start + bytes([last])) for last in range(256)}
        assert len(renamed) == 256
        assert len({each[:-1] for each in renamed}) == 1


@given(KEYS, st.ip_addresses(), st.integers(0, 128))
def test_a_prefix_holds_the_same_addresses(key: bytes, address: object, length: int) -> None:
    whole = ip_network(str(address))
    network = whole.supernet(new_prefix=min(length, whole.max_prefixlen))
    names = Pseudonyms(key)
    renamed = names.network(network)
    assert renamed.prefixlen == network.prefixlen
    assert ip_address(names.address(whole.network_address.packed)) in renamed


def test_names_are_another_ones_with_another_key() -> None:
    addresses = [bytes([10, 0, n, 1]) for n in range(64)]
    one, other, again = Pseudonyms(b"1" * 32), Pseudonyms(b"2" * 32), Pseudonyms(b"1" * 32)
    assert [*map(one.address, addresses)] == [*map(again.address, addresses)]
    assert [*map(one.address, addresses)] != [*map(other.address, addresses)]
    fresh = {Pseudonyms().address(MAIL6.packed) for _ in range(8)}
    assert len(fresh) == 8


def test_half_of_the_bits_are_flipped() -> None:
    """Over many keys, each bit of an address is as likely to be kept as not."""
    flips = [0] * 32
    for n in range(400):
        renamed = Pseudonyms(n.to_bytes(32, "big")).address(MAIL4.packed)
        flipped = int.from_bytes(renamed, "big") ^ int.from_bytes(MAIL4.packed, "big")
        flips = [count + (flipped >> bit & 1) for bit, count in enumerate(flips)]
    assert all(140 < count < 260 for count in flips)


# Messages and captures


def datagrams(path: Path) -> list[bytes]:
    return [each[2 * RECORD :] for _, each in records(path) if each[2 * RECORD - 1] == NETFILTER]


@pytest.mark.parametrize("name", scenes.SCENES)
def test_messages_say_the_same_of_others(name: str) -> None:
    names, decoder = Pseudonyms(), Decoder()
    for datagram in datagrams(scenes.capture(name)):
        for start, end in messages(datagram):
            renamed = names.message(datagram[start:end])
            assert len(renamed) % 4 == 0
            (before,) = decoder.decode(datagram, [(start, end)])
            (after,) = decoder.decode(renamed, [(0, len(renamed))])
            key = before[1]
            if key is not None:
                ends = endpoints(key)
                peer, server = names.address(ends.peer), names.address(ends.server)
                key = key_of(ends._replace(peer=peer, server=server))
                for address in (ends.peer, ends.server):
                    assert address not in renamed
            assert after == (before[0], key, *before[2:])
    assert decoder.skipped == 0


def test_only_what_a_replay_needs_is_kept() -> None:
    ends = endpoints(next(key for key in keys("churner")))
    tuples = nest(1, key_of(ends)) + nest(2, key_of(ends))
    secret = nest(19, attribute(1, b"a security context\0")) + attribute(8, b"mark")
    body = bytes([2, 0, 0, 0]) + tuples + attribute(3, b"\0\0\1\x8e") + secret
    message = HEADER.pack(HEADER.size + len(body), CT_NEW, 0, 7, 9) + body
    renamed = Pseudonyms().message(message)
    length, *rest = HEADER.unpack_from(renamed)
    assert (length, rest) == (len(renamed), [CT_NEW, 0, 7, 9])
    assert len(renamed) == BODY + len(tuples) + 8
    assert not [part for part in (b"security", b"mark", ends.peer, ends.server) if part in renamed]


def test_requests_name_nobody() -> None:
    for request in (dump_request(25, 4), dump_request(587, 6)):
        assert Pseudonyms().message(request) == request


def keys(name: str) -> list[bytes]:
    told = (
        event[1]
        for datagram in datagrams(scenes.capture(name))
        for event in Decoder().decode(datagram, [(0, len(datagram))])
    )
    return [key for key in told if key is not None]


def anonymized(name: str, names: Pseudonyms, path: Path) -> Path:
    """A stored capture as it would have been recorded with other names."""
    about = About(white=tuple(scenes.config(name).white))
    all_ = [*records(scenes.capture(name))]
    seconds, nanoseconds = struct.unpack_from("=II", all_[0][1])
    with path.open("wb") as file:
        writer = Writer(file, names.about(about), seconds * 10**9 + nanoseconds)
        for _, each in all_:
            seconds, nanoseconds = struct.unpack_from("=II", each)
            datagram = each[2 * RECORD :]
            told = (names.message(datagram[start:end]) for start, end in messages(datagram))
            writer.write(b"".join(told), seconds * 10**9 + nanoseconds)
    return path


@settings(max_examples=12, deadline=None)
@given(key=KEYS, name=st.sampled_from([*scenes.SCENES]))
def test_verdicts_are_the_same_up_to_the_names(
    key: bytes, name: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    names, config = Pseudonyms(key), scenes.config(name)
    path = anonymized(name, names, tmp_path_factory.mktemp("other") / "names.pcap")

    def renamed(peer: str) -> str:
        return config.peers.size.text(names.network(config.peers.size.parse(peer)))

    expected = [{**each, "peer": renamed(each["peer"])} for each in scenes.judge(name)]
    assert replay(config, path) == expected


def test_about_a_recording_in_other_names() -> None:
    names = Pseudonyms()
    gateway, local = parse_network("192.0.2.1"), parse_network("127.0.0.0/8")
    host = Host(frozenset([MAIL4.packed]), (local,), (gateway,), (local,))
    about = About(host, (local, gateway))
    other = names.about(about)
    assert other.anonymized
    assert other.host.own == {names.address(MAIL4.packed)}
    assert other.host.own_prefixes == (names.network(local),)
    assert other.white == (names.network(local), names.network(gateway))
    assert other.host.gateways == (names.network(gateway),)
    assert other.host.name_servers == (names.network(local),)


def test_a_recording_in_other_names(tmp_path: Path) -> None:
    path = tmp_path / "fresh.pcap"
    scenes.take("churner", path, seconds=2.0, anonymize=True)
    found = [parse_network(v["peer"]) for v in replay(scenes.config("churner"), path)]
    assert sorted(each.version for each in found) == [4, 6]
    data, about = path.read_bytes(), Capture(path).about
    assert about.anonymized
    known = [*MAIL_ADDRESSES, ip_address("10.99.128.2"), ip_address("2001:db8:a800:2::19")]
    assert not [each for each in known if each.packed in data[HEAD:]]


MAIL_ADDRESSES = [ip_address(MAIL4.packed), ip_address(MAIL6.packed)]
