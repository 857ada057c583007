"""New ledgers for tests, soon: migrating one takes a tenth of a second, which a thousand tests would spend each."""

import atexit
import shutil
import tempfile
from contextlib import closing
from functools import cache
from pathlib import Path

from sqlalchemy import make_url

from dcm_processor.ledger import Ledger


def new_ledger(url: str, *, busy_timeout: float = 30) -> Ledger:
    """A ledger at the schema of the code; on SQLite, where there is none yet, the copy of one that was migrated."""
    ledger, parsed = Ledger(url, busy_timeout=busy_timeout), make_url(url)
    path = Path(str(parsed.database))
    if parsed.get_backend_name() == "sqlite" and not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(_blank(), path)
    else:
        ledger.migrate()
    return ledger


@cache
def _blank() -> Path:
    folder = tempfile.mkdtemp(prefix="blank-ledger-")
    atexit.register(shutil.rmtree, folder)
    path = Path(folder) / "ledger.sqlite"
    with closing(Ledger(f"sqlite:///{path}")) as ledger:
        ledger.migrate()
    return path
