"""Converts one series to NIfTI by dcm2niix (Li et al., 2016), which the PyPI package of that name brings."""

import re
import subprocess
from pathlib import Path

from dcm2niix import bin_path  # the program itself; its script on PATH would only start another Python


def worker(headers, dicom_dir, output_dir, **kwargs):
    """Write `<number>_<description>.nii.gz` and `.json` for each volume of the series.

    Raises RuntimeError where dcm2niix fails, or makes no image.
    """
    command = [str(bin_path), "-z", "i", "-b", "y", "-ba", "y", "-f", file_name(headers), "-o", output_dir, dicom_dir]
    status = subprocess.run(command, stdin=subprocess.DEVNULL, check=False).returncode
    images = sorted(Path(output_dir).glob("*.nii.gz"))
    for image in images:
        print(f"{image.name}: {image.stat().st_size:,} bytes")
    if status != 0:
        raise RuntimeError(
            f"dcm2niix ended with status {status} and {len(images)} images; its own words stand in the log"
        )
    if not images:
        raise RuntimeError("dcm2niix made no image of this series; its own words stand in the log")


def file_name(headers):
    """A name made of the series' number and description: letters, digits and `-` alone, whatever the scanner wrote."""
    number = re.sub(r"[^0-9]", "", str(headers.get("SeriesNumber", "")))[:8] or "0"
    description = re.sub(r"[^A-Za-z0-9]+", "-", str(headers.get("SeriesDescription", "")))[:40].strip("-")
    return f"{number}_{description or 'series'}"
