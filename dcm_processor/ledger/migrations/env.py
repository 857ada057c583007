"""Alembic's entry: runs on the connection that `dcm_processor.ledger.engine.migrate` holds."""

from alembic import context

from dcm_processor.ledger.schema import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata, render_as_batch=True)
context.run_migrations()
