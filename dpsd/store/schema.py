"""The tables, and the way to them from an older store or from none.

migrations/ makes the tables; the definitions here serve the queries, and a test holds the two
together. A peer is the text of str(ip_network), a time is seconds since the epoch (UTC).
"""

from sqlalchemy import JSON, Column, Float, Index, Integer, MetaData, Table, Text, inspect, text
from sqlalchemy.engine import Connection

from dpsd.errors import StoreError
from dpsd.paths import shipped

# The newest migration: the command line compares it without importing Alembic. Revisions are
# numbers of four digits, so their order is the order of their texts.
SCHEMA = "0002"

metadata = MetaData()
TIME = Float(53)  # double precision everywhere; a plain REAL is off by a minute on PostgreSQL

# The lists in force. At most one entry for a network on each list.
entries = Table(
    "entries",
    metadata,
    Column("list", Text, primary_key=True),
    Column("peer", Text, primary_key=True),
    Column("reason", Text, nullable=False),
    Column("source", Text, nullable=False),
    Column("created_at", TIME, nullable=False),
    Column("expires_at", TIME),  # NULL: never
    Index("entries_expires_at", "expires_at"),  # what is over, for prune()
)

# Every change of a list: why a peer was listed, by whom, until when; and what a daemon that is
# behind has to catch up with.
history = Table(
    "history",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("revision", Integer, nullable=False),
    Column("at", TIME, nullable=False),
    Column("action", Text, nullable=False),
    Column("list", Text, nullable=False),
    Column("peer", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("source", Text, nullable=False),
    Column("created_at", TIME, nullable=False),
    Column("expires_at", TIME),
    Column("node", Text, nullable=False),  # who committed it; "" is the command line
    Index("history_revision", "revision"),  # since()
    Index("history_peer", "peer", "id"),  # `dpsd why`, newest first
    Index("history_at", "at"),  # retention, and the blocks of the last days
)

# What is known about peers that are on no list yet, so that a restart doesn't absolve them.
peers = Table(
    "peers",
    metadata,
    Column("peer", Text, primary_key=True),
    Column("score", TIME, nullable=False),
    Column("at", TIME, nullable=False),
    Column("seen_at", TIME, nullable=False),
    Column("detail", JSON, nullable=False),
    Index("peers_seen_at", "seen_at"),  # the recent ones at start, the old ones for prune()
)

# What each running daemon tells about itself: `dpsd status`, and waiting for a revision.
nodes = Table(
    "nodes",
    metadata,
    Column("node", Text, primary_key=True),
    Column("pid", Integer, nullable=False),
    Column("mode", Text, nullable=False),
    Column("started_at", TIME, nullable=False),
    Column("updated_at", TIME, nullable=False),
    Column("applied", Integer, nullable=False),
    Column("status", JSON, nullable=False),
)

# A single row. value: the number of the last commit; reaches: history is whole after this one.
revision = Table(
    "revision",
    metadata,
    Column("value", Integer, primary_key=True, autoincrement=False),
    Column("reaches", Integer, nullable=False),
)


def found(db: Connection) -> str | None:
    """The schema of a database; None when it is empty. StoreError when it isn't dpsd's."""
    tables = inspect(db).get_table_names()
    if not tables:
        return None
    if "alembic_version" not in tables:
        raise StoreError("a database of something else: it has tables, but no dpsd schema")
    version = db.execute(text("SELECT version_num FROM alembic_version")).scalar()
    return None if version is None else str(version)


def needs_migration(version: str | None, upgrade: bool) -> bool:
    """Whether found() has to become SCHEMA; StoreError when that isn't possible or allowed."""
    if version == SCHEMA:
        return False
    if version is None:
        return True
    if version > SCHEMA:
        raise StoreError(
            f"its schema {version} is newer than this dpsd, which knows {SCHEMA}; "
            "install the newer dpsd again, or restore a copy of the store from before"
        )
    if not upgrade:
        raise StoreError(
            f"its schema {version} is older than this dpsd, which needs {SCHEMA}; "
            "(re)start the daemon: it upgrades the store"
        )
    return True


def migrate(db: Connection) -> None:
    """Bring the database to the newest schema, in the caller's transaction."""
    from alembic import command  # noqa: PLC0415 - 0.1 s that only a migration should cost
    from alembic.config import Config  # noqa: PLC0415
    from alembic.util import CommandError  # noqa: PLC0415

    config = Config(attributes={"connection": db})
    config.set_main_option("script_location", str(shipped("migrations")).replace("%", "%%"))
    try:
        command.upgrade(config, "head")
    except CommandError as error:
        raise StoreError(f"can't be upgraded: {error}") from error
