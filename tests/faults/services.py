"""The services that run: what they do to which study is decided by the study's identifier, so that it can be foretold.

Each callback and each function appends what it does to the record (`record.py`).
"""

import json
import os
import random
import textwrap
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

STAGES = ("pre", "main", "post")
LEFT_BEHIND = f"86399.{os.getpid()}"
"""Seconds that a child sleeps which a function leaves behind; no process of anybody else sleeps just so long."""


@dataclass(frozen=True)
class Rule:
    """What a job does, in per cent of the studies (or series) it is about; seconds that its function takes."""

    level: str
    declines: int = 0
    errors: int = 0
    fails: int = 0
    transient: int = 0  # says "try again" at its first attempt
    seconds: float = 0.0
    forks: bool = False
    injects: bool = False


@dataclass(frozen=True)
class Job:
    """One job: settings.json's fields as far as they are used, and its rule."""

    name: str
    service: str
    rule: Rule
    depends_on: tuple[str, ...] = ()
    stage: str = "main"
    on_dependency_failure: str = "skip"
    retry: Mapping[str, Any] = field(default_factory=dict)
    priority: str = "default"

    def entry(self, record: Path) -> dict[str, Any]:
        """The job's entry of settings.json."""
        return {
            "jobName": self.name,
            "worker": f"{self.service}.work",
            "callback": f"{self.service}.applies",
            "level": self.rule.level,
            "dependsOn": list(self.depends_on),
            "stage": self.stage,
            "onDependencyFailure": self.on_dependency_failure,
            "retry": dict(self.retry),
            "priority": self.priority,
            "timeout": 120,
            "params": {"record": str(record), "rule": asdict(self.rule), "leftBehind": LEFT_BEHIND},
        }


def draw(seed: int) -> tuple[Job, ...]:
    """The services of a seed: always a chain, a diamond, all stages and both levels; the rest is chance."""
    chance = random.Random(f"{seed}/services")
    retry: dict[str, Any] = {"max": 2, "interval": [1, 2], "lost": 5}
    # a chain over both levels, and a diamond on its end
    jobs = [
        Job("check", "first", Rule("study", declines=10, injects=True), stage="pre", retry=retry, priority="high"),
        Job("convert", "first", Rule("series", declines=40, transient=10, seconds=0.3, injects=True), retry=retry),
        Job("measure", "second", Rule("series", fails=8, seconds=0.2), ("convert",), retry=retry),
        Job(
            "left", "second", Rule("study", errors=4, seconds=1.0, forks=True, injects=True), ("measure",), retry=retry
        ),
        Job("right", "third", Rule("study", declines=40, transient=15, seconds=0.5), ("measure",), retry=retry),
        Job("join", "third", Rule("study"), ("left", "right"), on_dependency_failure="run", retry=retry),
        Job("report", "third", Rule("study", fails=4), ("*",), stage="post", on_dependency_failure="run", retry=retry),
    ]
    for number in range(chance.randint(1, 3)):
        stage = chance.choice(("main", "main", "post"))
        earlier = [j.name for j in jobs if STAGES.index(j.stage) <= STAGES.index(stage) and "*" not in j.depends_on]
        jobs.append(
            Job(
                f"extra-{number}",
                chance.choice(("first", "second", "third")),
                Rule(
                    chance.choice(("study", "series")),
                    declines=chance.choice((30, 60, 80)),
                    fails=chance.choice((0, 5)),
                    seconds=chance.choice((0.2, 0.5, 3.0)),
                    forks=chance.random() < 0.3,
                    injects=chance.random() < 0.5,
                ),
                tuple(chance.sample(earlier, chance.randint(0, 2))),
                stage,
                chance.choice(("skip", "run")),
                {**retry, "max": chance.choice((0, 1)), "lost": chance.choice((2, 5))},
                chance.choice(("default", "low")),
            )
        )
    return tuple(jobs)


def write(jobs: tuple[Job, ...], folder: Path, record: Path) -> dict[str, Path]:
    """Put the services' sources into a folder; returns where each lies."""
    places = {}
    for service in dict.fromkeys(job.service for job in jobs):
        place = places[service] = folder / service
        (place / "registry").mkdir(parents=True, exist_ok=True)
        (place / "module").mkdir(exist_ok=True)
        entries = [job.entry(record) for job in jobs if job.service == service]
        (place / "registry" / "settings.json").write_text(json.dumps(entries, indent=2))
        (place / "registry" / "__init__.py").write_text(_COMMON + _CALLBACK)
        (place / "module" / "__init__.py").write_text(_COMMON + _FUNCTION)
        (place / "module" / "requirements.txt").write_text("# the standard library does\n")
    return places


_COMMON = textwrap.dedent('''\
    import errno, hashlib, json, os, subprocess, time


    def chance(what, job, unit):
        """0 to 99, always the same for the same study or series."""
        return int(hashlib.sha256(f"{what}/{job}/{unit}".encode()).hexdigest()[:8], 16) % 100


    def note(path, **line):
        """One line of the record: whole, and on the disk."""
        text = json.dumps({**line, "pid": os.getpid(), "at": time.time()}) + "\\n"
        fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            os.write(fd, text.encode())
            os.fsync(fd)
        finally:
            os.close(fd)


    def tokens(found):
        """Whatever callbacks injected, at any depth."""
        if isinstance(found, str):
            return [found]
        values = found.values() if hasattr(found, "values") else ()
        return sorted(token for value in values for token in tokens(value))
''')

_CALLBACK = textwrap.dedent("""\


    def applies(jobName, headers, params, added_params):
        rule = params["rule"]
        series = headers["seriesId"] if rule["level"] == "series" else None
        study, unit = headers["studyId"], series or headers["studyId"]
        seen = tokens({name: added_params[name] for name in added_params})
        note(params["record"], what="callback", study=study, series=series, job=jobName, tokens=seen)
        if chance("errors", jobName, unit) < rule["errors"]:
            raise ValueError("as its rule says")
        takes = chance("declines", jobName, unit) >= rule["declines"]
        return (takes, {"token": f"{jobName}/{unit}"}) if rule["injects"] else takes
""")

_FUNCTION = textwrap.dedent('''\


    from dcm_processor_job import result


    class TransientServiceError(Exception):
        """Says "try again"."""


    def look(folder):
        """[instance id, digest of the end of its file] of each file."""
        found = []
        for place, _, names in os.walk(folder):
            for name in names:
                with open(os.path.join(place, name), "rb") as file:
                    file.seek(-128, os.SEEK_END)
                    found.append([name.removesuffix(".dcm"), hashlib.sha256(file.read()).hexdigest()[:16]])
        return sorted(found)


    def results(inputs):
        """What the dependencies left, by job (and series)."""
        found = []
        for job, folder in inputs.items():
            for place in folder.values() if hasattr(folder, "values") else [folder]:
                with open(os.path.join(place, "result.json")) as file:
                    found.append([job, json.load(file)])
        return found


    def work(jobName, headers, params, added_params, dicom_dir, output_dir, inputs, studyId, planId, attempt):
        try:
            _work(jobName, headers, params, added_params, dicom_dir, output_dir, inputs, studyId, planId, attempt)
        except OSError as error:
            if error.errno == errno.ENOSPC:
                raise TransientServiceError("the disk is full") from None
            raise


    def _work(jobName, headers, params, added_params, dicom_dir, output_dir, inputs, studyId, planId, attempt):
        rule, record = params["rule"], params["record"]
        series = headers["seriesId"] if rule["level"] == "series" else None
        unit = series or studyId
        own = {"study": studyId, "series": series, "job": jobName, "plan": planId, "attempt": attempt}
        seen = [[job, found["study"], found["series"], found["plan"]] for job, found in results(inputs)]
        given = tokens({name: added_params[name] for name in added_params})
        files = look(dicom_dir)
        note(record, what="begin", files=files, inputs=seen, tokens=given, **own)
        print("at work on", jobName)
        if rule["forks"]:
            subprocess.Popen(["sleep", params["leftBehind"]], start_new_session=True)
        time.sleep(rule["seconds"] * (0.5 + chance("seconds", jobName, unit) / 100))
        if chance("fails", jobName, unit) < rule["fails"]:
            note(record, what="end", how="failed", **own)
            raise ValueError("as its rule says")
        if attempt == 1 and chance("transient", jobName, unit) < rule["transient"]:
            note(record, what="end", how="transient", **own)
            raise TransientServiceError("as its rule says")
        with open(os.path.join(output_dir, "result.json"), "w") as file:
            json.dump({**own, "files": files}, file)
        for name, value in (("unit", unit), ("attempt", attempt), ("files", len(files))):
            result(name, value)
        note(record, what="end", how="done", **own)
''')
