"""What a worker function meets: its arguments, its modules, its environment, its folders, its log."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dcm_processor import job_helper
from dcm_processor.vocabulary import ExitReason
from tests.integration.worker.conftest import SERIES, STUDY, Stand
from tests.waiting import wait_until
from tests.wheels import make_wheel

SHOW = """
import json, os, sys
def show(output_dir, value):
    open(output_dir + "/shown.json", "w").write(json.dumps(value, default=repr))
"""


def run(stand: Stand, code: str, **values: Any) -> Any:
    """Install the code, run it, and give what it showed."""
    files = {key: values.pop(key) for key in ("helper", "__init__", "requirements") if key in values}
    stand.service(SHOW + code, name=values.get("worker", "svc.").split(".")[0], **files)
    stand.start()
    stand.enqueue(**values)
    outcome = stand.outcome(seconds=60)
    assert outcome.exitReason is ExitReason.DONE, outcome
    return json.loads(stand.output().joinpath("shown.json").read_text())


def test_every_argument(stand: Stand) -> None:
    """With **kwargs a function gets all there is; folders are absolute."""
    headers = {
        "patientId": "p", "studyId": STUDY, "seriesIds": [SERIES], "dcmpath": f"dicom/{STUDY}", "StudyDate": "20240102",
        "series": [{"seriesId": SERIES, "dcmpath": f"dicom/{STUDY}/{SERIES}", "Modality": "MR"}],
    }  # fmt: skip
    plan = stand.plan(
        headers=headers,
        injected={"first": {"a": 1}, "each": {SERIES: {"b": 2}, "other": {"b": 3}}},
        seriesJobs=["each"],
        services={"first": "one", "each": "two"},
    )
    shown = run(
        stand,
        "def work(**kwargs):\n"
        "    kwargs['by_service'] = kwargs['added_params']['one']\n"
        "    show(kwargs['output_dir'], kwargs)\n",
        plan=plan,
        seriesId=SERIES,
        params={"threshold": 3},
        inputs={"first": f"results/{STUDY}/first", "each": {SERIES: f"results/{STUDY}/each/{SERIES}"}},
        outcomes={"first": {"state": "finished", "reason": None}},
    )
    data = stand.base / "data"
    assert shown == {
        "jobName": "job",
        "headers": {**headers, **headers["series"][0]},  # type: ignore[dict-item]
        "params": {"threshold": 3},
        "added_params": {"first": {"a": 1}, "each": {"b": 2}},
        "by_service": {"a": 1},
        "dicom_dir": f"{data}/dicom/{STUDY}/{SERIES}",
        "output_dir": f"{data}/attempts/job-1",
        "inputs": {
            "first": f"{data}/results/{STUDY}/first",
            "each": {SERIES: f"{data}/results/{STUDY}/each/{SERIES}"},
        },
        "outcomes": {"first": {"state": "finished", "reason": None}},
        "studyId": STUDY,
        "planId": "plan-1",
        "attempt": 1,
    }


def test_a_function_gets_only_what_it_names(stand: Stand) -> None:
    shown = run(stand, "def work(jobName, output_dir, *, attempt):\n    show(output_dir, [jobName, attempt])\n")
    assert shown == ["job", 1]


def test_reading_a_header_that_is_not_selected_is_said_in_the_log(stand: Stand) -> None:
    run(stand, "def work(headers, output_dir):\n    show(output_dir, headers.get('PatientAge'))\n")
    assert "headers['PatientAge'] was read, but HEADER_FIELDS does not select it" in stand.log()


def test_packages_of_other_services_are_importable(stand: Stand) -> None:
    """In the version the plan was enqueued with, with or without `__init__.py` and hyphen, in child processes too."""
    old, new = "1" * 32, "2" * 32
    stand.service("", name="base", digest=old, tools="VALUE = 'old'\n")
    stand.service(
        "", name="base", digest=new, tools="from base import more\nVALUE = more.VALUE\n", more="VALUE = 'new'\n"
    )
    stand.service("", name="ms-sub", digest=old, __init__="from .tools import VALUE\n", tools="VALUE = 'init'\n")
    shown = run(
        stand,
        """
import base.tools
from concurrent.futures import ProcessPoolExecutor
from importlib import import_module
from multiprocessing import get_context

def value():
    return import_module("ms-sub").VALUE

def work(output_dir, **kwargs):
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        show(output_dir, [base.tools.VALUE, value(), pool.submit(value).result()])
""",
        plan=stand.plan(current={"base": new, "ms-sub": old, "svc": new}),
    )
    assert shown == ["new", "init", "init"]


def test_packages_of_other_services_hide_nothing(stand: Stand) -> None:
    """The standard library, the service's own package and files, and its environment come first."""
    digest = "1" * 32
    for name in ("json", "svc", "helper", "nibabel", "other"):
        stand.service("", name=name, digest=digest, __init__="SIBLING = True\n")
    shown = run(
        stand,
        """
def work(output_dir, **kwargs):
    import helper, importlib.util, json, nibabel, other, svc
    show(output_dir, [hasattr(module, "SIBLING") for module in (helper, json, nibabel, other, svc)])
""",
        helper="",
        requirements="nibabel",
        plan=stand.plan(current=dict.fromkeys(("json", "svc", "helper", "nibabel", "other"), digest)),
    )
    assert shown == [False, False, False, True, False]


def test_siblings_are_importable_in_every_way(stand: Stand) -> None:
    """As modules of the service's package, relatively, and by their bare names; the standard library is safe."""
    shown = run(
        stand,
        """
def work(output_dir, **kwargs):
    import svc.helper
    from . import helper as relative
    import helper as bare
    import json as standard
    show(output_dir, [svc.helper.VALUE, relative.VALUE, bare.VALUE, hasattr(standard, "dumps")])
""",
        helper="VALUE = 7\n",
    )
    assert shown == [7, 7, 7, True]


def test_a_service_with_a_hyphen_and_a_function_named_from_the_package(stand: Stand) -> None:
    shown = run(
        stand, "def work(output_dir, **kwargs):\n    show(output_dir, __name__)\n", worker="ms-sub.work", helper=""
    )
    assert shown == "ms-sub.job"


def test_nothing_of_the_platform_is_importable(stand: Stand) -> None:
    """A service's dependencies are its own: neither our packages nor our environment's can be met by accident."""
    shown = run(
        stand,
        """
def work(output_dir, **kwargs):
    import importlib.util
    ours = ("dcm_processor", "worker", "redis", "rq", "pydantic", "uv")
    found = [name for name in ours if importlib.util.find_spec(name)]
    show(output_dir, {"found": found, "path": sys.path, "argv": len(sys.argv)})
""",
    )
    assert shown["found"] == []
    assert not [place for place in shown["path"] if place.startswith(str(Path(__file__).parents[3]))]


def test_the_environment_is_exactly_what_the_contract_says(stand: Stand) -> None:
    """No secret but Orthanc's, and nothing that happened to stand in the worker's own environment."""
    code = "def work(output_dir, **kwargs):\n    show(output_dir, [dict(os.environ), os.getcwd(), os.listdir()])\n"
    stand.environ |= {"REDIS_PASSWORD": "secret", "PYTHONPATH": "/somewhere", "HTTPS_PROXY": "http://proxy:3128"}
    stand.environ |= {"NO_PROXY": "intra.example", "TZ": "Europe/Berlin"}
    environ, cwd, files = run(stand, code)
    path = environ.pop("PATH").split(":")
    environ.pop("LC_CTYPE", None)  # set by Python itself
    assert "/envs/" in path[0]
    tmpdir = Path(environ.pop("TMPDIR"))
    assert len(str(tmpdir)) < 60  # room for the names of sockets
    cache = f"{stand.base}/cache/svc"
    proxies = {
        "HTTPS_PROXY": "http://proxy:3128",
        "NO_PROXY": "intra.example,localhost,127.0.0.1,::1,orthanc,scheduler,redis",
    }
    assert environ == {
        "DATA": f"{stand.base}/data", "LOGS": f"{stand.base}/logs", "MODULES": f"{stand.base}/modules",
        "ORTHANC_REST_URL": "http://127.0.0.1:9", "ORTHANC_REST_USERNAME": "dcmproc",
        "ORTHANC_REST_PASSWORD": "orthanc-secret",
        "HOME": cache, "XDG_CACHE_HOME": f"{cache}/.cache",
        "TORCH_HOME": f"{cache}/torch", "HF_HOME": f"{cache}/huggingface",
        "LANG": "C.UTF-8", "TZ": "Europe/Berlin",
        "DCM_PROCESSOR_NOTES": f"{stand.spooled()}/notes", "PYTHONPATH": str(job_helper.FOLDER),
        **proxies, **{key.lower(): value for key, value in proxies.items()},
    }  # fmt: skip
    assert (cwd, files) == (f"{stand.spooled()}/scratch", ["tmp"])
    wait_until(lambda: not Path(cwd).exists() and not tmpdir.is_symlink(), 5, "scratch and TMPDIR go with the job")


def test_the_job_is_what_the_kernel_kills_first_and_leaves_no_core(stand: Stand) -> None:
    shown = run(
        stand,
        """
def work(output_dir, **kwargs):
    import resource
    show(output_dir, [open("/proc/self/oom_score_adj").read().strip(), resource.getrlimit(resource.RLIMIT_CORE)[0],
                      sorted(int(fd) for fd in os.listdir("/proc/self/fd"))[:6], os.getsid(0) == os.getpid()])
""",
    )
    score, core, descriptors, own_session = shown
    assert (score, core, own_session) == ("1000", 0, True)
    assert set(descriptors) <= {0, 1, 2, 3, 4, 5}  # 3: messages; 4: the listing itself; 5: says that it returned


@pytest.mark.parametrize(
    ("ending", "aside"),
    [
        ("pass", None),
        ("open(output_dir, 'w').close()", Path.is_file),
        ("os.symlink('/etc', output_dir)", Path.is_symlink),
    ],
)
def test_there_is_an_output_folder_whatever_the_function_did_to_it(
    stand: Stand, ending: str, aside: Callable[[Path], bool] | None
) -> None:
    """Deleted, it would leave the results of an earlier run in place; a symlink would be published as it is."""
    stand.service(f"import os\ndef work(output_dir, **kwargs):\n    os.rmdir(output_dir)\n    {ending}\n")
    stand.start()
    stand.enqueue()
    assert stand.outcome(seconds=60).exitReason is ExitReason.DONE
    output = stand.output()
    assert output.is_dir()
    assert not output.is_symlink()
    assert list(output.iterdir()) == []
    assert aside is None or aside(output.with_name("job-1.misplaced"))


def test_processes_that_multiprocessing_spawns_find_the_service(stand: Stand) -> None:
    shown = run(
        stand,
        """
def double(number):
    return 2 * number

def work(output_dir, **kwargs):
    import multiprocessing
    results = []
    for method in ("fork", "spawn", "forkserver"):
        with multiprocessing.get_context(method).Pool(2) as pool:
            results.append(pool.map(double, [1, 2, 3]))
    show(output_dir, results)
""",
    )
    assert shown == [[2, 4, 6]] * 3


def test_the_log_can_be_read_while_the_job_runs(stand: Stand) -> None:
    """From the stream, within a second, although nobody flushed; and the end of it after the job."""
    stand.service("import time\ndef work(**kwargs):\n    print('line one')\n    time.sleep(3)\n    print('line two')\n")
    stand.start()
    stand.enqueue()
    stand.started()
    wait_until(lambda: stand.spooled().joinpath("log").exists() and stand.log(), 10, "a line")
    printed = time.monotonic()
    wait_until(lambda: stand.shipped() == b"line one\n", 2, "line one is shipped")
    assert time.monotonic() - printed < 1.0
    assert not stand.reports("job-1", "outcome")
    stand.outcome()
    wait_until(lambda: stand.shipped() == b"line one\nline two\n", 2, "line two is shipped")


def test_requirements_are_installed_from_a_folder_of_wheels(stand: Stand) -> None:
    """An offline site: WHEEL_DIR alone, without an index."""
    wheels = stand.base / "wheels"
    wheels.mkdir()
    make_wheel(wheels, "tiny_offline_package", "VALUE = 'from the wheel'\n")
    shown = run_with(stand, wheels)
    assert shown == "from the wheel"


def run_with(stand: Stand, wheels: Path) -> Any:
    stand.environ |= {"WHEEL_DIR": str(wheels), "UV_OFFLINE": "1"}
    return run(
        stand,
        "import tiny_offline_package\ndef work(output_dir, **kwargs):\n"
        "    show(output_dir, tiny_offline_package.VALUE)\n",
        requirements="tiny-offline-package==1.0\n",
    )


def test_a_version_of_a_service_stays_as_it_was_installed(stand: Stand) -> None:
    """No bytecode is written into it, by root neither."""
    run(stand, "import helper\ndef work(output_dir, **kwargs):\n    show(output_dir, 1)\n", helper="")
    assert not list((stand.base / "modules").rglob("__pycache__"))


@pytest.mark.parametrize("order", [("high", "default", "low"), ("low", "default", "high")])
def test_queues_are_served_in_the_order_in_which_worker_queues_names_them(
    stand: Stand, tmp_path: Path, order: tuple[str, ...]
) -> None:
    record = tmp_path / "record"
    stand.service(
        f"""
        def work(jobName, **kwargs):
            with open({str(record)!r}, "a") as record:
                print(jobName, file=record)
        """
    )
    for number, queue in enumerate(["default", "low", "high", "default", "low", "high"]):
        stand.enqueue(f"job-{number}", queue=queue, jobName=queue)
    stand.start(QUEUES="high default low", WORKER_QUEUES=" ".join(order))
    wait_until(lambda: record.exists() and len(record.read_text().split()) == 6, 30, "all have run")
    assert record.read_text().split() == sorted(["high", "default", "low"] * 2, key=order.index)
