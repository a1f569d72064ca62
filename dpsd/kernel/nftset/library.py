"""libnftables behind a process boundary: what it does to its process it doesn't do to ours."""

import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from threading import Lock, Timer
from typing import IO, BinaryIO, cast
from weakref import WeakSet

from dpsd.errors import KernelError
from dpsd.kernel.nftset import child

PATIENCE = 120.0  # seconds for one answer
_CHILD = Path(child.__file__)
_TABLES_NAMED = 200  # at most, of those that are tried for the one that ends the library

_all: "WeakSet[Library]" = WeakSet()


class Crashed(KernelError):
    """libnftables ended its process; nothing was changed."""


def ports() -> set[int]:
    """The port ids of all sockets that libnftables speaks to the kernel with, for this process."""
    return {port for library in list(_all) for port in library.ports}


class Library:
    """The official bindings in a child, which is started anew when it died. One call at a time."""

    def __init__(self) -> None:
        self.ports: set[int] = set()
        self._lock = Lock()
        self._child: subprocess.Popen[bytes] | None = None
        _all.add(self)
        self._start()

    def close(self) -> None:
        """End the child."""
        with self._lock:
            self._end()

    def cmd(
        self, commands: str, terse: bool = False, dry_run: bool = False
    ) -> tuple[int, str, str]:
        """nft's code, output and errors. Raises Crashed, which names the table that did it.

        terse: lists tell no elements; dry_run: nothing is changed.
        """
        with self._lock:
            try:
                return self._cmd(commands, "d" if dry_run else "t" if terse else "f")
            except (OSError, EOFError) as problem:
                how = self._end()
                culprit = self._culprit()
                raise Crashed(
                    f"libnftables {how} and changed nothing{culprit}; single peers are blocked all"
                    " the same, rules and prefixes are tried again"
                ) from problem

    def _start(self) -> subprocess.Popen[bytes]:
        self._child = subprocess.Popen(
            [sys.executable, "-I", str(_CHILD)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
            # xtables, which libnftables loads, ends a process that has two users.
            user=None if os.getuid() == os.geteuid() else os.geteuid(),
        )
        try:
            self._learn(child.read(_pipe(self._child.stdout)))
        except EOFError:
            raise KernelError(f"the nftables bindings can't be used: {self._end()}") from None
        return self._child

    def _cmd(self, commands: str, mode: str) -> tuple[int, str, str]:
        process = self._child or self._start()
        requests, answers = _pipe(process.stdin), _pipe(process.stdout)
        limit = Timer(PATIENCE, process.kill)
        limit.daemon = True
        limit.start()
        try:
            child.write(requests, f"{mode}{commands}".encode())
            requests.flush()
            code, output, error, told = (child.read(answers) for _ in range(4))
        finally:
            limit.cancel()
        self._learn(told)
        return int(code), output.decode(errors="replace"), error.decode(errors="replace")

    def _learn(self, told: bytes) -> None:
        self.ports |= {int(port) for port in told.split()} - {0}

    def _end(self) -> str:
        """End the child; how it ended, in words."""
        process, self._child = self._child, None
        if process is None:
            return "was ended"
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                with suppress(OSError):
                    pipe.close()
        try:
            code = process.wait(1.0)
        except subprocess.TimeoutExpired:
            process.kill()
            code = process.wait()
        return f"died of {signal.Signals(-code).name}" if code < 0 else f"ended with {code}"

    def _culprit(self) -> str:
        """Which table it dies of, found by trying each; none when no single one does."""
        try:
            _, listed, _ = self._cmd("list tables", "t")
            for line in listed.splitlines()[:_TABLES_NAMED]:
                try:
                    self._cmd(f"list {line.strip()}", "t")
                except (OSError, EOFError):
                    return f" (it can't stand the {line.strip()}, made by a newer nft?)"
        except (OSError, EOFError, KernelError):
            return ""
        finally:
            self._end()
        return ""


def _pipe(file: IO[bytes] | None) -> BinaryIO:
    if file is None:
        raise OSError("no pipe")
    return cast(BinaryIO, file)
