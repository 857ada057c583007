"""Health: whether the process answers, and whether it can do its work. Open to all, so it tells no more."""

from flask import Blueprint, Response

from scheduler.api.models import Live, Ready
from scheduler.api.operation import operation
from scheduler.parts import parts
from scheduler.problems import RETRY_AFTER, Problem, respond
from scheduler.readiness import OK
from scheduler.room import LOW

health = Blueprint("health", __name__, url_prefix="/health")


@health.get("/live")
@operation("Is it alive?", answer=Live, right=None)
def live() -> Live:
    """The process answers; nothing else is looked at."""
    return Live()


@health.get("/ready")
@operation("Is it ready?", answer=Ready, right=None, problems=(503,))
def ready() -> Ready | Response:
    """The ledger and Redis take writes; else 503, and `checks` says which does not.

    A DATA that is low on room is a warning: events are taken, plans made, and jobs that need no new files run. So are
    rules of completeness that cannot be used: events are taken, and their studies wait. So is a Redis that evicts keys
    when it is full, instead of refusing to take more.
    """
    readiness = parts().readiness
    checks = readiness.checks()
    wrong = [f"{name} {state}" for name, state in checks.items() if state != OK]
    if not wrong:
        room = {"data": LOW} if parts().room.is_low() else {}
        return Ready(checks=checks, warnings=room | readiness.warnings())
    problem = Problem(
        title="The scheduler is not ready",
        status=503,
        checks=checks,
        detail=f"{' and '.join(wrong)}; the scheduler's log says why",
    )
    return respond(problem, {"Retry-After": str(RETRY_AFTER)})
