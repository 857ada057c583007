"""Everything under /api/v1, one blueprint a noun."""

from flask import Flask

from scheduler.api.document import document
from scheduler.api.exchange import exchange
from scheduler.api.headers import headers
from scheduler.api.jobs import jobs
from scheduler.api.queues import queues
from scheduler.api.results import results
from scheduler.api.services import services
from scheduler.api.studies import studies

PREFIX = "/api/v1"


def register_api(app: Flask) -> None:
    """Put the API's routes into the app."""
    for blueprint in (studies, jobs, results, headers, services, queues, exchange, document):
        app.register_blueprint(blueprint, url_prefix=PREFIX)
