"""Short cuts of `make soak`: some of the faults, a second each."""

import pytest

from tests.soak.faults import go_through
from tests.soak.field import Field

FEW = ("nf_tables ENOBUFS", "clock a year ahead", "ruleset restored")


@pytest.mark.parametrize("name", FEW)
def test_after_it_all_is_as_it_should_be(field: Field, name: str) -> None:
    go_through(field, name, 1.0)
