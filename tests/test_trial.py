"""The whole way once, with a real Postfix: the paper's agent, honest senders, and dpsd between."""

import pytest

from tests.lab.agents import Attack
from tests.lab.trial import Trial, run

HOLD = Attack("hold", sources=40, sessions=10, seconds=12)
CHURN = Attack("churn", sources=10, sessions=10, seconds=12, first=100, rate=1000)


@pytest.mark.parametrize("attacks", [(HOLD,), (HOLD, CHURN)], ids=["hold", "hold and churn"])
def test_honest_mail_goes_on_and_nobody_honest_is_listed(attacks: tuple[Attack, ...]) -> None:
    result = run(Trial("with dpsd", attacks, peace=2, seconds=12, dpsd={}))
    assert result.wronged == []
    assert len(result.blocked) > 20
    # With nothing in front, this attack lets through a third at most.
    assert result.delivered > 0.6 * result.attempted
    assert "Traceback" not in "".join(map(str, result.transcripts.values()))
