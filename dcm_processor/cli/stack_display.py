"""What `dcm-processor stack` shows: progress while it starts, then what runs where."""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from dcm_processor.local.health import Address
from dcm_processor.local.stack import Up
from dcm_processor.local.state import State
from dcm_processor.local.supervisor import Status
from dcm_processor.settings import CHECKOUT, Settings


class Progress:
    """Each part of the stack as it comes up: a live list on a terminal, else a line when it answers."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live = Live(console=console, refresh_per_second=10, transient=True)
        self._began = time.monotonic()
        self._answered: set[str] = set()

    def __call__(self, parts: Mapping[str, str | None]) -> None:
        if self._console.is_terminal:
            self._live.update(_parts(parts))
            return
        for name, lack in parts.items():
            if lack is None and name not in self._answered:
                self._answered.add(name)
                self._console.print(f"{name} answers ({time.monotonic() - self._began:.1f} s)", highlight=False)

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()


def _parts(parts: Mapping[str, str | None]) -> RenderableType:
    rows = Table.grid(padding=(0, 1))
    for name, lack in parts.items():
        rows.add_row(
            Spinner("dots") if lack else Text("✓", "green"), name, Text(lack or "", "dim", overflow="ellipsis")
        )
    return rows


def summary(settings: Settings, up: Up) -> RenderableType:
    """What runs where, where the passwords are, what may surprise, what to do next."""
    return Group(_places(settings, up.state), *(Text(note, "yellow") for note in _notes(settings, up)), _next_steps())


def programs(state: State, found: Sequence[Status]) -> RenderableType:
    """The programs and what supervisord says of each."""
    table = Table(title=f"local mode, started {state.startedAt}", title_justify="left", title_style="bold")
    for column in ("program", "state", "process", "since"):
        table.add_column(column)
    for program in found:
        since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(program.started)) if program.pid else ""
        table.add_row(program.name, program.state.lower(), str(program.pid or ""), since)
    return table


def _places(settings: Settings, state: State) -> Table:
    workers = f"{state.scale} worker" + "s" * (state.scale != 1)
    table = Table(title=f"dcm-processor runs on this machine, {workers}", title_justify="left", title_style="bold")
    for column in ("", "where", "log in"):
        table.add_column(column, overflow="fold")
    ports = state.ports
    secrets = settings.BASEDIR / "secrets"
    admin = f"admin, password in {_shown(secrets / 'orthanc_admin_password')}"
    if "DICOM_PORT" in ports:
        table.add_row(
            "DICOM", f"port {ports['DICOM_PORT']}, AET {settings.DICOM_AET}", f"stable after {state.stableAge} s"
        )
        table.add_row("Orthanc", str(Address("127.0.0.1", ports["ORTHANC_PORT"])), admin)
    else:
        table.add_row("Orthanc", f"{settings.orthanc_url} (not ours)", settings.ORTHANC_REST_USERNAME)
    dashboard = Address(settings.BIND_ADDRESS, ports["DASHBOARD_PORT"])
    table.add_row("Dashboard", str(dashboard), f"admin, password in {_shown(secrets / 'dashboard_password')}")
    scheduler = Address("127.0.0.1", ports["SCHEDULER_PORT"])
    table.add_row("Scheduler", f"{scheduler}/api/v1", f"token in {_shown(secrets / 'scheduler_token')}")
    if "REDIS_PORT" in ports:
        table.add_row("Redis", f"127.0.0.1:{ports['REDIS_PORT']}", f"password in {_shown(secrets / 'redis_password')}")
    table.add_row("Results", _shown(settings.data / "results"), "")
    table.add_row("Logs", _shown(settings.logs), "")
    return table


def _notes(settings: Settings, up: Up) -> list[str]:
    notes = []
    if "DICOM_PORT" in up.state.ports:
        notes.append(
            "DICOM is taken in on every address of this machine: a local Orthanc cannot bind "
            f"DICOM_BIND_ADDRESS={settings.DICOM_BIND_ADDRESS}. Unknown nodes may store, never query or fetch."
        )
    if up.known:
        notes.append(
            f"{up.known} studies were in Orthanc before the platform met it; they are known and not processed. "
            "`dcm-processor study list --state known` lists them, `dcm-processor study rerun STUDY` processes one."
        )
    if up.changed:
        notes.append(
            f"Changed since the start and not in force: {', '.join(up.changed)}. "
            "`bash run.sh --local --down` and a new start bring it."
        )
    return notes


def _next_steps() -> Table:
    table = Table.grid(padding=(0, 3))
    for command, what in (
        ("bash init.sh", "install the base services"),
        ("bash service.sh install NAME -p PATH", "install a service of yours"),
        (f"{_shown(CHECKOUT / '.venv' / 'bin' / 'dcm-processor')} send PATH", "send DICOM files"),
        ("bash run.sh --local --down", "stop"),
    ):
        table.add_row(f"  {command}", Text(what, "dim"))
    return table


def _shown(path: Path) -> str:
    """Relative to where the user stands, if it is below."""
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)
