"""The demo: a real Postfix under attack, without and then with dpsd. `python -m tests.lab.demo`

Needs root and an installed copy of Postfix (`python -m tests.lab.root`). All of it
happens in private namespaces; the picture is the only thing that stays.
"""

import sys
import time
from pathlib import Path

from tests.lab import private
from tests.lab.agents import Attack
from tests.lab.dpsd import DpsdError
from tests.lab.postfix import PostfixError
from tests.lab.result import Result, Sample
from tests.lab.root import RootError
from tests.lab.trial import Trial, run

PICTURE = Path(__file__).parents[2] / "build" / "demo.png"
SLOTS = 100
ATTACK = Attack("hold", sources=40, sessions=10)
_EVERY = 5.0
"""Seconds between two lines of progress when nobody watches on a terminal."""


class Progress:
    """One line that changes on a terminal; a plain line now and then elsewhere."""

    def __init__(self) -> None:
        self._live = sys.stdout.isatty()
        self._next = 0.0

    def __call__(self, sample: Sample, delivered: int, failed: int) -> None:
        phase = "peace " if sample.at < 0 else "attack"
        line = (
            f"  {phase} {sample.at:+5.0f} s   attackers' sessions: {sample.held:3} held,"
            f" {sample.non_regular:3} non-regular   honest mails: {delivered:3} delivered,"
            f" {failed:3} given up"
        )
        now = time.monotonic()
        if self._live:
            print(f"\r\x1b[K{line}", end="", flush=True)
        elif now >= self._next:
            self._next = now + _EVERY
            print(line, flush=True)

    def end(self) -> None:
        if self._live:
            print()


def table(results: list[Result]) -> str:
    """The runs side by side, a line for every measure."""
    rows: list[tuple[str, list[str]]] = [("", [result.label for result in results])]
    rows += [
        ("honest mails delivered", [_of(r.delivered, r.attempted) for r in results]),
        *(
            (f"  {kind}", [_of(*r.by_kind()[kind]) for r in results])
            for kind in results[0].by_kind()
        ),
        ("seconds to recover", [_seconds(r.recovery) for r in results]),
        ("attackers blocked", [_of(len(r.blocked), len(r.attackers)) for r in results]),
        ("  median seconds each", [_seconds(r.median_listing) for r in results]),
        ("honest peers blocked", [str(len(r.wronged)) for r in results]),
    ]
    return "\n".join(
        f"  {name:24}" + "".join(f"{value:>20}" for value in values) for name, values in rows
    )


def _of(part: int, whole: int) -> str:
    return f"{part} of {whole} ({100 * part / whole:3.0f} %)" if whole else "-"


def _seconds(value: float | None) -> str:
    return "never" if value is None else f"{value:.1f}"


def main() -> int:
    private.enter()
    print(
        f"A mail host with real Postfix ({SLOTS} processes) and honest senders, in namespaces of"
        f" its own.\nThe attack: {ATTACK.sources} sources hold {ATTACK.sessions} sessions each"
        " after HELO, and come back when cut.",
        flush=True,
    )
    trials = (
        Trial("without dpsd", (ATTACK,)),
        Trial("with dpsd", (ATTACK,), dpsd={"protect": {"slots": SLOTS}}),
    )
    results = []
    for trial in trials:
        print(f"\n{trial.label}: {trial.peace:g} s of peace, then the attack", flush=True)
        progress = Progress()
        try:
            results.append(run(trial, progress))
        finally:
            progress.end()
    for command, output in results[-1].transcripts.items():
        print(f"\n# {command}\n{output.rstrip()}")
    print(f"\n{table(results)}\n")
    try:
        from tests.lab import figure  # noqa: PLC0415 - the rest of the demo works without matplotlib
    except ImportError as error:
        print(f"no picture: {error}")
        return 0
    attack = f"{ATTACK.sources} sources hold {ATTACK.sources * ATTACK.sessions} sessions"
    figure.draw(results, PICTURE, slots=SLOTS, attack=attack)
    print(f"The picture: {PICTURE}")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (private.NotPrivateError, RootError, PostfixError, DpsdError) as problem:
        sys.exit(f"demo: {problem}")
    except KeyboardInterrupt:
        print("\ninterrupted: nothing is left behind", file=sys.stderr)
        sys.exit(130)
