"""The story: what is kept of evidence with each charge, and the words for it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dpsd.core.evidence import Evidence, Kind, Seen
from dpsd.core.scores import Scores
from dpsd.core.story import leak, short, span, told, verdict
from tests.core.transcript import SIZE, Stage, address_key

A, B = "203.0.113.1", "203.0.113.2"
HELD = "SYN_RECV ESTABLISHED"


def evidence(kind: Kind, state: str = "", **more: object) -> Evidence:
    return Evidence(kind, state, 44.4, 10, 0.0, 9.0, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        *((0, "0 s"), (0.6, "1 s"), (41.4, "41 s"), (60, "1 min"), (119.7, "2 min")),
        *((483, "8 min 3 s"), (3600, "1 h"), (3725, "1 h 2 min"), (30 * 86400, "30 d")),
    ],
)
def test_spans(seconds: float, words: str) -> None:
    assert span(seconds) == words


@pytest.mark.parametrize(
    ("each", "words"),
    [
        (
            evidence(
                Kind.OVERSTAY, "ESTABLISHED", longest=41, proper=10, stress=0.85, ports=(587, 25)
            ),
            "10 sessions to ports 25, 587 were open and got nowhere for up to 41 s,"
            " where 10 s was proper under 85% stress",
        ),
        (
            Evidence(Kind.OVERSTAY, "LAST_ACK", 9, 1, 0, 9, longest=41, proper=30, ports=(25,)),
            "1 session to port 25 closed but never sent the last ACK for up to 41 s,"
            " where 30 s was proper",
        ),
        (
            evidence(Kind.CROWD, longest=41, most=30, proper=2, stress=1),
            "10 sessions were ended to make room, of no use for up to 41 s,"
            " when it held 30 in all, under full stress",
        ),
        (
            evidence(Kind.CHURN, most=120, proper=10, ports=(25,)),
            "10 sessions to port 25 came beyond the allowed rate: up to 120 within a second"
            " (allowed: 10)",
        ),
        (
            evidence(Kind.TIME_WAIT, most=900, proper=500),
            "10 sessions were left in TIME_WAIT beyond the allowed number: up to 900 at a time"
            " (allowed: 500)",
        ),
        (evidence(Kind.ABORT), "10 sessions were reset before any use"),
        (evidence(Kind.CROWD), "10 sessions were ended to make room"),  # of an older store
        (evidence(Kind.OVERSTAY, "SYN_SENT"), "10 sessions were charged for overstay in SYN_SENT"),
    ],
)
def test_words_for_evidence(each: Evidence, words: str) -> None:
    assert told(each) == words


@pytest.mark.parametrize("kind", Kind)
def test_every_kind_has_words_of_its_own(kind: Kind) -> None:
    states = ("ESTABLISHED", "FIN_WAIT", "CLOSE_WAIT", "LAST_ACK")
    for state in states if kind is Kind.OVERSTAY else ("",):
        assert "charged for" not in told(evidence(kind, state))


def test_a_verdict_is_one_line_with_the_costliest_first() -> None:
    small = Evidence(Kind.ABORT, "", 2.0, 1, 0.0, 9.0)
    assert verdict(74.4, 60.0, [small, evidence(Kind.EMPTY)]) == (
        "74 slot-seconds, the limit is 60: 10 sessions were closed without any use: 44;"
        " 1 session was reset before any use: 2"
    )
    assert verdict(74.4, 60.0, []) == "74 slot-seconds, the limit is 60"


@given(st.text(alphabet=st.characters(max_codepoint=127), max_size=200), st.integers(10, 90))
def test_a_short_reason_fits_and_is_its_beginning(reason: str, width: int) -> None:
    cut = short(reason, width)
    assert len(cut) <= max(width, 2)
    assert cut == reason or reason.startswith(cut.removesuffix(" …"))


def test_a_leak_says_what_to_look_at() -> None:
    words = leak("CLOSE_WAIT", 93.0, 60.0)
    assert words.startswith(
        "the server itself holds sessions in CLOSE_WAIT too long, 93 slot-seconds in 1 min: "
    )
    assert "milters" in words


def only(stage: Stage, peer: str) -> Evidence:
    found = stage.engine.scores.get(address_key(peer))
    assert found is not None
    (each,) = found.evidence.values()
    return each


def test_the_longest_stay_is_kept_with_what_was_proper_then() -> None:
    scores = Scores(SIZE, 60.0, 1.0, 3.0)
    peer = scores.peer(b"\xcb\x00\x71\x01", 0.0)
    for seen in (Seen(25, 40, 0, 10, 1.0), Seen(587, 41, 0, 12, 0.9), Seen(25, 39, 0, 5, 0.5)):
        scores.charge(peer, Kind.OVERSTAY, "FIN_WAIT", 1.0, 0.0, seen=seen)
    (each,) = peer.evidence.values()
    assert (each.longest, each.proper, each.stress, each.ports) == (41, 12, 0.9, (25, 587))


def test_overstays_tell_the_longest_stay() -> None:
    stage = Stage().play(f"0 {A}#1 {HELD} FIN_WAIT/server").play(f"9 {A}#2 {HELD} FIN_WAIT/server")
    stage.until(90)
    each = only(stage, A)
    assert (each.longest, each.proper, each.count, each.ports) == (90.0, 60.0, 2, (25,))
    assert each.stress == 0


def test_churn_tells_how_many_came_in_a_second() -> None:
    stage = Stage().play("\n".join(f"0 {A}#{n} {HELD}" for n in range(13)))
    assert (only(stage, A).most, only(stage, A).proper) == (13, 1.0)
    stage.play("\n".join(f"0.5 {A}#{n} {HELD}" for n in range(20, 25)))
    assert only(stage, A).most == 18
    stage.play("\n".join(f"7 {A}#{n} {HELD}" for n in range(30, 45)))
    assert only(stage, A).most == 18


def test_those_ended_to_make_room_tell_how_many_the_peer_held() -> None:
    """Those of the second time: who was ended once pays only when it comes back."""
    rules = {"slots": 10, "block_at": 1e6, "crowd_cost": 30.0}
    stage = Stage(rules, dumps=1, white=(B,)).play(
        "\n".join(f"0 {B}#{n} {HELD}" for n in range(13))
    )
    for at, number in ((0, 1), (9, 4)):
        stage.play("\n".join(f"{at} {A}#{at + n} {HELD}" for n in range(number))).until(at + 5)
    peer = stage.engine.scores.get(address_key(A))
    assert peer is not None
    crowd = peer.evidence[Kind.CROWD, ""]
    assert (crowd.most, crowd.stress, crowd.ports) == (4, 1.0, (25,))
    assert crowd.longest >= 1


def test_time_wait_tells_how_many_there_were() -> None:
    closed = f"{HELD} says=500 FIN_WAIT/peer LAST_ACK TIME_WAIT"
    stage = Stage().play("\n".join(f"0 {A}#{n} {closed}" for n in range(8)))
    assert (only(stage, A).most, only(stage, A).proper) == (8, 5)


def test_the_end_of_a_listed_peers_last_session_is_news_for_the_store() -> None:
    stage = Stage().play("\n".join(f"0 {A}#{n} {HELD}" for n in range(80)))
    scores = stage.engine.scores
    scores.changed.clear()
    for n in range(80):
        assert not scores.changed
        stage.play(f"0 {A}#{n} CLOSE")
    assert scores.changed == {address_key(A)}
