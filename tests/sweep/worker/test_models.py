"""Models of a sweep: which stay, what their cards say, and how one that is missing is
made.
"""

from pathlib import Path

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

SWEEP = TEXT.replace("search_trials: 3", "search_trials: 1").replace(
    "refine.epochs: 3", "refine.epochs: 1"
)
SWEEP = SWEEP.replace("warmup_epochs: 1", "warmup_epochs: 0")
TASK = "pocket/wdbc"

pytestmark = pytest.mark.usefixtures("module_home")


def confirmed(
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
    records = [confirmed("lucky", 1, 0.1, 0.9), confirmed("lucky", 2, 0.9, 0.9)]
    records += [
        confirmed("steady", 1, 0.3, 0.9),
        confirmed("steady", 2, 0.2, 0.9),
        confirmed("worse", 1, 0.4, 0.0),
    ]
    best = best_of(records)
    assert best is not None
    assert best.trial_key == "steady2"
    assert best_of([]) is None


def test_the_board_of_a_card_has_the_best_method_first() -> None:
    board = board_of(
        [
            confirmed("b", 1, 0.1, 0.4),
            confirmed("a", 1, 0.1, 0.2),
            confirmed("b", 2, 0.1, 0.6),
        ]
    )
    assert list(board.items()) == [("a", [0.2]), ("b", [0.4, 0.6])]


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Summary]:
    """Return the directory of the body, the store, and the summary of a sweep that kept
    its best model.
    """
    directory = tmp_path_factory.mktemp("swept")
    summary = run_sweep(
        make_tiny_spec(directory, SWEEP),
        str(directory / "results"),
        executor=InlineExecutor(),
        keep_models=KeepModels.BEST,
        command="orca-sweep run tiny.yaml",
    )
    return directory, directory / "results", summary


@pytest.mark.slow
def test_the_best_model_of_a_task_stays_and_predicts(
    swept: tuple[Path, Path, Summary],
) -> None:
    _, store, summary = swept
    best = best_of(ResultsStore(store).select({"phase": ["confirm"]}))
    assert best is not None
    assert summary.models == {TASK: str(store / "models" / best.trial_key)}
    assert not summary.missing_models
    assert [path.name for path in (store / "models").iterdir()] == [best.trial_key]
    model = load(store / "models" / best.trial_key, device="cpu")
    test = get_task(TASK).prepare().test
    assert model.evaluate(test.x, test.y)[model.task.metric] == pytest.approx(
        best.test_score, abs=1e-9
    )
    card = (store / "models" / best.trial_key / "README.md").read_text()
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
    swept: tuple[Path, Path, Summary], tmp_path: Path
) -> None:
    store = tmp_path / "my results"
    confirms: list[str] = []
    messages: list[str] = []

    def interrupt(event: Event) -> None:
        if isinstance(event, Message):
            messages.append(event.text)
        elif isinstance(event, TrialStarted) and event.phase == "confirm":
            confirms.append(event.trial_key)
            if len(confirms) == 2:
                Checkpoints(store).save(
                    "f" * 20, TrialReport(), lambda path: path.touch()
                )
                raise KeyboardInterrupt

    summary = run_sweep(
        make_tiny_spec(swept[0], SWEEP),
        str(store),
        executor=InlineExecutor(),
        keep_models=KeepModels.BEST,
        listener=interrupt,
        command="orca-sweep run tiny.yaml",
    )
    assert summary.interrupted is True
    assert summary.time_over is False
    assert summary.models == {}
    card = (store / "models" / confirms[0] / "README.md").read_text()
    assert "orca-sweep run tiny.yaml" in card
    assert "1 seed |" in card
    assert messages[-1].startswith(
        "1 checkpoints stay until the same command continues"
    )
    assert messages[-1].endswith(f"delete 0 MB: rm -r '{store}/checkpoints'")


@pytest.mark.slow
def test_a_finished_sweep_says_which_models_are_missing_and_how_to_make_them(
    swept: tuple[Path, Path, Summary],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    directory, store, first = swept
    (tmp_path / "tiny.yaml").write_text(make_tiny_text(directory, SWEEP))
    command = [
        "run",
        str(tmp_path / "tiny.yaml"),
        "--executor",
        "inline",
        "--results",
        str(store),
    ]
    assert run([*command, "--keep-models", "best"]) == 0
    assert f"model of {TASK}: {first.models[TASK]}" in capsys.readouterr().out
    assert run([*command, "--keep-models", "all"]) == 0
    said = capsys.readouterr().out
    records = ResultsStore(store).select({"phase": ["confirm"]})
    missing = [each for each in records if not StoredModels(store).has(each.trial_key)]
    assert len(missing) == 3
    for each in missing:
        assert f"reproduce {each.trial_key} --keep-model DIR --results {store}" in said
    folder = tmp_path / "model"
    run(
        [
            "reproduce",
            missing[0].trial_key,
            "--keep-model",
            str(folder),
            "--results",
            str(store),
        ]
    )
    assert str(folder) in capsys.readouterr().err
    assert load(folder, device="cpu").config.trial == missing[0].trial_key
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis").touch()
    given = [
        "reproduce",
        missing[0].trial_key,
        "--keep-model",
        str(tmp_path / "other"),
        "--results",
        str(store),
    ]
    assert run(given) == 2
    assert "is no model folder" in capsys.readouterr().err


@pytest.mark.slow
def test_a_model_that_cannot_be_stored_fails_no_trial(
    swept: tuple[Path, Path, Summary], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*given: object, **named: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(models, "write_folder", fails)
    summary = run_sweep(
        make_tiny_spec(swept[0], SWEEP),
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
