"""From the configured URL to one open connection: the file and its owner, pragmas, faults."""

import errno
import os
import re
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import create_engine
from sqlalchemy.engine import URL, Connection, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, SQLAlchemyError
from sqlalchemy.pool import NullPool

from dpsd.errors import DpsdError, NotPermitted, StoreDamaged, StoreError
from dpsd.store import files

BUSY = 5.0  # seconds that a writer waits for another one

_PRAGMAS = (
    "journal_mode = WAL",  # readers and the writer don't wait for each other
    "synchronous = NORMAL",  # with WAL: a power cut may cost the last second, never the file
    "journal_size_limit = 16777216",  # a big import's WAL shrinks to 16 MiB afterwards
)

# SQLite's primary result codes: what to tell, and what to do about it.
_TOLD = {
    sqlite3.SQLITE_BUSY: f"locked by another process for over {BUSY:.0f} s; try again",
    sqlite3.SQLITE_CORRUPT: "damaged; restart the daemon: it puts the file aside, starts with an "
    "empty store, and takes over what the kernel blocks. Or stop it and restore a copy",
    sqlite3.SQLITE_NOTADB: "not an SQLite database; if it is a damaged store, move it away and "
    "restore a copy, else mend [store] url",
    sqlite3.SQLITE_FULL: "no room left on its file system; nothing was changed",
    sqlite3.SQLITE_IOERR: "the disk failed to read or write; see the kernel's log",
}
READ_ONLY = (
    "its file system is read-only, so nothing was changed in it; see the kernel's log for why,"
    " then mount -o remount,rw"
)
_DAMAGED = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
_REFUSED = (sqlite3.SQLITE_PERM, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_AUTH)


def parse(text: str) -> URL:
    """The store's URL; StoreError when it can't be understood or isn't a file for SQLite."""
    try:
        url: URL = make_url(text)
    except (ArgumentError, ValueError) as error:  # ValueError: a port that is no number
        shown = re.sub("//.*@", "//***@", text)  # without a password
        raise StoreError(f"{shown!r} is no store URL such as sqlite:////path ({error})") from error
    if url.get_backend_name() == "sqlite" and str(url.database).startswith("file:"):
        raise StoreError(f"{text!r}: write the path alone, as in sqlite:////path")
    return url


def path_of(url: URL) -> Path | None:
    """The SQLite file; None for another database, or one that is only in memory."""
    if url.get_backend_name() != "sqlite" or url.database in (None, "", ":memory:"):
        return None
    return Path(str(url.database)).absolute()


def file_of(url: str) -> Path | None:
    """The SQLite file that a configured URL names; StoreError as for parse()."""
    return path_of(parse(url))


def name_of(url: URL) -> str:
    """What messages call the store: its path, or its URL without the password."""
    return str(path_of(url) or url.render_as_string(hide_password=True))


def connect(url: URL) -> Connection:
    """Open the one connection of this process. An absent SQLite file is made first, empty.

    SQLite itself follows no link in place of -wal, -shm and -journal (O_NOFOLLOW).
    """
    options: dict[str, Any] = {"future": True, "poolclass": NullPool}
    if url.get_backend_name() == "sqlite":
        # No isolation level: the driver then never begins a transaction by itself, Store does.
        options["connect_args"] = {"timeout": BUSY, "isolation_level": None}
    if (path := path_of(url)) is not None:
        files.examine(path)
        if files.is_read_only(path) and path.exists():
            options["creator"] = lambda: _read_only(path)
        else:
            files.make(path)
    try:
        db: Connection = create_engine(url, **options).connect()
    except ImportError as error:
        raise StoreError(f"its driver isn't installed ({error})") from error
    return db


def _read_only(path: Path) -> sqlite3.Connection:
    """A connection that reads where nobody can write: SQLite would make -wal and -shm else."""
    wal, shm = Path(f"{path}-wal"), Path(f"{path}-shm")
    last_written = wal.exists() and wal.stat().st_size and shm.exists()
    how = "mode=ro" if last_written else "mode=ro&immutable=1"
    return sqlite3.connect(f"{path.as_uri()}?{how}", uri=True, timeout=BUSY, isolation_level=None)


def tune(db: Connection) -> None:
    """What SQLite has to know about each connection before its first transaction."""
    if not db.exec_driver_sql("PRAGMA page_count").scalar():  # later it would only wait for a lock
        db.exec_driver_sql("PRAGMA auto_vacuum = INCREMENTAL")
    for pragma in _PRAGMAS:
        db.exec_driver_sql(f"PRAGMA {pragma}")


def shrink(db: Connection) -> None:
    """Give up to 8 MiB of an SQLite file's free pages back to the file system."""
    # The pragma frees a page a step; only a script is stepped to its end.
    db.connection.cursor().executescript("PRAGMA incremental_vacuum(2000)")


@contextmanager
def told(name: str, path: Path | None) -> Iterator[None]:
    """Turn whatever the store raises into StoreError or NotPermitted, with its name and a hint.

    Meanwhile this thread reaches only what the owner of the store's folder does.
    """
    try:
        with files.as_owner(path):
            yield
    except DpsdError as error:
        raise type(error)(f"store {name}: {error}") from error
    except DBAPIError as error:
        raise _fault(name, path, error.orig) from error
    except sqlite3.Error as error:  # from below SQLAlchemy, in shrink()
        raise _fault(name, path, error) from error
    except FileNotFoundError as error:
        raise StoreError(f"store {name}: its directory doesn't exist; create it") from error
    except PermissionError as error:
        raise _not_permitted(name) from error
    except (SQLAlchemyError, OSError) as error:
        if getattr(error, "errno", None) == errno.EROFS:
            raise StoreError(f"store {name}: {READ_ONLY}") from error
        raise StoreError(f"store {name}: {error}") from error
    except ValueError as error:  # a text that is no peer, list or JSON
        raise StoreError(f"store {name}: holds what dpsd can't have written ({error})") from error


def _fault(name: str, path: Path | None, error: BaseException | None) -> DpsdError:
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF  # the primary one of an extended code
    if code in _REFUSED or (code == sqlite3.SQLITE_CANTOPEN and not _writable(path)):
        if files.is_read_only(path):
            return StoreError(f"store {name}: {READ_ONLY}")
        return _not_permitted(name)
    kind = StoreDamaged if code in _DAMAGED else StoreError
    return kind(f"store {name}: {_TOLD.get(code, error)}")


def _not_permitted(name: str) -> NotPermitted:
    return NotPermitted(
        f"store {name}: not permitted; use root or the daemon's user or group, "
        "and see that the file and its directory are writable for them"
    )


def _writable(path: Path | None) -> bool:
    """Whether the file and its directory (for -wal and -shm) let this user write."""
    return path is None or all(
        os.access(place, os.R_OK | os.W_OK, effective_ids=True) for place in (path, path.parent)
    )
