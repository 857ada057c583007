"""Installing Debian packages: none of their services starts, what is there is left alone, the machine's policy too.

The real script, in a mount namespace whose folders of services are the test's own; apt-get is a stand-in that asks the
policy as Debian's packages do, and brings Orthanc's service.
"""

import os
import subprocess
from pathlib import Path

import pytest

from tests.servers import require

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can install packages")

SCRIPT = Path(__file__).parents[2] / "sh" / "install-packages.sh"
ALLOWS = "#!/bin/sh\nexit 0\n"
APT = """#!/bin/bash
echo "$*" >>"$RECORD/apt"
[[ $* == *update* ]] && exit 0
[[ -e $RECORD/fails ]] && { echo "E: Unable to locate package"; exit 100; }
/usr/sbin/policy-rc.d orthanc start
echo $? >"$RECORD/policy"
touch /etc/init.d/orthanc
"""


class Machine:
    """The folders that the script looks at and changes."""

    def __init__(self, folder: Path) -> None:
        self.record = folder / "record"
        self.sbin, self.init, self.units, self.bin = (folder / name for name in ("sbin", "init.d", "system", "bin"))
        for place in (self.record, self.sbin, self.init, self.units, self.bin):
            place.mkdir()
        for name, text in {"apt-get": APT, "update-rc.d": '#!/bin/bash\necho "$*" >>"$RECORD/disabled"\n'}.items():
            program = self.bin / name
            program.write_text(text)
            program.chmod(0o755)
        self.policy = self.sbin / "policy-rc.d"

    def install(self) -> "subprocess.CompletedProcess[str]":
        mounts = {self.sbin: "/usr/sbin", self.init: "/etc/init.d", self.units: "/lib/systemd/system"}
        binds = " && ".join(
            f"mount --bind '{ours}' {theirs}" for ours, theirs in mounts.items() if Path(theirs).is_dir()
        )
        program = ["unshare", "--mount", "bash", "-c", f'{binds} || exit 77; exec bash "$0" orthanc', str(SCRIPT)]
        environ = os.environ | {"PATH": f"{self.bin}:{os.environ['PATH']}", "RECORD": str(self.record)}
        done = subprocess.run(program, env=environ, capture_output=True, text=True, timeout=60, check=False)
        require(done.returncode != 77, "a mount namespace", "this machine does not let the test make one")
        return done

    def said(self, name: str) -> str:
        path = self.record / name
        return path.read_text() if path.exists() else ""


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_no_service_starts_now_or_at_the_next_boot(machine: Machine) -> None:
    done = machine.install()
    assert (done.returncode, done.stderr) == (0, "")
    assert "install -y --no-install-recommends --no-upgrade orthanc" in machine.said("apt")
    assert machine.said("policy") == "101\n"  # not allowed by policy (Debian's policy-rc.d specification)
    assert machine.said("disabled") == "orthanc disable\n"
    assert list(machine.sbin.iterdir()) == []


def test_an_orthanc_that_was_there_before_stays_as_it_is(machine: Machine) -> None:
    (machine.init / "orthanc").touch()
    assert machine.install().returncode == 0
    assert machine.said("disabled") == ""


@pytest.mark.parametrize("fails", [False, True])
def test_a_policy_of_the_machine_that_allows_starts_does_not_count_meanwhile_and_comes_back(
    machine: Machine, *, fails: bool
) -> None:
    machine.policy.write_text(ALLOWS)
    machine.policy.chmod(0o755)
    if fails:
        (machine.record / "fails").touch()
    done = machine.install()
    assert done.returncode == int(fails)
    assert ("Unable to locate package" in done.stderr) == fails
    assert machine.said("policy") == ("" if fails else "101\n")
    assert {path.name: path.read_text() for path in machine.sbin.iterdir()} == {"policy-rc.d": ALLOWS}


@pytest.mark.parametrize("ours_is_there", [False, True])
def test_what_a_killed_run_left_is_put_right_by_the_next_one(machine: Machine, *, ours_is_there: bool) -> None:
    """Killed before its own policy took the place of the machine's, or after."""
    machine.policy.write_text(ALLOWS)
    machine.policy.with_suffix(".d.own").hardlink_to(machine.policy)
    if ours_is_there:
        machine.policy.unlink()
        machine.policy.write_text("#!/bin/sh\n# written by dcm-processor while it installs packages\nexit 101\n")
    assert machine.install().returncode == 0
    assert {path.name: path.read_text() for path in machine.sbin.iterdir()} == {"policy-rc.d": ALLOWS}
