"""The comparison with the best of all other tools, on records with known answers."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from benchmarks.adapt_peers import chosen_sets
from benchmarks.peers.hindsight import (
    Row,
    bootstrap_interval,
    compare,
    latest_lines,
    make_rows,
    strongest_tool,
)
from benchmarks.peers.tools import Result, Results

SETS = chosen_sets(["new"])


def make_line(
    name: str, tool: str, losses: Sequence[float] | None, **changed: Any
) -> Result:
    """Return a line of the results file; without losses, the run failed."""
    line: Result = {
        "set": name,
        "tool": tool,
        "minutes": 2.0 if tool in ("adapt", "unet", "cnn") else None,
        "seed": 0,
        "cores": 1,
        "data": "abc",
        "failure": None,
        "reported": None,
        "seconds": 130.0,
    }
    if losses is None:
        line["failure"] = "out of memory"
    else:
        line["losses"] = list(losses)
    if tool == "adapt":
        line["reported"] = {"low": 0.1, "high": 0.3, "command_seconds": 125.0}
    return {**line, **changed}


def rows_by_name(lines: Sequence[Result]) -> dict[str, Row]:
    """Return the rows of the new sets by the name of the set."""
    return {row.name: row for row in make_rows(latest_lines(lines, SETS), SETS)}


def test_the_best_may_be_a_plain_baseline() -> None:
    lines = [
        make_line("stirred_dye", "adapt", [0.2, 0.2]),
        make_line("stirred_dye", "unet", [0.3, 0.5]),
        make_line("stirred_dye", "linear", [0.1, 0.1]),
    ]
    row = rows_by_name(lines)["stirred_dye"]
    assert row.best == "linear"
    assert row.ratio("linear") == pytest.approx(2.0)
    assert row.ratio("unet") == pytest.approx(0.5)


def test_a_failed_tool_is_shown_and_left_out() -> None:
    lines = [
        make_line("stirred_dye", "adapt", [0.2, 0.2]),
        make_line("stirred_dye", "unet", None),
        make_line("stirred_dye", "linear", [0.4, 0.4]),
    ]
    row = rows_by_name(lines)["stirred_dye"]
    assert row.best == "linear"
    assert row.failed == ("unet",)
    text = compare(lines, SETS)
    assert "unet on stirred_dye: out of memory" in text
    assert "| linear 0.4 | 0.50 | unet |" in text


def test_a_failed_adapt_is_shown_without_a_ratio() -> None:
    lines = [
        make_line("stirred_dye", "adapt", None),
        make_line("stirred_dye", "linear", [0.4, 0.4]),
    ]
    assert "adapt on stirred_dye: out of memory" in compare(lines, SETS)


def test_a_report_of_no_lines_is_empty() -> None:
    assert not compare([], SETS)


def test_three_splits_count_once_with_their_geometric_mean() -> None:
    names = [f"heart_attack_{seed}" for seed in range(3)]
    # 9 samples: k errors are (k + 1/2) / 10.
    errors = {"adapt": (0, 4, 4), "forest": (4, 4, 4)}
    lines = [
        make_line(name, tool, [1.0] * count + [0.0] * (9 - count))
        for tool, counts in errors.items()
        for name, count in zip(names, counts, strict=True)
    ]
    rows = rows_by_name(lines)
    assert list(rows) == ["heart_attack"]
    row = rows["heart_attack"]
    assert row.num_splits == 3
    assert row.ratio("forest") == pytest.approx((1 / 9) ** (1 / 3))


def test_a_tool_without_one_of_the_splits_is_left_out() -> None:
    lines = [
        make_line("heart_attack_0", "adapt", [0.0, 1.0]),
        make_line("heart_attack_1", "adapt", [0.0, 1.0]),
        make_line("heart_attack_0", "forest", [0.0, 0.0]),
        make_line("heart_attack_0", "linear", [1.0, 1.0]),
        make_line("heart_attack_1", "linear", [1.0, 1.0]),
    ]
    assert rows_by_name(lines)["heart_attack"].best == "linear"


def test_the_strongest_of_a_kind_has_all_sets_of_the_kind() -> None:
    lines = []
    for name, forest, linear, unet in (
        ("stirred_dye", 0.1, 0.4, 0.01),
        ("scattered_waves", 0.4, 0.2, None),
    ):
        lines += [
            make_line(name, "adapt", [0.2]),
            make_line(name, "forest", [forest]),
            make_line(name, "linear", [linear]),
            make_line(name, "unet", None if unet is None else [unet]),
        ]
    rows = list(rows_by_name(lines).values())
    assert strongest_tool(rows, "fields") == "forest"
    assert strongest_tool(rows, "images") == ""
    text = compare(lines, SETS)
    # Ratios to the forest are 2 and 1/2; to the best, 20 and 1.
    assert "| all | 2 | **1.00** [0.50, 2.00] | 2.00 (stirred_dye) |" in text
    assert "**4.47** [1.00, 20.00] | 20.00 (stirred_dye) |" in text


def test_the_interval_of_equal_ratios_is_a_point() -> None:
    assert bootstrap_interval([1.5, 1.5, 1.5]) == pytest.approx((1.5, 1.5))


def test_what_adapt_reports_is_compared_with_the_outer_score() -> None:
    reported = {"low": 0.1, "high": 0.3, "command_seconds": 125.0, "held_share": 0.92}
    lines = [
        make_line("stirred_dye", "adapt", [0.2, 0.2], reported=reported),
        make_line("scattered_waves", "adapt", [0.5, 0.5]),
        make_line("stirred_dye", "linear", [0.4, 0.4]),
    ]
    text = compare(lines, SETS)
    assert "| stirred_dye | 0.2 | [0.1, 0.3] | 0.920 | 125 of 120 |" in text
    assert "| scattered_waves | 0.5 | [0.1, 0.3] **out** | – | 125 of 120 |" in text
    assert "holds the outer score in 1 of 2 runs" in text
    assert "hold 0.920 of them" in text


def test_runs_on_other_data_and_older_runs_are_left_out() -> None:
    lines = [
        make_line("stirred_dye", "adapt", [0.9]),
        make_line("stirred_dye", "linear", [0.1], data="old"),
        make_line("stirred_dye", "forest", [0.4]),
        make_line("stirred_dye", "adapt", [0.2]),
        make_line("crx", "adapt", [0.2]),
    ]
    row = rows_by_name(lines)["stirred_dye"]
    assert set(row.outcomes) == {"adapt", "forest"}
    assert row.outcomes["adapt"].score == pytest.approx(0.2)


def test_a_line_that_was_cut_off_does_not_stop_a_second_start(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    Results(path).add(make_line("stirred_dye", "adapt", [0.2]))
    with path.open("a") as stream:
        stream.write('{"set": "stirred')
    Results(path).add(make_line("stirred_dye", "linear", [0.4]))
    tools = [line["tool"] for line in Results(path).lines]
    assert tools == ["adapt", "linear"]
