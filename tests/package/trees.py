"""Trees: small systems of either release, in .lab/package, for building and for booting.

They come from the mirror that this machine's apt uses, through whatever settings it uses.
"""

import contextlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from tests.lab import private

RELEASES = ("bookworm", "trixie")
ROOT = Path(__file__).parents[2]
PLACE = ROOT / ".lab" / "package"
TOOLS = ("autopkgtest", "iproute2", "mmdebstrap", "piuparts", "systemd-container", "util-linux")

_MMDEBSTRAP = [
    *("mmdebstrap", "--quiet", "--mode=root", '--aptopt=Acquire::Retries "3"'),
    *("--variant=minbase", "--include=ca-certificates", "--dpkgopt=force-unsafe-io"),
]
_RESOLV = Path(os.path.realpath("/etc/resolv.conf"))
_CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")
_ENVIRONMENT = {
    "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME": "/root",
    "LC_ALL": "C.UTF-8",
    "DEBIAN_FRONTEND": "noninteractive",
}


def install_tools() -> None:
    """Install what the host needs for all this; nothing to do when it is there."""
    query = ["dpkg-query", "-W", "-f", "${db:Status-Status} ${Package}\n", *TOOLS]
    found = subprocess.run(query, capture_output=True, text=True, check=False).stdout
    missing = set(TOOLS) - {line.removeprefix("installed ") for line in found.splitlines()}
    if missing:
        environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        lock = ["-o", "DPkg::Lock::Timeout=300"]
        for command in (["update"], ["install", "--no-install-recommends", *sorted(missing)]):
            subprocess.run(
                ["apt-get", "-qq", *lock, *command],
                env=environment,
                stdin=subprocess.DEVNULL,
                check=True,
            )


def enter(network: bool) -> None:
    """Into a private world, with a network of its own or in the host's, where names are found."""
    names = _RESOLV.read_bytes() if _RESOLV.exists() else None
    private.enter(network)
    if names is not None and not _RESOLV.exists():  # it was in /run
        _RESOLV.parent.mkdir(parents=True, exist_ok=True)
        _RESOLV.write_bytes(names)


def base(release: str) -> Path:
    """The smallest system that apt works in. Never write to it: lay something over it."""
    tree = PLACE / release / "base"
    if not tree.exists():
        with _growing(tree) as new:
            subprocess.run(
                [*_MMDEBSTRAP, release, str(new), _mirror()],
                stdin=subprocess.DEVNULL,
                check=True,
            )
            new.joinpath("etc/apt/apt.conf.d/90host").write_text(_apt_settings())
            if _CERTIFICATES.exists():
                shutil.copy(_CERTIFICATES, new / _CERTIFICATES.relative_to("/"))
            chroot(new, "apt-get -qq update")
    return tree


def derived(release: str, name: str, script: str, source: Path | None = None) -> Path:
    """A copy of the base in which a script has been run; `source` is seen at /mnt meanwhile."""
    tree = PLACE / release / name
    if not tree.exists():
        below = base(release)
        with _growing(tree) as new:
            subprocess.run(["cp", "-a", "--reflink=auto", f"{below}/.", str(new)], check=True)
            with contextlib.ExitStack() as stack:
                if source is not None:
                    private.bind(source, new / "mnt")
                    stack.callback(private.unmount, new / "mnt")
                chroot(new, script)
    return tree


@contextlib.contextmanager
def over(tree: Path) -> Iterator[Path]:
    """A system like the tree that can be written to, and is gone afterwards."""
    with tempfile.TemporaryDirectory(dir=PLACE, prefix="over-") as place:
        upper, work, merged = (Path(place, name) for name in ("upper", "work", "merged"))
        for each in (upper, work, merged):
            each.mkdir()
        merged.chmod(0o755)
        upper.chmod(0o755)
        private.mount(
            "overlay", merged, "overlay", 0, f"lowerdir={tree},upperdir={upper},workdir={work}"
        )
        try:
            yield merged
        finally:
            private.unmount(merged)


def chroot(tree: Path, script: str, say: Sequence[str] = ("/bin/bash", "-euxc")) -> None:
    """Run a script in a tree, with the host's network. Raises CalledProcessError."""
    resolv = tree / "etc/resolv.conf"
    if _RESOLV.exists():
        resolv.unlink(missing_ok=True)
        shutil.copy(_RESOLV, resolv)
    private.mount("proc", tree / "proc", "proc")
    try:
        subprocess.run(
            ["chroot", str(tree), *say, script],
            env=_ENVIRONMENT,
            stdin=subprocess.DEVNULL,
            check=True,
        )
    finally:
        private.unmount(tree / "proc")


@contextlib.contextmanager
def _growing(tree: Path) -> Iterator[Path]:
    """A place for a new tree, which is at its own only when it is whole."""
    tree.parent.mkdir(parents=True, exist_ok=True)
    new = tree.with_name(f"{tree.name}.new")
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir()
    yield new
    new.rename(tree)


def _mirror() -> str:
    """Where this machine's apt gets Debian itself from."""
    told = subprocess.run(
        ["apt-get", "indextargets", "--format", "$(ORIGIN)|$(LABEL)|$(REPO_URI)"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    for line in told.splitlines():
        origin, label, uri = line.split("|")
        if origin == label == "Debian":
            return uri.rstrip("/")
    return "http://deb.debian.org/debian"


def _apt_settings() -> str:
    """How this machine's apt gets there: proxies and the like."""
    told = subprocess.run(["apt-config", "dump"], capture_output=True, text=True, check=True).stdout
    wanted = ("Acquire::http", "Acquire::https", "Acquire::Check-", "Acquire::Retries")
    return "".join(f"{line}\n" for line in told.splitlines() if line.startswith(wanted))
