"""A sweep that can be planned: a sweep file, a budget, and values of the command line.

With ``published: true``, the first trial of a search is the tuned configuration that
ORCA's authors published for the task. The values are from the configuration files of
github.com/sjunhongshen/ORCA (commit 19b8c1c). ``reference_hyperparameters.csv`` has a
row for each data set, and ``reference_options.toml`` lists the hyper-parameters that
are copies of a column.
"""

import csv
import logging
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from itertools import chain, islice, product

from orca_ray.data.prepared import PAPER
from orca_ray.discovery import tables
from orca_ray.errors import UserError, unknown_name
from orca_ray.methods.recipe import NO_BODY
from orca_ray.methods.registry import check_unfit, expand, get_method, relevant, resolve
from orca_ray.models.modality import get_modality, modality_of
from orca_ray.results.record import PROTOCOLS
from orca_ray.sweep.plan.schema import (
    MAX_TRIALS,
    Budget,
    Dimension,
    Layer,
    ResourceRequest,
    Scalar,
    SweepFile,
)
from orca_ray.tasks.registry import get_benchmark, get_task, is_own, known_tasks
from orca_ray.tasks.task import Task

logger = logging.getLogger(__name__)

MAX_SEEDS = 9_999
"""Largest value of ``--seeds``, the number of confirm seeds."""
_MAX_TOKENS = {"PDE-Burgers": 512}
"""Largest number of tokens, where the reference's code does not use the configured one.

For Burgers' equation 128 tokens are configured for 256 points, i.e. patches of two; the
code reads 1024 points, which makes 512 patches.
"""
_OPTIONS = tables("orca_ray.sweep.plan", "reference_options.toml")


@dataclass(frozen=True)
class Overrides:
    """Values from the command line, which replace those of the sweep file.

    None leaves the file's value.
    """

    tasks: Sequence[str] | None = None
    methods: Sequence[str] | None = None
    body: str | None = None
    protocol: str | None = None
    trials: int | None = None
    """Number of search trials per (task, method).

    1: there is no search, and the first configuration runs with one seed (or
    ``seeds``).
    """
    seeds: int | None = None
    """Number of confirm trials per (task, method), each with its own seed."""
    deterministic: bool = False
    """Whether the sweep is deterministic; if False, the sweep file decides."""


@dataclass(frozen=True)
class SweepSpec:
    """A sweep file, one of its budgets, and the values from the command line.

    Values from the command line take precedence over those of the file.
    """

    file: SweepFile
    budget_name: str
    budget: Budget
    tasks: tuple[str, ...]
    methods: tuple[str, ...]
    overrides: Overrides

    @property
    def protocol(self) -> str:
        """Protocol, which determines the split that selects epochs and configurations.

        That is validation for ``held-out``, and test for ``paper``.
        """
        return self.overrides.protocol or self.file.protocol.value

    @property
    def deterministic(self) -> bool:
        """Whether a trial must give the same scores on every run.

        See docs/decisions/0005-deterministic.md.
        """
        return self.overrides.deterministic or self.file.deterministic

    @property
    def sweep_id(self) -> str:
        """Name under which records are stored, such as ``pocket/quick``.

        It consists of the names of the sweep file and of the budget. ``--trials`` and
        determinism add suffixes, as in ``pocket/quick-trials1-deterministic``, so that
        their records are separate.
        """
        return self._sweep_id(
            "" if self.overrides.trials is None else f"-trials{self.overrides.trials}"
        )

    def is_variant(self, sweep_id: str) -> bool:
        """Return whether ``sweep_id`` names a variant of this sweep.

        A variant has another number of search trials (``--trials``).
        """
        match = re.search(
            r"-trials\d+", sweep_id.removeprefix(f"{self.file.name}/{self.budget_name}")
        )
        return sweep_id != self.sweep_id and sweep_id == self._sweep_id(
            match.group() if match else ""
        )

    def _sweep_id(self, trials: str) -> str:
        return f"{self.file.name}/{self.budget_name}{trials}" + (
            "-deterministic" if self.deterministic else ""
        )

    @property
    def confirm_seeds(self) -> tuple[int, ...]:
        """Seeds of the confirm trials.

        Confirm trials rerun the best configuration of a search, and are scored on test.
        """
        seeds = self.budget.confirm_seeds
        if (
            self.overrides.trials == 1
            and self.protocol == PAPER
            and self.overrides.seeds is None
        ):
            return (
                self.file.seed,
            )  # as in the reference; no search trial has this seed
        if self.overrides.seeds is not None:
            taken = {*seeds, self.file.seed}
            others = (
                seed
                for seed in range(1, MAX_SEEDS + len(taken) + 1)
                if seed not in taken
            )
            return tuple(islice(chain(seeds, others), self.overrides.seeds))
        return tuple(seeds[:1] if self.overrides.trials == 1 else seeds)

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """The pairs (task, method) to run.

        Pairs of a task and a baseline that cannot adapt to it are left out.
        """
        fitting = expand(self.file.baselines)
        return [
            (task, method)
            for task, method in product(self.tasks, self.methods)
            if method not in fitting or not get_method(method).problem(get_task(task))
        ]

    def layers(self, task: str, method: str) -> list[Layer]:
        """Return the blocks of values that apply to one (task, method).

        They are sorted from the lowest to the highest precedence: the file's top-level
        values, the task's published configuration (if the file uses it), then the
        values for the method, for the task, for the method on the task, for the budget,
        and for the task in the budget.
        """
        file = self.file
        budget = self.budget
        of_file = Layer.model_construct(  # all values have been validated
            settings=file.settings,
            space=file.space,
            resources=file.resources,
            search_trials=budget.search_trials,
            steps=file.steps,
        )
        paper = (method, self.body(task, method)) if self.protocol == PAPER else None
        published = published_settings(task, paper=paper) if file.published else {}
        of_budget = [
            Layer.model_construct(settings=budget.settings, steps=budget.steps),
            budget.tasks.get(task),
        ]
        layers = [
            of_file,
            Layer.model_construct(settings=published),
            *self._own_layers(task, method),
            *of_budget,
        ]
        return [layer for layer in layers if layer is not None]

    def _own_layers(self, task: str, method: str) -> list[Layer | None]:
        of_method, of_both = self._method_layers(task, method)
        return [of_method, self.file.per_task.get(task), of_both]

    def _method_layers(self, task: str, method: str) -> list[Layer | None]:
        """Return the blocks of a method and of a method on a task."""
        of_task = self.file.per_task.get(task)
        of_both = None if of_task is None else of_task.per_method.get(method)
        return [self.file.per_method.get(method), of_both]

    def search_trials(self, task: str, method: str) -> int:
        """Return the number of search trials of a (task, method); 0: no search."""
        if self.overrides.trials is not None:
            return self.overrides.trials if self.overrides.trials > 1 else 0
        numbers = [
            layer.search_trials
            for layer in self.layers(task, method)
            if layer.search_trials is not None
        ]
        return numbers[-1]  # that of the layer with the highest precedence

    def settings(self, task: str, method: str) -> dict[str, Scalar]:
        """Return the hyper-parameters that `layers` set for one (task, method).

        Later layers override earlier ones. ``steps`` of a layer sets ``refine.epochs``.
        """
        settings: dict[str, Scalar] = {}
        steps = None
        for layer in self.layers(task, method):
            settings.update(layer.settings)
            if layer.steps is not None:
                steps = layer.steps
            elif "refine.epochs" in layer.settings:
                steps = None
        trains_in_batches = "refine" in get_method(method).sections
        if steps is not None and trains_in_batches:
            settings["refine.epochs"] = self._num_epochs(task, method, settings, steps)
        return settings

    def _num_epochs(
        self, task: str, method: str, settings: Mapping[str, Scalar], steps: int
    ) -> int:
        """Return the least number of epochs with at least so many optimiser steps.

        Raises UserError if the number of samples of the task is not declared.
        """
        options = resolve(method, settings)
        num_train = num_training_samples(
            get_task(task), self.protocol, options.data.fraction
        )
        if num_train is None:
            raise UserError(
                f"steps: {task} declares no number of samples: set refine.epochs for it"
            )
        batches = math.ceil(num_train / options.refine.batch_size)
        steps_per_epoch = math.ceil(batches / options.refine.accumulation)
        return math.ceil(steps / steps_per_epoch)

    def hyperparameters(
        self, task: str, method: str, values: Mapping[str, Scalar] | None = None
    ) -> dict[str, Scalar]:
        """Return all hyper-parameters of a trial of one (task, method).

        They are those of `settings`, overridden by ``values``, and defaults.
        """
        resolved = resolve(method, {**self.settings(task, method), **(values or {})})
        check_fold(task, resolved.data.fold)
        return relevant(resolved, method, self.space(task, method))

    def space(self, task: str, method: str) -> dict[str, Dimension]:
        """Return the search space of one (task, method) by hyper-parameter.

        Later `layers` override earlier ones.
        """
        return {
            name: value
            for layer in self.layers(task, method)
            for name, value in layer.space.items()
        }

    def resources(self, task: str, method: str) -> ResourceRequest:
        """Return the resources of one trial of one (task, method).

        A method that fits its model in seconds on one core gets no GPU, unless the
        block of the method asks for one.
        """
        requests = [
            layer.resources
            for layer in self.layers(task, method)
            if layer.resources is not None
        ]
        request = requests[-1]
        is_of_method = any(
            layer is not None and layer.resources is request
            for layer in self._method_layers(task, method)
        )
        if get_method(method).fitted and not is_of_method:
            return request.model_copy(update={"gpus": 0.0})
        return request

    def body(self, task: str, method: str) -> str:
        """Return the name of the body (pretrained model) of one (task, method).

        It is `NO_BODY` if the method needs no body. It is that of ``--body`` if given.
        Otherwise, it is the first body that is set for: the task in the budget, the
        method on the task, the task, the method, the task's modality (``bodies``). If
        none is set, it is the task's default.
        """
        if not get_method(method).uses_body:
            return NO_BODY
        if self.overrides.body is not None:
            return self.overrides.body
        layers = [*self._own_layers(task, method), self.budget.tasks.get(task)]
        for layer in reversed(layers):
            if layer is not None and layer.body is not None:
                return layer.body
        declaration = get_task(task)
        return self.file.bodies.get(declaration.modality, declaration.body)


def check_fold(task: str, fold: Scalar) -> None:
    """Raise UserError for a ``data.fold`` other than 0, except for own data.

    The tasks of a benchmark have no folds. With a negative number, a trial would train
    on samples that choose or score the model.
    """
    if fold != 0 and not is_own(task):
        raise UserError(
            f"data.fold: {task} has no folds; allowed is 0, got {fold}. Only own data"
            " have folds (orca-sweep adapt)"
        )


def num_training_samples(task: Task, protocol: str, fraction: float) -> int | None:
    """Return the number of samples that a trial trains on; None if it is not declared.

    Under the protocol ``paper``, trials also train on the validation samples.
    ``fraction`` is the share of the samples that are used (``data.fraction``).
    """
    if task.num_samples is None:
        return None
    train, validation, _ = task.num_samples
    if protocol == PAPER:
        train += validation
    return math.ceil(train * fraction)


def resolve_spec(
    file: SweepFile, budget: str | None, overrides: Overrides
) -> SweepSpec:
    """Combine a sweep file with one of its budgets and with ``overrides``.

    ``budget`` None: the default budget of the file.

    Raises UserError for an unknown budget, task, method or protocol, a method that
    cannot adapt to one of the tasks, a number out of range, a body name with control
    characters, or a confirm seed that equals the seed of the search.
    """
    budget_name = file.default_budget if budget is None else budget
    if budget_name not in file.budgets:
        raise unknown_name("budget", budget_name, file.budgets)
    tasks = _chosen_tasks(file, overrides)
    methods = expand(
        overrides.methods
        or file.budgets[budget_name].methods
        or [*file.methods, *file.baselines]
    )
    _check_pairs(file, tasks, methods)
    _check_overrides(file, overrides)
    spec = SweepSpec(
        file,
        budget_name,
        file.budgets[budget_name],
        tuple(dict.fromkeys(tasks)),
        tuple(methods),
        overrides,
    )
    if file.seed in spec.confirm_seeds and overrides.trials != 1:
        raise UserError(
            f"seed {file.seed} is the search's own: remove it from confirm_seeds, or"
            " give another seed"
        )
    return spec


def _chosen_tasks(file: SweepFile, overrides: Overrides) -> list[str]:
    """Return the names of the tasks to run.

    Raises UserError if a task is unknown, or not in the file's benchmark.
    """
    members = [task.name for task in get_benchmark(file.benchmark)]
    tasks = members if file.tasks == "all" else list(file.tasks)
    if overrides.tasks:
        tasks = []
        for text in overrides.tasks:
            name = text if "/" in text else f"{file.benchmark}/{text}"
            if name not in known_tasks():
                raise unknown_name("task", text, known_tasks())
            tasks.append(name)
    for name in tasks:
        if get_task(name).benchmark != file.benchmark:
            raise UserError(
                f"task {name!r} is not in benchmark {file.benchmark!r}: its tasks are"
                f" {', '.join(members)}"
            )
    return tasks


def _check_pairs(file: SweepFile, tasks: Sequence[str], methods: Sequence[str]) -> None:
    """Raise UserError if a method that is no baseline cannot adapt to a task.

    A baseline that can adapt to no task of the benchmark is left out with a warning.
    """
    baselines = expand(file.baselines)
    required = [method for method in methods if method not in baselines]
    for task, method in product(tasks, required):
        check_unfit(method, get_task(task))
    members = get_benchmark(file.benchmark)
    for method in sorted(set(baselines) & set(methods)):
        problems = [get_method(method).problem(task) for task in members]
        if all(problems):
            logger.warning("%s is left out: %s", method, problems[0])
    is_any_fit = any(
        not get_method(method).problem(get_task(task))
        for task, method in product(tasks, methods)
    )
    if not is_any_fit:
        check_unfit(methods[0], get_task(tasks[0]))


def _check_overrides(file: SweepFile, overrides: Overrides) -> None:
    """Raise UserError if a value from the command line is not allowed."""
    if overrides.body is not None and not overrides.body.isprintable():
        raise UserError(
            "--body must not contain control characters or line breaks, got"
            f" {overrides.body!r}"
        )
    if overrides.protocol is not None and overrides.protocol not in PROTOCOLS:
        raise unknown_name("protocol", overrides.protocol, PROTOCOLS)
    _check_range("--trials", overrides.trials, MAX_TRIALS)
    _check_range("--seeds", overrides.seeds, MAX_SEEDS)
    if file.grid and overrides.trials is not None and overrides.trials > 1:
        raise UserError(
            f"--trials {overrides.trials}: a grid has no search; --trials 1 runs each"
            " cell with one seed"
        )


def _check_range(option: str, value: int | None, most: int) -> None:
    if value is not None and not 1 <= value <= most:
        raise UserError(f"{option} must be at least 1 and at most {most}, got {value}")


def published_settings(
    task: str, *, paper: tuple[str, str] | None = None
) -> dict[str, Scalar]:
    """Return a task's published configuration as hyper-parameters.

    The result is empty if there is no published configuration of the task.

    Under the protocol ``paper``, ``paper`` has the names of the method and of the body;
    otherwise, it is None. If it is given, the result has three more hyper-parameters:

    - ``align.source``: the paper's source for the body's modality (CoNLL-2003 or
      CIFAR-10), which must be downloaded.
    - ``head.dense``: ``pooled``, as in the reference's network.
    - ``embedder.initialisation``: ``paper`` if the method has an align stage, else
      ``random``.

    Learning rate and weight decay are converted, because gradients are averaged here
    and summed in the reference. ``docs/decisions/0008-published-configurations.md``
    lists all conversions and the remaining differences.
    """
    row = reference_row(task)
    if row is None:
        return {}
    settings = _settings(task, row)
    if paper is not None:
        method, body = paper
        modality = modality_of(body, get_task(task).modality)
        aligns = get_method(method).aligns
        settings["align.source"] = modality.paper_source
        settings["embedder.initialisation"] = "paper" if aligns else "random"
        settings["head.dense"] = "pooled"
    return settings


def reference_row(task: str) -> Mapping[str, str] | None:
    """Return the row of a task in ``reference_hyperparameters.csv``.

    The row has texts by column name. None if the file has no row of the task.
    """
    return _rows().get(task.replace("pdebench_generated/", "pdebench/"))


@cache
def _rows() -> Mapping[str, Mapping[str, str]]:
    text = (files("orca_ray.sweep.plan") / "reference_hyperparameters.csv").read_text(
        encoding="utf-8"
    )
    return {row["task"]: row for row in csv.DictReader(text.splitlines())}


def _settings(task: str, row: Mapping[str, str]) -> dict[str, Scalar]:
    """Return the hyper-parameters for a row of the table of published configurations.

    The reference sums the gradients of ``accum`` batches, which are averaged here. For
    SGD, the learning rate is therefore multiplied by ``accum``, and the weight decay
    divided by it. Adam's steps do not depend on the scale of the gradient, so that only
    the weight decay is divided. AdamW needs no change, because its weight decay is not
    part of the gradient.
    """
    optimizer = row["optimizer"].lower()
    rate = float(row["lr"])
    batch = int(row["batch_size"])
    accumulation = int(row["accum"])
    summed = accumulation if optimizer == "sgd" else 1
    l2 = accumulation if optimizer in ("sgd", "adam") else 1
    align_rate = rate
    if rate <= 1e-3:
        align_rate = 10.0 * rate
    max_tokens = _MAX_TOKENS.get(row["dataset"], int(row["target_seq_len"]))
    embedder = get_modality(get_task(task).modality).paper_embedder(max_tokens)
    return {
        **{f"embedder.{name}": value for name, value in embedder.items()},
        **_OPTIONS["fixed"],
        **{option: int(row[column]) for option, column in _OPTIONS["integers"].items()},
        **{
            option: float(row[column]) for option, column in _OPTIONS["numbers"].items()
        },
        "align.optimizer": optimizer,
        "align.learning_rate": align_rate,
        "align.samples_per_class": (int(row["align_maxsamples"]) // batch + 1) * batch,
        "refine.optimizer": optimizer,
        "refine.learning_rate": rate * summed,
        "refine.weight_decay": float(row["weight_decay"]) / l2,
        "refine.last_step": "drop" if accumulation > 1 else "keep",
        "refine.clip": max(0.0, float(row["clip"])),
    }
