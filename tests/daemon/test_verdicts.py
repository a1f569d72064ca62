"""What verdicts follow from scores, and what outlives the daemon, under a policy of few words."""

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.daemon.conftest import Make
from tests.daemon.live import CONTROL, MAIL, MailHost, Nft, ended, eventually, listed, said
from tests.lab.dpsd import Dpsd

QUICK: dict[str, Any] = {
    "policy": {"block_at": 30, "block_for": "1s", "black_after": 3},
    # One session is free, each further one costs 11 of 30.
    "evidence": {
        "churn_rate": 0.1,
        "churn_burst": 1,
        "churn_cost": 11,
        "churn_flood": 0,  # at rest, too
        "abort_cost": 0,
        "empty_cost": 0,
    },
    "lists": {"white": ["127.0.0.0/8", *CONTROL.values()]},
}

STALLS: dict[str, Any] = {
    "policy": {"block_at": 30, "block_for": "1h"},
    "protect": {"slots": 10},
    "lists": {"white": ["127.0.0.0/8", *CONTROL.values()]},
}

# When a block is over its evidence is forgotten: these stay for as long as a test takes.
LASTING: dict[str, Any] = {"policy": {"block_at": 30, "block_for": "1h"}}


def verdict(daemon: Dpsd, list_name: str, peer: str) -> bool:
    """Whether the log tells that a peer was listed; its block may be over already."""
    return f"{peer} {list_name} for" in daemon.log.read_text(encoding="utf-8")


def test_scores_survive_a_crash(make: Make, host: MailHost) -> None:
    daemon, peer = make(**(QUICK | LASTING)), "10.99.170.1"
    daemon.start()
    assert all(host.reached(peer) for _ in range(3))  # one is free: 22 of 30
    assert eventually(lambda: daemon.cli("why", peer).returncode == 0)
    assert daemon.json("why", peer)["score"] == pytest.approx(22, abs=2)
    daemon.kill()
    daemon.start()
    assert eventually(lambda: not daemon.json("status")["blind"])  # who is blind doesn't judge
    assert not verdict(daemon, "block", peer)
    assert host.reached(peer)
    assert host.reached(peer)  # again one was free
    assert eventually(lambda: verdict(daemon, "block", peer))

    def churn() -> list[tuple[int, float]]:
        evidence = daemon.json("why", peer)["evidence"]
        return [(each["count"], each["cost"]) for each in evidence if each["kind"] == "churn"]

    assert eventually(lambda: churn() == [(3, 33)]), churn()  # two of them from before
    assert eventually(lambda: ("block", peer) in listed(daemon))
    told = daemon.cli("why", peer, check=True).stdout
    assert f"{peer} is on the block list until" in told
    words = "3 sessions to port 25 came beyond the allowed rate: up to"
    assert words in told
    assert words in daemon.log.read_text(encoding="utf-8")


def test_the_story_of_a_block_outlives_the_daemon(make: Make, host: MailHost) -> None:
    daemon, peer = make(**(QUICK | LASTING)), "10.99.170.4"
    daemon.start()
    assert eventually(lambda: host.drops(peer))

    def evidence() -> list[Any]:
        found: list[Any] = daemon.json("why", peer)["evidence"]
        return found

    assert eventually(lambda: ("block", peer) in listed(daemon))
    assert eventually(lambda: bool(evidence()))
    before = evidence()
    assert (before[0]["ports"], before[0]["most"] > 0) == ([25], True)
    daemon.kill()
    daemon.start()
    assert evidence() == before
    why = daemon.cli("why", peer, check=True).stdout
    assert before[0]["story"] in why
    assert daemon.cli("list", check=True).stdout.count(peer) == 1


def test_blocked_twice_as_long_and_then_for_a_year(make: Make, host: MailHost) -> None:
    daemon, peer = make(**QUICK), "10.99.170.2"
    daemon.start()
    began = time.monotonic()

    def black() -> bool:
        host.reached(peer)
        return verdict(daemon, "black", peer)

    assert eventually(black, 20)
    assert time.monotonic() - began > 3  # one second, then two
    assert host.drops(peer)
    assert eventually(lambda: ("black", peer) in listed(daemon))
    entry = listed(daemon)["black", peer]
    left = datetime.fromisoformat(entry["expires_at"]) - datetime.now(UTC)
    assert timedelta(days=364) < left < timedelta(days=366)  # policy.black_for
    assert daemon.json("status")["black_by_score"]["count"] == 1
    assert "block 3" in entry["reason"]
    history = [(each["action"], each["list"]) for each in daemon.json("why", peer)["history"]]
    assert history[::-1] == [
        ("add", "block"), ("expire", "block"), ("add", "block"), ("expire", "block"),
        ("add", "black"),
    ]  # fmt: skip
    daemon.cli("unblock", peer, check=True)
    assert host.reached(peer)


@pytest.mark.parametrize("source", [(), ("--source", "jail")], ids=["operator", "program"])
def test_only_what_an_operator_lifts_is_forgiven(
    make: Make, host: MailHost, source: tuple[str, ...]
) -> None:
    daemon, peer = make(**QUICK), "10.99.170.5"
    daemon.start()

    def verdicts() -> list[str]:
        told = daemon.log.read_text(encoding="utf-8").splitlines()
        return [line for line in told if f"{peer} block for" in line and "by score" in line]

    def blocked_again(times: int) -> bool:
        host.reached(peer)
        return len(verdicts()) == times

    assert eventually(lambda: blocked_again(1), 20)
    daemon.cli("block", peer, "--for", "1h", *source, check=True)
    daemon.cli("unblock", peer, *source, check=True)
    assert eventually(lambda: blocked_again(2), 20)
    assert ("block 2 within" in verdicts()[1]) is bool(source)


def test_clean_slate_when_the_block_ended_without_a_daemon(make: Make, host: MailHost) -> None:
    daemon, peer = make(**QUICK), "10.99.170.3"
    daemon.start()
    assert eventually(lambda: host.drops(peer))
    daemon.stop()
    assert eventually(lambda: host.reached(peer))
    daemon.start()
    assert host.reached(peer)
    assert host.reached(peer)  # 11 of 30
    assert eventually(lambda: 5 < daemon.json("why", peer)["score"] < 15)
    assert host.reached(peer)


def test_released_from_a_prefix_a_peer_is_judged_again(make: Make, host: MailHost) -> None:
    daemon, peer = make(**QUICK), "10.99.171.1"
    daemon.start()
    held = [host.session(peer) for _ in range(3)]
    daemon.cli("block", "10.99.171.0/24", "--for", "1h", check=True)
    assert all(map(ended, held))
    daemon.cli("unblock", "10.99.171.0/24", check=True)
    assert host.reached(peer)

    def judged() -> bool:
        host.reached(peer)
        return verdict(daemon, "block", peer)

    assert eventually(judged)


@contextmanager
def mails(host: MailHost, peer: str) -> Iterator[list[Exception]]:
    """A peer sends mail after mail, each on a session of its own and in two parts; what went wrong
    with that, if something."""
    failures, stopping = list[Exception](), threading.Event()

    def send() -> None:
        while not stopping.is_set():
            try:
                with host.session(peer) as client:
                    client.send(b"EHLO client.example\r\n")
                    assert said(client)
                    for part in (MAIL, b".\r\n", b"QUIT\r\n"):
                        if stopping.wait(0.4):  # so that a look at the table comes between them
                            return
                        client.send(part)
                    assert said(client)
            except (OSError, AssertionError) as failure:
                failures.append(failure)
                return

    sending = threading.Thread(target=send)
    sending.start()
    try:
        yield failures
    finally:
        stopping.set()
        sending.join()


def test_who_never_finishes_its_mails(make: Make, host: MailHost) -> None:
    """Its sessions end to make room, and it pays when it comes back for more of that; meanwhile
    others' mails are answered, as the sockets tell."""
    daemon, stranger, known = make(**STALLS), "10.99.176.1", "10.99.176.2"
    daemon.start()

    def stalls() -> socket.socket:
        client = host.session(stranger)
        client.send(b"EHLO client.example " * 4 + b"\r\n")
        assert said(client)
        client.send(MAIL)
        return client

    with mails(host, known) as failures:
        held = [stalls() for _ in range(11)]

        def is_listed() -> bool:
            for number, client in enumerate(held):
                if ended(client, 0) and host.reached(stranger):
                    with suppress(OSError):
                        held[number] = stalls()
            return verdict(daemon, "block", stranger)

        assert eventually(is_listed, 40)
        assert all(map(ended, held))
    assert not failures
    assert not verdict(daemon, "block", known)


def test_whoever_opens_no_window_is_ended_though_nobody_could_greet_it(
    make: Make, host: MailHost
) -> None:
    """Its segments all tell a window of 0: to conntrack the server says nothing in its sessions."""
    daemon, deaf = make(**STALLS), "10.99.176.3"
    world = Nft(host.net.world)
    world("""
        table ip deaf {
            chain out {
                type filter hook output priority mangle
                ip saddr 10.99.176.3 tcp dport 25 tcp window set 0
            }
        }
    """)
    try:
        daemon.start()
        held = [host.hold(host.start(deaf)) for _ in range(11)]
        assert eventually(lambda: all(map(host.server.has, held)))
        assert not any(said(client, 0) for client in held)
        assert all(ended(client, 20) for client in held[:6])  # down to half of the slots
    finally:
        world("delete table ip deaf")


def test_crash_right_after_a_verdict(make: Make, host: MailHost) -> None:
    """The verdict is in the kernel within milliseconds, in the store within a second."""
    daemon, peer = make(**(QUICK | {"policy": {"block_at": 30}})), "10.99.172.1"
    daemon.start()
    assert eventually(lambda: host.drops(peer))
    daemon.kill()
    assert host.drops(peer)
    daemon.start()
    assert host.drops(peer)
    assert eventually(lambda: ("block", peer) in listed(daemon))
    assert daemon.json("why", peer)["history"][0]["action"] == "add"
