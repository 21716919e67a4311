"""Runs the trials of a sweep on a Ray cluster, as one run of Ray Tune whose actors are reused from trial to trial.

Tune places trials on nodes. The conductor decides which trial runs next, is run again or is stopped; the classes in
`bridge` pass its decisions to Tune. Tune's snapshots and loggers are not used.
"""

import contextlib
import json
import logging
import os
import platform
import socket
import tempfile
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil

from orca_ray.data import cache
from orca_ray.errors import UserError
from orca_ray.sweep.execution.conductor import Conductor
from orca_ray.sweep.execution.executors.base import Executor
from orca_ray.sweep.execution.messages import Assignment
from orca_ray.sweep.execution.staging import Stager, StagingRequest
from orca_ray.sweep.execution.worker_settings import WorkerSettings
from orca_ray.sweep.planning.searches import NodeResources, TrialSpec

logger = logging.getLogger(__name__)

_TUNE_ENVIRONMENT = {
    "RAY_CHDIR_TO_TRIAL_DIR": "0",  # relative paths keep their meaning
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # no CSV, JSON and event files per trial
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",  # align epochs have no score
    "TUNE_GLOBAL_CHECKPOINT_S": "31536000",  # once a year: sweeps resume from the results store
    "TUNE_RESULT_BUFFER_LENGTH": "1",  # stop decisions need every epoch
    "TUNE_WARN_THRESHOLD_S": "30",
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_TQDM": "0",
    "RAY_DEDUP_LOGS": "0",
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",  # records hold the reason
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}
ANSWER_SECONDS = 10.0
"""How long a cluster may take to answer before it counts as unreachable."""


class RayExecutor(Executor):
    """Runs trials on a Ray cluster that it joins, or that it starts on this machine."""

    def __init__(self) -> None:
        self._cleanup = contextlib.ExitStack()

    def open(self, address: str | None) -> list[NodeResources]:
        """Join the cluster at ``address`` or else at RAY_ADDRESS; without both, start one on this machine."""
        os.environ.update({key: value for key, value in _TUNE_ENVIRONMENT.items() if key not in os.environ})
        import ray

        address = address or os.environ.get("RAY_ADDRESS") or "local"
        reap_orphans()
        try:
            require_answer(address)
            self._init(address)
        except (ConnectionError, RuntimeError, ValueError, OSError, ray.exceptions.RayError) as error:
            raise UserError(
                f"cannot reach a Ray cluster at {address!r}: {error}. Is 'ray start --head' running there, and is the "
                "token the same (RAY_AUTH_TOKEN or ~/.ray/auth_token)? Without --address and RAY_ADDRESS a cluster is "
                "started on this machine."
            ) from error
        nodes = [_resources(node) for node in ray.nodes() if node["Alive"]]
        kind = "local Ray cluster" if address == "local" else f"Ray cluster at {address}"
        cpus, gpus = sum(node.cpus for node in nodes), sum(node.gpus for node in nodes)
        self.where = f"{kind}, {len(nodes)} node(s), {cpus:g} CPUs, {gpus:g} GPUs"
        return nodes

    def _init(self, address: str) -> None:
        import ray

        options: dict[str, Any] = {"ignore_reinit_error": True}
        if address == "local":  # a small object store: trials exchange kilobytes
            cpus = len(os.sched_getaffinity(0))
            options = {"num_cpus": cpus, "object_store_memory": 128 * 2**20, "include_dashboard": False}
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, configure_logging=True, **options)
        if address == "local":
            self._cleanup.callback(note_processes().unlink, missing_ok=True)
        self._cleanup.callback(ray.shutdown)

    def stager(
        self, requests: Sequence[StagingRequest], settings: WorkerSettings, progress: Callable[[str], None]
    ) -> Stager:
        """Return the stager of all nodes of the cluster; the driver's own is the first."""
        import ray

        from orca_ray.sweep.execution.staging.ray_stager import RayStager

        nodes = [node["NodeID"] for node in ray.nodes() if node["Alive"]]
        own = ray.get_runtime_context().get_node_id()
        nodes.sort(key=lambda name: name != own)
        return RayStager(requests, settings, nodes, progress)

    def run(self, conductor: Conductor, settings: WorkerSettings) -> bool:
        """Run Tune until the conductor is done; return True if Ctrl-C ended it before that."""
        from ray import tune

        from orca_ray.sweep.execution.executors import bridge
        from orca_ray.sweep.execution.executors.trainable import make_trainable

        def assign(trial: TrialSpec) -> Assignment:
            return Assignment(trial=trial)

        searcher = bridge.ConductorSearcher(conductor, assign)
        scheduler, hooks = bridge.ConductorScheduler(searcher), bridge.ConductorHooks(searcher)
        tune_config = tune.TuneConfig(search_alg=searcher, scheduler=scheduler, num_samples=-1, reuse_actors=True)
        trainable = tune.with_resources(make_trainable(f"orca_{uuid.uuid4().hex[:8]}", settings), placement)
        with tempfile.TemporaryDirectory(prefix="orca-ray-tune-") as scratch, working_in(scratch):
            run_config = tune.RunConfig(
                name=f"orca-{uuid.uuid4().hex[:12]}", storage_path=scratch, verbose=0, log_to_file=False,
                failure_config=tune.FailureConfig(max_failures=0),  # the searcher retries
                checkpoint_config=tune.CheckpointConfig(checkpoint_frequency=0, checkpoint_at_end=False),
                callbacks=[hooks], stop=hooks,
            )  # fmt: skip
            tune.Tuner(trainable, tune_config=tune_config, run_config=run_config).fit()
        if searcher.error is not None:
            raise searcher.error
        return not conductor.done

    def close(self) -> None:
        """Disconnect from the cluster, and end it if this executor started it."""
        self._cleanup.close()


def _resources(node: Mapping[str, Any]) -> NodeResources:
    cpus, gpus, memory = (node["Resources"].get(name, 0.0) for name in ("CPU", "GPU", "memory"))
    return NodeResources(node["NodeManagerHostname"], cpus, gpus, memory / 2**30)


@contextlib.contextmanager
def working_in(directory: str) -> Iterator[None]:
    """Context manager that changes the working directory: Tune reads it, and Ray may delete that of a submitted job."""
    before = os.open(".", getattr(os, "O_PATH", os.O_RDONLY))
    os.chdir(directory)
    try:
        yield
    finally:
        os.fchdir(before)  # by descriptor, which works even if the directory was deleted
        os.close(before)


def require_answer(address: str) -> None:
    """Raise OSError unless a gRPC server answers at a host:port address soon; Ray itself waits for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not (host and port.isdecimal()):
        return
    with socket.create_connection((host.strip("[]"), int(port)), timeout=ANSWER_SECONDS) as peer:
        if os.environ.get("RAY_USE_TLS", "0") in ("0", "", "false"):
            peer.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0")  # preface, empty SETTINGS
            if peer.recv(4, socket.MSG_WAITALL)[3:] != b"\4":  # the type of a SETTINGS frame
                raise ConnectionError("another service than Ray answers there")


def placement(config: dict[str, Any]) -> Any:
    """Return the resources of the trial in a Tune config, as a placement group of one bundle (all on one node)."""
    from ray import tune

    wanted = Assignment.from_json(config["assignment"]).trial.resources
    bundle = {"CPU": wanted.cpus}
    if wanted.gpus:
        bundle["GPU"] = wanted.gpus
    if wanted.memory_gib:
        bundle["memory"] = wanted.memory_gib * 2**30
    return tune.PlacementGroupFactory([bundle])


def note_processes() -> Path:
    """Write the ids of this process and its descendants to a file; return its path, to delete after a normal end."""
    driver = psutil.Process()
    note = cache.home() / "drivers" / f"{platform.node()}-{driver.pid}.json"
    note.parent.mkdir(parents=True, exist_ok=True)
    started = [[child.pid, child.create_time()] for child in driver.children(recursive=True)]
    note.write_text(json.dumps({"driver": [driver.pid, driver.create_time()], "started": started}))
    return note


def reap_orphans() -> list[int]:
    """Kill the recorded processes of drivers on this machine that were killed; return the ids of the killed processes.

    If a driver gets SIGKILL, the Ray cluster that it started ends within seconds, but helper processes of Ray can
    remain. Processes are identified by id and creation time, because ids are reused; files contain the machine's name,
    because machines may share the cache.
    """
    ended: list[int] = []
    for note in (cache.home() / "drivers").glob(f"{platform.node()}-*.json"):
        try:
            content = cache.read_json(note)
            if _living(*content["driver"]):
                continue
            for process in filter(None, (_living(*each) for each in content["started"])):
                with contextlib.suppress(psutil.NoSuchProcess):  # it has just ended
                    process.kill()
                    ended.append(process.pid)
        except (OSError, ValueError, TypeError, KeyError, psutil.Error) as error:  # also UserError: a damaged file
            logger.debug("%s: %s", note, error)
        note.unlink(missing_ok=True)
    if ended:
        logger.info("ended %d processes of an earlier driver: %s", len(ended), ended)
    return ended


def _living(pid: int, created: float) -> psutil.Process | None:
    """Return the process with id ``pid`` that was created at time ``created``, or None if it has ended."""
    try:
        process = psutil.Process(pid)
        same = abs(process.create_time() - created) < 1 and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return None
    return process if same else None
