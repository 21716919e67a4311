"""The methods: their conformance, hyper-parameters by name, and what they train."""

import json
import re
from collections.abc import Collection, Iterable
from itertools import cycle
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import SwinConfig, SwinModel

from orca_ray.data.rows import Target
from orca_ray.errors import UserError
from orca_ray.methods.options import Scalar
from orca_ray.methods.registry import (
    FIELD,
    all_methods,
    expand,
    from_flat,
    get_method,
    hyperparameter_types,
    relevant,
    resolve,
)
from orca_ray.methods.stages.networks import AttentionBody
from orca_ray.models.weights import load_body
from orca_ray.testing import MethodSuite
from orca_ray.testing.trials import QUICK, TASK, changed, copy_of, make_task, run, start
from tests.sampling import Sampled

STAGES = {
    "gradient_boosting",
    "joint",
    "lora",
    "minirocket",
    "mona",
    "orca",
    "orca_guarded",
    "pare",
    "recraft",
}
"""Methods that together have all stages, whose states all have to survive an
interruption.
"""


@pytest.mark.slow
class TestEveryMethod(Sampled, MethodSuite):
    names = all_methods()
    every = 7  # of pairs of a method and one of six kinds of tasks

    def marks(
        self, test: str, case: tuple[str, ...], number: int
    ) -> Collection[pytest.MarkDecorator]:
        method, *_ = case
        if "resume" not in test:
            return super().marks(test, case, number)
        if method in STAGES:
            return ()
        return (pytest.mark.exhaustive,)


NORMS = r"embedder\..*|head\..*|body\..*(norm|LayerNorm)[^.]*\.(weight|bias)"
ADAPTERS = r"embedder\..*|head\..*|body\..*\.lora_[AB]\..*"
TRAINED = {
    "gradient_boosting": r"",  # trees are no parameters
    **dict.fromkeys(("forest", "kernel_ridge", "nearest"), r""),
    **dict.fromkeys(
        (
            "hydra",
            "linear",
            "linear_probe",
            "linear_values",
            "minirocket",
            "minirocket_hydra",
        ),
        r"head\..*",
    ),
    "random_features": r"embedder\..*|head\..*",
    **dict.fromkeys(("fpt", "orca_fpt"), NORMS),
    **dict.fromkeys(("lora", "orca_lora"), ADAPTERS),
    **dict.fromkeys(
        ("cnn", "fno", "nft", "no_body", "orca", "orca_guarded", "scratch", "unet"),
        r".*",
    ),
    **dict.fromkeys(("joint", "mona", "pare", "recraft", "recraft_code"), r".*"),
    **dict.fromkeys(("norms_only", "rescaled", "shuffled"), r".*"),
}
"""Names of the parameters that refining trains."""


def test_the_methods_of_the_first_release() -> None:
    assert list(all_methods()) == sorted(TRAINED)
    assert get_method("forest").links == {}
    code_of_fpt = "https://github.com/kzl/universal-computation"
    assert get_method("fpt").links["code"] == code_of_fpt
    random = {name for name, recipe in all_methods().items() if not recipe.pretrained}
    of_series = {"hydra", "minirocket", "minirocket_hydra"}
    baselines = {
        "fno",
        "forest",
        "gradient_boosting",
        "kernel_ridge",
        "linear",
        "linear_values",
        "nearest",
        "unet",
        *of_series,
    }
    assert random == {*baselines, "cnn", "random_features", "scratch"}
    variants = {"norms_only", "recraft_code", "rescaled", "shuffled"}
    # Records of the group exist.
    assert set(expand([FIELD])) == set(TRAINED) - baselines - variants


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "kind"), list(zip(sorted(TRAINED), cycle(["vit", "bert"]), strict=False))
)
def test_exactly_the_right_parameters_train(
    method: str, kind: str, request: pytest.FixtureRequest
) -> None:
    task = TASK
    if get_method(method).problem(TASK) is not None:
        task = make_task(Target("dense", shape=(16,)))
    options = {**QUICK, "align.epochs": 0, "refine.epochs": 1}
    body = request.getfixturevalue(kind)
    trainer = start(body, method, task=task, hyperparameters=options)
    sizes = {name: value.numel() for name, value in trainer.model.named_parameters()}
    is_trained = re.compile(TRAINED[method], re.IGNORECASE).fullmatch
    expected = set(filter(is_trained, sizes))
    before = copy_of(trainer.model)
    run(trainer)
    # Trees and biases that are fitted are buffers, not parameters.
    moved = changed(before, copy_of(trainer.model)) & sizes.keys()
    assert moved <= expected
    # The key bias moves no attention weight (softmax is invariant to it), so its
    # gradient is rounding noise or zero.
    has_key = re.compile(r"key|\bk_proj").search
    assert set(filter(has_key, expected - moved)) == expected - moved
    if sizes:  # else the trees are counted
        assert trainer.result().num_parameters == sum(sizes.values())
        assert trainer.result().num_trainable == sum(sizes[name] for name in expected)


ALL = {"embedder", "body", "head"}
OUTSIDE = {"embedder", "head"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "options", "expected"),
    [
        ("orca", {}, {"align": {"embedder"}, "refine": ALL}),
        ("joint", {"joint.epochs": 2}, {"joint": OUTSIDE, "refine": ALL}),
        (
            "mona",
            {"mona.epochs": 1},
            {"warmup": OUTSIDE, "bilevel": OUTSIDE, "refine": ALL},
        ),
        (
            "recraft",
            {},
            {
                "align": {"embedder"},
                "source_head": set(),
                "distortion": {"embedder"},
                "refine": ALL,
            },
        ),
    ],
)
def test_what_each_stage_trains(
    bert: str, method: str, options: dict[str, Scalar], expected: dict[str, set[str]]
) -> None:
    values = {**QUICK, "refine.epochs": 1, **options}
    trainer = start(bert, method, hyperparameters=values)
    trained: dict[str, set[str]] = {}
    while not trainer.done:
        stage = trainer.stage
        before = copy_of(trainer.model)
        trainer.step()
        moved = changed(before, copy_of(trainer.model))
        trained.setdefault(stage, set()).update(first_parts(moved))
    assert trained == expected
    assert trainer.result().epochs == 1
    assert trainer.result().align_seconds > 0


def first_parts(names: Iterable[str]) -> set[str]:
    """Return what stands before the first dot of each name."""
    return {name.partition(".")[0] for name in names}


def test_only_scratch_and_random_features_start_from_a_random_body(bert: str) -> None:
    def body(method: str, seed: int = 0) -> dict[str, Tensor]:
        return copy_of(start(bert, method, seed=seed).model.body)

    for method in ("orca", "orca_guarded", "fpt", "linear_probe"):
        assert not changed(body("nft"), body(method, seed=3))
    assert any("query" in name for name in changed(body("nft"), body("scratch")))
    assert changed(body("scratch"), body("scratch", seed=1))
    assert not changed(body("scratch"), body("random_features"))


@torch.no_grad()
def test_controls_keep_scale_values_or_norms_of_pretrained_weights(bert: str) -> None:
    def weights(method: str, seed: int = 0) -> dict[str, Tensor]:
        return copy_of(start(bert, method, seed=seed).model)

    pretrained = weights("nft")
    random = weights("scratch")
    for name, values in weights("shuffled").items():
        if not name.startswith("head."):
            sorted_values = values.flatten().sort().values
            assert sorted_values.equal(pretrained[name].flatten().sort().values)
    large = [name for name, values in pretrained.items() if values.numel() > 200]
    body_tensors = [name for name in large if name.startswith("body.")]
    assert body_tensors
    rescaled = weights("rescaled")
    for name in body_tensors:
        expected = pretrained[name]
        assert not rescaled[name].equal(expected)
        torch.testing.assert_close(
            rescaled[name].std(), expected.std(), rtol=0.2, atol=0.0
        )
    norms_only = weights("norms_only")
    for name in pretrained:
        is_norm = "LayerNorm" in name and name.startswith("body.")
        assert norms_only[name].equal((pretrained if is_norm else random)[name])
    for method in ("rescaled", "shuffled", "norms_only"):
        assert changed(weights(method), weights(method, seed=1))


@torch.no_grad()
def test_the_body_of_no_body_is_an_attention_layer_with_a_residual_and_a_norm(
    bert: str,
) -> None:
    torch.manual_seed(0)
    layer = AttentionBody(load_body(bert), 0.0).eval()
    x = torch.randn(2, 5, 16)
    attention = layer.attention
    projected = F.linear(x, attention.in_proj_weight, attention.in_proj_bias)
    query, key, value = projected.chunk(3, dim=2)
    # One head of width 16.
    mixed = torch.softmax(query @ key.transpose(1, 2) / 4, dim=2) @ value
    expected = F.layer_norm(x + attention.out_proj(mixed), (16,))
    torch.testing.assert_close(layer(x), expected)


def test_no_body_differs_from_nft_in_the_body_alone(bert: str, vit: str) -> None:
    for body in (bert, vit):
        control = start(body, "no_body").model
        nft = start(body, "nft").model
        assert not changed(copy_of(nft.embedder), copy_of(control.embedder))
        assert control.body.num_prefix_tokens == nft.body.num_prefix_tokens
        num_parameters = sum(value.numel() for value in control.body.parameters())
        assert num_parameters == 4 * 16 * (16 + 1) + 2 * 16
    assert not changed(copy_of(control), copy_of(start(vit, "no_body").model))
    assert changed(copy_of(control), copy_of(start(vit, "no_body", seed=1).model))


def test_no_body_in_place_of_one_that_reduces_the_resolution(tmp_path: Path) -> None:
    config = SwinConfig(
        embed_dim=8,
        depths=[1, 1],
        num_heads=[1, 2],
        window_size=2,
        image_size=16,
        patch_size=4,
    )
    SwinModel(config).save_pretrained(tmp_path)
    task = make_task(Target("dense", shape=(8, 8)), (1, 8, 8))
    model = start(str(tmp_path), "no_body", task=task).model
    assert model(torch.zeros(2, 1, 8, 8)).shape == (2, 8, 8)
    assert model.body.feature_width == 8


def test_round_trip_of_the_defaults_and_through_json_with_types() -> None:
    assert from_flat(from_flat({}).to_flat()) == from_flat({})
    assert from_flat({}).to_flat().keys() == hyperparameter_types().keys()
    values: dict[str, Scalar] = {
        "refine.epochs": 7,
        "align.learning_rate": 3e-5,
        "embedder.image_size": 96,
        "refine.optimizer": "sgd",
        "refine.learning_rate": 1,
    }
    built = from_flat(values)
    assert built.refine.epochs == 7
    assert built.align.learning_rate == 3e-5
    assert built.embedder.image_size == 96
    assert isinstance(built.refine.learning_rate, float)
    assert from_flat(json.loads(json.dumps(built.to_flat()))) == built
    assert values.items() <= built.to_flat().items()
    assert hyperparameter_types()["refine.epochs"] is int
    assert hyperparameter_types()["refine.warmup_epochs"] is float
    assert hyperparameter_types()["embedder.initialisation"] is str


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("refine.epochs", 2.0, "must be a whole number, got 2.0"),
        ("refine.epochs", True, "must be a whole number, got True"),
        ("refine.learning_rate", "1e-3", "must be a number, got '1e-3'"),
        ("refine.learning_rate", 10**400, "must be a number, got 1000"),
        (
            "align.samples_per_class",
            -(10**400),
            "must be at least 1 and finite, got -1000",
        ),
        ("refine.optimizer", 3, "must be a name, got 3"),
        ("refine.epochs", 0, r"refine\.epochs must be at least 1"),
        ("embedder.image_size", 0, "image_size"),
        (
            "embedder.image_size",
            40_000,
            r"embedder\.image_size must be 1 to 4096, got 40000",
        ),
        (
            "embedder.sequence_length",
            0,
            r"embedder\.sequence_length must be at least 1 and finite, got 0",
        ),
        ("embedder.initialisation", "boddy", "Did you mean 'body'"),
        ("head.dense", "poled", "Did you mean 'pooled'"),
        ("align.distance", "ottd", "Did you mean 'otdd'"),
        ("refine.learning_rat", 0.1, r"Did you mean 'refine\.learning_rate'"),
        ("epochs", 1, "unknown hyper-parameter"),
        ("cnn.kernel", 4, "cnn.kernel must be odd, got 4"),
        ("cnn.network", "tables", "Did you mean 'table'"),
        ("minirocket.features", 83, r"minirocket\.features must be at least 84"),
        ("data.fraction", 0.0, r"data\.fraction must be in \(0, 1\]"),
        ("data.fraction", float("nan"), r"data\.fraction must be in \(0, 1\]"),
        ("lora.targets", "mpl", "Did you mean 'mlp'"),
        ("align.steps", "absolute", r"align\.learning_rate must be greater than 0"),
    ],
)
def test_a_mistake_is_answered_with_what_is_allowed(
    name: str, value: Scalar, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        from_flat({name: value})


REFUSED: dict[str, Scalar] = {
    "recraft.form": "papers",
    "recraft.threshold": -0.1,
    "mona.source_weight": -1.0,
    "joint.weight": -1.0,
    "pare.begin": 1.5,
    "pare.weight": -1.0,
    "align.distance": "ottd",
    "align.source": "vocabularies",
    "align.epochs": -1,
    "align.optimizer": "adamm",
    "align.learning_rate": -0.1,
    "align.samples_per_class": 0,
    "align.patience": -1,
    "align.clip": -1.0,
    "align.tolerance": -0.1,
    "align.source_samples": 0,
    "align.weight_decay": float("inf"),
    "refine.learning_rate": 0.0,
    "refine.optimizer": "adamW2",
    "refine.weight_decay": -1.0,
    "refine.batch_size": 0,
    "refine.accumulation": 0,
    "refine.schedule": "linear",
    "refine.clip": -1.0,
    "refine.dropout": 1.0,
    "refine.momentum": 1.0,
    "refine.precision": "float16",
    "refine.memory_mib": -1,
    "refine.compile": "always",
    "refine.gradient_checkpointing": "yes",
    "refine.warmup_epochs": float("nan"),
    "cnn.kernel": 0,
}


def test_values_out_of_range_are_refused_by_name() -> None:
    for name, value in REFUSED.items():
        with pytest.raises(UserError, match=re.escape(name)):
            from_flat({name: value})


def test_relevant_leaves_align_out_where_nothing_aligns() -> None:
    everything = from_flat({})
    of_own_data = {
        "data.chooses",
        "data.fold",
        "refine.keep",
        "refine.label_smoothing",
        "refine.shift",
        "refine.start",
    }

    def of_sections(*sections: str) -> dict[str, Scalar]:
        return {
            name: value
            for name, value in everything.to_flat().items()
            if name.startswith(sections) and name not in of_own_data
        }

    assert relevant(everything, "orca") == of_sections(
        "align.", "data.", "embedder.", "head.", "refine."
    )
    assert relevant(everything, "nft") == of_sections(
        "data.", "embedder.", "head.", "refine."
    )
    with pytest.raises(UserError, match="unknown method"):
        relevant(everything, "nfd")


def test_given_values_override_defaults_and_options_belong_to_their_method() -> None:
    assert resolve("fpt", {}).refine.learning_rate == 1e-3
    assert resolve("fpt", {"refine.learning_rate": 2e-3}).refine.learning_rate == 2e-3
    assert resolve("nft", {}) == from_flat({})
    assert relevant(resolve("lora", {"lora.rank": 4}), "lora")["lora.rank"] == 4
    assert "lora.rank" not in relevant(resolve("nft", {}), "nft")


def test_a_younger_option_changes_no_key_of_older_trials() -> None:
    """The option is left out if it has its default, unless it is searched."""
    assert "data.fold" not in relevant(resolve("nft", {"data.fold": 0}), "nft")
    assert relevant(resolve("nft", {"data.fold": 2}), "nft")["data.fold"] == 2
    searched = relevant(resolve("nft", {}), "nft", ["data.fold", "refine.epochs"])
    assert searched == {**relevant(resolve("nft", {}), "nft"), "data.fold": 0}
