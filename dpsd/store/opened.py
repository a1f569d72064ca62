"""The open store: one connection, one thread, its transactions, and one daemon to it."""

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Self

from sqlalchemy import select
from sqlalchemy.engine import URL, Connection

from dpsd.errors import StoreDamaged, StoreError
from dpsd.store import claim, connecting, files, schema
from dpsd.store.connecting import told
from dpsd.store.schema import revision

WRITE = "BEGIN IMMEDIATE"


class Opened:
    """An open store without its queries. Not thread-safe: use it in the thread that opened it."""

    def __init__(self, url: URL) -> None:
        self._name = connecting.name_of(url)
        self.path = connecting.path_of(url)  # None: no file (another database, or in memory)
        self._sqlite = url.get_backend_name() == "sqlite"
        self._claim: int | None = None
        self._edited = False  # in a transaction of editing()
        with told(self._name, self.path):
            self._db: Connection = connecting.connect(url)
        self._seen: tuple[int, int] = (0, 0)

    @classmethod
    def open(cls, url: str, upgrade: bool = False, claim: bool = False) -> Self:
        """Open the store at an SQLAlchemy URL; an absent or empty one is made.

        A store of an older schema is brought up to date when `upgrade` is set (the daemon), else
        refused; a newer one, a damaged file and another program's database always are. `claim`:
        claim it first, so that nothing is touched that another daemon uses.
        """
        store = cls(connecting.parse(url))
        try:
            if claim:
                store.claim()
            store._prepare(upgrade)
        except BaseException:
            store.close()
            raise
        return store

    @classmethod
    def put_aside(cls, url: str, suffix: str) -> Path:
        """Give a damaged SQLite store another name, and make room for an empty one; its new name.

        Only one that a daemon had claimed before: else the URL may name anybody's file. The claim
        lasts meanwhile, as for open(). StoreError.
        """
        parsed = connecting.parse(url)
        path = connecting.path_of(parsed)
        with told(connecting.name_of(parsed), path):
            if path is None or not Path(f"{path}.lock").exists():
                raise StoreError("not known as a store of dpsd")
            held = claim.take(Path(f"{path}.lock"))
            try:
                return files.put_aside(path, suffix)
            finally:
                os.close(held)

    @property
    def read_only(self) -> bool:
        """Whether its file system is mounted so."""
        return files.is_read_only(self.path)

    def close(self) -> None:
        """Close the connection and give up the claim."""
        try:
            with told(self._name, self.path):
                self._db.close()
        finally:
            if self._claim is not None:
                os.close(self._claim)
                self._claim = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @contextmanager
    def editing(self) -> Iterator[None]:
        """What is read and committed within is one transaction; undone when anything is raised.

        Nobody else changes anything between the look and the change.
        """
        with told(self._name, self.path):
            self._refuse_read_only()
            transaction = self._db.begin()
            if self._sqlite:
                try:
                    self._db.exec_driver_sql(WRITE)
                except BaseException:
                    transaction.rollback()
                    raise
        self._edited = True
        try:
            yield
        except BaseException:
            with told(self._name, self.path):
                transaction.rollback()
            raise
        else:
            with told(self._name, self.path):
                transaction.commit()
        finally:
            self._edited = False

    def examine(self) -> None:
        """StoreDamaged unless all of an SQLite file can be read; half a second for 100 MB."""
        if self._sqlite:
            with self._reading() as db:
                found = db.exec_driver_sql("PRAGMA quick_check(1)").scalar()
            if found != "ok":
                raise StoreDamaged(f"store {self._name}: damaged ({found})")

    def revision(self) -> int:
        """The number of the last commit; 0 at first."""
        with self._reading() as db:
            return int(db.execute(select(revision.c.value)).scalar_one())

    def claim(self) -> None:
        """Claim the store for this daemon until close(); StoreError when another one has it.

        A store without a file of its own can't be claimed: there nothing is done.
        """
        if self.path is not None:
            with told(self._name, self.path):
                self._claim = claim.take(self._lock_file())

    def _prepare(self, upgrade: bool) -> None:
        if self._sqlite and not self.read_only:
            with self._transaction("") as db:
                connecting.tune(db)
        with self._reading() as db:
            behind = schema.needs_migration(schema.found(db), upgrade)
        if behind:
            with self._writing() as db:
                if schema.needs_migration(schema.found(db), upgrade):  # nobody was faster
                    with files.as_self():  # by now SQLite has opened what it works on
                        schema.migrate(db)
        version = self._data_version()  # first, so that a commit between the two is news
        self._seen = (self.revision(), version)

    def _reading(self) -> AbstractContextManager[Connection]:
        return self._transaction("BEGIN")

    def _writing(self) -> AbstractContextManager[Connection]:
        # IMMEDIATE: two readers that both want to become the writer would wait for each other.
        return self._transaction(WRITE)

    @contextmanager
    def _transaction(self, begin: str) -> Iterator[Connection]:
        """A transaction, undone when anything is raised; on SQLite it begins as told, or not."""
        if self._edited:  # within editing()
            with told(self._name, self.path):
                yield self._db
            return
        with told(self._name, self.path), self._db.begin():
            if begin == WRITE:
                self._refuse_read_only()
            if self._sqlite and begin:
                self._db.exec_driver_sql(begin)
            yield self._db

    def _refuse_read_only(self) -> None:
        if self.read_only:  # what is opened immutable would be written to nowhere
            raise StoreError(connecting.READ_ONLY)

    def _data_version(self) -> int:
        """A number that is another one after each commit of another connection; SQLite's only."""
        if not self._sqlite:
            return 0
        with self._transaction("") as db:
            return int(db.exec_driver_sql("PRAGMA data_version").scalar_one())

    def _lock_file(self) -> Path:
        return Path(f"{self.path}.lock")
