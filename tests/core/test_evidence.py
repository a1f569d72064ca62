"""The rules as two tables: every row complete, and every excuse one that somebody may read."""

import pytest

from dpsd.core.evidence import RULES, Evidence, Excuse, Kind, Seen


def test_every_kind_has_a_rule() -> None:
    assert set(RULES) == set(Kind)


@pytest.mark.parametrize("kind", Kind)
def test_a_rule_says_what_brings_it_about_what_it_costs_and_in_which_words(kind: Kind) -> None:
    rule = RULES[kind]
    assert rule.trigger
    assert rule.cost
    assert rule.did
    assert len(set(rule.excuses)) == len(rule.excuses)


def test_excuses_are_told_apart() -> None:
    assert len({excuse.value for excuse in Excuse}) == len(Excuse)
    assert all(excuse.value and not excuse.value.endswith(".") for excuse in Excuse)


def test_the_most_remarkable_is_kept() -> None:
    each = Evidence(Kind.OVERSTAY, "FIN_WAIT", 1.0, 1, 0.0, 0.0)
    for seen in (Seen(25, 40, 0, 10, 1.0), Seen(587, 41, 2, 12, 0.9), Seen(25, 39, 1, 5, 0.5)):
        each.note(seen)
    assert (each.longest, each.proper, each.stress) == (41, 12, 0.9)
    assert (each.most, each.ports) == (2, (25, 587))


def test_where_it_is_about_a_number_the_largest_is_kept() -> None:
    each = Evidence(Kind.CHURN, "", 1.0, 1, 0.0, 0.0)
    for most, proper in ((5, 1.0), (9, 2.0), (7, 3.0)):
        each.note(Seen(25, most=most, proper=proper))
    assert (each.most, each.proper) == (9, 2.0)
