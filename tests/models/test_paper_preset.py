"""With equal weights, the presets ``paper`` and ``random`` and pooled heads compute what the reference computes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch

from benchmarks import reference_outputs
from benchmarks.reference_outputs import BODIES, DECODER, MOST_TOKENS, SHAPES, TARGETS, inputs, sample, set_layer
from orca_ray.data.rows import Target
from orca_ray.models.crossmodal import build_model
from orca_ray.models.modality import EmbedderConfig, Initialisation

REFERENCE = os.environ.get("ORCA_REFERENCE", "")
STARTS: tuple[Initialisation, ...] = ("paper", "random")
Arrays = dict[str, npt.NDArray[np.float32]]


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Arrays:
    """Our arrays by the names that the reference's have: modality, initialisation, kind."""
    folder = tmp_path_factory.mktemp("bodies")
    reference_outputs.write_bodies(folder)
    with torch.no_grad():
        return {
            name: array
            for modality in TARGETS
            for start in STARTS
            for target in TARGETS[modality]
            for name, array in _outputs(folder, modality, start, target).items()
        }


def _outputs(folder: Path, modality: str, start: Initialisation, target: str) -> Arrays:
    channels, *space = SHAPES[modality]
    shape = tuple(space) if target == "dense" else (channels, *space)
    model = build_model(
        body=str(folder / BODIES[modality]), pretrained=True, input_shape=SHAPES[modality], seed=0,
        target=Target("classes", 5) if target == "classes" else Target("dense", shape=shape),
        config=EmbedderConfig(MOST_TOKENS, image_size=224, patching="divide", initialisation=start),
        dense_head="pooled", dropout=0.1,
    ).eval()  # fmt: skip
    embedder, head = model.get_submodule("embedder"), model.get_submodule("head")
    if modality == "sequence" or start == "random":
        set_layer(embedder.get_submodule("projection"), 0.7)
    if target == "classes" or modality == "image":
        set_layer(head.get_submodule("output"), *((0.8,) if target == "classes" else DECODER))
    x = inputs(modality)
    tokens = model.embed(x)
    arrays = {target: model(x)}
    if target == "classes":
        arrays |= {"tokens": tokens, "features": model.body(tokens, model._grid)}
    return {f"{modality}/{start}/{name}": value.numpy() for name, value in arrays.items()}


@pytest.mark.slow
def test_outputs_equal_stored_ones(ours: Arrays) -> None:
    """The numbers come from ``benchmarks/reference_outputs.py`` and commit 19b8c1c of the reference."""
    stored = json.loads(Path(__file__).with_name("reference_outputs.json").read_text(encoding="utf-8"))
    assert stored.keys() == ours.keys()
    for name, values in stored.items():
        np.testing.assert_allclose(sample(ours[name]), values, rtol=1e-5, atol=1e-5, err_msg=name)


@pytest.mark.skipif(not REFERENCE, reason="ORCA_REFERENCE names no checkout of the reference")
def test_outputs_equal_the_references(ours: Arrays, tmp_path: Path) -> None:
    out = tmp_path / "theirs.npz"
    subprocess.run([sys.executable, reference_outputs.__file__, REFERENCE, str(out)], check=True, capture_output=True)
    with np.load(out) as theirs:
        assert set(theirs.files) == ours.keys()
        for name, array in ours.items():
            np.testing.assert_allclose(array.reshape(theirs[name].shape), theirs[name], 1e-5, 1e-5, err_msg=name)
