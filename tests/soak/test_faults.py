"""Short cuts of `make soak`: some of the faults, a second or two each."""

from collections.abc import Iterator

import pytest

from tests.lab.net import Net
from tests.soak.faults import go_through
from tests.soak.field import Field

FEW = ("conntrack EBUSY", "nf_tables ENOBUFS", "clock 1 h back", "ruleset restored")


@pytest.fixture(scope="module")
def field(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Field]:
    with Net("s-") as net, Field(net, tmp_path_factory.mktemp("field")) as made:
        made.check()
        yield made


@pytest.mark.parametrize("name", FEW)
def test_after_it_all_is_as_it_should_be(field: Field, name: str) -> None:
    go_through(field, name, 1.0)
