"""Where a log-in may lead: to a page of this site, whatever ?next= says."""

import pytest
from flask import Flask

from dashboard.access import path_here


def _path(wanted: str | None) -> str:
    app = Flask("test")
    app.add_url_rule("/", "studies.overview", lambda: "")
    with app.test_request_context():
        return path_here(wanted)


@pytest.mark.parametrize(
    "wanted", ["/", "/studies/0123", "/rq/0/view/workers", "/?state=failed&cursor=12", "/studies/ä"]
)
def test_pages_of_this_site_are_where_one_wanted_to_go(wanted: str) -> None:
    assert _path(wanted) == wanted


@pytest.mark.parametrize(
    "wanted",
    [None, "", "studies", "//evil.example", "/\\evil.example", "\\\\evil.example", "https://evil.example",
     "///evil.example", "/\tevil", "/ /evil", "/a\r\nSet-Cookie: x=y", "javascript:alert(1)", "/a\\b",
     "http:evil.example", "/login", "/logout", "/login?next=/login", "\t//evil.example", "/\x00"],
)  # fmt: skip
def test_anything_else_leads_to_the_first_page(wanted: str | None) -> None:
    assert _path(wanted) == "/"
