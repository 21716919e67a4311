"""Run one of our trials on a problem in the reference's layout, and print timed events.

``python benchmarks/run_ours.py WORKDIR HYPERPARAMETERS.json SEED`` prints the same JSON
lines as `run_reference`.
"""

# ruff: noqa: T201 - the result of this script is what it prints

import json
import resource
import sys
from pathlib import Path
from time import perf_counter, process_time
from types import ModuleType
from typing import Any

import numpy as np
import torch

from benchmarks.trial_problem import CLASSES, read_windows
from orca_ray.alignment import sources
from orca_ray.alignment.source import SampleRequest, Source
from orca_ray.data.prepared import PreparedData, Split, fingerprint
from orca_ray.data.rows import Target
from orca_ray.methods.trial_trainer import TrialTrainer
from orca_ray.tasks.task import Task

_STARTED = perf_counter()


def emit(event: str, **values: Any) -> None:
    """Print one event with the wall and CPU seconds of this process."""
    at = round(perf_counter() - _STARTED, 4)
    cpu = round(process_time(), 4)
    print(json.dumps({"event": event, "at": at, "cpu": cpu, **values}), flush=True)


def main() -> None:
    """Run it; the last event is ``end``."""
    workdir = Path(sys.argv[1])
    hyperparameters = json.loads(Path(sys.argv[2]).read_text())
    seed = int(sys.argv[3])
    torch.set_num_threads(1)
    register_source(workdir / "datasets")
    emit("begin")
    task, data = read_problem(workdir)
    emit("loaded")
    body = str(workdir / "roberta-base")
    adaptation = TrialTrainer(
        task, data, "orca", body, hyperparameters, seed, test=True, reuse_aligned=False
    )
    emit("built")
    _run(adaptation)
    emit("end", peak_mib=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def _run(adaptation: TrialTrainer) -> None:
    before = adaptation.result()
    while not adaptation.done:
        progress = adaptation.step()
        now = adaptation.result()
        values: dict[str, Any] = {"epoch": progress.epoch, "seconds": progress.seconds}
        if progress.stage == "refine":
            values = {
                "epoch": progress.epoch,
                "seconds": now.refine_seconds - before.refine_seconds,
            }
            values |= {
                "validated": progress.seconds,
                "score": progress.validation_score,
            }
        emit(f"{progress.stage}_epoch", **values)
        before = now
    emit(
        "test",
        which="best-validated",
        test_score=before.test_score,
        best_epoch=before.best_epoch,
    )


def register_source(folder: Path) -> None:
    """Register the given features as source ``text``, so that the caches treat them as
    any other source's.
    """

    def sample(request: SampleRequest) -> tuple[torch.Tensor, torch.Tensor]:
        x = torch.from_numpy(np.load(folder / "text_xs_32.npy")[: request.num_samples])
        return x.mean(1), torch.from_numpy(
            np.load(folder / "text_ys_32.npy")[: request.num_samples]
        )

    module = ModuleType(f"{sources.__name__}.text")
    setattr(module, "SOURCE", Source(name="text", modality="sequence", sample=sample))  # noqa: B010
    sys.modules[module.__name__] = module
    listed = folder / "sources"
    listed.mkdir(exist_ok=True)
    (listed / "text.py").touch()  # names are listed by their files
    sources.__path__.append(str(listed))


def read_problem(workdir: Path) -> tuple[Task, PreparedData]:
    """Read the raw files; validation is on test, as in the reference."""
    if (workdir / "task.npz").exists():
        with np.load(workdir / "task.npz") as file:
            arrays = {name: file[name] for name in file.files}
        info = json.loads(str(arrays.pop("info")))
    else:
        arrays = read_windows(workdir / "datasets" / "challenge2017.pkl")
        info = {"outputs": len(CLASSES)}
    dense = isinstance(info["outputs"], list)
    if dense:
        arrays |= {name: arrays[name][:, 0] for name in ("train_y", "test_y")}
    target = (
        Target("dense", shape=tuple(info["outputs"][1:]))
        if dense
        else Target("classes", size=info["outputs"])
    )
    train, test = (
        Split(arrays[f"{part}_x"], arrays[f"{part}_y"]) for part in ("train", "test")
    )
    task = Task(
        name="perf/given",
        title="",
        domain="",
        input_shape=train.x.shape[1:],
        target=target,
        loss=info.get("loss", "cross_entropy"),
        metric=(
            "nrmse" if dense else "error" if "loss" in info else "one_minus_macro_f1"
        ),
        body="",
        num_samples=(len(train), len(test), len(test)),
        licence="",
        citation="",
        reference="",
        build=lambda _: {},
    )
    splits: dict[Any, Split] = {"train": train, "validation": test, "test": test}
    return task, PreparedData(
        task.name, fingerprint(arrays), splits, None, None, workdir
    )


if __name__ == "__main__":
    main()
