"""Runs the service as the platform would, on two tiny studies that dcm-processor draws: `pytest` in the folder above.

It needs dcm-processor and pytest. For a study of your own: `rehearse(SERVICE, dicom=[Path("FOLDER")], results=…)`.
"""

import json
from pathlib import Path

from dcm_processor.testing import rehearse

SERVICE = Path(__file__).parent.parent


def test_it_counts_the_files_of_each_series(tmp_path):
    for study in rehearse(SERVICE, results=tmp_path / "results"):
        [job] = study.jobs
        assert job.state == "finished", job.reason
        summary = json.loads((job.folder / "summary.json").read_text(encoding="utf-8"))
        assert [series["files"] for series in summary["series"]] == [3, 3]
