"""The refine loop: accumulation, clipping, selection, freezing, caching, exact resume,
and augmented inputs.
"""

import copy
import resource
from contextlib import nullcontext
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


def curve(epoch: RefineEpoch) -> tuple[int, float, float, float]:
    return epoch.epoch, epoch.loss, epoch.validation_score, epoch.learning_rate


PLAIN: dict[str, Any] = {
    "optimizer": "sgd",
    "momentum": 0.0,
    "weight_decay": 0.0,
    "clip": 0.0,
    "schedule": "constant",
}


@pytest.mark.parametrize("num_samples", [32, 75])
def test_accumulation_is_the_large_batch(num_samples: int) -> None:
    """8 passes of 4 take the same steps as one of 32, also where the last batch and the
    last pass are short.
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
        assert loop.steps_per_epoch == -(-num_samples // 32)
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
    moved = torch.cat(
        [(value - before[name]).flatten() for name, value in model.state_dict().items()]
    )
    assert float(moved.norm()) == pytest.approx(0.5 * 1e-3, rel=1e-3)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"batch_size": 25, "warmup_epochs": 1}, [1.0, 7 / 9, 4 / 9, 1 / 9]),
        (
            {"batch_size": 75, "warmup_epochs": 0, "decay_epochs": 10},
            [1.0, 0.9, 0.8, 0.7],
        ),  # ends after the last epoch
    ],
)
def test_learning_rate_follows_the_schedule(
    options: dict[str, Any], expected: list[float]
) -> None:
    loop = make_refine(
        toy_model(), RefineConfig(epochs=4, learning_rate=1.0, clip=0.0, **options)
    )
    assert [loop.step().learning_rate for _ in range(4)] == pytest.approx(expected)


def test_only_the_given_parameters_train() -> None:
    models = [toy_model(), toy_model()]
    before = copy_of(models[0])
    make_refine(
        models[0],
        RefineConfig(epochs=1, learning_rate=0.1, body_learning_rate_scale=0.0),
    ).step()
    make_refine(
        models[1], RefineConfig(epochs=1, learning_rate=0.1), head_only=True
    ).step()
    moved = [
        {name.split(".")[0] for name in changed(before, copy_of(model))}
        for model in models
    ]
    assert moved == [{"embedder", "head"}, {"head"}]
    assert not any(parameter.requires_grad for parameter in models[1].body.parameters())
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
    loop = make_refine(
        model := toy_model(), RefineConfig(epochs=3, keep="last"), objective=objective
    )
    while not loop.done:
        loop.step()
    last = copy_of(model)
    loop.restore_best()
    assert same(copy_of(model), last)
    assert (loop.best_epoch, loop.best_score) == (
        2,
        0.2,
    ), "the score is that of the weights"


def test_label_smoothing_is_that_of_torch() -> None:
    logits = torch.randn(6, 3, generator=torch.Generator().manual_seed(0))
    y = torch.arange(6) % 3
    loss = OBJECTIVE.training_loss(y.numpy(), torch.device("cpu"), 0.1)
    torch.testing.assert_close(
        loss(logits, y),
        torch.nn.functional.cross_entropy(logits, y, label_smoothing=0.1),
    )


def test_the_log_loss_of_classes_and_labels_by_hand() -> None:
    logits = np.array([[2.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    by_hand = np.mean(
        [
            np.log(np.exp(row).sum()) - row[k]
            for row, k in zip(logits, (0, 1), strict=True)
        ]
    )
    assert evaluate.log_loss(logits, np.array([0, 1]), OBJECTIVE) == pytest.approx(
        by_hand
    )
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


@pytest.mark.parametrize(
    # An epoch has 10 steps, and `on_step` is called after each but the last.
    ("optimizer", "interrupted_after"),
    [("adamw", 0), ("adam", 9), ("adamw", 1), ("sgd", 12), ("adamw", 18)],
)
def test_resume_is_exact(
    optimizer: str, interrupted_after: int, tmp_path: Path
) -> None:
    """Resumed from disk in a fresh model between any two steps: the same curve and
    weights bit for bit, and dropout.
    """
    config = RefineConfig(
        epochs=2, learning_rate=1e-2, optimizer=optimizer, dropout=0.3, batch_size=8
    )
    whole_model = toy_model(dropout=0.3)
    whole = make_refine(whole_model, config)
    expected = [curve(whole.step()) for _ in range(2)]
    assert expected[0][1] != expected[1][1]
    assert whole.steps_per_epoch == 10
    done = 0

    def save() -> None:
        nonlocal done
        done += 1
        if done == interrupted_after:
            tensor_cache.save(tmp_path / "state", first.state_dict())
            raise Killed

    first = make_refine(toy_model(dropout=0.3), config, on_step=save)
    tensor_cache.save(tmp_path / "state", first.state_dict())
    with pytest.raises(Killed) if interrupted_after else nullcontext():
        for _ in range(2 if interrupted_after else 0):
            first.step()
    torch.rand(7)  # the process does something else meanwhile
    model = toy_model(dropout=0.3, seed=99)
    resumed = make_refine(model, config)
    state = tensor_cache.load(tmp_path / "state")
    assert state is not None
    resumed.load_state_dict(state)
    finished = max(0, interrupted_after - 1) // 9
    assert resumed.epoch == finished
    assert [curve(resumed.step()) for _ in range(2 - finished)] == expected[finished:]
    assert same(copy_of(model), copy_of(whole_model))
    assert resumed.state_dict()["partial"] is None
    whole.restore_best()
    resumed.restore_best()
    assert resumed.best_epoch == whole.best_epoch
    assert same(copy_of(model), copy_of(whole_model))


def body_calls(model: CrossModalModel) -> int:
    return int(model.body.num_calls)  # type: ignore[arg-type]


def test_cached_features_give_the_uncached_result_where_nothing_is_random(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = RefineConfig(epochs=5, learning_rate=1e-2, batch_size=8)
    cached_model = toy_model()
    cached = make_refine(cached_model, config, head_only=True)
    cached_curve = [curve(cached.step())]
    calls = body_calls(cached_model)
    cached_curve += [curve(cached.step()) for _ in range(4)]
    assert body_calls(cached_model) == calls > 0  # the body ran in the first epoch only

    monkeypatch.setattr(evaluate, "CACHE_BYTES", 0)
    model = toy_model()
    uncached = make_refine(model, config, head_only=True)
    uncached_curve = [curve(uncached.step()) for _ in range(5)]
    assert body_calls(model) > 5 * uncached.steps_per_epoch
    np.testing.assert_allclose(cached_curve, uncached_curve, rtol=1e-6)

    for model, augmentation in (
        (toy_model(dropout=0.5), None),
        (toy_model(), SHIFT),
    ):  # which rule the cache out
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
    validated = loop.step().validation_score
    predictions = predictions_of(model.eval(), whole.x)
    assert validated == pytest.approx(
        float((predictions.reshape(10, 3, -1).mean(1).argmax(1) != y[::3]).mean())
    )
    model.train()
    np.testing.assert_array_equal(loop.predict(validation), predictions)


def test_the_loss_of_an_epoch_is_the_mean_over_its_samples() -> None:
    data = toy_split(20)
    model = toy_model()
    logits = torch.from_numpy(predictions_of(model.eval(), data.x))
    losses = torch.nn.functional.cross_entropy(logits, torch.from_numpy(data.y))
    loop = make_refine(
        model,
        RefineConfig(epochs=1, learning_rate=1e-12, batch_size=7, dropout=0.0),
        train=data,
    )
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
    assert sizes == [64, 32, *([16] * 6 + [4]) * 2]
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
    """Collect the inputs that the embedder is given, by whether it is training."""
    seen: dict[bool, list[Tensor]] = {True: [], False: []}
    model.embedder.register_forward_hook(
        lambda module, inputs, _: seen[module.training].append(inputs[0].clone())
    )
    return seen


def test_every_epoch_draws_anew_and_only_training_sees_it() -> None:
    model = toy_model()
    train = toy_split(75)
    validation = toy_split(30, 1)
    config = RefineConfig(epochs=2, batch_size=75)
    loop = make_refine(model, config, train, validation, augmentation=SHIFT)
    _ = loop.micro_batch  # measuring the cost shows the model some samples
    seen = watch(model)
    loop.step()
    loop.step()
    loop.predict(validation)
    assert torch.equal(
        torch.cat(seen[False]), torch.from_numpy(np.concatenate([validation.x[:]] * 3))
    )
    # A shift leaves the differences within a sample, which tell who is who.
    samples = [
        torch.from_numpy(train.x[:]),
        *torch.cat(seen[True]).view(2, *train.x.shape),
    ]
    plain, *shifted = (each[each.diff()[:, 0, 0].argsort(), 0] for each in samples)
    shifts = [each - plain for each in shifted]
    for shift in shifts:
        torch.testing.assert_close(shift, shift[:, :1].expand(-1, 8), rtol=0, atol=1e-5)
        assert 0.7 < float(shift[:, 0].std()) < 1.3
    assert abs(np.corrcoef(shifts[0][:, 0], shifts[1][:, 0])[0, 1]) < 0.3


def test_what_a_sample_looks_like_does_not_depend_on_the_micro_batch_nor_on_memory() -> (
    None
):
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
            seen = watch(model)  # only micro-batches that fit reach this hook
            loop.step()
        inputs.append(torch.cat(seen[True]))
        weights.append(copy_of(model))
    for number in (1, 2):
        assert torch.equal(inputs[0], inputs[number])
        for name, value in weights[0].items():
            torch.testing.assert_close(
                weights[number][name], value, rtol=1e-4, atol=1e-6
            )


def test_augmented_inputs_follow_from_the_seed_and_leave_the_numbers_of_dropout() -> (
    None
):
    def losses(seed: int, augmentation: Augmentation | None = SHIFT) -> list[float]:
        config = RefineConfig(epochs=2, dropout=0.2)
        loop = make_refine(
            toy_model(dropout=0.2), config, augmentation=augmentation, seed=seed
        )
        return [loop.step().loss for _ in range(2)]

    assert losses(0) == losses(0) != losses(1)
    assert losses(0, None) == losses(0, Idle()) != losses(0)
