"""Names, copies, seeds and errors of bodies; bodies that are built of their description
alone.
"""

import copy
import fnmatch
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
from orca_ray.models.names import CORPORA, list_bodies, parse_body_name, saw
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
        assert [parse_body_name(name) for name in (base, f"{base}:layers=4")] == [
            (base, None),
            (base, 4),
        ]


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
    patterns = [
        pattern
        for corpus in CORPORA.values()
        for column in corpus.values()
        for pattern in column
    ]
    assert [
        pattern for pattern in patterns if not fnmatch.filter(all_tasks(), pattern)
    ] == []
    vit = "timm:vit_small_patch16_224"
    no = [
        ("minilm-l6", "cabinet/burgers"),
        ("rxnfp:layers=4", "nasbench360/ecg"),
        (vit, "pocket/mnist"),
    ]
    unknown = [
        ("vit-s14", "pocket/mnist"),
        (vit, "cabinet/faces"),
        ("rxnfp", "own/a-01"),
        ("a:b:c", "cabinet/burgers"),
    ]
    assert ({saw(*each) for each in no}, {saw(*each) for each in unknown}) == (
        {"no"},
        {"unknown"},
    )


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
            assert (info.available, info.modality, modality.name) == (
                available,
                name,
                name,
            )
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
    names = (
        ("vit-s14:layers=2", "sequence"),
        ("roberta-base", "image"),
        ("./my-body", "image"),
    )
    assert [modality_of(name, otherwise).name for name, otherwise in names] == [  # type: ignore[arg-type]
        "image",
        "sequence",
        "image",
    ]


def test_tokens_of_inputs_and_sizes_of_sources() -> None:
    image = MODALITIES["image"]
    sequence = MODALITIES["sequence"]
    assert (
        image.num_tokens((1, 28, 28), EmbedderConfig(image_size=56), patch_size=14)
        == 16
    )
    assert image.num_tokens(None, EmbedderConfig(image_size=224)) == 196
    assert (
        sequence.num_tokens((1, 5), EmbedderConfig(sequence_length=8)) == 5
    )  # others: tests of embedders
    for patching in ("pad", "divide"):
        assert (
            sequence.num_tokens(
                None, EmbedderConfig(sequence_length=64, patching=patching)
            )
            == 64
        )
    assert (image.source_size(56, 8), sequence.source_size(56, 8)) == ((56, 0), (0, 8))


TIMM = ("timm:vit_tiny_patch16_224", "timm:swin_tiny_patch4_window7_224:layers=4")


def features(body: Body, width: int) -> Tensor:
    grid = (4, 4) if body.modality == "image" else None
    if grid is not None:
        body.fit_grid(grid)
    tokens = torch.randn(
        2,
        16 + body.num_prefix_tokens,
        width,
        generator=torch.Generator().manual_seed(0),
    )
    with torch.no_grad():
        found: Tensor = body(tokens, grid)
    return found


def same(described: BodyArchitecture, name: str, *, pretrained: bool) -> None:
    """Check that ``described``, after JSON, builds the body ``name``; both get the
    weights of the latter.
    """
    values = json.loads(json.dumps(described.values))
    built = load_body(BodyArchitecture(described.name, values, described.attention))
    expected = load_body(name, pretrained=pretrained)
    state = expected.body.state_dict()
    shapes = {key: (value.shape, value.dtype) for key, value in state.items()}
    assert {
        key: (value.shape, value.dtype)
        for key, value in built.body.state_dict().items()
    } == shapes
    built.body.load_state_dict(copy.deepcopy(state))
    assert (built.body.feature_width, built.stem.width) == (
        expected.body.feature_width,
        expected.stem.width,
    )
    assert torch.equal(
        features(built.body, built.stem.width),
        features(expected.body, built.stem.width),
    )


@pytest.mark.parametrize(
    "kind", sampled([*TEXT, *IMAGE, *DECODERS], "bert", "dinov2", "swin", "qwen3")
)
def test_every_family_is_built_without_its_directory(
    kind: str, tiny: TinyDirectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = shutil.copytree(tiny(kind), tmp_path / "body")
    name = (
        f"{directory}:layers=1" if kind in ("bert", "dinov2") else str(directory)
    )  # those removed stay removed
    described = describe_body(name)
    load_body(name)
    shutil.rmtree(directory)

    def refused(*given: object, **named: object) -> None:
        raise AssertionError("the hub or the cache was asked")

    monkeypatch.setattr(hugging_face, "read_config", refused)
    monkeypatch.setattr(hugging_face, "local_file", refused)
    same(described, name, pretrained=True)  # from the bodies that this process keeps


@pytest.mark.slow
@pytest.mark.parametrize("name", sampled(TIMM, TIMM[0]))
def test_timm_bodies(name: str) -> None:
    same(describe_body(name), name, pretrained=False)


def test_a_description_has_no_place_no_labels_and_no_code_of_the_hub() -> None:
    described = describe_body("minilm-l6:layers=1")
    assert described.values["hidden_size"] == 384
    assert not {"_name_or_path", "id2label", "architectures"} & described.values.keys()
    with pytest.raises(
        UserError, match="cannot build body 'minilm-l6' from its stored configuration"
    ):
        load_body(
            BodyArchitecture(
                described.name, described.values, "kernels-community/flash"
            )
        )
