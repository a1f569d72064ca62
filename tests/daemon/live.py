"""A mail host with real sockets: what a stranger sees who connects to it, or is dropped."""

import contextlib
import errno
import json
import select
import selectors
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Self

from tests.lab.dpsd import Dpsd
from tests.lab.net import HONEST4, HONEST6, MAIL4, MAIL6, Namespace, Net, source4, source6

PATIENCE = 10.0  # seconds for what has to happen at once, on a busy machine
PORTS = (22, 25, 465, 587)
GREETING = b"220 mail.example.net\r\n"
MAIL = b"Received: from somewhere by somewhere else\r\n" * 30
"""Part of a mail: no server says anything to that."""
HOST: Mapping[int, str] = {4: str(MAIL4), 6: str(MAIL6)}
CONTROL = {4: source4(HONEST4, 20_000), 6: source6(HONEST6, 20_000)}
"""Peers that nobody ever lists: what reaches the server from them shows that the wire works."""


def eventually(true: Callable[[], Any], seconds: float = PATIENCE) -> bool:
    """Whether it comes true in time, asked again and again."""
    end = time.monotonic() + seconds
    while not true():
        if time.monotonic() > end:
            return False
        time.sleep(0.01)  # between two looks at another process or the kernel
    return True


class Server:
    """Listens in a namespace; keeps every session open, and answers each byte with itself, but
    nothing to a MAIL."""

    def __init__(self, space: Namespace, ports: tuple[int, ...] = PORTS) -> None:
        self.open: set[tuple[str, int]] = set()
        """The peers' addresses and ports of the sessions that are open at this end."""
        self._sessions: dict[socket.socket, tuple[str, int]] = {}  # the peers' ends
        self._selector = selectors.DefaultSelector()
        self._stopping = threading.Event()
        self._kept: frozenset[tuple[str, int]] | None = None  # by drop()
        self._dropped = threading.Event()
        self._woken, self._wake = socket.socketpair()
        self._selector.register(self._woken, selectors.EVENT_READ, lambda woken: woken.recv(1))
        with space.entered():
            for port in ports:
                for family, address in ((socket.AF_INET, ""), (socket.AF_INET6, "::")):
                    listener = socket.create_server((address, port), family=family, backlog=4096)
                    listener.setblocking(False)
                    self._selector.register(listener, selectors.EVENT_READ, self._accept)
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._stopping.set()
        self._thread.join()
        for key in list(self._selector.get_map().values()):
            key.fileobj.close()  # type: ignore[union-attr]
        self._wake.close()
        self._selector.close()

    def has(self, client: socket.socket) -> bool:
        """Whether this end of a client's session is open."""
        address, port = client.getsockname()[:2]
        return (address, port) in self.open

    def drop(self, but: Iterable[socket.socket] = ()) -> None:
        """Reset all sessions but those of these clients: a blocked one's end may not have come."""
        self._dropped.clear()
        self._kept = frozenset(client.getsockname()[:2] for client in but)
        self._wake.send(b".")
        assert self._dropped.wait(PATIENCE)

    def _drop(self, kept: frozenset[tuple[str, int]]) -> None:
        for session in [each for each, peer in self._sessions.items() if peer not in kept]:
            session.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            self._close(session)
        self._kept = None
        self._dropped.set()

    def _close(self, session: socket.socket) -> None:
        self._selector.unregister(session)
        session.close()
        self.open.discard(self._sessions.pop(session))

    def _serve(self) -> None:
        while not self._stopping.is_set():
            for key, _ in self._selector.select(0.1):
                if key.fileobj.fileno() >= 0:  # type: ignore[union-attr]
                    key.data(key.fileobj)
            if self._kept is not None:
                self._drop(self._kept)

    def _accept(self, listener: socket.socket) -> None:
        for _ in range(256):
            try:
                session, peer = listener.accept()
            except OSError:
                return
            session.setblocking(False)
            try:
                session.send(GREETING)
            except ConnectionError:  # the peer is gone already, or was ended
                session.close()
                continue
            self.open.add(peer[:2])
            self._sessions[session] = peer[:2]
            self._selector.register(session, selectors.EVENT_READ, self._answer)

    def _answer(self, session: socket.socket) -> None:
        with contextlib.suppress(BlockingIOError):
            try:
                if said := session.recv(65536):
                    session.send(said.removesuffix(MAIL))
                    return
            except ConnectionError:
                pass
            self._close(session)


class MailHost:
    """The lab's network with a server on the mail host's ports, 22 among them.

    It may be behind the mail host: in another namespace, where peers reach it by other addresses.
    """

    def __init__(
        self, net: Net, space: Namespace | None = None, address: Mapping[int, str] = HOST
    ) -> None:
        self.net = net
        self.address = address
        self.server = Server(space or net.mail)
        self._held: list[socket.socket] = []

    def __enter__(self) -> Self:
        for version, peer in CONTROL.items():  # so that both ends know their neighbours
            assert eventually(lambda p=peer: self._try(p)), f"IPv{version} doesn't work"  # type: ignore[misc]
        return self

    def __exit__(self, *_: object) -> None:
        self.hang_up()
        self.server.close()

    def start(self, peer: str, port: int = 25) -> socket.socket:
        """A connection from a peer's address, begun and not yet answered."""
        family, version = (socket.AF_INET6, 6) if ":" in peer else (socket.AF_INET, 4)
        with self.net.world.entered():
            client = socket.socket(family, socket.SOCK_STREAM)
        client.setblocking(False)
        client.bind((peer, 0))
        client.connect_ex((self.address[version], port))
        return client

    def session(self, peer: str, port: int = 25) -> socket.socket:
        """A connection that stands at both ends, until hang_up() at the latest."""
        client = self.hold(self.start(peer, port))
        assert _connected(client, PATIENCE), f"{peer} doesn't reach port {port}"
        assert eventually(lambda: self.server.has(client)), f"{peer}: not accepted on port {port}"
        assert said(client) == GREETING
        return client

    def hold(self, client: socket.socket) -> socket.socket:
        """Keep this one until hang_up(), too."""
        self._held.append(client)
        return client

    def held(self) -> int:
        """How many sessions there are to hang up."""
        return len(self._held)

    def hang_up(self, but: int = 0) -> None:
        """Close all sessions but the first ones."""
        while len(self._held) > but:
            self._held.pop().close()
        self.server.drop(self._held)

    def reached(self, peer: str, port: int = 25) -> bool:
        """Whether a peer gets a connection. False: its SYN was dropped.

        A control peer's SYN goes the same way right behind it; when that one was answered, the
        other would have been.
        """
        control = CONTROL[6 if ":" in peer else 4]
        with self.start(peer, port) as client, self.start(control, port) as behind:
            waiting = select.poll()
            waiting.register(client, select.POLLOUT)
            waiting.register(behind, select.POLLOUT)
            assert waiting.poll(PATIENCE * 1000), f"port {port} answers nobody"
            return _connected(client, 0.05)

    def drops(self, peer: str, port: int = 25) -> bool:
        return not self.reached(peer, port)

    def _try(self, peer: str) -> bool:
        with self.start(peer) as client:
            return _connected(client, 0.2)


def _connected(client: socket.socket, seconds: float) -> bool:
    waiting = select.poll()
    waiting.register(client, select.POLLOUT)
    if not waiting.poll(seconds * 1000):
        return False
    failure = client.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    # Reset: it stood, and was ended at once. A SYN that is answered by a reset is refused.
    assert failure in {0, errno.ECONNRESET}, f"errno {failure}: neither answered nor dropped"
    return True


def said(client: socket.socket, seconds: float = PATIENCE) -> bytes:
    """What comes over a session, if something does in time."""
    waiting = select.poll()
    waiting.register(client, select.POLLIN)
    return client.recv(100) if waiting.poll(seconds * 1000) else b""


def answered(client: socket.socket, seconds: float = PATIENCE) -> bool:
    """Whether a byte comes back over a session."""
    try:
        client.send(b".")
        return said(client, seconds) == b"."
    except ConnectionError:
        return False


def ended(client: socket.socket, seconds: float = PATIENCE) -> bool:
    """Whether the client is told within so many seconds that its session is over."""
    waiting = select.poll()
    waiting.register(client, select.POLLIN)
    if not waiting.poll(seconds * 1000):
        return False
    try:
        return client.recv(100) == b""
    except ConnectionError:
        return True


class Nft:
    """nft(8) of the mail host, as an administrator or another program runs it."""

    def __init__(self, space: Namespace) -> None:
        self.space = space

    def __call__(self, script: str) -> str:
        return self.space.run("nft", "-f", "-", stdin=f"{script}\n").stdout

    def elements(self, set_name: str) -> dict[str, float | None]:
        """What a set of table inet dpsd holds, with the seconds left; prefixes as nft has them."""
        told = json.loads(self.space.run("nft", "-j", f"list set inet dpsd {set_name}").stdout)
        (found,) = (each["set"] for each in told["nftables"] if "set" in each)
        return dict(_element(each) for each in found.get("elem", []))

    def holds(self, set_name: str, peer: str) -> bool:
        """Whether a set holds this element; False also when there is no such set."""
        try:
            return peer in self.elements(set_name)
        except RuntimeError:
            return False


def _element(told: Any) -> tuple[str, float | None]:
    value, left = told, None
    if isinstance(told, dict) and "elem" in told:
        value, left = told["elem"]["val"], told["elem"].get("expires")
    if isinstance(value, dict):
        value = f"{value['prefix']['addr']}/{value['prefix']['len']}"
    return str(value), left


def listed(daemon: Dpsd) -> dict[tuple[str, str], dict[str, Any]]:
    """What `dpsd list --json` tells, by list and peer."""
    return {(each["list"], each["peer"]): each for each in daemon.json("list")}


def command(daemon: Dpsd, *words: str) -> list[str]:
    """The command line of a dpsd command, to be run in the daemon's namespace."""
    return [str(Path(sys.prefix, "bin", "dpsd")), "--config", str(daemon.config), *words]


def told_at_once(daemon: Dpsd, *lines: str) -> list[subprocess.CompletedProcess[str]]:
    """What dpsd commands, each written as a line, tell that run at the same time."""
    running = [
        subprocess.Popen(
            daemon.space.command(*command(daemon, *line.split())),
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for line in lines
    ]  # fmt: skip
    said = [process.communicate(timeout=60) for process in running]
    return [
        subprocess.CompletedProcess(line, process.returncode, *each)
        for line, process, each in zip(lines, running, said, strict=True)
    ]


def at_once(daemon: Dpsd, *lines: str) -> None:
    """Run dpsd commands at the same time; all must succeed."""
    for done in told_at_once(daemon, *lines):
        assert done.returncode == 0, f"{done.args}: {done.returncode}: {done.stderr}"


class Hammer:
    """Connects from a peer again and again in a thread; counts what got through."""

    def __init__(self, host: MailHost, peer: str) -> None:
        self.tried = 0
        self.through = 0
        self._host, self._peer = host, peer
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._work)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._thread.join()

    def _work(self) -> None:
        while not self._stopping.is_set():
            self.through += self._host.reached(self._peer)
            self.tried += 1
