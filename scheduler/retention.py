"""What has been kept long enough, deleted while the controller goes on: KEEP_ATTEMPTS, _RESULTS, _LOGS and _LEDGER.

Nothing goes of a study that is open (`ledger.retention`). What goes is renamed aside within a transaction that keeps
the leader's others out, and deleted after it: so no plan is made meanwhile that counts on what goes, a controller that
does not lead any more deletes nothing, and whatever dies in between leaves a name that the next round deletes.

    DATA/attempts/<attemptId>…      KEEP_ATTEMPTS days after it was put there, unless it is yet to become results
    DATA/results/<studyId>          KEEP_RESULTS days after the study's last plan ended
    LOGS/jobs/<studyId>/<jobId>     KEEP_LOGS days after its last line; with the ledger's rows at the latest
    rows of the ledger              KEEP_LEDGER days after the study's last plan ended; tombstones stay
    …/.<name>.gone                  on its way out, beside where it was
"""

import math
import os
import secrets
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from sqlalchemy import Connection

from dcm_processor import service_tree
from dcm_processor.errors import DcmProcessorError
from dcm_processor.ledger import Lease, LeaseLostError, Ledger, leases, retention
from dcm_processor.logging import get_logger
from dcm_processor.orthanc import is_orthanc_id
from dcm_processor.settings import Settings
from dcm_processor.vocabulary import AttemptState
from scheduler.results import ATTEMPTS, RESULTS

log = get_logger()

PORTION = 100
"""Names of files that one transaction is about."""
STUDIES = 20
"""Studies whose rows go in one transaction: the controller's others wait for it."""
_DAY = 86_400.0
_GONE = ".gone"


class Retention:
    """A thread of the leader; thousands of files take their time, and neither hook nor outcomes wait for them."""

    def __init__(self, settings: Settings, ledger: Ledger) -> None:
        self._ledger = ledger
        self._attempts_folder = settings.data / ATTEMPTS
        self._results_folder = settings.data / RESULTS
        self._logs_folder = settings.logs / "jobs"
        self._steps = (
            ("attempts", settings.KEEP_ATTEMPTS, self._attempts),
            ("results", settings.KEEP_RESULTS, self._results),
            ("logs", settings.KEEP_LOGS, self._logs),
            ("studies", settings.KEEP_LEDGER, self._studies),
            ("events", settings.KEEP_LEDGER, self._events),
        )
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None

    def begin(self, lease: Lease) -> None:
        """Have what was kept long enough deleted, unless that is going on."""
        if self._thread is None or not self._thread.is_alive():
            self._thread = threading.Thread(target=self.run, args=(lease,), name="retention", daemon=True)
            self._thread.start()

    def close(self, patience: float = 5.0) -> None:
        """End soon; what is left is for the next round."""
        self._stopped.set()
        if self._thread is not None:
            self._thread.join(patience)

    def run(self, lease: Lease) -> None:
        """One round; what one step meets does not keep the others from theirs."""
        for folder in (self._attempts_folder, self._results_folder, self._logs_folder):
            _delete([folder / name for name in _names(folder) if name.startswith(".") and name.endswith(_GONE)])
        gone: dict[str, int] = {}
        for name, days, step in self._steps:
            if days is None:
                continue
            try:
                gone[name] = step(lease, time.time() - days * _DAY)
            except LeaseLostError:
                return
            except (DcmProcessorError, OSError) as error:
                log.warning("what was kept long enough stays for now", what=name, error=str(error))
            except Exception:  # the thread's edge: the next round comes
                log.exception("what was kept long enough could not be deleted", what=name)
        if any(gone.values()):
            log.info("what was kept long enough is deleted", **gone)

    # -- steps: each returns how many went

    def _attempts(self, lease: Lease, before: float) -> int:
        folder, number = self._attempts_folder, 0
        for names in _portions([name for name in _names(folder) if _put_there(folder / name) < before]):
            ids = {name: name.partition(".")[0] for name in names}
            with self._transaction(lease) as db:
                known = retention.of_attempts(db, set(ids.values()))
                busy = retention.open_among(db, {study_id for study_id, _ in known.values()})
                aside = []
                for name, attempt_id in ids.items():
                    study_id, state = known.get(attempt_id, ("", ""))
                    unpublished = name == attempt_id and state == AttemptState.FINISHED
                    if not name.startswith(".") and study_id not in busy and not unpublished:
                        aside += _aside(folder / name)
            number += self._deleted(aside)
        return number

    def _results(self, lease: Lease, before: float) -> int:
        folder, number = self._results_folder, 0
        for names in _portions([name for name in _names(folder) if is_orthanc_id(name)]):
            with self._ledger.read() as db:
                old = _older(db, names, before)
            if not old:
                continue
            with self._transaction(lease) as db:
                old = _older(db, old, before)  # as it is now
                aside = [path for name in old for path in _aside(folder / name)]
            number += self._deleted(aside)
        return number

    def _logs(self, _lease: Lease, before: float) -> int:
        """Logs of jobs that ended are written no more: no transaction is needed."""
        number = 0
        for names in _portions([name for name in _names(self._logs_folder) if not name.startswith(".")]):
            with self._ledger.read() as db:
                busy = retention.open_among(db, names)
            for folder in (self._logs_folder / name for name in names if name not in busy):
                jobs = [folder / name for name in _names(folder)]
                number += self._deleted([job for job in jobs if _newest(job) < before])
                with suppress(OSError):  # others are still there
                    folder.rmdir()
        return number

    def _studies(self, lease: Lease, before: float) -> int:
        number, stays = 0, set[str]()
        while not self._stopped.is_set():
            with self._transaction(lease) as db:
                found = retention.expired(db, before=before, limit=STUDIES, but=stays)
                aside = [path for study_id in found for path in _aside(self._logs_folder / study_id)]
                # A run of the same name would go on with logs that are still there.
                stays.update(study_id for study_id in found if os.path.lexists(self._logs_folder / study_id))
                go = [study_id for study_id in found if study_id not in stays]
                number += len(go) if go and retention.bury(db, go) else 0
            self._deleted(aside)
            if not found:
                break
        return number

    def _events(self, lease: Lease, before: float) -> int:
        number = 0
        while not self._stopped.is_set():
            with self._transaction(lease) as db:
                dropped = retention.drop_events(db, before=before, limit=10 * PORTION)
            number += dropped
            if not dropped:
                break
        return number

    # -- how

    @contextmanager
    def _transaction(self, lease: Lease) -> Iterator[Connection]:
        """The leader's, with none of its others beside it; then these have their turn."""
        began = time.monotonic()
        with self._ledger.write() as db:
            leases.keep_leader_out(db)
            leases.check(db, lease)
            yield db
        self._stopped.wait(2 * (time.monotonic() - began))

    def _deleted(self, paths: Sequence[Path]) -> int:
        """How many of them could be deleted before it was time to stop."""
        number = 0
        for path in paths:
            if self._stopped.is_set():
                break
            number += _delete([path])
        return number


def _older(db: Connection, study_ids: Sequence[str], before: float) -> list[str]:
    """Those of the studies that are not open, and had a plan, the last of which ended before that."""
    ended, busy = retention.ended_at(db, study_ids), retention.open_among(db, study_ids)
    return [each for each in study_ids if each not in busy and ended.get(each, math.inf) < before]


def _aside(path: Path) -> list[Path]:
    """Where it was renamed to; nothing where it is not there, or cannot be renamed, which is told."""
    aside = path.with_name(f".{path.name}.{secrets.token_hex(4)}{_GONE}")
    try:
        if path.is_dir() and not path.is_symlink():
            path.chmod(0o700)  # a job may have taken the right to rename it
        path.rename(aside)
    except FileNotFoundError:
        return []
    except OSError as error:
        log.warning("what was kept long enough cannot go", path=str(path), why=error.strerror)
        return []
    return [aside]


def _delete(paths: Sequence[Path]) -> int:
    number = 0
    for path in paths:
        try:
            if path.is_dir() and not path.is_symlink():
                service_tree.remove(path)
            else:
                path.unlink()
            number += 1
        except OSError as error:
            log.warning("what was kept long enough cannot be deleted", path=str(path), why=error.strerror)
    return number


def _names(folder: Path) -> list[str]:
    try:
        return sorted(os.listdir(folder))  # noqa: PTH208 - names
    except (FileNotFoundError, NotADirectoryError):
        return []


def _put_there(path: Path) -> float:
    """When it was last renamed or changed, in seconds since the epoch; a rename counts, whatever is in it."""
    try:
        status = path.lstat()
    except FileNotFoundError:
        return math.inf
    return max(status.st_ctime, status.st_mtime)


def _newest(folder: Path) -> float:
    """When anything in it was last written."""
    return max((_written(path) for path in [folder, *(folder / name for name in _names(folder))]), default=math.inf)


def _written(path: Path) -> float:
    try:
        return path.lstat().st_mtime
    except FileNotFoundError:
        return -math.inf


def _portions(names: Sequence[str]) -> Iterator[Sequence[str]]:
    return (names[start : start + PORTION] for start in range(0, len(names), PORTION))
