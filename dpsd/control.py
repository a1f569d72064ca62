"""The way to the running daemon beside the store: one request and one answer over a Unix socket.

Its address is abstract: it belongs to the network namespace, as the table does, and neither a full
disk nor a damaged store stands in the way. Both ends ask the kernel who the other one is.
"""

import contextlib
import json
import os
import pwd
import socket
from struct import Struct
from typing import Any

ADDRESS = "\0dpsd"
PATIENCE = 1.0  # seconds that either end waits for the other
ANSWER = 4.0  # seconds that the command waits for what the daemon did, on a busy machine
SERVICE = "dpsd"  # the user that the package's daemon runs as
MOST = 500  # peers of one request
ROOM = 1 << 17  # bytes of a request or an answer, at most

_UCRED = Struct("iII")  # process, user and group id
_SO_PEERGROUPS = 59
_GROUPS = 1024  # bytes, of four each: the most that Python's getsockopt() takes

Json = dict[str, Any]


def user_of(peer: socket.socket) -> int:
    """The user id of the process at the other end. OSError."""
    return int(_UCRED.unpack(_credentials(peer))[1])


def groups_of(peer: socket.socket) -> set[int]:
    """The group ids of the process at the other end; of too many its first alone. OSError."""
    own = int(_UCRED.unpack(_credentials(peer))[2])
    try:
        told = peer.getsockopt(socket.SOL_SOCKET, _SO_PEERGROUPS, _GROUPS)
    except OSError:
        return {own}
    return {own, *memoryview(told).cast("I")}


def may_run_dpsd() -> set[int]:
    """The users whose process at the address may be a dpsd."""
    users = {0, os.getuid()}
    with contextlib.suppress(KeyError):
        users.add(pwd.getpwnam(SERVICE).pw_uid)
    return users


def ask(request: Json) -> Json | None:
    """The running daemon's answer; None: there is none, or whoever is there is no dpsd."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as asking:
        asking.settimeout(PATIENCE)
        try:
            asking.connect(ADDRESS)
            if user_of(asking) not in may_run_dpsd():
                return None
            asking.send(json.dumps(request).encode())
            asking.settimeout(ANSWER)
            answer = json.loads(asking.recv(ROOM))
        except (OSError, ValueError):
            return None
    return answer if isinstance(answer, dict) and "results" in answer else None


def _credentials(peer: socket.socket) -> bytes:
    return peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
