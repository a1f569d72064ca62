"""Asks the mail server that is installed on this host; runs its own commands, changes nothing.

Takes milliseconds, or up to TIMEOUT for each command when something is wrong with the host, so it
isn't done in the event loop.
"""

import os
import re
import shutil
import socket
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from dpsd.core.policy import Known, Pool
from dpsd.errors import Unavailable
from dpsd.mta import postfix
from dpsd.mta.postfix import Networks
from dpsd.mta.slots import Slots, assumed

TIMEOUT = 10.0  # seconds for one command
SENDMAIL_CF = Path("/etc/mail/sendmail.cf")
# What Exim said to the package's unit dpsd-exim, which may read Exim's configuration.
EXIM_SAID = Path("/run/dpsd-exim.said")

_PLACES = "/usr/local/sbin:/usr/sbin:/sbin"  # beside PATH
# A host may have no /etc/services.
_PORTS = {"smtp": 25, "smtps": 465, "submissions": 465, "submission": 587}


@dataclass(frozen=True, slots=True)
class Mta:
    """What the mail server says.

    networks: those that it trusts to relay, None if that isn't known; problem: why it couldn't be
    asked, "" if it could or there is none; proxied: ports on which it expects the PROXY protocol,
    so that only a load balancer connects.
    """

    slots: tuple[Slots, ...]
    networks: Networks | None = field(default_factory=Networks)
    problem: str = ""
    proxied: frozenset[int] = frozenset()


def ask(ports: Sequence[int], directory: str) -> Mta:
    """Ask the mail server of this host about these ports. It raises nothing: see Mta.problem.

    directory: Postfix's configuration, "" to leave Postfix alone.
    """
    try:
        if directory and (program := _found("postconf")) and Path(directory, "main.cf").exists():
            return _postfix(program, ports, directory)
        for reader in (_exim, _sendmail):
            if (limit := reader()) is not None:
                return Mta((limit,))
    except Unavailable as problem:
        return Mta((assumed("the mail server could not be asked"),), None, str(problem))
    return Mta((assumed("no mail server that could be asked is found"),))


def _postfix(program: str, ports: Sequence[int], directory: str) -> Mta:
    """By postconf, which knows defaults and how values are expanded."""
    asked = ("default_process_limit", "smtpd_service_name", "mynetworks")
    values = _output(program, "-c", directory, "-hx", *asked).split("\n")
    if len(values) < len(asked):
        raise Unavailable(f"{program} -c {directory} -hx: {len(values)} lines are too few")
    main = postfix.Main(*map(str.strip, values[: len(asked)]))
    services = postfix.services(_output(program, "-c", directory, "-F"))
    set_there = _output(program, "-c", directory, "-n")
    return Mta(
        postfix.slots(services, main, ports, port_of),
        postfix.networks(main.mynetworks),
        proxied=postfix.proxied(services, set_there, ports, port_of),
    )


def _exim() -> Slots | None:
    """Exim has one number for all ports.

    It is setuid root, but the unit's daemon gains nothing by that (NoNewPrivileges), and Debian's
    configuration is of mode 0640. So what Exim said to another unit counts as well.
    """
    program = _found("exim4") or _found("exim")
    if program is None:
        return None
    try:
        text = _output(program, "-bP", "smtp_accept_max")
    except Unavailable:
        text = _said_before()
        if "smtp_accept_max" not in text:
            raise
    said = re.search(r"^smtp_accept_max = (\d+)$", text, re.M)
    return _shared("Exim, smtp_accept_max", said)


def _said_before() -> str:
    try:
        return EXIM_SAID.read_text(errors="replace")
    except OSError:  # there is no such unit: nobody is told anything by that
        return ""


def _sendmail() -> Slots | None:
    """Sendmail too; without this option it has no limit."""
    try:
        text = SENDMAIL_CF.read_text(errors="replace")
    except FileNotFoundError:
        return None
    except OSError as problem:
        raise Unavailable(f"{SENDMAIL_CF}: {problem.strerror}") from None
    return _shared(
        "Sendmail, MaxDaemonChildren", re.search(r"^O MaxDaemonChildren=(\d+)", text, re.M)
    )


def _shared(source: str, said: re.Match[str] | None) -> Slots:
    number = int(said[1]) if said else 0
    if not number:
        return assumed(f"{source} is no limit")
    return Slots(Pool(frozenset(), number, Known.ASKED), source)


def port_of(name: str) -> int | None:
    """The TCP port of a service's name, as the host calls it."""
    try:
        return socket.getservbyname(name, "tcp")
    except OSError:
        return _PORTS.get(name)


def _found(program: str) -> str | None:
    return shutil.which(program, path=f"{os.environ.get('PATH', os.defpath)}:{_PLACES}")


def _output(*command: str) -> str:
    """What a command prints. Unavailable if it fails, or takes too long."""
    words = " ".join(command)
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=TIMEOUT,
            check=False,
            env=os.environ | {"LC_ALL": "C"},
        )
    except subprocess.TimeoutExpired:
        raise Unavailable(f"{words}: no answer within {TIMEOUT:g} s") from None
    except OSError as problem:
        raise Unavailable(f"{words}: {problem.strerror}") from None
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        raise Unavailable(f"{words}: {last}")
    return done.stdout
