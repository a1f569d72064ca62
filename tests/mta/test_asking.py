"""The mail server that is installed: a real postconf, and commands that fail."""

import os
from collections.abc import Iterator
from ipaddress import ip_network
from pathlib import Path

import pytest

from dpsd.mta import Mta, asking
from dpsd.mta.asking import ask, port_of
from tests.lab.postfix import postconf

PORTS = (25, 465, 587)
MASTER = """\
smtp        inet n - n - 1  postscreen
smtpd       pass - - n - 40 smtpd
submission  inet n - n - -  smtpd
  -o syslog_name=postfix/submission
127.0.0.1:submissions inet n - n - 3 smtpd
pickup      unix n - n 60 1 pickup
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("mta")


@pytest.fixture(scope="module")
def programs(folder: Path) -> Iterator[Path]:
    with postconf(folder) as found:
        yield found


@pytest.fixture
def postfix(folder: Path, programs: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A configuration that a real postconf reads."""
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    made = folder / "etc"
    made.mkdir(exist_ok=True)
    (made / "main.cf").write_text("""\
compatibility_level = 3.6
own = 192.0.2.0/24
mynetworks = 127.0.0.0/8, $own,
    hash:/etc/postfix/nets [2001:db8::]/32
default_process_limit = 70
""")
    (made / "master.cf").write_text(MASTER)
    return made


@pytest.fixture
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A host without any mail server; the folder is in its PATH."""
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setattr(asking, "_PLACES", "")
    monkeypatch.setattr(asking, "SENDMAIL_CF", tmp_path / "sendmail.cf")
    monkeypatch.setattr(asking, "EXIM_SAID", tmp_path / "exim.said")
    return tmp_path


def words(mta: Mta) -> list[str]:
    return [each.words(PORTS) for each in mta.slots]


def script(path: Path, text: str) -> None:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


def test_a_real_postconf(postfix: Path) -> None:
    mta = ask(PORTS, str(postfix))
    assert mta.problem == ""
    assert words(mta) == [
        "40 for 25: Postfix, smtpd/pass behind postscreen, process limit in master.cf",
        "100 for 465: assumed, because no service of Postfix listens there",
        "70 for 587: Postfix, submission/inet, default_process_limit",
    ]
    assert mta.networks is not None
    nets = ("127.0.0.0/8", "192.0.2.0/24", "2001:db8::/32")
    assert mta.networks.trusted == tuple(map(ip_network, nets))
    assert mta.networks.left_out == ("hash:/etc/postfix/nets (a file or table)",)


def test_a_real_postconf_by_its_defaults(postfix: Path) -> None:
    (postfix / "main.cf").write_text("compatibility_level = 3.6\nmynetworks_style = host\n")
    mta = ask((25,), str(postfix))
    assert mta.networks is not None
    assert ip_network("127.0.0.1/32") in mta.networks.trusted
    (postfix / "master.cf").write_text("smtp inet n - n - - smtpd\n")
    (slots,) = ask((25,), str(postfix)).slots
    assert slots.words((25,)) == "100 for 25: Postfix, smtp/inet, default_process_limit"


def test_a_broken_configuration_is_told(postfix: Path) -> None:
    (postfix / "master.cf").write_text("smtp inet n\n")
    mta = ask(PORTS, str(postfix))
    assert "bad field count" in mta.problem
    assert mta.networks is None
    assert words(mta) == [
        "100 for 25, 465, 587: assumed, because the mail server could not be asked"
    ]


def test_without_a_mail_server_a_hundred_are_assumed(alone: Path) -> None:
    (alone / "etc").mkdir()
    (alone / "etc/main.cf").touch()
    no_program = ask(PORTS, str(alone / "etc"))
    script(alone / "postconf", "exit 1")
    assert ask(PORTS, str(alone / "etc")).problem  # so it is asked if both are there
    for mta in (no_program, ask(PORTS, str(alone)), ask(PORTS, "")):
        assert words(mta) == [
            "100 for 25, 465, 587: assumed, because no mail server that could be asked is found"
        ]
        assert mta.problem == ""
        assert mta.networks is not None
        assert mta.networks.trusted == ()


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("echo 'cannot: so' >&2; exit 1", "cannot: so"),
        ("exit 3", "exit code 3"),
        ("sleep 60", "no answer within 0.2 s"),
        ("true", "lines are too few"),
    ],
)
def test_a_command_that_fails(
    alone: Path, monkeypatch: pytest.MonkeyPatch, text: str, problem: str
) -> None:
    monkeypatch.setattr(asking, "TIMEOUT", 0.2)
    (alone / "main.cf").touch()
    script(alone / "postconf", f"exec {text}" if text.startswith("sleep") else text)
    mta = ask(PORTS, str(alone))
    assert problem in mta.problem
    assert mta.networks is None


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("smtp_accept_max = 20", "20 for 25, 465, 587: Exim, smtp_accept_max"),
        ("smtp_accept_max = 0", "100 for 25, 465, 587: assumed, because Exim, smtp_accept_max is"),
        ("", "100 for 25, 465, 587: assumed, because Exim, smtp_accept_max is no limit"),
    ],
)
def test_exim(alone: Path, said: str, told: str) -> None:
    script(alone / "exim4", f'test "$*" = "-bP smtp_accept_max" && echo "{said}"')
    (found,) = words(ask(PORTS, ""))
    assert found.startswith(told)


def test_exim_that_may_not_read_its_configuration_has_said_it_to_another_unit(alone: Path) -> None:
    script(alone / "exim4", "echo 'failed to open config.autogenerated' >&2; exit 1")
    told = asking.EXIM_SAID
    told.write_text("smtp_accept_max = 20\n")
    mta = ask(PORTS, "")
    assert words(mta) == ["20 for 25, 465, 587: Exim, smtp_accept_max"]
    assert mta.problem == ""
    for unknown in ("", "smtp_acc"):  # it failed there as well, or is just being written
        told.write_text(unknown)
        assert "failed to open config.autogenerated" in ask(PORTS, "").problem
    told.unlink()
    assert "failed to open config.autogenerated" in ask(PORTS, "").problem


@pytest.mark.parametrize(
    ("text", "slots"),
    [
        ("O MaxDaemonChildren=12\n", 12),
        ("# limit\nO MaxDaemonChildren=40 \nO X=1\n", 40),
        ("#O MaxDaemonChildren=12\n", 100),
        ("O MaxDaemonChildren=0\n", 100),
    ],
)
def test_sendmail(alone: Path, text: str, slots: int) -> None:
    (alone / "sendmail.cf").write_text(text)
    (found,) = ask(PORTS, "").slots
    assert (found.pool.slots, found.pool.ports) == (slots, frozenset())
    assert "Sendmail" in found.source


def test_a_sendmail_cf_that_cant_be_read_is_told(alone: Path) -> None:
    (alone / "sendmail.cf").mkdir()
    mta = ask(PORTS, "")
    assert "sendmail.cf: Is a directory" in mta.problem
    assert mta.networks is None


def test_ports_have_names_without_a_file_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: object) -> int:
        raise OSError("service/proto not found")

    monkeypatch.setattr("socket.getservbyname", unknown)
    names = ("smtp", "submissions", "smtps", "submission", "nonsense")
    assert [port_of(name) for name in names] == [25, 465, 465, 587, None]
