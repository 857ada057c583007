"""What `dcm-processor demo` shows: jobs live on a terminal, elsewhere a line at each change; then what came of it."""

import itertools
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from dcm_processor.cli.output import printable
from dcm_processor.demo import Row

_STYLES = {
    "finished": "green",
    "started": "yellow",
    "failed": "bold red",
    "errored": "bold red",
    "unplanned": "bold red",
    "cancelled": "red",
    "skipped": "magenta",
    "declined": "dim",
    "disabled": "dim",
}


class Watched:
    """Steps and jobs as they go on."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live = Live(console=console, refresh_per_second=8, transient=True)
        self._began = time.monotonic()
        self._said: dict[tuple[str, str, str], tuple[str, int, str]] = {}

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, _kind: type[BaseException] | None, _error: object, _traceback: TracebackType | None) -> None:
        self._live.stop()

    @property
    def seconds(self) -> float:
        """Since it began."""
        return time.monotonic() - self._began

    def step(self, what: str) -> None:
        """Something of the demo itself was done."""
        self._console.print(Text(f"{self.seconds:5.1f} s  {printable(what)}"))

    def doing(self, what: str) -> None:
        """Something takes a moment."""
        if self._console.is_terminal:
            self._live.update(Spinner("dots", Text(what)))

    def counting(self, what: str) -> Callable[[], None]:
        """Something goes on in single steps; the answer is to be called at each."""
        self.doing(what)
        count = itertools.count(1)
        return lambda: self.doing(f"{what}: {next(count)}")

    def rows(self, rows: Sequence[Row]) -> None:
        """Another look at the jobs."""
        if self._console.is_terminal:
            self._live.update(Group(table(rows), Spinner("dots", Text(f"{self.seconds:.0f} s", "dim"))))
            return
        for row in rows:
            what, how = (row.study, row.job, row.series), (row.state, row.attempt, row.reason)
            if self._said.get(what) != how:
                self._said[what] = how
                attempt = f"attempt {row.attempt}" if row.attempt > 1 else ""
                self.step("  ".join(filter(None, (*what, row.state, attempt, row.reason))))


def table(rows: Sequence[Row]) -> Table:
    """The jobs, one a line; a study's name stands at its first."""
    shown = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for column in ("study", "job", "series", "state"):
        shown.add_column(column, no_wrap=True)
    for column in ("attempt", "time"):
        shown.add_column(column, justify="right", no_wrap=True)
    shown.add_column("reason", overflow="fold")
    last = ""
    for row in rows:
        shown.add_row(
            row.study if row.study != last else "",
            Text(row.job),
            Text(printable(row.series)),
            Text(row.state, _STYLES.get(row.state, "")),
            str(row.attempt or ""),
            f"{row.seconds:.1f} s" if row.seconds is not None else "",
            Text(printable(row.progress or row.reason), "dim"),
        )
        last = row.study
    return shown


def outputs(folder: Path, results: Mapping[str, Sequence[Path]], limit: int = 20) -> Text:
    """The files that jobs left, with their sizes; `results` maps sub-folders of `folder` to what is in them."""
    shown = heading(f"outputs, in {near(folder)}")
    for name, files in results.items():
        shown.append(f"\n  {name}/", "bold dim")
        for file in files[:limit]:
            shown.append(
                f"\n  {size(file.stat().st_size):>8}  {printable(file.relative_to(folder / name))}", "not bold"
            )
        if len(files) > limit:
            shown.append(f"\n            and {len(files) - limit} more", "not bold")
    return shown


def log(name: str, text: str, lines: int) -> Text:
    """The end of a job's log."""
    tail = printable("\n".join(f"  {line}" for line in text.splitlines()[-lines:]))
    return heading(f"the end of the log of {name}").append(f"\n{tail}", "not bold")


def pages(entries: Sequence[tuple[str, str, str]]) -> RenderableType:
    """Where to look on: what, address, how to log in."""
    shown = Table.grid(padding=(0, 2, 0, 0))
    for what, address, login in entries:
        shown.add_row(f"  {what}", address, Text(login, "dim"))
    return Group(heading("pages"), shown)


def heading(text: str) -> Text:
    """One line above something."""
    return Text(f"\n{text}", "bold")


def size(number: int) -> str:
    """Bytes for people."""
    return f"{number} B" if number < 1000 else f"{number / 1000:.0f} kB" if number < 1e6 else f"{number / 1e6:.1f} MB"


def near(path: Path) -> str:
    """Relative to where the user stands, if it is below."""
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)
