"""A cache directory of the tests' own, and bodies with two small layers."""

from collections.abc import Iterator

import pytest

from orca_ray.testing.suite import make_home, save_bert, save_vit


@pytest.fixture(scope="session", autouse=True)
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Use a cache directory of the session's own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ORCA_RAY_HOME", str(make_home(tmp_path_factory.mktemp("home"))))
        yield


@pytest.fixture(scope="session")
def bert(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_bert(tmp_path_factory.mktemp("bert"))


@pytest.fixture(scope="session")
def vit(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_vit(tmp_path_factory.mktemp("vit"))
