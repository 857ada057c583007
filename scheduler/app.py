"""The scheduler's HTTP side: `gunicorn -c python:scheduler.gunicorn_conf` serves it."""

from functools import partial

import redis
from flask import Flask, Response, current_app, request
from redis.backoff import NoBackoff
from redis.retry import Retry

from dcm_processor import completeness_file
from dcm_processor.errors import LedgerUnavailableError
from dcm_processor.ledger import Ledger
from dcm_processor.logging import get_logger
from dcm_processor.redis_connection import connect
from dcm_processor.settings import Settings, checkout_from_environment
from dcm_processor.store import Store
from dcm_processor.transport import Transport
from scheduler.api import PREFIX, register_api
from scheduler.api.operation import operation_of
from scheduler.auth import Right, Tokens, require
from scheduler.explaining import Explainer
from scheduler.health import health
from scheduler.intake import intake
from scheduler.metrics import metrics
from scheduler.parts import EXTENSION, Explain, Parts, parts
from scheduler.problems import handle_problems
from scheduler.readiness import Readiness
from scheduler.recorder import Recorder
from scheduler.results import Results
from scheduler.room import Room
from scheduler.transfers import Transfers
from scheduler.unread import discard_body
from scheduler.wake import CanWake, Waker

LEDGER_PATIENCE = 1.0
"""Seconds a request waits for another writer of the ledger; with its turn (Recorder) that makes less than two."""
REDIS_PATIENCE = 1.0
"""Seconds a request waits for Redis, where it needs it at all."""

_log = get_logger(__name__)


def create_app(
    settings: Settings | None = None,
    *,
    ledger: Ledger | None = None,
    transport: CanWake | None = None,
    store: Store | None = None,
    explain: Explain | None = None,
) -> Flask:
    """The WSGI application. Without settings it reads them; what else is given stands in for what it would make itself.

    Raises SettingsError or LedgerError where the configuration is not usable.
    """
    settings = settings or Settings.load(checkout_from_environment())
    ledger = ledger or _open_ledger(settings)
    quick = connect(
        settings.redis_url,
        socket_timeout=REDIS_PATIENCE,
        socket_connect_timeout=REDIS_PATIENCE,
        retry=Retry(NoBackoff(), 1, supported_errors=(redis.ConnectionError,)),
    )
    app = Flask("scheduler", static_folder=None)
    app.extensions[EXTENSION] = Parts(
        settings=settings,
        tokens=Tokens(settings.secrets),
        ledger=ledger,
        recorder=Recorder(ledger),
        waker=Waker(transport if transport is not None else Transport(settings.redis_url)),
        redis=quick,
        readiness=Readiness(ledger, quick, partial(completeness_file.rules, settings)),
        room=Room(settings),
        store=store or Store.of(settings),
        results=Results(settings.data),
        transfers=Transfers(),
        explain=explain or Explainer(settings),
    )
    app.url_map.strict_slashes = False
    app.url_map.merge_slashes = False
    handle_problems(app)
    app.before_request(_authorize)
    app.after_request(_harden)
    app.after_request(discard_body)
    app.register_blueprint(intake)
    app.register_blueprint(health)
    app.register_blueprint(metrics)
    register_api(app)
    return app


def _open_ledger(settings: Settings) -> Ledger:
    ledger = Ledger(settings.database_url, busy_timeout=LEDGER_PATIENCE)
    try:
        ledger.migrate()
    except LedgerUnavailableError as error:  # readiness says so; the controller brings the schema when it can
        _log.warning("the ledger's schema could not be looked at", reason=str(error))
    return ledger


def _authorize() -> None:
    """Nothing is served without the right its operation asks for; below /api/v1 not even a 404."""
    if request.endpoint is None:
        if request.path.startswith(PREFIX + "/"):
            require(Right.API, parts().tokens)
        return
    right = operation_of(current_app, request.endpoint).right
    if right is not None:
        require(right, parts().tokens)


def _harden(response: Response) -> Response:
    response.headers["Cache-Control"] = "no-store"
    response.headers["X-Content-Type-Options"] = "nosniff"
    return response
