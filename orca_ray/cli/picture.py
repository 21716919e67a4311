"""Pictures of samples: photographs, curves, spectrograms, fields and contact maps, drawn with pillow alone."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

if TYPE_CHECKING:
    from PIL.ImageFont import FreeTypeFont
    from PIL.ImageFont import ImageFont as BitmapFont

    from orca_ray.data.prepared import PreparedData, Split
    from orca_ray.tasks.task import Task

Array = npt.NDArray[Any]
Pixels = npt.NDArray[np.uint8]

NUM_SAMPLES = 9
_SIDE = 200
"""Pixels of a panel's longer side."""
_CURVE_HEIGHT = 120
_GAP = 12
_LINE = 18
_MOST_CHANNELS = 4
_WIDEST = 1300

_SCALE = np.array([(68, 1, 84), (59, 82, 139), (33, 145, 140), (94, 201, 98), (253, 231, 37)], dtype=np.float64)
"""From low to high: dark violet, blue, green, yellow. Evenly lighter, so that it also reads without colours."""
_INKS = ((31, 90, 160), (200, 80, 20), (30, 130, 60), (140, 60, 140))
_TARGET_INK = (190, 20, 40)


@dataclass(frozen=True)
class _Sample:
    panels: list[Pixels]
    """Side by side, each [height, width, 3]."""
    caption: str


def draw(task: "Task", data: "PreparedData") -> Image.Image:
    """Draw some training samples with their targets.

    What is drawn is told by modality and shape: inputs of three channels that are photographs in colour; other images,
    spectrograms (low frequencies below) and fields on a colour scale, of many channels the last four; sequences as
    curves, or as a map where they have many channels or are one-hot. Dense targets stand beside their input, curves of
    them in red.
    """
    split = data.train
    samples = [_sample(task, split, index) for index in _chosen(task, split)]
    shape = "×".join(map(str, task.input_shape or ()))
    return _arranged(samples, f"{task.name}: {task.title}; input {shape}, training samples")


def _chosen(task: "Task", split: "Split") -> list[int]:
    """Choose samples of as many classes as can be shown, or evenly spaced ones."""
    if task.target.kind == "classes":
        _, first = np.unique(split.y, return_index=True)
        if len(first) >= NUM_SAMPLES:
            return [int(index) for index in first[:NUM_SAMPLES]]
    num = min(NUM_SAMPLES, len(split))
    return sorted({int(index) for index in np.linspace(0, len(split) - 1, num)})


def _sample(task: "Task", split: "Split", index: int) -> _Sample:
    rows = slice(index, index + 1)
    x, y = np.nan_to_num(split.x[rows][0]).astype(np.float64), np.asarray(split.y[rows][0])
    target = np.nan_to_num(y).astype(np.float64) if task.target.kind == "dense" else None
    if x.ndim == 2:
        panels = [_sequence(x, target)]
    else:
        panels = _image(x, task.modality)
        if target is not None:
            panels += _image(target if target.ndim == 3 else target.reshape(1, *_plane(target)), "")
    return _Sample(panels, _caption(task, y))


def _caption(task: "Task", y: Array) -> str:
    kind = task.target.kind
    if kind == "classes":
        return f"class {int(y)}"
    if kind == "labels":
        found = np.flatnonzero(y > 0)
        return "labels " + (", ".join(map(str, found[:6])) + (" …" if len(found) > 6 else "") or "none")
    if kind == "scalar":
        return f"target {float(y):.4g}"
    return "input and target"


def _image(x: Array, modality: str) -> list[Pixels]:
    """Draw x [C, H, W] as one panel in colour, or one a channel."""
    if len(x) == 3 and "image" in modality:
        return [_sized(_unit(x).transpose(1, 2, 0) * 255.0)]
    shown = x if len(x) <= _MOST_CHANNELS else x[-_MOST_CHANNELS:]
    if "audio" in modality or "spectrogram" in modality:
        shown = shown[:, ::-1]
    grey = "image" in modality and len(x) == 1
    return [_sized(np.repeat(_unit(c)[:, :, None] * 255.0, 3, axis=2) if grey else _coloured(c)) for c in shown]


def _sequence(x: Array, target: Array | None) -> Pixels:
    """Draw x [C, L] as curves, or as a map of C rows."""
    one_hot = len(x) > 1 and bool(np.isin(x, (0.0, 1.0)).all())
    if target is None and (len(x) > _MOST_CHANNELS or one_hot):
        return _sized(_coloured(x[:, :1000]), stretch=True)
    curves = [(x[channel], _INKS[channel % len(_INKS)]) for channel in range(min(len(x), _MOST_CHANNELS))]
    if target is not None:
        curves += [(curve, _TARGET_INK) for curve in target.reshape(-1, target.shape[-1])[:_MOST_CHANNELS]]
    return _curves(curves)


def _curves(curves: Sequence[tuple[Array, tuple[int, int, int]]]) -> Pixels:
    width, height = 2 * _SIDE, _CURVE_HEIGHT
    image = Image.new("RGB", (width, height), "white")
    pen = ImageDraw.Draw(image)
    pen.rectangle((0, 0, width - 1, height - 1), outline=(200, 200, 200))
    low = min(float(curve.min()) for curve, _ in curves)
    high = max(float(curve.max()) for curve, _ in curves)
    for curve, ink in curves:
        across = np.linspace(2, width - 3, len(curve))
        up = (height - 4) - (curve - low) / ((high - low) or 1.0) * (height - 8)
        points = [(float(a), float(b)) for a, b in zip(across, up, strict=True)]
        pen.line(points * 2 if len(points) == 1 else points, fill=ink)
    return np.asarray(image)


def _plane(target: Array) -> tuple[int, int]:
    """Return height and width for a target that is no image: one row for a line, else its first axis by the rest."""
    return (1, target.size) if target.ndim == 1 else (target.shape[0], target.size // target.shape[0])


def _unit(values: Array) -> Array:
    low, high = float(values.min()), float(values.max())
    return (values - low) / ((high - low) or 1.0)


def _coloured(values: Array) -> Array:
    """Return [H, W, 3] on the colour scale for values [H, W]."""
    steps = np.linspace(0.0, 1.0, len(_SCALE))
    return np.stack([np.interp(_unit(values), steps, _SCALE[:, channel]) for channel in range(3)], axis=-1)


def _sized(pixels: Array, *, stretch: bool = False) -> Pixels:
    """Bring pixels [H, W, 3] to a panel's size, small ones enlarged without blur."""
    height, width = pixels.shape[:2]
    if stretch:
        size = (2 * _SIDE, _CURVE_HEIGHT)
    else:
        factor = _SIDE / max(height, width)
        size = (max(1, round(width * factor)), max(1, round(height * factor)))
    smooth = max(height, width) > _SIDE
    image = Image.fromarray(pixels.round().clip(0, 255).astype(np.uint8))
    return np.asarray(image.resize(size, Image.Resampling.BOX if smooth else Image.Resampling.NEAREST))


def _arranged(samples: Sequence[_Sample], title: str) -> Image.Image:
    """Lay samples out in rows below a title, each over its caption."""
    font = _font()
    widths = [sum(panel.shape[1] + 4 for panel in sample.panels) for sample in samples]
    cell = max(widths) + _GAP
    tall = max(panel.shape[0] for sample in samples for panel in sample.panels) + _LINE + _GAP
    columns = max(1, min(3, len(samples), _WIDEST // cell))
    rows = -(-len(samples) // columns)
    width = max(columns * cell + _GAP, round(font.getlength(_ascii(title))) + 2 * _GAP)
    canvas = Image.new("RGB", (width, rows * tall + _LINE + 2 * _GAP), "white")
    pen = ImageDraw.Draw(canvas)
    pen.text((_GAP, _GAP // 2), _ascii(title), fill="black", font=font)
    for number, sample in enumerate(samples):
        left, top = _GAP + number % columns * cell, _LINE + _GAP + number // columns * tall
        pen.text((left, top), _ascii(sample.caption), fill=(80, 80, 80), font=font)
        for panel in sample.panels:
            canvas.paste(Image.fromarray(panel), (left, top + _LINE))
            left += panel.shape[1] + 4
    return canvas


def _ascii(text: str) -> str:
    """Return what pillow's own font can write."""
    replaced = text.replace("×", "x").replace("–", "-").replace("…", "...")
    return replaced.encode("ascii", "replace").decode()


def _font() -> "FreeTypeFont | BitmapFont":
    return ImageFont.load_default(size=12)
