"""Who pays for sessions that were ended, who is excused, and how long who came back has to wait.

W is white and holds more sessions than there are slots: so slots run short all the time.
"""

from typing import Any

import pytest

from dpsd import assembly
from dpsd.config import Config
from dpsd.core.events import Word
from dpsd.core.evidence import Excuse, Kind
from dpsd.core.lists import ListName
from dpsd.core.numbers import (
    DEFER_GROWS,
    FEW_AT_ONCE,
    FEW_LATER,
    REPLY_FACTOR,
)
from dpsd.core.scores import Peer
from dpsd.core.turn import PEER, SERVER, UNFINISHED, Progress, Turn
from tests.core.transcript import CREDIT_MOST, DEFER, GRACE, PLAIN, Stage, address_key, network

A, B, W = "203.0.113.1", "203.0.113.2", "192.0.2.7"
HELD = "SYN_RECV ESTABLISHED"
LEAVES = "FIN_WAIT/peer LAST_ACK TIME_WAIT GONE"
COST = 10.0


def scarce(**more: Any) -> Stage:
    """A stage where slots have run short, at second 3."""
    rules = {"slots": 10, "crowd_cost": COST, "block_at": 1e6, **more.pop("rules", {})}
    stage = Stage(rules, dumps=1, white=(W,), **more)
    return stage.play("\n".join(f"0 {W}#{n} {HELD}" for n in range(13))).until(3)


def known(stage: Stage, name: str = A) -> Peer:
    found = stage.engine.scores.get(address_key(name))
    assert found is not None
    return found


def hold(stage: Stage, number: int, at: float, until: float, name: str = A, **how: str) -> Stage:
    """A session of no use, which is ended some two seconds after it came."""
    words = how.get("words", HELD)
    stage.play(f"{at} {name}#{number} {words}").until(until)
    assert stage.key(f"{name}#{number}") in stage.ended
    return stage


# Who comes back


def test_the_first_one_that_is_ended_costs_nothing_but_time() -> None:
    stage = hold(scarce(), 1, 4, 8)
    assert stage.evidence(A) == {}
    assert known(stage).excuse is Excuse.FIRST
    ((at, peer, seconds),) = stage.deferred
    assert (peer, seconds) == (network(A), DEFER)
    assert 4 < at <= 7


@pytest.mark.parametrize(("waits", "times"), [(0, FEW_AT_ONCE), (DEFER + 5, FEW_LATER)])
def test_who_came_back_and_was_of_no_use_again_pays(waits: float, times: float) -> None:
    """Somebody who pressed "send" again pays less than who was back at once. Here no socket told,
    so that it may have been the server's turn: it is half of what it would be."""
    stage = hold(scarce(), 1, 4, 8)
    back = known(stage).deferred_until + waits + 0.5
    hold(stage, 2, back, back + 4)
    assert stage.evidence(A) == {"crowd": pytest.approx(COST * times / REPLY_FACTOR)}
    assert known(stage).excuse is None


def test_who_came_back_where_the_socket_told_pays_all_of_it() -> None:
    silent = Word(9.0, True, 0, 90, 0.01, 0, 0, True)
    stage = Stage(
        {"slots": 10, "crowd_cost": COST, "block_at": 1e6},
        dumps=1,
        white=(W,),
        sockets=lambda *_: silent,
    )
    stage.play("\n".join(f"0 {W}#{n} {HELD}" for n in range(13)))
    hold(stage, 1, 9, 13)
    assert stage.evidence(A) == {"crowd": pytest.approx(COST * FEW_LATER)}


def test_who_came_back_and_got_somewhere_pays_less() -> None:
    """A phone that lost its line in the middle of a mail: its session only looks silent."""
    stage = hold(scarce(), 1, 4, 8)
    back = known(stage).deferred_until + 0.5
    hold(stage, 2, back, back + 30, words=f"{HELD} says=300")
    assert stage.evidence(A) == {"crowd": pytest.approx(COST * FEW_LATER / REPLY_FACTOR)}


def test_who_holds_many_pays_once_for_those_that_are_ended_together() -> None:
    """However many there are: nobody is listed at once."""
    stage = hold(scarce(), 1, 4, 8)
    back = known(stage).deferred_until + 0.5
    stage.play("\n".join(f"{back} {A}#{n} {HELD}" for n in range(2, 7))).until(back + 6)
    (each,) = known(stage).evidence.values()
    assert each.kind is Kind.CROWD
    assert each.cost == pytest.approx(COST)
    assert each.longest >= GRACE / 2
    assert each.most == 5


def test_who_holds_many_again_that_had_their_time_pays_for_more_of_them() -> None:
    stage = scarce()
    peer, judge = stage.engine.scores.peer(address_key(A), stage.now), stage.engine.judge
    peer.held, peer.deferrals, peer.charged = 5, 2, COST
    progress = Progress(0.0, True)
    progress.exact = True
    assert judge._crowd_cost(peer, progress, GRACE, False) == 0.0
    assert judge._crowd_cost(peer, progress, 3 * GRACE, False) == pytest.approx(COST)
    peer.charged = 2 * COST
    assert judge._crowd_cost(peer, progress, 3 * GRACE, False) == 0.0


def test_who_is_ended_again_and_again_is_listed() -> None:
    stage, at = scarce(rules={"block_at": 60.0}), 4.0
    for number in range(1, 16):
        if stage.listed:
            break
        hold(stage, number, at, at + 4)
        at = max(known(stage).deferred_until, stage.now) + 0.5
    assert stage.listed == [A]
    assert "ended to make room" in stage.said[0][1].entry.reason


def test_who_came_after_slots_ran_short_pays_at_once_where_the_socket_told() -> None:
    silent = Word(9.0, True, 0, 90, 0.01, 0, 0, True)
    stage = hold(scarce(sockets=lambda *_: silent), 1, 9, 13)
    assert known(stage).evidence[Kind.CROWD, ""].count == 1


# Deferral


def test_a_deferral_grows_and_has_a_bound_and_is_forgiven() -> None:
    stage, at, waits = scarce(), 4.0, []
    for number in range(1, 8):
        hold(stage, number, at, at + 4)
        waits.append(stage.deferred[-1][2])
        at = max(known(stage).deferred_until, stage.now) + 0.5
    assert waits[:3] == [DEFER, DEFER * DEFER_GROWS, DEFER * DEFER_GROWS**2]
    assert waits[-1] == max(waits) == PLAIN.block_for
    stage.engine.release(network(A))
    assert known(stage).deferred_until < stage.now
    hold(stage, 9, at, at + 4)
    assert stage.deferred[-1][2] == DEFER


def test_sessions_ended_together_defer_once() -> None:
    stage = scarce().play("\n".join(f"4 {A}#{n} {HELD}" for n in range(5))).until(8)
    assert known(stage).deferrals == 1
    assert {seconds for *_, seconds in stage.deferred} == {DEFER}


def test_who_may_open_none_isnt_served_and_pays_nothing_for_it() -> None:
    """Its packets may have passed before the kernel was told."""
    stage = hold(scarce(), 1, 4, 7)
    assert known(stage).deferred_until > 8
    hold(stage, 2, 7.5, 8, words=f"{HELD} unanswered")  # at the next tick
    assert stage.evidence(A) == {}


def test_its_sessions_that_wait_in_the_servers_queue_end_as_well() -> None:
    stage = scarce().play(f"4 {A}#1 {HELD}").play(f"4 {A}#2 {HELD} unanswered")
    stage.until(8)
    assert {key[:2] for key in stage.ended} == {(A, 40001), (A, 40002)}
    assert stage.evidence(A) == {}


# Who is excused


def test_who_delivered_and_waits_for_the_next_mail_isnt_charged() -> None:
    mail = f"{HELD} says=5000"
    stage = scarce().play(f"4 {A}#1 {mail}").play(f"5.5 {A}#1 hears=30").until(30)
    assert stage.key(f"{A}#1") in stage.ended
    assert stage.evidence(A) == {}
    assert known(stage).excuse is Excuse.DELIVERED
    assert stage.deferred == []


def test_who_is_ended_in_doubt_isnt_charged() -> None:
    stage = scarce(rules={"slots": 1})  # so none is spared
    stage.play(f"4 {A}#1 {HELD}").play(f"5 {A}#1 says=30").until(15)
    assert known(stage).excuse is Excuse.REPLY_DUE
    assert stage.evidence(A) == {}


def test_who_held_many_when_some_were_ended_doesnt_hold_few_since() -> None:
    """Its sessions end one after another, and some of the new ones aren't through yet."""
    stage = scarce(rules={"few_share": 0.4})
    stage.play(f"4 {A}#1 {HELD}").play(f"5 {A}#1 says=30")
    session = stage.engine.sessions.get(stage.key(f"{A}#1"))
    assert session is not None
    assert session.progress is not None
    session.progress.turn, session.progress.since = UNFINISHED, stage.now - 10
    assert stage.engine.judge.excuse(session, stage.now) is Excuse.REPLY_DUE
    known(stage).held = 10
    assert stage.engine.judge.excuse(session, stage.now) is Excuse.REPLY_DUE  # one is very few
    session.progress.asked = 5000  # of a mail
    assert stage.engine.judge.excuse(session, stage.now) is None
    session.progress.asked = 30
    stage.play("\n".join(f"5 {A}#{n} {HELD}" for n in range(2, 7)))
    assert stage.engine.judge.excuse(session, stage.now) is None
    stage.engine.sessions.server.talk.took(10.0, stage.now)  # some do wait for long
    assert stage.engine.judge.excuse(session, stage.now) is Excuse.REPLY_DUE


@pytest.mark.parametrize(("turn", "own", "excuse"), [
    (SERVER, GRACE, Excuse.MOVING),
    (SERVER, 3 * GRACE, None),
    (PEER, GRACE, None),
])  # fmt: skip
def test_who_is_ended_in_haste_just_when_it_went_on_isnt_charged_if_the_server_is_slow(
    turn: Turn, own: float, excuse: Excuse | None
) -> None:
    stage = scarce().play("\n".join(f"4 {A}#{n} {HELD}" for n in range(5)))
    stage.play(f"5 {A}#1 says=30")
    session = stage.engine.sessions.get(stage.key(f"{A}#1"))
    assert session is not None
    assert session.progress is not None
    session.progress.turn, session.progress.own = turn, own
    assert stage.engine.judge.excuse(session, stage.now) is None
    stage.engine.sessions.server.talk.took(10.0, stage.now)
    assert stage.engine.judge.excuse(session, stage.now) is excuse


def test_how_many_it_held_is_remembered_as_long_as_its_deferrals() -> None:
    stage = scarce(rules={"half_life": 300.0})
    stage.play("\n".join(f"4 {A}#{n} {HELD}" for n in range(5)))
    peer, judge = known(stage), stage.engine.judge
    judge._defer(peer, 5.0)
    peer.sessions.clear()
    judge._defer(peer, 20.0)
    assert peer.held == 5
    judge._defer(peer, 20.0 + 301.0)
    assert peer.held == 0


def test_beside_a_server_that_takes_longer_to_reply_a_moment_costs_little() -> None:
    stage = hold(scarce(), 1, 4, 8)
    stage.engine.sessions.server.talk.took(1000.0, stage.now)
    back = known(stage).deferred_until + 0.5
    stage.play("\n".join(f"{back} {A}#{n} {HELD}" for n in range(2, 7))).until(back + 6)
    assert 0 < stage.evidence(A)["crowd"] < COST / 5


def test_who_was_never_greeted_is_neither_ended_nor_charged() -> None:
    stage = scarce().play(f"4 {A}#1 {HELD} unanswered").until(60)
    assert stage.key(f"{A}#1") not in stage.ended
    stage.play(f"60 {A}#1 {LEAVES}")
    assert stage.evidence(A) == {}


def test_without_counters_nobody_is_charged_and_who_moves_isnt_ended() -> None:
    """Row B11: nobody's mail is cut, since nobody knows what was said."""
    stage = scarce(counts=False).play(f"4 {A} {HELD}").play(f"4 {B} {HELD}")
    for at in range(5, 40):
        stage.play(f"{at} {A} says=50").play(f"{at}.3 {A} says=50").play(f"{at}.6 {A} says=50")
    assert {key[0] for key in stage.ended} == {B}
    back = 40.0
    for number in range(2, 6):
        hold(stage, number, back, back + 5, B)
        back = known(stage, B).deferred_until + 1
    assert stage.evidence(B) == {}
    assert known(stage, B).excuse is Excuse.UNCOUNTED


# Credit


MAIL = f"{HELD} says=9000 hears=30 {LEAVES}"


def credited(stage: Stage, mails: int) -> Stage:
    for n in range(mails):
        stage.play(f"{stage.now + 0.5} {A}#{900 + n} {MAIL}").until(stage.now + 1)
    assert stage.engine.scores.credit(known(stage), stage.now) == pytest.approx(
        min(mails, CREDIT_MOST), rel=0.01
    )
    return stage.until(stage.now + 35)


def test_credit_pays_for_what_is_ended_and_is_spent() -> None:
    stage = credited(scarce(), 2)
    for number in (1, 2):
        hold(stage, number, stage.now + 1, stage.now + 6)
        assert known(stage).excuse is Excuse.CREDIT
    assert stage.deferred == []
    hold(stage, 3, stage.now + 1, stage.now + 6)
    assert len(stage.deferred) == 1


def test_credit_makes_nobody_untouchable() -> None:
    """Row B3: 200 mails, and then sessions of no use."""
    stage = credited(scarce(rules={"block_at": 60.0, "churn_rate": 1e3}), 200)
    ended = 0
    while not stage.listed and ended < 40:
        ended += 1
        peer = stage.engine.scores.get(address_key(A))
        at = max(peer.deferred_until if peer else 0.0, stage.now) + 1
        hold(stage, ended, at, at + 5)
    assert stage.listed == [A]
    assert CREDIT_MOST < ended < 40


def test_who_delivered_within_the_half_minute_isnt_charged() -> None:
    stage = scarce()
    for n in (1, 2):
        stage.play(f"{stage.now + 0.5} {A}#{90 + n} {MAIL}").until(stage.now + 1)
    for number in range(1, 5):
        hold(stage, number, stage.now + 0.5, stage.now + 5)
        known(stage).deferred_until = stage.now
    assert stage.evidence(A) == {}
    assert known(stage).excuse is Excuse.MAILED


# Greeted is what the server said: rows B12 and B13


def bare(stage: Stage, who: str, peer: int, server: int, packets: int = 4) -> None:
    """What conntrack counts of a session without TCP timestamps in which so much was said."""
    row = stage.table[stage.key(who)]
    row.packets, row.octets = packets, 40 * packets + 12 + peer
    row.answers, row.answered = packets, 40 * packets + 12 + server


def test_helo_one_byte_a_packet_was_greeted() -> None:
    stage = scarce().play(f"4 {A} {HELD} unanswered hears=16")
    for _ in range(16):  # each byte is acknowledged by a packet without a word
        stage.play(f"4.5 {A} says=1 hears=0")
    stage.play(f"4.6 {A} hears=24").until(12)
    assert stage.key(A) in stage.ended
    assert known(stage).excuse is Excuse.FIRST


@pytest.mark.parametrize("stamps", [True, False])
def test_a_short_greeting_is_one(stamps: bool) -> None:
    stage = scarce().play(f"4 {A} {HELD} unanswered")
    if stamps:
        stage.play(f"4 {A} hears=16")
    else:
        bare(stage, A, 0, 16)
    assert stage.key(A) in stage.until(12).ended


@pytest.mark.parametrize("stamps", [True, False])
def test_who_waits_to_be_greeted_said_nothing(stamps: bool) -> None:
    stage = scarce().play(f"4 {A} {HELD} unanswered")
    if not stamps:
        bare(stage, A, 0, 0, packets=2)
    assert stage.key(A) not in stage.until(30).ended


@pytest.mark.parametrize("said", [0, 100])
def test_on_a_port_for_tls_the_peer_speaks_first(said: int) -> None:
    """Half a ClientHello, or nothing: the server waits for it. A whole one is answered."""
    words = f"{HELD} unanswered" + (f" says={said}" if said else "")
    stage = scarce()
    stage.play(f"4 {A}@465 {words}")
    for second in range(4, 40):  # others come, and are answered
        host = f"10.7.0.{second}@465"
        stage.play(f"{second}.1 {host} {HELD} unanswered says=300 hears=3000 says=400")
        if second > 4:
            stage.play(f"{second}.2 10.7.0.{second - 1}@465 hears=400")
    assert stage.key(f"{A}@465") in stage.ended


# At rest, and what never mixes


def test_probes_at_rest_cost_nothing() -> None:
    """Row B10: greeted, then reset, at three ports every two seconds, by the default policy."""
    stage = Stage(dumps=5)
    stage.engine.apply(assembly.policy(Config()))
    for n in range(600):
        for port in (25, 465, 587):
            stage.play(f"{2 * n} {A}#{n}@{port} {HELD} CLOSE GONE")
    assert (stage.evidence(A), stage.listed) == ({}, [])


def test_an_ipv4_release_never_touches_prefixes() -> None:
    """Row B6: 32.1.13.184 has the leading bytes of 2001:db8::/32."""
    stage = scarce()
    for n in range(3):
        stage.play(f"4 2001:db8:7:{n}::1 {HELD}")
    stage.until(8)
    prefixes = stage.engine.judge.prefixes
    before = set(prefixes._prefixes)
    assert before
    stage.engine.release(network("32.1.13.184"))
    assert set(prefixes._prefixes) == before
    stage.engine.release(network("2001:db8::/32"))
    assert not prefixes._prefixes


@pytest.mark.parametrize("honest", [None, "delivers", "is near"])
def test_peers_that_hop_through_a_prefix_are_listed_together_unless_one_is_honest(
    honest: str | None,
) -> None:
    """Each /64 comes once and would pay nothing; the prefix around them pays for all."""
    near = network("2001:db8:7:ff::1")
    immune = near.overlaps if honest == "is near" else lambda _: False
    stage = scarce(rules={"block_at": 60.0, "crowd_cost": 35.0}, immune=immune)
    for n in range(3 if honest == "delivers" else 0):
        stage.play(f"3.{n} 2001:db8:7:ff::1#{n} {MAIL}")
    for n in range(40):
        stage.play(f"{n + 4} 2001:db8:7:{n:x}::1 {HELD}")
    stage.until(60)
    assert len(stage.ended) > 20
    if honest:
        assert stage.listed == []
    else:
        assert stage.listed
        assert all(peer.endswith(("/56", "/48")) for peer in stage.listed)
        assert "of its peers together" in stage.said[0][1].entry.reason
        assert stage.said[0][1].entry.list is ListName.BLOCK
