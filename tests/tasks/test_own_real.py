"""Real data in the formats that users bring become tasks: wine, digits, BasicMotions; and tones."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from orca_ray.data import packages, readers
from orca_ray.data.rows import Array
from orca_ray.data.user import read
from orca_ray.tasks import own
from orca_ray.tasks.inference import infer
from orca_ray.tasks.pocket.tasks import AEON
from orca_ray.tasks.task import Task
from tests.data.user.writers import image, tone

pytestmark = pytest.mark.slow


def wine(path: Path) -> Path:
    from sklearn.datasets import load_wine

    bunch = load_wine(as_frame=True)
    bunch.data.assign(kind=bunch.target_names[bunch.target]).to_csv(path / "wine.csv", index=False)
    (path / "task.yaml").write_text("data: wine.csv\ntarget: kind\nmetric: one_minus_macro_f1\n")
    return path / "task.yaml"


def digits(path: Path) -> Path:
    from sklearn.datasets import load_digits

    for number, (pixels, label) in enumerate(zip(*load_digits(return_X_y=True), strict=True)):
        if number < 300:
            image(path / "digits" / str(label) / f"{number}.png", (pixels.reshape(8, 8) * 15).astype(np.uint8))
    return path / "digits"


def motions(path: Path) -> Path:
    series: list[Array] = []
    labels: list[str] = []
    for part in ("TRAIN", "TEST"):
        member = f"aeon/datasets/data/BasicMotions/BasicMotions_{part}.ts"
        some, of_those = readers.parse_ts(packages.read_member(AEON, member).decode(), member)
        series, labels = series + some, labels + of_those
    np.savez(path / "motions.npz", x=np.stack(series), y=np.array(labels))
    return path / "motions.npz"


def tones(path: Path) -> Path:
    for number in range(60):
        name, hertz = ("low", 300) if number % 2 else ("high", 900)
        tone(path / "tones" / name / f"{number}.wav", hertz, num_samples=3000 + 40 * number)
    return path / "tones"


@pytest.mark.parametrize(
    ("write", "expected"),
    [
        (wine, ("tabular", (1, 13), "classes", (124, 27, 27), "minilm-l6:layers=4")),
        (digits, ("image", (1, 8, 8), "classes", (211, 45, 44), "vit-s14:layers=4")),
        (motions, ("time series", (6, 100), "classes", (56, 12, 12), "minilm-l6:layers=4")),
        (tones, ("audio", (1, 64, 68), "classes", (42, 10, 8), "vit-s14:layers=4")),
    ],
)
def test_real_data_become_tasks(
    write: Callable[[Path], Path], expected: tuple[object, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path)
    monkeypatch.setenv("ORCA_RAY_HOME", str(tmp_path / "home"))
    data = read(path)
    inferred = infer(data)
    task: Task = own.register(inferred, data)
    assert (task.modality, task.input_shape, task.target.kind, task.num_samples, task.body) == expected
    assert (task.metric == "one_minus_macro_f1") == (write is wine), "as its task.yaml says"
    assert not [each for each in inferred.warnings if "few" not in each]
    preprocessing = inferred.preprocessing
    x = np.concatenate([preprocessing.inputs(part) for part in preprocessing.read(inferred_path(path)).batches(50)])
    np.testing.assert_array_equal(x[inferred.splits["test"]], task.prepare().test.x[:])


def inferred_path(path: Path) -> Path:
    return path.with_name("wine.csv") if path.suffix == ".yaml" else path
