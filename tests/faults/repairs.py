"""Each repair is needed: what it is for is made to happen without it, and the oracle finds it; with it, no more.

The studies stay the same and the damage is done once; only the controller is started again, without the repair and
then with it. All that it does by the clock it does at its start too, so that neither side waits for the clock.
"""

import json
import signal
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

import psutil

from dcm_processor.ledger import Ledger, events
from dcm_processor.transport import REPORTS
from dcm_processor.vocabulary import EventKind
from tests.faults import leftovers, oracle, studies
from tests.faults.links import Mode
from tests.faults.oracle import Finding
from tests.faults.record import Record
from tests.faults.scanner import Scanner
from tests.faults.services import Job, Rule
from tests.faults.stand import LOST_AFTER, Stand
from tests.faults.studies import Study
from tests.waiting import wait_until

_RETRY = {"max": 0, "interval": [1], "lost": 2}
JOBS = (
    Job("one", "short", Rule("study", seconds=1.5), retry=_RETRY),
    Job("two", "short", Rule("study"), ("one",), retry=_RETRY),
)
_UNREPAIRED = {"lost": LOST_AFTER + 15, "unreported": LOST_AFTER + 25}
"""Seconds that the controller gets without the repair: with it, less would do. For those not named 20."""
_REPAIRED = LOST_AFTER + 60.0
_SOON = 60.0


@dataclass(frozen=True)
class Shown:
    """What the oracle found without the repair, and with it."""

    without: list[Finding]
    repaired: list[Finding]


class Repairs:
    """The scenarios, one after the other on one stand."""

    def __init__(self, stand: Stand) -> None:
        self._stand = stand
        self._sent: list[Study] = []
        self._stand.install(JOBS)
        self._study = self._send()
        self._wait_for_end(120)  # the services' environment is built

    def show(self, repair: str) -> Shown:
        """Do the damage without the repair; then have it repaired."""
        self._stand.switch_off(repair)
        scenario: Callable[[], None] = getattr(self, f"_{repair}")
        scenario()
        self._stand.restart("controller")
        deadline = time.monotonic() + _UNREPAIRED.get(repair, 20)
        while time.monotonic() < deadline and self._judge():
            time.sleep(2)
        found = self._judge()
        self._stand.switch_off("")
        try:
            wait_until(lambda: not self._judge(), _REPAIRED, "all is repaired", every=0.5)
        except AssertionError:
            return Shown(found, self._judge())
        return Shown(found, [])

    # -- the damage

    def _push(self) -> None:
        """Redis is emptied while an attempt is queued."""
        self._workers(signal.SIGSTOP)
        self._study = self._send()
        wait_until(lambda: self._attempt("queued"), _SOON, "an attempt is queued")
        with self._stand.redis() as client:
            client.flushall()
        self._workers(signal.SIGCONT)

    def _lost(self) -> None:
        """A worker is killed while it runs an attempt."""
        self._study = self._send()
        wait_until(self._runs, _SOON, "a function runs")
        self._workers(signal.SIGKILL)

    def _plans(self) -> None:
        """A job that may run waits, as somebody left it who looked into the ledger by hand."""
        self._put_back("waiting")

    def _clocks(self) -> None:
        """A retry lies a day ahead, as a clock leaves it that was set back."""
        self._put_back("retrying", due_at=time.time() + 24 * 3600)

    def _put_back(self, state: str, due_at: float | None = None) -> None:
        """Have a job that is queued be in that state, and its attempt be nowhere."""
        self._workers(signal.SIGSTOP)
        self._study = self._send()
        attempt_id = wait_until(lambda: self._attempt("queued"), _SOON, "an attempt is queued")
        second = f"kind = '{EventKind.CHANGE}' AND handled_at IS NOT NULL AND study_id = '{self._study.study_id}'"
        wait_until(  # it would have the controller look at the plan again
            lambda: self._stand.ask(f"SELECT 1 FROM events WHERE {second}"), _SOON, "Orthanc's change is dealt with too"
        )
        self._stand.stop_program("controller")
        with self._stand.redis() as client:
            client.flushall()
        with closing(sqlite3.connect(self._stand.ledger, timeout=20)) as db, db:
            db.execute("DELETE FROM attempts WHERE attempt_id = ?", (attempt_id,))
            db.execute(
                "UPDATE jobs SET state = ?, due_at = ?, attempt = 0 WHERE state = 'queued' AND study_id = ?",
                (state, due_at, self._study.study_id),
            )
        self._workers(signal.SIGCONT)

    def _results(self) -> None:
        """An accepted output is not among the results, as a controller leaves it that is killed just then."""
        self._study = self._send()
        self._wait_for_end()
        self._stand.stop_program("controller")
        place = self._stand.data / "results" / self._study.study_id / "one"
        place.rename(self._stand.data / "attempts" / self._attempt("finished", "one"))

    def _changes(self) -> None:
        """The hook does not reach the scheduler."""
        self._stand.network.change("orthanc-scheduler", Mode.REFUSE)
        self._study = self._send()
        untold = f"study {self._study.study_id} is stable, the scheduler was not told"
        log = self._stand.settings.logs / "orthanc.log"
        wait_until(lambda: untold in log.read_text(errors="replace"), _SOON, "Orthanc says it, unheard")
        self._stand.network.heal()

    def _quiet(self) -> None:
        """Orthanc is killed before the study is stable: it never says that it is."""
        self._study = self._send()
        psutil.Process(self._stand.pids()["orthanc"]).kill()
        self._stand.wait_for_health()

    def _keys(self) -> None:
        """Redis has what an attempt needed that ended, as a controller leaves it that is killed just then."""
        self._study = self._send()
        self._wait_for_end()
        self._stand.stop_program("controller")
        with self._stand.redis() as client:
            client.set(f"dcmproc:order:{self._attempt('finished', 'one')}", json.dumps({}))

    def _compare(self) -> None:
        """Nobody tells of a study: the hook cannot, Orthanc is killed before it is stable, its changes are cleared."""
        self._stand.stop_program("controller")
        self._stand.network.change("orthanc-scheduler", Mode.REFUSE)
        self._quiet()
        self._stand.clear_changes()
        self._stand.network.heal()

    def _unreported(self) -> None:
        """What a worker said as it began is lost, and it is killed."""
        self._workers(signal.SIGSTOP)
        self._study = self._send()
        wait_until(lambda: self._attempt("queued"), _SOON, "an attempt is queued")
        self._stand.stop_program("controller")
        self._workers(signal.SIGCONT)
        wait_until(self._runs, _SOON, "a function runs")
        self._workers(signal.SIGKILL)
        with self._stand.redis() as client:
            client.delete(REPORTS)

    def _events(self) -> None:
        """A study's only event is being planned for, as a controller leaves it that is killed just then."""
        self._compare()
        with closing(Ledger(self._stand.settings.database_url)) as ledger, ledger.write() as db:
            event_id = events.record(db, EventKind.STABLE, self._study.study_id, None, now=time.time())
            events.begin(db, [event_id], epoch=0)

    # -- on the way

    def _send(self) -> Study:
        """Send another one, without pauses: it is stable once."""
        study = studies.draw(0, len(self._sent) + 1)[-1]
        study = replace(study, pauses=(0.0,) * len(study.pauses))
        self._sent.append(study)
        scanner = Scanner(self._stand.network.links["scanner-orthanc"].port, [study])
        scanner.start(lambda _: True)
        wait_until(lambda: scanner.done, _SOON, "the study is sent")
        return study

    def _judge(self) -> list[Finding]:
        told = {study["studyId"]: study for study in self._stand.studies()}
        record = Record.read(self._stand.record)
        found = oracle.judge(self._sent, JOBS, record, told, self._stand.data)
        with self._stand.redis() as client:
            for what in leftovers.keys(client):
                found.say("left", what)
        return found.findings

    def _wait_for_end(self, seconds: float = _SOON) -> None:
        question = f"SELECT 1 FROM studies WHERE state = 'finished' AND study_id = '{self._study.study_id}'"
        wait_until(lambda: self._stand.ask(question), seconds, "the study has ended", every=0.2)

    def _attempt(self, state: str, job: str = "one") -> str:
        found = self._stand.ask(
            "SELECT attempt_id FROM attempts JOIN jobs USING (job_id) "
            f"WHERE study_id = '{self._study.study_id}' AND job_name = '{job}' AND attempts.state = '{state}'"
        )
        return str(found[0][0]) if found else ""

    def _runs(self) -> bool:
        lines = Record.read(self._stand.record).of("begin")
        return any(line.study == self._study.study_id for line in lines)

    def _workers(self, number: signal.Signals) -> None:
        for name, pid in self._stand.pids().items():
            if name.startswith("worker") and pid:
                psutil.Process(pid).send_signal(number)


def show(folder: Path, names: list[str], told: Callable[[str], None]) -> dict[str, Shown]:
    """Each of these repairs, in an empty folder."""
    shown = {}
    with Stand(folder, workers=1) as stand:
        repairs = Repairs(stand)
        for name in names:
            shown[name] = repairs.show(name)
            told(f"without {name}: {'; '.join(map(str, shown[name].without)) or 'nothing is found'}")
            told(f"with {name}: {'; '.join(map(str, shown[name].repaired)) or 'nothing is found'}")
    return shown
