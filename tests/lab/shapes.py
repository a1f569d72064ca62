"""What attackers' sessions do that keep a place in the server and give nothing for it."""

import asyncio
import random
import socket
import struct
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from tests.lab.connection import Connection

_TCP_REPAIR = 19
_BYTE_EVERY = 0.01
"""Seconds between two bytes of `helobyte`'s HELO: each is a packet of its own."""
_HELLO = bytes.fromhex("16030100f8010000f40303") + b"\x5a" * 9
"""The first 20 bytes of a TLS ClientHello of 253."""


@dataclass(frozen=True)
class Visit:
    """What a session's shape may depend on. Times in seconds."""

    chance: random.Random
    left: float
    """Until the attack ends."""
    pay: float = 0.0
    """Bytes of mail a second for the kinds that pay."""
    buying: bool = False
    """Whether it is still time to make a good impression."""
    cuts: int = 0
    """How often this place's sessions were ended before."""


Shape = Callable[[Connection, Visit], Awaitable[None]]
"""What a session does once connected; it returns, or raises ConnectionError, when it was ended."""


async def hold(session: Connection, visit: Visit) -> None:
    """The paper's agent: a greeting, then nothing."""
    await session.hello()
    await session.until_cut(visit.left)


async def silent(session: Connection, visit: Visit) -> None:
    """Connects and never says a word."""
    await session.until_cut(visit.left)


async def noop(session: Connection, visit: Visit) -> None:
    """Speaks every few seconds, gets nowhere."""
    await session.hello()
    await _repeat(session, b"NOOP\r\n", visit, 8.0)


async def drip(session: Connection, visit: Visit) -> None:
    """A command that never ends, a byte now and then."""
    await session.greeted()
    await session.say(b"HELO ")
    await _repeat(session, b"a", visit, 3.0)


async def slowdata(session: Connection, visit: Visit) -> None:
    """Begins a mail as anybody would, and then takes for ever to say what is in it."""
    await data(session)
    await _repeat(session, b"slow\r\n", visit, 2.0)


async def stall(session: Connection, visit: Visit) -> None:
    """Says much of a mail, and never the rest."""
    await data(session)
    await session.heard()
    await session.say(b"Received: from somewhere by somewhere else\r\n" * 50)
    await session.until_cut(visit.left)


async def helobyte(session: Connection, visit: Visit) -> None:
    """Hold, but HELO comes a byte a packet, each of which the server's kernel acknowledges."""
    await session.greeted()
    session.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for byte in b"HELO agent\r\n":
        await session.say(bytes([byte]))
        await session.idle(_BYTE_EVERY)
    await session.until_cut(visit.left)


async def hello(session: Connection, visit: Visit) -> None:
    """Says the first bytes of a TLS handshake, and never the rest."""
    await session.say(_HELLO)
    await session.until_cut(visit.left)


async def tlshold(session: Connection, visit: Visit) -> None:
    """Hold within TLS."""
    await session.secured()
    await session.greeted()
    await session.ask(b"EHLO agent")
    await session.until_cut(visit.left)


async def data(session: Connection) -> None:
    """Come as far as DATA; the reply to it isn't waited for."""
    await session.hello()
    for line in (b"MAIL FROM:<a@agent>", b"RCPT TO:<user@example.test>", b"DATA"):
        await session.heard()
        await session.say(line + b"\r\n")


async def speak(session: Connection, talk: Awaitable[None], left: float) -> None:
    """Do `talk`, and swallow what the server says, until it ends the session or `left` seconds."""
    listening = asyncio.create_task(session.until_cut(left))
    both = (asyncio.ensure_future(talk), listening)
    try:
        await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
    finally:  # also when the attack is called off
        for task in both:
            task.cancel()
        results = await asyncio.gather(*both, return_exceptions=True)
    for result in results:
        if isinstance(result, OSError):
            raise result


async def _repeat(session: Connection, text: bytes, visit: Visit, every: float) -> None:
    async def talk() -> None:
        while True:
            await asyncio.sleep(every * visit.chance.uniform(0.7, 1.3))
            await session.say(text)

    await speak(session, talk(), visit.left)


async def churn(_session: Connection, _visit: Visit) -> None:
    """Comes and goes, as often as it can."""


async def reset(session: Connection, _visit: Visit) -> None:
    """Goes with a reset."""
    session.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


async def halfclose(session: Connection, visit: Visit) -> None:
    """Closes its half and stays, or lets the server close and never answers its FIN."""
    await (shut if visit.chance.random() < 0.5 else linger)(session, visit)


async def shut(session: Connection, visit: Visit) -> None:
    """Closes its half and stays."""
    await session.hello()
    session.socket.shutdown(socket.SHUT_WR)
    await session.until_cut(min(visit.left, 20.0))


async def linger(session: Connection, visit: Visit) -> None:
    """Lets the server close and never answers its FIN."""
    await session.hello()
    await session.say(b"QUIT\r\n")
    await asyncio.sleep(min(visit.left, 20.0))


async def vanish(session: Connection, _visit: Visit) -> None:
    """Says good-bye and is gone before the last ACK; `world` sends no reset for it."""
    await session.say(b"HELO agent\r\nQUIT\r\n")
    session.socket.shutdown(socket.SHUT_WR)
    session.socket.setsockopt(socket.IPPROTO_TCP, _TCP_REPAIR, 1)  # so that close says nothing
