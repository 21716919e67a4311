"""Names of modalities and their default bodies (pretrained models), shared by tasks and models."""

from collections.abc import Mapping
from typing import Literal

ModalityName = Literal["sequence", "image"]

PACKAGED_BODIES: Mapping[ModalityName, str] = {"sequence": "minilm-l6", "image": "vit-s14"}
"""Default body of each modality, whose weights are read from a Python package."""
PAPER_BODIES: Mapping[ModalityName, str] = {
    "sequence": "roberta-base",
    "image": "microsoft/swin-base-patch4-window7-224-in22k",
}
"""Body of each modality in the ORCA paper, downloaded from the Hugging Face hub."""

IMAGENET_STATISTICS = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
"""Mean and standard deviation of ImageNet's pixels for red, green and blue, with pixel values scaled to [0, 1]."""
