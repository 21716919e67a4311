"""Reader of untrusted YAML.

Size and depth are limited, tags are refused, and the line of each key is known.
"""

import math
import re
from collections.abc import Sequence
from typing import Any, NamedTuple, NoReturn

import yaml

from orca_ray.errors import UserError, printable

MAX_BYTES = 2**20
"""Largest size of a file."""
MAX_NODES = 20_000
"""Largest number of keys and values in a file, with every alias expanded."""
MAX_DEPTH = 24
"""Largest depth of nested lists and mappings; a sweep file has six levels."""
MAX_DIGITS = 400
"""Length from which the text of a number is refused without being parsed."""
MAX_INTEGER = 2**63 - 1
"""Largest integer; seeds and the columns of the results store have 64 bits."""

_DROPPED_TAGS = ("tag:yaml.org,2002:timestamp", "tag:yaml.org,2002:value")
"""Tags that YAML 1.1 gives to plain text; here such text stays text."""
_KEY_TAGS = ("tag:yaml.org,2002:str", "tag:yaml.org,2002:merge")
"""Tags that a key may have."""


class _RefusedError(yaml.MarkedYAMLError):
    """Raised for valid YAML that is not allowed here.

    Examples are a tag, a key that is not text, and too many values.
    """


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader with limits.

    The limits are checked on the node tree, before Python objects are built from it.
    Unlike in YAML 1.1, a date is read as text, and 1e-4 as a number. An alias counts as
    many nodes as the node that it refers to, so that a short file with nested aliases
    cannot expand exponentially.
    """

    yaml_implicit_resolvers = {  # noqa: RUF012  # PyYAML's own class attribute
        first: [resolver for resolver in resolvers if resolver[0] not in _DROPPED_TAGS]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._num_nodes = 0
        self._depth = 0
        self._extents: dict[int, tuple[int, int]] = {}
        """Number of nodes and depth of each subtree, by the root node's ``id()``."""

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """Compose the next node, and refuse it if it or its subtree is not allowed."""
        event = self.peek_event()  # type: ignore[no-untyped-call]
        if isinstance(event, yaml.AliasEvent):
            node = super().compose_node(parent, index)
            # The extent of a node is stored when its subtree is complete.
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
        self._check_extent(self._num_nodes, self._depth, event)
        node = super().compose_node(parent, index)
        self._depth -= 1
        extents = [self._extents[id(child)] for child in _children(node)]
        # Checked again, as the subtree may hold aliases, which are not counted above.
        size = 1 + sum(child_size for child_size, _ in extents)
        depth = 1 + max((child_depth for _, child_depth in extents), default=0)
        self._check_extent(size, depth, event)
        self._extents[id(node)] = (size, depth)
        return node

    def construct_number(self, node: yaml.ScalarNode) -> int | float:
        """Convert a YAML scalar to a number.

        Infinities, NaN and integers beyond 64 bits are refused.
        """
        value = self._parse_number(node)
        if isinstance(value, int):
            fits = abs(value) <= MAX_INTEGER
        else:
            fits = math.isfinite(value)
        if not fits:
            text = node.value if len(node.value) <= 40 else f"{node.value[:40]}..."
            _refuse(
                f"{text!r} is not a finite number of at most 64 bits: give another, or"
                " put text in quotes",
                node,
            )
        return value

    def _parse_number(self, node: yaml.ScalarNode) -> int | float:
        """Return the number in a scalar.

        Returns infinity for text that cannot be converted or is very long, since the
        caller refuses infinity.
        """
        if len(node.value) >= MAX_DIGITS:
            return math.inf
        try:
            if node.tag.endswith(":int"):
                return self.construct_yaml_int(node)
            return self.construct_yaml_float(node)
        except (ValueError, OverflowError):
            return math.inf

    @staticmethod
    def _check_extent(size: int, depth: int, event: Any) -> None:
        """Refuse a tree with ``size`` nodes and ``depth`` levels if it is too large.

        ``event`` is the place for the message.
        """
        if size > MAX_NODES:
            _refuse(
                f"more than {MAX_NODES} keys and values, aliases expanded: write a"
                " shorter file",
                event,
            )
        if depth > MAX_DEPTH:
            _refuse(
                f"nested deeper than {MAX_DEPTH} levels: a sweep file needs six", event
            )


for _tag in ("int", "float"):
    _Loader.add_constructor(f"tag:yaml.org,2002:{_tag}", _Loader.construct_number)
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)[eE][-+]?[0-9]+$"),
    list("-+0123456789."),
)


class Place(NamedTuple):
    """The part of a path of keys and list indices that exists in a document."""

    depth: int
    """Number of keys and indices of the path before the first missing one."""
    line: int
    """Line of the last existing key or index, from 1."""


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

    def find(self, location: Sequence[str | int]) -> Place:
        """Follow the keys and list indices in ``location`` from the document's root.

        Return the place of the last existing part.
        """
        node = self._root
        line = 1
        for depth, part in enumerate(location):
            child = self._child(node, part)
            if child is None:
                return Place(depth, line)
            line, node = child
        return Place(len(location), line)

    @staticmethod
    def _child(node: yaml.Node | None, part: str | int) -> tuple[int, yaml.Node] | None:
        """Return line and value of the key or index ``part``; None if it is missing."""
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


def _children(node: yaml.Node | None) -> list[yaml.Node]:
    """Return keys and values of a mapping, the items of a list, or nothing.

    The keys of a mapping are checked.
    """
    if isinstance(node, yaml.MappingNode):
        _check_keys([key for key, _ in node.value])
        return [child for pair in node.value for child in pair]
    if isinstance(node, yaml.SequenceNode):
        items: list[yaml.Node] = node.value
        return items
    return []


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
