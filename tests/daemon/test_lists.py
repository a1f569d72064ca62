"""What an operator lists, and what then becomes of the peers' connections.

All is listed at the start of the module, much of it at the same time; most tests only look.
"""

import contextlib
import os
import re
import sqlite3
import subprocess
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from tests.daemon.conftest import Make, clear
from tests.daemon.live import MailHost, Nft, at_once, command, eventually, listed, told_at_once
from tests.lab.dpsd import Dpsd
from tests.lab.net import GATEWAY4, HONEST6, MAIL4, MAIL6, source6

MOMENT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ")
BOXES = re.compile(r"[\x1b\u2500-\u257f]")
SIX = "2001:db8:a001"

AT_FIRST = (
    "block 10.99.1.1 --for 1h",
    f"block {SIX}:1::1 --for 1h",
    "block 10.99.2.1 --for 1h",
    "block 10.99.2.2",
    "block 10.99.5.1 --for 1h",
    "block 10.99.5.2 --for 1s",
    "block 10.99.6.0/25 --for 1h",
    "block 10.99.16.0/20 --for 1h",
    "block 10.99.17.0/24 --for 2h",
    "block 10.99.17.5 --for 1h",
    "block 10.99.33.0/24 --for 1h",
    "block 2001:db8:a002::/48 --for 1h",
    "block 2001:db8:a004:1::7/128 --for 1h",
    "block 10.99.34.1 --permanent",
    "block 10.99.40.0/21 --for 1h",
    "allow 10.99.41.0/24",
    "allow 10.99.42.9",
    "block 10.99.41.3 --permanent",
    "block 2001:db8:a005::/48 --permanent",
    "allow 2001:db8:a005:5::1",
    "block 10.99.35.1 --permanent",
)
THEN = (
    "unblock 10.99.1.1",
    f"unblock {SIX}:1:ffff::3",  # another address of the same peer
    "block 10.99.2.1 --permanent --reason enough",
    "block 10.99.5.2 --for 2h",
    "unblock 10.99.17.0/24",
    "unblock 2001:db8:a004:1::7/128",
    "block 10.99.34.1 --for 1s",  # black stays under it
)
FOR_A_WHILE = (
    "allow 10.99.35.1 --for 8s",
    "block 10.99.3.1 --for 8s",
    f"block {SIX}:3::1 --for 8s",
    "block 10.99.4.0/24 --for 8s",
    "block 10.99.5.1 --for 8s",
    "block 10.99.6.0/25 --for 8s",
)
BLOCKED_FOR_A_WHILE = ("10.99.3.1", f"{SIX}:3::2", "10.99.4.77", "10.99.5.1", "10.99.6.9")
WHILE = 8.0  # seconds


@dataclass
class Seen:
    """Who was dropped between AT_FIRST and THEN, and after FOR_A_WHILE, which began `at`."""

    before: dict[str, bool]
    during: dict[str, bool]
    at: float


@pytest.fixture(scope="module", autouse=True)
def seen(shared: Dpsd, host: MailHost) -> Seen:
    """Everything listed."""
    probes = ("10.99.1.1", f"{SIX}:1:ffff::2", "10.99.17.1", "2001:db8:a004:1::7")
    assert all(map(host.reached, probes))
    at_once(shared, *AT_FIRST)
    before = {peer: host.drops(peer) for peer in (*probes, "10.99.35.1")}
    at_once(shared, *THEN)
    at = time.monotonic()
    at_once(shared, *FOR_A_WHILE)
    during = {peer: host.drops(peer) for peer in (*BLOCKED_FOR_A_WHILE, "10.99.35.1")}
    assert time.monotonic() - at < WHILE, "too slow to have seen anything"
    return Seen(before, during, at)


def seconds_left(moment: str) -> float:
    assert MOMENT.fullmatch(moment)
    return (datetime.fromisoformat(moment) - datetime.now(UTC)).total_seconds()


# One peer


@pytest.mark.parametrize(
    "peer", ["10.99.1.1", f"{SIX}:1:ffff::2"], ids=["ipv4", "ipv6: all of the /64"]
)
def test_blocked_until_unblocked(shared: Dpsd, host: MailHost, seen: Seen, peer: str) -> None:
    assert seen.before[peer]
    assert host.reached(peer)
    assert shared.cli("unblock", peer).returncode == 1


def test_only_the_peer_and_only_the_protected_ports(host: MailHost) -> None:
    assert [host.drops("10.99.2.2", port) for port in (25, 465, 587)] == [True] * 3
    assert host.reached("10.99.2.2", 22)  # nobody is locked out of what isn't protected
    assert host.reached("10.99.2.3")
    assert host.drops("2001:db8:a005:6::2")
    assert host.reached("2001:db8:a005:6::2", 22)
    assert host.reached(f"{SIX}:2::1")  # the next /64


def test_permanent_is_black_and_replaces_the_block(shared: Dpsd, host: MailHost, nft: Nft) -> None:
    assert host.drops("10.99.2.1")
    assert nft.elements("black4")["10.99.2.1"] is None
    lists = listed(shared)
    assert lists["black", "10.99.2.1"]["expires_at"] is None
    assert ("block", "10.99.2.1") not in lists
    shared.cli("unblock", "10.99.2.1", check=True)
    assert host.reached("10.99.2.1")


# Prefixes


def test_overlapping_prefixes_each_count(shared: Dpsd, host: MailHost, seen: Seen) -> None:
    inside = ("10.99.16.1", "10.99.17.1", "10.99.17.5", "10.99.31.254")
    assert seen.before["10.99.17.1"]
    assert all(map(host.drops, inside))
    assert host.reached("10.99.32.1")
    shared.cli("unblock", "10.99.16.0/20", check=True)
    assert [host.drops(peer) for peer in inside] == [False, False, True, False]


def test_unblocking_a_part_of_a_prefix_says_no_and_why(shared: Dpsd, host: MailHost) -> None:
    refused = shared.cli("unblock", "10.99.33.7")
    assert refused.returncode == 1
    assert "10.99.33.0/24" in refused.stderr
    assert host.drops("10.99.33.7")


def test_ipv6_prefixes_wider_and_narrower_than_a_peer(host: MailHost, seen: Seen) -> None:
    assert host.drops("2001:db8:a002:1::1")
    assert host.drops("2001:db8:a002:ffff::1")
    assert host.reached("2001:db8:a003::1")
    assert seen.before["2001:db8:a004:1::7"]
    assert host.reached("2001:db8:a004:1::8")  # of the same /64
    assert host.reached("2001:db8:a004:1::7")


# Precedence


def test_white_before_black_before_block(shared: Dpsd, host: MailHost, seen: Seen) -> None:
    peer = "10.99.34.1"
    assert seen.before["10.99.35.1"]  # black before it was white
    assert eventually(lambda: ("block", peer) not in listed(shared))
    assert host.drops(peer)
    shared.cli("allow", peer, check=True)
    assert host.reached(peer)
    assert shared.json("why", peer)["list"] == "white"
    shared.cli("disallow", peer, check=True)
    assert host.drops(peer)
    assert shared.json("why", peer)["list"] == "black"


def test_white_inside_a_blocked_prefix_and_around_a_black_peer(host: MailHost) -> None:
    assert [host.reached(f"10.99.{rest}") for rest in ("40.1", "41.1", "41.3", "42.9", "42.8")] == [
        False, True, True, True, False,
    ]  # fmt: skip
    assert host.reached("2001:db8:a005:5::2")
    assert host.drops("2001:db8:a005:6::2")


# What is told


def test_list_json(shared: Dpsd) -> None:
    reason = 'tést, "quoted" \N{SNOWMAN}'
    shared.cli("block", "10.99.36.1", "--for", "90s", "--reason", reason, check=True)
    entries = shared.json("list", "block")
    assert {each["list"] for each in entries} == {"block"}
    (entry,) = (each for each in entries if each["peer"] == "10.99.36.1")
    assert set(entry) == {"list", "peer", "reason", "source", "created_at", "expires_at"}
    assert (entry["reason"], entry["source"]) == (reason, "operator")
    assert -10 < seconds_left(entry["created_at"]) <= 0
    assert 80 < seconds_left(entry["expires_at"]) <= 90
    (default,) = (each for each in entries if each["peer"] == "10.99.2.2")
    assert 500 < seconds_left(default["expires_at"]) <= 600  # policy.block_for
    white = {each["peer"]: each["source"] for each in shared.json("list", "white")}
    assert white["127.0.0.0/8"] == "config"
    plain = shared.cli("list", "block", check=True).stdout
    assert "10.99.36.1" in plain
    assert not BOXES.search(plain)


def test_why_of_listed_and_unknown_peers(shared: Dpsd) -> None:
    known = shared.json("why", "2001:db8:a002:7::2")
    assert known["peer"] == "2001:db8:a002:7::/64"
    assert known["list"] == "block"
    assert 3000 < seconds_left(known["expires_at"]) <= 3600
    assert (known["score"], known["evidence"]) == (0, [])
    story = shared.cli("why", "10.99.2.2", check=True).stdout
    assert "dpsd unblock 10.99.2.2" in story
    assert not BOXES.search(story)
    unknown = shared.cli("why", "10.99.37.250")
    assert (unknown.returncode, unknown.stdout) == (1, "")
    assert "10.99.37.250" in unknown.stderr


def test_status_json(shared: Dpsd, host: MailHost) -> None:
    held = [host.session(f"10.99.38.{i}") for i in range(1, 6)]
    assert eventually(lambda: shared.json("status")["sessions"]["open"] >= 5)
    status = shared.json("status")
    assert status["running"] is True
    assert status["mode"] == "enforce"
    assert 0.05 <= status["pressure"] < 1
    assert status["events"]["received"] > 0
    assert status["events"]["lost"] == 0
    assert status["sessions"]["by_state"]["ESTABLISHED"] >= 5
    assert status["peers"] >= 5
    assert status["revision"]["stored"] > 0

    def agree() -> bool:  # unless an entry expires between two commands
        lists = [each["list"] for each in shared.json("list")]
        status = shared.json("status")
        counts = {name: lists.count(name) for name in ("white", "black", "block")}
        stored, applied = status["revision"]["stored"], status["revision"]["applied"]
        return bool(status["lists"] == counts and stored == applied)

    assert eventually(agree)
    for client in held:
        client.close()
    assert eventually(lambda: shared.json("status")["sessions"]["open"] == 0)
    assert str(shared.pid) in shared.cli("status", check=True).stdout


# What is refused


def test_refused_with_its_exit_code_and_without_effect(shared: Dpsd) -> None:
    expected = {
        "block": 2,
        "block 300.1.2.3": 2,
        "block 10.99.0.1/16": 2,  # bits behind the prefix
        "block 10.99.0.1 --for soon": 2,
        "block 10.99.0.1 --for 0s": 2,
        "block 10.99.0.1 --for 1h --permanent": 2,
        "block 0.0.0.0/0": 2,
        f"block {MAIL4}": 2,
        f"block {MAIL6}": 2,
        "list grey": 2,
        "no-such-command": 2,
        "unblock 10.99.0.1": 1,
        "disallow 10.99.0.1": 1,
        "disallow 127.0.0.0/8": 1,  # by the configuration
        "why 10.99.0.1": 1,
    }

    def committed() -> int:  # by commands, not by the daemon, for which entries expire meanwhile
        with contextlib.closing(sqlite3.connect(shared.directory / "dpsd.db")) as db:
            return int(db.execute("SELECT count(*) FROM history WHERE node = ''").fetchone()[0])

    before = committed()
    assert before
    for done in told_at_once(shared, *expected):
        assert done.returncode == expected[done.args], done
        assert done.stderr.strip()
        assert "Traceback" not in done.stderr
        assert not done.stdout
    assert committed() == before


def test_config_before_and_after_the_command_and_from_the_environment(
    shared: Dpsd, tmp_path: Path
) -> None:
    dpsd, before, config, _ = command(shared, "status")
    missing = str(tmp_path / "none.toml")

    def run(*words: str, variable: str = "") -> int:
        env = os.environ | ({"DPSD_CONFIG": variable} if variable else {})
        argv = shared.space.command(dpsd, *words)
        return subprocess.run(argv, env=env, capture_output=True, check=False).returncode

    assert run(before, config, "status") == 0
    assert run("status", before, config) == 0
    assert run("status", variable=config) == 0
    assert run(before, config, "status", variable=missing) == 0
    assert run("status", before, config, variable=missing) == 0
    assert run("status", before, missing) == 78
    assert run("status", variable=missing) == 78


# What is over


def test_kernel_frees_at_the_time_and_the_store_agrees(
    shared: Dpsd, host: MailHost, nft: Nft, seen: Seen
) -> None:
    assert [seen.during[peer] for peer in BLOCKED_FOR_A_WHILE] == [True] * 5
    assert not seen.during["10.99.35.1"]  # white for a while
    for peer in BLOCKED_FOR_A_WHILE:
        assert eventually(lambda p=peer: host.reached(p), WHILE), peer  # type: ignore[misc]
    assert time.monotonic() - seen.at > WHILE
    assert eventually(lambda: host.drops("10.99.35.1"))
    assert host.drops("10.99.5.2")
    assert nft.elements("block4")["10.99.5.2"] in range(7000, 7201)
    assert not nft.holds("block4", "10.99.3.1")
    peers = {peer for _, peer in listed(shared)}
    assert not peers & {"10.99.3.1", f"{SIX}:3::/64", "10.99.4.0/24", "10.99.5.1", "10.99.6.0/25"}

    def last_action() -> Any:
        return shared.json("why", "10.99.3.1")["history"][0]["action"]

    assert eventually(lambda: last_action() == "expire"), "history doesn't tell that it is over"


# Before there is a daemon


def test_listed_before_the_first_start(make: Make, shared: Dpsd, host: MailHost) -> None:
    shared.stop()
    clear(host)
    daemon = make()
    blocks = ("block 10.99.50.1", "block 10.99.51.0/24 --for 1h", f"block {SIX}:51::1 --permanent")
    for done in told_at_once(daemon, *blocks, "allow 10.99.51.3", "block 10.99.52.1 --for 1s"):
        assert done.returncode == 0, done
        assert "when the daemon starts" in done.stderr
    assert daemon.json("status")["running"] is False
    probes = ("10.99.50.1", "10.99.51.200", f"{SIX}:51::2")
    assert all(map(host.reached, probes))
    assert eventually(lambda: ("block", "10.99.52.1") not in listed(daemon))
    assert len(listed(daemon)) == 4
    daemon.start()
    assert all(map(host.drops, probes))
    assert host.reached("10.99.51.3")
    assert host.reached("10.99.52.1")
    assert host.reached(str(GATEWAY4))
    assert host.reached(source6(HONEST6, 1))
