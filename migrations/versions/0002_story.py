"""Evidence tells its story: what a peer's row says of it gets the keys that were unknown before.

Nothing is known of them in older evidence; so they are 0, which no story mentions.
"""

from collections.abc import Iterator
from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

BATCH = 2_000  # rows

peers = sa.table("peers", sa.column("peer", sa.Text), sa.column("detail", sa.JSON))


def upgrade() -> None:
    """Every row of peers; a big store's are read some at a time."""
    db = op.get_bind()
    change = (
        sa.update(peers)
        .where(peers.c.peer == sa.bindparam("of"))
        .values(detail=sa.bindparam("told"))
    )
    for rows in _batches(db):
        told = [{"of": peer, "told": _told(detail)} for peer, detail in rows if _is_old(detail)]
        if told:
            db.execute(change, told)


def _batches(db: Any) -> Iterator[list[Any]]:
    last = ""
    query = sa.select(peers.c.peer, peers.c.detail).order_by(peers.c.peer).limit(BATCH)
    while rows := db.execute(query.where(peers.c.peer > last)).all():
        yield rows
        last = rows[-1].peer


def _is_old(detail: dict[str, Any]) -> bool:
    return bool(detail.get("evidence"))


def _told(detail: dict[str, Any]) -> dict[str, Any]:
    unknown = {"longest": 0.0, "most": 0, "proper": 0.0, "stress": 0.0, "ports": []}
    return {**detail, "evidence": [{**each, **unknown} for each in detail["evidence"]]}
