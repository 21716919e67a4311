"""``leaderboard``, ``leaderboard-diff``, ``site`` and ``results``, with published and
imported scores on boards.
"""

import csv
import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest

from orca_ray.cli.app import run
from orca_ray.models.names import PACKAGED
from orca_ray.results.artefacts import ArtefactRow
from orca_ray.results.record import Status
from orca_ray.results.store import ResultsStore
from orca_ray.sweep.run.reproduce import Comparison
from orca_ray.tasks.registry import get_task
from tests.cli.conftest import MISTAKES, Command
from tests.leaderboard.test_published import ORCA
from tests.results.factories import make_point, make_record

SCORES = {
    ("digits", "orca"): 0.1,
    ("digits", "nft"): 0.3,
    ("mnist", "orca"): 0.4,
    ("mnist", "nft"): 0.2,
}
SUFFIXES = {
    "table": ".txt",
    "markdown": ".md",
    "latex": ".tex",
    "csv": ".csv",
    "json": ".json",
    "parquet": ".parquet",
    "html": ".html",
}


def fill(path: Path, *, shift: float = 0.0, nft_shift: float = 0.0) -> str:
    """Create a store with two seeds of two methods on two tasks, and a failed trial."""
    records = [
        make_record(
            f"{task}-{method}-{seed}",
            task=f"pocket/{task}",
            method=method,
            seed=seed,
            test_score=score
            + seed / 100
            + shift
            + (nft_shift if method == "nft" else 0),
        )
        for (task, method), score in SCORES.items()
        for seed in (1, 2)
    ]
    failed = make_record(
        "failed", method="fpt", test_score=None, status=Status.FAILED_OOM
    )
    points = [make_point(each.trial_key, epoch) for each in records for epoch in (1, 2)]
    ResultsStore(path, create=True).append([*records, failed], points)
    return str(path)


@pytest.fixture
def store(tmp_path: Path) -> str:
    return fill(tmp_path / "store")


def board(command: Command, store: str, *options: str) -> str:
    return command.done("leaderboard", "pocket", "--results", store, *options).out


@pytest.mark.parametrize("format", SUFFIXES)
def test_a_file_has_the_format_of_its_name(
    format: str, command: Command, store: str
) -> None:
    named = Path(f"a{SUFFIXES[format]}")
    given = Path("b.out")
    board(command, store, "-o", str(named))
    assert board(command, store, "--format", format, "--out", str(given)) == ""
    assert named.read_bytes() == given.read_bytes()
    assert sorted(path.name for path in Path().iterdir()) == sorted(
        [named.name, given.name]
    )
    if format != "parquet":
        assert board(command, store, "--format", format).encode() == named.read_bytes()
    expected = {
        "table": "0.1150±0.0071*",
        "markdown": "|",
        "latex": r"\toprule",
        "csv": "digits",
        "json": "0.115",
    }
    assert expected.get(format, "").encode() in named.read_bytes()


def test_a_pipe_gets_the_bytes_of_a_file(
    store: str, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    arguments = ("leaderboard", "pocket", "--results", store, "--format", "parquet")
    assert (run(arguments), run([*arguments, "-o", "board"])) == (0, 0)
    assert capfdbinary.readouterr().out == Path("board").read_bytes()


@pytest.mark.parametrize(("arguments", "expected"), MISTAKES["leaderboard"].items())
def test_a_wrong_option_is_named(
    arguments: str, expected: str, command: Command, store: str
) -> None:
    assert expected in command.refused(
        "leaderboard", "pocket", "--results", store, *arguments.split()
    )
    assert list(Path().iterdir()) == []


def test_a_board_says_what_methods_started_from(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    records = [
        make_record(each, method=each, body="vit-s14") for each in ("orca", "scratch")
    ]
    records.append(make_record("cnn", method="cnn", body="none", task="pocket/mnist"))
    ResultsStore("store", create=True).append(
        [*records, make_record("x", method="fpt", status=Status.LOST)]
    )
    rows = csv.DictReader(board(command, "store", "--format", "csv").splitlines())
    found = {
        row["method"]: (row["body_sha256"], row["seen"], row["paper"][:18])
        for row in rows
        if row["score"]
    }
    digest = PACKAGED["vit-s14"].sha256
    paper = "https://arxiv.org/"
    assert found == {
        "orca": (digest, "unknown", paper),
        "scratch": ("", "no", paper),
        "cnn": ("", "no", paper),
    }
    assert json.loads(board(command, "store", "--json", "--seen", "no"))[
        "left_out"
    ] == ["pocket/digits"]
    monkeypatch.setattr("orca_ray.models.names.saw", lambda body, task: "known")
    assert json.loads(board(command, "store", "--json", "--seen", "unknown"))[
        "left_out"
    ] == ["pocket/digits"]


def test_check_finds_boards_that_are_out_of_date(
    command: Command, store: str, tmp_path: Path
) -> None:
    options = ("--tasks", "digits")
    for suffix in SUFFIXES.values():
        board(command, store, *options, "-o", f"pocket{suffix}")
    text = board(command, store, *options, "--check", ".")
    assert all(f"pocket{suffix}" in text for suffix in SUFFIXES.values())
    Path("pocket.md").write_text("old\n")
    ending = command(
        "leaderboard", "pocket", "--results", store, *options, "--check", "."
    )
    outdated, regenerate = [
        line for line in ending.out.splitlines() if "up to date" not in line
    ]
    assert (ending.code, outdated) == (1, "out of date: pocket.md")
    assert command(*regenerate.split()[1:]).code == 0
    board(command, store, *options, "--check", ".")
    other = fill(tmp_path / "other", shift=1e-9)
    assert (
        command(
            "leaderboard", "pocket", "--results", other, *options, "--check", "."
        ).code
        == 1
    )


@pytest.mark.parametrize("before", ["store", "before.json", "before.parquet"])
def test_the_difference_of_stores_and_files(
    before: str, command: Command, store: str, tmp_path: Path
) -> None:
    """``nft`` is worse by 0.05 with each seed; ``orca`` is as before."""
    other = fill(tmp_path / "other", nft_shift=0.05)
    if before != "store":
        board(command, store, "-o", before)
    before = store if before == "store" else before
    found = command("leaderboard-diff", before, other, "--json").json
    assert found["counts"]["worse"] == found["counts"]["equal"] == 2
    digits = next(
        each
        for each in found["changes"]
        if (each["task"], each["method"]) == ("pocket/digits", "nft")
    )
    assert (digits["difference"], digits["seeds"]) == (pytest.approx(0.05), 2)
    text = command("leaderboard-diff", before, other).out
    assert "2 worse, 2 equal" in text
    assert "Student" in text
    assert command("leaderboard-diff", store, store).out.startswith("4 equal\n")


def test_boards_that_cannot_be_compared(command: Command, store: str) -> None:
    ResultsStore("two", create=True).append(
        [
            make_record(name, benchmark=name, task=f"{name}/t", test_score=0.5)
            for name in ("other", "third")
        ]
    )
    Path("board.json").write_text(board(command, store, "--json"))
    Path("other.json").write_text(
        Path("board.json").read_text().replace("pocket", "other")
    )
    for before, after, expected in (
        (store, "two", "other, third: give --benchmark NAME"),
        (
            "board.json",
            "other.json",
            "boards of different benchmarks: pocket and other",
        ),
        (store, "nowhere", "no results at 'nowhere'"),
    ):
        assert expected in command.refused("leaderboard-diff", before, after)


def test_colours_are_for_terminals_that_want_them(
    command: Command, store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"TERM": "xterm-256color", "COLUMNS": "60"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    coloured = board(command, store)
    assert "\x1b[1;32m" in coloured
    assert "\x1b[36m" in coloured
    monkeypatch.setenv("NO_COLOR", "1")
    plain = board(command, store)
    assert "32m" not in plain
    assert "36m" not in plain
    assert all(
        len(line) <= 60
        for line in plain.replace("\x1b[1m", "").replace("\x1b[0m", "").splitlines()
    )


def test_a_page_holds_the_pictures_of_its_trials(
    command: Command, tmp_path: Path
) -> None:
    record = make_record("a", test_score=0.125)
    matrix = (
        '{"form": "matrix", "title": "Confusion matrix", "caption": "", "values": [[3,'
        " 1], [0, 4]]}"
    )
    rows = [
        ArtefactRow(record.sweep, "a", "confusion_matrix", "test", matrix),
        ArtefactRow(record.sweep, "a", "damaged", "test", "{"),
        ArtefactRow(
            record.sweep, "a", "nan", "test", '{"form": "matrix", "values": [[NaN]]}'
        ),
        ArtefactRow(
            record.sweep,
            "another",
            "confusion_matrix",
            "test",
            matrix.replace("Confusion", "Other"),
        ),
    ]
    ResultsStore(tmp_path / "store", create=True).append([record], artefacts=rows)
    page = board(command, str(tmp_path / "store"), "--format", "html")
    assert '"title":"Confusion matrix"' in page
    assert '"title":"Other matrix"' not in page
    assert "NaN]]" not in page


def embedded(path: Path) -> dict[str, Any]:
    found = re.findall(
        r'<script type="application/json" id="data">(.*?)</script>',
        path.read_text(),
        re.DOTALL,
    )
    content: dict[str, Any] = json.loads(found[0])
    return content


def test_a_site_has_an_index_and_a_page_of_each_benchmark(
    command: Command, store: str
) -> None:
    hostile = "../<script>alert(1)</script>"
    ResultsStore(store).append(
        [make_record("h", benchmark=hostile, task=f"{hostile}/t", sweep="s")]
    )
    contents = []
    for name in ("deep/site", "again"):  # a site is equal for an equal store
        assert command("site", name, "--results", store).code == 0
        contents.append({path.name: path.read_bytes() for path in Path(name).iterdir()})
    assert contents[0] == contents[1]
    pages = contents[0].keys() - {"index.html"}
    assert {embedded(Path("again", page))["benchmark"] for page in pages} == {
        "pocket",
        hostile,
    }
    index = Path("again", "index.html").read_text()
    assert set(re.findall(r'href="([^"]*\.html)"', index)) == pages
    assert "orca: best on 1 of 2 tasks" in index
    assert "<script" not in index


def test_open_shows_the_page(
    command: Command, store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []
    monkeypatch.setattr("webbrowser.open", opened.append)
    board(command, store, "--open")
    assert opened == [Path("pocket.html").resolve().as_uri()]
    page = embedded(Path("pocket.html"))
    assert (page["benchmark"], page["reproduce"]) == (
        "pocket",
        "orca-sweep reproduce KEY --results DIR",
    )
    assert {"image", "101 to 1000"} <= {
        *next(task.values() for task in page["tasks"] if task["label"] == "digits")
    }


def test_a_watched_page_follows_the_store_until_it_is_interrupted(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = Path("board.html")
    store = ResultsStore("two", create=True)
    store.append(
        [
            make_record("a", test_score=0.25),
            make_record("b", method="nft", test_score=0.5),
        ]
    )
    seen: list[tuple[int, bool]] = []

    def wait(_: float) -> None:
        seen.append((len(embedded(page)["scores"]), "data-refresh" in page.read_text()))
        if len(seen) == 2:
            raise KeyboardInterrupt
        store.append([make_record("c", seed=1, test_score=0.3, minutes=3)])

    monkeypatch.setattr("time.sleep", wait)
    board(command, "two", "--watch", "-o", str(page))
    assert seen == [(2, True), (3, True)]
    assert "data-refresh" not in page.read_text()


ROWS = """\
method,task,metric,protocol,score,seed,source
theirs,pocket/digits,error,held-out,0.125,0,https://example.org/paper
theirs,pocket/digits,error,held-out,0.25,1,https://example.org/paper
"""


@pytest.fixture
def rows() -> Path:
    path = Path("rows.csv")
    path.write_text(ROWS)
    return path


@pytest.mark.parametrize("store", ["missing", "empty", "of another benchmark"])
def test_without_own_scores_a_board_shows_the_published_ones(
    command: Command, store: str
) -> None:
    if store != "missing":
        ResultsStore("results", create=True).append(
            [] if store == "empty" else [make_record()]
        )
    text = command.done("leaderboard", "nasbench360").out
    assert "nothing ran here yet" in text
    line = next(line for line in text.splitlines() if line.startswith("ORCA "))
    assert [word.strip("*") for word in line.split()][1:8] == ORCA[:7]


def test_imported_rows_are_on_the_board_with_their_source_and_are_no_records(
    command: Command, rows: Path
) -> None:
    assert command("results", "import", str(rows)).code == 0
    text = command("leaderboard", "pocket").out
    assert "nothing ran here yet" in text
    assert "theirs [1] (imported)" in text
    store = ResultsStore("results", create=True)
    store.append([make_record(test_score=0.5)])
    text = command("leaderboard", "pocket").out
    assert "theirs [1] (imported)" in text
    assert "[1] https://example.org/paper" in text
    document = command("leaderboard", "pocket", "--json").json
    assert [row["source"] for row in document["published"]["rows"]] == [
        "https://example.org/paper"
    ]
    assert [each["name"] for each in document["methods"]] == ["orca"]
    assert (
        document["published"]["beside"]["methods"][0]["cells"]["pocket/digits"]["score"]
        == 0.1875
    )
    assert len(store.records()) == 1


def test_export_and_import_of_another_store(command: Command) -> None:
    scores = {0: 0.1, 1: 1 / 3}
    pinned = get_task("pocket/digits").fingerprint
    records = [
        make_record(f"k{n}", seed=n, test_score=score, data_fingerprint=pinned)
        for n, score in scores.items()
    ]
    ResultsStore("results", create=True).append(records)
    assert (
        command(
            "results", "export", "pocket", "-o", "mine.csv", "--source", "my page"
        ).code
        == 0
    )
    assert (
        Path("mine.csv").read_text()
        == "method,task,metric,protocol,score,seed,source,std,metric_version,data_fingerprint\norca,pocket/digits,error,held-out,0.1,0,my"
        f" page,,1,{pinned}\norca,pocket/digits,error,held-out,0.3333333333333333,1,my"
        f" page,,1,{pinned}\n"
    )
    assert (
        command("results", "export", "pocket", "--source", "my page").out
        == Path("mine.csv").read_text()
    )
    assert (
        "2 score(s) of 1 method(s) on 1 task(s)"
        in command("results", "check", "mine.csv").out
    )
    assert command("results", "import", "mine.csv", "--results", "elsewhere").code == 0
    document = command("leaderboard", "pocket", "--results", "elsewhere", "--json").json
    assert document["published"]["rows"][0]["score"] == pytest.approx((0.1 + 1 / 3) / 2)


def test_check_names_every_bad_file_and_line(command: Command, rows: Path) -> None:
    Path("bad.csv").write_text(ROWS.replace("0.25", "25"))
    Path("worse.csv").write_bytes(b"\x00\xff")
    ending = command("results", "check", "bad.csv", str(rows), "worse.csv")
    assert ending.code == 2
    assert "bad.csv: 1 problem" in ending.err
    assert "line 3: score 25: error is at most 1, not in percent" in ending.err
    assert "worse.csv: 1 problem" in ending.err
    assert "rows.csv: 2 score(s)" in ending.out
    for name in ("bad.csv", "missing.csv", ".", "/dev/zero"):
        assert name in command.refused("results", "import", name)
    assert not Path("results").exists()
    assert command("results", "check").code == 0, (
        "the submitted rows of the project are valid"
    )


@pytest.mark.parametrize(
    ("test_score", "shown"), [(0.5, "test: 0.5"), (None, "validation: 0.25")]
)
def test_a_trial_that_ran_again_is_compared_on_the_split_of_its_score(
    command: Command,
    test_score: float | None,
    shown: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    record = make_record("abc", test_score=test_score)
    same = Comparison(
        record=record,
        again=record,
        agrees=True,
        rule="equal",
        differences={},
        environment={},
    )
    monkeypatch.setattr("orca_ray.sweep.run.reproduce.reproduce", lambda *_: same)
    ResultsStore("results", create=True).append([record])
    assert f"error on {shown} in the record" in command("reproduce", "abc").out
