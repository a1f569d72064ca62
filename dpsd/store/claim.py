"""One daemon to a store: a lock on a file beside it, which the kernel releases even at kill -9.

An open file description lock: unlike flock() it can be looked at without being taken, so that a
command which asks "is the daemon running?" never gets in the way of one that is just starting.
"""

import errno
import fcntl
import os
import stat
import struct
from pathlib import Path

from dpsd.errors import StoreError
from dpsd.store import files

_LOCK = struct.Struct("hhqqi4x")  # struct flock: type, whence, start, length (0: all), pid (0)
_WRITE_LOCK = _LOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)


def take(path: Path) -> int:
    """Take the lock; the descriptor that holds it until closed. StoreError if it is taken."""
    files.make(path)
    file = _opened(path, os.O_RDWR)
    try:
        fcntl.fcntl(file, fcntl.F_OFD_SETLK, _WRITE_LOCK)
        os.ftruncate(file, 0)
        os.write(file, f"{os.getpid()}\n".encode())
    except OSError as error:
        pid = os.pread(file, 20, 0).decode("ascii", "replace").strip()
        os.close(file)
        if error.errno in (errno.EAGAIN, errno.EACCES):
            raise StoreError(f"another dpsd (pid {pid or 'unknown'}) runs on it") from error
        raise
    return file


def taken(path: Path) -> bool:
    """Whether some process holds the lock."""
    try:
        file = _opened(path, os.O_RDONLY)
    except FileNotFoundError:
        return False
    try:
        answer = fcntl.fcntl(file, fcntl.F_OFD_GETLK, _WRITE_LOCK)
    finally:
        os.close(file)
    return bool(_LOCK.unpack(answer)[0] != fcntl.F_UNLCK)


def _opened(path: Path, flags: int) -> int:
    """The lock file; StoreError for anything else in its place, for it may be cut to nothing."""
    file = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK)  # a pipe would wait for a reader
    found = os.fstat(file)
    if stat.S_ISREG(found.st_mode) and found.st_nlink == 1:
        return file
    os.close(file)
    raise StoreError(f"{path} isn't the lock file that it should be; remove it")
