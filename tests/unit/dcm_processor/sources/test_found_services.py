"""Which services a source holds, and which of them are meant."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from dcm_processor.errors import ServiceError, SourceError, UsageError
from dcm_processor.sources.found_services import choose, refuse_missing

Make = Callable[..., Path]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Makes a service's folder in the source, called so by its settings."""

    def service(path: str, name: str, settings: str | None = None) -> Path:
        folder = tmp_path / "top" / path
        (folder / "registry").mkdir(parents=True)
        (folder / "module").mkdir()
        job = {"jobName": name, "worker": f"{name}.worker", "callback": f"{name}.deep.callback"}
        (folder / "registry" / "settings.json").write_text(settings or json.dumps([job]))
        return folder

    (tmp_path / "top").mkdir()
    return service


def test_a_source_that_is_a_service_is_the_one_that_is_meant(make: Make, tmp_path: Path) -> None:
    top = make(".", "lung")
    assert choose(top, "lung") == {"lung": top}
    assert choose(top, "other") == {"other": top}  # its settings will be refused, with field and reason
    assert choose(top, None) == {"lung": top}


def test_all_services_of_a_source_are_found_by_the_names_their_settings_give(make: Make, tmp_path: Path) -> None:
    folders = {"lung": make("services/a", "lung"), "brain": make("b", "brain")}
    make("services/a/module/example", "inner")  # part of a service, and none itself
    make(".hidden/x", "hidden")
    assert choose(tmp_path / "top", None) == folders
    assert choose(tmp_path / "top", "lung") == {"lung": folders["lung"]}


def test_the_only_service_of_an_archive_s_top_folder_is_taken(make: Make, tmp_path: Path) -> None:
    folder = make("lung-1.2", "lung")
    assert choose(tmp_path / "top", "lung") == {"lung": folder}


@pytest.mark.parametrize("settings", ["{", "[]", "[1]", '{"worker": "a.b", "callback": "c.d"}', '{"worker": 1}'])
def test_settings_that_give_no_one_name_leave_it_to_the_folder(make: Make, tmp_path: Path, settings: str) -> None:
    folders = {"first": make("first", "", settings), "other": make("second", "other")}
    assert choose(tmp_path / "top", None) == folders


def test_a_source_that_does_not_tell_its_only_service_s_name_has_to_be_given_one(make: Make) -> None:
    top = make(".", "lung", "{")
    with pytest.raises(UsageError, match="name it"):
        choose(top, None)
    assert choose(top, "lung") == {"lung": top}


def test_what_is_not_clear_is_refused_with_what_there_is(make: Make, tmp_path: Path) -> None:
    make("lung", "lung"), make("brain", "brain")
    with pytest.raises(
        UsageError, match=r'no service lang; did you mean "lung"\?; there are: brain in brain, lung in lung'
    ):
        choose(tmp_path / "top", "lang")
    make("copy/lung", "lung")
    for name in ("lung", None):
        with pytest.raises(UsageError, match=r"copy/lung.*#subdirectory=PATH chooses one"):
            choose(tmp_path / "top", name)


def test_a_source_without_any_service_says_what_one_is(tmp_path: Path) -> None:
    (tmp_path / "src").mkdir()
    for name in ("lung", None):
        with pytest.raises(ServiceError, match="a service is a folder with"):
            choose(tmp_path, name)


def test_symlinks_are_not_followed_in_search_of_services(make: Make, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    make("lung", "lung").rename(outside)
    (tmp_path / "top" / "lung").symlink_to(outside)
    (tmp_path / "top" / "half" / "module").mkdir(parents=True)
    (tmp_path / "top" / "half" / "registry").symlink_to(outside / "registry")
    with pytest.raises(ServiceError, match="a service is a folder with"):
        choose(tmp_path / "top", None)


def test_a_file_that_did_not_come_matters_to_the_service_that_has_it_alone(make: Make, tmp_path: Path) -> None:
    top, lung, brain = tmp_path / "top", make("lung", "lung"), make("brain", "brain")
    missing = {Path("lung/module/weights.bin"): "it is kept in git LFS", Path("third_party"): "it is a submodule"}
    refuse_missing(top, {"brain": brain}, missing)
    with pytest.raises(SourceError, match=r"service lung needs lung/module/weights\.bin, and it is kept in git LFS"):
        refuse_missing(top, {"lung": lung, "brain": brain}, missing)
