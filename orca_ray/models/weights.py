"""Load bodies by name: packaged ones, Hugging Face directories and hub names, timm; pretrained or from scratch."""

import copy
import threading
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

import torch

from orca_ray.data.bodies import ModalityName
from orca_ray.errors import UserError, nearest
from orca_ray.models import hugging_face
from orca_ray.models.body import Body, Stem, seeded
from orca_ray.models.family import Family, family_of, shorten
from orca_ray.models.hugging_face import cause, check_config, read_config
from orca_ray.models.names import PACKAGED, parse_body_name

_CACHED = {True: 2, False: 1}
"Bodies cached per process: a pretrained one for sequences and one for images; random ones are cheap to rebuild"
_pristine: dict[bool, OrderedDict[tuple[str, int], "LoadedBody"]] = {True: OrderedDict(), False: OrderedDict()}
_guard = threading.Lock()


@dataclass(frozen=True)
class LoadedBody:
    """The caller's own copy of a body, and its stem, which all callers share and only read."""

    body: Body
    stem: Stem


def load_body(name: str, *, pretrained: bool = True, seed: int = 0) -> LoadedBody:
    """Load a body in evaluation mode, float32, on the CPU.

    ``name`` is a packaged body (``minilm-l6``, ``vit-s14``, ``mpnet-base``), a local directory or hub name that
    ``from_pretrained`` takes, or ``timm:NAME``. The suffix ``:layers=N`` keeps the first N layers; Swin loses blocks
    of its deepest stage. ``pretrained=False`` builds the same architecture with its library's random initialisation,
    which depends on ``seed`` alone. The global random state does not change.

    Raises UserError for an unknown name, a model of no known family, missing or damaged weights.
    """
    key = (name, 0 if pretrained else seed)
    with _guard:
        kept = _pristine[pretrained]
        loaded = kept.pop(key, None) or _load(name, pretrained, seed)
        kept[key] = loaded
        while len(kept) > _CACHED[pretrained]:
            kept.popitem(last=False)
    return LoadedBody(copy.deepcopy(loaded.body), loaded.stem)


def body_modality(name: str) -> ModalityName:
    """Return whether a body takes sequences or images, without loading its weights."""
    base, _ = parse_body_name(name)
    if base in PACKAGED:
        return PACKAGED[base].modality
    if base.startswith("timm:"):
        _check_timm(base)
        return "image"
    return family_of(read_config(base)).modality


def check_body(name: str, *, pretrained: bool = True) -> None:
    """Raise UserError for a body that `load_body` would refuse, as far as its configuration and headers show.

    Checked are the name, the configuration, the size that it declares and, if ``pretrained``, that the weights on this
    machine can be read. It takes a fraction of a second, and no code or pickle of the body runs.
    """
    base, layers = parse_body_name(name)
    if base.startswith("timm:"):
        _check_timm(base)
    elif base not in PACKAGED:
        config = read_config(base)
        shorten(check_config(base, config), config, base, layers)
        if pretrained:
            hugging_face.check_weights(base)


def _load(name: str, pretrained: bool, seed: int) -> LoadedBody:
    base, layers = parse_body_name(name)
    make = _timm_model if base.startswith("timm:") else _transformers_model
    with hugging_face.quiet_transformers(), seeded(seed):
        family, model = make(base, layers, pretrained)
        body, stem = family.cut(model)
    return LoadedBody(body.eval(), stem.eval())


def _timm_model(base: str, layers: int | None, pretrained: bool) -> tuple[Family, Any]:
    import timm

    _check_timm(base)
    try:
        model = timm.create_model(base.removeprefix("timm:"), pretrained=pretrained, num_classes=0)
    except Exception as error:  # timm passes on whatever the hub client raises
        raise UserError(f"cannot get the weights of body {base!r}: {cause(error)}") from error
    family = family_of(model, "timm")
    shorten(family, model, base, layers)
    return family, model


def _transformers_model(base: str, layers: int | None, pretrained: bool) -> tuple[Family, Any]:
    from transformers import AutoModel

    config = read_config(base)
    family = family_of(config) if base in PACKAGED else check_config(base, config)
    shorten(family, config, base, layers)
    if pretrained:
        return family, hugging_face.read_weights(base, config)
    return family, AutoModel.from_config(config, dtype=torch.float32, trust_remote_code=False)


def _check_timm(base: str) -> None:
    import timm

    name = base.removeprefix("timm:")
    if not timm.is_model(name):
        close = nearest(name.split(".")[0], timm.list_models())
        question = f" Did you mean 'timm:{close}'?" if close else ""
        raise UserError(f"unknown timm body {name!r}.{question} `timm.list_models()` lists them all.")
