"""An Orthanc that holds one study of any size, or many, or changes: it makes its answers up, in a process of its own.

What it says has the shape, the order of keys and the white space of Orthanc 1.10.1; it keeps nothing of what it says.
"""

import hashlib
import io
import json
import multiprocessing
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from multiprocessing.connection import Connection
from typing import Any, Self

import requests
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian

_PORTION = 2_000  # instances in one chunk of an answer
_UID = "1.2.826.0.1.3680043.8.498"
_INSTANCE = """   {{
      "FileSize" : {size},
      "FileUuid" : "{uuid}",
      "ID" : "{id}",
      "IndexInSeries" : {number},
      "MainDicomTags" : {{
         "InstanceCreationDate" : "20260101",
         "InstanceCreationTime" : "120000",
         "ImageOrientationPatient" : "1\\\\0\\\\0\\\\0\\\\1\\\\0",
         "ImagePositionPatient" : "-250\\\\-250\\\\{number}",
         "InstanceNumber" : "{number}",
         "SOPInstanceUID" : "{uid}"
      }},
      "ParentSeries" : "{series}",
      "Type" : "Instance"
   }}"""


def identifier(text: str) -> str:
    """An identifier of Orthanc's form for whatever the text names."""
    digest = hashlib.sha1(text.encode()).hexdigest()
    return "-".join(digest[start : start + 8] for start in range(0, 40, 8))


@dataclass(frozen=True)
class Shape:
    """How large the study is, and how many others and changes there are."""

    series: int
    instances: int  # of each series
    studies: int = 0  # beside the large one, which no list of studies names
    changes: int = 0  # instances that came

    @property
    def study_id(self) -> str:
        return identifier(f"study of {self.series} x {self.instances}")

    @cached_property
    def series_ids(self) -> dict[str, int]:
        """Series id -> number, from 1."""
        return {identifier(f"series {number} of {self.study_id}"): number for number in range(1, self.series + 1)}

    @cached_property
    def first_instances(self) -> dict[str, int]:
        """The first instance of each series -> the series' number."""
        return {self.instance_id(number, 1): number for number in self.series_ids.values()}

    def instance_id(self, series: int, number: int) -> str:
        return identifier(f"{series}/{number} of {self.study_id}")


class LargeStudy:
    """Serves the study on a free port of the loopback while it is entered."""

    password = "secret-of-the-test"

    def __init__(self, series: int = 1, instances: int = 1, *, studies: int = 0, changes: int = 0) -> None:
        self.shape = Shape(series, instances, studies, changes)
        self.url = ""

    @property
    def study_id(self) -> str:
        return self.shape.study_id

    def __enter__(self) -> Self:
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(self.shape, theirs), daemon=True)
        with theirs:
            self._process.start()
        with ours:
            self.url = f"http://127.0.0.1:{ours.recv()}"
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.join(10)

    def asked(self) -> dict[str, int]:
        """How often it was asked for what; an identifier in the path stands there as *."""
        found: dict[str, int] = requests.get(f"{self.url}/asked", timeout=10).json()
        return found


def _serve(shape: Shape, told: Connection) -> None:
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"shape": shape, "asked": Counter()}))
    server.daemon_threads = True
    told.send(server.server_port)
    told.close()
    server.serve_forever()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = 1 << 16  # an answer's head and a small body in one piece
    shape: Shape
    asked: Counter[str]

    def do_GET(self) -> None:
        shape, parts = self.shape, self.path.split("/")
        path = re.sub(r"[0-9a-f]{8}(-[0-9a-f]{8}){4}", "*", re.sub(r"[?&]since.*", "", self.path))
        since, limit = map(int, re.findall(r"=(\d+)", self.path)) if "since=" in self.path else (shape.changes - 1, 1)
        answers: dict[str, Callable[[], object]] = {
            "/asked": lambda: self.asked,
            "/system": lambda: {"Version": "1.10.1"},
            "/changes": lambda: self._changes(since, limit),
            "/changes?last": lambda: self._changes(since, limit),
            "/studies?expand": lambda: [_other(number) for number in range(since, min(since + limit, shape.studies))],
            "/instances/*/metadata?expand": lambda: {"IndexInSeries": "1", "Origin": "DicomProtocol"},
        }
        if path != "/asked":
            self.asked[path] += 1
        if path in answers:
            self._json(answers[path]())
        elif path == "/instances/*/file":
            self._body("application/dicom", self._file(parts[2]))
        elif path == "/studies/*" and parts[2] == shape.study_id:
            self._json(self._study())
        elif path == "/studies/*/instances?expand" and parts[2] == shape.study_id:
            self._list()
        else:
            self._body("application/json", b"{}", 404)

    def _study(self) -> dict[str, Any]:
        return {
            "ID": self.shape.study_id,
            "IsStable": True,
            "LastUpdate": "20260101T120000",
            "MainDicomTags": {"StudyDate": "20260101", "StudyInstanceUID": f"{_UID}.1"},
            "ParentPatient": identifier("patient"),
            "PatientMainDicomTags": {"PatientID": "LARGE"},
            "Series": list(self.shape.series_ids),
            "Type": "Study",
        }

    def _changes(self, since: int, limit: int) -> dict[str, Any]:
        last = min(since + limit, self.shape.changes)
        found = [
            {
                "ChangeType": "NewInstance",
                "Date": "20260101T120000",
                "ID": identifier(f"change {number}"),
                "Path": f"/instances/{identifier(f'change {number}')}",
                "ResourceType": "Instance",
                "Seq": number,
            }
            for number in range(max(since, 0) + 1, last + 1)
        ]
        return {"Changes": found, "Done": last == self.shape.changes, "Last": last}

    def _list(self) -> None:
        """All instances; in HTTP's chunks, so that their length need not be known before."""
        self.send_response(200)
        self.send_header("Content-Type", "application/json; charset=utf-8")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for chunk in _portions(self.shape):
            self.wfile.write(b"%x\r\n%s\r\n" % (len(chunk), chunk))
        self.wfile.write(b"0\r\n\r\n")

    def _file(self, instance_id: str) -> bytes:
        """Small, and of that series: the first instance of each is the only one that is asked for."""
        series = self.shape.first_instances[instance_id]
        dataset = Dataset()
        dataset.StudyInstanceUID, dataset.SeriesInstanceUID = f"{_UID}.1", f"{_UID}.1.{series}"
        dataset.SOPClassUID, dataset.SOPInstanceUID = CTImageStorage, f"{_UID}.1.{series}.1"
        dataset.Modality, dataset.SeriesNumber, dataset.PatientID = "CT", series, "LARGE"
        dataset.StudyDate, dataset.SeriesDescription = "20260101", f"Series {series}"
        dataset.file_meta = FileMetaDataset()
        dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        file = io.BytesIO()
        dataset.save_as(file, enforce_file_format=True)
        return file.getvalue()

    def _json(self, value: object) -> None:
        self._body("application/json; charset=utf-8", json.dumps(value, indent=3).encode())

    def _body(self, kind: str, body: bytes, status: int = 200) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


def _other(number: int) -> dict[str, Any]:
    return {
        "ID": identifier(f"other study {number}"),
        "IsStable": True,
        "LastUpdate": "20260101T120000",
        "MainDicomTags": {"StudyInstanceUID": f"{_UID}.2.{number}"},
        "Type": "Study",
    }


def _portions(shape: Shape) -> Iterator[bytes]:
    """The list piece by piece; of each series the last instance comes first."""
    between, portion = "[\n", []
    for series_id, number in shape.series_ids.items():
        for instance in range(shape.instances, 0, -1):
            portion.append(between)
            portion.append(_described(shape, number, series_id, instance))
            between = ",\n"
            if len(portion) >= 2 * _PORTION:
                yield "".join(portion).encode()
                portion.clear()
    yield ("".join(portion) + "\n]\n").encode()


def _described(shape: Shape, series: int, series_id: str, number: int) -> str:
    instance_id = shape.instance_id(series, number)
    return _INSTANCE.format(
        size=540_000,
        uuid=f"{instance_id[:8]}-{instance_id[9:13]}-4{instance_id[14:17]}-a{instance_id[18:21]}-{instance_id[22:35]:.12}",
        id=instance_id,
        number=number,
        uid=f"{_UID}.1.{series}.{number}",
        series=series_id,
    )
