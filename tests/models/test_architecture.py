"""Bodies that are built of their description alone: they compute the same bits with the same weights."""

import copy
import json
import shutil
from pathlib import Path

import pytest
import torch
from torch import Tensor

from orca_ray.errors import UserError
from orca_ray.models import body_files, weights
from orca_ray.models.body import Body
from orca_ray.models.weights import BodyArchitecture, describe_body, load_body
from tests.models.conftest import TinyDirectory, sampled
from tests.models.tiny import DECODERS, IMAGE, TEXT

pytestmark = pytest.mark.usefixtures("untouched_random_state", "no_pristine_bodies")
TIMM = ("timm:vit_tiny_patch16_224", "timm:swin_tiny_patch4_window7_224:layers=4")


def features(body: Body, width: int) -> Tensor:
    grid = (4, 4) if body.modality == "image" else None
    if grid is not None:
        body.fit_grid(grid)
    tokens = torch.randn(2, 16 + body.num_prefix_tokens, width, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        found: Tensor = body(tokens, grid)
    return found


def same(described: BodyArchitecture, name: str, *, pretrained: bool) -> None:
    """Check that ``described``, after JSON, builds the body ``name``; both get the weights of the latter."""
    values = json.loads(json.dumps(described.values))
    built = load_body(BodyArchitecture(described.name, values, described.attention))
    expected = load_body(name, pretrained=pretrained)
    state = expected.body.state_dict()
    shapes = {key: (value.shape, value.dtype) for key, value in state.items()}
    assert {key: (value.shape, value.dtype) for key, value in built.body.state_dict().items()} == shapes
    built.body.load_state_dict(copy.deepcopy(state))
    assert built.body.feature_width == expected.body.feature_width
    assert built.stem.width == expected.stem.width
    assert torch.equal(features(built.body, built.stem.width), features(expected.body, built.stem.width))


@pytest.mark.parametrize("kind", sampled([*TEXT, *IMAGE, *DECODERS], "bert", "dinov2", "swin", "qwen3"))
def test_every_family_is_built_without_its_directory(
    kind: str, tiny: TinyDirectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = shutil.copytree(tiny(kind), tmp_path / "body")
    name = f"{directory}:layers=1" if kind in ("bert", "dinov2") else str(directory)  # those removed stay removed
    described = describe_body(name)
    load_body(name)
    shutil.rmtree(directory)

    def refused(*given: object, **named: object) -> None:
        raise AssertionError("the hub or the cache was asked")

    monkeypatch.setattr(weights, "read_config", refused)
    monkeypatch.setattr(body_files, "local_file", refused)
    same(described, name, pretrained=True)  # from the bodies that this process keeps


@pytest.mark.slow
@pytest.mark.parametrize("name", sampled(TIMM, TIMM[0]))
def test_timm_bodies(name: str) -> None:
    same(describe_body(name), name, pretrained=False)


def test_a_description_has_no_place_no_labels_and_no_code_of_the_hub() -> None:
    described = describe_body("minilm-l6:layers=1")
    assert described.values["hidden_size"] == 384
    assert not {"_name_or_path", "id2label", "architectures"} & described.values.keys()
    with pytest.raises(UserError, match="cannot build body 'minilm-l6' from its stored configuration"):
        load_body(BodyArchitecture(described.name, described.values, "kernels-community/flash"))
