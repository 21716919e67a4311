"""Fixtures shared by the tests of methods.

They are a cache directory per module, and two bodies per session.
"""

from pathlib import Path

import pytest

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
