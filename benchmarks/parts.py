"""What the benchmarks of the controller's own steps stand on: a ledger in SQLite, Valkey, one service's registry."""

import json
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path

from dcm_processor.ledger import Ledger
from dcm_processor.manifest import Defaults, parse_manifest
from dcm_processor.registry import ServiceRegistry, combine
from dcm_processor.store import Store
from dcm_processor.transport import Transport
from dcm_processor.vocabulary import EventKind, Level
from scheduler.effects import Effects
from scheduler.results import Results

DEFAULTS = Defaults(Level.STUDY, "default", ("high", "default", "low"))


def registry_of(jobs: Sequence[Mapping[str, object]]) -> ServiceRegistry:
    """The service `svc` with these jobs, as in a settings.json but for worker and callback."""
    entries = [{"worker": "svc.work", "callback": "svc.applies", **job} for job in jobs]
    return combine([("svc", "0" * 32, parse_manifest(json.dumps(entries), "svc", DEFAULTS))])


class Parts:
    """Of one folder and one Valkey."""

    def __init__(self, folder: Path, redis_url: str) -> None:
        self.ledger = Ledger(f"sqlite:///{folder}/ledger.sqlite")
        self.ledger.migrate()
        self.transport = Transport(redis_url)
        self._results = Results(folder / "data")
        self._store = Store(folder / "registry", folder / "modules", DEFAULTS)

    def study(self) -> str:
        """The id of a new study, which the ledger knows to be stable."""
        study_id = str(uuid.uuid4())
        self.ledger.record_event(EventKind.STABLE, study_id)
        return study_id

    def carry_out(self, effects: Effects) -> None:
        effects.carry_out(self.ledger, self.transport, self._results, self._store)
