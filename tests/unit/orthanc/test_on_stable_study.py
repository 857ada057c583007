"""The Lua hook alone, Orthanc's functions stubbed: what it sends, its one log line, and that it never raises."""

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

LUA = Path(__file__).resolve().parents[3] / "orthanc" / "on_stable_study.lua"
STUDY = "27f7126f-4f66fb14-03f4081b-f9341db2-53925988"
ACCEPTED = f'{{"status": "accepted", "studyId": "{STUDY}", "eventId": 1}}'


class Hook:
    """on_stable_study.lua in a Lua of its own; `answer` is what HttpPost gives, or does."""

    def __init__(self, lua: str, environment: dict[str, str]) -> None:
        self.runtime = importlib.import_module(f"lupa.{lua}").LuaRuntime(unpack_returned_tuples=True)
        self.environment = environment
        self.answer: str | Callable[[], str] | None = ACCEPTED
        self.posts: list[tuple[str, str, dict[str, str]]] = []
        self.log: list[str] = []
        self.timeouts: list[float] = []
        names = self.runtime.globals()
        names.print = lambda *texts: self.log.append("\t".join(map(str, texts)))
        names.HttpPost = self._post
        names.os.getenv = self.environment.get
        names.os.execute = None  # the hook must not need a shell
        names.io.popen = None
        self.runtime.execute(LUA.read_text(encoding="utf-8"))

    def _post(self, url: str, body: str, headers: Any) -> str | None:
        self.posts.append((url, body, dict(headers)))
        return self.answer() if callable(self.answer) else self.answer

    def __call__(self, study_id: object = STUDY, tags: object = None, metadata: object = None) -> str:
        """Call the hook; returns its log, which must be one line."""
        self.log.clear()
        self.runtime.globals().OnStableStudy(study_id, tags, metadata)
        [line] = self.log
        assert "\n" not in line
        return line


@pytest.fixture
def token_file(tmp_path: Path) -> Path:
    path = tmp_path / "hook_token"
    path.write_text("s3cret-Token_1\n")
    return path


@pytest.fixture(params=["lua51", "lua52", "lua53", "lua54"])
def hook(request: pytest.FixtureRequest, token_file: Path) -> Hook:
    """In each Lua that an Orthanc may have been built with (Debian's has 5.3)."""
    return Hook(request.param, {"HOOK_URL": "http://scheduler:5000/stable-study", "HOOK_TOKEN_FILE": str(token_file)})


def test_it_posts_the_study_with_the_token(hook: Hook) -> None:
    line = hook()
    assert hook.posts == [
        (
            "http://scheduler:5000/stable-study",
            f'{{"studyId": "{STUDY}"}}',
            {"Authorization": "Bearer s3cret-Token_1", "Content-Type": "application/json"},
        )
    ]
    assert line == f"dcm-processor: study {STUDY} is stable, the scheduler knows"


def test_it_logs_and_sends_nothing_of_the_patient(hook: Hook) -> None:
    tags = hook.runtime.table_from({"PatientName": "Doe^Jane", "StudyDescription": "Head of Jane Doe"})
    assert "Doe" not in hook(STUDY, tags, hook.runtime.table_from({"LastUpdate": "20260101T000000"}))
    assert "Doe" not in repr(hook.posts)


@pytest.mark.parametrize("answer", [None, "", "<html>", '{"status": "accepted"', "null", "[]", '{"status":"no"}'])
def test_an_answer_that_is_no_yes_is_one_line(hook: Hook, answer: str | None) -> None:
    """nil: no answer; '': any HTTP error. The word `accepted` decides, wherever the JSON ends."""
    hook.answer = answer
    line = hook()
    told = answer is not None and '"accepted"' in answer
    assert ("knows" in line) is told
    assert told or "was not told and will find it in the changes" in line


def test_a_function_of_orthanc_that_raises_is_one_line(hook: Hook) -> None:
    def raising() -> str:
        raise RuntimeError("curl is broken")

    hook.answer = raising
    assert "was not told" in hook()


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"HOOK_URL": None}, "HOOK_URL is not set"),
        ({"HOOK_URL": ""}, "HOOK_URL is not set"),
        ({"HOOK_TOKEN_FILE": None}, "HOOK_TOKEN_FILE is not set"),
        ({"HOOK_TOKEN_FILE": ""}, "HOOK_TOKEN_FILE is not set"),
        ({"HOOK_TOKEN_FILE": "/nowhere/hook_token"}, "cannot be read"),
        ({"HOOK_TOKEN_FILE": "/"}, "holds no token"),
    ],
)
def test_what_is_not_set_up_is_named(hook: Hook, change: dict[str, str | None], why: str) -> None:
    for key, value in change.items():
        hook.environment.pop(key)
        if value is not None:
            hook.environment[key] = value
    assert why in hook()
    assert hook.posts == []


@pytest.mark.parametrize("content", ["", "\n", "two words\n", 'x"\r\nX-Evil: 1\n', "ünïcode\n"])
def test_a_token_file_with_anything_else_is_not_sent(hook: Hook, token_file: Path, content: str) -> None:
    """Nothing that could end up as another header."""
    token_file.write_text(content)
    assert "holds no token" in hook()
    assert hook.posts == []


def test_a_new_token_needs_no_restart(hook: Hook, token_file: Path) -> None:
    hook()
    token_file.write_text("  another.one~+/==  \n")
    hook()
    assert [headers["Authorization"] for _, _, headers in hook.posts] == [
        "Bearer s3cret-Token_1",
        "Bearer another.one~+/==",
    ]


@pytest.mark.parametrize("study_id", [None, 7, "", 'x"; os.execute("id")', "27f7126f\n", {}])
def test_a_strange_identifier_is_neither_sent_nor_logged(hook: Hook, study_id: object) -> None:
    line = hook(study_id)
    assert "without a usable identifier" in line
    assert hook.posts == []


def test_it_waits_five_seconds_where_orthanc_can_be_told_so(hook: Hook) -> None:
    """SetHttpTimeout came with Orthanc 1.11.1; before, HttpTimeout of orthanc.json is what counts."""
    hook.runtime.globals().SetHttpTimeout = hook.timeouts.append
    hook()
    assert hook.timeouts == [5]


def test_it_uses_no_shell_and_no_rest_call() -> None:
    """Orthanc's REST API stands still while the hook runs; a shell would take what came over DICOM."""
    source = "\n".join(line.split("--")[0] for line in LUA.read_text(encoding="utf-8").splitlines())
    for forbidden in ("os.execute", "io.popen", "RestApi", "loadstring", "require"):
        assert forbidden not in source
