"""What stands at a capture's beginning, and what a replay makes of it."""

import socket
import struct
from collections.abc import Iterator
from contextlib import suppress
from ipaddress import ip_address
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dpsd.capture import replay, replaying
from dpsd.capture.file import About, Capture, Writer
from dpsd.core.events import Endpoints
from dpsd.core.peers import parse_network
from dpsd.errors import BadArgument
from dpsd.kernel import sockdiag
from dpsd.kernel.ctnetlink import HEADER, attribute, key_of
from dpsd.kernel.ending.entries import Entries
from dpsd.kernel.host import Host
from tests.capture.test_capture import GUILTY, HEAD, records
from tests.captures import scenes
from tests.lab.net import MAIL4

SOME = st.lists(st.ip_addresses().map(lambda a: parse_network(str(a))), max_size=5).map(tuple)


@st.composite
def abouts(draw: st.DrawFn) -> About:
    own = frozenset(draw(st.lists(st.ip_addresses().map(lambda a: a.packed), max_size=5)))
    wide = (parse_network("127.0.0.0/8"), parse_network("2001:db8::/32"))
    host = Host(own, draw(st.sampled_from([(), wide])), draw(SOME))
    return About(host, draw(SOME), draw(st.booleans()))


@given(abouts())
def test_what_is_told_about_a_recording_comes_back(about: About) -> None:
    assert About.unpack(about.pack()) == about


@given(abouts(), st.data())
def test_nonsense_is_told_as_such(about: About, data: st.DataObject) -> None:
    spoilt = bytearray(about.pack())
    for _ in range(3):
        spoilt[data.draw(st.integers(0, len(spoilt) - 1))] = data.draw(st.integers(0, 255))
    with suppress(ValueError):
        assert isinstance(About.unpack(bytes(spoilt)), About)


def with_about(name: str, about: About, path: Path) -> Path:
    """A stored capture, which is of before there was anything at the beginning, with it."""
    old = scenes.capture(name)
    (_, first), *_ = records(old)
    seconds, nanoseconds = struct.unpack_from("=II", first)
    with path.open("wb") as file:
        Writer(file, about, seconds * 10**9 + nanoseconds)
        file.write(old.read_bytes()[HEAD:])
    return path


def test_a_later_version_may_tell_more() -> None:
    datagram = About(Host(frozenset([b"\1\2\3\4"]))).pack() + attribute(77, b"more")
    assert About.unpack(datagram).host.own == {b"\1\2\3\4"}


def test_damage_at_the_beginning_is_refused(tmp_path: Path) -> None:
    path = with_about("holder", About(white=(parse_network("192.0.2.0/24"),)), tmp_path / "c.pcap")
    data = bytearray(path.read_bytes())
    data[HEAD + 16 + 16 + HEADER.size + 8] = 200  # the prefix length
    path.write_bytes(data)
    with pytest.raises(BadArgument, match=r"c.pcap: is damaged"):
        Capture(path)


def test_the_hosts_gateways_and_name_servers_are_spared(tmp_path: Path) -> None:
    gateway, name_server = parse_network("10.99.128.1"), parse_network("2001:db8:a800:1::53")
    for number, (near, spared) in enumerate(
        [
            (Host(gateways=(gateway,), name_servers=(name_server,)), GUILTY["holder"]),
            (Host(gateways=(gateway,)), {"10.99.128.1"}),
            (Host(own=frozenset([gateway.network_address.packed])), {"10.99.128.1"}),
            (Host(), set[str]()),
        ]
    ):
        path = with_about("holder", About(near), tmp_path / f"{number}.pcap")
        found = {verdict["peer"] for verdict in replay(scenes.config("holder"), path)}
        assert found == GUILTY["holder"] - spared


def test_the_white_list_is_the_configurations_unless_names_are_others(tmp_path: Path) -> None:
    white = (parse_network("10.99.128.1"),)
    plain = with_about("holder", About(white=white), tmp_path / "plain.pcap")
    other = with_about("holder", About(white=white, anonymized=True), tmp_path / "other.pcap")
    config = scenes.config("holder")
    assert len(replay(config, plain)) == 2
    assert {verdict["peer"] for verdict in replay(config, other)} == {"2001:db8:a800:1::/64"}


def test_what_the_host_ended_is_no_abort(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two sessions are reset: one by the host, as dpsd does it, the other by its peer."""

    def scene(stage: scenes.Stage) -> None:
        by_host, by_peer = (stage.connect(peer) for peer in ("10.99.128.5", "10.99.128.6"))
        for client in (by_host, by_peer):
            client.recv(100)
        peer, port = by_host.getsockname()
        ends = Endpoints(ip_address(peer).packed, MAIL4.packed, port, 25)
        with stage.net.mail.entered():
            session = sockdiag.Session(ends.server, 25, ends.peer, port)
            assert sockdiag.destroy([session]) == [0]
            entries = Entries()
            assert entries.forget(entries.look([key_of(ends)]).values()) == 1
        by_peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        by_peer.close()
        by_host.close()

    monkeypatch.setitem(scenes.SCENES, "honest", (scene, 20.0))  # until a dump finds it over
    path = tmp_path / "ended.pcap"
    scenes.take("honest", path)
    config = scenes.config("honest")

    def guilty() -> set[str]:
        return {verdict["peer"] for verdict in replay(config, path)}

    assert guilty() == {"10.99.128.6"}

    def nothing(*_: object) -> Iterator[bytes]:
        yield from ()

    monkeypatch.setattr(replaying, "_ended", nothing)
    assert guilty() == {"10.99.128.5", "10.99.128.6"}


def test_a_recording_begins_with_its_host(tmp_path: Path) -> None:
    path = tmp_path / "fresh.pcap"
    scenes.take("honest", path, seconds=0.5)
    about = Capture(path).about
    assert MAIL4.packed in about.host.own
    assert parse_network("127.0.0.0/8") in about.host.own_prefixes
    assert about.white == tuple(scenes.config("honest").white)
    assert not about.anonymized
