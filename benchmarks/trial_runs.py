"""Runs of the reference and of ours in separate processes, and their results."""

# ruff: noqa: T201 - part of a benchmark, which prints its progress

import argparse
import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from benchmarks import trial_problem
from benchmarks.trial_problem import Setting

HERE = Path(__file__).resolve().parent


@dataclass(frozen=True)
class Trial:
    """Result of one run; durations in seconds."""

    align: list[float]
    """Each align epoch; our first one fits the distance to the source."""
    refine: list[float]
    """Training of each refine epoch."""
    validated: list[float]
    """Each refine epoch with validation and, in the reference, its checkpoint."""
    whole: float
    """The whole run after the imports."""
    score: float
    """Test score of the epoch that validated best."""
    peak_mib: float

    @property
    def rest(self) -> float:
        """Everything but the two stages: loading, building, testing."""
        return self.whole - sum(self.align) - sum(self.validated)


def read_trial(events: list[dict[str, Any]], clock: str) -> Trial:
    """Return the result of a run from its events, by the ``clock`` wall or cpu.

    With the wall clock, an epoch's seconds are those that the run reports, if it does.
    CPU seconds are measured between events and include validation.
    """
    time = {"wall": "at", "cpu": "cpu"}[clock]
    named = {event["event"]: event for event in events}
    spans = [(event, event[time] - last[time]) for last, event in pairwise(events)]
    reported = clock == "wall"

    def seconds(kind: str, name: str) -> list[float]:
        return [
            event.get(name, span) if reported else span
            for event, span in spans
            if event["event"] == kind
        ]

    return Trial(
        align=seconds("align_epoch", "seconds"),
        refine=seconds("refine_epoch", "seconds"),
        validated=seconds("refine_epoch", "validated"),
        whole=named["end"][time] - named["begin"][time],
        score=named["test"]["test_score"],
        peak_mib=named["end"]["peak_mib"],
    )


class Bench:
    """Runs both sides in one folder per problem and collects their events."""

    def __init__(
        self,
        checkout: Path,
        folder: Path,
        reused: list[dict[str, Any]],
        args: argparse.Namespace,
    ) -> None:
        self._checkout = checkout
        self._folder = folder
        self._output = args.json
        self._distance = args.distance
        self._clock = args.clock
        self._reused = [run for run in reused if run["side"] == "reference"]
        self.runs: list[dict[str, Any]] = []
        self._environment = os.environ | {
            "PYTHONPATH": str(HERE.parent),
            "OMP_NUM_THREADS": "1",
            "MKL_NUM_THREADS": "1",
            "HF_HUB_OFFLINE": "1",
            "ORCA_RAY_HOME": str(folder / "home"),
        }
        trial_problem.write_body(folder / "roberta-base")

    @property
    def all_runs(self) -> list[dict[str, Any]]:
        """All runs so far, and the unused ones of the earlier file."""
        return self.runs + self._reused

    def problem(self, name: str, source_samples: int) -> Path:
        """Create a problem's folder with body and source features."""
        folder = self._folder / name
        (folder / "datasets").mkdir(parents=True)
        (folder / "roberta-base").symlink_to(self._folder / "roberta-base")
        trial_problem.write_source(folder / "datasets", source_samples)
        return folder

    def reference(
        self, folder: Path, dataset: str, setting: Setting, seed: int
    ) -> Trial:
        """Run the reference's ``main.py``, or reuse an earlier run with the same
        settings.
        """
        run = {
            "side": "reference",
            "problem": folder.name,
            "setting": setting.key(),
            "seed": seed,
        }
        found = next((old for old in self._reused if run.items() <= old.items()), None)
        if found is not None:
            # A second run with the same settings takes the next one.
            self._reused.remove(found)
            return self._record(run, found["events"])
        config = folder / "config.yaml"
        config.write_text(yaml.safe_dump(setting.reference_config(dataset, seed)))
        _remove_results(folder)
        command = [
            str(HERE / "run_reference.py"),
            str(self._checkout),
            str(folder),
            str(config),
        ]
        return self._record(run, self._events(command))

    def ours(self, folder: Path, setting: Setting, length: int, seed: int) -> Trial:
        """Run ours."""
        run = {
            "side": "ours",
            "problem": folder.name,
            "setting": setting.key(),
            "seed": seed,
        }
        values = folder / "hyperparameters.json"
        values.write_text(
            json.dumps(setting.our_hyperparameters(length, self._distance))
        )
        return self._record(
            run,
            self._events(
                [str(HERE / "run_ours.py"), str(folder), str(values), str(seed)]
            ),
        )

    def arrays_agree(self, folder: Path) -> bool:
        """Return whether the reference's loader and ours cut the recordings into the
        same windows.
        """
        theirs = folder / "reference.npz"
        self._output_of(
            [
                str(HERE / "run_reference.py"),
                str(self._checkout),
                str(folder),
                "--arrays",
                str(theirs),
            ]
        )
        with np.load(theirs) as file:
            return trial_problem.same_rows(
                {name: file[name] for name in file.files},
                trial_problem.read_windows(folder / "datasets" / "challenge2017.pkl"),
            )

    def _record(self, run: dict[str, Any], events: list[dict[str, Any]]) -> Trial:
        trial = read_trial(events, self._clock)
        self.runs.append({**run, "events": events})
        if self._output:  # after every run: an interrupted bench can be reused
            self._output.write_text(json.dumps({"runs": self.all_runs}, indent=1))
        print(
            f"  {run['side']:9} {run['problem']:24} seed {run['seed']}:"
            f" {trial.whole:8.1f} s, score {trial.score:.4f}",
            flush=True,
        )
        return trial

    def _events(self, command: list[str]) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self._output_of(command).splitlines()]

    def _output_of(self, command: list[str]) -> str:
        log = self._folder / "stderr.txt"
        with log.open("w") as errors:
            ran = subprocess.run(
                [sys.executable, *command],
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                env=self._environment,
            )
        if ran.returncode:
            raise SystemExit(f"{' '.join(command)} failed:\n{log.read_text()[-3000:]}")
        return ran.stdout


def _remove_results(folder: Path) -> None:
    """Remove the reference's results, from which it would continue."""
    shutil.rmtree(folder / "results", ignore_errors=True)
