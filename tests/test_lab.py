"""The lab itself: attackers do what their names say, and senders know when they were cut off."""

import asyncio
import contextlib
import socket
import struct
import subprocess
import time
from pathlib import Path

import pytest

from tests.lab import honest, smtp
from tests.lab.agents import BUYING, KINDS, PASSING, STAYING, TLS, Attack
from tests.lab.net import Net
from tests.lab.postfix import Postfix
from tests.lab.records import read

GONE = {"halfclose", "shut", "linger", "vanish"}  # their sessions end by themselves
HELD = [*(kind for kind in STAYING if kind not in GONE), *TLS, *BUYING]
PLACES = 2


def test_every_kind_has_its_place() -> None:
    assert {*HELD, *GONE, *PASSING, "synflood"} == {*KINDS}


def test_a_server_with_room_keeps_every_kind_of_session_that_stays(tmp_path: Path) -> None:
    """None is turned out for what it says: 2 sources with a session each, for 5 seconds."""
    attacks = {
        kind: Attack(kind, PLACES, 1, seconds=5, first=PLACES * number, buy=1, rate=10)
        for number, kind in enumerate(HELD)
    }
    with Net() as net, Postfix(net.mail):
        begun = [
            subprocess.Popen(attack.command(net.world, time.time(), tmp_path / kind))
            for kind, attack in attacks.items()
        ]
        assert [process.wait(30) for process in begun] == [0] * len(begun)
    for kind, attack in attacks.items():
        sessions = [*read(tmp_path / kind)]
        assert {session["how"] for session in sessions} == {"ended"}, kind
        assert {session["source"] for session in sessions} == {*attack.addresses()}
        assert (len(sessions) > PLACES) == (kind in BUYING), kind


REPLIES = (b"220", b"250", b"250", b"250", b"354", b"250")
ENDS = (b"\r\n", b"\r\n", b"\r\n", b"\r\n", b"\r\n.\r\n")
"""The end of what is answered by each reply but the greeting."""


def cuts(replies: int, *, reset: bool) -> list[str]:
    """At which stages a sender of one mail was cut off by a server that goes after `replies`."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for number, reply in enumerate(REPLIES[:replies]):
            if number:
                await reader.readuntil(ENDS[number - 1])
            writer.write(reply + b" so\r\n")
            await writer.drain()
        if reset:
            linger = struct.pack("ii", 1, 0)
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        writer.close()

    async def send() -> list[str]:
        found: list[str] = []
        async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
            kind = honest.Kind(port=server.sockets[0].getsockname()[1], reuse=2)
            lane = honest.Lane(kind, "127.0.0.1", "127.0.0.1", found.append)
            with contextlib.suppress(smtp.SmtpError):
                await lane.deliver()
            await lane.close()
        return found

    return asyncio.run(send())


@pytest.mark.parametrize("reset", [True, False])
@pytest.mark.parametrize(
    ("replies", "stage"),
    [(0, "start"), (1, "start"), (2, "mail"), (4, "mail"), (5, "mail"), (6, "idle")],
)
def test_a_sender_knows_when_it_was_cut_off(replies: int, stage: str, *, reset: bool) -> None:
    assert cuts(replies, reset=reset) == [stage]
