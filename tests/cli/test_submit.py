"""``submit``: what a job gets, how its log is followed, and how the command ends."""

import os
import subprocess
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ray import job_submission
from ray.job_submission import JobStatus

from orca_ray.cli import submit
from orca_ray.errors import ClusterLostError, UserError
from orca_ray.sweep.executors import job as jobs
from tests.cli.conftest import Command


def write(name: str, content: str = "x") -> None:
    Path(name).parent.mkdir(parents=True, exist_ok=True)
    Path(name).write_text(content)


@dataclass
class Cluster:
    """A job server that keeps what it gets, and then shows a log and an end."""

    submitted: dict[str, Any] = field(default_factory=dict)
    logs: list[Sequence[str] | Exception] = field(default_factory=lambda: [["hello\n"]])
    status: JobStatus = JobStatus.SUCCEEDED
    driver_exit_code: int | None = 0
    is_lost: bool = False

    def __call__(self, address: str | None) -> "Cluster":
        self.submitted["address"] = address
        return self

    def submit_job(self, *, entrypoint: str, runtime_env: dict[str, Any]) -> str:
        package = Path(runtime_env.pop("working_dir"))
        paths = [path for path in package.rglob("*") if path.is_file()]
        self.submitted["entrypoint"] = entrypoint
        self.submitted["environment"] = runtime_env
        self.submitted["files"] = sorted(str(p.relative_to(package)) for p in paths)
        return "raysubmit_1"

    async def tail_job_logs(self, job: str) -> AsyncIterator[str]:
        # The last log stays, as that of a job that has ended.
        log = self.logs.pop(0) if len(self.logs) > 1 else self.logs[0]
        if isinstance(log, Exception):
            raise log
        for text in log:
            yield text

    def get_job_info(self, job: str) -> Any:
        if self.is_lost:
            raise ConnectionError("refused")
        status = self.status if len(self.logs) == 1 else JobStatus.RUNNING
        return SimpleNamespace(
            status=status, message="why", driver_exit_code=self.driver_exit_code
        )


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Cluster:
    server = Cluster()
    monkeypatch.setattr(job_submission, "JobSubmissionClient", server)
    monkeypatch.setattr(jobs, "RETRY_SECONDS", 0.0)
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN_PATH", "RAY_AUTH_TOKEN"):
        monkeypatch.setenv(name, "")
    monkeypatch.delenv("ORCA_RAY_RESULTS", raising=False)
    return server


def test_a_job_gets_the_command_the_files_and_the_environment(
    command: Command, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    write("sweeps/mine.yaml")
    write("data/large.bin")
    write(".venv/bin/python")
    write("results/orca-ray-results.json")
    write("results/records/a.parquet")
    write("../token", "0" * 32)
    monkeypatch.setenv("ORCA_RAY_RESULTS", "s3://bucket/folder")
    monkeypatch.setenv("HERE", "as here")
    options = ["--address", "http://head:8265", "--token-path", "../token"]
    options += ["--exclude", "data", "--env", "HERE", "--env", "A=b=c", "--pip", "mine"]
    sweep = ["run", "sweeps/mine.yaml", "--trials", "2"]
    ending = command.succeed("submit", *options, "--", *sweep)
    assert cluster.submitted == {
        "address": "http://head:8265",
        "entrypoint": "orca-sweep run sweeps/mine.yaml --trials 2",
        "files": ["sweeps/mine.yaml"],
        "environment": {
            "env_vars": {
                "ORCA_RAY_RESULTS": "s3://bucket/folder",
                "HERE": "as here",
                "A": "b=c",
            },
            "pip": ["mine"],
        },
    }
    assert os.environ["RAY_AUTH_TOKEN_PATH"] == str(Path("../token").absolute())
    assert ending.out.splitlines() == [
        "job raysubmit_1: orca-sweep run sweeps/mine.yaml --trials 2",
        "follow it: ray job logs --address http://head:8265 --follow raysubmit_1",
        "end it: ray job stop --address http://head:8265 raysubmit_1",
        "hello",
        "job raysubmit_1 has succeeded",
    ]


def test_in_a_checkout_ignored_files_stay_here() -> None:
    subprocess.run(["git", "init", "-q"], check=True)
    write("tracked.yaml")
    write("deleted.yaml")
    subprocess.run(["git", "add", "tracked.yaml", "deleted.yaml"], check=True)
    Path("deleted.yaml").unlink()
    write(".gitignore", "ignored/\n")
    write("ignored/large.bin")
    write("new.yaml")
    names = [str(path) for path in jobs.list_files(Path(), ["*.toml", "new.*"])]
    assert ".gitignore" in names
    assert "tracked.yaml" in names
    assert not {"deleted.yaml", "ignored/large.bin", "new.yaml"} & set(names)


def test_too_many_and_too_large_files_are_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "large.bin").write_text("x" * 2000)
    (tmp_path / "small.bin").write_text("x")
    files = jobs.list_files(tmp_path)
    with pytest.raises(UserError, match=r"less than 1\.0 KiB.*large\.bin \(2\.0 KiB\)"):
        submit.check_size(tmp_path, files, 1024)
    monkeypatch.setattr(submit, "WARN_BYTES", 1000)
    submit.check_size(tmp_path, files, 10_000)
    assert "warning: every node downloads 2.0 KiB" in capsys.readouterr().err
    monkeypatch.setattr(jobs, "MAX_FILES", 1)
    with pytest.raises(UserError, match="more than 1 files"):
        jobs.list_files(tmp_path)


@pytest.mark.parametrize(
    ("status", "driver_code", "code", "message"),
    [
        (JobStatus.FAILED, 2, 2, "job raysubmit_1 has failed: why"),
        (JobStatus.FAILED, 75, 75, "job raysubmit_1 has failed: why"),
        (JobStatus.FAILED, None, 1, "job raysubmit_1 has failed: why"),
        (JobStatus.FAILED, -9, 1, "job raysubmit_1 has failed: why"),
        (JobStatus.STOPPED, None, 130, "job raysubmit_1 was stopped"),
    ],
)
def test_the_exit_code_is_that_of_the_command(
    status: JobStatus,
    driver_code: int | None,
    code: int,
    message: str,
    command: Command,
    cluster: Cluster,
) -> None:
    cluster.status = status
    cluster.driver_exit_code = driver_code
    ending = command("submit", "--", "benchmark", "pocket")
    assert ending.code == code
    assert message in ending.err


def test_a_lost_connection_is_made_again_and_no_text_is_written_twice(
    command: Command, cluster: Cluster
) -> None:
    cluster.logs = [
        ["one\ntw"],
        RuntimeError("closed"),
        ["one\n", "two\nth", "ree\n"],
        RuntimeError("closed"),
        ["one\ntwo\nthree\n", "four\n"],
    ]
    ending = command.succeed("submit", "--", "benchmark", "pocket")
    assert ending.out.splitlines()[3:-1] == ["one", "two", "three", "four"]


def test_a_cluster_that_no_longer_answers_is_lost(
    command: Command, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs, "LOST_SECONDS", -1.0)
    cluster.is_lost = True
    with pytest.raises(ClusterLostError, match="no longer answers"):
        jobs.JobLog(cluster, "raysubmit_1", print).follow()
    assert command("submit", "--", "benchmark", "pocket").code == 75


def test_ctrl_c_ends_the_following_and_says_how_to_end_the_job(
    command: Command, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(log: jobs.JobLog) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(jobs.JobLog, "follow", interrupt)
    ending = command("submit", "--", "benchmark", "pocket")
    assert ending.code == 130
    assert "the job goes on; ray job stop raysubmit_1 ends it" in ending.err


def test_without_waiting_the_log_is_not_read(
    command: Command, cluster: Cluster
) -> None:
    ending = command.succeed("submit", "--no-wait", "--", "benchmark", "pocket")
    assert len(ending.out.splitlines()) == 3
    assert cluster.logs == [["hello\n"]]
