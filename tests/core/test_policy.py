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


def test_what_few_sessions_are_depends_on_the_scarcest_slots() -> None:
    pools = Pool(frozenset({25}), 100), Pool(frozenset({587}), 1000)
    assert [replace(PLAIN, pools=each).few for each in (pools, pools[1:])] == [6, 62]
    assert replace(PLAIN, pools=(Pool(frozenset(), 3),)).few == 1


@pytest.mark.parametrize(("pressure", "stress"), [(0.99, 0.0), (1.0, 0.0), (1.01, 1.0)])
def test_stress_may_begin_at_the_last_slot(pressure: float, stress: float) -> None:
    assert replace(PLAIN, stress_at=1.0).stress(pressure) == stress


def test_proper_times_shrink_step_by_step() -> None:
    assert PLAIN.proper_times(0.0) == {0: PLAIN.proper}
    assert PLAIN.proper_times(1.0) == {0: {**PLAIN.proper, **PLAIN.proper_stress}}
    assert PLAIN.proper_times(0.5)[0][State.FIN_WAIT] == 35.0
    assert replace(PLAIN, proper_stress={}).proper_times(1.0) == PLAIN.proper_times(0.0)


def test_a_port_may_have_its_own_proper_times() -> None:
    own: dict[int, float] = {State.ESTABLISHED: 30.0, State.FIN_WAIT: 8.0}
    tense: dict[int, float] = {State.FIN_WAIT: 4.0}
    policy = replace(PLAIN, proper_at={587: own}, proper_stress_at={587: tense})
    found = policy.proper_times(0.5)
    assert found.pop(587) == {State.ESTABLISHED: 30.0, State.FIN_WAIT: 6.0}
    assert found == PLAIN.proper_times(0.5)


@given(st.floats(0, 2), st.floats(0, 2))
def test_more_pressure_is_never_more_patient(one: float, two: float) -> None:
    calm, tense = sorted((one, two))
    a, b = PLAIN.stress(calm), PLAIN.stress(tense)
    assert a <= b
    before, after = PLAIN.proper_times(a)[0], PLAIN.proper_times(b)[0]
    assert all(before[state] >= after[state] for state in PLAIN.proper)
    assert PLAIN.overstay_cost(a) <= PLAIN.overstay_cost(b)


def test_an_open_session_is_owed_as_much_time_while_slots_run_short() -> None:
    """Then it ends by what it makes of its slot."""
    times = [PLAIN.proper_times(stress)[0][State.ESTABLISHED] for stress in (0.0, 0.5, 1.0)]
    assert times == [300.0] * 3


def test_an_overstay_of_who_keeps_no_slot_costs_less() -> None:
    policy = replace(PLAIN, calm_cost=0.25)
    costs = [policy.overstay_cost(stress, is_open=False) for stress in (0.0, 0.5, 1.0)]
    assert costs == [0.0625, 0.53125, 1.0]


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
    assert set(policy.proper) == {State.ESTABLISHED, *policy.proper_stress}  # see auction.py
    assert policy.proper[State.ESTABLISHED] == config.proper_times.established
    assert policy.proper_stress[State.LAST_ACK] == config.stress.last_ack


def test_the_configuration_of_a_port_holds_for_that_port() -> None:
    text = """
        proper_times.fin_wait = "50s"
        [proper_times.587]
        established = "1m"
        [stress.587]
        last_ack = "2s"
        [stress.25]
        fin_wait = "7s"
    """
    policy = assembly.policy(parse(text))
    assert policy.proper_at[587] == {**policy.proper, State.ESTABLISHED: 60.0}
    assert policy.proper_at[587][State.FIN_WAIT] == 50.0
    assert policy.proper_stress_at[587] == {**policy.proper_stress, State.LAST_ACK: 2.0}
    assert policy.proper_at[25] == policy.proper
    assert policy.proper_stress_at[25][State.FIN_WAIT] == 7.0
    assert policy.proper_at.keys() == policy.proper_stress_at.keys() == {25, 587}
    assert assembly.policy(Config()).proper_at == {}
