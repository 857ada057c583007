"""Every error this project raises on purpose.

    DcmProcessorError
    ├── UsageError                 the caller asked for something that cannot be (exit status 2)
    ├── PermanentError             trying again changes nothing
    │   ├── SettingsError          .env, .env.local or the environment are not usable
    │   ├── ServiceError           a service's files are not usable
    │   │   ├── ManifestError      settings.json breaks the contract
    │   │   └── SourceError        what a service is to be installed from cannot be had, or holds what it must not
    │   ├── RulesError             the rules of completeness are not usable
    │   ├── StudyGoneError         Orthanc does not (or no longer) hold the study
    │   ├── NotKnownError          there is no such study, plan, job, version or result here
    │   ├── ArchiveError           files cannot travel to another host as they are
    │   ├── LedgerError            the ledger's database cannot be used as configured
    │   └── StackError             the programs of local mode cannot be started or stopped
    └── TransientError             trying again later may succeed
        ├── OrthancUnavailableError    Orthanc does not answer, or answers with a server error
        │   └── OrthancRefusesError    Orthanc does not take the user's password, or not from this machine
        ├── PeerUnavailableError       a DICOM peer does not answer, or refuses the association
        ├── ArchiveCutError            files that come from another host ended before their end
        └── OutageError                what the platform stands on is away or full, whatever is asked of it
            ├── OrthancAwayError           Orthanc answers nothing at all (an OrthancUnavailableError too)
            ├── DataFullError              DATA has no room for a study's files, inputs or output
            ├── SchedulerUnavailableError  the scheduler does not answer a worker, or refuses its token
            ├── LedgerUnavailableError     the database is locked, full or away
            └── TransportUnavailableError  Redis does not answer, is full, or refuses otherwise

A message names what, why and what to do. It never carries a value of a DICOM element.
"""


class DcmProcessorError(Exception):
    """Root of the tree; catching it catches everything we raise on purpose."""


class UsageError(DcmProcessorError):
    """What was asked for cannot be done as it was asked."""


class PermanentError(DcmProcessorError):
    """Trying again changes nothing."""


class TransientError(DcmProcessorError):
    """Trying again later may succeed."""


class SettingsError(PermanentError):
    """The configuration is not usable; the message lists every fault."""


class ServiceError(PermanentError):
    """A service's files are not usable."""


class ManifestError(ServiceError):
    """A settings.json breaks the contract."""


class SourceError(ServiceError):
    """What a service is to be installed from cannot be had, or holds what it must not."""


class RulesError(PermanentError):
    """The rules of completeness are not usable; `faults` are all there are, the message has the first."""

    def __init__(self, *faults: str) -> None:
        more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
        super().__init__(f"{faults[0]}{more}")
        self.faults = faults


class StudyGoneError(PermanentError):
    """Orthanc does not hold the study (any more)."""


class NotKnownError(PermanentError):
    """There is no such study, plan, job, version or result here."""


class ArchiveError(PermanentError):
    """Files cannot travel to another host as they are, or what came holds what it must not."""


class LedgerError(PermanentError):
    """The ledger's database cannot be used as configured."""


class StackError(PermanentError):
    """The programs of local mode cannot be started or stopped."""


class OrthancUnavailableError(TransientError):
    """Orthanc does not answer, or answers with a server error."""


class OrthancRefusesError(OrthancUnavailableError):
    """Orthanc does not take the user's password, or not from this machine; whoever corrects it lets all go on."""


class PeerUnavailableError(TransientError):
    """A DICOM peer does not answer, or refuses the association."""


class OutageError(TransientError):
    """What the platform stands on is away or full: no fault of a job, however long it lasts."""


class OrthancAwayError(OutageError, OrthancUnavailableError):
    """Orthanc answers nothing at all, whatever it is asked."""


class DataFullError(OutageError):
    """DATA has no room for a study's files, a job's inputs or its output."""


class ArchiveCutError(TransientError):
    """Files that come from another host ended before their end."""


class SchedulerUnavailableError(OutageError):
    """The scheduler does not answer a worker, or refuses its token."""


class LedgerUnavailableError(OutageError):
    """The ledger's database is locked, full or away."""


class TransportUnavailableError(OutageError):
    """Redis does not answer, is full, or refuses otherwise."""
