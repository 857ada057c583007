"""What a worker on another host gets from the scheduler and sends to it: archives over HTTP, whole or not at all."""

import errno
import random
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self, TypeVar
from urllib.parse import quote

import requests

from dcm_processor.archives.archive import BLOCK, MEDIA_TYPE, OUTPUT, VERSION, Contents, Extent, pack
from dcm_processor.archives.unpacking import unpack
from dcm_processor.errors import (
    ArchiveCutError,
    DataFullError,
    NotKnownError,
    PermanentError,
    SchedulerUnavailableError,
    SettingsError,
)
from dcm_processor.logging import get_logger
from dcm_processor.settings import Settings

T = TypeVar("T")
log = get_logger()

FETCH_PATIENCE = 30.0
"""Seconds in which a fetch is tried again; then the attempt ends, and its job is tried again later."""
_LONGEST_PAUSE = 30.0
_GET_TIMEOUT = (5.0, 60.0)  # to connect, and between two bytes
_PUT_TIMEOUT = (60.0, 600.0)  # between two bytes, and for the answer: the scheduler has it all on its disk before that
_PROBLEM = "application/problem+json"
_NOT_KNOWN = "urn:dcm-processor:problem:not-known"
_DETAIL = 500  # characters


def patiently(do: Callable[[], T], patience: float | None) -> T:
    """What `do` returns, tried again while the scheduler is away or busy: for so many seconds, or (None) for ever."""
    deadline = None if patience is None else time.monotonic() + patience
    pause, said = 0.5, ""
    while True:
        try:
            return do()
        except (SchedulerUnavailableError, ArchiveCutError) as error:
            if deadline is not None and time.monotonic() + pause > deadline:
                raise
            if str(error) != said:
                said = str(error)
                log.warning("trying again until the scheduler answers as it should", error=said)
        time.sleep(pause * random.uniform(1, 1.2))  # noqa: S311 - jitter, no secret
        pause = min(2 * pause, _LONGEST_PAUSE)


class Exchange:
    """The scheduler, as a worker that shares no folder with it needs it.

    Every method raises SchedulerUnavailableError or ArchiveCutError where trying again soon may help, and
    PermanentError for what the scheduler refuses.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._url = settings.scheduler_url
        self._session = requests.Session()
        self._session.trust_env = False  # a proxy is for other hosts than ours
        self._session.verify = str(settings.EXTRA_CA_FILE) if settings.EXTRA_CA_FILE is not None else True
        self._session.headers.update({"Accept-Encoding": "identity", "User-Agent": "dcm-processor"})

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._session.close()

    def version(self, service: str, digest: str, target: Path) -> None:
        """Make the folder `target` with a version's `registry` and `module`.

        Raises NotKnownError where the scheduler does not have it, and OSError.
        """
        self._fetch(("services", service, "versions", digest), target, VERSION)

    def inputs(self, inputs: Mapping[str, Any], place: Path) -> dict[str, Any]:
        """Have an order's inputs (job name -> folder below DATA, or series -> folder) in `place`, as absolute paths.

        Raises NotKnownError where the scheduler does not have one, DataFullError, and OSError.
        """
        place.mkdir(exist_ok=True)
        found: dict[str, Any] = {}
        for name, folder in inputs.items():
            if isinstance(folder, Mapping):
                found[name] = self.inputs(folder, place / name)
            else:
                target = place / name
                if not target.exists():  # else it came before what a try before this one failed at
                    self._fetch(tuple(folder.split("/")), target, OUTPUT)
                found[name] = str(target)
        return found

    def send_output(self, attempt_id: str, contents: Contents) -> bool:
        """Send what an attempt left; False: nobody waits for it any more.

        Raises ArchiveCutError where the folder changes meanwhile.
        """
        headers = {"Content-Type": MEDIA_TYPE}
        try:
            with self._asked(
                "PUT",
                ("attempts", attempt_id, "output"),
                data=_readable(pack(contents)),
                headers=headers,
                timeout=_PUT_TIMEOUT,
            ):
                return True
        except (NotKnownError, _ConflictError) as error:
            log.warning("nobody waits for what the attempt left", attemptId=attempt_id, why=str(error))
            return False

    def _fetch(self, path: tuple[str, ...], target: Path, limits: Extent) -> None:
        with self._asked("GET", path, stream=True, timeout=_GET_TIMEOUT) as answer:
            if answer.headers.get("Content-Type") != MEDIA_TYPE:
                raise SchedulerUnavailableError(self._stranger(answer.status_code))
            try:
                unpack(self._blocks(answer), target, limits)
            except OSError as error:
                if error.errno in (errno.ENOSPC, errno.EDQUOT):
                    raise DataFullError(f"this host has no room for {'/'.join(path)} in {target.parent}") from None
                raise

    def _blocks(self, answer: requests.Response) -> Iterator[bytes]:
        try:
            yield from answer.iter_content(BLOCK)
        except requests.RequestException as error:
            raise SchedulerUnavailableError(
                f"the scheduler at {self._url} broke off in its answer ({type(error).__name__})"
            ) from None

    @contextmanager
    def _asked(self, method: str, path: tuple[str, ...], **more: Any) -> Iterator[requests.Response]:
        address = "/".join([self._url, "api/v1", *(quote(part, safe="") for part in path)])
        headers = {**more.pop("headers", {}), "Authorization": f"Bearer {self._token()}"}
        try:
            answer = self._session.request(method, address, headers=headers, allow_redirects=False, **more)
        except requests.RequestException as error:
            raise SchedulerUnavailableError(
                f"no scheduler answers at {self._url} ({type(error).__name__}): see that it runs, or correct "
                "SCHEDULER_HOST, SCHEDULER_PORT and SCHEDULER_TLS"
            ) from None
        with answer:
            if answer.status_code != 200:
                raise self._error(answer)
            yield answer

    def _token(self) -> str:
        """Read each time: it may be rotated while we run."""
        try:
            return self._settings.secret("worker_token")
        except SettingsError as error:
            raise SchedulerUnavailableError(f"{error}; a worker on another host needs it") from None

    def _error(self, answer: requests.Response) -> Exception:
        """A problem document (RFC 9457) as an error of ours."""
        try:
            problem = answer.json() if answer.headers.get("Content-Type") == _PROBLEM else {}
            kind, detail = str(problem["type"]), str(problem["detail"])[:_DETAIL]
        except (requests.RequestException, ValueError, KeyError, TypeError):
            return SchedulerUnavailableError(self._stranger(answer.status_code))
        match answer.status_code:
            case 404 if kind == _NOT_KNOWN:
                return NotKnownError(detail)
            case 409:
                return _ConflictError(detail)
            case 400 | 413 | 415 | 422:
                return PermanentError(f"the scheduler refuses it: {detail}")
            case 401 | 403:
                return SchedulerUnavailableError(
                    f"the scheduler at {self._url} refuses our token: put its own BASEDIR/secrets/worker_token into "
                    f"{self._settings.secrets}"
                )
        return SchedulerUnavailableError(f"the scheduler at {self._url} answers {answer.status_code}: {detail}")

    def _stranger(self, status: int) -> str:
        return f"what answers {status} at {self._url} is no scheduler of this version; correct SCHEDULER_HOST and _PORT"


class _ConflictError(PermanentError):
    """The scheduler does not want it as things stand."""


def _readable(blocks: Iterator[bytes]) -> Iterator[bytes]:
    """The blocks; an error in reading them must not look like one of the connection."""
    try:
        yield from blocks
    except OSError as error:
        raise PermanentError(f"what the job left cannot be read: {error.strerror}") from None
