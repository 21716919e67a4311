"""Print the oldest versions that pyproject.toml allows, as constraints for pip.

    python -m benchmarks.lower_bounds > oldest.txt
    make venv CONSTRAINTS=oldest.txt

Needs only Python. The tools of developers, and a requirement without a lower bound,
are left out.
"""

# ruff: noqa: T201 - prints the constraints

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[1] / "pyproject.toml"
"""File that declares the requirements."""

REQUIREMENT = re.compile(r"(?P<name>[\w.-]+)(\[[\w, -]+\])?>=(?P<version>[\w.]+)")
"""A requirement with a lower bound: name, extras, version."""

DEVELOPERS = ("dev", "docs", "bench")
"""Extras that no user installs."""


def lower_bounds(project: Path = PROJECT) -> Iterator[tuple[str, str]]:
    """Yield name and oldest version of each requirement that has a lower bound."""
    table = tomllib.loads(project.read_text())["project"]
    requirements = list(table["dependencies"])
    for extra, names in table["optional-dependencies"].items():
        if extra not in DEVELOPERS:
            requirements += names
    for requirement in dict.fromkeys(requirements):
        match = REQUIREMENT.match(requirement)
        if match is not None:
            yield match["name"], match["version"]


def main() -> None:
    """Print one constraint a line, sorted by name."""
    for name, version in sorted(set(lower_bounds())):
        print(f"{name}=={version}")


if __name__ == "__main__":
    main()
