"""Captures replay to the verdicts they had; damaged ones are refused; recording is true."""

import json
import struct
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dpsd.capture import file, record, recording, replay
from dpsd.capture.replaying import moment
from dpsd.config import Config, parse
from dpsd.core.events import BEGIN, DESTROY, END, ENTRY, LOST, UPDATE, Event
from dpsd.daemon.listener import Take
from dpsd.errors import BadArgument, DpsdError, KernelError, NotPermitted
from dpsd.kernel.ctnetlink import Decoder, endpoints
from tests.captures import scenes
from tests.lab.net import MAIL4, MAIL6

HEAD, RECORD = 24, 16  # bytes of pcap's header and of each record's
NETFILTER = 12  # the protocol that stands before each of conntrack's datagrams
GUILTY = {
    "holder": {"10.99.128.1", "2001:db8:a800:1::/64"},
    "churner": {"10.99.128.2", "2001:db8:a800:2::/64"},
    "vanisher": {"10.99.128.3", "2001:db8:a800:3::/64"},
    "honest": set[str](),
}


def records(path: Path) -> Iterator[tuple[int, bytes]]:
    """Where each record of a capture begins, and its bytes, header and all."""
    data, at = path.read_bytes(), HEAD
    while at < len(data):
        (length,) = struct.unpack_from("=I", data, at + 8)
        yield at, data[at : at + RECORD + length]
        at += RECORD + length


def events(path: Path) -> list[Event]:
    """All that conntrack tells in a capture."""
    decoder = Decoder()
    told = [
        event
        for _, each in records(path)
        if each[2 * RECORD - 1] == NETFILTER
        for event in decoder.decode(each, [(2 * RECORD, len(each))])
    ]
    assert decoder.skipped == 0
    return told


# What is stored


@pytest.mark.parametrize("name", scenes.SCENES)
def test_a_capture_gives_the_verdicts_that_it_gave(name: str) -> None:
    assert scenes.judge(name) == json.loads(scenes.verdicts(name).read_text())


@pytest.mark.parametrize("name", scenes.SCENES)
def test_the_guilty_and_nobody_else(name: str) -> None:
    assert {verdict["peer"] for verdict in scenes.judge(name)} == GUILTY[name]


def test_another_policy_gives_other_verdicts() -> None:
    lenient = parse("protect.slots = 10\npolicy.block_at = 1000")
    assert replay(lenient, scenes.capture("holder")) == []
    for name, guilty in GUILTY.items():
        white = parse(
            f"policy.block_at = 1\nlists.white = {json.dumps(sorted(guilty))}"
            "\nproper_times.last_ack = '1s'\nstress.last_ack = '1s'"
        )
        assert replay(white, scenes.capture(name)) == []
    other_port = parse("protect.ports = [587]\npolicy.block_at = 1")
    assert replay(other_port, scenes.capture("churner")) == []


@pytest.mark.parametrize("name", scenes.SCENES)
def test_captures_are_small_and_hold_only_what_they_say(name: str) -> None:
    path = scenes.capture(name)
    assert path.stat().st_size < 100_000
    assert b"HELO" not in path.read_bytes()
    told = events(path)
    assert {event[0] for event in told} >= {UPDATE, BEGIN, END}
    sessions = [endpoints(event[1]) for event in told if event[0] in {UPDATE, ENTRY, DESTROY}]
    assert {ends.server for ends in sessions} == {MAIL4.packed, MAIL6.packed}
    assert {ends.server_port for ends in sessions} == {25}


@pytest.mark.parametrize("name", scenes.SCENES)
def test_the_file_is_laid_out_as_pcap_says(name: str) -> None:
    """https://www.tcpdump.org/linktypes/LINKTYPE_NETLINK.html"""
    data = scenes.capture(name).read_bytes()
    assert struct.unpack("<IHHiIII", data[:HEAD]) == (0xA1B23C4D, 2, 4, 0, 0, 1 << 20, 253)
    for _, each in records(scenes.capture(name)):
        _, nanoseconds, length, original = struct.unpack("<IIII", each[:RECORD])
        assert nanoseconds < 10**9
        assert length == original == len(each) - RECORD
        cooked = struct.unpack(">HH10sH", each[RECORD : 2 * RECORD])
        assert cooked == (0, 824, bytes(10), 12)  # ARPHRD_NETLINK, NETLINK_NETFILTER


# What is recorded


@pytest.fixture
def fresh(tmp_path: Path) -> Path:
    return tmp_path / "fresh.pcap"


def test_a_scene_can_be_recorded_anew(fresh: Path) -> None:
    scenes.take("churner", fresh, seconds=2.0)
    found = {verdict["peer"] for verdict in replay(scenes.config("churner"), fresh)}
    assert found == GUILTY["churner"]
    assert {event[0] for event in events(fresh)} >= {BEGIN, UPDATE, END}


def test_what_the_host_itself_opens_isnt_recorded(fresh: Path) -> None:
    """The scene has such a session, to the same port."""
    scenes.take("honest", fresh, seconds=3.0)
    told = [endpoints(event[1]) for event in events(fresh) if event[1] is not None]
    assert {ends.server for ends in told} == {MAIL4.packed, MAIL6.packed}
    assert MAIL4.packed not in {ends.peer for ends in told}
    assert replay(scenes.config("honest"), fresh) == []


def test_a_file_that_is_there_isnt_overwritten(fresh: Path) -> None:
    fresh.write_text("precious")
    with pytest.raises(FileExistsError):
        record(Config(), fresh, 1.0)
    assert fresh.read_text() == "precious"


@pytest.mark.parametrize("problem", [NotPermitted, KernelError])
def test_a_file_that_nothing_can_be_recorded_in_isnt_left(
    fresh: Path, monkeypatch: pytest.MonkeyPatch, problem: type[DpsdError]
) -> None:
    def listener(*_: object) -> None:
        raise problem("no")

    monkeypatch.setattr(recording, "Listener", listener)
    with pytest.raises(problem):
        record(Config(), fresh, 1.0)
    assert not fresh.exists()


def test_a_loss_is_recorded(fresh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Losing:
        """A listener that loses events at once."""

        def __init__(self, _ports: object, _room: object, take: Take, _keep: object) -> None:
            self.start = lambda: take([(UPDATE, b"", 0, 0, 0, 0), (LOST, None, 0, 0, 0, 0)])

        def close(self) -> None:
            pass

    monkeypatch.setattr(recording, "Listener", Losing)
    assert record(Config(), fresh, 0.0)
    assert fresh.stat().st_mode & 0o777 == 0o600
    assert events(fresh) == [(LOST, None, 0, 0, 0, 0)]


def test_nobody_is_judged_without_a_whole_dump(fresh: Path) -> None:
    def is_end(each: bytes) -> bool:
        return Decoder().decode(each, [(2 * RECORD, len(each))])[0][0] == END

    name = "churner"
    head, all_ = scenes.capture(name).read_bytes()[:HEAD], list(records(scenes.capture(name)))
    fresh.write_bytes(head + b"".join(each for _, each in all_ if not is_end(each)))
    assert replay(scenes.config(name), fresh) == []


def test_lost_events_are_in_a_capture(fresh: Path) -> None:
    """After them nobody is judged until the table has been dumped."""
    cooked = file._COOKED.pack(0, 824, NETFILTER)
    loss = file._RECORD.pack(0, 0, 32, 32) + cooked + recording._OVERRUN
    whole = [each for _, each in records(scenes.capture("churner"))]
    for place in range(0, len(whole), 7):
        stamped = whole[place][:8] + loss[8:]
        head = scenes.capture("churner").read_bytes()[:HEAD]
        fresh.write_bytes(head + b"".join([*whole[:place], stamped, *whole[place:]]))
        told = events(fresh)
        assert [event[0] for event in told].count(LOST) == 1
        before = [v["at"] for v in scenes.judge("churner")]
        at = int.from_bytes(stamped[:4], "little") + int.from_bytes(stamped[4:8], "little") / 1e9
        for verdict in replay(scenes.config("churner"), fresh):
            assert verdict["at"] in before
            assert verdict["at"] <= moment(at)


# What is damaged


def spoilt(name: str, how: Callable[[bytearray], object], path: Path) -> Path:
    data = bytearray(scenes.capture(name).read_bytes())
    how(data)
    path.write_bytes(data)
    return path


def cut(at: int) -> Callable[[bytearray], object]:
    return lambda data: data.__delitem__(slice(at, None))


def put(at: int, value: bytes) -> Callable[[bytearray], object]:
    return lambda data: data.__setitem__(slice(at, at + len(value)), value)


NOT_ONE = "isn't a capture"
MIDDLE = "ends in the middle"
LEAPS = "time leaps"
FAR = (4 * 10**9).to_bytes(4, "little")


@pytest.mark.parametrize(
    ("how", "said"),
    [
        (cut(0), NOT_ONE),
        (cut(10), NOT_ONE),
        (cut(HEAD - 1), NOT_ONE),
        (put(0, b"#!/bin/sh\n"), NOT_ONE),
        (put(0, b"\xd4\xc3\xb2\xa1"), NOT_ONE),  # pcap with microseconds
        (put(0, b"\xa1\xb2\x3c\x4d"), NOT_ONE),  # of a machine of the other byte order
        (put(20, b"\x01"), NOT_ONE),  # Ethernet
        (cut(HEAD + 1), MIDDLE),
        (cut(HEAD + RECORD - 1), MIDDLE),
        (cut(HEAD + RECORD), MIDDLE),
        (cut(HEAD + RECORD + 20), MIDDLE),
        (cut(-1), MIDDLE),
        (put(HEAD + 8, b"\xff\xff\xff\xff"), MIDDLE),
        (put(HEAD + 8, b"\0\0\0\0"), MIDDLE),
        (put(HEAD + 8, b"\x0f\0\0\0"), MIDDLE),
        (put(HEAD, FAR), LEAPS),
        (put(HEAD, b"\1\0\0\0"), LEAPS),
    ],
)
def test_a_damaged_capture_is_refused(
    how: Callable[[bytearray], object], said: str, fresh: Path
) -> None:
    with pytest.raises(BadArgument, match=said) as refused:
        replay(scenes.config("holder"), spoilt("holder", how, fresh))
    assert str(fresh) in str(refused.value)


def test_a_leap_in_the_middle_is_refused_at_once(fresh: Path) -> None:
    """Not ticked through, second by second, for a century."""
    starts = [at for at, _ in records(scenes.capture("holder"))]
    for at in starts[1:]:
        for value in (FAR, b"\1\0\0\0"):
            with pytest.raises(BadArgument, match=LEAPS):
                replay(scenes.config("holder"), spoilt("holder", put(at, value), fresh))


def test_an_empty_capture_is_none_the_worse(fresh: Path) -> None:
    assert replay(Config(), spoilt("holder", cut(HEAD), fresh)) == []


def test_whole_records_are_a_whole_capture(fresh: Path) -> None:
    """So one that was interrupted can be cut to be read."""
    for at, _ in [*records(scenes.capture("churner"))][::9]:
        found = replay(scenes.config("churner"), spoilt("churner", cut(at), fresh))
        assert found == scenes.judge("churner")[: len(found)]


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_whatever_is_damaged_is_told_or_judged(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    spoil = bytearray(scenes.capture("vanisher").read_bytes())
    for _ in range(data.draw(st.integers(1, 5))):
        spoil[data.draw(st.integers(0, len(spoil) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.mktemp("spoilt") / "spoilt.pcap"
    path.write_bytes(spoil)
    with suppress(BadArgument):
        assert all(verdict["peer"] for verdict in replay(scenes.config("vanisher"), path))
