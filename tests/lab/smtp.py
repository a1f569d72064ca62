"""A small SMTP client and a sink, for senders that must count every second."""

import asyncio
import contextlib
import ssl
from collections.abc import Iterator
from typing import Self

_LINE = b"x" * 76 + b"\r\n"
_GOODBYE = 2.0
"""Seconds within which TLS has to be closed, else the connection is."""


class SmtpError(Exception):
    """The server said no, or nothing that makes sense."""


class Cut(SmtpError):
    """An open session was reset, or closed without a word."""

    def __init__(self, stage: str, message: str = "closed by the server") -> None:
        super().__init__(message)
        self.stage = stage
        """`start` (before EHLO was answered), `mail` (until the mail was accepted) or `idle`."""


class Session:
    """One SMTP session from a chosen source address. Time limits are the caller's."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._stage = "start"

    @classmethod
    async def open(
        cls, host: str, port: int, source: str, tls: ssl.SSLContext | None = None
    ) -> Self:
        """Connect and read the greeting. With `tls` that begins before the greeting."""
        local = (source, 0)
        if tls is None:
            streams = await asyncio.open_connection(host, port, local_addr=local)
        else:
            try:
                streams = await asyncio.open_connection(
                    host,
                    port,
                    local_addr=local,
                    ssl=tls,
                    server_hostname="",
                    ssl_shutdown_timeout=_GOODBYE,
                )
            except (ConnectionResetError, ConnectionAbortedError) as error:
                raise Cut("start", str(error)) from error
        session = cls(*streams)
        try:
            with session._at("start"):
                await session._expect("220")
        except BaseException:
            session.abort()
            raise
        return session

    async def hello(self) -> None:
        with self._at("start"):
            await self._say("EHLO client.example.net", "250")

    async def mail(
        self, recipient: str, size: int, rate: float | None = None, *, pipelining: bool = False
    ) -> None:
        """Send a mail of about `size` bytes, at most `rate` bytes a second.

        With `pipelining` the envelope goes out in one piece (RFC 2920).
        """
        if self._reader.exception() is not None or self._reader.at_eof():
            raise Cut("idle")  # before this mail
        with self._at("mail"):
            await self._envelope(recipient, pipelining)
            await self._content(size, rate)

    async def _envelope(self, recipient: str, pipelining: bool) -> None:
        envelope = (
            ("MAIL FROM:<sender@example.net>", "250"),
            (f"RCPT TO:<{recipient}>", "250"),
            ("DATA", "354"),
        )
        if pipelining:
            self._writer.write("".join(line + "\r\n" for line, _ in envelope).encode("ascii"))
            for _, expected in envelope:
                await self._expect(expected)
        else:
            for line, expected in envelope:
                await self._say(line, expected)

    async def _content(self, size: int, rate: float | None) -> None:
        self._writer.write(b"From: sender@example.net\r\nSubject: lab\r\n\r\n")
        lines = max(1, size // len(_LINE))
        step = lines if rate is None else max(1, int(rate / 2 / len(_LINE)))
        for sent in range(0, lines, step):
            self._writer.write(_LINE * min(step, lines - sent))
            await self._writer.drain()
            if rate is not None:
                await asyncio.sleep(0.5)  # this sender's own slowness, not a wait
        await self._say(".", "250")

    async def refused(self, recipient: str) -> None:
        """Offer a mail that the server answers with a reply that says: later."""
        with self._at("mail"):
            await self._say("MAIL FROM:<sender@example.net>", "250")
            await self._say(f"RCPT TO:<{recipient}>", "4")

    async def quit(self) -> None:
        try:
            with self._at("idle"):
                await self._say("QUIT", "221")
        finally:
            await self.close()

    async def close(self) -> None:
        self._writer.close()
        with contextlib.suppress(OSError):
            await self._writer.wait_closed()

    def abort(self) -> None:
        self._writer.transport.abort()

    @contextlib.contextmanager
    def _at(self, stage: str) -> Iterator[None]:
        """Tell the end of the session by somebody else as a cut in `stage`."""
        self._stage = stage
        try:
            yield
        except ConnectionError as error:
            raise Cut(stage, str(error)) from error

    async def _say(self, line: str, expected: str) -> None:
        self._writer.write(line.encode("ascii") + b"\r\n")
        await self._expect(expected)

    async def _expect(self, expected: str) -> None:
        while True:
            line = (await self._reader.readline()).decode("ascii", "replace").rstrip()
            if not line:
                raise Cut(self._stage)
            if line[3:4] != "-":
                break
        if not line.startswith(expected):
            raise SmtpError(line)


async def sink(host: str, port: int) -> asyncio.Server:
    """A server that takes every mail and forgets it."""
    return await asyncio.start_server(serve_one, host, port)


async def serve_one(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """A session of that server, to its end."""
    in_data = False
    with contextlib.suppress(OSError):
        writer.write(b"220 sink\r\n")
        while line := await reader.readline():
            if in_data:
                in_data = line != b".\r\n"
                if not in_data:
                    writer.write(b"250 taken\r\n")
                continue
            word = line[:4].upper()
            in_data = word == b"DATA"
            writer.write(
                b"354 go on\r\n"
                if in_data
                else b"221 bye\r\n"
                if word == b"QUIT"
                else b"250 yes\r\n"
            )
            await writer.drain()
            if word == b"QUIT":
                break
    writer.close()
