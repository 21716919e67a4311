"""Step by step: the reference's ``main.py`` and ours under the protocol ``paper`` on
one small ECG problem.

``ORCA_REFERENCE=CHECKOUT python benchmarks/compare_reference.py``. Same raw file,
source features, body (two layers of random weights), initial weights of embedder and
head, and order of samples; every class is aligned with all its samples, so that nothing
else is drawn at random. Prints the distance of every align epoch and the loss of every
refine epoch of both, and exits with 1 if distances differ by more than 1e-3 or losses
by more than 1e-2, relatively. Cases: ``published``, the ECG configuration with a tenth
of its source features; ``learning``, the same with Adam at 1e-4 and more steps;
``warm``, that with a warm-up of one epoch, which the two define differently (no limit
on the losses).
"""

# ruff: noqa: T201 - the result of this script is what it prints

import json
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch
import yaml

from benchmarks import trial_problem
from benchmarks.reference import CHECKOUT_VARIABLE, reference_checkout
from benchmarks.run_ours import read_problem, register_source
from benchmarks.trial_problem import Setting
from orca_ray.methods.options import Scalar
from orca_ray.methods.trial_trainer import TrialTrainer
from orca_ray.sweep.plan.spec import published_settings
from orca_ray.training.numerics import make_generator

ROOT = Path(__file__).resolve().parents[1]
SEED = 0
PUBLISHED = Setting(align_epochs=24, refine_epochs=4, source_samples=500)
LEARNING = replace(
    PUBLISHED,
    batch_size=16,
    accumulation=1,
    optimizer="Adam",
    learning_rate=1e-4,
    weight_decay=1e-3,
    warmup_epochs=0,
    decay_epochs=8,
)
CASES = {
    "published": PUBLISHED,
    "learning": LEARNING,
    "warm": replace(LEARNING, warmup_epochs=1),
}
MOST_DISTANCE = 1e-3
MOST_LOSS = 1e-2


@dataclass(frozen=True)
class Curve:
    """Distance of every align epoch, loss of every refine epoch, test score."""

    distances: list[float]
    losses: list[float]
    score: float


def our_settings(setting: Setting) -> dict[str, Scalar]:
    """Return the published settings of ECG under the protocol ``paper``, with those of
    the case.
    """
    case = setting.our_hyperparameters(trial_problem.WINDOW, "otdd_reference")
    del case["embedder.sequence_length"]  # the published one
    rate = setting.learning_rate
    return {
        **published_settings("nasbench360/ecg", paper=("orca", "roberta-base")),
        **case,
        "align.learning_rate": rate * 10 if rate <= 1e-3 else rate,
        "align.optimizer": setting.optimizer.lower(),
        "align.weight_decay": setting.weight_decay,
        "align.momentum": setting.momentum,
        "refine.precision": "float32",
    }


def run_ours(folder: Path, setting: Setting) -> Curve:
    """Write ``start.npz`` into the problem's folder and run ours."""
    task, data = read_problem(folder)
    trainer = TrialTrainer(
        task,
        data,
        "orca",
        str(folder / "roberta-base"),
        our_settings(setting),
        SEED,
        test=True,
        reuse_aligned=False,
        standardise=False,
    )
    orders = [
        torch.randperm(
            len(data.train), generator=make_generator(SEED, "order", epoch)
        ).numpy()
        for epoch in range(setting.refine_epochs)
    ]
    parts = {"projection": "embedder.projection", "predictor": "head.output"}
    weights = {
        f"{theirs}.{name}": parameter.detach().numpy().copy()
        for theirs, ours in parts.items()
        for name, parameter in trainer.model.get_submodule(ours).named_parameters()
    }
    np.savez(
        folder / "start.npz",
        allow_pickle=False,
        x=np.asarray(data.train.x),
        orders=np.stack(orders),
        **weights,
    )
    distances = []
    losses = []
    while not trainer.done:
        progress = trainer.step()
        if progress.distance is not None:
            distances.append(progress.distance)
        if progress.loss is not None:
            losses.append(progress.loss)
    score = trainer.result().test_score
    assert score is not None
    return Curve(distances, losses, score)


def run_reference(checkout: Path, folder: Path, setting: Setting) -> Curve:
    """Run the reference in the problem's folder, which has a ``start.npz``."""
    config = folder / "config.yaml"
    config.write_text(yaml.safe_dump(setting.reference_config("ECG", SEED)))
    command = [
        sys.executable,
        str(ROOT / "benchmarks/run_reference.py"),
        str(checkout),
        str(folder),
        str(config),
    ]
    environment = os.environ | {
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
    }
    ran = subprocess.run(
        command, capture_output=True, text=True, env=environment, check=False
    )
    if ran.returncode:
        raise SystemExit(ran.stderr[-3000:])
    events = [json.loads(line) for line in ran.stdout.splitlines()]
    return Curve(
        [event["otdd_loss"] for event in events if event["event"] == "align_epoch"],
        [event["train_loss"] for event in events if event["event"] == "refine_epoch"],
        next(
            event["test_score"]
            for event in events
            if event.get("which") == "best-validated"
        ),
    )


def differs(what: str, theirs: list[float], ours: list[float], most: float) -> bool:
    """Print two curves side by side; return whether they differ by more than ``most``,
    relatively.
    """
    gaps = [
        abs(a - b) / max(abs(a), abs(b), 1e-9)
        for a, b in zip(theirs, ours, strict=True)
    ]
    for epoch, (a, b, gap) in enumerate(zip(theirs, ours, gaps, strict=True), start=1):
        print(f"  {what} {epoch:3}{a:12.4f}{b:12.4f}{gap:12.1e}")
    print(f"  largest relative difference: {max(gaps):.1e} (limit {most:g})")
    return max(gaps) > most


def main() -> int:
    """Run all cases."""
    checkout = reference_checkout()
    if checkout is None:
        print(
            f"{CHECKOUT_VARIABLE} does not point to a checkout of the reference:"
            " nothing to compare with"
        )
        return 0
    wrong = []
    with tempfile.TemporaryDirectory(prefix="orca-ray-compare-") as name:
        folder = Path(name)
        os.environ["ORCA_RAY_HOME"] = str(folder / "home")
        (folder / "datasets").mkdir()
        trial_problem.write_body(folder / "roberta-base")
        trial_problem.write_source(folder / "datasets", PUBLISHED.source_samples)
        # 192 windows: whole steps of 64, as the reference drops the rest of an epoch
        # but counts its loss.
        trial_problem.write_recordings(
            folder / "datasets" / "challenge2017.pkl",
            train=192,
            test=22,
            windows=(1, 1),
        )
        torch.set_num_threads(1)
        register_source(folder / "datasets")
        for case, setting in CASES.items():
            if sys.argv[1:] and case not in sys.argv[1:]:
                continue
            ours = run_ours(folder, setting)
            theirs = run_reference(checkout.resolve(), folder, setting)
            # The reference would continue from its results.
            shutil.rmtree(folder / "results", ignore_errors=True)
            print(f"{case}: epoch, reference, ours, relative difference")
            if differs("distance", theirs.distances, ours.distances, MOST_DISTANCE):
                wrong.append(f"{case}: distances differ")
            if differs(
                "loss",
                theirs.losses,
                ours.losses,
                np.inf if case == "warm" else MOST_LOSS,
            ):
                wrong.append(f"{case}: losses differ")
            print(f"  test score: {theirs.score:.4f}, {ours.score:.4f}", flush=True)
    print("\n".join(f"WRONG: {each}" for each in wrong) or "all agree")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
