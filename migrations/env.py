"""How Alembic reaches the store: through a connection, and a transaction, that dpsd opened.

There is no alembic.ini; dpsd.store.schema.migrate() is the way in. A new migration is a copy of
script.py.mako with the next number; dpsd.store.schema.SCHEMA names the newest.
"""

from alembic import context

from dpsd.store.schema import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    render_as_batch=True,  # SQLite can't alter most of a table in place
    transactional_ddl=True,  # it can take part in a transaction, though Alembic doubts it
)
context.run_migrations()
