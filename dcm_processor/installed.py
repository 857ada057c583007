"""What is installed, and what became of an install or a rollback."""

from dataclasses import dataclass

from dcm_processor.manifest import Fault, JobSettings
from dcm_processor.sources.origin import Origin


@dataclass(frozen=True)
class Installed:
    """What an install came to; `before` is the version that was current, None where there was none."""

    digest: str
    before: str | None
    jobs: tuple[JobSettings, ...]
    warnings: tuple[Fault, ...]

    @property
    def changed(self) -> bool:
        """Whether this version was not the current one already."""
        return self.before != self.digest


@dataclass(frozen=True)
class Rolled:
    """What a rollback came to: the version that is current now, and the one that was."""

    digest: str
    before: str
    warnings: tuple[Fault, ...]


@dataclass(frozen=True)
class InstalledService:
    """A service with its current version; `versions` are those that are here, the one that was made current last first.

    `installed_at` (when the version was made current) and `disabled_since` are in seconds since the epoch.
    """

    name: str
    digest: str
    installed_at: float
    versions: tuple[str, ...]
    jobs: tuple[JobSettings, ...]
    faults: tuple[Fault, ...]
    origin: Origin | None
    disabled_since: float | None

    @property
    def pythons(self) -> tuple[str | None, ...]:
        """The Pythons (`pythonVersion`) for which its jobs call for an environment; disabled ones call for none."""
        return tuple(dict.fromkeys(job.python_version for job in self.jobs if not job.disabled))
