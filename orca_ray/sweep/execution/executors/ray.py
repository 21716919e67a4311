"""Runs trials on a Ray cluster, as the trials of one Tune experiment on warm actors.

Tune schedules and places. What to run next, again, or no longer is the conductor's: a Tune ``Searcher`` and a
``TrialScheduler`` pass its answers on. Neither Tune's snapshots nor its loggers are used (design, decisions 1 and 6).
"""

import json
import logging
import os
import socket
import tempfile
import uuid
from pathlib import Path
from typing import Any

from orca_ray.errors import UserError
from orca_ray.sweep.execution.conductor import Conductor
from orca_ray.sweep.execution.executors.base import Executor
from orca_ray.sweep.execution.executors.reap import note_processes, reap_orphans
from orca_ray.sweep.planning.searches import NodeResources
from orca_ray.sweep.planning.trial import Resources

logger = logging.getLogger(__name__)

_TUNE_ENVIRONMENT = {
    "RAY_CHDIR_TO_TRIAL_DIR": "0",  # relative paths keep their meaning
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # no CSV, JSON and event files a trial
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",  # align epochs have no score
    "TUNE_GLOBAL_CHECKPOINT_S": "31536000",  # the results store is the only truth
    "TUNE_RESULT_BUFFER_LENGTH": "1",  # stop decisions must see each epoch
    "TUNE_WARN_THRESHOLD_S": "30",
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_TQDM": "0",
    "RAY_DEDUP_LOGS": "0",
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",  # records tell why
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}


class RayExecutor(Executor):
    """Joins a running cluster or starts one on this machine."""

    def __init__(self) -> None:
        self._connected = False
        self._processes: Path | None = None

    def open(self, address: str | None) -> list[NodeResources]:
        """Join the cluster at ``address`` or RAY_ADDRESS, or start one here."""
        os.environ.update({key: value for key, value in _TUNE_ENVIRONMENT.items() if key not in os.environ})
        import ray

        address = address or os.environ.get("RAY_ADDRESS") or "local"
        reap_orphans()
        try:
            _knock(address)
            self._init(address)
        except (ConnectionError, RuntimeError, ValueError, OSError, ray.exceptions.RayError) as error:
            raise UserError(
                f"cannot reach a Ray cluster at {address!r}: {error}. Is 'ray start --head' running there, and is the "
                f"token the same (RAY_AUTH_TOKEN or ~/.ray/auth_token)? Without --address a cluster is started here."
            ) from error
        self._connected = True
        nodes = [
            NodeResources(
                node["NodeManagerHostname"],
                node["Resources"].get("CPU", 0.0),
                node["Resources"].get("GPU", 0.0),
                node["Resources"].get("memory", 0.0) / 2**30,
            )
            for node in ray.nodes()
            if node["Alive"]
        ]
        kind = "local Ray cluster" if address == "local" else f"Ray cluster at {address}"
        cpus, gpus = sum(node.cpus for node in nodes), sum(node.gpus for node in nodes)
        self.where = f"{kind}, {len(nodes)} node(s), {cpus:g} CPUs, {gpus:g} GPUs"
        return nodes

    def _init(self, address: str) -> None:
        import ray

        quiet = {"log_to_driver": False, "logging_level": logging.ERROR, "configure_logging": True}
        if address == "local":
            ray.init(
                address="local",
                num_cpus=len(os.sched_getaffinity(0)),
                include_dashboard=False,
                object_store_memory=128 * 2**20,  # trials exchange kilobytes
                **quiet,
            )
            self._processes = note_processes()
        else:
            ray.init(address=address, ignore_reinit_error=True, **quiet)

    def run(self, conductor: Conductor, checkpoints: Path, checkpoint_seconds: float) -> bool:
        """Run one Tune experiment until the conductor is done."""
        from ray import tune

        from orca_ray.sweep.execution.executors.bridge import (
            ConductorScheduler,
            ConductorSearcher,
            StartNotes,
            StopOnError,
        )
        from orca_ray.sweep.execution.executors.trainable import make_trainable

        bridge = ConductorSearcher(conductor, _worker_settings(checkpoints, checkpoint_seconds))
        with tempfile.TemporaryDirectory(prefix="orca-ray-tune-") as scratch:
            tuner = tune.Tuner(
                tune.with_resources(make_trainable(f"orca_{uuid.uuid4().hex[:8]}"), placement),
                tune_config=tune.TuneConfig(
                    search_alg=bridge, scheduler=ConductorScheduler(bridge), num_samples=-1, reuse_actors=True
                ),
                run_config=tune.RunConfig(
                    name=f"orca-{uuid.uuid4().hex[:12]}",
                    storage_path=scratch,
                    verbose=0,
                    failure_config=tune.FailureConfig(max_failures=0),  # the bridge retries
                    checkpoint_config=tune.CheckpointConfig(checkpoint_frequency=0, checkpoint_at_end=False),
                    callbacks=[StartNotes(bridge)],
                    log_to_file=False,
                    stop=StopOnError(bridge),
                ),
            )
            tuner.fit()
        if bridge.error is not None:
            raise bridge.error
        return not conductor.done

    def close(self) -> None:
        """Leave the cluster; end it if it was started here."""
        if self._connected:
            import ray

            ray.shutdown()
            self._connected = False
        if self._processes is not None:
            self._processes.unlink(missing_ok=True)
            self._processes = None


def _knock(address: str) -> None:
    """Connect once to a host:port address: Ray itself would wait for minutes where nothing listens."""
    host, _, port = address.rpartition(":")
    if host and port.isdigit():
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()


def placement(config: dict[str, Any]) -> Any:
    """Return the placement group of a trial: one bundle."""
    from ray import tune

    wanted = Resources(**json.loads(config["trial"])["resources"])
    bundle = {"CPU": wanted.cpus}
    if wanted.gpus:
        bundle["GPU"] = wanted.gpus
    if wanted.memory_gib:
        bundle["memory"] = wanted.memory_gib * 2**30
    return tune.PlacementGroupFactory([bundle])


def _worker_settings(checkpoints: Path, checkpoint_seconds: float) -> dict[str, Any]:
    return {
        "checkpoints": str(checkpoints.resolve()),
        "checkpoint_seconds": checkpoint_seconds,
        "home": os.environ.get("ORCA_RAY_HOME"),
    }
