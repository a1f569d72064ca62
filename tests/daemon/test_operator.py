"""An operator's word holds, whatever the daemon decides at the same moment."""

import contextlib
import json
import os
import signal
import sqlite3
import subprocess
import threading
import time
from collections.abc import Iterator

import pytest

from tests.daemon.conftest import Make
from tests.daemon.live import MailHost, Nft, at_once, command, eventually, listed
from tests.daemon.test_bad_input import STRANGER
from tests.daemon.test_verdicts import LASTING, QUICK
from tests.lab.dpsd import Dpsd

PEERS = tuple(f"10.99.190.{number}" for number in range(1, 9))


def test_a_verdict_at_the_same_moment_gives_way(make: Make, host: MailHost, nft: Nft) -> None:
    daemon = make(**(QUICK | LASTING))
    daemon.start()
    for peer in PEERS:
        assert all(host.reached(peer) for _ in range(3))
    assert eventually(lambda: daemon.json("status")["peers"] >= len(PEERS))
    os.kill(daemon.pid, signal.SIGSTOP)  # what comes now is all there at once when it goes on
    for peer in PEERS:
        for _ in range(2):
            assert host.reached(peer)
    blocking = threading.Thread(
        target=at_once, args=(daemon, *(f"block {peer} --for 7d" for peer in PEERS))
    )
    blocking.start()
    assert eventually(lambda: len(listed(daemon)) >= len(PEERS) + 1)
    os.kill(daemon.pid, signal.SIGCONT)
    blocking.join()
    assert eventually(lambda: len(set(daemon.json("status")["revision"].values())) == 1)
    verdicts = [
        peer for peer in PEERS if f"{peer} block for 1h, by score" in daemon.log.read_text()
    ]
    assert verdicts, "nothing happened at the same moment"
    lists, kernel = listed(daemon), nft.elements("block4")
    for peer in PEERS:
        assert lists["block", peer]["source"] == "operator", peer
        assert (kernel[peer] or 0) > 6 * 86_400, peer
    at_once(daemon, *(f"unblock {peer}" for peer in PEERS))
    assert all(map(host.reached, PEERS))


@pytest.fixture
def locked(daemon: Dpsd) -> Iterator[Dpsd]:
    """A daemon whose store another process keeps to itself."""
    at_once(daemon, "block 10.99.191.1 --for 1h")
    with contextlib.closing(sqlite3.connect(daemon.directory / "dpsd.db")) as db:
        db.execute("BEGIN IMMEDIATE")
        yield daemon
        db.rollback()


def test_a_locked_store_delays_no_operator(locked: Dpsd, host: MailHost) -> None:
    began = time.monotonic()
    freeing = threading.Thread(target=locked.cli, args=("unblock", "10.99.191.1"))
    freeing.start()
    assert eventually(lambda: host.reached("10.99.191.1"), 3)
    assert time.monotonic() - began < 5, "it waited for the store"
    blocking = threading.Thread(target=locked.cli, args=("block", "10.99.191.2"))
    blocking.start()
    assert eventually(lambda: host.drops("10.99.191.2"), 3)
    freeing.join()
    blocking.join()


def test_a_busy_daemon_is_waited_for(locked: Dpsd, host: MailHost) -> None:
    """Else it does what was asked for, and the command says that nobody did."""
    os.kill(locked.pid, signal.SIGSTOP)
    going_on = threading.Timer(2.5, os.kill, (locked.pid, signal.SIGCONT))
    going_on.start()
    freed = locked.cli("unblock", "10.99.191.1")
    going_on.join()
    assert freed.returncode == 0, freed
    assert "a restart undoes it" in freed.stderr
    assert host.reached("10.99.191.1")


def test_who_may_not_change_the_store_may_not_ask_the_daemon(locked: Dpsd, host: MailHost) -> None:
    words = json.dumps({
        "store": f"{locked.directory}/dpsd.db",
        "edits": [
            {
                "command": "unblock", "peer": "10.99.191.1/32", "seconds": None, "reason": "",
                "source": "operator",
            }
        ],
    })  # fmt: skip
    code = (
        "import socket, sys; s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET);"
        "s.connect(chr(0) + 'dpsd'); s.send(sys.argv[1].encode()); print(s.recv(65536).decode())"
    )
    python = ("/usr/bin/python3", "-c", code, words)

    def said(*become: str) -> str:
        return host.net.mail.run(*become, *python, check=False).stdout

    ids = (f"--reuid={STRANGER}", f"--regid={STRANGER}", "--clear-groups")
    locked.directory.chmod(0o2770)
    assert said("setpriv", *ids).strip() == ""
    assert host.drops("10.99.191.1")
    os.chown(locked.directory, 0, STRANGER)  # now he is one of the group
    assert '"code": 0' in said("setpriv", *ids)
    assert host.reached("10.99.191.1")


def test_a_read_only_file_system_is_read(daemon: Dpsd, host: MailHost) -> None:
    at_once(daemon, "block 10.99.192.1 --for 1h", "block 10.99.192.2 --for 1h")
    mounting = 'mount --bind "$0" "$0" && mount -o remount,ro,bind "$0" && exec "$@"'
    lame = ("unshare", "--mount", "sh", "-c", mounting, str(daemon.directory))

    def said(*words: str) -> subprocess.CompletedProcess[str]:
        return host.net.mail.run(*lame, *command(daemon, *words), check=False)

    def lists() -> str:
        return said("list").stdout

    assert "10.99.192.1" in lists()
    assert "10.99.192.1 is on the block list" in said("why", "10.99.192.1").stdout
    assert str(daemon.pid) in said("status").stdout
    checked = said("check")
    assert (checked.returncode, "is read-only" in checked.stdout) == (69, True), checked
    freed = said("unblock", "10.99.192.1")
    assert freed.returncode == 0, freed
    assert host.reached("10.99.192.1")
    daemon.kill()
    assert "10.99.192.2" in lists()  # nobody has it open
    refused = said("block", "10.99.192.3")
    assert (refused.returncode, "use root" in refused.stderr) == (69, False), refused
    assert "is read-only" in refused.stderr
