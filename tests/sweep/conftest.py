from pathlib import Path

import pytest

from orca_ray.results.store import ResultsStore


@pytest.fixture
def store(tmp_path: Path) -> ResultsStore:
    """An empty results store."""
    return ResultsStore(tmp_path / "results", create=True)
