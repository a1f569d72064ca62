"""What the mail server said last: whether it holds, and what the log says of it."""

import asyncio
import logging
from collections.abc import Callable

import pytest

from dpsd import assembly
from dpsd.config import Config, parse
from dpsd.core.policy import Pool
from dpsd.daemon.mailserver import MailServer
from dpsd.mta import Mta, Slots, assumed

ANSWER = Mta((Slots(Pool(frozenset(), 20), "Exim, smtp_accept_max"),))
SILENT = Mta((assumed("the mail server could not be asked"),), None, "it broke")
HOLDS, UNKNOWN = "what was known of it holds", "nothing is known of it"

Ask = Callable[..., int]


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Ask:
    """Has the server say something and the daemon take it; the slots that it goes by then."""
    server = MailServer()

    def ask(says: Mta, config: Config | None = None) -> int:
        monkeypatch.setattr(assembly, "ask", lambda _: says)
        config = config or Config()
        server.take(config, asyncio.run(server.ask(config)))
        assert server.said is not None
        return server.said.slots[0].pool.slots

    return ask


def test_what_is_known_holds_while_it_cant_be_asked(
    asked: Ask, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    assert asked(ANSWER) == 20
    assert asked(SILENT) == 20
    assert HOLDS in caplog.text
    assert asked(SILENT) == 20
    assert UNKNOWN not in caplog.text
    assert caplog.text.count(HOLDS) == 1


def test_the_log_claims_no_knowledge_that_there_is_not(
    asked: Ask, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(2):
        assert asked(SILENT) == 100
    assert caplog.text.count(UNKNOWN) == 1
    assert HOLDS not in caplog.text
    assert asked(ANSWER) == 20
    other = parse("protect.ports = [25]")
    assert asked(SILENT, other) == 100  # it was asked about other ports
    assert HOLDS not in caplog.text
