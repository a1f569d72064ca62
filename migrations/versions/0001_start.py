"""The first tables: entries, history, peers, nodes, revision."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

TIME = sa.Float(53)


def upgrade() -> None:
    """From an empty database; the reason of each table is told in dpsd/store/schema.py."""
    _entries()
    _history()
    _peers()
    op.create_table(
        "nodes",
        sa.Column("node", sa.Text, primary_key=True),
        sa.Column("pid", sa.Integer, nullable=False),
        sa.Column("mode", sa.Text, nullable=False),
        sa.Column("started_at", TIME, nullable=False),
        sa.Column("updated_at", TIME, nullable=False),
        sa.Column("applied", sa.Integer, nullable=False),
        sa.Column("status", sa.JSON, nullable=False),
    )
    revision_table = op.create_table(
        "revision",
        sa.Column("value", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("reaches", sa.Integer, nullable=False),
    )
    op.bulk_insert(revision_table, [{"value": 0, "reaches": 0}])


def _entries() -> None:
    op.create_table(
        "entries",
        sa.Column("list", sa.Text, primary_key=True),
        sa.Column("peer", sa.Text, primary_key=True),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("source", sa.Text, nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        sa.Column("expires_at", TIME),
    )
    op.create_index("entries_expires_at", "entries", ["expires_at"])


def _history() -> None:
    op.create_table(
        "history",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("revision", sa.Integer, nullable=False),
        sa.Column("at", TIME, nullable=False),
        sa.Column("action", sa.Text, nullable=False),
        sa.Column("list", sa.Text, nullable=False),
        sa.Column("peer", sa.Text, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("source", sa.Text, nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        sa.Column("expires_at", TIME),
        sa.Column("node", sa.Text, nullable=False),
    )
    op.create_index("history_revision", "history", ["revision"])
    op.create_index("history_peer", "history", ["peer", "id"])
    op.create_index("history_at", "history", ["at"])


def _peers() -> None:
    op.create_table(
        "peers",
        sa.Column("peer", sa.Text, primary_key=True),
        sa.Column("score", TIME, nullable=False),
        sa.Column("at", TIME, nullable=False),
        sa.Column("seen_at", TIME, nullable=False),
        sa.Column("detail", sa.JSON, nullable=False),
    )
    op.create_index("peers_seen_at", "peers", ["seen_at"])
