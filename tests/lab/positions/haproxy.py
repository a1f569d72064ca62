"""A real HAProxy in front of the mail server, from the distribution's package."""

import contextlib
import os
import select
import signal
from typing import Self

from tests.lab.net import MAIL4, MAIL6, Namespace
from tests.lab.root import HAPROXY, Root, RootError, archive

_CONFIG = "etc/haproxy/haproxy.cfg"
_PID = "run/haproxy.pid"
# The times are long enough for SMTP (RFC 5321, 4.5.3.2), as HAProxy's documentation asks for.
_SETTINGS = """
global
  maxconn 4000
defaults
  mode tcp
  timeout connect 5s
  timeout client 5m
  timeout server 5m
"""


def configuration(to: str, *, proxied: bool) -> str:
    """Its configuration, with each port relayed to the same one of `to`, an IPv4 address.

    `proxied`: a session to port 25 begins with a line of the PROXY protocol, which names the peer.
    """
    parts = [
        f"listen port{port}\n  bind {MAIL4}:{port}\n  bind [{MAIL6}]:{port}\n"
        f"  server mail {to}:{port}{' send-proxy' if proxied and port == 25 else ''}\n"
        for port in (25, 465, 587)
    ]
    return _SETTINGS + "".join(parts)


class HAProxy:
    """HAProxy in a namespace that has the public addresses; a context manager."""

    def __init__(self, space: Namespace, to: str, *, proxied: bool) -> None:
        self._space = space
        self._root = Root(f"haproxy-{space.name}")
        self._settings = configuration(to, proxied=proxied)
        self._pid = 0

    @property
    def pids(self) -> list[int]:
        """Its process ids, once started."""
        return [self._pid] if self._pid else []

    def __enter__(self) -> Self:
        if not archive(HAPROXY).exists():
            raise RootError("run first: python -m tests.lab.root haproxy")
        self._root.mount(archive(HAPROXY))
        try:
            self._root.write(_CONFIG, self._settings)
            # It goes into the background once it listens.
            run = ("haproxy", "-D", "-f", f"/{_CONFIG}", "-p", f"/{_PID}")
            self._space.run(*self._root.command(*run))
            self._pid = int((self._root.path / _PID).read_text("ascii"))
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        if self._pid:
            with contextlib.suppress(ProcessLookupError):
                died = os.pidfd_open(self._pid)
                try:
                    signal.pidfd_send_signal(died, signal.SIGTERM)
                    select.select([died], [], [], 10)  # it is init's child: nothing to wait(2) for
                finally:
                    os.close(died)
        self._root.unmount()
