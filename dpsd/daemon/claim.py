"""The claim on a network namespace's table: one dpsd to it, whatever its store.

An abstract Unix address belongs to the network namespace, as the table does, and goes with its
process. Everybody may take one, so whoever holds it is asked who he is; and everybody may ask at
it, so whoever asks is asked as well.
"""

import asyncio
import contextlib
import logging
import socket
from collections.abc import Awaitable, Callable

from dpsd.control import ADDRESS, PATIENCE, ROOM, may_run_dpsd, user_of
from dpsd.errors import KernelError

log = logging.getLogger("dpsd")

Answer = Callable[[bytes], Awaitable[bytes]]
May = Callable[[socket.socket], bool]

AT_ONCE = 16  # requests that are answered at a time


class Claim:
    """Held from take() to close(). may: who may ask; answer: what is answered to a request."""

    def __init__(self, may: May, answer: Answer) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._may, self._answer = may, answer
        self._asking: set[asyncio.Task[None]] = set()

    def take(self) -> None:
        """Refuse to be the second dpsd; KernelError. Others don't keep it from starting."""
        try:
            self._socket.bind(ADDRESS)
        except OSError:
            self._be_second()
            return
        self._socket.setblocking(False)
        self._socket.listen()
        asyncio.get_running_loop().add_reader(self._socket, self._asked)

    def close(self) -> None:
        """Give it up."""
        asyncio.get_running_loop().remove_reader(self._socket)
        for task in self._asking:
            task.cancel()
        self._socket.close()

    def _be_second(self) -> None:
        holder = _holder()
        if holder in may_run_dpsd():
            raise KernelError(
                "another dpsd, with another store, guards the table inet dpsd of this host"
            )
        who = "somebody" if holder is None else f"user {holder}"
        log.warning(
            "the address @dpsd is held by %s, who is no dpsd: commands reach this daemon through"
            " the store only",
            who,
        )

    def _asked(self) -> None:
        with contextlib.suppress(OSError):
            asking = self._socket.accept()[0]
            if len(self._asking) >= AT_ONCE or not self._may(asking):
                asking.close()
                return
            task = asyncio.get_running_loop().create_task(self._serve(asking))
            self._asking.add(task)
            task.add_done_callback(self._asking.discard)

    async def _serve(self, asking: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        with asking, contextlib.suppress(OSError, TimeoutError):
            asking.setblocking(False)
            request = await asyncio.wait_for(loop.sock_recv(asking, ROOM), PATIENCE)
            if request:
                await asyncio.wait_for(
                    loop.sock_sendall(asking, await self._answer(request)), PATIENCE
                )


def _holder() -> int | None:
    """The user id of whoever listens at the address; None: he doesn't answer."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as asking:
        asking.settimeout(PATIENCE)
        try:
            asking.connect(ADDRESS)
            return user_of(asking)
        except OSError:
            return None
