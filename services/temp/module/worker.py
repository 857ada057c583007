"""The work of the job `temp`. This file runs on a worker, in an environment made from requirements.txt beside it.

The function runs in a process of its own: it may use much memory, take long, or crash; that ends this job and no other.
What it prints is the job's log, readable while it runs: `dcm-processor job log JOB -f`.
"""

import json
from pathlib import Path


def worker(jobName, headers, params, added_params, dicom_dir, output_dir, inputs, **kwargs):
    """Count the files of each series and write what was found to output_dir.

    Arguments come by name; leave out what you do not need.

    jobName       the job's name: "temp"
    headers       as the callback saw them
    params        "params" from settings.json
    added_params  what the callbacks of this study returned as their dict, by job name or service name
    dicom_dir     folder with the study's files, read-only: one sub-folder a series, named by Orthanc's identifier
    output_dir    an empty folder; what is in it at the end is the job's result: DATA/results/<studyId>/temp
    inputs        folders with the results of the jobs in "dependsOn": {"jobName": folder}
    kwargs        outcomes, studyId, planId, attempt, and whatever later versions may add
    """
    found = added_params["temp"]
    print(f"{jobName}: the callback counted {found['numberOfInstances']} instances")

    series = []
    for entry in headers["series"]:
        files = sorted(Path(dicom_dir, entry["seriesId"]).glob("*.dcm"))
        print(f"  {entry.get('Modality', '?')}: {len(files)} files")
        series.append(
            {
                "seriesId": entry["seriesId"],
                "modality": entry.get("Modality"),
                "description": entry.get("SeriesDescription"),
                "files": len(files),
                "bytes": sum(file.stat().st_size for file in files),
            }
        )

    # Raising an exception is how a job fails. An exception class named TransientServiceError means "try again later".
    missing = found["numberOfInstances"] - sum(entry["files"] for entry in series)
    if missing:
        raise RuntimeError(f"{missing} of {found['numberOfInstances']} files are not in {dicom_dir}")

    summary = {"title": params["title"], "modalities": found["modalities"], "series": series, "inputs": sorted(inputs)}
    Path(output_dir, "summary.json").write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")

    lines = [params["title"], "", *(f"{entry['modality'] or '?':<4} {entry['files']:>6} files" for entry in series)]
    Path(output_dir, "summary.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")

    # What a worker function returns is not used. Its results are the files in output_dir.
