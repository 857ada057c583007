"""What went wrong, said in the asker's language: a page for browsers, an RFC 9457 problem document for programs."""

from http import HTTPStatus

from flask import Flask, Response, jsonify, make_response, render_template, request
from redis.exceptions import RedisError
from rq.exceptions import NoSuchJobError
from werkzeug.exceptions import HTTPException, MethodNotAllowed

from dcm_processor.errors import DcmProcessorError, LedgerUnavailableError, SettingsError, TransientError
from dcm_processor.logging import get_logger

log = get_logger(__name__)


def wants_page() -> bool:
    """Whether a person's browser asks; scripts (`Accept: */*`) and the pages' own requests get JSON."""
    accepts = request.accept_mimetypes
    return accepts.quality("text/html") > accepts.quality("application/json") and not from_script()


def from_script() -> bool:
    """Whether a page's JavaScript asks (jQuery says so)."""
    return request.headers.get("X-Requested-With") == "XMLHttpRequest"


def problem(status: int, title: str, detail: str, *, commands: tuple[str, ...] = ()) -> Response:
    """The answer; `commands` are what to type instead."""
    if wants_page():
        page = render_template("problem.html", status=status, title=title, detail=detail, commands=commands)
        return make_response(page, status)
    body = {"type": "about:blank", "status": status, "title": title, "detail": detail}
    response = jsonify(body | ({"instead": list(commands)} if commands else {}))
    response.status_code = status
    response.content_type = "application/problem+json"
    return response


def install(app: Flask) -> None:
    """Answer every error of the application by `problem`."""
    app.register_error_handler(HTTPException, _http)
    app.register_error_handler(DcmProcessorError, _ours)
    app.register_error_handler(RedisError, _redis)
    app.register_error_handler(NoSuchJobError, _no_such_job)


def _http(error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    status = error.code or 500
    detail = {
        404: "There is nothing at this address.",
        500: "Something broke on our side; the dashboard's log says what.",
    }.get(status, error.description or "")
    answer = problem(status, HTTPStatus(status).phrase, detail)
    if isinstance(error, MethodNotAllowed):
        answer.headers["Allow"] = ", ".join(sorted(error.valid_methods or ()))
    return answer


def _ours(error: Exception) -> Response:
    log.warning("not answered", error=str(error), kind=type(error).__name__)
    if isinstance(error, LedgerUnavailableError):
        detail = (
            "Its database is busy, away, or not made yet (scheduler and controller make it when they start). "
            "Try again in a moment."
        )
        return problem(503, "The ledger does not answer", detail)
    if isinstance(
        error, SettingsError | TransientError
    ):  # said to people who are not logged in, too: no more than that
        return problem(503, "Not available now", "Something the dashboard needs cannot be had; its log says what.")
    return problem(500, "Something broke on our side", "The dashboard's log says what.")


def _redis(error: Exception) -> Response:
    log.warning("Redis does not answer", kind=type(error).__name__)
    detail = "Queues and workers cannot be shown until it does. Studies and jobs stand in the ledger, unaffected."
    return problem(503, "Redis does not answer", detail)


def _no_such_job(_error: Exception) -> Response:
    return problem(
        404,
        "Redis no longer has this job",
        "An attempt leaves Redis soon after it ended. The ledger keeps it: see its study's page, or ask for the job.",
        commands=("dcm-processor job show JOBID",),
    )
