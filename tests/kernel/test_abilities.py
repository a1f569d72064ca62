"""`dpsd check` names what this kernel lacks, and changes nothing."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pyroute2.conntrack import Conntrack

from dpsd.config import Config
from dpsd.errors import KernelError
from dpsd.kernel import abilities, sockdiag
from dpsd.kernel.abilities import Problem, problems
from dpsd.kernel.ending import rule
from tests.kernel.netns import run

CONFIG = Config()
PRINTED = """
from dpsd.config import Config
from dpsd.kernel.abilities import problems
print(problems(Config()))
"""
SYSCTL = Path("/proc/sys/net/netfilter")


@pytest.fixture
def host(namespace: int) -> None:
    """A kernel with all that is needed, and an address."""
    assert namespace
    run("ip address add 192.0.2.1/24 dev lo")
    (SYSCTL / "nf_conntrack_acct").write_text("1")


@contextmanager
def nobody() -> Iterator[None]:
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def told(found: list[Problem]) -> list[tuple[str, str]]:
    """Severity and the first words of each."""
    return [(each.severity, " ".join(each.text.split()[:3])) for each in found]


@pytest.mark.usefixtures("host")
def test_all_is_well() -> None:
    assert problems(CONFIG) == []


@pytest.mark.usefixtures("host")
@pytest.mark.parametrize(
    ("setting", "value", "problem"),
    [
        ("nf_conntrack_acct", "0", ("warning", "conntrack counts no")),
        ("nf_conntrack_events", "0", ("error", "conntrack tells no")),
        ("nf_conntrack_events", "1", None),
        ("nf_conntrack_tcp_be_liberal", "1", ("warning", "conntrack doesn't check")),
    ],
)
def test_a_setting_that_has_to_be_mended(
    setting: str, value: str, problem: tuple[str, str] | None
) -> None:
    (SYSCTL / setting).write_text(value)
    found = problems(CONFIG)
    assert told(found) == ([problem] if problem else [])
    assert (SYSCTL / setting).read_text().strip() == value  # nothing is changed
    for each in found:
        run(each.mend)
    assert problems(CONFIG) == []


@pytest.mark.usefixtures("host")
def test_a_user_without_rights() -> None:
    with nobody():
        found = problems(CONFIG)
    assert [each.severity for each in found] == ["forbidden"] * len(found)
    assert [each.text.partition(":")[0] for each in found] == [
        "conntrack events",
        "nftables",
        "ending sessions",
        "ending sessions of servers behind this host",
    ]
    assert all("CAP_NET_ADMIN" in each.mend for each in found)


@pytest.mark.usefixtures("namespace")
def test_a_host_without_addresses() -> None:
    (SYSCTL / "nf_conntrack_acct").write_text("1")
    assert told(problems(CONFIG)) == [("warning", "this host has")]
    protect = replace(CONFIG.protect, addresses=(CONFIG.white[0],))
    assert problems(replace(CONFIG, protect=protect)) == []


@pytest.mark.usefixtures("host")
@pytest.mark.parametrize(("count", "full"), [(800, False), (801, True)])
def test_a_table_that_is_nearly_full(
    monkeypatch: pytest.MonkeyPatch, count: int, full: bool
) -> None:
    """Only the first namespace could make it so, hence the numbers are put in."""
    monkeypatch.setattr(Conntrack, "count", lambda _: count)
    monkeypatch.setattr(Conntrack, "conntrack_max_size", lambda _: 1000)
    found = problems(CONFIG)
    assert told(found) == ([("warning", "the connection table")] if full else [])
    if full:
        assert "801 of 1000" in found[0].text
        assert "nf_conntrack_max=2000" in found[0].mend


@pytest.mark.usefixtures("host")
@pytest.mark.parametrize("wanted", [True, False])
def test_a_kernel_that_cant_end_sessions(monkeypatch: pytest.MonkeyPatch, wanted: bool) -> None:
    def lacking() -> None:
        raise KernelError("it lacks CONFIG_INET_DIAG_DESTROY")

    monkeypatch.setattr(sockdiag, "probe", lacking)
    config = replace(CONFIG, enforce=replace(CONFIG.enforce, end_sessions=wanted))
    found = problems(config)
    assert [(each.severity, each.mend) for each in found] == (
        [("error", "set enforce.end_sessions = false")] if wanted else []
    )


@pytest.mark.usefixtures("host")
@pytest.mark.parametrize(("gateway", "severity"), [(True, "error"), (False, "warning")])
def test_sessions_behind_this_host_cant_be_ended(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, gateway: bool, severity: str
) -> None:
    ruleset = tmp_path / "ending.nft"
    ruleset.write_text("table inet dpsd_ending { chain c { nonsense } }\n")
    monkeypatch.setattr(rule, "shipped", lambda _: ruleset)
    addresses = (CONFIG.white[0],) if gateway else ()
    protect = replace(CONFIG.protect, addresses=addresses)
    found = problems(replace(CONFIG, protect=protect))
    assert told(found) == [(severity, "ending sessions of")]
    assert "table inet dpsd_ending can't be loaded" in found[0].text
    assert problems(replace(CONFIG, enforce=replace(CONFIG.enforce, end_sessions=False))) == []


@pytest.mark.usefixtures("host")
def test_ports_below_1024_take_a_right_of_their_own() -> None:
    command = ["setpriv", "--bounding-set=-net_bind_service", sys.executable, "-c", PRINTED]
    told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "not those of peers that use a port below 1024" in told


@pytest.mark.usefixtures("host")
def test_a_kernel_without_nftables_or_conntrack(monkeypatch: pytest.MonkeyPatch) -> None:
    class Lacking:
        def cmd(self, _: str) -> tuple[int, str, str]:
            return -1, "", "netlink: Error: cache initialization failed\n"

        def close(self) -> None:
            pass

    def no_conntrack(*_: Any) -> None:
        raise KernelError("this kernel has no netfilter netlink")

    monkeypatch.setattr(abilities, "Library", Lacking)
    monkeypatch.setattr(abilities, "Events", no_conntrack)
    monkeypatch.setattr(abilities, "_SYSCTL", Path("/nonexistent"))
    found = problems(CONFIG)
    assert [(each.severity, each.text.partition(":")[0]) for each in found] == [
        ("error", "conntrack events"),
        ("error", "nftables"),
    ]
