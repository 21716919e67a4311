"""Formats: equal bytes for equal stores, published rows, subsets, harmless text, and
whole documents.

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
from orca_ray.leaderboard.formats.table import brief, sparkline
from orca_ray.leaderboard.published.comparison import compare
from orca_ray.leaderboard.published.tables import published_rows
from orca_ray.leaderboard.statistics import all_statistics
from orca_ray.leaderboard.statistics.paired import answers
from orca_ray.results.record import CurvePoint, Record, Status
from orca_ray.results.scan import StoreSnapshot
from orca_ray.results.store import ResultsStore
from orca_ray.testing.scores import random_table, table
from tests.leaderboard.page.conftest import curves, data, records
from tests.leaderboard.test_effects import effects, grid, render_effects, square
from tests.leaderboard.test_leaderboard import failed, frame, run, seeds
from tests.leaderboard.test_published import ORCA
from tests.results.factories import START, make_point, make_record

TEXT = sorted({*all_formats()} - {"parquet", "csv"})
ODD = "a\x1b[2Jb\nc\x9bd"


def content(report: BoardReport, format: str) -> bytes:
    found = render(report, format)
    return found if isinstance(found, bytes) else found.encode()


def stored(
    path: Path, trials: Sequence[Record], points: Sequence[CurvePoint], num_files: int
) -> BoardReport:
    """Return the report of a new store that holds the rows in their order, in several
    files.
    """
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
    """The trials have several configurations, notes and devices, and finished at the
    same time.
    """
    trials = [
        replace(
            each, finished_at=START, notes=f"note {each.seed}", device=f"d{each.seed}"
        )
        for each in records()
    ]
    trials += [
        replace(each, trial_key=f"{each.trial_key}-b", hyperparameters='{"a":1}')
        for each in trials
    ]
    points = curves(trials)
    random = np.random.default_rng(0)
    first = stored(tmp_path / "0", trials, points, 1)
    for number, num_files in enumerate((1, 5), start=1):
        others = [trials[i] for i in random.permutation(len(trials))]
        other = stored(tmp_path / str(number), others, points[::-1], num_files)
        assert [
            name
            for name in all_formats()
            if content(first, name) != content(other, name)
        ] == []


def test_the_published_row_of_an_empty_store_is_in_every_format() -> None:
    report = BoardReport(
        empty_board("nasbench360"),
        published=compare(published_rows("nasbench360"), "nasbench360"),
    )
    table = pq.read_table(pa.BufferReader(content(report, "parquet"))).to_pandas()
    own = table.loc[
        (table["method"] == "ORCA") & (table["kind"] == "primary"), "score"
    ].tolist()
    percent = (100, 100, 1, 1, 1, 100, 1, 1, 100, 1)
    assert sorted(own) == pytest.approx(
        sorted(float(each) / p for each, p in zip(ORCA, percent, strict=True))
    )
    rows = csv.DictReader(io.StringIO(content(report, "csv").decode()))
    assert sorted(
        float(row["score"]) for row in rows if row["method"] == "ORCA"
    ) == sorted(own)
    for format in ("json", "html", "table", "markdown", "latex"):
        text = content(report, format).decode()
        assert all(each in text for each in ORCA)
        assert format in ("json", "html") or "nothing ran here yet" in text


def test_a_subset_has_its_own_ranks() -> None:
    scores = {"a": (0.1, 0.2, 0.3), "b": (0.3, 0.2, 0.1), "c": (0.2, 0.3, 0.1)}
    runs = [
        run(t, name, s)
        for t, row in scores.items()
        for name, s in zip(("orca", "nft", "fpt"), row, strict=True)
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
    scores = [
        (f"t{t}", method, t / 10)
        for t in range(1, 6)
        for method in ("nft", "orca", "fno")[: 3 if t < 3 else 2]
    ]
    runs = [
        run(task, method, 0.1 + score, seed=seed)
        for task, method, score in scores
        for seed in (1, 2)
    ]
    found = BoardReport(build(frame(*runs), benchmark="pocket"))
    assert found.common_tasks == tuple(f"pocket/t{t}" for t in range(1, 6))
    assert found.statistic("mean_rank")["value"].notna().to_dict() == {
        "nft": True,
        "orca": True,
        "fno": False,
    }
    assert found.verdicts.loc[("nft", "fno"), "num_tasks"] == 2
    assert (
        "the 5 of 5 tasks with scores of every method but fno, on less than half"
        in str(render(found, "markdown"))
    )
    few = BoardReport(
        build(
            frame(*(run(f"t{n}", each, 0.1) for n, each in enumerate("abc"))),
            benchmark="pocket",
        )
    )
    assert few.common_tasks == ()
    assert "no ranks yet: 0 of 3 tasks" in str(next(brief(few, 80, 2)))


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
    path = tmp_path / f"board.{format}"
    path.write_bytes(
        content(
            BoardReport(
                board, published=compare(published_rows("nasbench360"), "nasbench360")
            ),
            format,
        )
    )
    found = read_scores(path)
    pd.testing.assert_frame_equal(found, score_frame(board))
    assert list(found.columns) == SCHEMA.names
    scores = (
        found.dropna(subset="score")
        .groupby(["task", "method"])["score"]
        .agg(list)
        .to_dict()
    )
    assert scores == {
        ("pocket/digits", "orca"): [0.1, 0.2],
        ("pocket/mnist", "nft"): [1 / 3],
    }
    assert len(found) == 2 + 1 + 1 + 1


def test_a_file_that_is_no_board(tmp_path: Path) -> None:
    for name, given, message in (
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
            (
                b'{"kind": "orca-ray board", "version": 1, "scores": [{"task": "t",'
                b' "seed": "x"}]}'
            ),
            "is no board",
        ),
        (
            "a.json",
            b'{"kind": "orca-ray board", "version": 1, "scores": 7}',
            "is no board",
        ),
        ("a.parquet", b"PAR1", "is no board of scores"),
    ):
        (tmp_path / name).write_bytes(given)
        with pytest.raises(UserError, match=re.escape(message)):
            read_scores(tmp_path / name)


def test_text_is_escaped() -> None:
    for text, shown in {
        "relative_l2": "relative_l2",
        "_a_": r"\_a\_",
        "<script>": r"\<script\>",
        "[a](javascript:b)": r"[a\](javascript:b)",
        "a|`b`*c*": r"a\|\`b\`\*c\*",
        "1 [0, 2]": "1 [0, 2]",
        "a\nb": r"a\\nb",
    }.items():
        assert markdown.escaped(text) == shown
    for text, shown in {
        "a_b & 50% of $x #1 {}": r"a\_b \& 50\% of \$x \#1 \{\}",
        r"\input{/etc/passwd}": r"\textbackslash{}input\{/etc/passwd\}",
        "0.1 ± 0.2": r"0.1 $\pm$ 0.2",
        "--": "-{}-",
        "–": "{--}",
        "[1] *": "{[}1{]} {*}",
        "é中й": r"\'{e}U+4E2DU+0439",
        "^~<>|": (
            r"\textasciicircum{}\textasciitilde{}\textless{}\textgreater{}\textbar{}"
        ),
    }.items():
        assert latex.escaped(text) == shown


def test_a_hostile_name_stays_text_in_tables() -> None:
    odd = r"<img>a&b\\c_%$#{|"
    board = build(
        frame(*seeds(odd, odd, 0.1, 0.2), run("digits", "orca")), benchmark="pocket"
    )
    text = str(render(board, "markdown"))
    assert "<img" not in text.replace(r"\<img", "")
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in text.split("\n")[2:6]} == {
        5
    }
    text = str(render(board, "latex"))
    assert text.isascii()
    for columns, body in re.findall(
        r"\\begin\{tabular\}\{(\w+)\}\n(.*?)\\end\{tabular\}", text, re.DOTALL
    ):
        rows = [line for line in body.split("\n") if line.endswith(r"\\")]
        assert {len(re.findall(r"(?<!\\)&", row)) for row in rows} == {len(columns) - 1}
    bare = re.sub(r"\\[{}]", "", text)
    assert bare.count("{") == bare.count("}")
    assert text.count(r"\toprule") == text.count(r"\bottomrule") == 1


@pytest.mark.parametrize(
    ("methods", "parts"),
    [
        (("orca", "nft", "scratch", "fpt"), 1),
        ([f"a_method_with_a_long_name_{i}" for i in range(6)], 3),
    ],
)
def test_a_table_fits_a_hundred_columns(methods: list[str], parts: int) -> None:
    """Each part of a table that is too wide names its rows; LaTeX has parts of 45 rows,
    too.
    """
    tasks = {f"a_task_of_{i:05}": f"metric_number_{i % 5}" for i in range(50)}
    runs = [
        each
        for t, metric in tasks.items()
        for m in methods
        for each in seeds(t, m, 0.1, 0.2, 0.3, metric=metric)
    ]
    board = build(frame(*runs), benchmark="pocket")
    lines = str(render(board)).split("\n")
    rows = [
        line for line in str(render(board, "latex")).split("\n") if line.endswith(r"\\")
    ]
    assert len(rows) >= parts * 54  # 50 tasks, mean rank and wins; two heads
    assert max(row.count("&") for row in rows) <= 3
    assert max(map(len, lines)) <= 100
    assert all(metric in "\n".join(lines) for metric in tasks.values())
    assert sum(line.startswith("a_task_of_00003") for line in lines) == parts
    assert all(any(method in line for line in lines) for method in methods)


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
    assert r"a\x1b[2Jb\nc\x9bd" in text.replace(
        r"\\", "\\"
    )  # Markdown shows two backslashes as one
    with pytest.raises(UserError) as caught:
        build(records, benchmark="pocket", sweep="pocket/nothing")
    assert str(caught.value).isprintable()


def test_json_keeps_names_as_they_are_and_csv_has_no_formula() -> None:
    board = build(frame(run("digits", ODD)), benchmark="pocket")
    assert json.loads(str(render(board, "json")))["methods"][0]["name"] == ODD
    board = build(frame(run("digits", "=cmd()")), benchmark="pocket")
    assert (
        next(csv.DictReader(io.StringIO(str(render(board, "csv")))))["method"]
        == "'=cmd()"
    )


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
FORMATS = ("csv", "json", "latex", "markdown", "table")


def report() -> BoardReport:
    """Return a board with a tie, missing and tiny scores, failures, searches, curves,
    costs and other sweeps.
    """
    cost = {
        "align_seconds": 0.0,
        "evaluate_seconds": 0.0,
        "peak_memory_mib": 1500.0,
        "num_trainable": 7_000_000,
    }
    records = frame(
        *seeds(
            "digits",
            "orca",
            0.125,
            0.25,
            0.375,
            refine_seconds=10.5,
            wall_seconds=20.0,
            **cost,
        ),
        *seeds(
            "digits",
            "nft",
            0.25,
            0.25,
            0.25,
            refine_seconds=5.0,
            wall_seconds=6.0,
            **cost,
        ),
        *seeds(
            "digits", "scratch", 0.5, 0.75, refine_seconds=2.0, wall_seconds=3.0, **cost
        ),
        *seeds("darcy16", "orca", 1e-5, 3e-5, 2e-5, metric="relative_l2"),
        *seeds("darcy16", "nft", 0.01, 0.02, metric="relative_l2"),
        *seeds("darcy16", "scratch", 0.03, 0.05, metric="relative_l2"),
        *seeds("wdbc", "orca", 0.02, 0.03, 0.02, data_fingerprint="old", minutes=0),
        *seeds("wdbc", "nft", 0.05, minutes=5, data_fingerprint="new"),
        failed("wdbc", "scratch", Status.FAILED_OOM),
        failed("wdbc", "scratch", Status.FAILED_NAN),
        run("digits", "orca", 0.9, sweep="pocket/other"),
        run("digits", "nft", 0.9, protocol="paper", minutes=0),
        *(
            run(
                "digits",
                "orca",
                None,
                phase="search",
                validation_score=0.5 - 0.1 * n,
                minutes=n,
            )
            for n in range(3)
        ),
        run(
            "digits",
            "orca",
            None,
            phase="search",
            validation_score=0.01,
            minutes=0,
            metric_version=2,
        ),
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
    """Return the content of the files by name; the words of statistics are left out of
    the page.
    """
    suffixes = {name: all_formats()[name].suffix for name in FORMATS}
    found = {
        f"board{suffix}": str(render(report(), name))
        for name, suffix in suffixes.items()
    }
    study = effects(
        *(square(task, 0.4, 0.2, 0.2, 0.1, noise=1.01) for task in "abcde"),
        of=grid(*"abcde"),
    )
    found |= {
        f"effects{suffixes[name]}": render_effects(study, name)
        for name in FORMATS
        if all_formats()[name].effects
    }
    page = data()
    for benchmark in ("nasbench360", "pdebench"):
        published = BoardReport(
            empty_board(benchmark),
            published=compare(published_rows(benchmark), benchmark),
        )
        found[f"published-{benchmark}.md"] = str(render(published, "markdown"))
    found["page.json"] = json.dumps(
        page
        | {"statistics": [each | {"definition": ""} for each in page["statistics"]]}
    )
    found["statistics.json"] = json.dumps(vectors())
    return {
        name: json.dumps(json.loads(text)) if name.endswith("json") else text
        for name, text in found.items()
    }


def vectors() -> dict[str, Any]:
    """Return the columns of every statistic of some tables, and the ratios of the
    answers to questions.
    """
    found: dict[str, Any] = {}
    for name, scores in TABLES.items():
        renamed = scores.replace(
            {"method": {"m00": "orca", "m01": "nft", "m02": "scratch"}}
        )
        for each in all_statistics().values():
            if each.inputs == ("scores",):
                options = (
                    {"factors": [1, 1.05, 1.5, 2, 10]} if each.shape == "curve" else {}
                )
                found[f"{name}: {each.name}"] = (
                    each.compute(renamed, **options).reset_index().to_dict("list")
                )
        for answer in answers(renamed):
            found[f"{name}: {answer.sentence}"] = answer.comparison.tasks
    return found


def rounded(text: str) -> str:
    """Return a text with seven significant digits of each number: the last ones differ
    between processors.
    """
    return re.sub(
        r"\d+\.\d{7,}(e[-+]\d+)?", lambda found: f"{float(found[0]):.7g}", text
    )


def test_documents_are_the_golden_ones() -> None:
    expected = {
        path.name: path.read_text(encoding="utf-8") for path in FOLDER.iterdir()
    }
    found = documents()
    assert found.keys() == expected.keys()
    assert [
        name for name in found if rounded(found[name]) != rounded(expected[name])
    ] == []


if __name__ == "__main__":
    for name, text in documents().items():
        (FOLDER / name).write_text(text, encoding="utf-8")
