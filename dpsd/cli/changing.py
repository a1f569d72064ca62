"""A change of the lists on its two ways: into the store, and if that takes long, to the daemon.

The store is the truth, and all of a change's checks and words come from there. What it doesn't do
in a moment (no room left, locked, slow, damaged) the running daemon does at once.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from threading import Thread
from typing import Any

from dpsd import control
from dpsd.cli import output
from dpsd.cli.arguments import network_of
from dpsd.cli.editing import PATIENCE, Done, Editor, blocked, check_own, until, wait_until_applied
from dpsd.config import Config
from dpsd.core.lists import OPERATOR
from dpsd.core.peers import Network
from dpsd.errors import NotPermitted, NotSo, StoreError, Unavailable
from dpsd.store import Store, path_of

AT_ONCE = 0.5  # seconds after which the daemon is asked
FULLY = 2 * PATIENCE  # seconds for the store, then its result isn't waited for any more


@dataclass(frozen=True, slots=True)
class Wish:
    """What is to become of peers. seconds: how long; None: as configured, or else for good."""

    command: str
    seconds: float | None = None
    configured: bool = False  # without seconds a block lasts policy.block_for
    reason: str = ""
    source: str = OPERATOR
    only: str | None = None  # unblock what this source blocked, nothing else

    def lasts(self, config: Config) -> float | None:
        """Seconds; None: for good."""
        return config.policy.block_for if self.configured and self.seconds is None else self.seconds

    def make(self, editor: Editor, peer: Network) -> Done:
        """Make it so in the store. Raises NotSo, BadArgument."""
        match self.command:
            case "block":
                return editor.block(peer, self.lasts(editor.config), self.reason)
            case "allow":
                return editor.allow(peer, self.lasts(editor.config), self.reason)
            case "unblock":
                return editor.unblock(peer, self.only)
        return editor.disallow(peer)


class _InStore(Thread):
    """The store's part. It ends by itself at the latest when the process does."""

    def __init__(self, config: Config, source: str, work: Callable[[Editor], list[Done]]) -> None:
        super().__init__(daemon=True)
        self.done: list[Done] = []  # as soon as it is committed
        self.applied: str | None = None  # what to add to the message, once the daemon has it
        self.problem: BaseException | None = None
        self._config, self._source, self._work = config, source, work

    def run(self) -> None:
        try:
            with Store.open(self._config.store.url) as store:
                with store.editing():
                    done = self._work(Editor(store, self._config, time.time(), self._source))
                self.done = done
                number = max((d.revision for d in done if d.revision is not None), default=None)
                self.applied = "" if number is None else wait_until_applied(store, number)
        except BaseException as problem:  # noqa: BLE001 - raised by who waits
            self.problem = problem


def change(config: Config, named: Sequence[str], wish: Wish) -> None:
    """Change what the lists say about peers, and tell it. NotSo: of some it can't be so."""
    size = config.peers.size
    peers = list(dict.fromkeys(network_of(each, size) for each in named))
    problems: dict[Network, NotSo] = {}

    def work(editor: Editor) -> list[Done]:
        done = []
        for peer in peers:
            try:
                done.append(wish.make(editor, peer))
            except NotSo as problem:
                problems[peer] = problem
        return done

    store = _InStore(config, wish.source, work)
    store.start()
    store.join(AT_ONCE)
    if store.is_alive() or _stands_in_the_way(store.problem):
        if wish.command == "block":
            for peer in peers:
                check_own(config, peer)
        if (told := _ask(config, wish, peers)) is not None:
            store.join(AT_ONCE if told["stored"] else FULLY)
            if store.is_alive() or store.problem is not None:
                _tell_both(config, wish, peers, store, told)
                return
        store.join()
    _tell(store)
    if problems and wish.command in ("unblock", "disallow"):
        _take_off_unstored(config, wish, problems, store)
    if problems:
        raise NotSo("\n".join(map(str, problems.values())))


def _take_off_unstored(
    config: Config, wish: Wish, problems: dict[Network, NotSo], store: _InStore
) -> None:
    """Let the daemon take off peers that only it knows to be listed, as it couldn't store it yet;
    what it did is told, and isn't among the problems any more."""
    peers = [*problems]
    told = _ask(config, wish, peers)
    for peer, result in zip(peers, [] if told is None else told["results"], strict=False):
        if not result["code"]:
            name = config.peers.size.text(peer)
            kept = "" if told is None or told["stored"] else _not_kept(store, "see its log")
            output.say(f"{_message(wish, name, '')}{kept}")
            del problems[peer]


def lift(config: Config, source: str, only: str | None, since: float | None) -> None:
    """Take everybody off the block and black lists whom a source blocked (None: any) since an
    instant (None: whenever), and tell it."""
    store = _InStore(config, source, lambda editor: [editor.unblock_all(only, since)])
    store.start()
    store.join()
    if _stands_in_the_way(store.problem) and not store.done:
        with Store.open(config.store.url) as reading:
            peers = [entry.peer for entry in blocked(reading, time.time(), only, since)]
        wish = Wish("unblock", source=source, only=only)
        if peers and (told := _ask(config, wish, peers)) is not None:
            _tell_both(config, wish, peers, store, told)
            return
    _tell(store)


def _stands_in_the_way(problem: BaseException | None) -> bool:
    return isinstance(problem, StoreError | NotPermitted | Unavailable)


def _tell(store: _InStore) -> None:
    for done in store.done:
        for warning in done.warnings:
            output.warn(warning)
    if store.problem is not None:
        raise store.problem
    for done in store.done:
        output.say(done.message + (store.applied or "" if done.revision is not None else ""))


def _ask(config: Config, wish: Wish, peers: Sequence[Network]) -> dict[str, Any] | None:
    """What the daemon did; None: no daemon does it."""
    edits = [
        {
            "command": wish.command,
            "peer": str(peer),
            "seconds": wish.lasts(config),
            "reason": wish.reason,
            "source": wish.source,
            "only": wish.only,
        }
        for peer in peers
    ]
    whole: dict[str, Any] = {"results": [], "stored": True, "mode": ""}
    for start in range(0, len(edits), control.MOST):
        request = {"store": str(path_of(config.store.url)), "edits": edits[start:][: control.MOST]}
        told = control.ask(request)
        if told is None or len(told["results"]) != len(request["edits"]):
            return None
        whole["results"] += told["results"]
        whole["stored"] = whole["stored"] and told.get("stored")
        whole["mode"] = told.get("mode", "")
    return whole


def _tell_both(
    config: Config, wish: Wish, peers: Sequence[Network], store: _InStore, told: dict[str, Any]
) -> None:
    """Tell what the daemon did, and whether it is in the store as well."""
    kept = "" if told["stored"] or store.done else _not_kept(store)
    now, refused = time.time(), []
    for peer, result in zip(peers, told["results"], strict=True):
        name = config.peers.size.text(peer)
        if result["code"] and not store.done:
            refused.append(f"{name}: {result['message'] or _nothing(wish.command)}")
        else:
            said = _message(wish, name, until(result.get("until"), now))
            observes = "; dpsd only observes, nothing is enforced" * (told["mode"] == "observe")
            output.say(f"{said}{kept}{observes}")
    if refused:
        raise NotSo("\n".join(refused))


def _not_kept(store: _InStore, failing: str = "the store takes too long") -> str:
    why = failing if store.problem is None else str(store.problem)
    return f"; by the daemon alone, which stores it later: till then a restart undoes it ({why})"


def _nothing(command: str) -> str:
    return {
        "unblock": "not on the black or block list, or not by this source",
        "disallow": "not on the white list, or white by the configuration, the host or Postfix",
    }.get(command, "somebody else's block stays as it is")


def _message(wish: Wish, name: str, lasting: str) -> str:
    match wish.command:
        case "block":
            return f"{name} is on the {'block' if 'until' in lasting else 'black'} list {lasting}"
        case "allow":
            return f"{name} is on the white list {lasting}"
        case "unblock":
            return f"{name} is off the block and black lists"
    return f"{name} is off the white list"
