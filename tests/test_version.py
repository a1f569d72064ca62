"""One version: that of the code, in the Debian package as well."""

import re
from pathlib import Path

from dpsd import __version__

DEBIAN = Path(__file__).parents[1] / "debian"


def test_the_package_has_the_version_of_the_code() -> None:
    newest = (DEBIAN / "changelog").read_text(encoding="utf-8").splitlines()[0]
    found = re.fullmatch(r"dpsd \((\S+)\) \S+; urgency=\w+", newest)
    assert found, "no first line of a changelog"
    assert found[1] == __version__
