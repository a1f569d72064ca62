"""Migrations make the tables that the queries use, whole or not at all."""

import os
import shutil
from collections.abc import Iterator
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import event, inspect

from dpsd.core.lists import Entry, ListName
from dpsd.core.story import told
from dpsd.errors import StoreError
from dpsd.paths import shipped
from dpsd.store import (
    SCHEMA,
    Action,
    PeerRow,
    Record,
    Store,
    evidence_json,
    evidence_of,
    schema,
)

ENTRY = Entry(ListName.BLACK, ip_network("192.0.2.1/32"), "reset flood", "operator", 5.0)

HEAD = """
import os
import sqlalchemy as sa
from alembic import op
revision, down_revision, branch_labels, depends_on = "9001", "OLD", None, None
def upgrade():
    op.create_table("new", sa.Column("id", sa.Integer, primary_key=True))
    with op.batch_alter_table("entries") as entries:  # copies the table, as SQLite needs it
        entries.alter_column("reason", new_column_name="why")
    op.execute("UPDATE entries SET why = 'migrated'")
""".replace("OLD", SCHEMA)
SQL_ERROR = '    op.execute("INSERT INTO nowhere VALUES (1)")\n'
BUG = '    raise RuntimeError("half-way")\n'
KILLED = "    os._exit(9)\n"


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/dpsd.db"


@pytest.fixture
def store(url: str) -> Iterator[Store]:
    with Store.open(url) as opened:
        yield opened


@pytest.fixture
def next_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Where the next release's migration goes; the schema is already said to be that one."""
    folder = tmp_path / "a % in a path"
    shutil.copytree(shipped("migrations"), folder, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(schema, "shipped", lambda _: folder)
    monkeypatch.setattr(schema, "SCHEMA", "9001")
    return folder / "versions" / "9001_next.py"


@pytest.fixture
def old_store(url: str) -> str:
    """A store with an entry, of the schema of today."""
    with Store.open(url) as store:
        store.commit([Record(Action.ADD, ENTRY, 5.0)])
    return url


def test_the_schema_is_the_newest_migration() -> None:
    config = Config()
    config.set_main_option("script_location", str(shipped("migrations")))
    scripts = ScriptDirectory.from_config(config)
    assert scripts.get_heads() == [SCHEMA]
    names = [script.revision for script in scripts.walk_revisions()]
    assert sorted(names, reverse=True) == names  # their order is that of their texts
    assert all(len(name) == 4 and name.isdigit() for name in names)


def test_migrations_make_the_tables_of_the_queries(store: Store) -> None:
    with store._reading() as db:
        context = MigrationContext.configure(db, opts={"compare_type": True})
        assert compare_metadata(context, schema.metadata) == []


def test_queries_use_their_indexes(store: Store) -> None:
    asked: dict[str, Any] = {}

    def remember(
        _db: Any, _cursor: Any, query: str, values: Any, _context: Any, many: bool
    ) -> None:
        if "WHERE" in query:
            asked[query] = values[0] if many else values

    event.listen(store._db, "before_cursor_execute", remember)
    store.commit([Record(Action.ADD, ENTRY, 5.0), Record(Action.REMOVE, ENTRY, 5.0)])
    store.covering(ENTRY.peer, now=5.0)
    store.since(0)
    store.history(ENTRY.peer)
    store.blocks_since(5.0)
    store.save_peers([PeerRow(ENTRY.peer, 1.0, 2.0, 3.0)])
    store.peers(since=5.0)
    store.peer(ENTRY.peer)
    store.prune(now=9.0, history_for=1.0, peers_for=1.0)
    assert len(asked) >= 13
    for query, values in list(asked.items()):
        with store._reading() as db:
            plan = db.exec_driver_sql(f"EXPLAIN QUERY PLAN {query}", values).all()
        steps = {row[-1] for row in plan} - {"SCAN revision"}  # of a single row
        assert not [step for step in steps if "SCAN" in step or "TEMP" in step], query


def test_the_daemon_upgrades_an_older_store(old_store: str, next_one: Path) -> None:
    next_one.write_text(HEAD)
    with pytest.raises(StoreError, match=f"schema {SCHEMA} is older .* needs 9001"):
        Store.open(old_store)
    with Store.open(old_store, upgrade=True) as store, store._reading() as db:
        assert schema.found(db) == "9001"
        assert db.exec_driver_sql("SELECT why FROM entries").all() == [("migrated",)]
    Store.open(old_store).close()


@pytest.mark.parametrize(("end", "error"), [(SQL_ERROR, StoreError), (BUG, RuntimeError)])
def test_a_failed_upgrade_leaves_everything_as_it_was(
    monkeypatch: pytest.MonkeyPatch,
    old_store: str,
    next_one: Path,
    end: str,
    error: type[Exception],
) -> None:
    next_one.write_text(HEAD + end)
    with pytest.raises(error):
        Store.open(old_store, upgrade=True)
    unharmed(monkeypatch, old_store)


def test_a_killed_upgrade_leaves_everything_as_it_was(
    monkeypatch: pytest.MonkeyPatch, old_store: str, next_one: Path
) -> None:
    next_one.write_text(HEAD + KILLED)
    if not (child := os.fork()):
        Store.open(old_store, upgrade=True)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    unharmed(monkeypatch, old_store)


def unharmed(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setattr(schema, "SCHEMA", SCHEMA)  # the release before
    with Store.open(url) as store:
        assert store.entries(0) == [ENTRY]
        with store._reading() as db:
            assert "new" not in inspect(db).get_table_names()


def test_a_failed_start_can_be_repeated(url: str, next_one: Path) -> None:
    next_one.write_text(HEAD + SQL_ERROR)
    with pytest.raises(StoreError, match="nowhere"):
        Store.open(url)
    next_one.write_text(HEAD)
    with Store.open(url) as store, store._reading() as db:
        assert schema.found(db) == "9001"


OLD_EVIDENCE = {
    **{"kind": "overstay", "state": "LAST_ACK", "cost": 61.0, "count": 3},
    **{"first": 1.5, "at": 2.5},
}


def test_from_0001_evidence_is_kept_and_tells_what_is_known(
    url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A store as the first release left it, with more peers than go into one batch."""
    first = tmp_path / "first"
    shutil.copytree(shipped("migrations"), first, ignore=shutil.ignore_patterns("000[2-9]_*"))
    with monkeypatch.context() as then:
        then.setattr(schema, "shipped", lambda _: first)
        then.setattr(schema, "SCHEMA", "0001")
        with Store.open(url) as store:
            store.commit([Record(Action.ADD, ENTRY, 5.0)])
            detail = {"evidence": [OLD_EVIDENCE], "sessions": {"LAST_ACK": 3}, "trust": 1.25}
            others = [ip_network((0x0A000000 + n, 32)) for n in range(4_500)]
            rows = [PeerRow(peer, 9.0, 3.0, 4.0, {"evidence": []}) for peer in others]
            guilty = [PeerRow(peer, 9.0, 3.0, 4.0, detail) for peer in (ENTRY.peer, others[4_499])]
            store.save_peers([*rows, *guilty])
    with pytest.raises(StoreError, match=r"schema 0001 is older .* needs"):
        Store.open(url)
    with Store.open(url, upgrade=True) as store:
        assert store.entries(0) == [ENTRY]
        assert len(store.peers()) == 4_501
        for peer in (ENTRY.peer, others[4_499]):
            row = store.peer(peer)
            assert row is not None
            assert {**row.detail, "evidence": []} == {**detail, "evidence": []}
            (saved,) = row.detail["evidence"]
            assert saved.items() >= OLD_EVIDENCE.items()
            evidence = evidence_of(saved)
            assert told(evidence) == "3 sessions closed but never sent the last ACK"
            assert evidence_json(evidence, lambda at: at) == saved
        assert store.peer(others[0]) == rows[0]
