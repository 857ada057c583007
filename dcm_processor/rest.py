"""Requests to Orthanc: what may come instead of an answer becomes one of two errors, with a word on what to do."""

import base64
import io
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from itertools import chain
from typing import Any, TypeVar
from urllib.parse import urlsplit

import ijson
import requests
from requests.adapters import HTTPAdapter
from urllib3.exceptions import HTTPError, ProtocolError

from dcm_processor.errors import OrthancRefusesError, OrthancUnavailableError, SettingsError, StudyGoneError

T = TypeVar("T")

GONE = "Orthanc does not hold the {} (any more): send it again"

_CHUNK = 1024 * 1024
_LEAST = 64 * 1024
"""Bytes that must come within the time-out; an answer that trickles in more slowly counts as none."""
_CONNECT_TIMEOUT = 5.0
_FILE_TYPES = ("application/dicom", "application/octet-stream")


class Rest:
    """Connections to one Orthanc, for threads to share.

    `password` is asked at first, and again where Orthanc refuses it: it may have been rotated since.
    """

    def __init__(
        self,
        url: str,
        username: str,
        password: Callable[[], str],
        *,
        timeout: float,
        connections: int,
        ca_file: str | None,
    ) -> None:
        self._url = url.rstrip("/")
        self._username = username
        self._password = password
        self._authorization = self._credentials()
        self._timeout = timeout
        self._session = requests.Session()
        self._session.trust_env = False
        self._session.verify = ca_file or True
        self._session.headers.update(
            {
                "Accept-Encoding": "identity",  # to compress a file takes Orthanc many times as long as to send it
                "User-Agent": "dcm-processor",
            }
        )
        for scheme in ("http://", "https://"):
            self._session.mount(scheme, HTTPAdapter(pool_connections=1, pool_maxsize=connections, max_retries=0))

    def __str__(self) -> str:
        parts = urlsplit(self._url)
        return f"Orthanc at {parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"

    def close(self) -> None:
        self._session.close()

    def json(self, path: str, *, gone: str = "") -> Any:
        """The answer to GET `path`; `gone` names what a 404 is about (StudyGoneError), "" where that cannot be."""
        with self._open(path, gone=gone) as response:
            body = b"".join(self._chunks(response))
        try:
            return json.loads(body)
        except ValueError:
            raise self._no_json(path) from None

    def elements(self, path: str, *, gone: str, timeout: float) -> Iterator[Any]:
        """The elements of the array that GET `path` answers with, each as it comes.

        The first byte may take `timeout` seconds, if that is longer than the answers' usual time.
        """
        with self._open(path, gone=gone, timeout=max(timeout, self._timeout)) as response:
            chunks = self._chunks(response)
            first = next(chunks, b"")
            if not first.lstrip().startswith(b"["):  # of something else ijson says that it has no elements
                raise self._no_json(path)
            try:
                yield from ijson.items(ijson.from_iter(chain([first], chunks)), "item", use_float=True)
            except ijson.JSONError:
                raise self._no_json(path) from None

    @contextmanager
    def file(self, path: str, *, gone: str) -> "Iterator[Body]":
        """The answer to GET `path` while it comes."""
        with self._open(path, gone=gone) as response:
            kind = response.headers.get("Content-Type", "")
            if kind.split(";")[0].strip() not in _FILE_TYPES:
                raise OrthancUnavailableError(f"{self} sends {kind or 'something'} where a DICOM file was asked for")
            yield Body(self._chunks(response), response.headers.get("Content-Length", ""))

    def post(self, path: str) -> None:
        """POST nothing to `path`; of the answer only the status counts."""
        with self._open(path, method="POST"):
            pass

    def expect(self, read: Callable[[], T], what: str) -> T:
        """What `read` makes of an answer; one without what it needs counts as none."""
        try:
            return read()
        except (KeyError, TypeError, ValueError, AttributeError, IndexError):
            raise OrthancUnavailableError(f"{self} answers with something that is not {what}") from None

    @contextmanager
    def _open(
        self, path: str, *, gone: str = "", method: str = "GET", timeout: float | None = None
    ) -> Iterator[requests.Response]:
        timeout = self._timeout if timeout is None else timeout
        try:
            response = self._answer(method, path, timeout)
        except requests.RequestException as error:
            raise OrthancUnavailableError(f"{self} {self._silence(error, timeout)}") from error
        with response:
            # 400: there is such a resource, but it is, say, a series.
            if gone and response.status_code in (400, 404) and self._says_so_itself(response):
                raise StudyGoneError(GONE.format(gone))
            if response.status_code != 200:
                refused = response.status_code in (401, 403)
                kind = OrthancRefusesError if refused else OrthancUnavailableError
                raise kind(f"{self} {self._complaint(response.status_code)} ({method} {path})")
            yield response

    def _answer(self, method: str, path: str, timeout: float) -> requests.Response:
        used = self._authorization
        response = self._send(method, path, used, timeout)
        if response.status_code == 401:
            with suppress(SettingsError):  # a password that cannot be read now is one that Orthanc refuses
                self._authorization = self._credentials()
            if (now := self._authorization) != used:
                response.close()
                return self._send(method, path, now, timeout)
        return response

    def _credentials(self) -> str:
        """The header of HTTP's Basic scheme (RFC 7617) in UTF-8; requests would take Latin-1."""
        return "Basic " + base64.b64encode(f"{self._username}:{self._password()}".encode()).decode()

    def _send(self, method: str, path: str, authorization: str, timeout: float) -> requests.Response:
        send = partial(
            self._session.request,
            method,
            self._url + path,
            headers={"Authorization": authorization},
            stream=True,
            timeout=(min(_CONNECT_TIMEOUT, timeout), timeout),
            allow_redirects=False,
        )
        try:
            return send()
        except requests.ConnectionError as error:
            if not isinstance(error.args[0] if error.args else None, ProtocolError):
                raise
            # A kept connection that the server was just closing (Orthanc does after a second of silence) is no failure
            # of the server: RFC 9112 9.3.1.
            return send()

    def _chunks(self, response: requests.Response) -> Iterator[bytes]:
        since, received = time.monotonic(), 0
        try:
            while chunk := response.raw.read1(_CHUNK, decode_content=True):
                yield chunk
                received += len(chunk)
                if time.monotonic() - since > self._timeout:
                    if received < _LEAST:
                        raise OrthancUnavailableError(f"{self} sends {received} bytes in {self._timeout:g} s")
                    since, received = time.monotonic(), 0
        except HTTPError as error:
            raise OrthancUnavailableError(f"{self} broke off in its answer: {type(error).__name__}") from error

    def _says_so_itself(self, response: requests.Response) -> bool:
        """Whether it is Orthanc that does not have it, and not something else behind this address."""
        try:
            answer = json.loads(b"".join(self._chunks(response)) or b"{}")
        except ValueError:
            return False
        if not isinstance(answer, dict) or "OrthancStatus" not in answer:
            # An unknown study's 404 has no body, and `HttpDescribeErrors` may be off: is it an Orthanc at all?
            self.expect(lambda: self.json("/system")["Version"], "Orthanc's")
        return True

    def _silence(self, error: requests.RequestException, timeout: float) -> str:
        if isinstance(error, requests.exceptions.SSLError):
            return "has a certificate that this machine does not trust"
        if isinstance(error, requests.Timeout):
            return f"does not answer within {timeout:g} s"
        return f"cannot be reached ({type(error).__name__}): see that it runs, or correct ORTHANC_REST_URL"

    def _no_json(self, path: str) -> OrthancUnavailableError:
        return OrthancUnavailableError(f"{self} answers GET {path} with something that is not JSON")

    def _complaint(self, status: int) -> str:
        if status in (401, 403):
            return (
                f"refuses user {self._username!r} ({status}): correct ORTHANC_REST_USERNAME and ORTHANC_REST_PASSWORD, "
                "and see that Orthanc's RemoteAccessAllowed is true where it runs on another machine"
            )
        if 300 <= status < 400:
            return f"sends us elsewhere ({status}): name the address itself in ORTHANC_REST_URL"
        if status == 404:
            return "answers 404, as Orthanc would not: correct ORTHANC_REST_URL"
        return f"answers {status}"


class Body(io.RawIOBase):
    """A file that can be read while it comes: in chunks, or at any place, with what came kept in memory."""

    def __init__(self, chunks: Iterator[bytes], length: str) -> None:
        super().__init__()
        self._chunks = chunks
        self._length = int(length) if length.isdigit() else None
        self._buffer = bytearray()
        self._position = 0

    def chunks(self) -> Iterator[bytes]:
        """All of it, once; nothing is kept."""
        return self._chunks

    def spare_the_connection(self) -> None:
        """Read the rest where that is less work than a new connection."""
        if self._length is not None and self._length - len(self._buffer) < _CHUNK:
            for _ in self._chunks:
                pass

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        if whence == io.SEEK_END:
            self._receive(None)
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: len(self._buffer)}[whence]
        self._position = max(0, start + offset)
        return self._position

    def read(self, size: int | None = -1) -> bytes:
        end = None if size is None or size < 0 else self._position + size
        self._receive(end)
        data = bytes(self._buffer[self._position : end])
        self._position += len(data)
        return data

    def _receive(self, end: int | None) -> None:
        while end is None or len(self._buffer) < end:
            chunk = next(self._chunks, b"")
            if not chunk:
                return
            self._buffer += chunk
