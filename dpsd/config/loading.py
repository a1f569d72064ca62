"""From a TOML file to a Config: everything that is wrong with it is told at once."""

import logging
import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from dpsd.config.key import Key
from dpsd.config.keys import Config
from dpsd.config.kinds import format_duration, refuse_overlaps, written
from dpsd.config.rules import RETIRED, STATES
from dpsd.errors import ConfigError, NotPermitted
from dpsd.paths import shipped

DEFAULT_PATH = Path("/etc/dpsd/dpsd.toml")

log = logging.getLogger("dpsd")

Problem = tuple[str, str]  # the key as section.key, and the reason
Table = Mapping[str, object]

_PORT = re.compile("[1-9][0-9]{0,4}")
_DEFAULTS = Config()
SECTIONS: dict[str, type[Any]] = {
    section.name: type(getattr(_DEFAULTS, section.name)) for section in fields(Config)
}
"""The class of each section, in the order of etc/dpsd.toml."""


def keys_of(section: type[Any]) -> dict[str, Key]:
    """The keys of a section's class by name, in order."""
    return {e.name: e.metadata["key"] for e in fields(section) if "key" in e.metadata}


def load(path: Path) -> Config:
    """The configuration in a file.

    Raises ConfigError with every problem, one a line, when it can't be used, and NotPermitted when
    this user may not read it.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise ConfigError(
            f"{path}: no such file. An empty one will do, as every key has a default;"
            f" {shipped('etc/dpsd.toml')} explains them all"
        ) from None
    except PermissionError:
        raise NotPermitted(f"{path}: this user may not read it") from None
    except OSError as error:
        raise ConfigError(f"{path}: can't be read: {error.strerror}") from None
    try:
        return parse(data.decode(), str(path))
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: isn't UTF-8 text (byte {error.start})") from None


def parse(text: str, name: str = "dpsd.toml") -> Config:
    """The configuration in a text; its name is for the messages. ConfigError with all problems."""
    try:
        document = tomllib.loads(text + "\n")  # so that every error has a line
    except (ValueError, RecursionError) as error:  # also numbers of thousands of digits
        raise ConfigError(f"{name}: isn't TOML: {error}") from None
    problems: list[Problem] = list(_unknown_sections(document))
    sections = {
        section: cls(**_read_section(section, cls, document.get(section, {}), problems))
        for section, cls in SECTIONS.items()
    }
    config = Config(**sections)
    wrong = {key for key, _ in problems}
    problems += [
        (keys[0], reason) for keys, reason in _contradictions(config) if wrong.isdisjoint(keys)
    ]
    if problems:
        raise ConfigError("\n".join(f"{name}: {key}: {reason}" for key, reason in problems))
    return config


def changed(old: Config, new: Config) -> list[str]:
    """The keys, as section.key, whose values differ; section.at_ports: tables of ports."""
    return [
        f"{section}.{key.name}"
        for section, cls in SECTIONS.items()
        for key in fields(cls)
        if getattr(getattr(old, section), key.name) != getattr(getattr(new, section), key.name)
    ]


def needs_restart(old: Config, new: Config) -> list[str]:
    """Those of the changed keys that take effect only when the daemon is restarted."""

    def is_fixed(name: str) -> bool:
        section, _, key = name.partition(".")
        about = keys_of(SECTIONS[section]).get(key)
        return about is not None and about.restart

    return list(filter(is_fixed, changed(old, new)))


def _unknown_sections(document: Table) -> Iterator[Problem]:
    for name, value in document.items():
        if name not in SECTIONS:
            what = "section" if isinstance(value, dict) else "key"
            yield _bare(name), f"no such {what}{_nearest(name, [*SECTIONS])}"


def _read_section(
    section: str, cls: type[Any], table: object, problems: list[Problem]
) -> dict[str, object]:
    """The values that are written and right; what is wrong goes to `problems`."""
    known = keys_of(cls)
    if not isinstance(table, dict) or not _has_ports(cls):
        return _read_keys(section, table, known, problems)
    at_ports = {name: table[name] for name in table if _PORT.fullmatch(name)}
    others = {name: value for name, value in table.items() if name not in at_ports}
    values = _read_keys(section, others, known, problems)
    known = {state: known[state] for state in STATES if state in known}
    values["at_ports"] = {
        int(port): _read_keys(f"{section}.{port}", inner, known, problems)
        for port, inner in at_ports.items()
    }
    return values


def _read_keys(
    section: str, table: object, known: Mapping[str, Key], problems: list[Problem]
) -> dict[str, object]:
    if not isinstance(table, dict):
        problems.append((section, f"must be a section, [{section}], not {written(table)}"))
        return {}
    values = {}
    for name, value in table.items():
        if (instead := RETIRED.get((section.partition(".")[0], name))) is not None:
            log.warning("%s.%s is ignored: %s", section, name, instead)
            continue
        if name not in known:
            problems.append((f"{section}.{_bare(name)}", f"no such key{_nearest(name, [*known])}"))
            continue
        try:
            values[name] = known[name].kind.read(value)
        except ValueError as error:
            problems.append((f"{section}.{name}", str(error)))
    return values


def _has_ports(cls: type[Any]) -> bool:
    """Whether a section may have tables of its own for single ports."""
    return any(entry.name == "at_ports" for entry in fields(cls))


def _nearest(name: str, here: list[str]) -> str:
    """The hint after an unknown name: what is called just so elsewhere, or nearly so here."""
    elsewhere = [f"{section}.{name}" for section, cls in SECTIONS.items() if name in keys_of(cls)]
    near = elsewhere or get_close_matches(name, here, n=1)
    return f"; did you mean {near[0]}?" if near else f"; known are {', '.join(here)}"


def _bare(name: str) -> str:
    """A key as it has to be written; quoted if it is an odd one, so that it can be printed."""
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else written(name)


def _contradictions(config: Config) -> Iterator[tuple[list[str], str]]:
    """Values that are each fine but don't go together: the keys, and the reason."""
    try:
        refuse_overlaps(config.white)
    except ValueError as error:
        yield ["lists.white", "peers.ipv4_prefix", "peers.ipv6_prefix"], str(error)
    yield from _shorter(config, "policy.block_max", "policy.block_for")
    if config.policy.black_after:
        # Blocks are counted in the history.
        yield from _shorter(config, "store.history_for", "policy.black_within")
    if config.stress.until > config.stress.at:
        reason = f"{config.stress.until:g} must not be more than stress.at ({config.stress.at:g})"
        yield ["stress.until", "stress.at"], reason
    for state in STATES:
        if hasattr(config.stress, state):
            yield from _shorter(config, f"proper_times.{state}", f"stress.{state}")
        yield from _shorter(config, f"forget.{state}", f"proper_times.{state}", equal=True)
    for port in sorted({*config.proper_times.at_ports, *config.stress.at_ports}):
        yield from _contradictions_at(config, port)


def _contradictions_at(config: Config, port: int) -> Iterator[tuple[list[str], str]]:
    """The same for the proper times of one port."""
    own = [s for s in ("proper_times", "stress") if port in getattr(config, s).at_ports]
    if port not in config.protect.ports:
        ports = ", ".join(map(str, config.protect.ports))
        for section in own:
            yield [f"{section}.{port}", "protect.ports"], f"no protected port; they are {ports}"
        return
    for state in STATES:
        calm, tense = (_at(config, section, port, state) for section in ("proper_times", "stress"))
        its_own = (calm, tense) != (f"proper_times.{state}", f"stress.{state}")
        if its_own and hasattr(config.stress, state):
            yield from _shorter(config, calm, tense)
        if calm != f"proper_times.{state}":
            yield from _shorter(config, f"forget.{state}", calm, equal=True)


def _at(config: Config, section: str, port: int, state: str) -> str:
    """The name of the key that holds for a state at a port."""
    own = getattr(config, section).at_ports.get(port, {})
    return f"{section}.{port}.{state}" if state in own else f"{section}.{state}"


def _shorter(
    config: Config, long: str, short: str, *, equal: bool = False
) -> Iterator[tuple[list[str], str]]:
    """The contradiction if what has to be the longer duration isn't; `equal` is one as well."""
    (a, b) = (_value(config, long), _value(config, short))
    if a < b or (equal and a == b):
        must = "longer than" if equal else "at least as long as"
        reason = f"{format_duration(a)} must be {must} {short} ({format_duration(b)})"
        yield [long, short], reason


def _value(config: Config, name: str) -> float:
    section, *port, key = name.split(".")
    values = getattr(config, section)
    return float(values.at_ports[int(port[0])][key] if port else getattr(values, key))
