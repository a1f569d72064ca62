"""The configuration: what can be set, reading it, and telling what changed."""

from dpsd.config.keys import Config
from dpsd.config.kinds import format_duration, parse_duration
from dpsd.config.loading import DEFAULT_PATH, changed, load, needs_restart, parse

__all__ = [
    "DEFAULT_PATH",
    "Config",
    "changed",
    "format_duration",
    "load",
    "needs_restart",
    "parse",
    "parse_duration",
]
