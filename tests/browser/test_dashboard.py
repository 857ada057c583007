"""The dashboard in a real browser: a person logs in, sees studies and queues; nothing is fetched from elsewhere."""

import re
import shutil
import time
from collections.abc import Iterator
from contextlib import closing
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, ViewportSize, expect, sync_playwright

from dcm_processor.notes import Progress
from dcm_processor.transport import Report, Transport
from dcm_processor.vocabulary import StudyState
from tests.integration.dashboard.stand import (
    PASSWORD,
    DashboardServer,
    LedgerOfStudies,
    RqJobs,
    attempt_id,
    many_states,
    study_id,
)
from tests.servers import ValkeyServer, require

FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
)  # fmt: skip
SEES: dict[str, ViewportSize] = {"PHONE": {"width": 390, "height": 844}, "DESK": {"width": 1280, "height": 800}}


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    binary = shutil.which("chromium") or shutil.which("chromium-browser")
    require(binary, "chromium", "apt-get install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=binary, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def own_valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ValkeyServer]:
    with ValkeyServer(tmp_path_factory.mktemp("valkey"), password="sesame") as server:
        yield server


@pytest.fixture(scope="module")
def dashboard(tmp_path_factory: pytest.TempPathFactory, own_valkey: ValkeyServer) -> Iterator[DashboardServer]:
    with DashboardServer(tmp_path_factory.mktemp("dashboard"), own_valkey.url) as server:
        yield server


@pytest.fixture(scope="module")
def ledger(dashboard: DashboardServer) -> LedgerOfStudies:
    filled = LedgerOfStudies(dashboard.settings.database_url)
    many_states(filled)
    return filled


@pytest.fixture(scope="module")
def at_work(own_valkey: ValkeyServer) -> Iterator[RqJobs]:
    jobs = RqJobs(own_valkey.url)
    with jobs.every_kind():
        yield jobs


class Watched:
    """A page of which every request, console message and error is noted."""

    def __init__(self, context: BrowserContext, server: DashboardServer) -> None:
        self.page: Page = context.new_page()
        self.server = server
        self.complaints: list[str] = []
        self.page.on("console", lambda message: self._note(message.type, message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        context.on("request", lambda request: self._sent(request.url))

    def _note(self, kind: str, text: str) -> None:
        if kind in ("error", "warning"):
            self.complaints.append(text)

    def _sent(self, url: str) -> None:
        parts = urlsplit(url)
        if parts.scheme != "data" and parts.netloc != f"127.0.0.1:{self.server.port}":
            self.complaints.append(f"a request to {url}")

    def go(self, path: str) -> Page:
        self.page.goto(self.server.url + path)
        return self.page

    def log_in(self) -> Page:
        page = self.go("/")
        page.get_by_label("Password").fill(PASSWORD)
        page.get_by_role("button", name="Log in").click()
        expect(page.get_by_role("heading", name="Studies")).to_be_visible()
        page.wait_for_load_state()
        return page


@pytest.fixture(params=sorted(SEES))
def person(
    request: pytest.FixtureRequest, chromium: Browser, dashboard: DashboardServer, ledger: LedgerOfStudies
) -> Iterator[Watched]:
    """Somebody with a browser on a desk or in a hand; at the end nothing may have been complained of."""
    context = chromium.new_context(viewport=SEES[request.param])
    context.set_default_timeout(10_000)
    watched = Watched(context, dashboard)
    yield watched
    context.close()
    assert watched.complaints == []


def test_a_person_logs_in_and_sees_the_studies(person: Watched) -> None:
    page = person.log_in()
    row = page.get_by_role("row").filter(has_text="00000004")
    expect(row).to_contain_text("ValueError: no slice is axial")
    expect(row.get_by_text("segment", exact=True)).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth"), "nothing sticks out sideways"


def test_a_study_has_a_page_with_its_attempts(person: Watched) -> None:
    page = person.log_in()
    page.get_by_role("link", name="00000004").click()
    expect(page.get_by_role("heading", name="segment")).to_be_visible()
    page.wait_for_load_state()
    traceback = page.get_by_text("Traceback", exact=True).first
    traceback.click()
    expect(page.get_by_text("Traceback (most recent call last)").first).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth"), "nothing sticks out sideways"


def test_a_study_shows_what_its_jobs_found(person: Watched) -> None:
    person.log_in()
    page = person.go(f"/studies/{study_id(3)}")
    expect(page.locator(".named").first).to_contain_text("4810.5 ml")
    expect(page.get_by_text("lobe 12 volume")).to_be_visible()
    expect(page.get_by_text("lobe 13 volume")).to_be_hidden()
    page.get_by_text("28 more results").click()
    expect(page.get_by_text("lobe 13 volume")).to_be_visible()
    page.get_by_text("What it had named (2)").click()
    expect(page.locator(".attempts .named")).to_contain_text("nodules")
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth"), "nothing sticks out sideways"


def test_a_running_job_shows_how_far_it_is_and_goes_on_without_a_reload(
    person: Watched, own_valkey: ValkeyServer
) -> None:
    report = Report("started", attempt_id("segment"), "claim", "worker", "host")
    with closing(Transport(own_valkey.url)) as transport:
        transport.announce(report, 1, Progress(0.25, "<b>upper</b> lobe", time.time()))
        person.log_in()
        page = person.go(f"/studies/{study_id(5)}")
        bar = page.get_by_role("progressbar", name="Progress of segment")
        expect(bar).to_have_attribute("value", "0.25")
        expect(page.get_by_text("<b>upper</b> lobe")).to_be_visible()
        transport.announce(report, 2, Progress(0.5, "middle lobe", time.time()))
        expect(page.get_by_text("50 %")).to_be_visible()
        assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth"), "nothing sticks out sideways"


def test_the_list_follows_the_ledger_without_a_reload(person: Watched, ledger: LedgerOfStudies) -> None:
    page = person.log_in()
    page.evaluate("window.sameDocument = true")
    number = 100 + sorted(SEES).index("PHONE" if page.viewport_size == SEES["PHONE"] else "DESK")
    ledger.study(number, StudyState.RECEIVED)
    expect(page.get_by_role("link", name=study_id(number)[:8])).to_be_visible()
    assert page.evaluate("window.sameDocument")


def test_what_was_opened_stays_open_when_the_page_follows_the_ledger(person: Watched, ledger: LedgerOfStudies) -> None:
    page = person.log_in()
    page = person.go(f"/studies/{study_id(4)}")
    page.get_by_text("Traceback", exact=True).first.click()
    page.evaluate("document.querySelector('#live h1').textContent = 'stale'")
    expect(page.get_by_role("heading", name="Study 00000004")).to_be_visible()
    expect(page.get_by_text("Traceback (most recent call last)").first).to_be_visible()


def test_markup_in_a_reason_is_only_text(person: Watched) -> None:
    page = person.log_in()
    page = person.go(f"/studies/{study_id(6)}")
    expect(page.get_by_text('"><img src=x onerror=alert(1)>').first).to_be_visible()
    assert page.locator("img, main script").count() == 0


def test_rq_shows_queues_workers_and_jobs(person: Watched, at_work: RqJobs) -> None:
    page = person.log_in()
    page.get_by_role("link", name=re.compile("^Queues")).click()
    expect(page.locator("table#queues")).to_contain_text("low")
    page.get_by_role("link", name="Workers").click()
    expect(page.locator("table#workers")).to_contain_text(f"busy of {study_id(5)}")
    page.locator("table#workers a").click()
    expect(page.locator("#job-data")).to_contain_text("started")
    page = person.go("/rq/0/view/jobs/default/failed/8/asc/1")
    expect(page.locator("table#jobs")).to_contain_text("LookupError")
    for button in ("Requeue", "Requeue All", "Delete", "Compact", "Empty queue"):
        assert page.get_by_text(button, exact=True).locator("visible=true").count() == 0
    page = person.go(f"/rq/0/view/job/{attempt_id('fail')}")
    expect(page.locator("#job-data")).to_contain_text("failed")
    expect(page.locator("#requeue-job-btn")).to_be_hidden()
    page.get_by_role("link", name="study", exact=True).click()
    expect(page.get_by_role("heading", name="Study 00000005")).to_be_visible()


def test_markup_in_a_job_of_rq_is_only_text(person: Watched, at_work: RqJobs) -> None:
    """rq-dashboard's own templates would run it."""
    hostile = "<img src=x onerror='document.title=666'><script>document.title=666</script>"
    job = at_work.enqueue("finish", attempt_id("hostile"), queue="gpu")
    at_work.redis.hset(job.key, "description", hostile)
    person.log_in()
    page = person.go(f"/rq/0/view/job/{attempt_id('hostile')}")
    expect(page.locator("#job-data")).to_contain_text("<img src=x")
    page = person.go("/rq/0/view/jobs/gpu/queued/8/asc/1")
    expect(page.locator("table#jobs")).to_contain_text("img src=x")
    assert page.locator("table img").count() == 0
    assert "666" not in page.title()


def test_logging_out_ends_it(person: Watched) -> None:
    page = person.log_in()
    page.get_by_role("button", name="Log out").click()
    expect(page.get_by_role("heading", name="Log in")).to_be_visible()
    person.go("/rq/")
    expect(page.get_by_role("heading", name="Log in")).to_be_visible()
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_role("button", name="Log in").click()
    expect(page.get_by_role("heading", name="Queues")).to_be_visible()
