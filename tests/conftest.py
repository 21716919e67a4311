"""What every test shares: one thread, because the suite runs beside Ray workers on two cores."""

import os
import sys

import pytest
from hypothesis import settings

# Before anything imports torch or numpy: the pools read it once.
os.environ["OMP_NUM_THREADS"] = "1"

# A deadline measures how busy the machine is, not the code.
settings.register_profile("orca-ray", deadline=None)
settings.load_profile("orca-ray")


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """Keep torch at one thread a test, without importing it for the tests that do not."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.get_num_threads() != 1:
        torch.set_num_threads(1)
