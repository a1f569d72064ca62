"""Operators who type fast: dpsd commands, each in a process of its own that has no imports to wait
for.

    python -m tests.soak.operators --config FILE      (in the mail host's namespace)

A line on standard input is a command's words; the answer is a line of JSON with its exit code and
what it said on standard error.
"""

import importlib
import json
import os
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from random import Random
from typing import Any

from tests.lab.net import Namespace


def main() -> None:
    """Do what is asked for until there is nobody who asks."""
    from dpsd.cli import main as dpsd  # noqa: PLC0415 - only the process itself needs it

    importlib.import_module("dpsd.store.store")  # what every command needs
    config = sys.argv[2]
    for line in sys.stdin:
        with tempfile.TemporaryFile() as said:
            child = os.fork()
            if not child:
                os.dup2(os.open("/dev/null", os.O_RDWR), 0)
                os.dup2(said.fileno(), 1)
                os.dup2(said.fileno(), 2)
                sys.argv = ["dpsd", "--config", config, *line.split()]
                code: Any = 70
                try:
                    dpsd()
                except SystemExit as end:
                    code = end.code
                finally:
                    sys.stdout.flush()
                    sys.stderr.flush()
                    os._exit(code if isinstance(code, int) else 0)
            _, status = os.waitpid(child, 0)
            said.seek(0)
            text = said.read().decode(errors="replace")
        answer = {"code": os.waitstatus_to_exitcode(status), "said": text}
        print(json.dumps(answer), flush=True)


class Operator:
    """Puts his peers on a list and takes them off again, in a thread, until he is told to rest.

    listed: whether each peer is on its list, by the last command that succeeded; None: unknown, as
    after one that failed, or that told of a restart which would undo it. done: commands that
    succeeded.
    """

    def __init__(self, space: Namespace, config: Path, peers: dict[str, str], seed: str) -> None:
        """peers: to each what puts it on a list, such as "block --for 1h"."""
        self.listed: dict[str, bool | None] = dict.fromkeys(peers, False)
        self.done = self.failed = self.loose = 0
        self._peers = peers
        self._chance = Random(seed)
        self._process = subprocess.Popen(
            space.command(sys.executable, "-m", "tests.soak.operators", "--config", str(config)),
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2],
        )  # fmt: skip
        self._working, self._resting, self._over = threading.Event(), threading.Event(), False
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def go_on(self) -> None:
        """Type."""
        self._resting.clear()
        self._working.set()

    def rest(self) -> None:
        """Type no more; returns when the last command is over."""
        self._working.clear()
        assert self._resting.wait(60), "a command doesn't end"

    def close(self) -> None:
        """Go home."""
        self._over = True
        self._working.set()
        self._thread.join(60)
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(60)
        self._process.stdout.close()

    def name(self, peer: str) -> str:
        """The list that a peer is put on."""
        words = self._peers[peer]
        if words.startswith("allow"):
            return "white"
        return "black" if "--permanent" in words else "block"

    def _work(self) -> None:
        while not self._over:
            if not self._working.is_set():
                self._resting.set()
                self._working.wait()
                continue
            peer = self._chance.choice([*self._peers])
            off = bool(self.listed[peer])
            verb, *how = self._peers[peer].split()
            back = {"allow": "disallow", "block": "unblock"}[verb]
            self._do(f"{back} {peer}" if off else f"{verb} {peer} {' '.join(how)}", peer, not off)

    def _do(self, line: str, peer: str, listed: bool) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{line}\n")
        self._process.stdin.flush()
        answer = json.loads(self._process.stdout.readline())
        if answer["code"]:
            self.failed += 1
            self.listed[peer] = None
        elif "a restart undoes it" in answer["said"]:
            self.loose += 1
            self.listed[peer] = None
        else:
            self.done += 1
            self.listed[peer] = listed


if __name__ == "__main__":
    main()
