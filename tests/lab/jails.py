"""A real fail2ban with jails of one's own, which bans through dpsd.

The distribution's package comes from the lab's copy of the root; configuration, socket, database
and log of its own are in a directory that it is given.
"""

import os
import shutil
import subprocess
import time
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Self

from tests.lab.net import Namespace
from tests.lab.root import Root, archive

_ACTIONS = Path(__file__).parents[2] / "etc" / "fail2ban" / "action.d"
_PATIENCE = 30  # seconds


class Fail2banError(RuntimeError):
    """fail2ban couldn't be started; the message says why."""


@cache
def tree() -> Path:
    """A root with fail2ban, for as long as the private world lasts."""
    root = Root("jails")
    root.mount(archive())
    return root.path


class Jails:
    """A fail2ban server in a namespace, with dpsd's action; a context manager starts and stops it.

    A second one on the same directory is the server after a restart: it knows the bans.
    """

    def __init__(self, space: Namespace, directory: Path, jails: Mapping[str, str]) -> None:
        """`jails`: lines of jail.local by the jail's name."""
        self.log = directory / "fail2ban.log"
        self._space = space
        self._directory = directory
        self._jails = list(jails)
        self._process: subprocess.Popen[bytes] | None = None
        configuration = directory / "etc"
        if not configuration.exists():
            shutil.copytree(tree() / "etc/fail2ban", configuration)
            shutil.rmtree(configuration / "jail.d")  # the distribution's choice of jails
            shutil.copytree(_ACTIONS, configuration / "action.d", dirs_exist_ok=True)
        sections = "".join(f"[{name}]\nenabled = true\n{text}\n" for name, text in jails.items())
        (configuration / "jail.local").write_text(sections, encoding="utf-8")
        (configuration / "fail2ban.local").write_text(
            f"[Definition]\nlogtarget = {self.log}\ndbfile = {directory}/bans.sqlite3\n"
            f"socket = {directory}/socket\npidfile = {directory}/pid\nsyslogsocket = auto\n"
            "allowipv6 = yes\n",
            encoding="utf-8",
        )

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Start it; it has read its jails when this returns."""
        with (self._directory / "output").open("ab") as output:
            self._process = subprocess.Popen(
                self._argv("server", "-x", "-f", "start"),
                stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=_environment(),
            )  # fmt: skip
        try:
            self._ready()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """End it with SIGTERM; it lifts its bans."""
        if self._process is not None:
            self._process.terminate()
            self._ended()

    def kill(self) -> None:
        """End it with SIGKILL, as a crash would."""
        if self._process is not None:
            self._process.kill()
            self._ended()

    def client(self, *words: str) -> str:
        """What a command of fail2ban-client prints."""
        done = subprocess.run(
            self._argv("client", *words),
            capture_output=True, text=True, check=False, env=_environment(), timeout=_PATIENCE * 2,
        )  # fmt: skip
        if done.returncode != 0:
            told = self.log.read_text("utf-8") if self.log.exists() else ""
            raise Fail2banError(f"{' '.join(words)}: {done.stdout}{done.stderr}\n{told}")
        return done.stdout.strip()

    def _ready(self) -> None:
        """Wait until its jails answer."""
        deadline = time.monotonic() + _PATIENCE
        while True:
            try:
                for jail in self._jails:
                    self.client("status", jail)
                return
            except Fail2banError:
                if time.monotonic() > deadline:
                    raise
            time.sleep(0.05)  # between two looks at another process

    def _ended(self) -> None:
        process, self._process = self._process, None
        assert process is not None
        try:
            process.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise Fail2banError(f"it didn't end\n{self.log.read_text('utf-8')}") from None

    def _argv(self, program: str, *words: str) -> list[str]:
        where, script = self._directory, tree() / "usr/bin" / f"fail2ban-{program}"
        files = ("-c", f"{where}/etc", "-s", f"{where}/socket", "-p", f"{where}/pid")
        return self._space.command("/usr/bin/python3", "-B", str(script), *files, *words)


def _environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(tree() / "usr/lib/python3/dist-packages")}
