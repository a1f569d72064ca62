"""The command `dpsd`.

app.py       the commands and their arguments
editing.py   block, unblock, allow, disallow: one transaction each, and waiting for the daemon
why.py       what is known of a peer
telling.py   what `why` tells of it
comparing.py what two policies make of a capture
status.py    what `status` and `check` tell
output.py    tables, JSON, times and messages
own.py       this host's own addresses
manual.py    the manual page dpsd(8), from the help
"""

from dpsd.cli.app import main

__all__ = ["main"]
