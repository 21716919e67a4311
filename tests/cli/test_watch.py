"""``status``, ``logs``, ``stop``, ``pause``, ``retry`` and ``cancel`` against a running sweep, from processes without
Ray, torch and Optuna."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from orca_ray.cli import submit
from orca_ray.errors import UserError
from orca_ray.results.record import Status
from orca_ray.results.store import ResultsStore
from tests.cli.conftest import Command
from tests.cli.test_cli_light import without_the_extra
from tests.results.factories import make_record
from tests.sweep.execution.test_control import slow_sweep

SWEEP = "fake/full"
Running = Callable[[float], "subprocess.Popen[str]"]


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "results"


@pytest.fixture
def running(store: Path) -> Iterator[Running]:
    processes = []

    def start(seconds: float) -> "subprocess.Popen[str]":
        processes.append(slow_sweep(store, seconds))
        return processes[-1]

    yield start
    for process in processes:
        process.kill()
        process.wait()


def ask(store: Path, *arguments: str) -> str:
    done = without_the_extra(*arguments, "--results", str(store))
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def until(store: Path, true: Callable[[Any], bool]) -> Any:
    """Return the state of the sweep as soon as it has a property."""
    deadline = time.monotonic() + 100
    while time.monotonic() < deadline:
        done = without_the_extra("status", "fake", "--json", "--results", str(store))
        if done.returncode == 0 and true(found := json.loads(done.stdout)):
            return found
        assert done.returncode in (0, 2), done.stderr  # 2: no store, or no such sweep, yet
    raise AssertionError(done.stdout + done.stderr)


@pytest.mark.slow
def test_a_running_sweep_is_watched_paused_and_stopped_and_goes_on(store: Path, running: Running) -> None:
    (store.parent / "mended").touch()
    process = running(0.6)  # on a busy machine, the commands below take as long as 24 trials of six short epochs
    found = until(store, lambda found: found["running"] and found["running"][0]["epoch"] >= 2)
    assert (found["state"], found["holder"]["pid"], found["planned"]) == ("running", process.pid, 24)
    assert found["nodes"] == {"here": 1}
    assert found["running"][0]["best"] is not None
    text = ask(store, "status", SWEEP)
    assert f"running: process {process.pid} on " in text
    key = until(store, lambda found: bool(found["running"]))["running"][0]["key"]
    ask(store, "pause", "fake")
    until(store, lambda found: found["state"] == "paused" and not found["running"])
    ask(store, "pause", "fake", "--off")
    until(store, lambda found: found["state"] == "running" and found["running"])
    assert "epoch 1 of seed" in ask(store, "logs", key[:12])
    assert "asked process" in ask(store, "stop", "fake")
    assert process.wait(timeout=60) == 130
    done = until(store, lambda found: found["state"] == "stopped")["done"]
    assert 0 < done < 24
    again = running(0.0)
    assert again.wait(timeout=60) == 0
    assert until(store, lambda found: found["state"] == "finished")["done"] == 24
    assert "finished; no driver runs" in ask(store, "status", SWEEP)


@pytest.mark.slow
def test_a_trial_is_cancelled_and_failed_ones_are_retried(store: Path, running: Running) -> None:
    process = running(0.2)
    key = until(store, lambda found: bool(found["running"]))["running"][0]["key"]
    done = without_the_extra("cancel", key[:10], "--results", str(store))
    if done.returncode == 0:  # else the trial ended first
        found = until(store, lambda found: all(trial["key"] != key for trial in found["running"]))
    process.wait(timeout=120)
    records = ResultsStore(store).load(SWEEP)
    assert done.returncode == 2 or records[key].status in (Status.CANCELLED, Status.COMPLETED)
    failed = [record for record in records.values() if record.status is Status.FAILED_USER]
    assert failed
    log = ask(store, "logs", failed[0].trial_key)
    assert "Traceback (most recent call last):" in log
    assert "UserError: the data are spoilt" in log
    number = sum(record.status.failed for record in records.values())
    assert f"{number} failed trials will run again (no driver runs" in ask(store, "retry", SWEEP)
    found = until(store, lambda found: found["state"] == "finished")
    assert found["failures"]["failed_user"] == len(failed)
    (store.parent / "mended").touch()
    assert running(0.0).wait(timeout=60) == 0
    assert not until(store, lambda found: found["state"] == "finished")["failures"]


@pytest.mark.slow
def test_a_second_driver_is_refused_and_a_killed_one_succeeded(store: Path, running: Running) -> None:
    first = running(0.3)
    until(store, lambda found: bool(found["running"]))
    second = running(0.3)
    error = second.communicate(timeout=60)[1]
    assert second.returncode == 2
    assert f"another driver runs fake/full in this store (process {first.pid} on " in error
    first.kill()
    first.wait()
    assert until(store, lambda found: found["state"] == "dead")["holder"]["pid"] == first.pid
    assert "no driver runs: the last one was killed" in ask(store, "status", "fake")
    begin = time.monotonic()
    third = running(0.3)
    until(store, lambda found: found["state"] == "running" and found["holder"]["pid"] == third.pid)
    assert time.monotonic() - begin < 60


@pytest.mark.slow
def test_a_suspended_driver_ends_when_it_finds_another_in_its_place(store: Path, running: Running) -> None:
    first = running(0.1)
    until(store, lambda found: bool(found["running"]))
    first.send_signal(signal.SIGSTOP)
    second = running(0.1)
    until(store, lambda found: found["state"] == "running" and found["holder"]["pid"] == second.pid)
    first.send_signal(signal.SIGCONT)
    error = first.communicate(timeout=60)[1]
    assert first.returncode == 2
    assert f"process {second.pid} on " in error
    assert "has taken over: this one ends" in error
    assert second.wait(timeout=120) == 1
    found = until(store, lambda found: found["state"] == "finished")
    assert (found["done"], found["failures"]) == (24, {"failed_user": 4})


@pytest.mark.slow
def test_a_log_is_followed_to_its_end(store: Path, running: Running) -> None:
    running(0.5)
    key = until(store, lambda found: bool(found["running"]))["running"][0]["key"]
    log = ask(store, "logs", key, "--follow")
    assert log.count("\n") == 6
    assert "epoch 6 of seed" in log


def test_a_store_of_an_older_version_has_a_status(command: Command, store: Path) -> None:
    lost = make_record("b", status=Status.LOST, test_score=None, validation_score=None)
    ResultsStore(store, create=True).append([make_record("a", validation_score=0.125), lost])
    ending = command("status", "pocket/quick", "--results", str(store))
    assert ending.code == 0
    assert "pocket/quick: 2/? trials, 0 running, 1 lost" in ending.out
    assert "0.1250" in ending.out
    assert "no driver runs" in ending.out
    assert command("logs", "a", "--results", str(store)).out.startswith("trial a of pocket/quick has no log")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["status", "pocket/quik"], "Did you mean 'pocket/quick'?"),
        (["stop", "pocket"], "no driver runs pocket/quick"),
        (["pause", "pocket/quick"], "no driver runs pocket/quick"),
        (["cancel", "a"], "no trial with the key 'a'"),
        (["logs", "z"], "no trial with the key 'z'"),
        (["logs", ""], "no trial with the key ''"),
        (["retry", "pocket/quick"], "has no failed trials"),
    ],
)
def test_what_does_not_exist_is_named(command: Command, store: Path, arguments: list[str], message: str) -> None:
    ResultsStore(store, create=True).append([make_record("a")])
    ending = command(*arguments, "--results", str(store))
    assert ending.code == 2
    assert message in ending.err


def test_a_store_that_does_not_exist_is_named_without_its_credentials(command: Command) -> None:
    ending = command("status", "pocket", "--results", "s3://AKIA:pa55@bucket/run?no_such_option=1&secret_key=pa55word")
    assert ending.code == 2
    assert "s3://bucket/run" in ending.err
    assert "pa55" not in ending.err + ending.out


class TestSubmit:
    @pytest.fixture
    def checkout(self) -> Path:
        for command in (["init", "-q"], ["add", "-A"]):
            subprocess.run(["git", *command], check=True)
        return Path.cwd()

    def track(self, name: str, content: str = "x") -> None:
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_text(content)
        subprocess.run(["git", "add", name], check=True)

    def test_tracked_files_alone_are_submitted(
        self, command: Command, checkout: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        submission = pytest.importorskip("ray.job_submission")
        seen: dict[str, Any] = {}

        class Client:
            def __init__(self, address: str | None) -> None:
                seen["address"] = address

            def submit_job(self, *, entrypoint: str, runtime_env: dict[str, str]) -> str:
                package = Path(runtime_env["working_dir"])
                seen["files"] = sorted(str(path.relative_to(package)) for path in package.rglob("*") if path.is_file())
                seen["entrypoint"] = entrypoint
                return "raysubmit_1"

        monkeypatch.setattr(submission, "JobSubmissionClient", Client)
        for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN_PATH"):
            monkeypatch.setenv(name, "")
        self.track("sweeps/mine.yaml")
        self.track("deleted.txt")
        Path("deleted.txt").unlink()
        Path("token").write_text("0" * 32)
        ending = command(
            "submit", "--address", "http://head:8265", "--token-path", "token", "--", "run", "sweeps/mine.yaml",
            "--trials", "2",
        )  # fmt: skip
        assert (ending.code, ending.err) == (0, "")
        assert seen == {
            "address": "http://head:8265", "files": ["sweeps/mine.yaml"],
            "entrypoint": "orca-sweep run sweeps/mine.yaml --trials 2",
        }  # fmt: skip
        assert os.environ["RAY_AUTH_TOKEN_PATH"] == str(checkout / "token")
        assert ending.out.splitlines()[1] == "follow it: ray job logs --address http://head:8265 --follow raysubmit_1"

    def test_sizes(self, checkout: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self.track("large.bin", "x" * 2000)
        files = submit.tracked_files(checkout)
        with pytest.raises(UserError, match=r"have 2.0 KiB, more than the 1.0 KiB that Ray takes.*large.bin"):
            submit.check_size(files, 1024)
        monkeypatch.setattr(submit, "WARN_BYTES", 1000)
        submit.check_size(files, 10_000)
        assert "warning: every node downloads 2.0 KiB" in capsys.readouterr().err

    def test_outside_of_a_checkout(self, tmp_path: Path) -> None:
        with pytest.raises(UserError, match="is not in a git checkout"):
            submit.tracked_files(tmp_path)
