"""One network and mail host for all; daemons as the modules need them."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.daemon.live import MailHost, Nft
from tests.lab.dpsd import Dpsd, Section
from tests.lab.net import Net

CALM: Section = {"block_at": 1_000_000}
"""A policy that lists nobody, for what operators do."""


def clear(host: MailHost) -> None:
    """Leave nothing of a daemon in the kernel.

    Without its table conntrack sleeps, and what it remembers is no longer so.
    """
    host.hang_up()
    host.net.mail.run("nft", "add table inet dpsd; delete table inet dpsd")
    host.net.mail.run("conntrack", "-F")


Make = Callable[..., Dpsd]


@pytest.fixture(scope="package")
def host() -> Iterator[MailHost]:
    """The mail host, its network and its server."""
    with Net("d-") as net, MailHost(net) as mail_host:
        yield mail_host


@pytest.fixture(autouse=True)
def _hung_up(host: MailHost) -> Iterator[None]:
    """No test leaves a session to the next one; those of a module's fixture stay."""
    before = host.held()
    yield
    host.hang_up(before)


@pytest.fixture(scope="package")
def nft(host: MailHost) -> Nft:
    return Nft(host.net.mail)


@pytest.fixture
def make(host: MailHost, tmp_path: Path) -> Iterator[Make]:
    """Makes daemons that aren't started yet; they are killed, and their table is taken away."""
    with ExitStack() as stack:

        def made(name: str = "one", **sections: Section) -> Dpsd:
            daemon = Dpsd(host.net.mail, tmp_path / name, **{"policy": CALM} | sections)
            stack.callback(lambda: daemon.kill() if daemon.running else None)
            return daemon

        yield made
    clear(host)


@pytest.fixture
def daemon(make: Make) -> Dpsd:
    """A daemon of its own for a test, started."""
    made = make()
    made.start()
    return made


@pytest.fixture(scope="module")
def shared(host: MailHost, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dpsd]:
    """A running daemon for a whole module, whose tests use peers of their own."""
    with Dpsd(host.net.mail, tmp_path_factory.mktemp("shared"), policy=CALM) as made:
        yield made
    clear(host)
