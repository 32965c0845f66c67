"""Which program reads which setting, found in the programs' own source.

A setting counts as read by a program if a module that the program imports, directly or indirectly,
looks it up on something called `settings`, on a parameter or a field of a class whose type is a
section, or on a name that such a thing was assigned to. This may list too many: a program may get a
setting that only another part of a module reads. Used by `infra.reference.settings`.
"""

from __future__ import annotations

import ast
import functools
import inspect
from collections.abc import Iterable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import grimp

from infra.runtime.settings import SECTIONS, Settings

PROGRAMS = {
    "api": "api.main",
    "worker": "worker.main",
    "gateway": "worker.gateway.main",
    "engine-proxy": "worker.engine_proxy.main",
    "exporter": "infra.exporter.main",
}
"""The services of `compose.yaml` that read settings, and where each begins."""

_NAMES = frozenset({"settings", "_settings"})
_SECTIONS = frozenset(section.__name__ for section in SECTIONS)
_OURS = "infra.runtime.settings"


@functools.cache
def read_by(program: str) -> frozenset[str]:
    """Names of the settings that the program has a use for, as fields of `Settings`."""
    return _together(_named_in(_modules_of(PROGRAMS[program])))


def readers_of(field: str) -> tuple[str, ...]:
    """The programs that read the setting; empty for one of `agcluster up` alone."""
    return tuple(program for program in PROGRAMS if field in read_by(program))


def _modules_of(entry: str) -> Iterator[str]:
    yield entry
    yield from _imports().find_upstream_modules(entry)


@functools.cache
def _imports() -> grimp.ImportGraph:
    return grimp.build_graph("api", "worker", "infra", cache_dir=None)


def _named_in(modules: Iterable[str]) -> frozenset[str]:
    ours = [module for module in modules if not module.startswith(_OURS)]
    held = {
        package: _NAMES.union(*(_section_fields(m) for m in ours if _package(m) == package))
        for package in {_package(module) for module in ours}
    }
    found = frozenset[str]().union(*(_attributes_in(m, held[_package(m)]) for m in ours))
    stands_for = _stands_for()
    return frozenset(field for name in found for field in stands_for.get(name, ()))


def _package(module: str) -> str:
    return module.partition(".")[0]


@functools.cache
def _nodes_of(module: str) -> tuple[ast.AST, ...]:
    spec = find_spec(module)
    assert spec is not None, module
    assert spec.origin is not None, module
    return tuple(ast.walk(ast.parse(Path(spec.origin).read_text())))


@functools.cache
def _section_fields(module: str) -> frozenset[str]:
    """`agents` of `agents: AgentDefaults`, a field that other modules of the package read."""
    return frozenset(
        name
        for node in _nodes_of(module)
        if isinstance(node, ast.AnnAssign) and _last_name(node.annotation) in _SECTIONS
        if (name := _last_name(node.target))
    )


@functools.cache
def _attributes_in(module: str, held: frozenset[str]) -> frozenset[str]:
    nodes = _nodes_of(module)
    names = held.union(
        (n.arg for n in nodes if isinstance(n, ast.arg) and _last_name(n.annotation) in _SECTIONS),
        *(_other_names(n, held) for n in nodes if isinstance(n, ast.Assign)),
    )
    return frozenset(
        node.attr
        for node in nodes
        if isinstance(node, ast.Attribute) and _last_name(node.value) in names
    )


def _other_names(node: ast.Assign, held: frozenset[str]) -> frozenset[str]:
    """`limits` of `limits = self.settings`, also where several are assigned at once."""
    pairs = [(node.targets[0], node.value)]
    if isinstance(node.targets[0], ast.Tuple) and isinstance(node.value, ast.Tuple):
        pairs = list(zip(node.targets[0].elts, node.value.elts, strict=False))
    found = (_last_name(to) for to, value in pairs if _last_name(value) in held)
    return frozenset(name for name in found if name)


def _last_name(node: ast.expr | None) -> str | None:
    """`settings` of `settings` and of `self.parts.settings`."""
    if isinstance(node, ast.Name):
        return node.id
    return node.attr if isinstance(node, ast.Attribute) else None


@functools.cache
def _stands_for() -> dict[str, frozenset[str]]:
    """Each field, property and method of `Settings` -> the fields that it looks at."""
    direct = {name: _fields_of_self(function) for name, function in _functions().items()}
    whole: dict[str, frozenset[str]] = {name: frozenset({name}) for name in Settings.model_fields}
    for name in direct:
        seen, todo = {name}, [name]
        while todo:
            fresh = direct.get(todo.pop(), frozenset()) - seen
            seen |= fresh
            todo += fresh
        whole[name] = frozenset(seen & Settings.model_fields.keys())
    return whole


def _together(fields: frozenset[str]) -> frozenset[str]:
    """These, and what is checked together with one of them: half of it could be refused."""
    while True:
        groups = (group for group in _checked_together() if group & fields)
        if (more := fields.union(*groups)) == fields:
            return fields
        fields = more


@functools.cache
def _checked_together() -> tuple[frozenset[str], ...]:
    checks = Settings.__pydantic_decorators__.model_validators
    functions = _functions()
    return tuple(_fields_of_self(functions[name]) & Settings.model_fields.keys() for name in checks)


def _fields_of_self(function: ast.AST) -> frozenset[str]:
    return frozenset(
        node.attr
        for node in ast.walk(function)
        if isinstance(node, ast.Attribute) and _last_name(node.value) == "self"
    )


@functools.cache
def _functions() -> dict[str, ast.AST]:
    """The functions of all sections by their names."""
    sections: tuple[type, ...] = (*SECTIONS, Settings)
    bodies = [_body_of(section) for section in sections]
    return {
        node.name: node for body in bodies for node in body if isinstance(node, ast.FunctionDef)
    }


def _body_of(section: type) -> list[ast.stmt]:
    tree: Any = ast.parse(inspect.getsource(section))
    return list(tree.body[0].body)
