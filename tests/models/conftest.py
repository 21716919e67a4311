"""Fixtures of the models' tests.

Tiny random models, of the classes that users name, stand in for the hub.
"""

import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from orca_ray.models import weights

# Of the same classes as roberta-base, bert-base-uncased, all-mpnet-base-v2, distilbert,
# ModernBERT and ELECTRA.
TEXT: dict[str, dict[str, Any]] = {
    "roberta": {"max_position_embeddings": 66, "type_vocab_size": 1, "pad_token_id": 1},
    "bert": {"max_position_embeddings": 64, "type_vocab_size": 2, "pad_token_id": 0},
    "mpnet": {"max_position_embeddings": 66},
    "distilbert": {
        "max_position_embeddings": 64,
        "dim": 24,
        "hidden_dim": 48,
        "n_heads": 2,
        "n_layers": 3,
    },
    "modernbert": {
        "max_position_embeddings": 64,
        "pad_token_id": 0,
        "global_attn_every_n_layers": 3,
        "local_attention": 8,
    },
    "electra": {"max_position_embeddings": 64, "embedding_size": 16, "pad_token_id": 0},
}
# Of the same classes as google/vit-base, DeiT, dinov2-small (with and without
# registers) and the Swins.
IMAGE: dict[str, dict[str, Any]] = {
    "vit": {"image_size": 32, "patch_size": 8},
    "deit": {"image_size": 32, "patch_size": 8},
    "dinov2": {"image_size": 32, "patch_size": 8, "mlp_ratio": 2},
    "dinov2_with_registers": {
        "image_size": 32,
        "patch_size": 8,
        "mlp_ratio": 2,
        "num_register_tokens": 2,
    },
    "swin": {
        "image_size": 64,
        "patch_size": 4,
        "embed_dim": 16,
        "depths": [2, 4],
        "num_heads": [2, 4],
        "window_size": 4,
    },
}
# Of the same classes as gpt2, EleutherAI's Pythia, Llama, Mistral, Qwen2.5 and Qwen3.
DECODERS: dict[str, dict[str, Any]] = {
    "gpt2": {"n_positions": 64},
    "gpt_neox": {},
    "llama": {"num_key_value_heads": 1},
    "mistral": {"num_key_value_heads": 1, "head_dim": 12},
    "qwen2": {"num_key_value_heads": 1},
    "qwen3": {"num_key_value_heads": 1, "head_dim": 12},
}
VOCABULARY = 300


def save_tiny(kind: str, directory: Path, width: int = 24) -> None:
    """Write a tiny model with every parameter random, norms and biases included.

    Some classes have their own width.
    """
    from transformers import AutoConfig, AutoModel

    values = {**TEXT, **IMAGE, **DECODERS}[kind]
    sizes = {
        "hidden_size": width,
        "intermediate_size": 2 * width,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
    }
    shared = {} if kind in ("distilbert", "swin") else sizes
    vocabulary = {} if kind in IMAGE else {"vocab_size": VOCABULARY}
    config = AutoConfig.for_model(kind, **shared, **vocabulary, **values)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        model = AutoModel.from_config(config)
        for parameter in model.parameters():
            parameter.data += 0.1 * torch.randn_like(parameter)
    model.save_pretrained(directory)


TinyDirectory = Callable[[str], Path]
RandomTensor = Callable[..., torch.Tensor]


def sampled(names: Iterable[str], *default: str) -> list[Any]:
    """Return parameters of which all but ``default`` are left to ``make test-all``."""
    return [
        name if name in default else pytest.param(name, marks=pytest.mark.exhaustive)
        for name in names
    ]


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> TinyDirectory:
    """Directory of a tiny random model by its Hugging Face type.

    Each model is made once a session.
    """
    root = tmp_path_factory.mktemp("tiny")

    def directory(kind: str) -> Path:
        path = root / kind
        if not path.exists():
            save_tiny(kind, path)
        return path

    return directory


@pytest.fixture
def copied(tiny: TinyDirectory, tmp_path: Path) -> Path:
    """A copy of a tiny model's directory, to be damaged."""
    return Path(shutil.copytree(tiny("bert"), tmp_path / "copy"))


@pytest.fixture
def untouched_random_state() -> Iterator[None]:
    """Check that a test leaves torch's global generator alone.

    Loading, building and running models must not use it.
    """
    torch.manual_seed(1234)
    before = torch.get_rng_state()
    yield
    assert torch.equal(torch.get_rng_state(), before), (
        "the global random state was touched"
    )


@pytest.fixture
def no_pristine_bodies() -> Iterator[None]:
    """Start from an empty per-process cache of bodies, and leave one."""
    for bodies in weights._cached_bodies.values():
        bodies.clear()
    yield
    for bodies in weights._cached_bodies.values():
        bodies.clear()


@pytest.fixture
def random_tensor() -> RandomTensor:
    """Draw normal tensors without touching the global generator."""
    generator = torch.Generator().manual_seed(0)
    return lambda *shape: torch.randn(*shape, generator=generator)
