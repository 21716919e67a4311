"""The refine loop: what it trains, selects, caches and augments, and exact resume."""

import copy
import math
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from orca_ray.alignment import tensor_cache
from orca_ray.data.prepared import Split
from orca_ray.data.rows import Target
from orca_ray.errors import UserError
from orca_ray.models.crossmodal import CrossModalModel
from orca_ray.tasks.augmentations import Augmentation
from orca_ray.testing.trials import changed, copy_of
from orca_ray.training import evaluate
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


def without_durations(epoch: RefineEpoch) -> RefineEpoch:
    """Return a report without its durations, which differ from run to run."""
    return replace(epoch, seconds=0.0, validation_seconds=0.0)


PLAIN: dict[str, Any] = {
    "optimizer": "sgd",
    "momentum": 0.0,
    "weight_decay": 0.0,
    "clip": 0.0,
    "schedule": "constant",
}


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


@pytest.mark.parametrize("num_samples", [32, 75], ids=["even", "short last step"])
def test_passes_of_4_take_the_same_steps_as_one_of_32(num_samples: int) -> None:
    def refine(batch_size: int, accumulation: int) -> dict[str, Tensor]:
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
        return copy_of(model)

    in_passes = refine(batch_size=4, accumulation=8)
    at_once = refine(batch_size=32, accumulation=1)
    torch.testing.assert_close(in_passes, at_once, atol=2e-6, rtol=1e-5)


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
        names = changed(before, copy_of(model))
        return {name.partition(".")[0] for name in names}

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


def test_a_loop_without_parameters_is_refused() -> None:
    split = toy_split(9)
    config = RefineConfig()
    with pytest.raises(UserError, match="no parameter"):
        RefineLoop(toy_model(), [], split, split, OBJECTIVE, config, seed=0, device=CPU)


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
    # The second epoch is the first of two equal ones.
    _, best, _, last = weights
    assert (loop.best_epoch, loop.best_score) == (2, 1.0)
    assert not same(best, last)
    loop.restore_best()
    assert same(copy_of(model), best)


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
    logits_of_true_classes = np.array([2.0, 0.0])
    losses = np.log(np.exp(logits).sum(axis=1)) - logits_of_true_classes
    loss = evaluate.log_loss(logits, np.array([0, 1]), OBJECTIVE)
    assert loss == pytest.approx(losses.mean())
    labels = replace(OBJECTIVE, target=Target("labels", size=3), loss="bce")
    y = np.array([[1, 0, 1], [0, 1, 0]])
    by_hand = np.mean(np.log1p(np.exp(logits)) - logits * y)
    assert evaluate.log_loss(logits, y, labels) == pytest.approx(by_hand)


# A process of its own: after a failed allocation, as other tests make, glibc gives a
# thread another arena, which returns freed memory at once.
FREED_MEMORY = """
import resource

import psutil
import torch

from orca_ray.training import numerics


def allocate_gradients():
    [torch.ones(2**20) for _ in range(90)]  # 360 MiB in all, 92,160 pages


numerics.keep_freed_memory()
allocate_gradients()
faults = []
for _ in range(5):  # a system that runs short of memory may take some pages meanwhile
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    allocate_gradients()
    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
assert min(faults) < 10_000, faults
kept = psutil.Process().memory_info().rss
numerics.return_freed_memory()
returned = kept - psutil.Process().memory_info().rss
assert returned > 300 * 2**20
"""


def test_freed_memory_stays_with_the_process() -> None:
    subprocess.run([sys.executable, "-c", FREED_MEMORY], check=True)


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
    """Curve, weights and dropout are the same bit for bit in a fresh model."""
    config = RefineConfig(
        epochs=2, learning_rate=1e-2, optimizer=optimizer, dropout=0.3, batch_size=8
    )
    uninterrupted_model = toy_model(dropout=0.3)
    uninterrupted = make_refine(uninterrupted_model, config)
    first_epoch = without_durations(uninterrupted.step())
    second_epoch = without_durations(uninterrupted.step())
    expected = [first_epoch, second_epoch]
    assert first_epoch.loss != second_epoch.loss
    assert uninterrupted.steps_per_epoch == 10
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
    remaining = [without_durations(resumed.step()) for _ in range(2 - num_finished)]
    assert remaining == expected[num_finished:]
    assert same(copy_of(model), copy_of(uninterrupted_model))
    assert resumed.state_dict()["partial"] is None
    uninterrupted.restore_best()
    resumed.restore_best()
    assert resumed.best_epoch == uninterrupted.best_epoch
    assert same(copy_of(model), copy_of(uninterrupted_model))


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


@pytest.mark.parametrize(
    ("dropout", "augmentation"),
    [(0.5, None), (0.0, SHIFT)],
    ids=["dropout", "augmentation"],
)
def test_features_are_not_cached_where_something_is_random(
    dropout: float, augmentation: Augmentation | None
) -> None:
    model = toy_model(dropout)
    config = RefineConfig(epochs=5, batch_size=8, dropout=dropout)
    loop = make_refine(model, config, head_only=True, augmentation=augmentation)
    assert body_calls(model) == 0
    loop.step()
    assert body_calls(model) > loop.steps_per_epoch


@pytest.mark.parametrize(
    ("num_samples", "steps"),
    [
        # 75 samples are 19 batches: two whole steps of 8, and 11 samples more.
        (75, [32, 32]),
        (64, [32, 32]),
        (62, [32, 30]),
        (20, [20]),
    ],
)
def test_batches_that_do_not_fill_a_step_are_dropped_where_that_is_asked(
    num_samples: int, steps: list[int]
) -> None:
    config = RefineConfig(epochs=1, batch_size=4, accumulation=8, last_step="drop")
    loop = make_refine(toy_model(), config, train=toy_split(num_samples))
    assert [len(indices) for indices in loop._step_indices()] == steps
    assert loop.steps_per_epoch == len(steps)
    loop.step()
    assert loop._samples_seen == sum(steps)


def test_validation_in_groups_and_in_evaluation_mode() -> None:
    x = toy_split(30).x
    group = np.arange(30) // 3
    y = toy_split(30).y[group * 3]
    model = toy_model(dropout=0.9)
    validation = Split(x, y, group)
    loop = make_refine(
        model, RefineConfig(epochs=1, dropout=0.9), validation=validation
    )
    validation_score = loop.step().validation_score
    predictions = predictions_of(model.eval(), x)
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
    weight, *_ = model.head.parameters()
    with torch.no_grad():
        weight[0] = torch.inf
    with pytest.raises(NotFiniteError, match="predictions are not finite"):
        predictions_of(model, toy_split(9).x)


def test_evaluation_that_does_not_fit_goes_in_smaller_batches() -> None:
    model = toy_model().eval()
    x = toy_split(20).x
    expected = predictions_of(model, x)
    with limited_memory(model, 5, training=False) as sizes:
        predictions = predictions_of(model, x, batch_size=16)
    assert sizes == [16, 8, 4, 4, 4, 4, 4]
    np.testing.assert_allclose(predictions, expected, rtol=1e-5, atol=1e-6)
    with (
        limited_memory(model, 0, training=False),
        pytest.raises(torch.OutOfMemoryError, match="CUDA"),
    ):
        predictions_of(model, x)


def test_validation_that_does_not_fit_is_halved_once_and_noted() -> None:
    model = toy_model()
    loop = make_refine(model, RefineConfig(epochs=2))
    with limited_memory(model, 30, training=False) as sizes:  # of 100 samples
        loop.step()
        loop.step()
    one_validation = [16] * 6 + [4]
    assert sizes == [64, 32, *one_validation, *one_validation]
    assert loop.notes == [
        "64 samples did not fit the device's memory in evaluation, 16 do"
    ]


def test_failed_allocations_of_torch_and_numpy_are_recognised() -> None:
    with pytest.raises(RuntimeError) as of_torch:
        torch.empty(2**60)
    with pytest.raises(MemoryError) as of_numpy:
        np.empty(2**59)
    assert is_out_of_memory(of_torch.value)
    assert is_out_of_memory(of_numpy.value)


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError(
            "alloc_cpu: DefaultCPUAllocator: can't allocate memory: you tried to"
            " allocate 9 bytes"
        ),
        OSError(12, "Cannot allocate memory"),
        torch.OutOfMemoryError("CUDA out of memory"),
    ],
)
def test_failed_allocations_are_recognised_by_their_text(error: Exception) -> None:
    assert is_out_of_memory(error)


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("shapes differ"),
        OSError(28, "No space left"),
        NotFiniteError("nan"),
        ValueError(),
    ],
)
def test_other_errors_are_no_failed_allocations(error: Exception) -> None:
    assert not is_out_of_memory(error)


def watch(model: CrossModalModel) -> dict[bool, list[Tensor]]:
    """Collect the inputs that the embedder gets, by whether it is training."""
    embedder_inputs: dict[bool, list[Tensor]] = {True: [], False: []}

    def record(embedder: nn.Module, inputs: tuple[Tensor], _: Tensor) -> None:
        (x,) = inputs
        embedder_inputs[embedder.training].append(x.clone())

    model.embedder.register_forward_hook(record)
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
    config = RefineConfig(epochs=1, batch_size=16, **PLAIN)

    def refine(limit: int, most: int = 99) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the training inputs of the embedder, and the final weights."""
        model = toy_model()
        loop = make_refine(model, config, augmentation=SHIFT)
        loop._accumulator.limit = limit
        with limited_memory(model, most, training=True):
            # Only micro-batches that fit reach this hook.
            embedder_inputs = watch(model)
            loop.step()
        return torch.cat(embedder_inputs[True]), copy_of(model)

    expected_inputs, expected = refine(limit=3)
    for inputs, weights in (refine(limit=32), refine(limit=16, most=8)):
        assert torch.equal(inputs, expected_inputs)
        torch.testing.assert_close(weights, expected, rtol=1e-4, atol=1e-6)


def test_augmented_inputs_follow_from_the_seed_and_leave_dropout_alone() -> None:
    def losses(seed: int, augmentation: Augmentation | None = SHIFT) -> list[float]:
        config = RefineConfig(epochs=2, dropout=0.2)
        loop = make_refine(
            toy_model(dropout=0.2), config, augmentation=augmentation, seed=seed
        )
        return [loop.step().loss for _ in range(2)]

    assert losses(0) == losses(0) != losses(1)
    assert losses(0, None) == losses(0, Idle()) != losses(0)
