"""A whole rehearsal: some services, all studies of some folders, or the tiny ones that we draw."""

import contextlib
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from dcm_processor import phantoms
from dcm_processor.dicomfiles import Refusal
from dcm_processor.errors import ManifestError, UsageError
from dcm_processor.manifest import Defaults, Fault
from dcm_processor.rehearsal.bench import Bench, Display, Rehearsed
from dcm_processor.rehearsal.sources import read_source
from dcm_processor.rehearsal.studies import Studies, studies_in
from dcm_processor.settings import Settings


@dataclass(frozen=True)
class Request:
    """What is to be rehearsed: source folders of services (`name`: of the first), and DICOM; none: the tiny studies.

    `results`: a folder that is empty or not there, for what jobs leave; None: it goes at the end.
    """

    services: Sequence[Path]
    dicom: Sequence[Path] = ()
    name: str | None = None
    results: Path | None = None


@dataclass
class Rehearsal:
    """What is ready to run, with what is odd about it."""

    studies: Studies
    warnings: list[Fault]
    _bench: Bench = field(repr=False)

    @property
    def rejected(self) -> Sequence[Refusal]:
        return self.studies.rejected

    def __iter__(self) -> Iterator[Rehearsed]:
        """Each study, once it has been run."""
        return map(self._bench.rehearse, self.studies.found)


@contextlib.contextmanager
def rehearsal(
    request: Request, settings: Settings, display: Display | None = None, on_file: Callable[[], None] = lambda: None
) -> Iterator[Rehearsal]:
    """Make everything ready; nothing but the results is left at the end.

    Raises UsageError, ServiceError and ManifestError for services that cannot be installed, and what `studies_in`
    raises; OSError where the disk fails.
    """
    results = request.results
    if results is not None and results.exists() and (not results.is_dir() or any(results.iterdir())):
        raise UsageError(f"{results} is there and not empty; name another folder, or clear it")
    defaults = Defaults(settings.DEFAULT_LEVEL, settings.DEFAULT_PRIORITY, settings.QUEUES)
    names = [request.name, *([None] * len(request.services))]
    sources = [read_source(path, defaults, name) for path, name in zip(request.services, names, strict=False)]
    if len({source.name for source in sources}) < len(sources):
        raise ManifestError("two of the folders are services of one name; `service validate` says which")
    with contextlib.ExitStack() as stack:
        bench = stack.enter_context(Bench(settings, display or Display(), results and results.absolute()))
        warnings = bench.install({source.name: source.path for source in sources})
        dicom = list(request.dicom)
        if not dicom:
            dicom = [Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="dcm-processor-")))]
            phantoms.make_tiny(dicom[0])
        yield Rehearsal(studies_in(dicom, on_file), warnings, bench)
