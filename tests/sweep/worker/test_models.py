"""Models of a sweep: which are kept, and what their cards say."""

from dataclasses import dataclass
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
from safetensors.numpy import save

from orca_ray.api import as_task
from orca_ray.cli.app import run
from orca_ray.data.prepared import HELD_OUT
from orca_ray.errors import UserError
from orca_ray.methods.recipe import NO_BODY
from orca_ray.methods.trial_trainer import TrialTrainer
from orca_ray.options import KeepModels
from orca_ray.predictor import load
from orca_ray.results.models import StoredModels
from orca_ray.results.record import Record
from orca_ray.results.store import ResultsStore
from orca_ray.sweep.executors.inline import InlineExecutor
from orca_ray.sweep.messages.report import TrialReport
from orca_ray.sweep.plan.trial_spec import TrialSpec
from orca_ray.sweep.run.driver import run_sweep
from orca_ray.sweep.run.events import Event, Message, Summary, TrialStarted
from orca_ray.sweep.worker import models
from orca_ray.sweep.worker.checkpoints import Checkpoints
from orca_ray.sweep.worker.models import (
    OUTPUTS,
    best_of,
    board_of,
    read_outputs,
    write_model,
)
from orca_ray.tasks.metrics import get_metric
from orca_ray.tasks.registry import get_task
from tests.results.factories import make_record
from tests.sweep.real import TEXT, make_tiny_spec, make_tiny_text

SWEEP = (
    TEXT.replace("search_trials: 3", "search_trials: 1")
    .replace("refine.epochs: 3", "refine.epochs: 1")
    .replace("warmup_epochs: 1", "warmup_epochs: 0")
)
TASK = "pocket/wdbc"

pytestmark = pytest.mark.usefixtures("module_home")


def make_confirmed(
    method: str, seed: int, validation: float, test: float = 0.5, trained: int = 12
) -> Record:
    return make_record(
        f"{method}{seed}",
        method=method,
        seed=seed,
        phase="confirm",
        validation_score=validation,
        test_score=test,
        hyperparameters="{}",
        num_trainable=trained,
    )


def test_the_best_model_is_chosen_by_validation_and_the_mean_over_seeds() -> None:
    records = [
        make_confirmed("lucky", 1, 0.1, 0.9),
        make_confirmed("lucky", 2, 0.9, 0.9),
    ]
    records += [
        make_confirmed("steady", 1, 0.3, 0.9),
        make_confirmed("steady", 2, 0.2, 0.9),
        make_confirmed("worse", 1, 0.4, 0.0),
    ]
    best = best_of(records)
    assert best is not None
    assert best.trial_key == "steady2"
    assert best_of([]) is None


def test_the_board_of_a_card_has_the_best_method_first() -> None:
    board = board_of(
        [
            make_confirmed("b", 1, 0.1, 0.4),
            make_confirmed("a", 1, 0.1, 0.2),
            make_confirmed("b", 2, 0.1, 0.6),
        ]
    )
    assert list(board.items()) == [("a", [0.2]), ("b", [0.4, 0.6])]


@dataclass(frozen=True)
class Swept:
    """A sweep that has run and kept its best model."""

    directory: Path
    """Directory of the body."""
    store: Path
    summary: Summary


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> Swept:
    directory = tmp_path_factory.mktemp("swept")
    store = directory / "results"
    summary = run_sweep(
        make_tiny_spec(directory, SWEEP),
        str(store),
        executor=InlineExecutor(),
        keep_models=KeepModels.BEST,
        command="orca-sweep run tiny.yaml",
    )
    return Swept(directory, store, summary)


@pytest.mark.slow
def test_the_best_model_of_a_task_stays_and_predicts(swept: Swept) -> None:
    best = best_of(ResultsStore(swept.store).select({"phase": ["confirm"]}))
    assert best is not None
    folder = swept.store / "models" / best.trial_key
    assert swept.summary.models == {TASK: str(folder)}
    assert not swept.summary.missing_models
    assert list((swept.store / "models").iterdir()) == [folder]
    model = load(folder, device="cpu")
    test = get_task(TASK).prepare().test
    score = model.evaluate(test.x, test.y)[model.task.metric]
    assert score == pytest.approx(best.test_score, abs=1e-9)
    card = (folder / "README.md").read_text()
    for part in (
        "| orca |",
        "| nft |",
        "2 seeds |",
        "orca-sweep run tiny.yaml",
        best.data_fingerprint,
        "of tiny/full",
    ):
        assert part in card


@pytest.mark.slow
def test_cards_are_complete_after_an_interruption_and_checkpoints_are_named(
    swept: Swept, tmp_path: Path
) -> None:
    store = tmp_path / "my results"
    started_keys: list[str] = []
    messages: list[str] = []

    def interrupt(event: Event) -> None:
        if isinstance(event, Message):
            messages.append(event.text)
        elif isinstance(event, TrialStarted) and event.phase == "confirm":
            started_keys.append(event.trial_key)
            if len(started_keys) == 2:
                key = "f" * 20
                Checkpoints(store).save(key, TrialReport(), lambda path: path.touch())
                raise KeyboardInterrupt

    summary = run_sweep(
        make_tiny_spec(swept.directory, SWEEP),
        str(store),
        executor=InlineExecutor(),
        keep_models=KeepModels.BEST,
        listener=interrupt,
        command="orca-sweep run tiny.yaml",
    )
    assert summary.interrupted
    assert not summary.time_over
    assert summary.models == {}
    card = (store / "models" / started_keys[0] / "README.md").read_text()
    assert "orca-sweep run tiny.yaml" in card
    assert "1 seed |" in card
    assert messages[-1].startswith(
        "1 checkpoints stay until the same command continues"
    )
    assert messages[-1].endswith(f"delete 0 MB: rm -r '{store}/checkpoints'")


@pytest.mark.slow
def test_a_finished_sweep_says_which_models_are_missing_and_how_to_make_them(
    swept: Swept,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    file = tmp_path / "tiny.yaml"
    file.write_text(make_tiny_text(swept.directory, SWEEP))
    results = ["--results", str(swept.store)]
    command = ["run", str(file), "--executor", "inline", *results]
    assert run([*command, "--keep-models", "best"]) == 0
    line = f"model of {TASK}: {swept.summary.models[TASK]}"
    assert line in capsys.readouterr().out
    assert run([*command, "--keep-models", "all"]) == 0
    printed = capsys.readouterr().out
    models_of_store = StoredModels(swept.store)
    records = ResultsStore(swept.store).select({"phase": ["confirm"]})
    missing_keys = [
        record.trial_key
        for record in records
        if not models_of_store.has(record.trial_key)
    ]
    assert len(missing_keys) == 3
    for key in missing_keys:
        assert f"reproduce {key} --keep-model DIR --results {swept.store}" in printed

    key = missing_keys[0]
    folder = tmp_path / "model"
    run(["reproduce", key, "--keep-model", str(folder), *results])
    assert str(folder) in capsys.readouterr().err
    assert load(folder, device="cpu").config.trial == key
    other = tmp_path / "other"
    other.mkdir()
    (other / "thesis").touch()
    assert run(["reproduce", key, "--keep-model", str(other), *results]) == 2
    assert "is no model folder" in capsys.readouterr().err


@pytest.mark.slow
def test_a_model_that_cannot_be_stored_fails_no_trial(
    swept: Swept, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    full_disk = Mock(side_effect=OSError(28, "No space left on device"))
    monkeypatch.setattr(models, "write_folder", full_disk)
    summary = run_sweep(
        make_tiny_spec(swept.directory, SWEEP),
        str(tmp_path / "results"),
        executor=InlineExecutor(),
        keep_models=KeepModels.ALL,
    )
    assert not summary.failed
    assert len(summary.missing_models) == 4
    assert not summary.models


@pytest.mark.parametrize("method", ["cnn", "fno", "unet"])
def test_stored_outputs_of_two_channels_are_those_that_were_scored(
    method: str, tmp_path: Path
) -> None:
    x_NCHW = np.random.default_rng(0).normal(size=(40, 2, 8, 8)).astype("f4")
    y_NCHW = np.stack([3 + x_NCHW[:, 0], 50 - x_NCHW[:, 1]], axis=1)
    task = as_task((x_NCHW, y_NCHW), {"name": "flow"})
    data = task.prepare()
    values = {"refine.epochs": 2, "refine.batch_size": 8}
    trainer = TrialTrainer(task, data, method, NO_BODY, values, 0, test=True)
    while not trainer.done:
        trainer.step()
    trial = TrialSpec(
        task=task.name,
        method=method,
        body=NO_BODY,
        hyperparameters=values,
        seed=0,
        protocol=HELD_OUT,
        data_fingerprint=data.fingerprint,
        phase="confirm",
        epochs=2,
    )

    write_model(trainer, tmp_path / "model", trial)

    outputs = read_outputs((tmp_path / "model" / OUTPUTS).read_bytes())["validation"]
    np.testing.assert_array_equal(outputs, trainer.outputs("validation"))
    score = get_metric(task.metric).compute(outputs, data.validation.y)
    assert score == pytest.approx(trainer.result().validation_score)


def test_outputs_of_several_channels_by_an_earlier_version_are_refused() -> None:
    fields = np.zeros((3, 2, 4, 4), np.float32)
    with pytest.raises(UserError, match="adapt again with another --results"):
        read_outputs(save({"validation": fields}))
    for array in (fields[:, :1], fields[:, 0], fields[:, 0, 0]):
        stored = read_outputs(save({"validation": np.ascontiguousarray(array)}))
        assert stored["validation"].shape == array.shape
