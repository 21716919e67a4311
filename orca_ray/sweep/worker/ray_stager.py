"""The stager of Ray clusters, which stages the tasks of a sweep on all nodes.

It has an actor on each node. The actors reserve no CPU.
"""

import queue
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from orca_ray.errors import ClusterLostError
from orca_ray.sweep.messages.settings import WorkerSettings
from orca_ray.sweep.worker.staging import Staged, Stager, staged
from orca_ray.sweep.worker.staging_items import StagingRequest

AT_ONCE = 2
"""Number of tasks that a node stages at once.

While one task waits for a server that does not answer, another is staged.
"""
MOST_NODES = 3
"""Number of nodes that may fail to stage a task before the task counts as failed."""
RUNTIME_ENVIRONMENT = {"env_vars": {"PL_DISABLE_FORK": "1"}}
"""Runtime environment of Tune's actors.

Ray starts workers with a runtime environment through Bash. This may fail although
workers without one start. Stagers use the same environment to find that out early.
"""
NOTICE_SECONDS = 30.0
"""Seconds without a worker process on a node after which the user is informed."""


class NodeStager:
    """Actor that stages tasks on its node.

    `messages` can be called while `stage` runs in other threads.
    """

    def __init__(self, settings: WorkerSettings) -> None:
        settings.apply()
        self._settings = settings
        self._messages = queue.SimpleQueue[str]()

    def stage(self, request: StagingRequest) -> Staged:
        """Stage a task on this node, and return the result or the error."""
        return staged(request, self._settings.staging, self._messages.put)

    def messages(self) -> list[str]:
        """Return the lines of text about progress since the last call."""
        return [self._messages.get() for _ in range(self._messages.qsize())]


@dataclass
class _Node:
    actor: Any
    waiting: deque[StagingRequest] = field(default_factory=deque)
    running: dict[Any, StagingRequest] = field(default_factory=dict)
    """Request by the reference to its result."""
    messages: Any = None
    """Reference to the messages that are asked for."""
    asked_at: float = 0.0
    started: bool = False
    """Whether the actor has ever answered: its process has started."""
    tried: set[str] = field(default_factory=set)
    """Tasks that were given to this node."""

    def has(self, task: str) -> bool:
        """Return whether a task waits or runs on this node."""
        requests = (*self.waiting, *self.running.values())
        return any(request.task == task for request in requests)


class RayStager(Stager):
    """Stager that gives each task to a single node, and later to all other nodes.

    The other nodes get a task when the first node has staged it. Different tasks have
    different first nodes. Thus, nodes prepare different tasks at the same time, and
    copy data that another node has published in the shared folder.

    A task that its first node cannot stage is given to the driver's node, because often
    only that node has the data, or a network. A trial may start on a node where its
    task is not staged yet. Its worker then stages the task, or waits for the node's
    actor.
    """

    def __init__(
        self,
        requests: Sequence[StagingRequest],
        settings: WorkerSettings,
        node_ids: Sequence[str],
        progress: Callable[[str], None],
        cluster: str = "",
        joined: bool = False,
    ) -> None:
        """Start an actor on each node in ``node_ids``, which are Ray's ids.

        The first id is that of the driver's node. ``cluster`` is a text about the
        resources of the cluster and the place of its logs, for messages about workers
        that do not start. ``joined``: whether this process joined a running cluster
        instead of starting it. Workers of such a cluster may be unable to start.
        """
        super().__init__(requests)
        self._progress = progress
        self._failures = Counter[str]()
        self._resolved = set[str]()
        self._limit = settings.time.heartbeat
        self._cluster = cluster
        self._noticed = False
        self._nodes = {
            name: _Node(self._start(name, settings, joined))
            for name in node_ids
            if requests
        }
        names = list(self._nodes)
        for number, request in enumerate(requests):
            self._nodes[names[number % len(names)]].waiting.append(request)

    @staticmethod
    def _start(node_id: str, settings: WorkerSettings, joined: bool) -> Any:
        """Start the actor of a node, and return its handle."""
        options: dict[str, Any] = {
            "num_cpus": 0,
            "max_concurrency": AT_ONCE + 1,
            "max_restarts": 0,
        }
        options["runtime_env"] = RUNTIME_ENVIRONMENT if joined else None
        where = NodeAffinitySchedulingStrategy(node_id, soft=False)
        return (
            ray.remote(NodeStager)
            .options(**options, scheduling_strategy=where)
            .remote(settings)
        )

    def _poll(self, *, idle: bool) -> list[Staged]:
        """Return new results, start waiting requests, and remove lost nodes."""
        results: list[Staged] = []
        for name in list(self._nodes):
            node = self._nodes[name]
            try:
                self._show_messages(node)
                for request, result in self._take_results(node):
                    results += self._handle_result(name, request, result)
            except (ray.exceptions.RayError, ClusterLostError) as error:
                if isinstance(error, ClusterLostError) and len(self._nodes) == 1:
                    raise
                reason = str(error).strip().split("\n")[0]
                results += self._remove_node(name, reason)
        self._submit()
        return results

    def _take_results(self, node: _Node) -> list[tuple[StagingRequest, Staged]]:
        """Remove the requests that a node has carried out; return them with results."""
        if not node.running:
            return []
        references = list(node.running)
        ready, _ = ray.wait(references, num_returns=len(references), timeout=0)
        # This raises before anything is removed.
        results = [(reference, ray.get(reference)) for reference in ready]
        return [(node.running.pop(reference), result) for reference, result in results]

    def _handle_result(
        self, name: str, request: StagingRequest, result: Staged
    ) -> list[Staged]:
        """Handle the ``result`` of a task that the node ``name`` has tried to stage.

        If the node failed, another node tries. If it succeeded, all other nodes stage
        the task, too. Returns a list with the result if it is the final one of the
        task. Otherwise, i.e. if another node tries, or if the task had a final result
        before, the list is empty.
        """
        others = [node for other, node in self._nodes.items() if other != name]
        if request.task in self._resolved:
            if result.error:
                self._progress(
                    f"{result.error}; trials of {request.task} that start there try"
                    " again"
                )
            return []
        if result.error:
            self._failures[request.task] += 1
            untried = [node for node in others if request.task not in node.tried]
            if untried and self._failures[request.task] < MOST_NODES:
                self._progress(f"{result.error}; another node tries")
                untried[0].waiting.appendleft(request)
                return []
        else:
            for node in others:
                if not node.has(request.task):
                    node.waiting.append(
                        replace(request, fingerprint=result.fingerprint)
                    )
        self._resolved.add(request.task)
        return [result]

    def _remove_node(self, name: str, reason: str) -> list[Staged]:
        """Remove a node that was lost, and give its tasks to another node.

        If no node is left, return these tasks as failed.
        """
        lost = self._nodes.pop(name)
        open_requests = [
            request
            for request in (*lost.running.values(), *lost.waiting)
            if request.task not in self._resolved
        ]
        if not self._nodes:
            self._resolved |= {request.task for request in open_requests}
            return [
                Staged(request.task, error=f"no node is left that stages it ({reason})")
                for request in open_requests
            ]
        least_busy = min(self._nodes.values(), key=lambda node: len(node.waiting))
        least_busy.waiting.extend(open_requests)
        return []

    def _submit(self) -> None:
        """Start waiting requests, at most `AT_ONCE` on each node."""
        for node in self._nodes.values():
            while node.waiting and len(node.running) < AT_ONCE:
                request = node.waiting.popleft()
                node.tried.add(request.task)
                node.running[node.actor.stage.remote(request)] = request
        if not any(node.running for node in self._nodes.values()):
            self.close()  # everything is staged: frees the memory of the actors

    def _show_messages(self, node: _Node) -> None:
        """Pass on the messages of a node's actor, and ask for new ones once a second.

        ``node.messages`` is the pending reply of the actor; None if it was not asked.
        """
        if node.messages is None:
            if (
                node.running or not node.started
            ) and time.monotonic() - node.asked_at >= 1.0:
                node.messages = node.actor.messages.remote()
                node.asked_at = time.monotonic()
        elif ray.wait([node.messages], timeout=0)[0]:
            for text in ray.get(node.messages):
                self._progress(text)
            node.messages = None
            node.started = True
        elif not node.started:
            self._check_start(time.monotonic() - node.asked_at)

    def _check_start(self, seconds: float) -> None:
        """Inform the user once that no worker has started in ``seconds``.

        Raises ClusterLostError after the time limit of heartbeats.
        """
        limit = f"{self._limit / 60:g} min"
        if seconds > self._limit:
            raise ClusterLostError(
                f"no worker of Ray has started in {limit}: {self._cluster}"
            )
        if seconds > NOTICE_SECONDS and not self._noticed:
            self._noticed = True
            self._progress(
                f"no worker of Ray has started in {seconds:.0f} s, waiting up to"
                f" {limit}: {self._cluster}"
            )

    def close(self) -> None:
        """End the actors."""
        for node in self._nodes.values():
            ray.kill(node.actor)
        self._nodes.clear()
