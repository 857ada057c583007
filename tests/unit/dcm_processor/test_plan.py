"""The plan: which jobs run for a study, in which order, and why the others do not."""

import json
import random
import re
from itertools import pairwise

import pytest

from dcm_processor.manifest import Defaults, Fault, parse_manifest
from dcm_processor.plan import (
    CallbackOutcome,
    JobKey,
    Plan,
    dependents,
    downstream,
    instances_of,
    make_plan,
    order,
)
from dcm_processor.registry import ServiceRegistry, combine
from dcm_processor.vocabulary import Level, Stage, Verdict
from tests.unit.dcm_processor import oracle
from tests.unit.dcm_processor.worlds import BROKEN, NO, YES, Case, job, keys_of, registry_of, small_and_large

SERIES = ("s1", "s2")


def plan_of(*jobs, series=SERIES, answers=None) -> Plan:
    """All callbacks accept, but for `answers`."""
    asked = dict.fromkeys(keys_of(jobs, series), YES) | (answers or {})
    return make_plan(registry_of(jobs), series, asked)


def verdicts(plan: Plan) -> dict[str, str]:
    return {f"{each.key.job_name}/{each.key.series_id or ''}".rstrip("/"): each.verdict.value for each in plan.jobs}


def reason(plan: Plan, name: str, series_id: str | None = None) -> str:
    return next(each.reason for each in plan.jobs if each.key == JobKey(name, series_id))


def waits_for(plan: Plan, name: str, series_id: str | None = None) -> list[tuple[str, str | None]]:
    found = next(each for each in plan.jobs if each.key == JobKey(name, series_id))
    return [(key.job_name, key.series_id) for key in found.dependencies]


def names(jobs) -> list[str]:
    return [each.name for each in order(registry_of(jobs))]


# -- order


def test_stages_come_before_everything_else():
    assert names([job("a", stage="post"), job("b", sortPosition=1), job("c", stage="pre", sortPosition=5)]) == list(
        "cba"
    )


def test_a_dependency_comes_first_whatever_sort_position_says():
    assert names([job("a", "b", sortPosition=1), job("b", sortPosition=2)]) == ["b", "a"]


def test_independent_jobs_come_before_dependent_ones_then_sort_position_then_name():
    jobs = [job("d", "z", sortPosition=0), job("b"), job("a"), job("z"), job("c", sortPosition=-1)]
    assert names(jobs) == ["c", "a", "b", "z", "d"]


def test_a_job_that_depends_on_what_is_not_installed_is_a_dependent_one():
    assert names([job("a", "nobody"), job("b")]) == ["b", "a"]


def test_star_comes_after_all_of_its_stage_without_star():
    assert names([job("all", "*", sortPosition=0), job("b", "c"), job("c"), job("too", "*")]) == [
        "c",
        "b",
        "all",
        "too",
    ]


def test_a_cycle_loses_no_job_and_keeps_every_other_dependency():
    jobs = [job("a", ["b", "x"]), job("b", ["c"]), job("c", "a"), job("x"), job("after", "c"), job("self", "self")]
    ordered = names(jobs)
    assert sorted(ordered) == sorted(each.job_name for each in jobs)
    assert ordered.index("x") < ordered.index("a")
    assert ordered.index("c") < ordered.index("after")


@small_and_large(75, 25)
def test_the_order_is_complete_valid_and_the_one_the_oracle_finds(case: Case):
    ordered = [each.name for each in order(case.registry)]
    assert ordered == oracle.expected_order(case.jobs)
    relations = oracle.Relations(case.jobs)
    position = {name: i for i, name in enumerate(ordered)}
    for name in ordered:
        for other in relations.direct[name]:
            if not relations.same_cycle(name, other) and other not in relations.later(name):
                assert position[other] < position[name]


# -- verdicts


def test_every_job_is_in_the_plan_with_a_verdict_and_a_reason():
    plan = plan_of(
        job("ok"), job("no"), job("bad"), job("off", disabled=True), job("needs", "nobody"),
        answers={JobKey("no", None): NO, JobKey("bad", None): BROKEN},
    )  # fmt: skip
    assert verdicts(plan) == {
        "ok": "scheduled", "no": "declined", "bad": "errored", "off": "disabled", "needs": "skipped",
    }  # fmt: skip
    assert reason(plan, "ok") == "its callback accepted"
    assert reason(plan, "no") == "its callback declined"
    assert reason(plan, "bad") == "its callback failed: ValueError: no"
    assert reason(plan, "off") == "it is disabled"
    assert reason(plan, "needs") == 'it depends on "nobody", which is not installed'


@pytest.mark.parametrize(
    ("other", "answer", "words"),
    [
        (job("b"), NO, "was declined by its callback"),
        (job("b"), BROKEN, "has a callback that failed"),
        (job("b", disabled=True), YES, "is disabled"),
        (job("b", "b"), YES, "is in a cycle (b → b)"),
        (job("b", "nobody"), YES, 'is skipped ("nobody" is not installed)'),
    ],
)
def test_a_skipped_jobs_reason_says_what_is_the_matter_with_the_dependency(other, answer, words):
    plan = plan_of(job("a", "b"), other, answers={JobKey("b", None): answer})
    assert verdicts(plan)["a"] == "skipped"
    assert reason(plan, "a") == f'it depends on "b", which {words}'


def test_a_reason_goes_back_to_where_it_began_however_deep():
    jobs = [job("j0"), *(job(f"j{i}", f"j{i - 1}") for i in range(1, 50))]
    plan = plan_of(*jobs, answers={JobKey("j0", None): NO})
    assert reason(plan, "j49") == 'it depends on "j48", which is skipped ("j0" was declined by its callback)'


def test_a_reason_names_further_dependencies_that_will_not_run():
    plan = plan_of(job("a", ["x", "y", "z"]))
    assert reason(plan, "a") == 'it depends on "x", which is not installed; "y", "z" will not run either'


def test_a_callback_that_declines_is_said_before_a_dependency_that_does_not_run():
    plan = plan_of(job("a", "nobody"), answers={JobKey("a", None): NO})
    assert verdicts(plan)["a"] == "declined"


def test_the_jobs_of_a_disabled_service_are_disabled_and_say_so():
    registry = registry_of((job("a"), job("b", "a"))).without({"svc"})
    plan = make_plan(registry, (), {})
    assert verdicts(plan) == {"a": "disabled", "b": "disabled"}
    assert reason(plan, "a") == "its service is disabled"


def test_an_error_is_said_before_a_cycle_and_disabled_before_an_error():
    plan = plan_of(
        job("a", "b"), job("b", "a", disabled=True), answers={JobKey("a", None): BROKEN, JobKey("b", None): BROKEN}
    )
    assert verdicts(plan) == {"a": "errored", "b": "disabled"}


def test_a_callback_nobody_asked_counts_as_failed():
    plan = make_plan(registry_of([job("a")]), SERIES, {})
    assert verdicts(plan) == {"a": "errored"}


def test_jobs_in_a_cycle_are_skipped_with_the_cycle_whatever_they_say_of_failed_dependencies():
    jobs = [
        job("a", "b", onDependencyFailure="run"),
        job("b", "a"),
        job("c", "c"),
        job("d", "a", onDependencyFailure="run"),
    ]
    plan = plan_of(*jobs)
    assert verdicts(plan) == {"a": "skipped", "b": "skipped", "c": "skipped", "d": "scheduled"}
    assert reason(plan, "a") == "its dependencies form a cycle: a → b → a"
    assert reason(plan, "b") == "its dependencies form a cycle: b → a → b"
    assert reason(plan, "c") == "its dependencies form a cycle: c → c"


def test_star_closes_cycles_too():
    plan = plan_of(job("a", "*"), job("b", "a"))
    assert reason(plan, "a") == "its dependencies form a cycle: a → b → a"


def test_a_dependency_on_a_later_stage_is_refused_like_a_cycle():
    plan = plan_of(job("a", "z", onDependencyFailure="run"), job("z", stage="post"))
    assert verdicts(plan) == {"a": "skipped", "z": "scheduled"}
    assert reason(plan, "a") == 'it depends on "z", which is of a later stage (post)'


def test_run_is_scheduled_whatever_becomes_of_its_dependencies_and_waits_for_those_that_are():
    plan = plan_of(
        job("a", ["b", "c", "nobody"], onDependencyFailure="run"), job("b"), job("c"), answers={JobKey("b", None): NO}
    )
    assert verdicts(plan)["a"] == "scheduled"
    assert waits_for(plan, "a") == [("c", None)]


def test_jobs_of_stage_post_run_by_default_and_skip_where_they_say_so():
    plan = plan_of(
        job("b"), job("p", "b", stage="post"), job("q", "b", stage="post", onDependencyFailure="skip"),
        answers={JobKey("b", None): NO},
    )  # fmt: skip
    assert (verdicts(plan)["p"], verdicts(plan)["q"]) == ("scheduled", "skipped")


def test_star_depends_on_scheduled_jobs_only_of_earlier_stages_and_its_own():
    plan = plan_of(
        job("pre", stage="pre"), job("a"), job("no"), job("all", "*"), job("also", "*"), job("later", stage="post"),
        answers={JobKey("no", None): NO},
    )  # fmt: skip
    assert verdicts(plan)["all"] == "scheduled"
    assert waits_for(plan, "all") == [("pre", None), ("a", None)]


def test_star_and_a_name_together_mean_both():
    plan = plan_of(job("a"), job("all", "*"), job("last", ["*", "all"]))
    assert waits_for(plan, "last") == [("a", None), ("all", None)]


# -- levels


def test_a_series_job_is_planned_for_each_series_in_their_order():
    a = registry_of([job("a", level="series")]).jobs[0]
    assert instances_of(a, ("s2", "s1")) == (JobKey("a", "s2"), JobKey("a", "s1"))
    assert instances_of(registry_of([job("a")]).jobs[0], ("s2", "s1")) == (JobKey("a", None),)


def test_a_series_job_depends_on_the_same_series():
    plan = plan_of(job("a", level="series"), job("b", "a", level="series"), answers={JobKey("a", "s1"): NO})
    assert verdicts(plan) == {"a/s1": "declined", "a/s2": "scheduled", "b/s1": "skipped", "b/s2": "scheduled"}
    assert waits_for(plan, "b", "s2") == [("a", "s2")]


def test_a_series_job_depends_on_the_study_job():
    plan = plan_of(job("a"), job("b", "a", level="series"))
    assert waits_for(plan, "b", "s1") == waits_for(plan, "b", "s2") == [("a", None)]


def test_a_study_job_waits_for_the_scheduled_series_jobs():
    plan = plan_of(job("a", level="series"), job("b", "a"), answers={JobKey("a", "s1"): BROKEN})
    assert verdicts(plan)["b"] == "scheduled"
    assert waits_for(plan, "b") == [("a", "s2")]


def test_a_study_job_is_skipped_where_no_series_job_is_scheduled():
    plan = plan_of(job("a", level="series"), job("b", "a"), answers={JobKey("a", "s1"): NO, JobKey("a", "s2"): BROKEN})
    assert reason(plan, "b") == 'it depends on "a", which is scheduled for no series (1 declined, 1 errored)'
    plan = plan_of(job("a", level="series"), job("b", "a"), answers={JobKey("a", one): NO for one in SERIES})
    assert reason(plan, "b") == 'it depends on "a", which was declined by its callback'


def test_a_series_job_in_a_study_without_series_is_skipped_once():
    plan = plan_of(job("a", level="series"), job("b", "a"), series=())
    assert verdicts(plan) == {"a": "skipped", "b": "skipped"}
    assert reason(plan, "a") == "the study has no series of its own"
    assert reason(plan, "b") == 'it depends on "a", which has no series to run for'


# -- stage pre: the anonymiser that failed open in the systems before us


@pytest.mark.parametrize("answer", [BROKEN, None])
def test_nothing_runs_after_a_pre_job_that_is_errored(answer):
    jobs = [
        job("anon", stage="pre"),
        job("a", onDependencyFailure="run"),
        job("tell", stage="post"),
        job("x", stage="pre"),
    ]
    asked = dict.fromkeys(keys_of(jobs, SERIES), YES) | {JobKey("anon", None): answer or BROKEN}
    plan = make_plan(registry_of(jobs), SERIES, asked)
    assert verdicts(plan) == {"anon": "errored", "x": "scheduled", "a": "skipped", "tell": "skipped"}
    assert reason(plan, "a") == 'nothing runs after stage pre, because its job "anon" has a callback that failed'


def test_nothing_runs_after_a_pre_job_that_is_skipped_for_one_series():
    jobs = [job("check", stage="pre", level="series"), job("anon", "check", stage="pre", level="series"), job("a")]
    plan = plan_of(*jobs, answers={JobKey("check", "s2"): NO})
    assert verdicts(plan)["a"] == "skipped"
    assert '"anon" is skipped ("check" was declined by its callback)' in reason(plan, "a")


def test_a_pre_job_that_is_declined_or_disabled_blocks_nothing():
    plan = plan_of(
        job("anon", stage="pre"), job("off", stage="pre", disabled=True), job("a"), answers={JobKey("anon", None): NO}
    )
    assert verdicts(plan)["a"] == "scheduled"


def test_what_would_not_have_run_anyway_keeps_its_own_reason():
    plan = plan_of(job("anon", stage="pre"), job("a", "nobody"), answers={JobKey("anon", None): BROKEN})
    assert reason(plan, "a") == 'it depends on "nobody", which is not installed'


def test_nothing_runs_where_a_pre_job_is_missing_because_its_settings_are_broken():
    defaults = Defaults(Level.STUDY, "default", ("default",))
    text = json.dumps({"jobName": "anon", "worker": "anon.w", "callback": "anon.c", "stage": "pre", "priority": "gone"})
    registry = combine([("anon", "1", parse_manifest(text, "anon", defaults))])
    registry = ServiceRegistry(registry_of([job("a")]).jobs, registry.faults)
    plan = make_plan(registry, SERIES, {JobKey("a", None): YES})
    assert verdicts(plan) == {"a": "skipped"}
    assert '"anon" cannot be used (service anon: registry/settings.json: priority: ' in reason(plan, "a")


def test_a_dependency_whose_settings_are_broken_is_not_said_to_be_not_installed():
    fault = Fault("svc", "registry/settings.json", "timeout", "must be above 0, not 0", "b", Stage.MAIN)
    registry = ServiceRegistry(registry_of([job("a", "b")]).jobs, (fault,))
    plan = make_plan(registry, SERIES, {JobKey("a", None): YES})
    assert reason(plan, "a") == (
        'it depends on "b", which cannot be used (service svc: registry/settings.json: timeout: must be above 0, not 0)'
    )


# -- as a whole


@small_and_large(200, 50)
def test_the_oracle_agrees_on_verdicts_reasons_and_dependencies(case: Case):
    plan = make_plan(case.registry, case.series, case.answers)
    opinions = oracle.expected_verdicts(case.jobs, case.series, case.answers)
    assert len(plan.jobs) == len(opinions)
    assert [each.position for each in plan.jobs] == list(range(len(plan.jobs)))
    assert list(dict.fromkeys(each.key.job_name for each in plan.jobs)) == oracle.expected_order(case.jobs)
    position = {each.key: each.position for each in plan.jobs}
    relations = oracle.Relations(case.jobs)
    for each in plan.jobs:
        opinion = opinions[each.key]
        assert each.verdict.value == opinion.verdict, each
        assert each.reason
        assert len(each.reason.splitlines()) == 1
        assert set(each.dependencies) == opinion.waits_for
        assert all(position[before] < each.position for before in each.dependencies)
        assert list(each.dependencies) == sorted(each.dependencies, key=position.__getitem__)
        if opinion.named:
            assert any(f'"{name}"' in each.reason or f" {name} →" in each.reason for name in opinion.named)
        if cycle := re.fullmatch(r"its dependencies form a cycle: (.*)", each.reason):
            path = cycle[1].split(" → ")
            assert path[0] == path[-1] == each.key.job_name
            assert all(there in relations.direct[here] for here, there in pairwise(path) if "more)" not in here + there)


@small_and_large(30, 10)
def test_the_same_input_gives_the_same_plan_byte_for_byte(case: Case):
    jobs = list(case.jobs)
    random.Random(1).shuffle(jobs)
    again = Case(tuple(jobs), case.series, dict(reversed(case.answers.items())))
    one, other = (make_plan(each.registry, each.series, each.answers) for each in (case, again))
    assert repr(one) == repr(other)


def test_the_plan_keeps_what_callbacks_said():
    said = CallbackOutcome(True, {"bmi": 22}, output="looked\n")
    plan = plan_of(job("a"), answers={JobKey("a", None): said})
    assert plan.jobs[0].outcome == said


# -- rerun of some jobs


def test_dependents_are_the_jobs_themselves_and_what_depends_on_them_at_any_depth():
    plan = plan_of(job("a"), job("b", "a", level="series"), job("c", "b"), job("d"), job("e", "d"))
    assert {key.job_name for key in dependents(plan.jobs, [JobKey("a", None)])} == {"a", "b", "c"}
    assert dependents(plan.jobs, [JobKey("b", "s1")]) == {JobKey("b", "s1"), JobKey("c", None)}


def test_everything_after_stage_pre_depends_on_a_pre_job():
    plan = plan_of(job("anon", stage="pre"), job("other", stage="pre"), job("a"), job("p", stage="post"))
    assert {key.job_name for key in dependents(plan.jobs, [JobKey("anon", None)])} == {"anon", "a", "p"}


def test_a_later_stage_alone_is_no_dependency():
    plan = plan_of(job("a"), job("p", stage="post"))
    assert dependents(plan.jobs, [JobKey("a", None)]) == {JobKey("a", None)}


@small_and_large(30, 10)
def test_dependents_are_closed_and_nothing_else_is_among_them(case: Case):
    plan = make_plan(case.registry, case.series, case.answers)
    scheduled = [each for each in plan.jobs if each.verdict is Verdict.SCHEDULED]
    roots = {each.key for each in scheduled[:2]}
    expected = set(roots)
    while True:
        pre = any(each.key in expected and each.job.settings.stage is Stage.PRE for each in scheduled)
        more = {
            each.key
            for each in scheduled
            if expected & set(each.dependencies) or (pre and each.job.settings.stage is not Stage.PRE)
        }
        if more <= expected:
            break
        expected |= more
    assert dependents(plan.jobs, roots) == expected


def test_downstream_takes_whatever_names_the_jobs():
    jobs = [("1", Stage.MAIN, []), ("2", Stage.MAIN, ["1"]), ("3", Stage.POST, ["2"])]
    assert downstream(jobs, ["2"]) == {"2", "3"}
