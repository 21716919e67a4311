"""Boards in the documentation are those of the stores that they name."""

from pathlib import Path

import pytest

from orca_ray.results.store import ResultsStore
from tests.boards import MARK, ROOT, pages, regenerated
from tests.results.factories import make_record

PAGE = """Before

<!-- board: pocket --results store --methods orca -->
old
<!-- /board -->

After
"""


@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_a_board_of_the_documentation_is_up_to_date(page: Path) -> None:
    text = page.read_text()
    assert regenerated(text) == text, f"{page.relative_to(ROOT)} differs from its store: run `make boards`"


def test_a_board_is_built_from_its_store(tmp_path: Path) -> None:
    store = ResultsStore(tmp_path / "store", create=True)
    store.append([make_record("a", test_score=0.125), make_record("b", method="nft", test_score=0.25)])
    text = regenerated(PAGE, tmp_path)
    assert "| digits | error | **0.1250** |" in text
    assert "nft |" not in text
    assert text.startswith("Before\n\n<!-- board: pocket --results store --methods orca -->\n\n")
    assert text.endswith("\n\n<!-- /board -->\n\nAfter\n")
    assert regenerated(text, tmp_path) == text
    store.append([make_record("a", test_score=0.5, minutes=2)])
    assert "**0.5000**" in regenerated(text, tmp_path)


def test_a_store_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no results at 'store'"):
        regenerated(PAGE, tmp_path)


def test_marks_are_complete() -> None:
    """Guard against a mark that the pattern misses."""
    for page in [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")]:
        text = f"\n{page.read_text()}"
        assert text.count("\n<!-- board: ") == text.count("\n<!-- /board -->") == len(MARK.findall(text)), page
