"""One RQ worker: takes attempts off the queues it serves, one at a time, and runs each in a work-horse of its own.

What differs from RQ's own worker: it outlasts Redis; what RQ keeps of a failure is a class name; nothing is run but
`worker.run.run_attempt`; a horse never outlives its worker; a worker told to stop hands its attempt back.
"""

import gc
import os
import secrets
import signal
import socket
import threading
import time
from contextlib import suppress
from types import FrameType
from typing import Any

import redis
from rq import Queue, worker_registration
from rq.exceptions import DequeueTimeout
from rq.executions import Execution
from rq.job import Job
from rq.serializers import JSONSerializer
from rq.suspension import is_suspended
from rq.worker import Worker, WorkerStatus

from dcm_processor.environments.environment_key import recipe
from dcm_processor.errors import ServiceError
from dcm_processor.logging import get_logger
from dcm_processor.outcome import Outcome
from dcm_processor.process import adopt_orphans, die_with_parent, show_alive
from dcm_processor.settings import Settings
from dcm_processor.transport import Transport, reason
from dcm_processor.vocabulary import ExitReason
from worker import reaper
from worker.context import CONTEXT, Context
from worker.outbox import Outbox
from worker.prebuild import Prebuilder
from worker.run import AttemptFailedError
from worker.scripts import Scripts
from worker.spare import Spare
from worker.spool import AttemptFolder, SpoolError, clear_blanks
from worker.warm import Warm

log = get_logger()

FUNCTION = "worker.run.run_attempt"
"""The one function a worker runs, whatever stands in Redis."""
_ENDING = (signal.SIGTERM, signal.SIGINT)
_POP_SECONDS = 1  # a worker told to stop notices between two pops, and so never loses a popped attempt
_BEAT_SECONDS = 5.0
_HORSE_PATIENCE = 12.0  # seconds for a horse to hand back, then it is killed
_REAPER_PATIENCE = 15.0


class AttemptWorker(Worker):
    """RQ's forking worker, for attempts."""

    def __init__(
        self, settings: Settings, stopping: threading.Event, outbox: Outbox, *, prebuilder: Prebuilder, warm: Warm
    ) -> None:
        host = socket.gethostname()
        transport = Transport(settings.redis_url)
        super().__init__(
            list(settings.WORKER_QUEUES),
            name=f"{host}-{os.getpid()}-{secrets.token_hex(4)}",
            connection=transport.redis,
            serializer=JSONSerializer,
            job_monitoring_interval=5,
            maintenance_interval=10,
            worker_ttl=25,
            log_job_description=False,
        )
        self.log_result_lifespan = False
        self._settings = settings
        self._host = host
        self._transport = transport
        self._stopping = stopping
        self._outbox = outbox
        self._prebuilder = prebuilder
        self._warm = warm
        self._spare: Spare | None = None
        self._scripts = Scripts(settings)
        self._beat_at = 0.0
        self._handing_back = False
        self._horse_status: int | None = None
        self._failure = "Exception"
        self.served = False

    # -- the loop

    def serve(self) -> None:
        """Run attempts until told to stop.

        Raises redis.RedisError where Redis went away or refuses; a new worker may then take over.
        """
        self.bootstrap("WARNING")
        self.set_state(WorkerStatus.IDLE)
        self.served = True
        log.info("serving", worker=self.name, queues=self.queue_names())
        try:
            while not self._stopping.is_set():
                suspended = bool(is_suspended(self.connection, self))  # by `rq suspend`
                self._look_around(WorkerStatus.SUSPENDED if suspended else WorkerStatus.IDLE)
                if suspended:
                    self._stopping.wait(1)
                elif not self._stopping.is_set() and (found := self._next()) is not None:
                    self.execute_job(*found)
        finally:
            self._drop_spare()
            try:
                self.register_death()  # type: ignore[no-untyped-call]
            except redis.RedisError:
                log.info("Redis does not hear that this worker ends", worker=self.name)

    def _look_around(self, state: WorkerStatus) -> None:
        """Every few seconds: say how this worker stands, and see to what is due."""
        now = time.monotonic()
        if now >= self._beat_at or self.get_state() != state:
            self._beat_at = now + _BEAT_SECONDS
            self.heartbeat()
            self.set_state(state)  # Redis may have missed it, or been emptied
            show_alive(self._settings.ALIVE_FILE)
            self._register_again()
            self._prebuilder.look()
            if self._script_is_missing():
                self._stopping.set()
        if self.should_run_maintenance_tasks:
            self.run_maintenance_tasks()  # type: ignore[no-untyped-call]

    def _next(self) -> tuple[Job, Queue] | None:
        """The next attempt, or None where it was time to look around."""
        if self._spare is None:
            self._spare = self._new_spare()
        try:
            found = self.queue_class.dequeue_any(
                self._ordered_queues,
                _POP_SECONDS,
                connection=self.connection,
                job_class=self.job_class,
                serializer=self.serializer,
                death_penalty_class=self.death_penalty_class,
            )
        except DequeueTimeout:
            return None
        except redis.RedisError:
            raise
        except Exception as error:  # noqa: BLE001 - whatever somebody pushed there, the next entry may be good
            log.error("dropped an entry of a queue that is no attempt", error=type(error).__name__)
            return None
        if found is None:
            return None
        job, queue = found
        if self._stopping.is_set():  # told to stop while popping
            queue.push_job_id(job.id, at_front=True)
            queue.intermediate_queue.remove(job.id)
            return None
        job.redis_server_version = self.get_redis_server_version()  # type: ignore[no-untyped-call]
        return job, queue

    def _register_again(self) -> None:
        """Redis may have been emptied."""
        if not self.connection.sismember(worker_registration.REDIS_WORKER_KEYS, self.key):
            with self.connection.pipeline() as pipe:
                pipe.hset(self.key, mapping=self.serialize())
                worker_registration.register(self, pipe)
                pipe.expire(self.key, self.worker_ttl + 60)
                pipe.execute()

    def _script_is_missing(self) -> bool:
        """Whether this worker has to end, since the next one runs the script.sh of a service that has not run here."""
        if not self._settings.runs_scripts:
            return False
        try:
            missing = self._scripts.missing()
        except ServiceError as error:  # no reason to stop jobs
            log.warning("cannot see whether there are new scripts", error=str(error))
            return False
        for script in missing:
            log.info("ending, so that a script.sh is run at the next start", service=script.service)
        return bool(missing)

    def subscribe(self) -> None:
        """Take none of RQ's remote commands (shut down, kill the horse): an attempt is cancelled by the scheduler."""

    # -- one attempt

    def execute_job(self, job: Job, queue: Queue) -> None:
        """Run one attempt; what fails between RQ and Redis does not touch it."""
        if (fault := _fault(job)) is not None:
            log.error("refused what is no attempt", rqJobId=job.id, why=fault)
            job.webhooks = []
            self.handle_job_failure(job, queue, exc_string="NotAnAttempt")
            return
        self._horse_status = None
        try:
            super().execute_job(job, queue)
        except redis.RedisError as error:
            log.warning("RQ's books could not be kept", attemptId=job.id, error=reason(error))
        finally:
            if self._horse_status:
                self._bury(job.id)
            self.executions.clear()  # one that Redis did not take would pass for the next attempt's
            self._drop_spare()  # where it still waits: once reaped, its pid may be somebody else's
            reaper.reap()  # of what was kept warm some may have ended
            self._beat_at = 0.0

    def fork_work_horse(self, job: Job, queue: Queue) -> None:
        """Have the process that waits become the horse; another one, where that has died meanwhile."""
        assert self.execution is not None
        order = {"job": job.id, "queue": queue.name, "execution": self.execution.id}
        if self._spare is None or not self._spare.take(order):
            self._drop_spare()
            self._spare = self._new_spare()
            self._spare.take(order)  # a horse that is dead already is buried as such
        self._horse_pid, self._spare = self._spare.pid, None

    def _new_spare(self) -> Spare:
        """Fork while no other thread holds anything the horse would need."""
        with self._outbox.paused():
            before = signal.pthread_sigmask(signal.SIG_BLOCK, _ENDING)  # the horse unblocks when it can take them
            try:
                return Spare(self._wait_as_spare, self._settle, self._become_horse)
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def _drop_spare(self) -> None:
        if self._spare is not None:
            self._spare.close()
            self._spare = None
            with suppress(OSError):
                clear_blanks(self._settings.spool)

    def _wait_as_spare(self) -> None:
        """What a horse needs, whatever it will run; it dies with its worker."""
        die_with_parent()
        if os.getppid() != self.pid:
            os._exit(1)
        os.setpgrp()
        adopt_orphans()
        self._warm.in_horse()
        blank = AttemptFolder.blank(self._settings.spool)
        CONTEXT.set(Context(self._settings, self.name, self._host, self._transport, self._warm, blank))

    def _settle(self) -> None:
        """Have the pages copied that a fork touches first: now, rather than while a job waits for it."""
        gc.collect()
        with suppress(OSError):
            recipe(self._settings, self._settings.modules, "")
        with suppress(redis.RedisError):  # whoever needs the connection sees what is wrong with it
            self.connection.ping()

    def _become_horse(self, order: dict[str, str]) -> None:
        """The horse's life."""
        job = self.job_class.fetch(order["job"], connection=self.connection, serializer=self.serializer)
        if _fault(job) is not None:  # which was looked at; somebody has changed it since
            return
        job.redis_server_version = self.get_redis_server_version()  # type: ignore[no-untyped-call]
        self.execution = Execution(order["execution"], job.id, self.connection, self.name)
        self.main_work_horse(job, Queue(order["queue"], connection=self.connection, serializer=self.serializer))

    def setup_work_horse_signals(self) -> None:
        """SIGINT is for the worker; SIGTERM asks for the attempt back."""
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        CONTEXT.get().stop.listen()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _ENDING)

    def maintain_heartbeats(self, job: Job, execution: Execution) -> None:
        """Keep RQ informed; Redis being away is no reason to leave a running horse.

        A horse that was stopped (SIGSTOP) is made to go on: its attempt would be given up, and we would wait for ever.
        """
        _signal(self.horse_pid, signal.SIGCONT)
        show_alive(self._settings.ALIVE_FILE)
        self._prebuilder.look()
        try:
            super().maintain_heartbeats(job, execution)
        except redis.RedisError as error:
            log.warning("RQ cannot be told that the attempt runs", attemptId=job.id, error=reason(error))

    def wait_for_horse(self) -> tuple[int | None, int | None, Any]:
        """As RQ's, and remember how it ended."""
        found = super().wait_for_horse()
        self._horse_status = found[1]
        return found

    def _bury(self, attempt_id: str) -> None:
        """A horse that died without a word: nothing of its job stays, and the scheduler need not wait to be sure."""
        self._prebuilder.stop()  # it would be waited for, and killed; it begins again
        self._warm.end()  # what was kept warm goes with it
        deadline = time.monotonic() + _REAPER_PATIENCE
        while not reaper.reap() and time.monotonic() < deadline:  # its reaper is ours now, and cleans up by itself
            time.sleep(0.01)
        reaper.kill_descendants()
        self._warm.begin()
        folder = AttemptFolder(self._settings.spool, attempt_id)
        claim = folder.claim()
        if claim is None or claim.worker != self.name or folder.outcome() is not None:
            return
        signal_number = (self._horse_status or 0) & 0x7F
        error = f"the work-horse ended with {f'signal {signal_number}' if signal_number else 'an error'}"
        log.error("a work-horse died", attemptId=attempt_id, error=error)
        try:
            folder.keep(claim.ended(Outcome(ExitReason.LOST, error=error).to_json()))
        except SpoolError as fault:
            log.error("its outcome cannot be spooled", attemptId=attempt_id, error=str(fault))
        folder.clear_scratch()

    # -- what RQ keeps of a failure: the class alone, since a message or a traceback may hold a patient's data

    def handle_exception(self, _job: Job, *exc_info: Any) -> None:
        """Note the class, instead of logging all of it."""
        kind, error, _ = exc_info
        self._failure = error.error_class if isinstance(error, AttemptFailedError) else kind.__name__

    def handle_job_failure(
        self,
        job: Job,
        queue: Queue,
        started_job_registry: Any = None,
        exc_string: str = "",
        execution: Execution | None = None,
    ) -> None:
        """Keep the class, instead of the traceback."""
        text = self._failure if self.is_horse else exc_string
        super().handle_job_failure(job, queue, started_job_registry, text, execution)

    # -- ending

    def request_stop(self, _signum: int, _frame: FrameType | None) -> None:
        """No new attempt; the running one gets WORKER_STOP_GRACE seconds. Asked twice: none."""
        again, self._stop_requested = self._stop_requested, True
        self._stopping.set()
        grace = 0.0 if again else self._settings.WORKER_STOP_GRACE
        timer = threading.Timer(grace, self._hand_back)
        timer.daemon = True
        timer.start()

    def _hand_back(self) -> None:
        """Ask the horse to give its attempt back, and insist."""
        deadline = time.monotonic() + _HORSE_PATIENCE
        if (horse := self._horse_pid) and not self._handing_back:
            self._handing_back = True
            log.info("asking for the attempt back")
            _signal(horse, signal.SIGTERM)
            while self._horse_pid == horse and time.monotonic() < deadline:
                time.sleep(0.05)
            if self._horse_pid == horse:
                log.error("the work-horse does not hand back; killing it")
                _signal(horse, signal.SIGKILL)


def serve(settings: Settings) -> None:
    """Serve the queues until SIGTERM, SIGINT or a new script.sh, whether or not Redis is there yet, or still."""
    adopt_orphans()
    stopping = threading.Event()
    outbox = Outbox(settings.spool, settings.redis_url)
    outbox.start()
    prebuilder = Prebuilder(settings)
    warm = Warm(settings)
    warm.begin()
    current: list[AttemptWorker] = []

    def stop(signum: int, frame: FrameType | None) -> None:
        stopping.set()
        for worker in current:
            worker.request_stop(signum, frame)

    for number in _ENDING:
        signal.signal(number, stop)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _ENDING)  # worker/container.py blocks them until they can be taken
    away = False
    while not stopping.is_set():
        current.clear()
        prebuilder.look()
        try:
            current.append(AttemptWorker(settings, stopping, outbox, prebuilder=prebuilder, warm=warm))
            current[0].serve()
        except redis.RedisError as error:
            if not away or (current and current[0].served):
                log.warning(f"{reason(error)}; trying again until that ends")
            away = True
            stopping.wait(1)
        except Exception:
            log.exception("the worker failed; going on with a new one")
            stopping.wait(1)
    outbox.stop()
    prebuilder.stop()
    warm.close()
    log.info("stopped")
    gc.freeze()  # the end of the process is no reason to look at all that was imported


def _fault(job: Job) -> str | None:
    """Why this is no attempt of ours; who can write to Redis must not be able to have anything else run here."""
    try:
        if job.func_name != FUNCTION or list(job.args or ()) != [job.id] or job.kwargs:
            return "it names another function or other arguments"
    except Exception as error:  # noqa: BLE001 - whatever stands there cannot be read
        return f"it cannot be read ({type(error).__name__})"
    if job._success_callback_name or job._failure_callback_name or job._stopped_callback_name or job.webhooks:
        return "it brings callbacks or webhooks"
    return None


def _signal(pid: int, number: int) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return
