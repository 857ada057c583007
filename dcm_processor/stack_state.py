"""What BASEDIR/run/stack.json says of a stack, in local mode or in containers."""

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

from dcm_processor.basedir import write_private
from dcm_processor.errors import StackError
from dcm_processor.settings import Settings

DEMO_STABLE_AGE = 2
"""STABLE_AGE of a stack that the demo starts."""


@dataclass(frozen=True)
class State:
    """A stack as it was started, for the scripts and the command line; the file is there from its start to its stop.

    `settings` tells whether a setting changed since: for each key the digest of its value. `scale` is how many workers
    were asked for; `socket` is supervisord's, in local mode; `bindAddress` is its BIND_ADDRESS.
    """

    startedAt: str
    ports: dict[str, int]
    stableAge: int
    settings: dict[str, str]
    scale: int
    socket: str = ""
    mode: str = "local"
    bindAddress: str = "127.0.0.1"

    @classmethod
    def read(cls, settings: Settings) -> Self | None:
        """None where no stack was started, or the last one was stopped.

        Raises StackError where it is another user's.
        """
        try:
            return cls(**json.loads(state_file(settings).read_text(encoding="utf-8")))
        except (FileNotFoundError, NotADirectoryError):  # what BASEDIR then cannot be is said by whoever makes it
            return None
        except PermissionError:
            raise StackError(f"{settings.run} belongs to another user; go on as that user, or with sudo") from None
        except (ValueError, TypeError):  # half a file cannot be; somebody's hand can
            return None

    def as_started(self, settings: Settings) -> Settings:
        """The settings with the ports, address and STABLE_AGE of this stack, whatever they were changed to since."""
        held = {**self.ports, "STABLE_AGE": self.stableAge, "BIND_ADDRESS": self.bindAddress}
        return settings.model_copy(update=held)

    def changed(self, settings: Settings) -> tuple[str, ...]:
        """The keys whose values are others than at the start: they are not in force."""
        now = digests(settings)
        return tuple(sorted(key for key in now.keys() | self.settings.keys() if now.get(key) != self.settings.get(key)))

    def write(self, settings: Settings) -> None:
        write_private(state_file(settings), json.dumps(asdict(self), indent=2) + "\n")


def state_file(settings: Settings) -> Path:
    """Where it is."""
    return settings.run / "stack.json"


def digests(settings: Settings) -> dict[str, str]:
    """Of each setting that has a value, by key: enough to see a change, no use to whoever reads the file."""
    values = settings.model_dump(mode="json", exclude_none=True)
    return {key: hashlib.sha256(json.dumps(value).encode()).hexdigest()[:16] for key, value in values.items()}
