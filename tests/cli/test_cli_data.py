"""``orca-sweep data`` on toy tasks whose raw files come from a server on loopback."""

import io
import logging
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
from PIL import Image

from orca_ray.cli.output import DataProgress
from orca_ray.data.raw import RawFile, Workspace
from orca_ray.data.rows import Target
from orca_ray.errors import UserError
from orca_ray.own_data import registration
from orca_ray.tasks import registry
from orca_ray.tasks.task import Arrays, Task
from tests.cli.conftest import MISTAKES, Command
from tests.data.faulty_server import Server, serving
from tests.results.factories import Clock

TERMS = "May not be redistributed."


def _make_table() -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.arange(18, dtype=np.float32).reshape(9, 1, 2))
    return buffer.getvalue()


def _build(workspace: Workspace) -> Arrays:
    """Read the table of a toy task; in the paper protocol, values are larger by 1."""
    try:
        x = np.load(workspace.file("x.npy"))
    except ValueError as error:
        raise UserError(f"{workspace.raw / 'x.npy'} is no array: {error}") from error
    parts = {"train": x[:4], "validation": x[4:6], "test": x[6:]}
    shift = np.float32(1 if workspace.protocol == "paper" else 0)
    arrays: dict[str, Any] = {}
    for split, rows in parts.items():
        arrays[f"{split}_x"] = rows + shift
        arrays[f"{split}_y"] = np.arange(len(rows), dtype=np.int64) % 2
    for part in workspace.batches("reading", 4, 1):
        assert part
    return arrays


def _make_task(name: str, server: Server, **changes: Any) -> Task:
    facts: dict[str, Any] = {
        "title": "Numbers in a row",
        "domain": "tabular",
        "input_shape": (1, 2),
        "target": Target("classes", size=2),
        "loss": "cross_entropy",
        "metric": "error",
        "body": "minilm-l6",
        "num_samples": (4, 2, 3),
        "build": _build,
        "licence": "CC-BY-NC-4.0",
        "citation": "Nobody, 2024",
        "reference": "https://example.org",
        "terms": TERMS,
        "files": (RawFile(path="x.npy", urls=(f"{server.url}/x.npy",), num_bytes=200),),
    }
    return Task(name=name, **{**facts, **changes})


@pytest.fixture
def mine() -> Path:
    Path("mine").mkdir()
    Path("mine/x.npy").write_bytes(_make_table())
    return Path("mine")


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A server with the toy tasks' file; the registry holds these tasks alone."""
    with serving() as running:
        running.add("x.npy", _make_table())
        manual = RawFile(path="own/list.txt")
        tasks = [
            _make_task("other/first", running),
            _make_task("toy/both", running, paper_splits=True, terms=""),
            _make_task("toy/first", running),
            _make_task("toy/manual", running, files=(manual,), terms=""),
        ]
        monkeypatch.setattr(
            registry, "all_tasks", lambda: {task.name: task for task in tasks}
        )
        yield running


def test_fetch_prints_the_terms_once_and_brings_what_is_missing(
    command: Command, server: Server, own_cache: Path
) -> None:
    raw = own_cache / "raw/toy/x.npy"
    ending = command("data", "fetch", "toy/first", "other/first")
    assert ending.code == 0
    assert ending.out == ""
    lines = ending.err.splitlines()
    assert lines[0] == f"toy/first, other/first: licence CC-BY-NC-4.0. {TERMS}"
    assert lines[1].startswith("fetching x.npy (200 bytes) from 127.0.0.1")
    assert any(line.startswith("toy/first: fetched (") for line in lines)
    assert raw.read_bytes() == _make_table()
    paper = ("data", "prepare", "toy/both", "-q", "--protocol", "paper")
    assert command("data", "fetch", "toy/both", "-q").code == 0
    assert command("data", "prepare", "toy/both", "-q").code == 0
    raw.unlink()
    assert "x.npy" in command.fail(*paper)
    assert "toy/both: fetched (" in command("data", "fetch", "toy/both").err
    assert command(*paper).code == 0
    assert command("data", "fetch", "toy/first", "-q", "--raw", "here").code == 0
    assert Path("here/x.npy").read_bytes() == _make_table()


def test_a_failing_task_keeps_no_other_from_its_files(
    command: Command, server: Server, own_cache: Path
) -> None:
    error = command.fail("data", "fetch", "toy", "--quiet", "--workers", "2")
    assert error.startswith(
        "error: 1 of 3 tasks failed:\ntoy/manual: no address is known for 1 of the"
        " files"
    )
    assert str(own_cache / "raw/toy/own/list.txt") in error
    assert (own_cache / "raw/toy/x.npy").exists()
    assert len(server.gets("x.npy")) == 1


def test_a_reason_of_several_tasks_is_printed_once(
    command: Command, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Task, "fetch_raw", Mock(side_effect=UserError("no room")))
    error = command.fail("data", "fetch", "toy/first", "toy/both", "-q")
    assert error.startswith(
        "error: 2 of 2 tasks failed:\ntoy/first, toy/both: no room\n"
    )


@pytest.mark.parametrize(
    ("what", "method"), [("fetch", "fetch_raw"), ("prepare", "prepare")]
)
def test_ctrl_c_says_where_the_command_continues(
    what: str,
    method: str,
    command: Command,
    server: Server,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Task, method, Mock(side_effect=KeyboardInterrupt))
    ending = command("data", what, "toy/first", "toy/both", "-q")
    assert ending.code == 130
    assert ending.out == ""
    assert ending.err.startswith(
        "interrupted at toy/first: the same command continues from there\n"
    )


def test_prepare_takes_raw_files_from_anywhere_and_compares_arrays_with_their_hashes(
    command: Command, server: Server, mine: Path
) -> None:
    arguments = ("data", "prepare", "toy/first", "--raw", "mine", "--json")
    ending = command(*arguments)
    [row] = ending.json
    array = Path(row["path"]) / "train_x.npy"
    assert row["samples"] == {"train": 4, "validation": 2, "test": 3}
    np.testing.assert_array_equal(np.load(array), np.arange(8).reshape(4, 1, 2))
    assert server.log == []
    assert command(*arguments).json == ending.json
    content = array.read_bytes()
    array.write_bytes(content[:-1] + b"!")
    assert "train_x.npy changed since it was prepared" in command.fail(*arguments)


@pytest.mark.parametrize(("arguments", "expected"), MISTAKES["data"].items())
def test_a_mistake_is_named_and_nothing_is_written(
    command: Command, server: Server, own_cache: Path, arguments: str, expected: str
) -> None:
    Path("occupied").mkdir()
    Path("occupied/file").write_text("years of work")
    ending = command("data", *shlex.split(arguments))
    assert ending.code == 2
    assert ending.out == ""
    assert ending.err.startswith("error: ")
    assert expected in ending.err
    assert "Traceback" not in ending.err
    assert server.log == []
    assert [path.name for path in Path().iterdir()] == ["occupied"]
    assert Path("occupied/file").read_text() == "years of work"
    assert not list(own_cache.rglob("*.npy"))


@pytest.fixture
def prepared(command: Command, server: Server) -> None:
    assert command("data", "fetch", "toy/first", "-q").code == 0
    assert command("data", "prepare", "toy/first", "-q").code == 0


@pytest.mark.usefixtures("prepared")
def test_a_raw_directory_must_be_there_even_if_the_data_are_prepared(
    command: Command,
) -> None:
    error = command.fail("data", "prepare", "toy/first", "--raw", "nowhere")
    assert "there is no such directory" in error


@pytest.mark.usefixtures("prepared")
def test_list_shows_what_is_there(command: Command) -> None:
    rows = {row["name"]: row for row in command("data", "list", "--json").json}
    assert list(rows) == ["other/first", "toy/both", "toy/first", "toy/manual"]
    first = rows["toy/first"]
    assert first["fetched"] == 1
    assert first["bytes"] == 200
    assert first["terms"] == TERMS
    assert first["prepared"]["fingerprint"]
    assert rows["other/first"]["fetched"] == 0
    assert rows["toy/both"]["prepared"] is None

    def line_of_first(table: str) -> str:
        return next(line for line in table.splitlines() if "toy/first" in line)

    table = command("data", "list", "toy").out
    assert "other/first" not in table
    expected = ["toy/first", "1", "200", "B", "yes", "yes", "CC-BY-NC-4.0"]
    assert line_of_first(table).split() == expected
    (Path(first["prepared"]["path"]) / "meta.json").write_text("{")
    assert "damaged" in line_of_first(command("data", "list").out)
    error = command("data", "show", "toy/first").err
    assert "prepared data are damaged: after" in error


def test_show_without_prepared_data_shows_what_is_declared(
    command: Command, server: Server
) -> None:
    ending = command.succeed("data", "show", "toy/first")
    for expected in (
        "1×2",
        "classes 2",
        "CC-BY-NC-4.0",
        TERMS,
        "Nobody, 2024",
        "x.npy (200 B, not fetched)",
    ):
        assert expected in ending.out
    assert "orca-sweep data prepare toy/first" in ending.err
    assert not list(Path().iterdir())


@pytest.mark.usefixtures("prepared")
def test_show_prints_shapes_classes_and_ranges(command: Command) -> None:
    assert "first: Numbers in a row" in command.succeed("data", "show", "toy/first").out
    facts = command("data", "show", "toy/first", "--json").json
    train = facts["prepared"]["splits"]["train"]
    assert train["samples"] == 4
    assert train["counts"] == [2, 2]
    x = train["x"]
    assert x["shape"] == [4, 1, 2]
    assert x["min"] == 0
    assert x["max"] == 7
    assert x["mean"] == 3.5


@pytest.mark.usefixtures("prepared")
def test_show_draws_samples_where_it_is_asked_to(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    command.succeed("data", "show", "toy/first")
    assert list(Path().glob("*.png")) == []
    command.succeed("data", "show", "toy/first", "--picture", "mine.png", "--json")
    assert Image.open("mine.png").format == "PNG"
    monkeypatch.setitem(sys.modules, "orca_ray.cli.picture", None)
    ending = command("data", "show", "toy/first", "--picture", "mine.png")
    assert ending.code == 2
    assert "pip install 'orca-ray[predict]'" in ending.err


def test_the_splits_of_a_protocol_are_shown(
    command: Command, server: Server, mine: Path
) -> None:
    show = ("data", "show", "toy/both", "--protocol", "paper")
    expected = (
        "after 'orca-sweep data prepare toy/both --protocol paper', this command also"
        " shows counts"
    )
    assert expected in command(*show).err
    prepare = ("data", "prepare", "toy/first", "toy/both", "--raw", "mine", "-q")
    assert command(*prepare, "--protocol", "paper").code == 0
    assert command(*show, "--json").json["prepared"]["splits"]["train"]["x"]["min"] == 1
    assert command(*show[:-1], "held-out", "--json").json["prepared"] is None


def test_a_terminal_shows_bars_and_keeps_stdout_clean(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG, logger="orca_ray.data")
    screen = io.StringIO()
    monkeypatch.setattr(screen, "isatty", lambda: True)
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setenv("TERM", "xterm")
    log = logging.getLogger("orca_ray.data.raw")
    with DataProgress(quiet=False) as progress:
        progress("protein.zip: 410 of 1100 MB, 38.0 MB/s")
        log.info("%s: %s %d of %d", "toy/first", "reading", 3, 4)
        sys.stdout.write("a result\n")
        assert progress._bars is not None
        progress._bars.refresh()
        assert [bar.description for bar in progress._bars.tasks] == [
            "protein.zip",
            "toy/first: reading",
        ]
        assert [bar.percentage for bar in progress._bars.tasks] == [
            pytest.approx(100 * 410 / 1100),
            75.0,
        ]
        log.info("%s: %s %d of %d", "toy/first", "reading", 4, 4)
        progress("protein.zip: fetched, 1.1 GB in 30.0 s")
        assert not progress._bars.tasks
    assert "protein.zip: fetched" in screen.getvalue()
    assert "410 of 1100 MB, 38.0 MB/s" in screen.getvalue()
    assert capsys.readouterr().out == "a result\n"


def test_without_a_terminal_a_count_is_printed_now_and_then(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = Clock()
    monkeypatch.setattr("orca_ray.cli.output.time.monotonic", clock)
    with DataProgress(quiet=False) as progress:
        for second in range(26):
            clock.now = float(second)
            progress(f"toy/first: reading {second} of 90")
        progress("toy/first: reading goes on after 40 of 90")
    with DataProgress(quiet=True) as silent:
        silent("anything")
    assert capsys.readouterr().err.splitlines() == [
        "toy/first: reading 10 of 90",
        "toy/first: reading 20 of 90",
        "toy/first: reading goes on after 40 of 90",
    ]


@pytest.mark.parametrize(
    "last", ["a.zip: 90 of 90 MB", "a.zip: fetched, 90 MB in 25.0 s"]
)
def test_work_of_the_same_name_begins_anew_once_it_has_ended(
    last: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = Clock()
    monkeypatch.setattr("orca_ray.cli.output.time.monotonic", clock)
    with DataProgress(quiet=False) as progress:
        progress("a.zip: 1 of 90 MB")
        progress(last)
        clock.now += 60.0
        progress("a.zip: 2 of 90 MB")
    assert "2 of 90" not in capsys.readouterr().err


def test_own_tasks_are_shown_and_listed_apart(
    command: Command, own_cache: Path
) -> None:
    labels = np.arange(30) % 2
    x = np.linspace(0, 1, 180).reshape(30, 2, 3) + labels[:, None, None]
    task = registration.from_arrays(x, labels)
    assert f"{task.name}: " in command("data", "prepare", task.name).out
    assert task.name in command("data", "list", "own").out
    assert task.name not in command("data", "list").out + command("tasks").out
    assert task.name in command("tasks", "own").out
    assert task.name in command("data", "show", task.name).out
    assert command("data", "fetch", task.name, "-q").code == 0
    (task.prepared_directory() / "train_x.npy").unlink()
    assert "adapt" in command.fail("data", "prepare", task.name)
    (task.prepared_directory() / "task.json").write_text("nothing")
    assert command("data", "list").code == 0


@pytest.mark.usefixtures("prepared")
def test_a_large_array_is_measured_on_some_of_its_samples(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    # two samples of two float32 numbers
    monkeypatch.setattr("orca_ray.cli.show.MAX_BYTES", 16)
    facts = command("data", "show", "toy/first", "--json").json
    x = facts["prepared"]["splits"]["train"]["x"]
    assert x["shape"] == [4, 1, 2]
    assert x["of_samples"] == 2
    assert x["min"] == 0
    assert x["max"] == 7


def test_add_copies_what_is_right_and_names_what_is_wrong_or_missing(
    command: Command, server: Server, mine: Path, own_cache: Path
) -> None:
    ending = command.succeed("data", "add", "mine", "--dry-run")
    sizes = "200 B, 4 train, 2 validation, 3 test"
    names = ("other/first", "toy/both", "toy/first")
    assert ending.out.splitlines() == [
        *(f"{name}: would be added, 1 file, {sizes}" for name in names),
        "toy: no files of manual",
    ]
    assert not list(own_cache.rglob("*.npy"))
    added = command.succeed("data", "add", "mine").out
    assert f"other/first: added, 1 file, {sizes}" in added
    assert (own_cache / "raw/toy/x.npy").read_bytes() == _make_table()
    assert command.succeed("data", "prepare", "toy/first", "-q").out == ""
    again = command.succeed("data", "add", "mine/x.npy").out.splitlines()
    assert again == [f"{name}: already there" for name in names]
    assert command.succeed("data", "add", "mine", "-q").out == ""

    Path("mine/x.npy").rename("mine/y.npy")
    Path("mine/own").mkdir()
    Path("mine/own/list.txt").write_text("a list")
    Path("mine/x.npy").write_bytes(b"something else")
    error = command.fail("data", "add", "mine", "--quiet")
    assert error.startswith("error: 4 of 4 tasks failed:\n")
    assert error.count(f"{Path('mine/x.npy').absolute()} is not the file") == 3
    assert server.log == []
