"""Adapt a body to one task within a given time: the implementation of ``orca_ray.adapt`` and ``orca-sweep adapt``.

Every method first runs once with its best known configuration, the cheapest method first, so that there is a model
early. Then every method gets the same number of search trials: the largest one that the remaining time allows.
"""

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orca_ray.errors import UserError
from orca_ray.methods.model_folder import check_other
from orca_ray.methods.registry import get_method
from orca_ray.options import KeepModels
from orca_ray.results.models import StoredModels
from orca_ray.results.record import Record, Status
from orca_ray.results.store import ResultsStore
from orca_ray.sweep.executors import joined_address
from orca_ray.sweep.executors.cleanup import scratch_directory
from orca_ray.sweep.plan.loading import load_spec, shipped_sweeps
from orca_ray.sweep.plan.spec import Overrides, SweepSpec
from orca_ray.sweep.run.driver import run_sweep
from orca_ray.sweep.run.events import Listener, Summary
from orca_ray.sweep.worker.models import best_of
from orca_ray.tasks.task import Task

if TYPE_CHECKING:
    from orca_ray.own_data import UserData
    from orca_ray.predictor import Predictor

logger = logging.getLogger(__name__)

SWEEP = shipped_sweeps()["pocket"].parent / "base" / "adapt.yaml"
"""Sweep file with the settings of all adaptations."""
SEARCHES = (32, 16, 8, 4, 2, 0)
"""Numbers of search trials per method; the second round takes the largest that fits the time. 0: no search."""
SEEDS = (1, 2, 3)
"""Confirm seeds of the second round; the first round has only the first of these seeds."""
MARGIN = 0.8
"""Share of the remaining time that the estimated duration of the second round may take."""
BASELINES = {"tabular": "gradient_boosting", "time series": "minirocket", "field": "fno"}
"""Method without pretraining that `adapt` compares, by domain; ``cnn`` in other domains."""


def usual_methods(task: Task) -> dict[str, str | None]:
    """Return, for each method compared by default, why it cannot adapt to ``task`` on this machine; None if it can."""
    baseline = "fno" if task.target.kind == "dense" else BASELINES.get(task.domain, "cnn")
    names = ("orca_guarded", "orca", "nft", "linear_probe", "scratch", baseline)
    return {name: get_method(name).problem(task) for name in names}


@dataclass(frozen=True, kw_only=True)
class AdaptationSweep:
    """Adaptation to one task, as a sweep over methods. Another `run` continues the sweep, e.g. with more minutes."""

    task: Task
    minutes: float = 20.0
    """Minutes for all trials together; trials that still run then are interrupted, and the next `run` resumes them."""
    methods: Sequence[str] = ()
    """Names of methods; empty: those of `usual_methods` that can adapt to the task on this machine."""
    body: str = ""
    """Name of the body; "": the default body of the task."""
    results: str = "results"
    """Path or URI of the results store."""
    executor: str = "ray"
    address: str | None = None
    """Ray cluster to join; None: the cluster that RAY_ADDRESS names, or a new one on this machine."""
    staging: str | None = None
    """Path or URI of a folder through which nodes get the prepared data, which no node can make itself. None: the
    folder ``staged`` of the results store, if trials run on an existing cluster and the store is a URI; else no
    folder, and nodes must share the cache directory."""
    command: str = ""
    """Command line that runs the sweep, for the model card."""
    listener: Listener | None = field(default=None, repr=False)

    def spec(self, search_trials: int = 0, seeds: Sequence[int] = SEEDS[:1]) -> SweepSpec:
        """Return the sweep of one round, named like the task; raises UserError for an unknown method or body."""
        methods = list(self.methods) or [name for name, why in usual_methods(self.task).items() if not why]
        spec = load_spec(SWEEP, overrides=Overrides([self.task.name], methods, self.body or self.task.body))
        budget = spec.budget.model_copy(update={"search_trials": search_trials, "confirm_seeds": list(seeds)})
        return replace(spec, file=spec.file.model_copy(update={"name": self.task.short_name}), budget=budget)

    def left_out(self) -> list[str]:
        """Return a sentence for each method of `usual_methods` that cannot adapt here; [] if ``methods`` is set."""
        problems = {} if self.methods else usual_methods(self.task)
        return [f"{name} is not compared: {why}" for name, why in problems.items() if why]

    def run(self) -> Summary:
        """Run the first round and, if there is time, the second; Ctrl-C ends both. Return the last round's summary."""
        deadline = time.monotonic() + 60 * self.minutes
        if self.shared:
            ResultsStore(self.results, create=True)  # before nodes write into its folder: a new store must be empty
        summary = self._round(self.spec(), deadline, shortest_first=True)
        if summary.interrupted:
            return summary
        more = self._affordable(summary.seconds, deadline - time.monotonic())
        return summary if more is None else self._round(self.spec(more, SEEDS), deadline)

    @property
    def shared(self) -> str | None:
        """Path or URI of the folder through which nodes get the prepared data; None: no folder (see `staging`)."""
        joins = self.executor == "ray" and joined_address(self.address) is not None
        if self.staging or not (joins and "://" in self.results):
            return self.staging
        place, mark, query = self.results.partition("?")
        return f"{place.rstrip('/')}/staged{mark}{query}"

    def best(self) -> Record:
        """Return the record of the best trial whose model is in the store, chosen by validation scores.

        Raises UserError if no trial has ended with a model.
        """
        models = StoredModels(self.results)
        found = best_of([record for record in self._confirmed() if models.has(record.trial_key)])
        if found is None:
            raise UserError(
                f"no trial of {self.task.name} has ended with a model: run the same command again, which continues it, "
                "and give more time with --minutes"
            )
        return found

    def save(self, out: str | Path) -> Record:
        """Write the best model to the folder ``out``, and delete the sweep's other models from the results store.

        Returns the best trial's record. Raises UserError if no trial ended with a model, or ``out`` has other files.
        """
        best, models, folder = self.best(), StoredModels(self.results), Path(out).expanduser()
        check_other(folder)
        models.fetch(best.trial_key, folder)  # first: if it fails, nothing is lost
        for record in self._confirmed():
            if record.trial_key != best.trial_key:
                models.remove(record.trial_key)
        return best

    def _round(self, spec: SweepSpec, deadline: float, *, shortest_first: bool = False) -> Summary:
        return run_sweep(
            spec, self.results, executor=self.executor, listener=self.listener, address=self.address,
            keep_models=KeepModels.ALL, command=self.command, staging=self.shared, shortest_first=shortest_first,
            deadline=deadline,
        )  # fmt: skip

    def _confirmed(self) -> list[Record]:
        records = ResultsStore(self.results).load(self.spec().sweep_id).values()
        return [each for each in records if each.phase == "confirm" and each.status is Status.COMPLETED]

    def _affordable(self, elapsed: float, left: float) -> int | None:
        """Return the number of search trials of the second round; None if it has no room at all.

        ``elapsed`` are the seconds of the first round, ``left`` those that remain. A trial takes as long as that of the
        same method in the first round, and as many trials run at a time as there.
        """
        seconds: dict[str, float] = {}
        for record in self._confirmed():
            seconds[record.method] = max(record.wall_seconds, seconds.get(record.method, 0.0))
        total = sum(seconds.values())
        parallel = max(1.0, total / elapsed) if elapsed else 1.0
        fits = [n for n in SEARCHES if (n + len(SEEDS) - 1) * total / parallel <= MARGIN * left]
        return fits[0] if seconds and fits else None


def adapt(
    task: "Task | UserData | str | Path | tuple[Any, Any]",
    *,
    minutes: float = 20.0,
    methods: Sequence[str] = (),
    body: str = "",
    results: str = "results",
    executor: str = "ray",
    listener: Listener | None = None,
    **options: Any,
) -> "Predictor":
    """Adapt a pretrained body to data, and return the best model; the same call continues after an interruption.

    Args:
        task: the data: a task, a path, arrays ``(x, y)``, or samples that `orca_ray.own_data.read` returned.
        minutes, methods, body, results, executor, listener: see `AdaptationSweep`.
        options: settings not to infer from the data, e.g. ``target="label"``: fields of `orca_ray.own_data.Options`.

    Raises:
        UserError: nothing can be learnt from the data, an option does not fit, or no trial ended in time.
    """
    from orca_ray.predictor import Predictor

    sweep = AdaptationSweep(
        task=as_task(task, options), minutes=minutes, methods=methods, body=body, results=results, executor=executor,
        listener=listener,
    )  # fmt: skip
    for line in sweep.left_out():
        logger.warning("%s", line)
    sweep.run()
    with scratch_directory() as scratch:
        sweep.save(scratch / "model")
        return Predictor.load(scratch / "model")


def as_task(data: Any, options: Mapping[str, Any]) -> Task:
    """Return the task for ``data`` (see `adapt`). UserError if data are unusable, or a task is given with options."""
    if isinstance(data, Task):
        if options:
            raise UserError(f"a task is complete: leave out {', '.join(options)}")
        return data
    from orca_ray.own_data import UserData, make_options, read
    from orca_ray.own_data.infer_task import infer
    from orca_ray.own_data.registration import register

    if isinstance(data, tuple) and len(data) == 2:
        return Task.from_arrays(*data, **options)
    given = make_options("adapt", dict(options))
    if isinstance(data, str | Path):
        data = read(data, given)
    if not isinstance(data, UserData):
        raise UserError(f"adapt takes a task, a path or arrays (x, y), got {type(data).__name__}")
    return register(infer(data, given), data)
