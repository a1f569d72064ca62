"""The daemon: one asyncio loop that owns the state, and what it is wired to.

daemon.py      wiring, signals, what recurs
schedule.py    what recurs, and what goes on beside
scheduler.py   APScheduler, and no more than that
bailiff.py     carries out verdicts and changes of the lists
clock.py       the engine's time and the wall clock's
keeper.py      the store, in the one thread that uses it
memory.py      scores, to the store and back
adoption.py    what only the kernel knows after a crash
guard.py       the nftables table: verdicts in, foreign changes repaired
listener.py    conntrack's events and dumps into the engine
accounting.py  conntrack's byte counters, whoever switches them off
leaks.py       when the server's own leaks are worth a warning
mailserver.py  what the mail server said last
status.py      how things stand
metrics.py     the status for Prometheus
endpoint.py    the web server that it is asked of
systemd.py     sd_notify
"""

from dpsd.daemon.daemon import run

__all__ = ["run"]
