"""The OpenAPI document, served beside what it describes."""

import json

from flask import Blueprint, Response, current_app

from scheduler.api.operation import operation
from scheduler.openapi import openapi

document = Blueprint("document", __name__)


@document.get("/openapi.json")
@operation("Describe the API")
def show_document() -> Response:
    """The document you are reading (OpenAPI 3.1)."""
    return Response(json.dumps(openapi(current_app), ensure_ascii=False), mimetype="application/json")
