"""How often the server's sockets are looked at."""

from typing import Any

import pytest

from dpsd.daemon.sockets import EVERY, EVERY_HURRY, EVERY_PRESSED, Sockets


class Engine:
    """As much of one as matters."""

    stress = 0.0
    witness: list[int] = []  # noqa: RUF012 - never changed


def made() -> tuple[Sockets, Any]:
    engine = Engine()
    unused: Any = None
    return Sockets(engine, unused, unused), engine  # type: ignore[arg-type]


def pause(looker: Sockets) -> float:
    """Seconds until it is due again, in steps of an eighth."""
    assert looker.begin_look(1000.0)
    looker._looking = False
    steps = (step / 8 for step in range(1, 1000))
    return next(each for each in steps if looker.begin_look(1000.0 + each))


@pytest.mark.parametrize(
    ("stress", "unseen", "cost", "seconds"),
    [
        (0.0, 0, 0.0002, EVERY),
        (0.0, 5, 0.0002, EVERY),
        (1.0, 0, 0.0002, EVERY_HURRY),
        (1.0, 5, 0.0002, EVERY_PRESSED),
        (0.0, 0, 0.01, 10.0),
        (1.0, 0, 0.1, 2.0),
    ],
)
def test_as_often_as_it_may_cost(stress: float, unseen: int, cost: float, seconds: float) -> None:
    looker, engine = made()
    engine.stress, engine.witness, looker._cost = stress, [0] * unseen, cost
    assert pause(looker) == seconds


def test_one_at_a_time() -> None:
    looker, _ = made()
    assert looker.begin_look(1000.0)
    assert not looker.begin_look(1100.0)
