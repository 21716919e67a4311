"""Formats: equal bytes for equal stores, subsets, harmless text, whole documents.

Documents of boards, of a grid and of a page, and all statistics of some tables, are
compared with those in `golden`. After a wanted change, run ``python -m
tests.leaderboard.test_formats`` and read the difference.
"""

import csv
import io
import json
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from orca_ray.errors import UserError
from orca_ray.leaderboard import (
    BoardReport,
    all_formats,
    build,
    empty_board,
    render,
    subset,
)
from orca_ray.leaderboard.assembly import read_searches
from orca_ray.leaderboard.format import SCHEMA, read_scores, score_frame
from orca_ray.leaderboard.formats import latex, markdown
from orca_ray.leaderboard.formats.table import brief_board, sparkline
from orca_ray.leaderboard.published.comparison import compare
from orca_ray.leaderboard.published.tables import published_rows
from orca_ray.leaderboard.statistics import all_statistics
from orca_ray.leaderboard.statistics.questions import answers
from orca_ray.results.record import CurvePoint, Record, Status
from orca_ray.results.scan import StoreSnapshot
from orca_ray.results.store import ResultsStore
from orca_ray.testing.scores import random_table, table
from tests.leaderboard.page.conftest import curves, data, records
from tests.leaderboard.test_effects import effects, grid, render_effects, square
from tests.leaderboard.test_leaderboard import Run, failed, frame, run, seeds
from tests.leaderboard.test_published import ORCA
from tests.results.factories import START, make_point, make_record

TEXT = sorted({*all_formats()} - {"parquet", "csv"})
ODD = "a\x1b[2Jb\nc\x9bd"


def content(report: BoardReport, format: str) -> bytes:
    rendered = render(report, format)
    return rendered if isinstance(rendered, bytes) else rendered.encode()


def stored(
    path: Path, trials: Sequence[Record], points: Sequence[CurvePoint], num_files: int
) -> BoardReport:
    """Return the report of a new store that holds the rows in several files."""
    store = ResultsStore(path, create=True)
    for part in range(num_files):
        store.append(trials[part::num_files], points[part::num_files])
    board = build(store, benchmark="pocket")
    return BoardReport(
        board,
        read_curves=lambda: store.curves(sweep=board.sweep),
        read_records=store.records,
    )


@pytest.mark.slow
def test_the_order_of_files_and_rows_changes_no_byte(tmp_path: Path) -> None:
    """The trials have several configurations, notes and devices."""
    first_trials = [
        replace(
            record,
            finished_at=START,
            notes=f"note {record.seed}",
            device=f"d{record.seed}",
        )
        for record in records()
    ]
    second_trials = [
        replace(record, trial_key=f"{record.trial_key}-b", hyperparameters='{"a":1}')
        for record in first_trials
    ]
    trials = [*first_trials, *second_trials]
    points = curves(trials)
    random = np.random.default_rng(0)
    expected = stored(tmp_path / "0", trials, points, 1)
    for number, num_files in enumerate((1, 5), start=1):
        shuffled = [trials[i] for i in random.permutation(len(trials))]
        report = stored(tmp_path / str(number), shuffled, points[::-1], num_files)
        for name in all_formats():
            assert content(report, name) == content(expected, name), name


def test_the_published_row_of_an_empty_store_is_in_every_format() -> None:
    report = BoardReport(
        empty_board("nasbench360"),
        published=compare(published_rows("nasbench360"), "nasbench360"),
    )
    table = pq.read_table(pa.BufferReader(content(report, "parquet"))).to_pandas()
    is_orca = (table["method"] == "ORCA") & (table["kind"] == "primary")
    scores = sorted(table.loc[is_orca, "score"])
    scales = (100, 100, 1, 1, 1, 100, 1, 1, 100, 1)
    printed = [float(text) / scale for text, scale in zip(ORCA, scales, strict=True)]
    assert scores == pytest.approx(sorted(printed))
    rows = csv.DictReader(io.StringIO(content(report, "csv").decode()))
    csv_scores = [float(row["score"]) for row in rows if row["method"] == "ORCA"]
    assert sorted(csv_scores) == scores
    for format in ("json", "html", "table", "markdown", "latex"):
        text = content(report, format).decode()
        assert all(printed_score in text for printed_score in ORCA)
        assert format in ("json", "html") or "nothing ran here yet" in text


def test_a_subset_has_its_own_ranks() -> None:
    scores = {"a": (0.1, 0.2, 0.3), "b": (0.3, 0.2, 0.1), "c": (0.2, 0.3, 0.1)}
    runs = [
        run(task, method, score)
        for task, row in scores.items()
        for method, score in zip(("orca", "nft", "fpt"), row, strict=True)
    ]
    board = build(frame(*runs), benchmark="pocket")
    ranks = BoardReport(board).statistic("mean_rank")["value"]
    assert ranks.to_dict() == pytest.approx({"fpt": 5 / 3, "orca": 2.0, "nft": 7 / 3})
    chosen, left_out = subset(board, ["a", "pocket/c"], ["nft", "orca"])
    report = BoardReport(chosen, left_out=left_out)
    assert report.statistic("mean_rank")["value"].to_dict() == {"orca": 1.0, "nft": 2.0}
    assert report.statistic("wins")["value"].to_dict() == {"orca": 2.0, "nft": 0.0}
    assert "left out on request, and out of all ranks: pocket/b, fpt" in str(
        render(report)
    )
    with pytest.raises(
        UserError, match=r"unknown format 'markdwn'. Did you mean 'markdown'"
    ):
        render(board, "markdwn")
    with pytest.raises(UserError, match="unknown task 'pocket/d'"):
        subset(board, ["d"], None)
    with pytest.raises(UserError, match=r"unknown method 'nftt'. Did you mean 'nft'"):
        subset(board, None, ["nftt"])


def test_methods_on_less_than_half_of_the_tasks_are_compared_but_not_ranked() -> None:
    runs = []
    for t in range(1, 6):
        methods = ["nft", "orca"]
        if t < 3:
            methods.append("fno")
        for method in methods:
            runs += [run(f"t{t}", method, 0.1 + t / 10, seed=seed) for seed in (1, 2)]
    report = BoardReport(build(frame(*runs), benchmark="pocket"))
    assert report.common_tasks == tuple(f"pocket/t{t}" for t in range(1, 6))
    assert report.statistic("mean_rank")["value"].notna().to_dict() == {
        "nft": True,
        "orca": True,
        "fno": False,
    }
    assert report.verdicts.loc[("nft", "fno"), "num_tasks"] == 2
    sentence = "the 5 of 5 tasks with scores of every method but fno, on less than half"
    assert sentence in str(render(report, "markdown"))


def test_without_a_common_task_there_are_no_ranks() -> None:
    runs = [run(f"t{number}", method, 0.1) for number, method in enumerate("abc")]
    report = BoardReport(build(frame(*runs), benchmark="pocket"))
    assert report.common_tasks == ()
    assert "no ranks yet: 0 of 3 tasks" in str(next(brief_board(report, 80, 2)))


def test_searching_is_not_judged_by_too_many_trials(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = ResultsStore(tmp_path, create=True)
    store.append(
        [
            make_record("a"),
            *(make_record(f"s{n}", phase="search", test_score=None) for n in range(2)),
        ]
    )
    scan = store.scan()
    board = build(scan, benchmark="pocket")
    monkeypatch.setattr("orca_ray.leaderboard.assembly.MAX_SEARCH_TRIALS", 1)
    report = BoardReport(board, read_searches=lambda: read_searches(scan, board))
    assert "Did searching help? Not computed: there are more than" in str(
        render(report)
    )


def test_curves_of_characters() -> None:
    assert sparkline([0, 1, 2, 3, 4, 5, 6, 7], 0, 7) == "▁▂▃▄▅▆▇█"
    assert sparkline([5, 5], 5, 5) == "▁▁"
    assert sparkline([1, float("nan"), 0], 0, 1) == "█ ▁"
    assert sparkline(range(100), 0, 99) == "▁▁▂▃▃▄▅▆▆▇██"


@pytest.mark.parametrize("format", ["json", "parquet"])
def test_exported_scores_are_read_back(format: str, tmp_path: Path) -> None:
    runs = (
        *seeds("digits", "orca", 0.1, 0.2),
        failed("digits", "nft", Status.LOST),
        *seeds("mnist", "nft", 1 / 3),
    )
    board = build(frame(*runs), benchmark="pocket")
    published = compare(published_rows("nasbench360"), "nasbench360")
    path = tmp_path / f"board.{format}"
    path.write_bytes(content(BoardReport(board, published=published), format))
    rows = read_scores(path)
    pd.testing.assert_frame_equal(rows, score_frame(board))
    assert list(rows.columns) == SCHEMA.names
    scored = rows.dropna(subset="score")
    scores = scored.groupby(["task", "method"])["score"].agg(list).to_dict()
    assert scores == {
        ("pocket/digits", "orca"): [0.1, 0.2],
        ("pocket/mnist", "nft"): [1 / 3],
    }
    assert len(rows) == 2 + 1 + 1 + 1


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.json", b"{", "is no board of scores"),
        ("a.json", b"[" * 100_000, "is no board of scores"),
        ("a.json", b'{"kind": "other"}', "has no \"kind\": 'orca-ray board'"),
        (
            "a.json",
            b'{"kind": "orca-ray board", "version": 99}',
            "has version 99, and this orca-ray reads 1",
        ),
        (
            "a.json",
            b'{"kind": "orca-ray board", "version": 1, "scores": [{"task": "t",'
            b' "seed": "x"}]}',
            "is no board",
        ),
        (
            "a.json",
            b'{"kind": "orca-ray board", "version": 1, "scores": 7}',
            "is no board",
        ),
        ("a.parquet", b"PAR1", "is no board of scores"),
    ],
    ids=["cut", "nested", "kind", "version", "seed", "scores", "parquet"],
)
def test_a_file_that_is_no_board(
    tmp_path: Path, name: str, text: bytes, message: str
) -> None:
    (tmp_path / name).write_bytes(text)
    with pytest.raises(UserError, match=re.escape(message)):
        read_scores(tmp_path / name)


@pytest.mark.parametrize(
    ("num_rows", "text"), [(2**28, "a"), (2**20, "x" * 2000)], ids=["rows", "text"]
)
def test_a_board_that_would_expand_far_is_not_read(
    num_rows: int, text: str, tmp_path: Path
) -> None:
    path = tmp_path / "a.parquet"
    numbers = pa.repeat(pa.scalar(0, pa.int8()), num_rows)
    tasks = pa.DictionaryArray.from_arrays(numbers, [text])
    pq.write_table(pa.table({"task": tasks}), path, row_group_size=2**27)
    assert path.stat().st_size < 2**20
    with pytest.raises(UserError, match="GiB of memory"):
        read_scores(path)
    own = content(report(), "parquet")
    assert not all_formats()["parquet"].same(path.read_bytes(), own)


def test_json_of_many_lists_is_no_board(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.json"
    path.write_text('{"kind": "orca-ray board", "a": [[], [], []]}')
    monkeypatch.setattr("orca_ray.leaderboard.format._MAX_JSON_OBJECTS", 4)
    with pytest.raises(UserError, match="more than 4 lists and objects"):
        read_scores(path)


@pytest.mark.parametrize(
    ("text", "escaped"),
    [
        ("relative_l2", "relative_l2"),
        ("_a_", r"\_a\_"),
        ("<script>", r"\<script\>"),
        ("[a](javascript:b)", r"[a\](javascript:b)"),
        ("a|`b`*c*", r"a\|\`b\`\*c\*"),
        ("1 [0, 2]", "1 [0, 2]"),
        ("a\nb", r"a\\nb"),
    ],
)
def test_text_is_escaped_in_markdown(text: str, escaped: str) -> None:
    assert markdown.escaped(text) == escaped


@pytest.mark.parametrize(
    ("text", "escaped"),
    [
        ("a_b & 50% of $x #1 {}", r"a\_b \& 50\% of \$x \#1 \{\}"),
        (r"\input{/etc/passwd}", r"\textbackslash{}input\{/etc/passwd\}"),
        ("0.1 ± 0.2", r"0.1 $\pm$ 0.2"),
        ("--", "-{}-"),
        ("–", "{--}"),
        ("[1] *", "{[}1{]} {*}"),
        ("é中й", r"\'{e}U+4E2DU+0439"),
        (
            "^~<>|",
            r"\textasciicircum{}\textasciitilde{}\textless{}\textgreater{}\textbar{}",
        ),
    ],
)
def test_text_is_escaped_in_latex(text: str, escaped: str) -> None:
    assert latex.escaped(text) == escaped


def test_a_hostile_name_stays_text_in_tables() -> None:
    odd = r"<img>a&b\\c_%$#{|"
    board = build(
        frame(*seeds(odd, odd, 0.1, 0.2), run("digits", "orca")), benchmark="pocket"
    )
    in_markdown = str(render(board, "markdown"))
    assert "<img" not in in_markdown.replace(r"\<img", "")
    for line in in_markdown.split("\n")[2:6]:
        assert len(re.findall(r"(?<!\\)\|", line)) == 5
    in_latex = str(render(board, "latex"))
    assert in_latex.isascii()
    tables = re.findall(
        r"\\begin\{tabular\}\{(\w+)\}\n(.*?)\\end\{tabular\}", in_latex, re.DOTALL
    )
    for columns, body in tables:
        rows = [line for line in body.split("\n") if line.endswith(r"\\")]
        assert {len(re.findall(r"(?<!\\)&", row)) for row in rows} == {len(columns) - 1}
    without_escapes = re.sub(r"\\[{}]", "", in_latex)
    assert without_escapes.count("{") == without_escapes.count("}")
    assert in_latex.count(r"\toprule") == in_latex.count(r"\bottomrule") == 1


@pytest.mark.parametrize(
    ("methods", "parts"),
    [
        (("orca", "nft", "scratch", "fpt"), 1),
        ([f"a_method_with_a_long_name_{i}" for i in range(6)], 3),
    ],
)
def test_a_table_fits_a_hundred_columns(methods: list[str], parts: int) -> None:
    """Each part of a table that is too wide names its rows, and so do LaTeX's parts."""
    metrics = {f"a_task_of_{i:05}": f"metric_number_{i % 5}" for i in range(50)}
    runs = []
    for task, metric in metrics.items():
        for method in methods:
            runs += seeds(task, method, 0.1, 0.2, 0.3, metric=metric)
    board = build(frame(*runs), benchmark="pocket")

    text = str(render(board))
    lines = text.split("\n")
    assert max(map(len, lines)) <= 100
    assert sum(line.startswith("a_task_of_00003") for line in lines) == parts
    for word in (*metrics.values(), *methods):
        assert word in text

    latex_lines = str(render(board, "latex")).split("\n")
    rows = [line for line in latex_lines if line.endswith(r"\\")]
    assert len(rows) >= parts * 54  # 50 tasks, mean rank and wins; two heads
    assert max(row.count("&") for row in rows) <= 3


@pytest.mark.parametrize("format", TEXT)
def test_nothing_confirmed_yet(format: str) -> None:
    board = build(
        frame(failed("digits", "orca", Status.LOST, phase="search")), benchmark="pocket"
    )
    text = str(render(board, format))
    assert "lost" in text
    if format != "html":  # whose program has these words
        assert not re.search(r"\bnan\b", text, re.IGNORECASE)
        assert text == text.rstrip("\n")


@pytest.mark.parametrize("format", ["table", "markdown", "csv"])
def test_names_cannot_send_control_sequences(format: str) -> None:
    records = frame(
        run("digits", ODD, metric=ODD, sweep=ODD),
        run("digits", "orca", sweep="pocket/other\x1b[1m"),
    )
    text = str(render(build(records, benchmark="pocket", sweep=ODD), format))
    assert all(line.isprintable() for line in text.split("\n"))
    # Markdown shows two backslashes as one.
    assert r"a\x1b[2Jb\nc\x9bd" in text.replace(r"\\", "\\")
    with pytest.raises(UserError) as caught:
        build(records, benchmark="pocket", sweep="pocket/nothing")
    assert str(caught.value).isprintable()


def test_json_keeps_names_as_they_are_and_csv_has_no_formula() -> None:
    board = build(frame(run("digits", ODD)), benchmark="pocket")
    assert json.loads(str(render(board, "json")))["methods"][0]["name"] == ODD
    board = build(frame(run("digits", "=cmd()")), benchmark="pocket")
    rows = csv.DictReader(io.StringIO(str(render(board, "csv"))))
    assert next(rows)["method"] == "'=cmd()"


FOLDER = Path(__file__).with_name("golden")
TABLES = {
    "whole": random_table(12, 5, 3),
    "missing": random_table(11, 4, 3, missing=0.15, number=4),
    "few tasks, few seeds": random_table(4, 3, 2, missing=0.2, number=2),
    "ties": table(
        {
            f"t{t}": {f"m0{m}": [0.25 * ((t * m) % 3), 0.5] for m in range(3)}
            for t in range(7)
        }
    ),
}
"""Score tables by name, of which all statistics are golden."""
FORMATS = ("csv", "json", "latex", "markdown", "table")


COST = {
    "align_seconds": 0.0,
    "evaluate_seconds": 0.0,
    "peak_memory_mib": 1500.0,
    "num_trainable": 7_000_000,
}
"""Fields of a record about its cost, but for its duration."""


def duration(refine_seconds: float, wall_seconds: float) -> dict[str, float]:
    return {"refine_seconds": refine_seconds, "wall_seconds": wall_seconds}


def search(validation_score: float, **changes: Any) -> Run:
    return run(
        "digits",
        "orca",
        None,
        phase="search",
        validation_score=validation_score,
        **changes,
    )


def report() -> BoardReport:
    """Return a board with special cases.

    They are a tie, missing and tiny scores, failures, searches, curves, costs and other
    sweeps.
    """
    records = frame(
        *seeds("digits", "orca", 0.125, 0.25, 0.375, **COST, **duration(10.5, 20.0)),
        *seeds("digits", "nft", 0.25, 0.25, 0.25, **COST, **duration(5.0, 6.0)),
        *seeds("digits", "scratch", 0.5, 0.75, **COST, **duration(2.0, 3.0)),
        *seeds("darcy16", "orca", 1e-5, 3e-5, 2e-5, metric="relative_l2"),
        *seeds("darcy16", "nft", 0.01, 0.02, metric="relative_l2"),
        *seeds("darcy16", "scratch", 0.03, 0.05, metric="relative_l2"),
        *seeds("wdbc", "orca", 0.02, 0.03, 0.02, data_fingerprint="old", minutes=0),
        *seeds("wdbc", "nft", 0.05, minutes=5, data_fingerprint="new"),
        failed("wdbc", "scratch", Status.FAILED_OOM),
        failed("wdbc", "scratch", Status.FAILED_NAN),
        run("digits", "orca", 0.9, sweep="pocket/other"),
        run("digits", "nft", 0.9, protocol="paper", minutes=0),
        search(0.5, minutes=0),
        search(0.5 - 0.1, minutes=1),
        search(0.5 - 0.1 * 2, minutes=2),
        search(0.01, minutes=0, metric_version=2),
    )
    board = build(
        records, benchmark="pocket", sweep="pocket/quick", protocol="held-out"
    )
    points = [
        make_point(f"k{trial}", epoch, validation_score=0.6 / epoch)
        for trial in range(6)
        for epoch in (1, 2, 3)
    ]
    curves = pd.DataFrame([point.to_row() for point in points])
    searches = read_searches(StoreSnapshot.of_frame(records), board)
    return BoardReport(
        board,
        read_curves=lambda: curves,
        read_searches=lambda: searches,
        left_out=("pocket/mnist",),
    )


def documents() -> dict[str, str]:
    """Return the content of the golden files by name.

    The words of statistics are left out of the page.
    """
    study = effects(
        *(square(task, 0.4, 0.2, 0.2, 0.1, noise=1.01) for task in "abcde"),
        of=grid(*"abcde"),
    )
    texts = {}
    for name in FORMATS:
        format = all_formats()[name]
        texts[f"board{format.suffix}"] = str(render(report(), name))
        if format.effects:
            texts[f"effects{format.suffix}"] = render_effects(study, name)
    for benchmark in ("nasbench360", "pdebench"):
        published = BoardReport(
            empty_board(benchmark),
            published=compare(published_rows(benchmark), benchmark),
        )
        texts[f"published-{benchmark}.md"] = str(render(published, "markdown"))
    page = dict(data())
    page["statistics"] = [
        statistic | {"definition": ""} for statistic in page["statistics"]
    ]
    texts["page.json"] = json.dumps(page)
    texts["statistics.json"] = json.dumps(vectors())
    for name, text in texts.items():
        if name.endswith("json"):
            texts[name] = json.dumps(json.loads(text))  # without line breaks
    return texts


def vectors() -> dict[str, Any]:
    """Return the columns of every statistic of some tables.

    Ratios of the answers to questions are included.
    """
    columns: dict[str, Any] = {}
    methods = {"m00": "orca", "m01": "nft", "m02": "scratch"}
    for table_name, scores in TABLES.items():
        renamed = scores.replace({"method": methods})
        for statistic in all_statistics().values():
            if statistic.inputs != ("scores",):
                continue
            options: dict[str, Any] = {}
            if statistic.shape == "curve":
                options["factors"] = [1, 1.05, 1.5, 2, 10]
            frame = statistic.compute(renamed, **options).reset_index()
            columns[f"{table_name}: {statistic.name}"] = frame.to_dict("list")
        for answer in answers(renamed):
            columns[f"{table_name}: {answer.sentence}"] = answer.comparison.tasks
    return columns


def rounded(text: str) -> str:
    """Return a text with seven significant digits of each number.

    The last digits differ between processors.
    """
    return re.sub(
        r"\d+\.\d{7,}(e[-+]\d+)?", lambda match: f"{float(match[0]):.7g}", text
    )


def test_documents_are_the_golden_ones() -> None:
    expected = {
        path.name: path.read_text(encoding="utf-8") for path in FOLDER.iterdir()
    }
    texts = documents()
    assert texts.keys() == expected.keys()
    for name, text in texts.items():
        assert rounded(text) == rounded(expected[name]), name


if __name__ == "__main__":
    for name, text in documents().items():
        (FOLDER / name).write_text(text, encoding="utf-8")
