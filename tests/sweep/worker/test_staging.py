"""Staging of data and bodies on one node, and on the nodes of a cluster."""

import logging
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import ray

from orca_ray.errors import ClusterLostError, UserError
from orca_ray.sweep.messages.causes import StagingError
from orca_ray.sweep.messages.settings import (
    TimeLimits,
    WorkerSettings,
    passed_environment,
)
from orca_ray.sweep.worker import ray_stager
from orca_ray.sweep.worker.ray_stager import RayStager
from orca_ray.sweep.worker.staging import InlineStager, Staged, stage, staged_data
from orca_ray.sweep.worker.staging_items import Item, SharedFolder, StagingRequest
from orca_ray.tasks.registry import get_task, own_directory
from orca_ray.tasks.task import Task

WDBC = get_task("pocket/wdbc")
REQUEST = StagingRequest(
    task=WDBC.name, protocol="held-out", fingerprint=WDBC.fingerprint or ""
)


def publish(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Let another node stage the task and publish it.

    Return the URI of the shared folder.
    """
    uri = (tmp_path / "shared").as_uri()
    with monkeypatch.context() as patch:
        patch.setenv("ORCA_RAY_HOME", str(tmp_path / "another"))
        assert stage(REQUEST, uri) == WDBC.fingerprint
    return uri


def test_a_node_without_data_copies_what_another_has_published(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, empty_home: Path
) -> None:
    uri = publish(tmp_path, monkeypatch)
    monkeypatch.setattr(
        Task, "fetch", lambda *_, **__: pytest.fail("fetched from the origin")
    )
    assert stage(REQUEST, uri) == WDBC.fingerprint
    assert staged_data(REQUEST, uri).directory.is_relative_to(empty_home)


@pytest.mark.parametrize("share", [True, False])
def test_damaged_data_are_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, empty_home: Path, share: bool
) -> None:
    uri = publish(tmp_path, monkeypatch) if share else None
    WDBC.prepare()
    array = WDBC.prepared_directory() / "train_x.npy"
    good = array.read_bytes()
    array.write_bytes(good[:-4] + b"\0\0\0\1")  # only the hash differs
    messages: list[str] = []
    stage(REQUEST, uri, messages.append)
    assert array.read_bytes() == good
    is_prepared_again = not share
    assert bool(messages) is is_prepared_again


def test_a_damaged_copy_is_not_taken_and_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, empty_home: Path
) -> None:
    uri = publish(tmp_path, monkeypatch)
    copy = next((tmp_path / "shared").rglob("train_x.npy"))
    good = copy.read_bytes()
    copy.write_bytes(good[:-4] + b"\0\0\0\1")
    messages: list[str] = []
    assert stage(REQUEST, uri, messages.append) == WDBC.fingerprint
    assert "train_x.npy is damaged" in messages[0]
    assert copy.read_bytes() == good


def test_a_folder_that_takes_nothing_is_a_message_and_no_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, empty_home: Path
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError("read-only")

    monkeypatch.setattr(Item, "publish", refuse)
    messages: list[str] = []
    uri = (tmp_path / "shared").as_uri()
    assert stage(REQUEST, uri, messages.append) == WDBC.fingerprint
    assert messages[-1].startswith("data of pocket/wdbc cannot be published in ")
    assert messages[-1].endswith(": read-only")


def test_data_of_another_fingerprint_are_a_failure_of_the_node_and_stay(
    empty_home: Path,
) -> None:
    assert stage(REQUEST, None) == WDBC.fingerprint
    other = StagingRequest(task=WDBC.name, protocol="held-out", fingerprint="0" * 16)
    with pytest.raises(StagingError, match="orca-sweep data prepare pocket/wdbc"):
        stage(other, None)
    assert WDBC.prepared() is not None


def test_a_hub_body_is_published_and_copied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    body = tmp_path / "hub" / "models--someone--body"
    snapshot = body / "snapshots" / "abc"
    for folder in (body / "refs", body / "blobs", snapshot):
        folder.mkdir(parents=True)
    (body / "refs" / "main").write_text("abc")
    (snapshot / "config.json").write_text("{}")
    (body / "blobs" / "1").write_bytes(b"weights")
    (snapshot / "model.safetensors").symlink_to(body / "blobs" / "1")
    request = StagingRequest(
        task=WDBC.name, protocol="held-out", fingerprint="", bodies=("someone/body",)
    )
    _, item = request.items()
    shared = SharedFolder(str(tmp_path / "shared"))
    item.publish(shared, replace=False)
    monkeypatch.setattr(
        "huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "other")
    )
    item.bring(shared, pytest.fail)
    copied = tmp_path / "other" / "models--someone--body" / "snapshots" / "abc"
    assert {path.name: path.read_text() for path in copied.iterdir()} == {
        "config.json": "{}",
        "model.safetensors": "weights",
    }


@pytest.mark.parametrize("content", [b"../../..", b"a/b", b"", b"\xff", b"a" * 2000])
def test_a_revision_that_leads_outside_is_refused(
    content: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    references = tmp_path / "hub" / "models--someone--body" / "refs"
    references.mkdir(parents=True)
    (references / "main").write_bytes(content)
    request = StagingRequest(
        task=WDBC.name, protocol="held-out", fingerprint="", bodies=("someone/body",)
    )
    _, item = request.items()
    with pytest.raises(UserError, match="main"):
        item.paths()


def test_names_are_those_of_complete_copies(tmp_path: Path) -> None:
    packages = tmp_path / "home" / "packages"
    packages.mkdir(parents=True)
    (packages / "body.whl").write_bytes(b"weights")
    shared = SharedFolder(str(tmp_path / "shared"))
    shared.publish("packages/body.whl", tmp_path / "home", replace=False)
    (tmp_path / "shared" / "packages" / "without_manifest.whl").write_bytes(b"half")
    assert shared.names("packages") == ["body.whl"]


@pytest.mark.parametrize("name", ["../../b", "/b", "b\\u0000", "\\ud800"])
def test_a_manifest_that_leads_outside_is_refused(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "shared"
    folder.mkdir()
    (folder / "a.manifest.json").write_text(f'{{"files": {{"{name}": "0"}}}}')
    shared = SharedFolder(str(folder))
    assert not shared.bring("a", tmp_path / "home", pytest.fail)
    assert not (tmp_path / "home").exists()


def test_a_task_that_cannot_be_fetched_fails_alone(
    empty_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetch = Task.fetch

    def fetch_all_but_digits(
        task: Task, *args: object, protocol: str = "held-out"
    ) -> None:
        if task.name == "pocket/digits":
            raise UserError("no answer from nowhere.example")
        fetch(task, protocol=protocol)

    monkeypatch.setattr(Task, "fetch", fetch_all_but_digits)
    digits = StagingRequest(task="pocket/digits", protocol="held-out", fingerprint="")
    stager = InlineStager([digits, REQUEST], None, lambda text: None)
    failed, staged = stager.first()
    assert failed.task == "pocket/digits"
    assert failed.fingerprint == ""
    assert staged == Staged(WDBC.name, WDBC.fingerprint or "")
    assert failed.error.endswith(": no answer from nowhere.example")
    assert stager.poll(idle=True) == [failed, staged]
    assert stager.poll(idle=True) == []


def test_workers_get_listed_variables_and_nothing_shows_them(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv("HF_TOKEN", "hf_word")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "word")
    monkeypatch.setenv("SOME_PASSWORD", "word")
    variables = passed_environment()
    assert {"HF_TOKEN", "AWS_SECRET_ACCESS_KEY"} <= variables.keys()
    assert "SOME_PASSWORD" not in variables
    settings = WorkerSettings(
        "s3://key:word@bucket/results",
        "s3://key:word@bucket/staged",
        environment=variables,
    )
    assert "word" not in repr(settings)
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("HF_TOKEN", "the node's own")
    settings.apply()
    assert passed_environment()["AWS_SECRET_ACCESS_KEY"] == "word"
    assert passed_environment()["HF_TOKEN"] == "the node's own"
    assert "word" not in caplog.text


def test_an_own_task_comes_with_its_declaration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, empty_home: Path
) -> None:
    uri = (tmp_path / "shared").as_uri()
    with monkeypatch.context() as patch:
        patch.setenv("ORCA_RAY_HOME", str(tmp_path / "another"))
        labels = np.arange(30) % 2
        noise = np.linspace(0, 1, 180).reshape(30, 2, 3)
        task = Task.from_arrays(noise + labels[:, None, None], labels)
        data = task.prepare()
        request = StagingRequest(
            task=task.name, protocol="held-out", fingerprint=data.fingerprint
        )
        assert stage(request, uri) == data.fingerprint
    message = (
        r"missing or damaged in .*name a folder that all nodes share with --staging"
    )
    with pytest.raises(StagingError, match=message):
        stage(request, None)
    assert staged_data(request, uri).directory.is_relative_to(empty_home)
    assert get_task(task.name) == task
    shutil.rmtree(own_directory(task.name))
    assert len(staged_data(request, uri).train)


TASKS = ("b/one", "b/two", "b/three")


class FakeCluster:
    """Stand-in for the module `ray`, without processes.

    Results are there at once; those of lost nodes raise.
    """

    exceptions = ray.exceptions

    def __init__(self, answer: Callable[[str, str], str]) -> None:
        self._answer = answer
        self.staged: list[tuple[str, str]] = []
        self.lost: set[str] = set()
        self.silent: set[str] = set()
        """Nodes on which no worker starts."""
        self.killed: list[str] = []

    def start(self, node: str, settings: WorkerSettings, joined: bool) -> Any:
        """Return an actor of a node; its references are functions when it answers."""

        def stage(request: StagingRequest) -> Any:
            if node in self.silent:
                return object()
            return lambda: self._stage(node, request.task)

        def list_messages() -> Any:
            return object() if node in self.silent else list

        return SimpleNamespace(
            node=node,
            stage=SimpleNamespace(remote=stage),
            messages=SimpleNamespace(remote=list_messages),
        )

    def _stage(self, node: str, task: str) -> Staged:
        if node in self.lost:
            raise ray.exceptions.RayActorError
        self.staged.append((node, task))
        error = self._answer(node, task)
        fingerprint = "" if error else "f" * 16
        return Staged(task, fingerprint, error)

    def wait(self, references: list[Any], **_: object) -> tuple[list[Any], list[Any]]:
        ready = [reference for reference in references if callable(reference)]
        return ready, []

    def get(self, reference: Callable[[], Any]) -> Any:
        return reference()

    def kill(self, actor: Any) -> None:
        self.killed.append(actor.node)


@dataclass
class StagedCluster:
    """A stager of three nodes, its cluster, and the messages that it sent."""

    stager: RayStager
    cluster: FakeCluster
    messages: list[str]

    def drain(self) -> dict[str, Staged]:
        """Stage all tasks on all nodes; return what came of each task, by its name."""
        self.stager.first()
        staged: dict[str, Staged] = {}
        for _ in range(20):
            for task in self.stager.poll(idle=True):
                assert task.task not in staged, "each task once"
                staged[task.task] = task
        return staged

    def drain_errors(self) -> dict[str, str]:
        """Stage all tasks on all nodes; return their errors, by name of the task."""
        return {name: task.error for name, task in self.drain().items()}


NO_ERRORS = dict.fromkeys(TASKS, "")


def succeed(node: str, task: str) -> str:
    """Return no error of a task on a node."""
    return ""


def make_cluster(
    monkeypatch: pytest.MonkeyPatch,
    answer: Callable[[str, str], str] = succeed,
    limit: float = 1800.0,
) -> StagedCluster:
    """Return a cluster of the nodes a, b and c.

    ``answer`` returns the error of (node, task), and "" without an error.
    """
    cluster = FakeCluster(answer)
    messages = list[str]()
    monkeypatch.setattr(ray_stager, "ray", cluster)
    monkeypatch.setattr(RayStager, "_start", staticmethod(cluster.start))
    requests = [
        StagingRequest(task=task, protocol="held-out", fingerprint="") for task in TASKS
    ]
    settings = WorkerSettings("results", time=TimeLimits(heartbeat=limit))
    stager = RayStager(requests, settings, "abc", messages.append, "3 CPUs; logs: x")
    return StagedCluster(stager, cluster, messages)


def test_each_task_has_one_first_node_and_then_all_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    staged = make_cluster(monkeypatch)
    tasks = staged.drain()
    assert set(tasks) == set(TASKS)
    assert {task.fingerprint for task in tasks.values()} == {"f" * 16}
    first = staged.cluster.staged[:3]
    assert first == [("a", "b/one"), ("b", "b/two"), ("c", "b/three")]
    assert sorted(staged.cluster.staged) == sorted(product("abc", TASKS))
    assert staged.cluster.killed == ["a", "b", "c"], "all is staged: actors end"


def test_the_drivers_node_tries_what_another_cannot(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    prepared: set[str] = set()

    def prepare_on_first_node(node: str, task: str) -> str:
        if node == "a":
            prepared.add(task)
        return "" if task in prepared else "no network"

    staged = make_cluster(monkeypatch, prepare_on_first_node)
    assert staged.drain_errors() == NO_ERRORS
    assert staged.messages == ["no network; another node tries"] * 2
    failed_first = [("b", "b/two"), ("c", "b/three")]
    expected = [*product("abc", TASKS), *failed_first]
    assert sorted(staged.cluster.staged) == sorted(expected)


def test_one_dead_address_fails_one_task(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail_second_task(node: str, task: str) -> str:
        return "no answer" if task == "b/two" else ""

    staged = make_cluster(monkeypatch, fail_second_task)
    assert staged.drain_errors() == {**NO_ERRORS, "b/two": "no answer"}
    nodes = [node for node, task in staged.cluster.staged if task == "b/two"]
    assert nodes == ["b", "a", "c"]


def test_the_tasks_of_a_lost_node_go_to_others(monkeypatch: pytest.MonkeyPatch) -> None:
    staged = make_cluster(monkeypatch)
    staged.cluster.lost.add("b")
    assert staged.drain_errors() == NO_ERRORS
    assert {node for node, _ in staged.cluster.staged} == {"a", "c"}


def test_nodes_without_workers_are_reported_once_and_their_tasks_go_to_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ray_stager, "NOTICE_SECONDS", 0.0)
    staged = make_cluster(monkeypatch, limit=0.3)
    staged.cluster.silent = {"a", "b"}
    while len(staged.cluster.staged) < len(TASKS):
        staged.stager.poll()
    assert {node for node, _ in staged.cluster.staged} == {"c"}
    assert staged.messages == [
        "no worker of Ray has started in 0 s, waiting up to 0.005 min: 3 CPUs; logs: x"
    ]


def test_a_cluster_without_workers_ends_as_a_lost_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    staged = make_cluster(monkeypatch, limit=0.3)
    staged.cluster.silent = {"a", "b", "c"}
    message = r"^no worker of Ray has started in 0\.005 min: 3 CPUs; logs: x$"
    with pytest.raises(ClusterLostError, match=message):
        staged.stager.first()
    assert staged.messages == []


def test_without_any_node_all_tasks_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    staged = make_cluster(monkeypatch)
    staged.cluster.lost = {"a", "b", "c"}
    errors = staged.drain_errors()
    assert set(errors) == set(TASKS)
    assert all("no node is left" in error for error in errors.values())
