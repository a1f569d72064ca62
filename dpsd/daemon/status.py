"""The status: how things stand, as `dpsd status --json` and the metrics tell it."""

from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from dpsd import assembly
from dpsd.config import Config
from dpsd.core.capacity import NEAR, Lesson
from dpsd.core.engine import Engine
from dpsd.core.lists import ListName
from dpsd.core.policy import Known, Pool
from dpsd.daemon.endings import Endings
from dpsd.daemon.guard import Guard
from dpsd.daemon.listener import Listener
from dpsd.daemon.pressers import words
from dpsd.mta import Mta, Slots


def snapshot(
    engine: Engine,
    guard: Guard,
    endings: Endings,
    listener: Listener | None,
    verdicts: Counter[ListName],
    deferrals: int,
    slots: list[dict[str, Any]],
    accounting: bool,
    sockets: int,
) -> dict[str, Any]:
    """How things stand now; verdicts, deferrals: how many there were; slots: what slots() says;
    accounting: whether conntrack counts bytes; sockets: how many sessions have one here."""
    return {
        "pressure": round(engine.pressure, 3),
        "price": round(engine.price, 1),
        "slots": slots,
        "blind": engine.blind,
        "accounting": accounting,
        "events": {
            "received": 0 if listener is None else listener.received,
            "lost": engine.lost,
            "skipped": 0 if listener is None else listener.decoder.skipped,
        },
        "sessions": {
            "open": len(engine.sessions),
            "half_open": engine.sessions.dumps.half_open,
            "by_state": engine.sessions.by_state(),
            "sockets": sockets,
            "unseen": len(engine.witness),
            "never_had": engine.witness.never_had,
        },
        "peers": len(engine.scores),
        "pressing": [
            {"peer": engine.size.text(each.peer), "sessions": each.sessions, "why": words(each)}
            for each in engine.pressing(engine.ticked)
        ],
        "lists": {name.value: engine.lists.size(name) for name in ListName},
        "verdicts": {n.value: verdicts[n] for n in (ListName.BLACK, ListName.BLOCK)},
        "ended": endings.ended,
        "ended_already": endings.gone,
        "not_ended": endings.not_ended.total(),
        "not_ended_why": {why.value: number for why, number in endings.not_ended.items()},
        "deferred": {"times": deferrals, "packets": guard.deferred.packets},
        "dropped": guard.dropped._asdict(),
        "server_leaks": {state: round(s) for state, s in engine.leaks.items()},
        "repairs": guard.repairs,
        "table_problem": guard.problem,
    }


def slots(
    config: Config, said: Mta | None, engine: Engine, to_wall: Callable[[float], float]
) -> list[dict[str, Any]]:
    """The pools of slots, and where each comes from; said: by the mail server; to_wall: an instant
    of the engine's as the wall clock tells it."""
    told, capacity = list[dict[str, Any]](), engine.capacity
    for given in assembly.slots(config, said):
        pools = capacity.pools([given.pool])
        for pool in pools:
            ports = sorted(pool.ports or config.protect.ports)
            source = given.source
            for lesson in capacity.lessons:
                if lesson.port in ports and (len(pools) == 1 or pool.ports):
                    source = learned(given, pool, lesson, to_wall(lesson.at))
            if source == given.source and pool.slots != given.pool.slots:
                source = f"as many were served at once; {given.source}"
            told.append({"ports": ports, "slots": pool.slots, "source": source})
    return told


def learned(given: Slots, pool: Pool, lesson: Lesson, at: float) -> str:
    """What a lesson says of a pool of slots; at: its instant by the wall clock."""
    when = datetime.fromtimestamp(int(at), UTC).isoformat().replace("+00:00", "Z")
    full = f"full at {lesson.slots} on {when}"
    if given.pool.known is Known.ASSUMED:
        return f"learned: {full}"
    if lesson.slots >= given.pool.slots * NEAR:
        return given.source
    if pool.slots < given.pool.slots:
        return f"learned: {full}, though {given.pool.slots} by {given.source}"
    return f"{given.source}, but the server was {full}"
