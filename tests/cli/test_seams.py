"""Bad input at the seams: exit code 2 and one message, nothing started, nothing left, nothing sent to the terminal."""

import errno
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from orca_ray.cli.output import emit_json, note, say, show
from orca_ray.errors import UserError, printable, unknown_name
from orca_ray.paths import check_directory, check_special, new_directories_removed, open_regular
from orca_ray.results.store import ResultsStore
from orca_ray.results.tables import RECORDS, encode, from_rows
from orca_ray.sweep.plan import loading
from tests.cli.conftest import Command, EndBy
from tests.results.factories import files_of, make_record


def _nested(depth: int) -> Any:
    return _nested(depth + 1)


@pytest.mark.parametrize(
    ("cause", "told"),
    [
        (lambda: _nested(0), "the input is nested too deeply (RecursionError"),
        (lambda: json.loads("[" * 100_000), "the input is nested too deeply (RecursionError"),
        (lambda: int("9" * 5000), "the input holds a number that is too large (ValueError"),
        (lambda: float(10**400), "the input holds a number that is too large (OverflowError"),
        (lambda: b"\xff".decode(), "the input holds text that is not valid UTF-8 (UnicodeDecodeError"),
        (lambda: os.stat("a\0b"), "a path in the input holds a null character (ValueError"),
        (lambda: bytearray(2**62), "not enough memory"),
    ],
)
def test_limits_reached_by_input_are_the_users(
    command: Command, monkeypatch: pytest.MonkeyPatch, own_cache: Path, cause: Any, told: str
) -> None:
    monkeypatch.setattr(loading, "load_spec", lambda *_, **__: cause())
    ending = command("benchmark", "pocket")
    assert ending.code == 2
    assert ending.err.startswith(f"error: {told}")
    assert "Traceback" not in ending.err
    assert "Traceback" in (own_cache / "logs" / "orca-sweep.log").read_text()


def test_a_failed_allocation_of_torch_is_told_as_memory(end_by: EndBy) -> None:
    ending = end_by(RuntimeError("[enforce fail at alloc_cpu.cpp:119] . DefaultCPUAllocator: can't allocate memory"))
    assert ending.code == 2
    assert ending.err.startswith("error: not enough memory: free some, or give smaller data")


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (FileNotFoundError(errno.ENOENT, "No such file or directory", "/data/x"), "cannot use /data/x: No such file"),
        (IsADirectoryError(errno.EISDIR, "Is a directory", b"/data/\xff"), r"cannot use /data/\udcff: Is a directory"),
        (OSError(errno.ENOSPC, "No space left on device"), "no space left on the disk: free some"),
    ],
)
def test_what_the_system_refuses_is_the_users(end_by: EndBy, error: OSError, told: str) -> None:
    ending = end_by(error)
    assert ending.code == 2
    assert ending.err.startswith(f"error: {told}")


@pytest.mark.parametrize(
    "error",
    [
        FileNotFoundError(errno.ENOENT, "No such file", str(Path(loading.__file__).with_name("gone.csv"))),
        OSError(errno.EBADF, "Bad file descriptor"),
        KeyError("x"),
        RuntimeError("shapes differ"),
    ],
)
def test_errors_of_our_own_are_not_the_users(end_by: EndBy, error: Exception) -> None:
    ending = end_by(error)
    assert ending.code == 70
    assert f"unexpected {type(error).__name__}" in ending.err


def test_a_deleted_working_directory_is_told(command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    ending = command("leaderboard", "pocket")
    monkeypatch.chdir(tmp_path)
    assert ending.code == 2
    assert "the working directory no longer exists" in ending.err


@pytest.mark.parametrize("address", ["", "nonsense", "host:", "host:0", "host:99999", "host:port", ":6379"])
def test_a_malformed_address_is_refused_at_once(command: Command, address: str) -> None:
    for name in ("benchmark", "plan"):
        ending = command(name, "pocket", "--address", address)
        assert (ending.code, ending.out) == (2, "")
        assert "is not the address of a Ray cluster; give HOST:PORT, or auto" in ending.err
    assert not list(Path().iterdir())


@pytest.mark.parametrize(("option", "number"), [("--seeds", "20000"), ("--trials", "1" * 30), ("--seeds", "-1")])
def test_numbers_beyond_the_limit_are_refused(command: Command, option: str, number: str) -> None:
    ending = command("benchmark", "pocket", option, number)
    assert ending.code == 2
    assert option in ending.err
    assert not list(Path().iterdir())


def test_a_seed_beyond_64_bits_is_refused(command: Command, own_cache: Path) -> None:
    ending = command("data", "generate", "pdebench/advection", "-n", "1", "--seed", str(2**64))
    assert ending.code == 2
    assert "9223372036854775807" in ending.err
    assert not (own_cache / "raw").exists()


@pytest.mark.parametrize("option", [["prepare", "pocket/digits", "--out"], ["prepare", "pocket/digits", "--raw"],
                                    ["generate", "pdebench/advection", "-n", "1", "--out"]])  # fmt: skip
@pytest.mark.parametrize("place", ["pipe", "/proc/self/new", "/dev/null", "link"])
def test_special_files_are_refused_before_they_are_opened(
    command: Command, option: list[str], place: str, own_cache: Path
) -> None:
    os.mkfifo("pipe")
    Path("link").symlink_to("pipe")
    ending = command("data", *option, place)
    assert ending.code == 2
    assert "is a named pipe" in ending.err or "is inside /" in ending.err
    assert sorted(path.name for path in Path().iterdir()) == ["link", "pipe"]
    assert not list(own_cache.rglob("*.npy"))


@pytest.mark.slow
@pytest.mark.parametrize("place", ["pipe", "/proc/self/new", "/dev/null", "file"])
def test_a_special_file_is_no_results_store(command: Command, place: str) -> None:
    os.mkfifo("pipe")
    Path("file").write_text("")
    for arguments in (["leaderboard", "pocket"], ["benchmark", "pocket"], ["plan", "pocket"]):
        ending = command(*arguments, "--results", place)
        assert (ending.code, ending.out) == (2, "")
        assert place in ending.err
    assert command("doctor", "--results", place).code == 2


def test_a_failed_generate_leaves_nothing(command: Command, monkeypatch: pytest.MonkeyPatch, own_cache: Path) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(total=9, used=9, free=0))
    for arguments in ([], ["--out", "new/deep"]):
        ending = command("data", "generate", "pdebench/advection", "-n", "1", *arguments)
        assert ending.code == 2
        assert ending.err.startswith("error: no space: ")
    assert not Path("new").exists()
    assert not (own_cache / "raw").exists()


def test_an_invalid_row_of_a_store_is_named(command: Command) -> None:
    store = ResultsStore("store", create=True)
    store.append([make_record()])
    (path,) = files_of(store)
    path.write_bytes(encode(from_rows([make_record().to_row() | {"status": "fine\x1b[2J"}], RECORDS)))
    ending = command("leaderboard", "pocket", "--results", "store")
    assert (ending.code, ending.out) == (2, "")
    told = "'fine\\x1b[2J'"
    assert told in ending.err
    assert path.name in ending.err
    store.append([make_record("other", test_score=0.125)])
    ending = command("leaderboard", "pocket", "--results", "store")
    assert ending.code == 0
    assert "0.1250" in ending.out
    assert told in ending.out.replace("\n  ", " ")


ODD = "a\x1b[2Jb\x9bc\u202ed\udcff"


def test_no_name_reaches_the_terminal_as_a_control_sequence(
    command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    store = ResultsStore("store", create=True)
    store.append([make_record(benchmark="odd", task="odd/x\x1b[2Jy\nz", sweep="odd/s\x1b[1m")])
    board = command("leaderboard", "odd", "--results", "store")
    assert r"x\x1b[2Jy\nz" in board.out
    assert r"odd/s\x1b[1m" in board.out
    missing = command("leaderboard", "pocket", "--results", "no\x1b[2Jwhere")
    say(ODD)
    note(ODD)
    show(("name",), [(ODD + "\n",)])
    printed = capsys.readouterr()
    for text in (board.out, missing.err, printed.out, printed.err):
        assert text
        assert all(line.isprintable() for line in text.split("\n"))


def test_json_escapes_what_a_terminal_would_act_on(capsys: pytest.CaptureFixture[str]) -> None:
    emit_json({"name": ODD, "text": "×\n"})
    text = capsys.readouterr().out
    assert all(line.isprintable() for line in text.split("\n"))
    assert json.loads(text) == {"name": ODD, "text": "×\n"}


def test_printable_keeps_ordinary_text() -> None:
    assert printable("naïve × 日本 –") == "naïve × 日本 –"
    assert printable("a\nb\tc") == r"a\nb\tc"
    assert printable("a\nb\tc", keep="\n") == "a\nb" + r"\tc"
    assert str(unknown_name("task", "a\x1bb", ["c\x1bd"])).isprintable()


def test_a_terminal_without_the_characters_gets_their_codes(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "ORCA_RAY_HOME": str(tmp_path)}
    arguments = [sys.executable, "-m", "orca_ray.cli.main", "tasks", "pocket"]
    done = subprocess.run(arguments, capture_output=True, text=True, env=environment, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    assert r"1\xd7427" in done.stdout


class TestPaths:
    def test_ordinary_paths_pass(self, tmp_path: Path) -> None:
        for path in (tmp_path, tmp_path / "new" / "deep", Path("/dev/shm/new"), Path("relative")):
            check_special(path, "--out")
            assert check_directory(path, "--out") == path

    def test_a_file_in_the_way_of_a_directory(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        (tmp_path / "broken").symlink_to("nowhere")
        for path, told in (
            (tmp_path / "file", "is a file; give a directory"),
            (tmp_path / "file" / "below", f"{tmp_path / 'file'} is a file; give a directory"),
            (tmp_path / "broken", "is a broken link; give a directory"),
        ):
            with pytest.raises(UserError, match=told):
                check_directory(path, "--out")

    def test_only_regular_files_are_opened(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_bytes(b"content")
        with open_regular(tmp_path / "file") as stream:
            assert stream.read() == b"content"
        os.mkfifo(tmp_path / "pipe")
        for path in (tmp_path, tmp_path / "pipe", Path("/dev/zero")):
            with pytest.raises(UserError, match=r"expected a regular file, found .*remove it"):
                open_regular(path)
        with pytest.raises(FileNotFoundError):
            open_regular(tmp_path / "nowhere")

    @pytest.mark.parametrize("kept", [True, False])
    def test_new_directories_go_after_a_failure_unless_they_hold_something(self, tmp_path: Path, kept: bool) -> None:
        target = tmp_path / "new" / "deep"

        def interrupted() -> None:
            (target / ".locks").mkdir(parents=True)
            (target / ".locks" / "x.lock").touch()
            if kept:
                (target / "batch.npy").write_bytes(b"work")
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt), new_directories_removed(target):
            interrupted()
        assert (tmp_path / "new").exists() is kept
        assert not (target / ".locks").exists()

    def test_directories_that_were_there_stay(self, tmp_path: Path) -> None:
        with pytest.raises(UserError), new_directories_removed(tmp_path):
            raise UserError("stop")
        assert tmp_path.exists()
