"""LoRA: which layers are adapted, and what their updates compute."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from orca_ray.errors import UserError
from orca_ray.methods.options import TARGETS, LoraConfig
from orca_ray.methods.stages.networks import insert_adapters, linear_layers
from orca_ray.models.body import seeded
from orca_ray.models.weights import load_body
from orca_ray.testing.trials import start
from tests.methods.conftest import adapted_layers
from tests.models.conftest import DECODERS, IMAGE, TEXT, TinyDirectory, sampled
from tests.models.conftest import tiny as tiny  # a fixture

TIMM_VIT = "timm:vit_tiny_patch16_224"
TIMM = (TIMM_VIT, "timm:swin_tiny_patch4_window7_224")
FUSED = {"modernbert", "gpt2", "gpt_neox", *TIMM}
"""Bodies that project to queries, keys and values together."""
GATED = {"llama", "mistral", "qwen2", "qwen3"}
"""Bodies whose MLP has three linear layers instead of two."""


def count_layers(kind: str) -> int:
    return 6 if "swin" in kind else 3


def load(kind: str, tiny: TinyDirectory) -> Any:
    """Return a small body of `count_layers` layers."""
    if kind.startswith("timm:"):
        return load_body(f"{kind}:layers={count_layers(kind)}", pretrained=False).body
    return load_body(str(tiny(kind))).body


KINDS = sampled(
    [*TEXT, *IMAGE, *DECODERS, *TIMM],
    "bert",
    "modernbert",
    "swin",
    "gpt2",
    "llama",
    TIMM_VIT,
)


@pytest.mark.parametrize("kind", KINDS)
def test_every_transformer_layer_of_every_family_is_adapted(
    kind: str, tiny: TinyDirectory
) -> None:
    body = load(kind, tiny)
    attention, query_value = (2, 1) if kind in FUSED else (4, 2)
    mlp = 3 if kind in GATED else 2
    expected = {
        "all": attention + mlp,
        "attention": attention,
        "mlp": mlp,
        "query_value": query_value,
    }
    assert expected.keys() == set(TARGETS)
    for targets, layers_of_block in expected.items():
        layers = linear_layers(body, targets)
        assert len(layers) == layers_of_block * count_layers(kind)
    names = set(linear_layers(body, "all"))
    with seeded(0):
        insert_adapters(body, LoraConfig())
    assert set(adapted_layers(body)) == names


@pytest.mark.parametrize("kind", ["bert", "gpt2"])
@torch.no_grad()
def test_the_update_by_hand(kind: str, tiny: TinyDirectory) -> None:
    body = load(kind, tiny)
    tokens = torch.randn(2, 5, 24, generator=torch.Generator().manual_seed(0))
    before = body(tokens)
    with seeded(0):
        insert_adapters(body, LoraConfig(rank=3, alpha=12.0))
    torch.testing.assert_close(body(tokens), before, rtol=0, atol=0)
    layer = next(iter(adapted_layers(body).values()))
    down = layer.lora_A.default.weight
    up = layer.lora_B.default.weight
    assert down.shape == (3, 24)
    assert down.std() > 0.05
    up += 0.5
    weight = layer.base_layer.weight
    if kind == "bert":
        weight = weight.T
    update = 12 / 3 * tokens @ down.T @ up.T
    expected = tokens @ weight + layer.base_layer.bias + update
    torch.testing.assert_close(layer(tokens), expected)
    assert not torch.allclose(body(tokens), before)


def test_bodies_without_the_layers_to_adapt_are_refused(tiny: TinyDirectory) -> None:
    body = load("llama", tiny)
    for layer in body.encoder.layers:
        layer.self_attn.other = layer.self_attn.v_proj
        layer.self_attn.v_proj = None
    message = (
        r"no linear layer for value in encoder\.layers\.0, which has"
        r" self_attn\.q_proj"
    )
    with pytest.raises(UserError, match=message):
        insert_adapters(body, LoraConfig(targets="query_value"))
    body.encoder = nn.Linear(2, 2)
    with pytest.raises(UserError, match="adapts transformer layers"):
        insert_adapters(body, LoraConfig())


def test_the_extra_that_is_missing_is_named(
    monkeypatch: pytest.MonkeyPatch, bert: str
) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(UserError, match=r"pip install 'orca-ray\[predict\]'"):
        start(bert, "lora")


def test_the_network_starts_as_that_of_nft(bert: str) -> None:
    x = torch.randn(3, 2, 16, generator=torch.Generator().manual_seed(0))
    nft = start(bert, "nft").model.eval()
    lora = start(bert, "lora").model.eval()
    orca_lora = start(bert, "orca_lora").model.eval()
    with torch.no_grad():
        assert torch.equal(lora(x), nft(x))
        assert torch.equal(orca_lora(x), nft(x))


KERNELS = """
def get_kernel(*_, **__):
    open("ran", "w").close()
"""
"""A module in place of that which fetches code from the hub."""
INSERT_ADAPTERS = """
import sys

from orca_ray.methods.options import LoraConfig
from orca_ray.methods.stages.networks import insert_adapters
from orca_ray.models.weights import load_body

insert_adapters(load_body(sys.argv[1]).body, LoraConfig())

import kernels

kernels.get_kernel
"""


@pytest.mark.exhaustive
def test_no_code_of_the_hub_is_loaded(bert: str, tmp_path: Path) -> None:
    (tmp_path / "kernels.py").write_text(KERNELS)
    python_path = os.pathsep.join([str(tmp_path), *sys.path])
    process = subprocess.run(
        [sys.executable, "-c", INSERT_ADAPTERS, bert],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": python_path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == 0, process.stderr
    assert "kernels" not in process.stderr
    assert not (tmp_path / "ran").exists()
