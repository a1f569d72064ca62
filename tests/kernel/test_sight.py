"""What `dpsd check` tells of sessions that can't be seen or ended."""

import socket
from pathlib import Path

import pytest

from dpsd.config import Config
from dpsd.kernel import sight
from dpsd.kernel.abilities import problems
from dpsd.kernel.sight import notrack_rules, unseen, untracked, vrfs
from tests.kernel.netns import MailHost, connect, established, inside, run

CONFIG = Config()
PORTS = CONFIG.protect.ports


def texts() -> list[str]:
    return [each.text for each in problems(CONFIG) if "no bytes" not in each.text]


@pytest.mark.parametrize(
    "rule",
    [
        "tcp dport 25 notrack",
        "tcp dport { 22, 25 } notrack",
        "tcp dport { 1-1024 } counter packets 0 bytes 0 notrack",
        "tcp sport 587 notrack",
        "tcp dport != 22 notrack",
        "tcp dport @fast notrack",
        'iifname "eth0" notrack',
        "notrack",
        "meta l4proto { tcp, udp } th dport 25 notrack",
    ],
)
def test_a_rule_that_may_keep_sessions_from_conntrack(rule: str) -> None:
    """Row A6."""
    text = f"table inet mine {{\n\tchain c {{\n\t\t{rule}\n\t}}\n}}\n"
    assert list(notrack_rules(text, PORTS)) == [f"{rule} (table inet mine)"]
    assert list(notrack_rules(text.replace("inet mine", "inet dpsd"), PORTS)) == []


@pytest.mark.parametrize(
    "rule",
    [
        "udp dport 53 notrack",
        "tcp dport 80 notrack",
        "tcp dport { 22, 80, 100-200 } notrack",
        'iif "lo" notrack',
        'oifname "lo" notrack',
        "tcp dport 25 accept",
        "icmpv6 type nd-neighbor-solicit notrack",
    ],
)
def test_a_rule_that_does_not(rule: str) -> None:
    text = f"table inet mine {{\n\tchain c {{\n\t\t{rule}\n\t}}\n}}\n"
    assert list(notrack_rules(text, PORTS)) == []


def test_a_rule_in_the_kernel(mail_host: MailHost) -> None:
    assert mail_host
    assert untracked(PORTS) == []
    run("nft add table inet mine")
    run("nft add chain inet mine c { type filter hook prerouting priority raw ; }")
    run("nft add rule inet mine c tcp dport 25 notrack")
    run("nft add rule inet mine c udp dport 53 notrack")
    assert untracked(PORTS) == ["tcp dport 25 notrack (table inet mine)"]
    (told,) = [text for text in texts() if "conntrack doesn't see" in text]
    assert told.endswith("tcp dport 25 notrack (table inet mine)")


def sessions(host: MailHost, peer: str, count: int) -> list[socket.socket]:
    with inside(host.peers):
        made = [connect(peer, host.address[6 if ":" in peer else 4], 25) for _ in range(count)]
    assert all(established(each, 5) for each in made)
    return made


@pytest.mark.parametrize("peer", ["10.99.0.1", "2001:db8:99:1::1"])
def test_sessions_that_conntrack_does_not_know(mail_host: MailHost, peer: str) -> None:
    """Rows A4 and A5."""
    held = sessions(mail_host, peer, 6)
    assert unseen(PORTS) == (6, 6)
    assert not any("conntrack knows" in text for text in texts())  # nothing makes it track yet
    run("nft add table inet on")
    run("nft add chain inet on f { type filter hook input priority 0 ; }")
    run("nft add rule inet on f ct state invalid counter")
    held += sessions(mail_host, peer, 3)
    assert unseen(PORTS) == (9, 6)
    assert any("conntrack knows 3 of 9 sessions" in text for text in texts())
    for each in held[:6]:
        each.send(b"HELO")  # it picks them up
    assert unseen(PORTS) == (9, 0)
    assert not any("conntrack knows" in text for text in texts())
    for each in held:
        each.close()


def test_a_redirected_session_is_known(mail_host: MailHost) -> None:
    """From a port that is protected as well."""
    run("nft add table inet n")
    run("nft add chain inet n p { type nat hook prerouting priority -100 ; }")
    run("nft add rule inet n p tcp dport 587 redirect to :25")
    with inside(mail_host.peers):
        client = connect("10.99.0.1", mail_host.address[4], 587)
    assert established(client, 5)
    assert unseen(PORTS) == (1, 0)
    assert unseen([25]) == (1, 1)  # a port that nobody follows is no entry
    client.close()


@pytest.mark.usefixtures("mail_host")
def test_vrfs_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Row A14: by a fake, since not every kernel has them."""
    for name, text in (("red", "DEVTYPE=vrf\nINTERFACE=red\n"), ("eth0", "INTERFACE=eth0\n")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "uevent").write_text(text)
    assert vrfs(tmp_path) == ["red"]
    assert vrfs(tmp_path / "nowhere") == []
    monkeypatch.setattr(sight, "vrfs", lambda: ["red"])
    assert any("sessions in a VRF (red)" in text for text in texts())
