"""The function that RQ runs in a work-horse: one attempt, from the claim to the outcome on its way.

order ─▶ claim ─▶ module ─▶ environment ─▶ fetch ─▶ (inputs) ─▶ run ─▶ (output) ─▶ spooled ─▶ sent; from the claim on it
is announced every few seconds that the attempt still runs. Inputs and output travel only where this host's DATA is not
the scheduler's; they then lie in the attempt's scratch folder.
"""

import json
import os
import re
import secrets
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from dcm_processor import contract, data_id
from dcm_processor.compact_json import dumps
from dcm_processor.errors import DcmProcessorError, PermanentError, ServiceError, TransportUnavailableError
from dcm_processor.logging import bound_contextvars, get_logger
from dcm_processor.outcome import Outcome
from dcm_processor.store import SCRIPT_NOT_RUN
from dcm_processor.transport import Order, PlanOrder, Report, Transport
from dcm_processor.vocabulary import ExitReason
from worker import copies, notes, output, reaper, runner, studies, surroundings, warm
from worker.announcer import Announcer
from worker.contained import LOG_LIMIT, NOTHING, START_LIMIT, Command, Contained, End, Hears, Running
from worker.context import CONTEXT, Context
from worker.environments import Environments
from worker.exchange import FETCH_PATIENCE, Exchange, patiently
from worker.modules import module_folder
from worker.scripts import Scripts
from worker.siblings import sibling_folders
from worker.spool import AttemptBusyError, AttemptEndedError, AttemptFolder, SpoolError
from worker.stop import StoppedError
from worker.verdict import error_class, outcome_of, outcome_of_error

log = get_logger()

_UNSPOOLED_PATIENCE = 600.0
_ASIDE = 0.005
"""Seconds that a horse stands aside once its outcome is sent: what it still has to do is much, and where processors are
few, whoever depends on the job would wait for that."""
_NAMED = 10  # of what cannot travel
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


class AttemptFailedError(PermanentError):
    """The attempt ended, and not well; `error_class` is all that RQ may know of it."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.error_class = name


def run_attempt(attempt_id: str) -> None:
    """Run one attempt, if it is wanted and nobody else has it; its outcome travels through the spool.

    Raises AttemptFailedError where the attempt did not finish, so that RQ's job ends as its attempt did, and
    TransportUnavailableError where Redis is away before the attempt was claimed.
    """
    context = CONTEXT.get()
    transport = context.transport
    found = transport.order(attempt_id)
    if found is None:
        log.info("nobody wants this attempt any more", attemptId=attempt_id)
        return
    order, plan = found
    claim = f"{context.worker}:{secrets.token_hex(8)}"
    report = Report("started", attempt_id, claim, context.worker, context.host)
    if not transport.claim(report):
        log.info("somebody else has this attempt", attemptId=attempt_id)
        return
    with bound_contextvars(studyId=order.studyId, planId=order.planId, jobId=order.jobId):
        outcome = _Attempt(context, transport, order, plan, report).run()
    if outcome is not None and outcome.exitReason is not ExitReason.DONE:
        raise AttemptFailedError(error_class(outcome))


class _Attempt:
    """One claimed attempt."""

    def __init__(self, context: Context, transport: Transport, order: Order, plan: PlanOrder, report: Report) -> None:
        self._context = context
        self._settings = context.settings
        self._transport = transport
        self._order = order
        self._plan = plan
        self._report = report
        self._announcer = Announcer(transport, report, context.stop)
        self._phases: dict[str, list[float]] = {}
        self._details: dict[str, Any] = {}
        self._used: int | None = None  # the descriptor that keeps the study's copy
        self._environment: int | None = None  # and the one that keeps the environment
        self._output: Path | None = None  # what is to be on the disk before the outcome is
        self._kept: output.Kept = {}  # what is there already
        self._unkept: OSError | None = None  # why it is not
        self._until_its_end = ExitStack()

    def run(self) -> Outcome | None:
        """Run, spool and send; None where another process of this host turned out to run it."""
        with self._until_its_end:  # once a command has ended, its reaper's end is nothing to wait for before sending
            return self._run()

    def _run(self) -> Outcome | None:
        folder: AttemptFolder | None = None
        with self._announcer:
            try:
                self._check_names()
                folder = AttemptFolder.create(self._settings.spool, self._report, self._context.blank)
                self._announcer.progress = partial(notes.progress, folder.notes)
                outcome = self._work(folder)
            except AttemptBusyError:
                log.warning("another process of this host runs this attempt", attemptId=self._order.attemptId)
                return None
            except AttemptEndedError as ended:
                log.warning("this attempt has run; sending its outcome again", attemptId=self._order.attemptId)
                with suppress(TransportUnavailableError):
                    self._transport.report(ended.report)
                return None
            except StoppedError as stopped:
                self._until_its_end.close()
                outcome = Outcome(ExitReason(stopped.args[0]))
            except Exception as error:  # the edge: whatever went wrong is the attempt's outcome
                self._until_its_end.close()
                stopped_for = self._context.stop.reason
                outcome = Outcome(stopped_for) if stopped_for else outcome_of_error(error, self._phase_now())
                if outcome.traceback is not None:
                    log.error("the attempt failed in the worker", exc_info=error)
                if folder is not None and (tail := outcome.details.get("buildLog")) is not None:
                    _say(folder, f"the environment could not be built: {outcome.error}\n{tail}\n")
        outcome = self._complete(outcome)
        self._deliver(folder, outcome)
        time.sleep(_ASIDE)
        log.info("attempt ended", attempt=self._order.attempt, exitReason=outcome.exitReason, error=outcome.errorClass)
        if folder is not None:
            folder.clear_scratch()
        return outcome

    def _work(self, folder: AttemptFolder) -> Outcome:
        order, stop = self._order, self._context.stop
        shared = not self._plan.dataId or self._plan.dataId == data_id.read(self._settings.data)
        with self._phase("module"), stop.raising():
            module = patiently(partial(module_folder, self._settings, order.service, order.digest), FETCH_PATIENCE)
            siblings = patiently(
                partial(
                    sibling_folders, self._settings, order.service, module, self._plan.current, partial(_say, folder)
                ),
                FETCH_PATIENCE,
            )
            self._check_script(folder)
        with self._phase("environment"), stop.raising():
            environments = Environments(self._settings, self._context.environ)
            environment = environments.provide(
                module,
                order.digest,
                order.pythonVersion,
                watch=self._watch,
                building=lambda key: _say(folder, f"building the service's environment {key}"),
            )
            self._environment = self._until_its_end.enter_context(environments.using(environment))
            self._details["environment"] = environment.key
        with self._phase("fetch"), stop.raising():
            self._used = self._until_its_end.enter_context(copies.using(self._settings.data, self._plan.studyId))
            dicom = studies.provide(self._settings, order, self._plan, self._transport.plans_among)
        inputs = self._shared_inputs(order.inputs) if shared else self._fetch_inputs(folder)
        left = self._settings.data / "attempts" / order.attemptId if shared else folder.scratch / "output"
        with self._phase("run"):
            output.make(left)
            task = self._task(dicom, inputs, left)
            self._output = left if shared else None
            end = self._call(folder, module, siblings, environment.python, task)
            output.have(left)
        if end.log_fault is not None:
            log.error("part of the job's log is lost", why=end.log_fault)
        outcome = self._with_results(folder, outcome_of(end, order, START_LIMIT))
        if not shared:
            return self._send_output(folder, left, outcome)
        if outcome.exitReason is ExitReason.DONE:
            with copies.full_disk(self._settings.data):
                if self._unkept is not None:
                    raise self._unkept
                output.keep(left, self._kept)
        return outcome

    def _complete(self, outcome: Outcome) -> Outcome:
        """The outcome with what is known of the whole attempt."""
        return replace(outcome, phases=self._phases, details={**self._details, **outcome.details})

    def _check_script(self, folder: AttemptFolder) -> None:
        """Go on where the version's script.sh has run well on this worker, where it has none, and where none is run.

        Raises ScriptFailedError, ServiceError; StoppedError, and the worker ends, where it has not run yet.
        """
        service, digest = self._order.service, self._order.digest
        scripts = Scripts(self._settings)
        if (script := scripts.of_version(service, digest)) is None:
            return
        if not self._settings.runs_scripts:
            _say(folder, f"the script.sh of service {service} {SCRIPT_NOT_RUN}")
        elif not scripts.has_run(script):
            scripts.want(service, digest)
            _say(folder, f"the script.sh of service {service} has not run on this worker yet; it runs first")
            raise StoppedError(ExitReason.HANDED_BACK)

    def _call(
        self, folder: AttemptFolder, module: Path, siblings: Mapping[str, Path], python: Path, task: dict[str, Any]
    ) -> End:
        order, settings = self._order, self._settings
        for place in (settings.cache / order.service, settings.logs):
            place.mkdir(parents=True, exist_ok=True)
        paper = os.memfd_create("task")  # in memory, and gone with its last reader: it holds patient data
        told, returned = os.pipe2(os.O_CLOEXEC)
        try:
            with os.fdopen(os.dup(paper), "w", encoding="utf-8") as file:
                json.dump(task, file)
            os.lseek(paper, 0, os.SEEK_SET)
            environ, temporary = self._context.environ, folder.scratch / "tmp"
            env = surroundings.of_job(settings, environ, order.service, python.parent, temporary)
            env |= notes.variables(folder.notes)
            command = Command(
                argv=[
                    *(str(python), "-I", str(Path(runner.__file__)), contract.__file__, order.service, str(module)),
                    *(f"{name}={place}" for name, place in sorted(siblings.items())),
                    notes.SIBLING,
                ],
                env=env,
                cwd=str(folder.scratch),
                log=str(folder.log),
                log_limit=LOG_LIMIT,
                start_timeout=START_LIMIT,
                timeout=order.timeout,
                memory=order.memory,
                input=paper,
                keep=[fd for fd in (folder.lock, self._used, self._environment) if fd is not None],
                dump=True,
                returned=returned,
                own=("TMPDIR", notes.NOTES),
            )
            return self._contain(command, folder, told)
        finally:
            for fd in (paper, told, returned):
                os.close(fd)

    @staticmethod
    def _with_results(folder: AttemptFolder, outcome: Outcome) -> Outcome:
        """The outcome with what the job named as its results, however it ended."""
        found, left_out = notes.results(folder.notes)
        if left_out:
            _say(folder, f"{left_out} named results are left out: they cannot be, or are too many")
        return replace(outcome, results=found)

    def _contain(self, command: Command, folder: AttemptFolder, told: int) -> End:
        """Run the command in a fork of what has imported the function's module, or else in a process of its own."""
        order = self._order
        kept = self._context.warm if order.warm and self._settings.WARM_FUNCTIONS else None
        if kept is not None:
            name = warm.name_of(order.service, order.worker, command)
            if (why := kept.why_cold(name)) is not None:
                _say(folder, f"not kept warm: {why}")
            elif (usual := folder.usual_tmpdir(kept.token(name))) is None:
                _say(folder, "not kept warm: somebody else has taken the name of its TMPDIR")
            else:
                begin = partial(self._begin, folder, told)
                end = kept.run(name, order.worker, command.with_tmpdir(usual), begin)
                if end is not None:
                    self._details["warm"] = end.warm
                    return end
        self._details["warm"] = False
        running = Contained(command.with_tmpdir(folder.tmpdir()))
        end = self._begin(folder, told, self._until_its_end.enter_context(running))
        if end.killed == "reaper":
            reaper.kill_descendants()
        return end

    def _begin(self, folder: AttemptFolder, told: int, running: Running) -> End:
        folder.prepare()
        self._rehearse_end(folder)
        return self._watch(running, {told: self._keep_early})

    def _rehearse_end(self, folder: AttemptFolder) -> None:
        """Make an outcome and ask Redis while the function runs: a page that is touched first is copied, in 8 µs.

        Whoever depends on the job would wait for that at its end.
        """
        with suppress(Exception):  # nothing comes of it
            outcome = outcome_of(End(status=0, began=0.0), self._order, START_LIMIT)
            outcome = replace(outcome, results=notes.results(folder.notes)[0])
            dumps(vars(self._report.ended(self._complete(outcome).to_json())))
            self._transport.ask(("PING",))

    def _task(self, dicom: Path, inputs: dict[str, Any], left: Path) -> dict[str, Any]:
        """What the runner needs to call the function (`worker.runner.arguments`)."""
        order = self._order
        return {
            "function": order.worker,
            "jobName": order.jobName,
            "headers": self._plan.headers,
            "selected": self._plan.selected,
            "seriesId": order.seriesId,
            "params": order.params,
            "addedParams": self._plan.added_params(order.seriesId),
            "jobServices": self._plan.services,
            "inputs": inputs,
            "outcomes": order.outcomes,
            "dicomDir": str(dicom),
            "outputDir": str(left),
            "studyId": order.studyId,
            "planId": order.planId,
            "attempt": order.attempt,
        }

    def _shared_inputs(self, inputs: dict[str, Any]) -> dict[str, Any]:
        return {
            name: self._shared_inputs(folder) if isinstance(folder, dict) else str(self._settings.data / folder)
            for name, folder in inputs.items()
        }

    def _fetch_inputs(self, folder: AttemptFolder) -> dict[str, Any]:
        if not self._order.inputs:
            return {}
        place = folder.scratch / "inputs"
        with self._phase("inputs"), self._context.stop.raising(), Exchange(self._settings) as exchange:
            return patiently(partial(exchange.inputs, self._order.inputs, place), FETCH_PATIENCE)

    def _send_output(self, folder: AttemptFolder, left: Path, outcome: Outcome) -> Outcome:
        """Have a finished attempt's output at the scheduler before its outcome; of a failed one, if that is easy."""
        stop, done = self._context.stop, outcome.exitReason is ExitReason.DONE
        if not done and stop.reason is not None:
            return outcome
        try:
            with self._phase("output"), stop.raising():
                left_out = output.send(self._settings, self._order.attemptId, left, None if done else 0)
        except StoppedError:
            if done:
                raise
            return outcome
        except (DcmProcessorError, OSError) as error:
            if done and not isinstance(error, PermanentError):
                raise
            log.warning("what the attempt left was not sent", error=str(error))
            if not done:
                return outcome
            return replace(outcome, exitReason=ExitReason.OUTPUT, error=str(error), errorClass=type(error).__name__)
        if not left_out:
            return outcome
        names = ", ".join(left_out[:_NAMED]) + (" …" if len(left_out) > _NAMED else "")
        _say(folder, f"not among the results, since it is no file, no folder and no symlink within them: {names}")
        details = {**outcome.details, "leftOut": len(left_out), "logSize": folder.log.stat().st_size}
        return replace(outcome, details=details)

    def _watch(self, running: Running, hears: Hears = NOTHING) -> End:
        with self._context.stop.calling(running.kill):
            return running.wait(hears)

    def _keep_early(self) -> None:
        """Have the output on the disk while the system takes the function's process apart.

        A disk's fault is kept until its end is known: the system tells of it once.
        """
        if self._output is not None:
            try:
                self._kept = output.keep(self._output)
            except OSError as error:
                if error.errno in output.FAULTS:  # whatever else is wrong is met again, or is the doing of what goes
                    self._unkept = error

    def _check_names(self) -> None:
        """What becomes part of a path came through Redis."""
        order = self._order
        names = [order.attemptId, order.service, order.digest, order.studyId]
        names += [order.seriesId] if order.seriesId is not None else []
        for job, found in order.inputs.items():
            of_series = found if isinstance(found, dict) else {job: found}
            names += [job, *of_series, *(part for folder in of_series.values() for part in str(folder).split("/"))]
        if not all(map(_NAME.fullmatch, names)):
            raise ServiceError("the order holds a name that cannot be a folder's")

    @contextmanager
    def _phase(self, name: str) -> Iterator[None]:
        began = time.time()
        self._phases[name] = [began, began]
        try:
            yield
        finally:
            self._phases[name][1] = time.time()

    def _phase_now(self) -> str:
        return next(reversed(self._phases), "start")

    def _deliver(self, folder: AttemptFolder | None, outcome: Outcome) -> None:
        """Have the outcome on disk, then send it; who comes after us sends it again until it is acknowledged."""
        report, spooled = self._report.ended(outcome.to_json()), False
        if folder is not None:
            try:
                folder.keep(report)
                spooled = True
            except SpoolError as error:
                log.error("the outcome cannot be spooled; sending it from here", error=str(error))
        deadline = time.monotonic() + _UNSPOOLED_PATIENCE
        while True:
            try:
                self._transport.report(report)
                if spooled or self._transport.acknowledged(report.attemptId):
                    return
            except TransportUnavailableError as error:
                if spooled:
                    log.warning("the outcome is spooled and will be sent later", error=str(error))
                    return
            if time.monotonic() > deadline:
                log.error("the outcome is neither spooled nor acknowledged; the attempt will count as lost")
                return
            time.sleep(5)


def _say(folder: AttemptFolder, text: str) -> None:
    """A line of ours in the job's log."""
    with suppress(OSError), folder.log.open("a", encoding="utf-8", errors="replace") as file:
        file.write(f"[dcm-processor: {text}]\n")
