"""``plan`` and ``--dry-run``: what they print, and that nothing is run."""

from pathlib import Path
from unittest.mock import Mock

import pytest

from orca_ray.cli.benchmark import _commands
from orca_ray.sweep.run import driver
from orca_ray.tasks.registry import get_benchmark
from tests.cli.conftest import SWEEP, Command


@pytest.fixture
def prepared_data(monkeypatch: pytest.MonkeyPatch) -> None:
    """Plan as if the data of every task were prepared."""
    monkeypatch.setattr("orca_ray.sweep.plan.plan.fingerprints", lambda spec, **_: dict.fromkeys(spec.tasks, "f" * 16))


@pytest.mark.usefixtures("prepared_data")
def test_a_dry_run_starts_and_writes_nothing(
    command: Command, monkeypatch: pytest.MonkeyPatch, sweep_file: str, tmp_path: Path
) -> None:
    monkeypatch.setattr(driver, "run_sweep", Mock(side_effect=AssertionError("a dry run ran")))
    place = tmp_path / "store"
    ending = command("run", sweep_file, "--dry-run", "--json", "--results", str(place))
    assert ending.code == 0
    plan = ending.json
    assert plan["num_trials"] == 8
    assert [(row["task"], row["search_trials"], row["confirm_trials"]) for row in plan["rows"]] == [
        ("pocket/digits", 2, 2),
        ("pocket/wdbc", 2, 2),
    ]
    assert not place.exists()
    table = command("plan", sweep_file, "--results", str(place))
    assert table.code == 0
    assert "mine/full, protocol held-out: 8 trials, 0 done" in table.out
    assert "wdbc" in table.out


@pytest.mark.usefixtures("prepared_data")
def test_a_plan_says_that_a_sweep_is_deterministic(command: Command) -> None:
    Path("sweep.yaml").write_text(SWEEP)
    Path("fixed.yaml").write_text(SWEEP + "deterministic: true\n")
    for arguments in (["plan", "sweep.yaml", "--deterministic"], ["run", "fixed.yaml", "--dry-run"]):
        ending = command(*arguments)
        assert "mine/full-deterministic, protocol held-out: 8 trials" in ending.out
        assert "deterministic: one thread per trial" in ending.out
        assert command(*arguments, "--json").json["deterministic"] is True
    assert command("plan", "sweep.yaml", "--json").json["deterministic"] is False


@pytest.mark.usefixtures("prepared_data")
def test_a_plan_fits_eighty_columns_with_a_line_a_study(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    ending = command("plan", "pocket")
    assert ending.code == 0
    lines = [line for line in ending.out.splitlines() if not line.startswith("  orca-sweep ")]  # to be copied whole
    assert max(map(len, lines)) <= 80
    planned = command("plan", "pocket", "--json").json
    rows = [line.split() for line in ending.out.splitlines()[2 : 2 + len(planned["rows"])]]
    assert [row[:3] for row in rows] == [
        [row["task"].removeprefix("pocket/"), row["method"], row["body"]] for row in planned["rows"]
    ]
    assert "each trial: 1 CPU" in ending.out


@pytest.mark.usefixtures("prepared_data")
def test_a_plan_says_what_cannot_be_placed(command: Command) -> None:
    Path("big.yaml").write_text(SWEEP + "resources: {cpus: 4096}\n")
    ending = command("plan", "big.yaml")
    assert ending.code == 2
    assert ending.err.startswith("cannot be placed: pocket/digits nft and 1 more: a trial asks for 4096 CPUs")
    assert len(ending.err.splitlines()) == 1
    assert "4096 CPU" in ending.out


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)


@pytest.mark.usefixtures("no_gpu")
def test_a_plan_says_what_each_task_costs_and_what_brings_its_data(command: Command) -> None:
    ending = command("plan", "nasbench360", "--tasks", "ecg", "--methods", "nft")
    lines = ending.out.splitlines()
    (header,) = [line for line in lines if "GPU h  " in line]
    assert " ".join(header.split()) == "task trials epochs GPU h CPU h raw GB prepared GB data"
    row = lines[lines.index(header) + 2].split()
    assert (row[0], row[1], row[2], row[-1]) == ("ecg", "3", "45", "missing")
    assert "GPU h: an A100 (none is here to be measured)" in ending.out
    after = lines[lines.index("missing: data of 1 of 1 tasks") + 1]
    assert after == "  orca-sweep data fetch nasbench360/ecg"  # not of the whole benchmark
    (cost,) = command("plan", "nasbench360", "--tasks", "ecg", "--methods", "nft", "--json").json["costs"]
    assert cost["gpu_hours"] < cost["cpu_hours"]
    assert float(row[4]) == pytest.approx(cost["cpu_hours"], rel=0.05)


def test_each_command_that_brings_data_is_named_once() -> None:
    def commands(*costs: tuple[str, str]) -> list[str]:
        return _commands([Mock(task=task, command=command) for task, command in costs])

    pocket = [(task.name, f"orca-sweep data fetch {task.name}") for task in get_benchmark("pocket")]
    assert commands(*pocket) == ["orca-sweep data fetch pocket"]
    first, second = pocket[0][0], pocket[1][0]
    assert commands(*pocket[:2]) == [f"orca-sweep data fetch {first} {second}"]
    assert commands(pocket[0], (second, f"prepare {second} --raw DIR")) == [pocket[0][1], f"prepare {second} --raw DIR"]
