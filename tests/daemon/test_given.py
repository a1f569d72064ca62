"""White from the start, and while it is so: the host's own and near addresses, and mynetworks."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.daemon.conftest import Make
from tests.daemon.live import MailHost, Nft, at_once, eventually, listed
from tests.lab.dpsd import Dpsd
from tests.lab.net import GATEWAY4, GATEWAY6, MAIL4, MAIL6
from tests.lab.postfix import postconf

NEIGHBOUR = "2001:db8:25::66"  # in the server's own /64
GATEWAY = str(GATEWAY4)


def white(daemon: Dpsd) -> dict[str, tuple[str, str]]:
    """Who is white: by which source, for which reason."""
    entries = daemon.json("list", "white")
    return {each["peer"]: (each["source"], each["reason"]) for each in entries}


@contextmanager
def neighbour(host: MailHost) -> Iterator[str]:
    """A host that may well be somebody else's."""
    host.net.world.run(*f"ip addr add {NEIGHBOUR}/64 dev mail nodad".split())
    try:
        yield NEIGHBOUR
    finally:
        host.net.world.run(*f"ip addr del {NEIGHBOUR}/64 dev mail".split())


def test_own_addresses_and_gateways_are_white(daemon: Dpsd, nft: Nft) -> None:
    found = white(daemon)
    assert found[str(MAIL4)] == found[f"{MAIL6}/128"] == ("host", "own address")
    assert found[GATEWAY] == found[f"{GATEWAY6}/128"] == ("host", "gateway")
    assert found["127.0.0.0/8"][0] == found["::/64"][0] == "config"
    assert not {"127.0.0.1", "::1/128"} & found.keys()  # the configuration has them already
    assert nft.holds("white4", GATEWAY)
    assert nft.holds("white6_nets", str(GATEWAY6))
    assert daemon.json("why", GATEWAY)["list"] == "white"


def test_a_neighbour_in_the_own_64_is_not_white(daemon: Dpsd, host: MailHost) -> None:
    with neighbour(host) as peer:
        assert eventually(lambda: host.reached(peer))  # the first time it must be found on the link
        at_once(daemon, f"block {peer}/128 --for 1h")
        assert host.drops(peer)
        assert host.reached(str(GATEWAY6))


def test_they_come_and_go(daemon: Dpsd, host: MailHost, nft: Nft) -> None:
    route = ("route", "add", "0.0.0.0/0", "via", "198.51.100.77", "metric", "99")
    host.net.mail.run("ip", *route)
    try:
        daemon.reload()
        assert eventually(lambda: white(daemon).get("198.51.100.77") == ("host", "gateway"))
        assert eventually(lambda: nft.holds("white4", "198.51.100.77"))
    finally:
        host.net.mail.run("ip", "route", "del", *route[2:])
    daemon.reload()
    assert eventually(lambda: "198.51.100.77" not in white(daemon))
    assert eventually(lambda: not nft.holds("white4", "198.51.100.77"))
    actions = [each["action"] for each in daemon.json("why", "198.51.100.77")["history"]]
    assert actions == ["remove", "add"]


@pytest.mark.parametrize("how", ["--for 1h", "--permanent"])
def test_an_operators_block_of_just_this_peer_wins(
    daemon: Dpsd, host: MailHost, nft: Nft, how: str
) -> None:
    assert host.reached(GATEWAY)
    done = daemon.cli("block", GATEWAY, *how.split(), check=True)
    assert "passes all the same" not in done.stderr
    assert host.drops(GATEWAY)
    assert GATEWAY not in white(daemon)
    daemon.reload()
    daemon.stop()
    daemon.start()
    assert GATEWAY not in white(daemon)
    assert host.drops(GATEWAY)
    at_once(daemon, f"unblock {GATEWAY}")
    assert eventually(lambda: white(daemon).get(GATEWAY) == ("host", "gateway"))
    assert host.reached(GATEWAY)
    assert eventually(lambda: nft.holds("white4", GATEWAY))


def test_a_wider_block_leaves_the_gateway_and_says_so(daemon: Dpsd, host: MailHost) -> None:
    done = daemon.cli("block", f"{GATEWAY}/30".replace(".1/", ".0/"), "--for", "1h", check=True)
    assert f"{GATEWAY} within it stays white (gateway)" in done.stderr
    assert host.reached(GATEWAY)


def test_an_operators_white_entry_takes_its_place_until_it_goes(daemon: Dpsd) -> None:
    at_once(daemon, f"allow {GATEWAY} --reason mine")
    assert white(daemon)[GATEWAY] == ("operator", "mine")
    at_once(daemon, f"disallow {GATEWAY}")
    assert eventually(lambda: white(daemon).get(GATEWAY) == ("host", "gateway"))
    done = daemon.cli("disallow", GATEWAY)
    assert done.returncode == 1
    assert f"{GATEWAY} is white while it is so (gateway); `dpsd block {GATEWAY}`" in done.stderr
    assert daemon.cli("disallow", str(MAIL4)).stderr.endswith("(own address)\n")
    assert daemon.cli("block", str(MAIL4)).returncode == 2


# A real Postfix's configuration


@pytest.fixture
def postfix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    with postconf(tmp_path) as programs:
        monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
        (tmp_path / "etc").mkdir()
        yield tmp_path / "etc"


def slots(daemon: Dpsd) -> list[int]:
    return [each["slots"] for each in daemon.json("status")["slots"]]


def write(postfix: Path, networks: str, *services: str) -> None:
    """A main.cf and a master.cf."""
    (postfix / "main.cf").write_text(f"compatibility_level = 3.6\nmynetworks = {networks}\n")
    (postfix / "master.cf").write_text("".join(f"{line}\n" for line in services))


def test_slots_and_networks_are_those_of_postfix(make: Make, host: MailHost, postfix: Path) -> None:
    smtp = "smtp inet n - n - 30 smtpd"
    write(postfix, "127.0.0.0/8 10.99.7.0/24 hash:/nets 0.0.0.0/0 [2001:db8:a007::]/48", smtp)
    protect = {"slots": "auto", "postfix": str(postfix), "ports": [25, 587]}
    daemon = make(protect=protect)
    at_once(daemon, "block 10.99.7.0/25 --for 1h", "block 10.99.8.0/25 --for 1h")
    daemon.start()
    status = daemon.json("status")["slots"]
    assert [(each["ports"], each["slots"]) for each in status] == [([25], 30), ([587], 100)]
    assert status[0]["source"] == "Postfix, smtp/inet, process limit in master.cf"
    assert "slots     30 for 25: Postfix, smtp/inet" in daemon.cli("status", check=True).stdout
    assert "slots: 30 for 25: Postfix, smtp/inet" in daemon.cli("check").stderr
    assert white(daemon)["10.99.7.0/24"] == ("postfix", "Postfix's mynetworks")
    assert white(daemon)["2001:db8:a007::/48"][0] == "postfix"
    assert "0.0.0.0/0" not in white(daemon)
    assert host.reached("10.99.7.1")
    assert host.drops("10.99.8.1")
    log = daemon.log.read_text(encoding="utf-8")
    assert "INFO slots: 30 for 25: Postfix" in log
    assert "hash:/nets (a file or table), 0.0.0.0/0 (wider than /8)" in log

    # A configuration that can't be read changes nothing of this, and is told once.
    write(postfix, "10.99.8.0/24", "smtp inet n")
    for count in (1, 2):
        daemon.reload()
        assert eventually(lambda n=count: daemon.log.read_bytes().count(b"reloaded") == n)  # type: ignore[misc]
    assert daemon.log.read_text(encoding="utf-8").count("bad field count") == 1
    assert daemon.json("status")["slots"] == status
    assert host.reached("10.99.7.1")
    assert "bad field count" in daemon.cli("check").stdout

    # Another one is taken; so is its end.
    write(postfix, "10.99.8.0/24", smtp.replace("30", "40"), "587 inet n - n - 20 smtpd")
    daemon.reload()
    assert eventually(lambda: host.reached("10.99.8.1"))
    assert host.drops("10.99.7.1")
    assert eventually(lambda: slots(daemon) == [40, 20])
    daemon.configure(protect=protect | {"postfix": "", "slots": 7})
    daemon.reload()
    assert eventually(lambda: host.drops("10.99.8.1"))
    assert "postfix" not in {source for source, _ in white(daemon).values()}
    assert ("block", "10.99.8.0/25") in listed(daemon)
    assert eventually(lambda: slots(daemon) == [7])


def test_an_unreadable_postfix_at_the_start_keeps_its_networks(
    make: Make, host: MailHost, postfix: Path
) -> None:
    write(postfix, "10.99.7.0/24", "smtp inet n - n - 30 smtpd")
    daemon = make(protect={"slots": "auto", "postfix": str(postfix)})
    daemon.start()
    assert "10.99.7.0/24" in white(daemon)
    daemon.stop()
    write(postfix, "10.99.8.0/24", "smtp inet n")
    daemon.start()
    assert "10.99.7.0/24" in white(daemon)
    (assumed,) = daemon.json("status")["slots"]
    assert assumed["source"] == "assumed, because the mail server could not be asked"
    assert host.reached("10.99.7.1")
