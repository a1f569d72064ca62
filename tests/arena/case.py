"""A case: who attacks what, and how it is played."""

import time
from collections import Counter
from dataclasses import dataclass, replace
from random import Random

from dpsd.config import Config
from tests.arena.attackers import Attack, places
from tests.arena.honest import Senders
from tests.arena.result import Outcome, listed, outcome
from tests.day.session import SYNS, SYNS_LINEAR, Session
from tests.day.world import Weather, World

# Times as long as usual a server with a slow disk takes to answer; and seconds for a whole mail.
SLOW, SLOW_MAIL = 10.0, 1.5
MOVES = 1.0  # seconds since its last words in which a mail moves
IDLE = 2.0  # seconds since the last words on either side after which a session is idle


@dataclass(frozen=True)
class Case:
    """Times in seconds.

    slots: of the server; told: whether protect.slots tells them, else nobody does; greets: seconds
    before its greeting, 0 for usual; filter: seconds that a content filter takes for each mail;
    slow: whether the disk is slow; sockets, counts: whether the server's sockets are on this host,
    and the kernel counts bytes; rtt: of honest senders, a name of honest.RTTS; load: how much of
    the usual honest mail comes; linear: whether everybody's system sends a SYN again every second
    at first, as Linux does from 6.5 on; peace: before the attack.
    """

    name: str
    attacks: tuple[Attack, ...] = ()
    slots: int = 100
    told: bool = True
    greets: float = 0.0
    filter: float = 0.0
    slow: bool = False
    sockets: bool = True
    counts: bool = True
    rtt: str = "mixed"
    linear: bool = False
    load: float = 1.0
    peace: float = 10.0
    seconds: float = 60.0


class Arena(World):
    """A world that counts honest sessions which are ended, and in which state."""

    def __init__(self, seed: int, case: Case) -> None:
        config, slots = Config(), case.slots if case.told else None
        config = replace(config, protect=replace(config.protect, slots=slots))
        super().__init__(seed, config, case.counts, sockets=case.sockets)
        self.server.slots = case.slots
        self.server.backlog = max(self.server.backlog, case.slots)
        self.syns = SYNS_LINEAR if case.linear else SYNS
        self.ends_of: Counter[tuple[str, str]] = Counter()

    def ending(self, session: Session) -> None:
        """Count it."""
        doing = session.mail_is or ("queued" if session.waits else "talks")
        if session.peer.kind == "attack":
            doing = ""
        elif doing == "begun":
            doing = "moving" if self.now - session.row.spoke < MOVES else "paused"
        elif doing == "talks" and self.now - session.row.spoke > IDLE:
            doing = "idle"
        self.ends_of[session.peer.kind, doing] += 1


def play(case: Case, seed: int) -> Outcome:
    """Play a case once."""
    began = time.process_time()
    world = Arena(seed, case)
    pace = SLOW if case.slow else 1.0
    world.server.weather = Weather("slow disk" if case.slow else "calm", pace=pace)
    if case.greets:
        world.server.weather = replace(world.server.weather, greets=case.greets)
    if case.filter:
        world.server.weather = replace(world.server.weather, milter=case.filter)
    scale = {20: 0.2, 1000: 3.0}.get(case.slots, 1.0) * case.load
    senders = Senders(world, case.rtt, case.filter + SLOW_MAIL * case.slow)
    senders.plan(Random(f"{seed}/honest"), case.peace, case.seconds, scale)
    attacked: dict[bytes, float] = {}
    for number, attack in enumerate(case.attacks):
        chance = Random(f"{seed}/{number}")
        for place, after in places(world, attack, number, chance, attacked):
            world.start(place, max(0.0, case.peace + after))
    world.run(case.peace + case.seconds + senders.patience)
    seen = world.seen
    return outcome(
        case.name,
        seed,
        case.seconds,
        senders.mails,
        len(attacked),
        listed(attacked, seen.listings, case.peace),
        seen.listings,
        world.ends_of,
        seen.refused,
        time.process_time() - began,
    )
