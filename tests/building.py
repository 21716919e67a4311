"""Build the package without a network."""

import subprocess
import sys
from pathlib import Path
from typing import Literal


def build(kind: Literal["wheel", "sdist"], source: Path, out: Path) -> Path:
    """Build the wheel or the source distribution of the checkout ``source`` into ``out``, and return its path."""
    code = f"import sys; from hatchling.build import build_{kind}; print(build_{kind}(sys.argv[1]))"
    done = subprocess.run([sys.executable, "-c", code, str(out)], cwd=source, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return out / done.stdout.split()[-1]
