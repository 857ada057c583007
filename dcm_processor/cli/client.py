"""The scheduler's HTTP API, as the command line uses it."""

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import requests

from dcm_processor.archives.archive import BLOCK, MEDIA_TYPE
from dcm_processor.cli.access import Access
from dcm_processor.errors import (
    DcmProcessorError,
    NotKnownError,
    PermanentError,
    StudyGoneError,
    TransientError,
    UsageError,
)

_PREFIX = "/api/v1"
_PAGE = 500  # the most that the API gives at once
_KINDS: Mapping[int, type[DcmProcessorError]] = {
    410: StudyGoneError,
    **dict.fromkeys((400, 413, 415, 416, 422), UsageError),
    **dict.fromkeys((429, 502, 503, 504), TransientError),
}
"""What the API's statuses mean; any other: PermanentError."""


@dataclass(frozen=True)
class LogPart:
    """A piece of a job's log; `next_offset` is where the next one begins, `complete` says that nothing will follow."""

    content: bytes
    next_offset: int
    complete: bool
    attempt: int | None


class Client:
    """Speaks to a scheduler; paths are those below /api/v1.

    Every method raises TransientError where the scheduler does not answer or cannot now, NotKnownError for what it does
    not know, StudyGoneError for a study that Orthanc does not hold, UsageError for a request it does not understand,
    and PermanentError for one it refuses. `timeout` is in seconds.
    """

    def __init__(self, access: Access, *, timeout: float = 75) -> None:
        self._access = access
        self._url = access.url
        self._timeout = timeout  # explaining a study may take a minute
        self._session = requests.Session()
        self._session.trust_env = False  # a proxy is for other hosts than ours
        self._session.verify = access.ca_file or True
        self._session.headers["Authorization"] = f"Bearer {access.token}"

    def get(self, path: str, query: Mapping[str, Any] | None = None) -> Any:
        """The JSON of an answer."""
        return self._request("GET", path, params=query).json()

    def post(self, path: str, body: Mapping[str, Any] | None = None) -> Any:
        """The JSON of an answer."""
        return self._request("POST", path, json=body).json()

    def pages(self, path: str, query: Mapping[str, Any], limit: int) -> Iterator[dict[str, Any]]:
        """The first `limit` items of a list."""
        return self._pages(lambda asked: self.get(path, asked), query, limit)

    def found(self, path: str, terms: Mapping[str, Any], limit: int) -> Iterator[dict[str, Any]]:
        """The first `limit` items of a list that is searched by terms in the body."""
        return self._pages(lambda asked: self.post(path, asked), terms, limit)

    def _pages(
        self, ask: Callable[[Mapping[str, Any]], Any], terms: Mapping[str, Any], limit: int
    ) -> Iterator[dict[str, Any]]:
        cursor = None
        while limit > 0:
            asked = {**terms, "limit": min(limit, _PAGE), "cursor": cursor}
            page = ask({key: value for key, value in asked.items() if value is not None})
            yield from page["items"]
            limit -= len(page["items"])
            cursor = page["nextCursor"]
            if cursor is None:
                return

    def study_id(self, text: str) -> str:
        """Orthanc's identifier of a study that may be named by its StudyInstanceUID."""
        if not re.fullmatch(r"[0-9]+(\.[0-9]+)+", text):
            return checked(text)
        found = self.post("/studies/search", {"studyInstanceUID": text})["items"]
        if not found:
            raise _no_study(text)
        return str(found[0]["studyId"])

    def log_part(self, job_id: str, offset: int = 0, attempt: int | None = None) -> LogPart:
        """A job's log from `offset` on, as much as the API gives at once."""
        query = {"offset": offset, **({"attempt": attempt} if attempt else {})}
        answer = self._request("GET", f"/jobs/{checked(job_id)}/log", params=query)
        which = answer.headers.get("X-Log-Attempt")
        return LogPart(
            content=answer.content,
            next_offset=int(answer.headers["X-Next-Offset"]),
            complete=answer.headers["X-Log-Complete"] == "true",
            attempt=int(which) if which else None,
        )

    def log(self, job_id: str) -> bytes:
        """All that a job has written so far."""
        content, part = b"", self.log_part(job_id)
        while part.content:
            content += part.content
            part = self.log_part(job_id, part.next_offset, part.attempt)
        return content

    @contextmanager
    def archive(self, path: str) -> Iterator[Iterator[bytes]]:
        """An archive, block by block as it comes; reading it raises TransientError where it ends early."""
        with self._request("GET", path, stream=True, headers={"Accept-Encoding": "identity"}) as answer:
            if answer.headers.get("Content-Type") != MEDIA_TYPE:
                raise PermanentError("what answers is no scheduler of this version; is SCHEDULER_PORT right?")
            yield self._blocks(answer)

    def _blocks(self, answer: requests.Response) -> Iterator[bytes]:
        try:
            yield from answer.iter_content(BLOCK)
        except requests.RequestException as error:
            raise TransientError(
                f"the scheduler at {self._url} broke off ({type(error).__name__}); try again"
            ) from None

    def _request(self, method: str, path: str, **more: Any) -> requests.Response:
        try:
            answer = self._session.request(
                method, f"{self._url}{_PREFIX}{path}", timeout=(5, self._timeout), allow_redirects=False, **more
            )
        except requests.Timeout:
            raise TransientError(f"the scheduler at {self._url} did not answer in time; try again") from None
        except requests.exceptions.SSLError as error:
            raise PermanentError(f"no TLS with {self._url}: {_tls(error)}") from None
        except requests.RequestException:
            raise TransientError(f"no scheduler answers at {self._url}; {self._access.absent}") from None
        if answer.ok and not answer.is_redirect:
            return answer
        raise _error(answer, path, self._access)


def _tls(error: requests.exceptions.SSLError) -> str:
    """Why there is no TLS, and what to do."""
    text = str(error)
    if "CERTIFICATE_VERIFY_FAILED" not in text:
        return "what answers there does not speak it; is the address right?"
    if "match" in text:  # the names in the certificate, which the server chose
        return "its certificate is for other names than this one; use a name that it has"
    if "expired" in text:
        return "its certificate has expired"
    return "an authority that is not known here signed its certificate; name that one's file (PEM) in EXTRA_CA_FILE"


def _unknown(path: str, detail: str) -> NotKnownError:
    """What a 404 is about, named as the user named it; `detail` is the API's own word."""
    match path.split("/")[1:]:
        case ["studies", name, *_]:
            return _no_study(name)
        case ["jobs", name, *_] if "attempt" not in detail:
            return NotKnownError(no_job(name))
    return NotKnownError(detail)


def no_job(name: str) -> str:
    """What is said of a job that is not known."""
    return f"no job {name} is known; `dcm-processor study show STUDY` shows those of a study"


def _no_study(name: str) -> NotKnownError:
    return NotKnownError(f"no study {name} is known; `dcm-processor study list` shows those that are")


def checked(identifier: str) -> str:
    """The identifier, if it can be one: addresses are made of it.

    Raises UsageError.
    """
    if not re.fullmatch(r"[A-Za-z0-9_-]+", identifier):
        raise UsageError(
            f"{identifier!r} is no identifier; `dcm-processor study list` and `study show` give those there are"
        )
    return identifier


def _error(answer: requests.Response, path: str, access: Access) -> Exception:
    """A problem document (RFC 9457) as an error of ours."""
    try:
        detail = str(answer.json()["detail"])
    except (ValueError, KeyError, TypeError):
        return PermanentError(
            f"what answers at {access.url} is no scheduler of ours: HTTP {answer.status_code}; is the address right?"
        )
    match answer.status_code:
        case 401 | 403:
            return PermanentError(f"the scheduler refuses our token: {detail}; {access.refused}")
        case 404:
            return _unknown(path, detail)
    return _KINDS.get(answer.status_code, PermanentError)(detail)
