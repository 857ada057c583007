"""Names of revisions, plans, jobs and attempts: derived, distinct, and valid as RQ job ids."""

import re

from hypothesis import given
from hypothesis import strategies as st
from redis import Redis
from rq.job import Job

from dcm_processor import identity

STUDY = "0a1b2c3d-0a1b2c3d-0a1b2c3d-0a1b2c3d-0a1b2c3d"
names = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}", fullmatch=True)


@given(st.lists(st.text(), unique=True))
def test_a_revision_names_a_set_whatever_its_order(ids: list[str]) -> None:
    assert identity.revision(ids) == identity.revision(reversed(ids))
    assert identity.revision(ids) != identity.revision([*ids, "one more"]) or "one more" in ids


@given(names, names, st.sampled_from([None, "s1", "s2"]), st.integers(1, 99))
def test_ids_are_valid_in_rq_and_tell_jobs_apart(one: str, two: str, series: str | None, attempt: int) -> None:
    plan = identity.plan_id(STUDY, identity.revision(["i"]), 1)
    first, second = identity.job_id(plan, one, series), identity.job_id(plan, two, series)
    assert (first == second) == (one == two)
    attempt_id = identity.attempt_id(first, attempt)
    assert re.fullmatch(r"[A-Za-z0-9_-]+", attempt_id)
    Job(id=attempt_id, connection=Redis())  # refuses an id that RQ cannot keep
    assert identity.split_attempt_id(attempt_id) == (first, attempt)
    assert len(attempt_id) <= 220


def test_series_of_one_job_have_ids_of_their_own() -> None:
    assert len({identity.job_id("plan", "job", series) for series in (None, "s1", "s2")}) == 3
