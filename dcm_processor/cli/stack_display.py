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

from dcm_processor.cli.output import local_time
from dcm_processor.local.supervisor import Status
from dcm_processor.server_files import rest_is_ours_alone
from dcm_processor.settings import CHECKOUT, Settings
from dcm_processor.stack_state import State


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
                self._console.print(f"{name} answers ({time.monotonic() - self._began:.1f} s)")

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


def summary(settings: Settings, state: State, known: int, changed: Sequence[str] = ()) -> RenderableType:
    """What runs where, where the passwords are, what may surprise, what to do next.

    `known` studies were there before the platform; `changed` settings are not in force.
    """
    notes = [Text(f"\n{note}", "yellow") for note in _notes(settings, state, known, changed)]
    return Group(_places(state.as_started(settings), state), *notes, _next_steps(state))


def programs(state: State, found: Sequence[Status]) -> RenderableType:
    """The programs and what supervisord says of each."""
    table = _table("program", "state", "process", "since")
    for program in found:
        since = local_time(program.started) if program.pid else ""
        table.add_row(program.name, program.state.lower(), str(program.pid or ""), since)
    return Group(Text(f"local mode, started {local_time(state.startedAt)}", "bold"), table)


def console(*, stderr: bool = False) -> Console:
    """For people; a file or a pipe has no width of its own, and nothing is wrapped there."""
    found = Console(stderr=stderr)
    if not found.is_terminal:
        found.width = 400
    return found


def _places(settings: Settings, state: State) -> Group:
    workers = f"{state.scale} worker" + "s" * (state.scale != 1)
    table = _table("", "where", "user", "password or token")
    ports = state.ports
    if "DICOM_PORT" in ports:
        table.add_row("DICOM", f"port {ports['DICOM_PORT']}, AET {settings.DICOM_AET}", "", "")
        table.add_row("Orthanc", settings.published(ports["ORTHANC_PORT"]), "admin", "orthanc_admin_password")
    else:
        table.add_row("Orthanc, not ours", settings.orthanc_url, settings.ORTHANC_REST_USERNAME, "")
    table.add_row("Dashboard", settings.published(ports["DASHBOARD_PORT"]), "admin", "dashboard_password")
    if "SCHEDULER_PORT" in ports:
        table.add_row("API", f"http://127.0.0.1:{ports['SCHEDULER_PORT']}/api/v1", "", "scheduler_token")
    if "REDIS_PORT" in ports:
        table.add_row("Redis", f"127.0.0.1:{ports['REDIS_PORT']}", "", "redis_password")
    where = "on this machine" if state.mode == "local" else "in containers"
    return Group(
        Text(f"dcm-processor runs {where}, {workers}; a study is stable after {state.stableAge} s", "bold"),
        table,
        Text(f"\nPasswords and tokens are files in {shown_path(settings.BASEDIR / 'secrets')}"),
        Text(f"Results come into {shown_path(settings.data / 'results')}, logs are in {shown_path(settings.logs)}"),
    )


def _notes(settings: Settings, state: State, known: int, changed: Sequence[str]) -> list[str]:
    notes = []
    if "DICOM_PORT" in state.ports and state.mode == "local":
        others = "is refused to" if rest_is_ours_alone(settings) else "takes a password from"
        notes.append(
            "Orthanc listens on every address of this machine, whatever DICOM_BIND_ADDRESS and BIND_ADDRESS say: "
            "a local one cannot bind. Unknown DICOM nodes may store, never query or fetch; "
            f"REST {others} other machines."
        )
    if known:
        studies = "1 study" if known == 1 else f"{known} studies"
        notes.append(
            f"{studies} in Orthanc from before the platform met it: known, not processed. "
            f"`{_cli(state)} study list --state known` lists them, `{_cli(state)} study rerun STUDY` processes one."
        )
    if changed:
        notes.append(
            f"Changed since the start and not in force: {', '.join(changed)}; what runs has the old setting. "
            "`bash run.sh --local --down` and a new start bring the new one."
        )
    return notes


def _next_steps(state: State) -> Group:
    table = Table(box=None, padding=(0, 3, 0, 0), show_header=False)
    local = state.mode == "local"
    for command, what in (
        ("bash init.sh", "install the base services"),
        ("bash service.sh install NAME -p PATH", "install a service of yours"),
        (f"{_cli(state)} send PATH", "send DICOM files") if local else (f"{_cli(state)} study list", "see what came"),
        (f"bash run.sh {'--local ' if local else ''}--down", "stop"),
    ):
        table.add_row(f"  {command}", Text(what, "dim"))
    return Group(Text("\nNext:"), table)


def _cli(state: State) -> str:
    """How the command line is called beside this stack."""
    if state.mode == "local":
        return shown_path(CHECKOUT / ".venv" / "bin" / "dcm-processor")
    return "docker compose exec scheduler dcm-processor"


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def shown_path(path: Path) -> str:
    """Relative to where the user stands, if it is below."""
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)
