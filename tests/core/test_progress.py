"""Progress of a session, told as a table of what the counters said at each dump."""

import pytest

from dpsd.core.events import Measure
from dpsd.core.progress import AHEAD, HEADERS, OWED, WORDLESS, Progress, words

RATE = 32.0  # bytes a second


def counters(said: int, answered: int, packets: int = 4) -> Measure:
    """What the kernel shows when the peer said, and the server answered, so many bytes."""
    return Measure(
        packets=packets,
        octets=packets * HEADERS[4] + said,
        answers=packets,
        answered=WORDLESS[4] + (packets - 1) * HEADERS[4] + answered,
    )


def told(*dumps: tuple[float, int, int]) -> Progress:
    """A session that began at 0, after dumps of (when, said, answered)."""
    progress = Progress(0.0, 0.0)
    for now, said, answered in dumps:
        progress.measured(counters(said, answered), 4, RATE, now)
    return progress


GREETING, HELO, REPLY = 45, 16, 30


@pytest.mark.parametrize(
    ("what", "dumps", "useless"),
    [
        ("nobody greeted it yet: the server's turn", [(60, 0, 0)], 0),
        ("greeted and silent", [(5, 0, GREETING), (20, 0, GREETING)], 20),
        ("HELO buys half a second", [(5, HELO, GREETING + REPLY), (20, HELO, 75)], 19.5),
        ("NOOPs buy next to nothing", [(5, 16, 75), (13, 22, 90), (21, 28, 105)], 21 - 28 / 32),
        ("a slow mail is progress", [(5, 320, 75), (10, 640, 75), (15, 960, 75)], -15),
        ("progress is banked for pauses, but not for long", [(5, 9000, 75)], -AHEAD),
        ("what is banked runs out", [(5, 9000, 75), (65, 9000, 75 + REPLY)], 60 - AHEAD),
    ],
)
def test_useless(what: str, dumps: list[tuple[float, int, int]], useless: float) -> None:
    assert told(*dumps).useless() == pytest.approx(useless), what


def test_the_clock_stands_still_while_the_server_owes_an_answer() -> None:
    waiting = told((1, HELO, 75), (2, HELO + 40, 75))  # it asked; nothing was answered
    before = waiting.useless()
    waiting.measured(counters(HELO + 40, 75), 4, RATE, OWED)
    assert waiting.useless() == before
    waiting.measured(counters(HELO + 40, 75), 4, RATE, OWED + 50)  # not for ever: half a command
    assert waiting.useless() == pytest.approx(before + 50)
    waiting.measured(counters(HELO + 40, 105), 4, RATE, OWED + 51)
    assert waiting.owed == 0.0


def test_an_answer_alone_is_no_progress_of_the_peer() -> None:
    progress = told((1, HELO, 75), (11, HELO, 500), (21, HELO, 900))
    assert progress.useless() == pytest.approx(20.5)


def test_words_are_what_is_left_without_headers_and_never_negative() -> None:
    assert words(Measure(packets=3, octets=3 * HEADERS[6] + 7), 6) == 7
    assert words(Measure(packets=3, octets=3 * 40), 4) == 0  # no timestamps: shorter headers
    assert words(Measure(), 4) == 0


def test_without_counters_any_packet_is_progress() -> None:
    progress = Progress(0.0, 0.0)
    progress.heard(1190, 1200.0, 10.0)  # first seen: nothing is known of before
    assert progress.useless() == 0.0
    progress.heard(1185, 1200.0, 15.0)  # the kernel still forgets it at 1200
    assert progress.useless() == 5.0
    progress.heard(1198, 1200.0, 20.0)  # a packet, 2 s ago
    assert progress.useless() == 2.0
    progress.heard(298, 1200.0, 25.0)  # another timeout holds now: it was a packet all the same
    assert 0.0 <= progress.useless() <= 7.0
