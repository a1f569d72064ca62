"""Sessions end wherever the mail server is: on this host, redirected, in a container by DNAT, or
behind this gateway, masqueraded or not. That a session ended is shown by the server's own socket.
"""

import socket
from pathlib import Path

import pytest

from dpsd.kernel.ending.ender import Ender
from dpsd.kernel.ending.outcome import Fate
from dpsd.kernel.nftset import library
from tests.kernel.behind import (
    ELSEWHERE,
    PLACES,
    Behind,
    Opens,
    alive,
    end,
    fates,
    forgotten,
    on_host,
    over,
    routed,
    translated,
)
from tests.kernel.netns import run


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("place", PLACES)
def test_a_session_ends_where_it_is(
    behind: Behind, ender: Ender, place: Opens, version: int
) -> None:
    opened = place(behind, version)
    mine, other = opened(), opened()  # another session of the same peer with the same server
    assert alive(mine)
    assert fates(end(ender, [mine])) == [Fate.ENDED]
    assert over(mine[1], 0)
    assert over(mine[0])  # and so the peer knows, and can try again
    assert forgotten(mine)
    assert alive(other)
    assert not forgotten(other)
    assert fates(end(ender, [mine])) == [Fate.GONE]
    assert alive(opened())


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("place", PLACES)
def test_very_many_idle_ones_at_once(
    behind: Behind, ender: Ender, place: Opens, version: int
) -> None:
    opened = place(behind, version)
    end(ender, [opened()])  # libnftables aborts when its socket's number is above 1024
    sessions = [opened() for _ in range(500)]
    other = opened()
    assert fates(end(ender, sessions)) == [Fate.ENDED] * 500
    assert all(over(accepted, 0) for _, accepted, _ in sessions)
    assert alive(other)


@pytest.mark.parametrize("place", ELSEWHERE)
def test_nothing_is_left_in_the_kernel(behind: Behind, ender: Ender, place: Opens) -> None:
    opened = place(behind, 4)
    end(ender, [opened(), opened()])
    listed = run("nft list table inet dpsd_ending")
    assert "elements" not in listed
    ender.close()
    assert "dpsd_ending" not in run("nft list tables")


@pytest.mark.parametrize("half", ["peer", "server"])
@pytest.mark.parametrize("place", [on_host, translated, routed])
def test_half_closed_sessions(behind: Behind, ender: Ender, place: Opens, half: str) -> None:
    session = place(behind, 4)()
    client, accepted, _ = session
    (client if half == "peer" else accepted).shutdown(socket.SHUT_WR)
    assert fates(end(ender, [session])) == [Fate.ENDED]
    assert over(session[1], 0)


def test_a_library_that_dies_takes_nobody_along(
    behind: Behind, ender: Ender, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """As libnftables 1.0.6 dies of a table that a newer nft made: its sessions go on."""
    opened = routed(behind, 4)
    session = opened()
    script = tmp_path / "child.py"
    script.write_text("import os\nos.abort()\n")
    monkeypatch.setattr(library, "_CHILD", script)
    outcomes = end(ender, [session])
    assert fates(outcomes) == [Fate.NOT_ENDED]
    monkeypatch.undo()
    assert alive(session)
    assert fates(end(ender, [session])) == [Fate.ENDED]
    monkeypatch.setattr(library, "_CHILD", script)
    ender.close()
