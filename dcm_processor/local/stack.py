"""Local mode as a whole: up, down, and what is up."""

import os
import shutil
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from dcm_processor import basedir, server_files
from dcm_processor.errors import StackError
from dcm_processor.ledger import Ledger
from dcm_processor.local import configuration, ports
from dcm_processor.local.health import WORKERS, Health, part_of
from dcm_processor.local.processes import Process, end_marked, marked
from dcm_processor.local.programs import ports as ports_of
from dcm_processor.local.programs import programs
from dcm_processor.local.supervisor import Status, Supervisor, place_for_socket
from dcm_processor.settings import Settings
from dcm_processor.stack_state import DEMO_STABLE_AGE, State, digests, state_file

START_SECONDS = 120.0
"""How long a stack may take until all of it answers."""
_MOST_STARTS = 3  # a program that had to be started so often will not come
_POLL = 0.1  # seconds
_TAIL = 20  # lines of a log
_ELSEWHERE = ("DATABASE_URL", "ORTHANC_REST_URL", "ORTHANC_REST_USERNAME", "REDIS_HOST", "REDIS_TLS", "REDIS_URL")
"""Settings that name the servers a stack uses; stack.json does not keep them, since they may hold passwords."""

Watch = Callable[[Mapping[str, str | None]], None]
"""Told, again and again, of each part by name: None where it answers, else what it still lacks."""


@dataclass(frozen=True)
class Up:
    """How `up` ended: `started` is False where it ran already; `changed` are settings that it does not have yet.

    `known`: studies that were in Orthanc before the platform met it, and are not processed.
    """

    started: bool
    state: State
    known: int
    changed: tuple[str, ...] = ()


@dataclass(frozen=True)
class Down:
    """How `down` ended: whether anything ran, and what had to be killed."""

    ran: bool
    killed: tuple[Process, ...]


class Stack:
    """The local stack of the BASEDIR in `settings`."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    def up(self, scale: int | None, *, demo: bool, watch: Watch) -> Up:
        """Start everything and return when all of it answers; of what runs, change the number of workers at most.

        `scale` None: as many workers as run, 1 at a start. Raises StackError naming what is in the way: ports, or a
        program that does not come up, with the end of its log; what this call had started is stopped again then.
        """
        with basedir.alone(self.settings):
            basedir.prepare(self.settings)
            if (running := self._running()) is not None:
                state, supervisor = running
                return self._adjust(state, supervisor, scale, watch)
            end_marked(self.settings.BASEDIR, patience=self._patience)  # what a killed supervisord left
            settings = self.settings.model_copy(update={"STABLE_AGE": DEMO_STABLE_AGE} if demo else {})
            return self._start(settings, 1 if scale is None else scale, watch)

    def down(self) -> Down:
        """Stop everything that was started for this BASEDIR, workers first; return when no process is left."""
        if not self.settings.run.exists():
            return Down(ran=False, killed=())
        with basedir.alone(self.settings):
            return self._stop()

    def status(self) -> tuple[State, list[Status]] | None:
        """What runs; None: nothing."""
        running = self._running()
        return (running[0], running[1].status()) if running else None

    # -- the steps

    def _start(self, settings: Settings, scale: int, watch: Watch) -> Up:
        wanted = programs(settings, scale)
        if faults := ports.faults(ports_of(settings)):
            raise StackError("; ".join(faults))
        with closing(Health(settings, dict)) as health:
            for name, question in health.foreign().items():
                if lack := question():
                    raise StackError(f"{name} is not ours to start, and cannot be used: {lack}")
        with closing(Ledger(settings.database_url)) as ledger:
            ledger.migrate()

        socket = place_for_socket(settings.run)
        environment = configuration.environment(settings, os.environ, socket)
        state = State(
            startedAt=datetime.now(UTC).isoformat(timespec="seconds"),
            scale=scale,
            ports={port.key: port.number for port in ports_of(settings)},
            stableAge=settings.STABLE_AGE,
            socket=str(socket),
            settings=digests(settings),
            bindAddress=settings.BIND_ADDRESS,
        )
        server_files.write(settings)
        basedir.write_private(_supervisor_file(settings), configuration.supervisord_conf(wanted, _umask()))
        state.write(settings)  # before anything runs: whoever comes next must find it
        supervisor = Supervisor(socket)
        try:
            supervisor.start(_supervisor_file(settings), environment)
            self._wait(settings, supervisor, watch)
        except BaseException:  # also Ctrl-C: a stack is up or it is not
            self._stop()
            raise
        return Up(started=True, state=state, known=_known_studies(settings))

    def _adjust(self, state: State, supervisor: Supervisor, scale: int | None, watch: Watch) -> Up:
        changed = state.changed(self.settings)
        if elsewhere := [key for key in changed if key in _ELSEWHERE]:
            keys = ", ".join(elsewhere)
            raise StackError(
                f"what runs was started with another {keys}, and cannot change that while it runs: "
                "`bash run.sh --local --down`, then start it again"
            )
        if scale is not None and scale != state.scale:
            wanted = programs(self.settings, scale)
            basedir.write_private(_supervisor_file(self.settings), configuration.supervisord_conf(wanted, _umask()))
            supervisor.reread()
            state = replace(state, scale=scale)
            state.write(self.settings)
        supervisor.start_stopped()
        self._wait(state.as_started(self.settings), supervisor, watch)
        return Up(started=False, state=state, known=_known_studies(self.settings), changed=changed)

    def _stop(self) -> Down:
        ran = bool(marked(self.settings.BASEDIR))
        if (running := self._running()) is not None:
            _, supervisor = running
            names = [program.name for program in supervisor.status()]
            workers = [name for name in names if part_of(name) == WORKERS]
            servers = [name for name in names if name in ("redis", "orthanc")]
            supervisor.stop(workers)  # they hand their attempts back, so what takes them is needed still
            supervisor.stop(set(names) - set(workers) - set(servers))
            supervisor.stop(servers)
            supervisor.shut_down(patience=self._patience)
        killed = end_marked(self.settings.BASEDIR, patience=self._patience)
        self._tidy()
        return Down(ran=ran, killed=tuple(killed))

    def _tidy(self) -> None:
        state = State.read(self.settings)
        if state is not None:
            socket = Path(state.socket)
            socket.unlink(missing_ok=True)
            if socket.parent != self.settings.run:
                shutil.rmtree(socket.parent, ignore_errors=True)
        for left in (self.settings.run / "supervisord.pid", state_file(self.settings)):
            left.unlink(missing_ok=True)

    def _wait(self, settings: Settings, supervisor: Supervisor, watch: Watch) -> None:
        with closing(Health(settings, lambda: {p.name: p.pid for p in supervisor.status()})) as health:
            questions = health.questions()
            said: dict[str, str | None] = dict.fromkeys(questions, "is starting")
            starts: defaultdict[str, set[int]] = defaultdict(set)
            deadline = time.monotonic() + START_SECONDS
            while True:
                for part in [part for part, lack in said.items() if lack]:
                    said[part] = questions[part]()
                watch(said)
                lacking = {part: lack for part, lack in said.items() if lack}
                if not lacking:
                    return
                for program in supervisor.status():
                    starts[program.name].add(program.started)
                    if part_of(program.name) in lacking and len(starts[program.name]) > _MOST_STARTS:
                        raise StackError(self._explain(program.name, "ends again and again"))
                if time.monotonic() > deadline:
                    late = next(name for name in [*starts, *lacking] if part_of(name) in lacking)
                    raise StackError(self._explain(late, f"{lacking[part_of(late)]} after {START_SECONDS:.0f} s"))
                time.sleep(_POLL)

    def _explain(self, program: str, what: str) -> str:
        log = self.settings.logs / f"{program}.log"
        if not log.exists():
            return f"{program}: {what}"
        tail = log.read_text(encoding="utf-8", errors="replace").splitlines()[-_TAIL:]
        return "\n".join([f"{program}: {what}; the end of {log}:", *(f"    {line}" for line in tail)])

    # -- what is there

    def _running(self) -> tuple[State, Supervisor] | None:
        state = State.read(self.settings)
        if state is None:
            return None
        if state.mode != "local":
            raise StackError("it runs in containers: `docker compose ps` shows them, `bash run.sh --down` stops them")
        supervisor = Supervisor(Path(state.socket))
        return (state, supervisor) if supervisor.alive() else None

    @property
    def _patience(self) -> float:
        return self.settings.WORKER_STOP_GRACE + 30


def _supervisor_file(settings: Settings) -> Path:
    return settings.run / "supervisord.conf"


def _known_studies(settings: Settings) -> int:
    with closing(Ledger(settings.database_url)) as ledger:
        return ledger.known()


def _umask() -> int:
    """The umask of this process, which can only be read by setting it."""
    mask = os.umask(0o077)
    os.umask(mask)
    return mask
