"""kill -9 at random moments, also while dpsd starts, while operators and verdicts change the lists.

Every command that succeeded before is in force and in the store after the restart; nobody who was
taken off comes back; and whom the score had listed in the kernel stays listed.
"""

import os
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from random import Random

from tests.daemon.live import eventually
from tests.lab.dpsd import DpsdError
from tests.lab.net import Net
from tests.soak.field import SETTLED, Field
from tests.soak.operators import Operator

WORLDS = 4  # at once: most of a kill's time is waiting
OPERATORS = 3
IN_STARTING = 0.25  # share of the kills that hit while it starts
LIVES = 1.0  # seconds from its start, or from when it is ready, to a kill, at most


def peers_of(number: int) -> dict[str, str]:
    """Whom an operator puts on which list."""
    return {
        **{f"10.96.{number}.{n}": "block --for 1h" for n in range(1, 5)},
        **{f"10.96.{number}.{n}": "block --permanent" for n in range(5, 7)},
        f"10.96.{number}.7": "allow",
        f"10.96.{number}.8": "allow --for 1h",
        f"10.95.{number}.0/24": "block --for 1h",
        f"2001:db8:b1{number:02x}:1::1": "block --for 1h",
        f"2001:db8:b2{number:02x}::/48": "block --permanent",
    }


@contextmanager
def operators(field: Field, seed: int) -> Iterator[list[Operator]]:
    """They are at home, and rest."""
    with ExitStack() as stack:
        found = []
        for number in range(OPERATORS):
            config = field.daemon.config
            one = Operator(field.net.mail, config, peers_of(number), f"{seed}/{number}")
            stack.callback(one.close)
            found.append(one)
        yield found


def run(directory: Path, seed: int, kills: int, worlds: int = WORLDS) -> list[str]:
    """Kill it so often, in several worlds at once; what was lost, and what came back."""
    directory.mkdir()
    shares = [kills // worlds + (number < kills % worlds) for number in range(worlds)]
    with ThreadPoolExecutor(worlds) as pool:
        works = [
            pool.submit(_world, directory / str(number), number, seed + number, share)
            for number, share in enumerate(shares)
        ]
    return [each for work in works for each in work.result()]


def _world(directory: Path, number: int, seed: int, kills: int) -> list[str]:
    directory.mkdir()
    wrong, chance = list[str](), Random(seed)
    with Net(f"k{number}-") as net, Field(net, directory, attackers=10) as field:
        field.check()
        with operators(field, seed) as typing:
            for kill in range(1, kills + 1):
                moment, starting = chance.uniform(0.0, LIVES), chance.random() < IN_STARTING
                told = once(field, typing, moment, starting)
                wrong += [f"kill {kill} of seed {seed}, {each}" for each in told]
                if kill % 10 == 0 or told or kill == kills:
                    done = f"kills: {kill} of seed {seed}, {_done(typing)}"
                    print(f"{done}; {len(wrong)} wrong", flush=True)
        field.check()
    return wrong


def once(field: Field, typing: list[Operator], moment: float, starting: bool) -> list[str]:
    """One kill, one start, and what isn't as it should be then."""
    daemon = field.daemon
    for each in typing:
        each.go_on()
    if starting and daemon.running:
        daemon.kill()
    if starting:
        _killed_while_it_starts(field, moment)
    else:
        time.sleep(moment)  # the moment is what is tried
        daemon.kill()
    for each in typing:
        each.rest()
    before = listed_by_score(field, typing)
    daemon.start()
    field.expected |= {
        peer: one.name(peer) if listed else None
        for one in typing
        for peer, listed in one.listed.items()
        if listed is not None
    }
    for one in typing:
        for peer, listed in one.listed.items():
            if listed is None:
                field.expected.pop(peer, None)
    if not eventually(lambda: not field.differences(settled=0.0), 10):
        return [f"{moment:.3f} s: {each}" for each in field.differences(settled=0.0)]
    after = listed_by_score(field, typing)
    now = time.monotonic()
    return [
        f"{moment:.3f} s: {peer} was lost from {name}"
        for (name, peer), until in before.items()
        if until > now + SETTLED and (name, peer) not in after
    ]


def _done(typing: list[Operator]) -> str:
    """What operators did so far, in words."""
    done, failed, loose = (sum(getattr(o, w) for o in typing) for w in ("done", "failed", "loose"))
    return f"{done} commands done, {failed} failed, {loose} told that a restart undoes them"


def _killed_while_it_starts(field: Field, moment: float) -> None:
    """Start it, and kill it so many seconds later."""

    def kill() -> None:
        assert eventually(lambda: field.daemon.running)
        time.sleep(moment)  # the moment is what is tried
        os.kill(field.daemon.pid, signal.SIGKILL)

    killing = threading.Thread(target=kill)
    killing.start()
    try:
        field.daemon.start()
    except DpsdError as ended:
        if "ended with -9" not in str(ended):
            raise
    finally:
        killing.join()
    if field.daemon.running:
        field.daemon.kill()


def listed_by_score(field: Field, typing: list[Operator]) -> dict[tuple[str, str], float]:
    """Whom the kernel blocks that no operator said, until which instant of the steady clock."""
    theirs = {*field.expected, *(peer for each in typing for peer in each.listed)}
    now = time.monotonic()
    return {
        (name, peer): now + (left if left is not None else 1e9)
        for name in ("black", "block")
        for peer, left in field.elements(name).items()
        if peer.removesuffix("/32") not in theirs and peer.startswith("10.99.")
    }
