"""Conntrack's messages and nonsense: what the filter passes on, and what the decoder keeps."""

import ctypes
import socket
import struct
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dpsd.core.events import DESTROY, UPDATE, Endpoints, State
from dpsd.kernel.conntrack import SO_ATTACH_FILTER, _port_filter
from dpsd.kernel.ctnetlink import Decoder, attribute, endpoints, message, nest
from tests.fuzz.answers import damaged
from tests.kernel.test_ctnetlink import EXTRA, HEADERS, STORED, parts

PORTS = (25, 465, 587)
UNKNOWN = st.builds(attribute, st.integers(26, 0x3FFF), st.binary(max_size=40))
Pair = tuple[socket.socket, socket.socket]


@pytest.fixture(scope="module")
def filtered() -> Iterator[Pair]:
    """A pair of sockets of which the kernel runs the filter on what the second one receives: it
    takes any socket's datagrams for what they are, bytes."""
    sending, receiving = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    program = _port_filter(PORTS)
    held = ctypes.create_string_buffer(b"".join(program))
    receiving.setsockopt(
        socket.SOL_SOCKET, SO_ATTACH_FILTER,
        struct.pack("HxxxxxxP", len(program), ctypes.addressof(held)),
    )  # fmt: skip
    receiving.setblocking(False)
    with sending, receiving:
        yield sending, receiving


def passes(filtered: Pair, datagram: bytes) -> bool:
    """Whether the filter passes this datagram on, whole."""
    sending, receiving = filtered
    sending.send(datagram)
    try:
        told = receiving.recv(1 << 16)
    except BlockingIOError:
        return False
    assert told == datagram
    return True


def wanted(datagram: bytes) -> bool:
    """Whether it tells of a session to PORTS that is more than half open."""
    events = Decoder().decode(datagram, [(0, len(datagram))])
    return any(
        event[0] in {UPDATE, DESTROY}
        and endpoints(event[1]).server_port in PORTS
        and event[3] > State.SYN_RECV
        for event in events
    )


@settings(max_examples=500)
@given(
    st.sampled_from((UPDATE, DESTROY)),
    st.sampled_from((*PORTS, 22, 24, 26, 0, 65535)),
    st.sampled_from((6, 17, 132)),
    st.integers(0, 9),
    st.randoms(use_true_random=False),
    st.lists(st.one_of(st.sampled_from([*EXTRA.values()]), UNKNOWN), max_size=3),
    st.booleans(),
)
def test_the_filter_passes_what_matters(
    filtered: Pair, kind: int, port: int, proto: int, state: int, chance: object,
    more: list[bytes], six: bool,
) -> None:  # fmt: skip
    """Whatever the order of the attributes, and whatever else there is among them."""
    size = 16 if six else 4
    told = parts(Endpoints(b"\x0a" * size, b"\xc0" * size, 40000, port), proto)
    told["info"] = told["info"].replace(b"\5\0\1\0\3", bytes((5, 0, 1, 0, state)))
    order = [*told.values()]
    chance.shuffle(order)  # type: ignore[attr-defined]
    # Behind the real ones: of two attributes of a kind the first one counts.
    datagram = message(*HEADERS[kind], 10 if six else 2, b"".join([*order, *more]))
    expected = port in PORTS and proto == socket.IPPROTO_TCP and state > State.SYN_RECV
    assert passes(filtered, datagram) == expected
    if expected:
        assert wanted(datagram)


@settings(max_examples=1000)
@given(st.one_of(damaged([*STORED.values()]), st.binary(max_size=300)))
def test_the_filter_loses_no_event(filtered: Pair, datagram: bytes) -> None:
    """Of damaged messages too: what the decoder would take for a session that matters passes."""
    (length,) = struct.unpack_from("=I", datagram) if len(datagram) >= 4 else (0,)
    first = datagram[:length]  # one message, as the kernel's events are
    if passes(filtered, datagram):
        return
    assert not first or not wanted(first)


def test_what_has_no_state_is_judged_by_its_port(filtered: Pair) -> None:
    """As of a kernel before 5.10; or laid out as none does it."""
    for other in (b"", nest(2, attribute(1, b"\1")), nest(1, attribute(2, b"\7"))):
        told = parts(Endpoints(b"\x0a" * 4, b"\xc0" * 4, 40000, 25)) | {"info": nest(4, other)}
        assert passes(filtered, message(*HEADERS[DESTROY], 2, b"".join(told.values())))


def test_the_decoder_keeps_a_bounded_number_of_shapes() -> None:
    """A message of another length or other flags has another shape; a capture may have any."""
    decoder = Decoder()
    told = [*parts(Endpoints(b"\x0a" * 4, b"\xc0" * 4, 40000, 25)).values()]
    for flags in range(2000):
        each = message(HEADERS[UPDATE][0], flags << 2 & 0xFFFF | 1, 2, b"".join(told))
        decoder.decode(each, [(0, len(each))])
    assert decoder.skipped == 0
    assert sum(map(len, decoder._shapes.values())) <= 1024
