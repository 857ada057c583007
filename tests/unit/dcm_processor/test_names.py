"""Names of services, and suggestions for names that were mistyped."""

import sys

import pytest

from dcm_processor.errors import ManifestError
from dcm_processor.names import check_service_name, did_you_mean, nearest, required_modules


@pytest.mark.parametrize("name", ["temp", "base", "dcm2nii", "ms-sub", "my_service", "X", "a" * 64])
def test_these_are_names_of_services(name):
    check_service_name(name)


@pytest.mark.parametrize(
    "name", ["", "1a", "-a", "_a", ".a", "..", "../data", "a/b", "a b", "a.b", "a\n", "a\0", "é", "a" * 65, "*", "a;rm"]
)
def test_these_are_not_and_none_of_them_leaves_a_folder(name):
    with pytest.raises(ManifestError, match="is no service name"):
        check_service_name(name)


@pytest.mark.parametrize("name", ["json", "queue", "logging", "Queue", "email"])
def test_a_name_must_not_hide_the_standard_library(name):
    with pytest.raises(ManifestError, match="Python's standard library"):
        check_service_name(name)


@pytest.mark.parametrize(
    "name",
    [
        *("dcm_processor", "dcm-processor", "scheduler", "worker", "dashboard", "pydicom", "numpy", "requests", "rq"),
        *("redis", "flask", "sqlalchemy", "SimpleITK", "nibabel", "rq-dashboard"),
    ],
)
def test_a_name_must_not_hide_the_platform_or_what_it_runs_on(name):
    with pytest.raises(ManifestError, match="would hide a module of the platform"):
        check_service_name(name)


def test_a_name_must_not_hide_its_own_environment():
    check_service_name("torch")
    with pytest.raises(ManifestError, match="the service's own environment"):
        check_service_name("torch", environment=["numpy", "Torch"])


@pytest.mark.parametrize(
    ("requirements", "modules"),
    [
        ("torch\n", {"torch"}),
        ("  Torch==2.9.0 \\\n    --hash=sha256:00\n", {"torch"}),
        ("nnU-Net.v2[gpu] >= 2 ; python_version > '3'  # why\n", {"nnu_net_v2"}),
        ("scikit-learn\nPillow<12\nopencv_python-headless~=4.1", {
            "scikit_learn", "sklearn", "pillow", "PIL", "opencv_python_headless", "cv2"
        }),
        ("monai @ https://example.org/monai.whl\nraw#x", {"monai", "raw"}),
        ("# torch\n-r more.txt\n--index-url https://torch\n./torch.whl\nhttps://torch/x.whl\ngit+ssh://torch\n", set()),
        ("\0\ufffd\n", set()),
    ],
)  # fmt: skip
def test_a_requirements_file_tells_which_modules_it_brings(requirements: str, modules: set[str]) -> None:
    assert required_modules(requirements) == modules


def test_the_platforms_own_modules_are_all_refused():
    """Whatever our programs import must stay ours."""
    import dcm_processor.manifest  # noqa: F401 - for what it imports

    for module in {
        name.partition(".")[0] for name in sys.modules if name.startswith(("pydantic", "annotated", "typing"))
    }:
        with pytest.raises(ManifestError):
            check_service_name(module)


def test_the_nearest_name_is_found_across_case_and_separators():
    known = ["dependsOn", "sortPosition", "timeout"]
    assert nearest("depends_on", known) == "dependsOn"
    assert nearest("SORTPOSITION", known) == "sortPosition"
    assert nearest("time-out", known) == "timeout"
    assert nearest("tiemout", known) == "timeout"
    assert nearest("wholly other", known) is None
    assert nearest("x" * 100_000, known) is None
    assert did_you_mean("tiemout", known) == '; did you mean "timeout"?'
    assert did_you_mean("wholly other", known) == ""
