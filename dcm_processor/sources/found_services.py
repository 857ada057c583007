"""The services of a source: which folders are services, what they are called, and which of them are meant.

A service is a folder with `registry/settings.json` and `module/`. Its settings name it: `worker` and `callback` of each
job begin with the service's name. Where they do not agree, its folder's name stands for it.
"""

import os
import stat
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from dcm_processor import json_text, service_tree
from dcm_processor.errors import ManifestError, SourceError, UsageError
from dcm_processor.names import did_you_mean

_DEPTH = 6
_MOST_FOLDERS = 20_000
_SETTINGS = Path("registry", "settings.json")


def choose(top: Path, name: str | None) -> dict[str, Path]:
    """The services that are meant, by name: all of the source, or the one that is to be called `name`.

    Raises ServiceError where there is none, and UsageError where it is not clear which is meant, with those there are.
    """
    if _is_service(top) or not (found := _below(top)):
        folder = _half_a_service(top) or top
        service_tree.check_source(folder, name or folder.name)
        if (called := name or _owner(folder)) is None:
            raise UsageError(
                "the source's settings.json does not tell what the service is called; name it, and its faults are told"
            )
        return {called: folder}
    if name is None:
        return _by_name(top, found)
    if len(found) == 1:
        return {name: found[0]}
    named = {folder: _called(folder) for folder in found}
    fits = [folder for folder in found if named[folder] == name] or [folder for folder in found if folder.name == name]
    if len(fits) != 1:
        there = ", ".join(f"{named[folder]} in {folder.relative_to(top)}" for folder in fits or found)
        what = f"several services {name}" if fits else f"no service {name}"
        hint = "" if fits else did_you_mean(name, list(named.values()))
        raise UsageError(f"the source holds {what}{hint}; there are: {there} (#subdirectory=PATH chooses one)")
    return {name: fits[0]}


def _by_name(top: Path, folders: list[Path]) -> dict[str, Path]:
    named: dict[str, Path] = {}
    for folder in folders:
        name = _called(folder)
        if name in named:
            both = f"{named[name].relative_to(top)} and {folder.relative_to(top)}"
            raise UsageError(f"the source holds two services {name}: {both}; #subdirectory=PATH chooses one")
        named[name] = folder
    return named


def refuse_missing(top: Path, folders: Mapping[str, Path], missing: Mapping[Path, str]) -> None:
    """Raise SourceError where a file of one of the services did not come; `missing` has why."""
    for path, why in missing.items():
        for name, folder in folders.items():
            if any((top / path).is_relative_to(folder / part) for part in service_tree.PARTS):
                raise SourceError(f"service {name} needs {path}, and {why}")


def _half_a_service(top: Path) -> Path | None:
    """The one folder that a source holds, as archives do, if it looks like what was meant: its faults can be told."""
    inner = [path for path in top.iterdir() if not path.name.startswith(".")]
    if len(inner) == 1 and any(_is(inner[0] / part, stat.S_ISDIR) for part in service_tree.PARTS):
        return inner[0]
    return None


def _is_service(folder: Path) -> bool:
    return _is(folder / _SETTINGS, stat.S_ISREG) and all(
        _is(folder / part, stat.S_ISDIR) for part in service_tree.PARTS
    )


def _is(path: Path, kind: Callable[[int], bool]) -> bool:
    try:
        return kind(path.lstat().st_mode)
    except OSError:
        return False


def _below(top: Path) -> list[Path]:
    return sorted(_walk(top, _DEPTH, [_MOST_FOLDERS]))


def _walk(folder: Path, depth: int, left: list[int]) -> Iterator[Path]:
    """Services in a folder, none within another one; symlinks are not followed."""
    with os.scandir(folder) as entries:
        inner = [
            entry.path
            for entry in entries
            if entry.is_dir(follow_symlinks=False) and not entry.name.startswith((".", "__"))
        ]
    for path in map(Path, sorted(inner)):
        left[0] -= 1
        if left[0] < 0:
            raise SourceError(f"more than {_MOST_FOLDERS:,} folders: is it the right one? Name the service's own")
        if _is_service(path):
            yield path
        elif depth > 1:
            yield from _walk(path, depth - 1, left)


def _called(folder: Path) -> str:
    """The name that a service's settings give it, else its folder's."""
    return _owner(folder) or folder.name


def _owner(folder: Path) -> str | None:
    """The name that all `worker` and `callback` of a service's settings begin with; None where there is no one name."""
    owners = set()
    try:
        with os.fdopen(os.open(folder / _SETTINGS, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb") as file:
            document, _ = json_text.read(file.read(2 * json_text.LARGEST))
    except (OSError, ManifestError):
        return None
    for job in document if isinstance(document, list) else [document]:
        for field in ("worker", "callback"):
            value = job.get(field) if isinstance(job, dict) else None
            owners.add(value.partition(".")[0] if isinstance(value, str) else "")
    return owners.pop() if len(owners) == 1 and "" not in owners else None
