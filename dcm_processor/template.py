"""A new service, from the template: `services/temp` with another name. There is no second template."""

import json
import re
import shutil
import tempfile
from pathlib import Path

from dcm_processor.errors import ServiceError, UsageError
from dcm_processor.manifest import json_schema
from dcm_processor.names import check_service_name, nearest_service_name

TEMPLATE = Path(__file__).parent / "resources" / "service_template"
SCHEMA = "settings.schema.json"
"""The JSON Schema beside a service's folders, which the template's settings.json points editors to."""
_ITS_NAME = re.compile(r"\btemp\b")
_LEFT_OUT = shutil.ignore_patterns("__pycache__", "*.pyc", ".*", "__init__.py", SCHEMA)


def write(name: str, parent: Path) -> Path:
    """Make the folder `parent`/`name` with a service that runs as it is; returns it. It is there whole or not at all.

    Raises UsageError for a name that no service may have, with the nearest that it may; ServiceError where there is
    something of that name already, or the folder cannot be written.
    """
    try:
        check_service_name(name)
    except ServiceError as error:
        better = nearest_service_name(name)
        raise UsageError(f'{error}; "{better}" would do' if better else str(error)) from None
    target = parent / name
    if target.exists() or target.is_symlink():
        raise ServiceError(f"{target} exists already; nothing was changed; choose another name or folder")
    try:
        parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{name}.", dir=parent) as partial:
            made = Path(partial, name)
            shutil.copytree(TEMPLATE, made, ignore=_LEFT_OUT, copy_function=shutil.copyfile)
            for path in made.rglob("*"):
                if path.is_file():
                    _rename(path, name)
            text = json.dumps(json_schema(), indent=2, ensure_ascii=False) + "\n"
            (made / SCHEMA).write_text(text, encoding="utf-8")
            made.rename(target)
    except OSError as error:
        raise ServiceError(f"{error.filename or target} cannot be written: {error.strerror or error}") from None
    return target


def _rename(path: Path, name: str) -> None:
    path.write_text(_ITS_NAME.sub(name, path.read_text(encoding="utf-8")), encoding="utf-8")
