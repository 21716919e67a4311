import pytest
from pydantic import BaseModel, ValidationError

from orca_ray.sweep.plan.schema import Dimension, SuccessiveHalving, tidy


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
def test_bad_values_are_refused(model: type[BaseModel], given: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        model.model_validate(given)


def test_contains() -> None:
    choice, rates = Dimension(choice=["a", "b"]), Dimension(log_uniform=(1e-4, 1e-2))
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


def test_tidy_keeps_four_digits_and_other_types() -> None:
    assert repr([tidy(value) for value in (0.000123456789, 3, "adam")]) == "[0.0001235, 3, 'adam']"


def test_rungs_grow_by_eta_and_leave_the_last_epoch_out() -> None:
    cases = {(2, 2, 15): [2, 4, 8], (2, 2, 16): [2, 4, 8], (3, 1, 4): [1, 3], (2, 5, 5): []}
    assert {case: SuccessiveHalving(eta=case[0], min_epochs=case[1]).rungs(case[2]) for case in cases} == cases
    assert SuccessiveHalving(eta=2).rungs(5) == [2, 4]


@pytest.mark.parametrize(
    ("scores", "rivals", "stops"),
    [
        ([9.0, 9.0], [], False),  # the first trial goes on
        ([0.6, 0.5], [[0.5, 0.4, 0.3], [0.5, 0.2, 0.1]], True),  # only the best half passes a rung
        ([0.6, 0.3], [[0.5, 0.4, 0.3], [0.5, 0.2, 0.1]], False),
        ([0.1, 0.9], [[0.5, 0.2]], False),  # the best so far counts
        ([0.3, 0.2], [[0.9, 0.2]], False),  # ties go on
        ([0.9] * 3, [[0.1] * 3], False),  # between rungs nothing stops
        ([0.9] * 4, [[0.1] * 3], False),  # shorter rivals do not count
    ],
)
def test_what_a_rung_stops(scores: list[float], rivals: list[list[float]], stops: bool) -> None:
    assert SuccessiveHalving(eta=2, min_epochs=2).stops(scores, 8, rivals) is stops
