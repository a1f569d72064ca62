"""Who goes on while everything it sends is dropped, and what comes of it."""

from dpsd.core.retries import RECENT, Retries, persistent
from tests.core.transcript import Stage, network

A, B = "203.0.113.1", "203.0.113.2"
P, Q = network(A), network(B)


def test_who_goes_on_is_a_matter_of_packets_a_second() -> None:
    before, now = {P: 100, Q: 100}, {P: 250, Q: 249, network("203.0.113.3"): 900}
    assert persistent(before, now, 5.0, 30.0) == {P: 250}  # the third one is new
    assert persistent(before, now, 5.0, 0.01) == {P: 250, Q: 249}  # as of a second at least


def test_it_is_forgotten_after_a_while() -> None:
    retries = Retries()
    retries.take({P: 300}, 10.0)
    retries.take({Q: 500}, 20.0)
    assert (retries.by(P, 10.0 + RECENT), retries.by(P, 10.1 + RECENT)) == (300, 0)
    retries.take({}, 15.0 + RECENT)
    assert list(retries._when) == [Q]


def blocked(*who: str) -> Stage:
    stage = Stage()
    for peer in who:
        stage.play("\n".join(f"0 {peer}#{n} SYN_RECV ESTABLISHED" for n in range(80)))
    assert stage.listed == [*who]
    return stage


def test_who_never_stopped_is_blocked_again_for_longer() -> None:
    stage = blocked(A, B)
    for at in range(30, 600, 30):
        stage.until(at)
        stage.engine.retried({P: 300 * at}, at)
    stage.until(610)
    assert stage.verdicts[2:] == [(600.0, "block", A, 1800.0)]
    assert "went on while it was blocked: 171000 packets dropped" in stage.said[-1][1].entry.reason
    stage.until(1900)
    assert len(stage.said) == 3


def test_who_stopped_long_before_is_released() -> None:
    stage = blocked(A).until(60)
    stage.engine.retried({P: 9000}, 60.0)
    stage.until(700)
    assert len(stage.said) == 1


def test_who_an_operator_released_is_not_blocked_again_for_it() -> None:
    stage = blocked(A).until(590)
    stage.engine.retried({P: 9000}, 590.0)
    stage.engine.lists.drop(stage.said[0][1].entry.list, P)
    stage.engine.forgive(P)
    assert len(stage.until(700).said) == 1
