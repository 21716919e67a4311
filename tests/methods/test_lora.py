"""LoRA: which layers are adapted, and what their updates compute.

Only they, embedder and head train.
"""

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
from tests.models.conftest import DECODERS, IMAGE, TEXT, TinyDirectory, sampled
from tests.models.conftest import tiny as tiny  # a fixture

TIMM = ("timm:vit_tiny_patch16_224", "timm:swin_tiny_patch4_window7_224")
FUSED = {"modernbert", "gpt2", "gpt_neox", *TIMM}
"""Bodies that project to queries, keys and values together."""
GATED = {"llama", "mistral", "qwen2", "qwen3"}
"""Bodies whose MLP has three linear layers instead of two."""


def loaded(kind: str, tiny: TinyDirectory) -> Any:
    """Body of three layers, or six in Swin."""
    if kind.startswith("timm:"):
        return load_body(
            f"{kind}:layers={6 if 'swin' in kind else 3}", pretrained=False
        ).body
    return load_body(str(tiny(kind))).body


def adapted(body: nn.Module) -> dict[str, Any]:
    return {
        name: part for name, part in body.named_modules() if hasattr(part, "lora_A")
    }


KINDS = sampled(
    [*TEXT, *IMAGE, *DECODERS, *TIMM],
    "bert",
    "modernbert",
    "swin",
    "gpt2",
    "llama",
    TIMM[0],
)


@pytest.mark.parametrize("kind", KINDS)
def test_every_transformer_layer_of_every_family_is_adapted(
    kind: str, tiny: TinyDirectory
) -> None:
    body = loaded(kind, tiny)
    num_layers = 6 if "swin" in kind else 3
    attention, query_value = (2, 1) if kind in FUSED else (4, 2)
    mlp = 3 if kind in GATED else 2
    found = {
        targets: len(linear_layers(body, targets)) / num_layers for targets in TARGETS
    }
    assert found == {
        "all": attention + mlp,
        "attention": attention,
        "mlp": mlp,
        "query_value": query_value,
    }
    names = set(linear_layers(body, "all"))
    with seeded(0):
        insert_adapters(body, LoraConfig())
    assert set(adapted(body)) == names


@pytest.mark.parametrize("kind", ["bert", "gpt2"])
@torch.no_grad()
def test_the_update_by_hand(kind: str, tiny: TinyDirectory) -> None:
    body = loaded(kind, tiny)
    tokens = torch.randn(2, 5, 24, generator=torch.Generator().manual_seed(0))
    before = body(tokens)
    with seeded(0):
        insert_adapters(body, LoraConfig(rank=3, alpha=12.0))
    torch.testing.assert_close(body(tokens), before, rtol=0, atol=0)
    layer = next(iter(adapted(body).values()))
    down = layer.lora_A.default.weight
    up = layer.lora_B.default.weight
    assert down.shape == (3, 24)
    assert down.std() > 0.05
    up += 0.5
    weight = layer.base_layer.weight.T if kind == "bert" else layer.base_layer.weight
    torch.testing.assert_close(
        layer(tokens),
        tokens @ weight + layer.base_layer.bias + 12 / 3 * tokens @ down.T @ up.T,
    )
    assert not torch.allclose(body(tokens), before)


def test_bodies_without_the_layers_to_adapt_are_refused(tiny: TinyDirectory) -> None:
    body = loaded("llama", tiny)
    for layer in body.encoder.layers:
        layer.self_attn.other = layer.self_attn.v_proj
        layer.self_attn.v_proj = None
    with pytest.raises(
        UserError,
        match=(
            r"no linear layer for value in encoder\.layers\.0, which has"
            r" self_attn\.q_proj"
        ),
    ):
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
    with torch.no_grad():
        outputs = [
            start(bert, method).model.eval()(x)
            for method in ("nft", "lora", "orca_lora")
        ]
    assert torch.equal(outputs[0], outputs[1])
    assert torch.equal(outputs[0], outputs[2])


@pytest.mark.exhaustive
def test_no_code_of_the_hub_is_loaded(bert: str, tmp_path: Path) -> None:
    (tmp_path / "kernels.py").write_text(
        "def get_kernel(*_, **__):\n    open('ran', 'w').close()\n"
    )
    code = (
        "from orca_ray.methods.options import LoraConfig; from"
        " orca_ray.methods.stages.networks import insert_adapters;from"
        " orca_ray.models.weights import load_body; import"
        " sys;insert_adapters(load_body(sys.argv[1]).body, LoraConfig()); import"
        " kernels; kernels.get_kernel"
    )
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path]),
    }
    command = [sys.executable, "-c", code, bert]
    done = subprocess.run(
        command,
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "kernels" not in done.stderr
    assert not (tmp_path / "ran").exists()
