"""The base services' functions, found and called as the platform does it."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dcm_processor.contract import AddedParams, Headers, ServiceFinder, call, resolve
from dcm_processor.manifest import Defaults, parse_manifest
from dcm_processor.vocabulary import Level

SERVICES = Path(__file__).resolve().parents[3] / "services"


class Service:
    """A service of the checkout."""

    def __init__(self, name: str) -> None:
        self.name = name
        defaults = Defaults(Level.STUDY, "default", ("default",))
        parsed = parse_manifest((SERVICES / name / "registry" / "settings.json").read_bytes(), name, defaults)
        assert not parsed.faults
        assert not parsed.warnings
        [self.job] = parsed.jobs

    def callback(self, headers: dict[str, Any], **more: Any) -> Any:
        return self._call("registry", self.job.callback, headers, more)

    def worker(self, headers: dict[str, Any], **more: Any) -> None:
        self._call("module", self.job.worker, headers, more)

    def _call(self, part: str, dotted: str, headers: dict[str, Any], more: dict[str, Any]) -> Any:
        folder = SERVICES / self.name / part
        finder = ServiceFinder({self.name: folder})
        sys.meta_path.insert(0, finder)
        try:
            offered = {"jobName": self.job.job_name, "headers": Headers(headers), "params": self.job.params}
            return call(resolve(dotted, folder), **{**offered, "added_params": AddedParams({}, {}), **more})
        finally:
            sys.meta_path.remove(finder)
            for module in [module for module in sys.modules if module.partition(".")[0] == self.name]:
                del sys.modules[module]


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Service]:
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    return Service
