"""Options that take numbers."""

import click
import pytest
from click.testing import CliRunner

from dcm_processor.cli.number import Number


@pytest.mark.parametrize(("given", "status"), [("0.5", 0), ("nan", 2), ("-nan", 2), ("inf", 2), ("-1", 2), ("x", 2)])
def test_what_is_no_number_in_the_range_is_refused(given: str, status: int) -> None:
    @click.command()
    @click.option("--days", type=Number(min=0, max=10))
    def command(days: float) -> None:
        click.echo(days)

    result = CliRunner().invoke(command, [f"--days={given}"])
    assert result.exit_code == status
    assert result.exception is None or isinstance(result.exception, SystemExit)
