"""``leaderboard``, ``leaderboard-diff``, ``site`` and ``results``.

Also published and imported scores on boards.
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
from orca_ray.sweep.run.reproduce import Comparison, Verdict
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
    records = []
    points = []
    for (task, method), mean in SCORES.items():
        for seed in (1, 2):
            shifted_mean = mean + shift
            if method == "nft":
                shifted_mean += nft_shift * (1 + seed / 100)
            key = f"{task}-{method}-{seed}"
            record = make_record(
                key,
                task=f"pocket/{task}",
                method=method,
                seed=seed,
                test_score=shifted_mean + seed / 100,
            )
            records.append(record)
            points += [make_point(key, epoch) for epoch in (1, 2)]
    failed = make_record(
        "failed", method="fpt", test_score=None, status=Status.FAILED_OOM
    )
    ResultsStore(path, create=True).append([*records, failed], points)
    return str(path)


@pytest.fixture
def store(tmp_path: Path) -> str:
    return fill(tmp_path / "store")


def print_board(command: Command, store: str, *options: str) -> str:
    return command.succeed("leaderboard", "pocket", "--results", store, *options).out


@pytest.mark.parametrize("format", SUFFIXES)
def test_a_file_has_the_format_of_its_name(
    format: str, command: Command, store: str
) -> None:
    named_file = Path(f"a{SUFFIXES[format]}")
    other_file = Path("b.out")
    print_board(command, store, "-o", str(named_file))
    assert (
        print_board(command, store, "--format", format, "--out", str(other_file)) == ""
    )
    assert named_file.read_bytes() == other_file.read_bytes()
    assert sorted(path.name for path in Path().iterdir()) == sorted(
        [named_file.name, other_file.name]
    )
    if format != "parquet":
        assert (
            print_board(command, store, "--format", format).encode()
            == named_file.read_bytes()
        )
    expected = {
        "table": "0.1150±0.0071*",
        "markdown": "|",
        "latex": r"\toprule",
        "csv": "digits",
        "json": "0.115",
    }
    assert expected.get(format, "").encode() in named_file.read_bytes()


def test_a_pipe_gets_the_bytes_of_a_file(
    store: str, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    arguments = ("leaderboard", "pocket", "--results", store, "--format", "parquet")
    assert run(arguments) == 0
    assert run([*arguments, "-o", "board"]) == 0
    assert capfdbinary.readouterr().out == Path("board").read_bytes()


@pytest.mark.parametrize(("arguments", "expected"), MISTAKES["leaderboard"].items())
def test_a_wrong_option_is_named(
    arguments: str, expected: str, command: Command, store: str
) -> None:
    assert expected in command.fail(
        "leaderboard", "pocket", "--results", store, *arguments.split()
    )
    assert list(Path().iterdir()) == []


def test_a_board_says_what_methods_started_from(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    records = [
        make_record("orca", method="orca", body="vit-s14"),
        make_record("scratch", method="scratch", body="vit-s14"),
        make_record("cnn", method="cnn", body="none", task="pocket/mnist"),
        make_record("x", method="fpt", status=Status.LOST),
    ]
    ResultsStore("store", create=True).append(records)
    rows = csv.DictReader(print_board(command, "store", "--format", "csv").splitlines())
    facts = {
        row["method"]: (row["body_sha256"], row["seen"], row["paper"][:18])
        for row in rows
        if row["score"]
    }
    digest = PACKAGED["vit-s14"].sha256
    paper = "https://arxiv.org/"
    assert facts == {
        "orca": (digest, "unknown", paper),
        "scratch": ("", "no", paper),
        "cnn": ("", "no", paper),
    }

    def left_out(seen: str) -> list[str]:
        document = json.loads(print_board(command, "store", "--json", "--seen", seen))
        tasks: list[str] = document["left_out"]
        return tasks

    assert left_out("no") == ["pocket/digits"]
    monkeypatch.setattr(
        "orca_ray.models.names.pretraining_saw", lambda body, task: "known"
    )
    assert left_out("unknown") == ["pocket/digits"]


def test_check_finds_boards_that_are_out_of_date(
    command: Command, store: str, tmp_path: Path
) -> None:
    options = ("--tasks", "digits")
    for suffix in SUFFIXES.values():
        print_board(command, store, *options, "-o", f"pocket{suffix}")
    text = print_board(command, store, *options, "--check", ".")
    assert all(f"pocket{suffix}" in text for suffix in SUFFIXES.values())
    Path("pocket.md").write_text("old\n")
    ending = command(
        "leaderboard", "pocket", "--results", store, *options, "--check", "."
    )
    outdated, regenerate = [
        line for line in ending.out.splitlines() if "up to date" not in line
    ]
    assert ending.code == 1
    assert outdated == "out of date: pocket.md"
    assert command(*regenerate.split()[1:]).code == 0
    print_board(command, store, *options, "--check", ".")
    other = fill(tmp_path / "other", shift=1e-9)
    ending = command(
        "leaderboard", "pocket", "--results", other, *options, "--check", "."
    )
    assert ending.code == 1


@pytest.mark.parametrize("before", ["store", "before.json", "before.parquet"])
def test_stores_and_files_of_boards_can_be_compared(
    before: str, command: Command, store: str, tmp_path: Path
) -> None:
    """``nft`` is worse by about 0.05 with each seed; ``orca`` is as before."""
    other = fill(tmp_path / "other", nft_shift=0.05)
    if before != "store":
        print_board(command, store, "-o", before)
    before = store if before == "store" else before
    document = command("leaderboard-diff", before, other, "--json").json
    assert document["counts"]["worse"] == document["counts"]["equal"] == 2
    changes = {
        (change["task"], change["method"]): change for change in document["changes"]
    }
    digits = changes["pocket/digits", "nft"]
    assert digits["difference"] == pytest.approx(0.05, rel=0.02)
    assert digits["seeds"] == 2
    text = command("leaderboard-diff", before, other).out
    assert "2 worse, 2 equal" in text
    assert "Student" in text
    rows = [line.split()[:2] for line in text.splitlines() if "pocket/" in line]
    assert rows == [[f"pocket/{task}", "nft"] for task in ("digits", "mnist")]
    assert command("leaderboard-diff", store, store).out.startswith("4 equal\n")


def test_boards_that_cannot_be_compared_are_refused(
    command: Command, store: str
) -> None:
    ResultsStore("two", create=True).append(
        [
            make_record(name, benchmark=name, task=f"{name}/t", test_score=0.5)
            for name in ("other", "third")
        ]
    )
    Path("board.json").write_text(print_board(command, store, "--json"))
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
        assert expected in command.fail("leaderboard-diff", before, after)


def test_colours_are_for_terminals_that_want_them(
    command: Command, store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"TERM": "xterm-256color", "COLUMNS": "60"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    coloured = print_board(command, store)
    assert "\x1b[1;32m" in coloured
    assert "\x1b[36m" in coloured
    monkeypatch.setenv("NO_COLOR", "1")
    colourless = print_board(command, store)
    assert "32m" not in colourless
    assert "36m" not in colourless
    text = colourless.replace("\x1b[1m", "").replace("\x1b[0m", "")
    assert max(map(len, text.splitlines())) <= 60


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
    page = print_board(command, str(tmp_path / "store"), "--format", "html")
    assert '"title":"Confusion matrix"' in page
    assert '"title":"Other matrix"' not in page
    assert "NaN]]" not in page


@pytest.mark.parametrize("folder", ["curves", "artefacts"])
def test_damaged_curves_or_pictures_are_left_out_of_a_board(
    folder: str, command: Command, store: str
) -> None:
    row = ArtefactRow("pocket/quick", "digits-orca-1", "matrix", "test", "{}")
    ResultsStore(store).append([], artefacts=[row])
    whole = print_board(command, store, "--format", "csv")
    for file in (Path(store) / folder).iterdir():
        file.write_bytes(file.read_bytes()[:500])
    assert print_board(command, store, "--format", "csv") == whole
    run = command.succeed("leaderboard", "pocket", "--results", store, "-o", "a.html")
    assert len(read_page(Path("a.html"))["scores"]) == 8
    assert re.search(rf"leaves out the .*{folder}/.* it held are then missing", run.err)


def read_page(path: Path) -> dict[str, Any]:
    """Return the data that a page holds."""
    match = re.search(
        r'<script type="application/json" id="data">(.*?)</script>',
        path.read_text(),
        re.DOTALL,
    )
    assert match is not None
    content: dict[str, Any] = json.loads(match[1])
    return content


def test_a_site_has_an_index_and_a_page_of_each_benchmark(
    command: Command, store: str
) -> None:
    hostile = "../<script>alert(1)</script>"
    ResultsStore(store).append(
        [make_record("h", benchmark=hostile, task=f"{hostile}/t", sweep="s")]
    )

    def write_site(name: str) -> dict[str, bytes]:
        assert command("site", name, "--results", store).code == 0
        return {path.name: path.read_bytes() for path in Path(name).iterdir()}

    contents = write_site("deep/site")
    assert write_site("again") == contents, "an equal store has an equal site"
    pages = contents.keys() - {"index.html"}
    benchmarks = {read_page(Path("again", page))["benchmark"] for page in pages}
    assert benchmarks == {"pocket", hostile}
    index = Path("again", "index.html").read_text()
    assert set(re.findall(r'href="([^"]*\.html)"', index)) == pages
    assert "orca: best on 1 of 2 tasks" in index
    assert "<script" not in index
    Path("again", "pocket.html").write_text("my notes")
    assert "has other content" in command.fail("site", "again", "--results", store)
    assert Path("again", "pocket.html").read_text() == "my notes"


def test_open_shows_the_page(
    command: Command, store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []
    monkeypatch.setattr("webbrowser.open", opened.append)
    print_board(command, store, "--open")
    assert opened == [Path("pocket.html").resolve().as_uri()]
    page = read_page(Path("pocket.html"))
    assert page["benchmark"] == "pocket"
    assert page["reproduce"] == "orca-sweep reproduce KEY --results DIR"
    [digits] = [task for task in page["tasks"] if task["label"] == "digits"]
    assert {"image", "101 to 1000"} <= set(digits.values())


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
    numbers_of_scores: list[int] = []

    def add_a_record_or_interrupt(seconds: float) -> None:
        numbers_of_scores.append(len(read_page(page)["scores"]))
        assert "data-refresh" in page.read_text()
        if len(numbers_of_scores) == 2:
            raise KeyboardInterrupt
        store.append([make_record("c", seed=1, test_score=0.3, minutes=3)])

    monkeypatch.setattr("time.sleep", add_a_record_or_interrupt)
    print_board(command, "two", "--watch", "-o", str(page))
    assert numbers_of_scores == [2, 3]
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
    text = command.succeed("leaderboard", "nasbench360").out
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
    assert [method["name"] for method in document["methods"]] == ["orca"]
    published = document["published"]["beside"]["methods"][0]
    assert published["cells"]["pocket/digits"]["score"] == 0.1875
    assert len(store.records()) == 1


def test_exported_scores_can_be_imported_into_another_store(command: Command) -> None:
    scores = {0: 0.1, 1: 1 / 3}
    pinned = get_task("pocket/digits").fingerprint
    records = [
        make_record(f"k{n}", seed=n, test_score=score, data_fingerprint=pinned)
        for n, score in scores.items()
    ]
    ResultsStore("results", create=True).append(records)
    export = ("results", "export", "pocket", "--source", "my page")
    command.succeed(*export, "-o", "mine.csv")
    text = Path("mine.csv").read_text()
    row = "orca,pocket/digits,error,held-out"
    assert text.splitlines() == [
        "method,task,metric,protocol,score,seed,source,std,metric_version,"
        "data_fingerprint",
        f"{row},0.1,0,my page,,1,{pinned}",
        f"{row},0.3333333333333333,1,my page,,1,{pinned}",
    ]
    assert text.endswith("\n")
    assert command.succeed(*export).out == text
    report = command("results", "check", "mine.csv").out
    assert "2 score(s) of 1 method(s) on 1 task(s)" in report
    assert command("results", "import", "mine.csv", "--results", "elsewhere").code == 0
    document = command("leaderboard", "pocket", "--results", "elsewhere", "--json").json
    assert document["published"]["rows"][0]["score"] == pytest.approx((0.1 + 1 / 3) / 2)


def test_check_refuses_the_same_scores_in_two_files(
    command: Command, rows: Path
) -> None:
    Path("again.csv").write_text(rows.read_text())
    message = command.fail("results", "check", str(rows), "again.csv")
    assert "again.csv: 2 score(s) of methods, tasks and sources that" in message
    assert str(rows) in message


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
        assert name in command.fail("results", "import", name)
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
        verdict=Verdict.EQUAL,
        rule="equal",
        differences={},
        environment={},
    )
    monkeypatch.setattr("orca_ray.sweep.run.reproduce.reproduce", lambda *_: same)
    ResultsStore("results", create=True).append([record])
    assert f"error on {shown} in the record" in command("reproduce", "abc").out
