"""Boards as text: widths, odd names, and boards without scores; whole documents stand in `test_golden`."""

import csv
import io
import json
import re

import pytest

from orca_ray.errors import UserError
from orca_ray.leaderboard import Board, all_formats, build
from orca_ray.leaderboard import render as render_any
from orca_ray.results.record import Status
from tests.leaderboard.test_leaderboard import failed, frame, run, seeds

TEXT = sorted({*all_formats()} - {"parquet"})
ODD = "a\x1b[2Jb\nc\x9bd"


def render(board: Board, format: str = "table") -> str:
    text = render_any(board, format)
    assert isinstance(text, str)
    return text


@pytest.mark.parametrize(
    ("methods", "parts"),
    [(("orca", "nft", "scratch", "fpt", "linear_probe"), 1), ([f"a_method_with_a_long_name_{i}" for i in range(6)], 3)],
)
def test_a_table_fits_a_hundred_columns(methods: list[str], parts: int) -> None:
    """Each part of a table that is too wide names its rows."""
    tasks = {f"a_task_of_{i:05}": f"metric_number_{i % 5}" for i in range(10)}
    runs = [each for t, metric in tasks.items() for m in methods for each in seeds(t, m, 0.1, 0.2, 0.3, metric=metric)]
    lines = render(build(frame(*runs), benchmark="pocket")).split("\n")
    assert max(map(len, lines)) <= 100
    assert all(metric in "\n".join(lines) for metric in tasks.values())
    assert sum(line.startswith("a_task_of_00003") for line in lines) == parts
    assert all(any(method in line for line in lines) for method in methods)


@pytest.mark.parametrize("format", TEXT)
def test_nothing_confirmed_yet(format: str) -> None:
    board = build(frame(failed("digits", "orca", Status.LOST, phase="search")), benchmark="pocket")
    text = render(board, format)
    assert "lost" in text
    if format != "html":  # whose program has these words
        assert not re.search(r"\bnan\b", text, re.IGNORECASE)
        assert text == text.rstrip("\n")


def test_a_misspelt_format() -> None:
    with pytest.raises(UserError, match=r"unknown format 'markdwn'. Did you mean 'markdown'"):
        render(build(frame(run("digits", "orca")), benchmark="pocket"), "markdwn")


@pytest.mark.parametrize("format", ["table", "markdown"])
def test_names_cannot_send_control_sequences(format: str) -> None:
    records = frame(run("digits", ODD, metric=ODD, sweep=ODD), run("digits", "orca", sweep="pocket/other\x1b[1m"))
    text = render(build(records, benchmark="pocket", sweep=ODD), format)
    assert all(line.isprintable() for line in text.split("\n"))
    assert r"a\x1b[2Jb\nc\x9bd" in text.replace(r"\\", "\\")  # Markdown shows two backslashes as one
    with pytest.raises(UserError) as caught:
        build(records, benchmark="pocket", sweep="pocket/nothing")
    assert str(caught.value).isprintable()


def test_formats_for_programs_keep_names_as_they_are() -> None:
    board = build(frame(run("digits", ODD)), benchmark="pocket")
    assert next(csv.DictReader(io.StringIO(render(board, "csv"))))["method"] == ODD
    assert json.loads(render(board, "json"))["methods"][0]["name"] == ODD
