"""The server's own leaks: a warning when they grow fast, then hourly."""

from dpsd.daemon.leaks import Leaks


def test_a_slot_that_is_always_lost_is_told_at_once_and_then_hourly() -> None:
    leaks, told = Leaks(), list[float]()
    for minute in range(1, 200):
        now = 1e9 + 60.0 * minute
        if list(leaks.notable({"CLOSE_WAIT": 61.0 * minute}, now)):
            told.append(now - 1e9)
    assert told == [60.0, 3660.0, 7260.0, 10860.0]


def test_what_grows_slowly_or_not_at_all_isnt_told() -> None:
    leaks = Leaks()
    for minute in range(1, 200):
        assert not list(leaks.notable({"FIN_WAIT": 59.0 * minute}, 60.0 * minute))
    assert list(leaks.notable({"FIN_WAIT": 59.0 * 199 + 200}, 60.0 * 200))
    for minute in range(201, 300):
        assert not list(leaks.notable({"FIN_WAIT": 59.0 * 199 + 200}, 60.0 * minute))


def test_a_late_look_measures_by_the_minute() -> None:
    leaks = Leaks()
    assert not list(leaks.notable({}, 60.0))
    assert not list(leaks.notable({"FIN_WAIT": 110.0}, 180.0))
    assert list(leaks.notable({"FIN_WAIT": 230.0}, 300.0))


def test_each_state_is_told_for_itself() -> None:
    leaks = Leaks()
    assert len(list(leaks.notable({"FIN_WAIT": 99.0, "LAST_ACK": 99.0}, 60.0))) == 2
    (words,) = leaks.notable({"FIN_WAIT": 199.0, "CLOSE_WAIT": 99.0}, 120.0)
    assert "CLOSE_WAIT" in words
