"""rq-dashboard 0.9.0 under /rq, for looking only.

Its blueprint is registered as it is; what must differ is changed for this application alone, never in its files:

- Its endpoints that only look are listed; every other one, whatever its method, answers 403 and where to do it instead.
  The connection it gets refuses changes too, so that a mistake here cannot become one in Redis.
- `config.serializer` is its own switch for JSON jobs. Two of its views forget it: workers.json answers 500 while a
  worker is busy, and the job page unpickles a job's meta, that is, runs code of whoever writes to Redis. `_workers` and
  `_job` stand in for them.
- It connects anew for each request, to a URL that it also shows, passwords masked by a pattern that misses some. Here
  it is given one connection, and no URL.
- Addresses that name no queue registry, page or job raise in its views; they are 404 here before they get there.
- Its page frame (templates/rq_dashboard/base.html) is ours: same look and log-out as the other pages, a nonce on each
  script so that the content security policy can do without 'unsafe-inline', values escaped in its templates (they are
  not), and no buttons for what is refused.
"""

import re
import secrets
from collections.abc import Callable
from functools import partial
from typing import Any

from flask import Flask, Response, abort, current_app, g, make_response, render_template, request, url_for
from rq import Worker
from rq.exceptions import NoSuchJobError
from rq.job import Job
from rq.serializers import JSONSerializer
from rq.version import VERSION as RQ_VERSION
from rq.worker import BaseWorker
from rq_dashboard import web
from rq_dashboard.version import VERSION as RQ_DASHBOARD_VERSION
from werkzeug.exceptions import MethodNotAllowed

from dashboard.problems import problem
from dashboard.reading import ReadingRedis
from dcm_processor.identity import split_attempt_id
from dcm_processor.logging import get_logger

log = get_logger(__name__)

PREFIX = "/rq"
BLUEPRINT: str = web.blueprint.name
_LOOKING = frozenset(
    {"static", "favicon", "queues_overview", "workers_overview", "jobs_overview", "job_view"}
    | {"list_queues", "list_jobs", "job_info", "list_workers"}
)
_REGISTRIES = frozenset({"queued", "scheduled", "deferred", "started", "finished", "failed", "canceled"})
_STUDY_OF_ATTEMPT = re.compile(r"((?:[0-9a-f]{8}-){4}[0-9a-f]{8})-")  # Orthanc's identifiers, see identity.py
_RQ_ID = re.compile(r"[A-Za-z0-9_-]{1,512}")
_MOST_PER_PAGE = 200


def install(app: Flask, client: ReadingRedis) -> None:
    """Mount rq-dashboard under /rq, behind what guards the application already."""
    web.config.serializer = JSONSerializer
    app.config.update(
        RQ_DASHBOARD_REDIS_URL=(),
        RQ_DASHBOARD_DISABLE_DELETE=True,
        RQ_DASHBOARD_POLL_INTERVAL=3000,
    )
    app.redis_conn = client  # type: ignore[attr-defined] # the name rq-dashboard looks under
    app.before_request(_refuse_other_methods)
    app.register_blueprint(web.blueprint, url_prefix=PREFIX)
    app.before_request_funcs[BLUEPRINT].remove(web.push_rq_connection)
    app.before_request_funcs[BLUEPRINT].append(_check)
    for endpoint in app.view_functions:
        blueprint, _, name = endpoint.rpartition(".")
        if blueprint == BLUEPRINT and name not in _LOOKING:
            app.view_functions[endpoint] = _refuse
    app.view_functions[f"{BLUEPRINT}.job_view"] = _job
    app.view_functions[f"{BLUEPRINT}.list_workers"] = web.jsonify(_workers)
    for name in ("job_info", "list_jobs"):
        app.view_functions[f"{BLUEPRINT}.{name}"] = partial(_readable, app.view_functions[f"{BLUEPRINT}.{name}"])
    app.context_processor(lambda: {"csp_nonce": csp_nonce})


def csp_nonce() -> str:
    """Marks the scripts that this answer's content security policy allows."""
    if "csp_nonce" not in g:
        g.csp_nonce = secrets.token_urlsafe(16)
    return str(g.csp_nonce)


def content_security_policy() -> str:
    """As strict as rq-dashboard allows: its templates are compiled in the browser and have style attributes."""
    return (
        f"default-src 'none'; script-src 'nonce-{csp_nonce()}' 'unsafe-eval'; style-src 'self'; "
        "style-src-attr 'unsafe-inline'; img-src 'self' data:; connect-src 'self'; form-action 'self'; "
        "base-uri 'none'; frame-ancestors 'none'"
    )


def _refuse_other_methods() -> Response | None:
    if request.path != PREFIX and not request.path.startswith(PREFIX + "/"):
        return None
    looks = request.method in ("GET", "HEAD") and not isinstance(request.routing_exception, MethodNotAllowed)
    return None if looks else _refuse(**request.view_args or {})


def _refuse(**arguments: Any) -> Response:
    """403, with where to do it; `arguments` are what the address named."""
    job_id = "JOBID"
    if _RQ_ID.fullmatch(attempt := str(arguments.get("job_id", ""))):
        try:
            job_id = split_attempt_id(attempt)[0]
        except ValueError:  # not one of our attempts
            job_id = attempt
    return problem(
        403,
        "These pages are for looking only",
        "Queues carry only attempts that the ledger wants to run now; a change made here would be undone, or would run "
        "a job twice. Change the job instead: by the command line, or by the scheduler's API "
        f"(POST /api/v1/jobs/{job_id}/rerun or …/cancel).",
        commands=(f"dcm-processor job rerun {job_id}", f"dcm-processor job cancel {job_id}"),
    )


def _check() -> None:
    """404 for what rq-dashboard's views answer with an exception; raises RedisError where Redis does not answer."""
    arguments = request.view_args or {}
    if arguments.get("instance_number", 0) != 0:
        abort(404)
    if arguments.get("registry_name", "queued") not in _REGISTRIES:
        abort(404)
    if arguments.get("order", "asc") not in ("asc", "dsc"):
        abort(404)
    for name, highest in (("page", 1_000_000), ("per_page", _MOST_PER_PAGE)):
        text = str(arguments.get(name, 1))
        if not (text.isascii() and text.isdigit() and 1 <= len(text) <= 7 and 1 <= int(text) <= highest):
            abort(404)
    if not _RQ_ID.fullmatch(arguments.get("job_id", "any")):
        abort(404)
    if request.endpoint not in (f"{BLUEPRINT}.static", f"{BLUEPRINT}.favicon"):
        _connection().ping()  # its first page would answer 200 and "Connection Error"


def _readable(view: Callable[..., Any], **arguments: Any) -> Any:
    """A view's answer, or a word where somebody else put a job into our Redis that is not JSON."""
    try:
        return view(**arguments)
    except ValueError as error:
        log.warning("a job that is not JSON in Redis", address=request.path, kind=type(error).__name__)
        detail = "Somebody put something into Redis that is not one of this platform's jobs (their values are JSON)."
        return problem(404, "Not a job of ours", detail)


def _job(instance_number: int, job_id: str) -> Response:
    job = Job.fetch(job_id, connection=_connection(), serializer=JSONSerializer)
    study = _STUDY_OF_ATTEMPT.match(job.id)
    page = render_template(
        "rq_dashboard/job.html",
        id=job.id,
        study_id=study and study[1],
        current_instance=instance_number,
        rq_url_prefix=url_for(f"{BLUEPRINT}.queues_overview"),
        rq_dashboard_version=RQ_DASHBOARD_VERSION,
        rq_version=RQ_VERSION,
        active_tab="jobs",
        enable_delete=False,
    )
    return make_response(page)


class _ShownWorker(Worker):
    """A worker as a page reads it; RQ's own would lengthen the connection's time-out to minutes for everybody."""

    def _set_connection(self, connection: ReadingRedis) -> ReadingRedis:  # type: ignore[override]
        return connection


def _workers(instance_number: int) -> dict[str, Any]:  # noqa: ARG001 - what the address names; there is one
    workers = _ShownWorker.all(connection=_connection(), serializer=JSONSerializer)
    rows = [
        {
            "name": worker.name,
            "pid": worker.pid,
            "queues": [queue.name for queue in worker.queues],
            "state": str(worker.get_state()),
            "current_job": _current_job(worker),
            "last_heartbeat": worker.last_heartbeat,
            "birth_date": worker.birth_date,
            "successful_job_count": worker.successful_job_count,
            "failed_job_count": worker.failed_job_count,
            "total_working_time": worker.total_working_time,
            "version": worker.version,
            "python_version": worker.python_version,
        }
        for worker in workers
    ]
    return {"workers": sorted(rows, key=lambda row: (row["state"], row["queues"], row["name"]))}


def _current_job(worker: BaseWorker) -> Any:
    """The job, or "idle"; its description stands where rq-dashboard shows the call, the same for all of ours."""
    try:
        job = worker.get_current_job()
    except NoSuchJobError:  # it ended, and left Redis, while we looked
        job = None
    if job is None:
        return "idle"
    return {
        "job_id": job.id,
        "description": job.description,
        "created_at": web.serialize_date(job.created_at),
        "call_string": job.description or job.id,
    }


def _connection() -> ReadingRedis:
    connection = current_app.redis_conn  # type: ignore[attr-defined]
    assert isinstance(connection, ReadingRedis)
    return connection
