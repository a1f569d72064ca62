"""Key: what is said about one key, and how a section has it."""

from dataclasses import dataclass, field
from typing import TypeVar

from dpsd.config.kinds import Kind

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Key:
    """What is said about one key."""

    kind: Kind[object]
    default: object  # as written in TOML
    doc: str
    restart: bool = False  # whether a change takes effect only when the daemon is restarted

    def terms(self) -> str:
        """What may be written, and whether a reload is enough: a sentence."""
        terms = self.kind.describe() + ("; a change needs a restart" if self.restart else "")
        return f"{terms[0].upper()}{terms[1:]}."


def key(kind: Kind[T], default: object, doc: str, *, restart: bool = False) -> T:
    """A dataclass field that carries its Key; the default is given as it is written in TOML."""
    about = Key(kind, default, doc, restart)
    value: T = field(default=kind.read(default), metadata={"key": about})
    return value
