"""Control: what an operator says to the running daemon itself, when the store stands in the way.

It takes effect in the lists and the kernel at once, and goes to the store when that is possible.
"""

import json
import socket
import stat
from collections.abc import Callable
from math import inf
from typing import Any, NamedTuple

from dpsd.control import MOST, groups_of, user_of
from dpsd.core.engine import Engine
from dpsd.core.given import CONFIG, HOST, POSTFIX
from dpsd.core.lists import OPERATOR, Entry, ListName
from dpsd.core.peers import Network, parse_network
from dpsd.daemon.bailiff import Bailiff
from dpsd.daemon.clock import Clock
from dpsd.daemon.keeper import Keeper
from dpsd.errors import DpsdError
from dpsd.store import Action, Recorded

STORED_WITHIN = 0.3  # seconds that an answer waits for the store
_BLOCKING = (ListName.BLACK, ListName.BLOCK)

Json = dict[str, Any]


class Edit(NamedTuple):
    """One change that somebody asks for. seconds: how long, None: for good."""

    command: str
    peer: Network
    seconds: float | None
    reason: str
    source: str
    only: str | None  # unblock what this source blocked, nothing else


class Control:
    """Answers requests. Who may write to the store's folder may ask."""

    def __init__(
        self,
        engine: Engine,
        bailiff: Bailiff,
        keeper: Keeper,
        clock: Clock,
        mode: Callable[[], str],
    ) -> None:
        self._engine = engine
        self._bailiff = bailiff
        self._keeper = keeper
        self._clock = clock
        self._mode = mode

    def may(self, asking: socket.socket) -> bool:
        """Whether the process at the other end may change the lists: as the store's folder says."""
        path = self._keeper.path
        try:
            user = user_of(asking)
            if user == 0 or path is None:
                return user == 0
            home = path.parent.stat()
            if user == home.st_uid:
                return True
            return bool(home.st_mode & stat.S_IWGRP) and home.st_gid in groups_of(asking)
        except OSError:
            return False

    async def answer(self, request: bytes) -> bytes:
        """Do what is asked for, or tell why not; JSON both ways."""
        try:
            asked = json.loads(request)
            edits = [_edit(each) for each in asked["edits"][:MOST]]
            store = asked["store"]
        except (ValueError, KeyError, TypeError) as problem:
            return _told([_result(2, f"not understood: {problem}")], stored=False)
        if store != str(self._keeper.path):
            other = f"the daemon that runs here has another store, {self._keeper.path}"
            return _told([_result(69, other)], stored=False)
        results = [await self._do(edit) for edit in edits]
        stored = await self._keeper.wrote(STORED_WITHIN)
        return _told(results, stored=stored, mode=self._mode())

    async def _do(self, edit: Edit) -> Json:
        now = self._clock.now()
        records = self._records(edit, now)
        if not records:
            return _result(1, "")
        try:
            await self._bailiff.follow(records)
        except DpsdError as problem:
            return _result(problem.exit_code, str(problem))
        finally:  # in the lists it is by now, and a repair brings it into the kernel
            for record in records:
                self._keeper.write(record.action, [record.entry])
        until = None if edit.seconds is None else now + edit.seconds
        return {**_result(0, ""), "until": None if until is None else self._clock.to_wall(until)}

    def _records(self, edit: Edit, now: float) -> list[Recorded]:
        """The changes of the lists that make an edit; none: it makes none."""
        lists, peer = self._engine.lists, edit.peer
        until = None if edit.seconds is None else now + edit.seconds

        def found(*names: ListName) -> list[Entry]:
            there = (lists.get(name, peer) for name in names)
            return [entry for entry in there if entry is not None]

        def put(name: ListName) -> Recorded:
            entry = Entry(name, peer, edit.reason, edit.source, now, until)
            return Recorded(Action.ADD, entry, now, 0, "")

        def drop(name: ListName) -> Recorded:
            return Recorded(Action.REMOVE, Entry(name, peer, "", edit.source, now), now, 0, "")

        is_operator = edit.source == OPERATOR
        mine = [e for e in found(*_BLOCKING) if is_operator or e.source == edit.source]
        white = [e for e in found(ListName.WHITE) if e.source != CONFIG]
        match edit.command:
            case "allow":
                return [put(ListName.WHITE)]
            case "disallow":
                return [drop(e.list) for e in white if e.source not in (HOST, POSTFIX)]
            case "unblock":
                return [drop(e.list) for e in mine if edit.only in (None, e.source)]
        if not is_operator and any(
            e.source == OPERATOR or (e.expires_at or inf) >= (until or inf)
            for e in found(*_BLOCKING)
            if e.source != edit.source
        ):
            return []
        name = ListName.BLACK if until is None else ListName.BLOCK
        gone = [e for e in white if e.source in (HOST, POSTFIX) and is_operator]
        gone += [e for e in mine if e.list is ListName.BLOCK and name is ListName.BLACK]
        return [put(name), *(drop(entry.list) for entry in gone)]


def _edit(told: Json) -> Edit:
    """A change as the command tells it; ValueError, KeyError or TypeError for anything else."""
    if told["command"] not in ("block", "unblock", "allow", "disallow"):
        raise ValueError(f"no command {told['command']!r}")
    seconds = told["seconds"]
    return Edit(
        told["command"],
        parse_network(told["peer"]),
        None if seconds is None else float(seconds),
        str(told["reason"])[:200],
        str(told["source"])[:64],
        told.get("only"),
    )


def _result(code: int, message: str) -> Json:
    return {"code": code, "message": message}


def _told(results: list[Json], stored: bool, mode: str = "") -> bytes:
    return json.dumps({"results": results, "stored": stored, "mode": mode}).encode()
