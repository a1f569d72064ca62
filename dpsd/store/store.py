"""The open store: one connection, one thread, and every query.

Each method is one transaction, done whole or not at all (but for save_peers and prune, which
take several short ones so that no other writer waits for long). Each raises StoreError when the
database can't be reached, is damaged, full or locked for too long, and NotPermitted when this
user may not.
"""

import os
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from itertools import islice
from math import inf
from pathlib import Path
from typing import Any, Self, TypeVar

from sqlalchemy import bindparam, delete, func, insert, or_, select, update
from sqlalchemy.engine import URL, Connection

from dpsd.core.lists import OPERATOR, SCORE, Entry, ListName
from dpsd.core.peers import Network
from dpsd.errors import StoreDamaged, StoreError
from dpsd.store import claim, connecting, files, schema
from dpsd.store.connecting import told
from dpsd.store.records import (
    Action,
    Committed,
    Node,
    PeerRow,
    Pruned,
    Record,
    Recorded,
    network,
)
from dpsd.store.rows import (
    Key,
    effect,
    entry_values,
    history_values,
    key_of,
    peer_values,
    to_entry,
    to_peer,
    to_recorded,
)
from dpsd.store.schema import entries, history, nodes, peers, revision

BATCH = 2_000  # rows a transaction where there may be very many; some 50 ms
FRESH = 10.0  # seconds that a daemon on a database without a claim counts as running
_CHUNK = 500  # values of one IN (...); SQLite's limit was 999 for long

_WRITE = "BEGIN IMMEDIATE"

_T = TypeVar("_T")


class Store:
    """An open store. Not thread-safe: open, use and close it in one thread."""

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

    # Lists

    def entries(self, now: float, name: ListName | None = None) -> list[Entry]:
        """The entries in force at `now`, of one list or in the order of precedence, oldest first.

        A reader that follows with since() asks for revision() before this, not after it.
        """
        names = ListName if name is None else (name,)
        found = select(entries).where(_in_force(now)).order_by(entries.c.created_at, entries.c.peer)
        with self._reading() as db:
            return [
                to_entry(row)
                for each in names
                for row in db.execute(found.where(entries.c.list == each.value))
            ]

    def sizes(self, now: float) -> dict[ListName, int]:
        """How many entries are in force on each list."""
        query = select(entries.c.list, func.count()).where(_in_force(now)).group_by(entries.c.list)
        with self._reading() as db:
            found = {row[0]: int(row[1]) for row in db.execute(query)}
        return {name: found.get(name.value, 0) for name in ListName}

    def black_by_score(self, now: float) -> tuple[int, float | None]:
        """How many peers the score has on the black list, and since when the first of them."""
        query = select(func.count(), func.min(entries.c.created_at)).where(
            _in_force(now), entries.c.list == ListName.BLACK.value, entries.c.source == SCORE
        )
        with self._reading() as db:
            count, oldest = db.execute(query).one()
            return int(count), oldest

    def covering(self, peer: Network, now: float) -> list[Entry]:
        """The entries in force for this network and for wider ones that hold it.

        In the order of precedence, the widest first: the first one decides.
        """
        wider = [str(peer.supernet(new_prefix=length)) for length in range(peer.prefixlen + 1)]
        query = select(entries).where(
            entries.c.list.in_([name.value for name in ListName]),  # so that the key serves
            entries.c.peer.in_(wider),
            _in_force(now),
        )
        with self._reading() as db:
            found = [to_entry(row) for row in db.execute(query)]
        order = list(ListName)
        return sorted(found, key=lambda entry: (order.index(entry.list), entry.peer.prefixlen))

    def entry(self, name: ListName, peer: Network, now: float) -> Entry | None:
        """The entry in force for exactly this network on one list."""
        exact = [entry for entry in self.covering(peer, now) if entry.peer == peer]
        return next((entry for entry in exact if entry.list == name), None)

    def commit(self, records: Sequence[Record], node: str = "") -> int:
        """Change the entries, with history, as one new revision; the number of it.

        What has no effect (a removal of what isn't there, an expiry of what was prolonged) is
        left out of history; when nothing has any, the revision stays as it was.
        """
        return self.record(records, node).revision

    def record(
        self, records: Sequence[Record], node: str = "", known: int | None = None
    ) -> Committed:
        """As commit(), for a node that knows what was committed up to a revision.

        Who comes first has the say: what somebody else changed since isn't known to the node yet,
        so no verdict is added for the same peers.
        """
        keyed = [(key_of(record.entry), record) for record in records]
        with self._writing() as db:
            number = int(db.execute(select(revision.c.value).with_for_update()).scalar_one())
            changed = set[str]() if known is None else _changed_by_others(db, known, node)
            refused = [r for key, r in keyed if _is_verdict(r) and key[1] in changed]
            if refused:
                late = set(map(id, refused))
                keyed = [(key, record) for key, record in keyed if id(record) not in late]
            made = effect(keyed, _expiries(db, keyed))
            if made.done:
                number += 1
                _write_entries(db, made.after)
                rows = [history_values(key, record, number, node) for key, record in made.done]
                db.execute(insert(history), rows)
                db.execute(update(revision).values(value=number))
        if made.done and self._seen[0] == number - 1:
            self._seen = (number, self._seen[1])  # one's own change is no news
        return Committed(number, bool(made.done), refused)

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
                    self._db.exec_driver_sql(_WRITE)
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

    def last(self, peers: Iterable[Network]) -> dict[tuple[ListName, Network], Recorded]:
        """The last change of each of these networks on each list, as far as history has any."""
        found: dict[tuple[ListName, Network], Recorded] = {}
        for chunk in _batches(map(str, peers), _CHUNK):
            query = select(history).where(history.c.peer.in_(chunk)).order_by(history.c.id)
            with self._reading() as db:
                for row in db.execute(query):
                    record = to_recorded(row)
                    found[record.entry.list, record.entry.peer] = record
        return found

    def shift(self, seconds: float, since: float, until: float) -> None:
        """Move when entries were made and end: the wall clock was set by so many seconds. Not those
        made between two instants, which go by the new one. It makes no revision."""
        by_the_old = or_(entries.c.created_at < since, entries.c.created_at > until)
        times = {each.name: each + seconds for each in (entries.c.created_at, entries.c.expires_at)}
        with self._writing() as db:
            db.execute(
                update(entries).where(entries.c.expires_at.is_not(None), by_the_old).values(times)
            )

    def revision(self) -> int:
        """The number of the last commit; 0 at first."""
        with self._reading() as db:
            return int(db.execute(select(revision.c.value)).scalar_one())

    def since(self, number: int) -> list[Recorded] | None:
        """What was committed after a revision, in order, whoever did it.

        None when history no longer reaches back that far, or the store never came to that
        revision (a restored copy): then read everything again.
        """
        newer = select(history).where(history.c.revision > number)
        with self._reading() as db:
            # In this order: what a pruning takes away between the two is noticed.
            rows = db.execute(newer.order_by(history.c.revision, history.c.id)).all()
            value, reaches = db.execute(select(revision.c.value, revision.c.reaches)).one()
            return [to_recorded(row) for row in rows] if reaches <= number <= value else None

    def changed(self) -> bool:
        """Whether another connection changed a list since the last call, or since opening.

        Cheap enough to ask several times a second: 20 µs while nobody writes.
        """
        version = self._data_version()
        if self._sqlite and version == self._seen[1]:
            return False
        before, self._seen = self._seen, (self.revision(), version)
        return self._seen[0] != before[0]

    # Peers and nodes

    def save_peers(self, rows: Iterable[PeerRow]) -> None:
        """Write peers in place of what was known about them; any number, in batches."""
        for batch in _batches(rows, BATCH):
            keyed = {str(row.peer): row for row in batch}  # the last one of a peer counts
            with self._writing() as db:
                db.execute(
                    delete(peers).where(peers.c.peer == bindparam("key")),
                    [{"key": key} for key in keyed],
                )
                db.execute(insert(peers), [peer_values(key, row) for key, row in keyed.items()])

    def peers(self, since: float = 0.0, most: int | None = None) -> list[PeerRow]:
        """The peers seen at or after an instant, at most so many; who was seen last is first."""
        query = select(peers).where(peers.c.seen_at >= since).order_by(peers.c.seen_at.desc())
        with self._reading() as db:
            return [to_peer(row) for row in db.execute(query.limit(most))]

    def peer(self, peer: Network) -> PeerRow | None:
        """What was last saved about one peer."""
        with self._reading() as db:
            row = db.execute(select(peers).where(peers.c.peer == str(peer))).first()
            return None if row is None else to_peer(row)

    def beat(self, node: Node) -> None:
        """Tell that this node's daemon lives, and what it has applied."""
        with self._writing() as db:
            db.execute(delete(nodes).where(nodes.c.node == node.node))
            values = {column.name: getattr(node, column.name) for column in nodes.columns}
            db.execute(insert(nodes).values(**values))

    def nodes(self) -> list[Node]:
        """What each node told last, by name."""
        with self._reading() as db:
            rows = db.execute(select(nodes).order_by(nodes.c.node))
            return [Node(**row._mapping) for row in rows]

    # History

    def history(self, peer: Network | None = None, limit: int = 100) -> list[Recorded]:
        """The last changes, of one network or of all, newest first."""
        query = select(history).order_by(history.c.id.desc()).limit(limit)
        if peer is not None:
            query = query.where(history.c.peer == str(peer))
        with self._reading() as db:
            return [to_recorded(row) for row in db.execute(query)]

    def blocks_since(self, at: float, source: str = SCORE) -> dict[Network, list[float]]:
        """When each peer was blocked by a source at or after an instant, oldest first.

        What an operator took off the list again doesn't count, nor what came before it; that goes
        for the black list too, which ends a row of blocks.
        """
        query = (
            select(history.c.peer, history.c.at, history.c.action, history.c.list, history.c.source)
            .where(
                history.c.at >= at,
                history.c.action.in_((Action.ADD.value, Action.REMOVE.value)),
                history.c.list.in_((ListName.BLOCK.value, ListName.BLACK.value)),
            )
            .order_by(history.c.at, history.c.id)
        )
        blocks: dict[str, list[float]] = defaultdict(list)
        with self._reading() as db:
            for row in db.execute(query):
                if row.action == Action.REMOVE.value:
                    if row.source == OPERATOR:
                        blocks.pop(row.peer, None)
                elif row.source == source and row.list == ListName.BLOCK.value:
                    blocks[row.peer].append(row.at)
            return {network(text): times for text, times in blocks.items()}

    def prune(
        self,
        now: float,
        history_for: float,
        peers_for: float,
        most_peers: int | None = None,
        node: str = "",
    ) -> Pruned:
        """Forget what is over: expired entries, and history and peers older than so many seconds;
        and of more peers than `most_peers` those seen longest ago.

        Up to BATCH of each, so that neither other writers nor the caller's other work wait for
        long: call it regularly, and again while the answer has `more`. Expired entries leave with
        an EXPIRE record each, as one new revision. Some of the space goes back to the file system.
        """
        expired = self._expire(now, node)
        with self._writing() as db:
            before = max(now - peers_for, _seen_before(db, most_peers))
            gone = _forget_history(db, now - history_for), _forget_peers(db, before)
        if self._sqlite:
            with self._transaction("") as db:
                connecting.shrink(db)
        return Pruned(expired, *gone, more=BATCH in (expired, *gone))

    # One daemon to a store

    def claim(self) -> None:
        """Claim the store for this daemon until close(); StoreError when another one has it.

        A store without a file of its own can't be claimed: there nothing is done.
        """
        if self.path is not None:
            with told(self._name, self.path):
                self._claim = claim.take(self._lock_file())

    def claimed(self) -> bool:
        """Whether a daemon runs on this store; without a file, whether one told so just now."""
        if self.path is not None:
            with told(self._name, self.path):
                return claim.taken(self._lock_file())
        return any(node.updated_at > time.time() - FRESH for node in self.nodes())

    # Inside

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
        return self._transaction(_WRITE)

    @contextmanager
    def _transaction(self, begin: str) -> Iterator[Connection]:
        """A transaction, undone when anything is raised; on SQLite it begins as told, or not."""
        if self._edited:  # within editing()
            with told(self._name, self.path):
                yield self._db
            return
        with told(self._name, self.path), self._db.begin():
            if begin == _WRITE:
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

    def _expire(self, now: float, node: str) -> int:
        over = select(entries).where(entries.c.expires_at <= now).limit(BATCH)
        with self._reading() as db:
            found = [to_entry(row) for row in db.execute(over)]
        self.commit([Record(Action.EXPIRE, each, each.expires_at or now) for each in found], node)
        return len(found)


def _in_force(now: float) -> Any:
    return or_(entries.c.expires_at.is_(None), entries.c.expires_at > now)


def _is_verdict(record: Record) -> bool:
    return record.action is Action.ADD and record.entry.source == SCORE


def _changed_by_others(db: Connection, since: int, node: str) -> set[str]:
    """The peers that somebody else than a node changed after a revision."""
    newer = select(history.c.peer).where(history.c.revision > since, history.c.node != node)
    return {row.peer for row in db.execute(newer)}


def _expiries(db: Connection, keyed: Sequence[tuple[Key, Record]]) -> dict[Key, float | None]:
    """When the entries expire that records want to take off, as far as there are such entries."""
    named = {key[1] for key, record in keyed if record.action is not Action.ADD}
    found: dict[Key, float | None] = {}
    for chunk in _batches(named, _CHUNK):
        query = select(entries.c.list, entries.c.peer, entries.c.expires_at).where(
            entries.c.list.in_([name.value for name in ListName]),  # so that the key serves
            entries.c.peer.in_(chunk),
        )
        found |= {(row.list, row.peer): row.expires_at for row in db.execute(query)}
    return found


def _write_entries(db: Connection, after: Mapping[Key, Entry | None]) -> None:
    """Replace entries: delete and insert is what every database understands alike."""
    db.execute(
        delete(entries).where(
            entries.c.list == bindparam("in_list"), entries.c.peer == bindparam("for_peer")
        ),
        [{"in_list": key[0], "for_peer": key[1]} for key in after],
    )
    rows = [entry_values(key, entry) for key, entry in after.items() if entry is not None]
    if rows:
        db.execute(insert(entries), rows)


def _forget_history(db: Connection, before: float) -> int:
    old = select(history.c.id).where(history.c.at < before).order_by(history.c.at, history.c.id)
    chosen = history.c.id.in_(old.limit(BATCH))
    reaches = db.execute(select(func.max(history.c.revision)).where(chosen)).scalar()
    if reaches is None:
        return 0
    db.execute(update(revision).where(revision.c.reaches < reaches).values(reaches=reaches))
    return int(db.execute(delete(history).where(chosen)).rowcount)


def _seen_before(db: Connection, most: int | None) -> float:
    """When those peers were seen last that are more than so many."""
    if most is None:
        return -inf
    newest = select(peers.c.seen_at).order_by(peers.c.seen_at.desc())
    at = db.execute(newest.offset(most - 1).limit(1)).scalar()
    return -inf if at is None else float(at)


def _forget_peers(db: Connection, before: float) -> int:
    old = select(peers.c.peer).where(peers.c.seen_at < before).limit(BATCH)
    return int(db.execute(delete(peers).where(peers.c.peer.in_(old))).rowcount)


def _batches(items: Iterable[_T], size: int) -> Iterator[list[_T]]:
    rest = iter(items)
    while batch := list(islice(rest, size)):
        yield batch
