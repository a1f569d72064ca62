"""What the kernel tells of sessions, and what the tracker makes of it. See transcript.py."""

import pytest

from dpsd.core.events import State
from tests.core.transcript import PLAIN, Stage

A, B, V6 = "203.0.113.1", "203.0.113.2", "2001:db8:5::1"


# The handshake is the proof


def test_a_session_from_its_first_to_its_last_event() -> None:
    stage = Stage()
    for word, states in [
        ("SYN_RECV", {}),  # its source may be forged
        ("ESTABLISHED", {"ESTABLISHED": 1}),
        ("FIN_WAIT/peer", {"FIN_WAIT": 1}),
        ("CLOSE_WAIT", {"CLOSE_WAIT": 1}),
        ("LAST_ACK", {"LAST_ACK": 1}),
        ("TIME_WAIT", {}),
        ("GONE", {}),
    ]:
        stage.play(f"1 {A} {word}")
        assert stage.states == states, word


def test_forged_floods_are_only_counted_by_dumps() -> None:
    stage = Stage()
    for number in range(500):
        stage.play(f"1 203.0.113.{number % 50} SYN_RECV".replace(" SYN", f"#{number} SYN"))
    assert stage.states == {}
    assert stage.play("2 kernel dump").states == {"SYN_RECV": 500}
    assert stage.engine.sessions.dumps.half_open == 500
    assert len(stage.engine.sessions) == 0
    for number in range(500):
        stage.play(f"31 203.0.113.{number % 50}#{number} GONE")
    assert stage.play("32 kernel dump").states == {}
    assert len(stage.engine.scores) == 0
    assert not stage.verdicts


@pytest.mark.parametrize("rest", ["CLOSE GONE", "FIN_WAIT/peer LAST_ACK", "GONE", "TIME_WAIT"])
def test_what_was_picked_up_in_the_middle_proves_nothing(rest: str) -> None:
    """A forged ACK makes an entry in ESTABLISHED, and the server answers it with a reset."""
    stage = Stage(dumps=5).play(f"1 {A} ESTABLISHED/loose")
    assert stage.states == {}
    stage.play(f"1 {A} {rest}").until(500)
    assert stage.evidence(A) == {}
    assert len(stage.engine.scores) == 0


@pytest.mark.parametrize("counts", [True, False])
def test_a_reset_before_the_handshake_is_nobodys_abort(counts: bool) -> None:
    stage = Stage(counts=counts).play(f"""
        1  {A}  SYN_RECV CLOSE
        9  {A}  GONE
    """)
    assert stage.evidence(A) == {}
    assert stage.states == {}


@pytest.mark.parametrize(
    "who",
    [
        f"192.0.2.25>{A}",  # the mail host's own outgoing mail
        f"{A}>192.0.2.99",  # a server that isn't ours, behind the same gateway
        f"{A}@80",
        f"2001:db8::25>{V6}",
    ],
)
def test_sessions_to_others_never_count(who: str) -> None:
    stage = Stage(dumps=5).play(f"1 {who} SYN_RECV ESTABLISHED").until(1000)
    assert stage.states == {}
    stage.play(f"1000 {who} CLOSE GONE")
    assert len(stage.engine.scores) == 0


# Who has to act next


@pytest.mark.parametrize(
    ("words", "charged", "leaks"),
    [
        ("FIN_WAIT/server", {"overstay FIN_WAIT": 40.0}, {}),
        ("FIN_WAIT/server CLOSE_WAIT", {"overstay CLOSE_WAIT": 40.0}, {}),
        ("FIN_WAIT/peer LAST_ACK", {"overstay LAST_ACK": 70.0}, {}),
        ("FIN_WAIT/peer CLOSE_WAIT LAST_ACK", {"overstay LAST_ACK": 70.0}, {}),
        ("FIN_WAIT/peer", {}, {"FIN_WAIT": 40.0}),
        ("FIN_WAIT/peer CLOSE_WAIT", {}, {"CLOSE_WAIT": 40.0}),
        ("FIN_WAIT/server CLOSE_WAIT LAST_ACK", {}, {"LAST_ACK": 70.0}),
        ("FIN_WAIT/server CLOSE_WAIT/peer", {"overstay CLOSE_WAIT": 40.0}, {}),  # first is first
        ("FIN_WAIT", {}, {"FIN_WAIT": 40.0}),  # nobody knows who began: not the peer's fault
    ],
)
def test_who_waits_for_whom(words: str, charged: dict[str, float], leaks: dict[str, float]) -> None:
    stage = Stage({"block_at": 1e6}).play(f"0 {A} SYN_RECV ESTABLISHED {words}").until(100)
    assert stage.evidence(A) == charged
    assert stage.engine.leaks == leaks


def test_a_servers_leak_is_reported_and_never_charged() -> None:
    stage = Stage().play(f"0 {A} SYN_RECV ESTABLISHED FIN_WAIT/peer CLOSE_WAIT").until(5000)
    assert stage.engine.leaks == {"CLOSE_WAIT": 4940.0}
    assert stage.score(A) == 0
    assert not stage.verdicts


def test_only_what_the_server_still_serves_takes_a_slot() -> None:
    stage = Stage().play(f"""
        0 {A}#1 SYN_RECV
        0 {A}#2 SYN_RECV ESTABLISHED
        0 {A}#3 SYN_RECV ESTABLISHED FIN_WAIT/peer CLOSE_WAIT
        0 {A}#4 SYN_RECV ESTABLISHED FIN_WAIT/server
        0 {A}#5 SYN_RECV ESTABLISHED FIN_WAIT/peer LAST_ACK
        0 {A}#6 SYN_RECV ESTABLISHED FIN_WAIT/peer LAST_ACK TIME_WAIT
    """)
    assert stage.engine.sessions.occupying(frozenset()) == 2


def test_what_the_servers_queue_lost_takes_no_slot() -> None:
    """The handshake's last packet was dropped: only the peer and conntrack know of the session."""
    stage = Stage(dumps=5)
    for n in range(3):
        stage.play(f"0 {A}#{n} SYN_RECV ESTABLISHED unanswered")
    stage.play(f"0 {B} SYN_RECV ESTABLISHED").until(40)
    assert stage.engine.sessions.occupying(frozenset()) == 4
    assert stage.until(70).engine.sessions.occupying(frozenset()) == 1
    stage.play(f"71 {A}#0 hears=40").until(80)  # it got in after all
    assert stage.engine.sessions.occupying(frozenset()) == 2
    assert stage.engine.sessions.occupying(frozenset({587})) == 0


# Dumps


def test_a_dump_shows_what_was_there_before() -> None:
    stage = Stage(see=False).play(f"""
        0 {A}   !SYN_RECV !ESTABLISHED
        0 {B}   !SYN_RECV !ESTABLISHED !FIN_WAIT/server
        0 {V6}  !SYN_RECV
        0 203.0.113.3 !ESTABLISHED/loose
        0 203.0.113.4 !SYN_RECV !ESTABLISHED !TIME_WAIT
        1 kernel dump
    """)
    assert stage.states == {"SYN_RECV": 1, "ESTABLISHED": 1, "FIN_WAIT": 1}


def test_a_dump_ends_what_vanished() -> None:
    stage = Stage().play(f"""
        0 {A}  SYN_RECV ESTABLISHED !GONE
        0 {B}  SYN_RECV ESTABLISHED
        1 kernel dump
    """)
    assert stage.states == {"ESTABLISHED": 1}
    assert (stage.open(A), stage.open(B)) == (0, 1)


def test_a_dump_that_failed_ends_nothing() -> None:
    stage = Stage().play(f"""
        0 {A}  SYN_RECV ESTABLISHED !GONE
        1 kernel dump-fails
    """)
    assert stage.states == {"ESTABLISHED": 1}


@pytest.mark.parametrize(
    ("scope", "left"),
    [
        ((25, 4), [f"{A}@587", V6]),
        ((587, 4), [A, V6]),
        ((25, 6), [A, f"{A}@587"]),
    ],
)
def test_a_dump_speaks_only_of_its_port_and_family(scope: tuple[int, int], left: list[str]) -> None:
    stage = Stage()
    for who in (A, f"{A}@587", V6):
        stage.play(f"0 {who} SYN_RECV ESTABLISHED !GONE")
    stage.until(1)
    stage.feed(*stage.dump_of(scope))
    assert {session.key for session in stage.engine.sessions} == {stage.key(who) for who in left}


def test_a_session_that_began_during_a_dump_is_not_ended_by_it() -> None:
    stage = Stage().until(1)
    begin, end = stage.dump_of((25, 4))
    stage.feed(begin)
    stage.play(f"1 {A} SYN_RECV ESTABLISHED")
    stage.feed(end)
    assert stage.states == {"ESTABLISHED": 1}


def test_each_dump_counts_half_open_sessions_anew() -> None:
    stage = Stage().play(f"""
        0 {A}  SYN_RECV
        0 kernel dump
        0 {A}  !ESTABLISHED
        0 kernel dump
    """)
    assert stage.states == {"ESTABLISHED": 1}


def test_a_dump_that_comes_late_is_put_right_by_the_next() -> None:
    """Its entry is older than the event that was taken before."""
    stage = Stage().play(f"0 {A} SYN_RECV ESTABLISHED")
    late = stage.dump_of((25, 4))
    stage.play(f"1 {A} FIN_WAIT/server")
    stage.feed(*late)
    assert stage.states == {"ESTABLISHED": 1}
    assert stage.until(900).evidence(A) == {}
    assert stage.play("900 kernel dump").states == {"FIN_WAIT": 1}
    assert stage.until(970).evidence(A) == {"overstay FIN_WAIT": 10.0}


# Addresses and ports are used again


@pytest.mark.parametrize("end", ["TIME_WAIT", "CLOSE", "GONE", "!GONE", "!TIME_WAIT"])
def test_the_same_four_numbers_make_a_new_session(end: str) -> None:
    stage = Stage().play(f"""
        0 {A}  SYN_RECV ESTABLISHED {end}
        1 {A}  SYN_RECV ESTABLISHED FIN_WAIT/server
    """)
    (session,) = stage.engine.sessions
    assert (session.state, session.since) == (State.FIN_WAIT, 1.0)
    assert session.blames_peer()
    assert stage.open(A) == 1
    assert stage.states == {"FIN_WAIT": 1}


def test_peers_in_ipv6_are_whole_64s() -> None:
    stage = Stage().play("""
        0 2001:db8:5::1       SYN_RECV ESTABLISHED
        0 2001:db8:5::ffff:2  SYN_RECV ESTABLISHED
        0 2001:db8:5:1::1     SYN_RECV ESTABLISHED
    """)
    assert stage.open("2001:db8:5:0:abcd::") == 2
    assert stage.open("2001:db8:5:1::9") == 1


# Ports with proper times of their own

OWN = {**PLAIN.proper, State.ESTABLISHED: 40.0, State.FIN_WAIT: 10.0}


def test_a_session_that_is_closed_has_the_time_of_its_port() -> None:
    stage = Stage({"proper_at": {587: OWN}})
    for who in (A, f"{B}@587", f"{V6}@465"):
        stage.play(f"0 {who} SYN_RECV ESTABLISHED FIN_WAIT/server")
    stage.until(20)
    assert stage.evidence(A) == stage.evidence(V6) == {}
    assert stage.evidence(B) == {"overstay FIN_WAIT": 10.0}
    stage.until(70)
    assert stage.evidence(A) == stage.evidence(V6) == {"overstay FIN_WAIT": 10.0}


@pytest.mark.parametrize("said", [0, 5000])
def test_an_open_session_has_the_time_of_its_port_also_when_it_delivered(said: int) -> None:
    rules = {"proper_at": {587: OWN}, "useful_rate": 1e9, "block_at": 1e9}
    stage = Stage(rules, dumps=5)
    for who in (A, f"{B}@587"):
        stage.play(f"0 {who} SYN_RECV ESTABLISHED says={said}")
    for who in (A, f"{B}@587"):
        stage.play(f"6 {who} hears=20")
    stage.until(60)
    assert stage.evidence(A) == {}
    assert 10.0 <= stage.evidence(B)["overstay ESTABLISHED"] <= 20.0


def test_under_stress_an_open_session_keeps_the_calm_time_of_its_port() -> None:
    """A white one, since others are ended: see test_auction.py."""
    tense = {**PLAIN.proper_stress, State.FIN_WAIT: 4.0}
    rules = {"proper_at": {587: OWN}, "proper_stress_at": {587: tense}, "slots": 1}
    stage = Stage(rules, dumps=5, white=(A,)).play(f"0 {A}@587 SYN_RECV ESTABLISHED").until(40)
    assert stage.engine.stress == 1.0
    assert stage.evidence(A) == {}
    assert "overstay ESTABLISHED" in stage.until(60).evidence(A)
