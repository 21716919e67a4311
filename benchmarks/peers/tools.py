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

from benchmarks.peers.parts import KINDS, Kind
from benchmarks.peers.writing import Written
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


REPORTED = (
    "score",
    "low",
    "high",
    "num_samples",
    "num_folds",
    "out_of_fold",
    "holdout",
    "description",
    "verdict",
    "standings",
)
"""What the results file keeps of the answer of ``orca adapt --json``."""


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
    squared_errors = np.square(difference).sum(axes)
    squared_norms = np.square(answers, dtype=float).sum(axes)
    relative: Array = np.sqrt(squared_errors / squared_norms)
    return relative


@dataclass(frozen=True)
class Run:
    """One run of a tool on a data set."""

    tool: Tool
    written: Written
    minutes: float | None
    """Time limit; None for a tool that takes none, which is stopped after an hour."""
    seed: int
    cores: int

    @property
    def key(self) -> Result:
        """What tells a run from others in a line of the results file."""
        return {
            "set": self.written.data.name,
            "tool": self.tool.name,
            "minutes": self.minutes,
            "seed": self.seed,
            "cores": self.cores,
            "data": self.written.digest,
        }


@dataclass(frozen=True)
class Predictions:
    """What a tool predicts for the outer test, and what it says about itself."""

    values: Array
    reported: Result | None = None


def run_tool(run: Run, work: Path) -> Result:
    """Run a tool on a data set and return the line for the results file, whether the
    run failed or not.
    """
    begin = time.monotonic()
    cpu = _cpu_seconds()
    load, _, _ = os.getloadavg()
    result: Result = {**run.key, "load": round(load, 2)}
    call_tool = _call_adapt if run.tool.name == "adapt" else _call_peer
    data = run.written.data
    with tempfile.TemporaryDirectory(dir=work, ignore_cleanup_errors=True) as scratch:
        try:
            predictions = call_tool(run, Path(scratch), work)
            of_samples = losses(data.metric, predictions.values, run.written.answers)
            result["losses"] = [float(f"{loss:.6g}") for loss in of_samples]
            result["reported"] = predictions.reported
            result["failure"] = None
        except (Failed, ValueError, OSError) as error:
            result["failure"] = f"{error}"
    result["seconds"] = round(time.monotonic() - begin, 1)
    result["cpu_seconds"] = round(_cpu_seconds() - cpu, 1)
    return result


def _call_peer(run: Run, scratch: Path, work: Path) -> Predictions:
    seconds = 3600 if run.minutes is None else 60 * run.minutes
    out = scratch / "out.npy"
    command: list[str | Path] = [
        peers_python(work / "env"),
        SCRIPT,
        run.tool.name,
        run.written.folder,
        out,
        "--seconds",
        f"{seconds:g}",
        "--seed",
        str(run.seed),
        "--cores",
        str(run.cores),
    ]
    _call(command, run.cores, scratch, 10 * seconds + 120)
    return Predictions(np.load(out, allow_pickle=False))


def _call_adapt(run: Run, scratch: Path, work: Path) -> Predictions:
    assert run.minutes is not None
    orca = [sys.executable, "-m", "orca_ray.cli.main"]
    data = run.written.data
    model = scratch / "model"
    out = scratch / "out.parquet"
    adapt: list[str | Path] = [*orca, "adapt", run.written.train, *data.options]
    adapt += ["--metric", data.metric]
    if not data.in_folders:
        adapt += ["--target", "target" if data.kind == "table" else "y"]
    adapt += ["--minutes", f"{run.minutes:g}", "--out", model]
    adapt += ["--results", scratch / "results", "--json"]
    begin = time.monotonic()
    printed = _call(adapt, run.cores, scratch, 180 * run.minutes + 300)
    seconds = round(time.monotonic() - begin, 1)
    predict: list[str | Path] = [*orca, "predict", model, run.written.test, "--quiet"]
    _call([*predict, "-o", out], run.cores, scratch, 600)
    answer = json.loads(printed[printed.index("{") :])
    reported = {name: answer[name] for name in REPORTED}
    reported["command_seconds"] = seconds
    reported["commit"] = _commit()
    reported["held_share"] = _held_share(predict, run, scratch)
    column = pq.read_table(out, columns=["prediction"])["prediction"]
    return Predictions(np.array(column.to_pylist()), reported)


def _held_share(predict: Sequence[str | Path], run: Run, scratch: Path) -> float | None:
    """Return the share of the outer test whose target is in its 90 % interval or set;
    for fields, of all values. None: the model has no intervals.
    """
    out = scratch / "intervals.npz"
    try:
        _call([*predict, "-o", out, "--interval", "0.9"], run.cores, scratch, 600)
    except Failed:
        return None
    answers = run.written.answers
    with np.load(out) as arrays:
        if run.written.data.target == "classes":
            is_class = arrays["labels"].astype(str) == answers.astype(str)[:, None]
            return float((arrays["set"] & is_class).any(axis=1).mean())
        is_held = (arrays["low"] <= answers) & (answers <= arrays["high"])
    return float(is_held.mean())


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
        self.lines: list[Result] = []
        for file in (*others, path):
            self.lines += read_lines(file)
        if retry:
            self.lines = [line for line in self.lines if not line["failure"]]

    def has(self, run: Run) -> bool:
        """Whether the run is there, of these very data; a failed one counts."""
        key = run.key
        return any({name: line.get(name) for name in key} == key for line in self.lines)

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
    if not path.exists():
        return []
    lines: list[Result] = []
    for text in path.read_text().splitlines():
        with contextlib.suppress(json.JSONDecodeError):
            lines.append(json.loads(text))
    return lines
