"""A booted systemd on a tree, with Postfix or Exim, on a network of its own with the world outside.

The world is this process's own network namespace: 198.51.100.0/24, 203.0.113.0/24 and
2001:db8:bad::/48 are all there.
"""

import hashlib
import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from tests.lab import private
from tests.package import trees
from tests.package.peers import MAIL4, MAIL6

# Reverse look-ups would ask a name server that isn't there.
_SERVERS = {
    "postfix": """
echo 'postfix postfix/main_mailer_type select Internet Site' | debconf-set-selections
apt-get -qq install --no-install-recommends postfix >/dev/null
postconf -e smtpd_peername_lookup=no
""",
    "exim": """
echo 'exim4-config exim4/dc_eximconfig_configtype select internet site; mail is sent and received'\
' directly using SMTP' | debconf-set-selections
echo 'exim4-config exim4/dc_local_interfaces string' | debconf-set-selections
apt-get -qq install --no-install-recommends exim4-daemon-light >/dev/null
echo 'MAIN_HOST_LOOKUP =' >/etc/exim4/exim4.conf.localmacros
sed -i "s/^CFILEMODE=.*/CFILEMODE='640'/" /etc/exim4/update-exim4.conf.conf  # as who has passwords
""",
}
_NETWORK = f"""[Match]
Name=mail0
[Network]
Address={MAIL4}/24
Address={MAIL6}/64
Gateway=192.0.2.1
Gateway=2001:db8:1::1
LinkLocalAddressing=no
IPv6AcceptRA=no
"""
_SETUP = f"""
printf '#!/bin/sh\\nexit 101\\n' >/usr/sbin/policy-rc.d; chmod +x /usr/sbin/policy-rc.d
apt-get -qq install --no-install-recommends systemd systemd-sysv dbus iproute2 >/dev/null
{{server}}
mkdir -p /etc/systemd/network /var/log/journal
cat >/etc/systemd/network/mail0.network <<'END'
{_NETWORK}END
systemctl enable systemd-networkd
useradd --create-home alice
useradd --create-home bob
rm /usr/sbin/policy-rc.d
"""
# All that the package needs is in apt's cache, and not installed: a guest has no mirror.
_CACHED = "apt-get -qq install --no-install-recommends --download-only /mnt/{name} >/dev/null"
_CGROUPS = Path("/sys/fs/cgroup")
_NSPAWN = """
echo $$ >"$CGROUP/cgroup.procs"
umount -R -l /sys/fs/cgroup
mount -t cgroup2 cgroup2 /sys/fs/cgroup
exec systemd-nspawn -q -D "$TREE" --boot --machine="$NAME" --register=no --keep-unit \
  --private-network --resolv-conf=off --console=pipe
"""


def tree(release: str, deb: Path, server: str = "postfix") -> Path:
    """A tree with Postfix or Exim, and with what the package depends on in apt's cache."""
    needs = subprocess.run(["dpkg-deb", "-f", deb, "Depends"], capture_output=True, check=True)
    setup = _SETUP.replace("{server}", _SERVERS[server].strip())
    made_of = needs.stdout + setup.encode()
    name = f"guest-{server}-{hashlib.sha256(made_of).hexdigest()[:8]}"
    script = setup + _CACHED.format(name=deb.name)
    return trees.derived(release, name, script, source=deb.parent)


class GuestError(AssertionError):
    """A command in the guest didn't end as it should."""


class Guest:
    """One machine, which may be booted several times."""

    def __init__(self, tree: Path) -> None:
        private.require()
        self.tree = tree
        self._cgroups = next(p for p in (_CGROUPS / "unified", _CGROUPS) if p.exists())
        self._nspawn: subprocess.Popen[bytes] | None = None
        self._leader = 0
        for line in (
            "link set lo up",
            "route add local 198.51.100.0/24 dev lo",
            "route add local 203.0.113.0/24 dev lo",
            "-6 route add local 2001:db8:bad::/48 dev lo",
        ):
            _ip(line)
        Path("/proc/sys/net/ipv6/ip_nonlocal_bind").write_text("1")  # this world's own

    def start(self) -> None:
        """Begin to boot; returns when commands can be run in it."""
        _ip("link add world0 type veth peer name mail0")
        _ip("addr add 192.0.2.1/24 dev world0")
        _ip("addr add 2001:db8:1::1/64 dev world0 nodad")
        _ip("link set world0 up")
        cgroup = self._cgroups / f"dpsd-{os.getpid()}-{self.tree.parent.name}"
        cgroup.mkdir()
        self._cgroup = cgroup
        environment = {**os.environ, "CGROUP": str(cgroup), "TREE": str(self.tree), "NAME": "mail"}
        self._nspawn = subprocess.Popen(
            ["unshare", "--mount", "--propagation", "private", "bash", "-euc", _NSPAWN],
            env=environment,
            stdin=subprocess.DEVNULL,
        )
        until(self._found, "the guest's first process", 30)
        _ip(f"link set mail0 netns {self._leader}")
        until(lambda: self.status("test -S /run/systemd/private") == 0, "systemd", 30)

    def boot(self) -> None:
        """Boot, and wait until all is up."""
        self.start()
        self.status("systemctl is-system-running --wait")

    def halt(self) -> None:
        """Shut down properly, then wait until it is gone."""
        if self._nspawn is None:
            return
        self.status("systemctl poweroff")
        try:
            self._nspawn.wait(60)
        finally:
            self._nspawn.kill()
            self._nspawn.wait()
            self._nspawn, self._leader = None, 0
            for root, _, _ in os.walk(self._cgroup, topdown=False):
                os.rmdir(root)
            subprocess.run(["ip", "link", "del", "world0"], check=False, capture_output=True)

    def status(self, command: str) -> int:
        """Run a command; its exit code."""
        return self._run(command).returncode

    def out(self, command: str, code: int = 0) -> str:
        """Run a command; all that it says. GuestError when it ends with another exit code."""
        done = self._run(command)
        if done.returncode != code:
            raise GuestError(f"{command}: exit code {done.returncode}, not {code}\n{done.stdout}")
        return done.stdout

    def _run(self, command: str) -> subprocess.CompletedProcess[str]:
        inside = ["nsenter", "-t", str(self._leader), "-m", "-u", "-i", "-n", "-p"]
        environment = ["env", "-i", "-C/", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C.UTF-8"]
        environment += ["HOME=/root", "DEBIAN_FRONTEND=noninteractive"]
        return subprocess.run(
            [*inside, *environment, "bash", "-c", command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=300,
            check=False,
        )

    def _found(self) -> bool:
        assert self._nspawn is not None
        assert self._nspawn.poll() is None, "systemd-nspawn ended"
        pid = self._nspawn.pid
        for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
            if Path(f"/proc/{child}/comm").read_text().strip() == "systemd":
                self._leader = int(child)
        return bool(self._leader)


def until(so: Callable[[], object], what: str, seconds: float = 15.0) -> None:
    """Wait until something is so. GuestError when it takes longer."""
    deadline = time.monotonic() + seconds
    while not so():
        if time.monotonic() > deadline:
            raise GuestError(f"not within {seconds:g} s: {what}")
        time.sleep(0.1)


def _ip(line: str) -> None:
    subprocess.run(["ip", *line.split()], check=True)
