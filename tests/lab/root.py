"""A copy of the host's root that only the lab sees, with the mail servers' packages added.

`python -m tests.lab.root` installs the distribution's packages into an overlay of `/` and keeps the
difference as `.lab/*.tar`. A run unpacks that into a throw-away overlay: neither the host nor the
cache is ever written to. `python -m tests.lab.root haproxy` makes another copy with that one, and
`python -m tests.lab.root docker-proxy` takes that program out of its package.
"""

import os
import platform
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.lab import private

PACKAGES = ("postfix", "fail2ban", "python3-pyinotify")  # the last: as fail2ban recommends
HAPROXY = ("haproxy",)
CACHE = Path(__file__).parents[2] / ".lab"


class RootError(RuntimeError):
    """The copy couldn't be made, or the packages not installed; the message says why."""


def archive(packages: tuple[str, ...] = PACKAGES) -> Path:
    """Where this distribution's installed packages are kept."""
    release = platform.freedesktop_os_release()
    name = "-".join(packages)
    return CACHE / f"{name}-{release['ID']}-{release.get('VERSION_ID', 'sid')}.tar"


class Root:
    """A writable copy of the host's `/` in the private world; what is written is in memory."""

    def __init__(self, name: str) -> None:
        self._base = private.RUN / name
        self.upper = self._base / "upper"
        self.path = self._base / "root"

    def mount(self, difference: Path | None = None) -> None:
        """Lay `difference`, a tar archive, over the host's root and mount the result."""
        self._base.mkdir()
        private.mount("tmpfs", self._base, "tmpfs", 0, "mode=755")
        work = self._base / "work"
        for directory in (self.upper, work, self.path):
            directory.mkdir()
        if difference is not None:
            _tar("-xf", difference, self.upper)
        layers = f"lowerdir=/,upperdir={self.upper},workdir={work}"
        try:
            private.mount("overlay", self.path, "overlay", 0, layers)
        except OSError as error:
            raise RootError(
                f"this kernel or root filesystem can't be the lower layer of an overlay: {error}"
            ) from error
        for name in ("dev", "proc"):
            private.bind(Path("/", name), self.path / name)
        private.mount("tmpfs", self.path / "run", "tmpfs", 0, "mode=755")

    def write(self, path: str, text: str) -> None:
        """Put a file in its place, whatever the host has there."""
        target = self.path / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.unlink(missing_ok=True)
        target.write_text(text, encoding="utf-8")

    def command(self, *argv: str) -> list[str]:
        return ["chroot", str(self.path), *argv]

    def unmount(self) -> None:
        private.unmount(self._base)
        self._base.rmdir()


def install(packages: tuple[str, ...] = PACKAGES) -> None:
    """Install packages into a copy of the root, with the host's network; keep the difference."""
    target = archive(packages)
    if target.exists():
        return
    resolver = Path("/etc/resolv.conf").read_text("utf-8")  # perhaps a link below /run: read it now
    private.enter(network=False)
    root = Root("install")
    root.mount()
    root.write("etc/resolv.conf", resolver)
    root.write("usr/sbin/policy-rc.d", "#!/bin/sh\nexit 101\n")  # no service is started
    (root.path / "usr/sbin/policy-rc.d").chmod(0o755)
    choice = "postfix postfix/main_mailer_type select No configuration\n"
    steps = (
        (["apt-get", "-q", "update"], ""),
        (["debconf-set-selections"], choice),
        (["apt-get", "-qy", "install", "--no-install-recommends", *packages], ""),
    )
    for argv, stdin in steps:
        done = subprocess.run(
            root.command(*argv),
            input=stdin,
            text=True,
            check=False,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=os.environ | {"DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C.UTF-8"},
        )
        if done.returncode != 0:
            raise RootError(f"{' '.join(argv)} failed:\n{done.stdout}")
    for useless in ("var/lib/apt/lists", "var/cache/apt", "usr/share/doc", "tmp"):
        shutil.rmtree(root.upper / useless, ignore_errors=True)
    CACHE.mkdir(exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=CACHE, suffix=".part", delete=False) as part:
        _tar("-cf", Path(part.name), root.upper)
    Path(part.name).rename(target)


def docker_proxy() -> Path:
    """Where this distribution's docker-proxy is kept."""
    return archive(("docker-proxy",)).with_suffix("")


def take_docker_proxy() -> None:
    """Take it out of the package docker.io, which isn't installed anywhere."""
    target = docker_proxy()
    if target.exists():
        return
    CACHE.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=CACHE) as folder:
        Path(folder).chmod(0o777)  # apt fetches as a user of its own
        done = subprocess.run(
            ["apt-get", "-q", "download", "docker.io"],
            cwd=folder,
            text=True,
            check=False,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        packages = [*Path(folder).glob("docker.io_*.deb")]
        if done.returncode != 0 or not packages:
            raise RootError(f"docker.io can't be fetched:\n{done.stdout}")
        subprocess.run(["dpkg-deb", "-x", packages[0], f"{folder}/x"], check=True)
        Path(folder, "x/usr/sbin/docker-proxy").rename(target)


def _tar(action: str, file: Path, directory: Path) -> None:
    """Pack or unpack a layer with owners, modes and the overlay's own marks (trusted.*)."""
    subprocess.run(
        [
            "tar",
            action,
            str(file),
            "-C",
            str(directory),
            "--xattrs",
            "--xattrs-include=*",
            "--numeric-owner",
            ".",
        ],
        check=True,
    )


if __name__ == "__main__":
    match sys.argv[1:]:
        case []:
            install()
        case ["haproxy"]:
            install(HAPROXY)
        case ["docker-proxy"]:
            take_docker_proxy()
        case _:
            sys.exit("usage: python -m tests.lab.root [haproxy|docker-proxy]")
