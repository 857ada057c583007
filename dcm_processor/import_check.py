"""Asks whether dotted names of a service lead to functions that can be called; a program for any Python from 3.8 on.

    python -I import_check.py CONTRACT SERVICE FOLDER [SIBLING=FOLDER…]

stdin: `{"functions": [dotted names], "offered": [names of arguments]}`. stdout: one JSON object, dotted name -> what is
wrong (one line), or null. The service's code is imported, so this is to be a process that may hang, crash or lie; its
own output goes to stderr. `read` answers the same by the text of the files alone. Standard library only, and nothing
of ours but the service contract, which is loaded by its path.
"""

import ast
import importlib.util
import json
import os
import sys
from pathlib import Path
from typing import Any


def load_contract(path: str) -> Any:
    """The service contract as a module that has no name a service could clash with."""
    spec = importlib.util.spec_from_file_location("_dcm_processor_contract", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def imported(contract: Any, dotted: str, folder: Path, offered: "list[str]") -> "str | None":
    """What is wrong with the function `dotted` once its module is imported, or None."""
    try:
        contract.fitting(contract.resolve(dotted, folder), dict.fromkeys(offered))
    except BaseException as error:  # noqa: BLE001 - foreign code may raise anything, SystemExit too
        return _told(error, folder)
    return None


def _told(error: BaseException, folder: Path) -> str:
    """One line: what was raised, and the last line of the service's own that it came through."""
    text, place = " ".join(str(error).split()), ""
    trace = error.__traceback__
    while trace is not None:
        name = trace.tb_frame.f_code.co_filename
        if Path(name).is_absolute() and folder in Path(name).parents:
            place = f" ({Path(name).relative_to(folder)}, line {trace.tb_lineno})"
        trace = trace.tb_next
    if isinstance(error, (LookupError, TypeError)) and not place:
        return text
    if isinstance(error, SyntaxError) and error.filename:
        return f"{type(error).__name__}: {error.msg} ({Path(error.filename).name}, line {error.lineno})"
    return f"{type(error).__name__}: {text}{place}"


def read(dotted: str, folder: Path) -> "str | None":
    """What is wrong with `dotted` as far as the files' text tells, or None. It follows the contract's `resolve`."""
    _, *names = dotted.split(".")
    place = folder
    while len(names) > 1 and (place / names[0]).is_dir():
        place = place / names.pop(0)
    files, name = sorted(place.glob("*.py")), names[0]
    if len(names) > 1 and place / f"{name}.py" in files:
        files, name = [place / f"{name}.py"], names[1]
    if any(_defines(path, name) for path in files):
        return None
    broken = [fault for fault in map(syntax, files) if fault]
    where = ", ".join(path.name for path in files) or f"{place.name}/, which holds no Python file"
    return broken[0] if broken else f"no {name!r} in {where}"


def syntax(path: Path) -> "str | None":
    """Why this Python cannot read the file, or None."""
    try:
        ast.parse(path.read_bytes(), str(path))
    except SyntaxError as error:
        return f"SyntaxError: {error.msg} ({path.name}, line {error.lineno})"
    except (ValueError, RecursionError, MemoryError, OSError) as error:
        return f"{type(error).__name__}: {path.name} cannot be read"
    return None


def _defines(path: Path, name: str) -> bool:
    """Whether a file gives a name a meaning at its top level, also within `if` and `try`; `import *` may mean any."""
    try:
        tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError, RecursionError, MemoryError, OSError):
        return False
    names: set[str] = set()
    queue: list[ast.AST] = list(tree.body)
    while queue:
        node = queue.pop()
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            names.add(node.name)
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            names |= {(alias.asname or alias.name).partition(".")[0] for alias in node.names}
        else:
            found = (each for each in ast.walk(node) if isinstance(each, ast.Name))
            names |= {each.id for each in found if isinstance(each.ctx, ast.Store)}
            queue += [child for child in ast.iter_child_nodes(node) if isinstance(child, (ast.stmt, ast.excepthandler))]
    return name in names or "*" in names


def main() -> None:
    """Import, and answer."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what the service prints is no answer
    sys.dont_write_bytecode = True
    contract, service, folder = load_contract(sys.argv[1]), sys.argv[2], Path(sys.argv[3])
    asked: dict[str, list[str]] = json.load(sys.stdin)
    others = [each.partition("=") for each in sys.argv[4:]]
    sys.meta_path.insert(0, contract.ServiceFinder({service: folder}))
    packages = [place for place in sys.path if place.endswith(("site-packages", "dist-packages"))]
    sys.path.insert(sys.path.index(packages[0]) if packages else len(sys.path), str(folder))
    sys.meta_path.append(contract.ServiceFinder({name: Path(place) for name, _, place in others}))
    found = {dotted: imported(contract, dotted, folder, asked["offered"]) for dotted in asked["functions"]}
    with answers:
        json.dump(found, answers)
    os._exit(0)  # threads and exit functions of the service are none of ours


if __name__ == "__main__":
    main()
