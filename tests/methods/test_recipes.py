"""The methods: which parameters each trains, and that the others stay bit-identical."""

import re

import pytest

from orca_ray.data.rows import Target
from orca_ray.errors import UserError
from orca_ray.methods.registry import FIELD, all_methods, expand, get_method
from orca_ray.models.crossmodal import CrossModalModel
from orca_ray.testing.trials import QUICK, TASK, changed, copy_of, make_task, run, start


@pytest.fixture(params=["bert", "vit"])
def body(request: pytest.FixtureRequest) -> str:
    name: str = request.getfixturevalue(request.param)
    return name


TRAINED = {
    "cnn": r".*",
    "fno": r".*",
    "gradient_boosting": r"",  # trees are no parameters
    "minirocket": r"head\..*",
    "orca": r".*",
    "orca_guarded": r".*",
    "nft": r".*",
    "scratch": r".*",
    "fpt": r"embedder\..*|head\..*|body\..*(norm|LayerNorm)[^.]*\.(weight|bias)",
    "no_body": r".*",
    "orca_fpt": r"embedder\..*|head\..*|body\..*(norm|LayerNorm)[^.]*\.(weight|bias)",
    "mona": r".*",
    "recraft": r".*",
    "recraft_code": r".*",
    "random_features": r"embedder\..*|head\..*",
    "linear_probe": r"head\..*",
    "lora": r"embedder\..*|head\..*|body\..*\.lora_[AB]\..*",
    "orca_lora": r"embedder\..*|head\..*|body\..*\.lora_[AB]\..*",
    "pare": r".*",
    "joint": r".*",
}
"""Names of the parameters that refining trains."""


def test_the_methods_of_the_first_release() -> None:
    assert list(all_methods()) == sorted(TRAINED)
    for name, recipe in all_methods().items():
        assert get_method(name) is recipe
        assert recipe.title
        assert recipe.reference
    random = {name for name, recipe in all_methods().items() if not recipe.pretrained}
    assert random == {"cnn", "fno", "gradient_boosting", "minirocket", "random_features", "scratch"}
    left_out = {"fno", "gradient_boosting", "minirocket", "recraft_code"}
    assert set(expand([FIELD])) == set(TRAINED) - left_out  # records of the group exist


def test_misspelt_method() -> None:
    with pytest.raises(UserError, match="Did you mean 'linear_probe'"):
        get_method("linear-probe")


@pytest.mark.slow
@pytest.mark.parametrize("method", sorted(TRAINED))
def test_exactly_the_right_parameters_train(method: str, body: str) -> None:
    task = TASK if get_method(method).problem(TASK) is None else make_task(Target("dense", shape=(16,)))
    adaptation = start(body, method, task=task, hyperparameters={**QUICK, "align.epochs": 0, "refine.epochs": 1})
    names = {name for name, _ in adaptation.model.named_parameters()}
    expected = {name for name in names if re.fullmatch(TRAINED[method], name, re.IGNORECASE)}
    before = copy_of(adaptation.model)
    run(adaptation)
    moved = changed(before, copy_of(adaptation.model)) & names  # trees and biases that are fitted are buffers
    # The key bias moves no attention weight (softmax is invariant to it), so its gradient is rounding noise or zero.
    assert moved - expected == set()
    assert {name for name in expected - moved if not re.search(r"key|\bk_proj", name)} == set()
    if not names:  # the trees are counted instead
        return
    assert adaptation.result().num_parameters == sum(value.numel() for value in adaptation.model.parameters())
    sizes = {name: value.numel() for name, value in adaptation.model.named_parameters()}
    assert adaptation.result().num_trainable == sum(sizes[name] for name in expected)


def test_fpt_finds_every_norm_of_the_body(body: str) -> None:
    model = start(body, "fpt").model
    chosen = {id(parameter) for parameter in get_method("fpt").trainable(model)}
    norms = [name for name, value in model.body.named_parameters() if id(value) in chosen]
    # Two norms a layer, weight and bias, and a final one in the ViT.
    assert len(norms) == {True: 8, False: 10}["bert" in body]


def weights(body: str, method: str, seed: int = 0) -> CrossModalModel:
    return start(body, method, seed=seed).model


def test_only_scratch_starts_from_a_random_body(body: str) -> None:
    pretrained = copy_of(weights(body, "nft").body)
    for method in ("orca", "orca_guarded", "fpt", "linear_probe"):
        assert not changed(pretrained, copy_of(weights(body, method, seed=3).body))
    scratch = changed(pretrained, copy_of(weights(body, "scratch").body))
    assert any("query" in name or "q_proj" in name for name in scratch)
    assert changed(copy_of(weights(body, "scratch").body), copy_of(weights(body, "scratch", seed=1).body))
    assert not changed(copy_of(weights(body, "scratch").body), copy_of(weights(body, "scratch").body))
