"""Our PostgreSQL as the ledger, where DATABASE_URL names it: no password stands in the URL."""

from pathlib import Path

from tests.containers.conftest import StackMaker
from tests.containers.stack import docker
from tests.containers.test_promises import confined
from tests.dicom import make_study


def test_a_study_runs_its_jobs_on_our_postgresql(make_stack: StackMaker, tmp_path: Path) -> None:
    stack = make_stack("postgres", DATABASE_URL="postgresql+psycopg://dcmproc@postgres/dcmproc")
    stack.up("--scale", "worker=2")
    stack.install("writes", [{"jobName": "first"}, {"jobName": "second", "dependsOn": "first"}])
    study = make_study(tmp_path)
    stack.send(study)
    stack.finished(study)
    (postgres,) = stack.containers("postgres")
    confined(stack, postgres)
    query = 'PGPASSWORD=$(cat /run/secrets/postgres_password) psql -U dcmproc -Atc "select count(*) from jobs"'
    count = docker("exec", postgres, "sh", "-c", query)
    assert int(count) == 2
    assert not (stack.basedir / "db" / "ledger.sqlite").exists()
