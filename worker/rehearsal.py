"""Runs one worker function for somebody who must not import this package: `python -m worker.rehearsal`.

It is run as an attempt is: in its service's environment, built should it be missing, by the runner, under a reaper,
within its limits. What there is not is the platform: nothing is claimed, announced, fetched or sent.

    stdin     a line of JSON, the wish (`Wish`); its end means: stop
    stdout    lines of JSON: {"building": key}, {"running": true}, at the end {"outcome": …} (`Outcome`)
"""

import json
import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dcm_processor import contract
from dcm_processor.environments import build_network
from dcm_processor.outcome import Outcome
from dcm_processor.settings import Settings
from dcm_processor.vocabulary import ExitReason
from worker import notes, output, runner, surroundings
from worker.contained import LOG_LIMIT, START_LIMIT, Command, Contained, End, Running
from worker.environments import Environment, Environments
from worker.stop import Stop, StoppedError
from worker.verdict import outcome_of, outcome_of_error


@dataclass(frozen=True)
class Wish:
    """What is to be run: `task` is for the runner (`worker.runner.arguments`), `scratch` a folder of its own."""

    settings: dict[str, Any]
    service: str
    digest: str
    module: str
    siblings: dict[str, str]
    pythonVersion: str | None  # noqa: N815 - as in settings.json
    task: dict[str, Any]
    timeout: float
    memory: int | None
    log: str
    scratch: str


class Rehearsal:
    """One wish; `say` is told how it goes on."""

    def __init__(self, wish: Wish, stop: Stop, say: Callable[[dict[str, Any]], None]) -> None:
        self._wish = wish
        self._settings = Settings.model_validate(wish.settings)
        self._stop = stop
        self._say = say
        self._phase = "environment"

    def run(self) -> Outcome:
        """Run it; whatever goes wrong is the outcome."""
        try:
            with self._stop.raising():
                build_network.make_ca_bundle(self._settings)
                environment = self._environment()
            self._phase = "run"
            began = time.time()
            outcome = self._function(environment)
        except StoppedError as stopped:
            return Outcome(ExitReason(stopped.args[0]))
        except Exception as error:  # noqa: BLE001 - the program's edge: whatever went wrong is the outcome
            return Outcome(self._stop.reason) if self._stop.reason else outcome_of_error(error, self._phase)
        return replace(
            outcome,
            phases={"run": [began, time.time()]},
            details={**outcome.details, "environment": environment.key},
        )

    def _environment(self) -> Environment:
        wish = self._wish
        return Environments(self._settings, os.environ).provide(
            Path(wish.module),
            wish.digest,
            wish.pythonVersion,
            watch=self._watch,
            building=lambda key: self._say({"building": key}),
        )

    def _function(self, environment: Environment) -> Outcome:
        wish, settings = self._wish, self._settings
        scratch, left = Path(wish.scratch), Path(wish.task["outputDir"])
        work, noted, tmpdir = scratch / "work", scratch / "notes", scratch / "tmp"
        for place in (work, noted, tmpdir, settings.cache / wish.service, settings.logs):
            place.mkdir(parents=True, exist_ok=True)
        output.make(left)
        python = environment.python
        with tempfile.TemporaryFile(
            "w+", encoding="utf-8"
        ) as paper:  # gone with its last reader: it holds patient data
            json.dump(wish.task, paper)
            paper.flush()
            os.lseek(paper.fileno(), 0, os.SEEK_SET)
            command = Command(
                argv=[
                    *(str(python), "-I", str(Path(runner.__file__)), contract.__file__, wish.service, wish.module),
                    *(f"{name}={place}" for name, place in sorted(wish.siblings.items())),
                    notes.SIBLING,
                ],
                env=surroundings.of_job(settings, os.environ, wish.service, python.parent, tmpdir)
                | notes.variables(noted),
                cwd=str(work),
                log=wish.log,
                log_limit=LOG_LIMIT,
                start_timeout=START_LIMIT,
                timeout=wish.timeout,
                memory=wish.memory,
                input=paper.fileno(),
                dump=True,
            )
            self._say({"running": True})
            with Contained(command) as running:
                end = self._watch(running)
        output.have(left)
        results, _ = notes.results(noted)
        return replace(outcome_of(end, wish, START_LIMIT), results=results)

    def _watch(self, running: Running) -> End:
        with self._stop.calling(running.kill):
            return running.wait()


def main() -> None:
    """Be the child."""
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # whatever else is printed is no answer
    os.set_inheritable(answers.fileno(), False)
    wish = Wish(**json.loads(sys.stdin.buffer.readline()))
    stop = Stop()
    stop.listen()

    def wait_for_the_end() -> None:
        sys.stdin.buffer.read()
        stop.request(ExitReason.CANCELLED)

    def say(message: dict[str, Any]) -> None:
        answers.write(json.dumps(message) + "\n")
        answers.flush()

    threading.Thread(target=wait_for_the_end, daemon=True).start()
    outcome = Rehearsal(wish, stop, say).run()
    say({"outcome": outcome.to_json()})
    os._exit(0)  # the thread above holds stdin


if __name__ == "__main__":
    main()
