"""What can't be used is refused with a message and the right exit code, and is left as it was."""

import os
import sqlite3
from pathlib import Path

import pytest

from tests.daemon.conftest import CALM, Make
from tests.daemon.live import CONTROL, MailHost, at_once, command, ended, eventually, listed
from tests.lab import private
from tests.lab.dpsd import Dpsd

STRANGER = 12345  # a user that owns nothing
LAME = ("setpriv", "--bounding-set=-all")  # root's name without its rights


def refused(daemon: Dpsd, code: int, *words: str) -> str:
    """`dpsd run` must end with this code; what it says."""
    done = daemon.cli("run", timeout=20)
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    assert all(word in done.stderr for word in words), done.stderr
    return done.stderr


# The configuration


def test_no_configuration(make: Make) -> None:
    daemon = make()
    daemon.config.unlink()
    refused(daemon, 78, str(daemon.config))
    assert daemon.cli("list").returncode == 78
    assert daemon.cli("check").returncode == 78


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[protect]\nport = [25]\n", ["protect.port", "ports"]),
        ("[polcy]\nblock_at = 5\n", ["polcy", "policy"]),
        ("[policy]\nblock_at = 'much'\n", ["policy.block_at"]),
        ("[policy]\nblock_for = '5 parsecs'\n", ["policy.block_for"]),
        ("[lists]\nwhite = ['10.0.0.1/8']\n", ["lists.white", "10.0.0.0/8"]),
        ("[lists]\nwhite = ['10.0.0.0/8', '10.1.0.0/16']\n", ["lists.white"]),
        ("[protect]\nslots = 0\n[stress]\nat = 5\n", ["protect.slots", "stress.at"]),
        ("protect = 5\n", ["protect"]),
        ("[protect\n", ["TOML"]),
    ],
)
def test_bad_configuration(make: Make, text: str, words: list[str]) -> None:
    daemon = make()
    daemon.config.write_text(text, encoding="utf-8")
    refused(daemon, 78, str(daemon.config), *words)


# The store


def test_garbage_is_no_store(make: Make, host: MailHost) -> None:
    daemon = make()
    store = daemon.directory / "dpsd.db"
    garbage = os.urandom(20_000)
    store.write_bytes(garbage)
    refused(daemon, 69, str(store))
    assert daemon.cli("list").returncode == 69
    assert daemon.cli("block", "10.99.150.1").returncode == 69
    assert daemon.cli("check").returncode == 69
    assert store.read_bytes() == garbage
    assert host.reached("10.99.150.1")


def test_store_of_something_else_or_of_a_newer_dpsd(make: Make) -> None:
    other, newer = make("other"), make("newer")
    with sqlite3.connect(other.directory / "dpsd.db") as db:
        db.execute("CREATE TABLE addressbook (name TEXT)")
    db.close()
    refused(other, 69, "something else")
    assert newer.cli("block", "10.99.150.2").returncode == 0
    with sqlite3.connect(newer.directory / "dpsd.db") as db:
        db.execute("UPDATE alembic_version SET version_num = '9999'")
    db.close()
    refused(newer, 69, "9999", "newer")
    assert newer.cli("list").returncode == 69


def test_store_in_no_directory(make: Make) -> None:
    daemon = make()
    daemon.configure(store={"url": f"sqlite:///{daemon.directory}/none/dpsd.db"})
    refused(daemon, 69, "none/dpsd.db", "directory")
    assert daemon.cli("check").returncode == 69


def test_store_of_somebody_else(make: Make, host: MailHost) -> None:
    daemon = make()
    at_once(daemon, "block 10.99.150.3 --for 1h")
    for file in (daemon.directory, *daemon.directory.glob("dpsd.db*")):
        os.chown(file, STRANGER, STRANGER)
    (daemon.directory / "dpsd.db").chmod(0o644)
    daemon.directory.chmod(0o755)
    for words in (["list"], ["status"], ["block", "10.99.150.4"], ["unblock", "10.99.150.3"]):
        done = host.net.mail.run(*LAME, *command(daemon, *words), check=False)
        assert done.returncode == 77, (words, done)
        assert "dpsd.db" in done.stderr
    daemon.directory.chmod(0o700)
    for words in (["list"], ["run"], ["check"]):
        done = host.net.mail.run(*LAME, *command(daemon, *words), check=False)
        assert done.returncode == 77, (words, done)
        assert "Traceback" not in done.stderr


def test_config_of_somebody_else(make: Make, host: MailHost) -> None:
    daemon = make()
    os.chown(daemon.config, STRANGER, STRANGER)
    daemon.config.chmod(0o600)
    done = host.net.mail.run(*LAME, *command(daemon, "list"), check=False)
    assert done.returncode == 77
    assert str(daemon.config) in done.stderr


def test_full_disk(make: Make, host: MailHost, tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    private.mount("tmpfs", small, "tmpfs", 0, "size=1m")
    try:
        daemon = make(
            store={"url": f"sqlite:///{small}/dpsd.db"},
            policy={"block_at": 5},
            lists={"white": list(CONTROL.values())},
            evidence={"churn_rate": 0.1, "churn_burst": 1, "churn_cost": 10, "churn_flood": 0},
        )
        daemon.start()
        daemon.cli("block", "10.99.151.1", "--for", "1h", check=True)
        with (small / "filler").open("wb", buffering=0) as filler:
            while True:
                try:
                    filler.write(bytes(4096))
                except OSError:
                    break
        # An operator's word holds at once, and whether it outlasts a restart is told.
        freed = daemon.cli("unblock", "10.99.151.1", check=True)
        assert "a restart undoes it" in freed.stderr
        assert "no room" in freed.stderr
        assert host.reached("10.99.151.1")
        daemon.cli("block", "10.99.151.2", "--for", "1h", check=True)
        assert host.drops("10.99.151.2")
        assert daemon.cli("unblock", "10.99.151.9").returncode == 1
        # What only the daemon knows of is lifted as well.
        daemon.cli("block", "10.99.151.3", "--for", "1h", check=True)
        assert host.drops("10.99.151.3")
        lifted = daemon.cli("unblock", "10.99.151.3", "10.99.151.9")
        assert lifted.returncode == 1  # of the other one
        assert "10.99.151.3 is off the block" in lifted.stderr
        assert host.reached("10.99.151.3")
        # A verdict meanwhile: it is in the kernel, and in the store when there is room.
        held = host.session("10.99.152.1")
        with host.start("10.99.152.1"):
            assert ended(held)
        assert host.drops("10.99.152.1")
        assert eventually(lambda: "only in the kernel" in daemon.tail())
        assert daemon.running
        (small / "filler").unlink()
        assert eventually(lambda: ("block", "10.99.152.1") in listed(daemon))
        assert eventually(lambda: ("block", "10.99.151.2") in listed(daemon))
        assert ("block", "10.99.151.1") not in listed(daemon)
        assert host.reached("10.99.151.1")
        assert host.drops("10.99.151.2")
        assert daemon.stop() == 0
    finally:
        private.unmount(small)


def test_store_deleted_under_the_daemon(make: Make, host: MailHost) -> None:
    """The kernel's sets stay, and come back into the store at the latest with a restart."""
    daemon = make()
    daemon.start()
    at_once(daemon, "block 10.99.153.1 --for 1h", "block 10.99.153.2 --permanent")
    for name in ("dpsd.db", "dpsd.db-wal", "dpsd.db-shm"):
        (daemon.directory / name).unlink()
    assert eventually(lambda: host.reached("10.99.153.3") and "replaced" in daemon.tail())
    daemon.cli("block", "10.99.153.3", "--for", "1h", check=True)  # in the new file, and at once
    assert host.drops("10.99.153.3")
    assert daemon.running
    assert host.drops("10.99.153.1")
    daemon.kill()
    assert host.drops("10.99.153.2")
    daemon.start()
    assert host.drops("10.99.153.1")
    assert host.drops("10.99.153.2")
    assert eventually(lambda: listed(daemon).keys() >= {
        ("block", "10.99.153.1"), ("black", "10.99.153.2"),
    })  # fmt: skip
    daemon.cli("unblock", "10.99.153.1", check=True)
    assert host.reached("10.99.153.1")


# The kernel


def test_check_tells_what_the_kernel_lacks(make: Make, host: MailHost) -> None:
    daemon = make(policy=CALM)
    daemon.start()
    fine = daemon.cli("check")
    assert fine.returncode == 0, fine.stdout
    host.net.mail.sysctl(netfilter__nf_conntrack_events=0)
    try:
        lacking = daemon.cli("check")
    finally:
        host.net.mail.sysctl(netfilter__nf_conntrack_events=2)
    assert lacking.returncode == 69
    assert "nf_conntrack_events" in lacking.stdout
    assert "sysctl -w" in lacking.stdout
    done = host.net.mail.run(*LAME, *command(daemon, "check"), check=False)
    assert done.returncode == 77
