"""Which series are worth converting: images of the modalities in settings.json, of enough slices to be a volume."""


def callback(headers, params, **kwargs):
    """Say whether a series is converted; at level "series" its own elements stand at the top of `headers`."""
    if headers.get("Modality") not in params["modalities"]:
        return False
    slices = headers["NumberOfInstances"]
    if slices < params["minSlices"]:
        # an enhanced multi-frame image has all its slices in one instance
        slices *= headers.get("NumberOfFrames") or 1
    return slices >= params["minSlices"]
