"""The ledger: the truth about studies, plans, jobs and attempts, in a SQL database.

`Ledger` opens it; the modules beside hold what can be said of one noun each, as functions that take the connection of a
transaction, so that what belongs together is written together.
"""

from dcm_processor.ledger.leases import Lease, LeaseLostError
from dcm_processor.ledger.ledger import Ledger

__all__ = ["Lease", "LeaseLostError", "Ledger"]
