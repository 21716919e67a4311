"""Names, copies, seeds and errors of bodies."""

import json
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import requests
import torch

from orca_ray.data.download import Patience
from orca_ray.errors import UserError
from orca_ray.models import body_files, weights
from orca_ray.models.names import list_bodies, parse_body_name
from orca_ray.models.stems import TextStem
from orca_ray.models.weights import body_modality, load_body
from tests.models.conftest import TinyDirectory

pytestmark = pytest.mark.usefixtures("untouched_random_state", "no_pristine_bodies")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("minilm-l6", ("minilm-l6", None)),
        ("minilm-l6:layers=4", ("minilm-l6", 4)),
        ("timm:vit_tiny_patch16_224", ("timm:vit_tiny_patch16_224", None)),
        ("timm:vit_tiny_patch16_224:layers=12", ("timm:vit_tiny_patch16_224", 12)),
        ("microsoft/swin-tiny:layers=4", ("microsoft/swin-tiny", 4)),
    ],
)
def test_parse_body_name(name: str, expected: tuple[str, int | None]) -> None:
    assert parse_body_name(name) == expected


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("minilm-l6:layers=0", "at least 1, got '0'"),
        ("minilm-l6:layers=x", "at least 1, got 'x'"),
        ("minilm-l6:layers=7", "has 6 layers, 7 were asked for"),
        ("minilm-l6:depth=2", "NAME:layers=N"),
        ("", "cannot read body ''"),
    ],
)
def test_bad_suffixes_are_refused(name: str, message: str) -> None:
    for reader in (parse_body_name, load_body, body_modality):
        with pytest.raises(UserError, match=message):
            reader(name)


@pytest.mark.parametrize("name", ["minilm-l5", "minilm", "MiniLM-L6", "vit-s16", "mpnetbase"])
def test_misspelt_packaged_names_get_the_nearest_without_asking_a_hub(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    monkeypatch.setattr(requests, "head", lambda *given, **options: asked.append(given))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    with pytest.raises(UserError, match=r"Did you mean '(minilm-l6|vit-s14|mpnet-base)'"):
        load_body(name)
    assert not asked


def test_names_that_no_hub_has_are_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    import transformers

    def offline(name: str, **_: object) -> None:
        raise OSError(f"couldn't connect to load {name}\nand more")

    monkeypatch.setattr(transformers.PreTrainedConfig, "get_config_dict", offline)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match=r"(?s)'roberta-bas'.*couldn't connect.*Did you mean 'roberta-base'.*directory"):
        load_body("roberta-bas")
    with pytest.raises(UserError) as caught:
        load_body("roberta-base")
    assert "Did you mean" not in str(caught.value)
    assert "and more" not in str(caught.value)


@pytest.mark.parametrize("name", ["nobody/nothing", "timm:vit_tiny_patch16_224"])
def test_a_hub_that_never_answers_is_left_soon(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(body_files, "_PATIENCE", Patience(first_wait=0.01, connect_seconds=0.1, silence_seconds=0.1))
    monkeypatch.setenv("no_proxy", "*")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
        with pytest.raises(UserError, match=r"no answer came from 127\.0\.0\.1 before the time-out \(2 tries\)"):
            load_body(name)


def test_names_need_neither_torch_nor_transformers() -> None:
    code = (
        "import sys, orca_ray.models.names as names; names.list_bodies(); names.parse_body_name('vit-s14:layers=2');"
        "assert not {'torch', 'transformers', 'timm', 'onnx'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_listed_names_are_unique_and_complete() -> None:
    bodies = list_bodies()
    assert len({body.name for body in bodies}) == len(bodies)
    assert [body.name for body in bodies if body.available == "packaged"] == ["minilm-l6", "vit-s14", "mpnet-base"]
    assert {"roberta-base", "microsoft/swin-base-patch4-window7-224-in22k"} <= {body.name for body in bodies}
    for body in bodies:
        assert body.licence
        assert body.source


@pytest.mark.slow
@pytest.mark.parametrize("name", ["minilm-l6:layers=2", "vit-s14:layers=2"])
def test_random_bodies_follow_their_seed_alone(name: str) -> None:
    pretrained = load_body(name).body.state_dict()
    first = load_body(name, pretrained=False, seed=3)
    torch.rand(7, generator=torch.Generator().manual_seed(1))
    weights._pristine[False].clear()
    again, other = load_body(name, pretrained=False, seed=3), load_body(name, pretrained=False, seed=4)
    assert all(torch.equal(value, again.body.state_dict()[key]) for key, value in first.body.state_dict().items())
    assert all(torch.equal(value, again.stem.state_dict()[key]) for key, value in first.stem.state_dict().items())
    matrices = [key for key, value in first.body.state_dict().items() if value.ndim > 1]
    assert matrices
    for key in matrices:
        assert not torch.equal(first.body.state_dict()[key], other.body.state_dict()[key])
        assert not torch.equal(first.body.state_dict()[key], pretrained[key])
        assert first.body.state_dict()[key].shape == pretrained[key].shape


def test_callers_get_bodies_of_their_own(tiny: TinyDirectory) -> None:
    name = str(tiny("bert"))
    mine = load_body(name)
    with torch.no_grad():
        for parameter in mine.body.parameters():
            parameter.fill_(7.0)
    theirs = load_body(name)
    assert not any(torch.equal(parameter, torch.full_like(parameter, 7.0)) for parameter in theirs.body.parameters())
    assert theirs.stem is mine.stem
    assert all(parameter.requires_grad for parameter in theirs.body.parameters())
    assert not any(parameter.requires_grad for parameter in theirs.stem.parameters())
    assert not theirs.body.training


def test_few_pristine_bodies_are_kept(tiny: TinyDirectory) -> None:
    for kind in ("bert", "roberta", "vit"):
        load_body(str(tiny(kind)))
        load_body(str(tiny(kind)), pretrained=False)
    assert list(weights._pristine[True]) == [(str(tiny("roberta")), 0), (str(tiny("vit")), 0)]
    assert list(weights._pristine[False]) == [(str(tiny("vit")), 0)]


def test_truncated_weights_are_refused(copied: Path) -> None:
    path = copied / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(UserError, match=r"cannot read the weights of body .*copy"):
        load_body(str(copied))


def test_missing_tensors_are_refused(copied: Path) -> None:
    from safetensors.torch import load_file, save_file

    path = copied / "model.safetensors"
    state = load_file(path)
    gone = "encoder.layer.1.attention.self.query.weight"
    del state[gone]
    save_file(state, path, metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"1 tensors are missing.*encoder.layer.1.attention"):
        load_body(str(copied))


def test_weights_of_another_shape_are_refused(copied: Path) -> None:
    path = copied / "config.json"
    config = json.loads(path.read_text())
    config["intermediate_size"] *= 2
    path.write_text(json.dumps(config))
    with pytest.raises(UserError, match="weights of body"):
        load_body(str(copied))


def test_a_directory_without_a_configuration_is_refused(copied: Path) -> None:
    (copied / "config.json").unlink()
    with pytest.raises(UserError, match="cannot read a Hugging Face configuration in"):
        body_modality(str(copied))


def test_too_many_layers_are_refused(tiny: TinyDirectory) -> None:
    with pytest.raises(UserError, match="has 3 layers, 4 were asked for"):
        load_body(f"{tiny('roberta')}:layers=4")


@torch.no_grad()
def test_minilm_knows_words() -> None:
    """The pretrained body is pretrained: related words lie closer than unrelated ones, as in no random body."""
    loaded = load_body("minilm-l6")
    assert isinstance(loaded.stem, TextStem)
    cat, dog, invoice = 4937, 3899, 1999  # ids of bert-base-uncased's vocabulary: cat, dog, in
    sentences = torch.tensor([[101, word, 102] for word in (cat, dog, invoice)])
    means = torch.nn.functional.normalize(loaded.body(loaded.stem.embed_tokens(sentences)).mean(dim=1), dim=1)
    similarity = means @ means.T
    assert similarity[0, 1] > similarity[0, 2] + 0.2
