"""Files of tensors in the safetensors format: the one place that writes them.

safetensors stores the bytes of a tensor as they lie in memory, without its strides. For
a tensor that is not contiguous, such as the channels-last output of a convolution,
``safetensors.numpy`` writes a file whose values are in the wrong places, and
``safetensors.torch`` raises ValueError.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def save_tensors(path: Path, tensors: Mapping[str, "Tensor"]) -> None:
    """Write named tensors to the safetensors file ``path``, each in row-major order.

    The tensors may have any memory format; no two of them may share memory.
    """
    from safetensors.torch import save_file

    contiguous = {name: tensor.contiguous() for name, tensor in tensors.items()}
    save_file(contiguous, str(path), metadata={"format": "pt"})
