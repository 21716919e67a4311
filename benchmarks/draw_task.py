"""Draws samples of a prepared task with Pillow: photographs, curves, spectrograms,
physical fields and contact maps.

``python -m benchmarks.draw_task pocket/digits digits.png``
"""

import sys
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from orca_ray.data.prepared import PreparedData, Split
from orca_ray.data.rows import Array
from orca_ray.tasks.registry import get_task
from orca_ray.tasks.task import Task

Pixels = npt.NDArray[np.uint8]

NUM_SAMPLES = 9
_MAX_CHANNELS = 4
"""Largest number of channels of a sample that are drawn."""
_SIDE = 200
_CURVE_HEIGHT = 120
_GAP = 12
_LINE = 18
_MAX_WIDTH = 1300
"""Pixels: longer side of a panel, height of curves, gap between samples, height of a
text line, largest total width.
"""

_SCALE = np.array(
    [(68, 1, 84), (59, 82, 139), (33, 145, 140), (94, 201, 98), (253, 231, 37)],
    dtype=np.float64,
)
"""Colour scale (RGB) from low to high values; lightness rises evenly, so that it can be
read when printed in grey.
"""
_INKS = ((31, 90, 160), (200, 80, 20), (30, 130, 60), (140, 60, 140))
_TARGET_INK = (190, 20, 40)


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
    samples = [_sample(task, split, index) for index in _chosen(task, split)]
    shape = "×".join(map(str, task.input_shape or ()))
    return _arranged(
        samples, f"{task.name}: {task.title}; input {shape}, training samples"
    )


def _chosen(task: Task, split: Split) -> list[int]:
    """Return the indices of samples to draw: one for each of the first classes, else
    evenly spaced ones.
    """
    if task.target.kind == "classes":
        _, first = np.unique(split.y, return_index=True)
        if len(first) >= NUM_SAMPLES:
            return [int(index) for index in first[:NUM_SAMPLES]]
    return sorted(
        {
            int(index)
            for index in np.linspace(0, len(split) - 1, min(NUM_SAMPLES, len(split)))
        }
    )


def _sample(task: Task, split: Split, index: int) -> tuple[list[Pixels], str]:
    """Return the panels [height, width, 3] of a sample, from left to right, and its
    caption.
    """
    rows = slice(index, index + 1)
    x = np.nan_to_num(split.x[rows][0]).astype(np.float64)
    y = np.asarray(split.y[rows][0])
    target = (
        np.nan_to_num(y).astype(np.float64) if task.target.kind == "dense" else None
    )
    panels = [_sequence(x, target)] if x.ndim == 2 else _image(x, task.domain)
    if x.ndim > 2 and target is not None:
        plane = np.atleast_2d(target)
        panels += _image(
            target if target.ndim == 3 else plane.reshape(1, len(plane), -1), ""
        )
    return panels, _caption(task, y)


def _caption(task: Task, y: Array) -> str:
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


def _image(x: Array, domain: str) -> list[Pixels]:
    """Return the panels of x [C, H, W]: a single one for a colour image, else one per
    channel.
    """
    if len(x) == 3 and "image" in domain:
        return [_sized(_unit(x).transpose(1, 2, 0) * 255.0)]
    shown = x if len(x) <= _MAX_CHANNELS else x[-_MAX_CHANNELS:]
    if "audio" in domain or "spectrogram" in domain:
        shown = shown[:, ::-1]
    grey = "image" in domain and len(x) == 1
    return [
        _sized(
            np.repeat(_unit(c)[:, :, None] * 255.0, 3, axis=2) if grey else _coloured(c)
        )
        for c in shown
    ]


def _sequence(x: Array, target: Array | None) -> Pixels:
    """Return the panel of x [C, L] and its target: a plot of curves, or a colour map
    with C rows.
    """
    one_hot = len(x) > 1 and bool(np.isin(x, (0.0, 1.0)).all())
    if target is None and (len(x) > _MAX_CHANNELS or one_hot):
        return _sized(_coloured(x[:, :1000]), stretch=True)
    curves = list(zip(x, _INKS, strict=False))
    if target is not None:
        curves += [
            (curve, _TARGET_INK)
            for curve in target.reshape(-1, target.shape[-1])[:_MAX_CHANNELS]
        ]
    return _curves(curves)


def _curves(curves: Sequence[tuple[Array, tuple[int, int, int]]]) -> Pixels:
    width = 2 * _SIDE
    height = _CURVE_HEIGHT
    image = Image.new("RGB", (width, height), "white")
    pen = ImageDraw.Draw(image)
    pen.rectangle((0, 0, width - 1, height - 1), outline=(200, 200, 200))
    low = min(float(curve.min()) for curve, _ in curves)
    high = max(float(curve.max()) for curve, _ in curves)
    for curve, ink in curves:
        across = np.linspace(2, width - 3, len(curve))
        up = (height - 4) - (curve - low) / ((high - low) or 1.0) * (height - 8)
        points = np.stack([across, up], axis=1).ravel().tolist()
        pen.line(points * 2 if len(curve) == 1 else points, fill=ink)
    return np.asarray(image)


def _unit(values: Array) -> Array:
    low = float(values.min())
    high = float(values.max())
    return (values - low) / ((high - low) or 1.0)


def _coloured(values: Array) -> Array:
    """Return the colours [H, W, 3], from 0 to 255, of values [H, W]."""
    steps = np.linspace(0.0, 1.0, len(_SCALE))
    return np.stack(
        [np.interp(_unit(values), steps, channel) for channel in _SCALE.T], axis=-1
    )


def _sized(pixels: Array, *, stretch: bool = False) -> Pixels:
    """Resize pixels [H, W, 3] to a panel, small ones without blur; ``stretch`` gives it
    the shape of a plot.
    """
    longer = max(pixels.shape[:2])
    width, height = (
        max(1, round(side * _SIDE / longer)) for side in pixels.shape[1::-1]
    )
    size = (2 * _SIDE, _CURVE_HEIGHT) if stretch else (width, height)
    image = Image.fromarray(pixels.round().clip(0, 255).astype(np.uint8))
    return np.asarray(
        image.resize(
            size, Image.Resampling.BOX if longer > _SIDE else Image.Resampling.NEAREST
        )
    )


def _arranged(samples: Sequence[tuple[list[Pixels], str]], title: str) -> Image.Image:
    font = ImageFont.load_default(size=12)
    cell = (
        max(sum(panel.shape[1] + 4 for panel in panels) for panels, _ in samples) + _GAP
    )
    tall = (
        max(panel.shape[0] for panels, _ in samples for panel in panels) + _LINE + _GAP
    )
    columns = max(1, min(3, len(samples), _MAX_WIDTH // cell))
    rows = -(-len(samples) // columns)
    width = max(columns * cell + _GAP, round(font.getlength(_ascii(title))) + 2 * _GAP)
    canvas = Image.new("RGB", (width, rows * tall + _LINE + 2 * _GAP), "white")
    pen = ImageDraw.Draw(canvas)
    pen.text((_GAP, _GAP // 2), _ascii(title), fill="black", font=font)
    for number, (panels, caption) in enumerate(samples):
        left = _GAP + number % columns * cell
        top = _LINE + _GAP + number // columns * tall
        pen.text((left, top), _ascii(caption), fill=(80, 80, 80), font=font)
        for panel in panels:
            canvas.paste(Image.fromarray(panel), (left, top + _LINE))
            left += panel.shape[1] + 4
    return canvas


def _ascii(text: str) -> str:
    """Replace characters that are missing in the font that Pillow contains."""
    replaced = text.replace("×", "x").replace("–", "-").replace("…", "...")
    return replaced.encode("ascii", "replace").decode()


def main(name: str, path: str) -> None:
    task = get_task(name)
    data = task.prepared()
    if data is None:
        raise SystemExit(
            f"{name} is not prepared: run 'orca-sweep data prepare {name}'"
        )
    draw(task.resolved(data), data).save(path, format="PNG")


if __name__ == "__main__":
    main(*sys.argv[1:])
