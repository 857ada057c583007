"""A server that a test needs: on somebody's own machine its tests are left out, in CI they fail."""

import pytest

from tests.servers import require


@pytest.mark.parametrize(("ci", "expected"), [("true", pytest.fail.Exception), ("", pytest.skip.Exception)])
def test_what_is_missing(monkeypatch: pytest.MonkeyPatch, ci: str, expected: type[BaseException]) -> None:
    monkeypatch.setenv("CI", ci)
    with pytest.raises(expected, match=r"Orthanc is missing.*: apt-get install orthanc"):
        require(None, "Orthanc", "apt-get install orthanc")


def test_what_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CI", "true")
    require("/usr/sbin/Orthanc", "Orthanc", "apt-get install orthanc")
