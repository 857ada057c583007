"""A pytest plugin for pytest-xdist: the tests of one file run in one process, and those in containers all in one.

So what files share is started once, and there is one stack in containers, which its tests wait for most of the time.
With them run those in a browser, which drops what it loads whenever a network of containers comes or goes. test.sh
loads it.
"""

import gc
import os

import pytest
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling


class ByFile(LoadScopeScheduling):
    """A file at a time to whoever is free."""

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        return "containers" if file.startswith(("tests/browser/", "tests/containers/")) else file


def pytest_collection_finish() -> None:
    """What was imported and collected stays: no later collection looks at it again."""
    gc.collect()
    gc.freeze()


@pytest.hookimpl(tryfirst=True)
def pytest_xdist_auto_num_workers() -> int:
    """One process more than there are cores: most tests wait most of the time. Not more than four, however many."""
    return min(len(os.sched_getaffinity(0)) + 1, 4)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> ByFile:
    return ByFile(config, log)
