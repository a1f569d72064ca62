"""Observe mode: everything is judged, listed and told; nothing is dropped or ended."""

from collections.abc import Iterator

import pytest

from tests.daemon.conftest import clear
from tests.daemon.live import MailHost, answered, ended, eventually, listed
from tests.lab.dpsd import Dpsd


@pytest.fixture(scope="module")
def observer(host: MailHost, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dpsd]:
    made = Dpsd(
        host.net.mail, tmp_path_factory.mktemp("observer"),
        policy={"block_at": 20},
        evidence={"churn_rate": 1, "churn_burst": 5, "churn_cost": 10, "churn_flood": 0},
    )  # fmt: skip
    made.start("--observe")
    yield made
    made.stop()
    clear(host)


def test_observing_nothing_is_dropped_or_ended(observer: Dpsd, host: MailHost) -> None:
    held = host.session("10.99.110.1")
    for peer, how in (("10.99.110.1", "1h"), ("10.99.111.0/24", "1h")):
        done = observer.cli("block", peer, "--for", how, check=True)
        assert "observe" in done.stderr
    observer.cli("block", "2001:db8:a110::1", "--permanent", check=True)
    assert not ended(held, 0.5)
    assert answered(held)
    assert host.reached("10.99.110.1")
    assert host.reached("10.99.111.5")
    assert host.reached("2001:db8:a110::1")
    lists = listed(observer)
    assert {("block", "10.99.110.1"), ("block", "10.99.111.0/24")} <= lists.keys()
    assert ("black", "2001:db8:a110::/64") in lists
    status = observer.json("status")
    assert status["mode"] == "observe"
    assert status["lists"]["block"] == 2
    assert "observe" in observer.cli("status", check=True).stdout


def test_observing_verdicts_are_only_told(observer: Dpsd, host: MailHost) -> None:
    peer = "10.99.112.1"
    held = host.session(peer)
    for _ in range(12):
        host.session(peer).close()
    assert eventually(lambda: ("block", peer) in listed(observer))
    assert answered(held)
    assert host.reached(peer)
    assert observer.json("why", peer)["evidence"][0]["kind"] == "churn"
    assert peer in observer.tail()
