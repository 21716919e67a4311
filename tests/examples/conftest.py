"""The data sets that ``examples/make_data.py`` writes, once for all tests here."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a directory in which ``my-data`` holds the data sets."""
    folder = tmp_path_factory.mktemp("own")
    done = subprocess.run([sys.executable, ROOT / "examples" / "make_data.py", folder / "my-data"], check=False)
    assert done.returncode == 0
    return folder
