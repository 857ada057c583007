"""What the documents say is what the code does: names, lists and examples, taken from the documents themselves."""

import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest

from dcm_processor.completeness import parse_rules
from dcm_processor.contract import AddedParams, Headers, call, interpret
from dcm_processor.header_fields import DEFAULT_HEADER_FIELDS
from dcm_processor.job_helper import dcm_processor_job
from dcm_processor.job_settings import JobSettings
from dcm_processor.manifest import Defaults, parse_manifest
from dcm_processor.notes import results_of
from dcm_processor.settings import Settings
from dcm_processor.vocabulary import ExitReason, JobState, Level, RepairKind, Verdict

CHECKOUT = Path(__file__).resolve().parents[2]
CONTRACT = (CHECKOUT / "docs" / "contract.md").read_text()
DOCUMENTS = [CHECKOUT / "README.md", CHECKOUT / "CONTRIBUTING.md", *sorted((CHECKOUT / "docs").rglob("*.md"))]


def blocks(text: str, language: str) -> list[str]:
    """The fenced blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def functions(name: str) -> list[Any]:
    """The functions of that name in the examples."""
    found = []
    for source in blocks(CONTRACT, "python"):
        namespace: dict[str, Any] = {}
        sys.modules["dcm_processor_job"] = dcm_processor_job
        exec(compile(source, "docs/contract.md", "exec"), namespace)
        if name in namespace:
            found.append(namespace[name])
    return found


class TestContract:
    def test_the_table_has_every_field_of_settings_json(self) -> None:
        table = CONTRACT.partition("| field | value | default |")[2].partition("\n\n")[0]
        listed = re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)
        assert sorted(listed) == sorted(str(field.alias) for field in JobSettings.model_fields.values())

    def test_the_list_of_header_fields_is_the_default(self) -> None:
        (listed,) = blocks(CONTRACT, "text")
        assert tuple(listed.split()) == DEFAULT_HEADER_FIELDS

    def test_the_example_of_settings_json_is_right(self) -> None:
        parsed = parse_manifest(
            blocks(CONTRACT, "json")[0], "my-service", Defaults(Level.STUDY, "default", ("default",))
        )
        assert (parsed.faults, parsed.warnings) == ((), ())

    def test_the_example_of_headers_is_as_they_are(self) -> None:
        """Only selected elements, and what all series agree on stands at the top as well."""
        headers = json.loads(blocks(CONTRACT, "json")[1].replace("…", ""))
        ours = {"patientId", "studyId", "seriesIds", "dcmpath", "series", "seriesId", "NumberOfInstances"}
        assert set(headers) | set(headers["series"][0]) <= {*ours, *DEFAULT_HEADER_FIELDS}
        assert {series["Modality"] for series in headers["series"]} == {headers["Modality"]}

    def test_the_example_of_a_callback_runs(self) -> None:
        (callback,) = functions("callback")
        for modality, applies in (("MR", True), ("CT", False)):
            said = call(callback, jobName="volume", headers=Headers({"Modality": modality}), params={}, added_params={})
            assert interpret(said) == (applies, {})

    def test_the_examples_of_worker_functions_run(self, tmp_path: Path) -> None:
        count, _, copy, _, busy = functions("worker")
        output, dicom, nifti = (tmp_path / name for name in ("output", "dicom", "nifti"))
        for folder in (output, dicom, nifti):
            folder.mkdir()
        (dicom / "1.dcm").touch()
        (nifti / "1.nii.gz").touch()
        common = {"headers": {}, "params": {}, "dicom_dir": str(dicom), "output_dir": str(output)}
        call(count, jobName="count", added_params={}, **common)
        assert (output / "count.txt").read_text() == "1"
        call(copy, inputs={"dcm2nii": str(nifti)}, outcomes={"dcm2nii": {"state": "finished"}}, output_dir=str(output))
        assert (output / "1.nii.gz").exists()
        with pytest.raises(Exception, match="busy"):
            call(busy, jobName="busy")

    def test_the_example_of_named_results_runs(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        *_, named, _ = functions("worker")
        monkeypatch.setenv(dcm_processor_job.NOTES, str(tmp_path))
        call(named, dicom_dir=str(tmp_path))
        found, _ = results_of((tmp_path / dcm_processor_job.RESULTS).read_bytes())
        assert [result.name for result in found] == ["upper lobe", "middle lobe", "lower lobe", "quality"]

    def test_the_bounds_of_named_results_are_those_of_the_helper(self) -> None:
        section = CONTRACT.partition("## What a job says of itself")[2].partition("\n## ")[0]
        helper = dcm_processor_job
        for bound in (helper.MAX_NAME, helper.MAX_UNIT, helper.MAX_SAYING, helper.MAX_TEXT, helper.MAX_RESULTS):
            assert f" {bound:,} " in section
        assert f" {helper.MAX_BYTES // 1024**2} MB " in section

    def test_the_example_of_added_params_runs(self, capsys: pytest.CaptureFixture[str]) -> None:
        _, look, *_ = functions("worker")
        call(look, added_params=AddedParams({"side-of": {"side": "L"}}, {"side-of": "laterality"}))
        assert capsys.readouterr().out == "side-of {'side': 'L'}\n"


@pytest.mark.parametrize("words", [Verdict, JobState, ExitReason])
def test_the_glossary_has_every_word(words: Any) -> None:
    glossary = (CHECKOUT / "docs" / "glossary.md").read_text().replace("time-out", "timeout")
    for word in words:
        assert f"*{str(word).replace('_', ' ')}*" in glossary, word


def test_the_settings_of_the_disk_are_in_its_document_and_in_env_with_their_defaults() -> None:
    document, env = (CHECKOUT / "docs" / "disk.md").read_text(), (CHECKOUT / ".env").read_text()
    for key, field in Settings.model_fields.items():
        if key.startswith("KEEP_"):
            default = "forever" if field.default is None else str(field.default)
            assert f"\n{key}={default}\n" in env
            assert re.search(rf"`{key}` days.*\(`?{default}\b", document), key
    for key in ("DATA_BUDGET", "MIN_FREE"):
        assert f"\n# {key}=" in env
        assert f"`{key}`" in document


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(document: Path) -> None:
    text = document.read_text()
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        target, _, anchor = link.partition("#")
        if "://" in target:
            continue
        path = (document.parent / target).resolve() if target else document
        assert path.exists(), link
        if anchor:
            headings = re.findall(r"^#+ (.*)$", path.read_text(), re.MULTILINE)
            assert anchor in {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}, link


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_files_that_are_named_are_there(document: Path) -> None:
    """Paths in backquotes that begin with a folder of this checkout."""
    folders = "dcm_processor|scheduler|worker|dashboard|orthanc|services|sh|docs|tests|requirements|benchmarks"
    for path in re.findall(rf"`((?:{folders})/[\w./-]*\w/?)`", document.read_text()):
        assert (CHECKOUT / path).exists(), path


def test_the_services_of_the_tutorial_are_right() -> None:
    """Those of the parts that are not run too, for which a GPU or gigabytes are missing."""
    text = (CHECKOUT / "docs" / "services.md").read_text()
    settings = re.findall(r"^```json lungs/registry/settings.json\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    workers = re.findall(r"^```python lungs/module/worker.py\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    assert (len(settings), len(workers)) == (2, 2)
    for source in settings:
        parsed = parse_manifest(source, "lungs", Defaults(Level.STUDY, "default", ("default", "gpu")))
        assert (parsed.faults, parsed.warnings) == ((), ())
    for source in workers:
        assert "worker" in compile(source, "docs/services.md", "exec").co_names


def test_every_kind_of_repair_is_explained() -> None:
    table = (CHECKOUT / "docs" / "reliability.md").read_text().partition("## Repairs")[2].partition("\n## ")[0]
    assert re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE) == list(RepairKind)


def test_the_example_of_rules_is_right() -> None:
    (example,) = blocks((CHECKOUT / "docs" / "completeness.md").read_text(), "json")
    assert [rule.limit for rule in parse_rules(example)] == [1800]


@pytest.mark.parametrize("document", ["README.md", "docs/command-line.md"])
def test_whoever_installs_is_told_that_pypi_has_another_system(document: str) -> None:
    assert "(The `dcm-processor` on PyPI is another system." in (CHECKOUT / document).read_text()
