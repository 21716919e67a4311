"""Grids: their cells, the trials that they plan and run, what they cost, mistakes in
them; and search spaces.
"""

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
from orca_ray.sweep.plan.schema import Dimension, SuccessiveHalving
from orca_ray.sweep.plan.searches import plan_searches
from orca_ray.sweep.plan.spec import Overrides
from orca_ray.sweep.run.preview import build_plan
from tests.sweep.fakes import fake_searches, new_controller, play
from tests.sweep.plan.test_loading import refused

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
"""Values of `VARIED` by level names: those of a level win over task and budget, which
win over the file.
"""


def edited(old: str, new: str) -> str:
    assert old in TEXT
    return TEXT.replace(old, new, 1)


def test_cells_are_the_full_cross_and_their_values_win() -> None:
    cells = grid_cells(parse_spec(TEXT), "pocket/digits", "orca")
    found = {
        (levels["refine.learning_rate"], levels["aligning"]): tuple(
            values[name] for name in VARIED
        )
        for levels, values in cells
    }
    assert found == EXPECTED
    assert len(cells) == len(EXPECTED)


def test_each_cell_runs_once_with_each_seed_and_is_never_stopped(
    store: ResultsStore,
) -> None:
    first = play(
        new_controller(store, text=TEXT), most=7
    )  # the first seed of all cells, then one of the second
    assert [trial.seed for trial in first] == [1] * 6 + [2]
    rest = play(new_controller(store, text=TEXT))
    trials = [*first, *rest]
    assert {trial.phase for trial in trials} == {"confirm"}
    ran = sorted(
        (trial.seed, *(trial.hyperparameters[name] for name in VARIED))
        for trial in trials
    )
    assert ran == sorted(
        (seed, *values) for seed in (1, 2) for values in EXPECTED.values()
    )
    records = store.load("study/full").values()
    assert {record.status for record in records} == {Status.COMPLETED}
    assert all(record.test_score is not None for record in records)
    assert new_controller(store, text=TEXT).summary().up_to_date


def test_cells_that_a_method_does_not_tell_apart_run_once() -> None:
    """Without an align stage three distances are one.

    Two crosses of a list share a cell.
    """
    (plan,) = fake_searches(parse_spec(edited("methods: [orca]", "methods: [nft]")))
    epochs = [
        (each["refine.learning_rate"], each["refine.epochs"]) for each in plan.cells
    ]
    assert epochs == [(1e-3, 5), (1e-3, 3), (1e-2, 5), (1e-2, 3)]
    grid = (
        "grid:\n  - refine.epochs: [5, 6]\n  - refine.epochs: [6]\n   "
        " refine.batch_size: [8, 32]\n"
    )
    text = TEXT[: TEXT.index("grid:")] + grid
    (plan,) = fake_searches(parse_spec(text))
    assert [
        (each["refine.epochs"], each["refine.batch_size"]) for each in plan.cells
    ] == [(5, 32), (6, 32), (6, 8)]
    assert len(grid_cells(parse_spec(text), "pocket/digits", "orca")) == 4


def test_the_plan_counts_cells_and_their_epochs() -> None:
    planned = build_plan(parse_spec(TEXT), None)
    (row,) = planned.rows
    (cost,) = planned.costs
    assert (row.search_trials, row.confirm_trials, row.epochs) == (0, 12, 5)
    assert (cost.trials, cost.epochs) == (12, 2 * 2 * (5 + 5 + 3))


def test_a_grid_costs_what_its_cells_cost_apart() -> None:
    def hours(more: str) -> float:
        head = (
            "name: study\nbenchmark: nasbench360\nmethods: [orca]\ntasks:"
            " [nasbench360/ecg]\n"
        )
        searches = plan_searches(
            parse_spec(head + more), {"nasbench360/ecg": ""}, gpus=True
        )
        (cost,) = task_costs(searches, Rate("a device", 1e12))
        assert cost.gpu_hours is not None
        return cost.gpu_hours

    whole = hours(
        "grid: {refine.epochs: [3, 8], align.epochs: [0, 50], embedder.sequence_length:"
        " [10, 50]}\n"
    )
    cells = product((3, 8), (0, 50), (10, 50))
    one = (
        "settings: {refine.epochs: %d, align.epochs: %d, embedder.sequence_length:"
        " %d}\n"
    )
    assert whole == pytest.approx(sum(hours(one % cell) for cell in cells))


def test_options_of_the_command_line() -> None:
    assert [
        p.num_trials
        for p in fake_searches(parse_spec(TEXT, overrides=Overrides(seeds=4)))
    ] == [24]
    once = parse_spec(TEXT, overrides=Overrides(trials=1))
    assert ([p.num_trials for p in fake_searches(once)], once.sweep_id) == (
        [6],
        "study/full-trials1",
    )
    assert refused(TEXT, overrides=Overrides(trials=2)).startswith(
        "--trials 2: a grid has no search"
    )
    wide = parse_spec(
        TEXT, overrides=Overrides(tasks=["digits", "wdbc"], methods=["orca", "nft"])
    )
    assert [plan.num_trials for plan in fake_searches(wide)] == [12, 8, 12, 8]


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
    message = refused(edited(old, new))
    assert message.startswith(f"mine.yaml:{line}: "), message
    assert part in message
    assert "[" not in message.split(" ")[1]  # no branch of a union


def test_a_file_with_a_grid_inherits_no_search(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text(
        "name: base\nbenchmark: pocket\nmethods: [orca]\ntasks:"
        " [pocket/digits]\nsettings: {refine.epochs: 3}\nspace: {refine.epochs:"
        " {integer: [1, 5]}}\nper_task: {pocket/digits: {search_trials: 4, space:"
        " {refine.dropout: {uniform: [0.0, 0.5]}}}}\nbudgets: {full: {search_trials: 2,"
        " settings: {refine.epochs: 9}}, long: {}}\ndefault_budget: long\n"
    )
    (tmp_path / "study.yaml").write_text(
        "extends: base.yaml\nname: study\ngrid: {refine.batch_size: [8, 16]}\n"
    )
    spec = load_spec(tmp_path / "study.yaml")
    assert (spec.sweep_id, list(spec.file.budgets)) == ("study/full", ["full"])
    (plan,) = fake_searches(spec)
    assert [
        (each["refine.batch_size"], each["refine.epochs"]) for each in plan.cells
    ] == [(8, 3), (16, 3)]
    layer = "per_method: {orca: {search_trials: 3}}"
    (tmp_path / "both.yaml").write_text(
        f"extends: base.yaml\nname: both\ngrid: {{refine.batch_size: [8]}}\n{layer}\n"
    )
    with pytest.raises(
        UserError, match=r"both.yaml:4: search_trials: all cells"
    ):  # not the budget of base.yaml
        load_spec(tmp_path / "both.yaml", budget="full")
    (tmp_path / "mine.yaml").write_text(
        "extends: study.yaml\nname: mine\ngrid: {refine.epochs: [1]}\n"
    )
    (plan,) = fake_searches(load_spec(tmp_path / "mine.yaml"))
    assert [each["refine.epochs"] for each in plan.cells] == [
        1
    ]  # a grid is replaced, not merged
    assert plan.cells[0]["refine.batch_size"] == 32
    (tmp_path / "search.yaml").write_text(
        "extends: study.yaml\nname: search\ngrid: null\n"
    )
    assert fake_searches(load_spec(tmp_path / "search.yaml"))[0].cells == ()


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


def test_contains() -> None:
    choice = Dimension(choice=["a", "b"])
    rates = Dimension(log_uniform=(1e-4, 1e-2))
    assert [choice.contains(value) for value in ("a", "c")] == [True, False]
    assert [rates.contains(value) for value in (1e-4, 1e-3, 1.0)] == [True, True, False]
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
def test_quantiles(dimension: Dimension, values: list[float]) -> None:
    assert [dimension.quantile(fraction) for fraction in (0.0, 0.25, 0.5)] == [
        pytest.approx(value) if isinstance(value, float) else value for value in values
    ]
    assert dimension.contains(dimension.quantile(1 - 2**-32))


def test_rungs_grow_by_eta_and_leave_the_last_epoch_out() -> None:
    cases = {
        (2, 2, 15): [2, 4, 8],
        (2, 2, 16): [2, 4, 8],
        (3, 1, 4): [1, 3],
        (2, 5, 5): [],
    }
    assert {
        case: SuccessiveHalving(eta=case[0], min_epochs=case[1]).rungs(case[2])
        for case in cases
    } == cases
    assert SuccessiveHalving(eta=2).rungs(5) == [2, 4]


@pytest.mark.parametrize(
    ("scores", "rivals", "stops"),
    [
        ([9.0, 9.0], [], False),  # the first trial goes on
        (
            [0.6, 0.5],
            [[0.5, 0.4, 0.3], [0.5, 0.2, 0.1]],
            True,
        ),  # only the best half passes a rung
        ([0.6, 0.3], [[0.5, 0.4, 0.3], [0.5, 0.2, 0.1]], False),
        ([0.1, 0.9], [[0.5, 0.2]], False),  # the best so far counts
        ([0.3, 0.2], [[0.9, 0.2]], False),  # ties go on
        ([0.9] * 3, [[0.1] * 3], False),  # between rungs nothing stops
        ([0.9] * 4, [[0.1] * 3], False),  # shorter rivals do not count
    ],
)
def test_what_a_rung_stops(
    scores: list[float], rivals: list[list[float]], stops: bool
) -> None:
    assert SuccessiveHalving(eta=2, min_epochs=2).stops(scores, 8, rivals) is stops
