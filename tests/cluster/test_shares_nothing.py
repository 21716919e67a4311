"""A sweep on nodes that share neither disk nor loopback, but a store on S3."""

import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import psutil
import pyarrow.fs as pafs
import pytest

from orca_ray.errors import UserError
from orca_ray.results.store import ResultsStore
from orca_ray.sweep.executors.inline import InlineExecutor
from orca_ray.sweep.plan.loading import parse_spec
from orca_ray.sweep.plan.requirements import resolve, with_fingerprints
from orca_ray.sweep.plan.searches import plan_searches
from orca_ray.sweep.run.driver import run_sweep, staging_requests
from orca_ray.sweep.worker.staging import stage
from orca_ray.testing.suite import make_home
from tests.cluster.processes import Cluster, start_local_cluster
from tests.sweep.real import read_facts

moto = pytest.importorskip(
    "moto.server",
    reason="the S3 server is a development dependency: moto[s3], flask, flask-cors",
)
pytestmark = [
    pytest.mark.ray,
    pytest.mark.slow,
    pytest.mark.exhaustive,
    pytest.mark.timeout(1200),
]

SWEEP = Path(__file__).with_name("apart.yaml").read_text()
START = """\
export AWS_ACCESS_KEY_ID=key AWS_SECRET_ACCESS_KEY=hidden
orca-sweep run sweep.yaml --results "s3://bucket/results?{where}" --staging "s3://bucket/staged?{where}"
"""
"""Only the driver has the credentials; workers get them from it."""
NAME = "apart/full-deterministic"
TRIALS = 20
WAIT_SECONDS = 400


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a new cache directory of this process, with the wheels of the user's."""
    return make_home(tmp_path_factory.mktemp("home"))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, home: Path) -> Path:
    """Return a directory with the prepared data and wheels that the sweep reads, and no
    others.
    """
    spec = parse_spec(SWEEP)
    directory = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ORCA_RAY_HOME", str(home))
        searches = resolve(with_fingerprints(plan_searches(spec, gpus=False)), print)
        for request in staging_requests(searches, spec.tasks):
            stage(request, str(directory))
    return directory


def fill(node: Path, whole: Path, *, damaged: bool) -> None:
    """Give a node the data and wheels of the sweep.

    ``damaged``: with a wrong last byte in arrays and wheels.
    """
    cache_directory = node / "cache" / "orca-ray"
    shutil.copytree(whole, cache_directory)
    arrays = list(cache_directory.rglob("train_x.npy"))
    wheels = list(cache_directory.rglob("*.whl"))
    assert len(arrays) == 2
    assert len(wheels) >= 4  # two bodies, two sources
    if damaged:
        for path in [*arrays, *wheels]:
            content = bytearray(path.read_bytes())
            content[-1] ^= 1
            path.write_bytes(content)


@pytest.fixture
def apart(tmp_path_factory: pytest.TempPathFactory, whole: Path) -> Iterator[Cluster]:
    """Start three nodes that share nothing: a head with data and no trials, one with
    damaged data, one with none.
    """
    folder = tmp_path_factory.mktemp("nodes")
    fill(folder / "0", whole, damaged=False)
    fill(folder / "1", whole, damaged=True)
    variables = {
        "PYTHONDONTWRITEBYTECODE": "1",
        "ORCA_LOCAL_FOLDER": str(folder),
        "ORCA_HEAD_CPUS": "0",
    }
    with start_local_cluster(
        folder, "--isolated", nodes=3, cpus=1, **variables
    ) as started:
        head = str(urlsplit(started.dashboard).hostname)
        yield started
    assert f"{head.rpartition('.')[0]}.1/" not in subprocess.check_output(
        ["ip", "address"], text=True
    )
    assert not [
        process
        for process, arguments in list_processes()
        if head in " ".join(arguments)
    ]


def list_processes() -> list[tuple[psutil.Process, list[str]]]:
    """Return all processes of this machine, with their arguments."""
    return [
        (process, process.info["cmdline"] or [])
        for process in psutil.process_iter(["cmdline"])
    ]


@pytest.fixture
def bucket() -> Iterator[int]:
    """Serve S3 on all interfaces of this machine, the bridge of the nodes included.

    Return the port.
    """
    server = moto.ThreadedMotoServer(ip_address="0.0.0.0", port=0)
    server.start()
    _, port = server.get_host_and_port()
    files = pafs.S3FileSystem(
        access_key="key",
        secret_key="hidden",
        endpoint_override=f"127.0.0.1:{port}",
        scheme="http",
        allow_bucket_creation=True,
    )
    files.create_dir("bucket")
    yield port
    server.stop()


def count_trials(results: ResultsStore) -> dict[str, int]:
    """Return the number of trials that have ended, by node."""
    try:
        counts = results.records()["node"].value_counts()
    except UserError:
        return {}
    return {str(node): int(count) for node, count in counts.items()}


def test_a_node_without_data_one_with_damaged_data_and_one_that_dies(
    apart: Cluster,
    bucket: int,
    home: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Only S3 and Ray connect the nodes; the records are those of one process."""
    network = str(urlsplit(apart.dashboard).hostname).rpartition(".")[0]
    where = f"endpoint_override={network}.1:{bucket}&scheme=http&region=us-east-1"
    job = tmp_path / "job"
    job.mkdir()
    (job / "sweep.yaml").write_text(SWEEP)
    (job / "start.sh").write_text(START.format(where=where))
    start = ["--working-dir", str(job), "--", "bash", "start.sh"]
    submit = ["ray", "job", "submit", f"--address={apart.dashboard}", *start]
    log = tmp_path / "log"
    with log.open("w") as stream:
        driver = subprocess.Popen(
            submit, env=apart.environment, stdout=stream, stderr=stream
        )
        try:
            results = ResultsStore(
                f"s3://key:hidden@bucket/results?{where}", create=True
            )
            deadline = time.monotonic() + WAIT_SECONDS
            began_with_empty_disk = "orca-node-2"
            while began_with_empty_disk not in count_trials(results):
                assert driver.poll() is None, log.read_text()
                assert time.monotonic() < deadline, log.read_text()
                time.sleep(1)
            third = f"--node_ip_address={network}.12"
            [raylet] = [
                process
                for process, arguments in list_processes()
                if third in arguments and process.name() == "raylet"
            ]
            raylet.kill()
            code = driver.wait(WAIT_SECONDS)
        finally:
            driver.kill()
    output = log.read_text()
    assert code == 0, output
    nodes = count_trials(results)
    assert sum(nodes.values()) == TRIALS
    assert set(nodes) == {"orca-node-1", "orca-node-2"}, nodes
    assert "hidden" not in output
    assert not results.folder.names("checkpoints", hidden=True)
    monkeypatch.setenv("ORCA_RAY_HOME", str(home))
    inline = ResultsStore(tmp_path / "inline", create=True)
    assert run_sweep(parse_spec(SWEEP), inline, executor=InlineExecutor()).ran == TRIALS
    assert read_facts(results, NAME) == read_facts(inline, NAME)
