"""Studies that are held back until they are complete: planned when their limit has passed, judged anew by new rules."""

import hashlib
import time

from dcm_processor import completeness_file
from dcm_processor.completeness import LONGEST
from dcm_processor.errors import RulesError
from dcm_processor.ledger import Lease, Ledger, events, repairs, studies
from dcm_processor.logging import get_logger
from dcm_processor.settings import Settings
from dcm_processor.vocabulary import EventKind, RepairKind

log = get_logger()

_FACT = "completeness"  # the digest of the rules that studies were last judged by


class Holds:
    """Records what is to be done about studies that are held back; the planner does it."""

    def __init__(self, settings: Settings, ledger: Ledger) -> None:
        self._settings = settings
        self._ledger = ledger
        self._digest: str | None = None
        self._longest: float | None = None  # seconds: the highest limit of any rules that were read

    def look(self, lease: Lease) -> None:
        """Take in rules that changed, and studies whose limit has passed."""
        self._rules(lease)
        self._overdue(lease)

    def _overdue(self, lease: Lease) -> None:
        now = time.time()
        latest = now + (LONGEST if self._longest is None else self._longest)
        with self._ledger.read() as db:
            if not studies.held_until(db, now, limit=1) and not studies.held_beyond(db, latest):
                return
        with self._ledger.write(lease) as db:
            if number := studies.hold_at_most(db, latest):
                repairs.count(db, RepairKind.DUE_TOO_LATE, number, now=now)
            for study_id in studies.held_until(db, now):
                studies.end_hold(db, study_id)
                events.record(db, EventKind.LIMIT, study_id, None, now=now)

    def _rules(self, lease: Lease) -> None:
        """Have studies that are held back judged by rules that changed; those that cannot be read change nothing."""
        try:
            text = completeness_file.text(self._settings)
            digest = hashlib.sha256(text).hexdigest()
            if digest == self._digest:
                return
            rules = completeness_file.rules(self._settings)
        except RulesError as error:
            if self._digest != "":
                log.warning("studies wait for rules that can be read", error=str(error))
            self._digest = ""
            return
        now = time.time()
        with self._ledger.write(lease) as db:
            if (before := studies.fact(db, _FACT)) != digest:
                held = studies.held(db)
                for study_id in held:
                    events.record(db, EventKind.RULES, study_id, None, now=now)
                studies.set_fact(db, _FACT, digest)
                if before is not None or rules:
                    log.info("the rules of completeness are others", rules=len(rules), held=len(held))
        self._digest = digest
        self._longest = max([self._longest or 0.0, *(rule.limit for rule in rules)])
