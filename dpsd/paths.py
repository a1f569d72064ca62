"""Where the files that come with dpsd are: etc/ and migrations/, installed or in a checkout."""

from pathlib import Path

_PACKAGE = Path(__file__).parent


def shipped(name: str) -> Path:
    """A file or folder that comes with dpsd, such as "etc/dpsd.nft" or "migrations".

    The package carries its own copy; an editable checkout has them beside the package.
    """
    inside = _PACKAGE / name
    return inside if inside.exists() else _PACKAGE.parent / name
