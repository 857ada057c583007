"""Names of revisions, plans, jobs and attempts: derived, never drawn, and all valid as RQ job ids; Orthanc's names."""

import hashlib
import re
from collections.abc import Iterable

_NOT_IN_RQ_IDS = re.compile(r"[^A-Za-z0-9_-]")


def orthanc_id(*identifiers: str) -> str:
    """Orthanc's name for a patient, study, series or instance of these identifiers, from PatientID on.

    It is their SHA-1 in five groups (Orthanc Book, "Orthanc identifiers").
    """
    digits = hashlib.sha1("|".join(identifiers).encode(), usedforsecurity=False).hexdigest()
    return "-".join(digits[start : start + 8] for start in range(0, 40, 8))


def revision(instance_ids: Iterable[str]) -> str:
    """12 hexadecimal digits that name a set of Orthanc instance ids, whatever their order."""
    return _digest("\n".join(sorted(instance_ids)), 12)


def plan_id(study_id: str, revision: str, run: int) -> str:
    """`<studyId>-<revision>-<run>`; runs of a revision count from 1."""
    return f"{study_id}-{revision}-{run}"


def job_id(plan_id: str, job_name: str, series_id: str | None) -> str:
    """The plan, the job's name as far as RQ allows it, and a digest that tells names and series apart."""
    readable = _NOT_IN_RQ_IDS.sub("_", job_name)[:40]
    return f"{plan_id}-{readable}-{_digest('/'.join((job_name, series_id or '')), 8)}"


def attempt_id(job_id: str, attempt: int) -> str:
    """`<jobId>-<attempt>`: the id of the RQ job; attempts count from 1."""
    return f"{job_id}-{attempt}"


def split_attempt_id(attempt_id: str) -> tuple[str, int]:
    """The job id and the attempt's number.

    Raises ValueError where the text is no attempt id.
    """
    job, _, attempt = attempt_id.rpartition("-")
    return job, int(attempt)


def _digest(text: str, digits: int) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:digits]
