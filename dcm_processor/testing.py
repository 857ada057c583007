"""For the tests of those who write services: a service run as the platform runs it, without the platform.

def test_it_measures_the_lung(tmp_path):
    for study in rehearse(SERVICE, results=tmp_path):
        [job] = study.jobs
        assert job.state == "finished", job.reason
        assert (job.folder / "volume.json").exists()
"""

from collections.abc import Sequence
from pathlib import Path

from dcm_processor.rehearsal.bench import Rehearsed
from dcm_processor.rehearsal.whole import Request, rehearsal
from dcm_processor.settings import Settings, checkout_from_environment

__all__ = ["Rehearsed", "rehearse"]


def rehearse(
    service: str | Path, *, dicom: Sequence[str | Path] = (), others: Sequence[str | Path] = (), results: str | Path
) -> tuple[Rehearsed, ...]:
    """Run the service whose source folder this is, with `others`, on all studies in `dicom`.

    Without `dicom` these are two tiny ones, a chest by CT and a head by MR, of two series with three images each.
    `results` is a folder that is empty or not there. Raises DcmProcessorError where that cannot be done; what goes
    wrong in a job is in its `state`, `reason` and `outcome`.
    """
    request = Request([*map(Path, (service, *others))], [*map(Path, dicom)], results=Path(results))
    with rehearsal(request, Settings.load(checkout_from_environment())) as ready:
        return tuple(ready)
