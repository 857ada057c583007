"""What `service install` shows while requirements are locked, and while workers build the environments."""

import contextlib
import os
import sys
import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass

import click
from rich.console import Console
from rich.text import Text

from dcm_processor.cli.output import printable
from dcm_processor.environments.build_network import of_build
from dcm_processor.environments.environment_state import (
    BUILDERS,
    EnvironmentState,
    Failed,
    held,
    least,
    states_of,
    tail_of,
)
from dcm_processor.environments.uv_program import find_python
from dcm_processor.errors import ServiceError
from dcm_processor.settings import Settings
from dcm_processor.store import Store

wait_option = click.option(
    "--wait/--no-wait",
    "wait",
    default=None,
    help="Wait until a worker of this host has built the environment; on a terminal that is so unless told otherwise.",
)
_LOOK_SECONDS = 0.3
_BEGIN_SECONDS = 60.0
"""Workers look every few seconds, and build one environment after the other."""


@dataclass(frozen=True)
class ServiceEnvironment:
    """How the environments of a service stand; `states` has one for each Python that its jobs call for."""

    service: str
    states: tuple[EnvironmentState, ...]

    @property
    def state(self) -> EnvironmentState | None:
        return least(self.states)


def environments_of(settings: Settings, store: Store, names: Collection[str]) -> list[ServiceEnvironment]:
    """How the environments stand of the current versions of services."""
    found = []
    for service in store.services():
        if service.name in names and service.digest:
            module = store.module_folder(service.name, service.digest)
            states = states_of(settings, module, service.digest, service.pythons)
            found.append(ServiceEnvironment(service.name, tuple(states)))
    return found


def see_to_environments(settings: Settings, store: Store, names: Collection[str], *, wanted: bool | None) -> None:
    """Wait for workers to build the environments of services that were installed, unless that is not `wanted`.

    None: that is for a terminal. Builds that failed before are tried again. Raises ServiceError where one fails.
    """
    found = environments_of(settings, store, names)
    for key in (state.key for each in found for state in each.states):
        if key is not None:
            Failed.forget(settings.envs, key)
    if sys.stderr.isatty() if wanted is None else wanted:
        _wait(settings, store, names)
    else:
        _warn_of_pythons(settings, store, names)


def _wait(settings: Settings, store: Store, names: Collection[str]) -> None:
    """Show how environments are built until they are.

    Where no worker of this host is there to build, it says so and waits no longer. Raises ServiceError where one fails.
    """
    began = quiet = time.monotonic()
    with progress_line() as progress:
        while True:
            found = environments_of(settings, store, names)
            pending = {each.service: each.state for each in found if each.state and each.state.state in _PENDING}
            if not pending:
                break
            now = time.monotonic()
            if any(state.state == "building" for state in pending.values()):
                quiet = now
            somebody = held(settings.envs / BUILDERS, exclusively=True)
            if not somebody or now > quiet + _BEGIN_SECONDS:
                why = (
                    "no worker has begun to"
                    if somebody
                    else "no worker runs on this host, the next that does builds it"
                )
                text = f"the environment of {', '.join(pending)} is not built yet: {why}"
                click.echo(text, err=True)
                break
            progress("; ".join(_line(settings, *each, now - began) for each in pending.items()))
            time.sleep(_LOOK_SECONDS)
    _report(settings, found)


_PENDING = ("none", "building")


def _line(settings: Settings, service: str, state: EnvironmentState, seconds: float) -> str:
    if state.state == "none":
        return f"waiting for a worker to build the environment of {service}, {seconds:.0f} s"
    said = tail_of(settings.envs / f"{state.key}.log").splitlines()
    return f"building the environment of {service}, {seconds:.0f} s" + (f": {said[-1].strip()}" if said else "")


def _report(settings: Settings, found: Collection[ServiceEnvironment]) -> None:
    """Raise ServiceError for those that cannot be built, once the end of their logs is shown."""
    faults = []
    for each in found:
        for state in (state for state in each.states if state.state in ("failed", "unknown")):
            log = settings.envs / f"{state.key}.log"
            if tail := tail_of(log):
                click.echo(f"{printable(tail)}\n(the whole log: {log})", err=True)
            faults.append(f"service {each.service} is installed, and its environment cannot be built: {state.reason}")
    if faults:
        raise ServiceError("; ".join(faults))


def _warn_of_pythons(settings: Settings, store: Store, names: Collection[str]) -> None:
    """Nobody waits for a build that would tell."""
    for service in (service for service in store.services() if service.name in names):
        for version in filter(None, service.pythons):
            try:
                find_python(version, of_build(settings, os.environ))
            except ServiceError as error:
                click.echo(f"warning: service {service.name}: {printable(error)}", err=True)


@contextlib.contextmanager
def progress_line() -> Iterator[Callable[[str], object]]:
    """A line on a terminal's stderr that says what goes on, gone at the end; elsewhere nothing is shown."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda _text: None
        return
    with console.status("") as status:
        yield lambda text: status.update(Text(printable(text)))
