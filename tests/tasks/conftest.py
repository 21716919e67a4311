"""Fixtures: the raw files of a module's task, and what the task makes of them."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from orca_ray.data.prepared import PreparedData
from tests.raw_files import writers


@pytest.fixture(scope="module")
def raw(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """Return the raw files of the module's ``TASK``; tests must not change them."""
    directory = tmp_path_factory.mktemp("raw")
    writers()[request.module.TASK.name](directory)
    return directory


@pytest.fixture(scope="module")
def data(
    request: pytest.FixtureRequest, raw: Path, tmp_path_factory: pytest.TempPathFactory
) -> PreparedData:
    """Return the prepared data of the module's ``TASK``."""
    prepared: PreparedData = request.module.TASK.prepare(
        raw=raw, out=tmp_path_factory.mktemp("out") / "1"
    )
    return prepared


def digest(array: Any) -> float:
    """Return the mean of an array with weights that differ by place.

    It shows other values or another order. Digests in tests are of arrays that were
    equal, up to rounding, to those of the reference's own loaders: of
    github.com/sjunhongshen/ORCA at 19b8c1c, run by the tests of this project at commit
    a1f7156.
    """
    values = np.asarray(array[:], np.float64).ravel()
    return float((values * (1 + np.cos(np.arange(values.size)))).mean())
