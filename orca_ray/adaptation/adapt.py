"""Adapt a body to one task within a given time: the implementation of
``orca_ray.adapt`` and ``orca-sweep adapt``.

All methods race over the folds of the data on the executor
(`orca_ray.sweep.search.race`); while a cluster starts, those that fit in seconds do so
in this process. The model is the best configuration, or an ensemble
(`orca_ray.selection`).
"""

import contextlib
import json
import logging
import math
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib import import_module
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from orca_ray.data.cache import scratch_directory
from orca_ray.data.prepared import PreparedData, num_folds
from orca_ray.errors import UserError
from orca_ray.leaderboard.page.adaptation import make_evidence
from orca_ray.methods import model_config
from orca_ray.methods.model_card import make_card
from orca_ray.methods.model_config import ModelConfig
from orca_ray.methods.model_folder import (
    check_other,
    read_config,
    read_preprocessing,
    write_folder,
)
from orca_ray.methods.recipe import NO_BODY
from orca_ray.methods.registry import get_method
from orca_ray.methods.snapshot import read_weights
from orca_ray.notebook import notebook_progress
from orca_ray.options import KeepModels
from orca_ray.own_data.infer_task import Preprocessing
from orca_ray.predictor import Predictor
from orca_ray.process import this_node
from orca_ray.results.models import StoredModels
from orca_ray.results.record import Record
from orca_ray.results.store import ResultsStore
from orca_ray.selection import LEAST_POOLED, Candidate, Choice, Judge, Report
from orca_ray.sweep.executors import joined_address, make_executor, nodes_of
from orca_ray.sweep.executors.ray import num_workers
from orca_ray.sweep.plan.loading import load_spec, shipped_sweeps
from orca_ray.sweep.plan.spec import Overrides, SweepSpec
from orca_ray.sweep.plan.trial_spec import canonical_json
from orca_ray.sweep.run.driver import run_sweep
from orca_ray.sweep.run.events import Listener, Summary
from orca_ray.sweep.run.executor import Executor
from orca_ray.sweep.search import Race
from orca_ray.sweep.search.contender import ALL, ALL_BUT_TEST, FOLD
from orca_ray.sweep.worker.models import OUTPUTS
from orca_ray.tasks.task import Task

if TYPE_CHECKING:
    from orca_ray.own_data import UserData

logger = logging.getLogger(__name__)

SWEEP = shipped_sweeps()["pocket"].parent / "base" / "adapt.yaml"
"""Sweep file with the settings of all adaptations."""
BASELINES = {
    "tabular": ("linear", "nearest", "kernel_ridge", "forest", "gradient_boosting"),
    "time series": ("linear", "nearest", "minirocket", "minirocket_hydra", "cnn"),
    "field": ("linear", "unet", "fno"),
    "image": ("linear", "nearest", "forest", "cnn"),
    "audio": ("linear", "minirocket", "cnn"),
}
"""Methods without pretraining that `adapt` compares, by domain."""
TRANSFORMERS = ("linear_probe", "nft", "orca_guarded", "orca", "scratch")
FIRST_SHARE = 0.15
FIRST_SECONDS = 60.0
ENDING_SECONDS = 4.0
"""Largest share of the time, and largest time, in which the methods that fit in seconds
run alone, while Ray starts; seconds for selecting and writing the model.
"""
LEAST_SECONDS_OF_RAY = 45.0
LEAST_OF_ONE_CPU = 600.0
"""Least time for which a Ray cluster is started; and that on a machine with one CPU,
where trials run one by one in any case, and the start takes seven seconds from them.
"""
_EPOCHS = "refine.epochs"
LEAST_OVERRUN = 10.0
MOST_OVERRUN = 0.1
"""Configurations are fitted again to all samples, at the end, in at most so many
seconds, or this share of the time.
"""
COPIES = 5
MOST_TREES = 20_000
"""Number of boosted trees of all samples whose mean is a model, if nothing limits its
size, if they take at most half of this time, and largest number of their trees.
"""
_SLOW_IMPORTS = ("scipy.optimize", "sklearn.ensemble", "lightgbm")
KEPT = 5
"""Number of configurations, best first, whose models stay in the store, so that a
longer run can choose them.
"""


def usual_methods(task: Task) -> dict[str, str | None]:
    """Return, for each method compared by default, why it cannot adapt to ``task`` on
    this machine; None if it can.
    """
    domain = (
        "field"
        if task.target.kind == "dense" and task.domain != "tabular"
        else task.domain
    )
    names = (*BASELINES.get(domain, ("linear", "cnn")), *TRANSFORMERS)
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

    def chosen_methods(self) -> list[str]:
        """Return the names of the methods that are compared."""
        return list(self.methods) or [
            name for name, why in usual_methods(self.task).items() if not why
        ]

    def spec(self, methods: Sequence[str] = ()) -> SweepSpec:
        """Return the sweep over ``methods`` (default: all), named like the task;
        UserError for an unknown name.
        """
        names = list(methods) or self.chosen_methods()
        spec = load_spec(
            SWEEP,
            overrides=Overrides([self.task.name], names, self.body or self.task.body),
        )
        return replace(
            spec, file=spec.file.model_copy(update={"name": self.task.short_name})
        )

    def left_out(self) -> list[str]:
        """Return a sentence for each method of `usual_methods` that cannot adapt here;
        [] if ``methods`` is set.
        """
        problems = {} if self.methods else usual_methods(self.task)
        return [
            f"{name} is not compared: {why}" for name, why in problems.items() if why
        ]

    def run(self) -> Summary:
        """Run the race until the time is over, or until Ctrl-C; return the summary of
        the last part.
        """
        started = time.monotonic()
        seconds = 60 * self.minutes
        deadline = started + seconds - min(ENDING_SECONDS, 0.2 * seconds)
        if self.shared:
            ResultsStore(
                self.results, create=True
            )  # before nodes write into its folder: a new store must be empty
        engine = make_executor(self.executor)
        names = self.chosen_methods()
        quick = [name for name in names if get_method(name).fitted]
        slow = len(quick) < len(names)
        node = this_node()
        least = (
            LEAST_SECONDS_OF_RAY if node.cpus >= 2 or node.gpus else LEAST_OF_ONE_CPU
        )
        short = (seconds < least or num_workers(node) < 1) and joined_address(
            self.address
        ) is None
        with engine:
            if slow and not short:
                engine.open_early(self.address)
            for name in (
                _SLOW_IMPORTS if quick else ()
            ):  # else the first trials would seem to take seconds
                with contextlib.suppress(ModuleNotFoundError):
                    import_module(name)
            if short or not slow:
                return self._race(names, deadline, "inline")
            if quick:
                until = started + min(FIRST_SHARE * seconds, FIRST_SECONDS)
                summary = self._race(quick, deadline, "inline", until=until)
                if summary.interrupted:
                    return summary
            return self._race(names, deadline, engine)

    @property
    def shared(self) -> str | None:
        """Path or URI of the folder through which nodes get the prepared data; None: no
        folder (see `staging`).
        """
        joins = self.executor == "ray" and joined_address(self.address) is not None
        if self.staging or not (joins and "://" in self.results):
            return self.staging
        place, mark, query = self.results.partition("?")
        return f"{place.rstrip('/')}/staged{mark}{query}"

    def judge(self) -> Judge:
        """Return the judge of the ended trials with this body or none.

        UserError if none has ended with a model.
        """
        found = ResultsStore(self.results, create=True)
        bodies = ("", NO_BODY, self.body or self.task.body)
        records = [
            each
            for each in found.load(self.spec().sweep_id).values()
            if each.body in bodies
        ]
        return Judge(self.task, self._data(), records, StoredModels(self.results))

    def save(self, out: str | Path) -> Report:
        """Write the model to the folder ``out``, and return its report.

        Models in the results store are deleted, except those of the best
        configurations.

        Raises UserError if no trial ended with a model, no model is within the limits,
        or ``out`` has other files.
        """
        folder = Path(out).expanduser()
        check_other(folder)
        judge = self.judge()
        measured = list[tuple[float, float]]()
        with scratch_directory() as scratch:
            for number, choice in enumerate(self._choices(judge)):
                config, weights, preprocessing = self._assembled(
                    judge, choice, scratch / f"{number}"
                )
                names = (
                    ()
                    if preprocessing is None
                    else Preprocessing.from_json(preprocessing).target.label_names
                )
                write_folder(
                    scratch / "model",
                    config,
                    weights,
                    card="",
                    preprocessing=preprocessing,
                )
                size, latency = self._measured(scratch / "model")
                measured.append((size, latency))
                if size <= self.max_size and latency <= self.max_latency:
                    report = self._report(judge, choice, config, names)
                    report = replace(report, size_mb=size, latency_ms=latency)
                    config = replace(config, report=report.to_json())
                    card = make_card(config, label_names=names)
                    write_folder(
                        folder, config, weights, card=card, preprocessing=preprocessing
                    )
                    break
            else:
                size, latency = min(measured)
                raise UserError(
                    f"no model of {self.task.name} has at most {self.max_size:g} MB and"
                    f" {self.max_latency:g} ms: the smallest has {size:.3g} MB and"
                    f" {latency:.3g} ms; raise --max-size or --max-latency, or give"
                    " cheaper methods with --methods"
                )
        self._tidy(judge, choice)
        return report

    def _race(
        self,
        methods: Sequence[str],
        deadline: float,
        executor: str | Executor,
        *,
        until: float = math.inf,
        final: Collection[tuple[str, str]] = (),
    ) -> Summary:
        """Run trials of ``methods``; no trial starts that is expected to end after
        ``until`` or after ``deadline``.
        """
        data = self._data()
        folds = list(range(1, num_folds(data) + 1)) or [0]
        division = 0 if data.folds is None else int(data.folds[0].max())
        known = len(data.train) + len(data.validation)
        held = (
            known / max(1, division or len(folds))
            if folds != [0]
            else len(data.validation)
        )
        shares = self.task.target.kind in (
            "classes",
            "labels",
        )  # fields are few, and need all samples
        outer = shares and len(data.test) >= LEAST_POOLED
        race = Race(
            folds,
            deadline=min(until, deadline),
            division=division,
            final=final,
            outer=outer,
            sizes={
                ALL: (known + len(data.test)) / (known - held),
                ALL_BUT_TEST: known / (known - held),
            },
            num_held=held if shares else math.inf,
            classes=(
                self.task.target.num_outputs
                if self.task.target.kind == "classes"
                else 0
            ),
        )
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
            race=race,
        )

    def _data(self) -> PreparedData:
        data = self.task.prepared()
        if data is None:
            raise UserError(
                f"{self.task.name}: its prepared data are missing or damaged: run the"
                " same command again"
            )
        return data

    def _choices(self, judge: Judge) -> Iterator[Choice]:
        """Yield what may become the model, the best first; later ones count if the
        first exceed a limit.
        """
        if not self.single and (best := judge.ensemble()) is not None:
            yield best
        yield judge.single(judge.leader)
        yield from (
            judge.single(each)
            for each in judge.ranked
            if each.whole and each is not judge.leader
        )

    def _assembled(
        self, judge: Judge, choice: Choice, scratch: Path
    ) -> tuple[ModelConfig, dict[str, Any], Any]:
        """Return configuration, weights and preprocessing of a chosen model, whose
        parts are copied to ``scratch``.
        """
        models = StoredModels(self.results)
        members = list[ModelConfig]()
        weights = dict[str, Any]()
        shares: list[float] = []
        for candidate, share in choice.parts:
            records = self._trained(judge, candidate)
            for record in records:
                folder = scratch / record.trial_key
                models.fetch(record.trial_key, folder)
                mark = f"{len(members)}."
                weights |= {
                    f"{mark}{name}": value
                    for name, value in read_weights(folder).items()
                }
                config = replace(read_config(folder), files={}, command="")
                fold = int(config.hyperparameters.get(FOLD, 0))
                validation = config.validation_score
                test = config.test_score
                # seen in training
                validation = None if fold < 0 else validation
                test = None if fold == ALL else test
                members.append(
                    replace(config, validation_score=validation, test_score=test)
                )
                shares.append(share / len(records))
        first = replace(members[0], command=self.command, sweep=self.spec().sweep_id)
        preprocessing = read_preprocessing(folder, read_config(folder))
        if len(members) == 1 and choice.temperature == 1:
            return (
                first,
                {name.partition(".")[2]: value for name, value in weights.items()},
                preprocessing,
            )
        mixed = replace(
            first,
            members=tuple(members),
            member_weights=tuple(shares),
            temperature=choice.temperature,
            trial="",
        )
        return mixed, weights, preprocessing

    def _trained(self, judge: Judge, candidate: Candidate) -> list[Record]:
        """Return the records of the models that stand for a candidate: one of all
        samples, or those of the folds.

        With ``single``, one of the folds: that of the median score.
        """
        last = judge.trained(candidate)
        if last is None and get_method(candidate.method).refits:
            last = judge.final.get(self._refitted(judge, candidate))
        if last is not None:
            return [last]
        records = sorted(
            candidate.records.values(), key=lambda each: each.validation_score or 0.0
        )
        return [records[len(records) // 2]] if self.single else records

    def _refitted(self, judge: Judge, candidate: Candidate) -> tuple[str, str]:
        """Return method and values of a candidate's trial on all samples, which runs
        first if the time is enough.

        The trial has the median of the numbers of epochs that the folds chose, and of
        boosted trees up to `COPIES`.
        """
        values = json.loads(candidate.values)
        limit = max(LEAST_OVERRUN, MOST_OVERRUN * 60 * self.minutes)
        seconds = 1.5 * candidate.seconds  # all samples are more than those of a fold
        if _EPOCHS in values:
            records = candidate.records.values()
            values[_EPOCHS] = round(
                median(each.best_epoch or each.epochs for each in records)
            )
            if get_method(
                candidate.method
            ).fitted:  # else an epoch takes next to nothing
                seconds *= values[_EPOCHS] / median(each.epochs for each in records)
            trees = (
                values[_EPOCHS]
                * values.get("boosting.rounds", math.inf)
                * self.task.target.num_outputs
            )
            copies = int(
                min(COPIES, MOST_TREES / trees, limit / 2 / seconds)
            )  # the rest is for other configurations
            if (
                copies > 1
                and not self.single
                and math.isinf(self.max_size + self.max_latency)
            ):
                values["boosting.copies"], seconds = copies, copies * seconds
        place = candidate.method, canonical_json(values)
        seconds += judge.refit_seconds
        if place not in judge.final and seconds <= limit:
            judge.refit_seconds = seconds
            self._race([candidate.method], math.inf, "inline", final={place})
            judge.final |= self.judge().final
        return place

    def _report(
        self,
        judge: Judge,
        choice: Choice,
        config: ModelConfig,
        label_names: Sequence[str],
    ) -> Report:
        base, verdict = judge.verdict()
        count = len(config.members) or 1
        outer = judge.held_out(choice)
        expected = judge.expected(choice, outer)
        first = choice.parts[0][0].name
        single = (
            first if count == 1 else f"the mean of {count} folds' models of {first}"
        )
        alone = len(choice.parts) == 1
        after = (
            f", {'' if alone else f'{first} '}trained on after the comparison"
            if choice.outer
            else ""
        )
        return Report(
            metric=self.task.metric,
            score=expected.value,
            low=expected.low,
            high=expected.high,
            out_of_fold=choice.score.value,
            num_samples=len(choice.judged.y),
            num_folds=choice.judged.num_folds,
            model=(single if alone else f"ensemble: {model_config.composed(config)}")
            + after,
            holdout=None if outer is None else outer.value,
            num_holdout=len(self._data().test),
            baseline=base,
            verdict=verdict,
            standings=judge.standings(),
            curve=judge.curve(),
            warnings=tuple(self.warnings),
            evidence=make_evidence(choice.predictions, choice.judged.y, label_names),
        )

    def _measured(self, folder: Path) -> tuple[float, float]:
        """Return the size of a model folder in megabytes, and the latency of the model
        in milliseconds.
        """
        model = Predictor.load(folder)
        sample = self._data().train.x[:1]
        found = list[float]()
        for _ in range(6):
            started = time.perf_counter()
            model.outputs_of(sample)
            found.append(1000 * (time.perf_counter() - started))
        return sum(path.stat().st_size for path in folder.iterdir()) / 1e6, median(
            found[1:]
        )

    def _tidy(self, judge: Judge, choice: Choice) -> None:
        models = StoredModels(self.results)
        kept = [*(candidate for candidate, _ in choice.parts), *judge.ranked[:KEPT]]
        keys = {record.trial_key for each in kept for record in each.records.values()}
        for key in {
            record.trial_key
            for each in judge.ranked
            for record in each.records.values()
        } - keys:
            models.remove(key, keep=OUTPUTS)


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
    """Adapt a pretrained body to data, and return the best model; the same call
    continues after an interruption.

    Args:
        task: the data: a task, a path, arrays ``(x, y)``, or samples that
            `orca_ray.own_data.read` returned.
        minutes, methods, body, results, executor: see `AdaptationSweep`. listener:
        called with every event; None: in a notebook, the progress is shown below the
        cell. options: settings not to infer from the data, e.g. ``target="label"``:
        fields of `orca_ray.own_data.Options`.

    Raises:
        UserError: nothing can be learnt from the data, an option does not fit, or no
            trial ended in time.
    """
    listener = listener or notebook_progress(minutes)
    gpus = not (body or isinstance(task, Task)) and any(
        node.gpus for node in nodes_of(executor, None)
    )
    sweep = AdaptationSweep(
        task=as_task(task, options, gpus=gpus),
        minutes=minutes,
        methods=methods,
        body=body,
        results=results,
        executor=executor,
        listener=listener,
    )
    for line in sweep.left_out():
        logger.warning("%s", line)
    sweep.run()
    with scratch_directory() as scratch:
        sweep.save(scratch / "model")
        return Predictor.load(scratch / "model")


def as_task(data: Any, options: Mapping[str, Any], *, gpus: bool = False) -> Task:
    """Return the task for ``data`` (see `adapt`); ``gpus``: see `infer`.

    UserError if data or options are unusable.
    """
    if isinstance(data, Task):
        if options:
            raise UserError(f"a task is complete: leave out {', '.join(options)}")
        return data
    from orca_ray.own_data import UserData, make_options, read
    from orca_ray.own_data.infer_task import infer
    from orca_ray.own_data.registration import from_arrays, register

    if isinstance(data, tuple) and len(data) == 2:
        return from_arrays(*data, **{**options, "gpus": gpus})
    given = make_options("adapt", dict(options))
    if isinstance(data, str | Path):
        data = read(data, given)
    if not isinstance(data, UserData):
        raise UserError(
            f"adapt takes a task, a path or arrays (x, y), got {type(data).__name__}"
        )
    return register(infer(data, given, gpus=gpus), data)
