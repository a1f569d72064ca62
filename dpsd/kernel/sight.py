"""What keeps dpsd from seeing sessions, or from ending them: for `dpsd check`. Changes nothing."""

import re
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path

from dpsd.errors import DpsdError
from dpsd.kernel import sockdiag, witness
from dpsd.kernel.nftset import Library
from dpsd.kernel.sockdiag import wire

DEVICES = Path("/sys/class/net")
SAMPLE = 2_000  # sockets whose entries are asked for
FEW = 3  # sessions without an entry that may just have begun or ended

_OWN = re.compile(r"table \S+ dpsd")
_TABLE = re.compile(r"table (\S+ \S+) \{")
_NOTRACK = re.compile(r"\bnotrack\b")
_PORTS = re.compile(r"\b[ds]port (\{[^}]*\}|\S+)")
_OTHERS = re.compile(r"\b(udp|icmp|icmpv6|sctp|dccp|gre|esp|ah)\b|\b[io]if(name)? \"?lo\b")


def untracked(ports: Collection[int]) -> list[str]:
    """The rules by which conntrack may not see sessions to these ports, each with its table.

    Raises DpsdError if the ruleset can't be read.
    """
    library = Library()
    try:
        code, told, error = library.cmd("list ruleset", terse=True)
    finally:
        library.close()
    if code:
        raise DpsdError(error.strip().splitlines()[0])
    return list(notrack_rules(told, ports))


def notrack_rules(ruleset: str, ports: Collection[int]) -> Iterator[str]:
    """Those rules in nft's text; dpsd's own, other protocols', other ports' and lo's left out."""
    table = ""
    for line in ruleset.splitlines():
        if match := _TABLE.match(line):
            table = "" if _OWN.match(line) else match[1]
        elif table and _NOTRACK.search(line) and _concerns(line, ports):
            yield f"{line.strip()} (table {table})"


def _concerns(rule: str, ports: Collection[int]) -> bool:
    if _OTHERS.search(rule) and not re.search(r"\btcp\b", rule):
        return False
    matched = _PORTS.findall(rule)
    return not matched or any(_holds(text, port) for text in matched for port in ports)


def _holds(text: str, port: int) -> bool:
    """Whether "25", "!= 25", "{ 25, 80-90 }" or "@a_set" may hold a port."""
    if not re.fullmatch(r"[{}\d\s,-]+", text):
        return True  # a name, a set or a negation: it may
    for part in re.findall(r"\d+(?:-\d+)?", text):
        first, _, last = part.partition("-")
        if int(first) <= port <= int(last or first):
            return True
    return False


def unseen(ports: Collection[int]) -> tuple[int, int]:
    """How many sessions to these ports have a socket here, of some SAMPLE; and how many of those
    conntrack doesn't know. Raises DpsdError."""
    sockets = [
        key
        for key, state in sockdiag.held(ports).items()
        if state in (wire.ESTABLISHED, wire.CLOSE_WAIT)
    ][:SAMPLE]
    return len(sockets), len(witness.without_entry(sockets, ports)) if sockets else 0


def vrfs(devices: Path = DEVICES) -> list[str]:
    """The interfaces that are VRFs."""
    return sorted(each.parent.name for each in _uevents(devices) if _is_vrf(each))


def _uevents(devices: Path) -> Iterable[Path]:
    return devices.glob("*/uevent")


def _is_vrf(uevent: Path) -> bool:
    try:
        return "DEVTYPE=vrf" in uevent.read_text().split()
    except OSError:  # it went just now
        return False
