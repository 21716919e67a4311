"""Bad input ends with one message and exit code 2, and leaves nothing.

No work starts, and tracebacks go to the log.
"""

import errno
import json
import logging
import os
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import requests

from orca_ray.cli.output import emit_json, note, say, show
from orca_ray.data import cache
from orca_ray.errors import UserError, printable, unknown_name
from orca_ray.paths import check_directory, check_special
from orca_ray.results.store import ResultsStore
from orca_ray.sweep.plan import loading
from tests.cli.conftest import MISTAKES, SWEEP, Command, EndBy
from tests.results.factories import make_record


@pytest.mark.parametrize(("arguments", "expected"), MISTAKES["commands"].items())
def test_a_mistake_is_one_message_and_leaves_nothing(
    command: Command, arguments: str, expected: str
) -> None:
    Path("other").mkdir()
    Path("other/bad.yaml").write_text(SWEEP.replace("settings:", "setings:"))
    ResultsStore("store", create=True).append([make_record("a")])
    ending = command(*shlex.split(arguments))
    assert ending.code == 2
    assert ending.out == ""
    assert ending.err.startswith("error: ")
    assert expected in ending.err
    assert "Traceback" not in ending.err
    assert "Value error" not in ending.err
    assert sorted(path.name for path in Path().iterdir()) == ["other", "store"]
    assert [path.name for path in Path("other").iterdir()] == ["bad.yaml"]


ALLOCATION = RuntimeError(
    "[enforce fail at alloc_cpu.cpp:119] . DefaultCPUAllocator: can't allocate memory"
)
OUR_FILE = FileNotFoundError(
    2, "gone", str(Path(loading.__file__).with_name("gone.csv"))
)


@pytest.mark.parametrize(
    ("cause", "code", "expected"),
    [
        (
            lambda: json.loads("[" * 100_000),
            2,
            "error: the input is nested too deeply (RecursionError",
        ),
        (
            lambda: int("9" * 5000),
            2,
            "error: the input holds a number that is too large (ValueError",
        ),
        (
            lambda: float(10**400),
            2,
            "error: the input holds a number that is too large (OverflowError",
        ),
        (
            lambda: b"\xff".decode(),
            2,
            "error: the input holds text that is not valid UTF-8 (UnicodeDecodeError",
        ),
        (
            lambda: os.stat("a\0b"),
            2,
            "error: a path in the input holds a null character (ValueError",
        ),
        (
            lambda: bytearray(2**62),
            2,
            "error: not enough memory: free some, or give smaller data",
        ),
        (ALLOCATION, 2, "error: not enough memory: free some, or give smaller data"),
        (UserError("the file is truncated"), 2, "error: the file is truncated\n"),
        (KeyboardInterrupt(), 130, "interrupted\n"),
        (
            FileNotFoundError(errno.ENOENT, "No such file", "/data/x"),
            2,
            "error: cannot use /data/x: No such file",
        ),
        (
            IsADirectoryError(21, "Is a directory", b"/data/\xff"),
            2,
            r"error: cannot use /data/\udcff: Is a directory",
        ),
        (
            FileNotFoundError(errno.ENOENT, "No such file"),
            2,
            "error: the working directory no longer exists: ",
        ),
        (
            OSError(errno.ENOSPC, "No space left"),
            2,
            "error: no space left on the disk: free some",
        ),
        (
            ModuleNotFoundError("x", name="torch.nn"),
            2,
            "'torch', which is not installed: pip install 'orca-ray[sweep",
        ),
        (
            ModuleNotFoundError("x", name="orca_ray.nonsense"),
            70,
            "error: unexpected ModuleNotFoundError",
        ),
        (OUR_FILE, 70, "error: unexpected FileNotFoundError"),
        (OSError(errno.EBADF, "Bad file descriptor"), 70, "error: unexpected OSError"),
        (KeyError("x"), 70, "error: unexpected KeyError"),
    ],
)
def test_the_message_and_exit_code_of_an_error(
    end_by: EndBy,
    own_cache: Path,
    cause: BaseException | Callable[..., Any],
    code: int,
    expected: str,
) -> None:
    ending = end_by(cause)
    assert ending.code == code
    assert expected in ending.err
    assert "Traceback" not in ending.err
    assert ("This is a defect of orca-ray; the traceback is in" in ending.err) == (
        code == 70
    )
    if code != 130:
        assert "Traceback" in (own_cache / "logs" / "orca-sweep.log").read_text()


def test_a_log_that_cannot_be_written_does_not_hide_the_error(
    end_by: EndBy, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("file").write_text("")
    monkeypatch.setenv("ORCA_RAY_HOME", "file")
    ending = end_by(RuntimeError("boom"))
    assert ending.code == 70
    assert "RuntimeError: boom" in ending.err
    assert "Traceback" in ending.err


def test_warnings_reach_stderr_and_details_the_log_alone(
    command: Command, monkeypatch: pytest.MonkeyPatch, own_cache: Path
) -> None:
    def chatty(*_: object, **__: object) -> None:
        logging.getLogger("orca_ray.data.packages").warning("the hash differs")
        logging.getLogger("orca_ray.data.packages").info("fetched")
        raise UserError("stop")

    monkeypatch.setattr(loading, "load_spec", chatty)
    ending = command("benchmark", "pocket")
    assert (
        ending.err == "WARNING orca_ray.data.packages: the hash differs\nerror: stop\n"
    )
    log = (own_cache / "logs" / "orca-sweep.log").read_text()
    assert "the hash differs" in log
    assert "fetched" in log


def test_a_long_message_is_cut(command: Command) -> None:
    error = command.fail("tasks", "pocket" * 20_000)
    assert len(error) < 2000
    assert "…" in error
    assert len(command.fail("plan", "x.yaml", "--tasks", "a\n" * 50_000)) < 25_000


@pytest.mark.parametrize(("given", "shown"), MISTAKES["secrets"].items())
def test_a_password_is_not_echoed_wherever_it_is_given(
    command: Command,
    given: str,
    shown: str,
    own_cache: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("requests.head", mock.Mock(side_effect=requests.Timeout))
    ending = command(*given.replace("LONG", "pa55" * 99).split())
    assert ending.code == 2
    assert shown in ending.err
    assert "pa55" not in ending.err + ending.out
    log = own_cache / "logs" / "orca-sweep.log"
    assert not log.exists() or "pa55" not in log.read_text()


TABLE = "a,p,y\n" + "".join(f"{n},{n // 4},{'uv'[n % 2]}\n" for n in range(60))


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ("--group ''", "--group '' names nothing"),
        ("--licence ' '", "--licence ' ' names nothing"),
        ("--methods nope", "unknown method 'nope'"),
        ("--methods linear --minutes inf", "--minutes inf: expected a number"),
        ("--methods nft --body ../../etc", "unknown body '../../etc'"),
        ("--methods linear --loss mse", "--loss mse does not fit targets of kind"),
        ("--columns y=drop", "column 'y' is dropped, and is also the target"),
        ("--results s3://b[/x", "s3://b[/x: expected a path or URI"),
        ("--results t.csv", "t.csv"),
        ("--staging ''", "--staging '' is empty"),
    ],
)
def test_a_dry_run_of_adapt_refuses_what_the_run_would(
    command: Command, arguments: str, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    Path("t.csv").write_text(TABLE)
    options = ["--target", "y", "--executor", "inline", "--dry-run"]
    message = command.fail("adapt", "t.csv", *options, *shlex.split(arguments))
    assert expected in message


@pytest.mark.parametrize("place", ["pipe", "/proc/self/new", "/dev/null", "link"])
def test_special_files_are_refused_before_they_are_opened(
    command: Command, place: str, own_cache: Path
) -> None:
    os.mkfifo("pipe")
    Path("link").symlink_to("pipe")
    error = command.fail("data", "prepare", "pocket/digits", "--raw", place)
    assert "is a named pipe" in error or "is inside /" in error
    ending = command("leaderboard", "pocket", "--results", place)
    assert ending.code == 2
    assert ending.out == ""
    assert place in ending.err
    assert sorted(path.name for path in Path().iterdir()) == ["link", "pipe"]
    assert not list(own_cache.rglob("*.npy"))


@pytest.fixture
def inputs() -> dict[Path, bytes]:
    """Make files that commands read, and return the contents of all files."""
    store = ResultsStore("store", create=True)
    store.append([make_record(benchmark="odd", task="odd/x", sweep="odd/s")])
    ResultsStore("st ore", create=True)
    Path("model").mkdir()
    Path("data").mkdir()
    Path("data.csv").write_text("x\n1\n")
    Path("odd.html").write_text("<!doctype html>\n<title>mine</title>")
    os.mkfifo("pipe")
    return read_files()


def read_files() -> dict[Path, bytes]:
    """Return the contents of the files in the working directory."""
    paths = [path for path in Path().rglob("*") if path.is_file()]
    return {path: path.read_bytes() for path in paths}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (
            "leaderboard odd --results store --out store/new.md",
            "it lies in store, which is read by this command",
        ),
        (
            "results export odd --results store --out store/new.csv",
            "it lies in store, which is read by this command",
        ),
        (
            "predict model data.csv --out data.csv",
            "it is read by this command",
        ),
        (
            "predict model data.csv --out model/p.csv",
            "it lies in model, which is read by this command",
        ),
        ("predict model data.csv --out no/where.csv", "is no directory"),
        (
            "export model --to onnx --out model/model.safetensors",
            "it lies in model, which is read by this command",
        ),
        (
            "adapt data --out data/model",
            "it lies in data, which is read by this command",
        ),
        ("export model --to onnx --out pipe", "pipe is a named pipe"),
        ("export model --to onnx --out /dev/null", "/dev/null is inside /dev"),
        (
            "site store/site --results store",
            "it lies in store, which is read",
        ),
        (
            "leaderboard odd --results store --format html --open",
            "odd.html, where the page is written, has other content: move it, or give"
            " --out FILE",
        ),
    ],
)
def test_an_output_is_nothing_that_the_command_reads(
    command: Command, inputs: dict[Path, bytes], line: str, message: str
) -> None:
    assert message in command.fail(*line.split())
    assert read_files() == inputs


def test_an_output_does_not_lie_in_a_store_that_is_named_by_its_uri(
    command: Command, inputs: dict[Path, bytes]
) -> None:
    uri = Path("st ore").absolute().as_uri()
    options = ("--results", uri, "--out", "st ore/b.md")
    assert "it lies in file://" in command.fail("leaderboard", "odd", *options)
    assert read_files() == inputs


def test_no_file_takes_the_place_of_a_device(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("pipe")
    (tmp_path / "new").write_text("new")
    for name in ("pipe", "link"):
        with pytest.raises(UserError, match=f"{name} is a named pipe"):
            cache.write_bytes(tmp_path / name, b"")
        with pytest.raises(UserError, match=f"{name} is a named pipe"):
            cache.replace_file(tmp_path / "new", tmp_path / name)
    assert {path.name for path in tmp_path.iterdir()} >= {"link", "new", "pipe"}
    assert (tmp_path / "pipe").is_fifo()


ODD = "a\x1b[2Jb\x9bc\u202ed\udcff"


def test_no_name_reaches_the_terminal_as_a_control_sequence(
    command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    missing = command("leaderboard", "pocket", "--results", "no\x1b[2Jwhere")
    say(ODD)
    note(ODD)
    show(("name",), [(ODD + "\n",)])
    printed = capsys.readouterr()
    emit_json({"name": ODD, "text": "×\n"})
    document = capsys.readouterr().out
    assert json.loads(document) == {"name": ODD, "text": "×\n"}
    for text in (missing.err, printed.out, printed.err, document):
        assert text
        assert all(line.isprintable() for line in text.split("\n"))


def test_printable_keeps_ordinary_text() -> None:
    assert printable("naïve × 日本 –") == "naïve × 日本 –"
    assert printable("a\nb\tc") == r"a\nb\tc"
    netloc = "netloc 'KEY:SECRET@ⓗost' contains invalid characters"
    assert printable(netloc) == netloc.replace("KEY:SECRET", "***")
    assert printable("a\nb\tc", keep="\n") == "a\nb" + r"\tc"
    assert str(unknown_name("task", "a\x1bb", ["c\x1bd"])).isprintable()


@pytest.mark.parametrize("name", ["refine.opton_7", "refine.lr", "option_7"])
def test_an_unknown_name_among_many_is_answered_with_its_group(name: str) -> None:
    options = [f"refine.option_{number}" for number in range(40)]
    others = [f"group{number}/task" for number in range(200)]
    message = str(unknown_name("name", name, [*options, *others, "plain"]))
    listed = message.partition("Allowed: ")[2].removesuffix(".").split(", ")
    groups = [f"group{number}/*" for number in range(200)]
    assert sorted(listed) == sorted([*options, *groups, "plain"])


def test_of_many_names_without_groups_a_message_lists_few() -> None:
    names = [f"column_{number}" for number in range(500)]
    message = str(unknown_name("column of --group", "colum_7", names))
    assert "Did you mean 'column_7'?" in message
    assert message.endswith(" and 490 others.")
    assert len(message) < 250


def test_a_directory_of_the_user_may_be_new(tmp_path: Path) -> None:
    for path in (
        tmp_path,
        tmp_path / "new" / "deep",
        Path("/dev/shm/new"),
        Path("relative"),
    ):
        check_special(path, "--out")
        assert check_directory(path, "--out") == path


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("file", "is a file; give a directory"),
        ("file/below", "file is a file; give a directory"),
        ("broken", "is a broken link; give a directory"),
    ],
)
def test_a_file_or_a_broken_link_is_no_directory(path: str, message: str) -> None:
    Path("file").write_bytes(b"content")
    Path("broken").symlink_to("nowhere")
    with pytest.raises(UserError, match=message):
        check_directory(Path(path), "--out")


def test_a_group_without_a_command_lists_its_commands(command: Command) -> None:
    assert "prepare" in command("data").out
