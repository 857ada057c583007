"""A real study explained, with what callbacks read of its headers."""

from pathlib import Path

from scheduler.explaining import Explainer
from tests.integration.scheduler.platform import Platform, send
from tests.servers import OrthancServer

CALLBACK = """
def applies(headers, **kwargs):
    if headers.get("AcquisitionMatrix") or headers.get("BodyPartExamined") == "nowhere":
        return False
    return headers["StudyInstanceUID"] != "", {"seen": len(headers["series"])}
"""


def test_each_callbacks_word_and_looks_are_told(platform: Platform, orthanc: OrthancServer, tmp_path: Path) -> None:
    platform.install("one", [{"jobName": "a"}, {"jobName": "b", "dependsOn": "a"}], CALLBACK, tmp_path / "one")
    study = send(orthanc, tmp_path / "study").study_id
    plain = Explainer(platform.settings)(study)
    told = Explainer(platform.settings)(study, reads=True)
    assert [job.pop("reads") for job in plain["jobs"]] == [None, None]
    reads = [{read["keyword"]: read["found"] for read in job.pop("reads")} for job in told["jobs"]]
    assert plain == told
    first, second = told["jobs"]
    assert (first["applies"], first["injected"], first["queue"], first["position"]) == (True, {"seen": 2}, "default", 0)
    assert second["dependencies"] == [{"jobName": "a", "seriesId": None}]
    assert reads[0] == reads[1]
    assert reads[0]["AcquisitionMatrix"] == "notSelected"
    assert (reads[0]["BodyPartExamined"], reads[0]["StudyInstanceUID"]) == ("absent", "present")
