"""One stack for the tests that can share it; each test leaves it running, with four workers and no services."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.containers.stack import ContainerStack, engine_answers
from tests.servers import require
from tests.waiting import wait_until


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The first test that is here waits for the images, which are made meanwhile."""
    here = [item for item in items if item.path.is_relative_to(Path(__file__).parent)]
    for item in here[:1]:
        item.add_marker(pytest.mark.timeout(900))


@pytest.fixture(scope="session", autouse=True)
def images(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Our images, built as `bash build.sh` builds them."""
    require(os.geteuid() == 0, "root", "these tests have containers belong to another user")
    require(
        engine_answers(), "a Docker engine with Compose v2", "install docker.io and the Compose plugin, start dockerd"
    )
    _wait_for_base_images()
    builder = ContainerStack(tmp_path_factory.mktemp("builder"), "builder")
    done = builder.bash("build.sh")
    assert done.returncode == 0, done.stdout + done.stderr


def _wait_for_base_images() -> None:
    """Where .ci/run has them made meanwhile."""
    if (ready := os.environ.get("IMAGES_READY")) is None:
        return
    wait_until(Path(ready).exists, 500, "the images that ours are built from")
    status, said = Path(ready).read_text().strip(), Path(f"{ready}.log").read_text()
    assert status == "0", f"the images that ours are built from were not made ({status}):\n{said}"


@pytest.fixture(scope="session")
def session_stack(images: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ContainerStack]:
    stack = ContainerStack(tmp_path_factory.mktemp("containers"), "shared")
    try:
        yield stack
    finally:
        stack.down()


@pytest.fixture
def stack(session_stack: ContainerStack) -> ContainerStack:
    """Up with four workers, no service installed."""
    session_stack.fresh()
    return session_stack


@pytest.fixture
def make_stack(images: None, tmp_path: Path) -> Iterator["StackMaker"]:
    """Makes stacks of one test's own, and stops them."""
    maker = StackMaker(tmp_path)
    yield maker
    for made in maker.stacks:
        made.down()


class StackMaker:
    """Remembers what it made."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.stacks: list[ContainerStack] = []

    def __call__(self, name: str, **settings: str) -> ContainerStack:
        made = ContainerStack(self._folder / name, name, **settings)
        self.stacks.append(made)
        return made
