"""Days of honest traffic: who would be listed?

python -m tests.day --hours 24 --seeds 10 [--no-counts]
"""

import argparse
import time
from collections import Counter
from statistics import median

from tests.day import attackers
from tests.day.day import day
from tests.day.world import World


def told(world: World) -> str:
    """What a day was like."""
    seen = world.seen
    peers = sum(map(len, seen.peers.values()))
    sessions = ", ".join(f"{kind} {n}" for kind, n in seen.sessions.most_common())
    pressure = ", ".join(
        f"{weather} {median(each):.2f} ({max(each):.2f})"
        for weather, each in seen.pressures.items()
    )
    return (
        f"{peers} peers, {seen.sessions.total()} sessions ({sessions}), {seen.events} events;"
        f" pressure, median and most: {pressure}; stressed {seen.stressed:.0f} s;"
        f" {seen.ungreeted} ungreeted at most; ended {dict(seen.ended)}"
    )


def main() -> None:
    """See above."""
    parser = argparse.ArgumentParser(prog="python -m tests.day")
    parser.add_argument("--hours", type=float, default=1.0)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--first", type=int, default=1, help="the first seed")
    parser.add_argument("--no-counts", action="store_true", help="conntrack counts no bytes")
    parser.add_argument("--attack", choices=("sieges", "stalls", "swarms"), help="now and then")
    parser.add_argument("--no-sockets", action="store_true", help="the server is elsewhere")
    given = parser.parse_args()
    listed: Counter[str] = Counter()
    for seed in range(given.first, given.first + given.seeds):
        began = time.process_time()
        more = (getattr(attackers, given.attack),) if given.attack else ()
        world = day(seed, given.hours, not given.no_counts, not given.no_sockets, more=more)
        print(f"seed {seed}, {time.process_time() - began:.1f} s: {told(world)}")
        for listing in world.seen.listings:
            if listing.kinds == ["siege"]:
                continue
            print(f"  {listing}")
            listed["+".join(listing.kinds)] += 1
    print(f"{listed.total()} listed: {dict(listed)}")


if __name__ == "__main__":
    main()
