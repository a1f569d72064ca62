"""The store's files: made, examined, and never a way for their group to what root may reach.

Who may write to the store's folder may put links, pipes and other people's files there. So a
process of root's works on the files as the folder's owner (setfsuid(2), for the thread that does):
whatever is put in their place at whatever moment, root reaches nothing through it that the owner
doesn't. And each file is looked at before it is opened, which also serves where root is the owner.
"""

import ctypes
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from dpsd.errors import NotPermitted, StoreError

SIDES = ("", "-wal", "-shm", "-journal", ".lock")  # what belongs to a store beside its file
_libc = ctypes.CDLL(None, use_errno=True)


@contextmanager
def as_owner(path: Path | None) -> Iterator[None]:
    """Let this thread open, make and remove files as the owner of a file's folder; root only.

    FileNotFoundError: there is no such folder.
    """
    if path is None or os.geteuid() != 0 or (home := path.parent.stat()).st_uid == 0:
        yield
        return
    with suppress(PermissionError):  # without CAP_SETGID root's name is all that is left of root
        if set(os.getgroups()) - {home.st_gid}:
            os.setgroups([])  # nothing that root does needs them
    group, user = _libc.setfsgid(home.st_gid), _libc.setfsuid(home.st_uid)
    try:
        yield
    finally:
        _libc.setfsuid(user)
        _libc.setfsgid(group)


@contextmanager
def as_self() -> Iterator[None]:
    """Within as_owner(): read what belongs to the program, which may lie where only root looks."""
    user, group = _libc.setfsuid(os.geteuid()), _libc.setfsgid(os.getegid())
    try:
        yield
    finally:
        _libc.setfsgid(group)
        _libc.setfsuid(user)


def examine(path: Path) -> None:
    """Refuse what isn't the store's own: links, pipes, files of strangers. NotPermitted.

    FileNotFoundError: there is no such folder.
    """
    home = path.parent.stat()
    if not stat.S_ISDIR(home.st_mode):
        raise StoreError(f"{path.parent}: Not a directory")
    others = stat.S_IWGRP | stat.S_IWOTH
    if os.geteuid() == home.st_uid == 0 and home.st_mode & others and not home.st_mode & 0o1000:
        raise NotPermitted(
            f"its folder {path.parent} is root's, but not only root may write to it: give it to the"
            f" daemon's user (chown dpsd:dpsd {path.parent}), or take that right away"
        )
    for side in SIDES:
        file = Path(f"{path}{side}")
        with suppress(FileNotFoundError):
            _examine(file, file.lstat(), home)


def _examine(file: Path, found: os.stat_result, home: os.stat_result) -> None:
    if stat.S_ISDIR(found.st_mode):
        raise StoreError("is a directory; [store] url must name a file")
    if not stat.S_ISREG(found.st_mode):
        what = "a symbolic link" if stat.S_ISLNK(found.st_mode) else "no plain file"
    elif found.st_nlink > 1:
        what = "a link to another file"
    elif found.st_uid not in {0, os.geteuid(), home.st_uid} and found.st_gid != home.st_gid:
        what = f"a file of user {found.st_uid}, who has no part in it"
    else:
        return
    raise NotPermitted(f"{file} is {what}: not opened; see who put it there, and remove it")


def is_read_only(path: Path | None) -> bool:
    """Whether nobody can write there, because its file system is mounted so."""
    try:
        return path is not None and bool(os.statvfs(path.parent).f_flag & os.ST_RDONLY)
    except OSError:
        return False


def put_aside(path: Path, suffix: str) -> Path:
    """Give a store another name, with what belongs to it; its new name. OSError."""
    aside = Path(f"{path}.{suffix}")
    for side in ("-wal", "-shm", "-journal"):  # first, so that no new store is taken for theirs
        with suppress(FileNotFoundError):
            Path(f"{path}{side}").rename(f"{aside}{side}")
    path.rename(aside)
    return aside


def make(path: Path) -> None:
    """Create an empty file of mode 0660 unless there is one; OSError when that can't be done.

    Made by root it gets its directory's owner and group: a command run before the daemon's first
    start must not lock the daemon's user out. SQLite gives -wal and -shm the same owner and mode.
    """
    try:
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o660)
    except FileExistsError:
        return
    try:
        if os.geteuid() == 0:
            home = path.parent.stat()
            with suppress(PermissionError):  # as its owner it was made so
                os.fchown(file, home.st_uid, home.st_gid)
        os.fchmod(file, 0o660)  # whatever the umask
    finally:
        os.close(file)
