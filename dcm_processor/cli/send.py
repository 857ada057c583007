"""`dcm-processor send`: what a scanner does, from files, folders and zip archives."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from dcm_processor import scanner
from dcm_processor.cli.context import settings
from dcm_processor.cli.output import json_option, printable, show_json
from dcm_processor.dicomfiles import DicomFile, Found, Refusal, find_dicom
from dcm_processor.errors import PermanentError
from dcm_processor.scanner import Delivery, Peer

_NAMED = 5
"""Files that are named for each reason; a folder of 10,000 wrong files has one reason."""


class AeTitle(click.ParamType[str]):
    """An application entity title (PS3.5 6.2, VR AE)."""

    name = "AET"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> str:
        title = str(value).strip()
        if not 1 <= len(title) <= 16 or not title.isascii() or not title.isprintable() or "\\" in title:
            self.fail("an AE title has 1 to 16 ASCII characters and no backslash", param, ctx)
        return title


@click.command("send")
@click.argument("paths", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--host", help="Where the peer is; without it our Orthanc.")
@click.option("--port", type=click.IntRange(1, 65535), help="Its port; without it DICOM_PORT.")
@click.option("--called", type=AeTitle(), help="Its AE title; without it DICOM_AET.")
@click.option("--aet", type=AeTitle(), default="DCMSEND", show_default=True, help="Our own AE title.")
@json_option
def send(
    paths: Sequence[Path], host: str | None, port: int | None, called: str | None, aet: str, *, as_json: bool
) -> None:
    """Send DICOM files, folders and zip archives to Orthanc or another peer by C-STORE.

    Folders are searched at any depth; what is no DICOM there is left out and said. Nothing is changed or converted on
    the way: each file is offered in the transfer syntax it has.

    Exit status 1 where a file was rejected: refused by the peer, damaged, unreadable, or named by you and no DICOM.

    \b
    Examples:
      dcm-processor send study.zip
      dcm-processor send scans/2024 --host pacs.example.org --port 104 --called PACS
    """
    peer = Peer(
        host=host or settings().dicom_address[0],
        port=port or settings().dicom_address[1],
        called=called or settings().DICOM_AET,
        calling=aet,
    )
    with _Shown(Console(stderr=True)) as shown:
        found = find_dicom(paths, shown.looked_at)
        shown.sending(len(found.files), peer)
        delivery = scanner.send(found.files, peer, shown.dealt_with)
    rejected = [*found.rejected, *delivery.rejected]
    if as_json:
        show_json(_document(peer, found, delivery, rejected))
    else:
        _report(peer, found, delivery, rejected)
    if not found.files and not rejected:
        raise PermanentError("nothing was sent: there is no DICOM file in what you named")
    raise SystemExit(1 if rejected else 0)


class _Shown:
    """Progress on a terminal, nothing but a line before it takes long where there is none."""

    def __init__(self, console: Console) -> None:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        self._progress = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
        self._task = self._progress.add_task("looking through the files", total=None)

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, _kind: type[BaseException] | None, _error: object, _traceback: TracebackType | None) -> None:
        self._progress.stop()

    def looked_at(self) -> None:
        """Another file was found."""
        self._progress.advance(self._task)

    def sending(self, number: int, peer: Peer) -> None:
        """All files are found."""
        self._progress.reset(self._task, total=number, description=f"sending to {peer}")

    def dealt_with(self, _file: DicomFile, _why: str | None) -> None:
        """An instance was sent or rejected."""
        self._progress.advance(self._task)


def _report(peer: Peer, found: Found, delivery: Delivery, rejected: Sequence[Refusal]) -> None:
    _list("left out", found.left_out, dim=True)
    _list("rejected", rejected, fg="red")
    if found.files or rejected:
        left_out = f", {len(found.left_out)} left out" if found.left_out else ""
        click.echo(f"{delivery.sent} sent to {peer}, {len(rejected)} rejected{left_out}")


def _list(what: str, refusals: Iterable[Refusal], **style: Any) -> None:
    """Each reason once, with the first files it holds for."""
    by_reason: dict[str, list[str]] = defaultdict(list)
    for refusal in refusals:
        by_reason[refusal.reason].append(refusal.name)
    for reason, names in by_reason.items():
        for name in names[:_NAMED]:
            click.secho(f"{what}: {printable(name)}: {reason}", err=True, **style)
        if len(names) > _NAMED:
            click.secho(f"{what}: {len(names) - _NAMED} more: {reason}", err=True, **style)


def _document(peer: Peer, found: Found, delivery: Delivery, rejected: Sequence[Refusal]) -> dict[str, object]:
    return {
        "peer": {"host": peer.host, "port": peer.port, "called": peer.called, "calling": peer.calling},
        "sent": delivery.sent,
        "associations": delivery.associations,
        "rejected": [{"file": refusal.name, "reason": refusal.reason} for refusal in rejected],
        "leftOut": [{"file": refusal.name, "reason": refusal.reason} for refusal in found.left_out],
    }
