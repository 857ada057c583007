"""How a plan goes on: what may run now, what never will, and that nothing waits for ever."""

import random
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dcm_processor.advance import Node, advance
from dcm_processor.plan import make_plan
from dcm_processor.vocabulary import JobState, OnDependencyFailure, Stage, Verdict
from tests.unit.dcm_processor import oracle
from tests.unit.dcm_processor.worlds import Case, small_and_large

PRE, MAIN, POST = Stage
SKIP, RUN = OnDependencyFailure
FINISHED, FAILED, SKIPPED = JobState.FINISHED, JobState.FAILED, JobState.SKIPPED
SPOILT = [FAILED, SKIPPED, JobState.CANCELLED, JobState.SUPERSEDED]


def node(name: str, *needs: str, stage: Stage = MAIN, on: OnDependencyFailure = SKIP) -> Node:
    """A job whose id is `id-<name>`."""
    return Node(f"id-{name}", name, stage, tuple(f"id-{need}" for need in needs), on)


def go(*nodes: Node, **states: JobState) -> tuple[list[str], dict[str, str]]:
    """Names of what is ready, and the reasons of what is skipped."""
    result = advance(nodes, {f"id-{name}": state for name, state in states.items()})
    return [id_[3:] for id_ in result.ready], {id_[3:]: reason for id_, reason in result.skipped}


def test_jobs_without_dependencies_are_ready_in_plan_order():
    assert go(node("b"), node("a")) == (["b", "a"], {})


def test_a_job_is_ready_once_its_dependencies_have_finished():
    jobs = node("a"), node("b"), node("c", "a", "b")
    assert go(*jobs, a=FINISHED, b=JobState.STARTED) == ([], {})
    assert go(*jobs, a=FINISHED, b=FINISHED) == (["c"], {})


@pytest.mark.parametrize("state", [JobState.QUEUED, JobState.STARTED, JobState.RETRYING, *SPOILT, FINISHED])
def test_only_waiting_jobs_become_ready(state):
    assert go(node("a"), a=state) == ([], {})


def test_a_job_that_is_tried_again_has_not_ended():
    assert go(node("a"), node("b", "a"), node("p", stage=POST), a=JobState.RETRYING) == ([], {})


def test_a_later_stage_begins_when_all_of_the_earlier_ones_has_ended():
    jobs = node("x", stage=PRE), node("a"), node("b"), node("p", stage=POST)
    assert go(*jobs) == (["x"], {})
    assert go(*jobs, x=FINISHED) == (["a", "b"], {})
    assert go(*jobs, x=FINISHED, a=FAILED, b=JobState.STARTED) == ([], {})
    assert go(*jobs, x=FINISHED, a=FAILED, b=FINISHED) == (["p"], {})


def test_a_failed_jobs_dependents_are_skipped_at_any_depth_at_once_with_its_name():
    ready, skipped = go(node("a"), node("b", "a"), node("c", "b"), node("d", "c", stage=POST), node("e"), a=FAILED)
    assert ready == ["e"]
    assert skipped == {
        "b": 'it depends on "a", which failed',
        "c": 'it depends on "b", which was skipped ("a" failed)',
        "d": 'it depends on "c", which was skipped ("a" failed)',
    }


@pytest.mark.parametrize(
    ("state", "words"),
    [
        (FAILED, "failed"),
        (SKIPPED, "was skipped"),
        (JobState.CANCELLED, "was cancelled"),
        (JobState.SUPERSEDED, "was superseded"),
    ],
)
def test_the_reason_says_what_became_of_the_dependency(state, words):
    assert go(node("a"), node("b", "a"), a=state)[1] == {"b": f'it depends on "a", which {words}'}


def test_a_job_does_not_wait_for_its_other_dependencies_to_be_skipped():
    assert go(node("a"), node("b"), node("c", "a", "b"), a=FAILED, b=JobState.STARTED)[1].keys() == {"c"}


def test_run_waits_for_all_dependencies_whatever_becomes_of_them():
    jobs = node("a"), node("b"), node("c", "a", "b", on=RUN)
    assert go(*jobs, a=FAILED, b=JobState.STARTED) == ([], {})
    assert go(*jobs, a=FAILED, b=JobState.CANCELLED) == (["c"], {})


def test_what_is_skipped_now_counts_as_ended_now():
    jobs = node("a"), node("b", "a"), node("c", "b", on=RUN), node("p", stage=POST)
    assert go(*jobs, a=FAILED)[0] == ["c"]
    assert go(*jobs[:2], jobs[3], a=FAILED)[0] == ["p"]


@pytest.mark.parametrize("state", SPOILT)
def test_nothing_runs_after_a_pre_job_that_did_not_finish(state):
    jobs = node("anon", stage=PRE), node("a", on=RUN), node("b"), node("p", "a", stage=POST, on=RUN)
    ready, skipped = go(*jobs, anon=state)
    assert ready == []
    assert skipped.keys() == {"a", "b", "p"}
    assert all('"anon"' in reason for reason in skipped.values())


def test_a_pre_job_skipped_just_now_stops_the_later_stages_just_now():
    jobs = node("check", stage=PRE), node("anon", "check", stage=PRE), node("other", stage=PRE), node("a")
    ready, skipped = go(*jobs, check=JobState.CANCELLED)
    assert ready == ["other"]
    assert skipped["a"] == 'nothing runs after stage pre, because its job "check" was cancelled'
    assert go(*jobs[1:], check=FAILED)[1]["a"] == (
        'nothing runs after stage pre, because its job "anon" was skipped ("id-check" failed)'
    )


def test_what_runs_already_is_left_to_itself():
    assert go(node("anon", stage=PRE), node("a"), node("b"), anon=FAILED, a=JobState.STARTED)[1].keys() == {"b"}
    assert go(node("a"), node("b", "a"), a=FAILED, b=JobState.QUEUED) == ([], {})


def test_the_reason_goes_back_to_the_beginning_also_past_what_was_skipped_before():
    jobs = node("a"), node("b", "a"), node("c", "b")
    for nodes in (jobs, jobs[::-1]):
        assert go(*nodes, a=FAILED, b=SKIPPED)[1] == {"c": 'it depends on "b", which was skipped ("a" failed)'}


def test_a_dependency_outside_of_the_plan_counts_as_it_stands():
    assert go(node("b", "gone"))[1] == {"b": 'it depends on "id-gone", which was skipped'}
    assert go(node("b", "gone"), gone=FINISHED) == (["b"], {})
    assert go(node("b", "gone"), gone=JobState.WAITING) == ([], {})


def test_even_a_plan_that_goes_round_in_circles_waits_for_nothing_for_ever():
    ready, skipped = go(node("a", "b"), node("b", "a"), node("p", "x", stage=PRE), node("x"))
    assert ready == []
    assert skipped.keys() == {"a", "b", "p", "x"}
    assert go(node("a", "b"), node("b", "a"), node("c"))[0] == ["c"]


def test_an_empty_plan_and_an_ended_one_ask_for_nothing():
    assert go() == ([], {})
    assert go(node("a"), node("b", "a"), a=FINISHED, b=FAILED) == ([], {})


def test_the_order_of_the_nodes_decides_nothing_but_the_order_of_the_answer():
    jobs = [node("a"), node("b", "a"), node("c", "b"), node("x", stage=PRE), node("p", "c", stage=POST, on=RUN)]
    expected = go(*jobs, x=FINISHED, a=FAILED)
    assert expected == (["p"], expected[1])
    assert go(*reversed(jobs), x=FINISHED, a=FAILED) == expected


# -- whole runs


@small_and_large(125, 41)
def test_a_run_goes_step_by_step_as_the_oracles_and_every_job_ends(case: Case):
    """Random ends of running jobs, cancellations of waiting ones, now and then a successor that supersedes the rest."""
    rng = random.Random(case.seed)
    plan = [
        each for each in make_plan(case.registry, case.series, case.answers).jobs if each.verdict is Verdict.SCHEDULED
    ]
    id_of = {each.key: f"p-{each.position}" for each in plan}
    nodes = [
        Node(
            id_of[each.key],
            each.key.job_name,
            each.job.settings.stage,
            tuple(id_of[key] for key in each.dependencies),
            each.job.settings.on_dependency_failure,
        )
        for each in plan
    ]
    tasks = {
        each.job_id: oracle.Task(each.job_name, each.stage, each.dependencies, each.on_dependency_failure == "run")
        for each in nodes
    }
    world = oracle.World(tasks)
    states: dict[str, JobState] = {}
    stage_of = {each.job_id: each.stage for each in nodes}
    odds = rng.choice([(1, 0, 0), (8, 1, 1), (1, 1, 1)])
    in_order = rng.random() < 0.5
    for _ in range(len(nodes) + 1):
        result = advance(nodes if in_order else rng.sample(nodes, len(nodes)), states)
        assert {id_ for id_, _ in result.skipped} == world.settle()
        assert set(result.ready) == world.startable()
        for id_, reason in result.skipped:
            assert any(f'"{name}"' in reason for name in world.culprits(id_)), reason
            assert any(f'"{name}"' in reason for name in tasks[id_].blame), reason
            assert any(word in reason for word in ("failed", "cancelled", "skipped", "superseded"))
            states[id_] = SKIPPED
        for id_ in result.ready:
            for before in nodes:
                if before.job_id in tasks[id_].needs or before.stage.position < stage_of[id_].position:
                    assert states[before.job_id].ended, "started before what it waits for"
            states[id_] = rng.choice([JobState.QUEUED, JobState.STARTED])
            tasks[id_].state = states[id_].value
        again = advance(nodes, states)
        assert (again.ready, again.skipped) == ((), ()), "what is decided stays decided"
        running = [id_ for id_, state in states.items() if not state.ended]
        if not running:
            break
        ends = {
            id_: rng.choices([FINISHED, FAILED, JobState.CANCELLED], odds)[0] for id_ in running if rng.random() < 0.5
        }
        ends = ends or {running[0]: FINISHED}
        waiting = [each.job_id for each in nodes if each.job_id not in states]
        if waiting and rng.random() < 0.05:
            ends[rng.choice(waiting)] = JobState.CANCELLED
        if waiting and rng.random() < 0.02:
            ends |= dict.fromkeys(waiting, JobState.SUPERSEDED)
        for id_, state in ends.items():
            states[id_], tasks[id_].state = state, state.value
    assert len(states) == len(nodes)
    assert all(state.ended for state in states.values()), "nothing waits for ever"


@settings(deadline=None, max_examples=150)
@given(st.data())
def test_any_graph_comes_to_an_end(data: st.DataObject):
    """Also one no plan would hold: with cycles, and with dependencies on later stages."""
    names = [f"j{i}" for i in range(data.draw(st.integers(0, 6)))]
    some = st.lists(st.sampled_from([*names, "stranger"]), max_size=3)
    jobs = [
        node(
            name,
            *data.draw(some),
            stage=data.draw(st.sampled_from(list(Stage))),
            on=data.draw(st.sampled_from([SKIP, RUN])),
        )
        for name in names
    ]
    states: dict[str, JobState] = {}
    for _ in range(len(jobs) + 1):
        result = advance(jobs, states)
        states |= dict.fromkeys((id_ for id_, _ in result.skipped), SKIPPED)
        states |= {id_: data.draw(st.sampled_from([FINISHED, FAILED])) for id_ in result.ready}
    assert len(states) == len(jobs)


def _shapes(size: int) -> dict[str, tuple[list[Node], dict[str, JobState]]]:
    chain = [node("0"), *(node(str(i), str(i - 1)) for i in range(1, size))]
    flat = [node(str(i)) for i in range(size - 1)]
    return {
        "a chain whose first job failed": (chain, {"id-0": FAILED}),
        "the same, last job first": (chain[::-1], {"id-0": FAILED}),
        "a chain that runs": (chain, {"id-0": JobState.STARTED}),
        "all ready": (flat, {}),
        "one that waits for all": (
            [*flat, node("last", *(str(i) for i in range(size - 1)))],
            {each.job_id: FAILED for each in flat},
        ),
        "all after a pre job that failed": ([node("x", stage=PRE), *flat], {"id-x": FAILED}),
    }


@pytest.mark.parametrize("shape", _shapes(1))
def test_twice_the_jobs_cost_twice_the_steps(shape):
    once, twice = (_steps(*_shapes(size)[shape]) for size in (500, 1000))
    assert twice <= 2.1 * once


def _steps(nodes, states) -> int:
    """Lines of code that run."""
    count = 0

    def step(_frame, event, _arg):
        nonlocal count
        count += event == "line"
        return step

    before = sys.gettrace()
    sys.settrace(step)
    try:
        advance(nodes, states)
    finally:
        sys.settrace(before)
    return count
