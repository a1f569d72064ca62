"""The claim on a network namespace's table: one dpsd to it, whatever its store.

An abstract Unix address belongs to the network namespace, as the table does, and goes with its
process. Everybody may take one, so whoever holds it is asked who he is.
"""

import asyncio
import contextlib
import logging
import os
import pwd
import socket
from struct import Struct

from dpsd.errors import KernelError

log = logging.getLogger("dpsd")

ADDRESS = "\0dpsd"
PATIENCE = 1.0  # seconds
SERVICE = "dpsd"  # the user that the package's daemon runs as
_UCRED = Struct("iII")  # process, user and group id


class Claim:
    """Held from take() to close()."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)

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
        self._socket.close()

    def _be_second(self) -> None:
        holder = _holder()
        if holder in _may_run_dpsd():
            raise KernelError(
                "another dpsd, with another store, guards the table inet dpsd of this host"
            )
        who = "somebody" if holder is None else f"user {holder}"
        log.warning("the address @dpsd is held by %s, who is no dpsd", who)

    def _asked(self) -> None:
        with contextlib.suppress(OSError):
            self._socket.accept()[0].close()


def _holder() -> int | None:
    """The user id of whoever listens at the address; None: he doesn't answer."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as asking:
        asking.settimeout(PATIENCE)
        try:
            asking.connect(ADDRESS)
            told = asking.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
        except OSError:
            return None
    return int(_UCRED.unpack(told)[1])


def _may_run_dpsd() -> set[int]:
    users = {0, os.getuid()}
    with contextlib.suppress(KeyError):
        users.add(pwd.getpwnam(SERVICE).pw_uid)
    return users
