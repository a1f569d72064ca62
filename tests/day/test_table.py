"""The model tells what a real kernel told: the captures of tests/captures are the oracle."""

from collections.abc import Iterator

import pytest

from dpsd.core.events import ASSURED, CLOSE_INIT, DESTROY, ENTRY, UPDATE, Event, State
from dpsd.kernel.ctnetlink import endpoints
from tests.capture.test_capture import events
from tests.captures import scenes
from tests.day.session import Peer, Script, Session
from tests.day.table import ACK, FIN, PEER, RST, SERVER, SYN, Table
from tests.day.world import Acts, World

Changes = tuple[tuple[str, bool, bool, bool], ...]
HONEST4, HOLDER4, HOLDER6 = "0a630009", "0a638001", "20010db8a8000001"
VANISHER4, VANISHER6, RESET6 = "0a638003", "20010db8a8000003", "20010db8a8000002"


def mail(session: Session) -> Acts:
    """These scripts say and hear as many bytes as the scenes."""
    yield from session.says(21)
    yield from session.answers(8)
    yield from session.says(1513)
    yield from session.answers(8)
    yield from session.quit("hurry", 8)


def hold(session: Session) -> Acts:
    yield from session.silent(0.1)
    yield from session.says(12)
    yield from session.answers(8)
    yield from session.silent(100.0)


def vanish(session: Session) -> Acts:
    yield from session.silent(0.1)
    yield from session.vanish_closing()


def reset(session: Session) -> Acts:
    session.knocks = True
    yield from session.quit("abort")


SCENES = [
    ("holder", HONEST4, mail),
    ("vanisher", HONEST4, mail),
    ("churner", HONEST4, mail),
    ("holder", HOLDER4, hold),
    ("holder", HOLDER6, hold),
    ("vanisher", VANISHER4, vanish),
    ("vanisher", VANISHER6, vanish),
    ("churner", RESET6, reset),
]


def of_sessions(told: list[Event], peers: str = "") -> Iterator[list[Event]]:
    """The events of each session from addresses that begin like this."""
    sessions: dict[bytes, list[Event]] = {}
    for event in told:
        if event[1] is not None and endpoints(event[1]).peer.hex().startswith(peers):
            sessions.setdefault(event[1], []).append(event)
    yield from sessions.values()


def changes(told: list[Event]) -> Changes:
    """Of each change: the state, whether it is ASSURED, and who sent the first FIN.

    Without SYN_RECV: a kernel that is asked for events of ASSURED sessions alone tells none.
    """
    return tuple(
        (State(state).name, bool(status & ASSURED), bool(a & CLOSE_INIT), bool(b & CLOSE_INIT))
        for kind, _, status, state, a, b in told
        if kind == UPDATE and state != State.SYN_RECV
    )


def unhurried(told: Changes) -> Changes:
    """Without CLOSE_WAIT: it is there only if a FIN's acknowledgement came by itself."""
    return tuple(each for each in told if each[0] != "CLOSE_WAIT")


def counters(told: list[Event], header: int) -> set[tuple[int, int, int]]:
    """Of each entry in a dump: packets and octets of the peer, and words of the server."""
    return {
        (each.packets, each.octets, (each.reply_octets or 0) - (each.reply_packets or 0) * header)
        for each in (event[5] for event in told if event[0] == ENTRY)
    }


def modelled(script: Script, address: bytes, seed: int) -> list[Event]:
    """What the model tells of a session, a dump among it."""
    told: list[Event] = []
    world = World(seed, hears=told.extend)
    world.server.greeted = 18

    def acts() -> Acts:
        yield from Session(world, Peer("one", address, 0.001)).run(script)

    world.start(acts(), 0.1)
    world.run(6.0)
    return told


@pytest.mark.parametrize(("name", "peers", "script"), SCENES)
def test_a_session_is_told_of_as_a_kernel_did(name: str, peers: str, script: Script) -> None:
    recorded = [*of_sessions(events(scenes.capture(name)), peers)]
    address = endpoints(recorded[0][0][1]).peer
    header = 52 if len(address) == 4 else 72
    found = [each for seed in range(20) for each in of_sessions(modelled(script, address, seed))]
    assert len(found) == 20
    ways = {changes(each) for each in recorded}
    assert {changes(each) for each in found} & ways
    assert set(map(unhurried, map(changes, found))) == set(map(unhurried, ways))
    measured = set[tuple[int, int, int]]().union(*(counters(each, header) for each in recorded))
    assert measured <= set[tuple[int, int, int]]().union(*(counters(e, header) for e in found))


MAILS = [
    told
    for name in ("honest", "holder", "churner")
    for told in of_sessions(events(scenes.capture(name)), "0a6300")
]
"""A mail's end has two ways, as the acknowledgement comes with the server's FIN or before."""


def test_both_ways_to_end_a_mail_are_modelled() -> None:
    address = endpoints(MAILS[0][0][1]).peer
    found = {changes(modelled(mail, address, seed)) for seed in range(20)}
    assert found == {changes(told) for told in MAILS}
    assert len(found) == 2


# What the captures don't show


@pytest.fixture
def table() -> Table:
    return World(1).table


def test_a_fin_that_is_sent_again_looks_like_the_other_side_s(table: Table) -> None:
    """As in the kernel's own comment: "might be a retransmitted FIN as well"."""
    row = table.open(World(1).ends(bytes(4), 25), 52)
    for side, kind in (PEER, SYN), (SERVER, SYN), (PEER, ACK), (SERVER, FIN), (SERVER, FIN):
        table.packet(row, side, kind, 0.0)
    assert row.state == State.LAST_ACK


def test_what_has_run_out_is_in_no_dump_and_destroyed_with_its_counters(table: Table) -> None:
    row = table.open(World(1).ends(bytes(4), 25), 52)
    for side, kind in (PEER, SYN), (SERVER, SYN), (PEER, ACK), (PEER, RST):
        table.packet(row, side, kind, 100.0)
    table.told.clear()
    assert [event[0] for event in table.dump((25, 4), 109.0)].count(ENTRY) == 1
    assert table.told == []
    for now in range(111, 180):  # the collector may take its time
        assert [event[0] for event in table.dump((25, 4), now)].count(ENTRY) == 0
    (event,) = table.told
    kind, _, _, state, _, measure = event
    assert (kind, state, measure.packets, measure.reply_packets) == (DESTROY, State.CLOSE, 3, 1)
