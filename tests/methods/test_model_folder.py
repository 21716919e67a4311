"""Model folders: what they hold, and which are refused."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Collection
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from orca_ray.data import cache
from orca_ray.errors import UserError
from orca_ray.methods import model_config
from orca_ray.methods.model_card import make_card, write_card
from orca_ray.methods.model_config import BodySummary, ModelConfig, config_text
from orca_ray.methods.model_folder import read_config, read_preprocessing, write_folder
from orca_ray.methods.registry import all_methods
from orca_ray.methods.snapshot import Snapshot, read_weights, rebuild
from orca_ray.models import weights as loader
from orca_ray.testing.trials import QUICK, run, start
from tests.methods.forged_folders import ModelFolderSuite
from tests.training.training_toys import same

SHORT = {**QUICK, "refine.epochs": 1}


@pytest.fixture(scope="module")
def snapshot(bert: str) -> Snapshot:
    trainer = start(bert, "nft", hyperparameters=SHORT)
    run(trainer)
    return trainer.snapshot()


@pytest.fixture
def folder(snapshot: Snapshot, tmp_path: Path) -> Path:
    write_folder(
        tmp_path / "model",
        snapshot.config,
        snapshot.weights,
        card="a card",
        preprocessing={"kind": "table"},
    )
    return tmp_path / "model"


def edit(
    folder: Path, change: Callable[[dict[str, Any]], object], *, sign: bool = False
) -> None:
    """Change ``config.json``; with ``sign``, write its hash anew."""
    path = folder / "config.json"
    values = json.loads(path.read_text())
    change(values)
    if sign:
        del values["sha256"]
        values["sha256"] = model_config.signature(values)
    path.write_text(json.dumps(values))


def test_what_is_written_is_read(snapshot: Snapshot, folder: Path) -> None:
    config = read_config(folder)
    names = {"model.safetensors", "preprocessing.json", "README.md"}
    assert config.files.keys() == names
    assert {file.name for file in folder.iterdir()} == names | {"config.json"}
    starts_of_pickles = (b"\x80", b"PK")
    for file in folder.iterdir():
        assert not file.read_bytes().startswith(starts_of_pickles)
    assert {**vars(config), "files": {}} == vars(snapshot.config)
    assert read_preprocessing(folder, config) == {"kind": "table"}
    weights = read_weights(folder)
    assert same(weights, dict(snapshot.weights))
    assert not rebuild(config, weights).training


def test_a_folder_is_replaced_but_not_its_other_files(
    snapshot: Snapshot, folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (folder / "notes.txt").write_text("mine")
    write_folder(folder, snapshot.config, snapshot.weights, card="another")
    assert read_preprocessing(folder, read_config(folder)) is None
    assert not (folder / "preprocessing.json").exists()
    assert (folder / "notes.txt").read_text() == "mine"
    assert not caplog.text
    (folder / "README.md").write_text("my own words")
    read_config(folder)
    assert "not the model card" in caplog.text
    with pytest.raises(UserError, match="has files and is no model folder"):
        write_folder(tmp_path, snapshot.config, snapshot.weights, card="")
    with pytest.raises(UserError, match="is a file"):
        write_folder(folder / "notes.txt", snapshot.config, snapshot.weights, card="")


def test_an_interrupted_write_leaves_no_model(
    snapshot: Snapshot, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(source: Path, target: Path) -> None:
        raise OSError(28, "No space left on device", str(target))

    monkeypatch.setattr(cache, "replace_file", fails)
    with pytest.raises((UserError, OSError)):
        write_folder(folder, snapshot.config, snapshot.weights, card="")
    with pytest.raises(UserError, match=r"has no config\.json"):
        read_config(folder)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            lambda f: (f / "model.safetensors").unlink(),
            r"has no model\.safetensors, which its config\.json lists",
        ),
        (
            lambda f: (f / "preprocessing.json").write_text("{}"),
            r"preprocessing\.json was changed",
        ),
        (
            lambda f: (f / "model.safetensors").open("ab").write(b"x"),
            r"model\.safetensors was changed",
        ),
        (
            lambda f: (f / "config.json").unlink(),
            "is no model folder, as it has no config.json",
        ),
        (lambda f: (f / "config.json").write_text("nonsense"), "expected JSON"),
        (
            lambda f: (f / "config.json").write_text('{"model_type": "bert"}'),
            "was not written by orca-ray",
        ),
        (
            lambda f: edit(f, lambda v: v.update(seed=5)),
            r"config\.json was changed since it was written",
        ),
        (
            lambda f: edit(f, lambda v: v.update(format=2, orca_ray="9.0"), sign=True),
            "format 2, of orca-ray '9.0'",
        ),
        (
            lambda f: edit(f, lambda v: v.update(seed="x"), sign=True),
            "seed: Input should be a valid integer",
        ),
        (lambda f: edit(f, lambda v: v.update(code="x"), sign=True), "code: "),
        (
            lambda f: edit(f, lambda v: v["files"].update({"../x": "0"}), sign=True),
            "lists files that a model folder",
        ),
        (
            lambda f: edit(f, lambda v: v["files"].pop("model.safetensors"), sign=True),
            "lists no model",
        ),
    ],
)
def test_damage_is_named(
    folder: Path, damage: Callable[[Path], object], message: str
) -> None:
    damage(folder)
    with pytest.raises(UserError, match=message):
        read_config(folder)


def test_a_path_that_is_no_directory_is_refused(folder: Path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        read_config(folder / "nowhere")
    with pytest.raises(UserError, match="is no directory"):
        read_config(folder / "README.md")


def test_weights_must_be_exactly_those_of_the_network(
    snapshot: Snapshot, folder: Path
) -> None:
    name = "head.output.weight"
    not_finite = snapshot.weights[name].clone()
    not_finite.view(-1)[-1] = torch.nan
    without_head = dict(snapshot.weights)
    del without_head[name]

    def assert_refused(weights: dict[str, Tensor], message: str) -> None:
        with pytest.raises(UserError, match=message):
            rebuild(snapshot.config, weights)

    assert_refused(without_head, f"{name} is missing")
    assert_refused(
        {**snapshot.weights, name: not_finite}, f"the weights {name} are not finite"
    )
    assert_refused(
        {**snapshot.weights, "extra": torch.zeros(1)},
        "extra is not part of the network",
    )
    assert_refused(
        {**snapshot.weights, name: torch.zeros(2, 2)},
        rf"{name} is torch.float32 \(2, 2\), expected",
    )
    (folder / "model.safetensors").write_bytes(b"no tensors")
    with pytest.raises(UserError, match="cannot read the weights"):
        read_weights(folder)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"model_type": "nonsense"}, "cannot build body"),
        (
            {"auto_map": {"AutoModel": "evil.Model"}},
            "comes with Python code of its own",
        ),
        ({"num_hidden_layers": 10**6}, "declares 1000000 layers"),
        ({"hidden_size": 10**7, "num_attention_heads": 1}, "larger than the weights"),
        ({"hidden_size": 17}, "cannot build body"),
    ],
)
def test_a_strangers_body_is_refused(
    snapshot: Snapshot, values: dict[str, object], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        rebuild(with_body(snapshot, values), snapshot.weights)


def test_a_shallow_body_with_many_words_is_rebuilt(snapshot: Snapshot) -> None:
    """Its word embedding, which an embedder replaces, may exceed the other weights."""
    assert rebuild(with_body(snapshot, {"vocab_size": 10**6}), snapshot.weights)


def with_body(snapshot: Snapshot, values: dict[str, object]) -> ModelConfig:
    config = json.loads(config_text(snapshot.config))
    config["body"]["values"].update(values)
    del config["sha256"]
    text = json.dumps({**config, "sha256": model_config.signature(config)}).encode()
    return model_config.parse_config(text, "config.json")


def test_lora_holds_no_weights_of_its_body_and_checks_it(
    bert: str, tmp_path: Path
) -> None:
    body = tmp_path / "body"
    shutil.copytree(bert, body)
    trainer = start(str(body), "lora", hyperparameters=SHORT)
    run(trainer)
    snapshot = trainer.snapshot()
    of_body = [name for name in snapshot.weights if name.startswith("body.")]
    assert of_body
    assert all("lora_" in name for name in of_body)
    assert rebuild(snapshot.config, snapshot.weights)

    def assert_refused(message: str) -> None:
        for loaded_bodies in loader._cached_bodies.values():
            loaded_bodies.clear()
        with pytest.raises(UserError, match=message):
            rebuild(snapshot.config, snapshot.weights)

    weights = load_file(body / "model.safetensors")
    for name in weights:
        if name.endswith("query.weight"):
            weights[name] += 0.01
    save_file(weights, body / "model.safetensors", metadata={"format": "pt"})
    assert_refused("on this machine is not the one that the model was trained with")
    shutil.rmtree(body)
    assert_refused("holds no weights of its body, as lora leaves them")


def test_the_card_shows_data_scores_and_command(
    snapshot: Snapshot, folder: Path
) -> None:
    board = {"nft": (0.1, 0.2, 0.3), "cnn": (0.4,)}
    config = replace(read_config(folder), command="orca-sweep benchmark tiny")
    card, described = write_card(config, board)
    (folder / "README.md").write_text(card)
    (folder / "config.json").write_text(described)
    assert replace(read_config(folder), files=config.files) == config
    for text in (
        "tiny/classes",
        "0000000000000000",
        "| nft | 0.2 [-0.04841, 0.4484], 3 seeds |",
        "| cnn | 0.4, 1 seed |",
        "orca-sweep benchmark tiny",
        "## Licences",
        "## Limits",
        "on validation data",
    ):
        assert text in card
    assert "dog, cat, bird" in make_card(config, label_names=("dog", "cat", "bird"))


def adapted_config(config: ModelConfig) -> ModelConfig:
    """Return the config of an ensemble that an adaptation made, with its report."""
    standing = {
        "method": "a|b",
        "score": 0.2,
        "low": 0.1,
        "high": 0.3,
        "num_folds": 5,
        "seconds": 1.234,
    }
    report: dict[str, Any] = {
        "verdict": "it pays",
        "score": 0.15,
        "low": 0.125,
        "high": 0.2,
        "num_samples": 90,
        "num_folds": 5,
        "baseline": "a|b",
        "out_of_fold": 0.14,
        "holdout": 0.25,
        "num_holdout": 30,
        "standings": [standing],
        "size_mb": 1.5,
        "latency_ms": 2.5,
        "warnings": ["two\nlines"],
    }
    trees = replace(config, method="gradient_boosting", body=BodySummary(name="none"))
    return replace(
        config,
        members=(config, trees),
        member_weights=(0.5, 0.5),
        temperature=2.0,
        report=report,
    )


def test_the_card_of_an_adaptation_shows_its_report(snapshot: Snapshot) -> None:
    card = make_card(adapted_config(snapshot.config))
    for text in (
        ", by an ensemble\n",
        "The average of 2 networks",
        "1 of gradient_boosting",
        "- it pays\n",
        "- Score 0.15 [0.125, 0.2], with its 90 %",
        "- 0.14 on 90 samples",
        "(5 folds)",
        "- 0.25 on 30 samples that no",
        "- Best baseline: a|b, 0.2 [0.1, 0.3].",
        "- 1.5 MB; 2.5 ms",
        "| a b | 0.2 [0.1, 0.3] | 5 | 1.23 |",
        "- two\\nlines\n",
        "pip install '.[predict]'",
        "logits are divided by 2.",
        "; no pretrained weights",
    ):
        assert text in card
    assert "on validation data" not in card


@pytest.mark.parametrize(
    ("name", "value"),
    [("score", "x"), ("standings", 3), ("warnings", None), ("holdout", {})],
)
def test_a_report_of_other_types_is_left_out_of_the_card(
    snapshot: Snapshot, name: str, value: object
) -> None:
    config = adapted_config(snapshot.config)
    report = {**config.report, name: value}
    card = make_card(replace(snapshot.config, report=report))
    assert "on validation data" in card


@pytest.mark.slow
class TestForgedFolders(ModelFolderSuite):
    names = all_methods()
    forgeries = 40

    def marks(
        self, test: str, case: tuple[str, ...], number: int
    ) -> Collection[pytest.MarkDecorator]:
        method, *_ = case
        if method in ("gradient_boosting", "nft"):
            return ()
        return (pytest.mark.exhaustive,)


def test_a_description_larger_than_its_weights_is_refused_before_it_takes_memory(
    snapshot: Snapshot,
) -> None:
    values = {**snapshot.config.hyperparameters, "embedder.sequence_length": 1}
    task = replace(snapshot.config.task, input_shape=(2, 2**23))
    config = replace(
        snapshot.config,
        task=task,
        hyperparameters=values,
        input_mean=None,
        input_deviation=None,
    )
    with pytest.raises(UserError, match="larger than the weights of the folder"):
        rebuild(config, snapshot.weights)


_LARGE_INPUTS = """
import sys
from dataclasses import replace
from pathlib import Path

from orca_ray.errors import UserError
from orca_ray.methods.model_folder import read_config
from orca_ray.methods.snapshot import read_weights, rebuild

folder, *sides = sys.argv[1:]
config = read_config(Path(folder))
task = replace(config.task, input_shape=(1, *map(int, sides)))
config = replace(config, task=task, input_mean=None, input_deviation=None)
try:
    rebuild(config, read_weights(Path(folder)))
except UserError as error:
    print(error)
else:
    print("loaded")
# Not `ru_maxrss`, which begins with the memory of the process that started this one.
print(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.parametrize("sides", [(2**27,), (2**22,), (2**11, 2**13)])
def test_a_small_folder_takes_little_memory_for_any_input(
    sides: tuple[int, ...], tmp_path: Path
) -> None:
    folder, _ = ModelFolderSuite.save("forest", tmp_path)
    command = [sys.executable, "-c", _LARGE_INPUTS, str(folder), *map(str, sides)]
    lines = subprocess.run(
        command, capture_output=True, text=True, timeout=300, check=True
    ).stdout.splitlines()
    *outcome, kibibytes = lines
    assert int(kibibytes) < 1.5 * 2**20, outcome
    if sides == (2**22,):
        assert outcome == ["loaded"]
    else:
        assert "task.input_shape" in outcome[0]


def test_a_result_that_is_too_large_is_refused_before_it_takes_memory() -> None:
    x = torch.ones(1000)
    with loader.ResultLimit(2**20):
        assert torch.equal(x.sort().values.exp() - x, x.exp() - x)
        assert x.expand(10**9, 1000)[0].sum() == 1000
        with pytest.raises(loader.TooLargeResult):
            x * x.expand(10**9, 1000)
        with pytest.raises(loader.TooLargeResult):
            torch.zeros(10**12)
