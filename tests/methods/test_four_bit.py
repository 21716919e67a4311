"""Frozen weights of LoRA in 4 bits: their values, what trains, and what is refused."""

import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from orca_ray.errors import UserError
from orca_ray.methods.model_card import make_card
from orca_ray.methods.options import LoraConfig
from orca_ray.methods.registry import relevant, resolve
from orca_ray.methods.snapshot import rebuild
from orca_ray.methods.stages.four_bit import num_values, quantise
from orca_ray.methods.stages.networks import insert_adapters, linear_layers
from orca_ray.models.body import seeded
from orca_ray.models.weights import load_body
from orca_ray.testing.trials import QUICK, changed, copy_of, run, scores, start
from tests.methods.conftest import adapted_layers
from tests.models.conftest import save_tiny

NF4 = {**QUICK, "refine.epochs": 2, "lora.weights": "nf4"}
LARGEST_GAP = 0.304
"""Largest distance between neighbouring values of nf4, which are scaled to -1 … 1."""

WideBody = Callable[[str], str]


@pytest.fixture
def wide(tmp_path: Path) -> WideBody:
    """Return a function that saves a tiny body of width 64 by its type."""
    pytest.importorskip("bitsandbytes")

    def save(kind: str) -> str:
        save_tiny(kind, tmp_path / kind, width=64)
        return str(tmp_path / kind)

    return save


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
@torch.no_grad()
def test_four_bit_weights_are_close_to_those_of_the_body(
    kind: str, wide: WideBody
) -> None:
    name = wide(kind)
    exact_body = load_body(name).body
    body = load_body(name).body
    exact_layers: dict[str, Any] = linear_layers(exact_body, "all")
    with seeded(0):
        insert_adapters(body, LoraConfig(weights="nf4"))
    layers = adapted_layers(body)
    assert set(layers) == set(exact_layers)
    for layer_name, layer in layers.items():
        assert layer.base_layer.weight.dtype == torch.uint8
        weight = exact_layers[layer_name].weight
        if kind == "gpt2":
            weight = weight.T
        _, width = weight.shape
        output = layer(torch.eye(width))
        if layer.base_layer.bias is not None:
            output = output - layer.base_layer.bias
        error = (output.T - weight).abs().max()
        assert 0 < error <= (LARGEST_GAP / 2 + 0.01) * weight.abs().max()


def test_all_values_of_four_bit_weights_are_counted(wide: WideBody) -> None:
    name = wide("llama")
    exact_body = load_body(name).body
    body = load_body(name).body
    with seeded(0):
        insert_adapters(body, LoraConfig(weights="nf4"))
    inserted = sum(
        parameter.numel()
        for name, parameter in body.named_parameters()
        if "lora_" in name
    )
    expected = sum(parameter.numel() for parameter in exact_body.parameters())
    assert sum(map(num_values, body.parameters())) == expected + inserted


def test_four_bit_weights_never_change_and_an_interrupted_trial_continues(
    wide: WideBody, tmp_path: Path
) -> None:
    name = wide("gpt2")
    uninterrupted = start(name, "lora", hyperparameters=NF4)
    first = start(name, "lora", hyperparameters=NF4)
    second = start(name, "lora", hyperparameters=NF4)
    before = copy_of(uninterrupted.model)
    run(uninterrupted)
    moved = changed(before, copy_of(uninterrupted.model))
    assert moved
    of_body = [name for name in moved if name.startswith("body.")]
    assert all("lora_" in name for name in of_body)
    first.step()
    first.save(tmp_path / "checkpoint")
    assert second.restore(tmp_path / "checkpoint")
    run(second)
    assert scores(second.result()) == scores(uninterrupted.result())


def test_a_model_folder_holds_the_adapters_and_gives_the_same_outputs(
    wide: WideBody,
) -> None:
    trainer = start(wide("gpt2"), "lora", hyperparameters=NF4)
    run(trainer)
    snapshot = trainer.snapshot()
    of_body = [name for name in snapshot.weights if name.startswith("body.")]
    assert of_body
    assert all("lora_" in name for name in of_body)
    assert "pip install '.[predict,nf4]'" in make_card(snapshot.config)
    x = torch.randn(3, 2, 16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        rebuilt = rebuild(snapshot.config, snapshot.weights)(x)
        assert torch.equal(rebuilt, trainer.model.eval()(x))


def test_float_weights_have_the_keys_that_they_had_before() -> None:
    assert "lora.weights" not in relevant(resolve("lora", {}), "lora")
    assert relevant(resolve("lora", NF4), "lora")["lora.weights"] == "nf4"


def test_a_missing_library_is_named_with_its_extra(
    monkeypatch: pytest.MonkeyPatch, bert: str
) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(UserError, match=r"pip install 'orca-ray\[nf4\]'"):
        start(bert, "lora", hyperparameters=NF4)


def test_a_machine_without_kernels_is_a_user_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As bitsandbytes below 0.50 without a CUDA device."""

    def refuse(*_: Any, **__: Any) -> None:
        raise NotImplementedError("no kernel for cpu")

    library = SimpleNamespace(__version__="0.45")
    layers = SimpleNamespace(Linear4bit=refuse, Params4bit=refuse)
    monkeypatch.setitem(sys.modules, "bitsandbytes", library)
    monkeypatch.setitem(sys.modules, "bitsandbytes.nn", layers)
    body = nn.Sequential(nn.Linear(64, 8))
    with pytest.raises(UserError, match=r"0\.45 cannot store .* \(no kernel for cpu\)"):
        quantise(body, ["0"])
    with pytest.raises(UserError, match="has 24 inputs, and only multiples of 64"):
        quantise(nn.Sequential(nn.Linear(24, 8)), ["0"])
