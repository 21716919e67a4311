"""Sweep files: mistakes and their lines, and which of several values counts.

Also files that extend other files, and published configurations.
"""

import csv
import hashlib
import json
import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest

from orca_ray.errors import UserError
from orca_ray.leaderboard.published.tables import published_rows
from orca_ray.methods.registry import expand, resolve
from orca_ray.results.store import ResultsStore
from orca_ray.sweep.plan.loading import load_spec, parse_spec, shipped_sweeps
from orca_ray.sweep.plan.requirements import resolve as resolve_plans
from orca_ray.sweep.plan.searches import SearchPlan, plan_searches
from orca_ray.sweep.plan.spec import (
    Overrides,
    SweepSpec,
    published_settings,
    reference_row,
)
from orca_ray.sweep.plan.trial_spec import TrialSpec
from orca_ray.sweep.search import Search
from orca_ray.tasks.registry import all_tasks, get_task

MINIMAL = """\
name: mine
benchmark: pocket
methods: [nft, orca]
tasks: [pocket/digits, pocket/wdbc]
settings:
  refine.learning_rate: 1e-3
space:
  refine.learning_rate: {log_uniform: [1e-4, 1e-2]}
budgets:
  full: {search_trials: 2, confirm_seeds: [1, 2]}
"""
ORCA_ON_DIGITS = (
    "pocket/digits:\n  per_method:\n   orca:\n    settings: {align.distance: otd}"
)


def read_refusal(source: str | Path, **options: Any) -> str:
    """Return the message about a sweep file.

    The message must be short and have no control characters.
    """
    read: Callable[[], object]
    if isinstance(source, Path):
        read = partial(load_spec, source)
    else:
        read = partial(parse_spec, source, "mine.yaml", **options)
    with pytest.raises(UserError) as caught:
        read()
    message = str(caught.value)
    assert len(message) < 2000
    assert all(line.isprintable() for line in message.split("\n"))
    return message


def test_the_minimal_file_is_understood() -> None:
    spec = parse_spec(MINIMAL)
    assert spec.sweep_id == "mine/full"
    assert spec.tasks == ("pocket/digits", "pocket/wdbc")
    assert spec.settings("pocket/digits", "nft") == {"refine.learning_rate": 1e-3}
    assert spec.search_trials("pocket/digits", "nft") == 2
    assert spec.confirm_seeds == (1, 2)


STEPS = """\
name: mine
benchmark: pocket
methods: [nft, cnn, gradient_boosting]
tasks: [pocket/digits, pocket/wdbc]
settings: {refine.epochs: 7, refine.batch_size: 16, data.fraction: 0.5}
per_method:
  cnn: {settings: {refine.batch_size: 8, refine.accumulation: 4}}
per_task:
  pocket/wdbc: {settings: {refine.epochs: 3}}
steps: 100
budgets:
  of_file: {}
  long: {steps: 1000, tasks: {pocket/wdbc: {settings: {refine.epochs: 5}}}}
"""


@pytest.mark.parametrize(
    ("budget", "task", "method", "steps"),
    [
        ("of_file", "digits", "nft", 100),
        ("of_file", "digits", "cnn", 100),
        ("long", "digits", "nft", 1000),
        ("long", "digits", "cnn", 1000),
    ],
)
def test_steps_set_the_least_number_of_epochs_with_so_many(
    budget: str, task: str, method: str, steps: int
) -> None:
    spec = parse_spec(STEPS, budget=budget)
    values = spec.hyperparameters(f"pocket/{task}", method)
    declared = get_task(f"pocket/{task}").num_samples
    assert declared is not None
    batch = int(values["refine.batch_size"]) * int(values["refine.accumulation"])
    steps_per_epoch = math.ceil(declared[0] / 2 / batch)
    epochs = int(values["refine.epochs"])
    assert (epochs - 1) * steps_per_epoch < steps <= epochs * steps_per_epoch


@pytest.mark.parametrize(
    ("budget", "task", "method", "epochs"),
    [
        # Boosting has no optimiser steps; a later layer sets the epochs of wdbc.
        ("long", "digits", "gradient_boosting", 7),
        ("of_file", "wdbc", "nft", 3),
        ("long", "wdbc", "nft", 5),
    ],
)
def test_epochs_of_a_later_layer_count(
    budget: str, task: str, method: str, epochs: int
) -> None:
    spec = parse_spec(STEPS, budget=budget)
    assert spec.settings(f"pocket/{task}", method)["refine.epochs"] == epochs


def test_steps_need_a_declared_number_of_samples(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    task = replace(get_task("pocket/digits"), num_samples=None)
    monkeypatch.setattr("orca_ray.sweep.plan.spec.get_task", lambda name: task)
    with pytest.raises(UserError, match=r"steps: pocket/digits declares no number"):
        parse_spec(STEPS.replace(", pocket/wdbc]", "]"), budget="of_file")


@pytest.mark.parametrize(
    ("old", "new", "line", "parts"),
    [
        (
            "[nft, orca]",
            "[nft, orka]",
            3,
            ["unknown method 'orka'", "Did you mean 'orca'", "linear_probe"],
        ),
        (
            "pocket/digits",
            "pocket/digit",
            4,
            ["unknown task 'pocket/digit'", "Did you mean 'pocket/digits'"],
        ),
        (
            "refine.learning_rate: 1e-3",
            "refine.learning_rat: 1e-3",
            6,
            ["Did you mean 'refine.learning_rate'"],
        ),
        (
            "refine.learning_rate: {",
            "refine.lr: {",
            8,
            ["unknown hyper-parameter 'refine.lr'"],
        ),
        ("[1e-4, 1e-2]", "[1e-2, 1e-4]", 8, ["is empty", "low < high"]),
        (
            "log_uniform:",
            "loguniform:",
            8,
            ["unknown key 'loguniform'", "Did you mean 'log_uniform'"],
        ),
        ("search_trials: 2", "search_trials: two", 10, ["valid integer", "'two'"]),
        ("name: mine", "name: a/b", 1, ["pattern"]),
        ("space:", "space: [", 9, ["not valid YAML"]),
        (
            "rate: 1e-3",
            "rate: 1e-3\n  align.distance: otd",
            7,
            ["settings of pocket/digits with "],
        ),
        (
            "budgets:",
            "per_task: {pocket/digits: {setings: {}}}\nbudgets:",
            9,
            ["'setings'. Did you mean 'settings'"],
        ),
        (
            "budgets:",
            f"per_task:\n {ORCA_ON_DIGITS}\nbudgets:",
            13,
            ["settings of pocket/digits with orca: unknown "],
        ),
        (
            "rate: 1e-3",
            "rate: 1e-3\n  data.fold: -2",
            7,
            ["settings of pocket/digits with nft", "data.fold: ", "allowed is 0"],
        ),
        (
            "space:",
            "space:\n  data.fold: {choice: [0, 2]}",
            8,
            ["data.fold may become 2", "no folds"],
        ),
        ("[nft, orca]", "[nft, nft]", 3, ["methods: each value once: 'nft' is"]),
        (
            "tasks:",
            "baselines: [linear, linear]\ntasks:",
            4,
            ["baselines: each value once: 'linear' is repeated"],
        ),
        (
            "log_uniform: [1e-4, 1e-2]",
            "choice: [1e-3, 1e-2, 1e-3]",
            8,
            ["choice: each value once: 0.001 is repeated"],
        ),
        ("[1, 2]", "[1, 1]", 10, ["budgets.full.confirm_seeds: each seed once"]),
        (
            "rate: 1e-3",
            "rate: 1.0",
            8,
            ["refine.learning_rate = 1.0", "log_uniform [0.0001, 0.01]"],
        ),
    ],
)
def test_mistakes_are_named_with_their_line(
    old: str, new: str, line: int, parts: list[str]
) -> None:
    assert old in MINIMAL
    message = read_refusal(MINIMAL.replace(old, new, 1))
    assert message.startswith(f"mine.yaml:{line}:"), message
    for part in parts:
        assert part in message


@pytest.mark.parametrize(
    ("text", "part"),
    [
        (
            MINIMAL.replace("benchmark: pocket", "benchmark: pockett"),
            "Did you mean 'pocket'",
        ),
        ("", "is a mapping"),
        (MINIMAL.replace("[1, 2]", "[0, 1]"), "seed 0 is the search's own"),
        (MINIMAL + "bodies: {image: vit-s15}\n", "Did you mean 'vit-s14'"),
    ],
)
def test_a_file_with_a_wrong_value_is_refused(text: str, part: str) -> None:
    assert part in read_refusal(text)


@pytest.mark.parametrize(
    ("overrides", "part"),
    [
        (Overrides(protocol="papers"), "unknown protocol 'papers'"),
        (Overrides(trials=0), "--trials must be at least 1"),
    ],
)
def test_a_wrong_option_of_the_command_line_is_refused(
    overrides: Overrides, part: str
) -> None:
    assert part in read_refusal(MINIMAL, overrides=overrides)


def parse_minimal(**overrides: Any) -> SweepSpec:
    """Return the minimal sweep with options of the command line."""
    return parse_spec(MINIMAL, overrides=Overrides(**overrides))


def test_options_of_the_command_line_win_over_the_file() -> None:
    spec = parse_minimal(tasks=["wdbc"], methods=["scratch"], trials=1)
    assert spec.tasks == ("pocket/wdbc",)
    assert spec.methods == ("scratch",)
    assert spec.search_trials("pocket/wdbc", "scratch") == 0
    assert spec.confirm_seeds == (1,)
    assert parse_minimal(trials=7).search_trials("pocket/wdbc", "nft") == 7
    assert parse_minimal(seeds=5).confirm_seeds == (1, 2, 3, 4, 5)
    text_body = parse_minimal(body="minilm-l6").body("pocket/digits", "nft")
    assert text_body == "minilm-l6"


def test_a_method_that_cannot_adapt_to_a_task_is_refused_before_anything_runs() -> None:
    methods = ["nft", "gradient_boosting"]
    with_fields = Overrides(tasks=["wdbc", "darcy16"], methods=methods)
    message = (
        r"gradient_boosting cannot adapt to pocket/darcy16: .*--methods or --tasks"
    )
    with pytest.raises(UserError, match=message):
        load_spec("pocket", overrides=with_fields)
    load_spec("pocket", overrides=Overrides(tasks=["wdbc"], methods=methods))


LAYERS = """\
per_task:
  pocket/wdbc: {settings: {refine.epochs: 9}}
  pocket/mnist:
    settings: {refine.epochs: 7}
    per_method: {orca: {settings: {refine.epochs: 6}}}
per_method:
  orca: {settings: {refine.epochs: 8}}
"""


@pytest.mark.parametrize(
    ("task", "method", "epochs"),
    [
        ("pocket/digits", "nft", None),
        ("pocket/digits", "orca", 8),
        ("pocket/wdbc", "orca", 9),
        ("pocket/mnist", "nft", 7),
        ("pocket/mnist", "orca", 6),
    ],
)
def test_the_settings_of_the_narrowest_layer_win(
    task: str, method: str, epochs: int | None
) -> None:
    spec = parse_spec(MINIMAL + LAYERS)
    assert spec.settings(task, method).get("refine.epochs") == epochs


BASE = Path(__file__).with_name("base.yaml").read_text()

FROZEN = json.loads(Path(__file__).with_name("frozen.json").read_text())
"""Digests of the trial keys of each shipped sweep, over all budgets.

While a digest stays, records of earlier versions are reused.
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with the sweep file ``base.yaml``."""
    (tmp_path / "base.yaml").write_text(BASE)
    return tmp_path


def write(folder: Path, text: str, name: str = "mine.yaml") -> Path:
    """Write a sweep file, and return its path."""
    path = folder / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    return path


def describe_space(spec: SweepSpec, task: str, method: str) -> dict[str, str]:
    """Return the dimensions of a search space as texts, by hyper-parameter."""
    space = spec.space(task, method)
    return {name: dimension.describe() for name, dimension in space.items()}


def test_a_file_gives_what_differs_from_its_base(folder: Path) -> None:
    text = """\
extends: base.yaml
name: mine
methods: [scratch]
settings: {refine.epochs: 4}
space: {refine.batch_size: {integer: [8, 32]}}
early_stopping: null
budgets: {quick: {search_trials: 0}}
default_budget: quick
"""
    spec = load_spec(write(folder, text))
    assert spec.sweep_id == "mine/quick"
    assert spec.tasks == ("pocket/digits",)
    assert spec.methods == ("scratch",)
    assert spec.settings("pocket/digits", "scratch") == {
        "refine.epochs": 4,
        "refine.batch_size": 8,
    }
    assert describe_space(spec, "pocket/digits", "scratch") == {
        "refine.batch_size": "integer [8, 32]",
        "refine.epochs": "integer [1, 5]",
    }
    assert spec.file.early_stopping is None
    assert set(spec.file.budgets) == {"full", "quick"}


def test_bases_may_have_bases_and_be_shipped_sweeps(folder: Path) -> None:
    middle = write(
        folder,
        "extends: ../base.yaml\nname: middle\nsettings: {refine.epochs: 2}\n",
        "inner/middle.yaml",
    )
    spec = load_spec(write(folder, f"extends: {middle}\nname: mine\n"))
    assert spec.settings("pocket/digits", "nft") == {
        "refine.epochs": 2,
        "refine.batch_size": 8,
    }
    shipped = load_spec(write(folder, "extends: pocket\nname: mine\n"))
    assert shipped.sweep_id == "mine/full"
    assert shipped.tasks == load_spec("pocket").tasks


def test_a_mistake_of_the_base_names_the_base(folder: Path) -> None:
    wrong_base = BASE.replace("refine.epochs: {int", "refine.epoch: {int")
    write(folder, wrong_base, "base.yaml")
    mine = write(folder, "extends: base.yaml\nname: mine\n")
    assert read_refusal(mine).startswith(
        f"{folder}/base.yaml:8: space.refine.epoch: unknown hyper-parameter"
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "name: mine\nsettings:\n  refine.epochs: 9\n",
            "base.yaml:8: the first trial of pocket/digits",
        ),
        (
            "name: mine\nbudgets:\n  full: {search_trial: 2}\n",
            "mine.yaml:4: budgets.full.search_trial: unknown key",
        ),
        ("", "mine.yaml:1: name: Field required"),
    ],
)
def test_a_mistake_names_the_file_that_makes_it(
    folder: Path, text: str, message: str
) -> None:
    mine = write(folder, f"extends: base.yaml\n{text}")
    assert read_refusal(mine).startswith(f"{folder}/{message}")


@pytest.mark.parametrize(
    ("extends", "part"),
    [
        ("nowhere.yaml", "unknown sweep file 'nowhere.yaml'"),
        ("mine.yaml", "extends itself"),
        ("loop.yaml", "extends itself"),
        ("[base.yaml]", "got ['base.yaml']"),
        ('"a\\0b"', "got 'a\\x00b'"),
        (".", "is a directory"),
    ],
)
def test_a_base_that_cannot_be_read_is_refused(
    folder: Path, extends: str, part: str
) -> None:
    write(folder, "extends: mine.yaml\n", "loop.yaml")
    message = read_refusal(write(folder, f"name: mine\nextends: {extends}\n"))
    assert part in message
    line_of_mine = f"{folder}/mine.yaml:2: extends: "
    line_of_loop = f"{folder}/loop.yaml:1: extends: "
    assert message.startswith((line_of_mine, line_of_loop)), message


QUICK = ("aligning", "pocket")
"""Sweeps whose keys are compared in every run of the tests: a grid and searches."""


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        name if name in QUICK else pytest.param(name, marks=pytest.mark.exhaustive)
        for name in shipped_sweeps()
    ],
)
def test_trial_keys_of_shipped_sweeps_never_change(name: str) -> None:
    descriptions = []
    for budget in load_spec(name).file.budgets:
        for overrides in (
            Overrides(),
            Overrides(trials=1, protocol="paper"),
            Overrides(deterministic=True),
        ):
            spec = load_spec(name, budget=budget, overrides=overrides)
            descriptions += describe_trials(spec)
    text = json.dumps(descriptions, sort_keys=True)
    assert hashlib.sha256(text.encode()).hexdigest()[:16] == FROZEN[name]


def describe_trials(spec: SweepSpec) -> list[list[Any]]:
    """Return space and trial keys of each search of a sweep, as JSON values."""
    descriptions: list[list[Any]] = []
    for plan in plan_searches(spec, dict.fromkeys(spec.tasks, "0" * 16), gpus=True):
        space = describe_space(spec, plan.task, plan.method)
        keys = [
            plan.trial(configuration, seed, "confirm").key
            for seed in (spec.file.seed, *plan.confirm_seeds)
            for configuration in plan.configurations
        ]
        descriptions.append([spec.sweep_id, plan.num_search, space, keys])
    return descriptions


OURS = ("pocket", "cabinet", "pdebench_generated")
PAPERS = [name for name, task in all_tasks().items() if task.benchmark not in OURS]
"""The tasks of the paper; the reference has a row of hyper-parameters for each."""
DAILY = (
    "domainnet/sketch",
    "nasbench360/ecg",
    "nasbench360/satellite",
    "pdebench/burgers",
    "openml/61",
)
"""Tasks whose rows are compared in every run of the tests.

They have sequences and images, each optimiser and each benchmark.
"""
SAMPLED = [
    name if name in DAILY else pytest.param(name, marks=pytest.mark.exhaustive)
    for name in PAPERS
]
REFERENCE = files("orca_ray.sweep.plan") / "reference_hyperparameters.csv"
ROWS = {
    row["dataset"]: row for row in csv.DictReader(REFERENCE.read_text().splitlines())
}
"""Rows of the reference by data set."""


def find_dataset(task: str) -> str:
    """Return the name of a task's data set in the reference."""
    row = reference_row(task)
    assert row is not None, f"{task} has no row"
    return row["dataset"]


def test_published_settings_add_what_the_rows_do_not_say() -> None:
    """Burgers has 1024 points, and patches of two points as in its declaration."""
    ecg = published_settings("nasbench360/ecg")
    assert ecg["embedder.patching"] == "divide"
    assert ecg["refine.last_step"] == "drop"
    assert published_settings("pdebench/burgers")["embedder.sequence_length"] == 512


def test_every_published_configuration_can_be_built_and_pocket_has_none() -> None:
    for name, task in all_tasks().items():
        if task.benchmark == "pocket":
            assert reference_row(name) is None
            assert published_settings(name) == {}
        else:
            resolve("orca", published_settings(name))


def plan_orca(task: str, budget: str | None = None, **overrides: Any) -> SearchPlan:
    """Plan ``orca`` on one task with the sweep file of its benchmark."""
    benchmark, _, name = task.partition("/")
    spec = load_spec(
        benchmark,
        budget=budget,
        overrides=Overrides(tasks=[name], methods=["orca"], **overrides),
    )
    (plan,) = plan_searches(spec, {task: "fingerprint"}, gpus=True)
    return plan


COLUMNS = {
    "refine.epochs": "refine_epochs",
    "refine.batch_size": "batch_size",
    "refine.accumulation": "accum",
    "refine.momentum": "momentum",
    "refine.dropout": "dropout",
    "refine.warmup_epochs": "warmup_epochs",
    "refine.decay_epochs": "decay_epochs",
    "align.epochs": "align_epochs",
    "align.weight_decay": "weight_decay",
    "align.momentum": "momentum",
}
"""Column of the reference by hyper-parameter, where both have the same value."""


def assert_is_row(trial: TrialSpec, row: dict[str, str]) -> None:
    """Check that a trial has the hyper-parameters of a row of the reference."""
    values = trial.hyperparameters
    for name, column in COLUMNS.items():
        assert values[name] == float(row[column]), name
    assert values["refine.clip"] == max(0.0, float(row["clip"]))
    assert_optimizes_as_row(trial, row)
    batch = int(row["batch_size"])
    least = int(row["align_maxsamples"])
    num_batches = least // batch + 1
    assert values["align.samples_per_class"] == num_batches * batch
    body = row["body"]
    if body.startswith("swin-"):
        body = f"microsoft/{body}"
    assert trial.body == body


def assert_optimizes_as_row(trial: TrialSpec, row: dict[str, str]) -> None:
    """Check that a step of a trial changes the weights as the reference does.

    The reference adds the gradients of ``accum`` passes, where a trial takes the mean.
    """
    values = trial.hyperparameters
    optimizer = row["optimizer"].lower()
    accumulation = int(row["accum"])
    rate = float(row["lr"])
    align_rate = 10 * rate if rate <= 1e-3 else rate
    decay = float(row["weight_decay"])
    assert values["refine.optimizer"] == optimizer
    assert values["align.optimizer"] == optimizer
    assert values["align.learning_rate"] == pytest.approx(align_rate)
    if optimizer == "sgd":
        rate *= accumulation
    if optimizer != "adamw":  # the decay is not decoupled from the gradient
        decay /= accumulation
    assert values["refine.learning_rate"] == pytest.approx(rate)
    assert values["refine.weight_decay"] == pytest.approx(decay)


def test_every_row_is_of_one_task() -> None:
    uploads = [task for task in PAPERS if not task.endswith("_original")]
    assert sorted(find_dataset(task) for task in uploads) == sorted(ROWS)


def test_the_default_tasks_of_pdebench_are_those_with_scores_in_the_paper() -> None:
    published = {
        row.task
        for row in published_rows("pdebench")
        if row.source == "orca-pdebench" and row.method == "ORCA"
    }
    assert set(load_spec("pdebench").tasks) == published
    assert len(published) == 8


@pytest.mark.parametrize("task", SAMPLED)
def test_searches_begin_with_the_row_of_a_task(task: str) -> None:
    first = Search(plan_orca(task, budget="full")).take()
    assert first is not None
    assert first.phase == "search"
    assert_is_row(first, ROWS[find_dataset(task)])


@pytest.mark.parametrize("task", SAMPLED)
def test_the_quick_budget_only_changes_epochs(task: str) -> None:
    quick = plan_orca(task, budget="quick").first
    published = published_settings(task)
    changed = {name for name in published if quick.get(name) != published[name]}
    assert changed <= {
        "refine.epochs",
        "refine.warmup_epochs",
        "refine.decay_epochs",
        "align.epochs",
    }


@pytest.mark.parametrize("task", SAMPLED)
def test_the_papers_recipe_is_the_row_of_a_task(task: str) -> None:
    plan = plan_orca(task, protocol="paper", trials=1)
    assert plan.num_search == 0
    assert plan.confirm_seeds == (0,)
    trial = plan.trial({}, 0, "confirm")
    row = ROWS[find_dataset(task)]
    assert_is_row(trial, row)
    values = trial.hyperparameters
    sources = {"text": "conll2003", "CIFAR10": "cifar10"}
    assert values["align.source"] == sources[row["source"]]
    assert values["embedder.initialisation"] == "paper"
    assert values["head.dense"] == "pooled"
    if get_task(task).modality == "sequence" and row["dataset"] != "PDE-Burgers":
        assert values["embedder.sequence_length"] == int(row["target_seq_len"])


@pytest.mark.slow
def test_the_papers_recipe_has_the_source_of_the_body() -> None:
    overrides = Overrides(trials=1, protocol="paper", body="minilm-l6")
    spec = load_spec("nasbench360", overrides=overrides)
    settings = spec.settings("nasbench360/cifar100", "orca")
    assert settings["align.source"] == "conll2003"


@pytest.mark.slow
def test_only_methods_that_align_start_the_embedder_as_the_paper_does() -> None:
    spec = load_spec("nasbench360", overrides=Overrides(trials=1, protocol="paper"))
    starts = {
        name: spec.settings("nasbench360/ecg", name)["embedder.initialisation"]
        for name in expand(["field"])
    }
    # The reference ties the embedder's start to aligning, and so do the methods that
    # follow it.
    assert set(starts.values()) == {"paper", "random"}
    assert {name for name, start in starts.items() if start == "paper"} == {
        "joint",
        "mona",
        "pare",
        "recraft",
        "orca",
        "orca_fpt",
        "orca_guarded",
        "orca_lora",
    }


@pytest.mark.slow
def test_under_the_held_out_protocol_the_papers_recipe_does_not_hold() -> None:
    spec = load_spec("nasbench360", overrides=Overrides(trials=1))
    settings = spec.settings("nasbench360/ecg", "orca")
    assert settings["embedder.initialisation"] == "body"
    assert "head.dense" not in settings
    assert spec.confirm_seeds == (1,)


@pytest.mark.slow
def test_trials_of_four_methods_are_those_of_the_stored_board() -> None:
    store = ResultsStore(str(Path(__file__).parents[3] / "docs" / "stores" / "pocket"))
    records = store.records()
    fingerprints = dict(zip(records["task"], records["data_fingerprint"], strict=True))
    methods = ["joint", "mona", "pare", "recraft"]
    spec = load_spec("pocket", overrides=Overrides(methods=methods))
    plans = resolve_plans(plan_searches(spec, fingerprints, gpus=False), pytest.fail)
    keys = {plan.trial({}, spec.file.seed, "search").key for plan in plans}
    assert len(keys) == len(methods) * 8
    assert keys <= set(records.loc[records["sweep"] == spec.sweep_id, "trial_key"])
