"""The command: what it says where, with which exit code, on a real store and without a daemon.

A daemon that claims the store and tells what it has applied is played by the tests.
"""

import gc
import json
import os
import pty
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from ipaddress import ip_network
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from dpsd import __version__, assembly
from dpsd.cli import editing, main, own
from dpsd.core import given
from dpsd.core.lists import Entry, ListName
from dpsd.core.policy import Pool
from dpsd.errors import KernelError, NotPermitted
from dpsd.mta import Mta, Slots, assumed
from dpsd.store import Action, Node, PeerRow, Record, Store

COMMANDS = (
    *("run", "list", "block", "unblock", "allow", "disallow"),
    *("why", "status", "check", "record", "replay"),
)
HEAVY = ("alembic", "apscheduler", "pyroute2", "nftables")
UTC = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ")
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")


@dataclass(frozen=True)
class Said:
    """What one run of the command did."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


Run = Callable[..., Said]


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/dpsd.db"


@pytest.fixture
def config(tmp_path: Path, url: str) -> Path:
    path = tmp_path / "dpsd.toml"
    path.write_text(f'[store]\nurl = "{url}"\n')
    return path


@pytest.fixture
def dpsd(
    config: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Run]:
    """Runs the command in this process, on a store and a host without addresses of its own."""
    monkeypatch.setenv("DPSD_CONFIG", str(config))
    monkeypatch.setattr(
        own, "addresses", lambda: [ip_network("192.0.2.1"), ip_network("2001:db8::1")]
    )
    before = signal.getsignal(signal.SIGPIPE)

    def run(*arguments: str) -> Said:
        monkeypatch.setattr(sys, "argv", ["dpsd", *arguments])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        said = capsys.readouterr()
        return Said(int(ended.value.code or 0), said.out, said.err)

    yield run
    signal.signal(signal.SIGPIPE, before)
    gc.enable()


@contextmanager
def daemon(url: str, applied: int, mode: str = "enforce", **status: Any) -> Iterator[None]:
    """A daemon that runs, and has applied the store's revisions up to this one."""
    with Store.open(url, upgrade=True) as store:
        store.claim()
        now = time.time()
        store.beat(Node("here", os.getpid(), mode, now, now, applied, status))
        yield


def listed(dpsd: Run) -> list[tuple[str, str]]:
    return [(entry["list"], entry["peer"]) for entry in dpsd("list", "--json").json]


# --- block, unblock, allow, disallow ------------------------------------------------------------


def test_block_and_unblock(dpsd: Run) -> None:
    said = dpsd("block", "203.0.113.7", "--reason", "guesses passwords")
    assert (said.code, said.out) == (0, "")
    assert "203.0.113.7 is on the block list until" in said.err
    assert "(10m); stored, it takes effect when the daemon starts" in said.err
    [entry] = dpsd("list", "--json").json
    assert list(entry) == ["list", "peer", "reason", "source", "created_at", "expires_at"]
    assert (entry["list"], entry["peer"]) == ("block", "203.0.113.7")
    assert (entry["reason"], entry["source"]) == ("guesses passwords", "operator")
    assert UTC.fullmatch(entry["created_at"])
    assert UTC.fullmatch(entry["expires_at"])
    assert "203.0.113.7 is off the block list" in dpsd("unblock", "203.0.113.7").err
    assert listed(dpsd) == []


def test_several_peers_a_command(dpsd: Run) -> None:
    said = dpsd("block", "203.0.113.7", "203.0.113.8", "203.0.113.7")
    assert said.code == 0
    assert len(said.err.splitlines()) == 2
    assert dpsd("block", "203.0.113.9", "192.0.2.1").code == 2  # this host's own: none at all
    assert len(listed(dpsd)) == 2
    said = dpsd("unblock", "203.0.113.7", "203.0.113.99")
    assert said.code == 1
    assert "203.0.113.7 is off the block list" in said.err
    assert "203.0.113.99 is not on the black or block list" in said.err
    assert listed(dpsd) == [("block", "203.0.113.8")]


def test_lifting_many_at_once(dpsd: Run, url: str) -> None:
    now = time.time()

    def put(number: int, source: str, ago: float) -> Record:
        peer = ip_network(f"203.0.113.{number}")
        entry = Entry(ListName.BLOCK, peer, "", source, now - ago, now + 900)
        return Record(Action.ADD, entry, now - ago)

    def fill() -> None:
        with Store.open(url) as store:
            sources = ("score", "score", "operator", "program")
            store.commit([put(i, source, 100.0 * i) for i, source in enumerate(sources)])

    def left() -> set[str]:
        return {peer[-1] for _, peer in listed(dpsd)}

    fill()
    assert "2 entries by score" in dpsd("unblock", "--source", "score").err
    assert left() == {"2", "3"}
    with Store.open(url) as store:
        assert store.blocks_since(now - 1000) == {}  # forgiven
    assert dpsd("unblock", "--source", "score").code == 1
    fill()
    assert dpsd("unblock", "--since", "2m").code == 0
    assert left() == {"2", "3"}
    instant = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(now - 250))
    assert dpsd("unblock", "--since", instant, "--source", "operator").code == 0
    assert left() == {"3"}
    assert dpsd("unblock", "203.0.113.3", "--source", "operator").code == 1
    assert dpsd("unblock", "--all").code == 0
    assert left() == set()
    assert dpsd("unblock", "--since", "soon").code == 2
    assert dpsd("unblock", "--all", "203.0.113.3").code == 2


@pytest.mark.parametrize(
    ("given", "seconds"), [([], 600), (["--for", "90s"], 90), (["--for", "1h30m"], 5400)]
)
def test_how_long_a_block_lasts(dpsd: Run, url: str, given: list[str], seconds: int) -> None:
    dpsd("block", "203.0.113.7", *given)
    with Store.open(url) as store:
        [entry] = store.entries(time.time())
    assert entry.expires_at == pytest.approx(entry.created_at + seconds)


def test_blocking_again_replaces_the_time(dpsd: Run) -> None:
    assert dpsd("block", "203.0.113.7", "--for", "7d").code == 0
    assert dpsd("block", "203.0.113.7", "--for", "90s").code == 0
    [entry] = dpsd("list", "--json").json
    assert entry["expires_at"] < time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + 99))


def test_a_permanent_block_takes_the_place_of_a_temporary_one(dpsd: Run, url: str) -> None:
    dpsd("block", "203.0.113.7")
    assert "on the black list for good" in dpsd("block", "203.0.113.7", "--permanent").err
    assert listed(dpsd) == [("black", "203.0.113.7")]
    with Store.open(url) as store:
        assert store.revision() == 2  # both in one transaction


def test_unblock_takes_off_both_lists(dpsd: Run) -> None:
    dpsd("block", "203.0.113.7", "--permanent")
    said = dpsd("block", "203.0.113.7")
    assert "warning: 203.0.113.7 is on the black list, so it stays blocked for good" in said.err
    assert len(listed(dpsd)) == 2
    said = dpsd("unblock", "203.0.113.7")
    assert "203.0.113.7 is off the black list and the block list" in said.err
    assert listed(dpsd) == []


def test_what_is_not_listed_cannot_be_taken_off(dpsd: Run) -> None:
    said = dpsd("unblock", "203.0.113.7")
    assert (said.code, said.out) == (1, "")
    assert said.err == "dpsd: 203.0.113.7 is not on the black or block list\n"
    assert dpsd("disallow", "203.0.113.7").code == 1


def test_a_wider_entry_is_named_and_stays(dpsd: Run) -> None:
    dpsd("block", "203.0.113.0/24")
    said = dpsd("unblock", "203.0.113.7")
    assert said.code == 1
    assert "203.0.113.0/24, which covers it, is on the block list" in said.err
    dpsd("block", "203.0.113.7")
    said = dpsd("unblock", "203.0.113.7")
    assert said.code == 0
    assert "warning: 203.0.113.0/24, which covers it, is on the block list" in said.err
    assert listed(dpsd) == [("block", "203.0.113.0/24")]


def test_allow_and_disallow(dpsd: Run) -> None:
    assert "192.0.2.25 is on the white list for good" in dpsd("allow", "192.0.2.25").err
    assert "(1d)" in dpsd("allow", "198.51.100.0/24", "--for", "1d").err
    assert listed(dpsd) == [("white", "192.0.2.25"), ("white", "198.51.100.0/24")]
    assert "192.0.2.25 is off the white list" in dpsd("disallow", "192.0.2.25").err
    assert "198.51.100.0/24, which covers it" in dpsd("disallow", "198.51.100.7").err
    assert listed(dpsd) == [("white", "198.51.100.0/24")]


def test_a_bare_ipv6_address_means_its_peer_and_that_is_told(dpsd: Run) -> None:
    said = dpsd("block", "2001:db8:1:2::7")
    assert "2001:db8:1:2::7 stands for its whole peer, 2001:db8:1:2::/64" in said.err
    assert listed(dpsd) == [("block", "2001:db8:1:2::/64")]
    assert dpsd("unblock", "2001:db8:1:2::9").code == 0


def test_a_peer_may_be_configured_to_be_wider(dpsd: Run, config: Path) -> None:
    config.write_text(config.read_text() + "[peers]\nipv4_prefix = 24\n")
    assert (
        "203.0.113.7 stands for its whole peer, 203.0.113.0/24" in dpsd("block", "203.0.113.7").err
    )
    assert dpsd("block", "203.0.113.7/32").code == 0
    assert listed(dpsd) == [("block", "203.0.113.0/24"), ("block", "203.0.113.7/32")]


def test_a_block_comes_before_what_the_host_gives(dpsd: Run, url: str) -> None:
    peers = {"203.0.113.1/32": "gateway", "203.0.113.53/32": "name server"}
    entries = [given.entry(ip_network(peer), "host", reason) for peer, reason in peers.items()]
    with Store.open(url, upgrade=True) as store:
        store.commit([Record(Action.ADD, each, 0.0) for each in entries])
    said = dpsd("disallow", "203.0.113.1")
    assert (said.code, said.err) == (
        1,
        "dpsd: 203.0.113.1 is white while it is so (gateway);"
        " `dpsd block 203.0.113.1` comes before it\n",
    )
    said = dpsd("block", "203.0.113.0/24")
    assert said.err.count("within it stays white") == 2
    said = dpsd("block", "203.0.113.1")
    assert "warning" not in said.err
    assert listed(dpsd) == [
        *(("white", "203.0.113.53"), ("block", "203.0.113.0/24"), ("block", "203.0.113.1")),
    ]
    with Store.open(url) as store:
        assert store.revision() == 3  # off one list and on the other at once


def test_what_is_white_is_stored_with_a_warning(dpsd: Run) -> None:
    dpsd("allow", "203.0.113.0/24")
    said = dpsd("block", "203.0.113.7")
    assert said.code == 0
    assert "warning: 203.0.113.0/24 is on the white list, so 203.0.113.7 passes" in said.err
    # the configuration's white list counts also before a daemon has stored it
    assert "127.0.0.0/8 is on the white list" in dpsd("block", "127.5.5.5", "--permanent").err


def test_what_the_configuration_allows_stays(dpsd: Run, url: str) -> None:
    said = dpsd("disallow", "127.0.0.0/8")
    assert said.code == 1
    assert "127.0.0.0/8 is white by the configuration: take it out of lists.white" in said.err
    said = dpsd("allow", "127.0.0.0/8", "--for", "1h")
    assert said.code == 0
    assert "white already, by the configuration" in said.err
    assert listed(dpsd) == []
    gone = Entry(ListName.WHITE, ip_network("198.51.100.0/24"), "", "config", time.time())
    with Store.open(url) as store:
        store.commit([Record(Action.ADD, gone, time.time())])
    assert "by the configuration" in dpsd("disallow", "198.51.100.0/24").err


@pytest.mark.parametrize("peer", ["192.0.2.1", "192.0.2.0/24", "2001:db8::1", "2001:db8::/64"])
@pytest.mark.parametrize("how", [[], ["--permanent"]])
def test_this_host_cannot_be_blocked(dpsd: Run, peer: str, how: list[str]) -> None:
    said = dpsd("block", peer, *how)
    assert said.code == 2
    assert "can't be blocked: it covers this host's own address" in said.err
    assert listed(dpsd) == []


def test_a_neighbour_in_the_hosts_own_prefix_is_a_peer_of_its_own(dpsd: Run) -> None:
    """Row A10."""
    said = dpsd("block", "2001:db8::5", "--for", "1h")
    assert (said.code, said.err.split(" is ")[0]) == (0, "2001:db8::5/128")
    assert listed(dpsd) == [("block", "2001:db8::5/128")]
    assert dpsd("why", "2001:db8::5").code == 0
    assert "block a neighbour as /128" in dpsd("block", "2001:db8::/64").err
    assert dpsd("unblock", "2001:db8::5").code == 0


def test_a_protected_server_cannot_be_blocked(dpsd: Run, config: Path) -> None:
    config.write_text(config.read_text() + '[protect]\naddresses = ["198.51.100.25"]\n')
    said = dpsd("block", "198.51.100.0/24")
    assert said.code == 2
    assert "it covers 198.51.100.25, which is protected" in said.err


@pytest.mark.parametrize("command", ["block", "unblock", "allow", "disallow", "why"])
@pytest.mark.parametrize(
    ("peer", "reason"),
    [
        ("nonsense", "'nonsense' is neither an IPv4 nor an IPv6 address"),
        ("", "'' is neither"),
        ("mail.example.org", "is neither"),
        ("203.0.113.256", "is neither"),
        ("203.0.113", "is neither"),
        ("010.0.0.1", "is neither"),
        ("203.0.113.7/33", "the prefix length must be 0 to 32"),
        ("203.0.113.7/24", "has bits set behind the prefix; did you mean 203.0.113.0/24?"),
        ("0.0.0.0/0", "a prefix shorter than /8 is too wide for a list"),
        ("::/0", "a prefix shorter than /16 is too wide for a list"),
        ("fe80::1%eth0", "an address with a zone can't be listed"),
        ("203.0.113.7 203.0.113.8", "is neither"),
        ("203.0.113.7\x1b[31m", "is neither"),
        ("'; drop table entries", "is neither"),
    ],
)
def test_bad_peers(dpsd: Run, command: str, peer: str, reason: str) -> None:
    said = dpsd(command, peer)
    assert (said.code, said.out) == (2, "")
    assert said.err.startswith("dpsd: ")
    assert reason in said.err
    assert "\x1b" not in said.err


@pytest.mark.parametrize("command", ["block", "allow"])
@pytest.mark.parametrize("text", ["5", "", "0s", "1y", "-5s", "forever", "1.5h", "3651d"])
def test_bad_durations(dpsd: Run, command: str, text: str) -> None:
    said = dpsd(command, "203.0.113.7", f"--for={text}")
    assert said.code == 2
    assert said.err.startswith("dpsd: --for: ")
    assert listed(dpsd) == []


def test_for_and_permanent_exclude_each_other(dpsd: Run) -> None:
    said = dpsd("block", "203.0.113.7", "--for", "1h", "--permanent")
    assert (said.code, said.err) == (2, "dpsd: --for and --permanent exclude each other\n")


@pytest.mark.parametrize("text", ["two\nlines", "\x1b[2J", "x" * 201, "\udcff"])
def test_reasons_are_one_printable_line(dpsd: Run, text: str) -> None:
    assert dpsd("block", "203.0.113.7", "--reason", text).code == 2
    assert dpsd("block", "203.0.113.7", "--reason", "Größe [bold]x[/bold]").code == 0
    assert "Größe [bold]x[/bold]" in dpsd("list").out


# --- with a daemon ------------------------------------------------------------------------------


def test_an_applied_change_says_no_more(dpsd: Run, url: str) -> None:
    with daemon(url, applied=1):
        said = dpsd("block", "203.0.113.7", "--for", "1h")
    assert said.code == 0
    assert said.err.endswith("(1h)\n")


def test_a_change_waits_until_the_daemon_has_applied_it(dpsd: Run, url: str) -> None:
    with daemon(url, applied=0):
        apply = subprocess.Popen(
            [sys.executable, "-c", _APPLY_LATER, url], cwd=Path(__file__).parent.parent
        )
        started = time.monotonic()
        said = dpsd("block", "203.0.113.7")
        assert apply.wait() == 0
    assert said.code == 0
    assert "stored" not in said.err
    assert time.monotonic() - started > 0.2


_APPLY_LATER = """
import sys, time
from dpsd.store import Node, Store
with Store.open(sys.argv[1]) as store:
    while store.revision() < 1:
        time.sleep(0.01)
    time.sleep(0.2)
    store.beat(Node("here", 1, "enforce", 0.0, time.time(), 1))
"""


def test_a_daemon_that_does_not_apply_it(
    dpsd: Run, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(editing, "PATIENCE", 0.1)
    with daemon(url, applied=0):
        said = dpsd("block", "203.0.113.7")
    assert said.code == 69
    assert "dpsd: stored, but the daemon has not applied it" in said.err
    assert listed(dpsd) == [("block", "203.0.113.7")]


def test_a_daemon_that_only_observes(dpsd: Run, url: str) -> None:
    with daemon(url, applied=99, mode="observe"):
        assert "dpsd only observes, nothing is enforced" in dpsd("block", "203.0.113.7").err


# --- programs that block ------------------------------------------------------------------------

JAIL = ("--source", "fail2ban:sasl")


def test_a_program_lifts_what_it_blocked(dpsd: Run) -> None:
    assert dpsd("block", "203.0.113.7", "--for", "1h", *JAIL).code == 0
    assert dpsd("list", "--json").json[0]["source"] == "fail2ban:sasl"
    assert "by fail2ban:sasl" in dpsd("why", "203.0.113.7").out
    assert dpsd("unblock", "203.0.113.7", *JAIL).code == 0
    assert dpsd("list", "--json").json == []
    again = dpsd("unblock", "203.0.113.7", *JAIL)
    assert (again.code, again.out) == (1, "")


@pytest.mark.parametrize("source", [(), ("--source", "fail2ban:other")])
@pytest.mark.parametrize("longer", [("--for", "2h"), ("--permanent",)])
def test_a_program_leaves_longer_blocks_of_others(
    dpsd: Run, source: tuple[str, ...], longer: tuple[str, ...]
) -> None:
    dpsd("block", "203.0.113.7", *longer, *source)
    before = dpsd("list", "--json").json
    said = dpsd("block", "203.0.113.7", "--for", "1h", *JAIL)
    assert said.code == 0
    assert f"stays on the {before[0]['list']} list" in said.err
    refused = dpsd("unblock", "203.0.113.7", *JAIL)
    assert refused.code == 1
    assert f"by {before[0]['source']}" in refused.err
    assert dpsd("unblock", *JAIL).code == 1
    assert dpsd("list", "--json").json == before


def test_a_longer_block_of_a_program_takes_the_place_of_a_shorter_one(dpsd: Run) -> None:
    dpsd("block", "203.0.113.7", "--for", "1h", "--source", "fail2ban:other")
    dpsd("block", "203.0.113.7", "--for", "2h", *JAIL)
    (entry,) = dpsd("list", "--json").json
    assert entry["source"] == "fail2ban:sasl"


def test_but_not_of_an_operators(dpsd: Run) -> None:
    """That may be what keeps the peer off the white list, which no program's block does."""
    dpsd("block", "203.0.113.7", "--for", "1h")
    said = dpsd("block", "203.0.113.7", "--for", "2h", *JAIL)
    assert said.code == 0
    assert "by operator" in said.err
    (entry,) = dpsd("list", "--json").json
    assert entry["source"] == "operator"


def test_a_program_blocks_again_for_another_time(dpsd: Run, url: str) -> None:
    dpsd("block", "203.0.113.7", "--for", "2h", *JAIL)
    dpsd("block", "203.0.113.7", "--for", "1h", *JAIL)
    with Store.open(url) as store:
        (entry,) = store.entries(time.time())
    assert entry.expires_at is not None
    assert entry.expires_at - entry.created_at == 3600


def test_an_operator_overrules_a_program(dpsd: Run) -> None:
    dpsd("block", "203.0.113.7", "--for", "2h", *JAIL)
    dpsd("block", "203.0.113.7", "--for", "1h")
    assert dpsd("list", "--json").json[0]["source"] == "operator"
    dpsd("block", "203.0.113.8", "--permanent", *JAIL)
    assert dpsd("unblock", "203.0.113.8").code == 0


def test_a_program_lifts_all_that_it_blocked(dpsd: Run) -> None:
    for number, how in ((1, ("--for", "1h")), (2, ("--permanent",))):
        dpsd("block", f"203.0.113.{number}", *how, *JAIL)
        dpsd("block", f"198.51.100.{number}", *how, "--source", "fail2ban:other")
    dpsd("block", "203.0.113.3")
    said = dpsd("unblock", *JAIL)
    assert (said.code, said.err.partition(" ")[0]) == (0, "2")
    left = {each["peer"] for each in dpsd("list", "--json").json}
    assert left == {"198.51.100.1", "198.51.100.2", "203.0.113.3"}


def test_an_operators_block_takes_the_place_of_any_other(dpsd: Run, url: str) -> None:
    """Of whatever source: only what is white by the host or its mail server gives way to it."""
    now = time.time()
    older = Entry(ListName.BLOCK, ip_network("203.0.113.7"), "", given.POSTFIX, now, now + 60)
    with Store.open(url, upgrade=True) as store:
        store.commit([Record(Action.ADD, older, now)])
    assert dpsd("block", "203.0.113.7", "--for", "2h").code == 0
    assert [(e["list"], e["source"]) for e in dpsd("list", "--json").json] == [
        ("block", "operator")
    ]


def test_without_a_peer_or_a_program_nothing_is_lifted(dpsd: Run) -> None:
    dpsd("block", "203.0.113.3")
    said = dpsd("unblock")
    assert said.code == 2
    assert "--source" in said.err
    assert listed(dpsd) == [("block", "203.0.113.3")]


@pytest.mark.parametrize(
    "name",
    ["", "score", "config", "host", "postfix", "operator", "a b", "-x", "a\nb", "x" * 65],
)
def test_a_source_is_a_name_that_dpsd_does_not_use(dpsd: Run, name: str) -> None:
    said = dpsd("block", "203.0.113.3", f"--source={name}")
    assert said.code == 2
    assert "--source" in said.err
    assert listed(dpsd) == []


# --- list ---------------------------------------------------------------------------------------


def test_lists_are_shown_in_the_order_in_which_they_decide(dpsd: Run) -> None:
    dpsd("block", "203.0.113.7")
    dpsd("block", "203.0.113.8", "--permanent")
    dpsd("allow", "203.0.113.9")
    assert [name for name, _ in listed(dpsd)] == ["white", "black", "block"]
    assert [entry["peer"] for entry in dpsd("list", "black", "--json").json] == ["203.0.113.8"]
    lines = dpsd("list").out.splitlines()
    assert lines[0].split() == ["LIST", "PEER", "EXPIRES", "BY", "REASON"]
    assert lines[1].split() == ["white", "203.0.113.9", "never", "operator"]
    assert len(lines) == 4


def test_empty_lists(dpsd: Run) -> None:
    assert dpsd("list") == Said(0, "", "nobody is on any list\n")
    assert dpsd("list", "white").err == "nobody is on the white list\n"
    assert dpsd("list", "--json").json == []


def test_what_is_over_is_not_shown(dpsd: Run, url: str) -> None:
    then = time.time() - 100
    over = Entry(ListName.BLOCK, ip_network("203.0.113.7"), "", "score", then, then + 50)
    with Store.open(url) as store:
        store.commit([Record(Action.ADD, over, then)])
    assert listed(dpsd) == []
    assert dpsd("unblock", "203.0.113.7").code == 1


def test_unknown_list_command_and_option(dpsd: Run) -> None:
    for arguments in (["list", "grey"], ["nonsense"], ["list", "--nonsense"], ["block"], []):
        said = dpsd(*arguments)
        assert (said.code, said.out) == (2, "")
        assert "Usage: dpsd" in said.err


def test_control_characters_from_the_store_are_shown_escaped(dpsd: Run, url: str) -> None:
    odd = Entry(ListName.BLACK, ip_network("203.0.113.7"), "a\x1b[31m\nb", "import", time.time())
    with Store.open(url) as store:
        store.commit([Record(Action.ADD, odd, time.time())])
    for arguments in (["list"], ["why", "203.0.113.7"]):
        assert r"a\x1b[31m\nb" in dpsd(*arguments).out


# --- why ----------------------------------------------------------------------------------------


def test_nothing_is_known(dpsd: Run) -> None:
    said = dpsd("why", "203.0.113.7")
    assert said == Said(1, "", "dpsd: nothing is known about 203.0.113.7\n")
    said = dpsd("why", "203.0.113.7", "--json")
    assert said.code == 1
    known = said.json
    assert (known["list"], known["expires_at"], known["score"]) == (None, None, 0.0)
    assert known["evidence"] == []


def test_the_score_with_its_evidence(dpsd: Run, url: str) -> None:
    now = time.time()
    detail = {
        "evidence": [
            {
                **{"kind": "abort", "state": "", "cost": 2.0, "count": 1},
                **{"first": now, "at": now - 300, "longest": 0.0, "most": 0, "proper": 0.0},
                **{"stress": 0.0, "ports": []},
            },
            {
                **{"kind": "overstay", "state": "LAST_ACK", "cost": 55.5, "count": 7},
                **{"first": now - 999, "at": now - 310, "longest": 41.2, "most": 0},
                **{"proper": 5.0, "stress": 1.0, "ports": [25]},
            },
        ],
        "sessions": {"ESTABLISHED": 1, "LAST_ACK": 3},
        **{"trust": 2.0, "trusted_at": now - 14 * 86400},
    }
    with Store.open(url) as store:
        store.save_peers([PeerRow(ip_network("203.0.113.7"), 80.0, now - 300, now, detail)])
    known = dpsd("why", "203.0.113.7", "--json").json
    assert known["score"] == pytest.approx(40, abs=0.5)  # halved, after 5 minutes
    assert known["list"] is None
    assert [(each["kind"], each["cost"], each["count"]) for each in known["evidence"]] == [
        ("overstay", 55.5, 7),
        ("abort", 2.0, 1),
    ]
    assert all(UTC.fullmatch(each[key]) for each in known["evidence"] for key in ("first", "at"))
    assert (known["trust"], known["limit"]) == (pytest.approx(1), pytest.approx(120))
    assert (known["evidence"][0]["longest"], known["evidence"][0]["proper"]) == (41.2, 5.0)
    assert known["fades"]["below"] == 0.5
    assert known["release"] is None
    told = dpsd("why", "203.0.113.7").out
    assert told.startswith("203.0.113.7 is on no list; its packets pass.\n")
    assert re.search(
        r"Score: (40\.0|39\.9) slot-seconds now, its limit is 120 \(policy.block_at, 60, times 2\.0"
        r" for 1\.0 deliveries to its credit\); it halves every 5 min, so in 31 min \d+ s"
        r" it is forgotten\.",
        told,
    )
    assert re.search(r"Sessions open at \S+Z: LAST_ACK 3, ESTABLISHED 1\.", told)
    first = told.index(
        "  7 sessions to port 25 closed but never sent the last ACK for up to 41 s,"
        " where 5 s was proper under full stress: 55.5 slot-seconds (overstay), last at 20"
    )
    assert first < told.index("1 session was reset before any use: 2.0 slot-seconds")


def test_why_a_peer_was_not_charged_and_how_long_it_has_to_wait(dpsd: Run, url: str) -> None:
    now = time.time()
    detail = {"excuse": "reply_due", "deferred_until": now + 15, "deferrals": 2}
    row = PeerRow(ip_network("203.0.113.7"), 0.0, now, now, detail)
    with Store.open(url) as store:
        store.save_peers([row])
    known = dpsd("why", "203.0.113.7", "--json").json
    assert known["excuse"] == {
        **{"kind": "reply_due", "story": "the server may have owed it a reply"}
    }
    assert UTC.fullmatch(known["deferred_until"])
    assert known["deferrals"] == 2
    told = dpsd("why", "203.0.113.7").out
    assert "Its last session wasn't charged: the server may have owed it a reply.\n" in told
    assert re.search(r"may open no new session for 1\d s more, the 2nd time in a row\.\n", told)

    with Store.open(url) as store:  # that is over; and the excuse is of another version
        detail = {"excuse": "too_cold", "deferred_until": now - 1, "deferrals": 2}
        store.save_peers([replace(row, detail=detail)])
    known = dpsd("why", "203.0.113.7", "--json").json
    assert (known["deferred_until"], known["deferrals"]) == (None, 0)
    told = dpsd("why", "203.0.113.7").out
    assert "wasn't charged: too cold." in told
    assert "no new session" not in told

    dpsd("block", "203.0.113.7")  # then it doesn't matter
    assert "wasn't charged" not in dpsd("why", "203.0.113.7").out


def test_the_score_of_a_part_of_a_peer_is_the_peers(dpsd: Run, url: str) -> None:
    with Store.open(url) as store:
        now = time.time()
        store.save_peers([PeerRow(ip_network("2001:db8:1:2::/64"), 30.0, now, now)])
    for peer in ("2001:db8:1:2::7", "2001:db8:1:2::/80", "2001:db8:1:2::/64"):
        assert dpsd("why", peer, "--json").json["score"] == pytest.approx(30, abs=0.5)
    assert dpsd("why", "2001:db8:1::/48").code == 1


def test_which_entry_decides_and_what_would_release_the_peer(dpsd: Run) -> None:
    dpsd("block", "203.0.113.7", "--for", "1h", "--reason", "guesses")
    told = dpsd("why", "203.0.113.7").out
    assert re.match(
        r"203.0.113.7 is on the block list until 20\S+Z \(in (1 h|59 min \d+ s)\),"
        r" put there by an operator at 20\S+Z\.\nWhy: guesses\n",
        told,
    )
    assert re.search(
        r"It is released at 20\S+Z by itself, or by: dpsd unblock 203.0.113.7."
        r" To never block it: dpsd allow 203.0.113.7\n",
        told,
    )
    assert "put on the block list until" in told

    dpsd("block", "203.0.113.0/24", "--for", "2h")  # lasts longer, so it is this one that counts
    known = dpsd("why", "203.0.113.7", "--json").json
    assert [entry["peer"] for entry in known["entries"]] == ["203.0.113.0/24", "203.0.113.7"]
    assert known["expires_at"] == known["entries"][0]["expires_at"]
    told = dpsd("why", "203.0.113.7").out
    assert "203.0.113.7 is on the block list, as part of 203.0.113.0/24, until 20" in told
    assert "dpsd unblock 203.0.113.0/24, with all the others there." in told
    assert known["release"]["by"] == ["dpsd unblock 203.0.113.0/24", "dpsd allow 203.0.113.7"]

    dpsd("allow", "203.0.113.0/24")
    known = dpsd("why", "203.0.113.7", "--json").json
    assert (known["list"], known["expires_at"]) == ("white", None)
    told = dpsd("why", "203.0.113.7").out
    assert re.match(
        r"203.0.113.7 is on the white list, as part of 203.0.113.0/24, for good, put there by"
        r" an operator at 20\S+Z; it passes, whatever it does\.\n",
        told,
    )
    assert told.count("It comes before: ") == 2
    assert "To end it: dpsd disallow 203.0.113.0/24" in told


def test_a_released_peer_has_a_history(dpsd: Run) -> None:
    dpsd("block", "203.0.113.7")
    dpsd("unblock", "203.0.113.7")
    known = dpsd("why", "203.0.113.7", "--json")
    assert known.code == 0
    assert known.json["list"] is None
    assert [each["action"] for each in known.json["history"]] == ["remove", "add"]
    assert "taken off the block list by operator" in dpsd("why", "203.0.113.7").out


def blocked_by_score(store: Store, peer: str, at: float, lasts: float) -> None:
    """As the daemon does it, with the reason cut short."""
    entry = Entry(ListName.BLOCK, ip_network(peer), "74 slot-seconds…", "score", at, at + lasts)
    store.commit([Record(Action.ADD, entry, at)])


def test_the_story_of_a_block(dpsd: Run, url: str) -> None:
    now = time.time()
    seen = {
        **{"kind": "overstay", "state": "ESTABLISHED", "cost": 74.0, "count": 10, "first": now},
        **{"at": now, "longest": 41.0, "most": 0, "proper": 10.0, "stress": 1.0, "ports": [25]},
    }
    with Store.open(url) as store:
        blocked_by_score(store, "203.0.113.7", now - 86400, 600)
        blocked_by_score(store, "203.0.113.7", now, 1200)
        detail = {"evidence": [seen], "sessions": {}, "listed": True}
        store.save_peers([PeerRow(ip_network("203.0.113.7"), 74.0, now, now, detail)])
    told = dpsd("why", "203.0.113.7").out.splitlines()
    assert re.fullmatch(
        r"203.0.113.7 is on the block list until \S+Z \(in (20 min|19 min 5\d s)\), put there by"
        r" its score at \S+Z\.",
        told[0],
    )
    assert told[1] == (
        "Why: 74 slot-seconds, its limit is 60 (policy.block_at; no mail delivered lately):"
    )
    assert told[2].startswith(
        "  10 sessions to port 25 were open and got nowhere for up to 41 s, where 10 s was proper"
        " under full stress: 74.0 slot-seconds (overstay), last at 20"
    )
    assert told[3:5] == [
        "This is block 2 within 30 d.",
        "The next would last 40 min, number 5 365 d on the black list.",
    ]
    assert told[5].endswith(": none.")
    known = dpsd("why", "203.0.113.7", "--json").json
    assert known["blocks"] == {
        **{"count": 2, "within": 30 * 86400.0, "next": "block", "next_for": 2400.0}
    }
    assert known["evidence"][0]["story"] in told[2]
    with Store.open(url) as store:
        for days in (2, 3):
            blocked_by_score(store, "203.0.113.7", now - days, 600)
    assert "The next would last 365 d, on the black list." in dpsd("why", "203.0.113.7").out
    with Store.open(url) as store:
        lifted = Entry(ListName.BLOCK, ip_network("203.0.113.7"), "", "fail2ban:sasl", now)
        store.commit([Record(Action.REMOVE, lifted, now)])  # what a program takes back does count
        blocked_by_score(store, "203.0.113.7", now, 600)
    assert dpsd("why", "203.0.113.7", "--json").json["blocks"]["count"] == 5
    dpsd("unblock", "203.0.113.7")  # what an operator takes back doesn't count
    known = dpsd("why", "203.0.113.7", "--json").json
    assert (known["blocks"]["count"], known["blocks"]["next_for"]) == (0, 600.0)


def test_a_long_reason_is_cut_in_the_table_only(dpsd: Run) -> None:
    reason = "many words " * 15
    dpsd("block", "203.0.113.7", "--reason", reason)
    assert dpsd("list", "--json").json[0]["reason"] == reason
    assert dpsd("list").out.splitlines()[1].endswith("many words many words …")


# --- status -------------------------------------------------------------------------------------


def test_status_without_a_daemon(dpsd: Run) -> None:
    dpsd("block", "203.0.113.7")
    said = dpsd("status", "--json")
    assert said.code == 0
    assert said.json == {
        "running": False,
        "mode": None,
        "pressure": None,
        "black_by_score": {"count": 0, "oldest": None},
        "slots": [],
        "events": {"received": 0, "lost": 0},
        "sessions": {"open": 0, "by_state": {}},
        "peers": 0,
        "lists": {"white": 0, "black": 0, "block": 1},
        "revision": {"stored": 1, "applied": None},
    }
    assert re.search(r"^daemon +doesn't run$", dpsd("status").out, re.M)
    assert re.search(r"^lists +white 0, black 0, block 1$", dpsd("status").out, re.M)


def test_status_with_a_daemon(dpsd: Run, url: str) -> None:
    told = {
        "pressure": 0.25,
        "events": {"received": 12, "lost": 3, "skipped": 1},
        "sessions": {"open": 25, "half_open": 2, "by_state": {"ESTABLISHED": 25, "SYN_RECV": 2}},
        "peers": 7,
        "blind": True,
        "accounting": False,
        "server_leaks": {"CLOSE_WAIT": 33},
        "ended": 5,
        "not_ended": 3,
        "not_ended_why": {"no_answer": 2, "stays": 1},
        "slots": [{"ports": [25, 587], "slots": 60, "source": "somebody"}],
        "price": 2048.0,
        "deferred": {"times": 9, "packets": 70},
    }
    with daemon(url, applied=0, mode="observe", **told):
        status = dpsd("status", "--json").json
        text = dpsd("status").out
    assert {key: status[key] for key in told} == told
    assert (status["running"], status["mode"], status["pid"]) == (True, "observe", os.getpid())
    assert status["revision"] == {"stored": 0, "applied": 0}
    assert re.search(r"^pressure +25% of the slots$", text, re.M)
    assert re.search(r"^price +2048 bytes a second have to be said to keep a slot$", text, re.M)
    assert re.search(r"^deferred +peers 9 times, 70 of their packets dropped$", text, re.M)
    assert re.search(r"^slots +60 for 25, 587: somebody$", text, re.M)
    assert re.search(r"^kernel +counts no bytes of sessions: talk isn't told from", text, re.M)
    assert re.search(r"^events +received 12, lost 3; some are missing, so nobody is", text, re.M)
    assert re.search(
        r"^server +slot-seconds that its own overstays cost: CLOSE_WAIT 33$", text, re.M
    )
    assert re.search(r"^ended +5 sessions$", text, re.M)
    assert re.search(r"^not ended +2 times: the server's host doesn't answer", text, re.M)
    assert re.search(r"^not ended +1 times: the server keeps the session", text, re.M)
    assert re.search(r"^sessions +open 25 \(ESTABLISHED 25, SYN_RECV 2\)$", text, re.M)


def test_status_of_a_daemon_that_has_told_nothing_yet(dpsd: Run, url: str) -> None:
    with Store.open(url, upgrade=True) as store:
        store.claim()
        status = dpsd("status", "--json").json
        assert (status["running"], status["pressure"]) == (True, None)
        assert re.search(r"^daemon +runs, starting$", dpsd("status").out, re.M)


# --- where the words go -------------------------------------------------------------------------


def run_alone(config: Path, words: str, redirected: str) -> subprocess.CompletedProcess[str]:
    """One command in a shell, with its standard streams as told there."""
    line = f'exec "{sys.executable}" -m dpsd --config "{config}" {words} {redirected}'
    where = Path(__file__).parent.parent
    return subprocess.run(
        ["sh", "-c", line], check=False, capture_output=True, text=True, cwd=where
    )


@pytest.mark.parametrize("words", ["list", "list --json", "--version"])
def test_data_that_cant_be_written(config: Path, dpsd: Run, words: str) -> None:
    dpsd("block", "203.0.113.7")
    done = run_alone(config, words, ">/dev/full")
    assert done.returncode == 69
    assert done.stderr == "dpsd: standard output: No space left on device\n"


def test_streams_that_are_closed(config: Path, dpsd: Run) -> None:
    done = run_alone(config, "block 203.0.113.7 --for 1h", ">&- 2>&-")
    assert done.returncode == 0
    assert listed(dpsd) == [("block", "203.0.113.7")]
    assert run_alone(config, "list", ">&-").returncode == 0


# --- check, run, record, replay: what they pass on ----------------------------------------------


def stand_in(monkeypatch: pytest.MonkeyPatch, name: str, **functions: Any) -> None:
    """Put a module of these functions in the place of one that needs a kernel."""
    module = ModuleType(name)
    vars(module).update(functions)
    monkeypatch.setitem(sys.modules, name, module)


@pytest.mark.parametrize(
    ("severities", "code"),
    [((), 0), (("warning",), 0), (("warning", "error"), 69), (("error", "forbidden"), 77)],
)
def test_check(
    dpsd: Run, monkeypatch: pytest.MonkeyPatch, severities: tuple[str, ...], code: int
) -> None:
    found = [SimpleNamespace(severity=s, text=f"a {s}", mend="do this") for s in severities]
    stand_in(monkeypatch, "dpsd.kernel.abilities", problems=lambda _: found)
    monkeypatch.setattr(assembly, "ask", lambda _: Mta((assumed("so"),)))
    said = dpsd("check")
    assert said.code == code
    assert said.out == "".join(f"{s}: a {s}\n  do this\n" for s in severities)
    slots = "slots: 100 for 25, 465, 587: assumed, because so\n"
    assert said.err == slots + ("" if severities else "all is well\n")


def test_check_tells_that_the_mail_server_does_not_answer(
    dpsd: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in(monkeypatch, "dpsd.kernel.abilities", problems=lambda _: [])
    monkeypatch.setattr(assembly, "ask", lambda _: Mta((assumed("so"),), None, "it broke"))
    said = dpsd("check")
    assert (said.code, said.out) == (0, "warning: the mail server can't be asked: it broke\n")
    assert "all is well" not in said.err


def test_check_tells_the_slots_that_the_daemon_goes_by(
    dpsd: Run, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in(monkeypatch, "dpsd.kernel.abilities", problems=lambda _: [])
    exim = Slots(Pool(frozenset(), 20), "Exim, smtp_accept_max")
    monkeypatch.setattr(assembly, "ask", lambda _: Mta((exim,)))
    told = {"ports": [25, 465, 587], "slots": 100, "source": "assumed, because so"}
    with daemon(url, 0, slots=[told]):
        said = dpsd("check")
        assert said.code == 0
        assert said.err == "slots: 100 for 25, 465, 587: assumed, because so\n"
        assert "asked from here: 20 for 25, 465, 587: Exim, smtp_accept_max;" in said.out
        same = Slots(Pool(frozenset(), 100), "assumed, because so")
        monkeypatch.setattr(assembly, "ask", lambda _: Mta((same,)))
        assert dpsd("check").out == ""
    monkeypatch.setattr(assembly, "ask", lambda _: Mta((exim,)))
    assert dpsd("check") == Said(  # none runs
        0, "", "slots: 20 for 25, 465, 587: Exim, smtp_accept_max\nall is well\n"
    )


def test_check_tells_of_the_store_and_makes_none(
    dpsd: Run, config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in(monkeypatch, "dpsd.kernel.abilities", problems=lambda _: [])
    assert dpsd("check").code == 0
    assert not (tmp_path / "dpsd.db").exists()
    (tmp_path / "dpsd.db").write_text("this is no database, whatever its name may say" * 99)
    said = dpsd("check")
    assert said.code == 69
    assert "error: store" in said.out
    config.write_text(f'[store]\nurl = "sqlite:///{tmp_path}/absent/dpsd.db"\n')
    assert "its directory doesn't exist; create it" in dpsd("check").out


def test_run(dpsd: Run, config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[Path, bool]] = []

    def run(path: Path, observe: bool) -> int:
        assert signal.getsignal(signal.SIGPIPE) == signal.SIG_IGN
        asked.append((path, observe))
        return 5

    stand_in(monkeypatch, "dpsd.daemon", run=run)
    assert dpsd("run").code == 5
    assert dpsd("run", "--observe").code == 5
    assert asked == [(config, False), (config, True)]


def test_record(dpsd: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[Path, float, bool]] = []

    def record(_: object, path: Path, seconds: float, anonymize: bool) -> bool:
        path.touch()
        asked.append((path, seconds, anonymize))
        return not anonymize

    stand_in(monkeypatch, "dpsd.capture", record=record)
    file = tmp_path / "x.capture"
    assert dpsd("record", str(file)) == Said(0, "", "")
    assert dpsd("record", str(file), "--for", "2m").code == 0
    said = dpsd("record", str(file), "--anonymize")
    assert said.code == 0
    assert "no event came" in said.err
    assert asked == [(file, 60.0, False), (file, 120.0, False), (file, 60.0, True)]
    assert dpsd("record", str(file), "--for", "2").code == 2
    said = dpsd("record", str(tmp_path / "absent" / "x"))
    assert said.code == 2
    assert "No such file or directory" in said.err


def test_replay(dpsd: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    verdicts: list[dict[str, Any]] = [
        {"at": "2026-11-22T21:40:00Z", "list": "block", "peer": "203.0.113.7", "expires_at": None}
    ]
    compared: Any = {
        **{"keys": ["policy.block_at"], "summary": {"both": 0, "policy": 0, "against": 0}},
        "peers": [],
    }
    stand_in(
        monkeypatch,
        "dpsd.capture",
        replay=lambda _config, _path: verdicts,
        compare=lambda _config, against, _path: {**compared, "at": against.policy.block_at},
    )
    file = tmp_path / "x.capture"
    assert dpsd("replay", str(file)).code == 2  # there is none
    file.touch()
    assert dpsd("replay", str(file), "--json").json == verdicts
    assert dpsd("replay", str(file)).out.split() == [
        *("AT", "LIST", "PEER", "EXPIRES_AT"),
        *("2026-11-22T21:40:00Z", "block", "203.0.113.7"),
    ]
    verdicts.clear()
    assert dpsd("replay", str(file)) == Said(0, "", "nobody would have been listed\n")
    other = tmp_path / "other.toml"
    assert dpsd("replay", str(file), "--against", str(other)).code == 78  # there is none
    other.write_text("policy.block_at = 7")
    found = dpsd("replay", str(file), "--against", str(other), "--json").json
    assert found == {**compared, "at": 7}
    lines = dpsd("replay", str(file), "--against", str(other)).out.splitlines()
    assert lines[1] == "They differ in policy.block_at."
    other.write_text("policy.block_at = 0")
    said = dpsd("replay", str(file), "--against", str(other))
    assert (said.code, "other.toml: policy.block_at" in said.err) == (78, True)


@pytest.mark.parametrize(("error", "code"), [(KernelError, 69), (NotPermitted, 77)])
def test_the_kernel_says_no(
    dpsd: Run, monkeypatch: pytest.MonkeyPatch, error: type[Exception], code: int
) -> None:
    def refuse(*_: object) -> None:
        raise error("the reason\nand more")

    stand_in(monkeypatch, "dpsd.kernel.abilities", problems=refuse)
    assert dpsd("check") == Said(code, "", "dpsd: the reason\ndpsd: and more\n")


# --- the configuration and the store, out of reach or wrong -------------------------------------


def test_config_before_or_after_the_command_or_from_the_environment(
    dpsd: Run, tmp_path: Path
) -> None:
    other = tmp_path / "other.toml"
    other.write_text(f'[store]\nurl = "sqlite:///{tmp_path}/other.db"\n')
    dpsd("block", "203.0.113.7")
    assert len(listed(dpsd)) == 1
    assert dpsd("--config", str(other), "list", "--json").json == []
    assert dpsd("list", "--config", str(other), "--json").json == []
    assert dpsd("--config", "/absent", "list", "--config", str(other), "--json").json == []


@pytest.mark.parametrize(
    "arguments",
    [["run"], ["list"], ["block", "192.0.2.9"], ["why", "192.0.2.9"], ["status"], ["check"]],
)
def test_a_bad_configuration(
    dpsd: Run, config: Path, arguments: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    if arguments == ["run"]:
        from dpsd.config import load  # noqa: PLC0415 - the daemon reads it itself

        stand_in(monkeypatch, "dpsd.daemon", run=lambda path, _: load(path))
    stand_in(monkeypatch, "dpsd.kernel.abilities", problems=lambda _: [])
    config.write_text("[protect]\nslots = 0\nprots = 1\n")
    said = dpsd(*arguments)
    assert (said.code, said.out) == (78, "")
    assert said.err.splitlines() == [
        f"dpsd: {config}: protect.slots: must be 1 to 1000000 sessions, not 0",
        f"dpsd: {config}: protect.prots: no such key; did you mean ports?",
    ]
    config.unlink()
    assert dpsd(*arguments).code == 78


def test_a_store_that_is_none(dpsd: Run, tmp_path: Path) -> None:
    (tmp_path / "dpsd.db").write_text("this is no database, whatever its name may say" * 99)
    for arguments in (["list"], ["block", "203.0.113.7"], ["why", "203.0.113.7"], ["status"]):
        said = dpsd(*arguments)
        assert (said.code, said.out) == (69, "")
        assert "Traceback" not in said.err
        assert "not an SQLite database" in said.err


@as_root
def test_somebody_elses_store(dpsd: Run, config: Path) -> None:
    dpsd("list")  # so that all modules are there before this process gives up its rights
    with tempfile.TemporaryDirectory() as name:
        config.write_text(f'[store]\nurl = "sqlite:///{name}/dpsd.db"\n')
        dpsd("block", "203.0.113.7")
        Path(name).chmod(0o755)
        text = config.read_bytes()
        readable = Path(name, "dpsd.toml")
        readable.write_bytes(text)
        os.seteuid(65534)
        try:
            said = [
                dpsd("--config", str(readable), *arguments)
                for arguments in (["list"], ["block", "203.0.113.8"], ["status"])
            ]
        finally:
            os.seteuid(0)
        for each in said:
            assert (each.code, each.out) == (77, "")
            assert "not permitted" in each.err
        readable.chmod(0o600)
        os.seteuid(65534)
        try:
            assert dpsd("--config", str(readable), "list").code == 77
        finally:
            os.seteuid(0)


# --- the terminal, the pipe, and help -----------------------------------------------------------


def test_version(dpsd: Run) -> None:
    assert dpsd("--version") == Said(0, f"dpsd {__version__}\n", "")


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_an_example(dpsd: Run, command: str) -> None:
    said = dpsd(command, "--help")
    assert (said.code, said.err) == (0, "")
    assert f"Usage: dpsd {command}" in said.out
    assert re.search(rf"Examples?:\n +dpsd {command}", said.out)
    assert "--config FILE" in said.out
    assert max(map(len, said.out.splitlines())) <= 80
    assert said.out.isascii()


def test_help_names_every_command_and_exit_code(dpsd: Run) -> None:
    told = dpsd("--help").out
    for name in COMMANDS:
        assert re.search(rf"^  {name} +[A-Z]", told, re.M)
    for code in ("0", "1", "2", "69", "77", "78"):
        assert re.search(rf"\b{code} [a-z]", told)


def process(*arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    """The command as a process of its own, with pipes."""
    return subprocess.run(
        [sys.executable, "-m", "dpsd", *arguments],
        cwd=Path(__file__).parent.parent,
        capture_output=True,
        text=True,
        check=False,
        **options,
    )


@pytest.mark.parametrize("arguments", [["list"], ["--help"], ["list", "--help"], ["list", "grey"]])
def test_a_pipe_gets_plain_text(dpsd: Run, config: Path, arguments: list[str]) -> None:
    dpsd("block", "203.0.113.7", "--permanent")
    said = process("--config", str(config), *arguments)
    assert said.returncode == (2 if "grey" in arguments else 0)
    for text in (said.stdout, said.stderr):
        assert text.isascii()
        assert text.replace("\n", "").isprintable()


def test_a_terminal_gets_a_table(dpsd: Run, config: Path) -> None:
    dpsd("block", "203.0.113.7", "--permanent", "--reason", "[bold]no markup[/bold] :bug:")
    ours, theirs = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "120"}
    subprocess.run(
        [sys.executable, "-m", "dpsd", "--config", str(config), "list"],
        cwd=Path(__file__).parent.parent,
        stdout=theirs,
        env=environment,
        check=True,
    )
    shown = os.read(ours, 65536).decode()
    os.close(ours)
    os.close(theirs)
    assert "──" in shown
    assert "[bold]no markup[/bold] :bug:" in shown


def test_a_reader_that_goes_away_is_no_error(dpsd: Run, config: Path, url: str) -> None:
    now = time.time()
    entries = [
        Entry(ListName.BLOCK, ip_network(f"203.0.{a}.{b}"), "", "import", now, now + 99)
        for a in range(20)
        for b in range(256)
    ]
    with Store.open(url) as store:
        store.commit([Record(Action.ADD, entry, now) for entry in entries])
    assert len(listed(dpsd)) == len(entries)
    with subprocess.Popen(
        [sys.executable, "-m", "dpsd", "--config", str(config), "list"],
        cwd=Path(__file__).parent.parent,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as running:
        assert running.stdout is not None
        assert running.stderr is not None
        running.stdout.readline()
        running.stdout.close()
        assert running.stderr.read() == b""
    assert running.returncode == -signal.SIGPIPE


def test_listing_is_quick_to_start(dpsd: Run, config: Path) -> None:
    dpsd("list")  # makes the store, which takes Alembic
    script = f"""if True:
        import sys
        from dpsd.cli import main
        sys.argv = ["dpsd", "--config", {str(config)!r}, "list"]
        try:
            main()
        except SystemExit:
            print(*(set({HEAVY!r}) & set(sys.modules)))
    """
    said = subprocess.run(
        [sys.executable, "-c", script],
        cwd=Path(__file__).parent.parent,
        capture_output=True,
        text=True,
        check=True,
    )
    assert said.stdout == "\n"


@pytest.mark.parametrize(
    ("words", "number", "expected"),
    [("dpsd dis", 1, "disallow"), ("dpsd list ", 2, "white black block")],
)
def test_completion(words: str, number: int, expected: str) -> None:
    asked = {"_DPSD_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(number)}
    assert process(env={**os.environ, **asked}).stdout.split() == expected.split()


# --- this host's own addresses ------------------------------------------------------------------

_TRIE = """Main:
  +-- 0.0.0.0/0 3 0 5
     |-- 0.0.0.0
        /0 universe UNICAST
     +-- 10.99.0.0/16 2 0 2
        |-- 10.99.0.0
           /16 host LOCAL
           /16 link UNICAST
        |-- 10.99.0.2
           /32 host LOCAL
        |-- 10.99.255.255
           /32 link BROADCAST
Local:
        |-- 10.99.0.2
           /32 host LOCAL
"""


def test_own_addresses(tmp_path: Path) -> None:
    assert own.addresses(tmp_path) == []
    (tmp_path / "fib_trie").write_text(_TRIE)
    (tmp_path / "if_inet6").write_text("20010db8000000000000000000000001 02 40 00 80     eth0\n")
    assert own.addresses(tmp_path) == [ip_network("10.99.0.2"), ip_network("2001:db8::1")]


def test_own_addresses_of_this_machine() -> None:
    assert ip_network("127.0.0.1") in own.addresses()
