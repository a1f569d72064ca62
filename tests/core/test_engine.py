"""From events to verdicts, as transcripts (see transcript.py), and whatever may come besides."""

from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dpsd.core.engine import Engine
from dpsd.core.events import (
    ASSURED,
    BEGIN,
    CLOSE_INIT,
    DESTROY,
    END,
    ENTRY,
    LOST,
    UPDATE,
    Event,
    Measure,
    State,
    Word,
)
from dpsd.core.lists import Drop, Entry, ListName, Lists
from dpsd.core.policy import Pool
from dpsd.core.story import told
from tests.core.transcript import (
    CREDIT_MOST,
    PLAIN,
    SIZE,
    Stage,
    endpoints,
    network,
    peers,
    protects,
)

A, B, C = "203.0.113.1", "203.0.113.2", "203.0.113.3"
V6, SAME_64, OTHER_64 = "2001:db8:5::1", "2001:db8:5::2:2", "2001:db8:5:1::1"
HELD = "SYN_RECV ESTABLISHED"


def crowd(peer: str, number: int, words: str = HELD, *, at: float = 0, first: int = 1) -> str:
    """So many sessions of a peer that do the same."""
    return "\n".join(f"{at} {peer}#{n} {words}" for n in range(first, first + number))


def block(peer: str, until: float | None = None, name: ListName = ListName.BLOCK) -> Entry:
    return Entry(name, network(peer), "", "operator", 0.0, until)


# Evidence


@pytest.mark.parametrize("counts", [True, False])
def test_silence_beyond_the_proper_time(counts: bool) -> None:
    stage = Stage(counts=counts, dumps=5).play(f"0 {A} {HELD}").until(300)
    assert stage.evidence(A) == {}
    stage.until(340)
    assert stage.evidence(A)["overstay ESTABLISHED"] == pytest.approx(40, abs=6 if counts else 9)
    stage.until(400)
    ((at, *verdict),) = stage.verdicts
    assert at == pytest.approx(365, abs=6)
    assert verdict == ["block", A, at + 600.0]


@pytest.mark.parametrize("counts", [True, False])
def test_a_session_that_goes_on_pays_nothing(counts: bool) -> None:
    stage = Stage(counts=counts, dumps=5).play(f"0 {A} {HELD}")
    for at in range(10, 3000, 100):
        stage.play(f"{at} {A} says=20000")
    assert stage.evidence(A) == {}


def test_a_session_older_than_our_timeouts_may_go_on() -> None:
    """Its own timeout in the kernel is shorter than those of our ruleset."""
    stage = Stage(counts=False, dumps=5)
    stage.engine.sessions.established_for = 5000.0
    stage.play(f"0 {A} {HELD}")
    for at in range(10, 3000, 10):
        stage.play(f"{at} {A} says=1")
    assert stage.evidence(A) == {}


def test_vanished_before_the_last_ack() -> None:
    stage = Stage().play(f"0 {A} {HELD} FIN_WAIT/peer LAST_ACK").until(89)
    assert stage.evidence(A) == {"overstay LAST_ACK": 59.0}
    stage.until(300)
    assert stage.verdicts == [(91.0, "block", A, 691.0)]  # scores fade a little
    (_, verdict), *_ = stage.said
    assert verdict.sessions == [stage.key(f"{A}#1")]
    assert verdict.entry.reason == (
        "61 slot-seconds, the limit is 60: 1 session to port 25 closed but never sent the last ACK"
        " for up to 1 min 31 s, where 30 s was proper: 61"
    )


def test_what_one_session_costs_by_staying_is_bounded() -> None:
    stage = Stage({"overstay_most": 20.0}, dumps=5).play(f"0 {A} {HELD} FIN_WAIT/peer LAST_ACK")
    assert stage.until(1000).evidence(A) == {"overstay LAST_ACK": 20.0}
    stage.play(f"1000 {B} {HELD}").until(1400)
    assert stage.evidence(B) == {"overstay ESTABLISHED": 20.0}
    assert stage.play(f"1400 {B} FIN_WAIT/server").until(2000).evidence(B) == {
        "overstay ESTABLISHED": 20.0
    }


@pytest.mark.parametrize(("number", "listed"), [(6, []), (7, [A])])
def test_a_few_sessions_that_stall_may_be_the_networks_fault(
    number: int, listed: list[str]
) -> None:
    rules = {"overstay_most": 20.0, "slots": 100}
    stage = Stage(rules, dumps=5).play(crowd(A, number)).until(1000)
    assert stage.listed == listed


def test_who_was_never_greeted_came_not_for_nothing() -> None:
    """It gave up in the server's queue."""
    stage = Stage()
    stage.play(f"0 {A} {HELD} FIN_WAIT/peer LAST_ACK TIME_WAIT unanswered GONE")
    assert stage.evidence(A) == {}


def test_many_sessions_add_up() -> None:
    stage = Stage().play(crowd(A, 10, f"{HELD} FIN_WAIT/server CLOSE_WAIT")).until(200)
    assert stage.verdicts == [(66.0 + 1, "block", A, 667.0)]


def test_churn_is_what_goes_beyond_rate_and_burst() -> None:
    stage = Stage().play(crowd(A, 10))
    assert stage.evidence(A) == {}
    stage.play(crowd(A, 5, first=11))
    assert stage.evidence(A) == {"churn": 5.0}
    stage.play(crowd(A, 10, at=4, first=21))  # four were refilled
    assert stage.evidence(A) == {"churn": 11.0}
    stage.play(crowd(A, 60, at=4, first=31))
    assert stage.listed == [A]


def test_churn_is_within_the_allowance_for_ever() -> None:
    stage = Stage()
    for at in range(1000):
        stage.play(f"{at} {A}#{at} {HELD} FIN_WAIT/peer LAST_ACK CLOSE")
    assert stage.evidence(A) == {}


@pytest.mark.parametrize("see", [True, False])
def test_sessions_that_a_dump_found_are_no_churn(see: bool) -> None:
    """They were opened at leisure, while nobody listened."""
    stage = Stage(see=see).play(crowd(A, 200, "!SYN_RECV !ESTABLISHED")).play("1 kernel dump")
    assert stage.open(A) == 200
    assert stage.evidence(A) == {}
    stage.play(crowd(A, 10, at=1, first=1000))
    assert stage.evidence(A) == {}


@pytest.mark.parametrize(
    ("counts", "words", "evidence"),
    [
        (True, "CLOSE GONE", {"abort": 2.0}),
        (True, "says=10 CLOSE GONE", {"abort": 2.0}),
        (True, "says=201 CLOSE GONE", {}),
        (True, "CLOSE", {}),  # it isn't known yet whether it was of use
        (True, "FIN_WAIT/peer CLOSE GONE", {"abort": 2.0}),
        (False, "CLOSE", {"abort": 2.0}),
        (False, "CLOSE GONE", {"abort": 2.0}),
        (False, "FIN_WAIT/peer CLOSE GONE", {}),
        (True, "FIN_WAIT/peer LAST_ACK TIME_WAIT GONE", {"empty": 1.0}),
        (True, "says=200 FIN_WAIT/peer LAST_ACK TIME_WAIT GONE", {"empty": 1.0}),
        (True, "says=201 FIN_WAIT/peer LAST_ACK TIME_WAIT GONE", {}),
        (False, "FIN_WAIT/peer LAST_ACK TIME_WAIT GONE", {}),
        (True, "GONE", {}),  # somebody flushed the table: nobody closed it
        (False, "GONE", {}),
    ],
)
def test_sessions_of_no_use(counts: bool, words: str, evidence: dict[str, float]) -> None:
    dump = "0 kernel dump"  # tells whether the kernel counts
    stage = Stage(counts=counts).play(f"0 {A} {HELD}").play(dump).play(f"1 {A} {words}")
    assert stage.evidence(A) == evidence
    assert stage.open(A) == 0


def test_a_reset_isnt_judged_before_it_is_known_whether_the_kernel_counts() -> None:
    stage = Stage().play(f"0 {A} {HELD} says=5000 CLOSE")
    assert stage.evidence(A) == {}
    assert stage.play(f"0 {A} GONE").evidence(A) == {}


def test_a_few_sessions_of_no_use_are_free() -> None:
    """A monitoring probe that connects and quits, as often as it is allowed to."""
    quits = f"{HELD} FIN_WAIT/peer LAST_ACK TIME_WAIT GONE"
    stage = Stage({"idle_rate": 0.5, "idle_burst": 3.0, "churn_rate": 100.0})
    for at in range(0, 400, 2):
        stage.play(f"{at} {A}#{at} {quits}")
    assert stage.evidence(A) == {}
    stage.play(crowd(B, 10, quits, at=400))
    assert stage.evidence(B) == {"empty": 7.0}


def test_churn_costs_nothing_before_it_is_a_flood() -> None:
    stage = Stage({"slots": 10, "churn_flood": 3.0, "churn_mild": 1.0})
    for at in range(20):
        stage.play(crowd(A, 10, f"{HELD} CLOSE", at=at, first=100 * at))
    assert stage.evidence(A) == {}
    for at in range(20, 30):
        stage.play(crowd(A, 60, f"{HELD} CLOSE", at=at, first=100 * at))
    assert stage.listed == [A]


def test_time_wait_beyond_the_allowance() -> None:
    closed = f"{HELD} says=500 FIN_WAIT/peer LAST_ACK TIME_WAIT"
    stage = Stage().play(crowd(A, 8, closed))
    assert stage.evidence(A) == {"time_wait": 1.5}
    stage.play(crowd(A, 8, "GONE", at=1)).play(crowd(A, 5, closed, at=9, first=10))
    assert stage.evidence(A) == {"time_wait": 1.5}


def test_a_reset_ends_a_time_wait() -> None:
    """Conntrack calls it CLOSE then, and tells no more of it until it is gone."""
    stage = Stage()
    for n in range(1, 10):
        stage.play(f"{n} {A}#{n} {HELD} says=500 FIN_WAIT/peer LAST_ACK TIME_WAIT")
        measure = Measure(None, 10, 5000, 10, 5000)
        stage.feed((UPDATE, stage.key(f"{A}#{n}"), ASSURED, State.CLOSE, 0, 0))
        stage.feed((DESTROY, stage.key(f"{A}#{n}"), ASSURED, State.CLOSE, None, measure))
    assert stage.evidence(A) == {}


def test_time_wait_is_forgotten_with_the_events_that_were_lost() -> None:
    closed = f"{HELD} says=500 FIN_WAIT/peer LAST_ACK TIME_WAIT"
    stage = Stage().play(crowd(A, 5, closed)).play("1 kernel LOST")
    stage.play(crowd(A, 5, closed, at=2, first=10))
    assert stage.evidence(A) == {}


def test_an_old_kernel_tells_no_last_state() -> None:
    stage = Stage()
    for n in range(1, 10):
        stage.play(f"{n} {A}#{n} {HELD} says=500 FIN_WAIT/peer LAST_ACK TIME_WAIT")
        measure = Measure(None, 10, 5000, 10, 5000)
        stage.feed((DESTROY, stage.key(f"{A}#{n}"), ASSURED, 0, None, measure))
    assert stage.evidence(A) == {}


# Fading, stress


def test_scores_fade() -> None:
    stage = Stage({"half_life": 60.0}).play(crowd(A, 40)).until(60)
    assert stage.score(A) == pytest.approx(15.0)
    stage.play(crowd(A, 54, at=60, first=100))  # ten were refilled
    assert stage.score(A) == pytest.approx(59.0)
    assert not stage.listed
    assert stage.play(crowd(A, 1, at=60, first=200)).listed == [A]
    assert Stage({"half_life": 60.0}).play(crowd(A, 40)).until(6000).score(A) < 1e-9


def test_proper_times_shrink_and_costs_grow_as_slots_run_out() -> None:
    calm = Stage({"slots": 100, "calm_cost": 0.25})
    tense = Stage({"slots": 10, "calm_cost": 0.25})
    for stage in (calm, tense):
        for n in range(10):
            stage.play(f"0 198.51.100.{n} {HELD}")
        stage.play(f"0 {A} {HELD} FIN_WAIT/server").until(80)
    assert (calm.engine.pressure, tense.engine.pressure) == (0.1, 1.0)
    assert calm.evidence(A) == {"overstay FIN_WAIT": 1.25}  # 20 s, and it keeps no slot
    assert tense.verdicts[0][:3] == (71.0, "block", A)  # 60 s after ten


# Sentences


def linger(stage: Stage, keys: list[Any], until: float) -> Stage:
    """The server's sockets tell every two seconds that these sessions are half closed."""
    while stage.now < until:
        stage.said += [(stage.now, each) for each in stage.engine.linger(keys, stage.now)]
        stage.until(stage.now + 2)
    return stage


def test_blocks_double_then_it_is_black() -> None:
    stage = Stage()
    for round_ in range(4):
        stage.play(crowd(A, 80, at=10000 * round_, first=1000 * round_))
    assert stage.verdicts == [
        (0.0, "block", A, 600.0),
        (10000.0, "block", A, 11200.0),
        (20000.0, "black", A, None),
    ]
    reasons = [verdict.entry.reason for _, verdict in stage.said]
    assert reasons[1:] == [
        "60 slot-seconds, the limit is 60: 60 sessions to port 25 came beyond the allowed rate:"
        f" up to 70 within a second (allowed: 1): 60; block {rank} within 30 d"
        for rank in (2, 3)
    ]
    assert [entry.expires_at for _, entry in stage.over] == [600.0, 11200.0]


def test_old_blocks_dont_count() -> None:
    stage = Stage()
    stage.engine.sentences.blocks[network(A)] = [-31 * 86400.0, -32 * 86400.0]
    assert stage.play(crowd(A, 80)).verdicts == [(0.0, "block", A, 600.0)]


def test_a_listed_peer_isnt_judged_again() -> None:
    stage = Stage().play(crowd(A, 200)).until(599)
    assert len(stage.said) == 1
    assert stage.evidence(A) == {"churn": 61.0} or stage.score(A) == pytest.approx(60, abs=1)


def test_who_is_released_starts_clean() -> None:
    stage = Stage().play(crowd(A, 80, f"{HELD} CLOSE"))
    assert stage.listed == [A]
    stage.until(600)
    assert [entry.peer for _, entry in stage.over] == [network(A)]
    assert (stage.score(A), stage.evidence(A)) == (0.0, {})
    stage.play(crowd(A, 69, at=610, first=200))
    assert len(stage.said) == 1


def test_an_operator_releases() -> None:
    stage = Stage().play(crowd(A, 80))
    assert isinstance(stage.engine.lists.drop(ListName.BLOCK, network(A)), Drop)
    stage.engine.release(network(A))
    assert stage.evidence(A) == {}
    stage.play(crowd(A, 80, at=20, first=200))
    assert [rank for _, _, rank, _ in stage.verdicts] == [A, A]


@pytest.mark.parametrize("way", ["expiry", "operator", "reread"])
def test_peers_within_a_released_prefix_are_judged_again(way: str) -> None:
    stage = Stage({"churn_rate": 0.01})
    prefix = network("203.0.113.0/24")
    stage.engine.lists.put(block("203.0.113.0/24", 50.0 if way == "expiry" else None))
    stage.play(crowd(A, 80)).until(60)
    assert not stage.verdicts
    if way == "operator":
        stage.engine.lists.drop(ListName.BLOCK, prefix)
        stage.engine.release(prefix)
    elif way == "reread":
        stage.engine.lists.replace([])
    stage.until(61)  # what it did before is forgotten bit by bit
    assert stage.evidence(A) == {}
    stage.play(crowd(A, 80, at=61, first=100))
    assert stage.listed == [A]


@pytest.mark.parametrize("peer", [A, "203.0.113.0/24", V6])
def test_white_is_never_listed(peer: str) -> None:
    who = V6 if peer == V6 else A
    stage = Stage(white=(peer,), dumps=5).play(crowd(who, 500))
    stage.play(crowd(who, 50, "FIN_WAIT/server", at=9)).until(700)
    assert stage.score(who) > 60
    assert not stage.verdicts


def test_white_hosts_of_a_listed_peer_keep_their_sessions() -> None:
    stage = Stage()
    stage.engine.lists.put(block(f"{SAME_64}/128", name=ListName.WHITE))
    stage.play(crowd(SAME_64, 1)).play(crowd(V6, 80))
    (_, verdict) = stage.said[0]
    assert peers(verdict.sessions) == {V6}
    assert peers(search(stage, "2001:db8:5::/48")) == {V6}


def test_immune_peers_are_never_listed() -> None:
    stage = Stage(immune=lambda peer: peer == network(A)).play(crowd(A, 500))
    assert stage.score(A) > 60
    assert not stage.verdicts
    assert not stage.engine.lists.size(ListName.BLOCK)


def test_what_an_operator_listed_isnt_listed_again() -> None:
    stage = Stage()
    stage.engine.lists.put(block("203.0.113.0/24", name=ListName.BLACK))
    stage.play(crowd(A, 500))
    assert not stage.verdicts


def test_an_ipv6_peer_is_a_64() -> None:
    stage = Stage().play(crowd(V6, 40)).play(crowd(SAME_64, 40)).play(crowd(OTHER_64, 40))
    assert stage.verdicts == [(0.0, "block", "2001:db8:5::/64", 600.0)]
    assert peers(stage.said[0][1].sessions) == {V6, SAME_64}


def search(stage: Stage, prefix: str) -> list[Any]:
    """The sessions of a prefix, as some ticks find them."""
    assert stage.engine.sessions_of(network(prefix)) == []
    return [key for _ in range(5) for key in stage.engine.tick(stage.now).listed]


def test_sessions_of_a_peer_and_of_a_prefix() -> None:
    stage = Stage().play(crowd(A, 2)).play(crowd("203.0.112.9", 1)).play(crowd(V6, 1))
    assert len(stage.engine.sessions_of(network(A))) == 2
    assert len(stage.engine.sessions_of(network(V6))) == 1
    assert stage.engine.sessions_of(network(B)) == []
    assert len(search(stage, "203.0.112.0/23")) == 3
    assert search(stage, "203.0.0.0/24") == []
    assert search(stage, "2001:db8::/32") == [stage.key(V6)]


def test_sessions_that_are_heard_of_only_after_the_verdict_end_as_well() -> None:
    """The kernel let them in just before it dropped the peer's packets."""
    stage = Stage().play(crowd(A, 80))
    assert stage.listed == [A]
    stage.play(crowd(A, 2, first=100)).until(3)
    assert {stage.key(f"{A}#{number}") for number in (100, 101)} <= set(stage.ended)


# Blindness


def test_nobody_is_judged_before_the_first_dump() -> None:
    stage = Stage(see=False).play(crowd(A, 500))
    assert stage.engine.blind
    assert not stage.verdicts
    for scope in stage.scopes:
        assert stage.engine.blind
        stage.feed(*stage.dump_of(scope))
    assert not stage.engine.blind
    assert stage.play(crowd(A, 2, at=1, first=1000)).listed == [A]


def test_nobody_is_judged_after_a_loss_until_all_was_dumped_anew() -> None:
    stage = Stage().play("1 kernel LOST").play(crowd(A, 500, at=2))
    assert stage.engine.blind
    stage.play("3 kernel dump")
    assert stage.engine.blind  # it was not told yet what is to be dumped
    stage.engine.look(stage.scopes)
    *others, last = stage.scopes
    for scope in others:
        stage.feed(*stage.dump_of(scope))
    stage.feed(*stage.dump_of(last, errno=5))
    assert stage.engine.blind  # the last one failed
    stage.feed(*stage.dump_of(last))
    assert not stage.engine.blind
    assert not stage.verdicts
    assert stage.play(crowd(A, 3, at=4, first=1000)).listed == [A]


def test_a_dump_that_ran_when_events_were_lost_doesnt_count() -> None:
    stage = Stage(scopes=((25, 4),))
    begin, *entries, end = stage.dump_of((25, 4))
    stage.feed(begin)
    stage.play("1 kernel LOST")
    stage.engine.look(stage.scopes)
    stage.feed(*entries, end)
    assert stage.engine.blind
    stage.feed(begin, *entries, end)
    assert not stage.engine.blind


def test_under_stress_ports_with_sessions_are_looked_at_often_and_those_that_are_unseen() -> None:
    stage = Stage({"slots": 2}).play(f"0 {A}@587 {HELD}").until(2)
    assert stage.engine.pressed == []
    stage.play(f"2 {A}#2 {HELD}").play(f"2 {A}#3 {HELD} FIN_WAIT/peer CLOSE_WAIT").until(4)
    assert stage.engine.pressed == [25, 587]
    stage.play("4 kernel LOST")
    stage.engine.look(stage.scopes)
    assert stage.engine.pressed == [25, 465, 587]


def test_overstays_arent_charged_while_blind() -> None:
    stage = Stage().play(f"0 {A} {HELD} FIN_WAIT/server").play("10 kernel LOST").until(500)
    assert stage.evidence(A) == {}


def test_nobody_pays_for_the_time_in_which_the_daemon_stood_still() -> None:
    stage = Stage().play(f"0 {A} {HELD}").play("0 kernel dump")
    stage.play(f"0 {B} {HELD} FIN_WAIT/server").until(50)
    lingering = [stage.key(f"{B}#{n}") for n in range(2, 9)]
    stage.engine.linger(lingering, 50.0)
    stage.now, stage.scopes = 900.0, ((25, 4),)
    stage._tick()
    assert stage.engine.unseen is None  # as after lost events
    stage.engine.look(stage.scopes)
    stage._dump()
    stage._tick()
    stage.engine.linger(lingering, 900.0)
    assert (stage.evidence(A), stage.evidence(B)) == ({}, {})
    stage.until(910)._dump()
    assert stage.evidence(A) == {"overstay ESTABLISHED": 10.0}
    assert stage.evidence(B) == {"overstay FIN_WAIT": 10.0}


def test_sessions_that_ended_unheard_are_dropped_and_charged_nothing_more() -> None:
    stage = Stage().play(f"""
        0   {A}  {HELD} FIN_WAIT/server !GONE
        1   {B}  {HELD} !GONE
        1   kernel LOST
    """)
    stage.engine.look(stage.scopes)
    stage.play("2 kernel dump").until(1000)
    assert (stage.evidence(A), stage.states) == ({}, {})


def test_ports_that_arent_protected_any_more_are_left_alone() -> None:
    """Nothing is heard of their sessions, so they can neither end nor be judged."""
    stage = Stage().play(f"""
        0 {A}@587  {HELD} FIN_WAIT/server
        0 {A}@465  {HELD}
        0 {B}      {HELD}
    """)
    stage.scopes = ((25, 4), (25, 6))
    stage.engine.look(stage.scopes)
    assert stage.until(1).states == {"ESTABLISHED": 1}
    assert (stage.open(A), stage.open(B)) == (0, 1)
    stage._dump()
    assert stage.until(2000).evidence(A) == {}


def test_another_policy_takes_effect() -> None:
    stage = Stage().play(crowd(A, 60))
    stage.engine.apply(replace(PLAIN, block_at=50.0))
    assert stage.play(crowd(A, 1, at=0, first=99)).listed == [A]


def test_old_things_are_forgotten() -> None:
    stage = Stage({"half_life": 60.0}).play(crowd(A, 80, f"{HELD} CLOSE")).until(4000)
    assert len(stage.engine.scores) == 0
    assert list(stage.engine.sentences.blocks) == [network(A)]
    stage.engine.tick(40 * 86400.0)
    assert not stage.engine.sentences.blocks


# Whatever comes


KEYS = [
    (peer, 40000 + n, server, port)
    for peer, server in [(A, "192.0.2.25"), (B, "192.0.2.25"), (V6, "2001:db8::25")]
    for n in range(2)
    for port in (25, 587, 80)
]
maybe_count = st.none() | st.integers(0, 2**64 - 1)
bytes_ = st.integers(0, 255)
measures = st.builds(
    Measure, st.none() | st.integers(0, 2**32 - 1), maybe_count, maybe_count, maybe_count,
    maybe_count,
)  # fmt: skip
states = st.sampled_from([*State]) | bytes_
flags = st.sampled_from([0, CLOSE_INIT]) | bytes_
statuses = st.sampled_from([0, ASSURED]) | bytes_
keys = st.sampled_from(KEYS)
scopes = st.tuples(st.sampled_from([0, 25, 587, 80]), st.sampled_from([0, 4, 6]))
events = st.one_of(
    st.tuples(st.just(UPDATE), keys, statuses, states, flags, flags),
    st.tuples(st.just(ENTRY), keys, statuses, states, st.tuples(flags, flags), measures),
    st.tuples(st.just(DESTROY), keys, statuses, states, st.none(), measures),
    scopes.map(lambda scope: (BEGIN, None, 0, 0, *scope)),
    st.sampled_from([0, 0, 5, -1]).map(lambda errno: (END, None, 0, 0, errno, 0)),
    st.just((LOST, None, 0, 0, 0, 0)),
)
batches = st.lists(
    st.tuples(
        st.sampled_from([0.0, 0.3, 1.0, 7.0, 400.0]),
        st.sampled_from(
            ["feed", "feed", "feed", "tick", "tick", "look", "release", "linger", "not ended"]
        ),
        st.lists(events, max_size=8),
    ),
    max_size=40,
)
EDGY = replace(
    PLAIN, block_at=3.0, overstay_most=1.0, pools=(Pool(frozenset(), 4), Pool(frozenset({25}), 2)),
    churn_burst=2.0, half_life=300.0,
)  # fmt: skip


def words_of(doomed: list[Any], now: float) -> dict[Any, Word] | None:
    """What sockets would tell of them: sometimes they can't be asked, and some are gone."""
    number = int(now * 10)
    if number % 3 == 0:
        return None
    return {
        key: Word(n + 0.1, bool((n + number) % 2), 40 * n, 90, 0.05, n % 2, 0, n % 5 > 0)
        for n, key in enumerate(doomed)
        if (n + number) % 4
    }


def run(batches: list[tuple[float, str, list[Event]]]) -> Engine:
    """Feed a fresh engine, and check after each step what must always hold."""
    engine = Engine(EDGY, SIZE, Lists(), endpoints, protects)
    engine.look([(25, 4)])
    now = 0.0
    for wait, what, some in batches:
        now += wait
        match what:
            case "feed":
                engine.feed(some, now)
            case "tick":
                doomed = engine.tick(now).doomed
                ended = engine.settle(doomed, words_of(doomed, now), now).ended
                assert len(ended) == len(set(ended))
            case "linger":
                engine.linger(KEYS[: len(some)], now)
            case "not ended":
                engine.not_ended(KEYS)
            case "look":
                engine.look([(25, 4), (25, 6), (587, 0)])
            case "release":
                engine.release(network(A))
        check(engine, now)
    return engine


def check(engine: Engine, now: float) -> None:
    sessions = engine.sessions
    open_ = list(sessions)
    assert len(sessions) == len(open_)
    assert +Counter(sessions.counts) == Counter(session.state for session in open_)
    assert all(number >= 0 for number in sessions.counts.values())
    everywhere = sessions.occupying(frozenset())
    assert 0 <= everywhere <= len(open_)
    doomed = sum(session.doomed for session in open_ if session.state == State.ESTABLISHED)
    assert sessions.going(frozenset()) == doomed
    assert everywhere == sum(sessions.occupying(frozenset({port})) for port in (25, 587))
    assert sum(sessions.by_state().values()) == len(open_) + sessions.dumps.half_open
    for session in open_:
        assert session.state in {3, 4, 5, 6}
        assert session.since <= now
        progress = session.progress
        if progress is not None:
            assert min(progress.own, progress.idle, progress.useful, progress.spent) >= 0
            assert progress.own_by(now) >= progress.own
            assert progress.mails >= 0
        assert protects(endpoints(session.key).server, session.port)
    held = Counter(session.peer.key for session in open_)
    known = {
        peer.key: sum(sessions.get(key) is not None for key in peer.sessions)
        for peer in engine.scores
    }
    assert {key: number for key, number in known.items() if number} == held
    for peer in engine.scores:
        assert engine.scores.score(peer, now) >= 0
        assert peer.time_wait >= 0
        assert 0 <= engine.scores.credit(peer, now) <= CREDIT_MOST
        assert peer.deferred_until <= now + engine.policy.block_for
        assert all(e.cost >= 0 and e.count >= 0 for e in peer.evidence.values())
        assert all(map(told, peer.evidence.values()))
        assert all(e.longest >= 0 and 0 <= e.stress <= 1 for e in peer.evidence.values())
    for entry in engine.lists:
        assert entry.expires_at is None or entry.expires_at > entry.created_at


@settings(max_examples=300, deadline=None)
@given(batches)
def test_whatever_comes_the_books_are_right(batches: list[tuple[float, str, list[Event]]]) -> None:
    first, again = run(batches), run(batches)
    assert list(first.lists) == list(again.lists)
    assert first.sessions.by_state() == again.sessions.by_state()
    assert {p.key: (p.score, p.evidence) for p in first.scores} == {
        p.key: (p.score, p.evidence) for p in again.scores
    }


HONEST = st.lists(
    st.sampled_from(
        [
            f"{HELD} says=4000 FIN_WAIT/peer LAST_ACK TIME_WAIT GONE",
            f"{HELD} says=900 FIN_WAIT/server CLOSE_WAIT LAST_ACK TIME_WAIT GONE",
            f"{HELD} says=900 FIN_WAIT/peer CLOSE_WAIT LAST_ACK TIME_WAIT GONE",
            "SYN_RECV GONE",
            "SYN_RECV CLOSE GONE",
            "ESTABLISHED/loose CLOSE GONE",
        ]
    ),
    max_size=60,
)


@settings(max_examples=50, deadline=None)
@given(HONEST)
def test_honest_sessions_in_any_order_cost_nothing(sessions: list[str]) -> None:
    stage = Stage(dumps=5)
    for n, words in enumerate(sessions):
        first, *rest = words.split()
        stage.play(f"{2 * n} {A}#{n} {first}")
        for m, word in enumerate(rest):
            stage.play(f"{2 * n + m / 8} {A}#{n} {word}")
    assert stage.evidence(A) == {}
    assert stage.open(A) == 0


def test_what_an_operator_lifts_counts_no_more() -> None:
    stage = Stage()
    peer = SIZE.parse("192.0.2.77")
    stage.engine.sentences.blocks[peer] = [1.0, 2.0]
    stage.engine.release(peer)  # its time was over: it counts towards the black list
    assert stage.engine.sentences.blocks[peer] == [1.0, 2.0]
    stage.engine.forgive(peer)
    assert peer not in stage.engine.sentences.blocks
