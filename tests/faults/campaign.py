"""One run: studies are sent while faults strike; then all is healed, and what came of it is judged."""

import random
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import redis
import requests

from tests.faults import faults, leftovers, oracle, services, studies
from tests.faults.faults import Fault, Strike
from tests.faults.oracle import Finding, Judgement
from tests.faults.record import Record
from tests.faults.scanner import Scanner
from tests.faults.stand import Stand
from tests.faults.studies import Study
from tests.faults.victims import Victims

AHEAD = 20
"""Studies that may be sent and not ended while faults strike: they give every worker something to do."""
_STILL = 240.0  # seconds without any change after which nothing more is waited for
_CLEAN = 200.0  # seconds in which what is left in Redis and on disks goes
_WARM = 120.0
_BEHIND = 60.0  # seconds that faults wait for studies that do not end

Told = Callable[[str], None]
"""Told what happens, in a line."""


@dataclass
class Result:
    """What came of a run."""

    seed: int
    strikes: list[Strike] = field(default_factory=list)
    judgement: Judgement = field(default_factory=Judgement)
    seconds: float = 0.0
    sent: int = 0
    sent_again: int = 0
    callbacks: int = 0
    repairs: dict[str, int] = field(default_factory=dict)  # by kind

    @property
    def findings(self) -> list[Finding]:
        return self.judgement.findings

    @property
    def hits(self) -> tuple[int, int]:
        """Strikes at processes that were in the middle of something, and all strikes at processes."""
        return sum(strike.hit for strike in self.strikes), sum(strike.counts for strike in self.strikes)


class Campaign:
    """A seed's studies and faults, on a stand."""

    def __init__(
        self,
        stand: Stand,
        seed: int,
        *,
        sent: Sequence[Study],
        planned: Sequence[Fault],
        jobs: Sequence[services.Job],
        told: Told = lambda _: None,
    ) -> None:
        self._stand, self._studies, self._faults, self._jobs, self._told = stand, list(sent), list(planned), jobs, told
        self._scanner = Scanner(stand.network.links["scanner-orthanc"].port, self._studies)
        self._victims = Victims(stand, self._scanner, random.Random(f"{seed}/victims"))
        self._timers: list[threading.Timer] = []
        self._ending = threading.Event()
        self._warm = False  # whether a first study has ended: environments are built, everything answers
        self._turn = 0  # faults that have struck, or are looking for their victim
        self.result = Result(seed)

    def run(self) -> Result:
        """All of it."""
        began = time.monotonic()
        self._stand.install(self._jobs)
        try:
            self._scanner.start(self._released)
            self._until(lambda: self._number_ended() > 0, _WARM, "the first study ends")
            self._warm = True
            for fault in self._faults:
                if self._ending.is_set():
                    self._cut_short()
                    break
                self._strike(fault)
            self._wait_for_timers()
            self._told("everything is healed")
            self._stand.heal()
            self._wait_for_studies()
        finally:
            self._scanner.stop()
        self._judge()
        self.result.seconds = time.monotonic() - began
        return self.result

    @property
    def progress(self) -> str:
        """How far it is, in a line."""
        return (
            f"{len(self.result.strikes)} of {len(self._faults)} faults; of {len(self._studies)} studies "
            f"{len(self._scanner.sent)} sent, {self._number_ended()} ended"
        )

    def end(self) -> None:
        """Have it end soon: no more studies and faults; what there was is judged. Safe in a signal handler."""
        self._ending.set()

    # -- the steps

    def _cut_short(self) -> None:
        begun = self._scanner.no_more()
        self._studies = [study for study in self._studies if study.study_id in begun]
        self._faults = self._faults[: self._turn]
        self._told(f"ends early, after {len(self._studies)} studies and {self._turn} faults")

    def _released(self, study: Study) -> bool:
        """Studies are sent in step with the faults, so that each strikes while there is something to do."""
        if not self._warm:
            return study.number == 0
        turn = self._turn / max(len(self._faults), 1) if self._turn < len(self._faults) else 1
        return study.number <= turn * len(self._studies) and self._unended() < AHEAD

    def _strike(self, fault: Fault) -> None:
        time.sleep(fault.pause)
        due = len(self._studies) * self._turn / len(self._faults) - AHEAD
        self._until(lambda: self._number_ended() >= due, _BEHIND, "studies keep up with the faults")
        if fault.kind == "down":
            self._wait_for_timers()
        self._turn += 1
        strike = faults.strike(fault, self._stand, self._victims, self._later)
        self.result.strikes.append(strike)
        self._told(f"{fault}" + (f": it was {strike.doing}" if strike.doing else ""))

    def _later(self, seconds: float, action: Callable[[], object]) -> None:
        timer = threading.Timer(seconds, action)
        timer.start()
        self._timers.append(timer)

    def _wait_for_timers(self) -> None:
        for timer in self._timers:
            timer.join()
        self._timers.clear()

    def _wait_for_studies(self) -> None:
        """Until every study was sent and has ended, as long as anything changes."""
        seen: Any = None
        since = time.monotonic()
        while not self._over():
            now = (
                len(self._scanner.sent),
                self._stand.ask("SELECT state, count(*) FROM jobs GROUP BY state"),
                self._stand.ask("SELECT state, count(*) FROM studies GROUP BY state"),
                self._stand.ask("SELECT count(*) FROM attempts"),
            )
            if now != seen:
                seen, since = now, time.monotonic()
            elif time.monotonic() - since > _STILL:
                self._told(f"nothing has changed for {_STILL:.0f} s")
                return
            time.sleep(0.5)

    def _over(self) -> bool:
        """Whether all that was sent is planned as it is in the archive, and has ended."""
        if not self._scanner.done or self._unended():
            return False
        if self._stand.ask("SELECT 1 FROM events WHERE handled_at IS NULL LIMIT 1"):
            return False
        plans = dict(self._stand.ask("SELECT study_id, instances FROM plans WHERE active"))
        return all(
            plans.get(study.study_id, "").count('"') / 2 == len(study.series) + len(study.instances)
            for study in self._studies
        )

    def _judge(self) -> None:
        told = {study["studyId"]: study for study in self._stand.studies()}
        record = Record.read(self._stand.record)
        judgement = oracle.judge(self._studies, self._jobs, record, told, self._stand.data)
        self.result.judgement = judgement
        self.result.callbacks = len(record.of("callback"))
        self.result.repairs = self._stand.repairs()
        self.result.sent, self.result.sent_again = len(self._scanner.sent), self._scanner.again
        attempts = {
            attempt["attemptId"]: attempt["state"]
            for study in told.values()
            for plan in study["plans"]
            for job in plan["jobs"]
            for attempt in job["attempts"]
        }
        self._until(lambda: not self._left(attempts), _CLEAN, "nothing is left")
        for what in self._left(attempts):
            judgement.say("left", what)
        for process in self._stand.stop():
            judgement.say("left", f"{process.name} ({process.pid}) had to be killed")
        for what in leftovers.processes(self._stand.settings.BASEDIR, ()):
            judgement.say("left", f"after the end: {what}")

    def _left(self, attempts: dict[str, str]) -> list[str]:
        base = self._stand.settings.BASEDIR
        found = leftovers.processes(base, self._stand.pids().values())
        found += leftovers.files(base, self._stand.data, attempts)
        with suppress(redis.RedisError, OSError), self._stand.redis() as client:
            found += leftovers.keys(client)
        return found

    # -- looking

    def _number_ended(self) -> int:
        found = self._stand.ask("SELECT count(*) FROM studies WHERE state IN ('finished', 'failed')")
        return int(found[0][0]) if found else 0

    def _unended(self) -> int:
        found = self._stand.ask(
            "SELECT count(*) FROM studies WHERE state NOT IN ('finished', 'failed', 'known', 'unplanned')"
        )
        return int(found[0][0]) if found else 1

    def _until(self, condition: Callable[[], bool], seconds: float, what: str) -> None:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            with suppress(requests.RequestException):
                if condition():
                    return
            time.sleep(0.5)
        self._told(f"not within {seconds:.0f} s: {what}")


def drawn(stand: Stand, seed: int, count: int, number_of_faults: int, told: Told = lambda _: None) -> Campaign:
    """A seed's campaign."""
    sent, planned, jobs = studies.draw(seed, count), faults.draw(seed, number_of_faults), services.draw(seed)
    return Campaign(stand, seed, sent=sent, planned=planned, jobs=jobs, told=told)
