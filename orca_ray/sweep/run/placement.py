"""Which resources a trial gets, and whether it may start now."""

import json
import math
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from orca_ray.process import NodeResources
from orca_ray.results.record import Record, Status
from orca_ray.sweep.messages.causes import Cause
from orca_ray.sweep.messages.report import TrialReport
from orca_ray.sweep.plan.schema import Scalar
from orca_ray.sweep.plan.trial_spec import Resources, TrialSpec
from orca_ray.sweep.run.retries import FailuresOfTrial
from orca_ray.training.sample_cost import CONTEXT_MIB

SHARES = (0.125, 0.25, 0.5, 1.0)
"""Fractions of a GPU; each divides the next, so that trials fill a GPU without gaps."""
LEAST_CPUS = 1.0
"""CPUs that a trial on a GPU keeps where GPUs would idle otherwise.

The process that starts the kernels of a GPU keeps one core busy.
"""
MARGIN = 1.2
"""GPU memory that a trial gets, relative to the measured peak of allocated memory.

PyTorch reserves more memory than it allocates.
"""


Workload = tuple[Scalar | None, ...]
"""Task, method, body, batch size and precision of a trial.

They determine its peak GPU memory.
"""


def workload_of(
    trial: TrialSpec | Record, hyperparameters: Mapping[str, Scalar]
) -> Workload:
    """Return the properties of a trial that determine its peak GPU memory.

    ``trial`` may be the record of a trial.
    """
    values = hyperparameters.get
    return (
        trial.task,
        trial.method,
        trial.body,
        values("refine.batch_size"),
        values("refine.precision"),
    )


REFRESH_SECONDS = 5.0
"""Seconds after which the nodes of the cluster are listed again."""
PATIENCE_SECONDS = 300.0
"""Seconds after which a waiting trial no longer lets trials overtake it.

Only trials that need other resources may overtake it.
"""


@dataclass(frozen=True)
class GpuRequest:
    """GPUs that each trial of one (task, method) requests.

    Once a node of the cluster has had a GPU, trials wait for their GPUs.
    """

    gpus: float
    measured: bool = False
    """Whether the measured peak memory of earlier trials replaces the request."""
    required: bool = False
    """Whether trials request GPUs even if no node has had one.

    An autoscaler then adds a node.
    """


class Placement:
    """Placement of trials on a cluster whose nodes may join and leave.

    Trials start as long as they fit on the nodes, and a few more trials wait in Ray.
    Without a cluster, every trial gets the planned resources, and may start at once.
    """

    def __init__(
        self,
        list_nodes: Callable[[], Sequence[NodeResources]] | None = None,
        requests: Mapping[tuple[str, str], GpuRequest] | None = None,
        *,
        quarantined: Collection[str] = (),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Store the arguments.

        Args:
            list_nodes: returns the nodes of the cluster that are alive; None: there is
                no cluster.
            requests: requested GPUs of each (task, method); None: those that were
                planned.
            quarantined: ids of nodes that get no more trials; the caller may change it.
            clock: returns the time in seconds.
        """
        self._list_nodes = list_nodes
        self._requests = requests
        self._clock = clock
        self._quarantined = quarantined
        self._peaks: dict[Workload, float] = {}
        """Highest measured peak of GPU memory in MiB, by workload."""
        self._least: dict[Workload, float] = {}
        """Smallest share of a GPU to try after smaller shares had too little memory.

        The share is given by workload.
        """
        self._card_mib = 0.0
        """Memory of the smallest GPU in MiB; 0 if it is unknown."""
        self._listed_at = -math.inf
        self._names: dict[str, str] = {}
        self._nodes: Sequence[NodeResources] = ()
        self._capacities: dict[tuple[object, ...], int] = {}
        self._feeding_resources: dict[tuple[object, ...], Resources] = {}
        """Resources that leave no GPU idle, by the requested resources."""
        self._has_gpus = False

    @property
    def nodes(self) -> list[NodeResources]:
        """Nodes that get trials: the living nodes that are not in quarantine.

        If all living nodes are in quarantine, all of them get trials.
        """
        self._refresh()
        nodes = [node for node in self._nodes if node.id not in self._quarantined]
        return nodes or list(self._nodes)

    def _refresh(self) -> None:
        """List the nodes of the cluster again, every `REFRESH_SECONDS`."""
        if self._list_nodes is None:
            return
        if self._clock() - self._listed_at < REFRESH_SECONDS:
            return
        self._nodes = self._list_nodes()
        self._listed_at = self._clock()
        self._has_gpus = self._has_gpus or any(node.gpus for node in self._nodes)
        self._names.update({node.id: node.name for node in self._nodes})
        self._capacities.clear()
        self._feeding_resources.clear()

    @property
    def has_gpus(self) -> bool:
        """Whether a node of the cluster has had a GPU."""
        self._refresh()
        return self._has_gpus

    def capacity(self, wanted: Resources) -> int:
        """Return how many trials with the resources ``wanted`` fit on the nodes."""
        self._refresh()
        key = (wanted, *self._quarantined)
        if key not in self._capacities:
            self._capacities[key] = sum(map(wanted.slots_on, self.nodes))
        return self._capacities[key]

    def avoided(self, wanted: Resources, history: FailuresOfTrial) -> list[str]:
        """Return the ids of nodes that a trial should avoid.

        They are the nodes in quarantine and those where the trial failed. If no other
        node has the resources ``wanted``, they are only the nodes in quarantine. If
        only nodes in quarantine have these resources, no node is avoided.
        """
        nodes = self.nodes
        living_ids = {node.id for node in self._nodes}
        quarantined = set(self._quarantined)
        for avoided in (quarantined | history.avoid, quarantined):
            others = [node for node in nodes if node.id not in avoided]
            if any(map(wanted.slots_on, others)):
                return sorted(avoided & living_ids)
        return []

    def resources(self, trial: TrialSpec, history: FailuresOfTrial) -> Resources:
        """Return the resources of a trial: those planned, with the GPUs that it gets.

        The trial gets the requested GPUs or, if its request is measured, the share of
        one GPU that holds the peak memory of earlier trials. Where GPUs would idle, it
        gets a larger share and fewer CPUs (`without_idle_gpus`). It gets no GPU if no
        node has had one and none is required. Without a GPU, it gets more host memory
        after it ran out of memory twice. If `__init__` got no ``requests``, the planned
        resources are returned unchanged.
        """
        if self._requests is None:
            return trial.resources
        self._refresh()
        request = self._requests[trial.task, trial.method]
        gpus = 0.0
        if request.gpus and (request.required or self._has_gpus):
            measured = (
                request.measured and not trial.deterministic and request.gpus <= 1
            )
            gpus = self._share(trial, request.gpus, measured=measured)
        resources = replace(trial.resources, gpus=gpus)
        if gpus:
            # The micro-batch of a deterministic trial follows its share.
            grows = not request.required and not trial.deterministic
            return self._without_idle_gpus(resources, grows=grows)
        # After the first time, only the micro-batch is halved.
        if history.counts[Cause.MEMORY] < 2:
            return resources
        return replace(resources, memory_gib=self._more_memory(resources.memory_gib))

    def _without_idle_gpus(self, wanted: Resources, *, grows: bool) -> Resources:
        """Return the result of `without_idle_gpus` for the nodes that get trials."""
        key = (wanted, grows, *self._quarantined)
        if key not in self._feeding_resources:
            self._feeding_resources[key] = without_idle_gpus(
                wanted, self.nodes, grows=grows
            )
        return self._feeding_resources[key]

    def feeding(self, trials: Iterable[TrialSpec]) -> str:
        """Return the sentence of `feeding` for first attempts at ``trials``."""
        resources = {self.resources(trial, FailuresOfTrial()) for trial in trials}
        return feeding(resources, self.nodes)

    def _more_memory(self, memory_gib: float) -> float:
        """Return the host memory for a trial that ran out of ``memory_gib`` GiB.

        Without a request (0 GiB), Ray considers only CPUs. The trial then requests half
        of the largest node's memory, which keeps other trials off that node.
        """
        largest = max((node.memory_gib for node in self.nodes), default=0.0)
        enlarged = 2 * memory_gib if memory_gib else largest / 2
        return min(enlarged, max(largest, memory_gib))

    def admits(
        self,
        wanted: Resources,
        in_flight: Mapping[Resources, int],
        overdue: Collection[Resources] = (),
        *,
        reserves: bool = True,
    ) -> bool:
        """Return whether a trial with the resources ``wanted`` may be handed out now.

        ``in_flight`` is the number of trials that executors have, by resources; trials
        with other resources are ignored, with one exception: if ``reserves``, a trial
        without a GPU leaves the CPUs to trials on GPUs that those need. ``overdue`` are
        the resources for which a trial has waited for `PATIENCE_SECONDS`. While there
        are such trials, and a node is large enough for one, no trial with other
        resources is handed out.
        """
        if self._list_nodes is None:
            return True
        capacity = self.capacity(wanted)
        # A few more than fit, which Ray sees as waiting.
        if in_flight.get(wanted, 0) >= capacity + 1 + capacity // 8:
            return False
        # Other trials would take the room that an overdue trial waits for.
        for resources in overdue:
            if resources != wanted and any(map(resources.slots_on, self.nodes)):
                return False
        return not reserves or self._leaves_cpus(wanted, in_flight)

    def _leaves_cpus(
        self, wanted: Resources, in_flight: Mapping[Resources, int]
    ) -> bool:
        """Return whether another trial leaves the CPUs that trials on GPUs need.

        A trial on a GPU needs none. Other trials may take the CPUs that are left when
        the GPUs are full, or when all trials on GPUs in ``in_flight`` have started.
        """
        on_gpus = [each for each, count in in_flight.items() if each.gpus and count]
        if wanted.gpus or not on_gpus:
            return True
        free_cpus = sum(node.cpus for node in self.nodes)
        free_gpus = sum(node.gpus for node in self.nodes)
        for resources in on_gpus:
            fitting = min(self.capacity(resources), int(free_gpus / resources.gpus))
            started = min(in_flight[resources], fitting)
            free_cpus -= started * resources.cpus
            free_gpus -= started * resources.gpus
        taken_cpus = sum(
            each.cpus * count for each, count in in_flight.items() if not each.gpus
        )
        return taken_cpus + wanted.cpus <= free_cpus

    def _share(self, trial: TrialSpec, requested: float, *, measured: bool) -> float:
        """Return the share of a GPU for a trial.

        It is ``requested``. If ``measured``, and the peak memory of the workload and
        the memory of the GPUs are known, it is the smallest of `SHARES` that holds the
        peak. It is always larger than shares on which the workload ran out of memory.
        """
        kind = workload_of(trial, trial.hyperparameters)
        share = requested
        peak = self._peaks.get(kind)
        if measured and peak is not None and self._card_mib:
            needed = (MARGIN * peak + CONTEXT_MIB) / self._card_mib
            share = next((size for size in SHARES if size >= needed), 1.0)
        return max(share, self._least.get(kind, 0.0))

    def learn(self, trial: TrialSpec, report: TrialReport) -> None:
        """Store what the report of a trial says about GPU memory.

        That is the peak, the memory of the GPU, and whether memory ran out. Reports of
        trials on several GPUs are ignored.
        """
        gpus = trial.resources.gpus
        if not 0 < gpus <= 1:  # of several GPUs, each has a part of the batch
            return
        kind = workload_of(trial, trial.hyperparameters)
        card_mib = report.worker.device_memory_mib
        if card_mib:
            self._card_mib = min(self._card_mib or card_mib, card_mib)
        if report.status is Status.FAILED_OOM:
            larger = next((size for size in SHARES if size > gpus), 1.0)
            self._least[kind] = max(larger, self._least.get(kind, 0.0))
        elif report.outcome is not None and report.outcome.peak_memory_mib:
            self._learn_peak(kind, report.outcome.peak_memory_mib)

    def learn_record(self, record: Record) -> None:
        """Store the peak GPU memory in the record of a trial.

        Records of trials that failed, or that ran on several GPUs, are ignored.
        """
        if not record.gpus or record.gpus > 1 or record.status.failed:
            return
        if record.peak_memory_mib:
            kind = workload_of(record, json.loads(record.hyperparameters))
            self._learn_peak(kind, record.peak_memory_mib)

    def _learn_peak(self, kind: Workload, peak_mib: float) -> None:
        self._peaks[kind] = max(peak_mib, self._peaks.get(kind, 0.0))

    def node_name(self, node: str) -> str:
        """Return the host name of a node and the start of its id.

        Without a cluster, this is the whole id.
        """
        if self._list_nodes is None:
            return node
        return f"{self._names.get(node, 'unknown')} ({node[:8]})"


def without_idle_gpus(
    wanted: Resources, nodes: Sequence[NodeResources], *, grows: bool
) -> Resources:
    """Return resources for trials on GPUs with which no GPU of a node idles.

    CPUs and host memory bound how many trials a node runs. If so many trials would not
    fill the GPUs of a node, the share of a GPU grows, up to a whole GPU (if ``grows``).
    If a whole GPU for each trial still leaves GPUs without a trial, each trial gets
    fewer CPUs, down to `LEAST_CPUS`. On a cluster of unequal nodes, the node with the
    fewest CPUs for each GPU decides.
    """
    nodes = [node for node in nodes if wanted.slots_on(node)]
    if grows and wanted.gpus < 1:
        shares = [_full_share(wanted, node) for node in nodes]
        wanted = replace(wanted, gpus=max([wanted.gpus, *shares]))
    cpus_of_slots = [node.cpus // _slots_by_gpus(wanted, node) for node in nodes]
    fewest = max(LEAST_CPUS, min(cpus_of_slots, default=math.inf))
    return replace(wanted, cpus=min(wanted.cpus, fewest))


def _full_share(wanted: Resources, node: NodeResources) -> float:
    """Return the share with which the trials that fit on a node fill its GPUs."""
    num_trials = replace(wanted, gpus=0.0).slots_on(node)
    if num_trials >= _slots_by_gpus(wanted, node):
        return wanted.gpus
    needed = node.gpus / num_trials
    return next((share for share in SHARES if share >= needed - 1e-9), 1.0)


def _slots_by_gpus(wanted: Resources, node: NodeResources) -> int:
    """Return how many trials the GPUs of a node hold, whatever else they need."""
    return replace(wanted, cpus=0.0, memory_gib=0.0).slots_on(node)


def feeding(resources: Iterable[Resources], nodes: Sequence[NodeResources]) -> str:
    """Return a sentence on how many GPUs of the nodes trials keep busy.

    An example is "4 CPUs feed 4 of 8 GPUs: ask for 8 CPUs a node (SLURM:
    --cpus-per-task=8)". ``resources`` are those of the trials; the trials that feed
    the fewest GPUs count. "" if no trial gets a GPU, or if no node has one.
    """
    on_gpus = [each for each in resources if each.gpus]
    if not on_gpus:
        return ""
    sentences = Counter[str]()
    for node in nodes:
        if node.gpus:
            worst = min(on_gpus, key=lambda wanted: _fed_gpus(wanted, node))
            sentences[_feeding_of_node(worst, node)] += 1
    return "; ".join(
        f"on each of {count} nodes, {sentence}" if count > 1 else sentence
        for sentence, count in sentences.items()
    )


def _feeding_of_node(wanted: Resources, node: NodeResources) -> str:
    """Return the sentence of `feeding` for one node and one kind of trials."""
    num_fed = _fed_gpus(wanted, node)
    sentence = f"{node.cpus:g} CPUs feed {num_fed:g} of {node.gpus:g} GPUs"
    return sentence if num_fed >= node.gpus else sentence + _advice(wanted, node)


def _fed_gpus(wanted: Resources, node: NodeResources) -> float:
    """Return how many GPUs of a node have a trial if many trials wait."""
    num_trials = wanted.slots_on(node)
    if wanted.gpus >= 1:
        return num_trials * wanted.gpus
    return math.ceil(num_trials / int(1 / wanted.gpus + 1e-9))


def _advice(wanted: Resources, node: NodeResources) -> str:
    """Return what to ask the scheduler for, so that trials feed all GPUs of a node."""
    num_trials = _slots_by_gpus(wanted, node)
    cpus = math.ceil(num_trials * wanted.cpus)
    memory_gib = math.ceil(num_trials * wanted.memory_gib)
    if cpus > node.cpus:
        return f": ask for {cpus} CPUs a node (SLURM: --cpus-per-task={cpus})"
    if memory_gib > node.memory_gib:
        return f": ask for {memory_gib} GiB of memory a node"
    return ""
