"""A user-space relay as docker-proxy is: each session to the host is one more to the container.

python -m tests.lab.positions.relay 172.18.0.2 25 465 587

As there, an end or an error of one side is handed on as the end of what the other hears, and both
have to be over before either is closed. It says `ready` when it listens.
"""

import asyncio
import contextlib
import subprocess
import sys
from pathlib import Path
from typing import Self

from tests.lab.limits import many_files
from tests.lab.net import Namespace

_ROOT = Path(__file__).parents[3]
_CHUNK = 32_768


class Relay:
    """The relay as a process in a namespace; a context manager."""

    def __init__(self, space: Namespace, to: str, ports: tuple[int, ...] = (25, 465, 587)) -> None:
        command = (sys.executable, "-m", "tests.lab.positions.relay", to, *map(str, ports))
        self._command = space.command(*command)
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """Its process id, once started."""
        assert self._process is not None
        return self._process.pid

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            self._command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, cwd=_ROOT
        )
        assert self._process.stdout is not None
        if self._process.stdout.readline() != b"ready\n":
            self.__exit__()
            raise RuntimeError("the relay didn't start")
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process is not None
        self._process.kill()
        self._process.communicate()


async def serve(to: str, ports: list[int]) -> None:
    """Relay these ports of all addresses to `to`, for ever."""
    for port in ports:

        async def relayed(
            reader: asyncio.StreamReader, writer: asyncio.StreamWriter, port: int = port
        ) -> None:
            await _session(reader, writer, to, port)

        await asyncio.start_server(relayed, None, port, backlog=4096)
    print("ready", flush=True)
    await asyncio.Event().wait()


async def _session(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, to: str, port: int
) -> None:
    ends = [writer]
    try:
        with contextlib.suppress(OSError):
            beyond, behind = await asyncio.open_connection(to, port)
            ends.append(behind)
            await asyncio.gather(_copied(reader, behind), _copied(beyond, writer))
    finally:
        for end in ends:
            end.close()
            with contextlib.suppress(OSError):
                await end.wait_closed()


async def _copied(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while part := await source.read(_CHUNK):
            target.write(part)
            await target.drain()
    with contextlib.suppress(OSError):
        target.write_eof()


if __name__ == "__main__":
    many_files()
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(serve(sys.argv[1], [int(port) for port in sys.argv[2:]]))
