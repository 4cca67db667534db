"""What the code itself says, read from its syntax: error codes and types, routes, headers, metrics, variables.

Whatever is found here must have its row in the reference; ``docs/generate.py`` and the tests see to that.
"""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final, NamedTuple

PACKAGE: Final = Path(__file__).parent.parent / "src" / "confide"
SERVER: Final = ("api", "attest", "engine", "errors.py", "identity", "route", "seal", "store", "wire")
"""The rooms whose errors reach a client of the server."""

CODE_OF: Final = {"_Refused": 0}
"""Helpers that take a code by position."""

PATTERNS: Final = {
    "{}_{}_value": (
        *("integer_below_min_value", "integer_above_max_value"),
        *("decimal_below_min_value", "decimal_above_max_value"),
    ),
    "{}_above_max_length": ("string_above_max_length", "array_above_max_length", "object_above_max_length"),
    "empty_{}": ("empty_string", "empty_array", "empty_object"),
}
"""Codes that are put together, and what comes of it."""


class Kind(NamedTuple):
    """What an error class says of itself, where it doesn't inherit it."""

    bases: tuple[str, ...]
    status: int | None
    type: str | None


def trees(*parts: str) -> Iterator[tuple[Path, ast.Module]]:
    """The modules of these rooms, or of the whole package."""
    for part in parts or ("",):
        start = PACKAGE / part
        for path in [start] if start.is_file() else sorted(start.rglob("*.py")):
            yield path, ast.parse(path.read_text(encoding="utf-8"))


def kinds() -> dict[str, Kind]:
    """:class:`confide.errors.ApiError` and every class that comes from it, by name."""
    classes = [node for _, tree in trees() for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
    found: dict[str, Kind] = {}
    while new := [node for node in classes if node.name not in found and _is_error(node, found)]:
        for node in new:
            bases = tuple(base.id for base in node.bases if isinstance(base, ast.Name))
            found[node.name] = Kind(bases, _own(node, "status"), _own(node, "type"))
    return found


def _is_error(node: ast.ClassDef, found: dict[str, Kind]) -> bool:
    return node.name == "ApiError" or any(isinstance(base, ast.Name) and base.id in found for base in node.bases)


def ancestry(name: str, found: dict[str, Kind]) -> list[str]:
    """A class and those that it comes from, as far as they are ours."""
    return [name] + [older for base in found[name].bases if base in found for older in ancestry(base, found)]


def said(name: str, what: str, found: dict[str, Kind]) -> int | str:
    """The status or type of a class, inherited or its own."""
    return next(value for one in ancestry(name, found) if (value := getattr(found[one], what)) is not None)


def codes() -> dict[str, set[int]]:
    """Each error code of the server, and the statuses that it comes with."""
    found: dict[str, set[int]] = defaultdict(set)
    classes = kinds()
    for _, tree in trees(*SERVER):
        constants = _constants(tree)
        makers = _makers(tree, classes)
        for node in ast.walk(tree):
            for value in _code_values(node):
                for code in _words(value, constants):
                    found[code].add(_status(node, classes, makers.get(node)))
    return dict(found)


def types() -> dict[str, set[int]]:
    """Each error type, and the statuses that it comes with."""
    found: dict[str, set[int]] = defaultdict(set)
    classes = kinds()
    for name in classes:
        if name != "SealError":
            found[str(said(name, "type", classes))].add(int(said(name, "status", classes)))
    for _, tree in trees():
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and _name(node.func) in classes:
                for value in _keywords(node, "type"):
                    for kind in _words(value, {}):
                        found[kind].add(_status(node, classes))
    return dict(found)


def exit_codes() -> set[int]:
    """What errors for people at a command line end a command with."""
    classes = [node for _, tree in trees() for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
    found = {_own(node, "exit_code") for node in classes}
    return {code for code in found if isinstance(code, int)}


def routes() -> set[str]:
    """The paths of the server's routes: of the table, and of the endpoints that take prompts."""
    table = {
        str(node.args[0].value)
        for _, tree in trees("api")
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and _name(node.func) == "Route" and isinstance(node.args[0], ast.Constant)
    }
    return table | strings(r"/v1/[a-z_]+(/[a-z_]+)*", "engine/base.py")


def strings(pattern: str, *parts: str) -> set[str]:
    """The string and bytes literals that are all of this pattern, docstrings aside."""
    wanted = re.compile(pattern)
    return {
        text
        for _, tree in trees(*parts)
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str | bytes)
        if wanted.fullmatch(text := node.value if isinstance(node.value, str) else node.value.decode("latin-1"))
    }


def _code_values(node: ast.AST) -> Iterable[ast.expr]:
    if isinstance(node, ast.Call):
        position = CODE_OF.get(_name(node.func))
        return _keywords(node, "code") + ([] if position is None else [node.args[position]])
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        plain = list(zip(node.args.args[::-1], node.args.defaults[::-1], strict=False))
        named = zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True)
        return [value for argument, value in [*plain, *named] if argument.arg == "code" and value is not None]
    return []


def _keywords(node: ast.Call, name: str) -> list[ast.expr]:
    return [keyword.value for keyword in node.keywords if keyword.arg == name]


def _words(value: ast.expr, constants: dict[str, str]) -> Iterator[str]:
    if isinstance(value, ast.Constant) and isinstance(value.value, str):
        yield value.value
    elif isinstance(value, ast.Name) and value.id in constants:
        yield constants[value.id]
    elif isinstance(value, ast.IfExp):
        yield from _words(value.body, constants)
        yield from _words(value.orelse, constants)
    elif isinstance(value, ast.JoinedStr):
        pattern = "".join(str(part.value) if isinstance(part, ast.Constant) else "{}" for part in value.values)
        yield from PATTERNS[pattern]


def _makers(tree: ast.Module, classes: dict[str, Kind]) -> dict[ast.AST, str]:
    """The error classes that calls in their own bodies are of: ``super().__init__(…)``."""
    bodies = [node for node in ast.walk(tree) if isinstance(node, ast.ClassDef) and node.name in classes]
    return {inner: body.name for body in bodies for inner in ast.walk(body)}


def _status(node: ast.AST, classes: dict[str, Kind], maker: str | None = None) -> int:
    """What the call names, else what its class says. Helpers that aren't classes end in InvalidRequest."""
    if not isinstance(node, ast.Call):
        return 400
    for value in _keywords(node, "status"):
        if isinstance(value, ast.Constant) and isinstance(value.value, int):
            return value.value
        return 405  # Starlette's own refusal of a method
    name = maker or _name(node.func)
    return int(said(name, "status", classes)) if name in classes else 400


def _constants(tree: ast.Module) -> dict[str, str]:
    return {
        target.id: node.value.value
        for node in tree.body
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
        for target in node.targets
        if isinstance(target, ast.Name)
    }


def _own(node: ast.ClassDef, name: str) -> int | str | None:
    for line in node.body:
        if isinstance(line, ast.Assign) and isinstance(line.value, ast.Constant) and _name(line.targets[0]) == name:
            return line.value.value  # type: ignore[return-value]
    return None


def _name(node: ast.expr) -> str:
    return node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else ""
