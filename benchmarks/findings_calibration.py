"""How often answers about simulated studies are wrong.

``python -m benchmarks.findings_calibration`` prints the table of docs/six-epochs.md,
and with ``--study trained`` that of docs/trained.md. No method is better than another
on average; on a single task methods differ, and the seeds of a method do. Validation
scores have noise of their own, and choose the best transformer and the best baseline.
"""

# ruff: noqa: T201 - a benchmark prints its table

import argparse
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
from numpy.typing import NDArray

from benchmarks.findings import (
    MARGIN,
    Data,
    Sides,
    Study,
    answers,
    between_kinds,
    by_distance,
    by_samples,
    joined_name,
    over_tasks,
)
from benchmarks.findings_page import on_new_task
from benchmarks.planned import SIX_EPOCHS, TRAINED, Plan
from benchmarks.regression import Estimate, mean
from benchmarks.searches import (
    BEST_BASELINE,
    BEST_TRANSFORMER,
    REFERENCE,
    search_weights,
    sides,
)
from orca_ray.leaderboard.statistics import ScoreTable
from orca_ray.leaderboard.statistics.intervals import LEVEL, MIN_TASKS
from orca_ray.leaderboard.statistics.table import Floats

KINDS = {"fields": 6, "images": 6, "series": 12, "spectra, sequences": 5, "tables": 12}
"""Numbers of tasks of the study."""
UNABLE = {
    "fields": ("forest", "gradient_boosting", "minirocket", "hydra"),
    "images": ("minirocket", "hydra", "unet", "fno"),
    "series": ("unet", "fno"),
    "spectra, sequences": ("unet", "fno"),
    "tables": ("unet", "fno"),
}
"""Baselines that cannot adapt to tasks of a kind."""
SEARCHES = Sides(BEST_TRANSFORMER, BEST_BASELINE)
"""The compared searches.

Their ratio is not 1 if one of the two families has more methods that are alike.
"""

BEST_OF_ALL = "best of all baselines"
"""Name of the search of all baselines, with which no single method is compared."""


@dataclass(frozen=True)
class Design:
    """What is simulated of a study."""

    plan: Plan
    num_seeds: int
    """Number of seeds of each method and task."""

    @property
    def methods(self) -> tuple[str, ...]:
        """Names of all methods that the questions are about, sorted."""
        families = self.plan.families
        names = {*families.methods, "scratch"}
        for sides_of_question in self.plan.compared:
            if sides_of_question.earlier:
                pair = (sides_of_question.side, sides_of_question.reference)
                names |= {joined_name(m, sides_of_question.earlier) for m in pair}
        return tuple(sorted(names))


DESIGNS = {"six epochs": Design(SIX_EPOCHS, 3), "trained": Design(TRAINED, 1)}
"""Simulated studies by name."""


@dataclass(frozen=True)
class Null:
    """How scores are distributed of methods that are equal on average."""

    spreads: Sequence[float] = (0.2,) * 5
    """Deviation over tasks of a method's true log score, for each of `KINDS`."""
    unequal: float = 0.0
    """Deviation of the logarithm of a cell's noise over seeds."""
    tails: int = 0
    """Degrees of freedom of Student's distribution of noise and effects; 0: normal."""
    likeness: float = 0.0
    """Correlation of the true log scores of transformers on a task."""
    tasks: int = 41
    """Number of tasks that have ended, drawn from all."""

    def draw(self, random: np.random.Generator, *shape: int) -> Floats:
        """Return random numbers; normal ones have the deviation 1."""
        if self.tails:
            return random.standard_t(self.tails, shape)
        return random.normal(size=shape)

    def study(
        self,
        random: np.random.Generator,
        logs_M: Floats | float = 0.0,
        design: Design = DESIGNS["six epochs"],
    ) -> tuple[Study, Study]:
        """Return a study, and one more task of it alone.

        ``logs_M`` are the mean log scores of the methods of ``design``.
        """
        methods = design.methods
        all_kinds = np.repeat(list(KINDS), list(KINDS.values()))
        kinds = random.permutation(all_kinds)
        kinds = np.append(kinds[: self.tasks], random.choice(kinds))
        scores_TMS, validation_TM = self._scores(random, kinds, logs_M, design)
        properties = _properties(random, kinds)
        weights = sides(validation_TM, methods, design.plan.families)
        weights[BEST_OF_ALL] = _best_of_all(validation_TM, design)

        def part(tasks: slice) -> Study:
            scores = scores_TMS[tasks]
            names = tuple(f"t{number:02}" for number in range(len(scores)))
            table = ScoreTable(names, methods, scores)
            searches = {name: weights_TM[tasks] for name, weights_TM in weights.items()}
            return Study(table, properties.part(tasks), searches)

        return part(slice(self.tasks)), part(slice(self.tasks, None))

    def _scores(
        self,
        random: np.random.Generator,
        kinds_T: NDArray[np.str_],
        logs_M: Floats | float,
        design: Design,
    ) -> tuple[Floats, Floats]:
        """Return scores [T, M, S], and mean validation scores [T, M]."""
        methods = design.methods
        num = len(kinds_T)
        width = len(methods)
        noise_of_task = random.normal(size=(num, 1, 1))
        noise_of_cell = self.unequal * random.normal(size=(num, width, 1))
        noise = 0.1 * np.exp(noise_of_task + noise_of_cell)
        level = random.normal(size=(num, 1))
        spreads = dict(zip(KINDS, self.spreads, strict=True))
        spread = np.array([[spreads[kind]] for kind in kinds_T])
        truth = level + spread * self._effects(random, num, design)
        # The last draw is for the validation score, a mean over seeds.
        draws = self.draw(random, num, width, design.num_seeds + 1)
        draws[:, :, -1] /= math.sqrt(design.num_seeds)
        scores = np.exp(truth[:, :, None] + noise * draws)
        chose_not_to_align = random.random(num) < 0.6
        if "orca_guarded" in methods:
            guarded = methods.index("orca_guarded")
            reference = methods.index(REFERENCE)
            scores[chose_not_to_align, guarded] = scores[chose_not_to_align, reference]
        scores *= np.exp(np.broadcast_to(logs_M, width))[:, None]
        for kind, names in UNABLE.items():
            columns = [methods.index(name) for name in names]
            scores[np.ix_(kinds_T == kind, columns)] = np.nan
        return scores[:, :, :-1], scores[:, :, -1]

    def _effects(self, random: np.random.Generator, num: int, design: Design) -> Floats:
        """Return true log scores [T, M] relative to the task's level."""
        methods = design.methods
        effects = self.draw(random, num, len(methods))
        transformers = [
            methods.index(name) for name in design.plan.families.transformers
        ]
        common = math.sqrt(self.likeness) * self.draw(random, num, 1)
        own = math.sqrt(1 - self.likeness) * effects[:, transformers]
        effects[:, transformers] = common + own
        return effects


def _best_of_all(validation_TM: Floats, design: Design) -> Floats:
    """Return the weights [T, M] of the baseline with the best validation score."""
    baselines = [design.methods.index(name) for name in design.plan.families.baselines]
    nums_T = np.isfinite(validation_TM[:, baselines]).sum(axis=1)
    return search_weights(validation_TM, baselines, nums_T)


def _properties(random: np.random.Generator, kinds_T: NDArray[np.str_]) -> Data:
    """Return random properties of tasks of some kinds of data."""
    num = len(kinds_T)
    samples = np.where(kinds_T == "fields", 400.0, 10 ** random.uniform(1.5, 3, num))
    images = np.isin(kinds_T, ["images", "fields"]) & (random.random(num) < 0.8)
    unknown = np.full(num, np.nan)
    return Data(
        logs=np.zeros(num),
        kinds=kinds_T,
        images=images,
        samples=samples,
        distances=np.exp(random.normal(size=num) + 2.0 * images),
        centroids=unknown,
        distributions=unknown,
    )


UNEQUAL = (0.6, 0.3, 0.2, 0.1, 0.1)
"""Deviations over tasks that differ between kinds of data."""
NULLS = {
    "equal": Null(),
    "no effects": Null(spreads=(0.0,) * 5),
    "unequal": Null(UNEQUAL, unequal=0.5),
    "heavy tails": Null(tails=3),
    "alike": Null(likeness=0.75),
    "16 of 41 tasks": Null(UNEQUAL, unequal=0.5, tasks=16),
}
"""Simulated distributions by name: columns of the table."""


def simulate(
    null: str, num: int, seed: int = 0, design: Design = DESIGNS["six epochs"]
) -> dict[str, float]:
    """Return the number of each statement over ``num`` studies.

    It is the share of false statements or, for an interval, the coverage.
    """
    random = np.random.default_rng([seed, *map(ord, null)])
    outcomes: dict[str, list[bool]] = {}
    for _ in range(num):
        study, new_task = NULLS[null].study(random, design=design)
        at_margin, _ = NULLS[null].study(random, _at_margin(design), design)
        for name, values in [
            *_differences(study, design.plan).items(),
            *_equalities(at_margin, design.plan).items(),
            *_coverages(study, new_task, design.plan).items(),
        ]:
            outcomes.setdefault(name, []).extend(values)
    return {name: float(np.mean(values)) for name, values in outcomes.items()}


def _differences(study: Study, plan: Plan) -> dict[str, list[bool]]:
    """Return which statements about differences are made; all of them are false."""
    of_searches = []
    of_methods = []
    of_lengths = []
    kinds_p = []
    for answer in answers(study, plan.questions):
        if answer.question.sides == SEARCHES:
            of_searches.append(answer.clear)
        else:
            of_methods.append(answer.clear)
        if answer.question.sides.earlier:
            of_lengths.append(answer.clear)
        if answer.question.fit is between_kinds:
            kinds_p.append(answer.estimate.p)
    statements = {
        "any answer Yes or No, but that about searches": [any(of_methods)],
        "answer about searches Yes or No": of_searches,
        "`nft` and the best of all baselines differ": [
            over_tasks(study.data(REFERENCE, BEST_OF_ALL)).p
            <= LEVEL / len(plan.questions)
        ],
        "kinds differ, of 5 % meant": [p <= LEVEL for p in kinds_p],
        "kinds differ, of 0.5 % meant": [p <= LEVEL / 10 for p in kinds_p],
    }
    if of_lengths:
        name = "answer about two lengths of training Yes or No"
        statements[name] = of_lengths
    return statements


def _at_margin(design: Design) -> Floats:
    """Return mean log scores of methods such that all are worse by the margin.

    Only `REFERENCE` is not.
    """
    is_reference_M = np.array([method == REFERENCE for method in design.methods])
    return np.where(is_reference_M, 0.0, math.log1p(MARGIN))


def _equalities(at_margin: Study, plan: Plan) -> dict[str, list[bool]]:
    """Return whether any methods are called equal that differ by the margin."""
    is_equal = [
        answer.is_equal
        for answer in answers(at_margin, plan.questions)
        if answer.question.sides != SEARCHES
    ]
    return {"any no difference larger than 5 %": [any(is_equal)]}


def _coverages(study: Study, new_task: Study, plan: Plan) -> dict[str, list[bool]]:
    """Return whether intervals hold the truth, but those of the ratio of searches."""
    covered: dict[str, list[bool]] = {}
    for compared in plan.compared:
        if compared == SEARCHES:
            continue
        data = study.data(*compared)
        (log,) = new_task.data(*compared).logs
        parts = [data.logs[data.kinds == kind] for kind in KINDS]
        of_kinds = [mean(part) for part in parts if len(part) >= MIN_TASKS]
        for name, estimates, truth in (
            ("interval over all tasks", [over_tasks(data)], 0.0),
            ("interval of a kind of data", of_kinds, 0.0),
            ("interval of ten times the samples", [by_samples(data)], 0.0),
            ("interval of twice the distance", [by_distance(data)], 0.0),
            ("interval of one new task", [on_new_task(data)], float(log)),
        ):
            covered.setdefault(name, []).extend(_covers(estimates, truth))
    return covered


def _covers(estimates: Sequence[Estimate], truth: float) -> list[bool]:
    """Return whether each interval holds the truth; unknown ones are left out."""
    return [
        estimate.ends[0] <= truth <= estimate.ends[1]
        for estimate in estimates
        if estimate.error >= 0
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--studies", type=int, default=1000, help="simulated studies of each number"
    )
    parser.add_argument(
        "--study", choices=DESIGNS, default="six epochs", help="study to simulate"
    )
    options = parser.parse_args()
    design = DESIGNS[options.study]
    columns = [simulate(null, options.studies, design=design) for null in NULLS]
    print(f"| % | {' | '.join(NULLS)} |\n|---|{'--:|' * len(NULLS)}")
    for name in columns[0]:
        cells = [f"{100 * column[name]:.1f}" for column in columns]
        print(f"| {name} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
