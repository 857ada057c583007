"""Results: what jobs found and named, and which of them left files, by studies that match a query."""

from typing import Annotated, Any

from flask import Blueprint
from pydantic import AwareDatetime, ConfigDict, Field
from pydantic.alias_generators import to_camel

from dcm_processor.errors import UsageError
from dcm_processor.ledger.results import Terms
from dcm_processor.matching import Query
from scheduler.api.lists import Asked, Cursor, Limit, bad_cursor
from scheduler.api.models import ResultPage
from scheduler.api.operation import operation
from scheduler.parts import parts
from scheduler.problems import Fault, InvalidRequestError

results = Blueprint("results", __name__)


class ResultSearch(Asked):
    """Which results to find; all terms must hold. They travel in the body, since addresses end up in logs."""

    model_config = ConfigDict(alias_generator=to_camel)

    query: dict[Annotated[str, Field(max_length=64)], Annotated[str, Field(max_length=4096)]] = Field(
        default_factory=dict,
        max_length=32,
        description="DICOM keywords with what is looked for, as in C-FIND (PS3.4 C.2.2.2): a single value, `*` and "
        "`?`, a range of dates, a list of UIDs. Matched on the headers that plans keep (HEADER_FIELDS).",
    )
    service: str | None = Field(default=None, min_length=1, max_length=64, description="Only jobs of this service.")
    job_name: str | None = Field(default=None, min_length=1, max_length=64, description="Only jobs of this name.")
    name: str | None = Field(
        default=None, min_length=1, max_length=64, description="Only attempts with a named result of this name."
    )
    since: AwareDatetime | None = Field(
        default=None, description="Only attempts that ended then or later: RFC 3339, such as `2026-01-31T06:00:00Z`."
    )
    named: bool = Field(default=False, description="Only attempts with named results.")
    all_attempts: bool = Field(
        default=False, description="Also attempts that did not finish their job, and those of earlier plans."
    )
    cursor: Cursor = None
    limit: Limit = 50


@results.post("/results/search")
@operation(
    "Find results",
    answer=ResultPage,
    body=ResultSearch,
    body_optional=True,
    body_limit=262144,
    problems=(400, 413, 415),
)
def search_results(body: ResultSearch) -> ResultPage:
    """Attempts that finished their job, newest job first, of each job the newest for its study and series.

    `limit` are looked at; where a query is given, a page may hold fewer that match, or none, and more may follow.
    """
    try:
        query = Query.parse(body.query)
    except UsageError as error:
        raise InvalidRequestError([Fault(field="body.query", reason=str(error))]) from None
    since = body.since.timestamp() if body.since is not None else None
    terms = Terms(query, body.service, body.job_name, since, body.name or body.named, body.all_attempts)
    try:
        page = parts().ledger.results(body.cursor, body.limit, terms)
    except ValueError:
        raise bad_cursor("body") from None
    items: list[dict[str, Any]] = page.items
    return ResultPage.model_validate({"items": items, "nextCursor": page.next_cursor})
