"""Forged model folders, which loading must survive.

Every field takes hostile values, and the hashes are made anew.
"""

import copy
import hashlib
import json
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import getitem
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from orca_ray.errors import UserError
from orca_ray.methods import model_config, model_folder
from orca_ray.methods.registry import get_method
from orca_ray.predictor import Predictor
from orca_ray.testing.suite import Suite, save_bert
from orca_ray.testing.trials import QUICK, fitting_task, make_data, start

SECONDS = 10
MEMORY_BYTES = 3 * 2**30
Place = tuple[str | int, ...]
HOSTILE: tuple[Any, ...] = (
    None,
    True,
    -1,
    0,
    1,
    3,
    2**31,
    10**12,
    2**63,
    1e308,
    -1e308,
    "",
    "x",
    "../../etc/passwd",
    "x" * 100_000,
    "NaN",
    [],
    [0],
    [-1],
    [10**6, 10**6],
    [[1, 2], [3]],
    {},
    {"a": 1},
)
"""Values that take the place of a field; fields are also left out."""


@dataclass(frozen=True)
class Forgery:
    """Contents of a model folder in which one field is changed or left out."""

    change: str
    """Text that says what changed."""
    config: dict[str, Any]
    preprocessing: dict[str, Any] | None


def forge(
    config: dict[str, Any], preprocessing: dict[str, Any] | None
) -> Iterator[Forgery]:
    """Yield all forgeries of a model folder."""
    signed_fields = {
        name: value
        for name, value in config.items()
        if name not in ("files", "versions")
    }
    for path in _paths(signed_fields):
        for change, forged in _changes(config, path):
            yield Forgery(f"config.json {change}", forged, preprocessing)
    for path in _paths(preprocessing or {}):
        for change, forged in _changes(preprocessing, path):
            yield Forgery(f"preprocessing.json {change}", config, forged)


def write(
    folder: Path, config: dict[str, Any], preprocessing: dict[str, Any] | None
) -> None:
    """Write ``config.json`` and ``preprocessing.json`` with the hashes that match."""
    config = copy.deepcopy(config)
    if preprocessing is not None:
        content = json.dumps(preprocessing).encode()
        (folder / model_config.PREPROCESSING).write_bytes(content)
        digest = hashlib.sha256(content).hexdigest()
        config["files"][model_config.PREPROCESSING] = digest
    signed = {**config, "sha256": model_config.signature(config)}
    (folder / model_folder.CONFIG).write_text(json.dumps(signed))


def _paths(value: Any, path: Place = ()) -> Iterator[Place]:
    """Yield the path of each field; the first two elements stand for a list."""
    keys: Sequence[str | int] = range(min(len(value), 2))
    if isinstance(value, dict):
        keys = list(value)
    for key in keys:
        yield (*path, key)
        if isinstance(value[key], dict | list):
            yield from _paths(value[key], (*path, key))


def _changes(content: Any, path: Place) -> Iterator[tuple[str, Any]]:
    """Yield a text and a changed copy of ``content`` for each change of a field."""
    field = ".".join(map(str, path))
    *parents, name = path
    before = reduce(getitem, path, content)
    for value in HOSTILE:
        if value == before and type(value) is type(before):
            continue
        forged = copy.deepcopy(content)
        reduce(getitem, parents, forged)[name] = value
        yield f"{field} = {repr(value)[:40]}", forged
    forged = copy.deepcopy(content)
    del reduce(getitem, parents, forged)[name]
    yield f"{field} = left out", forged


class _Late(BaseException):
    """Time is over; no clause for exceptions takes it for one of the network's."""


def _try(folder: Path, x: Any) -> str:
    """Load a model folder and predict.

    Return "refused" or "predicted", or what went wrong.
    """

    def late(*_: object) -> NoReturn:
        raise _Late(f"more than {SECONDS} s")

    signal.signal(signal.SIGALRM, late)
    signal.alarm(SECONDS)
    try:
        Predictor.load(folder, device="cpu").predict(x)
    except UserError as error:
        if "allocate" in str(error.__cause__):
            return f"no memory: {error}"
        return "refused"
    except BaseException as error:  # any other type is what this module looks for
        return f"{type(error).__name__}: {str(error)[:300]}"
    finally:
        signal.alarm(0)
    return "predicted"


def main(folder: str, inputs: str, number: str) -> int:
    """Try ``number`` random forgeries of a model folder and print the outcome of each.

    A forgery may take `SECONDS`, and all together may take `MEMORY_BYTES` more than the
    intact model. Returns 1 if one neither raised `UserError` nor predicted ``inputs``,
    else 0.
    """
    x: Any = np.load(inputs) if inputs.endswith(".npy") else inputs
    counts: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as scratch:
        copied = Path(shutil.copytree(folder, Path(scratch) / "model"))
        config = json.loads((copied / model_folder.CONFIG).read_text())
        del config["sha256"]
        path = copied / model_config.PREPROCESSING
        preprocessing = json.loads(path.read_text()) if path.exists() else None
        Predictor.load(copied, device="cpu").predict(x)
        num_pages, *_ = Path("/proc/self/statm").read_text().split()
        limit = int(num_pages) * resource.getpagesize() + MEMORY_BYTES
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        forgeries = list(forge(config, preprocessing))
        for forgery in random.Random(0).sample(forgeries, int(number)):
            sys.stdout.write(f"{forgery.change}: ")
            sys.stdout.flush()  # the last line names what ended the process
            write(copied, forgery.config, forgery.preprocessing)
            outcome = _try(copied, x)
            if outcome in ("refused", "predicted"):
                counts[outcome] += 1
            else:
                counts["wrong"] += 1
            sys.stdout.write(f"{outcome}\n")
    sys.stdout.write(f"{dict(counts)}\n")
    return int(counts["wrong"] > 0)


def check_forgeries(folder: Path, inputs: Path, number: int) -> None:
    """Run `main` in a new process and fail where that fails."""
    program = f"import sys; from {__name__} import main; sys.exit(main(*sys.argv[1:]))"
    command = [sys.executable, "-c", program, str(folder), str(inputs), str(number)]
    process = subprocess.run(
        command, capture_output=True, text=True, timeout=60 + 3 * number, check=False
    )
    problems = [
        line
        for line in process.stdout.splitlines()
        if not line.endswith((": refused", ": predicted"))
    ]
    assert process.returncode == 0, "\n".join([*problems, process.stderr[-2000:]])


class ModelFolderSuite(Suite):
    """Test class of the model folders of methods: a forged one is refused or predicts.

    Set `names` to the methods.
    """

    forgeries = 100
    """Number of forgeries that are tried, drawn from all."""

    @staticmethod
    def save(name: str, directory: Path) -> tuple[Path, Path]:
        """Write an untrained model of the method ``name``, and inputs of it.

        Return both paths.
        """
        task = fitting_task(name)
        body = save_bert(directory / "body") if get_method(name).uses_body else "none"
        trainer = start(
            body, name, task=task, hyperparameters=QUICK, data=make_data(task)
        )
        if not get_method(name).uses_body:
            trainer.step()
        folder = Predictor(trainer.snapshot(), device="cpu").save(directory / "model")
        np.save(directory / "x.npy", np.asarray(make_data(task).test.x[:4]))
        return folder, directory / "x.npy"

    def test_a_forged_folder_is_refused_or_predicts(
        self, name: str, tmp_path: Path
    ) -> None:
        """It causes no other exception, no crash, no hang and no use of gigabytes."""
        check_forgeries(*self.save(name, tmp_path), self.forgeries)
