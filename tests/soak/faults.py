"""What is broken on purpose, for how long it lasts, and how dpsd has to tell of it."""

import contextlib
import os
import signal
import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from tests.daemon.live import eventually
from tests.daemon.test_damage import DAMAGES
from tests.lab import private
from tests.lab.net import Net
from tests.soak.field import Faulty, Field

Break = Callable[[Field], contextlib.AbstractContextManager[None]]


@dataclass(frozen=True)
class Fault:
    """told: what the log or the status has to say of it, as an expression; "": there is nothing to
    be told. operators: whether they have their way while it lasts. mail: whether that flows
    meanwhile: who doesn't learn what sessions do can't end those that do nothing."""

    make: Break
    told: str
    operators: bool = True
    mail: bool = True


def faulty(field: Field) -> Faulty:
    """Its daemon, which can be made to fail."""
    assert isinstance(field.daemon, Faulty)
    return field.daemon


def failing(**faults: object) -> Break:
    """dpsd's kernel, store or clock fail so, see faulty.py."""

    @contextmanager
    def broken(field: Field) -> Iterator[None]:
        faulty(field).fail(**faults)
        try:
            yield
        finally:
            faulty(field).fail()

    return broken


def running(*argv: str) -> Break:
    """Another program does this once, on the mail host."""

    @contextmanager
    def broken(field: Field) -> Iterator[None]:
        field.net.mail.run(*argv)
        yield

    return broken


# The store


@contextmanager
def full(field: Field) -> Iterator[None]:
    """No room on its file system, a small one of its own."""
    filler = field.store.with_name("filler")
    with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(4096))
    try:
        yield
    finally:
        filler.unlink()


@contextmanager
def locked(field: Field) -> Iterator[None]:
    with contextlib.closing(sqlite3.connect(field.store)) as db:
        db.execute("BEGIN IMMEDIATE")
        yield
        db.rollback()


@contextmanager
def moved_away(field: Field) -> Iterator[None]:
    """And back again."""
    files = [file for file in field.store.parent.glob("dpsd.db*") if file.suffix != ".lock"]
    away = field.store.parent / "away"
    away.mkdir()
    for file in files:
        file.rename(away / file.name)
    try:
        yield
    finally:
        for file in field.store.parent.glob("dpsd.db*"):
            if file.suffix != ".lock":
                file.unlink()
        for file in files:
            (away / file.name).rename(file)
        away.rmdir()


def damaged(how: str) -> Break:
    """While it is in use; nobody may notice, for what was written lately is in its log (-wal);
    then dpsd is started anew."""

    @contextmanager
    def broken(field: Field) -> Iterator[None]:
        DAMAGES[how](field.store)
        yield
        field.daemon.kill()
        field.daemon.start()
        for aside in field.store.parent.glob("dpsd.db.damaged-*"):
            assert aside.suffix in field.daemon.log.read_text(), "put aside silently"
            aside.unlink()

    return broken


# The process


@contextmanager
def stopped(field: Field) -> Iterator[None]:
    os.kill(field.daemon.pid, signal.SIGSTOP)
    time.sleep(4.0)  # that is what is tried
    os.kill(field.daemon.pid, signal.SIGCONT)
    yield


# The clock


def clock_set(seconds: float) -> Break:
    @contextmanager
    def broken(field: Field) -> Iterator[None]:
        faulty(field).fail(clock=seconds)
        field.set_clock(seconds)
        try:
            yield
        finally:
            faulty(field).fail()
            field.set_clock(0.0)

    return broken


# Other programs


@contextmanager
def restored(field: Field) -> Iterator[None]:
    """A ruleset that was saved before is loaded again, with blocks that are over."""
    saved = field.nft("list ruleset")
    assert eventually(lambda: field.nft("list ruleset") != saved)
    field.nft(f"flush ruleset\n{saved}")
    yield


@contextmanager
def busy_others(field: Field) -> Iterator[None]:
    """Bursts of changes of another table, as of a container's start."""
    sets = "\n".join(f"add element ip theirs s {{ 192.0.2.{n} }}" for n in range(250))
    burst = f"table ip theirs {{ set s {{ typeof ip saddr; }}\n}}\n{sets}\ndelete table ip theirs\n"
    with subprocess.Popen(
        field.net.mail.command(
            "sh", "-c", 'for i in $(seq 1000); do echo "$0" | nft -f - || exit 1; done', burst
        )
    ) as process:
        try:
            yield
        finally:
            process.kill()


def sysctl(name: str, before: int, value: int) -> Break:
    @contextmanager
    def broken(field: Field) -> Iterator[None]:
        field.net.mail.sysctl(**{f"netfilter__{name}": value})
        try:
            yield
        finally:
            field.net.mail.sysctl(**{f"netfilter__{name}": before})

    return broken


UNREAD = "connection table can't be read"
FAULTS: dict[str, Fault] = {
    "store full": Fault(full, "no room left"),
    "store locked": Fault(locked, "locked by another process"),
    "store slow": Fault(failing(store_slow=2.0), ""),
    "store moved away": Fault(moved_away, "moved away or replaced"),
    **{f"store damaged: {how}": Fault(damaged(how), "", operators=False)
       for how in DAMAGES},
    **{f"conntrack {how}": Fault(failing(conntrack=how), UNREAD, mail=False)
       for how in ("ENOBUFS", "EBUSY", "EINTR", "silent", "endless")},
    "events ENOBUFS": Fault(failing(events="ENOBUFS"), "events were lost", mail=False),
    "events EBUSY": Fault(failing(events="EBUSY"), "can't be received", mail=False),
    "events EINTR": Fault(failing(events="EINTR"), "", mail=False),
    **{f"nf_tables {how}": Fault(failing(nftables=how), "table inet dpsd")
       for how in ("ENOBUFS", "EBUSY", "EINTR", "silent", "endless")},
    **{f"sock_diag {how}": Fault(failing(sock_diag=how), "sockets of sessions", mail=False)
       for how in ("ENOBUFS", "EBUSY", "silent", "endless")},
    "libnftables": Fault(failing(libnftables="SIGSEGV"), ""),
    "clock 1 h ahead": Fault(clock_set(3600.0), ""),
    "clock 1 h back": Fault(clock_set(-3600.0), ""),
    "clock a year ahead": Fault(clock_set(365 * 86400.0), ""),
    "process stopped": Fault(stopped, "stood still", mail=False),
    "ruleset flushed": Fault(running("nft", "flush", "ruleset"), "somebody else changed it"),
    "ruleset restored": Fault(restored, "somebody else changed it"),
    "others busy": Fault(busy_others, ""),
    "conntrack -F": Fault(running("conntrack", "-F"), ""),
    "nf_conntrack_acct": Fault(sysctl("nf_conntrack_acct", 1, 0), "byte counters"),
    "nf_conntrack_events": Fault(sysctl("nf_conntrack_events", 2, 0), "nf_conntrack_events"),
}  # fmt: skip


def go_through(field: Field, name: str, seconds: float) -> None:
    """Break it for so long, and see that all is as it should be. AssertionError."""
    fault, seen = FAULTS[name], [field.log()]
    seen.clear()
    began = time.time()
    with fault.make(field):
        if fault.operators:
            field.operators()
        if fault.told:
            assert eventually(lambda: field.told(fault.told, seen), 15 + seconds), f"{name}: silent"
        time.sleep(max(0.0, began + seconds - time.time()))  # the attack goes on meanwhile
        if fault.mail:
            assert eventually(lambda: field.flows(began), 15), f"{name}: no mail flows"
    field.check()
    field.told("", seen)


def run(directory: Path, only: str, seconds: float) -> list[str]:
    """Break everything whose name fits, each for so long; what went wrong."""
    wrong = list[str]()
    names = [name for name in FAULTS if fnmatch(name, only)]
    directory.mkdir()
    with Net("f-") as net, small(directory / "store"), Field(net, directory) as field:
        field.check()
        for name in names:
            began = time.monotonic()
            try:
                go_through(field, name, seconds)
            except AssertionError as problem:
                wrong.append(f"{name}: {problem}")
                print(f"WRONG: {wrong[-1]}", flush=True)
                faulty(field).fail()
                if field.daemon.running:
                    field.daemon.kill()
                field.daemon.start()
            took = time.monotonic() - began
            how = "WRONG" if wrong and wrong[-1].startswith(f"{name}:") else "as it should be"
            print(f"faults: {name}: {how}, {took:.1f} s", flush=True)
    return wrong


@contextmanager
def small(directory: Path) -> Iterator[None]:
    """A file system of its own for the store, which can be full."""
    directory.mkdir()
    private.mount("tmpfs", directory, "tmpfs", 0, "size=8m")
    try:
        yield
    finally:
        private.unmount(directory)
