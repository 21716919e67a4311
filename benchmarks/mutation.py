"""Mutants of Python modules: small faults, e.g. ``<`` for ``<=``, that a test should
notice.
"""

import ast
import contextlib
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

COMPARISONS = {
    ast.Lt: ("<", "<="),
    ast.LtE: ("<=", "<"),
    ast.Gt: (">", ">="),
    ast.GtE: (">=", ">"),
    ast.Eq: ("==", "!="),
    ast.NotEq: ("!=", "=="),
    ast.In: ("in", "not in"),
    ast.NotIn: ("not in", "in"),
    ast.Is: ("is", "is not"),
    ast.IsNot: ("is not", "is"),
}
ARITHMETIC = {
    ast.Add: ("+", "-"),
    ast.Sub: ("-", "+"),
    ast.Mult: ("*", "/"),
    ast.Div: ("/", "*"),
    ast.FloorDiv: ("//", "*"),
    ast.Mod: ("%", "*"),
    ast.Pow: ("**", "*"),
}
BOOLEAN = {ast.And: ("and", "or"), ast.Or: ("or", "and")}
SHARES = {
    "comparison": 3,
    "arithmetic": 2,
    "boolean": 2,
    "condition": 4,
    "constant": 2,
    "return": 3,
    "call": 2,
    "keyword": 1,
    "loop": 1,
    "not": 2,
}
"""Operators, with their shares of a sample."""

# What is not changed, because no test could see it or should look at it.
NO_FUNCTIONS = ("__repr__", "__str__", "__dir__")
NO_FIELDS = ("annotation", "returns", "decorator_list", "bases", "pattern")
NO_CALLS = re.compile(
    r"^(_?log(ger|ging)?|warnings)\.|(^|\.)(_?print|echo|say|note|sleep|flush|fsync|close|collect|__init__)$"
)
"""Logging, printing, waiting, freeing, and constructors of base classes."""
NO_KEYWORDS = re.compile(
    r"exist_ok|missing_ok|ignore_(cleanup_)?errors|parents|strict|daemon|copy|non_blocking|markup|add_completion|pretty_"
    r"|usedforsecurity"
)
NO_CONSTANTS = re.compile(
    r"time_?out|seconds|interval|poll|grace|delay|wait|stacklevel|indent|maxsize|bytes|\*\*|<<|(\d\D+){5}",
    re.IGNORECASE,
)
"""Lines whose numbers are times, sizes of caches and layouts, bytes, or tables of data.
"""
NO_LINES = re.compile(r'cuda|nccl|\bmps\b|sys\.platform|2\*\*\d|\brand(om)?\(\)|"""')
"""Lines for hardware and systems that the tests do not run on, with sizes of memory or
random numbers; docstrings.
"""
MOST_LINES = 3
"""A longer expression is seldom found again after names in it have changed."""

Place = tuple[int, int]
Change = tuple[str, Place, Place, str]
"""Operator, start and end of the replaced text as line and byte, and the new text."""


@dataclass(frozen=True)
class Mutant:
    """A fault, described so that it is found again after its module or function has
    moved.
    """

    room: str
    file: str
    function: str
    """Qualified name; empty for code of the module itself."""
    before: tuple[str, ...]
    """The changed lines, without indentation."""
    occurrence: int
    """Number of equal places before this one in the function."""
    after: tuple[str, ...]
    operator: str


class Source:
    """One module: for each line its function, its statement, and whether it runs only
    when the function is called.
    """

    def __init__(self, root: Path, path: Path) -> None:
        self.file = str(path.relative_to(root))
        self.room = (
            path.relative_to(root).parts[1]
            if len(path.relative_to(root).parts) > 2
            else "top level"
        )
        self.text = path.read_text()
        self.lines = ["", *self.text.split("\n")]
        self.tree = ast.parse(self.text)
        self.functions = [""] * len(self.lines)
        self.statements: list[ast.stmt | None] = [None] * len(self.lines)
        self.called = [False] * len(self.lines)
        self._mark(self.tree, "", called=False)

    def _mark(self, node: ast.AST, name: str, *, called: bool) -> None:
        for child in ast.iter_child_nodes(node):
            inner = name
            body_called = called
            if isinstance(child, ast.stmt):
                if isinstance(
                    child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
                ):
                    inner = f"{name}.{child.name}".lstrip(".")
                    body_called = called or not isinstance(child, ast.ClassDef)
                last_line = child.end_lineno or child.lineno
                for line in range(child.lineno, last_line + 1):
                    self.functions[line] = inner
                    self.statements[line] = child
                    self.called[line] = called
            self._mark(child, inner, called=body_called)

    def find(self, before: tuple[str, ...]) -> Iterator[int]:
        """Yield the first line of each place with the lines ``before``."""
        for line, text in enumerate(self.lines):
            if (
                text.strip() == before[0]
                and tuple(map(str.strip, self.lines[line : line + len(before)]))
                == before
            ):
                yield line

    def replace(self, line: int, after: Iterable[str]) -> str:
        """Return the text of the module with other lines from ``line`` on, indented
        like those that they replace.
        """
        lines = self.lines.copy()
        for number, text in enumerate(after, line):
            lines[number] = (
                lines[number][: len(lines[number]) - len(lines[number].lstrip())] + text
            )
        return "\n".join(lines[1:])

    def mutants(self) -> Iterator[Mutant]:
        """Yield every mutant of the module."""
        for node in changeable(self.tree):
            for operator, start, end, new in self._changes(node):
                before, after = self._lines_of(start, end, new)
                if len(before) <= MOST_LINES and not NO_LINES.search("\n".join(before)):
                    function = self.functions[start[0]]
                    equal = [
                        each
                        for each in self.find(before)
                        if self.functions[each] == function
                    ]
                    yield Mutant(
                        self.room,
                        self.file,
                        function,
                        before,
                        equal.index(start[0]),
                        after,
                        operator,
                    )

    def _changes(self, node: ast.AST) -> Iterator[Change]:
        if isinstance(node, ast.expr | ast.keyword | ast.comprehension):
            yield from self._changes_of_expression(node)
        else:
            yield from self._changes_of_statement(node)

    def _changes_of_expression(self, node: ast.AST) -> Iterator[Change]:
        match node:
            case ast.IfExp(test=test) | ast.comprehension(ifs=[test, *_]):
                yield from self._negated(test)
            case ast.Compare(left=left, ops=[operator], comparators=[right]):
                yield (
                    "comparison",
                    *self._between(left, right, COMPARISONS[type(operator)]),
                )
            case ast.BinOp(left=left, op=operator, right=right):
                yield from self._calculated(left, operator, right)
            case ast.BoolOp(op=operator, values=[left, right, *_]):
                yield "boolean", *self._between(left, right, BOOLEAN[type(operator)])
            case ast.UnaryOp(op=ast.Not(), operand=operand):
                yield "not", *span(node), self._text(operand)
            case ast.Constant(value=int() | float() as value, lineno=line) if (
                not isinstance(value, bool)
            ):
                if abs(value) <= 1000 and not NO_CONSTANTS.search(self.lines[line]):
                    yield "constant", *span(node), repr(value + 1)
            case ast.keyword(
                arg=str() as name, value=ast.Constant(value=bool() as flag) as constant
            ):
                if not NO_KEYWORDS.search(name):
                    yield "keyword", *span(constant), str(not flag)

    def _changes_of_statement(self, node: ast.AST) -> Iterator[Change]:
        match node:
            case ast.If(test=test) | ast.While(test=test):
                yield from self._negated(test)
            case ast.AugAssign(target=left, op=operator, value=right):
                yield from self._calculated(left, operator, right)
            case ast.Return(value=ast.expr() as returned):
                # None for False is seldom a fault.
                if not isinstance(returned, ast.Constant) or returned.value:
                    yield "return", *span(returned), "None"
            case ast.Expr(value=ast.Call()):
                yield "call", *span(node), "pass"
            case ast.Break():
                yield "loop", *span(node), "continue"
            case ast.Continue():
                yield "loop", *span(node), "break"

    def _negated(self, test: ast.expr) -> Iterator[Change]:
        if not isinstance(test, ast.Constant | ast.UnaryOp):
            yield "condition", *span(test), f"not ({self._text(test)})"

    def _calculated(
        self, left: ast.expr, operator: ast.operator, right: ast.expr
    ) -> Iterator[Change]:
        if type(operator) in ARITHMETIC and not joins(left) and not joins(right):
            change = ARITHMETIC[type(operator)]
            yield "arithmetic", *self._between(left, right, change)

    def _text(self, node: ast.expr) -> str:
        return ast.get_source_segment(self.text, node) or ""

    def _between(
        self, left: ast.expr, right: ast.expr, change: tuple[str, str]
    ) -> tuple[Place, Place, str]:
        start = span(left)[1]
        end = span(right)[0]
        lines = [each.encode() for each in self.lines[start[0] : end[0] + 1]]
        lines[-1] = lines[-1][: end[1]]
        lines[0] = lines[0][start[1] :]
        return start, end, b"\n".join(lines).decode().replace(*change, 1)

    def _lines_of(
        self, start: Place, end: Place, new: str
    ) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Return the lines of a change, before and after."""
        before = self.lines[start[0] : end[0] + 1]
        after = (
            before[0].encode()[: start[1]].decode()
            + new
            + before[-1].encode()[end[1] :].decode()
        )
        padded = [*after.split("\n"), *[""] * len(before)][: len(before)]
        return tuple(map(str.strip, before)), tuple(map(str.strip, padded))


def changeable(node: ast.AST) -> Iterator[ast.AST]:
    """Yield ``node`` and the nodes below it, except texts, messages, logging, and what
    is only for type checkers.
    """
    match node:
        case ast.JoinedStr() | ast.Raise() | ast.Slice() | ast.Assert():
            return
        case ast.FunctionDef(name=name) if name in NO_FUNCTIONS:
            return
        case ast.Call(func=function) | ast.Expr(value=ast.Call(func=function)) if (
            NO_CALLS.search(ast.unparse(function))
        ):
            return
        case ast.Assign(targets=[ast.Name(id=name)]) if name.startswith("__"):
            return
        case ast.If(test=test) if "TYPE_CHECKING" in ast.unparse(
            test
        ) or "__name__" in ast.unparse(test):
            return
    yield node
    for field, value in ast.iter_fields(node):
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST) and field not in NO_FIELDS:
                yield from changeable(child)


def span(node: Any) -> tuple[Place, Place]:
    """Return the start and the end of ``node``."""
    return (node.lineno, node.col_offset), (node.end_lineno, node.end_col_offset)


def joins(node: ast.expr) -> bool:
    """Return whether an operand is a text or a list, for which + and % are no
    arithmetic.
    """
    if isinstance(node, ast.BinOp):
        return joins(node.left) or joins(node.right)
    text = isinstance(node, ast.Constant) and isinstance(node.value, str | bytes)
    return text or isinstance(node, ast.JoinedStr | ast.List | ast.Tuple)


def read_package(folder: Path) -> list[Source]:
    """Read the modules of a package, but not its conformance suites, which are tests
    themselves.
    """
    return [
        Source(folder.parent, each)
        for each in sorted(folder.rglob("*.py"))
        if folder / "testing" not in each.parents
    ]


def find(mutant: Mutant, sources: list[Source]) -> tuple[Source, int] | None:
    """Return module and line of a mutant: where it was, in a function of the same name,
    or the only equal lines.
    """
    found = [(each, line) for each in sources for line in each.find(mutant.before)]
    named = [
        (each, line) for each, line in found if each.functions[line] == mutant.function
    ]
    last = mutant.function.rpartition(".")[2]
    for places in (
        [(each, line) for each, line in named if each.file == mutant.file],
        named,
        [
            (each, line)
            for each, line in found
            if each.functions[line].rpartition(".")[2] == last
        ],
    ):
        if len({each.file for each, _ in places}) == 1 and mutant.occurrence < len(
            places
        ):
            return places[mutant.occurrence]
    return found[0] if len(found) == 1 and len("".join(mutant.before)) >= 30 else None


def is_another_program(source: Source, mutant: Mutant) -> bool:
    """Return whether a mutant of ``source`` compiles, and differs from the original in
    more than its layout.
    """
    place = find(mutant, [source])
    with contextlib.suppress(SyntaxError):
        return place is not None and ast.dump(
            ast.parse(source.replace(place[1], mutant.after))
        ) != ast.dump(source.tree)
    return False
