"""Imports the Agent SDK without `mcp` and `jsonschema`, which take most of its import time.

The SDK needs both only for its own kind of in-process tools, which our agents do not have
(`agent.cli.offers`). So placeholders replace them: their names can be imported and used as types,
and nothing else. Measured: an import takes
0.25 s of CPU instead of 0.8 to 2.5 s for each agent.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import MutableSequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

LEFT_OUT = ("mcp", "jsonschema")


class LeftOut(Exception):
    """Replaces every class of the omitted packages. It is an exception because it may stand in an
    `except` clause."""

    def __init__(self, *_: object, **__: object) -> None:
        raise RuntimeError(f"{type(self).__name__} is used, but {LEFT_OUT} are not loaded")

    def __init_subclass__(cls, **_: object) -> None:
        """Accepts what pydantic's models accept, such as `extra`."""


class _Placeholder(ModuleType):
    __path__: MutableSequence[str] = []  # noqa: RUF012 - never added to

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        made = type(name, (LeftOut,), {"__module__": self.__name__})
        setattr(self, name, made)
        return made


class _Finder(MetaPathFinder, Loader):
    def __init__(self) -> None:
        self.names = set(LEFT_OUT)

    def find_spec(self, fullname: str, *_: object) -> ModuleSpec | None:
        is_left_out = fullname.partition(".")[0] in self.names
        return ModuleSpec(fullname, self, is_package=True) if is_left_out else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return _Placeholder(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        pass


def leave_out_mcp() -> None:
    """Omit the packages in this process from now on. Does nothing if one of them is already
    loaded."""
    if not any(name in sys.modules for name in LEFT_OUT):
        sys.meta_path.insert(0, _Finder())


def load_left_out(name: str) -> Any:
    """The real package, loaded now. What has the placeholder keeps it."""
    for finder in sys.meta_path:
        if isinstance(finder, _Finder):
            finder.names.discard(name)
    for module in list(sys.modules):
        if module.partition(".")[0] == name and isinstance(sys.modules[module], _Placeholder):
            del sys.modules[module]
    return importlib.import_module(name)
