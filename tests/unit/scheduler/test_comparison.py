"""Which of Orthanc's studies the ledger has to hear of; and that none is passed over while others are deleted."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from dcm_processor.orthanc import StudyStatus
from scheduler import comparison
from scheduler.comparison import Differences, differences, pages

STUDY = "study"


def row(last_update: str | None = "T1", due: float | None = None, hold: float | None = None) -> dict[str, Any]:
    return {"last_update": last_update, "stable_due_at": due, "hold_until": hold}


def status(last_update: str = "T1", stable: bool = True) -> StudyStatus:
    return StudyStatus(STUDY, last_update, stable)


@pytest.mark.parametrize(
    ("of_orthanc", "of_ledger", "waits", "field"),
    [
        (status("T1"), row("T1"), False, None),
        (status("T2"), row("T1"), False, "unnoticed"),
        (status("T1"), row("T2"), False, "unnoticed"),  # the clock of Orthanc's machine was set back
        (status("T1"), row(""), False, "unnoticed"),
        (status("T1"), None, False, "unnoticed"),
        (status("T2", stable=False), row("T1"), False, "growing"),
        (status("T2", stable=False), None, False, "growing"),
        (status("T2"), row("T1", due=1.0), False, None),
        (status("T2"), row("T1", hold=1.0), False, None),
        (status("T2"), row("T1"), True, None),
        (status("T2"), row(None), False, "unread"),
        (status("T2", stable=False), row(None), False, "growing"),
    ],
)
def test_a_study_differs_where_its_last_update_does_and_nobody_is_going_to_read_it(
    of_orthanc: StudyStatus, of_ledger: dict[str, Any] | None, waits: bool, field: str | None
) -> None:
    seen = {STUDY: of_ledger} if of_ledger else {}
    found = differences([of_orthanc], seen, {STUDY} if waits else set())
    expected: dict[str, Sequence[StudyStatus]] = {"unnoticed": [], "growing": [], "unread": []}
    assert found == Differences(**expected | ({field: [of_orthanc]} if field else {}))
    assert bool(found) == bool(field)


class Deleting:
    """An Orthanc whose studies go between two pages."""

    def __init__(self, number: int, delete: Callable[[list[str]], None]) -> None:
        self.studies = [str(n) for n in range(number)]
        self._delete = delete

    def statuses(self, since: int, limit: int) -> list[StudyStatus]:
        page = [StudyStatus(study, "T", True) for study in self.studies[since : since + limit]]
        self._delete(self.studies)
        return page


@pytest.mark.parametrize("number", [0, 1, 9, 10, 11, 95])
@pytest.mark.parametrize("gone", [0, 1, 4, 12])
def test_no_study_is_passed_over_while_others_are_deleted(
    monkeypatch: pytest.MonkeyPatch, number: int, gone: int
) -> None:
    """However many go from the front while pages are turned; those that stay are all seen, in few pages."""
    monkeypatch.setattr(comparison, "PAGE", 10)
    monkeypatch.setattr(comparison, "_OVERLAP", 2)
    left = 3 * gone

    def delete(studies: list[str]) -> None:
        nonlocal left
        del studies[: min(gone, left)]
        left -= min(gone, left)

    orthanc: Any = Deleting(number, delete)
    turned = list(pages(orthanc))
    seen = {each.study_id for page in turned for each in page}
    assert set(orthanc.studies) <= seen
    assert len(turned) <= 2 + number // 4
