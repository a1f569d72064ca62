"""Telling what is done, and stopping at the first thing that isn't so."""

import contextlib
import sys
import time
from collections.abc import Iterator

from tests.package.guest import Guest, GuestError


def expect(so: object, what: str) -> None:
    """GuestError unless it is so."""
    if not so:
        raise GuestError(f"not so: {what}")


@contextlib.contextmanager
def step(guest: Guest, what: str) -> Iterator[None]:
    """One thing that is shown; when it fails, the guest's journal is told."""
    began = time.monotonic()
    try:
        yield
    except BaseException:
        sys.stdout.write(f"FAILED  {what}\n")
        with contextlib.suppress(Exception):
            sys.stdout.write(guest.out("journalctl --no-pager -n 80 -o short-precise"))
        raise
    sys.stdout.write(f"ok      {what} ({time.monotonic() - began:.1f} s)\n")
    sys.stdout.flush()
