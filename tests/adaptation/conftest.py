"""Fixtures of the tests of adaptation."""

from pathlib import Path

import pytest

from tests.adaptation.toy import Toy


@pytest.fixture
def toy(tmp_path: Path) -> Toy:
    """Return an empty store of a task of two classes."""
    return Toy(tmp_path / "results")
