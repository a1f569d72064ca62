"""What became of a case: pure arithmetic on what was recorded."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_address, ip_network
from statistics import mean, median

from tests.arena.honest import Mail
from tests.day.world import Listing

PROMPT = 2.0  # seconds that a mail may take beyond what its sender needs, and still be prompt
_WINDOW, _GOOD, _STEP = 3.0, 0.9, 0.25  # as in tests/lab/result.py


@dataclass(frozen=True)
class Outcome:
    """One case from one seed. Times are seconds since the attack began.

    attempted, delivered: honest mails that were due during the attack; recovery: None for never;
    attackers: sources that completed a handshake; listed: how many of them were listed, median:
    after how many seconds; wronged: honest peers that were listed; ended: honest sessions that were
    ended, moving: those in the middle of a mail that moves; ends: attackers' sessions; full,
    deferred: SYNs of honest senders that were dropped since the backlog was full, or the peer put
    off; cpu: seconds that the simulation took.
    """

    case: str
    seed: int
    attempted: int
    delivered: int
    recovery: float | None
    attackers: int
    listed: int
    median: float | None
    wronged: list[str]
    ended: int
    moving: int
    ends: int
    full: int
    deferred: int
    cpu: float
    failed: dict[str, int] = field(default_factory=dict)
    lost: dict[str, int] = field(default_factory=dict)

    @property
    def share(self) -> float:
        """Mail in time, per cent of what was attempted."""
        return 100.0 * self.delivered / self.attempted if self.attempted else 100.0


def recovery(mails: Sequence[Mail], seconds: float) -> float | None:
    """Seconds until honest mail went through promptly and went on so; None: it never did.

    From then on, in every window of 3 s, at least 90 % of the peaceful share of mails is delivered
    promptly: the definition of the lab.
    """
    before = [mail.prompt(PROMPT) for mail in mails if mail.at < 0]
    need = _GOOD * (mean(before) if before else 1.0)
    found: float | None = None
    at = seconds - _WINDOW
    while at >= 0:
        window = [mail.prompt(PROMPT) for mail in mails if at <= mail.at < at + _WINDOW]
        if window and sum(window) < need * len(window):
            break
        found = at
        at -= _STEP
    return found


def listed(
    attacked: Mapping[bytes, float], listings: Iterable[Listing], began: float
) -> dict[bytes, float]:
    """Attackers to when they were listed, in seconds since `began`."""
    peers: dict[str, float] = {}
    prefixes: list[tuple[str, float]] = []
    for listing in listings:
        at = listing.at - began
        if "/" in listing.peer:
            prefixes.append((listing.peer, at))
        peers.setdefault(listing.peer, at)
    networks = [(ip_network(text), at) for text, at in prefixes if not text.endswith("/64")]
    found: dict[bytes, float] = {}
    for address in attacked:
        host = ip_address(address)
        own = f"{ip_address(address[:8] + bytes(8))}/64" if host.version == 6 else str(host)
        times = [at for network, at in networks if host in network]
        if own in peers:
            times.append(peers[own])
        if times:
            found[address] = min(times)
    return found


def outcome(
    name: str, seed: int, seconds: float, mails: Sequence[Mail], attackers: int,
    caught: Mapping[bytes, float], listings: Iterable[Listing],
    ended: Mapping[tuple[str, str], int], refused: Mapping[tuple[str, str], int], cpu: float,
) -> Outcome:  # fmt: skip
    """Put it together."""
    during = [mail for mail in mails if 0 <= mail.at < seconds]
    honest = dict.fromkeys(("full", "deferred"), 0)
    for (kind, why), count in refused.items():
        if kind != "attack" and why in honest:
            honest[why] += count
    return Outcome(
        case=name,
        seed=seed,
        attempted=len(during),
        delivered=sum(mail.delivered for mail in during),
        recovery=recovery(mails, seconds),
        attackers=attackers,
        listed=len(caught),
        median=median(caught.values()) if caught else None,
        wronged=[str(each) for each in listings if {*each.kinds} - {"attack"}],
        ended=sum(count for (kind, _), count in ended.items() if kind != "attack"),
        moving=sum(count for (_, doing), count in ended.items() if doing == "moving"),
        ends=sum(count for (kind, _), count in ended.items() if kind == "attack"),
        full=honest["full"],
        deferred=honest["deferred"],
        cpu=cpu,
        failed=dict(Counter(mail.kind for mail in during if not mail.delivered)),
        lost={" ".join(who): count for who, count in ended.items() if who[0] != "attack"},
    )


def line(found: Outcome) -> str:
    """An outcome in a line, and one more for each honest peer that was listed."""
    seconds = "never" if found.recovery is None else f"{found.recovery:.1f} s"
    middle = "" if found.median is None else f" @{found.median:.1f}"
    caught = f"{found.listed}/{found.attackers}{middle}"
    return (
        f"{found.case:44} {found.seed:4} {found.share:5.1f} % {seconds:>7}  listed {caught:16}"
        f" honest: listed {len(found.wronged)}, ended {found.ended} ({found.moving} moving),"
        f" full {found.full}, deferred {found.deferred}; {found.cpu:.1f} s"
    ) + "".join(f"\n    {each}" for each in found.wronged)


def summary(found: Sequence[Outcome]) -> str:
    """All outcomes in a line."""
    return (
        f"{len(found)} played: {mean(each.share for each in found):.1f} % of honest mail in time,"
        f" {sum(each.share < 90 for each in found)} below 90 %,"
        f" {sum(each.recovery is None for each in found)} never recovered; honest:"
        f" {sum(len(each.wronged) for each in found)} listed,"
        f" {sum(each.ended for each in found)} ended ({sum(each.moving for each in found)} moving);"
        f" {sum(each.cpu for each in found):.0f} s"
    )


def table(groups: Iterable[Sequence[Outcome]]) -> str:
    """The outcomes of each case, of several seeds, as a table in Markdown."""
    rows = [
        "| case | mail in time | recovery | attackers listed | honest listed | honest ended"
        " | of them moving | SYNs put off |",
        "|---|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for group in groups:
        times = [found.recovery for found in group if found.recovery is not None]
        never = len(group) - len(times)
        seconds = "never" if never == len(group) else f"{mean(times):.1f} s"
        if times and never:
            seconds += f", never in {never} of {len(group)}"
        medians = [found.median for found in group if found.median is not None]
        caught = f"{mean(o.listed for o in group):.0f}/{mean(o.attackers for o in group):.0f}"
        if medians:
            caught += f" after {mean(medians):.1f} s"
        rows.append(
            f"| {group[0].case} | {mean(o.share for o in group):.0f} % | {seconds} | {caught}"
            f" | {mean(len(o.wronged) for o in group):.3g} | {mean(o.ended for o in group):.0f}"
            f" | {mean(o.moving for o in group):.0f} | {mean(o.deferred for o in group):.0f} |"
        )
    return "\n".join(rows) + "\n"
