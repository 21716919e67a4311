"""Names of modalities and of their default bodies, for tasks and models, which do not import each other."""

from collections.abc import Mapping
from typing import Literal

ModalityName = Literal["sequence", "image"]

PACKAGED_BODIES: Mapping[ModalityName, str] = {"sequence": "minilm-l6", "image": "vit-s14"}
"""Default bodies that ship inside Python packages."""
PAPER_BODIES: Mapping[ModalityName, str] = {
    "sequence": "roberta-base",
    "image": "microsoft/swin-base-patch4-window7-224-in22k",
}
"""Bodies of the ORCA paper, from the Hugging Face hub."""

IMAGENET_STATISTICS = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
"""Mean and standard deviation of the colours of ImageNet's pixels, in units of the largest value."""
