"""The refine loop: what it trains and selects, and exact resume.

Also accumulation, clipping, freezing, caching and augmented inputs.
"""

import copy
import math
import resource
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from orca_ray.alignment import tensor_cache
from orca_ray.data.prepared import Split
from orca_ray.data.rows import Target
from orca_ray.errors import UserError
from orca_ray.models.crossmodal import CrossModalModel
from orca_ray.tasks.augmentations import Augmentation
from orca_ray.testing.trials import changed, copy_of
from orca_ray.training import evaluate, numerics
from orca_ray.training.config import RefineConfig
from orca_ray.training.numerics import NotFiniteError, is_out_of_memory
from orca_ray.training.refine import RefineEpoch, RefineLoop

from .training_toys import (
    CPU,
    OBJECTIVE,
    ScriptedObjective,
    limited_memory,
    make_refine,
    predictions_of,
    same,
    toy_model,
    toy_split,
)


def untimed(epoch: RefineEpoch) -> RefineEpoch:
    """Return a report without its durations, which differ from run to run."""
    return replace(epoch, seconds=0.0, validation_seconds=0.0)


PLAIN: dict[str, Any] = {
    "optimizer": "sgd",
    "momentum": 0.0,
    "weight_decay": 0.0,
    "clip": 0.0,
    "schedule": "constant",
}


@pytest.mark.parametrize("num_samples", [32, 75])
def test_accumulation_is_the_large_batch(num_samples: int) -> None:
    """8 passes of 4 take the same steps as one of 32.

    That holds also where the last batch and the last pass are short.
    """
    weights = []
    for batch_size, accumulation in ((4, 8), (32, 1)):
        model = toy_model()
        config = RefineConfig(
            epochs=1,
            learning_rate=0.5,
            batch_size=batch_size,
            accumulation=accumulation,
            warmup_epochs=0,
            **PLAIN,
        )
        loop = make_refine(model, config, train=toy_split(num_samples))
        assert loop.steps_per_epoch == math.ceil(num_samples / 32)
        loop.step()
        weights.append(copy_of(model))
    for name, value in weights[0].items():
        torch.testing.assert_close(value, weights[1][name], atol=2e-6, rtol=1e-5)


def test_clipping_bounds_one_optimiser_step_as_a_whole() -> None:
    model = toy_model()
    before = copy_of(model)
    config = RefineConfig(
        epochs=1,
        learning_rate=0.5,
        batch_size=4,
        accumulation=8,
        warmup_epochs=0,
        **(PLAIN | {"clip": 1e-3}),
    )
    make_refine(model, config, train=toy_split(32)).step()
    moves = [
        (value - before[name]).flatten() for name, value in model.state_dict().items()
    ]
    assert float(torch.cat(moves).norm()) == pytest.approx(0.5 * 1e-3, rel=1e-3)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"batch_size": 25, "warmup_epochs": 1}, [1.0, 7 / 9, 4 / 9, 1 / 9]),
        # The decay ends after the last epoch.
        (
            {"batch_size": 75, "warmup_epochs": 0, "decay_epochs": 10},
            [1.0, 0.9, 0.8, 0.7],
        ),
    ],
)
def test_learning_rate_follows_the_schedule(
    options: dict[str, Any], expected: list[float]
) -> None:
    config = RefineConfig(epochs=4, learning_rate=1.0, clip=0.0, **options)
    loop = make_refine(toy_model(), config)
    assert [loop.step().learning_rate for _ in range(4)] == pytest.approx(expected)


def test_only_the_given_parameters_train() -> None:
    before = copy_of(toy_model())

    def changed_parts(model: CrossModalModel) -> set[str]:
        return {name.split(".")[0] for name in changed(before, copy_of(model))}

    model = toy_model()
    without_body = RefineConfig(
        epochs=1, learning_rate=0.1, body_learning_rate_scale=0.0
    )
    make_refine(model, without_body).step()
    assert changed_parts(model) == {"embedder", "head"}
    model = toy_model()
    config = RefineConfig(epochs=1, learning_rate=0.1)
    make_refine(model, config, head_only=True).step()
    assert changed_parts(model) == {"head"}
    assert not any(parameter.requires_grad for parameter in model.body.parameters())
    with pytest.raises(UserError, match="no parameter"):
        RefineLoop(
            toy_model(),
            [],
            toy_split(9),
            toy_split(9),
            OBJECTIVE,
            RefineConfig(),
            seed=0,
            device=CPU,
        )


def test_best_epoch_is_restored() -> None:
    model = toy_model()
    objective = ScriptedObjective(
        OBJECTIVE.target, "cross_entropy", "error", scores=[3.0, 1.0, 1.0, 2.0]
    )
    loop = make_refine(
        model, RefineConfig(epochs=4, learning_rate=1e-2), objective=objective
    )
    weights = []
    while not loop.done:
        loop.step()
        weights.append(copy_of(model))
    assert (loop.best_epoch, loop.best_score) == (2, 1.0)  # the first of equals
    assert not same(weights[1], weights[3])
    loop.restore_best()
    assert same(copy_of(model), weights[1])


def test_the_log_loss_may_choose_the_epoch_whose_metric_counts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    losses = iter([0.9, 0.4, 0.3, 0.5])
    monkeypatch.setattr(
        "orca_ray.training.refine.log_loss", lambda *arguments: next(losses)
    )
    objective = ScriptedObjective(
        OBJECTIVE.target, "cross_entropy", "error", scores=[0.1, 0.4, 0.2, 0.1]
    )
    loop = make_refine(
        toy_model(), RefineConfig(epochs=4), objective=objective, by_log_loss=True
    )
    while not loop.done:
        loop.step()
        state = copy.deepcopy(loop.state_dict())
    assert (loop.best_epoch, loop.best_score) == (3, 0.2)
    resumed = make_refine(toy_model(), RefineConfig(epochs=4), by_log_loss=True)
    resumed.load_state_dict(state)
    assert resumed.state_dict()["least"] == 0.3


def test_the_last_epoch_may_be_kept_whatever_validation_says() -> None:
    objective = ScriptedObjective(
        OBJECTIVE.target, "cross_entropy", "error", scores=[0.3, 0.1, 0.2]
    )
    model = toy_model()
    config = RefineConfig(epochs=3, keep="last")
    loop = make_refine(model, config, objective=objective)
    while not loop.done:
        loop.step()
    last = copy_of(model)
    loop.restore_best()
    assert same(copy_of(model), last)
    assert loop.best_epoch == 2
    assert loop.best_score == 0.2, "the score is that of the weights"


def test_label_smoothing_is_that_of_torch() -> None:
    logits = torch.randn(6, 3, generator=torch.Generator().manual_seed(0))
    y = torch.arange(6) % 3
    loss = OBJECTIVE.training_loss(y.numpy(), torch.device("cpu"), 0.1)
    expected = torch.nn.functional.cross_entropy(logits, y, label_smoothing=0.1)
    torch.testing.assert_close(loss(logits, y), expected)


def test_the_log_loss_of_classes_and_labels_by_hand() -> None:
    logits = np.array([[2.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    losses = [
        np.log(np.exp(logits[row]).sum()) - logits[row, true_class]
        for row, true_class in ((0, 0), (1, 1))
    ]
    loss = evaluate.log_loss(logits, np.array([0, 1]), OBJECTIVE)
    assert loss == pytest.approx(np.mean(losses))
    labels = replace(OBJECTIVE, target=Target("labels", size=3), loss="bce")
    y = np.array([[1, 0, 1], [0, 1, 0]])
    by_hand = np.mean(np.log1p(np.exp(logits)) - logits * y)
    assert evaluate.log_loss(logits, y, labels) == pytest.approx(by_hand)


def test_freed_memory_stays_with_the_process() -> None:
    numerics.keep_freed_memory()
    torch.ones(2**20)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(50):
        torch.ones(2**20)  # 4 MiB, of 1,024 pages
    assert resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before < 10_000


class Killed(Exception):
    pass


def run_to_the_end(loop: RefineLoop) -> None:
    while not loop.done:
        loop.step()


@pytest.mark.parametrize(
    # An epoch has 10 steps, and `on_step` is called after each but the last.
    ("optimizer", "interrupted_after"),
    [("adamw", 0), ("adam", 9), ("adamw", 1), ("sgd", 12), ("adamw", 18)],
)
def test_resume_is_exact(
    optimizer: str, interrupted_after: int, tmp_path: Path
) -> None:
    """A loop is resumed from disk in a fresh model between any two steps.

    Curve and weights are the same bit for bit, and so is dropout.
    """
    config = RefineConfig(
        epochs=2, learning_rate=1e-2, optimizer=optimizer, dropout=0.3, batch_size=8
    )
    whole_model = toy_model(dropout=0.3)
    whole = make_refine(whole_model, config)
    expected = [untimed(whole.step()) for _ in range(2)]
    assert expected[0].loss != expected[1].loss
    assert whole.steps_per_epoch == 10
    num_calls = 0

    def save() -> None:
        nonlocal num_calls
        num_calls += 1
        if num_calls == interrupted_after:
            tensor_cache.save(tmp_path / "state", first.state_dict())
            raise Killed

    first = make_refine(toy_model(dropout=0.3), config, on_step=save)
    tensor_cache.save(tmp_path / "state", first.state_dict())
    if interrupted_after:
        with pytest.raises(Killed):
            run_to_the_end(first)
    torch.rand(7)  # the process does something else meanwhile
    model = toy_model(dropout=0.3, seed=99)
    resumed = make_refine(model, config)
    state = tensor_cache.load(tmp_path / "state")
    assert state is not None
    resumed.load_state_dict(state)
    num_finished = max(0, interrupted_after - 1) // 9
    assert resumed.epoch == num_finished
    remaining = [untimed(resumed.step()) for _ in range(2 - num_finished)]
    assert remaining == expected[num_finished:]
    assert same(copy_of(model), copy_of(whole_model))
    assert resumed.state_dict()["partial"] is None
    whole.restore_best()
    resumed.restore_best()
    assert resumed.best_epoch == whole.best_epoch
    assert same(copy_of(model), copy_of(whole_model))


def numbers(epochs: list[RefineEpoch]) -> list[list[float]]:
    """Return epoch, loss, score and learning rate of each report."""
    return [
        [epoch.epoch, epoch.loss, epoch.validation_score, epoch.learning_rate]
        for epoch in epochs
    ]


def body_calls(model: CrossModalModel) -> int:
    return int(model.body.num_calls)  # type: ignore[arg-type]


def test_cached_features_give_the_uncached_result_where_nothing_is_random(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = RefineConfig(epochs=5, learning_rate=1e-2, batch_size=8)
    cached_model = toy_model()
    cached = make_refine(cached_model, config, head_only=True)
    cached_curve = [cached.step()]
    calls = body_calls(cached_model)
    cached_curve += [cached.step() for _ in range(4)]
    assert body_calls(cached_model) == calls > 0  # the body ran in the first epoch only

    monkeypatch.setattr(evaluate, "CACHE_BYTES", 0)
    model = toy_model()
    uncached = make_refine(model, config, head_only=True)
    uncached_curve = [uncached.step() for _ in range(5)]
    assert body_calls(model) > 5 * uncached.steps_per_epoch
    np.testing.assert_allclose(
        numbers(cached_curve), numbers(uncached_curve), rtol=1e-6
    )

    # Dropout and augmentation rule the cache out.
    for model, augmentation in ((toy_model(dropout=0.5), None), (toy_model(), SHIFT)):
        loop = make_refine(model, config, head_only=True, augmentation=augmentation)
        assert body_calls(model) == 0
        loop.step()
        assert body_calls(model) > loop.steps_per_epoch


def test_batches_that_do_not_fill_a_step_are_dropped_where_that_is_asked() -> None:
    config = RefineConfig(epochs=1, batch_size=4, accumulation=8, last_step="drop")
    # 75 samples are 19 batches: two whole steps of 8, and 11 samples more.
    for num_samples, steps in (
        (75, [32, 32]),
        (64, [32, 32]),
        (62, [32, 30]),
        (20, [20]),
    ):
        loop = make_refine(toy_model(), config, train=toy_split(num_samples))
        assert [len(indices) for indices in loop._step_indices()] == steps
        assert loop.steps_per_epoch == len(steps)
        loop.step()
        assert loop._samples_seen == sum(steps)


def test_validation_in_groups_and_in_evaluation_mode() -> None:
    whole = toy_split(30)
    group = np.arange(30) // 3
    y = whole.y[group * 3]
    model = toy_model(dropout=0.9)
    validation = Split(whole.x, y, group)
    loop = make_refine(
        model, RefineConfig(epochs=1, dropout=0.9), validation=validation
    )
    validation_score = loop.step().validation_score
    predictions = predictions_of(model.eval(), whole.x)
    is_wrong = predictions.reshape(10, 3, -1).mean(1).argmax(1) != y[::3]
    assert validation_score == pytest.approx(float(is_wrong.mean()))
    model.train()
    np.testing.assert_array_equal(loop.predict(validation), predictions)


def test_the_loss_of_an_epoch_is_the_mean_over_its_samples() -> None:
    data = toy_split(20)
    model = toy_model()
    logits = torch.from_numpy(predictions_of(model.eval(), data.x))
    losses = torch.nn.functional.cross_entropy(logits, torch.from_numpy(data.y))
    config = RefineConfig(epochs=1, learning_rate=1e-12, batch_size=7, dropout=0.0)
    loop = make_refine(model, config, train=data)
    assert loop.step().loss == pytest.approx(float(losses), rel=1e-4)


def test_what_is_not_finite_ends_the_trial() -> None:
    objective = ScriptedObjective(
        OBJECTIVE.target, "cross_entropy", "error", scores=[float("nan")]
    )
    with pytest.raises(NotFiniteError, match="score"):
        make_refine(toy_model(), RefineConfig(epochs=1), objective=objective).step()
    model = toy_model()
    with torch.no_grad():
        next(model.head.parameters())[0] = torch.inf
    with pytest.raises(NotFiniteError, match="predictions are not finite"):
        predictions_of(model, toy_split(9).x)


def test_evaluation_that_does_not_fit_goes_in_smaller_batches() -> None:
    model = toy_model().eval()
    x = toy_split(20).x
    whole = predictions_of(model, x)
    with limited_memory(model, 5, training=False) as sizes:
        halved = predictions_of(model, x, batch_size=16)
    assert sizes == [16, 8, 4, 4, 4, 4, 4]
    np.testing.assert_allclose(halved, whole, rtol=1e-5, atol=1e-6)
    with (
        limited_memory(model, 0, training=False),
        pytest.raises(torch.OutOfMemoryError, match="CUDA"),
    ):
        predictions_of(model, x)
    loop = make_refine(model, RefineConfig(epochs=2))
    with limited_memory(model, 30, training=False) as sizes:  # of 100 samples
        loop.step()
        loop.step()
    one_validation = [16] * 6 + [4]
    assert sizes == [64, 32, *one_validation, *one_validation]
    assert loop.notes == [
        "64 samples did not fit the device's memory in evaluation, 16 do"
    ]


def test_failed_allocations_of_all_kinds_are_recognised() -> None:
    with pytest.raises(RuntimeError) as allocator:
        torch.empty(2**60)
    with pytest.raises(MemoryError) as of_numpy:
        np.empty(2**59)
    on_cpu = RuntimeError(
        "alloc_cpu: DefaultCPUAllocator: can't allocate memory: you tried to allocate 9"
        " bytes"
    )
    refused = OSError(12, "Cannot allocate memory")
    for error in (
        allocator.value,
        of_numpy.value,
        on_cpu,
        refused,
        torch.OutOfMemoryError("CUDA out of memory"),
    ):
        assert is_out_of_memory(error), error
    for other in (
        RuntimeError("shapes differ"),
        OSError(28, "No space left"),
        NotFiniteError("nan"),
        ValueError(),
    ):
        assert not is_out_of_memory(other), other


@dataclass(frozen=True)
class Shift(Augmentation):
    """Adds a number of its own to each sample."""

    name: str = "shift"
    definition: str = "adds a number to each sample"

    def draw(self, num_samples: int, generator: torch.Generator) -> Tensor:
        return torch.randn(num_samples, 1, 1, generator=generator)

    def apply(self, x: Tensor, drawn: Tensor) -> Tensor:
        return x + drawn


class Idle(Shift):
    """Draws, and leaves the inputs as they are."""

    def apply(self, x: Tensor, drawn: Tensor) -> Tensor:
        return x


SHIFT = Shift()


def watch(model: CrossModalModel) -> dict[bool, list[Tensor]]:
    """Collect the inputs that the embedder gets, by whether it is training."""
    embedder_inputs: dict[bool, list[Tensor]] = {True: [], False: []}
    model.embedder.register_forward_hook(
        lambda module, inputs, _: embedder_inputs[module.training].append(
            inputs[0].clone()
        )
    )
    return embedder_inputs


def test_every_epoch_draws_anew_and_only_training_sees_it() -> None:
    model = toy_model()
    train = toy_split(75)
    validation = toy_split(30, 1)
    config = RefineConfig(epochs=2, batch_size=75)
    loop = make_refine(model, config, train, validation, augmentation=SHIFT)
    _ = loop.micro_batch  # measuring the cost shows the model some samples
    embedder_inputs = watch(model)
    loop.step()
    loop.step()
    loop.predict(validation)
    three_validations = torch.from_numpy(np.concatenate([validation.x[:]] * 3))
    assert torch.equal(torch.cat(embedder_inputs[False]), three_validations)

    def sort_samples(x: Tensor) -> Tensor:
        """Order samples by a difference that a shift does not change."""
        return x[x.diff()[:, 0, 0].argsort(), 0]

    epochs = torch.cat(embedder_inputs[True]).view(2, *train.x.shape)
    unshifted = sort_samples(torch.from_numpy(train.x[:]))
    shifts = [sort_samples(epoch) - unshifted for epoch in epochs]
    for shift in shifts:
        torch.testing.assert_close(shift, shift[:, :1].expand(-1, 8), rtol=0, atol=1e-5)
        assert 0.7 < float(shift[:, 0].std()) < 1.3
    first, second = shifts
    assert abs(np.corrcoef(first[:, 0], second[:, 0])[0, 1]) < 0.3


def test_what_a_sample_looks_like_depends_on_neither_micro_batch_nor_memory() -> None:
    """A step that is computed again in smaller micro-batches sees the same inputs."""
    inputs = []
    weights = []
    for limit, most in ((3, 99), (32, 99), (16, 8)):
        model = toy_model()
        loop = make_refine(
            model, RefineConfig(epochs=1, batch_size=16, **PLAIN), augmentation=SHIFT
        )
        loop._accumulator.limit = limit
        with limited_memory(model, most, training=True):
            # Only micro-batches that fit reach this hook.
            embedder_inputs = watch(model)
            loop.step()
        inputs.append(torch.cat(embedder_inputs[True]))
        weights.append(copy_of(model))
    for number in (1, 2):
        assert torch.equal(inputs[0], inputs[number])
        for name, value in weights[0].items():
            other = weights[number][name]
            torch.testing.assert_close(other, value, rtol=1e-4, atol=1e-6)


def test_augmented_inputs_follow_from_the_seed_and_leave_dropout_alone() -> None:
    def losses(seed: int, augmentation: Augmentation | None = SHIFT) -> list[float]:
        config = RefineConfig(epochs=2, dropout=0.2)
        loop = make_refine(
            toy_model(dropout=0.2), config, augmentation=augmentation, seed=seed
        )
        return [loop.step().loss for _ in range(2)]

    assert losses(0) == losses(0) != losses(1)
    assert losses(0, None) == losses(0, Idle()) != losses(0)
