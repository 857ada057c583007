"""The long run: `python -m tests.faults --seed 1 --studies 500 --faults 200`."""

import argparse
import shlex
import shutil
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console

from tests.faults import campaign, report
from tests.faults.controller import WITHOUT


def main() -> int:
    """Run it, show what came of it; 0 where nothing was found."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--seed", type=int, default=1, help="decides studies, services and faults")
    parser.add_argument("--studies", type=int, default=500)
    parser.add_argument("--faults", type=int, default=200)
    parser.add_argument("--workers", type=int, default=3)
    parser.add_argument("--without", choices=sorted(WITHOUT), default="", help="switch a repair off: the run must fail")
    parser.add_argument("--keep", type=Path, help="an empty folder for all files, which then stay")
    parser.add_argument("--markdown", type=Path, help="write the table into this file too")
    options = parser.parse_args()
    console = Console()
    folder = options.keep or Path(tempfile.mkdtemp(prefix="faults-"))
    began = time.monotonic()

    def told(what: str) -> None:
        console.print(f"{time.monotonic() - began:7.1f} s  {what}", highlight=False)

    result = campaign.run(
        folder, options.seed, options.studies, options.faults,
        workers=options.workers, without=options.without, told=told,
    )  # fmt: skip
    report.show(result, console)
    if options.markdown is not None:
        command = shlex.join(["python", "-m", "tests.faults", *sys.argv[1:]])
        options.markdown.write_text(report.markdown(result, command), encoding="utf-8")
    if options.keep is None and not result.findings:
        shutil.rmtree(folder)
    else:
        console.print(f"all files are in {folder}", highlight=False)
    return 1 if result.findings else 0


if __name__ == "__main__":
    sys.exit(main())
