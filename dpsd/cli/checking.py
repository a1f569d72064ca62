"""What `dpsd check` tells: configuration, store, kernel and mail server. Nothing is changed."""

import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from dpsd import assembly
from dpsd.cli import output
from dpsd.cli.status import UNSEEN, Json, latest_node, slots_line
from dpsd.config import Config
from dpsd.core.story import told_by_sockets
from dpsd.errors import DpsdError, NotPermitted, Unavailable
from dpsd.kernel.ending.outcome import WORDS
from dpsd.store import Store

if TYPE_CHECKING:
    from dpsd.kernel.abilities import Problem

LEARNED = " full at "  # in the words for slots that were learned
_CODES = {"warning": 0, "forbidden": NotPermitted.exit_code}  # else 69


def check(config: Config, problems: Callable[[Config], Iterable["Problem"]]) -> int:
    """Tell what stands in the way of this configuration; the exit code.

    problems: what the kernel lacks; KernelError and NotPermitted if it can't even be asked.
    """
    codes = [0]
    if (error := store_problem(config)) is not None:
        output.write(f"error: {error}")
        codes.append(error.exit_code)
    for problem in problems(config):
        output.write(f"{problem.severity}: {problem.text}")
        if problem.mend:
            output.write(f"  {problem.mend}")
        codes.append(_CODES.get(problem.severity, Unavailable.exit_code))
    told = {} if error else _told(config)
    for warning in (*_mail_server(config, told), *_daemon(told)):
        output.write(f"warning: {warning}")
        codes.append(0)
    if len(codes) == 1:
        output.say("all is well")
    return max(codes)


def _mail_server(config: Config, told: Json) -> Iterator[str]:
    """Tell the slots; warnings about them, and what the mail server's settings keep dpsd from.

    told: what a running daemon says.
    """
    mta, daemons = assembly.ask(config), list(map(slots_line, told.get("slots", [])))
    if mta.problem:
        yield f"the mail server can't be asked: {mta.problem}"
    if mta.proxied:
        ports = ", ".join(map(str, sorted(mta.proxied)))
        yield (
            f"port {ports}: Postfix expects the PROXY protocol (upstream_proxy_protocol), so all"
            " sessions come from a load balancer: nobody is listed there, those of no use are"
            " ended one by one; run dpsd on the load balancer's host as well"
        )
    if config.protect.slots is not None:
        return
    here = [each.words(config.protect.ports) for each in assembly.slots(config, mta)]
    for each in daemons or here:
        output.say(f"slots: {each}")
    learned = any(LEARNED in each for each in daemons)
    if daemons and daemons != here and not (mta.problem or learned):
        yield (
            f"the running daemon goes by these slots, but asked from here: {'; '.join(here)};"
            " systemctl reload dpsd, and if that doesn't help, set protect.slots"
        )


def _daemon(told: Json) -> Iterator[str]:
    """What the running daemon, if there is one, can't see or end."""
    sessions = told.get("sessions", {})
    if told.get("blind"):
        yield "events are missing, so nobody is judged at the moment"
    if (unseen := sessions.get("unseen", 0)) > UNSEEN:
        yield told_by_sockets(sessions["sockets"], unseen)
    for why, number in told.get("not_ended_why", {}).items():
        yield f"sessions were not ended, {number} times: {WORDS.get(why, why)}"
    for each in told.get("pressing", ()):
        yield f"{each['peer']} keeps {each['sessions']} sessions: {each['why']}"
    for each in told.get("slots", ()):
        if ", but the server was full at " in each["source"]:
            yield f"slots {each['slots']}: {each['source']}; protect.slots is too high"


def _told(config: Config) -> Json:
    """What the running daemon says of itself; nothing if none runs here."""
    path = _file(config)
    if path.is_symlink() or not path.exists() or not path.stat().st_size:
        return {}
    with Store.open(config.store.url) as store:
        node = latest_node(store) if store.claimed() else None
    return {} if node is None else node.status


def store_problem(config: Config) -> DpsdError | None:
    """Why the store couldn't be used as it is; None when it could. Creates nothing."""
    path = _file(config)
    try:
        if os.path.lexists(path) and (path.is_symlink() or path.stat().st_size):
            with Store.open(config.store.url) as store:
                if store.read_only:
                    return Unavailable(
                        f"store {path}: its file system is read-only: lists can be read, and"
                        " changes reach the running daemon only; mount -o remount,rw"
                    )
        elif not path.parent.is_dir():
            return Unavailable(f"store {path}: its directory doesn't exist; create it")
        elif not os.access(path.parent, os.W_OK | os.X_OK):
            return NotPermitted(f"store {path}: this user can't write to its directory")
    except PermissionError:
        return NotPermitted(f"store {path}: this user can't get at it")
    except DpsdError as error:
        return error
    return None


def _file(config: Config) -> Path:
    return Path(config.store.url.removeprefix("sqlite://"))
