"""Boards of the documentation are those of the stores that they name.

The stores are part of the repository. A board is a table between two marks, of which
the first holds the arguments of ``orca-sweep leaderboard``:

    <!-- board: pocket --results docs/stores/pocket -->
    …
    <!-- /board -->

``<!-- findings: … -->`` holds arguments of `benchmarks.findings_page`, which also draws
the picture beside the page. ``<!-- training: … -->`` holds arguments of
`benchmarks.findings_training`, ``<!-- changes: … -->`` those of
`benchmarks.findings_changes`, and ``<!-- claims: … -->`` those of
`benchmarks.paper_claims`. ``make boards`` runs this module, which writes all of
them again. `benchmarks.short_board` has the board of README.md.
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

from benchmarks.findings_changes import page as changes
from benchmarks.findings_page import page as findings
from benchmarks.findings_training import page as training
from benchmarks.paper_claims import page as claims
from benchmarks.short_board import short_board
from orca_ray.cli.app import run

ROOT = Path(__file__).resolve().parents[1]
WRITERS = {"changes": changes, "claims": claims, "training": training}
"""Functions that return the text between two marks for its arguments, by kind."""
KINDS = "|".join(["board", "findings", *WRITERS])
MARK = re.compile(
    rf"^(<!-- (?P<kind>{KINDS}): (?P<arguments>[^\n]*) -->\n).*?"
    r"^(<!-- /(?P=kind) -->)$",
    re.DOTALL | re.MULTILINE,
)


def pages() -> list[Path]:
    """Return the pages of the documentation that have a board."""
    all_pages = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
    return [page for page in all_pages if MARK.search(page.read_text())]


def regenerated(page: Path) -> dict[Path, str]:
    """Return the files of a page, built again from the stores.

    These are the page itself, and the pictures of findings.
    """
    files: dict[Path, str] = {}

    def regenerate(match: re.Match[str]) -> str:
        if match["kind"] == "board":
            text = _board(match["arguments"])
        elif match["kind"] in WRITERS:
            text = WRITERS[match["kind"]](shlex.split(match["arguments"]))
        else:
            text, pictures = findings(shlex.split(match["arguments"]))
            for ending, picture in pictures.items():
                files[page.with_name(f"{page.stem}{ending}.svg")] = picture
        return f"{match[1]}\n{text}\n{match[4]}"

    with chdir(ROOT):
        return {page: MARK.sub(regenerate, page.read_text()), **files}


def _board(arguments: str) -> str:
    """Return the board between two marks; arguments after " | " make a short one."""
    command, *short_arguments = arguments.split(" | ")
    name = "board.json" if short_arguments else "board.md"
    with TemporaryDirectory() as scratch, redirect_stderr(io.StringIO()) as errors:
        board = Path(scratch) / name
        if run(["leaderboard", *shlex.split(command), "--out", str(board)]):
            raise ValueError(f"<!-- board: {arguments} -->: {errors.getvalue()}")
        text = board.read_text()
    if not short_arguments:
        return text
    return short_board(json.loads(text), *map(str.split, short_arguments))


@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_a_board_of_the_documentation_is_up_to_date(page: Path) -> None:
    text = page.read_text()
    starts = re.findall(rf"^<!-- (?:{KINDS}): ", text, re.MULTILINE)
    assert len(starts) == len(MARK.findall(text)), "a board has no end"
    for path, content in regenerated(page).items():
        assert path.read_text() == content, (
            f"{path.relative_to(ROOT)} differs from its store: run `make boards`"
        )


if __name__ == "__main__":
    for page in pages():
        for path, new_text in regenerated(page).items():
            old_text = path.read_text() if path.exists() else ""
            path.write_text(new_text)
            state = "up to date" if new_text == old_text else "written"
            sys.stdout.write(f"{path.relative_to(ROOT)}: {state}\n")
