"""What one route takes and answers: declared once, checked on every request, and read by `scheduler/openapi.py`."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import wraps
from typing import Any, cast

from flask import Flask, Response, request
from pydantic import BaseModel, ValidationError
from werkzeug.exceptions import RequestEntityTooLarge, UnsupportedMediaType

from scheduler.auth import Right
from scheduler.problems import Fault, InvalidRequestError

_BODY_LIMIT = 1024 * 1024
_JSON = ("application/json", "")


@dataclass(frozen=True)
class Operation:
    """The contract of one route.

    `answer` is the model of its JSON answer; None: the view makes its own response, described by `content` and
    `headers`. `upload` is the media type of a body that the view itself reads while it comes. `right` is what the
    caller's token must be good for; None: anybody may call. `problems` are the statuses of problem documents beyond
    those every route may give.
    """

    summary: str
    description: str
    status: int
    answer: type[BaseModel] | None
    query: type[BaseModel] | None
    body: type[BaseModel] | None
    body_optional: bool
    body_types: tuple[str, ...]
    body_limit: int
    right: Right | None
    problems: tuple[int, ...]
    content: str = "application/json"
    headers: Mapping[str, str] = field(default_factory=dict)
    upload: str | None = None


View = Callable[..., BaseModel | Response]


def operation(
    summary: str,
    *,
    answer: type[BaseModel] | None = None,
    status: int = 200,
    query: type[BaseModel] | None = None,
    body: type[BaseModel] | None = None,
    body_optional: bool = False,
    body_types: tuple[str, ...] = _JSON,
    body_limit: int = _BODY_LIMIT,
    right: Right | None = Right.API,
    problems: tuple[int, ...] = (),
    content: str = "application/json",
    headers: Mapping[str, str] | None = None,
    upload: str | None = None,
) -> Callable[[View], Callable[..., Response]]:
    """Declare a view's contract.

    The view gets its path's parts, and as `query` and `body` what the request said, checked; it returns `answer` or,
    where the contract has none, a response. Its docstring is the operation's description.

    A request that breaks the contract raises InvalidRequestError (400), RequestEntityTooLarge (413) or
    UnsupportedMediaType (415) before the view is called.
    """

    def declare(view: View) -> Callable[..., Response]:
        contract = Operation(
            summary,
            (view.__doc__ or "").strip(),
            status,
            answer,
            query,
            body,
            body_optional,
            body_types,
            body_limit,
            right,
            problems,
            content,
            headers or {},
            upload,
        )

        @wraps(view)
        def serve(**arguments: Any) -> Response:
            if query is not None:
                arguments["query"] = _query(query)
            if body is not None:
                arguments["body"] = _body(body, contract)
            if upload is not None:
                _check_upload(upload, contract)
            result = view(**arguments)
            if isinstance(result, Response):
                return result
            return Response(result.model_dump_json(), status=status, mimetype="application/json")

        serve.operation = contract  # type: ignore[attr-defined]
        return serve

    return declare


def operation_of(app: Flask, endpoint: str) -> Operation:
    """The contract of an endpoint.

    Raises AttributeError for a view that declares none: there is no route without a contract.
    """
    view: Any = app.view_functions[endpoint]
    return cast("Operation", view.operation)


def _query(model: type[BaseModel]) -> BaseModel:
    """The query string as the model has it; an empty value is as good as none."""
    repeated = [name for name, values in request.args.lists() if len(values) > 1]
    if repeated:
        raise InvalidRequestError([Fault(field=f"query.{name}", reason="is given more than once") for name in repeated])
    try:
        return model.model_validate({name: value for name, value in request.args.items() if value})
    except ValidationError as error:
        raise InvalidRequestError.of("query", error) from None


def _check_upload(media_type: str, contract: Operation) -> None:
    """Refuse a body of another type, or one that announces too much; one that does not announce it is cut there."""
    request.max_content_length = contract.body_limit
    if request.mimetype != media_type:
        raise UnsupportedMediaType(f"The body must be an archive: send it as `Content-Type: {media_type}`")
    if request.content_length is not None and request.content_length > contract.body_limit:
        raise RequestEntityTooLarge


def _body(model: type[BaseModel], contract: Operation) -> BaseModel:
    """The body as the model has it; refused by its length, where that is announced, before any of it is read."""
    request.max_content_length = contract.body_limit + 1  # a chunked body is cut there, and so is seen to be too large
    if not (request.mimetype in contract.body_types or request.mimetype.endswith("+json")):
        raise UnsupportedMediaType("The body must be JSON: send it as `Content-Type: application/json`")
    text = request.get_data(cache=False)
    if len(text) > contract.body_limit:
        raise RequestEntityTooLarge
    if not text and contract.body_optional:
        text = b"{}"
    try:
        return model.model_validate_json(text)
    except ValidationError as error:
        raise InvalidRequestError.of("body", error) from None
