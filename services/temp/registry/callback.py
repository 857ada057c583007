"""When does the job `temp` apply? This file is read by the scheduler; settings.json beside it names the function.

The scheduler asks the callback about every study that is stable. It should only look and decide: it has 10 seconds
(CALLBACK_TIMEOUT), and the standard library, pydicom and requests to work with. The work itself is in ../module.
"""


def callback(jobName, headers, params, added_params, **kwargs):
    """Say whether the job applies to a study, and tell later jobs something about it.

    Arguments come by name, so their order does not matter, and those you do not need can be left out.

    jobName       the job's name: "temp"
    headers       what is known of the study. `headers["series"]` has an entry for each series; elements on which all
                  series agree stand at the top as well, so `headers.get("Modality") == "CT"` asks for a pure CT study.
                  Use `get`: an element that the study does not have is not there.
    params        "params" from settings.json
    added_params  what the callbacks before this one returned as their dict, by job name or service name
    kwargs        whatever later versions may add
    """
    modalities = sorted({series.get("Modality", "") for series in headers["series"]} - {""})
    instances = sum(series["NumberOfInstances"] for series in headers["series"])

    # No modalities in settings.json: every study will do. Otherwise one series of such a modality is enough.
    wanted = params["modalities"]
    applies = not wanted or any(modality in wanted for modality in modalities)

    # Whatever is printed here can be read later with the job. It should name no patient.
    print(f"{len(headers['seriesIds'])} series, {instances} instances, {' '.join(modalities)}: applies is {applies}")

    # `return applies` would do. The dict goes to later callbacks and to all worker functions of this study, which find
    # it as added_params["temp"], also where the bool is False.
    return applies, {"modalities": modalities, "numberOfInstances": instances}
