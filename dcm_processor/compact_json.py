"""JSON as our programs write it for each other and for the ledger: compact, fast, never refused for what it holds."""

import json
from typing import Any

from pydantic_core import PydanticSerializationError, from_json, to_json


def dumps(value: Any) -> str:
    """The text of plain values; NaN and infinities, which JSON does not have, become null."""
    try:
        return to_json(value, inf_nan_mode="null").decode()
    except PydanticSerializationError:  # lone surrogates, which UTF-8 does not have
        return json.dumps(value, separators=(",", ":"))


def loads(text: str | bytes) -> Any:
    """What the text says; raises ValueError where it is no JSON."""
    try:
        return from_json(text)
    except ValueError:  # lone surrogates again, or truly no JSON
        return json.loads(text)
