"""Random registries, studies and callback answers for property tests."""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dcm_processor.manifest import JobSettings
from dcm_processor.plan import CallbackOutcome, JobKey
from dcm_processor.registry import Job, ServiceRegistry

STAGES = ("pre", "main", "post")


@dataclass(frozen=True)
class Case:
    """What a plan is made from, and the seed of a run of it."""

    jobs: tuple[JobSettings, ...]
    series: tuple[str, ...]
    answers: dict[JobKey, CallbackOutcome]
    seed: int = 0

    @property
    def registry(self) -> ServiceRegistry:
        return registry_of(self.jobs)


def job(name: str, depends_on: Sequence[str] | str | None = None, **fields: object) -> JobSettings:
    """A job's settings with defaults, camelCase fields as in a settings.json."""
    entry = {"jobName": name, "worker": "svc.work", "callback": "svc.ask", "dependsOn": depends_on, **fields}
    return JobSettings.from_json(entry)


def registry_of(jobs: Sequence[JobSettings]) -> ServiceRegistry:
    return ServiceRegistry(tuple(Job("svc", "0" * 32, each) for each in jobs))


YES, NO = CallbackOutcome(True), CallbackOutcome(False)
BROKEN = CallbackOutcome(False, error="ValueError: no", traceback="Traceback …")


def keys_of(jobs: Sequence[JobSettings], series: Sequence[str]) -> list[JobKey]:
    return [JobKey(each.job_name, one) for each in jobs for one in (series if each.level == "series" else [None])]


@st.composite
def small_cases(draw: st.DrawFn) -> Case:
    """Up to seven jobs, every field drawn: these shrink to the smallest case that fails."""
    names = [f"j{i}" for i in range(draw(st.integers(1, 7)))]
    wanted = st.lists(st.sampled_from([*names, "*", "nobody"]), max_size=3)
    jobs = tuple(
        job(
            name,
            draw(wanted),
            stage=draw(st.sampled_from(STAGES)),
            level=draw(st.sampled_from(("study", "series"))),
            disabled=draw(st.integers(0, 9)) == 9,
            sortPosition=draw(st.integers(-1, 2)),
            **draw(st.sampled_from([{}, {}, {"onDependencyFailure": "run"}, {"onDependencyFailure": "skip"}])),
        )
        for name in names
    )
    series = tuple(f"s{i}" for i in range(draw(st.integers(0, 3))))
    answer = st.sampled_from([YES, YES, YES, YES, NO, BROKEN])
    return Case(jobs, series, {key: draw(answer) for key in keys_of(jobs, series)}, draw(st.integers(0, 1000)))


@st.composite
def large_cases(draw: st.DrawFn) -> Case:
    """Up to 200 jobs, from a seed: most dependencies point one way, a few anywhere."""
    rng = random.Random(draw(st.integers(0, 2**32)))
    size = draw(st.integers(20, 200))
    wild = rng.choice([0, 0, 0.005, 0.05])  # how many dependencies may close a cycle or point to a later stage
    unlucky = rng.choice([0, 0, 0.01, 0.1])  # how many callbacks decline or fail, names are unknown, jobs are disabled
    width = rng.choice([1, 3, 10])
    names = [f"job-{i:03}" for i in range(size)]
    rng.shuffle(names)
    stages = sorted(
        rng.choices(STAGES, weights=rng.choice([(1, 3, 1), (0, 1, 0), (0, 3, 1)]), k=size), key=STAGES.index
    )
    jobs = []
    for i, name in enumerate(names):
        depends_on = []
        for _ in range(rng.randrange(3)):
            if rng.random() < wild:
                depends_on.append(rng.choice(names))
            elif i:
                depends_on.append(names[rng.randrange(max(0, i - 10 * width), i)])
        if rng.random() < 0.03:
            depends_on.append("*")
        if rng.random() < unlucky / 4:
            depends_on.append("nobody")
        jobs.append(
            job(
                name,
                depends_on,
                stage=stages[i],
                level=rng.choice(("study", "study", "series")),
                disabled=rng.random() < unlucky / 4,
                sortPosition=rng.choice([999, 999, 1, 2.5]),
                **rng.choice([{}, {}, {"onDependencyFailure": "run"}]),
            )
        )
    rng.shuffle(jobs)
    series = tuple(f"s{i}" for i in range(rng.randrange(1, 4)))
    luck = [1 - unlucky, unlucky, unlucky / 5]
    answers = {key: rng.choices([YES, NO, BROKEN], luck)[0] for key in keys_of(jobs, series)}
    return Case(tuple(jobs), series, answers, rng.randrange(1000))


def small_and_large(small: int, large: int) -> Callable[[Callable[[Case], None]], Callable[..., None]]:
    """Run a property of a case so many times on small and so many times on large ones; each has its own share."""

    def decorate(check: Callable[[Case], None]) -> Callable[..., None]:
        @pytest.mark.parametrize(
            "run",
            [
                settings(deadline=None, max_examples=small)(given(small_cases())(check)),
                settings(deadline=None, max_examples=large)(given(large_cases())(check)),
            ],
            ids=["small", "large"],
        )
        def test(run: Callable[[], None]) -> None:
            run()

        test.__doc__ = check.__doc__
        return test

    return decorate
