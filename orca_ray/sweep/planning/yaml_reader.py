"""YAML with positions: errors of a sweep file name the line they stand on."""

import re
from collections.abc import Hashable, Sequence
from typing import Any

import yaml

from orca_ray.errors import UserError


class _Loader(yaml.SafeLoader):
    """Safe loader that reads 1e-4 as a number, which YAML 1.1 takes for a word."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)[eE][-+]?[0-9]+$"),
    list("-+0123456789."),
)


class PositionedYaml:
    """A parsed YAML document and the line of each of its keys."""

    def __init__(self, text: str, name: str) -> None:
        """Parse ``text``; raise UserError for a syntax error or a key given twice, with file and line."""
        self.name = name
        try:
            loader = _Loader(text)  # refuses control characters here already
        except yaml.YAMLError as error:
            raise UserError(f"{name}: not valid YAML: {error}") from error
        try:
            self._root = loader.get_single_node()
            if self._root is not None:
                self._check_keys(self._root)
            self.data: Any = loader.construct_document(self._root) if self._root is not None else None
        except yaml.MarkedYAMLError as error:
            line = error.problem_mark.line + 1 if error.problem_mark else 1
            raise UserError(f"{name}:{line}: not valid YAML: {error.problem}") from error
        except (yaml.YAMLError, RecursionError) as error:
            raise UserError(f"{name}: not valid YAML: {error}") from error
        finally:
            loader.dispose()

    def _check_keys(self, node: yaml.Node) -> None:
        if isinstance(node, yaml.MappingNode):
            seen: set[Hashable] = set()
            for key, value in node.value:
                if not isinstance(key, yaml.ScalarNode):
                    raise UserError(
                        f"{self.name}:{key.start_mark.line + 1}: a key must be a word, not a list or mapping"
                    )
                if key.value in seen:
                    raise UserError(f"{self.name}:{key.start_mark.line + 1}: the key {key.value!r} is given twice")
                seen.add(key.value)
                self._check_keys(value)
        elif isinstance(node, yaml.SequenceNode):
            for value in node.value:
                self._check_keys(value)

    def holds(self, location: Sequence[str | int]) -> bool:
        """Tell whether the file has every part of ``location``."""
        node = self._root
        for part in location:
            found = self._child(node, part)
            if found is None:
                return False
            _, node = found
        return True

    def line(self, location: Sequence[str | int]) -> int:
        """Return the 1-based line of the deepest part of ``location`` that exists."""
        node, line = self._root, 1
        for part in location:
            found = self._child(node, part)
            if found is None:
                break
            line, node = found
        return line

    @staticmethod
    def _child(node: yaml.Node | None, part: str | int) -> tuple[int, yaml.Node] | None:
        if isinstance(node, yaml.MappingNode):
            for key, value in node.value:
                if key.value == str(part):
                    return key.start_mark.line + 1, value
        if isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
            value = node.value[part]
            return value.start_mark.line + 1, value
        return None
