"""The published configurations, in our names."""

import csv
from importlib.resources import files
from typing import Any

import pytest

from orca_ray.methods.registry import expand, resolve
from orca_ray.sweep.plan.loading import load_spec
from orca_ray.sweep.plan.searches import SearchPlan, TrialSpec, plan_searches
from orca_ray.sweep.plan.spec import Overrides, published_settings, reference_row
from orca_ray.sweep.search import Search
from orca_ray.tasks.registry import all_tasks, get_task

PAPERS = [
    name for name, task in all_tasks().items() if task.benchmark not in ("pocket", "pdebench_generated")
]  # of which each has a row of its own
DAILY = ("nasbench360/ecg", "nasbench360/satellite", "pdebench/burgers", "openml/61", "domainnet/real")
"""Tasks whose rows are compared in every run: sequences and images, each optimiser, each benchmark."""
SAMPLED = [name if name in DAILY else pytest.param(name, marks=pytest.mark.exhaustive) for name in PAPERS]
ROWS = {
    row["dataset"]: row
    for row in csv.DictReader((files("orca_ray.sweep.plan") / "reference_hyperparameters.csv").read_text().splitlines())
}


def dataset_of(task: str) -> str:
    row = reference_row(task)
    assert row is not None, f"{task} has no row"
    return row["dataset"]


def test_what_the_rows_do_not_say() -> None:
    """Burgers is declared as 256 points and 128 tokens, hence patches of two, and meets 1024 points with them."""
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
    """Plan ``orca`` on one task with the sweep file that is shipped."""
    benchmark, _, name = task.partition("/")
    spec = load_spec(benchmark, budget=budget, overrides=Overrides(tasks=[name], methods=["orca"], **overrides))
    (plan,) = plan_searches(spec, {task: "fingerprint"}, gpus=True)
    return plan


def assert_is_row(trial: TrialSpec, row: dict[str, str]) -> None:
    """Hold a trial to what a step of the reference does to the weights, read off a row."""
    values = trial.hyperparameters
    optimizer, accumulation = row["optimizer"].lower(), int(row["accum"])
    rate, decay = float(row["lr"]), float(row["weight_decay"])
    assert (values["refine.optimizer"], values["align.optimizer"]) == (optimizer, optimizer)
    rates = {"sgd": rate * accumulation}  # of the mean gradient; it adds the gradients of the passes
    assert values["refine.learning_rate"] == pytest.approx(rates.get(optimizer, rate))
    decays = {"adamw": decay}  # decoupled; else beside the mean gradient
    assert values["refine.weight_decay"] == pytest.approx(decays.get(optimizer, decay / accumulation))
    same = {
        "refine.epochs": "refine_epochs", "refine.batch_size": "batch_size", "refine.accumulation": "accum",
        "refine.momentum": "momentum", "refine.dropout": "dropout", "refine.warmup_epochs": "warmup_epochs",
        "refine.decay_epochs": "decay_epochs", "align.epochs": "align_epochs", "align.weight_decay": "weight_decay",
        "align.momentum": "momentum",
    }  # fmt: skip
    assert {ours: values[ours] for ours in same} == {ours: float(row[theirs]) for ours, theirs in same.items()}
    assert values["refine.clip"] == (float(row["clip"]) if float(row["clip"]) > 0 else 0)
    assert values["align.learning_rate"] == pytest.approx(10 * rate if rate <= 1e-3 else rate)
    drawn, batch, least = values["align.samples_per_class"], int(row["batch_size"]), int(row["align_maxsamples"])
    assert drawn == next(count for count in range(batch, least + batch + 1, batch) if count > least)
    assert trial.body == {"swin": f"microsoft/{row['body']}"}.get(row["body"].partition("-")[0], row["body"])


def test_every_row_is_of_one_task() -> None:
    assert sorted(dataset_of(task) for task in PAPERS) == sorted(ROWS)


@pytest.mark.parametrize("task", SAMPLED)
def test_searches_begin_with_the_row_of_a_task_and_the_papers_recipe_is_the_row(task: str) -> None:
    plan = planned(task, budget="full")
    first, row = Search(plan).take(), ROWS[dataset_of(task)]
    assert first is not None
    assert first.phase == "search"
    assert_is_row(first, row)
    quick, published = planned(task, budget="quick").first, published_settings(task)
    changed = {name for name in published if quick.get(name) != published[name]}
    assert changed <= {"refine.epochs", "refine.warmup_epochs", "refine.decay_epochs", "align.epochs"}
    plan = planned(task, protocol="paper", trials=1)
    assert (plan.num_search, plan.confirm_seeds) == (0, (0,))
    trial = plan.trial({}, 0, "confirm")
    assert_is_row(trial, row)
    assert trial.hyperparameters["align.source"] == {"text": "conll2003", "CIFAR10": "cifar10"}[row["source"]]
    assert trial.hyperparameters["embedder.initialisation"] == "paper"
    assert trial.hyperparameters["head.dense"] == "pooled"
    if get_task(task).modality == "sequence" and row["dataset"] != "PDE-Burgers":
        assert trial.hyperparameters["embedder.sequence_length"] == int(row["target_seq_len"])


@pytest.mark.slow
def test_the_papers_recipe_is_one_run_with_its_seed() -> None:
    spec = load_spec("nasbench360", overrides=Overrides(trials=1, protocol="paper"))
    text = load_spec("nasbench360", overrides=Overrides(trials=1, protocol="paper", body="minilm-l6"))
    assert text.settings("nasbench360/cifar100", "orca")["align.source"] == "conll2003"
    starts = {name: spec.settings("nasbench360/ecg", name)["embedder.initialisation"] for name in expand(["field"])}
    # The reference ties the embedder's start to aligning, and so do the methods that follow it.
    assert {name for name, start in starts.items() if start == "paper"} == {
        "joint", "mona", "orca", "orca_fpt", "orca_guarded", "orca_lora", "pare", "recraft"
    }  # fmt: skip
    assert {*starts.values()} == {"paper", "random"}
    held_out = load_spec("nasbench360").settings("nasbench360/ecg", "orca")
    assert held_out["embedder.initialisation"] == "body"
    assert "head.dense" not in held_out
    assert load_spec("nasbench360", overrides=Overrides(trials=1)).confirm_seeds == (1,)
