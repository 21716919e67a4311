"""``benchmark``, ``run`` and ``plan``: what reaches the sweep and what is printed."""

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest

from orca_ray.cli import sweep_progress
from orca_ray.cli.benchmark import _data_commands
from orca_ray.errors import UserError
from orca_ray.methods.reports import EpochProgress
from orca_ray.options import KeepModels
from orca_ray.process import NodeResources
from orca_ray.results.live import Limits, Row
from orca_ray.results.record import Status
from orca_ray.results.store import ResultsStore
from orca_ray.sweep import executors
from orca_ray.sweep.executors.inline import InlineExecutor
from orca_ray.sweep.messages.settings import TimeLimits
from orca_ray.sweep.plan.loading import shipped_sweeps
from orca_ray.sweep.plan.spec import SweepSpec
from orca_ray.sweep.run import driver, events
from orca_ray.sweep.run.executor import ExecutorOptions
from orca_ray.sweep.run.hours import HourLimit
from orca_ray.tasks.registry import get_benchmark
from tests.cli.conftest import SWEEP, Command
from tests.results.factories import make_record


class FakeSweep:
    """Stand-in for ``run_sweep``.

    It stores its arguments, reports two trials, and returns a summary.
    """

    def __init__(self) -> None:
        self.ending: dict[str, Any] = {}
        self.spec: Any = None
        self.store: Any = None
        self.options: dict[str, Any] = {}

    def __call__(
        self,
        spec: SweepSpec,
        results: str,
        *,
        listener: Callable[[events.Event], None],
        **options: Any,
    ) -> events.Summary:
        self.spec = spec
        self.store = ResultsStore(results, create=True)
        self.options = {**options, "executor": options["executor"].name}
        rows = (Row(task="pocket/digits", method="nft", planned=2, done=0),)
        listener(events.SweepStarted(spec.sweep_id, "this process", rows))
        for seed in (1, 2):
            key = f"k{seed}"
            listener(events.TrialStarted(key, "pocket/digits", "nft", "confirm"))
            report = EpochProgress(
                stage="refine", epoch=1, epochs=3, validation_score=0.4, loss=1.0
            )
            listener(events.TrialProgress(key, "pocket/digits", "nft", report))
            record = make_record(
                key,
                task="pocket/digits",
                method="nft",
                seed=seed,
                validation_score=0.25,
            )
            listener(events.TrialFinished(record, remaining=2 - seed))
        values: dict[str, Any] = {
            "sweep": spec.sweep_id,
            "planned": 2,
            "finished_before": 0,
            "ran": 2,
            "statuses": {Status.COMPLETED: 2},
            "seconds": 12.0,
        }
        return events.Summary(**(values | self.ending))


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeSweep:
    """Install a sweep that ends well; its attribute ``ending`` changes the summary."""
    sweep = FakeSweep()
    monkeypatch.setattr(driver, "run_sweep", sweep)
    return sweep


def test_a_sweep_that_ends_well_exits_with_0(
    command: Command, fake: FakeSweep, sweep_file: str
) -> None:
    ending = command("run", sweep_file)
    assert ending.code == 0
    assert ending.err == ""
    assert fake.options == {
        "executor": "ray",
        "address": None,
        "retry_failed": False,
        "options": ExecutorOptions(),
        "wait_seconds": 300.0,
        "staging": None,
        "keep_models": KeepModels.NONE,
        "command": f"orca-sweep run {sweep_file}",
        "limit": None,
        "limits": Limits(),
    }
    assert Path(fake.store.uri) == Path.cwd() / "results"
    lines = ending.out.splitlines()
    assert lines[0] == "mine/full: 2 trials, 0 already done; running on this process"
    assert lines[1].startswith(
        "[1/2] pocket/digits nft confirm seed 1: completed, validation 0.2500, test"
        " 0.5000"
    )
    assert lines[2].startswith("[2/2] ")
    assert lines[-1] == "leaderboard: orca-sweep leaderboard pocket --sweep mine/full"
    ending = command("run", sweep_file, "-q")
    assert ending.code == 0
    assert ending.out == ""
    assert ending.err == ""


def test_a_limit_of_hours_is_passed_on_and_its_end_is_printed(
    command: Command, fake: FakeSweep, sweep_file: str
) -> None:
    fake.ending = {"limit": "limited to 2 core hours, of which 1.9 were used"}
    ending = command("run", sweep_file, "--core-hours", "2")
    assert ending.code == 0
    assert fake.options["limit"] == HourLimit(2.0, "core")
    assert "limited to 2 core hours, of which 1.9 were used" in ending.out.splitlines()


@pytest.mark.parametrize(
    "options",
    [
        ("--gpu-hours", "1", "--core-hours", "1"),
        ("--core-hours", "inf"),
        ("--max-gpus", "inf"),
        ("--notify", "no-such-command"),
        ("--notify", "https://[x"),
        ("--staging", "s3://b[/x"),
        ("--staging", ""),
    ],
)
def test_a_dry_run_refuses_options_with_which_no_sweep_runs(
    command: Command, sweep_file: str, options: tuple[str, ...]
) -> None:
    ending = command("run", sweep_file, "--dry-run", *options)
    assert ending.code == 2
    assert ending.err.startswith("error: ")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--gpu-hours", "1", "--core-hours", "1"), "not both"),
        (("--gpu-hours", "nan"), "0.001"),
        (("--core-hours", "inf"), "is no number of hours"),
        (("--core-hours", "0"), "0.001"),
        (("--notify", "no-such-command"), "nor a command that exists"),
        (("--gpu-hours", "1", "--executor", "inline"), "Give --core-hours instead"),
    ],
)
def test_limits_and_targets_that_cannot_be_used_are_refused(
    command: Command, sweep_file: str, options: tuple[str, ...], message: str
) -> None:
    ending = command("run", sweep_file, *options)
    assert ending.code == 2
    assert message in " ".join(ending.err.split())
    assert not Path("results").exists()


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--executor", "inline"], "the body is nowhere"),
        (
            ["--address", "127.0.0.1:1"],
            "cannot reach a Ray cluster at '127.0.0.1:1'",
        ),  # before anything is fetched
    ],
)
def test_a_sweep_that_cannot_start_leaves_no_store(
    command: Command,
    sweep_file: str,
    monkeypatch: pytest.MonkeyPatch,
    options: list[str],
    expected: str,
) -> None:
    monkeypatch.setattr(
        driver, "resolve", Mock(side_effect=UserError("the body is nowhere"))
    )
    assert expected in command.fail("run", sweep_file, *options)
    assert not Path("results").exists()


def test_options_reach_the_sweep(
    command: Command, fake: FakeSweep, sweep_file: str, tmp_path: Path
) -> None:
    place = tmp_path / "my results"
    options = (
        "--tasks digits,wdbc --tasks pocket/mnist --methods orca,nft --trials 3"
        " --seeds 2 --protocol paper --body minilm-l6:layers=2 --executor inline"
        " --address 10.0.0.1:6379 --retry-failed --deterministic --gpus-per-trial 0.25"
        " --trial-minutes 1.5 --hang-minutes 20 --wait 5"
        " --staging s3://ann:secret@bucket/staged --keep-models best"
    )
    ending = command.succeed(
        "run", sweep_file, *options.split(), "--results", str(place)
    )
    assert fake.spec.tasks == ("pocket/digits", "pocket/wdbc", "pocket/mnist")
    assert fake.spec.methods == ("orca", "nft")
    assert fake.spec.search_trials("pocket/digits", "orca") == 3
    assert len(fake.spec.confirm_seeds) == 2
    assert fake.spec.protocol == "paper"
    assert fake.spec.deterministic
    assert fake.spec.sweep_id == "mine/full-trials3-deterministic"
    assert fake.spec.body("pocket/wdbc", "nft") == "minilm-l6:layers=2"
    typed = str(fake.options.pop("command"))
    assert typed.startswith(f"orca-sweep run {sweep_file} --tasks digits,wdbc")
    assert "--staging s3://***@bucket/staged" in typed.replace("'", "")
    assert fake.options == {
        "executor": "inline",
        "address": "10.0.0.1:6379",
        "retry_failed": True,
        "wait_seconds": 5.0,
        "staging": "s3://ann:secret@bucket/staged",
        "keep_models": KeepModels.BEST,
        "options": ExecutorOptions(TimeLimits(90.0, 1200.0), 0.25),
        "limit": None,
        "limits": Limits(),
    }
    assert Path(fake.store.uri) == place
    assert ending.out.splitlines()[-1] == (
        "leaderboard: orca-sweep leaderboard pocket --sweep"
        f" mine/full-trials3-deterministic --protocol paper --results '{place}'"
    )


def store_scores(
    spec: SweepSpec, results: str, *, listener: events.Listener, **options: Any
) -> events.Summary:
    """Stand in for ``run_sweep``: store scores on three tasks, one after another."""
    store = ResultsStore(results, create=True)
    pairs = spec.pairs[: 3 * len(spec.methods)]
    rows = tuple(
        Row(task=task, method=method, planned=1, done=0) for task, method in pairs
    )
    listener(events.SweepStarted(spec.sweep_id, "here", rows))
    for task, method in pairs:
        score = 0.1 * (1 + len(method)) + 0.01 * len(task)
        record = make_record(
            f"{task}{method}",
            sweep=spec.sweep_id,
            task=task,
            method=method,
            test_score=score,
        )
        store.append([record])
        listener(events.TrialFinished(record, 0))
    summary = events.Summary(spec.sweep_id, 15, 0, 15, {Status.COMPLETED: 15})
    listener(events.SweepFinished(summary))
    return summary


@pytest.fixture
def scored(monkeypatch: pytest.MonkeyPatch) -> None:
    """Install a sweep that stores scores, after each of which a board is drawn."""
    monkeypatch.setattr(driver, "run_sweep", store_scores)
    monkeypatch.setattr(sweep_progress, "SECONDS_BETWEEN_BOARDS", 0.0)
    monkeypatch.setattr(sweep_progress, "STORED_SECONDS", 0.0)
    monkeypatch.setenv("COLUMNS", "60")


@pytest.mark.usefixtures("scored")
def test_a_board_is_drawn_while_a_sweep_runs(command: Command) -> None:
    out = command.succeed("benchmark", "demo", "--board", "page.html").out
    first, second, third = (
        out.index(f"mean rank on {num_tasks} of {num_tasks} tasks so far: ")
        for num_tasks in (1, 2, 3)
    )
    assert first < second < third
    drawn = out[third:].partition("- Did")[0]
    assert max(map(len, drawn.splitlines())) <= 60
    assert {"orca_guarded", "scratch", "cnn", "osuleaf"} <= set(drawn.split())
    questions = re.findall(r"^- Did (.*) help\?", out, re.MULTILINE)
    assert questions == ["guarded aligning", "pretraining", "the transformer"]


@pytest.mark.usefixtures("scored")
@pytest.mark.parametrize("options", [[], ["--quiet"]])
def test_the_page_of_a_board_is_written(command: Command, options: list[str]) -> None:
    command.succeed("benchmark", "demo", "--board", "page.html", *options)
    assert Path("page.html").read_text().startswith("<!doctype html>")


@pytest.mark.usefixtures("scored")
def test_a_page_does_not_replace_another_file(command: Command) -> None:
    Path("other.html").write_text("mine")
    assert "other.html" in command.fail("benchmark", "demo", "--board", "other.html")
    assert Path("other.html").read_text() == "mine"


@pytest.mark.usefixtures("scored")
def test_a_page_does_not_lie_in_the_store(command: Command) -> None:
    ResultsStore("results", create=True)
    error = command.fail("benchmark", "demo", "--board", "results/page.html")
    assert "lies in results, which is read" in error


@pytest.mark.usefixtures("scored")
def test_a_grid_has_no_board(command: Command) -> None:
    grid = str(shipped_sweeps()["aligning"])
    error = command.fail("run", grid, "--board", "page.html")
    assert "sweeps without a grid" in error


def test_trials_are_shown_in_a_tracker(
    command: Command, fake: FakeSweep, sweep_file: str
) -> None:
    assert command("run", sweep_file, "--track", "tensorboard:shown").code == 0
    assert {
        path.parent.name
        for path in Path("shown/mine/full/pocket/digits/nft").glob("*/events.*")
    } == {"k1", "k2"}


@pytest.mark.parametrize(
    ("options", "which"),
    [
        ((), ""),
        (("--deterministic", "--seeds", "1"), " --sweep mine/full-deterministic"),
    ],
)
def test_a_sweep_with_a_grid_has_a_leaderboard_of_its_own(
    command: Command, fake: FakeSweep, options: tuple[str, ...], which: str
) -> None:
    Path("study.yaml").write_text(
        SWEEP.replace("search_trials: 2, ", "") + "grid: {refine.epochs: [3, 6]}\n"
    )
    ending = command("run", "study.yaml", *options)
    assert (
        ending.out.splitlines()[-1]
        == f"leaderboard: orca-sweep leaderboard study.yaml{which}"
    )


FAILED = make_record(
    "kx",
    status=Status.FAILED_NAN,
    validation_score=None,
    test_score=None,
    error="loss is NaN",
)


@pytest.mark.parametrize(
    ("summary", "code", "expected"),
    [
        (
            {"failed": (FAILED,)},
            1,
            "failed_nan: pocket/digits orca confirm seed 0 (trial kx): loss is NaN",
        ),
        (
            {"unfinished": ("pocket/digits nft: every trial failed",)},
            1,
            "pocket/digits nft: every trial failed",
        ),
        ({"interrupted": True}, 130, "the same command continues"),
        (
            {"ran": 0, "finished_before": 2, "statuses": {}},
            0,
            "mine/full: up to date, 2 trials done",
        ),
    ],
)
def test_a_sweep_that_does_not_end_well_says_why(
    command: Command,
    fake: FakeSweep,
    sweep_file: str,
    summary: dict[str, Any],
    code: int,
    expected: str,
) -> None:
    fake.ending = summary
    ending = command("run", sweep_file)
    assert ending.code == code
    assert expected in ending.out + ending.err


def test_a_failed_trial_is_named_even_by_a_quiet_command(
    command: Command, fake: FakeSweep, sweep_file: str
) -> None:
    fake.ending = {"failed": (FAILED,)}
    ending = command("run", sweep_file, "--quiet")
    assert ending.code == 1
    assert ending.out == ""
    sentence = "failed_nan: pocket/digits orca confirm seed 0 (trial kx): loss is NaN"
    assert sentence in ending.err


def test_a_failed_trial_is_part_of_the_json_document(
    command: Command, fake: FakeSweep, sweep_file: str
) -> None:
    fake.ending = {"failed": (FAILED,)}
    document = command("run", sweep_file, "--json").json
    assert document["ran"] == 2
    assert document["statuses"] == {"completed": 2}
    assert document["up_to_date"] is False
    [failed] = document["failed"]
    assert failed["trial_key"] == "kx"
    assert failed["started_at"].startswith("2026-01-02T03:04:05")


def test_notes_of_trials_are_printed_at_the_end(
    command: Command, fake: FakeSweep, sweep_file: str
) -> None:
    notes = {"a class was left out": 7, "solved in chunks": 1}
    fake.ending = {"notes": notes, "aligned": 9, "reused": 4}
    lines = command("run", sweep_file).out.splitlines()
    assert lines[-4:-1] == [
        "alignment: 4 of 9 trials reused the result of another trial",
        "note: a class was left out (7 trials)",
        "note: solved in chunks (1 trial)",
    ]
    document = command("run", sweep_file, "--json").json
    assert document["notes"] == notes
    assert document["aligned"] == 9
    assert document["reused"] == 4
    assert document["deterministic"] is False
    assert command("run", sweep_file, "--quiet").out == ""
    fake.ending = {"notes": {f"kind {number}": 1 for number in range(9)}, "ran": 0}
    lines = command("run", sweep_file).out.splitlines()
    assert [line for line in lines if line.startswith("note:")][4:] == [
        "note: kind 4 (1 trial)",
        "note: and 4 more kinds; --json prints all",
    ]


def test_what_cannot_be_placed_is_refused_before_anything_is_fetched(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Cluster(InlineExecutor):
        def open(self, address: str | None) -> list[NodeResources]:
            return [NodeResources("large", 5000.0, 0.0, 1.0)]

    monkeypatch.setattr(
        driver, "resolve", Mock(side_effect=UserError("it came to fetching"))
    )
    Path("big.yaml").write_text(SWEEP + "resources: {cpus: 4096}\n")
    arguments = ("run", "big.yaml", "--executor", "inline")
    assert "pocket/digits with nft: a trial asks for 4096 CPUs" in command.fail(
        *arguments
    )
    # The nodes of the cluster count, not this machine.
    monkeypatch.setattr(executors, "make_executor", lambda _: Cluster())
    assert "it came to fetching" in command.fail(*arguments)


def test_results_of_a_submitted_job_and_of_the_environment(
    command: Command,
    fake: FakeSweep,
    monkeypatch: pytest.MonkeyPatch,
    sweep_file: str,
    own_cache: Path,
    tmp_path: Path,
) -> None:
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    ending = command("run", sweep_file)
    assert ending.code == 0, "its own directory is temporary"
    assert Path(fake.store.uri) == own_cache / "results", (
        "its own directory is temporary"
    )
    assert str(own_cache / "results") in ending.err
    assert not Path("results").exists()
    monkeypatch.setenv("ORCA_RAY_RESULTS", str(tmp_path / "elsewhere"))
    assert command("run", sweep_file).code == 0
    assert Path(fake.store.uri) == tmp_path / "elsewhere"


@pytest.fixture
def prepared_data(monkeypatch: pytest.MonkeyPatch) -> None:
    """Plan as if the data of every task were prepared."""
    monkeypatch.setattr(
        "orca_ray.sweep.run.preview.with_fingerprints",
        lambda searches: [replace(search, fingerprint="f" * 16) for search in searches],
    )


@pytest.mark.usefixtures("prepared_data")
def test_a_dry_run_starts_and_writes_nothing(
    command: Command, monkeypatch: pytest.MonkeyPatch, sweep_file: str, tmp_path: Path
) -> None:
    monkeypatch.setattr(
        driver, "run_sweep", Mock(side_effect=AssertionError("a dry run ran"))
    )
    place = tmp_path / "store"
    plan = command.succeed(
        "run", sweep_file, "--dry-run", "--json", "--results", str(place)
    ).json
    assert plan["num_trials"] == 8
    assert [
        (row["task"], row["search_trials"], row["confirm_trials"])
        for row in plan["rows"]
    ] == [
        ("pocket/digits", 2, 2),
        ("pocket/wdbc", 2, 2),
    ]
    assert not place.exists()
    table = command.succeed("plan", sweep_file, "--results", str(place)).out
    assert "mine/full, protocol held-out: 8 trials, 0 done" in table
    assert "wdbc" in table


@pytest.mark.usefixtures("prepared_data")
def test_a_plan_says_that_a_sweep_is_deterministic(
    command: Command, sweep_file: str
) -> None:
    Path("fixed.yaml").write_text(SWEEP + "deterministic: true\n")
    for arguments in (
        ["plan", sweep_file, "--deterministic"],
        ["run", "fixed.yaml", "--dry-run"],
    ):
        ending = command(*arguments)
        assert "mine/full-deterministic, protocol held-out: 8 trials" in ending.out
        assert "deterministic: one thread per trial" in ending.out
        assert command(*arguments, "--json").json["deterministic"] is True
    assert command("plan", sweep_file, "--json").json["deterministic"] is False


@pytest.mark.usefixtures("prepared_data")
def test_a_plan_fits_eighty_columns_with_a_line_a_study(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    ending = command.succeed("plan", "pocket")
    lines = [
        line for line in ending.out.splitlines() if not line.startswith("  orca-sweep ")
    ]  # to be copied whole
    assert max(map(len, lines)) <= 80
    planned = command("plan", "pocket", "--json").json
    rows = [
        line.split() for line in ending.out.splitlines()[2 : 2 + len(planned["rows"])]
    ]
    assert [row[:3] for row in rows] == [
        [row["task"].removeprefix("pocket/"), row["method"], row["body"]]
        for row in planned["rows"]
    ]
    assert "each trial: 1 CPU" in ending.out


@pytest.mark.usefixtures("prepared_data")
def test_a_plan_says_what_cannot_be_placed(command: Command) -> None:
    Path("big.yaml").write_text(SWEEP + "resources: {cpus: 4096}\n")
    ending = command("plan", "big.yaml")
    assert ending.code == 2
    assert ending.err.startswith(
        "cannot be placed: pocket/digits nft and 1 more: a trial asks for 4096 CPUs"
    )
    assert len(ending.err.splitlines()) == 1
    assert "4096 CPU" in ending.out


def test_a_plan_says_what_each_task_costs_and_what_brings_its_data(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    ending = command("plan", "nasbench360", "--tasks", "ecg", "--methods", "nft")
    lines = ending.out.splitlines()
    (header,) = [line for line in lines if "GPU h  " in line]
    assert (
        " ".join(header.split())
        == "task trials epochs GPU h CPU h raw GB prepared GB data"
    )
    row = lines[lines.index(header) + 2].split()
    assert row[0] == "ecg"
    assert row[1] == "3"
    assert row[2] == "45"
    assert row[-1] == "missing"
    assert "GPU h: an A100 (none is here to be measured)" in ending.out
    after = lines[lines.index("missing: data of 1 of 1 tasks") + 1]
    assert (
        after == "  orca-sweep data fetch nasbench360/ecg"
    )  # not of the whole benchmark
    (cost,) = command(
        "plan", "nasbench360", "--tasks", "ecg", "--methods", "nft", "--json"
    ).json["costs"]
    assert cost["gpu_hours"] < cost["cpu_hours"]
    assert float(row[4]) == pytest.approx(cost["cpu_hours"], rel=0.05)


def test_each_command_that_brings_data_is_named_once() -> None:
    def commands(*costs: tuple[str, str]) -> list[str]:
        return _data_commands(
            [Mock(task=task, command=command) for task, command in costs]
        )

    pocket = [
        (task.name, f"orca-sweep data fetch {task.name}")
        for task in get_benchmark("pocket")
    ]
    assert commands(*pocket) == ["orca-sweep data fetch pocket"]
    first = pocket[0][0]
    second = pocket[1][0]
    assert commands(*pocket[:2]) == [f"orca-sweep data fetch {first} {second}"]
    assert commands(pocket[0], (second, f"prepare {second} --raw DIR")) == [
        pocket[0][1],
        f"prepare {second} --raw DIR",
    ]
