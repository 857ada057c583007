"""What the API answers, field by field. The OpenAPI document is made from these, and every answer goes through them."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

from dcm_processor.plan import ReadFound, ReadPlace
from dcm_processor.vocabulary import (
    AttemptState,
    EventKind,
    ExitReason,
    JobState,
    Level,
    Stage,
    StudyState,
    Verdict,
)

Moment = Annotated[str, Field(json_schema_extra={"format": "date-time"})]


class Answer(BaseModel):
    """Base of all answers: camelCase outside, frozen inside."""

    model_config = ConfigDict(
        alias_generator=to_camel,
        validate_by_name=True,
        validate_by_alias=True,
        serialize_by_alias=True,
        frozen=True,
        hide_input_in_errors=True,  # an error's text goes into the log, where no element's value belongs
    )


# -- studies


class NamedResult(Answer):
    """A number, a bool or a text that a job found."""

    name: str = Field(description="Its name in the job's own words.")
    value: bool | int | float | str = Field(description="What was found.")
    unit: str | None = Field(description="The unit of a number, for people.")


class Progress(Answer):
    """How far a running job says it is."""

    fraction: float = Field(description="From 0 to 1.")
    text: str = Field(description="What it does, in its own words; may be empty.")
    at: Moment = Field(description="When it said so.")


class Attempt(Answer):
    """One try at a job."""

    attempt_id: str = Field(description="`<jobId>-<attempt>`; also the id of the RQ job.")
    attempt: int = Field(description="The attempt's number; they count from 1.")
    state: AttemptState = Field(description="Where the attempt stands.")
    queued_at: Moment = Field(description="When it was enqueued.")
    started_at: Moment | None = Field(description="When a worker began it.")
    ended_at: Moment | None = Field(description="When it ended.")
    worker: str | None = Field(description="The worker that ran it.")
    host: str | None = Field(description="The machine that ran it.")
    exit_reason: ExitReason | None = Field(description="Why it ended.")
    error: str | None = Field(description="What went wrong, in one line.")
    traceback: str | None = Field(description="The traceback of what the worker function raised.")
    phases: dict[str, list[Moment]] = Field(
        description="`module`, `environment`, `fetch`, `run` …: begin and end of each."
    )
    details: dict[str, Any] = Field(
        description="`exitStatus`, `signal`, `environment`; `peakMemory` and `logSize` in bytes."
    )
    results: list[NamedResult] = Field(
        description="What the job named, however the attempt ended; in a study or a list of jobs the first 100."
    )
    progress: Progress | None = Field(description="How far it is, of an attempt that runs and says so; else null.")


class Job(Answer):
    """One job of one plan: what was decided about it, and how it went."""

    job_id: str = Field(description="The job's identifier.")
    plan_id: str = Field(description="The plan it belongs to.")
    study_id: str = Field(description="Orthanc's identifier of the study.")
    series_id: str | None = Field(description="Orthanc's identifier of the series; null for a study job.")
    job_name: str = Field(description="The job's name in its service's settings.json.")
    service: str = Field(description="The service it comes from.")
    version: str = Field(description="The digest of the service's version the plan pinned.")
    verdict: Verdict = Field(description="What the plan decided.")
    reason: str | None = Field(description="Why the verdict, or the state, is what it is.")
    state: JobState | None = Field(description="Where the job stands; null where the plan did not schedule it.")
    stage: Stage = Field(description="When in the plan it may run.")
    level: Level = Field(description="What it is about.")
    queue: str | None = Field(description="The queue its attempts go through.")
    position: int = Field(description="Its place in the plan.")
    depends_on: list[str] = Field(description="jobIds of the scheduled jobs it waits for.")
    injected: dict[str, Any] = Field(description="What its callback returned beside the bool.")
    traceback: str | None = Field(description="The traceback of a callback that raised.")
    callback_output: str | None = Field(description="What its callback printed.")
    reused_from: str | None = Field(description="jobId of the earlier job whose result stands for this one's.")
    attempt: int = Field(description="The number of the current attempt; 0 before the first.")
    due_at: Moment | None = Field(description="When a retrying job's next attempt is due.")
    created_at: Moment = Field(description="When it was planned; one that was reused may have begun and ended before.")
    started_at: Moment | None = Field(description="When its first attempt began; of one that was reused, that one's.")
    ended_at: Moment | None = Field(description="When it ended; of one that was reused, when that one ended.")
    attempts: list[Attempt] = Field(description="Its attempts, in order.")


class Plan(Answer):
    """What was decided about a study at one moment."""

    plan_id: str = Field(description="`<studyId>-<revision>-<run>`.")
    revision: str = Field(description="Digest of the study's instances as they were.")
    run: int = Field(description="How often this revision has been planned; counts from 1.")
    reason: str | None = Field(description="Why there is this plan.")
    active: bool = Field(description="Whether it is the study's active plan.")
    created_at: Moment = Field(description="When it was made.")
    ended_at: Moment | None = Field(description="When its last job ended, or a later plan took over.")
    faults: list[Any] = Field(description="Services that could not be asked, with why.")
    series_ids: list[str] = Field(description="Orthanc's identifiers of the series it covers.")
    number_of_instances: int = Field(description="How many instances it covers.")
    jobs: list[Job] = Field(description="Every job of every service, in plan order.")


class Event(Answer):
    """One reason to look at a study."""

    event_id: int = Field(description="The event's number.")
    kind: EventKind = Field(description="Where it came from.")
    received_at: Moment = Field(description="When the ledger had it.")
    handled_at: Moment | None = Field(description="When it had been dealt with.")
    failures: int = Field(description="How often dealing with it failed.")
    result: str | None = Field(description="What came of it.")


class Happening(Answer):
    """One thing that happened to a study."""

    at: Moment = Field(description="When.")
    what: str = Field(
        description="`received`, `held`, `grown`, `changed`, `planned`, `ended`; or an event's kind, such as `rerun`."
    )
    text: str = Field(description="What happened and why, for people.")
    plan_id: str | None = Field(description="The plan it is about.")


class StudySummary(Answer):
    """A study, and where it stands."""

    study_id: str = Field(description="Orthanc's identifier of the study.")
    state: StudyState = Field(description="Where it stands.")
    reason: str | None = Field(description="Why it stands there.")
    first_seen_at: Moment = Field(description="When the ledger first heard of it.")
    changed_at: Moment = Field(description="When its state last changed.")
    unplanned: str | None = Field(
        description="Why what it holds now has no plan: it was given up, or is held back. Null: it has one, or will."
    )
    hold_until: Moment | None = Field(
        description="When it is planned as it is, of one that is held back until it is complete; else null."
    )
    study_instance_uid: str | None = Field(alias="studyInstanceUID", description="StudyInstanceUID (0020,000D).")
    study_date: str | None = Field(description="StudyDate (0008,0020), YYYYMMDD.")
    modalities: list[str] = Field(description="The Modality (0008,0060) of each kind of series.")
    description: str | None = Field(description="StudyDescription (0008,1030).")
    active_plan_id: str | None = Field(description="The plan that counts; null before the first.")
    jobs: dict[str, int] = Field(
        description="How many of the active plan's scheduled jobs stand in which state, and how many `errored`."
    )


class StudyPage(Answer):
    """Studies, newest first."""

    items: list[StudySummary] = Field(description="The studies.")
    next_cursor: str | None = Field(description="`cursor` of the next page; null on the last.")


class Study(StudySummary):
    """A study with all that was decided and done about it."""

    plans: list[Plan] = Field(description="Its plans, newest first.")
    events: list[Event] = Field(description="Why it was looked at, newest first, 50 at most.")
    history: list[Happening] = Field(description="What happened to it, oldest first; of events, the newest 50.")


class JobPage(Answer):
    """Jobs, newest first."""

    items: list[Job] = Field(description="The jobs.")
    next_cursor: str | None = Field(description="`cursor` of the next page; null on the last.")


# -- results


class Result(Answer):
    """An attempt that ended, what it is about, and what its job named. Its files: `/results/<studyId>/<jobName>`."""

    attempt_id: str = Field(description="The attempt.")
    job_id: str = Field(description="The job.")
    study_id: str = Field(description="Orthanc's identifier of the study.")
    series_id: str | None = Field(description="Orthanc's identifier of the series; null for a study job.")
    job_name: str = Field(description="The job's name in its service's settings.json.")
    service: str = Field(description="The service it comes from.")
    version: str = Field(description="The digest of the service's version.")
    attempt: int = Field(description="The attempt's number.")
    state: AttemptState = Field(description="How the attempt ended; only `finished` ones count.")
    ended_at: Moment = Field(description="When it ended.")
    patient_id: str | None = Field(alias="PatientID", description="PatientID (0010,0020).")
    study_instance_uid: str | None = Field(alias="StudyInstanceUID", description="StudyInstanceUID (0020,000D).")
    study_date: str | None = Field(alias="StudyDate", description="StudyDate (0008,0020), YYYYMMDD.")
    study_description: str | None = Field(alias="StudyDescription", description="StudyDescription (0008,1030).")
    series_instance_uid: str | None = Field(
        alias="SeriesInstanceUID", description="SeriesInstanceUID (0020,000E) of a series job; else null."
    )
    series_number: str | None = Field(alias="SeriesNumber", description="SeriesNumber (0020,0011), likewise.")
    series_description: str | None = Field(
        alias="SeriesDescription", description="SeriesDescription (0008,103E), likewise."
    )
    modality: str | None = Field(alias="Modality", description="Modality (0008,0060), likewise.")
    results: list[NamedResult] = Field(description="What the job named, in its order.")


class ResultPage(Answer):
    """Attempts with their named results, newest job first."""

    items: list[Result] = Field(description="The attempts.")
    next_cursor: str | None = Field(description="`cursor` of the next page; null on the last.")


# -- what was asked for and will be done


class Accepted(Answer):
    """The ledger has it; the controller will act on it."""

    status: Literal["accepted"] = Field(default="accepted", description="Always `accepted`.")
    study_id: str = Field(description="Orthanc's identifier of the study.")
    event_id: int = Field(description="The event's number; the study shows what comes of it.")


class AcceptedJobs(Accepted):
    """The ledger has it, for these jobs of one study."""

    job_ids: list[str] = Field(description="The jobs it is about.")


class RefusedJob(Answer):
    """A job nothing will be done about."""

    job_id: str = Field(description="The job as it was named.")
    status: int = Field(description="The status the same request for this job alone would get.")
    reason: str = Field(description="Why.")


class BulkAccepted(Answer):
    """What was accepted, and what was not."""

    accepted: list[AcceptedJobs] = Field(description="One entry a study.")
    refused: list[RefusedJob] = Field(description="Jobs nothing will be done about, with why.")


# -- the plan a study would get


class Dependency(Answer):
    """A job of the same plan that another one waits for."""

    job_name: str = Field(description="Its name.")
    series_id: str | None = Field(description="Orthanc's identifier of the series; null for a study job.")


class Read(Answer):
    """A look that a callback took at its headers; best effort, and without the value."""

    keyword: str = Field(description="What it read; `*`: it went through all there is.")
    place: ReadPlace = Field(description="`top`, or `series`: in the entries of `series`.")
    found: ReadFound = Field(
        description="`present`; `absent` in this study; `notSelected` by HEADER_FIELDS; `differs`: series have it and "
        "do not agree, so that it is not at the top; `unknown`: no DICOM keyword."
    )


class ExplainedJob(Answer):
    """One job of the plan a study would get."""

    job_name: str = Field(description="The job's name in its service's settings.json.")
    series_id: str | None = Field(description="Orthanc's identifier of the series; null for a study job.")
    service: str = Field(description="The service it comes from.")
    version: str = Field(description="The digest of the service's version.")
    verdict: Verdict = Field(description="What the plan would decide.")
    reason: str | None = Field(description="Why.")
    stage: Stage = Field(description="When in the plan it would run.")
    level: Level = Field(description="What it is about.")
    queue: str = Field(description="The queue its attempts would go through.")
    position: int = Field(description="Its place in the plan.")
    depends_on: list[str] = Field(description="The names its settings.json says it depends on.")
    dependencies: list[Dependency] = Field(description="The scheduled jobs it would wait for.")
    applies: bool | None = Field(description="What its callback returned; null: it was not asked, or failed.")
    injected: dict[str, Any] = Field(description="What its callback returned beside the bool.")
    traceback: str | None = Field(description="The traceback of a callback that raised.")
    callback_output: str | None = Field(description="What its callback printed.")
    reads: list[Read] | None = Field(
        description="What its callback read of the headers, in order, each once; null: it was not recorded."
    )


class Explained(Answer):
    """The plan a study would get now."""

    study_id: str = Field(description="Orthanc's identifier of the study.")
    ending: Literal["planned", "held", "ours", "failed"] = Field(
        description="`planned`; `held`: it would be held back, and this is the plan it would get all the same; or no "
        "plan: `ours`, since the platform itself stored all the study holds, or `failed`."
    )
    reason: str = Field(description="Why there would be no plan, or not yet; empty where there would be one.")
    revision: str = Field(description="Digest of the study's instances; empty where there would be no plan.")
    series_ids: list[str] = Field(description="Orthanc's identifiers of the series it covers.")
    number_of_instances: int = Field(description="How many instances it covers.")
    jobs: list[ExplainedJob] = Field(description="Every job of every service, in plan order.")
    faults: list[str] = Field(description="What is wrong with services; their faulty jobs are in no plan.")


class KeptHeaders(Answer):
    """What callbacks were asked about for a study's newest plan."""

    study_id: str = Field(description="Orthanc's identifier of the study.")
    plan_id: str = Field(description="The plan.")
    planned_at: Moment = Field(description="When it was made.")
    selected: list[str] = Field(description="HEADER_FIELDS as they were.")
    headers: dict[str, Any] = Field(description="The headers, as callbacks get them (docs/services.md).")


class HeadersPage(Answer):
    """Kept headers, newest first."""

    items: list[KeptHeaders] = Field(description="Each study's.")
    next_cursor: str | None = Field(description="`cursor` of the next page; null on the last.")


# -- services and queues


class ServiceJob(Answer):
    """A job a service offers."""

    job_name: str = Field(description="Its name, unique over all services.")
    description: str = Field(description="What it does, in its author's words.")
    level: Level = Field(description="One a study, or one a series.")
    stage: Stage = Field(description="When in a plan it runs.")
    priority: str = Field(description="The queue its attempts go through.")
    depends_on: list[str] = Field(description="The jobs it waits for; `*` is every one before it.")
    timeout: float = Field(description="How long its function may take, in seconds.")
    disabled: bool = Field(description="Whether it is switched off.")


class Environment(Answer):
    """The environment a service's jobs run in, as this host has it."""

    state: Literal["none", "building", "ready", "failed", "unknown"] = Field(
        description="`none`: nobody has tried to build it here yet; `unknown`: its requirements cannot be read."
    )
    key: str | None = Field(description="Its name below BASEDIR/envs, and in attempts' `details`.")
    reason: str | None = Field(description="Why it could not be built.")


class Origin(Answer):
    """Where a version of a service came from."""

    source: str = Field(description="The folder, archive or repository, as it can be asked for again.")
    ref: str | None = Field(description="What of a repository was asked for; null: its default branch.")
    commit: str | None = Field(description="What that was when it was installed.")
    at: str = Field(description="When it was installed from there.")
    by: str = Field(description="The version of dcm-processor that installed it.")


class Service(Answer):
    """An installed service."""

    name: str = Field(description="Its name.")
    version: str | None = Field(description="The digest of the version that new plans take; null: there is none.")
    installed_at: Moment | None = Field(description="When that version was made the current one.")
    origin: Origin | None = Field(description="Where that version came from; null: nobody put it down.")
    enabled: bool = Field(description="Whether it is asked for new plans.")
    disabled_since: Moment | None = Field(description="Since when it is asked for no new plan; null: it is asked.")
    versions: list[str] = Field(description="Digests of all versions that are kept, newest first.")
    jobs: list[ServiceJob] = Field(description="The jobs it offers.")
    faults: list[str] = Field(description="What is wrong with it; its faulty jobs are in no plan.")
    environment: Environment | None = Field(description="The environment its jobs run in.")


class Services(Answer):
    """The installed services, by name."""

    items: list[Service] = Field(description="The services.")


class Queue(Answer):
    """A queue of attempts that may run now."""

    name: str = Field(description="Its name.")
    length: int = Field(description="How many attempts wait in it.")
    paused: bool = Field(description="Whether workers leave it alone.")


class Queues(Answer):
    """The queues, in order of priority."""

    items: list[Queue] = Field(description="The queues.")


# -- exchange


class Received(Answer):
    """An attempt's output is here."""

    attempt_id: str = Field(description="The attempt.")
    entries: int = Field(description="How many files, folders and symlinks came.")
    size: int = Field(description="How many bytes the files have together.")


# -- health


class Live(Answer):
    """The process answers."""

    status: Literal["live"] = Field(default="live", description="Always `live`.")


class Ready(Answer):
    """The scheduler can do its work."""

    status: Literal["ready"] = Field(default="ready", description="Always `ready`.")
    checks: dict[str, str] = Field(description="`ledger`, `redis`: `ok`.")
    warnings: dict[str, str] = Field(
        description="What will be trouble, though all goes on: `data` where its disk is full, `completeness` where its "
        "rules cannot be used, `redis` where it evicts keys."
    )
