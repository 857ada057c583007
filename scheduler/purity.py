"""Whether code can reach nothing but its arguments and its own names: asked of its source, before it runs.

A pure file holds functions and values, imports a few harmless names, and uses the attributes that text, numbers, lists,
dicts, dates and patterns have. It writes no attribute, names nothing with two leading underscores, and none of the
builtins by which Python reaches further (`open`, `getattr`, `__import__` …). So it cannot change what it was not given.
What is not known to be harmless is not pure.
"""

import ast
import builtins
import datetime
import fnmatch
import json
import math
import re
import warnings
from types import CodeType

_NODES = frozenset({
    # a file, functions, and how they end
    ast.Module, ast.FunctionDef, ast.Lambda, ast.arguments, ast.arg, ast.Return, ast.Global, ast.Nonlocal,
    ast.Import, ast.ImportFrom, ast.alias,
    # statements
    ast.Expr, ast.Assign, ast.AnnAssign, ast.AugAssign, ast.NamedExpr, ast.Delete, ast.If, ast.For, ast.While,
    ast.Break, ast.Continue, ast.Pass, ast.Try, ast.ExceptHandler, ast.Raise, ast.Assert,
    # expressions
    ast.Constant, ast.JoinedStr, ast.FormattedValue, ast.Name, ast.Attribute, ast.Subscript, ast.Slice, ast.Starred,
    ast.List, ast.Tuple, ast.Set, ast.Dict, ast.IfExp, ast.Compare, ast.BoolOp, ast.BinOp, ast.UnaryOp, ast.Call,
    ast.keyword, ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp, ast.comprehension,
    ast.Load, ast.Store, ast.Del,
    # operators
    ast.And, ast.Or, ast.Not, ast.Invert, ast.UAdd, ast.USub, ast.Add, ast.Sub, ast.Mult, ast.MatMult, ast.Div,
    ast.Mod, ast.Pow, ast.LShift, ast.RShift, ast.BitOr, ast.BitXor, ast.BitAnd, ast.FloorDiv, ast.Eq, ast.NotEq,
    ast.Lt, ast.LtE, ast.Gt, ast.GtE, ast.Is, ast.IsNot, ast.In, ast.NotIn,
})  # fmt: skip

_BUILTINS = frozenset({
    "abs", "all", "any", "ascii", "bin", "bool", "bytearray", "bytes", "callable", "chr", "complex", "dict", "divmod",
    "enumerate", "filter", "float", "format", "frozenset", "hasattr", "hash", "hex", "id", "int", "isinstance",
    "issubclass", "iter", "len", "list", "map", "max", "min", "next", "object", "oct", "ord", "pow", "print", "range",
    "repr", "reversed", "round", "set", "slice", "sorted", "str", "sum", "tuple", "zip",
    "Ellipsis", "False", "None", "NotImplemented", "True",
})  # fmt: skip
_ERRORS = frozenset(
    name for name, value in vars(builtins).items() if isinstance(value, type) and issubclass(value, BaseException)
)
_REACHING = frozenset(dir(builtins)) - _BUILTINS - _ERRORS
_OF_THE_FILE = frozenset({"__name__", "__doc__", "__all__", "__author__", "__version__"})

_MODULES: dict[str, frozenset[str]] = {
    "re": frozenset(re.__all__),
    "math": frozenset(name for name in dir(math) if not name.startswith("_")),
    "datetime": frozenset({"date", "datetime", "time", "timedelta", "timezone", "MINYEAR", "MAXYEAR", "UTC"}),
    "json": frozenset({"dumps", "loads", "JSONDecodeError"}),
    "fnmatch": frozenset(fnmatch.__all__),
    "typing": frozenset({"Any", "Dict", "List", "Mapping", "Optional", "Sequence", "Set", "Tuple", "Union"}),
    "__future__": frozenset({"annotations"}),
}
"""Of each module that may be imported the names that may be: functions that keep nothing, and no modules."""

_KINDS = (
    str, bytes, bool, int, float, complex, list, tuple, set, frozenset, dict, range, slice, re.Pattern, re.Match,
    datetime.date, datetime.datetime, datetime.time, datetime.timedelta, datetime.timezone, json.JSONDecodeError,
)  # fmt: skip
_ATTRIBUTES = frozenset(name for kind in _KINDS for name in dir(kind) if not name.startswith("_")).union(
    ["args"], *_MODULES.values()
)


def pure_code(source: bytes, path: str) -> CodeType | None:
    """The code of a file where it is pure; None where it is not, or is no Python."""
    try:
        with warnings.catch_warnings(action="ignore"):  # what is odd about it was said when it was installed
            tree = ast.parse(source)
            return compile(tree, path, "exec", dont_inherit=True) if _pure(tree) else None
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def _pure(tree: ast.Module) -> bool:
    left: list[ast.AST] = [tree]
    while left:
        node = left.pop()
        if type(node) not in _NODES or not _harmless(node):
            return False
        for field in node._fields:
            value = getattr(node, field, None)
            if isinstance(value, ast.AST):
                left.append(value)
            elif isinstance(value, list):
                left += [item for item in value if isinstance(item, ast.AST)]
    return True


def _harmless(node: ast.AST) -> bool:
    """Whether the node itself names nothing it should not; what it consists of is asked by itself."""
    names: list[str] = []
    match node:
        case ast.Attribute():
            return node.attr in _ATTRIBUTES and isinstance(node.ctx, ast.Load)
        case ast.Name():
            names = [node.id]
        case ast.arg():
            names = [node.arg]
        case ast.FunctionDef():
            names = [node.name]
        case ast.ExceptHandler():
            names = [node.name or ""]
        case ast.Global() | ast.Nonlocal():
            names = node.names
        case ast.Import():
            return all(each.name in _MODULES and _nameable(each.asname or "") for each in node.names)
        case ast.ImportFrom():
            known = _MODULES.get(node.module or "", frozenset()) if not node.level else frozenset()
            return all(each.name in known and _nameable(each.asname or "") for each in node.names)
    return all(map(_nameable, names))


def _nameable(name: str) -> bool:
    return name in _OF_THE_FILE or not (name in _REACHING or name.startswith("__"))
