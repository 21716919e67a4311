"""What the tests of methods share.

It is a cache directory per module, two bodies per session, and helpers.
"""

from pathlib import Path
from typing import Any

import pytest
from torch import nn

from orca_ray.methods.trial_trainer import TrialTrainer
from orca_ray.testing.suite import save_bert, save_vit


@pytest.fixture(scope="module", autouse=True)
def home(module_home: Path) -> None:
    """Use a cache directory of the module's own."""


@pytest.fixture(scope="session")
def bert(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_bert(tmp_path_factory.mktemp("bert"))


@pytest.fixture(scope="session")
def vit(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_vit(tmp_path_factory.mktemp("vit"))


def adapted_layers(body: nn.Module) -> dict[str, Any]:
    """Return the layers with LoRA's adapters by name."""
    return {
        name: layer for name, layer in body.named_modules() if hasattr(layer, "lora_A")
    }


def reuses_alignment(trial: TrialTrainer) -> bool:
    """Align to the end; return whether the alignment came from another trial."""
    while trial.stage in ("align", "probe"):
        trial.step()
    return trial.result().align_reused
