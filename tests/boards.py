"""Boards in the documentation: tables between marks that name a store which is part of the repository.

    <!-- board: pocket --results docs/stores/pocket -->
    …
    <!-- /board -->

The first mark holds the arguments of ``orca-sweep leaderboard``. ``make boards`` writes all boards again, and
``tests/test_boards.py`` fails when one differs from its store.
"""

import io
import re
import shlex
import sys
from contextlib import chdir, redirect_stderr
from pathlib import Path
from tempfile import TemporaryDirectory

from orca_ray.cli.app import run

ROOT = Path(__file__).resolve().parents[1]
MARK = re.compile(
    r"^(<!-- board: (?P<arguments>[^\n]*) -->\n)(?P<table>.*?)^(<!-- /board -->)$", re.DOTALL | re.MULTILINE
)


def pages() -> list[Path]:
    """Return the pages of the documentation that have a board."""
    found = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
    return [page for page in found if MARK.search(page.read_text())]


def regenerated(text: str, directory: Path = ROOT) -> str:
    """Return a page with its boards built again from their stores, whose paths are relative to ``directory``."""
    return MARK.sub(lambda match: f"{match[1]}\n{_board(match['arguments'], directory)}\n{match[4]}", text)


def _board(arguments: str, directory: Path) -> str:
    with TemporaryDirectory() as scratch, chdir(directory), redirect_stderr(io.StringIO()) as errors:
        board = Path(scratch) / "board.md"
        if run(["leaderboard", *shlex.split(arguments), "--out", str(board)]):
            raise ValueError(f"<!-- board: {arguments} -->: {errors.getvalue()}")
        return board.read_text()


if __name__ == "__main__":
    for page in pages():
        text = page.read_text()
        page.write_text(new := regenerated(text))
        sys.stdout.write(f"{page.relative_to(ROOT)}: {'up to date' if new == text else 'written'}\n")
