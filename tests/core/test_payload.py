"""What was said, from counters that include headers."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dpsd.core.events import Measure
from dpsd.core.payload import answered, is_mail, payload, said

STAMPED, BARE = {4: 52, 6: 72}, {4: 40, 6: 60}
BOTH_VERSIONS = pytest.mark.parametrize("version", [4, 6])


@BOTH_VERSIONS
@pytest.mark.parametrize("packets", [1, 2, 3, 20])
def test_a_handshake_and_acknowledgements_say_nothing(version: int, packets: int) -> None:
    """A SYN is longer by MSS, window scale and SACK, and the padding that they need: RFC 9293,
    RFC 7323, RFC 2018. Without timestamps, as from Windows, these are 12 bytes."""
    assert payload(STAMPED[version] * packets + 8, packets, version) == 0
    assert payload(BARE[version] * packets + 12, packets, version) == 0


@BOTH_VERSIONS
@given(st.integers(0, 100_000), st.integers(1, 100))
def test_with_timestamps_it_is_exact(version: int, spoken: int, packets: int) -> None:
    assert payload(STAMPED[version] * packets + 8 + spoken, packets, version) == spoken


@BOTH_VERSIONS
@given(st.integers(0, 100_000), st.integers(1, 100))
def test_without_them_it_is_never_more_than_was_said(
    version: int, spoken: int, packets: int
) -> None:
    found = payload(BARE[version] * packets + 12 + spoken, packets, version)
    assert spoken - 12 * packets <= found <= spoken


@pytest.mark.parametrize("version", [4, 6])
def test_a_reply_of_many_empty_packets_was_no_less_said(version: int) -> None:
    """Row B12: HELO one byte a packet, and each is acknowledged on its own."""
    octets = STAMPED[version] * (2 + 16 + 1) + 8 + 16 + 8
    assert payload(octets, 2 + 16 + 1, version) == 24  # "220 mail ESMTP" and "250 ok"


def test_both_sides_and_nothing_counted() -> None:
    measure = Measure(None, 3, 3 * 52 + 8 + 20, 2, 2 * 52 + 8 + 45)
    assert (said(measure, 4), answered(measure, 4)) == (20, 45)
    assert (said(Measure(), 6), answered(Measure(), 6)) == (0, 0)


@pytest.mark.parametrize(
    ("spoken", "reply", "is_one"),
    [(999, 300, False), (1000, 300, True), (1999, 1200, False), (2000, 1200, True)],
)
def test_a_mail_is_more_than_a_handshake(spoken: int, reply: int, is_one: bool) -> None:
    assert is_mail(spoken, reply, 1000) is is_one
