"""What stays from one rehearsal to the next: environments, and what services download. Nothing else does."""

import os
import sys
from pathlib import Path


def cache_folder() -> Path:
    """The user's cache for it (XDG Base Directory Specification; on macOS ~/Library/Caches)."""
    usual = Path.home() / ("Library/Caches" if sys.platform == "darwin" else ".cache")
    return Path(os.environ.get("XDG_CACHE_HOME") or usual) / "dcm-processor"


def environments_folder() -> Path:
    """The environments of services, one for each content."""
    return cache_folder() / "envs"
