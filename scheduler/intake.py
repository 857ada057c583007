"""Where Orthanc's hook says that a study is stable: the event goes into the ledger, and the answer goes back.

Orthanc's REST API stands still until the answer is there, so nothing here asks Orthanc, waits for Redis, or waits for a
ledger that is known to be stuck.
"""

from flask import Blueprint
from pydantic import BaseModel, Field

from dcm_processor.vocabulary import EventKind
from scheduler.api.models import Accepted
from scheduler.api.operation import operation
from scheduler.auth import Right
from scheduler.parts import record_and_wake

STUDY_ID = r"^[0-9a-f]{8}(-[0-9a-f]{8}){4}$"
"""Orthanc's identifiers: five groups of eight hexadecimal digits (Orthanc Book, "Orthanc identifiers")."""
BODY_LIMIT = 4096
"""Bytes."""

intake = Blueprint("intake", __name__)


class StableStudy(BaseModel):
    """What the hook sends."""

    study_id: str = Field(alias="studyId", pattern=STUDY_ID, description="Orthanc's identifier of the study.")


@intake.post("/stable-study")
@operation(
    "A study is stable",
    answer=Accepted,
    status=202,
    body=StableStudy,
    body_limit=BODY_LIMIT,
    right=Right.HOOK,
    problems=(400, 413, 415),
    # libcurl, and so Orthanc's HttpPost, calls any body a form unless told otherwise
    body_types=("application/json", "", "application/x-www-form-urlencoded"),
)
def stable_study(body: StableStudy) -> Accepted:
    """Orthanc's OnStableStudy hook. 202 says that the ledger has it on its disk, Redis or not; 503 that it has not."""
    return Accepted(study_id=body.study_id, event_id=record_and_wake(EventKind.STABLE, body.study_id))
