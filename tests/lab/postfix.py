"""A real Postfix for the lab, on a copy of the host's root that only the lab sees.

`python -m tests.lab.postfix install` adds the distribution's package to an overlay of `/` and
keeps the difference as `.lab/postfix-*.tar`. A run unpacks that into a throw-away overlay: neither
the host nor the cache is ever written to.
"""

import contextlib
import os
import platform
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Self

from tests.lab import private
from tests.lab.net import MAIL4, Namespace

CACHE = Path(__file__).parents[2] / ".lab"
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
    "smtpd_recipient_restrictions": "",
    "smtpd_tls_security_level": "none",
    "smtputf8_enable": "no",
    "biff": "no",
}
_MASTER = """
smtp       inet  n - n - -    smtpd
submission inet  n - n - -    smtpd
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


class PostfixError(RuntimeError):
    """Postfix couldn't be installed or started; the message says why."""


def archive() -> Path:
    """Where this distribution's installed Postfix is kept."""
    release = platform.freedesktop_os_release()
    return CACHE / f"postfix-{release['ID']}-{release.get('VERSION_ID', 'sid')}.tar"


class Root:
    """A writable copy of the host's `/` in the private world; what is written is in memory."""

    def __init__(self, name: str) -> None:
        self._base = private.RUN / name
        self.upper = self._base / "upper"
        self.path = self._base / "root"

    def mount(self, difference: Path | None = None) -> None:
        """Lay `difference`, a tar archive, over the host's root and mount the result."""
        self._base.mkdir()
        private.mount("tmpfs", self._base, "tmpfs", 0, "mode=755")
        work = self._base / "work"
        for directory in (self.upper, work, self.path):
            directory.mkdir()
        if difference is not None:
            _tar("-xf", difference, self.upper)
        layers = f"lowerdir=/,upperdir={self.upper},workdir={work}"
        try:
            private.mount("overlay", self.path, "overlay", 0, layers)
        except OSError as error:
            raise PostfixError(
                f"this kernel or root filesystem can't be the lower layer of an overlay: {error}"
            ) from error
        for name in ("dev", "proc"):
            private.bind(Path("/", name), self.path / name)
        private.mount("tmpfs", self.path / "run", "tmpfs", 0, "mode=755")

    def write(self, path: str, text: str) -> None:
        """Put a file in its place, whatever the host has there."""
        target = self.path / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.unlink(missing_ok=True)
        target.write_text(text, encoding="utf-8")

    def command(self, *argv: str) -> list[str]:
        return ["chroot", str(self.path), *argv]

    def unmount(self) -> None:
        private.unmount(self._base)
        self._base.rmdir()


class Postfix:
    """Postfix on ports 25 and 587 of a namespace; a context manager that starts and stops it."""

    def __init__(self, space: Namespace, **main: str) -> None:
        """`main` changes or adds parameters of main.cf: `smtpd_timeout="60s"`."""
        self.space = space
        self.main = _MAIN | main
        self._root = Root(f"postfix-{space.name}")

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def log(self) -> Path:
        """Its mail log, while it runs."""
        return self._root.path / "var/log/postfix.log"

    def start(self) -> None:
        """Start it; it has greeted with 220 when this returns."""
        private.require()
        if not archive().exists():
            raise PostfixError("run first: python -m tests.lab.postfix install")
        self._root.mount(archive())
        try:
            settings = "".join(f"{key} = {value}\n" for key, value in self.main.items())
            self._root.write("etc/postfix/main.cf", settings)
            self._root.write("etc/postfix/master.cf", _MASTER)
            self._root.write("etc/hosts", f"127.0.0.1 localhost\n{MAIL4} mail.{DOMAIN}\n")
            # `postfix start` returns when the master listens
            done = self.space.run(*self._root.command("postfix", "start"), check=False)
            if done.returncode != 0:
                raise PostfixError(f"postfix start: {done.stderr}{self._tail()}")
            greeting = self.greeting()
            if not greeting.startswith("220 "):
                raise PostfixError(f"postfix greeted with {greeting!r}\n{self._tail()}")
        except BaseException:
            self.stop()
            raise

    def greeting(self, timeout: float = 10) -> str:
        """What it says to a new connection on port 25; `timeout` in seconds."""
        with self.space.entered():
            connection = socket.create_connection((str(MAIL4), 25), timeout)
        with connection:
            return connection.recv(512).decode("ascii", "replace")

    def stop(self) -> None:
        """End it at once and forget its queue."""
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            pid = int((self._root.path / "var/spool/postfix/pid/master.pid").read_text("ascii"))
            died = os.pidfd_open(pid)
            try:
                signal.pidfd_send_signal(died, signal.SIGTERM)  # the master ends its children
                select.select([died], [], [], 10)  # it is init's child: nothing to wait(2) for
            finally:
                os.close(died)
        self._root.unmount()

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


def install() -> None:
    """Install Postfix into a copy of the root, with the host's network, and keep the difference."""
    target = archive()
    if target.exists():
        return
    resolver = Path("/etc/resolv.conf").read_text("utf-8")  # perhaps a link below /run: read it now
    private.enter(network=False)
    root = Root("install")
    root.mount()
    root.write("etc/resolv.conf", resolver)
    root.write("usr/sbin/policy-rc.d", "#!/bin/sh\nexit 101\n")  # no service is started
    (root.path / "usr/sbin/policy-rc.d").chmod(0o755)
    choice = "postfix postfix/main_mailer_type select No configuration\n"
    steps = (
        (["apt-get", "-q", "update"], ""),
        (["debconf-set-selections"], choice),
        (["apt-get", "-qy", "install", "--no-install-recommends", "postfix"], ""),
    )
    for argv, stdin in steps:
        done = subprocess.run(
            root.command(*argv),
            input=stdin,
            text=True,
            check=False,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=os.environ | {"DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C.UTF-8"},
        )
        if done.returncode != 0:
            raise PostfixError(f"{' '.join(argv)} failed:\n{done.stdout}")
    for useless in ("var/lib/apt/lists", "var/cache/apt", "usr/share/doc", "tmp"):
        shutil.rmtree(root.upper / useless, ignore_errors=True)
    CACHE.mkdir(exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=CACHE, suffix=".part", delete=False) as part:
        _tar("-cf", Path(part.name), root.upper)
    Path(part.name).rename(target)


def _tar(action: str, file: Path, directory: Path) -> None:
    """Pack or unpack a layer with owners, modes and the overlay's own marks (trusted.*)."""
    subprocess.run(
        [
            "tar",
            action,
            str(file),
            "-C",
            str(directory),
            "--xattrs",
            "--xattrs-include=*",
            "--numeric-owner",
            ".",
        ],
        check=True,
    )


if __name__ == "__main__":
    if sys.argv[1:] != ["install"]:
        sys.exit("usage: python -m tests.lab.postfix install")
    install()
