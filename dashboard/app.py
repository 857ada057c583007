"""The dashboard: our pages of studies and their jobs, and rq-dashboard under /rq; all of it only looks.

Here everything is put together; `access` (log-in, sessions, CSRF) stands on `password`, `studies` (the pages) on
`presentation` (what they say), `rq_pages` (rq-dashboard, made to look only) and they on `reading` (a Redis client that
cannot change anything), and all on `problems` (errors, as pages and as JSON).
"""

from flask import Flask, Response, jsonify, request

from dashboard import access, problems, reading, rq_pages, studies
from dashboard.password import Gatekeeper
from dcm_processor.errors import SettingsError
from dcm_processor.ledger import Ledger
from dcm_processor.settings import Settings, checkout_from_environment

_STRICT = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; form-action 'self'; "
    "base-uri 'none'; frame-ancestors 'none'"
)


def create_app(settings: Settings | None = None, *, ledger: studies.Source | None = None) -> Flask:
    """The WSGI application; without `settings` they are read from `.env`, `.env.local` and the environment.

    `ledger` is what the pages read, by default the ledger that the settings name.

    Raises SettingsError where the settings, or the password, cannot be had.
    """
    settings = settings or Settings.load(checkout_from_environment())
    gatekeeper = Gatekeeper(lambda: _password(settings))
    gatekeeper.session_key()  # a password that cannot be read is a fault of the start, not of the first log-in
    app = Flask(__name__)
    app.jinja_options = {"trim_blocks": True, "lstrip_blocks": True}
    problems.install(app)
    # Cookies do not know ports: without it in the name, two installations on a host would log each other out.
    access.install(app, gatekeeper, cookie_name=f"dcmproc_session_{settings.DASHBOARD_PORT}")
    client = reading.client(settings.redis_url)
    studies.install(app, ledger or Ledger(settings.database_url, busy_timeout=5), settings, client)
    rq_pages.install(app, client)
    app.before_request(access.check_token)  # the last: what is refused anyway has said why by now
    app.add_url_rule("/health", "health", lambda: jsonify(status="ok"))
    app.after_request(_protect)
    return app


def _password(settings: Settings) -> str:
    password = settings.secret("dashboard_password")
    if not password:
        path = settings.secrets / "dashboard_password"
        raise SettingsError(f"{path} is empty: put a password into it, or remove it and start again to have one made")
    return password


def _protect(response: Response) -> Response:
    headers = response.headers
    ours = request.blueprint != rq_pages.BLUEPRINT
    headers["Content-Security-Policy"] = _STRICT if ours else rq_pages.content_security_policy()
    headers["X-Content-Type-Options"] = "nosniff"
    headers["X-Frame-Options"] = "DENY"
    headers["Referrer-Policy"] = "same-origin"
    headers["Cross-Origin-Opener-Policy"] = "same-origin"
    headers["Cross-Origin-Resource-Policy"] = "same-origin"
    if request.endpoint not in ("static", f"{rq_pages.BLUEPRINT}.static"):
        headers["Cache-Control"] = "no-store"  # nothing of a study stays in a browser's cache
    return response
