"""The package, built from this checkout in a clean tree, and what lintian says of it."""

import hashlib
import re
import shutil
import subprocess
from pathlib import Path

from dpsd import __version__
from tests.package import trees
from tests.package.trees import PLACE, ROOT

PREVIOUS = "0.0.9"  # a version that came before; nothing else is different
_BUILD = "dpkg-buildpackage -us -uc >/build/log 2>&1 || { cat /build/log; exit 1; }"

# What one release's lintian says and the other's contradicts or doesn't know, so that an override
# in the package would be a fault there.
_ASIDE = {
    # The confinement and the one privileged step are the unit's; no init script would be as safe.
    "bookworm": "package-supports-alternative-init-but-no-init.d-script",
    # The version that Debian 12's lintian knows.
    "trixie": "out-of-date-standards-version",
}


def source(place: Path, version: str = __version__) -> Path:
    """A copy of this checkout without what git ignores; with another version, if asked."""
    ignored = [line.rstrip("/") for line in (ROOT / ".gitignore").read_text().splitlines()]
    copy = place / f"dpsd-{version}"
    shutil.copytree(ROOT, copy, symlinks=True, ignore=shutil.ignore_patterns(".git", *ignored))
    for name in ("dpsd/__init__.py", "debian/changelog", "debian/NEWS"):
        path = copy / name
        path.write_text(path.read_text().replace(__version__, version, 1))
    return copy


def package(release: str, check: bool) -> Path:
    """Build it in a clean tree of a release, and lintian it if told to; the .deb."""
    with trees.over(_tree(release)) as tree:
        work = tree / "build"
        work.mkdir()
        here = f"/build/{source(work).name}"
        trees.chroot(tree, f"cd {here}; {_BUILD}")
        if check:
            trees.chroot(
                tree,
                "apt-get -qq install --no-install-recommends lintian >/dev/null; cd /build;"
                " lintian --allow-root --display-info --pedantic --show-overrides"
                " --fail-on error,warning,info,pedantic"
                f" --suppress-tags {_ASIDE[release]} dpsd_*.changes",
            )
        return _keep(release, work)


def previous(release: str) -> Path:
    """The same under a lower version."""
    with trees.over(_tree(release)) as tree:
        work = tree / "build"
        work.mkdir()
        here = f"/build/{source(work, PREVIOUS).name}"
        trees.chroot(tree, f"cd {here}; export DEB_BUILD_OPTIONS=nocheck; {_BUILD}")
        return _keep(release, work)


def built(release: str, version: str = __version__) -> Path:
    """Where the .deb is that was built on a release."""
    return PLACE / release / f"dpsd_{version}_all.deb"


def _tree(release: str) -> Path:
    """A tree with what the package says that it is built with, and no more."""
    control = ROOT / "debian" / "control"
    needs = re.sub(r"\nPackage:.*", "", control.read_text(), flags=re.DOTALL)
    name = f"build-{hashlib.sha256(needs.encode()).hexdigest()[:8]}"
    return trees.derived(
        release,
        name,
        "apt-get -qq install --no-install-recommends dpkg-dev >/dev/null;"
        " apt-get -qq --no-install-recommends build-dep /mnt >/dev/null; apt-get clean",
        source=ROOT,
    )


def _keep(release: str, work: Path) -> Path:
    [deb] = work.glob("*.deb")
    kept = PLACE / release / deb.name
    shutil.copy(deb, kept)
    return kept


def contents(deb: Path) -> str:
    """What is in it: names, modes and owners; not what the build's tools tell of themselves."""
    command = ["dpkg-deb", "--contents", str(deb)]
    told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    lines = (line.split() for line in told.splitlines())
    return "\n".join(
        f"{mode} {owner} {name}" for mode, owner, *_, name in lines if ".dist-info/" not in name
    )
