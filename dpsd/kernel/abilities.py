"""What dpsd needs of this kernel, and what of that is missing. Nothing is changed."""

import errno
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from pyroute2.conntrack import Conntrack
from pyroute2.netlink.exceptions import NetlinkError

from dpsd.config import Config
from dpsd.core.story import told_by_sockets
from dpsd.errors import DpsdError, NotPermitted
from dpsd.kernel import host, sight, sockdiag
from dpsd.kernel.conntrack import Events
from dpsd.kernel.ending import rule
from dpsd.kernel.nftset import Library

_SYSCTL = Path("/proc/sys/net")
NEAR_FULL = 0.8  # of nf_conntrack_max


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is missing, and how to mend it.

    severity: "warning" (dpsd works, less well), "error" or "forbidden" (it can't work: the kernel
    lacks it, or this user may not).
    """

    severity: str
    text: str
    mend: str


def problems(config: Config) -> list[Problem]:
    """Everything that this kernel lacks for this configuration."""
    ending = _ending_elsewhere(config) if config.enforce.end_sessions else ()
    return [
        *_permissions(config), *ending, *_conntrack(), *_sight(config), *_addresses(config)
    ]  # fmt: skip


def _sight(config: Config) -> Iterator[Problem]:
    """What keeps dpsd from seeing sessions, or from ending them."""
    ports = config.protect.ports
    try:
        rules = sight.untracked(ports)
        held, unseen = (0, 0) if config.protect.addresses else sight.unseen(ports)
        tracks = _entries()[0] > 0
    except (DpsdError, OSError, NetlinkError):
        return  # told by the others
    for rule_ in rules:
        yield Problem(
            "warning",
            f"conntrack doesn't see the sessions of a rule: {rule_}",
            "except the mail ports from it: elsewhere than on this host nothing else tells of them",
        )
    if unseen > sight.FEW and tracks:
        yield Problem("warning", told_by_sockets(held, unseen), "")
    if vrfs := sight.vrfs():
        yield Problem(
            "warning",
            f"sessions in a VRF ({', '.join(vrfs)}) are followed and their peers dropped, but"
            " those open can't be ended",
            "let the mail server listen outside of it, if that matters",
        )


def _permissions(config: Config) -> Iterator[Problem]:
    needed: list[tuple[str, Callable[[], object]]] = [
        ("conntrack events", lambda: Events(config.protect.ports, 1 << 20).close()),
        ("nftables", _list_tables),
        ("the routing tables", host.look),
    ]
    if config.enforce.end_sessions:
        needed.append(("ending sessions", sockdiag.probe))
    for what, probe in needed:
        try:
            probe()
        except NotPermitted as problem:
            yield Problem("forbidden", f"{what}: {problem}", "run as root, or with CAP_NET_ADMIN")
        except DpsdError as problem:
            ending = what == "ending sessions"
            mend = "set enforce.end_sessions = false" if ending else "use a kernel that has it"
            yield Problem("error", f"{what}: {problem}", mend)


def _ending_elsewhere(config: Config) -> Iterator[Problem]:
    """For servers behind this host: in containers, which nothing here tells of, or as a gateway."""
    what = "ending sessions of servers behind this host"
    try:
        rule.probe()
    except NotPermitted as problem:
        yield Problem("forbidden", f"{what}: {problem}", "run as root, or with CAP_NET_ADMIN")
    except DpsdError as problem:
        severity = "error" if config.protect.addresses else "warning"
        yield Problem(severity, f"{what}: {problem}", "use a kernel that has it (5.9 or newer)")
    else:
        if not rule.may_use_low_ports():
            yield Problem(
                "warning",
                f"{what}: not those of peers that use a port below 1024, and no peer is told",
                "run as root, or with CAP_NET_BIND_SERVICE as well",
            )


def _list_tables() -> None:
    library = Library()
    try:
        code, _, error = library.cmd("list tables")
        if not code:  # there may be a table that this libnftables can't stand
            library.cmd("list ruleset", terse=True)
    finally:
        library.close()
    if code and "permitted" in error.lower():
        raise NotPermitted("nft may not list tables")
    if code:
        raise DpsdError(error.strip().splitlines()[0])


def _conntrack() -> Iterator[Problem]:
    settings = _SYSCTL / "netfilter"
    if _number(settings / "nf_conntrack_events") == 0:
        yield Problem(
            "error",
            "conntrack tells no events (net.netfilter.nf_conntrack_events is 0)",
            "sysctl -w net.netfilter.nf_conntrack_events=2",
        )
    if _number(settings / "nf_conntrack_acct") == 0:
        yield Problem(
            "warning",
            "conntrack counts no bytes (net.netfilter.nf_conntrack_acct is 0): sessions without"
            " any use can't be told from mail",
            "sysctl -w net.netfilter.nf_conntrack_acct=1",
        )
    if _number(settings / "nf_conntrack_tcp_be_liberal") == 1:
        yield Problem(
            "warning",
            "conntrack doesn't check TCP windows (net.netfilter.nf_conntrack_tcp_be_liberal is 1):"
            " a forged handshake is proven more easily",
            "sysctl -w net.netfilter.nf_conntrack_tcp_be_liberal=0",
        )
    yield from _fullness()


def _entries() -> tuple[int, int]:
    """How many entries conntrack has, and how many it may. OSError, NetlinkError."""
    with Conntrack() as table:
        return table.count(), table.conntrack_max_size()


def _fullness() -> Iterator[Problem]:
    try:
        count, most = _entries()
    except (OSError, NetlinkError) as problem:
        if problem.args[0] not in (errno.EPERM, errno.EACCES):  # told by _permissions
            yield Problem("error", f"conntrack can't be asked: {problem}", "load nf_conntrack")
        return
    if most and count > NEAR_FULL * most:
        yield Problem(
            "warning",
            f"the connection table is nearly full: {count} of {most} entries",
            f"sysctl -w net.netfilter.nf_conntrack_max={2 * most} (in the first namespace)",
        )


def _addresses(config: Config) -> Iterator[Problem]:
    if config.protect.addresses:
        return
    try:
        found = host.look()
    except DpsdError:
        return  # told by _permissions
    if not any(not address.startswith(b"\x7f") for address in found.own if len(address) == 4):
        yield Problem(
            "warning",
            "this host has no IPv4 address but loopback's: there is nothing to protect yet",
            "set protect.addresses on a gateway, or wait for the network",
        )


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None  # a kernel without this setting
