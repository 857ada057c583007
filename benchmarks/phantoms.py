"""The demo's sample studies: what making them costs, against reading their files and writing them again.

    .venv/bin/python benchmarks/phantoms.py [--rounds 5]

Of each the quickest of some rounds, in seconds of processor time. Exit status 1 above the limit.
"""

import argparse
import io
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import pydicom

from dcm_processor.phantoms import make_samples

LIMIT = 20.0


def seconds(act: Callable[[], object]) -> float:
    began = time.process_time()
    act()
    return time.process_time() - began


def write_again(files: list[Path]) -> None:
    for file in files:
        pydicom.dcmread(file).save_as(io.BytesIO())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory() as name:
        folders = [Path(name, str(number)) for number in range(rounds)]
        made = min(seconds(partial(make_samples, folder)) for folder in folders)
        files = [path for path in folders[0].rglob("*") if path.is_file()]
        written = min(seconds(partial(write_again, files)) for _ in range(rounds))
    print(f"{len(files)} files: made in {made:.2f} s, read and written again in {written:.2f} s")
    print(f"ratio {made / written:.1f} (limit {LIMIT:.0f})")
    return 0 if made <= LIMIT * written else 1


if __name__ == "__main__":
    sys.exit(main())
