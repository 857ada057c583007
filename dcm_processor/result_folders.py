"""Readable names of the folders into which results go: patient, date and description, then series, then job. Pure.

    ABC-001_20240131_Thorax_c5ea2cc5/lungs
    ABC-001_20240131_Thorax_c5ea2cc5/2_native_0f5b1b1c/volume

What came over DICOM may hold anything, and two studies may say the same of themselves: letters (of any script), digits,
`.`, `+` and `-` stay, whatever else becomes `_`, and the beginning of Orthanc's identifier stands at the end. So a name
depends on its study or series alone, and is the same each time.
"""

import re
import unicodedata
from collections.abc import Mapping
from typing import Any

_LONGEST = 40
"""Characters of one element in a name."""
_BYTES = 200
"""Bytes of a name before its end: file systems take 255, some fewer."""
_SHORT = 8
_DEVICES = frozenset(
    {"con", "prn", "aux", "nul", *(f"{port}{number}" for port in ("com", "lpt") for number in range(10))}
)
"""Names that Windows keeps for itself, with any ending."""


def folder_of(result: Mapping[str, Any]) -> tuple[str, ...]:
    """The names of the folders, one in another, for a result as the API's `/results/search` tells of it."""
    study = _name(
        [result["PatientID"] or "no-PatientID", result["StudyDate"], result["StudyDescription"]], result["studyId"]
    )
    job = cleaned(result["jobName"], 64)
    if result["seriesId"] is None:
        return study, job
    series = [result["SeriesNumber"], result["SeriesDescription"] or result["Modality"]]
    return study, _name(series, result["seriesId"]), job


def _name(elements: list[str | None], identifier: str) -> str:
    text = "_".join(filter(None, (cleaned(element, _LONGEST) for element in elements if element)))
    text = text.encode()[:_BYTES].decode(errors="ignore").rstrip("_")
    return "_".join(filter(None, (text, cleaned(identifier, _SHORT))))


def cleaned(text: str, longest: int) -> str:
    """A part of a folder's name: never empty where the text was not, no other folder's, and nobody's option."""
    plain = unicodedata.normalize("NFC", text)
    plain = "".join(char if char.isalnum() or char in ".+-" else "_" for char in plain)
    plain = re.sub(r"_{2,}", "_", plain)[:longest].strip("._-")
    if plain.partition(".")[0].lower() in _DEVICES:
        plain = f"{plain}_"
    return plain or "_"
