"""The published configurations, in our names."""

import pytest

from orca_ray.methods.hyperparameters import resolve
from orca_ray.sweep.published import dataset_of, published_settings
from orca_ray.sweep.spec import Overrides, load_spec
from orca_ray.tasks.registry import all_tasks

QUICK = {"refine.epochs", "refine.warmup_epochs", "refine.decay_epochs", "align.epochs"}
SHIPPED = ("nasbench360", "pdebench", "pdebench_generated", "openml", "drug", "domainnet")


def test_ecg() -> None:
    """Batch 4 by 16, SGD at 1e-6 on summed gradients, 64 tokens at most, which divide 1000: 50 patches of 20."""
    settings = published_settings("nasbench360/ecg")
    expected = {
        "embedder.sequence_length": 64,
        "align.epochs": 60,
        "align.samples_per_class": 132,
        "align.learning_rate": 1e-5,
        "refine.optimizer": "sgd",
        "refine.learning_rate": 1.6e-5,
        "refine.weight_decay": 0.1 / 16,
        "refine.momentum": 0.99,
        "refine.batch_size": 4,
        "refine.accumulation": 16,
        "refine.epochs": 15,
        "refine.warmup_epochs": 5.0,
        "refine.decay_epochs": 200.0,
        "refine.clip": 0.0,
        "refine.dropout": 0.0,
    }
    assert {name: settings[name] for name in expected} == pytest.approx(expected)
    assert (settings["embedder.patching"], settings["refine.last_step"]) == ("divide", "drop")


def test_burgers_is_cut_as_the_reference_really_does() -> None:
    """It declares 256 points and 128 tokens, hence patches of two, and meets 1024 points with them."""
    assert published_settings("pdebench/burgers")["embedder.sequence_length"] == 512


def test_decoupled_decay_does_not_depend_on_how_gradients_are_added() -> None:
    settings = published_settings("nasbench360/satellite")  # AdamW, 16 by 4
    assert (settings["refine.learning_rate"], settings["refine.weight_decay"]) == (3e-5, 3e-6)


def test_images_are_resized_as_the_paper_does() -> None:
    settings = published_settings("nasbench360/ninapro")
    assert settings["embedder.image_size"] == 224
    assert settings["align.epochs"] == 100
    assert settings["refine.clip"] == 1.0


def test_tasks_without_a_published_configuration_have_no_settings() -> None:
    assert dataset_of("pocket/wdbc") is None
    assert published_settings("pocket/wdbc") == {}


@pytest.mark.parametrize("name", [name for name, task in all_tasks().items() if task.benchmark != "pocket"])
def test_every_published_configuration_can_be_built(name: str) -> None:
    assert dataset_of(name) is not None
    resolve("orca", published_settings(name))


@pytest.mark.parametrize("benchmark", SHIPPED)
@pytest.mark.parametrize("budget", ["quick", "published", "full"])
def test_shipped_sweeps_begin_with_them(benchmark: str, budget: str) -> None:
    spec = load_spec(benchmark, budget=budget)
    for task in spec.tasks:
        first, published = spec.settings(task, "orca"), published_settings(task)
        changed = {name for name in published if first[name] != published[name]}
        assert changed <= QUICK if budget == "quick" else not changed


def test_the_papers_recipe_is_one_run_with_its_seed() -> None:
    spec = load_spec("nasbench360", overrides=Overrides(trials=1, protocol="paper"))
    assert spec.settings("nasbench360/ecg", "orca")["align.source"] == "conll2003"
    assert spec.settings("nasbench360/cifar100", "orca")["align.source"] == "cifar10"
    text = load_spec("nasbench360", overrides=Overrides(trials=1, protocol="paper", body="minilm-l6"))
    assert text.settings("nasbench360/cifar100", "orca")["align.source"] == "conll2003"
    assert (spec.confirm_seeds, spec.search_trials("nasbench360/ecg", "orca")) == ((0,), 0)
    assert load_spec("nasbench360", overrides=Overrides(trials=1)).confirm_seeds == (1,)
