"""Honest senders without an end, until they are told to stop.

python -m tests.soak.senders --records FILE --every 0.2        (in the world's namespace)
"""

import argparse
import asyncio
import itertools
import time
from pathlib import Path

from tests.lab import smtp
from tests.lab.limits import many_files
from tests.lab.net import HONEST4, HONEST6, MAIL4, MAIL6, source4, source6
from tests.lab.records import Records

PATIENCE = 8.0  # seconds for a mail; then its sender gives up
PEERS = 400
FIRST = 5_000


def source(number: int) -> str:
    """Where the mail of this number comes from: one in four by IPv6."""
    index = FIRST + number % PEERS
    return source6(HONEST6, index) if number % 4 == 3 else source4(HONEST4, index)


async def send(number: int, records: Records) -> None:
    """One mail, and what became of it."""
    peer, due, error = source(number), time.time(), ""
    try:
        async with asyncio.timeout(PATIENCE):
            session = await smtp.Session.open(str(MAIL6 if ":" in peer else MAIL4), 25, peer)
            try:
                await session.hello()
                await session.mail("user@example.test", 2_000)
                await session.quit()
            except BaseException:
                session.abort()
                raise
    except (OSError, smtp.SmtpError, TimeoutError) as problem:
        error = str(problem) or type(problem).__name__
    seconds = round(time.time() - due, 3)
    records.write(time=due, source=peer, delivered=not error, seconds=seconds, error=error)


async def run(every: float, path: Path) -> None:
    """A mail every so many seconds."""
    sending = set[asyncio.Task[None]]()
    with Records(path) as records:
        for number in itertools.count():
            task = asyncio.create_task(send(number, records))
            sending.add(task)
            task.add_done_callback(sending.discard)
            await asyncio.sleep(every)  # until the next mail is due


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--records", type=Path, required=True)
    parser.add_argument("--every", type=float, default=0.2)
    given = parser.parse_args()
    many_files()
    asyncio.run(run(given.every, given.records))


if __name__ == "__main__":
    main()
