"""Kinds of value that a key can have: how each is written, read, bounded and described.

A kind has `read(value)`, which turns what TOML gave into the value that dpsd works with and raises
ValueError with the reason, and `describe()`, which says in a few words what may be written.
"""

import json
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import ip_address
from itertools import pairwise
from pathlib import Path
from typing import Protocol, TypeVar

from dpsd.core.peers import SHORTEST, Network, PeerSize, parse_network

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)

_SECONDS = {"w": 604_800, "d": 86_400, "h": 3_600, "m": 60, "s": 1}
_DURATION = re.compile("".join(rf"(?:([0-9]{{1,9}}){unit})?" for unit in _SECONDS))
_BYTES = {"KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}
_SIZE = re.compile(rf"([0-9]{{1,9}})({'|'.join(_BYTES)})")

LONGEST = "3650d"  # of all durations; ten years

Address = Path | tuple[str, int]
"""Where something listens on this host: a Unix socket, or a loopback address and a port."""
_IP_PORT = re.compile(r"(?:\[([0-9a-fA-F:.]+)\]|([0-9.]+)):([0-9]{1,5})")
_SOCKET_PATH = re.compile(r"(?:unix:)?(/[^\x00-\x1f]*[^\x00-\x1f/])")
_SOCKET_PATH_BYTES = 107  # sockaddr_un has no room for more


class Kind(Protocol[T_co]):
    """What the kinds below have in common."""

    def read(self, value: object) -> T_co:
        """The value that dpsd works with; ValueError with the reason."""

    def describe(self) -> str:
        """What may be written, with unit and bounds."""


def parse_duration(text: str) -> float:
    """Seconds of "90s", "15m", "2h", "7d", "2w" or of several together, as in "1h30m".

    1 second to 3650 days (ten years). Raises ValueError with the reason.
    """
    match = _DURATION.fullmatch(text)
    if not text or match is None:
        raise ValueError(f'{written(text)} is no duration; write it as "90s", "15m", "2h" or "7d"')
    numbers = zip(match.groups(), _SECONDS.values(), strict=True)
    seconds = sum(int(number) * unit for number, unit in numbers if number)
    if not 1 <= seconds <= 3650 * _SECONDS["d"]:
        raise ValueError(f"{written(text)} is not between 1s and {LONGEST}")
    return float(seconds)


def format_duration(seconds: float) -> str:
    """A duration (s, 0 or more) to the nearest second, as parse_duration reads it: "1h30m".

    Days are the largest unit: 90d says more than 12w6d.
    """
    rest, parts = round(seconds), []
    for unit in "dhms":
        number, rest = divmod(rest, _SECONDS[unit])
        if number:
            parts.append(f"{number}{unit}")
    return "".join(parts) or "0s"


def parse_size(text: str) -> int:
    """Bytes of "64KiB", "128MiB" or "1GiB". Raises ValueError with the reason."""
    match = _SIZE.fullmatch(text)
    if match is None:
        raise ValueError(f'{written(text)} is no size; write it as "64KiB", "128MiB" or "1GiB"')
    return int(match[1]) * _BYTES[match[2]]


def written(value: object) -> str:
    """A value as TOML writes it, on one line; ASCII only, as it may go to a terminal."""
    return json.dumps(value, default=str)


@dataclass(frozen=True, slots=True)
class Flag:
    """true or false."""

    def read(self, value: object) -> bool:
        if not isinstance(value, bool):
            raise ValueError(f"must be true or false, not {written(value)}")
        return value

    def describe(self) -> str:
        return "true or false"


@dataclass(frozen=True, slots=True)
class Integer:
    """A whole number from low to high, in steps."""

    low: int
    high: int
    unit: str = ""
    step: int = 1

    def read(self, value: object) -> int:
        if not isinstance(value, int) or isinstance(value, bool):
            raise ValueError(f"must be a whole number, not {written(value)}")
        if not self.low <= value <= self.high or value % self.step:
            raise ValueError(f"must be {self.describe()}, not {written(value)}")
        return value

    def describe(self) -> str:
        steps = f", a multiple of {self.step}" if self.step > 1 else ""
        return f"{self.low} to {self.high}{self.unit and ' ' + self.unit}{steps}"


@dataclass(frozen=True, slots=True)
class OrAuto(Kind[T | None]):
    """A value of a kind, or "auto", read as None: it is found out."""

    item: Kind[T]

    def read(self, value: object) -> T | None:
        return None if value == "auto" else self.item.read(value)

    def describe(self) -> str:
        return f'"auto" or {self.item.describe()}'


@dataclass(frozen=True, slots=True)
class Number:
    """A finite number from low to high, whole or with decimals."""

    low: float
    high: float
    unit: str = ""

    def read(self, value: object) -> float:
        if not isinstance(value, int | float) or isinstance(value, bool):
            raise ValueError(f"must be a number, not {written(value)}")
        if not self.low <= value <= self.high:  # NaN is nowhere between
            raise ValueError(f"must be {self.describe()}, not {written(value)}")
        return float(value)

    def describe(self) -> str:
        return f"{self.low} to {self.high}{self.unit and ' ' + self.unit}"


@dataclass(frozen=True, slots=True)
class Duration:
    """A duration from low to high, itself written as one; its value is in seconds."""

    low: str = "1s"
    high: str = LONGEST

    def read(self, value: object) -> float:
        if isinstance(value, int | float) and not isinstance(value, bool):
            raise ValueError(f'{written(value)} has no unit; write a duration such as "{value}s"')
        seconds = parse_duration(_text(value, "a duration"))
        if not parse_duration(self.low) <= seconds <= parse_duration(self.high):
            raise ValueError(f"must be {self.describe()}, not {written(value)}")
        return seconds

    def describe(self) -> str:
        bounded = (self.low, self.high) != (Duration().low, Duration().high)
        return "a duration" + (f', "{self.low}" to "{self.high}"' if bounded else "")


@dataclass(frozen=True, slots=True)
class Size:
    """A size from low to high, itself written as one; its value is in bytes."""

    low: str
    high: str

    def read(self, value: object) -> int:
        size = parse_size(_text(value, "a size"))
        if not parse_size(self.low) <= size <= parse_size(self.high):
            raise ValueError(f"must be {self.describe()}, not {written(value)}")
        return size

    def describe(self) -> str:
        return f'a size, "{self.low}" to "{self.high}"'


@dataclass(frozen=True, slots=True)
class Choice:
    """One of a few words."""

    words: tuple[str, ...]

    def read(self, value: object) -> str:
        if value not in self.words:
            raise ValueError(f"must be {self.describe()}, not {written(value)}")
        return str(value)

    def describe(self) -> str:
        *others, last = map(written, self.words)
        return f"{', '.join(others)} or {last}"


@dataclass(frozen=True, slots=True)
class SqliteUrl:
    """The URL of an SQLite file, in SQLAlchemy's spelling, by its absolute path.

    A relative path would name one file to the daemon and another to the command.
    """

    def read(self, value: object) -> str:
        url = _text(value, "a URL")
        if not re.fullmatch(r"sqlite:////[^?#\x00-\x1f]*[^?#/\x00-\x1f]", url):
            raise ValueError(f"must be {self.describe()}, not {written(url)}")
        return url

    def describe(self) -> str:
        return '"sqlite:///" and the absolute path of a file, so with four slashes'


def parse_local(text: str) -> Address | None:
    """Where to listen on this host; None of an empty text. Raises ValueError with the reason."""
    if not text:
        return None
    if path := _SOCKET_PATH.fullmatch(text):
        if len(path[1].encode()) > _SOCKET_PATH_BYTES:
            raise ValueError(f"a socket's path has at most {_SOCKET_PATH_BYTES} bytes")
        return Path(path[1])
    found = _IP_PORT.fullmatch(text)
    if not found or not 1 <= int(found[3]) <= 65535:
        raise ValueError(f"must be {Local().describe()}, not {written(text)}")
    host = ip_address(found[1] or found[2])
    if not host.is_loopback:
        raise ValueError(
            f"{host} can be reached by others, and nobody is asked for a password: must be a"
            " loopback address"
        )
    return str(host), int(found[3])


@dataclass(frozen=True, slots=True)
class Local:
    """Where to listen so that only this host gets there, or nowhere; kept as written."""

    def read(self, value: object) -> str:
        text = _text(value, "an address")
        parse_local(text)
        return text

    def describe(self) -> str:
        return '"127.0.0.1:PORT", "[::1]:PORT", "unix:/PATH" or ""'


@dataclass(frozen=True, slots=True)
class Folder:
    """The absolute path of a folder, or nothing."""

    def read(self, value: object) -> str:
        path = _text(value, "a path")
        if path and (not path.startswith("/") or not path.isprintable()):
            raise ValueError(f"must be {self.describe()}, not {written(path)}")
        return path

    def describe(self) -> str:
        return 'the absolute path of a folder, or ""'


@dataclass(frozen=True, slots=True)
class Peer:
    """A peer or a prefix, kept as written: what a bare address means depends on [peers]."""

    def read(self, value: object) -> str:
        text = _text(value, "an address or a prefix")
        PeerSize().parse(text)  # whether it can be one doesn't depend on the size of a peer
        return text

    def describe(self) -> str:
        return "an address or a prefix"


@dataclass(frozen=True, slots=True)
class Prefix:
    """An address, meaning just itself, or a prefix; IPv4 or IPv6."""

    def read(self, value: object) -> Network:
        network = parse_network(_text(value, "an address or a prefix"))
        if network.prefixlen < SHORTEST[network.version]:
            raise ValueError(f"{network}: must be /{SHORTEST[network.version]} or longer")
        return network

    def describe(self) -> str:
        return "an address or a prefix"


@dataclass(frozen=True, slots=True)
class ListOf(Kind[tuple[T, ...]]):
    """From low to high different values of one kind."""

    item: Kind[T]
    low: int = 0
    high: int = 1000

    def read(self, value: object) -> tuple[T, ...]:
        if not isinstance(value, list):
            raise ValueError(f"must be a list, [{written(value)}]")
        if not self.low <= len(value) <= self.high:
            raise ValueError(f"must have {self.low} to {self.high} values, not {len(value)}")
        items: list[T] = []
        reasons: list[str] = []
        for item in value:
            try:
                items.append(self.item.read(item))
            except ValueError as error:
                reasons.append(str(error))
        reasons += [f"{item} is there {n} times" for item, n in Counter(items).items() if n > 1]
        if reasons:
            raise ValueError("; ".join(reasons))
        refuse_overlaps(item for item in items if isinstance(item, Network))
        return tuple(items)

    def describe(self) -> str:
        return f"{self.low} to {self.high} values in brackets, each {self.item.describe()}"


def refuse_overlaps(networks: Iterable[Network]) -> None:
    """ValueError if one of the networks lies within another or is there twice."""
    ordered = sorted(networks, key=lambda network: (network.version, network))
    for wide, narrow in pairwise(ordered):  # a prefix comes right before what lies within it
        if wide.version == narrow.version and wide.overlaps(narrow):
            raise ValueError(f"{wide} already holds {narrow}; leave one of them out")


def _text(value: object, what: str) -> str:
    if not isinstance(value, str):
        raise ValueError(f"must be {what} in quotes, not {written(value)}")
    return value
