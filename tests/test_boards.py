"""Boards of the documentation are those of the stores that they name, which are part of the repository.

A board is a table between two marks, of which the first holds the arguments of ``orca-sweep leaderboard``:

    <!-- board: pocket --results docs/stores/pocket -->
    …
    <!-- /board -->

``make boards`` runs this module, which writes all boards again. `benchmarks.short_board` has the board of README.md.
"""

import io
import json
import re
import shlex
import sys
from contextlib import chdir, redirect_stderr
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from benchmarks.short_board import short_board
from orca_ray.cli.app import run

ROOT = Path(__file__).resolve().parents[1]
MARK = re.compile(
    r"^(<!-- board: (?P<arguments>[^\n]*) -->\n)(?P<table>.*?)^(<!-- /board -->)$", re.DOTALL | re.MULTILINE
)


def pages() -> list[Path]:
    """Return the pages of the documentation that have a board."""
    found = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
    return [page for page in found if MARK.search(page.read_text())]


def regenerated(text: str) -> str:
    """Return a page with its boards built again from their stores."""
    return MARK.sub(lambda match: f"{match[1]}\n{_board(match['arguments'])}\n{match[4]}", text)


def _board(arguments: str) -> str:
    words, *short = arguments.split(" | ")
    with TemporaryDirectory() as scratch, chdir(ROOT), redirect_stderr(io.StringIO()) as errors:
        board = Path(scratch) / ("board.json" if short else "board.md")
        if run(["leaderboard", *shlex.split(words), "--out", str(board)]):
            raise ValueError(f"<!-- board: {arguments} -->: {errors.getvalue()}")
        return short_board(json.loads(board.read_text()), *map(str.split, short)) if short else board.read_text()


@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_a_board_of_the_documentation_is_up_to_date(page: Path) -> None:
    text = page.read_text()
    assert f"\n{text}".count("\n<!-- board: ") == len(MARK.findall(text)), "the pattern misses a mark"
    assert regenerated(text) == text, f"{page.relative_to(ROOT)} differs from its store: run `make boards`"


if __name__ == "__main__":
    for page in pages():
        text = page.read_text()
        page.write_text(new := regenerated(text))
        sys.stdout.write(f"{page.relative_to(ROOT)}: {'up to date' if new == text else 'written'}\n")
