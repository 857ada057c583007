"""Every error of the HTTP API as an RFC 9457 problem document (`application/problem+json`).

`type` is `about:blank` where the status says all there is to say, else one of `PROBLEM_TYPES`; programs may rely on it.
No document carries a token, a search term, a value of a DICOM element or a line of our code.
"""

import uuid
from collections.abc import Mapping, Sequence

from flask import Flask, Response
from pydantic import BaseModel, Field, ValidationError
from werkzeug.exceptions import (
    BadRequest,
    HTTPException,
    MethodNotAllowed,
    NotFound,
    RequestEntityTooLarge,
)
from werkzeug.http import HTTP_STATUS_CODES

from dcm_processor.errors import (
    ArchiveError,
    DataFullError,
    DcmProcessorError,
    LedgerError,
    LedgerUnavailableError,
    NotKnownError,
    OrthancUnavailableError,
    StudyGoneError,
    TransientError,
    TransportUnavailableError,
    UsageError,
)
from dcm_processor.logging import get_logger

MEDIA_TYPE = "application/problem+json"
RETRY_AFTER = 5
"""Seconds after which a request that met a transient error may be tried again."""

_log = get_logger(__name__)
_URN = "urn:dcm-processor:problem:"

# The first class that fits decides, so the narrower ones stand first.
_OF_ERRORS: Mapping[type[DcmProcessorError], tuple[int, str, str]] = {
    UsageError: (400, "invalid-request", "The request is not valid"),
    NotKnownError: (404, "not-known", "It is not known here"),
    ArchiveError: (422, "archive-refused", "The files cannot travel as they are"),
    DataFullError: (507, "data-full", "DATA has no room"),
    StudyGoneError: (410, "study-gone", "Orthanc does not hold the study any more"),
    LedgerUnavailableError: (503, "ledger-unavailable", "The ledger is not available"),
    LedgerError: (503, "ledger-unusable", "The ledger cannot be used as configured"),
    TransportUnavailableError: (503, "redis-unavailable", "Redis cannot be used"),
    OrthancUnavailableError: (503, "orthanc-unavailable", "Orthanc does not answer"),
    TransientError: (503, "try-again", "Trying again later may succeed"),
    DcmProcessorError: (500, "failed", "It could not be done"),
}
PROBLEM_TYPES = tuple(dict.fromkeys(_URN + slug for _, slug, _ in _OF_ERRORS.values()))


class Fault(BaseModel):
    """One thing that is wrong with a request."""

    field: str = Field(description="Where: `query.limit`, `body.jobs.0`, or `body` for the whole of it.")
    reason: str = Field(description="Why it is refused.")


class Problem(BaseModel):
    """A problem document (RFC 9457)."""

    type: str = Field(
        default="about:blank", description="What kind of problem; `about:blank` where the status says it all."
    )
    title: str = Field(description="The kind of problem in a few words.")
    status: int = Field(description="The HTTP status.")
    detail: str = Field(description="What happened, why, and what to do.")
    instance: str | None = Field(
        default=None, description="Names this very occurrence; the scheduler's log has it too."
    )
    faults: list[Fault] | None = Field(default=None, description="Each thing that is wrong with the request.")
    checks: dict[str, str] | None = Field(
        default=None,
        description="Of `/health/ready` alone: `ok`, or what is wrong, for each thing the scheduler needs.",
    )


class InvalidRequestError(BadRequest):
    """The request's query or body breaks the API's contract; carries each fault."""

    def __init__(self, faults: Sequence[Fault]) -> None:
        super().__init__("; ".join(f"{fault.field}: {fault.reason}" for fault in faults))
        self.faults = list(faults)

    @classmethod
    def of(cls, where: str, error: ValidationError) -> "InvalidRequestError":
        """Every fault pydantic found in `where` (`query` or `body`), without the values it found them in."""
        return cls(
            [
                Fault(
                    field=".".join([where, *map(str, found["loc"])]),
                    reason="is not known here" if found["type"] == "extra_forbidden" else found["msg"],
                )
                for found in error.errors(include_url=False, include_input=False, include_context=False)
            ]
        )


def respond(problem: Problem, headers: Mapping[str, str] | Sequence[tuple[str, str]] = ()) -> Response:
    """The problem as a response; `headers` go with it."""
    response = Response(problem.model_dump_json(exclude_none=True), status=problem.status, mimetype=MEDIA_TYPE)
    response.headers.extend(headers)
    return response


def handle_problems(app: Flask) -> None:
    """Make every error that leaves a view, and every one Flask raises itself, a problem document."""
    app.register_error_handler(HTTPException, _http)
    app.register_error_handler(DcmProcessorError, _ours)
    app.register_error_handler(Exception, _unexpected)


def _http(error: HTTPException) -> Response:
    status = error.code or 500
    fallback = HTTP_STATUS_CODES.get(status, "Error")
    headers = [(name, value) for name, value in error.get_headers() if name.lower() != "content-type"]
    faults = error.faults if isinstance(error, InvalidRequestError) else None
    return respond(
        Problem(
            type=_URN + "invalid-request" if faults else "about:blank",
            title="The request is not valid" if faults else fallback,
            status=status,
            detail=_detail(error) or fallback,
            faults=faults,
        ),
        headers,
    )


def _detail(error: HTTPException) -> str | None:
    """What to say of an error that Flask raised; our own say it themselves."""
    match error:
        case MethodNotAllowed(valid_methods=methods) if methods:
            return f"This address takes {' and '.join(sorted(set(methods) - {'OPTIONS'}))} only"
        case NotFound(description=NotFound.description):
            return "There is nothing at this address; GET /api/v1/openapi.json describes those there are"
        case RequestEntityTooLarge():
            return "The body is larger than this address takes"
    return error.description


def _ours(error: DcmProcessorError) -> Response:
    status, slug, title = next(entry for kind, entry in _OF_ERRORS.items() if isinstance(error, kind))
    instance = None
    if status >= 500:
        instance = f"urn:uuid:{uuid.uuid4()}"
        _log.warning("request refused", problem=slug, instance=instance, reason=str(error))
    problem = Problem(type=_URN + slug, title=title, status=status, detail=str(error), instance=instance)
    return respond(problem, {"Retry-After": str(RETRY_AFTER)} if status == 503 else {})


def _unexpected(error: Exception) -> Response:
    instance = f"urn:uuid:{uuid.uuid4()}"
    _log.error("request failed", instance=instance, exc_info=error)
    return respond(
        Problem(
            title="Internal Server Error",
            status=500,
            instance=instance,
            detail="This is a fault of the scheduler; its log tells more under the name given as `instance`.",
        )
    )
