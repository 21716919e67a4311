"""The executor that runs the trials of a sweep on a Ray cluster.

The sweep is one run of Ray Tune, whose actors run one trial after another. Tune places
trials on nodes. The controller decides which trial runs next, is run again or is
stopped; the classes in `tune_adapter` pass its decisions to Tune. Tune's snapshots and
loggers are not used.
"""

import atexit
import contextlib
import logging
import os
import shlex
import shutil
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any, Literal

import psutil

from orca_ray.data.cache import remove_abandoned
from orca_ray.errors import ClusterLostError, RayStartError, UserError
from orca_ray.process import (
    NodeResources,
    descendants,
    kill_with_descendants,
    this_node,
)
from orca_ray.sweep.executors import joined_address, ray_private
from orca_ray.sweep.executors.liveness import (
    Background,
    Deadlines,
    lost_service,
    services,
)
from orca_ray.sweep.messages.settings import WorkerSettings
from orca_ray.sweep.plan.searches import SearchPlan
from orca_ray.sweep.plan.trial_spec import Resources, TrialSpec
from orca_ray.sweep.run.controller import SweepController
from orca_ray.sweep.run.executor import Executor, ExecutorOptions
from orca_ray.sweep.run.placement import GpuRequest, Placement
from orca_ray.sweep.run.sharing import Amounts, Share
from orca_ray.sweep.worker.staging import Staged, Stager
from orca_ray.sweep.worker.staging_items import StagingRequest

_TUNE_ENVIRONMENT = {
    "RAY_CHDIR_TO_TRIAL_DIR": "0",  # relative paths keep their meaning
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # no CSV, JSON and event files per trial
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",  # align epochs have no score
    # once a year: sweeps resume from the results store
    "TUNE_GLOBAL_CHECKPOINT_S": "31536000",
    "TUNE_RESULT_BUFFER_LENGTH": "1",  # stop decisions need every epoch
    "TUNE_WARN_THRESHOLD_S": "30",
    # actors started at a time, instead of one; `Placement` limits them
    "TUNE_MAX_PENDING_TRIALS_PG": "1000000",
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_TQDM": "0",
    "RAY_DEDUP_LOGS": "0",
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",  # records hold the reason
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    # or a run that lost its cluster would start another one
    "RAY_ENABLE_AUTO_CONNECT": "0",
}
GIB_OF_WORKER = 0.75
"""Memory of a worker of Ray in GiB."""
MEMORY_FOR_TRIALS = 0.7
"""Fraction of a container's memory that trials may reserve.

It is Ray's default for the memory of a machine.
"""
MAX_ANNOUNCED = 1000
"""Largest number of trials of one size that an autoscaler is asked to make room for."""
END_SECONDS = 8.0
"""Seconds that Tune may take to end after its cluster was lost."""
ANSWER_SECONDS = 10.0
"""Seconds that a cluster may take to answer before it counts as unreachable."""


class RayExecutor(Executor):
    """Executor that runs trials on a Ray cluster, joined or started here."""

    name = "ray"

    def __init__(self) -> None:
        self._early: Future[list[NodeResources]] | None = None
        self._thread = ThreadPoolExecutor(1)
        """Thread of `open_early`.

        Linux ends Ray's processes with the thread that started them, so this thread
        must end last.
        """
        self._cleanup = contextlib.ExitStack()
        self._announced: list[dict[str, float]] = []
        self._started: frozenset[psutil.Process] = frozenset()
        """Processes of the cluster that this executor started.

        This process may have other child processes, e.g. of a tracker.
        """
        self._abandoned = False
        """Whether a thread still waits for a cluster that is lost."""
        self._session = ""
        """Directory of the cluster's sockets and logs on this machine."""
        self._keeps_logs = False
        self._services: Mapping[str, tuple[str, int]] = {}
        """Host and port of each of the cluster's services, by name."""

    def open_early(self, address: str | None) -> None:
        """Begin to join or start the cluster in another thread.

        Starting a cluster takes ten seconds.
        """
        self._early = self._thread.submit(self._open, address)

    def open(self, address: str | None) -> list[NodeResources]:
        """Join the cluster at ``address`` or RAY_ADDRESS, or start one here.

        Return its nodes. Raises UserError if that fails.
        """
        return self._open(address) if self._early is None else self._early.result()

    def _open(self, address: str | None) -> list[NodeResources]:
        """Start a local cluster or join one, and return its nodes.

        Raises UserError if Ray cannot be started or reached.
        """
        os.environ.update(
            {
                key: value
                for key, value in _TUNE_ENVIRONMENT.items()
                if key not in os.environ
            }
        )
        import ray

        address = joined_address(address) or "local"
        remove_abandoned()
        try:
            check_answer(address)
            self._init(address)
        except Exception as error:
            explained = (
                ConnectionError,
                RuntimeError,
                ValueError,
                OSError,
                ray.exceptions.RayError,
            )
            if (
                not isinstance(error, explained) and type(error) is not Exception
            ):  # a bare one: Ray did not start in time
                raise
            if address == "local":
                needs = (
                    f"{2 * GIB_OF_WORKER} GiB of memory, and to write to /tmp/ray and"
                    " ~/.ray (or RAY_AUTH_TOKEN)"
                )
                text = (
                    f"Ray cannot start on this machine: {error}. It needs {needs};"
                    " --executor inline needs no Ray."
                )
                raise RayStartError(text) from error
            raise UserError(
                f"cannot reach a Ray cluster at {address!r}: {error}. Is 'ray start"
                " --head' running there, is RAY_AUTH_MODE 'token' here, and is the"
                " token the same (RAY_AUTH_TOKEN or ~/.ray/auth_token)? Without"
                " --address and RAY_ADDRESS a cluster is started on this machine."
            ) from error
        self._services = services()
        nodes = self.nodes()
        self.grows = address != "local"
        kind = (
            "local Ray cluster" if address == "local" else f"Ray cluster at {address}"
        )
        cpus = sum(node.cpus for node in nodes)
        gpus = sum(node.gpus for node in nodes)
        self.where = f"{kind}, {len(nodes)} node(s), {cpus:g} CPUs, {gpus:g} GPUs"
        return nodes

    def nodes(self) -> list[NodeResources]:
        """Return the nodes that are alive."""
        import ray

        return [_resources(node) for node in ray.nodes() if node["Alive"]]

    def announce(self, demand: Mapping[Resources, int]) -> None:
        """Request resources for ``demand`` from a joined cluster's autoscaler.

        The request replaces the previous one.
        """
        from ray.autoscaler.sdk import request_resources

        bundles = [
            _bundle(resources)
            for resources, count in demand.items()
            for _ in range(min(count, MAX_ANNOUNCED))
        ]
        if self.grows and bundles != self._announced:
            request_resources(bundles=bundles)
            self._announced = bundles

    def _init(self, address: str) -> None:
        """Call `ray.init`, and register what `close` must undo."""
        import ray

        options: dict[str, Any] = {"ignore_reinit_error": True}
        if address == "local":  # a small object store: trials exchange kilobytes
            node = this_node()
            workers = num_workers(node)
            if workers < 1:
                raise RuntimeError(
                    f"{node.memory_gib:.1f} GiB of memory are allowed or there"
                )
            options = {
                "num_cpus": workers,
                "object_store_memory": 128 * 2**20,
                "include_dashboard": False,
            }
            memory = node.memory_gib * 2**30
            if memory < psutil.virtual_memory().total:
                options |= ray_private.memory_option(int(MEMORY_FOR_TRIALS * memory))
            # Ray puts the path of Python into a line of bash without quoting it.
            quoted = shlex.quote(sys.executable)
            if quoted != sys.executable:
                options["runtime_env"] = {"py_executable": quoted}
        # The error of a cluster that does not start says what Ray logs in this process.
        level = logging.CRITICAL if address == "local" else logging.ERROR
        before = descendants()
        handler = signal.getsignal(signal.SIGTERM)
        options |= {
            "log_to_driver": False,
            "logging_level": level,
            "configure_logging": True,
        }
        context = ray.init(address=address, **options)
        self._session = getattr(context, "address_info", {}).get(
            "session_dir", ""
        )  # Ray's client has none
        if threading.current_thread() is threading.main_thread():
            signal.signal(
                signal.SIGTERM, handler
            )  # Ray's would end the driver before trials have saved a checkpoint
        if address == "local":
            self._started = descendants() - before
            self._cleanup.callback(self._remove_session)
        self._shutdown = ray.shutdown
        self._cleanup.callback(self._shutdown)

    def _remove_session(self) -> None:
        """Delete sockets and logs, which Ray would keep."""
        if not self._keeps_logs:
            shutil.rmtree(self._session, ignore_errors=True)

    def stager(
        self,
        requests: Sequence[StagingRequest],
        settings: WorkerSettings,
        progress: Callable[[str], None],
    ) -> Stager:
        """Return a `RayStager` that stages ``requests`` on all nodes of the cluster.

        Raises ClusterLostError if the cluster is lost.
        """
        stagers: list[Stager] = []
        self._run_watched(
            lambda: stagers.append(self._make_stager(requests, settings, progress)),
            lambda: None,
        )
        return stagers[0]

    def _make_stager(
        self,
        requests: Sequence[StagingRequest],
        settings: WorkerSettings,
        progress: Callable[[str], None],
    ) -> Stager:
        """Start the actors of a `RayStager` on the nodes that are alive."""
        import ray

        from orca_ray.sweep.worker.ray_stager import RayStager

        nodes = [node["NodeID"] for node in ray.nodes() if node["Alive"]]
        if not nodes:
            raise ClusterLostError("no node of the Ray cluster is alive")
        own = ray.get_runtime_context().get_node_id()
        nodes.sort(key=lambda name: name != own)  # the driver's node comes first
        free = ray.available_resources().get("CPU", 0.0)
        cluster = (
            f"{self.where}, {free:g} CPUs free; Ray's logs are in {self._session}/logs"
        )
        return RayStager(requests, settings, nodes, progress, cluster, self.grows)

    def run(
        self,
        controller: SweepController,
        settings: WorkerSettings,
        options: ExecutorOptions,
    ) -> bool:
        """Run Tune until the controller is done.

        Return True if Ctrl-C ended the run before that.

        Tune runs in a thread, because calls to a lost cluster do not return. Raises
        ClusterLostError if the cluster is lost.
        """
        from orca_ray.sweep.executors.tune_adapter import TuneSearcher, run_tune

        requests = {
            (plan.task, plan.method): _gpu_request(plan, options.gpus_per_trial)
            for plan in controller.searches.plans
        }
        placement = Placement(
            self.nodes, requests, quarantined=controller.failures.quarantined
        )
        for record in controller.searches.records:
            placement.learn_record(record)
        controller.placement = placement
        if self.grows:  # others may run sweeps there
            controller.share = Share(
                ray_private.ClaimStore(), lambda: _totals(placement.nodes)
            )
            self._cleanup.callback(controller.share.close)
        fed_gpus = placement.feeding(
            plan.usual_trial for plan in controller.searches.plans
        )
        if fed_gpus:
            controller.say(fed_gpus)
        searcher = TuneSearcher(controller, Deadlines(options.time))
        self._run_watched(
            lambda: run_tune(searcher, settings, trial_bundle, self.announce),
            lambda: setattr(searcher, "interrupted", True),
        )
        if searcher.error is not None:
            raise searcher.error
        return not controller.done

    def first_staged(self, stager: Stager) -> list[Staged]:
        """Return the results of `Stager.first`.

        Raises ClusterLostError if the cluster is lost, and KeyboardInterrupt after
        Ctrl-C.
        """
        results: list[Staged] = []
        self._run_watched(
            lambda: results.extend(stager.first()),
            lambda: setattr(stager, "interrupted", True),
        )
        if stager.interrupted:
            raise KeyboardInterrupt
        return results

    def _run_watched(
        self, work: Callable[[], None], interrupt: Callable[[], None]
    ) -> None:
        """Run ``work`` in a thread, and check meanwhile whether the cluster answers.

        ``interrupt`` is called after Ctrl-C, and must make ``work`` end. Raises
        ClusterLostError if the cluster is lost, because calls to it do not return.
        """
        background = Background(work)
        watched = self._services
        try:
            background.wait(interrupt, watched)
        except BaseException as error:
            interrupt()
            self._abandoned = not background.ends(END_SECONDS)
            if not isinstance(error, Exception):
                raise
            lost = lost_service(watched, error)
            self._keeps_logs = isinstance(lost, ClusterLostError)
            raise lost from error

    def close(self) -> None:
        """Disconnect from the cluster, and end it if this executor started it."""
        if self._early is not None:
            wait([self._early])
        if (
            self._abandoned
        ):  # Ray ends the process if a thread uses it after `ray.shutdown`
            atexit.unregister(self._shutdown)
            kill_with_descendants(self._started)
            return
        if self._announced:
            self.announce({})
        self._cleanup.close()
        self._thread.shutdown()


def num_workers(node: NodeResources) -> int:
    """Return how many workers of Ray fit on a node.

    The driver and Ray itself take as much memory as one worker (`GIB_OF_WORKER`).
    """
    return min(int(node.cpus), int(node.memory_gib / GIB_OF_WORKER) - 1)


def _resources(node: Mapping[str, Any]) -> NodeResources:
    """Return the resources of a node, given its entry in `ray.nodes`."""
    cpus, gpus, memory = (
        node["Resources"].get(name, 0.0) for name in ("CPU", "GPU", "memory")
    )
    return NodeResources(
        node["NodeManagerHostname"], cpus, gpus, memory / 2**30, node["NodeID"]
    )


def _totals(nodes: Iterable[NodeResources]) -> Amounts:
    """Return the resources of all nodes together."""
    totals = Amounts()
    for node in nodes:
        totals = totals.plus(Resources(node.cpus, node.gpus))
    return totals


def _gpu_request(plan: SearchPlan, given: float | Literal["auto"] | None) -> GpuRequest:
    """Return the number of GPUs that each trial of a search requests.

    The number is ``given`` on the command line, or it is that of the sweep file. If it
    is ``auto``, or in neither of them, it is chosen by the measured use of memory. A
    method that fits its model without a GPU gets none.
    """
    request = plan.spec.resources(plan.task, plan.method)
    if isinstance(given, float) and (request.gpus or not plan.recipe.fitted):
        return GpuRequest(given, required=True)
    return GpuRequest(
        request.gpus, measured=given == "auto" or "gpus" not in request.model_fields_set
    )


def check_answer(address: str) -> None:
    """Raise OSError if no gRPC server answers at ``address`` in `ANSWER_SECONDS`.

    Only an address HOST:PORT is checked.
    """
    import grpc  # a dependency of ray[default]

    target = address.removeprefix("ray://")
    host, _, port = target.rpartition(":")
    if not (host and port.isdecimal()):
        return
    socket.create_connection(
        (host.strip("[]"), int(port)), timeout=ANSWER_SECONDS
    ).close()  # refused at once
    if os.environ.get("RAY_USE_TLS", "0") not in ("0", "", "false"):
        return
    with grpc.insecure_channel(target) as channel:
        try:
            grpc.channel_ready_future(channel).result(timeout=ANSWER_SECONDS)
        except grpc.FutureTimeoutError as error:
            raise ConnectionError("another service than Ray answers there") from error


def trial_bundle(config: dict[str, Any]) -> Any:
    """Return the placement group of the trial in a Tune config.

    The group reserves all resources of the trial on one node. The config's ``avoid``
    lists the ids of nodes on which it must not be placed.
    """
    from ray import tune

    bundle = _bundle(TrialSpec.from_json(config["trial"]).resources)
    avoid = config.get("avoid")
    options = (
        {"bundle_label_selector": [{"ray.io/node-id": f"!in({','.join(avoid)})"}]}
        if avoid
        else {}
    )
    return tune.PlacementGroupFactory([bundle], **options)


def _bundle(wanted: Resources) -> dict[str, float]:
    """Return resources by Ray's names; resources of 0 other than CPUs are left out."""
    named = {
        "CPU": wanted.cpus,
        "GPU": wanted.gpus,
        "memory": wanted.memory_gib * 2**30,
    }
    return {name: amount for name, amount in named.items() if amount or name == "CPU"}
