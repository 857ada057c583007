"""The long run: `python -m tests.faults --seed 1 --studies 500 --faults 200`. Ctrl-C ends it early, and judges."""

import argparse
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console
from rich.live import Live
from rich.text import Text

from tests.faults import campaign, repairs, report
from tests.faults.controller import WITHOUT
from tests.faults.stand import Stand


def main() -> int:
    """Run it, show what came of it; 0 where nothing was found."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--seed", type=int, default=1, help="decides studies, services and faults")
    parser.add_argument("--studies", type=int, default=500)
    parser.add_argument("--faults", type=int, default=200)
    parser.add_argument("--workers", type=int, default=3)
    parser.add_argument(
        "--without", nargs="+", choices=sorted(WITHOUT), help="instead: show that these repairs are needed"
    )
    parser.add_argument("--keep", type=Path, help="an empty folder for all files, which then stay")
    parser.add_argument("--markdown", type=Path, help="write the table into this file too")
    options = parser.parse_args()
    console = Console()
    folder = options.keep or Path(tempfile.mkdtemp(prefix="faults-"))
    began = time.monotonic()

    def told(what: str) -> None:
        console.print(f"{time.monotonic() - began:7.1f} s  {what}", highlight=False)

    if options.without:
        shown = repairs.show(folder, options.without, told)
        return 0 if all(each.without and not each.repaired for each in shown.values()) else 1
    command = f"python -m tests.faults --seed {options.seed} --studies {options.studies} --faults {options.faults}"
    command += f" --workers {options.workers}"
    told(command)
    with Stand(folder, options.workers) as stand:
        running = campaign.drawn(stand, options.seed, options.studies, options.faults, told)
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: running.end())
        with Live(get_renderable=lambda: Text(running.progress), console=console, refresh_per_second=1):
            result = running.run()
    report.show(result, console)
    if options.markdown is not None:
        options.markdown.write_text(report.markdown(result, command), encoding="utf-8")
    if options.keep is None and not result.findings:
        shutil.rmtree(folder)
    else:
        console.print(f"all files are in {folder}", highlight=False)
    return 1 if result.findings else 0


if __name__ == "__main__":
    sys.exit(main())
