"""Somebody switches conntrack's byte counters off while the daemon runs."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from dpsd.daemon.accounting import EVERY, Accounting
from dpsd.kernel import conntrack
from tests.daemon.conftest import Make
from tests.daemon.live import MailHost, eventually
from tests.kernel.netns import fresh, inside, run

ACCT = "net.netfilter.nf_conntrack_acct"
AGAIN = "sessions that began meanwhile are never measured"
UNABLE = "conntrack counts no bytes"


@pytest.fixture
def namespace() -> Iterator[None]:
    with fresh() as here, inside(here):
        yield


def set_to(value: int) -> None:
    run(f"sysctl -qw {ACCT}={value}")


def look(accounting: Accounting) -> bool:
    asyncio.run(accounting.look())
    return accounting.on


def test_a_daemon_switches_them_on_again(make: Make, host: MailHost) -> None:
    daemon = make()
    daemon.start()
    try:
        for times in (1, 2):
            host.net.mail.run("sysctl", "-qw", f"{ACCT}=0")
            assert eventually(lambda n=times: daemon.tail().count(AGAIN) == n, EVERY + 20)  # type: ignore[misc]
            assert host.net.mail.run("sysctl", "-n", ACCT).stdout.strip() == "1"
    finally:
        host.net.mail.run("sysctl", "-qw", f"{ACCT}=1")
    assert daemon.json("status")["accounting"] is True


@pytest.mark.usefixtures("namespace")
def test_at_the_start_they_are_switched_on_silently(caplog: pytest.LogCaptureFixture) -> None:
    set_to(0)
    accounting = Accounting(wanted=True)
    assert look(accounting)
    assert look(accounting)
    assert not caplog.text


@pytest.mark.usefixtures("namespace")
def test_they_are_left_off_if_that_is_wanted(caplog: pytest.LogCaptureFixture) -> None:
    set_to(0)
    accounting = Accounting(wanted=False)
    assert not look(accounting)
    assert run(f"sysctl -n {ACCT}").strip() == "0"
    assert not caplog.text


@pytest.mark.usefixtures("namespace")
def test_who_may_not_switch_them_on_says_so_once(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    accounting = Accounting(wanted=True)
    assert look(accounting)
    with monkeypatch.context() as patch:
        # Of the same namespace; it is 0, and nobody may write it.
        patch.setattr(conntrack, "ACCOUNTING", Path("/proc/sys/net/netfilter/nf_conntrack_count"))
        for _ in range(3):
            assert not look(accounting)
        assert caplog.text.count(UNABLE) == 1
        assert AGAIN not in caplog.text
    assert look(accounting)  # somebody else did
    assert caplog.text.count(AGAIN) == 1
    monkeypatch.setattr(conntrack, "ACCOUNTING", Path("/proc/sys/net/netfilter/none"))
    assert not look(accounting)
    assert caplog.text.count(UNABLE) == 2


@pytest.mark.usefixtures("namespace")
def test_events_are_switched_on_again(caplog: pytest.LogCaptureFixture) -> None:
    accounting = Accounting(wanted=True)
    look(accounting)
    for times in (1, 2):
        run("sysctl -qw net.netfilter.nf_conntrack_events=0")
        look(accounting)
        look(accounting)
        assert run("sysctl -n net.netfilter.nf_conntrack_events").strip() == "2"
        assert caplog.text.count("conntrack's events were switched off") == times


@pytest.mark.usefixtures("namespace")
def test_who_may_not_switch_events_on_says_so_once(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    accounting = Accounting(wanted=True)
    monkeypatch.setattr(conntrack, "EVENTS", Path("/proc/sys/net/netfilter/nf_conntrack_count"))
    for _ in range(3):
        look(accounting)
    assert caplog.text.count("conntrack tells no events") == 1
