"""Which node stages which task, and what happens when one cannot, or dies; the actors are fakes in this process."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

ray = pytest.importorskip("ray")

from orca_ray.sweep.run.messages import WorkerSettings  # noqa: E402
from orca_ray.sweep.worker import ray_stager  # noqa: E402
from orca_ray.sweep.worker.ray_stager import RayStager  # noqa: E402
from orca_ray.sweep.worker.staging import Staged  # noqa: E402
from orca_ray.sweep.worker.staging_items import StagingRequest  # noqa: E402

TASKS = ("b/one", "b/two", "b/three")


class FakeCluster:
    """Stands for the module `ray`: results are there at once, those of lost nodes raise."""

    exceptions = ray.exceptions

    def __init__(self, answer: Callable[[str, str], str]) -> None:
        self._answer = answer
        self.staged: list[tuple[str, str]] = []
        self.lost: set[str] = set()
        self.killed: list[str] = []

    def start(self, node: str, settings: WorkerSettings) -> Any:
        def stage(request: StagingRequest) -> Callable[[], Staged]:
            def result() -> Staged:
                if node in self.lost:
                    raise ray.exceptions.RayActorError
                self.staged.append((node, request.task))
                error = self._answer(node, request.task)
                return Staged(request.task, "" if error else "f" * 16, error)

            return result

        remote = SimpleNamespace(remote=stage)
        return SimpleNamespace(node=node, stage=remote, messages=SimpleNamespace(remote=lambda: list))

    def wait(self, references: list[Any], **_: object) -> tuple[list[Any], list[Any]]:
        return references, []

    def get(self, reference: Callable[[], Any]) -> Any:
        return reference()

    def kill(self, actor: Any) -> None:
        self.killed.append(actor.node)


def new_stager(
    monkeypatch: pytest.MonkeyPatch, answer: Callable[[str, str], str]
) -> tuple[RayStager, FakeCluster, list[str]]:
    """Return a stager of three nodes, its cluster, and its messages; ``answer`` returns the error of (node, task)."""
    cluster, messages = FakeCluster(answer), list[str]()
    monkeypatch.setattr(ray_stager, "ray", cluster)
    monkeypatch.setattr(RayStager, "_start", staticmethod(cluster.start))
    requests = [StagingRequest(task=task, protocol="held-out", fingerprint="") for task in TASKS]
    return RayStager(requests, WorkerSettings("results"), "abc", messages.append), cluster, messages


def drain(stager: RayStager) -> dict[str, Staged]:
    found = stager.first()
    found = [each for _ in range(20) for each in stager.poll(idle=True)]
    assert len(found) == len({each.task for each in found}), "each task once"
    return {each.task: each for each in found}


def test_each_task_has_one_first_node_and_then_all_others(monkeypatch: pytest.MonkeyPatch) -> None:
    stager, cluster, _ = new_stager(monkeypatch, lambda node, task: "")
    assert {task: each.fingerprint for task, each in drain(stager).items()} == dict.fromkeys(TASKS, "f" * 16)
    assert cluster.staged[:3] == [("a", "b/one"), ("b", "b/two"), ("c", "b/three")]
    assert sorted(cluster.staged) == sorted((node, task) for node in "abc" for task in TASKS)
    assert cluster.killed == ["a", "b", "c"], "the actors are ended when all is staged"


def test_the_drivers_node_tries_what_another_cannot(monkeypatch: pytest.MonkeyPatch) -> None:
    prepared: set[str] = set()

    def answer(node: str, task: str) -> str:
        if node == "a":
            prepared.add(task)
        return "" if task in prepared else "no network"

    stager, cluster, messages = new_stager(monkeypatch, answer)
    assert {each.error for each in drain(stager).values()} == {""}
    assert messages == ["no network; another node tries"] * 2
    assert sorted(cluster.staged) == sorted([(n, t) for n in "abc" for t in TASKS] + [("b", "b/two"), ("c", "b/three")])


def test_one_dead_address_fails_one_task(monkeypatch: pytest.MonkeyPatch) -> None:
    stager, cluster, _ = new_stager(monkeypatch, lambda node, task: "no answer" if task == "b/two" else "")
    found = drain(stager)
    assert {task: each.error for task, each in found.items()} == {"b/one": "", "b/two": "no answer", "b/three": ""}
    assert [node for node, task in cluster.staged if task == "b/two"] == ["b", "a", "c"]


def test_the_tasks_of_a_lost_node_go_to_others(monkeypatch: pytest.MonkeyPatch) -> None:
    stager, cluster, _ = new_stager(monkeypatch, lambda node, task: "")
    cluster.lost.add("b")
    assert {each.error for each in drain(stager).values()} == {""}
    assert {node for node, _ in cluster.staged} == {"a", "c"}


def test_without_any_node_all_tasks_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    stager, cluster, _ = new_stager(monkeypatch, lambda node, task: "")
    cluster.lost |= set("abc")
    assert all("no node is left" in each.error for each in drain(stager).values())
