"""Imports the Agent SDK without `mcp` and `jsonschema`, which is most of what its import costs.

The SDK needs both for tools that run in this process only, which an agent of ours has none of. So
placeholders take their place: names can be imported and used as types, and nothing else. Measured:
0.8 to 2.5 s of CPU for each agent, against 0.25 s without.
"""

from __future__ import annotations

import sys
from collections.abc import MutableSequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

LEFT_OUT = ("mcp", "jsonschema")


class LeftOut(Exception):
    """Takes the place of every class that is left out. An exception, for `except` clauses."""

    def __init__(self, *_: object, **__: object) -> None:
        raise RuntimeError(f"{type(self).__name__} is used, but {LEFT_OUT} are not loaded")

    def __init_subclass__(cls, **_: object) -> None:
        """Takes what pydantic's models take, such as `extra`."""


class _Placeholder(ModuleType):
    __path__: MutableSequence[str] = []  # noqa: RUF012 - never added to

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        made = type(name, (LeftOut,), {"__module__": self.__name__})
        setattr(self, name, made)
        return made


class _Finder(MetaPathFinder, Loader):
    def find_spec(self, fullname: str, *_: object) -> ModuleSpec | None:
        is_left_out = fullname.partition(".")[0] in LEFT_OUT
        return ModuleSpec(fullname, self, is_package=True) if is_left_out else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return _Placeholder(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        pass


def leave_out_mcp() -> None:
    """For this process from now on. Does nothing where one of them is loaded already."""
    if not any(name in sys.modules for name in LEFT_OUT):
        sys.meta_path.insert(0, _Finder())
