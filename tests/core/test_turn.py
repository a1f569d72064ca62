"""Whose turn it is, told as a table of what the counters said at each look, and by sockets."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dpsd.core.events import Word
from dpsd.core.latency import Server
from dpsd.core.numbers import FADE, OTHERS, REPLY_SLACK
from dpsd.core.turn import BOTH, DOUBT, GREETING, HIDDEN, PEER, SERVER, UNFINISHED, Progress, Turn

Look = tuple[float, int, int]  # when, and bytes that the peer and the server said by then


def after(*looks: Look, server: Server | None = None, greets: bool = True) -> Progress:
    """A session that began at 0, after these looks at the table."""
    server = server or Server()
    progress = Progress(0.0, greets)
    for now, said, answered in looks:
        progress.look(said, answered, server, now)
    return progress


def word(ago: float, by_server: bool, **more: float) -> Word:
    """What a socket tells of a session that was accepted and has nothing unread."""
    usual = {"said": 20, "answered": 90, "rtt": 0.0, "unread": 0, "unacked": 0, "accepted": True}
    return Word(ago, by_server, **{**usual, **more})  # type: ignore[arg-type]


GREETED, HELO, REPLIED = 45, 20, 90


@pytest.mark.parametrize(
    ("what", "looks", "turn", "own"),
    [
        ("nobody greeted it yet", [(9, 0, 0)], GREETING, 0),
        ("it speaks before it is greeted", [(1, HELO, 0), (9, HELO, 0)], DOUBT, 0),
        ("greeted, and silent", [(1, 0, GREETED), (4, 0, GREETED)], PEER, 3),
        ("it spoke last", [(1, 0, GREETED), (2, HELO, GREETED)], SERVER, 0.5),
        ("both spoke", [(1, HELO, REPLIED)], BOTH, 0),
        ("both spoke, and then nobody", [(1, HELO, REPLIED), (4, HELO, REPLIED)], PEER, 3),
        ("a reply is due", [(1, HELO, GREETED), (1.4, 40, 45), (1.8, 40, 45)], SERVER, 0.4),
        ("a reply is late", [(1, 0, GREETED), (2, HELO, 45), (9, HELO, 45)], DOUBT, 0.5),
        ("it was late", [(1, 0, 45), (2, HELO, 45), (9, HELO, 45), (10, HELO, 90)], PEER, 0.5),
    ],
)
def test_whose_turn_it_is_and_how_long_it_was_the_peers(
    what: str, looks: list[Look], turn: Turn, own: float
) -> None:
    progress = after(*looks)
    assert progress.turn is turn, what
    assert progress.own == pytest.approx(own), what


def test_while_it_is_the_peers_turn_its_time_runs_between_looks() -> None:
    silent = after((1, 0, GREETED), (4, 0, GREETED))
    assert silent.own_by(6.0) == pytest.approx(5.0)
    assert silent.present(6.0) == silent.idle_by(6.0) == pytest.approx(5.0)
    waiting = after((1, 0, GREETED), (2, HELO, GREETED))
    assert waiting.own_by(6.0) == waiting.own


def test_the_way_to_the_peer_and_back_is_not_its_time() -> None:
    far = after((1, 0, GREETED))
    far.told(word(0.0, True, said=0, answered=GREETED, rtt=0.6), Server(), 1.0)
    assert far.own_by(1.5) == pytest.approx(0.5)  # a socket's `ago` is without the way already
    far.look(HELO, GREETED, Server(), 2.0)
    far.look(HELO, REPLIED, Server(), 3.0)
    before = far.own
    assert far.own_by(3.5) == before
    assert far.own_by(4.0) == pytest.approx(before + 0.4)


def test_late_acknowledgements_are_free_for_a_few_seconds_only() -> None:
    """Who acknowledges a second late seems to be as far away, for as long as it likes."""
    server, progress = Server(measured=True), Progress(0.0, True)
    progress.look(0, GREETED, server, 0.1)
    progress.told(word(0.1, True, rtt=1.0), server, 0.1)
    said, answered, now = 0, GREETED, 0.1
    for _ in range(10):  # a NOOP each second
        said, answered, now = said + 6, answered + 9, now + 1.0
        progress.look(said, answered, server, now)
    assert progress.own_by(now) > 2.0
    near = Progress(0.0, True)
    near.told(word(0.1, True, rtt=0.2), server, 0.1)
    for number in range(1, 6):
        near.look(20 * number, GREETED + 30 * number, server, 0.1 + 0.2 * number)
    assert near.own_by(1.1) < 0.2


def test_a_mail_that_was_thought_to_be_over_tells_how_long_mails_take() -> None:
    """Where the reply to DATA and the mail come within one look, it seems to have its reply."""
    server = Server(measured=True)
    after((1, 60, 300), (2, 5000, 330), (9, 5000, 330), (10, 5000, 360), server=server)
    assert server.filter.seconds > 2.0
    assert server.mail.seconds == 0.0


def test_whoever_opened_no_window_can_not_be_greeted() -> None:
    """The greeting waits in the server's queue, and it is the peer's doing."""
    shut = after((1, 0, 0), (5, 0, 0))
    shut.told(word(5.0, False, answered=0, said=0, unacked=45), Server(measured=True), 5.0)
    assert (shut.turn, shut.since) == (PEER, 0.0)
    assert shut.own_by(5.0) == pytest.approx(5.0)


def test_one_that_speaks_first_is_owed_nothing_before() -> None:
    """Row B13: on a port for implicit TLS the server waits for the peer's first word."""
    silent = after((1, 0, 0), (5, 0, 0), greets=False)
    assert silent.turn is PEER
    assert silent.present(5.0) == pytest.approx(5.0)


# Doubt, and what ends it


def busy(*asked: float, words: int = 300) -> Server:
    """A server that answered others who came and asked at these times."""
    server = Server()
    for n, at in enumerate(asked):
        server.answered(words, at + n / 1000, at + n / 1000)
    return server


ASKED: list[Look] = [(1, 0, GREETED), (2, HELO, GREETED)]


def test_who_others_are_answered_before_that_asked_later_has_not_finished() -> None:
    late = [(5.0, HELO, GREETED)]
    assert after(*ASKED, *late, server=busy()).turn == DOUBT
    assert after(*ASKED, *late, server=busy(*[3.0] * (OTHERS - 1))).turn == DOUBT
    assert after(*ASKED, *late, server=busy(*[1.5] * OTHERS)).turn == DOUBT  # they asked before
    unfinished = after(*ASKED, *late, server=busy(*[3.0] * OTHERS))
    assert unfinished.turn == UNFINISHED
    assert unfinished.present(5.0) == pytest.approx(3.0)  # all of it
    assert unfinished.present(6.0) == pytest.approx(4.0)
    unfinished.look(HELO, GREETED, Server(), 7.0)
    assert unfinished.present(7.0) == pytest.approx(5.0)


def test_mails_and_commands_are_not_compared() -> None:
    """A content filter: a mail waits while commands are answered at once."""
    server = busy(*[3.0] * OTHERS)
    mail = after((1, 0, GREETED), (2, 5000, GREETED), (60, 5000, GREETED), server=server)
    assert mail.turn == DOUBT
    for n in range(OTHERS):
        server.answered(3000, 50.0 + n, 58.0 + n)
    mail.look(5000, GREETED, server, 62.0)
    assert mail.turn == UNFINISHED


def test_a_mail_within_one_look_tells_of_mails_only_where_they_are_answered_as_fast() -> None:
    """In a look in which both spoke the server may still owe that mail its reply."""
    for seconds, told in ((0.0, True), (8.0, False)):
        server = Server()
        server.mail.seconds = seconds
        for n in range(OTHERS):
            other = Progress(10.0 + n, True)
            other.look(0, GREETED, server, 10.1 + n)
            other.look(5000, 300, server, 10.4 + n)
        assert server.passed_over(3000, 9.0, 9.5) is told, seconds
        assert server.passed_over(500, 9.0, 9.5)


def test_who_goes_on_unanswered_had_not_finished() -> None:
    """A byte now and then: the clock stood still for nothing, and is set right."""
    dripping = [(float(at), HELO + at, GREETED) for at in range(2, 30)]
    progress = after(*ASKED, *dripping)
    assert progress.goes_on
    assert progress.own > 3.0
    assert not after(*ASKED, (3, HELO, REPLIED), (4, 40, REPLIED)).goes_on


# What it makes of its time


def test_what_was_said_counts_half_after_a_while_of_silence() -> None:
    progress = after((1, 0, GREETED), (1, 1000, REPLIED))
    before = progress.useful
    progress.look(1000, REPLIED, Server(), 1 + REPLY_SLACK + 0.01)
    progress.look(1000, REPLIED, Server(), 1 + FADE)
    assert progress.useful == pytest.approx(before / 2)


def test_an_honest_mail_is_worth_more_than_small_talk() -> None:
    mail = after((0.3, 60, 300), (0.6, 5000, 330))
    talk = after(*[(n * 0.3, 6 * n, 45 + 9 * n) for n in range(1, 10)])
    drip = after(*[(n * 0.3, 30 * n, 45) for n in range(1, 20)])
    assert mail.value > 100 * max(talk.value, drip.value)


def test_who_says_too_little_is_idle_all_the_same() -> None:
    """evidence.useful_rate: so many bytes are a second's progress."""
    server = Server(useful_rate=32.0)
    looks = [(float(n), n, 45) for n in range(1, 60)]
    assert after(*looks, server=server).idle > 50
    assert after(*[(float(n), 64 * n, 45) for n in range(1, 60)], server=server).idle < 1.0


# Mails


def test_a_mail_counts_when_it_is_answered() -> None:
    sent = after((1, 60, 300), (2, 5000, 300))
    assert sent.mails == 0
    sent.look(5000, 330, Server(), 3.0)
    assert (sent.mails, sent.guessed) == (1, False)
    sent.look(9000, 330, Server(), 4.0)
    sent.look(9000, 360, Server(), 5.0)
    assert sent.mails == 2


def test_a_mail_that_is_answered_and_goes_on_counts_once() -> None:
    """Both spoke: it may be over, or the reply was to what came before it."""
    sent = after((1, 60, 300), (2, 5000, 330))
    assert (sent.mails, sent.guessed) == (1, True)
    sent.look(9000, 360, Server(), 3.0)
    assert sent.mails == 1
    sent.told(word(0.1, False), Server(), 3.0)  # it wasn't at its end
    assert (sent.mails, sent.guessed) == (0, False)


def test_a_mail_that_wasnt_at_its_end_is_no_new_beginning() -> None:
    """Else whoever is answered a word, meanwhile, would tell that this one isn't finished."""
    server = Server(measured=True)
    sent = after((1, 60, 300), (2, 5000, 330), server=server)
    sent.told(word(0.1, False), server, 2.0)
    for number in range(OTHERS):
        server.answered(20, 5.0 + number, 6.0 + number)
    sent.look(5000, 330, server, 60.0)
    assert (sent.turn, sent.begun) == (DOUBT, 0)
    sent.look(5000, 360, server, 61.0)
    assert (sent.mails, sent.begun) == (1, 5000)


def test_a_mail_that_was_at_its_end_is_one() -> None:
    told = after((1, 60, 300), (2, 5000, 330))
    told.told(word(0.1, True), Server(), 2.0)
    assert (told.mails, told.begun) == (1, 5000)
    untold = after((1, 60, 300), (2, 5000, 330), (3, 5020, 330), (4, 5020, 360))
    assert (untold.mails, untold.begun) == (1, 5020)


def test_a_tls_handshake_is_no_mail() -> None:
    assert after((1, 1700, 2500)).mails == 0
    assert after((1, 2500, 2500)).mails == 1
    assert after((1, 1000, 300)).mails == 1


# The sockets know better


def test_the_socket_knows_who_spoke_last_where_both_did() -> None:
    both = after((1, HELO, REPLIED))
    both.told(word(0.8, True), Server(), 1.2)
    assert both.turn is PEER
    assert both.since == pytest.approx(0.4)
    asked = after((1, HELO, REPLIED))
    asked.told(word(0.1, False), Server(), 1.2)
    assert asked.turn is SERVER
    assert asked.since == pytest.approx(1.1)


def test_own_time_that_wasnt_is_taken_back() -> None:
    guessed = after((1, HELO, REPLIED), (4, HELO, REPLIED))
    assert guessed.own == pytest.approx(3.0)
    guessed.told(word(0.2, False), Server(), 4.0)
    assert (guessed.turn, guessed.own, guessed.idle) == (SERVER, 0.0, 0.0)


def test_what_the_servers_process_has_not_read_is_its_turn() -> None:
    progress = after((1, 0, GREETED), (9, 0, GREETED))
    progress.told(word(8.0, False, unread=40), Server(), 9.0)
    assert (progress.turn, progress.own) == (SERVER, 0.0)


@pytest.mark.parametrize("what", [{"accepted": False}, {"answered": 0}])
def test_who_waits_for_the_server_process_is_in_nobodys_turn(what: dict[str, float]) -> None:
    progress = after((1, 0, 0))
    progress.told(word(8.0, False, **what), Server(), 9.0)
    assert (progress.turn, progress.own) == (GREETING, 0.0)


def test_who_was_told_something_that_has_not_arrived() -> None:
    progress = after((1, 0, GREETED))
    progress.told(word(3.0, True, unacked=30), Server(), 5.0)
    assert progress.unreached
    progress.told(word(3.0, True), Server(), 6.0)
    assert not progress.unreached


def test_a_doubtful_one_stays_so_when_the_socket_says_the_same() -> None:
    progress = after(*ASKED, (9, HELO, GREETED))
    progress.told(word(7.5, False), Server(), 9.0)
    assert progress.turn == DOUBT
    progress.told(word(0.1, False), Server(), 9.5)  # it went on meanwhile
    assert progress.turn == SERVER


def test_without_counters_the_socket_tells_what_was_said() -> None:
    progress = Progress(0.0, True)
    progress.told(word(0.1, False, said=5000), Server(measured=False), 1.0)
    assert (progress.said, progress.useful) == (5000, 5000)


# Without counters


def test_without_counters_any_packet_is_progress() -> None:
    progress = Progress(0.0, True)
    progress.kept(1190, 1200.0, 10.0)  # first seen: nothing is known of before
    assert progress.own == 0.0
    progress.kept(1185, 1200.0, 15.0)  # the kernel still forgets it at 1200
    assert (progress.own, progress.own_by(17.0)) == (5.0 - HIDDEN, 7.0 - HIDDEN)
    progress.kept(1195, 1200.0, 20.0)  # a packet, 5 s ago
    assert progress.own == 5.0 - HIDDEN
    progress.kept(298, 1200.0, 25.0)  # another timeout holds now: it was a packet all the same
    assert 0.0 <= progress.own <= 7.0


@pytest.mark.parametrize("every", [0.25, 0.3, 0.5])
def test_without_counters_a_session_that_moves_is_never_silent(every: float) -> None:
    """The kernel tells whole seconds only: a packet shows late."""
    progress, now = Progress(0.0, True), 0.0
    while now < 60.0:
        now += every
        progress.kept(int(1200.0 - every / 3), 1200.0, now)
        assert progress.own == 0.0


# Whatever comes


@given(
    st.lists(
        st.tuples(
            st.floats(0.01, 30), st.integers(0, 3000), st.integers(0, 3000), st.sampled_from("lws")
        ),
        max_size=40,
    ),
    st.booleans(),
)
def test_time_is_counted_once(steps: list[tuple[float, int, int, str]], greets: bool) -> None:
    """Own time never runs faster than the clock, and nothing is negative."""
    server, progress = Server(), Progress(0.0, greets)
    now, said, answered = 0.0, 0, 0
    for wait, spoke, heard, what in steps:
        now += wait
        if what == "w":
            progress.told(word(wait, bool(spoke % 2), rtt=(heard % 9) / 10), server, now)
        else:
            said += spoke if what == "s" else 0
            answered += heard if what == "s" else 0
            progress.look(said, answered, server, now)
        assert 0 <= progress.own <= now + 1e-6
        assert 0 <= progress.idle <= now + 1e-6
        assert 0 <= progress.spent <= now + 1e-6
        assert progress.useful >= 0
        assert progress.mails >= 0
        assert progress.since <= now + 1e-6
