"""The file with the rules of completeness: read again each time, so that a change is in force at once."""

from dcm_processor.completeness import Rule, parse_rules
from dcm_processor.errors import RulesError
from dcm_processor.json_text import LARGEST
from dcm_processor.settings import Settings


def text(settings: Settings) -> bytes:
    """What the file holds; an empty list where there is none, unless COMPLETENESS names it.

    Raises RulesError where it cannot be read.
    """
    path = settings.completeness
    try:
        with path.open("rb") as file:
            return file.read(LARGEST + 1)  # what is longer is refused, not read
    except FileNotFoundError:
        if settings.COMPLETENESS is None:
            return b"[]"
        raise RulesError(f"{path} does not exist; correct COMPLETENESS in .env.local, or make the file") from None
    except OSError as error:
        raise RulesError(f"{path} cannot be read: {error.strerror}") from None


def rules(settings: Settings) -> tuple[Rule, ...]:
    """The rules of now.

    Raises RulesError, whose faults begin with the file's name.
    """
    found = text(settings)
    try:
        return parse_rules(found)
    except RulesError as error:
        raise RulesError(*(f"{settings.completeness.name}: {fault}" for fault in error.faults)) from None
