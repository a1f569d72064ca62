"""What systemd is told: sd_notify(3), without its library."""

import os
import socket
import time
from contextlib import suppress

PATIENCE = 0.1  # seconds, in which the daemon does nothing else


def notify(*lines: str) -> None:
    """Tell the service manager, if there is one and it listens; lines such as "READY=1"."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
        name = "\0" + address[1:] if address.startswith("@") else address
        sock.settimeout(PATIENCE)
        with suppress(OSError):  # nobody is there any more, or reads: no reason to stop working
            sock.sendto("\n".join(lines).encode(), name)


def reloading() -> tuple[str, str]:
    """The lines that a reload begins with (Type=notify-reload wants the time)."""
    return "RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}"


def watchdog_interval() -> float | None:
    """Seconds between two WATCHDOG=1, half of what systemd allows; None: it doesn't watch."""
    microseconds = os.environ.get("WATCHDOG_USEC", "")
    mine = os.environ.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
    return int(microseconds) / 2e6 if mine and microseconds.isdigit() else None
