"""The errors that dpsd tells its user, and the exit code of each.

Every message says what was wrong, where, and what to do. The codes of 64 and above are those of
sysexits.h; 1 and 2 are what shells and argument parsers expect.
"""


class DpsdError(Exception):
    """Anything that ends a command with a message instead of a traceback."""

    exit_code = 70  # EX_SOFTWARE


class NotSo(DpsdError):
    """What was asked for isn't so: no such entry."""

    exit_code = 1


class BadArgument(DpsdError):
    """An argument that can't be understood or makes no sense."""

    exit_code = 2


class Unavailable(DpsdError):
    """The store or the kernel is out of reach."""

    exit_code = 69  # EX_UNAVAILABLE


class StoreError(Unavailable):
    """The store can't be opened, read or written, or isn't of this version."""


class StoreDamaged(StoreError):
    """The store's file can't be read as what it is."""


class KernelError(Unavailable):
    """The kernel refused or lacks something that dpsd needs."""


class NotPermitted(DpsdError):
    """The store or the kernel says no to this user."""

    exit_code = 77  # EX_NOPERM


class ConfigError(DpsdError):
    """The configuration can't be used; nothing of it was applied."""

    exit_code = 78  # EX_CONFIG
