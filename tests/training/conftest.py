"""Fixtures shared by the tests of training."""

import pytest

from tests.models.conftest import save_tiny


@pytest.fixture(scope="session")
def bert(tmp_path_factory: pytest.TempPathFactory) -> str:
    directory = tmp_path_factory.mktemp("bert")
    save_tiny("bert", directory, width=32)
    return str(directory)
