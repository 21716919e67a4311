"""Grids of a sweep file: cells, trials, costs and mistakes. Also search spaces."""

from itertools import product
from pathlib import Path

import pytest
from pydantic import BaseModel, ValidationError

from orca_ray.errors import UserError
from orca_ray.results.record import Status
from orca_ray.results.store import ResultsStore
from orca_ray.sweep.plan.cost import Rate, task_costs
from orca_ray.sweep.plan.grid import grid_cells
from orca_ray.sweep.plan.loading import load_spec, parse_spec
from orca_ray.sweep.plan.schema import Dimension, Scalar, SuccessiveHalving
from orca_ray.sweep.plan.searches import SearchPlan, plan_searches
from orca_ray.sweep.plan.spec import Overrides
from orca_ray.sweep.run.preview import build_plan
from tests.sweep.fakes import fake_searches, new_controller, play
from tests.sweep.plan.test_loading import read_refusal

TEXT = Path(__file__).with_name("study.yaml").read_text()
VARIED = ("refine.learning_rate", "align.epochs", "align.distance", "refine.epochs")
GRID = TEXT[TEXT.index("  refine.learning") : TEXT.index("per_task")]
STEPS = "align.steps: [absolute]\n  align.learning_rate: [0.1, 0.0]"
EXPECTED = {
    ("0.001", "none"): (1e-3, 0, "l2", 5),
    ("0.001", "l2"): (1e-3, 7, "l2", 5),
    ("0.001", "mmd"): (1e-3, 7, "mmd", 3),
    ("0.01", "none"): (1e-2, 0, "l2", 5),
    ("0.01", "l2"): (1e-2, 7, "l2", 5),
    ("0.01", "mmd"): (1e-2, 7, "mmd", 3),
}
"""Values of `VARIED` by level names.

Values of a level win over those of task and budget, which win over those of the file.
"""


def edit(old: str, new: str) -> str:
    """Return the sweep file with one part replaced."""
    assert old in TEXT
    return TEXT.replace(old, new, 1)


def test_cells_are_the_full_cross_and_their_values_win() -> None:
    cells = grid_cells(parse_spec(TEXT), "pocket/digits", "orca")
    values_by_levels = {}
    for levels, values in cells:
        names = (levels["refine.learning_rate"], levels["aligning"])
        values_by_levels[names] = tuple(values[name] for name in VARIED)
    assert values_by_levels == EXPECTED
    assert len(cells) == len(EXPECTED)


def test_each_cell_runs_once_with_each_seed_and_is_never_stopped(
    store: ResultsStore,
) -> None:
    first = play(new_controller(store, text=TEXT), most=7)
    seeds = [trial.seed for trial in first]
    assert seeds == [1] * 6 + [2], "the first seed of all cells comes first"
    rest = play(new_controller(store, text=TEXT))
    trials = [*first, *rest]
    assert {trial.phase for trial in trials} == {"confirm"}
    ran = []
    for trial in trials:
        values = [trial.hyperparameters[name] for name in VARIED]
        ran.append((trial.seed, *values))
    assert sorted(ran) == sorted(
        (seed, *values) for seed in (1, 2) for values in EXPECTED.values()
    )
    records = store.load("study/full").values()
    assert {record.status for record in records} == {Status.COMPLETED}
    assert all(record.test_score is not None for record in records)
    assert new_controller(store, text=TEXT).summary().up_to_date


def list_values(plan: SearchPlan, *names: str) -> list[tuple[Scalar, ...]]:
    """Return the values of hyper-parameters in each cell of a plan."""
    return [tuple(cell[name] for name in names) for cell in plan.cells]


def test_cells_that_a_method_does_not_tell_apart_run_once() -> None:
    """A method without an align stage does not tell three distances apart."""
    text = edit("methods: [orca]", "methods: [nft]")
    [plan] = fake_searches(parse_spec(text))
    values = list_values(plan, "refine.learning_rate", "refine.epochs")
    assert values == [(1e-3, 5), (1e-3, 3), (1e-2, 5), (1e-2, 3)]


def test_a_cell_of_two_crosses_runs_once() -> None:
    grid = """\
grid:
  - refine.epochs: [5, 6]
  - refine.epochs: [6]
    refine.batch_size: [8, 32]
"""
    text = TEXT[: TEXT.index("grid:")] + grid
    [plan] = fake_searches(parse_spec(text))
    values = list_values(plan, "refine.epochs", "refine.batch_size")
    assert values == [(5, 32), (6, 32), (6, 8)]
    assert len(grid_cells(parse_spec(text), "pocket/digits", "orca")) == 4


def test_the_plan_counts_cells_and_their_epochs() -> None:
    planned = build_plan(parse_spec(TEXT), None)
    (row,) = planned.rows
    (cost,) = planned.costs
    assert row.search_trials == 0
    assert row.confirm_trials == 12
    assert row.epochs == 5
    assert cost.trials == 12
    assert cost.epochs == 2 * 2 * (5 + 5 + 3)


def estimate_hours(settings: str) -> float:
    """Return the GPU hours of a sweep of one task with settings or a grid."""
    task = "nasbench360/ecg"
    head = f"name: study\nbenchmark: nasbench360\nmethods: [orca]\ntasks: [{task}]\n"
    searches = plan_searches(parse_spec(head + settings), {task: ""}, gpus=True)
    [cost] = task_costs(searches, Rate("a device", 1e12))
    assert cost.gpu_hours is not None
    return cost.gpu_hours


def test_a_grid_costs_what_its_cells_cost_apart() -> None:
    whole = estimate_hours(
        "grid: {refine.epochs: [3, 8], align.epochs: [0, 50], embedder.sequence_length:"
        " [10, 50]}\n"
    )
    hours_of_cells = [
        estimate_hours(
            f"settings: {{refine.epochs: {epochs}, align.epochs: {align_epochs},"
            f" embedder.sequence_length: {length}}}\n"
        )
        for epochs, align_epochs, length in product((3, 8), (0, 50), (10, 50))
    ]
    assert whole == pytest.approx(sum(hours_of_cells))


def count_trials(overrides: Overrides) -> list[int]:
    """Return the number of trials of each search."""
    searches = fake_searches(parse_spec(TEXT, overrides=overrides))
    return [search.num_trials for search in searches]


def test_options_of_the_command_line_change_the_trials_of_a_grid() -> None:
    assert count_trials(Overrides(seeds=4)) == [24]
    assert count_trials(Overrides(trials=1)) == [6]
    once = parse_spec(TEXT, overrides=Overrides(trials=1))
    assert once.sweep_id == "study/full-trials1"
    message = read_refusal(TEXT, overrides=Overrides(trials=2))
    assert message.startswith("--trials 2: a grid has no search")
    wide = Overrides(tasks=["digits", "wdbc"], methods=["orca", "nft"])
    assert count_trials(wide) == [12, 8, 12, 8]


@pytest.mark.parametrize(
    ("old", "new", "line", "part"),
    [
        (
            "refine.learning_rate:",
            "refine.learning_rat:",
            8,
            "Did you mean 'refine.learning_rate'",
        ),
        ("refine.learning_rate:", "rate:", 8, "A factor of another name is a mapping"),
        (
            "distance: l2}",
            "distance: l3}",
            11,
            "grid.aligning.l2: pocket/digits with orca: unknown align.",
        ),
        (
            "{align.epochs: 0}",
            "{align.epochs: few}",
            10,
            "align.epochs must be a whole number, got 'few'",
        ),
        (
            "[1e-3, 1e-2]",
            "[1e-3, 0.0]",
            8,
            "refine.learning_rate must be greater than 0",
        ),
        (
            "refine.learning_rate: [1e-3, 1e-2]",
            STEPS,
            9,
            "align.learning_rate must be greater than 0 for align.steps",
        ),
        (
            "{align.epochs: 0}",
            "{data.fold: -1}",
            10,
            "data.fold: pocket/digits has no folds; allowed is 0, got -1",
        ),
        (
            "[1e-3, 1e-2]",
            "[]",
            8,
            "grid.refine.learning_rate: give at least 1 item; got []",
        ),
        (
            "[1e-3, 1e-2]",
            "1e-3",
            8,
            "grid.refine.learning_rate: give a list, such as [a, b]; got 0.001",
        ),
        ("  aligning:", "  method:", 9, "list the methods in 'methods'"),
        (
            "[1e-3, 1e-2]",
            "{low: {refine.learning_rate: 1e-3}}",
            8,
            "give a list of values",
        ),
        (
            "grid:\n",
            "grid:\n  align.distance: [l2]\n",
            10,
            "also set by 'align.distance'",
        ),
        (
            "settings: {refine",
            "space: {refine.dropout: {uniform: [0, 1]}}\nsettings: {refine",
            6,
            "space: all cells",
        ),
        (
            "full: {",
            "full: {search_trials: 2, ",
            15,
            "search_trials: all cells of a grid run, without a search",
        ),
        (GRID, "  - {}\n", 8, "at least 1 item"),
        (
            GRID,
            "  - a: {x: {refine.epochs: 1}}\n  - a: {x: {}}\n",
            9,
            "grid.1.a.x: another cross has other settings",
        ),
    ],
)
def test_mistakes_are_named_with_their_line(
    old: str, new: str, line: int, part: str
) -> None:
    message = read_refusal(edit(old, new))
    assert message.startswith(f"mine.yaml:{line}: "), message
    assert part in message
    path_in_file = message.split(" ")[1]
    assert "[" not in path_in_file, "no branch of a union is named"


BASE_OF_GRIDS = """\
name: base
benchmark: pocket
methods: [orca]
tasks: [pocket/digits]
settings: {refine.epochs: 3}
space: {refine.epochs: {integer: [1, 5]}}
per_task:
  pocket/digits: {search_trials: 4, space: {refine.dropout: {uniform: [0.0, 0.5]}}}
budgets: {full: {search_trials: 2, settings: {refine.epochs: 9}}, long: {}}
default_budget: long
"""
STUDY = """\
extends: base.yaml
name: study
grid: {refine.batch_size: [8, 16]}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a sweep file of searches, and one with a grid that extends it."""
    (tmp_path / "base.yaml").write_text(BASE_OF_GRIDS)
    (tmp_path / "study.yaml").write_text(STUDY)
    return tmp_path


def test_a_file_with_a_grid_inherits_no_search(folder: Path) -> None:
    spec = load_spec(folder / "study.yaml")
    assert spec.sweep_id == "study/full"
    assert list(spec.file.budgets) == ["full"]
    [plan] = fake_searches(spec)
    values = list_values(plan, "refine.batch_size", "refine.epochs")
    assert values == [(8, 3), (16, 3)]


def test_a_file_with_a_grid_may_have_no_search_of_its_own(folder: Path) -> None:
    own = "per_method: {orca: {search_trials: 3}}\n"
    (folder / "both.yaml").write_text(STUDY + own)
    message = r"both.yaml:4: search_trials: all cells"  # not the budget of base.yaml
    with pytest.raises(UserError, match=message):
        load_spec(folder / "both.yaml", budget="full")


def test_a_grid_replaces_the_grid_of_the_base(folder: Path) -> None:
    (folder / "mine.yaml").write_text(
        "extends: study.yaml\nname: mine\ngrid: {refine.epochs: [1]}\n"
    )
    [plan] = fake_searches(load_spec(folder / "mine.yaml"))
    assert list_values(plan, "refine.epochs", "refine.batch_size") == [(1, 32)]


def test_null_removes_the_grid_of_the_base(folder: Path) -> None:
    (folder / "search.yaml").write_text(
        "extends: study.yaml\nname: search\ngrid: null\n"
    )
    [plan] = fake_searches(load_spec(folder / "search.yaml"))
    assert plan.cells == ()


@pytest.mark.parametrize(
    ("model", "given", "message"),
    [
        (Dimension, {}, "exactly one"),
        (Dimension, {"uniform": [0, 1], "choice": [1]}, "exactly one"),
        (Dimension, {"uniform": [1, 1]}, "is empty"),
        (Dimension, {"log_uniform": [1e-2, 1e-4]}, "is empty"),
        (Dimension, {"log_uniform": [0, 1]}, "must be positive"),
        (Dimension, {"integer": [5, 2]}, "is empty"),
        (Dimension, {"choice": []}, "at least 1 item"),
        (SuccessiveHalving, {"eta": 1.0}, "eta"),
        (SuccessiveHalving, {"min_epochs": 0}, "min_epochs"),
    ],
)
def test_bad_values_are_refused(
    model: type[BaseModel], given: dict[str, object], message: str
) -> None:
    with pytest.raises(ValidationError, match=message):
        model.model_validate(given)


def test_a_dimension_contains_its_values() -> None:
    choice = Dimension(choice=["a", "b"])
    assert choice.contains("a")
    assert not choice.contains("c")
    rates = Dimension(log_uniform=(1e-4, 1e-2))
    assert rates.contains(1e-4)
    assert rates.contains(1e-3)
    assert not rates.contains(1.0)
    assert not Dimension(integer=(1, 3)).contains("2")


@pytest.mark.parametrize(
    ("dimension", "values"),
    [
        (Dimension(uniform=(1.0, 3.0)), [1.0, 1.5, 2.0]),
        (Dimension(log_uniform=(1e-4, 1.0)), [1e-4, 1e-3, 1e-2]),
        (Dimension(integer=(1, 4)), [1, 2, 3]),
        (Dimension(choice=["a", "b"]), ["a", "a", "b"]),
    ],
)
def test_a_dimension_has_quantiles(dimension: Dimension, values: list[float]) -> None:
    for fraction, value in zip((0.0, 0.25, 0.5), values, strict=True):
        quantile = dimension.quantile(fraction)
        if isinstance(value, float):
            assert quantile == pytest.approx(value)
        else:
            assert quantile == value
    assert dimension.contains(dimension.quantile(1 - 2**-32))


@pytest.mark.parametrize(
    ("eta", "min_epochs", "epochs", "rungs"),
    [
        (2, 2, 15, [2, 4, 8]),
        (2, 2, 16, [2, 4, 8]),
        (3, 1, 4, [1, 3]),
        (2, 5, 5, []),
    ],
)
def test_rungs_grow_by_eta_and_leave_the_last_epoch_out(
    eta: int, min_epochs: int, epochs: int, rungs: list[int]
) -> None:
    halving = SuccessiveHalving(eta=eta, min_epochs=min_epochs)
    assert halving.rungs(epochs) == rungs


def test_rungs_begin_at_two_epochs_by_default() -> None:
    assert SuccessiveHalving(eta=2).rungs(5) == [2, 4]


@pytest.mark.parametrize(
    ("scores", "rivals", "stops"),
    [
        ([9.0, 9.0], [], False),  # the first trial goes on
        # Only the best half passes a rung.
        ([0.6, 0.5], [[0.5, 0.4, 0.3], [0.5, 0.2, 0.1]], True),
        ([0.6, 0.3], [[0.5, 0.4, 0.3], [0.5, 0.2, 0.1]], False),
        ([0.1, 0.9], [[0.5, 0.2]], False),  # the best so far counts
        ([0.3, 0.2], [[0.9, 0.2]], False),  # ties go on
        ([0.9] * 3, [[0.1] * 3], False),  # between rungs nothing stops
        ([0.9] * 4, [[0.1] * 3], False),  # shorter rivals do not count
    ],
)
def test_a_rung_stops_the_worse_half(
    scores: list[float], rivals: list[list[float]], stops: bool
) -> None:
    assert SuccessiveHalving(eta=2, min_epochs=2).stops(scores, 8, rivals) is stops
