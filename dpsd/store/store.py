"""Every query of the open store.

Each method is one transaction, done whole or not at all (but for save_peers and prune, which
take several short ones so that no other writer waits for long). Each raises StoreError when the
database can't be reached, is damaged, full or locked for too long, and NotPermitted when this
user may not.
"""

import time
from collections import defaultdict
from collections.abc import Iterable, Sequence

from sqlalchemy import bindparam, delete, func, insert, or_, select, update

from dpsd.core.lists import OPERATOR, SCORE, Entry, ListName
from dpsd.core.peers import Network
from dpsd.store import claim, connecting
from dpsd.store.connecting import told
from dpsd.store.opened import Opened
from dpsd.store.queries import (
    BATCH,
    CHUNK,
    batches,
    changed_by_others,
    expiries,
    forget_history,
    forget_peers,
    in_force,
    is_verdict,
    seen_before,
    write_entries,
)
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
    effect,
    history_values,
    key_of,
    peer_values,
    to_entry,
    to_peer,
    to_recorded,
)
from dpsd.store.schema import entries, history, nodes, peers, revision

FRESH = 10.0  # seconds that a daemon on a database without a claim counts as running


class Store(Opened):
    """An open store. Not thread-safe: open, use and close it in one thread."""

    # Lists

    def entries(self, now: float, name: ListName | None = None) -> list[Entry]:
        """The entries in force at `now`, of one list or in the order of precedence, oldest first.

        A reader that follows with since() asks for revision() before this, not after it.
        """
        names = ListName if name is None else (name,)
        found = select(entries).where(in_force(now)).order_by(entries.c.created_at, entries.c.peer)
        with self._reading() as db:
            return [
                to_entry(row)
                for each in names
                for row in db.execute(found.where(entries.c.list == each.value))
            ]

    def sizes(self, now: float) -> dict[ListName, int]:
        """How many entries are in force on each list."""
        query = select(entries.c.list, func.count()).where(in_force(now)).group_by(entries.c.list)
        with self._reading() as db:
            found = {row[0]: int(row[1]) for row in db.execute(query)}
        return {name: found.get(name.value, 0) for name in ListName}

    def black_by_score(self, now: float) -> tuple[int, float | None]:
        """How many peers the score has on the black list, and since when the first of them."""
        query = select(func.count(), func.min(entries.c.created_at)).where(
            in_force(now), entries.c.list == ListName.BLACK.value, entries.c.source == SCORE
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
            in_force(now),
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
            changed = set[str]() if known is None else changed_by_others(db, known, node)
            refused = [r for key, r in keyed if is_verdict(r) and key[1] in changed]
            if refused:
                late = set(map(id, refused))
                keyed = [(key, record) for key, record in keyed if id(record) not in late]
            made = effect(keyed, expiries(db, keyed))
            if made.done:
                number += 1
                write_entries(db, made.after)
                rows = [history_values(key, record, number, node) for key, record in made.done]
                db.execute(insert(history), rows)
                db.execute(update(revision).values(value=number))
        if made.done and self._seen[0] == number - 1:
            self._seen = (number, self._seen[1])  # one's own change is no news
        return Committed(number, bool(made.done), refused)

    def last(self, peers: Iterable[Network]) -> dict[tuple[ListName, Network], Recorded]:
        """The last change of each of these networks on each list, as far as history has any."""
        found: dict[tuple[ListName, Network], Recorded] = {}
        for chunk in batches(map(str, peers), CHUNK):
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
        for batch in batches(rows, BATCH):
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
            before = max(now - peers_for, seen_before(db, most_peers))
            gone = forget_history(db, now - history_for), forget_peers(db, before)
        if self._sqlite:
            with self._transaction("") as db:
                connecting.shrink(db)
        return Pruned(expired, *gone, more=BATCH in (expired, *gone))

    # One daemon to a store

    def claimed(self) -> bool:
        """Whether a daemon runs on this store; without a file, whether one told so just now."""
        if self.path is not None:
            with told(self._name, self.path):
                return claim.taken(self._lock_file())
        return any(node.updated_at > time.time() - FRESH for node in self.nodes())

    def _expire(self, now: float, node: str) -> int:
        over = select(entries).where(entries.c.expires_at <= now).limit(BATCH)
        with self._reading() as db:
            found = [to_entry(row) for row in db.execute(over)]
        self.commit([Record(Action.EXPIRE, each, each.expires_at or now) for each in found], node)
        return len(found)
