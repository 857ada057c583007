"""`dcm-processor --help`, against a Python that does nothing; for orientation, a verb's help.

.venv/bin/python benchmarks/command_line.py [RUNS]
"""

import statistics
import subprocess
import sys
import time
from collections.abc import Sequence

LIMIT = 0.150  # seconds
COMMANDS = {
    "python -c pass": ("-c", "pass"),
    "dcm-processor --help": ("-m", "dcm_processor.cli", "--help"),
    "dcm-processor service --help": ("-m", "dcm_processor.cli", "service", "--help"),
    "dcm-processor study list --help": ("-m", "dcm_processor.cli", "study", "list", "--help"),
}


def seconds(arguments: Sequence[str]) -> float:
    began = time.perf_counter()
    subprocess.run([sys.executable, *arguments], stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - began


def main() -> None:
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else 20
    took: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for _ in range(runs):  # in turn, so that what else the machine does meets all of them
        for name, arguments in COMMANDS.items():
            took[name].append(seconds(arguments))
    medians = {name: statistics.median(each) for name, each in took.items()}
    nothing = medians["python -c pass"]
    for name, median in medians.items():
        print(f"{name:34} {1000 * median:6.0f} ms  {median / nothing:5.1f} x")
    sys.exit(medians["dcm-processor --help"] > LIMIT)


if __name__ == "__main__":
    main()
