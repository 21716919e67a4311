"""The align stage of one trial: trains the embedder, or replays a cached alignment.

A method may guard the training; see `AlignGuard`.
"""

import math
from bisect import bisect_right
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from time import perf_counter
from typing import Any

import torch
from torch import Tensor, nn

from orca_ray.alignment.distance import SourceFeatures
from orca_ray.alignment.registry import get_distance
from orca_ray.alignment.source_features import fitted_distance
from orca_ray.methods.reports import EpochProgress, Outcome, join_notes
from orca_ray.methods.stages.trial import Trial
from orca_ray.models.names import parse_body_name
from orca_ray.training.align import AlignLoop, Probe
from orca_ray.training.checkpoint import (
    AlignEpoch,
    Alignment,
    AlignReplay,
    ProbePoint,
    alignment_key,
)
from orca_ray.training.config import AlignConfig

POINTS = (0.0, 0.25, 1.0)
"""Shares of the align schedule after which the embedder is probed.

More probes would take over 15 % of a short trial.
"""
MARGIN = 2.0
"""A later embedder is chosen if its error is lower by more than this many standard
errors of the paired difference.
"""


class AlignGuard:
    """Guard of aligning: probes the embedder at `POINTS`, and keeps the best weights.

    The first choice is the embedder before aligning. The embedder at a later point
    replaces the present choice if its mean error over the samples of the probe is lower
    by more than `MARGIN` standard errors of the difference, which noise alone seldom
    causes (``docs/decisions/0012-guarded.md`` has measurements).
    """

    def __init__(self, embedder: nn.Module, probe: Callable[[], Tensor]) -> None:
        """Guard ``embedder``; ``probe()`` returns its errors [n] on some samples.

        The samples are the same in each call.
        """
        self._embedder = embedder
        self._probe = probe
        self._passed = 0
        """Number of `POINTS` that have been probed."""
        self._errors_n: Tensor | None = None
        """Errors of the chosen embedder."""
        self._weights: dict[str, Tensor] = {}
        """Weights of the chosen embedder."""
        self.chosen_epoch = 0
        """Number of align epochs of the chosen embedder; 0: the embedder before
        aligning.
        """
        self.points: tuple[ProbePoint, ...] = ()
        """Results of all probes so far."""

    @property
    def done(self) -> bool:
        """Whether the embedder has been probed at all `POINTS`."""
        return self._passed == len(POINTS)

    def is_due(self, progress: float) -> bool:
        """Return whether the next of `POINTS` is reached at the share ``progress``.

        If a plateau of the distance skips a part of the schedule, one probe may count
        for several `POINTS`.
        """
        return bisect_right(POINTS, progress) > self._passed

    def step(self, progress: float, epoch: int) -> ProbePoint:
        """Probe the embedder after ``epoch`` epochs, and choose it if clearly better.

        Return the probe's result.
        """
        errors_n = self._probe()
        if self._errors_n is None or _is_lower(errors_n, self._errors_n):
            self.chosen_epoch = epoch
            self._errors_n = errors_n
            self._weights = {
                name: value.to("cpu", copy=True)
                for name, value in self._embedder.state_dict().items()
            }
        self._passed = bisect_right(POINTS, progress)
        point = ProbePoint(epoch, float(errors_n.mean()))
        self.points = (*self.points, point)
        return point

    def load_choice(self) -> None:
        """Load the chosen weights into the embedder."""
        self._embedder.load_state_dict(self._weights)

    def state_dict(self) -> dict[str, Any]:
        """Return the state for an exact resume."""
        return {
            "passed": self._passed,
            "chosen": self.chosen_epoch,
            "errors": self._errors_n,
            "points": [(point.epoch, point.error) for point in self.points],
            "weights": self._weights,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the ``state`` of an interrupted guard, to continue from it."""
        self._passed = state["passed"]
        self.chosen_epoch = state["chosen"]
        self._errors_n = state["errors"]
        self._weights = state["weights"]
        self.points = tuple(ProbePoint(*point) for point in state["points"])


def _is_lower(errors_n: Tensor, other_errors_n: Tensor) -> bool:
    """Return whether the mean of ``errors_n`` is lower beyond noise; see `MARGIN`."""
    difference_n = other_errors_n - errors_n
    noise = float(difference_n.std(correction=0)) / math.sqrt(len(difference_n))
    return float(difference_n.mean()) > MARGIN * noise


class AlignStage:
    """Stage that aligns the embedder.

    A `step` is one epoch or one probe; the first step loads the source features.
    """

    name = "align"
    parallel = False

    def __init__(
        self, trial: Trial, config: AlignConfig | None = None, *, guarded: bool = False
    ) -> None:
        """Plan the stage; ``config`` replaces ``align.*``.

        If ``guarded``, an `AlignGuard` chooses the embedder.
        """
        self._trial = trial
        self._guarded = guarded
        self._config = config or trial.hyperparameters.align
        self._key: str | None = None
        self._run: AlignLoop | AlignReplay | None = None
        """The loop that aligns, or the replay of a cached alignment; None before the
        first step.
        """
        self._guard: AlignGuard | None = None
        """Guard of an `AlignLoop`; None: there is no guard, or a replay."""
        self._seconds = 0.0
        """Duration of the last step."""
        if trial.test:
            trial.artefacts.before_aligning(trial.model, trial.device)

    @property
    def done(self) -> bool:
        """Whether the stage has ended."""
        if self._run is None or not self._run.done:
            return False
        return self._guard is None or self._guard.done

    def step(self) -> EpochProgress:
        """Run one epoch or probe, or replay it from the cache, and return its report.

        After the last epoch or probe, load the weights that any guard chose, and store
        a new alignment in the cache.
        """
        started = perf_counter()  # includes source features and pseudo-labels
        if self._run is None:
            self._run = self._load_or_make_run()
        run = self._run
        report: AlignEpoch | ProbePoint | None = self._probe_if_due(run)
        if report is None:
            report = run.step()
        if self.done and isinstance(run, AlignLoop):
            self._store_alignment(run)
        self._seconds = perf_counter() - started
        if self.done:
            trial = self._trial
            trial.artefacts.after_aligning(
                trial.model, trial.device, trial.source_features()
            )
        progress = EpochProgress(
            stage="align",
            epoch=report.epoch,
            epochs=self._config.epochs,
            seconds=self._seconds,
        )
        if isinstance(report, ProbePoint):
            return replace(progress, stage="probe", loss=report.error)
        return replace(
            progress, distance=report.distance, learning_rate=report.learning_rate
        )

    def _probe_if_due(self, run: AlignLoop | AlignReplay) -> ProbePoint | None:
        """Let the guard probe the embedder if a probe is due; None: none is due."""
        guard = self._guard
        if guard is None or not isinstance(run, AlignLoop):
            return None
        if not guard.is_due(run.progress):
            return None
        return guard.step(run.progress, run.epoch)

    def add_to(self, outcome: Outcome) -> Outcome:
        """Return a copy of ``outcome`` with the results of this stage so far.

        Call it after each step: the seconds of that step are added.
        """
        run = self._run
        assert run is not None
        chosen_epoch = None
        if isinstance(run, AlignReplay):
            chosen_epoch = run.chosen_epoch
        elif self._guard is not None and self.done:
            chosen_epoch = self._guard.chosen_epoch
        return replace(
            outcome,
            distance_before=run.distance_before,
            distance_after=run.distance_after,
            align_epochs=run.epoch,
            align_plateaued=run.plateaued,
            align_reused=isinstance(run, AlignReplay),
            align_chosen=chosen_epoch,
            notes=join_notes(outcome.notes, run.notes),
            align_seconds=outcome.align_seconds + self._seconds,
        )

    def state_dict(self) -> dict[str, Any] | None:
        """Return the state for `load_state_dict`; None before the first step."""
        if self._run is None:
            return None
        guard_state = None if self._guard is None else self._guard.state_dict()
        return self._run.state_dict() | {"guard": guard_state}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the ``state`` of an interrupted stage, to continue from it.

        The embedder's weights must be restored before.
        """
        if "replay" in state:
            alignment = Alignment.from_state(state["replay"])
            self._run = AlignReplay(
                self._trial.model.embedder, alignment, state["position"]
            )
            return
        self._run = self._make_loop()
        self._run.load_state_dict(dict(state))
        if self._guard is not None:
            self._guard.load_state_dict(state["guard"])

    def _store_alignment(self, loop: AlignLoop) -> None:
        """Load the weights that a guard chose, and store the alignment in the cache."""
        if self._guard is not None:
            self._guard.load_choice()
        alignment = loop.alignment()
        cache = self._trial.cache
        if alignment is None or cache is None or self._key is None:
            return
        if self._guard is not None:
            alignment = replace(
                alignment,
                probes=self._guard.points,
                chosen_epoch=self._guard.chosen_epoch,
            )
        cache.store(self._key, alignment)

    def _load_or_make_run(self) -> AlignLoop | AlignReplay:
        """Return the replay of a cached alignment or, if there is none, a new loop."""
        source = self._trial.source_features()
        cache = self._trial.cache
        embedder = self._trial.model.embedder
        if cache is not None:
            self._key = self._make_key(source)
            alignment = cache.load(self._key, embedder)
            if alignment:
                return AlignReplay(embedder, alignment)
        return self._make_loop()

    def _make_loop(self) -> AlignLoop:
        """Return a new loop, and make its guard if the stage is guarded."""
        trial = self._trial
        if self._guarded:
            splits = [trial.data.splits["train"]]
            validation = trial.data.splits["validation"]
            # Under protocol ``paper``, the validation split is the test split, and
            # train contains all other samples.
            if validation is not trial.data.splits.get("test"):
                splits.append(validation)
            probe = Probe(
                trial.model,
                splits,
                trial.task.target,
                seed=trial.seed,
                device=trial.device,
            )
            self._guard = AlignGuard(trial.model.embedder, probe)
        return make_align_loop(trial, self._config)

    def _make_key(self, source: SourceFeatures) -> str:
        """Return the key of the alignment in the cache.

        It depends neither on the refine options nor, without a guard, on the layers of
        the body.
        """
        trial = self._trial
        distance = get_distance(self._config.distance)
        # Not the name of the source: its features are hashed.
        config = replace(
            self._config,
            source="",
            learning_rate=self._config.learning_rate or distance.learning_rate,
        )
        model = trial.model
        buffers = [model.input_mean, model.input_deviation]
        statistics = [
            buffer.flatten().tolist() for buffer in buffers if buffer is not None
        ]
        settings = {
            "data": [trial.data.fingerprint, trial.hyperparameters.data.fraction],
            "target": trial.task.target.kind,
            "guarded": self._guarded,
            "body": parse_body_name(trial.body)[0],
            "pretrained": trial.pretrained,
            "statistics": statistics,
            "embedder": asdict(trial.hyperparameters.embedder),
            "align": asdict(config),
            "distance": distance.version,
            "seed": trial.seed,
            "threads": torch.get_num_threads(),
            "deterministic": torch.are_deterministic_algorithms_enabled(),
        }
        weights = model if self._guarded else model.embedder
        return alignment_key(weights, source, trial.data.train, trial.device, settings)


def make_align_loop(trial: Trial, config: AlignConfig) -> AlignLoop:
    """Return a loop that aligns the embedder to the trial's source features.

    ``config`` names the distance that it minimises.
    """
    train = trial.data.train
    distance = fitted_distance(config.distance, trial.source_features(), trial.device)
    return AlignLoop(
        trial.model,
        train.x,
        train.y,
        trial.task.target,
        config,
        distance,
        seed=trial.seed,
        device=trial.device,
    )
