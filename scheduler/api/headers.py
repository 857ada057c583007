"""Headers that the ledger keeps: for a service that is not installed yet to be tried on."""

from flask import Blueprint
from pydantic import AwareDatetime, Field

from dcm_processor.ledger import kept_headers
from scheduler.api.lists import Asked, Cursor, Limit, bad_cursor
from scheduler.api.models import HeadersPage
from scheduler.api.operation import operation
from scheduler.parts import parts

headers = Blueprint("headers", __name__)


class HeadersQuery(Asked):
    """Of which studies."""

    since: AwareDatetime = Field(description="Only studies planned then or later: RFC 3339.")
    cursor: Cursor = None
    limit: Limit = 50


@headers.get("/headers")
@operation("List kept headers", answer=HeadersPage, query=HeadersQuery, problems=(400,))
def list_headers(query: HeadersQuery) -> HeadersPage:
    """The headers that callbacks were asked about for each study's newest plan, newest first. They hold patients' data.

    A page may end before `limit` where headers are large: go on until `nextCursor` is null.
    """
    with parts().ledger.read() as db:
        try:
            page = kept_headers.page(db, query.since.timestamp(), query.cursor, query.limit)
        except ValueError:
            raise bad_cursor("query") from None
    return HeadersPage.model_validate({"items": page.items, "nextCursor": page.next_cursor})
