"""The status: how things stand, as `dpsd status --json` and the metrics tell it."""

from collections import Counter
from typing import Any

from dpsd import assembly
from dpsd.config import Config
from dpsd.core.engine import Engine
from dpsd.core.lists import ListName
from dpsd.daemon.endings import Endings
from dpsd.daemon.guard import Guard
from dpsd.daemon.listener import Listener
from dpsd.mta import Mta


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
            "half_open": engine.sessions.half_open,
            "by_state": engine.sessions.by_state(),
            "sockets": sockets,
            "unseen": len(engine.witness),
            "never_had": engine.witness.never_had,
        },
        "peers": len(engine.scores),
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


def slots(config: Config, said: Mta | None) -> list[dict[str, Any]]:
    """The pools of slots, and where each comes from; said: by the mail server."""
    return [
        {
            "ports": sorted(each.pool.ports or config.protect.ports),
            "slots": each.pool.slots,
            "source": each.source,
        }
        for each in assembly.slots(config, said)
    ]
