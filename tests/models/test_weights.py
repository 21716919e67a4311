"""Names, copies, seeds and errors of bodies; bodies built of descriptions."""

import copy
import fnmatch
import itertools
import json
import shutil
import socket
from pathlib import Path
from unittest import mock

import pytest
import requests
import torch
from torch import Tensor

from orca_ray.data.download import Patience
from orca_ray.data.rows import PACKAGED_BODIES, PAPER_BODIES
from orca_ray.errors import UserError
from orca_ray.models import hugging_face
from orca_ray.models.body import Body
from orca_ray.models.modality import (
    MODALITIES,
    EmbedderConfig,
    get_modality,
    modality_of,
)
from orca_ray.models.names import CORPORA, list_bodies, parse_body_name, pretraining_saw
from orca_ray.models.weights import (
    BodyArchitecture,
    body_modality,
    describe_body,
    load_body,
)
from orca_ray.tasks.registry import all_tasks
from tests.models.conftest import DECODERS, IMAGE, TEXT, TinyDirectory, sampled

pytestmark = pytest.mark.usefixtures("untouched_random_state", "no_pristine_bodies")


def test_parse_body_name() -> None:
    for base in ("minilm-l6", "timm:vit_tiny_patch16_224", "microsoft/swin-tiny"):
        assert parse_body_name(base) == (base, None)
        assert parse_body_name(f"{base}:layers=4") == (base, 4)


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


def test_misspelt_packaged_names_get_the_nearest_without_asking_a_hub(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(
        requests, "head", mock.Mock(side_effect=AssertionError("the hub was asked"))
    )
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    for name in ("minilm-l5", "minilm", "MiniLM-L6", "vit-s16", "mpnetbase"):
        with pytest.raises(
            UserError, match=r"Did you mean '(minilm-l6|vit-s14|mpnet-base)'"
        ):
            load_body(name)


def test_names_that_no_hub_has_are_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    import transformers

    def offline(name: str, **_: object) -> None:
        raise OSError(f"couldn't connect to load {name}\nand more")

    monkeypatch.setattr(transformers.PreTrainedConfig, "get_config_dict", offline)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(
        UserError,
        match=(
            r"(?s)'roberta-bas'.*couldn't connect.*Did you mean"
            r" 'roberta-base'.*directory"
        ),
    ):
        load_body("roberta-bas")
    with pytest.raises(UserError) as caught:
        load_body("roberta-base")
    assert "Did you mean" not in str(caught.value)
    assert "and more" not in str(caught.value)


@pytest.mark.parametrize("name", ["nobody/nothing", "timm:vit_tiny_patch16_224"])
def test_a_hub_that_never_answers_is_left_soon(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        hugging_face,
        "_PATIENCE",
        Patience(first_wait=0.01, connect_seconds=0.1, silence_seconds=0.1),
    )
    monkeypatch.setenv("no_proxy", "*")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setattr(
            "huggingface_hub.constants.ENDPOINT",
            f"http://127.0.0.1:{silent.getsockname()[1]}",
        )
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
        with pytest.raises(
            UserError,
            match=r"no answer came from 127\.0\.0\.1 before the time-out \(2 tries\)",
        ):
            load_body(name)


def test_what_pretraining_saw() -> None:
    assert {body.corpus for body in list_bodies()} | {"any"} == {*CORPORA, ""}
    columns = (column for corpus in CORPORA.values() for column in corpus.values())
    for pattern in itertools.chain.from_iterable(columns):
        assert fnmatch.filter(all_tasks(), pattern), pattern
    vit = "timm:vit_small_patch16_224"
    for body, task in (
        ("minilm-l6", "cabinet/burgers"),
        ("rxnfp:layers=4", "nasbench360/ecg"),
        (vit, "pocket/mnist"),
    ):
        assert pretraining_saw(body, task) == "no"
    for body, task in (
        ("vit-s14", "pocket/mnist"),
        (vit, "cabinet/faces"),
        ("rxnfp", "own/a-01"),
        ("a:b:c", "cabinet/burgers"),
    ):
        assert pretraining_saw(body, task) == "unknown"


@torch.no_grad()
def test_callers_get_bodies_of_their_own(tiny: TinyDirectory) -> None:
    name = str(tiny("bert"))
    mine = load_body(name)
    for parameter in mine.body.parameters():
        parameter.fill_(7.0)
    theirs = load_body(name)
    assert not any((parameter == 7).all() for parameter in theirs.body.parameters())
    assert theirs.stem is mine.stem
    assert all(parameter.requires_grad for parameter in theirs.body.parameters())
    assert not any(parameter.requires_grad for parameter in theirs.stem.parameters())
    assert not theirs.body.training


def test_missing_tensors_and_those_of_another_shape_are_refused(copied: Path) -> None:
    from safetensors.torch import load_file, save_file

    path = copied / "model.safetensors"
    config = copied / "config.json"
    state = load_file(path)
    del state["encoder.layer.1.attention.self.query.weight"]
    save_file(state, path, metadata={"format": "pt"})
    with pytest.raises(
        UserError, match=r"1 tensors are missing.*encoder.layer.1.attention"
    ):
        load_body(str(copied))
    config.write_text(
        json.dumps({**json.loads(config.read_text()), "intermediate_size": 96})
    )
    with pytest.raises(UserError, match="weights of body"):
        load_body(str(copied))
    config.unlink()
    with pytest.raises(UserError, match="cannot read a Hugging Face configuration in"):
        body_modality(str(copied))


def test_each_modality_names_listed_bodies_of_its_own() -> None:
    listed = {info.name: info for info in list_bodies()}
    for name, modality in MODALITIES.items():
        assert get_modality(name) is modality
        for bodies, available in ((PACKAGED_BODIES, "packaged"), (PAPER_BODIES, "hub")):
            info = listed[bodies[modality.name]]
            assert info.available == available
            assert info.modality == modality.name == name
        EmbedderConfig(**modality.paper_embedder(256))  # type: ignore[arg-type]
    with pytest.raises(
        UserError,
        match=(
            r"unknown modality 'images'. Did you mean 'image'\? Allowed: image,"
            r" sequence"
        ),
    ):
        get_modality("images")


def test_the_modality_of_a_body_is_read_off_its_name() -> None:
    assert modality_of("vit-s14:layers=2", otherwise="sequence").name == "image"
    assert modality_of("roberta-base", otherwise="image").name == "sequence"
    assert modality_of("./my-body", otherwise="image").name == "image"


def test_tokens_of_inputs_and_sizes_of_sources() -> None:
    image = MODALITIES["image"]
    sequence = MODALITIES["sequence"]
    small_image = EmbedderConfig(image_size=56)
    assert image.num_tokens((1, 28, 28), small_image, patch_size=14) == 16
    assert image.num_tokens(None, EmbedderConfig(image_size=224)) == 196
    # Other lengths: tests of embedders.
    assert sequence.num_tokens((1, 5), EmbedderConfig(sequence_length=8)) == 5
    for patching in ("pad", "divide"):
        config = EmbedderConfig(sequence_length=64, patching=patching)
        assert sequence.num_tokens(None, config) == 64
    assert image.source_size(56, 8) == (56, 0)
    assert sequence.source_size(56, 8) == (0, 8)


TIMM = ("timm:vit_tiny_patch16_224", "timm:swin_tiny_patch4_window7_224:layers=4")


def features(body: Body, width: int) -> Tensor:
    grid = (4, 4) if body.modality == "image" else None
    if grid is not None:
        body.fit_grid(grid)
    num_tokens = 16 + body.num_prefix_tokens
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randn(2, num_tokens, width, generator=generator)
    with torch.no_grad():
        body_features: Tensor = body(tokens, grid)
    return body_features


def shapes(body: Body) -> dict[str, tuple[torch.Size, torch.dtype]]:
    state = body.state_dict()
    return {name: (value.shape, value.dtype) for name, value in state.items()}


def check_described(
    architecture: BodyArchitecture, name: str, *, pretrained: bool
) -> None:
    """Check that ``architecture``, after JSON, builds the body ``name``.

    Both bodies get the weights of the latter.
    """
    values = json.loads(json.dumps(architecture.values))
    from_json = BodyArchitecture(architecture.name, values, architecture.attention)
    built = load_body(from_json)
    expected = load_body(name, pretrained=pretrained)
    assert shapes(built.body) == shapes(expected.body)
    built.body.load_state_dict(copy.deepcopy(expected.body.state_dict()))
    assert built.body.feature_width == expected.body.feature_width
    width = built.stem.width
    assert width == expected.stem.width
    assert torch.equal(features(built.body, width), features(expected.body, width))


@pytest.mark.parametrize(
    "kind", sampled([*TEXT, *IMAGE, *DECODERS], "bert", "dinov2", "swin", "qwen3")
)
def test_every_family_is_built_without_its_directory(
    kind: str, tiny: TinyDirectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = shutil.copytree(tiny(kind), tmp_path / "body")
    name = str(directory)
    if kind in ("bert", "dinov2"):  # layers that were removed stay removed
        name += ":layers=1"
    architecture = describe_body(name)
    load_body(name)
    shutil.rmtree(directory)

    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("the hub or the cache was asked")

    monkeypatch.setattr(hugging_face, "read_config", refuse)
    monkeypatch.setattr(hugging_face, "local_file", refuse)
    # The expected body is cached in this process.
    check_described(architecture, name, pretrained=True)


@pytest.mark.slow
@pytest.mark.parametrize("name", sampled(TIMM, TIMM[0]))
def test_timm_bodies(name: str) -> None:
    check_described(describe_body(name), name, pretrained=False)


def test_a_description_has_no_place_no_labels_and_no_code_of_the_hub() -> None:
    architecture = describe_body("minilm-l6:layers=1")
    values = architecture.values
    assert values["hidden_size"] == 384
    assert not {"_name_or_path", "id2label", "architectures"} & values.keys()
    with_hub_code = BodyArchitecture(
        architecture.name, values, "kernels-community/flash"
    )
    with pytest.raises(
        UserError, match="cannot build body 'minilm-l6' from its stored configuration"
    ):
        load_body(with_hub_code)
