"""The number of numeric literals in the search and the choice of own data."""

import ast
from pathlib import Path

import orca_ray.adaptation

ROOM = Path(orca_ray.adaptation.__file__).parent
MODULES = (
    "candidates",
    "choice",
    "configuration",
    "expected_seconds",
    "folds",
    "judge",
    "last_training",
    "policy",
    "portfolio",
    "progress",
    "ranking",
    "refits",
    "search",
    "situation",
    "variants",
)
MOST_LITERALS = 20
"""Largest number of literals other than 0 and 1, each of which needs a source."""
MOST_LINES_OF_POLICY = 250


def literals_of(path: Path) -> list[str]:
    """Return the numbers in a module other than 0 and 1, with their places."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.Constant) or isinstance(node.value, bool):
            continue
        if isinstance(node.value, int | float) and node.value not in (0, 1):
            found.append(f"{path.name}:{node.lineno}: {node.value}")
    return found


def test_the_search_has_few_numbers() -> None:
    found = [
        literal for name in MODULES for literal in literals_of(ROOM / f"{name}.py")
    ]
    assert len(found) <= MOST_LITERALS, found


def test_the_policy_is_read_at_once() -> None:
    text = (ROOM / "policy.py").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= MOST_LINES_OF_POLICY
