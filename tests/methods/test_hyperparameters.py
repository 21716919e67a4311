"""Hyper-parameters by dotted name."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orca_ray.errors import UserError
from orca_ray.methods.hyperparameters import from_flat, names, relevant, resolve
from orca_ray.methods.options import Scalar


def test_round_trip_of_the_defaults() -> None:
    assert from_flat({}) == from_flat({})
    assert from_flat(from_flat({}).to_flat()) == from_flat({})
    assert from_flat({}).to_flat().keys() == names().keys()


@given(
    epochs=st.integers(1, 1000),
    rate=st.floats(1e-8, 1.0),
    size=st.integers(1, 512),
    optimizer=st.sampled_from(["adamw", "adam", "sgd"]),
)
def test_round_trip_through_json(epochs: int, rate: float, size: int, optimizer: str) -> None:
    values: dict[str, Scalar] = {
        "refine.epochs": epochs,
        "align.learning_rate": rate,
        "embedder.image_size": size,
        "refine.optimizer": optimizer,
    }
    built = from_flat(values)
    assert (built.refine.epochs, built.align.learning_rate, built.embedder.image_size) == (epochs, rate, size)
    assert from_flat(json.loads(json.dumps(built.to_flat()))) == built
    assert values.items() <= built.to_flat().items()


def test_types() -> None:
    assert names()["refine.epochs"] is int
    assert names()["refine.warmup_epochs"] is float
    assert names()["embedder.initialisation"] is str
    assert isinstance(from_flat({"refine.learning_rate": 1}).refine.learning_rate, float)


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
    everything = from_flat({})
    of_orca = {"align", "data", "embedder", "head", "refine"}
    flat = everything.to_flat()
    assert relevant(everything, "orca") == {name: flat[name] for name in flat if name.split(".")[0] in of_orca}
    nft = relevant(everything, "nft")
    assert {name.split(".")[0] for name in nft} == {"data", "embedder", "head", "refine"}
    assert nft.items() <= everything.to_flat().items()
    with pytest.raises(UserError, match="unknown method"):
        relevant(everything, "nfd")


def test_given_values_override_the_methods_defaults() -> None:
    assert resolve("fpt", {}).refine.learning_rate == 1e-3
    assert resolve("fpt", {"refine.learning_rate": 2e-3}).refine.learning_rate == 2e-3
    assert resolve("nft", {}) == from_flat({})


def test_a_younger_option_changes_no_key_of_older_trials() -> None:
    """It is left out if it has its default, unless it is searched."""
    assert "decoder.context" not in relevant(resolve("nft", {"decoder.context": "causal"}), "nft")
    assert relevant(resolve("nft", {"decoder.context": "flipped"}), "nft")["decoder.context"] == "flipped"
    searched = relevant(resolve("nft", {}), "nft", ["decoder.context", "refine.epochs"])
    assert searched == {**relevant(resolve("nft", {}), "nft"), "decoder.context": "causal"}


def test_options_of_a_method_are_relevant_to_it_alone() -> None:
    assert relevant(resolve("lora", {"lora.rank": 4}), "lora")["lora.rank"] == 4
    assert "lora.rank" not in relevant(resolve("nft", {}), "nft")
