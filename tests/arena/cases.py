"""The cases that a change of the engine is tried with. Others are kept back: see kept.py."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from tests.arena.attackers import Attack
from tests.arena.case import Case

LAB = 5.0  # seconds that the lab's attackers wait for a greeting; honest senders outlast them
BOUGHT = 60.0  # seconds for which credit is bought before


def attack(kind: str, size: str = "40x10", **more: Any) -> Attack:
    """An attack by so many sources with so many sessions each: "40x10"."""
    sources, sessions = map(int, size.split("x"))
    return replace(Attack(kind, sources, sessions), **more)


def _one(kind: str, size: str = "40x10", note: str = "", **more: Any) -> Case:
    made = attack(kind, size, **more)
    pays = f" {made.rate:.0f} B/s" if kind in ("trickle", "louder") else ""
    return Case(" ".join(filter(None, (kind + pays, size, note))), (made,))


def _lab() -> Iterator[Case]:
    """The attacks of the lab."""
    for size in ("40x10", "150x1", "400x1", "1x50", "8x50"):
        yield _one("hold", size)
    yield _one("hold", "400x1", "impatient", waits=LAB)
    yield _one("silent")
    yield _one("noop")
    yield _one("noop", "600x1")
    yield _one("drip")
    yield _one("drip", "600x1")
    yield _one("slowdata")
    yield _one("slowdata", "150x1")
    yield _one("stall")
    yield _one("stall", "150x1")
    yield _one("stall", "150x1", "impatient", waits=LAB)
    yield _one("shut")
    yield _one("linger")
    yield _one("churn", "8x10", rate=500.0)
    yield _one("reset", "8x10", rate=500.0)
    yield _one("hold", "40x10", "rotating", rotate=16)
    yield _one("hold", "1x200", "within /56", within=56)
    yield _one("hold", "40x10", "46", family="46")
    yield _one("hold", "400x1", "at once", pause=0.0)
    yield _one("hold", "150x1", "after 5 s", pause=5.0)


def _payers() -> Iterator[Case]:
    """Those who pay for their slots, or seem to."""
    for rate in (30.0, 100.0, 400.0, 2000.0, 8000.0):
        yield _one("trickle", rate=rate)
    yield _one("trickle", "150x1", rate=100.0)
    yield _one("trickle", "150x1", rate=400.0)
    yield _one("trickle", "400x1", rate=2000.0)
    yield _one("trickle", "150x1", "impatient", rate=100.0, waits=LAB)
    yield _one("trickle", "1x50", rate=2000.0)
    yield _one("trickle", "40x10", "at once", rate=100.0, pause=0.0)
    yield _one("trickle", "150x1", "after 5 s", rate=100.0, pause=5.0)
    yield _one("trickle", "40x10", "6", rate=100.0, family="6")
    yield _one("rcpt")
    yield _one("rcpt", "40x10", "long", words=72)
    yield _one("rcpt", "150x1", "long", words=72)
    yield _one("slowdns")
    yield _one("deaf")
    yield _one("hold", "40x10", "late acknowledgements", rtt=1.5)
    yield _one("hold", "150x1", "late acknowledgements", rtt=1.5)
    yield _one("no_window")
    yield _one("no_window", "20x6")
    yield _one("no_window", "1x200")
    yield _one("far", rtt=1.0)
    yield _one("far", "100x1", rtt=2.0)
    yield _one("mailhold")
    yield _one("mailhold", "40x10", "impatient", waits=LAB)
    yield _one("mailhold", "400x1")
    yield _one("slowmails")
    yield _one("slowmails", "150x1")
    yield _one("helobyte")
    yield _one("half_hello", port=465)
    yield _one("silent", "40x10", "465", port=465)
    yield _one("silent", "200x1", "465", port=465)
    yield _one("quit")
    yield _one("louder", rate=50.0)
    yield _one("louder", "150x1", rate=50.0)
    yield _one("shifter", rate=100.0)
    yield _one("mover", rotate=16)
    for what in ("noops", "mails"):
        buys = attack(f"buys_{what}", "40x2", block=70, after=-BOUGHT, until=0.0)
        attacks = (buys, attack("hold", block=70))
        yield Case(f"bought by {what}, hold 40x10", attacks, peace=BOUGHT + 2.0)
    yield Case(
        "mix: hold, trickle 100 B/s, mailhold",
        (
            attack("hold", "15x10"),
            attack("trickle", "15x10", rate=100.0),
            attack("mailhold", "10x10"),
        ),
    )
    yield Case(
        "mix: noop, rcpt, stall",
        (attack("noop", "15x10"), attack("rcpt", "15x10", words=72), attack("stall", "100x1")),
    )


def _servers() -> Iterator[Case]:
    """Other servers, and other places of dpsd."""
    hold, trickle = _one("hold"), _one("trickle", rate=100.0)
    stall, mailhold = _one("stall"), _one("mailhold")
    yield Case("peace")
    for slots, load in ((20, 1.0), (1000, 1.0)):
        yield Case(f"{slots:,} slots: peace", slots=slots, load=load)
    for case in (_one("hold", "150x1"), trickle, stall, _one("rcpt", "10x5", words=72)):
        yield replace(case, name=f"20 slots: {case.name}", slots=20)
    for case in (
        _one("hold", "100x20"),
        _one("trickle", "1500x1", rate=100.0),
        _one("mailhold", "40x50"),
    ):
        yield replace(case, name=f"1,000 slots: {case.name}", slots=1000)
    for seconds, load in ((2.0, 1.0), (8.0, 0.4), (30.0, 0.12)):
        for case in (Case("peace"), hold, trickle, stall, mailhold):
            name = f"filter {seconds:.0f} s: {case.name}"
            yield replace(case, name=name, filter=seconds, load=load)
    overload = Case("filter 8 s: honest overload", filter=8.0, load=1.2)
    yield overload
    yield replace(overload, name=f"{overload.name}, {hold.name}", attacks=hold.attacks)
    for case in (Case("peace"), hold, trickle):
        yield replace(case, name=f"slow disk: {case.name}", slow=True)
    for case in (hold, trickle, stall, mailhold):
        yield replace(case, name=f"20 slots, slow disk: {case.name}", slow=True, slots=20, load=0.5)
    for case in (hold, trickle, stall):
        yield replace(case, name=f"no sockets: {case.name}", sockets=False)
    for case in (hold, trickle):
        yield replace(case, name=f"no counters: {case.name}", counts=False)
    for case in (hold, trickle, stall):
        yield replace(case, name=f"rtt 200 ms: {case.name}", rtt="far")
    yield replace(trickle, name=f"lan: {trickle.name}", rtt="lan")


def _as_in_the_lab() -> Iterator[Case]:
    """What the lab measured on a real kernel (docs/evaluation.md): how far is this from it?

    There a fifth of the mail goes past the slots that are attacked: what port 587 takes and what
    the server itself sends. Here all of it needs them.
    """
    lab: dict[str, Any] = {"waits": LAB, "rtt": 0.0005}
    for case in (
        _one("hold", **lab),
        _one("stall", family="46", **lab),
        _one("noop", "600x1", family="46", **lab),
        _one("drip", "600x1", family="46", **lab),
        _one("hold", "40x10", "rotating", rotate=200, **lab),
        _one("trickle", rate=100.0, **lab),
        _one("trickle", "150x1", rate=100.0, **lab),
        _one("mailhold", **lab),
        _one("rcpt", "40x10", "long", words=72, **lab),
        _one("helobyte", **lab),
        _one("silent", "40x10", "465", port=465, **lab),
    ):
        yield replace(case, name=f"lab: {case.name}", rtt="lan", linear=True, seconds=30.0)


CASES = (*_lab(), *_payers(), *_servers(), *_as_in_the_lab())
