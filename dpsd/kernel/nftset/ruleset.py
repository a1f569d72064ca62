"""The ruleset of etc/dpsd.nft with a configuration's values, and what is to be in its sets."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from ipaddress import IPv4Network, IPv6Network, collapse_addresses
from math import inf
from types import MappingProxyType
from typing import Literal

from dpsd.core.cover import disjoint
from dpsd.core.lists import Element, ListName
from dpsd.core.peers import Network, PeerSize
from dpsd.errors import KernelError
from dpsd.paths import shipped

# What a set holds: networks, and the instants (seconds since the epoch) when they leave it.
Elements = dict[Network, float | None]
Sets = dict[str, Elements]

HOSTS = tuple(f"{name}{version}" for name in ListName for version in (4, 6))
NETS = tuple(f"{name}_nets" for name in HOSTS)
DEFERRED = {4: "defer4", 6: "defer6"}  # by IP version

# Seconds for which the kernel's conntrack remembers a session in each state, by nft's names.
DEFAULT_TIMEOUTS: Mapping[str, int] = MappingProxyType({
    "syn_sent": 20,
    "syn_recv": 30,
    "established": 3600,
    "fin_wait": 90,
    "close_wait": 90,
    "last_ack": 30,
    "time_wait": 30,
    "close": 10,
})  # fmt: skip


@dataclass(frozen=True)
class TableSpec:
    """What the ruleset varies in.

    ports: protected TCP ports, at least one. addresses: protected servers behind this gateway;
    empty means this host's own addresses. observe: count what would be refused, refuse nothing.
    all_ports: refuse a listed peer everything, not the protected ports only. timeouts: conntrack
    times by nft's state names in whole seconds; a state not given keeps its default.
    """

    ports: tuple[int, ...]
    addresses: tuple[Network, ...] = ()
    size: PeerSize = field(default_factory=PeerSize)
    observe: bool = False
    all_ports: bool = False
    timeouts: Mapping[str, int] = field(default_factory=lambda: DEFAULT_TIMEOUTS)

    def host_set(self, name: ListName, version: Literal[4, 6]) -> str:
        """The hash set of a list's peers of an IP version."""
        return f"{name}{version}"

    def set_of(self, element: Element) -> str:
        """The set that an element belongs to: whole peers in hash sets, others in *_nets."""
        name, network = element
        host = self.host_set(name, network.version)
        return host if self.size.is_whole(network) else f"{host}_nets"


def render(spec: TableSpec) -> str:
    """The commands that replace the whole table by an empty one for this configuration.

    Raises KernelError when etc/dpsd.nft isn't the one that came with this version.
    """
    text = _shipped_ruleset()
    for name, value in _defines(spec).items():
        text = _replace(text, rf"(?m)^(define {name} += )(\S+|\{{.*?\}})(?= *(#|$))", value, 1)
    return _replace(text, r"(policy = )(\{.*?\})(?=;)", _policy(spec.timeouts), 2)


def part(spec: TableSpec, blocks: Iterable[str]) -> str:
    """The commands that add these blocks of the table, such as "set block4" or "chain times"."""
    text = render(spec)
    defines = re.findall(r"(?m)^define .*$", text)
    found = (re.search(rf"(?ms)^\t{block} \{{.*?\}}$", text) for block in blocks)
    inside = [match[0] for match in found if match]
    return redefining("\n".join((*defines, "table inet dpsd {", *inside, "}")))


def redefining(text: str) -> str:
    """The same commands for a libnftables context that may have run them before."""
    return re.sub(r"(?m)^define ", "redefine ", text)


@cache
def _shipped_ruleset() -> str:
    return shipped("etc/dpsd.nft").read_text(encoding="ascii")


def _replace(text: str, pattern: str, value: str, times: int) -> str:
    text, count = re.subn(pattern, lambda match: match[1] + value, text)
    if count != times:
        raise KernelError(
            f"{shipped('etc/dpsd.nft')}: {pattern} matches {count} times instead of {times};"
            " this isn't the ruleset that came with dpsd: reinstall it"
        )
    return text


def _defines(spec: TableSpec) -> dict[str, str]:
    v4 = [network for network in spec.addresses if isinstance(network, IPv4Network)]
    v6 = [network for network in spec.addresses if isinstance(network, IPv6Network)]
    return {
        "ports": _braced(sorted(set(spec.ports))),
        "peer4": str(IPv4Network((0, spec.size.ipv4)).netmask),
        "peer6": str(IPv6Network((0, spec.size.ipv6)).netmask),
        "traffic": "all_ports" if spec.all_ports else "protected_ports",
        "servers": "other_hosts" if spec.addresses else "this_host",
        "addresses4": _braced(collapse_addresses(v4)) if v4 else "{ 0.0.0.0 }",
        "addresses6": _braced(collapse_addresses(v6)) if v6 else "{ :: }",
        "listed": "observe" if spec.observe else "refuse",
        "deferred": "observe_deferred" if spec.observe else "defer",
    }


def _policy(timeouts: Mapping[str, int]) -> str:
    times = {**DEFAULT_TIMEOUTS, **timeouts}
    times["unack"] = times["retrans"] = times["established"]
    return _braced(f"{state} : {seconds}" for state, seconds in times.items())


def _braced(values: Iterable[object]) -> str:
    return f"{{ {', '.join(map(str, values))} }}"


@cache
def _sizes() -> Mapping[str, int]:
    found = re.findall(r"set (\w+) \{[^}]*size (\d+)", _shipped_ruleset())
    return MappingProxyType({name: int(size) for name, size in found})


# How many elements each set may hold.
SIZES = _sizes()
# How many networks that are: the kernel may count a prefix as two elements.
ROOM = {name: size // 2 if name in NETS else size for name, size in SIZES.items()}
NEARLY = 0.9  # of its room that a set takes is told


def wanted(spec: TableSpec, elements: Mapping[Element, float | None], now: float) -> Sets:
    """What the kernel has to hold, by set: hosts as they are, prefixes as their disjoint cover.

    Elements whose time is over (expiry at or before `now`) are left out; and of more than there is
    room for, those that last shortest: the kernel would refuse all of them.
    """
    sets: Sets = {name: {} for name in HOSTS + NETS}
    for element, until in elements.items():
        if until is None or until > now:
            sets[spec.set_of(element)][element[1]] = until
    for name in NETS:
        sets[name] = disjoint(sets[name])
    return {name: lasting(name, holds) for name, holds in sets.items()}


def nearly_full(sets: Sets) -> list[str]:
    """Which of the sets that wanted() told have no room for many more, in words."""
    return [
        f"set {name} holds {len(holds)} networks of the {ROOM[name]} that it has room for"
        for name, holds in sets.items()
        if len(holds) >= NEARLY * ROOM[name]
    ]


def lasting(name: str, holds: Elements) -> Elements:
    """Those that a set has room for, and that last longest."""
    if len(holds) <= ROOM[name]:
        return holds
    order = sorted(holds.items(), key=lambda held: inf if held[1] is None else held[1])
    return dict(order[-ROOM[name] :])
