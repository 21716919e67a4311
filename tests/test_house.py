"""How the code reads: what ruff does not count, over the package, its tests and tools.

Ruff counts branches; a reader also decides at comprehensions, conditional expressions
and boolean operators. The rules and their reasons stand in CONTRIBUTING.md.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

FOLDERS = ("orca_ray", "tests", "benchmarks", "examples")
"""Folders whose Python files follow the rules."""

MOST_DECISIONS = 15
"""Largest number of decisions in a function, functions inside it included."""

DECISIONS = (
    ast.If,
    ast.IfExp,
    ast.For,
    ast.AsyncFor,
    ast.While,
    ast.comprehension,
    ast.BoolOp,
    ast.ExceptHandler,
)
"""Kinds of syntax that count as one decision each."""

Function = ast.FunctionDef | ast.AsyncFunctionDef


def long_functions(tree: ast.Module) -> Iterator[str]:
    """Yield functions in which a reader must follow too many decisions."""
    for node in ast.walk(tree):
        if not isinstance(node, Function):
            continue
        decisions = sum(isinstance(inner, DECISIONS) for inner in ast.walk(node))
        if decisions > MOST_DECISIONS:
            yield (
                f"{node.lineno}: {node.name} takes {decisions} decisions,"
                f" at most {MOST_DECISIONS} are allowed: split it"
            )


def packed_assignments(tree: ast.Module) -> Iterator[str]:
    """Yield statements that assign several values, unless they exchange names."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Assign):
            continue
        target = node.targets[0]
        if not isinstance(target, ast.Tuple) or not isinstance(node.value, ast.Tuple):
            continue
        assigned = {ast.unparse(part) for part in target.elts}
        values = ast.walk(node.value)
        read = {ast.unparse(part) for part in values if isinstance(part, ast.expr)}
        if not assigned & read:
            yield f"{node.lineno}: one assignment a statement: {ast.unparse(node)}"


def tuples_of_constants(tree: ast.Module) -> Iterator[str]:
    """Yield assignments of several names in the body of a module or class."""
    classes = [node for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
    for body in (tree.body, *(node.body for node in classes)):
        for statement in body:
            if not isinstance(statement, ast.Assign):
                continue
            if isinstance(statement.targets[0], ast.Tuple):
                yield f"{statement.lineno}: each constant stands on a line of its own"


def literals_times_conditions(tree: ast.Module) -> Iterator[str]:
    """Yield products of a literal and a condition: an ``if`` says it plainly.

    The product of an array and a comparison is a mask, which is plain.
    """
    for node in ast.walk(tree):
        if not isinstance(node, ast.BinOp) or not isinstance(node.op, ast.Mult):
            continue
        for literal, condition in ((node.left, node.right), (node.right, node.left)):
            is_literal = isinstance(literal, ast.Constant | ast.JoinedStr)
            if is_literal and isinstance(condition, ast.Compare):
                yield f"{node.lineno}: an if instead of {ast.unparse(node)}"
            if isinstance(condition, ast.UnaryOp) and isinstance(condition.op, ast.Not):
                yield f"{node.lineno}: an if instead of {ast.unparse(node)}"


RULES = (
    long_functions,
    packed_assignments,
    tuples_of_constants,
    literals_times_conditions,
)


@pytest.mark.parametrize("folder", FOLDERS)
def test_the_code_reads_one_idea_at_a_time(folder: str) -> None:
    problems = []
    for path in sorted((ROOT / folder).rglob("*.py")):
        text = path.read_text()
        tree = ast.parse(text)
        name = path.relative_to(ROOT)
        for rule in RULES:
            problems += [f"{name}:{problem}" for problem in rule(tree)]
        if "# fmt: " + "off" in text or "# fmt: " + "skip" in text:
            problems.append(f"{name}: only the formatter lays out code")
    assert not problems, "\n".join(problems)


PACKED = """
A, B = 1, 2


def swap(rows, columns):
    rows, columns = columns, rows
    height, width = rows.shape
    first, last = rows[0], columns[-1]
    return "s" * (height > 1)
"""


def test_the_rules_find_what_they_are_for() -> None:
    tree = ast.parse(PACKED)
    nested = (
        "if a:\n        " * 0 + "    return [" + "x if x else " * 16 + "x for x in y]"
    )
    many = ast.parse(f"def decide(y):\n{nested}")
    assert [problem.split(":")[0] for problem in packed_assignments(tree)] == ["2", "8"]
    assert len(list(tuples_of_constants(tree))) == 1
    assert len(list(literals_times_conditions(tree))) == 1
    assert len(list(long_functions(many))) == 1
    assert not list(long_functions(tree))
