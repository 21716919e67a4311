"""Adaptation of a body to one task within a given time, as a sweep over methods.

One search runs trials of all methods over the folds of the data on the executor
(`orca_ray.adaptation.search`). While a cluster starts, a search of the methods that fit
in seconds runs in this process. The model is the best configuration, or an ensemble
(`orca_ray.adaptation.judge`).
"""

import contextlib
import math
import time
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace
from importlib import import_module
from pathlib import Path

import numpy as np
import torch

from orca_ray.adaptation.candidates import Identity
from orca_ray.adaptation.choice import Choice
from orca_ray.adaptation.conformity import make_conformal
from orca_ray.adaptation.expected_seconds import seconds_of_untried
from orca_ray.adaptation.folds import Folds
from orca_ray.adaptation.held_out_importance import importance_of_choice
from orca_ray.adaptation.judge import Judge
from orca_ray.adaptation.model import (
    AssembledModel,
    Measurement,
    assemble_model,
    measure_model,
)
from orca_ray.adaptation.portfolio import kind_of_data, methods_in_order
from orca_ray.adaptation.refits import Refits
from orca_ray.adaptation.report import Report, make_report
from orca_ray.adaptation.search import AdaptationSearch
from orca_ray.data.cache import scratch_directory
from orca_ray.data.prepared import PreparedData
from orca_ray.errors import RayStartError, UserError, shorten
from orca_ray.methods.model_card import make_card
from orca_ray.methods.model_folder import check_model_target
from orca_ray.methods.recipe import NO_BODY
from orca_ray.methods.registry import get_method
from orca_ray.options import KeepModels
from orca_ray.paths import expand_user
from orca_ray.process import this_node
from orca_ray.results.models import StoredModels
from orca_ray.results.record import Record
from orca_ray.results.store import ResultsStore
from orca_ray.sweep.executors import joined_address, make_executor
from orca_ray.sweep.executors.ray import num_workers
from orca_ray.sweep.plan.cost import seconds_here
from orca_ray.sweep.plan.loading import load_spec, shipped_sweeps
from orca_ray.sweep.plan.requirements import check_bodies
from orca_ray.sweep.plan.searches import SearchPlan, plan_searches
from orca_ray.sweep.plan.spec import Overrides, SweepSpec
from orca_ray.sweep.run.driver import run_sweep
from orca_ray.sweep.run.events import Listener, Message, Summary
from orca_ray.sweep.run.executor import Executor
from orca_ray.sweep.search import History
from orca_ray.sweep.worker.models import OUTPUTS
from orca_ray.tasks.task import Task
from orca_ray.training.evaluate import Objective

SWEEP = shipped_sweeps()["pocket"].parent / "base" / "adapt.yaml"
"""Sweep file with the settings of all adaptations."""
FIRST_SHARE = 0.15
"""Largest share of the time in which the methods that fit in seconds run alone, while
Ray starts.
"""
FIRST_SECONDS = 60.0
"""Largest number of seconds in which the methods that fit in seconds run alone."""
ENDING_SECONDS = 4.0
"""Seconds for selecting and writing the model."""
IMPORTANCE_SHARE = 0.03
"""Share of the time for the importance of features."""
MOST_SECONDS_OF_IMPORTANCE = 20.0
"""Largest number of seconds for the importance of features."""
ENDING_SHARE = 0.2
"""Largest share of the time for selecting and writing the model."""
LEAST_SECONDS_OF_RAY = 45.0
"""Least time for which a Ray cluster is started."""
LEAST_OF_ONE_CPU = 600.0
"""Least time for which a Ray cluster is started on a machine with one CPU. There,
trials run one by one in any case, and the start of Ray takes seven seconds.
"""
SLOW_IMPORTS = ("scipy.optimize", "sklearn.ensemble", "lightgbm")
"""Packages that are imported before the first trial, so that the import does not count
as a part of its duration.
"""
NUM_KEPT = 5
"""Number of configurations, best first, whose models stay in the store, so that a
longer run can choose them.
"""


def usual_methods(task: Task) -> dict[str, str | None]:
    """Return the methods of the portfolio, each with the reason why it cannot adapt.

    The methods are in the order of the portfolio of the task's kind of data. The reason
    is None for a method that can adapt to the task on this machine.
    """
    names = methods_in_order(kind_of_data(task))
    return {name: get_method(name).problem(task) for name in names}


@dataclass(frozen=True, kw_only=True)
class AdaptationSweep:
    """Adaptation to one task, as a sweep over methods.

    Another `run` continues the sweep, e.g. with more minutes.
    """

    task: Task
    minutes: float = 20.0
    """Minutes for everything, from the start of `run` to the end of `save`."""
    methods: Sequence[str] = ()
    """Names of methods; empty: those of `usual_methods` that can adapt to the task on
    this machine.
    """
    body: str = ""
    """Name of the body; "": the default body of the task."""
    results: str = "results"
    """Path or URI of the results store."""
    executor: str = "ray"
    address: str | None = None
    """Ray cluster to join; None: the cluster that RAY_ADDRESS names, or a new one on
    this machine.
    """
    staging: str | None = None
    """Path or URI of a folder through which nodes get the prepared data, which no node
    can make itself. None: the folder ``staged`` of the results store, if trials run on
    an existing cluster and the store is a URI; else no folder, and nodes must share the
    cache directory.
    """
    single: bool = False
    """Whether the model must be one network, and no ensemble."""
    max_size: float = math.inf
    """Largest size of the model in megabytes."""
    max_latency: float = math.inf
    """Largest duration of a prediction for one sample in milliseconds, on this machine.
    """
    command: str = ""
    """Command line that runs the sweep, for the model card."""
    warnings: Sequence[str] = ()
    """Warnings about the data, for the model card."""
    listener: Listener | None = field(default=None, repr=False)

    @property
    def seconds(self) -> float:
        """Time limit in seconds, from the start of `run` to the end of `save`."""
        return 60 * self.minutes

    @property
    def _seconds_of_importance(self) -> float:
        """Seconds for the importance of features."""
        return min(MOST_SECONDS_OF_IMPORTANCE, IMPORTANCE_SHARE * self.seconds)

    def chosen_methods(self) -> list[str]:
        """Return the names of the methods that are compared."""
        if self.methods:
            return list(self.methods)
        problems = usual_methods(self.task)
        return [name for name, problem in problems.items() if not problem]

    def spec(self, methods: Sequence[str] = ()) -> SweepSpec:
        """Return the sweep over ``methods``, named like the task.

        ``methods`` is by default `chosen_methods`.

        Raises UserError for an unknown name.
        """
        names = list(methods) if methods else self.chosen_methods()
        body = self.body if self.body else self.task.body
        spec = load_spec(SWEEP, overrides=Overrides([self.task.name], names, body))
        file = spec.file.model_copy(update={"name": self.task.short_name})
        return replace(spec, file=file)

    def check(self) -> None:
        """Raise UserError for what no trial could run.

        These are endless minutes, unknown methods, bodies that cannot be read, and a
        loss that does not fit the targets.
        """
        if not math.isfinite(self.minutes):
            raise UserError(f"--minutes {self.minutes}: expected a number")
        check_bodies(plan_searches(self.spec(), gpus=False))
        self._check_loss()

    def _check_loss(self) -> None:
        """Raise UserError if the loss of zeros and the first targets is no number."""
        target = self.task.target
        y = np.asarray(self._data().train.y)
        objective = Objective(target, self.task.loss, self.task.metric, None, None)
        cpu = torch.device("cpu")
        outputs = torch.zeros(len(y[:2]), *target.output_shape)
        try:
            loss = objective.training_loss(y, cpu)(outputs, torch.tensor(y[:2]))
        except UserError:
            raise
        # losses, plug-ins among them, raise what torch does
        except Exception as error:
            raise UserError(
                f"--loss {self.task.loss} does not fit targets of kind {target.kind}"
                f" and shape {target.shape}: {shorten(error)}; leave it out for the"
                " usual loss"
            ) from error
        if loss.ndim:
            raise UserError(f"--loss {self.task.loss} returns no number")

    def left_out(self) -> list[str]:
        """Return a sentence for each usual method that cannot adapt here.

        [] if ``methods`` is set.
        """
        if self.methods:
            return []
        return [
            f"{name} is not compared: {problem}"
            for name, problem in usual_methods(self.task).items()
            if problem
        ]

    def run(self) -> Summary:
        """Run trials until the time is over, or until Ctrl-C.

        First, methods that fit in seconds are searched in this process for a short
        time, while the executor starts. Then all methods are searched on the executor.
        If Ray is not worth its start (see `_is_too_small_for_ray`), or if all methods
        fit in seconds, there is only one search, of all methods in this process. There
        the second search also runs if Ray cannot start.

        Returns the summary of the search that ran last.
        """
        started = time.monotonic()
        ending_seconds = min(ENDING_SECONDS, ENDING_SHARE * self.seconds)
        ending_seconds += self._seconds_of_importance
        deadline = started + self.seconds - ending_seconds
        if self.shared:
            # The store is created before nodes write prepared data into its folder,
            # because the folder of a new store must be empty.
            ResultsStore(self.results, create=True)
        engine = make_executor(self.executor)
        methods = self.chosen_methods()
        quick_methods = [name for name in methods if get_method(name).fitted]
        has_slow_methods = len(quick_methods) < len(methods)
        runs_here = self._is_too_small_for_ray()
        with engine:
            if has_slow_methods and not runs_here:
                engine.open_early(self.address)
            if quick_methods:
                _import_slow_packages()
            if runs_here or not has_slow_methods:
                return self._search(methods, deadline, "inline")
            if quick_methods:
                seconds = min(FIRST_SHARE * self.seconds, FIRST_SECONDS)
                summary = self._search(
                    quick_methods, deadline, "inline", until=started + seconds
                )
                if summary.interrupted:
                    return summary
            try:
                return self._search(methods, deadline, engine)
            except RayStartError as error:
                self._say(f"{error} All trials run in this process instead.")
        return self._search(methods, deadline, "inline")

    def _say(self, text: str) -> None:
        if self.listener is not None:
            self.listener(Message(text))

    def _is_too_small_for_ray(self) -> bool:
        """Return whether the time is too short, or the machine too small, for Ray.

        False if a running cluster is joined.
        """
        if joined_address(self.address) is not None:
            return False
        node = this_node()
        has_parallel_trials = node.cpus >= 2 or node.gpus
        least_seconds = (
            LEAST_SECONDS_OF_RAY if has_parallel_trials else LEAST_OF_ONE_CPU
        )
        return self.seconds < least_seconds or num_workers(node) < 1

    @property
    def shared(self) -> str | None:
        """Path or URI of the folder through which nodes get the prepared data.

        None: no folder (see `staging`).
        """
        joins_cluster = (
            self.executor == "ray" and joined_address(self.address) is not None
        )
        if self.staging or not joins_cluster or "://" not in self.results:
            return self.staging
        place, mark, query = self.results.partition("?")
        return f"{place.rstrip('/')}/staged{mark}{query}"

    def judge(self) -> Judge:
        """Return the judge of the ended trials, without those of other bodies.

        Raises UserError if no trial has ended with a model.
        """
        models = StoredModels(self.results)
        return Judge(self.task, self._data(), self._records(), models)

    def _records(self) -> list[Record]:
        """Return the records of the ended trials, without those of other bodies."""
        store = ResultsStore(self.results, create=True)
        body = self.body if self.body else self.task.body
        return [
            record
            for record in store.load(self.spec().sweep_id).values()
            if record.body in ("", NO_BODY, body)
        ]

    def save(self, out: str | Path) -> Report:
        """Write the model to the folder ``out``, and return its report.

        Models in the results store are deleted, except those of the best
        configurations.

        Raises UserError if no trial ended with a model, no model is within the limits,
        or ``out`` has other files.
        """
        folder = expand_user(out)
        check_model_target(folder)
        judge = self.judge()
        refits = self._refits(judge)
        measurements = list[Measurement]()
        with scratch_directory() as scratch:
            for number, choice in enumerate(self._choices(judge)):
                model = self._assemble(choice, refits, scratch / f"{number}")
                model.write(scratch / "model")
                measurement = measure_model(scratch / "model", self._data().train.x[:1])
                measurements.append(measurement)
                if self._is_within_limits(measurement):
                    report = self._report(judge, choice, model, measurement)
                    importance = importance_of_choice(
                        judge,
                        choice,
                        model.preprocessing,
                        StoredModels(self.results),
                        self._seconds_of_importance,
                    )
                    report = replace(report, importance=importance)
                    config = replace(model.config, report=report.to_json())
                    card = make_card(config, label_names=model.label_names)
                    replace(model, config=config).write(folder, card)
                    self._delete_other_models(judge, choice)
                    return report
        raise self._limit_error(min(measurements))

    def _is_within_limits(self, measurement: Measurement) -> bool:
        is_small = measurement.size_mb <= self.max_size
        return is_small and measurement.latency_ms <= self.max_latency

    def _limit_error(self, smallest: Measurement) -> UserError:
        return UserError(
            f"no model of {self.task.name} has at most {self.max_size:g} MB and"
            f" {self.max_latency:g} ms: the smallest has {smallest.size_mb:.3g} MB and"
            f" {smallest.latency_ms:.3g} ms; raise --max-size or --max-latency, or give"
            " cheaper methods with --methods"
        )

    def _search(
        self,
        methods: Sequence[str],
        deadline: float,
        executor: str | Executor,
        *,
        until: float = math.inf,
        final: Collection[Identity] = (),
    ) -> Summary:
        """Run trials of ``methods``.

        ``deadline`` is the end of the whole sweep, and ``until`` that of this search.
        No trial starts if it is expected to end after one of them.

        ``final``: if there are any, the trials are these configurations, trained on all
        samples, instead of a search.
        """
        folds = Folds.of_data(self._data())

        def make_sources(
            plans: Sequence[SearchPlan],
            history: History,
            *,
            running: Collection[str] = (),
        ) -> list[AdaptationSearch]:
            if not plans:
                return []
            estimates = {
                method: seconds for (_, method), seconds in seconds_here(plans).items()
            }
            search = AdaptationSearch(
                plans,
                history,
                folds,
                deadline=min(until, deadline),
                estimates=estimates,
                final=final,
            )
            return [search]

        return run_sweep(
            self.spec(methods),
            self.results,
            executor=make_executor(executor) if isinstance(executor, str) else executor,
            listener=self.listener,
            address=None if executor == "inline" else self.address,
            keep_models=KeepModels.ALL,
            command=self.command,
            staging=self.shared,
            deadline=deadline,
            make_sources=make_sources,
        )

    def _data(self) -> PreparedData:
        """Return the task's prepared data; raise UserError if they cannot be read."""
        data = self.task.prepared()
        if data is None:
            raise UserError(
                f"{self.task.name}: its prepared data are missing or damaged: run the"
                " same command again"
            )
        return data

    def _choices(self, judge: Judge) -> Iterator[Choice]:
        """Yield the choices that may become the model, the best first.

        A later choice is used if all choices before it exceed a limit.
        """
        if not self.single:
            ensemble = judge.ensemble()
            if ensemble is not None:
                yield ensemble
        yield judge.single(judge.leader)
        for configuration in judge.ranked:
            if configuration.has_models and configuration is not judge.leader:
                yield judge.single(configuration)

    def _refits(self, judge: Judge) -> Refits:
        """Return the trainings of chosen configurations on all samples.

        They run in this process when they are asked for.
        """

        def run_final(identity: Identity) -> Judge:
            method, _ = identity
            self._search([method], math.inf, "inline", final={identity})
            return self.judge()

        return Refits(
            judge,
            run_final,
            self.seconds,
            is_single=self.single,
            has_limits=not math.isinf(self.max_size + self.max_latency),
        )

    def _assemble(
        self, choice: Choice, refits: Refits, scratch: Path
    ) -> AssembledModel:
        """Return a chosen model, whose parts are copied to ``scratch``."""
        parts = [
            (refits.records_of(configuration), weight)
            for configuration, weight in choice.parts
        ]
        models = StoredModels(self.results)
        model = assemble_model(parts, choice.temperature, models, scratch)
        config = replace(model.config, command=self.command, sweep=self.spec().sweep_id)
        return replace(model, config=config, conformal=make_conformal(choice))

    def _report(
        self,
        judge: Judge,
        choice: Choice,
        model: AssembledModel,
        measurement: Measurement,
    ) -> Report:
        """Return the report of a chosen model, with its measured size and latency."""
        report = make_report(
            judge,
            choice,
            model.config,
            label_names=model.label_names,
            warnings=self.warnings,
            not_run=self._seconds_of_untried(judge),
        )
        return replace(
            report,
            size_mb=measurement.size_mb,
            latency_ms=measurement.latency_ms,
            has_intervals=model.conformal is not None,
        )

    def _seconds_of_untried(self, judge: Judge) -> dict[str, float]:
        """Return the expected seconds of a trial of each method without a trial."""
        tried = {record.method for record in self._records()}
        plans = plan_searches(self.spec(), gpus=False)
        return seconds_of_untried(tried, judge.ranked, plans, seconds_here)

    def _delete_other_models(self, judge: Judge, choice: Choice) -> None:
        """Delete the stored models, except those of ``choice`` and of the best.

        The models of the best `NUM_KEPT` configurations stay, and so do the outputs of
        deleted models.
        """
        models = StoredModels(self.results)
        parts = [configuration for configuration, _ in choice.parts]
        kept_keys = set[str]()
        for configuration in [*parts, *judge.ranked[:NUM_KEPT]]:
            kept_keys |= configuration.trial_keys
        for configuration in judge.ranked:
            for key in configuration.trial_keys - kept_keys:
                models.remove(key, keep=OUTPUTS)


def _import_slow_packages() -> None:
    for name in SLOW_IMPORTS:
        with contextlib.suppress(ModuleNotFoundError):
            import_module(name)
