"""Hyper-parameters by dotted name."""

import json

import pytest

from orca_ray.errors import UserError
from orca_ray.methods.hyperparameters import Hyperparameters, from_flat, names, resolve
from orca_ray.methods.recipe import Scalar


def test_round_trip_of_the_defaults() -> None:
    assert from_flat({}) == Hyperparameters()
    assert from_flat(Hyperparameters().to_flat()) == Hyperparameters()
    assert Hyperparameters().to_flat().keys() == names().keys()


def test_round_trip_through_json_with_types() -> None:
    values: dict[str, Scalar] = {
        "refine.epochs": 7, "align.learning_rate": 3e-5, "embedder.image_size": 96, "refine.optimizer": "sgd",
        "refine.learning_rate": 1,
    }  # fmt: skip
    built = from_flat(values)
    assert (built.refine.epochs, built.align.learning_rate, built.embedder.image_size) == (7, 3e-5, 96)
    assert isinstance(built.refine.learning_rate, float)
    assert from_flat(json.loads(json.dumps(built.to_flat()))) == built
    assert values.items() <= built.to_flat().items()
    kinds = [names()[name] for name in ("refine.epochs", "refine.warmup_epochs", "embedder.initialisation")]
    assert kinds == [int, float, str]


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("refine.epochs", 2.0, "must be a whole number, got 2.0"),
        ("refine.epochs", True, "must be a whole number, got True"),
        ("refine.epochs", "3", "must be a whole number, got '3'"),
        ("refine.learning_rate", "1e-3", "must be a number, got '1e-3'"),
        ("refine.learning_rate", 10**400, "must be a number, got 1000"),
        ("align.samples_per_class", -(10**400), "must be at least 1 and finite, got -1000"),
        ("refine.optimizer", 3, "must be a name, got 3"),
        ("refine.epochs", 0, r"refine\.epochs must be at least 1"),
        ("embedder.image_size", 0, "image_size"),
        ("embedder.initialisation", "bodi", "Did you mean 'body'"),
        ("head.dense", "poled", "Did you mean 'pooled'"),
        ("align.distance", "ottd", "Did you mean 'otdd'"),
        ("refine.learning_rat", 0.1, r"Did you mean 'refine\.learning_rate'"),
        ("epochs", 1, "unknown hyper-parameter"),
    ],
)
def test_mistakes(name: str, value: Scalar, message: str) -> None:
    with pytest.raises(UserError, match=message):
        from_flat({name: value})


def test_relevant_leaves_align_out_where_nothing_aligns() -> None:
    everything = Hyperparameters()
    of_orca = {"align", "data", "embedder", "head", "refine"}
    flat = everything.to_flat()
    assert everything.relevant("orca") == {name: flat[name] for name in flat if name.split(".")[0] in of_orca}
    nft = everything.relevant("nft")
    assert nft == {name: flat[name] for name in flat if name.split(".")[0] in of_orca - {"align"}}
    with pytest.raises(UserError, match="unknown method"):
        everything.relevant("nfd")


def test_given_values_override_the_methods_defaults() -> None:
    assert resolve("fpt", {}).refine.learning_rate == 1e-3
    assert resolve("fpt", {"refine.learning_rate": 2e-3}).refine.learning_rate == 2e-3
    assert resolve("nft", {}) == Hyperparameters()


def test_a_younger_option_changes_no_key_of_older_trials() -> None:
    """It is left out if it has its default, unless it is searched."""
    assert "decoder.context" not in resolve("nft", {"decoder.context": "causal"}).relevant("nft")
    assert resolve("nft", {"decoder.context": "flipped"}).relevant("nft")["decoder.context"] == "flipped"
    searched = resolve("nft", {}).relevant("nft", ["decoder.context", "refine.epochs"])
    assert searched == {**resolve("nft", {}).relevant("nft"), "decoder.context": "causal"}


def test_options_of_a_method_are_relevant_to_it_alone() -> None:
    assert resolve("lora", {"lora.rank": 4}).relevant("lora")["lora.rank"] == 4
    assert "lora.rank" not in resolve("nft", {}).relevant("nft")
