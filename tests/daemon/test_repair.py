"""What others do to the table is mended within 2 s, and what isn't dpsd's is let be."""

import threading
import time
from collections.abc import Iterator

import pytest

from tests.daemon.live import MailHost, Nft, at_once, eventually
from tests.lab.dpsd import Dpsd

WITHIN = 2.0  # seconds
HOST4, HOST6 = "10.99.130.1", "2001:db8:a130:1::1"
BLOCKED = (HOST4, HOST6, "10.99.131.9", "2001:db8:a131::1", "10.99.130.2")
FREE = "10.99.132.1"
THEIRS = """
table inet theirs {
    set dpsd { type ipv4_addr; elements = { 192.0.2.1 }; }
}
"""


@pytest.fixture(scope="module", autouse=True)
def _listed(shared: Dpsd, nft: Nft) -> Iterator[None]:
    at_once(
        shared,
        f"block {HOST4} --for 1h",
        f"block {HOST6} --for 1h",
        "block 10.99.131.0/24 --for 1h",
        "block 2001:db8:a131::/48 --permanent",
        "block 10.99.130.2 --permanent",
        "allow 10.99.131.77",
    )
    nft(THEIRS)
    yield
    nft("add table inet theirs; delete table inet theirs")


@pytest.mark.parametrize(
    "harm",
    [
        "flush ruleset",
        "delete table inet dpsd",
        "flush set inet dpsd block4",
        "flush set inet dpsd white4",
        f"delete element inet dpsd block4 {{ {HOST4} }}",
        "delete element inet dpsd block4_nets { 10.99.131.0/24 }",
        "flush chain inet dpsd refuse",
        f"add element inet dpsd block4 {{ {FREE} }}",
        f"add element inet dpsd black4_nets {{ {FREE}/31 timeout 1h }}",
        f"add element inet dpsd white4 {{ {HOST4} }}",
        "insert rule inet dpsd prerouting accept",
        "add chain inet dpsd theirs { type filter hook input priority 0 ; policy drop ; }",
        "delete table inet dpsd; add table inet dpsd; add chain inet dpsd theirs",
    ],
)
def test_mended(shared: Dpsd, host: MailHost, nft: Nft, harm: str) -> None:
    repairs = _repairs(shared)
    nft(harm)

    def as_it_should_be() -> bool:
        reached = all(map(host.reached, (FREE, "10.99.131.77"))) and host.reached(HOST4, 22)
        return reached and all(map(host.drops, BLOCKED))

    assert eventually(as_it_should_be, WITHIN)
    assert eventually(lambda: not nft.holds("block4", FREE), WITHIN)
    assert _repairs(shared) == repairs + 1
    assert 3000 < (nft.elements("block4")[HOST4] or 0) <= 3600
    if harm == "flush ruleset":
        nft(THEIRS)
    assert "192.0.2.1" in nft("list table inet theirs")


def test_other_tables_may_change_without_a_repair(shared: Dpsd, nft: Nft) -> None:
    repairs = _repairs(shared)
    for number in range(50):
        nft(f"add element inet theirs dpsd {{ 192.0.2.{number + 2} }}")
    nft("add table ip dpsd; delete table ip dpsd")  # of another family
    shared.cli("block", "10.99.133.1", "--for", "1h", check=True)
    assert _repairs(shared) == repairs
    assert shared.json("status")["repairs"] == repairs


class Fighter:
    """Flushes dpsd's table in a loop, as another program's bug might."""

    def __init__(self, nft: Nft, *harm: str) -> None:
        self._nft, self._harm = nft, harm
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._fight)
        self.blows = 0

    def __enter__(self) -> "Fighter":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._thread.join()

    def _fight(self) -> None:
        while not self._stopping.is_set():
            for harm in self._harm:
                self._nft.space.run("nft", harm, check=False)  # there may be nothing to harm
                self.blows += 1


@pytest.mark.parametrize("harm", ["flush set inet dpsd block4", "flush ruleset"])
def test_fighter_is_outlived(shared: Dpsd, host: MailHost, nft: Nft, harm: str) -> None:
    began, spent = time.monotonic(), _processor_seconds(shared.pid)
    with Fighter(nft, harm) as fighter:
        assert eventually(lambda: fighter.blows > 50, 20)
        # An operator's command succeeds, or says that it hasn't yet; it isn't lost.
        done = shared.cli("block", "10.99.134.1", "--for", "1h")
        assert done.returncode in {0, 69}, done.stderr
        spent = _processor_seconds(shared.pid) - spent
        assert spent < 0.5 * (time.monotonic() - began), "the fight took all of a processor"
    assert shared.running
    assert eventually(lambda: all(map(host.drops, (*BLOCKED, "10.99.134.1"))), 3)
    assert eventually(lambda: len(set(shared.json("status")["revision"].values())) == 1)
    nft("add table inet theirs")
    shared.cli("unblock", "10.99.134.1", check=True)
    assert host.reached("10.99.134.1")


def _repairs(daemon: Dpsd) -> int:
    return daemon.log.read_text().count("is as it should be")


def _processor_seconds(pid: int) -> float:
    with open(f"/proc/{pid}/stat", encoding="ascii") as file:
        fields = file.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100
