"""Sweep files: mistakes and their lines, precedence of values, files that extend
others; published configurations.
"""

import csv
import hashlib
import json
import time
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest

from orca_ray.errors import UserError
from orca_ray.methods.registry import expand, resolve
from orca_ray.results.store import ResultsStore
from orca_ray.sweep.plan.loading import load_spec, parse_spec, shipped_sweeps
from orca_ray.sweep.plan.requirements import resolve as resolve_plans
from orca_ray.sweep.plan.searches import SearchPlan, plan_searches
from orca_ray.sweep.plan.spec import Overrides, published_settings, reference_row
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


def refused(source: str | Path, **options: Any) -> str:
    """Return the message about a sweep file, which must come soon, be short, and have
    no control characters.
    """
    started = time.monotonic()
    with pytest.raises(UserError) as caught:
        (
            load_spec(source)
            if isinstance(source, Path)
            else parse_spec(source, "mine.yaml", **options)
        )
    assert (
        time.monotonic() - started < 20
    )  # a busy machine; each takes less than a second
    message = str(caught.value)
    assert len(message) < 2000
    assert all(line.isprintable() for line in message.split("\n"))
    return message


def test_the_minimal_file_is_understood() -> None:
    spec = parse_spec(MINIMAL)
    assert (spec.sweep_id, spec.tasks) == (
        "mine/full",
        ("pocket/digits", "pocket/wdbc"),
    )
    assert spec.settings("pocket/digits", "nft") == {"refine.learning_rate": 1e-3}
    assert (spec.search_trials("pocket/digits", "nft"), spec.confirm_seeds) == (
        2,
        (1, 2),
    )


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
    message = refused(MINIMAL.replace(old, new, 1))
    assert message.startswith(f"mine.yaml:{line}:"), message
    for part in parts:
        assert part in message


def test_unknown_names_a_wrong_seed_and_an_empty_file() -> None:
    assert "Did you mean 'pocket'" in refused(
        MINIMAL.replace("benchmark: pocket", "benchmark: pockett")
    )
    assert "unknown protocol 'papers'" in refused(
        MINIMAL, overrides=Overrides(protocol="papers")
    )
    assert "is a mapping" in refused("")
    assert "seed 0 is the search's own" in refused(MINIMAL.replace("[1, 2]", "[0, 1]"))
    assert "Did you mean 'vit-s14'" in refused(MINIMAL + "bodies: {image: vit-s15}\n")
    assert "--trials must be at least 1" in refused(
        MINIMAL, overrides=Overrides(trials=0)
    )


def test_overrides() -> None:
    spec = parse_spec(
        MINIMAL, overrides=Overrides(tasks=["wdbc"], methods=["scratch"], trials=1)
    )
    assert (spec.tasks, spec.methods) == (("pocket/wdbc",), ("scratch",))
    assert (spec.search_trials("pocket/wdbc", "scratch"), spec.confirm_seeds) == (
        0,
        (1,),
    )
    assert (
        parse_spec(MINIMAL, overrides=Overrides(trials=7)).search_trials(
            "pocket/wdbc", "nft"
        )
        == 7
    )
    assert parse_spec(MINIMAL, overrides=Overrides(seeds=5)).confirm_seeds == (
        1,
        2,
        3,
        4,
        5,
    )
    assert (
        parse_spec(MINIMAL, overrides=Overrides(body="minilm-l6")).body(
            "pocket/digits", "nft"
        )
        == "minilm-l6"
    )


def test_a_method_that_cannot_adapt_to_a_task_is_refused_before_anything_runs() -> None:
    overrides = Overrides(
        tasks=["wdbc", "darcy16"], methods=["nft", "gradient_boosting"]
    )
    with pytest.raises(
        UserError,
        match=(
            r"gradient_boosting cannot adapt to pocket/darcy16: .*--methods or --tasks"
        ),
    ):
        load_spec("pocket", overrides=overrides)
    assert load_spec(
        "pocket", overrides=Overrides(tasks=["wdbc"], methods=["gradient_boosting"])
    )


def test_layers_later_ones_win() -> None:
    text = (
        MINIMAL
        + "per_task:\n  pocket/wdbc: {settings: {refine.epochs: 9}}\n"
        + "  pocket/mnist: {settings: {refine.epochs: 7}, per_method: {orca: {settings:"
        " {refine.epochs: 6}}}}\n"
        + "per_method:\n  orca: {settings: {refine.epochs: 8}}\n"
    )
    spec = parse_spec(text)
    assert spec.settings("pocket/wdbc", "orca")["refine.epochs"] == 9
    assert spec.settings("pocket/digits", "orca")["refine.epochs"] == 8
    assert "refine.epochs" not in spec.settings("pocket/digits", "nft")
    epochs = {
        method: spec.settings("pocket/mnist", method)["refine.epochs"]
        for method in ("orca", "nft")
    }
    assert epochs == {"orca": 6, "nft": 7}


BASE = Path(__file__).with_name("base.yaml").read_text()

FROZEN = json.loads(Path(__file__).with_name("frozen.json").read_text())
"""Digests of the trial keys of all budgets of the shipped sweeps: records of earlier
versions stay theirs.
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "base.yaml").write_text(BASE)
    return tmp_path


def write(folder: Path, text: str, name: str = "mine.yaml") -> Path:
    path = folder / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    return path


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
    assert (spec.sweep_id, spec.tasks, spec.methods) == (
        "mine/quick",
        ("pocket/digits",),
        ("scratch",),
    )
    assert spec.settings("pocket/digits", "scratch") == {
        "refine.epochs": 4,
        "refine.batch_size": 8,
    }
    described = {
        name: dimension.describe()
        for name, dimension in spec.space("pocket/digits", "scratch").items()
    }
    assert described == {
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


def test_mistakes_name_the_file_that_makes_them(folder: Path) -> None:
    mine = write(
        folder,
        "extends: base.yaml\nname: mine\nsettings: {refine.learning_rate: 1e-3}\n",
    )
    (folder / "base.yaml").write_text(
        BASE.replace("refine.epochs: {int", "refine.epoch: {int")
    )
    assert refused(mine).startswith(
        f"{folder}/base.yaml:8: space.refine.epoch: unknown hyper-parameter"
    )
    (folder / "base.yaml").write_text(BASE)
    mine = write(
        folder, "extends: base.yaml\nname: mine\nsettings:\n  refine.epochs: 9\n"
    )
    assert refused(mine).startswith(
        f"{folder}/base.yaml:8: the first trial of pocket/digits"
    )
    mine = write(
        folder, "extends: base.yaml\nname: mine\nbudgets:\n  full: {search_trial: 2}\n"
    )
    assert refused(mine).startswith(
        f"{folder}/mine.yaml:4: budgets.full.search_trial: unknown key"
    )
    assert refused(write(folder, "extends: base.yaml\n")).startswith(
        f"{folder}/mine.yaml:1: name: Field required"
    )


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
def test_bases_that_cannot_be_read(folder: Path, extends: str, part: str) -> None:
    write(folder, "extends: mine.yaml\n", "loop.yaml")
    message = refused(write(folder, f"name: mine\nextends: {extends}\n"))
    assert part in message
    assert message.startswith(
        (f"{folder}/mine.yaml:2: extends: ", f"{folder}/loop.yaml:1: extends: ")
    ), message


QUICK = ("aligning", "pocket")
"""Sweeps whose keys are compared in every run of the tests: a grid, and one of
searches.
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        name if name in QUICK else pytest.param(name, marks=pytest.mark.exhaustive)
        for name in shipped_sweeps()
    ],
)
def test_trial_keys_of_shipped_sweeps_never_change(name: str) -> None:
    keys = []
    for budget in load_spec(name).file.budgets:
        for overrides in (
            Overrides(),
            Overrides(trials=1, protocol="paper"),
            Overrides(deterministic=True),
        ):
            spec = load_spec(name, budget=budget, overrides=overrides)
            for plan in plan_searches(
                spec, dict.fromkeys(spec.tasks, "0" * 16), gpus=True
            ):
                space = {
                    name: dimension.describe()
                    for name, dimension in spec.space(plan.task, plan.method).items()
                }
                seeds = (spec.file.seed, *plan.confirm_seeds)
                trials = [
                    plan.trial(each, seed, "confirm").key
                    for seed in seeds
                    for each in plan.configurations
                ]
                keys.append([spec.sweep_id, plan.num_search, space, trials])
    assert (
        hashlib.sha256(json.dumps(keys, sort_keys=True).encode()).hexdigest()[:16]
        == FROZEN[name]
    )


OURS = ("pocket", "cabinet", "pdebench_generated")
PAPERS = [name for name, task in all_tasks().items() if task.benchmark not in OURS]
"""The paper's tasks, of which each has a row of its own."""
DAILY = (
    "domainnet/sketch",
    "nasbench360/ecg",
    "nasbench360/satellite",
    "pdebench/burgers",
    "openml/61",
)
"""Tasks whose rows are compared in every run: sequences and images, each optimiser,
each benchmark.
"""
SAMPLED = [
    name if name in DAILY else pytest.param(name, marks=pytest.mark.exhaustive)
    for name in PAPERS
]
ROWS = {
    row["dataset"]: row
    for row in csv.DictReader(
        (files("orca_ray.sweep.plan") / "reference_hyperparameters.csv")
        .read_text()
        .splitlines()
    )
}


def dataset_of(task: str) -> str:
    row = reference_row(task)
    assert row is not None, f"{task} has no row"
    return row["dataset"]


def test_what_the_rows_do_not_say() -> None:
    """Burgers is declared as 256 points and 128 tokens, hence patches of two, and meets
    1024 points with them.
    """
    ecg = published_settings("nasbench360/ecg")
    assert (ecg["embedder.patching"], ecg["refine.last_step"]) == ("divide", "drop")
    assert published_settings("pdebench/burgers")["embedder.sequence_length"] == 512


def test_every_published_configuration_can_be_built_and_pocket_has_none() -> None:
    for name, task in all_tasks().items():
        if task.benchmark == "pocket":
            assert (reference_row(name), published_settings(name)) == (None, {})
        else:
            resolve("orca", published_settings(name))


def planned(task: str, budget: str | None = None, **overrides: Any) -> SearchPlan:
    """Plan ``orca`` on one task with the sweep file of its benchmark."""
    benchmark, _, name = task.partition("/")
    spec = load_spec(
        benchmark,
        budget=budget,
        overrides=Overrides(tasks=[name], methods=["orca"], **overrides),
    )
    (plan,) = plan_searches(spec, {task: "fingerprint"}, gpus=True)
    return plan


def assert_is_row(trial: TrialSpec, row: dict[str, str]) -> None:
    """Hold a trial to the row of the reference: what a step does to the weights."""
    values = trial.hyperparameters
    optimizer = row["optimizer"].lower()
    accumulation = int(row["accum"])
    rate = float(row["lr"])
    decay = float(row["weight_decay"])
    assert (values["refine.optimizer"], values["align.optimizer"]) == (
        optimizer,
        optimizer,
    )
    rates = {
        "sgd": rate * accumulation
    }  # of the mean gradient; it adds the gradients of the passes
    assert values["refine.learning_rate"] == pytest.approx(rates.get(optimizer, rate))
    decays = {"adamw": decay}  # decoupled; else beside the mean gradient
    assert values["refine.weight_decay"] == pytest.approx(
        decays.get(optimizer, decay / accumulation)
    )
    same = {
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
    assert {ours: values[ours] for ours in same} == {
        ours: float(row[theirs]) for ours, theirs in same.items()
    }
    assert values["refine.clip"] == (
        float(row["clip"]) if float(row["clip"]) > 0 else 0
    )
    assert values["align.learning_rate"] == pytest.approx(
        10 * rate if rate <= 1e-3 else rate
    )
    drawn = values["align.samples_per_class"]
    batch = int(row["batch_size"])
    least = int(row["align_maxsamples"])
    assert drawn == next(
        count for count in range(batch, least + batch + 1, batch) if count > least
    )
    assert trial.body == {"swin": f"microsoft/{row['body']}"}.get(
        row["body"].partition("-")[0], row["body"]
    )


def test_every_row_is_of_one_task() -> None:
    assert sorted(dataset_of(task) for task in PAPERS) == sorted(ROWS)


@pytest.mark.parametrize("task", SAMPLED)
def test_searches_begin_with_the_row_of_a_task_and_the_papers_recipe_is_it(
    task: str,
) -> None:
    plan = planned(task, budget="full")
    first = Search(plan).take()
    row = ROWS[dataset_of(task)]
    assert first is not None
    assert first.phase == "search"
    assert_is_row(first, row)
    quick = planned(task, budget="quick").first
    published = published_settings(task)
    changed = {name for name in published if quick.get(name) != published[name]}
    assert changed <= {
        "refine.epochs",
        "refine.warmup_epochs",
        "refine.decay_epochs",
        "align.epochs",
    }
    plan = planned(task, protocol="paper", trials=1)
    assert (plan.num_search, plan.confirm_seeds) == (0, (0,))
    trial = plan.trial({}, 0, "confirm")
    assert_is_row(trial, row)
    assert (
        trial.hyperparameters["align.source"]
        == {"text": "conll2003", "CIFAR10": "cifar10"}[row["source"]]
    )
    assert trial.hyperparameters["embedder.initialisation"] == "paper"
    assert trial.hyperparameters["head.dense"] == "pooled"
    if get_task(task).modality == "sequence" and row["dataset"] != "PDE-Burgers":
        assert trial.hyperparameters["embedder.sequence_length"] == int(
            row["target_seq_len"]
        )


@pytest.mark.slow
def test_the_papers_recipe_is_one_run_with_its_seed() -> None:
    spec = load_spec("nasbench360", overrides=Overrides(trials=1, protocol="paper"))
    text = load_spec(
        "nasbench360", overrides=Overrides(trials=1, protocol="paper", body="minilm-l6")
    )
    assert text.settings("nasbench360/cifar100", "orca")["align.source"] == "conll2003"
    starts = {
        name: spec.settings("nasbench360/ecg", name)["embedder.initialisation"]
        for name in expand(["field"])
    }
    # The reference ties the embedder's start to aligning, and so do the methods that
    # follow it.
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
    assert {*starts.values()} == {"paper", "random"}
    held_out = load_spec("nasbench360").settings("nasbench360/ecg", "orca")
    assert held_out["embedder.initialisation"] == "body"
    assert "head.dense" not in held_out
    assert load_spec("nasbench360", overrides=Overrides(trials=1)).confirm_seeds == (1,)


@pytest.mark.slow
def test_the_trials_of_the_followers_are_those_of_the_stored_board() -> None:
    store = ResultsStore(str(Path(__file__).parents[3] / "docs" / "stores" / "pocket"))
    records = store.records()
    fingerprints = dict(zip(records["task"], records["data_fingerprint"], strict=True))
    methods = ["joint", "mona", "pare", "recraft"]
    spec = load_spec("pocket", overrides=Overrides(methods=methods))
    plans = resolve_plans(plan_searches(spec, fingerprints, gpus=False), pytest.fail)
    keys = {plan.trial({}, spec.file.seed, "search").key for plan in plans}
    assert len(keys) == 4 * 8
    assert keys <= set(records.loc[records["sweep"] == spec.sweep_id, "trial_key"])
