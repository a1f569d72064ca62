"""A small web server in a thread of its own, for programs on this host: loopback or a Unix socket.

One request at a time, each with little patience: many or slow clients wait for each other, and
never take more than one thread and a few descriptors.
"""

import errno
import logging
import socket
import stat
from contextlib import suppress
from pathlib import Path
from threading import Thread
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer
from wsgiref.types import WSGIApplication

from dpsd.config.kinds import Address

log = logging.getLogger("dpsd")

PATIENCE = 2.0  # seconds that a client may say nothing, and that closing takes at most
_WAITING = 5  # clients
_MODE = 0o660  # of a Unix socket; its directory narrows that down


class Endpoint:
    """Serves an application from now on until close(). OSError: the address can't be used."""

    def __init__(self, address: Address, app: WSGIApplication) -> None:
        self._address = address
        self._server = _Server(_listener(address), app)
        self._inode = _inode(address)
        serve = self._server.serve_forever
        Thread(target=serve, args=(0.1,), name="metrics", daemon=True).start()

    def close(self) -> None:
        """Serve no more; who is being answered gets PATIENCE seconds."""
        if isinstance(self._address, Path) and _inode(self._address) == self._inode:
            self._address.unlink(missing_ok=True)
        stopping = Thread(target=self._server.shutdown, daemon=True)  # it waits without a limit
        stopping.start()
        stopping.join(PATIENCE)
        self._server.server_close()


class _Handler(WSGIRequestHandler):
    timeout = PATIENCE

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the library's name
        log.debug(f"metrics: {format}", *args)


class _Server(WSGIServer):
    """The library's, on a socket that listens already. It asks no name server for its name."""

    def __init__(self, listener: socket.socket, app: WSGIApplication) -> None:
        super().__init__(("", 0), _Handler, bind_and_activate=False)
        self.socket.close()
        self.socket = listener
        self.server_name, self.server_port = "localhost", 0
        self.setup_environ()
        self.set_app(app)

    def get_request(self) -> tuple[socket.socket, tuple[str, int]]:
        return self.socket.accept()[0], ("local", 0)  # a Unix socket's peer has no address

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ARG002
        log.debug("metrics: a request failed", exc_info=True)  # the client went away


def _listener(address: Address) -> socket.socket:
    if isinstance(address, Path):
        listener = socket.socket(socket.AF_UNIX)
    else:
        listener = socket.socket(socket.AF_INET6 if ":" in address[0] else socket.AF_INET)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        if isinstance(address, Path):
            _clear(address)
            listener.bind(str(address))
            address.chmod(_MODE)
        else:
            listener.bind(address)
        listener.listen(_WAITING)
    except BaseException:
        listener.close()
        raise
    return listener


def _clear(path: Path) -> None:
    """Remove a socket that nobody listens on any more; FileExistsError for anything but one."""
    with suppress(FileNotFoundError), socket.socket(socket.AF_UNIX) as probe:
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise FileExistsError(errno.EEXIST, "there is a file that is no socket")
        probe.settimeout(PATIENCE)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink()


def _inode(address: Address) -> int | None:
    if not isinstance(address, Path):
        return None
    try:
        return address.lstat().st_ino
    except OSError:
        return None
