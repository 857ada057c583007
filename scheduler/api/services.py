"""Services: what is installed, in which versions, and whether it is in order."""

from flask import Blueprint

from dcm_processor.environments.environment_state import least, states_of
from dcm_processor.installed import InstalledService
from dcm_processor.ledger.views import when
from scheduler.api.models import Environment, Origin, Service, ServiceJob, Services
from scheduler.api.operation import operation
from scheduler.parts import parts

services = Blueprint("services", __name__)


@services.get("/services")
@operation("List services", answer=Services)
def list_services() -> Services:
    """The installed services, by name: versions, jobs, faults, and the environment their jobs run in."""
    return Services(items=[_service(installed) for installed in parts().store.services()])


def _service(installed: InstalledService) -> Service:
    environment = None
    if installed.digest:
        module = parts().store.module_folder(installed.name, installed.digest)
        if (state := least(states_of(parts().settings, module, installed.digest, installed.pythons))) is not None:
            environment = Environment(state=state.state, key=state.key, reason=state.reason)
    return Service(
        name=installed.name,
        version=installed.digest or None,
        installed_at=when(installed.installed_at),
        origin=Origin.model_validate(installed.origin, from_attributes=True) if installed.origin else None,
        enabled=installed.disabled_since is None,
        disabled_since=when(installed.disabled_since),
        versions=list(installed.versions),
        jobs=[ServiceJob.model_validate(job, from_attributes=True) for job in installed.jobs],
        faults=[str(fault) for fault in installed.faults],
        environment=environment,
    )
