"""Staging on one node, and which node stages which task: copies, origins, damaged
files, nodes that cannot or die.
"""

import logging
import shutil
from collections.abc import Callable
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


def published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
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
    uri = published(tmp_path, monkeypatch)
    monkeypatch.setattr(
        Task, "fetch", lambda *_, **__: pytest.fail("fetched from the origin")
    )
    assert stage(REQUEST, uri) == WDBC.fingerprint
    assert staged_data(REQUEST, uri).directory.is_relative_to(empty_home)


@pytest.mark.parametrize("share", [True, False])
def test_damaged_data_are_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, empty_home: Path, share: bool
) -> None:
    uri = published(tmp_path, monkeypatch) if share else None
    WDBC.prepare()
    array = WDBC.prepared_directory() / "train_x.npy"
    good = array.read_bytes()
    array.write_bytes(
        good[:-4] + b"\0\0\0\1"
    )  # as long as before, so that only the hash differs
    messages: list[str] = []
    stage(REQUEST, uri, messages.append)
    assert array.read_bytes() == good
    assert (
        bool(messages) is not share
    )  # only what is prepared from the origin is worth a message


def test_a_damaged_copy_is_not_taken_and_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, empty_home: Path
) -> None:
    uri = published(tmp_path, monkeypatch)
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
    assert (
        stage(REQUEST, (tmp_path / "shared").as_uri(), messages.append)
        == WDBC.fingerprint
    )
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
    for name, content in (("refs/main", "abc"), ("snapshots/abc/config.json", "{}")):
        path = body / name
        path.parent.mkdir(parents=True)
        path.write_text(content)
    blob = body / "blobs" / "1"
    blob.parent.mkdir()
    blob.write_bytes(b"weights")
    (body / "snapshots" / "abc" / "model.safetensors").symlink_to(blob)
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


def test_names_are_those_of_complete_copies(tmp_path: Path) -> None:
    packages = tmp_path / "home" / "packages"
    packages.mkdir(parents=True)
    (packages / "body.whl").write_bytes(b"weights")
    shared = SharedFolder(str(tmp_path / "shared"))
    shared.publish("packages/body.whl", tmp_path / "home", replace=False)
    (tmp_path / "shared" / "packages" / "without_manifest.whl").write_bytes(b"half")
    assert shared.names("packages") == ["body.whl"]


def test_a_manifest_that_leads_outside_is_refused(tmp_path: Path) -> None:
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared" / "a.manifest.json").write_text('{"files": {"../../b": "0"}}')
    assert not SharedFolder(str(tmp_path / "shared")).bring(
        "a", tmp_path / "home", pytest.fail
    )
    assert not (tmp_path / "home").exists()


def test_a_task_that_cannot_be_fetched_fails_alone(
    empty_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetch = Task.fetch

    def dead(task: Task, *args: object, protocol: str = "held-out") -> None:
        if task.name == "pocket/digits":
            raise UserError("no answer from nowhere.example")
        fetch(task, protocol=protocol)

    monkeypatch.setattr(Task, "fetch", dead)
    digits = StagingRequest(task="pocket/digits", protocol="held-out", fingerprint="")
    stager = InlineStager([digits, REQUEST], None, lambda text: None)
    failed, done = stager.first()
    assert failed.task == "pocket/digits"
    assert failed.fingerprint == ""
    assert done == (WDBC.name, WDBC.fingerprint, "")
    assert failed.error.endswith(": no answer from nowhere.example")
    assert stager.poll(idle=True) == [failed, done]
    assert stager.poll(idle=True) == []


def test_workers_get_listed_variables_and_nothing_shows_them(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv("HF_TOKEN", "hf_word")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "word")
    monkeypatch.setenv("SOME_PASSWORD", "word")
    found = passed_environment()
    assert {"HF_TOKEN", "AWS_SECRET_ACCESS_KEY"} <= found.keys()
    assert "SOME_PASSWORD" not in found
    settings = WorkerSettings(
        "s3://key:word@bucket/results", "s3://key:word@bucket/staged", environment=found
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
        task = Task.from_arrays(
            np.linspace(0, 1, 180).reshape(30, 2, 3) + labels[:, None, None], labels
        )
        data = task.prepare()
        request = StagingRequest(
            task=task.name, protocol="held-out", fingerprint=data.fingerprint
        )
        assert stage(request, uri) == data.fingerprint
    with pytest.raises(
        StagingError,
        match=(
            r"missing or damaged in .*name a folder that all nodes share with --staging"
        ),
    ):
        stage(request, None)
    assert staged_data(request, uri).directory.is_relative_to(empty_home)
    assert get_task(task.name) == task
    shutil.rmtree(own_directory(task.name))
    assert len(staged_data(request, uri).train)


TASKS = ("b/one", "b/two", "b/three")


class FakeCluster:
    """Stands for the module `ray`, without processes: results are there at once, those
    of lost nodes raise.
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
        def stage(request: StagingRequest) -> Any:
            def result() -> Staged:
                if node in self.lost:
                    raise ray.exceptions.RayActorError
                self.staged.append((node, request.task))
                error = self._answer(node, request.task)
                return Staged(request.task, "" if error else "f" * 16, error)

            return object() if node in self.silent else result

        messages = SimpleNamespace(
            remote=lambda: object() if node in self.silent else list
        )
        return SimpleNamespace(
            node=node, stage=SimpleNamespace(remote=stage), messages=messages
        )

    def wait(self, references: list[Any], **_: object) -> tuple[list[Any], list[Any]]:
        return [each for each in references if callable(each)], []

    def get(self, reference: Callable[[], Any]) -> Any:
        return reference()

    def kill(self, actor: Any) -> None:
        self.killed.append(actor.node)


def new_stager(
    monkeypatch: pytest.MonkeyPatch,
    answer: Callable[[str, str], str],
    limit: float = 1800.0,
) -> tuple[RayStager, FakeCluster, list[str]]:
    """Return a stager of three nodes, its cluster, and its messages.

    ``answer`` returns the error of (node, task).
    """
    cluster = FakeCluster(answer)
    messages = list[str]()
    monkeypatch.setattr(ray_stager, "ray", cluster)
    monkeypatch.setattr(RayStager, "_start", staticmethod(cluster.start))
    requests = [
        StagingRequest(task=task, protocol="held-out", fingerprint="") for task in TASKS
    ]
    settings = WorkerSettings("results", time=TimeLimits(heartbeat=limit))
    return (
        RayStager(requests, settings, "abc", messages.append, "3 CPUs; logs: x"),
        cluster,
        messages,
    )


def drain(stager: RayStager) -> dict[str, Staged]:
    found = stager.first()
    found = [each for _ in range(20) for each in stager.poll(idle=True)]
    assert len(found) == len({each.task for each in found}), "each task once"
    return {each.task: each for each in found}


def test_each_task_has_one_first_node_and_then_all_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stager, cluster, _ = new_stager(monkeypatch, lambda node, task: "")
    assert {
        task: each.fingerprint for task, each in drain(stager).items()
    } == dict.fromkeys(TASKS, "f" * 16)
    assert cluster.staged[:3] == [("a", "b/one"), ("b", "b/two"), ("c", "b/three")]
    assert sorted(cluster.staged) == sorted(
        (node, task) for node in "abc" for task in TASKS
    )
    assert cluster.killed == ["a", "b", "c"], "the actors are ended when all is staged"


def test_the_drivers_node_tries_what_another_cannot(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    prepared: set[str] = set()

    def answer(node: str, task: str) -> str:
        if node == "a":
            prepared.add(task)
        return "" if task in prepared else "no network"

    stager, cluster, messages = new_stager(monkeypatch, answer)
    assert {each.error for each in drain(stager).values()} == {""}
    assert messages == ["no network; another node tries"] * 2
    assert sorted(cluster.staged) == sorted(
        [(n, t) for n in "abc" for t in TASKS] + [("b", "b/two"), ("c", "b/three")]
    )


def test_one_dead_address_fails_one_task(monkeypatch: pytest.MonkeyPatch) -> None:
    stager, cluster, _ = new_stager(
        monkeypatch, lambda node, task: "no answer" if task == "b/two" else ""
    )
    found = drain(stager)
    assert {task: each.error for task, each in found.items()} == {
        "b/one": "",
        "b/two": "no answer",
        "b/three": "",
    }
    assert [node for node, task in cluster.staged if task == "b/two"] == ["b", "a", "c"]


def test_the_tasks_of_a_lost_node_go_to_others(monkeypatch: pytest.MonkeyPatch) -> None:
    stager, cluster, _ = new_stager(monkeypatch, lambda node, task: "")
    cluster.lost.add("b")
    assert {each.error for each in drain(stager).values()} == {""}
    assert {node for node, _ in cluster.staged} == {"a", "c"}


def test_nodes_without_workers_are_reported_once_and_their_tasks_go_to_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ray_stager, "NOTICE_SECONDS", 0.0)
    stager, cluster, messages = new_stager(
        monkeypatch, lambda node, task: "", limit=0.3
    )
    cluster.silent |= set("ab")
    while len(cluster.staged) < len(TASKS):
        stager.poll()
    assert {node for node, _ in cluster.staged} == {"c"}
    assert messages == [
        "no worker of Ray has started in 0 s, waiting up to 0.005 minutes: 3 CPUs;"
        " logs: x"
    ]


def test_a_cluster_without_workers_ends_as_a_lost_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stager, cluster, messages = new_stager(
        monkeypatch, lambda node, task: "", limit=0.3
    )
    cluster.silent |= set("abc")
    with pytest.raises(
        ClusterLostError,
        match=r"^no worker of Ray has started in 0\.005 minutes: 3 CPUs; logs: x$",
    ):
        stager.first()
    assert messages == []


def test_without_any_node_all_tasks_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    stager, cluster, _ = new_stager(monkeypatch, lambda node, task: "")
    cluster.lost |= set("abc")
    assert all("no node is left" in each.error for each in drain(stager).values())
