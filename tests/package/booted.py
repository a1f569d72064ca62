"""All that an administrator does with the package, in one machine: install to purge."""

import json
import shutil
import sys
import time
from pathlib import Path
from typing import Any

from dpsd import __version__
from tests.package import build, trees
from tests.package.guest import Guest, GuestError, tree, until
from tests.package.peers import Knocker, greeted, held
from tests.package.steps import expect, step

LISTED, OTHER, HONEST = "198.51.100.7", "198.51.100.8", "203.0.113.25"
LISTED6, WITHIN = "2001:db8:bad:7::1", "198.51.100.130"
INSTALL = "apt-get -qq install --no-install-recommends --allow-downgrades /root/"


def run(release: str) -> None:
    """Every step on one release, with the package that was built on the older one."""
    new = build.built("bookworm")
    old = build.built("bookworm", build.PREVIOUS)
    with trees.over(tree(release, new)) as root:
        for deb in (new, old):
            shutil.copy(deb, root / "root")
        guest = Guest(root)
        try:
            guest.boot()
            _install(guest, old)
            _serve(guest)
            _withstand(guest)
            _upgrade(guest, old, new)
            _reboot(guest)
            _leave(guest, new)
        finally:
            guest.halt()


def _install(guest: Guest, deb: Path) -> None:
    with step(guest, "Postfix takes mail"):
        until(lambda: greeted(HONEST), "a greeting", 30)
    with step(guest, "the package is installed, and its daemon active and enabled"):
        guest.out(INSTALL + deb.name)
        guest.out("systemctl is-active dpsd && systemctl is-enabled dpsd")
        expect(status(guest)["mode"] == "enforce", "it enforces")
    with step(guest, "it is a user of its own, with two capabilities and no more"):
        pid = main_pid(guest)
        told = guest.out(f"grep -E '^(Uid|Cap(Eff|Prm|Bnd|Amb)|NoNewPrivs)' /proc/{pid}/status")
        expect(told.count("0000000000001400") == 4, told)
        expect("NoNewPrivs:\t1" in told, told)
        expect(guest.out("stat -c '%a %U %G' /var/lib/dpsd") == "2770 dpsd dpsd\n", "the folder")
        expect(guest.out(f"stat -c %U /proc/{pid}") == "dpsd\n", "the user")
    with step(guest, "the kernel counts bytes, and the check before the start found nothing"):
        expect(guest.out("cat /proc/sys/net/netfilter/nf_conntrack_acct") == "1\n", "acct")
        journal = guest.out("journalctl -u dpsd --no-pager -o cat")
        expect("all is well" in journal, journal)
        expect("ERROR" not in journal and "warning" not in journal.lower(), journal)
    with step(guest, "it is confined: systemd-analyze security"):
        told = guest.out("systemd-analyze security dpsd --no-pager | tail -1")
        sys.stdout.write(told)
        expect(float(told.split(":")[1].split()[0]) <= 1.6, told)  # 1.4 of it for the network
        guest.out("systemd-analyze verify --man=no dpsd.service")


def _serve(guest: Guest) -> None:
    with step(guest, "members of the group may use the command, others are told that they may not"):
        guest.out("gpasswd -a alice dpsd")
        guest.out(f"runuser -u alice -- dpsd block {LISTED} --for 7d --reason alice")
        expect("not permitted" in guest.out("runuser -u bob -- dpsd list", 77), "words")
        guest.out("dpsd list")
    with step(guest, "hosts, prefixes and IPv6 peers are kept out, and let in again"):
        expect(not greeted(LISTED), "kept out")
        expect(greeted(OTHER) and greeted(HONEST) and greeted(LISTED6), "let in")
        for peer in ("198.51.100.128/25", "2001:db8:bad:7::/64"):
            guest.out(f"dpsd block {peer} --for 1h")
        expect(not greeted(WITHIN) and not greeted(LISTED6), "kept out")
        expect(" drop" in guest.out("nft list chain inet dpsd refuse"), "the chain")
        for peer in ("198.51.100.128/25", "2001:db8:bad:7::/64"):
            guest.out(f"dpsd unblock {peer}")
        expect(greeted(WITHIN) and greeted(LISTED6), "let in")
    with step(guest, "a foreign flush, and nftables.service with its own, are repaired"):
        for command in ("nft flush ruleset", "systemctl restart nftables"):
            guest.out(command)
            until(lambda: not greeted(LISTED, 0.3), command, 5)
    with step(guest, "a wrong configuration fails the reload, a right one is taken up"):
        guest.out("echo '[protect]\nslots = 0' >/etc/dpsd/dpsd.toml")
        guest.out("systemctl reload dpsd", 1)
        expect("protect" in guest.out("journalctl -u dpsd --no-pager -o cat -n 5"), "words")
        expect(active(guest) and not greeted(LISTED), "it goes on as it was")
        guest.out("echo '[enforce]\nmode = \"observe\"' >/etc/dpsd/dpsd.toml")
        guest.out("systemctl reload dpsd")
        until(lambda: status(guest)["mode"] == "observe", "observes")
        expect(greeted(LISTED), "only observed")
        guest.out("echo '# as it comes' >/etc/dpsd/dpsd.toml")
        guest.out("systemctl reload dpsd")
        until(lambda: status(guest)["mode"] == "enforce", "enforces")
        expect(not greeted(LISTED), "kept out")
    with step(guest, "completion"):
        for shell, told in (("bash", "COMP_WORDS='dpsd sta' COMP_CWORD=1"),
                            ("zsh", "_TYPER_COMPLETE_ARGS='dpsd sta'")):  # fmt: skip
            said = guest.out(f"{told} _DPSD_COMPLETE=complete_{shell} dpsd")
            expect("status" in said, f"{shell}: {said}")


def _withstand(guest: Guest) -> None:
    sources = [f"198.51.100.{number}" for number in range(40, 44)]
    with step(guest, "who holds every slot of Postfix is blocked, and honest mail gets through"):
        sessions = held(sources, 40)

        def come_back() -> bool:
            """Nobody is listed at once: they return with as many when they are let in again."""
            for source in set(sources) - blocked(guest):
                if greeted(source, 0.3):
                    sessions.extend(held([source], 40))
            return set(sources) <= blocked(guest)

        until(come_back, "all of them blocked", 120)
        until(lambda: greeted(HONEST), "an honest peer's greeting", 30)
        expect(HONEST not in blocked(guest), "honest")
        for session in sessions:
            session.close()
    with step(guest, "a daemon that stands still is restarted by the watchdog; the lists hold"):
        pid = main_pid(guest)
        with Knocker(LISTED) as knocker:
            guest.out(f"kill -STOP {pid}")
            until(lambda: main_pid(guest) not in {pid, 0}, "a new process", 60)
            until(lambda: active(guest), "active again")
        expect(not knocker.answers, "never in")
    with step(guest, "a killed one is restarted; the lists hold"):
        pid = main_pid(guest)
        with Knocker(LISTED) as knocker:
            guest.out(f"kill -KILL {pid}")
            until(lambda: main_pid(guest) not in {pid, 0}, "a new process", 60)
            until(lambda: active(guest), "active again")
        expect(not knocker.answers, "never in")
    with step(guest, "a stop is clean, and leaves the lists in the kernel"):
        began = time.monotonic()
        guest.out("systemctl stop dpsd")
        expect(time.monotonic() - began < 10, "a stop in time")
        told = guest.out("systemctl show -P Result -P ExecMainStatus dpsd")
        expect(told.split() == ["success", "0"], told)
        expect(not greeted(LISTED), "kept out")
        expect("stored" in guest.out(f"dpsd block {OTHER} --for 1h"), "stored")
        guest.out("systemctl start dpsd")
        expect(not greeted(OTHER), "kept out")
        guest.out(f"dpsd unblock {OTHER}")


def _upgrade(guest: Guest, old: Path, new: Path) -> None:
    with step(guest, "an upgrade: not a moment of openness, and an honest peer gets through"):
        guest.out(f"dpsd allow {HONEST} --reason monitoring")  # who only knocks is of no use
        pid = main_pid(guest)
        with Knocker(LISTED) as listed, Knocker(HONEST) as honest:
            guest.out(INSTALL + new.name)
            until(lambda: active(guest), "active")
        expect(not listed.answers and listed.attempts > 10, "never in")
        expect(len(honest.answers) > 10, f"{len(honest.answers)} of {honest.attempts}")
        expect(main_pid(guest) != pid, "a new process")
        expect(guest.out("dpsd --version") == f"dpsd {__version__}\n", "version")
        expect("as it comes" in guest.out("cat /etc/dpsd/dpsd.toml"), "the own configuration")
    with step(guest, "a downgrade, and an upgrade that is interrupted and goes on"):
        guest.out(INSTALL + old.name)
        until(lambda: active(guest), "active")
        guest.out(f"dpkg --unpack /root/{new.name}")
        expect(active(guest) and not greeted(LISTED), "the old one goes on")
        guest.out("dpkg --configure -a")
        until(lambda: active(guest), "active")
        expect(not greeted(LISTED), "kept out")
    with step(guest, "a store of a newer dpsd is refused with words; the lists hold"):
        guest.out("systemctl stop dpsd")
        [was] = guest.out(_schema()).split()
        guest.out(_schema("9999"))
        guest.out("systemctl start dpsd", 1)
        told = guest.out("journalctl -u dpsd --no-pager -o cat -n 30")
        expect("newer than this dpsd" in told, told)
        expect("newer than this dpsd" in guest.out("dpsd list", 69), "words")
        expect(not greeted(LISTED), "kept out")
        guest.out("systemctl stop dpsd; " + _schema(was))
        guest.out("systemctl start dpsd")


def _reboot(guest: Guest) -> None:
    with step(guest, "after a reboot the lists are there before Postfix takes mail"):
        guest.halt()
        with Knocker(LISTED) as listed, Knocker(HONEST) as honest:
            guest.boot()
            until(lambda: honest.answers, "a greeting", 30)
        expect(not listed.answers, "never in")
        guest.out("systemctl is-active dpsd postfix")
        ready = int(guest.out("systemctl show -P ActiveEnterTimestampMonotonic dpsd"))
        unit = "postfix@-" if guest.status("systemctl is-active postfix@-") == 0 else "postfix"
        began = int(guest.out(f"systemctl show -P InactiveExitTimestampMonotonic {unit}"))
        expect(0 < ready <= began, f"{unit} began at {began}, dpsd was ready at {ready}")


def _leave(guest: Guest, new: Path) -> None:
    with step(guest, "removed: no table any more; installed again: the lists are back"):
        guest.out("apt-get -qq remove dpsd")
        guest.out("nft list table inet dpsd", 1)
        expect(greeted(LISTED), "let in")
        guest.out(INSTALL + new.name)
        expect(not greeted(LISTED), "kept out")
    with step(guest, "purged: nothing is left but the user"):
        guest.out("apt-get -qq purge dpsd")
        guest.out("nft list table inet dpsd", 1)
        left = guest.out(
            "find / -xdev -name '*dpsd*' -not -path '/proc/*' -not -path '/sys/*'"
            " -not -path '/run/*' -not -name 'dpsd_*.deb'"
        )
        expect(not left.strip(), left)
        expect(guest.status("systemctl cat dpsd") != 0, "no unit")
        expect(greeted(LISTED), "let in")


def status(guest: Guest) -> dict[str, Any]:
    """What `dpsd status --json` tells."""
    said = guest.out("dpsd status --json")
    expect(said.startswith("{"), said)
    told: dict[str, Any] = json.loads(said)
    return told


def blocked(guest: Guest) -> set[str]:
    """Who is on the block list."""
    return {entry["peer"] for entry in json.loads(guest.out("dpsd list block --json"))}


def main_pid(guest: Guest) -> int:
    """The daemon's process, 0 if there is none."""
    return int(guest.out("systemctl show -P MainPID dpsd"))


def active(guest: Guest) -> bool:
    """Whether the unit is active."""
    try:
        return guest.out("systemctl is-active dpsd") == "active\n"
    except GuestError:
        return False


def _schema(number: str = "") -> str:
    """The command that tells the store's schema; with a number, after making it that one."""
    script = (
        'import sqlite3, sys; db = sqlite3.connect("/var/lib/dpsd/dpsd.db");'
        ' db.executemany("UPDATE alembic_version SET version_num = ?", zip(sys.argv[1:]));'
        ' db.commit(); print(*db.execute("SELECT version_num FROM alembic_version").fetchone())'
    )
    return f"runuser -u dpsd -- python3 -c '{script}' {number}"
