"""What all lists share: pages of at most 500, newest first, continued by an opaque cursor."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from scheduler.problems import Fault, InvalidRequestError

Limit = Annotated[int, Field(ge=1, le=500, description="How many at most, 1 to 500.")]
Cursor = Annotated[
    str | None, Field(max_length=300, description="`nextCursor` of the page before; none for the first page.")
]


class Asked(BaseModel):
    """Base of what a request says; a name that is none of ours is refused, since it would silently do nothing."""

    model_config = ConfigDict(extra="forbid")


def bad_cursor(where: str) -> InvalidRequestError:
    """The problem of a cursor that no list of ours gave."""
    return InvalidRequestError([Fault(field=f"{where}.cursor", reason="is no `nextCursor` of this list")])
