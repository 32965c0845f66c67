"""YAML as data, with the line of each value.

Built on PyYAML's nodes, because its loader forgets where a value stood. Only plain data: a tag that
would make an object is an error, and so are aliases, with which a short file could grow without
bound.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import yaml

from infra.wire.errors import AgClusterError

DEPTH_MAX = 20

Path = tuple[str | int, ...]

_TAG = "tag:yaml.org,2002:"
_NULL = f"{_TAG}null"
_SCALARS = frozenset(
    f"{_TAG}{kind}" for kind in ("str", "int", "float", "bool", "null", "timestamp")
)


class ProfileRefused(AgClusterError):
    """A profile cannot be used; the message has a line for each fault, with file, line and
    field."""

    def __init__(self, faults: Sequence[str]) -> None:
        super().__init__("\n".join(faults))
        self.faults = tuple(faults)


@dataclass(frozen=True)
class YamlPlace:
    """Where a value stands, in words: `agents/reviewer.yaml:12`."""

    file: str
    line: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"


@dataclass
class PlacedYaml:
    """A mapping that was read, and the place of each value in it."""

    data: dict[str, Any]
    places: dict[Path, YamlPlace] = field(default_factory=dict)

    def place_of(self, path: Path) -> YamlPlace:
        """The place of that value, or of the nearest one around it that was written down."""
        for length in range(len(path), -1, -1):
            if (found := self.places.get(path[:length])) is not None:
                return found
        raise KeyError(path)  # There is always a place for the whole.


def read_document(text: str, file: str) -> PlacedYaml:
    """Raises `ProfileRefused` for anything but one mapping of plain data."""
    try:
        if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text, yaml.SafeLoader)):
            raise ProfileRefused([f"{file}: aliases (`*name`) are not supported"])
        node = yaml.compose(text, yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else 1
        raise ProfileRefused([f"{file}:{line}: {error.problem or 'not YAML'}"]) from None
    except (yaml.YAMLError, RecursionError) as error:
        raise ProfileRefused([f"{file}: not YAML: {error}"]) from None
    document = PlacedYaml({}, {(): YamlPlace(file, 1)})
    if node is None:
        return document
    if not isinstance(node, yaml.MappingNode):
        raise ProfileRefused([f"{file}:1: must be a mapping (`field: value`)"])
    document.data = _Reader(document, file).mapping(node, ())
    return document


class _Reader:
    def __init__(self, document: PlacedYaml, file: str) -> None:
        self._document = document
        self._file = file

    def mapping(self, node: yaml.MappingNode, path: Path) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key = key_node.value if isinstance(key_node, yaml.ScalarNode) else None
            place = YamlPlace(self._file, key_node.start_mark.line + 1)
            if not isinstance(key, str):
                raise ProfileRefused([f"{place}: a field's name must be a word"])
            if key in found:
                raise ProfileRefused([f"{place}: `{key}` stands here twice"])
            found[key] = self._value(value_node, (*path, key), place)
        return found

    def _value(self, node: yaml.Node, path: Path, place: YamlPlace) -> Any:
        self._document.places[path] = place
        if len(path) > DEPTH_MAX:
            raise ProfileRefused([f"{place}: nested too deeply"])
        if isinstance(node, yaml.MappingNode):
            return self.mapping(node, path)
        if isinstance(node, yaml.SequenceNode):
            return [
                self._value(item, (*path, i), YamlPlace(self._file, item.start_mark.line + 1))
                for i, item in enumerate(node.value)
            ]
        if not isinstance(node, yaml.ScalarNode) or node.tag not in _SCALARS:
            raise ProfileRefused([f"{place}: only plain text, numbers, lists and mappings"])
        # As it was written: what is a number is for the field to say. A tenant may be all digits.
        return None if node.tag == _NULL else node.value
