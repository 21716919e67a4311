"""Bodies that are broken, or were made to do harm, are refused.

They are refused before anything is built, with an error of ours.
"""

import io
import json
import os
import pickle
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from orca_ray.errors import UserError
from orca_ray.models.weights import body_modality, check_body, load_body
from tests.models.conftest import TinyDirectory

pytestmark = pytest.mark.usefixtures("untouched_random_state", "no_pristine_bodies")


def configure(directory: Path, **values: Any) -> None:
    path = directory / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def refused(directory: Path, message: str, *, pretrained: bool = True) -> None:
    """Both the check at plan time and loading refuse a body."""
    for reader in (check_body, load_body):
        with pytest.raises(UserError, match=message) as caught:
            reader(str(directory), pretrained=pretrained)
        for word in ("trust_remote_code", "weights_only", "Traceback"):
            assert word not in str(caught.value)


def test_sound_bodies_pass_and_misspelt_ones_do_not(
    copied: Path, tiny: TinyDirectory
) -> None:
    for name in (
        f"{tiny('swin')}:layers=2",
        f"{tiny('modernbert')}:layers=2",
        "minilm-l6:layers=4",
    ):
        check_body(name)
        check_body(name, pretrained=False)
    check_body("timm:vit_tiny_patch16_224")
    for name in ("minilm-l5", "minilm-l6:layers=7", "timm:vit_smal_patch16_224"):
        with pytest.raises(UserError, match=r"layers|Did you mean"):
            check_body(name)
    # Keys of a classification head are dropped.
    configure(copied, num_labels=10**9, id2label=["a"], problem_type=3)
    check_body(str(copied))


@pytest.mark.parametrize(
    ("auto", "model_type"), [("AutoConfig", "bert"), ("AutoModel", "evil")]
)
def test_code_of_a_body_never_runs_and_nothing_asks(
    auto: str,
    model_type: str,
    copied: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    harm = tmp_path / "harm"
    (copied / "evil.py").write_text(f"open({str(harm)!r}, 'w')\nclass Evil: pass\n")
    configure(copied, auto_map={auto: "evil.Evil"}, model_type=model_type)
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n" * 100))
    refused(copied, r"auto_map in its config.json\), which never runs")
    with pytest.raises(UserError, match="which never runs"):
        body_modality(str(copied))
    assert sys.stdin.read() == "y\n" * 100
    assert not harm.exists()


@pytest.mark.parametrize(
    ("kind", "values", "message"),
    [
        (
            "bert",
            {"num_hidden_layers": 1001},
            "declares 1001 layers: 1 to 1000 are allowed",
        ),
        (
            "bert",
            {"num_hidden_layers": [2]},
            r"'num_hidden_layers' expected int, got list \(value: \[2\]\)",
        ),
        ("bert", {"num_hidden_layers": -1}, "layers|configuration"),
        ("bert", {"vocab_size": 10**11}, "declares .* parameters.* memory"),
        (
            "bert",
            {"vocab_size": 10**5},
            "declares .* parameters, and its weights are only",
        ),
        ("bert", {"intermediate_size": 10**12}, "declares .* parameters|cannot build"),
        ("bert", {"num_attention_heads": 0}, "cannot build|configuration"),
        ("bert", {"hidden_act": "os.system"}, "unknown name 'os.system'"),
        ("bert", {"model_type": ["bert"]}, "unknown name .*bert"),
        (
            "bert",
            {"model_type": "nobody-knows"},
            "cannot read a Hugging Face configuration in .*model_type",
        ),
        ("bert", {"add_cross_attention": True}, "should be used as a decoder"),
        (
            "bert",
            {"attn_implementation": "someone/kernels"},
            "asks for the attention 'someone/kernels'.*'eager' and",
        ),
        (
            "swin",
            {"depths": [1] * 10**4, "num_heads": [1] * 10**4},
            "declares 10000 layers",
        ),
        ("swin", {"depths": [2, "many"], "num_heads": [1] * 2}, "configuration"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_values_that_cannot_be_used_are_refused(
    kind: str, values: dict[str, Any], message: str, tiny: TinyDirectory, tmp_path: Path
) -> None:
    copied = Path(shutil.copytree(tiny(kind), tmp_path / "copy"))
    configure(copied, **values)
    refused(copied, message)
    if "memory" in message:
        (copied / "model.safetensors").unlink()
        refused(copied, message, pretrained=False)


CONFIG = "config.json"
IMAGES = "preprocessor_config.json"
WEIGHTS = "model.safetensors"
NO_JSON = r".*config.json: expected (JSON|a JSON object), found.*save the model again"
TOO_LARGE = "expected at most 4,194,304 bytes, found 4,194,305"
NO_MEAN = "image_mean in .*json is .*expected three numbers from 0 to 1"
NO_STD = "image_std in .*json is .*expected three numbers from 0.001 to 1;"
DAMAGED = (
    "cannot read the weights of body .*model.safetensors (is damaged|holds no)|its"
    " weights are only"
)


def statistics(mean: str, std: str = "[1, 1, 1]") -> bytes:
    return f'{{"image_mean": {mean}, "image_std": {std}}}'.encode()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (CONFIG, b"", NO_JSON),
        (CONFIG, b"[1, 2]", NO_JSON),
        (CONFIG, b"\xff\xfe", NO_JSON),
        (CONFIG, b"[" * 10**6, NO_JSON),
        (CONFIG, b"9" * 10**5, NO_JSON),
        (CONFIG, b"null", NO_JSON),
        (CONFIG, b" " * (2**22 + 1), TOO_LARGE),
        (CONFIG, None, "it has no file config.json; give a directory with"),
        (
            IMAGES,
            statistics("[0.5, 0.5]"),
            r"image_mean in .*json is \[0.5, 0.5\], expected three num",
        ),
        (IMAGES, statistics("0.5"), NO_MEAN),
        (IMAGES, statistics('["0", 1, 0]'), NO_MEAN),
        (IMAGES, statistics("[NaN, 0, 0]"), NO_MEAN),
        (IMAGES, statistics("[true, 0, 0]"), NO_MEAN),
        (IMAGES, statistics("[" + "9" * 4000 + ", 0, 0]"), NO_MEAN),
        (IMAGES, statistics("[0.5, 0, 1]", "null"), NO_STD),
        (IMAGES, statistics("[0.5, 0, 1]", "[1, 0, 1]"), NO_STD),
        (
            IMAGES,
            statistics("[" + "9" * 5000 + ", 0, 0]"),
            "expected JSON, found something else",
        ),
        (IMAGES, b" " * (2**22 + 1), TOO_LARGE),
        (WEIGHTS, b"", DAMAGED),
        (WEIGHTS, b"garbage" * 1000, DAMAGED),
        (WEIGHTS, (10**8).to_bytes(8, "little") + b"{", DAMAGED),
        (WEIGHTS, b"\x02" + bytes(7) + b"{}", DAMAGED),
        (
            WEIGHTS,
            None,
            (
                "the directory has none of model.safetensors, .*; save the model with"
                " save_pretrained"
            ),
        ),
    ],
    ids=range(23),
)
def test_damaged_files_are_refused(
    name: str, content: bytes | None, message: str, tiny: TinyDirectory, tmp_path: Path
) -> None:
    copied = Path(shutil.copytree(tiny("vit"), tmp_path / "copy"))
    if content is None:
        (copied / name).unlink()
    else:
        (copied / name).write_bytes(content)
    if name == CONFIG and content is None:
        os.mkfifo(copied / name)
    refused(copied, message)
    if name == WEIGHTS and content is None:
        check_body(str(copied), pretrained=False)


class _Harm:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (open, (str(self.path), "w"))


def test_no_object_of_a_pickle_is_made(copied: Path, tmp_path: Path) -> None:
    (copied / "model.safetensors").unlink()
    harm = tmp_path / "harm"
    path = copied / "pytorch_model.bin"
    torch.save({"harm": _Harm(harm)}, path)
    configure(copied, vocab_size=2)
    for _ in range(2):
        refused(
            copied,
            "pytorch_model.bin is damaged or holds objects other than tensors|its"
            " weights are only",
        )
        assert not harm.exists()
        path.write_bytes(pickle.dumps({"harm": _Harm(harm), "space": bytes(10**5)}))


def test_tensors_in_a_pickle_are_read(tiny: TinyDirectory, copied: Path) -> None:
    from safetensors.torch import load_file

    state = load_file(copied / "model.safetensors")
    (copied / "model.safetensors").unlink()
    for legacy in (False, True):
        torch.save(
            state,
            copied / "pytorch_model.bin",
            _use_new_zipfile_serialization=not legacy,
        )
        check_body(str(copied))
    expected = load_body(str(tiny("bert"))).body.state_dict()
    loaded = load_body(str(copied)).body.state_dict()
    assert all(torch.equal(value, expected[key]) for key, value in loaded.items())


@pytest.mark.parametrize(
    "shard", ["absent.safetensors", "../copy/model.safetensors", "/etc/passwd", 7]
)
def test_an_index_names_files_of_its_own_directory(shard: Any, copied: Path) -> None:
    (copied / "model.safetensors").rename(copied / "renamed.safetensors")
    index = {"metadata": {}, "weight_map": {"embeddings": shard}}
    (copied / "model.safetensors.index.json").write_text(json.dumps(index))
    refused(copied, "which is not in the same directory; get the missing files")
