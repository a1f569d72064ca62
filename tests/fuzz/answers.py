"""Datagrams that nearly are a kernel's: real ones with bytes turned, cut, doubled and mixed."""

from collections.abc import Sequence
from typing import Any

from hypothesis import strategies as st

from dpsd.kernel.ctnetlink import HEADER, attribute


def datagram(kind: int, body: bytes, flags: int = 0, port: int = 0) -> bytes:
    """One netlink message, padded."""
    head = HEADER.pack(HEADER.size + len(body), kind, flags, 0, port)
    return head + body + bytes(-len(body) % 4)


ATTRIBUTES: st.SearchStrategy[bytes] = st.recursive(
    st.builds(attribute, st.integers(0, 0xFFFF), st.binary(max_size=24)),
    lambda inner: st.builds(
        lambda kind, parts: attribute(kind, b"".join(parts)),
        st.integers(0, 0xFFFF),
        st.lists(inner, max_size=4),
    ),
    max_leaves=8,
)
"""An attribute of any kind, perhaps with others in it."""


@st.composite
def damaged(draw: Any, real: Sequence[bytes]) -> bytes:
    """One of these, or several behind each other, more or less as they were."""
    told = bytearray(b"".join(draw(st.lists(st.sampled_from(real), min_size=1, max_size=3))))
    for _ in range(draw(st.integers(0, 4))):
        at = draw(st.integers(0, len(told) - 1))
        told[at] = draw(st.sampled_from((0, 1, 2, 4, 16, 0x7F, 0x80, 0xFF)))
    cut = draw(st.integers(0, len(told)))
    return bytes(told[: draw(st.sampled_from((len(told), len(told), cut)))])


def any_of(real: Sequence[bytes]) -> st.SearchStrategy[bytes]:
    """Damaged real datagrams, and what is none."""
    made = st.builds(
        lambda kind, flags, parts: datagram(kind, b"".join(parts), flags),
        st.sampled_from((2, 3, 20, 21, 24, 0xA06, 0xA0C, 0xA0F)),
        st.sampled_from((0, 2)),
        st.lists(st.one_of(ATTRIBUTES, st.binary(max_size=80)), max_size=4),
    )
    return st.one_of(damaged(real), made, st.binary(max_size=120))


class Scripted:
    """A socket whose answers are written down; then it has none."""

    def __init__(self, answers: Sequence[bytes | OSError]) -> None:
        self.sent: list[bytes] = []
        self._answers = list(answers)

    def send(self, data: bytes) -> int:
        self.sent.append(data)
        return len(data)

    def recv(self, size: int, _flags: int = 0) -> bytes:
        if not self._answers:
            raise BlockingIOError(11, "Resource temporarily unavailable")
        answer = self._answers.pop(0)
        if isinstance(answer, OSError):
            raise answer
        return answer[:size]

    def close(self) -> None:
        self._answers.clear()
