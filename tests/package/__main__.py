"""python3 -m tests.package deb | test | STAGE RELEASE; see `make deb` and `make test-package`.

`test` runs every stage on both releases at the same time; what each says is in
.lab/package/logs, and told when it fails.
"""

import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.lab import private
from tests.package import booted, build, exim, guest, trees
from tests.package.trees import PLACE, RELEASES, ROOT

_LOGS = PLACE / "logs"
_PIUPARTS = ["piuparts", "--no-eatmydata", "--keep-sources-list"]
# What Debian 13's debconf leaves behind by itself.
_DEBCONF = ["-i", "/var/cache/debconf/tmp.ci/", "-I", "/var/cache/debconf/tmp.ci/?$"]


def _deb(release: str) -> None:
    build.package(release, check=False)


def _lint(release: str) -> None:
    build.package(release, check=True)
    if release == RELEASES[0]:  # the one that is installed on both
        build.previous(release)


def _system(release: str) -> Path:
    """A tree with systemd, which leaves things behind that aren't of this package."""
    return trees.derived(release, "system", "apt-get -qq install systemd procps >/dev/null")


def _autopkgtest(release: str) -> None:
    with trees.over(_system(release)) as tree:
        private.mount("proc", tree / "proc", "proc")  # or systemd-tmpfiles does nothing
        copy = build.source(tree / "root")
        deb = str(build.built(RELEASES[0]))
        done = subprocess.run(
            ["autopkgtest", "--apt-upgrade", deb, f"{copy}/", "--", "chroot", str(tree)],
            stdin=subprocess.DEVNULL,
            check=False,
        )
        if done.returncode not in {0, 2}:  # 2: a test was skipped that needs a booted system
            raise SystemExit(done.returncode)


def _piuparts(release: str) -> None:
    command = [*_PIUPARTS, "-e", str(_system(release)), "-d", release]
    if release != RELEASES[0]:
        command += _DEBCONF
    subprocess.run([*command, str(build.built(RELEASES[0]))], stdin=subprocess.DEVNULL, check=True)


def _guest(release: str) -> None:
    for server in ("postfix", "exim"):
        guest.tree(release, build.built(RELEASES[0]), server)


_STAGES: dict[str, Callable[[str], None]] = {
    "deb": _deb,
    "lint": _lint,
    "autopkgtest": _autopkgtest,
    "piuparts": _piuparts,
    "guest": _guest,
    "booted": booted.run,
    "exim": exim.run,
}


def _run(stage: str, release: str) -> bool:
    """A stage in a process of its own; whether all was well."""
    log, began = _LOGS / f"{stage}-{release}.log", time.monotonic()
    with log.open("wb") as output:
        done = subprocess.run(
            [sys.executable, "-m", "tests.package", stage, release],
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            check=False,
        )
    well = done.returncode == 0
    told = "" if well else log.read_text(errors="replace")[-8000:]
    seconds = time.monotonic() - began
    sys.stdout.write(f"{told}{'ok' if well else 'FAILED':8}{release} {stage} ({seconds:.0f} s)\n")
    sys.stdout.flush()
    return well


def _test() -> bool:
    """Build first, on both; then try what was built on the older one, on both."""
    with ThreadPoolExecutor(len(RELEASES)) as pool:
        if not all(list(pool.map(lambda release: _run("lint", release), RELEASES))):
            return False
        older, newer = (build.contents(build.built(release)) for release in RELEASES)
        if older != newer:
            sys.stdout.write("FAILED  the packages built on both hold the same files\n")
            return False
        stages = ("guest", "booted", "exim", "autopkgtest", "piuparts")
        return all(list(pool.map(lambda release: all(_run(s, release) for s in stages), RELEASES)))


def main(arguments: list[str]) -> None:
    """Ends the process: 0 if all was well."""
    if len(arguments) == 2:
        trees.enter(network=arguments[0] in {"booted", "exim"})
        _STAGES[arguments[0]](arguments[1])
        return
    trees.install_tools()
    _LOGS.mkdir(parents=True, exist_ok=True)
    well = _test() if arguments == ["test"] else _run("deb", RELEASES[0])
    if well:
        ROOT.joinpath("dist").mkdir(exist_ok=True)
        shutil.copy(build.built(RELEASES[0]), ROOT / "dist")
        sys.stdout.write(f"dist/{build.built(RELEASES[0]).name}\n")
    sys.exit(not well)


if __name__ == "__main__":
    main(sys.argv[1:])
