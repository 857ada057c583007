"""The jobs of all services together: names, cycles, and dependencies that lead nowhere."""

import random
from itertools import pairwise

from dcm_processor.manifest import ParsedManifest
from dcm_processor.registry import ServiceRegistry, arrows, combine, validate
from dcm_processor.vocabulary import Stage
from tests.unit.dcm_processor import oracle
from tests.unit.dcm_processor.worlds import Case, job, registry_of, small_and_large


def reasons(*jobs) -> tuple[list[str], list[str]]:
    faults, warnings = validate(registry_of(jobs))
    return [fault.reason for fault in faults], [warning.reason for warning in warnings]


def test_jobs_are_found_by_name_and_by_service():
    registry = combine(
        [("two", "d2", ParsedManifest((job("b"), job("c")))), ("one", "d1", ParsedManifest((job("a"),)))]
    )
    found = registry.job("b")
    assert found is not None
    assert (found.name, found.service, found.digest) == ("b", "two", "d2")
    assert registry.job("nobody") is None
    assert [each.name for each in registry.of_service("two")] == ["b", "c"]


def test_a_name_that_two_services_have_stays_with_the_first_service_by_name():
    second = ParsedManifest((job("a", stage="pre"), job("b")))
    registry = combine([("zeta", "d2", second), ("alpha", "d1", ParsedManifest((job("a"),)))])
    found = registry.job("a")
    assert found is not None
    assert found.service == "alpha"
    assert [each.name for each in registry.jobs] == ["a", "b"]
    (fault,) = registry.faults
    assert str(fault) == (
        'service zeta: registry/settings.json: jobName: job "a" is there already, in service alpha; '
        "give this one another name"
    )
    assert (fault.job, fault.stage) == ("a", Stage.PRE)


def test_faults_of_the_manifests_are_kept():
    broken = ParsedManifest((), (registry_fault := validate(registry_of([job("a", "a")]))[0][0],))
    assert combine([("s", "d", broken)]).faults == (registry_fault,)


def test_a_sound_registry_has_neither_faults_nor_warnings():
    assert reasons(job("a"), job("b", "a"), job("c", ["a", "*"]), job("p", "c", stage="post")) == ([], [])


def test_a_cycle_is_a_fault_of_each_of_its_jobs_with_the_way_round():
    found, _ = reasons(job("a", "b"), job("b", "c"), job("c", "a"), job("d", "a"), job("self", "self"))
    assert found == [
        'job "a" depends on itself: a → b → c → a',
        'job "b" depends on itself: b → c → a → b',
        'job "c" depends on itself: c → a → b → c',
        'job "self" depends on itself: self → self',
    ]


def test_a_fault_is_one_of_the_service_whose_job_it_is():
    registry = combine([("s1", "d", ParsedManifest((job("a", "b"),))), ("s2", "d", ParsedManifest((job("b", "a"),)))])
    faults, _ = validate(registry)
    assert [(fault.service, fault.field, fault.job) for fault in faults] == [
        ("s1", "dependsOn", "a"),
        ("s2", "dependsOn", "b"),
    ]


def test_star_closes_cycles_but_not_with_other_stars():
    assert reasons(job("a", "*"), job("b", "*"))[0] == []
    assert reasons(job("a", "*"), job("b", "a"))[0] == [
        'job "a" depends on itself: a → b → a',
        'job "b" depends on itself: b → a → b',
    ]


def test_a_dependency_on_a_later_stage_is_a_fault():
    assert reasons(job("a", "z", stage="pre"), job("z"))[0] == [
        'job "a" depends on "z" of a later stage: stage pre ends before stage main begins'
    ]


def test_a_dependency_that_is_not_installed_is_a_warning_with_the_nearest_name():
    found = reasons(job("a", ["dcm2ni", "wholly-other"]), job("dcm2nii"))
    assert found == (
        [],
        [
            'job "a" depends on "dcm2ni", which is not installed; did you mean "dcm2nii"?',
            'job "a" depends on "wholly-other", which is not installed',
        ],
    )


def test_a_long_way_round_is_cut_in_its_middle():
    assert arrows(["a", "b", "a"]) == "a → b → a"
    long = arrows([f"j{i}" for i in range(100)])
    assert long.startswith("j0 → j1 → ")
    assert "(89 more)" in long
    assert long.endswith(" → j99")


def test_a_chain_longer_than_pythons_stack_is_no_problem():
    size = 5_000
    jobs = [job(f"j{i}", f"j{i + 1}") for i in range(size)]
    assert not registry_of(jobs).knots
    jobs[-1] = job(f"j{size - 1}", "j0")
    assert len(registry_of(jobs).knots["j0"]) == size
    assert len(registry_of(jobs).cycle("j7")) == size + 1


@small_and_large(75, 25)
def test_cycles_are_those_the_oracle_finds_whatever_the_order_of_the_jobs(case: Case):
    relations = oracle.Relations(case.jobs)
    registry = case.registry
    shuffled = list(case.jobs)
    random.Random(0).shuffle(shuffled)
    assert set(registry.knots) == {name for name in relations.names if relations.in_cycle(name)}
    for name, knot in registry.knots.items():
        assert knot == {other for other in relations.names if relations.same_cycle(name, other)}
        path = registry.cycle(name)
        assert path[0] == path[-1] == name
        assert len(set(path)) == len(path) - 1
        assert all(there in relations.direct[here] for here, there in pairwise(path))
        assert path == registry_of(shuffled).cycle(name) if len(knot) < 10 else True
    later = {each.name for each in registry.jobs if registry.later(each)}
    assert later == {name for name in relations.names if relations.later(name)}


@small_and_large(30, 10)
def test_a_registry_without_faults_skips_nothing_for_its_own_fault(case: Case):
    faults, warnings = validate(case.registry)
    relations = oracle.Relations(case.jobs)
    wrong = {name for name in relations.names if relations.in_cycle(name) or relations.later(name)}
    assert {fault.job for fault in faults} == wrong
    unknown = {
        (each.job_name, name) for each in case.jobs for name in each.depends_on if name not in {*relations.names, "*"}
    }
    assert len(warnings) == len(unknown)


def test_the_empty_registry_is_sound():
    assert validate(ServiceRegistry(())) == ([], [])
