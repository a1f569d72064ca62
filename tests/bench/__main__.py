"""`make bench`: a table of what dpsd costs and how fast it is, side by side with other programs.

All of it happens in private namespaces, with a load of real packets (see gateway.py, traffic.py).
Needs root; takes seven to eight minutes.
"""

import sys
from collections.abc import Iterator
from statistics import median

from tests.bench import bounds, cost, decoding, reaction, size
from tests.bench.gateway import Gateway
from tests.bench.measure import Row, line, machine, percentile99, spread
from tests.bench.traffic import Generator
from tests.lab import private

RATE = 5000.0
ROUNDS = 5
PEAK_ROUNDS = 3
SAMPLES = 100
ENTRIES = 100_000
ROUTES, ADOPTED = 200_000, 250_000


def costs(gateway: Gateway) -> Iterator[Row]:
    """The load in turn on the daemon and on conntrack -E, at a rate and as fast as can be."""
    at_rest = cost.idle(gateway)
    with Generator(peers=4096, ports=8) as load:
        load.run(5.0, 0)  # each connection is in the table once, so each session begins with an end
        ours, theirs = [], []
        for _ in range(ROUNDS):
            ours.append(cost.of_dpsd(gateway, load, 4.0, RATE, at_rest))
            theirs.append(cost.of_conntrack(gateway, load, 4.0, RATE))
        peaks, their_peaks = [], []
        for _ in range(PEAK_ROUNDS):
            peaks.append(cost.of_dpsd(gateway, load, 5.0, 0, at_rest))
            their_peaks.append(cost.of_conntrack(gateway, load, 5.0, 0))
    messages = decoding.recorded(gateway, 2000)
    pairs = [
        (decoding.by_dpsd(messages), decoding.by_pyroute2(messages[:3000])) for _ in range(ROUNDS)
    ]
    pyroute2 = median(theirs for _, theirs in pairs)

    rate = median(each.rate for each in ours)
    yield f"CPU of a session, at {rate:.0f} sessions a second", "", ""
    yield "  dpsd, all of it", spread([each.session for each in ours], ".1f") + " us", ""
    yield "  conntrack -E", spread([each.session for each in theirs], ".1f") + " us", ""
    ratios = [a.session / b.session for a, b in zip(ours, theirs, strict=True)]
    yield "  dpsd / conntrack -E", spread(ratios, ".2f"), "0.5 or less"
    yield "CPU of an event", "", ""
    yield "  dpsd, all of it", spread([each.event for each in ours], ".2f") + " us", ""
    yield "  conntrack -E", spread([each.event for each in theirs], ".2f") + " us", ""
    yield "  dpsd, decoding", spread([ours for ours, _ in pairs], ".2f") + " us", ""
    yield "  pyroute2, decoding", spread([theirs for _, theirs in pairs], ".1f") + " us", ""
    decodings = [theirs / ours for ours, theirs in pairs]
    yield "  pyroute2 / dpsd, decoding", spread(decodings, ".0f"), "40 or more"
    yield (
        "  pyroute2's decoding / all of dpsd",
        spread([pyroute2 / each.event for each in ours], ".0f"),
        "40 or more",
    )
    yield "As many sessions as the load can make", "", ""
    for name, rounds in (("dpsd", peaks), ("conntrack -E", their_peaks)):
        yield f"  {name}: sessions a second", spread([each.rate for each in rounds], ".0f"), ""
        yield (
            f"  {name}: CPU of a session",
            spread([each.session for each in rounds], ".1f") + " us",
            "",
        )
        lost = max(rounds, key=lambda each: each.lost)
        yield (
            f"  {name}: events lost, worst round",
            (f"{lost.lost} ({100 * lost.share_lost:.1f} %)"),
            "none" if name == "dpsd" else "",
        )
    both = [a.session / b.session for a, b in zip(peaks, their_peaks, strict=True)]
    yield "  dpsd / conntrack -E", spread(both, ".2f"), "0.5 or less"
    more = [pyroute2 / each.event for each in peaks]
    yield "  pyroute2's decoding / all of dpsd", spread(more, ".0f"), "40 or more"


def reactions(gateway: Gateway) -> Iterator[Row]:
    """How fast a block is in the kernel, at rest and under the load."""
    with Generator(peers=65536, ports=1) as load, gateway.dpsd("react", **reaction.POLICY):
        rest = reaction.samples(gateway, SAMPLES, 0)
        load.start(3.0, RATE)
        loaded = reaction.samples(gateway, SAMPLES // 2, 1000)
        _, rate = load.finish()
        load.start(8.0, 0)
        full = reaction.samples(gateway, SAMPLES, 2000)
        _, most = load.finish()
    yield "From the packet that earns a block to the element in the kernel", "", ""
    for name, found, aims in (
        ("at rest", rest, ("under 5 ms", "under 50 ms")),
        (f"at {rate:.0f} sessions a second", loaded, ("", "")),
        (f"at {most:.0f} sessions a second", full, ("under 5 ms", "under 50 ms")),
    ):
        yield f"  {name}: median", f"{1000 * median(found):.1f} ms", aims[0]
        yield f"  {name}: 99th percentile", f"{1000 * percentile99(found):.1f} ms", aims[1]


def peers(gateway: Gateway) -> Iterator[Row]:
    """What many peers take."""
    many = (0, 10_000, 100_000)
    yield "Memory, each peer with an open session", "", ""
    for number, found in zip(many, size.memory(gateway, many), strict=True):
        yield f"  {number:,} peers", f"{found:.0f} MiB", ""


def lists(gateway: Gateway) -> Iterator[Row]:
    """What long lists take."""
    for entries in (0, ENTRIES):
        took = size.lists(gateway, entries, 3)
        yield f"With {entries:,} entries on the lists", "", ""
        yield "  memory", f"{took['memory']:.0f} MiB", ""
        yield "  first start until ready", f"{took['start']:.2f} s", ""
        yield "  every other start until ready", f"{took['start again']:.2f} s", ""
        for command in ("list", "list --json", "block"):
            name = f"{command} PEER" if command == "block" else command
            yield f"  dpsd {name}", f"{took[command]:.2f} s", ""


def starts(gateway: Gateway) -> Iterator[Row]:
    """What it takes at rest, and how soon it is ready where there is very much already."""
    share, memory = cost.rest(gateway, 60.0)
    yield "At rest: three ports of this host, nobody connects", "", ""
    yield "  CPU", f"{100 * share:.2f} % of a processor", "0.3 % or less"
    yield "  memory", f"{memory:.0f} MiB", "under 60 MiB"
    yield "Ready", "", ""
    yield f"  with {ROUTES:,} routes", f"{size.routes(gateway, ROUTES):.2f} s", "under 2 s"
    ready, known = size.adoption(gateway, ADOPTED)
    yield f"  with {ADOPTED:,} peers to adopt", f"{ready:.2f} s", "under 5 s"
    yield "  and all of them known", f"{known:.1f} s", ""


def main() -> int:
    private.enter()
    print(f"{machine()}\nMedians; in brackets the least and the most of the rounds.\n", flush=True)
    print(line(("", "measured", "aim")))
    for row in bounds.rows():
        print(line(row), flush=True)
    for part in (starts, costs, reactions, peers, lists):
        with Gateway() as gateway:
            for row in part(gateway):
                print(line(row), flush=True)
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except private.NotPrivateError as problem:
        sys.exit(f"bench: {problem}")
    except KeyboardInterrupt:
        print("\ninterrupted: nothing is left behind", file=sys.stderr)
        sys.exit(130)
