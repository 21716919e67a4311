"""A limit for the values of a network that is being built from somebody else's description, before memory is taken."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from orca_ray.errors import UserError

_FACTORIES = (torch.empty, torch.zeros, torch.ones, torch.full, torch.rand, torch.randn, torch.arange, torch.eye)
"""Functions of torch that make a tensor of a given shape; layers take their memory by these."""


class AtMost(TorchFunctionMode):
    """Context manager in which torch makes new tensors of at most ``num_values`` values in total from shapes.

    Raises UserError for the tensor that exceeds the limit, and for shapes that no tensor can have.
    """

    def __init__(self, num_values: int) -> None:
        super().__init__()
        self._left = num_values

    def __torch_function__(
        self, func: Callable[..., Any], types: Iterable[type], args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:  # fmt: skip
        """Call ``func``, after counting what it makes; its shape is computed on a device without memory."""
        options = dict(kwargs or {})
        if func in _FACTORIES:
            try:
                self._left -= func(*args, **{**options, "device": "meta"}).numel()
            except (RuntimeError, TypeError, OverflowError) as error:
                raise UserError(f"config.json describes a network that cannot be: {error}") from error
            if self._left < 0:
                raise UserError("config.json describes a network that is larger than the weights of the folder")
        return func(*args, **options)
