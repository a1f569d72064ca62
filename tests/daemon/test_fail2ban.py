"""A real fail2ban bans through dpsd: a log goes in, elements of the kernel's sets come out."""

from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from tests.daemon.conftest import Make
from tests.daemon.live import MailHost, Nft, command, ended, eventually, listed
from tests.lab.dpsd import Dpsd
from tests.lab.jails import Jails

PATIENCE = 30.0  # seconds; fail2ban looks at its log once a second
JAIL = "postfix-sasl"
SOURCE = f"fail2ban:{JAIL}"
HOUR = 3600


class Host:
    """The mail host with dpsd and fail2ban, whose jail reads a mail log that the tests write."""

    def __init__(self, daemon: Dpsd, directory: Path) -> None:
        self.daemon = daemon
        self.mail_log = directory / "mail.log"
        self.mail_log.touch()
        self._directory = directory
        self._running: Jails | None = None

    def start(self, seconds: int = HOUR, more: str = "") -> Jails:
        """Start fail2ban with the distribution's own filter, two failures to a ban."""
        dpsd = " ".join(command(self.daemon))
        jail = (
            f"backend = polling\nlogpath = {self.mail_log}\nmaxretry = 2\nfindtime = 1h\n"
            "usedns = no\nignoreself = no\n"  # there is nobody to ask for names
            f'{more}bantime = {seconds}\naction = dpsd[dpsd="{dpsd}"]\n'
        )
        self._running = Jails(self.daemon.space, self._directory, {JAIL: jail})
        self._running.start()
        return self._running

    def stop(self) -> None:
        if self._running is not None:
            self._running.stop()

    def fails(self, peer: str, ago: int = 0) -> None:
        """Let a peer fail to log in twice so many seconds ago, as Postfix writes it."""
        at = (datetime.now() - timedelta(seconds=ago)).strftime("%b %d %H:%M:%S")
        line = f"{at} mail postfix/smtpd[42]: warning: unknown[{peer}]: SASL LOGIN authentication"
        with self.mail_log.open("a", encoding="utf-8") as log:
            log.write(2 * f"{line} failed: UGFzc3dvcmQ6\n")

    def source(self, peer: str, name: str = "block") -> str | None:
        """By whom a peer is on a list."""
        entry = listed(self.daemon).get((name, peer))
        return None if entry is None else str(entry["source"])


@pytest.fixture
def mail(make: Make, tmp_path: Path) -> Iterator[Host]:
    daemon, directory = make(), tmp_path / "fail2ban"
    daemon.start()
    directory.mkdir()
    made = Host(daemon, directory)
    yield made
    made.stop()


def soon(true: Callable[[], object]) -> bool:
    return eventually(true, PATIENCE)


def errors(fail2ban: Jails) -> list[str]:
    lines = fail2ban.log.read_text(encoding="utf-8").splitlines()
    bad = [line for line in lines if " ERROR " in line or " WARNING " in line]
    return [line for line in bad if "fail2ban.act" in line or "fail2ban.utils" in line]


def test_a_ban_is_an_element_and_an_unban_takes_it_out(
    mail: Host, host: MailHost, nft: Nft
) -> None:
    fail2ban, peer, peer6 = mail.start(), "10.99.170.1", "2001:db8:a170::5"
    held = host.session(peer)
    mail.fails(peer)
    mail.fails(peer6)
    assert soon(lambda: nft.holds("block4", peer))
    assert soon(lambda: nft.holds("block6", "2001:db8:a170::"))
    left = nft.elements("block4")[peer]
    assert left is not None
    assert HOUR - 60 < left <= HOUR
    assert ended(held)
    assert host.drops(peer)
    assert host.drops(peer6)
    entry = listed(mail.daemon)["block", peer]
    assert entry["source"] == SOURCE
    assert entry["reason"] == f"fail2ban: {JAIL}, 2 failures"
    for each in (peer, peer6):
        assert fail2ban.client("set", JAIL, "unbanip", each) == "1"
    assert soon(lambda: not nft.holds("block4", peer))
    assert soon(lambda: not nft.holds("block6", "2001:db8:a170::"))
    assert host.reached(peer)
    assert host.reached(peer6)
    assert not errors(fail2ban)


def test_a_ban_ends_by_its_time(mail: Host, nft: Nft) -> None:
    fail2ban, peer = mail.start(seconds=3), "10.99.171.1"
    mail.fails(peer)
    assert soon(lambda: f"{peer} block for" in mail.daemon.log.read_text(encoding="utf-8"))
    assert soon(lambda: not nft.holds("block4", peer))
    assert soon(lambda: "Unban " + peer in fail2ban.log.read_text(encoding="utf-8"))
    mail.stop()  # it waits for its actions
    assert not errors(fail2ban)


def test_a_prolonged_ban_is_prolonged_here(mail: Host, nft: Nft) -> None:
    growing = "bantime.increment = true\nbantime.multipliers = 1 500\n"
    fail2ban, peer = mail.start(seconds=4, more=growing), "10.99.175.1"
    mail.fails(peer)
    assert soon(lambda: nft.holds("block4", peer))
    assert soon(lambda: "Unban " + peer in fail2ban.log.read_text(encoding="utf-8"))
    mail.fails(peer)
    assert soon(lambda: (nft.elements("block4").get(peer) or 0) > 1000)
    assert not errors(fail2ban)


def test_a_ban_for_good_is_black_until_it_is_lifted(mail: Host, nft: Nft) -> None:
    fail2ban, peer = mail.start(seconds=-1), "10.99.172.1"
    mail.fails(peer)
    assert soon(lambda: nft.holds("black4", peer))
    assert nft.elements("black4")[peer] is None
    assert mail.source(peer, "black") == SOURCE
    fail2ban.client("unban", peer)
    assert soon(lambda: not nft.holds("black4", peer))
    assert not errors(fail2ban)


def test_an_unban_leaves_a_longer_block_of_an_operator(mail: Host, nft: Nft) -> None:
    fail2ban, before, after = mail.start(), "10.99.173.1", "10.99.173.2"
    mail.daemon.cli("block", before, "--for", "1d", check=True)
    for peer in (before, after):
        mail.fails(peer)
    assert soon(lambda: nft.holds("block4", after))
    assert soon(lambda: before in fail2ban.client("get", JAIL, "banip"))
    mail.daemon.cli("block", after, "--for", "1d", check=True)
    fail2ban.client("unban", before, after)
    mail.stop()  # it waits for its actions
    assert nft.holds("block4", before)
    assert nft.holds("block4", after)
    assert mail.source(before) == mail.source(after) == "operator"
    assert not errors(fail2ban)


def test_a_stop_lifts_the_bans_and_a_start_makes_them_again(mail: Host, nft: Nft) -> None:
    peers = {"10.99.174.1", "10.99.174.2"}
    mail.start()
    for peer in peers:
        mail.fails(peer, ago=1000)
    mail.daemon.cli("block", "10.99.174.3", "--for", "1h", check=True)
    assert soon(lambda: nft.elements("block4").keys() > peers)
    mail.stop()
    assert set(nft.elements("block4")) == {"10.99.174.3"}
    fail2ban = mail.start()
    assert soon(lambda: nft.elements("block4").keys() > peers)
    left = nft.elements("block4")["10.99.174.1"]
    assert left is not None
    assert left < HOUR - 900  # it isn't a new ban
    fail2ban.kill()  # nothing is lifted
    assert nft.elements("block4").keys() > peers
    fail2ban = mail.start()
    assert soon(lambda: fail2ban.log.read_text(encoding="utf-8").count("Restore Ban") >= 4)
    fail2ban.client("unban", "--all")
    assert soon(lambda: set(nft.elements("block4")) == {"10.99.174.3"})
    assert not errors(fail2ban)
