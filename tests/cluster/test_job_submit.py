"""Jobs on the two nodes of ``cluster/local.sh``, with tokens and a space in a path."""

import os
import re
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from orca_ray.results.record import Status
from orca_ray.results.store import ResultsStore

from .processes import (
    ROOT,
    SWEEP,
    Cluster,
    make_environment,
    start_local_cluster,
    wait_until,
)

pytestmark = [
    pytest.mark.ray,
    pytest.mark.slow,
    pytest.mark.exhaustive,
    pytest.mark.timeout(600),
]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    folder = tmp_path_factory.mktemp("local")
    python = make_environment(folder / "an environment")
    path = f"{python}:{Path(sys.executable).parent}:{os.environ['PATH']}"
    with start_local_cluster(folder, nodes=2, PATH=path) as started:
        yield started


def call(cluster: Cluster, *command: str, cwd: Path | None = None) -> str:
    """Run a command that must succeed, and return what it prints, errors first."""
    completed = subprocess.run(
        command,
        env=cluster.environment,
        capture_output=True,
        text=True,
        timeout=280,
        cwd=cwd,
    )
    assert completed.returncode == 0, completed.stdout + completed.stderr
    return completed.stderr + completed.stdout


@pytest.mark.parametrize("headers", [{}, {"Authorization": f"Bearer {'0' * 32}"}])
def test_the_dashboard_refuses_a_stranger(
    cluster: Cluster, headers: dict[str, str]
) -> None:
    for body in (
        None,
        b'{"entrypoint": "true"}',
    ):  # a look at the jobs, and a submission
        request = urllib.request.Request(
            f"{cluster.dashboard}/api/jobs/", body, headers
        )
        with pytest.raises(urllib.error.HTTPError) as caught:
            urllib.request.urlopen(request, timeout=10)
        assert caught.value.code in (401, 403)


def test_the_command_of_the_readme(cluster: Cluster, tmp_path: Path) -> None:
    results = tmp_path / "results"
    sweep = [
        "benchmark",
        "pocket",
        "--trials",
        "1",
        "--tasks",
        "wdbc",
        "--methods",
        "linear_probe",
    ]
    submit = [
        "ray",
        "job",
        "submit",
        f"--address={cluster.dashboard}",
        "--working-dir",
        str(ROOT),
        "--",
    ]
    output = call(cluster, *submit, "orca-sweep", *sweep, "--results", str(results))
    assert re.search(rf"Ray cluster at \S+:{cluster.port}, 2 node\(s\)", output), output
    [record] = ResultsStore(results).load("pocket/full-trials1").values()
    assert record.status == Status.COMPLETED
    assert record.executor == "ray"
    assert record.test_score is not None


def test_orca_sweep_submit_packs_runs_and_follows(
    cluster: Cluster, tmp_path: Path
) -> None:
    folder = tmp_path / "a folder"
    folder.mkdir()
    (folder / "sweep.yaml").write_text(SWEEP.format(name="sent", seeds=[*range(1, 7)]))
    results = tmp_path / "results"
    submit = [sys.executable, "-m", "orca_ray.cli.main", "submit"]
    options = ["--address", cluster.dashboard, "--env", f"ORCA_RAY_RESULTS={results}"]
    output = call(cluster, *submit, *options, "--", "run", "sweep.yaml", cwd=folder)
    assert "ran 6 trials" in output
    assert output.splitlines()[-1].endswith("has succeeded")
    records = ResultsStore(results).load("sent/full").values()
    assert [record.status for record in records] == [Status.COMPLETED] * 6
    # A mistake in the job is a mistake of the command.
    mistake = subprocess.run(
        [*submit, *options, "--", "run", "none.yaml"],
        env=cluster.environment,
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert mistake.returncode == 2, mistake.stderr
    assert "none.yaml" in mistake.stdout


def test_a_job_whose_cluster_ends_is_no_success(tmp_path: Path) -> None:
    with start_local_cluster(tmp_path, nodes=1) as ending:
        submit = [
            "ray",
            "job",
            "submit",
            f"--address={ending.dashboard}",
            "--",
            "sh",
            "-c",
        ]
        job = subprocess.Popen(
            [*submit, f"touch {tmp_path}/begun; sleep 600"], env=ending.environment
        )
        wait_until((tmp_path / "begun").exists, job, 120, tmp_path / "log")
    assert job.wait(60) == 1
