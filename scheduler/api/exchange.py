"""What travels between the scheduler and other hosts as archives: module code, inputs, output; results for anybody."""

import re

from flask import Blueprint, Response
from werkzeug.exceptions import Conflict

from dcm_processor.archives.archive import MEDIA_TYPE, OUTPUT, VERSION, pack, survey
from dcm_processor.errors import NotKnownError, ServiceError
from dcm_processor.job_settings import JOB_NAME
from dcm_processor.ledger import attempts
from dcm_processor.orthanc import is_orthanc_id
from dcm_processor.vocabulary import AttemptState
from scheduler.api.models import Received
from scheduler.api.operation import operation
from scheduler.auth import Right
from scheduler.parts import parts

exchange = Blueprint("exchange", __name__)

_ATTEMPT_ID = re.compile(r"[A-Za-z0-9_-]{1,200}")
_JOB_NAME = re.compile(JOB_NAME)
_HEADERS = 512 * 1024**2  # bytes of an output's archive beside its files


@exchange.get("/services/<service>/versions/<digest>")
@operation("Fetch a service's code", right=Right.WORKER, problems=(404, 422), content=MEDIA_TYPE)
def send_version(service: str, digest: str) -> Response:
    """A version of a service: its folders `registry` and `module`."""
    store = parts().store
    try:
        folders = {
            "registry": store.registry_folder(service, digest),
            "module": store.module_folder(service, digest),
        }
    except ServiceError as error:
        raise NotKnownError(str(error)) from None
    if not all(folder.is_dir() for folder in folders.values()):
        raise NotKnownError(f"version {digest} of service {service} is not installed here (any more)")
    return parts().transfers.sending(pack(survey(folders, VERSION)))


@exchange.get("/results/<study_id>/<job_name>")
@operation("Fetch a job's results", right=Right.RESULTS, problems=(404, 422), content=MEDIA_TYPE)
def send_results(study_id: str, job_name: str) -> Response:
    """What the last finished run of a study's job left."""
    return _results(study_id, job_name, None)


@exchange.get("/results/<study_id>/<job_name>/<series_id>")
@operation("Fetch a series job's results", right=Right.RESULTS, problems=(404, 422), content=MEDIA_TYPE)
def send_series_results(study_id: str, job_name: str, series_id: str) -> Response:
    """What the last finished run of a job left for one series."""
    return _results(study_id, job_name, series_id)


@exchange.put("/attempts/<attempt_id>/output")
@operation(
    "Send an attempt's output",
    answer=Received,
    right=Right.WORKER,
    problems=(404, 409, 413, 415, 422, 507),
    upload=MEDIA_TYPE,
    body_limit=OUTPUT.size + _HEADERS,
)
def take_output(attempt_id: str) -> Received:
    """Take what a running attempt left, whole or not at all; sent again it takes the place of what came before."""
    _check_wanted(attempt_id)
    with parts().transfers.receiving() as blocks:
        came = parts().results.receive(attempt_id, blocks, lambda: _check_wanted(attempt_id))
    return Received(attempt_id=attempt_id, entries=came.entries, size=came.size)


def _results(study_id: str, job_name: str, series_id: str | None) -> Response:
    named = _JOB_NAME.fullmatch(job_name) and all(map(is_orthanc_id, (study_id, *([series_id] if series_id else []))))
    folder = parts().results.folder(study_id, job_name, series_id) if named else None
    if folder is None:
        raise NotKnownError("there are no such results; a job has some once it has finished")
    return parts().transfers.sending(pack(survey({"": folder}, OUTPUT)))


def _check_wanted(attempt_id: str) -> None:
    """Raise NotKnownError or Conflict where nobody waits for this attempt's output."""
    found = None
    if _ATTEMPT_ID.fullmatch(attempt_id):
        with parts().ledger.read() as db:
            found = attempts.get(db, attempt_id)
    if found is None:
        raise NotKnownError("the ledger knows no such attempt")
    attempt, job = found
    if attempt["state"] not in (AttemptState.QUEUED, AttemptState.STARTED) or job["attempt"] != attempt["attempt"]:
        raise Conflict(f"The attempt is {attempt['state']}: nobody waits for its output any more")
