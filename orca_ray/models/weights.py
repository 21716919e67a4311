"""Load bodies by name: packaged ones, Hugging Face directories and hub names, timm; pretrained or from scratch."""

import contextlib
import copy
import threading
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from orca_ray.data.packages import Progress
from orca_ray.errors import UserError, nearest
from orca_ray.models.body import Body, Stem, seeded
from orca_ray.models.names import PACKAGED, BodyInfo, ModalityName, list_bodies, parse_body_name, refuse_misspelt_body
from orca_ray.models.packaged import body_directory
from orca_ray.models.text import cut_text
from orca_ray.models.timm_vision import check_timm, create_timm, cut_timm, shallower
from orca_ray.models.vision import cut_image

__all__ = ["BodyInfo", "LoadedBody", "body_modality", "fetch_body", "list_bodies", "load_body", "parse_body_name"]


_KEPT = {True: 2, False: 1}
"Pristine bodies kept per process: a pretrained one for sequences and one for images; random ones cost little to redraw"
_pristine: dict[bool, OrderedDict[tuple[str, int], "LoadedBody"]] = {True: OrderedDict(), False: OrderedDict()}
_guard = threading.Lock()


@dataclass(frozen=True)
class LoadedBody:
    """A body of the caller's own, and the stem it was cut from, which all callers share: copy from it only."""

    name: str
    body: Body
    stem: Stem


def load_body(name: str, *, pretrained: bool = True, seed: int = 0) -> LoadedBody:
    """Load a body in evaluation mode, float32, on the CPU.

    ``name`` is a packaged body (``minilm-l6``, ``vit-s14``, ``mpnet-base``), a local directory or hub name that
    ``from_pretrained`` takes, or ``timm:NAME``; the suffix ``:layers=N`` keeps the first N layers (in Swin, drops
    blocks from the deepest stage). ``pretrained=False`` builds the same architecture with its library's own random
    initialisation, drawn from ``seed`` alone. The global random state is left as it was.

    Raises UserError for an unknown name, a model that is no such encoder, missing or damaged weights.
    """
    key = (name, 0 if pretrained else seed)
    with _guard:
        kept = _pristine[pretrained]
        loaded = kept.pop(key, None) or _load(name, pretrained, seed)
        kept[key] = loaded
        while len(kept) > _KEPT[pretrained]:
            kept.popitem(last=False)
    return LoadedBody(name, copy.deepcopy(loaded.body), loaded.stem)


def fetch_body(name: str, progress: Progress | None = None) -> None:
    """Make sure that a packaged body is in the cache; bodies from a hub are fetched by their library when loaded."""
    base, _ = parse_body_name(name)
    if base in PACKAGED:
        body_directory(PACKAGED[base], progress)


def body_modality(name: str) -> ModalityName:
    """Say whether a body takes sequences or images, without loading its weights."""
    base, _ = parse_body_name(name)
    if base in PACKAGED:
        return PACKAGED[base].modality
    if base.startswith("timm:"):
        check_timm(base.removeprefix("timm:"))
        return "image"
    return _config_modality(_read_config(base))


def _load(name: str, pretrained: bool, seed: int) -> LoadedBody:
    base, layers = parse_body_name(name)
    body: Body
    stem: Stem
    with seeded(seed), _quiet_transformers():
        if base.startswith("timm:"):
            body, stem = cut_timm(create_timm(base.removeprefix("timm:"), pretrained), layers)
        else:
            body, stem = _load_hugging_face(base, layers, pretrained)
    return LoadedBody(name, body.eval(), stem.eval())


def _load_hugging_face(base: str, layers: int | None, pretrained: bool) -> tuple[Body, Stem]:
    from transformers import AutoModel

    source: Any = base
    if base in PACKAGED:
        config = _packaged_config(base)
        source = body_directory(PACKAGED[base]) if pretrained else None
    else:
        config = _read_config(base)
    modality = _config_modality(config)
    if layers is not None:
        _keep_layers(config, base, layers)
    model = _read_weights(source, base, config) if pretrained else AutoModel.from_config(config, dtype=torch.float32)
    return cut_image(model) if modality == "image" else cut_text(model)


def _packaged_config(base: str) -> Any:
    from transformers import AutoConfig

    values = dict(PACKAGED[base].config)
    return AutoConfig.for_model(values.pop("model_type"), **values)


def _read_config(base: str) -> Any:
    """Configuration of a local directory or a hub name; UserError says what to do when there is none."""
    from transformers import AutoConfig

    local = Path(base).is_dir()
    refuse_misspelt_body(base)
    try:
        return AutoConfig.from_pretrained(base)
    except Exception as error:  # transformers and huggingface_hub raise many kinds, none documented
        if local:
            raise UserError(f"cannot read a Hugging Face configuration in {base}: {_first_line(error)}") from error
        known = nearest(base, [body.name for body in list_bodies()])
        if known == base:
            raise UserError(
                f"body {base!r} comes from a model hub, which did not provide it ({_first_line(error)}): run "
                f"'orca-sweep bodies --fetch {base}' where there is a network and take $HF_HOME along, or name another "
                "body (--body minilm-l6, for images vit-s14)"
            ) from error
        question = f" Did you mean {known!r}?" if known else ""
        raise UserError(
            f"unknown body {base!r}: neither packaged ({', '.join(PACKAGED)}) nor a local directory, and the hub did "
            f"not provide it ({_first_line(error)}).{question} Without a hub, give the path of a directory with "
            "config.json and model.safetensors."
        ) from error


def _config_modality(config: Any) -> ModalityName:
    return "image" if hasattr(config, "image_size") and hasattr(config, "patch_size") else "sequence"


def _keep_layers(config: Any, base: str, layers: int) -> None:
    """Make ``config`` shallower; ``from_pretrained`` then reads the layers that are left."""
    depths = getattr(config, "depths", None)
    depth = sum(depths) if depths else config.num_hidden_layers
    if layers > depth:
        raise UserError(f"body {base!r} has {depth} layers, {layers} were asked for")
    if depths:
        config.depths = shallower(depths, layers)
        return
    config.num_hidden_layers = layers
    if getattr(config, "layer_types", None):
        config.layer_types = list(config.layer_types)[:layers]


def _read_weights(source: Any, base: str, config: Any) -> Any:
    from transformers import AutoModel

    try:
        model, report = AutoModel.from_pretrained(source, config=config, dtype=torch.float32, output_loading_info=True)
    except Exception as error:  # safetensors, pickle, OS and hub errors alike
        raise UserError(f"cannot read the weights of body {base!r}: {_first_line(error)}") from error
    missing = [key for key in report["missing_keys"] if not key.startswith("pooler.")]
    mismatched = [str(key) for key in report["mismatched_keys"]]
    if missing or mismatched:
        wrong = sorted(missing + mismatched)
        raise UserError(
            f"the weights of body {base!r} do not fit its configuration: {len(wrong)} tensors are missing or have "
            f"another shape, e.g. {wrong[0]}. A body with random parts is never called pretrained."
        )
    return model


def _first_line(error: Exception) -> str:
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__


@contextlib.contextmanager
def _quiet_transformers() -> Iterator[None]:
    """No progress bars and no warnings about the layers and heads left out on purpose."""
    from transformers.utils import logging as transformers_logging

    level, bars = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(level)
        if bars:
            transformers_logging.enable_progress_bar()
