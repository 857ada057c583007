"""What a worker function may import beside its own service's code: the module folders of other installed services."""

import ast
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path

from dcm_processor.errors import ServiceError
from dcm_processor.settings import Settings
from dcm_processor.store import Store
from worker.modules import module_folder


def sibling_folders(
    settings: Settings, service: str, module: Path, current: Mapping[str, str], say: Callable[[str], object]
) -> dict[str, Path]:
    """The folders of the other services, by name, in their `current` versions (service -> digest).

    Where they are not all on this host, those come from the scheduler that the service's code in `module` imports, and
    those that they import; of one that cannot be had it is told by `say`. Raises what is transient of `module_folder`.
    """
    store = Store.of(settings)
    folders = {name: store.module_folder(name, digest) for name, digest in current.items() if name != service}
    here = {name: folder for name, folder in folders.items() if folder.is_dir()}
    if len(here) == len(folders):
        return here
    seen, places = {service}, [module]
    while places:
        wanted = (imported(places.pop()) & folders.keys()) - seen
        seen |= wanted
        for name in sorted(wanted):
            if name not in here:
                try:
                    here[name] = module_folder(settings, name, current[name])
                except ServiceError as error:
                    say(f"the code of service {name} cannot be imported: {error}")
                    continue
            places.append(here[name])
    return here


def imported(folder: Path) -> set[str]:
    """The top-level names that a folder's Python files import, as far as they are written out there."""
    found: set[str] = set()
    for path in folder.rglob("*.py"):
        try:
            with warnings.catch_warnings(action="ignore"):
                tree = ast.parse(path.read_bytes())
        except (OSError, SyntaxError, ValueError, RecursionError):  # nobody can import it
            continue
        for node in ast.walk(tree):
            match node:
                case ast.Import(names=names):
                    found |= {alias.name.partition(".")[0] for alias in names}
                case ast.ImportFrom(module=str(name), level=0):
                    found.add(name.partition(".")[0])
                case ast.Call(
                    func=ast.Name(id="import_module" | "__import__") | ast.Attribute(attr="import_module"),
                    args=[ast.Constant(value=str(name)), *_],
                ):
                    found.add(name.partition(".")[0])
    return found
