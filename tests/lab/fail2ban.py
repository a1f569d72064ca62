"""A real fail2ban for the lab: the distribution's, reading the lab's Postfix's own log."""

import contextlib
import re
import subprocess
import time
from datetime import datetime
from typing import Self

from tests.lab.net import Namespace
from tests.lab.root import Root

# The jail and the filter are those that the package ships, with times and limits of its jail.conf;
# the mode and the ban's action are what jail.local is for. sshd has no log here.
_JAIL = """
[DEFAULT]
banaction = nftables-multiport
banaction_allports = nftables-allports

[sshd]
enabled = false

[postfix]
enabled = true
mode = aggressive
logpath = /var/log/postfix.log
"""
_SERVER = """
[Definition]
dbfile = None
"""
_SOCKET = "/run/fail2ban.sock"
_LOG = "var/log/fail2ban.log"
_BAN = re.compile(r"^(\S+ \S+) .*NOTICE +\[postfix\] (?:Restore )?Ban (\S+)$", re.MULTILINE)


class Fail2banError(RuntimeError):
    """fail2ban didn't start; the message ends with its log."""


class Fail2ban:
    """fail2ban in a namespace and in Postfix's copy of the root; a context manager."""

    def __init__(self, space: Namespace, root: Root) -> None:
        self._space = space
        self._root = root
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self, timeout: float = 30) -> None:
        """Start it and wait until its jail watches the log; `timeout` in seconds."""
        self._root.write("etc/fail2ban/jail.local", _JAIL)
        self._root.write("etc/fail2ban/fail2ban.local", _SERVER)
        self._root.write("etc/resolv.conf", "")  # no name server: else it waits for one, long
        self._process = self._space.spawn(
            *self._root.command(
                *("fail2ban-server", "-f", "-s", _SOCKET, "-p", "/run/fail2ban.pid"),
                *("--logtarget", f"/{_LOG}", "--loglevel", "INFO", "start"),
            ),
            output=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + timeout
        while "Jail 'postfix' started" not in self._text():
            if time.monotonic() > deadline or self._process.poll() is not None:
                tail = self._text()
                self.stop()
                raise Fail2banError(f"fail2ban didn't start:\n{tail}")
            time.sleep(0.05)  # it tells in its log only

    def stop(self) -> None:
        """End it; its bans go with the namespace."""
        if self._process is not None:
            self._process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(10)
            self._process.kill()
            self._process.wait()
            self._process = None

    def banned(self) -> dict[str, float]:
        """Who was banned, to when first (Unix time)."""
        found: dict[str, float] = {}
        for when, host in _BAN.findall(self._text()):
            at = datetime.strptime(when, "%Y-%m-%d %H:%M:%S,%f").timestamp()  # local time
            found.setdefault(host, at)
        return found

    def _text(self) -> str:
        log = self._root.path / _LOG
        return log.read_text("utf-8", "replace") if log.exists() else ""
