"""Boards in the documentation are those of the stores that they name."""

from pathlib import Path

import pytest

from orca_ray.results.store import ResultsStore
from tests.boards import MARK, ROOT, pages, regenerated
from tests.results.factories import make_record


@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_a_board_of_the_documentation_is_up_to_date(page: Path) -> None:
    text = page.read_text()
    assert f"\n{text}".count("\n<!-- board: ") == len(MARK.findall(text)), "the pattern misses a mark"
    assert regenerated(text) == text, f"{page.relative_to(ROOT)} differs from its store: run `make boards`"


def test_a_board_is_built_from_its_store(tmp_path: Path) -> None:
    mark = "<!-- board: pocket --results store --methods orca -->"
    page = f"Before\n\n{mark}\nold\n<!-- /board -->\n\nAfter\n"
    with pytest.raises(ValueError, match="no results at 'store'"):
        regenerated(page, tmp_path)
    ResultsStore(tmp_path / "store", create=True).append(
        [make_record("a", test_score=0.125), make_record("b", method="nft", test_score=0.25)]
    )
    text = regenerated(page, tmp_path)
    assert "| digits | error | **0.1250** |" in text
    assert "nft |" not in text
    assert text.startswith(f"Before\n\n{mark}\n\n")
    assert text.endswith("\n\n<!-- /board -->\n\nAfter\n")
    assert regenerated(text, tmp_path) == text
