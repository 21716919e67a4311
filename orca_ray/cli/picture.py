"""A picture of samples of a prepared task, drawn by Pillow.

It shows photographs, curves, spectrograms, physical fields and contact maps.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from orca_ray.data.prepared import PreparedData, Split
from orca_ray.data.rows import Array
from orca_ray.tasks.task import Task

Pixels = npt.NDArray[np.uint8]
"""Colours [height, width, 3], red, green and blue from 0 to 255."""
Colour = tuple[int, int, int]

NUM_SAMPLES = 9
"""Number of samples in a picture."""
_MAX_COLUMNS = 3
"""Largest number of samples side by side."""
_MAX_CHANNELS = 4
"""Largest number of channels of a sample that are drawn."""
_MAX_STEPS = 1000
"""Largest number of steps of a sequence that are drawn as a colour map."""
_SIDE = 200
"""Longer side of a panel, in pixels."""
_CURVE_HEIGHT = 120
"""Height of a plot of curves, in pixels; its width is twice `_SIDE`."""
_GAP = 12
"""Space between samples, in pixels."""
_PANEL_GAP = 4
"""Space between the panels of a sample, in pixels."""
_LINE = 18
"""Height of a line of text, in pixels."""
_MAX_WIDTH = 1300
"""Largest width of a picture, in pixels, if one sample is not wider."""
_SCALE = np.array(
    [(68, 1, 84), (59, 82, 139), (33, 145, 140), (94, 201, 98), (253, 231, 37)],
    dtype=np.float64,
)
"""Colours of the values from low to high.

Lightness rises evenly, so that a picture can be read when it is printed in grey.
"""
_INKS: Sequence[Colour] = ((31, 90, 160), (200, 80, 20), (30, 130, 60), (140, 60, 140))
"""Colour of the curve of each channel."""
_TARGET_INK: Colour = (190, 20, 40)
"""Colour of the curves of a target."""


@dataclass(frozen=True)
class DrawnSample:
    """The panels of a sample, from left to right, and its caption."""

    panels: Sequence[Pixels]
    caption: str

    @property
    def width(self) -> int:
        """Width of the panels, with the space behind each, in pixels."""
        return sum(panel.shape[1] + _PANEL_GAP for panel in self.panels)

    @property
    def height(self) -> int:
        """Height of the highest panel, in pixels."""
        return max(int(panel.shape[0]) for panel in self.panels)


def draw(task: Task, data: PreparedData) -> Image.Image:
    """Return a picture of some training samples with their targets.

    Images with three channels are drawn in colour, images with one channel in grey. Of
    other 2-D inputs, at most the last four channels are drawn, on a colour scale;
    spectrograms have low frequencies at the bottom. Sequences are drawn as curves or,
    if they are one-hot or have more than four channels and the target is not dense, as
    a colour map. A dense target is drawn next to a 2-D input, or as red curves in the
    plot of a sequence.
    """
    split = data.train
    samples = [
        _draw_sample(task, split, index) for index in _chosen_indices(task, split)
    ]
    shape = "×".join(map(str, task.input_shape or ()))
    title = f"{task.name}: {task.title}; input {shape}, training samples"
    return _arrange_samples(samples, title)


def _chosen_indices(task: Task, split: Split) -> list[int]:
    """Return the indices of the samples to draw.

    They are one sample of each of the first `NUM_SAMPLES` classes if there are so many
    classes, else evenly spaced samples.
    """
    if task.target.kind == "classes":
        _, first = np.unique(split.y, return_index=True)
        if len(first) >= NUM_SAMPLES:
            return [int(index) for index in first[:NUM_SAMPLES]]
    spaced = np.linspace(0, len(split) - 1, min(NUM_SAMPLES, len(split)))
    return sorted({int(index) for index in spaced})


def _draw_sample(task: Task, split: Split, index: int) -> DrawnSample:
    """Draw the sample at ``index`` of a split, with its target and a caption."""
    rows = slice(index, index + 1)
    x = np.nan_to_num(split.x[rows][0]).astype(np.float64)
    y = np.asarray(split.y[rows][0])
    target = None
    if task.target.kind == "dense":
        target = np.nan_to_num(y).astype(np.float64)
    if x.ndim == 2:
        panels = [_sequence_panel(x, target)]
    else:
        panels = _image_panels(x, task.domain)
        if target is not None:
            panels += _image_panels(_as_image(target), domain="")
    return DrawnSample(panels, _caption(task, y))


def _as_image(target: Array) -> Array:
    """Return a dense target as an image [C, H, W]."""
    if target.ndim == 3:
        return target
    plane = np.atleast_2d(target)
    return plane.reshape(1, len(plane), -1)


def _caption(task: Task, y: Array) -> str:
    """Return the caption of a sample, which says what its target ``y`` is."""
    match task.target.kind:
        case "classes":
            return f"class {int(y)}"
        case "labels":
            labels = np.flatnonzero(y > 0)
            if not len(labels):
                return "labels none"
            ending = " …" if len(labels) > 6 else ""
            return f"labels {', '.join(map(str, labels[:6]))}{ending}"
        case "scalar":
            return f"target {float(y):.4g}"
    return "input and target"


def _image_panels(x: Array, domain: str) -> list[Pixels]:
    """Return the panels of x [C, H, W]: one per channel, or one in colour."""
    is_image = "image" in domain
    if is_image and len(x) == 3:
        return [_resized(_unit(x).transpose(1, 2, 0) * 255.0)]
    channels = x[-_MAX_CHANNELS:]
    if "audio" in domain or "spectrogram" in domain:
        channels = channels[:, ::-1]  # low frequencies at the bottom
    if is_image and len(x) == 1:
        return [_resized(_grey(channel)) for channel in channels]
    return [_resized(_coloured(channel)) for channel in channels]


def _sequence_panel(x: Array, target: Array | None) -> Pixels:
    """Return the panel of x [C, L] and its target: curves, or a map with C rows."""
    if target is None:  # a map of colours has no room for the curves of a target
        is_one_hot = len(x) > 1 and bool(np.isin(x, (0.0, 1.0)).all())
        if is_one_hot or len(x) > _MAX_CHANNELS:
            return _resized(_coloured(x[:, :_MAX_STEPS]), stretch=True)
    curves = list(zip(x, _INKS, strict=False))
    if target is not None:
        rows = target.reshape(-1, target.shape[-1])[:_MAX_CHANNELS]
        curves += [(row, _TARGET_INK) for row in rows]
    return _plot(curves)


def _plot(curves: Sequence[tuple[Array, Colour]]) -> Pixels:
    """Return a plot of curves [L], each with its colour, on a common scale."""
    width = 2 * _SIDE
    height = _CURVE_HEIGHT
    image = Image.new("RGB", (width, height), "white")
    pen = ImageDraw.Draw(image)
    pen.rectangle((0, 0, width - 1, height - 1), outline=(200, 200, 200))
    low = min(float(curve.min()) for curve, _ in curves)
    high = max(float(curve.max()) for curve, _ in curves)
    span = _span(low, high)
    for curve, ink in curves:
        # A few pixels at the edges are left free. The y axis of an image points down.
        across = np.linspace(2, width - 3, len(curve))
        up = (height - 4) - (curve - low) / span * (height - 8)
        points = np.stack([across, up], axis=1).ravel().tolist()
        if len(curve) == 1:  # a line needs two points
            points = points * 2
        pen.line(points, fill=ink)
    return np.asarray(image)


def _span(low: float, high: float) -> float:
    """Return the length of a range of values; 1 if all are equal."""
    if high == low:
        return 1.0
    return high - low


def _unit(values: Array) -> Array:
    """Return values scaled to [0, 1]."""
    low = float(values.min())
    return (values - low) / _span(low, float(values.max()))


def _grey(values: Array) -> Array:
    """Return the shades of grey [H, W, 3], from 0 to 255, of values [H, W]."""
    return np.repeat(_unit(values)[:, :, None] * 255.0, 3, axis=2)


def _coloured(values: Array) -> Array:
    """Return the colours [H, W, 3], from 0 to 255, of values [H, W]."""
    steps = np.linspace(0.0, 1.0, len(_SCALE))
    unit = _unit(values)
    return np.stack([np.interp(unit, steps, channel) for channel in _SCALE.T], axis=-1)


def _resized(pixels: Array, *, stretch: bool = False) -> Pixels:
    """Resize pixels [H, W, 3] to a panel, small ones without blur.

    ``stretch`` gives the panel the shape of a plot.
    """
    height, width = pixels.shape[:2]
    longer = max(height, width)
    size = (2 * _SIDE, _CURVE_HEIGHT)
    if not stretch:
        scale = _SIDE / longer
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
    image = Image.fromarray(pixels.round().clip(0, 255).astype(np.uint8))
    method = Image.Resampling.BOX if longer > _SIDE else Image.Resampling.NEAREST
    return np.asarray(image.resize(size, method))


def _arrange_samples(samples: Sequence[DrawnSample], title: str) -> Image.Image:
    """Return a picture with a title, and the samples in a grid."""
    font = ImageFont.load_default(size=12)
    title = _ascii(title)
    cell_width = max(sample.width for sample in samples) + _GAP
    cell_height = max(sample.height for sample in samples) + _LINE + _GAP
    num_columns = max(1, min(_MAX_COLUMNS, len(samples), _MAX_WIDTH // cell_width))
    num_rows = math.ceil(len(samples) / num_columns)
    width = max(
        num_columns * cell_width + _GAP, round(font.getlength(title)) + 2 * _GAP
    )
    height = num_rows * cell_height + _LINE + 2 * _GAP
    canvas = Image.new("RGB", (width, height), "white")
    pen = ImageDraw.Draw(canvas)
    pen.text((_GAP, _GAP // 2), title, fill="black", font=font)
    for number, sample in enumerate(samples):
        row, column = divmod(number, num_columns)
        left = _GAP + column * cell_width
        top = _LINE + _GAP + row * cell_height
        pen.text((left, top), _ascii(sample.caption), fill=(80, 80, 80), font=font)
        for panel in sample.panels:
            canvas.paste(Image.fromarray(panel), (left, top + _LINE))
            left += panel.shape[1] + _PANEL_GAP
    return canvas


def _ascii(text: str) -> str:
    """Replace characters that are missing in the font that Pillow contains."""
    replaced = text.replace("×", "x").replace("–", "-").replace("…", "...")
    return replaced.encode("ascii", "replace").decode()
