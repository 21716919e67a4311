"""Stand-ins for NumPy's types and arrays: they check the content of a pickle and build the array at the end.

NumPy's own ``__setstate__`` follows raw bytes as pointers if a file only claims a type that holds objects.
"""

import math
import re
import reprlib
from collections.abc import Callable, Iterable
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Charge = Callable[[int], None]
"""Counts bytes that are created and not read; raises NotPlain when they are too many."""

_TYPE_CODES = re.compile(r"\??|b1|[iu][1248]|f(2|4|8|12|16)|c(8|16|24|32)|[SU]\d{1,9}|O[48]?")
_MAX_AXES = 64
_LAST_CHARACTER = 0x10FFFF


class NotPlain(Exception):
    """A pickle holds something that is not a plain value or not a possible array; the message describes it."""


class PickledType:
    """A NumPy type: a code, and a byte order in its state."""

    __slots__ = ("dtype",)

    def __init__(self, code: object, *_: object) -> None:
        text = _text(code)
        if not isinstance(text, str) or not text or not _TYPE_CODES.fullmatch(text):
            raise NotPlain(
                f"it has an array of type {reprlib.repr(text)}; expected booleans, numbers, text of fixed length or "
                "objects"
            )
        self.dtype: np.dtype[Any] = np.dtype("O" if text.startswith("O") else text)

    def set_state(self, state: object) -> None:
        """Set the byte order; types with fields are refused."""
        if not isinstance(state, tuple) or len(state) < 5 or any(each is not None for each in state[2:5]):
            raise NotPlain(f"it has an array type with fields: {reprlib.repr(state)}")
        order = _text(state[1])
        if order not in ("<", ">", "|", "="):
            raise NotPlain(f"it has an array type of byte order {reprlib.repr(order)}")
        if order in "<>":
            self.dtype = self.dtype.newbyteorder(order)  # type: ignore[arg-type]


class PickledArray:
    """An array whose state the pickle sets later."""

    __slots__ = ("_charge", "_content", "_dtype", "_order", "_shape")

    def __init__(self, charge: Charge) -> None:
        self._charge = charge
        self._content: list[Any] | Array | None = None

    def set_state(self, state: object, axes: tuple[int, ...] | None = None) -> None:
        """Check and store the content, whose axes are then permuted to ``axes``."""
        if not isinstance(state, tuple) or len(state) != 5 or self._content is not None:
            raise NotPlain("it has an array whose state is not what numpy writes")
        _, self._shape, dtype, fortran, content = state
        self._dtype = _checked_type(dtype)
        self._order: Literal["C", "F"] = "F" if fortran else "C"
        if self._dtype.hasobject:
            if type(content) is not list or len(content) != _num_items(self._shape):
                raise NotPlain(f"it has an array of objects of shape {self._shape} whose items are not as many")
            self._charge(len(content))
            self._content = content
            return
        if isinstance(content, str):  # bytes of a Python 2 pickle
            self._charge(len(content))
            content = content.encode("latin1")
        self._content = _from_bytes(content, self._dtype, self._shape, self._order, self._charge)
        if axes is not None:
            self._content = self._content.transpose(axes)

    def settled(self, settle_all: Callable[[Iterable[Any]], list[Any]]) -> Array:
        """Return the array; ``settle_all`` settles the items of an array of objects."""
        if self._content is None:
            raise NotPlain("it has an array without a state")
        if isinstance(self._content, np.ndarray):
            return self._content
        flat = np.empty(len(self._content), dtype=object)
        for index, item in enumerate(settle_all(self._content)):
            flat[index] = item
        return flat.reshape(self._shape, order=self._order)


def array_from_buffer(charge: Charge) -> Callable[..., PickledArray]:
    """Return the stand-in for NumPy's ``_frombuffer``, which restores the contiguous arrays of protocol 5."""

    def make(content: object, dtype: object, shape: object, order: object, axes: object = None) -> PickledArray:
        if order not in ("C", "F", "K"):
            raise NotPlain(f"it has an array of memory order {reprlib.repr(order)}")
        permutation = axes if order == "K" else None
        if permutation is not None and not (isinstance(axes, tuple) and sorted(axes) == list(range(len(axes)))):
            raise NotPlain("it has an array whose axes are no permutation")
        array = PickledArray(charge)
        array.set_state((1, shape, dtype, order == "F", content), permutation)  # type: ignore[arg-type]
        return array

    return make


def scalar(charge: Charge) -> Callable[..., Any]:
    """Return the stand-in for NumPy's ``scalar``: one number or text from its bytes."""

    def make(dtype: object, content: object = None) -> Any:
        checked = _checked_type(dtype)
        if checked.hasobject:
            raise NotPlain("it has a numpy scalar that holds an object")
        charge(checked.itemsize)
        raw = content.encode("latin1") if isinstance(content, str) else content
        return _from_bytes(raw, checked, (), "C", charge)[()]

    return make


def _text(value: object) -> object:
    return value.decode("latin1") if isinstance(value, bytes) else value


def _checked_type(dtype: object) -> np.dtype[Any]:
    if not isinstance(dtype, PickledType):
        raise NotPlain("it has an array without a type")
    return dtype.dtype


def _num_items(shape: object) -> int:
    whole = isinstance(shape, tuple) and all(type(size) is int and 0 <= size < 2**62 for size in shape)
    if not isinstance(shape, tuple) or not whole or len(shape) > _MAX_AXES:
        raise NotPlain(f"it has an array of the impossible shape {reprlib.repr(shape)}")
    return math.prod(shape)


def _from_bytes(content: object, dtype: np.dtype[Any], shape: Any, order: Literal["C", "F"], charge: Charge) -> Array:
    """Build an array over bytes without a copy; impossible values are refused or corrected."""
    expected = _num_items(shape) * dtype.itemsize
    found = len(content) if isinstance(content, bytes | bytearray) else type(content).__name__
    if not isinstance(content, bytes | bytearray) or found != expected:
        raise NotPlain(f"it has an array {dtype.name} of shape {shape}: expected {expected} bytes, found {found}")
    if not dtype.itemsize:  # empty texts, whose number is not backed by bytes of the file
        charge(math.prod(shape))
    array: Array = np.ndarray(shape, dtype, buffer=content, order=order)
    if dtype.kind == "b":  # a true that is not 1 would count as more than one in sums
        charge(len(content))
        return np.asarray(array.view(np.uint8) != 0)
    if dtype.kind == "U" and content:
        points = np.frombuffer(content, np.dtype("u4").newbyteorder(dtype.byteorder))
        if points.max() > _LAST_CHARACTER:
            raise NotPlain("it has text with impossible characters")
    if not dtype.isnative:
        charge(len(content))
        array = array.astype(dtype.newbyteorder("="))
    return array
