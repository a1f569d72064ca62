"""An attacker's session: a socket whose every option can be abused, in the clear or in TLS."""

import asyncio
import contextlib
import socket
import ssl

from tests.lab import tls
from tests.lab.net import MAIL4, MAIL6

_BIND_ADDRESS_NO_PORT = 24  # pick the port at connect: 64k sessions a source, not a host
_CONNECT_TIMEOUT = 3.0
_GREETING_TIMEOUT = 5.0
_READ = 4096


class Connection:
    """One attacking session from `source`. ConnectionError: the server or a defence ended it."""

    def __init__(self, source: str) -> None:
        family = socket.AF_INET6 if ":" in source else socket.AF_INET
        self._host = str(MAIL6 if ":" in source else MAIL4)
        self._loop = asyncio.get_running_loop()
        self._tls: _Tls | None = None
        self.socket = socket.socket(family, socket.SOCK_STREAM)
        self.socket.setblocking(False)
        self.socket.setsockopt(socket.IPPROTO_IP, _BIND_ADDRESS_NO_PORT, 1)
        self.socket.bind((source, 0))

    async def connect(self, port: int) -> None:
        """Complete TCP's handshake; TimeoutError after 3 s."""
        async with asyncio.timeout(_CONNECT_TIMEOUT):
            await self._loop.sock_connect(self.socket, (self._host, port))

    async def secured(self) -> None:
        """Complete TLS's handshake without looking at the certificate; TimeoutError after 5 s."""
        made = _Tls()
        async with asyncio.timeout(_GREETING_TIMEOUT):
            while not made.shake():
                await self._loop.sock_sendall(self.socket, made.outgoing.read())
                made.incoming.write(await self._received())
            await self._loop.sock_sendall(self.socket, made.outgoing.read())
        self._tls = made

    async def say(self, text: bytes) -> None:
        """Send `text`, all of it."""
        if self._tls is not None:
            text = self._tls.sealed(text)
        await self._loop.sock_sendall(self.socket, text)

    async def heard(self) -> bytes:
        """Wait for the end of what the server says, as a client that obeys the protocol."""
        said = b""
        while not said.endswith(b"\n") or said.splitlines()[-1][3:4] == b"-":
            said += await self._heard_part()
        return said

    async def ask(self, line: bytes) -> None:
        """Send a command or a mail's end and wait for a reply that goes along with it."""
        await self.say(line + b"\r\n")
        reply = await self.heard()
        if reply[:1] not in {b"2", b"3"}:
            raise ConnectionError(reply.decode("ascii", "replace"))

    async def greeted(self) -> None:
        """Wait for the greeting, but not for ever: the server's queue may have lost the session."""
        async with asyncio.timeout(_GREETING_TIMEOUT):
            await self.heard()

    async def hello(self) -> None:
        """Wait for the greeting and say HELO; the reply isn't waited for."""
        await self.greeted()
        await self.say(b"HELO agent\r\n")

    async def until_cut(self, limit: float) -> None:
        """Swallow what comes until the server ends the session, at most `limit` seconds."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(limit):
                while await self._loop.sock_recv(self.socket, _READ):
                    pass

    async def idle(self, seconds: float) -> None:
        """Be silent for `seconds`; ConnectionError as soon as the session is ended."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while True:
                    await self._received()

    async def _heard_part(self) -> bytes:
        """Some of what the server says, in the clear."""
        if self._tls is None:
            return await self._received()
        while not (text := self._tls.opened()):
            self._tls.incoming.write(await self._received())
        return text

    async def _received(self) -> bytes:
        part = await self._loop.sock_recv(self.socket, _READ)
        if not part:
            raise ConnectionError("closed by the server")
        return part


class _Tls:
    """TLS between two buffers; the socket stays with the connection."""

    def __init__(self) -> None:
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._object = tls.context().wrap_bio(self.incoming, self.outgoing)

    def shake(self) -> bool:
        """Go on with the handshake; whether it is done."""
        with contextlib.suppress(ssl.SSLWantReadError):
            self._object.do_handshake()
            return True
        return False

    def sealed(self, text: bytes) -> bytes:
        """What has to be sent for `text`."""
        self._object.write(text)
        return self.outgoing.read()

    def opened(self) -> bytes:
        """What was received, in the clear; empty: no whole record is there yet."""
        with contextlib.suppress(ssl.SSLWantReadError):
            return self._object.read(_READ)
        return b""
