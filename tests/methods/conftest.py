"""Fixtures shared by the tests of methods: a cache directory per module, and two bodies per session."""

from collections.abc import Iterator

import pytest

from orca_ray.testing.bodies import save_bert, save_vit
from orca_ray.testing.suite import make_home


@pytest.fixture(scope="module", autouse=True)
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ORCA_RAY_HOME", str(make_home(tmp_path_factory.mktemp("home"))))
        yield


@pytest.fixture(scope="session")
def bert(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_bert(tmp_path_factory.mktemp("bert"))


@pytest.fixture(scope="session")
def vit(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_vit(tmp_path_factory.mktemp("vit"))
