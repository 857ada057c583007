"""The REST client against something that answers as Orthanc should not: one of two errors, with a clear text."""

import base64
import gzip
import io
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from dcm_processor.errors import OrthancRefusesError, OrthancUnavailableError, SettingsError, StudyGoneError
from dcm_processor.orthanc import Orthanc

STUDY = "27f7126f-4f66fb14-03f4081b-f9341db2-53925988"
ORTHANCS_404 = json.dumps({"HttpError": "Not Found", "HttpStatus": 404, "OrthancStatus": 17}).encode()
Answer = Callable[[str, socket.socket], None]


def http(
    status: int, body: bytes = b"", kind: str = "application/json", length: int | None = None, extra: str = ""
) -> Answer:
    """An answer; `length` lies about its size."""

    def answer(_path: str, connection: socket.socket) -> None:
        size = len(body) if length is None else length
        head = f"HTTP/1.1 {status} X\r\nContent-Type: {kind}\r\nContent-Length: {size}\r\n{extra}\r\n"
        connection.sendall(head.encode() + body)

    return answer


class Impostor:
    """Answers one request a connection as told."""

    def __init__(self) -> None:
        self.answer: Answer = http(500)
        self.paths: list[str] = []
        self.heads: list[str] = []
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            threading.Thread(target=self._one, args=(connection,), daemon=True).start()

    def _one(self, connection: socket.socket) -> None:
        with connection:
            try:
                head = connection.recv(65536).decode()
                path = head.split(" ")[1]
                self.heads.append(head)
                self.paths.append(path)
                self.answer(path, connection)
            except (OSError, IndexError):
                return

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def impostor() -> Iterator[Impostor]:
    impostor = Impostor()
    yield impostor
    impostor.close()


@pytest.fixture
def client(impostor: Impostor) -> Orthanc:
    return Orthanc(impostor.url, "dcmproc", lambda: "secret", timeout=1)


def hang_up(_path: str, _connection: socket.socket) -> None:
    """Close without a word."""


def silence(_path: str, connection: socket.socket) -> None:
    connection.recv(1)


def trickle(_path: str, connection: socket.socket) -> None:
    """A byte now and then, which no time-out of a socket ever notices."""
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: application/dicom\r\nContent-Length: 1000\r\n\r\n")
    for _ in range(100):
        connection.sendall(b"[")
        time.sleep(0.1)  # the pace of what is tested


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        (http(500, b"boom"), "answers 500"),
        (http(503), "answers 503"),
        (http(400, b"{}"), "answers 400"),
        (http(401), "refuses user 'dcmproc'"),
        (http(403), "RemoteAccessAllowed"),
        (http(302, extra="Location: http://127.0.0.1:1/\r\n"), "sends us elsewhere"),
        (http(200, b"<html>Welcome</html>", "text/html"), "something"),
        (http(200, b'{"ID": "x", "Ser'), "not JSON"),
        (http(200, b'{"ID": "x"', length=500), "broke off"),
        (http(200, b""), "not JSON"),
        (http(200, b"[]"), "something"),
        (http(200, b"null"), "something"),
        (http(200, b'{"MainDicomTags": null}'), "something"),
        (http(200, b'{"Changes": [{}], "Done": true, "Last": 1}'), "something"),
        (http(200, b"\xff\xfe\x00"), "not JSON"),
        (http(404, b"<html>nginx</html>", "text/html"), "something|404"),
        (hang_up, "cannot be reached"),
        (silence, "within 1 s"),
        (trickle, "in 1 s"),
    ],
)
def test_every_strange_answer_is_orthanc_unavailable(
    impostor: Impostor, client: Orthanc, answer: Answer, text: str
) -> None:
    """Never another exception, never a study taken for gone, and in bounded time."""
    impostor.answer = answer
    begun = time.monotonic()
    for ask in (
        client.system,
        lambda: client.study(STUDY),
        lambda: client.changes(0),
        lambda: client.download(STUDY, io.BytesIO()),
        lambda: client.dataset(STUDY),
    ):
        with pytest.raises(OrthancUnavailableError, match=r"^Orthanc at http://127\.0\.0\.1:"):
            ask()
    assert time.monotonic() - begun < 15
    with pytest.raises(OrthancUnavailableError, match=text):
        client.study(STUDY)


@pytest.mark.parametrize("body", [b"", b"nonsense" * 1000, bytes(4096), bytes(128) + b"DICM"])
def test_a_file_that_says_of_no_instance_is_damaged_not_empty(impostor: Impostor, client: Orthanc, body: bytes) -> None:
    """Headers made of it would be empty, and every callback asked about nothing."""
    impostor.answer = http(200, body, "application/dicom")
    with pytest.raises(OrthancUnavailableError, match=rf"damaged file for instance {STUDY}: no SOPInstanceUID and no"):
        client.dataset(STUDY)


def test_a_404_that_is_orthancs_means_gone(impostor: Impostor, client: Orthanc) -> None:
    """With a body, or (an unknown study, or HttpDescribeErrors off) without: then the server has to be an Orthanc."""
    impostor.answer = http(404, ORTHANCS_404)
    with pytest.raises(StudyGoneError, match=r"does not hold the study .*: send it again"):
        client.study(STUDY)
    assert impostor.paths == [f"/studies/{STUDY}"]

    def describes_nothing(path: str, connection: socket.socket) -> None:
        http(200, b'{"Version": "1.12.4"}')(path, connection) if path == "/system" else http(404)(path, connection)

    impostor.answer = describes_nothing
    with pytest.raises(StudyGoneError):
        client.study(STUDY)


def test_a_404_of_something_else_does_not_end_a_study(impostor: Impostor, client: Orthanc) -> None:
    """A wrong address, or a proxy whose Orthanc is away: what waits must go on waiting."""
    for body in (b"", b"<html>", b"{}", b"[]"):
        impostor.answer = http(404, body)
        with pytest.raises(OrthancUnavailableError):
            client.study(STUDY)


@pytest.mark.parametrize("body", [
    b"", b"{}", b"null", b"1", b"<html>", b"[", b'[{"ID": "a"}', b'[{"ID": "a"},', b'[{"ID": "a"},]', b"[1]", b"[] x",
    b'["\xff"]', b'{"a": [{"ID": "x"}]}',
])  # fmt: skip
def test_what_is_no_list_or_not_all_of_one_is_no_study_without_instances(
    impostor: Impostor, client: Orthanc, body: bytes
) -> None:
    impostor.answer = http(200, body)
    with pytest.raises(OrthancUnavailableError):
        client.files(STUDY)


def test_a_list_is_read_however_it_is_cut(impostor: Impostor, client: Orthanc) -> None:
    listed = [{"ID": f"Grün {n}", "FileUuid": "a,]", "FileSize": n} for n in range(100)]
    body = json.dumps(listed, indent=1, ensure_ascii=False).encode()

    def answer(_path: str, connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n")
        for start in range(0, len(body), 7):
            connection.sendall(body[start : start + 7])

    impostor.answer = answer
    assert client.files(STUDY) == {each["ID"]: ("a,]", each["FileSize"]) for each in listed}


def test_the_list_of_a_studys_instances_may_begin_later_than_other_answers(impostor: Impostor, client: Orthanc) -> None:
    """Orthanc makes up all of it before it sends any: a million take it a minute."""
    study = {"ID": STUDY, "IsStable": True, "ParentPatient": "p", "MainDicomTags": {}}
    listed = [{"ID": STUDY, "ParentSeries": "s", "MainDicomTags": {}}]

    def answer(path: str, connection: socket.socket) -> None:
        late = path.endswith("/instances?expand")
        if late:
            time.sleep(1.5)  # the pace of what is tested: more than the client's time-out
        http(200, json.dumps(listed if late else study).encode())(path, connection)

    impostor.answer = answer
    assert client.study(STUDY).instances == {"s": (STUDY,)}


def test_a_body_that_a_proxy_compressed_all_the_same_is_read(impostor: Impostor, client: Orthanc) -> None:
    impostor.answer = http(200, gzip.compress(b'{"Version": "1.12.4"}'), extra="Content-Encoding: gzip\r\n")
    assert client.system() == {"Version": "1.12.4"}


def test_a_kept_connection_that_was_closed_meanwhile_is_no_failure(impostor: Impostor, client: Orthanc) -> None:
    """Orthanc closes a silent connection after a second, which may be just when it is used again."""
    impostor.answer = http(200, b'{"Version": "1.12.4"}')  # closes after each answer, without announcing it
    for _ in range(50):
        assert client.system()["Version"] == "1.12.4"


def test_the_environments_proxy_is_not_used(
    impostor: Impostor, client: Orthanc, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Proxies are for the outside; Orthanc is ours."""
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    impostor.answer = http(200, b'{"Version": "1.12.4"}')
    assert client.system()["Version"] == "1.12.4"


def test_a_file_is_asked_for_as_it_is(impostor: Impostor, client: Orthanc) -> None:
    """Orthanc compresses what it sends where it may, and is much slower at that than at sending."""
    impostor.answer = http(200, b"DICM", "application/dicom")
    client.download(STUDY, io.BytesIO())
    assert "accept-encoding: identity\r\n" in impostor.heads[-1].lower()


class TestRotatedPassword:
    """A client outlives the password it began with."""

    @pytest.fixture
    def only_new(self, impostor: Impostor) -> str:
        """Orthanc takes this password and no other."""
        right = f"Authorization: Basic {base64.b64encode(b'dcmproc:new').decode()}"

        def answer(path: str, connection: socket.socket) -> None:
            (http(200, b'{"Version": "1.12.4"}') if right in impostor.heads[-1] else http(401))(path, connection)

        impostor.answer = answer
        return "new"

    def test_it_is_read_again_once_it_is_refused_and_kept_from_then_on(self, impostor: Impostor, only_new: str) -> None:
        texts = iter(["old", only_new])
        client = Orthanc(impostor.url, "dcmproc", lambda: next(texts), timeout=1)
        for _ in range(3):
            assert client.system()["Version"] == "1.12.4"
        assert len(impostor.paths) == 4

    def test_one_that_is_still_the_same_is_not_offered_twice(self, impostor: Impostor, only_new: str) -> None:
        with pytest.raises(OrthancRefusesError, match="refuses user 'dcmproc'"):
            Orthanc(impostor.url, "dcmproc", lambda: "old", timeout=1).system()
        assert len(impostor.paths) == 1

    def test_a_second_refusal_is_told_and_not_tried_again(self, impostor: Impostor, only_new: str) -> None:
        texts = iter(["old", "older", "oldest"])
        with pytest.raises(OrthancRefusesError):
            Orthanc(impostor.url, "dcmproc", lambda: next(texts), timeout=1).system()
        assert len(impostor.paths) == 2

    def test_one_that_cannot_be_read_is_a_refusal_that_may_pass(self, impostor: Impostor, only_new: str) -> None:
        """Not an error of the settings, which would fail a job for good."""
        texts = iter(["old"])

        def read() -> str:
            for text in texts:
                return text
            raise SettingsError("the secret cannot be read")

        client = Orthanc(impostor.url, "dcmproc", read, timeout=1)
        with pytest.raises(OrthancRefusesError):
            client.system()
