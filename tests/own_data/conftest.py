from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def cache_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache directory of the test's own."""
    home = tmp_path / "home"
    monkeypatch.setenv("ORCA_RAY_HOME", str(home))
    return home
