"""Much at once: events lost, many blocks, many commands, long lists."""

import os
import signal
import subprocess
import time
from ipaddress import ip_network
from pathlib import Path

from dpsd.core.lists import Entry, ListName
from dpsd.kernel.nftset import SIZES
from dpsd.store import Action, Record, Store
from tests.daemon.conftest import Make
from tests.daemon.live import (
    CONTROL,
    MailHost,
    Nft,
    answered,
    at_once,
    ended,
    eventually,
    listed,
    told_at_once,
)
from tests.lab.agents import Attack
from tests.lab.dpsd import Dpsd

WHITE = {"white": ["127.0.0.0/8", *CONTROL.values()]}


def test_events_lost_and_known_again(make: Make, host: MailHost) -> None:
    daemon = make(kernel={"event_buffer": "256KiB"})
    daemon.start()
    staying = [host.session(f"10.99.180.{number}") for number in range(1, 11)]
    going = [host.session(f"10.99.181.{number}") for number in range(1, 11)]
    assert eventually(lambda: daemon.json("status")["sessions"]["open"] == 20)
    os.kill(daemon.pid, signal.SIGSTOP)
    try:
        for _ in range(600):
            host.start("10.99.182.1").close()
        coming = [host.session(f"10.99.183.{number}") for number in range(1, 11)]
        for client in going:
            client.close()
        assert eventually(lambda: not any(peer.startswith("10.99.182.") for peer, _ in
                                          host.server.open))  # fmt: skip
    finally:
        os.kill(daemon.pid, signal.SIGCONT)
    assert eventually(lambda: daemon.json("status")["events"]["lost"] > 0)
    assert eventually(
        lambda: daemon.json("status")["sessions"]["by_state"].get("ESTABLISHED") == 20, 12
    ), daemon.json("status")
    assert eventually(lambda: not daemon.json("status")["blind"], 12)
    assert "lost" in daemon.cli("status", check=True).stdout
    assert "lost" in daemon.tail()
    # It works as before: a session that only the dump told of is ended with its peer's block.
    daemon.cli("block", "10.99.183.0/24", "--for", "1h", check=True)
    assert all(map(ended, coming))
    assert all(map(answered, staying))


def test_twenty_commands_at_the_same_time(daemon: Dpsd, host: MailHost, nft: Nft) -> None:
    before = daemon.json("status")["revision"]["stored"]
    at_once(daemon, *(f"block 10.99.184.{number} --for 1h" for number in range(1, 21)))
    assert all(host.drops(f"10.99.184.{number}") for number in range(1, 21))
    assert nft.elements("block4").keys() == {f"10.99.184.{number}" for number in range(1, 21)}

    def applied() -> bool:
        # One that waited for half a second on a busy machine has asked the daemon as well.
        revision = daemon.json("status")["revision"]
        return bool(revision["stored"] == revision["applied"] >= before + 20)

    assert eventually(applied)
    # One peer by all of them: whichever came last counts, in the store and in the kernel alike.
    told = told_at_once(
        daemon, *(f"block 10.99.185.1 --for {number}h" for number in range(1, 4)),
        "unblock 10.99.185.1",
    )  # fmt: skip
    assert {done.returncode for done in told} <= {0, 1}
    assert nft.holds("block4", "10.99.185.1") is (("block", "10.99.185.1") in listed(daemon))


def test_commands_while_a_thousand_blocks_arrive(
    make: Make, host: MailHost, nft: Nft, tmp_path: Path
) -> None:
    daemon = make(
        lists=WHITE,
        policy={"block_at": 5},
        evidence={"churn_rate": 0.1, "churn_burst": 1, "churn_cost": 10, "churn_flood": 0},
    )
    daemon.start()
    attack = Attack("churn", sources=1000, sessions=1, seconds=8, rate=1500)
    argv = attack.command(host.net.world, time.time(), tmp_path / "records")
    attacking = subprocess.Popen(argv, cwd=Path(__file__).parents[2])
    try:
        for number in range(1, 5):
            daemon.cli("block", f"10.99.186.{number}", "--for", "1h", check=True)
            assert host.drops(f"10.99.186.{number}")
        assert eventually(lambda: len(nft.elements("block4")) == 1004, 20)
    finally:
        attacking.kill()
        attacking.wait()
    assert eventually(lambda: len(daemon.json("list", "block")) == 1004)
    assert daemon.json("status")["lists"]["block"] == 1004
    assert eventually(lambda: len(set(daemon.json("status")["revision"].values())) == 1)


def test_a_full_set_takes_what_lasts_longest(make: Make, host: MailHost, nft: Nft) -> None:
    """The kernel refuses one more; then the whole table is loaded, without what lasts shortest."""
    size, now, daemon = SIZES["white4"], time.time(), make()
    networks = (ip_network((0x0B000000 + number, 32)) for number in range(size))
    entries = [Entry(ListName.WHITE, each, "", "import", now, now + 3600) for each in networks]
    with Store.open(f"sqlite:///{daemon.directory}/dpsd.db", upgrade=True) as store:
        store.commit([Record(Action.ADD, entry, now) for entry in entries])
    daemon.start()
    daemon.cli("block", "10.99.188.0/24", "--for", "1h", check=True)
    assert host.drops("10.99.188.1")
    for how in ((), ("--for", "1m")):  # the second one lasts shortest: there is no room for it
        said = daemon.cli("allow", f"10.99.188.{1 + len(how)}", *how, check=True)
        assert "stored" not in said.stderr
    assert host.reached("10.99.188.1")
    assert not nft.holds("white4", "10.99.188.3"), daemon.log.read_text(encoding="utf-8")
    assert host.drops("10.99.188.3"), daemon.log.read_text(encoding="utf-8")
    daemon.cli("block", "10.99.189.2", "--for", "1h", check=True)  # and so it goes on
    assert nft.holds("block4", "10.99.189.2")


def test_ten_thousand_entries(daemon: Dpsd, host: MailHost, nft: Nft) -> None:
    now = time.time()
    networks = [ip_network(f"10.{100 + number // 65536}.{number // 256 % 256}.{number % 256}")
                for number in range(10_000)]  # fmt: skip
    entries = [Entry(ListName.BLOCK, each, "many", "import", now, now + 3600) for each in networks]
    with Store.open(f"sqlite:///{daemon.directory}/dpsd.db") as store:
        number = store.commit([Record(Action.ADD, entry, now) for entry in entries])
    assert eventually(lambda: daemon.json("status")["revision"]["applied"] == number, 10)
    # While a set still grows nft leaves some out of it.
    assert eventually(lambda: len(nft.elements("block4")) == 10_000)
    assert len(daemon.json("list", "block")) == 10_000
    daemon.cli("block", "10.99.187.1", "--for", "1h", check=True)
    assert host.drops("10.99.187.1")
    daemon.kill()
    assert host.drops("10.99.187.1")
    daemon.start()
    assert host.drops("10.99.187.1")
    assert eventually(lambda: len(nft.elements("block4")) == 10_001)
    assert daemon.json("status")["lists"]["block"] == 10_001
    nft("flush ruleset")
    assert eventually(lambda: nft.holds("block4", "10.99.187.1"), 2)
