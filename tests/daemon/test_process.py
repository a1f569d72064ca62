"""The daemon as a process: one at a time, signals, and what systemd is told."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from dpsd.core.numbers import STOOD_STILL
from tests.daemon.conftest import Make
from tests.daemon.live import MailHost, answered, at_once, command, eventually
from tests.lab.dpsd import Dpsd


@contextmanager
def started(daemon: Dpsd, **environment: str) -> Iterator[subprocess.Popen[str]]:
    """`dpsd run`, not waited for; what it says on standard error is read at the end."""
    argv, env = daemon.space.command(*command(daemon, "run")), os.environ | environment
    with subprocess.Popen(argv, env=env, stderr=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def test_second_instance_is_refused(daemon: Dpsd, host: MailHost) -> None:
    daemon.cli("block", "10.99.140.1", "--for", "1h", check=True)
    held, refused = host.session("10.99.140.2"), daemon.cli("run", timeout=15)
    assert refused.returncode == 69
    assert str(daemon.pid) in refused.stderr
    assert str(daemon.directory) in refused.stderr
    assert "Traceback" not in refused.stderr
    assert daemon.running
    assert host.drops("10.99.140.1")
    assert answered(held)
    daemon.cli("unblock", "10.99.140.1", check=True)
    assert host.reached("10.99.140.1")


def test_second_daemon_on_another_store_would_fight_for_the_table(
    daemon: Dpsd, host: MailHost, tmp_path: Path
) -> None:
    daemon.cli("block", "10.99.140.1", "--for", "1h", check=True)
    refused = Dpsd(host.net.mail, tmp_path / "other").cli("run", timeout=15)
    assert refused.returncode == 69
    assert "another dpsd" in refused.stderr
    assert daemon.running
    assert host.drops("10.99.140.1")
    daemon.cli("unblock", "10.99.140.1", check=True)


HOLDER = """
import socket, sys
held = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
held.bind("\\0dpsd")
if sys.argv[1] == "listens":
    held.listen()
print("held", flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("how", ["listens", "is deaf"])
def test_whoever_is_no_dpsd_keeps_none_from_starting(make: Make, host: MailHost, how: str) -> None:
    """An abstract address is anybody's to take."""
    argv = ("setpriv", "--reuid=65534", "--clear-groups", sys.executable, "-c", HOLDER, how)
    holder = subprocess.Popen(
        host.net.mail.command(*argv), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        daemon = make()
        daemon.start()
        assert "is no dpsd" in daemon.tail()
        holder.kill()


def test_it_is_blind_after_it_stood_still(make: Make, host: MailHost) -> None:
    """What peers did meanwhile waits to be read; until the next dump it is blind."""
    daemon = make()
    daemon.start()
    host.session("10.99.140.3")
    assert eventually(lambda: daemon.json("status")["sessions"]["open"] == 1)  # time passes
    os.kill(daemon.pid, signal.SIGSTOP)
    time.sleep(STOOD_STILL + 0.5)  # that is what is tried
    os.kill(daemon.pid, signal.SIGCONT)
    assert eventually(lambda: "stood still for" in daemon.tail())
    assert eventually(lambda: not daemon.json("status")["blind"])
    assert daemon.json("status")["sessions"]["open"] == 1


# Signals


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_stops_cleanly(make: Make, host: MailHost, number: signal.Signals) -> None:
    daemon = make()
    at_once(daemon, "block 10.99.144.1 --for 1h")
    with started(daemon) as process:
        assert eventually(lambda: host.drops("10.99.144.1"))
        assert eventually(lambda: daemon.json("status")["revision"]["applied"])
        process.send_signal(number)
        _, told = process.communicate(timeout=15)
    assert process.returncode == 0
    assert "Traceback" not in told
    assert host.drops("10.99.144.1")
    assert daemon.json("status")["running"] is False


def test_hangup_and_stop_while_starting(make: Make) -> None:
    """Whatever comes before it is ready neither ends it early nor makes it ready early."""
    daemon = make()
    with started(daemon) as process:
        assert eventually(lambda: _handles(process.pid, signal.SIGHUP), 10)
        for _ in range(3):
            process.send_signal(signal.SIGHUP)
        process.send_signal(signal.SIGTERM)
        _, told = process.communicate(timeout=15)
    assert process.returncode == 0, told
    assert "Traceback" not in told


def _handles(pid: int, number: signal.Signals) -> bool:
    caught = re.search(r"SigCgt:\s+(\w+)", Path(f"/proc/{pid}/status").read_text(encoding="ascii"))
    return caught is not None and bool(int(caught[1], 16) >> (number - 1) & 1)


# systemd


class Manager:
    """A service manager's end of sd_notify."""

    def __init__(self, path: Path) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(str(path))
        self.socket.settimeout(10)

    def next(self) -> list[str]:
        return self.socket.recv(4096).decode().splitlines()

    def until(self, word: str) -> list[str]:
        while word not in (lines := self.next()):
            pass
        return lines


def test_systemd_is_told(make: Make, host: MailHost, tmp_path: Path) -> None:
    daemon, manager = make(), Manager(tmp_path / "manager")
    at_once(daemon, "block 10.99.145.1 --for 1h", "block 10.99.146.0/24 --for 1h")
    where = str(tmp_path / "manager")
    with started(daemon, NOTIFY_SOCKET=where, WATCHDOG_USEC="600000") as process:
        assert "READY=1" in manager.next()  # the first word
        assert host.drops("10.99.145.1")
        assert host.drops("10.99.146.9")
        for _ in range(4):
            manager.until("WATCHDOG=1")
        process.send_signal(signal.SIGHUP)
        reloading = manager.until("RELOADING=1")
        assert any(re.fullmatch(r"MONOTONIC_USEC=\d+", line) for line in reloading)
        manager.until("READY=1")
        manager.socket.close()  # nobody listens any more
        (tmp_path / "manager").unlink()
        assert not eventually(lambda: process.poll() is not None, 1.5)
        process.send_signal(signal.SIGTERM)
        assert process.wait(15) == 0


def test_without_permission_for_the_kernel(make: Make, host: MailHost) -> None:
    daemon = make()
    lame = ["setpriv", "--bounding-set=-net_admin", *command(daemon, "run")]
    done = host.net.mail.run(*lame, check=False)
    assert done.returncode == 77, done.stderr
    assert "CAP_NET_ADMIN" in done.stderr
    assert "Traceback" not in done.stderr
