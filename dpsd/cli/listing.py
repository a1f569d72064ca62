"""What `dpsd list` shows of the lists, and `dpsd replay` of what they would have been."""

import gc
import time
from collections.abc import Sequence
from typing import Any

from dpsd.cli import output
from dpsd.cli.comparing import comparison
from dpsd.cli.why import entry_json
from dpsd.config import Config
from dpsd.core.lists import ListName
from dpsd.core.story import short
from dpsd.store import Store

Json = dict[str, Any]


def show(config: Config, name: ListName | None, as_json: bool) -> None:
    """Show one list, or all of them (None)."""
    gc.disable()  # of 100,000 entries none is garbage, and looking took a third of the time
    with Store.open(config.store.url) as store:
        entries = store.entries(time.time(), name)
    size = config.peers.size
    shown = [entry_json(entry, size) for entry in entries]
    if as_json:
        output.write_json_lines(shown)
    elif shown:
        rows = [
            [
                *(each["list"], each["peer"], each["expires_at"] or "never", each["source"]),
                short(each["reason"]),
            ]
            for each in shown
        ]
        output.write_table(["LIST", "PEER", "EXPIRES", "BY", "REASON"], rows)
    else:
        output.say(f"nobody is on {f'the {name} list' if name else 'any list'}")


def show_replayed(verdicts: Sequence[Json], as_json: bool) -> None:
    """Show who would have been listed."""
    if as_json:
        output.write_json_lines(verdicts)
    elif verdicts:
        rows = [["" if cell is None else str(cell) for cell in each.values()] for each in verdicts]
        output.write_table([key.upper() for key in verdicts[0]], rows)
    else:
        output.say("nobody would have been listed")


def show_compared(compared: Json, policy: str, against: str, as_json: bool) -> None:
    """Show how two configurations differ in whom they list; they go by their files' names."""
    if as_json:
        output.write_json(compared)
        return
    for line in comparison(compared, policy, against):
        output.write(line)
