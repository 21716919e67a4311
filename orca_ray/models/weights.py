"""Load bodies by name, with pretrained or random weights.

A name is that of a packaged body, a Hugging Face directory or hub name, or one of timm.
"""

import copy
import json
import logging
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from orca_ray.data.rows import ModalityName
from orca_ray.errors import UserError, nearest
from orca_ray.models import hugging_face
from orca_ray.models.body import Body, ImageStem, Stem, seeded
from orca_ray.models.family import Family, family_of, keep_layers
from orca_ray.models.hugging_face import (
    WEIGHT_FILES,
    cause,
    check_hub,
    check_weights,
    image_statistics,
)
from orca_ray.models.names import PACKAGED, parse_body_name

logger = logging.getLogger(__name__)

TIMM = "timm:"
"""Prefix of the names of timm's bodies."""
_UNUSED = (
    # Where the body was, and labels of its own classifier, would only reveal where the
    # model was trained.
    "_name_or_path",
    "id2label",
    "label2id",
    "problem_type",
    "architectures",
    # Outputs of a backbone, which nothing reads here. They name layers, also removed
    # ones, and are then refused.
    "stage_names",
    "out_features",
    "out_indices",
)
"""Values of a configuration that a `BodyArchitecture` leaves out."""


@dataclass(frozen=True)
class BodyArchitecture:
    """Description of a body without its weights, as JSON values.

    `load_body` builds the body.
    """

    name: str
    """Name of the described body, with the suffix ``:layers=N`` if it has one."""
    values: Mapping[str, Any]
    """All values of the Hugging Face configuration after layers were removed, but those
    that name where the model was trained or that no body uses; empty for a timm model.
    """
    attention: str | None = None
    """Attention implementation that the configuration asks for; None: the library's
    default.
    """


def describe_body(name: str) -> BodyArchitecture:
    """Return the architecture of a body.

    Its configuration must be on this machine or at the hub. Raises UserError for an
    invalid name, and for a configuration that is unreadable or belongs to no family.
    """
    base, layers = parse_body_name(name)
    if base.startswith(TIMM):
        return BodyArchitecture(name, {})
    config = hugging_face.read_config(base)
    keep_layers(family_of(config), config, base, layers)
    from orca_ray.models.transformers_private import attention_of

    all_values = json.loads(config.to_json_string(use_diff=False))
    values = {key: value for key, value in all_values.items() if key not in _UNUSED}
    return BodyArchitecture(name, values, attention_of(config))


_MOST_CACHED = {True: 2, False: 1}
"""Largest number of bodies cached in a process, by whether they are pretrained.

Two pretrained ones are of text and of images; a random one is cheap to rebuild.
"""
_MOST_CACHED_BYTES = 4 * 2**30
"""Largest size of a cached body; a larger one is loaded again each time.

A body of 7 billion parameters takes 28 GB, and its copy as much.
"""
_cached_bodies: dict[bool, OrderedDict[tuple[str, int], "LoadedBody"]] = {
    True: OrderedDict(),
    False: OrderedDict(),
}
"""Cached bodies by whether they are pretrained, then by name and seed."""
_cache_lock = threading.Lock()
"""Held while a body is loaded or taken from the cache."""


@dataclass(frozen=True)
class LoadedBody:
    """Body, which the caller may change, and its stem.

    All callers share the stem and must not change it.
    """

    body: Body
    stem: Stem


def load_body(
    name: str | BodyArchitecture, *, pretrained: bool = True, seed: int = 0
) -> LoadedBody:
    """Load a body in evaluation mode, float32, on the CPU.

    ``name`` is a packaged body (``minilm-l6``, ``vit-s14``, ``mpnet-base``), a local
    directory or hub name that Hugging Face's ``from_pretrained`` accepts, or
    ``timm:NAME``. The suffix ``:layers=N`` keeps the first N layers; for a body with
    stages such as Swin, see `keep_layers`. ``pretrained=False`` builds the same
    architecture with the random initialisation of its library, which depends on
    ``seed`` alone. The global random state does not change. A `BodyArchitecture` is
    built with arbitrary weights, whatever ``pretrained`` is, because the caller
    overwrites them; neither cache nor hub is read.

    Raises UserError if the name is unknown, the model belongs to no family, or weights
    are missing or damaged.
    """
    if isinstance(name, BodyArchitecture):
        return _build(name)
    key = (name, 0 if pretrained else seed)
    with _cache_lock:
        cached = _cached_bodies[pretrained]
        loaded = cached.pop(key, None)
        if loaded is None:
            loaded = _load(name, pretrained, seed)
        num_bytes = sum(parameter.nbytes for parameter in loaded.body.parameters())
        if num_bytes > _MOST_CACHED_BYTES:
            return loaded
        cached[key] = loaded
        while len(cached) > _MOST_CACHED[pretrained]:
            cached.popitem(last=False)
    return LoadedBody(copy.deepcopy(loaded.body), loaded.stem)


def body_modality(name: str) -> ModalityName:
    """Return a body's modality, without loading its weights.

    Raises UserError for an unknown body.
    """
    base, _ = parse_body_name(name)
    if base in PACKAGED:
        return PACKAGED[base].modality
    if base.startswith(TIMM):
        _check_timm(base)
        return "image"
    return family_of(hugging_face.read_config(base)).modality


def check_body(name: str, *, pretrained: bool = True) -> None:
    """Raise UserError for a body that `load_body` is known to refuse.

    It checks the name, the configuration, the declared size and, if ``pretrained``,
    that the weights on this machine can be read; for timm and packaged bodies, the name
    alone. It takes under a second and runs no code of the body.
    """
    base, layers = parse_body_name(name)
    if base.startswith(TIMM):
        _check_timm(base)
    elif base not in PACKAGED:
        config = hugging_face.read_config(base)
        family = hugging_face.check_config(base, config)
        keep_layers(family, config, base, layers)
        if family.modality == "image":
            image_statistics(base)
        if pretrained:
            check_weights(base)


def _load(name: str, pretrained: bool, seed: int) -> LoadedBody:
    """Return the body called ``name``, read or built anew; see `load_body`."""
    base, layers = parse_body_name(name)
    make_model = _timm_model if base.startswith(TIMM) else _transformers_model
    with hugging_face.quiet_transformers(), seeded(seed):
        family, model = make_model(base, layers, pretrained)
        body, stem = family.cut(model)
    has_preprocessor = family.library == "transformers" and base not in PACKAGED
    if has_preprocessor and isinstance(stem, ImageStem):
        _set_statistics(stem, base, pretrained)
    return LoadedBody(body.eval(), stem.eval())


def _build(architecture: BodyArchitecture) -> LoadedBody:
    """Return a body of an architecture, with arbitrary weights; see `load_body`."""
    from orca_ray.models.transformers_private import skip_initialisation

    base, layers = parse_body_name(architecture.name)
    # Random initialisation would take ten times as long as all else (vit-s14: 7 s of
    # 7.5 s on a busy core).
    with (
        hugging_face.quiet_transformers(),
        seeded(0),
        skip_initialisation(),
        torch.no_grad(),
    ):
        if base.startswith(TIMM):
            family, model = _timm_model(base, layers, pretrained=False)
        else:
            family, model = _described_model(base, architecture)
        for parameter in model.parameters():
            # An embedder's initial kernel divides by norms of the stem, which must not
            # be 0.
            parameter.fill_(1.0)
        body, stem = family.cut(model)
    return LoadedBody(body.eval(), stem.eval())


def _described_model(base: str, architecture: BodyArchitecture) -> tuple[Family, Any]:
    """Return the family, and a model with random weights, of a stored architecture."""
    from transformers import AutoModel

    try:
        config = hugging_face.make_config(base, dict(architecture.values))
        family, _ = hugging_face.check_size(base, config)
        model = AutoModel.from_config(
            config,
            dtype=torch.float32,
            trust_remote_code=False,
            attn_implementation=architecture.attention,
        )
    except UserError:
        raise
    # transformers passes on any exception of a configuration that does not fit its
    # class.
    except Exception as error:
        raise UserError(
            f"cannot build body {base!r} from its stored configuration: {cause(error)}"
        ) from error
    return family, model


def _set_statistics(stem: ImageStem, base: str, pretrained: bool) -> None:
    """Set the colour statistics of the body's own preprocessor.

    Without a preprocessor, the family's statistics stay, with a warning.
    """
    statistics = image_statistics(base, download=pretrained)
    if statistics is not None:
        stem.image_mean, stem.image_std = statistics
        return
    logger.warning(
        "body %r has no image_mean and image_std in a preprocessor_config.json: images"
        " of alignment sources are normalised by those that are usual for its class,"
        " mean %s and standard deviation %s",
        base,
        stem.image_mean.flatten().tolist(),
        stem.image_std.flatten().tolist(),
    )


def _timm_model(base: str, layers: int | None, pretrained: bool) -> tuple[Family, Any]:
    """Return the family of a model of timm, and the model with ``layers`` layers."""
    import timm

    _check_timm(base)
    name = base.removeprefix(TIMM)
    try:
        source = timm.get_pretrained_cfg(name)
        if pretrained and source is not None and source.hf_hub_id:
            check_hub(source.hf_hub_id, *WEIGHT_FILES)
        model = timm.create_model(name, pretrained=pretrained, num_classes=0)
    except Exception as error:  # timm passes on any exception of the hub client
        raise UserError(
            f"cannot get the weights of body {base!r}: {cause(error)}"
        ) from error
    family = family_of(model, "timm")
    keep_layers(family, model, base, layers)
    return family, model


def _transformers_model(
    base: str, layers: int | None, pretrained: bool
) -> tuple[Family, Any]:
    """Return the family of a model of transformers, and the model.

    The model has ``layers`` layers; None: all.
    """
    from transformers import AutoModel

    config = hugging_face.read_config(base)
    if base in PACKAGED:
        family = family_of(config)
    else:
        family = hugging_face.check_config(base, config)
    keep_layers(family, config, base, layers)
    if pretrained:
        return family, hugging_face.read_weights(base, config)
    return family, AutoModel.from_config(
        config, dtype=torch.float32, trust_remote_code=False
    )


def _check_timm(base: str) -> None:
    """Raise UserError if timm has no model called ``base``."""
    import timm

    name = base.removeprefix(TIMM)
    if not timm.is_model(name):
        architecture = name.split(".")[0]
        close = nearest(architecture, timm.list_models())
        question = f" Did you mean 'timm:{close}'?" if close else ""
        raise UserError(
            f"unknown timm body {name!r}.{question} `timm.list_models()` lists them"
            " all."
        )


_FACTORIES = (
    torch.empty,
    torch.zeros,
    torch.ones,
    torch.full,
    torch.rand,
    torch.randn,
    torch.arange,
    torch.eye,
)
"""Functions of torch that make a tensor of a given shape; layers take their memory by
these.
"""


class ValueLimit(TorchFunctionMode):
    """Context in which torch makes at most ``num_values`` new values in total.

    New tensors are those made from shapes. Raises UserError for the tensor that exceeds
    the limit, and for shapes that no tensor can have.
    """

    def __init__(self, num_values: int) -> None:
        super().__init__()
        self._num_left = num_values

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Call ``func``, after counting the values that it makes.

        The shape of the result is computed on a device without memory.
        """
        options = dict(kwargs or {})
        if func in _FACTORIES:
            try:
                result = func(*args, **{**options, "device": "meta"})
                self._num_left -= result.numel()
            except (RuntimeError, TypeError, OverflowError) as error:
                raise UserError(
                    f"config.json describes a network that cannot be: {error}"
                ) from error
            if self._num_left < 0:
                raise UserError(
                    "config.json describes a network that is larger than the weights of"
                    " the folder"
                )
        return func(*args, **options)


class ResultLimit(TorchFunctionMode):
    """Context in which no result of a function of torch has more than ``num_bytes``.

    A result may be larger if it is no larger than an argument. Raises `TooLargeResult`
    before the function takes memory.
    """

    def __init__(self, num_bytes: int) -> None:
        super().__init__()
        self._num_bytes = num_bytes

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Call ``func``, after computing its result's size on a device without memory.

        Functions that such a device does not support are called unchecked.
        """
        options = dict(kwargs or {})
        try:
            checked_options = _without_memory(options)
            if func in _FACTORIES:
                checked_options["device"] = "meta"
            result = func(*_without_memory(args), **checked_options)
        # Functions that need values raise many types, and `func` itself raises again
        # below what a wrong argument raises.
        except Exception:
            result = None
        num_bytes = _largest_bytes(result)
        largest_argument = max(_largest_bytes(args), _largest_bytes(options))
        if num_bytes > max(self._num_bytes, largest_argument):
            raise TooLargeResult(num_bytes)
        return func(*args, **options)


class TooLargeResult(Exception):
    """A function of torch would make a tensor larger than a `ResultLimit`."""

    def __init__(self, num_bytes: int) -> None:
        super().__init__(f"a tensor of {num_bytes:,} bytes")
        self.num_bytes = num_bytes
        """Size of the tensor."""


def _without_memory(value: Any) -> Any:
    """Return ``value`` with tensors of the same shapes on the device "meta".

    Tensors in lists, tuples and dicts are replaced too.
    """
    if isinstance(value, Tensor):
        # `Tensor.to` would expand a view whose values share memory.
        return torch.empty_strided(
            value.shape, value.stride(), dtype=value.dtype, device="meta"
        )
    if isinstance(value, dict):
        return {name: _without_memory(part) for name, part in value.items()}
    if type(value) in (list, tuple):
        return type(value)(map(_without_memory, value))
    return value


def _largest_bytes(value: Any) -> int:
    """Return the size of the largest tensor in ``value``, 0 without one.

    A view counts with the tensor that it is a view of.
    """
    if isinstance(value, Tensor):
        return value.untyped_storage().nbytes()
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list | tuple):
        return max(map(_largest_bytes, value), default=0)
    return 0
