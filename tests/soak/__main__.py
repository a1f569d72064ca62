"""`make soak`: python -m tests.soak [faults] [kills] [datagrams] [day]

Half an hour for all of it at most, in a private world. Each part tells its seed, what it did and
what went wrong; the exit code is 1 if anything did.
"""

import argparse
import random
import sys
import time
from collections.abc import Callable

from tests.lab import private


def main() -> None:
    """Run the parts that are asked for, one after the other."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak")
    parser.add_argument("parts", nargs="*", help="faults, kills, datagrams, day; none: all")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 32))
    parser.add_argument("--only", default="*", help="faults: of these names, as a shell's pattern")
    parser.add_argument("--seconds", type=float, default=4.0, help="faults: for how long each")
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--millions", type=float, default=100.0, help="datagrams")
    parser.add_argument("--speed", type=float, default=240.0, help="day: how many times as fast")
    parser.add_argument("--hours", type=float, default=24.0, help="day: how many of them")
    given = parser.parse_args()
    private.enter()
    from tests.soak import datagrams, day, faults, kills  # noqa: PLC0415 - in the private world

    parts: dict[str, Callable[[], list[str]]] = {
        "faults": lambda: faults.run(private.RUN / "faults", given.only, given.seconds),
        "kills": lambda: kills.run(private.RUN / "kills", given.seed, given.kills),
        "datagrams": lambda: datagrams.run(given.seed, given.millions),
        "day": lambda: day.run(private.RUN / "day", given.seed, given.speed, given.hours),
    }
    wrong = list[str]()
    for name in given.parts or parts:
        began = time.monotonic()
        print(f"{name}: seed {given.seed}", flush=True)
        found = parts[name]()
        wrong += [f"{name}: {each}" for each in found]
        print(f"{name}: {len(found)} wrong, {time.monotonic() - began:.0f} s", flush=True)
    for each in wrong:
        print(f"WRONG: {each}")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
