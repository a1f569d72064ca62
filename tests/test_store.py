"""The store keeps what it was told, tells what it keeps, and says in words why it can't."""

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from ipaddress import ip_network
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dpsd.core.evidence import Evidence, Kind
from dpsd.core.lists import Entry, ListName
from dpsd.core.peers import Network
from dpsd.errors import DpsdError, NotPermitted, StoreError
from dpsd.paths import shipped
from dpsd.store import (
    SCHEMA,
    Action,
    Node,
    PeerRow,
    Pruned,
    Record,
    Recorded,
    Store,
    evidence_json,
    evidence_of,
)
from dpsd.store.records import network

WHITE, BLACK, BLOCK = ListName
DAEMON, ADMIN, SHARED = 64001, 64002, 64001  # a user, another one, and the first one's group
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory that other users can reach, which pytest's own isn't."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


@pytest.fixture
def url(place: Path) -> str:
    return f"sqlite:///{place}/dpsd.db"


@pytest.fixture
def store(url: str) -> Iterator[Store]:
    with Store.open(url) as opened:
        yield opened


def entry(
    peer: str = "192.0.2.1/32",
    name: ListName = BLOCK,
    until: float | None = 1000.5,
    created: float = 10.25,
    source: str = "score",
) -> Entry:
    return Entry(name, ip_network(peer), "overstay: 75 slot-seconds", source, created, until)


def add(what: Entry) -> Record:
    return Record(Action.ADD, what, what.created_at)


def remove(what: Entry, at: float = 500.0) -> Record:
    return Record(Action.REMOVE, what, at)


def expire(what: Entry) -> Record:
    return Record(Action.EXPIRE, what, what.expires_at or 0.0)


def many(count: int) -> list[Entry]:
    return [entry(str(ip_network((0x0A000000 + i, 32))), created=float(i)) for i in range(count)]


# Lists


def test_a_new_store_is_empty(store: Store) -> None:
    assert store.revision() == 0
    assert store.entries(0) == []
    assert store.since(0) == []
    assert store.peers() == []
    assert store.nodes() == []
    assert not store.changed()


def test_what_was_committed_comes_back_after_reopening(url: str) -> None:
    given_ = [entry(), entry("2001:db8::/64", BLACK, None), entry("198.51.100.0/24", WHITE)]
    with Store.open(url) as store:
        assert store.commit([add(each) for each in given_], node="mx1") == 1
    with Store.open(url) as store:
        assert store.entries(0) == [given_[2], given_[1], given_[0]]
        assert store.entries(0, BLACK) == [given_[1]]
        assert store.since(0) == [
            Recorded(Action.ADD, each, each.created_at, 1, "mx1") for each in given_
        ]


def test_entries_are_in_force_until_they_expire(store: Store) -> None:
    store.commit([add(entry(until=100.0))])
    assert store.entries(99.9) == [entry(until=100.0)]
    assert store.entries(100.0) == []
    assert store.entry(BLOCK, entry().peer, 99.9) == entry(until=100.0)
    assert store.entry(BLOCK, entry().peer, 100.0) is None
    assert store.entry(BLACK, entry().peer, 99.9) is None


def test_covering_finds_the_entry_and_wider_ones_in_order_of_precedence(store: Store) -> None:
    wide = entry("192.0.0.0/16", until=None)
    white = entry("192.0.2.0/24", WHITE)
    others = [entry("192.0.3.0/24"), entry("192.0.2.1/32", BLACK, until=5.0), entry("2001::/16")]
    store.commit([add(each) for each in (entry(), wide, white, *others)])
    assert store.covering(entry().peer, now=50) == [white, wide, entry()]
    assert store.covering(wide.peer, now=50) == [wide]
    assert store.covering(ip_network("2001:db8::/64"), now=50) == [others[2]]


def test_an_expiry_spares_what_was_prolonged_and_leaves_no_trace(store: Store) -> None:
    first, longer = entry(until=100.0), entry(until=200.0)
    store.commit([add(first), add(longer)])
    assert store.commit([expire(first)]) == 1
    assert store.entries(0) == [longer]
    assert store.commit([expire(longer)]) == 2
    assert store.entries(0) == []


def test_a_removal_of_nothing_is_no_revision(store: Store) -> None:
    assert store.commit([remove(entry())]) == 0
    assert store.commit([]) == 0
    assert store.history() == []


def test_a_removal_keeps_its_own_reason(store: Store) -> None:
    store.commit([add(entry())])
    mine = replace(entry(), reason="a customer called", source="operator", created_at=50.0)
    store.commit([remove(mine, at=50.0)])
    assert store.entries(0) == []
    assert store.history(entry().peer, limit=1) == [Recorded(Action.REMOVE, mine, 50.0, 2, "")]


KEYS = st.tuples(
    st.sampled_from(ListName), st.sampled_from(["192.0.2.1/32", "192.0.2.0/24", "2001:db8::/64"])
)
RECORDS = st.builds(
    lambda action, key, until, at: Record(action, entry(key[1], key[0], until, at), at),
    st.sampled_from(Action),
    KEYS,
    st.sampled_from([None, 100.0, 200.0]),
    st.floats(0, 50),
)


def apply(state: dict[tuple[ListName, Network], Entry], record: Record) -> bool:
    """What a record means, in the fewest words."""
    key = record.entry.list, record.entry.peer
    if record.action is Action.ADD:
        state[key] = record.entry
        return True
    if key not in state:
        return False
    if record.action is Action.EXPIRE and state[key].expires_at != record.entry.expires_at:
        return False
    del state[key]
    return True


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(RECORDS, max_size=6), max_size=6))
def test_a_store_is_a_dict_with_a_memory(commits: list[list[Record]]) -> None:
    state: dict[tuple[ListName, Network], Entry] = {}
    states, told = [dict(state)], []
    with Store.open("sqlite://") as store:
        for records in commits:
            done = [record for record in records if apply(state, record)]
            if done:
                states.append(dict(state))
                told += [(record, len(states) - 1) for record in done]
            assert store.commit(records) == len(states) - 1
        assert {(each.list, each.peer): each for each in store.entries(0)} == state
        for revision, old in enumerate(states):
            later = store.since(revision)
            assert later is not None
            assert [(row.revision, row.entry) for row in later] == [
                (number, record.entry) for record, number in told if number > revision
            ]
            for row in later:  # a reader that is behind comes to the same lists
                apply(old, row)
            assert old == state


@given(st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6)), st.integers(0, 128))
def test_a_network_is_the_text_of_it(address: object, length: int) -> None:
    whole = ip_network(str(address))
    one = whole.supernet(new_prefix=min(length, whole.max_prefixlen))
    assert network(str(one)) == one


@pytest.mark.parametrize("text", ["", "192.0.2.1/33", "192.0.2.1/24", "a/8", "::/x", "192.0.2.1"])
def test_what_is_no_network_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is no network"):
        network(text)


def test_100_000_entries_in_one_commit(store: Store) -> None:
    entries = many(100_000)
    assert store.commit([add(each) for each in entries]) == 1
    assert store.entries(0) == entries
    assert store.commit([remove(each) for each in entries[:1100]]) == 2
    assert store.entries(0) == entries[1100:]


# News


def test_only_what_others_did_to_lists_is_news(url: str, store: Store) -> None:
    with Store.open(url) as other:
        store.commit([add(entry())])
        assert not store.changed()
        assert other.changed()
        assert not other.changed()
        other.beat(node())
        other.save_peers([PeerRow(entry().peer, 1.0, 2.0, 3.0)])
        assert not store.changed()
        other.commit([remove(entry())])
        store.commit([add(entry())])
        assert store.changed()
        assert not store.changed()


def test_a_reader_that_the_store_has_forgotten_reads_everything_again(store: Store) -> None:
    for at in range(1, 6):
        store.commit([add(entry(created=float(at)))])
    store.prune(now=4.0, history_for=1.0, peers_for=1.0)
    assert store.since(1) is None
    assert [row.revision for row in store.since(2) or []] == [3, 4, 5]
    assert store.since(5) == []
    assert store.since(6) is None  # from a store that was replaced by an older copy


# Peers, nodes, history


def node(name: str = "mx1", applied: int = 3) -> Node:
    return Node(name, 42, "enforce", 1.5, 2.5, applied, {"pressure": 0.25, "lost": [1, 2]})


def test_peers_replace_what_was_known_of_them(store: Store) -> None:
    first = [
        PeerRow(each.peer, 1.5, 10.0, each.created_at, {"overstay": [3, 75.5]})
        for each in many(5000)
    ]
    store.save_peers(first)
    assert store.peers(since=4998.0) == first[:4997:-1]
    second = replace(first[0], score=9.0, seen_at=20_000.0, detail={})
    store.save_peers(iter([first[0], second]))
    assert store.peer(first[0].peer) == second
    assert store.peer(ip_network("::1")) is None
    assert len(store.peers()) == 5000


def test_nodes_tell_what_they_told_last(store: Store) -> None:
    for each in (node("mx2"), node("mx1", applied=1), node("mx1", applied=4)):
        store.beat(each)
    assert store.nodes() == [node("mx1", applied=4), node("mx2")]


def test_history_is_told_newest_first(store: Store) -> None:
    other = entry("198.51.100.7/32")
    for record in (add(entry()), add(other), remove(entry()), add(entry(created=600.0))):
        store.commit([record])
    assert [row.revision for row in store.history()] == [4, 3, 2, 1]
    assert [row.revision for row in store.history(limit=2)] == [4, 3]
    assert [row.revision for row in store.history(entry().peer)] == [4, 3, 1]


def test_blocks_since_counts_verdicts_that_nobody_lifted(store: Store) -> None:
    other = entry("198.51.100.7/32", created=30.0)
    by_hand, black = entry(created=40.0, source="operator"), entry(name=BLACK, created=50.0)
    first, second = entry(created=10.0), entry(created=20.0)
    for each in (first, second, other, by_hand, black):
        store.commit([add(each)])
    assert store.blocks_since(10.0) == {first.peer: [10.0, 20.0], other.peer: [30.0]}
    assert store.blocks_since(10.1) == {first.peer: [20.0], other.peer: [30.0]}
    store.commit([remove(entry(source="fail2ban:x"))])  # a program's own block was over
    assert first.peer in store.blocks_since(10.0)
    store.commit([remove(entry(name=BLACK, source="operator"))])
    assert store.blocks_since(10.0) == {other.peer: [30.0]}
    store.commit([add(entry(created=600.0))])
    assert store.blocks_since(10.0) == {other.peer: [30.0], first.peer: [600.0]}
    store.commit([remove(entry(created=600.0, source="operator"), at=700.0)])
    assert store.blocks_since(10.0) == {other.peer: [30.0]}


def test_prune_forgets_what_is_over(store: Store) -> None:
    old, lasting = many(4500), entry("2001:db8::/64", until=None, created=4800.0)
    store.commit([add(each) for each in [*old, lasting]])
    store.save_peers(PeerRow(each.peer, 1.0, 0.0, each.created_at) for each in old)
    done = [store.prune(now=5000.0, history_for=4900.0, peers_for=2000.0, node="mx1")]
    while done[-1].more:
        done.append(store.prune(now=5000.0, history_for=4900.0, peers_for=2000.0, node="mx1"))
    assert done == [
        Pruned(expired=2000, history=100, peers=2000, more=True),
        Pruned(expired=2000, history=0, peers=1000, more=True),
        Pruned(expired=500, history=0, peers=0, more=False),
    ]
    assert store.entries(0) == [lasting]
    assert store.revision() == 4
    assert store.history(old[7].peer) == [Recorded(Action.EXPIRE, old[7], 1000.5, 2, "mx1")]
    assert len(store.peers()) == 1500


def test_of_too_many_peers_those_seen_last_stay(store: Store) -> None:
    store.save_peers(PeerRow(each.peer, 1.0, 0.0, each.created_at) for each in many(50))
    everybody = [row.peer for row in store.peers()]
    assert [row.peer for row in store.peers(most=20)] == everybody[:20]
    pruned = store.prune(now=5000.0, history_for=1e6, peers_for=1e6, most_peers=20)
    assert pruned.peers == 30
    assert [row.peer for row in store.peers()] == everybody[:20]
    assert store.prune(now=5000.0, history_for=1e6, peers_for=1e6, most_peers=20).peers == 0


def test_prune_gives_space_back(store: Store) -> None:
    store.commit([add(each) for each in many(10_000)])
    before = pages(store)
    while store.prune(now=1e6, history_for=0.0, peers_for=0.0).more:
        pass
    assert pages(store) < before / 2


def pages(store: Store) -> int:
    assert store.path is not None
    with sqlite3.connect(store.path) as db:
        count = int(db.execute("PRAGMA page_count").fetchone()[0])
    db.close()
    return count


# Several at once


def test_two_writers_and_a_reader_lose_nothing(url: str, store: Store) -> None:
    def write(number: int) -> None:
        with Store.open(url) as mine:
            for each in many(100):
                own = replace(each, list=(BLACK, BLOCK)[number])
                mine.commit([add(own)], node=str(number))

    writers = [threading.Thread(target=write, args=(number,)) for number in (0, 1)]
    for writer in writers:
        writer.start()
    seen: list[Recorded] = []
    while any(writer.is_alive() for writer in writers) or len(seen) < 200:
        news = store.since(seen[-1].revision if seen else 0)
        assert news is not None
        seen += news
    assert [row.revision for row in seen] == list(range(1, 201))
    assert sorted(row.node for row in seen) == ["0"] * 100 + ["1"] * 100
    assert len(store.entries(0)) == 200


WRITER = """
import sys
from sqlalchemy import event
from dpsd.store import Store
sys.path.insert(0, sys.argv[2])
from test_store import add, many
store = Store.open(sys.argv[1])
for each in many(20):
    print(store.commit([add(each)]), flush=True)
def stop(connection, cursor, statement, *rest):
    if "UPDATE revision" in statement:  # everything else of the transaction is written
        print("in the middle", flush=True)
        sys.stdin.read()
event.listen(store._db, "before_cursor_execute", stop)
store.commit([add(each) for each in many(30_000)])
"""


def test_a_writer_killed_in_the_middle_loses_only_what_was_not_committed(url: str) -> None:
    command = [sys.executable, "-c", WRITER, url, str(Path(__file__).parent)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as writer:
        assert writer.stdout is not None
        lines = []
        while (line := writer.stdout.readline().strip()) not in ("in the middle", ""):
            lines.append(line)
        assert lines == [str(number) for number in range(1, 21)]
        with Store.open(url) as store:  # readers don't wait for it
            assert store.entries(0) == many(20)
        writer.kill()
        assert writer.wait() == -signal.SIGKILL
    with Store.open(url) as store:
        assert store.entries(0) == many(20)
        assert store.commit([add(entry())]) == 21
        assert [row.revision for row in store.since(0) or []] == list(range(1, 22))


def test_a_store_is_made_once_though_many_want_it(url: str) -> None:
    code = "import sys; from dpsd.store import Store; Store.open(sys.argv[1]).close()"
    openers = [subprocess.Popen([sys.executable, "-c", code, url]) for _ in range(5)]
    assert [opener.wait() for opener in openers] == [0] * 5


def test_a_locked_store_says_so(url: str, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dpsd.store.connecting.BUSY", 0.1)
    with Store.open(url) as store:
        other = sqlite3.connect(place / "dpsd.db", isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreError, match=r"dpsd\.db: locked by another process"):
            store.commit([add(entry())])
        assert store.entries(0) == []
        other.close()
        assert store.commit([add(entry())]) == 1


def test_one_daemon_to_a_store(url: str, store: Store) -> None:
    assert not store.claimed()
    store.claim()
    with Store.open(url) as other:
        assert other.claimed()
        with pytest.raises(StoreError, match=rf"another dpsd \(pid {os.getpid()}\) runs on it"):
            other.claim()
        assert other.claimed()
        store.close()
        assert not other.claimed()
        other.claim()


def test_a_killed_daemon_gives_its_claim_up(url: str, store: Store) -> None:
    code = (
        "import sys; from dpsd.store import Store; s = Store.open(sys.argv[1]); s.claim(); "
        "print(flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, url], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as daemon:
        assert daemon.stdout is not None
        daemon.stdout.readline()
        with pytest.raises(StoreError, match=f"pid {daemon.pid}"):
            store.claim()
        daemon.kill()
        daemon.wait()
    store.claim()


# What goes wrong is told


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("", "is no store URL such as sqlite:////path"),
        ("/var/lib/dpsd.db", "is no store URL such as sqlite:////path"),
        ("oracul://host/base", "oracul"),
        ("postgresql://dpsd:secret@host:port/dpsd", "is no store URL"),
        ("sqlite:///file:/x.db?uri=true", "write the path alone"),
        ("sqlite:////nowhere/at/all/dpsd.db", r"store /nowhere/at/all/dpsd\.db: its directory"),
        ("sqlite:////dev/null/dpsd.db", r"store /dev/null/dpsd\.db: .*Not a directory"),
        ("sqlite:////tmp", "store /tmp: is a directory"),
    ],
)
def test_a_url_that_leads_nowhere(url: str, said: str) -> None:
    with pytest.raises(StoreError, match=said) as caught:
        Store.open(url)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"# a configuration by mistake\n" * 100, "not an SQLite database"),
        (b"short", "not an SQLite database"),
        (b"SQLite format 3\0" + b"\xff" * 5000, "not an SQLite database|damaged"),
    ],
)
def test_a_file_of_something_else_is_left_alone(
    url: str, place: Path, content: bytes, said: str
) -> None:
    (place / "dpsd.db").write_bytes(content)
    with pytest.raises(StoreError, match=rf"dpsd\.db: ({said})"):
        Store.open(url, upgrade=True)
    assert (place / "dpsd.db").read_bytes() == content


def test_a_truncated_store_is_left_alone(url: str, place: Path) -> None:
    with Store.open(url) as store:
        store.commit([add(each) for each in many(1000)])
    os.truncate(place / "dpsd.db", 20_000)
    with pytest.raises(StoreError, match=r"dpsd\.db: damaged"):
        Store.open(url, upgrade=True)
    assert (place / "dpsd.db").stat().st_size == 20_000


def test_another_programs_database_is_left_alone(url: str, place: Path) -> None:
    with sqlite3.connect(place / "dpsd.db") as db:
        db.execute("CREATE TABLE mails (id)")
    db.close()
    with pytest.raises(StoreError, match="a database of something else"):
        Store.open(url, upgrade=True)


def test_an_empty_file_becomes_a_store(url: str, place: Path) -> None:
    (place / "dpsd.db").touch()
    with Store.open(url) as store:
        assert store.commit([add(entry())]) == 1


@pytest.mark.parametrize("upgrade", [False, True])
def test_a_newer_store_is_refused(url: str, place: Path, upgrade: bool) -> None:
    set_schema(url, place, "9999")
    with pytest.raises(StoreError, match=f"schema 9999 is newer than this dpsd, .* {SCHEMA}"):
        Store.open(url, upgrade)


def test_an_older_store_needs_the_daemon(url: str, place: Path) -> None:
    set_schema(url, place, "0000")
    with pytest.raises(StoreError, match=f"schema 0000 is older .* {SCHEMA}; .*start the daemon"):
        Store.open(url)
    with pytest.raises(StoreError, match=r"can't be upgraded: .*0000"):  # one that never was
        Store.open(url, upgrade=True)


def set_schema(url: str, place: Path, version: str) -> None:
    Store.open(url).close()
    with sqlite3.connect(place / "dpsd.db") as db:
        db.execute("UPDATE alembic_version SET version_num = ?", (version,))
    db.close()


def test_a_hand_that_wrote_nonsense_is_told(place: Path, store: Store) -> None:
    store.commit([add(entry())])
    with sqlite3.connect(place / "dpsd.db") as db:
        db.execute("UPDATE entries SET peer = 'mail.example.org'")
    db.close()
    with pytest.raises(StoreError, match=r"can't have written \('mail\.example\.org'"):
        store.entries(0)


def test_a_full_disk_changes_nothing(store: Store) -> None:
    store.commit([add(entry())])
    with store._transaction("") as db:
        db.exec_driver_sql("PRAGMA max_page_count = 100")
    with pytest.raises(StoreError, match="no room left"):
        store.commit([add(each) for each in many(10_000)])
    assert store.entries(0) == [entry()]
    assert store.commit([remove(entry())]) == 2


# Who may


def become(user: int, groups: list[int], do: Callable[[], object]) -> str:
    """Do it as another user; "" or the name and words of the error."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        said = "killed"
        try:
            os.setgroups(groups)
            os.setgid(user)
            os.setuid(user)
            do()
            said = ""
        except BaseException as error:  # noqa: BLE001 - all of it goes to the parent
            said = f"{type(error).__name__}: {error}"
        finally:
            os.write(writing, said.encode())
            os._exit(0)
    os.close(writing)
    os.waitpid(child, 0)
    with open(reading, encoding="utf-8") as said_by_child:
        return said_by_child.read()


def use(url: str) -> None:
    with Store.open(url, upgrade=True) as store:
        store.claim()
        number = store.revision()
        assert store.commit([add(entry())]) == number + 1


def owners(place: Path) -> set[tuple[str, int, int, int]]:
    stats = {path.name: path.stat() for path in place.iterdir()}
    return {(name, s.st_uid, s.st_gid, s.st_mode & 0o777) for name, s in stats.items()}


@as_root
def test_root_before_the_daemon_leaves_everything_to_it(place: Path, url: str) -> None:
    os.chown(place, DAEMON, SHARED)
    place.chmod(0o750)
    previous = os.umask(0o077)
    try:
        with Store.open(url) as store:
            store.claim()
            store.commit([add(entry())])
            assert owners(place) == {
                (name, DAEMON, SHARED, 0o660)
                for name in ("dpsd.db", "dpsd.db-wal", "dpsd.db-shm", "dpsd.db.lock")
            }
            store.close()
            held = Store.open(url)  # as a command that runs while the daemon starts
            assert become(DAEMON, [], lambda: use(url)) == ""
            assert held.changed()
            held.close()
    finally:
        os.umask(previous)


@as_root
def test_the_daemons_group_may_use_the_store(
    place: Path, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The checkout may lie where only root may read, in /root for one; an installed dpsd doesn't.
    migrations = place.parent / f"{place.name}-migrations"
    shutil.copytree(shipped("migrations"), migrations)
    monkeypatch.setattr("dpsd.store.schema.shipped", lambda _: migrations)
    os.chown(place, DAEMON, SHARED)
    place.chmod(0o2770)  # setgid: what an administrator makes is the group's too
    assert become(DAEMON, [], lambda: Store.open(url)) == ""
    assert become(ADMIN, [SHARED], lambda: use(url)) == ""
    assert become(DAEMON, [], lambda: use(url)) == ""
    shutil.rmtree(migrations)


@as_root
@pytest.mark.parametrize("mode", [0o660, 0o664])
def test_others_may_not(place: Path, url: str, mode: int) -> None:
    os.chown(place, DAEMON, SHARED)
    Store.open(url).close()
    (place / "dpsd.db").chmod(mode)
    said = become(ADMIN, [], lambda: use(url))
    assert said.startswith(f"NotPermitted: store {place}/dpsd.db: not permitted; use root or")
    place.chmod(0o700)
    assert become(ADMIN, [], lambda: use(url)) == said


@as_root
def test_a_directory_of_somebody_else(place: Path) -> None:
    said = become(ADMIN, [], lambda: use(f"sqlite:///{place}/dpsd.db"))
    assert said.startswith("NotPermitted: ")
    assert list(place.iterdir()) == []


@as_root
def test_a_file_that_may_only_be_read_is_read(place: Path, url: str) -> None:
    with Store.open(url) as held:  # so that -wal and -shm are there
        held.commit([add(entry())])
        held.claim()
        for path in place.iterdir():
            path.chmod(0o644)

        def read_and_write() -> None:
            with Store.open(url) as store:
                assert store.entries(0) == [entry()]
                assert store.claimed()
                assert store.nodes() == []
                with pytest.raises(NotPermitted):
                    store.commit([add(entry())])

        assert become(ADMIN, [], read_and_write) == ""


@as_root
def test_a_read_only_file_system(place: Path, url: str) -> None:
    with Store.open(url) as store:
        store.commit([add(entry())])
    code = """
import sys
from dpsd.errors import DpsdError
from dpsd.store import Store
for url in sys.argv[1:]:
    try:
        with Store.open(url) as store:
            print(len(store.entries(0)), store.claimed(), store.revision())
            store.commit([])
    except DpsdError as error:
        print(error)
"""
    read_only = 'mount --bind "$1" "$1" && mount -o remount,ro,bind "$1" && shift && exec "$@"'
    try_both = [sys.executable, "-c", code, url, f"sqlite:///{place}/new.db"]
    mounted = subprocess.run(
        ["unshare", "--mount", "sh", "-c", read_only, "sh", place, *try_both],
        capture_output=True,
        text=True,
        check=False,
    )
    if mounted.returncode:
        pytest.skip(f"can't mount here: {mounted.stderr}")
    read, old, new = mounted.stdout.splitlines()
    assert read == "1 False 1"
    assert old.startswith(f"store {place}/dpsd.db: its file system is read-only")
    assert new.startswith(f"store {place}/new.db: its file system is read-only")


def test_every_error_is_one_that_a_command_tells() -> None:
    assert issubclass(StoreError, DpsdError)
    assert issubclass(NotPermitted, DpsdError)


def test_evidence_is_the_same_when_it_comes_back() -> None:
    evidence = Evidence(
        Kind.OVERSTAY, "LAST_ACK", 61.25, 3, 10.0, 20.0, 41.5, 0, 30.0, 0.25, (25, 587)
    )
    saved = json.loads(json.dumps(evidence_json(evidence, lambda at: at + 5)))
    assert evidence_of(saved, lambda at: at - 5) == evidence
    with pytest.raises(ValueError, match="nonsense"):
        evidence_of({**saved, "kind": "nonsense"})


def test_who_came_first_has_the_say(url: str, store: Store) -> None:
    with Store.open(url) as operator:
        lasting = entry(until=9000.0, source="operator")
        operator.commit([add(lasting)])
    other = entry("192.0.2.2/32")
    done = store.record([add(entry()), add(other)], node="mx1", known=0)
    assert (done.revision, done.made, done.refused) == (2, True, [add(entry())])
    assert store.entries(0) == [lasting, other]
    done = store.record([add(entry())], node="mx1", known=1)  # it knows of the operator's word
    assert done == (3, True, [])


def test_an_edit_is_one_transaction(url: str, store: Store) -> None:
    committed = threading.Event()

    def edit() -> None:
        with Store.open(url) as other:
            other.commit([add(entry(until=9000.0))])
        committed.set()

    another = threading.Thread(target=edit)
    with store.editing():
        assert store.covering(entry().peer, 0) == []
        another.start()
        assert not committed.wait(0.2)
        assert store.commit([add(entry())]) == 1
    another.join()
    assert store.revision() == 2

    def interrupted() -> None:
        with store.editing():
            store.commit([remove(entry())])
            raise RuntimeError

    with pytest.raises(RuntimeError):
        interrupted()
    assert (len(store.entries(0)), store.revision()) == (1, 2)
