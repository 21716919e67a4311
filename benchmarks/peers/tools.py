"""`adapt` and its peers as commands: the peers' environment, one run of a tool on a
data set, and its result.
"""

import contextlib
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from benchmarks.peers.sets import KINDS, Kind, Written
from orca_ray.data.rows import Array

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = Path(__file__).with_name("fit_peer.py")
REQUIREMENTS = (
    "autogluon.tabular[lightgbm,catboost,xgboost]",
    "aeon",
    "scikit-image",
    "torch",
)
"""What pip installs into the peers' environment."""
Result = dict[str, Any]
"""One line of the results file."""


@dataclass(frozen=True)
class Tool:
    """A tool that is compared, on data of some kinds."""

    name: str
    kinds: tuple[Kind, ...]
    plain: bool = False
    """Whether this is a plain baseline and no specialised tool."""
    timed: bool = False
    """Whether the tool uses the time that it is given; another one runs once for all
    times.
    """


TOOLS = (
    Tool("adapt", KINDS, timed=True),
    Tool("autogluon_medium", ("table",), timed=True),
    Tool("autogluon_best", ("table",), timed=True),
    Tool("minirocket", ("series",)),
    Tool("hydra", ("series",)),
    Tool("multirocket_hydra", ("series",)),
    Tool("hog_svm", ("images",)),
    Tool("cnn", ("images",), timed=True),
    Tool("unet", ("fields",), timed=True),
    Tool("fno", ("fields",), timed=True),
    Tool("linear", KINDS, plain=True),
    Tool("neighbours", KINDS, plain=True),
    Tool("forest", KINDS, plain=True),
)


class Failed(Exception):
    """Raised when a tool did not make predictions; the message says why."""


def peers_python(folder: Path) -> Path:
    """Return the Python of the peers' environment in ``folder``; make the environment
    if it is not complete.
    """
    python = folder / "bin" / "python"
    complete = folder / "complete"
    if not complete.exists():
        subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True)
        subprocess.run(
            [python, "-m", "pip", "install", "--quiet", *REQUIREMENTS], check=True
        )
        frozen = subprocess.run(
            [python, "-m", "pip", "freeze"], check=True, capture_output=True, text=True
        )
        complete.write_text(frozen.stdout)
    return python


def losses(metric: str, predicted: Array, answers: Array) -> Array:
    """Return the loss [N] of each test sample: 0 or 1, a squared error, or the relative
    L2 error of a field.
    """
    if predicted.shape != answers.shape:
        raise Failed(
            f"predictions have the shape {predicted.shape}, targets {answers.shape}"
        )
    if metric == "error":
        return np.asarray(predicted.astype(str) != answers.astype(str), dtype=float)
    difference = predicted.astype(float) - answers
    if not np.isfinite(difference).all():
        raise Failed("a prediction is not finite")
    if metric == "rmse":
        return np.asarray(difference**2)
    axes = tuple(range(1, answers.ndim))
    made: Array = np.sqrt(
        np.square(difference).sum(axes) / np.square(answers, dtype=float).sum(axes)
    )
    return made


def run(
    tool: Tool,
    written: Written,
    minutes: float | None,
    seed: int,
    cores: int,
    work: Path,
) -> Result:
    """Run a tool on a data set and return the line for the results file, whether the
    run failed or not.

    A tool that takes no time limit (``minutes`` is None) is stopped after an hour.
    """
    begin = time.monotonic()
    cpu = _cpu_seconds()
    result: Result = {
        "set": written.data.name,
        "tool": tool.name,
        "minutes": minutes,
        "seed": seed,
        "cores": cores,
        "data": written.digest,
        "load": round(os.getloadavg()[0], 2),
    }
    with tempfile.TemporaryDirectory(dir=work, ignore_cleanup_errors=True) as scratch:
        try:
            method = _adapt if tool.name == "adapt" else _fit_peer
            predicted, reported = method(
                tool, written, minutes, seed, cores, Path(scratch), work
            )
            each = losses(written.data.metric, predicted, written.answers)
            result |= {
                "losses": [float(f"{loss:.6g}") for loss in each],
                "reported": reported,
                "failure": None,
            }
        except (Failed, ValueError, OSError) as error:
            result |= {"failure": f"{error}"}
    result |= {
        "seconds": round(time.monotonic() - begin, 1),
        "cpu_seconds": round(_cpu_seconds() - cpu, 1),
    }
    return result


def _fit_peer(
    tool: Tool,
    written: Written,
    minutes: float | None,
    seed: int,
    cores: int,
    scratch: Path,
    work: Path,
) -> tuple[Array, None]:
    seconds = 3600 if minutes is None else 60 * minutes
    command: list[str | Path] = [
        peers_python(work / "env"),
        SCRIPT,
        tool.name,
        written.folder,
        scratch / "out.npy",
    ]
    command += ["--seconds", f"{seconds:g}", "--seed", str(seed), "--cores", str(cores)]
    _call(command, cores, scratch, 10 * seconds + 120)
    return np.load(scratch / "out.npy", allow_pickle=False), None


def _adapt(
    tool: Tool,
    written: Written,
    minutes: float | None,
    seed: int,
    cores: int,
    scratch: Path,
    work: Path,
) -> tuple[Array, Result]:
    assert minutes is not None
    orca = [sys.executable, "-m", "orca_ray.cli.main"]
    model = scratch / "model"
    out = scratch / "out.parquet"
    options: list[str | Path] = [*written.data.options, "--metric", written.data.metric]
    if not written.data.in_folders:
        options += ["--target", "target" if written.data.kind == "table" else "y"]
    options += [
        "--minutes",
        f"{minutes:g}",
        "--out",
        model,
        "--results",
        scratch / "results",
        "--json",
    ]
    begin = time.monotonic()
    printed = _call(
        [*orca, "adapt", written.train, *options], cores, scratch, 180 * minutes + 300
    )
    seconds = round(time.monotonic() - begin, 1)
    _call(
        [*orca, "predict", model, written.test, "-o", out, "--quiet"],
        cores,
        scratch,
        600,
    )
    found = json.loads(printed[printed.index("{") :])
    named = (
        "score low high num_samples num_folds out_of_fold holdout description verdict"
        " standings"
    )
    reported = {name: found[name] for name in named.split()} | {
        "command_seconds": seconds,
        "commit": _commit(),
    }
    return (
        np.array(pq.read_table(out, columns=["prediction"])["prediction"].to_pylist()),
        reported,
    )


def _call(
    command: Sequence[str | Path], cores: int, folder: Path, most_seconds: float
) -> str:
    """Run a command on ``cores`` CPUs in ``folder`` and return what it prints; raises
    Failed if it fails or hangs.
    """
    allowed = sorted(os.sched_getaffinity(0))[:cores]
    names = (
        "OMP_NUM_THREADS",
        "MKL_NUM_THREADS",
        "OPENBLAS_NUM_THREADS",
        "NUMBA_NUM_THREADS",
    )
    environment = {
        **os.environ,
        **dict.fromkeys(names, str(cores)),
        "PYTHONPATH": str(ROOT),
    }
    process = subprocess.Popen(
        list(map(str, command)),
        cwd=folder,
        env=environment,
        text=True,
        start_new_session=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        preexec_fn=lambda: os.sched_setaffinity(0, allowed),
    )
    try:
        printed, errors = process.communicate(timeout=most_seconds)
    except subprocess.TimeoutExpired:
        raise Failed(f"did not end within {most_seconds:.0f} s") from None
    finally:
        if process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
    if process.returncode:
        lines = (errors.strip() or printed.strip() or "no output").splitlines()
        raise Failed(f"exit code {process.returncode}: {' | '.join(lines[-3:])[:500]}")
    return printed


def _cpu_seconds() -> float:
    """Return the CPU time of all ended children; those of children that nobody waited
    for are missing.
    """
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def _commit() -> str:
    command = ["git", "-C", str(ROOT), "rev-parse", "--short", "HEAD"]
    return subprocess.run(
        command, capture_output=True, text=True, check=False
    ).stdout.strip()


class Results:
    """The results file: one JSON line a run.

    Other files are read as well, and never written.
    """

    def __init__(
        self, path: Path, others: Iterable[Path] = (), *, retry: bool = False
    ) -> None:
        """Read the files; with ``retry``, failed runs are left out."""
        self.path = path
        lines = (line for file in (*others, path) for line in read_lines(file))
        self.lines = [line for line in lines if not (retry and line["failure"])]

    def has(
        self, tool: Tool, written: Written, minutes: float | None, seed: int, cores: int
    ) -> bool:
        """Whether the run is there, of these very data; a failed one counts."""
        wanted = {
            "set": written.data.name,
            "tool": tool.name,
            "minutes": minutes,
            "seed": seed,
            "cores": cores,
        }
        wanted["data"] = written.digest
        return any(
            all(line.get(key) == value for key, value in wanted.items())
            for line in self.lines
        )

    def add(self, line: Mapping[str, Any]) -> None:
        """Append a line; it is on disk when the call returns."""
        self.lines.append(dict(line))
        with self.path.open("ab") as stream:
            if stream.tell() and not self.path.read_bytes().endswith(b"\n"):
                stream.write(b"\n")  # the last line was cut off
            stream.write(json.dumps(line).encode() + b"\n")
            stream.flush()
            os.fsync(stream.fileno())


def read_lines(path: Path) -> list[Result]:
    """Return the complete lines of a results file; [] if there is none."""
    found: list[Result] = []
    for text in path.read_text().splitlines() if path.exists() else ():
        with contextlib.suppress(json.JSONDecodeError):
            found.append(json.loads(text))
    return found
