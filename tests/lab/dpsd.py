"""dpsd under test: the real command in the mail host's namespace, with a configuration of ours."""

import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from tests.lab.net import Namespace

Section = Mapping[str, Any]
"""One table of the configuration: key to a TOML value (bool, number, string, list of these)."""

_COMMAND = Path(sys.prefix, "bin", "dpsd")
_LAST_LINES = 30


class DpsdError(RuntimeError):
    """The daemon died or didn't get ready; the message ends with its last log lines."""


class Dpsd:
    """A dpsd daemon and its command line, both in one namespace and on one configuration.

    `directory` gets the configuration, the store and the log, and may be used again: a second
    Dpsd on it is the daemon after a restart. As a context manager it starts and stops.
    """

    def __init__(self, space: Namespace, directory: Path, **sections: Section) -> None:
        """`sections` change or add configuration: `policy={"block_at": 30}`."""
        self.space = space
        self.directory = directory
        self.config = directory / "dpsd.toml"
        self.log = directory / "dpsd.log"
        self._process: subprocess.Popen[bytes] | None = None
        self._notify: socket.socket | None = None
        directory.mkdir(parents=True, exist_ok=True)
        self.configure(**sections)

    def configure(self, **sections: Section) -> None:
        """Write the configuration anew: the lab's defaults with these changes. See `reload`."""
        tables: dict[str, dict[str, Any]] = {
            "protect": {"ports": [25, 465, 587], "addresses": [], "slots": 100, "postfix": ""},
            "store": {"url": f"sqlite:///{self.directory}/dpsd.db"},
            "lists": {"white": ["127.0.0.0/8", "::1"]},
        }
        for name, values in sections.items():
            tables.setdefault(name, {}).update(values)
        self.config.write_text(toml(tables), encoding="utf-8")

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.running:
            self.stop()

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        """The daemon's process id; it must have been started."""
        return self._started().pid

    def start(self, *options: str, timeout: float = 20) -> None:
        """Start `dpsd run` with `options` and wait until it says READY=1; `timeout` in seconds."""
        if self.running:
            raise DpsdError("dpsd is running already")
        path = self.directory / "notify"
        path.unlink(missing_ok=True)
        self._notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        self._notify.bind(str(path))
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self.space.command(*self._argv("run", *options)),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=os.environ | {"NOTIFY_SOCKET": str(path)},
            )
        try:
            self.notified("READY=1", timeout)
        except BaseException:
            self.kill()
            raise

    def notified(self, word: str, timeout: float = 20) -> None:
        """Wait until the daemon tells systemd `word`, a whole assignment; `timeout` in seconds."""
        process = self._started()
        assert self._notify is not None
        deadline = time.monotonic() + timeout
        died = os.pidfd_open(process.pid)
        watched: list[Any] = [self._notify, died]
        try:
            while (left := deadline - time.monotonic()) > 0:
                ready, _, _ = select.select(watched, [], [], left)
                if self._notify in ready:
                    if word in self._notify.recv(4096).decode().splitlines():
                        return
                elif ready:
                    raise DpsdError(f"dpsd ended with {process.wait()}\n{self.tail()}")
        finally:
            os.close(died)
        raise DpsdError(f"dpsd didn't say {word} in {timeout:g} s\n{self.tail()}")

    def stop(self, timeout: float = 15) -> int:
        """End it with SIGTERM; its exit status."""
        return self._end(signal.SIGTERM, timeout)

    def kill(self) -> None:
        """End it with SIGKILL, as a crash would."""
        self._end(signal.SIGKILL, 5)

    def reload(self) -> None:
        """Send SIGHUP. Whether and how it took effect is for the caller to observe."""
        self._started().send_signal(signal.SIGHUP)

    def cli(
        self, *args: str, check: bool = False, timeout: float = 30
    ) -> subprocess.CompletedProcess[str]:
        """Run a dpsd command; with `check` an exit status but 0 is an AssertionError."""
        done = self.space.run(*self._argv(*args), check=False, timeout=timeout)
        if check and done.returncode != 0:
            raise AssertionError(f"dpsd {' '.join(args)}: {done.returncode}: {done.stderr}")
        return done

    def begun(self, *args: str) -> subprocess.Popen[bytes]:
        """A dpsd command that was started and isn't waited for; what it prints can be read."""
        return subprocess.Popen(
            self.space.command(*self._argv(*args)),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
        )

    def json(self, *args: str) -> Any:
        """What a dpsd command prints with --json, parsed; it must succeed."""
        return json.loads(self.cli(*args, "--json", check=True).stdout)

    def tail(self) -> str:
        """The last lines of the daemon's log."""
        if not self.log.exists():
            return ""
        lines = self.log.read_text(encoding="utf-8", errors="replace").splitlines()
        return "\n".join(lines[-_LAST_LINES:])

    def _argv(self, *args: str) -> list[str]:
        command = [str(_COMMAND)] if _COMMAND.exists() else [sys.executable, "-m", "dpsd"]
        return [*command, "--config", str(self.config), *args]

    def _started(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise DpsdError("dpsd hasn't been started")
        return self._process

    def _end(self, number: signal.Signals, timeout: float) -> int:
        process = self._started()
        process.send_signal(number)
        try:
            return process.wait(timeout)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise DpsdError(f"dpsd didn't end in {timeout:g} s\n{self.tail()}") from None
        finally:
            self._process = None
            if self._notify is not None:
                self._notify.close()
                self._notify = None
            with contextlib.suppress(FileNotFoundError):
                (self.directory / "notify").unlink()


def toml(tables: Mapping[str, Section]) -> str:
    """Tables of plain values as TOML: JSON's strings, numbers, booleans and arrays are TOML's."""
    lines: list[str] = []
    for name, values in tables.items():
        lines.append(f"[{name}]")
        lines += [f"{key} = {json.dumps(value)}" for key, value in values.items()]
    return "\n".join(lines) + "\n"
