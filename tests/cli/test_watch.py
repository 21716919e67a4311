"""``status``, ``logs``, ``stop``, ``pause``, ``retry`` and ``cancel`` against a running sweep, and ``submit``."""

import os
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from orca_ray.cli import watch
from orca_ray.errors import UserError
from orca_ray.results.record import Status
from orca_ray.results.store import ResultsStore
from tests.cli.conftest import Command
from tests.results.factories import make_record
from tests.sweep.slow_sweep import slow_sweep

SWEEP = "fake/full"


class Sweep:
    """Processes that run a slow sweep of 24 trials in one store, and commands that ask for its state."""

    def __init__(self, store: Path, command: Command) -> None:
        self.store, self._command = store, command
        self.processes: list[subprocess.Popen[str]] = []

    def start(self, seconds: float) -> "subprocess.Popen[str]":
        """Start a driver whose epochs take some seconds."""
        self.processes.append(slow_sweep(self.store, seconds))
        return self.processes[-1]

    def ask(self, *arguments: str) -> str:
        ending = self._command(*arguments, "--results", str(self.store))
        assert (ending.code, ending.err) == (0, "")
        return ending.out

    def until(self, true: Callable[[Any], bool]) -> Any:
        """Return the state of the sweep as soon as it has a property."""
        deadline = time.monotonic() + 100
        while time.monotonic() < deadline:
            ending = self._command("status", "fake", "--json", "--results", str(self.store))
            if ending.code == 0 and true(found := ending.json):
                return found
            assert ending.code in (0, 2), ending.err  # 2: no store, or no such sweep, yet
            time.sleep(0.05)
        raise AssertionError(ending.out + ending.err)

    def running_key(self) -> str:
        return str(self.until(lambda found: bool(found["running"]))["running"][0]["key"])


@pytest.fixture
def sweep(tmp_path: Path, command: Command) -> Iterator[Sweep]:
    started = Sweep(tmp_path / "results", command)
    yield started
    for process in started.processes:
        process.kill()
        process.wait()


@pytest.mark.slow
def test_a_sweep_is_watched_paused_stopped_killed_and_continued(sweep: Sweep) -> None:
    (sweep.store.parent / "mended").touch()
    first = sweep.start(0.2)
    found = sweep.until(lambda found: found["running"] and found["running"][0]["epoch"] >= 2)
    assert (found["state"], found["holder"]["pid"], found["planned"]) == ("running", first.pid, 24)
    assert found["nodes"] == {"here": 1}
    assert found["running"][0]["best"] is not None
    assert f"running: process {first.pid} on " in sweep.ask("status", SWEEP)
    second = sweep.start(0.2)
    assert f"another driver runs fake/full in this store (process {first.pid} on " in second.communicate(timeout=60)[1]
    assert second.returncode == 2
    sweep.ask("pause", "fake")
    sweep.until(lambda found: found["state"] == "paused" and not found["running"])
    sweep.ask("pause", "fake", "--off")
    log = sweep.ask("logs", sweep.running_key()[:12], "--follow")
    assert log.count("\n") == 6
    assert "epoch 6 of seed" in log
    assert "asked process" in sweep.ask("stop", "fake")
    assert first.wait(timeout=60) == 130
    assert 0 < sweep.until(lambda found: found["state"] == "stopped")["done"] < 24
    third = sweep.start(0.2)
    sweep.until(lambda found: found["state"] == "running" and found["running"])
    third.kill()
    third.wait()
    assert sweep.until(lambda found: found["state"] == "dead")["holder"]["pid"] == third.pid
    assert "no driver runs: the last one was killed" in sweep.ask("status", "fake")
    assert sweep.start(0.0).wait(timeout=60) == 0
    assert sweep.until(lambda found: found["state"] == "finished")["done"] == 24
    assert "finished; no driver runs" in sweep.ask("status", SWEEP)


@pytest.mark.slow
def test_a_trial_is_cancelled_and_failed_ones_are_retried(sweep: Sweep, command: Command) -> None:
    process = sweep.start(0.05)
    key = sweep.running_key()
    cancelled = command("cancel", key[:10], "--results", str(sweep.store))
    if cancelled.code == 0:  # else the trial ended first
        sweep.until(lambda found: all(trial["key"] != key for trial in found["running"]))
    process.wait(timeout=120)
    records = ResultsStore(sweep.store).load(SWEEP)
    assert cancelled.code == 2 or records[key].status in (Status.CANCELLED, Status.COMPLETED)
    failed = [record for record in records.values() if record.status is Status.FAILED_USER]
    log = sweep.ask("logs", failed[0].trial_key)
    assert "Traceback (most recent call last):" in log
    assert "UserError: the data are spoilt" in log
    number = sum(record.status.failed for record in records.values())
    assert f"{number} failed trials will run again (no driver runs" in sweep.ask("retry", SWEEP)
    found = sweep.until(lambda found: found["state"] == "finished")
    assert found["failures"]["failed_user"] == len(failed)
    (sweep.store.parent / "mended").touch()
    assert sweep.start(0.0).wait(timeout=60) == 0
    assert not sweep.until(lambda found: found["state"] == "finished")["failures"]


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
        files = watch.tracked_files(checkout)
        with pytest.raises(UserError, match=r"have 2.0 KiB, more than the 1.0 KiB that Ray takes.*large.bin"):
            watch.check_size(files, 1024)
        monkeypatch.setattr(watch, "WARN_BYTES", 1000)
        watch.check_size(files, 10_000)
        assert "warning: every node downloads 2.0 KiB" in capsys.readouterr().err

    def test_outside_of_a_checkout(self, tmp_path: Path) -> None:
        with pytest.raises(UserError, match="is not in a git checkout"):
            watch.tracked_files(tmp_path)


@pytest.mark.parametrize("options", [[], ["--watch"]])
def test_only_watch_clears_the_terminal(options: list[str], command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    ResultsStore("results", create=True).append([make_record()])
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    assert ("\x1b[2J" in command("status", "pocket/quick", *options).out) == bool(options)
