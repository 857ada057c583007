"""`headers`: what callbacks and worker functions get to see of a study (DESIGN §2). Pure: datasets in, a dict out.

{"patientId", "studyId", "seriesIds", "dcmpath",     Orthanc's identifiers; the folder relative to DATA
 …                                                   selected elements of patient and study
 …                                                   selected elements on which all series agree
 "series": [{"seriesId", "dcmpath", "NumberOfInstances", …selected elements of its first instance}, …]}
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pydicom.dataset import Dataset

from dcm_processor.elements import dataset_values, text_of
from dcm_processor.header_fields import PATIENT_AND_STUDY_KEYWORDS
from dcm_processor.json_values import JsonValue, sort_key


@dataclass(frozen=True)
class SeriesSource:
    """A series, known by its first instance."""

    series_id: str
    number_of_instances: int
    dataset: Dataset  # of the first instance, pixel data not needed


def build_headers(
    patient_id: str, study_id: str, series: Sequence[SeriesSource], selected: Sequence[str]
) -> dict[str, Any]:
    """The study-level `headers`, JSON throughout.

    `selected` are DICOM keywords, or has `*`: every element with a keyword but bulk. Series are ordered by
    (SeriesNumber, SeriesInstanceUID). Elements of patient and study are those of the first series that has a value.
    """
    keywords = None if "*" in selected else tuple(selected)
    ordered = sorted(series, key=_order)
    values = [dataset_values(source.dataset, keywords) for source in ordered]
    return {
        "patientId": patient_id,
        "studyId": study_id,
        "seriesIds": [source.series_id for source in ordered],
        "dcmpath": f"dicom/{study_id}",
        **_of_the_study(values),
        **_agreed(values),
        "series": [
            {
                "seriesId": source.series_id,
                "dcmpath": f"dicom/{study_id}/{source.series_id}",
                "NumberOfInstances": source.number_of_instances,
                **{k: v for k, v in own.items() if k not in PATIENT_AND_STUDY_KEYWORDS},
            }
            for source, own in zip(ordered, values, strict=True)
        ],
    }


def _order(source: SeriesSource) -> tuple[tuple[int, float, str], str]:
    number, uid = text_of(source.dataset, "SeriesNumber"), text_of(source.dataset, "SeriesInstanceUID")
    return sort_key(number, uid), source.series_id


def _of_the_study(values: Sequence[dict[str, JsonValue]]) -> dict[str, JsonValue]:
    found: dict[str, JsonValue] = {}
    for own in values:
        for keyword, value in own.items():
            if keyword in PATIENT_AND_STUDY_KEYWORDS and found.get(keyword) in (None, "", []):
                found[keyword] = value
    return found


def _agreed(values: Sequence[dict[str, JsonValue]]) -> dict[str, JsonValue]:
    first, *others = values or [{}]
    return {
        keyword: value
        for keyword, value in first.items()
        if keyword not in PATIENT_AND_STUDY_KEYWORDS
        and all(keyword in other and other[keyword] == value for other in others)
    }
