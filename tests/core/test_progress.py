"""Progress of a session, told as a table of what the counters said at each dump."""

import pytest

from dpsd.core.events import Measure
from dpsd.core.progress import HEADERS, NOTHING, TALK, WORDLESS, Progress, Useful, words
from dpsd.core.server import HUNG, OWED, OWED_AT_LEAST, Server

RATE, AHEAD = 32.0, 15.0  # bytes a second, seconds
USEFUL = Useful(RATE, AHEAD, AHEAD, mail=1000)


def counters(said: int, answered: int, packets: int = 4) -> Measure:
    """What the kernel shows when the peer said, and the server answered, so many bytes."""
    return Measure(
        packets=packets,
        octets=packets * HEADERS[4] + said,
        answers=packets,
        answered=WORDLESS[4] + (packets - 1) * HEADERS[4] + answered,
    )


def told(*dumps: tuple[float, int, int], server: Server | None = None) -> Progress:
    """A session that began at 0, after dumps of (when, said, answered)."""
    progress = Progress(0.0, 0.0)
    for now, said, answered in dumps:
        progress.measured(counters(said, answered), 4, USEFUL, server or Server(), now)
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


ASKED = (1, HELO, 75), (2, HELO + 40, 75)  # it asked again; nothing was answered yet


def test_the_clock_stands_still_while_the_server_owes_an_answer() -> None:
    at_once = told(*ASKED).useless()
    assert told(*ASKED, (2 + OWED, HELO + 40, 75)).useless() == at_once
    # But not for ever: it may be half a command.
    after = told(*ASKED, (2 + OWED, HELO + 40, 75), (62, HELO + 40, 75))
    assert after.useless() == pytest.approx(at_once + 60 - OWED)
    answered = told(*ASKED, (2 + OWED, HELO + 40, 105))
    assert not answered.owed_at


def test_a_server_that_answers_others_at_once_owes_this_one_nothing_for_long() -> None:
    busy = Server()
    progress = told(*ASKED, server=busy)
    before = progress.useless()
    for look in range(1, 19):
        busy.answered(0.2, False, 2 + look / 2)
        progress.measured(counters(HELO + 40, 75), 4, USEFUL, busy, 2 + look / 2)
    assert progress.useless() == pytest.approx(before + 9 - OWED_AT_LEAST)  # it stood still
    assert not progress.blames_server(busy)
    assert told(*ASKED).blames_server(Server())  # nobody was answered
    assert not told(*ASKED, (200, HELO + 40, 75)).blames_server(Server())  # but for so long?


def test_a_greeting_is_no_answer() -> None:
    """A server that greets but answers nobody is to blame, and not who waits for it."""
    server, alone = Server(), NOTHING
    told((1, alone, 0), (2, HELO, GREETING), server=server)  # not known yet to be all
    assert server.talk.at == 2
    for _ in range(3):
        told((3, alone, 0), (4, alone, GREETING), server=server)
    assert server.greeting.length == GREETING + 8
    waiting = told((5, alone, 0), (6, HELO, GREETING), server=server)
    assert waiting.owed
    assert server.talk.at == 2
    told((7, HELO, GREETING), server=server)
    waiting.measured(counters(HELO, GREETING), 4, USEFUL, server, 30.0)
    assert waiting.blames_server(server)
    told((30, HELO, GREETING + 150), server=server)  # EHLO was answered
    assert server.talk.at == 30


def test_who_asked_in_a_drought_is_borne_with_when_it_is_over() -> None:
    server = Server()
    server.answered(0.0, False, 10.0)
    server.answered(0.0, False, 20.0)
    for since, borne in ((9.0, False), (11.0, True), (16.0, True), (18.0, False), (21.0, True)):
        assert server.answered_nobody(since, 5.0, False) is borne
    assert not server.answered_nobody(11.0, HUNG + 1, False)
    server.answered(30.0, True, 25.0)  # a mail tells nothing of commands
    assert server.answered_nobody(21.0, 4.0, False)
    assert not server.answered_nobody(21.0, 4.0, True)


def test_the_way_of_the_greeting_is_not_the_peers_time() -> None:
    far = told((1, NOTHING, 0), (2, NOTHING, GREETING), (4, NOTHING, GREETING))
    assert not told((1, NOTHING, 0)).reached
    far.told(0.5, True, 4.0)  # two seconds ago, 1.5 of them on the way
    assert far.useless() == pytest.approx(0.5)


@pytest.mark.parametrize(("packets", "reached"), [(2, False), (3, True)])
def test_a_greeting_that_is_acknowledged_has_reached_its_peer(packets: int, reached: bool) -> None:
    progress = Progress(0.0, 0.0)
    progress.measured(counters(NOTHING, GREETING, packets), 4, USEFUL, Server(), 1.0)
    assert progress.reached is reached


def test_the_socket_knows_who_spoke_last() -> None:
    """Where both spoke since the last dump, none can tell."""
    talk = (1, HELO + 40, 75)
    waiting, answered, asking = told(talk, (5, 56, 75)), told(talk, (5, 56, 75)), told(talk)
    assert waiting.useless() == told(talk).useless()  # it may have asked something
    answered.told(4.0, True, 5.0)
    assert answered.useless() == pytest.approx(told(talk).useless() + 4)
    assert not answered.waits()
    asking.told(0.5, False, 1.5)
    assert asking.waits()
    assert asking.owed


def test_what_the_socket_knows_of_words_that_no_dump_saw_waits_for_the_next() -> None:
    progress = told(*ASKED)
    progress.told(0.1, True, 2.5)
    assert progress.owed
    silent = told((1, 0, GREETING))
    silent.told(0.5, False, 1.0)  # it was greeted within the tick of a clock
    assert not silent.owed


def test_a_tls_handshake_is_no_mail() -> None:
    assert told((1, 1700, 2500)).is_mail is False  # with a post-quantum key in the client's hello
    assert told((1, 2500, 2500)).is_mail
    assert told((1, 1000, 300)).is_mail


@pytest.mark.parametrize("every", [0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0, 4.0, 8.0])
def test_small_talk_is_of_no_use_in_any_rhythm(every: float) -> None:
    """It is answered at once, so each dump that finds both may have missed another question."""
    server, progress, now = Server(), Progress(0.0, 0.0), 0.0
    while progress.useless() <= 2.0 and now < 60.0:
        now += 0.25
        times = int(now / every)
        server.answered(0.0, False, now - 0.1)  # somebody else
        heard = counters(TALK + 6 * times, 75 + 30 * times)
        progress.measured(heard, 4, Useful(64.0, 1.0, 6.0, mail=1000), server, now)
    assert now <= 5.0


def test_a_slow_server_is_given_twice_the_time_that_it_takes() -> None:
    slow = Server()
    for second in range(100):
        slow.answered(2.0, False, second)
    assert slow.patience(since=2.0) == pytest.approx(4.0, abs=0.01)
    assert slow.patience(since=99) == OWED  # nobody was answered since
    for second in range(100, 300):
        slow.answered(0.1, False, second)
    assert slow.patience(since=2.0) == OWED_AT_LEAST


def test_a_slow_upload_tells_nothing_of_how_long_commands_take() -> None:
    server = Server()
    progress = told((1, HELO, 75), (2, 400, 75), (3, 9000, 75), server=server)
    progress.measured(counters(90_000, 75), 4, USEFUL, server, 40.0)
    progress.measured(counters(90_000, 105), 4, USEFUL, server, 60.0)
    assert server.mails.seconds > 5
    assert server.talk.seconds == 0
    assert server.patience(since=50.0) == OWED_AT_LEAST


def test_who_goes_on_unanswered_had_not_finished() -> None:
    """A byte now and then: the clock stood still for nothing, and is set right."""
    dripping = [(float(at), HELO + at // 3, 75) for at in range(1, 31)]
    assert told(*dripping).useless() == pytest.approx(30 - (HELO + 10) / RATE, abs=3)


def test_a_whole_mail_takes_the_server_time_to_look_through() -> None:
    sent = told((1, HELO, 75), (2, 9000, 75), (30, 9000, 75))
    assert sent.useless() <= 0


def test_who_asks_and_is_answered_at_the_same_time_may_have_asked_once_more() -> None:
    asked = told((1, 70, 75), (5, 70, 75))
    greeted_only = told((1, HELO, 75), (5, HELO, 75))
    assert asked.owed_at
    assert not greeted_only.owed_at
    assert asked.useless() < 0 < greeted_only.useless()


def test_a_mail_may_pause_for_longer_than_talk() -> None:
    hasty = Useful(RATE, ahead=1.0, pause=6.0, mail=1000)
    for said, ahead in ((999, 1.0), (1000, 6.0)):
        progress = Progress(0.0, 0.0)
        progress.measured(counters(said, 75), 4, hasty, Server(), 1.0)
        assert progress.useless() == -ahead


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
