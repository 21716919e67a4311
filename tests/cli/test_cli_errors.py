"""Every mistake ends in one message and its exit code; tracebacks go to the log."""

import logging
from pathlib import Path

import pytest

from orca_ray.errors import UserError
from orca_ray.sweep.plan import loading
from tests.cli.conftest import Command, EndBy


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["leaderbord", "pocket"], "'leaderboard'"),
        (["data", "fetsh"], "'fetch'"),
        (["benchmark", "pocket", "--budgt", "quick"], "'--budget'"),
        (["leaderboard", "pocket", "--resluts", "x"], "'--results'"),
        (["benchmark", "pocket", "--executor", "rai"], "'inline'"),
        (["leaderboard", "pocket", "--protocol", "papr"], "'paper'"),
        (["benchmark", "pocket", "--tasks", ""], "--tasks"),
        (["plan", "pocket", "--methods", ","], "--methods"),
        (["benchmark", "pocket", "--trials", "0"], "--trials"),
        (["benchmark", "pocket", "--seeds", "many"], "--seeds"),
        (["benchmark"], "NAME"),
        (["tasks", "pockett"], "'pocket'"),
        (["data", "fetch", "pocket/digitz"], "'pocket/digits'"),
        (["data", "prepare", "poket"], "'pocket'"),
    ],
)
def test_a_misspelt_word_is_named_with_the_nearest(command: Command, arguments: list[str], expected: str) -> None:
    ending = command(*arguments)
    assert ending.code == 2
    assert ending.err.startswith("error: ")
    assert expected in ending.err
    assert "Traceback" not in ending.err
    assert "Value error" not in ending.err
    assert ending.out == ""


def test_a_user_error_is_one_message_and_its_traceback_is_in_the_log(end_by: EndBy, own_cache: Path) -> None:
    ending = end_by(UserError("the file is truncated"))
    assert (ending.code, ending.err) == (2, "error: the file is truncated\n")
    log = (own_cache / "logs" / "orca-sweep.log").read_text()
    assert "Traceback" in log
    assert "the file is truncated" in log


def test_a_path_that_the_system_refuses_is_named(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    ending = command("data", "prepare", "pocket/digits", "--raw", "x" * 300)
    assert (ending.code, ending.err) == (2, f"error: cannot use {Path.cwd() / ('x' * 300)}: File name too long\n")
    monkeypatch.setenv("ORCA_RAY_HOME", "~nobody-of-this-name/x")
    ending = command("data", "list")
    assert ending.code == 2
    assert ending.err.startswith("error: ORCA_RAY_HOME is '~nobody-of-this-name/x', and there is no such home")


def test_a_missing_heavy_package_names_the_extra(end_by: EndBy) -> None:
    ending = end_by(ModuleNotFoundError("No module named 'torch.nn'", name="torch.nn"))
    assert ending.code == 2
    assert "'torch'" in ending.err
    assert "pip install 'orca-ray[sweep]'" in ending.err


def test_a_defect_is_called_one_and_is_not_the_users(end_by: EndBy, own_cache: Path) -> None:
    ending = end_by(ModuleNotFoundError("No module named 'orca_ray.nonsense'", name="orca_ray.nonsense"))
    assert ending.code == 70
    assert "defect of orca-ray" in ending.err
    assert "orca_ray.nonsense" in (own_cache / "logs" / "orca-sweep.log").read_text()


def test_a_log_that_cannot_be_written_does_not_hide_the_error(
    end_by: EndBy, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("ORCA_RAY_HOME", str(tmp_path / "file"))

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
    assert ending.err == "WARNING orca_ray.data.packages: the hash differs\nerror: stop\n"
    log = (own_cache / "logs" / "orca-sweep.log").read_text()
    assert "the hash differs" in log
    assert "fetched" in log


def test_a_long_message_is_cut(command: Command) -> None:
    ending = command("tasks", "pocket" * 20_000)
    assert ending.code == 2
    assert len(ending.err) < 2000
    assert "…" in ending.err
    assert len(command("plan", "x.yaml", "--tasks", "a\n" * 50_000).err) < 25_000


def test_ctrl_c_exits_with_130(end_by: EndBy) -> None:
    ending = end_by(KeyboardInterrupt())
    assert (ending.code, ending.err) == (130, "interrupted\n")


def test_the_leaderboard_without_results_says_what_to_run(command: Command, tmp_path: Path) -> None:
    ending = command("leaderboard", "pocket", "--results", str(tmp_path / "nowhere"))
    assert ending.code == 2
    assert "orca-sweep benchmark pocket" in ending.err
    assert not (tmp_path / "nowhere").exists()


def test_a_directory_that_is_no_results_store_is_refused(command: Command, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / "thesis.tex").write_text("years of work")
    ending = command("leaderboard", "pocket", "--results", str(other))
    assert ending.code == 2
    assert [path.name for path in other.iterdir()] == ["thesis.tex"]


def test_an_unknown_body_is_named_with_the_nearest(command: Command) -> None:
    ending = command("bodies", "minilm-l7")
    assert ending.code == 2
    assert "'minilm-l6'" in ending.err
