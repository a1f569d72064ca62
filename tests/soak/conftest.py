"""One field for all short cuts of `make soak`."""

from collections.abc import Iterator

import pytest

from tests.lab.net import Net
from tests.soak.field import Field


@pytest.fixture(scope="package")
def field(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Field]:
    """A field where all is as it should be."""
    with Net("s-") as net, Field(net, tmp_path_factory.mktemp("field")) as made:
        made.check()
        yield made
