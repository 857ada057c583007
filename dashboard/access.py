"""Who may look: a form and a session cookie for browsers, HTTP Basic for scripts.

A session is a signed cookie that ends after SESSION_HOURS, at log-out in that browser, and for everybody when the
password is rotated. Every request that could change something needs the session's token (CSRF).
"""

import hashlib
import re
import secrets
from datetime import timedelta
from http import HTTPStatus

from flask import (
    Blueprint,
    Flask,
    Request,
    Response,
    make_response,
    redirect,
    render_template,
    request,
    session,
    url_for,
)
from flask.sessions import SecureCookieSession, SecureCookieSessionInterface
from itsdangerous import URLSafeTimedSerializer
from werkzeug.wrappers import Response as AnyResponse

from dashboard.password import USER, Answer, Gatekeeper
from dashboard.problems import from_script, problem, wants_page
from dcm_processor.errors import SettingsError
from dcm_processor.logging import get_logger

SESSION_HOURS = 12

_SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
_PATH_HERE = re.compile(r"/(?![/\\])[^\\\x00-\x20\x7f]*")

log = get_logger(__name__)


def install(app: Flask, gatekeeper: Gatekeeper, cookie_name: str) -> None:
    """Put everything but the log-in page, its style sheet and /health behind the log-in."""
    app.config.update(
        SESSION_COOKIE_NAME=cookie_name,
        SESSION_COOKIE_HTTPONLY=True,
        SESSION_COOKIE_SAMESITE="Strict",
        SESSION_REFRESH_EACH_REQUEST=False,  # a page that reloads itself would otherwise keep a session alive for ever
        PERMANENT_SESSION_LIFETIME=timedelta(hours=SESSION_HOURS),
        MAX_CONTENT_LENGTH=64 * 1024,
    )
    app.session_interface = _Sessions(gatekeeper)
    access = _Access(gatekeeper)
    blueprint = Blueprint("access", __name__)
    blueprint.add_url_rule("/login", "login", access.login, methods=["GET", "POST"])
    blueprint.add_url_rule("/logout", "logout", access.logout, methods=["POST"])
    app.register_blueprint(blueprint)
    app.before_request(access.guard)
    app.context_processor(lambda: {"csrf_token": csrf_token, "logged_in": "user" in session})


def check_token() -> Response | None:
    """Refuse what could change something unless it brings the session's token; runs after the guard."""
    if request.method in _SAFE_METHODS or request.endpoint == "access.login" or _token_matches():
        return None
    detail = "The form is too old, or the request did not come from this page. Load the page again."
    return problem(403, "Refused", detail)


def csrf_token() -> str:
    """The session's token, which forms send back."""
    if "csrf" not in session:
        session.permanent = True
        session["csrf"] = secrets.token_urlsafe(24)
    return str(session["csrf"])


def path_here(wanted: str | None) -> str:
    """`wanted` where it is a path of this site, else the first page: a log-in leads nowhere else."""
    if wanted and _PATH_HERE.fullmatch(wanted) and not wanted.startswith(("/login", "/logout")):
        return wanted
    return url_for("studies.overview")


class _Access:
    def __init__(self, gatekeeper: Gatekeeper) -> None:
        self._gatekeeper = gatekeeper

    def guard(self) -> AnyResponse | None:
        """Runs before every request; an answer means that it goes no further."""
        if request.endpoint in ("health", "static"):
            return None
        self._gatekeeper.session_key()  # a password that cannot be read is said now, on a page without a session
        if request.endpoint == "access.login":
            return None
        return None if "user" in session else self._basic()

    def login(self) -> AnyResponse:
        wanted = path_here(request.values.get("next"))
        if "user" in session:
            return redirect(wanted, HTTPStatus.SEE_OTHER)
        if request.method != "POST":
            return self._form(wanted)
        if not _token_matches():
            return self._form(wanted, 400, "The form was too old, or the browser keeps no cookies. Try again.")
        answer = self._judge(request.form.get("user", ""), request.form.get("password", ""))
        if answer is Answer.BUSY:
            return _later(self._form(wanted, 429, "Too many log-ins are waiting. Try again in a few seconds."))
        if answer is Answer.WRONG:
            return self._form(wanted, 401, "User or password is wrong.")
        session.clear()
        session["user"] = USER
        csrf_token()
        return redirect(wanted, HTTPStatus.SEE_OTHER)

    def logout(self) -> AnyResponse:
        session.clear()
        return redirect(url_for("access.login"), HTTPStatus.SEE_OTHER)

    def _basic(self) -> AnyResponse | None:
        """None where the request brings the right user and password itself."""
        given = request.authorization
        if given is None or given.type != "basic":
            if wants_page() and request.method in _SAFE_METHODS:
                wanted = request.full_path if request.query_string else request.path
                return redirect(url_for("access.login", next=None if wanted == "/" else wanted), HTTPStatus.SEE_OTHER)
            return _not_logged_in("Log in first: HTTP Basic with the user admin, or the form at /login.")
        answer = self._judge(given.username or "", given.password or "")
        if answer is Answer.BUSY:
            return _later(problem(429, "Too many log-ins are waiting", "Try again in a few seconds."))
        return None if answer is Answer.RIGHT else _not_logged_in("User or password is wrong.")

    def _judge(self, user: str, password: str) -> Answer:
        address = request.remote_addr or ""
        answer = self._gatekeeper.judge(user, password, address)
        if answer is not Answer.RIGHT:  # what was typed stays out of the log: some type the password as the user
            log.warning("log-in refused", answer=answer.value, address=address)
        return answer

    def _form(self, wanted: str, status: int = 200, fault: str = "") -> Response:
        return make_response(render_template("login.html", wanted=wanted, fault=fault), status)


class _Sessions(SecureCookieSessionInterface):
    """Flask's signed cookie, signed with SHA-256 and the key that follows the password."""

    def __init__(self, gatekeeper: Gatekeeper) -> None:
        self._gatekeeper = gatekeeper

    def open_session(self, app: Flask, request: Request) -> SecureCookieSession | None:
        if self.get_cookie_name(app) not in request.cookies or request.path == "/health":
            return self.session_class()  # without deriving a key, so without touching the disk
        try:
            return super().open_session(app, request)
        except SettingsError:  # nobody is logged in while there is no password; the guard says why
            return self.session_class()

    def get_signing_serializer(self, app: Flask) -> URLSafeTimedSerializer:  # noqa: ARG002 - Flask's signature
        return URLSafeTimedSerializer(
            self._gatekeeper.session_key(),
            salt=self.salt,
            serializer=self.serializer,
            signer_kwargs={"key_derivation": self.key_derivation, "digest_method": hashlib.sha256},
        )

    def get_cookie_secure(self, app: Flask) -> bool:  # noqa: ARG002 - Flask's signature
        return request.is_secure  # behind TLS the cookie never travels without it


def _token_matches() -> bool:
    given = request.form.get("csrf_token") or request.headers.get("X-CSRF-Token") or ""
    expected = session.get("csrf")
    return bool(expected) and secrets.compare_digest(given.encode(), str(expected).encode())


def _not_logged_in(detail: str) -> Response:
    answer = problem(401, "Not logged in", detail)
    if not from_script():  # else a page that outlived its session would pop up the browser's own dialog
        answer.headers["WWW-Authenticate"] = 'Basic realm="dcm-processor", charset="UTF-8"'
    return answer


def _later(answer: Response) -> Response:
    answer.headers["Retry-After"] = "3"
    return answer
