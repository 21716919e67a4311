"""Fixtures of the models' tests."""

import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from orca_ray.models import weights
from tests.models.tiny import save_tiny

TinyDirectory = Callable[[str], Path]


def sampled(names: Iterable[str], *default: str) -> list[Any]:
    """Return parameters of which all but ``default`` are left to ``make test-all``."""
    return [name if name in default else pytest.param(name, marks=pytest.mark.exhaustive) for name in names]


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> TinyDirectory:
    """Directory of a tiny random model by its Hugging Face model type; made once a session."""
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
    """Loading, building and running models must leave torch's global generator alone."""
    torch.manual_seed(1234)
    before = torch.get_rng_state()
    yield
    assert torch.equal(torch.get_rng_state(), before), "the global random state was touched"


@pytest.fixture
def no_pristine_bodies() -> Iterator[None]:
    """Start from an empty per-process cache of bodies, and leave one."""
    for kept in weights._pristine.values():
        kept.clear()
    yield
    for kept in weights._pristine.values():
        kept.clear()


@pytest.fixture
def random_tensor() -> Callable[..., torch.Tensor]:
    """Draw normal tensors without touching the global generator."""
    generator = torch.Generator().manual_seed(0)
    return lambda *shape: torch.randn(*shape, generator=generator)
