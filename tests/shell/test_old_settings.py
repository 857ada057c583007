"""run.sh names what `.env` still has of the dcm-processor of 2021, and never a value."""

import re

import pytest

from dcm_processor.settings import CHECKOUT
from tests.shell.checkout import Checkout
from tests.shell.test_run import FOREIGN

OLD = {
    "REDIS_PSWD": ("REDIS_PSWD='s3cret'", "REDIS_URL"),
    "WORKER_JOBS": ("WORKER_JOBS='default medium low'", "write WORKER_QUEUES"),
    "DEFUALT_PRIORITY": ("export DEFUALT_PRIORITY=default", "write DEFAULT_PRIORITY"),
    "ORTHANC_DEFUALT_STORE": ("ORTHANC_DEFUALT_STORE = pac", "leave it out"),
    "CLEAN_ORTHANC": ("CLEAN_ORTHANC=1 # yes", "leave it out"),
    "REDIS_HOST=redis_server": ("REDIS_HOST='redis_server'", "write REDIS_HOST=redis"),
    "MODULES=/modules": ("MODULES=/modules", "leave it out"),
    "LOGS=/logs": ('LOGS="/logs"', "leave it out"),
}


@pytest.mark.parametrize("file", [".env", ".env.local"])
def test_each_old_key_is_named_with_its_file_and_what_to_write_instead(ready: Checkout, file: str) -> None:
    with (ready.folder / file).open("a") as lines:
        lines.write("\n".join(line for line, _ in OLD.values()))  # no line end at the end
    done = ready.run("run.sh", "--local", **FOREIGN)
    assert (done.returncode, done.stdout.split()) == (0, ["stack", "up"])
    said = [line for line in done.stderr.splitlines() if "2021" in line]
    assert [re.findall(r"has (\S+), of", line) for line in said] == [[key] for key in OLD]
    assert all(f"warning: {file} has " in line and "docs/migrating.md" in line for line in said)
    assert all(what in line for (_, what), line in zip(OLD.values(), said, strict=True))
    assert "s3cret" not in done.stderr


def test_what_is_ours_is_not_warned_of(ready: Checkout) -> None:
    (ready.folder / ".env.local").write_text("#REDIS_PSWD=x\nREDIS_HOST=redis\nDATA=/srv/data\nNOT_CLEAN_ORTHANC=1\n")
    assert "2021" not in ready.run("run.sh", "--local", **FOREIGN).stderr


def test_in_containers_the_folders_are_as_they_were(bare: Checkout) -> None:
    (bare.folder / ".env.local").write_text("MODULES=/modules\nDATA=/data\n")
    said = bare.bash("source sh/messages.sh; source sh/old_settings.sh; mode=containers; warn_of_old_settings")
    assert (said.returncode, said.stderr) == (0, "")


def test_the_document_has_every_key(bare: Checkout) -> None:
    table = (CHECKOUT / "docs" / "migrating.md").read_text().partition("| then | now |")[2].partition("\n\n")[0]
    keys = {name for row in table.splitlines() for name in re.findall(r"`([^`]+)`", row.partition(" | ")[0])}
    kept = {"MODULES", "DATA", "REGISTRY", "LOGS"}
    assert keys == {key for key in OLD if "=/" not in key} | kept
