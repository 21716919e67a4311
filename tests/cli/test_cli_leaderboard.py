"""``leaderboard`` and ``leaderboard-diff``: formats and files, checks of committed boards, subsets, published rows."""

import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from orca_ray.results.artefacts import ArtefactRow
from orca_ray.results.record import Status
from orca_ray.results.store import ResultsStore
from tests.cli.conftest import Command
from tests.results.factories import make_point, make_record

SCORES = {("digits", "orca"): 0.1, ("digits", "nft"): 0.3, ("mnist", "orca"): 0.4, ("mnist", "nft"): 0.2}
SUFFIXES = {"table": ".txt", "markdown": ".md", "latex": ".tex", "csv": ".csv", "json": ".json",
            "parquet": ".parquet", "html": ".html"}  # fmt: skip


def fill(path: Path, *, shift: float = 0.0, nft_shift: float = 0.0) -> str:
    """Create a store with two seeds of two methods on two tasks, and a failed trial."""
    records = [
        make_record(
            f"{task}-{method}-{seed}", task=f"pocket/{task}", method=method, seed=seed,
            test_score=score + seed / 100 + shift + (nft_shift if method == "nft" else 0),
        )
        for (task, method), score in SCORES.items()
        for seed in (1, 2)
    ]  # fmt: skip
    failed = make_record("failed", method="fpt", test_score=None, status=Status.FAILED_OOM)
    points = [make_point(each.trial_key, epoch) for each in records for epoch in (1, 2)]
    ResultsStore(path, create=True).append([*records, failed], points)
    return str(path)


@pytest.fixture
def store(tmp_path: Path) -> str:
    return fill(tmp_path / "store")


def test_a_board_is_printed_in_every_text_format(command: Command, store: str) -> None:
    table = command("leaderboard", "pocket", "--results", store)
    assert table.code == 0
    assert "digits" in table.out
    assert "0.1150±0.0071*" in table.out
    assert "|" in command("leaderboard", "pocket", "--results", store, "--format", "markdown").out
    assert r"\toprule" in command("leaderboard", "pocket", "--results", store, "--format", "latex").out
    assert "digits" in command("leaderboard", "pocket", "--results", store, "--format", "csv").out
    as_json = command("leaderboard", "pocket", "--results", store, "--json")
    assert as_json.json == command("leaderboard", "pocket", "--results", store, "--format", "json").json
    assert "0.115" in as_json.out


@pytest.mark.parametrize("format", SUFFIXES)
def test_a_file_has_the_format_of_its_name(format: str, command: Command, store: str) -> None:
    named, given = Path(f"a{SUFFIXES[format]}"), Path("b.out")
    assert command("leaderboard", "pocket", "--results", store, "-o", str(named)).code == 0
    ending = command("leaderboard", "pocket", "--results", store, "--format", format, "--out", str(given))
    assert (ending.code, ending.out) == (0, "")
    assert named.read_bytes() == given.read_bytes()
    assert sorted(path.name for path in Path().iterdir()) == sorted([named.name, given.name])
    if format != "parquet":
        printed = command("leaderboard", "pocket", "--results", store, "--format", format)
        assert printed.out.encode() == named.read_bytes()


def test_a_pipe_gets_the_bytes_of_a_file(command: Command, store: str) -> None:
    arguments = ("leaderboard", "pocket", "--results", store, "--format", "parquet")
    printed = subprocess.run([sys.executable, "-m", "orca_ray.cli.main", *arguments], capture_output=True, check=True)
    assert command(*arguments, "-o", "board").code == 0
    assert printed.stdout == Path("board").read_bytes()


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["-o", "/dev/null"], "is inside /dev"),
        (["-o", "."], "is a directory"),
        (["-o", "missing/board.md"], "missing is no directory"),
        (["-o", "board.docx"], "give --format, or a name that ends in .csv"),
        (["--format", "tabel"], "Did you mean 'table'?"),
        (["--tasks", "digit"], "Did you mean 'pocket/digits'?"),
        (["--methods", "orka"], "Did you mean 'orca'?"),
        (["--tasks", ","], "names nothing"),
        (["--hide", "digitized"], "Did you mean 'digitised'?"),
        (["--check", "."], "no board of pocket there; write one: orca-sweep leaderboard pocket --results"),
        (["--open", "--format", "csv"], "--open and --watch show the page"),
    ],
)
def test_a_wrong_option_is_told(arguments: list[str], told: str, command: Command, store: str) -> None:
    ending = command("leaderboard", "pocket", "--results", store, *arguments)
    assert ending.code == 2
    assert told in ending.err
    assert list(Path().iterdir()) == []


def test_a_named_pipe_is_refused(command: Command, store: str) -> None:
    os.mkfifo("board.md")
    ending = command("leaderboard", "pocket", "--results", store, "-o", "board.md")
    assert ending.code == 2
    assert "named pipe" in ending.err


def test_a_subset_is_ranked_anew(command: Command, store: str) -> None:
    subset = ("--tasks", "digits", "--methods", "orca,nft")
    found = command("leaderboard", "pocket", "--results", store, *subset, "--json").json
    assert [task["name"] for task in found["tasks"]] == ["pocket/digits"]
    assert {each["name"]: each["mean_rank"]["value"] for each in found["methods"]} == {"orca": 1, "nft": 2}
    assert found["left_out"] == ["pocket/mnist", "fpt"]
    told = command("leaderboard", "pocket", "--results", store, "--tasks", "digits").out
    assert "left out on request, and out of all ranks: pocket/mnist" in told


class TestCheck:
    def test_boards_that_are_up_to_date(self, command: Command, store: str, tmp_path: Path) -> None:
        Path("boards").mkdir()
        for suffix in SUFFIXES.values():
            assert command("leaderboard", "pocket", "--results", store, "-o", f"boards/pocket{suffix}").code == 0
        ending = command("leaderboard", "pocket", "--results", store, "--check", "boards")
        assert (ending.code, ending.err) == (0, "")
        assert all(f"boards/pocket{suffix}" in ending.out for suffix in SUFFIXES.values())

    def test_a_board_that_is_not(self, command: Command, store: str, tmp_path: Path) -> None:
        options = ["--results", store, "--tasks", "digits"]
        assert command("leaderboard", "pocket", *options, "-o", "pocket.md").code == 0
        assert command("leaderboard", "pocket", *options, "-o", "pocket.json").code == 0
        Path("pocket.md").write_text("old\n")
        ending = command("leaderboard", "pocket", *options, "--check", ".")
        assert ending.code == 1
        told, regenerate = ending.out.splitlines()
        assert told == "out of date: pocket.md"
        assert command(*regenerate.split()[1:]).code == 0
        assert command("leaderboard", "pocket", *options, "--check", ".").code == 0
        fill(tmp_path / "other", shift=1e-9)
        assert command("leaderboard", "pocket", "--results", str(tmp_path / "other"), "--check", ".").code == 1


class TestDiff:
    @pytest.mark.parametrize("suffix", ["", ".json", ".parquet"])
    def test_of_stores_and_files(self, suffix: str, command: Command, store: str, tmp_path: Path) -> None:
        """``nft`` is worse by 0.05 with each seed; ``orca`` is as before."""
        other = fill(tmp_path / "other", nft_shift=0.05)
        if suffix:
            command("leaderboard", "pocket", "--results", store, "-o", f"before{suffix}")
        found = command("leaderboard-diff", f"before{suffix}" if suffix else store, other, "--json").json
        assert found["counts"]["worse"] == found["counts"]["equal"] == 2
        digits = next(each for each in found["changes"] if (each["task"], each["method"]) == ("pocket/digits", "nft"))
        assert digits["difference"] == pytest.approx(0.05)
        assert digits["seeds"] == 2
        told = command("leaderboard-diff", store, other).out
        assert "pocket/digits" in told
        assert "2 worse, 2 equal" in told
        assert "two standard errors" in told

    def test_equal_boards(self, command: Command, store: str) -> None:
        assert command("leaderboard-diff", store, store).out.startswith("4 equal\n")

    def test_other_benchmarks(self, command: Command, store: str, tmp_path: Path) -> None:
        ResultsStore(tmp_path / "two", create=True).append(
            [make_record(name, benchmark=name, task=f"{name}/t", test_score=0.5) for name in ("other", "third")]
        )
        several = command("leaderboard-diff", store, str(tmp_path / "two"))
        assert several.code == 2
        assert "other, third: give --benchmark NAME" in several.err
        command("leaderboard", "pocket", "--results", store, "-o", "board.json")
        document = json.loads(Path("board.json").read_text().replace("pocket", "other"))
        Path("other.json").write_text(json.dumps(document))
        different = command("leaderboard-diff", "board.json", "other.json")
        assert different.code == 2
        assert "boards of different benchmarks: pocket and other" in different.err

    def test_nothing_there(self, command: Command, store: str) -> None:
        ending = command("leaderboard-diff", store, "nowhere")
        assert ending.code == 2
        assert "no results at 'nowhere'" in ending.err


class TestPublished:
    def test_an_empty_store(self, command: Command) -> None:
        ending = command("leaderboard", "nasbench360")
        assert ending.code == 0
        assert "no results of nasbench360 at 'results'" in ending.err
        assert "nothing ran here yet" in ending.out
        assert "29.85*" in ending.out

    def test_hidden_kinds(self, command: Command) -> None:
        shown = command("leaderboard", "nasbench360").out
        hidden = command("leaderboard", "nasbench360", "--hide", "digitised,secondary").out
        assert "MoNA (secondary)" in shown
        assert "MoNA (secondary)" not in hidden
        assert "hidden published scores, out of all ranks: " in hidden


def in_a_terminal(*arguments: str, **variables: str) -> str:
    """Run a command in a terminal of 60 columns, and return what it prints."""
    ours, theirs = pty.openpty()
    environment = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "60", "PYTHONIOENCODING": "utf-8", **variables}
    process = subprocess.Popen(
        [sys.executable, "-m", "orca_ray.cli.main", *arguments], stdout=theirs, stderr=subprocess.DEVNULL,
        env={name: value for name, value in environment.items() if value},
    )  # fmt: skip
    os.close(theirs)
    parts = []
    while True:
        try:
            part = os.read(ours, 65536)
        except OSError:  # the other end is closed
            break
        if not part:
            break
        parts.append(part)
    assert process.wait() == 0
    os.close(ours)
    return b"".join(parts).decode()


@pytest.mark.slow
def test_colours_are_for_terminals_that_want_them(store: str) -> None:
    arguments = ("leaderboard", "pocket", "--results", store)
    coloured = in_a_terminal(*arguments, NO_COLOR="", FORCE_COLOR="")
    assert "\x1b[1;32m" in coloured
    assert "\x1b[36m" in coloured
    plain = in_a_terminal(*arguments, NO_COLOR="1")
    assert "32m" not in plain
    assert "36m" not in plain
    assert all(len(line) <= 60 for line in plain.replace("\x1b[1m", "").replace("\x1b[0m", "").splitlines())
    assert "▁" not in in_a_terminal(*arguments, PYTHONIOENCODING="ascii:backslashreplace")


def test_a_page_holds_the_pictures_of_its_trials(command: Command, tmp_path: Path) -> None:
    record = make_record("a", test_score=0.125)
    matrix = '{"form": "matrix", "title": "Confusion matrix", "caption": "", "values": [[3, 1], [0, 4]]}'
    rows = [
        ArtefactRow(record.sweep, "a", "confusion_matrix", "test", matrix),
        ArtefactRow(record.sweep, "a", "damaged", "test", "{"),
        ArtefactRow(record.sweep, "a", "nan", "test", '{"form": "matrix", "values": [[NaN]]}'),
        ArtefactRow(record.sweep, "another", "confusion_matrix", "test", matrix.replace("Confusion", "Other")),
    ]
    ResultsStore(tmp_path / "store", create=True).append([record], artefacts=rows)
    page = command("leaderboard", "pocket", "--results", str(tmp_path / "store"), "--format", "html")
    assert page.code == 0
    assert '"title":"Confusion matrix"' in page.out
    assert '"title":"Other matrix"' not in page.out
    assert "NaN]]" not in page.out
