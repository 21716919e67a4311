import csv
import io
import json
import math
import re

import pytest

from orca_ray.errors import UserError
from orca_ray.leaderboard import Board, BoardReport, all_formats, build
from orca_ray.leaderboard import render as render_any
from orca_ray.leaderboard.statistics import on_boards
from orca_ray.results.record import Status
from tests.leaderboard.test_leaderboard import failed, frame, run, seeds

TEXT = sorted({*all_formats()} - {"parquet"})


def render(board: Board | BoardReport, format: str = "table") -> str:
    text = render_any(board, format)
    assert isinstance(text, str)
    return text


@pytest.fixture
def board() -> Board:
    return build(
        frame(
            *seeds("digits", "orca", 0.1, 0.2, 0.3),
            *seeds("digits", "nft", 0.5, 0.5, 0.5),
            *seeds("darcy16", "orca", 1e-5, 3e-5, 2e-5, metric="relative_l2"),
            *seeds("darcy16", "nft", 0.01, metric="relative_l2"),
            failed("digits", "scratch", Status.FAILED_OOM),
            failed("darcy16", "scratch", Status.FAILED_NAN),
            run("digits", "orca", 0.9, sweep="pocket/other"),
        ),
        benchmark="pocket",
    )


def test_table(board: Board) -> None:
    lines = render(board).split("\n")
    assert lines[:3] == [
        "pocket: sweep pocket/quick, protocol held-out",
        "test scores, lower is better; mean ± std over seeds 0, 1, 2",
        "",
    ]
    assert lines[3].split() == ["task", "orca", "nft", "scratch"]
    digits = next(line for line in lines if line.startswith("digits"))
    assert "0.2000±0.1000*" in digits
    assert "0.5000±0.0000" in digits
    assert "–" in digits
    darcy = next(line for line in lines if line.startswith("darcy16"))
    assert "2.000e-05±1.000e-05*" in darcy
    assert "0.0100 (n=1)" in darcy
    assert darcy.count("*") == digits.count("*") == 1
    text = "\n".join(lines)
    assert "metrics: relative_l2 (darcy16); error (digits)" in text
    assert "trials by status: completed 10, failed_oom 1, failed_nan 1" in " ".join(text.split())
    assert "failed trials of scratch: failed_oom 1, failed_nan 1" in text
    assert "mean rank and wins use the 2 of 2 tasks with scores of every method that has any" in text
    assert "no score of scratch: darcy16, digits" in text
    assert "also in the store: sweep pocket/other, protocol held-out, 1 completed confirm trial(s)" in text
    assert all(title in text for title in ("mean rank", "wins"))


def test_columns_of_the_table_stand_under_each_other(board: Board) -> None:
    lines = render(board).split("\n")
    start = lines[3].index("orca")
    rows = [line for line in lines if line.startswith(("digits", "darcy16"))]
    assert [line[start:].split()[0] for line in rows] == ["2.000e-05±1.000e-05*", "0.2000±0.1000*"]


def test_a_table_of_five_methods_fits_a_hundred_columns() -> None:
    tasks = {f"a_task_of_{i:05}": f"metric_number_{i % 5}" for i in range(10)}
    methods = ("orca", "nft", "scratch", "fpt", "linear_probe")
    runs = [each for t, metric in tasks.items() for m in methods for each in seeds(t, m, 0.1, 0.2, 0.3, metric=metric)]
    lines = render(build(frame(*runs), benchmark="pocket")).split("\n")
    assert max(map(len, lines)) <= 100
    assert all(metric in "\n".join(lines) for metric in tasks.values())


def test_costs() -> None:
    """Seconds are summed over the tasks that all methods have, memory is the largest, parameters are averaged."""
    costs = {
        ("a", "orca"): (10.0, 100.0, 1000),
        ("b", "orca"): (20.5, None, 3000),
        ("a", "nft"): (5.0, 1500.0, 1000),
        ("b", "nft"): (1.0, 300.0, 1000),
        ("c", "nft"): (99.0, 9999.0, 9999),
    }
    runs = [
        run(task, method, seed=seed, refine_seconds=seconds + seed, align_seconds=0.0, evaluate_seconds=0.0,
            wall_seconds=2 * seconds, peak_memory_mib=memory, num_trainable=parameters)
        for (task, method), (seconds, memory, parameters) in costs.items() for seed in (0, 1)
    ]  # fmt: skip
    board = build(frame(*runs, failed("a", "scratch", Status.LOST)), benchmark="pocket")
    lines = render(board).split("\n")
    start = next(i for i, line in enumerate(lines) if line.startswith("method"))
    assert re.split("  +", lines[start].strip()) == [
        "method",
        "device s",
        "wall s",
        "peak MiB (1 of 2 tasks)",
        "trained parameters",
    ]
    assert sorted(line.split() for line in lines[start + 2 :]) == [
        ["nft", "7.0", "12.0", "1,500", "1,000"],
        ["orca", "31.5", "61.0", "100", "2,000"],
    ]
    assert "on each of 2 tasks" in " ".join(lines)
    assert "| orca | 31.5 | 61.0 | 100 | 2,000 |" in render(board, "markdown")


def test_markdown(board: Board) -> None:
    text = render(board, "markdown").partition("**cost")[0]
    rows = [line for line in text.split("\n") if line.startswith("|")]
    assert len(rows) == 2 + 2 + len(on_boards())
    assert {row.count("|") for row in rows} == {3 + len(board.methods)}
    assert re.fullmatch(r"\|(-+:?\|)+", rows[1])
    assert sum(row.count("**") for row in rows) == 4
    assert "**0.2000 ± 0.1000**" in rows[3]


def test_markdown_survives_a_bar_in_a_name() -> None:
    board = build(frame(run("a|b", "orca")), benchmark="pocket")
    assert "| a\\|b | error |" in render(board, "markdown")


def test_csv_holds_everything_in_full(board: Board) -> None:
    rows = list(csv.DictReader(io.StringIO(render(board, "csv"))))
    scores = {(row["task"], row["method"]): row for row in rows if row["section"] == "score"}
    assert len(scores) == 2 * 3
    for (task, method), row in scores.items():
        score = board.score(task, method)
        assert (float(row["value"]) if row["value"] else math.nan) == pytest.approx(score.mean, rel=0, nan_ok=True)
        assert int(row["n"]) == score.n
        assert row["metric"] == board.metrics[task]
    statuses = [row for row in rows if row["section"] == "status"]
    assert sum(int(row["value"]) for row in statuses) == int(board.statuses.to_numpy().sum()) == 12
    assert {row["metric"] for row in statuses} == {status.value for status in Status}
    summary = [row for row in rows if row["section"] == "summary"]
    assert {row["metric"] for row in summary} == set(on_boards())
    assert {(row["sweep"], row["protocol"]) for row in rows} == {("pocket/quick", "held-out")}


def test_json_holds_everything_in_full(board: Board) -> None:
    document = json.loads(render(board, "json"))
    assert document["protocol"] == "held-out"
    assert document["seeds"] == [0, 1, 2]
    tasks = {task["name"]: task for task in document["tasks"]}
    assert tasks["pocket/digits"]["best"] == ["orca"]
    assert tasks["pocket/digits"]["scores"]["orca"]["mean"] == board.score("pocket/digits", "orca").mean
    assert tasks["pocket/digits"]["scores"]["scratch"] == {"mean": None, "std": None, "n": 0}
    methods = {method["name"]: method for method in document["methods"]}
    assert set(methods) == set(board.methods)
    assert methods["scratch"]["statuses"]["failed_oom"] == 1
    assert set(on_boards()) <= set(methods["orca"])
    verdicts = document["statistics"]["verdict"]["values"]
    assert {(each["method"], each["other"]) for each in verdicts} == {("orca", "nft"), ("nft", "orca")}
    assert [each["question"] for each in document["answers"]] == ["Did aligning help?"]
    assert document["others"] == [{"sweep": "pocket/other", "protocol": "held-out", "confirmed": 1}]


def test_ranks_appear_as_numbers() -> None:
    board = build(
        frame(run("a", "orca", 0.1), run("a", "nft", 0.2), run("b", "orca", 0.2), run("b", "nft", 0.2)),
        benchmark="pocket",
    )
    text = render(board)
    assert re.search(r"mean rank +1\.25 +1\.75", text)
    assert re.search(r"wins +1\.50 +0\.50", text)
    assert len(re.findall(r"\d\*", text)) == 3  # a tie marks both
    best = json.loads(render(board, "json"))["methods"][0]
    assert (best["name"], best["mean_rank"]["value"], best["wins"]["value"]) == ("orca", 1.25, 1.5)
    assert best["statuses"] == {status.value: 2 * (status is Status.COMPLETED) for status in Status}


@pytest.mark.parametrize("format", TEXT)
def test_nothing_confirmed_yet(format: str) -> None:
    board = build(frame(failed("digits", "orca", Status.LOST, phase="search")), benchmark="pocket")
    text = render(board, format)
    assert "lost" in text
    if format != "html":  # whose program has these words
        assert not re.search(r"\bnan\b", text, re.IGNORECASE)
        assert text == text.rstrip("\n")


def test_a_misspelt_format(board: Board) -> None:
    with pytest.raises(UserError, match=r"unknown format 'markdwn'. Did you mean 'markdown'"):
        render(board, "markdwn")


@pytest.mark.parametrize("format", ["table", "markdown"])
def test_names_cannot_send_control_sequences(format: str) -> None:
    odd = "a\x1b[2Jb\nc\x9bd"
    records = frame(run("digits", odd, metric=odd, sweep=odd), run("digits", "orca", sweep="pocket/other\x1b[1m"))
    text = render(build(records, benchmark="pocket", sweep=odd), format)
    assert all(line.isprintable() for line in text.split("\n"))
    assert r"a\x1b[2Jb\nc\x9bd" in text.replace(r"\\", "\\")  # Markdown shows two backslashes as one
    with pytest.raises(UserError) as caught:
        build(records, benchmark="pocket", sweep="pocket/nothing")
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("format", ["csv", "json"])
def test_formats_for_programs_keep_names_as_they_are(format: str) -> None:
    odd = "a\x1b[2Jb\nc"
    text = render(build(frame(run("digits", odd)), benchmark="pocket"), format)
    if format == "csv":
        assert next(csv.DictReader(io.StringIO(text)))["method"] == odd
    else:
        assert json.loads(text)["methods"][0]["name"] == odd
