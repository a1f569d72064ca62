"""A private world for the lab: own network, mounts and process ids.

`enter()` puts the rest of this process into it. Three processes make it safe: the *guard* stays
outside and only waits; *init* is process 1 of the new process namespace and reaps; the *program*
goes on as if nothing had happened. When the program ends, or the guard dies (even by kill -9),
init dies, and with it the kernel ends every process of the lab and frees its network and mounts.
"""

import ctypes
import os
import signal
from pathlib import Path
from typing import NoReturn

CLONE_NEWNS = 0x00020000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000
_MS_NOSUID_NODEV_NOEXEC = 0x2 | 0x4 | 0x8
_MS_BIND_REC = 0x1000 | 0x4000
_MS_REC_PRIVATE = 0x4000 | 0x40000
_MNT_DETACH = 2
_PR_SET_PDEATHSIG = 1
_SI_KERNEL = 0x80
_MARK = "DPSD_LAB_NETNS"
_FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

RUN = Path("/run/lab")
"""Everything that a run writes goes here: a tmpfs of the private world, gone with it."""

_libc = ctypes.CDLL(None, use_errno=True)


class NotPrivateError(RuntimeError):
    """The lab was about to work outside a private world."""


def _check(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def unshare(flags: int) -> None:
    """Leave the named namespaces for fresh ones (os.unshare is there from Python 3.12 on)."""
    _check(_libc.unshare(flags), "unshare")


def setns(fd: int, flags: int) -> None:
    """Move this thread into the namespace that `fd` stands for (os.setns: from 3.12 on)."""
    _check(_libc.setns(fd, flags), "setns")


def mount(source: str, target: Path, kind: str, flags: int = 0, options: str = "") -> None:
    """mount(2). Harmless to the host only in a private mount namespace."""
    _check(
        _libc.mount(source.encode(), bytes(target), kind.encode(), flags, options.encode()),
        f"mount {kind} on {target}",
    )


def bind(source: Path, target: Path) -> None:
    """Show the tree at `source` at `target` too."""
    mount(str(source), target, "", _MS_BIND_REC)


def unmount(target: Path) -> None:
    """Take a tree of mounts away, also when still in use."""
    _check(_libc.umount2(bytes(target), _MNT_DETACH), f"umount {target}")


def inside() -> bool:
    """Whether this process is in a world that `enter` made."""
    return os.environ.get(_MARK) == os.readlink("/proc/self/ns/net")


def require() -> None:
    """Refuse to go on outside a private world."""
    if not inside():
        raise NotPrivateError("the lab works only in its own namespaces: private.enter() first")


def enter(network: bool = True) -> None:
    """Put the rest of this process into a private world; nothing to do when already there.

    Call it before threads, event loops and sockets exist. The caller's process becomes the guard
    and exits with the program's status; this function returns in the program. Needs root.
    Without `network` the host's is kept, as an installation needs it: no Net there.
    """
    if inside():
        return
    if os.geteuid() != 0:
        raise NotPrivateError("the lab makes network namespaces: it needs root")
    signal.pthread_sigmask(signal.SIG_BLOCK, {*_FORWARDED, signal.SIGCHLD})
    unshare(CLONE_NEWPID | (CLONE_NEWNET if network else 0))
    init = os.fork()
    if init != 0:
        _guard(init)
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    unshare(CLONE_NEWNS)
    mount("none", Path("/"), "", _MS_REC_PRIVATE)
    mount("proc", Path("/proc"), "proc", _MS_NOSUID_NODEV_NOEXEC)
    mount("tmpfs", Path("/run"), "tmpfs", 0, "mode=755")
    for directory in (RUN, Path("/run/netns"), Path("/run/lock")):
        directory.mkdir()
    if network:
        os.environ[_MARK] = os.readlink("/proc/self/ns/net")
    program = os.fork()
    if program != 0:
        _init(program)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {*_FORWARDED, signal.SIGCHLD})


def _interrupt(number: int, _frame: object) -> NoReturn:
    raise SystemExit(128 + number)


def _guard(init: int) -> NoReturn:
    """Wait for init; hand on signals that were sent to this process alone."""
    while True:
        info = signal.sigwaitinfo({*_FORWARDED, signal.SIGCHLD})
        if info.si_signo == signal.SIGCHLD:
            pid, status = os.waitpid(init, os.WNOHANG)
            if pid == init:
                os._exit(_exit_code(status))
        # A terminal's Ctrl-C reaches the whole process group by itself.
        elif info.si_code != _SI_KERNEL:
            os.kill(init, info.si_signo)


def _init(program: int) -> NoReturn:
    """Process 1: reap orphans, hand on signals of the guard, end with the program."""
    while True:
        info = signal.sigwaitinfo({*_FORWARDED, signal.SIGCHLD})
        if info.si_signo != signal.SIGCHLD:
            if info.si_code != _SI_KERNEL:
                os.kill(program, info.si_signo)
            continue
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                os._exit(1)  # cannot be: the program is a child until it is reaped
            if pid == 0:
                break
            if pid == program:
                os._exit(_exit_code(status))


def _exit_code(status: int) -> int:
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code
