"""Where a version of a service came from: kept beside it, so that it can be told, and asked for again."""

import json
from dataclasses import asdict, dataclass
from typing import Self


@dataclass(frozen=True)
class Origin:
    """What was installed, in the words it can be asked for with again; no credentials.

    `ref` is what was asked for of a repository (None: its default branch), `commit` what that was then.
    `at` is RFC 3339, `by` the version of dcm-processor that installed it.
    """

    source: str
    ref: str | None
    commit: str | None
    at: str
    by: str

    def to_json(self) -> str:
        """The text that `from_json` reads."""
        return json.dumps(asdict(self), indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str | bytes) -> Self | None:
        """What a file says; None where it says nothing of use: the version is as good without."""
        try:
            fields = json.loads(text)
            found = cls(**{key: fields[key] for key in ("source", "ref", "commit", "at", "by")})
        except (ValueError, LookupError, TypeError):
            return None
        optional = (found.ref, found.commit)
        if not all(isinstance(value, str) for value in (found.source, found.at, found.by)):
            return None
        return found if all(value is None or isinstance(value, str) for value in optional) else None
