"""One job's results on their way into a folder here: whole or not at all, and not again where they are there.

<folder>/<job>                    the files
<folder>/.<job>.json              what they are: the attempt, its study, its named results
<folder>/.<job>.arriving-…        while they come; what was left by a `get` that was killed goes with the next one
"""

import errno
import json
import os
import secrets
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from dcm_processor.archives.archive import OUTPUT, Extent
from dcm_processor.archives.unpacking import unpack
from dcm_processor.errors import DataFullError, PermanentError
from dcm_processor.result_folders import folder_of
from dcm_processor.service_tree import remove

_ARRIVING = ".arriving-"


class Came(StrEnum):
    """What became of a job's results."""

    FETCHED = "fetched"
    THERE = "there"  # since an earlier `get`
    GONE = "gone"  # the scheduler has them no more
    FAILED = "failed"


@dataclass(frozen=True)
class Place:
    """Where a job's results go, below the folder that the user named."""

    folder: Path
    marker: Path

    @classmethod
    def of(cls, top: Path, result: Mapping[str, Any]) -> "Place":
        folder = top.joinpath(*folder_of(result))
        return cls(folder, folder.with_name(f".{folder.name}.json"))

    def has(self, result: Mapping[str, Any]) -> bool:
        """Whether the very attempt's files are there, whole.

        Raises PermanentError where something else is: of another study, or not put there by us.
        """
        known = self._known()
        if known is None:
            if os.path.lexists(self.folder):
                raise PermanentError(f"{self.folder} is there and was not made by `result get`; move it away")
            return False
        if known.get("studyId") != result["studyId"] or known.get("jobName") != result["jobName"]:
            raise PermanentError(f"{self.folder} holds the results of another study or job; choose another folder")
        return known.get("attemptId") == result["attemptId"] and self.folder.is_dir()

    def put(self, result: Mapping[str, Any], archive: AbstractContextManager[Iterator[bytes]]) -> Extent:
        """Have the files of an archive here, in the place of those of an earlier attempt; returns how much came.

        Raises what `unpack` raises, and DataFullError.
        """
        try:
            half = f".{self.folder.name}{_ARRIVING}"
            part, old = (self.folder.with_name(half + secrets.token_hex(4)) for _ in range(2))
            with archive as blocks:
                self.folder.parent.mkdir(parents=True, exist_ok=True)
                self._clear()
                came = unpack(blocks, part, OUTPUT)
            self._mark({**result, "attemptId": None})  # from now on the folder is ours, whatever stands there
            if os.path.lexists(self.folder):
                self.folder.rename(old)
            part.rename(self.folder)
            self._mark(result)
            self._clear()
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise DataFullError(f"there is no room in {self.folder.parent}; make some, and try again") from None
            raise PermanentError(f"{error.filename or self.folder}: {error.strerror}") from None
        return came

    def _known(self) -> dict[str, Any] | None:
        try:
            found = json.loads(self.marker.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return found if isinstance(found, dict) else None

    def _mark(self, result: Mapping[str, Any]) -> None:
        partial = self.marker.with_name(f"{self.marker.name}{_ARRIVING}{secrets.token_hex(4)}")
        partial.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
        partial.replace(self.marker)

    def _clear(self) -> None:
        """Remove what is half here, or replaced."""
        for beginning in (f".{self.folder.name}{_ARRIVING}", f"{self.marker.name}{_ARRIVING}"):
            for path in self.folder.parent.iterdir():
                if path.name.startswith(beginning):
                    if path.is_dir() and not path.is_symlink():
                        remove(path)
                    else:
                        path.unlink()
