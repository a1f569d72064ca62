"""A real Postfix for the lab, on a copy of the host's root that only the lab sees."""

import contextlib
import os
import select
import signal
import socket
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Self

from tests.lab import private
from tests.lab.net import MAIL4, Namespace
from tests.lab.root import Root, RootError, archive

DOMAIN = "example.test"

# Everything that asks the network or the host's accounts is off; mail for DOMAIN is thrown away.
_MAIN = {
    "compatibility_level": "3.6",
    "maillog_file": "/var/log/postfix.log",
    "maillog_file_prefixes": "/var/log",
    "myhostname": f"mail.{DOMAIN}",
    "mydomain": DOMAIN,
    "mydestination": DOMAIN,
    "mynetworks": "127.0.0.0/8",
    "inet_protocols": "all",
    "default_process_limit": "100",
    "disable_dns_lookups": "yes",
    "smtp_host_lookup": "native",
    "smtpd_peername_lookup": "no",
    "alias_maps": "",
    "alias_database": "",
    "local_recipient_maps": "",
    "local_transport": "discard:",
    "default_transport": "discard:",
    "smtpd_relay_restrictions": "reject_unauth_destination",
    "smtpd_recipient_restrictions": "check_recipient_access inline:{"
    f"{{greylisted@{DOMAIN} = 450 4.2.0 Greylisted, try again}}}}",
    "smtpd_tls_security_level": "may",
    "smtpd_tls_cert_file": "/etc/postfix/cert.pem",
    "smtpd_tls_key_file": "/etc/postfix/key.pem",
    "smtputf8_enable": "no",
    "biff": "no",
}
SMTPD = "smtp inet n - n - - smtpd"
"""How port 25 is served when nothing is in front: a line of master.cf."""
_MASTER = """
submission inet  n - n - -    smtpd
submissions inet n - n - -    smtpd -o smtpd_tls_wrappermode=yes
tlsmgr     unix  - - n 1000? 1 tlsmgr
pickup     unix  n - n 60 1   pickup
cleanup    unix  n - n - 0    cleanup
qmgr       unix  n - n 300 1  qmgr
rewrite    unix  - - n - -    trivial-rewrite
bounce     unix  - - n - 0    bounce
defer      unix  - - n - 0    bounce
trace      unix  - - n - 0    bounce
flush      unix  n - n 1000? 0 flush
proxymap   unix  - - n - -    proxymap
smtp       unix  - - n - -    smtp
showq      unix  n - n - -    showq
error      unix  - - n - -    error
retry      unix  - - n - -    error
discard    unix  - - n - -    discard
anvil      unix  - - n - 1    anvil
scache     unix  - - n - 1    scache
postlog    unix-dgram n - n - 1 postlogd
"""


# Debian's package "ssl-cert", which Postfix depends on, makes one of the same kind, on other names.
_CERTIFICATE = (
    *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", f"/CN=mail.{DOMAIN}"),
    *("-keyout", "/etc/postfix/key.pem", "-out", "/etc/postfix/cert.pem"),
)


class PostfixError(RuntimeError):
    """Postfix couldn't be started; the message says why."""


class Postfix:
    """Postfix on ports 25, 465 (TLS) and 587 of a namespace; a context manager that starts and
    stops it."""

    def __init__(
        self,
        space: Namespace,
        port25: Iterable[str] = (SMTPD,),
        door: tuple[str, int] = (str(MAIL4), 25),
        /,
        **main: str,
    ) -> None:
        """`port25`: the lines of master.cf that serve port 25; `door`: where in its namespace it
        has to greet once it is started.

        `main` changes or adds parameters of main.cf: `smtpd_timeout="60s"`.
        """
        self.space = space
        self.door = door
        self.main = _MAIN | main
        self.master = "\n".join(port25) + _MASTER
        self.root = Root(f"postfix-{space.name}")

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def log(self) -> Path:
        """Its mail log, while it runs."""
        return self.root.path / "var/log/postfix.log"

    def start(self) -> None:
        """Start it; it has greeted with 220 when this returns."""
        private.require()
        if not archive().exists():
            raise RootError("run first: python -m tests.lab.root")
        self.root.mount(archive())
        try:
            settings = "".join(f"{key} = {value}\n" for key, value in self.main.items())
            self.root.write("etc/postfix/main.cf", settings)
            self.root.write("etc/postfix/master.cf", self.master)
            self.root.write("etc/hosts", f"127.0.0.1 localhost\n{MAIL4} mail.{DOMAIN}\n")
            self.space.run(*self.root.command(*_CERTIFICATE))
            # `postfix start` returns when the master listens
            done = self.space.run(*self.root.command("postfix", "start"), check=False)
            if done.returncode != 0:
                raise PostfixError(f"postfix start: {done.stderr}{self._tail()}")
            greeting = self.greeting()
            if not greeting.startswith("220"):  # postscreen goes on after a hyphen
                raise PostfixError(f"postfix greeted with {greeting!r}\n{self._tail()}")
        except BaseException:
            self.stop()
            raise

    def greeting(self, timeout: float = 10) -> str:
        """What it says to a new connection at its door; `timeout` in seconds."""
        with self.space.entered():
            connection = socket.create_connection(self.door, timeout)
        with connection:
            return connection.recv(512).decode("ascii", "replace")

    def stop(self) -> None:
        """End it at once and forget its queue."""
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            pid = int((self.root.path / "var/spool/postfix/pid/master.pid").read_text("ascii"))
            died = os.pidfd_open(pid)
            try:
                signal.pidfd_send_signal(died, signal.SIGTERM)  # the master ends its children
                select.select([died], [], [], 10)  # it is init's child: nothing to wait(2) for
            finally:
                os.close(died)
        self.root.unmount()

    def _tail(self) -> str:
        text = self.log.read_text("utf-8", "replace") if self.log.exists() else ""
        return "\n".join(text.splitlines()[-20:])


@contextlib.contextmanager
def postconf(folder: Path) -> Iterator[Path]:
    """A folder for PATH with the real postconf(1), which reads configurations within `folder`."""
    private.require()
    root = Root("postconf")
    root.mount(archive())
    try:
        inside = root.path / folder.relative_to("/")
        inside.mkdir(parents=True, exist_ok=True)
        private.bind(folder, inside)
        program = folder / "bin" / "postconf"
        program.parent.mkdir()
        command = " ".join(root.command("/usr/sbin/postconf"))
        program.write_text(f'#!/bin/sh\nexec {command} "$@"\n', encoding="ascii")
        program.chmod(0o755)
        yield program.parent
    finally:
        root.unmount()
