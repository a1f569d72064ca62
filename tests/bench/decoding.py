"""The same recorded messages, decoded by dpsd and by pyroute2."""

import time
from collections.abc import Sequence
from typing import Any

from pyroute2.netlink.nfnetlink.nfctsocket import nfct_msg

from dpsd.kernel.conntrack import SLOT, Events
from dpsd.kernel.ctnetlink import Decoder
from tests.bench.gateway import PORT, Gateway
from tests.bench.traffic import SMTP, Sessions, Wires

_ROOM = 256 << 20
_READ = (
    ("CTA_TUPLE_IP", ("CTA_IP_V4_SRC", "CTA_IP_V4_DST")),
    ("CTA_TUPLE_PROTO", ("CTA_PROTO_NUM", "CTA_PROTO_SRC_PORT", "CTA_PROTO_DST_PORT")),
)
_READ_OF_TCP = (
    "CTA_PROTOINFO_TCP_STATE",
    "CTA_PROTOINFO_TCP_FLAGS_ORIGINAL",
    "CTA_PROTOINFO_TCP_FLAGS_REPLY",
)


def recorded(gateway: Gateway, peers: int) -> list[bytes]:
    """What conntrack tells of twice as many sessions; dpsd's table must be loaded."""
    with gateway.space.entered():
        events = Events([PORT], _ROOM)
    sessions = Sessions(Wires(gateway), SMTP, peers)
    sessions.all()
    sessions.all()
    messages: list[bytes] = []
    while spans := events.receive():
        messages += [bytes(events.buffer[start:end]) for start, end in spans]
    events.close()
    return messages


def by_dpsd(messages: Sequence[bytes]) -> float:
    """Microseconds a message, as they lie in the socket's buffer."""
    buffer = bytearray(b"".join(message.ljust(SLOT, b"\0") for message in messages))
    spans = [(SLOT * i, SLOT * i + len(message)) for i, message in enumerate(messages)]
    decoder = Decoder()
    decoder.decode(buffer, spans[:1024])  # learn the shapes
    began = time.process_time()
    for first in range(0, len(spans), 1024):
        decoder.decode(buffer, spans[first : first + 1024])
    return 1e6 * (time.process_time() - began) / len(messages)


def by_pyroute2(messages: Sequence[bytes]) -> float:
    """Microseconds a message. It decodes attributes when asked for them, so it is asked for those
    that dpsd reads: addresses and ports, status, the state of TCP and its flags."""
    began = time.process_time()
    for message in messages:
        told: Any = nfct_msg(message)
        told.decode()
        ends = told.get_attr("CTA_TUPLE_ORIG")
        for nest, names in _READ:
            for name in names:
                ends.get_attr(nest).get_attr(name)
        told.get_attr("CTA_STATUS")
        tcp = told.get_attr("CTA_PROTOINFO").get_attr("CTA_PROTOINFO_TCP")
        for name in _READ_OF_TCP:
            tcp.get_attr(name)
    return 1e6 * (time.process_time() - began) / len(messages)
