"""Statements of boards are as often wrong as docs/reading-a-board.md says.

`benchmarks.calibration` simulates them.
"""

from pathlib import Path

import pytest

from benchmarks.calibration import NULLS, STATEMENTS, rate

PAGE = Path(__file__).parents[3] / "docs/reading-a-board.md"
ROWS = [
    [cell.strip() for cell in line.strip("|").split("|")]
    for line in PAGE.read_text().split("\n")
]
FOUND = {name: cells for name, *cells in ROWS if name in STATEMENTS}
FAST = (
    "any task *better or worse beyond noise*",
    "interval of a ratio on a task",
    "`reproduce`: scores *differ*",
)
SLOW = [
    pytest.param(name, marks=pytest.mark.exhaustive)
    for name in STATEMENTS
    if name not in FAST
]


@pytest.mark.parametrize("name", [*FAST, *SLOW])
def test_other_boards_agree_within_four_standard_errors(name: str) -> None:
    for null, cell in zip(NULLS, FOUND[name], strict=True):
        share = float(cell.strip("*")) / 100
        error = (max(share * (1 - share), 0.01) * (1 / 300 + 1 / 400)) ** 0.5
        assert rate(name, null, 300, seed=1) == pytest.approx(share, abs=4 * error), (
            null
        )


def test_numbers_off_by_more_than_one_and_a_half_are_in_italics() -> None:
    assert FOUND.keys() == STATEMENTS.keys()
    for name, cells in FOUND.items():
        expected = 95 if STATEMENTS[name][0] else 5
        is_off = [abs(float(cell.strip("*")) - expected) > 1.5 for cell in cells]
        assert [cell.startswith("*") for cell in cells] == is_off, name
