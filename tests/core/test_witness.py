"""What only the server's sockets tell: sessions without an entry, and entries without a session."""

from typing import Any

import pytest

from dpsd.core import witness
from dpsd.core.events import ASSURED, UPDATE, State, Word
from tests.core.transcript import Stage

A, B, C = "203.0.113.1", "203.0.113.2", "2001:db8:1::1"
HELD = "SYN_RECV ESTABLISHED"


def word(said: int = 12, answered: int = 60, ago: float = 0.0, by_server: bool = True) -> Word:
    """Said HELO, and was answered."""
    return Word(ago, by_server, said, answered, 0.01, 0, 0, accepted=True)


class Sockets:
    """The server's sockets, which the engine is told of every second from `look` on."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.words: dict[Any, Word | None] = {}
        self.since: dict[Any, float] = {}
        self.known: set[Any] = set()  # those that have an entry
        stage.sockets = lambda key, _: self.now_of(key)

    def hold(self, peer: str, count: int, said: int = 12, at: float = 0.0, port: int = 25) -> None:
        for number in range(count):
            key = self.stage.key(f"{peer}#{number + 1}@{port}")
            self.words[key], self.since[key] = word(said), at

    def now_of(self, key: Any) -> Word | None:
        told = self.words.get(key)
        return told and told._replace(ago=self.stage.now - self.since[key])

    def until(self, at: float) -> "Sockets":
        stage = self.stage
        while stage.now < at:
            words = {key: self.now_of(key) for key in self.words if key not in self.known}
            seen = stage.engine.see(self.words, [*words], words, stage.now)
            stage.said += [(stage.now, each) for each in seen]
            stage.until(stage.now + 1)
            for key in stage.ended:
                self.words.pop(key, None)
        return self


def test_they_count_and_are_gone_with_their_sockets() -> None:
    stage = Stage({"slots": 10})
    sockets = Sockets(stage)
    sockets.hold(A, 3)
    sockets.hold(C, 1)
    sockets.hold(B, 1, port=80)  # not protected
    sockets.until(5)
    assert stage.engine.pressure == 0.4
    assert stage.open(A) == 3
    assert len(stage.engine.witness) == 4
    del sockets.words[stage.key(f"{A}#1")]
    sockets.until(7)
    assert stage.engine.pressure == 0.3
    sockets.words.clear()
    sockets.until(8)
    assert (stage.engine.pressure, stage.open(A), len(stage.engine.sessions)) == (0.0, 0, 0)


def test_dumps_do_not_miss_them() -> None:
    stage = Stage({"slots": 10}, dumps=2)
    sockets = Sockets(stage)
    sockets.hold(A, 3)
    sockets.until(9)
    assert stage.engine.pressure == 0.3


def test_an_entry_makes_them_conntracks_again() -> None:
    """A packet, after `conntrack -F`: the entry's counters begin anew."""
    stage = Stage({"slots": 10}, dumps=1)
    sockets = Sockets(stage)
    sockets.hold(A, 1, said=5000)
    sockets.until(4)
    key = stage.key(A)
    stage.play(f"4 {A} ESTABLISHED")
    (session,) = stage.engine.sessions
    sockets.known.add(key)
    sockets.until(6)
    assert len(stage.engine.witness) == 0
    assert stage.engine.sessions.get(key) is session
    assert session.progress is not None
    before = session.progress.said
    stage.play(f"6.5 {A} says=100 hears=50").until(8)
    assert session.progress.said - before == 100
    stage.play(f"9 {A} FIN_WAIT/peer LAST_ACK TIME_WAIT")
    assert stage.engine.sessions.get(key) is None


def test_room_is_made_of_them_and_their_peers_pay() -> None:
    """Also where conntrack knows none at all: the sockets count what was said."""
    stage = Stage({"slots": 10, "stress_until": 0.5})
    sockets = Sockets(stage)
    sockets.hold(A, 40)
    sockets.until(4)
    assert len(stage.ended) >= 35
    assert {key[0] for key in stage.ended} == {A}
    assert stage.engine.pressure <= 0.5
    assert stage.evidence(A)["crowd"] > 30


def test_who_says_something_stays() -> None:
    stage = Stage({"slots": 10, "stress_until": 0.5})
    sockets = Sockets(stage)
    sockets.hold(A, 12)
    sockets.hold(B, 1)
    key = stage.key(B)
    for second in range(8):
        said = 12 + 20_000 * second
        sockets.words[key], sockets.since[key] = word(said, by_server=False), float(second)
        sockets.until(second + 1)
    assert key not in stage.ended
    assert len(stage.ended) >= 7


def test_the_peer_closed_and_the_server_does_not() -> None:
    """It keeps its slot, and that is no peer's fault."""
    stage = Stage({"slots": 10})
    sockets = Sockets(stage)
    sockets.hold(A, 1)
    sockets.until(2)
    sockets.words[stage.key(A)] = None
    sockets.until(90)
    assert (stage.engine.pressure, stage.states) == (0.1, {"CLOSE_WAIT": 1})
    assert stage.evidence(A) == {}
    assert stage.engine.leaks["CLOSE_WAIT"] > 20


def test_what_ends_is_not_remembered() -> None:
    stage = Stage({"slots": 10, "stress_until": 0.5})
    sockets = Sockets(stage)
    sockets.hold(A, 40)
    sockets.until(6)
    assert stage.ended
    assert not stage.engine.judge.ended


def test_no_more_are_followed_than_can_be_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(witness, "MOST", 5)
    stage = Stage()
    Sockets(stage).hold(A, 50)
    keys = [stage.key(f"{A}#{n}") for n in range(50)]
    stage.engine.see(keys, keys, {}, 1.0)
    assert len(stage.engine.witness) == len(stage.engine.sessions) == 5


def shaken(stage: Stage, count: int, words: str = "unanswered") -> list[Any]:
    """Handshakes that conntrack saw; the server never said a word."""
    for number in range(count):
        stage.play(f"0 {A}#{number + 1} {HELD} {words}")
    return [stage.key(f"{A}#{number + 1}") for number in range(count)]


def test_sessions_that_the_server_never_had_keep_no_slot() -> None:
    """Row A16."""
    stage = Stage({"slots": 10}, dumps=1)
    keys = shaken(stage, 50)
    seen = stage.engine.witness
    assert seen.suspects(keys[:4], 0.5) == []
    stage.until(3)
    suspects = seen.suspects(keys[:4], 3.0)
    assert suspects == keys[4:]
    seen.lose(suspects, suspects[:-1])  # one of them ends elsewhere, by NAT
    assert (stage.engine.pressure, seen.never_had) == (0.5, 45)
    assert seen.suspects(keys[:4], 3.5) == keys[4:-1]
    stage.until(5)  # also when dumps have them again
    assert stage.engine.pressure == 0.5
    stage.play(f"5 {A}#10 hears=40")  # there was room in its queue
    stage.until(7)
    assert stage.engine.pressure == 0.6
    seen.lose([], [])
    assert stage.engine.pressure == 5.0


def test_the_servers_half_of_the_handshake_sent_again_is_no_greeting() -> None:
    """Row A16, elsewhere: the server doesn't have the session that its peer holds to be open."""
    stage = Stage({"slots": 10, "stress_until": 0.5}, dumps=1)
    keys = shaken(stage, 20)
    stage.until(2)
    assert stage.engine.pressure == 2.0
    for key in keys:  # a SYN and ACK has 60 bytes
        stage.table[key].answers, stage.table[key].answered = 3, 180
    stage.until(40)
    assert stage.engine.pressure == 0.0
    assert stage.ended == []
    stage.play(f"40 {A}#1 hears=40").until(42)
    assert stage.engine.pressure == 0.1


def test_who_never_had_a_slot_is_not_charged_when_it_gives_up() -> None:
    stage = Stage({"slots": 10}, dumps=1)
    (key,) = shaken(stage, 1)
    stage.table[key].answers, stage.table[key].answered = 5, 300
    stage.play(f"9 {A} CLOSE GONE")
    assert stage.evidence(A) == {}


def test_on_a_port_for_tls_as_well() -> None:
    stage = Stage({"slots": 4, "stress_until": 0.5}, dumps=1)
    for number in range(8):
        stage.play(f"0 {A}#{number + 1}@465 {HELD} unanswered says=500")
    keys = [stage.key(f"{A}#{number + 1}@465") for number in range(8)]
    stage.engine.witness.lose(keys, keys)
    stage.until(30)
    assert stage.engine.pressure == 0.0
    assert stage.ended == []


def test_a_session_that_events_tell_of_is_none_of_theirs() -> None:
    stage = Stage()
    key = stage.key(A)
    stage.feed((UPDATE, key, ASSURED, State.ESTABLISHED, 0, 0))
    assert stage.engine.witness.unseen([key, stage.key(B)]) == [stage.key(B)]
