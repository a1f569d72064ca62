"""docker-proxy itself, from the distribution's package: the user-space relay of published ports."""

import subprocess
from typing import Self

from tests.lab.net import Namespace
from tests.lab.root import RootError, docker_proxy

_ADDRESSES = ("0.0.0.0", "::")  # noqa: S104 - of a namespace of the lab
# It tells whoever started it by file descriptor 3 that it listens.
_SHELL = 'exec "$@" 3>&1 1>&2'


class DockerProxy:
    """A process for each port and IP version, as docker starts them; a context manager."""

    def __init__(self, space: Namespace, to: str, ports: tuple[int, ...] = (25, 465, 587)) -> None:
        self._commands = [
            space.command(
                *("sh", "-c", _SHELL, "sh", str(docker_proxy()), "-proto", "tcp"),
                *("-host-ip", address, "-host-port", str(port)),
                *("-container-ip", to, "-container-port", str(port)),
            )
            for port in ports
            for address in _ADDRESSES
        ]
        self._started: list[subprocess.Popen[bytes]] = []

    @property
    def pids(self) -> list[int]:
        """Its process ids, once started."""
        return [process.pid for process in self._started]

    def __enter__(self) -> Self:
        if not docker_proxy().exists():
            raise RootError("run first: python -m tests.lab.root docker-proxy")
        try:
            for command in self._commands:
                process = subprocess.Popen(
                    command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE
                )
                self._started.append(process)
                assert process.stdout is not None
                if process.stdout.readline() != b"0\n":
                    raise RootError(f"docker-proxy: {process.stdout.readline().decode()}")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._started:
            process.kill()
            process.communicate()
