"""Artefacts: small pictures of what a trained model does, stored as numbers.

This module defines the format of their payloads. An artefact belongs to one trial. It
has a kind such as ``confusion_matrix``, a name that is unique in its kind, and a
payload, a JSON object. The payload's ``form`` says how it is drawn (`FORMS`), so a new
kind with one of these forms needs no new drawing code. A payload has the fields of its
form's class; nested classes are objects::

    {"form": "images", "title": "Test sample 0", "caption": "", "panels": [{"title":
    "true", "scale": "sequential",
     "values": {"shape": [2, 2], "low": 0.0, "high": 1.0, "data": "AFWq/w=="}}]}

Large arrays are `Quantised` to 8 bits: ``data`` is the base64 of one byte a value,
row-major, and a byte ``b`` means ``low + (high - low) * b / 255``. ``low`` and ``high``
are also the ends of the axis or colours, which panels share.
"""

import base64
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Literal, Self

import numpy as np
import numpy.typing as npt

from orca_ray.results.record import StoredRow, stored

MAX_BYTES = 64 * 2**10
"""Largest size of a payload in bytes."""
MAX_TRIAL_BYTES = 256 * 2**10
"""Largest total size of the payloads of one trial in bytes."""

Scale = Literal["sequential", "diverging", "grey", "colour"]
"""Colours of an image.

``diverging``: 0 is the middle. ``colour``: values [H, W, 3] are red, green and blue.
"""


@dataclass(frozen=True)
class Quantised:
    """An array of any shape, rounded to 256 evenly spaced values."""

    shape: tuple[int, ...]
    low: float
    high: float
    data: str

    @classmethod
    def encode(
        cls, values: npt.ArrayLike, low: float | None = None, high: float | None = None
    ) -> Self:
        """Quantise finite values; values outside of ``low`` and ``high`` are clipped.

        By default, ``low`` and ``high`` are the extremes of ``values``. Raises
        ValueError if ``values`` is empty or has a value that is not finite.
        """
        array = np.asarray(values, dtype=np.float64)
        if not array.size or not np.isfinite(array).all():
            raise ValueError(
                "a picture needs finite values, and some; got an array of shape"
                f" {array.shape}"
            )
        low = float(array.min() if low is None else low)
        high = float(array.max() if high is None else high)
        span = high - low
        if span == 0:
            span = 1.0  # all values are equal: they become 0
        # One byte per value: 0 stands for ``low``, 255 for ``high``.
        steps = np.rint((array - low) / span * 255).clip(0, 255).astype(np.uint8)
        return cls(array.shape, low, high, base64.b64encode(steps.tobytes()).decode())

    def decode(self) -> npt.NDArray[np.float64]:
        """Return the rounded values as float64, in the shape of the encoded array."""
        steps = np.frombuffer(base64.b64decode(self.data), np.uint8).reshape(self.shape)
        return np.asarray(
            self.low + (self.high - self.low) * steps / 255.0, dtype=np.float64
        )


@dataclass(frozen=True, kw_only=True)
class Picture:
    """Base class of payloads of artefacts, with the fields that every payload has."""

    title: str
    caption: str = ""
    """One or two sentences, such as the true and the predicted class; "": none."""
    form: ClassVar[str]

    def to_json(self) -> str:
        """Return the payload as JSON text.

        Raises ValueError if a number is not finite.
        """
        return json.dumps(
            {"form": self.form, **asdict(self)}, separators=(",", ":"), allow_nan=False
        )


@dataclass(frozen=True)
class Image:
    """One panel of `Images`."""

    title: str
    values: Quantised
    """[H, W], or [H, W, 3] for the scale ``colour``; the first row is drawn at the top.
    """
    scale: Scale = "sequential"


@dataclass(frozen=True, kw_only=True)
class Images(Picture):
    """Payload: images side by side."""

    panels: tuple[Image, ...]
    form: ClassVar[str] = "images"


@dataclass(frozen=True)
class Series:
    """One line of `Lines`."""

    title: str
    values: Quantised
    """[L]; ``low`` and ``high`` need not be those of other series of the plot."""


@dataclass(frozen=True, kw_only=True)
class Lines(Picture):
    """Payload: lines over the positions 0, 1, …, in one plot."""

    x: str
    """Title of the horizontal axis."""
    series: tuple[Series, ...]
    form: ClassVar[str] = "lines"


@dataclass(frozen=True)
class Group:
    """The points of one kind in a scatter plot, such as the samples of the source."""

    title: str
    x: Quantised
    y: Quantised
    """``x`` and ``y`` have shape [n], for n points."""
    classes: tuple[int, ...] | None = None
    """Class of each point, which may be shown by colour; None: there are no classes."""


@dataclass(frozen=True)
class Plot:
    """One scatter plot of `Points`."""

    title: str
    groups: tuple[Group, ...]


@dataclass(frozen=True, kw_only=True)
class Points(Picture):
    """Payload: scatter plots with the same axes, side by side."""

    x: str
    y: str
    """``x`` and ``y`` are the titles of the axes."""
    panels: tuple[Plot, ...]
    diagonal: bool = False
    """Whether the line x = y is drawn, and both axes have the same range."""
    form: ClassVar[str] = "points"


@dataclass(frozen=True, kw_only=True)
class Matrix(Picture):
    """Payload: a table of counts, drawn as a heat map.

    Rows and columns are numbered from 0.
    """

    rows: str
    columns: str
    """What the rows and the columns are, e.g. "true class"."""
    counts: tuple[tuple[int, ...], ...]
    form: ClassVar[str] = "matrix"


@dataclass(frozen=True)
class BarSeries:
    """Bars of one colour in `Bars`: one value for each item.

    A value is None if it is not defined for the item.
    """

    title: str
    values: tuple[float | None, ...]


@dataclass(frozen=True, kw_only=True)
class Bars(Picture):
    """Payload: one or more values (bars) of each of several items, such as labels.

    Items are numbered from 0.
    """

    x: str
    """What the items are, e.g. "label"."""
    series: tuple[BarSeries, ...]
    form: ClassVar[str] = "bars"


FORMS: Mapping[str, type[Picture]] = {
    picture.form: picture for picture in (Images, Lines, Points, Matrix, Bars)
}
"""Class of the payloads of each form."""


@dataclass(frozen=True)
class Artefact:
    """An artefact in a worker's report of a trial; ``payload`` is JSON text."""

    kind: str
    name: str
    payload: str

    def __post_init__(self) -> None:
        if len(self.payload) > MAX_BYTES:  # payloads are ASCII
            raise ValueError(
                f"the {self.kind} {self.name!r} has {len(self.payload)} bytes, more"
                f" than {MAX_BYTES}"
            )


@stored
@dataclass(frozen=True)
class ArtefactRow(StoredRow):
    """One row of the table of artefacts."""

    sweep: str
    trial_key: str
    kind: str
    name: str
    payload: str


def within_limits(artefacts: list[Artefact]) -> list[Artefact]:
    """Return the first ``artefacts`` that fit into `MAX_TRIAL_BYTES` together."""
    sizes = np.cumsum([len(artefact.payload) for artefact in artefacts])
    return artefacts[: int(np.searchsorted(sizes, MAX_TRIAL_BYTES, side="right"))]


def rounded(value: float) -> float | None:
    """Return ``value`` with 4 significant digits, for a payload; None if not finite."""
    return float(f"{value:.4g}") if math.isfinite(value) else None


def parse_payload(payload: str) -> dict[str, Any]:
    """Return the JSON text of a payload as a dict.

    Raises ValueError if the text is no JSON object or has an unknown ``form``.
    """
    try:
        content = json.loads(payload)
    except RecursionError as error:
        raise ValueError("the payload of an artefact is nested too deeply") from error
    if not isinstance(content, dict) or content.get("form") not in FORMS:
        raise ValueError(
            f"the payload of an artefact is an object with a form of {', '.join(FORMS)}"
        )
    return content
