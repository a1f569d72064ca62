"""What Postfix's own postconf(1) says: its services' limits, and the networks that it trusts.

Text in, values out; it is run in dpsd/mta/asking.py.
"""

import re
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from ipaddress import ip_address

from dpsd.core.peers import SHORTEST, Network, parse_network
from dpsd.core.policy import Known, Pool
from dpsd.mta.slots import Slots, assumed

PortOf = Callable[[str], int | None]

_ATTRIBUTE = re.compile(r"(\S+)/(inet|pass)/(\w+) = (.*)")
_BEHIND = re.compile(r"(?<!\S)smtpd_service_name ?= ?(\S+)")  # among the -o of a postscreen
_PROXY = re.compile(r"(?m)^(smtpd|postscreen)_upstream_proxy_protocol = *(\S*)")
_PROXY_HERE = re.compile(r"(?<!\S)(smtpd|postscreen)_upstream_proxy_protocol ?= ?(\S*)")
_MAPPED = 96  # bits before an IPv4 address in IPv6


@dataclass(frozen=True, slots=True)
class Service:
    """A line of master.cf: "25" or "smtp" or "127.0.0.1:10025", inet or pass, maxproc, command."""

    name: str
    kind: str
    limit: str
    command: str

    @property
    def title(self) -> str:
        """As postconf names it."""
        return f"{self.name}/{self.kind}"


@dataclass(frozen=True, slots=True)
class Main:
    """Parameters of main.cf, expanded, as texts."""

    default_process_limit: str
    smtpd_service_name: str
    mynetworks: str


@dataclass(frozen=True, slots=True)
class Networks:
    """What mynetworks holds. left_out: what of it isn't taken, each with the reason."""

    trusted: tuple[Network, ...] = ()
    left_out: tuple[str, ...] = ()


def services(text: str) -> list[Service]:
    """The services for TCP in the output of `postconf -F`, and those behind a postscreen."""
    found: dict[tuple[str, str], dict[str, str]] = defaultdict(dict)
    for line in text.splitlines():
        if match := _ATTRIBUTE.fullmatch(line):
            name, kind, attribute, value = match.groups()
            found[name, kind][attribute] = value
    return [
        Service(name, kind, each.get("process_limit", "-"), each.get("command", ""))
        for (name, kind), each in found.items()
    ]


def slots(
    listed: Iterable[Service], main: Main, ports: Iterable[int], port_of: PortOf
) -> tuple[Slots, ...]:
    """A pool for each service that these ports lead to; those without any share an assumed one.

    Of several services on one port, each on another address, the one with the fewest slots counts.
    """
    known = {(each.name, each.kind): each for each in listed}
    found: dict[int, Slots] = {}
    for service in known.values():
        port = _port(service, port_of)
        if port is not None and port in ports:
            made = _slots(service, main, known, port)
            if port not in found or made.pool.slots < found[port].pool.slots:
                found[port] = made
    pools: dict[tuple[str, int, Known], set[int]] = defaultdict(set)
    for port, each in found.items():
        pools[each.source, each.pool.slots, each.pool.known].add(port)
    result = [Slots(Pool(frozenset(p), n, how), source) for (source, n, how), p in pools.items()]
    if rest := set(ports) - found.keys():
        result.append(assumed("no service of Postfix listens there", rest))
    return tuple(sorted(result, key=lambda each: min(each.pool.ports)))


def proxied(
    listed: Iterable[Service], text: str, ports: Iterable[int], port_of: PortOf
) -> frozenset[int]:
    """The ports whose service expects the PROXY protocol: by its own options, or by main.cf (text:
    the output of `postconf -n`)."""
    everywhere = {m[1] for m in _PROXY.finditer(text) if m[2]}
    wanted, found = frozenset(ports), set[int]()
    for service in listed:
        program = "postscreen" if service.command.split()[:1] == ["postscreen"] else "smtpd"
        here = {m[1]: m[2] for m in _PROXY_HERE.finditer(service.command)}
        port = _port(service, port_of)
        if port is not None and port in wanted and here.get(program, program in everywhere):
            found.add(port)
    return frozenset(found)


def networks(text: str) -> Networks:
    """The plain networks of mynetworks; tables, files, exclusions and the absurd are left out."""
    entries = text.replace(",", " ").split()
    excluded: list[Network] = []
    for entry in entries:
        if entry.startswith("!"):
            try:
                excluded.append(_network(entry[1:]))
            except ValueError:
                continue
    trusted: dict[Network, None] = {}
    left_out: list[str] = []
    for entry in entries:
        if entry.startswith("!"):
            left_out.append(f"{entry} (an exclusion)")
        elif entry.startswith("/") or re.match(r"[A-Za-z]+:", entry):
            left_out.append(f"{entry} (a file or table)")
        else:
            try:
                trusted[_trusted(entry, excluded)] = None
            except ValueError as reason:
                left_out.append(str(reason))
    return Networks(tuple(trusted), tuple(left_out))


def _port(service: Service, port_of: PortOf) -> int | None:
    """The TCP port of an inet service, unless it is for this host's own programs only."""
    host, _, name = service.name.rpartition(":")
    if service.kind != "inet" or _is_loopback(host.strip("[]")):
        return None
    return int(name) if name.isdecimal() else port_of(name)


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _slots(service: Service, main: Main, known: dict[tuple[str, str], Service], port: int) -> Slots:
    """The slots of an inet service: its own, or those of the smtpd that its postscreen feeds."""
    title = service.title
    if service.command.split()[:1] == ["postscreen"]:
        option = _BEHIND.search(service.command)
        name = option[1] if option else main.smtpd_service_name
        behind = known.get((name, "pass"))
        if behind is None:
            return assumed(f"{title} is a postscreen without a {name}/pass", [port])
        service, title = behind, f"{behind.title} behind postscreen"
    limit, where = service.limit, "process limit in master.cf"
    if limit == "-":
        limit, where = main.default_process_limit, "default_process_limit"
    if not limit.isdecimal():
        return assumed(f"Postfix's {where} of {title} is {limit!r}", [port])
    if not int(limit):
        return assumed(f"Postfix sets no limit on {title}", [port])
    pool = Pool(frozenset([port]), int(limit), Known.ASKED)
    return Slots(pool, f"Postfix, {title}, {where}")


def _trusted(entry: str, excluded: Iterable[Network]) -> Network:
    network = _network(entry)
    if network.prefixlen < SHORTEST[network.version]:
        raise ValueError(f"{entry} (wider than /{SHORTEST[network.version]})")
    for hole in excluded:
        if network.version == hole.version and network.overlaps(hole):
            raise ValueError(f"{entry} ({hole} is excluded from it)")
    return network


def _network(entry: str) -> Network:
    """192.0.2.0/24, [2001:db8::]/32, or [::ffff:192.0.2.0]/120, which is IPv4."""
    address, slash, length = entry.replace("[", "").replace("]", "").partition("/")
    if "." in address and ":" in address and length.isdecimal() and int(length) >= _MAPPED:
        length = str(int(length) - _MAPPED)
    try:
        return parse_network(f"{address}{slash}{length}")
    except ValueError as reason:
        raise ValueError(f"{entry} ({reason})") from None
