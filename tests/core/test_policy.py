"""Policy: plain numbers in, plain numbers out."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dpsd import assembly, mta
from dpsd.config import Config, parse
from dpsd.core.events import State
from dpsd.core.lists import ListName
from dpsd.core.policy import Pool
from dpsd.mta import Mta, Slots
from tests.core.transcript import PLAIN

DAY = 86400.0


@pytest.mark.parametrize(
    ("pressure", "stress"),
    [(0.0, 0.0), (0.8, 0.0), (0.85, 0.25), (0.9, 0.5), (1.0, 1.0), (7.0, 1.0)],
)
def test_stress_begins_where_slots_run_short(pressure: float, stress: float) -> None:
    assert PLAIN.stress(pressure) == pytest.approx(stress)


@pytest.mark.parametrize(("pressure", "stress"), [(0.99, 0.0), (1.0, 0.0), (1.01, 1.0)])
def test_stress_may_begin_at_the_last_slot(pressure: float, stress: float) -> None:
    assert replace(PLAIN, stress_at=1.0).stress(pressure) == stress


def test_proper_times_shrink_step_by_step() -> None:
    assert PLAIN.proper_times(0.0) == PLAIN.proper
    assert PLAIN.proper_times(1.0) == PLAIN.proper_stress
    assert PLAIN.proper_times(0.5)[State.ESTABLISHED] == 155.0
    assert replace(PLAIN, proper_stress={}).proper_times(1.0) == PLAIN.proper


@given(st.floats(0, 2), st.floats(0, 2))
def test_more_pressure_is_never_more_patient(one: float, two: float) -> None:
    calm, tense = sorted((one, two))
    a, b = PLAIN.stress(calm), PLAIN.stress(tense)
    assert a <= b
    assert all(PLAIN.proper_times(a)[s] >= PLAIN.proper_times(b)[s] for s in PLAIN.proper)
    assert PLAIN.overstay_cost(a) <= PLAIN.overstay_cost(b)


def test_an_overstay_costs_more_as_slots_run_out() -> None:
    policy = replace(PLAIN, calm_cost=0.25)
    assert [policy.overstay_cost(stress) for stress in (0.0, 0.5, 1.0)] == [0.25, 0.625, 1.0]


@pytest.mark.parametrize(
    ("before", "sentence"),
    [
        ([], ("block", 600.0, 1)),
        ([0], ("block", 1200.0, 2)),
        ([-29 * DAY], ("block", 1200.0, 2)),
        ([-31 * DAY], ("block", 600.0, 1)),
        ([-DAY, 0], ("black", None, 3)),
        ([-31 * DAY, -DAY, 0], ("black", None, 3)),
        ([-31 * DAY, 0], ("block", 1200.0, 2)),
    ],
)
def test_blocks_double_and_the_third_is_for_good(
    before: list[float], sentence: tuple[str, float | None, int]
) -> None:
    name, until, rank = PLAIN.sentence(before, 0.0)
    assert (name.value, until, rank) == sentence


def test_without_black_after_blocks_grow_up_to_block_max() -> None:
    policy = replace(PLAIN, black_after=0)
    lengths = [policy.sentence([0.0] * n, 0.0)[1] for n in (0, 1, 7, 8, 100, 5000)]
    assert lengths == [600.0, 1200.0, 76800.0, DAY, DAY, DAY]
    assert policy.sentence([0.0] * 5000, 0.0)[0] == ListName.BLOCK


def test_slots_are_what_the_mail_server_says_or_what_is_set() -> None:
    pools = (Pool(frozenset({25}), 60), Pool(frozenset({587}), 20))
    said = Mta(tuple(Slots(pool, "somebody") for pool in pools))
    policy = assembly.policy(Config(), said)
    assert (policy.slots, policy.pools) == (80, pools)
    policy = assembly.policy(parse("protect.slots = 7"), said)
    assert (policy.slots, policy.pools) == (7, (Pool(frozenset(), 7),))


def test_a_gateway_asks_no_mail_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mta, "ask", lambda *_: pytest.fail("was asked"))
    said = assembly.ask(parse('protect.addresses = ["192.0.2.1"]'))
    (slots,) = assembly.slots(Config(), said)
    assert (slots.pool, slots.source) == (
        Pool(frozenset(), 100),
        "assumed, because the servers are behind this gateway",
    )


def test_the_configuration_is_what_the_policy_says() -> None:
    policy, config = assembly.policy(Config()), Config()
    assert (policy.slots, policy.pools) == (100, (Pool(frozenset(), 100),))
    assert policy.block_at == config.policy.block_at
    assert set(policy.proper) == set(policy.proper_stress)
    assert policy.proper[State.ESTABLISHED] == config.proper_times.established
    assert policy.proper_stress[State.LAST_ACK] == config.stress.last_ack
