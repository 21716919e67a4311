"""Read untrusted YAML: size and depth are limited, tags are refused, and the line of
each key is known.
"""

import math
import re
from collections.abc import Sequence
from typing import Any, NoReturn

import yaml

from orca_ray.errors import UserError, printable

MAX_BYTES = 2**20
MAX_NODES = 20_000
"""Largest number of keys and values in a file, with every alias expanded."""
MAX_DEPTH = 24
MAX_DIGITS = 400
MAX_INTEGER = 2**63 - 1
"""Largest integer; seeds and the columns of the results store have 64 bits."""

_DROPPED = ("tag:yaml.org,2002:timestamp", "tag:yaml.org,2002:value")
_KEY_TAGS = ("tag:yaml.org,2002:str", "tag:yaml.org,2002:merge")


class _RefusedError(yaml.MarkedYAMLError):
    """Raised for valid YAML that is not allowed here, such as a tag, a key that is not
    text, or too many values.
    """


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader, with limits that are checked on the node tree, before
    Python objects are built from it.

    Unlike in YAML 1.1, a date is read as text, and 1e-4 as a number. An alias counts as
    many nodes as the node that it refers to, so that a short file with nested aliases
    cannot expand exponentially.
    """

    yaml_implicit_resolvers = {  # noqa: RUF012  # PyYAML's own class attribute
        first: [resolver for resolver in resolvers if resolver[0] not in _DROPPED]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._num_nodes = self._depth = 0
        self._extents: dict[int, tuple[int, int]] = {}
        """Number of nodes and depth of each subtree, by the ``id()`` of its root node.
        """

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event = self.peek_event()  # type: ignore[no-untyped-call]
        if isinstance(event, yaml.AliasEvent):
            node = super().compose_node(parent, index)
            if id(node) not in self._extents:
                _refuse(f"the alias {event.anchor!r} contains itself", event)
            return node
        if getattr(event, "tag", None) is not None:
            _refuse(
                f"the tag {event.tag!r} is not allowed: write plain values, and quote"
                " text",
                event,
            )
        self._num_nodes += 1
        self._depth += 1
        self._check(self._num_nodes, self._depth, event)
        node = super().compose_node(parent, index)
        self._depth -= 1
        children: list[yaml.Node] = []
        if isinstance(node, yaml.MappingNode):
            _check_keys([key for key, _ in node.value])
            children = [child for pair in node.value for child in pair]
        elif isinstance(node, yaml.SequenceNode):
            children = node.value
        extents = [self._extents[id(child)] for child in children]
        extent = (
            1 + sum(size for size, _ in extents),
            1 + max((depth for _, depth in extents), default=0),
        )
        self._check(*extent, event)
        self._extents[id(node)] = extent
        return node

    def construct_number(self, node: yaml.ScalarNode) -> int | float:
        """Convert a YAML scalar to a number; refuse infinities, NaN and integers beyond
        64 bits.
        """
        parse = (
            self.construct_yaml_int
            if node.tag.endswith(":int")
            else self.construct_yaml_float
        )
        try:
            value: int | float = (
                parse(node) if len(node.value) < MAX_DIGITS else math.inf
            )
        except (ValueError, OverflowError):
            value = math.inf
        fits = (
            abs(value) <= MAX_INTEGER
            if isinstance(value, int)
            else math.isfinite(value)
        )
        if not fits:
            shown = node.value if len(node.value) <= 40 else f"{node.value[:40]}..."
            _refuse(
                f"{shown!r} is not a finite number of at most 64 bits: give another, or"
                " put text in quotes",
                node,
            )
        return value

    @staticmethod
    def _check(size: int, depth: int, at: Any) -> None:
        if size > MAX_NODES:
            _refuse(
                f"more than {MAX_NODES} keys and values, aliases expanded: write a"
                " shorter file",
                at,
            )
        if depth > MAX_DEPTH:
            _refuse(
                f"nested deeper than {MAX_DEPTH} levels: a sweep file needs six", at
            )


for _tag in ("int", "float"):
    _Loader.add_constructor(f"tag:yaml.org,2002:{_tag}", _Loader.construct_number)
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)[eE][-+]?[0-9]+$"),
    list("-+0123456789."),
)


class PositionedYaml:
    """A parsed YAML document and the line of each of its keys."""

    def __init__(self, text: str, name: str) -> None:
        """Parse ``text``.

        Raises UserError with ``name`` and the line if it is not YAML or exceeds a
        limit.
        """
        self.name = printable(name)
        try:
            loader = _Loader(text)
        except yaml.reader.ReaderError as error:
            line = text.count("\n", 0, error.position) + 1
            problem = f"{error.reason}, got {text[error.position]!r}"
            raise UserError(f"{self.name}:{line}: not valid YAML: {problem}") from error
        try:
            self._root = loader.get_single_node()
            self.data: Any = (
                None if self._root is None else loader.construct_document(self._root)
            )
        except yaml.MarkedYAMLError as error:
            line = error.problem_mark.line + 1 if error.problem_mark else 1
            kind = "" if isinstance(error, _RefusedError) else "not valid YAML: "
            raise UserError(
                f"{self.name}:{line}: {kind}{printable(error.problem or '')}"
            ) from error
        finally:
            loader.dispose()

    def find(self, location: Sequence[str | int]) -> tuple[int, int]:
        """Follow the keys and list indices in ``location`` from the root of the
        document.

        Return the number of parts before the first missing one, and the line (from 1)
        of the last existing part.
        """
        node = self._root
        line = 1
        for depth, part in enumerate(location):
            found = self._child(node, part)
            if found is None:
                return depth, line
            line, node = found
        return len(location), line

    @staticmethod
    def _child(node: yaml.Node | None, part: str | int) -> tuple[int, yaml.Node] | None:
        if isinstance(node, yaml.MappingNode):
            for key, value in node.value:
                if key.value == str(part):
                    return key.start_mark.line + 1, value
        if (
            isinstance(node, yaml.SequenceNode)
            and isinstance(part, int)
            and part < len(node.value)
        ):
            value = node.value[part]
            return value.start_mark.line + 1, value
        return None


def _check_keys(keys: Sequence[yaml.Node]) -> None:
    """Refuse keys that are not text, and keys given twice."""
    seen: set[str] = set()
    for key in keys:
        if not isinstance(key, yaml.ScalarNode):
            _refuse("a key must be a word, not a list or mapping", key)
        if key.tag not in _KEY_TAGS:
            _refuse(f"a key must be text: put {key.value!r} in quotes", key)
        if key.value in seen:
            _refuse(f"the key {key.value!r} is given twice", key)
        seen.add(key.value)


def _refuse(problem: str, at: Any) -> NoReturn:
    raise _RefusedError(None, None, problem, at.start_mark)
