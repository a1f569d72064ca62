"""The table inet dpsd in the kernel: loaded, changed, read back and compared."""

import difflib
import errno
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from ipaddress import IPv4Network, ip_address, ip_network, summarize_address_range
from threading import Lock
from time import monotonic
from typing import Any

from dpsd.core.cover import disjoint
from dpsd.core.lists import Change, Element, ListName, Put
from dpsd.core.peers import Network
from dpsd.errors import DpsdError, KernelError, NotPermitted
from dpsd.kernel.nftset.deferral import Deferral
from dpsd.kernel.nftset.elements import ElementSocket
from dpsd.kernel.nftset.library import Library
from dpsd.kernel.nftset.ruleset import (
    HOSTS,
    NETS,
    Elements,
    Sets,
    TableSpec,
    lasting,
    nearly_full,
    part,
    redefining,
    render,
    wanted,
)
from dpsd.kernel.nftset.wire import Found, Traffic

TABLE = "dpsd"
_COUNTED = tuple(name for name in HOSTS if not name.startswith(ListName.WHITE))

# Instants of expiry that differ by no more than this are the same, in seconds.
TOLERANCE = 2.0
# How often a set is read at most while it grows.
_READINGS = 2


class Table:
    """The table inet dpsd of one configuration. Other tables are never touched.

    Every change is one transaction of the kernel: it takes effect as a whole or not at all. All
    methods may be called from any thread. Changes of hosts take about 0.1 ms and wait for load()
    only; changes of prefixes take about 10 us for each prefix in the sets that they touch.
    """

    def __init__(self, spec: TableSpec) -> None:
        self.spec = spec
        self._nft = Library()
        self._hosts = ElementSocket(TABLE)
        self._dumps = ElementSocket(TABLE)
        # Taken in this order: prefixes and libnftables, hosts, dumps.
        self._nft_lock, self._hosts_lock, self._dumps_lock = Lock(), Lock(), Lock()
        self._nets: Sets = {name: {} for name in NETS}  # as wanted, not yet disjoint
        self._rules: list[str] = []
        self._deferral = Deferral(spec.size, self._hosts)
        # For how many seconds adoptable() found whom put into the kernel.
        self.lasts: dict[Element, float] = {}
        self._late = 0.0  # seconds by which elements may outstay, for load() took its time

    def stop(self) -> None:
        """Read no more: what reads in another thread meanwhile ends with KernelError."""
        self._dumps.stop()

    def close(self) -> None:
        """Close the sockets; the table stays in the kernel as it is."""
        self._nft.close()
        self._hosts.close()
        self._dumps.close()

    def load(self, elements: Mapping[Element, float | None], now: float) -> None:
        """Put the table with these elements in place of what is there, in one transaction.

        elements: the instants (seconds since the epoch) when they expire, None: never. What was
        applied since `elements` was taken is lost. Raises KernelError or NotPermitted; then the
        kernel is as before.
        """
        nets: Sets = {name: {} for name in NETS}
        for element, until in elements.items():
            if not self.spec.size.is_whole(element[1]):
                nets[self.spec.set_of(element)][element[1]] = until
        start = monotonic()
        with self._nft_lock, self._hosts_lock:
            sets = wanted(self.spec, elements, now)
            self._run([_filled(redefining(render(self.spec)), sets, now)])
            self._late = monotonic() - start
            self._nets = nets
            self._rules = self._describe()

    def take_over(self, elements: Mapping[Element, float | None], now: float) -> None:
        """Bring the hosts among these elements into the table that is there, without libnftables.

        Rules and prefixes stay as they are. Raises KernelError or NotPermitted.
        """
        found = self.read(now)
        if found is None:
            raise KernelError("table inet dpsd isn't there, or not all of it")
        sets = wanted(self.spec, elements, now)
        hosts = {name: {**dict.fromkeys(found[name], now), **sets[name]} for name in HOSTS}
        with self._hosts_lock:
            self._hosts.replace(*_keys(hosts, now))

    def apply(self, changes: Sequence[Change], now: float) -> None:
        """Make these changes in one transaction; of several for one element the last counts.

        A Put whose time is over is as good as a Drop. Raises KernelError or NotPermitted; then
        nothing was changed, here or in the kernel.
        """
        sets: Sets = {}  # what is dropped has its time over now
        for change in changes:
            until = change.expires_at if isinstance(change, Put) else now
            sets.setdefault(self.spec.set_of((change.list, change.peer)), {})[change.peer] = until
        hosts = {name: changed for name, changed in sets.items() if name in HOSTS}
        if len(hosts) == len(sets):
            with self._hosts_lock:
                self._hosts.replace(*_keys(hosts, now))
            return
        with self._nft_lock, self._hosts_lock if hosts else nullcontext():
            nets = {
                name: _in_force({**self._nets[name], **changed}, now)
                for name, changed in sets.items()
                if name in NETS
            }
            commands = list(_replacing(hosts, now)) + self._rebuilding(nets, now)
            try:
                self._run(commands)
            except KernelError as error:  # a host may expire between being added and deleted
                if os.strerror(errno.ENOENT) not in str(error):
                    raise
                self._run(commands)
            self._nets.update(nets)

    def _rebuilding(self, nets: Sets, now: float) -> list[str]:
        """Put new sets with these prefixes in place of the old ones, and the rules that use them.

        An interval set in use is never changed, for an element that ends where an expired one did
        loses its end with that one, and then reaches up to the next (Linux 6.18: 10.99.0.0/17
        became 10.99.0.0-255.255.255.255). In the blink in which the kernel commits the new set,
        look-ups may find neither the old elements nor the new ones.
        """
        commands = [f"flush chain inet {TABLE} prerouting"]
        commands += (f"delete set inet {TABLE} {name}" for name in nets)
        blocks = part(self.spec, [*(f"set {name}" for name in nets), "chain prerouting"])
        covers = {name: lasting(name, disjoint(networks)) for name, networks in nets.items()}
        return [*commands, _filled(blocks, covers, now)]

    def defer(self, peers: Mapping[Network, float]) -> int:
        """Let these peers open no new session to the protected ports for so many seconds, from now.

        It is no part of load(), read() and differences(): a table that is loaded again defers
        nobody. Returns how many aren't deferred since there is no room. Raises KernelError or
        NotPermitted, ValueError for what isn't exactly one peer.
        """
        with self._hosts_lock:
            return self._deferral.put(peers)

    def undefer(self, peers: Iterable[Network]) -> None:
        """Let these peers open sessions again. Raises KernelError or NotPermitted."""
        for peer in peers:
            with self._hosts_lock:
                self._deferral.remove(peer)

    def read(self, now: float, lasts: dict[Element, float] | None = None) -> Sets | None:
        """What the kernel's sets hold and until when; None if the table or a set isn't there.

        lasts: takes the seconds for which hosts were put there. Raises KernelError or NotPermitted.
        """
        sets: Sets = {}
        ahead = now - monotonic()
        for name in HOSTS + NETS:
            found = self._found(name)
            if found is None:
                with self._nft_lock:  # a change of prefixes makes the set anew
                    found = self._found(name)
            if found is None:
                return None
            prefix = self.spec.size.prefix(4 if "4" in name else 6)
            pairs = _prefixes(found) if name in NETS else _peers(found, prefix)
            sets[name] = {n: None if until is None else ahead + until for n, until in pairs}
            if lasts is not None and name in HOSTS:
                each = ListName(name[:-1])
                lasts |= {(each, _network(e.key, prefix)): e.lasts for e in found if e.lasts}
        return sets

    def differences(self, elements: Mapping[Element, float | None], now: float) -> list[str]:
        """How the kernel's table differs from load(elements); nothing if it is as it should be.

        Elements about to expire are let be. Raises KernelError or NotPermitted.
        """
        start = monotonic()
        with self._nft_lock:
            rules = self._describe()
        found = self.read(now + monotonic() - start)
        then = now + monotonic() - start
        if not rules or found is None:
            return ["table inet dpsd or one of its sets is missing"]
        marks = {"-": "missing", "+": "foreign"}
        lines = list(difflib.unified_diff(self._rules, rules, n=0, lineterm=""))[2:]  # no header
        differences = [f"{marks[line[0]]}: {line[1:].strip()}" for line in lines if line[0] != "@"]
        for name, holds in wanted(self.spec, elements, now).items():
            differences += _unlike(name, holds, found[name], then, TOLERANCE + self._late)
        return differences

    def leaves_out(
        self, changes: Sequence[Change], elements: Mapping[Element, float | None], now: float
    ) -> bool:
        """Whether load(elements) would put none of these there: they last shortest, and the sets
        are full of others."""
        sets = wanted(self.spec, elements, now)
        names = [self.spec.set_of((change.list, change.peer)) for change in changes]
        return all(
            name in HOSTS and isinstance(change, Put) and change.peer not in sets[name]
            for name, change in zip(names, changes, strict=True)
        )

    def nearly_full(self, elements: Mapping[Element, float | None], now: float) -> list[str]:
        """Which sets have no room for many more than load(elements) puts there, in words."""
        return nearly_full(wanted(self.spec, elements, now))

    def adoptable(
        self,
        known: Mapping[Element, float | None],
        now: float,
        names: Iterable[ListName] = (ListName.BLACK, ListName.BLOCK),
    ) -> dict[Element, float | None]:
        """What a table found in the kernel has on these lists beyond the known elements, and until
        when.

        So a verdict that reached the kernel, and not the store, outlives a crash. Whether
        an operator unblocked it meanwhile is the caller's to know. Raises KernelError or
        NotPermitted.
        """
        self.lasts = {}
        found = self.read(now, self.lasts) or {}
        expected = wanted(self.spec, known, now)
        return {
            (name, network): until
            for name in names
            for version in (4, 6)
            for set_name in (f"{name}{version}", f"{name}{version}_nets")
            for network, until in found.get(set_name, {}).items()
            if network not in expected[set_name] or _later(until, expected[set_name][network])
        }

    def counters(self) -> dict[ListName, dict[Network, int]]:
        """Packets of black and blocked peers since they were put there; prefixes aren't counted.

        Takes about 5 us an element. Raises KernelError or NotPermitted.
        """
        packets: dict[ListName, dict[Network, int]] = {ListName.BLACK: {}, ListName.BLOCK: {}}
        for name in _COUNTED:
            prefix = self.spec.size.prefix(int(name[-1]))
            for element in self._found(name) or []:
                packets[ListName(name[:-1])][_network(element.key, prefix)] = element.packets
        return packets

    def dropped(self) -> Traffic:
        """What listed peers sent in vain since the table was loaded: hosts and prefixes.

        Takes the same short time however many there are. Raises KernelError or NotPermitted.
        """
        with self._dumps_lock:
            return self._dumps.counted("refuse")

    def deferred(self) -> Traffic:
        """The SYNs of deferred peers that were dropped since the table was loaded.

        Raises KernelError or NotPermitted.
        """
        with self._dumps_lock:
            return self._dumps.counted("defer")

    def delete(self) -> None:
        """Take the table out of the kernel. Raises KernelError or NotPermitted."""
        with self._nft_lock, self._hosts_lock:
            self._run([f"add table inet {TABLE}", f"delete table inet {TABLE}"])
            self._nets = {name: {} for name in NETS}

    def _run(self, commands: Iterable[str]) -> None:
        code, _, error = self._nft.cmd("\n".join(commands))
        if code:
            raise _explained(error)

    def _describe(self) -> list[str]:
        """The table as nft lists it, with no element but the servers; empty if it isn't there."""
        # Of what lists rules, only this fetches no elements, which could go on and on while
        # they change.
        ruleset = self._list("ruleset inet", terse=True)
        table = re.search(rf"(?ms)^table inet {TABLE} {{\n(.*?)^}}", ruleset)
        if table is None:
            return []
        servers = (self._list(f"set inet {TABLE} servers{v}", terse=False) for v in (4, 6))
        blocks = sorted(table[1].strip("\n").split("\n\n"))  # rebuilt sets are listed last
        return "\n".join((*blocks, *servers)).splitlines()

    def _list(self, what: str, terse: bool) -> str:
        code, output, error = self._nft.cmd(f"list {what}", terse)
        if code and os.strerror(errno.ENOENT) not in error:
            raise _explained(error)
        return output

    def _found(self, name: str) -> list[Found] | None:
        """A set's elements, read again if it grew meanwhile; None if there is no such set.

        No change waits for that: what goes on changing may be told in part.
        """
        size = 4 if "4" in name else 16
        for _ in range(_READINGS):
            with self._dumps_lock:
                found = self._dumps.dump(name)
            if any(len(element.key) != size for element in found or ()):
                raise KernelError(f"table inet {TABLE}: set {name} has keys of another size")
            if found is None or len({(e.key, e.interval_end) for e in found}) == len(found):
                break
        return found


def _filled(ruleset: str, sets: Sets, now: float) -> str:
    """A ruleset whose sets come with these elements.

    For commands that add elements to a set libnftables 1.0.6 first fetches the elements of every
    interval set of the machine, again and again for as long as anything changes.
    """
    for name, elements in sets.items():
        if elements:
            members = f"elements = {{ {_members(name, elements, now)} }}; "
            ruleset = ruleset.replace(f"\tset {name} {{ ", f"\tset {name} {{ {members}", 1)
    return ruleset


def _members(name: str, elements: Elements, now: float) -> str:
    return ", ".join(
        f"{network if name in NETS else network.network_address}{_timeout(until, now)}"
        for network, until in elements.items()
    )


def _timeout(until: float | None, now: float) -> str:
    return "" if until is None else f" timeout {_duration(until - now)}"


def _duration(seconds: float) -> str:
    """In nft's notation, whose numbers have eight digits at most."""
    whole, milliseconds = divmod(max(1, round(seconds * 1000)), 1000)
    return f"{whole // 86400}d{whole % 86400}s{milliseconds}ms"


def _in_force(elements: Elements, now: float) -> Elements:
    return {network: until for network, until in elements.items() if until is None or until > now}


def _keys(
    hosts: Sets, now: float
) -> tuple[dict[str, list[bytes]], dict[str, dict[bytes, float | None]]]:
    gone = {
        name: [network.network_address.packed for network in changed]
        for name, changed in hosts.items()
    }
    new = {
        name: {
            network.network_address.packed: None if until is None else until - now
            for network, until in _in_force(changed, now).items()
        }
        for name, changed in hosts.items()
    }
    return gone, new


def _replacing(hosts: Sets, now: float) -> Iterator[str]:
    """What ElementSocket.replace does, as commands."""
    for name, changed in hosts.items():
        gone = ", ".join(str(network.network_address) for network in changed)
        yield f"add element inet {TABLE} {name} {{ {gone} }}"
        yield f"delete element inet {TABLE} {name} {{ {gone} }}"
        if new := _in_force(changed, now):
            yield f"add element inet {TABLE} {name} {{ {_members(name, new, now)} }}"


def _network(key: bytes, prefix: int) -> Network:
    """A peer; an element with bits behind the prefix is none, it is shown as it is."""
    if prefix == len(key) << 3 == 32:
        return IPv4Network((key, 32))  # of 250,000 most are so
    network = ip_network((key, prefix), strict=False)
    return network if network.network_address.packed == key else ip_network(key)


def _peers(found: Iterable[Found], prefix: int) -> Iterator[tuple[Network, float | None]]:
    for element in found:
        yield _network(element.key, prefix), element.until


def _prefixes(found: Iterable[Found]) -> Iterator[tuple[Network, float | None]]:
    """The kernel holds where an interval starts and the first address behind it, in any order."""
    start: Found | None = None
    for element in sorted(found, key=lambda e: (e.key, not e.interval_end)):
        if start is not None:
            last = int.from_bytes(element.key) - 1
            yield from _interval(start, last.to_bytes(len(element.key)))
        start = None if element.interval_end else element
    if start is not None:  # the last one reaches to the end of the address space
        yield from _interval(start, b"\xff" * len(start.key))


def _interval(start: Found, last: bytes) -> Iterator[tuple[Network, float | None]]:
    first: Any = ip_address(start.key)  # of the same version as the last; mypy can't know
    for network in summarize_address_range(first, ip_address(last)):
        yield network, start.until


def _unlike(
    name: str, holds: Elements, found: Elements, now: float, tolerance: float
) -> Iterator[str]:
    for network in holds.keys() | found.keys():
        expected, actual = holds.get(network, now), found.get(network, now)
        if _later(expected, actual, tolerance) or _later(actual, expected, tolerance):
            what = {network in found: "missing from", network in holds: "foreign in"}
            yield f"{what.get(False, 'wrong time in')} {name}: {network}"


def _later(a: float | None, b: float | None, tolerance: float = TOLERANCE) -> bool:
    """Whether a is an instant clearly after b; None is never reached."""
    return b is not None and (a is None or a - b > tolerance)


def _explained(error: str) -> DpsdError:
    """nft's own words on what failed, without the commands that it repeats."""
    reasons = {line.partition("Error: ")[2] for line in error.splitlines() if "Error: " in line}
    text = "; ".join(sorted(reasons)) or error.strip()[:200] or "no reason given"
    if os.strerror(errno.EPERM) in text:
        return NotPermitted(f"nftables: {text}; run as root, or with CAP_NET_ADMIN")
    if os.strerror(errno.ENFILE) in text:
        return KernelError(f"table inet {TABLE}: a set is full; nothing was changed ({text})")
    return KernelError(f"table inet {TABLE}: nothing was changed: {text}")
